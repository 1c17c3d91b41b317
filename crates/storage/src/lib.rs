//! What a device is made of: an image file, memory, a host's zoned block device; and the engines that
//! move bytes between them and guest memory.

mod volume;

pub use volume::{Done, Engine, EngineError, Failure, Io, Op, Shape, Volume, VolumeError};
