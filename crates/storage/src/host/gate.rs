//! One write at a time to each sequential zone of a host's disk, or any number of appends.
//!
//! The device reserves places in a zone in order and lets writes to it be in flight together, from several
//! queues. A real disk takes a write at its write pointer only, and nothing below promises to keep two in
//! order. So a write passes the gate of its zone when it begins where the one before it has ended.
//!
//! Appends that the disk places itself need no order. The device begins none while a write to the zone is not over,
//! and gives a write that comes behind some the place at which all of them end: there the gate lets it pass.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::committer::Mailbox;

/// The gates of all zones.
#[derive(Debug)]
pub(super) struct Gates {
    /// Where the data of each zone ends on the disk, as far as is known: sectors from the zone's start.
    ends: Box<[AtomicU32]>,
    /// Those that are not just open.
    shut: Mutex<HashMap<u32, Gate>>,
}

/// What is going on in a zone.
#[derive(Debug, Default)]
struct Gate {
    /// A write is at the disk.
    running: bool,
    /// So many appends are.
    appends: u32,
    /// A write failed: nothing passes before the disk was asked where its pointer is.
    failed: bool,
    /// Where writes begin that wait, and whose they are.
    waiting: Vec<(u32, Arc<Mailbox>)>,
}

/// What the gate says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pass {
    /// It may go: to be told by [`Gates::leave`] when it is over.
    Go,
    /// Others come first; the mailbox is rung when it may be its turn.
    Wait,
    /// One before it failed.
    Failed,
}

impl Gates {
    /// Gates of zones whose data ends at `ends`.
    pub(super) fn new(ends: impl Iterator<Item = u32>) -> Self {
        Self { ends: ends.map(AtomicU32::new).collect(), shut: Mutex::default() }
    }

    fn shut(&self) -> MutexGuard<'_, HashMap<u32, Gate>> {
        self.shut.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the data of `zone` ends on the disk, as far as is known.
    pub(super) fn end(&self, zone: u32) -> u32 {
        self.ends.get(zone as usize).map_or(0, |end| end.load(Ordering::Acquire))
    }

    fn move_end(&self, zone: u32, end: u32) {
        if let Some(place) = self.ends.get(zone as usize) {
            place.store(end, Ordering::Release);
        }
    }

    /// True when nothing is written in `zone`, as far as is known, and no write is at the disk or waits.
    pub(super) fn is_blank(&self, zone: u32) -> bool {
        let shut = self.shut();
        !shut.contains_key(&zone) && self.end(zone) == 0
    }

    /// A write wants to begin at `at` of `zone`, for the engine with `mailbox`.
    pub(super) fn enter(&self, zone: u32, at: u32, mailbox: &Arc<Mailbox>) -> Pass {
        let mut shut = self.shut();
        let gate = shut.entry(zone).or_default();
        let end = self.end(zone);
        // What is behind the pointer can never go; what is at it stands before all that was lost.
        let pass = if at == end && !gate.running && gate.appends == 0 {
            Pass::Go
        } else if gate.failed || at < end {
            Pass::Failed
        } else {
            Pass::Wait
        };
        match pass {
            Pass::Go => {
                gate.running = true;
                gate.waiting.retain(|(place, _)| *place != at);
            }
            Pass::Wait if gate.waiting.iter().all(|(place, _)| *place != at) => {
                gate.waiting.push((at, Arc::clone(mailbox)));
            }
            Pass::Wait | Pass::Failed => {}
        }
        pass
    }

    /// An append goes to the disk, which chooses its place: it passes always.
    pub(super) fn enter_append(&self, zone: u32) {
        let mut shut = self.shut();
        let gate = shut.entry(zone).or_default();
        gate.appends = gate.appends.saturating_add(1);
    }

    /// The write that passed is over: written up to `end`, or failed. True when the engine with `mailbox` has
    /// a write that may go now; others are rung.
    pub(super) fn leave(&self, zone: u32, end: Option<u32>, mailbox: &Arc<Mailbox>) -> bool {
        let mut shut = self.shut();
        let Some(gate) = shut.get_mut(&zone) else { return false };
        gate.running = false;
        self.over(shut, zone, end, mailbox)
    }

    /// An append that passed is over: so many sectors are written, or it failed. True as from
    /// [`leave`](Self::leave). (Where the data ends is right when the last of them is over.)
    pub(super) fn leave_append(
        &self,
        zone: u32,
        sectors: Option<u32>,
        mailbox: &Arc<Mailbox>,
    ) -> bool {
        let mut shut = self.shut();
        let Some(gate) = shut.get_mut(&zone) else { return false };
        gate.appends = gate.appends.saturating_sub(1);
        let end = sectors.map(|sectors| self.end(zone).saturating_add(sectors));
        self.over(shut, zone, end, mailbox)
    }

    /// Something in `zone` is over, and the data ends at `end`; or it failed.
    fn over(
        &self,
        mut shut: MutexGuard<'_, HashMap<u32, Gate>>,
        zone: u32,
        end: Option<u32>,
        mailbox: &Arc<Mailbox>,
    ) -> bool {
        let Some(gate) = shut.get_mut(&zone) else { return false };
        let next: Vec<_> = match end {
            Some(end) => {
                self.move_end(zone, end);
                gate.waiting.extract_if(.., |(place, _)| *place == end).collect()
            }
            None => {
                gate.failed = true;
                std::mem::take(&mut gate.waiting)
            }
        };
        if !gate.failed && gate.waiting.is_empty() && !gate.running && gate.appends == 0 {
            shut.remove(&zone);
        }
        drop(shut);
        let mut ours = false;
        for (_, owner) in next {
            match Arc::ptr_eq(&owner, mailbox) {
                true => ours = true,
                false => owner.ring(),
            }
        }
        ours
    }

    /// A write to `zone` is lost that may never come here: those that wait for it are rung, and will fail.
    pub(super) fn abandon(&self, zone: u32) {
        let mut shut = self.shut();
        let gate = shut.entry(zone).or_default();
        gate.failed = true;
        let waiting = std::mem::take(&mut gate.waiting);
        drop(shut);
        waiting.iter().for_each(|(_, owner)| owner.ring());
    }

    /// The data of `zone`, in which nothing is under way, ends at `end`.
    pub(super) fn set(&self, zone: u32, end: u32) {
        let mut shut = self.shut();
        self.move_end(zone, end);
        shut.remove(&zone);
    }

    /// Writes to `zone`, in which nothing is under way, go on where the last that did not fail ended.
    pub(super) fn reopen(&self, zone: u32) {
        self.shut().remove(&zone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mailbox() -> Arc<Mailbox> {
        Arc::new(Mailbox::new().unwrap())
    }

    fn rung(mailbox: &Mailbox) -> bool {
        mailbox.take().is_some()
    }

    #[test]
    fn writes_pass_one_at_a_time_in_the_order_of_their_places() {
        let (a, b) = (mailbox(), mailbox());
        let gates = Gates::new([0, 8].into_iter());
        // The second place first, from another queue.
        assert_eq!(gates.enter(1, 16, &b), Pass::Wait);
        assert_eq!(gates.enter(1, 24, &a), Pass::Wait);
        assert_eq!(gates.enter(1, 8, &a), Pass::Go);
        assert_eq!(gates.enter(1, 16, &b), Pass::Wait);
        assert_eq!(gates.enter(0, 0, &b), Pass::Go, "another zone");
        assert!(!gates.is_blank(1) && !gates.is_blank(0), "a write is at the disk");
        assert!(!gates.leave(1, Some(16), &a));
        assert!(rung(&b) && !rung(&a));
        assert_eq!(gates.enter(1, 24, &a), Pass::Wait);
        assert_eq!(gates.enter(1, 16, &b), Pass::Go);
        assert!(!gates.leave(1, Some(24), &b));
        assert!(rung(&a) && !rung(&b));
        assert_eq!(gates.enter(1, 24, &a), Pass::Go);
        assert_eq!(gates.enter(1, 32, &a), Pass::Wait);
        assert!(gates.leave(1, Some(32), &a), "told at once, not by mail");
        assert!(!rung(&a));
    }

    #[test]
    fn a_write_goes_where_all_appends_before_it_end() {
        let (a, b) = (mailbox(), mailbox());
        let gates = Gates::new([8].into_iter());
        gates.enter_append(0);
        gates.enter_append(0);
        assert!(!gates.is_blank(0));
        assert_eq!(gates.enter(0, 24, &b), Pass::Wait);
        // One that is on its way still.
        assert!(!gates.leave_append(0, Some(4), &a));
        gates.enter_append(0);
        assert!(!gates.leave_append(0, Some(8), &a));
        assert_eq!(gates.enter(0, 24, &b), Pass::Wait);
        assert!(!rung(&b));
        assert!(!gates.leave_append(0, Some(4), &a));
        assert!(rung(&b));
        assert_eq!((gates.enter(0, 24, &b), gates.end(0)), (Pass::Go, 24));
        assert!(!gates.leave(0, Some(32), &b));
        // Behind one that fails there is no such place.
        gates.enter_append(0);
        gates.enter_append(0);
        assert_eq!(gates.enter(0, 48, &b), Pass::Wait);
        assert!(!gates.leave_append(0, None, &a));
        assert!(rung(&b));
        assert_eq!(gates.enter(0, 48, &b), Pass::Failed);
        assert!(!gates.leave_append(0, Some(8), &a));
        gates.set(0, 48);
        assert_eq!(gates.enter(0, 48, &a), Pass::Go);
    }

    #[test]
    fn a_write_at_the_end_waits_for_an_append_that_may_have_its_place() {
        let a = mailbox();
        let gates = Gates::new([0].into_iter());
        gates.enter_append(0);
        // Nobody may ask for this: all the same.
        assert_eq!(gates.enter(0, 0, &a), Pass::Wait);
    }

    #[test]
    fn behind_a_failure_nothing_passes_until_the_disk_was_asked() {
        let (a, b) = (mailbox(), mailbox());
        let gates = Gates::new([0].into_iter());
        assert!(gates.is_blank(0));
        assert_eq!(gates.enter(0, 0, &a), Pass::Go);
        assert_eq!(gates.enter(0, 8, &b), Pass::Wait);
        assert!(!gates.leave(0, None, &a));
        assert!(!gates.is_blank(0), "it may have been written in part");
        assert!(rung(&b));
        assert_eq!(gates.enter(0, 8, &b), Pass::Failed);
        gates.set(0, 4);
        assert_eq!(gates.enter(0, 0, &a), Pass::Failed);
        assert_eq!(gates.enter(0, 4, &a), Pass::Go);
        assert!(!gates.leave(0, None, &a));
        gates.reopen(0);
        assert_eq!(gates.enter(0, 4, &a), Pass::Go);
    }

    #[test]
    fn nobody_waits_for_a_write_that_never_comes() {
        let (a, b) = (mailbox(), mailbox());
        let gates = Gates::new([0].into_iter());
        // The one at 8 was lost on its way.
        assert_eq!(gates.enter(0, 16, &b), Pass::Wait);
        gates.abandon(0);
        assert!(rung(&b));
        assert_eq!(gates.enter(0, 16, &b), Pass::Failed);
        // One before it is sound.
        assert_eq!(gates.enter(0, 0, &a), Pass::Go);
        assert!(!gates.leave(0, Some(8), &a));
        assert_eq!(gates.enter(0, 24, &b), Pass::Failed);
        gates.set(0, 8);
        assert_eq!(gates.enter(0, 8, &b), Pass::Go);
    }
}
