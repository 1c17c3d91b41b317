//! A guest that writes its ring by hand, and a medium that finishes what it is told to, when it is told.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use zvb_device::{Device, DeviceOptions, Lane, Session, Wake};
use zvb_ring::{Buffers, DeviceQueue, GuestMemory, HeapMemory, Ledger, QueueConfig, Unanswered};
use zvb_storage::{
    Command, Done, Engine, EngineError, Failure, GrowError, Io, Op, Shape, Volume, VolumeError,
};
use zvb_wire::zerocopy::{FromBytes, IntoBytes};
use zvb_wire::{
    Condition, Features, Model, RequestHeader, RequestType, Sector, Status, ZoneDescriptor,
    ZoneReportHeader,
};
use zvb_zones::{Geometry, GeometrySpec, Manage, Snapshot, ZoneId};

pub const GRANULE: u64 = 8;

/// 1 conventional zone and 4 sequential ones of 32 sectors, 24 of them writable when they are
/// sequential-required; a last one of 16.
pub fn small(model: Model, max_open: u32, max_active: u32) -> GeometrySpec {
    GeometrySpec {
        model,
        capacity: Sector(32 * 5 + 16),
        zone_size: Sector(32),
        zone_capacity: Sector(if model == Model::HostAware { 32 } else { 24 }),
        conventional: 1,
        max_open,
        max_active,
        max_append: Sector(16),
        write_granularity: 4096,
    }
}

/// An operation that the medium was asked for and has not finished.
pub struct Pending {
    pub io: Io,
    engine: usize,
}

/// A medium in memory. Unless it is `manual`, it finishes everything at `start`.
pub struct TestVolume {
    shape: Shape,
    state: Mutex<State>,
    engines: AtomicUsize,
    /// How often engines were told to start.
    pub starts: AtomicUsize,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    recovered: Vec<Snapshot>,
    recorded: Vec<(ZoneId, Snapshot)>,
    manual: bool,
    flushes: usize,
    /// Its size since it grew; and whether it refuses to.
    grown: Option<Sector>,
    full: bool,
    /// The medium has zones of its own: the commands that it was given, and how it says its zones are.
    commands: Option<Vec<Command>>,
    truth: Vec<(ZoneId, Snapshot)>,
    /// Where it has states and pointers of its own, which outlive the process.
    own: Option<Vec<Snapshot>>,
    /// Zones in which those that wait need not wait any more.
    abandoned: Vec<ZoneId>,
    /// It places appends itself: how many so far.
    placed: Option<usize>,
}

impl std::fmt::Debug for TestVolume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TestVolume")
    }
}

thread_local! {
    static PENDING: RefCell<VecDeque<Pending>> = const { RefCell::new(VecDeque::new()) };
    static FINISHED: RefCell<Vec<(usize, Done)>> = const { RefCell::new(Vec::new()) };
}

impl TestVolume {
    pub fn zoned(spec: GeometrySpec) -> Arc<Self> {
        let geometry = Geometry::new(spec).unwrap();
        let recovered = geometry
            .zones()
            .map(|zone| match geometry.zone_type(zone) {
                zvb_wire::ZoneType::Conventional => Snapshot::CONVENTIONAL,
                _ => Snapshot::EMPTY,
            })
            .collect();
        Self::make(spec.capacity, Some(geometry), recovered, false)
    }

    pub fn plain(sectors: u64) -> Arc<Self> {
        Self::make(Sector(sectors), None, Vec::new(), false)
    }

    pub fn read_only(spec: GeometrySpec) -> Arc<Self> {
        let geometry = Geometry::new(spec).unwrap();
        let mut recovered = vec![Snapshot::EMPTY; geometry.zone_count() as usize];
        recovered[0] = Snapshot::CONVENTIONAL;
        Self::make(spec.capacity, Some(geometry), recovered, true)
    }

    /// From now on (before a device is made) `zone` is found in `state`.
    pub fn find(&self, zone: u32, state: Snapshot) {
        self.state.lock().unwrap().recovered[zone as usize] = state;
    }

    pub fn recovered(spec: GeometrySpec, recovered: Vec<Snapshot>) -> Arc<Self> {
        Self::make(spec.capacity, Some(Geometry::new(spec).unwrap()), recovered, false)
    }

    fn make(
        capacity: Sector,
        geometry: Option<Geometry>,
        recovered: Vec<Snapshot>,
        read_only: bool,
    ) -> Arc<Self> {
        PENDING.with_borrow_mut(VecDeque::clear);
        FINISHED.with_borrow_mut(Vec::clear);
        // What was never written is rubbish here: the device must not show it.
        let mut bytes = vec![0xee; capacity.to_bytes().unwrap() as usize];
        let zeroed = geometry.map_or(bytes.len(), |g| {
            let hm = g.spec().model == Model::HostManaged;
            if hm {
                (g.spec().conventional as u64 * g.spec().zone_size.0 * 512) as usize
            } else {
                bytes.len()
            }
        });
        bytes[..zeroed].fill(0);
        Arc::new(Self {
            shape: Shape {
                capacity,
                block_size: 4096,
                geometry,
                id: *b"a-disk-of-twenty-byt",
                read_only,
                can_discard: true,
            },
            state: Mutex::new(State { bytes, recovered, ..State::default() }),
            engines: AtomicUsize::new(0),
            starts: AtomicUsize::new(0),
        })
    }

    /// The volume as the next process finds it.
    pub fn reopen(&self) {
        PENDING.with_borrow_mut(VecDeque::clear);
        FINISHED.with_borrow_mut(Vec::clear);
        let mut state = self.state.lock().unwrap();
        for (zone, snapshot) in std::mem::take(&mut state.recorded) {
            state.recovered[zone.0 as usize] = snapshot;
        }
        if let Some(own) = state.own.clone() {
            state.recovered = own;
        }
    }

    /// From now on (before a device is made) this has zones as a disk of the host has them: it moves its
    /// pointers itself, also over a part of a write, refuses writes elsewhere, and carries commands out. What
    /// it is told of states is forgotten.
    pub fn have_zones(&self) {
        self.run_commands();
        let mut state = self.state.lock().unwrap();
        state.own = Some(state.recovered.clone());
    }

    /// From now on (before a device is made) this has zones of its own, and places appends in them itself: in
    /// the order in which they are finished.
    pub fn place_appends(&self) {
        self.have_zones();
        self.state.lock().unwrap().placed = Some(0);
    }

    /// How many appends this has placed itself.
    pub fn placed(&self) -> usize {
        self.state.lock().unwrap().placed.unwrap()
    }

    /// From now on operations wait for [`finish`](Self::finish).
    pub fn manual(&self) {
        self.state.lock().unwrap().manual = true;
    }

    /// From now on (before a device is made) commands to zones are carried out here.
    pub fn run_commands(&self) {
        self.state.lock().unwrap().commands = Some(Vec::new());
    }

    /// The commands that were carried out.
    pub fn commands(&self) -> Vec<Command> {
        self.state.lock().unwrap().commands.clone().unwrap()
    }

    pub fn abandoned(&self) -> Vec<ZoneId> {
        self.state.lock().unwrap().abandoned.clone()
    }

    /// What this says of `zone` when it is asked after a failure.
    pub fn say(&self, zone: u32, state: Snapshot) {
        self.state.lock().unwrap().truth.push((ZoneId(zone), state));
    }

    /// It has no room to grow.
    pub fn fill(&self) {
        self.state.lock().unwrap().full = true;
    }

    pub fn flushes(&self) -> usize {
        self.state.lock().unwrap().flushes
    }

    /// All that was recorded for `zone`.
    pub fn records(&self, zone: u32) -> Vec<Snapshot> {
        let state = self.state.lock().unwrap();
        state.recorded.iter().filter(|(z, _)| z.0 == zone).map(|(_, s)| *s).collect()
    }

    /// What was recorded last for `zone`.
    pub fn recorded(&self, zone: u32) -> Option<Snapshot> {
        self.state.lock().unwrap().recorded.iter().rev().find(|(z, _)| z.0 == zone).map(|(_, s)| *s)
    }

    pub fn bytes(&self, at: Sector, sectors: u64) -> Vec<u8> {
        let from = at.0 as usize * 512;
        self.state.lock().unwrap().bytes[from..from + sectors as usize * 512].to_vec()
    }

    /// How many operations wait.
    pub fn pending(&self) -> usize {
        PENDING.with_borrow(VecDeque::len)
    }

    /// Finishes the `n`th operation that waits.
    pub fn finish(&self, n: usize) {
        let pending = PENDING.with_borrow_mut(|p| p.remove(n)).unwrap();
        burn();
        let done = self.execute(pending.io);
        burn();
        FINISHED.with_borrow_mut(|f| f.push((pending.engine, done)));
    }

    /// Fails the `n`th operation that waits.
    pub fn fail(&self, n: usize) {
        self.fail_with(n, Failure::Medium(io::Error::other("told to fail")));
    }

    pub fn fail_with(&self, n: usize, failure: Failure) {
        let pending = PENDING.with_borrow_mut(|p| p.remove(n)).unwrap();
        let buffers = match pending.io.op {
            Op::Read(b) | Op::Write(b) | Op::Append(b) => Some(b),
            _ => None,
        };
        let result = Err(failure);
        let done = Done { tag: pending.io.tag, result, buffers, placed: None };
        FINISHED.with_borrow_mut(|f| f.push((pending.engine, done)));
    }

    fn execute(&self, io: Io) -> Done {
        let mut state = self.state.lock().unwrap();
        let from = io.at.0 as usize * 512;
        let mut done = Done { tag: io.tag, result: Ok(()), buffers: None, placed: None };
        match io.op {
            Op::Read(buffers) => {
                buffers.write(0, &state.bytes[from..from + buffers.len() as usize]).unwrap();
                done.buffers = Some(buffers);
            }
            Op::Write(buffers) => {
                let mut bytes = vec![0; buffers.len() as usize];
                buffers.read(0, &mut bytes).unwrap();
                drop(state);
                done.result = self.put(io.at, &bytes);
                done.buffers = Some(buffers);
            }
            Op::Append(buffers) => {
                let mut bytes = vec![0; buffers.len() as usize];
                buffers.read(0, &mut bytes).unwrap();
                *state.placed.as_mut().expect("this places no appends") += 1;
                let zone = self.shape.geometry.unwrap().zone_of(io.at).unwrap();
                let pointer = state.own.as_ref().unwrap()[zone.0 as usize].written();
                drop(state);
                let at = Sector(io.at.0 + pointer.0);
                done.result = self.put(at, &bytes);
                done.placed = Some(at);
                done.buffers = Some(buffers);
            }
            Op::Zero { sectors, .. } => {
                drop(state);
                done.result = self.put(io.at, &vec![0; sectors.0 as usize * 512]);
            }
            Op::Discard { sectors } => {
                state.bytes[from..from + sectors.0 as usize * 512].fill(0);
            }
            Op::Flush => state.flushes += 1,
            Op::Command(command) => match &mut state.commands {
                Some(commands) => {
                    commands.push(command);
                    self.carry_out(&mut state, command);
                }
                None => panic!("{command:?} is not for a medium without zones"),
            },
        }
        done
    }

    /// Writes `bytes`; a medium with zones of its own half of them first, and only at its pointer.
    fn put(&self, at: Sector, bytes: &[u8]) -> Result<(), Failure> {
        let half = bytes.len() / 2 / 4096 * 4096;
        let (mut at, geometry) = (at, self.shape.geometry);
        for part in [&bytes[..half], &bytes[half..]] {
            let mut state = self.state.lock().unwrap();
            let zone = geometry.and_then(|g| g.zone_of(at));
            let sequential = |zone: &ZoneId| {
                geometry.unwrap().zone_type(*zone) == zvb_wire::ZoneType::SequentialRequired
            };
            let end = Sector(at.0 + part.len() as u64 / 512);
            if let (Some(own), Some(zone)) = (&mut state.own, zone.filter(sequential)) {
                let (start, own) = (geometry.unwrap().start(zone), &mut own[zone.0 as usize]);
                if at.0 != start.0 + own.written().0 {
                    return Err(Failure::Medium(io::Error::other("not at the pointer")));
                }
                *own = Snapshot::new(Condition::Closed, Sector(end.0 - start.0));
            }
            state.bytes[at.0 as usize * 512..end.0 as usize * 512].copy_from_slice(part);
            at = end;
            drop(state);
            if half > 0 {
                burn();
            }
        }
        Ok(())
    }

    fn carry_out(&self, state: &mut State, command: Command) {
        let (Some(own), Some(geometry)) = (&mut state.own, self.shape.geometry) else { return };
        let full = |zone| Snapshot::new(Condition::Full, geometry.capacity(zone));
        match command {
            Command::Zone(Manage::Reset, zone) => own[zone.0 as usize] = Snapshot::EMPTY,
            Command::Zone(Manage::Finish, zone) => own[zone.0 as usize] = full(zone),
            Command::Zone(..) => {}
            Command::ResetAll => own[1..].fill(Snapshot::EMPTY),
        }
    }
}

impl Volume for TestVolume {
    fn shape(&self) -> Shape {
        let (mut shape, grown) = (self.shape, self.state.lock().unwrap().grown);
        if let Some(capacity) = grown {
            shape.capacity = capacity;
            shape.geometry = shape.geometry.map(|g| g.with_capacity(capacity).unwrap());
        }
        shape
    }

    fn recovered(&self) -> Vec<Snapshot> {
        self.state.lock().unwrap().recovered.clone()
    }

    fn record(&self, zone: ZoneId, state: Snapshot) {
        burn();
        self.state.lock().unwrap().recorded.push((zone, state));
        burn();
    }

    fn grow(&self, capacity: Sector) -> Result<(), GrowError> {
        let mut state = self.state.lock().unwrap();
        if state.full {
            return Err(GrowError::NoRoom(capacity));
        }
        state.bytes.resize(capacity.to_bytes().unwrap() as usize, 0xee);
        state.grown = Some(capacity);
        Ok(())
    }

    fn runs_commands(&self) -> bool {
        self.state.lock().unwrap().commands.is_some()
    }

    fn places_appends(&self) -> bool {
        self.state.lock().unwrap().placed.is_some()
    }

    fn abandon(&self, zone: ZoneId) {
        self.state.lock().unwrap().abandoned.push(zone);
    }

    fn recheck(&self, zone: ZoneId) -> Option<Snapshot> {
        let state = self.state.lock().unwrap();
        state.truth.iter().rev().find(|(z, _)| *z == zone).map(|(_, s)| *s)
    }

    fn engine(self: Arc<Self>, _depth: u32) -> Result<Box<dyn Engine>, EngineError> {
        let index = self.engines.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(TestEngine { volume: self, index, in_flight: 0 }))
    }

    fn close(&self) -> Result<(), VolumeError> {
        Ok(())
    }
}

struct TestEngine {
    volume: Arc<TestVolume>,
    index: usize,
    in_flight: usize,
}

impl Engine for TestEngine {
    fn submit(&mut self, io: Io) {
        self.in_flight += 1;
        PENDING.with_borrow_mut(|p| p.push_back(Pending { io, engine: self.index }));
    }

    fn start(&mut self) {
        self.volume.starts.fetch_add(1, Ordering::Relaxed);
        self.begin();
    }

    fn begin(&mut self) {
        if !self.volume.state.lock().unwrap().manual {
            while self.volume.pending() > 0 {
                self.volume.finish(0);
            }
        }
    }

    fn reap(&mut self, done: &mut Vec<Done>) {
        FINISHED.with_borrow_mut(|finished| {
            for i in (0..finished.len()).rev() {
                if finished[i].0 == self.index {
                    done.push(finished.remove(i).1);
                    self.in_flight -= 1;
                }
            }
        });
        done.reverse();
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn due(&self) -> usize {
        let state = self.volume.state.lock().unwrap();
        let reads = |p: &&Pending| p.engine == self.index && matches!(p.io.op, Op::Read(_));
        if state.manual { 0 } else { PENDING.with_borrow(|p| p.iter().filter(reads).count()) }
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

thread_local! {
    static FUSE: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// After so many things that a process does and another sees, this one dies (it panics); 0 for never.
pub fn light_fuse(events: usize) {
    FUSE.set(events);
}

/// Something is done that outlives this process.
pub fn burn() {
    let left = FUSE.get();
    FUSE.set(left.saturating_sub(1));
    assert_ne!(left, 1, "the fuse has burnt down");
}

struct NoWake;
impl Wake for NoWake {
    fn wake(&self) {}
}

pub const ALL: Features = Features::all();

/// A device with everything that it offers accepted.
pub fn session(volume: &Arc<TestVolume>) -> Arc<Session> {
    session_with(volume, 2, ALL)
}

pub fn session_with(volume: &Arc<TestVolume>, queues: u16, accept: Features) -> Arc<Session> {
    let options = DeviceOptions { queues, ..DeviceOptions::default() };
    session_over(Arc::clone(volume) as Arc<dyn Volume>, options, accept)
}

/// A device over any volume.
pub fn session_over(
    volume: Arc<dyn Volume>,
    options: DeviceOptions,
    accept: Features,
) -> Arc<Session> {
    let device = Device::new(volume, options).unwrap();
    let session = device.session();
    session.accept(device.features() & accept).unwrap();
    session
}

const SIZE: u16 = 256;
const DESCRIPTORS: u64 = 0x1_0000;
const AVAILABLE: u64 = 0x2_0000;
const USED: u64 = 0x3_0000;
const DATA: u64 = 0x10_0000;
const BYTES: usize = 0x80_0000;

/// One queue, from the guest's side.
pub struct Guest {
    pub lane: Lane,
    index: u16,
    memory: Rc<HeapMemory>,
    config: QueueConfig,
    next_descriptor: u16,
    next_data: u64,
    available: u16,
    seen: u16,
}

/// A request that was made available.
pub struct Sent {
    pub head: u16,
    writable: Vec<(u64, u32)>,
}

/// What came back for it.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub used: u32,
    pub writable: Vec<u8>,
}

impl Answer {
    pub fn status(&self) -> Status {
        Status(*self.writable.last().unwrap())
    }
}

impl Guest {
    pub fn new(session: &Arc<Session>, index: u16) -> Self {
        let memory = Rc::new(HeapMemory::new(0, BYTES));
        let config = QueueConfig {
            size: SIZE,
            descriptors: DESCRIPTORS,
            available: AVAILABLE,
            used: USED,
            event_index: false,
            indirect: false,
            next_available: 0,
            next_used: 0,
        };
        let queue = DeviceQueue::new(memory.clone() as Rc<dyn GuestMemory>, config).unwrap();
        let lane = session.lane(index, queue, Arc::new(NoWake)).unwrap();
        Self {
            lane,
            index,
            memory,
            config,
            next_descriptor: 0,
            next_data: DATA,
            available: 0,
            seen: 0,
        }
    }

    /// The same guest, its queue served by another process: what was taken and not answered is `unanswered`,
    /// and what is in flight from now on is written down in `ledger`.
    pub fn taken_over(
        self,
        session: &Arc<Session>,
        ledger: Box<dyn Ledger>,
        unanswered: Vec<Unanswered>,
    ) -> Self {
        let next_used = self.used_index();
        let next_available = next_used.wrapping_add(unanswered.len() as u16);
        let config = QueueConfig { next_available, next_used, ..self.config };
        let Self { lane, index, memory, next_descriptor, next_data, available, seen, .. } = self;
        // The other process is gone, with requests in flight: which a lane minds, but in a panic.
        let gone = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _lane = lane;
            panic!("the fuse has burnt down");
        }));
        assert!(gone.is_err());
        let mut queue = DeviceQueue::new(memory.clone() as Rc<dyn GuestMemory>, config).unwrap();
        queue.remember(ledger, unanswered);
        let lane = session.lane(index, queue, Arc::new(NoWake)).unwrap();
        Self { lane, index, memory, config, next_descriptor, next_data, available, seen }
    }

    /// How many chains were ever answered.
    pub fn used_index(&self) -> u16 {
        u16::from_le_bytes(self.peek(USED + 2))
    }

    /// The heads of the first `count` chains that were answered.
    pub fn used_heads(&self, count: u16) -> Vec<u16> {
        (0..count).map(|i| u16::from_le_bytes(self.peek(USED + 4 + 8 * u64::from(i)))).collect()
    }

    fn at(&self, address: u64, len: u32) -> Buffers {
        let mut buffers = Buffers::new(self.memory.clone(), Vec::new());
        assert!(buffers.push(address, len));
        buffers
    }

    fn poke(&self, address: u64, bytes: &[u8]) {
        self.at(address, bytes.len() as u32).write(0, bytes).unwrap();
    }

    fn peek<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.at(address, N as u32).read(0, &mut bytes).unwrap();
        bytes
    }

    /// Makes a chain available: `readable` pieces, then `writable` ones of these lengths, filled with 0xaa.
    pub fn send(&mut self, readable: &[&[u8]], writable: &[usize]) -> Sent {
        let total = readable.len() + writable.len();
        let first = self.next_descriptor;
        let mut sent = Sent { head: first, writable: Vec::new() };
        let pieces = readable
            .iter()
            .map(|p| (Some(*p), p.len()))
            .chain(writable.iter().map(|len| (None, *len)));
        for (i, (bytes, len)) in pieces.enumerate() {
            let address = self.next_data;
            self.next_data += len as u64;
            match bytes {
                Some(bytes) if !bytes.is_empty() => self.poke(address, bytes),
                Some(_) => {}
                None => {
                    self.poke(address, &vec![0xaa; len]);
                    sent.writable.push((address, len as u32));
                }
            }
            let index = (first + i as u16) % SIZE;
            let next = (first + i as u16 + 1) % SIZE;
            let flags = u16::from(i + 1 < total) | if bytes.is_none() { 2 } else { 0 };
            let mut descriptor = [0; 16];
            descriptor[..8].copy_from_slice(&address.to_le_bytes());
            descriptor[8..12].copy_from_slice(&(len as u32).to_le_bytes());
            descriptor[12..14].copy_from_slice(&flags.to_le_bytes());
            descriptor[14..].copy_from_slice(&next.to_le_bytes());
            self.poke(DESCRIPTORS + 16 * u64::from(index), &descriptor);
        }
        self.next_descriptor = (first + total as u16) % SIZE;
        self.poke(AVAILABLE + 4 + 2 * u64::from(self.available % SIZE), &first.to_le_bytes());
        self.available = self.available.wrapping_add(1);
        self.poke(AVAILABLE + 2, &self.available.to_le_bytes());
        sent
    }

    /// The answer of `sent`, if it is the next that came back.
    pub fn answer(&mut self, sent: &Sent) -> Option<Answer> {
        let used = u16::from_le_bytes(self.peek(USED + 2));
        for i in 0..used.wrapping_sub(self.seen) {
            let slot = self.seen.wrapping_add(i) % SIZE;
            let element: [u8; 8] = self.peek(USED + 4 + 8 * u64::from(slot));
            let [id @ .., _, _, _, _] = element;
            if u32::from_le_bytes(id) == u32::from(sent.head) {
                let mut writable = Vec::new();
                for (address, len) in &sent.writable {
                    let mut bytes = vec![0; *len as usize];
                    self.at(*address, *len).read(0, &mut bytes).unwrap();
                    writable.extend(bytes);
                }
                let used = u32::from_le_bytes(element[4..].try_into().unwrap());
                return Some(Answer { used, writable });
            }
        }
        None
    }

    /// One turn.
    pub fn turn(&mut self) {
        let _ = self.lane.turn(true);
    }

    /// Sends, takes a turn, and expects the answer.
    pub fn request(&mut self, readable: &[&[u8]], writable: &[usize]) -> Answer {
        let sent = self.send(readable, writable);
        self.turn();
        let answer = self.answer(&sent).expect("no answer");
        assert_eq!(self.lane.in_flight(), 0);
        self.seen = u16::from_le_bytes(self.peek(USED + 2));
        self.next_data = DATA;
        answer
    }

    pub fn header(request: RequestType, sector: u64) -> [u8; 16] {
        RequestHeader::new(request, Sector(sector)).as_bytes().try_into().unwrap()
    }

    pub fn write(&mut self, at: u64, data: &[u8]) -> Status {
        self.request(&[&Self::header(RequestType::OUT, at), data], &[1]).status()
    }

    pub fn send_write(&mut self, at: u64, data: &[u8]) -> Sent {
        self.send(&[&Self::header(RequestType::OUT, at), data], &[1])
    }

    pub fn append(&mut self, zone: u64, data: &[u8]) -> (Status, u64) {
        let answer = self.request(&[&Self::header(RequestType::ZONE_APPEND, zone), data], &[9]);
        (answer.status(), u64::from_le_bytes(answer.writable[..8].try_into().unwrap()))
    }

    pub fn read(&mut self, at: u64, sectors: usize) -> (Status, Vec<u8>) {
        let mut answer = self.request(&[&Self::header(RequestType::IN, at)], &[sectors * 512, 1]);
        let status = answer.status();
        assert_eq!(answer.used as usize, if status == Status::OK { sectors * 512 + 1 } else { 0 });
        answer.writable.pop();
        (status, answer.writable)
    }

    pub fn simple(&mut self, request: RequestType, sector: u64) -> Status {
        let answer = self.request(&[&Self::header(request, sector)], &[1]);
        assert_eq!(answer.used, 1);
        answer.status()
    }

    /// Zones from `sector` on, as a report into `room` bytes tells of them.
    pub fn report(&mut self, sector: u64, room: usize) -> (Status, Vec<ZoneDescriptor>) {
        let answer = self.request(&[&Self::header(RequestType::ZONE_REPORT, sector)], &[room, 1]);
        if answer.status() != Status::OK {
            return (answer.status(), Vec::new());
        }
        let header = ZoneReportHeader::read_from_bytes(&answer.writable[..64]).unwrap();
        assert_eq!(header.reserved, [0; 56]);
        let count = header.nr_zones.get() as usize;
        let zones = (0..count)
            .map(|i| {
                ZoneDescriptor::read_from_bytes(&answer.writable[64 + i * 64..128 + i * 64])
                    .unwrap()
            })
            .collect();
        let end = 64 + count * 64;
        assert!(
            answer.writable[end..room].iter().all(|b| *b == 0xaa),
            "written past the last descriptor"
        );
        assert_eq!(answer.used as usize, if end == room { end + 1 } else { end });
        (Status::OK, zones)
    }

    pub fn conditions(&mut self) -> Vec<Condition> {
        let (status, zones) = self.report(0, 64 * 65);
        assert_eq!(status, Status::OK);
        zones.iter().map(|z| Condition::try_from(z.z_state).unwrap()).collect()
    }

    /// The write pointer of the zone at `start`, from its start.
    pub fn written(&mut self, start: u64) -> u64 {
        let (_, zones) = self.report(start, 128);
        zones[0].z_wp.get() - start
    }
}

/// `sectors` of bytes that say where they are from.
pub fn pattern(seed: u8, sectors: usize) -> Vec<u8> {
    (0..sectors * 512).map(|i| seed.wrapping_add((i / 7) as u8)).collect()
}
