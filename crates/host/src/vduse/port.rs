//! The kernel's end of a VDUSE device: what the session asks of it. A trait, so that the session can be
//! tried without a kernel that has one.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::io::Errno;
use zerocopy::{FromZeros, IntoBytes};

use super::abi::{self, IotlbEntry, QueueEvent, QueueInfo, QueueSetup, RawRequest, RawResponse};
use crate::sys::vduse as sys;

/// One device in the kernel. Callable from any thread.
pub(crate) trait Port: Send + Sync {
    /// Readable when there is something to [`receive`](Self::receive).
    fn as_fd(&self) -> BorrowedFd<'_>;

    /// The next request, if there is one. Never waits.
    fn receive(&self) -> io::Result<Option<RawRequest>>;

    fn answer(&self, response: &RawResponse) -> io::Result<()>;

    /// What the driver accepts.
    fn features(&self) -> io::Result<u64>;

    /// Changes the configuration space from its beginning on.
    fn set_config(&self, bytes: &[u8]) -> io::Result<()>;

    /// Tells the driver that the configuration space has changed.
    fn announce_config(&self) -> io::Result<()>;

    fn queue(&self, index: u32) -> io::Result<QueueInfo>;

    /// What the kernel signals when the queue is kicked; `None`: nothing.
    fn set_kick(&self, index: u32, event: Option<BorrowedFd<'_>>) -> io::Result<()>;

    /// Tells the driver that chains of a queue were answered.
    fn call(&self, index: u32) -> io::Result<()>;

    /// What lies at the first address of `first..=last` where something does.
    fn region(&self, first: u64, last: u64) -> io::Result<Option<(IotlbEntry, OwnedFd)>>;
}

/// A device file, `/dev/vduse/NAME`.
pub(crate) struct KernelPort(File);

impl KernelPort {
    /// Opens a device, which one process can at a time.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        Ok(Self(options.open(path)?))
    }

    /// Says how long a queue may be; all must have been told before a driver can come.
    pub(crate) fn set_up(&self, index: u16, max_size: u16) -> io::Result<()> {
        let mut setup = QueueSetup { index: index.into(), max_size, ..QueueSetup::default() };
        sys::exchange(self.0.as_fd(), abi::VQ_SETUP, &mut setup)
    }
}

impl Port for KernelPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn receive(&self) -> io::Result<Option<RawRequest>> {
        let mut request = RawRequest::new_zeroed();
        match rustix::io::read(&self.0, request.as_mut_bytes()) {
            Ok(bytes) if bytes == size_of::<RawRequest>() => Ok(Some(request)),
            Ok(_) => Err(io::ErrorKind::InvalidData.into()),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn answer(&self, response: &RawResponse) -> io::Result<()> {
        match rustix::io::write(&self.0, response.as_bytes()) {
            Ok(_) => Ok(()),
            // The kernel has waited too long, and has given up.
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn features(&self) -> io::Result<u64> {
        let mut features = 0u64;
        sys::exchange(self.0.as_fd(), abi::DEV_GET_FEATURES, &mut features)?;
        Ok(features)
    }

    fn set_config(&self, bytes: &[u8]) -> io::Result<()> {
        sys::set_config(self.0.as_fd(), bytes)
    }

    fn announce_config(&self) -> io::Result<()> {
        sys::command(self.0.as_fd(), abi::DEV_INJECT_CONFIG_IRQ)
    }

    fn queue(&self, index: u32) -> io::Result<QueueInfo> {
        let mut info = QueueInfo { index, ..QueueInfo::default() };
        sys::exchange(self.0.as_fd(), abi::VQ_GET_INFO, &mut info)?;
        Ok(info)
    }

    fn set_kick(&self, index: u32, event: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let fd = event.map_or(abi::NO_EVENTFD, |event| event.as_raw_fd());
        sys::exchange(self.0.as_fd(), abi::VQ_SETUP_KICKFD, &mut QueueEvent { index, fd })
    }

    fn call(&self, index: u32) -> io::Result<()> {
        let mut index = index;
        sys::exchange(self.0.as_fd(), abi::VQ_INJECT_IRQ, &mut index)
    }

    fn region(&self, first: u64, last: u64) -> io::Result<Option<(IotlbEntry, OwnedFd)>> {
        let mut entry = IotlbEntry { start: first, last, ..IotlbEntry::default() };
        let file = sys::iotlb_file(self.0.as_fd(), &mut entry)?;
        Ok(file.map(|file| (entry, file)))
    }
}

/// `/dev/vduse/control`, where devices are made and destroyed.
pub(crate) struct Control(File);

impl Control {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut version = abi::API_VERSION;
        sys::exchange(file.as_fd(), abi::SET_API_VERSION, &mut version)?;
        Ok(Self(file))
    }

    /// Makes a block device with `queues` queues; there must be none of this name.
    pub(crate) fn create(
        &self,
        name: &str,
        features: u64,
        queues: u16,
        config: &[u8],
    ) -> io::Result<()> {
        let header = abi::DeviceConfig {
            name: name_bytes(name)?,
            vendor_id: 0,
            device_id: abi::VIRTIO_ID_BLOCK,
            features,
            vq_num: queues.into(),
            // No page is larger, and the kernel takes no more than one.
            vq_align: rustix::param::page_size() as u32,
            reserved: [0; 13],
            config_size: 0,
        };
        sys::create(self.0.as_fd(), header, config)
    }

    /// Destroys a device that no process has open and that is not on the kernel's vdpa bus.
    pub(crate) fn destroy(&self, name: &str) -> io::Result<()> {
        let mut name = name_bytes(name)?;
        sys::exchange(self.0.as_fd(), abi::DESTROY_DEV, &mut name)
    }
}

/// `name` with NULs behind it, at least one.
fn name_bytes(name: &str) -> io::Result<[u8; abi::NAME_BYTES]> {
    let mut bytes = [0; abi::NAME_BYTES];
    match bytes.get_mut(..name.len()) {
        Some(front) if name.len() < abi::NAME_BYTES => {
            front.copy_from_slice(name.as_bytes());
            Ok(bytes)
        }
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}
