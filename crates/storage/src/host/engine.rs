//! The engine of a host's disk: data past the page cache, straight from guest memory where that is aligned
//! as the disk wants it; commands to zones and flushes through the helpers. Writes to sequential zones of a disk that
//! takes appends natively go past the block layer, as the appends do.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::fallocate;
use rustix::io::{Errno, pread, pwrite};
use zvb_wire::Sector;

use super::disk::{Disk, failure_of};
use super::gate::Pass;
use super::helpers::{Chore, Helpers};
use super::native::{Native, refusal_of};
use crate::committer::Mailbox;
use crate::engine::{Job, Kind};
use crate::sys::{
    Bounce, Finished, Namespace, NvmeFinished, NvmeResult, NvmeRing, Patience, Ring, is_aligned,
    read_at, write_at, zero_flags,
};
use crate::volume::{Done, Engine, Failure, Io};

/// The most bytes that are copied at once for the sake of alignment.
const BOUNCE_MAX: u64 = 1 << 20;
/// What memory of our own is aligned to, at least.
const PAGE: u32 = 4096;

/// Moves bytes between one queue and a disk.
pub(super) struct HostEngine {
    /// Dropped first, which waits for what is under way. Without it everything is done at once.
    ring: Option<Ring>,
    /// For writes to sequential zones, of a disk that takes them natively.
    native: Option<(NvmeRing, Namespace)>,
    disk: Arc<Disk>,
    helpers: Arc<Helpers>,
    mailbox: Arc<Mailbox>,
    /// Readable when the ring has something, or the mailbox.
    event: Option<OwnedFd>,
    /// Taken, not begun.
    queue: VecDeque<Job>,
    /// Writes at the gates of their zones, in the order in which they came.
    waiting: VecDeque<Job>,
    /// One of them may pass now.
    passes: bool,
    done: Vec<Done>,
    /// What the helpers have.
    helping: usize,
}

impl fmt::Debug for HostEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostEngine").field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}

/// A job that needs something done next.
enum Next {
    /// These bytes of the disk are moved.
    Move { at: u64, bytes: u64 },
    /// It is over.
    End(Result<(), Failure>),
}

impl HostEngine {
    pub(super) fn new(
        disk: Arc<Disk>,
        helpers: Arc<Helpers>,
        ring: Option<Ring>,
        native: Option<(NvmeRing, Namespace)>,
    ) -> io::Result<Self> {
        let mailbox = Arc::new(Mailbox::new()?);
        let event = match (&ring, &native) {
            (Some(ring), Some((native, _))) => {
                Some(ring.event_with(&[native.event(), mailbox.event()])?)
            }
            (Some(ring), None) => Some(ring.event_with(&[mailbox.event()])?),
            (None, Some((native, _))) => Some(native.event_with(&[mailbox.event()])?),
            (None, None) => None,
        };
        Ok(Self {
            ring,
            native,
            disk,
            helpers,
            mailbox,
            event,
            queue: VecDeque::new(),
            waiting: VecDeque::new(),
            passes: false,
            done: Vec::new(),
            helping: 0,
        })
    }

    /// Begins what there is room for.
    fn drive(&mut self) {
        loop {
            if std::mem::take(&mut self.passes) {
                while let Some(job) = self.waiting.pop_back() {
                    self.queue.push_front(job);
                }
            }
            while let Some(job) = self.queue.pop_front() {
                if !self.has_room() {
                    self.queue.push_front(job);
                    break;
                }
                self.begin(job);
            }
            // Without a ring, what has just been done may let another pass.
            if !self.passes {
                break;
            }
        }
        let again = self.ring.as_mut().is_some_and(Ring::submit);
        if self.native.as_mut().is_some_and(|(native, _)| native.submit()) || again {
            // The kernel is short of something: come again.
            self.mailbox.ring();
        }
    }

    fn has_room(&self) -> bool {
        self.ring.as_ref().is_none_or(Ring::has_room)
            && self.native.as_ref().is_none_or(|(native, _)| native.has_room())
    }

    fn begin(&mut self, job: Job) {
        let chore = match job.kind {
            Kind::Flush => Some(Chore::Flush),
            Kind::Command(command) => Some(Chore::Command(command)),
            _ => None,
        };
        if let Some(chore) = chore {
            self.helpers.ask(chore, &self.mailbox, job.tag);
            self.helping = self.helping.saturating_add(1);
            return;
        }
        if job.changes() && self.disk.shape.read_only {
            return self.finish(job, Err(Failure::Unsupported));
        }
        if let Some((zone, inside)) = self.gate_of(&job) {
            if job.kind == Kind::Append {
                self.disk.gates.enter_append(zone.0);
                self.disk.opens(zone);
                return self.advance(job);
            }
            match self.disk.gates.enter(zone.0, inside, &self.mailbox) {
                Pass::Go => self.disk.opens(zone),
                Pass::Wait => return self.waiting.push_back(job),
                Pass::Failed => return self.finish(job, Err(Failure::Behind)),
            }
        }
        self.advance(job);
    }

    /// The zone whose gate a job passes, and where in it it begins.
    fn gate_of(&self, job: &Job) -> Option<(zvb_zones::ZoneId, u32)> {
        if job.changes() { self.disk.sequential(job.at) } else { None }
    }

    /// Takes a job that passed to its next wait, or its end.
    fn advance(&mut self, mut job: Job) {
        loop {
            let (at, bytes) = match self.next(&mut job) {
                Next::End(result) => return self.end(job, result),
                Next::Move { at, bytes } => (at, bytes),
            };
            let gated = self.gate_of(&job).is_some();
            if let Some((native, namespace)) = self.native.as_mut().filter(|_| gated) {
                if let Err(job) = native.take_write(job, *namespace, at, bytes) {
                    self.end(job, Err(Failure::Medium(io::ErrorKind::ResourceBusy.into())));
                }
                return;
            }
            let Some(ring) = &mut self.ring else {
                match move_at_once(&self.disk, &mut job, at, bytes) {
                    Ok(moved) => match landed(&mut job, moved) {
                        Ok(()) => continue,
                        Err(failure) => return self.end(job, Err(failure)),
                    },
                    Err(error) => match recovers(&mut job, &error) {
                        true => continue,
                        false => return self.end(job, Err(failure_of(error))),
                    },
                }
            };
            if let Err(job) = ring.take(job, self.disk.file.as_fd(), at, bytes) {
                self.end(job, Err(Failure::Medium(io::ErrorKind::ResourceBusy.into())));
            }
            return;
        }
    }

    /// What `job` needs next: with a bounce ready where guest memory will not do.
    fn next(&self, job: &mut Job) -> Next {
        let (at, left) = (job.position(), job.left());
        if left == 0 {
            return Next::End(Ok(()));
        }
        let size = self.disk.shape.capacity.to_bytes().unwrap_or(u64::MAX);
        if at.checked_add(left).is_none_or(|end| end > size) {
            return Next::End(Err(Failure::Short { missing: left }));
        }
        let block = u64::from(self.disk.shape.block_size);
        let whole = (at | left).is_multiple_of(block);
        if job.changes() && !whole {
            let block = self.disk.shape.block_size;
            return Next::End(Err(Failure::Unaligned { block }));
        }
        let native = self.disk.native.as_ref().filter(|_| self.gate_of(job).is_some());
        let most = native.map_or(u64::MAX, Native::max_bytes);
        match (job.kind, &job.buffers) {
            (Kind::Zero { .. }, _) => {
                let by_writing = job.bounce.is_some() || self.disk.sequential(at).is_some();
                if by_writing {
                    let bytes = left.min(BOUNCE_MAX).min(most);
                    job.bounce = Some(self.bounce(bytes));
                    return Next::Move { at, bytes };
                }
            }
            (_, Some(buffers)) => {
                // An append is one command: nothing of it could be put behind the rest.
                let (most, copied) = match job.kind {
                    Kind::Append if left > most => return Next::End(Err(Failure::Unsupported)),
                    Kind::Append => (left, left),
                    _ => (left.min(most), left.min(most).min(BOUNCE_MAX)),
                };
                let range = job.done..job.done.saturating_add(most);
                let fits = native.is_none_or(|native| native.takes(buffers, range.clone()));
                if whole && fits && is_aligned(buffers, range, self.disk.shape.block_size) {
                    job.bounce = None;
                    return Next::Move { at, bytes: most };
                }
                let from = at - at % block;
                let bytes = copied.saturating_add(at - from).next_multiple_of(block);
                let bytes = if job.kind == Kind::Read { bytes.min(BOUNCE_MAX) } else { bytes };
                let mut bounce = self.bounce(bytes);
                bounce.skip = (at - from) as usize;
                if job.changes() && buffers.read(job.done, &mut bounce).is_err() {
                    return Next::End(Err(Failure::Short { missing: left }));
                }
                job.bounce = Some(bounce);
                return Next::Move { at: from, bytes };
            }
            _ => {}
        }
        Next::Move { at, bytes: left }
    }

    fn bounce(&self, bytes: u64) -> Box<Bounce> {
        // At most `BOUNCE_MAX` and a block.
        Box::new(Bounce::new(bytes as usize, self.disk.shape.block_size.max(PAGE) as usize))
    }

    /// Takes a job on that came back from the ring.
    fn back(&mut self, finished: Finished) {
        let Finished { mut job, result } = finished;
        let failure = match result {
            Ok(moved) => landed(&mut job, moved).err(),
            Err(error) if recovers(&mut job, &error) => None,
            Err(error) => Some(failure_of(error)),
        };
        match failure {
            None => self.advance(job),
            Some(failure) => self.end(job, Err(failure)),
        }
    }

    /// Takes a job on that came back natively. What failed is not tried again: it may be written all the same.
    fn written(&mut self, finished: NvmeFinished) {
        let NvmeFinished { mut job, asked, result, placed } = finished;
        let failure = match result {
            NvmeResult::Done if placed.is_some() => return self.end_at(job, Ok(()), placed),
            NvmeResult::Done => landed(&mut job, asked).err(),
            NvmeResult::Refused(status) => Some(refusal_of(status)),
            NvmeResult::Failed(error) => Some(failure_of(error)),
        };
        match failure {
            None => self.advance(job),
            Some(failure) => self.end(job, Err(failure)),
        }
    }

    /// A job that passed is over.
    fn end(&mut self, job: Job, result: Result<(), Failure>) {
        self.end_at(job, result, None);
    }

    /// The same, of an append that went to the place that is known.
    fn end_at(&mut self, job: Job, result: Result<(), Failure>, placed: Option<Sector>) {
        if let Some((zone, _)) = self.gate_of(&job) {
            // Both ends are in the zone.
            let start = self.disk.sequential(job.at).map_or(0, |(_, inside)| inside);
            let sectors = (job.len / zvb_wire::SECTOR_BYTES) as u32;
            if job.kind == Kind::Append {
                let sectors = result.is_ok().then_some(sectors);
                self.passes |= self.disk.gates.leave_append(zone.0, sectors, &self.mailbox);
                self.disk.written(zone, self.disk.gates.end(zone.0));
                self.done.push(Done { placed, ..job.finish(result) });
                return;
            }
            let end = start.saturating_add(sectors);
            if result.is_ok() {
                self.disk.written(zone, end);
            }
            let end = result.is_ok().then_some(end);
            self.passes |= self.disk.gates.leave(zone.0, end, &self.mailbox);
        }
        self.finish(job, result);
    }

    fn finish(&mut self, job: Job, result: Result<(), Failure>) {
        self.done.push(job.finish(result));
    }
}

impl Engine for HostEngine {
    fn submit(&mut self, io: Io) {
        self.queue.push_back(Job::new(io));
    }

    fn start(&mut self) {
        self.drive();
    }

    fn reap(&mut self, done: &mut Vec<Done>) {
        if let Some(helped) = self.mailbox.take() {
            self.helping = self.helping.saturating_sub(helped.len());
            for (tag, result) in helped {
                let result = result.map_err(|error| failure_of(error.into()));
                self.done.push(Done { tag, result, buffers: None, placed: None });
            }
            self.passes = true;
        }
        while let Some(finished) = self.ring.as_mut().and_then(Ring::next_finished) {
            self.back(finished);
        }
        while let Some((native, namespace)) = &mut self.native
            && let Some(finished) = native.next_written(*namespace)
        {
            self.written(finished);
        }
        self.drive();
        done.append(&mut self.done);
    }

    fn in_flight(&self) -> usize {
        let held = self.queue.len().saturating_add(self.waiting.len());
        let flying = self.ring.as_ref().map_or(0, Ring::flying);
        let native = self.native.as_ref().map_or(0, |(native, _)| native.flying());
        let flying = flying.saturating_add(native);
        held.saturating_add(flying).saturating_add(self.helping).saturating_add(self.done.len())
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        Some(self.event.as_ref().map_or(self.mailbox.event(), AsFd::as_fd))
    }
}

/// Counts `moved` bytes of the disk as moved for `job`.
fn landed(job: &mut Job, moved: u64) -> Result<(), Failure> {
    let left = job.left();
    let (skip, bounced) = job.bounce.as_ref().map_or((0, false), |b| (b.skip, true));
    let useful = moved.saturating_sub(skip as u64).min(left);
    if useful == 0 {
        return Err(Failure::Short { missing: left });
    }
    if bounced
        && job.kind == Kind::Read
        && let (Some(bounce), Some(buffers)) = (&job.bounce, &job.buffers)
    {
        let end = skip.saturating_add(useful as usize);
        let bytes = bounce.get(skip..end).unwrap_or_default();
        let copied = buffers.write(job.done, bytes);
        debug_assert!(copied.is_ok(), "no more is copied than was asked for");
    }
    job.done = job.done.saturating_add(useful);
    Ok(())
}

/// True when `job` is worth another try after `error`, in the same way or another.
fn recovers(job: &mut Job, error: &io::Error) -> bool {
    match (Errno::from_io_error(error), job.kind) {
        (Some(Errno::INTR | Errno::AGAIN), _) => true,
        // The disk can not unmap so, or not at all: it is asked for less, and in the end written to.
        (Some(Errno::OPNOTSUPP | Errno::NOSYS), Kind::Zero { unmap: true }) => {
            job.kind = Kind::Zero { unmap: false };
            true
        }
        (Some(Errno::OPNOTSUPP | Errno::NOSYS), Kind::Zero { unmap: false }) => {
            let first = job.bounce.is_none();
            job.bounce = Some(Box::new(Bounce::new(1, 1)));
            first
        }
        _ => false,
    }
}

/// Moves up to `bytes` bytes from or to `at`, and waits for the disk.
fn move_at_once(disk: &Disk, job: &mut Job, at: u64, bytes: u64) -> io::Result<u64> {
    let fd = disk.fd();
    let range = job.done..job.done.saturating_add(bytes);
    match (job.kind, &mut job.bounce, &job.buffers) {
        (Kind::Read, Some(bounce), _) => Ok(pread(fd, &mut bounce[..], at)? as u64),
        (Kind::Write | Kind::Zero { .. }, Some(bounce), _) => {
            Ok(pwrite(fd, &bounce[..], at)? as u64)
        }
        (Kind::Read, None, Some(buffers)) => read_at(fd, at, buffers, range, Patience::Wait),
        (Kind::Write, None, Some(buffers)) => write_at(fd, at, buffers, range),
        (Kind::Zero { unmap }, None, _) => {
            fallocate(fd, zero_flags(unmap), at, bytes)?;
            Ok(bytes)
        }
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}
