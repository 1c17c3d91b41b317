//! A disk that gets larger while it is in use.

use zvb_wire::{Sector, ZoneType};

use crate::table::Zone;
use crate::{GeometryError, Snapshot, ZoneId, Zones};

/// Why a disk does not get larger.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GrowError {
    /// A size that no disk with such zones has.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// A disk in use does not lose sectors.
    #[error("the disk has {from} sectors, and {to} are fewer: it can only grow")]
    Shrinks {
        /// What it has.
        from: Sector,
        /// What was asked for.
        to: Sector,
    },
}

impl Zones {
    /// Makes the disk `capacity` sectors large, whatever is in flight and whoever waits. All zones stay what
    /// they are; a last zone that was smaller than the others can be written further from now on (one that
    /// is full stays full, as if it had been finished); zones after it are new.
    pub fn grow(&mut self, capacity: Sector) -> Result<(), GrowError> {
        let from = self.geometry.spec().capacity;
        if capacity < from {
            return Err(GrowError::Shrinks { from, to: capacity });
        }
        let geometry = self.geometry.with_capacity(capacity)?;
        let born = |zone: u32| match geometry.zone_type(ZoneId(zone)) {
            ZoneType::Conventional => Snapshot::CONVENTIONAL,
            _ => Snapshot::EMPTY,
        };
        let new = self.geometry.zone_count()..geometry.zone_count();
        self.zones.extend(new.map(|zone| Zone::new(born(zone))));
        self.geometry = geometry;
        Ok(())
    }
}
