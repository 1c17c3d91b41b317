//! The PCI transport against registers that log: each access is the one that the specification wants, in
//! its order. Numbers 157 to 166 of docs/conformance.md.
#![cfg(feature = "pci")]

mod machine;

use std::cell::RefCell;
use std::collections::BTreeMap;

use machine::{Block, Clock, Log, get, set};
use zvb_driver::bus::BusError;
use zvb_driver::pci::{ConfigSpace, Function, Pci, PciError, find};
use zvb_driver::{Features, QueueLayout, Transport};
use zvb_wire::DeviceStatus;

const HERE: Function = Function { bus: 0, device: 3, function: 0 };
const BAR: u64 = 0x10_0000_0000;

/// The configuration space of one function.
struct Space {
    at: Function,
    bytes: RefCell<BTreeMap<u32, u8>>,
    writes: RefCell<Vec<(u8, u32)>>,
}

impl ConfigSpace for Space {
    fn read32(&self, function: Function, offset: u8) -> u32 {
        assert_eq!(offset % 4, 0);
        if function == self.at { get(&self.bytes.borrow(), offset.into(), 4) } else { u32::MAX }
    }

    fn write32(&self, function: Function, offset: u8, value: u32) {
        assert_eq!((function, offset % 4), (self.at, 0));
        self.writes.borrow_mut().push((offset, value));
    }
}

/// A capability: its type, BAR, offset and length.
type Capability = (u8, u8, u32, u32);

/// As QEMU lays a device out, behind a type that is reserved.
const USUAL: [Capability; 6] = [
    (7, 4, 0, 0x1000),
    (1, 4, 0, 0x1000),
    (3, 4, 0x1000, 0x1000),
    (4, 4, 0x2000, 0x1000),
    (2, 4, 0x3000, 0x1000),
    (5, 0, 0, 0),
];

impl Space {
    fn new(id: u32, capabilities: &[Capability]) -> Self {
        let mut bytes = BTreeMap::new();
        set(&mut bytes, 0, &id.to_le_bytes());
        // An interrupt that is disabled, and a list of capabilities.
        set(&mut bytes, 4, &[0x00, 0x04, 0x10, 0x00]);
        // BAR 4 is 64 bits wide; BAR 1 has 32 bits and no address.
        set(&mut bytes, 0x20, &(BAR | 0xc).to_le_bytes());
        set(&mut bytes, 0x34, &[0x40]);
        // Power management comes first.
        set(&mut bytes, 0x40, &[0x01, 0x48]);
        for (i, (kind, bar, offset, len)) in (0..).zip(capabilities) {
            let at = 0x48 + 20 * i;
            let next = if i + 1 == capabilities.len() as u32 { 0 } else { at as u8 + 20 };
            set(&mut bytes, at, &[0x09, next, 20, *kind, *bar]);
            set(&mut bytes, at + 8, &offset.to_le_bytes());
            set(&mut bytes, at + 12, &len.to_le_bytes());
            set(&mut bytes, at + 16, &4u32.to_le_bytes());
        }
        Self { at: HERE, bytes: RefCell::new(bytes), writes: RefCell::default() }
    }
}

/// A device of two queues of 256, with all that it shows.
struct Machine {
    log: Log,
    common: Block,
    isr: Block,
    config: Block,
    mapped: Vec<(u64, u32)>,
    clock: Clock,
}

impl Machine {
    fn new() -> Self {
        let log = Log::default();
        let common = Block::new("common", 0x40, &log);
        common.set(0x12, &2u16.to_le_bytes());
        common.set(0x38, &0x77u16.to_le_bytes());
        common.on_write(|bytes, offset, value| match offset {
            0x00 => {
                let half: u32 = if value == 0 { 0x3000_0200 } else { 0x181 };
                set(bytes, 0x04, &half.to_le_bytes());
            }
            // Queue n: notified at n, 256 descriptors where it exists, never enabled by a select.
            0x16 => {
                let size: u16 = if value < 2 { 256 } else { 0 };
                set(bytes, 0x18, &size.to_le_bytes());
                set(bytes, 0x1e, &(value as u16).to_le_bytes());
            }
            0x3a => set(bytes, 0x3a, &[0, 0]),
            _ => {}
        });
        let (isr, config) = (Block::new("isr", 1, &log), Block::new("config", 0x1000, &log));
        isr.on_read(|bytes, _, _| set(bytes, 0, &[0]));
        Self { log, common, isr, config, mapped: Vec::new(), clock: Clock::default() }
    }

    fn open(&mut self, space: &Space) -> Result<Pci<Block, &Clock>, PciError> {
        let Self { log, common, isr, config, mapped, clock } = self;
        Pci::new(space, HERE, &*clock, |address, len| {
            mapped.push((address, len));
            match address - BAR {
                0 => Some(common.clone()),
                0x1000 => Some(isr.clone()),
                0x2000 => Some(config.clone()),
                0x3000 => Some(Block::new("notify", len, log)),
                _ => None,
            }
        })
    }
}

fn layout() -> QueueLayout {
    QueueLayout { size: 64, descriptors: 0x1_0000_1000, available: 0x2000, used: 0x3000 }
}

#[test]
fn block_devices_of_both_numbers_are_found_wherever_they_are() {
    for id in [0x1042_1af4, 0x1001_1af4] {
        let space = Space::new(id, &USUAL);
        assert_eq!(find(&space).collect::<Vec<_>>(), [HERE]);
    }
    // A network device, and a block device of another vendor.
    for id in [0x1041_1af4, 0x1042_1af5] {
        let space = Space::new(id, &USUAL);
        assert_eq!(find(&space).count(), 0);
        let (vendor, device) = (id as u16, (id >> 16) as u16);
        let refused = Machine::new().open(&space).err();
        assert_eq!(refused, Some(PciError::NotBlock { vendor, device }));
    }
    // Not the first function: bit 7 of the header type of the first tells that there are more.
    let at = Function { function: 5, ..HERE };
    let mut space = Space::new(0x1042_1af4, &USUAL);
    space.at = at;
    struct Many(Space);
    impl ConfigSpace for Many {
        fn read32(&self, function: Function, offset: u8) -> u32 {
            match (function, offset) {
                (HERE, 0) => 0x1234_8086,
                (HERE, 0x0c) => 0x0080_0000,
                _ => self.0.read32(function, offset),
            }
        }
        fn write32(&self, _: Function, _: u8, _: u32) {}
    }
    assert_eq!(find(&Many(space)).collect::<Vec<_>>(), [at]);
}

#[test]
fn only_what_is_needed_is_mapped_and_the_function_is_enabled() {
    let (space, mut machine) = (Space::new(0x1042_1af4, &USUAL), Machine::new());
    machine.open(&space).expect("a device in order");
    let wanted = [(BAR, 0x40), (BAR + 0x3000, 0x1000), (BAR + 0x1000, 1), (BAR + 0x2000, 0x1000)];
    assert_eq!(machine.mapped, wanted);
    // Memory and bus mastering on, interrupts allowed; nothing else of the configuration space is written.
    assert_eq!(space.writes.take(), [(0x04, 0x0006)]);
    assert_eq!(machine.log.take(), ["common r16 0x12 = 0x2"]);
}

#[test]
fn the_first_structure_that_memory_reaches_is_used() {
    // A reserved BAR, ports, and a BAR without an address; then a good one, then a worse one.
    let mut capabilities =
        vec![(1, 6, 0, 0x40), (1, 1, 0, 0x40), (1, 4, 0, 0x1000), (1, 4, 0x5000, 0x1000)];
    capabilities.extend_from_slice(&USUAL[2..5]);
    let (space, mut machine) = (Space::new(0x1042_1af4, &capabilities), Machine::new());
    set(&mut space.bytes.borrow_mut(), 0x14, &[0x01, 0xc0, 0, 0]);
    machine.open(&space).expect("a device in order");
    assert_eq!(machine.mapped[0], (BAR, 0x40));
}

#[test]
fn devices_that_lack_something_say_what() {
    let open = |capabilities: &[Capability]| {
        Machine::new().open(&Space::new(0x1001_1af4, capabilities)).err().expect("not in order")
    };
    assert_eq!(open(&[]), PciError::Missing("common configuration"));
    let without = |kind| USUAL.into_iter().filter(|c| c.0 != kind).collect::<Vec<_>>();
    assert_eq!(open(&without(2)), PciError::Missing("notification"));
    assert_eq!(open(&without(3)), PciError::Missing("ISR status"));
    assert_eq!(open(&without(4)), PciError::Missing("device configuration"));
    let with =
        |kind, offset, len| USUAL.map(|c| if c.0 == kind { (c.0, c.1, offset, len) } else { c });
    let name = "common configuration";
    assert_eq!(open(&with(1, 0, 0x37)), PciError::TooShort { name, len: 0x37, needed: 0x38 });
    assert_eq!(open(&with(1, 2, 0x40)), PciError::Misaligned { name, offset: 2 });
    let address = BAR + 0x7000;
    assert_eq!(open(&with(1, 0x7000, 64)), PciError::NotMapped { name, address, len: 64 });
    // A list that goes round in circles has an end.
    let space = Space::new(0x1042_1af4, &USUAL[..1]);
    set(&mut space.bytes.borrow_mut(), 0x49, &[0x40]);
    assert!(Machine::new().open(&space).is_err());
}

#[test]
fn features_come_and_go_in_two_halves() {
    let (space, mut machine) = (Space::new(0x1042_1af4, &USUAL), Machine::new());
    let log = machine.log.clone();
    let mut device = machine.open(&space).expect("a device in order");
    log.take();
    let offered = device.device_features().unwrap();
    assert_eq!(offered.bits(), 0x181_3000_0200);
    let wanted = [
        "common w32 0x00 = 0x0",
        "common r32 0x04 = 0x30000200",
        "common w32 0x00 = 0x1",
        "common r32 0x04 = 0x181",
    ];
    assert_eq!(log.take(), wanted);
    device.set_driver_features(Features::from_bits_retain(0x1_0000_0200)).unwrap();
    let wanted = [
        "common w32 0x08 = 0x0",
        "common w32 0x0c = 0x200",
        "common w32 0x08 = 0x1",
        "common w32 0x0c = 0x1",
    ];
    assert_eq!(log.take(), wanted);
}

#[test]
fn a_reset_is_over_when_the_status_reads_zero() {
    let (space, mut machine) = (Space::new(0x1042_1af4, &USUAL), Machine::new());
    let (log, common) = (machine.log.clone(), machine.common.clone());
    let mut device = machine.open(&space).expect("a device in order");
    log.take();
    // It takes three looks.
    let mut looks = 3;
    common.on_read(move |bytes, offset, _| {
        if offset == 0x14 {
            looks -= 1;
            set(bytes, 0x14, &[if looks > 0 { 0x0f } else { 0 }]);
        }
    });
    common.on_write(|bytes, offset, _| {
        if offset == 0x14 {
            set(bytes, 0x14, &[0x0f]);
        }
    });
    device.reset().unwrap();
    let mut wanted = vec!["common w8 0x14 = 0x0"];
    wanted.extend(["common r8 0x14 = 0xf"; 3]);
    wanted.extend(["common r8 0x14 = 0x0", "isr r8 0x00 = 0x0"]);
    assert_eq!(log.take(), wanted);
    // A device that never does is no endless loop.
    common.on_read(|_, _, _| {});
    let never = BusError::NoReset { status: 0x0f, milliseconds: 10_000 };
    assert_eq!(device.reset(), Err(never));
    log.take();
    device.set_status(DeviceStatus::ACKNOWLEDGE).unwrap();
    assert_eq!(log.take(), ["common w8 0x14 = 0x1"]);
}

#[test]
fn a_queue_is_described_before_it_is_enabled() {
    let (space, mut machine) = (Space::new(0x1042_1af4, &USUAL), Machine::new());
    let log = machine.log.clone();
    let mut device = machine.open(&space).expect("a device in order");
    assert_eq!(device.notify(1), Err(BusError::NoQueue(1)));
    assert_eq!(device.max_queues(), Ok(2));
    assert_eq!(device.max_queue_size(1), Ok(256));
    assert_eq!(device.max_queue_size(2), Ok(0));
    log.take();
    device.set_up_queue(1, &layout()).unwrap();
    device.notify(1).unwrap();
    let wanted = [
        "common w16 0x16 = 0x1",
        "common r16 0x1c = 0x0",
        "common r16 0x18 = 0x100",
        "common w16 0x18 = 0x40",
        "common w32 0x20 = 0x1000",
        "common w32 0x24 = 0x1",
        "common w32 0x28 = 0x2000",
        "common w32 0x2c = 0x0",
        "common w32 0x30 = 0x3000",
        "common w32 0x34 = 0x0",
        "common r16 0x1e = 0x1",
        "common w16 0x1c = 0x1",
        // The index, in 16 bits, at its offset times the multiplier.
        "notify w16 0x04 = 0x1",
    ];
    assert_eq!(log.take(), wanted);
    assert_eq!(device.set_up_queue(1, &layout()), Err(BusError::QueueInUse(1)));
    assert_eq!(device.set_up_queue(2, &layout()), Err(BusError::NoQueue(2)));
}

#[test]
fn queues_that_the_device_does_not_take_are_refused() {
    let (space, mut machine) = (Space::new(0x1042_1af4, &USUAL), Machine::new());
    let common = machine.common.clone();
    let mut device = machine.open(&space).expect("a device in order");
    let large = QueueLayout { size: 512, ..layout() };
    let refused = BusError::QueueSize { queue: 0, size: 512, max: 256 };
    assert_eq!(device.set_up_queue(0, &large), Err(refused));
    // Notified outside of the structure for it: 0x400 * 4 of 0x1000 bytes.
    common.on_write(|bytes, offset, _| {
        if offset == 0x18 {
            set(bytes, 0x1e, &0x400u16.to_le_bytes());
        }
    });
    common.set(0x18, &256u16.to_le_bytes());
    let refused = BusError::NotifyOffset { queue: 0, offset: 0x1000, len: 0x1000 };
    assert_eq!(device.set_up_queue(0, &layout()), Err(refused));
}

#[test]
fn a_notification_carries_what_was_agreed_on() {
    let (space, mut machine) = (Space::new(0x1042_1af4, &USUAL), Machine::new());
    let log = machine.log.clone();
    let mut device = machine.open(&space).expect("a device in order");
    let both = Features::NOTIF_CONFIG_DATA | Features::RING_RESET;
    assert_eq!(device.transport_features(), both);
    device.set_driver_features(both).unwrap();
    device.set_up_queue(0, &layout()).unwrap();
    log.take();
    device.notify(0).unwrap();
    assert_eq!(log.take(), ["notify w16 0x00 = 0x77"]);
}

#[test]
fn one_queue_is_reset_alone_where_that_was_agreed_on() {
    let (space, mut machine) = (Space::new(0x1042_1af4, &USUAL), Machine::new());
    let (log, common) = (machine.log.clone(), machine.common.clone());
    let mut device = machine.open(&space).expect("a device in order");
    device.set_up_queue(0, &layout()).unwrap();
    assert_eq!(device.reset_queue(0), Ok(false));
    device.set_driver_features(Features::RING_RESET).unwrap();
    common.on_write(|bytes, offset, _| {
        if offset == 0x3a {
            set(bytes, 0x1c, &[0, 0]);
        }
    });
    let mut looks = 2;
    common.on_read(move |bytes, offset, _| {
        if offset == 0x3a {
            looks -= 1;
            set(bytes, 0x3a, &[u8::from(looks > 0)]);
        }
    });
    log.take();
    assert_eq!(device.reset_queue(0), Ok(true));
    let wanted = [
        "common w16 0x16 = 0x0",
        "common w16 0x3a = 0x1",
        "common r16 0x3a = 0x1",
        "common r16 0x3a = 0x1",
        "common r16 0x3a = 0x0",
    ];
    assert_eq!(log.take(), wanted);
    // Not notified while it is away; and it can come back.
    assert_eq!(device.notify(0), Err(BusError::NoQueue(0)));
    common.set(0x18, &256u16.to_le_bytes());
    device.set_up_queue(0, &layout()).unwrap();
    device.notify(0).unwrap();
}

#[test]
fn the_configuration_is_read_in_fields_and_not_past_its_end() {
    let (space, mut machine) = (Space::new(0x1042_1af4, &USUAL), Machine::new());
    machine.config.set(0, &[1, 2, 3, 4, 5, 6, 7, 8]);
    let (log, common, isr) = (machine.log.clone(), machine.common.clone(), machine.isr.clone());
    let mut device = machine.open(&space).expect("a device in order");
    log.take();
    let (mut byte, mut half, mut word, mut long) = ([0; 1], [0; 2], [0; 4], [0; 8]);
    device.read_config(5, &mut byte).unwrap();
    device.read_config(2, &mut half).unwrap();
    device.read_config(4, &mut word).unwrap();
    device.read_config(0, &mut long).unwrap();
    assert_eq!((byte, half, word, long), ([6], [3, 4], [5, 6, 7, 8], [1, 2, 3, 4, 5, 6, 7, 8]));
    device.write_config(32, &[1]).unwrap();
    let wanted = [
        "config r8 0x05 = 0x6",
        "config r16 0x02 = 0x403",
        "config r32 0x04 = 0x8070605",
        "config r32 0x00 = 0x4030201",
        "config r32 0x04 = 0x8070605",
        "config w8 0x20 = 0x1",
    ];
    assert_eq!(log.take(), wanted);
    let past = BusError::ConfigRange { offset: 4093, len: 4, space: 4096 };
    assert_eq!(device.read_config(4093, &mut word), Err(past));
    assert!(device.read_config(u32::MAX, &mut word).is_err());
    common.set(0x15, &[9]);
    assert_eq!(device.config_generation(), Ok(9));
    // A signal counts also where the generation stays.
    isr.set(0, &[2]);
    let changed = device.config_generation().unwrap();
    assert_ne!(changed, 9);
    assert_eq!(device.config_generation(), Ok(changed));
}

#[test]
fn one_interrupt_tells_every_queue_and_of_the_configuration() {
    let (space, mut machine) = (Space::new(0x1042_1af4, &USUAL), Machine::new());
    let isr = machine.isr.clone();
    let device = machine.open(&space).expect("a device in order");
    let silent = BusError::Silent { queue: 0, milliseconds: 20 };
    assert_eq!(device.wait(0, Some(20)), Err(silent));
    // Polled: the first to look takes the signal, and it counts for both.
    isr.set(0, &[1]);
    device.wait(0, Some(20)).unwrap();
    device.wait(1, Some(20)).unwrap();
    assert!(device.wait(0, Some(20)).is_err() && device.wait(1, Some(20)).is_err());
    // Taken by the handler.
    let interrupt = device.interrupt();
    assert!(!interrupt.handle(), "another's");
    isr.set(0, &[3]);
    assert!(interrupt.handle());
    assert_eq!(interrupt.config_changes(), 1);
    device.wait(1, Some(20)).unwrap();
    device.wait(0, Some(20)).unwrap();
    // A change alone wakes too.
    isr.set(0, &[2]);
    device.wait(0, Some(20)).unwrap();
    assert_eq!(interrupt.config_changes(), 2);
    assert_eq!(device.wait(7, Some(20)), Err(BusError::NoQueue(7)));
}
