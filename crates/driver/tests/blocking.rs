//! The blocking calls: cut to the device's limits, several deep, and fair to what else is in flight.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod fake;

use fake::{Fake, drive, probe, tamper};
use zvb_driver::{
    Answer, Condition, Error, Features, Invalid, Options, Request, RequestError, Sector, ZoneType,
};

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 512 * 31 + i) as u8).collect()
}

#[test]
fn zones_live_and_are_reported_whole() {
    let fake = Fake::zoned();
    let mut disk = drive(&fake);
    disk.open(Sector(24)).unwrap();
    assert_eq!(disk.append(Sector(24), &pattern(2048)).unwrap(), Sector(24));
    disk.write(Sector(48), &pattern(1024)).unwrap();
    disk.close(Sector(48)).unwrap();
    disk.finish(Sector(72)).unwrap();
    let zones = disk.zones().unwrap();
    let told: Vec<_> =
        zones.iter().map(|z| (z.start.0, z.len.0, z.capacity.0, z.condition)).collect();
    assert_eq!(
        told,
        [
            (0, 24, 24, Condition::NotWp),
            (24, 24, 16, Condition::ExplicitOpen),
            (48, 24, 16, Condition::Closed),
            (72, 24, 16, Condition::Full),
            (96, 12, 12, Condition::Empty),
        ]
    );
    let pointers: Vec<_> = zones.iter().map(|z| z.write_pointer.map(|s| s.0)).collect();
    assert_eq!(pointers, [None, Some(28), Some(50), None, Some(96)]);
    assert_eq!(zones[0].zone_type, ZoneType::Conventional);
    assert_eq!(zones[1].zone_type, ZoneType::SequentialRequired);

    disk.reset(Sector(72)).unwrap();
    assert_eq!(disk.zones().unwrap()[3].condition, Condition::Empty);
    disk.reset_all().unwrap();
    assert!(disk.zones().unwrap()[1..].iter().all(|z| z.condition == Condition::Empty));
    let error = disk.write(Sector(26), &pattern(1024)).unwrap_err();
    assert!(matches!(error, Error::Request(RequestError::UnalignedWritePointer)));
    let error = disk.close(Sector(0)).unwrap_err();
    assert!(matches!(error, Error::Request(RequestError::InvalidCommand)));
    disk.flush().unwrap();
    assert_eq!(disk.id().unwrap()[..9], *b"fake disk");
}

#[test]
fn all_zones_are_told_of_however_small_the_buffer() {
    let fake = Fake::zoned();
    {
        let mut fake = fake.borrow_mut();
        fake.offered |= Features::SIZE_MAX | Features::SEG_MAX;
        fake.config.size_max = 512.into();
        fake.config.seg_max = 1.into();
    }
    let mut disk = drive(&fake);
    let all = disk.zones().unwrap();
    assert_eq!(all.len(), 5);
    for (max, reports) in [(1, 1), (2, 1), (5, 1), (u32::MAX, 1)] {
        fake.borrow_mut().seen.clear();
        let mut told = Vec::new();
        let count = disk.report(Sector(0), max, |zone| told.push(zone)).unwrap();
        assert_eq!(count as usize, told.len());
        assert_eq!(told, all[..told.len().min(max as usize)]);
        assert_eq!(fake.borrow().seen.len(), reports);
    }
    let mut told = Vec::new();
    assert_eq!(disk.report(Sector(75), 9, |zone| told.push(zone)).unwrap(), 2);
    assert_eq!(told, all[3..]);
    assert_eq!(disk.report(Sector(0), 0, |_| panic!("none was asked for")).unwrap(), 0);
}

#[test]
fn many_zones_take_many_reports() {
    let fake = Fake::zoned();
    {
        let mut fake = fake.borrow_mut();
        fake.config.capacity = (2500 * 2).into();
        fake.config.zoned.zone_sectors = 2.into();
        fake.config.zoned.max_append_sectors = 2.into();
        fake.disk = fake::FakeDisk::zoned(2500 * 2, 2, 2, 7);
    }
    let mut disk = drive(&fake);
    let zones = disk.zones().unwrap();
    assert_eq!(zones.len(), 2500);
    assert!(zones.iter().enumerate().all(|(i, z)| z.start.0 == i as u64 * 2));
    assert_eq!(fake.borrow().seen.len(), 3);
}

#[test]
fn large_transfers_are_cut_and_come_back_whole_in_any_order() {
    const SECTORS: usize = 5000;
    for (tables, reverse) in [(true, false), (true, true), (false, true)] {
        let fake = Fake::plain();
        {
            let mut fake = fake.borrow_mut();
            fake.config.capacity = (SECTORS as u64).into();
            fake.disk = fake::FakeDisk::plain(SECTORS as u64);
            fake.offered.set(Features::INDIRECT_DESC, tables);
            fake.offered |= Features::SIZE_MAX | Features::SEG_MAX;
            fake.config.size_max = 7000.into();
            fake.config.seg_max = 9.into();
            fake.reverse = reverse;
        }
        let options = Options { queue_size: 16, ..Options::default() };
        let mut disk = probe(&fake, &options).unwrap();
        let data = pattern((SECTORS - 1) * 512);
        disk.write(Sector(1), &data).unwrap();
        assert_eq!(fake.borrow().disk.bytes[512..], data);
        let mut back = vec![0; data.len()];
        disk.read(Sector(1), &mut back).unwrap();
        assert!(back == data);
        let longest = fake.borrow().seen.iter().map(|s| s.readable.len()).max();
        assert_eq!(longest, Some(16 + disk.info().max_transfer as usize));
        let memory = fake.borrow().memory.live();
        assert_eq!(memory, if tables { 3 } else { 2 });
    }
}

#[test]
fn reads_and_writes_do_not_reach_across_zones() {
    let fake = Fake::zoned();
    let mut disk = drive(&fake);
    for zone in [24, 48, 72, 96] {
        disk.write(Sector(zone), &pattern(4096)).unwrap();
    }
    let mut all = vec![0xff; 108 * 512];
    disk.read(Sector(0), &mut all).unwrap();
    assert!(all == fake.borrow().disk.bytes);
    // Zones of which all can be written: one write, in order, one piece a zone.
    fake.borrow_mut().disk = fake::FakeDisk::zoned(108, 24, 24, 0);
    disk.refresh().unwrap();
    fake.borrow_mut().seen.clear();
    let data = pattern(108 * 512);
    disk.write(Sector(0), &data).unwrap();
    assert!(fake.borrow().disk.bytes == data);
    let sectors: Vec<_> = fake.borrow().seen.iter().map(|s| s.readable[8]).collect();
    assert_eq!(sectors, [0, 24, 48, 72, 96]);
}

#[test]
fn a_long_append_is_several_and_says_where_it_begins() {
    let fake = Fake::zoned();
    let mut disk = drive(&fake);
    disk.append(Sector(24), &pattern(1024)).unwrap();
    let data = pattern(14 * 512);
    assert_eq!(disk.append(Sector(24), &data).unwrap(), Sector(26));
    assert_eq!(fake.borrow().disk.bytes[26 * 512..40 * 512], data);
    let lens: Vec<_> = fake.borrow().seen.iter().map(|s| s.readable.len() - 16).collect();
    assert_eq!(lens, [1024, 4096, 3072]);
    let error = disk.append(Sector(24), &pattern(1024)).unwrap_err();
    let full = Invalid::PastZoneCapacity { at: Sector(40), sectors: Sector(2), end: Sector(40) };
    assert!(matches!(error, Error::Invalid(invalid) if invalid == full));
    let error = disk.append(Sector(24), &pattern(512)).unwrap_err();
    assert!(matches!(error, Error::Invalid(Invalid::Misaligned { .. })));
}

#[test]
fn an_append_that_someone_else_cuts_in_two_is_no_success() {
    let fake = Fake::zoned();
    let mut disk = drive(&fake);
    tamper(&fake, |_| {});
    tamper(&fake, |reply| reply.append_sector = Some(30));
    let error = disk.append(Sector(24), &pattern(5120)).unwrap_err();
    assert!(matches!(
        error,
        Error::AppendTorn { first: Sector(24), written: Sector(8), at: Sector(30) }
    ));
}

#[test]
fn one_failed_piece_fails_the_whole_and_leaves_nothing_behind() {
    let fake = Fake::plain();
    {
        let mut fake = fake.borrow_mut();
        fake.offered |= Features::SIZE_MAX | Features::SEG_MAX;
        fake.config.size_max = 512.into();
        fake.config.seg_max = 1.into();
    }
    let mut disk = drive(&fake);
    let live = fake.borrow().memory.live();
    tamper(&fake, |_| {});
    tamper(&fake, |reply| reply.status = Some(1));
    let error = disk.read(Sector(0), &mut [0; 20 * 512]).unwrap_err();
    assert!(matches!(error, Error::Request(RequestError::Io)));
    // Eight, one more for the one that was done before; those were waited for, and no more were sent.
    assert_eq!(fake.borrow().seen.len(), 9);
    assert_eq!((disk.in_flight(0), fake.borrow().memory.live()), (0, live));
}

#[test]
fn less_memory_means_fewer_at_a_time() {
    let fake = Fake::plain();
    {
        let mut fake = fake.borrow_mut();
        fake.offered |= Features::SIZE_MAX | Features::SEG_MAX;
        fake.config.size_max = 1024.into();
        fake.config.seg_max = 1.into();
    }
    let mut disk = drive(&fake);
    fake.borrow().memory.limit(2048);
    let data = pattern(20 * 512);
    disk.write(Sector(0), &data).unwrap();
    assert_eq!(fake.borrow().disk.bytes[..data.len()], data);
    fake.borrow().memory.limit(1023);
    assert!(matches!(disk.write(Sector(0), &data), Err(Error::NoMemory(_))));
}

#[test]
fn what_else_is_in_flight_keeps_its_completion() {
    let fake = Fake::zoned();
    let options = Options { queue_size: 4, ..Options::default() };
    let mut disk = probe(&fake, &options).unwrap();
    let mut tokens = Vec::new();
    for _ in 0..4 {
        tokens.push(disk.submit(0, Request::Id).unwrap());
    }
    // The queue is full, so the call waits for room first.
    disk.write(Sector(0), &pattern(2048)).unwrap();
    assert_eq!(disk.zones().unwrap().len(), 5);
    assert_eq!(disk.in_flight(0), 4);
    assert!(disk.submit(0, Request::Flush).unwrap_err().error.retry());
    disk.wait(0, None).unwrap();
    for token in tokens {
        let completion = disk.poll(0).unwrap().expect("kept");
        assert_eq!(completion.token, token);
        assert!(matches!(completion.result, Ok(Answer::Id(_))));
    }
    assert!(disk.poll(0).unwrap().is_none());
    assert!(disk.submit(0, Request::Flush).is_ok());
}

#[test]
fn a_device_that_takes_its_time_is_waited_for() {
    // One answer a turn, with the event index and without, past the end of 16 bits: a lost wakeup would
    // be `Silence`.
    for event_index in [true, false] {
        let fake = Fake::plain();
        {
            let mut fake = fake.borrow_mut();
            fake.offered.set(Features::EVENT_IDX, event_index);
            fake.offered |= Features::SIZE_MAX;
            fake.config.size_max = 512.into();
            fake.per_turn = 1;
        }
        let mut disk = drive(&fake);
        for round in 0..12_000 {
            let data = pattern(512 * (1 + round % 5));
            disk.write(Sector(4), &data).unwrap();
            let mut back = vec![0; data.len()];
            disk.read(Sector(4), &mut back).unwrap();
            assert_eq!(back, data);
        }
    }
}

#[test]
fn what_can_not_be_done_is_not_begun() {
    let fake = Fake::zoned();
    let mut disk = drive(&fake);
    let invalid = |result: Result<(), Error<_>>| match result {
        Err(Error::Invalid(invalid)) => invalid,
        other => panic!("{other:?}"),
    };
    assert!(matches!(
        invalid(disk.read(Sector(100), &mut [0; 9 * 512])),
        Invalid::PastCapacity { .. }
    ));
    assert!(matches!(
        invalid(disk.write(Sector(100), &[0; 9 * 512])),
        Invalid::PastCapacity { .. }
    ));
    assert!(matches!(invalid(disk.write(Sector(0), &[0; 100])), Invalid::Misaligned { .. }));
    assert!(matches!(invalid(disk.read(Sector(0), &mut [])), Invalid::Empty));
    assert!(matches!(invalid(disk.reset(Sector(7))), Invalid::NotZoneStart(Sector(7))));
    assert!(matches!(invalid(disk.append(Sector(24), &[]).map(|_| ())), Invalid::Empty));
    assert!(fake.borrow().seen.is_empty());
}
