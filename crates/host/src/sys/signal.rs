//! SIGTERM and SIGINT, turned into a readable descriptor.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

/// Where the handler writes.
static BELL: AtomicI32 = AtomicI32::new(-1);

/// From now on the first SIGTERM and the first SIGINT add 1 to the eventfd `bell`; the second of each
/// does what it did before anyone cared. A SIGINT that was ignored (a job in the background) stays so.
pub(crate) fn ring_on_termination(bell: BorrowedFd<'static>) -> io::Result<()> {
    BELL.store(bell.as_raw_fd(), Ordering::Release);
    take(libc::SIGTERM)?;
    if !is_ignored(libc::SIGINT)? {
        take(libc::SIGINT)?;
    }
    // SAFETY: to ignore a signal runs no code, and this one is raised for nothing but writes that fail anyway.
    if unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn take(signal: libc::c_int) -> io::Result<()> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: all-zero bytes are a valid `sigaction` of no flags and an empty mask; the handler has the
    // signature that goes without SA_SIGINFO and does only what a handler may: an atomic load and a
    // write.
    let result = unsafe {
        (*action.as_mut_ptr()).sa_sigaction = on_signal as *const () as usize;
        (*action.as_mut_ptr()).sa_flags = libc::SA_RESETHAND | libc::SA_RESTART;
        libc::sigaction(signal, action.as_ptr(), ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn is_ignored(signal: libc::c_int) -> io::Result<bool> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: with no new action the call only fills in the present one, and zeroes are valid besides.
    let (result, action) = unsafe {
        (libc::sigaction(signal, ptr::null(), action.as_mut_ptr()), action.assume_init())
    };
    if result == 0 {
        Ok(action.sa_sigaction == libc::SIG_IGN)
    } else {
        Err(io::Error::last_os_error())
    }
}

extern "C" fn on_signal(_signal: libc::c_int) {
    let bell = BELL.load(Ordering::Acquire);
    // SAFETY: `BELL` is set before the handler is, to a descriptor that stays open for ever.
    let bell = unsafe { BorrowedFd::borrow_raw(bell) };
    // It can only fail when it was rung already. No libc call: `errno` stays as it is.
    let _ = rustix::io::write(bell, &1u64.to_le_bytes());
}
