//! Registers that are memory.

// UNSAFETY: the one place of the transports where a device's registers are touched.
#![expect(unsafe_code, reason = "registers are reached by address, with volatile accesses")]

use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};

use super::Registers;

/// Registers that are mapped into the address space.
#[derive(Clone, Copy, Debug)]
pub struct Mapped {
    base: NonNull<u8>,
    len: u32,
}

// SAFETY: the registers are no memory of Rust's: whoever made this has promised that they stay mapped, and
// a volatile access from any thread is what a device expects. The pointer is used for nothing else.
unsafe impl Send for Mapped {}
// SAFETY: as above; no access needs another to be kept out, each is one load or one store.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// The `len` bytes of registers at `base`.
    ///
    /// # Safety
    ///
    /// They must be mapped, uncached, readable and writable, aligned to 4, and stay so for as long as
    /// this or a clone of it is used; nothing else that Rust knows of lies there.
    pub const unsafe fn new(base: NonNull<u8>, len: u32) -> Self {
        Self { base, len }
    }

    /// Where the register is. Its type's size divides `offset`.
    fn at<T>(&self, offset: u32) -> *mut T {
        let size = size_of::<T>() as u32;
        let inside = offset.checked_add(size).is_some_and(|end| end <= self.len);
        assert!(
            inside && offset.is_multiple_of(size),
            "no register of {size} bytes at {offset:#x}"
        );
        // SAFETY: inside of what `new` was promised.
        unsafe { self.base.add(offset as usize) }.cast().as_ptr()
    }

    fn read<T: Copy>(&self, offset: u32) -> T {
        // SAFETY: `at` has checked place and alignment, and `new` was promised that it is readable.
        let value = unsafe { self.at::<T>(offset).read_volatile() };
        // What the device stored to memory before it set this register is read after it.
        fence(Ordering::SeqCst);
        value
    }

    fn write<T: Copy>(&self, offset: u32, value: T) {
        fence(Ordering::SeqCst);
        // SAFETY: as in `read`, and writable.
        unsafe { self.at::<T>(offset).write_volatile(value) }
    }
}

impl Registers for Mapped {
    fn len(&self) -> u32 {
        self.len
    }

    fn read8(&self, offset: u32) -> u8 {
        self.read(offset)
    }

    fn read16(&self, offset: u32) -> u16 {
        u16::from_le(self.read(offset))
    }

    fn read32(&self, offset: u32) -> u32 {
        u32::from_le(self.read(offset))
    }

    fn write8(&self, offset: u32, value: u8) {
        self.write(offset, value);
    }

    fn write16(&self, offset: u32, value: u16) {
        self.write(offset, value.to_le());
    }

    fn write32(&self, offset: u32, value: u32) {
        self.write(offset, value.to_le());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over(memory: &mut [u32; 4]) -> Mapped {
        let base = NonNull::from(memory).cast();
        // SAFETY: 16 bytes aligned to 4, which the test touches only through this until it is done.
        unsafe { Mapped::new(base, 16) }
    }

    #[test]
    fn registers_are_little_endian_wherever_they_are() {
        let mut memory = [0; 4];
        let registers = over(&mut memory);
        registers.write32(0, 0x0403_0201);
        registers.write16(4, 0x0605);
        registers.write8(7, 7);
        assert_eq!(registers.read8(0), 1);
        assert_eq!(registers.read16(2), 0x0403);
        assert_eq!(registers.read32(4), 0x0700_0605);
        assert_eq!(memory.map(u32::to_le), [0x0403_0201, 0x0700_0605, 0, 0]);
    }

    #[test]
    #[should_panic(expected = "no register of 4 bytes at 0xe")]
    fn an_access_past_the_end_is_a_bug_of_ours() {
        over(&mut [0; 4]).read32(14);
    }
}
