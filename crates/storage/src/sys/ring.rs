//! io_uring, owning what the kernel works on: the memory of a transfer is kept alive here until the
//! kernel has said that it is done with it.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use io_uring::register::{Probe, Restriction};
use io_uring::{IoUring, cqueue, opcode, squeue, types::Fd};
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

/// An answer of a ring.
pub(crate) trait Completion: cqueue::EntryMarker {
    fn result(&self) -> i32;
    /// What a command of a device has to say beyond that.
    fn value(&self) -> u64;
}

impl Completion for cqueue::Entry {
    fn result(&self) -> i32 {
        self.result()
    }

    fn value(&self) -> u64 {
        0
    }
}

/// io_urings that are made ahead and used again, by a process that may make none any more.
pub(crate) struct Rings<S = squeue::Entry, C = cqueue::Entry>
where
    S: squeue::EntryMarker,
    C: cqueue::EntryMarker,
{
    idle: Mutex<Vec<IoUring<S, C>>>,
    /// So many are kept.
    keep: AtomicUsize,
}

impl<S: squeue::EntryMarker, C: cqueue::EntryMarker> Default for Rings<S, C> {
    fn default() -> Self {
        Self { idle: Mutex::default(), keep: AtomicUsize::new(0) }
    }
}

impl<S: squeue::EntryMarker, C: cqueue::EntryMarker> std::fmt::Debug for Rings<S, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rings").field("keep", &self.keep).finish_non_exhaustive()
    }
}

impl Rings {
    /// Makes `count` rings more, for `depth` jobs each.
    pub(crate) fn prepare(&self, count: u16, depth: u32) -> io::Result<()> {
        for _ in 0..count {
            self.keep(confined(depth)?);
        }
        Ok(())
    }
}

impl<S: squeue::EntryMarker, C: cqueue::EntryMarker> Rings<S, C> {
    /// Keeps one ring more.
    pub(super) fn keep(&self, ring: IoUring<S, C>) {
        self.lock().push(ring);
        self.keep.fetch_add(1, Ordering::Relaxed);
    }

    fn take(&self, depth: u32) -> Option<IoUring<S, C>> {
        let mut idle = self.lock();
        let fits = idle.iter_mut().position(|ring| ring.params().sq_entries() >= depth)?;
        Some(idle.swap_remove(fits))
    }

    /// Takes a ring back that has nothing to do.
    fn give_back(&self, ring: IoUring<S, C>) {
        let mut idle = self.lock();
        if idle.len() < self.keep.load(Ordering::Relaxed) {
            idle.push(ring);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<IoUring<S, C>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A ring for up to `depth` jobs at once that does what a [`Ring`] needs, and nothing else, whoever gets hold
/// of it: what it does, no filter of system calls sees.
fn confined(depth: u32) -> io::Result<IoUring> {
    let entries = entries_for(depth);
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

/// How many entries a ring for `depth` jobs has.
pub(super) fn entries_for(depth: u32) -> u32 {
    depth.clamp(1, ENTRIES_MAX).next_power_of_two()
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
pub(crate) struct Ring<S = squeue::Entry, C = cqueue::Entry>
where
    S: squeue::EntryMarker,
    C: Completion,
{
    /// Where the ring goes afterwards.
    home: Arc<Rings<S, C>>,
    ring: ManuallyDrop<IoUring<S, C>>,
    /// By the number that a completion brings back. Never grows or shrinks.
    flights: ManuallyDrop<Vec<Flight>>,
    free: Vec<u32>,
}

/// A place for one job.
pub(super) struct Flight {
    job: Option<Job>,
    /// What the kernel reads of the job's memory; untouched while the job is here.
    pub(super) vecs: Vec<IoVec>,
    /// How many bytes it asked for.
    asked: u64,
}

/// A job that came back, and what was said of it.
pub(super) struct Landed {
    pub(super) job: Job,
    /// How many bytes it asked for.
    pub(super) asked: u64,
    pub(super) result: i32,
    pub(super) value: u64,
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
        Self::over(depth, rings, || confined(depth))
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
        let fd = Fd(fd.as_raw_fd());
        self.load(job, bytes, |flight, job| flight.entry(job, fd, at))
    }

    /// A job that the kernel is done with.
    pub(crate) fn next_finished(&mut self) -> Option<Finished> {
        let Landed { job, asked, result, .. } = self.next_landed()?;
        let result = match u64::try_from(result) {
            // A fallocate does all or nothing, and counts nothing.
            Ok(_) if matches!(job.kind, Kind::Zero { .. }) && job.bounce.is_none() => Ok(asked),
            Ok(bytes) => Ok(bytes),
            Err(_) => Err(io::Error::from_raw_os_error(result.wrapping_neg())),
        };
        Some(Finished { job, result })
    }
}

impl<S: squeue::EntryMarker, C: Completion> Ring<S, C> {
    /// A ring of `rings` for up to `depth` jobs at once, or one that `make` makes.
    pub(super) fn over(
        depth: u32,
        rings: &Arc<Rings<S, C>>,
        make: impl FnOnce() -> io::Result<IoUring<S, C>>,
    ) -> io::Result<Self> {
        let entries = entries_for(depth);
        let ring = match rings.take(entries) {
            Some(ring) => ring,
            None => make()?,
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

    /// Takes `job`, whose next `bytes` bytes are worked on, as `say` says it with the flight's runs; gives it
    /// back when there is no room. `say` points to the job's memory and the runs alone.
    pub(super) fn load(
        &mut self,
        job: Job,
        bytes: u64,
        say: impl FnOnce(&Flight, &Job) -> S,
    ) -> Result<(), Job> {
        let Some(number) = self.free.pop() else { return Err(job) };
        let Some(flight) = self.flights.get_mut(number as usize) else { return Err(job) };
        flight.gather(&job, bytes);
        let mut entry = say(flight, &job);
        entry.set_user_data(u64::from(number));
        flight.job = Some(job);
        // SAFETY: what the entry points to is the memory of the job's buffers or of its bounce, and the
        // list of its runs. All stay in `flights`, unchanged, until the completion with this number was seen: only
        // `next_landed` takes a job out, and `drop` waits for all or leaks them. `flights` is never
        // resized, and the heap block of `vecs` is written only by `gather`, when no job is in its place.
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
    pub(super) fn next_landed(&mut self) -> Option<Landed> {
        let entry = self.ring.completion().next()?;
        let number = u32::try_from(entry.user_data()).ok()?;
        let flight = self.flights.get_mut(number as usize)?;
        let job = flight.job.take()?;
        self.free.push(number);
        let (result, value) = (entry.result(), entry.value());
        Some(Landed { job, asked: flight.asked, result, value })
    }

    /// Readable when the kernel is done with a job.
    pub(crate) fn event(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring, and so its descriptor, is open while `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }

    /// A descriptor that is readable when the kernel is done with a job, or when one of `others` is readable.
    pub(crate) fn event_with(&self, others: &[BorrowedFd<'_>]) -> io::Result<OwnedFd> {
        let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(0);
        for fd in [&[self.event()], others].concat() {
            epoll::add(&set, fd, data, epoll::EventFlags::IN)?;
        }
        Ok(set)
    }
}

impl Flight {
    /// Lists the runs of the next `bytes` bytes of `job`.
    fn gather(&mut self, job: &Job, bytes: u64) {
        let bytes = bytes.min(BYTES_MAX);
        let range = job.done..job.done.saturating_add(bytes);
        self.asked = bytes;
        self.vecs.clear();
        match (&job.bounce, &job.buffers) {
            (Some(bounce), _) => self.vecs.push(bounce.io_vec()),
            (None, Some(buffers)) => self.vecs.extend(runs(buffers, range).take(RUNS_MAX)),
            (None, None) => {}
        }
    }

    /// The one run that there is, if it is one.
    pub(super) fn one(&self) -> Option<(*mut u8, u32)> {
        match self.vecs.as_slice() {
            [one] => Some((one.base, one.len as u32)),
            _ => None,
        }
    }

    /// `job`, whose runs are here, in the kernel's words.
    fn entry(&self, job: &Job, fd: Fd, at: u64) -> squeue::Entry {
        let (list, count) = (self.vecs.as_ptr(), self.vecs.len() as u32);
        match (job.kind, self.one()) {
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
                opcode::Fallocate::new(fd, self.asked).offset(at).mode(how).build()
            }
            // None of these comes here.
            (Kind::Append | Kind::Flush | Kind::Command(_), _) => opcode::Nop::new().build(),
        }
    }
}

/// How fallocate makes a range read as zeroes.
pub(crate) fn zero_flags(unmap: bool) -> FallocateFlags {
    let how = if unmap { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
    how | FallocateFlags::KEEP_SIZE
}

impl<S: squeue::EntryMarker, C: Completion> Drop for Ring<S, C> {
    fn drop(&mut self) {
        // The kernel may still write into guest memory: wait. Should it refuse to tell, what it works on
        // is leaked, which keeps the memory mapped.
        let mut refusals = 0;
        while self.flying() > 0 && refusals < 1000 {
            if self.ring.submit_and_wait(1).is_err() {
                refusals += 1;
                std::thread::yield_now();
            }
            while self.next_landed().is_some() {}
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
