//! A host's disk, open: what is done to its zones, and what is known of them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;
use zvb_wire::{Condition, Sector, ZoneType};
use zvb_zones::{Geometry, Manage, Snapshot, ZoneId};

use super::gate::Gates;
use super::native::Native;
use super::zoned::{self, Zoned, ask, closing_call};
use crate::sys::ZoneCall;
use crate::volume::{Command, Failure, Shape};

/// An open disk.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) file: Arc<File>,
    /// How its zones are asked about and changed: through the file.
    zones: Arc<dyn Zoned>,
    pub(super) shape: Shape,
    /// The way of writes to sequential zones, if not through the file.
    pub(super) native: Option<Native>,
    pub(super) gates: Gates,
    /// Zones that are open on the disk.
    open: Box<[AtomicBool]>,
    /// Zones that our rules have closed to make room, and that are still open on the disk.
    closing: Mutex<Vec<ZoneId>>,
    any_closing: AtomicBool,
}

impl Disk {
    /// The disk `file` with `zones`, which are in `states`, none of them open.
    pub(super) fn new(
        file: Arc<File>,
        zones: Arc<dyn Zoned>,
        shape: Shape,
        states: &[Snapshot],
    ) -> Self {
        let ends = states.iter().map(|state| state.written().0 as u32);
        Self {
            file,
            zones,
            shape,
            native: None,
            gates: Gates::new(ends),
            open: states.iter().map(|_| AtomicBool::new(false)).collect(),
            closing: Mutex::default(),
            any_closing: AtomicBool::new(false),
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The zone that the byte `at` is in, if it is written at its pointer only, and how far into it the
    /// byte is, in sectors.
    pub(super) fn sequential(&self, at: u64) -> Option<(ZoneId, u32)> {
        let geometry = self.shape.geometry.as_ref()?;
        let sector = Sector(at / zvb_wire::SECTOR_BYTES);
        let zone = geometry.zone_of(sector)?;
        let inside = sector.0.saturating_sub(geometry.start(zone).0);
        (geometry.zone_type(zone) == ZoneType::SequentialRequired)
            .then_some((zone, u32::try_from(inside).ok()?))
    }

    /// A write is about to begin in `zone`, which opens it.
    pub(super) fn opens(&self, zone: ZoneId) {
        self.close_pending();
        self.set_open(zone, true);
    }

    /// A write to `zone` has ended at `end`. A zone that is written to its capacity is open no more.
    pub(super) fn written(&self, zone: ZoneId, end: u32) {
        let capacity = self.shape.geometry.as_ref().map(|g| g.capacity(zone));
        if capacity == Some(Sector(end.into())) {
            self.set_open(zone, false);
        }
    }

    fn set_open(&self, zone: ZoneId, open: bool) {
        if let Some(flag) = self.open.get(zone.0 as usize) {
            flag.store(open, Ordering::Release);
        }
    }

    /// Our rules have `zone` in `condition`. When they have closed it to make room, so must the disk before
    /// the next zone is opened there; left alone, it would choose one of its own.
    pub(super) fn recorded(&self, zone: ZoneId, condition: Condition) {
        let closed = matches!(condition, Condition::Closed | Condition::Empty);
        let open = self.open.get(zone.0 as usize).is_some_and(|f| f.load(Ordering::Acquire));
        if closed && open {
            self.closing.lock().unwrap_or_else(PoisonError::into_inner).push(zone);
            self.any_closing.store(true, Ordering::Release);
        }
    }

    /// Closes what our rules have closed. Whoever opens a zone comes here first, and waits for others
    /// that are at it.
    fn close_pending(&self) {
        if !self.any_closing.load(Ordering::Acquire) {
            return;
        }
        let mut closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        for zone in closing.drain(..) {
            // Should it fail, the disk closes a zone of its own choice, or says that it has no room.
            let _ = self.close(zone);
            self.set_open(zone, false);
        }
        self.any_closing.store(false, Ordering::Release);
    }

    fn call(&self, call: ZoneCall, zone: ZoneId) -> io::Result<()> {
        let geometry = self.geometry()?;
        self.zones.manage(call, geometry.start(zone).0, geometry.len(zone).0)
    }

    /// Closes `zone`: one in which nothing is written, by what is known here and by what the disk says, is
    /// empty then. (One to which a write is on its way is merely closed.)
    fn close(&self, zone: ZoneId) -> io::Result<()> {
        let blank = self.gates.is_blank(zone.0);
        let state = if blank { ask(&*self.zones, self.geometry()?, zone) } else { None };
        self.call(state.map_or(ZoneCall::Close, closing_call), zone)
    }

    fn geometry(&self) -> io::Result<&Geometry> {
        self.shape.geometry.as_ref().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// Carries `command` out, and waits for it.
    pub(super) fn command(&self, command: Command) -> io::Result<()> {
        match command {
            Command::Zone(what, zone) => self.manage(what, zone),
            Command::ResetAll => self.reset_all(),
        }
    }

    fn manage(&self, what: Manage, zone: ZoneId) -> io::Result<()> {
        self.close_pending();
        match what {
            Manage::Open => self.call(ZoneCall::Open, zone)?,
            Manage::Close => self.close(zone)?,
            Manage::Finish => self.call(ZoneCall::Finish, zone)?,
            Manage::Reset => self.call(ZoneCall::Reset, zone)?,
        }
        self.set_open(zone, what == Manage::Open);
        match what {
            Manage::Reset => self.gates.set(zone.0, 0),
            // `Geometry` keeps a zone's size within 32 bits.
            Manage::Finish => self.gates.set(zone.0, self.geometry()?.capacity(zone).0 as u32),
            Manage::Open | Manage::Close => {}
        }
        Ok(())
    }

    fn reset_all(&self) -> io::Result<()> {
        self.close_pending();
        let geometry = self.geometry()?;
        self.zones.manage(ZoneCall::Reset, 0, geometry.spec().capacity.0)?;
        for zone in geometry.zones() {
            self.set_open(zone, false);
            if geometry.zone_type(zone) != ZoneType::Conventional {
                self.gates.set(zone.0, 0);
            }
        }
        Ok(())
    }

    /// Asks the disk how `zone`, in which nothing is under way, is. (After an error Linux takes no write to
    /// a zone before it was asked this.)
    pub(super) fn recheck(&self, zone: ZoneId) -> Option<Snapshot> {
        let geometry = self.shape.geometry.as_ref()?;
        let mut state = ask(&*self.zones, geometry, zone);
        if state.is_some_and(zoned::is_closed_and_blank) && self.call(ZoneCall::Reset, zone).is_ok()
        {
            // An open zone whose first write failed, say: to our rules there is no such zone.
            state = ask(&*self.zones, geometry, zone);
        }
        match state {
            Some(state) => {
                self.set_open(zone, state.condition().is_open());
                self.gates.set(zone.0, state.written().0 as u32);
            }
            None => self.gates.reopen(zone.0),
        }
        state
    }

    /// Closes every zone that is open on the disk: nobody writes to it any more.
    pub(super) fn close_all(&self) {
        if self.shape.read_only {
            return;
        }
        for (flag, zone) in self.open.iter().zip(0..).map(|(flag, zone)| (flag, ZoneId(zone))) {
            if flag.swap(false, Ordering::AcqRel) {
                // It is closed when its server comes back, in any case.
                let _ = self.close(zone);
            }
        }
    }

    /// Makes all that was written durable.
    pub(super) fn flush(&self) -> io::Result<()> {
        if self.shape.read_only { Ok(()) } else { self.file.sync_data() }
    }
}

/// What a device hears of an error of the host.
pub(super) fn failure_of(error: io::Error) -> Failure {
    match Errno::from_io_error(&error) {
        Some(Errno::TOOMANYREFS) => Failure::OpenLimit(error),
        Some(Errno::OVERFLOW) => Failure::ActiveLimit(error),
        Some(Errno::OPNOTSUPP | Errno::NOTTY) => Failure::Unsupported,
        _ => Failure::Medium(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_host_keep_their_meaning() {
        let of = |errno: Errno| failure_of(errno.into());
        assert!(matches!(of(Errno::TOOMANYREFS), Failure::OpenLimit(_)));
        assert!(matches!(of(Errno::OVERFLOW), Failure::ActiveLimit(_)));
        assert!(matches!(of(Errno::OPNOTSUPP), Failure::Unsupported));
        assert!(matches!(of(Errno::NOTTY), Failure::Unsupported));
        // All others that Linux makes of a block layer's status (blk_errors), and of a disk that is gone.
        for errno in [
            Errno::IO,
            Errno::TIMEDOUT,
            Errno::NOSPC,
            Errno::NOLINK,
            Errno::REMOTEIO,
            Errno::BADE,
            Errno::NODATA,
            Errno::ILSEQ,
            Errno::NOMEM,
            Errno::BUSY,
            Errno::NODEV,
            Errno::NXIO,
            Errno::TIME,
            Errno::INVAL,
        ] {
            assert!(matches!(of(errno), Failure::Medium(_)), "{errno:?}");
        }
    }
}
