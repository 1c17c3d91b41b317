//! What the limits on open and active zones do: parts of A, C and D.

use alloc::format;
use alloc::vec::Vec;

use zvb_wire::{Condition, RequestType, Status};

use crate::disk::{Zone, expect, expect_state, pattern};
use crate::outcome::{Checked, fail, skip};
use crate::request::Request;
use crate::rig::Rig;

/// Zones that are opened, at most.
const MOST: usize = 1024;
/// Zones that are opened where there is no limit.
const SOME: usize = 32;
const RESOURCE: &[Status] = &[Status::ZONE_OPEN_RESOURCE, Status::ZONE_ACTIVE_RESOURCE];

fn max_open(rig: &Rig<'_>) -> usize {
    usize::try_from(rig.config.zoned.max_open_zones.get()).unwrap_or(usize::MAX)
}

fn max_active(rig: &Rig<'_>) -> usize {
    usize::try_from(rig.config.zoned.max_active_zones.get()).unwrap_or(usize::MAX)
}

/// The most zones that can be explicitly open: `None` when there is no limit.
fn open_most(rig: &Rig<'_>) -> Option<usize> {
    match (max_open(rig), max_active(rig)) {
        (0, 0) => None,
        (0, active) => Some(active),
        (open, 0) => Some(open),
        (open, active) => Some(open.min(active)),
    }
}

fn limited(name: &str, limit: usize) -> Checked<usize> {
    match limit {
        0 => skip(format!("there is no limit on {name} zones")),
        1..=MOST => Ok(limit),
        _ => skip(format!("the limit on {name} zones is above {MOST}")),
    }
}

/// As many zones explicitly open as there may be, then `more` zones that are empty.
fn all_open(rig: &mut Rig<'_>, more: usize) -> Checked<(Vec<Zone>, Vec<Zone>)> {
    let Some(most) = open_most(rig) else { return skip("there is no limit on open zones") };
    let most = limited("open", most)?;
    let mut zones = rig.fresh(most.saturating_add(more))?;
    let rest = zones.split_off(most);
    for zone in &mut zones {
        *zone = rig.make(RequestType::ZONE_OPEN, zone, Condition::ExplicitOpen)?;
    }
    Ok((zones, rest))
}

/// `count` zones closed, then `more` zones that are empty.
fn closed(rig: &mut Rig<'_>, count: usize, more: usize) -> Checked<(Vec<Zone>, Vec<Zone>)> {
    let mut zones = rig.fresh(count.saturating_add(more))?;
    let rest = zones.split_off(count);
    for zone in &mut zones {
        rig.make(RequestType::ZONE_OPEN, zone, Condition::ExplicitOpen)?;
        rig.advance(zone, 1)?;
        *zone = rig.make(RequestType::ZONE_CLOSE, zone, Condition::Closed)?;
    }
    Ok((zones, rest))
}

fn first(zones: &[Zone]) -> Checked<Zone> {
    zones.first().copied().map_or_else(|| skip("there are too few zones"), Ok)
}

/// The requests that want an open zone: OPEN, and for zones that are written at the pointer OUT and
/// ZONE_APPEND.
fn openers<'d>(rig: &Rig<'_>, zone: &Zone, data: &'d [u8]) -> Vec<Request<'d>> {
    let mut all = alloc::vec![Request::new(RequestType::ZONE_OPEN, zone.start)];
    if zone.kind == crate::disk::REQUIRED {
        let at = if zone.is(Condition::Empty) { zone.start } else { zone.pointer };
        all.push(Request::new(RequestType::OUT, at).with(data));
        if rig.appends() {
            all.push(Request::new(RequestType::ZONE_APPEND, zone.start).with(data));
        }
    }
    all
}

fn all_refused(rig: &mut Rig<'_>, zone: &Zone, why: &str, allowed: &[Status]) -> Checked {
    let data = pattern(46, rig.unit_bytes());
    for request in openers(rig, zone, &data) {
        let what = format!("{:?} to a zone that is {} with {why}", request.kind, zone.told());
        rig.refused(&what, &request, zone, allowed)?;
    }
    Ok(())
}

/// 13
pub(crate) fn open_limit(rig: &mut Rig<'_>) -> Checked {
    rig.zoned()?;
    if max_open(rig) == 0 {
        let most = if max_active(rig) == 0 { SOME } else { max_active(rig).min(SOME) };
        let count = most.min(count_fresh(rig)?).max(1);
        for zone in rig.fresh(count)? {
            rig.make(RequestType::ZONE_OPEN, &zone, Condition::ExplicitOpen)?;
        }
        return Ok(());
    }
    let (_, rest) = all_open(rig, 1)?;
    let zone = first(&rest)?;
    let request = Request::new(RequestType::ZONE_OPEN, zone.start);
    let what = format!("OPEN of one zone more than max_open_zones, {}", max_open(rig));
    rig.refused(&what, &request, &zone, RESOURCE)
}

fn count_fresh(rig: &mut Rig<'_>) -> Checked<usize> {
    rig.writable()?;
    let zones = rig.all_empty()?;
    Ok(zones.iter().filter(|zone| zone.is_sequential() && zone.is(Condition::Empty)).count())
}

/// 14
pub(crate) fn active_limit(rig: &mut Rig<'_>) -> Checked {
    rig.zoned()?;
    if max_active(rig) == 0 {
        let count = SOME.min(count_fresh(rig)?).max(1);
        closed(rig, count, 0)?;
        return Ok(());
    }
    let most = limited("active", max_active(rig))?;
    let (_, rest) = closed(rig, most, 1)?;
    let zone = first(&rest)?;
    let request = Request::new(RequestType::ZONE_OPEN, zone.start);
    let what = format!("OPEN of an empty zone beside {most} active ones, the limit");
    rig.refused(&what, &request, &zone, RESOURCE)
}

/// 46
pub(crate) fn open_without_resources(rig: &mut Rig<'_>) -> Checked {
    let (_, rest) = all_open(rig, 1)?;
    let zone = first(&rest)?;
    let request = Request::new(RequestType::ZONE_OPEN, zone.start);
    rig.refused("OPEN with all open zones taken", &request, &zone, RESOURCE)
}

/// 51
pub(crate) fn write_without_resources(rig: &mut Rig<'_>) -> Checked {
    rig.fresh_required_one()?;
    let (open, rest) = all_open(rig, 1)?;
    let zone = first(&rest)?;
    all_refused(rig, &zone, "all open zones taken", RESOURCE)?;
    let active = max_active(rig);
    if max_open(rig) == 0 || (active != 0 && active <= open.len()) {
        return Ok(());
    }
    // A closed zone beside as many open ones as there may be.
    let (closed, _) = closed(rig, 1, 0)?;
    let zone = first(&closed)?;
    open_others(rig, &closed)?;
    all_refused(rig, &zone, "all open zones taken", RESOURCE)
}

/// Opens as many zones as there may be, none of `but`, which stay as they are.
fn open_others(rig: &mut Rig<'_>, but: &[Zone]) -> Checked<Vec<Zone>> {
    let Some(most) = open_most(rig) else { return skip("there is no limit on open zones") };
    let zones: Vec<Zone> = rig
        .zones()?
        .into_iter()
        .filter(|zone| zone.is_sequential() && zone.is(Condition::Empty))
        .filter(|zone| !but.iter().any(|other| other.start == zone.start))
        .take(most)
        .collect();
    if zones.len() < most {
        return skip("there are fewer sequential zones than this takes");
    }
    for zone in &zones {
        rig.make(RequestType::ZONE_OPEN, zone, Condition::ExplicitOpen)?;
    }
    Ok(zones)
}

/// 60 and 85: as many zones implicitly open as there may be, and one more. The zones, in order.
fn implicit_and_one(rig: &mut Rig<'_>) -> Checked<Vec<Zone>> {
    rig.fresh_required_one()?;
    let most = limited("open", max_open(rig))?;
    let active = max_active(rig);
    if active != 0 && active <= most {
        return skip("the limit on active zones leaves no room for a closed one");
    }
    let zones = rig.fresh(most.saturating_add(1))?;
    let mut now = Vec::new();
    for zone in zones.iter().take(most) {
        let zone = rig.advance(zone, 1)?;
        expect_state("OUT to an empty zone", &zone, Condition::ImplicitOpen)?;
    }
    let last = zones.last().copied().map_or_else(|| skip("there are too few zones"), Ok)?;
    let data = pattern(60, rig.unit_bytes());
    let status = rig.write(last.start, &data)?;
    if RESOURCE.contains(&status) {
        return skip("the device closes no zone by itself");
    }
    expect("OUT with all open zones implicitly open", status, &[Status::OK])?;
    for zone in &zones {
        now.push(rig.zone(zone.start)?);
    }
    Ok(now)
}

/// 60
pub(crate) fn may_close(rig: &mut Rig<'_>) -> Checked {
    implicit_and_one(rig).map(drop)
}

/// 85
pub(crate) fn closes_one(rig: &mut Rig<'_>) -> Checked {
    let zones = implicit_and_one(rig)?;
    let closed = zones.iter().filter(|zone| zone.is(Condition::Closed)).count();
    let open = zones.iter().filter(|zone| zone.is(Condition::ImplicitOpen)).count();
    let last = zones.last().is_some_and(|zone| zone.is(Condition::ImplicitOpen));
    if closed == 1 && last && open.saturating_add(closed) == zones.len() {
        return Ok(());
    }
    let got = format!("{open} implicitly open and {closed} closed");
    fail("one zone closed to make room for another", got)
}

/// 69
pub(crate) fn limits_hold(rig: &mut Rig<'_>) -> Checked {
    let (_, rest) = all_open(rig, 1)?;
    let zone = first(&rest)?;
    all_refused(rig, &zone, "all open zones taken", RESOURCE)?;
    if max_active(rig) == 0 {
        return Ok(());
    }
    let most = limited("active", max_active(rig))?;
    let (_, rest) = closed(rig, most, 1)?;
    let zone = first(&rest)?;
    all_refused(rig, &zone, "all active zones taken", RESOURCE)
}

/// Both limits reached: closed zones up to the active limit, the others explicitly open. The closed, and
/// one that is empty.
fn both_reached(rig: &mut Rig<'_>) -> Checked<(Vec<Zone>, Zone)> {
    rig.zoned()?;
    let (open, active) = (max_open(rig), max_active(rig));
    if open == 0 || active == 0 {
        return skip("there are not both limits");
    }
    if active < open {
        return skip("the limit on active zones is below that on open ones");
    }
    limited("active", active)?;
    let need = active.saturating_add(1);
    rig.fresh(need)?;
    let (closed, _) = closed(rig, active.saturating_sub(open), 0)?;
    open_others(rig, &closed)?;
    let zones = rig.zones()?;
    let empty = zones.iter().find(|zone| zone.is_sequential() && zone.is(Condition::Empty));
    match empty {
        Some(zone) => Ok((closed, *zone)),
        None => skip("no zone is left that is empty"),
    }
}

/// 70
pub(crate) fn active_comes_first(rig: &mut Rig<'_>) -> Checked {
    let (_, zone) = both_reached(rig)?;
    all_refused(rig, &zone, "both limits reached", &[Status::ZONE_ACTIVE_RESOURCE])
}

/// 71
pub(crate) fn each_has_its_own(rig: &mut Rig<'_>) -> Checked {
    rig.zoned()?;
    let (open, active) = (max_open(rig), max_active(rig));
    let mut tried = false;
    if open != 0 && (active == 0 || active > open) {
        let (_, rest) = all_open(rig, 1)?;
        let zone = first(&rest)?;
        all_refused(rig, &zone, "only max_open reached", &[Status::ZONE_OPEN_RESOURCE])?;
        tried = true;
    }
    if active != 0 {
        let most = limited("active", active)?;
        let (_, rest) = closed(rig, most, 1)?;
        let zone = first(&rest)?;
        all_refused(rig, &zone, "only max_active reached", &[Status::ZONE_ACTIVE_RESOURCE])?;
        tried = true;
    }
    if open != 0 && active > open {
        // A closed zone is active already.
        let (closed, _) = both_reached(rig)?;
        let zone = first(&closed)?;
        all_refused(rig, &zone, "both limits reached", &[Status::ZONE_OPEN_RESOURCE])?;
    }
    if tried { Ok(()) } else { skip("there are no limits") }
}

/// 82
pub(crate) fn counts_stay(rig: &mut Rig<'_>) -> Checked {
    rig.zoned()?;
    let (open, active) = (max_open(rig), max_active(rig));
    if open == 0 && active == 0 {
        return skip("there are no limits");
    }
    let highest = if active == 0 { open } else { active };
    let count = limited("open or active", highest)?.saturating_add(2).min(count_fresh(rig)?);
    if count < 2 {
        return skip("there are fewer than two usable sequential zones");
    }
    let zones = rig.fresh(count)?;
    let data = pattern(82, rig.unit_bytes());
    let mut random = 0x1234_5678u64;
    for step in 0..256 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let index = usize::try_from(random % count.max(1) as u64).unwrap_or(0);
        let Some(zone) = zones.get(index) else { break };
        let now = rig.zone(zone.start)?;
        let kind = match (random >> 32) % 8 {
            0 => RequestType::ZONE_OPEN,
            1 => RequestType::ZONE_CLOSE,
            2 if (random >> 40).is_multiple_of(4) => RequestType::ZONE_FINISH,
            3 => RequestType::ZONE_RESET,
            _ => RequestType::OUT,
        };
        let at = if kind == RequestType::OUT && !now.is(Condition::Full) {
            now.pointer
        } else {
            now.start
        };
        let data: &[u8] = if kind == RequestType::OUT { &data } else { &[] };
        let before = counts(rig, &zones)?;
        let status = rig.ask(&Request::new(kind, at).with(data))?.status;
        let after = counts(rig, &zones)?;
        let told = |(open, active)| format!("{open} open and {active} active after step {step}");
        if (open != 0 && after.0 > open) || (active != 0 && after.1 > active) {
            let what = format!("at most {open} open and {active} active zones (0: no limit)");
            return fail(what, told(after));
        }
        let wrong = match status {
            Status::ZONE_OPEN_RESOURCE => open == 0 || before.0 < open,
            Status::ZONE_ACTIVE_RESOURCE => active == 0 || before.1 < active,
            _ => false,
        };
        if wrong {
            return fail(format!("no {status} below the limit"), told(before));
        }
    }
    Ok(())
}

/// Open zones, and active ones.
fn counts(rig: &mut Rig<'_>, zones: &[Zone]) -> Checked<(usize, usize)> {
    let now = match (zones.first(), zones.last()) {
        (Some(first), Some(last)) if zones.len() <= crate::disk::REPORT_ZONES / 2 => {
            let size = u64::from(rig.config.zoned.zone_sectors.get()).max(1);
            let span = last.start.saturating_sub(first.start) / size;
            let count = usize::try_from(span).unwrap_or(usize::MAX).saturating_add(1);
            rig.report(first.start, count.min(crate::disk::REPORT_ZONES))?
        }
        _ => rig.zones()?,
    };
    let conditions: Vec<Condition> =
        now.iter().filter_map(|zone| Condition::try_from(zone.state).ok()).collect();
    let open = conditions.iter().filter(|condition| condition.is_open()).count();
    let active = conditions.iter().filter(|condition| condition.is_active()).count();
    Ok((open, active))
}

/// 87
pub(crate) fn explicit_stays_open(rig: &mut Rig<'_>) -> Checked {
    let (open, rest) = all_open(rig, 1)?;
    let zone = first(&rest)?;
    let data = pattern(87, rig.unit_bytes());
    for request in openers(rig, &zone, &data) {
        rig.ask(&request)?;
        for zone in &open {
            let now = rig.zone(zone.start)?;
            let what = format!("{:?} to another zone at the limit", request.kind);
            expect_state(&what, &now, Condition::ExplicitOpen)?;
        }
    }
    Ok(())
}
