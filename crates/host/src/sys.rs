//! The one room of this crate where unsafe code lives.
#![expect(unsafe_code, reason = "memory is mapped and shared here, and a process made")]
// UNSAFETY: mappings of files that another process maps too, and the promises that rest on them; and the child
// process in which a disk is attached.

pub(crate) mod fork;
mod guest;
mod shared;
pub(crate) mod signal;
pub(crate) mod vduse;
mod words;

pub(crate) use shared::SharedMapping;
pub(crate) use words::SharedWords;
