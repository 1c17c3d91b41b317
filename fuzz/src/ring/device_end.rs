//! The device's end against a driver that writes what it likes, compared step by step with a walk that
//! reads the same memory.

use std::mem::discriminant;
use std::rc::Rc;

use zvb_ring::{Chain, DeviceQueue, GuestMemory, QueueConfig, RingError};

use super::passes;
use crate::guest::{Regions, Snapshot};
use crate::input::Input;

/// Three regions: the second begins where the first ends, in another place of the host.
const MEMORY: [(u64, u64); 3] = [(0, 0x1000), (0x1000, 0x800), (0x3000, 0x400)];

struct Device {
    memory: Rc<Regions>,
    queue: DeviceQueue,
    config: QueueConfig,
    popped: Vec<Chain>,
    /// The next available index, and the next used one.
    next: u16,
    used: u16,
    published: u16,
    /// The available index as last looked at.
    seen: u16,
    error: Option<RingError>,
}

pub(super) fn run(input: &mut Input<'_>) {
    thread_local! {
        static MEMORIES: Rc<Regions> = Regions::new(&MEMORY);
    }
    let memory = MEMORIES.with(Rc::clone);
    memory.clear();
    let Some(config) = config(input) else { return };
    let shared = Rc::<Regions>::clone(&memory) as Rc<dyn GuestMemory>;
    let Ok(queue) = DeviceQueue::new(shared, config) else { return };
    let (next, used) = (config.next_available, config.next_used);
    let mut device = Device {
        memory,
        queue,
        config,
        popped: Vec::new(),
        next,
        used,
        published: used,
        seen: next,
        error: None,
    };
    for _ in 0..300 {
        if input.is_empty() {
            break;
        }
        device.act(input);
    }
}

fn config(input: &mut Input<'_>) -> Option<QueueConfig> {
    let options = input.byte();
    let size = match input.byte() {
        0xf0.. => input.short(),
        n => [8, 4, 16, 64, 1, 2][usize::from(n % 6)],
    };
    let mut place = |usual: u64| match input.byte() {
        0..=0xbf => usual,
        0xc0..=0xef => u64::from(input.short()),
        _ => input.long(),
    };
    let (descriptors, available, used) = (place(0), place(0x400), place(0x600));
    let start = if options & 8 != 0 { input.short() } else { 0 };
    Some(QueueConfig {
        size,
        descriptors,
        available,
        used,
        event_index: options & 1 != 0,
        indirect: options & 2 != 0,
        next_available: start,
        next_used: start,
    })
}

impl Device {
    fn act(&mut self, input: &mut Input<'_>) {
        match input.byte() {
            0..=99 => self.poke_descriptor(input),
            100..=119 => {
                let (at, len) = (input.short() % 0x3400, usize::from(input.byte() % 32));
                self.memory.poke(at.into(), input.bytes(len));
            }
            120..=159 => self.offer(input),
            160..=209 => self.pop(),
            210..=229 => self.push(input),
            230..=243 => self.publish(),
            244..=247 => {
                let more = self.queue.resume_notifications();
                let index = self.index();
                assert_eq!(more, self.error.is_none() && index != self.next);
            }
            248..=251 => self.queue.pause_notifications(),
            _ => {
                let pending = self.index().wrapping_sub(self.next).min(self.config.size);
                let expected = if self.error.is_none() { pending } else { 0 };
                assert_eq!(self.queue.pending(), expected);
            }
        }
        assert_eq!(usize::from(self.queue.in_flight()), self.popped.len());
        assert_eq!(self.queue.error(), self.error.as_ref());
    }

    fn index(&self) -> u16 {
        self.memory.snapshot().u16(self.config.available + 2).expect("memory")
    }

    fn poke_descriptor(&mut self, input: &mut Input<'_>) {
        let choice = input.byte();
        let table = if choice & 0xf < 12 { self.config.descriptors } else { 0x1000 };
        let at = match choice >> 4 {
            0..=8 => 0xc00 + u64::from(input.byte()) * 2,
            9..=10 => 0x1000 - u64::from(input.byte() % 16),
            11..=12 => 0x1000,
            13..=14 => input.short().into(),
            _ => input.long(),
        };
        let len = match input.byte() {
            0xfc.. => input.word(),
            n => n.into(),
        };
        let (flags, next) = (input.byte(), input.byte());
        let flags = if flags < 0xf0 { u16::from(flags % 8) } else { input.short() };
        let next = if next < 0xf0 { u16::from(next) % self.config.size } else { input.short() };
        let mut bytes = at.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.memory.poke(table + 16 * input.below(u64::from(self.config.size).min(40)), &bytes);
    }

    fn offer(&mut self, input: &mut Input<'_>) {
        let index = self.index();
        let (head, by) = (input.byte(), input.byte());
        let head = if head < 0xf8 { u16::from(head) % self.config.size } else { input.short() };
        let slot = u64::from(index & (self.config.size - 1));
        self.memory.poke(self.config.available + 4 + 2 * slot, &head.to_le_bytes());
        let by = if by < 0xf8 { 1 } else { input.short() };
        self.memory.poke(self.config.available + 2, &index.wrapping_add(by).to_le_bytes());
    }

    fn pop(&mut self) {
        let memory = self.memory.snapshot();
        let expected = self.expected(&memory);
        let found = self.queue.pop();
        match (found, expected) {
            (Ok(None), Ok(None)) => {}
            (Ok(Some(chain)), Ok(Some(walked))) => {
                self.next = self.next.wrapping_add(1);
                assert_eq!(chain.head.id(), walked.head);
                self.compare(&chain, &walked, memory);
                self.popped.push(chain);
            }
            (Err(found), Err(expected)) => {
                assert_eq!(discriminant(&found), discriminant(&expected), "{found}, {expected}");
                self.error = Some(found);
            }
            (found, expected) => panic!("{found:?} where {expected:?} is right"),
        }
    }

    /// What is read and what is written is just what the chain says, byte by byte.
    fn compare(&mut self, chain: &Chain, walked: &Walked, mut memory: Snapshot) {
        let mut bytes = Vec::new();
        for (at, len) in &walked.readable {
            bytes.extend((0..*len).map(|i| memory.get(at + i, 1).expect("memory")[0]));
        }
        let mut read = vec![0; chain.readable.len() as usize];
        chain.readable.read(0, &mut read).expect("as long as it says");
        assert!(read == bytes, "what is read is something else");
        let total: u64 = walked.writable.iter().map(|(_, len)| len).sum();
        assert_eq!(chain.writable.len(), total);
        let pattern: Vec<u8> = (0..total).map(|i| (i % 251) as u8 ^ 0x5a).collect();
        chain.writable.write(0, &pattern).expect("as long as it says");
        let mut rest = pattern.iter();
        for (at, len) in &walked.writable {
            for (at, byte) in (*at..at + len).zip(rest.by_ref()) {
                memory.put(at, &[*byte]);
            }
        }
        let differs = memory.differs(&self.memory.snapshot(), &[]);
        assert_eq!(differs, None, "written somewhere else");
    }

    fn push(&mut self, input: &mut Input<'_>) {
        if self.popped.is_empty() {
            return;
        }
        let chain = self.popped.swap_remove(input.below(self.popped.len() as u64) as usize);
        let written = (chain.writable.len() as u32).min(input.short().into());
        let id = chain.head.id();
        let before = self.memory.snapshot();
        self.queue.push(chain.head, written);
        let slot = self.config.used + 4 + 8 * u64::from(self.used & (self.config.size - 1));
        let mut expected = before;
        expected.put(slot, &u32::from(id).to_le_bytes());
        expected.put(slot + 4, &written.to_le_bytes());
        assert_eq!(expected.differs(&self.memory.snapshot(), &[]), None);
        self.used = self.used.wrapping_add(1);
        self.queue.recycle(chain.readable);
        self.queue.recycle(chain.writable);
    }

    fn publish(&mut self) {
        let mut expected = self.memory.snapshot();
        let QueueConfig { available, used, size, event_index, .. } = self.config;
        let event = expected.u16(available + 4 + 2 * u64::from(size)).expect("memory");
        let flags = expected.u16(available).expect("memory");
        let signal = self.queue.publish();
        if self.published != self.used {
            expected.put(used + 2, &self.used.to_le_bytes());
        }
        assert_eq!(expected.differs(&self.memory.snapshot(), &[]), None);
        let wanted = match event_index {
            true => passes(event, self.published, self.used),
            false => self.published != self.used && flags & 1 == 0,
        };
        // Where the two rings overlap, what was read is what was just written.
        let apart = used.abs_diff(available) >= 6 + 8 * u64::from(size);
        assert!(signal == wanted || !apart, "signal {signal}");
        self.published = self.used;
    }

    /// What the next pop must say.
    fn expected(&mut self, memory: &Snapshot) -> Result<Option<Walked>, RingError> {
        let QueueConfig { size, available, .. } = self.config;
        if let Some(error) = self.error {
            return Err(error);
        }
        if self.seen == self.next {
            let index = memory.u16(available + 2).expect("memory");
            let by = index.wrapping_sub(self.next);
            if by > size {
                return Err(RingError::AvailableIndexJump { by, size });
            }
            self.seen = index;
        }
        if self.seen == self.next {
            return Ok(None);
        }
        let slot = u64::from(self.next & (size - 1));
        let head = memory.u16(available + 4 + 2 * slot).expect("memory");
        if head >= size {
            return Err(RingError::HeadOutOfRange { head, size });
        }
        if self.popped.iter().any(|chain| chain.head.id() == head) {
            return Err(RingError::HeadInFlight { head });
        }
        let mut walked = Walked { head, ..Walked::default() };
        walked.walk(memory, &self.config)?;
        Ok(Some(walked))
    }
}

/// A chain, walked naively.
#[derive(Default, Debug)]
struct Walked {
    head: u16,
    readable: Vec<(u64, u64)>,
    writable: Vec<(u64, u64)>,
    writing: bool,
    bytes: u64,
    steps: u16,
}

impl Walked {
    fn walk(&mut self, memory: &Snapshot, config: &QueueConfig) -> Result<(), RingError> {
        let (mut table, mut entries) = (config.descriptors, u32::from(config.size));
        let mut limit = config.size;
        let mut index = self.head;
        let mut inside = false;
        loop {
            // Of a table of its own: an index outside comes after the count.
            if inside && self.steps >= limit {
                return Err(RingError::ChainTooLong { limit });
            }
            if u32::from(index) >= entries {
                return Err(RingError::DescriptorOutOfRange { next: index, entries });
            }
            let place = table + 16 * u64::from(index);
            let bytes: Vec<u8> = (0..16).map(|i| byte(memory, place + i)).collect();
            let number = |from: usize, len: usize| {
                bytes[from..from + len].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
            };
            let (address, len, flags) = (number(0, 8), number(8, 4), number(12, 2));
            if flags & 4 != 0 {
                if inside {
                    return Err(RingError::IndirectNested);
                }
                let indirect = (address, len as u32, flags);
                (table, entries) = enter(memory, config, indirect)?;
                (limit, index, inside) = (config.size.max(1024), 0, true);
                continue;
            }
            if !inside && self.steps >= limit {
                return Err(RingError::ChainTooLong { limit });
            }
            self.steps += 1;
            self.add(memory, address, len, flags)?;
            if flags & 1 == 0 {
                return Ok(());
            }
            index = number(14, 2) as u16;
        }
    }

    fn add(&mut self, memory: &Snapshot, at: u64, len: u64, flags: u64) -> Result<(), RingError> {
        let list = if flags & 2 != 0 {
            self.writing = true;
            &mut self.writable
        } else if self.writing {
            return Err(RingError::ReadableAfterWritable);
        } else {
            &mut self.readable
        };
        let before: u64 = list.iter().map(|(_, len)| len).sum();
        if before + len > u64::from(u32::MAX) {
            return Err(RingError::TooLong);
        }
        if !is_memory(memory, at, len) {
            return Err(RingError::NotMemory { address: at, len: len as u32 });
        }
        if len > 0 {
            list.push((at, len));
        }
        self.bytes += len;
        if self.bytes > u64::from(u32::MAX) { Err(RingError::TooLong) } else { Ok(()) }
    }
}

/// The indirect table that a descriptor refers to.
fn enter(
    memory: &Snapshot,
    config: &QueueConfig,
    (address, len, flags): (u64, u32, u64),
) -> Result<(u64, u32), RingError> {
    if !config.indirect {
        return Err(RingError::IndirectNotNegotiated);
    }
    if flags & 1 != 0 {
        return Err(RingError::IndirectWithNext);
    }
    if len == 0 || !len.is_multiple_of(16) {
        return Err(RingError::IndirectLength { len });
    }
    if !is_memory(memory, address, len.into()) {
        return Err(RingError::NotMemory { address, len });
    }
    Ok((address, len / 16))
}

fn is_memory(memory: &Snapshot, at: u64, len: u64) -> bool {
    // All there is ends below this.
    len == 0
        || len <= 0x4000
            && (0..len).all(|i| at.checked_add(i).is_some_and(|at| memory.get(at, 1).is_some()))
}

fn byte(memory: &Snapshot, at: u64) -> u8 {
    memory.get(at, 1).map_or(0, |bytes| bytes[0])
}
