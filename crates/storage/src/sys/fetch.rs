//! Telling the processor what is read next.

/// Bytes of a cache line.
const LINE: usize = 64;
/// More than that is not fetched ahead: a processor that copies a long run fetches the rest by itself.
const MOST: usize = 4096;

/// Has the first of the `len` bytes from `from` on fetched into the cache while other work goes on. Nothing
/// but a hint: bytes that can not be had are left alone.
#[inline]
pub(super) fn fetch(from: *const u8, len: usize) {
    for offset in (0..len.min(MOST)).step_by(LINE) {
        line(from.wrapping_add(offset));
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn line(at: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch reads nothing as far as the program can tell, and faults nowhere.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
}

#[cfg(not(target_arch = "x86_64"))]
fn line(_at: *const u8) {}
