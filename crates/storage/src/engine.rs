//! Engines: how bytes get from guest memory to a medium and back.
//!
//! | engine | reads | writes | zeroes, discards |
//! |---|---|---|---|
//! | sync | at once | at once | at once |
//! | uring | io_uring | io_uring | io_uring |
//! | auto, buffered | at once if cached, else io_uring | at once, into the cache | io_uring |
//!
//! "At once" is inside [`submit`](crate::Engine::submit) or [`start`](crate::Engine::start). A flush is
//! always the committer's.

mod auto;
mod cache;
mod job;
mod sync;

pub(crate) use auto::RingEngine;
pub(crate) use job::{Job, Kind};
pub(crate) use sync::SyncEngine;

use std::fmt;
use std::io;
use std::ops::Range;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::committer::{Committer, Mailbox};
use crate::promise::CommitError;
use crate::slots::Pins;
use crate::store::{Step, Store};
use crate::sys::{FileMap, Rings};
use crate::volume::{Done, Engine, EngineError, Failure};

/// Which engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum EngineKind {
    /// What is best for the medium, and to be had here.
    #[default]
    Auto,
    /// One plain system call for each operation.
    Sync,
    /// io_uring for everything.
    Uring,
}

impl EngineKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Sync, Self::Uring];

    /// Its name: `auto`, `sync`, `uring`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Sync => "sync",
            Self::Uring => "uring",
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no engine has.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there is no engine \"{0}\": auto, sync and uring are")]
pub struct UnknownEngine(pub String);

impl FromStr for EngineKind {
    type Err = UnknownEngine;

    fn from_str(name: &str) -> Result<Self, UnknownEngine> {
        let known = Self::ALL.into_iter().find(|kind| kind.name() == name);
        known.ok_or_else(|| UnknownEngine(name.to_owned()))
    }
}

/// A store and who commits it: what an engine works on.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) store: Arc<Store>,
    pub(crate) committer: Committer,
    /// Rings that were made ahead.
    rings: Arc<Rings>,
    /// For reads of what is cached, once an engine has asked for it; and how much was to be mapped.
    map: Mutex<Option<(u64, Option<Arc<FileMap>>)>>,
}

impl Served {
    /// `store`, committed by `committer`.
    pub(crate) fn new(store: Arc<Store>, committer: Committer) -> Self {
        Self { store, committer, rings: Arc::default(), map: Mutex::default() }
    }

    /// Makes what `count` engines of `kind` need, each for `depth` operations, that can not be made later by
    /// a process that has confined itself.
    pub(crate) fn prepare(
        &self,
        kind: EngineKind,
        count: u16,
        depth: u32,
    ) -> Result<(), EngineError> {
        if kind == EngineKind::Sync || self.store.medium.file().is_none() {
            return Ok(());
        }
        match self.rings.prepare(count, depth) {
            Err(source) if kind == EngineKind::Uring => {
                Err(EngineError { engine: "uring", source })
            }
            // Where there are none, other engines are.
            _ => Ok(()),
        }
    }

    /// A mapping of the file; `None` where there is none to be had.
    fn file_map(&self) -> Option<Arc<FileMap>> {
        let end = self.store.layout().end();
        let make = || {
            let file = self.store.medium.file()?;
            let writable = !self.store.shape.read_only;
            // Without it, reads take a system call each.
            FileMap::new(file.buffered, end, writable).ok().map(Arc::new)
        };
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        // An image that has grown since is mapped anew; who has the old mapping reads the rest without.
        if map.as_ref().is_none_or(|(mapped, _)| *mapped != end) {
            *map = Some((end, make()));
        }
        map.as_ref().and_then(|(_, map)| map.clone())
    }
}

/// An engine for up to `depth` operations in flight on `served`.
pub(crate) fn new(
    served: Arc<Served>,
    kind: EngineKind,
    depth: u32,
) -> Result<Box<dyn Engine>, EngineError> {
    let error = |engine| move |source| EngineError { engine, source };
    served.committer.start().map_err(error("commit side of the"))?;
    let has_file = served.store.medium.file().is_some();
    if has_file && kind != EngineKind::Sync {
        let all = kind == EngineKind::Uring
            || served.store.medium.file().is_some_and(|f| f.direct.is_some());
        match RingEngine::new(Arc::clone(&served), depth, all) {
            Ok(engine) => return Ok(Box::new(engine)),
            // Not to be had here: not compiled in, forbidden, or no memory to lock.
            Err(_) if kind == EngineKind::Auto => {}
            Err(source) => return Err(error("uring")(source)),
        }
    } else if kind == EngineKind::Uring {
        return Err(error("uring")(io::ErrorKind::Unsupported.into()));
    }
    Ok(Box::new(SyncEngine::new(served).map_err(error("sync"))?))
}

/// What every engine has: its line to the committer, what it must not have pulled from under it, and
/// what is finished and not yet reaped.
#[derive(Debug)]
struct Desk {
    served: Arc<Served>,
    mailbox: Arc<Mailbox>,
    pins: Pins,
    done: Vec<Done>,
    /// Flushes that the committer has.
    flushing: usize,
    /// Writes that wait for a slot.
    starved: Vec<Job>,
}

impl Desk {
    fn new(served: Arc<Served>) -> io::Result<Self> {
        let mailbox = Arc::new(Mailbox::new()?);
        let pins = Pins::new(&served.store.slots);
        Ok(Self { served, mailbox, pins, done: Vec::new(), flushing: 0, starved: Vec::new() })
    }

    fn store(&self) -> &Store {
        &self.served.store
    }

    /// Operations that are here.
    fn in_flight(&self) -> usize {
        self.done.len().saturating_add(self.flushing).saturating_add(self.starved.len())
    }

    /// One pin for a batch, under which those of its operations cost next to nothing. None where a commit
    /// may happen inside the batch: it must not wait for ourselves.
    fn pin_batch(&mut self) -> Option<u64> {
        match self.served.committer {
            Committer::Caller => None,
            _ => Some(self.pins.enter(&self.served.store.slots)),
        }
    }

    fn unpin_batch(&mut self, pin: Option<u64>) {
        if let Some(epoch) = pin {
            self.pins.leave(epoch);
        }
        let Served { store, committer, .. } = &*self.served;
        if store.slots.take_wish() {
            committer.wish();
        }
    }

    /// Where a read begins, and how much of it lies there. Under the pin of its batch.
    fn place_of_read(&self, job: &mut Job) -> Option<(u64, u64)> {
        match (job.kind, &job.buffers) {
            (Kind::Read, Some(_)) => match self.store().step(job) {
                Step::Transfer { at, bytes } => Some((at, bytes)),
                // Told again to whoever does it.
                Step::Finished | Step::Starved | Step::Failed(_) => None,
            },
            _ => None,
        }
    }

    fn finish(&mut self, mut job: Job, result: Result<(), Failure>) {
        // The space that zones have let go of is kept for a while: a full medium wants it back. Once a job:
        // others may take what is given back.
        if is_full(&result)
            && job.changes()
            && !job.made_room
            && self.served.committer.make_room(&self.served.store, &self.mailbox)
        {
            job.made_room = true;
            return self.starved.push(job);
        }
        self.done.push(job.finish(result));
    }

    /// Hands a flush over to the committer.
    fn flush(&mut self, job: Job) {
        match self.served.committer.flush(&self.served.store, &self.mailbox, job.tag) {
            Some(result) => self.finish(job, result.map_err(Failure::from)),
            None => self.flushing = self.flushing.saturating_add(1),
        }
    }

    /// Keeps a job until there is a slot for it. Some when it can be tried again now.
    fn starve(&mut self, job: Job) -> Option<Job> {
        if self.served.committer.starved(&self.served.store, &self.mailbox) {
            return Some(job);
        }
        self.starved.push(job);
        None
    }

    /// Takes what the committer has for us: flushes go to `done`, writes that may have a slot now are
    /// returned.
    fn collect(&mut self) -> Vec<Job> {
        let Some(flushed) = self.mailbox.take() else { return Vec::new() };
        for (tag, result) in flushed {
            let result: Result<(), CommitError> = result;
            self.flushing = self.flushing.saturating_sub(1);
            let result = result.map_err(Failure::from);
            self.done.push(Done { tag, result, buffers: None, placed: None });
        }
        let starved = std::mem::take(&mut self.starved);
        let Some(refusal) = self.mailbox.take_refusal() else { return starved };
        for job in starved {
            self.finish(job, Err(refusal.into()));
        }
        Vec::new()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.pins.retire(&self.served.store.slots);
    }
}

/// The medium has no room left.
fn is_full(result: &Result<(), Failure>) -> bool {
    let full = Some(rustix::io::Errno::NOSPC.raw_os_error());
    matches!(result, Err(Failure::Medium(error)) if error.raw_os_error() == full)
}

/// How a job done at once came out.
enum Outcome {
    Finished(Result<(), Failure>),
    Starved,
}

/// Does all that is left of `job`, waiting for the medium. It goes on at `first`, where that is known: so many
/// bytes at this byte of the medium.
fn run(store: &Store, job: &mut Job, mut first: Option<(u64, u64)>) -> Outcome {
    loop {
        let (at, bytes) = match first.take() {
            Some(place) => place,
            None => match store.step(job) {
                Step::Finished => return Outcome::Finished(Ok(())),
                Step::Starved => return Outcome::Starved,
                Step::Failed(failure) => return Outcome::Finished(Err(failure)),
                Step::Transfer { at, bytes } => (at, bytes),
            },
        };
        match transfer(store, job, at, bytes) {
            Ok(0) => return Outcome::Finished(Err(store.ended_early(job))),
            Ok(moved) => job.done = job.done.saturating_add(moved),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Outcome::Finished(Err(Failure::Medium(e))),
        }
    }
}

/// Moves up to `bytes` bytes of `job`.
fn transfer(store: &Store, job: &Job, at: u64, bytes: u64) -> io::Result<u64> {
    let range: Range<u64> = job.done..job.done.saturating_add(bytes);
    match (job.kind, &job.buffers) {
        (Kind::Read, Some(buffers)) => store.medium.read(at, buffers, range),
        (Kind::Write, Some(buffers)) => {
            let written = store.medium.write(at, buffers, range)?;
            store.wrote(at, written);
            Ok(written)
        }
        (Kind::Zero { unmap }, _) => {
            store.medium.zero(at..at.saturating_add(bytes), unmap).map(|()| bytes)
        }
        (Kind::Append | Kind::Command(_), _) => Err(io::ErrorKind::Unsupported.into()),
        (Kind::Flush, _) | (_, None) => Ok(bytes),
    }
}
