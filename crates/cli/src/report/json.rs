//! The JSON of a disk and its zones. All addresses and lengths in 512-byte sectors.

use serde::Serialize;
use zvb_zones::GeometrySpec;

use super::{Zone, condition_name, model_name, type_name};

/// What a disk says of itself.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub(crate) struct DiskJson {
    /// 512-byte sectors.
    pub(crate) capacity: u64,
    /// Bytes.
    pub(crate) block_size: u32,
    pub(crate) read_only: bool,
    pub(crate) model: &'static str,
    #[serde(flatten)]
    pub(crate) zoned: Option<ZonedJson>,
}

/// What a zoned disk says more. 512-byte sectors where nothing else is said; 0 is no limit.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub(crate) struct ZonedJson {
    pub(crate) zone_size: u64,
    pub(crate) zone_count: u64,
    pub(crate) max_open: u32,
    pub(crate) max_active: u32,
    /// 0 when there are no appends.
    pub(crate) max_append: u64,
    /// Bytes.
    pub(crate) write_granularity: u32,
}

impl ZonedJson {
    /// Of the geometry of an image.
    pub(crate) fn of(spec: &GeometrySpec) -> Self {
        Self {
            zone_size: spec.zone_size.0,
            zone_count: spec.capacity.0.div_ceil(spec.zone_size.0.max(1)),
            max_open: spec.max_open,
            max_active: spec.max_active,
            max_append: spec.max_append.0,
            write_granularity: spec.write_granularity,
        }
    }
}

impl DiskJson {
    /// The name of a plain disk's model.
    pub(crate) const PLAIN: &'static str = model_name(zvb_wire::Model::None);
}

/// One zone.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub(crate) struct ZoneJson {
    pub(crate) zone: u64,
    pub(crate) start: u64,
    pub(crate) len: u64,
    pub(crate) cap: u64,
    /// From the start of the disk; see [`Zone::pointer`] for zones that have none.
    pub(crate) wptr: u64,
    pub(crate) cond: &'static str,
    pub(crate) r#type: &'static str,
}

impl From<&Zone> for ZoneJson {
    fn from(zone: &Zone) -> Self {
        Self {
            zone: zone.number,
            start: zone.start.0,
            len: zone.len.0,
            cap: zone.capacity.0,
            wptr: zone.pointer().0,
            cond: condition_name(zone.condition),
            r#type: type_name(zone.zone_type),
        }
    }
}

/// `zvb report --json`.
#[derive(Serialize, Debug)]
pub(crate) struct ReportJson {
    #[serde(flatten)]
    pub(crate) disk: DiskJson,
    pub(crate) zones: Vec<ZoneJson>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples;

    #[test]
    fn a_report_has_the_names_that_users_rely_on() {
        let zones = samples::all();
        let report = ReportJson {
            disk: DiskJson {
                capacity: 0x40000,
                block_size: 4096,
                read_only: false,
                model: "host-managed",
                zoned: Some(ZonedJson {
                    zone_size: 0x8000,
                    zone_count: 8,
                    max_open: 2,
                    max_active: 0,
                    max_append: 1024,
                    write_granularity: 4096,
                }),
            },
            zones: zones.iter().skip(5).take(2).map(ZoneJson::from).collect(),
        };
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            concat!(
                r#"{"capacity":262144,"block_size":4096,"read_only":false,"model":"host-managed","#,
                r#""zone_size":32768,"zone_count":8,"max_open":2,"max_active":0,"max_append":1024,"#,
                r#""write_granularity":4096,"zones":["#,
                r#"{"zone":5,"start":163840,"len":32768,"cap":24576,"wptr":163840,"#,
                r#""cond":"read-only","type":"seq-write-required"},"#,
                r#"{"zone":6,"start":196608,"len":32768,"cap":24576,"wptr":229376,"#,
                r#""cond":"full","type":"seq-write-required"}]}"#
            )
        );
        let plain = DiskJson {
            capacity: 8,
            block_size: 512,
            read_only: true,
            model: DiskJson::PLAIN,
            zoned: None,
        };
        assert_eq!(
            serde_json::to_string(&plain).unwrap(),
            r#"{"capacity":8,"block_size":512,"read_only":true,"model":"none"}"#
        );
    }
}
