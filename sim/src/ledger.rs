//! The oracle: what was asked of each zone, what was answered, and so what may be found in it.
//!
//! It knows the promises of an image, and nothing of how they are kept.

mod scattered;
mod sequential;

use zvb_wire::{Condition, ZoneType};
use zvb_zones::{Geometry, ZoneId};

use crate::content::Tag;
use sequential::Look;

/// What one request does to one zone. Offsets are in sectors from its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Writes sectors, tagged with the operation.
    Write {
        /// Where.
        at: u64,
        /// How many.
        len: u64,
    },
    /// The same, where the device wants.
    Append {
        /// Where it went, once that is answered.
        at: Option<u64>,
        /// How many.
        len: u64,
    },
    /// Writes zeroes.
    Zero {
        /// Where.
        at: u64,
        /// How many.
        len: u64,
    },
    /// Gives space back: zeroes, and no write pointer moves.
    Discard {
        /// Where.
        at: u64,
        /// How many.
        len: u64,
    },
    /// Makes the zone full.
    Finish,
    /// Begins the zone's next life.
    Reset,
    /// Opens or closes it: after a restart nothing is to be seen of that.
    Touch,
}

/// How far an operation is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Not answered.
    Pending,
    /// Answered: done.
    Done,
    /// Answered: not done. Of a write to where there is no write pointer, any part may be.
    Failed,
    /// Answered with an error that says nothing: done, perhaps, and not durable.
    Unknown,
}

/// An operation on a zone.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// Its number: in this run there is no other.
    pub id: u64,
    /// What it does.
    pub kind: Kind,
    /// How far it is.
    pub outcome: Outcome,
    /// It was answered with `Done`, as the how-manieth.
    answered: u64,
    /// A flush covers it: it survives the host.
    durable: bool,
}

/// From where a zone is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum View {
    /// From the running device, when nothing is in flight.
    Live,
    /// After the process died or ended.
    Process,
    /// After the host died.
    Host,
}

/// What a zone was found to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Its condition.
    pub condition: Condition,
    /// Its write pointer, in sectors from its start, where it has one.
    pub pointer: Option<u64>,
    /// What was read of it, all of it; `None` for what nobody ever wrote.
    pub data: Vec<Option<Tag>>,
}

/// A zone that is not what it must be.
#[derive(Clone, Debug, thiserror::Error)]
#[error("zone {zone}, {view:?} view: {what}")]
pub struct Mismatch {
    /// Which.
    pub zone: u32,
    /// How it was looked at.
    pub view: View,
    /// What is wrong.
    pub what: String,
}

/// What is known of a zone without a doubt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Base {
    /// Of a zone with a write pointer up to it; of others all sectors.
    data: Vec<Tag>,
    /// Where a sequential-preferred zone's data ends.
    written: u64,
    full: bool,
}

/// A zone.
#[derive(Clone, Debug)]
pub struct Zone {
    /// Its type.
    pub kind: ZoneType,
    /// Its first sector, on the disk.
    pub start: u64,
    /// Its size and what can be written of it, in sectors.
    pub len: u64,
    /// See `len`.
    pub capacity: u64,
    base: Base,
    operations: Vec<Operation>,
    /// What a zone with a write pointer was seen to be, where the answers left that in doubt; in order.
    looks: Vec<Look>,
}

/// All zones.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// In order. A plain disk is one conventional zone.
    pub zones: Vec<Zone>,
    answers: u64,
}

impl Operation {
    /// It must be there, seen like this.
    fn must(&self, view: View) -> bool {
        match view {
            View::Live | View::Process => self.outcome == Outcome::Done,
            View::Host => self.durable,
        }
    }

    /// Where it writes, if it does.
    fn range(&self) -> Option<(u64, u64)> {
        match self.kind {
            Kind::Write { at, len } | Kind::Zero { at, len } | Kind::Discard { at, len } => {
                Some((at, at + len))
            }
            _ => None,
        }
    }

    /// What it writes into its sector `index`.
    fn tag(&self, index: u64) -> Tag {
        match self.kind {
            Kind::Zero { .. } | Kind::Discard { .. } => Tag::ZERO,
            _ => Tag::new(self.id, index),
        }
    }
}

impl Ledger {
    /// That of a new disk.
    pub fn new(geometry: Option<&Geometry>, capacity: u64) -> Self {
        let zones = match geometry {
            None => vec![Zone::new(ZoneType::Conventional, 0, capacity, capacity)],
            Some(g) => {
                let zone = |z: ZoneId| {
                    Zone::new(g.zone_type(z), g.start(z).0, g.len(z).0, g.capacity(z).0)
                };
                g.zones().map(zone).collect()
            }
        };
        Self { zones, answers: 0 }
    }

    /// How large the disk is, in sectors.
    pub fn capacity(&self) -> u64 {
        self.zones.last().map_or(0, |zone| zone.start + zone.len)
    }

    /// True when nothing goes on, or ever did, in a last zone that would become larger.
    pub fn may_grow(&self, zone_size: Option<u64>) -> bool {
        let Some((last, size)) = self.zones.last().zip(zone_size) else { return true };
        last.len == size || last.is_untouched()
    }

    /// The disk has `capacity` sectors from now on.
    pub fn grow(&mut self, geometry: Option<&Geometry>, capacity: u64) {
        let new = Self::new(geometry, capacity).zones;
        let had = self.zones.len();
        if let (Some(last), Some(larger)) = (self.zones.last_mut(), new.get(had - 1)) {
            last.enlarge(larger);
        }
        self.zones.extend(new.into_iter().skip(had));
    }

    /// Something is asked of a zone.
    pub fn begin(&mut self, zone: usize, id: u64, kind: Kind) {
        let operation =
            Operation { id, kind, outcome: Outcome::Pending, answered: 0, durable: false };
        self.zones[zone].operations.push(operation);
    }

    /// It is answered. `at`: where an append went. `durable`: the answer says that it will survive.
    pub fn end(&mut self, zone: usize, id: u64, outcome: Outcome, at: Option<u64>, durable: bool) {
        self.answers += 1;
        let answers = self.answers;
        let zone = &mut self.zones[zone];
        if let Some(operation) = zone.operations.iter_mut().find(|o| o.id == id) {
            operation.outcome = outcome;
            operation.answered = answers;
            operation.durable = durable && outcome == Outcome::Done;
            if let Kind::Append { at: place, .. } = &mut operation.kind {
                *place = at;
            }
        }
        if durable {
            zone.fold();
        }
    }

    /// What a flush that is submitted now will cover.
    pub fn now(&self) -> u64 {
        self.answers
    }

    /// The flush that was submitted at `then` succeeded.
    pub fn flushed(&mut self, then: u64) {
        for zone in &mut self.zones {
            for operation in &mut zone.operations {
                let covered = operation.answered <= then && operation.outcome == Outcome::Done;
                operation.durable |= covered;
            }
            zone.fold();
        }
    }

    /// Checks what was found in every zone.
    pub fn check(&mut self, view: View, found: &[Found]) -> Result<(), Mismatch> {
        if found.len() != self.zones.len() {
            let what = format!("{} zones of {}", found.len(), self.zones.len());
            return Err(Mismatch { zone: 0, view, what });
        }
        for (i, (zone, found)) in self.zones.iter_mut().zip(found).enumerate() {
            zone.check(view, found).map_err(|what| Mismatch { zone: i as u32, view, what })?;
        }
        Ok(())
    }

    /// What was found is what there is: an image that is open has made it durable.
    pub fn rebase(&mut self, found: &[Found]) {
        for (zone, found) in self.zones.iter_mut().zip(found) {
            zone.rebase(found);
        }
    }
}

impl Zone {
    fn new(kind: ZoneType, start: u64, len: u64, capacity: u64) -> Self {
        let sectors = if kind == ZoneType::SequentialRequired { 0 } else { len };
        let data = vec![Tag::ZERO; sectors as usize];
        let base = Base { data, written: 0, full: false };
        Self { kind, start, len, capacity, base, operations: Vec::new(), looks: Vec::new() }
    }

    fn is_untouched(&self) -> bool {
        let blank = self.base.data.iter().all(|tag| *tag == Tag::ZERO);
        self.operations.is_empty() && blank && !self.base.full && self.base.written == 0
    }

    /// It is as large as `larger`; what is new of it is zeroes.
    fn enlarge(&mut self, larger: &Self) {
        (self.len, self.capacity) = (larger.len, larger.capacity);
        if self.kind != ZoneType::SequentialRequired {
            self.base.data.resize(self.len as usize, Tag::ZERO);
        }
    }

    /// True when nothing is in flight.
    pub fn is_quiet(&self) -> bool {
        self.operations.iter().all(|o| o.outcome != Outcome::Pending)
    }

    /// True when an operation in flight writes what `at..end` overlaps.
    pub fn is_busy(&self, at: u64, end: u64) -> bool {
        let pending = self.operations.iter().filter(|o| o.outcome == Outcome::Pending);
        pending.filter_map(Operation::range).any(|(from, to)| from < end && at < to)
    }

    fn check(&mut self, view: View, found: &Found) -> Result<(), String> {
        if found.data.len() as u64 != self.len {
            return Err(format!("{} sectors of {}", found.data.len(), self.len));
        }
        if let Some(at) = found.data.iter().position(Option::is_none) {
            return Err(format!("sector {at} holds what nobody ever wrote"));
        }
        match self.kind {
            ZoneType::SequentialRequired => self.check_sequential(view, found),
            _ => self.check_scattered(view, found),
        }
    }

    fn rebase(&mut self, found: &Found) {
        self.operations.clear();
        self.looks.clear();
        let keep = match self.kind {
            ZoneType::SequentialRequired => found.pointer.unwrap_or(self.capacity),
            _ => self.len,
        };
        self.base.data =
            found.data.iter().take(keep as usize).map(|tag| tag.unwrap_or_default()).collect();
        self.base.full = found.condition == Condition::Full;
        self.base.written = match (self.kind, found.pointer) {
            (ZoneType::SequentialPreferred, Some(pointer)) => pointer,
            // Where the data of a full zone ends is not told: below that is the last that is not zero.
            _ => found.data.iter().rposition(|t| *t != Some(Tag::ZERO)).map_or(0, |i| i as u64 + 1),
        };
    }

    /// Moves what can not be undone any more into the base.
    fn fold(&mut self) {
        match self.kind {
            ZoneType::SequentialRequired => self.fold_sequential(),
            _ => self.fold_scattered(),
        }
    }
}
