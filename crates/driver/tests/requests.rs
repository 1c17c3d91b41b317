//! Requests, byte for byte as the device sees them, and those that are never sent.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod fake;

use std::rc::Rc;

use fake::{Fake, FakeDriver, Memory, drive, probe};
use zvb_driver::{
    Answer, Buffer, Completion, Features, Invalid, NoMemory, Options, Queue, Request, RequestType,
    Sector, SectorRange, SubmitError, Transport,
};

/// Sends one request and waits for its completion.
fn run(disk: &mut FakeDriver, request: Request<Memory>) -> Completion<Memory> {
    let token = disk.submit(0, request).unwrap();
    disk.wait(0, None).unwrap();
    let completion = disk.poll(0).unwrap().expect("an answer");
    assert_eq!(completion.token, token);
    assert_eq!(disk.in_flight(0), 0);
    completion
}

fn filled(disk: &FakeDriver, len: usize, byte: u8) -> Buffer<Memory> {
    let mut buffer = disk.buffer(len).unwrap();
    buffer.fill(byte);
    buffer
}

fn header(kind: u8, sector: u8) -> Vec<u8> {
    vec![kind, 0, 0, 0, 0, 0, 0, 0, sector, 0, 0, 0, 0, 0, 0, 0]
}

#[test]
fn each_request_is_what_the_specification_says_byte_for_byte() {
    let fake = Fake::zoned();
    let mut disk = drive(&fake);
    let seen = |readable: Vec<u8>, writable: u64| {
        let mut fake = fake.borrow_mut();
        let seen = fake.seen.pop().expect("a request");
        assert_eq!((seen.queue, seen.readable, seen.writable), (0, readable, writable));
        assert!(fake.seen.is_empty());
    };
    let with = |mut header: Vec<u8>, len: usize, byte: u8| {
        header.resize(header.len() + len, byte);
        header
    };

    let buffer = filled(&disk, 1024, 0xa5);
    assert_eq!(run(&mut disk, Request::Write { at: Sector(24), buffer }).result, Ok(Answer::Done));
    seen(with(header(1, 24), 1024, 0xa5), 1);

    let buffer = disk.buffer(1536).unwrap();
    let completion = run(&mut disk, Request::Read { at: Sector(24), buffer });
    assert_eq!((completion.result, completion.bytes), (Ok(Answer::Done), 1536));
    let buffer = completion.buffer.unwrap();
    assert!(buffer[..1024].iter().all(|b| *b == 0xa5) && buffer[1024..].iter().all(|b| *b == 0));
    seen(header(0, 24), 1537);

    let buffer = filled(&disk, 2048, 0x5a);
    let completion = run(&mut disk, Request::Append { zone: Sector(24), buffer });
    assert_eq!(completion.result, Ok(Answer::Appended(Sector(26))));
    assert_eq!(completion.buffer.unwrap().len(), 2048);
    seen(with(header(15, 24), 2048, 0x5a), 9);

    let buffer = disk.buffer(64 + 2 * 64 + 63).unwrap();
    let completion = run(&mut disk, Request::Report { from: Sector(30), buffer });
    let Ok(Answer::Zones(zones)) = completion.result else { panic!("{completion:?}") };
    assert_eq!(zones.iter().map(|z| z.start.0).collect::<Vec<_>>(), [24, 48]);
    assert_eq!(zones[0].write_pointer, Some(Sector(30)));
    assert_eq!(zones[0].remaining(), Sector(10));
    seen(header(16, 30), 256);

    let zone = Sector(48);
    for (request, kind) in [
        (Request::Open { zone }, 18),
        (Request::Close { zone }, 20),
        (Request::Finish { zone }, 22),
        (Request::Reset { zone }, 24),
    ] {
        assert_eq!(run(&mut disk, request).result, Ok(Answer::Done));
        seen(header(kind, 48), 1);
    }
    for (request, kind) in [(Request::ResetAll, 26), (Request::Flush, 4)] {
        assert_eq!(run(&mut disk, request).result, Ok(Answer::Done));
        seen(header(kind, 0), 1);
    }

    let id = run(&mut disk, Request::Id);
    assert_eq!(id.result, Ok(Answer::Id(*b"fake disk\0\0\0\0\0\0\0\0\0\0\0")));
    seen(header(8, 0), 21);

    let ranges = vec![SectorRange { at: Sector(2), sectors: 3 }];
    let request = Request::WriteZeroes { ranges, unmap: true };
    assert_eq!(run(&mut disk, request).result, Ok(Answer::Done));
    let mut bytes = header(13, 0);
    bytes.extend([2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0]);
    seen(bytes, 1);
}

#[test]
fn a_discard_has_its_ranges_and_no_flag() {
    let fake = Fake::plain();
    let mut disk = drive(&fake);
    let ranges = vec![
        SectorRange { at: Sector(8), sectors: 64 },
        SectorRange { at: Sector(96), sectors: 1 },
    ];
    assert_eq!(run(&mut disk, Request::Discard { ranges }).result, Ok(Answer::Done));
    let mut bytes = header(11, 0);
    bytes.extend([8, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend([96, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(fake.borrow().seen[0].readable, bytes);
    let live = fake.borrow().memory.live();
    // The memory of the ranges came back.
    drop(disk);
    assert_eq!((live, fake.borrow().memory.live()), (3, 0));
}

#[test]
fn an_erase_and_a_lifetime_are_what_the_specification_says() {
    let fake = Fake::plain();
    {
        let mut fake = fake.borrow_mut();
        fake.offered |= Features::SECURE_ERASE | Features::LIFETIME;
        fake.config.max_secure_erase_sectors = 8.into();
        fake.config.max_secure_erase_seg = 1.into();
    }
    let options = Options { features: Features::all(), ..Options::default() };
    let mut disk = probe(&fake, &options).unwrap();
    let ranges = vec![SectorRange { at: Sector(3), sectors: 7 }];
    disk.secure_erase(ranges).unwrap();
    disk.lifetime().unwrap();
    let mut bytes = header(14, 0);
    bytes.extend([3, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
    let seen = &fake.borrow().seen;
    assert_eq!((&seen[0].readable, seen[0].writable), (&bytes, 1));
    assert_eq!((&seen[1].readable, seen[1].writable), (&header(10, 0), 7));
}

/// Conformance 154.
#[test]
fn segments_keep_to_the_limits_with_tables_and_without() {
    for tables in [true, false] {
        let fake = Fake::zoned();
        {
            let mut fake = fake.borrow_mut();
            fake.offered |= Features::SIZE_MAX | Features::SEG_MAX;
            fake.offered.set(Features::INDIRECT_DESC, tables);
            fake.config.size_max = 1100.into();
            fake.config.seg_max = 3.into();
        }
        let mut disk = drive(&fake);
        assert_eq!(disk.info().max_transfer, 3072);
        let buffer = filled(&disk, 2560, 1);
        run(&mut disk, Request::Write { at: Sector(0), buffer });
        let buffer = filled(&disk, 3072, 1);
        run(&mut disk, Request::Read { at: Sector(0), buffer });
        let seen = &fake.borrow().seen;
        assert_eq!(seen[0].segments, (vec![16, 1024, 1024, 512], vec![1]));
        assert_eq!(seen[1].segments, (vec![16], vec![1024, 1024, 1024, 1]));
    }
}

#[test]
fn what_must_not_be_sent_is_given_back() {
    let fake = Fake::zoned();
    let mut disk = drive(&fake);
    let mut invalid = |make: &dyn Fn(&FakeDriver) -> Request<Memory>| {
        let request = make(&disk);
        let rejected = disk.submit(0, request).unwrap_err();
        assert!(!rejected.error.retry());
        match rejected.error {
            SubmitError::Invalid(invalid) => invalid,
            other => panic!("{other}"),
        }
    };
    let at = Sector(24);
    let misaligned = |at, bytes, unit| Invalid::Misaligned { at, bytes, unit };
    let past = |at, sectors| Invalid::PastCapacity {
        at: Sector(at),
        sectors: Sector(sectors),
        capacity: Sector(108),
    };
    let read = |at, len| {
        move |d: &FakeDriver| Request::Read { at: Sector(at), buffer: d.buffer(len).unwrap() }
    };
    let append = |at, len| {
        move |d: &FakeDriver| Request::Append { zone: Sector(at), buffer: d.buffer(len).unwrap() }
    };
    assert_eq!(invalid(&read(0, 0)), Invalid::Empty);
    assert_eq!(invalid(&read(24, 100)), misaligned(at, 100, 512));
    assert_eq!(invalid(&read(107, 1024)), past(107, 2));
    assert_eq!(invalid(&read(u64::MAX / 512, 512)), past(u64::MAX / 512, 1));
    assert_eq!(invalid(&read(u64::MAX, 512)), misaligned(Sector(u64::MAX), 512, 512));
    assert_eq!(invalid(&append(25, 1024)), Invalid::NotZoneStart(Sector(25)));
    assert_eq!(invalid(&append(120, 1024)), past(120, 1));
    assert_eq!(invalid(&append(24, 512)), misaligned(Sector(24), 512, 1024));
    assert_eq!(
        invalid(&append(24, 5120)),
        Invalid::AppendTooLong { sectors: Sector(10), max: Sector(8) }
    );
    assert_eq!(
        invalid(&|d| Request::Report { from: at, buffer: d.buffer(127).unwrap() }),
        Invalid::ReportTooSmall(127)
    );
    assert_eq!(
        invalid(&|d| Request::Report { from: Sector(108), buffer: d.buffer(128).unwrap() }),
        past(108, 1)
    );
    assert_eq!(invalid(&|_| Request::Reset { zone: Sector(1) }), Invalid::NotZoneStart(Sector(1)));
    assert_eq!(invalid(&|_| Request::Open { zone: Sector(108) }), past(108, 1));
    assert_eq!(
        invalid(&|_| Request::Discard { ranges: Vec::new() }),
        Invalid::Unsupported(RequestType::DISCARD)
    );
    let zeroes = |list: &[(u64, u32)]| {
        let ranges = list.iter().map(|r| SectorRange { at: Sector(r.0), sectors: r.1 }).collect();
        move |_: &FakeDriver| Request::WriteZeroes { ranges: Clone::clone(&ranges), unmap: false }
    };
    assert_eq!(invalid(&zeroes(&[])), Invalid::Empty);
    assert_eq!(invalid(&zeroes(&[(0, 1), (2, 1)])), Invalid::TooManyRanges { count: 2, max: 1 });
    assert_eq!(invalid(&zeroes(&[(0, 33)])), Invalid::TooLong { bytes: 33 * 512, max: 32 * 512 });
    assert_eq!(invalid(&zeroes(&[(108, 1)])), past(108, 1));
    assert_eq!(invalid(&zeroes(&[(1, 0)])), Invalid::Empty);

    // The request is given back whole; nothing was sent, and nothing is lost.
    let rejected = disk.submit(1, Request::Flush).unwrap_err();
    assert_eq!(rejected.error, SubmitError::Invalid(Invalid::NoSuchQueue(1)));
    assert!(matches!(rejected.request, Request::Flush));
    let buffer = filled(&disk, 100, 9);
    let rejected = disk.submit(0, Request::Write { at, buffer }).unwrap_err();
    assert_eq!(rejected.request.into_buffer().unwrap()[..], [9; 100]);
    assert_eq!((disk.in_flight(0), fake.borrow().seen.len()), (0, 0));
}

#[test]
fn what_the_device_does_not_have_is_not_asked_for() {
    let unsupported = |disk: &mut FakeDriver, request: Request<Memory>| {
        disk.submit(0, request).unwrap_err().error
    };
    let no = |kind| SubmitError::Invalid(Invalid::Unsupported(kind));
    let fake = Fake::plain();
    fake.borrow_mut().offered = Features::VERSION_1;
    let mut disk = drive(&fake);
    let zone = Sector(0);
    assert_eq!(unsupported(&mut disk, Request::Flush), no(RequestType::FLUSH));
    assert_eq!(unsupported(&mut disk, Request::Open { zone }), no(RequestType::ZONE_OPEN));
    assert_eq!(unsupported(&mut disk, Request::Close { zone }), no(RequestType::ZONE_CLOSE));
    assert_eq!(unsupported(&mut disk, Request::Finish { zone }), no(RequestType::ZONE_FINISH));
    assert_eq!(unsupported(&mut disk, Request::Reset { zone }), no(RequestType::ZONE_RESET));
    assert_eq!(unsupported(&mut disk, Request::ResetAll), no(RequestType::ZONE_RESET_ALL));
    let buffer = disk.buffer(1024).unwrap();
    assert_eq!(
        unsupported(&mut disk, Request::Append { zone, buffer }),
        no(RequestType::ZONE_APPEND)
    );
    let buffer = disk.buffer(1024).unwrap();
    assert_eq!(
        unsupported(&mut disk, Request::Report { from: zone, buffer }),
        no(RequestType::ZONE_REPORT)
    );
    assert!(disk.zones().is_err());

    let fake = Fake::zoned();
    {
        let mut fake = fake.borrow_mut();
        fake.offered |= Features::RO;
        fake.config.zoned.max_append_sectors = 0.into();
    }
    let mut disk = drive(&fake);
    assert!(disk.info().read_only);
    let buffer = disk.buffer(1024).unwrap();
    assert_eq!(
        unsupported(&mut disk, Request::Append { zone: Sector(24), buffer }),
        no(RequestType::ZONE_APPEND)
    );
    let read_only = SubmitError::Invalid(Invalid::ReadOnly);
    let buffer = disk.buffer(1024).unwrap();
    assert_eq!(unsupported(&mut disk, Request::Write { at: zone, buffer }), read_only);
    assert_eq!(unsupported(&mut disk, Request::ResetAll), read_only);
    assert_eq!(unsupported(&mut disk, Request::Reset { zone }), read_only);
    assert!(fake.borrow().seen.is_empty());
}

#[test]
fn a_full_queue_says_so_and_takes_more_after_a_poll() {
    for (tables, depth) in [(true, 8), (false, 2)] {
        let fake = Fake::zoned();
        fake.borrow_mut().offered.set(Features::INDIRECT_DESC, tables);
        let options = Options { queue_size: 8, ..Options::default() };
        let mut disk = probe(&fake, &options).unwrap();
        assert_eq!(disk.depth(0), depth);
        let mut tokens = Vec::new();
        for _ in 0..depth {
            let buffer = disk.buffer(512).unwrap();
            tokens.push(disk.submit(0, Request::Read { at: Sector(0), buffer }).unwrap());
        }
        let slots: std::collections::BTreeSet<_> = tokens.iter().map(|t| t.slot()).collect();
        assert!(slots.iter().copied().eq(0..depth));
        let rejected = disk.submit(0, Request::Flush).unwrap_err();
        assert_eq!(rejected.error, SubmitError::QueueFull);
        assert!(rejected.error.retry());
        // Nothing is seen before the kick, and one kick is enough for all.
        assert!(disk.poll(0).unwrap().is_none());
        assert_eq!(fake.borrow().notifications, 0);
        fake.borrow_mut().reverse = true;
        disk.kick(0).unwrap();
        disk.kick(0).unwrap();
        assert_eq!(fake.borrow().notifications, 1);
        fake.borrow_mut().turn(0);
        for token in tokens.iter().rev() {
            assert_eq!(disk.poll(0).unwrap().expect("an answer").token, *token);
            assert!(disk.submit(0, Request::Flush).is_ok());
        }
        assert_eq!(disk.in_flight(0), depth);
    }
}

#[test]
fn what_is_answered_already_is_not_waited_for() {
    for event_index in [true, false] {
        let fake = Fake::zoned();
        fake.borrow_mut().offered.set(Features::EVENT_IDX, event_index);
        let mut disk = drive(&fake);
        // Twice: a signal for the first may have been wanted from the start.
        for _ in 0..2 {
            disk.submit(0, Request::Flush).unwrap();
            disk.kick(0).unwrap();
            let signal = fake.borrow_mut().turn(0);
            // Whoever polls wants no signals; with the event index, one may come in 65536 answers.
            assert!(!signal || event_index);
            // To wait now would be to wait for ever, and the fake says so.
            disk.wait(0, None).unwrap();
            assert!(disk.poll(0).unwrap().is_some());
        }
    }
}

#[test]
fn no_memory_is_no_failure() {
    let fake = Fake::plain();
    let mut disk = drive(&fake);
    fake.borrow().memory.limit(1024);
    let buffer = disk.buffer(1024).unwrap();
    assert_eq!(disk.buffer(1).unwrap_err(), NoMemory);
    let ranges = vec![SectorRange { at: Sector(0), sectors: 1 }];
    let rejected = disk.submit(0, Request::Discard { ranges }).unwrap_err();
    assert_eq!(rejected.error, SubmitError::NoMemory(NoMemory));
    assert!(rejected.error.retry());
    // Nothing else needs any.
    assert!(run(&mut disk, Request::Read { at: Sector(0), buffer }).result.is_ok());
    fake.borrow().memory.limit(1024);
    assert!(disk.submit(0, rejected.request).is_ok());
}

#[test]
fn a_buffer_transfers_what_its_length_says() {
    let fake = Fake::plain();
    let mut disk = drive(&fake);
    let mut buffer = disk.buffer(4096).unwrap();
    assert!(buffer.iter().all(|b| *b == 0));
    buffer.set_len(512);
    buffer.fill(3);
    assert_eq!((buffer.len(), buffer.capacity(), buffer.is_empty()), (512, 4096, false));
    let completion = run(&mut disk, Request::Write { at: Sector(1), buffer });
    assert_eq!(fake.borrow().seen[0].readable.len(), 16 + 512);
    let mut buffer = completion.buffer.unwrap();
    buffer.set_len(4096);
    assert!(buffer[512..].iter().all(|b| *b == 0));
}

#[test]
fn queues_are_apart() {
    let fake = Fake::zoned();
    {
        let mut fake = fake.borrow_mut();
        fake.offered |= Features::MQ;
        fake.config.num_queues = 2.into();
    }
    let options = Options { queues: 4, ..Options::default() };
    let mut disk = probe(&fake, &options).unwrap();
    let mut queues: Vec<_> = disk.queues().collect();
    assert_eq!(queues.len(), 2);
    for queue in &mut queues {
        assert_eq!(queue.depth(), 256);
        queue.submit(Request::Flush).unwrap();
    }
    queues[1].wait(None).unwrap();
    assert!(queues[1].poll().unwrap().is_some());
    assert!(queues[0].poll().unwrap().is_none());
    assert_eq!((queues[0].in_flight(), queues[1].in_flight()), (1, 0));
    assert_eq!(queues[1].index(), 1);
    assert_eq!(queues[1].id().unwrap()[..4], *b"fake");
    assert!(fake.borrow().seen.iter().all(|seen| seen.queue == 1));
}

#[test]
fn a_queue_can_go_to_another_thread_where_its_parts_can() {
    fn sendable<T: Send>() {}
    fn check<T: Transport + Sync, D: zvb_driver::Dma + Send + Sync>() {
        sendable::<Queue<'_, T, D>>();
        sendable::<Buffer<D>>();
        sendable::<Completion<D>>();
    }
    // To name it is to prove it, for all such types.
    let _ = check::<NeverTransport, NeverDma>;
}

use never::{NeverDma, NeverTransport};

mod never {
    #![expect(unsafe_code, reason = "an allocator that never gives")]

    use zvb_driver::{Dma, DmaRegion, Features, QueueLayout, Transport};
    use zvb_wire::DeviceStatus;

    #[derive(Clone)]
    pub(super) enum NeverDma {}

    // SAFETY: there is no value of it.
    unsafe impl Dma for NeverDma {
        fn alloc(&self, _: usize, _: usize) -> Option<DmaRegion> {
            match *self {}
        }
        unsafe fn free(&self, _: DmaRegion) {
            match *self {}
        }
    }

    pub(super) enum NeverTransport {}

    impl Transport for NeverTransport {
        type Error = core::fmt::Error;
        fn reset(&mut self) -> Result<(), Self::Error> {
            match *self {}
        }
        fn status(&mut self) -> Result<DeviceStatus, Self::Error> {
            match *self {}
        }
        fn set_status(&mut self, _: DeviceStatus) -> Result<(), Self::Error> {
            match *self {}
        }
        fn device_features(&mut self) -> Result<Features, Self::Error> {
            match *self {}
        }
        fn set_driver_features(&mut self, _: Features) -> Result<(), Self::Error> {
            match *self {}
        }
        fn config_generation(&mut self) -> Result<u32, Self::Error> {
            match *self {}
        }
        fn config_len(&mut self) -> Result<u32, Self::Error> {
            match *self {}
        }
        fn read_config(&mut self, _: u32, _: &mut [u8]) -> Result<(), Self::Error> {
            match *self {}
        }
        fn write_config(&mut self, _: u32, _: &[u8]) -> Result<(), Self::Error> {
            match *self {}
        }
        fn max_queues(&mut self) -> Result<u16, Self::Error> {
            match *self {}
        }
        fn max_queue_size(&mut self, _: u16) -> Result<u16, Self::Error> {
            match *self {}
        }
        fn set_up_queue(&mut self, _: u16, _: &QueueLayout) -> Result<(), Self::Error> {
            match *self {}
        }
        fn notify(&self, _: u16) -> Result<(), Self::Error> {
            match *self {}
        }
        fn wait(&self, _: u16, _: Option<u32>) -> Result<(), Self::Error> {
            match *self {}
        }
    }
}

#[test]
fn a_transport_can_be_lent() {
    let fake = Fake::zoned();
    let mut wire = fake::Wire(Rc::clone(&fake));
    let memory = fake.borrow().memory.clone();
    for _ in 0..2 {
        let mut disk =
            zvb_driver::Disk::probe(&mut wire, memory.clone(), &Options::default()).unwrap();
        disk.flush().unwrap();
    }
    // The zones and a flush, twice.
    assert_eq!(fake.borrow().seen.len(), 4);
}
