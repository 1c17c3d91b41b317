//! `zvb create`.

use rustix::io::Errno;
use serde::Serialize;
use zvb_storage::{CreateError, CreateOptions, Image};

use crate::args::CreateArgs;
use crate::output;
use crate::report::json::{DiskJson, ZonedJson};
use crate::report::model_name;
use crate::shape::Shape;
use crate::size::Size;

#[derive(Serialize)]
struct Answer<'a> {
    file: &'a std::path::Path,
    #[serde(flatten)]
    disk: DiskJson,
}

pub(super) fn run(args: &CreateArgs) -> anyhow::Result<()> {
    let shape = args.shape.shape(args.size)?;
    let options = CreateOptions {
        capacity: shape.capacity,
        block_size: shape.block_size,
        zones: shape.zones,
        id: None,
        uuid: None,
        force: args.force,
    };
    let file = args.file.as_path();
    Image::create(file, &options).map_err(|error| match error {
        CreateError::Exists(_) => {
            let text = format!("{error}; use another name, or --force to replace it");
            anyhow::Error::new(error).context(text)
        }
        CreateError::Io { ref source, .. } if Errno::from_io_error(source) == Some(Errno::FBIG) => {
            let size = args.size;
            let text = format!(
                "{error}: its file system takes no file of {size}; use a smaller --size, or another file \
                 system"
            );
            anyhow::Error::new(error).context(text)
        }
        other => other.into(),
    })?;
    if args.output.json {
        return output::json(&Answer { file, disk: describe(&shape) });
    }
    if !args.output.quiet {
        output::say(format_args!("{}: {}", file.display(), summary(&shape)))?;
    }
    Ok(())
}

fn describe(shape: &Shape) -> DiskJson {
    DiskJson {
        capacity: shape.capacity.0,
        block_size: shape.block_size,
        read_only: false,
        model: shape.zones.map_or(DiskJson::PLAIN, |spec| model_name(spec.model)),
        zoned: shape.zones.as_ref().map(ZonedJson::of),
    }
}

/// `64 GiB, host-managed, 256 zones of 256 MiB, ...`
pub(super) fn summary(shape: &Shape) -> String {
    let size = Size::of(shape.capacity);
    let block = Size(shape.block_size.into());
    let Some(spec) = &shape.zones else {
        return format!("{size}, a plain disk without zones, blocks of {block}");
    };
    let count = ZonedJson::of(spec).zone_count;
    let mut text = format!(
        "{size}, {}, {count} {} of {}",
        model_name(spec.model),
        if count == 1 { "zone" } else { "zones" },
        Size::of(spec.zone_size)
    );
    if spec.zone_capacity != spec.zone_size {
        text.push_str(&format!(" with a capacity of {}", Size::of(spec.zone_capacity)));
    }
    if spec.conventional > 0 {
        text.push_str(&format!(", {} of them conventional", spec.conventional));
    }
    if spec.max_open > 0 {
        text.push_str(&format!(", at most {} open", spec.max_open));
    }
    if spec.max_active > 0 {
        text.push_str(&format!(", at most {} active", spec.max_active));
    }
    text.push_str(&format!(", blocks of {block}"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use zvb_wire::{Model, Sector};
    use zvb_zones::GeometrySpec;

    #[test]
    fn a_summary_says_what_matters() {
        let plain = Shape { capacity: Sector(2048), block_size: 512, zones: None };
        assert_eq!(summary(&plain), "1 MiB, a plain disk without zones, blocks of 512 B");
        let zones = GeometrySpec {
            model: Model::HostManaged,
            capacity: Sector(2048),
            zone_size: Sector(256),
            zone_capacity: Sector(128),
            conventional: 1,
            max_open: 2,
            max_active: 3,
            max_append: Sector(8),
            write_granularity: 4096,
        };
        let shape = Shape { capacity: Sector(2048), block_size: 4096, zones: Some(zones) };
        assert_eq!(
            summary(&shape),
            "1 MiB, host-managed, 8 zones of 128 KiB with a capacity of 64 KiB, 1 of them conventional, at most 2 open, at most 3 active, blocks of 4 KiB"
        );
    }
}
