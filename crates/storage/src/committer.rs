//! The thread that syncs, so that no queue's worker has to. Flushes that come while it is at it share
//! the next commit.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};

use crate::promise::CommitError;
use crate::store::Store;

/// How long slots that wait for operations to end wait between looks.
const RECLAIM_EVERY: Duration = Duration::from_millis(5);

/// How often, at most, where the medium is full and writes wait for the space.
const RECLAIM_LOOKS: u32 = 40;

/// How many times as long as it takes to renew a part of a slot nothing more is renewed: writes are to have
/// most of the file's, and of a processor's, time.
const RENEW_PAUSE: u32 = 4;

/// How long a slot that was let go is kept as it is, for the next zone that wants one.
const KEEP_WARM: Duration = Duration::from_secs(1);

/// The same, and in spite of flushes, from the last time on that a zone wanted one: where zones are reset
/// and written again, the same space goes round, and giving it back only to take it again is what costs.
const KEEP_WANTED: Duration = Duration::from_secs(30);

/// Who commits.
#[derive(Debug)]
pub(crate) enum Committer {
    /// A thread of its own.
    Thread(Thread),
    /// The same, for what dies with the process: there is nothing to wait for.
    Volatile(Thread),
    /// Whoever asks, there and then.
    Caller,
}

/// A thread, ended and joined when this is dropped. It is started with the first engine: a server confines
/// itself between opening an image and that, and its walls are to be around every thread.
#[derive(Debug)]
pub(crate) struct Thread {
    shared: Arc<Shared>,
    store: Arc<Store>,
    handle: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    asked: Mutex<Asked>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Asked {
    /// Each with the tag of the flush.
    flushes: Vec<(Arc<Mailbox>, u64)>,
    /// Engines that have writes waiting for a slot.
    starved: Vec<Arc<Mailbox>>,
    /// Slots were let go, and nobody waits for one.
    tidy: bool,
    /// Slots that were let go will be wanted soon.
    wish: bool,
    /// The medium is full: space that is kept is given back.
    full: bool,
    stop: bool,
}

impl Asked {
    fn is_nothing(&self) -> bool {
        let Self { flushes, starved, tidy, wish, full: _, stop } = self;
        !(*tidy || *wish || *stop) && flushes.is_empty() && starved.is_empty()
    }
}

/// What the thread does next.
struct Work {
    flushes: Vec<(Arc<Mailbox>, u64)>,
    starved: Vec<Arc<Mailbox>>,
    /// All that was done is made durable.
    commit: bool,
    /// Resets are made durable, at least.
    resets: bool,
    /// Slots that were let go are cleared, not kept.
    clear: bool,
    /// All of them, also those in which operations are still under way: writes wait for the space.
    full: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an engine hears from the committer through.
#[derive(Debug)]
pub(crate) struct Mailbox {
    event: OwnedFd,
    /// Something came since the engine last looked.
    fresh: AtomicBool,
    flushed: Mutex<Vec<(u64, Result<(), CommitError>)>>,
    /// Why there will be no slot for the writes that wait for one: an error of the system, 0 for none.
    refused: AtomicI32,
}

impl Mailbox {
    /// An empty one.
    pub(crate) fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            event,
            fresh: AtomicBool::new(false),
            flushed: Mutex::default(),
            refused: AtomicI32::new(0),
        })
    }

    /// Readable when [`take`](Self::take) has something to say.
    pub(crate) fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Makes the engine look.
    pub(crate) fn ring(&self) {
        // Fails only when it is readable already. Before the flag: whoever sees the flag drains this.
        let _ = rustix::io::write(&self.event, &1u64.to_le_bytes());
        self.fresh.store(true, Ordering::Release);
    }

    /// Tells the engine how operation `tag` went, that somebody else did for it.
    pub(crate) fn post(&self, tag: u64, result: Result<(), CommitError>) {
        lock(&self.flushed).push((tag, result));
        self.ring();
    }

    /// No slot could be cleared for the writes that wait for one.
    fn refuse(&self, error: &io::Error) {
        let CommitError::Medium(code) = CommitError::from(error) else { return };
        self.refused.store(code, Ordering::Release);
        self.ring();
    }

    /// What the writes that wait for a slot fail with, if they do.
    pub(crate) fn take_refusal(&self) -> Option<CommitError> {
        let code = self.refused.swap(0, Ordering::AcqRel);
        (code != 0).then_some(CommitError::Medium(code))
    }

    /// The flushes that are done, or `None` when nothing happened. Writes that wait for a slot are to be
    /// tried again.
    pub(crate) fn take(&self) -> Option<Vec<(u64, Result<(), CommitError>)>> {
        if !self.fresh.load(Ordering::Relaxed) {
            return None;
        }
        // The flag, the event, the list: what comes later leaves flag and event set.
        self.fresh.swap(false, Ordering::AcqRel);
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
        Some(std::mem::take(&mut lock(&self.flushed)))
    }
}

impl Committer {
    /// A thread that commits `store`.
    pub(crate) fn thread(store: Arc<Store>) -> Self {
        Self::Thread(Thread::new(store))
    }

    /// A thread that cleans up after `store`, which keeps nothing.
    pub(crate) fn volatile(store: Arc<Store>) -> Self {
        Self::Volatile(Thread::new(store))
    }

    /// There is an engine: from here on somebody commits.
    pub(crate) fn start(&self) -> io::Result<()> {
        match self {
            Self::Thread(thread) | Self::Volatile(thread) => thread.start(),
            Self::Caller => Ok(()),
        }
    }

    /// Asks for a commit on behalf of a flush. The result, if it is there already; else it comes to
    /// `mailbox`.
    pub(crate) fn flush(
        &self,
        store: &Store,
        mailbox: &Arc<Mailbox>,
        tag: u64,
    ) -> Option<Result<(), CommitError>> {
        match self {
            _ if store.shape.read_only => Some(Ok(())),
            Self::Caller => {
                let result = store.commit();
                // Who needs what could not be cleared hears of it.
                let _ = store.reclaim().and_then(|()| store.clear_warm());
                Some(result)
            }
            Self::Volatile(thread) => {
                if store.slots.any_detached() {
                    lock(&thread.shared.asked).tidy = true;
                    thread.shared.wake.notify_one();
                }
                Some(Ok(()))
            }
            Self::Thread(thread) => {
                lock(&thread.shared.asked).flushes.push((Arc::clone(mailbox), tag));
                thread.shared.wake.notify_one();
                None
            }
        }
    }

    /// Slots were let go: if nothing else comes, their space is given back after a while.
    pub(crate) fn let_go(&self) {
        if let Self::Thread(thread) | Self::Volatile(thread) = self {
            // Between the thread's look and its sleep there is nobody to be woken: it holds the lock there.
            drop(lock(&thread.shared.asked));
            thread.shared.wake.notify_one();
        }
    }

    /// The next zones will want slots that others let go of.
    pub(crate) fn wish(&self) {
        if let Self::Thread(thread) | Self::Volatile(thread) = self {
            lock(&thread.shared.asked).wish = true;
            thread.shared.wake.notify_one();
        }
    }

    /// The medium is full. True when there is space to be given back: `mailbox` hears when that was done, or
    /// could not be.
    pub(crate) fn make_room(&self, store: &Store, mailbox: &Arc<Mailbox>) -> bool {
        let (Self::Thread(thread) | Self::Volatile(thread)) = self else { return false };
        if store.is_poisoned() || !store.slots.any_kept() {
            return false;
        }
        let mut asked = lock(&thread.shared.asked);
        asked.full = true;
        if !asked.starved.iter().any(|m| Arc::ptr_eq(m, mailbox)) {
            asked.starved.push(Arc::clone(mailbox));
        }
        drop(asked);
        thread.shared.wake.notify_one();
        true
    }

    /// Asks for a free slot. True when trying again may help now; else `mailbox` hears when.
    pub(crate) fn starved(&self, store: &Store, mailbox: &Arc<Mailbox>) -> bool {
        match self {
            Self::Caller => {
                let committed = store.commit_resets().is_ok();
                let cleared = store.reclaim();
                let again = !committed || store.slots.any_free();
                if let (false, Err(error)) = (again, &cleared) {
                    mailbox.refuse(error);
                } else if !again {
                    // Operations of other engines are under way: come again.
                    mailbox.ring();
                }
                again
            }
            Self::Thread(thread) | Self::Volatile(thread) => {
                let mut asked = lock(&thread.shared.asked);
                if !asked.starved.iter().any(|m| Arc::ptr_eq(m, mailbox)) {
                    asked.starved.push(Arc::clone(mailbox));
                }
                drop(asked);
                thread.shared.wake.notify_one();
                false
            }
        }
    }
}

impl Thread {
    fn new(store: Arc<Store>) -> Self {
        Self { shared: Arc::default(), store, handle: Mutex::default() }
    }

    fn start(&self) -> io::Result<()> {
        let mut handle = lock(&self.handle);
        if handle.is_none() && !self.store.shape.read_only {
            let (shared, store) = (Arc::clone(&self.shared), Arc::clone(&self.store));
            let run = move || shared.run(&store);
            *handle = Some(Builder::new().name("zvb-commit".into()).spawn(run)?);
        }
        Ok(())
    }
}

impl Shared {
    fn run(&self, store: &Store) {
        // When the next part of a slot may be renewed.
        let mut rested = Instant::now();
        while let Some(work) = self.wait(store, rested) {
            let Work { flushes, starved, commit, resets, clear, full } = work;
            if resets && !commit {
                // A failure has poisoned the store: those that wait find out when they try again.
                let _ = store.commit_resets();
            }
            if commit {
                let result = store.commit();
                for (mailbox, tag) in flushes {
                    mailbox.post(tag, result);
                }
            }
            let mut cleared = store.reclaim();
            if !starved.is_empty() {
                store.slots.stop_renewing();
            }
            if clear {
                cleared = cleared.and(store.clear_warm());
            }
            for _ in 0..RECLAIM_LOOKS {
                if !full || cleared.is_err() || !store.slots.any_released() {
                    break;
                }
                std::thread::sleep(RECLAIM_EVERY);
                cleared = store.reclaim().and_then(|()| store.clear_warm());
            }
            if store.slots.any_free() || store.is_poisoned() {
                starved.iter().for_each(|mailbox| mailbox.ring());
            } else if let Err(error) = cleared {
                starved.iter().for_each(|mailbox| mailbox.refuse(&error));
            } else if !starved.is_empty() {
                // Operations are still under way in every slot let go.
                std::thread::sleep(RECLAIM_EVERY);
                lock(&self.asked).starved.extend(starved);
            }
            let now = Instant::now();
            if now >= rested && store.slots.any_to_renew() && lock(&self.asked).is_nothing() {
                store.renew();
                let end = Instant::now();
                rested = end + end.saturating_duration_since(now) * RENEW_PAUSE;
            }
        }
    }

    /// What is to be done next; `None` at the end.
    fn wait(&self, store: &Store, rested: Instant) -> Option<Work> {
        let mut asked = lock(&self.asked);
        let mut idle = false;
        loop {
            if asked.stop {
                return None;
            }
            if !asked.is_nothing() {
                break;
            }
            let renewal = store.slots.any_to_renew().then(|| {
                let left = rested.saturating_duration_since(Instant::now());
                (left, false)
            });
            let patience = match () {
                () if store.is_poisoned() => None,
                () if store.slots.any_released() => Some((RECLAIM_EVERY, false)),
                () if store.slots.any_warm() || store.slots.any_detached() => {
                    Some((wanted(store).unwrap_or(KEEP_WARM).max(KEEP_WARM), true))
                }
                () => None,
            };
            if let Some((patience, clear)) = patience.into_iter().chain(renewal).min() {
                let waited = self.wake.wait_timeout(asked, patience);
                let (guard, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                asked = guard;
                if timeout.timed_out() {
                    idle = clear;
                    break;
                }
            } else {
                asked = self.wake.wait(asked).unwrap_or_else(PoisonError::into_inner);
            }
        }
        let flushes = std::mem::take(&mut asked.flushes);
        let commit = std::mem::take(&mut asked.tidy) || !flushes.is_empty();
        let starved = std::mem::take(&mut asked.starved);
        let full = std::mem::take(&mut asked.full);
        let clear = idle || full || commit && wanted(store).is_none();
        let resets = std::mem::take(&mut asked.wish) || clear || !starved.is_empty();
        Some(Work { flushes, starved, commit, resets, clear, full })
    }
}

/// How long slots are kept because they were wanted lately.
fn wanted(store: &Store) -> Option<Duration> {
    let ago = Instant::now().saturating_duration_since(store.slots.last_wanted()?);
    KEEP_WANTED.checked_sub(ago).filter(|left| !left.is_zero())
}

impl Drop for Thread {
    fn drop(&mut self) {
        lock(&self.shared.asked).stop = true;
        self.shared.wake.notify_one();
        if let Some(handle) = lock(&self.handle).take() {
            // Its only panics would be our own, and were reported when they happened.
            let _ = handle.join();
        }
    }
}
