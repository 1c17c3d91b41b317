//! What a request costs a server, and what an idle one does: no allocation, no processor time.
//!
//! One test, because a process has one allocator to count with, and both look at threads by name.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
// UNSAFETY: an allocator that counts has the promises of the one that it hands everything on to.
#![allow(unsafe_code)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::time::Duration;

use support::{Rig, TestDisk, pattern};
use zvb_driver::Request;
use zvb_storage::{CreateOptions, Image, Memory, OpenOptions, Volume};
use zvb_wire::{Model, Sector};
use zvb_zones::GeometrySpec;

/// Counts what one thread allocates.
struct Counting;

/// The thread; 0 for none.
static WATCHED: AtomicI32 = AtomicI32::new(0);
static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

fn count() {
    let watched = WATCHED.load(Ordering::Relaxed);
    if watched != 0 && rustix::thread::gettid().as_raw_nonzero().get() == watched {
        ALLOCATED.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: everything is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const ZONE: u64 = 8192;
const BLOCK: usize = 4096;
const DEPTH: usize = 32;

fn geometry() -> GeometrySpec {
    GeometrySpec {
        model: Model::HostManaged,
        capacity: Sector(8 * ZONE),
        zone_size: Sector(ZONE),
        zone_capacity: Sector(ZONE),
        conventional: 1,
        max_open: 4,
        max_active: 6,
        max_append: Sector(512),
        write_granularity: 4096,
    }
}

/// Threads of this process of this name.
fn threads(name: &str) -> Vec<i32> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let numbers = tasks.map(|task| task.unwrap().file_name().into_string().unwrap());
    numbers
        .filter(|number| {
            let comm = fs::read_to_string(format!("/proc/self/task/{number}/comm"));
            comm.is_ok_and(|comm| comm.trim_end() == name)
        })
        .map(|number| number.parse().unwrap())
        .collect()
}

/// Processor time that a thread has used, if the kernel tells.
fn used(thread: i32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?;
    Some(Duration::from_nanos(stat.split_whitespace().next()?.parse().ok()?))
}

/// Sends `count` requests, many at a time.
fn load(
    disk: &mut TestDisk,
    count: u64,
    mut request: impl FnMut(
        u64,
        zvb_driver::Buffer<zvb_host::client::SharedMemory>,
    ) -> Request<zvb_host::client::SharedMemory>,
) {
    let mut queue = disk.queues().next().unwrap();
    let (mut sent, mut answered) = (0, 0);
    while answered < count {
        while sent < count && queue.in_flight() < DEPTH {
            let mut buffer = queue.buffer(BLOCK).unwrap();
            buffer.set_len(BLOCK);
            buffer.copy_from_slice(&pattern(sent, BLOCK));
            queue.submit(request(sent, buffer)).unwrap();
            sent += 1;
        }
        queue.wait(Some(10_000)).unwrap();
        while let Some(completion) = queue.poll().unwrap() {
            completion.result.unwrap();
            answered += 1;
        }
    }
}

/// Writes, appends and reads in three zones, of which `first` is the first.
fn mixed_load(disk: &mut TestDisk, first: u64) {
    let sectors = BLOCK as u64 / 512;
    let zone = Sector(first * ZONE);
    load(disk, 900, |i, buffer| Request::Write { at: Sector(zone.0 + i * sectors), buffer });
    let next = Sector(zone.0 + ZONE);
    load(disk, 900, |_, buffer| Request::Append { zone: next, buffer });
    // Anywhere, also where nothing is written.
    load(disk, 3000, |i, buffer| Request::Read {
        at: Sector(zone.0 + i * 7919 % 2000 * sectors),
        buffer,
    });
    load(disk, 500, |i, buffer| Request::Write { at: Sector(i * 31 % 900 * sectors), buffer });
}

fn nothing_is_allocated_and_nothing_is_done_when_idle(name: &str, volume: Arc<dyn Volume>) {
    let rig = Rig::new(volume, 1);
    let mut disk = rig.disk();
    // Lists get the room that they keep.
    mixed_load(&mut disk, 1);
    mixed_load(&mut disk, 3);
    let workers = threads("queue 0");
    let [worker] = workers[..] else { panic!("{name}: workers {workers:?}") };
    ALLOCATED.store(0, Ordering::Relaxed);
    WATCHED.store(worker, Ordering::Relaxed);
    mixed_load(&mut disk, 5);
    WATCHED.store(0, Ordering::Relaxed);
    assert_eq!(ALLOCATED.load(Ordering::Relaxed), 0, "{name}: allocations in 5300 requests");

    // It may look on for a moment, which is longer where it is seldom run, and then no more.
    let all: Vec<i32> = [worker].into_iter().chain(threads("zvb-commit")).collect();
    let mut busy = Vec::new();
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(20));
        let before: Vec<_> = all.iter().map(|thread| used(*thread)).collect();
        std::thread::sleep(Duration::from_secs(1));
        let spent = all
            .iter()
            .zip(before)
            .filter_map(|(thread, before)| Some((*thread, used(*thread)?.saturating_sub(before?))));
        busy = spent.filter(|(_, spent)| *spent >= Duration::from_millis(1)).collect();
        if busy.is_empty() {
            break;
        }
    }
    assert!(busy.is_empty(), "{name}: threads that are not idle: {busy:?}");
}

#[test]
fn a_request_allocates_nothing_and_an_idle_server_uses_no_processor() {
    let spec = geometry();
    let memory = Memory::new(spec.capacity, 4096, Some(spec)).unwrap();
    nothing_is_allocated_and_nothing_is_done_when_idle("memory", Arc::new(memory));

    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for (engine, direct) in [("auto", false), ("sync", false), ("uring", false), ("auto", true)] {
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
        nothing_is_allocated_and_nothing_is_done_when_idle(&format!("{engine} {direct}"), image);
    }
}
