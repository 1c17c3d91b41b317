//! The table as a medium remembers it.

use zvb_wire::{Condition, Sector, ZoneType};

use crate::{Geometry, Snapshot, ZoneId, Zones};

/// Why remembered states are not those of a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// Not one state for each zone.
    #[error("{found} zone states for {expected} zones")]
    Count {
        /// How many there are.
        found: usize,
        /// How many zones the disk has.
        expected: u32,
    },
    /// A condition that a zone of its type never has.
    #[error("zone {} is a {kind:?} zone and can not be {condition:?}", zone.0)]
    Condition {
        /// Which.
        zone: ZoneId,
        /// Its type.
        kind: ZoneType,
        /// The condition it is said to be in.
        condition: Condition,
    },
    /// Written past its capacity, or not in multiples of the write granularity, or empty and yet
    /// written, or written without a write pointer.
    #[error("zone {} can not be {condition:?} with {written} sectors written", zone.0)]
    Written {
        /// Which.
        zone: ZoneId,
        /// The condition it is said to be in.
        condition: Condition,
        /// Where its data is said to end, in 512-byte sectors from its start.
        written: Sector,
    },
    /// More active zones than there may be.
    #[error("{active} active zones are more than the limit of {limit}")]
    TooManyActive {
        /// How many it would be.
        active: u32,
        /// The limit.
        limit: u32,
    },
}

impl Zones {
    /// The zones after a restart, from what was remembered of each: full, read-only and offline zones and
    /// all write pointers are as they were, and open zones are closed, or empty when nothing was written.
    /// Zones whose state is not what was remembered are given by [`take_changed`](Self::take_changed).
    pub fn restore(geometry: Geometry, states: &[Snapshot]) -> Result<Self, RestoreError> {
        let expected = geometry.zone_count();
        if states.len() != expected as usize {
            return Err(RestoreError::Count { found: states.len(), expected });
        }
        let mut table = Self::new(geometry);
        for (zone, &state) in geometry.zones().zip(states) {
            let rested = rest(&geometry, zone, state)?;
            table.put(zone, rested);
            if rested != state {
                table.mark_changed(zone);
            }
        }
        let (active, limit) = (table.counts().active(), geometry.spec().max_active);
        if limit != 0 && active > limit {
            return Err(RestoreError::TooManyActive { active, limit });
        }
        Ok(table)
    }
}

/// The state that `zone`, remembered as `state`, has after a restart.
pub(crate) fn rest(
    geometry: &Geometry,
    zone: ZoneId,
    state: Snapshot,
) -> Result<Snapshot, RestoreError> {
    let kind = geometry.zone_type(zone);
    let (condition, written) = (state.condition(), state.written());
    let capacity = geometry.capacity(zone);
    let fits = match kind {
        ZoneType::Conventional => written == Sector::ZERO,
        ZoneType::SequentialRequired => {
            written <= capacity && written.is_multiple_of(geometry.granule())
        }
        ZoneType::SequentialPreferred => written <= capacity,
    };
    let wrong_length = RestoreError::Written { zone, condition, written };
    if !fits {
        return Err(wrong_length);
    }
    match (kind, condition) {
        (_, Condition::ReadOnly | Condition::Offline)
        | (ZoneType::Conventional, Condition::NotWp) => Ok(state),
        (ZoneType::Conventional, _) | (_, Condition::NotWp) => {
            Err(RestoreError::Condition { zone, kind, condition })
        }
        (_, Condition::Empty) if written != Sector::ZERO => Err(wrong_length),
        (_, Condition::Empty | Condition::Full) => Ok(state),
        (_, Condition::ImplicitOpen | Condition::ExplicitOpen | Condition::Closed) => {
            Ok(if written == Sector::ZERO {
                Snapshot::EMPTY
            } else if written == capacity {
                Snapshot::new(Condition::Full, written)
            } else {
                Snapshot::new(Condition::Closed, written)
            })
        }
    }
}
