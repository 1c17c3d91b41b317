//! A server on a socket in a directory of its own, and ways to it.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

pub mod calls;
pub mod raw;
pub mod volume;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use zvb_device::{Device, DeviceOptions};
use zvb_driver::{Disk, Options};
use zvb_host::client::{self, SharedMemory, VhostUser};
use zvb_host::server::{Level, Log, LogObserver, ServeError, Server, ServerOptions, Shutdown};
use zvb_storage::Volume;

pub type TestDisk = Disk<VhostUser, SharedMemory>;

/// Keeps every line.
#[derive(Default)]
pub struct Lines(Mutex<Vec<String>>);

impl Log for Lines {
    fn log(&self, level: Level, line: fmt::Arguments<'_>) {
        self.0.lock().unwrap().push(format!("{level:?}: {line}"));
    }
}

impl Lines {
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// Waits for a line that contains `what`.
    pub fn wait_for(&self, what: &str) -> String {
        let start = Instant::now();
        loop {
            if let Some(line) = self.all().iter().find(|line| line.contains(what)) {
                return line.clone();
            }
            assert!(start.elapsed() < Duration::from_secs(10), "no {what:?} in {:#?}", self.all());
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// A running server.
pub struct Rig {
    pub path: PathBuf,
    pub log: Arc<Lines>,
    pub device: Arc<Device>,
    shutdown: Shutdown,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
    _dir: TempDir,
}

impl Rig {
    pub fn new(volume: Arc<dyn Volume>, queues: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.sock");
        let log = Arc::new(Lines::default());
        let as_log: Arc<dyn Log> = Arc::<Lines>::clone(&log);
        let observer = Arc::new(LogObserver::new(Arc::clone(&as_log)));
        let options = DeviceOptions { queues, observer, ..DeviceOptions::default() };
        let device = Device::new(volume, options).unwrap();
        let server = Server::bind(&path, ServerOptions { log: as_log }).unwrap();
        let shutdown = Shutdown::new().unwrap();
        let thread = thread::spawn({
            let (device, shutdown) = (Arc::clone(&device), shutdown.clone());
            move || server.serve(&device, &shutdown)
        });
        Self { path, log, device, shutdown, thread: Some(thread), _dir: dir }
    }

    pub fn disk(&self) -> TestDisk {
        disk_at(&self.path, &Options::default())
    }

    pub fn disk_with(&self, options: &Options) -> TestDisk {
        disk_at(&self.path, options)
    }

    /// Ends the server, and says how it ended.
    pub fn end(&mut self) {
        self.shutdown.trigger();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the server's log: {:#?}", self.log.all());
        }
        self.shutdown.trigger();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !thread::panicking() {
                ended.unwrap().unwrap();
                assert!(!self.path.exists(), "the socket is removed at the end");
            }
        }
    }
}

pub fn connect(path: &Path) -> VhostUser {
    let memory = SharedMemory::new(16 << 20).unwrap();
    VhostUser::connect(path, memory, client::Options::default()).unwrap()
}

pub fn disk_at(path: &Path, options: &Options) -> TestDisk {
    let transport = connect(path);
    let memory = transport.memory().clone();
    Disk::probe(transport, memory, options).unwrap()
}

/// Waits until `what` is true.
pub fn eventually(what: impl Fn() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < Duration::from_secs(10), "it does not come true");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Bytes that tell their place and `seed`.
pub fn pattern(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}
