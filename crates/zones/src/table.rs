//! The table of a disk's zones, and what can be asked of it between writes.

use alloc::vec;
use alloc::vec::Vec;

use zvb_wire::{Condition, Sector, ZoneDescriptor, ZoneType};

use crate::line::{Line, Ticket};
use crate::open::Opened;
use crate::slab::{Chain, NONE, Slab};
use crate::write::Write;
use crate::{Geometry, Refusal, Refused, Snapshot, ZoneId, describe};

/// All zones of a disk, with the writes in flight and the requests that wait.
///
/// Nothing here blocks. What a request asks for is decided at once; a write is decided by
/// [`begin_write`](Self::begin_write) or [`begin_append`](Self::begin_append), then the caller does the
/// I/O, and [`end_write`](Self::end_write) applies it. A request that must go behind writes in flight
/// gets a [`Ticket`] and is tried again.
///
/// A [`ZoneId`] that is not of this disk is a caller's bug, and panics. So is a ticket or a write that
/// is spent, or that comes from another table; a clone counts as another one but for what it was cloned
/// with.
#[derive(Clone, Debug)]
pub struct Zones {
    pub(crate) geometry: Geometry,
    pub(crate) zones: Vec<Zone>,
    pub(crate) writes: Slab<Write>,
    pub(crate) line: Line,
    pub(crate) opened: Opened,
    pub(crate) retry: bool,
    /// Zones whose medium may know better how they are than this table: see
    /// [`take_suspects`](Self::take_suspects).
    pub(crate) suspects: Vec<ZoneId>,
    changed: Vec<ZoneId>,
}

/// One zone. All lengths are in 512-byte sectors from its start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zone {
    /// Where its data ends: what was written and applied.
    pub(crate) written: u32,
    /// Where what is in flight ends: the write pointer for the next write. Of sequential-required zones
    /// only.
    pub(crate) reserved: u32,
    /// Writes in flight, in the order they were begun. Of sequential-required zones only.
    pub(crate) writes: Chain,
    /// Requests that wait for this zone.
    pub(crate) waiters: Chain,
    /// Neighbours among the implicitly open zones: see [`Opened`].
    pub(crate) previous: u32,
    pub(crate) next: u32,
    /// Writes begun and not yet ended and applied.
    pub(crate) in_flight: u32,
    pub(crate) condition: Condition,
    /// It is in [`Zones::changed`].
    dirty: bool,
    /// It was reset since it came there.
    reset: bool,
    /// A write in flight failed, or all of them will: none is begun until the last has ended.
    pub(crate) failing: bool,
    /// What is in flight fails when it ends: it stands behind a failed write, or the zone failed.
    pub(crate) broken: bool,
}

// There may be four million of them.
const _: () = assert!(core::mem::size_of::<Zone>() <= 48);

impl Zone {
    pub(crate) fn new(state: Snapshot) -> Self {
        // A zone is at most 2^32 - 1 sectors long, by its geometry.
        let written = state.written().0 as u32;
        Self {
            written,
            reserved: written,
            writes: Chain::EMPTY,
            waiters: Chain::EMPTY,
            previous: NONE,
            next: NONE,
            in_flight: 0,
            condition: state.condition(),
            dirty: false,
            reset: false,
            failing: false,
            broken: false,
        }
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.condition, Sector(self.written.into()))
    }

    /// True when there is something to open.
    pub(crate) fn can_open(&self) -> bool {
        matches!(self.condition, Condition::Empty | Condition::Closed)
    }

    /// Refuses what changes a zone that can't be changed any more.
    pub(crate) fn usable(&self) -> Result<(), Refusal> {
        match self.condition {
            Condition::ReadOnly => Err(Refusal::ZoneReadOnly),
            Condition::Offline => Err(Refusal::ZoneOffline),
            _ => Ok(()),
        }
    }
}

/// How many zones count against the limits (virtio 5.2.6.2): open are the first two, active all three.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Implicitly open zones.
    pub open_implicit: u32,
    /// Explicitly open zones.
    pub open_explicit: u32,
    /// Closed zones.
    pub closed: u32,
}

impl Counts {
    /// What counts against `max_open_zones`.
    pub const fn open(self) -> u32 {
        self.open_implicit + self.open_explicit
    }

    /// What counts against `max_active_zones`.
    pub const fn active(self) -> u32 {
        self.open() + self.closed
    }

    pub(crate) fn of(&mut self, condition: Condition) -> Option<&mut u32> {
        match condition {
            Condition::ImplicitOpen => Some(&mut self.open_implicit),
            Condition::ExplicitOpen => Some(&mut self.open_explicit),
            Condition::Closed => Some(&mut self.closed),
            _ => None,
        }
    }
}

/// A request that manages one zone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Manage {
    /// ZONE_OPEN: to explicitly open.
    Open,
    /// ZONE_CLOSE: to closed, or to empty when nothing is written.
    Close,
    /// ZONE_FINISH: to full. Needs no free open or active zone.
    Finish,
    /// ZONE_RESET: to empty.
    Reset,
}

/// What a medium's failure, or a test that plays one, makes of a zone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Forced {
    /// It can be read, and not written any more.
    ReadOnly,
    /// It can be neither read nor written.
    Offline,
    /// It is as good as new again: what condition it has follows from how far it is written.
    Restored,
}

/// Why a request is not decided yet, or how it is.
pub(crate) enum Hold {
    Status(Refusal),
    /// It has to wait for its turn, or for writes in flight.
    Turn,
    /// It has to wait for an open zone to be closed.
    Room,
}

impl From<Refusal> for Hold {
    fn from(refusal: Refusal) -> Self {
        Self::Status(refusal)
    }
}

impl Zones {
    /// The zones of a disk that nothing was ever written to.
    pub fn new(geometry: Geometry) -> Self {
        let mut zones = vec![Zone::new(Snapshot::EMPTY); geometry.zone_count() as usize];
        let conventional = geometry.spec().conventional as usize;
        for zone in zones.iter_mut().take(conventional) {
            *zone = Zone::new(Snapshot::CONVENTIONAL);
        }
        Self::from_parts(geometry, zones)
    }

    fn from_parts(geometry: Geometry, zones: Vec<Zone>) -> Self {
        Self {
            geometry,
            zones,
            writes: Slab::new(),
            line: Line::new(),
            opened: Opened::new(),
            retry: false,
            suspects: Vec::new(),
            changed: Vec::new(),
        }
    }

    /// Sets the state of a zone in which nothing goes on: [`Zones::restore`] does.
    pub(crate) fn put(&mut self, zone: ZoneId, state: Snapshot) {
        let dirty = self.zone(zone).dirty;
        *self.zone_mut(zone) = Zone { dirty, ..Zone::new(state) };
        if let Some(count) = self.opened.counts.of(state.condition()) {
            *count += 1;
        }
    }

    /// How the disk is divided.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The state of `zone`, without what is still in flight.
    pub fn snapshot(&self, zone: ZoneId) -> Snapshot {
        self.zone(zone).snapshot()
    }

    /// `zone` as a zone report tells of it: [`describe`] of its [`snapshot`](Self::snapshot).
    pub fn descriptor(&self, zone: ZoneId) -> ZoneDescriptor {
        describe(&self.geometry, zone, self.snapshot(zone))
    }

    /// True when writes to `zone` are in flight (those to conventional zones are not counted).
    pub fn is_busy(&self, zone: ZoneId) -> bool {
        self.zone(zone).in_flight != 0
    }

    /// How many zones are open and closed.
    pub fn counts(&self) -> Counts {
        self.opened.counts
    }

    /// Gives `f` every zone whose state has changed since the last call, with its state now. Those that are
    /// not active come first, so that whoever notes one after the other never has more active zones than
    /// may be. A zone that was reset and is not empty any more comes twice, empty first: or nobody would
    /// know that what was written before is gone.
    pub fn take_changed(&mut self, mut f: impl FnMut(ZoneId, Snapshot)) {
        let mut changed = core::mem::take(&mut self.changed);
        for zone in &changed {
            let state = self.zone_mut(*zone);
            let (now, reset) = (state.snapshot(), core::mem::take(&mut state.reset));
            if reset && now.condition() != Condition::Empty {
                f(*zone, Snapshot::EMPTY);
            }
            if !now.condition().is_active() {
                f(*zone, now);
            }
        }
        for zone in &changed {
            let state = self.zone_mut(*zone);
            state.dirty = false;
            if state.condition.is_active() {
                f(*zone, state.snapshot());
            }
        }
        changed.clear();
        // The buffer is kept for the next time.
        self.changed = changed;
    }

    /// True when a request that waits may go on since this was last asked: try all that wait again, the
    /// oldest first. To be asked after every call that may have changed something.
    pub fn wants_retry(&mut self) -> bool {
        core::mem::take(&mut self.retry)
    }

    /// Opens, closes, finishes or resets the zone that starts at `zone_start` (virtio 5.2.6.2). Goes
    /// behind writes to the zone that are in flight.
    pub fn manage(
        &mut self,
        what: Manage,
        zone_start: Sector,
        ticket: Option<Ticket>,
    ) -> Result<(), Refused> {
        let zone = self.managed_zone(zone_start).map_err(Refused::Status)?;
        let decided = self.allow_manage(what, zone, ticket);
        if decided.is_ok() {
            self.apply_manage(what, zone);
        }
        self.settle(zone, ticket, decided)
    }

    /// The zone that starts at `sector`, if it has a condition to manage.
    pub(crate) fn managed_zone(&self, sector: Sector) -> Result<ZoneId, Refusal> {
        let zone = self.named_zone(sector)?;
        match self.geometry.zone_type(zone) {
            ZoneType::Conventional => Err(Refusal::Conventional),
            _ => Ok(zone),
        }
    }

    /// Whether `zone` may be managed so, now; for an open, with room made for it.
    pub(crate) fn allow_manage(
        &mut self,
        what: Manage,
        zone: ZoneId,
        ticket: Option<Ticket>,
    ) -> Result<(), Hold> {
        let state = self.zone(zone);
        if !self.line.zone_turn(state.waiters, ticket) {
            return Err(Hold::Turn);
        }
        state.usable()?;
        if state.in_flight != 0 {
            return Err(Hold::Turn);
        }
        match (what, state.condition) {
            (Manage::Open, Condition::Full) => Err(Refusal::ZoneFull.into()),
            (Manage::Open, Condition::Empty | Condition::Closed) => self.make_room(zone, ticket),
            (Manage::Close, Condition::Empty | Condition::Full) => Err(Refusal::CannotClose.into()),
            _ => Ok(()),
        }
    }

    /// What a command that was allowed does to its zone.
    pub(crate) fn apply_manage(&mut self, what: Manage, zone: ZoneId) {
        match what {
            Manage::Open => self.transition(zone, Condition::ExplicitOpen),
            Manage::Close => self.close(zone),
            Manage::Finish => self.transition(zone, Condition::Full),
            Manage::Reset => self.reset(zone),
        }
    }

    /// Resets every sequential zone that is neither read-only nor offline. Goes behind all writes to
    /// sequential zones that are in flight, and everything that comes later goes behind it.
    pub fn reset_all(&mut self, ticket: Option<Ticket>) -> Result<(), Refused> {
        let decided = self.decide_reset_all(ticket);
        self.settle_disk(ticket, decided)
    }

    fn decide_reset_all(&mut self, ticket: Option<Ticket>) -> Result<(), Hold> {
        self.allow_reset_all(ticket)?;
        self.apply_reset_all();
        Ok(())
    }

    pub(crate) fn allow_reset_all(&self, ticket: Option<Ticket>) -> Result<(), Hold> {
        let turn = self.line.disk_turn(ticket) && self.writes.len() == 0;
        if turn { Ok(()) } else { Err(Hold::Turn) }
    }

    pub(crate) fn apply_reset_all(&mut self) {
        for zone in self.geometry.spec().conventional..self.geometry.zone_count() {
            if self.zone(ZoneId(zone)).usable().is_ok() {
                self.reset(ZoneId(zone));
            }
        }
    }

    /// Makes `zone` fail, at any time, or sound again. What is in flight to it when it fails will end as
    /// failed, whatever its I/O does (writes to conventional zones excepted, which this table does not
    /// follow). Refused only when a zone that would be active again is one too many.
    pub fn set_condition(&mut self, zone: ZoneId, forced: Forced) -> Result<(), Refusal> {
        let to = match forced {
            Forced::ReadOnly => Condition::ReadOnly,
            Forced::Offline => Condition::Offline,
            Forced::Restored if self.zone(zone).usable().is_ok() => return Ok(()),
            Forced::Restored => self.resting_condition(zone),
        };
        if to == Condition::Closed && self.active_limit_reached() {
            return Err(Refusal::ActiveLimit);
        }
        let state = self.zone_mut(zone);
        if state.usable().is_ok() && state.in_flight != 0 {
            state.failing = true;
            state.broken = true;
        }
        self.transition(zone, to);
        // Whoever waits for this zone is to learn of it.
        self.retry |= !self.line.is_empty();
        Ok(())
    }

    /// The condition of a zone that nothing is known of but how far it is written.
    fn resting_condition(&self, zone: ZoneId) -> Condition {
        let written = Sector(self.zone(zone).written.into());
        if self.geometry.zone_type(zone) == ZoneType::Conventional {
            Condition::NotWp
        } else if written == Sector::ZERO {
            Condition::Empty
        } else if written == self.geometry.capacity(zone) {
            Condition::Full
        } else {
            Condition::Closed
        }
    }

    fn reset(&mut self, zone: ZoneId) {
        // A write that failed may have left data in a sequential-preferred zone that is empty: its medium
        // must hear of the reset.
        let preferred = self.geometry.zone_type(zone) == ZoneType::SequentialPreferred;
        let state = self.zone_mut(zone);
        state.reserved = 0;
        if state.written != 0 || preferred {
            state.written = 0;
            state.reset = true;
            self.mark_changed(zone);
        }
        self.transition(zone, Condition::Empty);
    }

    /// The zone that starts at `sector`.
    pub(crate) fn named_zone(&self, sector: Sector) -> Result<ZoneId, Refusal> {
        let zone = self.geometry.zone_of(sector).ok_or(Refusal::NoSuchZone)?;
        if self.geometry.start(zone) == sector { Ok(zone) } else { Err(Refusal::NotZoneStart) }
    }

    /// Ends a try that concerns one zone: gives a place in its line, keeps it or takes it back.
    #[inline]
    pub(crate) fn settle<T>(
        &mut self,
        zone: ZoneId,
        ticket: Option<Ticket>,
        decided: Result<T, Hold>,
    ) -> Result<T, Refused> {
        let wants_room = match decided {
            Err(Hold::Turn) => false,
            Err(Hold::Room) => true,
            Ok(value) => {
                self.spend(zone, ticket);
                return Ok(value);
            }
            Err(Hold::Status(refusal)) => {
                self.spend(zone, ticket);
                return Err(Refused::Status(refusal));
            }
        };
        let waiters = &mut self.zones[zone.0 as usize].waiters;
        let ticket = ticket.unwrap_or_else(|| self.line.join_zone(waiters));
        if wants_room {
            self.line.join_room(ticket);
        }
        Err(Refused::Wait(ticket))
    }

    fn spend(&mut self, zone: ZoneId, ticket: Option<Ticket>) {
        let Some(ticket) = ticket else {
            return;
        };
        let waiters = &mut self.zones[zone.0 as usize].waiters;
        if self.line.leave_zone(waiters, ticket) {
            self.opened.draining = None;
        }
        self.retry |= !self.line.is_empty();
    }

    /// Ends a try that concerns many zones.
    pub(crate) fn settle_disk<T>(
        &mut self,
        ticket: Option<Ticket>,
        decided: Result<T, Hold>,
    ) -> Result<T, Refused> {
        let result = match decided {
            Ok(value) => Ok(value),
            Err(Hold::Status(refusal)) => Err(Refused::Status(refusal)),
            Err(Hold::Turn | Hold::Room) => {
                return Err(Refused::Wait(ticket.unwrap_or_else(|| self.line.join_disk())));
            }
        };
        if let Some(ticket) = ticket {
            self.line.leave_disk(ticket);
            self.retry |= !self.line.is_empty();
        }
        result
    }

    pub(crate) fn zone(&self, zone: ZoneId) -> &Zone {
        &self.zones[zone.0 as usize]
    }

    pub(crate) fn zone_mut(&mut self, zone: ZoneId) -> &mut Zone {
        &mut self.zones[zone.0 as usize]
    }

    pub(crate) fn mark_changed(&mut self, zone: ZoneId) {
        let state = &mut self.zones[zone.0 as usize];
        if !state.dirty {
            state.dirty = true;
            self.changed.push(zone);
        }
    }
}
