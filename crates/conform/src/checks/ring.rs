//! G: features, status and rings, as any virtio device owes them.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use zvb_wire::{DeviceStatus, Features, ID_BYTES, Model, RequestType, Status};

use super::init::needs;
use crate::disk::{REQUIRED, expect, pattern};
use crate::framing::{FRAMINGS, Framing};
use crate::outcome::{Checked, Stop, fail, skip};
use crate::request::{Place, Request, answer};
use crate::rig::{QUIET_MS, Rig};
use crate::ring::MAX_QUEUE_SIZE;

/// How often a broken device is looked at, in milliseconds.
const LOOK_MS: u32 = 50;
/// Requests in flight together.
const DEPTH: u16 = 16;

/// 135
pub(crate) fn nothing_before_driver_ok(rig: &mut Rig<'_>) -> Checked {
    let features = rig.usual();
    if !rig.negotiate(features)? {
        return skip("the device refuses the usual features");
    }
    rig.set_up_queues(1)?;
    let request = Request::new(RequestType::GET_ID, 0).into(ID_BYTES as usize);
    let chain = rig.chain_of(&request);
    let head = rig.lay(0, &chain)?;
    rig.publish(0, head)?;
    let quiet = rig.is_quiet(0);
    let used = rig.queues.first().map_or(0, |queue| queue.used_index(&rig.area));
    if used != 0 {
        rig.spoil();
        return fail("no buffer used before DRIVER_OK", format!("used index {used}"));
    }
    if !quiet {
        rig.spoil();
        return fail("no notification before DRIVER_OK", "one");
    }
    rig.go(features)?;
    rig.link.notify(0).map_err(Stop::Link)?;
    let (_, input) = rig.receive(0, "a request from before DRIVER_OK")?;
    expect("GET_ID", answer(&request, &input).status, &[Status::OK])
}

/// 136
pub(crate) fn needs_reset_when_broken(rig: &mut Rig<'_>) -> Checked {
    rig.ready()?;
    let size = rig.queues.first().map_or(0, |queue| queue.size);
    // A head that is no descriptor.
    rig.publish(0, size)?;
    rig.link.notify(0).map_err(Stop::Link)?;
    let (works, status) = once_broken(rig);
    rig.recover().map_err(Stop::Abort)?;
    // Whatever it made of that: a reset must do.
    rig.ready()?;
    let again = rig.ask(&Request::new(RequestType::GET_ID, 0).into(ID_BYTES as usize))?;
    expect("GET_ID after a reset of the broken device", again.status, &[Status::OK])?;
    match status {
        Ok(status) if status.contains(DeviceStatus::NEEDS_RESET) => Ok(()),
        _ if works => skip("a chain that begins nowhere is no fatal error to this device"),
        Ok(status) => {
            let got = format!("the queue is dead, and the status {:#x}", status.bits());
            fail("NEEDS_RESET after a fatal error", got)
        }
        Err(why) => fail("NEEDS_RESET after a fatal error", why),
    }
}

/// Whether queue 0 still answers, and the status: when the device has answered, or wants a reset, or had the time that
/// a request is given. (How it tells of that is the transport's own: a configuration change, an eventfd for errors.)
fn once_broken(rig: &mut Rig<'_>) -> (bool, Result<DeviceStatus, String>) {
    let chain = rig.chain_of(&Request::new(RequestType::GET_ID, 0).into(ID_BYTES as usize));
    // What can not even be sent is not answered.
    let _ = rig.send(0, &chain);
    for _ in 0..rig.options.timeout_ms.div_ceil(LOOK_MS) {
        let _ = rig.link.wait(0, LOOK_MS);
        let used = rig.take_used(0);
        let works = used.is_some_and(|(id, len)| rig.land(0, id, len).is_ok());
        let status = rig.link.status();
        let says_nothing = status.as_ref().is_ok_and(|s| !s.contains(DeviceStatus::NEEDS_RESET));
        if works || !says_nothing {
            return (works, status);
        }
    }
    (false, rig.link.status())
}

/// What no driver can leave out.
fn least(rig: &Rig<'_>) -> Features {
    let mut least = rig.offered & (Features::VERSION_1 | Features::ACCESS_PLATFORM);
    if rig.model() == Some(Model::HostManaged) {
        least |= Features::ZONED;
    }
    least
}

/// 137
pub(crate) fn any_subset(rig: &mut Rig<'_>) -> Checked {
    const NEEDS: [(Features, Features); 2] = [
        (Features::CONFIG_WCE, Features::FLUSH),
        (Features::NOTIF_CONFIG_DATA, Features::NOTIFICATION_DATA),
    ];
    if let Some((feature, _)) = NEEDS
        .into_iter()
        .take(1)
        .find(|(feature, other)| rig.offered.contains(*feature) && !rig.offered.contains(*other))
    {
        return fail("no feature without what it depends on", format!("{feature:?}"));
    }
    let (least, usual) = (least(rig), rig.usual());
    let singles = usual.iter().map(|feature| least | feature);
    let sets: Vec<Features> = [least, usual].into_iter().chain(singles).collect();
    for features in sets {
        if !rig.up(features)? {
            return fail(format!("FEATURES_OK with {features:?}"), "it is refused");
        }
        let room = ID_BYTES as usize;
        let answer = rig.ask(&Request::new(RequestType::GET_ID, 0).into(room))?;
        expect(&format!("GET_ID with {features:?}"), answer.status, &[Status::OK])?;
    }
    Ok(())
}

/// 138
pub(crate) fn accepted_again(rig: &mut Rig<'_>) -> Checked {
    if !rig.offered.contains(Features::VERSION_1) {
        return fail("VERSION_1 is offered", "it is not");
    }
    let usual = rig.usual();
    for time in ["first", "second", "third"] {
        if !rig.up(usual)? {
            let expected = format!("the same features accepted the {time} time");
            return fail(expected, "they are refused");
        }
        if rig.link.device_features().map_err(Stop::Link)? != rig.offered {
            return fail("the same features offered after a reset", "others");
        }
    }
    Ok(())
}

/// 139
pub(crate) fn reset_is_silent(rig: &mut Rig<'_>) -> Checked {
    rig.ready()?;
    let room = ID_BYTES as usize;
    let chain = rig.chain_of(&Request::new(RequestType::GET_ID, 0).into(room));
    for _ in 0..4 {
        rig.send(0, &chain)?;
    }
    let queue = rig.queues.swap_remove(0);
    rig.stop()?;
    let status = rig.link.status().map_err(Stop::Link)?;
    if !status.is_empty() {
        return fail("status 0 after a reset", format!("{:#x}", status.bits()));
    }
    let used = queue.used_index(&rig.area);
    // Time passes.
    for _ in 0..64 {
        rig.link.status().map_err(Stop::Link)?;
    }
    let later = queue.used_index(&rig.area);
    if used != later {
        return fail("no buffer used after a reset", format!("used index {later} after {used}"));
    }
    rig.ready()?;
    let answer = rig.ask(&Request::new(RequestType::GET_ID, 0).into(room))?;
    expect("GET_ID after a reset", answer.status, &[Status::OK])
}

/// 141
pub(crate) fn one_queue_alone(rig: &mut Rig<'_>) -> Checked {
    needs(rig, Features::RING_RESET, "RING_RESET")?;
    let features = rig.usual() | Features::RING_RESET | (rig.offered & Features::MQ);
    if !rig.negotiate(features)? {
        return skip("the device refuses this choice of features");
    }
    let count = if features.contains(Features::MQ) { rig.config.num_queues.get() } else { 1 };
    let count = count.min(rig.link.max_queues().map_err(Stop::Link)?).clamp(1, 2);
    rig.set_up_queues(count)?;
    rig.go(features)?;
    let request = Request::new(RequestType::GET_ID, 0).into(ID_BYTES as usize);
    for queue in 0..count {
        let answer = rig.ask_on(queue, &request)?;
        expect("GET_ID", answer.status, &[Status::OK])?;
    }
    // Left lying, and the queue is taken away.
    let chain = rig.chain_of(&request);
    let head = rig.lay(0, &chain)?;
    rig.publish(0, head)?;
    if !rig.link.reset_queue(0).map_err(Stop::Link)? {
        rig.spoil();
        return skip("this way to the device can not reset one queue");
    }
    let used = |rig: &Rig<'_>| rig.queues.first().map_or(0, |queue| queue.used_index(&rig.area));
    let before = used(rig);
    for queue in 1..count {
        let answer = rig.ask_on(queue, &request)?;
        expect("GET_ID on a queue that was not reset", answer.status, &[Status::OK])?;
    }
    if used(rig) != before {
        rig.spoil();
        return fail("no buffer used of a queue that was reset", "one");
    }
    rig.set_up_anew()?;
    let answer = rig.ask(&request)?;
    rig.spoil();
    expect("GET_ID on a queue that was reset and set up anew", answer.status, &[Status::OK])
}

/// 143
pub(crate) fn in_order(rig: &mut Rig<'_>) -> Checked {
    needs(rig, Features::IN_ORDER, "IN_ORDER")?;
    let features = rig.usual() | Features::IN_ORDER;
    rig.up_or_skip(features)?;
    let sent = burst(rig)?;
    let mut next = 0;
    while next < sent.len() {
        // One used entry may stand for all up to it.
        let (head, _) = rig.receive(0, "one of many requests")?;
        match sent.iter().position(|one| *one == head) {
            Some(place) if place >= next => next = place.saturating_add(1),
            _ => return fail("buffers used in order", format!("head {head} too late")),
        }
    }
    rig.spoil();
    Ok(())
}

/// Sends many requests at once: their heads.
fn burst(rig: &mut Rig<'_>) -> Checked<Vec<u16>> {
    let mut heads = Vec::new();
    for i in 0..DEPTH {
        let request = match i % 2 {
            0 => Request::new(RequestType::GET_ID, 0).into(ID_BYTES as usize),
            _ => Request::new(RequestType::IN, 0).into(rig.unit_bytes() as usize),
        };
        let chain = rig.chain_of(&request);
        match rig.lay(0, &chain) {
            Ok(head) => heads.push(head),
            Err(Stop::Skip(_)) if !heads.is_empty() => break,
            Err(other) => return Err(other),
        }
    }
    for head in &heads {
        rig.publish(0, *head)?;
    }
    rig.link.notify(0).map_err(Stop::Link)?;
    Ok(heads)
}

/// True when a chain of so many descriptors is one that a driver may send.
fn allowed(rig: &Rig<'_>, descriptors: usize) -> bool {
    let most = rig.queues.first().map_or(MAX_QUEUE_SIZE, |queue| queue.size);
    let segments = if rig.offered.contains(Features::SEG_MAX) {
        usize::try_from(rig.config.seg_max.get()).unwrap_or(usize::MAX).saturating_add(2)
    } else {
        usize::MAX
    };
    descriptors <= segments.min(usize::from(most))
}

/// Sends a request in some framing; `None` when the device need not take so many descriptors.
fn framed(rig: &mut Rig<'_>, request: &Request<'_>) -> Checked<Option<crate::request::Answer>> {
    let chain = rig.chain_of(request);
    if !allowed(rig, chain.out_cuts.len().saturating_add(chain.in_cuts.len())) {
        return Ok(None);
    }
    rig.ask(request).map(Some)
}

/// Sends requests of each kind in one framing, and compares with what the usual one gives.
fn exercise(rig: &mut Rig<'_>, framing: Framing, place: Place) -> Checked {
    rig.ready()?;
    let how = format!("{} ({place:?})", framing.name());
    let room = usize::try_from(rig.unit_bytes()).unwrap_or(usize::MAX);
    let zoned = rig.model().is_some_and(|model| model != Model::None);
    let mut kinds = alloc::vec![(RequestType::GET_ID, ID_BYTES as usize), (RequestType::IN, room)];
    if zoned {
        kinds.push((RequestType::ZONE_REPORT, 64 * 4));
    }
    for (kind, room) in kinds {
        let request = Request::new(kind, 0).into(room);
        let usual = rig.ask(&request)?;
        let Some(other) = framed(rig, &request.framed(framing, place))? else { continue };
        expect(&format!("{kind:?} as {how}"), other.status, &[usual.status])?;
        if usual.status == Status::OK && usual.data != other.data {
            return fail(format!("{kind:?} as {how}: the same data"), "other data");
        }
    }
    if rig.writable().is_err() {
        return Ok(());
    }
    let data = pattern(framing as u64 + 1, rig.unit_bytes());
    if let Ok(zone) = rig.fresh_one() {
        let request = Request::new(RequestType::OUT, zone.start).with(&data);
        wrote(rig, &request.framed(framing, place), zone.start, &how)?;
        if zone.kind == REQUIRED && rig.appends() {
            let request = Request::new(RequestType::ZONE_APPEND, zone.start).with(&data);
            let at = rig.zone(zone.start)?.pointer;
            wrote(rig, &request.framed(framing, place), at, &how)?;
        }
    }
    if let Ok((at, _)) = rig.scratch() {
        let request = Request::new(RequestType::OUT, at).with(&data);
        wrote(rig, &request.framed(framing, place), at, &how)?;
    }
    Ok(())
}

/// A write in some framing must be at `at` afterwards.
fn wrote(rig: &mut Rig<'_>, request: &Request<'_>, at: u64, how: &str) -> Checked {
    let kind = request.kind;
    let Some(answer) = framed(rig, request)? else { return Ok(()) };
    expect(&format!("{kind:?} as {how}"), answer.status, &[Status::OK])?;
    if kind == RequestType::ZONE_APPEND && answer.appended != at {
        let expected = format!("{kind:?} as {how}: append_sector {at}");
        return fail(expected, format!("{}", answer.appended));
    }
    let unit = rig.unit();
    if rig.read(at, unit)? == (Status::OK, request.data.to_vec()) {
        return Ok(());
    }
    fail(format!("{kind:?} as {how}: the data that were written"), "other data are read")
}

/// 95
pub(crate) fn in_header_anywhere(rig: &mut Rig<'_>) -> Checked {
    let zone = rig.fresh_required_one()?;
    if !rig.appends() {
        return skip("the device does not support ZONE_APPEND");
    }
    let mut at = zone.start;
    for (framing, seed) in FRAMINGS.into_iter().zip(95..) {
        if at.saturating_add(rig.unit()) > zone.limit() {
            break;
        }
        let data = pattern(seed, rig.unit_bytes());
        let request = Request::new(RequestType::ZONE_APPEND, zone.start).with(&data);
        wrote(rig, &request.framed(framing, Place::Direct), at, framing.name())?;
        at = rig.zone(zone.start)?.pointer;
    }
    Ok(())
}

/// 144
pub(crate) fn any_framing(rig: &mut Rig<'_>) -> Checked {
    for framing in FRAMINGS {
        exercise(rig, framing, Place::Direct)?;
        if rig.negotiated().contains(Features::INDIRECT_DESC) {
            exercise(rig, framing, Place::Indirect)?;
        }
    }
    // Many at a time, each answered once.
    rig.ready()?;
    for _ in burst(rig)? {
        rig.receive(0, "one of many requests")?;
    }
    Ok(())
}

/// 145
pub(crate) fn leaves_alone(rig: &mut Rig<'_>) -> Checked {
    exercise(rig, Framing::Usual, Place::Direct)?;
    rig.no_note(145)
}

/// 146
pub(crate) fn indirect(rig: &mut Rig<'_>) -> Checked {
    needs(rig, Features::INDIRECT_DESC, "INDIRECT_DESC")?;
    for framing in FRAMINGS {
        for place in [Place::Indirect, Place::IndirectWrite, Place::Mixed] {
            exercise(rig, framing, place)?;
        }
    }
    Ok(())
}

/// 147
pub(crate) fn used_length(rig: &mut Rig<'_>) -> Checked {
    rig.ready()?;
    exercise(rig, Framing::Usual, Place::Direct)?;
    let room = usize::try_from(rig.unit_bytes()).unwrap_or(usize::MAX);
    // Answers that write less than there is room for.
    let end = rig.config.capacity.get();
    rig.ask(&Request::new(RequestType::IN, end).into(room))?;
    rig.ask(&Request::new(RequestType::IN, u64::MAX).into(room))?;
    rig.ask(&Request::new(RequestType(0x100), 0).into(room))?;
    rig.ask(&Request::new(RequestType::ZONE_REPORT, 0).into(64 * 3 + 40))?;
    rig.ask(&Request::new(RequestType::GET_ID, 0).into(room))?;
    rig.no_note(147)
}

/// 150
pub(crate) fn spurious_notifications(rig: &mut Rig<'_>) -> Checked {
    rig.ready()?;
    for _ in 0..64 {
        rig.link.notify(0).map_err(Stop::Link)?;
    }
    let room = ID_BYTES as usize;
    for _ in 0..4 {
        let answer = rig.ask(&Request::new(RequestType::GET_ID, 0).into(room))?;
        expect("GET_ID after notifications of nothing", answer.status, &[Status::OK])?;
        rig.link.notify(0).map_err(Stop::Link)?;
    }
    let _ = rig.link.wait(0, QUIET_MS);
    match rig.take_used(0) {
        None => Ok(()),
        Some((id, _)) => fail("nothing used when nothing is available", format!("head {id}")),
    }
}
