//! The driver's own exercise, on any device: written and appended at depth over several queues, read back
//! and verified, zones managed, reports into small buffers.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use zvb_driver::{
    Answer, Condition, Disk, Features, Invalid, Request, RequestError, Sector, SectorRange,
    SubmitError, Token, Transport, Zone, ZoneType,
};

use crate::memory::Shared;
use crate::told;

/// Zones that are filled each way: enough for several at once on every queue.
const ZONES: usize = 6;
/// Requests in flight on a queue.
const DEPTH: usize = 16;
/// No request is larger, in sectors.
const PIECE_SECTORS: u64 = 128;
/// No more of a zone is filled, in sectors: 16 MiB.
const FILL_SECTORS: u64 = 32_768;
/// How long a device that works may be silent, in milliseconds: a machine in a machine is slow.
const TIMEOUT_MS: u32 = 60_000;
/// The room of a plain disk that is written, in sectors.
const PLAIN_SECTORS: u64 = 8192;

/// How a part went that did not fail.
pub(crate) enum Part {
    /// The device does it.
    Done(String),
    /// It has nothing of the kind, and why.
    NotHere(String),
}

type Done<T = Part> = Result<T, String>;
type OnDisk<'a, T> = &'a mut Disk<T, Shared>;

/// Does everything that the device has, and tells how each part went.
pub(crate) fn run<T: Transport>(disk: OnDisk<'_, T>, report: &mut dyn FnMut(&str, Done)) {
    if disk.info().zoned.is_none() {
        report("plain: write and read at depth", plain(disk));
        report("plain: zeroes and discards", ranges(disk));
        report("flush", flush(disk));
        return;
    }
    report("reset of all zones", reset_all(disk));
    report("zones filled by writes, several at once", fill_by_writes(disk));
    report("zones filled by appends at depth", fill_by_appends(disk));
    report("blocking calls", blocking(disk));
    report("zones managed", manage(disk));
    report("limits", limits(disk));
    report("what must not be sent is not sent", not_sent(disk));
    report("reports into small buffers", small_reports(disk));
    report("conventional zones", conventional(disk));
    report("flush", flush(disk));
    report("reset of all zones at the end", reset_all(disk));
}

fn e(error: impl core::error::Error) -> String {
    told(&error)
}

fn done(what: impl Into<String>) -> Done {
    Ok(Part::Done(what.into()))
}

fn not_here(why: impl Into<String>) -> Done {
    Ok(Part::NotHere(why.into()))
}

fn check(good: bool, what: impl FnOnce() -> String) -> Done<()> {
    if good { Ok(()) } else { Err(what()) }
}

/// The bytes that belong at a sector: no two the same in a row, none zero.
fn fill(at: Sector, salt: u64, into: &mut [u8]) {
    for (sector, bytes) in (at.0..).zip(into.chunks_mut(512)) {
        let mut state = (sector ^ salt << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for word in bytes.chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let value = (state | 0x0101_0101_0101_0101).to_le_bytes();
            word.copy_from_slice(&value[..word.len()]);
        }
    }
}

fn expected(at: Sector, salt: u64, len: usize) -> Vec<u8> {
    let mut bytes = alloc::vec![0; len];
    fill(at, salt, &mut bytes);
    bytes
}

/// Zones that must be written at their pointer and can be.
fn sequential<T: Transport>(disk: OnDisk<'_, T>) -> Done<Vec<Zone>> {
    let zones = disk.zones().map_err(e)?;
    let usable = |zone: &Zone| {
        zone.zone_type != ZoneType::Conventional
            && !matches!(zone.condition, Condition::ReadOnly | Condition::Offline)
    };
    let zones: Vec<Zone> = zones.into_iter().filter(usable).collect();
    check(!zones.is_empty(), || "there are no sequential zones".into())?;
    Ok(zones)
}

fn zone<T: Transport>(disk: OnDisk<'_, T>, start: Sector) -> Done<Zone> {
    let mut found = None;
    disk.report(start, 1, |zone| found = Some(zone)).map_err(e)?;
    found.ok_or_else(|| format!("no zone at {start}"))
}

fn reset_all<T: Transport>(disk: OnDisk<'_, T>) -> Done {
    disk.reset_all().map_err(e)?;
    let zones = sequential(disk)?;
    for zone in &zones {
        check(zone.condition == Condition::Empty, || format!("{zone:?}"))?;
    }
    done(format!("{} zones empty", zones.len()))
}

/// How many sectors of a zone are filled.
fn filled(zone: &Zone) -> u64 {
    zone.capacity.0.min(FILL_SECTORS)
}

/// How many zones may be written at once.
fn at_once<T: Transport>(disk: &Disk<T, Shared>) -> usize {
    let limit = |n: u32| if n == 0 { usize::MAX } else { n as usize };
    let zoned = disk.info().zoned.as_ref();
    zoned.map_or(ZONES, |z| ZONES.min(limit(z.max_open)).min(limit(z.max_active)))
}

/// The largest piece, in sectors.
fn piece<T: Transport>(disk: &Disk<T, Shared>) -> u64 {
    let info = disk.info();
    let granule = info.zoned.map_or(info.block_size, |z| z.write_granularity.max(info.block_size));
    let granule = u64::from(granule) / 512;
    let most = PIECE_SECTORS.min(u64::from(info.max_transfer) / 512);
    (most - most % granule).max(granule)
}

/// Fills zones from start to end: each has one write in flight, as its pointer wants it, and as many zones
/// as may be open are written together, over all queues.
fn fill_by_writes<T: Transport>(disk: OnDisk<'_, T>) -> Done {
    let (queues, together, step) = (disk.info().queues, at_once(disk), piece(disk));
    let zones = sequential(disk)?;
    let zones = &zones[..zones.len().min(ZONES)];
    let mut flights: BTreeMap<(u16, Token), (usize, u64)> = BTreeMap::new();
    // The next zone to begin with, and of those begun what is left to send: zone and sectors written.
    let (mut fresh, mut ready, mut most) = (0, Vec::new(), 0);
    loop {
        while fresh < zones.len() && ready.len() + flights.len() < together {
            ready.push((fresh, 0));
            fresh += 1;
        }
        while let Some((index, at)) = ready.pop() {
            let zone = &zones[index];
            let sectors = step.min(filled(zone) - at);
            let mut buffer = disk.buffer(sectors as usize * 512).map_err(e)?;
            let to = Sector(zone.start.0 + at);
            fill(to, 1, &mut buffer);
            let queue = index as u16 % queues;
            let token = disk.submit(queue, Request::Write { at: to, buffer }).map_err(e)?;
            flights.insert((queue, token), (index, at + sectors));
        }
        most = most.max(flights.len());
        if flights.is_empty() {
            break;
        }
        for queue in 0..queues {
            disk.kick(queue).map_err(e)?;
        }
        for (queue, token, answer) in drain(disk)? {
            let Some((index, at)) = flights.remove(&(queue, token)) else {
                return Err("an answer to nothing".into());
            };
            answer.map_err(|error| format!("{} of zone {}: {error}", at, zones[index].start))?;
            if at < filled(&zones[index]) {
                ready.push((index, at));
            }
        }
    }
    let mut sectors = 0;
    for before in zones {
        let now = zone(disk, before.start)?;
        let full = filled(before) == before.capacity.0;
        let good =
            if full { now.condition == Condition::Full } else { now.write_pointer.is_some() };
        check(good, || format!("after the last write: {now:?}"))?;
        sectors += filled(before);
        verify(disk, Sector(before.start.0), filled(before), 1)?;
        disk.reset(before.start).map_err(e)?;
    }
    done(format!("{} zones, {sectors} sectors, {most} in flight on {queues} queues", zones.len()))
}

/// All answers that are there, after waiting for one: the queue, the token, how it went.
#[expect(clippy::type_complexity, reason = "used here only")]
fn drain<T: Transport>(
    disk: OnDisk<'_, T>,
) -> Done<Vec<(u16, Token, Result<Answer, RequestError>)>> {
    let mut answers = Vec::new();
    for turn in 0u32.. {
        for queue in 0..disk.info().queues {
            while let Some(done) = disk.poll(queue).map_err(e)? {
                answers.push((queue, done.token, done.result));
            }
        }
        if !answers.is_empty() || turn > 1 << 20 {
            break;
        }
        // Any queue may be the next; the one with the most to come is as good as another.
        let busiest = (0..disk.info().queues).max_by_key(|queue| disk.in_flight(*queue));
        match disk.wait(busiest.unwrap_or(0), Some(TIMEOUT_MS)) {
            Ok(()) => {}
            Err(error) => return Err(e(error)),
        }
    }
    Ok(answers)
}

/// Reads `sectors` at `at`, many at a time over all queues, and compares.
fn verify<T: Transport>(disk: OnDisk<'_, T>, at: Sector, sectors: u64, salt: u64) -> Done<()> {
    let (queues, step) = (disk.info().queues, piece(disk));
    let mut flights: BTreeMap<(u16, Token), (Sector, usize)> = BTreeMap::new();
    let mut next = 0;
    while next < sectors || !flights.is_empty() {
        for queue in 0..queues {
            while next < sectors && disk.in_flight(queue) < DEPTH.min(disk.depth(queue)) {
                let len = step.min(sectors - next) as usize * 512;
                let (from, buffer) = (Sector(at.0 + next), disk.buffer(len).map_err(e)?);
                let token = disk.submit(queue, Request::Read { at: from, buffer }).map_err(e)?;
                flights.insert((queue, token), (from, len));
                next += len as u64 / 512;
            }
            disk.kick(queue).map_err(e)?;
        }
        let busiest = (0..queues).max_by_key(|queue| disk.in_flight(*queue)).unwrap_or(0);
        disk.wait(busiest, Some(TIMEOUT_MS)).map_err(e)?;
        for queue in 0..queues {
            while let Some(done) = disk.poll(queue).map_err(e)? {
                let Some((from, len)) = flights.remove(&(queue, done.token)) else {
                    return Err("an answer to nothing".into());
                };
                done.result.map_err(|error| format!("read of {len} bytes at {from}: {error}"))?;
                let buffer = done.buffer.ok_or("a read without a buffer")?;
                let same = buffer[..] == expected(from, salt, len)[..];
                check(same, || format!("{len} bytes at {from} are not what was written"))?;
            }
        }
    }
    Ok(())
}

/// Fills a zone for each queue with appends, many in flight in each: where each went is what the device
/// says, and together they cover the zone.
fn fill_by_appends<T: Transport>(disk: OnDisk<'_, T>) -> Done {
    let Some(zoned) = disk.info().zoned.filter(|z| z.max_append != Sector::ZERO) else {
        return not_here("no appends on this device");
    };
    let granule = u64::from(zoned.write_granularity) / 512;
    let step = piece(disk).min(zoned.max_append.0 - zoned.max_append.0 % granule);
    let (queues, together) = (disk.info().queues, at_once(disk));
    let zones = sequential(disk)?;
    let appendable = zones.iter().filter(|z| z.zone_type == ZoneType::SequentialRequired);
    let zones: Vec<Zone> = appendable.take(together).copied().collect();
    if zones.is_empty() {
        return not_here("no zones that take appends");
    }
    let (mut sent, mut got) = (alloc::vec![0; zones.len()], alloc::vec![Vec::new(); zones.len()]);
    let mut flights = BTreeMap::new();
    let mut most = 0;
    loop {
        for (index, zone) in zones.iter().enumerate() {
            let queue = index as u16 % queues;
            while sent[index] < filled(zone) && disk.in_flight(queue) < DEPTH.min(disk.depth(queue))
            {
                // What is written tells the number of the append, for its place is not known yet.
                let sectors = step.min(filled(zone) - sent[index]);
                let mut buffer = disk.buffer(sectors as usize * 512).map_err(e)?;
                let number = Sector(zone.start.0 + sent[index]);
                fill(number, 2, &mut buffer);
                let request = Request::Append { zone: zone.start, buffer };
                let token = disk.submit(queue, request).map_err(e)?;
                flights.insert((queue, token), (index, number, sectors));
                sent[index] += sectors;
            }
        }
        most = most.max(flights.len());
        if flights.is_empty() {
            break;
        }
        for queue in 0..queues {
            disk.kick(queue).map_err(e)?;
        }
        for (queue, token, answer) in drain(disk)? {
            let Some((index, number, sectors)) = flights.remove(&(queue, token)) else {
                return Err("an answer to nothing".into());
            };
            match answer {
                Ok(Answer::Appended(at)) => got[index].push((at, number, sectors)),
                Ok(other) => return Err(format!("{other:?}")),
                Err(error) => return Err(format!("append to {}: {error}", zones[index].start)),
            }
        }
    }
    let mut out_of_order = 0;
    for (zone, places) in zones.iter().zip(&mut got) {
        out_of_order += places.iter().filter(|(at, number, _)| at != number).count();
        places.sort_unstable();
        let mut next = zone.start;
        for (at, number, sectors) in places.iter() {
            check(*at == next, || format!("a hole or an overlap at {next}: {at}"))?;
            next = Sector(at.0 + sectors);
            let mut bytes = alloc::vec![0; *sectors as usize * 512];
            disk.read(*at, &mut bytes).map_err(e)?;
            let same = bytes == expected(*number, 2, bytes.len());
            check(same, || format!("what is at {at} is not append {number}"))?;
        }
        check(next.0 == zone.start.0 + filled(zone), || format!("it ends at {next}"))?;
        disk.reset(zone.start).map_err(e)?;
    }
    let count = zones.len();
    done(format!("{count} zones, {most} in flight on {queues} queues, {out_of_order} out of order"))
}

/// Large transfers, cut by the driver.
fn blocking<T: Transport>(disk: OnDisk<'_, T>) -> Done {
    let zones = sequential(disk)?;
    let zone = zones[0];
    let half = filled(&zone) / 2 / 64 * 64;
    let bytes = expected(zone.start, 3, half as usize * 512);
    disk.write(zone.start, &bytes).map_err(e)?;
    let rest = expected(Sector(zone.start.0 + half), 3, half as usize * 512);
    let appends = disk.info().zoned.is_some_and(|z| z.max_append != Sector::ZERO)
        && zone.zone_type == ZoneType::SequentialRequired;
    let at = Sector(zone.start.0 + half);
    let told =
        if appends { disk.append(zone.start, &rest) } else { disk.write(at, &rest).map(|()| at) };
    let told = told.map_err(e)?;
    check(told == at, || format!("appended at {told}, not {at}"))?;
    let mut back = alloc::vec![0; 2 * half as usize * 512];
    disk.read(zone.start, &mut back).map_err(e)?;
    let same = back[..bytes.len()] == bytes[..] && back[bytes.len()..] == rest[..];
    check(same, || "what is read is not what was written".into())?;
    disk.reset(zone.start).map_err(e)?;
    done(format!("{} sectors", 2 * half))
}

/// Every transition that a driver can ask for.
fn manage<T: Transport>(disk: OnDisk<'_, T>) -> Done {
    let zones = sequential(disk)?;
    let start = zones[0].start;
    let unit = disk.info().zoned.map_or(4096, |z| z.write_granularity) as usize;
    let bytes = expected(start, 4, unit);
    let expect = |disk: OnDisk<'_, T>, what: &str, condition| {
        let now = zone(disk, start)?;
        check(now.condition == condition, || format!("{what}: {:?}", now.condition))
    };
    disk.open(start).map_err(e)?;
    expect(disk, "open", Condition::ExplicitOpen)?;
    disk.close(start).map_err(e)?;
    expect(disk, "close of what is empty", Condition::Empty)?;
    disk.write(start, &bytes).map_err(e)?;
    expect(disk, "write", Condition::ImplicitOpen)?;
    disk.open(start).map_err(e)?;
    expect(disk, "open of what is open", Condition::ExplicitOpen)?;
    disk.close(start).map_err(e)?;
    expect(disk, "close", Condition::Closed)?;
    disk.write(Sector(start.0 + unit as u64 / 512), &bytes).map_err(e)?;
    expect(disk, "write of what is closed", Condition::ImplicitOpen)?;
    disk.finish(start).map_err(e)?;
    expect(disk, "finish", Condition::Full)?;
    let mut back = alloc::vec![0; unit];
    disk.read(start, &mut back).map_err(e)?;
    check(back == bytes, || "what is read after a finish is not what was written".into())?;
    disk.reset(start).map_err(e)?;
    expect(disk, "reset", Condition::Empty)?;
    disk.finish(start).map_err(e)?;
    expect(disk, "finish of what is empty", Condition::Full)?;
    disk.reset(start).map_err(e)?;
    expect(disk, "reset of what is full", Condition::Empty)?;
    done("open, close, write, finish, reset")
}

/// Up to the limit zones open; one more is refused, with a status that depends on the device.
fn limits<T: Transport>(disk: OnDisk<'_, T>) -> Done {
    let Some(zoned) = disk.info().zoned else { return Err("no zones".into()) };
    let limit = match (zoned.max_open, zoned.max_active) {
        (0, 0) => return not_here("no limits"),
        (0, n) | (n, 0) => n,
        (open, active) => open.min(active),
    } as usize;
    let zones = sequential(disk)?;
    if zones.len() <= limit {
        return not_here(format!("{} zones never reach the limit of {limit}", zones.len()));
    }
    for zone in &zones[..limit] {
        disk.open(zone.start).map_err(e)?;
    }
    let refused = disk.open(zones[limit].start);
    for zone in &zones[..limit] {
        disk.close(zone.start).map_err(e)?;
    }
    match refused {
        Ok(()) => Err(format!("zone {limit} opens beyond the limit")),
        Err(error) => done(format!("{limit} open, the next: {}", e(error))),
    }
}

/// Writes that a driver must not send come back before the device sees them, the more so where the device
/// would do harm: an append to a full zone.
fn not_sent<T: Transport>(disk: OnDisk<'_, T>) -> Done {
    let zones = sequential(disk)?;
    let zone = zones[0];
    if zone.zone_type == ZoneType::SequentialPreferred {
        return not_here("zones that are written anywhere");
    }
    let unit = disk.info().zoned.map_or(4096, |z| z.write_granularity) as usize;
    disk.finish(zone.start).map_err(e)?;
    let mut refused = Vec::new();
    for append in [true, false] {
        let buffer = disk.buffer(unit).map_err(e)?;
        let request = match append {
            true => Request::Append { zone: zone.start, buffer },
            false => Request::Write { at: zone.start, buffer },
        };
        match disk.submit(0, request) {
            Err(rejected) => refused.push(rejected.error),
            Ok(_) => return Err("a write to a full zone was sent".into()),
        }
    }
    for error in &refused {
        let known = matches!(
            error,
            SubmitError::Invalid(Invalid::PastZoneCapacity { .. } | Invalid::Unsupported(_))
        );
        check(known, || format!("{error}"))?;
    }
    disk.reset(zone.start).map_err(e)?;
    let next = zones.get(1).map(|next| (next.start, next.condition));
    if let Some((start, before)) = next {
        let now = self::zone(disk, start)?.condition;
        check(now == before, || format!("the next zone became {now:?}"))?;
    }
    done("writes and appends to a full zone")
}

/// Reports of one zone and of two, from the start of zones and from inside, say what a large one says.
fn small_reports<T: Transport>(disk: OnDisk<'_, T>) -> Done {
    let zones = disk.zones().map_err(e)?;
    let mut asked = 0;
    for room in [1, 2] {
        for (index, zone) in zones.iter().enumerate().take(64) {
            let buffer = disk.buffer(64 + 64 * room).map_err(e)?;
            let from = Sector(zone.start.0 + zone.len.0 / 2);
            let token = disk.submit(0, Request::Report { from, buffer }).map_err(e)?;
            disk.kick(0).map_err(e)?;
            let answers = drain(disk)?;
            let [(0, back, Ok(Answer::Zones(got)))] = &answers[..] else {
                return Err(format!("report from {from}: {answers:?}"));
            };
            let wanted = &zones[index..zones.len().min(index + room)];
            check(*back == token && got[..] == *wanted, || format!("report from {from}: {got:?}"))?;
            asked += 1;
        }
    }
    let mut count = 0;
    disk.report(Sector::ZERO, 3, |_| count += 1).map_err(e)?;
    check(count == zones.len().min(3), || format!("{count} zones, and three were wanted"))?;
    done(format!("{asked} reports"))
}

/// Written anywhere, in any order.
fn conventional<T: Transport>(disk: OnDisk<'_, T>) -> Done {
    let zones = disk.zones().map_err(e)?;
    let zone = zones.iter().find(|zone| zone.zone_type == ZoneType::Conventional);
    let Some(zone) = zone else { return not_here("none on this device") };
    let sectors = zone.capacity.0.min(PLAIN_SECTORS);
    scattered(disk, zone.start, sectors)?;
    verify(disk, zone.start, sectors, 5)?;
    done(format!("{sectors} sectors"))
}

/// Writes pieces back to front, many at a time.
fn scattered<T: Transport>(disk: OnDisk<'_, T>, at: Sector, sectors: u64) -> Done<()> {
    let (queues, step) = (disk.info().queues, piece(disk));
    let mut left = sectors;
    while left > 0 || (0..queues).any(|queue| disk.in_flight(queue) > 0) {
        for queue in 0..queues {
            while left > 0 && disk.in_flight(queue) < DEPTH.min(disk.depth(queue)) {
                let len = if left.is_multiple_of(step) { step } else { left % step };
                left -= len;
                let mut buffer = disk.buffer(len as usize * 512).map_err(e)?;
                let to = Sector(at.0 + left);
                fill(to, 5, &mut buffer);
                disk.submit(queue, Request::Write { at: to, buffer }).map_err(e)?;
            }
            disk.kick(queue).map_err(e)?;
        }
        for (_, _, answer) in drain(disk)? {
            answer.map_err(e)?;
        }
    }
    Ok(())
}

fn plain<T: Transport>(disk: OnDisk<'_, T>) -> Done {
    let sectors = disk.info().capacity.0.min(PLAIN_SECTORS);
    scattered(disk, Sector::ZERO, sectors)?;
    verify(disk, Sector::ZERO, sectors, 5)?;
    done(format!("{sectors} sectors, {DEPTH} in flight on each of {} queues", disk.info().queues))
}

fn ranges<T: Transport>(disk: OnDisk<'_, T>) -> Done {
    let mut tried = Vec::new();
    let range = |at, sectors| alloc::vec![SectorRange { at: Sector(at), sectors }];
    if disk.info().features.contains(Features::WRITE_ZEROES) {
        let zeroes = Request::WriteZeroes { ranges: range(64, 128), unmap: false };
        disk.queue(0).ok_or("no queue")?.run(zeroes).map_err(e)?;
        let mut back = alloc::vec![1; 128 * 512];
        disk.read(Sector(64), &mut back).map_err(e)?;
        check(back.iter().all(|byte| *byte == 0), || "zeroes that are none".into())?;
        verify(disk, Sector(192), 64, 5)?;
        tried.push("zeroes");
    }
    if disk.info().features.contains(Features::DISCARD) {
        let discard = Request::Discard { ranges: range(256, 128) };
        disk.queue(0).ok_or("no queue")?.run(discard).map_err(e)?;
        verify(disk, Sector(384), 64, 5)?;
        tried.push("discard");
    }
    if tried.is_empty() { not_here("neither is offered") } else { done(tried.join(", ")) }
}

fn flush<T: Transport>(disk: OnDisk<'_, T>) -> Done {
    if !disk.info().features.contains(Features::FLUSH) {
        return not_here("not offered");
    }
    disk.flush().map_err(e)?;
    done("done")
}
