//! The device's end against drivers that break one rule each, and against those that only look odd.

#![expect(clippy::unwrap_used, reason = "a test may")]

mod guest;

use std::rc::Rc;

use guest::{BASE, DATA, Guest, INDIRECT, LEN, NEXT, WRITE};
use zvb_ring::{DeviceQueue, HeapMemory, Part, RingError, SetupError};

/// Pops once and expects `error`, then expects it to stay.
#[track_caller]
fn assert_retires(queue: &mut DeviceQueue, error: RingError) {
    assert_eq!(queue.pop().unwrap_err(), error);
    assert_eq!(queue.pop().unwrap_err(), error, "the first error stays");
    assert_eq!(queue.error(), Some(&error));
    assert!(!queue.available() && !queue.resume_notifications() && queue.pending() == 0);
}

#[test]
fn available_index_may_run_ahead_by_the_size_and_no_more() {
    let mut guest = Guest::new(8);
    let mut queue = guest.queue();
    for head in 0..8 {
        guest.descriptor(head, (DATA, 4), 0, 0);
        guest.make_available(head);
    }
    assert_eq!(queue.pending(), 8);
    assert!(queue.pop().unwrap().is_some());

    let mut queue = guest.queue();
    guest.set_index(9);
    assert!(queue.available());
    assert_eq!(queue.pending(), 8);
    assert_retires(&mut queue, RingError::AvailableIndexJump { by: 9, size: 8 });

    let mut queue = guest.queue();
    guest.set_index(0xffff);
    assert_retires(&mut queue, RingError::AvailableIndexJump { by: 0xffff, size: 8 });
}

#[test]
fn head_outside_the_table() {
    let mut guest = Guest::new(8);
    guest.make_available(8);
    assert_retires(&mut guest.queue(), RingError::HeadOutOfRange { head: 8, size: 8 });
}

#[test]
fn head_twice_in_flight() {
    let mut guest = Guest::new(8);
    let mut queue = guest.queue();
    guest.descriptor(3, (DATA, 4), WRITE, 0);
    guest.make_available(3);
    let chain = queue.pop().unwrap().unwrap();
    guest.make_available(3);
    assert_retires(&mut queue, RingError::HeadInFlight { head: 3 });
    // What is in flight can still be answered.
    queue.push(chain.head, 4);
    assert!(queue.publish());
    assert_eq!((guest.used_index(), guest.used_element(0)), (1, (3, 4)));
    assert_eq!(queue.in_flight(), 0);
}

#[test]
fn head_again_after_its_answer_is_fine() {
    let mut guest = Guest::new(1);
    let mut queue = guest.queue();
    guest.descriptor(0, (DATA, 4), 0, 0);
    for turn in 1..=100_000u32 {
        guest.make_available(0);
        let chain = queue.pop().unwrap().unwrap();
        assert!(queue.pop().unwrap().is_none());
        queue.push(chain.head, 0);
        assert!(queue.publish());
        assert_eq!(guest.used_index(), turn as u16);
    }
}

#[test]
fn next_outside_the_table() {
    let mut guest = Guest::new(8);
    guest.descriptor(0, (DATA, 4), NEXT, 8);
    guest.make_available(0);
    let error = RingError::DescriptorOutOfRange { next: 8, entries: 8 };
    assert_retires(&mut guest.queue(), error);

    let mut guest = Guest::new(8);
    guest.descriptor(0, (DATA, 32), INDIRECT, 0);
    guest.entry(DATA, 0, (DATA, 4), NEXT, 2);
    guest.make_available(0);
    let error = RingError::DescriptorOutOfRange { next: 2, entries: 2 };
    assert_retires(&mut guest.queue(), error);
}

#[test]
fn loops_end() {
    let mut guest = Guest::new(8);
    guest.descriptor(0, (DATA, 4), NEXT, 1);
    guest.descriptor(1, (DATA, 4), NEXT, 0);
    guest.make_available(0);
    assert_retires(&mut guest.queue(), RingError::ChainTooLong { limit: 8 });

    // Of empty buffers, in a table, and longer than the shortest limit.
    for (size, limit) in [(8, 1024), (1024, 1024), (4096, 4096)] {
        let mut guest = Guest::new(size);
        guest.descriptor(0, (DATA, 16), INDIRECT, 0);
        guest.entry(DATA, 0, (DATA, 0), NEXT, 0);
        guest.make_available(0);
        assert_retires(&mut guest.queue(), RingError::ChainTooLong { limit });
    }
}

#[test]
fn a_chain_as_long_as_the_queue_is_fine() {
    for size in [1u16, 2, 1024] {
        let mut guest = Guest::new(size);
        for i in 0..size {
            let next = if i + 1 < size { NEXT } else { 0 };
            guest.descriptor(i, (DATA + u64::from(i), 1), next, i + 1);
        }
        guest.make_available(0);
        let chain = guest.queue().pop().unwrap().unwrap();
        assert_eq!((chain.readable.len(), chain.writable.len()), (size.into(), 0));
        assert_eq!(chain.head.id(), 0);
    }
}

#[test]
fn an_indirect_table_may_be_longer_than_a_small_queue() {
    for (size, entries) in [(4u16, 1024u16), (2048, 2048)] {
        let mut guest = Guest::new(size);
        guest.descriptor(0, (DATA, 16 * u32::from(entries)), INDIRECT, 0);
        for i in 0..entries {
            let next = if i + 1 < entries { NEXT } else { 0 };
            guest.entry(DATA, i, (DATA, 1), next | WRITE, i + 1);
        }
        guest.make_available(0);
        let mut queue = guest.queue();
        let chain = queue.pop().unwrap().unwrap();
        assert_eq!((chain.readable.len(), chain.writable.len()), (0, entries.into()));
        // One more, and it is too long.
        let last = entries - 1;
        guest.entry(DATA, last, (DATA, 1), NEXT | WRITE, 0);
        guest.make_available(0);
        queue.push(chain.head, 0);
        assert_retires(&mut queue, RingError::ChainTooLong { limit: entries });
    }
}

#[test]
fn indirect_without_the_feature() {
    let mut guest = Guest::new(8);
    guest.descriptor(0, (DATA, 16), INDIRECT, 0);
    guest.make_available(0);
    let config = zvb_ring::QueueConfig { indirect: false, ..guest.config() };
    assert_retires(&mut guest.queue_with(config).unwrap(), RingError::IndirectNotNegotiated);
}

#[test]
fn indirect_in_indirect() {
    let mut guest = Guest::new(8);
    guest.descriptor(0, (DATA, 16), INDIRECT, 0);
    guest.entry(DATA, 0, (DATA + 64, 16), INDIRECT, 0);
    guest.make_available(0);
    assert_retires(&mut guest.queue(), RingError::IndirectNested);
}

#[test]
fn indirect_with_next() {
    let mut guest = Guest::new(8);
    guest.descriptor(0, (DATA, 16), INDIRECT | NEXT, 1);
    guest.make_available(0);
    assert_retires(&mut guest.queue(), RingError::IndirectWithNext);
}

#[test]
fn indirect_of_an_odd_length() {
    for len in [0, 1, 15, 17, u32::MAX] {
        let mut guest = Guest::new(8);
        guest.descriptor(0, (DATA, len), INDIRECT, 0);
        guest.make_available(0);
        assert_retires(&mut guest.queue(), RingError::IndirectLength { len });
    }
}

#[test]
fn indirect_after_direct_and_with_a_meaningless_write_flag() {
    // An odd address as well: the specification asks for no alignment of indirect tables.
    for table in [DATA + 0x100, DATA + 0x101, DATA + 0x102, DATA + 0x104] {
        let mut guest = Guest::new(4);
        guest.descriptor(2, (DATA, 8), NEXT, 0);
        guest.descriptor(0, (DATA + 8, 8), NEXT, 3);
        guest.descriptor(3, (table, 48), INDIRECT | WRITE, 0);
        guest.entry(table, 0, (DATA + 16, 4), NEXT, 2);
        guest.entry(table, 2, (DATA + 32, 5), NEXT | WRITE, 1);
        guest.entry(table, 1, (DATA + 64, 6), WRITE, 77);
        guest.write(DATA, b"directlyindirecttail");
        guest.make_available(2);
        let chain = guest.queue().pop().unwrap().unwrap();
        let mut bytes = [0; 20];
        chain.readable.read(0, &mut bytes).unwrap();
        assert_eq!(&bytes, b"directlyindirecttail");
        assert_eq!((chain.readable.len(), chain.writable.len()), (20, 11));
    }
}

#[test]
fn readable_after_writable() {
    for len in [0, 4] {
        let mut guest = Guest::new(8);
        guest.descriptor(0, (DATA, 4), WRITE | NEXT, 1);
        guest.descriptor(1, (DATA, len), 0, 0);
        guest.make_available(0);
        assert_retires(&mut guest.queue(), RingError::ReadableAfterWritable);
    }
    let mut guest = Guest::new(8);
    guest.descriptor(0, (DATA, 4), WRITE | NEXT, 1);
    guest.descriptor(1, (DATA + 64, 16), INDIRECT, 0);
    guest.entry(DATA + 64, 0, (DATA, 4), 0, 0);
    guest.make_available(0);
    assert_retires(&mut guest.queue(), RingError::ReadableAfterWritable);
}

#[test]
fn buffers_outside_memory() {
    for (address, len) in
        [(0, 1), (BASE - 1, 2), (BASE + LEN - 1, 2), (u64::MAX, 2), (BASE, 1u32 << 31)]
    {
        for flags in [0, WRITE, INDIRECT] {
            let len = if flags == INDIRECT { len.next_multiple_of(16) } else { len };
            let mut guest = Guest::new(8);
            guest.descriptor(0, (address, len), flags, 0);
            guest.make_available(0);
            assert_retires(&mut guest.queue(), RingError::NotMemory { address, len });
        }
    }
}

#[test]
fn empty_buffers_are_no_sin_wherever_they_point() {
    let mut guest = Guest::new(8);
    guest.descriptor(0, (0, 0), NEXT, 1);
    guest.descriptor(1, (DATA, 3), NEXT, 2);
    guest.descriptor(2, (u64::MAX, 0), NEXT | WRITE, 3);
    guest.descriptor(3, (DATA, 2), WRITE, 0);
    guest.make_available(0);
    let chain = guest.queue().pop().unwrap().unwrap();
    assert_eq!((chain.readable.len(), chain.writable.len()), (3, 2));
}

/// Memory of any length at every address, in regions of 1 MiB that are all the same megabyte.
struct Endless(HeapMemory);

// SAFETY: what `HeapMemory` promises.
#[expect(unsafe_code, reason = "a map of guest memory is a promise")]
unsafe impl zvb_ring::GuestMemory for Endless {
    fn translate(&self, address: u64, len: u64) -> Option<(std::ptr::NonNull<u8>, u64)> {
        self.0.translate(BASE + address % LEN, len)
    }
}

#[test]
fn chains_of_four_gigabytes() {
    let memory = || Rc::new(Endless(HeapMemory::new(BASE, LEN as usize)));
    let half = 1u32 << 31;
    for (first, second, flags, good) in [
        (half, half - 1, 0, true),
        (half, half, 0, false),
        (half, half - 1, WRITE, true),
        (half, half, WRITE, false),
        (u32::MAX, 1, WRITE, false),
        (u32::MAX, 0, WRITE, true),
    ] {
        let mut guest = Guest::over(memory(), 8);
        guest.descriptor(0, (0, first), NEXT, 1);
        guest.descriptor(1, (0, second), flags, 0);
        guest.make_available(0);
        let mut queue = guest.queue();
        if good {
            let chain = queue.pop().unwrap().unwrap();
            let total = chain.readable.len() + chain.writable.len();
            assert_eq!(total, u64::from(first) + u64::from(second));
        } else {
            assert_retires(&mut queue, RingError::TooLong);
        }
    }
}

#[test]
fn pieces_in_flight_are_limited() {
    // 4096 pieces per chain: the driver's memory is in small regions.
    let mut guest = Guest::over(Rc::new(Endless(HeapMemory::new(BASE, LEN as usize))), 1024);
    let mut queue = guest.queue();
    let mut chains = Vec::new();
    let limit = 1024 * 1024;
    for head in 0..1024 {
        guest.descriptor(head, (0, u32::MAX), 0, 0);
        guest.make_available(head);
        match queue.pop() {
            Ok(chain) => chains.extend(chain),
            Err(error) => {
                assert_eq!(error, RingError::TooManyPieces { limit });
                break;
            }
        }
    }
    assert_eq!(chains.len(), 256);
    assert_eq!(queue.in_flight(), 256);

    // What is answered counts no more.
    let mut queue = guest.queue();
    guest.set_index(0);
    for _ in 0..1000 {
        guest.make_available(0);
        let chain = queue.pop().unwrap().unwrap();
        queue.push(chain.head, 0);
        assert!(queue.publish());
    }
}

#[test]
fn rings_that_are_not_where_they_should_be() {
    let guest = Guest::new(8);
    let good = guest.config();
    let refused = |config| guest.queue_with(config).unwrap_err();
    for size in [0, 3, 12, 32769, u16::MAX] {
        let config = zvb_ring::QueueConfig { size, ..good };
        assert_eq!(refused(config), SetupError::Size { size });
    }
    let at = |part, address| match part {
        Part::Descriptors => zvb_ring::QueueConfig { descriptors: address, ..good },
        Part::Available => zvb_ring::QueueConfig { available: address, ..good },
        Part::Used => zvb_ring::QueueConfig { used: address, ..good },
    };
    for (part, align, len) in
        [(Part::Descriptors, 16, 128), (Part::Available, 2, 22), (Part::Used, 4, 70)]
    {
        for address in [BASE + 1, BASE + align / 2] {
            let error = SetupError::Misaligned { part, address, align };
            assert_eq!(refused(at(part, address)), error);
        }
        let end = (BASE + LEN - len) / align * align;
        assert!(guest.queue_with(at(part, end)).is_ok());
        for address in [0, BASE - align, end + align, u64::MAX / align * align] {
            let error = SetupError::NotMemory { part, address, len };
            assert_eq!(refused(at(part, address)), error);
        }
    }
    // `Endless` is in regions of 1 MiB.
    let memory = Rc::new(Endless(HeapMemory::new(BASE, LEN as usize)));
    let address = LEN - 64;
    let config = zvb_ring::QueueConfig { descriptors: address, available: 0, used: 0x100, ..good };
    let error = SetupError::Straddles { part: Part::Descriptors, address, len: 128 };
    assert_eq!(DeviceQueue::new(memory, config).unwrap_err(), error);
}

#[test]
fn memory_mapped_at_an_odd_place() {
    struct Odd(HeapMemory);
    // SAFETY: what `HeapMemory` promises.
    #[expect(unsafe_code, reason = "a map of guest memory is a promise")]
    unsafe impl zvb_ring::GuestMemory for Odd {
        fn translate(&self, address: u64, len: u64) -> Option<(std::ptr::NonNull<u8>, u64)> {
            self.0.translate(address.checked_add(1)?, len)
        }
    }
    let guest = Guest::over(Rc::new(Odd(HeapMemory::new(BASE, LEN as usize))), 8);
    let error = SetupError::HostMisaligned {
        part: Part::Descriptors,
        address: guest.descriptors,
        align: 4,
    };
    assert_eq!(guest.queue_with(guest.config()).unwrap_err(), error);
    assert_eq!(DeviceQueue::used_index(&*guest.memory, guest.used), None);
}

#[test]
fn a_table_across_regions_is_read_whole() {
    let mut guest = Guest::over(Rc::new(Endless(HeapMemory::new(BASE, LEN as usize))), 8);
    // The first entry ends region 0; the second is half in it; the third begins region 1.
    let table = BASE + LEN - 24;
    guest.descriptor(0, (table, 48), INDIRECT, 0);
    guest.entry(table, 0, (DATA, 1), NEXT, 1);
    guest.entry(table, 1, (DATA, 2), NEXT, 2);
    guest.entry(table, 2, (DATA, 4), WRITE, 0);
    guest.make_available(0);
    let mut queue = guest.queue();
    let chain = queue.pop().unwrap().unwrap();
    assert_eq!((chain.readable.len(), chain.writable.len()), (3, 4));
}

#[test]
fn a_queue_goes_on_where_another_left_off() {
    let mut guest = Guest::new(8);
    guest.set_index(0xfffe);
    guest.set_used_index(0xfffd);
    for head in 0..3 {
        guest.descriptor(head, (DATA, 1), WRITE, 0);
        guest.make_available(head);
    }
    let next_used = DeviceQueue::used_index(&*guest.memory, guest.used).unwrap();
    assert_eq!(next_used, 0xfffd);
    let config = zvb_ring::QueueConfig { next_available: 0xfffe, next_used, ..guest.config() };
    let mut queue = guest.queue_with(config).unwrap();
    assert_eq!(queue.pending(), 3);
    let chain = queue.pop().unwrap().unwrap();
    // The map changes under way; what is in flight still holds the old one.
    let other = Guest::new(8);
    queue.set_memory(Rc::clone(&other.memory)).unwrap();
    assert_eq!((queue.next_available(), queue.next_used(), queue.in_flight()), (0xffff, 0xfffd, 1));
    chain.writable.write(0, b"x").unwrap();
    queue.push(chain.head, 1);
    assert!(queue.publish());
    assert_eq!((other.used_index(), other.used_element(0xfffd)), (0xfffe, (0, 1)));
    assert_eq!(guest.read(DATA, 1), b"x");
    assert_eq!(guest.used_index(), 0xfffd);
    // A map without the rings changes nothing.
    let elsewhere = Rc::new(HeapMemory::new(0, 16));
    assert!(queue.set_memory(elsewhere).is_err());
    assert_eq!(queue.next_used(), 0xfffe);
    assert_eq!(DeviceQueue::used_index(&*guest.memory, 0), None);
}
