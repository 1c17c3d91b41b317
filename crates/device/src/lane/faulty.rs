//! Requests that a fault hits: see [`Faults`](crate::Faults). Nothing here runs while none is set.

use std::ops::Range;
use std::time::Instant;

use zvb_storage::Op;
use zvb_wire::{Features, SECTOR_BYTES, Sector, Status};
use zvb_zones::Outcome;

use super::Lane;
use crate::faults::{Harm, Hit, torn_end};
use crate::kind::Kind;
use crate::request::{Request, bytes};
use crate::slot::{Slot, Stage};

/// A request that a fault holds up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delayed {
    until: Instant,
    index: u32,
    harm: Option<Harm>,
}

/// Where a request meets its fault.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// As it comes.
    Start,
    /// On its way to the medium, with its place at the write pointer taken.
    Medium,
}

/// Writes meet theirs at the medium, so that the zones see what they would of a medium that fails.
fn place(request: &Request) -> Place {
    match request {
        Request::Write { .. } | Request::Append { .. } | Request::Zero => Place::Medium,
        _ => Place::Start,
    }
}

impl Lane {
    /// When [`turn`](Self::turn) is to be called at the latest, whatever else happens: a request is held up
    /// until then. `None` when none is.
    pub fn deadline(&self) -> Option<Instant> {
        self.delayed.iter().map(|delayed| delayed.until).min()
    }

    /// Whether a fault befalls a request that begins. True: it is taken care of.
    pub(super) fn hurt_at_start(&mut self, index: u32) -> bool {
        place(&self.slots[index as usize].request) == Place::Start && self.meet(index)
    }

    /// The same for one that goes to the medium.
    pub(super) fn hurt_at_medium(&mut self, index: u32) -> bool {
        place(&self.slots[index as usize].request) == Place::Medium && self.meet(index)
    }

    fn meet(&mut self, index: u32) -> bool {
        let slot = &self.slots[index as usize];
        if slot.hurt {
            return false;
        }
        let kind = Kind::of(&slot.request);
        let device = &self.session.device;
        let touches = |range: &Range<Sector>| self.touches(slot, range);
        let Some(Hit { delay, harm }) = device.faults().hit(kind, touches) else { return false };
        self.observer().fault_injected(self.index, slot.request.request_type(), slot.place(), harm);
        let slot = &mut self.slots[index as usize];
        slot.hurt = true;
        if delay.is_zero() {
            return self.harm(index, harm);
        }
        slot.stage = Stage::Delayed;
        // A queue's worth at most.
        self.delayed.push(Delayed { until: Instant::now() + delay, index, harm });
        true
    }

    /// True when a request touches a sector of `range`.
    fn touches(&self, slot: &Slot, range: &Range<Sector>) -> bool {
        let overlaps = |at: Sector, sectors: Sector| {
            at < range.end && at.0.saturating_add(sectors.0.max(1)) > range.start.0
        };
        let whole_zone = |at: Sector| {
            let geometry = self.session.device.table.as_ref().map(|table| table.geometry());
            let zone = geometry.and_then(|g| Some((g, g.zone_of(at)?)));
            match zone {
                Some((g, zone)) => overlaps(g.start(zone), g.len(zone)),
                None => overlaps(at, Sector(1)),
            }
        };
        match slot.request {
            Request::Read { at, sectors } | Request::Write { at, sectors } => overlaps(at, sectors),
            Request::Append { sectors, .. } => overlaps(slot.at, sectors),
            Request::Report { from: at } | Request::Manage { zone: at, .. } => whole_zone(at),
            // A write-zeroes goes range by range.
            Request::Zero => slot.range().is_some_and(|(at, sectors, _)| overlaps(at, sectors)),
            Request::Discard | Request::Erase => slot
                .ranges
                .iter()
                .any(|r| overlaps(Sector(r.sector.get()), Sector(r.num_sectors.get().into()))),
            Request::Flush | Request::Id | Request::ResetAll => false,
        }
    }

    /// Goes on with requests that were held up long enough; with all of them when the queue is to stop.
    pub(super) fn end_delays(&mut self, all: bool) {
        let now = Instant::now();
        let mut next = 0;
        while let Some(delayed) = self.delayed.get(next).copied() {
            if !all && delayed.until > now {
                next += 1;
                continue;
            }
            self.delayed.remove(next);
            self.progress = true;
            let Delayed { index, harm, .. } = delayed;
            self.slots[index as usize].stage = Stage::Deciding;
            if self.harm(index, harm) {
                continue;
            }
            match place(&self.slots[index as usize].request) {
                Place::Start => self.begin(index),
                Place::Medium => self.start_write(index),
            }
        }
    }

    /// True when that is the end of the request.
    fn harm(&mut self, index: u32, harm: Option<Harm>) -> bool {
        match harm {
            None => return false,
            Some(Harm::Fail(status)) => self.fail(index, status),
            Some(Harm::Tear(keep)) => self.tear(index, keep),
        }
        true
    }

    fn fail(&mut self, index: u32, status: Status) {
        let zoned = self.session.features().contains(Features::ZONED);
        // Who does not know of zones knows no status of theirs.
        let known = zoned || matches!(status, Status::IOERR | Status::UNSUPP);
        let status = if known { status } else { Status::IOERR };
        let slot = &mut self.slots[index as usize];
        slot.failure = status;
        match slot.write.take() {
            Some(write) => {
                slot.stage = Stage::Held;
                self.ended.push((write, Outcome::Failed));
            }
            None => self.answer(index, status, 0),
        }
    }

    /// Gives the engine what is to reach the medium of a write.
    fn tear(&mut self, index: u32, keep: Option<Sector>) {
        let shape = self.session.device.volume.shape();
        let blocks = Sector(u64::from(shape.block_size) / SECTOR_BYTES);
        let granules = shape.geometry.as_ref().map_or(Sector(1), |geometry| geometry.granule());
        let slot = &mut self.slots[index as usize];
        let (at, sectors) = match slot.request {
            Request::Write { at, sectors } => (at, sectors),
            Request::Append { sectors, .. } => (slot.at, sectors),
            _ => return self.fail(index, Status::IOERR),
        };
        let end = torn_end(at, sectors, keep, blocks.max(granules));
        let (Some(mut data), true) = (slot.data.take(), end > at) else {
            return self.fail(index, Status::IOERR);
        };
        slot.torn = Some(end);
        let lost = at.0.saturating_add(sectors.0).saturating_sub(end.0);
        if let Some(lost) = data.take_back(bytes(Sector(lost)), self.queue.spare()) {
            self.queue.recycle(lost);
        }
        self.submit(index, at, Op::Write(data));
    }
}
