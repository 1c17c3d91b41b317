//! What the compiler takes for granted and a C library would bring: moving memory, and, for code that was
//! compiled to unwind and never will, the names that it refers to.
//!
//! Loops here would be compiled into calls of these very functions, so the processor's string
//! instructions do the work.

use core::arch::asm;

/// # Safety
///
/// As C's.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller's promise: `len` bytes are readable and writable, and do not overlap.
    unsafe {
        asm!("rep movsq", "mov rcx, rdx", "rep movsb", inout("rcx") len / 8 => _, in("rdx") len % 8,
            inout("rdi") to => _, inout("rsi") from => _, options(nostack, preserves_flags));
    }
    to
}

/// # Safety
///
/// As C's.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= len {
        // SAFETY: the caller's promise; copied upwards, nothing is overwritten before it is read.
        return unsafe { memcpy(to, from, len) };
    }
    // SAFETY: the caller's promise; from the last byte down to the first.
    unsafe {
        let (to, from) =
            (to.wrapping_add(len).wrapping_sub(1), from.wrapping_add(len).wrapping_sub(1));
        asm!("std", "rep movsb", "cld", inout("rcx") len => _, inout("rdi") to => _,
            inout("rsi") from => _, options(nostack));
    }
    to
}

/// # Safety
///
/// As C's.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
    let word = u64::from(byte as u8) * 0x0101_0101_0101_0101;
    // SAFETY: the caller's promise: `len` bytes are writable.
    unsafe {
        asm!("rep stosq", "mov rcx, rdx", "rep stosb", inout("rcx") len / 8 => _, in("rdx") len % 8,
            inout("rdi") to => _, in("rax") word, options(nostack, preserves_flags));
    }
    to
}

/// # Safety
///
/// As C's.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    for i in 0..len {
        // SAFETY: the caller's promise: `len` bytes of both are readable. Volatile, so that this is not
        // made a call of itself.
        let (a, b) = unsafe { (a.add(i).read_volatile(), b.add(i).read_volatile()) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
    }
    0
}

/// # Safety
///
/// As C's.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    // SAFETY: the same promise.
    unsafe { memcmp(a, b, len) }
}

/// # Safety
///
/// As C's.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut len = 0;
    // SAFETY: the caller's promise: it is readable up to a zero. Volatile for the same reason.
    while unsafe { text.add(len).read_volatile() } != 0 {
        len += 1;
    }
    len
}

#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    panic!("nothing unwinds here")
}
