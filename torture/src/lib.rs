//! Servers that are killed at any instant, under load, over and over.
//!
//! - [`server`] is `zvb serve` in a process of its own, and who ends it, and when.
//! - [`guest`] works on its disk over vhost-user, on several zones and queues at a time, and keeps the
//!   simulator's ledger of what was asked and answered. [`crowd`] is what it can not know while it works:
//!   in which order appends from several queues go into one zone.
//! - [`play`] plays a seed: a disk, and a number of rounds. In each a server is started, everything that
//!   was acknowledged before is looked for, there is a load, and the server dies.
//!
//! A seed decides what is asked and when the end comes, but not what the machine makes of it: a failure is
//! found again by playing its seed a few times.
#![deny(unsafe_code)]

pub mod crowd;
pub mod guest;
pub mod play;
pub mod server;

pub use play::{Failure, Play, Stats, run};
