//! Memory that driver and device share: a heap, and where its pieces are.

// UNSAFETY: a promise about memory that is kept by `HeapMemory`, which never moves or frees it.
#![expect(unsafe_code, reason = "memory that two sides share")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::rc::Rc;

use zvb_driver::{Dma, DmaRegion};
use zvb_ring::{Buffers, GuestMemory, HeapMemory};

const PAGE: u64 = 4096;
/// What the driver of a simulated guest may use, in bytes.
const BYTES: u64 = 4 << 20;

/// A guest's memory; clones share it.
#[derive(Clone)]
pub struct Memory(Rc<Arena>);

struct Arena {
    heap: Rc<HeapMemory>,
    /// What a device address is less than one of `heap`, so that both are aligned alike.
    skew: u64,
    pages: RefCell<Pages>,
}

#[derive(Default)]
struct Pages {
    /// Pages not given out since the start.
    next: u64,
    /// Those given back: addresses, by how many pages.
    free: BTreeMap<u64, Vec<u64>>,
}

impl Default for Memory {
    fn default() -> Self {
        let heap = Rc::new(HeapMemory::new(0, (BYTES + PAGE) as usize));
        let host = heap.translate(0, 1).map_or(0, |(host, _)| host.as_ptr().addr() as u64);
        let skew = host.wrapping_neg() % PAGE;
        Self(Rc::new(Arena { heap, skew, pages: RefCell::default() }))
    }
}

impl Arena {
    fn take(&self, pages: u64) -> Option<u64> {
        let mut state = self.pages.borrow_mut();
        if let Some(address) = state.free.get_mut(&pages).and_then(Vec::pop) {
            return Some(address);
        }
        let address = state.next;
        let end = address + pages * PAGE;
        (end <= BYTES).then(|| {
            state.next = end;
            address
        })
    }
}

// SAFETY: pages of the heap, which is alive with `self` and its clones; zeroed here, aligned to a page on
// both sides (`skew`), contiguous, and given to nobody else before they come back.
unsafe impl Dma for Memory {
    fn alloc(&self, len: usize, align: usize) -> Option<DmaRegion> {
        let pages = (len as u64).div_ceil(PAGE).max(1);
        let device = self.0.take(pages).filter(|_| align as u64 <= PAGE)?;
        let mut whole = Buffers::new(Rc::new(self.clone()), Vec::new());
        let zeroed = whole.push(device, (pages * PAGE) as u32);
        debug_assert!(zeroed, "pages of the heap are memory");
        whole.zero(0, pages * PAGE).ok()?;
        let (host, _) = self.translate(device, 1)?;
        Some(DmaRegion { host, device, len })
    }

    unsafe fn free(&self, region: DmaRegion) {
        let pages = (region.len as u64).div_ceil(PAGE).max(1);
        self.0.pages.borrow_mut().free.entry(pages).or_default().push(region.device);
    }
}

// SAFETY: that of the heap, which is alive with `self`.
unsafe impl GuestMemory for Memory {
    fn translate(&self, address: u64, len: u64) -> Option<(NonNull<u8>, u64)> {
        let left = BYTES.checked_sub(address)?;
        self.0.heap.translate(address + self.0.skew, len.min(left))
    }
}
