//! Memory mappings: the zone table of a file, and the bytes of a disk without one.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{
    Advice, MapFlags, MprotectFlags, MsyncFlags, ProtFlags, madvise, mmap_anonymous, mprotect,
    msync, munmap,
};
use zvb_ring::Buffers;

use super::guard::{Access, GuardedMapping};
use super::{fetch, runs};
use crate::medium::Mapped;

const PAGE: usize = 4096;

/// A mapping, unmapped when dropped.
#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread; what it holds is only reached through
// atomics (`Words`) or raw copies (`Bytes`).
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn anonymous(len: usize) -> io::Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping where the kernel likes touches nothing that exists.
        let base = unsafe {
            mmap_anonymous(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags)?
        };
        Self::at(base.cast(), len)
    }

    /// Addresses, of which nothing can be touched yet.
    fn reserved(len: usize) -> io::Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: as in `anonymous`.
        let base = unsafe { mmap_anonymous(ptr::null_mut(), len, ProtFlags::empty(), flags)? };
        Self::at(base.cast(), len)
    }

    fn at(base: *mut u8, len: usize) -> io::Result<Self> {
        let base = NonNull::new(base).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { base, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping; its only borrowers borrowed `self`. (A failure would leave it mapped.)
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// A run of 64-bit words that other processes, or the kernel, may look at while we change it.
#[derive(Debug)]
pub(crate) struct Words(Kept);

/// Where they are.
#[derive(Debug)]
enum Kept {
    Nowhere,
    InMemory(Mapping),
    InFile(GuardedMapping),
}

impl Words {
    /// No words.
    pub(crate) const NONE: Self = Self(Kept::Nowhere);

    /// `count` words of the file `fd`, which can be written, from byte `at` on, a multiple of 4096.
    pub(crate) fn of_file(fd: BorrowedFd<'_>, at: u64, count: usize) -> io::Result<Self> {
        match count.checked_mul(8) {
            Some(0) => Ok(Self::NONE),
            Some(len) => Ok(Self(Kept::InFile(GuardedMapping::new(fd, at, len, Access::Write)?))),
            None => Err(io::ErrorKind::OutOfMemory.into()),
        }
    }

    /// `count` words of our own, all zero.
    pub(crate) fn anonymous(count: usize) -> io::Result<Self> {
        match count.checked_mul(8) {
            Some(0) => Ok(Self::NONE),
            Some(len) => Ok(Self(Kept::InMemory(Mapping::anonymous(len)?))),
            None => Err(io::ErrorKind::OutOfMemory.into()),
        }
    }

    /// Makes those of a file durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let Some((base, len)) = self.place() else { return Ok(()) };
        // SAFETY: our own mapping, whole; nothing in it changes.
        Ok(unsafe { msync(base.as_ptr().cast(), len, MsyncFlags::SYNC) }?)
    }

    /// True when the file could not give them any more: they are zeroes then, and kept nowhere.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(&self.0, Kept::InFile(map) if map.is_lost())
    }

    fn place(&self) -> Option<(NonNull<u8>, usize)> {
        match &self.0 {
            Kept::Nowhere => None,
            Kept::InMemory(map) => Some((map.base, map.len)),
            Kept::InFile(map) => Some(map.whole()),
        }
    }

    /// The words.
    pub(crate) fn get(&self) -> &[AtomicU64] {
        let Some((base, len)) = self.place() else { return &[] };
        // SAFETY: the mapping is `len` bytes long, page-aligned, readable, and lives as long as `self` (where
        // its file can not give a page, the guard puts memory of the same size in its place); any bytes
        // are an `AtomicU64`, and whoever else changes them is what atomics are for.
        unsafe { std::slice::from_raw_parts(base.as_ptr().cast(), len / 8) }
    }
}

impl Mapped for Words {
    fn words(&self) -> &[AtomicU64] {
        self.get()
    }

    fn is_lost(&self) -> bool {
        Self::is_lost(self)
    }

    fn sync(&self) -> io::Result<()> {
        Self::sync(self)
    }
}

/// Addresses that are kept for a disk in memory to grow into, where the system has them: they cost nothing.
const ROOM_MIN: usize = 1 << 40;
const ROOM_MAX: usize = 1 << 45;

/// The bytes of a disk that lives in memory.
#[derive(Debug)]
pub(crate) struct Bytes {
    /// More than there are bytes: the rest can not be touched.
    map: Mapping,
    /// Of what can be; never less than it was.
    len: AtomicU64,
}

/// Past the end of [`Bytes`].
#[derive(Debug)]
pub(crate) struct PastEnd;

impl Bytes {
    /// `len` zero bytes, of which those that were never written take no room.
    pub(crate) fn new(len: u64) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let room = len.saturating_mul(16).clamp(ROOM_MIN, ROOM_MAX).max(len);
        let map = Mapping::reserved(room).or_else(|_| Mapping::reserved(len))?;
        let bytes = Self { map, len: AtomicU64::new(0) };
        bytes.lengthen(len as u64)?;
        Ok(bytes)
    }

    pub(crate) fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    /// Makes it at least `len` bytes long, if there are addresses for it. Done by one at a time.
    pub(crate) fn lengthen(&self, len: u64) -> io::Result<()> {
        let Ok(wanted) = usize::try_from(len) else {
            return Err(io::ErrorKind::OutOfMemory.into());
        };
        let wanted = wanted.checked_next_multiple_of(PAGE).filter(|len| *len <= self.map.len);
        let Some(wanted) = wanted else { return Err(io::ErrorKind::OutOfMemory.into()) };
        let base = self.map.base.as_ptr().cast();
        // SAFETY: the start of our own mapping, which is as long; what is in use of it stays what it is.
        unsafe {
            mprotect(base, wanted, MprotectFlags::READ | MprotectFlags::WRITE)?;
            // Fewer and larger pages, where the kernel has them: no harm where it has not.
            let _ = madvise(base, wanted, Advice::LinuxHugepage);
        }
        // Whoever uses what is new has heard of it from us.
        self.len.fetch_max(len, Ordering::Relaxed);
        Ok(())
    }

    /// A [`read`](Self::read) of `len` bytes from `at` on comes soon.
    pub(crate) fn expect(&self, at: u64, len: u64) {
        if let Ok(first) = self.slice(at, len) {
            fetch(first.cast_const(), len as usize);
        }
    }

    /// Copies from `at` on into `range` of `into`.
    pub(crate) fn read(&self, at: u64, into: &Buffers, range: Range<u64>) -> Result<u64, PastEnd> {
        let mut from = self.slice(at, range.end.saturating_sub(range.start))?;
        let mut done = 0;
        for run in runs(into, range) {
            // SAFETY: `slice` proved that as many bytes as the runs have lie from `from` on in the mapping;
            // the run lies in guest memory that `into` keeps alive, which is another mapping. What a guest
            // changes meanwhile, or moves with another request, is bytes that nobody looks into.
            unsafe { ptr::copy_nonoverlapping(from, run.base, run.len) };
            from = from.wrapping_add(run.len);
            done += run.len as u64;
        }
        Ok(done)
    }

    /// Copies `range` of `from` to `at`.
    pub(crate) fn write(&self, at: u64, from: &Buffers, range: Range<u64>) -> Result<u64, PastEnd> {
        let mut into = self.slice(at, range.end.saturating_sub(range.start))?;
        let mut done = 0;
        for run in runs(from, range) {
            // SAFETY: as in `read`, the other way round.
            unsafe { ptr::copy_nonoverlapping(run.base, into, run.len) };
            into = into.wrapping_add(run.len);
            done += run.len as u64;
        }
        Ok(done)
    }

    /// Makes `len` bytes from `at` on zero, and gives whole pages of them back to the kernel.
    pub(crate) fn clear(&self, at: u64, len: u64) -> Result<(), PastEnd> {
        let start = self.slice(at, len)?;
        let len = len as usize;
        let head = start.align_offset(PAGE).min(len);
        let pages = (len - head) / PAGE * PAGE;
        let tail = head + pages;
        // SAFETY: all inside what `slice` proved to be ours; the middle is whole pages, and an anonymous
        // private page that is not needed reads as zero afterwards. When the kernel will not, we write.
        unsafe {
            ptr::write_bytes(start, 0, head);
            let middle = start.add(head);
            if pages > 0 && madvise(middle.cast(), pages, Advice::LinuxDontNeed).is_err() {
                ptr::write_bytes(middle, 0, pages);
            }
            ptr::write_bytes(start.add(tail), 0, len - tail);
        }
        Ok(())
    }

    /// Where `len` bytes from `at` on are.
    fn slice(&self, at: u64, len: u64) -> Result<*mut u8, PastEnd> {
        match at.checked_add(len) {
            Some(end) if end <= self.len() => Ok(self.map.base.as_ptr().wrapping_add(at as usize)),
            _ => Err(PastEnd),
        }
    }
}
