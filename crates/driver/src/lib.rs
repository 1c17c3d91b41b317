//! The guest side of a (zoned) virtio block device: probe, validate, submit and poll.
#![no_std]

extern crate alloc;

mod transport;

pub use transport::{Dma, DmaRegion, QueueLayout, Transport};
