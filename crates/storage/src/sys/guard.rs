//! Mappings of files that belong to somebody who may cut them short.
//!
//! A touch of a page that is no longer in its file raises SIGBUS. The handler here looks the address up
//! among the mappings of this process that asked for it, puts empty memory where the whole mapping was,
//! and marks it as lost. Any other SIGBUS goes to whoever had the signal before.

use std::ffi::c_void;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// Guarded mappings at a time, over all frontends of this process.
const GUARDS: usize = 2048;

static TABLE: [Guard; GUARDS] = [const { Guard::new() }; GUARDS];

/// One guarded range of addresses. The signal handler reads it at any moment, so it is a sequence lock:
/// `epoch` is odd while the range stands, and changes before and after every change of the range.
#[derive(Debug)]
struct Guard {
    claimed: AtomicBool,
    epoch: AtomicUsize,
    start: AtomicUsize,
    end: AtomicUsize,
    /// The mapping can be written, and so must what takes its place.
    writable: AtomicBool,
    lost: AtomicBool,
}

impl Guard {
    const fn new() -> Self {
        Self {
            claimed: AtomicBool::new(false),
            epoch: AtomicUsize::new(0),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            writable: AtomicBool::new(false),
            lost: AtomicBool::new(false),
        }
    }

    /// A guard that nobody uses, now the caller's; `None` when all are in use.
    fn claim() -> Option<&'static Self> {
        TABLE.iter().find(|guard| {
            guard
                .claimed
                .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
        })
    }

    /// Begins to stand for `start..end`. The caller has claimed it.
    fn arm(&self, start: usize, end: usize, access: Access) {
        self.lost.store(false, Ordering::Relaxed);
        self.writable.store(access == Access::Write, Ordering::Relaxed);
        self.start.store(start, Ordering::Relaxed);
        self.end.store(end, Ordering::Relaxed);
        self.epoch.fetch_add(1, Ordering::Release);
    }

    /// Stands for nothing any more.
    fn disarm(&self) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
        // A reader that sees anything of the next range sees this epoch as well.
        fence(Ordering::SeqCst);
    }

    /// What it stands for.
    fn range(&self) -> Option<(usize, usize)> {
        let epoch = self.epoch.load(Ordering::Acquire);
        if epoch.is_multiple_of(2) {
            return None;
        }
        let range = (self.start.load(Ordering::Relaxed), self.end.load(Ordering::Relaxed));
        fence(Ordering::SeqCst);
        (self.epoch.load(Ordering::Relaxed) == epoch).then_some(range)
    }
}

/// What a [`GuardedMapping`] can be used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Reading.
    Read,
    /// Reading and writing.
    Write,
}

impl Access {
    fn protection(self) -> ProtFlags {
        match self {
            Self::Read => ProtFlags::READ,
            Self::Write => ProtFlags::READ | ProtFlags::WRITE,
        }
    }
}

/// A shared mapping of a file that somebody else may cut short, or whose disk may fail: a touch of a page
/// that can not be had makes all of it empty memory, and [`is_lost`](Self::is_lost) true, where else the
/// process would die. Unmapped when dropped.
///
/// Here for everybody, because a process has one handler of SIGBUS.
#[derive(Debug)]
pub struct GuardedMapping {
    base: NonNull<u8>,
    len: usize,
    guard: &'static Guard,
}

// SAFETY: the mapping belongs to no thread, and it is reached through raw pointers only.
unsafe impl Send for GuardedMapping {}
// SAFETY: as above; `guard` is made of atomics.
unsafe impl Sync for GuardedMapping {}

impl GuardedMapping {
    /// Maps `len` bytes of `file` from `offset` on, both multiples of the file's page size.
    pub fn new(file: BorrowedFd<'_>, offset: u64, len: usize, access: Access) -> io::Result<Self> {
        install()?;
        let guard = Guard::claim().ok_or(io::ErrorKind::QuotaExceeded)?;
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let base = unsafe { mmap(ptr::null_mut(), len, access.protection(), flags, file, offset) };
        let Some(base) = base.map(NonNull::new).inspect_err(|_| guard.release())? else {
            guard.release();
            return Err(io::ErrorKind::AddrNotAvailable.into());
        };
        let start = base.as_ptr() as usize;
        // The kernel maps nothing that wraps.
        guard.arm(start, start + len, access);
        Ok(Self { base: base.cast(), len, guard })
    }

    /// The first of `len` bytes from `offset` on, when they are all inside.
    pub fn piece(&self, offset: usize, len: usize) -> Option<NonNull<u8>> {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        // SAFETY: `offset <= self.len`, so the pointer stays inside the mapping or just behind it.
        inside.then(|| unsafe { self.base.add(offset) })
    }

    /// All of it: its first byte, and how many there are.
    pub(crate) fn whole(&self) -> (NonNull<u8>, usize) {
        (self.base, self.len)
    }

    /// True when part of the file was gone when it was touched: this is empty memory now. Whoever copied
    /// something from it before, and sees false, has copied what was in the file.
    pub fn is_lost(&self) -> bool {
        // With the handler, which says so first: who has read the empty memory reads this as well.
        fence(Ordering::Acquire);
        self.guard.lost.load(Ordering::Relaxed)
    }
}

impl Guard {
    fn release(&self) {
        self.claimed.store(false, Ordering::Release);
    }
}

impl Drop for GuardedMapping {
    fn drop(&mut self) {
        self.guard.disarm();
        // SAFETY: `base` and `len` are what `mmap` gave and was given; nobody has the mapping any more,
        // for all pointers into it are bound to something that owns `self`.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "a mapping of ours is gone");
        self.guard.release();
    }
}

/// What handled SIGBUS before.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// Takes SIGBUS, once for the whole process.
fn install() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        let mut previous = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: all-zero bytes are a valid `sigaction` of no flags and an empty mask; the handler has
        // the signature that SA_SIGINFO asks for and does only what a handler may: atomics, mmap and
        // sigaction, which are plain system calls.
        let failed = unsafe {
            (*action.as_mut_ptr()).sa_sigaction = on_sigbus as *const () as usize;
            (*action.as_mut_ptr()).sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGBUS, ptr::null(), previous.as_mut_ptr())
        };
        if failed != 0 {
            return Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL));
        }
        // SAFETY: the call above filled it in.
        PREVIOUS.get_or_init(|| unsafe { previous.assume_init() });
        // SAFETY: as argued above.
        match unsafe { libc::sigaction(libc::SIGBUS, action.as_ptr(), ptr::null_mut()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL)),
        }
    });
    (*installed).map_err(io::Error::from_raw_os_error)
}

extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t` to a handler with SA_SIGINFO, and `si_addr` is in it
    // when a fault raised the signal, which the code says.
    let address = unsafe {
        if (*info).si_code == libc::BUS_ADRERR { Some((*info).si_addr() as usize) } else { None }
    };
    if address.is_some_and(replace_lost) {
        return;
    }
    if let Some(previous) = PREVIOUS.get() {
        // SAFETY: it was the action of this signal before. On return the same instruction runs again,
        // and raises the signal again, for whoever had it.
        unsafe { libc::sigaction(signal, previous, ptr::null_mut()) };
    }
}

/// Puts empty memory in place of the guarded mapping that holds `address`; false when there is none.
fn replace_lost(address: usize) -> bool {
    let holds = |guard: &&Guard| guard.range().is_some_and(|(a, b)| (a..b).contains(&address));
    let Some(guard) = TABLE.iter().find(holds) else { return false };
    let Some((start, end)) = guard.range() else { return false };
    let writable = guard.writable.load(Ordering::Relaxed);
    guard.lost.store(true, Ordering::Relaxed);
    fence(Ordering::Release);
    let access = if writable { Access::Write } else { Access::Read };
    let flags = MapFlags::FIXED | MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: the range is one whole mapping of ours: the thread that just touched it keeps it from being
    // unmapped. It becomes zeroes, which whoever has such a mapping must be ready for.
    let fresh =
        unsafe { mmap_anonymous(start as *mut c_void, end - start, access.protection(), flags) };
    fresh.is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    /// Not a test but the process that the next test watches dying.
    #[test]
    fn reckless() {
        if std::env::var_os("ZVB_TEST_RECKLESS").is_none() {
            return;
        }
        let file = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 4096).unwrap();
        let guarded = GuardedMapping::new(file.as_fd(), 0, 4096, Access::Write).unwrap();
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping replaces nothing.
        let bare = unsafe { mmap(ptr::null_mut(), 4096, protection, flags, &file, 0) }.unwrap();
        ftruncate(&file, 0).unwrap();
        let first = guarded.piece(0, 1).unwrap();
        // SAFETY: mapped, and guarded.
        assert_eq!(unsafe { first.as_ptr().read_volatile() }, 0);
        assert!(guarded.is_lost());
        println!("guarded");
        // SAFETY: mapped; that the page is gone is what this is about.
        unsafe { bare.cast::<u8>().read_volatile() };
        println!("survived");
    }

    #[test]
    fn a_sigbus_elsewhere_does_what_it_always_did() {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sys::guard::tests::reckless", "--nocapture", "--test-threads=1"])
            .env("ZVB_TEST_RECKLESS", "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("guarded") && !said.contains("survived"), "{output:?}");
        assert_eq!(output.status.signal(), Some(libc::SIGBUS));
    }
}
