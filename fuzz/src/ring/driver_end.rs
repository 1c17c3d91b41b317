//! The driver's end against a device that writes what it likes into the used ring.

use std::collections::BTreeMap;
use std::rc::Rc;

use zvb_ring::{AddError, DeviceLie, DriverQueue, Part, Used};

use super::passes;
use super::shared::{BUFFERS, RING, driver_queue, memory};
use crate::guest::Regions;
use crate::input::Input;

struct Driver {
    memory: Rc<Regions>,
    queue: DriverQueue,
    size: u16,
    event_index: bool,
    indirect: bool,
    /// What the device has: the writable bytes and the descriptors of each chain.
    waiting: BTreeMap<u16, (u32, u16)>,
    /// Added and not yet published.
    added: BTreeMap<u16, (u32, u16)>,
    free: u16,
    published: u16,
    lie: Option<DeviceLie>,
    /// The used index up to which answers were taken.
    taken: u16,
}

pub(super) fn run(input: &mut Input<'_>) {
    let size = input.one_of(&[8, 4, 16, 64, 1, 2]);
    let options = input.byte();
    let (event_index, indirect) = (options & 1 != 0, options & 2 != 0);
    let memory = memory();
    let queue = driver_queue(&memory, size, event_index, indirect);
    let mut driver = Driver {
        memory,
        queue,
        size,
        event_index,
        indirect,
        waiting: BTreeMap::new(),
        added: BTreeMap::new(),
        free: size,
        published: 0,
        lie: None,
        taken: 0,
    };
    for _ in 0..400 {
        if input.is_empty() {
            break;
        }
        driver.act(input);
        driver.check();
    }
}

impl Driver {
    fn act(&mut self, input: &mut Input<'_>) {
        match input.byte() {
            0..=79 => self.add(input),
            80..=119 => self.publish(),
            120..=159 => self.answer(input),
            160..=219 => self.pop(),
            // Anything at all, anywhere: used ring, descriptors, tables.
            220..=235 => {
                let at = u64::from(input.short() % 0x4000);
                let len = usize::from(input.byte() % 16);
                self.memory.poke(RING + at, input.bytes(len));
            }
            236..=245 => {
                let at = self.queue.address(Part::Used) + input.below(4 + 8 * u64::from(self.size));
                self.memory.poke(at, &[input.byte()]);
            }
            246..=250 => {
                let _ = self.queue.resume_notifications();
            }
            _ => self.queue.pause_notifications(),
        }
    }

    fn add(&mut self, input: &mut Input<'_>) {
        let (readable, writable) = (input.below(5), input.below(5));
        let buffer = |i: u64| (BUFFERS.0 + 64 * i, input_len(i, input));
        let all: Vec<(u64, u32)> = (0..readable + writable).map(buffer).collect();
        let (readable, writable) = all.split_at(readable as usize);
        let count = all.len() as u16;
        let taken =
            if self.indirect && (2..=super::shared::ENTRIES).contains(&count) { 1 } else { count };
        let total: u64 = all.iter().map(|(_, len)| u64::from(*len)).sum();
        let expected = match self.lie {
            Some(lie) => Err(AddError::Broken(lie)),
            None if count == 0 => Err(AddError::Empty),
            None if count > self.size || total > u64::from(u32::MAX) => Err(AddError::TooLong),
            None if taken > self.free => Err(AddError::Full),
            None => Ok(()),
        };
        let found = self.queue.add(readable, writable);
        assert_eq!(found.map(|_| ()), expected);
        let Ok(head) = found else { return };
        self.free -= taken;
        let room = writable.iter().map(|(_, len)| *len).sum();
        assert!(head < self.size && !self.waiting.contains_key(&head), "{head} is in use");
        assert_eq!(self.added.insert(head, (room, taken)), None, "{head} is in use");
    }

    fn publish(&mut self) {
        let from = self.published;
        let event = self.memory.snapshot();
        let used = self.queue.address(Part::Used);
        let wants = if self.event_index {
            event.u16(used + 4 + 8 * u64::from(self.size))
        } else {
            event.u16(used)
        };
        let signal = self.queue.publish();
        if self.lie.is_some() {
            assert!(!signal, "a broken queue");
            return;
        }
        self.published = from.wrapping_add(self.added.len() as u16);
        self.waiting.append(&mut self.added);
        let wants = wants.expect("memory");
        let expected = match self.event_index {
            true => passes(wants, from, self.published),
            false => from != self.published && wants & 1 == 0,
        };
        assert_eq!(signal, expected, "{wants} from {from} to {}", self.published);
    }

    /// An answer that is right, or nearly so.
    fn answer(&mut self, input: &mut Input<'_>) {
        let used = self.queue.address(Part::Used);
        let memory = self.memory.snapshot();
        let index = memory.u16(used + 2).unwrap_or(0);
        let chosen = self.waiting.iter().nth(input.below(self.waiting.len() as u64) as usize);
        let (id, room) = chosen.map_or((0, 0), |(id, (room, _))| (u32::from(*id), *room));
        let spoil = input.byte();
        let id = if spoil < 0xf0 { id } else { input.word() };
        let len = match spoil {
            0..=0xdf => room.min(input.byte().into()),
            _ => room.wrapping_add(u32::from(spoil % 2)),
        };
        let slot = used + 4 + 8 * u64::from(index % self.size);
        self.memory.poke(slot, &id.to_le_bytes());
        self.memory.poke(slot + 4, &len.to_le_bytes());
        self.memory.poke(used + 2, &index.wrapping_add(1).to_le_bytes());
    }

    fn pop(&mut self) {
        let memory = self.memory.snapshot();
        match self.queue.pop_used() {
            Ok(Some(Used { head, len })) => {
                assert_eq!(self.lie, None, "after a lie");
                let (room, descriptors) =
                    self.waiting.remove(&head).expect("an answer to what was not asked");
                assert!(len <= room, "{len} bytes in {room}");
                let slot =
                    self.queue.address(Part::Used) + 4 + 8 * u64::from(self.taken % self.size);
                assert_eq!(memory.u32(slot), Some(head.into()));
                assert_eq!(memory.u32(slot + 4), Some(len));
                self.taken = self.taken.wrapping_add(1);
                self.free += descriptors;
            }
            Ok(None) => assert_eq!(self.lie, None, "a lie is for ever"),
            Err(lie) => {
                assert!(self.lie.is_none_or(|before| before == lie), "a lie is for ever");
                self.lie = Some(lie);
            }
        }
    }

    fn check(&self) {
        assert_eq!(self.queue.free_descriptors(), self.free);
        assert_eq!(usize::from(self.queue.in_flight()), self.waiting.len() + self.added.len());
        assert_eq!(self.queue.lie(), self.lie.as_ref());
        assert!(self.lie.is_none() || !self.queue.has_used(), "nothing more to say");
    }
}

fn input_len(i: u64, input: &mut Input<'_>) -> u32 {
    match input.byte() {
        0xff => u32::MAX - i as u32,
        len => len.into(),
    }
}
