//! What sysfs says of a block device.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A block device's properties, in bytes where nothing else is said.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Attributes {
    /// The kernel's name of it.
    pub(super) name: String,
    /// "none", "host-managed" or "host-aware".
    pub(super) zoned: String,
    /// Size in 512-byte sectors.
    pub(super) sectors: u64,
    /// Logical block size.
    pub(super) block_size: u32,
    /// What writes to sequential zones are a multiple of.
    pub(super) write_granularity: u32,
    pub(super) max_open: u32,
    pub(super) max_active: u32,
    /// The most that one append, or where the disk has none one write, may have.
    pub(super) max_append_bytes: u64,
    /// The most that one append may have; 0 when the kernel knows of no such limit.
    pub(super) append_bytes: u64,
    /// The most that one command may have, and in how many pieces.
    pub(super) command_bytes: u64,
    pub(super) command_segments: u64,
    /// The most that one discard may have; 0 when there is none.
    pub(super) discard_bytes: u64,
    /// It can not be written.
    pub(super) read_only: bool,
    /// A serial number, where it has one.
    pub(super) serial: Option<String>,
    /// It is a part of a disk.
    pub(super) partition: bool,
}

/// What can not be read of a device.
#[derive(Debug)]
pub(super) struct Unreadable {
    pub(super) path: PathBuf,
    pub(super) source: io::Error,
}

impl Attributes {
    /// Those of the device in `folder`, its place in sysfs.
    pub(super) fn read(folder: &Path) -> Result<Self, Unreadable> {
        if folder.join("partition").exists() {
            return Ok(Self { partition: true, ..Self::default() });
        }
        let number = |name: &str| number(&folder.join(name));
        // Not every kernel has every one of these.
        let perhaps = |name: &str| number(name).unwrap_or(0);
        let fits = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let block_size = number("queue/logical_block_size")?;
        let granularity = perhaps("queue/zone_write_granularity");
        let append = perhaps("queue/zone_append_max_bytes");
        let write = perhaps("queue/max_sectors_kb").saturating_mul(1024);
        Ok(Self {
            name: name_of(folder),
            zoned: text(&folder.join("queue/zoned")).unwrap_or_else(|_| "none".to_owned()),
            sectors: number("size")?,
            block_size: fits(block_size),
            write_granularity: fits(granularity.max(block_size)),
            max_open: fits(perhaps("queue/max_open_zones")),
            max_active: fits(perhaps("queue/max_active_zones")),
            max_append_bytes: if append == 0 { write } else { append },
            append_bytes: append,
            command_bytes: perhaps("queue/max_hw_sectors_kb").saturating_mul(1024),
            command_segments: perhaps("queue/max_segments"),
            discard_bytes: perhaps("queue/discard_max_bytes"),
            read_only: perhaps("ro") != 0,
            serial: ["serial", "device/serial"]
                .iter()
                .find_map(|name| text(&folder.join(name)).ok())
                .filter(|serial| !serial.is_empty()),
            partition: false,
        })
    }

    /// Twenty bytes that name the disk to a guest.
    pub(super) fn id(&self) -> [u8; 20] {
        let name = self.serial.as_ref().unwrap_or(&self.name);
        let mut id = [0; 20];
        let printable = name.bytes().filter(|byte| byte.is_ascii_graphic() || *byte == b' ');
        for (place, byte) in id.iter_mut().zip(printable) {
            *place = byte;
        }
        id
    }
}

/// The name that the kernel has for the device in `folder`, which may be a link to it.
fn name_of(folder: &Path) -> String {
    let place = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    place.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn text(path: &Path) -> Result<String, Unreadable> {
    let read = fs::read_to_string(path);
    let read = read.map_err(|source| Unreadable { path: path.to_owned(), source })?;
    Ok(read.trim().to_owned())
}

fn number(path: &Path) -> Result<u64, Unreadable> {
    text(path)?.parse().map_err(|_| Unreadable {
        path: path.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidData, "not a number"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(entries: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, value) in entries {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, value).unwrap();
        }
        folder
    }

    #[test]
    fn what_is_there_is_read_and_the_rest_has_a_meaning() {
        let folder = device(&[
            ("size", "524288\n"),
            ("ro", "0\n"),
            ("queue/zoned", "host-managed\n"),
            ("queue/logical_block_size", "512\n"),
            ("queue/zone_write_granularity", "4096\n"),
            ("queue/max_open_zones", "14\n"),
            ("queue/max_active_zones", "28\n"),
            ("queue/zone_append_max_bytes", "0\n"),
            ("queue/max_sectors_kb", "1280\n"),
            ("queue/discard_max_bytes", "0\n"),
            ("device/serial", "  S123 \n"),
        ]);
        let a = Attributes::read(folder.path()).unwrap();
        assert_eq!((a.sectors, a.block_size, a.write_granularity), (524_288, 512, 4096));
        assert_eq!((a.max_open, a.max_active, a.max_append_bytes), (14, 28, 1280 << 10));
        assert_eq!((a.zoned.as_str(), a.read_only, a.partition), ("host-managed", false, false));
        assert_eq!(&a.id(), b"S123\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");

        let old = device(&[("size", "8"), ("queue/logical_block_size", "4096")]);
        let a = Attributes::read(old.path()).unwrap();
        assert_eq!((a.zoned.as_str(), a.write_granularity, a.max_open), ("none", 4096, 0));
    }

    #[test]
    fn what_is_missing_or_no_number_is_named() {
        let folder = device(&[("size", "many"), ("queue/logical_block_size", "512")]);
        let error = Attributes::read(folder.path()).unwrap_err();
        assert!(error.path.ends_with("size"));
        assert_eq!(error.source.kind(), io::ErrorKind::InvalidData);
        let error = Attributes::read(&folder.path().join("nothing")).unwrap_err();
        assert!(error.path.ends_with("logical_block_size"));
        let part = device(&[("partition", "1")]);
        assert!(Attributes::read(part.path()).unwrap().partition);
    }
}
