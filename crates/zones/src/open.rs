//! Conditions and the resources behind them: how many zones are open, which may be closed to make room.

use zvb_wire::Condition;

use crate::line::Ticket;
use crate::slab::NONE;
use crate::table::{Counts, Hold, Zone};
use crate::{Refusal, ZoneId, Zones};

/// The zones that count against the limits.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    pub(crate) counts: Counts,
    /// The implicitly open zones with no write in flight, the longest idle first.
    idle: List,
    /// The other implicitly open zones, the longest busy first.
    busy: List,
    /// The zone that takes no new write, so that it can be closed when the last in flight has ended: for
    /// the first who wants an open zone, and until that one is gone.
    pub(crate) draining: Option<ZoneId>,
}

/// A list threaded through the zones.
#[derive(Clone, Debug)]
struct List {
    first: u32,
    last: u32,
}

impl Opened {
    pub(crate) fn new() -> Self {
        Self { counts: Counts::default(), idle: List::new(), busy: List::new(), draining: None }
    }

    /// The list that an implicitly open zone belongs in.
    fn list_of(&mut self, zone: &Zone) -> &mut List {
        if zone.in_flight == 0 { &mut self.idle } else { &mut self.busy }
    }
}

impl List {
    const fn new() -> Self {
        Self { first: NONE, last: NONE }
    }

    fn first(&self) -> Option<ZoneId> {
        (self.first != NONE).then_some(ZoneId(self.first))
    }

    fn push(&mut self, zones: &mut [Zone], zone: ZoneId) {
        let index = zone.0 as usize;
        zones[index].previous = self.last;
        zones[index].next = NONE;
        match self.last {
            NONE => self.first = zone.0,
            last => zones[last as usize].next = zone.0,
        }
        self.last = zone.0;
    }

    fn remove(&mut self, zones: &mut [Zone], zone: ZoneId) {
        let Zone { previous, next, .. } = zones[zone.0 as usize];
        match previous {
            NONE => self.first = next,
            previous => zones[previous as usize].next = next,
        }
        match next {
            NONE => self.last = previous,
            next => zones[next as usize].previous = previous,
        }
    }
}

impl Zones {
    /// Gives `zone` the condition `to`: every change of a condition comes through here.
    pub(crate) fn transition(&mut self, zone: ZoneId, to: Condition) {
        let from = self.zone(zone).condition;
        if from == to {
            return;
        }
        if let Some(count) = self.opened.counts.of(from) {
            *count -= 1;
        }
        if let Some(count) = self.opened.counts.of(to) {
            *count += 1;
        }
        if from == Condition::ImplicitOpen {
            let state = self.zones[zone.0 as usize];
            self.opened.list_of(&state).remove(&mut self.zones, zone);
        }
        self.zone_mut(zone).condition = to;
        if to == Condition::ImplicitOpen {
            let state = self.zones[zone.0 as usize];
            self.opened.list_of(&state).push(&mut self.zones, zone);
        }
        if from.is_open() && !to.is_open() {
            self.retry |= !self.line.is_empty();
        }
        self.mark_changed(zone);
    }

    /// Closes a zone that is open or closed: one that nothing was written to is empty again.
    pub(crate) fn close(&mut self, zone: ZoneId) {
        let nothing = self.zone(zone).written == 0;
        self.transition(zone, if nothing { Condition::Empty } else { Condition::Closed });
    }

    pub(crate) fn active_limit_reached(&self) -> bool {
        let limit = self.geometry.spec().max_active;
        limit != 0 && self.opened.counts.active() >= limit
    }

    /// Sees to it that `zone`, empty or closed, can be opened. Closing another zone makes no room among
    /// the active ones, since an implicitly open zone is never empty but for writes in flight.
    pub(crate) fn make_room(&mut self, zone: ZoneId, ticket: Option<Ticket>) -> Result<(), Hold> {
        // When both limits are reached, the active one is named (virtio 5.2.6.2).
        if self.zone(zone).condition == Condition::Empty && self.active_limit_reached() {
            return Err(Refusal::ActiveLimit.into());
        }
        if !self.line.room_turn(ticket) {
            return Err(Hold::Room);
        }
        if self.make_room_at_once() {
            return Ok(());
        }
        let Some(victim) = self.opened.busy.first() else {
            return Err(Refusal::OpenLimit.into());
        };
        self.opened.draining = Some(victim);
        Err(Hold::Room)
    }

    /// Sees to it that one more zone can be open, or returns false when none can be before another's
    /// writes in flight have ended.
    fn make_room_at_once(&mut self) -> bool {
        let limit = self.geometry.spec().max_open;
        if limit == 0 || self.opened.counts.open() < limit {
            return true;
        }
        let victim = self.opened.idle.first();
        if let Some(victim) = victim {
            self.close(victim);
        }
        victim.is_some()
    }

    /// Opens `zone` for a write to it that goes on in any case: only when it can be opened at once, and
    /// nobody waits for that.
    pub(crate) fn open_if_room(&mut self, zone: ZoneId) {
        let wanted = self.zone(zone).can_open() && self.line.room_turn(None);
        if wanted && self.make_room_at_once() {
            self.transition(zone, Condition::ImplicitOpen);
        }
    }

    /// One more write to `zone` is in flight.
    pub(crate) fn add_flight(&mut self, zone: ZoneId) {
        let state = &mut self.zones[zone.0 as usize];
        state.in_flight += 1;
        if state.in_flight == 1 && state.condition == Condition::ImplicitOpen {
            self.opened.idle.remove(&mut self.zones, zone);
            self.opened.busy.push(&mut self.zones, zone);
        }
    }

    /// One write to `zone` is not in flight any more. After the last, the zone is what its data say.
    pub(crate) fn drop_flight(&mut self, zone: ZoneId) {
        let state = &mut self.zones[zone.0 as usize];
        state.in_flight -= 1;
        if state.in_flight != 0 {
            return;
        }
        let broken = core::mem::take(&mut state.broken);
        if core::mem::take(&mut state.failing) || broken {
            self.suspects.push(zone);
        }
        state.reserved = state.written;
        let (nothing, waiters) = (state.written == 0, state.waiters);
        if state.condition == Condition::ImplicitOpen {
            self.opened.busy.remove(&mut self.zones, zone);
            self.opened.idle.push(&mut self.zones, zone);
            // A write that left nothing opens no zone, so one that nothing was written to is empty still.
            if nothing || self.opened.draining == Some(zone) {
                self.close(zone);
            }
        }
        self.retry |= self.line.watches(waiters);
    }
}
