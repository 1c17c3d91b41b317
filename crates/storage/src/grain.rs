//! How large the pieces are in which the page cache keeps slots.
//!
//! The page cache has a file in pieces (folios) as large as the calls that first wrote them, and keeps
//! them so however large the calls are that write the same place again. Small pieces make large writes
//! about twice as dear. So it is noted, for a few places of each slot, whether the call that first wrote
//! there was a small one, and whether large ones followed. A guess is enough: nothing but speed depends
//! on it, and it is lost with the process.
//!
//! It also tells where a slot is written for the first time: blocks that are there before the data is
//! take less time than blocks found for each write.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::growing::Growing;

/// Calls of fewer bytes leave pieces that are too small for others.
pub(crate) const WIDE: u64 = 32 << 10;

/// Parts of a slot; of each, the call is looked at that writes its first byte.
const PARTS: u64 = 32;
/// The most bytes that get blocks before they are written: what is lost where a zone stays as it is.
const AHEAD: u64 = 8 << 20;
/// The smallest part has 1 MiB: nothing is done about less.
const SHIFT_MIN: u32 = 20;

// What is known of a part, in two bits.
const UNKNOWN: u64 = 0;
const LARGE: u64 = 1;
const SMALL: u64 = 2;
/// Small pieces, that a large call wrote last.
const CRAMPED: u64 = 3;

/// That of all slots.
#[derive(Debug)]
pub(crate) struct Grain {
    of: Growing<AtomicU64>,
    slot_bytes: u64,
    /// Of the bytes of a part, which are a power of two.
    shift: u32,
    /// False where nothing can be done about it.
    on: AtomicBool,
}

impl Grain {
    /// Nothing is known of `slots` slots of `slot_bytes` bytes each.
    pub(crate) fn new(slots: u32, slot_bytes: u64) -> Self {
        let part = slot_bytes.div_ceil(PARTS).max(1);
        let shift = (u64::BITS - (part - 1).leading_zeros()).max(SHIFT_MIN);
        let of = Growing::new(slots as usize, || AtomicU64::new(0));
        Self { of, slot_bytes, shift, on: AtomicBool::new(true) }
    }

    /// There are `slots` slots now.
    pub(crate) fn grow(&self, slots: u32) {
        self.of.grow(slots as usize);
    }

    /// From here on no slot is cramped.
    pub(crate) fn give_up(&self) {
        self.on.store(false, Ordering::Relaxed);
    }

    /// One call wrote `bytes` bytes from byte `inside` of `slot` on, through the page cache. Returns the
    /// bytes of the slot for which there should be blocks soon, if that is new.
    pub(crate) fn wrote(&self, slot: u32, inside: u64, bytes: u64) -> Option<Range<u64>> {
        let end = inside.checked_add(bytes).filter(|end| *end > inside)?;
        // The parts whose first byte it wrote: most calls are in the middle of one.
        let first = (inside >> self.shift) + u64::from(inside & ((1 << self.shift) - 1) != 0);
        let mut new = None;
        for part in first..=((end - 1) >> self.shift).min(PARTS - 1) {
            new = self.note(slot, part, bytes >= WIDE).then_some(part);
        }
        // What has only a little written takes no more space than that.
        let start = new.filter(|part| *part > 0)? << self.shift;
        let ahead = start.saturating_add(AHEAD.min(1 << self.shift)).min(self.slot_bytes);
        (end < ahead).then_some(end..ahead)
    }

    /// True when nothing was known before.
    fn note(&self, slot: u32, part: u64, wide: bool) -> bool {
        let Some(word) = self.of.get(slot as usize) else { return false };
        let at = part * 2;
        let next = |known: u64| {
            let new = match (known >> at & 3, wide) {
                (UNKNOWN, true) => LARGE,
                (UNKNOWN | CRAMPED, false) => SMALL,
                (SMALL, true) => CRAMPED,
                _ => return None,
            };
            Some(known & !(3 << at) | new << at)
        };
        // Fails where there is nothing new.
        let before = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        before.is_ok_and(|known| known >> at & 3 == UNKNOWN)
    }

    /// The page cache has nothing of `slot` any more.
    pub(crate) fn forget(&self, slot: u32) {
        if let Some(word) = self.of.get(slot as usize) {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// True when `slot` has pieces that are too small for large writes.
    pub(crate) fn is_small(&self, slot: u32) -> bool {
        self.count(slot, |known| known >= SMALL) > 0
    }

    /// True when large writes met small pieces in at least half of what is known of `slot`.
    pub(crate) fn is_cramped(&self, slot: u32) -> bool {
        let cramped = self.count(slot, |known| known == CRAMPED);
        let on = self.on.load(Ordering::Relaxed);
        on && cramped > 0 && 2 * cramped >= self.count(slot, |known| known != UNKNOWN)
    }

    /// The first part of `slot` with small pieces, as bytes of it.
    pub(crate) fn small_part(&self, slot: u32) -> Option<Range<u64>> {
        let word = self.of.get(slot as usize)?.load(Ordering::Relaxed);
        let part = (0..PARTS).find(|part| word >> (part * 2) & 3 >= SMALL)?;
        let start = part << self.shift;
        Some(start.min(self.slot_bytes)..(start + (1 << self.shift)).min(self.slot_bytes))
    }

    /// The part of `slot` that begins at byte `start` has no pieces any more.
    pub(crate) fn forget_part(&self, slot: u32, start: u64) {
        if let Some(word) = self.of.get(slot as usize) {
            word.fetch_and(!(3 << (2 * (start >> self.shift).min(PARTS - 1))), Ordering::Relaxed);
        }
    }

    fn count(&self, slot: u32, wanted: impl Fn(u64) -> bool) -> u32 {
        let word = self.of.get(slot as usize).map_or(0, |word| word.load(Ordering::Relaxed));
        // At most 32.
        (0..PARTS).filter(|part| wanted(word >> (part * 2) & 3)).count() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Writes `range` by calls of `call` bytes.
    fn write(grain: &Grain, range: Range<u64>, call: u64) {
        for at in range.step_by(call as usize) {
            grain.wrote(1, at, call);
        }
    }

    #[test]
    fn pieces_stay_as_they_were_first_written() {
        let grain = Grain::new(3, 64 * MIB);
        write(&grain, 0..64 * MIB, 4096);
        assert!(grain.is_small(1) && !grain.is_cramped(1) && !grain.is_small(0));
        write(&grain, 0..64 * MIB, 128 << 10);
        assert!(grain.is_small(1) && grain.is_cramped(1));
        write(&grain, 0..64 * MIB, 4096);
        assert!(grain.is_small(1) && !grain.is_cramped(1), "small writes need nothing else");
        grain.forget(1);
        write(&grain, 0..64 * MIB, WIDE);
        write(&grain, 0..64 * MIB, 4096);
        write(&grain, 0..64 * MIB, 128 << 10);
        assert!(!grain.is_small(1) && !grain.is_cramped(1));
    }

    #[test]
    fn half_of_what_is_known_is_enough() {
        let grain = Grain::new(3, 64 * MIB);
        write(&grain, 0..24 * MIB, 4096);
        write(&grain, 24 * MIB..32 * MIB, WIDE);
        write(&grain, 0..12 * MIB, WIDE);
        assert!(!grain.is_cramped(1));
        write(&grain, 0..16 * MIB, WIDE);
        assert!(grain.is_cramped(1));
        grain.give_up();
        assert!(!grain.is_cramped(1));
    }

    #[test]
    fn parts_are_told_one_after_the_other() {
        // Parts of 2 MiB, the last of them smaller.
        let grain = Grain::new(3, 63 * MIB - 4096);
        write(&grain, 0..4 * MIB, 4096);
        grain.wrote(1, 62 * MIB, 4096);
        let mut parts = Vec::new();
        while let Some(part) = grain.small_part(1) {
            grain.forget_part(1, part.start);
            parts.push(part);
        }
        assert_eq!(parts, [0..2 * MIB, 2 * MIB..4 * MIB, 62 * MIB..63 * MIB - 4096]);
        assert!(!grain.is_small(1));
    }

    #[test]
    fn blocks_are_wanted_once_ahead_of_what_goes_on() {
        let grain = Grain::new(3, 1 << 30);
        let part = 32 * MIB;
        assert_eq!(grain.wrote(1, 0, 4096), None, "it may be all there will be");
        assert_eq!(grain.wrote(1, part - 4096, 4096), None);
        assert_eq!(grain.wrote(1, part, 4096), Some(part + 4096..part + AHEAD));
        assert_eq!(grain.wrote(1, part, 4096), None);
        assert_eq!(
            grain.wrote(1, 2 * part - 4096, AHEAD),
            Some(2 * part - 4096 + AHEAD..2 * part + AHEAD)
        );
        assert_eq!(grain.wrote(1, 3 * part, AHEAD), None, "it has them");
        grain.forget_part(1, part);
        assert_eq!(grain.wrote(1, part, 8192), Some(part + 8192..part + AHEAD));
        let odd = Grain::new(3, MIB + 4096);
        assert_eq!(odd.wrote(1, MIB, 4096), None, "the end");
        assert_eq!(Grain::new(3, MIB).wrote(1, 4096, 4096), None);
    }

    #[test]
    fn any_range_and_any_slot_will_do() {
        let grain = Grain::new(3, 4096);
        grain.wrote(9000, 0, 4096);
        grain.wrote(1, u64::MAX, 2);
        grain.wrote(1, 0, 0);
        grain.wrote(1, 1, 4095);
        assert!(!grain.is_small(1) && !grain.is_small(9000), "not the first byte");
        grain.wrote(1, 0, u64::MAX);
        assert!(!grain.is_small(1));
        grain.forget(1);
        grain.wrote(1, 0, 1);
        assert_eq!(grain.small_part(1), Some(0..4096));
        assert_eq!(Grain::new(1, 0).small_part(0), None);
    }
}
