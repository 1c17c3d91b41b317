//! The machine: ports, the serial line, the clock, interrupts, the way out.

use core::arch::{asm, global_asm};
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use alloc::boxed::Box;
use zvb_driver::bus::{Platform, Registers};
use zvb_driver::pci::{ConfigSpace, Function};

global_asm!(include_str!("boot.s"));

const COM1: u16 = 0x3f8;
/// QEMU's isa-debug-exit.
const EXIT: u16 = 0xf4;
/// Ticks of the programmable interval timer in a second.
const PIT_HZ: u64 = 1_193_182;
/// Where the interrupts of the two controllers begin.
const IRQ_BASE: u8 = 0x20;
const IRQ_TIMER: u8 = 0;
/// Which lines are levels rather than edges: a bit for each, of both controllers.
const TRIGGER: u16 = 0x4d0;

fn out8(port: u16, value: u8) {
    // SAFETY: ports are no memory; what this program writes to them makes no device touch its memory.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags))
    }
}

fn in8(port: u16) -> u8 {
    let value;
    // SAFETY: as above.
    unsafe {
        asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags))
    }
    value
}

fn out32(port: u16, value: u32) {
    // SAFETY: as above; a PCI command register that lets a device master the bus is written on behalf of
    // the driver, which gives that device only memory that it owns.
    unsafe {
        asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags))
    }
}

fn in32(port: u16) -> u32 {
    let value;
    // SAFETY: as above.
    unsafe {
        asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags))
    }
    value
}

/// The serial line.
pub(crate) struct Serial;

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // Bit 5 of the line status: there is room.
            while in8(COM1 + 5) & 0x20 == 0 {
                core::hint::spin_loop();
            }
            out8(COM1, byte);
        }
        Ok(())
    }
}

/// Writes a line to the serial line.
#[macro_export]
macro_rules! line {
    ($($arg:tt)*) => {{
        use core::fmt::Write;
        let _ = writeln!($crate::machine::Serial, $($arg)*);
    }};
}

/// Ends QEMU, whose exit code is twice `code` and one.
pub(crate) fn exit(code: u8) -> ! {
    out32(EXIT, code.into());
    loop {
        // SAFETY: stops the processor, for good where nobody listens to the port.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) }
    }
}

/// The configuration space of PCI functions, through the two ports of old.
pub(crate) struct Ports;

impl Ports {
    fn select(function: Function, offset: u8) {
        let Function { bus, device, function } = function;
        let at = u32::from(bus) << 16 | u32::from(device) << 11 | u32::from(function) << 8;
        out32(0xcf8, 1 << 31 | at | u32::from(offset & 0xfc));
    }
}

impl ConfigSpace for Ports {
    fn read32(&self, function: Function, offset: u8) -> u32 {
        Self::select(function, offset);
        in32(0xcfc)
    }

    fn write32(&self, function: Function, offset: u8, value: u32) {
        Self::select(function, offset);
        out32(0xcfc, value);
    }
}

/// The processor's interrupt controller: that it is on, and what its line 0 is.
const APIC: u64 = 0xfee0_0000;
const APIC_SPURIOUS: u32 = 0xf0;
const APIC_LINT0: u32 = 0x350;
const APIC_EXTERNAL: u32 = 0x700;

static TICKS_PER_MS: AtomicU64 = AtomicU64::new(1);

fn ticks() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter.
    unsafe {
        asm!("rdtsc", out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags))
    }
    u64::from(low) | u64::from(high) << 32
}

/// Measures the processor's counter against the interval timer, whose channel 0 every machine has: it
/// counts down from 65536, again and again.
pub(crate) fn start_clock() {
    const SPAN: u64 = PIT_HZ / 20;
    out8(0x43, 0x34);
    out8(0x40, 0);
    out8(0x40, 0);
    let count = || {
        out8(0x43, 0x00);
        u16::from_le_bytes([in8(0x40), in8(0x40)])
    };
    let (start, mut last, mut passed) = (ticks(), count(), 0);
    while passed < SPAN {
        let now = count();
        passed += u64::from(last.wrapping_sub(now));
        last = now;
    }
    // `passed` over `PIT_HZ` are the seconds that it took.
    let per_ms = ticks().wrapping_sub(start) * PIT_HZ / passed / 1000;
    TICKS_PER_MS.store(per_ms.max(1), Ordering::Relaxed);
}

/// The clock, and waiting: by polling, or for an interrupt.
#[derive(Clone, Copy)]
pub(crate) struct Cpu {
    pub(crate) interrupts: bool,
}

impl Platform for Cpu {
    fn now_ms(&self) -> u64 {
        ticks() / TICKS_PER_MS.load(Ordering::Relaxed)
    }

    fn idle(&self, signalled: &dyn Fn() -> bool) {
        if !self.interrupts {
            core::hint::spin_loop();
            return;
        }
        // SAFETY: interrupts are held back while the last look is taken; `sti` lets them in only after the
        // instruction behind it, so that none comes between it and the `hlt`. The timer ends each sleep.
        unsafe {
            asm!("cli", options(nomem, nostack));
            if signalled() {
                asm!("sti", options(nomem, nostack));
            } else {
                asm!("sti", "hlt", options(nomem, nostack));
            }
        }
    }
}

/// What takes the signals of the device that interrupts, and says whether there was one.
type Handler = Box<dyn Fn() -> bool>;

/// The handler, once there is one.
static DEVICE: AtomicPtr<Handler> = AtomicPtr::new(core::ptr::null_mut());
/// How many interrupts were the device's.
pub(crate) static DEVICE_INTERRUPTS: AtomicU64 = AtomicU64::new(0);
static ENABLED: AtomicBool = AtomicBool::new(false);
/// Interrupts without a cause, one behind the other.
static UNCLAIMED: AtomicU64 = AtomicU64::new(0);
/// So many of them, and the line is masked until the device is found again: a device may be stuck with its
/// line up (QEMU's on MMIO are, once their ring was broken), and nothing else would run.
const UNCLAIMED_MOST: u64 = 1000;

fn set_masked(line: u8, masked: bool) {
    let (port, bit) = if line < 8 { (0x21, 1 << line) } else { (0xa1, 1 << (line - 8)) };
    let mask = in8(port);
    out8(port, if masked { mask | bit } else { mask & !bit });
}

/// Gives the interrupt of line `line` to `handler`, and the timer's a thousandth of a second.
pub(crate) fn handle_interrupts(line: u8, handler: impl Fn() -> bool + 'static) {
    // One for each time that the device is found; what was there before may be in use, and is kept.
    let handler: &mut Handler = Box::leak(Box::new(Box::new(handler)));
    DEVICE.store(handler, Ordering::Release);
    let line = line & 15;
    UNCLAIMED.store(0, Ordering::Relaxed);
    if ENABLED.swap(true, Ordering::Relaxed) {
        set_masked(line, false);
        return;
    }
    load_interrupt_table();
    // Both controllers from the start: where their vectors begin, how they are connected, 8086 mode.
    for (port, bytes) in [(0x20, [0x11, IRQ_BASE, 4, 1]), (0xa0, [0x11, IRQ_BASE + 8, 2, 1])] {
        out8(port, bytes[0]);
        bytes[1..].iter().for_each(|byte| out8(port + 1, *byte));
    }
    // The device holds its line until it is told that its signal was taken; an edge could be missed.
    let controller = TRIGGER + u16::from(line / 8);
    out8(controller, in8(controller) | 1 << (line % 8));
    let open = 1u16 << IRQ_TIMER | 1 << 2 | 1 << line;
    out8(0x21, !open as u8);
    out8(0xa1, (!open >> 8) as u8);
    // What the controllers have to say comes through the processor's own, which firmware may not have told so.
    if let Some(apic) = crate::memory::map(APIC, 4096) {
        apic.write32(APIC_SPURIOUS, 1 << 8 | 0xff);
        apic.write32(APIC_LINT0, APIC_EXTERNAL);
    }
    let count = PIT_HZ / 1000;
    out8(0x43, 0x34);
    out8(0x40, count as u8);
    out8(0x40, (count >> 8) as u8);
    // SAFETY: the table is loaded, and its handlers leave everything as it was.
    unsafe { asm!("sti", options(nomem, nostack)) }
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    low: u16,
    selector: u16,
    stack: u8,
    kind: u8,
    middle: u16,
    high: u32,
    zero: u32,
}

/// Sends all interrupts and exceptions to [`rust_interrupt`], on a stack of their own.
pub(crate) fn load_interrupt_table() {
    unsafe extern "C" {
        static interrupt_entries: u8;
    }
    let entries = &raw const interrupt_entries as usize as u64;
    let gates = (0..48).map(|vector| {
        let entry = entries + 16 * vector;
        let (low, middle, high) = (entry as u16, (entry >> 16) as u16, (entry >> 32) as u32);
        Gate { low, selector: 8, stack: 1, kind: 0x8e, middle, high, zero: 0 }
    });
    let table = alloc::vec::Vec::leak(gates.collect());
    #[repr(C, packed)]
    struct Pointer(u16, u64);
    let pointer = Pointer((size_of_val(table) - 1) as u16, table.as_ptr() as u64);
    // SAFETY: the table is whole, and lives for ever.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack)) }
}

#[unsafe(no_mangle)]
extern "C" fn rust_interrupt(vector: u64, error: u64, instruction: u64) {
    if vector < IRQ_BASE.into() {
        panic!("exception {vector}, error {error:#x}, at {instruction:#x}");
    }
    let line = vector as u8 - IRQ_BASE;
    if line != IRQ_TIMER {
        // SAFETY: null, or leaked by `handle_interrupts`.
        let device = unsafe { DEVICE.load(Ordering::Acquire).as_ref() };
        if device.is_some_and(|taken| taken()) {
            DEVICE_INTERRUPTS.fetch_add(1, Ordering::Relaxed);
            UNCLAIMED.store(0, Ordering::Relaxed);
        } else if UNCLAIMED.fetch_add(1, Ordering::Relaxed) >= UNCLAIMED_MOST {
            set_masked(line, true);
        }
    }
    if line >= 8 {
        out8(0xa0, 0x20);
    }
    out8(0x20, 0x20);
}
