//! `zvb open`, `close`, `finish` and `reset`.

use anyhow::Context;
use serde::Serialize;
use zvb_wire::Sector;

use crate::args::{OutputArgs, ZoneArgs};
use crate::device::{Connect, Device, explain};
use crate::output;
use crate::report::json::ZoneJson;
use crate::target;

/// What is done to zones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    Open,
    Close,
    Finish,
    Reset,
}

impl Action {
    fn verb(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Close => "close",
            Self::Finish => "finish",
            Self::Reset => "reset",
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::Open => "opened",
            Self::Close => "closed",
            Self::Finish => "finished",
            Self::Reset => "reset",
        }
    }

    fn run(self, device: &mut Device, start: Sector) -> anyhow::Result<()> {
        let disk = &mut device.disk;
        match self {
            Self::Open => disk.open(start),
            Self::Close => disk.close(start),
            Self::Finish => disk.finish(start),
            Self::Reset => disk.reset(start),
        }
        .map_err(explain)
    }
}

#[derive(Serialize)]
struct Answer {
    command: &'static str,
    /// The zones that the command was for, as they are now.
    zones: Vec<ZoneJson>,
}

/// Does `action` to the zones that `args` name, one after the other.
pub(super) fn run(action: Action, args: &ZoneArgs) -> anyhow::Result<()> {
    let mut device = Device::connect(&args.device, &Connect::default())?;
    let zoned = device.zoned()?;
    target::at_zone_start(args.first, &zoned)?;
    let range = target::zones(args.first, Some(args.count), &zoned)?.ok_or_else(target::missing)?;
    for number in range.clone() {
        action.run(&mut device, target::start(number, &zoned)).with_context(|| {
            let before = match number.checked_sub(1) {
                Some(last) if number > range.start => {
                    format!(" ({} {} done)", zones_text(range.start, last), were(range.start, last))
                }
                _ => String::new(),
            };
            format!("cannot {} zone {number}{before}", action.verb())
        })?;
    }
    let last = range.end.saturating_sub(1);
    let text = format!("{} {}", action.done(), zones_text(range.start, last));
    answer(&mut device, action.verb(), range, &text, args.output)
}

/// Resets all zones.
pub(super) fn reset_all(args: &ZoneArgs) -> anyhow::Result<()> {
    let mut device = Device::connect(&args.device, &Connect::default())?;
    let zoned = device.zoned()?;
    device.disk.reset_all().map_err(explain).context("cannot reset all zones")?;
    let range = 0..u64::from(zoned.zone_count);
    answer(&mut device, "reset", range, "reset all zones", args.output)
}

fn answer(
    device: &mut Device,
    command: &'static str,
    range: std::ops::Range<u64>,
    text: &str,
    how: OutputArgs,
) -> anyhow::Result<()> {
    if how.json {
        let zones = device.zones(range.start, range.end.saturating_sub(range.start))?;
        return output::json(&Answer {
            command,
            zones: zones.iter().map(ZoneJson::from).collect(),
        });
    }
    if !how.quiet {
        output::say(text)?;
    }
    Ok(())
}

fn zones_text(first: u64, last: u64) -> String {
    if first == last { format!("zone {first}") } else { format!("zones {first} to {last}") }
}

fn were(first: u64, last: u64) -> &'static str {
    if first == last { "was" } else { "were" }
}
