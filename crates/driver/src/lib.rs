//! The guest side of a (zoned) virtio block device: probe, validate, submit and poll.
//!
//! [`Disk::probe`] takes a device from reset to DRIVER_OK over any [`Transport`], with any [`Dma`] memory.
//! The device is not trusted: its configuration, its rings and its answers are checked, each kind of lie
//! has a name ([`ConfigError`], [`Fault`], [`Lie`]), and what the driver decides by is its own copy.
//!
//! Without ZONED a device is a plain disk, and driven as such.
//!
//! # Porting
//!
//! What an operating system supplies:
//!
//! - **Memory** that the device can reach: [`Dma`], two functions. On a machine without an IOMMU that is a
//!   page allocator and the physical address of a page.
//! - **Time and waiting**: [`bus::Platform`], two functions. To poll, `idle` is a hint to the processor;
//!   with interrupts it sleeps until one comes.
//! - **A way to the device's registers**: for PCI, 32-bit reads and writes of configuration space
//!   ([`pci::ConfigSpace`]) and a mapping of the BARs; for MMIO, where the registers are
//!   ([`bus::Mapped`]). Another way altogether is a [`Transport`] of one's own.
//! - **The interrupt**, if it is wanted: its handler calls [`pci::PciInterrupt::handle`] or
//!   [`mmio::MmioInterrupt::handle`]. Its false is for the kernel that shares the line among devices; whoever
//!   sleeps on this one is woken whatever it says, since the interrupt may be its own, and looked at already.
//! - **A heap**, `alloc`'s, and atomics of 64 bits.
//!
//! All of it for a kernel whose memory is mapped one to one:
//!
//! ```no_run
//! extern crate alloc;
//!
//! use alloc::boxed::Box;
//! use core::alloc::Layout;
//! use core::error::Error;
//! use core::ptr::NonNull;
//! use zvb_driver::bus::{Mapped, Platform};
//! use zvb_driver::pci::{self, ConfigSpace, Function, Pci};
//! use zvb_driver::{Disk, Dma, DmaRegion, Options, Sector};
//!
//! # mod kernel {
//! #     pub fn uptime_ms() -> u64 { 0 }
//! #     pub fn sleep_until_interrupt_unless(_: &dyn Fn() -> bool) {}
//! #     pub fn on_interrupt(_line: u8, _handler: impl Fn() -> bool + 'static) {}
//! #     pub const ECAM: usize = 0xb000_0000;
//! # }
//! /// Memory: pages whose addresses are the machine's own.
//! #[derive(Clone)]
//! struct Pages;
//!
//! // SAFETY: zeroed memory that nobody else has until it is freed, where the device finds it too.
//! unsafe impl Dma for Pages {
//!     fn alloc(&self, len: usize, _align: usize) -> Option<DmaRegion> {
//!         let layout = Layout::from_size_align(len.max(1), 4096).ok()?;
//!         // SAFETY: the layout has a size.
//!         let host = NonNull::new(unsafe { alloc::alloc::alloc_zeroed(layout) })?;
//!         Some(DmaRegion { host, device: host.as_ptr() as u64, len })
//!     }
//!
//!     unsafe fn free(&self, region: DmaRegion) {
//!         let layout = Layout::from_size_align(region.len.max(1), 4096).expect("as in alloc");
//!         // SAFETY: it came from `alloc`, with this layout.
//!         unsafe { alloc::alloc::dealloc(region.host.as_ptr(), layout) }
//!     }
//! }
//!
//! /// Time, and waiting.
//! struct Machine;
//!
//! impl Platform for Machine {
//!     fn now_ms(&self) -> u64 {
//!         kernel::uptime_ms()
//!     }
//!
//!     fn idle(&self, signalled: &dyn Fn() -> bool) {
//!         kernel::sleep_until_interrupt_unless(signalled); // or core::hint::spin_loop()
//!     }
//! }
//!
//! /// PCI's configuration space, mapped (ECAM).
//! struct Ecam;
//!
//! fn register(function: Function, offset: u8) -> *mut u32 {
//!     let Function { bus, device, function } = function;
//!     let place = (bus as usize) << 20 | (device as usize) << 15 | (function as usize) << 12;
//!     (kernel::ECAM + place + offset as usize) as *mut u32
//! }
//!
//! impl ConfigSpace for Ecam {
//!     fn read32(&self, function: Function, offset: u8) -> u32 {
//!         // SAFETY: the firmware says that it is there.
//!         u32::from_le(unsafe { register(function, offset).read_volatile() })
//!     }
//!
//!     fn write32(&self, function: Function, offset: u8, value: u32) {
//!         // SAFETY: as above.
//!         unsafe { register(function, offset).write_volatile(value.to_le()) }
//!     }
//! }
//!
//! fn first_disk() -> Result<(), Box<dyn Error>> {
//!     let function = pci::find(&Ecam).next().ok_or("no virtio disk")?;
//!     let device = Pci::new(&Ecam, function, Machine, |address, len| {
//!         // SAFETY: registers, which this kernel maps one to one, uncached.
//!         NonNull::new(address as *mut u8).map(|base| unsafe { Mapped::new(base, len) })
//!     })?;
//!     let interrupt = device.interrupt();
//!     let line = Ecam.read32(function, 0x3c) as u8;
//!     kernel::on_interrupt(line, move || interrupt.handle());
//!
//!     let mut disk = Disk::probe(device, Pages, &Options::default())?;
//!     if disk.info().zoned.is_some() {
//!         let zone = disk.zones()?.into_iter().find(|zone| zone.remaining() >= Sector(8));
//!         let zone = zone.ok_or("all zones are full")?;
//!         let at = disk.append(zone.start, &[0x5a; 4096])?;
//!         let mut back = [0; 4096];
//!         disk.read(at, &mut back)?;
//!         assert_eq!(back, [0x5a; 4096]);
//!     }
//!     Ok(())
//! }
//! ```
//!
//! `guests/bare` is such a kernel, whole: it boots, finds its disk on PCI or MMIO, and does all that there is
//! to do with one.
//!
//! # Many requests at once
//!
//! [`Disk::read`] and its like come back when it is done. Underneath, a [`Request`] owns the memory that it
//! reads from or writes to, [`Queue::submit`] gives a [`Token`] for it, [`Queue::kick`] shows the device all
//! that was submitted, and [`Queue::poll`] gives [`Completion`]s, each with its token and the memory back.
//! None of these blocks. [`Disk::queues`] gives out all queues, one for each thread.
//!
//! Writes to one sequential zone must be sent one after the other, since devices may do requests in any
//! order; appends to it can be in flight together, and so can writes to different zones.
//!
//! # In async code
//!
//! A future for a request submits it when it is first polled, and leaves its waker in a list, at
//! [`Token::slot`]. Something must then [`kick`](Queue::kick), or the device never sees it: the executor once
//! its tasks have all had their turn, so that many requests cost one notification, or each future for itself.
//!
//! One task for each queue (or for all) takes the answers. It calls [`Queue::poll`] until nothing is left, puts
//! each completion at its token's slot, and wakes the waker there; then it calls [`Queue::ask_for_signal`],
//! begins again if that is true, and else sleeps until the handler of the interrupt wakes it. It runs once
//! before the first request: **a device signals only what it was asked for**, and nobody else asks but
//! [`Queue::wait`] and the calls that block.
//!
//! A future that is dropped before its time just leaves the list: the driver keeps the memory until the device
//! gives it back. `tests/asynchronous.rs` has all of that in 200 lines, over no executor in particular.
//!
//! # What it allocates
//!
//! For a read, a write, an append, a flush, or an open, close, finish or reset of one zone: nothing
//! (`tests/allocations.rs` counts). For a report, the list of zones that it answers with, and two bytes for
//! each zone while it is in flight; for a reset of all zones and for lists of ranges, a list of their size.
//! Calls that block and take slices allocate buffers to copy through. A queue allocates when it is set up,
//! 35 KB of shared memory with 256 descriptors, and 16 bytes are kept for each zone
//! ([`Checks::Full`]).
//!
//! # How large it is
//!
//! A program that is this driver over MMIO, with every kind of request, has 59 KB of code on x86-64 when compiled
//! for speed, of which 43 KB are this crate, the rings and the wire; 40 KB in all when compiled for size with
//! link-time optimisation. `guests/bare/size` measures it (Rust 1.95 gave these).
//!
//! # Devices that do not keep to the specification
//!
//! QEMU's zoned device (10.0 to 11.1) breaks some rules (docs/interop.md). This driver works on it, since it
//!
//! - never asks for a report with room for no zone, which breaks that device (statement 75);
//! - never sends an append to a full zone, which there can write to the next one (53), nor a write that
//!   does not fit ([`Checks::Full`]);
//! - accepts ZONED from a host-managed device always, or does not drive it
//!   ([`ProbeError::HostManagedRefused`]): there FEATURES_OK is set also without (8);
//! - starts every segment of data at a multiple of 4096, as that device wants it of appends (144);
//! - makes nothing of which error it is that a zone request answers with: that device has ZONE_INVALID_CMD
//!   for limits and IOERR for writes (46, 59). After a failed write a zone is asked how it is, before the
//!   next one.
//!
// Names of transports that are not built lead to what is said of them here.
#![cfg_attr(not(feature = "pci"), doc = " [`pci::ConfigSpace`]: #porting")]
#![cfg_attr(not(feature = "pci"), doc = " [`pci::PciInterrupt::handle`]: #porting")]
#![cfg_attr(not(feature = "mmio"), doc = " [`mmio::MmioInterrupt::handle`]: #porting")]
#![no_std]

extern crate alloc;

mod blocking;
pub mod bus;
mod check;
mod disk;
mod dma;
mod error;
mod info;
mod map;
#[cfg(feature = "mmio")]
pub mod mmio;
#[cfg(feature = "pci")]
pub mod pci;
mod probe;
mod request;
mod ring;
mod state;
mod transport;
mod zone;

pub use disk::{Disk, Queue};
pub use dma::{Buffer, NoMemory};
pub use error::{ConfigError, Error, Fault, Invalid, Lie, ProbeError, RequestError, SubmitError};
pub use info::{Checks, HostAware, Info, Options, RangeLimits, ZonedInfo};
pub use request::{Answer, Completion, Rejected, Request, SectorRange, Token};
pub use transport::{Dma, DmaRegion, QueueLayout, Transport};
pub use zone::Zone;
pub use zvb_ring::DeviceLie;
pub use zvb_wire::{
    Condition, Features, Lifetime, Model, RequestType, SECTOR_BYTES, Sector, Status, ZoneType,
};
