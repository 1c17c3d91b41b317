//! Mappings: to keep a file in the page cache, and to copy from and to.

// UNSAFETY: mappings that are locked in memory, and copied from and to by raw pointers only.
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

/// A file, to copy from and to.
pub(crate) struct Window {
    base: NonNull<u8>,
    bytes: usize,
}

impl Window {
    /// The first `len` bytes of `file`, which nobody makes shorter.
    pub(crate) fn new(file: &File, len: u64) -> io::Result<Self> {
        let bytes = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe { mmap(ptr::null_mut(), bytes, access, MapFlags::SHARED, file, 0)? };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, bytes })
    }

    /// The place of `len` bytes from `at` on.
    fn place(&self, at: u64, len: usize) -> *mut u8 {
        let end = (at as usize).checked_add(len);
        assert!(end.is_some_and(|end| end <= self.bytes), "past the end of the file");
        self.base.as_ptr().wrapping_add(at as usize)
    }

    pub(crate) fn read(&self, at: u64, into: &mut [u8]) {
        let from = self.place(at, into.len());
        // SAFETY: inside the mapping, as `place` checks; no reference to it is ever made.
        unsafe { ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
    }

    pub(crate) fn write(&self, at: u64, from: &[u8]) {
        let into = self.place(at, from.len());
        // SAFETY: as above.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), into, from.len()) };
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: a mapping of ours, whole, which nothing refers to.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok());
    }
}
