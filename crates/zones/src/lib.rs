//! The rules of zones, pure: no clock, no lock, no I/O (virtio 5.2.6.2, ZBC, ZNS).
//!
//! A [`Geometry`] says how a disk is divided, a [`Snapshot`] what state a zone is in, and [`Zones`] is the
//! table of them all, which decides what a request may do and what comes of it. [`check_read`] and
//! [`describe`] need no table: published snapshots are enough.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod command;
mod geometry;
mod grow;
mod line;
mod open;
mod read;
mod refusal;
mod restore;
mod slab;
mod snapshot;
mod table;
mod write;

pub use geometry::{Geometry, GeometryError, GeometrySpec, ZoneId};
pub use grow::GrowError;
pub use line::Ticket;
pub use read::{ReadPlan, check_read, describe};
pub use refusal::{Refusal, Refused};
pub use restore::RestoreError;
pub use snapshot::{Snapshot, SnapshotError};
pub use table::{Counts, Forced, Manage, Zones};
pub use write::{Begun, Outcome, Released, WriteId};
