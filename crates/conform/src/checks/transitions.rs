//! D: every condition, every command, and what comes of it.

use alloc::format;

use zvb_wire::{Condition, RequestType, Status};

use crate::disk::{REQUIRED, Zone, expect, expect_state, pattern};
use crate::outcome::{Checked, Stop, fail, skip};
use crate::request::Request;
use crate::rig::Rig;

/// What a zone is before a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum From {
    Empty,
    Implicit,
    /// Explicitly open, with nothing written.
    OpenedEmpty,
    /// Explicitly open, with something written.
    Opened,
    Closed,
    Full,
}

/// A command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Do {
    Write,
    Append,
    /// Writes to the capacity.
    Fill,
    Zone(RequestType),
}

const OPEN: Do = Do::Zone(RequestType::ZONE_OPEN);
const CLOSE: Do = Do::Zone(RequestType::ZONE_CLOSE);
const FINISH: Do = Do::Zone(RequestType::ZONE_FINISH);
const RESET: Do = Do::Zone(RequestType::ZONE_RESET);
const RESET_ALL: Do = Do::Zone(RequestType::ZONE_RESET_ALL);

/// Number, condition before, command, condition after: all of these succeed.
const TABLE: [(u16, From, Do, Condition); 35] = [
    (83, From::Empty, Do::Write, Condition::ImplicitOpen),
    (83, From::Empty, Do::Append, Condition::ImplicitOpen),
    (83, From::Empty, OPEN, Condition::ExplicitOpen),
    (83, From::Empty, RESET, Condition::Empty),
    (83, From::Empty, RESET_ALL, Condition::Empty),
    (84, From::Implicit, RESET, Condition::Empty),
    (84, From::Implicit, RESET_ALL, Condition::Empty),
    (84, From::Implicit, OPEN, Condition::ExplicitOpen),
    (84, From::Implicit, CLOSE, Condition::Closed),
    (84, From::Implicit, FINISH, Condition::Full),
    (84, From::Implicit, Do::Write, Condition::ImplicitOpen),
    (84, From::Implicit, Do::Append, Condition::ImplicitOpen),
    (84, From::Implicit, Do::Fill, Condition::Full),
    (86, From::OpenedEmpty, CLOSE, Condition::Empty),
    (86, From::OpenedEmpty, OPEN, Condition::ExplicitOpen),
    (86, From::OpenedEmpty, RESET, Condition::Empty),
    (86, From::OpenedEmpty, FINISH, Condition::Full),
    (86, From::Opened, RESET, Condition::Empty),
    (86, From::Opened, RESET_ALL, Condition::Empty),
    (86, From::Opened, CLOSE, Condition::Closed),
    (86, From::Opened, FINISH, Condition::Full),
    (86, From::Opened, OPEN, Condition::ExplicitOpen),
    (86, From::Opened, Do::Write, Condition::ExplicitOpen),
    (86, From::Opened, Do::Append, Condition::ExplicitOpen),
    (86, From::Opened, Do::Fill, Condition::Full),
    (88, From::Closed, RESET, Condition::Empty),
    (88, From::Closed, RESET_ALL, Condition::Empty),
    (88, From::Closed, Do::Write, Condition::ImplicitOpen),
    (88, From::Closed, Do::Append, Condition::ImplicitOpen),
    (88, From::Closed, OPEN, Condition::ExplicitOpen),
    (88, From::Closed, CLOSE, Condition::Closed),
    (89, From::Full, RESET, Condition::Empty),
    (89, From::Full, RESET_ALL, Condition::Empty),
    (90, From::Empty, FINISH, Condition::Full),
    (90, From::Closed, FINISH, Condition::Full),
];

/// An empty zone made what a row wants.
fn make(rig: &mut Rig<'_>, from: From) -> Checked<Zone> {
    let zone = rig.fresh_one()?;
    match from {
        From::Empty => Ok(zone),
        From::Implicit => {
            let zone = rig.advance(&zone, 1)?;
            expect_state("OUT to an empty zone", &zone, Condition::ImplicitOpen)?;
            Ok(zone)
        }
        From::OpenedEmpty | From::Opened | From::Closed => {
            rig.make(RequestType::ZONE_OPEN, &zone, Condition::ExplicitOpen)?;
            if from == From::OpenedEmpty {
                return Ok(zone);
            }
            let zone = rig.advance(&zone, 1)?;
            if from == From::Opened {
                return Ok(zone);
            }
            rig.make(RequestType::ZONE_CLOSE, &zone, Condition::Closed)
        }
        From::Full => rig.make(RequestType::ZONE_FINISH, &zone, Condition::Full),
    }
}

/// Tries the rows of one number.
fn rows(rig: &mut Rig<'_>, number: u16) -> Checked {
    for (_, from, what, to) in TABLE.into_iter().filter(|row| row.0 == number) {
        let zone = make(rig, from)?;
        if what == Do::Append && (zone.kind != REQUIRED || !rig.appends()) {
            continue;
        }
        let told = format!("{what:?} to a zone that is {from:?}");
        let before = rig.zone(zone.start)?;
        let pointer = if before.is(Condition::Empty) { zone.start } else { before.pointer };
        let data = pattern(number.into(), rig.unit_bytes());
        let status = match what {
            Do::Write => rig.write(pointer, &data)?,
            Do::Append => rig.append(zone.start, &data)?.0,
            Do::Fill => {
                let rest = Zone { start: zone.start, ..before };
                match fill_rest(rig, &rest)? {
                    Some(status) => status,
                    None => continue,
                }
            }
            Do::Zone(RequestType::ZONE_RESET_ALL) => rig.command(RequestType::ZONE_RESET_ALL, 0)?,
            Do::Zone(kind) => rig.command(kind, zone.start)?,
        };
        expect(&told, status, &[Status::OK])?;
        let after = rig.zone(zone.start)?;
        expect_state(&told, &after, to)?;
        if matches!(what, Do::Write | Do::Append) && after.pointer != pointer + rig.unit() {
            let expected = format!("{told}: z_wp {}", pointer.saturating_add(rig.unit()));
            return fail(expected, format!("{}", after.pointer));
        }
    }
    if number == 89 {
        // FINISH of a full zone succeeds, and changes nothing.
        let zone = make(rig, From::Full)?;
        rig.make(RequestType::ZONE_FINISH, &zone, Condition::Full)?;
    }
    Ok(())
}

/// Writes from the pointer to the capacity; `None` when that is too much.
fn fill_rest(rig: &mut Rig<'_>, zone: &Zone) -> Checked<Option<Status>> {
    let rest =
        Zone { start: zone.pointer, capacity: zone.limit().saturating_sub(zone.pointer), ..*zone };
    match rig.fill_from(&rest, 0) {
        Ok(()) => Ok(Some(Status::OK)),
        Err(Stop::Skip(_)) => Ok(None),
        Err(other) => Err(other),
    }
}

pub(crate) fn from_empty(rig: &mut Rig<'_>) -> Checked {
    rows(rig, 83)
}

pub(crate) fn from_implicit(rig: &mut Rig<'_>) -> Checked {
    rows(rig, 84)
}

pub(crate) fn from_explicit(rig: &mut Rig<'_>) -> Checked {
    rows(rig, 86)
}

pub(crate) fn from_closed(rig: &mut Rig<'_>) -> Checked {
    rows(rig, 88)
}

pub(crate) fn from_full(rig: &mut Rig<'_>) -> Checked {
    rows(rig, 89)
}

pub(crate) fn finish_anything(rig: &mut Rig<'_>) -> Checked {
    rows(rig, 90)
}

/// 72
pub(crate) fn partial_granule(rig: &mut Rig<'_>) -> Checked {
    let zone = rig.fresh_required_one()?;
    let granularity = rig.config.zoned.write_granularity.get();
    if granularity <= 512 {
        return skip("a sector is a whole granule");
    }
    let data = pattern(72, u64::from(granularity).saturating_add(512));
    let whole = usize::try_from(granularity).unwrap_or(usize::MAX);
    for len in [512, whole.saturating_sub(512), data.len()] {
        let data = data.get(..len).unwrap_or(&data);
        let request = Request::new(RequestType::OUT, zone.start).with(data);
        let what = format!("OUT of {len} bytes where the granularity is {granularity}");
        rig.refused(&what, &request, &zone, &[Status::ZONE_UNALIGNED_WP])?;
    }
    Ok(())
}

/// 80
pub(crate) fn pointer_advances(rig: &mut Rig<'_>) -> Checked {
    let mut zone = rig.fresh_required_one()?;
    let unit = rig.unit();
    let mut pointer = zone.start;
    for units in [1, 2] {
        zone = rig.advance(&zone, units)?;
        pointer = pointer.saturating_add(units.saturating_mul(unit));
        if zone.pointer != pointer {
            let expected = format!("z_wp {pointer} after writes up to there");
            return fail(expected, format!("{}", zone.pointer));
        }
    }
    Ok(())
}

/// 92
pub(crate) fn faulty_reads(rig: &mut Rig<'_>) -> Checked {
    let zone = rig.found(Condition::ReadOnly)?;
    let unit = rig.unit();
    let (status, _) = rig.read(zone.start, unit)?;
    expect("IN from a read-only zone", status, &[Status::OK])
}

/// 93
pub(crate) fn capacity_below_size(rig: &mut Rig<'_>) -> Checked {
    let zone = rig.fresh_required_one()?;
    let unit = rig.unit();
    if zone.capacity.saturating_add(unit) > rig.zone_len(&zone) {
        return skip("the capacity of the zones is their size");
    }
    let data = pattern(93, rig.unit_bytes());
    let room = data.len();
    let above = zone.limit();
    let full = rig.fill(&zone, 0)?;
    expect_state("written up to its capacity", &full, Condition::Full)?;
    let request = Request::new(RequestType::OUT, above).with(&data);
    let what = "OUT between the capacity and the end of a zone";
    rig.refused(what, &request, &full, &[Status::ZONE_INVALID_CMD])?;
    let answer = rig.ask(&Request::new(RequestType::IN, above).into(room))?;
    if answer.status == Status::OK && answer.data == data {
        return fail("nothing written between the capacity and the end of a zone", "data");
    }
    Ok(())
}

/// 94
pub(crate) fn nothing_written(rig: &mut Rig<'_>) -> Checked {
    let zone = rig.fresh_one()?;
    for kind in [RequestType::OUT, RequestType::ZONE_APPEND] {
        if kind == RequestType::ZONE_APPEND && (zone.kind != REQUIRED || !rig.appends()) {
            continue;
        }
        rig.ask(&Request::new(kind, zone.start))?;
        let now = rig.zone(zone.start)?;
        expect_state(&format!("{kind:?} of nothing to an empty zone"), &now, Condition::Empty)?;
    }
    Ok(())
}

/// 96
pub(crate) fn reset_keeps_zones(rig: &mut Rig<'_>) -> Checked {
    let zones = rig.fresh(2)?;
    let (Some(written), Some(full)) = (zones.first(), zones.get(1)) else {
        return skip("there are too few zones");
    };
    rig.make(RequestType::ZONE_FINISH, full, Condition::Full)?;
    let written = rig.advance(written, 2)?;
    rig.stop()?;
    rig.ready()?;
    let now = rig.zone(written.start)?;
    if now.pointer != written.pointer {
        let expected = format!("z_wp {} after a reset of the device", written.pointer);
        return fail(expected, format!("{}", now.pointer));
    }
    let now = rig.zone(full.start)?;
    expect_state("a reset of the device", &now, Condition::Full)?;
    skip("kept over a reset of the device; a restart can not be made from here")
}
