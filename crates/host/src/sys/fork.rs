//! A child process that goes on with this program's code.

use std::io;
use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use std::os::fd::OwnedFd;

/// Makes a process that runs `work` with one end of a socket and ends with it; this process gets the other end.
/// To be called while this process has one thread: of others the child would have what they locked.
///
/// SIGINT and SIGTERM, which a terminal or a service manager sends to both, are ignored by the child: it ends when
/// the other end of its socket is closed.
pub(crate) fn spawn(work: impl FnOnce(OwnedFd)) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    // SAFETY: the child goes on with this thread alone. What other threads held locked it would find locked for
    // ever, which is no fault of memory; the caller has no others.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(ours);
            for signal in [libc::SIGINT, libc::SIGTERM] {
                // SAFETY: to ignore a signal runs no code.
                unsafe { libc::signal(signal, libc::SIG_IGN) };
            }
            close_all_but(theirs.as_raw_fd());
            let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(theirs)));
            // SAFETY: ends this process and touches nothing: what the parent registered to be run at its end is
            // not the child's to run.
            unsafe { libc::_exit(i32::from(worked.is_err())) }
        }
        _ => Ok(ours),
    }
}

/// Closes what the parent has open, but for standard output and error and `kept`: files that it has locked, say.
fn close_all_but(kept: i32) {
    let kept = kept.cast_unsigned();
    for (first, last) in [(3, kept.saturating_sub(1)), (kept.saturating_add(1), u32::MAX)] {
        if first <= last {
            // SAFETY: a system call that closes descriptors of this process, which has just been made: it uses
            // none of them, whoever owns them in the parent. A kernel that has no such call leaves them open.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    }
}
