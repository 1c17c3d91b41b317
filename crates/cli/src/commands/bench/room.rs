//! Whether the zones that a workload writes may all be active at a time.

use anyhow::{Context, bail};
use zvb_wire::SECTOR_BYTES;

use crate::args::{BenchArgs, Workload};
use crate::bench::Member;
use crate::device::{Device, explain};
use crate::transfer::Run;

/// Takes back the room of zones of `runs` that somebody has left active, and counts what there is. True when
/// the queues must end one zone before they begin another; an error when even that is too much.
pub(super) fn make(
    args: &BenchArgs,
    device: &mut Device,
    runs: &[Run],
    bytes: usize,
) -> anyhow::Result<bool> {
    let Some(zoned) = device.info().zoned else { return Ok(false) };
    if !matches!(args.rw, Workload::Write | Workload::Append) {
        return Ok(false);
    }
    let mut others = 0_u32;
    for zone in device.all_zones()?.iter().filter(|zone| zone.condition.is_active()) {
        // They are in the order of the disk.
        if runs.binary_search_by_key(&zone.start, |run| run.at).is_ok() {
            let done = device.disk.reset(zone.start).map_err(explain);
            done.with_context(|| format!("cannot reset zone {}", zone.number))?;
        } else {
            others += 1;
        }
    }
    if zoned.max_active == 0 {
        return Ok(false);
    }
    let room = zoned.max_active.saturating_sub(others);
    let need = need(args, runs, bytes);
    if room < need.least {
        bail!(
            "{} zones can be active, and {others} others are: too few for {} at a time; use fewer --queues or \
             --zones-at-once, or finish or reset the others",
            zoned.max_active,
            need.least
        );
    }
    Ok(room < need.most || need.uneven)
}

/// How many zones are active while a workload runs.
#[derive(PartialEq, Eq, Debug)]
struct Need {
    /// When each queue ends one before it begins another.
    least: u32,
    /// When the queues do not care.
    most: u32,
    /// Zones are not filled by whole requests, and stay active.
    uneven: bool,
}

fn need(args: &BenchArgs, runs: &[Run], bytes: usize) -> Need {
    let sectors = bytes as u64 / SECTOR_BYTES;
    let each = runs.iter().map(|run| run.sectors.0).min().unwrap_or(0) / sectors.max(1);
    // Requests in flight may be of so many zones before the one that takes the next.
    let behind = |each: u64| u64::from(args.depth.get()).div_ceil(each.max(1));
    let queues = u64::from(args.queues.get());
    let (least, most) = if args.same_zones {
        let (part, _) = Member::parts(each);
        (1, queues.saturating_mul(behind(part).saturating_add(2)))
    } else {
        let zones = queues.saturating_mul(args.zones_at_once.get().into());
        let zones = zones.min(runs.len() as u64);
        (zones, zones.saturating_mul(behind(each).saturating_add(1)))
    };
    let uneven = runs.iter().any(|run| {
        let requests = match (args.same_zones, Member::parts(each)) {
            (true, (part, parts)) => part.saturating_mul(parts),
            (false, _) => run.sectors.0 / sectors.max(1),
        };
        requests.saturating_mul(sectors) != run.sectors.0
    });
    let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    Need { least: number(least), most: number(most), uneven }
}
