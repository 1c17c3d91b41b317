//! The three eventfds of a queue.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, read, write};

use super::error::ClientError;

/// What signals one queue, either way.
#[derive(Debug)]
pub(super) struct QueueEvents {
    /// We signal new buffers.
    kick: OwnedFd,
    /// The device signals used buffers.
    call: OwnedFd,
    /// The device signals that the queue is broken.
    broken: OwnedFd,
}

impl QueueEvents {
    pub(super) fn new() -> Result<Self, ClientError> {
        Ok(Self { kick: event()?, call: event()?, broken: event()? })
    }

    pub(super) fn kick(&self) -> BorrowedFd<'_> {
        self.kick.as_fd()
    }

    pub(super) fn call(&self) -> BorrowedFd<'_> {
        self.call.as_fd()
    }

    pub(super) fn broken(&self) -> BorrowedFd<'_> {
        self.broken.as_fd()
    }

    /// Signals new buffers.
    pub(super) fn notify(&self) -> Result<(), ClientError> {
        loop {
            match write(&self.kick, &1u64.to_le_bytes()) {
                // The counter is full: it has been signalled, and more than once.
                Ok(_) | Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed("notify the device", errno)),
            }
        }
    }

    /// Takes back what the device has signalled.
    pub(super) fn drain_call(&self) -> Result<(), ClientError> {
        let mut counter = [0; 8];
        loop {
            match read(&self.call, &mut counter) {
                Ok(_) | Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed("take a signal of the device", errno)),
            }
        }
    }
}

/// A new eventfd. It does not block on our side, and so not on the other.
fn event() -> Result<OwnedFd, ClientError> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|errno| ClientError::Local { what: "an eventfd", source: errno.into() })
}

/// `what` failed with `errno`.
pub(super) fn failed(what: &'static str, errno: Errno) -> ClientError {
    ClientError::Notification { what, source: io::Error::from(errno) }
}
