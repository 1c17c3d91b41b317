//! What a device has to answer, from the specification and the model of its disk.

use zvb_wire::{Features, RequestType, Status};
use zvb_zones::Manage;

use crate::disk::ID;
use crate::model::Model;

/// A request as it is laid out: what can be read and how much can be written.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) readable: Vec<u8>,
    pub(super) writable: u64,
    /// How both are cut into descriptors.
    pub(super) framing: u8,
}

/// What must come back.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Expected {
    /// What is written from the first writable byte on.
    pub(super) data: Vec<u8>,
    /// What stands in the last byte: the status.
    pub(super) tail: Vec<u8>,
    /// So many of the first writable bytes mean nothing: the sector of an append that failed.
    pub(super) undefined: u64,
    pub(super) used: u32,
    /// The request changed something and must be durable where there is no volatile cache.
    pub(super) changed: bool,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (header, body) = self.readable.split_at(self.readable.len().min(16));
        let (bytes, start) = (body.len(), &body[..body.len().min(64)]);
        let (writable, framing) = (self.writable, self.framing);
        write!(f, "request {header:02x?} + {bytes} bytes {start:02x?}.., ")?;
        write!(f, "{writable} writable, framing {framing:#x}")
    }
}

impl std::fmt::Debug for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (bytes, tail, used) = (self.data.len(), &self.tail, self.used);
        write!(f, "{bytes} bytes of data, {tail:02x?} at the end, used length {used}")
    }
}

/// What the device and the guest agreed on.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    pub(super) features: Features,
    pub(super) read_only: bool,
    /// Sectors of a SECURE_ERASE's unit.
    pub(super) erase_unit: u64,
}

/// Does `request` to `model`.
pub(super) fn expect(model: &mut Model, terms: &Terms, request: &Request) -> Expected {
    let (header, body) = match request.readable.split_at_checked(16) {
        Some((header, body)) => (Some(header), body),
        None => (None, &[][..]),
    };
    let number = |at: usize| {
        header.map_or(0, |h| u32::from_le_bytes(h[at..at + 4].try_into().expect("four bytes")))
    };
    let kind = RequestType(number(0));
    let sector = u64::from(number(8)) | u64::from(number(12)) << 32;
    let append = header.is_some()
        && kind == RequestType::ZONE_APPEND
        && terms.features.contains(Features::ZONED);
    let in_header = if append { 9 } else { 1 };
    if header.is_none() || request.writable < in_header {
        return failed(Status::IOERR, request.writable, 1.min(request.writable));
    }
    if append {
        return appended(model, terms, request, Order { kind, sector, body, room: 0 });
    }
    let room = request.writable - in_header;
    let order = Order { kind, sector, body, room };
    match order.check(terms).and_then(|()| order.carry_out(model, terms)) {
        Err(status) => failed(status, request.writable, in_header),
        Ok(done) => {
            let whole = done.data.len() as u64 == room;
            let used = done.data.len() as u64 + if whole { in_header } else { 0 };
            let (data, changed) = (done.data, order.changes());
            Expected { data, tail: vec![0], undefined: 0, used: used as u32, changed }
        }
    }
}

/// An append with room for its answer: the sector first, the status last. There may be a gap.
fn appended(model: &mut Model, terms: &Terms, request: &Request, order: Order<'_>) -> Expected {
    let used = if request.writable == 9 { 9 } else { 8 };
    match order.check(terms).and_then(|()| order.carry_out(model, terms)) {
        Err(status) => {
            let (data, tail) = (Vec::new(), vec![status.0]);
            Expected { data, tail, undefined: 8, used, changed: false }
        }
        Ok(done) => {
            let data = done.appended.map_or(Vec::new(), |at| at.to_le_bytes().to_vec());
            Expected { data, tail: vec![0], undefined: 0, used, changed: order.changes() }
        }
    }
}

fn failed(status: Status, writable: u64, in_header: u64) -> Expected {
    // What is written behind a gap does not count.
    let used = if writable == in_header { in_header as u32 } else { 0 };
    let tail = if writable == 0 { Vec::new() } else { vec![status.0] };
    Expected { data: Vec::new(), tail, undefined: 0, used, changed: false }
}

#[derive(Default)]
struct Outcome {
    data: Vec<u8>,
    appended: Option<u64>,
}

/// A request with a whole header.
struct Order<'a> {
    kind: RequestType,
    sector: u64,
    body: &'a [u8],
    room: u64,
}

impl Order<'_> {
    fn changes(&self) -> bool {
        !matches!(
            self.kind,
            RequestType::IN | RequestType::FLUSH | RequestType::GET_ID | RequestType::ZONE_REPORT
        )
    }

    /// What is wrong with it, whatever state the disk is in.
    fn check(&self, terms: &Terms) -> Result<(), Status> {
        let needed = match self.kind {
            RequestType::IN | RequestType::OUT | RequestType::GET_ID => Features::empty(),
            RequestType::FLUSH => Features::FLUSH,
            RequestType::DISCARD => Features::DISCARD,
            RequestType::WRITE_ZEROES => Features::WRITE_ZEROES,
            RequestType::SECURE_ERASE => Features::SECURE_ERASE,
            kind if (15..=26).contains(&kind.0) && kind.name().is_some() => Features::ZONED,
            _ => return Err(Status::UNSUPP),
        };
        if !terms.features.contains(needed) {
            return Err(Status::UNSUPP);
        }
        if terms.read_only && self.changes() {
            return Err(Status::IOERR);
        }
        let whole_sectors = match self.kind {
            RequestType::IN => self.room.is_multiple_of(512),
            RequestType::OUT | RequestType::ZONE_APPEND => self.body.len().is_multiple_of(512),
            _ => true,
        };
        if whole_sectors { Ok(()) } else { Err(Status::IOERR) }
    }

    fn carry_out(&self, model: &mut Model, terms: &Terms) -> Result<Outcome, Status> {
        let mut outcome = Outcome::default();
        match self.kind {
            RequestType::IN => outcome.data = model.read(self.sector, self.room / 512)?,
            RequestType::OUT => model.write(self.sector, self.body)?,
            RequestType::ZONE_APPEND => {
                outcome.appended = Some(model.append(self.sector, self.body)?);
            }
            RequestType::FLUSH => {}
            RequestType::GET_ID => outcome.data = ID[..self.room.min(20) as usize].to_vec(),
            RequestType::ZONE_REPORT => {
                let report = model.report(self.sector, self.room);
                outcome.data = report.ok_or(Status::ZONE_INVALID_CMD)?;
            }
            RequestType::ZONE_OPEN => model.manage(Manage::Open, self.sector)?,
            RequestType::ZONE_CLOSE => model.manage(Manage::Close, self.sector)?,
            RequestType::ZONE_FINISH => model.manage(Manage::Finish, self.sector)?,
            RequestType::ZONE_RESET => model.manage(Manage::Reset, self.sector)?,
            RequestType::ZONE_RESET_ALL => model.reset_all(),
            _ => self.ranges(model, terms)?,
        }
        Ok(outcome)
    }

    /// A request with ranges: all are checked before the first is begun, and those before the first that
    /// fails are done.
    fn ranges(&self, model: &mut Model, terms: &Terms) -> Result<(), Status> {
        let (ranges, rest) = self.body.as_chunks::<16>();
        if !(1..=16).contains(&ranges.len()) || !rest.is_empty() {
            return Err(Status::IOERR);
        }
        let word = |range: &[u8; 16], at: usize| {
            u64::from(u32::from_le_bytes(range[at..at + 4].try_into().expect("four bytes")))
        };
        let ranges: Vec<(u64, u64, u64)> = ranges
            .iter()
            .map(|r| (word(r, 0) | word(r, 4) << 32, word(r, 8), word(r, 12)))
            .collect();
        let known = u64::from(self.kind == RequestType::WRITE_ZEROES);
        if ranges.iter().any(|(_, _, flags)| flags & !known != 0) {
            return Err(Status::UNSUPP);
        }
        // Every disk here is smaller than the longest range that is taken.
        for (at, sectors, _) in &ranges {
            let end = at.checked_add(*sectors).filter(|end| *end <= model.capacity);
            let end = end.ok_or(Status::IOERR)?;
            let unit = terms.erase_unit;
            let whole =
                at.is_multiple_of(unit) && (sectors.is_multiple_of(unit) || end == model.capacity);
            if self.kind == RequestType::SECURE_ERASE && !whole {
                return Err(Status::IOERR);
            }
        }
        for (at, sectors, _) in ranges {
            match self.kind {
                RequestType::DISCARD => model.discard(at, sectors)?,
                RequestType::WRITE_ZEROES => model.write(at, &vec![0; sectors as usize * 512])?,
                _ => model.erase(at, sectors),
            }
        }
        Ok(())
    }
}
