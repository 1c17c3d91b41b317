//! What readers need, from published [`Snapshot`]s alone: no table, no lock.

use zvb_wire::{Condition, Sector, ZoneDescriptor, ZoneType};

use crate::{Geometry, Refusal, Snapshot, ZoneId};

/// The write pointer that is reported where there is none. The specification leaves the value open; this
/// one is never a sector, and never changes.
const NO_POINTER: u64 = u64::MAX;

/// `zone` in `state`, as a zone report tells of it (virtio 5.2.6, ZONE_REPORT).
pub fn describe(geometry: &Geometry, zone: ZoneId, state: Snapshot) -> ZoneDescriptor {
    let start = geometry.start(zone).0;
    let kind = geometry.zone_type(zone);
    let pointer = match (kind, state.condition()) {
        (ZoneType::Conventional, _) | (_, Condition::NotWp | Condition::Offline) => NO_POINTER,
        (_, Condition::Full) => start + geometry.len(zone).0,
        (
            _,
            Condition::Empty
            | Condition::ImplicitOpen
            | Condition::ExplicitOpen
            | Condition::Closed
            | Condition::ReadOnly,
        ) => start + state.written().0,
    };
    ZoneDescriptor {
        z_cap: geometry.capacity(zone).0.into(),
        z_start: start.into(),
        z_wp: pointer.into(),
        z_type: kind as u8,
        z_state: state.condition() as u8,
        reserved: [0; 38],
    }
}

/// How to answer a read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadPlan {
    /// How many leading sectors of the range are data. The rest is unwritten, and reads as zeroes.
    pub data: Sector,
}

/// Decides a read of `sectors` from `at` on. Sectors of a sequential-required zone that were not written
/// since its last reset, those that FINISH skipped and those above its capacity read as zeroes (virtio
/// 5.2.6.2). Those of other zones are all data: their medium keeps zeroes where nothing was written.
pub fn check_read(
    geometry: &Geometry,
    at: Sector,
    sectors: Sector,
    snapshot_of: impl Fn(ZoneId) -> Snapshot,
) -> Result<ReadPlan, Refusal> {
    let Some((first, last)) = zones_of(geometry, at, sectors)? else {
        return Ok(ReadPlan { data: Sector::ZERO });
    };
    if first == last {
        // As nearly all reads are.
        let state = snapshot_of(first);
        if state.condition() == Condition::Offline {
            return Err(Refusal::ZoneOffline);
        }
        let data = match geometry.zone_type(first) {
            ZoneType::SequentialRequired => {
                let end_of_data = geometry.start(first).0 + state.written().0;
                sectors.min(Sector(end_of_data.saturating_sub(at.0)))
            }
            ZoneType::Conventional | ZoneType::SequentialPreferred => sectors,
        };
        return Ok(ReadPlan { data });
    }
    // Sequential-required zones are the last of the disk, where there are any.
    if geometry.zone_type(last) == ZoneType::SequentialRequired {
        return Err(Refusal::CrossesZones);
    }
    let offline = |zone| snapshot_of(ZoneId(zone)).condition() == Condition::Offline;
    if (first.0..=last.0).any(offline) {
        return Err(Refusal::ZoneOffline);
    }
    Ok(ReadPlan { data: sectors })
}

/// The first and the last zone that a range touches; `None` for nothing at the very end of the disk. An
/// empty range elsewhere touches the zone it is in.
pub(crate) fn zones_of(
    geometry: &Geometry,
    at: Sector,
    sectors: Sector,
) -> Result<Option<(ZoneId, ZoneId)>, Refusal> {
    let end = at.checked_add(sectors).ok_or(Refusal::OutOfRange)?;
    if end > geometry.spec().capacity {
        return Err(Refusal::OutOfRange);
    }
    let Some(first) = geometry.zone_of(at) else {
        return Ok(None);
    };
    // Most ranges lie in one zone, and a division is saved for them.
    let last_sector = Sector(end.0.saturating_sub(1).max(at.0));
    if last_sector.0 - geometry.start(first).0 < geometry.spec().zone_size.0 {
        return Ok(Some((first, first)));
    }
    Ok(geometry.zone_of(last_sector).map(|last| (first, last)))
}
