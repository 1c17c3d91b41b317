//! Memory: a heap in what the machine has, which is where a device finds it too, and its registers.

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use linked_list_allocator::LockedHeap;
use zvb_driver::bus::Mapped;
use zvb_driver::{Dma, DmaRegion};

#[global_allocator]
static HEAP: LockedHeap = LockedHeap::empty();

/// Memory above this is for devices, as the page tables have it.
const END: u64 = 0x8000_0000;

/// What the loader says of the machine (the PVH boot protocol's `hvm_start_info`, version 1).
#[repr(C)]
pub(crate) struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    command_line: u64,
    tables: u64,
    memory_map: u64,
    memory_entries: u32,
    reserved: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct MemoryEntry {
    start: u64,
    len: u64,
    kind: u32,
    reserved: u32,
}

impl StartInfo {
    /// What stands at `address`.
    ///
    /// # Safety
    ///
    /// It is what the loader passed at the entry.
    pub(crate) unsafe fn at(address: u64) -> &'static Self {
        // SAFETY: the loader has put it there, and nothing is put over it: the heap begins behind all
        // that the loader made.
        let info = unsafe { &*(address as *const Self) };
        assert!(info.magic == 0x336e_c578 && info.version >= 1, "not started as PVH kernels are");
        info
    }

    /// The command line.
    pub(crate) fn command_line(&self) -> &'static str {
        if self.command_line == 0 {
            return "";
        }
        // SAFETY: the loader has put a string there that ends with a zero.
        let text = unsafe { core::ffi::CStr::from_ptr(self.command_line as *const _) };
        text.to_str().unwrap_or("")
    }

    /// Makes the largest piece of memory behind this program the heap, and says how large it is.
    ///
    /// # Safety
    ///
    /// Called once, before anything is allocated.
    pub(crate) unsafe fn make_heap(&self) -> usize {
        unsafe extern "C" {
            static image_end: u8;
        }
        let behind = &raw const image_end as u64;
        // SAFETY: the loader has put so many entries there.
        let entries = unsafe {
            core::slice::from_raw_parts(
                self.memory_map as *const MemoryEntry,
                self.memory_entries as usize,
            )
        };
        let usable = entries.iter().filter(|entry| entry.kind == 1).map(|entry| {
            let end = entry.start.saturating_add(entry.len).min(END);
            (entry.start.max(behind), end)
        });
        let (start, end) =
            usable.max_by_key(|(start, end)| end.saturating_sub(*start)).unwrap_or((0, 0));
        let len = end.saturating_sub(start) as usize;
        assert!(len >= 32 << 20, "{len} bytes of memory are too few");
        // SAFETY: memory that the loader says is there and free, mapped as it is, and behind this program.
        unsafe { HEAP.lock().init(start as *mut u8, len) };
        len
    }
}

/// Bytes of shared memory that are given out now.
static SHARED: AtomicUsize = AtomicUsize::new(0);

/// Memory that a device shares: the heap, whose addresses are the machine's own.
#[derive(Clone, Copy)]
pub(crate) struct Shared;

impl Shared {
    /// Bytes that are given out now.
    pub(crate) fn in_use() -> usize {
        SHARED.load(Ordering::Relaxed)
    }

    /// Every piece has the largest alignment that is asked for, so that its size tells all.
    fn layout(len: usize) -> Option<Layout> {
        Layout::from_size_align(len.max(1), 4096).ok()
    }
}

// SAFETY: `alloc_zeroed` gives zeroed memory of the size and alignment that nobody else has, until it is
// given back; pages are mapped to their own addresses, so the device finds it where this program does.
unsafe impl Dma for Shared {
    fn alloc(&self, len: usize, _align: usize) -> Option<DmaRegion> {
        // SAFETY: the layout has a size.
        let host = NonNull::new(unsafe { alloc_zeroed(Self::layout(len)?) })?;
        SHARED.fetch_add(len, Ordering::Relaxed);
        Some(DmaRegion { host, device: host.as_ptr() as u64, len })
    }

    unsafe fn free(&self, region: DmaRegion) {
        SHARED.fetch_sub(region.len, Ordering::Relaxed);
        if let Some(layout) = Self::layout(region.len) {
            // SAFETY: `alloc` took it from this heap with this layout.
            unsafe { dealloc(region.host.as_ptr(), layout) }
        }
    }
}

/// Page tables for addresses past 4 GiB, 1 GiB each.
static HIGH: [PageTable; 8] = [const { PageTable::empty() }; 8];
static HIGH_USED: AtomicUsize = AtomicUsize::new(0);

#[repr(C, align(4096))]
struct PageTable([AtomicU64; 512]);

impl PageTable {
    const fn empty() -> Self {
        Self([const { AtomicU64::new(0) }; 512])
    }

    /// The table that entry `index` refers to, made where there is none.
    fn below(&self, index: usize) -> Option<&'static Self> {
        let entry = &self.0[index & 511];
        let table = match entry.load(Ordering::Relaxed) & 0x000f_ffff_ffff_f000 {
            0 => {
                let table = HIGH.get(HIGH_USED.fetch_add(1, Ordering::Relaxed))?;
                entry.store(&raw const *table as u64 | 3, Ordering::Relaxed);
                table as *const Self
            }
            address => address as *const Self,
        };
        // SAFETY: one of `HIGH`, or one of those that the boot code made; all live for ever.
        Some(unsafe { &*table })
    }
}

/// The `len` bytes of registers at `address`.
pub(crate) fn map(address: u64, len: u32) -> Option<Mapped> {
    let last = address.checked_add(len.max(1).into())? - 1;
    if last >> 32 != 0 {
        unsafe extern "C" {
            static page_map: PageTable;
        }
        // Not cached.
        let flags = 0x9b;
        for page in address >> 21..=last >> 21 {
            let at = (page << 21) as usize;
            // SAFETY: the boot code's, which lives for ever.
            let top = unsafe { &page_map };
            let directory = top.below(at >> 39)?.below(at >> 30)?;
            directory.0[(at >> 21) & 511].store(at as u64 | flags, Ordering::Relaxed);
        }
    } else if address < END {
        return None;
    }
    let base = NonNull::new(address as *mut u8)?;
    // SAFETY: mapped, by the boot code or above, and for devices: no memory of Rust's is past `END`.
    Some(unsafe { Mapped::new(base, len) })
}
