//! One request in flight, from its chain to its used entry.

use std::time::Instant;

use zvb_ring::{Buffers, DeviceQueue, Head};
use zvb_wire::{AppendInHeader, DiscardSegment, Sector, Status};
use zvb_zones::{Geometry, Ticket, WriteId};

use crate::kind::Kind;
use crate::request::Request;
use crate::resume::Part;

/// Where the answer of one request goes: spent exactly once, by [`Reply::spend`].
#[must_use = "a request is answered exactly once"]
#[derive(Debug)]
pub(crate) struct Reply {
    head: Head,
    /// The in-header: the status byte, last; the sector of an append, first. Empty when the guest left no
    /// room.
    in_header: Buffers,
    /// Writable bytes before the in-header.
    room: u64,
}

impl Reply {
    pub(crate) fn new(head: Head, in_header: Buffers, room: u64) -> Self {
        Self { head, in_header, room }
    }

    /// The chain that is answered.
    pub(crate) fn head(&self) -> &Head {
        &self.head
    }

    /// Writes the status (and for an append the sector), and hands the chain back. `data` says how many
    /// of the writable data bytes were written, from the first on.
    ///
    /// The used length counts from the first writable byte (virtio 2.7.8): what stands behind a gap does
    /// not count, so a failed read says 0 though its status byte was written.
    pub(crate) fn spend(
        self,
        queue: &mut DeviceQueue,
        status: Status,
        appended: Sector,
        data: u64,
    ) {
        let bytes = self.in_header.len();
        let sector = appended.0.to_le_bytes();
        // An append's in-header has room for both; any other is the status, or nothing at all.
        let is_append = bytes >= u64::from(AppendInHeader::BYTES);
        let mut written = Ok(());
        if is_append {
            written = self.in_header.write(0, &sector);
        }
        if let Some(last) = bytes.checked_sub(1) {
            written = written.and(self.in_header.write(last, &[status.0]));
        }
        debug_assert!(written.is_ok(), "an in-header has room for what is put into it");
        // Between the sector and the status of an append there may be a gap.
        let in_front =
            if bytes > u64::from(AppendInHeader::BYTES) { sector.len() as u64 } else { bytes };
        let counted = if data == self.room { data + in_front } else { data };
        // A chain is shorter than 2^32 bytes (`Buffers`).
        queue.push(self.head, counted as u32);
        queue.recycle(self.in_header);
    }
}

/// How far a request is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// No request.
    Free,
    /// Decided next time the table is locked.
    Deciding,
    /// Waits for I/O of others, with a ticket.
    Parked,
    /// Held up by a fault that was asked for.
    Delayed,
    /// In the engine.
    Medium,
    /// Its write is done, and waits for those before it in the zone.
    Held,
    /// Done and recorded, and made durable before the guest is told.
    Commit,
}

/// A request in flight. Reused, with the room of its lists.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) stage: Stage,
    pub(crate) request: Request,
    pub(crate) reply: Option<Reply>,
    /// Data, while it is not in the engine.
    pub(crate) data: Option<Buffers>,
    /// The reservation of a write in flight, or of a command that the medium carries out.
    pub(crate) write: Option<WriteId>,
    /// The place in the line of a request that waits.
    pub(crate) ticket: Option<Ticket>,
    /// What is answered when it fails on the medium.
    pub(crate) failure: Status,
    /// Where the data goes: for an append, what is answered.
    pub(crate) at: Sector,
    /// Of an append that the medium places: it says where.
    pub(crate) floats: bool,
    /// Ranges of a discard, write-zeroes or secure-erase, checked, and how many are done. A secure-erase
    /// goes zone by zone: what is left of a range is what stands here.
    pub(crate) ranges: Vec<DiscardSegment>,
    pub(crate) next_range: usize,
    /// What a process that died noted about the request; 0 for nothing.
    pub(crate) note: u64,
    /// That process carried it out, and only the answer is missing.
    pub(crate) happened: bool,
    /// It wrote this much of it.
    pub(crate) part: Option<Part>,
    /// Where that part begins, when only the rest is asked for.
    pub(crate) went_on: Option<Sector>,
    pub(crate) kind: Kind,
    /// When it was taken, where requests are timed.
    pub(crate) begun: Option<Instant>,
    /// It has met the fault that was asked for: no other hits it.
    pub(crate) hurt: bool,
    /// The medium is given only what lies before this, of a write that is to be torn.
    pub(crate) torn: Option<Sector>,
}

impl Slot {
    pub(crate) fn new() -> Self {
        Self {
            stage: Stage::Free,
            request: Request::Flush,
            reply: None,
            data: None,
            write: None,
            ticket: None,
            failure: Status::IOERR,
            at: Sector::ZERO,
            floats: false,
            ranges: Vec::new(),
            next_range: 0,
            note: 0,
            happened: false,
            part: None,
            went_on: None,
            kind: Kind::Refused,
            begun: None,
            hurt: false,
            torn: None,
        }
    }

    /// The first sector that it concerns, for what is said of it; 0 for what concerns none.
    pub(crate) fn place(&self) -> Sector {
        match self.request {
            Request::Read { at, .. } | Request::Write { at, .. } => at,
            Request::Report { from } => from,
            Request::Manage { zone, .. } => zone,
            Request::Append { .. } => self.at,
            _ => self.range().map_or(Sector::ZERO, |(at, _, _)| at),
        }
    }

    /// The range that is next, of a request that has ranges.
    pub(crate) fn range(&self) -> Option<(Sector, Sector, u32)> {
        let range = self.ranges.get(self.next_range)?;
        Some((
            Sector(range.sector.get()),
            Sector(range.num_sectors.get().into()),
            range.flags.get(),
        ))
    }

    /// How many sectors of the next range are done in one step: a zone of a secure-erase, else all.
    pub(crate) fn step(&self, geometry: Option<&Geometry>) -> Sector {
        let Some((at, sectors, _)) = self.range() else { return Sector::ZERO };
        match geometry {
            Some(geometry) if self.request == Request::Erase => {
                geometry.zone_of(at).map_or(sectors, |zone| geometry.len(zone).min(sectors))
            }
            _ => sectors,
        }
    }

    /// The first `sectors` of the range that is next are done: all of it when no more are left.
    pub(crate) fn range_done(&mut self, sectors: Sector) {
        let Some(range) = self.ranges.get_mut(self.next_range) else { return };
        let left = u64::from(range.num_sectors.get()).saturating_sub(sectors.0);
        range.sector.set(range.sector.get().saturating_add(sectors.0));
        // No more than what was there, which had 32 bits.
        range.num_sectors.set(left as u32);
        if left == 0 {
            self.next_range += 1;
        }
    }
}
