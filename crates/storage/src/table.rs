//! The zone table: one record of 64 bytes per zone, in memory that the medium keeps.
//!
//! `docs/format.md` has the layout, byte by byte.

use std::sync::atomic::{AtomicU64, Ordering};

use zvb_wire::{Condition, Sector, ZoneType};
use zvb_zones::{Geometry, Snapshot, ZoneId};

/// Words of a record.
pub(crate) const WORDS: usize = 8;
/// Bytes of a record.
pub(crate) const BYTES: u64 = WORDS as u64 * 8;

/// Where the latest state is in a record.
const LATEST: usize = 0;
/// Where the durable copies are; each is a state, a sequence number and a checksum.
const COPIES: [usize; 2] = [2, 5];

/// Bits that a [`Snapshot`] has.
const STATE_BITS: u32 = 37;
/// Bits that a slot's number plus one has.
const SLOT_BITS: u32 = 24;

/// What is remembered of a zone: its state, and where its data is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) state: Snapshot,
    pub(crate) slot: Option<u32>,
}

/// A record that no zone can have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Bits set that mean nothing, or a condition that does not exist.
    #[error("{0:#018x} is no state of a zone")]
    State(u64),
    /// A condition that zones of its type never have.
    #[error("the condition {condition:?} is none of a {zone_type:?} zone")]
    Condition {
        /// It.
        condition: Condition,
        /// The type of the zone.
        zone_type: ZoneType,
    },
    /// More than can be written.
    #[error("{written} sectors written of {capacity}")]
    Written {
        /// What the record says.
        written: Sector,
        /// What fits.
        capacity: Sector,
    },
    /// Not as many as requests write.
    #[error(
        "{written} sectors written, which is no multiple of the write granularity of {granule}"
    )]
    Unaligned {
        /// What the record says.
        written: Sector,
        /// The write granularity.
        granule: Sector,
    },
    /// Data where there is none.
    #[error("slot {slot} of {slots}")]
    Slot {
        /// What the record says.
        slot: u32,
        /// How many there are.
        slots: u32,
    },
    /// Its data belongs to another zone.
    #[error("slot {slot} belongs to another zone as well")]
    Shared {
        /// The slot.
        slot: u32,
    },
    /// Neither durable copy is whole.
    #[error("both durable copies are torn")]
    Torn,
    /// The image was left in order, and yet the latest state and the durable one differ.
    #[error("the latest state is not the durable one, in an image that was left in order")]
    Differs,
}

impl Entry {
    /// The word that stands for it.
    pub(crate) fn pack(self) -> u64 {
        let slot = self.slot.map_or(0, |slot| u64::from(slot).saturating_add(1));
        self.state.to_bits() | slot << STATE_BITS
    }

    /// What `word` stands for in `zone`. 0, which is what a new image has, is a zone at birth.
    pub(crate) fn unpack(
        word: u64,
        zone: ZoneId,
        geometry: &Geometry,
        slots: u32,
    ) -> Result<Self, RecordError> {
        let zone_type = geometry.zone_type(zone);
        let conventional = zone_type == ZoneType::Conventional;
        if word == 0 && !conventional {
            return Ok(Self { state: Snapshot::EMPTY, slot: None });
        }
        let bits = word & ((1 << STATE_BITS) - 1);
        let above = word >> STATE_BITS;
        if above >> SLOT_BITS != 0 {
            return Err(RecordError::State(word));
        }
        let state = Snapshot::from_bits(bits).map_err(|_| RecordError::State(word))?;
        let (condition, written) = (state.condition(), state.written());
        let has_pointer = condition != Condition::NotWp;
        let fits = match condition {
            Condition::ReadOnly | Condition::Offline => true,
            _ => has_pointer != conventional,
        };
        if !fits {
            return Err(RecordError::Condition { condition, zone_type });
        }
        let capacity = if conventional || condition == Condition::Empty {
            Sector::ZERO
        } else {
            geometry.capacity(zone)
        };
        if written > capacity {
            return Err(RecordError::Written { written, capacity });
        }
        let granule = geometry.granule();
        if zone_type == ZoneType::SequentialRequired && !written.is_multiple_of(granule) {
            return Err(RecordError::Unaligned { written, granule });
        }
        let slot = u32::try_from(above).unwrap_or(u32::MAX).checked_sub(1);
        match slot {
            Some(slot) if slot >= slots || written == Sector::ZERO => {
                Err(RecordError::Slot { slot, slots })
            }
            _ => Ok(Self { state, slot }),
        }
    }
}

/// The record of `zone` in `packed`, latest and durably, as it is in a table that is written anew. A zone
/// at birth has none: it is left a hole.
pub(crate) fn fresh(zone: ZoneId, packed: u64) -> Option<[u8; BYTES as usize]> {
    if packed == 0 || packed == (Entry { state: Snapshot::EMPTY, slot: None }).pack() {
        return None;
    }
    let mut bytes = [0; BYTES as usize];
    let mut put = |word: usize, value: u64| {
        if let Some(at) = bytes.get_mut(word * 8..word * 8 + 8) {
            at.copy_from_slice(&value.to_le_bytes());
        }
    };
    let [first, _] = COPIES;
    put(LATEST, packed);
    put(first, packed);
    put(first + 1, 1);
    put(first + 2, checksum(zone, packed, 1));
    Some(bytes)
}

/// CRC-32C of the zone's number, a state and its sequence number; with a bit above it, so that it is never
/// 0.
fn checksum(zone: ZoneId, state: u64, sequence: u64) -> u64 {
    let crc = crc32c::crc32c(&zone.0.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &state.to_le_bytes());
    u64::from(crc32c::crc32c_append(crc, &sequence.to_le_bytes())) | 1 << 32
}

/// The state in `packed`, whatever zone it is of.
fn state_of(packed: u64) -> Option<Snapshot> {
    Snapshot::from_bits(packed & ((1 << STATE_BITS) - 1)).ok()
}

/// True when a zone that was left in `packed` is active after a restart.
pub(crate) fn is_active(packed: u64) -> bool {
    let active = |s: Snapshot| s.condition().is_active() && s.written() != Sector::ZERO;
    state_of(packed).is_some_and(active)
}

/// A durable copy as it was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Durable {
    state: u64,
    sequence: u64,
}

/// A record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    zone: ZoneId,
    words: &'a [AtomicU64],
}

impl<'a> Record<'a> {
    /// That of `zone` in `table`; `None` past its end.
    pub(crate) fn of(table: &'a [AtomicU64], zone: ZoneId) -> Option<Self> {
        let first = (zone.0 as usize).checked_mul(WORDS)?;
        let words = table.get(first..first.checked_add(WORDS)?)?;
        Some(Self { zone, words })
    }

    fn load(&self, word: usize) -> u64 {
        self.words.get(word).map_or(0, |w| u64::from_le(w.load(Ordering::Acquire)))
    }

    fn store(&self, word: usize, value: u64) {
        if let Some(w) = self.words.get(word) {
            w.store(value.to_le(), Ordering::Release);
        }
    }

    /// The latest state.
    pub(crate) fn latest(&self) -> u64 {
        self.load(LATEST)
    }

    /// True when in the latest state the zone has data.
    pub(crate) fn has_data(&self) -> bool {
        state_of(self.latest()).is_some_and(|state| state.written() != Sector::ZERO)
    }

    /// Makes `packed` the latest state.
    pub(crate) fn set_latest(&self, packed: u64) {
        self.store(LATEST, packed);
    }

    /// The durable state: that of the whole copy with the higher sequence number, 0 before the first.
    pub(crate) fn durable(&self) -> Result<u64, RecordError> {
        match COPIES.map(|at| self.copy(at)) {
            [Some(a), Some(b)] if b.sequence > a.sequence => Ok(b.state),
            [Some(one), _] | [None, Some(one)] => Ok(one.state),
            [None, None] => Err(RecordError::Torn),
        }
    }

    /// True when one of the durable copies is not whole. A host that died while it was written leaves it so.
    pub(crate) fn has_torn_copy(&self) -> bool {
        COPIES.iter().any(|at| self.copy(*at).is_none())
    }

    /// The slot that the durable state says, if that state is whole.
    pub(crate) fn durable_slot(&self) -> Result<Option<u32>, RecordError> {
        let above = self.durable()? >> STATE_BITS;
        Ok(u32::try_from(above).ok().and_then(|slot| slot.checked_sub(1)))
    }

    /// Makes `packed` durable with the next sync. The copy that is the durable one now is not touched.
    pub(crate) fn set_durable(&self, packed: u64) {
        let [a, b] = COPIES.map(|at| self.copy(at));
        let sequences = [a, b].map(|copy| copy.map(|c| c.sequence));
        let [a_at, b_at] = COPIES;
        // A copy that is not whole sorts first, and is replaced.
        let at = if sequences[0] <= sequences[1] { a_at } else { b_at };
        let sequence = sequences[0].max(sequences[1]).unwrap_or(0).saturating_add(1);
        self.store(at, packed);
        self.store(at + 1, sequence);
        self.store(at + 2, checksum(self.zone, packed, sequence));
    }

    /// Makes this record, of which nothing was written, say what `from` says; both are of one zone.
    pub(crate) fn copy_from(&self, from: &Self) -> Result<(), RecordError> {
        let (latest, durable) = (from.latest(), from.durable()?);
        // A zone at birth is left as it is, a hole.
        if latest != self.latest() {
            self.set_latest(latest);
        }
        if durable != 0 {
            self.set_durable(durable);
        }
        Ok(())
    }

    /// Clears a copy that is torn. Another write to it would have the same sequence number, and torn in its
    /// turn the two could make a whole one.
    pub(crate) fn clear_torn(&self) {
        for at in COPIES.into_iter().filter(|at| self.copy(*at).is_none()) {
            (at..at + 3).for_each(|word| self.store(word, 0));
        }
    }

    /// The copy at `at`, if it is whole. One that was never written is.
    fn copy(&self, at: usize) -> Option<Durable> {
        let (state, sequence) = (self.load(at), self.load(at + 1));
        let sum = self.load(at + 2);
        let blank = state == 0 && sequence == 0 && sum == 0;
        (blank || sum == checksum(self.zone, state, sequence))
            .then_some(Durable { state, sequence })
    }
}
