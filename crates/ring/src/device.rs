//! The device's end of a split virtqueue (virtio 2.7).
//!
//! A turn of a device's worker: [`pop`](DeviceQueue::pop) chains until there are none,
//! [`push`](DeviceQueue::push) those that are answered, [`publish`](DeviceQueue::publish) once, and
//! before sleeping [`resume_notifications`](DeviceQueue::resume_notifications).

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::ptr::NonNull;

use zerocopy::little_endian::U32;

use crate::error::{Part, RingError, SetupError};
use crate::layout::{
    AVAILABLE_ALIGN, DESCRIPTORS_ALIGN, Parts, USED_ALIGN, UsedElement, available_len,
    check_host_alignment, descriptors_len, is_valid_size, used_len,
};
use crate::memory::{Buffers, GuestMemory, Segment};
use crate::notification::{Doorbell, GuestWord, Word};

mod ledger;
mod spares;
mod walk;

pub use ledger::{Ledger, Unanswered};

use spares::Spares;

/// What a driver said about a queue, and where it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueConfig {
    /// Descriptors; a power of two of at most 32768.
    pub size: u16,
    /// Guest address of the descriptor table; aligned to 16.
    pub descriptors: u64,
    /// Guest address of the available ring; aligned to 2.
    pub available: u64,
    /// Guest address of the used ring; aligned to 4.
    pub used: u64,
    /// `VIRTIO_F_EVENT_IDX` was negotiated.
    pub event_index: bool,
    /// `VIRTIO_F_INDIRECT_DESC` was negotiated.
    pub indirect: bool,
    /// The free-running index of the first chain to pop: 0 for a new queue.
    pub next_available: u16,
    /// The free-running index of the next used element: 0 for a new queue, else what
    /// [`DeviceQueue::used_index`] finds.
    pub next_used: u16,
}

/// The right to answer one chain, once. Dropping it leaves the driver waiting for ever.
#[must_use = "a chain that is not answered leaves the driver waiting for ever"]
#[derive(Debug)]
pub struct Head {
    id: u16,
    /// Pieces of memory that the chain scatters over.
    pieces: u32,
    /// Bytes that may be written.
    writable: u32,
    note: u64,
}

impl Head {
    /// What an earlier process noted about the chain before it died; 0 when there is nothing.
    pub fn note(&self) -> u64 {
        self.note
    }

    /// The number of the chain's first descriptor, for logs.
    pub fn id(&self) -> u16 {
        self.id
    }
}

/// One chain that the driver made available.
#[derive(Debug)]
pub struct Chain {
    /// What the device may read.
    pub readable: Buffers,
    /// What the device may write.
    pub writable: Buffers,
    /// The right to answer.
    pub head: Head,
}

/// The device's end of a split virtqueue.
///
/// Nothing in the ring is trusted: each word is read once, walks are bounded, and what breaks the rules
/// retires the queue with a [`RingError`]. Chains in flight can still be answered after that.
pub struct DeviceQueue {
    /// Where the rings are; valid because of `memory`, which keeps them mapped.
    parts: Parts,
    doorbell: Doorbell<GuestWord>,
    memory: Rc<dyn GuestMemory>,
    config: QueueConfig,
    /// The next chain to pop.
    next_available: u16,
    /// The available index as last read: chains before it can be popped without looking.
    seen_available: u16,
    /// Where the next used element goes.
    next_used: u16,
    /// The used index as last published.
    published: u16,
    /// One bit for each head that was popped and not pushed.
    heads: Vec<u64>,
    in_flight: u16,
    /// Pieces of memory in the chains in flight.
    pieces: u32,
    spares: Spares,
    error: Option<RingError>,
    ledger: Option<Box<dyn Ledger>>,
    /// Chains to pop before those that are available, the first one last.
    unanswered: Vec<Unanswered>,
}

impl DeviceQueue {
    /// A queue over rings that the driver has set up in `memory`. Clears the flags of the used ring and
    /// writes nothing else; a queue that does not start at 0 needs
    /// [`resume_notifications`](Self::resume_notifications) before the worker may sleep.
    pub fn new(memory: Rc<dyn GuestMemory>, config: QueueConfig) -> Result<Self, SetupError> {
        let parts = locate(&*memory, &config)?;
        let doorbell =
            Doorbell::new(parts.device_words(), parts.driver_words(), config.event_index);
        doorbell.clear_flags();
        Ok(Self {
            parts,
            doorbell,
            memory,
            config,
            next_available: config.next_available,
            seen_available: config.next_available,
            next_used: config.next_used,
            published: config.next_used,
            heads: vec![0; usize::from(config.size).div_ceil(64)],
            in_flight: 0,
            pieces: 0,
            spares: Spares::new(config.size),
            error: None,
            ledger: None,
            unanswered: Vec::new(),
        })
    }

    /// From now on, writes down in `ledger` what is in flight. `unanswered` is what a process before this one
    /// left, in the order in which it was taken: it is popped first. (The ledger has it already, and
    /// [`next_available`](QueueConfig::next_available) is behind it.) To be called before anything is popped.
    pub fn remember(&mut self, ledger: Box<dyn Ledger>, mut unanswered: Vec<Unanswered>) {
        debug_assert!(self.in_flight == 0, "there are chains that the ledger does not know");
        unanswered.reverse();
        self.ledger = Some(ledger);
        self.unanswered = unanswered;
    }

    /// True when what is in flight is written down.
    #[inline]
    pub fn has_ledger(&self) -> bool {
        self.ledger.is_some()
    }

    /// True when chains of an earlier process are to be popped still.
    #[inline]
    pub fn has_unanswered(&self) -> bool {
        !self.unanswered.is_empty()
    }

    /// Keeps `note` about a chain in flight, for who comes after this process; see [`Head::note`].
    #[inline]
    pub fn note(&mut self, head: &Head, note: u64) {
        if let Some(ledger) = &mut self.ledger {
            ledger.note(head.id, note);
        }
    }

    /// The used index in the used ring at guest address `used`: where a device that takes a queue over
    /// goes on. `None` when that is not memory or not aligned.
    pub fn used_index(memory: &dyn GuestMemory, used: u64) -> Option<u16> {
        let (host, run) = memory.translate(used, 4)?;
        if run < 4 || !host.cast::<u16>().is_aligned() {
            return None;
        }
        // SAFETY: 4 bytes from `host` are memory while `memory` is borrowed; aligned, as was checked.
        let index = unsafe { GuestWord::new(host.add(2).cast()) };
        Some(index.load_acquire())
    }

    /// Moves to another map of guest memory, in which the rings are where they were by guest address.
    /// Chains in flight stay in flight, and keep the map that they were popped from alive. On an error
    /// nothing has changed.
    pub fn set_memory(&mut self, memory: Rc<dyn GuestMemory>) -> Result<(), SetupError> {
        let parts = locate(&*memory, &self.config)?;
        self.doorbell =
            Doorbell::new(parts.device_words(), parts.driver_words(), self.config.event_index);
        self.parts = parts;
        self.memory = memory;
        Ok(())
    }

    /// The next chain that the driver made available, if there is one. After an error, the same error
    /// for ever.
    #[inline]
    pub fn pop(&mut self) -> Result<Option<Chain>, RingError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        if !self.unanswered.is_empty() {
            return self.pop_unanswered();
        }
        if self.next_available == self.seen_available && !self.look()? {
            return Ok(None);
        }
        let head = self.parts.available(self.next_available);
        let popped = self.take(head, None);
        if popped.is_ok() {
            self.next_available = self.next_available.wrapping_add(1);
        }
        if let Err(error) = &popped {
            self.retire(*error);
        }
        popped
    }

    /// The next chain that an earlier process took and did not answer.
    #[cold]
    fn pop_unanswered(&mut self) -> Result<Option<Chain>, RingError> {
        let Some(Unanswered { head, note }) = self.unanswered.pop() else { return Ok(None) };
        let popped = self.take(head, Some(note));
        if let Err(error) = &popped {
            self.retire(*error);
        }
        popped
    }

    /// Reads the available index. True when there is something to pop.
    fn look(&mut self) -> Result<bool, RingError> {
        let index = self.doorbell.theirs();
        let by = index.wrapping_sub(self.next_available);
        if by > self.config.size {
            let size = self.config.size;
            return Err(self.retire(RingError::AvailableIndexJump { by, size }));
        }
        self.seen_available = index;
        Ok(by != 0)
    }

    fn retire(&mut self, error: RingError) -> RingError {
        *self.error.get_or_insert(error)
    }

    /// Takes the chain that begins at `head`; `note` is what the ledger has about it already. Never `None`:
    /// a chain is large, and is not to be moved once more to be wrapped.
    fn take(&mut self, head: u16, note: Option<u64>) -> Result<Option<Chain>, RingError> {
        let size = self.config.size;
        let Some((word, bit)) = self.head_bit(head) else {
            return Err(RingError::HeadOutOfRange { head, size });
        };
        if *word & bit != 0 {
            return Err(RingError::HeadInFlight { head });
        }
        *word |= bit;
        let readable = Buffers::new(Rc::clone(&self.memory), self.spares.take());
        let writable = Buffers::new(Rc::clone(&self.memory), self.spares.take());
        if note.is_none()
            && let Some(ledger) = &mut self.ledger
        {
            ledger.taken(head);
        }
        let head = Head { id: head, pieces: 0, writable: 0, note: note.unwrap_or(0) };
        let mut chain = Chain { readable, writable, head };
        self.walk(&mut chain)?;
        self.pieces = self.pieces.saturating_add(chain.head.pieces);
        let limit = self.spares.pieces_limit();
        if self.pieces > limit {
            return Err(RingError::TooManyPieces { limit });
        }
        self.in_flight += 1;
        Ok(Some(chain))
    }

    /// The bit of `head` among those in flight; `None` when there is no such descriptor.
    fn head_bit(&mut self, head: u16) -> Option<(&mut u64, u64)> {
        if head >= self.config.size {
            return None;
        }
        Some((self.heads.get_mut(usize::from(head / 64))?, 1 << (head % 64)))
    }

    /// Answers a chain: `written` bytes were written, counted from the first writable byte on. The driver
    /// sees it at the next [`publish`](Self::publish).
    #[inline]
    pub fn push(&mut self, head: Head, written: u32) {
        debug_assert!(written <= head.writable, "wrote {written} bytes to {head:?}");
        let Some((word, bit)) = self.head_bit(head.id) else {
            debug_assert!(false, "{head:?} is of another queue");
            return;
        };
        debug_assert!(*word & bit != 0, "{head:?} is of another queue");
        *word &= !bit;
        self.pieces = self.pieces.saturating_sub(head.pieces);
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(ledger) = &mut self.ledger {
            ledger.answered(head.id, self.next_used);
        }
        let len = U32::new(written.min(head.writable));
        self.parts.set_used(self.next_used, UsedElement { id: U32::new(head.id.into()), len });
        self.next_used = self.next_used.wrapping_add(1);
    }

    /// Makes all that was pushed visible to the driver, with one store. True: the driver wants a signal.
    #[must_use = "a signal that is not sent is a wakeup lost"]
    #[inline]
    pub fn publish(&mut self) -> bool {
        let from = core::mem::replace(&mut self.published, self.next_used);
        let wants = self.doorbell.publish(from, self.next_used);
        if let Some(ledger) = &mut self.ledger {
            ledger.published();
        }
        wants
    }

    /// True when [`pop`](Self::pop) has something to say that it has not said before: a chain, or an
    /// index that makes no sense. False once the queue is retired.
    #[inline]
    pub fn available(&self) -> bool {
        self.error.is_none()
            && (!self.unanswered.is_empty()
                || self.next_available != self.seen_available
                || self.doorbell.theirs() != self.next_available)
    }

    /// How many chains there are to pop: at most the size, whatever the driver says; 0 once the queue is
    /// retired.
    pub fn pending(&self) -> u16 {
        if self.error.is_some() {
            return 0;
        }
        self.doorbell.theirs().wrapping_sub(self.next_available).min(self.config.size)
    }

    /// Asks the driver for no more notifications; some may still come.
    pub fn pause_notifications(&mut self) {
        self.doorbell.pause();
    }

    /// Asks the driver for a notification about the next chain. True: something came meanwhile, so don't
    /// sleep. False, always, once the queue is retired.
    #[must_use = "sleeping on a true is a wakeup lost"]
    pub fn resume_notifications(&mut self) -> bool {
        (self.doorbell.resume(self.next_available) || !self.unanswered.is_empty())
            && self.error.is_none()
    }

    /// Takes a list of segments back, so that no request need allocate one.
    #[inline]
    pub fn recycle(&mut self, buffers: Buffers) {
        self.spares.put(buffers.into_spare());
    }

    /// A list of segments to use, for [`Buffers::take_back`]; [`recycle`](Self::recycle) what comes of
    /// it.
    #[inline]
    pub fn spare(&mut self) -> Vec<Segment> {
        self.spares.take()
    }

    /// The free-running index of the next chain to pop.
    pub fn next_available(&self) -> u16 {
        self.next_available
    }

    /// The free-running index of the next used element to push.
    pub fn next_used(&self) -> u16 {
        self.next_used
    }

    /// Chains popped and not pushed; at most the size.
    pub fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// Descriptors in the ring.
    pub fn size(&self) -> u16 {
        self.config.size
    }

    /// Why the queue was retired, if it was.
    pub fn error(&self) -> Option<&RingError> {
        self.error.as_ref()
    }
}

impl core::fmt::Debug for DeviceQueue {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("DeviceQueue")
            .field("config", &self.config)
            .field("next_available", &self.next_available)
            .field("next_used", &self.next_used)
            .field("in_flight", &self.in_flight)
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

/// Finds the rings in host memory; all of each part must be there, in one run.
fn locate(memory: &dyn GuestMemory, config: &QueueConfig) -> Result<Parts, SetupError> {
    let size = config.size;
    if !is_valid_size(size) {
        return Err(SetupError::Size { size });
    }
    let descriptors = locate_part(
        memory,
        Part::Descriptors,
        config.descriptors,
        descriptors_len(size),
        DESCRIPTORS_ALIGN,
    )?;
    let available = locate_part(
        memory,
        Part::Available,
        config.available,
        available_len(size),
        AVAILABLE_ALIGN,
    )?;
    let used = locate_part(memory, Part::Used, config.used, used_len(size), USED_ALIGN)?;
    // SAFETY: each part is one aligned run of its length, which `memory`, kept beside these parts by the
    // queue, promises to keep readable and writable wherever it is moved; the size was checked.
    Ok(unsafe { Parts::new(descriptors, available, used, size) })
}

fn locate_part(
    memory: &dyn GuestMemory,
    part: Part,
    address: u64,
    len: usize,
    align: u64,
) -> Result<NonNull<u8>, SetupError> {
    let len = len as u64;
    if !address.is_multiple_of(align) {
        return Err(SetupError::Misaligned { part, address, align });
    }
    let absent = SetupError::NotMemory { part, address, len };
    let (host, run) = memory.translate(address, len).ok_or(absent)?;
    if run < len {
        let beyond = address.checked_add(run).and_then(|next| memory.translate(next, len - run));
        return Err(match beyond {
            Some(_) => SetupError::Straddles { part, address, len },
            None => absent,
        });
    }
    check_host_alignment(host, part, address, align)?;
    Ok(host)
}
