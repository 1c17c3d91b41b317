//! A zone's state in one machine word: what is published to readers, and what an image remembers.

use zvb_wire::{Condition, Sector};

/// A zone's condition, and how far it is written, in one word that can be loaded and stored at once.
///
/// [`written`](Self::written) is where the data ends, in sectors from the start of the zone. It stays
/// where it was when a zone is finished, so that the sectors that FINISH skipped are known to be
/// unwritten. It is 0 for a conventional zone, which has no write pointer.
///
/// Layout: the condition's number in bits 0 to 3, `written` in bits 4 to 36, zero above.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Snapshot(u64);

/// A word that no zone has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:#x} is no state of a zone")]
pub struct SnapshotError(pub u64);

impl Snapshot {
    /// Nothing written, no write pointer: a conventional zone.
    pub const CONVENTIONAL: Self = Self(Condition::NotWp as u64);
    /// Nothing written: a sequential zone at birth and after a reset.
    pub const EMPTY: Self = Self(Condition::Empty as u64);

    /// A zone in `condition`, its data `written` sectors long (at most 2^32, the largest zone there is).
    pub fn new(condition: Condition, written: Sector) -> Self {
        assert!(written.0 <= 1 << 32, "a zone of more than 2^32 sectors");
        Self(condition as u64 | written.0 << 4)
    }

    /// Its condition.
    pub fn condition(self) -> Condition {
        // Only what `new` and `from_bits` let through is ever inside.
        Condition::try_from((self.0 & 0xf) as u8).unwrap_or(Condition::Offline)
    }

    /// Where its data ends, in sectors from the start of the zone.
    pub fn written(self) -> Sector {
        Sector(self.0 >> 4)
    }

    /// The word.
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The state that `bits` stand for. Whether it fits a zone of some geometry is for the geometry to say.
    pub fn from_bits(bits: u64) -> Result<Self, SnapshotError> {
        let known = Condition::try_from((bits & 0xf) as u8).is_ok();
        if known && bits >> 4 <= 1 << 32 { Ok(Self(bits)) } else { Err(SnapshotError(bits)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_survives_the_word() {
        for condition in Condition::ALL {
            for written in [0, 1, 8, 0x8_0000, 1 << 32] {
                let s = Snapshot::new(condition, Sector(written));
                assert_eq!((s.condition(), s.written()), (condition, Sector(written)));
                assert_eq!(Snapshot::from_bits(s.to_bits()), Ok(s));
            }
        }
        assert!(Snapshot::from_bits(5).is_err());
        assert!(Snapshot::from_bits((1 << 37) | 1).is_err());
        assert!(Snapshot::from_bits(u64::MAX).is_err());
    }
}
