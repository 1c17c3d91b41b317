//! Which slot a zone has, and when one may be used again.
//!
//! A slot that its zone let go of (a reset) passes two gates before the next zone gets it. First the
//! reset must be durable, or a host that dies would come back with the zone as it was before, over the
//! data of another. Then no operation may be under way that began before the reset: a read that found
//! the zone there is still reading. Engines say so by [`Pins`]; nothing is counted per operation in
//! memory that queues share.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use zvb_zones::ZoneId;

use crate::grain::{Grain, WIDE};
use crate::growing::Growing;

/// No slot.
const NONE: u32 = u32::MAX;
/// No zone.
const NOBODY: ZoneId = ZoneId(u32::MAX);
/// No operation under way.
const IDLE: u64 = u64::MAX;
/// Of the slots that are kept as they are, so many are looked at for one that suits.
const LOOKED_AT: usize = 64;

/// The slots of all zones.
#[derive(Debug)]
pub(crate) struct Slots {
    /// By zone; `NONE` without.
    of: Growing<AtomicU32>,
    /// Goes up with every slot let go.
    epoch: AtomicU64,
    /// A zone had to have a slot that was never used, where others are let go of.
    wish: AtomicBool,
    shared: Mutex<Shared>,
    /// The pieces that the page cache has of each.
    pub(crate) grain: Grain,
    /// One of those kept as they are that is being renewed: nobody else's. Locked before `shared`.
    renewing: Mutex<Option<u32>>,
    /// For each engine the epoch in which its oldest operation began, or `IDLE`.
    engines: Mutex<Vec<Arc<AtomicU64>>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Clean, and nobody's. The next to be taken is the last.
    free: Vec<u32>,
    /// Let go, but not durably.
    detached: Vec<Detached>,
    /// Durably let go.
    released: Vec<Detached>,
    /// As good as free, for zones that never show what they did not write: not cleared, so that the next
    /// zone need not ask the medium for room. Cleared when nobody wants them for a while.
    warm: Vec<u32>,
    /// When a zone last asked for a slot while there were some that others had let go of.
    wanted: Option<Instant>,
}

/// A slot let go, and when: operations that began in a later epoch can not have found it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Detached {
    pub(crate) slot: u32,
    /// The zone that had it.
    pub(crate) zone: ZoneId,
    epoch: u64,
}

/// A mutex here protects lists that are whole between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Slots {
    /// `slots` slots of `slot_bytes` bytes, those of `owned` (by zone, for `zones` zones) taken.
    pub(crate) fn new(
        zones: u32,
        slots: u32,
        slot_bytes: u64,
        owned: impl Iterator<Item = (ZoneId, u32)>,
    ) -> Self {
        let of = Growing::new(zones as usize, || AtomicU32::new(NONE));
        let mut taken = vec![false; slots as usize];
        for (zone, slot) in owned {
            if let (Some(of), Some(taken)) = (of.get(zone.0 as usize), taken.get_mut(slot as usize))
            {
                of.store(slot, Ordering::Relaxed);
                *taken = true;
            }
        }
        let free = (0..slots).rev().filter(|s| taken.get(*s as usize) == Some(&false)).collect();
        Self {
            of,
            epoch: AtomicU64::new(0),
            wish: AtomicBool::new(false),
            shared: Mutex::new(Shared { free, ..Shared::default() }),
            grain: Grain::new(slots, slot_bytes),
            renewing: Mutex::default(),
            engines: Mutex::default(),
        }
    }

    /// These are new, and could not be cleared: they wait for the next commit, and are cleared then.
    pub(crate) fn add_unclear(&self, slots: Range<u32>) {
        self.grain.grow(slots.end);
        let new = slots.map(|slot| Detached { slot, zone: NOBODY, epoch: 0 });
        lock(&self.shared).detached.extend(new);
    }

    /// There are `zones` zones now.
    pub(crate) fn grow(&self, zones: u32) {
        self.of.grow(zones as usize);
    }

    /// These are new, and clean: to be taken when there are no others.
    pub(crate) fn add_new(&self, slots: Range<u32>) {
        self.grain.grow(slots.end);
        lock(&self.shared).free.splice(0..0, slots.rev());
    }

    /// The slot of `zone`.
    pub(crate) fn of(&self, zone: ZoneId) -> Option<u32> {
        let slot = self.of.get(zone.0 as usize)?.load(Ordering::Acquire);
        (slot != NONE).then_some(slot)
    }

    /// The slot of `zone`, a free one if it had none (one that reads as zeroes, if it has to be `clean`);
    /// `None` when none is free. The first write to it has `bytes` bytes: what else it may suit decides
    /// between those that are kept as they are.
    pub(crate) fn take(&self, zone: ZoneId, clean: bool, bytes: u64) -> Option<u32> {
        let of = self.of.get(zone.0 as usize)?;
        let mut shared = lock(&self.shared);
        if let Some(slot) = self.of(zone) {
            return Some(slot);
        }
        if !(shared.warm.is_empty() && shared.detached.is_empty()) {
            shared.wanted = Some(Instant::now());
        }
        let warm = if clean { None } else { self.pick(&mut shared.warm, bytes) };
        if !clean && shared.warm.is_empty() && !shared.detached.is_empty() {
            self.wish.store(true, Ordering::Relaxed);
        }
        let slot = warm.or_else(|| shared.free.pop()).or_else(|| {
            // The last resort; locked while something is done to it.
            let mut renewing = self.renewing.try_lock().ok().filter(|_| !clean)?;
            renewing.take()
        })?;
        of.store(slot, Ordering::Release);
        Some(slot)
    }

    /// Takes one of `warm` for writes of `bytes` bytes, the last one that suits: large pieces are for
    /// large writes, and small ones are good enough for small ones.
    fn pick(&self, warm: &mut Vec<u32>, bytes: u64) -> Option<u32> {
        let suits = |slot: &u32| self.grain.is_small(*slot) == (bytes < WIDE);
        let some = warm.len().saturating_sub(LOOKED_AT);
        let found = warm.get(some..)?.iter().rposition(suits);
        match found {
            Some(index) => Some(warm.remove(some + index)),
            None => warm.pop(),
        }
    }

    /// Chooses the slot that is to be renewed next, if there is one.
    pub(crate) fn renewing(&self) -> MutexGuard<'_, Option<u32>> {
        let mut renewing = lock(&self.renewing);
        if renewing.is_none() {
            let warm = &mut lock(&self.shared).warm;
            *renewing = self.cramped(warm).map(|index| warm.remove(index));
        }
        renewing
    }

    /// True when a slot is to be renewed.
    pub(crate) fn any_to_renew(&self) -> bool {
        lock(&self.renewing).is_some() || self.cramped(&lock(&self.shared).warm).is_some()
    }

    /// The slot that is being renewed is kept as it is.
    pub(crate) fn stop_renewing(&self) {
        if let Some(slot) = lock(&self.renewing).take() {
            self.add_warm(slot);
        }
    }

    fn cramped(&self, warm: &[u32]) -> Option<usize> {
        let some = warm.len().saturating_sub(LOOKED_AT);
        let found = warm.get(some..)?.iter().rposition(|slot| self.grain.is_cramped(*slot));
        found.map(|index| some + index)
    }

    /// Takes its slot from `zone`, which no write is under way to.
    /// True when it is the first since a commit took those let go before.
    pub(crate) fn detach(&self, zone: ZoneId) -> bool {
        let Some(of) = self.of.get(zone.0 as usize) else { return false };
        let slot = of.swap(NONE, Ordering::SeqCst);
        if slot == NONE {
            return false;
        }
        // Whoever reads the epoch that this leaves behind finds the zone without the slot.
        let epoch = self.epoch.fetch_add(1, Ordering::SeqCst);
        let detached = &mut lock(&self.shared).detached;
        detached.push(Detached { slot, zone, epoch });
        detached.len() == 1
    }

    /// The slots let go so far, for a commit. Taken before the commit looks at the zones: what is in here
    /// was recorded before.
    pub(crate) fn take_detached(&self) -> Vec<Detached> {
        std::mem::take(&mut lock(&self.shared).detached)
    }

    /// These were let go, and durably.
    pub(crate) fn release(&self, slots: Vec<Detached>) {
        lock(&self.shared).released.extend(slots);
    }

    /// Durably let go, and no longer seen by any operation: to be cleaned and given to
    /// [`add_free`](Self::add_free).
    pub(crate) fn take_released(&self) -> Vec<Detached> {
        let mut shared = lock(&self.shared);
        if shared.released.is_empty() {
            return Vec::new();
        }
        // With the fence in `Pins::enter`: either we see the pin, or its holder sees the slot gone.
        fence(Ordering::SeqCst);
        let oldest = lock(&self.engines)
            .iter()
            .map(|engine| engine.load(Ordering::SeqCst))
            .min()
            .unwrap_or(IDLE);
        let (ready, waiting) = shared.released.drain(..).partition(|d| d.epoch < oldest);
        shared.released = waiting;
        ready
    }

    /// This one could not be cleaned: it waits for the next commit.
    pub(crate) fn put_back(&self, detached: Detached) {
        lock(&self.shared).detached.push(detached);
    }

    /// `slot` is clean again.
    pub(crate) fn add_free(&self, slot: u32) {
        self.grain.forget(slot);
        lock(&self.shared).free.push(slot);
    }

    /// `slot` can be used again as it is, by a zone that does not show what it did not write.
    pub(crate) fn add_warm(&self, slot: u32) {
        lock(&self.shared).warm.push(slot);
    }

    /// Slots to be cleared, each to be given to [`add_free`](Self::add_free) or back to
    /// [`add_warm`](Self::add_warm).
    pub(crate) fn take_warm(&self) -> Vec<u32> {
        self.stop_renewing();
        std::mem::take(&mut lock(&self.shared).warm)
    }

    /// True when slots are kept as they are.
    pub(crate) fn any_warm(&self) -> bool {
        !lock(&self.shared).warm.is_empty()
    }

    /// When slots that were let go were last wanted.
    pub(crate) fn last_wanted(&self) -> Option<Instant> {
        lock(&self.shared).wanted
    }

    /// True, once, when slots that were let go should soon be made such that they can be used again: the
    /// next zone would get one that was never used.
    pub(crate) fn take_wish(&self) -> bool {
        self.wish.load(Ordering::Relaxed) && self.wish.swap(false, Ordering::Relaxed)
    }

    /// True when a zone can have a slot.
    pub(crate) fn any_free(&self) -> bool {
        let shared = lock(&self.shared);
        !shared.free.is_empty() || !shared.warm.is_empty()
    }

    /// True when slots that zones have let go of hold space still.
    pub(crate) fn any_kept(&self) -> bool {
        if lock(&self.renewing).is_some() {
            return true;
        }
        let shared = lock(&self.shared);
        !(shared.warm.is_empty() && shared.detached.is_empty() && shared.released.is_empty())
    }

    /// True when slots wait for a commit.
    pub(crate) fn any_detached(&self) -> bool {
        !lock(&self.shared).detached.is_empty()
    }

    /// True when slots wait for operations to end.
    pub(crate) fn any_released(&self) -> bool {
        !lock(&self.shared).released.is_empty()
    }

    /// The free slots, in order.
    pub(crate) fn free(&self) -> Vec<u32> {
        let mut free = lock(&self.shared).free.clone();
        free.sort_unstable();
        free
    }
}

/// What one engine has under way, by the epochs in which it began.
#[derive(Debug)]
pub(crate) struct Pins {
    oldest: Arc<AtomicU64>,
    /// Epochs, rising, and how many operations of each are under way.
    begun: VecDeque<(u64, u32)>,
}

impl Pins {
    /// Those of a new engine.
    pub(crate) fn new(slots: &Slots) -> Self {
        let oldest = Arc::new(AtomicU64::new(IDLE));
        lock(&slots.engines).push(Arc::clone(&oldest));
        Self { oldest, begun: VecDeque::new() }
    }

    /// An operation begins: from here on it may ask for the slots of zones. Returns what
    /// [`leave`](Self::leave) wants to know.
    pub(crate) fn enter(&mut self, slots: &Slots) -> u64 {
        let epoch = slots.epoch.load(Ordering::SeqCst);
        match self.begun.back_mut() {
            Some((last, count)) if *last == epoch => *count = count.saturating_add(1),
            Some(_) => self.begun.push_back((epoch, 1)),
            None => {
                self.begun.push_back((epoch, 1));
                self.oldest.store(epoch, Ordering::SeqCst);
                fence(Ordering::SeqCst);
            }
        }
        epoch
    }

    /// An operation that began in `epoch` is over.
    pub(crate) fn leave(&mut self, epoch: u64) {
        if let Some((_, count)) = self.begun.iter_mut().find(|(begun, _)| *begun == epoch) {
            *count = count.saturating_sub(1);
        }
        let oldest = self.begun.front().map(|(epoch, _)| *epoch);
        while self.begun.front().is_some_and(|(_, count)| *count == 0) {
            self.begun.pop_front();
        }
        let now = self.begun.front().map(|(epoch, _)| *epoch);
        if now != oldest {
            self.oldest.store(now.unwrap_or(IDLE), Ordering::Release);
        }
    }

    /// The engine is gone, and nothing of it is under way.
    pub(crate) fn retire(&self, slots: &Slots) {
        lock(&slots.engines).retain(|engine| !Arc::ptr_eq(engine, &self.oldest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZONE: ZoneId = ZoneId(1);

    fn slots() -> Slots {
        Slots::new(3, 4, 64 << 20, [(ZoneId(0), 2)].into_iter())
    }

    /// Passes the first gate.
    fn commit(slots: &Slots) {
        slots.release(slots.take_detached());
    }

    #[test]
    fn a_zone_keeps_its_slot_until_it_lets_go() {
        let slots = slots();
        assert_eq!((slots.of(ZoneId(0)), slots.of(ZONE)), (Some(2), None));
        assert_eq!(slots.free(), [0, 1, 3]);
        assert_eq!(slots.take(ZONE, false, 4096), Some(0));
        assert_eq!(slots.take(ZONE, false, 4096), Some(0));
        slots.detach(ZONE);
        slots.detach(ZONE);
        assert_eq!(slots.take(ZONE, false, 4096), Some(1), "not the one that is not durably free");
        assert_eq!(slots.take(ZoneId(2), false, 4096), Some(3));
        slots.detach(ZoneId(2));
        assert_eq!(slots.take(ZoneId(2), false, 4096), None);
        assert!(slots.take_released().is_empty(), "not committed");
        commit(&slots);
        let mut released: Vec<u32> = slots.take_released().iter().map(|d| d.slot).collect();
        released.sort_unstable();
        assert_eq!(released, [0, 3]);
        assert_eq!(slots.take(ZoneId(2), false, 4096), None, "not clean");
        slots.add_free(3);
        assert_eq!(slots.take(ZoneId(2), false, 4096), Some(3));
        assert_eq!(slots.take(ZoneId(9000), false, 4096), None, "no such zone");
    }

    #[test]
    fn a_warm_slot_goes_first() {
        let slots = slots();
        slots.take(ZONE, false, 4096);
        slots.detach(ZONE);
        commit(&slots);
        slots.take_released().iter().for_each(|d| slots.add_warm(d.slot));
        assert!(slots.any_warm());
        assert_eq!(
            slots.take(ZoneId(2), false, 4096),
            Some(0),
            "rather than one that was never used"
        );
        assert!(!slots.any_warm());
        assert!(slots.take_warm().is_empty());
        slots.add_warm(0);
        assert_eq!(slots.take(ZoneId(3000), true, 4096), None, "no such zone");
        slots.detach(ZoneId(2));
        assert_eq!(slots.take(ZoneId(2), true, 4096), Some(1), "not the one that was used");
    }

    #[test]
    fn large_writes_get_large_pieces_and_small_writes_leave_them_theirs() {
        let slots = slots();
        for slot in [0, 1, 3] {
            slots.grain.wrote(slot, 0, if slot == 1 { WIDE } else { 4096 });
            slots.add_warm(slot);
        }
        assert_eq!(slots.take(ZONE, false, WIDE), Some(1));
        assert_eq!(slots.take(ZoneId(2), false, 4096), Some(3), "the last one that suits");
        slots.detach(ZONE);
        assert_eq!(slots.take(ZONE, false, WIDE), Some(0), "rather than none");
    }

    #[test]
    fn a_slot_that_is_renewed_is_nobodys() {
        let slots = slots();
        slots.grain.wrote(1, 0, 4096);
        slots.add_warm(1);
        slots.add_warm(3);
        assert!(!slots.any_to_renew());
        slots.grain.wrote(1, 0, WIDE);
        assert!(slots.any_to_renew());
        let renewing = slots.renewing();
        assert_eq!(*renewing, Some(1));
        assert_eq!(slots.take(ZoneId(0), false, WIDE), Some(2), "it has one");
        assert_eq!(slots.take(ZONE, false, 4096), Some(3));
        slots.free().iter().for_each(|_| assert!(slots.take(ZoneId(2), false, 1).is_some()));
        slots.detach(ZoneId(2));
        lock(&slots.shared).free.clear();
        assert_eq!(slots.take(ZoneId(2), false, WIDE), None, "somebody is at it");
        drop(renewing);
        assert!(slots.any_kept() && slots.any_to_renew());
        assert_eq!(slots.take(ZoneId(2), true, WIDE), None, "not clean");
        assert_eq!(slots.take(ZoneId(2), false, WIDE), Some(1), "the last resort");
        assert!(!slots.any_to_renew());
        slots.detach(ZoneId(2));
        slots.add_warm(1);
        assert_eq!(*slots.renewing(), Some(1));
        assert_eq!(slots.take_warm(), [1], "to be cleared, with all others");
        slots.add_free(1);
        slots.add_warm(1);
        assert!(!slots.any_to_renew(), "nothing of it is cached any more");
    }

    #[test]
    fn it_is_said_once_that_slots_are_wanted_which_others_let_go_of() {
        let slots = slots();
        slots.take(ZONE, false, 4096);
        assert!(slots.last_wanted().is_none() && !slots.take_wish(), "nobody let go of one");
        slots.detach(ZONE);
        slots.take(ZoneId(2), false, 4096);
        assert!(slots.last_wanted().is_some());
        assert!(slots.take_wish() && !slots.take_wish());
        slots.detach(ZoneId(2));
        commit(&slots);
        slots.take_released().iter().for_each(|d| slots.add_warm(d.slot));
        slots.take(ZoneId(2), false, 4096);
        assert!(!slots.take_wish(), "one is left");
    }

    #[test]
    fn what_began_before_a_reset_keeps_the_slot() {
        let slots = slots();
        let (mut a, mut b) = (Pins::new(&slots), Pins::new(&slots));
        slots.take(ZONE, false, 4096);
        let first = a.enter(&slots);
        let also = a.enter(&slots);
        slots.detach(ZONE);
        commit(&slots);
        let later = a.enter(&slots);
        b.enter(&slots);
        assert!(slots.take_released().is_empty());
        a.leave(first);
        assert!(slots.take_released().is_empty(), "one is still under way");
        a.leave(later);
        assert!(slots.take_released().is_empty());
        let again = a.enter(&slots);
        a.leave(also);
        // `b` began after the reset, and `again` did: neither can have found it.
        assert_eq!(slots.take_released().len(), 1);
        a.leave(again);
        assert_eq!(a.oldest.load(Ordering::Relaxed), IDLE);
    }

    #[test]
    fn an_engine_that_is_gone_keeps_nothing() {
        let slots = slots();
        let mut pins = Pins::new(&slots);
        slots.take(ZONE, false, 4096);
        pins.enter(&slots);
        slots.detach(ZONE);
        commit(&slots);
        assert!(slots.take_released().is_empty());
        pins.retire(&slots);
        assert_eq!(slots.take_released().len(), 1);
    }
}
