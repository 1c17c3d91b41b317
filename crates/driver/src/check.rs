//! Which requests may be sent (virtio 5.2.6.1): everything is looked at before anything is written.

use zvb_wire::{DiscardSegment, Features, RequestType, SECTOR_BYTES, Sector};

use crate::error::Invalid;
use crate::info::{Info, RangeLimits, ZonedInfo};
use crate::map::{ZoneMap, past};
use crate::request::{Request, SectorRange};
use crate::transport::Dma;
use crate::zone::REPORT_BYTES_MIN;

/// What of a request goes into its header, and what must be remembered until it is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Plan {
    /// The type in the header.
    pub(crate) request_type: RequestType,
    /// The sector in the header.
    pub(crate) sector: Sector,
}

/// What to send for `request`, if it may be sent to this device.
pub(crate) fn check<D: Dma>(
    info: &Info,
    zones: &ZoneMap,
    request: &Request<D>,
) -> Result<Plan, Invalid> {
    let (request_type, sector) = match request {
        Request::Read { at, buffer } => {
            transfer(info, *at, buffer.len() as u64)?;
            (RequestType::IN, *at)
        }
        Request::Write { at, buffer } => {
            let bytes = buffer.len() as u64;
            write_span(info, zones, *at, bytes)?;
            one_zone(info, zones, *at, bytes)?;
            short_enough(info, bytes)?;
            (RequestType::OUT, *at)
        }
        Request::Append { zone, buffer } => {
            append(info, zones, *zone, buffer.len() as u64)?;
            (RequestType::ZONE_APPEND, *zone)
        }
        Request::Report { from, buffer } => {
            report(info, *from, buffer.len())?;
            (RequestType::ZONE_REPORT, *from)
        }
        Request::Open { zone } => {
            (RequestType::ZONE_OPEN, manage(info, *zone, RequestType::ZONE_OPEN)?)
        }
        Request::Close { zone } => {
            (RequestType::ZONE_CLOSE, manage(info, *zone, RequestType::ZONE_CLOSE)?)
        }
        Request::Finish { zone } => {
            (RequestType::ZONE_FINISH, manage(info, *zone, RequestType::ZONE_FINISH)?)
        }
        Request::Reset { zone } => {
            (RequestType::ZONE_RESET, manage(info, *zone, RequestType::ZONE_RESET)?)
        }
        Request::ResetAll => {
            zoned(info, RequestType::ZONE_RESET_ALL)?;
            changes(info)?;
            (RequestType::ZONE_RESET_ALL, Sector::ZERO)
        }
        Request::Flush => {
            negotiated(info, Features::FLUSH, RequestType::FLUSH)?;
            (RequestType::FLUSH, Sector::ZERO)
        }
        Request::Id => (RequestType::GET_ID, Sector::ZERO),
        Request::Lifetime => {
            negotiated(info, Features::LIFETIME, RequestType::GET_LIFETIME)?;
            (RequestType::GET_LIFETIME, Sector::ZERO)
        }
        Request::Discard { ranges: list } => {
            ranges(info, list, info.discard, RequestType::DISCARD)?;
            (RequestType::DISCARD, Sector::ZERO)
        }
        Request::WriteZeroes { ranges: list, .. } => {
            ranges(info, list, info.write_zeroes, RequestType::WRITE_ZEROES)?;
            (RequestType::WRITE_ZEROES, Sector::ZERO)
        }
        Request::SecureErase { ranges: list } => {
            ranges(info, list, info.secure_erase, RequestType::SECURE_ERASE)?;
            list.iter().try_for_each(|range| erase_range(info, *range))?;
            (RequestType::SECURE_ERASE, Sector::ZERO)
        }
    };
    Ok(Plan { request_type, sector })
}

fn negotiated(info: &Info, feature: Features, request: RequestType) -> Result<(), Invalid> {
    match info.features.contains(feature) {
        true => Ok(()),
        false => Err(Invalid::Unsupported(request)),
    }
}

/// A read or write of `bytes` at `at`, whatever its length.
pub(crate) fn span(info: &Info, at: Sector, bytes: u64) -> Result<(), Invalid> {
    if bytes == 0 {
        return Err(Invalid::Empty);
    }
    aligned(at, bytes, info.block_size)?;
    inside(info, at, Sector(bytes.div_ceil(SECTOR_BYTES)))
}

/// What changes the disk goes only to one that can be written.
pub(crate) fn changes(info: &Info) -> Result<(), Invalid> {
    if info.read_only { Err(Invalid::ReadOnly) } else { Ok(()) }
}

/// The zones, for a `request` that is about them.
pub(crate) fn zoned(info: &Info, request: RequestType) -> Result<&ZonedInfo, Invalid> {
    info.zoned.as_ref().ok_or(Invalid::Unsupported(request))
}

/// A write of `bytes` at `at`, however many requests it takes: in sequential zones it is of whole granules
/// and within what can be written (MUSTs of virtio 5.2.6.1). A zone that may be written anywhere has its
/// write pointer left out of account.
pub(crate) fn write_span(
    info: &Info,
    zones: &ZoneMap,
    at: Sector,
    bytes: u64,
) -> Result<(), Invalid> {
    changes(info)?;
    span(info, at, bytes)?;
    for part in parts(info, zones, at, bytes) {
        let sectors = Sector(part.end.0 - part.at.0);
        aligned(part.at, sectors.0 * SECTOR_BYTES, part.zoned.write_granularity)?;
        room(&part, zones, sectors)?;
    }
    Ok(())
}

/// An append of `bytes` to `zone`, however many appends it takes. (MUST: the zone's start, multiples of
/// the write granularity, no more than there is room for.)
pub(crate) fn append_span<'a>(
    info: &'a Info,
    zones: &ZoneMap,
    zone: Sector,
    bytes: u64,
) -> Result<&'a ZonedInfo, Invalid> {
    let zoned = zoned(info, RequestType::ZONE_APPEND)?;
    if zoned.max_append == Sector::ZERO {
        return Err(Invalid::Unsupported(RequestType::ZONE_APPEND));
    }
    changes(info)?;
    zone_start(info, zoned, zone)?;
    span(info, zone, bytes)?;
    aligned(zone, bytes, zoned.write_granularity)?;
    if let Some(part) = parts(info, zones, zone, SECTOR_BYTES).next() {
        room(&part, zones, Sector(bytes / SECTOR_BYTES))?;
    }
    Ok(zoned)
}

/// The part of a write that is in one sequential zone.
struct Part<'a> {
    zoned: &'a ZonedInfo,
    /// Its first sector, and the one after its last.
    at: Sector,
    end: Sector,
    /// Of the zone: its first sector, its number, and what can be written of it.
    start: Sector,
    index: u64,
    capacity: Sector,
}

/// The parts of `bytes` at `at`, which are inside the disk, in sequential zones.
fn parts<'a>(
    info: &'a Info,
    zones: &'a ZoneMap,
    at: Sector,
    bytes: u64,
) -> impl Iterator<Item = Part<'a>> {
    let zoned = info.zoned.as_ref().filter(|_| !zones.is_empty());
    let end = at.0.saturating_add(bytes.div_ceil(SECTOR_BYTES));
    zoned.into_iter().flat_map(move |zoned| {
        let size = zoned.zone_size.0;
        let first = u64::from(zoned.zone_index(at));
        let last = u64::from(zoned.zone_index(Sector(end.saturating_sub(1))));
        (first..=last).filter_map(move |index| {
            let capacity = zones.sequential(index)?;
            let start = index.saturating_mul(size);
            let (at, end) = (at.0.max(start), end.min(start.saturating_add(size)));
            let (at, end, start) = (Sector(at), Sector(end), Sector(start));
            Some(Part { zoned, at, end, start, index, capacity })
        })
    })
}

/// `sectors` fit where `part` is, and behind what is in its zone already.
fn room(part: &Part<'_>, zones: &ZoneMap, sectors: Sector) -> Result<(), Invalid> {
    let offset = Sector(part.at.0 - part.start.0);
    let used = zones.used(part.index).unwrap_or(offset);
    for from in [offset, used] {
        if from.checked_add(sectors).is_none_or(|end| end > part.capacity) {
            return Err(past(part.start, from, sectors, part.capacity));
        }
    }
    Ok(())
}

/// A request does not reach from one zone into another, if one of them is sequential.
fn one_zone(info: &Info, zones: &ZoneMap, at: Sector, bytes: u64) -> Result<(), Invalid> {
    let sectors = Sector(bytes / SECTOR_BYTES);
    let whole = |part: Part<'_>| part.end.0 - part.at.0 == sectors.0;
    match parts(info, zones, at, bytes).next().is_none_or(whole) {
        true => Ok(()),
        false => Err(Invalid::AcrossZones { at, sectors }),
    }
}

fn append(info: &Info, zones: &ZoneMap, zone: Sector, bytes: u64) -> Result<(), Invalid> {
    let max = append_span(info, zones, zone, bytes)?.max_append;
    let sectors = Sector(bytes / SECTOR_BYTES);
    if sectors > max {
        return Err(Invalid::AppendTooLong { sectors, max });
    }
    short_enough(info, bytes)
}

/// A range of a SECURE_ERASE is of whole units; a smaller last zone is one too.
fn erase_range(info: &Info, range: SectorRange) -> Result<(), Invalid> {
    let alignment = info.secure_erase.map_or(0, |limits| limits.alignment);
    let unit = info.zoned.map_or(0, |zoned| zoned.zone_size.0).max(alignment.into());
    let end = range.at.0.saturating_add(range.sectors.into());
    let whole = |at: u64| at.checked_rem(unit).is_none_or(|rest| rest == 0);
    if whole(range.at.0) && (whole(end) || end == info.capacity.0) {
        Ok(())
    } else {
        Err(Invalid::PartOfUnit { at: range.at, sectors: range.sectors, unit })
    }
}

fn transfer(info: &Info, at: Sector, bytes: u64) -> Result<(), Invalid> {
    span(info, at, bytes)?;
    short_enough(info, bytes)
}

fn report(info: &Info, from: Sector, bytes: usize) -> Result<(), Invalid> {
    zoned(info, RequestType::ZONE_REPORT)?;
    // A shorter one is allowed and tells nothing; and there are devices that it breaks.
    if bytes < REPORT_BYTES_MIN {
        return Err(Invalid::ReportTooSmall(bytes as u64));
    }
    inside(info, from, Sector(1))?;
    short_enough(info, bytes as u64)
}

fn manage(info: &Info, zone: Sector, request: RequestType) -> Result<Sector, Invalid> {
    let zoned = zoned(info, request)?;
    changes(info)?;
    zone_start(info, zoned, zone)?;
    Ok(zone)
}

fn zone_start(info: &Info, zoned: &ZonedInfo, zone: Sector) -> Result<(), Invalid> {
    inside(info, zone, Sector(1))?;
    if zone.is_multiple_of(zoned.zone_size) { Ok(()) } else { Err(Invalid::NotZoneStart(zone)) }
}

fn ranges(
    info: &Info,
    ranges: &[SectorRange],
    limits: Option<RangeLimits>,
    request: RequestType,
) -> Result<(), Invalid> {
    let limits = limits.ok_or(Invalid::Unsupported(request))?;
    changes(info)?;
    if ranges.is_empty() {
        return Err(Invalid::Empty);
    }
    if ranges.len() as u64 > u64::from(limits.max_ranges) {
        return Err(Invalid::TooManyRanges { count: ranges.len() as u64, max: limits.max_ranges });
    }
    short_enough(info, (ranges.len() as u64).saturating_mul(u64::from(DiscardSegment::BYTES)))?;
    for range in ranges {
        let bytes = u64::from(range.sectors) * SECTOR_BYTES;
        span(info, range.at, bytes)?;
        if range.sectors > limits.max_sectors {
            let max = u64::from(limits.max_sectors) * SECTOR_BYTES;
            return Err(Invalid::TooLong { bytes, max });
        }
    }
    Ok(())
}

fn aligned(at: Sector, bytes: u64, unit: u32) -> Result<(), Invalid> {
    let offset_aligned = at.to_bytes().is_some_and(|at| at.is_multiple_of(u64::from(unit)));
    if offset_aligned && bytes.is_multiple_of(u64::from(unit)) {
        Ok(())
    } else {
        Err(Invalid::Misaligned { at, bytes, unit })
    }
}

fn inside(info: &Info, at: Sector, sectors: Sector) -> Result<(), Invalid> {
    match at.checked_add(sectors) {
        Some(end) if end <= info.capacity => Ok(()),
        _ => Err(Invalid::PastCapacity { at, sectors, capacity: info.capacity }),
    }
}

fn short_enough(info: &Info, bytes: u64) -> Result<(), Invalid> {
    let max = u64::from(info.max_transfer);
    if bytes > max { Err(Invalid::TooLong { bytes, max }) } else { Ok(()) }
}
