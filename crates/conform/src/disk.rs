//! The rig as a disk: its zones, put into the states that a check wants.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use zerocopy::FromBytes;
use zvb_wire::{
    Condition, DiscardSegment, Features, Model, RequestType, Status, ZoneDescriptor,
    ZoneReportHeader,
};

use crate::outcome::{Checked, fail, skip};
use crate::request::{Request, UNTOUCHED};
use crate::rig::{DATA_BYTES, Rig};

/// Zones that are ever looked at; a disk may have more.
const ZONES_MAX: usize = 16_384;
/// Zones in one report.
pub(crate) const REPORT_ZONES: usize = 256;
/// The largest zone that is ever filled, in sectors: 512 MiB.
const FILL_SECTORS: u64 = 1 << 20;

/// A zone, as a report told of it. Sectors from the start of the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Zone {
    pub(crate) start: u64,
    pub(crate) capacity: u64,
    pub(crate) pointer: u64,
    pub(crate) kind: u8,
    pub(crate) state: u8,
    pub(crate) reserved_zero: bool,
}

/// The kinds of zones.
pub(crate) const CONVENTIONAL: u8 = 1;
pub(crate) const REQUIRED: u8 = 2;
pub(crate) const PREFERRED: u8 = 3;

impl Zone {
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let descriptor = ZoneDescriptor::read_from_bytes(bytes).ok()?;
        Some(Self {
            start: descriptor.z_start.get(),
            capacity: descriptor.z_cap.get(),
            pointer: descriptor.z_wp.get(),
            kind: descriptor.z_type,
            state: descriptor.z_state,
            reserved_zero: descriptor.reserved == [0; 38],
        })
    }

    pub(crate) fn is(&self, condition: Condition) -> bool {
        self.state == condition as u8
    }

    pub(crate) fn is_sequential(&self) -> bool {
        matches!(self.kind, REQUIRED | PREFERRED)
    }

    /// Neither read-only nor offline.
    pub(crate) fn is_sound(&self) -> bool {
        !self.is(Condition::ReadOnly) && !self.is(Condition::Offline)
    }

    pub(crate) fn is_sound_conventional(&self) -> bool {
        self.kind == CONVENTIONAL && self.is_sound()
    }

    /// Its condition in words.
    pub(crate) fn told(&self) -> String {
        told(self.state)
    }

    /// The end of what can be written; at the end of addresses where that is a lie.
    pub(crate) fn limit(&self) -> u64 {
        self.start.saturating_add(self.capacity)
    }
}

fn told(state: u8) -> String {
    match Condition::try_from(state) {
        Ok(condition) => format!("{condition:?}"),
        Err(_) => format!("state {state}"),
    }
}

/// `bytes` bytes that tell their place and `seed`, none of them zero or [`UNTOUCHED`].
pub(crate) fn pattern(seed: u64, bytes: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            match state as u8 {
                0 | UNTOUCHED => 1,
                byte => byte,
            }
        })
        .collect()
}

/// Fails unless `got` is one of `allowed`.
pub(crate) fn expect(what: &str, got: Status, allowed: &[Status]) -> Checked {
    if allowed.contains(&got) {
        return Ok(());
    }
    let names: Vec<String> = allowed.iter().map(|status| format!("{status}")).collect();
    fail(format!("{what}: {}", names.join(" or ")), format!("{got}"))
}

/// Fails unless a zone is in a condition.
pub(crate) fn expect_state(what: &str, zone: &Zone, condition: Condition) -> Checked {
    if zone.is(condition) {
        return Ok(());
    }
    fail(format!("{what}: the zone is {condition:?}"), zone.told())
}

impl Rig<'_> {
    /// The zone model that the device tells of, in a device that offers ZONED.
    pub(crate) fn model(&self) -> Option<Model> {
        if !self.offered.contains(Features::ZONED) {
            return None;
        }
        Some(Model::try_from(self.config.zoned.model).unwrap_or(Model::None))
    }

    /// A device that is up, and has zones.
    pub(crate) fn zoned(&mut self) -> Checked<Model> {
        match self.model() {
            None => skip("the device does not offer ZONED"),
            Some(Model::None) => skip("the model is \"none\""),
            Some(model) => self.ready().map(|()| model),
        }
    }

    /// Skips what writes on a read-only device.
    pub(crate) fn writable(&self) -> Checked {
        if self.offered.contains(Features::RO) { skip("the device is read-only") } else { Ok(()) }
    }

    /// What writes are a multiple of, in sectors: the write granularity, or the block size if that is more.
    pub(crate) fn unit(&self) -> u64 {
        let block = if self.offered.contains(Features::BLK_SIZE) {
            u64::from(self.config.blk_size.get())
        } else {
            0
        };
        let granularity = if self.model().is_some_and(|model| model != Model::None) {
            u64::from(self.config.zoned.write_granularity.get())
        } else {
            0
        };
        // An absurd one is told by the checks of the configuration.
        (block.max(granularity) / 512).clamp(1, DATA_BYTES / 512)
    }

    /// [`unit`](Self::unit) in bytes.
    pub(crate) fn unit_bytes(&self) -> u64 {
        self.unit().saturating_mul(512)
    }

    /// The most sectors that one request may carry: a multiple of the unit, at least one.
    pub(crate) fn most_sectors(&self) -> u64 {
        let segments = if self.offered.contains(Features::SEG_MAX) {
            u64::from(self.config.seg_max.get()).clamp(1, 64)
        } else {
            1
        };
        let segment = u64::try_from(self.segment_bytes()).unwrap_or(u64::MAX);
        let bytes = segment.saturating_mul(segments).min(DATA_BYTES);
        (bytes / 512 / self.unit()).max(1).saturating_mul(self.unit())
    }

    /// A request without data.
    pub(crate) fn command(&mut self, kind: RequestType, sector: u64) -> Checked<Status> {
        Ok(self.ask(&Request::new(kind, sector))?.status)
    }

    pub(crate) fn write(&mut self, sector: u64, data: &[u8]) -> Checked<Status> {
        Ok(self.ask(&Request::new(RequestType::OUT, sector).with(data))?.status)
    }

    pub(crate) fn read(&mut self, sector: u64, sectors: u64) -> Checked<(Status, Vec<u8>)> {
        let room = usize::try_from(sectors.saturating_mul(512)).unwrap_or(usize::MAX);
        let answer = self.ask(&Request::new(RequestType::IN, sector).into(room))?;
        Ok((answer.status, answer.data))
    }

    /// Where the data went, if it did.
    pub(crate) fn append(&mut self, zone: u64, data: &[u8]) -> Checked<(Status, u64)> {
        let answer = self.ask(&Request::new(RequestType::ZONE_APPEND, zone).with(data))?;
        Ok((answer.status, answer.appended))
    }

    /// The sectors of `zone`: those of all zones, but that the disk may end in the last one.
    pub(crate) fn zone_len(&self, zone: &Zone) -> u64 {
        let size = u64::from(self.config.zoned.zone_sectors.get());
        size.min(self.config.capacity.get().saturating_sub(zone.start))
    }

    /// True when appends are supported.
    pub(crate) fn appends(&self) -> bool {
        self.config.zoned.max_append_sectors.get() > 0
    }

    /// DISCARD, WRITE_ZEROES or SECURE_ERASE of ranges of first sector, sectors and flags.
    pub(crate) fn ranges(
        &mut self,
        kind: RequestType,
        ranges: &[(u64, u64, u32)],
    ) -> Checked<Status> {
        let mut data = Vec::new();
        for (sector, sectors, flags) in ranges {
            let range = DiscardSegment {
                sector: (*sector).into(),
                num_sectors: u32::try_from(*sectors).unwrap_or(u32::MAX).into(),
                flags: (*flags).into(),
            };
            data.extend_from_slice(zerocopy::IntoBytes::as_bytes(&range));
        }
        Ok(self.ask(&Request::new(kind, 0).with(&data))?.status)
    }

    /// A report from `sector` on with room for `count` zones.
    pub(crate) fn report(&mut self, sector: u64, count: usize) -> Checked<Vec<Zone>> {
        let header = ZoneReportHeader::BYTES as usize;
        let each = ZoneDescriptor::BYTES as usize;
        let room = header.saturating_add(count.saturating_mul(each));
        let answer = self.ask(&Request::new(RequestType::ZONE_REPORT, sector).into(room))?;
        expect(&format!("REPORT from sector {sector}"), answer.status, &[Status::OK])?;
        let (head, zones) = answer.data.split_at_checked(header).unwrap_or_default();
        let told = head.get(..8).and_then(|n| n.try_into().ok()).map_or(0, u64::from_le_bytes);
        let told = usize::try_from(told).unwrap_or(usize::MAX);
        if told > count {
            return fail(format!("at most {count} zones in a report"), format!("{told}"));
        }
        Ok(zones.chunks_exact(each).take(told).filter_map(Zone::from_bytes).collect())
    }

    /// All zones, up to a number that is enough for everything.
    pub(crate) fn zones(&mut self) -> Checked<Vec<Zone>> {
        let mut zones: Vec<Zone> = Vec::new();
        let size = u64::from(self.config.zoned.zone_sectors.get());
        let mut from = 0;
        while from < self.config.capacity.get() && zones.len() < ZONES_MAX {
            let part = self.report(from, REPORT_ZONES)?;
            let Some(last) = part.last() else {
                return fail(format!("zones in a report from sector {from}"), "none");
            };
            let next = last.start.saturating_add(size);
            if next <= from {
                let got = format!("a zone that begins at sector {}", last.start);
                return fail(format!("a report from sector {from} that goes on from there"), got);
            }
            from = next;
            zones.extend(part);
        }
        Ok(zones)
    }

    /// The zone that begins at `start`, as it is now.
    pub(crate) fn zone(&mut self, start: u64) -> Checked<Zone> {
        match self.report(start, 1)?.first() {
            Some(zone) if zone.start == start => Ok(*zone),
            Some(zone) => {
                let got = format!("one that begins at {}", zone.start);
                fail(format!("a report of the zone at sector {start}"), got)
            }
            None => fail(format!("a report of the zone at sector {start}"), "no zone"),
        }
    }

    /// `count` sequential zones that are empty, with room for 4 writes, and none open or closed.
    pub(crate) fn fresh(&mut self, count: usize) -> Checked<Vec<Zone>> {
        self.zoned()?;
        self.writable()?;
        let zones = self.all_empty()?;
        let room = self.unit().saturating_mul(4);
        let good = zones.into_iter().filter(|zone| {
            zone.is_sequential() && zone.is(Condition::Empty) && zone.capacity >= room
        });
        let good: Vec<Zone> = good.take(count).collect();
        if good.len() < count {
            let why = format!("it takes {count} usable sequential zones, and there are fewer");
            return skip(why);
        }
        Ok(good)
    }

    /// The same, of the kind that must be written at the write pointer.
    pub(crate) fn fresh_required(&mut self, count: usize) -> Checked<Vec<Zone>> {
        let zones = self.fresh(count)?;
        if zones.iter().all(|zone| zone.kind == REQUIRED) {
            Ok(zones)
        } else {
            skip("there are no sequential-write-required zones")
        }
    }

    /// Resets all zones, and tells how they are then.
    pub(crate) fn all_empty(&mut self) -> Checked<Vec<Zone>> {
        self.command(RequestType::ZONE_RESET_ALL, 0)?;
        let zones = self.zones()?;
        // A device that does not do that is told so elsewhere.
        let left: Vec<u64> = zones
            .iter()
            .filter(|zone| Condition::try_from(zone.state).is_ok_and(|c| c.is_active()))
            .map(|zone| zone.start)
            .collect();
        if left.is_empty() {
            return Ok(zones);
        }
        for start in left {
            self.command(RequestType::ZONE_RESET, start)?;
        }
        self.zones()
    }

    /// One empty zone.
    pub(crate) fn fresh_one(&mut self) -> Checked<Zone> {
        self.fresh(1)?.first().copied().map_or_else(|| skip("there is no sequential zone"), Ok)
    }

    /// One empty zone that must be written at the write pointer.
    pub(crate) fn fresh_required_one(&mut self) -> Checked<Zone> {
        let zone = self.fresh_required(1)?.first().copied();
        zone.map_or_else(|| skip("there is no sequential zone"), Ok)
    }

    /// A conventional zone that can be read and written.
    pub(crate) fn conventional(&mut self) -> Checked<Zone> {
        self.zoned()?;
        let zone = self.zones()?.into_iter().find(Zone::is_sound_conventional);
        zone.map_or_else(|| skip("there are no sound conventional zones"), Ok)
    }

    /// A zone in a condition that only the device can bring about.
    pub(crate) fn found(&mut self, condition: Condition) -> Checked<Zone> {
        self.zoned()?;
        let zone = self.zones()?.into_iter().find(|zone| zone.is(condition));
        zone.map_or_else(|| skip(format!("no zone is {condition:?}")), Ok)
    }

    /// Where anything can be written anywhere: the first sector, and how many.
    pub(crate) fn scratch(&mut self) -> Checked<(u64, u64)> {
        self.writable()?;
        if self.model().is_none_or(|model| model == Model::None) {
            self.ready()?;
            return Ok((0, self.config.capacity.get()));
        }
        self.zoned()?;
        let room = self.unit().saturating_mul(16);
        let zone = self.zones()?.into_iter().find(|zone| {
            let anywhere = matches!(zone.kind, CONVENTIONAL | PREFERRED);
            anywhere && zone.is_sound() && zone.capacity >= room
        });
        match zone {
            Some(zone) => Ok((zone.start, zone.capacity)),
            None => skip("no zone can be written anywhere"),
        }
    }

    /// Writes `units` units of a pattern at the write pointer of `zone`, where they must be taken.
    pub(crate) fn advance(&mut self, zone: &Zone, units: u64) -> Checked<Zone> {
        let now = self.zone(zone.start)?;
        let at = if now.is(Condition::Empty) { zone.start } else { now.pointer };
        let data = pattern(at, units.saturating_mul(self.unit_bytes()));
        let status = self.write(at, &data)?;
        expect("OUT at the write pointer", status, &[Status::OK])?;
        self.zone(zone.start)
    }

    /// Writes an empty zone until `left` sectors are left.
    pub(crate) fn fill(&mut self, zone: &Zone, left: u64) -> Checked<Zone> {
        self.fill_from(zone, left)?;
        self.zone(zone.start)
    }

    /// Writes from the start of `zone` on, which is its write pointer, until `left` sectors are left.
    pub(crate) fn fill_from(&mut self, zone: &Zone, left: u64) -> Checked {
        if zone.capacity > FILL_SECTORS {
            return skip("the zones are too large to be filled");
        }
        let end = zone.limit().saturating_sub(left);
        let most = self.most_sectors();
        let data = pattern(zone.start, most.saturating_mul(512));
        let mut at = zone.start;
        while at < end {
            let sectors = most.min(end.saturating_sub(at));
            let bytes = usize::try_from(sectors.saturating_mul(512)).unwrap_or(usize::MAX);
            let status = self.write(at, data.get(..bytes).unwrap_or(&data))?;
            expect("OUT at the write pointer", status, &[Status::OK])?;
            at = at.saturating_add(sectors);
        }
        Ok(())
    }

    /// A zone command that must be taken, and what it makes of the zone.
    pub(crate) fn make(&mut self, kind: RequestType, zone: &Zone, to: Condition) -> Checked<Zone> {
        let status = self.command(kind, zone.start)?;
        expect(&format!("{kind:?} of a zone that is {}", zone.told()), status, &[Status::OK])?;
        let now = self.zone(zone.start)?;
        expect_state(&format!("after {kind:?}"), &now, to)?;
        Ok(now)
    }

    /// `what` must answer one of `allowed`, and leave the zone as it is.
    pub(crate) fn refused(
        &mut self,
        what: &str,
        request: &Request<'_>,
        zone: &Zone,
        allowed: &[Status],
    ) -> Checked {
        let before = self.zone(zone.start)?;
        let status = self.ask(request)?.status;
        expect(what, status, allowed)?;
        let after = self.zone(zone.start)?;
        // The pointer means something only in these conditions.
        let pointed = before.is(Condition::Empty)
            || Condition::try_from(before.state).is_ok_and(|condition| condition.is_active());
        if after.state != before.state || (pointed && after.pointer != before.pointer) {
            let tell = |zone: &Zone| format!("{} with the pointer {}", zone.told(), zone.pointer);
            return fail(format!("{what}: the zone stays {}", tell(&before)), tell(&after));
        }
        Ok(())
    }
}
