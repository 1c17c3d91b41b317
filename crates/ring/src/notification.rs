//! Who wakes whom: the notification protocol of a split ring (virtio 2.7.6 to 2.7.10).
//!
//! Each end publishes an index, and says when it wants a signal about the other end's index: with a
//! flag, or, when the event index is negotiated, with the index whose passing is worth a signal. Both
//! ends follow the same rules, so one [`Doorbell`] serves both.
//!
//! An end that is about to sleep writes its wish and then looks at the other's index once more; an end
//! that publishes writes its index and then looks at the other's wish. A full fence stands between the
//! write and the look on both sides: at least one of them sees what the other wrote, and no wakeup is
//! lost.
//!
//! That claim is checked in every interleaving and every allowed reordering, on this very code with
//! loom's words in place of guest memory:
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test -p zvb-ring --release --test loom
//! ```

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, Ordering, fence};

/// In `flags`: the end that wrote it wants no signals (virtio 2.7.7, 2.7.10).
const NO_SIGNAL: u16 = 1;

/// A 16-bit word that both ends share.
pub trait Word {
    /// The value, with no order against other accesses.
    fn load_relaxed(&self) -> u16;
    /// The value; all that was written before the release store that it came from is visible after.
    fn load_acquire(&self) -> u16;
    /// Sets the value, with no order against other accesses.
    fn store_relaxed(&self, value: u16);
    /// Sets the value, after all earlier writes.
    fn store_release(&self, value: u16);
    /// A full fence: orders earlier stores before later loads.
    fn full_fence();
}

/// The words that one end writes and the other reads: those of the available ring for the driver, of
/// the used ring for the device.
#[derive(Clone, Copy, Debug)]
pub struct Words<W> {
    /// Wants no signals: bit 0; used without the event index.
    pub flags: W,
    /// Where the next entry goes, free-running.
    pub index: W,
    /// Wants a signal when the other's index passes this; used with the event index.
    pub event: W,
}

/// One end's view of the words of both.
#[derive(Debug)]
pub struct Doorbell<W> {
    mine: Words<W>,
    theirs: Words<W>,
    event_index: bool,
}

impl<W: Word> Doorbell<W> {
    /// A doorbell for the end that writes `mine` and reads `theirs`; `event_index` is what was
    /// negotiated. Writes nothing.
    pub fn new(mine: Words<W>, theirs: Words<W>, event_index: bool) -> Self {
        Self { mine, theirs, event_index }
    }

    /// Whether the event index was negotiated.
    pub fn event_index(&self) -> bool {
        self.event_index
    }

    /// Makes the entries from `from` up to `to`, written before, visible with one store. True: the other
    /// end wants a signal.
    #[must_use = "a signal that is not sent is a wakeup lost"]
    #[inline]
    pub fn publish(&self, from: u16, to: u16) -> bool {
        if from == to {
            return false;
        }
        self.mine.index.store_release(to);
        W::full_fence();
        if self.event_index {
            passes(self.theirs.event.load_relaxed(), from, to)
        } else {
            self.theirs.flags.load_relaxed() & NO_SIGNAL == 0
        }
    }

    /// The other end's index; entries before it may be read after this.
    #[inline]
    pub fn theirs(&self) -> u16 {
        self.theirs.index.load_acquire()
    }

    /// Asks the other end for no more signals. Advice only: some may still come.
    ///
    /// With the event index there is nothing to write: once the other end has passed our event, it is
    /// silent until we set another.
    pub fn pause(&self) {
        if !self.event_index {
            self.mine.flags.store_relaxed(NO_SIGNAL);
        }
    }

    /// Asks the other end for a signal about its entry at `next` or any later one. True: that entry is
    /// there already, and the signal may never come.
    #[must_use = "sleeping on a true is a wakeup lost"]
    pub fn resume(&self, next: u16) -> bool {
        if self.event_index {
            self.mine.event.store_relaxed(next);
        } else {
            self.mine.flags.store_relaxed(0);
        }
        W::full_fence();
        self.theirs.index.load_acquire() != next
    }

    /// Clears our flags, as they must be with the event index (virtio 2.7.7.1, 2.7.10.1), and as another
    /// life of this ring may have left them set.
    pub(crate) fn clear_flags(&self) {
        self.mine.flags.store_relaxed(0);
    }
}

/// True when one of the entries from `from` up to, not including, `to` is the one at `event`, however
/// many they are and wherever the 16 bits wrap.
#[inline]
fn passes(event: u16, from: u16, to: u16) -> bool {
    event.wrapping_sub(from) < to.wrapping_sub(from)
}

/// A little-endian [`Word`] in memory that the other end shares.
#[derive(Clone, Copy, Debug)]
pub struct GuestWord(NonNull<u16>);

impl GuestWord {
    /// # Safety
    ///
    /// `word` is aligned to 2 and stays readable and writable, without a Rust reference to it, for as
    /// long as this or a copy of it is used.
    pub(crate) unsafe fn new(word: NonNull<u16>) -> Self {
        Self(word)
    }

    fn atomic(&self) -> &AtomicU16 {
        // SAFETY: aligned and alive (`new`); all accesses of ours are atomic.
        unsafe { AtomicU16::from_ptr(self.0.as_ptr()) }
    }
}

impl Word for GuestWord {
    #[inline]
    fn load_relaxed(&self) -> u16 {
        u16::from_le(self.atomic().load(Ordering::Relaxed))
    }

    #[inline]
    fn load_acquire(&self) -> u16 {
        u16::from_le(self.atomic().load(Ordering::Acquire))
    }

    #[inline]
    fn store_relaxed(&self, value: u16) {
        self.atomic().store(value.to_le(), Ordering::Relaxed);
    }

    #[inline]
    fn store_release(&self, value: u16) {
        self.atomic().store(value.to_le(), Ordering::Release);
    }

    #[inline]
    fn full_fence() {
        fence(Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks the entries one by one, as the specification's sentence has it.
    fn passes_naive(event: u16, from: u16, to: u16) -> bool {
        let mut at = from;
        while at != to {
            if at == event {
                return true;
            }
            at = at.wrapping_add(1);
        }
        false
    }

    #[test]
    fn an_event_inside_a_batch_is_seen_across_the_wrap() {
        // Only differences matter; a few origins show that, and all events for each batch.
        for from in [0u16, 1, 0x7fff, 0x8000, 0xfff0, 0xffff] {
            for count in [1u16, 2, 3, 7, 16, 255] {
                let to = from.wrapping_add(count);
                for event in 0..=u16::MAX {
                    assert_eq!(
                        passes(event, from, to),
                        passes_naive(event, from, to),
                        "event {event} from {from} to {to}"
                    );
                }
            }
        }
    }

    #[test]
    fn an_event_at_the_rim_of_any_batch_is_judged_right() {
        for count in 1..=32768u16 {
            for from in [0u16, 0x8000, 0xfffe] {
                let to = from.wrapping_add(count);
                assert!(passes(from, from, to));
                assert!(passes(to.wrapping_sub(1), from, to));
                assert!(!passes(to, from, to));
                assert!(!passes(from.wrapping_sub(1), from, to));
            }
        }
        assert!(!passes(5, 5, 5));
    }
}
