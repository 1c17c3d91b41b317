//! Memory that a driver and a device in another process share.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use crate::sys::SharedMapping;

/// Memory that driver and device share: one anonymous file, mapped here, and given to the server by its
/// file descriptor.
///
/// A clone is the same memory. It is given back to the system with the last clone; a server that still
/// has it mapped then has it for itself.
#[derive(Clone)]
pub struct SharedMemory {
    inner: Arc<Inner>,
}

struct Inner {
    mapping: SharedMapping,
    file: OwnedFd,
    free: Mutex<FreeList>,
}

impl fmt::Debug for SharedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedMemory").field("bytes", &self.len()).finish()
    }
}

impl SharedMemory {
    /// The device's address of the first byte. Not 0, which some servers take for none, and not where
    /// the memory is in this process, so that a mix-up of the two can not go unnoticed.
    pub const DEVICE_BASE: u64 = 1 << 32;

    /// Everything is a multiple of this many bytes: no two users share a cache line.
    const GRANULE: usize = 64;

    /// The unit of mappings.
    const PAGE: usize = 4096;

    /// New memory of `bytes` bytes, rounded up to 4096. What is not used takes no space.
    pub fn new(bytes: usize) -> io::Result<Self> {
        let len =
            bytes.max(1).checked_next_multiple_of(Self::PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
        let file = memfd_create("zvb-dma", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let file = File::from(file);
        file.set_len(len as u64)?;
        // Who has the file descriptor could cut the file short otherwise, and our next access would be
        // our last.
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let mapping = SharedMapping::new(file.as_fd(), len)?;
        let free = Mutex::new(FreeList::new(len));
        Ok(Self { inner: Arc::new(Inner { mapping, file: file.into(), free }) })
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.inner.mapping.len()
    }

    /// False: there is always a page.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that are not in use. They may be in many pieces.
    pub fn available(&self) -> usize {
        self.free_list().ranges.values().sum()
    }

    /// The file behind this memory, from offset 0 on.
    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.inner.file.as_fd()
    }

    /// Where the memory is in this process: what vhost-user calls its user address.
    pub(super) fn user_address(&self) -> u64 {
        self.inner.mapping.address()
    }

    /// The user address of the `len` bytes that the device finds at `device`; `None` when they are not
    /// all in this memory.
    pub(super) fn to_user(&self, device: u64, len: u64) -> Option<u64> {
        let offset = device.checked_sub(Self::DEVICE_BASE)?;
        let end = offset.checked_add(len)?;
        (end <= self.len() as u64).then(|| self.user_address() + offset)
    }

    pub(crate) fn mapping(&self) -> &SharedMapping {
        &self.inner.mapping
    }

    /// Takes at least `len` bytes, aligned to `align`, that nobody has: their offset and their number.
    pub(crate) fn take(&self, len: usize, align: usize) -> Option<(usize, usize)> {
        if !align.is_power_of_two() || align > Self::PAGE {
            return None;
        }
        let len = len.max(1).checked_next_multiple_of(Self::GRANULE)?;
        let offset = self.free_list().take(len, align.max(Self::GRANULE))?;
        Some((offset, len))
    }

    /// Takes back `len` bytes at device address `device`, as [`take`](Self::take) gave them.
    pub(crate) fn give_back(&self, device: u64, len: usize) {
        let inside = self.to_user(device, len as u64).is_some() && len > 0;
        assert!(inside, "memory of somebody else was freed");
        self.free_list().give_back((device - Self::DEVICE_BASE) as usize, len);
    }

    /// A thread that panicked has not left the list in disorder: all it does is take and give.
    fn free_list(&self) -> MutexGuard<'_, FreeList> {
        self.inner.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pieces that nobody has: their lengths, by their offsets. No two touch.
struct FreeList {
    ranges: BTreeMap<usize, usize>,
}

impl FreeList {
    fn new(len: usize) -> Self {
        Self { ranges: BTreeMap::from([(0, len)]) }
    }

    /// The lowest `len` bytes that are aligned to `align`.
    fn take(&mut self, len: usize, align: usize) -> Option<usize> {
        let (start, range, offset) = self.ranges.iter().find_map(|(&start, &range)| {
            let offset = start.checked_next_multiple_of(align)?;
            let end = offset.checked_add(len)?;
            (end <= start + range).then_some((start, range, offset))
        })?;
        self.ranges.remove(&start);
        if offset > start {
            self.ranges.insert(start, offset - start);
        }
        let (end, taken) = (start + range, offset + len);
        if end > taken {
            self.ranges.insert(taken, end - taken);
        }
        Some(offset)
    }

    /// Puts a piece back, joined to its neighbours.
    fn give_back(&mut self, offset: usize, len: usize) {
        let (mut start, mut end) = (offset, offset + len);
        if let Some((&before, &range)) = self.ranges.range(..=offset).next_back() {
            assert!(before + range <= offset, "memory was freed twice");
            if before + range == offset {
                self.ranges.remove(&before);
                start = before;
            }
        }
        if let Some((&after, &range)) = self.ranges.range(offset..).next() {
            assert!(end <= after, "memory was freed twice");
            if end == after {
                self.ranges.remove(&after);
                end = after + range;
            }
        }
        self.ranges.insert(start, end - start);
    }
}
