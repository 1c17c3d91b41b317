//! A device that does anything at all, from a seed: the driver neither panics nor hangs, believes nothing
//! that can not be true, and loses no memory.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod fake;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use fake::{Fake, FakeDriver, Memory, probe, tamper};
use zerocopy::IntoBytes;
use zvb_driver::{Answer, Features, Options, Request, Sector, SectorRange};

/// xorshift64*: enough to reach everywhere, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// Runs `test` with many seeds, and names the one that fails.
fn seeds(count: u64, test: impl Fn(&mut Random)) {
    struct Name(u64);
    impl Drop for Name {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("seed {}", self.0);
            }
        }
    }
    for seed in 1..=count {
        let _name = Name(seed);
        test(&mut Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    }
}

fn request(disk: &FakeDriver, random: &mut Random) -> Option<Request<Memory>> {
    let zone = Sector(random.below(6) * 24);
    let at = Sector(random.below(120));
    let buffer = disk.buffer(random.below(10) as usize * 512).ok()?;
    let ranges = vec![SectorRange { at, sectors: random.below(40) as u32 }];
    Some(match random.below(13) {
        0 => Request::Read { at, buffer },
        1 => Request::Write { at, buffer },
        2 | 3 => Request::Append { zone, buffer },
        4 | 5 => Request::Report { from: at, buffer },
        6 => Request::Open { zone },
        7 => Request::Finish { zone },
        8 => Request::Reset { zone },
        9 => Request::Flush,
        10 => Request::Discard { ranges },
        11 => Request::WriteZeroes { ranges, unmap: true },
        _ => Request::Id,
    })
}

fn device(random: &mut Random) -> Rc<RefCell<Fake>> {
    let fake = if random.one_in(4) { Fake::plain() } else { Fake::zoned() };
    {
        let mut fake = fake.borrow_mut();
        fake.offered.set(Features::INDIRECT_DESC, random.one_in(2));
        fake.offered.set(Features::EVENT_IDX, random.one_in(2));
        fake.reverse = random.one_in(2);
        fake.per_turn = 1 + random.below(20) as usize;
    }
    fake
}

#[test]
fn any_configuration_is_driven_or_refused() {
    seeds(3000, |random| {
        let fake = device(random);
        {
            let mut fake = fake.borrow_mut();
            fake.offered |= Features::from_bits_retain(random.next() & random.next());
            for byte in fake.config.as_mut_bytes() {
                if random.one_in(12) {
                    *byte = random.next() as u8;
                }
            }
            fake.config_len = if random.one_in(4) { random.below(97) as u32 } else { 96 };
            fake.max_queue_size = random.below(600) as u16;
        }
        let options = Options { queues: random.below(3) as u16, ..Options::default() };
        let Ok(disk) = probe(&fake, &options) else {
            assert_eq!(fake.borrow().memory.live(), 0);
            return;
        };
        let info = disk.info();
        assert!(info.block_size.is_power_of_two() && info.max_transfer >= info.block_size);
        if let Some(zoned) = info.zoned {
            let end = u64::from(zoned.zone_count) * zoned.zone_size.0;
            assert!(end >= info.capacity.0 && end - info.capacity.0 < zoned.zone_size.0);
        }
        drop(disk);
        assert_eq!(fake.borrow().memory.live(), 0);
    });
}

#[test]
fn any_answer_is_an_answer_or_an_error() {
    seeds(1500, |random| {
        let fake = device(random);
        let options = Options { queue_size: 16, ..Options::default() };
        let mut disk = probe(&fake, &options).unwrap();
        let mut waiting = BTreeSet::new();
        for _ in 0..random.below(60) {
            if random.one_in(3) {
                let mut random = Random(random.next() | 1);
                tamper(&fake, move |reply| {
                    for byte in &mut reply.data {
                        if random.one_in(40) {
                            *byte = random.next() as u8;
                        }
                    }
                    reply.append_sector =
                        reply.append_sector.map(|s| s.wrapping_add(random.below(30)));
                    if random.one_in(3) {
                        reply.status = Some(random.below(9) as u8);
                    }
                    if random.one_in(3) {
                        // At most what is writable: more breaks the ring, which is for another test.
                        reply.written = Some(random.below(reply.data.len() as u64 + 1) as u32);
                    }
                });
            }
            if let Some(request) = request(&disk, random)
                && let Ok(token) = disk.submit(0, request)
            {
                assert!(waiting.insert(token));
            }
            if random.one_in(4) {
                disk.kick(0).unwrap();
                fake.borrow_mut().turn(0);
            }
            while let Some(completion) = disk.poll(0).unwrap() {
                assert!(waiting.remove(&completion.token), "answered and not asked");
                check(&disk, completion.result.ok());
            }
        }
        assert_eq!(disk.in_flight(0), waiting.len());
        drop(disk);
        assert_eq!(fake.borrow().memory.live(), 0);
    });
}

/// What is believed is inside the disk.
fn check(disk: &FakeDriver, answer: Option<Answer>) {
    let info = disk.info();
    match answer {
        Some(Answer::Appended(at)) => assert!(at < info.capacity),
        Some(Answer::Zones(zones)) => {
            for zone in zones {
                let end = zone.start.0 + zone.len.0;
                assert!(end <= info.capacity.0 && zone.capacity <= zone.len);
                assert!(zone.remaining() <= zone.capacity);
                let at = zone.write_pointer.unwrap_or(zone.start);
                assert!(at >= zone.start && at.0 <= end);
            }
        }
        _ => {}
    }
}

#[test]
fn any_used_ring_is_survived() {
    seeds(1500, |random| {
        let fake = device(random);
        let options = Options { queue_size: 16, ..Options::default() };
        let mut disk = probe(&fake, &options).unwrap();
        let layout = fake.borrow().layouts[&0];
        let mut waiting = BTreeSet::new();
        for _ in 0..random.below(60) {
            if let Some(request) = request(&disk, random)
                && let Ok(token) = disk.submit(0, request)
            {
                waiting.insert(token);
            }
            // The device writes where it may not: its rings, the descriptors, and what is next to them.
            let fake = fake.borrow();
            for _ in 0..random.below(6) {
                let (base, len) = match random.below(3) {
                    0 => (layout.used, 6),
                    1 => (layout.used, 4 + 8 * 16),
                    _ => (layout.descriptors, 16 * 16),
                };
                let value = if random.one_in(2) { random.below(4) } else { random.next() };
                fake.memory.poke(base + random.below(len), &[value as u8]);
            }
            drop(fake);
            let _ = disk.kick(0);
            for _ in 0..100 {
                match disk.poll(0) {
                    Ok(Some(completion)) => {
                        assert!(waiting.remove(&completion.token), "answered and not asked");
                        check(&disk, completion.result.ok());
                    }
                    Ok(None) => break,
                    Err(fault) => assert_eq!(disk.poll(0).unwrap_err(), fault),
                }
            }
        }
        assert_eq!(disk.in_flight(0), waiting.len());
        drop(disk);
        assert_eq!(fake.borrow().memory.live(), 0);
    });
}
