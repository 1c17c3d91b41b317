//! Whether anything else runs.

use std::time::{Duration, Instant};

/// How long one look takes.
const LOOK: Duration = Duration::from_millis(100);
/// The share of the processors that may be busy.
const BUSY_MOST: f64 = 0.08;

/// Ticks of all processors: busy ones, and all.
fn ticks() -> Option<(f64, f64)> {
    parse(&std::fs::read_to_string("/proc/stat").ok()?)
}

fn parse(stat: &str) -> Option<(f64, f64)> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<f64> = line.split_whitespace().filter_map(|f| f.parse().ok()).collect();
    // Idle, and waiting for a disk; guests (fields 8 and 9) are counted with users already.
    let idle = fields.get(3)? + fields.get(4)?;
    let all: f64 = fields.iter().take(8).sum();
    Some((all - idle, all))
}

/// Waits until the processors are idle, for at most `patience`. False when they never were.
pub(crate) fn wait(patience: Duration) -> bool {
    let end = Instant::now() + patience;
    loop {
        let before = ticks();
        std::thread::sleep(LOOK);
        let (Some((busy, all)), Some((busy_now, all_now))) = (before, ticks()) else {
            return true;
        };
        let quiet = busy_now - busy <= BUSY_MOST * (all_now - all).max(1.0);
        if quiet || Instant::now() > end {
            return quiet;
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn ticks_are_told_apart() {
        let stat = "cpu  10 1 5 100 20 1 2 3 9 9\ncpu0 1 1 1 1\n";
        assert_eq!(super::parse(stat), Some((22.0, 142.0)));
        assert_eq!(super::parse("intr 1"), None);
    }
}
