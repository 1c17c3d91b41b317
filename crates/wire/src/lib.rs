//! Every byte that crosses the ring of a (zoned) virtio block device.
//!
//! This crate knows the shapes and the numbers of the virtio specification, section "Block Device"
//! (5.2), and nothing of what they are used for. Integers on the wire are little-endian *types*
//! ([`zerocopy::little_endian`]); every size and offset is asserted at compile time.
//!
//! Values that a peer supplies are open: a [`RequestType`], a [`Status`] or a zone's state byte holds
//! whatever came, and becomes a closed enum only through a conversion that can refuse.
#![no_std]
#![forbid(unsafe_code)]

mod config;
mod feature;
mod request;
mod unit;
mod zone;

pub use config::{Config, ConfigField, Geometry, Topology, ZonedCharacteristics};
pub use feature::Features;
pub use request::{
    AppendInHeader, DISCARD_FLAG_UNMAP, DeviceStatus, DiscardSegment, ID_BYTES, Lifetime,
    RequestHeader, RequestType, Status,
};
pub use unit::{SECTOR_BYTES, Sector};
pub use zerocopy;
pub use zone::{Condition, Model, UnknownValue, ZoneDescriptor, ZoneReportHeader, ZoneType};
