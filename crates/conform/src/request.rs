//! Requests on the rig: sent in any framing, answered or not, and every promise of the ring watched.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use zerocopy::IntoBytes;
use zvb_wire::{Features, RequestHeader, RequestType, Sector, Status};

use crate::framing::Framing;
use crate::outcome::{Checked, Stop, fail, skip};
use crate::rig::{Flight, Rig};
use crate::ring::{INDIRECT, Piece, WRITE, descriptor};

/// What writable bytes hold before the device writes them. No data that is written has it.
pub(crate) const UNTOUCHED: u8 = 0xa5;
/// So many untouched bytes in a row are no accident.
const RUN: usize = 4;

/// Where a chain's descriptors stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// In the queue's table.
    Direct,
    /// In a table of their own.
    Indirect,
    /// The same, with WRITE set on the descriptor that refers to it: it means nothing there.
    IndirectWrite,
    /// The first in the queue's table, the others in a table of their own.
    Mixed,
}

/// A chain: bytes to read and bytes to write, and how they are cut.
pub(crate) struct Chain {
    pub(crate) out: Vec<u8>,
    pub(crate) room: usize,
    pub(crate) out_cuts: Vec<usize>,
    pub(crate) in_cuts: Vec<usize>,
    pub(crate) place: Place,
}

/// A request as the specification has it.
#[derive(Clone, Copy)]
pub(crate) struct Request<'r> {
    pub(crate) kind: RequestType,
    pub(crate) sector: u64,
    /// Data for the device.
    pub(crate) data: &'r [u8],
    /// Bytes of data from the device.
    pub(crate) room: usize,
    pub(crate) framing: Framing,
    pub(crate) place: Place,
}

impl<'r> Request<'r> {
    pub(crate) fn new(kind: RequestType, sector: u64) -> Self {
        let (framing, place) = (Framing::Usual, Place::Direct);
        Self { kind, sector, data: &[], room: 0, framing, place }
    }

    pub(crate) fn with(self, data: &'r [u8]) -> Self {
        Self { data, ..self }
    }

    pub(crate) fn into(self, room: usize) -> Self {
        Self { room, ..self }
    }

    pub(crate) fn framed(self, framing: Framing, place: Place) -> Self {
        Self { framing, place, ..self }
    }

    /// Bytes behind the data: the status, before it the sector of an append.
    fn tail(&self) -> usize {
        if self.kind == RequestType::ZONE_APPEND { 9 } else { 1 }
    }

    fn told(&self) -> String {
        format!("{:?} at sector {}", self.kind, self.sector)
    }
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: Status,
    /// All bytes before the in-header.
    pub(crate) data: Vec<u8>,
    /// Of an append.
    pub(crate) appended: u64,
}

impl Rig<'_> {
    /// The largest segment that the device takes, in bytes.
    pub(crate) fn segment_bytes(&self) -> usize {
        let most = self.config.size_max.get();
        if self.offered.contains(Features::SIZE_MAX) && most > 0 {
            usize::try_from(most).unwrap_or(usize::MAX)
        } else {
            usize::MAX
        }
    }

    /// The chain of a request.
    pub(crate) fn chain_of(&self, request: &Request<'_>) -> Chain {
        let header = RequestHeader::new(request.kind, Sector(request.sector));
        let mut out = header.as_bytes().to_vec();
        out.extend_from_slice(request.data);
        let most = self.segment_bytes();
        let head = RequestHeader::BYTES as usize;
        let out_cuts = request.framing.readable(head, request.data.len(), most);
        let in_cuts = request.framing.writable(request.room, request.tail(), most);
        let room = request.room.saturating_add(request.tail());
        Chain { out, room, out_cuts, in_cuts, place: request.place }
    }

    /// Sends a chain on queue `queue`, and notifies the device.
    pub(crate) fn send(&mut self, queue: u16, chain: &Chain) -> Checked<u16> {
        let head = self.lay(queue, chain)?;
        self.publish(queue, head)?;
        self.link.notify(queue).map_err(Stop::Link)?;
        Ok(head)
    }

    /// Makes a chain that was laid out available.
    pub(crate) fn publish(&mut self, queue: u16, head: u16) -> Checked {
        let Self { area, queues, .. } = self;
        let Some(ring) = queues.get_mut(usize::from(queue)) else {
            return skip(format!("there is no queue {queue}"));
        };
        ring.publish(area, head);
        Ok(())
    }

    /// Writes a chain into memory, its descriptors into the table.
    pub(crate) fn lay(&mut self, queue: u16, chain: &Chain) -> Checked<u16> {
        // Data begin at a page, with the header right before: some devices care for alignment.
        let out_at = self.take(chain.out.len(), 4096, 16)?;
        let in_at = self.take(chain.room, 4096, 0)?;
        let table_at = self.take(16 * (chain.out_cuts.len() + chain.in_cuts.len()), 16, 0)?;
        let mut pieces = Vec::new();
        for (at, cuts, flags) in [(out_at, &chain.out_cuts, 0), (in_at, &chain.in_cuts, WRITE)] {
            let mut offset = at;
            for len in cuts {
                let address = self.area.device(offset);
                pieces.push(Piece { address, len: *len as u32, flags });
                offset = offset.saturating_add(*len);
            }
        }
        self.area.write(out_at, &chain.out);
        self.area.fill(in_at, chain.room, UNTOUCHED);
        let mut descriptors = Vec::new();
        let direct = match chain.place {
            Place::Direct => pieces.len(),
            Place::Indirect | Place::IndirectWrite => 0,
            Place::Mixed => 1,
        };
        let in_table = pieces.split_off(direct.min(pieces.len()));
        if !in_table.is_empty() {
            let count = in_table.len();
            for (i, piece) in in_table.iter().enumerate() {
                let next = (i + 1 < count).then(|| u16::try_from(i + 1).unwrap_or(u16::MAX));
                let (at, bytes) = (table_at + 16 * i, descriptor(piece, next));
                self.area.write(at, &bytes);
                descriptors.push((at, bytes));
            }
            let flags = INDIRECT | if chain.place == Place::IndirectWrite { WRITE } else { 0 };
            let len = (16 * count) as u32;
            pieces.push(Piece { address: self.area.device(table_at), len, flags });
        }
        let Self { area, queues, flights, .. } = self;
        let Some(ring) = queues.get_mut(usize::from(queue)) else {
            return skip(format!("there is no queue {queue}"));
        };
        if !flights.iter().any(|flight| flight.queue == queue) {
            ring.recycle();
        }
        let Some((head, written)) = ring.chain(area, &pieces) else {
            return skip(format!("the queue has room for {} descriptors only", ring.size));
        };
        descriptors.extend(written);
        let (out, in_len) = (chain.out.clone(), chain.room);
        flights.push(Flight { queue, head, descriptors, out_at, out, in_at, in_len });
        Ok(head)
    }

    /// Waits until queue `queue` has given a chain back: its head, and all of its writable bytes. `what` is what was asked.
    pub(crate) fn receive(&mut self, queue: u16, what: &str) -> Checked<(u16, Vec<u8>)> {
        for _ in 0..self.options.max_wakes {
            if let Some((id, len)) = self.take_used(queue) {
                return self.land(queue, id, len);
            }
            let Err(why) = self.link.wait(queue, self.patience_ms) else { continue };
            if let Some((id, len)) = self.take_used(queue) {
                self.not_notified();
                return self.land(queue, id, len);
            }
            self.spoil();
            return match self.link.status() {
                Ok(_) => fail(format!("an answer to {what}"), why),
                Err(_) => Err(Stop::Link(format!("{what}: {why}"))),
            };
        }
        self.spoil();
        fail(format!("an answer to {what}"), "signals without end, and no answer")
    }

    /// Remembers that a buffer was used without a notification.
    pub(crate) fn not_notified(&mut self) {
        if !self.muted {
            let number = if self.negotiated().contains(Features::EVENT_IDX) { 149 } else { 148 };
            let got = format!("none in {} ms, though it was used", self.options.timeout_ms);
            self.note(number, "a notification when a buffer is used", got);
        }
    }

    /// The next used entry of a queue, if there is one.
    pub(crate) fn take_used(&mut self, queue: u16) -> Option<(u32, u32)> {
        let Self { area, queues, .. } = self;
        let ring = queues.get_mut(usize::from(queue))?;
        let used = ring.take_used(area)?;
        let flags = ring.used_flags(area);
        if self.negotiated().contains(Features::EVENT_IDX) {
            if flags != 0 {
                self.note(149, "0 in the flags of the used ring", format!("{flags}"));
            }
        } else if flags > 1 {
            self.note(148, "0 or 1 in the flags of the used ring", format!("{flags}"));
        }
        Some(used)
    }

    /// Takes a chain back, and looks at what the device has done with it.
    pub(crate) fn land(&mut self, queue: u16, id: u32, len: u32) -> Checked<(u16, Vec<u8>)> {
        let place = self.flights.iter().position(|f| f.queue == queue && u32::from(f.head) == id);
        let Some(place) = place else {
            self.spoil();
            return fail("the head of a chain in flight in the used ring", format!("{id}"));
        };
        let flight = self.flights.swap_remove(place);
        for (at, bytes) in &flight.descriptors {
            let mut now = [0; 16];
            self.area.read(*at, &mut now);
            if now != *bytes {
                self.note(145, "descriptors that the device leaves alone", "changed ones".into());
            }
        }
        let mut out = alloc::vec![0; flight.out.len()];
        self.area.read(flight.out_at, &mut out);
        if out != flight.out {
            self.note(145, "readable buffers that the device leaves alone", "changed ones".into());
        }
        let mut input = alloc::vec![0; flight.in_len];
        self.area.read(flight.in_at, &mut input);
        let used = usize::try_from(len).unwrap_or(usize::MAX);
        match input.get(..used) {
            None => {
                let got = format!("{len} of {} writable bytes", flight.in_len);
                self.note(147, "a used length of at most what can be written", got);
            }
            Some(written) if has_untouched(written) => {
                let got = format!("{len}, with bytes among them that were not written");
                self.note(147, "a used length of at most what was written", got);
            }
            Some(_) => {}
        }
        Ok((flight.head, input))
    }

    /// Sends a request on queue 0 and waits for its answer.
    pub(crate) fn ask(&mut self, request: &Request<'_>) -> Checked<Answer> {
        self.ask_on(0, request)
    }

    /// Sends a request on queue `queue` and waits for its answer.
    pub(crate) fn ask_on(&mut self, queue: u16, request: &Request<'_>) -> Checked<Answer> {
        let chain = self.chain_of(request);
        self.send(queue, &chain)?;
        let (_, input) = self.receive(queue, &request.told())?;
        Ok(answer(request, &input))
    }
}

/// Reads the writable bytes of a request.
pub(crate) fn answer(request: &Request<'_>, input: &[u8]) -> Answer {
    let (data, tail) = input.split_at_checked(request.room).unwrap_or((input, &[]));
    let status = Status(tail.last().copied().unwrap_or(UNTOUCHED));
    let sector = tail.get(..8).filter(|_| tail.len() == 9).and_then(|bytes| bytes.try_into().ok());
    let appended = sector.map_or(0, u64::from_le_bytes);
    Answer { status, data: data.to_vec(), appended }
}

fn has_untouched(bytes: &[u8]) -> bool {
    bytes.windows(RUN).any(|run| run.iter().all(|byte| *byte == UNTOUCHED))
}
