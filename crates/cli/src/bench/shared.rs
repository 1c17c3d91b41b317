//! Queues that append to the same zones: which zone comes next, and who resets it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;

/// Appends that a queue takes at once, at most: so queues seldom meet here, where nothing is measured.
const PART: u64 = 32;
/// How long one queue waits for another.
const PATIENCE: Duration = Duration::from_secs(10);

/// One of the queues.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    shared: Arc<Shared>,
    queue: usize,
}

/// Zones are filled in rounds, one zone each.
#[derive(Debug)]
struct Shared {
    /// Appends of a part, and parts of a zone.
    part: u64,
    parts: u64,
    /// The part that is taken next, counted through all rounds.
    next: AtomicU64,
    /// Rounds whose zone has been reset.
    begun: AtomicU64,
    /// By queue: the round that it is in.
    rounds: Vec<AtomicU64>,
}

impl Member {
    /// `queues` of them, for zones that take `each` appends.
    pub(crate) fn all(queues: usize, each: u64) -> Vec<Self> {
        let (part, parts) = Self::parts(each);
        let shared = Arc::new(Shared {
            part,
            parts,
            next: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            rounds: (0..queues).map(|_| AtomicU64::new(0)).collect(),
        });
        (0..queues).map(|queue| Self { shared: Arc::clone(&shared), queue }).collect()
    }

    /// Appends of a part, and parts of a zone that takes `each` appends.
    pub(crate) fn parts(each: u64) -> (u64, u64) {
        let part = each.clamp(1, PART);
        (part, (each / part).max(1))
    }

    /// How many appends [`take`](Self::take) takes.
    pub(super) fn part(&self) -> u64 {
        self.shared.part
    }

    /// How many appends a zone gets.
    pub(super) fn fills(&self) -> u64 {
        self.shared.part * self.shared.parts
    }

    /// The round of the next appends, and whether they are its first.
    pub(super) fn take(&self) -> (u64, bool) {
        let part = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let round = part / self.shared.parts;
        self.is_in(round);
        (round, part.is_multiple_of(self.shared.parts))
    }

    /// Nobody waits for this one any more.
    pub(super) fn leave(&self) {
        self.is_in(u64::MAX);
    }

    fn is_in(&self, round: u64) {
        if let Some(mine) = self.shared.rounds.get(self.queue) {
            mine.store(round, Ordering::Release);
        }
    }

    /// Waits until no queue is in the round that had the same of `zones` zones before (with one zone, until no
    /// queue is in a round before this one), and all zones before this one are reset.
    pub(super) fn wait_for_others(&self, round: u64, zones: usize) -> anyhow::Result<()> {
        let past =
            |mine: &AtomicU64| mine.load(Ordering::Acquire).saturating_add(zones as u64) > round;
        wait(|| self.shared.rounds.iter().all(past))?;
        wait(|| self.shared.begun.load(Ordering::Acquire) == round)
    }

    /// The zone of `round` is empty.
    pub(super) fn begin(&self, round: u64) {
        self.shared.begun.store(round.saturating_add(1), Ordering::Release);
    }

    /// Waits until the zone of `round` is empty.
    pub(super) fn wait_until_begun(&self, round: u64) -> anyhow::Result<()> {
        wait(|| self.shared.begun.load(Ordering::Acquire) > round)
    }
}

fn wait(until: impl Fn() -> bool) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !until() {
        if begun.elapsed() > PATIENCE {
            bail!("another queue does not go on");
        }
        std::thread::yield_now();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_go_round_and_the_first_of_a_round_is_told() {
        let members = Member::all(2, 2 * PART);
        assert_eq!(members[0].take(), (0, true));
        members[0].wait_for_others(0, 2).unwrap();
        members[0].begin(0);
        assert_eq!(members[1].take(), (0, false));
        members[1].wait_until_begun(0).unwrap();
        assert_eq!(members[1].take(), (1, true));
        assert_eq!(members[1].take(), (1, false));
    }

    #[test]
    fn a_zone_is_reset_when_all_have_left_it() {
        let members = Member::all(2, PART);
        assert_eq!((members[0].take(), members[1].take()), ((0, true), (1, true)));
        members[0].begin(0);
        members[1].begin(1);
        assert_eq!(members[1].take(), (2, true));
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                members[1].wait_for_others(2, 2).unwrap();
                assert!(done.load(Ordering::Acquire), "another is in that zone still");
            });
            std::thread::sleep(Duration::from_millis(20));
            done.store(true, Ordering::Release);
            members[0].leave();
            waiter.join().unwrap();
        });
    }
}
