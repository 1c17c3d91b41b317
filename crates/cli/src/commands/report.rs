//! `zvb report`.

use crate::args::{ReportArgs, ReportFormat};
use crate::device::{Connect, Device};
use crate::output::{self, Usage};
use crate::report::blkzone::Line;
use crate::report::json::{ReportJson, ZoneJson};
use crate::report::map::Map;
use crate::report::table::Table;
use crate::report::{Zone, counts_line, model_name};
use crate::size::Size;
use crate::target;
use crate::terminal::{self, Paint};

pub(super) fn run(args: &ReportArgs) -> anyhow::Result<()> {
    let mut device = Device::connect(&args.device, &Connect::default())?;
    let format = if args.json { ReportFormat::Json } else { args.format };
    if format == ReportFormat::Json && device.info().zoned.is_none() {
        // A disk without zones has a report without zones.
        return output::json(&ReportJson { disk: device.describe(), zones: Vec::new() });
    }
    let zoned = device.zoned()?;
    let zones = match target::zones(args.first, args.count, &zoned)? {
        Some(range) => device.zones(range.start, range.end.saturating_sub(range.start))?,
        None => match args.count {
            Some(count) if count.0 == 0 => {
                return Err(Usage("--count 0: use at least 1 zone".into()).into());
            }
            Some(count) => device.zones(0, count.0)?,
            None => device.all_zones()?,
        },
    };
    match format {
        ReportFormat::Json => output::json(&ReportJson {
            disk: device.describe(),
            zones: zones.iter().map(ZoneJson::from).collect(),
        }),
        ReportFormat::Blkzone => {
            let lines: String = zones.iter().map(|zone| format!("{}\n", Line(zone))).collect();
            Ok(output::print(lines)?)
        }
        ReportFormat::Table => table(&device, &zones),
    }
}

fn table(device: &Device, zones: &[Zone]) -> anyhow::Result<()> {
    let paint = Paint::for_stdout();
    output::print(Table { zones, paint })?;
    if !terminal::stdout_is_terminal() {
        return Ok(());
    }
    let zoned = device.zoned()?;
    let limit = |n: u32| if n == 0 { "no limit".to_owned() } else { n.to_string() };
    output::say(format_args!(
        "\n{}, {}, zones of {}, at most {} open, {} active, appends of {}",
        model_name(zoned.model),
        Size::of(device.info().capacity),
        Size::of(zoned.zone_size),
        limit(zoned.max_open),
        limit(zoned.max_active),
        Size::of(zoned.max_append),
    ))?;
    output::say(format_args!("{} zones: {}\n", zones.len(), counts_line(zones)))?;
    Ok(output::print(Map { zones, width: terminal::width(), paint })?)
}
