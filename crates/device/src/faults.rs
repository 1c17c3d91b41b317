//! Faults on demand: requests that fail, tear or take longer because a test wants them to.
//!
//! A fault is for some kinds of requests, perhaps only for those on a range of sectors, and for a number
//! of them or until it is cleared. The oldest that fits a request hits it, and no other does.

use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use zvb_wire::{Model, Sector, Status};

use crate::device::Device;
use crate::kind::{Kind, Kinds};

/// What befalls a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Harm {
    /// It is answered with this status, and does nothing: a write does not reach the medium.
    Fail(Status),
    /// A write or append of which so many sectors reach the medium, at most all but the last block, and
    /// that fails (IOERR); `None` for half of them. The write pointer of a zone counts what reached it.
    Tear(Option<Sector>),
}

/// A fault, as it is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FaultSpec {
    /// Requests of these kinds.
    pub kinds: Kinds,
    /// Only those that touch these sectors: an append those that it would write, a request that manages a
    /// zone all of the zone, a report the zone that it begins with.
    pub range: Option<Range<Sector>>,
    /// The next so many; `None` for all until the fault is cleared.
    pub count: Option<NonZeroU32>,
    /// They take this much longer. A write waits where its medium would make it wait: with its place at
    /// the write pointer taken.
    pub delay: Duration,
    /// And this befalls them.
    pub harm: Option<Harm>,
}

/// Why a fault can not be set.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FaultError {
    /// For no request.
    #[error("a fault is for at least one kind of request")]
    NoKind,
    /// Requests that are refused as they come do nothing that could fail.
    #[error("refused requests have failed already")]
    Refused,
    /// It does nothing.
    #[error("a fault fails, tears or delays")]
    Nothing,
    /// For longer than a guest should wait.
    #[error(
        "a delay of {} ms is longer than the {} ms that are allowed",
        .0.as_millis(),
        Faults::MAX_DELAY.as_millis()
    )]
    Delay(Duration),
    /// Only what writes data can be torn.
    #[error("a {} can not be torn: only a write or an append can", .0.name())]
    Tear(Kind),
    /// No status of a failed request of that kind.
    #[error("a {} does not fail with status {}", .kind.name(), .status.0)]
    Status {
        /// The kind.
        kind: Kind,
        /// The status.
        status: Status,
    },
    /// Requests that concern no sectors.
    #[error("a {} is for the whole disk: it has no range of sectors", .0.name())]
    NoPlace(Kind),
    /// No sectors of the disk.
    #[error("sectors {start} to {end} are not a range inside the disk of {capacity} sectors")]
    Range {
        /// First sector.
        start: Sector,
        /// One past the last.
        end: Sector,
        /// Of the disk.
        capacity: Sector,
    },
    /// As many are set as there can be.
    #[error("{} faults are set, and there can be no more: clear some", Faults::MAX)]
    TooMany,
}

/// A fault that was set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Its number, which no other fault of this device had before.
    pub id: u32,
    /// What was asked for.
    pub spec: FaultSpec,
    /// Requests that it befell.
    pub hits: u64,
    /// How many more it will befall: 0 for one that is spent, `None` without end.
    pub left: Option<u32>,
}

/// What befalls one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hit {
    pub(crate) delay: Duration,
    pub(crate) harm: Option<Harm>,
}

/// The faults of a device.
#[derive(Debug, Default)]
pub struct Faults {
    armed: AtomicBool,
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    last: u32,
    faults: Vec<Fault>,
}

impl Faults {
    /// The most that are kept, spent ones included (of those, the oldest makes room).
    pub const MAX: usize = 64;
    /// The longest delay.
    pub const MAX_DELAY: Duration = Duration::from_secs(60);

    /// All that are set, and those that are spent and not cleared; the oldest first.
    pub fn list(&self) -> Vec<Fault> {
        self.lock().faults.clone()
    }

    /// Clears the fault of this number, or all. How many that were.
    pub fn clear(&self, id: Option<u32>) -> usize {
        let mut list = self.lock();
        let before = list.faults.len();
        list.faults.retain(|fault| id.is_some_and(|id| fault.id != id));
        self.arm(&list);
        before - list.faults.len()
    }

    fn set(&self, spec: FaultSpec) -> Result<u32, FaultError> {
        let mut list = self.lock();
        if list.faults.len() >= Self::MAX {
            let spent = list.faults.iter().position(|fault| fault.left == Some(0));
            list.faults.remove(spent.ok_or(FaultError::TooMany)?);
        }
        list.last = list.last.wrapping_add(1);
        let (id, left) = (list.last, spec.count.map(NonZeroU32::get));
        list.faults.push(Fault { id, spec, hits: 0, left });
        self.arm(&list);
        Ok(id)
    }

    /// True when a request may be hit.
    pub(crate) fn armed(&self) -> bool {
        self.armed.load(Ordering::Relaxed)
    }

    /// What befalls a request of `kind`, which touches a range or not.
    pub(crate) fn hit(&self, kind: Kind, touches: impl Fn(&Range<Sector>) -> bool) -> Option<Hit> {
        let mut list = self.lock();
        let fault = list.faults.iter_mut().find(|fault| {
            let Fault { spec, left, .. } = fault;
            let here = spec.range.as_ref().is_none_or(&touches);
            *left != Some(0) && spec.kinds.contains(kind) && here
        })?;
        fault.hits = fault.hits.saturating_add(1);
        fault.left = fault.left.map(|left| left.saturating_sub(1));
        let hit = Hit { delay: fault.spec.delay, harm: fault.spec.harm };
        self.arm(&list);
        Some(hit)
    }

    fn arm(&self, list: &List) {
        let any = list.faults.iter().any(|fault| fault.left != Some(0));
        self.armed.store(any, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device {
    /// The faults that are set: listed and cleared here, set by [`set_fault`](Self::set_fault).
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Has what `spec` says befall requests that come from now on. Returns the fault's number.
    pub fn set_fault(&self, spec: FaultSpec) -> Result<u32, FaultError> {
        check(&spec, self.capacity(), self.model())?;
        self.faults.set(spec)
    }
}

fn check(spec: &FaultSpec, capacity: Sector, model: Model) -> Result<(), FaultError> {
    if spec.kinds.is_empty() {
        return Err(FaultError::NoKind);
    }
    if spec.kinds.contains(Kind::Refused) {
        return Err(FaultError::Refused);
    }
    if spec.harm.is_none() && spec.delay.is_zero() {
        return Err(FaultError::Nothing);
    }
    if spec.delay > Faults::MAX_DELAY {
        return Err(FaultError::Delay(spec.delay));
    }
    match spec.harm {
        Some(Harm::Tear(_)) => {
            let whole = |kind: &Kind| !matches!(kind, Kind::Write | Kind::Append);
            if let Some(kind) = spec.kinds.iter().find(whole) {
                return Err(FaultError::Tear(kind));
            }
        }
        Some(Harm::Fail(status)) => {
            let never = |kind: &Kind| !fails_with(*kind, status, model);
            if let Some(kind) = spec.kinds.iter().find(never) {
                return Err(FaultError::Status { kind, status });
            }
        }
        None => {}
    }
    let Some(range) = &spec.range else { return Ok(()) };
    if let Some(kind) = spec.kinds.iter().find(|kind| !kind.has_place()) {
        return Err(FaultError::NoPlace(kind));
    }
    let (start, end) = (range.start, range.end);
    if start >= end || end > capacity {
        return Err(FaultError::Range { start, end, capacity });
    }
    Ok(())
}

/// Whether a device of this model can answer a request of `kind` with `status` when it fails it.
fn fails_with(kind: Kind, status: Status, model: Model) -> bool {
    let zoned = model != Model::None && !matches!(kind, Kind::Flush | Kind::Id | Kind::Discard);
    match status {
        Status::IOERR | Status::UNSUPP => true,
        Status::ZONE_INVALID_CMD
        | Status::ZONE_UNALIGNED_WP
        | Status::ZONE_OPEN_RESOURCE
        | Status::ZONE_ACTIVE_RESOURCE => zoned,
        _ => false,
    }
}

/// Where a write that is torn ends: on a multiple of `unit` sectors, before its last.
pub(crate) fn torn_end(at: Sector, sectors: Sector, keep: Option<Sector>, unit: Sector) -> Sector {
    let unit = unit.0.max(1);
    let keep = keep.map_or(sectors.0 / 2, |keep| keep.0.min(sectors.0.saturating_sub(1)));
    let end = at.0.saturating_add(keep);
    Sector((end - end % unit).max(at.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(kinds: &[Kind], harm: Option<Harm>) -> FaultSpec {
        FaultSpec {
            kinds: kinds.iter().copied().collect(),
            range: None,
            count: NonZeroU32::new(1),
            delay: Duration::ZERO,
            harm,
        }
    }

    const IOERR: Option<Harm> = Some(Harm::Fail(Status::IOERR));

    fn refused(spec: FaultSpec) -> Option<FaultError> {
        check(&spec, Sector(100), Model::HostManaged).err()
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        use FaultError as E;
        let write = spec(&[Kind::Write], IOERR);
        assert_eq!(refused(write.clone()), None);
        assert_eq!(refused(spec(&[], IOERR)), Some(E::NoKind));
        assert_eq!(refused(spec(&[Kind::Refused], IOERR)), Some(E::Refused));
        assert_eq!(refused(spec(&[Kind::Read], None)), Some(E::Nothing));
        let delay = Duration::from_millis(60_001);
        assert_eq!(refused(FaultSpec { delay, ..write.clone() }), Some(E::Delay(delay)));
        let tear = Some(Harm::Tear(None));
        assert_eq!(refused(spec(&[Kind::Write, Kind::Append], tear)), None);
        assert_eq!(refused(spec(&[Kind::Write, Kind::Reset], tear)), Some(E::Tear(Kind::Reset)));
        let fail = |status| Some(Harm::Fail(status));
        assert_eq!(refused(spec(&[Kind::Write], fail(Status::ZONE_OPEN_RESOURCE))), None);
        for (kind, status) in [
            (Kind::Write, Status::OK),
            (Kind::Write, Status(77)),
            (Kind::Flush, Status::ZONE_INVALID_CMD),
        ] {
            let status_error = Some(E::Status { kind, status });
            assert_eq!(refused(spec(&[kind], fail(status))), status_error);
        }
        let plain =
            check(&spec(&[Kind::Read], fail(Status::ZONE_INVALID_CMD)), Sector(9), Model::None);
        assert!(matches!(plain, Err(E::Status { kind: Kind::Read, .. })));
        let ranged =
            |kind, range| refused(FaultSpec { range: Some(range), ..spec(&[kind], IOERR) });
        assert_eq!(ranged(Kind::Read, Sector(0)..Sector(100)), None);
        assert_eq!(ranged(Kind::Flush, Sector(0)..Sector(1)), Some(E::NoPlace(Kind::Flush)));
        for (start, end) in [(5, 5), (6, 5), (0, 101), (u64::MAX, u64::MAX)] {
            let (start, end) = (Sector(start), Sector(end));
            let error = Some(E::Range { start, end, capacity: Sector(100) });
            assert_eq!(ranged(Kind::Read, start..end), error);
        }
    }

    #[test]
    fn the_oldest_that_fits_hits_and_is_spent() {
        let faults = Faults::default();
        assert!(!faults.armed());
        let count = NonZeroU32::new(2);
        let here = FaultSpec {
            range: Some(Sector(8)..Sector(16)),
            count,
            ..spec(&[Kind::Read, Kind::Write], IOERR)
        };
        let first = faults.set(here).unwrap();
        let delay = Duration::from_millis(3);
        let second =
            faults.set(FaultSpec { delay, count: None, ..spec(&[Kind::Write], None) }).unwrap();
        assert_ne!(first, second);
        assert_eq!(faults.hit(Kind::Read, |_| false), None);
        assert_eq!(faults.hit(Kind::Flush, |_| true), None);
        let slow = Some(Hit { delay, harm: None });
        let failed = Some(Hit { delay: Duration::ZERO, harm: IOERR });
        assert_eq!(faults.hit(Kind::Write, |_| false), slow);
        assert_eq!(faults.hit(Kind::Write, |r| r.start == Sector(8)), failed);
        assert_eq!(faults.hit(Kind::Read, |_| true), failed);
        assert_eq!(faults.hit(Kind::Read, |_| true), None, "spent");
        assert_eq!(faults.hit(Kind::Write, |_| true), slow);
        let told: Vec<_> = faults.list().iter().map(|f| (f.id, f.hits, f.left)).collect();
        assert_eq!(told, [(first, 2, Some(0)), (second, 2, None)]);
        assert!(faults.armed());
        assert_eq!(faults.clear(Some(second)), 1);
        assert!(!faults.armed(), "what is left is spent");
        assert_eq!(faults.clear(Some(second)), 0);
        assert_eq!(faults.clear(None), 1);
        assert!(faults.list().is_empty());
    }

    #[test]
    fn there_are_never_too_many_and_spent_ones_make_room() {
        let faults = Faults::default();
        for _ in 0..Faults::MAX {
            faults.set(spec(&[Kind::Read], IOERR)).unwrap();
        }
        assert_eq!(faults.set(spec(&[Kind::Read], IOERR)), Err(FaultError::TooMany));
        faults.hit(Kind::Read, |_| true).unwrap();
        let newest = faults.set(spec(&[Kind::Read], IOERR)).unwrap();
        assert_eq!(faults.list().len(), Faults::MAX);
        assert_eq!(faults.list().last().map(|fault| fault.id), Some(newest));
    }

    #[test]
    fn a_tear_is_inside_the_write_and_on_a_block() {
        let end = |at, sectors, keep: Option<u64>| {
            torn_end(Sector(at), Sector(sectors), keep.map(Sector), Sector(8)).0
        };
        assert_eq!(end(16, 32, None), 32);
        assert_eq!(end(16, 32, Some(8)), 24);
        assert_eq!(end(16, 32, Some(15)), 24);
        assert_eq!(end(16, 32, Some(0)), 16);
        assert_eq!(end(16, 32, Some(1000)), 40, "the last block never");
        assert_eq!(end(16, 8, None), 16, "one block is all or nothing");
        assert_eq!(end(3, 8, None), 3, "not before its beginning");
    }
}
