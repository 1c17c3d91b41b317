//! Mapped regions as guest memory.

use std::ptr::NonNull;

use zvb_ring::GuestMemory;

use crate::memory::MemoryView;
use crate::vduse::IotlbView;

// SAFETY: `find` returns only what `GuardedMapping::piece` gave for as many bytes, from mappings that
// the view owns through its `Arc<Memory>`: they stay mapped, readable and writable (with empty memory in
// place of a file that is gone) while it lives, wherever it is moved to. Nothing here makes references
// into them.
unsafe impl GuestMemory for MemoryView {
    fn translate(&self, address: u64, len: u64) -> Option<(NonNull<u8>, u64)> {
        self.find(address, len)
    }
}

// SAFETY: as for `MemoryView`: `find` returns only what `GuardedMapping::piece` gave, from mappings that the
// view keeps in a list that only grows.
unsafe impl GuestMemory for IotlbView {
    fn translate(&self, address: u64, len: u64) -> Option<(NonNull<u8>, u64)> {
        self.find(address, len)
    }
}
