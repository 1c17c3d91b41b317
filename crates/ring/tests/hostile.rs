//! Either end against one that writes whatever it likes.
//!
//! Not only "no panic": every piece of memory handed out is inside guest memory, walks are bounded, the
//! device's end writes nothing but its own ring, and the driver's end never gives an answer to a chain
//! that has none.
#![expect(clippy::unwrap_used, reason = "a test may")]
#![expect(unsafe_code, reason = "a driver's queue is given raw memory")]

mod guest;

use std::collections::HashMap;
use std::ops::Range;

use guest::{BASE, Guest, LEN};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use zvb_ring::{
    AddError, Buffers, Chain, DriverConfig, DriverQueue, Part, QueueConfig, SharedArea,
};

/// Indirect tables of the hostile driver.
const TABLES: u64 = BASE + 0x4000;
const ENTRIES: u16 = 64;

#[derive(Clone, Debug)]
enum Turn {
    Descriptor { table: bool, index: u16, buffer: (u64, u32), flags: u16, next: u16 },
    Available { position: u16, head: u16 },
    Index(u16),
    Advance(u16),
    Event(u16),
    Flags(u16),
    Noise { offset: u64, bytes: Vec<u8> },
    Pop,
    Push { which: usize },
    Publish,
    Resume,
}

/// Addresses and lengths that are likely to be nearly right.
fn buffer() -> impl Strategy<Value = (u64, u32)> {
    let near = prop_oneof![
        8 => BASE..BASE + LEN,
        4 => (0..u64::from(ENTRIES)).prop_map(|i| TABLES + 16 * i),
        1 => BASE + LEN - 20..BASE + LEN + 20,
        1 => any::<u64>(),
        1 => u64::MAX - 20..=u64::MAX,
    ];
    let len = prop_oneof![
        4 => 0..600u32,
        6 => (0..u32::from(ENTRIES) + 2).prop_map(|n| n * 16),
        1 => any::<u32>(),
        1 => select(vec![LEN as u32, 1 << 31, u32::MAX]),
    ];
    (near, len)
}

fn turn() -> impl Strategy<Value = Turn> {
    let flags = prop_oneof![8 => 0..8u16, 4 => select(vec![0, 1, 2, 3, 4]), 1 => any::<u16>()];
    let next = prop_oneof![8 => 0..20u16, 1 => any::<u16>()];
    prop_oneof![
        8 => (any::<bool>(), 0..ENTRIES, buffer(), flags, next).prop_map(
            |(table, index, buffer, flags, next)| Turn::Descriptor { table, index, buffer, flags, next }
        ),
        3 => (0..16u16, 0..17u16).prop_map(|(position, head)| Turn::Available { position, head }),
        1 => any::<u16>().prop_map(Turn::Index),
        4 => (1..4u16).prop_map(Turn::Advance),
        1 => any::<u16>().prop_map(Turn::Event),
        1 => any::<u16>().prop_map(Turn::Flags),
        1 => (0..0x6000u64, vec(any::<u8>(), 1..64))
            .prop_map(|(offset, bytes)| Turn::Noise { offset, bytes }),
        8 => Just(Turn::Pop),
        4 => any::<usize>().prop_map(|which| Turn::Push { which }),
        2 => Just(Turn::Publish),
        1 => Just(Turn::Resume),
    ]
}

/// The host addresses of all of guest memory.
fn host_range(guest: &Guest) -> Range<usize> {
    let (host, len) = guest.memory.translate(BASE, LEN).unwrap();
    host.addr().get()..host.addr().get() + len as usize
}

fn check_chain(chain: &Chain, inside: &Range<usize>) {
    let check = |buffers: &Buffers| {
        let segments = buffers.segments();
        assert!(segments.len() <= 1024);
        assert_eq!(segments.iter().map(|s| s.len() as u64).sum::<u64>(), buffers.len());
        for segment in segments {
            let first = segment.as_ptr().addr();
            assert!(segment.len() > 0 && first >= inside.start);
            assert!(first + segment.len() <= inside.end);
        }
    };
    check(&chain.readable);
    check(&chain.writable);
    assert!(chain.readable.len() + chain.writable.len() <= u64::from(u32::MAX));
}

/// All of guest memory but the used ring, which is the device's to write.
fn all_but_used(guest: &Guest) -> [Vec<u8>; 2] {
    let used_len = 6 + 8 * u64::from(guest.size);
    let after = guest.used + used_len;
    [
        guest.read(BASE, (guest.used - BASE) as usize),
        guest.read(after, (BASE + 0x1_0000 - after) as usize),
    ]
}

fn play(guest: &mut Guest, queue: &mut zvb_ring::DeviceQueue, turns: Vec<Turn>) {
    let inside = host_range(guest);
    let mut held: Vec<Chain> = Vec::new();
    let mut failed = None;
    for turn in turns {
        let before = match turn {
            Turn::Pop | Turn::Push { .. } | Turn::Publish | Turn::Resume => {
                Some(all_but_used(guest))
            }
            _ => None,
        };
        match turn {
            Turn::Descriptor { table: true, index, buffer, flags, next } => {
                guest.entry(TABLES, index, buffer, flags, next);
            }
            Turn::Descriptor { table: false, index, buffer, flags, next } => {
                guest.descriptor(index % guest.size, buffer, flags, next);
            }
            Turn::Available { position, head } => {
                let at = guest.available + 4 + 2 * u64::from(position % guest.size);
                guest.write(at, &head.to_le_bytes());
            }
            Turn::Index(index) => guest.set_index(index),
            Turn::Advance(by) => guest.set_index(guest.index.wrapping_add(by)),
            Turn::Event(event) => guest.set_used_event(event),
            Turn::Flags(flags) => guest.set_flags(flags),
            Turn::Noise { offset, bytes } => guest.write(BASE + offset, &bytes),
            Turn::Pop => match queue.pop() {
                Ok(chain) => {
                    assert_eq!(failed, None, "a retired queue stays so");
                    held.extend(chain.inspect(|chain| check_chain(chain, &inside)));
                }
                Err(error) => assert_eq!(*failed.get_or_insert(error), error),
            },
            Turn::Push { which } => {
                if !held.is_empty() {
                    let chain = held.swap_remove(which % held.len());
                    queue.push(chain.head, chain.writable.len() as u32);
                    queue.recycle(chain.readable);
                    queue.recycle(chain.writable);
                }
            }
            Turn::Publish => _ = queue.publish(),
            Turn::Resume => _ = queue.resume_notifications(),
        }
        assert!(usize::from(queue.in_flight()) == held.len());
        assert!(queue.in_flight() <= guest.size && queue.pending() <= guest.size);
        if let Some(before) = before {
            assert!(before == all_but_used(guest), "the device wrote what is not its own");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_driver_that_writes_whatever_it_likes(
        shift in 0..5u32,
        event_index: bool,
        indirect: bool,
        turns in vec(turn(), 0..150),
    ) {
        let mut guest = Guest::new(1 << shift);
        let config = QueueConfig { event_index, indirect, ..guest.config() };
        let mut queue = guest.queue_with(config).unwrap();
        play(&mut guest, &mut queue, turns);
    }

    #[test]
    fn rings_anywhere_of_any_size(
        size: u16,
        parts in any::<[u64; 3]>(),
        near: bool,
    ) {
        let guest = Guest::new(8);
        let [descriptors, available, used] =
            parts.map(|part| if near { BASE + part % (LEN + 0x100) } else { part });
        let size = if near { 1 << (size % 16) } else { size };
        let config = QueueConfig { size, descriptors, available, used, ..guest.config() };
        if let Ok(mut queue) = guest.queue_with(config) {
            let inside = host_range(&guest);
            for _ in 0..4 {
                if let Ok(Some(chain)) = queue.pop() {
                    check_chain(&chain, &inside);
                    queue.push(chain.head, 0);
                }
                let _ = queue.publish();
            }
        }
        let _ = zvb_ring::DeviceQueue::used_index(&*guest.memory, used);
    }

    #[test]
    fn a_device_that_writes_whatever_it_likes(
        shift in 0..5u32,
        event_index: bool,
        turns in vec((0..6u8, 0..20u32, any::<u32>(), any::<bool>()), 0..200),
    ) {
        let size = 1 << shift;
        let mut guest = Guest::new(size);
        let (host, _) = guest.memory.translate(BASE, 1).unwrap();
        let config = DriverConfig { size, event_index, tables: None };
        // SAFETY: the ring is in `guest`'s memory, which outlives the queue.
        let mut queue =
            unsafe { DriverQueue::new(SharedArea { host, device: BASE }, config) }.unwrap();
        guest.used = queue.address(Part::Used);
        let mut in_flight = HashMap::new();
        let (mut used, mut free) = (0u16, size);
        for (kind, small, any, odd) in turns {
            match kind {
                0 | 1 => {
                    let pieces = vec![(BASE, 8); (small % 4) as usize];
                    match queue.add(&pieces, &[(BASE, 5)]) {
                        Ok(head) => {
                            assert!(in_flight.insert(head, pieces.len() as u16 + 1).is_none());
                            free -= pieces.len() as u16 + 1;
                        }
                        Err(AddError::Full) => assert!(usize::from(free) <= pieces.len()),
                        Err(AddError::TooLong) => assert!(pieces.len() >= usize::from(size)),
                        Err(error) => assert_eq!(error, AddError::Broken(*queue.lie().unwrap())),
                    }
                }
                2 => _ = queue.publish(),
                3 => {
                    let len = if odd && any % 8 == 0 { any } else { any % 6 };
                    let id = if any % 64 == 0 { any } else { small % u32::from(size) };
                    guest.set_used_element(used, id, len);
                    used = if any % 100 == 0 { any as u16 } else { used.wrapping_add(1) };
                    guest.set_used_index(used);
                }
                4 => _ = queue.resume_notifications(),
                _ => {
                    let broken = queue.lie().copied();
                    match queue.pop_used() {
                        Ok(Some(answer)) => {
                            free += in_flight.remove(&answer.head).expect("answered once");
                            assert!(answer.len <= 5);
                        }
                        Ok(None) => assert_eq!(broken, None),
                        Err(lie) => assert_eq!(*broken.as_ref().unwrap_or(&lie), lie),
                    }
                }
            }
            assert_eq!(queue.free_descriptors(), free);
            assert_eq!(usize::from(queue.in_flight()), in_flight.len());
        }
    }
}
