//! What a request costs in the ring: `cargo bench -p zvb-ring`.
//!
//! A driver's end keeps a queue of 1024 full of chains of three descriptors, as a block request has
//! them, in batches of 32; the device's end pops, pushes and publishes them. Prints nanoseconds for each
//! request, of either end, the median of several rounds.
#![expect(unsafe_code, reason = "a driver's queue is given raw memory")]

use std::hint::black_box;
use std::rc::Rc;
use std::time::Instant;

use zvb_ring::{
    DeviceQueue, DriverConfig, DriverQueue, GuestMemory, HeapMemory, IndirectTables, Part,
    QueueConfig, SharedArea, layout, tables_len,
};

const BASE: u64 = 0x1000_0000;
const SIZE: u16 = 1024;
const BATCH: usize = 32;
const TURNS: usize = 20_000;
const ROUNDS: usize = 9;

fn main() {
    for indirect in [false, true] {
        let mut rounds: Vec<(f64, f64)> = (0..ROUNDS).map(|_| round(indirect)).collect();
        let mut median = |of: fn(&(f64, f64)) -> f64| {
            rounds.sort_by(|a, b| of(a).total_cmp(&of(b)));
            of(&rounds[ROUNDS / 2])
        };
        let (device, driver) = (median(|r| r.0), median(|r| r.1));
        let kind = if indirect { "indirect" } else { "direct" };
        println!("{kind:>8}: device {device:5.1} ns, driver {driver:5.1} ns per request");
    }
}

/// Nanoseconds per request in the device's end and in the driver's.
fn round(indirect: bool) -> (f64, f64) {
    let ring = layout(SIZE).expect("a good size");
    let tables_at = BASE + (ring.bytes as u64).next_multiple_of(4096);
    let data = tables_at + tables_len(SIZE, 3) as u64;
    let memory = Rc::new(HeapMemory::new(BASE, (data - BASE) as usize + 0x10000));
    let area = |address| {
        let (host, _) = memory.translate(address, 1).expect("in memory");
        SharedArea { host, device: address }
    };
    let tables = indirect.then(|| IndirectTables { area: area(tables_at), entries: 3 });
    let config = DriverConfig { size: SIZE, event_index: true, tables };
    // SAFETY: ring, tables and data are apart in `memory`, which is dropped after the queue.
    let mut driver = unsafe { DriverQueue::new(area(BASE), config) }.expect("a good queue");
    let config = QueueConfig {
        size: SIZE,
        descriptors: driver.address(Part::Descriptors),
        available: driver.address(Part::Available),
        used: driver.address(Part::Used),
        event_index: true,
        indirect,
        next_available: 0,
        next_used: 0,
    };
    let mut device = DeviceQueue::new(memory.clone(), config).expect("a good queue");
    let mut heads = Vec::with_capacity(BATCH);
    let (mut in_device, mut in_driver) = (0, 0);
    for _ in 0..TURNS {
        let start = Instant::now();
        for i in 0..BATCH as u64 {
            driver
                .add(&[(data, 16)], &[(data + 64 * i, 4096), (data + 8, 1)])
                .expect("room for a batch");
        }
        black_box(driver.publish());
        let added = Instant::now();
        while let Some(chain) = device.pop().expect("a good ring") {
            black_box(&chain);
            device.recycle(chain.readable);
            device.recycle(chain.writable);
            heads.push(chain.head);
        }
        for head in heads.drain(..) {
            device.push(head, 1);
        }
        black_box(device.publish());
        let served = Instant::now();
        while black_box(driver.pop_used().expect("an honest device")).is_some() {}
        in_device += (served - added).as_nanos();
        in_driver += (added - start).as_nanos() + served.elapsed().as_nanos();
    }
    let each = |total: u128| total as f64 / (TURNS * BATCH) as f64;
    (each(in_device), each(in_driver))
}
