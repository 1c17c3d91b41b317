//! D: what a report holds.

use alloc::format;

use zvb_wire::{Condition, RequestType, Status};

use super::init::conventional_only;
use crate::disk::{CONVENTIONAL, PREFERRED, REQUIRED, expect};
use crate::outcome::{Checked, fail, skip};
use crate::request::{Request, UNTOUCHED};
use crate::rig::Rig;

/// 68
pub(crate) fn capacity_fits(rig: &mut Rig<'_>) -> Checked {
    rig.zoned()?;
    let size = u64::from(rig.config.zoned.zone_sectors.get());
    for zone in rig.zones()? {
        if zone.capacity > size {
            let expected = format!("a zone capacity of at most zone_sectors, {size}");
            return fail(expected, format!("{} at sector {}", zone.capacity, zone.start));
        }
    }
    Ok(())
}

/// 74
pub(crate) fn starts_where_the_sector_is(rig: &mut Rig<'_>) -> Checked {
    rig.zoned()?;
    let zones = rig.zones()?;
    for zone in zones.iter().take(2).chain(zones.last()) {
        let len = rig.zone_len(zone).max(1);
        for offset in [0, 1, len / 2, len.saturating_sub(1)] {
            let offset = offset.min(len.saturating_sub(1));
            let report = rig.report(zone.start.saturating_add(offset), 1)?;
            if report.first().map(|first| first.start) != Some(zone.start) {
                let sector = zone.start.saturating_add(offset);
                let expected = format!("the zone at {} in a report from {sector}", zone.start);
                let got = report.first().map_or_else(
                    || "no zone".into(),
                    |first| format!("the zone at {}", first.start),
                );
                return fail(expected, got);
            }
        }
    }
    Ok(())
}

/// 75
pub(crate) fn any_room(rig: &mut Rig<'_>) -> Checked {
    rig.zoned()?;
    let there = rig.zones()?.len();
    // Too little for a header: answered, however, and nothing is written that does not fit.
    for room in [0usize, 1, 8, 63] {
        rig.ask(&Request::new(RequestType::ZONE_REPORT, 0).into(room))?;
    }
    for room in [64usize, 65, 127, 128, 129, 191, 192, 255, 256 + 32, 64 * 9] {
        let answer = rig.ask(&Request::new(RequestType::ZONE_REPORT, 0).into(room))?;
        expect(&format!("REPORT into {room} bytes"), answer.status, &[Status::OK])?;
        let count = answer.data.get(..8).and_then(|n| n.try_into().ok());
        let count: u64 = count.map_or(0, u64::from_le_bytes);
        let fits = (room / 64 - 1).min(there);
        if count != fits as u64 {
            let expected = format!("nr_zones {fits} in a report into {room} bytes");
            return fail(expected, format!("{count}"));
        }
        let behind = answer.data.get((fits + 1) * 64..).unwrap_or_default();
        if fits < there && behind.iter().any(|byte| *byte != UNTOUCHED) {
            return fail(format!("no part of a zone at the end of {room} bytes"), "a part of one");
        }
    }
    Ok(())
}

/// 76
pub(crate) fn reserved_is_zero(rig: &mut Rig<'_>) -> Checked {
    rig.zoned()?;
    let answer = rig.ask(&Request::new(RequestType::ZONE_REPORT, 0).into(64 * 5))?;
    expect("REPORT", answer.status, &[Status::OK])?;
    let reserved = answer.data.get(8..64).unwrap_or_default();
    if reserved.iter().any(|byte| *byte != 0) {
        return fail("zeroes behind nr_zones", format!("{reserved:?}"));
    }
    for zone in rig.zones()? {
        if !zone.reserved_zero {
            let got = format!("something else in the zone at {}", zone.start);
            return fail("zeroes in the reserved part of every zone", got);
        }
        if !matches!(zone.kind, CONVENTIONAL | REQUIRED | PREFERRED) {
            let got = format!("{} in the zone at {}", zone.kind, zone.start);
            return fail("1, 2 or 3 in z_type", got);
        }
        if Condition::try_from(zone.state).is_err() {
            return fail("a condition of the specification in z_state", zone.told());
        }
    }
    Ok(())
}

/// 77
pub(crate) fn not_wp_is_conventional(rig: &mut Rig<'_>) -> Checked {
    rig.zoned()?;
    for zone in rig.zones()? {
        // Any zone may fail (91): then its condition says that, of a conventional one too.
        let right = if zone.kind == CONVENTIONAL {
            zone.is(Condition::NotWp) || !zone.is_sound()
        } else {
            !zone.is(Condition::NotWp)
        };
        if !right {
            let expected = "NOT_WP in conventional zones that have not failed, and in no other";
            let got = format!("{} in a zone of type {}", zone.told(), zone.kind);
            return fail(expected, got);
        }
    }
    Ok(())
}

/// 78
pub(crate) fn pointer_is_stable(rig: &mut Rig<'_>) -> Checked {
    if let Ok(zone) = rig.fresh_one() {
        rig.make(RequestType::ZONE_FINISH, &zone, Condition::Full)?;
    }
    rig.zoned()?;
    let (first, second) = (rig.zones()?, rig.zones()?);
    for (a, b) in first.iter().zip(&second) {
        if a != b {
            let expected = format!("z_wp {} in every report of that zone", a.pointer);
            return fail(expected, format!("{}", b.pointer));
        }
    }
    Ok(())
}

/// 79
pub(crate) fn empty_points_at_start(rig: &mut Rig<'_>) -> Checked {
    rig.zoned()?;
    let zones = rig.zones()?;
    if conventional_only(&zones) {
        return skip("all zones are conventional");
    }
    let mut tried = false;
    for zone in zones.iter().filter(|zone| zone.is(Condition::Empty)) {
        tried = true;
        if zone.pointer != zone.start {
            let expected = format!("z_wp {} in an empty zone that begins there", zone.start);
            return fail(expected, format!("{}", zone.pointer));
        }
    }
    if tried { Ok(()) } else { skip("no zone is empty") }
}
