//! From a chain to a request that cannot be wrong, and a reply that must be spent.
//!
//! The guest may lay header, data and in-header over descriptors as it likes, one byte each (virtio
//! 2.7.4.2). The header is read once, here; what it says is decided on the copy.

use zvb_ring::{Buffers, Chain, DeviceQueue};
use zvb_wire::zerocopy::FromBytes;
use zvb_wire::{
    AppendInHeader, DISCARD_FLAG_UNMAP, DiscardSegment, Features, RequestHeader, RequestType,
    SECTOR_BYTES, Sector, Status,
};
use zvb_zones::Manage;

use crate::device::{MAX_RANGE_SECTORS, MAX_RANGES};
use crate::observer::GuestFault;
use crate::slot::{Reply, Slot, Stage};

/// What a guest asks for, checked against everything but the zones. Lengths and addresses in sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Request {
    Read {
        at: Sector,
        sectors: Sector,
    },
    Write {
        at: Sector,
        sectors: Sector,
    },
    Append {
        zone: Sector,
        sectors: Sector,
    },
    Flush,
    Id,
    Report {
        from: Sector,
    },
    Manage {
        command: Manage,
        zone: Sector,
    },
    ResetAll,
    /// The ranges are in the slot.
    Discard,
    /// The ranges are in the slot.
    Zero,
    /// The ranges are in the slot: of whole zones where there are zones.
    Erase,
}

impl Request {
    /// The request's type, for what is said about it.
    pub(crate) fn request_type(&self) -> RequestType {
        match self {
            Self::Read { .. } => RequestType::IN,
            Self::Write { .. } => RequestType::OUT,
            Self::Append { .. } => RequestType::ZONE_APPEND,
            Self::Flush => RequestType::FLUSH,
            Self::Id => RequestType::GET_ID,
            Self::Report { .. } => RequestType::ZONE_REPORT,
            Self::Manage { command: Manage::Open, .. } => RequestType::ZONE_OPEN,
            Self::Manage { command: Manage::Close, .. } => RequestType::ZONE_CLOSE,
            Self::Manage { command: Manage::Finish, .. } => RequestType::ZONE_FINISH,
            Self::Manage { command: Manage::Reset, .. } => RequestType::ZONE_RESET,
            Self::ResetAll => RequestType::ZONE_RESET_ALL,
            Self::Discard => RequestType::DISCARD,
            Self::Zero => RequestType::WRITE_ZEROES,
            Self::Erase => RequestType::SECURE_ERASE,
        }
    }

    /// True for commands to zones.
    pub(crate) fn is_command(&self) -> bool {
        matches!(self, Self::Manage { .. } | Self::ResetAll | Self::Erase)
    }

    /// True when the medium or the state of a zone is changed: what a writethrough cache makes durable
    /// before it answers.
    pub(crate) fn changes(&self) -> bool {
        !matches!(self, Self::Read { .. } | Self::Flush | Self::Id | Self::Report { .. })
    }
}

/// What a request is checked against.
pub(crate) struct Rules {
    pub(crate) features: Features,
    pub(crate) read_only: bool,
    pub(crate) capacity: Sector,
    /// Where sequential-required zones begin, which go to the end; the capacity where there are none.
    pub(crate) required: Sector,
    /// What a SECURE_ERASE range is a multiple of, and its most sectors.
    pub(crate) erase: (u32, u32),
}

/// A request that is answered as it is, and what there is to say of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Refused {
    pub(crate) status: Status,
    pub(crate) fault: Option<GuestFault>,
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self { status, fault: None }
    }
}

impl From<GuestFault> for Refused {
    fn from(fault: GuestFault) -> Self {
        Self { status: Status::IOERR, fault: Some(fault) }
    }
}

/// Parses `chain` into `slot`: its reply always, its request when there is nothing wrong with it.
pub(crate) fn parse(
    chain: Chain,
    rules: &Rules,
    slot: &mut Slot,
    queue: &mut DeviceQueue,
) -> Result<(), Refused> {
    let Chain { mut readable, mut writable, head } = chain;
    let header = readable.take_front::<{ RequestHeader::BYTES as usize }>();
    let header = header.as_ref().and_then(|bytes| RequestHeader::read_from_bytes(bytes).ok());
    let is_append = header.as_ref().is_some_and(|h| {
        h.request_type() == RequestType::ZONE_APPEND && rules.features.contains(Features::ZONED)
    });
    let in_header = if is_append { u64::from(AppendInHeader::BYTES) } else { 1 };
    let (total, fits) = (writable.len(), writable.len() >= in_header);
    let cut = match (fits, is_append) {
        // Linux leaves a gap between the sector and the status: it has 16 bytes for them.
        (true, true) => total,
        (true, false) => in_header,
        // Without room for all of it the status still goes into the last byte, if there is one.
        (false, _) => total.min(1),
    };
    let back = match writable.take_back(cut, queue.spare()) {
        Some(back) => back,
        // `cut` is at most what there is.
        None => unreachable!("cut {cut} of {total} bytes"),
    };
    slot.reply = Some(Reply::new(head, back, writable.len()));
    slot.ranges.clear();
    slot.next_range = 0;
    slot.at = Sector(u64::MAX);
    slot.failure = Status::IOERR;
    slot.stage = Stage::Deciding;

    let refused = if total == 0 {
        Some(GuestFault::NoStatus { writable: total })
    } else if header.is_none() {
        Some(GuestFault::NoHeader { readable: readable.len() })
    } else if !fits {
        Some(GuestFault::NoAppendSector { writable: total })
    } else {
        None
    };
    let (Some(header), None) = (header, refused) else {
        queue.recycle(readable);
        queue.recycle(writable);
        return Err(refused.unwrap_or(GuestFault::NoHeader { readable: 0 }).into());
    };
    let checked = check(&header, rules, &readable, &writable, &mut slot.ranges);
    let (data, other) = match checked {
        Ok(Request::Write { .. } | Request::Append { .. }) => (readable, writable),
        _ => (writable, readable),
    };
    slot.data = Some(data);
    queue.recycle(other);
    slot.request = checked?;
    Ok(())
}

/// The request that `header` makes of its data, all that needs no zone checked, in the order: known and
/// negotiated, allowed on a read-only disk, well-formed, inside the disk.
fn check(
    header: &RequestHeader,
    rules: &Rules,
    readable: &Buffers,
    writable: &Buffers,
    ranges: &mut Vec<DiscardSegment>,
) -> Result<Request, Refused> {
    let (request, sector) = (header.request_type(), header.sector());
    let needs = match request {
        RequestType::IN | RequestType::OUT | RequestType::GET_ID => Features::empty(),
        RequestType::FLUSH => Features::FLUSH,
        RequestType::DISCARD => Features::DISCARD,
        RequestType::WRITE_ZEROES => Features::WRITE_ZEROES,
        RequestType::SECURE_ERASE => Features::SECURE_ERASE,
        zoned if zoned.is_zoned() => Features::ZONED,
        // GET_LIFETIME is never offered: unknown, like all other numbers.
        _ => return Err(Status::UNSUPP.into()),
    };
    if !rules.features.contains(needs) {
        return Err(Status::UNSUPP.into());
    }
    let reads = matches!(
        request,
        RequestType::IN | RequestType::GET_ID | RequestType::FLUSH | RequestType::ZONE_REPORT
    );
    if rules.read_only && !reads {
        return Err(GuestFault::ReadOnly(request).into());
    }
    let sectors = |data: &Buffers| {
        let bytes = data.len();
        Sector::from_bytes(bytes).ok_or(GuestFault::DataLength { request, bytes })
    };
    let inside = |at: Sector, sectors: Sector| match at.checked_add(sectors) {
        Some(end) if end <= rules.capacity => Ok(()),
        _ => Err(GuestFault::PastEnd { request, at }),
    };
    let manage = |command| Request::Manage { command, zone: sector };
    Ok(match request {
        RequestType::IN => {
            let sectors = sectors(writable)?;
            inside(sector, sectors)?;
            Request::Read { at: sector, sectors }
        }
        RequestType::OUT => {
            let sectors = sectors(readable)?;
            match inside(sector, sectors) {
                // Past what can be written of its zone too, which has a status of its own (virtio 5.2.6.2).
                Err(fault) if (rules.required..rules.capacity).contains(&sector) => {
                    let status = Status::ZONE_INVALID_CMD;
                    return Err(Refused { status, fault: Some(fault) });
                }
                other => other?,
            }
            Request::Write { at: sector, sectors }
        }
        RequestType::ZONE_APPEND => Request::Append { zone: sector, sectors: sectors(readable)? },
        RequestType::FLUSH => Request::Flush,
        RequestType::GET_ID => Request::Id,
        RequestType::ZONE_REPORT => Request::Report { from: sector },
        RequestType::ZONE_OPEN => manage(Manage::Open),
        RequestType::ZONE_CLOSE => manage(Manage::Close),
        RequestType::ZONE_FINISH => manage(Manage::Finish),
        RequestType::ZONE_RESET => manage(Manage::Reset),
        RequestType::ZONE_RESET_ALL => Request::ResetAll,
        _ => {
            read_ranges(request, readable, rules, ranges)?;
            for range in ranges.iter() {
                inside(Sector(range.sector.get()), Sector(range.num_sectors.get().into()))?;
            }
            match request {
                RequestType::DISCARD => Request::Discard,
                RequestType::WRITE_ZEROES => Request::Zero,
                _ => {
                    whole_units(ranges, rules)?;
                    Request::Erase
                }
            }
        }
    })
}

/// Ranges of a SECURE_ERASE are whole zones or blocks; a smaller last zone is whole too.
fn whole_units(ranges: &[DiscardSegment], rules: &Rules) -> Result<(), Refused> {
    let unit = Sector(rules.erase.0.into());
    for range in ranges {
        let (at, sectors) = (Sector(range.sector.get()), Sector(range.num_sectors.get().into()));
        let to_the_end = at.checked_add(sectors) == Some(rules.capacity);
        if !at.is_multiple_of(unit) || !(sectors.is_multiple_of(unit) || to_the_end) {
            return Err(GuestFault::EraseUnit { at, sectors, unit }.into());
        }
    }
    Ok(())
}

/// Reads the ranges of a discard, write-zeroes or secure-erase once, and checks what can be said of them alone: unknown
/// flags before anything else (virtio 5.2.6.2).
fn read_ranges(
    request: RequestType,
    data: &Buffers,
    rules: &Rules,
    ranges: &mut Vec<DiscardSegment>,
) -> Result<(), Refused> {
    let (bytes, each) = (data.len(), u64::from(DiscardSegment::BYTES));
    let count = bytes / each;
    if count == 0 || bytes % each != 0 || count > u64::from(MAX_RANGES) {
        return Err(GuestFault::Ranges { request, bytes, most: MAX_RANGES }.into());
    }
    for i in 0..count {
        let mut range = [0; DiscardSegment::BYTES as usize];
        let read =
            data.read(i * each, &mut range).ok().and(DiscardSegment::read_from_bytes(&range).ok());
        ranges.extend(read);
    }
    let known = if request == RequestType::WRITE_ZEROES { DISCARD_FLAG_UNMAP } else { 0 };
    if ranges.iter().any(|range| range.flags.get() & !known != 0) {
        return Err(Status::UNSUPP.into());
    }
    let most = if request == RequestType::SECURE_ERASE { rules.erase.1 } else { MAX_RANGE_SECTORS };
    let mut lengths = ranges.iter().map(|range| range.num_sectors.get());
    match lengths.find(|sectors| *sectors > most) {
        Some(sectors) => Err(GuestFault::RangeLength { request, sectors }.into()),
        None => Ok(()),
    }
}

/// Bytes of `sectors` of a request's data, which is shorter than 2^32 bytes.
pub(crate) fn bytes(sectors: Sector) -> u64 {
    sectors.0.saturating_mul(SECTOR_BYTES)
}
