//! Which zones or sectors a command is about.

use std::ops::Range;

use zvb_driver::{Info, ZonedInfo};
use zvb_wire::Sector;

use crate::args::FirstArgs;
use crate::output::Usage;
use crate::size::Count;

/// The zones, by number, that `--zone`, `--sector` and `--count` mean. As with `blkzone`, a count that
/// goes past the last zone ends there. Nothing given is `None`.
pub(crate) fn zones(
    first: FirstArgs,
    count: Option<Count>,
    zoned: &ZonedInfo,
) -> Result<Option<Range<u64>>, Usage> {
    let all = u64::from(zoned.zone_count);
    let begin = match (first.zone, first.sector) {
        (Some(Count(zone)), _) if zone >= all => {
            let last = all.saturating_sub(1);
            return Err(Usage(format!("--zone {zone}: the disk has {all} zones; use 0 to {last}")));
        }
        (Some(Count(zone)), _) => zone,
        (None, Some(Count(sector))) => {
            let zone = sector / zoned.zone_size.0.max(1);
            if zone >= all {
                return Err(Usage(format!("--sector {sector} is past the end of the disk")));
            }
            zone
        }
        (None, None) => return Ok(None),
    };
    let count = match count {
        Some(Count(0)) => return Err(Usage("--count 0: use at least 1 zone".into())),
        Some(Count(n)) => n,
        None => all,
    };
    Ok(Some(begin..begin.saturating_add(count).min(all)))
}

/// Refuses a `--sector` that is not the start of a zone: a command to zones must not be guessed.
pub(crate) fn at_zone_start(first: FirstArgs, zoned: &ZonedInfo) -> Result<(), Usage> {
    if let Some(Count(sector)) = first.sector {
        let start = zoned.zone_start(Sector(sector));
        if start.0 != sector {
            return Err(Usage(format!(
                "--sector {sector} is not the start of a zone; the zone that holds it starts at {start}"
            )));
        }
    }
    Ok(())
}

/// What to say when a command needs `--zone` or `--sector` and has neither.
pub(crate) fn missing() -> Usage {
    Usage("which zone? Use --zone N or --sector S".into())
}

/// The first sector of zone `number`.
pub(crate) fn start(number: u64, zoned: &ZonedInfo) -> Sector {
    Sector(number.saturating_mul(zoned.zone_size.0))
}

/// Checks that `sectors` from `at` on are on the disk.
pub(crate) fn on_disk(at: Sector, sectors: Sector, info: &Info) -> Result<(), Usage> {
    match at.checked_add(sectors) {
        Some(end) if end <= info.capacity => Ok(()),
        _ => Err(Usage(format!(
            "{sectors} sectors from sector {at} on pass the end of the disk at sector {}",
            info.capacity
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zvb_wire::Model;

    const ZONED: ZonedInfo = ZonedInfo {
        model: Model::HostManaged,
        zone_size: Sector(100),
        zone_count: 10,
        max_open: 0,
        max_active: 0,
        max_append: Sector(8),
        write_granularity: 512,
    };

    fn first(zone: Option<u64>, sector: Option<u64>) -> FirstArgs {
        FirstArgs { zone: zone.map(Count), sector: sector.map(Count) }
    }

    #[test]
    fn ranges_end_at_the_last_zone() {
        let range = |zone, sector, count: Option<u64>| {
            zones(first(zone, sector), count.map(Count), &ZONED).ok().flatten()
        };
        assert_eq!(range(None, None, Some(3)), None);
        assert_eq!(range(Some(3), None, Some(2)), Some(3..5));
        assert_eq!(range(None, Some(399), Some(2)), Some(3..5));
        assert_eq!(range(Some(8), None, Some(u64::MAX)), Some(8..10));
        assert_eq!(range(Some(8), None, None), Some(8..10));
        assert_eq!(range(Some(10), None, None), None);
        assert_eq!(range(None, Some(1000), None), None);
        assert_eq!(range(Some(0), None, Some(0)), None);
        assert!(at_zone_start(first(None, Some(400)), &ZONED).is_ok());
        assert!(at_zone_start(first(None, Some(401)), &ZONED).is_err());
    }
}
