//! The zones of a disk, as the kernel tells of them and as it is told to change them.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use zvb_wire::{Condition, Sector};
use zvb_zones::{Geometry, Snapshot, ZoneId};

use super::report::state_of;
use crate::sys::{self, RawZone, ZoneCall};

/// A disk's zones.
pub(super) trait Zoned: fmt::Debug + Send + Sync {
    /// Tells of the zones from the one at `sector` on, of `most` at most.
    fn report(&self, sector: u64, most: usize) -> io::Result<Vec<RawZone>>;

    /// Does `call` to the zones in `sectors` sectors from `sector` on.
    fn manage(&self, call: ZoneCall, sector: u64, sectors: u64) -> io::Result<()>;
}

impl Zoned for File {
    fn report(&self, sector: u64, most: usize) -> io::Result<Vec<RawZone>> {
        sys::report(self.as_fd(), sector, most)
    }

    fn manage(&self, call: ZoneCall, sector: u64, sectors: u64) -> io::Result<()> {
        sys::manage(self.as_fd(), call, sector, sectors)
    }
}

/// How `zone` is; `None` when the disk does not say, or nothing that makes sense.
pub(super) fn ask(zones: &dyn Zoned, geometry: &Geometry, zone: ZoneId) -> Option<Snapshot> {
    let told = zones.report(geometry.start(zone).0, 1).ok()?;
    state_of(geometry, zone, told.first()?).ok()
}

/// True for a state that zones have on NVMe disks only: closed, and nothing is written.
pub(super) fn is_closed_and_blank(state: Snapshot) -> bool {
    state == Snapshot::new(Condition::Closed, Sector::ZERO)
}

/// How a zone in `state` is closed. By our rules, and by those of ZBC, a zone in which nothing is written is
/// empty then; on an NVMe disk it would be closed, and take a place among the active zones. What makes it empty
/// everywhere is a reset, which has nothing to lose.
pub(super) fn closing_call(state: Snapshot) -> ZoneCall {
    let blank = state.condition().is_active() && state.written() == Sector::ZERO;
    if blank { ZoneCall::Reset } else { ZoneCall::Close }
}

/// Brings the zones, in `states`, into those in which our rules begin: none is open, and none is closed in which
/// nothing is written.
pub(super) fn settle(
    zones: &dyn Zoned,
    geometry: &Geometry,
    states: &mut [Snapshot],
) -> io::Result<()> {
    for (zone, state) in geometry.zones().zip(states) {
        if state.condition().is_open() || is_closed_and_blank(*state) {
            let (start, len) = (geometry.start(zone), geometry.len(zone));
            zones.manage(closing_call(*state), start.0, len.0)?;
            *state = ask(zones, geometry, zone).unwrap_or(*state);
        }
    }
    Ok(())
}
