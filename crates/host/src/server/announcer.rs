//! The other way: what the server tells a frontend that did not ask.
//!
//! A frontend gives a descriptor for it (SET_BACKEND_REQ_FD): a socket, or a pipe. All that is ever sent is
//! CONFIG_CHANGE_MSG, of twelve bytes and without wanting an answer, and never so that anybody waits: the
//! frontend may not read, and may do with its end what it likes. Where there is no room for a message, one
//! stands there unread, which says the same.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FileType, fstat};
use rustix::io::{Errno, read, write};
use rustix::net::{
    RecvFlags, SendFlags, SocketAddrAny, SocketAddrUnix, getpeername, getsockname, recv, send,
};
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
use zerocopy::IntoBytes;
use zvb_device::ConfigListener;

use super::log::{Level, Log};
use crate::vhost_user::{BackendRequest, Header};

/// Answers that nobody asked for are thrown away, so many at a time.
const STRAY_READS: usize = 16;

/// Why a descriptor is no use for telling a frontend anything.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendChannelError {
    /// Another kind of file.
    #[error("the descriptor for the server's own requests is no socket and no pipe but {0:?}")]
    Kind(FileType),
    /// Held by the server, it would keep up a connection whose frontend is gone.
    #[error("the socket for the server's own requests is the frontend's end of a connection to us")]
    Loop,
    /// The host refuses.
    #[error("the descriptor for the server's own requests can not be used")]
    Io(#[from] io::Error),
}

/// A way to one frontend, once it has given one.
///
/// It is told while a queue of its runs, and else as soon as one does: before and after, there is no driver
/// that would look, and QEMU 11.1 dies of a notification for a device that it has not started.
pub(crate) struct Announcer {
    state: Mutex<State>,
    log: Arc<dyn Log>,
}

#[derive(Default)]
struct State {
    line: Option<Line>,
    /// A queue runs.
    attended: bool,
    /// There is something that the frontend was not told.
    news: bool,
}

impl Announcer {
    pub(crate) fn new(log: Arc<dyn Log>) -> Self {
        Self { state: Mutex::default(), log }
    }

    /// From now on the frontend, whose connection to us is `connection`, is told through `fd`.
    pub(crate) fn connect(
        &self,
        fd: OwnedFd,
        connection: BorrowedFd<'_>,
    ) -> Result<(), BackendChannelError> {
        let line = Line::new(fd, connection)?;
        self.lock().line = Some(line);
        Ok(())
    }

    /// Queues run, from now on, or none does.
    pub(crate) fn attend(&self, attended: bool) {
        let mut state = self.lock();
        state.attended = attended;
        if attended && state.news {
            self.tell(state);
        }
    }

    /// Tells the frontend to look at configuration space and status, now or when a queue runs, if it has
    /// given a way to. Never waits.
    pub(crate) fn announce(&self) {
        let mut state = self.lock();
        if state.attended { self.tell(state) } else { state.news = true }
    }

    /// The same, now: of what keeps queues from running.
    pub(crate) fn insist(&self) {
        self.tell(self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, mut state: MutexGuard<'_, State>) {
        state.news = false;
        let Some(open) = &state.line else { return };
        match open.tell() {
            Ok(()) => {}
            Err(Errno::PIPE | Errno::CONNRESET) => state.line = None,
            Err(errno) => {
                state.line = None;
                drop(state);
                let error = io::Error::from(errno);
                self.log.log(
                    Level::Warn,
                    format_args!("the frontend can not be told of changes any more: {error}"),
                );
            }
        }
    }
}

impl ConfigListener for Announcer {
    fn config_changed(&self) {
        self.announce();
    }
}

/// The message.
fn config_change() -> Header {
    Header::request(BackendRequest::CONFIG_CHANGE.0, 0, false)
}

/// What messages go through.
enum Line {
    Socket(OwnedFd),
    /// The frontend shares the state of a pipe's end, so to ask for O_NONBLOCK is no help. To splice from a
    /// pipe of our own is never to wait, whatever the state.
    Pipe {
        theirs: OwnedFd,
        reader: OwnedFd,
        writer: OwnedFd,
    },
}

impl Line {
    fn new(fd: OwnedFd, connection: BorrowedFd<'_>) -> Result<Self, BackendChannelError> {
        let mode = fstat(&fd).map_err(io::Error::from)?.st_mode;
        match FileType::from_raw_mode(mode) {
            FileType::Socket if leads_back(&fd, connection) => Err(BackendChannelError::Loop),
            FileType::Socket => Ok(Self::Socket(fd)),
            FileType::Fifo => {
                let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
                let (reader, writer) = pipe_with(flags).map_err(io::Error::from)?;
                Ok(Self::Pipe { theirs: fd, reader, writer })
            }
            kind => Err(BackendChannelError::Kind(kind)),
        }
    }

    /// Sends the message, unless the frontend has one that it has not read. An error is the end of it.
    fn tell(&self) -> Result<(), Errno> {
        let message = config_change();
        let bytes = message.as_bytes();
        let sent = match self {
            Self::Socket(socket) => {
                discard(socket)?;
                send(socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
            }
            Self::Pipe { theirs, reader, writer } => {
                // What did not go through the last time is there still.
                let mut left = [0; Header::BYTES];
                let _ = read(reader, &mut left);
                write(writer, bytes)?;
                splice(reader, None, theirs, None, bytes.len(), SpliceFlags::NONBLOCK)
            }
        };
        match sent {
            Ok(sent) if sent == bytes.len() => Ok(()),
            // Half a message: the next would be taken for the rest of it.
            Ok(_) => Err(Errno::MSGSIZE),
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

/// True when `fd` is the other end of a connection to where `connection` was accepted.
pub(super) fn leads_back(fd: &OwnedFd, connection: BorrowedFd<'_>) -> bool {
    let named = |address: SocketAddrAny| {
        let address = SocketAddrUnix::try_from(address).ok()?;
        let has = |name: Option<&[u8]>| name.is_some_and(|name| !name.is_empty());
        (has(address.path_bytes()) || has(address.abstract_name())).then_some(address)
    };
    let peer = getpeername(fd).ok().flatten().and_then(named);
    peer.is_some() && peer == getsockname(connection).ok().and_then(named)
}

/// Throws away what the frontend says: nothing was asked.
fn discard(socket: &OwnedFd) -> Result<(), Errno> {
    let mut bytes = [0; 512];
    for _ in 0..STRAY_READS {
        match recv(socket, &mut bytes, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return Err(Errno::PIPE),
            Ok(_) => {}
            Err(Errno::AGAIN | Errno::INTR) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
