//! The driver's end of a split virtqueue (virtio 2.7).
//!
//! Adding a chain, publishing all that was added, and taking answers: the mirror image of the device's
//! end. The driver remembers what it wrote, and reads back from the ring only what the device writes
//! there: the used ring. What that says is checked before it is believed.

use alloc::vec;
use alloc::vec::Vec;
use core::ptr::NonNull;

use zerocopy::little_endian::{U16, U32, U64};

use crate::error::{AddError, DeviceLie, Part, SetupError};
use crate::layout::{
    DESCRIPTORS_ALIGN, Descriptor, Parts, RingLayout, check_host_alignment, layout,
};
use crate::notification::{Doorbell, GuestWord};

/// Memory that driver and device share, by the addresses of both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SharedArea {
    /// Where the driver finds it.
    pub host: NonNull<u8>,
    /// Where the device finds it.
    pub device: u64,
}

/// Room for indirect tables: one of `entries` descriptors for each descriptor of the ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IndirectTables {
    /// [`tables_len`] bytes; aligned to 16 on both sides.
    pub area: SharedArea,
    /// Descriptors in each table.
    pub entries: u16,
}

/// Bytes that the indirect tables of a ring with `size` descriptors take, at `entries` each.
pub const fn tables_len(size: u16, entries: u16) -> usize {
    size as usize * entries as usize * Descriptor::LEN
}

/// What was agreed about a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DriverConfig {
    /// Descriptors; a power of two of at most 32768.
    pub size: u16,
    /// `VIRTIO_F_EVENT_IDX` was negotiated.
    pub event_index: bool,
    /// Where indirect tables go; `Some` only when `VIRTIO_F_INDIRECT_DESC` was negotiated. Chains of more
    /// than one buffer that fit use one descriptor of the ring then.
    pub tables: Option<IndirectTables>,
}

/// The device's answer to a chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Used {
    /// What [`DriverQueue::add`] returned for the chain.
    pub head: u16,
    /// Bytes written, counted from the first writable byte on: at most what was writable. Bytes beyond
    /// are not to be relied on.
    pub len: u32,
}

/// What a descriptor is in use for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Free, or inside a chain.
    NoHead,
    /// The head of a chain that the device can not see yet.
    Added,
    /// The head of a chain that the device has.
    Published,
}

/// Our own copy of what matters about a descriptor; the one in the ring is never read.
#[derive(Clone, Copy)]
struct Shadow {
    /// The next in the chain, or in the list of free ones.
    next: u16,
    /// Of a head: descriptors of the ring in its chain.
    count: u16,
    state: State,
    /// Of a head: bytes that the device may write.
    writable: u32,
}

/// The driver's end of a split virtqueue.
///
/// The device is not trusted: what it says that can not be true is a [`DeviceLie`], which breaks the
/// queue for good.
pub struct DriverQueue {
    parts: Parts,
    doorbell: Doorbell<GuestWord>,
    layout: RingLayout,
    device_base: u64,
    tables: Option<IndirectTables>,
    shadows: Vec<Shadow>,
    free_head: u16,
    free: u16,
    /// Heads that were added since the last publish.
    added: Vec<u16>,
    /// Where the next available entry goes.
    next_available: u16,
    /// The available index as last published.
    published: u16,
    /// The next used element to take.
    next_used: u16,
    /// The used index as last read: elements before it can be taken without looking.
    seen_used: u16,
    /// Chains that the device has.
    on_device: u16,
    lie: Option<DeviceLie>,
}

// SAFETY: the pointers lead to an area that this queue alone uses on the driver's side, from whatever
// thread it is on (the contract of `new`), and every access of ours goes through `&self` or `&mut self`.
unsafe impl Send for DriverQueue {}

impl DriverQueue {
    /// A new queue, both indices 0, in `ring`, which is zeroed here. Tell the device of it only after this.
    ///
    /// # Safety
    ///
    /// The bytes of `ring` ([`layout`] says how many) and of the tables ([`tables_len`]) are readable and
    /// writable at `host` from any thread, are used by nobody but this queue and the device, and stay so
    /// as long as this queue lives.
    pub unsafe fn new(ring: SharedArea, config: DriverConfig) -> Result<Self, SetupError> {
        let size = config.size;
        let layout = layout(size).ok_or(SetupError::Size { size })?;
        check_alignment(&ring)?;
        if let Some(tables) = &config.tables {
            check_alignment(&tables.area)?;
        }
        // SAFETY: the caller's promise for `layout.bytes` bytes; `layout` keeps every part inside them,
        // and aligned when the beginning is, which was checked.
        let parts = unsafe {
            core::ptr::write_bytes(ring.host.as_ptr(), 0, layout.bytes);
            let part = |offset| ring.host.add(offset);
            Parts::new(part(layout.descriptors), part(layout.available), part(layout.used), size)
        };
        let doorbell =
            Doorbell::new(parts.driver_words(), parts.device_words(), config.event_index);
        let shadow = Shadow { next: 0, count: 0, state: State::NoHead, writable: 0 };
        let mut shadows = vec![shadow; usize::from(size)];
        for (next, shadow) in (1..size).zip(&mut shadows) {
            shadow.next = next;
        }
        Ok(Self {
            parts,
            doorbell,
            layout,
            device_base: ring.device,
            tables: config.tables,
            shadows,
            free_head: 0,
            free: size,
            added: Vec::with_capacity(usize::from(size)),
            next_available: 0,
            published: 0,
            next_used: 0,
            seen_used: 0,
            on_device: 0,
            lie: None,
        })
    }

    /// Adds a chain of buffers, each by its device address and its length in bytes, that the device may
    /// read and write. The device sees it at the next [`publish`](Self::publish). The number returned
    /// comes back in [`Used`], and belongs to this chain until then.
    pub fn add(
        &mut self,
        readable: &[(u64, u32)],
        writable: &[(u64, u32)],
    ) -> Result<u16, AddError> {
        if let Some(lie) = self.lie {
            return Err(AddError::Broken(lie));
        }
        let count = match readable.len().saturating_add(writable.len()) {
            0 => return Err(AddError::Empty),
            // No chain is longer than the queue, be it in a table of its own (virtio 2.7.5.3.1).
            n if n > usize::from(self.size()) => return Err(AddError::TooLong),
            n => n as u16,
        };
        let bytes = |buffers: &[(u64, u32)]| buffers.iter().map(|b| u64::from(b.1)).sum::<u64>();
        let writable_bytes = bytes(writable);
        if bytes(readable) + writable_bytes > u64::from(u32::MAX) {
            return Err(AddError::TooLong);
        }
        let table = self.tables.filter(|tables| count > 1 && count <= tables.entries);
        let taken = if table.is_some() { 1 } else { count };
        if taken > self.free {
            return Err(AddError::Full);
        }
        let head = self.free_head;
        self.free_head = match table {
            Some(tables) => self.write_table(&tables, head, count, readable, writable),
            None => self.write_chain(head, count, readable, writable),
        };
        self.free -= taken;
        let shadow = &mut self.shadows[usize::from(head)];
        // The sum of both is below 2^32.
        (shadow.count, shadow.state, shadow.writable) =
            (taken, State::Added, writable_bytes as u32);
        self.parts.set_available(self.next_available, head);
        self.next_available = self.next_available.wrapping_add(1);
        self.added.push(head);
        Ok(head)
    }

    /// Writes a chain over the `count` free descriptors from `head` on. Returns the free one after them.
    fn write_chain(
        &mut self,
        head: u16,
        count: u16,
        readable: &[(u64, u32)],
        writable: &[(u64, u32)],
    ) -> u16 {
        let mut index = head;
        for (left, (buffer, flag)) in (0..count).rev().zip(buffers(readable, writable)) {
            let next = self.shadows[usize::from(index)].next;
            let link = if left > 0 { Descriptor::NEXT } else { 0 };
            self.parts.set_descriptor(index, descriptor(buffer, flag | link, next));
            index = next;
        }
        index
    }

    /// Writes a chain into the table of `head`, and `head` to refer to it. Returns the free descriptor
    /// after `head`.
    fn write_table(
        &mut self,
        tables: &IndirectTables,
        head: u16,
        count: u16,
        readable: &[(u64, u32)],
        writable: &[(u64, u32)],
    ) -> u16 {
        let offset = tables_len(head, tables.entries);
        for (i, (buffer, flag)) in (0..count).zip(buffers(readable, writable)) {
            let link = if i + 1 < count { Descriptor::NEXT } else { 0 };
            let at = offset + usize::from(i) * Descriptor::LEN;
            // SAFETY: `head` is below the size and `i` below `entries`, so `at` is inside the area that
            // `new` was promised, which is aligned to 16.
            unsafe {
                descriptor(buffer, flag | link, i + 1).store(tables.area.host.as_ptr().add(at));
            }
        }
        let table = (
            tables.area.device.wrapping_add(offset as u64),
            u32::from(count) * Descriptor::LEN as u32,
        );
        self.parts.set_descriptor(head, descriptor(table, Descriptor::INDIRECT, 0));
        self.shadows[usize::from(head)].next
    }

    /// Makes all that was added visible to the device, with one store. True: the device must be notified.
    #[must_use = "a notification that is not sent is a wakeup lost"]
    pub fn publish(&mut self) -> bool {
        if self.lie.is_some() {
            return false;
        }
        for head in self.added.drain(..) {
            self.shadows[usize::from(head)].state = State::Published;
            self.on_device += 1;
        }
        let from = core::mem::replace(&mut self.published, self.next_available);
        self.doorbell.publish(from, self.next_available)
    }

    /// The device's next answer, if there is one. After a lie, the same lie for ever.
    pub fn pop_used(&mut self) -> Result<Option<Used>, DeviceLie> {
        if let Some(lie) = self.lie {
            return Err(lie);
        }
        match self.take_used() {
            Err(lie) => {
                self.lie = Some(lie);
                Err(lie)
            }
            used => used,
        }
    }

    fn take_used(&mut self) -> Result<Option<Used>, DeviceLie> {
        if self.next_used == self.seen_used {
            let index = self.doorbell.theirs();
            let by = index.wrapping_sub(self.next_used);
            if by > self.on_device {
                return Err(DeviceLie::UsedIndexJump { by, in_flight: self.on_device });
            }
            if by == 0 {
                return Ok(None);
            }
            self.seen_used = index;
        }
        let element = self.parts.used(self.next_used);
        let (id, len) = (element.id.get(), element.len.get());
        let size = self.size();
        let head = match u16::try_from(id) {
            Ok(head) if head < size => head,
            _ => return Err(DeviceLie::IdOutOfRange { id, size }),
        };
        let Shadow { state, writable, .. } = self.shadows[usize::from(head)];
        if state != State::Published {
            return Err(DeviceLie::NotInFlight { id: head });
        }
        if len > writable {
            return Err(DeviceLie::LenTooLong { id: head, len, writable });
        }
        self.release(head);
        self.next_used = self.next_used.wrapping_add(1);
        Ok(Some(Used { head, len }))
    }

    /// Puts the descriptors of an answered chain in front of the free ones.
    fn release(&mut self, head: u16) {
        let count = self.shadows[usize::from(head)].count;
        let mut last = head;
        for _ in 1..count {
            last = self.shadows[usize::from(last)].next;
        }
        self.shadows[usize::from(last)].next = self.free_head;
        self.shadows[usize::from(head)].state = State::NoHead;
        self.free_head = head;
        self.free += count;
        self.on_device -= 1;
    }

    /// True when [`pop_used`](Self::pop_used) has something to say that it has not said before. False
    /// once the queue is broken.
    pub fn has_used(&self) -> bool {
        self.lie.is_none()
            && (self.next_used != self.seen_used || self.doorbell.theirs() != self.next_used)
    }

    /// Asks the device for no more signals; some may still come.
    pub fn pause_notifications(&mut self) {
        self.doorbell.pause();
    }

    /// Asks the device for a signal about its next answer. True: one came meanwhile, so don't sleep.
    /// False, always, once the queue is broken.
    #[must_use = "sleeping on a true is a wakeup lost"]
    pub fn resume_notifications(&mut self) -> bool {
        self.doorbell.resume(self.next_used) && self.lie.is_none()
    }

    /// Descriptors that no chain uses.
    pub fn free_descriptors(&self) -> u16 {
        self.free
    }

    /// Chains that were added and not answered, whether published or not.
    pub fn in_flight(&self) -> u16 {
        // Both are parts of the heads in use: at most the size together.
        self.on_device + self.added.len() as u16
    }

    /// Descriptors in the ring.
    pub fn size(&self) -> u16 {
        self.parts.size()
    }

    /// What the device said that can not be true, if it did.
    pub fn lie(&self) -> Option<&DeviceLie> {
        self.lie.as_ref()
    }

    /// Device address of a part of the ring.
    pub fn address(&self, part: Part) -> u64 {
        let offset = match part {
            Part::Descriptors => self.layout.descriptors,
            Part::Available => self.layout.available,
            Part::Used => self.layout.used,
        };
        self.device_base.wrapping_add(offset as u64)
    }
}

impl core::fmt::Debug for DriverQueue {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("DriverQueue")
            .field("size", &self.size())
            .field("free", &self.free)
            .field("next_available", &self.next_available)
            .field("next_used", &self.next_used)
            .field("in_flight", &self.in_flight())
            .field("lie", &self.lie)
            .finish_non_exhaustive()
    }
}

/// Refuses an area that does not begin at a multiple of 16, on either side.
fn check_alignment(area: &SharedArea) -> Result<(), SetupError> {
    let (part, address, align) = (Part::Descriptors, area.device, DESCRIPTORS_ALIGN);
    if !address.is_multiple_of(align) {
        return Err(SetupError::Misaligned { part, address, align });
    }
    check_host_alignment(area.host, part, address, align)
}

/// The buffers of a chain in order, each with the flag that says who uses it.
fn buffers<'a>(
    readable: &'a [(u64, u32)],
    writable: &'a [(u64, u32)],
) -> impl Iterator<Item = ((u64, u32), u16)> + 'a {
    let readable = readable.iter().map(|buffer| (*buffer, 0));
    readable.chain(writable.iter().map(|buffer| (*buffer, Descriptor::WRITE)))
}

fn descriptor((address, len): (u64, u32), flags: u16, next: u16) -> Descriptor {
    Descriptor {
        address: U64::new(address),
        len: U32::new(len),
        flags: U16::new(flags),
        next: U16::new(next),
    }
}
