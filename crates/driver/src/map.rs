//! What the driver remembers of each zone: its type, what can be written of it, and how much of that is
//! written or about to be. With it a write that can not fit is not sent (a MUST of virtio 5.2.6.1).
//!
//! All queues share it, without a lock: what changes is one word a zone. A zone whose fill can not be
//! known (a write failed, a reset is in flight beside a write) is *unknown*, and its writes go to the
//! device unchecked, until a reset or a report tells. A report counts only for zones in which nothing was
//! in flight from its submission to its answer.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use zvb_wire::{Condition, SECTOR_BYTES, Sector, ZoneType};

use crate::dma::NoMemory;
use crate::error::{Invalid, RequestError, SubmitError};
use crate::info::{Info, ZonedInfo};
use crate::request::{Answer, Request, SectorRange};
use crate::transport::Dma;
use crate::zone::{Zone, report_room};

/// The most zones that are kept track of: 16 MiB of memory.
const ZONES_MAX: u32 = 1 << 20;

/// The type of a zone that no report has told of.
const UNTOLD: u8 = 0;

/// All that is remembered of a zone: 16 bytes.
struct Entry {
    /// A [`Fill`], packed.
    fill: AtomicU64,
    /// What can be written, in 512-byte sectors from the start; a zone has fewer than 2^32.
    capacity: AtomicU32,
    /// A [`ZoneType`], or [`UNTOLD`].
    zone_type: AtomicU8,
}

const _: () = assert!(size_of::<Entry>() == 16);

/// How far a zone is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Fill {
    /// Sectors that are written, or will be when all in flight goes well; meaningless unless `known`.
    used: u32,
    /// Writes in flight. At its largest it counts no more, and the zone is never known again.
    writes: u16,
    /// Changes with whatever can move the write pointer; 15 bits. A report or a reset that is overtaken by
    /// exactly 2^15 changes is taken for a fresh one: what it costs is a check too few, or a write that
    /// is refused until the next report.
    version: u16,
    /// `used` is right.
    known: bool,
}

impl Fill {
    fn unpack(word: u64) -> Self {
        Self {
            used: word as u32,
            writes: (word >> 32) as u16,
            version: (word >> 48) as u16 & 0x7fff,
            known: word >> 63 != 0,
        }
    }

    fn pack(self) -> u64 {
        u64::from(self.used)
            | u64::from(self.writes) << 32
            | u64::from(self.version & 0x7fff) << 48
            | u64::from(self.known) << 63
    }

    /// The same, changed by something that can move the write pointer.
    fn changed(self) -> Self {
        Self { version: self.version.wrapping_add(1) & 0x7fff, ..self }
    }

    /// With one write more in flight.
    fn begun(self) -> Self {
        let writes = self.writes.saturating_add(1);
        Self { writes, known: self.known && writes < u16::MAX, ..self.changed() }
    }

    /// With one write less in flight.
    fn ended(self) -> Self {
        let writes = if self.writes == u16::MAX { u16::MAX } else { self.writes.saturating_sub(1) };
        Self { writes, ..self.changed() }
    }

    /// With `used` sectors for certain, if nothing has changed since `version`.
    fn learnt(self, version: u16, used: Option<u32>) -> Option<Self> {
        let fresh = self.version == version && self.writes == 0;
        fresh.then(|| Self { used: used.unwrap_or(0), known: used.is_some(), ..self.changed() })
    }
}

impl Entry {
    fn new() -> Self {
        let fill = Fill { used: 0, writes: 0, version: 0, known: false };
        Self {
            fill: AtomicU64::new(fill.pack()),
            capacity: AtomicU32::new(0),
            zone_type: AtomicU8::new(UNTOLD),
        }
    }

    fn fill(&self) -> Fill {
        Fill::unpack(self.fill.load(Relaxed))
    }

    /// Changes the fill to what `change` makes of it, and returns what it was; `None`: not changed. A word
    /// says all there is to say, so nothing else needs to be ordered by it.
    fn change(&self, change: impl Fn(Fill) -> Option<Fill>) -> Option<Fill> {
        let change = |word| change(Fill::unpack(word)).map(Fill::pack);
        self.fill.fetch_update(Relaxed, Relaxed, change).ok().map(Fill::unpack)
    }

    fn is(&self, zone_type: ZoneType) -> bool {
        self.zone_type.load(Relaxed) == zone_type as u8
    }

    fn capacity(&self) -> u32 {
        self.capacity.load(Relaxed)
    }

    /// Takes what a report says of the zone, if it is still true.
    fn observe(&self, zone: &Zone, version: u16) {
        // No zone is longer: its size comes in 32 bits.
        let capacity = u32::try_from(zone.capacity.0).unwrap_or(u32::MAX);
        self.capacity.store(capacity, Relaxed);
        self.zone_type.store(zone.zone_type as u8, Relaxed);
        let used = match (zone.condition, zone.write_pointer) {
            (Condition::Full, _) => Some(capacity),
            (_, Some(at)) => at.checked_sub(zone.start).and_then(|used| used.0.try_into().ok()),
            // Read-only and offline zones: what they refuse is the device's to say.
            _ => None,
        };
        self.change(|fill| fill.learnt(version, used));
    }
}

/// What a request in flight has to do with the map. Spent by [`ZoneMap::settle`].
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Claim {
    /// Nothing.
    None,
    /// A write or an append of `sectors` in a zone that must be written sequentially.
    Write { zone: u32, at: Sector, sectors: u32 },
    /// A reset, or a finish where `full`, of a zone.
    Move { zone: u32, version: u16, full: bool },
    /// A reset of all zones, by the version of each.
    ResetAll { versions: Vec<u16> },
    /// A report, by the version of each zone from `first` on.
    Report { first: u32, versions: Vec<u16> },
    /// Something else that can change what these sectors hold.
    Ranges(Vec<SectorRange>),
}

/// The map. Without entries (a plain disk, or one that is not checked) it allows everything.
pub(crate) struct ZoneMap {
    zones: Vec<Entry>,
}

impl ZoneMap {
    /// A map of no zones.
    pub(crate) const fn new() -> Self {
        Self { zones: Vec::new() }
    }

    /// Makes room for `count` zones. It is never less again: what is in flight has its place here. Those
    /// that are past `count` now are forgotten, should they come back.
    pub(crate) fn resize(&mut self, count: u32) -> Result<(), NoMemory> {
        let count = if count > ZONES_MAX { return Err(NoMemory) } else { count as usize };
        let more = count.saturating_sub(self.zones.len());
        self.zones.try_reserve_exact(more).map_err(|_| NoMemory)?;
        self.zones.extend((0..more).map(|_| Entry::new()));
        for entry in self.zones.iter().skip(count) {
            entry.zone_type.store(UNTOLD, Relaxed);
            entry.change(unknown);
        }
        Ok(())
    }

    /// True when nothing is kept track of.
    pub(crate) fn is_empty(&self) -> bool {
        self.zones.is_empty()
    }

    /// What can be written of zone `index`, in sectors from its start, if it is a sequential one.
    pub(crate) fn sequential(&self, index: u64) -> Option<Sector> {
        let entry = self.entry(index)?;
        let sequential =
            entry.is(ZoneType::SequentialRequired) || entry.is(ZoneType::SequentialPreferred);
        sequential.then(|| Sector(entry.capacity().into()))
    }

    /// How much of zone `index` is used, in sectors from its start, where it must be written in order
    /// and that is known.
    pub(crate) fn used(&self, index: u64) -> Option<Sector> {
        let entry = self.entry(index).filter(|entry| entry.is(ZoneType::SequentialRequired))?;
        let fill = entry.fill();
        fill.known.then(|| Sector(fill.used.into()))
    }

    /// True when a report could tell more of zone `index` than is known.
    pub(crate) fn is_unknown(&self, index: u64) -> bool {
        self.entry(index).is_some_and(|entry| {
            let fill = entry.fill();
            !entry.is(ZoneType::Conventional) && !fill.known && fill.writes == 0
        })
    }

    fn entry(&self, index: u64) -> Option<&Entry> {
        self.zones.get(usize::try_from(index).ok()?)
    }

    /// Takes note that `request` goes to the device, unless it can not fit into its zone.
    pub(crate) fn claim<D: Dma>(
        &self,
        info: &Info,
        request: &Request<D>,
    ) -> Result<Claim, SubmitError> {
        let Some(zoned) = info.zoned.as_ref().filter(|_| !self.is_empty()) else {
            return Ok(Claim::None);
        };
        Ok(match request {
            Request::Write { at, buffer } | Request::Append { zone: at, buffer } => {
                self.claim_write(zoned, *at, buffer.len() as u64 / SECTOR_BYTES)?
            }
            Request::Reset { zone } => self.claim_move(zoned, *zone, false),
            Request::Finish { zone } => self.claim_move(zoned, *zone, true),
            Request::ResetAll => {
                let mut versions = self.versions(0, self.zones.len())?;
                for (entry, version) in self.zones.iter().zip(&mut versions) {
                    if let Some(before) = entry.change(unknown) {
                        *version = before.changed().version;
                    }
                }
                Claim::ResetAll { versions }
            }
            Request::Report { from, buffer } => {
                let first = zoned.zone_index(*from);
                let versions = self.versions(first as usize, report_room(buffer.len()))?;
                Claim::Report { first, versions }
            }
            Request::Discard { ranges }
            | Request::SecureErase { ranges }
            | Request::WriteZeroes { ranges, .. } => {
                let mut list = Vec::new();
                list.try_reserve_exact(ranges.len()).map_err(|_| NoMemory)?;
                list.extend_from_slice(ranges);
                self.each(zoned, &list, Fill::begun);
                Claim::Ranges(list)
            }
            _ => Claim::None,
        })
    }

    fn claim_write(&self, zoned: &ZonedInfo, at: Sector, sectors: u64) -> Result<Claim, Invalid> {
        let zone = zoned.zone_index(at);
        let entry = self.entry(zone.into()).filter(|e| e.is(ZoneType::SequentialRequired));
        // More than 32 bits of sectors fit into no request, and into no zone.
        let (Some(entry), Ok(sectors)) = (entry, u32::try_from(sectors)) else {
            return Ok(Claim::None);
        };
        let capacity = entry.capacity();
        let begun = entry.change(|fill| match fill.used.checked_add(sectors) {
            Some(used) if fill.known && used <= capacity => Some(Fill { used, ..fill.begun() }),
            _ if fill.known => None,
            _ => Some(fill.begun()),
        });
        match begun {
            Some(_) => Ok(Claim::Write { zone, at, sectors }),
            None => {
                let start = zoned.zone_start(at);
                let used = Sector(entry.fill().used.into());
                Err(past(start, used, Sector(sectors.into()), Sector(capacity.into())))
            }
        }
    }

    fn claim_move(&self, zoned: &ZonedInfo, start: Sector, full: bool) -> Claim {
        let zone = zoned.zone_index(start);
        let entry = self.entry(zone.into()).filter(|e| e.is(ZoneType::SequentialRequired));
        match entry.and_then(|entry| entry.change(unknown)) {
            Some(before) => Claim::Move { zone, version: before.changed().version, full },
            None => Claim::None,
        }
    }

    /// The versions of at most `count` zones from `first` on.
    fn versions(&self, first: usize, count: usize) -> Result<Vec<u16>, NoMemory> {
        let zones = self.zones.get(first..).unwrap_or_default();
        let zones = zones.get(..count).unwrap_or(zones);
        let mut versions = Vec::new();
        versions.try_reserve_exact(zones.len()).map_err(|_| NoMemory)?;
        versions.extend(zones.iter().map(|entry| entry.fill().version));
        Ok(versions)
    }

    /// Changes the fill of every zone that one of `ranges` touches, as often as one does.
    fn each(&self, zoned: &ZonedInfo, ranges: &[SectorRange], change: fn(Fill) -> Fill) {
        for range in ranges {
            let last = Sector(range.at.0.saturating_add(range.sectors.saturating_sub(1).into()));
            let (first, last) = (zoned.zone_index(range.at), zoned.zone_index(last));
            for index in first..=last {
                if let Some(entry) = self.entry(index.into()) {
                    entry.change(|fill| Some(Fill { known: false, ..change(fill) }));
                }
            }
        }
    }

    /// Takes note of how a request went.
    pub(crate) fn settle(
        &self,
        zoned: Option<&ZonedInfo>,
        claim: Claim,
        result: &Result<Answer, RequestError>,
    ) {
        let Some(zoned) = zoned else { return };
        match claim {
            Claim::None => {}
            Claim::Write { zone, at, sectors } => {
                self.settle_write(zoned, zone, at, sectors, result);
            }
            Claim::Move { zone, version, full } => {
                if let (Ok(_), Some(entry)) = (result, self.entry(zone.into())) {
                    let used = if full { entry.capacity() } else { 0 };
                    entry.change(|fill| fill.learnt(version, Some(used)));
                }
            }
            Claim::ResetAll { versions } => {
                for (entry, version) in self.zones.iter().zip(versions) {
                    if result.is_ok() {
                        entry.change(|fill| fill.learnt(version, Some(0)));
                    }
                }
            }
            Claim::Report { first, versions } => {
                let Ok(Answer::Zones(zones)) = result else { return };
                let entries = self.zones.get(first as usize..).unwrap_or_default();
                for ((entry, zone), version) in entries.iter().zip(zones).zip(versions) {
                    entry.observe(zone, version);
                }
            }
            Claim::Ranges(ranges) => self.each(zoned, &ranges, Fill::ended),
        }
    }

    fn settle_write(
        &self,
        zoned: &ZonedInfo,
        zone: u32,
        at: Sector,
        sectors: u32,
        result: &Result<Answer, RequestError>,
    ) {
        let Some(entry) = self.entry(zone.into()) else { return };
        let at = if let Ok(Answer::Appended(at)) = result { *at } else { at };
        let end = at.0.saturating_sub(zoned.zone_start(at).0).saturating_add(sectors.into());
        entry.change(|fill| {
            let fill = fill.ended();
            let used = match result {
                // There was more in the zone than was known here: someone else writes to it.
                Ok(_) if end > fill.used.into() => None,
                Ok(_) => Some(fill.used),
                // The zone could not be opened, so nothing was written.
                Err(RequestError::OpenResource | RequestError::ActiveResource) => {
                    fill.used.checked_sub(sectors)
                }
                Err(_) => None,
            };
            Some(Fill { used: used.unwrap_or(0), known: fill.known && used.is_some(), ..fill })
        });
    }

    /// Takes note that nothing will ever be heard of a request.
    pub(crate) fn lose(&self, claim: &Claim) {
        if let Claim::Write { zone, .. } = claim
            && let Some(entry) = self.entry((*zone).into())
        {
            entry.change(unknown);
        }
    }
}

/// The same, with nothing known of how far it is.
fn unknown(fill: Fill) -> Option<Fill> {
    Some(Fill { known: false, ..fill.changed() })
}

/// `sectors` at `offset` in the zone at `start` are past the `capacity` of that zone.
pub(crate) fn past(start: Sector, offset: Sector, sectors: Sector, capacity: Sector) -> Invalid {
    // Inside the disk, all of it.
    let from_start = |n: Sector| Sector(start.0.saturating_add(n.0));
    Invalid::PastZoneCapacity { at: from_start(offset), sectors, end: from_start(capacity) }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use zvb_wire::Model;

    const ZONED: ZonedInfo = ZonedInfo {
        model: Model::HostManaged,
        zone_size: Sector(4096),
        zone_count: 2,
        max_open: 0,
        max_active: 0,
        max_append: Sector(8),
        write_granularity: 512,
    };

    /// Two zones, empty, of 4000 sectors each.
    fn map() -> ZoneMap {
        let mut map = ZoneMap::new();
        map.resize(2).ok();
        for (index, entry) in map.zones.iter().enumerate() {
            let start = Sector(index as u64 * 4096);
            let zone = Zone {
                start,
                len: Sector(4096),
                capacity: Sector(4000),
                write_pointer: Some(start),
                zone_type: ZoneType::SequentialRequired,
                condition: Condition::Empty,
            };
            entry.observe(&zone, 0);
        }
        map
    }

    #[test]
    fn a_fill_is_a_word() {
        for fill in [
            Fill { used: u32::MAX, writes: 0, version: 0x7fff, known: false },
            Fill { used: 1, writes: u16::MAX, version: 0, known: true },
            Fill { used: 0, writes: 7, version: 0x1234, known: true },
        ] {
            assert_eq!(Fill::unpack(fill.pack()), fill);
        }
        let fill = Fill { used: 5, writes: 0, version: 0x7fff, known: true };
        assert_eq!(fill.changed(), Fill { version: 0, ..fill });
    }

    #[test]
    fn more_writes_than_can_be_counted_are_not() {
        let mut fill = Fill { used: 0, writes: 0, version: 0, known: true };
        for _ in 0..70_000 {
            fill = fill.begun();
        }
        assert!(!fill.known && fill.writes == u16::MAX);
        for _ in 0..70_000 {
            fill = fill.ended();
        }
        assert_eq!(fill.learnt(fill.version, Some(0)), None);
    }

    #[test]
    fn threads_never_claim_more_than_there_is() {
        let map = map();
        let claimed: usize = std::thread::scope(|scope| {
            let claim = || (0..3000).filter(|_| map.claim_write(&ZONED, Sector(0), 1).is_ok());
            let threads: Vec<_> = (0..2).map(|_| scope.spawn(move || claim().count())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or(0)).sum()
        });
        assert_eq!(
            (claimed, map.used(0), map.used(1)),
            (4000, Some(Sector(4000)), Some(Sector(0)))
        );
    }

    #[test]
    fn zones_that_go_and_come_back_are_new() {
        let mut map = map();
        let claim = map.claim_write(&ZONED, Sector(4096), 8);
        assert!(map.resize(1).is_ok() && map.resize(2).is_ok());
        assert_eq!((map.sequential(1), map.used(1)), (None, None));
        // The write of before is still accounted for, and ends here.
        let Ok(claim) = claim else { unreachable!("a write that fits") };
        assert!(map.zones.iter().all(|entry| entry.fill().writes <= 1));
        map.settle(Some(&ZONED), claim, &Ok(Answer::Done));
        assert_eq!(map.zones.iter().map(|entry| entry.fill().writes).sum::<u16>(), 0);
        assert_eq!(map.resize(ZONES_MAX + 1), Err(NoMemory));
    }
}
