//! Memory of ours that the other side maps too.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use zvb_driver::{Dma, DmaRegion};

use crate::client::SharedMemory;

/// A shared, writable mapping of a file that nobody can cut short (it is sealed); unmapped when dropped.
pub(crate) struct SharedMapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to no thread, and it is reached through raw pointers only.
unsafe impl Send for SharedMapping {}
// SAFETY: as above; nothing here reads or writes through `&self`.
unsafe impl Sync for SharedMapping {}

impl SharedMapping {
    /// Maps the first `len` bytes of `file`.
    pub(crate) fn new(file: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let base = unsafe { mmap(ptr::null_mut(), len, protection, MapFlags::SHARED, file, 0) }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { base, len })
    }

    /// The address of the first byte.
    pub(crate) fn address(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// Bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for SharedMapping {
    fn drop(&mut self) {
        // SAFETY: `base` and `len` are what `mmap` gave and was given. Whoever points into the mapping
        // does so under the promise of `Dma`, which ends with the last `SharedMemory`, and that owns
        // `self`.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "a mapping of ours is gone");
    }
}

// SAFETY: `take` gives each byte of the mapping to one caller at a time, aligned as asked; here it is
// zeroed. The mapping lives as long as any clone of `self`, its file is sealed against being cut short,
// and the device finds the same bytes at `DEVICE_BASE` and on, which is what the memory table says.
unsafe impl Dma for SharedMemory {
    fn alloc(&self, len: usize, align: usize) -> Option<DmaRegion> {
        let (offset, len) = self.take(len, align)?;
        let mapping = self.mapping();
        assert!(offset <= mapping.len && len <= mapping.len - offset, "memory past its own end");
        // SAFETY: `offset + len <= mapping.len`, as just checked; the bytes are nobody else's.
        let host = unsafe {
            let host = mapping.base.add(offset);
            host.as_ptr().write_bytes(0, len);
            host
        };
        Some(DmaRegion { host, device: Self::DEVICE_BASE + offset as u64, len })
    }

    unsafe fn free(&self, region: DmaRegion) {
        self.give_back(region.device, region.len);
    }
}
