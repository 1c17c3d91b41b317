//! A medium in memory that takes its time, and counts who uses it.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use zvb_storage::{Done, Engine, EngineError, Io, Op, Shape, Volume, VolumeError};
use zvb_wire::{Model, Sector, ZoneType};
use zvb_zones::{Geometry, GeometrySpec, Snapshot, ZoneId};

/// 2 conventional zones and 14 sequential ones of 1 MiB, 768 KiB of each writable, and a last one of
/// 512 KiB.
pub const ZONE: u64 = 2048;
pub const ZONE_CAPACITY: u64 = 1536;
pub const ZONES: u32 = 17;

pub fn geometry() -> GeometrySpec {
    GeometrySpec {
        model: Model::HostManaged,
        capacity: Sector(ZONE * 16 + 1024),
        zone_size: Sector(ZONE),
        zone_capacity: Sector(ZONE_CAPACITY),
        conventional: 2,
        max_open: 4,
        max_active: 6,
        max_append: Sector(512),
        write_granularity: 4096,
    }
}

pub struct SlowVolume {
    shape: Shape,
    bytes: Mutex<Vec<u8>>,
    recovered: Vec<Snapshot>,
    /// How long an operation takes, in microseconds; 0: it is finished at once.
    delay: AtomicU64,
    engines: AtomicUsize,
    started: AtomicUsize,
    finished: AtomicUsize,
}

impl std::fmt::Debug for SlowVolume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SlowVolume")
    }
}

impl SlowVolume {
    pub fn new() -> Arc<Self> {
        let spec = geometry();
        let geometry = Geometry::new(spec).unwrap();
        let state = |zone| match geometry.zone_type(zone) {
            ZoneType::Conventional => Snapshot::CONVENTIONAL,
            _ => Snapshot::EMPTY,
        };
        Arc::new(Self {
            shape: Shape {
                capacity: spec.capacity,
                block_size: 4096,
                geometry: Some(geometry),
                id: *b"slow\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
                read_only: false,
                can_discard: true,
            },
            bytes: Mutex::new(vec![0; spec.capacity.0 as usize * 512]),
            recovered: geometry.zones().map(state).collect(),
            delay: AtomicU64::new(0),
            engines: AtomicUsize::new(0),
            started: AtomicUsize::new(0),
            finished: AtomicUsize::new(0),
        })
    }

    /// From now on an operation takes this long.
    pub fn set_delay(&self, delay: Duration) {
        self.delay.store(delay.as_micros() as u64, Ordering::Relaxed);
    }

    /// Engines that live.
    pub fn engines(&self) -> usize {
        self.engines.load(Ordering::SeqCst)
    }

    /// Operations that were begun, and that were finished and taken.
    pub fn operations(&self) -> (usize, usize) {
        (self.started.load(Ordering::SeqCst), self.finished.load(Ordering::SeqCst))
    }

    pub fn bytes_at(&self, at: u64, sectors: u64) -> Vec<u8> {
        self.bytes.lock().unwrap()[at as usize * 512..(at + sectors) as usize * 512].to_vec()
    }

    fn execute(&self, io: Io) -> Done {
        let mut bytes = self.bytes.lock().unwrap();
        let from = io.at.0 as usize * 512;
        let mut done = Done { tag: io.tag, result: Ok(()), buffers: None, placed: None };
        match io.op {
            Op::Read(buffers) => {
                buffers.write(0, &bytes[from..from + buffers.len() as usize]).unwrap();
                done.buffers = Some(buffers);
            }
            Op::Write(buffers) => {
                buffers.read(0, &mut bytes[from..from + buffers.len() as usize]).unwrap();
                done.buffers = Some(buffers);
            }
            Op::Zero { sectors, .. } | Op::Discard { sectors } => {
                bytes[from..from + sectors.0 as usize * 512].fill(0);
            }
            Op::Append(_) | Op::Flush | Op::Command(_) => {}
        }
        done
    }
}

impl Volume for SlowVolume {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn recovered(&self) -> Vec<Snapshot> {
        self.recovered.clone()
    }

    fn record(&self, _: ZoneId, _: Snapshot) {}

    fn engine(self: Arc<Self>, _: u32) -> Result<Box<dyn Engine>, EngineError> {
        self.engines.fetch_add(1, Ordering::SeqCst);
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).unwrap();
        Ok(Box::new(SlowEngine { volume: self, waiting: VecDeque::new(), timer }))
    }

    fn close(&self) -> Result<(), VolumeError> {
        Ok(())
    }
}

struct SlowEngine {
    volume: Arc<SlowVolume>,
    waiting: VecDeque<(Instant, Io)>,
    timer: OwnedFd,
}

impl SlowEngine {
    /// The timer goes off when the first operation is due.
    fn arm(&self) {
        let left = match self.waiting.front() {
            Some((due, _)) => {
                due.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1))
            }
            None => Duration::ZERO,
        };
        let value = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec::try_from(left).unwrap(),
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &value).unwrap();
    }
}

impl Engine for SlowEngine {
    fn submit(&mut self, io: Io) {
        self.volume.started.fetch_add(1, Ordering::SeqCst);
        let delay = Duration::from_micros(self.volume.delay.load(Ordering::Relaxed));
        self.waiting.push_back((Instant::now() + delay, io));
    }

    fn start(&mut self) {
        self.arm();
    }

    fn reap(&mut self, done: &mut Vec<Done>) {
        let now = Instant::now();
        while let Some((due, _)) = self.waiting.front() {
            if *due > now {
                break;
            }
            let (_, io) = self.waiting.pop_front().unwrap();
            done.push(self.volume.execute(io));
            self.volume.finished.fetch_add(1, Ordering::SeqCst);
        }
        self.arm();
    }

    fn in_flight(&self) -> usize {
        self.waiting.len()
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        Some(self.timer.as_fd())
    }
}

impl Drop for SlowEngine {
    fn drop(&mut self) {
        assert!(self.waiting.is_empty(), "an engine is dropped with operations in flight");
        self.volume.engines.fetch_sub(1, Ordering::SeqCst);
    }
}
