//! What a guest asks of a zone next, the request that says so, and a look at all zones.

use zvb_driver::{Disk, Dma, Error, NoMemory, Request, SectorRange, Transport};
use zvb_wire::{Condition, Sector, ZoneType};

use crate::content::Tag;
use crate::ledger::{Found, Kind, Ledger, Zone};
use crate::rng::Rng;
use crate::setup::Setup;

/// Something to do with `zone`, of which there may be nothing. `discard`: the device takes discards.
pub fn choose(setup: &Setup, zone: &Zone, discard: bool, rng: &mut Rng) -> Option<Kind> {
    match zone.kind {
        ZoneType::SequentialRequired => Some(sequential(setup, zone, rng)),
        _ => scattered(setup, zone, discard, rng),
    }
}

/// Something to do with a zone that has a write pointer.
fn sequential(setup: &Setup, zone: &Zone, rng: &mut Rng) -> Kind {
    let unit = setup.unit();
    let ((pointer, full), capacity) = (zone.expected(), zone.capacity);
    if full {
        let kinds = [Kind::Reset, Kind::Finish, Kind::Touch];
        return if rng.chance(80) { Kind::Reset } else { rng.pick(&kinds) };
    }
    if rng.chance(setup.resets) {
        return Kind::Reset;
    }
    let room = (capacity - pointer.min(capacity)) / unit;
    let len = (unit * (1 + rng.below(room.min((16 / unit).max(1))))).min(capacity);
    let append = setup.spec.is_some_and(|spec| spec.max_append.0 > 0);
    match rng.below(100) {
        0..4 => Kind::Finish,
        4..10 => Kind::Touch,
        // Not at the pointer.
        10..12 if pointer + unit + len <= zone.len => Kind::Write { at: pointer + unit, len },
        12..18 => Kind::Zero { at: pointer, len },
        18..45 if append => Kind::Append { at: None, len: len.min(8) },
        _ => Kind::Write { at: pointer, len },
    }
}

/// Something to do with a zone that is written anywhere.
fn scattered(setup: &Setup, zone: &Zone, discard: bool, rng: &mut Rng) -> Option<Kind> {
    let unit = setup.unit();
    if zone.kind == ZoneType::SequentialPreferred {
        if rng.chance(setup.resets) {
            return Some(Kind::Reset);
        }
        match rng.below(100) {
            0..3 => return Some(Kind::Finish),
            3..8 => return Some(Kind::Touch),
            _ => {}
        }
    }
    let at = unit * rng.below(zone.len / unit);
    let len = unit * (1 + rng.below(((zone.len - at) / unit).min((16 / unit).max(1))));
    if zone.is_busy(at, at + len) {
        return None;
    }
    let discard = discard && zone.kind == ZoneType::Conventional;
    Some(match rng.below(10) {
        0 => Kind::Zero { at, len },
        1 if discard => Kind::Discard { at, len },
        _ => Kind::Write { at, len },
    })
}

/// The request that is operation `id`, `kind`, on the zone that starts at `start`. `flag` lets zeroes give
/// space back, and makes a touch an open.
pub fn request<T: Transport, D: Dma>(
    disk: &Disk<T, D>,
    id: u64,
    start: Sector,
    kind: Kind,
    flag: bool,
) -> Result<Request<D>, NoMemory> {
    let place = |at| Sector(start.0 + at);
    let ranges = |at, len| vec![SectorRange { at: place(at), sectors: len as u32 }];
    let buffer = |len| {
        let mut buffer = disk.buffer(len as usize * 512)?;
        for (i, sector) in (0..).zip(buffer.chunks_exact_mut(512)) {
            sector.copy_from_slice(&Tag::new(id, i).block());
        }
        Ok(buffer)
    };
    Ok(match kind {
        Kind::Write { at, len } => Request::Write { at: place(at), buffer: buffer(len)? },
        Kind::Append { len, .. } => Request::Append { zone: start, buffer: buffer(len)? },
        Kind::Zero { at, len } => Request::WriteZeroes { ranges: ranges(at, len), unmap: flag },
        Kind::Discard { at, len } => Request::Discard { ranges: ranges(at, len) },
        Kind::Finish => Request::Finish { zone: start },
        Kind::Reset => Request::Reset { zone: start },
        Kind::Touch if flag => Request::Open { zone: start },
        Kind::Touch => Request::Close { zone: start },
    })
}

/// What the zones are, and all that is in them. Nothing may be in flight.
pub fn look<T: Transport, D: Dma>(
    disk: &mut Disk<T, D>,
    ledger: &Ledger,
) -> Result<Vec<Found>, Error<T::Error>> {
    let zones = match disk.info().zoned {
        Some(_) => disk.zones()?,
        None => Vec::new(),
    };
    let mut found = Vec::new();
    for (i, known) in ledger.zones.iter().enumerate() {
        let mut bytes = vec![0; known.len as usize * 512];
        disk.read(Sector(known.start), &mut bytes)?;
        let zone = zones.get(i);
        found.push(Found {
            condition: zone.map_or(Condition::NotWp, |zone| zone.condition),
            pointer: zone.and_then(|z| z.write_pointer).map(|at| at.0 - known.start),
            data: bytes.chunks_exact(512).map(Tag::of).collect(),
        });
    }
    Ok(found)
}
