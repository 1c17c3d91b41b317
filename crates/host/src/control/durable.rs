//! Makes a volume durable from a thread that has no queue.

use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use zvb_storage::{EngineError, Failure, Io, Op, Volume};
use zvb_wire::Sector;

/// How long to wait before an engine that has no event is looked at again.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// Why a volume is not durable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DurableError {
    /// There is no engine to ask.
    #[error("cannot reach the medium")]
    Engine(#[from] EngineError),
    /// The medium failed.
    #[error("the medium does not make it durable")]
    Failure(#[from] Failure),
}

/// Makes durable what was done to `volume` and recorded before, as a guest's FLUSH does, and waits for it.
pub fn make_durable(volume: &Arc<dyn Volume>) -> Result<(), DurableError> {
    let mut engine = Arc::clone(volume).engine(1)?;
    engine.submit(Io { tag: 0, at: Sector::ZERO, op: Op::Flush });
    let mut done = Vec::new();
    loop {
        engine.start();
        engine.reap(&mut done);
        if let Some(done) = done.pop() {
            return Ok(done.result?);
        }
        if let Some(event) = engine.event() {
            let mut fds = [PollFd::from_borrowed_fd(event, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => continue,
                Err(_) => {}
            }
        }
        // Nobody signals: look.
        let _ = poll(&mut [], Some(&LOOK_EVERY));
    }
}
