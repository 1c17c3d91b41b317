//! Vectored reads and writes between a file and guest memory, and a lock on an open file.

use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::{ReadWriteFlags, preadv2, pwritev2};
use zvb_ring::Buffers;

use super::{IoVec, runs};

/// Runs handed to the kernel at once; what has more of them takes more calls.
const RUNS_MAX: usize = 64;

/// Whether a read may wait for the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Patience {
    /// It may.
    Wait,
    /// Only what is in memory already; else `WouldBlock`, or less than was asked for.
    NoWait,
}

/// Reads from `at` of `fd` into `range` of `into`, once; the bytes read may be fewer.
pub(crate) fn read_at(
    fd: BorrowedFd<'_>,
    at: u64,
    into: &Buffers,
    range: Range<u64>,
    patience: Patience,
) -> io::Result<u64> {
    let mut vecs = [IoVec::NOTHING; RUNS_MAX];
    let count = collect(into, range, &mut vecs);
    // SAFETY: `IoSliceMut` has the layout of `iovec` and so of `IoVec`; the first `count` were filled with
    // runs inside the segments of `into`, which it keeps alive past this call. The kernel alone follows
    // the pointers: no reference to guest memory is made.
    let slices = unsafe {
        std::slice::from_raw_parts_mut(vecs.as_mut_ptr().cast::<IoSliceMut<'_>>(), count)
    };
    let flags = match patience {
        Patience::Wait => ReadWriteFlags::empty(),
        Patience::NoWait => ReadWriteFlags::NOWAIT,
    };
    Ok(preadv2(fd, slices, at, flags)? as u64)
}

/// Writes `range` of `from` to `at` of `fd`, once; the bytes written may be fewer.
pub(crate) fn write_at(
    fd: BorrowedFd<'_>,
    at: u64,
    from: &Buffers,
    range: Range<u64>,
) -> io::Result<u64> {
    let mut vecs = [IoVec::NOTHING; RUNS_MAX];
    let count = collect(from, range, &mut vecs);
    // SAFETY: as in `read_at`, with `IoSlice`.
    let slices = unsafe { std::slice::from_raw_parts(vecs.as_ptr().cast::<IoSlice<'_>>(), count) };
    Ok(pwritev2(fd, slices, at, ReadWriteFlags::empty())? as u64)
}

fn collect(buffers: &Buffers, range: Range<u64>, vecs: &mut [IoVec; RUNS_MAX]) -> usize {
    let mut count = 0;
    for (place, run) in vecs.iter_mut().zip(runs(buffers, range)) {
        *place = run;
        count += 1;
    }
    count
}

/// Takes the lock that one open file of an image has, for as long as it is open: as long as the kernel has
/// something to do with it, whatever became of its process. False when another open file has it.
pub(crate) fn claim_file(fd: BorrowedFd<'_>) -> io::Result<bool> {
    // Of a byte that no file has.
    let lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: libc::off_t::MAX - 1,
        l_len: 1,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open, and the kernel only reads the structure, which lives through the call.
    let failed = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } != 0;
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        _ if !failed => Ok(true),
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn one_open_file_is_claimed_as_long_as_anything_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let open =
            || File::options().create(true).append(true).open(folder.path().join("f")).unwrap();
        let (first, second) = (open(), open());
        assert!(claim_file(first.as_fd()).unwrap());
        assert!(claim_file(first.as_fd()).unwrap(), "it has it already");
        assert!(!claim_file(second.as_fd()).unwrap());
        // The same open file, by another descriptor: as the kernel has it while I/O is under way.
        let kept = first.try_clone().unwrap();
        drop(first);
        assert!(!claim_file(second.as_fd()).unwrap());
        drop(kept);
        assert!(claim_file(second.as_fd()).unwrap());
    }
}
