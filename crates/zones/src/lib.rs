//! The rules of zones, pure: no clock, no lock, no I/O (virtio 5.2.6.2, ZBC, ZNS).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod geometry;
mod snapshot;

pub use geometry::{Geometry, GeometryError, GeometrySpec, ZoneId};
pub use snapshot::{Snapshot, SnapshotError};
