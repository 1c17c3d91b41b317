//! Virtqueues, both ends, over a small guest-memory trait (virtio 2.6, 2.7).
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

pub use device::{Chain, DeviceQueue, Head, QueueConfig};
pub use driver::{DriverConfig, DriverQueue, IndirectTables, SharedArea, Used, tables_len};
pub use error::{AddError, DeviceLie, Part, RingError, SetupError};
pub use layout::{MAX_SIZE, RingLayout, layout};
pub use memory::{Buffers, GuestMemory, HeapMemory, OutOfRange, Segment};
