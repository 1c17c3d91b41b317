//! The data path of a host's disk, on a file in place of the disk. (Commands to zones and errors of real zoned
//! disks are tried in a guest: guests/linux/guest/host-zoned.)

mod zones;

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use zvb_ring::{Buffers, HeapMemory};
use zvb_wire::{Model, Sector};
use zvb_zones::{Geometry, GeometrySpec, Snapshot, ZoneId};

use super::disk::Disk;
use super::engine::HostEngine;
use super::helpers::Helpers;
use crate::sys::Ring;
use crate::volume::{Done, Engine, Failure, Io, Op, Shape};

/// One conventional zone and three sequential ones, 1 MiB each, in blocks of 4096 bytes.
const ZONE: u64 = 2048;
const SPEC: GeometrySpec = GeometrySpec {
    model: Model::HostManaged,
    capacity: Sector(4 * ZONE),
    zone_size: Sector(ZONE),
    zone_capacity: Sector(ZONE),
    conventional: 1,
    max_open: 0,
    max_active: 0,
    max_append: Sector(256),
    write_granularity: 4096,
};

#[test]
fn who_may_not_open_a_device_is_told_what_would_help() {
    let device = std::path::Path::new("/dev/sdz");
    let root = super::not_permitted(device, true).to_string();
    assert!(root.contains("by root either") && root.contains("container"), "{root}");
    let user = super::not_permitted(device, false).to_string();
    assert!(user.contains("wants root"), "{user}");
}

struct Host {
    disk: Arc<Disk>,
    helpers: Arc<Helpers>,
}

impl Host {
    fn new() -> Self {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![0xee; 4 * ZONE as usize * 512]).unwrap();
        let geometry = Geometry::new(SPEC).unwrap();
        let shape = Shape {
            capacity: SPEC.capacity,
            block_size: 4096,
            geometry: Some(geometry),
            id: [0; 20],
            read_only: false,
            can_discard: false,
        };
        let states = [Snapshot::CONVENTIONAL, Snapshot::EMPTY, Snapshot::EMPTY, Snapshot::EMPTY];
        let file = Arc::new(file);
        let disk = Arc::new(Disk::new(Arc::clone(&file), file, shape, &states));
        let helpers = Arc::<Helpers>::default();
        helpers.start(&disk).unwrap();
        Self { disk, helpers }
    }

    fn worker(&self, ring: bool) -> Worker {
        let ring = ring.then(|| Ring::new(32, &Arc::default()).unwrap());
        let (disk, helpers) = (Arc::clone(&self.disk), Arc::clone(&self.helpers));
        let memory = Rc::new(HeapMemory::new(0, 8 << 20));
        Worker {
            engine: HostEngine::new(disk, helpers, ring, None).unwrap(),
            memory,
            done: Vec::new(),
        }
    }

    fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.disk.file.read_exact_at(&mut bytes, at * 512).unwrap();
        bytes
    }
}

struct Worker {
    engine: HostEngine,
    memory: Rc<HeapMemory>,
    done: Vec<Done>,
}

impl Worker {
    /// Pieces of guest memory, filled with a pattern.
    fn buffers(&self, pieces: &[(u64, u32)], seed: u8) -> Buffers {
        let mut buffers = Buffers::new(self.memory.clone(), Vec::new());
        for (address, len) in pieces {
            assert!(buffers.push(*address, *len));
        }
        buffers.write(0, &pattern(seed, buffers.len() as usize)).unwrap();
        buffers
    }

    fn submit(&mut self, tag: u64, at: u64, op: Op) {
        self.engine.submit(Io { tag, at: Sector(at), op });
    }

    /// Goes on until `count` operations are finished in all.
    fn wait(&mut self, count: usize) {
        let begun = Instant::now();
        self.engine.start();
        while self.done.len() < count {
            self.engine.reap(&mut self.done);
            assert!(begun.elapsed() < Duration::from_secs(60), "it does not end");
            if self.done.len() < count {
                let event = self.engine.event().unwrap();
                let mut fds = [PollFd::from_borrowed_fd(event, PollFlags::IN)];
                poll(&mut fds, Some(&Duration::from_secs(60).try_into().unwrap())).unwrap();
            }
        }
    }

    fn one(&mut self, at: u64, op: Op) -> (Result<(), Failure>, Option<Buffers>) {
        assert!(self.done.is_empty());
        self.submit(7, at, op);
        self.wait(1);
        let done = self.done.pop().unwrap();
        (done.result, done.buffers)
    }
}

fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| seed.wrapping_add((i / 3) as u8)).collect()
}

#[test]
fn any_guest_memory_will_do() {
    for ring in [false, true] {
        let host = Host::new();
        let mut worker = host.worker(ring);
        // Whole blocks; pieces that are not; more of them than are copied at once.
        let layouts: [&[(u64, u32)]; 3] = [
            &[(0x1_0000, 8192)],
            &[(0x2_0100, 512), (0x3_0001, 4096), (0x4_0000, 3584)],
            &[(0x10_0003, 3 << 19)],
        ];
        for (seed, layout) in (1..).zip(layouts) {
            let data = worker.buffers(layout, seed);
            let (len, at) = (data.len() as usize, 64);
            let (result, buffers) = worker.one(at, Op::Write(data));
            result.unwrap();
            assert!(buffers.is_some());
            assert_eq!(host.bytes(at, len), pattern(seed, len), "{layout:?}");
            let empty = worker.buffers(layout, 0);
            let (result, buffers) = worker.one(at, Op::Read(empty));
            result.unwrap();
            let mut read = vec![0; len];
            buffers.unwrap().read(0, &mut read).unwrap();
            assert_eq!(read, pattern(seed, len), "{layout:?}");
        }
        // Part of a block can be read, and not written.
        let part = worker.buffers(&[(0x1_0000, 1024)], 0);
        let (result, buffers) = worker.one(67, Op::Read(part));
        result.unwrap();
        let mut read = vec![0; 1024];
        buffers.unwrap().read(0, &mut read).unwrap();
        assert_eq!(read, host.bytes(67, 1024));
        let part = worker.buffers(&[(0x1_0000, 1024)], 0);
        let (result, _) = worker.one(67, Op::Write(part));
        assert!(matches!(result, Err(Failure::Unaligned { block: 4096 })), "{result:?}");
        let past = worker.buffers(&[(0x1_0000, 8192)], 0);
        let (result, _) = worker.one(4 * ZONE - 8, Op::Read(past));
        assert!(matches!(result, Err(Failure::Short { .. })), "{result:?}");
    }
}

#[test]
fn writes_to_a_zone_go_in_order_however_they_come() {
    for ring in [false, true] {
        let host = Host::new();
        let (mut a, mut b) = (host.worker(ring), host.worker(ring));
        // The device gave these places in order, to two queues; they come in another.
        for (tag, worker) in [(3, 0), (1, 1), (2, 0), (5, 1), (4, 0), (0, 1)] {
            let worker = if worker == 0 { &mut a } else { &mut b };
            let data = worker.buffers(&[(0x1_0000 * (tag + 1), 4096)], tag as u8);
            worker.submit(tag, ZONE + 8 * tag, Op::Write(data));
        }
        // Another zone is not held up.
        let data = a.buffers(&[(0x20_0000, 4096)], 99);
        a.submit(99, 2 * ZONE, Op::Write(data));
        a.wait(1);
        assert_eq!(a.done.pop().unwrap().tag, 99);
        let begun = Instant::now();
        a.engine.start();
        b.engine.start();
        while (a.done.len(), b.done.len()) != (3, 3) {
            a.engine.reap(&mut a.done);
            b.engine.reap(&mut b.done);
            assert!(begun.elapsed() < Duration::from_secs(60), "they wait for each other");
            std::thread::yield_now();
        }
        for done in a.done.iter().chain(&b.done) {
            assert!(done.result.is_ok(), "{done:?}");
        }
        assert_eq!((a.engine.in_flight(), b.engine.in_flight()), (0, 0));
        for tag in 0..6 {
            assert_eq!(host.bytes(ZONE + 8 * tag, 4096), pattern(tag as u8, 4096), "{tag}");
        }
    }
}

#[test]
fn what_stands_behind_a_failure_fails_and_the_zone_goes_on_afterwards() {
    for ring in [false, true] {
        let host = Host::new();
        let mut worker = host.worker(ring);
        for (tag, len) in [(0, 4096), (1, 1024), (2, 4096)] {
            let data = worker.buffers(&[(0x1_0000 * (tag + 1), len)], tag as u8);
            worker.submit(tag, ZONE + 8 * tag, Op::Write(data));
        }
        worker.wait(3);
        worker.done.sort_by_key(|done| done.tag);
        let results: Vec<_> = worker.done.drain(..).map(|done| done.result).collect();
        assert!(results[0].is_ok());
        assert!(matches!(results[1], Err(Failure::Unaligned { .. })), "{results:?}");
        assert!(matches!(results[2], Err(Failure::Behind)), "{results:?}");
        let data = worker.buffers(&[(0, 4096)], 9);
        assert!(matches!(worker.one(ZONE + 16, Op::Write(data)).0, Err(Failure::Behind)));
        // This disk can not be asked: the zone goes on where the last good write ended.
        assert_eq!(host.disk.recheck(ZoneId(1)), None);
        let data = worker.buffers(&[(0, 4096)], 9);
        worker.one(ZONE + 8, Op::Write(data)).0.unwrap();
        assert_eq!(host.bytes(ZONE + 8, 4096), pattern(9, 4096));
    }
}

#[test]
fn zeroes_are_written_at_the_pointer_and_made_elsewhere() {
    for ring in [false, true] {
        let host = Host::new();
        let mut worker = host.worker(ring);
        for (at, unmap) in [(8, false), (64, true), (ZONE, true), (ZONE + 16, false)] {
            worker.one(at, Op::Zero { sectors: Sector(16), unmap }).0.unwrap();
            assert_eq!(host.bytes(at, 8192), vec![0; 8192], "{at}");
        }
        // More than is written at once.
        worker.one(2 * ZONE, Op::Zero { sectors: Sector(ZONE), unmap: false }).0.unwrap();
        assert_eq!(host.bytes(2 * ZONE, 1 << 20), vec![0; 1 << 20]);
        assert_eq!(host.bytes(3 * ZONE, 512), vec![0xee; 512]);
        assert!(worker.one(3, Op::Zero { sectors: Sector(8), unmap: false }).0.is_err());
        worker.one(0, Op::Flush).0.unwrap();
    }
}

#[test]
fn what_is_no_block_device_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    let open = |path| super::HostDisk::open(path, &super::HostOptions::default()).unwrap_err();
    assert!(matches!(open(&file), super::HostError::NotBlock { .. }));
    assert!(matches!(open(&folder.path().join("no")), super::HostError::Open { .. }));
    assert!(!super::is_block_device(&file));
}
