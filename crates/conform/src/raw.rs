//! Memory that the run shares with the device.
//!
//! The one room of this crate where pointers are touched. All that is here can change at any time, so it
//! is only ever copied, in and out, with volatile accesses; the indices of the rings are atomic.

// UNSAFETY: pointers into memory that the device writes, kept inside the bounds that the allocator gave.
#![expect(unsafe_code, reason = "this is the room where the run touches shared memory")]

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU16, Ordering};

use zvb_driver::{Dma, DmaRegion};

/// Takes memory back, whatever allocator it came from.
trait Owner {
    /// # Safety
    ///
    /// As for [`Dma::free`].
    unsafe fn free(&self, region: DmaRegion);
}

impl<D: Dma> Owner for D {
    unsafe fn free(&self, region: DmaRegion) {
        // SAFETY: the caller's promise is the same.
        unsafe { Dma::free(self, region) }
    }
}

/// A piece of shared memory. It goes back to its allocator only when the device is known to be quiet;
/// otherwise it is lost, and nobody else is given what the device may still write to.
pub(crate) struct Area {
    region: DmaRegion,
    owner: Box<dyn Owner>,
    quiet: bool,
}

impl Area {
    /// `len` zeroed bytes, aligned to 4096; `None` when there is no memory.
    pub(crate) fn new<D: Dma + 'static>(dma: &D, len: usize) -> Option<Self> {
        let region = dma.alloc(len, 4096)?;
        let end = region.device.checked_add(region.len as u64);
        assert!(region.len >= len && end.is_some(), "Dma::alloc gave less than was asked for");
        Some(Self { region, owner: Box::new(dma.clone()), quiet: false })
    }

    /// Says whether the device can touch this memory.
    pub(crate) fn set_quiet(&mut self, quiet: bool) {
        self.quiet = quiet;
    }

    /// Where the device finds the byte at `offset`.
    pub(crate) fn device(&self, offset: usize) -> u64 {
        assert!(offset <= self.region.len, "an address outside of its area");
        // No overflow: `new` has seen that the end has an address.
        self.region.device + offset as u64
    }

    fn check(&self, offset: usize, len: usize) {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.region.len);
        assert!(inside, "{len} bytes at {offset} of an area of {}", self.region.len);
    }

    /// Copies bytes out, each read once.
    pub(crate) fn read(&self, offset: usize, into: &mut [u8]) {
        self.check(offset, into.len());
        for (i, byte) in into.iter_mut().enumerate() {
            // SAFETY: inside the region (checked), which is readable; a byte has no invalid value.
            *byte = unsafe { self.region.host.add(offset + i).read_volatile() };
        }
    }

    /// Copies bytes in.
    pub(crate) fn write(&self, offset: usize, from: &[u8]) {
        self.check(offset, from.len());
        for (i, byte) in from.iter().enumerate() {
            // SAFETY: inside the region (checked), which is writable; only this thread and the device
            // have it (`Area` is not `Sync`, and hands out no reference into it).
            unsafe { self.region.host.add(offset + i).write_volatile(*byte) }
        }
    }

    /// Makes `len` bytes the same.
    pub(crate) fn fill(&self, offset: usize, len: usize, byte: u8) {
        self.check(offset, len);
        for i in 0..len {
            // SAFETY: as in `write`.
            unsafe { self.region.host.add(offset + i).write_volatile(byte) }
        }
    }

    /// A 16-bit word of a ring; what the device wrote before it is visible afterwards.
    pub(crate) fn load(&self, offset: usize) -> u16 {
        u16::from_le(self.word(offset).load(Ordering::Acquire))
    }

    /// Sets a 16-bit word of a ring; what was written before is visible to who sees it.
    pub(crate) fn store(&self, offset: usize, value: u16) {
        self.word(offset).store(value.to_le(), Ordering::Release);
    }

    fn word(&self, offset: usize) -> &AtomicU16 {
        self.check(offset, 2);
        assert!(offset.is_multiple_of(2), "a word at an odd offset");
        // SAFETY: inside the region (checked) and aligned, since the region is aligned to 4096 and the
        // offset is even; it lives as long as `self`, and words are accessed as atomics while the device
        // has the ring (bytes are copied in only before it is told of it).
        unsafe { AtomicU16::from_ptr(self.region.host.add(offset).cast().as_ptr()) }
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        if self.quiet {
            // SAFETY: `region` came from this allocator's `alloc`, once; the device was reset after it
            // was last told of it, and no pointer into it leaves this type.
            unsafe { self.owner.free(self.region) }
        }
    }
}
