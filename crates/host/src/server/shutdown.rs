//! The word to end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, OnceLock};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::event::Bell;
use crate::sys;

/// Tells a server to end in order. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Shutdown {
    bell: Arc<Bell>,
}

impl Shutdown {
    /// One that only [`trigger`](Self::trigger) triggers.
    pub fn new() -> io::Result<Self> {
        Ok(Self { bell: Arc::new(Bell::new()?) })
    }

    /// One that SIGTERM or SIGINT triggers. The second signal of a kind ends the process as it would have
    /// without this. There is one for the whole process: every call returns the same.
    ///
    /// SIGXFSZ is ignored from then on: a limit on the size of files makes a write fail, and does not end the
    /// server.
    pub fn on_signals() -> io::Result<Self> {
        static SIGNALLED: OnceLock<Shutdown> = OnceLock::new();
        let shutdown = match SIGNALLED.get() {
            Some(shutdown) => shutdown,
            None => {
                let new = Self::new()?;
                SIGNALLED.get_or_init(|| new)
            }
        };
        sys::signal::ring_on_termination(shutdown.as_fd())?;
        Ok(shutdown.clone())
    }

    /// From now on, end.
    pub fn trigger(&self) {
        self.bell.ring();
    }

    /// True when it is time to end.
    pub fn is_triggered(&self) -> bool {
        let mut fds = [PollFd::new(&self.bell, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }
}

impl AsFd for Shutdown {
    /// Readable when it is time to end. Not to be read.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
