//! Where the parts of a split ring are, and the only accesses to them (virtio 2.7).

use core::mem::size_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, AtomicU32, Ordering::Relaxed};

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute};

use crate::error::{Part, SetupError};
use crate::notification::{GuestWord, Words};

/// The most descriptors that a split ring may have (virtio 2.7).
pub const MAX_SIZE: u16 = 32768;

/// What a descriptor table must be aligned to, in bytes (virtio 2.7).
pub(crate) const DESCRIPTORS_ALIGN: u64 = 16;
/// What an available ring must be aligned to, in bytes (virtio 2.7).
pub(crate) const AVAILABLE_ALIGN: u64 = 2;
/// What a used ring must be aligned to, in bytes (virtio 2.7).
pub(crate) const USED_ALIGN: u64 = 4;

/// The two ends write different rings; a cache line of its own for each keeps them apart.
const CACHE_LINE: usize = 64;

/// True when a split ring may have `size` descriptors: a power of two of at most [`MAX_SIZE`].
pub(crate) fn is_valid_size(size: u16) -> bool {
    size.is_power_of_two()
}

/// Bytes of the descriptor table of a ring with `size` descriptors.
pub(crate) const fn descriptors_len(size: u16) -> usize {
    Descriptor::LEN * size as usize
}

/// Bytes of the available ring: flags, index, `size` entries, `used_event`.
pub(crate) const fn available_len(size: u16) -> usize {
    RING_HEADER + AVAILABLE_ENTRY * size as usize + EVENT_LEN
}

/// Bytes of the used ring: flags, index, `size` elements, `avail_event`.
pub(crate) const fn used_len(size: u16) -> usize {
    RING_HEADER + UsedElement::LEN * size as usize + EVENT_LEN
}

/// Both rings begin with `flags` and `idx`, 16 bits each.
const RING_HEADER: usize = 4;
const INDEX_OFFSET: usize = 2;
const AVAILABLE_ENTRY: usize = 2;
const EVENT_LEN: usize = 2;

/// Where the parts of a ring of the driver's making are, in bytes from its beginning, which must be
/// aligned to 16 on both sides (64 is kinder to caches).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingLayout {
    /// The descriptor table.
    pub descriptors: usize,
    /// The available ring.
    pub available: usize,
    /// The used ring.
    pub used: usize,
    /// All of it.
    pub bytes: usize,
}

/// The layout of a ring with `size` descriptors; `None` when that is no power of two of at most
/// [`MAX_SIZE`].
pub fn layout(size: u16) -> Option<RingLayout> {
    if !is_valid_size(size) {
        return None;
    }
    let available = descriptors_len(size).next_multiple_of(CACHE_LINE);
    let used = (available + available_len(size)).next_multiple_of(CACHE_LINE);
    Some(RingLayout { descriptors: 0, available, used, bytes: used + used_len(size) })
}

/// `struct virtq_desc` (virtio 2.7.5).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Descriptor {
    pub(crate) address: U64,
    pub(crate) len: U32,
    pub(crate) flags: U16,
    pub(crate) next: U16,
}

impl Descriptor {
    pub(crate) const LEN: usize = 16;
    /// The chain goes on at `next`.
    pub(crate) const NEXT: u16 = 1;
    /// For the device to write; without it, to read.
    pub(crate) const WRITE: u16 = 2;
    /// Points to a table of descriptors.
    pub(crate) const INDIRECT: u16 = 4;

    pub(crate) fn has(&self, flag: u16) -> bool {
        self.flags.get() & flag != 0
    }

    /// Copies a descriptor out of shared memory, each word once.
    ///
    /// # Safety
    ///
    /// `at` is aligned to 4, and the 16 bytes there are readable and not behind a Rust reference.
    #[inline]
    pub(crate) unsafe fn load(at: *mut u8) -> Self {
        let words: [u32; 4] = core::array::from_fn(|i| {
            // SAFETY: the caller's promise; `i < 4`, so the word lies within the 16 bytes.
            unsafe { AtomicU32::from_ptr(at.cast::<u32>().add(i)) }.load(Relaxed)
        });
        transmute!(words)
    }

    /// Copies this descriptor into shared memory.
    ///
    /// # Safety
    ///
    /// As for [`load`](Self::load), and writable.
    #[inline]
    pub(crate) unsafe fn store(self, at: *mut u8) {
        let words: [u32; 4] = transmute!(self);
        for (i, word) in words.into_iter().enumerate() {
            // SAFETY: the caller's promise; `i < 4`, so the word lies within the 16 bytes.
            unsafe { AtomicU32::from_ptr(at.cast::<u32>().add(i)) }.store(word, Relaxed);
        }
    }
}

/// `struct virtq_used_elem` (virtio 2.7.8).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct UsedElement {
    pub(crate) id: U32,
    pub(crate) len: U32,
}

impl UsedElement {
    const LEN: usize = 8;
}

const _: () = assert!(size_of::<Descriptor>() == Descriptor::LEN);
const _: () = assert!(size_of::<UsedElement>() == UsedElement::LEN);

/// Refuses a part that is aligned for the device but mapped where its words, of at most 32 bits, are not
/// aligned for us.
pub(crate) fn check_host_alignment(
    host: NonNull<u8>,
    part: Part,
    address: u64,
    align: u64,
) -> Result<(), SetupError> {
    let align = align.min(size_of::<u32>() as u64);
    if !(host.addr().get() as u64).is_multiple_of(align) {
        return Err(SetupError::HostMisaligned { part, address, align });
    }
    Ok(())
}

/// The three parts of a split ring in this host's memory.
///
/// Positions and descriptor numbers are taken modulo the size, so that no access through this leaves
/// the ring, whatever it is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Parts {
    descriptors: NonNull<u8>,
    available: NonNull<u8>,
    used: NonNull<u8>,
    size: u16,
}

impl Parts {
    /// # Safety
    ///
    /// `size` is valid. Each pointer passed [`check_host_alignment`], and its part's bytes stay readable and writable, with no Rust reference to them, for as long as
    /// this, a copy of it, or words taken from it are used.
    pub(crate) unsafe fn new(
        descriptors: NonNull<u8>,
        available: NonNull<u8>,
        used: NonNull<u8>,
        size: u16,
    ) -> Self {
        debug_assert!(is_valid_size(size));
        Self { descriptors, available, used, size }
    }

    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    fn wrap(&self, position: u16) -> usize {
        usize::from(position & (self.size - 1))
    }

    #[inline]
    pub(crate) fn descriptor(&self, index: u16) -> Descriptor {
        let offset = self.wrap(index) * Descriptor::LEN;
        // SAFETY: `wrap` keeps the offset inside the table, which is aligned and alive (`new`).
        unsafe { Descriptor::load(self.descriptors.as_ptr().add(offset)) }
    }

    #[inline]
    pub(crate) fn set_descriptor(&self, index: u16, descriptor: Descriptor) {
        let offset = self.wrap(index) * Descriptor::LEN;
        // SAFETY: as in `descriptor`; the table is writable (`new`).
        unsafe { descriptor.store(self.descriptors.as_ptr().add(offset)) }
    }

    fn available_slot(&self, position: u16) -> &AtomicU16 {
        let offset = RING_HEADER + self.wrap(position) * AVAILABLE_ENTRY;
        // SAFETY: `wrap` keeps the offset inside the ring, which is aligned to 2 and alive (`new`).
        unsafe { AtomicU16::from_ptr(self.available.as_ptr().add(offset).cast()) }
    }

    #[inline]
    pub(crate) fn available(&self, position: u16) -> u16 {
        u16::from_le(self.available_slot(position).load(Relaxed))
    }

    #[inline]
    pub(crate) fn set_available(&self, position: u16, head: u16) {
        self.available_slot(position).store(head.to_le(), Relaxed);
    }

    fn used_slot(&self, position: u16) -> [&AtomicU32; 2] {
        let offset = RING_HEADER + self.wrap(position) * UsedElement::LEN;
        // SAFETY: `wrap` keeps the offset inside the ring, which is aligned to 4 and alive (`new`).
        unsafe {
            let first = self.used.as_ptr().add(offset).cast::<u32>();
            [AtomicU32::from_ptr(first), AtomicU32::from_ptr(first.add(1))]
        }
    }

    #[inline]
    pub(crate) fn used(&self, position: u16) -> UsedElement {
        let words = self.used_slot(position).map(|word| word.load(Relaxed));
        transmute!(words)
    }

    #[inline]
    pub(crate) fn set_used(&self, position: u16, element: UsedElement) {
        let words: [u32; 2] = transmute!(element);
        let [id, len] = self.used_slot(position);
        id.store(words[0], Relaxed);
        len.store(words[1], Relaxed);
    }

    /// The words that the driver writes.
    pub(crate) fn driver_words(&self) -> Words<GuestWord> {
        // SAFETY: alive as long as these words are used, and of this length and alignment (`new`).
        unsafe { ring_words(self.available, available_len(self.size)) }
    }

    /// The words that the device writes.
    pub(crate) fn device_words(&self) -> Words<GuestWord> {
        // SAFETY: alive as long as these words are used, and of this length and alignment (`new`).
        unsafe { ring_words(self.used, used_len(self.size)) }
    }
}

/// The three words of a ring of `len` bytes: `flags` and `idx` at its beginning, the event at its end.
///
/// # Safety
///
/// `ring` is aligned to 2; its `len` bytes (at least 6, even) stay readable and writable, without a
/// Rust reference to them, for as long as the words are used.
unsafe fn ring_words(ring: NonNull<u8>, len: usize) -> Words<GuestWord> {
    // SAFETY: the caller's promise; each offset is even and two bytes short of the end, or less.
    unsafe {
        Words {
            flags: GuestWord::new(ring.cast()),
            index: GuestWord::new(ring.add(INDEX_OFFSET).cast()),
            event: GuestWord::new(ring.add(len - EVENT_LEN).cast()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_aligned_and_apart_for_every_size() {
        for shift in 0..=15 {
            let size = 1u16 << shift;
            let l = layout(size).unwrap();
            assert_eq!(l.descriptors, 0);
            assert!(l.available >= 16 * usize::from(size) && l.available.is_multiple_of(64));
            assert!(l.used >= l.available + 6 + 2 * usize::from(size) && l.used.is_multiple_of(64));
            assert_eq!(l.bytes, l.used + 6 + 8 * usize::from(size));
        }
        for bad in [0, 3, 1023, 32767, 32769, u16::MAX] {
            assert_eq!(layout(bad), None);
        }
    }

    #[test]
    fn a_descriptor_is_little_endian_in_memory() {
        let mut bytes = [0u32; 4];
        let d = Descriptor {
            address: U64::new(0x0102_0304_0506_0708),
            len: U32::new(0x1112_1314),
            flags: U16::new(0x2122),
            next: U16::new(0x3132),
        };
        let at = bytes.as_mut_ptr().cast::<u8>();
        // SAFETY: 16 bytes of our own, aligned to 4.
        let back = unsafe {
            d.store(at);
            Descriptor::load(at)
        };
        let golden = [8, 7, 6, 5, 4, 3, 2, 1, 0x14, 0x13, 0x12, 0x11, 0x22, 0x21, 0x32, 0x31];
        assert_eq!(bytes.as_bytes(), golden);
        assert_eq!(back.as_bytes(), golden);
    }
}
