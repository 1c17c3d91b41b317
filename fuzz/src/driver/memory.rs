//! Shared memory, each piece by itself and given back when it is freed, so that the address sanitizer sees
//! every step beside it.
#![expect(unsafe_code, reason = "memory that two sides share")]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ptr::NonNull;

use zvb_driver::{Dma, DmaRegion};
use zvb_ring::GuestMemory;

/// Most bytes that are given out at a time.
const MOST: usize = 8 << 20;
const PAGE: usize = 4096;

#[derive(Default)]
struct Arena {
    /// By device address: what was given out, and not yet freed.
    blocks: BTreeMap<u64, (NonNull<u8>, Layout)>,
    next: u64,
    bytes: usize,
}

thread_local! {
    /// There is one, since what a driver never gives back takes its handle with it.
    static ARENA: RefCell<Arena> = RefCell::default();
}

/// A handle to the memory; clones share it.
#[derive(Clone)]
pub(super) struct Memory(());

impl Memory {
    /// The memory, with nothing given out: what was left of another driver's is gone.
    pub(super) fn new() -> Self {
        let arena = ARENA.with_borrow_mut(std::mem::take);
        for (host, layout) in arena.blocks.values() {
            // SAFETY: allocated with this layout, and not freed.
            unsafe { dealloc(host.as_ptr(), *layout) };
        }
        Self(())
    }

    /// How many pieces were not freed.
    pub(super) fn live(&self) -> usize {
        ARENA.with_borrow(|arena| arena.blocks.len())
    }

    /// Writes `bytes` at a device address, as far as there is memory.
    pub(super) fn poke(&self, address: u64, bytes: &[u8]) {
        for (i, byte) in (0u64..).zip(bytes) {
            let at = address.checked_add(i).and_then(|at| self.translate(at, 1));
            if let Some((host, _)) = at {
                // SAFETY: one byte of a piece that is not freed.
                unsafe { host.write_volatile(*byte) };
            }
        }
    }
}

// SAFETY: pieces are zeroed, apart from each other on both sides, and stay until they are freed; those
// that are not freed stay until the next input.
unsafe impl Dma for Memory {
    fn alloc(&self, len: usize, align: usize) -> Option<DmaRegion> {
        ARENA.with_borrow_mut(|arena| arena.alloc(len, align))
    }

    unsafe fn free(&self, region: DmaRegion) {
        ARENA.with_borrow_mut(|arena| {
            let (host, layout) = arena.blocks.remove(&region.device).expect("what was given out");
            assert_eq!(host, region.host);
            arena.bytes -= region.len;
            // SAFETY: allocated with this layout, and removed from the list: freed once.
            unsafe { dealloc(host.as_ptr(), layout) };
        });
    }
}

impl Arena {
    fn alloc(&mut self, len: usize, align: usize) -> Option<DmaRegion> {
        let layout = Layout::from_size_align(len.max(1), align.max(16)).ok()?;
        if self.bytes.checked_add(len)? > MOST {
            return None;
        }
        // SAFETY: the layout's size is not 0.
        let host = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        self.bytes += len;
        // A page in between belongs to nobody.
        let device = 0x10_0000 + self.next;
        self.next += (len.next_multiple_of(PAGE) + PAGE) as u64;
        self.blocks.insert(device, (host, layout));
        Some(DmaRegion { host, device, len })
    }

    fn translate(&self, address: u64, len: u64) -> Option<(NonNull<u8>, u64)> {
        let (start, (host, layout)) = self.blocks.range(..=address).next_back()?;
        let offset = address - start;
        let run = (layout.size() as u64).checked_sub(offset)?.min(len);
        if run == 0 {
            return None;
        }
        // SAFETY: `offset` is inside the piece.
        Some((unsafe { host.add(offset as usize) }, run))
    }
}

// SAFETY: a piece stays until the driver frees it, which it does only when the device has given it back,
// or was reset. The device of this fuzzer forgets what it has at a reset, and translates at each use.
unsafe impl GuestMemory for Memory {
    fn translate(&self, address: u64, len: u64) -> Option<(NonNull<u8>, u64)> {
        ARENA.with_borrow(|arena| arena.translate(address, len))
    }
}
