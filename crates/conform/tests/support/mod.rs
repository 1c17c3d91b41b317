//! A server of ours on a socket of its own, and a run on it.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

pub mod aged;
pub mod bites;
pub mod liar;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tempfile::TempDir;
use zvb_conform::{Options, Outcome, Summary};
use zvb_device::{Device, DeviceOptions};
use zvb_driver::Transport;
use zvb_host::client::{self, ClientError, SharedMemory, VhostUser};
use zvb_host::server::{ServeError, Server, ServerOptions, Shutdown};
use zvb_storage::{Memory, Volume};
use zvb_wire::{Model, Sector};
use zvb_zones::GeometrySpec;

/// A small disk: 40 zones of 512 KiB, 4 KiB blocks.
pub const SPEC: GeometrySpec = GeometrySpec {
    model: Model::HostManaged,
    capacity: Sector(40 * 1024),
    zone_size: Sector(1024),
    zone_capacity: Sector(1024),
    conventional: 2,
    max_open: 0,
    max_active: 0,
    max_append: Sector(256),
    write_granularity: 4096,
};

/// A zoned disk in memory.
pub fn zoned(spec: GeometrySpec) -> Arc<dyn Volume> {
    Arc::new(Memory::new(spec.capacity, 4096.min(spec.write_granularity), Some(spec)).unwrap())
}

/// A running server.
pub struct Rig {
    path: PathBuf,
    shutdown: Shutdown,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
    _dir: TempDir,
}

impl Rig {
    pub fn new(volume: Arc<dyn Volume>, options: DeviceOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.sock");
        let device = Device::new(volume, options).unwrap();
        let server = Server::bind(&path, ServerOptions::default()).unwrap();
        let shutdown = Shutdown::new().unwrap();
        let thread = thread::spawn({
            let shutdown = shutdown.clone();
            move || server.serve(&device, &shutdown)
        });
        Self { path, shutdown, thread: Some(thread), _dir: dir }
    }

    /// Connects, with queues and buffers in `memory`.
    pub fn connect_with(&self, memory: &SharedMemory) -> Result<VhostUser, ClientError> {
        VhostUser::connect(&self.path, memory.clone(), client::Options::default())
    }

    /// Runs on this server, through a transport that `wrap` makes of the real one.
    pub fn run<T: Transport<Error = ClientError>>(
        &self,
        options: &Options<'_>,
        wrap: impl Fn(VhostUser) -> T,
    ) -> (Vec<Outcome>, Summary) {
        let memory = SharedMemory::new(64 << 20).unwrap();
        let mut outcomes = Vec::new();
        let summary = zvb_conform::run(
            &mut || self.connect_with(&memory).map(&wrap),
            &memory,
            options,
            &mut |outcome| outcomes.push(outcome.clone()),
        );
        (outcomes, summary.unwrap())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.shutdown.trigger();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !thread::panicking() {
                ended.unwrap().unwrap();
            }
        }
    }
}
