//! What a server tells its owner.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use zvb_device::{GuestFault, Harm, Observer};
use zvb_ring::RingError;
use zvb_storage::Failure;
use zvb_wire::{RequestType, Sector};

/// How much a line matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Level {
    /// Of use when something is looked for.
    Debug,
    /// What happens in the normal course.
    Info,
    /// A frontend or a guest did what it must not.
    Warn,
    /// The host, or this program, failed.
    Error,
}

/// Takes lines. Called from any thread; must be quick.
pub trait Log: Send + Sync {
    /// One line, without an end of line.
    fn log(&self, level: Level, line: fmt::Arguments<'_>);
}

/// Drops every line.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoLog;

impl Log for NoLog {
    fn log(&self, _: Level, _: fmt::Arguments<'_>) {}
}

/// Lines that may come at once.
const BURST: u32 = 64;
/// Then one may come in this time.
const PER_LINE: Duration = Duration::from_millis(200);

/// Passes lines on at a bounded rate, so that no frontend can fill a disk with complaints about itself;
/// says how many it left out.
pub struct RateLimited {
    log: Arc<dyn Log>,
    state: Mutex<Bucket>,
}

struct Bucket {
    left: u32,
    refilled: Instant,
    left_out: Option<LeftOut>,
}

/// Lines that did not go out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct LeftOut {
    lines: u64,
    /// Of the weightiest: who does not hear of that level need not hear that there were more.
    level: Level,
}

impl RateLimited {
    /// Passes lines on to `log`.
    pub fn new(log: Arc<dyn Log>) -> Self {
        let state = Bucket { left: BURST, refilled: Instant::now(), left_out: None };
        Self { log, state: Mutex::new(state) }
    }
}

impl Bucket {
    /// Whether a line of `level` may go out at `now`, and what did not since the last that did.
    fn take(&mut self, level: Level, now: Instant) -> Option<Option<LeftOut>> {
        let periods = now.saturating_duration_since(self.refilled).as_nanos() / PER_LINE.as_nanos();
        if periods > 0 {
            let more = u32::try_from(periods).unwrap_or(BURST);
            self.left = self.left.saturating_add(more).min(BURST);
            self.refilled = now;
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Some(self.left_out.take())
            }
            None => {
                let before = self.left_out.unwrap_or(LeftOut { lines: 0, level });
                self.left_out = Some(LeftOut {
                    lines: before.lines.saturating_add(1),
                    level: before.level.max(level),
                });
                None
            }
        }
    }
}

impl Log for RateLimited {
    fn log(&self, level: Level, line: fmt::Arguments<'_>) {
        let may =
            self.state.lock().unwrap_or_else(PoisonError::into_inner).take(level, Instant::now());
        if let Some(left_out) = may {
            if let Some(LeftOut { lines, level }) = left_out {
                self.log.log(level, format_args!("lines left out here: {lines}"));
            }
            self.log.log(level, line);
        }
    }
}

/// Writes what a device observes to a [`Log`]. That a queue is retired is not written here: the server
/// says so.
pub struct LogObserver {
    log: RateLimited,
}

impl LogObserver {
    /// Writes to `log`, at a bounded rate.
    pub fn new(log: Arc<dyn Log>) -> Self {
        Self { log: RateLimited::new(log) }
    }
}

impl Observer for LogObserver {
    fn guest_fault(&self, queue: u16, fault: &GuestFault) {
        self.log.log(Level::Warn, format_args!("queue {queue}: {fault}"));
    }

    fn queue_retired(&self, _: u16, _: &RingError) {}

    fn medium_fault(&self, queue: u16, request: RequestType, at: Sector, why: &Failure) {
        let (place, why) = (Place(request, at), Chain(why));
        self.log.log(Level::Error, format_args!("queue {queue}: {request:?}{place}: {why}"));
    }

    fn turned_read_only(&self, part_is_lost: bool) {
        let what = match part_is_lost {
            true => {
                "part of the image is gone (it was cut short, or its disk failed): the disk is read-only \
                 from now on; copy what can be read, then see `zvb check`"
            }
            false => {
                "what was written could not be made durable: the disk is read-only from now on; what was \
                 flushed before is safe, and a new server goes on from there"
            }
        };
        // Never left out.
        self.log.log.log(Level::Error, format_args!("{what}"));
    }

    fn fault_injected(&self, queue: u16, request: RequestType, at: Sector, harm: Option<Harm>) {
        let harm = match harm {
            Some(Harm::Fail(_)) => "fails",
            Some(Harm::Tear(_)) => "is torn",
            None => "is delayed",
        };
        let place = Place(request, at);
        let line = format_args!("queue {queue}: {request:?}{place} {harm}, as told");
        self.log.log(Level::Info, line);
    }
}

/// Where a request is, if it is anywhere: a flush is not.
struct Place(RequestType, Sector);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self(RequestType::FLUSH | RequestType::GET_ID | RequestType::ZONE_RESET_ALL, _)
            | Self(_, Sector(u64::MAX)) => Ok(()),
            Self(_, at) => write!(f, " at sector {at}"),
        }
    }
}

/// An error and all that caused it, on one line.
pub(crate) struct Chain<'a>(pub(crate) &'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_cut_and_counted_and_time_makes_room() {
        let start = Instant::now();
        let mut bucket = Bucket { left: BURST, refilled: start, left_out: None };
        let mut take = |now| {
            bucket.take(Level::Warn, now).map(|left_out| left_out.map_or(0, |left| left.lines))
        };
        let passed = (0..1000).filter(|_| take(start).is_some()).count();
        assert_eq!(passed, BURST as usize);
        assert_eq!(take(start + PER_LINE), Some(1000 - u64::from(BURST)));
        assert_eq!(take(start + PER_LINE), None);
        assert_eq!(take(start + PER_LINE * 2), Some(1));
        let later = start + Duration::from_secs(86_400 * 365);
        assert_eq!((0..1000).filter(|_| take(later).is_some()).count(), BURST as usize);
    }

    #[test]
    fn what_is_nowhere_has_no_sector() {
        struct Lines(Mutex<Vec<String>>);
        impl Log for Lines {
            fn log(&self, _: Level, line: fmt::Arguments<'_>) {
                self.0.lock().unwrap().push(line.to_string());
            }
        }
        let lines = Arc::new(Lines(Mutex::default()));
        let observer = LogObserver::new(Arc::clone(&lines) as Arc<dyn Log>);
        let nowhere = Sector(u64::MAX);
        observer.medium_fault(0, RequestType::FLUSH, nowhere, &Failure::Poisoned);
        observer.fault_injected(1, RequestType::FLUSH, Sector(0), None);
        observer.fault_injected(1, RequestType::OUT, Sector(8), None);
        let lines = lines.0.lock().unwrap();
        assert!(lines[0].starts_with("queue 0: FLUSH: "), "{lines:?}");
        assert_eq!(lines[1], "queue 1: FLUSH is delayed, as told");
        assert_eq!(lines[2], "queue 1: OUT at sector 8 is delayed, as told");
    }

    #[test]
    fn lines_that_nobody_would_see_are_not_missed_aloud() {
        let start = Instant::now();
        let mut bucket = Bucket { left: 0, refilled: start, left_out: None };
        assert_eq!(bucket.take(Level::Debug, start), None);
        assert_eq!(bucket.take(Level::Debug, start), None);
        let quiet = LeftOut { lines: 2, level: Level::Debug };
        assert_eq!(bucket.take(Level::Debug, start + PER_LINE), Some(Some(quiet)));

        assert_eq!(bucket.take(Level::Error, start + PER_LINE), None);
        assert_eq!(bucket.take(Level::Debug, start + PER_LINE), None);
        let loud = LeftOut { lines: 2, level: Level::Error };
        assert_eq!(bucket.take(Level::Debug, start + PER_LINE * 2), Some(Some(loud)));
        assert_eq!(bucket.take(Level::Debug, start + PER_LINE * 3), Some(None));
    }
}
