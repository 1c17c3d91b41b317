//! G: when the device notifies, and when not.

use alloc::format;

use zvb_wire::{Features, ID_BYTES, RequestType};

use super::init::needs;
use crate::outcome::{Checked, Stop, fail, skip};
use crate::request::Request;
use crate::rig::{QUIET_MS, Rig};

fn name() -> Request<'static> {
    Request::new(RequestType::GET_ID, 0).into(ID_BYTES as usize)
}

/// Takes the signals that are still there from before.
fn drain(rig: &mut Rig<'_>) {
    for _ in 0..8 {
        if rig.link.wait(0, 1).is_err() {
            return;
        }
    }
}

/// Waits for a signal before the ring is looked at: an answer that is there already must not hide that
/// there was none.
fn woken(rig: &mut Rig<'_>) -> Checked {
    if rig.link.wait(0, rig.options.timeout_ms).is_err() {
        rig.not_notified();
        rig.link.status().map_err(Stop::Link)?;
    }
    Ok(())
}

/// Sends a request and waits for its answer without asking for a signal. True: there was one.
fn signalled(rig: &mut Rig<'_>) -> Checked<bool> {
    drain(rig);
    let chain = rig.chain_of(&name());
    rig.send(0, &chain)?;
    let mut signal = false;
    for _ in 0..rig.options.timeout_ms {
        signal |= rig.link.wait(0, 1).is_ok();
        if let Some((id, len)) = rig.take_used(0) {
            rig.land(0, id, len)?;
            return Ok(signal || rig.link.wait(0, QUIET_MS).is_ok());
        }
    }
    rig.spoil();
    fail("an answer", format!("none in {} ms", rig.options.timeout_ms))
}

/// 148
pub(crate) fn by_flag(rig: &mut Rig<'_>) -> Checked {
    let features = rig.usual();
    rig.up_or_skip(features)?;
    // Means nothing without EVENT_IDX.
    set_event(rig, 0x7fff)?;
    for _ in 0..4 {
        drain(rig);
        let chain = rig.chain_of(&name());
        rig.send(0, &chain)?;
        woken(rig)?;
        rig.receive(0, "GET_ID")?;
    }
    rig.no_note(148)?;
    set_flags(rig, 1)?;
    rig.muted = true;
    let mut signals = 0;
    for _ in 0..3 {
        signals += u32::from(signalled(rig)?);
    }
    set_flags(rig, 0)?;
    rig.spoil();
    if signals == 3 {
        return fail("no notification while the flags say 1", "one for every buffer");
    }
    rig.no_note(148)
}

/// 149
pub(crate) fn by_index(rig: &mut Rig<'_>) -> Checked {
    needs(rig, Features::EVENT_IDX, "EVENT_IDX")?;
    let features = rig.usual() | Features::EVENT_IDX;
    rig.up_or_skip(features)?;
    // Means nothing with EVENT_IDX.
    set_flags(rig, 1)?;
    for ahead in [0u16, 0, 2, 2, 1] {
        let Some(seen) = rig.queues.first().map(|queue| queue.seen) else {
            return skip("there is no queue 0");
        };
        set_event(rig, seen.wrapping_add(ahead))?;
        drain(rig);
        let chain = rig.chain_of(&name());
        for _ in 0..=ahead {
            let head = rig.lay(0, &chain)?;
            rig.publish(0, head)?;
        }
        rig.link.notify(0).map_err(Stop::Link)?;
        woken(rig)?;
        for _ in 0..=ahead {
            rig.receive(0, "one of some requests")?;
        }
    }
    rig.spoil();
    rig.no_note(149)
}

fn set_event(rig: &mut Rig<'_>, index: u16) -> Checked {
    let Rig { queues, area, .. } = rig;
    match queues.first() {
        Some(queue) => {
            queue.set_used_event(area, index);
            Ok(())
        }
        None => skip("there is no queue 0"),
    }
}

fn set_flags(rig: &mut Rig<'_>, flags: u16) -> Checked {
    let Rig { queues, area, .. } = rig;
    match queues.first() {
        Some(queue) => {
            queue.set_flags(area, flags);
            Ok(())
        }
        None => skip("there is no queue 0"),
    }
}
