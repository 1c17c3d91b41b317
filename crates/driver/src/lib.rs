//! The guest side of a (zoned) virtio block device: probe, validate, submit and poll.
//!
//! [`Disk::probe`] takes a device from reset to DRIVER_OK over any [`Transport`], with any [`Dma`] memory.
//! The device is not trusted: its configuration, its rings and its answers are checked, each kind of lie
//! has a name ([`ConfigError`], [`Fault`], [`Lie`]), and what the driver decides by is its own copy.
//!
//! Without ZONED a device is a plain disk, and driven as such.
#![no_std]

extern crate alloc;

mod blocking;
pub mod bus;
mod check;
mod disk;
mod dma;
mod error;
mod info;
mod map;
#[cfg(feature = "mmio")]
pub mod mmio;
#[cfg(feature = "pci")]
pub mod pci;
mod probe;
mod request;
mod ring;
mod state;
mod transport;
mod zone;

pub use disk::{Disk, Queue};
pub use dma::{Buffer, NoMemory};
pub use error::{ConfigError, Error, Fault, Invalid, Lie, ProbeError, RequestError, SubmitError};
pub use info::{Checks, HostAware, Info, Options, RangeLimits, ZonedInfo};
pub use request::{Answer, Completion, Rejected, Request, SectorRange, Token};
pub use transport::{Dma, DmaRegion, QueueLayout, Transport};
pub use zone::Zone;
pub use zvb_ring::DeviceLie;
pub use zvb_wire::{
    Condition, Features, Lifetime, Model, RequestType, SECTOR_BYTES, Sector, Status, ZoneType,
};
