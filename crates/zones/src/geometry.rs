//! How a disk is divided into zones: fixed when it is made, but for the number of zones.

use zvb_wire::{Model, SECTOR_BYTES, Sector, ZoneType};

/// A zone by its place on the disk, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ZoneId(pub u32);

/// What a [`Geometry`] is made from. Lengths in 512-byte sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GeometrySpec {
    /// Host-managed or host-aware; [`Model::None`] is refused: a plain disk has no zones.
    pub model: Model,
    /// Size of the disk.
    pub capacity: Sector,
    /// Size of every zone but perhaps the last: any multiple of the write granularity.
    pub zone_size: Sector,
    /// What can be written of a sequential zone; at most `zone_size`. A last zone that is smaller than
    /// this can be written to its end. On a host-aware disk it is the zone size.
    pub zone_capacity: Sector,
    /// How many zones, from the start, are conventional.
    pub conventional: u32,
    /// Most open zones; 0 for no limit. On a host-aware disk it limits which zones are open, and not
    /// which can be written.
    pub max_open: u32,
    /// Most active zones; 0 for no limit. 0 on a host-aware disk.
    pub max_active: u32,
    /// Largest append; 0 when appends are not supported.
    pub max_append: Sector,
    /// What writes to sequential zones are aligned to and a multiple of: a power of two of at least 512
    /// *bytes*.
    pub write_granularity: u32,
}

/// Why a [`GeometrySpec`] makes no disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GeometryError {
    /// A plain disk has no zones.
    #[error("the model \"none\" has no zones")]
    NotZoned,
    /// Not a power of two from 512 on.
    #[error("the write granularity of {0} bytes is not a power of two of at least 512")]
    WriteGranularity(u32),
    /// Zero, or not a multiple of the write granularity, or past 2^32 - 1 sectors.
    #[error(
        "the zone size of {0} sectors is not a multiple of the write granularity from 1 to 2^32 - 1 sectors"
    )]
    ZoneSize(Sector),
    /// Zero, above the zone size, or not a multiple of the write granularity.
    #[error(
        "the zone capacity of {capacity} sectors is not a multiple of the write granularity of at most the zone size, {size} sectors"
    )]
    ZoneCapacity {
        /// The capacity asked for.
        capacity: Sector,
        /// The size of a zone.
        size: Sector,
    },
    /// Zero, or not a multiple of the write granularity, or past 2^63 bytes.
    #[error(
        "the size of {0} sectors is zero, not a multiple of the write granularity, or too large"
    )]
    Capacity(Sector),
    /// More zones than a disk may have here.
    #[error("{count} zones are more than {limit}")]
    TooManyZones {
        /// How many it would be.
        count: u64,
        /// The most there can be.
        limit: u32,
    },
    /// More conventional zones than zones.
    #[error("{conventional} conventional zones are more than the {count} zones of the disk")]
    Conventional {
        /// How many were asked for.
        conventional: u32,
        /// How many zones there are.
        count: u32,
    },
    /// An open limit above the active limit can never be reached.
    #[error("the limit of {max_open} open zones is above the limit of {max_active} active zones")]
    Limits {
        /// The open limit.
        max_open: u32,
        /// The active limit.
        max_active: u32,
    },
    /// A host-aware disk takes a write to any zone, open or not, so there is nothing to limit.
    #[error(
        "a host-aware disk takes writes anywhere, so it has no limit of active zones, and {max_active} is one"
    )]
    HostAwareActiveLimit {
        /// The active limit asked for.
        max_active: u32,
    },
    /// A host-aware disk takes a write to any sector, so all of a zone can be written.
    #[error(
        "a host-aware disk takes writes anywhere, so its zones of {size} sectors can not have a capacity of {capacity}"
    )]
    HostAwareZoneCapacity {
        /// The zone capacity asked for.
        capacity: Sector,
        /// The size of a zone.
        size: Sector,
    },
    /// Not a multiple of the write granularity, or past 2^32 - 1 sectors.
    #[error("the append limit of {0} sectors is not a multiple of the write granularity")]
    MaxAppend(Sector),
}

/// How a disk is divided into zones, checked: whatever it answers is inside the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    spec: GeometrySpec,
    zones: u32,
}

impl Geometry {
    /// The most zones that a disk may have: 2^22, which bounds what a table of them costs.
    pub const MAX_ZONES: u32 = 1 << 22;

    /// Checks `spec`.
    pub fn new(spec: GeometrySpec) -> Result<Self, GeometryError> {
        if spec.model == Model::None {
            return Err(GeometryError::NotZoned);
        }
        let granularity = spec.write_granularity;
        if !granularity.is_power_of_two() || u64::from(granularity) < SECTOR_BYTES {
            return Err(GeometryError::WriteGranularity(granularity));
        }
        let granule = Sector(u64::from(granularity) / SECTOR_BYTES);
        let counts = |n: Sector| n.is_multiple_of(granule) && n.0 <= u64::from(u32::MAX);
        if spec.zone_size == Sector::ZERO || !counts(spec.zone_size) {
            return Err(GeometryError::ZoneSize(spec.zone_size));
        }
        let (capacity, size) = (spec.zone_capacity, spec.zone_size);
        if capacity == Sector::ZERO || capacity > size || !counts(capacity) {
            return Err(GeometryError::ZoneCapacity { capacity, size });
        }
        let zones = count_zones(&spec)?;
        if spec.max_active != 0 && spec.max_open > spec.max_active {
            return Err(GeometryError::Limits {
                max_open: spec.max_open,
                max_active: spec.max_active,
            });
        }
        if !counts(spec.max_append) {
            return Err(GeometryError::MaxAppend(spec.max_append));
        }
        if spec.model == Model::HostAware {
            takes_writes_anywhere(&spec)?;
        }
        Ok(Self { spec, zones })
    }

    /// The same zones on a disk of another size: more of them, or fewer, and another last one. Cheap.
    pub fn with_capacity(&self, capacity: Sector) -> Result<Self, GeometryError> {
        let spec = GeometrySpec { capacity, ..self.spec };
        let zones = count_zones(&spec)?;
        Ok(Self { spec, zones })
    }

    /// What it was made from.
    pub fn spec(&self) -> &GeometrySpec {
        &self.spec
    }

    /// How many zones there are.
    pub fn zone_count(&self) -> u32 {
        self.zones
    }

    /// The zones, in order.
    pub fn zones(&self) -> impl ExactSizeIterator<Item = ZoneId> + DoubleEndedIterator + use<> {
        (0..self.zones).map(ZoneId)
    }

    /// The zone that holds `sector`; `None` past the end of the disk.
    pub fn zone_of(&self, sector: Sector) -> Option<ZoneId> {
        let size = self.spec.zone_size.0;
        // Nearly always a power of two, and a division is what every request would wait for.
        let zone = if size.is_power_of_two() {
            sector.0 >> size.trailing_zeros()
        } else {
            sector.0 / size
        };
        (sector < self.spec.capacity).then_some(ZoneId(zone as u32))
    }

    /// The first sector of `zone`.
    pub fn start(&self, zone: ZoneId) -> Sector {
        Sector(u64::from(zone.0) * self.spec.zone_size.0)
    }

    /// The size of `zone`: smaller than the zone size only for the last one.
    pub fn len(&self, zone: ZoneId) -> Sector {
        Sector(self.spec.zone_size.0.min(self.spec.capacity.0.saturating_sub(self.start(zone).0)))
    }

    /// What can be written of `zone`. All of it when it is conventional.
    pub fn capacity(&self, zone: ZoneId) -> Sector {
        match self.zone_type(zone) {
            ZoneType::Conventional => self.len(zone),
            _ => self.spec.zone_capacity.min(self.len(zone)),
        }
    }

    /// Conventional zones come first, all others are of the kind that the model has.
    pub fn zone_type(&self, zone: ZoneId) -> ZoneType {
        if zone.0 < self.spec.conventional {
            ZoneType::Conventional
        } else if self.spec.model == Model::HostAware {
            ZoneType::SequentialPreferred
        } else {
            ZoneType::SequentialRequired
        }
    }

    /// What writes to sequential zones are aligned to and a multiple of, in 512-byte sectors.
    pub fn granule(&self) -> Sector {
        Sector(u64::from(self.spec.write_granularity) / SECTOR_BYTES)
    }
}

/// How many zones `spec` has, whose granularity and zone size are right.
fn count_zones(spec: &GeometrySpec) -> Result<u32, GeometryError> {
    let GeometrySpec { capacity, conventional, .. } = *spec;
    let granule = u64::from(spec.write_granularity) / SECTOR_BYTES;
    if capacity == Sector::ZERO
        // The granule is a power of two.
        || capacity.0 & granule.saturating_sub(1) != 0
        || capacity.to_bytes().is_none_or(|bytes| bytes > i64::MAX as u64)
    {
        return Err(GeometryError::Capacity(capacity));
    }
    let count = capacity.0.div_ceil(spec.zone_size.0);
    if count > u64::from(Geometry::MAX_ZONES) {
        return Err(GeometryError::TooManyZones { count, limit: Geometry::MAX_ZONES });
    }
    let count = count as u32;
    if conventional > count {
        return Err(GeometryError::Conventional { conventional, count });
    }
    Ok(count)
}

/// Refuses what would keep a write from a sequential-preferred zone: a guest that takes the disk for a
/// plain one (virtio 5.2.6.2) writes everywhere, and knows of no limit.
fn takes_writes_anywhere(spec: &GeometrySpec) -> Result<(), GeometryError> {
    let GeometrySpec { max_active, zone_capacity: capacity, zone_size: size, .. } = *spec;
    if max_active != 0 {
        return Err(GeometryError::HostAwareActiveLimit { max_active });
    }
    if capacity != size {
        return Err(GeometryError::HostAwareZoneCapacity { capacity, size });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: GeometrySpec = GeometrySpec {
        model: Model::HostManaged,
        capacity: Sector(8 * 24 * 3 + 16),
        zone_size: Sector(8 * 24),
        zone_capacity: Sector(8 * 20),
        conventional: 1,
        max_open: 2,
        max_active: 3,
        max_append: Sector(64),
        write_granularity: 4096,
    };

    #[test]
    fn zones_divide_the_disk() {
        let g = Geometry::new(SPEC).unwrap();
        assert_eq!(g.zone_count(), 4);
        let total: u64 = g.zones().map(|z| g.len(z).0).sum();
        assert_eq!(total, SPEC.capacity.0);
        assert_eq!(g.zone_of(Sector(191)), Some(ZoneId(0)));
        assert_eq!(g.zone_of(Sector(192)), Some(ZoneId(1)));
        assert_eq!(g.zone_of(SPEC.capacity), None);
        assert_eq!(g.capacity(ZoneId(0)), Sector(192));
        assert_eq!(g.capacity(ZoneId(1)), Sector(160));
        assert_eq!((g.len(ZoneId(3)), g.capacity(ZoneId(3))), (Sector(16), Sector(16)));
        assert_eq!(g.zone_type(ZoneId(0)), ZoneType::Conventional);
        assert_eq!(g.zone_type(ZoneId(1)), ZoneType::SequentialRequired);
    }

    #[test]
    fn what_makes_no_disk_is_refused_with_the_reason() {
        let refused = |change: fn(&mut GeometrySpec)| {
            let mut spec = SPEC;
            change(&mut spec);
            Geometry::new(spec).unwrap_err()
        };
        use GeometryError as E;
        assert_eq!(refused(|s| s.model = Model::None), E::NotZoned);
        assert_eq!(refused(|s| s.write_granularity = 0), E::WriteGranularity(0));
        assert_eq!(refused(|s| s.write_granularity = 256), E::WriteGranularity(256));
        assert_eq!(refused(|s| s.write_granularity = 1536), E::WriteGranularity(1536));
        assert_eq!(refused(|s| s.zone_size = Sector(0)), E::ZoneSize(Sector(0)));
        assert_eq!(refused(|s| s.zone_size = Sector(9)), E::ZoneSize(Sector(9)));
        assert_eq!(refused(|s| s.zone_size = Sector(1 << 32)), E::ZoneSize(Sector(1 << 32)));
        let capacity = |c| E::ZoneCapacity { capacity: Sector(c), size: SPEC.zone_size };
        assert_eq!(refused(|s| s.zone_capacity = Sector(0)), capacity(0));
        assert_eq!(refused(|s| s.zone_capacity = Sector(200)), capacity(200));
        assert_eq!(refused(|s| s.zone_capacity = Sector(4)), capacity(4));
        assert_eq!(refused(|s| s.capacity = Sector(0)), E::Capacity(Sector(0)));
        assert_eq!(
            refused(|s| s.capacity = Sector(u64::MAX - 7)),
            E::Capacity(Sector(u64::MAX - 7))
        );
        assert!(matches!(refused(|s| s.capacity = Sector(1 << 50)), E::TooManyZones { .. }));
        assert_eq!(refused(|s| s.conventional = 5), E::Conventional { conventional: 5, count: 4 });
        assert_eq!(refused(|s| s.max_open = 4), E::Limits { max_open: 4, max_active: 3 });
        assert_eq!(refused(|s| s.max_append = Sector(4)), E::MaxAppend(Sector(4)));
    }

    #[test]
    fn a_host_aware_disk_has_nothing_that_keeps_a_write_out() {
        let spec = GeometrySpec {
            model: Model::HostAware,
            zone_capacity: SPEC.zone_size,
            max_active: 0,
            ..SPEC
        };
        let g = Geometry::new(spec).unwrap();
        assert!(g.zones().all(|zone| g.capacity(zone) == g.len(zone)));
        assert_eq!(
            Geometry::new(GeometrySpec { max_active: 3, ..spec }),
            Err(GeometryError::HostAwareActiveLimit { max_active: 3 })
        );
        let (capacity, size) = (SPEC.zone_capacity, SPEC.zone_size);
        assert_eq!(
            Geometry::new(GeometrySpec { zone_capacity: capacity, ..spec }),
            Err(GeometryError::HostAwareZoneCapacity { capacity, size })
        );
    }
}
