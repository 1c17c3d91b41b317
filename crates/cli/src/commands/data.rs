//! `zvb append`, `write` and `read`.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use anyhow::{Context, bail};
use serde::Serialize;
use zvb_driver::ZonedInfo;
use zvb_wire::{Condition, Model, SECTOR_BYTES, Sector};

use crate::args::{AppendArgs, FirstArgs, OutputArgs, ReadArgs, WriteArgs};
use crate::device::Device;
use crate::input::Input;
use crate::output::{self, OutputGone, Usage};
use crate::report::{Zone, condition_name};
use crate::size::{Count, Size};
use crate::target;
use crate::terminal;
use crate::transfer::{self, Outcome, Pipeline, Put, Run, progress};

/// Zones that are asked for at a time while an append goes from zone to zone.
const ZONES_PER_REPORT: u64 = 256;

pub(super) fn append(args: &AppendArgs) -> anyhow::Result<()> {
    let mut device =
        Device::connect(&args.device, &transfer::connection(args.transfer.depth.get()))?;
    let zoned = device.zoned()?;
    if zoned.max_append == Sector::ZERO {
        bail!(
            "the disk takes no appends; use `zvb write --zone N`, which writes at the write pointer"
        );
    }
    if zoned.model == Model::HostAware {
        bail!(
            "appends are for sequential-write-required zones, and a host-aware disk has none; use `zvb write --zone N`, which writes at the write pointer"
        );
    }
    target::at_zone_start(args.first, &zoned)?;
    let first = target::zones(args.first, None, &zoned)?.ok_or_else(target::missing)?.start;
    takes_data(&device.zone(first)?)?;
    let unit = device.write_unit();
    let length = args.length.map(|n| n.0);
    let mut input = Input::open(args.file.as_deref(), length, args.pad, unit)?;
    let bar = progress(input.total(), args.output.quiet);
    let limit = zoned.max_append.to_bytes().unwrap_or(u64::MAX);
    let mut zones =
        ZonesWithRoom { next: first, count: zoned.zone_count.into(), known: Vec::new() };
    let mut pipeline = Pipeline::new(&mut device, args.transfer.depth.get(), limit, unit);
    let outcome = pipeline.put(
        &mut input,
        Put::Append,
        |device| Ok(zones.next(device)?.map(|zone| Run { at: zone.start, sectors: zone.room() })),
        &bar,
    );
    bar.finish_and_clear();
    finish("append", "appended", outcome, Some(zoned), args.output)
}

/// The zones from one on that take data at their write pointer, in order.
struct ZonesWithRoom {
    next: u64,
    count: u64,
    /// Zones of the last report that were not looked at yet, last first.
    known: Vec<Zone>,
}

impl ZonesWithRoom {
    fn next(&mut self, device: &mut Device) -> anyhow::Result<Option<Zone>> {
        loop {
            while let Some(zone) = self.known.pop() {
                if zone.is_sequential() && zone.room() > Sector::ZERO {
                    return Ok(Some(zone));
                }
            }
            if self.next >= self.count {
                return Ok(None);
            }
            self.known = device.zones(self.next, ZONES_PER_REPORT)?;
            if self.known.is_empty() {
                return Ok(None);
            }
            self.next = self.next.saturating_add(self.known.len() as u64);
            self.known.reverse();
        }
    }
}

/// Refuses an append to a zone that can not take any, before anything is read.
fn takes_data(zone: &Zone) -> anyhow::Result<()> {
    let number = zone.number;
    if !zone.is_sequential() {
        bail!(
            "zone {number} is conventional: it has no write pointer; use `zvb write --zone {number}`"
        );
    }
    match zone.condition {
        Condition::Full => bail!("zone {number} is full; `zvb reset --zone {number}` empties it"),
        Condition::ReadOnly | Condition::Offline => {
            bail!("zone {number} is {}; use another zone", condition_name(zone.condition))
        }
        _ if zone.room() == Sector::ZERO => bail!("zone {number} has no room; use another zone"),
        _ => Ok(()),
    }
}

pub(super) fn write(args: &WriteArgs) -> anyhow::Result<()> {
    let mut device =
        Device::connect(&args.device, &transfer::connection(args.transfer.depth.get()))?;
    let place = Place::find(args, &mut device)?;
    target::on_disk(place.run.at, Sector(1), device.info())?;
    let length = args.length.map(|n| n.0);
    let mut input = Input::open(args.file.as_deref(), length, args.pad, place.unit)?;
    if let Some(bytes) = input.total()
        && bytes.div_ceil(SECTOR_BYTES) > place.run.sectors.0
    {
        let (at, room) = (place.run.at, Size::of(place.run.sectors));
        let size = Size(bytes);
        bail!("{size} do not fit: from sector {at} on there is room for {room}; use --length");
    }
    let bar = progress(input.total(), args.output.quiet);
    let zoned = device.info().zoned;
    let mut pieces = Pieces { left: place.run, zoned };
    let mut pipeline = Pipeline::new(&mut device, args.transfer.depth.get(), u64::MAX, place.unit);
    let outcome = pipeline.put(&mut input, Put::Write, |_| Ok(pieces.next()), &bar);
    bar.finish_and_clear();
    finish("write", "wrote", outcome, zoned, args.output)
}

/// Where a write goes.
struct Place {
    /// From where on, and how much there is room for.
    run: Run,
    /// What it must be a multiple of, in bytes.
    unit: u32,
}

impl Place {
    fn find(args: &WriteArgs, device: &mut Device) -> anyhow::Result<Self> {
        let unit = device.info().block_size;
        let capacity = device.info().capacity;
        let from = |at: Sector| Sector(capacity.0.saturating_sub(at.0));
        match (args.zone, args.sector) {
            (Some(zone), _) => {
                let zoned = device.zoned()?;
                let first = FirstArgs { zone: Some(zone), sector: None };
                let range = target::zones(first, None, &zoned)?.ok_or_else(target::missing)?;
                let zone = device.zone(range.start)?;
                let at = zone.pointer();
                if !zone.is_sequential() {
                    return Ok(Self { run: Run { at, sectors: from(at) }, unit });
                }
                takes_data(&zone)?;
                Ok(Self { run: Run { at, sectors: zone.room() }, unit: device.write_unit() })
            }
            (None, Some(Count(sector))) => {
                let at = Sector(sector);
                Ok(Self { run: Run { at, sectors: from(at) }, unit })
            }
            (None, None) => Err(Usage("where? Use --zone N or --sector S".into()).into()),
        }
    }
}

/// A run, cut where zones begin: a request does not cross from one zone into the next.
struct Pieces {
    left: Run,
    zoned: Option<ZonedInfo>,
}

impl Iterator for Pieces {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        let Run { at, sectors } = self.left;
        if sectors == Sector::ZERO {
            return None;
        }
        let most = match &self.zoned {
            Some(zoned) => {
                let start = zoned.zone_start(at);
                Sector(start.0.saturating_add(zoned.zone_size.0).saturating_sub(at.0))
            }
            None => sectors,
        };
        let piece = Run { at, sectors: sectors.min(most) };
        self.left = Run {
            at: Sector(at.0.saturating_add(piece.sectors.0)),
            sectors: Sector(sectors.0.saturating_sub(piece.sectors.0)),
        };
        Some(piece)
    }
}

#[derive(Serialize)]
struct Answer {
    command: &'static str,
    bytes: u64,
    extents: Vec<Extent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Where data went; 512-byte sectors.
#[derive(Serialize)]
struct Extent {
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<u64>,
    start: u64,
    len: u64,
}

/// Says where the data went, also when not all of it did.
fn finish(
    command: &'static str,
    done: &str,
    outcome: Outcome,
    zoned: Option<ZonedInfo>,
    how: OutputArgs,
) -> anyhow::Result<()> {
    let zone_of = |at: Sector| zoned.map(|zoned| at.0 / zoned.zone_size.0.max(1));
    let bytes = outcome.bytes();
    if how.json {
        output::json(&Answer {
            command,
            bytes,
            extents: outcome
                .extents
                .iter()
                .map(|run| Extent { zone: zone_of(run.at), start: run.at.0, len: run.sectors.0 })
                .collect(),
            error: outcome.error.as_ref().map(|error| format!("{error:#}")),
        })?;
    } else if !how.quiet {
        for run in &outcome.extents {
            let zone = zone_of(run.at).map(|n| format!(" in zone {n}")).unwrap_or_default();
            let (size, at) = (Size::of(run.sectors), run.at);
            output::say(format_args!("{done} {size}{zone} from sector {at} on"))?;
        }
    }
    match outcome.error {
        Some(error) if bytes > 0 => {
            let text = format!("{error}; {bytes} bytes before it are on the disk");
            Err(error.context(text))
        }
        Some(error) => Err(error),
        None => Ok(()),
    }
}

pub(super) fn read(args: &ReadArgs) -> anyhow::Result<()> {
    if args.output.is_none() && terminal::stdout_is_terminal() && !args.force {
        let text =
            "this would write the data to the terminal; use --output FILE, a pipe, or --force";
        return Err(Usage(text.into()).into());
    }
    let mut device =
        Device::connect(&args.device, &transfer::connection(args.transfer.depth.get()))?;
    let runs = to_read(args, &mut device)?;
    let total = runs.iter().map(|run| run.sectors.0.saturating_mul(SECTOR_BYTES)).sum();
    let unit = device.info().block_size;
    let mut sink = sink(args)?;
    let bar = progress(Some(total), args.quiet);
    let mut pipeline = Pipeline::new(&mut device, args.transfer.depth.get(), u64::MAX, unit);
    let result = pipeline.get(&runs, &mut sink, &bar);
    bar.finish_and_clear();
    match (result, &args.output) {
        (Err(error), Some(path)) if error.is::<OutputGone>() => {
            Err(error.context(format!("cannot write {}", path.display())))
        }
        (result, _) => result,
    }
}

/// The file or the stream that data goes to.
fn sink(args: &ReadArgs) -> anyhow::Result<File> {
    match &args.output {
        Some(path) => {
            File::create(path).with_context(|| format!("cannot create {}", path.display()))
        }
        // Not through `Stdout`, which looks for ends of lines.
        None => {
            let fd = io::stdout().as_fd().try_clone_to_owned();
            Ok(File::from(fd.context("cannot use standard output")?))
        }
    }
}

/// What is to be read.
fn to_read(args: &ReadArgs, device: &mut Device) -> anyhow::Result<Vec<Run>> {
    if let Some(Count(length)) = args.length {
        let at = match (args.first.zone, args.first.sector) {
            (Some(_), _) => {
                let zoned = device.zoned()?;
                let range = target::zones(args.first, None, &zoned)?.ok_or_else(target::missing)?;
                target::start(range.start, &zoned)
            }
            (None, sector) => Sector(sector.map_or(0, |Count(sector)| sector)),
        };
        target::on_disk(at, Sector(length), device.info())?;
        let block = Sector(u64::from(device.info().block_size) / SECTOR_BYTES);
        if !at.is_multiple_of(block) || !Sector(length).is_multiple_of(block) {
            let text = format!("sectors are read {block} at a time, the block size of the disk");
            return Err(Usage(text).into());
        }
        let left = Run { at, sectors: Sector(length) };
        return Ok(Pieces { left, zoned: device.info().zoned }.collect());
    }
    let Some(zoned) = device.info().zoned else {
        return Err(Usage("how much? The disk has no zones; use --length SECTORS".into()).into());
    };
    target::at_zone_start(args.first, &zoned)?;
    let count = args.count.unwrap_or(Count(1));
    let range = target::zones(args.first, Some(count), &zoned)?.ok_or_else(target::missing)?;
    let zones = device.zones(range.start, range.end.saturating_sub(range.start))?;
    if let Some(zone) = zones.iter().find(|zone| zone.condition == Condition::Offline) {
        bail!("zone {} is offline: it can not be read", zone.number);
    }
    Ok(zones.iter().map(|zone| Run { at: zone.start, sectors: zone.readable() }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use zvb_wire::Model;

    #[test]
    fn pieces_end_where_zones_do() {
        let zoned = ZonedInfo {
            model: Model::HostManaged,
            zone_size: Sector(100),
            zone_count: 4,
            max_open: 0,
            max_active: 0,
            max_append: Sector(8),
            write_granularity: 512,
        };
        let cut = |zoned, at, sectors| {
            let left = Run { at: Sector(at), sectors: Sector(sectors) };
            Pieces { left, zoned }.map(|run| (run.at.0, run.sectors.0)).collect::<Vec<_>>()
        };
        assert_eq!(cut(Some(zoned), 50, 200), [(50, 50), (100, 100), (200, 50)]);
        assert_eq!(cut(Some(zoned), 100, 100), [(100, 100)]);
        assert_eq!(cut(None, 50, 200), [(50, 200)]);
        assert_eq!(cut(None, 50, 0), []);
    }
}
