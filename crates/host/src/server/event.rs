//! Eventfds: our own, and those that a frontend gives us.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{FileType, fstat};
use rustix::io::{Errno, ReadWriteFlags, preadv2, read, write};
use rustix::net::{SendFlags, send};

use super::announcer::leads_back;
use crate::worker::Call;

/// The count at which an eventfd takes no more.
const SATURATED: u64 = u64::MAX - 1;

/// An eventfd of our own.
#[derive(Debug)]
pub(crate) struct Bell(OwnedFd);

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Makes it readable.
    pub(crate) fn ring(&self) {
        // Fails only when it was rung 2^64 - 2 times and never cleared: it is readable.
        let _ = write(&self.0, &1u64.to_le_bytes());
    }

    /// Makes it not readable.
    pub(crate) fn clear(&self) {
        // Fails only when it was not readable.
        let _ = read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl zvb_device::Wake for Bell {
    fn wake(&self) {
        self.ring();
    }
}

/// An eventfd that the frontend made. The frontend has it too and may do anything with it: take what it
/// counts, make it block, let it overflow. Nothing here waits for it, but a [`signal`](Call::signal) to
/// one that blocks and was made to overflow; [`unwedge`](Self::unwedge) frees that. (To set O_NONBLOCK
/// would be felt by the frontend, which may well wait in a read, and could undo it.)
#[derive(Debug)]
pub(crate) struct PeerEvent(OwnedFd);

/// Why a descriptor is no use as an eventfd.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// Another kind of file.
    #[error("the descriptor is no eventfd but {0:?}")]
    Kind(FileType),
    /// Held by the server, it would keep up a connection whose frontend is gone.
    #[error("the socket for signals is the frontend's end of a connection to us")]
    Loop,
    /// The host refuses.
    #[error("the descriptor can not be used")]
    Io(#[from] io::Error),
}

impl PeerEvent {
    pub(crate) fn new(fd: OwnedFd) -> Result<Self, EventError> {
        // An eventfd has no file type, as other anonymous files; of all that have one, some block.
        match kind(&fd)? {
            FileType::Unknown => Ok(Self(fd)),
            kind => Err(EventError::Kind(kind)),
        }
    }

    /// Takes what it counts, and never waits: whatever else the descriptor is, or is made to do.
    pub(crate) fn drain(&self) -> io::Result<()> {
        self.take().map(|_| ())
    }

    fn take(&self) -> io::Result<u64> {
        let mut count = [0; 8];
        // `u64::MAX` stands for "no offset".
        let into = &mut [IoSliceMut::new(&mut count)];
        match preadv2(&self.0, into, u64::MAX, ReadWriteFlags::NOWAIT) {
            Ok(_) => Ok(u64::from_le_bytes(count)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Call for PeerEvent {
    /// Makes it readable.
    fn signal(&self) -> io::Result<()> {
        loop {
            match write(&self.0, &1u64.to_le_bytes()) {
                // Saturated: it is readable.
                Ok(_) | Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Frees a thread that hangs in [`signal`](Self::signal), if one does; takes no signal away.
    fn unwedge(&self) {
        if let Ok(count) = self.take()
            && count > 0
            && count < SATURATED
        {
            // Not what held a writer: put it back.
            let _ = write(&self.0, &count.to_le_bytes());
        }
    }
}

impl AsFd for PeerEvent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// How the frontend whose connection to us is `connection` is told, through `fd`, that chains were
/// answered: by an eventfd, or by a socket, which is what User-Mode Linux has.
pub(crate) fn call(fd: OwnedFd, connection: BorrowedFd<'_>) -> Result<Arc<dyn Call>, EventError> {
    match kind(&fd)? {
        FileType::Socket if leads_back(&fd, connection) => Err(EventError::Loop),
        FileType::Socket => Ok(Arc::new(PeerSocket(fd))),
        _ => Ok(Arc::new(PeerEvent::new(fd)?)),
    }
}

fn kind(fd: &OwnedFd) -> Result<FileType, EventError> {
    Ok(FileType::from_raw_mode(fstat(fd).map_err(io::Error::from)?.st_mode))
}

/// A socket whose other end the frontend reads, as if it were an eventfd: eight bytes a signal.
#[derive(Debug)]
struct PeerSocket(OwnedFd);

impl Call for PeerSocket {
    /// Makes the other end readable, and never waits.
    fn signal(&self) -> io::Result<()> {
        loop {
            match send(&self.0, &1u64.to_le_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                // No room: there are signals that it has not read.
                Ok(_) | Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use rustix::fs::{OFlags, fcntl_setfl};

    use super::*;

    fn pair() -> (PeerEvent, OwnedFd) {
        let theirs = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        (PeerEvent::new(theirs.try_clone().unwrap()).unwrap(), theirs)
    }

    fn count(fd: &OwnedFd) -> u64 {
        let mut bytes = [0; 8];
        read(fd, &mut bytes).map_or(0, |_| u64::from_le_bytes(bytes))
    }

    #[test]
    fn a_peer_that_makes_its_eventfd_block_does_not_stop_us_from_draining_it() {
        let (ours, theirs) = pair();
        // Blocks for ever if it were a plain read.
        ours.drain().unwrap();
        ours.signal().unwrap();
        ours.signal().unwrap();
        assert_eq!(count(&theirs), 2);
    }

    #[test]
    fn a_saturated_eventfd_is_as_good_as_signalled() {
        let (ours, theirs) = pair();
        fcntl_setfl(&theirs, OFlags::NONBLOCK).unwrap();
        write(&theirs, &SATURATED.to_le_bytes()).unwrap();
        ours.signal().unwrap();
        assert_eq!(count(&theirs), SATURATED);
    }

    #[test]
    fn a_writer_that_was_made_to_hang_is_freed_and_a_signal_is_not_lost() {
        let (ours, theirs) = pair();
        ours.signal().unwrap();
        ours.unwedge();
        assert_eq!(count(&theirs), 1);

        write(&theirs, &SATURATED.to_le_bytes()).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| ours.signal());
            while !writer.is_finished() {
                std::thread::sleep(std::time::Duration::from_millis(5));
                ours.unwedge();
            }
        });
        fcntl_setfl(&theirs, OFlags::NONBLOCK).unwrap();
        assert!(count(&theirs) >= 1);
    }

    #[test]
    fn a_socket_is_signalled_like_an_eventfd_and_never_waited_for() {
        let (connection, _frontend) = UnixStream::pair().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let call = call(ours.into(), connection.as_fd()).unwrap();
        call.signal().unwrap();
        assert_eq!(count(&theirs.try_clone().unwrap().into()), 1);
        for _ in 0..100_000 {
            call.signal().unwrap();
        }
        theirs.set_nonblocking(true).unwrap();
        let theirs = theirs.into();
        let signals = std::iter::from_fn(|| Some(count(&theirs)).filter(|&n| n != 0));
        assert!(signals.inspect(|&n| assert_eq!(n, 1)).count() > 0);
        drop(theirs);
        assert!(call.signal().is_err(), "nobody has the other end");
    }

    #[test]
    fn the_frontends_end_of_the_connection_is_no_way_to_signal_it() {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("s")).unwrap();
        let frontend = UnixStream::connect(directory.path().join("s")).unwrap();
        let (connection, _) = listener.accept().unwrap();
        let refused = call(frontend.into(), connection.as_fd());
        assert!(matches!(refused, Err(EventError::Loop)));
    }

    #[test]
    fn a_file_or_a_pipe_is_no_eventfd() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        assert!(matches!(PeerEvent::new(reader), Err(EventError::Kind(FileType::Fifo))));
        assert!(matches!(PeerEvent::new(writer), Err(EventError::Kind(FileType::Fifo))));
        let file = std::fs::File::open("/dev/null").unwrap();
        let refused = PeerEvent::new(file.into());
        assert!(matches!(refused, Err(EventError::Kind(FileType::CharacterDevice))));
    }
}
