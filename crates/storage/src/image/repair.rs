//! Repairing an image without guessing: what is brought back is written somewhere, with a right checksum;
//! what can not be vouched for is said to be lost.

use std::path::Path;

use zvb_wire::Condition;
use zvb_zones::{Snapshot, ZoneId};

use super::Image;
use super::finding::Problem;
use super::format::{Header, State};
use super::open::{CommitBy, OpenOptions, Recovery, locked_medium, this_boot};
use super::refusal::{FileError, Refusal};
use super::survey::{Survey, Surveyed};
use super::switch::{placed, switch, write_table};
use crate::engine::EngineKind;
use crate::medium::Medium;
use crate::volume::{Volume, VolumeError};

/// Why an image is not repaired.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// It can not be opened, and nothing here can help.
    #[error(transparent)]
    Open(#[from] Refusal),
    /// What was lost can not be told apart from what was not.
    #[error("data is cut off, and there is no room to note which zones lost theirs")]
    NoRoom,
    /// The image was opened, and not closed.
    #[error("cannot finish the recovery of the image")]
    Close(#[source] VolumeError),
}

/// What was done to an image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RepairReport {
    /// How the image had been left. It is in order now.
    pub recovery: Recovery,
    /// What was done, in order.
    pub repairs: Vec<Repair>,
}

/// One thing that was done.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Repair {
    /// A torn superblock was written anew, from the other one.
    #[error("the superblock at byte {at} was written anew, from the other one")]
    Superblock {
        /// Where it is.
        at: u64,
    },
    /// A zone is again what the last flush said.
    #[error(
        "zone {}: it is again what the last flush said, with {} sectors written ({reason})",
        zone.0,
        state.written()
    )]
    Flushed {
        /// Which.
        zone: ZoneId,
        /// What it is now.
        state: Snapshot,
        /// What was wrong.
        reason: Problem,
    },
    /// A zone was taken offline: nothing of it can be vouched for.
    #[error("zone {}: it is offline now, its data is lost ({reason})", zone.0)]
    Offline {
        /// Which.
        zone: ZoneId,
        /// What was wrong.
        reason: Problem,
    },
    /// The damaged one of the two copies of a zone's record was cleared: the zone is what it was.
    #[error("zone {}: the damaged copy of its record was cleared; the zone is what it was", zone.0)]
    Copy {
        /// Which.
        zone: ZoneId,
    },
    /// The file was made as long as the image. What was cut off held no data, or is offline now.
    #[error("the file was made as long as the image: {to} bytes, from {from}")]
    Lengthened {
        /// Bytes that it had.
        from: u64,
        /// Bytes that it has.
        to: u64,
    },
    /// What was left to be done after a crash is done.
    #[error("its recovery is finished, and it is in order")]
    Recovered,
}

/// Repairs the image at `path`, and says what was done. Interrupted, it leaves the image as it was, or
/// repaired, or half-way and still refused: then it is begun again.
pub fn repair(path: &Path) -> Result<RepairReport, FileError<RepairError>> {
    let report = locked_medium(path, true, false).map_err(RepairError::from);
    report.and_then(|medium| repair_on(Box::new(medium), None)).map_err(FileError::at(path))
}

/// Repairs the image on `medium`, which nobody else has, in `boot` of the host (`None` asks the kernel).
pub fn repair_on(
    medium: Box<dyn Medium>,
    boot: Option<[u8; 16]>,
) -> Result<RepairReport, RepairError> {
    let boot = boot.map_or_else(this_boot, Ok)?;
    let mut survey = Survey::of(medium.as_ref(), boot, false)?;
    if survey.recovery == Recovery::SyncFailed {
        // As whoever opens it does: what is believed is to be what the medium has.
        medium.forget().map_err(Refusal::io("read"))?;
        survey = Survey::of(medium.as_ref(), boot, false)?;
    }
    if survey.header.unknown_ro_compat() != 0 {
        return Err(Refusal::ReadOnlyFeatures(survey.header.unknown_ro_compat()).into());
    }
    let mut repairs = Vec::new();
    if survey.has_bad_zones() {
        mend_zones(medium.as_ref(), &survey)?;
        repairs.extend(mended_zones(&survey));
    }
    let (from, to) = (survey.len, survey.header.file_bytes);
    if from < to {
        // After the zones that lost data are offline: before, they would come back as zeroes.
        let lengthened = medium.lengthen(to).and_then(|()| medium.sync());
        lengthened.map_err(Refusal::io("lengthen"))?;
        repairs.push(Repair::Lengthened { from, to });
    }
    let options = OpenOptions {
        engine: EngineKind::Sync,
        commit: CommitBy::Caller,
        boot: Some(boot),
        ..OpenOptions::default()
    };
    // Opening and closing writes both superblocks, and does what a crash left to be done.
    let image = Image::open_on(medium, &options)?;
    image.clear_tails().map_err(Refusal::io("clear"))?;
    image.close().map_err(RepairError::Close)?;
    if survey.recovery == Recovery::Clean {
        let damaged =
            |(_, surveyed): &(u32, &Surveyed)| surveyed.torn_copy && surveyed.entry.is_ok();
        let zones = (0..).zip(&survey.zones).filter(damaged);
        repairs.extend(zones.map(|(zone, _)| Repair::Copy { zone: ZoneId(zone) }));
    }
    repairs.extend(survey.bad_copy.map(|at| Repair::Superblock { at }));
    if survey.recovery != Recovery::Clean {
        repairs.push(Repair::Recovered);
    }
    Ok(RepairReport { recovery: survey.recovery, repairs })
}

/// The superblock that is to point to the table of the mended zones. `None` when that has no place: in a file
/// that is cut off, only before all data is one. To be made longer than that it must be noted first what was
/// lost, or it would come back as zeroes.
pub(super) fn mending(survey: &Survey) -> Option<Header> {
    let old = &survey.header;
    // In no known boot: whoever opens it believes what is durable, and clears what lies above it.
    let new = placed(old, Header { state: State::Dirty, boot: [0; 16], ..old.clone() })?;
    let layout = &old.layout;
    let regions = [(layout.linear_at, layout.linear_bytes), (layout.slots_at, layout.slots_len())];
    let data = regions.into_iter().filter(|(_, len)| *len > 0).map(|(at, _)| at).min();
    let is_apart = new.table().end <= survey.len.max(data.unwrap_or(0));
    (survey.len >= old.file_bytes || is_apart).then_some(new)
}

/// Makes every zone what it can be vouched for to be.
fn mend_zones(medium: &dyn Medium, survey: &Survey) -> Result<(), RepairError> {
    let old = &survey.header;
    let new = mending(survey).ok_or(RepairError::NoRoom)?;
    let end = if survey.len < old.file_bytes { new.table().end } else { new.file_bytes };
    medium.lengthen(end).map_err(Refusal::io("lengthen"))?;
    let written = write_table(medium, &new, &survey.mended()).inspect_err(|_| {
        // As it was. A medium that fails now too has been told of already.
        let _ = medium.shorten(survey.len);
    });
    let switched = written.and_then(|()| switch(medium, old, new));
    Ok(switched.map_err(Refusal::io("write to"))?)
}

/// What [`mend_zones`] did.
fn mended_zones(survey: &Survey) -> impl Iterator<Item = Repair> + '_ {
    (0u32..).map(ZoneId).zip(&survey.zones).filter_map(|(zone, surveyed)| {
        let reason = match surveyed.entry {
            Err(source) => Problem::Record(source),
            Ok(_) if surveyed.cut => Problem::DataCutOff,
            Ok(_) => return None,
        };
        let state = surveyed.mended.state;
        Some(match state.condition() {
            Condition::Offline => Repair::Offline { zone, reason },
            _ => Repair::Flushed { zone, state, reason },
        })
    })
}
