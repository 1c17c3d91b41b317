//! Virtqueues, both ends, over a small guest-memory trait (virtio 2.6, 2.7).
#![no_std]
// UNSAFETY: a ring is memory that two parties share; this crate is where it becomes safe to use.
#![expect(unsafe_code)]

extern crate alloc;

mod memory;

pub use memory::{Buffers, GuestMemory, HeapMemory, OutOfRange, Segment};
