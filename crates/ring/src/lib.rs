//! Virtqueues, both ends, over a small guest-memory trait (virtio 2.6, 2.7).
//!
//! - [`DeviceQueue`] is the device's end of a split virtqueue: it pops chains as [`Buffers`] in
//!   [`GuestMemory`], and answers each once.
//! - [`DriverQueue`] is the driver's end: it adds chains of buffers and takes the answers.
//! - [`notification`] is when one end must wake the other: the same rules for both, model-checked.
//!
//! Neither end trusts the other. Each word of a ring is read once, and judged by the copy; every walk has
//! an end; what breaks the rules is a typed error that stays ([`RingError`], [`DeviceLie`]).
//!
//! # Limits
//!
//! A chain has at most as many descriptors as the queue (virtio 2.7.5.3.1). Guests do not keep to that in
//! indirect tables, whose length they take from the device's `seg_max`: a chain that ends in a table may
//! have 1024, or the queue size if that is more. All chains in flight in one queue may scatter over at
//! most 1024 times as many pieces of memory.
#![no_std]
// UNSAFETY: a ring is memory that two parties share; this crate is where it becomes safe to use.
#![expect(unsafe_code)]

extern crate alloc;

mod device;
mod driver;
mod error;
mod layout;
mod memory;
pub mod notification;

pub use device::{Chain, DeviceQueue, Head, Ledger, QueueConfig, Unanswered};
pub use driver::{DriverConfig, DriverQueue, IndirectTables, SharedArea, Used, tables_len};
pub use error::{AddError, DeviceLie, Part, RingError, SetupError};
pub use layout::{MAX_SIZE, RingLayout, layout};
pub use memory::{Buffers, GuestMemory, HeapMemory, OutOfRange, Segment};
