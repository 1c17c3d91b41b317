//! What the fake device stores: bytes, and zones with just enough rules to be driven by.

use zerocopy::{FromBytes, IntoBytes};
use zvb_wire::{Condition, DiscardSegment, RequestType, Status, ZoneDescriptor, ZoneReportHeader};

use super::Reply;

/// A zone, in 512-byte sectors.
#[derive(Clone, Copy)]
pub struct FakeZone {
    pub start: u64,
    pub len: u64,
    pub capacity: u64,
    pub pointer: u64,
    pub conventional: bool,
    pub condition: Condition,
}

/// A disk in memory.
pub struct FakeDisk {
    pub bytes: Vec<u8>,
    pub zones: Vec<FakeZone>,
    /// Sequential zones are preferred ones, as a host-aware disk has them.
    pub preferred: bool,
}

impl FakeDisk {
    pub fn plain(sectors: u64) -> Self {
        Self { bytes: vec![0; sectors as usize * 512], zones: Vec::new(), preferred: false }
    }

    pub fn zoned(sectors: u64, size: u64, capacity: u64, conventional: u64) -> Self {
        let zone = |index: u64| {
            let (start, conventional) = (index * size, index < conventional);
            let len = size.min(sectors - start);
            FakeZone {
                start,
                len,
                capacity: if conventional { len } else { capacity.min(len) },
                pointer: start,
                conventional,
                condition: if conventional { Condition::NotWp } else { Condition::Empty },
            }
        };
        Self { zones: (0..sectors.div_ceil(size)).map(zone).collect(), ..Self::plain(sectors) }
    }

    pub fn serve(&mut self, kind: RequestType, sector: u64, data: &[u8], room: usize) -> Reply {
        let mut reply =
            Reply { data: Vec::new(), append_sector: None, status: Some(0), written: None };
        let at = sector as usize * 512;
        let status = match kind {
            RequestType::IN => {
                let one_zone = self.zone(sector).is_none_or(|z| {
                    z.conventional || sector + room as u64 / 512 <= z.start + z.len
                });
                reply.data = self.bytes[at..at + room].to_vec();
                if one_zone { Status::OK } else { Status::ZONE_INVALID_CMD }
            }
            RequestType::OUT => self.write(sector, data),
            RequestType::ZONE_APPEND if self.preferred => Status::ZONE_INVALID_CMD,
            RequestType::ZONE_APPEND => {
                let zone = self.zone(sector).expect("a zone");
                let (at, full) = (zone.pointer, zone.condition == Condition::Full);
                reply.append_sector = Some(at);
                if full { Status::ZONE_INVALID_CMD } else { self.write(at, data) }
            }
            RequestType::ZONE_REPORT => {
                reply.data = self.report(sector, room);
                Status::OK
            }
            RequestType::FLUSH => Status::OK,
            RequestType::GET_ID => {
                reply.data = b"fake disk\0\0\0\0\0\0\0\0\0\0\0".to_vec();
                Status::OK
            }
            RequestType::GET_LIFETIME => {
                reply.data = vec![1, 0, 2, 0, 11, 0];
                Status::OK
            }
            RequestType::SECURE_ERASE if !self.zones.is_empty() => {
                for range in <[DiscardSegment]>::ref_from_bytes(data).expect("ranges") {
                    self.manage(RequestType::ZONE_RESET, range.sector.get());
                }
                Status::OK
            }
            RequestType::WRITE_ZEROES | RequestType::DISCARD | RequestType::SECURE_ERASE => {
                for range in <[DiscardSegment]>::ref_from_bytes(data).expect("ranges") {
                    let at = range.sector.get() as usize * 512;
                    self.bytes[at..at + range.num_sectors.get() as usize * 512].fill(0);
                }
                Status::OK
            }
            _ => self.manage(kind, sector),
        };
        reply.status = Some(status.0);
        reply
    }

    pub fn zone(&mut self, sector: u64) -> Option<&mut FakeZone> {
        self.zones.iter_mut().find(|z| (z.start..z.start + z.len).contains(&sector))
    }

    fn write(&mut self, sector: u64, data: &[u8]) -> Status {
        let sectors = data.len() as u64 / 512;
        let preferred = self.preferred;
        if let Some(zone) = self.zone(sector).filter(|z| !z.conventional && !preferred) {
            if zone.condition == Condition::Full || sector + sectors > zone.start + zone.capacity {
                return Status::ZONE_INVALID_CMD;
            }
            if sector != zone.pointer {
                return Status::ZONE_UNALIGNED_WP;
            }
            zone.pointer += sectors;
            if zone.condition != Condition::ExplicitOpen {
                zone.condition = Condition::ImplicitOpen;
            }
            if zone.pointer == zone.start + zone.capacity {
                zone.condition = Condition::Full;
            }
        }
        let at = sector as usize * 512;
        self.bytes[at..at + data.len()].copy_from_slice(data);
        Status::OK
    }

    fn manage(&mut self, kind: RequestType, sector: u64) -> Status {
        if kind == RequestType::ZONE_RESET_ALL {
            for zone in self.zones.iter_mut().filter(|z| !z.conventional) {
                (zone.pointer, zone.condition) = (zone.start, Condition::Empty);
            }
            return Status::OK;
        }
        let open = self.zones.iter().filter(|z| z.condition == Condition::ExplicitOpen).count();
        let Some(zone) = self.zone(sector).filter(|z| !z.conventional) else {
            return Status::ZONE_INVALID_CMD;
        };
        zone.condition = match kind {
            RequestType::ZONE_OPEN if open >= 2 => return Status::ZONE_OPEN_RESOURCE,
            RequestType::ZONE_OPEN => Condition::ExplicitOpen,
            RequestType::ZONE_CLOSE if zone.pointer == zone.start => Condition::Empty,
            RequestType::ZONE_CLOSE => Condition::Closed,
            RequestType::ZONE_FINISH => Condition::Full,
            RequestType::ZONE_RESET => {
                zone.pointer = zone.start;
                Condition::Empty
            }
            _ => return Status::UNSUPP,
        };
        Status::OK
    }

    fn report(&self, sector: u64, room: usize) -> Vec<u8> {
        let zones: Vec<_> = self
            .zones
            .iter()
            .filter(|z| z.start + z.len > sector)
            .take((room - 64) / 64)
            .map(|z| ZoneDescriptor {
                z_cap: z.capacity.into(),
                z_start: z.start.into(),
                z_wp: if z.condition == Condition::Full { u64::MAX } else { z.pointer }.into(),
                z_type: if z.conventional { 1 } else { 2 + u8::from(self.preferred) },
                z_state: z.condition as u8,
                reserved: [0; 38],
            })
            .collect();
        let mut bytes = ZoneReportHeader::new(zones.len() as u64).as_bytes().to_vec();
        bytes.extend(zones.iter().flat_map(|zone| zone.as_bytes().to_vec()));
        bytes
    }
}
