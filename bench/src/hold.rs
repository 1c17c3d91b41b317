//! Keeps a file in the page cache.

// UNSAFETY: a mapping that nobody reads or writes, made only to be locked in memory.
#![expect(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::ptr::{self, NonNull};

use rustix::fs::{SeekFrom as Seeking, seek};
use rustix::mm::{MapFlags, ProtFlags, mlock, mmap, munmap};

/// The parts of a file that have data, locked in memory.
pub(crate) struct Held {
    parts: Vec<(NonNull<std::ffi::c_void>, usize)>,
}

impl Held {
    /// Maps and locks every part of the file at `path` that is no hole.
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        let mut held = Self { parts: Vec::new() };
        let mut at = 0;
        while at < len {
            let Ok(start) = seek(&file, Seeking::Data(at)) else { break };
            let end = seek(&file, Seeking::Hole(start))?.min(len);
            let (first, bytes) = (start / 4096 * 4096, (end - start / 4096 * 4096) as usize);
            // Read it once: a mapping of what is not cached would be filled a page at a time.
            file.seek(SeekFrom::Start(first))?;
            io::copy(&mut (&file).take(bytes as u64), &mut io::sink())?;
            // SAFETY: a new mapping at an address of the kernel's choice, never accessed through Rust.
            let base = unsafe {
                mmap(ptr::null_mut(), bytes, ProtFlags::READ, MapFlags::SHARED, &file, first)?
            };
            let Some(base) = NonNull::new(base) else {
                return Err(io::ErrorKind::OutOfMemory.into());
            };
            held.parts.push((base, bytes));
            // SAFETY: the mapping that was just made, whole.
            unsafe { mlock(base.as_ptr(), bytes)? };
            at = end;
        }
        Ok(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for (base, bytes) in self.parts.drain(..) {
            // SAFETY: a mapping of ours, whole, which nothing refers to.
            let unmapped = unsafe { munmap(base.as_ptr(), bytes) };
            debug_assert!(unmapped.is_ok());
        }
    }
}
