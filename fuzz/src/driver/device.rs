//! The device: answers right or wrong, by the fuzzer's bytes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use zvb_driver::{Features, QueueLayout, Transport};
use zvb_ring::{Chain, DeviceQueue, QueueConfig};
use zvb_wire::{Config, DeviceStatus};

use super::memory::Memory;
use crate::input::Input;

/// A way to the device that fails, or a wait that nothing would end.
#[derive(Debug)]
pub(super) struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("broken")
    }
}

impl std::error::Error for Broken {}

/// The zones that an honest report tells of.
const ZONE: u64 = 24;
const CAPACITY: u64 = 108;

pub(super) struct Device {
    input: Vec<u8>,
    taken: usize,
    memory: Memory,
    offered: Features,
    accepted: Features,
    config: [u8; 96],
    config_len: u32,
    status: DeviceStatus,
    max_queue_size: u16,
    queues: BTreeMap<u16, (DeviceQueue, QueueLayout)>,
    /// The configuration changed while the driver was at work.
    pub(super) changed: bool,
    /// What kind of calls fail.
    fails: u8,
    /// A reset works.
    pub(super) resets: bool,
    /// Writes pointers that are right, in sectors from the start of each zone.
    written: [u64; 5],
}

impl Device {
    /// A device whose character stands in the first bytes of `input`.
    pub(super) fn new(input: Vec<u8>, memory: Memory) -> Self {
        let mut config = [0; 96];
        for (at, number) in [
            (0, CAPACITY),
            (20, 512),
            (36, 64 | 2 << 32),
            (44, 8),
            (48, 32 | 1 << 32),
            (72, ZONE | 2 << 32),
            (80, 3 | 8 << 32),
            (88, 1024 | 1 << 32),
        ] {
            config[at..at + 8].copy_from_slice(&u64::to_le_bytes(number));
        }
        let mut device = Self {
            input,
            taken: 0,
            memory,
            offered: Features::VERSION_1
                | Features::ZONED
                | Features::FLUSH
                | Features::BLK_SIZE
                | Features::WRITE_ZEROES
                | Features::INDIRECT_DESC
                | Features::EVENT_IDX,
            accepted: Features::empty(),
            config,
            config_len: Config::BYTES,
            status: DeviceStatus::empty(),
            max_queue_size: 64,
            queues: BTreeMap::new(),
            changed: false,
            fails: 0,
            resets: true,
            written: [0; 5],
        };
        let character = device.byte();
        if character & 1 != 0 {
            let (some, of_them) = (device.long(), device.long());
            device.offered ^= Features::from_bits_retain(some & of_them);
        }
        if character & 2 != 0 {
            device.change_config();
        }
        if character & 4 != 0 {
            device.max_queue_size = u16::from(device.byte());
        }
        if character & 8 != 0 {
            device.config_len = u32::from(device.byte()).min(Config::BYTES);
        }
        if character & 16 != 0 {
            device.config[92] = device.byte() % 4;
        }
        if character & 0xe0 == 0xe0 {
            device.fails = device.byte();
        }
        device
    }

    pub(super) fn is_done(&self) -> bool {
        self.taken >= self.input.len()
    }

    /// The next bytes of the input; zeroes after its end.
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut input = Input(self.input.get(self.taken..).unwrap_or_default());
        self.taken = (self.taken + N).min(self.input.len());
        input.array()
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub(super) fn long(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    fn change_config(&mut self) {
        for _ in 0..=self.byte() % 8 {
            let (at, value) = (usize::from(self.byte() % 96), self.byte());
            self.config[at] = value;
        }
    }

    /// Anything, anywhere in a ring.
    pub(super) fn scribble(&mut self) {
        let (queue, part, at) = (u16::from(self.byte() & 1), self.byte(), self.byte());
        let bytes: [u8; 4] = self.array();
        let len = usize::from(part >> 6) + 1;
        let Some((_, layout)) = self.queues.get(&queue) else { return };
        let base = [layout.used, layout.used, layout.descriptors, layout.available];
        let address = base[usize::from(part % 4)] + u64::from(at);
        self.memory.poke(address, &bytes[..len]);
    }

    /// Answers what was asked for.
    pub(super) fn turn(&mut self, index: u16) {
        let Some((mut queue, layout)) = self.queues.remove(&index) else { return };
        let mut chains = Vec::new();
        // What the driver wrote is right, unless it was scribbled over.
        while let Ok(Some(chain)) = queue.pop() {
            chains.push(chain);
        }
        if !chains.is_empty() && self.byte() & 1 != 0 {
            chains.reverse();
        }
        for chain in chains {
            let written = self.answer(&chain);
            queue.push(chain.head, written);
        }
        let _ = queue.publish();
        self.queues.insert(index, (queue, layout));
    }

    /// An answer; how many bytes it is said to have.
    fn answer(&mut self, chain: &Chain) -> u32 {
        let total = chain.writable.len();
        let mut header = [0; 16];
        let _ = chain.readable.read(0, &mut header);
        let kind = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let [.., a, b, c, d, e, f, g, h] = header;
        let sector = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let honest = self.byte();
        if kind == 16 {
            self.report(chain, sector);
        }
        let zone = (sector / ZONE).min(4) as usize;
        let sectors = chain.readable.len().saturating_sub(16) / 512;
        let mut status = 0;
        if kind == 15 {
            let mut at = sector.wrapping_add(self.written[zone]);
            self.written[zone] = (self.written[zone] + sectors).min(16);
            if honest >= 0xc0 {
                at = at.wrapping_add(self.long() >> (honest & 0x38));
            }
            let _ = chain.writable.write(total.saturating_sub(9), &at.to_le_bytes());
        }
        if honest & 0x0f == 0x0f {
            status = self.byte();
        }
        if honest & 0x30 == 0x30 {
            // Rubbish over what was right.
            let (at, bytes) = (self.byte(), self.array::<8>());
            let _ = chain.writable.write(u64::from(at), &bytes);
        }
        if honest != 0x55 {
            let _ = chain.writable.write(total.saturating_sub(1), &[status]);
        }
        match honest & 0x47 {
            0x47 => u32::from(self.byte()).min(total as u32),
            _ => total as u32,
        }
    }

    /// What a report tells, with mistakes.
    fn report(&mut self, chain: &Chain, from: u64) {
        let room = chain.writable.len().saturating_sub(1 + 64) / 64;
        let first = from / ZONE;
        let mistake = self.byte();
        let count = 5u64.saturating_sub(first).min(room);
        let told = if mistake < 0xf0 { count } else { self.long() };
        let mut report = told.to_le_bytes().to_vec();
        report.resize(64, 0);
        for zone in first..first + count {
            let start = zone * ZONE;
            let written = self.written[(zone as usize).min(4)];
            for number in [16u64.min(CAPACITY.saturating_sub(start)), start, start + written] {
                report.extend(number.to_le_bytes());
            }
            report.extend([2, if written == 0 { 1 } else { 4 }]);
            report.resize(report.len() + 38, 0);
        }
        if mistake & 7 == 7 {
            let (at, value) = (usize::from(u16::from_le_bytes(self.array())), self.byte());
            let len = report.len();
            report[at % len] ^= value;
        }
        let _ = chain.writable.write(0, &report);
    }

    fn call(&mut self, bit: u8) -> Result<(), Broken> {
        if self.fails & bit == 0 || self.byte() & 3 != 0 { Ok(()) } else { Err(Broken) }
    }
}

/// The driver's way to a [`Device`].
pub(super) struct Wire(pub(super) Rc<RefCell<Device>>);

impl Transport for Wire {
    type Error = Broken;

    fn reset(&mut self) -> Result<(), Broken> {
        let mut device = self.0.borrow_mut();
        device.resets = device.call(1).is_ok();
        if !device.resets {
            return Err(Broken);
        }
        device.status = DeviceStatus::empty();
        device.queues.clear();
        Ok(())
    }

    fn status(&mut self) -> Result<DeviceStatus, Broken> {
        let mut device = self.0.borrow_mut();
        device.call(2)?;
        let wrong = if device.fails & 128 != 0 { device.byte() } else { 0 };
        Ok(device.status ^ DeviceStatus::from_bits_retain(wrong))
    }

    fn set_status(&mut self, status: DeviceStatus) -> Result<(), Broken> {
        let mut device = self.0.borrow_mut();
        device.call(2)?;
        device.status = status;
        Ok(())
    }

    fn device_features(&mut self) -> Result<Features, Broken> {
        let mut device = self.0.borrow_mut();
        device.call(4)?;
        Ok(device.offered)
    }

    fn set_driver_features(&mut self, features: Features) -> Result<(), Broken> {
        let mut device = self.0.borrow_mut();
        device.call(4)?;
        assert!(device.offered.contains(features), "what was not offered");
        device.accepted = features;
        Ok(())
    }

    fn config_generation(&mut self) -> Result<u32, Broken> {
        let mut device = self.0.borrow_mut();
        device.call(8)?;
        if device.fails & 64 != 0 && device.byte() & 3 == 0 {
            device.change_config();
            device.changed = true;
        }
        let generation = if device.fails & 64 != 0 { device.byte() & 1 } else { 0 };
        Ok(generation.into())
    }

    fn config_len(&mut self) -> Result<u32, Broken> {
        let mut device = self.0.borrow_mut();
        device.call(8)?;
        Ok(device.config_len)
    }

    fn read_config(&mut self, offset: u32, into: &mut [u8]) -> Result<(), Broken> {
        let mut device = self.0.borrow_mut();
        device.call(8)?;
        assert!(offset as usize + into.len() <= device.config_len as usize, "read past the end");
        into.copy_from_slice(&device.config[offset as usize..][..into.len()]);
        Ok(())
    }

    fn write_config(&mut self, offset: u32, from: &[u8]) -> Result<(), Broken> {
        let mut device = self.0.borrow_mut();
        device.call(8)?;
        assert_eq!((offset, from.len()), (32, 1), "nothing else can be written");
        device.config[32] = from[0];
        Ok(())
    }

    fn max_queues(&mut self) -> Result<u16, Broken> {
        let mut device = self.0.borrow_mut();
        device.call(16)?;
        Ok(2)
    }

    fn max_queue_size(&mut self, _: u16) -> Result<u16, Broken> {
        let mut device = self.0.borrow_mut();
        device.call(16)?;
        Ok(device.max_queue_size)
    }

    fn set_up_queue(&mut self, index: u16, layout: &QueueLayout) -> Result<(), Broken> {
        let mut device = self.0.borrow_mut();
        device.call(16)?;
        let config = QueueConfig {
            size: layout.size,
            descriptors: layout.descriptors,
            available: layout.available,
            used: layout.used,
            event_index: device.accepted.contains(Features::EVENT_IDX),
            indirect: device.accepted.contains(Features::INDIRECT_DESC),
            next_available: 0,
            next_used: 0,
        };
        let memory = Rc::new(device.memory.clone());
        let queue = DeviceQueue::new(memory, config).expect("a good layout");
        device.queues.insert(index, (queue, *layout));
        Ok(())
    }

    fn notify(&self, _: u16) -> Result<(), Broken> {
        self.0.borrow_mut().call(32)
    }

    fn wait(&self, index: u16, _: Option<u32>) -> Result<(), Broken> {
        let mut device = self.0.borrow_mut();
        // Each wait takes a byte at least, so there is an end to waiting.
        if device.is_done() {
            return Err(Broken);
        }
        match device.byte() {
            0..=0xdf => device.turn(index),
            0xe0..=0xef => device.scribble(),
            _ => {}
        }
        Ok(())
    }
}
