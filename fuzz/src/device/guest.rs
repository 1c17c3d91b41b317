//! The guest: one queue, laid out by hand, and what it knows of the disk.

use std::rc::Rc;
use std::sync::Arc;

use zvb_device::{Device, DeviceOptions, Lane, Session, Wake};
use zvb_ring::{DeviceQueue, GuestMemory, QueueConfig};
use zvb_storage::Volume;
use zvb_wire::{Condition, Config, Features, Model as Kind, RequestType, Sector, ZoneType};
use zvb_zones::{GeometrySpec, Snapshot};

use super::Setup;
use super::expect::{Expected, Request, Terms, expect};
use super::walk::{AVAILABLE, DESCRIPTORS, USED, Walk, used_bytes};
use crate::disk::MemoryDisk;
use crate::guest::Regions;
use crate::input::Input;
use crate::model::Model;

/// Memory, with a hole in the middle.
const MEMORY: [(u64, u64); 2] = [(0, 0x5000), (0x9000, 0x4000)];
/// Where indirect tables go.
const TABLES: u64 = 0x1000;
/// Where what is read and what is written lies.
const READABLE: (u64, u64) = (0x1200, 0x5000);
const WRITABLE: (u64, u64) = (0x9000, 0xd000);

/// `max_open` and `max_active`.
const LIMITS: [(u32, u32); 7] = [(0, 0), (1, 0), (2, 0), (1, 1), (1, 2), (2, 3), (0, 2)];

/// A conventional zone of 16 sectors, four sequential ones, and a last one of 6.
const CAPACITY: Sector = Sector(16 * 5 + 6);

fn spec(setup: Setup) -> Option<GeometrySpec> {
    let (max_open, max_active) = LIMITS[usize::from(setup.limits)];
    let host_managed = GeometrySpec {
        model: Kind::HostManaged,
        capacity: CAPACITY,
        zone_size: Sector(16),
        zone_capacity: Sector(12),
        conventional: 1,
        max_open,
        max_active,
        max_append: Sector(8),
        write_granularity: 1024,
    };
    match setup.model {
        0 => Some(host_managed),
        1 => Some(GeometrySpec {
            model: Kind::HostAware,
            zone_capacity: Sector(16),
            max_active: 0,
            ..host_managed
        }),
        _ => None,
    }
}

thread_local! {
    /// Made once, as that takes its time; cleared for each session.
    static MEMORY_OF_ALL: Rc<Regions> = Regions::new(&MEMORY);
}

struct NoWake;

impl Wake for NoWake {
    fn wake(&self) {}
}

pub(super) struct Guest {
    setup: Setup,
    disk: Arc<MemoryDisk>,
    device: Arc<Device>,
    session: Arc<Session>,
    lane: Option<Lane>,
    memory: Rc<Regions>,
    terms: Terms,
    model: Model,
    /// The available index, as the guest last wrote it.
    available: u16,
    /// The used index up to which all was looked at.
    used: u16,
    descriptor: u16,
    readable: u64,
    writable: u64,
    /// Something was done of which nobody knows what comes of it.
    disorder: bool,
    written: u8,
}

impl Guest {
    pub(super) fn new(setup: Setup) -> Self {
        let spec = spec(setup);
        let read_only = setup.has(Setup::READ_ONLY);
        let disk = MemoryDisk::new(CAPACITY, spec, read_only);
        let device = device(&disk);
        let session = device.session();
        let erase_unit = spec.map_or(1, |spec| spec.zone_size.0);
        let mut guest = Self {
            setup,
            disk,
            device,
            session,
            lane: None,
            memory: MEMORY_OF_ALL.with(Rc::clone),
            terms: Terms { features: Features::empty(), read_only, erase_unit },
            model: Model::new(CAPACITY, spec),
            available: 0,
            used: 0,
            descriptor: 0,
            readable: READABLE.0,
            writable: WRITABLE.0,
            disorder: false,
            written: 0,
        };
        guest.begin_anew();
        guest
    }

    /// A new session on the device, with a new queue.
    pub(super) fn begin_anew(&mut self) {
        let features = self.setup.accepts(self.device.features());
        self.begin_with(features);
    }

    fn begin_with(&mut self, features: Features) {
        self.lane = None;
        self.session = self.device.session();
        self.session.accept(features).expect("what was offered");
        if features.contains(Features::CONFIG_WCE) && self.setup.has(Setup::WRITETHROUGH) {
            let written = self.session.write_config(Config::WRITEBACK.offset, &[0]);
            written.expect("the cache mode can be chosen");
        }
        self.terms.features = features;
        self.memory.clear();
        let config = QueueConfig {
            size: self.setup.size,
            descriptors: DESCRIPTORS,
            available: AVAILABLE,
            used: USED,
            event_index: self.setup.has(Setup::EVENT_INDEX),
            indirect: self.setup.has(Setup::INDIRECT),
            next_available: 0,
            next_used: 0,
        };
        let memory = Rc::<Regions>::clone(&self.memory) as Rc<dyn GuestMemory>;
        let queue = DeviceQueue::new(memory, config).expect("a good layout");
        self.lane = Some(self.session.lane(0, queue, Arc::new(NoWake)).expect("a queue"));
        (self.available, self.used, self.descriptor) = (0, 0, 0);
    }

    fn lane(&mut self) -> &mut Lane {
        self.lane.as_mut().expect("there is a lane between two sessions' beginnings")
    }

    /// The device's process is started anew, and finds the disk as it was left.
    pub(super) fn restart(&mut self) {
        self.lane = None;
        self.device = device(&self.disk);
        // What was open is closed; the device records that when it next changes.
        for state in &mut self.disk.state().recorded {
            if state.condition().is_open() {
                *state = match state.written() {
                    Sector::ZERO => Snapshot::EMPTY,
                    written => Snapshot::new(Condition::Closed, written),
                };
            }
        }
        self.model.restart();
        self.begin_anew();
    }

    /// Brings guest, device and model to the same state after a disorder.
    pub(super) fn settle(&mut self) {
        if !std::mem::take(&mut self.disorder) {
            return;
        }
        self.disk.state().fail_in = None;
        self.disk.check_limits();
        if !self.terms.read_only {
            self.begin_with(self.device.features());
            if !self.model.zones.is_empty() {
                // What the model says of it now is not what the disk holds.
                self.run(&request(RequestType::ZONE_RESET_ALL, 0, &[], 1));
            }
            self.adopt();
        }
        self.begin_anew();
    }

    /// What a disorder left where no reset clears it.
    fn adopt(&mut self) {
        let mut state = self.disk.state();
        if self.model.zones.is_empty() {
            self.model.data.copy_from_slice(&state.bytes);
        }
        for zone in &self.model.zones {
            let range = zone.start as usize * 512..(zone.start + zone.len) as usize * 512;
            match zone.kind {
                ZoneType::Conventional => {
                    self.model.data[range.clone()].copy_from_slice(&state.bytes[range]);
                }
                // A write that failed may have left anything.
                ZoneType::SequentialPreferred => state.bytes[range].fill(0),
                ZoneType::SequentialRequired => {}
            }
        }
    }

    /// The report of all zones is what the model says.
    pub(super) fn check_zones(&mut self) {
        self.run(&request(RequestType::ZONE_REPORT, 0, &[], 64 * 8 + 1));
        for at in (0..CAPACITY.0).step_by(16) {
            let sectors = 16.min(CAPACITY.0 - at);
            self.run(&request(RequestType::IN, at, &[], sectors * 512 + 1));
        }
    }

    /// A request that a driver could send, or nearly so.
    pub(super) fn request(&mut self, input: &mut Input<'_>) -> Request {
        const KINDS: [u32; 16] = [0, 1, 1, 15, 15, 16, 18, 20, 22, 24, 26, 4, 8, 11, 13, 14];
        let choice = input.byte();
        let kind = match choice {
            0..=0xef => KINDS[usize::from(choice % 16)],
            _ => input.word(),
        };
        let sector = self.sector(input);
        let (len, framing) = (input.byte(), input.byte());
        // Mostly whole sectors, and mostly whole granules.
        let bytes = match len {
            0..=0xaf => u64::from(len % 11) * 1024,
            0xb0..=0xef => u64::from(len % 20) * 512,
            _ => u64::from(input.short() % 0x1400),
        };
        let mut readable = kind.to_le_bytes().to_vec();
        readable.extend([0; 4]);
        readable.extend(sector.to_le_bytes());
        let mut writable = 1;
        match kind {
            0 => writable += bytes,
            1 | 15 => {
                self.written = self.written.wrapping_add(1);
                let seed = self.written;
                readable.extend((0..bytes).map(|i| seed.wrapping_add((i / 7) as u8) | 1));
                writable += if kind == 15 { 8 } else { 0 };
            }
            8 => writable += bytes % 64,
            16 => writable += bytes % 700,
            11 | 13 | 14 => self.ranges(kind, sector, len, input, &mut readable),
            _ => {}
        }
        if framing >= 0xf8 {
            // Cut short, on either side.
            readable.truncate(usize::from(input.byte() % 64));
            writable = input.below(12);
        }
        Request { readable, writable, framing }
    }

    /// A sector: somewhere in a zone, at its write pointer, or anywhere.
    fn sector(&self, input: &mut Input<'_>) -> u64 {
        let (zone, place) = (input.byte(), input.byte());
        let start = u64::from(zone % 7) * 16;
        let pointer =
            self.model.zones.get(usize::from(zone % 7)).map_or(start, |z| z.start + z.pointer);
        match place {
            0..=0x7f => pointer,
            0x80..=0xbf => start,
            0xc0..=0xdf => start + u64::from(place % 16),
            0xe0..=0xef => (pointer + u64::from(place % 4)).saturating_sub(2),
            _ => input.long(),
        }
    }

    fn ranges(
        &self,
        kind: u32,
        first: u64,
        len: u8,
        input: &mut Input<'_>,
        readable: &mut Vec<u8>,
    ) {
        for i in 0..=len % 4 {
            let at = if i == 0 { first } else { self.sector(input) };
            let (sectors, flags) = (input.byte(), input.byte());
            let sectors = match sectors {
                0..=0x7f if kind == 14 => u32::from(sectors % 3) * 16,
                0..=0xef => u32::from(sectors % 20),
                _ => input.word(),
            };
            let flags = if flags < 0xf0 { u32::from(flags & 1) & kind } else { flags.into() };
            readable.extend(at.to_le_bytes());
            readable.extend(sectors.to_le_bytes());
            readable.extend(flags.to_le_bytes());
        }
    }

    /// Sends `request`, and compares what comes of it with what the model says.
    pub(super) fn run(&mut self, request: &Request) {
        (self.readable, self.writable) = (READABLE.0, WRITABLE.0);
        let (head, pieces) = self.send(request);
        let before = self.memory.snapshot();
        let flushed = self.disk.state().flushes;
        let expected = expect(&mut self.model, &self.terms, request);
        trace!("{request:?}: {expected:?}");
        let _ = self.lane().turn(true);
        assert_eq!(self.lane().broken(), None, "{request:?}");
        assert_eq!(self.lane().in_flight(), 0, "{request:?} is not answered");
        assert!(self.lane().prepare_sleep(), "there is nothing left to do");
        self.compare(&before, head, &pieces, &expected, request);
        let flushed = self.disk.state().flushes - flushed;
        let durable = expected.changed && self.is_writethrough();
        assert!(!durable || flushed > 0, "{request:?} is not durable");
    }

    fn is_writethrough(&self) -> bool {
        let has = |feature| self.terms.features.contains(feature);
        match has(Features::CONFIG_WCE) {
            true => self.setup.has(Setup::WRITETHROUGH) || !has(Features::FLUSH),
            false => !has(Features::FLUSH),
        }
    }

    fn compare(
        &mut self,
        before: &crate::guest::Snapshot,
        head: u16,
        writable: &[(u64, u32)],
        expected: &Expected,
        request: &Request,
    ) {
        let mut wanted = before.clone();
        let total: u64 = writable.iter().map(|(_, len)| u64::from(*len)).sum();
        let tail_at = total.saturating_sub(expected.tail.len() as u64);
        put(&mut wanted, writable, 0, &expected.data);
        put(&mut wanted, writable, tail_at, &expected.tail);
        let slot = USED + 4 + 8 * u64::from(self.used % self.setup.size);
        wanted.put(slot, &u32::from(head).to_le_bytes());
        wanted.put(slot + 4, &expected.used.to_le_bytes());
        self.used = self.used.wrapping_add(1);
        wanted.put(USED + 2, &self.used.to_le_bytes());
        let mut free = vec![(USED, 2), (USED + used_bytes(self.setup.size) - 2, 2)];
        let mut skipped = 0;
        for (at, len) in writable {
            // The sector of an append that failed means nothing.
            let undefined = expected.undefined.saturating_sub(skipped).min(u64::from(*len));
            if undefined > 0 {
                free.push((*at, undefined));
            }
            skipped += u64::from(*len);
        }
        let found = self.memory.snapshot();
        if let Some(at) = wanted.differs(&found, &free) {
            let around = |s: &crate::guest::Snapshot| s.get(at & !7, 8).map(<[u8]>::to_vec);
            panic!(
                "byte {at:#x}: expected {:02x?}, found {:02x?}; {request:?} over {writable:x?}: {expected:?}",
                around(&wanted),
                around(&found)
            );
        }
    }

    /// Lays `request` out and makes it available. Its head, and where it can be written.
    fn send(&mut self, request: &Request) -> (u16, Vec<(u64, u32)>) {
        let framing = request.framing;
        let readable = cut(request.readable.len() as u64, framing % 3 + 1);
        let writable = cut(request.writable, (framing >> 2) % 3 + 1);
        let mut descriptors = Vec::new();
        let mut read = 0;
        for len in readable {
            let at = place(&mut self.readable, READABLE, len);
            let piece = &request.readable[read as usize..][..len as usize];
            assert!(self.memory.poke(at, piece) || len == 0, "memory of ours");
            descriptors.push((at, len as u32, 0));
            read += len;
        }
        let mut places = Vec::new();
        for len in writable {
            let at = place(&mut self.writable, WRITABLE, len);
            self.memory.poke(at, &vec![0xaa; len as usize]);
            places.push((at, len as u32));
            descriptors.push((at, len as u32, 2));
        }
        let indirect = framing & 0x80 != 0 && self.setup.has(Setup::INDIRECT);
        let head = self.describe(&descriptors, indirect);
        self.publish(head);
        self.disorder = false;
        (head, places)
    }

    fn describe(&mut self, descriptors: &[(u64, u32, u16)], indirect: bool) -> u16 {
        let size = self.setup.size;
        let head = self.descriptor % size;
        let count = descriptors.len() as u16;
        for (i, (at, len, flags)) in (0..count).zip(descriptors) {
            let link = u16::from(i + 1 < count);
            let (table, index, next) = match indirect {
                true => (TABLES, i, i + 1),
                false => (DESCRIPTORS, (head + i) % size, (head + i + 1) % size),
            };
            self.put_descriptor(table + 16 * u64::from(index), *at, *len, flags | link, next);
        }
        if indirect {
            let at = DESCRIPTORS + 16 * u64::from(head);
            self.put_descriptor(at, TABLES, 16 * u32::from(count), 4, 0);
        }
        self.descriptor = (head + if indirect { 1 } else { count }) % size;
        head
    }

    fn put_descriptor(&self, place: u64, at: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = at.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.memory.poke(place, &bytes);
    }

    /// Makes a chain available.
    pub(super) fn publish(&mut self, head: u16) {
        let slot = u64::from(self.available % self.setup.size);
        self.memory.poke(AVAILABLE + 4 + 2 * slot, &head.to_le_bytes());
        self.available = self.available.wrapping_add(1);
        self.memory.poke(AVAILABLE + 2, &self.available.to_le_bytes());
        self.disorder = true;
    }

    /// Moves the available index.
    pub(super) fn jump(&mut self, by: u16) {
        self.available = self.available.wrapping_add(by);
        self.memory.poke(AVAILABLE + 2, &self.available.to_le_bytes());
        self.disorder = true;
    }

    /// Sends `request` behind others, without a turn, and without what it would need to be understood
    /// when `spoil` says so.
    pub(super) fn send_in_disorder(&mut self, request: &Request, spoil: u8) {
        let (head, _) = self.send(request);
        if spoil >= 0xc0 {
            let at = DESCRIPTORS + 16 * u64::from(head) + u64::from(spoil % 16);
            self.memory.poke(at, &[spoil]);
        }
        self.disorder = true;
    }

    pub(super) fn poke(&mut self, address: u64, bytes: &[u8]) {
        self.memory.poke(address, bytes);
        self.disorder = true;
    }

    /// A descriptor of numbers that make sense more often than not.
    pub(super) fn poke_descriptor(&mut self, input: &mut Input<'_>) {
        let index = input.below(self.setup.size.into());
        let table = if input.byte() < 0xc0 { DESCRIPTORS } else { TABLES };
        let at = match input.byte() {
            0..=0x3f => READABLE.0,
            0x40..=0x7f => WRITABLE.0 + u64::from(input.byte()) * 64,
            0x80..=0x8f => TABLES,
            0x90..=0xdf => input.short().into(),
            _ => input.long(),
        };
        let len = match input.byte() {
            0xf8.. => input.word(),
            n @ 0xc0.. => u32::from(n % 40) * 512,
            n => u32::from(n % 64),
        };
        let (flags, next) = (u16::from(input.byte() % 8), input.byte());
        let next = if next < 0xf0 { u16::from(next) % self.setup.size } else { input.short() };
        self.put_descriptor(table + 16 * index, at, len, flags, next);
        self.disorder = true;
    }

    /// The medium fails after so many more operations.
    pub(super) fn fail_in(&mut self, operations: u32) {
        self.disk.state().fail_in = Some(operations);
        self.disorder = true;
    }

    /// From now on the medium does things in the other order.
    pub(super) fn reverse(&mut self) {
        let mut state = self.disk.state();
        state.reverse = !state.reverse;
    }

    /// A turn over whatever stands there.
    pub(super) fn turn_in_disorder(&mut self) {
        self.disorder = true;
        let before = self.memory.snapshot();
        let next = self.lane().next_available();
        let walk = Walk::new(&before, self.setup.size, next);
        let operations = self.disk.state().operations;
        trace!("a turn in disorder over {:x?}", walk.heads);
        let _ = self.lane().turn(true);
        for _ in 0..4 {
            if self.lane().in_flight() == 0 {
                break;
            }
            let _ = self.lane().turn(false);
        }
        assert_eq!(self.lane().in_flight(), 0, "what was taken is not answered");
        let taken = self.lane().next_available().wrapping_sub(next);
        let operations = self.disk.state().operations - operations;
        // 16 ranges, each of at most 6 zones, and a flush.
        assert!(operations <= u64::from(taken) * 97, "{operations} for {taken} requests");
        let from = self.used;
        self.used = from.wrapping_add(taken);
        self.disk.check_limits();
        if walk.writes_over_itself() {
            return;
        }
        assert!(usize::from(taken) <= walk.heads.len(), "{taken} chains were taken");
        let after = self.memory.snapshot();
        let mut allowed = walk.writable;
        allowed.push((USED, used_bytes(self.setup.size)));
        if let Some(at) = before.differs(&after, &allowed) {
            panic!("byte {at:#x} was written, outside of {allowed:x?}");
        }
        let mut heads = walk.heads;
        heads.truncate(taken.into());
        assert!(taken == 0 || after.u16(USED + 2) == Some(self.used), "the used index");
        for i in 0..taken {
            let slot = USED + 4 + 8 * u64::from(from.wrapping_add(i) % self.setup.size);
            let (id, len) = (after.u32(slot).unwrap_or(0), after.u32(slot + 4).unwrap_or(0));
            let place = heads.iter().position(|(head, _)| u32::from(*head) == id);
            let (_, room) = heads.swap_remove(place.expect("an answer to what was not asked"));
            assert!(u64::from(len) <= room, "{len} bytes in {room}");
        }
    }
}

fn device(disk: &Arc<MemoryDisk>) -> Arc<Device> {
    let options = DeviceOptions { secure_erase: true, ..DeviceOptions::default() };
    Device::new(Arc::clone(disk) as Arc<dyn Volume>, options).expect("states that can be")
}

fn request(kind: RequestType, sector: u64, body: &[u8], writable: u64) -> Request {
    let mut readable = kind.0.to_le_bytes().to_vec();
    readable.extend([0; 4]);
    readable.extend(sector.to_le_bytes());
    readable.extend(body);
    Request { readable, writable, framing: 0 }
}

/// `len` in `pieces` pieces, some of them perhaps empty.
fn cut(len: u64, pieces: u8) -> Vec<u64> {
    let mut rest = len;
    let mut lens = Vec::new();
    for i in (1..u64::from(pieces)).rev() {
        let piece = (len * 5 / (7 + i)).min(rest);
        lens.push(piece);
        rest -= piece;
    }
    lens.push(rest);
    lens
}

/// Room for `len` bytes, with a gap to what is next.
fn place(next: &mut u64, (start, end): (u64, u64), len: u64) -> u64 {
    if *next + len > end {
        *next = start;
    }
    let at = *next;
    *next += len + 3;
    at
}

/// Writes `bytes` at `offset` of the buffers `places`.
fn put(memory: &mut crate::guest::Snapshot, places: &[(u64, u32)], offset: u64, bytes: &[u8]) {
    let mut skipped = 0;
    for (at, len) in places {
        let (start, end) = (skipped, skipped + u64::from(*len));
        let from = offset.max(start);
        let to = (offset + bytes.len() as u64).min(end);
        if from < to {
            let piece = &bytes[(from - offset) as usize..(to - offset) as usize];
            memory.put(at + from - start, piece);
        }
        skipped = end;
    }
}
