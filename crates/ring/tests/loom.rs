//! The notification protocol in every interleaving: no wakeup is lost.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p zvb-ring --release --test loom`
//!
//! Driver and device are threads that run the crate's own [`Doorbell`] over loom's words. Each sleeps
//! when it has nothing to do, and only a signal of the other wakes it: a lost wakeup is a deadlock, which
//! loom reports. The entries are cells without atomics, so that an index which does not order them is a
//! data race, which loom reports too.
#![cfg(loom)]
#![expect(unsafe_code, reason = "loom's cells hand out pointers")]
#![expect(clippy::arc_with_non_send_sync, reason = "loom runs its threads one at a time, in turns")]

use std::mem::ManuallyDrop;
use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::Notify;
use loom::sync::atomic::{AtomicU16, Ordering, fence};
use loom::thread;
use zvb_ring::notification::{Doorbell, Word, Words};

/// A shared word; without its fence unless `FENCED`, to show that the model would notice.
#[derive(Clone)]
struct LoomWord<const FENCED: bool>(Arc<Kept>);

/// An atomic that is not dropped while a deadlock's panic unwinds: loom would panic once more.
struct Kept(ManuallyDrop<AtomicU16>);

impl Drop for Kept {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: dropped here, once, and not used after.
            unsafe { ManuallyDrop::drop(&mut self.0) }
        }
    }
}

impl<const FENCED: bool> LoomWord<FENCED> {
    fn new(value: u16) -> Self {
        Self(Arc::new(Kept(ManuallyDrop::new(AtomicU16::new(value)))))
    }
}

impl<const FENCED: bool> Word for LoomWord<FENCED> {
    fn load_relaxed(&self) -> u16 {
        self.0.0.load(Ordering::Relaxed)
    }

    fn load_acquire(&self) -> u16 {
        self.0.0.load(Ordering::Acquire)
    }

    fn store_relaxed(&self, value: u16) {
        self.0.0.store(value, Ordering::Relaxed);
    }

    fn store_release(&self, value: u16) {
        self.0.0.store(value, Ordering::Release);
    }

    fn full_fence() {
        if FENCED {
            fence(Ordering::SeqCst);
        }
    }
}

/// Entries in each ring of the model.
const SIZE: u16 = 2;

/// Where a model stops; more take hours.
const PREEMPTIONS: usize = 3;

/// What both ends share: the entries of both rings, and the two signals.
struct Shared {
    available: [UnsafeCell<u16>; SIZE as usize],
    used: [UnsafeCell<u16>; SIZE as usize],
    kick: Notify,
    call: Notify,
}

fn slot(ring: &[UnsafeCell<u16>; SIZE as usize], position: u16) -> &UnsafeCell<u16> {
    &ring[usize::from(position % SIZE)]
}

fn put(ring: &[UnsafeCell<u16>; SIZE as usize], position: u16, value: u16) {
    // SAFETY: loom checks that nobody else is in this cell.
    slot(ring, position).with_mut(|cell| unsafe { *cell = value });
}

fn take(ring: &[UnsafeCell<u16>; SIZE as usize], position: u16) -> u16 {
    // SAFETY: loom checks that nobody writes this cell meanwhile.
    slot(ring, position).with(|cell| unsafe { *cell })
}

/// Looks for entries from `next` on; sleeps until there are some. Returns the index after the last.
fn wait_for<W: Word>(bell: &Doorbell<W>, next: u16, signal: &Notify) -> u16 {
    loop {
        let index = bell.theirs();
        if index != next {
            return index;
        }
        if !bell.resume(next) {
            signal.wait();
        }
        bell.pause();
    }
}

/// Adds `batches` of entries, each published with one store, as room allows, and takes all answers.
fn drive<W: Word>(bell: &Doorbell<W>, shared: &Shared, start: u16, batches: &[u16]) {
    let (mut next_available, mut next_used) = (start, start);
    let mut reap = |next_available: u16, room: u16| {
        while next_available.wrapping_sub(next_used) > SIZE - room {
            let index = wait_for(bell, next_used, &shared.call);
            while next_used != index {
                assert_eq!(take(&shared.used, next_used), next_used ^ 0x5555);
                next_used = next_used.wrapping_add(1);
            }
        }
    };
    for batch in batches {
        reap(next_available, *batch);
        let from = next_available;
        for _ in 0..*batch {
            put(&shared.available, next_available, next_available ^ 0xaaaa);
            next_available = next_available.wrapping_add(1);
        }
        if bell.publish(from, next_available) {
            shared.kick.notify();
        }
    }
    reap(next_available, SIZE);
}

/// Answers `total` entries, each turn's with one store.
fn serve<W: Word>(bell: &Doorbell<W>, shared: &Shared, start: u16, total: u16) {
    let mut next = start;
    while next.wrapping_sub(start) < total {
        let (from, to) = (next, wait_for(bell, next, &shared.kick));
        while next != to {
            assert_eq!(take(&shared.available, next), next ^ 0xaaaa);
            put(&shared.used, next, next ^ 0x5555);
            next = next.wrapping_add(1);
        }
        if bell.publish(from, to) {
            shared.call.notify();
        }
    }
}

fn check<const FENCED: bool>(event_index: bool, start: u16, batches: &'static [u16]) {
    let mut model = loom::model::Builder::new();
    // Every reordering that memory allows, and every interleaving of at most this many preemptions: the
    // lost wakeups that the last two tests look for need one.
    model.preemption_bound = Some(PREEMPTIONS);
    model.check(move || {
        let words = || Words {
            flags: LoomWord::<FENCED>::new(0),
            index: LoomWord::new(start),
            event: LoomWord::new(start),
        };
        let (driver_words, device_words) = (words(), words());
        let cells = || [UnsafeCell::new(0), UnsafeCell::new(0)];
        let shared = Arc::new(Shared {
            available: cells(),
            used: cells(),
            kick: Notify::new(),
            call: Notify::new(),
        });
        let device = {
            let bell = Doorbell::new(device_words.clone(), driver_words.clone(), event_index);
            let shared = Arc::clone(&shared);
            thread::spawn(move || serve(&bell, &shared, start, batches.iter().sum()))
        };
        let bell = Doorbell::new(driver_words, device_words, event_index);
        drive(&bell, &shared, start, batches);
        device.join().expect("the device ends");
    });
}

#[test]
fn with_the_event_index_one_by_one() {
    check::<true>(true, 0xffff, &[1, 1]);
}

#[test]
fn with_the_event_index_in_batches() {
    check::<true>(true, 0xffff, &[2, 1]);
}

#[test]
fn with_flags_one_by_one() {
    check::<true>(false, 0xffff, &[1, 1]);
}

#[test]
fn with_flags_in_batches() {
    check::<true>(false, 0xffff, &[2, 1]);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_fence_the_event_index_loses_a_wakeup() {
    check::<false>(true, 0xffff, &[1, 1]);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_fence_flags_lose_a_wakeup() {
    check::<false>(false, 0xffff, &[1, 1]);
}
