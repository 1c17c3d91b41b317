//! The engine with an io_uring: for everything, or for what would make it wait.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;

use super::cache::Cache;
use super::{Desk, Job, Kind, Outcome, Served, run, transfer};
use crate::committer::Committer;
use crate::medium::MediumFile;
use crate::store::Step;
use crate::sys::{CALL_BYTES_MAX, Finished, Gathered, Patience, Ring, is_aligned, read_at};
use crate::volume::{Done, Engine, Failure, Io};

/// Keeps operations in flight in an io_uring.
pub(crate) struct RingEngine {
    /// Dropped first, which waits for what is under way: then the desk may say that nothing is.
    ring: Ring,
    desk: Desk,
    /// Everything goes through the ring. Else reads that are in the page cache and writes to it, which a
    /// plain call does faster, are done at once.
    all: bool,
    /// What is cached, and read as soon as it is taken.
    cache: Option<Cache>,
    /// The pin of the batch that is being taken.
    pin: Option<u64>,
    /// Taken, not begun.
    queue: VecDeque<Job>,
    /// Reads in `queue` that may be cached.
    due: usize,
    /// Bytes of writes in `queue` that are done at once.
    due_bytes: u64,
    /// Writes of a batch that go out in one call, for each of some places that are written to in turn.
    gathered: [Gathered; PLACES],
    /// The one that goes out first when another is wanted.
    oldest: usize,
    /// Empty between batches, kept for its room.
    written: Vec<(Job, u64)>,
    /// Writes that did not go out whole together: each goes on alone, and hears of its own error.
    alone: Vec<Job>,
    /// Readable when the ring or the committer has something.
    event: OwnedFd,
}

impl fmt::Debug for RingEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingEngine").field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}

/// Places that a batch of writes may go to in turn and still have few calls: open zones.
const PLACES: usize = 8;

/// Bytes of writes that are as near to their answers as one read: sixteenths of what goes out in one call, so
/// that short writes are gathered, and those that fill calls are answered soon.
const DUE_BYTES: u64 = CALL_BYTES_MAX / 16;

/// Writes that there is room for from the beginning, for each place.
const ROOM: usize = 64;

/// How a job goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    /// At once, if that can be done; a write together with others.
    Together,
    /// At once, if that can be done.
    Alone,
    /// Through the ring.
    Ring,
}

/// What became of a job that was pushed on.
enum Pushed {
    /// The ring, the committer or `done` has it.
    On,
    /// The ring is full.
    Back(Job),
}

impl RingEngine {
    pub(crate) fn new(served: Arc<Served>, depth: u32, all: bool) -> io::Result<Self> {
        let desk = Desk::new(served)?;
        let ring = Ring::new(depth, &desk.served.rings)?;
        let event = ring.event_with(&[desk.mailbox.event()])?;
        // Lists that most batches fit into: then they never grow.
        let room = usize::try_from(depth).unwrap_or(ROOM).min(ROOM);
        // Where a commit may happen inside a batch, nothing is pinned before it is begun.
        let at_once = !all && !matches!(desk.served.committer, Committer::Caller);
        let cache = if at_once { Cache::new(&desk.served) } else { None };
        Ok(Self {
            ring,
            desk,
            all,
            cache,
            pin: None,
            queue: VecDeque::new(),
            due: 0,
            due_bytes: 0,
            gathered: std::array::from_fn(|_| Gathered::with_room(room)),
            oldest: 0,
            written: Vec::with_capacity(room),
            alone: Vec::new(),
            event,
        })
    }

    /// Pins what the batch works on, if that was not done yet.
    fn open_batch(&mut self) {
        if self.pin.is_none() {
            self.pin = self.desk.pin_batch();
            if let Some(cache) = &mut self.cache {
                cache.tick();
            }
        }
    }

    /// Begins a job that was taken, or that waited for a slot.
    fn begin(&mut self, mut job: Job) -> Pushed {
        if job.kind == Kind::Flush {
            self.desk.flush(job);
            return Pushed::On;
        }
        if !self.ring.has_room() {
            return Pushed::Back(job);
        }
        job.epoch = self.desk.pins.enter(&self.desk.served.store.slots);
        self.advance(job, if self.all { How::Ring } else { How::Together });
        Pushed::On
    }

    /// Takes a begun job to its next wait, or its end. There is room in the ring.
    fn advance(&mut self, mut job: Job, mut how: How) {
        loop {
            let (at, bytes) = match self.desk.served.store.step(&mut job) {
                Step::Finished => return self.end(job, Ok(())),
                Step::Failed(failure) => return self.end(job, Err(failure)),
                Step::Starved => {
                    self.desk.pins.leave(job.epoch);
                    match self.desk.starve(job) {
                        Some(again) => {
                            job = again;
                            job.epoch = self.desk.pins.enter(&self.desk.served.store.slots);
                            continue;
                        }
                        None => return,
                    }
                }
                Step::Transfer { at, bytes } => (at, bytes),
            };
            if how == How::Ring {
                return self.launch(job, at, bytes);
            }
            if how == How::Together && job.kind == Kind::Write {
                match self.gather(job, at, bytes) {
                    Some(back) => job = back,
                    None => return,
                }
            }
            match self.at_once(&job, at, bytes) {
                Some(Ok(0)) => {
                    let failure = self.desk.store().ended_early(&job);
                    return self.end(job, Err(failure));
                }
                Some(Ok(moved)) => job.done = job.done.saturating_add(moved),
                Some(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Some(Err(e)) => return self.end(job, Err(Failure::Medium(e))),
                None => how = How::Ring,
            }
        }
    }

    /// Moves up to `bytes` bytes without waiting for a disk; `None` when that can not be done.
    fn at_once(&mut self, job: &Job, at: u64, bytes: u64) -> Option<io::Result<u64>> {
        let store = &self.desk.served.store;
        match (job.kind, &job.buffers) {
            (Kind::Read, Some(buffers)) => {
                let file = store.medium.file()?;
                let range = job.done..job.done.saturating_add(bytes);
                match read_at(file.buffered, at, buffers, range, Patience::NoWait) {
                    // Not cached, or a file system that can not tell. (The end of the file is told as such by
                    // the ring.)
                    Ok(0) | Err(_) => None,
                    Ok(moved) => {
                        if let Some(cache) = &mut self.cache {
                            cache.learn(at, moved);
                        }
                        Some(Ok(moved))
                    }
                }
            }
            (Kind::Write, _) => Some(transfer(store, job, at, bytes)),
            _ => None,
        }
    }

    /// Keeps a write for the next call, which goes out first if this one does not fit behind it. Back when
    /// it fits nowhere.
    fn gather(&mut self, job: Job, at: u64, bytes: u64) -> Option<Job> {
        let follows = |gathered: &Gathered| gathered.is_followed_by(at);
        let mut place = self.gathered.iter().position(follows);
        if place.is_none() {
            place = self.gathered.iter().position(Gathered::is_empty);
        }
        let place = place.unwrap_or_else(|| {
            let oldest = self.oldest;
            self.oldest = (oldest + 1) % PLACES;
            self.write_gathered(oldest);
            oldest
        });
        let Some(gathered) = self.gathered.get_mut(place) else { return Some(job) };
        let job = match gathered.add(job, at, bytes) {
            Ok(()) => return None,
            Err(job) => job,
        };
        self.write_gathered(place);
        match self.gathered.get_mut(place) {
            Some(gathered) => gathered.add(job, at, bytes).err(),
            None => Some(job),
        }
    }

    /// Writes what was gathered for `place`.
    fn write_gathered(&mut self, place: usize) {
        let Some(gathered) = self.gathered.get_mut(place).filter(|some| !some.is_empty()) else {
            return;
        };
        let file = self.desk.served.store.medium.file();
        let mut moved = file.map_or(0, |file| gathered.write(file.buffered).unwrap_or(0));
        self.desk.served.store.wrote(gathered.start(), moved);
        let mut written = std::mem::take(&mut self.written);
        gathered.take(&mut written);
        for (mut job, bytes) in written.drain(..) {
            let of_this = bytes.min(moved);
            moved -= of_this;
            job.done = job.done.saturating_add(of_this);
            if job.left() == 0 {
                self.end(job, Ok(()));
            } else {
                self.alone.push(job);
            }
        }
        self.written = written;
    }

    /// Puts a piece of `job` into the ring.
    fn launch(&mut self, job: Job, at: u64, bytes: u64) {
        let taken = match self.desk.served.store.medium.file() {
            Some(file) => {
                let fd = choose(&file, &job, at, bytes);
                self.ring.take(job, fd, at, bytes)
            }
            None => return self.end(job, Err(Failure::Unsupported)),
        };
        if let Err(job) = taken {
            self.end(job, Err(Failure::Medium(io::ErrorKind::ResourceBusy.into())));
        }
    }

    /// Takes a job on that came back from the ring.
    fn landed(&mut self, finished: Finished) {
        let Finished { mut job, result } = finished;
        let moved = match result {
            Ok(0) => {
                let failure = self.desk.store().ended_early(&job);
                return self.end(job, Err(failure));
            }
            Ok(moved) => moved,
            Err(e) => match (Errno::from_io_error(&e), job.kind) {
                (Some(Errno::INTR | Errno::AGAIN), _) => 0,
                // Not on this file system: the medium knows other ways.
                (Some(Errno::OPNOTSUPP | Errno::NOSYS), Kind::Zero { .. }) => {
                    return match run(self.desk.store(), &mut job, None) {
                        Outcome::Finished(result) => self.end(job, result),
                        // Only writes ask for slots.
                        Outcome::Starved => self.end(job, Err(Failure::Unsupported)),
                    };
                }
                _ => return self.end(job, Err(Failure::Medium(e))),
            },
        };
        job.done = job.done.saturating_add(moved);
        self.advance(job, How::Ring);
    }

    fn end(&mut self, job: Job, result: Result<(), Failure>) {
        self.desk.pins.leave(job.epoch);
        self.desk.finish(job, result);
    }

    /// Begins what there is room for, and ends the batch.
    fn drive(&mut self) {
        if !self.queue.is_empty() {
            self.open_batch();
        }
        (self.due, self.due_bytes) = (0, 0);
        // Where the next read begins.
        let mut place = None;
        while let Some(mut job) = self.queue.pop_front() {
            if let Some(cache) = &mut self.cache {
                let first = std::mem::take(&mut place);
                place = self.queue.front_mut().and_then(|next| self.desk.place_of_read(next));
                if let Some((at, bytes)) = place {
                    cache.expect(at, bytes);
                }
                if job.kind == Kind::Read && cache.read(&self.desk.served, &mut job, first) {
                    self.desk.finish(job, Ok(()));
                    continue;
                }
            }
            if let Pushed::Back(job) = self.begin(job) {
                self.queue.push_front(job);
                break;
            }
        }
        (0..PLACES).for_each(|place| self.write_gathered(place));
        // Each goes to its end, or waits for a slot: there are no more of these afterwards.
        while let Some(job) = self.alone.pop() {
            self.advance(job, How::Alone);
        }
        let pin = self.pin.take();
        self.desk.unpin_batch(pin);
    }
}

impl Engine for RingEngine {
    fn submit(&mut self, io: Io) {
        let job = Job::new(io);
        if job.kind == Kind::Read && self.cache.is_some() {
            self.due = self.due.saturating_add(1);
        }
        if job.kind == Kind::Write && !self.all {
            self.due_bytes = self.due_bytes.saturating_add(job.len);
        }
        self.queue.push_back(job);
    }

    fn begin(&mut self) {
        self.drive();
    }

    fn start(&mut self) {
        self.drive();
        if self.ring.submit() {
            // The kernel is short of something: come again.
            self.desk.mailbox.ring();
        }
    }

    fn reap(&mut self, done: &mut Vec<Done>) {
        let again = self.desk.collect();
        self.queue.extend(again);
        while let Some(finished) = self.ring.next_finished() {
            self.landed(finished);
        }
        self.drive();
        if self.ring.has_waiting() {
            // The rest of an operation, or one that there was no room for: whoever does not start us anyhow
            // is not to wait for it.
            self.desk.mailbox.ring();
        }
        done.append(&mut self.desk.done);
    }

    fn in_flight(&self) -> usize {
        let begun = self.desk.in_flight().saturating_add(self.ring.flying());
        // (Nothing is gathered between batches.)
        begun.saturating_add(self.queue.len())
    }

    fn due(&self) -> usize {
        let written = usize::try_from(self.due_bytes / DUE_BYTES).unwrap_or(usize::MAX);
        self.due.saturating_add(written)
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        Some(self.event.as_fd())
    }
}

/// The descriptor for a piece: past the page cache only where everything is aligned for that.
fn choose<'a>(file: &MediumFile<'a>, job: &Job, at: u64, bytes: u64) -> BorrowedFd<'a> {
    let (Some(direct), Some(buffers)) = (file.direct, &job.buffers) else { return file.buffered };
    let range = job.done..job.done.saturating_add(bytes);
    let fits = (at | bytes).is_multiple_of(u64::from(direct.align))
        && is_aligned(buffers, range, direct.align);
    if fits { direct.fd } else { file.buffered }
}
