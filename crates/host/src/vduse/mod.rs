//! A device as a disk of this host, through VDUSE: the running kernel's own virtio driver takes it, and no
//! VM is there.
//!
//! The kernel's `vduse` module has a device file for each device, made through a control file. It asks
//! questions there (a new status, the state of a queue), says where the queues are, and gives out the
//! driver's memory by address. What a request is made of is the same as everywhere; workers and the device do
//! not know the difference.

pub(crate) mod abi;
mod attach;
mod iotlb;
mod ledger;
mod netlink;
mod outside;
mod port;
mod session;
mod sysfs;
#[cfg(test)]
mod tests;

pub use abi::REQUESTS;
pub use attach::{
    AttachError, AttachOptions, Attachment, Outcome, TRANSPORT, check, delete, exists,
};
pub use netlink::BusError;
pub use outside::Outside;
pub use session::TakeOverError;
pub use sysfs::is_in_use;

pub(crate) use iotlb::IotlbView;
pub(crate) use ledger::QueueLedger;
