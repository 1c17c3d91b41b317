//! A disk in memory that does what it is told at once, and checks that it is told nothing wrong.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zvb_storage::{Done, Engine, EngineError, Failure, Io, Op, Shape, Volume, VolumeError};
use zvb_wire::{Model, Sector, ZoneType};
use zvb_zones::{Geometry, GeometrySpec, Snapshot, ZoneId};

/// The disk's name.
pub(crate) const ID: [u8; 20] = *b"a-disk-of-twenty-byt";

/// The disk.
pub(crate) struct MemoryDisk {
    shape: Shape,
    state: Mutex<State>,
}

pub(crate) struct State {
    pub(crate) bytes: Vec<u8>,
    pub(crate) recorded: Vec<Snapshot>,
    /// Operations until one fails.
    pub(crate) fail_in: Option<u32>,
    /// What is asked for in one turn is done in the reverse order.
    pub(crate) reverse: bool,
    pub(crate) operations: u64,
    pub(crate) flushes: u64,
}

impl std::fmt::Debug for MemoryDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryDisk").field("shape", &self.shape).finish_non_exhaustive()
    }
}

impl MemoryDisk {
    /// A disk with zones, or a plain one of `capacity`. Where nothing was ever written and no guest must
    /// see it, there is rubbish.
    pub(crate) fn new(capacity: Sector, spec: Option<GeometrySpec>, read_only: bool) -> Arc<Self> {
        let geometry = spec.map(|spec| Geometry::new(spec).expect("a geometry of ours"));
        let mut bytes = vec![0; capacity.0 as usize * 512];
        let mut recorded = Vec::new();
        for zone in geometry.iter().flat_map(Geometry::zones) {
            let Some(g) = &geometry else { continue };
            recorded.push(match g.zone_type(zone) {
                ZoneType::Conventional => Snapshot::CONVENTIONAL,
                _ => Snapshot::EMPTY,
            });
            if g.zone_type(zone) == ZoneType::SequentialRequired {
                range(&mut bytes, g.start(zone), g.len(zone)).fill(0xee);
            }
        }
        let shape =
            Shape { capacity, block_size: 512, geometry, id: ID, read_only, can_discard: true };
        let state =
            State { bytes, recorded, fail_in: None, reverse: false, operations: 0, flushes: 0 };
        Arc::new(Self { shape, state: Mutex::new(state) })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The states that were recorded keep the limits.
    pub(crate) fn check_limits(&self) {
        let Some(geometry) = &self.shape.geometry else { return };
        let state = self.state();
        let count = |what: fn(zvb_wire::Condition) -> bool| {
            state.recorded.iter().filter(|s| what(s.condition())).count()
        };
        let spec = geometry.spec();
        let within = |count: usize, limit: u32| limit == 0 || count <= limit as usize;
        let (open, active) = (count(|c| c.is_open()), count(|c| c.is_active()));
        assert!(within(open, spec.max_open), "{open} zones are open");
        let limited = spec.model == Model::HostManaged;
        assert!(!limited || within(active, spec.max_active), "{active} zones are active");
    }

    /// What a device must see to before it asks.
    fn check(&self, io: &Io) {
        let sectors = match &io.op {
            Op::Read(buffers) | Op::Write(buffers) => {
                assert_eq!(buffers.len() % 512, 0, "no whole sectors");
                Sector(buffers.len() / 512)
            }
            Op::Zero { sectors, .. } | Op::Discard { sectors } => *sectors,
            Op::Append(_) => panic!("this disk places no appends"),
            Op::Flush => return,
            Op::Command(command) => panic!("{command:?} is not for a disk that runs none"),
        };
        assert!(io.at.0 + sectors.0 <= self.shape.capacity.0, "{io:?} is past the end");
        let reads = matches!(io.op, Op::Read(_));
        assert!(reads || !self.shape.read_only, "{io:?} changes a disk that must not");
        let Some(g) = &self.shape.geometry else { return };
        let zone = |sector: u64| g.zone_of(Sector(sector));
        let last = zone((io.at.0 + sectors.0).saturating_sub(1).max(io.at.0));
        let required = last.is_some_and(|z| g.zone_type(z) == ZoneType::SequentialRequired);
        assert!(!required || zone(io.at.0) == last, "{io:?} crosses zones");
    }

    fn execute(&self, io: Io) -> Done {
        self.check(&io);
        let mut state = self.state();
        state.operations += 1;
        let fails = state.fail_in == Some(0);
        state.fail_in = state.fail_in.and_then(|n| n.checked_sub(1));
        let result = if fails { Err(Failure::Unsupported) } else { Ok(()) };
        let buffers = match io.op {
            Op::Read(buffers) => {
                let from = range(&mut state.bytes, io.at, Sector(buffers.len() / 512));
                // Half of it, when it fails.
                let done = if fails { from.len() / 2 } else { from.len() };
                buffers.write(0, &from[..done]).expect("as long as it says");
                Some(buffers)
            }
            Op::Write(buffers) => {
                let into = range(&mut state.bytes, io.at, Sector(buffers.len() / 512));
                let done = if fails { into.len() / 2 } else { into.len() };
                buffers.read(0, &mut into[..done]).expect("as long as it says");
                Some(buffers)
            }
            Op::Zero { sectors, .. } | Op::Discard { sectors } => {
                if !fails {
                    range(&mut state.bytes, io.at, sectors).fill(0);
                }
                None
            }
            Op::Flush => {
                state.flushes += u64::from(!fails);
                None
            }
            Op::Append(_) | Op::Command(_) => None,
        };
        Done { tag: io.tag, result, buffers, placed: None }
    }
}

fn range(bytes: &mut [u8], at: Sector, sectors: Sector) -> &mut [u8] {
    &mut bytes[at.0 as usize * 512..][..sectors.0 as usize * 512]
}

impl Volume for MemoryDisk {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn recovered(&self) -> Vec<Snapshot> {
        self.state().recorded.clone()
    }

    fn record(&self, zone: ZoneId, snapshot: Snapshot) {
        let geometry = self.shape.geometry.as_ref().expect("a disk with zones");
        assert!(snapshot.written() <= geometry.capacity(zone), "{snapshot:?} of {zone:?}");
        let mut state = self.state();
        state.recorded[zone.0 as usize] = snapshot;
        let preferred = geometry.zone_type(zone) == ZoneType::SequentialPreferred;
        if snapshot == Snapshot::EMPTY {
            let filler = if preferred { 0 } else { 0xee };
            range(&mut state.bytes, geometry.start(zone), geometry.len(zone)).fill(filler);
        }
    }

    fn engine(self: Arc<Self>, _depth: u32) -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::new(MemoryEngine { disk: self, taken: Vec::new(), done: Vec::new() }))
    }

    fn close(&self) -> Result<(), VolumeError> {
        Ok(())
    }
}

struct MemoryEngine {
    disk: Arc<MemoryDisk>,
    taken: Vec<Io>,
    done: Vec<Done>,
}

impl Engine for MemoryEngine {
    fn submit(&mut self, io: Io) {
        self.taken.push(io);
    }

    fn start(&mut self) {
        if self.disk.state().reverse {
            self.taken.reverse();
        }
        self.done.extend(self.taken.drain(..).map(|io| self.disk.execute(io)));
    }

    fn reap(&mut self, done: &mut Vec<Done>) {
        done.append(&mut self.done);
    }

    fn in_flight(&self) -> usize {
        self.taken.len() + self.done.len()
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
