//! What the kernel shows of a device on its vdpa bus, under `/sys`.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use zvb_wire::DeviceStatus;

/// A device on the vdpa bus.
#[derive(Clone, Debug)]
pub(crate) struct BusDevice(PathBuf);

/// How far a driver has come with a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    /// It is not on the bus.
    Absent,
    /// Nobody makes a virtio device of it.
    NoVirtio,
    /// No driver has taken the virtio device.
    NoDriver,
    /// A driver has taken it, and there is no disk yet.
    NoDisk,
    /// The name of the disk.
    Disk(String),
}

impl BusDevice {
    pub(crate) fn new(name: &str) -> Self {
        Self(Path::new("/sys/bus/vdpa/devices").join(name))
    }

    #[cfg(test)]
    fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    pub(crate) fn exists(&self) -> bool {
        self.0.exists()
    }

    pub(crate) fn progress(&self) -> Progress {
        if !self.exists() {
            return Progress::Absent;
        }
        let Some(virtio) = self.virtio() else { return Progress::NoVirtio };
        if !virtio.join("driver").exists() {
            return Progress::NoDriver;
        }
        match first(&virtio.join("block"), |_| true) {
            Some(disk) => {
                let name = disk.file_name().unwrap_or_default().to_string_lossy().into_owned();
                Progress::Disk(name)
            }
            None => Progress::NoDisk,
        }
    }

    /// The status that the driver has set.
    pub(crate) fn status(&self) -> Option<DeviceStatus> {
        let text = fs::read_to_string(self.virtio()?.join("status")).ok()?;
        let digits = text.trim().trim_start_matches("0x");
        u8::from_str_radix(digits, 16).ok().map(DeviceStatus::from_bits_retain)
    }

    /// Its virtio device.
    fn virtio(&self) -> Option<PathBuf> {
        first(&self.0, |name| {
            name.strip_prefix("virtio")
                .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        })
    }
}

/// An entry of `folder` with a name that is wanted.
fn first(folder: &Path, wanted: impl Fn(&str) -> bool) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?;
    entries.flatten().find(|entry| wanted(&entry.file_name().to_string_lossy())).map(|e| e.path())
}

/// True when somebody has a block device for himself: a mounted file system, swap, another device on top.
/// (Who merely has it open is not seen.)
pub fn is_in_use(disk: &Path) -> io::Result<bool> {
    let exclusive = libc::O_EXCL | libc::O_NONBLOCK | libc::O_CLOEXEC;
    match OpenOptions::new().read(true).custom_flags(exclusive).open(disk) {
        Ok(_) => Ok(false),
        Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => Ok(true),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_followed_to_its_disk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let device = BusDevice::at(&path);
        assert_eq!(device.progress(), Progress::Absent);
        fs::create_dir_all(path.join("virtiofs-like")).unwrap();
        assert_eq!(device.progress(), Progress::NoVirtio);
        let virtio = path.join("virtio12");
        fs::create_dir_all(&virtio).unwrap();
        assert_eq!(device.progress(), Progress::NoDriver);
        assert_eq!(device.status(), None);
        fs::write(virtio.join("status"), "0x00000080\n").unwrap();
        assert_eq!(device.status(), Some(DeviceStatus::FAILED));
        fs::create_dir(virtio.join("driver")).unwrap();
        assert_eq!(device.progress(), Progress::NoDisk);
        fs::create_dir_all(virtio.join("block/vdb")).unwrap();
        assert_eq!(device.progress(), Progress::Disk("vdb".into()));
    }
}
