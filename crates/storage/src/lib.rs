//! What a device is made of: an image file, memory, a host's zoned block device; and the engines that
//! move bytes between them and guest memory.
//!
//! A [`Volume`] is what a device sees. [`Image`] and [`Memory`] are volumes over a [`Medium`], which is
//! what bytes lie on: a file, memory, or whatever a test needs. `docs/format.md` has the image format.

mod committer;
mod engine;
mod file;
mod grain;
mod grow;
mod growing;
mod host;
mod image;
mod layout;
mod medium;
mod memory;
mod promise;
mod slots;
mod store;
// UNSAFETY: system calls on guest memory, memory mappings, io_uring.
#[expect(unsafe_code)]
mod sys;
mod table;
mod volume;

pub use engine::{EngineKind, UnknownEngine};
pub use growing::Growing;
pub use host::{
    AppendKind, HOST_REQUESTS, HostDisk, HostError, HostInfo, HostLayoutError, HostOptions,
    NativeError, UnknownAppend, block_device_of, inspect_host, is_block_device,
};
pub use image::{
    BadSuperblock, CheckOptions, CheckReport, CloneError, CloneOptions, Cloned, CommitBy,
    CreateError, CreateOptions, FileError, Finding, Image, ImageInfo, ImageState, LoadError,
    OpenError, OpenOptions, Problem, Progress, Recovery, Refusal, Repair, RepairError,
    RepairReport, ResizeError, Severity, ZoneState, ZoneTable, check, check_on, dump, inspect,
    is_boot_known, load, repair, repair_on, resize,
};
pub use medium::{Direct, Mapped, Medium, MediumFile};
pub use memory::{Memory, MemoryError};
pub use sys::{Access, GuardedMapping};
pub use table::RecordError;
pub use volume::{
    Command, Done, Engine, EngineError, Failure, GrowError, Io, Op, Shape, Volume, VolumeError,
};
