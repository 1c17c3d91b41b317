//! A driver's queue in memory that the fuzzer can write to as well.

use std::rc::Rc;

use zvb_ring::{
    DriverConfig, DriverQueue, GuestMemory, IndirectTables, SharedArea, layout, tables_len,
};

use crate::guest::Regions;

/// Where the ring is, and behind it the tables.
pub(super) const RING: u64 = 0x1_0000;
const BYTES: u64 = 0x4000;
/// Descriptors in a table.
pub(super) const ENTRIES: u16 = 4;
/// Where buffers are.
pub(super) const BUFFERS: (u64, u64) = (0x10_0000, 0x4000);

/// Memory for a queue and its buffers.
pub(super) fn memory() -> Rc<Regions> {
    thread_local! {
        static MEMORY: Rc<Regions> = Regions::new(&[(RING, BYTES), BUFFERS]);
    }
    let memory = MEMORY.with(Rc::clone);
    memory.clear();
    memory
}

/// A queue of `size` descriptors at [`RING`], with tables behind it or without.
pub(super) fn driver_queue(
    memory: &Rc<Regions>,
    size: u16,
    event_index: bool,
    indirect: bool,
) -> DriverQueue {
    let tables_at = layout(size).expect("a power of two").bytes.next_multiple_of(64);
    assert!((tables_at + tables_len(size, ENTRIES)) as u64 <= BYTES, "no room");
    let area = |offset: usize| {
        let device = RING + offset as u64;
        let (host, _) = memory.translate(device, 1).expect("memory");
        SharedArea { host, device }
    };
    let tables = indirect.then(|| IndirectTables { area: area(tables_at), entries: ENTRIES });
    let config = DriverConfig { size, event_index, tables };
    // SAFETY: the memory lives as long as its thread, has room for ring and tables (asserted), and only
    // this queue uses them; the fuzzer writes there through raw pointers, as a device may.
    #[expect(unsafe_code, reason = "the promise is about memory")]
    let queue = unsafe { DriverQueue::new(area(0), config) };
    queue.expect("a good layout")
}
