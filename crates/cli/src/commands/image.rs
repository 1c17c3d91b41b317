//! `zvb check`, `zvb resize` and `zvb clone`.

use std::path::Path;

use anyhow::{Result, anyhow, bail};
use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::json;
use zvb_storage::{
    CheckOptions, CheckReport, CloneError, CloneOptions, Cloned, CreateError, Finding, Image,
    OpenError, Progress, Recovery, Refusal, RepairReport, ResizeError, Severity, check, inspect,
    repair, resize,
};
use zvb_wire::Sector;

use crate::args::image::{CheckArgs, CloneArgs, ResizeArgs};
use crate::output::{self, Usage};
use crate::size::Size;
use crate::transfer;

pub(super) fn run_check(args: &CheckArgs) -> Result<()> {
    let mut report = checked(args)?;
    let mut repaired = None;
    if args.repair && (!report.is_sound() || report.recovery != Recovery::Clean) {
        repaired = Some(repair(&args.file)?);
        if !args.output.quiet && !args.output.json {
            tell_findings(&report)?;
        }
        report = checked(args)?;
    }
    if args.output.json {
        output::json(&Answer::new(&args.file, &report, repaired.as_ref()))?;
    } else {
        for done in repaired.iter().flat_map(|repaired| &repaired.repairs) {
            output::say(format_args!("repaired: {done}"))?;
        }
        if !args.output.quiet || !report.is_sound() {
            tell_findings(&report)?;
        }
        if !args.output.quiet {
            output::say(summary(&args.file, &report, args.deep))?;
        }
    }
    if report.is_sound() {
        return Ok(());
    }
    let (errors, warnings) = (count(&report, Severity::Error), count(&report, Severity::Warning));
    bail!("{}: {errors} errors, {warnings} warnings", args.file.display())
}

fn checked(args: &CheckArgs) -> Result<CheckReport> {
    let options = CheckOptions { deep: args.deep, force: args.force, boot: None };
    let mut bar = Bar::new(args.output.quiet || args.output.json);
    let report = check(&args.file, &options, &mut |progress| bar.show(progress));
    bar.clear();
    report.map_err(|error| in_use(error, "stop who uses it, or --force to look at it as it is now"))
}

/// Says what to do about an image that is in use.
fn in_use(error: OpenError, advice: &str) -> anyhow::Error {
    match error.reason {
        Refusal::InUse { .. } => {
            let text = format!("{error}; {advice}");
            anyhow::Error::new(error).context(text)
        }
        _ => error.into(),
    }
}

fn tell_findings(report: &CheckReport) -> Result<()> {
    for finding in &report.findings {
        let advice = finding.advice();
        output::say(format_args!("{}: {finding}; {advice}", finding.severity()))?;
    }
    if report.left_out > 0 {
        output::say(format_args!("{} findings more are left out", report.left_out))?;
    }
    Ok(())
}

fn count(report: &CheckReport, severity: Severity) -> usize {
    report.findings.iter().filter(|finding| finding.severity() == severity).count()
}

fn summary(file: &Path, report: &CheckReport, deep: bool) -> String {
    let sound = if report.is_sound() { "sound" } else { "not sound" };
    let read = match deep {
        true => format!(", {} of data read", Size(report.bytes_read)),
        false => ", data not read (--deep reads it)".to_owned(),
    };
    format!("{}: {sound}; {} zones checked{read}", file.display(), report.zones)
}

#[derive(Serialize)]
struct Answer<'a> {
    file: &'a Path,
    sound: bool,
    findings: Vec<FindingJson>,
    left_out: u64,
    zones: u32,
    bytes_read: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    repairs: Option<Vec<String>>,
}

#[derive(Serialize)]
struct FindingJson {
    severity: String,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<u32>,
    /// Bytes from the start of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<u64>,
    text: String,
    advice: &'static str,
}

impl<'a> Answer<'a> {
    fn new(file: &'a Path, report: &CheckReport, repaired: Option<&RepairReport>) -> Self {
        Self {
            file,
            sound: report.is_sound(),
            findings: report.findings.iter().map(FindingJson::from).collect(),
            left_out: report.left_out,
            zones: report.zones,
            bytes_read: report.bytes_read,
            repairs: repaired.map(|r| r.repairs.iter().map(ToString::to_string).collect()),
        }
    }
}

impl From<&Finding> for FindingJson {
    fn from(finding: &Finding) -> Self {
        Self {
            severity: finding.severity().to_string(),
            kind: finding.problem.name(),
            zone: finding.zone.map(|zone| zone.0),
            at: finding.at,
            text: finding.to_string(),
            advice: finding.advice(),
        }
    }
}

pub(super) fn run_resize(args: &ResizeArgs) -> Result<()> {
    let Some(capacity) = Sector::from_bytes(args.size.0) else {
        return Err(Usage(format!("--size {} is not a multiple of 512", args.size.0)).into());
    };
    let before = inspect(&args.file)?;
    resize(&args.file, capacity).map_err(|error| match &error.reason {
        ResizeError::Image(Refusal::InUse { .. }) => {
            let text = format!("{error}; one served with --control is resized by `zvb ctl resize`");
            anyhow::Error::new(error).context(text)
        }
        ResizeError::Shrinks { from, to } => {
            anyhow!("{}: {}", args.file.display(), output::shrinks(*from, *to))
        }
        _ => error.into(),
    })?;
    let zones = |geometry: Option<zvb_zones::Geometry>| geometry.map_or(0, |g| g.zone_count());
    let after = inspect(&args.file)?;
    let (from, to) = (zones(before.geometry), zones(after.geometry));
    if args.output.json {
        return output::json(&json!({
            "file": args.file,
            "capacity": after.capacity.0,
            "capacity_before": before.capacity.0,
            "zone_count": to,
            "zone_count_before": from,
        }));
    }
    if !args.output.quiet {
        let (old, new) = (Size::of(before.capacity), Size::of(after.capacity));
        let zones = if to > 0 { format!(", {to} zones, from {from}") } else { String::new() };
        output::say(format_args!("{}: {new}, from {old}{zones}", args.file.display()))?;
    }
    Ok(())
}

pub(super) fn run_clone(args: &CloneArgs) -> Result<()> {
    let options = CloneOptions { force: args.force, same_identity: args.same_id };
    let mut bar = Bar::new(args.output.quiet || args.output.json);
    let cloned = Image::clone_file(&args.from, &args.to, &options, &mut |p| bar.show(p));
    bar.clear();
    let cloned = cloned.map_err(|error| match error {
        CloneError::From(error) if matches!(error.reason, Refusal::ReadOnlyFeatures(_)) => {
            let text = format!("{error}, and copied as it is, with its name: --same-id");
            anyhow::Error::new(error).context(text)
        }
        CloneError::From(error) => in_use(error, "stop who uses it first"),
        CloneError::To(error @ CreateError::Exists(_)) => {
            let text = format!("{error}; use another name, or --force to replace it");
            anyhow::Error::new(error).context(text)
        }
        other => other.into(),
    })?;
    let (how, bytes) = match cloned {
        Cloned::Reflink => ("reflink", 0),
        Cloned::Copy(bytes) => ("copy", bytes),
    };
    if args.output.json {
        return output::json(&json!({
            "from": args.from,
            "to": args.to,
            "how": how,
            "bytes_copied": bytes,
        }));
    }
    if !args.output.quiet {
        let how = match cloned {
            Cloned::Reflink => "shares its blocks with".to_owned(),
            Cloned::Copy(bytes) => format!("{} copied from", Size(bytes)),
        };
        let (to, from) = (args.to.display(), args.from.display());
        output::say(format_args!("{to}: {how} {from}"))?;
    }
    Ok(())
}

/// Progress on a terminal, from the first time that there is any.
struct Bar {
    quiet: bool,
    bar: Option<ProgressBar>,
}

impl Bar {
    fn new(quiet: bool) -> Self {
        Self { quiet, bar: None }
    }

    fn show(&mut self, progress: Progress) {
        let quiet = self.quiet;
        let bar = self.bar.get_or_insert_with(|| transfer::progress(Some(progress.total), quiet));
        bar.set_position(progress.done);
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
