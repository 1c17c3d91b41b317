//! What an image and memory have in common: places for zones, their states, and the commit.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use zvb_wire::{Condition, Model, Sector, ZoneType};
use zvb_zones::{Snapshot, ZoneId};

use crate::engine::{Job, Kind};
use crate::grow::{Sizes, TableGuard, Tables};
use crate::growing::Growing;
use crate::image::Header;
use crate::layout::{Layout, Piece, Place};
use crate::medium::Medium;
use crate::promise::CommitError;
use crate::slots::{Detached, Slots};
use crate::table::{Entry, is_active};
use crate::volume::{Failure, Shape};

/// Bytes of a slot that are renewed at once.
const RENEW_STEP: usize = 1 << 20;

/// Zones, slots and bytes on a medium.
#[derive(Debug)]
pub(crate) struct Store {
    /// As it was opened: its size is that of [`shape`](Self::shape).
    pub(crate) shape: Shape,
    /// As it was opened: see [`layout`](Self::layout).
    pub(crate) layout: Layout,
    pub(crate) sizes: Sizes,
    pub(crate) medium: Box<dyn Medium>,
    pub(crate) slots: Slots,
    /// One bit for each zone recorded since the last commit looked.
    pub(crate) changed: Growing<AtomicU64>,
    /// Where the data of zones ends in a volume that can not change; empty in others. What a crash left
    /// above is not to be seen, and can not be cleared.
    ends: Box<[Sector]>,
    /// Held through a commit.
    commit: Mutex<()>,
    /// Held while states are recorded or taken, where the number of active zones is limited.
    moment: Mutex<()>,
    pub(crate) tables: RwLock<Tables>,
    /// Held while it is made larger.
    pub(crate) growing: Mutex<()>,
    pub(crate) poisoned: AtomicBool,
    pub(crate) lost_part: AtomicBool,
    /// Slots are written through the page cache, and can be used again as they are.
    is_cached: bool,
    /// What the superblocks of an image say, while it is open for writing.
    pub(crate) header: Mutex<Option<Header>>,
}

/// What a job needs next.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing: it is done.
    Finished,
    /// This many bytes at this byte of the medium.
    Transfer { at: u64, bytes: u64 },
    /// A slot for a zone, and none is free.
    Starved,
    /// It can not go on.
    Failed(Failure),
}

/// True where a zone's data above its write pointer is never read: then nothing need be cleared
/// before another zone has it.
fn shows_only_what_is_written(shape: &Shape) -> bool {
    shape.geometry.as_ref().is_some_and(|g| g.spec().model == Model::HostManaged)
}

impl Store {
    /// A store whose zones are in `entries`, in order.
    pub(crate) fn new(
        shape: Shape,
        layout: Layout,
        medium: Box<dyn Medium>,
        entries: &[Entry],
    ) -> Self {
        let zones = shape.geometry.as_ref().map_or(0, |g| g.zone_count());
        let owned = entries.iter().zip(0..).filter_map(|(e, z)| Some((ZoneId(z), e.slot?)));
        let slots = Slots::new(zones, layout.slots, layout.slot_bytes, owned);
        let ends = match shape.read_only {
            true => entries.iter().map(|e| e.state.written()).collect(),
            false => Box::default(),
        };
        let changed = Growing::new(zones.div_ceil(64) as usize, || AtomicU64::new(0));
        let (commit, moment) = (Mutex::new(()), Mutex::new(()));
        let (poisoned, lost_part) = (AtomicBool::new(false), AtomicBool::new(false));
        let is_cached = !shape.read_only
            && layout.slot_bytes > 0
            && shows_only_what_is_written(&shape)
            && medium.file().is_some_and(|file| file.direct.is_none());
        let header = Mutex::new(None);
        let sizes = Sizes::new(&layout);
        let (tables, growing) = (RwLock::default(), Mutex::new(()));
        Self {
            shape,
            layout,
            sizes,
            medium,
            slots,
            changed,
            ends,
            commit,
            moment,
            tables,
            growing,
            poisoned,
            lost_part,
            is_cached,
            header,
        }
    }

    /// See [`Volume::record`](crate::Volume::record). True when the committer is to hear that there is
    /// space to be given back.
    pub(crate) fn record(&self, zone: ZoneId, state: Snapshot) -> bool {
        debug_assert!(!self.shape.read_only, "recorded in a volume that can not change");
        let _moment = self.moment();
        let tables = self.tables();
        let Some(record) = tables.record(zone).filter(|_| !self.shape.read_only) else {
            return false;
        };
        let written = state.written() != Sector::ZERO;
        let slot = if written { self.slots.of(zone) } else { None };
        // A reset may be recorded together with what came after it: an open, the beginning of a write.
        let reset = !written && record.has_data() || state.condition() == Condition::Empty;
        tables.set_latest(zone, Entry { state, slot }.pack());
        // What is promised from here on would be kept nowhere.
        let _ = self.check_table(&tables);
        self.mark_changed(zone);
        // After the record: a commit that finds the slot let go commits that too.
        reset && self.slots.detach(zone)
    }

    /// Keeps states from being recorded while a commit takes all of them.
    fn moment(&self) -> Option<MutexGuard<'_, ()>> {
        self.is_limited().then(|| self.moment.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has the next commit look at `zone`.
    pub(crate) fn mark_changed(&self, zone: ZoneId) {
        if let Some(word) = self.changed.get(zone.0 as usize / 64) {
            // Always a read-modify-write, so that it comes either before the commit's, which then sees
            // the state recorded, or after, and is there for the next commit.
            word.fetch_or(1 << (zone.0 % 64), Ordering::AcqRel);
        }
    }

    /// Makes durable what was done and recorded before.
    ///
    /// Data first, then the records that speak of it, then the slots that those records let go of.
    pub(crate) fn commit(&self) -> Result<(), CommitError> {
        if self.shape.read_only {
            return Ok(());
        }
        let _one_at_a_time = self.commit_lock();
        if self.is_poisoned() {
            return Err(CommitError::Poisoned);
        }
        let tables = self.tables();
        let detached = self.slots.take_detached();
        let changed = self.take_changed(&tables);
        self.sync()?;
        // Zones that are not active any more first: whatever part of this is lost with the host, no more
        // zones are active than may be.
        let (active, rest): (Vec<_>, Vec<_>) =
            changed.into_iter().partition(|(_, state)| is_active(*state));
        let crowded = !rest.is_empty() && self.is_crowded(&tables, &active);
        let mut any = self.make_durable(&tables, &rest);
        if any && crowded {
            self.sync()?;
            any = false;
        }
        any |= self.make_durable(&tables, &active);
        if any {
            self.sync()?;
        }
        self.check_table(&tables)?;
        self.slots.release(detached);
        Ok(())
    }

    /// Makes only resets durable, so that the slots they let go of can be used again: no data is waited
    /// for, since none is spoken of. A zone whose durable state still shows such a slot is durably empty
    /// from here on, whatever was written to it since; the next commit says that.
    pub(crate) fn commit_resets(&self) -> Result<(), CommitError> {
        let _one_at_a_time = self.commit_lock();
        if self.is_poisoned() {
            return Err(CommitError::Poisoned);
        }
        let tables = self.tables();
        let detached = self.slots.take_detached();
        let mut any = false;
        for Detached { zone, slot, .. } in &detached {
            let Some(record) = tables.record(*zone) else { continue };
            if !record.durable_slot().is_ok_and(|durable| durable != Some(*slot)) {
                record.set_durable(Entry { state: Snapshot::EMPTY, slot: None }.pack());
                self.mark_changed(*zone);
                any = true;
            }
        }
        if any {
            self.noted(|| tables.sync())?;
        }
        self.check_table(&tables)?;
        self.slots.release(detached);
        Ok(())
    }

    /// Held through a commit, and while another zone table takes the place of this one.
    pub(crate) fn commit_lock(&self) -> MutexGuard<'_, ()> {
        self.commit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The zones recorded since the last commit, with their latest states; where the number of active
    /// zones is limited, as they all were at one moment.
    fn take_changed(&self, tables: &TableGuard<'_>) -> Vec<(ZoneId, u64)> {
        let _moment = self.moment();
        let mut zones = Vec::new();
        for (word, first) in self.changed.iter().zip((0u32..).step_by(64)) {
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let mut bits = word.swap(0, Ordering::AcqRel);
            while bits != 0 {
                let zone = ZoneId(first | bits.trailing_zeros());
                bits &= bits - 1;
                if let Some(record) = tables.record(zone) {
                    zones.push((zone, record.latest()));
                }
            }
        }
        zones
    }

    /// Writes the durable copies of `zones`; false when all of them say so already.
    fn make_durable(&self, tables: &TableGuard<'_>, zones: &[(ZoneId, u64)]) -> bool {
        let mut any = false;
        for (zone, state) in zones {
            let Some(record) = tables.record(*zone) else { continue };
            if record.durable() != Ok(*state) {
                record.set_durable(*state);
                any = true;
            }
        }
        any
    }

    /// True when the zones that are durably active now and these are more than may be.
    fn is_crowded(&self, tables: &TableGuard<'_>, active: &[(ZoneId, u64)]) -> bool {
        let Some(geometry) = self.shape().geometry.filter(|_| self.is_limited()) else {
            return false;
        };
        let durably = |zone: ZoneId| {
            let state = tables.record(zone).and_then(|record| record.durable().ok());
            state.is_some_and(is_active)
        };
        let now = geometry.zones().filter(|zone| durably(*zone)).count();
        let new = active.iter().filter(|(zone, _)| !durably(*zone)).count();
        now.saturating_add(new) > geometry.spec().max_active as usize
    }

    fn is_limited(&self) -> bool {
        self.shape.geometry.as_ref().is_some_and(|g| g.spec().max_active != 0)
    }

    /// Makes the slots that were durably let go, and that nothing under way can see, free: as they are,
    /// or cleared where zones show what was never written.
    pub(crate) fn reclaim(&self) -> io::Result<()> {
        if self.is_poisoned() {
            return Ok(());
        }
        let as_they_are = self.shows_only_what_is_written();
        let mut result = Ok(());
        for detached in self.slots.take_released() {
            if as_they_are {
                self.slots.add_warm(detached.slot);
            } else if let Err(error) = self.clear(detached.slot) {
                // Tried again after the next commit.
                self.slots.put_back(detached);
                result = Err(error);
            }
        }
        result
    }

    /// Gives the space of slots that nobody has used again back.
    pub(crate) fn clear_warm(&self) -> io::Result<()> {
        if self.is_poisoned() {
            return Ok(());
        }
        let mut result = Ok(());
        for slot in self.slots.take_warm() {
            if let Err(error) = self.clear(slot) {
                self.slots.add_warm(slot);
                result = Err(error);
            }
        }
        result
    }

    /// Renews some of a slot whose pieces in the page cache are too small for what is written to it. False
    /// when there is none.
    pub(crate) fn renew(&self) -> bool {
        let mut renewing = self.slots.renewing();
        let Some(slot) = *renewing else { return false };
        let grain = &self.slots.grain;
        let Some(part) = grain.small_part(slot).filter(|_| !self.is_poisoned()) else {
            *renewing = None;
            self.slots.add_warm(slot);
            if self.is_poisoned() {
                grain.give_up();
            }
            return true;
        };
        let (at, end) = (self.layout().slot_at(slot), part.end);
        // In short steps: all writes to the file wait for one.
        for start in part.clone().step_by(RENEW_STEP) {
            let step = start..start.saturating_add(RENEW_STEP as u64).min(end);
            let renewed =
                self.medium.renew(at.saturating_add(step.start)..at.saturating_add(step.end));
            match renewed {
                Ok(()) => {}
                // It is good enough as it is.
                Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                Err(_) => {
                    grain.give_up();
                    break;
                }
            }
        }
        grain.forget_part(slot, part.start);
        true
    }

    /// One call wrote `bytes` bytes from byte `at` of the medium on.
    pub(crate) fn wrote(&self, at: u64, bytes: u64) {
        if let Some(past) = at.checked_sub(self.layout.slots_at).filter(|_| self.is_cached) {
            let (slot, inside) = (past / self.layout.slot_bytes, past % self.layout.slot_bytes);
            let slot = u32::try_from(slot).unwrap_or(u32::MAX);
            if let Some(soon) = self.slots.grain.wrote(slot, inside, bytes) {
                let start = at.saturating_sub(inside);
                self.medium.expect_writes(
                    start.saturating_add(soon.start)..start.saturating_add(soon.end),
                );
            }
        }
    }

    fn clear(&self, slot: u32) -> io::Result<()> {
        let at = self.layout().slot_at(slot);
        self.medium.zero(at..at.saturating_add(self.layout.slot_bytes), true)?;
        self.slots.add_free(slot);
        Ok(())
    }

    fn shows_only_what_is_written(&self) -> bool {
        shows_only_what_is_written(&self.shape)
    }

    /// Says what `job` needs next; what it needs of places that do not exist is done here.
    pub(crate) fn step(&self, job: &mut Job) -> Step {
        if matches!(job.kind, Kind::Command(_)) {
            return Step::Failed(Failure::Unsupported);
        }
        if job.changes() {
            if self.is_poisoned() {
                return Step::Failed(Failure::Poisoned);
            }
            if self.shape.read_only {
                return Step::Failed(Failure::Unsupported);
            }
        }
        while job.left() > 0 {
            let Some(piece) = self.layout().piece(job.position(), job.left()) else {
                return Step::Failed(Failure::Short { missing: job.left() });
            };
            match self.place(job, piece) {
                Ok(Some(piece)) => {
                    let Place::Medium(at) = piece.place else { return Step::Starved };
                    return Step::Transfer { at, bytes: piece.bytes };
                }
                Ok(None) => {}
                Err(failure) => return Step::Failed(failure),
            }
        }
        Step::Finished
    }

    /// Where on the medium `piece` is, or in a zone that can not have a slot now. `None` when it is
    /// nowhere, and done.
    fn place(&self, job: &mut Job, piece: Piece) -> Result<Option<Piece>, Failure> {
        let (zone, inside) = match piece.place {
            Place::Medium(_) => return Ok(Some(piece)),
            Place::Void if job.kind == Kind::Write => {
                return Err(Failure::Short { missing: job.left() });
            }
            Place::Void => return self.skip(job, piece.bytes),
            Place::Zone(zone, inside) => (zone, inside),
        };
        // A slot that is used as it is has to be given its zeroes too.
        let fills = match job.kind {
            Kind::Write => true,
            Kind::Zero { .. } => self.shows_only_what_is_written(),
            _ => false,
        };
        let slot = match self.slots.of(zone) {
            // What is written of the zone, if anything, has no slot because it reads as zeroes.
            None if fills => match self.take_slot(zone, inside != 0, job.left())? {
                Some(slot) => slot,
                None => return Ok(Some(piece)),
            },
            None => return self.skip(job, piece.bytes),
            Some(slot) => slot,
        };
        let mut bytes = piece.bytes;
        if let Some(end) = self.ends.get(zone.0 as usize).and_then(|end| end.to_bytes()) {
            if inside >= end {
                return self.skip(job, bytes);
            }
            bytes = bytes.min(end - inside);
        }
        let at = self.layout().slot_at(slot).saturating_add(inside);
        Ok(Some(Piece { place: Place::Medium(at), bytes }))
    }

    fn take_slot(&self, zone: ZoneId, clean: bool, bytes: u64) -> Result<Option<u32>, Failure> {
        if !self.medium.is_durable() && self.slots.any_detached() {
            // A reset is as durable as it will ever be: rather a slot that has its memory than a new one.
            self.slots.release(self.slots.take_detached());
            self.reclaim().map_err(Failure::Medium)?;
        }
        let taken = self.slots.take(zone, clean, bytes);
        if taken.is_some() || !clean || !self.slots.any_warm() {
            return Ok(taken);
        }
        self.clear_warm().map_err(Failure::Medium)?;
        Ok(self.slots.take(zone, clean, bytes))
    }

    /// Does `bytes` bytes that are nowhere: they read as zeroes, and need not be made so.
    fn skip(&self, job: &mut Job, bytes: u64) -> Result<Option<Piece>, Failure> {
        if let (Kind::Read, Some(buffers)) = (job.kind, &job.buffers) {
            buffers.zero(job.done, bytes).map_err(|_| Failure::Short { missing: bytes })?;
        }
        job.done = job.done.saturating_add(bytes);
        Ok(None)
    }

    /// After a crash, or for what a closed image left behind: clears what no zone's data is. Must come
    /// after a commit of the states that say so.
    pub(crate) fn clear_remains(&self) -> io::Result<()> {
        let mut at = self.layout.slots_at;
        for slot in self.slots.free() {
            let start = self.layout.slot_at(slot);
            let end = start.saturating_add(self.layout.slot_bytes);
            // Beyond this slot: what was found there is looked for no more.
            if at >= end {
                continue;
            }
            match self.medium.next_data(start)? {
                None => return Ok(()),
                Some(data) if data < end => self.medium.zero(start..end, true)?,
                Some(data) => at = data,
            }
        }
        Ok(())
    }

    /// Clears what was written above the data of sequential-preferred zones, which is to read as zeroes.
    pub(crate) fn clear_tails(&self, entries: &[Entry]) -> io::Result<()> {
        let Some(geometry) = &self.shape.geometry else { return Ok(()) };
        for (zone, entry) in geometry.zones().zip(entries) {
            let (Some(slot), Some(end)) = (entry.slot, entry.state.written().to_bytes()) else {
                continue;
            };
            if geometry.zone_type(zone) == ZoneType::SequentialPreferred
                && end < self.layout.slot_bytes
            {
                let at = self.layout.slot_at(slot);
                self.medium.zero(
                    at.saturating_add(end)..at.saturating_add(self.layout.slot_bytes),
                    true,
                )?;
            }
        }
        Ok(())
    }
}
