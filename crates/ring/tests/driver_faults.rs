//! The driver's end against devices that lie, and against callers that ask for too much.
#![expect(clippy::unwrap_used, reason = "a test may")]
#![expect(unsafe_code, reason = "a driver's queue is given raw memory")]

mod guest;

use guest::{BASE, DATA, Guest, INDIRECT, NEXT, WRITE};
use zvb_ring::{
    AddError, DeviceLie, DriverConfig, DriverQueue, IndirectTables, Part, SetupError, SharedArea,
    Used, layout, tables_len,
};

const RING: u64 = BASE + 0x1000;
const TABLES: u64 = BASE + 0x4_0000;

fn area(guest: &Guest, address: u64) -> SharedArea {
    let (host, _) = guest.memory.translate(address, 1).unwrap();
    SharedArea { host, device: address }
}

/// A driver's queue, and the device's view of its memory. Keep the view alive longer.
fn driver(size: u16, event_index: bool, entries: Option<u16>) -> (Guest, DriverQueue) {
    let mut guest = Guest::new(size);
    let tables = entries.map(|entries| IndirectTables { area: area(&guest, TABLES), entries });
    let config = DriverConfig { size, event_index, tables };
    // SAFETY: ring and tables are in `guest`'s memory, which the callers drop last, and are apart.
    let queue = unsafe { DriverQueue::new(area(&guest, RING), config) }.unwrap();
    guest.descriptors = queue.address(Part::Descriptors);
    guest.available = queue.address(Part::Available);
    guest.used = queue.address(Part::Used);
    (guest, queue)
}

/// Takes an answer and expects `lie`, then expects it to stay.
#[track_caller]
fn assert_breaks(queue: &mut DriverQueue, lie: DeviceLie) {
    assert_eq!(queue.pop_used(), Err(lie));
    assert_eq!(queue.pop_used(), Err(lie), "the first lie stays");
    assert_eq!(queue.lie(), Some(&lie));
    assert_eq!(queue.add(&[(DATA, 1)], &[]), Err(AddError::Broken(lie)));
    assert!(!queue.publish() && !queue.has_used() && !queue.resume_notifications());
}

#[test]
fn answers_to_nothing() {
    let (guest, mut queue) = driver(8, false, None);
    guest.set_used_index(1);
    assert_breaks(&mut queue, DeviceLie::UsedIndexJump { by: 1, in_flight: 0 });
}

#[test]
fn more_answers_than_chains() {
    for index in [3, 0x8000, 0xffff] {
        let (guest, mut queue) = driver(8, false, None);
        for _ in 0..2 {
            queue.add(&[(DATA, 1)], &[]).unwrap();
        }
        assert!(queue.publish());
        // One that the device can not have seen does not count.
        queue.add(&[(DATA, 1)], &[]).unwrap();
        guest.set_used_index(index);
        assert_breaks(&mut queue, DeviceLie::UsedIndexJump { by: index, in_flight: 2 });
    }
}

#[test]
fn an_answer_to_no_descriptor() {
    for id in [8, 0xffff, 0x1_0000, u32::MAX] {
        let (guest, mut queue) = driver(8, false, None);
        queue.add(&[(DATA, 1)], &[]).unwrap();
        assert!(queue.publish());
        guest.set_used_element(0, id, 0);
        guest.set_used_index(1);
        assert_breaks(&mut queue, DeviceLie::IdOutOfRange { id, size: 8 });
    }
}

#[test]
fn an_answer_to_what_is_not_in_flight() {
    // To a free descriptor, to the middle of a chain, and to a chain that was not published.
    for id in [7u16, 1, 3] {
        let (guest, mut queue) = driver(8, false, None);
        assert_eq!(queue.add(&[(DATA, 1); 3], &[]), Ok(0));
        assert!(queue.publish());
        assert_eq!(queue.add(&[(DATA, 1)], &[]), Ok(3));
        guest.set_used_element(0, id.into(), 0);
        guest.set_used_index(1);
        assert_breaks(&mut queue, DeviceLie::NotInFlight { id });
    }
}

#[test]
fn an_answer_given_twice() {
    let (guest, mut queue) = driver(8, false, None);
    let head = queue.add(&[(DATA, 1)], &[]).unwrap();
    let other = queue.add(&[], &[(DATA, 1)]).unwrap();
    assert!(queue.publish());
    guest.set_used_element(0, head.into(), 0);
    guest.set_used_element(1, head.into(), 0);
    guest.set_used_index(2);
    assert_eq!(queue.pop_used(), Ok(Some(Used { head, len: 0 })));
    assert_breaks(&mut queue, DeviceLie::NotInFlight { id: head });
    assert_ne!(head, other);
}

#[test]
fn more_written_than_there_was_room() {
    for (len, good) in [(0, true), (7, true), (8, false), (u32::MAX, false)] {
        let (guest, mut queue) = driver(8, false, Some(8));
        let head = queue.add(&[(DATA, 100)], &[(DATA, 3), (DATA, 4)]).unwrap();
        assert!(queue.publish());
        guest.set_used_element(0, head.into(), len);
        guest.set_used_index(1);
        if good {
            assert_eq!(queue.pop_used(), Ok(Some(Used { head, len })));
        } else {
            assert_breaks(&mut queue, DeviceLie::LenTooLong { id: head, len, writable: 7 });
        }
    }
}

#[test]
fn what_the_device_writes_over_the_drivers_parts_changes_nothing() {
    let (guest, mut queue) = driver(4, false, None);
    let head = queue.add(&[(DATA, 1); 2], &[(DATA, 1)]).unwrap();
    assert!(queue.publish());
    guest.write(guest.descriptors, &[0xff; 64]);
    guest.write(guest.available, &[0xff; 14]);
    guest.set_used_element(0, head.into(), 1);
    guest.set_used_index(1);
    assert_eq!(queue.pop_used(), Ok(Some(Used { head, len: 1 })));
    assert_eq!((queue.free_descriptors(), queue.in_flight()), (4, 0));
    queue.add(&[(DATA, 9)], &[]).unwrap();
    // The index goes on from the driver's own copy.
    assert!(queue.publish());
    assert_eq!(guest.read(guest.available + 2, 2), 2u16.to_le_bytes());
}

#[test]
fn chains_that_can_not_be_added_change_nothing() {
    let (guest, mut queue) = driver(4, false, None);
    assert_eq!(queue.add(&[], &[]), Err(AddError::Empty));
    assert_eq!(queue.add(&[(DATA, 1); 3], &[(DATA, 1); 2]), Err(AddError::TooLong));
    assert_eq!(queue.add(&[(DATA, u32::MAX)], &[(DATA, 1)]), Err(AddError::TooLong));
    queue.add(&[(DATA, u32::MAX - 1)], &[(DATA, 1)]).unwrap();
    assert_eq!(queue.add(&[(DATA, 1); 3], &[]), Err(AddError::Full));
    assert_eq!((queue.free_descriptors(), queue.in_flight()), (2, 1));
    queue.add(&[(DATA, 1); 2], &[]).unwrap();
    assert_eq!(queue.add(&[(DATA, 1)], &[]), Err(AddError::Full));
    assert_eq!(queue.size(), 4);
    drop(guest);
}

#[test]
fn a_chain_in_memory_is_what_the_specification_says() {
    let (guest, mut queue) = driver(4, false, None);
    assert_eq!(queue.add(&[(0x1122_3344_5566_7788, 16)], &[(2, 512), (3, 1)]), Ok(0));
    assert_eq!(guest.read(guest.available + 2, 2), [0, 0], "not before it is published");
    assert!(queue.publish());
    assert_eq!(guest.read(guest.available, 6), [0, 0, 1, 0, 0, 0]);
    let entry = |bytes: &[u8]| {
        let flags = u16::from_le_bytes([bytes[12], bytes[13]]);
        (bytes[..8].to_vec(), bytes[8..12].to_vec(), flags, bytes[14])
    };
    let table = guest.read(guest.descriptors, 48);
    let first = vec![0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11];
    assert_eq!(entry(&table), (first, vec![16, 0, 0, 0], NEXT, 1));
    let second = vec![2, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(entry(&table[16..]), (second, vec![0, 2, 0, 0], NEXT | WRITE, 2));
    assert_eq!(entry(&table[32..]).2, WRITE);
}

#[test]
fn an_indirect_chain_takes_one_descriptor() {
    let (guest, mut queue) = driver(4, false, Some(3));
    for head in 0..3 {
        assert_eq!(queue.add(&[(DATA, 1)], &[(DATA, 512), (DATA, 1)]), Ok(head));
    }
    assert_eq!(queue.free_descriptors(), 1);
    let referring = guest.read(guest.descriptors + 32, 16);
    let table = TABLES + tables_len(2, 3) as u64;
    assert_eq!(referring[..8], table.to_le_bytes());
    assert_eq!(referring[8..12], 48u32.to_le_bytes());
    assert_eq!(referring[12..14], INDIRECT.to_le_bytes());
    // A single buffer needs no table; four do not fit in one, and there is no room for them here.
    assert_eq!(queue.add(&[(DATA, 1); 4], &[]), Err(AddError::Full));
    assert_eq!(queue.add(&[(DATA, 1)], &[]), Ok(3));
    let direct = guest.read(guest.descriptors + 48, 16);
    assert_eq!(direct[12..14], [0, 0]);
}

#[test]
fn a_new_queue_is_zeroed_and_aligned_or_refused() {
    let guest = Guest::new(8);
    let bytes = layout(8).unwrap().bytes;
    guest.write(RING, &vec![0xff; bytes]);
    let config = DriverConfig { size: 8, event_index: true, tables: None };
    // SAFETY: as in `driver`, and refused before it is touched where it is not aligned.
    let new = |area, config| unsafe { DriverQueue::new(area, config) };
    let good = area(&guest, RING);
    drop(new(good, config).unwrap());
    assert!(guest.read(RING, bytes).iter().all(|byte| *byte == 0));
    assert_eq!(guest.read(RING + bytes as u64, 1), [0]);

    let size = 24;
    assert_eq!(new(good, DriverConfig { size, ..config }).unwrap_err(), SetupError::Size { size });
    let odd = SharedArea { device: RING + 8, ..good };
    let error = SetupError::Misaligned { part: Part::Descriptors, address: RING + 8, align: 16 };
    assert_eq!(new(odd, config).unwrap_err(), error);
    let tables = Some(IndirectTables { area: odd, entries: 1 });
    assert_eq!(new(good, DriverConfig { tables, ..config }).unwrap_err(), error);
    let odd = SharedArea { host: area(&guest, RING + 2).host, ..good };
    let error = SetupError::HostMisaligned { part: Part::Descriptors, address: RING, align: 4 };
    assert_eq!(new(odd, config).unwrap_err(), error);
}

#[test]
fn suppression_by_flags() {
    let (guest, mut queue) = driver(8, false, None);
    let mut device = guest.queue();
    queue.add(&[(DATA, 1)], &[]).unwrap();
    assert!(queue.publish());
    assert!(!queue.publish(), "nothing new, nothing to tell");
    device.pause_notifications();
    assert_eq!(guest.used_flags(), 1);
    queue.add(&[(DATA, 1)], &[]).unwrap();
    assert!(!queue.publish());
    assert!(device.resume_notifications(), "two came meanwhile");
    assert_eq!(guest.used_flags(), 0);
    queue.pause_notifications();
    assert_eq!(guest.read(guest.available, 2), [1, 0]);
    for (flags, signal) in [(1, false), (0, true)] {
        guest.set_flags(flags);
        // Without the event index its word means nothing (virtio 2.7.7.2).
        guest.set_used_event(if signal { 77 } else { guest.used_index() });
        let chain = device.pop().unwrap().unwrap();
        device.push(chain.head, 0);
        assert_eq!(device.publish(), signal);
    }
    assert!(!device.resume_notifications());
    assert!(queue.resume_notifications());
}

#[test]
fn suppression_by_event_index() {
    let (guest, mut queue) = driver(8, true, None);
    let config = zvb_ring::QueueConfig { event_index: true, ..guest.config() };
    guest.write(guest.used, &[1, 0]);
    let mut device = guest.queue_with(config).unwrap();
    assert_eq!(guest.used_flags(), 0, "flags are cleared whatever they were");
    // The first is asked for by the zeroes of a new ring; then silence until asked again.
    queue.add(&[(DATA, 1)], &[]).unwrap();
    assert!(queue.publish());
    device.pause_notifications();
    queue.pause_notifications();
    assert_eq!((guest.used_flags(), guest.read(guest.available, 2)), (0, vec![0, 0]));
    queue.add(&[(DATA, 1)], &[]).unwrap();
    assert!(!queue.publish());
    let mut heads = Vec::new();
    while let Some(chain) = device.pop().unwrap() {
        heads.push(chain.head);
    }
    assert!(!device.resume_notifications());
    assert_eq!(guest.available_event(), 2);
    // The bits of flags mean nothing (virtio 2.7.7.2, 2.7.10.2); a batch passes the event in its middle.
    guest.write(guest.used, &[1, 0]);
    guest.set_flags(1);
    for _ in 0..3 {
        queue.add(&[(DATA, 1)], &[]).unwrap();
    }
    assert!(queue.publish());
    while let Some(chain) = device.pop().unwrap() {
        heads.push(chain.head);
    }
    guest.set_used_event(3);
    for (used, head) in heads.into_iter().enumerate() {
        device.push(head, 0);
        assert_eq!(device.publish(), used == 3, "element {used}");
    }
    // Answers wait, so this end must not sleep; and the wish is where the next answer is.
    assert!(queue.resume_notifications());
    assert_eq!(guest.read(guest.available + 4 + 2 * 8, 2), 0u16.to_le_bytes());
}
