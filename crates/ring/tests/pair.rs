//! Both ends of one ring against each other, in random turns.
//!
//! Each chain carries its number; the device answers with a function of it. So a chain lost, answered
//! twice or mixed up with another shows. An end that sleeps must be told when it has to wake: a publish
//! that does not ask for the signal then is a wakeup lost.
#![expect(clippy::unwrap_used, reason = "a test may")]
#![expect(unsafe_code, reason = "a driver's queue is given raw memory")]

use std::collections::HashMap;
use std::rc::Rc;

use zvb_ring::{
    AddError, Buffers, Chain, DeviceQueue, DriverConfig, DriverQueue, GuestMemory, HeapMemory,
    IndirectTables, Part, QueueConfig, SharedArea, layout, tables_len,
};

const BASE: u64 = 0x4000_0000;
/// Bytes of each request's own data: half to read, half to write.
const SLOT: u64 = 64;
const HALF: u64 = SLOT / 2;
/// Buffers in a chain, at most.
const PIECES: u64 = 6;

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

fn answer(number: u64) -> [u8; 8] {
    (number ^ 0x5aa5_0ff0_1234_8765).rotate_left(21).to_le_bytes()
}

/// What the driver knows of a chain in flight.
struct Request {
    number: u64,
    slot: u64,
    writable: u64,
}

struct Pair {
    random: Random,
    memory: Rc<HeapMemory>,
    driver: DriverQueue,
    device: DeviceQueue,
    data: u64,
    free_slots: Vec<u64>,
    requests: HashMap<u16, Request>,
    added: u64,
    answered: u64,
    unpublished: bool,
    served: Vec<Chain>,
    pushed: bool,
    driver_sleeps: bool,
    device_sleeps: bool,
}

impl Pair {
    fn new(size: u16, event_index: bool, indirect: bool, seed: u64) -> Self {
        let ring = layout(size).unwrap();
        let tables_at = BASE + (ring.bytes as u64).next_multiple_of(64);
        let entries = PIECES as u16 - 1;
        let data = tables_at + tables_len(size, entries) as u64;
        let slots = u64::from(size);
        let memory = Rc::new(HeapMemory::new(BASE, (data - BASE + slots * SLOT) as usize));
        let area =
            |address| SharedArea { host: memory.translate(address, 1).unwrap().0, device: address };
        let tables = indirect.then(|| IndirectTables { area: area(tables_at), entries });
        // SAFETY: ring, tables and data are apart in `memory`, which `Pair` and the device's end hold.
        let driver = unsafe {
            DriverQueue::new(area(BASE), DriverConfig { size, event_index, tables }).unwrap()
        };
        let config = QueueConfig {
            size,
            descriptors: driver.address(Part::Descriptors),
            available: driver.address(Part::Available),
            used: driver.address(Part::Used),
            event_index,
            indirect,
            next_available: 0,
            next_used: 0,
        };
        let device = DeviceQueue::new(memory.clone(), config).unwrap();
        Self {
            random: Random(seed),
            memory,
            driver,
            device,
            data,
            free_slots: (0..slots).collect(),
            requests: HashMap::new(),
            added: 0,
            answered: 0,
            unpublished: false,
            served: Vec::new(),
            pushed: false,
            driver_sleeps: false,
            device_sleeps: false,
        }
    }

    fn buffer(&self, address: u64, len: u64) -> Buffers {
        let mut buffers = Buffers::new(self.memory.clone(), Vec::new());
        assert!(buffers.push(address, len as u32));
        buffers
    }

    /// Cuts `len` bytes at `address` into `pieces`, some of them perhaps empty.
    fn cut(&mut self, address: u64, len: u64, pieces: u64) -> Vec<(u64, u32)> {
        let mut cuts: Vec<u64> = (1..pieces).map(|_| self.random.below(len + 1)).collect();
        cuts.extend([0, len]);
        cuts.sort_unstable();
        cuts.windows(2).map(|w| (address + w[0], (w[1] - w[0]) as u32)).collect()
    }

    /// Adds a chain of a random framing. False when there is no room for it.
    fn add(&mut self) -> bool {
        let Some(slot) = self.free_slots.pop() else {
            return false;
        };
        let address = self.data + slot * SLOT;
        let most = PIECES.min(u64::from(self.driver.size()));
        let count = 1 + self.random.below(most);
        let writing = self.random.below(count);
        let readable = self.cut(address, HALF, count - writing);
        let writable = match writing {
            0 => Vec::new(),
            n => self.cut(address + HALF, HALF, n),
        };
        let number = self.added;
        self.buffer(address, HALF).write(0, &[number.to_le_bytes(); 4].concat()).unwrap();
        self.buffer(address + HALF, HALF).zero(0, HALF).unwrap();
        match self.driver.add(&readable, &writable) {
            Ok(head) => {
                let writable = if writing > 0 { HALF } else { 0 };
                let old = self.requests.insert(head, Request { number, slot, writable });
                assert!(old.is_none(), "head {head} given twice");
                self.added += 1;
                self.unpublished = true;
                true
            }
            Err(AddError::Full) => {
                self.free_slots.push(slot);
                false
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn driver_publishes(&mut self) {
        let signal = self.driver.publish();
        assert!(self.unpublished || !signal, "a signal about nothing");
        assert!(signal || !self.unpublished || !self.device_sleeps, "the device sleeps for ever");
        self.unpublished = false;
        self.device_sleeps &= !signal;
    }

    fn device_publishes(&mut self) {
        let signal = self.device.publish();
        assert!(self.pushed || !signal, "a signal about nothing");
        assert!(signal || !self.pushed || !self.driver_sleeps, "the driver sleeps for ever");
        self.pushed = false;
        self.driver_sleeps &= !signal;
    }

    fn driver_turn(&mut self) {
        self.driver.pause_notifications();
        for _ in 0..=self.random.below(40) {
            if self.random.below(3) > 0 {
                self.add();
            }
            if self.random.below(8) == 0 {
                self.driver_publishes();
            }
        }
        self.driver_publishes();
        for _ in 0..self.random.below(60) {
            let Some(used) = self.driver.pop_used().unwrap() else {
                break;
            };
            let request = self.requests.remove(&used.head).expect("answered once");
            let mut bytes = [0; HALF as usize];
            let at = self.data + request.slot * SLOT + HALF;
            self.buffer(at, HALF).read(0, &mut bytes).unwrap();
            assert!(u64::from(used.len) <= request.writable);
            let expected = [answer(request.number); 4].concat();
            let (written, rest) = bytes.split_at(used.len as usize);
            assert_eq!(written, &expected[..written.len()]);
            assert!(rest.iter().all(|byte| *byte == 0));
            self.free_slots.push(request.slot);
            self.answered += 1;
        }
        self.driver_sleeps = !self.driver.resume_notifications();
        assert_eq!(self.driver_sleeps, !self.driver.has_used());
    }

    fn device_turn(&mut self) {
        self.device.pause_notifications();
        for _ in 0..self.random.below(60) {
            let pending = self.device.pending();
            assert_eq!(self.device.available(), pending > 0);
            let Some(chain) = self.device.pop().unwrap() else {
                assert_eq!(pending, 0);
                break;
            };
            assert_eq!(self.device.pending(), pending - 1);
            self.served.push(chain);
        }
        assert_eq!(usize::from(self.device.in_flight()), self.served.len());
        for _ in 0..self.random.below(60) {
            if self.served.is_empty() {
                break;
            }
            let which = self.random.below(self.served.len() as u64) as usize;
            let chain = self.served.swap_remove(which);
            self.answer(chain);
            if self.random.below(8) == 0 {
                self.device_publishes();
            }
        }
        self.device_publishes();
        self.device_sleeps = !self.device.resume_notifications();
        assert_eq!(self.device_sleeps, !self.device.available());
    }

    fn answer(&mut self, mut chain: Chain) {
        assert_eq!(chain.readable.len(), HALF);
        let number = chain.readable.take_front::<8>().unwrap();
        let mut rest = [0; 24];
        chain.readable.read(0, &mut rest).unwrap();
        assert_eq!(rest, [number; 3].concat()[..], "the chain's bytes are its own");
        let room = chain.writable.len();
        let written = self.random.below(room + 1);
        let bytes = [answer(u64::from_le_bytes(number)); 4].concat();
        chain.writable.write(0, &bytes[..written as usize]).unwrap();
        let spare = self.device.spare();
        let tail = chain.writable.take_back(room / 2, spare).unwrap();
        self.device.push(chain.head, written as u32);
        self.pushed = true;
        for buffers in [tail, chain.readable, chain.writable] {
            self.device.recycle(buffers);
        }
    }

    /// Runs random turns until `total` chains were added, and then until all are answered. An end that
    /// sleeps has no turn.
    fn run(&mut self, total: u64) {
        let mut idle = 0;
        while self.answered < total {
            let before = (self.added, self.answered);
            if self.random.below(2) == 0 {
                // A driver wakes by itself when it has something new to say.
                if self.added < total || !self.driver_sleeps {
                    self.driver_turn();
                }
            } else if !self.device_sleeps || !self.served.is_empty() {
                self.device_turn();
            }
            idle = if before == (self.added, self.answered) { idle + 1 } else { 0 };
            assert!(idle < 10_000, "both ends wait for each other");
        }
        while self.answered < self.added {
            self.device_turn();
            self.driver_turn();
        }
        assert!(self.requests.is_empty() && self.served.is_empty());
        assert_eq!(self.driver.free_descriptors(), self.driver.size());
        assert_eq!((self.driver.in_flight(), self.device.in_flight()), (0, 0));
        assert_eq!(self.device.next_available(), self.added as u16);
        assert_eq!(self.device.next_used(), self.added as u16);
    }
}

fn run_all(sizes: impl Iterator<Item = u16>, total: u64) {
    for size in sizes {
        for (event_index, indirect) in [(false, false), (false, true), (true, false), (true, true)]
        {
            let seed = u64::from(size) * 4 + u64::from(event_index) * 2 + u64::from(indirect);
            // Shown when the test fails.
            println!("size {size} event index {event_index} indirect {indirect} seed {seed}");
            Pair::new(size, event_index, indirect, seed).run(total);
        }
    }
}

#[test]
fn small_rings_past_the_wrap_of_the_index() {
    run_all([1, 2, 4, 64].into_iter(), 70_000);
}

#[test]
fn large_rings_past_the_wrap_of_the_index() {
    run_all([1024, 32768].into_iter(), 140_000);
}

#[test]
fn rings_of_every_size() {
    run_all((0..=15).map(|shift| 1 << shift), 5_000);
}
