//! Disks of every kind, and a worker that drives one.
#![allow(dead_code, unreachable_pub)]

pub(crate) mod faulty;

use std::cell::Cell;
use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use zvb_ring::{Buffers, GuestMemory, HeapMemory};
use zvb_storage::{
    CommitBy, CreateOptions, Done, Engine, EngineKind, Failure, Image, Io, Memory, Op, OpenOptions,
    Volume,
};
use zvb_wire::{Model, Sector};
use zvb_zones::GeometrySpec;

/// Numbers that look random and are the same every time (splitmix64).
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// `len` bytes that no other seed has, none of them zero.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    (0..len).map(|_| (rng.next() as u8) | 1).collect()
}

pub(crate) struct Zones {
    pub(crate) spec: GeometrySpec,
    pub(crate) zones: u32,
}

/// 40 zones of 192 KiB (no power of two), capacity 164 KiB where it may be less, two conventional, a smaller last one.
pub(crate) fn geometry(model: Model) -> Zones {
    let spec = GeometrySpec {
        model,
        capacity: Sector(384 * 39 + 64),
        zone_size: Sector(384),
        zone_capacity: if model == Model::HostAware { Sector(384) } else { Sector(328) },
        conventional: 2,
        max_open: 0,
        max_active: 0,
        max_append: Sector(64),
        write_granularity: 512,
    };
    Zones { spec, zones: 40 }
}

pub(crate) fn create_options(model: Model) -> CreateOptions {
    let spec = geometry(model).spec;
    CreateOptions {
        capacity: spec.capacity,
        block_size: 512,
        zones: (model != Model::None).then_some(spec),
        id: None,
        uuid: None,
        force: false,
    }
}

/// A disk to test.
pub(crate) struct Disk {
    pub(crate) name: String,
    pub(crate) number: u64,
    pub(crate) model: Model,
    pub(crate) volume: Arc<dyn Volume>,
    pub(crate) file: Option<PathBuf>,
    written: Cell<u64>,
    _directory: Option<tempfile::TempDir>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Disk {
    pub(crate) fn bytes(&self) -> usize {
        self.volume.shape().capacity.0 as usize * 512
    }

    pub(crate) fn worker(&self, depth: u32) -> Worker {
        Worker::new(Arc::clone(&self.volume), depth)
    }

    /// The first sector of 384 (320 writable) that may be written.
    pub(crate) fn writable_zone(&self) -> u64 {
        384 * 5
    }

    /// A range that a device may ask for: in a zone with room, or across those without a pointer.
    pub(crate) fn some_range(&self, rng: &mut Rng) -> (u64, u64) {
        match rng.below(3) {
            0 => {
                let at = rng.below(700);
                (at, 1 + rng.below(768 - at).min(200))
            }
            1 if self.model == Model::None => {
                let at = rng.below(384 * 39);
                (at, 1 + rng.below(64))
            }
            _ => {
                let at = rng.below(327);
                (384 * (2 + rng.below(37)) + at, 1 + rng.below(328 - at))
            }
        }
    }

    /// Says so in the zone, as a device would.
    pub(crate) fn wrote(&self, at: u64, sectors: u64) {
        use zvb_wire::Condition;
        use zvb_zones::{Snapshot, ZoneId};
        let Some(geometry) = self.volume.shape().geometry else { return };
        let zone = geometry.zone_of(Sector(at)).unwrap();
        if zone >= ZoneId(2) {
            let end = at + sectors - geometry.start(zone).0;
            self.written.set(self.written.get().max(end));
            let state = Snapshot::new(Condition::ImplicitOpen, geometry.capacity(zone));
            self.volume.record(zone, state);
        }
    }
}

/// Runs `test` on every volume with every engine and model.
pub(crate) fn every_disk(test: impl Fn(&Disk)) {
    let mut number = 0;
    for model in [Model::None, Model::HostManaged, Model::HostAware] {
        let spec = geometry(model).spec;
        let zones = (model != Model::None).then_some(spec);
        number += 1;
        test(&Disk {
            name: format!("memory {model:?}"),
            number,
            model,
            volume: Arc::new(Memory::new(spec.capacity, 512, zones).unwrap()),
            file: None,
            written: Cell::new(0),
            _directory: None,
        });
        let kinds = EngineKind::ALL.map(|k| (k, false, CommitBy::Thread));
        let more = [
            (EngineKind::Auto, true, CommitBy::Thread),
            (EngineKind::Sync, false, CommitBy::Caller),
        ];
        for (engine, direct, commit) in kinds.into_iter().chain(more) {
            let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            let path = directory.path().join("disk.zvb");
            Image::create(&path, &create_options(model)).unwrap();
            let options = OpenOptions { engine, direct, commit, ..OpenOptions::default() };
            let Ok(image) = Image::open(&path, &options) else {
                assert!(direct, "only direct I/O may not be to be had");
                continue;
            };
            let volume: Arc<dyn Volume> = Arc::new(image);
            if Arc::clone(&volume).engine(1).is_err() {
                assert_eq!(engine, EngineKind::Uring, "only io_uring may not be to be had");
                continue;
            }
            number += 1;
            test(&Disk {
                name: format!("image {engine} direct {direct} {commit:?} {model:?}"),
                number,
                model,
                volume,
                file: Some(path),
                written: Cell::new(0),
                _directory: Some(directory),
            });
        }
    }
}

/// One queue's worker, with memory of its own.
pub(crate) struct Worker {
    pub(crate) engine: Box<dyn Engine>,
    memory: Rc<dyn GuestMemory>,
    next: u64,
}

const MEMORY: u64 = 16 << 20;

impl Worker {
    pub(crate) fn new(volume: Arc<dyn Volume>, depth: u32) -> Self {
        let memory = Rc::new(HeapMemory::new(0, MEMORY as usize));
        Self { engine: volume.engine(depth).unwrap(), memory, next: 0 }
    }

    /// Room for `len` bytes, in pieces of any length.
    pub(crate) fn buffers(&mut self, len: usize, rng: &mut Rng) -> Buffers {
        let mut buffers = Buffers::new(Rc::clone(&self.memory), Vec::new());
        let mut left = len as u64;
        while left > 0 {
            let piece = match rng.below(4) {
                0 => left.min(1 + rng.below(9)),
                1 => left.min(512),
                2 => left.min(1 + rng.below(70_000)),
                _ => left,
            };
            // A gap now and then, and odd addresses.
            self.next += rng.below(2) * rng.below(100);
            if self.next + piece > MEMORY {
                self.next = 0;
            }
            assert!(buffers.push(self.next, piece as u32));
            self.next += piece;
            left -= piece;
        }
        buffers
    }

    pub(crate) fn submit(&mut self, tag: u64, at: u64, op: Op) {
        self.engine.submit(Io { tag, at: Sector(at), op });
    }

    pub(crate) fn submit_write(&mut self, tag: u64, at: u64, data: &[u8], rng: &mut Rng) {
        let buffers = self.buffers(data.len(), rng);
        buffers.write(0, data).unwrap();
        self.submit(tag, at, Op::Write(buffers));
    }

    /// Everything that is in flight.
    pub(crate) fn finish(&mut self) -> Vec<Done> {
        let mut done = Vec::new();
        self.engine.start();
        self.engine.reap(&mut done);
        while self.engine.in_flight() > 0 {
            let event = self.engine.event().expect("in flight, and no event");
            let mut fds = [PollFd::new(&event, PollFlags::IN)];
            let timeout = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
            let ready = poll(&mut fds, Some(&timeout)).unwrap();
            assert_eq!(ready, 1, "{} in flight, and nothing happens", self.engine.in_flight());
            self.engine.reap(&mut done);
            self.engine.start();
        }
        done
    }

    pub(crate) fn one(&mut self, at: u64, op: Op) -> Result<(), Failure> {
        self.submit(7, at, op);
        let mut done = self.finish();
        assert_eq!(done.len(), 1);
        let done = done.remove(0);
        assert_eq!(done.tag, 7);
        done.result
    }

    pub(crate) fn write(&mut self, at: u64, data: &[u8], rng: &mut Rng) -> Result<(), Failure> {
        let buffers = self.buffers(data.len(), rng);
        buffers.write(0, data).unwrap();
        self.one(at, Op::Write(buffers))
    }

    pub(crate) fn read(
        &mut self,
        at: u64,
        sectors: u64,
        rng: &mut Rng,
    ) -> Result<Vec<u8>, Failure> {
        let buffers = self.buffers(sectors as usize * 512, rng);
        buffers.write(0, &vec![0xee; sectors as usize * 512]).unwrap();
        self.submit(8, at, Op::Read(buffers));
        let mut done = self.finish();
        assert_eq!(done.len(), 1);
        let done = done.remove(0);
        done.result?;
        let buffers = done.buffers.expect("the buffers of a read");
        let mut data = vec![0; sectors as usize * 512];
        buffers.read(0, &mut data).unwrap();
        Ok(data)
    }
}
