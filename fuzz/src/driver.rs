//! A device that says and does what it likes, against our driver. The driver neither panics nor waits for
//! ever; what it believes is inside the disk and inside the buffer; and it gives all memory back.

mod device;
mod memory;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use zvb_driver::{
    Answer, Checks, Disk, Features, HostAware, Options, Request, Sector, SectorRange, Token, Zone,
};

use device::{Device, Wire};
use memory::Memory;

type Driver = Disk<Wire, Memory>;

/// Runs one input.
pub fn run(data: &[u8]) {
    let memory = Memory::new();
    let device = Rc::new(RefCell::new(Device::new(data.to_vec(), memory.clone())));
    let options = {
        let mut device = device.borrow_mut();
        let choices = device.byte();
        Options {
            queues: u16::from(choices % 3),
            queue_size: [16, 4, 8, 64][usize::from(choices >> 6)],
            host_aware: match choices & 32 {
                0 => HostAware::AsZoned,
                _ => HostAware::AsRegular,
            },
            features: match choices & 16 {
                0 => Features::all(),
                _ => Features::all() - Features::INDIRECT_DESC - Features::EVENT_IDX,
            },
            checks: if choices & 8 == 0 { Checks::Full } else { Checks::Minimal },
            timeout_ms: Some(1),
        }
    };
    let probed = Disk::probe(Wire(Rc::clone(&device)), memory.clone(), &options);
    trace!("probed: {:?}", probed.as_ref().map(Disk::info));
    if let Ok(disk) = probed {
        let mut session = Session { disk, device: Rc::clone(&device), waiting: BTreeSet::new() };
        session.check_info();
        for _ in 0..200 {
            if device.borrow().is_done() {
                break;
            }
            session.act();
        }
    }
    let stopped = device.borrow().resets;
    assert!(!stopped || memory.live() == 0, "{} pieces of memory are lost", memory.live());
}

struct Session {
    disk: Driver,
    device: Rc<RefCell<Device>>,
    waiting: BTreeSet<Token>,
}

impl Session {
    fn byte(&self) -> u8 {
        self.device.borrow_mut().byte()
    }

    fn act(&mut self) {
        match self.byte() {
            0..=89 => self.submit(),
            90..=119 => drop(self.disk.kick(0)),
            120..=139 => self.device.borrow_mut().turn(0),
            140..=149 => self.device.borrow_mut().scribble(),
            150..=189 => self.poll(),
            190..=199 => drop(self.disk.wait(0, Some(1))),
            200..=209 => {
                let _ = self.disk.refresh();
                self.check_info();
            }
            210..=212 => drop(self.disk.set_writeback(self.byte() & 1 != 0)),
            _ => self.call(),
        }
    }

    /// A call that blocks.
    fn call(&mut self) {
        let (what, zone) = (self.byte(), self.zone());
        let len = usize::from(self.byte() % 33) * 512;
        match what % 10 {
            0 | 1 => self.report(),
            2 => drop(self.disk.write(zone, &vec![0x5a; len])),
            3 => drop(self.disk.read(zone, &mut vec![0; len])),
            4 | 5 => {
                if let Ok(at) = self.disk.append(zone, &vec![0x5a; len]) {
                    self.check_append(zone, at);
                }
            }
            6 => drop(self.disk.reset(zone)),
            7 => drop(self.disk.flush()),
            8 => drop(self.disk.id()),
            _ => drop(self.disk.finish(zone)),
        }
    }

    fn report(&mut self) {
        let (from, max) = (self.sector(), u32::from(self.byte()));
        let mut zones = Vec::new();
        let told = self.disk.report(from, max, |zone| zones.push(zone));
        if let Ok(told) = told {
            assert_eq!(told as usize, zones.len());
            assert!(told <= max);
            let end = zones.last().map(|zone| zone.start.0 + zone.len.0);
            let all = from < self.disk.info().capacity && max > 0;
            assert!(!all || told == max || end == Some(self.disk.info().capacity.0), "cut short");
        }
        self.check_zones(&zones);
    }

    /// A zone's start, most of the time.
    fn zone(&self) -> Sector {
        let size = self.disk.info().zoned.map_or(8, |zoned| zoned.zone_size.0);
        match self.byte() {
            n @ 0..=0xf7 => Sector(size.saturating_mul(u64::from(n % 9))),
            _ => self.sector(),
        }
    }

    fn sector(&self) -> Sector {
        let mut device = self.device.borrow_mut();
        match device.byte() {
            n @ 0..=0xdf => Sector(u64::from(n)),
            _ => Sector(device.long()),
        }
    }

    fn submit(&mut self) {
        let (what, zone, at) = (self.byte(), self.zone(), self.sector());
        let len = match self.byte() {
            n @ 0..=0xdf => usize::from(n % 12) * 512,
            n => usize::from(n),
        };
        let Ok(buffer) = self.disk.buffer(len) else { return };
        let sectors = u32::from(self.byte());
        let ranges = vec![SectorRange { at, sectors }; usize::from(what >> 6)];
        let request = match what % 15 {
            0 => Request::Read { at, buffer },
            1 => Request::Write { at: zone, buffer },
            2 | 3 => Request::Append { zone, buffer },
            4 | 5 => Request::Report { from: at, buffer },
            6 => Request::Open { zone },
            7 => Request::Close { zone },
            8 => Request::Reset { zone },
            9 => Request::Flush,
            10 => Request::Discard { ranges },
            11 => Request::WriteZeroes { ranges, unmap: what & 32 != 0 },
            12 => Request::SecureErase { ranges },
            13 => Request::Lifetime,
            _ => Request::Id,
        };
        let depth = self.disk.depth(0);
        if let Ok(token) = self.disk.submit(0, request) {
            assert!(token.slot() < depth);
            assert!(self.waiting.insert(token), "a token given twice");
        }
        // Answers that wait to be polled, and calls that failed and are still with the device.
        assert!(self.disk.in_flight(0) <= 2 * depth);
    }

    fn poll(&mut self) {
        // Each is one of those that wait, so this ends.
        loop {
            let completion = match self.disk.poll(0) {
                Ok(Some(completion)) => completion,
                Ok(None) => break,
                Err(fault) => {
                    assert_eq!(self.disk.poll(0).err(), Some(fault), "a fault is for ever");
                    break;
                }
            };
            assert!(self.waiting.remove(&completion.token), "answered and not asked");
            let room = completion.buffer.as_ref().map_or(0, |buffer| buffer.len());
            assert!(completion.bytes as usize <= room, "{} bytes in {room}", completion.bytes);
            match completion.result {
                Ok(Answer::Appended(at)) => {
                    let zoned = self.disk.info().zoned.expect("an append to zones");
                    self.check_append(zoned.zone_start(at), at);
                    let end = at.0 + room as u64 / 512;
                    assert!(end <= self.disk.info().capacity.0 || self.device.borrow().changed);
                }
                Ok(Answer::Zones(zones)) => {
                    assert!(64 + 64 * zones.len() <= room);
                    self.check_zones(&zones);
                }
                _ => {}
            }
        }
        assert!(self.disk.in_flight(0) >= self.waiting.len(), "an answer was lost");
    }

    fn check_append(&self, zone: Sector, at: Sector) {
        let info = self.disk.info();
        let size = info.zoned.expect("an append to zones").zone_size;
        assert!(at >= zone && at.0 - zone.0 < size.0, "{at} is not in the zone at {zone}");
        assert!(at < info.capacity || self.device.borrow().changed, "{at} is past the end");
    }

    /// What is believed of zones is inside the disk, and in order.
    fn check_zones(&self, zones: &[Zone]) {
        let info = self.disk.info();
        for pair in zones.windows(2) {
            assert_eq!(pair[0].start.0 + pair[0].len.0, pair[1].start.0, "zones do not advance");
        }
        for zone in zones {
            let end = zone.start.0.checked_add(zone.len.0).expect("inside the disk");
            // A disk can get smaller while an answer waits.
            assert!(end <= info.capacity.0 || self.device.borrow().changed, "{zone:?}");
            assert!(zone.len.0 > 0, "{zone:?}");
            assert!(zone.capacity <= zone.len && zone.remaining() <= zone.capacity, "{zone:?}");
            if let Some(at) = zone.write_pointer {
                assert!(at >= zone.start && at.0 <= zone.start.0 + zone.capacity.0, "{zone:?}");
            }
        }
    }

    fn check_info(&self) {
        let info = self.disk.info();
        assert!(info.capacity.to_bytes().is_some());
        assert!(info.block_size.is_power_of_two() && info.block_size >= 512);
        assert!(info.max_transfer >= info.block_size);
        assert!(info.features.contains(Features::VERSION_1));
        if let Some(zoned) = info.zoned {
            assert!(zoned.zone_size.0 > 0);
            let all = u128::from(zoned.zone_count) * u128::from(zoned.zone_size.0);
            let capacity = u128::from(info.capacity.0);
            assert!(all >= capacity && all - capacity < u128::from(zoned.zone_size.0));
        }
    }
}
