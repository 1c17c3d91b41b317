//! `zvb info`.

mod host;

use anyhow::{Result, bail};
use serde::Serialize;
use zvb_storage::{ImageInfo, ImageState, Recovery, inspect, is_block_device};
use zvb_wire::{Condition, Sector, ZoneType};
use zvb_zones::{Geometry, Snapshot, ZoneId};

use crate::args::InfoArgs;
use crate::output;
use crate::report::json::{DiskJson, ZoneJson, ZonedJson};
use crate::report::map::Map;
use crate::report::{Zone, condition_name, counts, counts_line, model_name};
use crate::size::Size;
use crate::source::{generic_device, recovered};
use crate::terminal::{self, Paint};

pub(super) fn run(args: &InfoArgs) -> Result<()> {
    if is_block_device(&args.file) {
        return host::run(args);
    }
    if let Some(error) = generic_device(&args.file) {
        bail!(error);
    }
    let info = inspect(&args.file)?;
    let zones = zones(&info);
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

/// The zones as a report would tell of them.
fn zones(info: &ImageInfo) -> Vec<Zone> {
    all_zones(info.geometry.as_ref(), &info.zones)
}

fn all_zones(geometry: Option<&Geometry>, states: &[Snapshot]) -> Vec<Zone> {
    let Some(geometry) = geometry else { return Vec::new() };
    geometry.zones().zip(states).map(|(id, state)| zone(geometry, id, *state)).collect()
}

fn zone(geometry: &Geometry, id: ZoneId, state: Snapshot) -> Zone {
    let start = geometry.start(id);
    let condition = state.condition();
    let zone_type = geometry.zone_type(id);
    let has_pointer = zone_type != ZoneType::Conventional
        && (condition == Condition::Empty || condition.is_active());
    Zone {
        number: id.0.into(),
        start,
        len: geometry.len(id),
        capacity: geometry.capacity(id),
        write_pointer: has_pointer.then(|| Sector(start.0.saturating_add(state.written().0))),
        condition,
        zone_type,
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    file: &'a std::path::Path,
    id: String,
    uuid: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(flatten)]
    disk: DiskJson,
    file_bytes: u64,
    allocated_bytes: u64,
    conditions: serde_json::Map<String, serde_json::Value>,
    zones: Vec<ZoneJson>,
}

impl<'a> Answer<'a> {
    fn new(args: &'a InfoArgs, info: &ImageInfo, zones: &[Zone]) -> Self {
        let spec = info.geometry.as_ref().map(Geometry::spec);
        let (state, pid) = match info.state {
            ImageState::InUse { pid } => ("in-use", Some(pid)),
            ImageState::Left(Recovery::Clean) => ("clean", None),
            ImageState::Left(Recovery::ProcessDied) => ("process-died", None),
            ImageState::Left(Recovery::HostDied) => ("host-died", None),
            ImageState::Left(Recovery::SyncFailed) => ("sync-failed", None),
            _ => ("unknown", None),
        };
        Self {
            file: &args.file,
            id: id_text(&info.id),
            uuid: uuid_text(&info.uuid),
            state,
            pid,
            disk: DiskJson {
                capacity: info.capacity.0,
                block_size: info.block_size,
                read_only: false,
                model: spec.map_or(DiskJson::PLAIN, |spec| model_name(spec.model)),
                zoned: spec.map(ZonedJson::of),
            },
            file_bytes: info.file_bytes,
            allocated_bytes: info.used_bytes,
            conditions: conditions(zones),
            zones: zones.iter().map(ZoneJson::from).collect(),
        }
    }
}

/// How many zones are in each condition.
fn conditions(zones: &[Zone]) -> serde_json::Map<String, serde_json::Value> {
    let named = |(condition, n): (Condition, usize)| {
        (condition_name(condition).to_owned(), serde_json::Value::from(n))
    };
    counts(zones).into_iter().map(named).collect()
}

fn table(args: &InfoArgs, info: &ImageInfo, zones: &[Zone]) -> String {
    let mut rows = vec![
        ("file", args.file.display().to_string()),
        ("state", state_text(info.state)),
        ("id", id_text(&info.id)),
        ("uuid", uuid_text(&info.uuid)),
        ("size", Size::of(info.capacity).to_string()),
        ("takes", format!("{} of {}", Size(info.used_bytes), Size(info.file_bytes))),
        ("block size", Size(info.block_size.into()).to_string()),
    ];
    rows.extend(geometry_rows(info.geometry.as_ref(), zones));
    aligned(rows)
}

/// What there is to say of zones.
fn geometry_rows(geometry: Option<&Geometry>, zones: &[Zone]) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    if let Some(spec) = geometry.map(Geometry::spec) {
        let limit = |n: u32| if n == 0 { "no limit".to_owned() } else { n.to_string() };
        rows.push(("model", model_name(spec.model).to_owned()));
        rows.push(("zone size", Size::of(spec.zone_size).to_string()));
        rows.push(("zone capacity", Size::of(spec.zone_capacity).to_string()));
        rows.push(("max open", limit(spec.max_open)));
        rows.push(("max active", limit(spec.max_active)));
        rows.push(("max append", Size::of(spec.max_append).to_string()));
        rows.push(("zones", format!("{}: {}", zones.len(), counts_line(zones))));
    } else {
        rows.push(("model", "none: a plain disk without zones".to_owned()));
    }
    rows
}

fn aligned(rows: Vec<(&str, String)>) -> String {
    rows.into_iter().map(|(name, value)| format!("{name:<14} {value}\n")).collect()
}

fn state_text(state: ImageState) -> String {
    match state {
        ImageState::InUse { pid } => format!("in use by process {pid}"),
        ImageState::Left(recovery) => recovered(&recovery).to_owned(),
        _ => "unknown".to_owned(),
    }
}

/// A disk's name without its padding; what does not print shown as escapes.
pub(super) fn id_text(id: &[u8; 20]) -> String {
    let name = id.split(|byte| *byte == 0).next().unwrap_or_default();
    name.escape_ascii().to_string()
}

fn uuid_text(uuid: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (i, byte) in uuid.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_print() {
        assert_eq!(id_text(b"zvb-1234\0\0\0\0\0\0\0\0\0\0\0\0"), "zvb-1234");
        assert_eq!(id_text(b"\x1b[31m\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"), "\\x1b[31m");
        assert_eq!(
            uuid_text(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255]),
            "00010203-0405-0607-0809-0a0b0c0d0eff"
        );
    }
}
