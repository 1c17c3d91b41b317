//! Shared memory for tests: every allocation is fresh, and poisoned for ever when it is freed, so that a
//! use after a free, and a free that was forgotten, both show.
#![expect(unsafe_code, reason = "memory that two sides share")]

use std::cell::{RefCell, UnsafeCell};
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::rc::Rc;

use zvb_driver::{Dma, DmaRegion};
use zvb_ring::GuestMemory;

/// The 16 bits at `host`, which `translate` gave for two bytes at least.
pub fn peek(host: NonNull<u8>) -> u16 {
    // SAFETY: the memory is never unmapped while a handle to it lives, and tests hold one.
    u16::from_le_bytes(unsafe { host.cast::<[u8; 2]>().read_volatile() })
}

const PAGE: usize = 4096;
const POISON: u8 = 0xdd;

#[repr(align(4096))]
struct Page(#[expect(dead_code, reason = "reached through pointers")] UnsafeCell<[u8; PAGE]>);

struct Block {
    pages: Box<[Page]>,
    len: usize,
    freed: bool,
}

impl Block {
    fn host(&self) -> *mut u8 {
        self.pages.as_ptr().cast::<u8>().cast_mut()
    }
}

#[derive(Default)]
struct Arena {
    blocks: BTreeMap<u64, Block>,
    next: u64,
    /// Bytes that may still be given out.
    left: Option<usize>,
}

/// A handle to the memory; clones share it.
#[derive(Clone, Default)]
pub struct Memory(Rc<RefCell<Arena>>);

impl Memory {
    /// Lets `bytes` more be given out, and then nothing.
    pub fn limit(&self, bytes: usize) {
        self.0.borrow_mut().left = Some(bytes);
    }

    /// How many allocations were not freed.
    pub fn live(&self) -> usize {
        self.0.borrow().blocks.values().filter(|block| !block.freed).count()
    }

    /// Writes `bytes` at a device address, as a device would that does what it wants.
    pub fn poke(&self, address: u64, bytes: &[u8]) {
        let (host, run) = self.translate(address, bytes.len() as u64).expect("memory");
        assert_eq!(run, bytes.len() as u64);
        for (i, byte) in bytes.iter().enumerate() {
            // SAFETY: inside the block, says `translate`.
            unsafe { host.add(i).write_volatile(*byte) };
        }
    }
}

// SAFETY: blocks are zeroed, of their own pages each, and never unmapped while the arena lives. (Where
// clones are kept, it lives.)
unsafe impl Dma for Memory {
    fn alloc(&self, len: usize, align: usize) -> Option<DmaRegion> {
        assert!(align.is_power_of_two() && align <= PAGE);
        let mut arena = self.0.borrow_mut();
        if let Some(left) = &mut arena.left {
            *left = left.checked_sub(len)?;
        }
        let pages: Box<[Page]> =
            (0..len.div_ceil(PAGE).max(1)).map(|_| Page(UnsafeCell::new([0; PAGE]))).collect();
        // A page in between belongs to nobody.
        let device = 0x10_0000 + arena.next;
        arena.next += (pages.len() as u64 + 1) * PAGE as u64;
        let block = Block { pages, len, freed: false };
        let host = NonNull::new(block.host())?;
        arena.blocks.insert(device, block);
        Some(DmaRegion { host, device, len })
    }

    unsafe fn free(&self, region: DmaRegion) {
        let mut arena = self.0.borrow_mut();
        let block = arena.blocks.get_mut(&region.device).expect("a region that was given out");
        assert!(!block.freed, "freed twice");
        assert_eq!((block.host(), block.len), (region.host.as_ptr(), region.len));
        block.freed = true;
        // SAFETY: all of the block's pages, which are never unmapped.
        unsafe { block.host().write_bytes(POISON, block.pages.len() * PAGE) };
    }
}

// SAFETY: as above; what is freed stays mapped, and is not translated any more.
unsafe impl GuestMemory for Memory {
    fn translate(&self, address: u64, len: u64) -> Option<(NonNull<u8>, u64)> {
        let arena = self.0.borrow();
        let (start, block) = arena.blocks.range(..=address).next_back()?;
        let offset = address - start;
        let run = (block.len as u64).checked_sub(offset)?.min(len);
        if block.freed || run == 0 {
            return None;
        }
        // SAFETY: `offset` is inside the block.
        Some((NonNull::new(unsafe { block.host().add(offset as usize) })?, run))
    }
}
