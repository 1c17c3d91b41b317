//! Calls that come back when it is done: large transfers are cut to what the device takes, and kept
//! several deep where their order does not matter.

use alloc::vec::Vec;

use zvb_wire::{Lifetime, RequestType, SECTOR_BYTES, Sector};

use crate::check;
use crate::disk::Queue;
use crate::dma::Buffer;
use crate::error::{Error, Fault, Invalid, Lie, RequestError, SubmitError};
use crate::request::{Answer, Completion, Request, SectorRange, Token};
use crate::state::Owner;
use crate::transport::{Dma, Transport};
use crate::zone::{REPORT_BYTES_MIN, Zone, report_bytes};

/// The most pieces of a transfer in flight.
const DEPTH: usize = 8;
/// The size of a piece, in bytes: where larger ones make no device faster.
const PIECE_BYTES: u32 = 256 << 10;
/// The most zones asked for at once: a buffer of 64 KiB.
const REPORT_ZONES: usize = 1023;
/// How often a device may wake us in a row without an answer.
const WAKES_MAX: u32 = 1 << 20;

/// All zones that `report` tells of.
pub(crate) fn all<E: core::error::Error>(
    report: impl FnOnce(&mut dyn FnMut(Zone)) -> Result<u32, Error<E>>,
) -> Result<Vec<Zone>, Error<E>> {
    let mut zones = Vec::new();
    let mut room = Ok(());
    report(&mut |zone| {
        room = room.and_then(|()| zones.try_reserve(1).map_err(|_| RequestError::NoMemory));
        if room.is_ok() {
            zones.push(zone);
        }
    })?;
    room?;
    Ok(zones)
}

/// Data that goes one way or the other.
enum Data<'a> {
    Read(&'a mut [u8]),
    Write(&'a [u8]),
}

impl Data<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Read(bytes) => bytes.len(),
            Self::Write(bytes) => bytes.len(),
        }
    }
}

/// A piece of a transfer that the device has.
struct Piece {
    token: Token,
    offset: usize,
}

impl<T: Transport, D: Dma> Queue<'_, T, D> {
    /// Reads from `at` on, as many bytes as `into` has.
    pub fn read(&mut self, at: Sector, into: &mut [u8]) -> Result<(), Error<T::Error>> {
        check::span(self.info, at, into.len() as u64)?;
        self.transfer(at, Data::Read(into), DEPTH)
    }

    /// Writes `from` from `at` on. When it fails, some of it may be written.
    ///
    /// On a zoned disk each piece waits for the one before it: sequential zones take them in no other
    /// order, and a device may do requests in any. Where nothing is known of a zone, it is asked first.
    pub fn write(&mut self, at: Sector, from: &[u8]) -> Result<(), Error<T::Error>> {
        let bytes = from.len() as u64;
        check::span(self.info, at, bytes)?;
        self.know(at, bytes)?;
        check::write_span(self.info, self.zones, at, bytes)?;
        let depth = if self.info.zoned.is_some() { 1 } else { DEPTH };
        self.transfer(at, Data::Write(from), depth)
    }

    /// Appends `from` to `zone`, and returns the sector where it begins.
    ///
    /// More than the append limit goes in several appends, each after the one before: of appends in
    /// flight together no one knows the order. When someone else appends to the same zone between them,
    /// that is [`Error::AppendTorn`]. When it fails, some of it may be written. When nothing is known of
    /// the zone, it is asked first.
    pub fn append(&mut self, zone: Sector, from: &[u8]) -> Result<Sector, Error<T::Error>> {
        let bytes = from.len() as u64;
        check::span(self.info, zone, bytes)?;
        self.know(zone, SECTOR_BYTES)?;
        let zoned = check::append_span(self.info, self.zones, zone, bytes)?;
        let granule = u64::from(zoned.write_granularity);
        if granule > self.info.max_transfer.into() {
            let max = self.info.max_transfer.into();
            return Err(Invalid::TooLong { bytes: granule, max }.into());
        }
        let max = zoned.max_append.to_bytes().unwrap_or(u64::MAX);
        let max = max
            .min(u64::from(self.info.max_transfer.min(PIECE_BYTES.max(zoned.write_granularity))));
        // Not 0: `max_append` holds a granule, and `probe` has seen that.
        let size = usize::try_from(max - max % granule).unwrap_or(usize::MAX);
        let mut first = None;
        let mut written = Sector::ZERO;
        let mut buffer = self.buffer(size.min(from.len()))?;
        for piece in from.chunks(size.max(1)) {
            buffer.set_len(piece.len());
            buffer.copy_from_slice(piece);
            let completion = self.command(Request::Append { zone, buffer })?;
            let Answer::Appended(at) = completion.result? else {
                unreachable!("an append is answered with a sector")
            };
            let begin = *first.get_or_insert(at);
            if at.checked_sub(begin) != Some(written) {
                return Err(Error::AppendTorn { first: begin, written, at });
            }
            written.0 += piece.len() as u64 / SECTOR_BYTES;
            buffer = match completion.buffer {
                Some(buffer) => buffer,
                None => unreachable!("an append comes back with its buffer"),
            };
        }
        Ok(first.unwrap_or(zone))
    }

    /// Tells of at most `max` zones from the one that holds `from` on, in order, and returns how many
    /// there were: fewer only at the end of the disk.
    pub fn report(
        &mut self,
        from: Sector,
        max: u32,
        mut each: impl FnMut(Zone),
    ) -> Result<u32, Error<T::Error>> {
        let zoned = check::zoned(self.info, RequestType::ZONE_REPORT)?;
        let (zone_count, zone_size) = (zoned.zone_count, zoned.zone_size.0.max(1));
        let room = (self.info.max_transfer as usize).min(report_bytes(REPORT_ZONES));
        let mut buffer = None::<Buffer<D>>;
        let (mut from, mut told) = (from, 0);
        while told < max && from < self.info.capacity {
            // No more than is known to be there: the disk may have grown meanwhile.
            let left = u64::from(zone_count).saturating_sub(from.0 / zone_size);
            let wanted = u64::from(max - told).min(left);
            let wanted = report_bytes(usize::try_from(wanted).unwrap_or(usize::MAX));
            let wanted = wanted.clamp(REPORT_BYTES_MIN, room.max(REPORT_BYTES_MIN));
            let into = match buffer.take() {
                Some(buffer) if buffer.len() == wanted => buffer,
                _ => self.buffer(wanted)?,
            };
            let completion = self.command(Request::Report { from, buffer: into })?;
            let Answer::Zones(zones) = completion.result? else {
                unreachable!("a report is answered with zones")
            };
            // Each turn tells of one zone at least, so the turns come to an end.
            let last = zones.last().ok_or(RequestError::Lie(Lie::NoZones(from)))?;
            from = Sector(last.start.0.saturating_add(last.len.0));
            let rest = (max - told) as usize;
            told += zones.len().min(rest) as u32;
            zones.into_iter().take(rest).for_each(&mut each);
            buffer = completion.buffer;
        }
        Ok(told)
    }

    /// All zones of the disk.
    pub fn zones(&mut self) -> Result<Vec<Zone>, Error<T::Error>> {
        all(|each| self.report(Sector::ZERO, u32::MAX, each))
    }

    /// Opens the zone that starts at `zone` explicitly.
    pub fn open(&mut self, zone: Sector) -> Result<(), Error<T::Error>> {
        self.run(Request::Open { zone })
    }

    /// Closes the zone that starts at `zone`.
    pub fn close(&mut self, zone: Sector) -> Result<(), Error<T::Error>> {
        self.run(Request::Close { zone })
    }

    /// Makes the zone that starts at `zone` full.
    pub fn finish(&mut self, zone: Sector) -> Result<(), Error<T::Error>> {
        self.run(Request::Finish { zone })
    }

    /// Makes the zone that starts at `zone` empty.
    pub fn reset(&mut self, zone: Sector) -> Result<(), Error<T::Error>> {
        self.run(Request::Reset { zone })
    }

    /// Makes every sequential zone empty.
    pub fn reset_all(&mut self) -> Result<(), Error<T::Error>> {
        self.run(Request::ResetAll)
    }

    /// Commits to stable storage what was written and answered before.
    pub fn flush(&mut self) -> Result<(), Error<T::Error>> {
        self.run(Request::Flush)
    }

    /// The device's name: ASCII, padded with NUL, with none when all bytes are used.
    pub fn id(&mut self) -> Result<[u8; 20], Error<T::Error>> {
        match self.command(Request::Id)?.result? {
            Answer::Id(id) => Ok(id),
            _ => unreachable!("GET_ID is answered with a name"),
        }
    }

    /// How worn the device is.
    pub fn lifetime(&mut self) -> Result<Lifetime, Error<T::Error>> {
        match self.command(Request::Lifetime)?.result? {
            Answer::Lifetime(lifetime) => Ok(lifetime),
            _ => unreachable!("GET_LIFETIME is answered with a lifetime"),
        }
    }

    /// Erases `ranges` and all copies of what is in them.
    pub fn secure_erase(&mut self, ranges: Vec<SectorRange>) -> Result<(), Error<T::Error>> {
        self.run(Request::SecureErase { ranges })
    }

    /// Sends `request` and waits for its answer.
    pub fn run(&mut self, request: Request<D>) -> Result<(), Error<T::Error>> {
        self.command(request)?.result?;
        Ok(())
    }

    /// Sends `request` and waits for its completion, whatever the result in it.
    pub fn command(&mut self, request: Request<D>) -> Result<Completion<D>, Error<T::Error>> {
        let since = self.state.next_sequence();
        let mut unsent = Some(request);
        loop {
            if let Some(request) = unsent.take() {
                unsent = self.try_send(request)?.err();
            }
            // Not sent: the queue is full of what others submitted, and room comes with its answers.
            if let Some(completion) = self.next_of(since)? {
                return Ok(completion);
            }
        }
    }

    /// Asks about those zones of the `bytes` at `at`, inside the disk, of which not enough is known. A
    /// device that does not answer to that is not in the way: its word on the write itself counts.
    fn know(&mut self, at: Sector, bytes: u64) -> Result<(), Error<T::Error>> {
        let Some(zoned) = self.info.zoned.filter(|_| !self.zones.is_empty()) else {
            return Ok(());
        };
        let last = Sector(at.0.saturating_add(bytes.div_ceil(SECTOR_BYTES).saturating_sub(1)));
        for index in zoned.zone_index(at)..=zoned.zone_index(last) {
            if !self.zones.is_unknown(index.into()) {
                continue;
            }
            let zone = Sector(u64::from(index) * zoned.zone_size.0);
            match self.report(zone, 1, |_| {}) {
                Ok(_) | Err(Error::Request(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Moves `data`, in pieces, `depth` at a time.
    fn transfer(
        &mut self,
        at: Sector,
        mut data: Data<'_>,
        depth: usize,
    ) -> Result<(), Error<T::Error>> {
        let since = self.state.next_sequence();
        let size = self.info.max_transfer.min(PIECE_BYTES.max(self.unit())) as usize;
        let (mut idle, mut pieces) = (Vec::new(), Vec::<Piece>::with_capacity(depth));
        let (mut next, mut outcome) = (0, Ok(()));
        loop {
            let mut stalled = false;
            while outcome.is_ok() && !stalled && next < data.len() && pieces.len() < depth {
                let len = self.piece(at, next, data.len());
                // A piece that a zone's end made short is no measure for those after it.
                let room = len.max(size.min(data.len() - next));
                let buffer = match idle.pop().map_or_else(|| self.buffer(room), Ok) {
                    Ok(buffer) => buffer,
                    // Fewer at a time will do.
                    Err(_) if !pieces.is_empty() => break,
                    Err(error) => return Err(error.into()),
                };
                match self.send_piece(at, &data, next, len, buffer)? {
                    Ok(token) => {
                        pieces.push(Piece { token, offset: next });
                        next += len;
                    }
                    Err(buffer) => {
                        idle.extend(buffer);
                        stalled = true;
                    }
                }
            }
            if pieces.is_empty() && !stalled {
                return outcome;
            }
            let Some(completion) = self.next_of(since)? else { continue };
            let done = pieces.iter().position(|piece| piece.token == completion.token);
            let Some(done) = done else {
                unreachable!("a completion of no piece of this transfer")
            };
            let Piece { offset, .. } = pieces.swap_remove(done);
            let result = completion.result.map(|_| ());
            if let (Ok(()), Data::Read(into), Some(buffer)) =
                (&result, &mut data, &completion.buffer)
            {
                into[offset..offset + buffer.len()].copy_from_slice(buffer);
            }
            // The first error is what the caller hears of; the pieces in flight are waited for.
            outcome = outcome.and(result.map_err(Error::Request));
            idle.extend(completion.buffer);
        }
    }

    /// What pieces are whole multiples of, in bytes.
    fn unit(&self) -> u32 {
        let granularity = self.info.zoned.map_or(0, |zoned| zoned.write_granularity);
        granularity.max(self.info.block_size)
    }

    /// How many of `total` bytes at `at` go in the piece that begins with byte `offset`: whole blocks and
    /// granules, and none that reaches into another zone.
    fn piece(&self, at: Sector, offset: usize, total: usize) -> usize {
        let (info, unit) = (self.info, self.unit());
        let mut size = u64::from(info.max_transfer.min(PIECE_BYTES.max(unit)));
        if size > u64::from(unit) {
            size -= size % u64::from(unit);
        }
        if let Some(zoned) = &info.zoned {
            // Inside the disk, so nothing overflows; and never 0.
            let at = Sector(at.0 + offset as u64 / SECTOR_BYTES);
            let left = zoned.zone_start(at).0 + zoned.zone_size.0 - at.0;
            size = size.min(left.saturating_mul(SECTOR_BYTES));
        }
        (total - offset).min(usize::try_from(size).unwrap_or(usize::MAX))
    }

    /// Sends the `len` bytes at `offset` of `data`; the buffer comes back when the queue is full.
    #[expect(clippy::type_complexity, reason = "sent, not yet, or never")]
    fn send_piece(
        &mut self,
        at: Sector,
        data: &Data<'_>,
        offset: usize,
        len: usize,
        mut buffer: Buffer<D>,
    ) -> Result<Result<Token, Option<Buffer<D>>>, Error<T::Error>> {
        buffer.set_len(len);
        let at = Sector(at.0 + offset as u64 / SECTOR_BYTES);
        let request = match data {
            Data::Read(_) => Request::Read { at, buffer },
            Data::Write(bytes) => {
                buffer.copy_from_slice(&bytes[offset..offset + len]);
                Request::Write { at, buffer }
            }
        };
        Ok(self.try_send(request)?.map_err(Request::into_buffer))
    }

    /// Submits a request of a blocking call; it comes back when it is to be tried again later.
    fn try_send(
        &mut self,
        request: Request<D>,
    ) -> Result<Result<Token, Request<D>>, Error<T::Error>> {
        match self.state.submit(self.info, self.zones, request, Owner::Call) {
            Ok(token) => Ok(Ok(token)),
            Err(rejected) => match rejected.error {
                SubmitError::QueueFull => Ok(Err(rejected.request)),
                SubmitError::NoMemory(error) => Err(error.into()),
                SubmitError::Invalid(error) => Err(error.into()),
                SubmitError::DeviceFailed(fault) => Err(Error::Fault(fault)),
            },
        }
    }

    /// Waits for an answer, whosever it is. `Some` when it is one of a request that this blocking call
    /// made: one with a number of `since` or above.
    fn next_of(&mut self, since: u64) -> Result<Option<Completion<D>>, Error<T::Error>> {
        for _ in 0..WAKES_MAX {
            match self.state.next(self.info, self.zones).map_err(Error::Fault)? {
                Some((Owner::Call, completion)) if completion.token.sequence >= since => {
                    return Ok(Some(completion));
                }
                // Of an earlier call that failed.
                Some((Owner::Call, _)) => return Ok(None),
                Some((Owner::User, completion)) => {
                    self.state.stash(completion);
                    return Ok(None);
                }
                None => {
                    self.kick()?;
                    self.sleep(self.timeout_ms)?;
                }
            }
        }
        self.state.fail(self.zones, Fault::Babble);
        Err(Error::Fault(Fault::Babble))
    }
}
