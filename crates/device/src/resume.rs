//! Requests that a process before this one took and did not answer: which of them had already happened.
//!
//! Most requests can be done again and come to the same. A write to a sequential-required zone can not: done
//! again, it stands no longer at the write pointer, and an append stands twice on the disk. And a command to
//! zones, done again, may undo what came after it. So the place of such a write is noted in the queue's ledger
//! when it is decided, before it is given to the medium; and a command when it has been carried out. Whoever
//! comes next finds by the write pointer what became of the writes: pointers move in the order in which places
//! were given out, over what is written whole.

use zvb_ring::DeviceQueue;
use zvb_wire::{Sector, ZoneType};
use zvb_zones::Zones;

use crate::request::Request;
use crate::slot::Slot;

/// What is noted about a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Note {
    /// It is carried out.
    Done,
    /// A write, or this step of several, goes to `at`.
    Goes { at: Sector, step: u8 },
}

/// No disk that we can serve has more sectors.
const SECTOR_BITS: u32 = 52;

impl Note {
    /// Never 0, which stands for nothing.
    pub(crate) fn encode(self) -> u64 {
        match self {
            Self::Done => 1,
            Self::Goes { at, step } => (at.0 << 12) | u64::from(step) << 4 | 2,
        }
    }

    fn decode(bits: u64) -> Option<Self> {
        match bits & 0xf {
            1 => Some(Self::Done),
            2 => Some(Self::Goes { at: Sector(bits >> 12), step: (bits >> 4) as u8 }),
            _ => None,
        }
    }

    /// About a write that was just decided; `None` where it can as well be done again.
    pub(crate) fn of(zones: &Zones, slot: &Slot) -> Option<Self> {
        let step = u8::try_from(slot.next_range).ok()?;
        let at = slot.at;
        slot.write.as_ref()?;
        let geometry = zones.geometry();
        let zone = geometry.zone_of(at)?;
        let sequential = geometry.zone_type(zone) == ZoneType::SequentialRequired;
        (sequential && at.0 >> SECTOR_BITS == 0).then_some(Self::Goes { at, step })
    }
}

/// What a note says about the step of a request that is to be decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Before {
    /// The request was carried out.
    Request,
    /// This step of it was.
    Step,
    /// It was not.
    Nothing,
}

/// Notes where the write that was just decided goes.
pub(crate) fn note_place(queue: &mut DeviceQueue, zones: &Zones, slot: &Slot) {
    if let (Some(note), Some(reply)) = (Note::of(zones, slot), &slot.reply) {
        queue.note(reply.head(), note.encode());
    }
}

/// Notes that a command to zones, which is to be answered, was carried out and recorded.
pub(crate) fn note_done(queue: &mut DeviceQueue, slot: &Slot) {
    if let (Request::Manage { .. } | Request::ResetAll, Some(reply)) = (slot.request, &slot.reply) {
        queue.note(reply.head(), Note::Done.encode());
    }
}

/// Whether what `slot` asks for next has happened already. Asked when it is decided first: what is not there
/// then has not happened, and the note is forgotten.
#[inline]
pub(crate) fn before(zones: &Zones, slot: &mut Slot) -> Before {
    let Some(note) = Note::decode(slot.note) else { return Before::Nothing };
    let before = judge(zones, slot, note);
    if before == Before::Nothing {
        slot.note = 0;
    }
    before
}

fn judge(zones: &Zones, slot: &mut Slot, note: Note) -> Before {
    match (note, slot.request) {
        (Note::Done, Request::Manage { .. } | Request::ResetAll) => Before::Request,
        (
            Note::Goes { at, .. },
            Request::Write { sectors, .. } | Request::Append { sectors, .. },
        ) if is_written(zones, at, sectors) => {
            slot.at = at;
            Before::Request
        }
        (Note::Goes { at, step }, Request::Zero) => {
            let Some((_, sectors, _)) = slot.range() else { return Before::Nothing };
            match slot.next_range.cmp(&usize::from(step)) {
                std::cmp::Ordering::Less => Before::Step,
                std::cmp::Ordering::Equal if is_written(zones, at, sectors) => Before::Step,
                _ => Before::Nothing,
            }
        }
        _ => Before::Nothing,
    }
}

/// True when the write pointer of the zone has passed `sectors` from `at` on.
fn is_written(zones: &Zones, at: Sector, sectors: Sector) -> bool {
    let geometry = zones.geometry();
    let Some(zone) = geometry.zone_of(at) else { return false };
    let written = geometry.start(zone).checked_add(zones.snapshot(zone).written());
    match (at.checked_add(sectors), written) {
        (Some(end), Some(written)) => end <= written,
        _ => false,
    }
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
        ] {
            assert_ne!(note.encode(), 0);
            assert_eq!(Note::decode(note.encode()), Some(note));
        }
        assert_eq!(Note::decode(0), None);
        assert_eq!(Note::decode(u64::MAX), None);
    }
}
