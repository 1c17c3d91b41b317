//! A file's pages in the page cache, read without a system call.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::ptr;

use rustix::fs::fstat;
use rustix::process::geteuid;
use zvb_ring::Buffers;

use super::guard::{Access, GuardedMapping};
use super::{fetch, runs};

/// The pages that [`FileMap::look`] tells of at once, and how many bytes they have.
pub(crate) const CHUNK_PAGES: usize = 256;
/// Bytes of a page, as far as we are concerned.
pub(crate) const PAGE_BYTES: u64 = 4096;
/// Bytes of a chunk.
pub(crate) const CHUNK_BYTES: u64 = CHUNK_PAGES as u64 * PAGE_BYTES;

/// A mapping of a file, to read from.
#[derive(Debug)]
pub(crate) struct FileMap {
    mapping: GuardedMapping,
    len: u64,
}

impl FileMap {
    /// Maps the first `len` bytes of `file`, and what of a chunk follows. Fails where it can not be told
    /// what is in the page cache.
    pub(crate) fn new(file: BorrowedFd<'_>, len: u64, writable: bool) -> io::Result<Self> {
        // The kernel tells only those who may write the file, and says yes to everything to others.
        if !writable && fstat(file)?.st_uid != geteuid().as_raw() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        if rustix::param::page_size() as u64 != PAGE_BYTES {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let len = len.checked_next_multiple_of(CHUNK_BYTES).ok_or(io::ErrorKind::OutOfMemory)?;
        let bytes = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        Ok(Self { mapping: GuardedMapping::new(file, 0, bytes, Access::Read)?, len })
    }

    /// How many chunks there are.
    pub(crate) fn chunks(&self) -> u64 {
        self.len / CHUNK_BYTES
    }

    /// Says which pages of `chunk` are in the page cache now: a byte each, whose lowest bit tells. False
    /// when that can not be told.
    pub(crate) fn look(&self, chunk: u64, pages: &mut [u8; CHUNK_PAGES]) -> bool {
        let Some(start) = chunk.checked_mul(CHUNK_BYTES).and_then(|at| usize::try_from(at).ok())
        else {
            return false;
        };
        let Some(first) = self.mapping.piece(start, CHUNK_BYTES as usize) else { return false };
        // SAFETY: the pages are all inside a mapping of ours, whose start is one of a page, and `pages`
        // has a byte for each: the kernel writes no more. The mapping is not touched.
        let told = unsafe {
            libc::mincore(first.as_ptr().cast(), CHUNK_BYTES as usize, pages.as_mut_ptr())
        };
        told == 0 && !self.mapping.is_lost()
    }

    /// A [`read`](Self::read) of `bytes` bytes from `at` on comes soon.
    pub(crate) fn expect(&self, at: u64, bytes: u64) {
        let (Ok(start), Ok(len)) = (usize::try_from(at), usize::try_from(bytes)) else { return };
        if let Some(first) = self.mapping.piece(start, len) {
            fetch(first.as_ptr().cast_const(), len);
        }
    }

    /// Copies from byte `at` of the file on into `range` of `into`. False, with anything copied, when
    /// that is past the end of the mapping or the file can not be read this way any more.
    pub(crate) fn read(&self, at: u64, into: &Buffers, range: Range<u64>) -> bool {
        let bytes = range.end.saturating_sub(range.start);
        let (Ok(start), Ok(len)) = (usize::try_from(at), usize::try_from(bytes)) else {
            return false;
        };
        let Some(first) = self.mapping.piece(start, len) else { return false };
        let (mut from, mut left) = (first.as_ptr().cast_const(), len);
        for run in runs(into, range) {
            let count = run.len.min(left);
            // SAFETY: `piece` gave `len` bytes of the mapping from `first` on, of which `left` are left from
            // `from` on; a page that its file can not give is replaced by an empty one (the guard). The
            // run lies in guest memory that `into` keeps alive, which is another mapping. What changes
            // meanwhile, here or there, is bytes that nobody looks into.
            unsafe { ptr::copy_nonoverlapping(from, run.base, count) };
            from = from.wrapping_add(count);
            left -= count;
        }
        left == 0 && !self.mapping.is_lost()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;
    use std::rc::Rc;

    use zvb_ring::HeapMemory;

    use super::*;

    fn buffers(len: u32) -> Buffers {
        let mut buffers = Buffers::new(Rc::new(HeapMemory::new(0, 1 << 20)), Vec::new());
        assert!(buffers.push(0, len / 2) && buffers.push(0x8000, len - len / 2));
        buffers
    }

    fn file(len: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        file
    }

    #[test]
    fn a_file_is_read_through_its_mapping_as_it_is_written() {
        let file = file(2 * CHUNK_BYTES);
        let map = FileMap::new(file.as_fd(), CHUNK_BYTES + 1, true).unwrap();
        assert_eq!(map.chunks(), 2);
        let into = buffers(1000);
        for text in [b"once", b"more"] {
            file.write_all_at(text, CHUNK_BYTES - 2).unwrap();
            assert!(map.read(CHUNK_BYTES - 2, &into, 498..502));
            let mut bytes = [0; 4];
            into.read(498, &mut bytes).unwrap();
            assert_eq!(&bytes, text);
        }
        assert!(!map.read(2 * CHUNK_BYTES - 1, &into, 0..2), "past the end");
        assert!(!map.read(u64::MAX, &into, 0..2), "past any end");
    }

    #[test]
    fn what_was_just_written_is_in_the_page_cache() {
        let file = file(2 * CHUNK_BYTES);
        let map = FileMap::new(file.as_fd(), 2 * CHUNK_BYTES, true).unwrap();
        file.write_all_at(b"x", CHUNK_BYTES + 3 * PAGE_BYTES).unwrap();
        let mut pages = [0; CHUNK_PAGES];
        assert!(map.look(1, &mut pages));
        let cached = |i: usize| pages[i] & 1 == 1;
        assert!(cached(3) && !cached(2) && !cached(CHUNK_PAGES - 1));
        assert!(!map.look(2, &mut pages) && !map.look(u64::MAX, &mut pages));
    }

    #[test]
    fn a_file_cut_short_is_not_read_and_does_not_kill() {
        let file = file(2 * CHUNK_BYTES);
        let map = FileMap::new(file.as_fd(), 2 * CHUNK_BYTES, true).unwrap();
        let into = buffers(8);
        assert!(map.read(CHUNK_BYTES, &into, 0..8));
        file.set_len(4096).unwrap();
        assert!(!map.read(CHUNK_BYTES, &into, 0..8), "the page is gone");
        assert!(!map.read(0, &into, 0..8), "nothing is to be had this way any more");
        assert!(!map.look(0, &mut [0; CHUNK_PAGES]));
    }
}
