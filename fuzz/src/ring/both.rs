//! Both ends on one ring, against a list of what was sent.

use std::collections::VecDeque;
use std::rc::Rc;

use zvb_ring::{Chain, DeviceQueue, DriverQueue, GuestMemory, Part, QueueConfig};

use super::shared::{BUFFERS, driver_queue, memory};
use crate::guest::Regions;
use crate::input::Input;

/// A chain as it was sent: what is to be read, and where can be written.
struct Sent {
    head: u16,
    readable: Vec<(u64, u32)>,
    writable: Vec<(u64, u32)>,
}

struct Pair {
    memory: Rc<Regions>,
    driver: DriverQueue,
    device: DeviceQueue,
    added: VecDeque<Sent>,
    available: VecDeque<Sent>,
    popped: Vec<(Chain, Sent)>,
    pushed: VecDeque<(u16, u32)>,
    used: VecDeque<(u16, u32)>,
    /// Each end waits for a signal: it said so, and found nothing.
    driver_sleeps: bool,
    device_sleeps: bool,
}

pub(super) fn run(input: &mut Input<'_>) {
    let size = input.one_of(&[8, 4, 16, 64, 1, 2]);
    let options = input.byte();
    let (event_index, indirect) = (options & 1 != 0, options & 2 != 0);
    let memory = memory();
    let driver = driver_queue(&memory, size, event_index, indirect);
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
    let shared = Rc::<Regions>::clone(&memory) as Rc<dyn GuestMemory>;
    let device = DeviceQueue::new(shared, config).expect("the driver's own layout");
    let mut pair = Pair {
        memory,
        driver,
        device,
        added: VecDeque::new(),
        available: VecDeque::new(),
        popped: Vec::new(),
        pushed: VecDeque::new(),
        used: VecDeque::new(),
        driver_sleeps: false,
        device_sleeps: false,
    };
    for _ in 0..600 {
        if input.is_empty() {
            break;
        }
        pair.act(input);
    }
}

impl Pair {
    fn act(&mut self, input: &mut Input<'_>) {
        match input.byte() {
            0..=79 => self.add(input),
            80..=119 => {
                let signal = self.driver.publish();
                self.available.append(&mut self.added);
                assert!(
                    signal || !self.device_sleeps || self.available.is_empty(),
                    "the device sleeps, and is not woken"
                );
                self.device_sleeps &= !signal;
            }
            120..=169 => self.pop(),
            170..=199 => self.push(input),
            200..=219 => {
                let signal = self.device.publish();
                self.used.append(&mut self.pushed);
                assert!(
                    signal || !self.driver_sleeps || self.used.is_empty(),
                    "the driver sleeps, and is not woken"
                );
                self.driver_sleeps &= !signal;
            }
            220..=239 => self.pop_used(),
            240..=243 => {
                let more = self.device.resume_notifications();
                assert_eq!(more, !self.available.is_empty());
                self.device_sleeps = !more;
            }
            244..=247 => {
                let more = self.driver.resume_notifications();
                assert_eq!(more, !self.used.is_empty());
                self.driver_sleeps = !more;
            }
            248..=251 => {
                self.device.pause_notifications();
                self.device_sleeps = false;
            }
            _ => {
                self.driver.pause_notifications();
                self.driver_sleeps = false;
            }
        }
    }

    fn add(&mut self, input: &mut Input<'_>) {
        let (readable, writable) = (input.below(4), input.below(4));
        let mut buffer = |_| {
            let len = u32::from(input.byte());
            (BUFFERS.0 + u64::from(input.short() % 0x3f00), len)
        };
        let readable: Vec<(u64, u32)> = (0..readable).map(&mut buffer).collect();
        let writable: Vec<(u64, u32)> = (0..writable).map(&mut buffer).collect();
        let room = self.driver.free_descriptors();
        match self.driver.add(&readable, &writable) {
            Ok(head) => self.added.push_back(Sent { head, readable, writable }),
            Err(error) => {
                let count = readable.len() + writable.len();
                assert!(count == 0 || count > room.into(), "{error} with {room} free");
            }
        }
    }

    fn pop(&mut self) {
        let chain = self.device.pop().expect("a ring in order");
        let sent = self.available.pop_front();
        assert_eq!(chain.is_some(), sent.is_some());
        let (Some(chain), Some(sent)) = (chain, sent) else { return };
        assert_eq!(chain.head.id(), sent.head);
        let same = |buffers: &zvb_ring::Buffers, list: &[(u64, u32)]| {
            let mut segments = buffers.segments().iter();
            for (address, len) in list.iter().filter(|(_, len)| *len > 0) {
                let (host, _) = self.memory.translate(*address, 1).expect("memory");
                let segment = segments.next().expect("a segment for each buffer");
                assert_eq!((segment.as_ptr(), segment.len()), (host.as_ptr(), *len as usize));
            }
            assert!(segments.next().is_none(), "more than was sent");
        };
        same(&chain.readable, &sent.readable);
        same(&chain.writable, &sent.writable);
        self.popped.push((chain, sent));
    }

    fn push(&mut self, input: &mut Input<'_>) {
        if self.popped.is_empty() {
            return;
        }
        let (chain, sent) = self.popped.swap_remove(input.below(self.popped.len() as u64) as usize);
        let written = (chain.writable.len() as u32).min(input.short().into());
        self.device.push(chain.head, written);
        self.device.recycle(chain.readable);
        self.device.recycle(chain.writable);
        self.pushed.push_back((sent.head, written));
    }

    fn pop_used(&mut self) {
        let used = self.driver.pop_used().expect("a device in order");
        assert_eq!(used.map(|used| (used.head, used.len)), self.used.pop_front());
    }
}
