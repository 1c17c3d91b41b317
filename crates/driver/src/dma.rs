//! Owned pieces of the memory that driver and device share.
//!
//! The one room of this crate where pointers are touched. What the driver decides by is copied out once,
//! with volatile reads, and checked on the copy: a device can change this memory at any time, whatever
//! the specification says of buffers that it has given back.

// UNSAFETY: pointers into memory that the device writes, kept inside the bounds that the allocator gave.
#![expect(unsafe_code, reason = "this is the room where the driver touches shared memory")]

use core::fmt;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use crate::transport::{Dma, DmaRegion};

/// There is no memory left that the device can reach. There may be some when buffers are dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no memory left that the device can reach")]
pub struct NoMemory;

/// A piece of shared memory, given back when it is dropped.
pub(crate) struct Region<D: Dma> {
    region: DmaRegion,
    dma: D,
}

// SAFETY: a region is memory that nobody else was given (the promise of `Dma::alloc`), and all access to
// it goes through `self`; moving it to another thread moves that right, and takes the allocator along.
unsafe impl<D: Dma + Send> Send for Region<D> {}
// SAFETY: through `&self` memory is written only with `write`, which callers within this crate use only
// while they hold the region exclusively (`QueueState` is `&mut` there); buffers are only read.
unsafe impl<D: Dma + Sync> Sync for Region<D> {}

impl<D: Dma> Region<D> {
    /// `len` zeroed bytes, aligned to `align`.
    pub(crate) fn new(dma: &D, len: usize, align: usize) -> Result<Self, NoMemory> {
        let region = dma.alloc(len, align).ok_or(NoMemory)?;
        let end = region.device.checked_add(region.len as u64);
        assert!(region.len >= len && end.is_some(), "Dma::alloc gave less than was asked for");
        Ok(Self { region, dma: dma.clone() })
    }

    /// Where the driver finds it.
    pub(crate) fn host(&self) -> NonNull<u8> {
        self.region.host
    }

    /// Where the device finds the byte at `offset`.
    pub(crate) fn device(&self, offset: usize) -> u64 {
        assert!(offset <= self.region.len, "an address outside of its region");
        // No overflow: `new` has seen that the end has an address.
        self.region.device + offset as u64
    }

    /// How many bytes.
    pub(crate) fn len(&self) -> usize {
        self.region.len
    }

    /// Copies `N` bytes out, each read once.
    pub(crate) fn read<const N: usize>(&self, offset: usize) -> [u8; N] {
        assert!(offset.checked_add(N).is_some_and(|end| end <= self.region.len), "a read outside");
        // SAFETY: inside the region, which is readable; bytes have no alignment and no invalid values.
        unsafe { self.region.host.add(offset).cast::<[u8; N]>().read_volatile() }
    }

    /// Copies `N` bytes in.
    pub(crate) fn write<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) {
        assert!(offset.checked_add(N).is_some_and(|end| end <= self.region.len), "a write outside");
        // SAFETY: inside the region, which is writable and, with `&mut self`, ours.
        unsafe { self.region.host.add(offset).cast::<[u8; N]>().write_volatile(bytes) }
    }

    /// Never gives the memory back: for what a device that could not be stopped may still write to.
    pub(crate) fn leak(self) {
        core::mem::forget(self);
    }
}

impl<D: Dma> Drop for Region<D> {
    fn drop(&mut self) {
        // SAFETY: `region` came from this allocator or a clone of it, and is given back once, here. The
        // device has no use for it any more: whoever holds a region that the device was told of drops it
        // only after the device gave it back or was reset (`QueueState`, `Disk::drop`), and leaks it
        // otherwise.
        unsafe { self.dma.free(self.region) }
    }
}

/// Memory that the device can read and write, owned: while a request is in flight, by that request.
///
/// A `Buffer` is the bytes it holds, `Deref`ed; they start as zeroes. A request transfers all of
/// [`len`](Self::len): [`set_len`](Self::set_len) makes it less, or as much again.
///
/// The driver hands a buffer back only when the device has given it back. A device that goes on writing
/// to it breaks its promise (virtio 2.7.8), and can change bytes, but nothing that this crate has
/// checked: that stands in copies.
pub struct Buffer<D: Dma> {
    region: Region<D>,
    len: usize,
}

impl<D: Dma> Buffer<D> {
    /// `len` zeroed bytes, aligned to 4096.
    pub(crate) fn new(dma: &D, len: usize) -> Result<Self, NoMemory> {
        Ok(Self { region: Region::new(dma, len, 4096)?, len })
    }

    /// How many bytes a request would transfer.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when a request would transfer nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The most that [`len`](Self::len) can be, in bytes.
    pub fn capacity(&self) -> usize {
        self.region.len()
    }

    /// Makes the first `len` bytes what is transferred.
    ///
    /// # Panics
    ///
    /// When that is more than the [`capacity`](Self::capacity).
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "{len} bytes of a buffer of {}", self.capacity());
        self.len = len;
    }

    /// Where the device finds it.
    pub(crate) fn device(&self) -> u64 {
        self.region.device(0)
    }

    /// Copies `N` bytes out, each read once; `None` past the end.
    pub(crate) fn copy<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        (offset.checked_add(N)? <= self.len).then(|| self.region.read(offset))
    }

    /// Never gives the memory back.
    pub(crate) fn leak(self) {
        self.region.leak();
    }
}

impl<D: Dma> Deref for Buffer<D> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes from `host` are inside the region, initialised (zeroed by `alloc`), and of a
        // type without invalid values. Nobody but the device and the holder of `self` can reach them, and
        // the device has no request on them: a buffer in flight is inside the queue's state, where nothing
        // derefs it.
        unsafe { core::slice::from_raw_parts(self.region.host().as_ptr(), self.len) }
    }
}

impl<D: Dma> DerefMut for Buffer<D> {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes it exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.region.host().as_ptr(), self.len) }
    }
}

impl<D: Dma> fmt::Debug for Buffer<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("len", &self.len).finish_non_exhaustive()
    }
}
