//! What a zoned disk does, written to be obvious: vectors, searches and copies. One request at a time.

use zvb_wire::{Condition, Model as Kind, Sector, Status, ZoneType};
use zvb_zones::{GeometrySpec, Manage};

/// One zone, its numbers in sectors, `pointer` from its start.
#[derive(Clone, Debug)]
pub(crate) struct Zone {
    pub(crate) start: u64,
    pub(crate) len: u64,
    pub(crate) capacity: u64,
    pub(crate) kind: ZoneType,
    pub(crate) condition: Condition,
    pub(crate) pointer: u64,
    /// When it was last written: orders the implicitly open zones.
    used: u64,
}

/// A disk.
pub(crate) struct Model {
    spec: Option<GeometrySpec>,
    pub(crate) capacity: u64,
    pub(crate) zones: Vec<Zone>,
    /// What a read of everything brings.
    pub(crate) data: Vec<u8>,
    clock: u64,
}

impl Model {
    pub(crate) fn new(capacity: Sector, spec: Option<GeometrySpec>) -> Self {
        let capacity = capacity.0;
        let mut zones = Vec::new();
        let mut start = 0;
        while let Some(spec) = spec
            && start < capacity
        {
            let len = spec.zone_size.0.min(capacity - start);
            let conventional = zones.len() < spec.conventional as usize;
            let kind = match spec.model {
                _ if conventional => ZoneType::Conventional,
                Kind::HostAware => ZoneType::SequentialPreferred,
                _ => ZoneType::SequentialRequired,
            };
            let capacity = if conventional { len } else { len.min(spec.zone_capacity.0) };
            let condition = if conventional { Condition::NotWp } else { Condition::Empty };
            zones.push(Zone { start, len, capacity, kind, condition, pointer: 0, used: 0 });
            start += len;
        }
        Self { spec, capacity, zones, data: vec![0; capacity as usize * 512], clock: 0 }
    }

    /// The zones that hold any of these sectors, or the first of them when there are none.
    fn touched(&self, at: u64, sectors: u64) -> Vec<usize> {
        let end = (at + sectors).max(at + 1);
        let touches = |zone: &Zone| at < zone.start + zone.len && zone.start < end;
        (0..self.zones.len()).filter(|i| touches(&self.zones[*i])).collect()
    }

    fn inside(&self, at: u64, sectors: u64) -> Result<(), Status> {
        match at.checked_add(sectors) {
            Some(end) if end <= self.capacity => Ok(()),
            _ => Err(Status::IOERR),
        }
    }

    /// All of it, or, in a zone that must be written in order, one zone's part.
    fn reachable(&self, at: u64, sectors: u64) -> Result<Vec<usize>, Status> {
        self.inside(at, sectors)?;
        let touched = self.touched(at, sectors);
        let required = |i: &usize| self.zones[*i].kind == ZoneType::SequentialRequired;
        if touched.len() > 1 && touched.iter().any(required) {
            return Err(Status::ZONE_INVALID_CMD);
        }
        Ok(touched)
    }

    pub(crate) fn read(&self, at: u64, sectors: u64) -> Result<Vec<u8>, Status> {
        self.reachable(at, sectors)?;
        Ok(self.data[at as usize * 512..][..sectors as usize * 512].to_vec())
    }

    /// On a failure nothing changes.
    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), Status> {
        let sectors = bytes.len() as u64 / 512;
        let touched = match self.reachable(at, sectors) {
            // Past what is left of the zone it begins in.
            Err(_) if self.begins_required(at) => return Err(Status::ZONE_INVALID_CMD),
            other => other?,
        };
        match touched.last().map(|i| self.zones[*i].kind) {
            Some(ZoneType::SequentialRequired) => self.write_required(touched[0], at, sectors)?,
            Some(ZoneType::SequentialPreferred) if sectors > 0 => {
                self.write_preferred(&touched, at + sectors);
            }
            _ => {}
        }
        self.data[at as usize * 512..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn begins_required(&self, at: u64) -> bool {
        let required = |zone: &Zone| {
            zone.kind == ZoneType::SequentialRequired
                && (zone.start..zone.start + zone.len).contains(&at)
        };
        self.zones.iter().any(required)
    }

    fn write_required(&mut self, i: usize, at: u64, sectors: u64) -> Result<(), Status> {
        let zone = self.zones[i].clone();
        if zone.condition == Condition::Full {
            return Err(Status::ZONE_INVALID_CMD);
        }
        if at != zone.start + zone.pointer {
            return Err(Status::ZONE_UNALIGNED_WP);
        }
        let granule = self.spec.map_or(1, |spec| u64::from(spec.write_granularity) / 512);
        if !sectors.is_multiple_of(granule) {
            return Err(Status::ZONE_UNALIGNED_WP);
        }
        if zone.pointer + sectors > zone.capacity {
            return Err(Status::ZONE_INVALID_CMD);
        }
        if sectors == 0 {
            return Ok(());
        }
        self.make_room(i)?;
        self.clock += 1;
        let zone = &mut self.zones[i];
        if [Condition::Empty, Condition::Closed].contains(&zone.condition) {
            zone.condition = Condition::ImplicitOpen;
        }
        zone.used = self.clock;
        zone.pointer += sectors;
        if zone.pointer == zone.capacity {
            zone.condition = Condition::Full;
        }
        Ok(())
    }

    /// A zone that is written anywhere opens if it can, and is written in any case.
    fn write_preferred(&mut self, touched: &[usize], end: u64) {
        for &i in touched {
            self.clock += 1;
            self.zones[i].used = self.clock;
            let rests = [Condition::Empty, Condition::Closed].contains(&self.zones[i].condition);
            if rests && self.make_open_room(touched) {
                self.zones[i].condition = Condition::ImplicitOpen;
            }
        }
        for &i in touched {
            let zone = &mut self.zones[i];
            let reached = end.min(zone.start + zone.len) - zone.start;
            if zone.kind != ZoneType::SequentialPreferred || reached <= zone.pointer {
                continue;
            }
            zone.pointer = reached;
            if reached == zone.capacity {
                zone.condition = Condition::Full;
            } else if zone.condition == Condition::Empty {
                zone.condition = Condition::Closed;
            }
        }
    }

    pub(crate) fn append(&mut self, at: u64, bytes: &[u8]) -> Result<u64, Status> {
        let max_append = self.spec.map_or(0, |spec| spec.max_append.0);
        if max_append == 0 {
            return Err(Status::UNSUPP);
        }
        let i = self.named(at)?;
        let zone = &self.zones[i];
        let sectors = bytes.len() as u64 / 512;
        if zone.kind != ZoneType::SequentialRequired || sectors > max_append {
            return Err(Status::ZONE_INVALID_CMD);
        }
        if zone.condition == Condition::Full {
            return Err(Status::ZONE_INVALID_CMD);
        }
        let at = at + zone.pointer;
        self.write_required(i, at, sectors)?;
        self.data[at as usize * 512..][..bytes.len()].copy_from_slice(bytes);
        Ok(at)
    }

    fn named(&self, at: u64) -> Result<usize, Status> {
        self.zones.iter().position(|zone| zone.start == at).ok_or(Status::ZONE_INVALID_CMD)
    }

    pub(crate) fn manage(&mut self, what: Manage, at: u64) -> Result<(), Status> {
        use Condition as C;
        let i = self.named(at)?;
        match (what, self.zones[i].condition) {
            (_, C::NotWp) | (Manage::Open, C::Full) | (Manage::Close, C::Full | C::Empty) => {
                return Err(Status::ZONE_INVALID_CMD);
            }
            (Manage::Open, _) => {
                self.make_room(i)?;
                self.zones[i].condition = C::ExplicitOpen;
            }
            (Manage::Close, _) => {
                let empty = self.zones[i].pointer == 0;
                self.zones[i].condition = if empty { C::Empty } else { C::Closed };
            }
            (Manage::Finish, _) => self.zones[i].condition = C::Full,
            (Manage::Reset, _) => self.reset(i),
        }
        Ok(())
    }

    fn reset(&mut self, i: usize) {
        let zone = &mut self.zones[i];
        zone.condition = Condition::Empty;
        zone.pointer = 0;
        let (start, len) = (zone.start as usize, zone.len as usize);
        self.data[start * 512..][..len * 512].fill(0);
    }

    pub(crate) fn reset_all(&mut self) {
        for i in 0..self.zones.len() {
            if self.zones[i].kind != ZoneType::Conventional {
                self.reset(i);
            }
        }
    }

    /// One range of a DISCARD.
    pub(crate) fn discard(&mut self, at: u64, sectors: u64) -> Result<(), Status> {
        let required = |zone: &Zone| zone.kind == ZoneType::SequentialRequired;
        if sectors > 0 && self.touched(at, sectors).iter().any(|i| required(&self.zones[*i])) {
            return Err(Status::ZONE_INVALID_CMD);
        }
        self.data[at as usize * 512..][..sectors as usize * 512].fill(0);
        Ok(())
    }

    /// One range of a SECURE_ERASE, of whole zones or blocks.
    pub(crate) fn erase(&mut self, at: u64, sectors: u64) {
        if sectors == 0 {
            return;
        }
        for i in self.touched(at, sectors) {
            if self.zones[i].kind != ZoneType::Conventional {
                self.reset(i);
            }
        }
        self.data[at as usize * 512..][..sectors as usize * 512].fill(0);
    }

    /// What a restart makes of it: nothing is open.
    pub(crate) fn restart(&mut self) {
        for zone in &mut self.zones {
            if zone.condition.is_open() {
                let empty = zone.pointer == 0;
                zone.condition = if empty { Condition::Empty } else { Condition::Closed };
            }
        }
    }

    fn count(&self, what: fn(Condition) -> bool) -> u32 {
        self.zones.iter().filter(|zone| what(zone.condition)).count() as u32
    }

    /// Sees to it that zone `i` can be open. When it can not, nothing has changed.
    fn make_room(&mut self, i: usize) -> Result<(), Status> {
        let max_active = self.spec.map_or(0, |spec| spec.max_active);
        let condition = self.zones[i].condition;
        if ![Condition::Empty, Condition::Closed].contains(&condition) {
            return Ok(());
        }
        let full = max_active != 0 && self.count(Condition::is_active) >= max_active;
        if full && condition == Condition::Empty {
            return Err(Status::ZONE_ACTIVE_RESOURCE);
        }
        if self.make_open_room(&[i]) { Ok(()) } else { Err(Status::ZONE_OPEN_RESOURCE) }
    }

    /// Sees to it that one more zone can be open, closing the one that was written least lately, but none
    /// of `kept`.
    fn make_open_room(&mut self, kept: &[usize]) -> bool {
        let max_open = self.spec.map_or(0, |spec| spec.max_open);
        if max_open == 0 || self.count(Condition::is_open) < max_open {
            return true;
        }
        let victim = (0..self.zones.len())
            .filter(|i| self.zones[*i].condition == Condition::ImplicitOpen && !kept.contains(i))
            .min_by_key(|i| self.zones[*i].used);
        if let Some(victim) = victim {
            self.zones[victim].condition = Condition::Closed;
        }
        victim.is_some()
    }

    /// A report into `room` bytes; `None` when there is no zone at `from` or no room at all.
    pub(crate) fn report(&self, from: u64, room: u64) -> Option<Vec<u8>> {
        let first = self.zones.iter().position(|z| (z.start..z.start + z.len).contains(&from))?;
        let count = (room.checked_sub(64)? / 64).min((self.zones.len() - first) as u64);
        let mut report = count.to_le_bytes().to_vec();
        report.resize(64, 0);
        for zone in &self.zones[first..first + count as usize] {
            let pointer = match zone.condition {
                Condition::NotWp => u64::MAX,
                Condition::Full => zone.start + zone.len,
                _ => zone.start + zone.pointer,
            };
            let end = report.len() + 64;
            for number in [zone.capacity, zone.start, pointer] {
                report.extend(number.to_le_bytes());
            }
            report.extend([zone.kind as u8, zone.condition as u8]);
            report.resize(end, 0);
        }
        Some(report)
    }
}
