//! Changing what an image says of itself in one step: a zone table written where nothing is, then the
//! superblocks that point to it. Until the first of those is durable the image is the old one.

use std::io;

use zvb_zones::ZoneId;

use super::format::{Header, State, TABLE_AT};
use crate::layout::SLOT_ALIGN;
use crate::medium::{Medium, clear, write_bytes};
use crate::table::{self, Entry};

/// Bytes of a zone table written at once.
const CHUNK: usize = 64 << 10;

/// `new`, with a place for its zone table: apart from its own regions and from the table of `old`, which
/// stays what it is. `None` when there is none, or when its regions do not fit.
pub(super) fn placed(old: &Header, mut new: Header) -> Option<Header> {
    let layout = &new.layout;
    let mut taken = [
        0..TABLE_AT,
        old.table(),
        layout.linear_at..layout.linear_at.checked_add(layout.linear_bytes)?,
        layout.slots_at..layout.slots_at.checked_add(layout.slots_len())?,
    ];
    taken.sort_unstable_by_key(|region| region.start);
    let table = new.table();
    let len = table.end.saturating_sub(table.start);
    let mut at = 0u64;
    for region in taken.into_iter().filter(|region| !region.is_empty()) {
        if region.start.checked_sub(at).is_some_and(|room| room > 0 && room >= len) {
            break;
        }
        at = at.max(region.end.checked_next_multiple_of(SLOT_ALIGN)?);
    }
    if len > 0 {
        new.table_at = at;
    }
    let end = new.table().end.max(layout_end(&new)).checked_next_multiple_of(SLOT_ALIGN)?;
    new.file_bytes = old.file_bytes.max(end);
    new.regions_fit().then_some(new)
}

fn layout_end(header: &Header) -> u64 {
    header.layout.end()
}

/// Makes the image on `medium`, which `old` describes, the one that `new` describes, which is
/// [`placed`], and whose zone table [`write_table`] has written.
///
/// When this fails the image is the old one, or the new one. When a sync failed, it says so.
pub(super) fn switch(medium: &dyn Medium, old: &Header, mut new: Header) -> io::Result<()> {
    let written = medium.sync();
    new.sequence = old.sequence;
    let put = match written {
        Ok(()) => new.write_both(medium, true),
        Err(e) => Err(e),
    };
    if put.is_err() {
        // What the system could not write it may have dropped: believe only what was durable before.
        let mut failed = Header { sequence: new.sequence, state: State::SyncFailed, ..old.clone() };
        let _ = failed.write_both(medium, false);
    }
    put
}

/// Writes the zone table of `header`, which is [`placed`] and which the medium is long enough for: the records
/// of `entries`. Those of zones at birth are left a hole. When this fails, nothing is left there.
pub(super) fn write_table(
    medium: &dyn Medium,
    header: &Header,
    entries: &[Entry],
) -> io::Result<()> {
    let written = write_records(medium, header, entries);
    if written.is_err() {
        let _ = clear(medium, header.table());
    }
    written
}

fn write_records(medium: &dyn Medium, header: &Header, entries: &[Entry]) -> io::Result<()> {
    clear(medium, header.table())?;
    let mut run = Vec::new();
    let mut at = header.table_at;
    for (zone, entry) in (0u32..).map(ZoneId).zip(entries) {
        let place = header.table_at.saturating_add(u64::from(zone.0).saturating_mul(table::BYTES));
        let record = table::fresh(zone, entry.pack());
        if !run.is_empty() && (record.is_none() || run.len() >= CHUNK) {
            write_bytes(medium, at, &run)?;
            run.clear();
        }
        if let Some(record) = record {
            if run.is_empty() {
                at = place;
            }
            run.extend_from_slice(&record);
        }
    }
    if run.is_empty() { Ok(()) } else { write_bytes(medium, at, &run) }
}
