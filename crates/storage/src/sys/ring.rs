//! io_uring, owning what the kernel works on: the memory of a transfer is kept alive here until the
//! kernel has said that it is done with it.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use io_uring::register::{Probe, Restriction};
use io_uring::{IoUring, opcode, squeue, types::Fd};
use rustix::event::epoll;
use rustix::fs::FallocateFlags;

use super::{IoVec, runs};
use crate::engine::{Job, Kind};

/// The most entries a ring is made with.
const ENTRIES_MAX: u32 = 4096;
/// The most runs that the kernel takes in one transfer (UIO_MAXIOV).
const RUNS_MAX: usize = 1024;
/// The most bytes asked for in one transfer; the kernel does not do more at once.
const BYTES_MAX: u64 = 1 << 30;

/// io_urings that are made ahead and used again, by a process that may make none any more.
#[derive(Default)]
pub(crate) struct Rings {
    idle: Mutex<Vec<IoUring>>,
    /// So many are kept.
    keep: AtomicUsize,
}

impl std::fmt::Debug for Rings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rings").field("keep", &self.keep).finish_non_exhaustive()
    }
}

impl Rings {
    /// Makes `count` rings more, for `depth` jobs each.
    pub(crate) fn prepare(&self, count: u16, depth: u32) -> io::Result<()> {
        for _ in 0..count {
            self.lock().push(confined(depth)?);
            self.keep.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn take(&self, depth: u32) -> Option<IoUring> {
        let mut idle = self.lock();
        let fits = idle.iter_mut().position(|ring| ring.params().sq_entries() >= depth)?;
        Some(idle.swap_remove(fits))
    }

    /// Takes a ring back that has nothing to do.
    fn give_back(&self, ring: IoUring) {
        let mut idle = self.lock();
        if idle.len() < self.keep.load(Ordering::Relaxed) {
            idle.push(ring);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<IoUring>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A ring for up to `depth` jobs at once that does what a [`Ring`] needs, and nothing else, whoever gets hold
/// of it: what it does, no filter of system calls sees.
fn confined(depth: u32) -> io::Result<IoUring> {
    let entries = depth.clamp(1, ENTRIES_MAX).next_power_of_two();
    let ring = IoUring::builder().setup_r_disabled().build(entries)?;
    let submitter = ring.submitter();
    let mut probe = Probe::new();
    submitter.register_probe(&mut probe)?;
    if !NEEDED.into_iter().all(|code| probe.is_supported(code)) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    submitter.register_restrictions(&mut NEEDED.map(Restriction::sqe_op))?;
    submitter.register_enable_rings()?;
    Ok(ring)
}

/// What is asked of a ring.
const NEEDED: [u8; 6] = [
    opcode::Nop::CODE,
    opcode::Read::CODE,
    opcode::Readv::CODE,
    opcode::Write::CODE,
    opcode::Writev::CODE,
    opcode::Fallocate::CODE,
];

/// An io_uring, and the jobs that it has.
pub(crate) struct Ring {
    /// Where the ring goes afterwards.
    home: Arc<Rings>,
    ring: ManuallyDrop<IoUring>,
    /// By the number that a completion brings back. Never grows or shrinks.
    flights: ManuallyDrop<Vec<Flight>>,
    free: Vec<u32>,
}

/// A place for one job.
struct Flight {
    job: Option<Job>,
    /// What the kernel reads of the job's memory; untouched while the job is here.
    vecs: Vec<IoVec>,
    /// How many bytes it asked for.
    asked: u64,
}

/// A job that came back.
pub(crate) struct Finished {
    /// It.
    pub(crate) job: Job,
    /// Bytes moved.
    pub(crate) result: io::Result<u64>,
}

impl Ring {
    /// A ring for up to `depth` jobs at once: one that was made ahead, if there is one.
    pub(crate) fn new(depth: u32, rings: &Arc<Rings>) -> io::Result<Self> {
        let entries = depth.clamp(1, ENTRIES_MAX).next_power_of_two();
        let ring = match rings.take(entries) {
            Some(ring) => ring,
            None => confined(depth)?,
        };
        let flights =
            (0..entries).map(|_| Flight { job: None, vecs: Vec::new(), asked: 0 }).collect();
        Ok(Self {
            home: Arc::clone(rings),
            ring: ManuallyDrop::new(ring),
            flights: ManuallyDrop::new(flights),
            free: (0..entries).rev().collect(),
        })
    }

    /// True when one more job can be taken.
    pub(crate) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// How many jobs are here.
    pub(crate) fn flying(&self) -> usize {
        self.flights.len().saturating_sub(self.free.len())
    }

    /// Takes `job`, whose next `bytes` bytes are to be moved from or to, or made zero from, `at` of `fd`.
    /// Gives it back when there is no room. Begins at [`submit`](Self::submit).
    pub(crate) fn take(
        &mut self,
        job: Job,
        fd: BorrowedFd<'_>,
        at: u64,
        bytes: u64,
    ) -> Result<(), Job> {
        let Some(number) = self.free.pop() else { return Err(job) };
        let Some(flight) = self.flights.get_mut(number as usize) else { return Err(job) };
        let entry = flight.load(job, Fd(fd.as_raw_fd()), at, bytes).user_data(u64::from(number));
        // SAFETY: what the entry points to is the memory of the job's buffers or of its bounce, and the
        // list of its runs. All stay in `flights`, unchanged, until the completion with this number was seen: only
        // `next_finished` takes a job out, and `drop` waits for all or leaks them. `flights` is never
        // resized, and the heap block of `vecs` is written only by `load`, when no job is in its place.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        match pushed {
            Ok(()) => Ok(()),
            // As many entries as places: can not be. The job goes back all the same.
            Err(_full) => {
                self.free.push(number);
                flight.job.take().map_or(Ok(()), Err)
            }
        }
    }

    /// True when [`submit`](Self::submit) has something to begin.
    pub(crate) fn has_waiting(&mut self) -> bool {
        !self.ring.submission().is_empty()
    }

    /// Begins all that was taken. True when some of it has to be tried again.
    pub(crate) fn submit(&mut self) -> bool {
        if self.ring.submission().is_empty() {
            return false;
        }
        // Interrupted, or short of memory or of room for completions: the entries stay in the ring.
        self.ring.submit().is_err() || !self.ring.submission().is_empty()
    }

    /// A job that the kernel is done with.
    pub(crate) fn next_finished(&mut self) -> Option<Finished> {
        let entry = self.ring.completion().next()?;
        let number = u32::try_from(entry.user_data()).ok()?;
        let flight = self.flights.get_mut(number as usize)?;
        let job = flight.job.take()?;
        self.free.push(number);
        let result = match u64::try_from(entry.result()) {
            // A fallocate does all or nothing, and counts nothing.
            Ok(_) if matches!(job.kind, Kind::Zero { .. }) && job.bounce.is_none() => {
                Ok(flight.asked)
            }
            Ok(bytes) => Ok(bytes),
            Err(_) => Err(io::Error::from_raw_os_error(entry.result().wrapping_neg())),
        };
        Some(Finished { job, result })
    }

    /// A descriptor that is readable when [`next_finished`](Self::next_finished) has something, or when
    /// `other` is readable.
    pub(crate) fn event_with(&self, other: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // SAFETY: the ring, and so its descriptor, is open while `self` is borrowed.
        let ring = unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) };
        let data = epoll::EventData::new_u64(0);
        epoll::add(&set, ring, data, epoll::EventFlags::IN)?;
        epoll::add(&set, other, data, epoll::EventFlags::IN)?;
        Ok(set)
    }
}

impl Flight {
    /// Puts `job` here, and says it in the kernel's words.
    fn load(&mut self, job: Job, fd: Fd, at: u64, bytes: u64) -> squeue::Entry {
        let bytes = bytes.min(BYTES_MAX);
        let range = job.done..job.done.saturating_add(bytes);
        self.asked = bytes;
        self.vecs.clear();
        match (&job.bounce, &job.buffers) {
            (Some(bounce), _) => self.vecs.push(bounce.io_vec()),
            (None, Some(buffers)) => self.vecs.extend(runs(buffers, range).take(RUNS_MAX)),
            (None, None) => {}
        }
        let (list, count) = (self.vecs.as_ptr(), self.vecs.len() as u32);
        let one = match self.vecs.as_slice() {
            [one] => Some((one.base, one.len as u32)),
            _ => None,
        };
        let entry = match (job.kind, one) {
            (Kind::Read, Some((base, len))) => opcode::Read::new(fd, base, len).offset(at).build(),
            (Kind::Read, None) => opcode::Readv::new(fd, list.cast(), count).offset(at).build(),
            (Kind::Write, Some((base, len))) => {
                opcode::Write::new(fd, base, len).offset(at).build()
            }
            (Kind::Write, None) => opcode::Writev::new(fd, list.cast(), count).offset(at).build(),
            // Zeroes that lie ready.
            (Kind::Zero { .. }, Some((base, len))) => {
                opcode::Write::new(fd, base, len).offset(at).build()
            }
            (Kind::Zero { unmap }, None) => {
                let how = zero_flags(unmap).bits().cast_signed();
                opcode::Fallocate::new(fd, bytes).offset(at).mode(how).build()
            }
            // None of these comes here.
            (Kind::Append | Kind::Flush | Kind::Command(_), _) => opcode::Nop::new().build(),
        };
        self.job = Some(job);
        entry
    }
}

/// How fallocate makes a range read as zeroes.
pub(crate) fn zero_flags(unmap: bool) -> FallocateFlags {
    let how = if unmap { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
    how | FallocateFlags::KEEP_SIZE
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel may still write into guest memory: wait. Should it refuse to tell, what it works on
        // is leaked, which keeps the memory mapped.
        let mut refusals = 0;
        while self.flying() > 0 && refusals < 1000 {
            if self.ring.submit_and_wait(1).is_err() {
                refusals += 1;
                std::thread::yield_now();
            }
            while self.next_finished().is_some() {}
        }
        if self.flying() == 0 {
            // SAFETY: each is taken or dropped once, here, and not used after.
            let ring = unsafe {
                ManuallyDrop::drop(&mut self.flights);
                ManuallyDrop::take(&mut self.ring)
            };
            self.home.give_back(ring);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    /// What comes of `entry`, in a ring.
    fn result(ring: &mut IoUring, entry: &squeue::Entry) -> i32 {
        // SAFETY: what the entry points to outlives the call, which waits for the kernel.
        unsafe { ring.submission().push(entry) }.unwrap();
        ring.submit_and_wait(1).unwrap();
        ring.completion().next().unwrap().result()
    }

    #[test]
    fn a_ring_does_what_it_is_made_for_and_nothing_else() {
        let Ok(mut ring) = confined(4) else {
            eprintln!("not tried: there is no io_uring");
            return;
        };
        assert_eq!(result(&mut ring, &opcode::Nop::new().build()), 0);
        let here = Fd(rustix::fs::CWD.as_raw_fd());
        let denied = -Errno::ACCESS.raw_os_error();
        let open = opcode::OpenAt::new(here, c"/proc/self/status".as_ptr()).build();
        assert_eq!(result(&mut ring, &open), denied);
        assert_eq!(result(&mut ring, &opcode::Socket::new(1, 1, 0).build()), denied);
        let unlink = opcode::UnlinkAt::new(here, c"nothing".as_ptr()).build();
        assert_eq!(result(&mut ring, &unlink), denied);
        ring.submitter().register_files(&[0]).unwrap_err();
    }

    #[test]
    fn rings_made_ahead_are_used_again() {
        let rings = Arc::<Rings>::default();
        if rings.prepare(2, 8).is_err() {
            eprintln!("not tried: there is no io_uring");
            return;
        }
        let number = |ring: &Ring| ring.ring.as_raw_fd();
        let (a, b) = (Ring::new(8, &rings).unwrap(), Ring::new(5, &rings).unwrap());
        let third = Ring::new(8, &rings).unwrap();
        let made = [number(&a), number(&b)];
        assert!(!made.contains(&number(&third)));
        drop((a, b, third));
        let again = Ring::new(8, &rings).unwrap();
        assert!(made.contains(&number(&again)));
        let larger = Ring::new(16, &rings).unwrap();
        assert!(!made.contains(&number(&larger)), "it has no room for so many");
    }
}
