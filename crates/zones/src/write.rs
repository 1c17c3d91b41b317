//! Writes and appends, in two phases: a write is begun, its I/O is done, and it is ended.

use zvb_wire::{Condition, Sector, ZoneType};

use crate::command::Underway;
use crate::line::Ticket;
use crate::read::zones_of;
use crate::table::Hold;
use crate::{Refusal, Refused, ZoneId, Zones};

/// A write that may go to the medium.
#[derive(Debug)]
#[must_use]
pub struct Begun {
    /// The first sector to write: where the request said, or where the append goes.
    pub at: Sector,
    /// Where in its zone it goes is the medium's choice, and told with [`Outcome::Placed`]: `at` means nothing.
    pub floats: bool,
    /// What to end the write with. `None` when no zone's state depends on it (it writes nothing, or
    /// conventional zones only): then it is done as soon as its I/O is.
    pub write: Option<WriteId>,
}

/// A write in flight. To be spent once, with [`Zones::end_write`] of the same table.
#[derive(PartialEq, Eq, Debug)]
#[must_use]
pub struct WriteId(pub(crate) u32);

/// How the I/O of a write went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// All of it was written.
    Done,
    /// All of it was written, from `at` on: how an append that floats ends.
    Placed {
        /// A sector of the disk.
        at: Sector,
    },
    /// Any part of it may have been written.
    Failed,
    /// It failed too, and what reached the medium is known: all that lies before `end`, and nothing from
    /// there on. The write pointer tells.
    Torn {
        /// A sector of the disk, inside the write or where it begins, on a multiple of the write
        /// granularity.
        end: Sector,
    },
}

/// A write that is over, and can be answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Released {
    /// As given when it was begun.
    pub owner: u64,
    /// It was written, and its zone's state counts it. Otherwise it failed, or stood behind one that did.
    pub ok: bool,
}

/// A write in flight to sequential zones.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    owner: u64,
    /// Where it ends. Of one that floats, once that is known.
    end: Sector,
    sectors: Sector,
    /// The medium chooses its place.
    floats: bool,
    first: ZoneId,
    last: ZoneId,
    /// How its I/O went, once that is known.
    outcome: Option<Outcome>,
    /// It is no write, but a command that the medium carries out.
    pub(crate) command: Option<Underway>,
}

impl Write {
    /// A command from `owner` to `zone` that the medium carries out.
    pub(crate) fn command(owner: u64, zone: ZoneId, command: Underway) -> Self {
        let command = Some(command);
        Self { command, ..Self::new(owner, Sector::ZERO, Sector::ZERO, (zone, zone)) }
    }

    /// A write from `owner` to zones, of `sectors` from `at` on: inside them, so that its end is a sector.
    fn new(owner: u64, at: Sector, sectors: Sector, (first, last): (ZoneId, ZoneId)) -> Self {
        let end = Sector(at.0 + sectors.0);
        Self { owner, end, sectors, floats: false, first, last, outcome: None, command: None }
    }

    /// Where it begins.
    fn at(&self) -> Sector {
        Sector(self.end.0 - self.sectors.0)
    }

    pub(crate) fn owner(&self) -> u64 {
        self.owner
    }

    pub(crate) fn zone(&self) -> ZoneId {
        self.first
    }
}

impl Zones {
    /// Decides a write of `sectors` from `at` on (OUT, virtio 5.2.6.2). `owner` comes back when it is
    /// over. A sequential-required zone is written at the end of what is already in flight.
    pub fn begin_write(
        &mut self,
        at: Sector,
        sectors: Sector,
        owner: u64,
        ticket: Option<Ticket>,
    ) -> Result<Begun, Refused> {
        let zones = zones_of(&self.geometry, at, sectors).map_err(Refused::Status)?;
        let Some((first, last)) = zones else {
            return Ok(Begun { at, floats: false, write: None });
        };
        match self.geometry.zone_type(last) {
            ZoneType::SequentialRequired if first == last => {
                let decided = self.decide_sequential(last, Place::At(at), sectors, owner, ticket);
                self.settle(last, ticket, decided)
            }
            ZoneType::SequentialRequired => Err(Refused::Status(Refusal::CrossesZones)),
            ZoneType::Conventional => match self.all_usable(first, last) {
                Ok(()) => Ok(Begun { at, floats: false, write: None }),
                Err(refusal) => Err(Refused::Status(refusal)),
            },
            ZoneType::SequentialPreferred => {
                self.begin_preferred(Range { at, sectors, first, last }, owner, ticket)
            }
        }
    }

    /// Decides an append of `sectors` to the zone that starts at `zone_start` (ZONE_APPEND).
    pub fn begin_append(
        &mut self,
        zone_start: Sector,
        sectors: Sector,
        owner: u64,
        ticket: Option<Ticket>,
    ) -> Result<Begun, Refused> {
        let zone = self.append_zone(zone_start, sectors).map_err(Refused::Status)?;
        let decided = self.decide_sequential(zone, Place::Pointer, sectors, owner, ticket);
        self.settle(zone, ticket, decided)
    }

    /// As [`begin_append`](Self::begin_append), for a medium that has appends of its own, takes any number at
    /// once, and chooses their places. One that goes behind a write with a fixed place has one, too.
    pub fn begin_floating_append(
        &mut self,
        zone_start: Sector,
        sectors: Sector,
        owner: u64,
        ticket: Option<Ticket>,
    ) -> Result<Begun, Refused> {
        let zone = self.append_zone(zone_start, sectors).map_err(Refused::Status)?;
        let decided = self.decide_sequential(zone, Place::Anywhere, sectors, owner, ticket);
        self.settle(zone, ticket, decided)
    }

    fn append_zone(&self, zone_start: Sector, sectors: Sector) -> Result<ZoneId, Refusal> {
        let limit = self.geometry.spec().max_append;
        if limit == Sector::ZERO {
            return Err(Refusal::AppendUnsupported);
        }
        let zone = self.named_zone(zone_start)?;
        if self.geometry.zone_type(zone) != ZoneType::SequentialRequired {
            return Err(Refusal::NotSequentialRequired);
        }
        if sectors > limit { Err(Refusal::AppendTooLarge) } else { Ok(zone) }
    }

    /// Decides a write to a sequential-required zone.
    fn decide_sequential(
        &mut self,
        zone: ZoneId,
        place: Place,
        sectors: Sector,
        owner: u64,
        ticket: Option<Ticket>,
    ) -> Result<Begun, Hold> {
        let state = self.zone(zone);
        if !self.line.zone_turn(state.waiters, ticket) {
            return Err(Hold::Turn);
        }
        state.usable()?;
        if state.condition == Condition::Full {
            return Err(Refusal::ZoneFull.into());
        }
        if state.failing || self.opened.draining == Some(zone) {
            return Err(Hold::Turn);
        }
        let capacity = self.geometry.capacity(zone).0;
        let reserved = u64::from(state.reserved);
        if reserved == capacity {
            return Err(Refusal::ZoneFull.into());
        }
        let pointer = Sector(self.geometry.start(zone).0 + reserved);
        if matches!(place, Place::At(at) if at != pointer) {
            return Err(Refusal::NotAtWritePointer.into());
        }
        if !sectors.is_multiple_of(self.geometry.granule()) {
            return Err(Refusal::Misaligned.into());
        }
        if sectors.0 > capacity - reserved {
            return Err(Refusal::PastCapacity.into());
        }
        if sectors == Sector::ZERO {
            return Ok(Begun { at: pointer, floats: false, write: None });
        }
        // Those before it float as well, or there are none: no place is fixed that they could take.
        let last = state.writes.last();
        let floats =
            place == Place::Anywhere && last.is_none_or(|last| self.writes.get(last).floats);
        let opens = state.can_open();
        if opens {
            self.make_room(zone, ticket)?;
        }
        let write = Write { floats, ..Write::new(owner, pointer, sectors, (zone, zone)) };
        let write = self.reserve(write);
        if opens {
            self.transition(zone, Condition::ImplicitOpen);
        }
        let state = &mut self.zones[zone.0 as usize];
        state.reserved += sectors.0 as u32;
        self.writes.append(&mut state.writes, write.0);
        Ok(Begun { at: pointer, floats, write: Some(write) })
    }

    /// Decides a write that touches sequential-preferred zones, and maybe conventional zones before them.
    fn begin_preferred(
        &mut self,
        range: Range,
        owner: u64,
        ticket: Option<Ticket>,
    ) -> Result<Begun, Refused> {
        // The first zone that has a write pointer.
        let first = ZoneId(range.first.0.max(self.geometry.spec().conventional));
        if first == range.last {
            let turn = self.line.zone_turn(self.zone(first).waiters, ticket);
            let decided = self.decide_preferred(range, first, owner, turn);
            return self.settle(first, ticket, decided);
        }
        // It goes at once when it may in each of its zones. When not, its place can't be in the line of
        // one of them, and it waits in that of the disk.
        let turn = match ticket {
            Some(_) => self.line.disk_turn(ticket),
            None => (first.0..=range.last.0)
                .all(|zone| self.line.zone_turn(self.zone(ZoneId(zone)).waiters, None)),
        };
        let decided = self.decide_preferred(range, first, owner, turn);
        self.settle_disk(ticket, decided)
    }

    /// Decides a write to sequential-preferred zones from `first` on, whose turn it is or not. It needs no
    /// open zone (virtio 5.2.6.2: they are written anywhere), so it only waits for who came before it, and
    /// behind a failure.
    fn decide_preferred(
        &mut self,
        range: Range,
        first: ZoneId,
        owner: u64,
        turn: bool,
    ) -> Result<Begun, Hold> {
        if !turn {
            return Err(Hold::Turn);
        }
        self.all_usable(range.first, range.last)?;
        let zones = || (first.0..=range.last.0).map(ZoneId);
        if zones().any(|zone| self.zone(zone).failing || self.opened.draining == Some(zone)) {
            return Err(Hold::Turn);
        }
        if range.sectors == Sector::ZERO {
            return Ok(Begun { at: range.at, floats: false, write: None });
        }
        // All of its zones are busy before the first is opened: none is closed for another.
        let write = Write::new(owner, range.at, range.sectors, (first, range.last));
        let write = self.reserve(write);
        zones().for_each(|zone| self.open_if_room(zone));
        Ok(Begun { at: range.at, floats: false, write: Some(write) })
    }

    /// Counts a write as in flight in its zones.
    pub(crate) fn reserve(&mut self, write: Write) -> WriteId {
        for zone in write.first.0..=write.last.0 {
            self.add_flight(ZoneId(zone));
        }
        WriteId(self.writes.insert(write))
    }

    fn all_usable(&self, first: ZoneId, last: ZoneId) -> Result<(), Refusal> {
        (first.0..=last.0).try_for_each(|zone| self.zone(ZoneId(zone)).usable())
    }

    /// Where a range that ends at `end` ends in `zone`, in sectors from the zone's start.
    fn end_within(&self, zone: ZoneId, end: Sector) -> Sector {
        let offset = end.0 - self.geometry.start(zone).0;
        self.geometry.len(zone).min(Sector(offset))
    }

    /// Ends a write whose I/O has ended. `released` is given every write that is over with it: one that is
    /// done may have to wait for those begun before it, and when one fails, those begun behind it in its
    /// zone fail with it, each once its own I/O has ended.
    pub fn end_write(&mut self, write: WriteId, outcome: Outcome, released: impl FnMut(Released)) {
        let WriteId(index) = write;
        if let Some(command) = self.writes.get(index).command {
            return self.end_command(index, command, outcome, released);
        }
        let zone = self.writes.get(index).last;
        if self.geometry.zone_type(zone) == ZoneType::SequentialRequired {
            let outcome = self.placed(index, zone, outcome);
            self.writes.get_mut(index).outcome = Some(outcome);
            self.end_sequential(zone, outcome, released);
        } else {
            self.end_preferred(index, outcome, released);
        }
    }

    /// Notes where a write was placed, and what that makes of its `outcome`: a place that can not be is a failure.
    fn placed(&mut self, index: u32, zone: ZoneId, outcome: Outcome) -> Outcome {
        let (start, capacity) = (self.geometry.start(zone), self.geometry.capacity(zone));
        let write = self.writes.get_mut(index);
        match outcome {
            Outcome::Placed { at } if write.floats => {
                let end = at.checked_add(write.sectors);
                match end.filter(|end| at >= start && end.0 - start.0 <= capacity.0) {
                    Some(end) => {
                        write.end = end;
                        Outcome::Done
                    }
                    None => Outcome::Failed,
                }
            }
            Outcome::Placed { at } if at == write.at() => Outcome::Done,
            Outcome::Placed { .. } => Outcome::Failed,
            Outcome::Done | Outcome::Torn { .. } if write.floats => Outcome::Failed,
            outcome => outcome,
        }
    }

    /// Applies what can be applied in `zone`: in the order it was begun, and before that what floats in the order of
    /// its places.
    fn end_sequential(
        &mut self,
        zone: ZoneId,
        outcome: Outcome,
        mut released: impl FnMut(Released),
    ) {
        if outcome != Outcome::Done {
            self.zone_mut(zone).failing = true;
            self.suspects.push(zone);
        }
        while let Some(before) = self.next_over(zone) {
            let pointer = self.pointer(zone);
            let state = &mut self.zones[zone.0 as usize];
            let Some(write) = self.writes.take(&mut state.writes, before) else {
                return;
            };
            let sound = !state.broken && write.at() == pointer;
            let ok = sound && write.outcome == Some(Outcome::Done);
            // Of those that float, one that fails is in nobody's way: whether there is a hole, the others tell.
            state.broken |= !ok && !write.floats;
            match write.outcome {
                Some(Outcome::Done) if sound => self.advance(zone, write.end),
                Some(Outcome::Torn { end }) if sound => self.advance_torn(zone, end, write.end),
                _ => {}
            }
            self.drop_flight(zone);
            released(Released { owner: write.owner, ok });
        }
    }

    /// Where the data of `zone` ends.
    fn pointer(&self, zone: ZoneId) -> Sector {
        Sector(self.geometry.start(zone).0 + u64::from(self.zone(zone).written))
    }

    /// A write of `zone` that is over with those before it: what stands before it in the chain, or that it is
    /// the first.
    fn next_over(&mut self, zone: ZoneId) -> Option<Option<u32>> {
        let (pointer, state) = (self.pointer(zone), self.zone(zone));
        let (mut before, mut next) = (None, state.writes.first());
        let mut under_way = false;
        while let Some(index) = next {
            let write = self.writes.get(index);
            if !write.floats {
                break;
            }
            match write.outcome {
                None => under_way = true,
                Some(Outcome::Done) if !state.broken && write.at() != pointer => {}
                Some(_) => return Some(before),
            }
            (before, next) = (next, self.writes.next(index));
        }
        let first = state.writes.first()?;
        if before.is_none() {
            // None floats.
            return self.writes.get(first).outcome.is_some().then_some(None);
        }
        if under_way {
            return None;
        }
        // All are done, and none of them stands at the pointer: it is not ours alone, or one that failed has
        // left a hole. What is behind that is lost to us.
        let state = self.zone_mut(zone);
        (state.failing, state.broken) = (true, true);
        Some(None)
    }

    /// Applies a write to sequential-preferred zones, whatever else is in flight.
    fn end_preferred(&mut self, index: u32, outcome: Outcome, mut released: impl FnMut(Released)) {
        let Write { owner, end, first, last, .. } = self.writes.remove(index);
        debug_assert!(!matches!(outcome, Outcome::Placed { .. }), "nothing floats there");
        let zones = || (first.0..=last.0).map(ZoneId);
        let sound = zones().all(|zone| !self.zone(zone).broken);
        let ok = sound && outcome == Outcome::Done;
        for zone in zones() {
            match outcome {
                Outcome::Done if sound => self.advance(zone, end),
                Outcome::Torn { end: torn } if sound => self.advance_torn(zone, torn, end),
                _ => {}
            }
            if sound && outcome != Outcome::Failed {
                // Told even when the pointer stays: the zone may have data now where it was all zeroes.
                self.mark_changed(zone);
            }
            self.drop_flight(zone);
            if !ok && self.zone(zone).in_flight == 0 {
                self.suspects.push(zone);
            }
        }
        released(Released { owner, ok });
    }

    /// Moves the write pointer of `zone` to where a write was torn that was to end at `whole`.
    fn advance_torn(&mut self, zone: ZoneId, end: Sector, whole: Sector) {
        let (start, granule) = (self.geometry.start(zone), self.geometry.granule());
        debug_assert!(end < whole && end.is_multiple_of(granule), "torn at {end} of {whole}");
        // A zone behind the tear has nothing of the write.
        if end > start {
            self.advance(zone, end);
        }
    }

    /// Moves the write pointer of `zone` to where a write that ends at `end` ends in it, unless it is
    /// already past that. A zone that the write did not open is not empty after it, and closed.
    fn advance(&mut self, zone: ZoneId, end: Sector) {
        let end = self.end_within(zone, end).0 as u32;
        if end <= self.zone(zone).written {
            return;
        }
        self.zone_mut(zone).written = end;
        self.mark_changed(zone);
        if u64::from(end) == self.geometry.capacity(zone).0 {
            self.transition(zone, Condition::Full);
        } else if self.zone(zone).condition == Condition::Empty {
            self.transition(zone, Condition::Closed);
        }
    }
}

/// Where in a sequential-required zone a write goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    At(Sector),
    /// At the write pointer.
    Pointer,
    /// Where the medium puts it, if it may choose now.
    Anywhere,
}

/// A range that a request wants to write, and the zones it touches.
#[derive(Clone, Copy)]
struct Range {
    at: Sector,
    sectors: Sector,
    first: ZoneId,
    last: ZoneId,
}
