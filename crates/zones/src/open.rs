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
    len: u32,
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
        Self { first: NONE, last: NONE, len: 0 }
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
        self.len += 1;
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
        self.len -= 1;
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
        let limit = self.geometry.spec().max_open;
        if limit == 0 {
            return Ok(());
        }
        if !self.line.room_turn(ticket) {
            return Err(Hold::Room);
        }
        if self.opened.counts.open() < limit {
            return Ok(());
        }
        if let Some(victim) = self.opened.idle.first() {
            self.close(victim);
            return Ok(());
        }
        let Some(victim) = self.opened.busy.first() else {
            return Err(Refusal::OpenLimit.into());
        };
        self.opened.draining = Some(victim);
        Err(Hold::Room)
    }

    /// Sees to it that all zones from `first` to `last` that are empty or closed can be opened at once.
    /// Nobody else wants an open zone: the disk's turn is the caller's.
    pub(crate) fn make_room_for_many(&mut self, first: ZoneId, last: ZoneId) -> Result<(), Hold> {
        let (mut empty, mut closed, mut implicit, mut idle) = (0, 0, 0, 0);
        for zone in first.0..=last.0 {
            let state = self.zone(ZoneId(zone));
            match state.condition {
                Condition::Empty => empty += 1,
                Condition::Closed => closed += 1,
                Condition::ImplicitOpen => {
                    implicit += 1;
                    idle += u32::from(state.in_flight == 0);
                }
                _ => {}
            }
        }
        let spec = self.geometry.spec();
        let counts = self.opened.counts;
        if spec.max_active != 0 && counts.active() + empty > spec.max_active {
            return Err(Refusal::ActiveLimit.into());
        }
        if spec.max_open == 0 {
            return Ok(());
        }
        let excess = (counts.open() + empty + closed).saturating_sub(spec.max_open);
        if empty + closed == 0 || excess == 0 {
            return Ok(());
        }
        if excess > counts.open_implicit - implicit {
            return Err(Refusal::OpenLimit.into());
        }
        if excess > self.opened.idle.len - idle {
            return Err(Hold::Turn);
        }
        self.close_idle(excess, first, last);
        Ok(())
    }

    /// Closes the `count` longest idle zones that are not from `first` to `last`.
    fn close_idle(&mut self, count: u32, first: ZoneId, last: ZoneId) {
        let mut left = count;
        let mut candidate = self.opened.idle.first;
        while left != 0 && candidate != NONE {
            let next = self.zones[candidate as usize].next;
            if !(first.0..=last.0).contains(&candidate) {
                self.close(ZoneId(candidate));
                left -= 1;
            }
            candidate = next;
        }
        debug_assert_eq!(left, 0, "they were counted");
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
        state.failing = false;
        state.broken = false;
        state.reserved = state.written;
        let (nothing, waiters) = (state.written == 0, state.waiters);
        if state.condition == Condition::ImplicitOpen {
            self.opened.busy.remove(&mut self.zones, zone);
            self.opened.idle.push(&mut self.zones, zone);
            // Only a write that succeeds opens a zone, so one that nothing was written to is empty still.
            if nothing || self.opened.draining == Some(zone) {
                self.close(zone);
            }
        }
        self.retry |= self.line.watches(waiters);
    }
}
