//! Guest memory: what it must promise, and the owned pieces of it that a request carries.
//!
//! The other side may change this memory at any time, from another thread or another process. So no
//! reference into it ever exists: bytes are copied in or out through raw pointers, each once, and
//! decisions are made on the copy.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;

/// Memory that a queue and the buffers of its requests live in, by the addresses that the driver uses.
///
/// # Safety
///
/// For every `Some((host, len))` that [`translate`](Self::translate) returns, the `len` bytes from
/// `host` must stay mapped, readable and writable for as long as `self` lives, wherever `self` is moved
/// to. (They may change under the reader's eyes; nobody may hold a Rust reference to them.)
pub unsafe trait GuestMemory {
    /// Where the byte at guest address `address` is, and how many of the `len` bytes from there on are
    /// contiguous with it: at least 1, at most `len`. `None` when `address` is not memory, or `len` is 0.
    fn translate(&self, address: u64, len: u64) -> Option<(NonNull<u8>, u64)>;
}

/// A run of bytes in guest memory. The layout is that of `struct iovec`, so a slice of these can be
/// handed to a system call as it is.
///
/// Holding one is harmless; what it points to is alive only as long as the [`Buffers`] it came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Segment {
    base: NonNull<u8>,
    len: usize,
}

impl Segment {
    /// The first byte.
    pub fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// How many bytes; never 0 in a [`Buffers`].
    #[expect(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }
}

/// An offset past the end of a [`Buffers`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfRange;

impl fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("offset past the end of the buffers")
    }
}

impl core::error::Error for OutOfRange {}

/// The scattered bytes of one request, in order, owned: they keep the memory they point to alive, so
/// an I/O engine can hold them while the kernel works on them.
///
/// A piece can be cut off the front or the back ([`take_front`](Self::take_front),
/// [`take_back`](Self::take_back)); nothing else changes what they cover.
pub struct Buffers {
    segments: Vec<Segment>,
    /// `segments[live]` is what these buffers cover. Small, as a request is moved around a lot.
    live: Range<u32>,
    bytes: u32,
    memory: Rc<dyn GuestMemory>,
}

impl fmt::Debug for Buffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffers")
            .field("bytes", &self.bytes)
            .field("segments", &self.segments().len())
            .finish()
    }
}

impl Buffers {
    /// No bytes, in `memory`, with `spare` for its list of segments (emptied, its room kept).
    pub fn new(memory: Rc<dyn GuestMemory>, mut spare: Vec<Segment>) -> Self {
        spare.clear();
        Self { segments: spare, live: 0..0, bytes: 0, memory }
    }

    /// Adds the `len` bytes at guest address `address`. False, with nothing added that counts, when part
    /// of the range is not memory or the total would pass 2^32 - 1 bytes (the most that a chain may have,
    /// virtio 2.7.5).
    #[must_use]
    #[inline]
    pub fn push(&mut self, address: u64, len: u32) -> bool {
        debug_assert!(
            self.live.start == 0 && self.live.end as usize == self.segments.len(),
            "pushed after a cut"
        );
        let Some(total) = self.bytes.checked_add(len) else {
            return false;
        };
        let (mut at, mut rest) = (address, u64::from(len));
        let kept = self.segments.len();
        while rest > 0 {
            let Some((base, run)) = self.memory.translate(at, rest) else {
                self.segments.truncate(kept);
                return false;
            };
            // What an implementation returns is part of its promise; a wrong count must still not loop.
            assert!(
                run > 0 && run <= rest,
                "GuestMemory::translate returned a run of {run} of {rest}"
            );
            self.segments.push(Segment { base, len: run as usize });
            rest -= run;
            at = match at.checked_add(run) {
                Some(next) => next,
                None if rest == 0 => 0,
                None => {
                    self.segments.truncate(kept);
                    return false;
                }
            };
        }
        // None is empty, so there are fewer than bytes.
        self.live.end = self.segments.len() as u32;
        self.bytes = total;
        true
    }

    /// How many bytes these cover.
    pub fn len(&self) -> u64 {
        self.bytes.into()
    }

    /// True when these cover nothing.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The runs of bytes that these cover, in order. Valid while `self` lives.
    pub fn segments(&self) -> &[Segment] {
        &self.segments[self.live.start as usize..self.live.end as usize]
    }

    /// Copies `into.len()` bytes from `offset` on out of guest memory.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), OutOfRange> {
        let mut filled = 0;
        self.walk(offset, into.len() as u64, |base, len| {
            // SAFETY: `walk` gives runs inside our segments, alive with `self.memory`; their lengths add
            // up to `into.len()`, so `filled + len` stays inside `into`, which guest memory, reachable
            // only through raw pointers, can not overlap.
            unsafe { core::ptr::copy_nonoverlapping(base, into.as_mut_ptr().add(filled), len) };
            filled += len;
        })
    }

    /// Copies `from` into guest memory from `offset` on.
    pub fn write(&self, offset: u64, from: &[u8]) -> Result<(), OutOfRange> {
        let mut taken = 0;
        self.walk(offset, from.len() as u64, |base, len| {
            // SAFETY: as in `read`, the other way round.
            unsafe { core::ptr::copy_nonoverlapping(from.as_ptr().add(taken), base, len) };
            taken += len;
        })
    }

    /// Sets `len` bytes from `offset` on to zero.
    pub fn zero(&self, offset: u64, len: u64) -> Result<(), OutOfRange> {
        self.walk(offset, len, |base, len| {
            // SAFETY: `walk` gives runs inside our segments, alive with `self.memory`.
            unsafe { core::ptr::write_bytes(base, 0, len) };
        })
    }

    /// Visits the runs that make up `len` bytes from `offset` on.
    fn walk(
        &self,
        offset: u64,
        len: u64,
        mut visit: impl FnMut(*mut u8, usize),
    ) -> Result<(), OutOfRange> {
        if offset.checked_add(len).is_none_or(|end| end > self.len()) {
            return Err(OutOfRange);
        }
        let (mut skip, mut rest) = (offset as usize, len as usize);
        for segment in self.segments() {
            if rest == 0 {
                break;
            }
            if skip >= segment.len {
                skip -= segment.len;
                continue;
            }
            let run = (segment.len - skip).min(rest);
            // SAFETY: `skip < segment.len`: the pointer stays inside the segment.
            visit(unsafe { segment.as_ptr().add(skip) }, run);
            rest -= run;
            skip = 0;
        }
        Ok(())
    }

    /// Cuts `N` bytes off the front and returns a copy of them; `None`, and nothing cut, when there are
    /// fewer.
    pub fn take_front<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.read(0, &mut bytes).ok()?;
        let mut skip = N;
        while skip > 0 {
            let first = &mut self.segments[self.live.start as usize];
            if first.len > skip {
                // SAFETY: inside the segment, as `skip < first.len`.
                first.base = unsafe { first.base.add(skip) };
                first.len -= skip;
                skip = 0;
            } else {
                skip -= first.len;
                self.live.start += 1;
            }
        }
        // `read` found N bytes.
        self.bytes -= N as u32;
        Some(bytes)
    }

    /// Cuts the last `len` bytes off; what is cut is copied nowhere, and comes back as buffers of its own.
    /// `None`, and nothing cut, when there are fewer.
    ///
    /// `spare` becomes the list of segments of what is cut, so that nothing is allocated per request.
    pub fn take_back(&mut self, len: u64, spare: Vec<Segment>) -> Option<Self> {
        let len = u32::try_from(len).ok().filter(|len| *len <= self.bytes)?;
        let mut cut = Self::new(Rc::clone(&self.memory), spare);
        let mut rest = len as usize;
        while rest > 0 {
            let last = &mut self.segments[self.live.end as usize - 1];
            if last.len > rest {
                last.len -= rest;
                // SAFETY: one past what is left, and still inside what the segment was.
                cut.segments.push(Segment { base: unsafe { last.base.add(last.len) }, len: rest });
                rest = 0;
            } else {
                rest -= last.len;
                cut.segments.push(*last);
                self.live.end -= 1;
            }
        }
        cut.segments.reverse();
        cut.live = 0..cut.segments.len() as u32;
        cut.bytes = len;
        self.bytes -= len;
        Some(cut)
    }

    /// Gives the list of segments back, for the next request.
    pub fn into_spare(self) -> Vec<Segment> {
        self.segments
    }
}

/// Guest memory on the heap, from guest address `base` on: for tests, and for devices without a guest.
pub struct HeapMemory {
    base: u64,
    bytes: Box<[UnsafeCell<u64>]>,
}

impl HeapMemory {
    /// `len` zeroed bytes, rounded up to 8, that begin at guest address `base`; aligned to 8.
    pub fn new(base: u64, len: usize) -> Self {
        Self { base, bytes: (0..len.div_ceil(8)).map(|_| UnsafeCell::new(0)).collect() }
    }
}

// SAFETY: the bytes are on the heap, inside `UnsafeCell`s, freed only with `self`; moving `self` does
// not move them; no reference to them is ever made.
unsafe impl GuestMemory for HeapMemory {
    fn translate(&self, address: u64, len: u64) -> Option<(NonNull<u8>, u64)> {
        let offset = address.checked_sub(self.base)?;
        let left = (self.bytes.len() as u64 * 8).checked_sub(offset)?;
        let run = left.min(len);
        if run == 0 {
            return None;
        }
        let first = UnsafeCell::raw_get(self.bytes.as_ptr()).cast::<u8>();
        // SAFETY: `offset < bytes.len() * 8`, so the pointer stays inside the allocation.
        Some((NonNull::new(unsafe { first.add(offset as usize) })?, run))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffers(pieces: &[(u64, u32)]) -> Buffers {
        let mut buffers = Buffers::new(Rc::new(HeapMemory::new(0x1000, 0x1000)), Vec::new());
        for (address, len) in pieces {
            assert!(buffers.push(*address, *len));
        }
        buffers
    }

    #[test]
    fn bytes_go_in_and_out_across_segments() {
        let b = buffers(&[(0x1000, 3), (0x1800, 1), (0x1100, 4)]);
        b.write(0, b"abcdefgh").unwrap();
        let mut out = [0; 5];
        b.read(2, &mut out).unwrap();
        assert_eq!(&out, b"cdefg");
        b.zero(3, 2).unwrap();
        let mut all = [0; 8];
        b.read(0, &mut all).unwrap();
        assert_eq!(&all, b"abc\0\0fgh");
        assert_eq!(b.read(4, &mut [0; 5]), Err(OutOfRange));
        assert_eq!(b.write(u64::MAX, b"x"), Err(OutOfRange));
    }

    #[test]
    fn pieces_are_cut_off_both_ends_however_they_are_framed() {
        for split in 0..=24u32 {
            let mut b = buffers(&[(0x1000, split), (0x1800, 24 - split)]);
            b.write(0, b"header--the-data!status!").unwrap();
            let tail = b.take_back(7, Vec::new()).unwrap();
            assert_eq!(&b.take_front::<8>().unwrap(), b"header--");
            let mut data = [0; 9];
            b.read(0, &mut data).unwrap();
            assert_eq!(&data, b"the-data!");
            assert_eq!(b.len(), 9);
            assert!(b.take_front::<10>().is_none());
            assert!(b.take_back(10, Vec::new()).is_none());
            assert!(b.segments().iter().all(|s| s.len() > 0));
            let mut status = [0; 7];
            tail.read(0, &mut status).unwrap();
            assert_eq!(&status, b"status!");
        }
    }

    #[test]
    fn what_is_not_memory_is_refused_whole() {
        let mut b = buffers(&[(0x1000, 8)]);
        assert!(!b.push(0x1fff, 2));
        assert!(!b.push(u64::MAX, 1));
        assert!(!b.push(0, 1));
        assert!(!b.push(0x1000, u32::MAX));
        assert_eq!((b.len(), b.segments().len()), (8, 1));
        assert!(b.push(0x1fff, 1));
    }
}
