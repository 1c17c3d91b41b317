//! Checking an image: finding everything that is not as it should be, and changing nothing.

use std::io;
use std::ops::Range;
use std::path::Path;

use zvb_wire::{Condition, ZoneType};
use zvb_zones::{RestoreError, Snapshot, ZoneId, Zones};

use super::finding::{Finding, Problem, Severity};
use super::format::KNOWN_COMPAT;
use super::open::{Recovery, regular_file, this_boot};
use super::refusal::{OpenError, Refusal};
use super::repair::mending;
use super::survey::{Survey, Surveyed};
use crate::file::{FileMedium, Lock, lock_file, lock_holder};
use crate::medium::{Medium, read_bytes};

/// The most findings that a report holds.
const FINDINGS_MAX: usize = 1000;
/// Bytes read at once.
const CHUNK: u64 = 1 << 20;
/// What is read again piece by piece, when a chunk can not be read.
const PIECE: u64 = 4096;

/// How an image is checked.
#[derive(Clone, Debug, Default)]
pub struct CheckOptions {
    /// Reads all data, too.
    pub deep: bool,
    /// Looks at an image that is being written, though it moves meanwhile: what is found may be over.
    pub force: bool,
    /// The identity of this boot of the host; `None` asks the kernel.
    pub boot: Option<[u8; 16]>,
}

/// How far a long task is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Bytes that are done.
    pub done: u64,
    /// Bytes there are to do.
    pub total: u64,
}

/// What was found.
#[derive(Debug)]
pub struct CheckReport {
    /// How the image was left.
    pub recovery: Recovery,
    /// Everything that is not as it should be, at most 1000 of it.
    pub findings: Vec<Finding>,
    /// How many findings more there are.
    pub left_out: u64,
    /// Zones looked at.
    pub zones: u32,
    /// Bytes of data that were read.
    pub bytes_read: u64,
}

impl CheckReport {
    /// The worst of the findings; `None` when there is none.
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(Finding::severity).max()
    }

    /// True when nothing was found that keeps the image from being what it promises.
    pub fn is_sound(&self) -> bool {
        self.worst() < Some(Severity::Warning)
    }
}

/// Checks the image at `path`, and tells `progress` about it now and then. Changes nothing.
pub fn check(
    path: &Path,
    options: &CheckOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<CheckReport, OpenError> {
    check_file(path, options, progress).map_err(OpenError::at(path))
}

fn check_file(
    path: &Path,
    options: &CheckOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<CheckReport, Refusal> {
    let file = regular_file(path, false)?;
    let idle = lock_file(&file, Lock::Shared).map_err(Refusal::io("lock"))?;
    if !idle && !options.force {
        return Err(Refusal::InUse { pid: lock_holder(&file) });
    }
    let medium = FileMedium::new(file, path, false, false).map_err(Refusal::io("open"))?;
    check_medium(&medium, options, !idle, progress)
}

/// Checks the image on `medium`, which nobody writes to. Changes nothing.
pub fn check_on(
    medium: &dyn Medium,
    options: &CheckOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<CheckReport, Refusal> {
    check_medium(medium, options, false, progress)
}

fn check_medium(
    medium: &dyn Medium,
    options: &CheckOptions,
    in_use: bool,
    progress: &mut dyn FnMut(Progress),
) -> Result<CheckReport, Refusal> {
    let survey = Survey::of(medium, options.boot.map_or_else(this_boot, Ok)?, in_use)?;
    let mut checker = Checker {
        medium,
        survey: &survey,
        findings: Vec::new(),
        left_out: 0,
        progress: Progress { done: 0, total: 0 },
        tell: progress,
        bytes_read: 0,
        instead: instead_of_repair(&survey),
    };
    checker.image(in_use);
    checker.zones();
    checker.limits();
    let remains = checker.remains(options.deep);
    remains.map_err(Refusal::io("look for data in"))?;
    if options.deep {
        checker.data().map_err(Refusal::io("look for data in"))?;
    }
    Ok(CheckReport {
        recovery: survey.recovery,
        findings: checker.findings,
        left_out: checker.left_out,
        zones: survey.header.zone_count(),
        bytes_read: checker.bytes_read,
    })
}

/// What can be done about damage when the image is one that [`repair`](super::repair()) refuses.
fn instead_of_repair(survey: &Survey) -> Option<&'static str> {
    if survey.header.unknown_ro_compat() != 0 {
        return Some("use the zvb that made the image to repair it");
    }
    let refused = survey.has_bad_zones() && mending(survey).is_none();
    refused.then_some("--repair has no room to note what is lost, and refuses; a backup has it")
}

struct Checker<'a> {
    medium: &'a dyn Medium,
    survey: &'a Survey,
    findings: Vec<Finding>,
    left_out: u64,
    progress: Progress,
    tell: &'a mut dyn FnMut(Progress),
    bytes_read: u64,
    /// See [`Finding`].
    instead: Option<&'static str>,
}

impl Checker<'_> {
    fn found(&mut self, mut finding: Finding) {
        finding.instead = self.instead;
        // Room is made for what is worse, so that the worst is never left out.
        if self.findings.len() >= FINDINGS_MAX {
            self.left_out = self.left_out.saturating_add(1);
            let mildest = self.findings.iter_mut().min_by_key(|finding| finding.severity());
            match mildest {
                Some(mildest) if mildest.severity() < finding.severity() => *mildest = finding,
                _ => {}
            }
            return;
        }
        self.findings.push(finding);
    }

    /// The superblocks, the features, the length.
    fn image(&mut self, in_use: bool) {
        let Survey { header, bad_copy, len, recovery, .. } = self.survey;
        if let Some(at) = bad_copy {
            self.found(Finding { at: Some(*at), ..Finding::of(Problem::Superblock) });
        }
        if *recovery != Recovery::Clean && !in_use {
            self.found(Finding::of(Problem::NotInOrder(*recovery)));
        }
        if self.survey.in_sync && *recovery != Recovery::SyncFailed {
            self.found(Finding::of(Problem::InSync));
        }
        if header.compat & !KNOWN_COMPAT != 0 {
            self.found(Finding::of(Problem::Features(header.compat & !KNOWN_COMPAT)));
        }
        if header.unknown_ro_compat() != 0 {
            self.found(Finding::of(Problem::ReadOnlyFeatures(header.unknown_ro_compat())));
        }
        let (len, expected) = (*len, header.file_bytes);
        match len.cmp(&expected) {
            std::cmp::Ordering::Less => {
                self.found(Finding::of(Problem::Truncated { len, expected }));
            }
            std::cmp::Ordering::Equal => {}
            std::cmp::Ordering::Greater => {
                self.found(Finding::of(Problem::TooLong { len, expected }));
            }
        }
    }

    /// The records.
    fn zones(&mut self) {
        let survey = self.survey;
        for (zone, surveyed) in (0u32..).map(ZoneId).zip(&survey.zones) {
            let record = u64::from(zone.0).saturating_mul(crate::table::BYTES);
            let at = Some(survey.header.table_at.saturating_add(record));
            let zone = Some(zone);
            let Surveyed { entry, cut, torn_copy, .. } = surveyed;
            match entry {
                Err(source) => {
                    self.found(Finding { zone, at, ..Finding::of(Problem::Record(*source)) });
                }
                Ok(_) if *torn_copy => {
                    let problem = match survey.recovery {
                        Recovery::Clean => Problem::DamagedCopy,
                        _ => Problem::TornCopy,
                    };
                    self.found(Finding { zone, at, ..Finding::of(problem) });
                }
                Ok(_) => {}
            }
            if *cut {
                self.found(Finding { zone, at: None, ..Finding::of(Problem::DataCutOff) });
            }
        }
    }

    /// The limits, as whoever serves the image would apply them.
    fn limits(&mut self) {
        let Some(geometry) = self.survey.header.geometry else { return };
        let states: Option<Vec<Snapshot>> =
            self.survey.zones.iter().map(|zone| Some(zone.entry.as_ref().ok()?.state)).collect();
        match states.map(|states| Zones::restore(geometry, &states)) {
            Some(Err(RestoreError::TooManyActive { active, limit })) => {
                self.found(Finding::of(Problem::TooManyActive { active, limit }));
            }
            Some(Err(error)) => self.found(Finding::of(Problem::States(error))),
            Some(Ok(_)) | None => {}
        }
    }

    /// Data where there should be none: in slots that no zone has, and above the data of zones that read
    /// as zeroes there. `exact` reads what the medium says is data.
    fn remains(&mut self, exact: bool) -> io::Result<()> {
        let Survey { header, zones, .. } = self.survey;
        let layout = header.layout;
        let mut owned = vec![false; layout.slots as usize];
        for (zone, surveyed) in (0u32..).map(ZoneId).zip(zones) {
            let Ok(entry) = &surveyed.entry else { continue };
            let Some(slot) = entry.slot else { continue };
            if let Some(owned) = owned.get_mut(slot as usize) {
                *owned = true;
            }
            let preferred =
                header.geometry.is_some_and(|g| g.zone_type(zone) == ZoneType::SequentialPreferred);
            // After a crash that is as it should be, and seen to when the image is opened.
            if preferred && self.survey.recovery == Recovery::Clean {
                let start = layout.slot_at(slot);
                let written = entry.state.written().to_bytes().unwrap_or(layout.slot_bytes);
                let tail = start.saturating_add(written)..start.saturating_add(layout.slot_bytes);
                if let Some(at) = self.first_data(tail, exact)? {
                    let problem = Problem::AboveEnd;
                    self.found(Finding { zone: Some(zone), at: Some(at), ..Finding::of(problem) });
                }
            }
        }
        let mut next = layout.slots_at;
        for slot in (0..layout.slots).filter(|slot| owned.get(*slot as usize) == Some(&false)) {
            let start = layout.slot_at(slot);
            let end = start.saturating_add(layout.slot_bytes).min(self.survey.len);
            if next >= end {
                continue;
            }
            match self.medium.next_data(start.max(next))? {
                None => break,
                Some(data) if data < end => {
                    if let Some(at) = self.first_data(data..end, exact)? {
                        let problem = Problem::Remains { slot };
                        self.found(Finding { zone: None, at: Some(at), ..Finding::of(problem) });
                    }
                }
                Some(data) => next = data,
            }
        }
        Ok(())
    }

    /// The first byte in `range` that may be, or if `exact` is, other than zero.
    fn first_data(&mut self, range: Range<u64>, exact: bool) -> io::Result<Option<u64>> {
        let end = range.end.min(self.survey.len);
        // What the medium says of the block in which the data of a zone ends says nothing.
        let mut at = if exact { range.start } else { range.start.next_multiple_of(PIECE) };
        while at < end {
            let Some(data) = self.medium.next_data(at)?.filter(|data| *data < end) else {
                return Ok(None);
            };
            if !exact {
                return Ok(Some(data));
            }
            at = data.max(at);
            let bytes = self.read(None, at..end.min(at.saturating_add(CHUNK)));
            if let Some(n) = bytes.iter().position(|byte| *byte != 0) {
                return Ok(Some(at.saturating_add(n as u64)));
            }
            at = at.saturating_add(CHUNK);
        }
        Ok(None)
    }

    /// Reads all data.
    fn data(&mut self) -> io::Result<()> {
        let Survey { header, zones, .. } = self.survey;
        let layout = &header.layout;
        let mut ranges = Vec::new();
        if layout.linear_bytes > 0 {
            let start = layout.linear_at;
            ranges.push((None, start..start.saturating_add(layout.linear_bytes)));
        }
        for (zone, surveyed) in (0u32..).map(ZoneId).zip(zones) {
            let Ok(entry) = &surveyed.entry else { continue };
            // Nobody reads the data of a zone that is offline.
            if entry.state.condition() == Condition::Offline {
                continue;
            }
            if let (Some(slot), Some(bytes)) = (entry.slot, entry.state.written().to_bytes()) {
                let start = layout.slot_at(slot);
                ranges.push((Some(zone), start..start.saturating_add(bytes)));
            }
        }
        let lengths = ranges.iter().map(|(_, range)| range.end.saturating_sub(range.start));
        self.progress = Progress { done: 0, total: lengths.fold(0, u64::saturating_add) };
        for (zone, range) in ranges {
            self.data_of(zone, range)?;
        }
        (self.tell)(Progress { done: self.progress.total, ..self.progress });
        Ok(())
    }

    fn data_of(&mut self, zone: Option<ZoneId>, range: Range<u64>) -> io::Result<()> {
        let before = self.progress.done;
        let end = range.end.min(self.survey.len);
        let mut at = range.start;
        while at < end {
            let Some(data) = self.medium.next_data(at)?.filter(|data| *data < end) else { break };
            at = data.max(at);
            let next = end.min(at.saturating_add(CHUNK));
            self.read(zone, at..next);
            at = next;
            self.progress.done = before.saturating_add(at.saturating_sub(range.start));
            (self.tell)(self.progress);
        }
        let len = range.end.saturating_sub(range.start);
        self.progress.done = before.saturating_add(len);
        Ok(())
    }

    /// Reads `range`, at most a chunk, and tells what can not be read of it.
    fn read(&mut self, zone: Option<ZoneId>, range: Range<u64>) -> Vec<u8> {
        let mut bytes = vec![0; range.end.saturating_sub(range.start) as usize];
        self.bytes_read = self.bytes_read.saturating_add(bytes.len() as u64);
        if read_bytes(self.medium, range.start, &mut bytes).is_ok() {
            return bytes;
        }
        // One finding for each run that can not be read.
        let mut run: Option<(Range<u64>, i32)> = None;
        let mut at = range.start;
        for piece in bytes.chunks_mut(PIECE as usize) {
            let next = at.saturating_add(piece.len() as u64);
            match read_bytes(self.medium, at, piece) {
                Ok(()) => self.unreadable(zone, run.take()),
                Err(error) => {
                    piece.fill(0);
                    let code = error.raw_os_error().unwrap_or(rustix::io::Errno::IO.raw_os_error());
                    run = match run.take() {
                        Some((run, same)) if same == code => Some((run.start..next, code)),
                        other => {
                            self.unreadable(zone, other);
                            Some((at..next, code))
                        }
                    };
                }
            }
            at = next;
        }
        self.unreadable(zone, run);
        bytes
    }

    fn unreadable(&mut self, zone: Option<ZoneId>, run: Option<(Range<u64>, i32)>) {
        let Some((run, code)) = run else { return };
        let bytes = run.end.saturating_sub(run.start);
        let zone = zone.or_else(|| self.linear_zone(run.start));
        let problem = Problem::Unreadable { bytes, code };
        self.found(Finding { zone, at: Some(run.start), ..Finding::of(problem) });
    }

    /// The conventional zone whose data is at byte `at` of the file.
    fn linear_zone(&self, at: u64) -> Option<ZoneId> {
        let layout = &self.survey.header.layout;
        let inside = at.checked_sub(layout.linear_at).filter(|n| *n < layout.linear_bytes)?;
        self.survey.header.geometry?.zone_of(zvb_wire::Sector(inside / zvb_wire::SECTOR_BYTES))
    }
}
