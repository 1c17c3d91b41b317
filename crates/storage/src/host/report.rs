//! From what the kernel says of a zoned block device to a geometry and the states of its zones: everything
//! checked, since not every disk can be told of in virtio's words.

use zvb_wire::{Condition, Model, SECTOR_BYTES, Sector, ZoneType};
use zvb_zones::{Geometry, GeometryError, GeometrySpec, Snapshot, ZoneId};

use super::attributes::Attributes;
use crate::sys::RawZone;

/// What a virtio device can not be made of.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostLayoutError {
    /// No zones at all.
    #[error("it says that it is zoned, and has no zones")]
    NoZones,
    /// There is a gap, or an overlap, or a zone of another size.
    #[error("zone {zone} is {len} sectors at {start}, and not the next of equal size")]
    Uneven {
        /// Which.
        zone: u32,
        /// Its first sector.
        start: Sector,
        /// Its size.
        len: Sector,
    },
    /// A conventional zone behind a sequential one.
    #[error(
        "zone {0} is conventional, and stands behind sequential zones; only disks whose conventional zones all come first can be served"
    )]
    Conventional(u32),
    /// A zone with another capacity.
    #[error(
        "zone {zone} has a capacity of {capacity} sectors, and zones before it {expected}; only disks whose zones all have the same can be served"
    )]
    Capacity {
        /// Which.
        zone: u32,
        /// What it has.
        capacity: Sector,
        /// What others have.
        expected: Sector,
    },
    /// A type that the model does not have, or a number that stands for none.
    #[error("zone {zone} has type {kind}, which zones of such a disk do not have")]
    Type {
        /// Which.
        zone: u32,
        /// The type's number.
        kind: u8,
    },
    /// A number that stands for none, or a write pointer outside the zone.
    #[error("zone {zone} is in condition {condition} with its write pointer at {pointer}")]
    State {
        /// Which.
        zone: u32,
        /// The condition's number.
        condition: u8,
        /// The write pointer.
        pointer: Sector,
    },
    /// The sizes and limits make no disk.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
}

/// The geometry that `zones` of a disk with `attributes` make, all of them in order.
pub(super) fn geometry_of(
    model: Model,
    attributes: &Attributes,
    zones: &[RawZone],
) -> Result<Geometry, HostLayoutError> {
    let Some(first) = zones.first() else { return Err(HostLayoutError::NoZones) };
    let size = first.len;
    let mut conventional = 0;
    let mut capacity = None;
    for (number, zone) in (0u32..).zip(zones) {
        let expected = u64::from(number).saturating_mul(size);
        let last = number as usize + 1 == zones.len();
        let fits = zone.len == size
            || (last && zone.len < size && expected.saturating_add(zone.len) == attributes.sectors);
        if zone.start != expected || !fits {
            let (start, len) = (Sector(zone.start), Sector(zone.len));
            return Err(HostLayoutError::Uneven { zone: number, start, len });
        }
        if type_of(model, number, zone)? == ZoneType::Conventional {
            if number != conventional {
                return Err(HostLayoutError::Conventional(number));
            }
            conventional = number.saturating_add(1);
            continue;
        }
        let (has, most) = (capacity_of(zone), *capacity.get_or_insert(capacity_of(zone)));
        if has != most.min(zone.len) {
            let (capacity, expected) = (Sector(has), Sector(most));
            return Err(HostLayoutError::Capacity { zone: number, capacity, expected });
        }
    }
    let (max_open, max_active) = (attributes.max_open, attributes.max_active);
    let host_aware = model == Model::HostAware;
    Ok(Geometry::new(GeometrySpec {
        model,
        capacity: Sector(attributes.sectors),
        zone_size: Sector(size),
        zone_capacity: Sector(capacity.filter(|_| !host_aware).unwrap_or(size)),
        conventional,
        max_open: if max_active == 0 { max_open } else { max_open.min(max_active) },
        // A host-aware disk takes writes anywhere: it has no such limit.
        max_active: if host_aware { 0 } else { max_active },
        max_append: attributes.max_append(capacity.unwrap_or(size)),
        write_granularity: attributes.write_granularity,
    })?)
}

/// What can be written of `zone`.
fn capacity_of(zone: &RawZone) -> u64 {
    if zone.capacity == 0 { zone.len } else { zone.capacity }
}

fn type_of(model: Model, number: u32, zone: &RawZone) -> Result<ZoneType, HostLayoutError> {
    let wrong = HostLayoutError::Type { zone: number, kind: zone.kind };
    match ZoneType::try_from(zone.kind) {
        Ok(ZoneType::SequentialRequired) if model != Model::HostManaged => Err(wrong),
        Ok(ZoneType::SequentialPreferred) if model != Model::HostAware => Err(wrong),
        Ok(kind) => Ok(kind),
        Err(_) => Err(wrong),
    }
}

/// The state that `told` is of `zone`.
pub(super) fn state_of(
    geometry: &Geometry,
    zone: ZoneId,
    told: &RawZone,
) -> Result<Snapshot, HostLayoutError> {
    let wrong = HostLayoutError::State {
        zone: zone.0,
        condition: told.condition,
        pointer: Sector(told.write_pointer),
    };
    let Ok(condition) = Condition::try_from(told.condition) else { return Err(wrong) };
    let capacity = geometry.capacity(zone);
    let conventional = geometry.zone_type(zone) == ZoneType::Conventional;
    let written = match condition {
        Condition::Empty | Condition::NotWp | Condition::Offline => Sector::ZERO,
        _ if conventional => Sector::ZERO,
        // All of it may be read. (Such zones have no valid pointer.)
        Condition::Full | Condition::ReadOnly => capacity,
        Condition::ImplicitOpen | Condition::ExplicitOpen | Condition::Closed => {
            let start = geometry.start(zone).0;
            match told.write_pointer.checked_sub(start) {
                Some(written) if written <= capacity.0 => Sector(written),
                _ => return Err(wrong),
            }
        }
    };
    let has_pointer = condition != Condition::NotWp;
    let dead = matches!(condition, Condition::ReadOnly | Condition::Offline);
    if conventional == has_pointer && !dead {
        return Err(wrong);
    }
    Ok(Snapshot::new(condition, written))
}

impl Attributes {
    /// Largest append: what the disk takes at once, in whole blocks, and no more than a zone holds.
    fn max_append(&self, zone_capacity: u64) -> Sector {
        let granule = u64::from(self.write_granularity) / SECTOR_BYTES;
        let most = self.max_append_bytes / SECTOR_BYTES;
        let most = most.min(zone_capacity).min(u64::from(u32::MAX));
        Sector(most - most % granule.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(sectors: u64) -> Attributes {
        Attributes {
            sectors,
            max_open: 3,
            max_active: 4,
            max_append_bytes: 100 << 10,
            write_granularity: 4096,
            block_size: 512,
            ..Attributes::default()
        }
    }

    fn zone(number: u64, kind: u8, condition: u8, written: u64) -> RawZone {
        let start = number * 64;
        let write_pointer = start + written;
        RawZone {
            start,
            len: 64,
            write_pointer,
            kind,
            condition,
            capacity: 48,
            ..Default::default()
        }
    }

    /// One conventional zone, four of the other kind, the last one short.
    fn disk() -> Vec<RawZone> {
        let mut zones: Vec<_> = (0..5).map(|n| zone(n, 2, 1, 0)).collect();
        zones[0] = RawZone { kind: 1, condition: 0, capacity: 64, ..zones[0] };
        zones[4] = RawZone { len: 32, capacity: 32, ..zones[4] };
        zones
    }

    const SECTORS: u64 = 64 * 4 + 32;

    #[test]
    fn a_disk_is_taken_as_it_is() {
        let geometry = geometry_of(Model::HostManaged, &attributes(SECTORS), &disk()).unwrap();
        let spec = geometry.spec();
        assert_eq!((spec.zone_size, spec.zone_capacity), (Sector(64), Sector(48)));
        assert_eq!((spec.conventional, geometry.zone_count()), (1, 5));
        assert_eq!((spec.max_open, spec.max_active, spec.write_granularity), (3, 4, 4096));
        assert_eq!(spec.max_append, Sector(48), "whole blocks of no more than a zone's capacity");
        // Limits that make no sense together are brought together.
        let odd = Attributes { max_open: 9, max_append_bytes: 5000, ..attributes(SECTORS) };
        let geometry = geometry_of(Model::HostManaged, &odd, &disk()).unwrap();
        assert_eq!((geometry.spec().max_open, geometry.spec().max_append), (4, Sector(8)));
    }

    #[test]
    fn what_virtio_can_not_tell_of_is_refused() {
        let check = |change: &dyn Fn(&mut Vec<RawZone>)| {
            let mut zones = disk();
            change(&mut zones);
            geometry_of(Model::HostManaged, &attributes(SECTORS), &zones).unwrap_err()
        };
        assert_eq!(check(&|z| z.clear()), HostLayoutError::NoZones);
        assert_eq!(
            check(&|z| z[3] = RawZone { kind: 1, capacity: 64, ..z[3] }),
            HostLayoutError::Conventional(3)
        );
        assert!(matches!(check(&|z| z[2].len = 32), HostLayoutError::Uneven { zone: 2, .. }));
        assert!(matches!(check(&|z| z[2].start = 0), HostLayoutError::Uneven { zone: 2, .. }));
        assert!(matches!(check(&|z| z[4].len = 16), HostLayoutError::Uneven { zone: 4, .. }));
        assert!(matches!(
            check(&|z| z[2].capacity = 40),
            HostLayoutError::Capacity { zone: 2, .. }
        ));
        assert!(matches!(check(&|z| z[2].kind = 3), HostLayoutError::Type { zone: 2, kind: 3 }));
        assert!(matches!(check(&|z| z[2].kind = 9), HostLayoutError::Type { zone: 2, kind: 9 }));
    }

    #[test]
    fn conditions_and_pointers_are_checked() {
        let geometry = geometry_of(Model::HostManaged, &attributes(SECTORS), &disk()).unwrap();
        let state = |condition, written| {
            state_of(&geometry, ZoneId(2), &zone(2, 2, condition, written)).ok()
        };
        let is = |condition, written| Some(Snapshot::new(condition, Sector(written)));
        assert_eq!(state(1, 0), is(Condition::Empty, 0));
        assert_eq!(state(2, 8), is(Condition::ImplicitOpen, 8));
        assert_eq!(state(3, 0), is(Condition::ExplicitOpen, 0));
        assert_eq!(state(4, 48), is(Condition::Closed, 48));
        assert_eq!(state(14, 64), is(Condition::Full, 48));
        assert_eq!(state(13, u64::MAX >> 1), is(Condition::ReadOnly, 48));
        assert_eq!(state(15, 0), is(Condition::Offline, 0));
        assert_eq!(state(4, 49), None, "past the capacity");
        assert_eq!(state(0, 0), None, "a sequential zone has a write pointer");
        assert_eq!(state(7, 0), None, "no condition");
        let before = RawZone { write_pointer: 5, ..zone(2, 2, 4, 0) };
        assert!(state_of(&geometry, ZoneId(2), &before).is_err());
        let conventional =
            |condition| state_of(&geometry, ZoneId(0), &zone(0, 1, condition, 0)).ok();
        assert_eq!(conventional(0), Some(Snapshot::CONVENTIONAL));
        assert_eq!(conventional(1), None);
        assert_eq!(conventional(13), is(Condition::ReadOnly, 0));
    }
}
