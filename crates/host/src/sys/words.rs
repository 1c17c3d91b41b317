//! Numbers in a file, which outlive this process.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::AtomicU64;

use zvb_storage::{Access, GuardedMapping};

/// A file, mapped as 64-bit words in the host's order.
pub(crate) struct SharedWords {
    mapping: GuardedMapping,
}

impl SharedWords {
    /// Maps the first `words` words of `file`, which has them.
    pub(crate) fn new(file: BorrowedFd<'_>, words: usize) -> io::Result<Self> {
        let bytes = words.checked_mul(size_of::<u64>()).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self { mapping: GuardedMapping::new(file, 0, bytes, Access::Write)? })
    }

    /// A word, when there are so many.
    pub(crate) fn word(&self, index: usize) -> Option<&AtomicU64> {
        let place = self.mapping.piece(index.checked_mul(size_of::<u64>())?, size_of::<u64>())?;
        // SAFETY: eight bytes of a mapping that lives as long as `self`, at a multiple of eight from its
        // beginning, which is at a page's. Whoever maps the file too uses atomics as well.
        Some(unsafe { AtomicU64::from_ptr(place.as_ptr().cast()) })
    }
}
