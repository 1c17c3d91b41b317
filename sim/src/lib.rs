//! Power losses and errors of the medium, simulated: driver, ring, device and storage on one thread, over
//! a disk in memory, under one seed.
//!
//! - [`medium`] is the disk: what was not synced may be lost in any part, torn between sectors, and
//!   reordered; the mapped words of the zone table may have been written back at any moment, and while
//!   they were stored to. It can fail, and it can be told to do wrong.
//! - [`volume`] does what engines are asked for in any order; [`machine`] is the device and the way to it.
//! - [`load`] is what a guest asks for; [`ledger`] is the oracle. It knows what was asked and answered, and what an image promises.
//! - [`run()`](run()) plays a seed: a guest works, all ends, and what is left is looked at, again and again.
#![deny(unsafe_code)]

pub mod bytes;
pub mod content;
pub mod guest;
pub mod ledger;
pub mod load;
pub mod machine;
pub mod medium;
pub mod memory;
pub mod rig;
pub mod rng;
pub mod run;
pub mod setup;
pub mod volume;

pub use medium::{Errors, Mutation};
pub use run::{Failure, Play, Stats, run};
