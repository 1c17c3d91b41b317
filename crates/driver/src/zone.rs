//! Zones, as a report tells of them, believed only after a check (virtio 5.2.6, ZONE_REPORT).

use alloc::vec::Vec;

use zvb_wire::zerocopy::FromBytes;
use zvb_wire::{Condition, Sector, ZoneDescriptor, ZoneReportHeader, ZoneType};

use crate::dma::Buffer;
use crate::error::{Lie, RequestError};
use crate::info::ZonedInfo;
use crate::transport::Dma;

const HEADER_BYTES: usize = ZoneReportHeader::BYTES as usize;
const DESCRIPTOR_BYTES: usize = ZoneDescriptor::BYTES as usize;
/// The smallest buffer that tells of a zone.
pub(crate) const REPORT_BYTES_MIN: usize = HEADER_BYTES + DESCRIPTOR_BYTES;

/// The bytes of a report of `zones` zones.
pub(crate) fn report_bytes(zones: usize) -> usize {
    zones.saturating_mul(DESCRIPTOR_BYTES).saturating_add(HEADER_BYTES)
}

/// How many zones a report of `bytes` bytes has room for.
pub(crate) fn report_room(bytes: usize) -> usize {
    bytes.saturating_sub(HEADER_BYTES) / DESCRIPTOR_BYTES
}

/// A zone of the disk. All in 512-byte sectors, from the start of the disk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Zone {
    /// Its first sector.
    pub start: Sector,
    /// Its size: that of all zones, but the last may be smaller.
    pub len: Sector,
    /// What can be written of it, at most `len`.
    pub capacity: Sector,
    /// Where the next write must go, from `start` to `start + capacity`. `None` where there is no such
    /// place: in conventional, full, read-only and offline zones.
    pub write_pointer: Option<Sector>,
    /// Its type.
    pub zone_type: ZoneType,
    /// Its condition.
    pub condition: Condition,
}

impl Zone {
    /// How many sectors can still be written at the write pointer; 0 where there is none.
    pub fn remaining(&self) -> Sector {
        let end = self.start.checked_add(self.capacity);
        match (end, self.write_pointer) {
            (Some(end), Some(at)) => end.checked_sub(at).unwrap_or(Sector::ZERO),
            _ => Sector::ZERO,
        }
    }

    /// What `descriptor` says of the zone that starts at `start` and is `len` long, if that can be true.
    fn parse(descriptor: &ZoneDescriptor, start: Sector, len: Sector) -> Result<Self, Lie> {
        let value = descriptor.z_type;
        let zone_type = ZoneType::try_from(value).map_err(|_| Lie::ZoneType { start, value })?;
        let value = descriptor.z_state;
        let condition = Condition::try_from(value).map_err(|_| Lie::Condition { start, value })?;
        let conventional = zone_type == ZoneType::Conventional;
        // Read-only and offline can happen to any zone; all else goes with its type.
        let either = matches!(condition, Condition::ReadOnly | Condition::Offline);
        if !either && conventional != (condition == Condition::NotWp) {
            return Err(Lie::TypeAndCondition { start, zone_type, condition });
        }
        let capacity = Sector(descriptor.z_cap.get());
        if capacity > len {
            return Err(Lie::ZoneCapacity { start, capacity, len });
        }
        let write_pointer = match condition {
            Condition::Empty => Some(start..=start),
            Condition::ImplicitOpen | Condition::ExplicitOpen | Condition::Closed => {
                // No overflow: the zone ends inside the disk.
                Some(start..=Sector(start.0.saturating_add(capacity.0)))
            }
            _ => None,
        };
        let at = Sector(descriptor.z_wp.get());
        let write_pointer = match write_pointer {
            Some(allowed) if allowed.contains(&at) => Some(at),
            Some(_) => return Err(Lie::WritePointer { start, write_pointer: at }),
            None => None,
        };
        Ok(Self { start, len, capacity, write_pointer, zone_type, condition })
    }
}

/// The zones of a report that the device says is `written` bytes long, of the zones from the one that
/// holds `from` on, on a disk of `capacity`. Each byte is read once.
pub(crate) fn parse_report<D: Dma>(
    capacity: Sector,
    zoned: &ZonedInfo,
    from: Sector,
    buffer: &Buffer<D>,
    written: u32,
) -> Result<Vec<Zone>, RequestError> {
    let short = |expected: u64| {
        let expected = u32::try_from(expected).unwrap_or(u32::MAX);
        RequestError::Lie(Lie::Short { written, expected })
    };
    let header: [u8; HEADER_BYTES] = buffer.copy(0).ok_or(short(HEADER_BYTES as u64))?;
    let nr_zones = match ZoneReportHeader::read_from_bytes(&header) {
        Ok(header) if written >= ZoneReportHeader::BYTES => header.nr_zones.get(),
        _ => return Err(short(HEADER_BYTES as u64)),
    };
    let room = report_room(buffer.len()) as u64;
    if nr_zones > room {
        return Err(RequestError::Lie(Lie::ZoneCount { nr_zones, room }));
    }
    // Inside the buffer, so neither can overflow.
    let count = nr_zones as usize;
    if report_bytes(count) as u64 > u64::from(written) {
        return Err(short(report_bytes(count) as u64));
    }
    let mut zones = Vec::new();
    zones.try_reserve_exact(count).map_err(|_| RequestError::NoMemory)?;
    let mut expected = zoned.zone_start(from);
    for index in 0..count {
        let bytes: [u8; DESCRIPTOR_BYTES] =
            buffer.copy(report_bytes(index)).ok_or(short(report_bytes(count) as u64))?;
        let Ok(descriptor) = ZoneDescriptor::read_from_bytes(&bytes) else {
            return Err(short(report_bytes(count) as u64));
        };
        let (start, index) = (Sector(descriptor.z_start.get()), index as u64);
        if start != expected {
            return Err(RequestError::Lie(Lie::ZoneStart { index, start, expected }));
        }
        let len = match capacity.checked_sub(start) {
            None | Some(Sector::ZERO) => {
                return Err(RequestError::Lie(Lie::PastCapacity { index, start }));
            }
            Some(rest) => rest.min(zoned.zone_size),
        };
        zones.push(Zone::parse(&descriptor, start, len).map_err(RequestError::Lie)?);
        expected = Sector(start.0.saturating_add(zoned.zone_size.0));
    }
    Ok(zones)
}
