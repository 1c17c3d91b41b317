//! zvb's driver on a machine without an operating system.
//!
//! Booted by QEMU's `-kernel`, it finds a virtio block device on PCI or MMIO, tells what it is, tries the
//! statements of the conformance list on it, exercises the driver, and ends QEMU. It says all that over
//! the serial line, a JSON object a line. **It destroys what is on the disk.**
//!
//! The command line holds words: `mmio` (for PCI otherwise), `poll` (for interrupts otherwise), `virtio_mmio.device=SIZE@ADDRESS:LINE`
//! (where a device is on MMIO, as Linux is told too), `queues=N`, `only=N,N,...` and `skip=N,N,...` (statements), `skip-conform`, `skip-exercise`, `timeout=MS` (of the device, for a
//! statement).
#![no_std]
#![no_main]

extern crate alloc;

mod exercise;
mod machine;
mod memory;
mod report;
mod runtime;

use alloc::string::String;
use alloc::vec::Vec;
use core::panic::PanicInfo;

use zvb_conform::Summary;
use zvb_driver::bus::{BusError, Mapped};
use zvb_driver::mmio::{Mmio, MmioError};
use zvb_driver::pci::{self, ConfigSpace, Function, Pci};
use zvb_driver::{Disk, Options, Transport};

use crate::machine::{Cpu, Ports};
use crate::memory::{Shared, StartInfo};
use crate::report::Quoted;

/// Codes for [`machine::exit`]: QEMU's is twice that and one.
const EXIT_PASS: u8 = 16;
const EXIT_FAIL: u8 = 17;
const EXIT_PANIC: u8 = 18;

/// What the command line asks for.
struct Wanted {
    mmio: bool,
    windows: Vec<Window>,
    poll: bool,
    queues: u16,
    only: Vec<u16>,
    conform: bool,
    exercise: bool,
    timeout_ms: u32,
}

impl Wanted {
    fn parse(line: &str) -> Self {
        let mut wanted = Self {
            mmio: false,
            windows: Vec::new(),
            poll: false,
            queues: 4,
            only: Vec::new(),
            conform: true,
            exercise: true,
            timeout_ms: 5000,
        };
        for word in line.split_ascii_whitespace() {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            match name {
                "mmio" => wanted.mmio = true,
                "virtio_mmio.device" => wanted.windows.extend(Window::parse(value)),
                "poll" => wanted.poll = true,
                "queues" => wanted.queues = value.parse().unwrap_or(wanted.queues),
                "only" => wanted.only = numbers(value),
                "skip" => {
                    let skip = numbers(value);
                    let all = zvb_conform::numbers();
                    wanted.only = all.filter(|number| !skip.contains(number)).collect();
                }
                "skip-conform" => wanted.conform = false,
                "skip-exercise" => wanted.exercise = false,
                "timeout" => wanted.timeout_ms = value.parse().unwrap_or(wanted.timeout_ms),
                // What a boot loader adds is not for us.
                _ => {}
            }
        }
        wanted
    }
}

/// Where a device's registers are on MMIO, and the line of its interrupt.
struct Window {
    address: u64,
    len: u32,
    line: u8,
}

impl Window {
    /// `512@0xfeb00e00:12`
    fn parse(text: &str) -> Option<Self> {
        let (len, place) = text.split_once('@')?;
        let (address, line) = place.split_once(':')?;
        let address = u64::from_str_radix(address.strip_prefix("0x")?, 16).ok()?;
        Some(Self { address, len: len.parse().ok()?, line: line.parse().ok()? })
    }
}

fn numbers(list: &str) -> Vec<u16> {
    list.split(',').filter_map(|number| number.parse().ok()).collect()
}

#[unsafe(no_mangle)]
extern "C" fn rust_start(start_info: u64) -> ! {
    // SAFETY: what the loader passed, by way of the boot code.
    let info = unsafe { StartInfo::at(start_info) };
    // SAFETY: the first thing that is done, and nothing is allocated yet.
    let heap = unsafe { info.make_heap() };
    machine::load_interrupt_table();
    machine::start_clock();
    let line = info.command_line();
    line!(r#"{{"kind":"boot","heap":{heap},"command_line":{}}}"#, Quoted(line));
    let wanted = Wanted::parse(line);
    let good = if wanted.mmio { run_mmio(&wanted) } else { run_pci(&wanted) };
    let count = machine::DEVICE_INTERRUPTS.load(core::sync::atomic::Ordering::Relaxed);
    line!(r#"{{"kind":"interrupts","wanted":{},"count":{count}}}"#, !wanted.poll);
    let shared = Shared::in_use();
    line!(r#"{{"kind":"end","result":"{}","shared_bytes_left":{shared}}}"#, word(good));
    machine::exit(if good { EXIT_PASS } else { EXIT_FAIL })
}

fn word(good: bool) -> &'static str {
    if good { "pass" } else { "fail" }
}

fn run_pci(wanted: &Wanted) -> bool {
    let Some(function) = pci::find(&Ports).next() else { panic!("no virtio block device on PCI") };
    let line = Ports.read32(function, 0x3c) as u8;
    let cpu = Cpu { interrupts: !wanted.poll };
    let mut connect = || {
        let device = open_pci(function, cpu);
        if cpu.interrupts {
            let interrupt = device.interrupt();
            machine::handle_interrupts(line, move || interrupt.handle());
        }
        Ok(device)
    };
    run(wanted, "pci", &function, &mut connect)
}

fn open_pci(function: Function, cpu: Cpu) -> Pci<Mapped, Cpu> {
    match Pci::new(&Ports, function, cpu, memory::map) {
        Ok(device) => device,
        Err(error) => panic!("{function}: {error}"),
    }
}

fn run_mmio(wanted: &Wanted) -> bool {
    let cpu = Cpu { interrupts: !wanted.poll };
    let open = |window: &Window| {
        let registers = memory::map(window.address, window.len).ok_or(MmioError::Empty)?;
        Mmio::new(registers, cpu)
    };
    let Some(window) = wanted.windows.iter().find(|window| open(window).is_ok()) else {
        panic!("no virtio block device on MMIO");
    };
    let mut connect = || {
        let device = match open(window) {
            Ok(device) => device,
            Err(error) => panic!("{:#x}: {error}", window.address),
        };
        if cpu.interrupts {
            let interrupt = device.interrupt();
            machine::handle_interrupts(window.line, move || interrupt.handle());
        }
        Ok(device)
    };
    run(wanted, "mmio", &format_args!("{:#x}", window.address), &mut connect)
}

/// All that is done with a device: true when everything held.
fn run<T: Transport<Error = BusError>>(
    wanted: &Wanted,
    transport: &str,
    at: &dyn core::fmt::Display,
    connect: &mut dyn FnMut() -> Result<T, BusError>,
) -> bool {
    probe(wanted, transport, at, connect);
    // What a device does not hold is the finding, not a failure of this program.
    if wanted.conform {
        conform(wanted, connect);
    }
    !wanted.exercise || exercise(wanted, connect)
}

fn options(wanted: &Wanted) -> Options {
    Options { queues: wanted.queues, ..Options::default() }
}

fn open<T: Transport<Error = BusError>>(
    wanted: &Wanted,
    connect: &mut dyn FnMut() -> Result<T, BusError>,
) -> Disk<T, Shared> {
    let device = connect().unwrap_or_else(|error| panic!("{error}"));
    match Disk::probe(device, Shared, &options(wanted)) {
        Ok(disk) => disk,
        Err(error) => panic!("{}", told(&error)),
    }
}

fn probe<T: Transport<Error = BusError>>(
    wanted: &Wanted,
    transport: &str,
    at: &dyn core::fmt::Display,
    connect: &mut dyn FnMut() -> Result<T, BusError>,
) {
    let mut disk = open(wanted, connect);
    let id = disk.id().unwrap_or_default();
    let id = String::from_utf8_lossy(&id);
    report::info(transport, at, disk.info(), id.trim_end_matches('\0'));
    if disk.info().zoned.is_some() {
        match disk.zones() {
            Ok(zones) => report::zones(&zones),
            Err(error) => panic!("{}", told(&error)),
        }
    }
}

fn conform<T: Transport<Error = BusError>>(
    wanted: &Wanted,
    connect: &mut dyn FnMut() -> Result<T, BusError>,
) {
    // A transport that polls says nothing that is not so: what it takes is time, not wakes.
    let options = zvb_conform::Options {
        timeout_ms: wanted.timeout_ms,
        only: &wanted.only,
        ..zvb_conform::Options::default()
    };
    match zvb_conform::run(connect, &Shared, &options, &mut report::statement) {
        Ok(Summary { passed, failed, not_applicable }) => {
            line!(
                r#"{{"kind":"conform","passed":{passed},"failed":{failed},"not_applicable":{not_applicable}}}"#
            );
        }
        Err(error) => line!(r#"{{"kind":"conform","aborted":{}}}"#, Quoted(told(&error))),
    }
}

fn exercise<T: Transport<Error = BusError>>(
    wanted: &Wanted,
    connect: &mut dyn FnMut() -> Result<T, BusError>,
) -> bool {
    let mut disk = open(wanted, connect);
    let mut good = true;
    exercise::run(&mut disk, &mut |name, result| {
        good &= result.is_ok();
        report::exercise(name, &result);
    });
    good
}

/// An error and its causes, in a line.
pub(crate) fn told(error: &dyn core::error::Error) -> String {
    let mut text = alloc::format!("{error}");
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = alloc::format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    line!(r#"{{"kind":"panic","message":{}}}"#, Quoted(info));
    machine::exit(EXIT_PANIC)
}
