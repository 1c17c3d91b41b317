//! Commands to zones that the medium carries out itself, as a host's zoned block device does: in two phases,
//! like writes, since they take time and may fail. And what becomes of a zone when its medium failed and
//! knows better than this table how it is.

use core::mem;

use zvb_wire::{Condition, Sector};

use crate::line::Ticket;
use crate::restore::rest;
use crate::write::Write;
use crate::{Manage, Outcome, Refused, Released, Snapshot, WriteId, ZoneId, Zones};

/// A command on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Underway {
    /// To one zone, which was in this condition before.
    Manage { what: Manage, before: Condition },
    /// RESET_ALL, which keeps its place in the line of the disk, so that nothing passes it.
    ResetAll(Ticket),
}

impl Zones {
    /// Decides what [`manage`](Self::manage) would do, for a medium that carries it out: once it has,
    /// [`end_write`](Self::end_write) applies it. Until then everything else to the zone waits. A zone that
    /// is to be opened counts as open from now on.
    pub fn begin_manage(
        &mut self,
        what: Manage,
        zone_start: Sector,
        owner: u64,
        ticket: Option<Ticket>,
    ) -> Result<WriteId, Refused> {
        let zone = self.managed_zone(zone_start).map_err(Refused::Status)?;
        let before = self.zone(zone).condition;
        let decided = self.allow_manage(what, zone, ticket).map(|()| {
            let id = self.reserve(Write::command(owner, zone, Underway::Manage { what, before }));
            self.zone_mut(zone).failing = true;
            if what == Manage::Open {
                self.apply_manage(what, zone);
            }
            id
        });
        self.settle(zone, ticket, decided)
    }

    /// The same for [`reset_all`](Self::reset_all). Until it is over everything else waits.
    pub fn begin_reset_all(
        &mut self,
        owner: u64,
        ticket: Option<Ticket>,
    ) -> Result<WriteId, Refused> {
        if let Err(hold) = self.allow_reset_all(ticket) {
            return self.settle_disk(ticket, Err(hold));
        }
        // A place in the line that is not given up before the end.
        let ticket = ticket.unwrap_or_else(|| self.line.join_disk());
        let write = Write::command(owner, ZoneId(0), Underway::ResetAll(ticket));
        Ok(WriteId(self.writes.insert(write)))
    }

    /// Applies a command, or takes it back when the medium refused it.
    pub(crate) fn end_command(
        &mut self,
        index: u32,
        command: Underway,
        outcome: Outcome,
        mut released: impl FnMut(Released),
    ) {
        let write = self.writes.remove(index);
        let ok = match command {
            Underway::Manage { what, before } => {
                self.end_manage(write.zone(), what, before, outcome)
            }
            Underway::ResetAll(ticket) => {
                let ok = outcome == Outcome::Done;
                if ok {
                    self.apply_reset_all();
                } else {
                    // Any of them may have been reset.
                    let first = self.geometry.spec().conventional;
                    self.suspects.extend((first..self.geometry.zone_count()).map(ZoneId));
                }
                self.line.leave_disk(ticket);
                self.retry |= !self.line.is_empty();
                ok
            }
        };
        released(Released { owner: write.owner(), ok });
    }

    fn end_manage(
        &mut self,
        zone: ZoneId,
        what: Manage,
        before: Condition,
        outcome: Outcome,
    ) -> bool {
        let sound = !self.zone(zone).broken;
        let ok = outcome == Outcome::Done && sound;
        match what {
            // Done already, when it began.
            Manage::Open if ok => {}
            Manage::Open if sound => self.transition(zone, before),
            _ if ok => self.apply_manage(what, zone),
            _ => {}
        }
        if !ok {
            self.zone_mut(zone).broken = true;
        }
        self.drop_flight(zone);
        ok
    }

    /// Gives `medium` every zone in which something failed since this was last called, and whether anything
    /// is in flight to it still: that will fail as well. When nothing is, `medium` says what state it has
    /// the zone in, which is taken over; a medium that has no word of its own says `None`. To be called after
    /// `end_write`, before anything else is decided.
    pub fn take_suspects(&mut self, mut medium: impl FnMut(ZoneId, bool) -> Option<Snapshot>) {
        if self.suspects.is_empty() {
            return;
        }
        let mut suspects = mem::take(&mut self.suspects);
        for zone in suspects.drain(..) {
            let busy = self.zone(zone).in_flight != 0;
            if let Some(state) = medium(zone, busy)
                && !busy
            {
                self.adopt(zone, state);
            }
        }
        // The buffer is kept for the next time.
        self.suspects = suspects;
    }

    /// Takes `state` for the state of `zone`, in which nothing is in flight. One that no zone of this
    /// geometry can be in is not taken; and a zone that was made to fail stays so.
    fn adopt(&mut self, zone: ZoneId, state: Snapshot) {
        let made_to_fail = self.zone(zone).usable().is_err();
        if made_to_fail
            || state == self.snapshot(zone)
            || rest(&self.geometry, zone, state).is_err()
        {
            return;
        }
        let to = self.zone_mut(zone);
        // A zone is at most 2^32 - 1 sectors long, by its geometry.
        to.written = state.written().0 as u32;
        to.reserved = to.written;
        self.mark_changed(zone);
        self.transition(zone, state.condition());
        // Whoever waits for this zone is to learn of it.
        self.retry |= !self.line.is_empty();
    }
}
