//! What requests that lie in the queue together ask of the kernel, as the kernel counts it: a signal for each
//! turn, one call for writes that are adjacent, one io_uring_enter for all that goes through a ring.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use support::calls::{Calls, KICK, SIGNAL};
use support::{Rig, TestDisk, pattern};
use zvb_driver::{Options, Request};
use zvb_storage::{CreateOptions, Image, Memory, OpenOptions, Volume};
use zvb_wire::{Features, Model, Sector};
use zvb_zones::GeometrySpec;

const ZONE: u64 = 8192;
const BLOCK: usize = 4096;
const SECTORS: u64 = BLOCK as u64 / 512;
/// Requests that lie in the queue when the worker first looks.
const TOGETHER: usize = 64;
/// So many a turn takes at most whose answers are near, so that the driver has these before the next are done.
const PORTION: usize = 16;

fn geometry() -> GeometrySpec {
    GeometrySpec {
        model: Model::HostManaged,
        capacity: Sector(4 * ZONE),
        zone_size: Sector(ZONE),
        zone_capacity: Sector(ZONE),
        conventional: 1,
        max_open: 0,
        max_active: 0,
        max_append: Sector(512),
        write_granularity: 4096,
    }
}

/// A served disk and its worker, whose calls are counted.
struct Counted {
    calls: Calls,
    worker: i32,
    disk: TestDisk,
    _rig: Rig,
}

impl Counted {
    /// `None` where the kernel does not count.
    fn new(volume: Arc<dyn Volume>) -> Option<Self> {
        let Some((calls, rig)) = Calls::of(|| Rig::new(volume, 1)) else {
            eprintln!("not tried: the kernel does not tell of system calls");
            return None;
        };
        // Without EVENT_IDX every publication of answers is followed by a signal.
        let features = Options::default().features - Features::EVENT_IDX;
        let disk = rig.disk_with(&Options { features, ..Options::default() });
        let worker = worker();
        Some(Self { calls, worker, disk, _rig: rig })
    }

    /// What the worker calls for as many requests, which it finds together.
    fn count(
        &mut self,
        request: impl Fn(
            u64,
            zvb_driver::Buffer<zvb_host::client::SharedMemory>,
        ) -> Request<zvb_host::client::SharedMemory>,
    ) -> HashMap<&'static str, usize> {
        // It looks on for 50 us, and sleeps.
        std::thread::sleep(Duration::from_millis(20));
        self.calls.take(self.worker);
        let mut queue = self.disk.queues().next().unwrap();
        for i in 0..TOGETHER as u64 {
            let mut buffer = queue.buffer(BLOCK).unwrap();
            buffer.set_len(BLOCK);
            buffer.copy_from_slice(&pattern(i, BLOCK));
            queue.submit(request(i, buffer)).unwrap();
        }
        // It stays asked for: answers are not looked at before all are there.
        let _ = queue.ask_for_signal();
        queue.kick().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let mut answered = 0;
        while answered < TOGETHER {
            queue.wait(Some(10_000)).unwrap();
            while let Some(completion) = queue.poll().unwrap() {
                completion.result.unwrap();
                answered += 1;
            }
        }
        let mut calls = self.calls.take(self.worker);
        calls.remove(KICK);
        calls
    }
}

/// The thread of the only queue.
fn worker() -> i32 {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let numbers = tasks.map(|task| task.unwrap().file_name().into_string().unwrap());
    let mut workers = numbers.filter(|number| {
        let comm = fs::read_to_string(format!("/proc/self/task/{number}/comm"));
        comm.is_ok_and(|comm| comm.trim_end() == "queue 0")
    });
    workers.next().unwrap().parse().unwrap()
}

fn number(calls: &HashMap<&'static str, usize>, name: &str) -> usize {
    calls.get(name).copied().unwrap_or(0)
}

fn sum(calls: &HashMap<&'static str, usize>) -> usize {
    calls.values().sum()
}

fn append(
    _: u64,
    buffer: zvb_driver::Buffer<zvb_host::client::SharedMemory>,
) -> Request<zvb_host::client::SharedMemory> {
    Request::Append { zone: Sector(ZONE), buffer }
}

fn read(
    i: u64,
    buffer: zvb_driver::Buffer<zvb_host::client::SharedMemory>,
) -> Request<zvb_host::client::SharedMemory> {
    Request::Read { at: Sector(ZONE + i * SECTORS), buffer }
}

// One test: workers are known by their names, of which there is to be one.
#[test]
fn requests_that_come_together_share_signals_and_system_calls() {
    let spec = geometry();
    let memory = Memory::new(spec.capacity, 4096, Some(spec)).unwrap();
    let Some(mut counted) = Counted::new(Arc::new(memory)) else { return };
    for request in [append, read] {
        let calls = counted.count(request);
        // One more where the worker woke in the middle.
        let turns = TOGETHER / PORTION + 1;
        let signals = number(&calls, SIGNAL);
        assert!((1..=turns).contains(&signals) && sum(&calls) == signals, "memory: {calls:?}");
    }
    drop(counted);

    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for (engine, direct) in [("auto", false), ("uring", false), ("auto", true)] {
        let path = directory.path().join(format!("{engine}-{direct}.zvb"));
        let options = CreateOptions {
            capacity: spec.capacity,
            block_size: 4096,
            zones: Some(spec),
            id: None,
            uuid: None,
            force: false,
        };
        Image::create(&path, &options).unwrap();
        let options =
            OpenOptions { engine: engine.parse().unwrap(), direct, ..OpenOptions::default() };
        let Ok(image) = Image::open(&path, &options) else {
            assert!(direct, "only direct I/O may not be to be had");
            continue;
        };
        let image: Arc<dyn Volume> = Arc::new(image);
        if Arc::clone(&image).engine(1).is_err() {
            assert_eq!(engine, "uring", "only io_uring may not be to be had");
            continue;
        }
        let name = format!("{engine}, direct: {direct}");
        let Some(mut counted) = Counted::new(image) else { return };
        let (written, seen) = (counted.count(append), counted.count(read));
        drop(counted);
        eprintln!("{name}: appends {written:?}, reads {seen:?}");
        if engine == "auto" && !direct {
            // Into the page cache by one call, or two where the worker woke in the middle; reads without any.
            assert!((1..=2).contains(&number(&written, "pwritev2")), "{name}: {written:?}");
            assert!((1..=2).contains(&number(&written, SIGNAL)), "{name}: {written:?}");
            let signals = number(&seen, SIGNAL);
            assert!((1..=TOGETHER / PORTION + 1).contains(&signals), "{name}: {seen:?}");
            assert!(
                sum(&seen) <= signals + 1,
                "{name}: more than a read that finds what is cached: {seen:?}"
            );
        }
        if engine == "uring" || direct {
            for calls in [&written, &seen] {
                assert!((1..=2).contains(&number(calls, "io_uring_enter")), "{name}: {calls:?}");
                // What comes back in pieces is answered in pieces.
                let others = sum(calls) - number(calls, SIGNAL) - number(calls, "io_uring_enter");
                assert_eq!(others, 0, "{name}: {calls:?}");
            }
        }
    }
}
