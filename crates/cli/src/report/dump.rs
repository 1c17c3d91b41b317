//! The table of zones as `zvb dump` writes it, of an image or of a disk that is served.

use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use zvb_storage::{ImageInfo, Shape};
use zvb_wire::Sector;
use zvb_zones::{Geometry, Snapshot};

use super::json::{DiskJson, ZonedJson};
use super::{condition_name, model_name, type_name};

/// A disk and the states of its zones.
#[derive(Serialize)]
pub(crate) struct Dump<'a> {
    #[serde(flatten)]
    disk: DiskJson,
    zones: Zones<'a>,
}

/// Written one by one: there may be millions.
struct Zones<'a> {
    geometry: Option<Geometry>,
    states: &'a [Snapshot],
}

/// One zone. Lengths in 512-byte sectors.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct DumpedZone<'a> {
    zone: u32,
    start: u64,
    len: u64,
    cap: u64,
    written: u64,
    cond: &'a str,
    r#type: &'a str,
}

impl<'a> Dump<'a> {
    /// Of an image.
    pub(crate) fn of_image(info: &'a ImageInfo) -> Self {
        Self::new(info.capacity, info.block_size, false, info.geometry, &info.zones)
    }

    /// Of a disk that is served, its zones in `states`.
    pub(crate) fn of_volume(shape: &Shape, states: &'a [Snapshot]) -> Self {
        Self::new(shape.capacity, shape.block_size, shape.read_only, shape.geometry, states)
    }

    fn new(
        capacity: Sector,
        block_size: u32,
        read_only: bool,
        geometry: Option<Geometry>,
        states: &'a [Snapshot],
    ) -> Self {
        let spec = geometry.as_ref().map(Geometry::spec);
        let disk = DiskJson {
            capacity: capacity.0,
            block_size,
            read_only,
            model: spec.map_or(DiskJson::PLAIN, |spec| model_name(spec.model)),
            zoned: spec.map(ZonedJson::of),
        };
        Self { disk, zones: Zones { geometry, states } }
    }
}

impl Serialize for Zones<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let dumped = self.geometry.iter().flat_map(|geometry| {
            geometry.zones().zip(self.states).map(|(zone, state)| DumpedZone {
                zone: zone.0,
                start: geometry.start(zone).0,
                len: geometry.len(zone).0,
                cap: geometry.capacity(zone).0,
                written: state.written().0,
                cond: condition_name(state.condition()),
                r#type: type_name(geometry.zone_type(zone)),
            })
        });
        serializer.collect_seq(dumped)
    }
}
