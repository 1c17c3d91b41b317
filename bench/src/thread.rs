//! One thread on a file, with nobody in between: what a server of that file is measured by.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

use crate::hold::Window;

/// How one thread moves bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// By pread and pwrite.
    Calls,
    /// By copies from and to a mapping.
    Mapping,
}

/// What came of it.
pub(crate) struct Measured {
    /// Requests a second.
    pub(crate) iops: f64,
    /// Processor time for each, in microseconds.
    pub(crate) cpu_us: f64,
}

/// What is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) writes: bool,
    pub(crate) random: bool,
    pub(crate) bytes: usize,
    /// Buffers that are used in turn.
    pub(crate) depth: u32,
    pub(crate) time: Duration,
}

/// Moves bytes of the file at `path` on the first processor, one piece after the other.
pub(crate) fn measure(path: &Path, way: Way, load: Load) -> Result<Measured> {
    let file = File::options().read(true).write(true).open(path)?;
    let path = path.display();
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || run(&file, way, load));
        thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked")))
    })
    .with_context(|| format!("one thread on {path}"))
}

fn run(file: &File, way: Way, load: Load) -> Result<Measured> {
    let mut first = CpuSet::new();
    first.set(0);
    sched_setaffinity(None, &first)?;
    let len = file.metadata()?.len();
    let pieces = (len / load.bytes as u64).max(1);
    let window = match way {
        Way::Mapping => Some(Window::new(file, len)?),
        Way::Calls => None,
    };
    let mut buffers = vec![vec![7u8; load.bytes]; load.depth as usize];
    let (mut state, mut done) = (0x9e37_79b9_7f4a_7c15u64, 0u64);
    let (begin, cpu) = (Instant::now(), cpu_now());
    while begin.elapsed() < load.time {
        for buffer in &mut buffers {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let piece = if load.random { state % pieces } else { done % pieces };
            let at = piece * load.bytes as u64;
            match (&window, load.writes) {
                (None, false) => file.read_exact_at(buffer, at)?,
                (None, true) => file.write_all_at(buffer, at)?,
                (Some(window), false) => window.read(at, buffer),
                (Some(window), true) => window.write(at, buffer),
            }
            done += 1;
        }
    }
    let (elapsed, cpu) = (begin.elapsed(), cpu_now().saturating_sub(cpu));
    Ok(Measured {
        iops: done as f64 / elapsed.as_secs_f64(),
        cpu_us: cpu.as_secs_f64() * 1e6 / done as f64,
    })
}

fn cpu_now() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}
