//! How long a worker looks for work before it sleeps.
//!
//! To sleep and be woken takes a few microseconds of processor time and, where the processor went to
//! sleep too, tens of microseconds until the next request is seen. So a worker that has nothing to do
//! looks on for a while, but only where that has paid lately.

use std::time::{Duration, Instant};

/// What looking for less than this gains is not worth a look at the clock.
const LEAST: Duration = Duration::from_micros(1);

/// What a worker remembers of its idle times.
#[derive(Debug)]
pub(crate) struct Polling {
    /// The longest look.
    most: Duration,
    /// How long it looks now; 0: not at all.
    window: Duration,
    /// Since when there has been nothing to do.
    idle: Option<Instant>,
}

impl Polling {
    pub(crate) fn new(most: Duration) -> Self {
        Self { most, window: most, idle: None }
    }

    /// There was something to do.
    pub(crate) fn worked(&mut self, now: impl FnOnce() -> Instant) {
        let Some(since) = self.idle.take() else { return };
        let idle = now().saturating_duration_since(since);
        if idle < self.most {
            self.window = self.most;
        } else {
            // Work comes seldom, and looking that long would not have met it.
            self.window /= 2;
            if self.window < LEAST {
                self.window = Duration::ZERO;
            }
        }
    }

    /// There is nothing to do. True: look again rather than sleep.
    pub(crate) fn goes_on(&mut self, now: impl FnOnce() -> Instant) -> bool {
        if self.most.is_zero() {
            return false;
        }
        let now = now();
        let since = *self.idle.get_or_insert(now);
        now.saturating_duration_since(since) < self.window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    /// How long a worker looks whose work comes `idle` after it has none.
    fn looks(polling: &mut Polling, clock: &mut Instant, idle: Duration) -> Duration {
        let start = *clock;
        let mut looked = Duration::ZERO;
        while polling.goes_on(|| start + looked) && looked < idle {
            looked += US;
        }
        *clock = start + idle;
        polling.worked(|| *clock);
        looked
    }

    #[test]
    fn it_looks_where_that_pays_and_sleeps_where_it_does_not() {
        let (mut polling, mut clock) = (Polling::new(32 * US), Instant::now());
        for _ in 0..3 {
            assert_eq!(looks(&mut polling, &mut clock, 10 * US), 10 * US);
        }
        // Work that comes once in a millisecond: less and less, and then not at all.
        let spent: Vec<Duration> =
            (0..8).map(|_| looks(&mut polling, &mut clock, 1000 * US)).collect();
        assert_eq!(
            spent,
            [32 * US, 16 * US, 8 * US, 4 * US, 2 * US, US, Duration::ZERO, Duration::ZERO]
        );
        // Work that comes quickly again.
        assert_eq!(looks(&mut polling, &mut clock, 10 * US), Duration::ZERO);
        assert_eq!(looks(&mut polling, &mut clock, 10 * US), 10 * US);
    }

    #[test]
    fn one_that_may_not_look_never_asks_for_the_time() {
        let mut polling = Polling::new(Duration::ZERO);
        assert!(!polling.goes_on(|| unreachable!("asked")));
        polling.worked(|| unreachable!("asked"));
    }
}
