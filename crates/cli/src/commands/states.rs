//! `zvb dump` and `zvb load`.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::json;
use zvb_storage::{ZoneState, ZoneTable, inspect, load};
use zvb_wire::{Condition, Sector};
use zvb_zones::{Geometry, ZoneId};

use crate::args::image::{DumpArgs, LoadArgs};
use crate::output;
use crate::report::condition_name;
use crate::report::dump::Dump;

/// The most bytes of a table that are read: 4 million zones, each on lines of its own.
const TABLE_MAX: u64 = 2 << 30;

pub(super) fn run_dump(args: &DumpArgs) -> Result<()> {
    output::json(&Dump::of_image(&inspect(&args.file)?))
}

/// What is wrong with a table.
#[derive(Debug, thiserror::Error)]
enum TableError {
    #[error("zone {zone}: \"{cond}\" is no condition: {}", Condition::ALL.map(condition_name).join(", "))]
    Condition { zone: u32, cond: String },
    #[error("zone {zone}: {cond}, and it is not said where its data ends (\"written\")")]
    NoEnd { zone: u32, cond: String },
}

/// A table as it is read. What a dump or a report says of the disk besides is not looked at.
#[derive(Deserialize)]
struct Table {
    zones: Vec<TableZone>,
}

#[derive(Deserialize)]
struct TableZone {
    zone: u32,
    cond: String,
    written: Option<u64>,
    /// A report has these instead.
    start: Option<u64>,
    wptr: Option<u64>,
}

impl TableZone {
    fn state(self, geometry: Option<&Geometry>) -> Result<ZoneState, TableError> {
        let Self { zone, cond, written, start, wptr } = self;
        let known = Condition::ALL.into_iter().find(|c| condition_name(*c) == cond);
        let Some(condition) = known else { return Err(TableError::Condition { zone, cond }) };
        let id = ZoneId(zone);
        let end = match condition {
            Condition::Empty | Condition::NotWp | Condition::Offline => Some(0),
            Condition::Full => geometry.filter(|g| zone < g.zone_count()).map(|g| g.capacity(id).0),
            Condition::ReadOnly => None,
            _ => wptr.zip(start).and_then(|(pointer, start)| pointer.checked_sub(start)),
        };
        match written.or(end) {
            Some(written) => Ok(ZoneState { zone: id, condition, written: Sector(written) }),
            None => Err(TableError::NoEnd { zone, cond }),
        }
    }
}

pub(super) fn run_load(args: &LoadArgs) -> Result<()> {
    let name = args.table.display();
    let table = read(&args.table).with_context(|| format!("cannot read {name}"))?;
    let table: Table = serde_json::from_slice(&table)
        .with_context(|| format!("{name} is no table of zones, like `zvb dump` writes them"))?;
    let geometry = inspect(&args.file)?.geometry;
    let states = table.zones.into_iter().map(|zone| zone.state(geometry.as_ref()));
    let zones: Vec<ZoneState> = states.collect::<Result<_, _>>().context(name.to_string())?;
    let count = zones.len();
    load(&args.file, &ZoneTable { zones })?;
    if args.output.json {
        return output::json(&json!({ "file": args.file, "zones_loaded": count }));
    }
    if !args.output.quiet {
        let zones = if count == 1 { "zone" } else { "zones" };
        output::say(format_args!("{}: {count} {zones} loaded", args.file.display()))?;
    }
    Ok(())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = |reader: &mut dyn Read, bytes| reader.take(TABLE_MAX).read_to_end(bytes);
    if path == Path::new("-") {
        limit(&mut io::stdin().lock(), &mut bytes)?;
    } else {
        limit(&mut File::open(path)?, &mut bytes)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(json: &str) -> Result<ZoneState, TableError> {
        serde_json::from_str::<TableZone>(json).unwrap().state(None)
    }

    #[test]
    fn states_are_read_as_they_are_written() {
        let closed = state(r#"{"zone": 3, "cond": "closed", "written": 8, "type": "x"}"#).unwrap();
        let expected =
            ZoneState { zone: ZoneId(3), condition: Condition::Closed, written: Sector(8) };
        assert_eq!(closed, expected);
        let reported = r#"{"zone": 3, "cond": "closed", "start": 100, "wptr": 108}"#;
        assert_eq!(state(reported).unwrap(), expected);
        assert_eq!(state(r#"{"zone": 3, "cond": "empty"}"#).unwrap().written, Sector(0));
        let bad = state(r#"{"zone": 3, "cond": "shut"}"#).unwrap_err();
        assert!(bad.to_string().starts_with("zone 3: \"shut\" is no condition: not-wp, empty"));
        let bad = state(r#"{"zone": 3, "cond": "read-only", "start": 1, "wptr": 1}"#);
        assert!(matches!(bad, Err(TableError::NoEnd { zone: 3, .. })));
        let bad = state(r#"{"zone": 3, "cond": "closed", "start": 9, "wptr": 1}"#);
        assert!(matches!(bad, Err(TableError::NoEnd { zone: 3, .. })));
    }
}
