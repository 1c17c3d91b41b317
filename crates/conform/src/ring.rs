//! A split virtqueue (virtio 2.7) written by hand, right or wrong.

use alloc::vec::Vec;

use zvb_driver::QueueLayout;

use crate::raw::Area;

/// The largest queue that is used.
pub(crate) const MAX_QUEUE_SIZE: u16 = 256;
/// What a queue takes of an area: 16 bytes a descriptor, 2 and 8 in the rings, and their fields.
pub(crate) const QUEUE_BYTES: usize = 8192;

/// The flags of a descriptor (virtio 2.7.5).
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// Descriptors as they were written, each with its place in the area.
pub(crate) type Written = Vec<(usize, [u8; 16])>;

/// One descriptor, before it is told where the next one is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    /// The device's address.
    pub(crate) address: u64,
    /// Bytes.
    pub(crate) len: u32,
    /// All flags but NEXT.
    pub(crate) flags: u16,
}

/// The 16 bytes of descriptor number `index` of a chain of consecutive ones.
pub(crate) fn descriptor(piece: &Piece, next: Option<u16>) -> [u8; 16] {
    let mut bytes = [0; 16];
    let flags = piece.flags | if next.is_some() { NEXT } else { 0 };
    bytes[..8].copy_from_slice(&piece.address.to_le_bytes());
    bytes[8..12].copy_from_slice(&piece.len.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&next.unwrap_or(0).to_le_bytes());
    bytes
}

/// A queue in an area.
#[derive(Debug)]
pub(crate) struct RawQueue {
    pub(crate) size: u16,
    base: usize,
    /// The first descriptor that no chain has; chains are consecutive, and all end before any is reused.
    next: u16,
    /// The available index, as it was last published.
    pub(crate) available: u16,
    /// The used index up to which answers were taken.
    pub(crate) seen: u16,
}

impl RawQueue {
    /// A queue of `size` descriptors (at most [`MAX_QUEUE_SIZE`]) at `base` of `area`, all zeroes.
    pub(crate) fn new(area: &Area, size: u16, base: usize) -> Self {
        area.fill(base, QUEUE_BYTES, 0);
        Self { size, base, next: 0, available: 0, seen: 0 }
    }

    pub(crate) fn layout(&self, area: &Area) -> QueueLayout {
        QueueLayout {
            size: self.size,
            descriptors: area.device(self.base),
            available: area.device(self.available_at()),
            used: area.device(self.used_at()),
        }
    }

    fn available_at(&self) -> usize {
        self.base + 16 * usize::from(self.size)
    }

    fn used_at(&self) -> usize {
        (self.available_at() + 6 + 2 * usize::from(self.size)).next_multiple_of(4)
    }

    /// Where descriptor `index` is in the area.
    pub(crate) fn descriptor_at(&self, index: u16) -> usize {
        self.base + 16 * usize::from(index % self.size)
    }

    /// No chain is in flight any more.
    pub(crate) fn recycle(&mut self) {
        self.next = 0;
    }

    /// Writes a chain of consecutive descriptors: its head, and what was written where. `None` when there
    /// are not enough.
    pub(crate) fn chain(&mut self, area: &Area, pieces: &[Piece]) -> Option<(u16, Written)> {
        let head = self.next;
        let count = u16::try_from(pieces.len()).ok()?;
        let end = head.checked_add(count).filter(|end| *end <= self.size)?;
        let mut written = Vec::new();
        for (index, piece) in (head..end).zip(pieces) {
            let next = index.checked_add(1).filter(|next| *next < end);
            let bytes = descriptor(piece, next);
            let at = self.descriptor_at(index);
            area.write(at, &bytes);
            written.push((at, bytes));
        }
        self.next = end;
        Some((head, written))
    }

    /// Makes the chain at `head` available.
    pub(crate) fn publish(&mut self, area: &Area, head: u16) {
        let slot = usize::from(self.available % self.size);
        area.store(self.available_at() + 4 + 2 * slot, head);
        self.set_available(area, self.available.wrapping_add(1));
    }

    /// Sets the available index, whatever stands in the ring.
    pub(crate) fn set_available(&mut self, area: &Area, index: u16) {
        self.available = index;
        area.store(self.available_at() + 2, index);
    }

    /// Sets the flags of the available ring: 1 for "do not notify".
    pub(crate) fn set_flags(&self, area: &Area, flags: u16) {
        area.store(self.available_at(), flags);
    }

    /// Sets the used index at which the device is to notify (EVENT_IDX).
    pub(crate) fn set_used_event(&self, area: &Area, index: u16) {
        area.store(self.available_at() + 4 + 2 * usize::from(self.size), index);
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
    }

    /// The flags of the used ring.
    pub(crate) fn used_flags(&self, area: &Area) -> u16 {
        area.load(self.used_at())
    }

    /// The used index.
    pub(crate) fn used_index(&self, area: &Area) -> u16 {
        area.load(self.used_at() + 2)
    }

    /// The next used entry, if there is one: the head of a chain, and the bytes written.
    pub(crate) fn take_used(&mut self, area: &Area) -> Option<(u32, u32)> {
        if self.used_index(area) == self.seen {
            return None;
        }
        let slot = usize::from(self.seen % self.size);
        let at = self.used_at() + 4 + 8 * slot;
        let mut bytes = [[0; 4]; 2];
        area.read(at, &mut bytes[0]);
        area.read(at + 4, &mut bytes[1]);
        self.seen = self.seen.wrapping_add(1);
        Some((u32::from_le_bytes(bytes[0]), u32::from_le_bytes(bytes[1])))
    }
}
