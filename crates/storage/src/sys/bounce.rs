//! Aligned memory of our own, between guest memory that is not aligned and a disk that wants it so.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use super::IoVec;

/// Zeroed bytes at an aligned address, which stay where they are.
pub(crate) struct Bounce {
    base: NonNull<u8>,
    layout: Layout,
    /// Bytes at the front that belong to nobody: a disk gives whole blocks only.
    pub(crate) skip: usize,
}

impl fmt::Debug for Bounce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bounce").field("len", &self.len()).field("skip", &self.skip).finish()
    }
}

impl Bounce {
    /// `len` bytes, at least 1, at a multiple of `align`, a power of two.
    pub(crate) fn new(len: usize, align: usize) -> Self {
        let layout = Layout::from_size_align(len.max(1), align);
        let layout = layout.unwrap_or_else(|_| unreachable!("{len} bytes at {align}"));
        // SAFETY: the layout is not empty.
        let base = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else { handle_alloc_error(layout) };
        Self { base, layout, skip: 0 }
    }

    /// All of it, for the kernel.
    pub(super) fn io_vec(&self) -> IoVec {
        IoVec { base: self.base.as_ptr(), len: self.layout.size() }
    }
}

impl Deref for Bounce {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: our own bytes, initialised, as long as `self` lives. The kernel writes to them only while
        // a ring has the job that they belong to, and with it `self`.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.layout.size()) }
    }
}

impl DerefMut for Bounce {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.layout.size()) }
    }
}

impl Drop for Bounce {
    fn drop(&mut self) {
        // SAFETY: from `alloc_zeroed`, with this layout, and given back once.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}
