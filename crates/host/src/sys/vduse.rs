//! The ioctls of VDUSE. Each takes what its number says that it takes, so a caller can not go wrong.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::ioctl::Opcode;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::vduse::abi;

/// Bytes of an argument that the number of an ioctl speaks of.
fn argument_bytes(opcode: Opcode) -> usize {
    (opcode as usize >> 16) & 0x1fff
}

/// Calls `opcode` with `argument`, which the kernel reads, fills in, or both.
fn call(fd: BorrowedFd<'_>, opcode: Opcode, argument: &mut [u8]) -> io::Result<i32> {
    assert!(argument.len() >= argument_bytes(opcode), "an ioctl with too short an argument");
    // SAFETY: the kernel touches as many bytes of the argument as its number says, which are there; the two
    // that go on behind it say how far, and go through `call_with_tail`.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), opcode as _, argument.as_mut_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Calls `opcode`, which has a structure of plain numbers as its argument.
pub(crate) fn exchange<T: FromBytes + IntoBytes + Immutable>(
    fd: BorrowedFd<'_>,
    opcode: Opcode,
    argument: &mut T,
) -> io::Result<()> {
    assert_eq!(argument_bytes(opcode), size_of::<T>(), "an ioctl with another's argument");
    assert!(!HAS_TAIL.contains(&opcode), "more is read than the argument");
    call(fd, opcode, argument.as_mut_bytes()).map(|_| ())
}

/// Calls `opcode`, which has no argument.
pub(crate) fn command(fd: BorrowedFd<'_>, opcode: Opcode) -> io::Result<()> {
    call(fd, opcode, &mut []).map(|_| ())
}

/// The ioctls that read bytes behind their structure.
const HAS_TAIL: [Opcode; 2] = [abi::CREATE_DEV, abi::DEV_SET_CONFIG];

/// Makes a device with `space` as its configuration space.
pub(crate) fn create(
    control: BorrowedFd<'_>,
    config: abi::DeviceConfig,
    space: &[u8],
) -> io::Result<()> {
    // A configuration space is less than a page.
    let config = abi::DeviceConfig { config_size: space.len() as u32, ..config };
    call_with_tail(control, abi::CREATE_DEV, config.as_bytes(), space)
}

/// Puts `bytes` into the configuration space, at its beginning.
pub(crate) fn set_config(device: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    let head = abi::ConfigData { offset: 0, length: bytes.len() as u32 };
    call_with_tail(device, abi::DEV_SET_CONFIG, head.as_bytes(), bytes)
}

/// `head` says that `tail` is behind it.
fn call_with_tail(fd: BorrowedFd<'_>, opcode: Opcode, head: &[u8], tail: &[u8]) -> io::Result<()> {
    call(fd, opcode, &mut [head, tail].concat()).map(|_| ())
}

/// The file that lies at the first address from `entry.start` to `entry.last` where something does; `entry`
/// then says where that is. `None` when there is nothing.
pub(crate) fn iotlb_file(
    device: BorrowedFd<'_>,
    entry: &mut abi::IotlbEntry,
) -> io::Result<Option<OwnedFd>> {
    match call(device.as_fd(), abi::IOTLB_GET_FD, entry.as_mut_bytes()) {
        // SAFETY: this ioctl returns a descriptor that it has just made for its caller alone.
        Ok(fd) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(None),
        Err(error) => Err(error),
    }
}

/// How the kernel refuses `opcode` to `fd`, which is no device of VDUSE.
#[cfg(test)]
pub(crate) fn refusal(fd: BorrowedFd<'_>, opcode: Opcode) -> Option<i32> {
    call(fd, opcode, &mut [0; 512]).err().and_then(|error| error.raw_os_error())
}
