//! What the server asks of us, over a socket of its own.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, TryLockError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

use super::connection::Connection;
use super::error::ClientError;
use crate::vhost_user::{
    BackendMessage, Channel, ChannelError, FrontendRequest, Patience, Received,
};

/// Requests served in one go; the rest waits for the next.
const BATCH: usize = 16;

/// The longest that the server may take over one message of its own, or over our answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Our end of the socket for the server's requests.
#[derive(Debug)]
pub(super) struct ServerRequests {
    channel: Mutex<Channel>,
    /// The same socket, to be polled without the lock.
    socket: UnixStream,
    /// The server closed it, or made no sense. The device can do without.
    closed: AtomicBool,
    /// How often configuration space has changed.
    config_changes: AtomicU32,
}

impl ServerRequests {
    /// Makes a pair of sockets and gives the server one of them.
    pub(super) fn offer(connection: &Connection) -> Result<Self, ClientError> {
        let local = |source| ClientError::Local { what: "a pair of sockets", source };
        let (ours, theirs) = UnixStream::pair().map_err(local)?;
        let socket = ours.try_clone().map_err(local)?;
        connection.command(FrontendRequest::SET_BACKEND_REQ_FD, &[], &[theirs.as_fd()])?;
        Ok(Self {
            channel: Mutex::new(Channel::new(ours)),
            socket,
            closed: AtomicBool::new(false),
            config_changes: AtomicU32::new(0),
        })
    }

    /// The socket, while there is a point in polling it.
    pub(super) fn pollable(&self) -> Option<BorrowedFd<'_>> {
        (!self.closed.load(Ordering::Relaxed)).then(|| self.socket.as_fd())
    }

    /// How often configuration space is known to have changed.
    pub(super) fn config_changes(&self) -> u32 {
        self.config_changes.load(Ordering::Acquire)
    }

    /// Serves what is there. Another thread that does so already is enough.
    pub(super) fn serve(&self) {
        let channel = match self.channel.try_lock() {
            Ok(channel) => channel,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        for _ in 0..BATCH {
            if self.pollable().is_none() || !is_readable(channel.as_fd()) {
                return;
            }
            if !self.serve_one(&channel).unwrap_or(false) {
                self.closed.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Serves one request. False at the end of the socket.
    fn serve_one(&self, channel: &Channel) -> Result<bool, ChannelError> {
        let patience = Patience { stop: None, timeout: Some(PATIENCE) };
        let Received::Frame(frame) = channel.receive(&patience)? else { return Ok(false) };
        let header = frame.header;
        let done = match frame.into_backend_message() {
            Ok(BackendMessage::ConfigChange) => {
                self.config_changes.fetch_add(1, Ordering::Release);
                true
            }
            // Queues signal through eventfds here, and nothing else was agreed on.
            Ok(_) | Err(_) => false,
        };
        if header.needs_reply() {
            let answer = U64::new(u64::from(!done));
            channel.send_reply(header.request.get(), answer.as_bytes(), &[], &patience)?;
        }
        Ok(true)
    }
}

/// True when reading would not block.
fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}
