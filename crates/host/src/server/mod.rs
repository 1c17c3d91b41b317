//! The vhost-user server: gives a device to one frontend after the other.
//!
//! - [`Server`] owns the socket. It serves one frontend at a time; others wait in the backlog. It goes on
//!   whatever a frontend does, until a [`Shutdown`].
//! - A session is one connection: messages in, answers out, and the state of the queues between them. It
//!   runs on the thread that called [`Server::serve`].
//! - A worker is the thread of one running queue.
//!
//! When a session ends, for whatever reason, its queues take nothing more, what is in flight is finished,
//! the frontend's memory is unmapped, and the device begins anew for the next.

pub(crate) mod announcer;
pub(crate) mod event;
pub(crate) mod log;
mod ring;
mod session;
mod shutdown;
pub(crate) mod socket;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with, sockopt};
use zvb_device::Device;

pub use announcer::BackendChannelError;
pub use event::EventError;
pub use log::{Level, Log, LogObserver, NoLog, RateLimited};
pub use ring::RingFault;
pub use session::{RequestError, SessionEnd};
pub use shutdown::Shutdown;
pub use socket::BindError;

pub use crate::worker::StartError;

use log::Chain;
use session::Session;
use socket::Socket;

/// How long to wait before trying again when the host has no room for a connection.
const ACCEPT_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// What can be chosen about a server.
#[derive(Clone)]
pub struct ServerOptions {
    /// Who is told what happens. Lines come at a bounded rate.
    pub log: Arc<dyn Log>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self { log: Arc::new(NoLog) }
    }
}

/// Why a server can not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The socket takes no connections any more.
    #[error("the socket takes no connections any more")]
    Accept(#[source] io::Error),
    /// Waiting failed.
    #[error("cannot wait for a frontend")]
    Wait(#[source] io::Error),
    /// A queue's thread panicked.
    #[error("a queue's thread failed, which is a fault of this program; start it again")]
    Crippled,
}

/// A vhost-user back end on a Unix socket.
///
/// Dropping it removes the socket's file, if it made one and it still is that one.
pub struct Server {
    socket: Socket,
    log: Arc<dyn Log>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Server {
    /// Listens at `path`, for this user alone (mode 0600). A socket that nobody serves any more is
    /// replaced; a live one, or a file that is no socket, is left alone.
    pub fn bind(path: &Path, options: ServerOptions) -> Result<Self, BindError> {
        Ok(Self::new(Socket::bind(path)?, options))
    }

    /// Takes a Unix stream socket that was handed over. One that listens is served like any other; a
    /// connection is served to its end.
    pub fn from_fd(fd: OwnedFd, options: ServerOptions) -> Result<Self, BindError> {
        Ok(Self::new(Socket::inherited(fd)?, options))
    }

    fn new(socket: Socket, options: ServerOptions) -> Self {
        Self { socket, log: Arc::new(RateLimited::new(options.log)) }
    }

    /// Serves `device` to one frontend after the other, until `shutdown`; then the frontend of the moment
    /// is cut off, with everything in flight finished. (A connection that was handed over is served once.)
    pub fn serve(&self, device: &Arc<Device>, shutdown: &Shutdown) -> Result<(), ServeError> {
        match &self.socket {
            Socket::Listening { fd, .. } => {
                while wait_readable(fd.as_fd(), shutdown, None)? {
                    if let Some(stream) = self.accept(fd, shutdown)? {
                        self.session(device, stream, shutdown);
                        if device.is_crippled() {
                            return Err(ServeError::Crippled);
                        }
                    }
                }
            }
            Socket::Connected(fd) => {
                let stream = fd.try_clone().map_err(ServeError::Accept)?;
                self.session(device, stream, shutdown);
            }
        }
        Ok(())
    }

    /// The next connection, if it still is there.
    fn accept(
        &self,
        listener: &OwnedFd,
        shutdown: &Shutdown,
    ) -> Result<Option<OwnedFd>, ServeError> {
        match accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(stream) => Ok(Some(stream)),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => {
                let error = io::Error::from(errno);
                self.log.log(Level::Error, format_args!("cannot take a connection: {error}"));
                // The connection stays in the backlog, and the socket readable.
                wait_readable(shutdown.as_fd(), shutdown, Some(&ACCEPT_PAUSE))?;
                Ok(None)
            }
            Err(errno) => Err(ServeError::Accept(errno.into())),
        }
    }

    fn session(&self, device: &Arc<Device>, stream: OwnedFd, shutdown: &Shutdown) {
        let peer = Peer(sockopt::socket_peercred(&stream).ok().map(|peer| peer.pid));
        self.log.log(Level::Debug, format_args!("{peer} connected"));
        let log = Arc::clone(&self.log);
        let session = match Session::new(device, UnixStream::from(stream), log, shutdown) {
            Ok(session) => session,
            Err(error) => {
                self.log.log(Level::Error, format_args!("{peer} can not be served: {error}"));
                return;
            }
        };
        let end = session.run();
        let level = match end {
            SessionEnd::Closed | SessionEnd::Shutdown => Level::Debug,
            SessionEnd::Broken(_) | SessionEnd::Refused { .. } => Level::Warn,
        };
        self.log.log(level, format_args!("session of {peer} ended: {}", Chain(&end)));
    }
}

/// Who is at the other end.
struct Peer(Option<rustix::process::Pid>);

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "frontend (process {})", pid.as_raw_nonzero()),
            None => f.write_str("frontend"),
        }
    }
}

/// Waits until `fd` is readable (true), or it is time to end (false); after `timeout`, true as well.
fn wait_readable(
    fd: BorrowedFd<'_>,
    shutdown: &Shutdown,
    timeout: Option<&Timespec>,
) -> Result<bool, ServeError> {
    loop {
        let mut fds =
            [PollFd::from_borrowed_fd(fd, PollFlags::IN), PollFd::new(shutdown, PollFlags::IN)];
        match poll(&mut fds, timeout) {
            Ok(_) => return Ok(fds[1].revents().is_empty()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(ServeError::Wait(errno.into())),
        }
    }
}
