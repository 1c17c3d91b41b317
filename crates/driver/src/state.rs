//! The driver's side of one queue: what is in flight, and the memory that goes with it.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use zvb_wire::{
    AppendInHeader, DISCARD_FLAG_UNMAP, DiscardSegment, ID_BYTES, Lifetime, RequestHeader, Sector,
    Status,
};

use crate::check::{Plan, check};
use crate::dma::{Buffer, NoMemory, Region};
use crate::error::{Fault, Lie, RequestError, SubmitError};
use crate::info::Info;
use crate::map::{Claim, ZoneMap};
use crate::request::{Answer, Completion, Rejected, Request, SectorRange, Token};
use crate::ring::{Ring, RingError};
use crate::transport::{Dma, QueueLayout};
use crate::zone::parse_report;

/// Each request in flight has this much of its own for what goes around the data: a cache line.
const SLOT_BYTES: usize = 64;
const HEADER_BYTES: usize = RequestHeader::BYTES as usize;
/// The in-header of an append, whose last byte is the status of every request.
const IN_HEADER_AT: usize = HEADER_BYTES;
const STATUS_AT: usize = IN_HEADER_AT + AppendInHeader::BYTES as usize - 1;
/// The answer to GET_ID or GET_LIFETIME.
const ID_AT: usize = 32;
const LIFETIME_BYTES: u32 = size_of::<Lifetime>() as u32;
/// Stands where the status comes, and is none: a device that writes no status is seen.
const NO_STATUS: u8 = 0xff;

const _: () = assert!(STATUS_AT < ID_AT && ID_AT + ID_BYTES as usize <= SLOT_BYTES);

/// Who waits for a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owner {
    /// Whoever polls.
    User,
    /// The blocking call that is running, or one that failed and is waited for no more.
    Call,
}

/// A request that the device has.
struct Pending<D: Dma> {
    sequence: u64,
    owner: Owner,
    kind: Kind,
    claim: Claim,
    /// The size of the disk when it was submitted: what an answer is held against, should the disk have
    /// become smaller since.
    capacity: Sector,
    /// Held for the device until it answers.
    buffer: Option<Buffer<D>>,
    /// Ranges of a DISCARD or WRITE_ZEROES; held likewise.
    ranges: Option<Region<D>>,
}

/// What to look for in the answer: the driver's own copy of what it asked.
#[derive(Clone, Copy)]
enum Kind {
    Read,
    Append { zone: Sector, sectors: Sector },
    Report { from: Sector },
    Id,
    Lifetime,
    Other,
}

/// The driver's side of one queue.
pub(crate) struct QueueState<D: Dma> {
    ring: Ring<D>,
    /// `SLOT_BYTES` for each slot.
    control: Region<D>,
    slots: Vec<Option<Pending<D>>>,
    free: Vec<u16>,
    /// The slot of each chain in flight, by its head.
    slot_of_head: Vec<u16>,
    /// Completions of the user's that a blocking call came upon.
    stash: VecDeque<Completion<D>>,
    readable: Vec<(u64, u32)>,
    writable: Vec<(u64, u32)>,
    sequence: u64,
    /// A signal was asked for, and nothing was polled since.
    asked: bool,
    fault: Option<Fault>,
    dma: D,
}

impl<D: Dma> QueueState<D> {
    /// A queue of `size` descriptors for a device that is driven as `info` says.
    pub(crate) fn new(dma: &D, info: &Info, size: u16) -> Result<Self, RingError> {
        let ring = Ring::new(dma, info, size)?;
        let depth = ring.depth();
        let control = Region::new(dma, usize::from(depth) * SLOT_BYTES, SLOT_BYTES)?;
        let segments = info.segments_max() as usize + 1;
        Ok(Self {
            ring,
            control,
            slots: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            slot_of_head: alloc::vec![0; usize::from(size)],
            stash: VecDeque::new(),
            readable: Vec::with_capacity(segments),
            writable: Vec::with_capacity(segments),
            sequence: 0,
            asked: false,
            fault: None,
            dma: dma.clone(),
        })
    }

    /// Where the device finds the queue.
    pub(crate) fn layout(&self) -> QueueLayout {
        self.ring.layout()
    }

    /// How many requests can be in flight.
    pub(crate) fn depth(&self) -> u16 {
        self.ring.depth()
    }

    /// Requests that the device has, and completions that nobody has polled.
    pub(crate) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len() + self.stash.len()
    }

    /// The number that the next request gets.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.sequence
    }

    /// Breaks the queue, unless it is broken. Of zones that it writes to, nothing is known any more.
    pub(crate) fn fail(&mut self, zones: &ZoneMap, fault: Fault) {
        self.fault.get_or_insert(fault);
        self.slots.iter().flatten().for_each(|pending| zones.lose(&pending.claim));
    }

    /// Memory for a request.
    pub(crate) fn buffer(&self, len: usize) -> Result<Buffer<D>, NoMemory> {
        Buffer::new(&self.dma, len)
    }

    /// Hands the device's memory to nobody, for ever: for a device that could not be stopped.
    pub(crate) fn leak(self) {
        for pending in self.slots.into_iter().flatten() {
            pending.buffer.into_iter().for_each(Buffer::leak);
            pending.ranges.into_iter().for_each(Region::leak);
        }
        self.control.leak();
        self.ring.leak();
    }

    /// Queues a request; the device sees it after [`publish`](Self::publish).
    pub(crate) fn submit(
        &mut self,
        info: &Info,
        zones: &ZoneMap,
        request: Request<D>,
        owner: Owner,
    ) -> Result<Token, Rejected<D>> {
        match self.enqueue(info, zones, &request, owner) {
            Ok((slot, ranges, claim)) => {
                let sequence = self.sequence;
                self.sequence += 1;
                let pending = Pending {
                    sequence,
                    owner,
                    kind: kind(&request),
                    claim,
                    capacity: info.capacity,
                    buffer: request.into_buffer(),
                    ranges,
                };
                let vacant = self.slots[usize::from(slot)].replace(pending);
                assert!(vacant.is_none(), "slot {slot} was in use");
                Ok(Token { sequence, slot })
            }
            Err(error) => Err(Rejected { error, request }),
        }
    }

    /// Puts a request into the ring, if it may be sent and there is room. When this fails, nothing has
    /// changed.
    fn enqueue(
        &mut self,
        info: &Info,
        zones: &ZoneMap,
        request: &Request<D>,
        owner: Owner,
    ) -> Result<(u16, Option<Region<D>>, Claim), SubmitError> {
        if let Some(fault) = self.fault {
            return Err(SubmitError::DeviceFailed(fault));
        }
        let plan = check(info, zones, request)?;
        // Completions that wait to be polled count too, or they would pile up without end. A blocking
        // call adds none, and must not wait for someone to poll.
        if owner == Owner::User && self.in_flight() >= self.slots.len() {
            return Err(SubmitError::QueueFull);
        }
        let slot = *self.free.last().ok_or(SubmitError::QueueFull)?;
        let ranges = match request {
            Request::Discard { ranges } | Request::SecureErase { ranges } => {
                Some(self.ranges(ranges, 0)?)
            }
            Request::WriteZeroes { ranges, unmap } => {
                Some(self.ranges(ranges, if *unmap { DISCARD_FLAG_UNMAP } else { 0 })?)
            }
            _ => None,
        };
        self.describe(info, plan, request, slot, ranges.as_ref());
        if !self.ring.has_room(self.readable.len() + self.writable.len()) {
            return Err(SubmitError::QueueFull);
        }
        // The last thing that can fail: from here on the zone counts on the request.
        let claim = zones.claim(info, request)?;
        let head = match self.ring.add(&self.readable, &self.writable) {
            Ok(head) => head,
            Err(error) => unreachable!("a checked request that the ring refuses: {error}"),
        };
        self.slot_of_head[usize::from(head)] = slot;
        self.free.pop();
        Ok((slot, ranges, claim))
    }

    /// The ranges of a DISCARD or WRITE_ZEROES, as the device reads them.
    fn ranges(&self, ranges: &[SectorRange], flags: u32) -> Result<Region<D>, NoMemory> {
        let size = DiscardSegment::BYTES as usize;
        let len = ranges.len().checked_mul(size).ok_or(NoMemory)?;
        let mut region = Region::new(&self.dma, len, size)?;
        for (index, range) in ranges.iter().enumerate() {
            let segment = DiscardSegment {
                sector: range.at.0.into(),
                num_sectors: range.sectors.into(),
                flags: flags.into(),
            };
            region.write::<{ DiscardSegment::BYTES as usize }>(
                index * size,
                zerocopy::transmute!(segment),
            );
        }
        Ok(region)
    }

    /// Writes the header, and lists what the device reads and what it writes.
    fn describe(
        &mut self,
        info: &Info,
        plan: Plan,
        request: &Request<D>,
        slot: u16,
        ranges: Option<&Region<D>>,
    ) {
        let at = usize::from(slot) * SLOT_BYTES;
        let header = RequestHeader::new(plan.request_type, plan.sector);
        self.control.write::<HEADER_BYTES>(at, zerocopy::transmute!(header));
        self.control.write(at + IN_HEADER_AT, [NO_STATUS; AppendInHeader::BYTES as usize]);

        self.readable.clear();
        self.writable.clear();
        self.readable.push((self.control.device(at), RequestHeader::BYTES));
        let max = info.segment_bytes();
        match request {
            Request::Read { buffer, .. } | Request::Report { buffer, .. } => {
                split(&mut self.writable, buffer.device(), buffer.len() as u64, max);
            }
            Request::Write { buffer, .. } | Request::Append { buffer, .. } => {
                split(&mut self.readable, buffer.device(), buffer.len() as u64, max);
            }
            Request::Id => self.writable.push((self.control.device(at + ID_AT), ID_BYTES)),
            Request::Lifetime => {
                self.writable.push((self.control.device(at + ID_AT), LIFETIME_BYTES));
            }
            Request::Discard { ranges: list }
            | Request::SecureErase { ranges: list }
            | Request::WriteZeroes { ranges: list, .. } => {
                let bytes = list.len() as u64 * u64::from(DiscardSegment::BYTES);
                if let Some(region) = ranges {
                    split(&mut self.readable, region.device(0), bytes, max);
                }
            }
            _ => {}
        }
        self.writable.push(match request {
            Request::Append { .. } => {
                (self.control.device(at + IN_HEADER_AT), AppendInHeader::BYTES)
            }
            _ => (self.control.device(at + STATUS_AT), 1),
        });
    }

    /// Shows the device what was submitted. True: it wants to be notified.
    pub(crate) fn publish(&mut self) -> Result<bool, Fault> {
        match self.fault {
            Some(fault) => Err(fault),
            None => Ok(self.ring.publish()),
        }
    }

    /// Asks for a signal about the next answer. True: the device has given one already.
    pub(crate) fn resume_signals(&mut self) -> bool {
        self.asked = true;
        self.ring.resume_signals()
    }

    /// Asks for a signal, unless there is something to poll already: true.
    pub(crate) fn ask_for_signal(&mut self) -> bool {
        // A broken queue has its fault to tell, and its device nothing more to signal.
        self.fault.is_some() || self.has_stash() || self.resume_signals()
    }

    /// Asks for no more signals.
    pub(crate) fn pause_signals(&mut self) {
        self.asked = false;
        self.ring.pause_signals();
    }

    /// True when a completion was kept for whoever polls.
    pub(crate) fn has_stash(&self) -> bool {
        !self.stash.is_empty()
    }

    /// Keeps a completion for whoever polls.
    pub(crate) fn stash(&mut self, completion: Completion<D>) {
        self.stash.push_back(completion);
    }

    /// The next completion of the user's.
    pub(crate) fn poll(
        &mut self,
        info: &Info,
        zones: &ZoneMap,
    ) -> Result<Option<Completion<D>>, Fault> {
        if let Some(completion) = self.stash.pop_front() {
            return Ok(Some(completion));
        }
        // Every turn frees a slot, so there are no more than that.
        for _ in 0..=self.slots.len() {
            match self.next(info, zones)? {
                // Of a blocking call that failed: nobody wants it any more.
                Some((Owner::Call, _)) => {}
                Some((Owner::User, completion)) => {
                    // Whoever polls is awake.
                    if self.asked {
                        self.pause_signals();
                    }
                    return Ok(Some(completion));
                }
                None => break,
            }
        }
        Ok(None)
    }

    /// The next answer of the device, whoever waits for it.
    pub(crate) fn next(
        &mut self,
        info: &Info,
        zones: &ZoneMap,
    ) -> Result<Option<(Owner, Completion<D>)>, Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let used = match self.ring.pop_used() {
            Ok(Some(used)) => used,
            Ok(None) => return Ok(None),
            Err(lie) => {
                self.fail(zones, Fault::Ring(lie));
                return Err(Fault::Ring(lie));
            }
        };
        // The ring answers only with heads that it gave out and that are in flight.
        let slot = self.slot_of_head[usize::from(used.head)];
        let pending = self.slots[usize::from(slot)].take();
        let Some(pending) = pending else { unreachable!("slot {slot} is not in use") };
        let (result, bytes) = self.answer(info, &pending, slot, used.len);
        zones.settle(info.zoned.as_ref(), pending.claim, &result);
        self.free.push(slot);
        let token = Token { sequence: pending.sequence, slot };
        Ok(Some((pending.owner, Completion { token, result, buffer: pending.buffer, bytes })))
    }

    /// What the device's answer is worth: the result, and the bytes of the buffer that it vouches for.
    fn answer(
        &self,
        info: &Info,
        pending: &Pending<D>,
        slot: u16,
        written: u32,
    ) -> (Result<Answer, RequestError>, u32) {
        let at = usize::from(slot) * SLOT_BYTES;
        let data = match (&pending.kind, &pending.buffer) {
            (Kind::Read | Kind::Report { .. }, Some(buffer)) => buffer.len(),
            _ => 0,
        };
        // The data comes before the status, so what covers both covers the data.
        let bytes = written.min(u32::try_from(data).unwrap_or(u32::MAX));
        let [status] = self.control.read(at + STATUS_AT);
        // The status is believed even where `written` does not reach it: devices are about that say 0,
        // and it can not be what stood there before.
        let result = match Status(status) {
            Status(NO_STATUS) => Err(RequestError::Lie(Lie::NoStatus)),
            Status::OK => self.believe(info, pending, at, written, bytes),
            other => Err(RequestError::from_status(other)),
        };
        (result, bytes)
    }

    /// The answer to a request that went well, if it can be true.
    fn believe(
        &self,
        info: &Info,
        pending: &Pending<D>,
        at: usize,
        written: u32,
        bytes: u32,
    ) -> Result<Answer, RequestError> {
        let short = |expected| RequestError::Lie(Lie::Short { written, expected });
        let capacity = info.capacity.max(pending.capacity);
        match (pending.kind, &pending.buffer) {
            // What is past `written` MUST NOT be relied upon (virtio 2.7.8.3).
            (Kind::Read, Some(buffer)) if (bytes as usize) < buffer.len() => {
                Err(short(u32::try_from(buffer.len()).unwrap_or(u32::MAX)))
            }
            (Kind::Append { zone, sectors }, _) => {
                let sector = u64::from_le_bytes(self.control.read(at + IN_HEADER_AT));
                appended(info, capacity, zone, sectors, Sector(sector)).map_err(RequestError::Lie)
            }
            (Kind::Report { from }, Some(buffer)) => match &info.zoned {
                Some(zoned) => {
                    parse_report(capacity, zoned, from, buffer, bytes).map(Answer::Zones)
                }
                None => unreachable!("a report of a disk without zones was sent"),
            },
            (Kind::Id, _) if written < ID_BYTES => Err(short(ID_BYTES)),
            (Kind::Id, _) => Ok(Answer::Id(self.control.read(at + ID_AT))),
            (Kind::Lifetime, _) if written < LIFETIME_BYTES => Err(short(LIFETIME_BYTES)),
            (Kind::Lifetime, _) => lifetime(self.control.read(at + ID_AT)),
            _ => Ok(Answer::Done),
        }
    }
}

/// What to remember of a request.
fn kind<D: Dma>(request: &Request<D>) -> Kind {
    match request {
        Request::Read { .. } => Kind::Read,
        Request::Append { zone, buffer } => Kind::Append {
            zone: *zone,
            sectors: Sector(buffer.len() as u64 / zvb_wire::SECTOR_BYTES),
        },
        Request::Report { from, .. } => Kind::Report { from: *from },
        Request::Id => Kind::Id,
        Request::Lifetime => Kind::Lifetime,
        _ => Kind::Other,
    }
}

/// An append to `zone` is inside of that zone, all of it.
fn appended(
    info: &Info,
    capacity: Sector,
    zone: Sector,
    sectors: Sector,
    at: Sector,
) -> Result<Answer, Lie> {
    let size = info.zoned.map_or(Sector::ZERO, |zoned| zoned.zone_size);
    let zone_end = Sector(zone.0.saturating_add(size.0)).min(capacity);
    match at.checked_add(sectors) {
        Some(end) if at >= zone && end <= zone_end => Ok(Answer::Appended(at)),
        _ => Err(Lie::AppendedElsewhere { zone, at }),
    }
}

/// A lifetime in values that are given out.
fn lifetime(bytes: [u8; LIFETIME_BYTES as usize]) -> Result<Answer, RequestError> {
    let lifetime: Lifetime = zerocopy::transmute!(bytes);
    let pre_eol_info = lifetime.pre_eol_info.get();
    let a = lifetime.device_lifetime_est_typ_a.get();
    let b = lifetime.device_lifetime_est_typ_b.get();
    if pre_eol_info > 3 || a > 11 || b > 11 {
        return Err(RequestError::Lie(Lie::Lifetime { pre_eol_info, a, b }));
    }
    Ok(Answer::Lifetime(lifetime))
}

/// Lists `len` bytes at `address` in pieces of at most `max`.
fn split(list: &mut Vec<(u64, u32)>, mut address: u64, len: u64, max: u32) {
    let mut rest = len;
    while rest > 0 {
        let piece = rest.min(u64::from(max)) as u32;
        list.push((address, piece));
        address += u64::from(piece);
        rest -= u64::from(piece);
    }
}
