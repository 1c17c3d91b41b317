//! Eventfds: our own, and those that a frontend gives us.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{FileType, fstat};
use rustix::io::{Errno, ReadWriteFlags, preadv2, read, write};

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
    /// The host refuses.
    #[error("the descriptor can not be used")]
    Io(#[from] io::Error),
}

impl PeerEvent {
    pub(crate) fn new(fd: OwnedFd) -> Result<Self, EventError> {
        // An eventfd has no file type, as other anonymous files; of all that have one, some block.
        let mode = fstat(&fd).map_err(io::Error::from)?.st_mode;
        let kind = FileType::from_raw_mode(mode);
        if kind != FileType::Unknown {
            return Err(EventError::Kind(kind));
        }
        Ok(Self(fd))
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

#[cfg(test)]
mod tests {
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
    fn a_file_or_a_pipe_is_no_eventfd() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        assert!(matches!(PeerEvent::new(reader), Err(EventError::Kind(FileType::Fifo))));
        assert!(matches!(PeerEvent::new(writer), Err(EventError::Kind(FileType::Fifo))));
        let file = std::fs::File::open("/dev/null").unwrap();
        let refused = PeerEvent::new(file.into());
        assert!(matches!(refused, Err(EventError::Kind(FileType::CharacterDevice))));
    }
}
