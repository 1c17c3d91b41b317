//! Writes that lie one behind the other, in one system call.

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;

use rustix::io::{ReadWriteFlags, pwritev2};

use super::{IoVec, runs};
use crate::engine::Job;

/// The most runs that the kernel takes in one call (UIO_MAXIOV).
const RUNS_MAX: usize = 1024;
/// The most bytes in one call. The page cache gets pieces as large as the call that first writes them, and
/// some file systems go through all blocks of a piece for each write to it, however short: pieces of
/// 1 MiB make a write of 4 KiB half as dear again, and larger ones several times.
pub(crate) const BYTES_MAX: u64 = 256 << 10;

/// Jobs whose next bytes lie one behind the other in a file. They are kept here, and with them the memory
/// that they write from, from the moment on that a list of their runs exists.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    /// Each with how many bytes of it are here.
    jobs: Vec<(Job, u64)>,
    /// Runs of the jobs' buffers.
    vecs: Vec<IoVec>,
    start: u64,
    bytes: u64,
}

impl Gathered {
    /// Nothing, with room for `count` jobs.
    pub(crate) fn with_room(count: usize) -> Self {
        let (jobs, vecs) = (Vec::with_capacity(count), Vec::with_capacity(count));
        Self { jobs, vecs, ..Self::default() }
    }

    /// True when there is nothing here.
    pub(crate) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Where what is here goes.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// True when what goes to `at` follows what is here.
    pub(crate) fn is_followed_by(&self, at: u64) -> bool {
        !self.is_empty() && self.start.checked_add(self.bytes) == Some(at)
    }

    /// Adds the next `bytes` bytes of `job`, which go to `at`; gives it back when they do not fit behind
    /// those that are here.
    pub(crate) fn add(&mut self, job: Job, at: u64, bytes: u64) -> Result<(), Job> {
        let first = self.jobs.is_empty();
        let follows = self.is_followed_by(at);
        let total = self.bytes.saturating_add(bytes);
        // Calls end where pieces of the page cache do.
        let room = BYTES_MAX - self.start % BYTES_MAX;
        if bytes > BYTES_MAX || !(first || follows && total <= room) {
            return Err(job);
        }
        let Some(buffers) = &job.buffers else { return Err(job) };
        if self.vecs.len().saturating_add(buffers.segments().len()) > RUNS_MAX {
            return Err(job);
        }
        let range = job.done..job.done.saturating_add(bytes);
        self.vecs.extend(runs(buffers, range));
        if first {
            self.start = at;
        }
        self.bytes = total;
        self.jobs.push((job, bytes));
        Ok(())
    }

    /// Writes all that is here to `fd`, once; the bytes written may be fewer.
    pub(crate) fn write(&self, fd: BorrowedFd<'_>) -> io::Result<u64> {
        let (list, count) = (self.vecs.as_ptr().cast::<IoSlice<'_>>(), self.vecs.len());
        // SAFETY: `IoSlice` has the layout of `iovec` and so of `IoVec`; each is a run of the buffers of a
        // job that is here, unchanged, since the run was made: `take` empties the list first. The kernel
        // alone follows the pointers: no reference to guest memory is made.
        let slices = unsafe { std::slice::from_raw_parts(list, count) };
        Ok(pwritev2(fd, slices, self.start, ReadWriteFlags::empty())? as u64)
    }

    /// Moves the jobs out, in order, each with how many bytes of it were here. `into` is empty, and is
    /// kept in their place for its room.
    pub(crate) fn take(&mut self, into: &mut Vec<(Job, u64)>) {
        self.vecs.clear();
        (self.start, self.bytes) = (0, 0);
        std::mem::swap(&mut self.jobs, into);
        self.jobs.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;
    use std::rc::Rc;

    use zvb_ring::{Buffers, HeapMemory};
    use zvb_wire::Sector;

    use super::*;
    use crate::volume::{Io, Op};

    fn job(tag: u64, bytes: &[u8]) -> Job {
        let memory = Rc::new(HeapMemory::new(0, bytes.len()));
        let mut buffers = Buffers::new(memory, Vec::new());
        assert!(buffers.push(0, bytes.len() as u32));
        buffers.write(0, bytes).unwrap();
        Job::new(Io { tag, at: Sector(0), op: Op::Write(buffers) })
    }

    #[test]
    fn what_follows_is_gathered_and_written_at_once() {
        let file = tempfile::tempfile().unwrap();
        let mut gathered = Gathered::default();
        gathered.add(job(1, b"one"), 10, 3).unwrap();
        gathered.add(job(2, b"two"), 13, 3).unwrap();
        assert_eq!(gathered.add(job(3, b"far"), 17, 3).unwrap_err().tag, 3);
        assert_eq!(gathered.add(job(3, b"back"), 12, 4).unwrap_err().tag, 3);
        // The middle of a job.
        let mut third = job(3, b"..end..");
        third.done = 2;
        gathered.add(third, 16, 3).unwrap();
        assert_eq!(gathered.write(file.as_fd()).unwrap(), 9);
        let mut bytes = [0; 9];
        file.read_exact_at(&mut bytes, 10).unwrap();
        assert_eq!(&bytes, b"onetwoend");
        let mut out = Vec::new();
        gathered.take(&mut out);
        let order: Vec<_> = out.iter().map(|(job, bytes)| (job.tag, *bytes)).collect();
        assert_eq!(order, [(1, 3), (2, 3), (3, 3)]);
        assert!(gathered.is_empty());
        gathered.add(job(4, b"next"), 0, 4).unwrap();
        assert_eq!(gathered.write(file.as_fd()).unwrap(), 4);
    }

    #[test]
    fn one_call_has_its_limits() {
        let mut gathered = Gathered::default();
        let half = vec![7; BYTES_MAX as usize / 2];
        let len = half.len() as u64;
        gathered.add(job(1, &half), len, len).unwrap();
        gathered.add(job(2, &half), 2 * len, len).unwrap_err();
        let mut gathered = Gathered::default();
        gathered.add(job(1, &half), 0, len).unwrap();
        gathered.add(job(2, &half), len, len).unwrap();
        gathered.add(job(3, b"x"), 2 * len, 1).unwrap_err();
        let mut gathered = Gathered::default();
        let more = vec![7; BYTES_MAX as usize + 1];
        gathered.add(job(1, &more), 0, more.len() as u64).unwrap_err();
        let mut gathered = Gathered::default();
        for at in 0..RUNS_MAX as u64 {
            gathered.add(job(at, b"x"), at, 1).unwrap();
        }
        gathered.add(job(0, b"x"), RUNS_MAX as u64, 1).unwrap_err();
    }
}
