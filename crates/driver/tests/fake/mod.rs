//! A device for tests, without a thread: it works when the driver waits, answers as it should unless a
//! test tampers, and sees whether it was notified.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

mod disk;
pub mod memory;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use zerocopy::{FromBytes, IntoBytes};
use zvb_driver::{Disk, Features, Options, ProbeError, QueueLayout, Transport};
use zvb_ring::{Chain, DeviceQueue, QueueConfig};
use zvb_wire::{Config, DeviceStatus, RequestHeader, RequestType};

pub use disk::FakeDisk;
pub use memory::Memory;

/// Every failure of the fake way to the device, by the name of the call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FakeError {
    #[error("{0} failed, as the test wants")]
    Wanted(&'static str),
    #[error("nothing would ever wake this wait")]
    Silence,
}

/// What the device is about to write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// From the first writable byte on, before the in-header.
    pub data: Vec<u8>,
    /// The in-header's sector, of an append.
    pub append_sector: Option<u64>,
    /// `None`: not written.
    pub status: Option<u8>,
    /// What to put into the used ring; `None` for all that is writable.
    pub written: Option<u32>,
}

/// A request as the device sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    pub queue: u16,
    pub readable: Vec<u8>,
    pub writable: u64,
    /// Lengths of the segments, both ways.
    pub segments: (Vec<usize>, Vec<usize>),
}

type Tamper = Box<dyn FnOnce(&mut Reply)>;
type Change = Box<dyn FnOnce(&mut Config)>;

/// The device, for the test to look at and to turn the screws of.
pub struct Fake {
    pub memory: Memory,
    pub offered: Features,
    pub config: Config,
    pub config_len: u32,
    /// Called before each read of the generation.
    pub generation: Box<dyn FnMut() -> u32>,
    pub refuse_features: bool,
    /// Called once, when the driver has accepted features.
    pub on_features: Option<Change>,
    pub status: DeviceStatus,
    pub accepted: Features,
    pub max_queues: u16,
    pub max_queue_size: u16,
    pub layouts: BTreeMap<u16, QueueLayout>,
    /// The call that fails.
    pub fails: Option<&'static str>,
    pub calls: Vec<String>,
    pub disk: FakeDisk,
    pub seen: Vec<Seen>,
    pub tamper: VecDeque<Tamper>,
    /// Answers in a turn come in reverse order.
    pub reverse: bool,
    /// Answers at most so many requests a turn.
    pub per_turn: usize,
    /// Wakes whoever waits, for nothing.
    pub babble: bool,
    pub notifications: usize,
    notified: BTreeSet<u16>,
    queues: BTreeMap<u16, DeviceQueue>,
    backlog: BTreeMap<u16, VecDeque<Chain>>,
}

impl Fake {
    /// A host-managed disk of 5 zones of 24 sectors (the last of 12) with 16 to write, the first
    /// conventional; appends of up to 8; a granule of 1024 bytes.
    pub fn zoned() -> Rc<RefCell<Self>> {
        let fake = Self::plain();
        {
            let fake = &mut *fake.borrow_mut();
            fake.offered |= Features::ZONED;
            let zoned = &mut fake.config.zoned;
            zoned.zone_sectors = 24.into();
            zoned.max_open_zones = 2.into();
            zoned.max_active_zones = 3.into();
            zoned.max_append_sectors = 8.into();
            zoned.write_granularity = 1024.into();
            zoned.model = 1;
            fake.disk = FakeDisk::zoned(108, 24, 16, 1);
        }
        fake
    }

    /// A plain disk of 108 sectors that offers all that this driver knows but zones and more queues.
    pub fn plain() -> Rc<RefCell<Self>> {
        let offered = Features::VERSION_1
            | Features::FLUSH
            | Features::BLK_SIZE
            | Features::DISCARD
            | Features::WRITE_ZEROES
            | Features::INDIRECT_DESC
            | Features::EVENT_IDX;
        let config = Config {
            capacity: 108.into(),
            blk_size: 512.into(),
            max_discard_sectors: 64.into(),
            max_discard_seg: 2.into(),
            discard_sector_alignment: 8.into(),
            max_write_zeroes_sectors: 32.into(),
            max_write_zeroes_seg: 1.into(),
            ..Config::default()
        };
        Rc::new(RefCell::new(Self {
            memory: Memory::default(),
            offered,
            config,
            config_len: Config::BYTES,
            generation: Box::new(|| 0),
            refuse_features: false,
            on_features: None,
            status: DeviceStatus::empty(),
            accepted: Features::empty(),
            max_queues: 8,
            max_queue_size: 1024,
            layouts: BTreeMap::new(),
            fails: None,
            calls: Vec::new(),
            disk: FakeDisk::plain(108),
            seen: Vec::new(),
            tamper: VecDeque::new(),
            reverse: false,
            per_turn: usize::MAX,
            babble: false,
            notifications: 0,
            notified: BTreeSet::new(),
            queues: BTreeMap::new(),
            backlog: BTreeMap::new(),
        }))
    }

    /// Takes what the driver has made available and answers it. True: the driver wanted a signal.
    pub fn turn(&mut self, index: u16) -> bool {
        if !self.notified.remove(&index) {
            return false;
        }
        assert!(self.status.contains(DeviceStatus::DRIVER_OK), "notified before DRIVER_OK");
        let Some(queue) = self.queues.get_mut(&index) else { panic!("no queue {index}") };
        queue.pause_notifications();
        let backlog = self.backlog.entry(index).or_default();
        loop {
            while let Some(chain) = queue.pop().expect("a ring in order") {
                backlog.push_back(chain);
            }
            if !queue.resume_notifications() {
                break;
            }
        }
        for _ in 0..self.per_turn {
            let chain = if self.reverse { backlog.pop_back() } else { backlog.pop_front() };
            let Some(chain) = chain else { break };
            let (seen, mut reply) = serve(&mut self.disk, index, &chain);
            self.seen.push(seen);
            if let Some(tamper) = self.tamper.pop_front() {
                tamper(&mut reply);
            }
            let written = write(&chain, &reply);
            queue.push(chain.head, written);
        }
        if !backlog.is_empty() {
            self.notified.insert(index);
        }
        queue.publish()
    }

    fn call(&mut self, name: &'static str, detail: String) -> Result<(), FakeError> {
        self.calls.push(format!("{name}{detail}"));
        if self.fails == Some(name) { Err(FakeError::Wanted(name)) } else { Ok(()) }
    }
}

/// What an honest device answers to `chain`.
fn serve(disk: &mut FakeDisk, queue: u16, chain: &Chain) -> (Seen, Reply) {
    let mut readable = vec![0; chain.readable.len() as usize];
    chain.readable.read(0, &mut readable).expect("as long as it says");
    let (header, data) = RequestHeader::read_from_prefix(&readable).expect("a header");
    let lens = |buffers: &zvb_ring::Buffers| buffers.segments().iter().map(|s| s.len()).collect();
    let segments = (lens(&chain.readable), lens(&chain.writable));
    let seen = Seen { queue, readable: readable.clone(), writable: chain.writable.len(), segments };
    let append = header.request_type() == RequestType::ZONE_APPEND;
    let in_header = if append { 9 } else { 1 };
    let room = (chain.writable.len() - in_header) as usize;
    (seen, disk.serve(header.request_type(), header.sector().0, data, room))
}

/// Writes `reply` into `chain`; how many bytes were written.
fn write(chain: &Chain, reply: &Reply) -> u32 {
    let total = chain.writable.len();
    chain.writable.write(0, &reply.data).expect("data that fits");
    if let Some(sector) = reply.append_sector {
        chain.writable.write(total - 9, &sector.to_le_bytes()).expect("an in-header");
    }
    if let Some(status) = reply.status {
        chain.writable.write(total - 1, &[status]).expect("a status");
    }
    reply.written.unwrap_or(total as u32)
}

/// The driver's way to a [`Fake`].
#[derive(Clone)]
pub struct Wire(pub Rc<RefCell<Fake>>);

impl Transport for Wire {
    type Error = FakeError;

    fn reset(&mut self) -> Result<(), FakeError> {
        let mut fake = self.0.borrow_mut();
        fake.call("reset", String::new())?;
        fake.status = DeviceStatus::empty();
        fake.queues.clear();
        fake.backlog.clear();
        fake.notified.clear();
        fake.layouts.clear();
        Ok(())
    }

    fn status(&mut self) -> Result<DeviceStatus, FakeError> {
        let mut fake = self.0.borrow_mut();
        fake.call("status", String::new())?;
        Ok(fake.status)
    }

    fn set_status(&mut self, status: DeviceStatus) -> Result<(), FakeError> {
        let mut fake = self.0.borrow_mut();
        fake.call("set_status", format!(" {}", status.bits()))?;
        // A driver MUST NOT clear a bit but by a reset (virtio 2.1.1).
        assert!(status.contains(fake.status - DeviceStatus::FEATURES_OK), "a bit was cleared");
        fake.status = status;
        if fake.refuse_features {
            fake.status -= DeviceStatus::FEATURES_OK;
        }
        Ok(())
    }

    fn device_features(&mut self) -> Result<Features, FakeError> {
        let mut fake = self.0.borrow_mut();
        fake.call("device_features", String::new())?;
        Ok(fake.offered)
    }

    fn set_driver_features(&mut self, features: Features) -> Result<(), FakeError> {
        let mut fake = self.0.borrow_mut();
        fake.call("set_driver_features", String::new())?;
        assert!(fake.offered.contains(features), "accepted what is not offered");
        assert!(!fake.status.contains(DeviceStatus::FEATURES_OK));
        fake.accepted = features;
        if let Some(change) = fake.on_features.take() {
            change(&mut fake.config);
        }
        Ok(())
    }

    fn config_generation(&mut self) -> Result<u32, FakeError> {
        let mut fake = self.0.borrow_mut();
        fake.call("config_generation", String::new())?;
        Ok((fake.generation)())
    }

    fn config_len(&mut self) -> Result<u32, FakeError> {
        let mut fake = self.0.borrow_mut();
        fake.call("config_len", String::new())?;
        Ok(fake.config_len)
    }

    fn read_config(&mut self, offset: u32, into: &mut [u8]) -> Result<(), FakeError> {
        let mut fake = self.0.borrow_mut();
        fake.call("read_config", format!(" {offset}+{}", into.len()))?;
        assert!(offset as usize + into.len() <= fake.config_len as usize);
        let from = offset as usize;
        into.copy_from_slice(&fake.config.as_bytes()[from..from + into.len()]);
        Ok(())
    }

    fn write_config(&mut self, offset: u32, from: &[u8]) -> Result<(), FakeError> {
        let mut fake = self.0.borrow_mut();
        fake.call("write_config", format!(" {offset} {from:?}"))?;
        assert!(fake.status.contains(DeviceStatus::FEATURES_OK));
        let at = offset as usize;
        fake.config.as_mut_bytes()[at..at + from.len()].copy_from_slice(from);
        Ok(())
    }

    fn max_queues(&mut self) -> Result<u16, FakeError> {
        let mut fake = self.0.borrow_mut();
        fake.call("max_queues", String::new())?;
        Ok(fake.max_queues)
    }

    fn max_queue_size(&mut self, index: u16) -> Result<u16, FakeError> {
        let mut fake = self.0.borrow_mut();
        fake.call("max_queue_size", format!(" {index}"))?;
        Ok(fake.max_queue_size)
    }

    fn set_up_queue(&mut self, index: u16, layout: &QueueLayout) -> Result<(), FakeError> {
        let mut fake = self.0.borrow_mut();
        fake.call("set_up_queue", format!(" {index}"))?;
        assert!(fake.status.contains(DeviceStatus::FEATURES_OK));
        assert!(!fake.status.contains(DeviceStatus::DRIVER_OK));
        let config = QueueConfig {
            size: layout.size,
            descriptors: layout.descriptors,
            available: layout.available,
            used: layout.used,
            event_index: fake.accepted.contains(Features::EVENT_IDX),
            indirect: fake.accepted.contains(Features::INDIRECT_DESC),
            next_available: 0,
            next_used: 0,
        };
        let queue = DeviceQueue::new(Rc::new(fake.memory.clone()), config).expect("a good layout");
        fake.queues.insert(index, queue);
        fake.layouts.insert(index, *layout);
        Ok(())
    }

    fn notify(&self, index: u16) -> Result<(), FakeError> {
        let mut fake = self.0.borrow_mut();
        fake.notifications += 1;
        if fake.fails == Some("notify") {
            return Err(FakeError::Wanted("notify"));
        }
        fake.notified.insert(index);
        Ok(())
    }

    fn wait(&self, index: u16, _timeout_ms: Option<u32>) -> Result<(), FakeError> {
        let mut fake = self.0.borrow_mut();
        if fake.fails == Some("wait") {
            return Err(FakeError::Wanted("wait"));
        }
        if fake.babble {
            return Ok(());
        }
        // Works on until it is to signal, as a device on its own thread would.
        while !fake.turn(index) {
            if !fake.notified.contains(&index) {
                return Err(FakeError::Silence);
            }
        }
        Ok(())
    }
}

pub type FakeDriver = Disk<Wire, Memory>;

/// Probes `fake`.
pub fn probe(
    fake: &Rc<RefCell<Fake>>,
    options: &Options,
) -> Result<FakeDriver, ProbeError<FakeError>> {
    let memory = fake.borrow().memory.clone();
    let disk = Disk::probe(Wire(Rc::clone(fake)), memory, options)?;
    // What a test sees is what came after.
    let mut fake = fake.borrow_mut();
    fake.seen.clear();
    fake.notifications = 0;
    Ok(disk)
}

/// Probes `fake`, which must work.
pub fn drive(fake: &Rc<RefCell<Fake>>) -> FakeDriver {
    probe(fake, &Options::default()).expect("a device in order")
}

/// Has `tamper` change the next reply.
pub fn tamper(fake: &Rc<RefCell<Fake>>, tamper: impl FnOnce(&mut Reply) + 'static) {
    fake.borrow_mut().tamper.push_back(Box::new(tamper));
}
