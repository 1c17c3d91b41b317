//! One message at a time over a Unix socket, file descriptors with it.

use core::mem::MaybeUninit;
use core::time::Duration;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use thiserror::Error;
use zerocopy::IntoBytes;

use super::decode::{BackendMessage, DecodeError, DecodeFault, FrontendMessage, Request};
use super::message::{BackendRequest, FrontendRequest, Header, HeaderError, MAX_FDS};

/// A socket to the other side. What is sent and received are whole messages.
///
/// Methods take `&self`, but two threads must not receive, or send, at the same time: they would get
/// pieces of each other's messages.
#[derive(Debug)]
pub struct Channel {
    socket: UnixStream,
}

/// What ends a wait besides what is waited for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Patience<'a> {
    /// A file descriptor that becomes readable when it is time to stop (an eventfd). It is not read.
    pub stop: Option<BorrowedFd<'a>>,
    /// How long one whole message may take; `None` for as long as it takes.
    pub timeout: Option<Duration>,
}

/// One message as it came: the header is that of version 1, and the payload as long as it says.
#[derive(Debug)]
pub struct Frame {
    /// The header.
    pub header: Header,
    /// The payload; at most [`MAX_PAYLOAD_BYTES`](super::MAX_PAYLOAD_BYTES) long.
    pub payload: Vec<u8>,
    /// The file descriptors that came with any part of it; at most [`MAX_FDS`].
    pub fds: Vec<OwnedFd>,
}

/// How receiving ended.
#[derive(Debug)]
pub enum Received {
    /// With a message.
    Frame(Frame),
    /// The other side closed the socket between two messages.
    End,
    /// [`Patience::stop`] became readable. What had come of a message is lost: the channel is of no more
    /// use.
    Stopped,
}

/// What broke the stream of messages. There is no going on after it.
#[derive(Debug, Error)]
pub enum ChannelError {
    /// The other side closed the socket in the middle of a message.
    #[error("the connection ended in the middle of a message")]
    Cut,
    /// The other side is not there any more.
    #[error("the other side has closed the connection")]
    Gone,
    /// The message took longer than [`Patience::timeout`].
    #[error("no whole message within the time allowed")]
    TimedOut,
    /// [`Patience::stop`] became readable while sending.
    #[error("stopped")]
    Stopped,
    /// A header that no message has.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// More file descriptors than any message has, or than this process may have open.
    #[error("more than {MAX_FDS} file descriptors with one message, or too many open already")]
    TooManyFds,
    /// The socket failed.
    #[error("the socket failed")]
    Io(#[from] io::Error),
}

impl From<Errno> for ChannelError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::CONNRESET | Errno::PIPE => Self::Gone,
            other => Self::Io(other.into()),
        }
    }
}

impl Frame {
    /// Understands this as a request of a front end.
    pub fn into_frontend_message(self) -> Result<FrontendMessage, DecodeError> {
        let request = FrontendRequest(self.header.request.get());
        if self.header.is_reply() {
            return Err(DecodeError {
                request: Request::Frontend(request),
                fault: DecodeFault::Reply,
            });
        }
        FrontendMessage::decode(request, &self.payload, self.fds)
    }

    /// Understands this as a request of a back end.
    pub fn into_backend_message(self) -> Result<BackendMessage, DecodeError> {
        let request = BackendRequest(self.header.request.get());
        if self.header.is_reply() {
            return Err(DecodeError {
                request: Request::Backend(request),
                fault: DecodeFault::Reply,
            });
        }
        BackendMessage::decode(request, &self.payload, self.fds)
    }
}

/// The socket, to be polled.
impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Channel {
    /// A channel over a connected socket.
    pub fn new(socket: UnixStream) -> Self {
        Self { socket }
    }

    /// Sends request `code`; `need_reply` asks for an answer (REPLY_ACK).
    pub fn send_request(
        &self,
        code: u32,
        need_reply: bool,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
        patience: &Patience<'_>,
    ) -> Result<(), ChannelError> {
        let header = Header::request(code, payload_size(payload), need_reply);
        self.send(&header, payload, fds, patience)
    }

    /// Answers request `code`.
    pub fn send_reply(
        &self,
        code: u32,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
        patience: &Patience<'_>,
    ) -> Result<(), ChannelError> {
        self.send(&Header::reply(code, payload_size(payload)), payload, fds, patience)
    }

    /// Sends one message. The file descriptors go with its first byte; at most [`MAX_FDS`] of them.
    fn send(
        &self,
        header: &Header,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
        patience: &Patience<'_>,
    ) -> Result<(), ChannelError> {
        assert!(header.check().is_ok() && fds.len() <= MAX_FDS, "a message that nobody takes");
        let deadline = Deadline::after(patience.timeout);
        let mut message = Vec::with_capacity(Header::BYTES + payload.len());
        message.extend_from_slice(header.as_bytes());
        message.extend_from_slice(payload);
        let (mut rest, mut fds) = (message.as_slice(), fds);
        while !rest.is_empty() {
            if !self.wait_for(PollFlags::OUT, patience.stop, &deadline)? {
                return Err(ChannelError::Stopped);
            }
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() {
                let fits = control.push(SendAncillaryMessage::ScmRights(fds));
                assert!(fits, "there is room for MAX_FDS file descriptors");
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(&self.socket, &[IoSlice::new(rest)], &mut control, flags) {
                Ok(sent) => {
                    rest = rest.get(sent..).unwrap_or_default();
                    fds = &[];
                }
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Receives one message. File descriptors of a message that is refused are closed.
    pub fn receive(&self, patience: &Patience<'_>) -> Result<Received, ChannelError> {
        let deadline = Deadline::after(patience.timeout);
        let mut fds = Vec::new();
        let mut header = [0; Header::BYTES];
        match self.fill(&mut header, &mut fds, patience.stop, &deadline)? {
            Filled::Whole => {}
            Filled::Ended(0) => return Ok(Received::End),
            Filled::Ended(_) => return Err(ChannelError::Cut),
            Filled::Stopped => return Ok(Received::Stopped),
        }
        let header: Header = zerocopy::transmute!(header);
        header.check()?;
        // At most MAX_PAYLOAD_BYTES, as just checked.
        let mut payload = vec![0; header.size.get() as usize];
        match self.fill(&mut payload, &mut fds, patience.stop, &deadline)? {
            Filled::Whole => Ok(Received::Frame(Frame { header, payload, fds })),
            Filled::Ended(_) => Err(ChannelError::Cut),
            Filled::Stopped => Ok(Received::Stopped),
        }
    }

    /// Receives until `into` is full.
    fn fill(
        &self,
        into: &mut [u8],
        fds: &mut Vec<OwnedFd>,
        stop: Option<BorrowedFd<'_>>,
        deadline: &Deadline,
    ) -> Result<Filled, ChannelError> {
        let mut filled = 0;
        while let Some(rest) = into.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            if !self.wait_for(PollFlags::IN, stop, deadline)? {
                return Ok(Filled::Stopped);
            }
            match self.receive_some(rest, fds) {
                Ok(Some(0)) => return Ok(Filled::Ended(filled)),
                Ok(Some(got)) => filled += got,
                Ok(None) => {}
                // How a socket ends whose other side had not read all that we sent.
                Err(ChannelError::Gone) => return Ok(Filled::Ended(filled)),
                Err(error) => return Err(error),
            }
        }
        Ok(Filled::Whole)
    }

    /// Receives what is there, up to `into.len()` bytes and what file descriptors go with them. 0 bytes
    /// are the end; `None` says that there is nothing yet.
    fn receive_some(
        &self,
        into: &mut [u8],
        fds: &mut Vec<OwnedFd>,
    ) -> Result<Option<usize>, ChannelError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let got = match recvmsg(&self.socket, &mut [IoSliceMut::new(into)], &mut control, flags) {
            Ok(got) => got,
            Err(Errno::INTR | Errno::AGAIN) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        // Draining makes them ours: whatever happens next, they are closed once.
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received);
            }
        }
        if got.flags.contains(ReturnFlags::CTRUNC) || fds.len() > MAX_FDS {
            return Err(ChannelError::TooManyFds);
        }
        Ok(Some(got.bytes))
    }

    /// Waits until the socket is ready, or its other side gone. False when it is time to stop.
    fn wait_for(
        &self,
        what: PollFlags,
        stop: Option<BorrowedFd<'_>>,
        deadline: &Deadline,
    ) -> Result<bool, ChannelError> {
        // Without a file descriptor to stop on, the socket stands in, asked for nothing.
        let (stop, stop_flags) = match stop {
            Some(stop) => (stop, PollFlags::IN),
            None => (self.socket.as_fd(), PollFlags::empty()),
        };
        loop {
            let mut fds =
                [PollFd::new(&self.socket, what), PollFd::from_borrowed_fd(stop, stop_flags)];
            match poll(&mut fds, deadline.left()?.as_ref()) {
                Ok(0) => return Err(ChannelError::TimedOut),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
            let [socket, stop] = fds;
            if !stop_flags.is_empty() && !stop.revents().is_empty() {
                return Ok(false);
            }
            if !socket.revents().is_empty() {
                return Ok(true);
            }
        }
    }
}

/// How far [`Channel::fill`] came.
enum Filled {
    Whole,
    Ended(usize),
    Stopped,
}

/// The moment after which a wait is in vain.
struct Deadline(Option<Instant>);

impl Deadline {
    /// A timeout too long to be reckoned with is none.
    fn after(timeout: Option<Duration>) -> Self {
        Self(timeout.and_then(|timeout| Instant::now().checked_add(timeout)))
    }

    /// What is left, as `poll` wants it.
    fn left(&self) -> Result<Option<Timespec>, ChannelError> {
        let Some(end) = self.0 else { return Ok(None) };
        let left = end.saturating_duration_since(Instant::now());
        Timespec::try_from(left).map(Some).map_err(|_| ChannelError::TimedOut)
    }
}

fn payload_size(payload: &[u8]) -> u32 {
    u32::try_from(payload.len()).unwrap_or(u32::MAX)
}
