//! An image as it is, with everything in it that is not as it should be: what checking and repairing
//! have in common.

use std::io;
use std::sync::atomic::AtomicU64;

use zvb_wire::{Condition, Sector};
use zvb_zones::{Geometry, Snapshot, ZoneId};

use super::format::{Found, Header, State, is_sync_noted};
use super::open::Recovery;
use super::refusal::Refusal;
use crate::medium::{Medium, read_bytes};
use crate::table::{Entry, Record, RecordError};

/// Bytes of the zone table read at once.
const CHUNK: u64 = 1 << 20;

/// See the module.
pub(super) struct Survey {
    pub(super) header: Header,
    /// Where the superblock that is not to be believed is, when it is torn.
    pub(super) bad_copy: Option<u64>,
    /// Bytes of the medium.
    pub(super) len: u64,
    /// How the image was left.
    pub(super) recovery: Recovery,
    /// It was left while a sync was under way, in this boot.
    pub(super) in_sync: bool,
    /// What every zone is in, in order.
    pub(super) zones: Vec<Surveyed>,
}

/// A zone as it is.
pub(super) struct Surveyed {
    /// What its record says, as opening the image would read it.
    pub(super) entry: Result<Entry, RecordError>,
    /// The data is cut off by the end of the file.
    pub(super) cut: bool,
    /// One of the two durable copies is not whole.
    pub(super) torn_copy: bool,
    /// What it is to be when something is wrong with it; what it is otherwise.
    pub(super) mended: Entry,
}

/// A zone of which nothing can be vouched for.
const OFFLINE: Condition = Condition::Offline;

impl Survey {
    /// Looks at the image on `medium`, in `boot` of the host. Of an image that is `in_use` the latest
    /// states count.
    pub(super) fn of(medium: &dyn Medium, boot: [u8; 16], in_use: bool) -> Result<Self, Refusal> {
        let Found { header, bad_copy, len } = Header::find(medium)?;
        let cut_off = |lost| Refusal::CutOff { len, expected: header.file_bytes, lost };
        let words = match header.table() {
            table if table.end > len => return Err(cut_off("its zone table went")),
            table => read_words(medium, table.start, header.table_words()),
        };
        let words = words.map_err(Refusal::io("read the zone table of"))?;
        let linear_end = header.layout.linear_at.saturating_add(header.layout.linear_bytes);
        if header.geometry.is_none() && linear_end > len {
            return Err(cut_off("nobody knows what data went"));
        }
        let recovery = match header.state {
            State::Dirty if in_use => Recovery::ProcessDied,
            _ => Recovery::of(&header, boot),
        };
        let in_sync = header.is_of_boot(boot)
            && !in_use
            && is_sync_noted(medium).map_err(Refusal::io("read"))?;
        let zones = zones(&header, &words, recovery, len);
        Ok(Self { header, bad_copy, len, recovery, in_sync, zones })
    }

    /// The zones after everything is mended.
    pub(super) fn mended(&self) -> Vec<Entry> {
        self.zones.iter().map(|zone| zone.mended).collect()
    }

    /// True when the records of some zones can not stay what they are.
    pub(super) fn has_bad_zones(&self) -> bool {
        self.zones.iter().any(|zone| zone.entry.is_err() || zone.cut)
    }
}

/// `count` words from byte `at` on.
fn read_words(medium: &dyn Medium, at: u64, count: usize) -> io::Result<Vec<AtomicU64>> {
    let mut words = Vec::with_capacity(count);
    let end = at.saturating_add((count as u64).saturating_mul(8));
    let mut at = at;
    while at < end {
        let mut bytes = vec![0; CHUNK.min(end - at) as usize];
        read_bytes(medium, at, &mut bytes)?;
        // Words of a table are little-endian, in memory as in the file.
        words.extend(
            bytes.as_chunks().0.iter().map(|b| AtomicU64::new(u64::from_le_bytes(*b).to_le())),
        );
        at = at.saturating_add(bytes.len() as u64);
    }
    Ok(words)
}

fn zones(header: &Header, words: &[AtomicU64], recovery: Recovery, len: u64) -> Vec<Surveyed> {
    let Some(geometry) = &header.geometry else { return Vec::new() };
    let slots = header.layout.slots;
    let mut found: Vec<_> =
        geometry.zones().map(|zone| read(words, geometry, slots, zone, recovery)).collect();
    let shared = shared_slots(slots, found.iter().filter_map(|entry| entry.as_ref().ok()?.slot));
    for entry in &mut found {
        if let Ok(Entry { slot: Some(slot), .. }) = *entry
            && shared.get(slot as usize) == Some(&true)
        {
            *entry = Err(RecordError::Shared { slot });
        }
    }
    let mut zones: Vec<_> = geometry
        .zones()
        .zip(found)
        .map(|(zone, entry)| {
            let record = Record::of(words, zone);
            let cut = entry.as_ref().is_ok_and(|entry| is_cut(header, geometry, zone, entry, len));
            let mended = match &entry {
                Ok(entry) if !cut => *entry,
                Ok(_) | Err(RecordError::Shared { .. }) => offline(),
                Err(_) => fallback(record, geometry, slots, zone, recovery)
                    .filter(|entry| !is_cut(header, geometry, zone, entry, len))
                    .unwrap_or(offline()),
            };
            let torn_copy = record.is_some_and(|record| record.has_torn_copy());
            Surveyed { entry, cut, torn_copy, mended }
        })
        .collect();
    // A state fallen back to may want a slot that another zone has by now.
    let shared = shared_slots(slots, zones.iter().filter_map(|zone| zone.mended.slot));
    for zone in zones.iter_mut().filter(|zone| zone.entry.is_err()) {
        if zone.mended.slot.is_some_and(|slot| shared.get(slot as usize) == Some(&true)) {
            zone.mended = offline();
        }
    }
    zones
}

fn offline() -> Entry {
    Entry { state: Snapshot::new(OFFLINE, Sector::ZERO), slot: None }
}

fn read(
    words: &[AtomicU64],
    geometry: &Geometry,
    slots: u32,
    zone: ZoneId,
    recovery: Recovery,
) -> Result<Entry, RecordError> {
    let record = Record::of(words, zone).ok_or(RecordError::Torn)?;
    super::open::entry(record, geometry, slots, zone, recovery)
}

/// What the zone was durably, for one whose latest state can not be read: what the last flush said, and
/// has a checksum. A slot is not used again before that says otherwise, so that the data is there too.
fn fallback(
    record: Option<Record<'_>>,
    geometry: &Geometry,
    slots: u32,
    zone: ZoneId,
    recovery: Recovery,
) -> Option<Entry> {
    match recovery {
        Recovery::Clean | Recovery::ProcessDied => {
            let word = record?.durable().ok()?;
            Entry::unpack(word, zone, geometry, slots).ok()
        }
        Recovery::HostDied | Recovery::SyncFailed => None,
    }
}

/// For each slot whether it is more than once in `taken`.
fn shared_slots(slots: u32, taken: impl Iterator<Item = u32>) -> Vec<bool> {
    let mut owners = vec![0u8; slots as usize];
    for slot in taken {
        if let Some(owners) = owners.get_mut(slot as usize) {
            *owners = owners.saturating_add(1);
        }
    }
    owners.into_iter().map(|owners| owners > 1).collect()
}

/// True when the data of `zone` does not end within the `len` bytes that there are.
fn is_cut(header: &Header, geometry: &Geometry, zone: ZoneId, entry: &Entry, len: u64) -> bool {
    let layout = &header.layout;
    let end = if zone.0 < geometry.spec().conventional {
        // One that is offline already has no data to lose.
        if entry.state.condition() == OFFLINE {
            return false;
        }
        let end = geometry.start(zone).checked_add(geometry.len(zone));
        end.and_then(Sector::to_bytes).map(|end| layout.linear_at.saturating_add(end))
    } else {
        let Some(slot) = entry.slot else { return false };
        entry.state.written().to_bytes().map(|end| layout.slot_at(slot).saturating_add(end))
    };
    end.is_none_or(|end| end > len)
}
