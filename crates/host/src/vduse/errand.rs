//! Something that takes its time, done by a thread of its own, and known to be done by a bell.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crate::server::event::Bell;

pub(crate) struct Errand<T> {
    bell: Arc<Bell>,
    thread: JoinHandle<T>,
}

impl<T: Send + 'static> Errand<T> {
    pub(crate) fn start(work: impl FnOnce() -> T + Send + 'static) -> io::Result<Self> {
        let bell = Arc::new(Bell::new()?);
        let thread = thread::Builder::new().name("errand".into()).spawn({
            let done = Ring(Arc::clone(&bell));
            move || {
                let _done = done;
                work()
            }
        })?;
        Ok(Self { bell, thread })
    }

    /// What came of it; waits until it is done. `None` when the thread died, a fault of this program.
    pub(crate) fn result(self) -> Option<T> {
        self.thread.join().ok()
    }
}

impl<T> AsFd for Errand<T> {
    /// Readable when it is done.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

/// Rings when the work is over, also when it panics.
struct Ring(Arc<Bell>);

impl Drop for Ring {
    fn drop(&mut self) {
        self.0.ring();
    }
}
