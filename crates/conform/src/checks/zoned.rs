//! C: what the keywords of zoned operation ask.

use alloc::format;
use alloc::vec::Vec;

use zvb_wire::{Condition, Features, Model, RequestType, Status};

use super::init::needs;
use crate::disk::{CONVENTIONAL, PREFERRED, Zone, expect, expect_state, pattern};
use crate::outcome::{Checked, Stop, fail, skip};
use crate::request::Request;
use crate::rig::{DATA_BYTES, Rig};

const INVALID: &[Status] = &[Status::ZONE_INVALID_CMD];

const MANAGE: [RequestType; 4] = [
    RequestType::ZONE_OPEN,
    RequestType::ZONE_CLOSE,
    RequestType::ZONE_FINISH,
    RequestType::ZONE_RESET,
];

/// 42
pub(crate) fn unknown_without_zoned(rig: &mut Rig<'_>) -> Checked {
    let features = rig.usual() - Features::ZONED;
    if !rig.up(features)? {
        return skip("a host-managed device does not come up without ZONED");
    }
    let data = pattern(42, rig.unit_bytes());
    for kind in MANAGE.into_iter().chain([RequestType::ZONE_RESET_ALL]) {
        let got = rig.command(kind, 0)?;
        expect(&format!("{kind:?} without ZONED"), got, &[Status::UNSUPP])?;
    }
    let (got, _) = rig.append(0, &data)?;
    expect("ZONE_APPEND without ZONED", got, &[Status::UNSUPP])?;
    let answer = rig.ask(&Request::new(RequestType::ZONE_REPORT, 0).into(4096))?;
    expect("ZONE_REPORT without ZONED", answer.status, &[Status::UNSUPP])
}

/// 43
pub(crate) fn conventional_is_not_managed(rig: &mut Rig<'_>) -> Checked {
    rig.writable()?;
    let zone = rig.conventional()?;
    for kind in MANAGE {
        let what = format!("{kind:?} of a conventional zone");
        rig.refused(&what, &Request::new(kind, zone.start), &zone, INVALID)?;
    }
    Ok(())
}

/// 44
pub(crate) fn append_wants_required(rig: &mut Rig<'_>) -> Checked {
    rig.writable()?;
    rig.zoned()?;
    if !rig.appends() {
        return skip("the device does not support ZONE_APPEND");
    }
    let zones = rig.zones()?;
    let data = pattern(44, rig.unit_bytes());
    let mut tried = false;
    for (kind, name) in [(CONVENTIONAL, "a conventional"), (PREFERRED, "a preferred")] {
        if let Some(zone) = zones.iter().find(|zone| zone.kind == kind) {
            tried = true;
            let request = Request::new(RequestType::ZONE_APPEND, zone.start).with(&data);
            rig.refused(&format!("an append to {name} zone"), &request, zone, INVALID)?;
        }
    }
    if tried { Ok(()) } else { skip("all zones are sequential-write-required") }
}

/// A full zone, made by FINISH.
fn full(rig: &mut Rig<'_>) -> Checked<Zone> {
    let zone = rig.fresh_one()?;
    rig.make(RequestType::ZONE_FINISH, &zone, Condition::Full)
}

/// Zones that a fault of the medium left so, if there are any.
fn faulty(rig: &mut Rig<'_>) -> Checked<Vec<Zone>> {
    rig.zoned()?;
    let mut zones = rig.zones()?;
    zones.retain(|zone| zone.is(Condition::ReadOnly) || zone.is(Condition::Offline));
    zones.truncate(8);
    Ok(zones)
}

fn refuse_faulty(rig: &mut Rig<'_>, kind: RequestType) -> Checked<bool> {
    let zones = faulty(rig)?;
    for zone in &zones {
        let what = format!("{kind:?} of a zone that is {}", zone.told());
        rig.refused(&what, &Request::new(kind, zone.start), zone, INVALID)?;
    }
    Ok(!zones.is_empty())
}

/// 45
pub(crate) fn open_refused(rig: &mut Rig<'_>) -> Checked {
    let zone = full(rig)?;
    let request = Request::new(RequestType::ZONE_OPEN, zone.start);
    rig.refused("OPEN of a full zone", &request, &zone, INVALID)?;
    refuse_faulty(rig, RequestType::ZONE_OPEN).map(drop)
}

/// 47
pub(crate) fn close_refused(rig: &mut Rig<'_>) -> Checked {
    let zone = rig.fresh_one()?;
    let request = Request::new(RequestType::ZONE_CLOSE, zone.start);
    rig.refused("CLOSE of an empty zone", &request, &zone, INVALID)?;
    let zone = full(rig)?;
    rig.refused("CLOSE of a full zone", &request, &zone, INVALID)?;
    refuse_faulty(rig, RequestType::ZONE_CLOSE).map(drop)
}

/// 48
pub(crate) fn finish_refused(rig: &mut Rig<'_>) -> Checked {
    rig.writable()?;
    if refuse_faulty(rig, RequestType::ZONE_FINISH)? {
        return Ok(());
    }
    skip("no zone is read-only or offline")
}

/// 49
pub(crate) fn reset_refused(rig: &mut Rig<'_>) -> Checked {
    rig.writable()?;
    if refuse_faulty(rig, RequestType::ZONE_RESET)? {
        return Ok(());
    }
    skip("no zone is read-only or offline")
}

/// 50
pub(crate) fn reset_all(rig: &mut Rig<'_>) -> Checked {
    let zone = rig.fresh_one()?;
    let conventional = rig.zones()?.into_iter().find(Zone::is_sound_conventional);
    let data = pattern(50, rig.unit_bytes());
    if let Some(other) = &conventional {
        expect("OUT to a conventional zone", rig.write(other.start, &data)?, &[Status::OK])?;
    }
    let faulty = faulty(rig)?;
    for state in ["IOPEN", "EOPEN", "CLOSED", "FULL"] {
        match state {
            "IOPEN" => rig.advance(&zone, 1)?,
            "EOPEN" => rig.make(RequestType::ZONE_OPEN, &zone, Condition::ExplicitOpen)?,
            "CLOSED" => {
                rig.advance(&zone, 1)?;
                rig.make(RequestType::ZONE_CLOSE, &zone, Condition::Closed)?
            }
            _ => rig.make(RequestType::ZONE_FINISH, &zone, Condition::Full)?,
        };
        // The sector means nothing.
        for sector in [0, zone.start.saturating_add(1)] {
            let got = rig.command(RequestType::ZONE_RESET_ALL, sector)?;
            expect("RESET_ALL", got, &[Status::OK])?;
        }
        let now = rig.zone(zone.start)?;
        expect_state(&format!("RESET_ALL with a zone that is {state}"), &now, Condition::Empty)?;
    }
    for zone in faulty {
        if rig.zone(zone.start)?.state != zone.state {
            return fail(format!("a zone that stays {}", zone.told()), "another condition");
        }
    }
    if let Some(other) = &conventional {
        let unit = rig.unit();
        if rig.read(other.start, unit)? != (Status::OK, data) {
            return fail("conventional zones keep their data", "something else is read");
        }
    }
    Ok(())
}

/// 52
pub(crate) fn append_wants_zone_start(rig: &mut Rig<'_>) -> Checked {
    let zone = rig.fresh_required_one()?;
    if !rig.appends() {
        return skip("the device does not support ZONE_APPEND");
    }
    let data = pattern(52, rig.unit_bytes());
    for offset in [1, rig.unit(), zone.capacity.saturating_sub(1)] {
        let sector = zone.start.saturating_add(offset);
        let request = Request::new(RequestType::ZONE_APPEND, sector).with(&data);
        let what = format!("an append {offset} sectors behind the start of a zone");
        rig.refused(&what, &request, &zone, INVALID)?;
    }
    Ok(())
}

/// 53
pub(crate) fn past_capacity(rig: &mut Rig<'_>) -> Checked {
    let unit = rig.unit();
    let zone = rig.fresh_required_one()?;
    let data = pattern(53, rig.unit_bytes().saturating_mul(2));
    let one = data.get(..data.len() / 2).unwrap_or(&data);
    let full = rig.make(RequestType::ZONE_FINISH, &zone, Condition::Full)?;
    let append = Request::new(RequestType::ZONE_APPEND, zone.start);
    // Before the OUT: a device that only has another status for that one may do worse to this.
    if rig.appends() {
        rig.refused("an append to a full zone", &append.with(one), &full, INVALID)?;
    }
    let request = Request::new(RequestType::OUT, zone.start).with(one);
    rig.refused("OUT to a full zone", &request, &full, INVALID)?;
    let zone = rig.fresh_required_one()?;
    let zone = rig.fill(&zone, unit)?;
    let request = Request::new(RequestType::OUT, zone.pointer).with(&data);
    // At the end of the disk such a range is outside it as well: the statement makes no difference.
    rig.refused("OUT of one block more than there is room for", &request, &zone, INVALID)?;
    let most = u64::from(rig.config.zoned.max_append_sectors.get());
    if most >= unit.saturating_mul(2) {
        let what = "an append of one block more than there is room for";
        rig.refused(what, &append.with(&data), &zone, INVALID)?;
    }
    Ok(())
}

/// 54
pub(crate) fn append_tells_where(rig: &mut Rig<'_>) -> Checked {
    let zone = rig.fresh_required_one()?;
    if !rig.appends() {
        return skip("the device does not support ZONE_APPEND");
    }
    let unit = rig.unit();
    for i in 0..3u64 {
        let data = pattern(540 + i, rig.unit_bytes());
        let (status, at) = rig.append(zone.start, &data)?;
        expect("an append", status, &[Status::OK])?;
        let expected = zone.start.saturating_add(i.saturating_mul(unit));
        if at != expected {
            return fail(format!("append_sector is {expected}"), format!("{at}"));
        }
        if rig.read(at, unit)? != (Status::OK, data) {
            return fail("the data that were appended, where append_sector says", "other data");
        }
    }
    Ok(())
}

/// 57
pub(crate) fn append_too_large(rig: &mut Rig<'_>) -> Checked {
    let zone = rig.fresh_required_one()?;
    let most = u64::from(rig.config.zoned.max_append_sectors.get());
    if most == 0 {
        return skip("the device does not support ZONE_APPEND");
    }
    let sectors = most.saturating_add(rig.unit());
    if sectors.saturating_mul(512) > DATA_BYTES || sectors > rig.most_sectors() {
        return skip("the largest append is larger than this run sends");
    }
    let data = pattern(57, sectors.saturating_mul(512));
    let request = Request::new(RequestType::ZONE_APPEND, zone.start).with(&data);
    rig.refused(&format!("an append of {sectors} sectors"), &request, &zone, INVALID)
}

/// 58
pub(crate) fn across_zones(rig: &mut Rig<'_>) -> Checked {
    let unit = rig.unit();
    let size = u64::from(rig.config.zoned.zone_sectors.get());
    // Two of them are neighbours, unless too many are read-only or offline.
    let zones = match rig.fresh_required(8) {
        Err(Stop::Skip(_)) => rig.fresh_required(2)?,
        other => other?,
    };
    let two = zones
        .iter()
        .zip(zones.iter().skip(1))
        .find(|(a, b)| a.start.saturating_add(size) == b.start && size >= unit.saturating_mul(4));
    let Some((first, second)) = two else { return skip("no two such zones lie side by side") };
    let across = second.start.saturating_sub(unit);
    let room = usize::try_from(rig.unit_bytes().saturating_mul(2)).unwrap_or(usize::MAX);
    let request = Request::new(RequestType::IN, across).into(room);
    rig.refused("IN across two zones", &request, first, INVALID)?;
    let data = pattern(58, rig.unit_bytes().saturating_mul(2));
    if first.capacity != size {
        // At no write pointer either: both answers are right.
        let both = [Status::ZONE_INVALID_CMD, Status::ZONE_UNALIGNED_WP];
        let request = Request::new(RequestType::OUT, across).with(&data);
        return rig.refused("OUT across two zones", &request, first, &both);
    }
    let first = rig.fill(first, unit)?;
    let request = Request::new(RequestType::OUT, first.pointer).with(&data);
    rig.refused("OUT across two zones", &request, &first, INVALID)?;
    let now = rig.zone(second.start)?;
    expect_state("OUT across two zones", &now, Condition::Empty)?;
    if u64::from(rig.config.zoned.max_append_sectors.get()) >= unit.saturating_mul(2) {
        let request = Request::new(RequestType::ZONE_APPEND, first.start).with(&data);
        rig.refused("an append across two zones", &request, &first, INVALID)?;
    }
    Ok(())
}

/// 59
pub(crate) fn off_the_pointer(rig: &mut Rig<'_>) -> Checked {
    const UNALIGNED: &[Status] = &[Status::ZONE_UNALIGNED_WP];
    let unit = rig.unit();
    let zone = rig.fresh_required_one()?;
    let data = pattern(59, rig.unit_bytes());
    let at = |sectors: u64| Request::new(RequestType::OUT, zone.start.saturating_add(sectors));
    rig.refused("OUT behind the start of an empty zone", &at(unit).with(&data), &zone, UNALIGNED)?;
    let zone = rig.advance(&zone, 2)?;
    rig.refused("OUT before the write pointer", &at(0).with(&data), &zone, UNALIGNED)?;
    rig.refused("OUT behind the write pointer", &at(3 * unit).with(&data), &zone, UNALIGNED)
}

/// 61
pub(crate) fn read_only_zone(rig: &mut Rig<'_>) -> Checked {
    rig.writable()?;
    let zone = rig.found(Condition::ReadOnly)?;
    let data = pattern(61, rig.unit_bytes());
    let request = Request::new(RequestType::OUT, zone.start).with(&data);
    rig.refused("OUT to a read-only zone", &request, &zone, INVALID)?;
    if rig.appends() {
        let request = Request::new(RequestType::ZONE_APPEND, zone.start).with(&data);
        rig.refused("an append to a read-only zone", &request, &zone, INVALID)?;
    }
    Ok(())
}

/// 62
pub(crate) fn offline_zone(rig: &mut Rig<'_>) -> Checked {
    let zone = rig.found(Condition::Offline)?;
    let data = pattern(62, rig.unit_bytes());
    let request = Request::new(RequestType::IN, zone.start).into(data.len());
    rig.refused("IN from an offline zone", &request, &zone, INVALID)?;
    rig.writable()?;
    let request = Request::new(RequestType::OUT, zone.start).with(&data);
    rig.refused("OUT to an offline zone", &request, &zone, INVALID)?;
    for kind in MANAGE {
        let what = format!("{kind:?} of an offline zone");
        rig.refused(&what, &Request::new(kind, zone.start), &zone, INVALID)?;
    }
    Ok(())
}

/// 63
pub(crate) fn earlier_life_is_gone(rig: &mut Rig<'_>) -> Checked {
    let unit = rig.unit();
    let zone = rig.fresh_one()?;
    let old = pattern(zone.start, rig.unit_bytes().saturating_mul(2));
    rig.advance(&zone, 2)?;
    if rig.read(zone.start, unit.saturating_mul(2))? != (Status::OK, old.clone()) {
        return fail("the data that were written", "other data");
    }
    rig.make(RequestType::ZONE_RESET, &zone, Condition::Empty)?;
    let (status, back) = rig.read(zone.start, unit.saturating_mul(2))?;
    if status == Status::OK && back == old {
        return fail("no data of a zone's earlier life after RESET", "they are read");
    }
    rig.advance(&zone, 1)?;
    rig.make(RequestType::ZONE_FINISH, &zone, Condition::Full)?;
    let (status, back) = rig.read(zone.start.saturating_add(unit), unit)?;
    if status == Status::OK && old.ends_with(&back) {
        return fail("no data of a zone's earlier life where FINISH skipped", "they are read");
    }
    Ok(())
}

/// 64
pub(crate) fn unwritten_reads(rig: &mut Rig<'_>) -> Checked {
    let zone = rig.fresh_one()?;
    let unit = rig.unit();
    rig.advance(&zone, 1)?;
    // Half written, half not.
    let written = pattern(zone.start, rig.unit_bytes());
    let (status, first) = rig.read(zone.start, unit.saturating_mul(2))?;
    if status != Status::OK {
        return Ok(());
    }
    if !first.starts_with(&written) {
        return fail("the written part of a range as it was written", "other data");
    }
    let (status, second) = rig.read(zone.start, unit.saturating_mul(2))?;
    if status == Status::OK && first == second {
        return Ok(());
    }
    fail("the same pattern for unwritten sectors every time", "it changes")
}

/// 65
pub(crate) fn erase_alignment(rig: &mut Rig<'_>) -> Checked {
    rig.zoned()?;
    needs(rig, Features::SECURE_ERASE, "SECURE_ERASE")?;
    let size = rig.config.zoned.zone_sectors.get();
    let alignment = rig.config.secure_erase_sector_alignment.get();
    if size > 0 && alignment.is_multiple_of(size) {
        return Ok(());
    }
    fail(format!("secure_erase_sector_alignment is a multiple of {size}"), format!("{alignment}"))
}

/// 66
pub(crate) fn erase_whole_zones(rig: &mut Rig<'_>) -> Checked {
    needs(rig, Features::SECURE_ERASE, "SECURE_ERASE")?;
    let zone = rig.fresh_one()?;
    // Never all of a zone, not even of a smaller last one: such a zone has room for four of them.
    let unit = rig.unit();
    let got = rig.ranges(RequestType::SECURE_ERASE, &[(zone.start, unit, 0)])?;
    if got == Status::OK {
        return fail("SECURE_ERASE of a part of a zone is refused", "OK");
    }
    Ok(())
}

/// 67
pub(crate) fn erase_resets(rig: &mut Rig<'_>) -> Checked {
    needs(rig, Features::SECURE_ERASE, "SECURE_ERASE")?;
    let zone = rig.fresh_one()?;
    rig.advance(&zone, 1)?;
    let len = rig.zone_len(&zone);
    let got = rig.ranges(RequestType::SECURE_ERASE, &[(zone.start, len, 0)])?;
    expect("SECURE_ERASE of a zone", got, &[Status::OK])?;
    let now = rig.zone(zone.start)?;
    expect_state("SECURE_ERASE", &now, Condition::Empty)
}

/// 73
pub(crate) fn other_errors(rig: &mut Rig<'_>) -> Checked {
    let zone = rig.fresh_one()?;
    let end = rig.config.capacity.get();
    for kind in MANAGE {
        for sector in [zone.start.saturating_add(1), end, u64::MAX] {
            let what = format!("{kind:?} at sector {sector}, where no zone begins");
            rig.refused(&what, &Request::new(kind, sector), &zone, INVALID)?;
        }
    }
    let request = Request::new(RequestType::ZONE_REPORT, end).into(4096);
    rig.refused("REPORT from the end of the disk", &request, &zone, INVALID)
}

/// 81
pub(crate) fn preferred_anywhere(rig: &mut Rig<'_>) -> Checked {
    if rig.zoned()? != Model::HostAware {
        return skip("there are no sequential-write-preferred zones");
    }
    let zones = rig.fresh(1)?;
    let Some(zone) = zones.iter().find(|zone| zone.kind == PREFERRED) else {
        return skip("there are no sequential-write-preferred zones");
    };
    let unit = rig.unit();
    for (place, seed) in [(2, 1), (0, 2), (1, 3), (0, 4)] {
        let at = zone.start.saturating_add(unit.saturating_mul(place));
        let data = pattern(seed, rig.unit_bytes());
        let what = format!("OUT {place} blocks behind the start of a preferred zone");
        expect(&what, rig.write(at, &data)?, &[Status::OK])?;
        if rig.read(at, unit)? != (Status::OK, data) {
            return fail("the data that were written", "other data");
        }
    }
    Ok(())
}
