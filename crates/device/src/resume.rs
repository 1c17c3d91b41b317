//! Requests that a process before this one took and did not answer: which of them had already happened.
//!
//! Most requests can be done again and come to the same. A write to a sequential-required zone can not: done
//! again, it stands no longer at the write pointer, and an append stands twice on the disk. And a command to
//! zones, done again, may undo what came after it. So the place of such a write is noted in the queue's ledger
//! when it is decided, before it is given to the medium; and a command when it has been carried out, before
//! anything else is decided about its zones. Whoever comes next finds by the write pointer what became of the
//! writes: pointers move in the order in which places were given out, over what is written whole.
//!
//! The pointer tells only as long as nothing is written: so all queues are looked at first, and what of theirs
//! has not happened is noted no more; see [`Lane::resume`](crate::Lane::resume).
//!
//! A medium with zones of its own moves its pointer over part of a write, too: such a write goes on there. Until its
//! rest has a place, another queue may write behind that part; so it is noted how much there was, and when the next
//! process finds more, that is somebody else's.
//!
//! One case is not told apart, on such a medium only: an append that was written and not answered, while another queue
//! resets its zone, and appends less there. It looks like one of which so much is there. No driver that waits for its
//! appends before it resets their zone gets there.

use zvb_ring::DeviceQueue;
use zvb_wire::{Sector, ZoneType};
use zvb_zones::{Geometry, Zones};

use crate::request::Request;
use crate::slot::Slot;

/// What is noted about a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Note {
    /// It is carried out.
    Done,
    /// A write, or this step of several, goes to `at`.
    Goes { at: Sector, step: u8 },
    /// Of several ranges, those before this one are done, and it is up to `at`.
    Reached { at: Sector, step: u8 },
    /// Of a write to `at` the first `sectors` are there, and the rest has no place yet.
    Stopped { at: Sector, sectors: Sector },
}

/// No disk that we can serve has more sectors.
const SECTOR_BITS: u32 = 52;
/// No disk on which a write can stop has more, nor is a write as long: 512 TiB, and 512 MiB.
const STOPPED_BITS: (u32, u32) = (40, 20);

impl Note {
    /// Never 0, which stands for nothing.
    pub(crate) fn encode(self) -> u64 {
        let place = |at: Sector, step| (at.0 << 12) | u64::from(step) << 4;
        match self {
            Self::Done => 1,
            Self::Goes { at, step } => place(at, step) | 2,
            Self::Reached { at, step } => place(at, step) | 3,
            Self::Stopped { at, sectors } => (at.0 << 24) | (sectors.0 << 4) | 4,
        }
    }

    fn decode(bits: u64) -> Option<Self> {
        let (at, step) = (Sector(bits >> 12), (bits >> 4) as u8);
        match bits & 0xf {
            1 => Some(Self::Done),
            2 => Some(Self::Goes { at, step }),
            3 => Some(Self::Reached { at, step }),
            4 => {
                let sectors = Sector((bits >> 4) & ((1 << STOPPED_BITS.1) - 1));
                Some(Self::Stopped { at: Sector(bits >> 24), sectors })
            }
            _ => None,
        }
    }

    /// About a write of which there is only a part; `None` where that has no room in a note.
    fn stopped(part: Part) -> Option<Self> {
        let Part { at, sectors } = part;
        let fits = at.0 >> STOPPED_BITS.0 == 0 && sectors.0 >> STOPPED_BITS.1 == 0;
        fits.then_some(Self::Stopped { at, sectors })
    }

    /// About a write that was just decided; `None` where it can as well be done again.
    pub(crate) fn of(geometry: &Geometry, slot: &Slot) -> Option<Self> {
        let step = u8::try_from(slot.next_range).ok()?;
        // Of one that goes on, where its first part went: from here on nobody else writes behind that.
        let at = slot.went_on.unwrap_or(slot.at);
        slot.write.as_ref()?;
        let zone = geometry.zone_of(at)?;
        let sequential = geometry.zone_type(zone) == ZoneType::SequentialRequired;
        (sequential && at.0 >> SECTOR_BITS == 0).then_some(Self::Goes { at, step })
    }

    /// About a command that has just been carried out and recorded; of an erasure, a step of `sectors`.
    fn of_command(slot: &Slot, sectors: Sector) -> Option<Self> {
        match slot.request {
            Request::Manage { .. } | Request::ResetAll => Some(Self::Done),
            Request::Erase => {
                let step = u8::try_from(slot.next_range).ok()?;
                let at = slot.range()?.0.checked_add(sectors)?;
                (at.0 >> SECTOR_BITS == 0).then_some(Self::Reached { at, step })
            }
            _ => None,
        }
    }
}

/// A write of which a process that died wrote the first part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    /// Where it begins.
    at: Sector,
    /// How much of it is there.
    sectors: Sector,
}

/// Notes where the write that was just decided goes.
pub(crate) fn note_place(queue: &mut DeviceQueue, geometry: &Geometry, slot: &Slot) {
    if let (Some(note), Some(reply)) = (Note::of(geometry, slot), &slot.reply) {
        queue.note(reply.head(), note.encode());
    }
}

/// Notes that a command to zones, or a step of it, was carried out and recorded.
pub(crate) fn note_done(queue: &mut DeviceQueue, geometry: &Geometry, slot: &Slot) {
    let note = Note::of_command(slot, slot.step(Some(geometry)));
    if let (Some(note), Some(reply)) = (note, &slot.reply) {
        queue.note(reply.head(), note.encode());
    }
}

/// Finds out what of the request in `slot`, just taken, had happened by its note: leaves in the slot what is to
/// be done still. What is to be noted of it from now on, when that is something else. To be asked before anything
/// is decided, by any queue; `in_parts`: the medium moves its pointers over parts of writes.
pub(crate) fn resume(zones: &Zones, slot: &mut Slot, in_parts: bool) -> Option<u64> {
    let note = Note::decode(slot.note)?;
    let now = match (note, slot.request) {
        (Note::Done, Request::Manage { .. } | Request::ResetAll) => {
            slot.happened = true;
            Some(note)
        }
        (
            Note::Goes { at, .. },
            Request::Write { sectors, .. } | Request::Append { sectors, .. },
        ) => {
            let written = written(zones, at, sectors);
            slot.happened = written == sectors;
            if slot.happened {
                slot.at = at;
                Some(note)
            } else {
                slot.part =
                    (in_parts && written > Sector::ZERO).then_some(Part { at, sectors: written });
                slot.part.and_then(Note::stopped)
            }
        }
        (
            Note::Stopped { at, sectors: part },
            Request::Write { sectors, .. } | Request::Append { sectors, .. },
        ) => {
            slot.part = (in_parts && written(zones, at, sectors) == part)
                .then_some(Part { at, sectors: part });
            slot.part.and(Some(note))
        }
        (Note::Goes { at, step }, Request::Zero) => {
            skip(slot, step);
            let (from, sectors, _) = slot.range()?;
            // Of a range that another process had gone on with, more than the noted step is done.
            let before = at.checked_sub(from).unwrap_or(Sector::ZERO).min(sectors);
            let rest = Sector(sectors.0.saturating_sub(before.0));
            let written = written(zones, at, rest);
            let step_done = if in_parts || written == rest { written } else { Sector::ZERO };
            let done = Sector(before.0.saturating_add(step_done.0));
            slot.range_done(done);
            Some(Note::Reached { at: Sector(from.0.saturating_add(done.0)), step })
        }
        (Note::Reached { at, step }, Request::Zero | Request::Erase) => {
            if let Some(sectors) = skip(slot, step)
                && let Some(done) = slot.range().and_then(|(from, _, _)| at.checked_sub(from))
            {
                slot.range_done(done.min(sectors));
            }
            Some(note)
        }
        _ => None,
    };
    let now = now.map_or(0, Note::encode);
    (now != slot.note).then_some(now)
}

/// How many of `sectors` from `at` on are below the write pointer of the zone.
fn written(zones: &Zones, at: Sector, sectors: Sector) -> Sector {
    let geometry = zones.geometry();
    let Some(zone) = geometry.zone_of(at) else { return Sector::ZERO };
    let end = geometry.start(zone).checked_add(zones.snapshot(zone).written());
    end.and_then(|end| end.checked_sub(at)).unwrap_or(Sector::ZERO).min(sectors)
}

/// Passes over the ranges before `step`; how many sectors that one has, if there is one.
fn skip(slot: &mut Slot, step: u8) -> Option<Sector> {
    while slot.next_range < usize::from(step) {
        let (_, sectors, _) = slot.range()?;
        slot.range_done(sectors);
    }
    slot.range().map(|(_, sectors, _)| sectors)
}

/// Makes of the request in `slot`, of which a part is there, one for the rest. Where somebody else has written
/// behind that part by now, it is done as a whole.
pub(crate) fn go_on(zones: &Zones, slot: &mut Slot) {
    let Some(Part { at, sectors: part }) = slot.part.take() else { return };
    let (Request::Write { sectors, .. } | Request::Append { sectors, .. }) = slot.request else {
        return;
    };
    let geometry = zones.geometry();
    let busy = geometry.zone_of(at).is_none_or(|zone| zones.is_busy(zone));
    if busy || written(zones, at, sectors) != part {
        return;
    }
    let rest = Sector(sectors.0.saturating_sub(part.0));
    let bytes = rest.0.saturating_mul(zvb_wire::SECTOR_BYTES);
    let Some(data) = slot.data.as_mut().and_then(|data| data.take_back(bytes, Vec::new())) else {
        return;
    };
    slot.data = Some(data);
    slot.request = Request::Write { at: Sector(at.0.saturating_add(part.0)), sectors: rest };
    slot.went_on = Some(at);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_come_back_and_nothing_is_none() {
        let farthest = Sector((1 << SECTOR_BITS) - 1);
        for note in [
            Note::Done,
            Note::Goes { at: Sector::ZERO, step: 0 },
            Note::Goes { at: farthest, step: 255 },
            Note::Reached { at: farthest, step: 15 },
            Note::Stopped { at: Sector((1 << 40) - 1), sectors: Sector((1 << 20) - 1) },
            Note::Stopped { at: Sector::ZERO, sectors: Sector(1) },
        ] {
            assert_ne!(note.encode(), 0);
            assert_eq!(Note::decode(note.encode()), Some(note));
        }
        assert_eq!(Note::decode(0), None);
        assert_eq!(Note::decode(u64::MAX), None);
        let stopped =
            |at, sectors| Note::stopped(Part { at: Sector(at), sectors: Sector(sectors) });
        assert_eq!(stopped(7, 8), Some(Note::Stopped { at: Sector(7), sectors: Sector(8) }));
        assert_eq!((stopped(1 << 40, 8), stopped(7, 1 << 20)), (None, None));
    }
}
