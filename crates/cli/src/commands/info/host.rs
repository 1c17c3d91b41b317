//! `zvb info` of a block device of this host.

use std::error::Error;
use std::iter::successors;

use anyhow::Result;
use serde::Serialize;
use zvb_storage::{HostInfo, inspect_host};
use zvb_zones::Geometry;

use super::{aligned, all_zones, conditions, geometry_rows, id_text};
use crate::args::InfoArgs;
use crate::output;
use crate::report::json::{DiskJson, ZoneJson, ZonedJson};
use crate::report::map::Map;
use crate::report::{Zone, model_name};
use crate::size::Size;
use crate::terminal::{self, Paint};

pub(super) fn run(args: &InfoArgs) -> Result<()> {
    let info = inspect_host(&args.file)?;
    let zones = all_zones(info.shape.geometry.as_ref(), &info.zones);
    if args.json {
        return output::json(&Answer::new(args, &info, &zones));
    }
    output::print(table(args, &info, &zones))?;
    if !zones.is_empty() && terminal::stdout_is_terminal() {
        let map = Map { zones: &zones, width: terminal::width(), paint: Paint::for_stdout() };
        output::print(format_args!("\n{map}"))?;
    }
    Ok(())
}

#[derive(Serialize)]
struct Answer<'a> {
    file: &'a std::path::Path,
    id: String,
    #[serde(flatten)]
    disk: DiskJson,
    conditions: serde_json::Map<String, serde_json::Value>,
    zones: Vec<ZoneJson>,
    /// The device that appends can go to natively.
    native_append: Option<&'a std::path::Path>,
}

impl<'a> Answer<'a> {
    fn new(args: &'a InfoArgs, info: &'a HostInfo, zones: &[Zone]) -> Self {
        let spec = info.shape.geometry.as_ref().map(Geometry::spec);
        Self {
            file: &args.file,
            id: id_text(&info.shape.id),
            disk: DiskJson {
                capacity: info.shape.capacity.0,
                block_size: info.shape.block_size,
                read_only: false,
                model: spec.map_or(DiskJson::PLAIN, |spec| model_name(spec.model)),
                zoned: spec.map(ZonedJson::of),
            },
            conditions: conditions(zones),
            zones: zones.iter().map(ZoneJson::from).collect(),
            native_append: info.native.as_deref().ok(),
        }
    }
}

fn table(args: &InfoArgs, info: &HostInfo, zones: &[Zone]) -> String {
    let mut rows = vec![
        ("device", args.file.display().to_string()),
        ("id", id_text(&info.shape.id)),
        ("size", Size::of(info.shape.capacity).to_string()),
        ("block size", Size(info.shape.block_size.into()).to_string()),
    ];
    rows.extend(geometry_rows(info.shape.geometry.as_ref(), zones));
    if info.shape.geometry.is_some() {
        let native = match &info.native {
            Ok(path) => format!("can be had, through {}", path.display()),
            Err(why) => {
                let causes = successors(why.source(), |why| (*why).source());
                causes.fold(format!("none: {why}"), |text, why| format!("{text}: {why}"))
            }
        };
        rows.push(("native append", native));
    }
    aligned(rows)
}
