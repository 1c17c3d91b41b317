//! The driver and nothing else, to see how large it is: `guests/bare/size`. One transport, every kind of
//! request, results thrown away. It is linked and measured, not run.
#![no_std]
#![no_main]
#![allow(dead_code, reason = "what the other program has more of")]

extern crate alloc;

#[macro_use]
mod machine;
mod memory;
mod runtime;

use core::hint::black_box;
use core::panic::PanicInfo;

use zvb_driver::mmio::Mmio;
use zvb_driver::{Disk, Options, Request, Sector, SectorRange};

use crate::machine::Cpu;
use crate::memory::{Shared, StartInfo};

#[unsafe(no_mangle)]
extern "C" fn rust_start(start_info: u64) -> ! {
    // SAFETY: what the loader passed, by way of the boot code.
    let info = unsafe { StartInfo::at(start_info) };
    // SAFETY: the first thing that is done, and nothing is allocated yet.
    unsafe { info.make_heap() };
    if drive().is_some() { machine::exit(16) } else { machine::exit(17) }
}

fn drive() -> Option<()> {
    let registers = memory::map(black_box(0xfeb0_0000), 512)?;
    let device = Mmio::new(registers, Cpu { interrupts: false }).ok()?;
    let mut disk = Disk::probe(device, Shared, &Options::default()).ok()?;
    let zone = black_box(Sector(8192));
    let ranges = || alloc::vec![SectorRange { at: zone, sectors: 8 }];
    let requests = [
        Request::Read { at: zone, buffer: disk.buffer(4096).ok()? },
        Request::Write { at: zone, buffer: disk.buffer(4096).ok()? },
        Request::Append { zone, buffer: disk.buffer(4096).ok()? },
        Request::Report { from: zone, buffer: disk.buffer(4096).ok()? },
        Request::Open { zone },
        Request::Close { zone },
        Request::Finish { zone },
        Request::Reset { zone },
        Request::ResetAll,
        Request::Flush,
        Request::Id,
        Request::Lifetime,
        Request::Discard { ranges: ranges() },
        Request::SecureErase { ranges: ranges() },
        Request::WriteZeroes { ranges: ranges(), unmap: false },
    ];
    for request in requests {
        disk.submit(0, request).ok()?;
    }
    disk.wait(0, Some(1000)).ok()?;
    while let Some(done) = disk.poll(0).ok()? {
        black_box(done.result).ok()?;
    }
    Some(())
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    machine::exit(18)
}
