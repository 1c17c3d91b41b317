//! A session against a kernel that is not there.

mod fake;

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tempfile::TempDir;
use zerocopy::FromBytes;
use zvb_device::{Device, DeviceOptions};
use zvb_ring::Ledger;
use zvb_storage::Memory;
use zvb_wire::{Config, DeviceStatus, Features, Model, RequestType, Sector};
use zvb_zones::GeometrySpec;

use super::TRANSPORT;
use super::ledger::LedgerFile;
use super::session::{Session, TakeOverError};
use crate::server::log::{Level, Log};
use fake::{Fake, RINGS};

#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl Log for Lines {
    fn log(&self, level: Level, line: fmt::Arguments<'_>) {
        self.0.lock().unwrap().push(format!("{level:?}: {line}"));
    }
}

impl Lines {
    fn have(&self, what: &str) -> bool {
        self.0.lock().unwrap().iter().any(|line| line.contains(what))
    }
}

const ZONE: u64 = 1 << 11;

fn spec(model: Model) -> GeometrySpec {
    GeometrySpec {
        model,
        capacity: Sector(ZONE * 8),
        zone_size: Sector(ZONE),
        zone_capacity: Sector(ZONE),
        conventional: 1,
        max_open: 0,
        max_active: 0,
        max_append: Sector(64),
        write_granularity: 4096,
    }
}

fn device(model: Model, queues: u16) -> Arc<Device> {
    let memory = Memory::new(Sector(ZONE * 8), 4096, Some(spec(model))).unwrap();
    let options = DeviceOptions {
        queues,
        max_queue_size: 64,
        transport: TRANSPORT,
        ..DeviceOptions::default()
    };
    Device::new(Arc::new(memory), options).unwrap()
}

struct Rig {
    device: Arc<Device>,
    session: Session,
    kernel: Arc<Fake>,
    log: Arc<Lines>,
    folder: TempDir,
}

impl Rig {
    fn new(model: Model, queues: u16) -> Self {
        let device = device(model, queues);
        // No event index: each answer is signalled.
        let features = device.features().difference(Features::EVENT_IDX);
        let kernel = Arc::new(Fake::new(features.bits(), queues.into()));
        let log = Arc::new(Lines::default());
        let folder = tempfile::tempdir().unwrap();
        let ledger = LedgerFile::create(&folder.path().join("ledger"), &device).unwrap();
        let session =
            Session::new(&device, Arc::<Fake>::clone(&kernel), ledger, Arc::<Lines>::clone(&log))
                .unwrap();
        Self { device, session, kernel, log, folder }
    }

    /// True when the kernel is told that it is done.
    fn ask(&mut self, kind: u32, body: &[u8]) -> bool {
        self.kernel.ask(kind, body);
        self.session.serve_one().unwrap();
        self.kernel.answer().result == 0
    }

    fn status(&mut self, bits: u8) -> bool {
        self.ask(1, &[bits])
    }

    /// What every driver does.
    fn bring_up(&mut self) {
        for bits in [0, 1, 3, 11, 15] {
            assert!(self.status(bits), "status {bits}");
        }
    }
}

fn header(request: RequestType, sector: u64) -> Vec<u8> {
    [request.0.to_le_bytes().as_slice(), &[0; 4], &sector.to_le_bytes()].concat()
}

fn config(bytes: &[u8]) -> Config {
    Config::read_from_bytes(bytes).unwrap()
}

#[test]
fn a_driver_comes_asks_and_goes() {
    let mut rig = Rig::new(Model::HostManaged, 2);
    rig.bring_up();
    let kernel = Arc::clone(&rig.kernel);
    // The piece that data goes through comes with the first data, and nobody says so.
    kernel.show_bounce();
    kernel.deaf.store(3, Ordering::Relaxed);
    let data = [0x5a; 0xe00];
    kernel.send(0, 0, &header(RequestType::OUT, ZONE), Ok(&data[..0xc00]));
    assert!(kernel.kick(0));
    assert_eq!(kernel.wait(0, 1, 0), 4, "a write of no whole block: ZONE_UNALIGNED_WP");
    kernel.send(1, 0, &header(RequestType::IN, 0), Err(512));
    assert!(kernel.kick(1));
    assert_eq!(kernel.wait(1, 1, 0), 0);
    assert_eq!(kernel.data::<512>(1, 0), [0; 512]);
    // 2 signals: those that the kernel did not take yet were tried again.
    while kernel.calls.load(Ordering::Relaxed) < 2 {
        std::thread::yield_now();
    }

    // Where the queues stand; they go on.
    assert!(rig.ask(0, &[1, 0, 0, 0]));
    assert_eq!(rig.kernel.answer().body[..6], [1, 0, 0, 0, 1, 0]);
    kernel.send(1, 3, &header(RequestType::GET_ID, 0), Err(20));
    assert!(kernel.kick(1));
    assert_eq!(kernel.wait(1, 2, 3), 0);
    assert!(!rig.ask(0, &[2, 0, 0, 0]), "there is no queue 2");

    // After a reset nothing is served, also when it is kicked.
    let before = kernel.used(1);
    assert!(rig.status(0));
    kernel.send(1, 0, &header(RequestType::GET_ID, 0), Err(20));
    kernel.kick(1);
    std::thread::sleep(std::time::Duration::from_millis(30));
    assert_eq!(kernel.used(1), before);
}

#[test]
fn memory_that_moves_is_asked_for_again() {
    let mut rig = Rig::new(Model::HostManaged, 1);
    rig.bring_up();
    let kernel = Arc::clone(&rig.kernel);
    kernel.show_bounce();
    kernel.send(0, 0, &header(RequestType::GET_ID, 0), Err(20));
    kernel.kick(0);
    assert_eq!(kernel.wait(0, 1, 0), 0);
    // The same rings, at another place in the file.
    let moved = RINGS + 0x8_0000;
    let rings: [u8; 0x1000] = kernel.read(RINGS);
    kernel.write(moved, &rings);
    kernel.state.lock().unwrap().regions[0].offset = moved;
    assert!(rig.ask(2, &[0; 16]));
    // The next request is written at the new place.
    kernel.send(0, 3, &header(RequestType::GET_ID, 0), Err(20));
    let rings: [u8; 0x800] = kernel.read(RINGS);
    kernel.write(moved, &rings);
    kernel.kick(0);
    let used = || u16::from_le_bytes(kernel.read(moved + 0x802));
    while used() != 2 {
        std::thread::yield_now();
    }
    assert_eq!(kernel.used(0), 1, "nothing is written to the old place");
    assert_eq!(kernel.status(0, 3), 0);
}

#[test]
fn a_driver_that_can_not_drive_it_is_refused() {
    let mut rig = Rig::new(Model::HostManaged, 1);
    let offered = rig.kernel.features.load(Ordering::Relaxed);
    for (missing, why) in [
        (Features::ZONED, "host-managed"),
        (Features::ACCESS_PLATFORM, "ACCESS_PLATFORM"),
        (Features::VERSION_1, "VERSION_1"),
    ] {
        rig.kernel.features.store(offered & !missing.bits(), Ordering::Relaxed);
        assert!(rig.status(0) && rig.status(3));
        assert!(!rig.status(11), "without {missing:?}");
        assert!(rig.log.have(why), "{why}");
    }
    rig.kernel.features.store(offered | Features::CONFIG_WCE.bits(), Ordering::Relaxed);
    assert!(!rig.status(11), "CONFIG_WCE was not offered");
    // And may try again.
    rig.kernel.features.store(offered, Ordering::Relaxed);
    assert!(rig.status(11) && rig.status(15));
    assert!(rig.status(15 | DeviceStatus::FAILED.bits()));
    assert!(rig.log.have("gave up"));
    assert!(!rig.ask(9, &[]), "an unknown request");
}

#[test]
fn a_driver_that_knows_no_zones_sees_none() {
    let mut rig = Rig::new(Model::HostAware, 1);
    let offered = rig.kernel.features.load(Ordering::Relaxed);
    rig.kernel.features.store(offered & !Features::ZONED.bits(), Ordering::Relaxed);
    assert!(rig.status(0) && rig.status(3) && rig.status(11));
    // 7.
    let shown = config(&rig.kernel.state.lock().unwrap().config);
    assert_eq!((shown.zoned.model, shown.zoned.zone_sectors.get()), (0, 0));
    assert_eq!(shown.capacity.get(), ZONE * 8);
    assert!(rig.status(0));
    let shown = config(&rig.kernel.state.lock().unwrap().config);
    assert_eq!(shown.zoned.model, Model::HostAware as u8);
}

#[test]
fn queues_that_can_not_run_are_told_of() {
    let mut rig = Rig::new(Model::HostManaged, 3);
    {
        let mut state = rig.kernel.state.lock().unwrap();
        state.queues[0].num = 128;
        state.queues[1].used = 0xdead_0000;
        state.queues[2].ready = 0;
    }
    assert!(rig.status(3) && rig.status(11));
    assert!(!rig.status(15));
    assert!(rig.log.have("queue 0 does not start: its size of 128"));
    assert!(rig.log.have("queue 1 does not start: the used ring is not in"));
    assert!(!rig.log.have("queue 2"), "the driver does not use it");
    // Memory that can only be read is of no use.
    let mut rig = Rig::new(Model::HostManaged, 1);
    rig.kernel.state.lock().unwrap().regions[0].perm = 1;
    assert!(rig.status(3) && rig.status(11));
    assert!(!rig.status(15));
    assert!(rig.log.have("can not be both read and written"));
}

#[test]
fn a_broken_ring_is_retired_and_a_reset_mends_it() {
    let mut rig = Rig::new(Model::HostManaged, 2);
    rig.bring_up();
    let kernel = Arc::clone(&rig.kernel);
    kernel.show_bounce();
    // The available index jumps.
    kernel.write(RINGS + 0x402, &[0xff, 0xff]);
    kernel.kick(0);
    while !rig.log.have("queue 0 is retired") {
        std::thread::yield_now();
    }
    kernel.send(1, 0, &header(RequestType::GET_ID, 0), Err(20));
    kernel.kick(1);
    assert_eq!(kernel.wait(1, 1, 0), 0, "the other queue is unharmed");
    kernel.write(RINGS, &[0; 0x2000]);
    rig.bring_up();
    kernel.send(0, 0, &header(RequestType::GET_ID, 0), Err(20));
    kernel.kick(0);
    assert_eq!(kernel.wait(0, 1, 0), 0);
}

#[test]
fn a_change_of_the_configuration_is_told_to_a_driver_that_is_there() {
    let mut rig = Rig::new(Model::HostManaged, 1);
    rig.device.announce_config_change();
    rig.session.tell();
    assert_eq!(rig.kernel.announced.load(Ordering::Relaxed), 0);
    rig.bring_up();
    rig.device.announce_config_change();
    let mut fds = [PollFd::from_borrowed_fd(rig.session.news(), PollFlags::IN)];
    assert_eq!(poll(&mut fds, Some(&Timespec::default())).unwrap(), 1);
    rig.session.tell();
    assert_eq!(rig.kernel.announced.load(Ordering::Relaxed), 1);
    let mut fds = [PollFd::from_borrowed_fd(rig.session.news(), PollFlags::IN)];
    assert_eq!(poll(&mut fds, Some(&Timespec::default())).unwrap(), 0, "told once");
}

#[test]
fn a_queue_is_taken_over_where_a_dead_process_left_it() {
    let mut rig = Rig::new(Model::HostManaged, 1);
    rig.bring_up();
    let kernel = Arc::clone(&rig.kernel);
    kernel.show_bounce();
    kernel.send(0, 0, &header(RequestType::GET_ID, 0), Err(20));
    kernel.kick(0);
    assert_eq!(kernel.wait(0, 1, 0), 0);
    // It dies: here it stops in order, and then took two more, of which it answered one.
    rig.session.stop_all();
    let path = rig.folder.path().join("ledger");
    {
        let mut book = LedgerFile::open(&path, &rig.device).unwrap().unwrap().queue(0);
        book.unanswered(1);
        book.taken(3);
        book.taken(0);
        book.answered(3, 1);
        kernel.write(RINGS + 0x804 + 8, &[3, 0, 0, 0, 1, 0, 0, 0]);
        kernel.write(RINGS + 0x802, &[2, 0]);
    }
    kernel.send(0, 3, &header(RequestType::GET_ID, 0), Err(20));
    kernel.send(0, 0, &header(RequestType::IN, 0), Err(512));
    kernel.calls.store(0, Ordering::Relaxed);

    let log = Arc::<Lines>::clone(&rig.log);
    let ledger = LedgerFile::open(&path, &rig.device).unwrap().unwrap();
    let mut next = Session::new(&rig.device, Arc::<Fake>::clone(&kernel), ledger, log).unwrap();
    next.take_over(DeviceStatus::from_bits_retain(15)).unwrap();
    assert_eq!(kernel.wait(0, 3, 0), 0);
    assert_eq!(kernel.read::<4>(RINGS + 0x804 + 16), [0; 4], "the one that was not answered");
    assert!(kernel.calls.load(Ordering::Relaxed) >= 1);
    // And goes on as if nothing had been.
    kernel.send(0, 3, &header(RequestType::GET_ID, 0), Err(20));
    kernel.kick(0);
    assert_eq!(kernel.wait(0, 4, 3), 0);
}

#[test]
fn a_driver_of_another_disk_is_not_taken_over() {
    let mut rig = Rig::new(Model::HostAware, 1);
    let offered = rig.kernel.features.load(Ordering::Relaxed);
    rig.kernel.features.store(offered | Features::CONFIG_WCE.bits(), Ordering::Relaxed);
    let refused = rig.session.take_over(DeviceStatus::from_bits_retain(15));
    assert!(matches!(refused, Err(TakeOverError::Features(_))), "{refused:?}");
    // One that had not got so far says the rest by itself.
    rig.kernel.features.store(offered, Ordering::Relaxed);
    rig.session.take_over(DeviceStatus::from_bits_retain(3)).unwrap();
    assert!(rig.status(11) && rig.status(15));
}
