//! The MMIO transport against registers that log: each access is the one that the specification wants,
//! in its order. Numbers 167 to 169 of docs/conformance.md.
#![cfg(feature = "mmio")]

mod machine;

use machine::{Block, Clock, Log, set};
use zvb_driver::bus::BusError;
use zvb_driver::mmio::{Mmio, MmioError};
use zvb_driver::{Features, QueueLayout, Transport};
use zvb_wire::DeviceStatus;

/// A block device of two queues of 128, with 256 bytes of configuration space.
fn registers(log: &Log) -> Block {
    let registers = Block::new("mmio", 0x200, log);
    registers.set(0x00, &0x7472_6976u32.to_le_bytes());
    registers.set(0x04, &[2]);
    registers.set(0x08, &[2]);
    registers.on_write(|bytes, offset, value| match offset {
        0x14 => {
            let half: u32 = if value == 0 { 0x3000_0200 } else { 0x101 };
            set(bytes, 0x10, &half.to_le_bytes());
        }
        0x30 => set(bytes, 0x34, &[if value < 2 { 128 } else { 0 }]),
        0x64 => set(bytes, 0x60, &[0]),
        _ => {}
    });
    registers
}

fn layout() -> QueueLayout {
    QueueLayout { size: 64, descriptors: 0x1_0000_1000, available: 0x2000, used: 0x3000 }
}

#[test]
fn a_device_is_looked_at_in_order_and_reset() {
    let log = Log::default();
    Mmio::new(registers(&log), Clock::default()).map(|_| ()).unwrap();
    let wanted = [
        "mmio r32 0x00 = 0x74726976",
        "mmio r32 0x04 = 0x2",
        "mmio r32 0x08 = 0x2",
        "mmio w32 0x70 = 0x0",
        "mmio r32 0x70 = 0x0",
        "mmio w32 0x30 = 0x0",
        "mmio r32 0x34 = 0x80",
        "mmio w32 0x30 = 0x1",
        "mmio r32 0x34 = 0x80",
        "mmio w32 0x30 = 0x2",
        "mmio r32 0x34 = 0x0",
    ];
    assert_eq!(log.take(), wanted);
}

#[test]
fn what_is_no_block_device_is_left_alone() {
    let log = Log::default();
    let open = |offset, byte: u8| {
        let registers = registers(&log);
        registers.set(offset, &[byte]);
        let error = Mmio::new(registers, Clock::default()).map(|_| ()).unwrap_err();
        (error, log.take().len())
    };
    assert_eq!(open(0x00, 0), (MmioError::Magic(0x7472_6900), 1));
    assert_eq!(open(0x04, 1), (MmioError::Version(1), 2));
    assert_eq!(open(0x08, 0), (MmioError::Empty, 3));
    assert_eq!(open(0x08, 1), (MmioError::NotBlock(1), 3));
    let short = Mmio::new(Block::new("mmio", 0x100, &log), Clock::default()).map(|_| ());
    assert_eq!((short, log.take().len()), (Err(MmioError::TooShort(0x100)), 0));
    let stuck = registers(&log);
    stuck.on_write(|bytes, _, _| set(bytes, 0x70, &[4]));
    let stuck = Mmio::new(stuck, Clock::default()).map(|_| ());
    assert_eq!(stuck, Err(MmioError::NoReset(4)));
}

#[test]
fn features_are_selected_before_they_are_read_or_written() {
    let log = Log::default();
    let mut device = Mmio::new(registers(&log), Clock::default()).unwrap();
    log.take();
    assert_eq!(device.device_features().unwrap().bits(), 0x101_3000_0200);
    device.set_driver_features(Features::from_bits_retain(0x1_0000_0200)).unwrap();
    device.set_status(DeviceStatus::DRIVER).unwrap();
    let wanted = [
        "mmio w32 0x14 = 0x0",
        "mmio r32 0x10 = 0x30000200",
        "mmio w32 0x14 = 0x1",
        "mmio r32 0x10 = 0x101",
        "mmio w32 0x24 = 0x0",
        "mmio w32 0x20 = 0x200",
        "mmio w32 0x24 = 0x1",
        "mmio w32 0x20 = 0x1",
        "mmio w32 0x70 = 0x2",
    ];
    assert_eq!(log.take(), wanted);
}

#[test]
fn a_queue_is_described_before_it_is_ready() {
    let log = Log::default();
    let mut device = Mmio::new(registers(&log), Clock::default()).unwrap();
    assert_eq!((device.max_queues(), device.max_queue_size(0)), (Ok(2), Ok(128)));
    assert_eq!(device.max_queue_size(2), Ok(0));
    log.take();
    device.set_up_queue(1, &layout()).unwrap();
    device.notify(1).unwrap();
    let wanted = [
        "mmio w32 0x30 = 0x1",
        "mmio r32 0x44 = 0x0",
        "mmio r32 0x34 = 0x80",
        "mmio w32 0x38 = 0x40",
        "mmio w32 0x80 = 0x1000",
        "mmio w32 0x84 = 0x1",
        "mmio w32 0x90 = 0x2000",
        "mmio w32 0x94 = 0x0",
        "mmio w32 0xa0 = 0x3000",
        "mmio w32 0xa4 = 0x0",
        "mmio w32 0x44 = 0x1",
        "mmio w32 0x50 = 0x1",
    ];
    assert_eq!(log.take(), wanted);
    // Of a queue that is ready nothing else is touched.
    assert_eq!(device.set_up_queue(1, &layout()), Err(BusError::QueueInUse(1)));
    assert_eq!(log.take(), ["mmio w32 0x30 = 0x1", "mmio r32 0x44 = 0x1"]);
    let large = QueueLayout { size: 256, ..layout() };
    let refused = BusError::QueueSize { queue: 0, size: 256, max: 128 };
    // The selected queue's registers are those of queue 1 here, so make it one that is not ready.
    device.reset().unwrap();
    let registers = registers(&log);
    let mut fresh = Mmio::new(registers, Clock::default()).unwrap();
    assert_eq!(fresh.set_up_queue(0, &large), Err(refused));
    assert_eq!(fresh.notify(0), Err(BusError::NoQueue(0)));
}

#[test]
fn one_queue_is_reset_alone_where_that_was_agreed_on() {
    let log = Log::default();
    let registers = registers(&log);
    let mut device = Mmio::new(registers.clone(), Clock::default()).unwrap();
    device.set_up_queue(0, &layout()).unwrap();
    assert_eq!(device.reset_queue(0), Ok(false));
    device.set_driver_features(Features::RING_RESET).unwrap();
    let mut looks = 2;
    registers.on_read(move |bytes, offset, _| {
        if offset == 0xc0 {
            looks -= 1;
            set(bytes, 0xc0, &[u8::from(looks > 0)]);
            set(bytes, 0x44, &[0]);
        }
    });
    log.take();
    assert_eq!(device.reset_queue(0), Ok(true));
    let wanted = [
        "mmio w32 0x30 = 0x0",
        "mmio w32 0xc0 = 0x1",
        "mmio r32 0xc0 = 0x1",
        "mmio r32 0xc0 = 0x1",
        "mmio r32 0xc0 = 0x0",
    ];
    assert_eq!(log.take(), wanted);
    assert_eq!(device.notify(0), Err(BusError::NoQueue(0)));
    device.set_up_queue(0, &layout()).unwrap();
}

#[test]
fn an_interrupt_is_acknowledged_for_what_it_was() {
    let log = Log::default();
    let registers = registers(&log);
    let device = Mmio::new(registers.clone(), Clock::default()).unwrap();
    log.take();
    // Bits that mean nothing are neither looked at nor acknowledged.
    registers.set(0x60, &[0xf5]);
    device.wait(0, Some(20)).unwrap();
    let wanted = ["mmio r32 0x60 = 0xf5", "mmio w32 0x64 = 0x1"];
    assert_eq!(log.take(), wanted);
    device.wait(1, Some(20)).unwrap();
    let silent = BusError::Silent { queue: 1, milliseconds: 20 };
    assert_eq!(device.wait(1, Some(20)), Err(silent));
    let interrupt = device.interrupt();
    assert!(!interrupt.handle());
    registers.set(0x60, &[3]);
    assert!(interrupt.handle());
    assert_eq!(interrupt.config_changes(), 1);
    device.wait(0, None).unwrap();
}

#[test]
fn the_configuration_begins_behind_the_registers() {
    let log = Log::default();
    let registers = registers(&log);
    registers.set(0x100, &[1, 2, 3, 4, 5, 6, 7, 8]);
    registers.set(0xfc, &[3]);
    let mut device = Mmio::new(registers, Clock::default()).unwrap();
    log.take();
    assert_eq!(device.config_len(), Ok(0x100));
    assert_eq!(device.config_generation(), Ok(3));
    let (mut byte, mut long) = ([0; 1], [0; 8]);
    device.read_config(3, &mut byte).unwrap();
    device.read_config(0, &mut long).unwrap();
    device.write_config(32, &[1]).unwrap();
    let wanted = [
        "mmio r32 0x60 = 0x0",
        "mmio r32 0xfc = 0x3",
        "mmio r8 0x103 = 0x4",
        "mmio r32 0x100 = 0x4030201",
        "mmio r32 0x104 = 0x8070605",
        "mmio w8 0x120 = 0x1",
    ];
    assert_eq!(log.take(), wanted);
    assert!(device.read_config(0xfd, &mut [0; 4]).is_err());
}
