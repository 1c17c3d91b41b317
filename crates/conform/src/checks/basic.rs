//! B: what any block device owes.

use alloc::format;

use zvb_wire::{DISCARD_FLAG_UNMAP, Features, ID_BYTES, Model, RequestType, Status};

use super::init::needs;
use crate::disk::{expect, pattern};
use crate::outcome::{Checked, Stop, fail, skip};
use crate::request::Request;
use crate::rig::Rig;

const KINDS: [(RequestType, Features, &str); 3] = [
    (RequestType::DISCARD, Features::DISCARD, "DISCARD"),
    (RequestType::WRITE_ZEROES, Features::WRITE_ZEROES, "WRITE_ZEROES"),
    (RequestType::SECURE_ERASE, Features::SECURE_ERASE, "SECURE_ERASE"),
];

/// 25
pub(crate) fn read_only_stays(rig: &mut Rig<'_>) -> Checked {
    needs(rig, Features::RO, "RO")?;
    rig.ready()?;
    let unit = rig.unit();
    let zoned = rig.model().is_some_and(|model| model != Model::None);
    let at = if zoned {
        let zones = rig.zones()?;
        zones.iter().find(|zone| zone.kind != 1).or(zones.first()).map_or(0, |zone| zone.start)
    } else {
        0
    };
    let (status, before) = rig.read(at, unit)?;
    let data = pattern(25, rig.unit_bytes());
    let got = rig.write(at, &data)?;
    expect("OUT on a read-only device", got, &[Status::IOERR])?;
    for (kind, feature, name) in KINDS {
        if rig.negotiated().contains(feature) {
            let got = rig.ranges(kind, &[(at, unit, 0)])?;
            expect(&format!("{name} on a read-only device"), got, &[Status::IOERR])?;
        }
    }
    if zoned {
        let zones = rig.zones()?;
        let (got, _) = rig.append(at, &data)?;
        expect("ZONE_APPEND on a read-only device", got, &[Status::IOERR])?;
        for kind in [
            RequestType::ZONE_OPEN,
            RequestType::ZONE_CLOSE,
            RequestType::ZONE_FINISH,
            RequestType::ZONE_RESET,
        ] {
            let got = rig.command(kind, at)?;
            expect(&format!("{kind:?} on a read-only device"), got, &[Status::IOERR])?;
        }
        let got = rig.command(RequestType::ZONE_RESET_ALL, 0)?;
        expect("ZONE_RESET_ALL on a read-only device", got, &[Status::IOERR])?;
        if rig.zones()? != zones {
            return fail("zones that stay as they are", "a report that has changed");
        }
    }
    let (after_status, after) = rig.read(at, unit)?;
    if (after_status, after) == (status, before) {
        return Ok(());
    }
    fail("data that stay as they are", "a read that has changed")
}

/// 26
pub(crate) fn unknown_flags(rig: &mut Rig<'_>) -> Checked {
    rig.writable()?;
    rig.ready()?;
    let mut tried = false;
    let unit = rig.unit();
    for (kind, feature, name) in KINDS {
        if !rig.negotiated().contains(feature) {
            continue;
        }
        tried = true;
        for flag in [2, 1 << 7, 1 << 31] {
            let got = rig.ranges(kind, &[(0, unit, flag)])?;
            expect(&format!("{name} with the flags {flag:#x}"), got, &[Status::UNSUPP])?;
        }
        // The flags come first, whatever the range is.
        let got = rig.ranges(kind, &[(u64::MAX / 512, unit, 2)])?;
        let what = format!("{name} with an unknown flag, past the end of the disk");
        expect(&what, got, &[Status::UNSUPP])?;
    }
    if tried { Ok(()) } else { skip("none of these requests is negotiated") }
}

/// 27
pub(crate) fn discard_with_unmap(rig: &mut Rig<'_>) -> Checked {
    rig.writable()?;
    rig.ready()?;
    if !rig.negotiated().contains(Features::DISCARD) {
        return skip("DISCARD is not negotiated");
    }
    let unit = rig.unit();
    let got = rig.ranges(RequestType::DISCARD, &[(0, unit, DISCARD_FLAG_UNMAP)])?;
    expect("DISCARD with unmap", got, &[Status::UNSUPP])
}

/// 28
pub(crate) fn discard_works(rig: &mut Rig<'_>) -> Checked {
    let (at, sectors) = rig.scratch()?;
    if !rig.negotiated().contains(Features::DISCARD) {
        return skip("DISCARD is not negotiated");
    }
    let align = u64::from(rig.config.discard_sector_alignment.get()).max(rig.unit());
    let first = at.next_multiple_of(align);
    let most = u64::from(rig.config.max_discard_sectors.get());
    let count = align.min(most);
    if count == 0 || first.saturating_add(count) > at.saturating_add(sectors) {
        return skip("no range is as DISCARD wants it");
    }
    let got = rig.ranges(RequestType::DISCARD, &[(first, count, 0)])?;
    expect("DISCARD of a range as it is wanted", got, &[Status::OK])
}

/// Writes a pattern, zeroes a part in the middle, and reads it all back.
fn zero(rig: &mut Rig<'_>, flags: u32) -> Checked {
    let (at, sectors) = rig.scratch()?;
    needs(rig, Features::WRITE_ZEROES, "WRITE_ZEROES")?;
    let (unit, bytes) = (rig.unit(), rig.unit_bytes());
    if sectors < unit.saturating_mul(3) {
        return skip("it takes three blocks, and the disk has fewer");
    }
    let most = u64::from(rig.config.max_write_zeroes_sectors.get());
    if most < unit {
        return fail("max_write_zeroes_sectors of a block or more", format!("{most}"));
    }
    let data = pattern(u64::from(flags), bytes.saturating_mul(3));
    expect("OUT", rig.write(at, &data)?, &[Status::OK])?;
    let got = rig.ranges(RequestType::WRITE_ZEROES, &[(at.saturating_add(unit), unit, flags)])?;
    let name = if flags == 0 { "WRITE_ZEROES" } else { "WRITE_ZEROES with unmap" };
    expect(name, got, &[Status::OK])?;
    let (status, back) = rig.read(at, unit.saturating_mul(3))?;
    expect("IN", status, &[Status::OK])?;
    let block = usize::try_from(bytes).unwrap_or(usize::MAX);
    for (index, (got, was)) in back.chunks(block).zip(data.chunks(block)).enumerate() {
        let right = if index == 1 { got.iter().all(|byte| *byte == 0) } else { got == was };
        if !right {
            let expected = format!("{name}: zeroes in its range, and nowhere else");
            return fail(expected, format!("block {index} of 3 is wrong"));
        }
    }
    Ok(())
}

/// 29
pub(crate) fn write_zeroes_unmap(rig: &mut Rig<'_>) -> Checked {
    zero(rig, DISCARD_FLAG_UNMAP)
}

/// 30
pub(crate) fn write_zeroes(rig: &mut Rig<'_>) -> Checked {
    zero(rig, 0)?;
    zero(rig, DISCARD_FLAG_UNMAP)
}

/// 31
pub(crate) fn may_unmap(rig: &mut Rig<'_>) -> Checked {
    needs(rig, Features::WRITE_ZEROES, "WRITE_ZEROES")?;
    match rig.config.write_zeroes_may_unmap {
        0 | 1 => skip("whether space is given back can not be seen from here"),
        other => fail("write_zeroes_may_unmap is 0 or 1", format!("{other}")),
    }
}

/// 34
pub(crate) fn cache_mode_switches(rig: &mut Rig<'_>) -> Checked {
    needs(rig, Features::CONFIG_WCE, "CONFIG_WCE")?;
    rig.ready()?;
    for mode in [0u8, 1] {
        rig.link.write_config(32, &[mode]).map_err(Stop::Link)?;
        let now = rig.read_config().map_err(Stop::Link)?.writeback;
        if now != mode {
            return fail(format!("writeback is {mode} once that was written"), format!("{now}"));
        }
        if mode == 0
            && let Ok((at, _)) = rig.scratch()
        {
            let data = pattern(34, rig.unit_bytes());
            expect("OUT with writeback 0", rig.write(at, &data)?, &[Status::OK])?;
        }
    }
    skip("the cache mode switches; a power loss can not be made from here")
}

/// 35
pub(crate) fn flush_answers(rig: &mut Rig<'_>) -> Checked {
    needs(rig, Features::FLUSH, "FLUSH")?;
    rig.ready()?;
    expect("FLUSH", rig.command(RequestType::FLUSH, 0)?, &[Status::OK])?;
    skip("FLUSH is answered; a power loss can not be made from here")
}

/// 38 and 39
pub(crate) fn lifetime(rig: &mut Rig<'_>) -> Checked {
    needs(rig, Features::LIFETIME, "LIFETIME")?;
    rig.ready()?;
    let answer = rig.ask(&Request::new(RequestType::GET_LIFETIME, 0).into(6))?;
    expect("GET_LIFETIME", answer.status, &[Status::OK])?;
    for (field, most) in answer.data.chunks_exact(2).zip([3u16, 11, 11]) {
        let value = field.try_into().map_or(u16::MAX, u16::from_le_bytes);
        if value > most {
            return fail(format!("lifetime values of at most {most}"), format!("{value}"));
        }
    }
    Ok(())
}

/// 40
pub(crate) fn unknown_requests(rig: &mut Rig<'_>) -> Checked {
    rig.ready()?;
    for number in [3, 17, 19, 27, 0x100, 0x7fff_ffff, u32::MAX] {
        let got = rig.command(RequestType(number), 0)?;
        expect(&format!("request type {number}"), got, &[Status::UNSUPP])?;
    }
    let room = ID_BYTES as usize;
    let answer = rig.ask(&Request::new(RequestType::GET_ID, 0).into(room))?;
    expect("GET_ID", answer.status, &[Status::OK])?;
    let mut text = answer.data.iter().skip_while(|byte| byte.is_ascii() && **byte != 0);
    if text.all(|byte| *byte == 0) {
        return Ok(());
    }
    fail("a name in ASCII, padded with NUL", format!("{:?}", answer.data))
}

/// 41
pub(crate) fn queues(rig: &mut Rig<'_>) -> Checked {
    needs(rig, Features::MQ, "MQ")?;
    let told = rig.config.num_queues.get();
    if told == 0 {
        return fail("one queue or more", "num_queues 0");
    }
    let features = rig.usual() | Features::MQ;
    if !rig.negotiate(features)? {
        return skip("the device refuses this choice of features");
    }
    let count = rig.link.max_queues().map_err(Stop::Link)?.min(told).min(4);
    rig.set_up_queues(count)?;
    rig.go(features)?;
    for queue in 0..count {
        let room = ID_BYTES as usize;
        let answer = rig.ask_on(queue, &Request::new(RequestType::GET_ID, 0).into(room))?;
        expect(&format!("GET_ID on queue {queue}"), answer.status, &[Status::OK])?;
    }
    Ok(())
}
