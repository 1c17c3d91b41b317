//! The socket that frontends connect to.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{
    FileType, FlockOperation, Mode, OFlags, fchmod, flock, fstat, open, stat, unlink,
};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with, sockopt};

/// Connections that wait while a frontend is served.
const BACKLOG: i32 = 128;

/// How long another server that is about to bind in the same directory is waited for: tries, and a time
/// between two.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Why there is no socket to be served on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another server is there.
    #[error("{} is in use by a running server", .path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("{} is there already, {}: it is left alone", .path.display(), kind_of(*.kind))]
    NotASocket {
        /// What was to be a socket.
        path: PathBuf,
        /// What it is.
        kind: FileType,
    },
    /// More bytes than a socket's address holds.
    #[error("{} is too long for the path of a socket: at most 107 bytes", .path.display())]
    PathTooLong {
        /// The path.
        path: PathBuf,
    },
    /// There is no folder for it.
    #[error(
        "{} can not be made: the folder {} is not there: make it, or give another path", .path.display(), .folder.display()
    )]
    NoFolder {
        /// The path.
        path: PathBuf,
        /// What is not there.
        folder: PathBuf,
    },
    /// A descriptor that was handed over is no Unix stream socket.
    #[error("the descriptor that was handed over is no Unix stream socket")]
    WrongDescriptor,
    /// The host refuses.
    #[error("cannot {what} {}", .path.display())]
    Host {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// What is in a socket's place, in words.
fn kind_of(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a regular file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a pipe",
        FileType::BlockDevice => "a block device",
        FileType::CharacterDevice => "a character device",
        _ => "no socket",
    }
}

/// Where connections come from.
#[derive(Debug)]
pub(crate) enum Socket {
    /// A socket that listens; its file is removed at the end when it is ours.
    Listening { fd: OwnedFd, _file: Option<SocketFile> },
    /// One connection that was made by somebody else.
    Connected(OwnedFd),
}

/// The name of a socket of ours in the file system; removed when dropped, if it still is ours.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = stat(&self.path)
            .is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (self.device, self.inode));
        if ours {
            // Nobody is left to be told.
            let _ = unlink(&self.path);
        }
    }
}

impl Socket {
    /// The socket alone; its file is removed.
    pub(crate) fn into_fd(self) -> OwnedFd {
        match self {
            Self::Listening { fd, .. } | Self::Connected(fd) => fd,
        }
    }

    /// Binds and listens at `path`, for this user alone. A socket that nobody serves any more is
    /// replaced; anything else that is there is left alone.
    pub(crate) fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |what| {
            move |errno: Errno| BindError::Host { what, path: path.into(), source: errno.into() }
        };
        let address = SocketAddrUnix::new(path).map_err(|errno| match errno {
            Errno::NAMETOOLONG => BindError::PathTooLong { path: path.into() },
            errno => failed("use the path")(errno),
        })?;
        let fd = stream_socket().map_err(failed("make a socket for"))?;
        // On a socket that is not bound yet this says what its file will be: at no moment can anybody
        // else open it.
        fchmod(&fd, Mode::RUSR | Mode::WUSR).map_err(failed("set the mode of"))?;
        let _lock = lock_directory(path);
        clear_the_way(path, &address)?;
        rustix::net::bind(&fd, &address).map_err(|errno| match (errno, path.parent()) {
            (Errno::NOENT, Some(folder)) => {
                BindError::NoFolder { path: path.into(), folder: folder.into() }
            }
            _ => failed("bind")(errno),
        })?;
        let stat = stat(path).map_err(failed("look at"))?;
        let file = SocketFile { path: path.into(), device: stat.st_dev, inode: stat.st_ino };
        rustix::net::listen(&fd, BACKLOG).map_err(failed("listen on"))?;
        Ok(Self::Listening { fd, _file: Some(file) })
    }

    /// A socket that was handed over: one that listens, or one connection.
    pub(crate) fn inherited(fd: OwnedFd) -> Result<Self, BindError> {
        let is_socket =
            fstat(&fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket);
        let is_unix_stream = sockopt::socket_domain(&fd) == Ok(AddressFamily::UNIX)
            && sockopt::socket_type(&fd) == Ok(SocketType::STREAM);
        if !is_socket || !is_unix_stream {
            return Err(BindError::WrongDescriptor);
        }
        match sockopt::socket_acceptconn(&fd) {
            Ok(true) => Ok(Self::Listening { fd, _file: None }),
            _ => Ok(Self::Connected(fd)),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Listening { fd, .. } | Self::Connected(fd) => fd.as_fd(),
        }
    }
}

fn stream_socket() -> Result<OwnedFd, Errno> {
    // A listener does not block: what was to be accepted may be gone.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Keeps other servers from looking at and replacing sockets in the directory of `path` at the same time.
/// Without the lock (a directory that can not be read, somebody who holds it for long) all still works,
/// but two servers that start in the same moment may both believe that they have the path.
fn lock_directory(path: &Path) -> Option<OwnedFd> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = open(directory, flags, Mode::empty()).ok()?;
    for _ in 0..LOCK_TRIES {
        match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(fd),
            Err(Errno::WOULDBLOCK | Errno::INTR) => thread::sleep(LOCK_PAUSE),
            Err(_) => return None,
        }
    }
    None
}

/// Removes a socket that nobody serves; refuses to touch anything else.
fn clear_the_way(path: &Path, address: &SocketAddrUnix) -> Result<(), BindError> {
    let failed =
        |what, errno: Errno| BindError::Host { what, path: path.into(), source: errno.into() };
    let kind = match rustix::fs::lstat(path) {
        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(failed("look at", errno)),
    };
    if kind != FileType::Socket {
        return Err(BindError::NotASocket { path: path.into(), kind });
    }
    let probe = stream_socket().map_err(|errno| failed("make a socket to try", errno))?;
    match rustix::net::connect(&probe, address) {
        // It listens; its backlog may be full.
        Ok(()) | Err(Errno::AGAIN) => Err(BindError::InUse { path: path.into() }),
        Err(Errno::CONNREFUSED) => match unlink(path) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed("replace the stale socket", errno)),
        },
        Err(Errno::NOENT) => Ok(()),
        // A socket of another type, say.
        Err(errno) => Err(failed("find out whether somebody serves", errno)),
    }
}
