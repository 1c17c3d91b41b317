//! A (zoned) virtio block device: one descriptor chain in, one status byte and one used entry out.
//!
//! - [`Device`] is the disk as every guest sees it: features, configuration, the table of zones over a
//!   [`Volume`](zvb_storage::Volume).
//! - [`Session`] is one guest's view of it, from feature negotiation to reset.
//! - [`Lane`] is one queue: it owns the queue and an I/O engine, and does its work in *turns* that never
//!   wait. Whoever drives it (a thread, a simulator) decides when.
//!
//! [`Device::resize`] makes the disk larger under all of them, [`Device::force_zones`] makes zones fail, and
//! [`Device::set_fault`] requests. [`Device::stats`] counts.
//!
//! A turn takes every chain that is there, decides what concerns zones under one short lock, starts all
//! I/O in one batch, and answers what is finished. The lock is never held across I/O.
#![forbid(unsafe_code)]

mod device;
mod faults;
mod force;
mod kind;
mod lane;
mod listener;
mod observer;
mod request;
mod resume;
mod session;
mod slot;
mod stats;
mod table;

pub use device::{Device, DeviceError, DeviceOptions, TransportFeatures};
pub use faults::{Fault, FaultError, FaultSpec, Faults, Harm};
pub use force::{ForceError, Forced};
pub use kind::{Kind, Kinds};
pub use lane::{Lane, LaneError, Turn};
pub use listener::ConfigListener;
pub use observer::{GuestFault, Observer, Silent};
pub use session::{ConfigError, FeatureRefusal, Session, Wake};
pub use stats::{KindStats, Stats};
