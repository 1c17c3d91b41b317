//! What the driver knows of zones, and what it does not send because of that.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod fake;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use fake::{Fake, FakeDisk, FakeDriver, Memory, Wire, drive, probe, tamper};
use zvb_driver::{
    Answer, Checks, Completion, Condition, ConfigError, Disk, Error, Features, Invalid, Lie,
    Options, ProbeError, Request, RequestError, Sector, SectorRange, SubmitError, Token, Zone,
};

type Shared = Rc<RefCell<Fake>>;

fn write(disk: &mut FakeDriver, at: u64, sectors: usize) -> Result<Token, SubmitError> {
    let buffer = disk.buffer(sectors * 512).unwrap();
    let sent = disk.submit(0, Request::Write { at: Sector(at), buffer });
    sent.map_err(|rejected| rejected.error)
}

fn append(disk: &mut FakeDriver, zone: u64, sectors: usize) -> Result<Token, SubmitError> {
    let buffer = disk.buffer(sectors * 512).unwrap();
    let sent = disk.submit(0, Request::Append { zone: Sector(zone), buffer });
    sent.map_err(|rejected| rejected.error)
}

/// All completions of what is in flight.
fn drain(disk: &mut FakeDriver) -> Vec<Completion<Memory>> {
    let mut done = Vec::new();
    while disk.in_flight(0) > 0 {
        match disk.poll(0).unwrap() {
            Some(completion) => done.push(completion),
            None => disk.wait(0, None).unwrap(),
        }
    }
    done
}

fn good(disk: &mut FakeDriver) {
    assert!(drain(disk).iter().all(|done| done.result.is_ok()));
}

fn past(at: u64, sectors: u64, end: u64) -> Result<Token, SubmitError> {
    Err(SubmitError::Invalid(Invalid::PastZoneCapacity {
        at: Sector(at),
        sectors: Sector(sectors),
        end: Sector(end),
    }))
}

/// Conformance 129, 130.
#[test]
fn c129_c130_writes_to_sequential_zones_are_of_whole_granules() {
    for model in [1, 2] {
        let fake = Fake::zoned();
        fake.borrow_mut().config.zoned.model = model;
        fake.borrow_mut().disk.preferred = model == 2;
        let mut disk = drive(&fake);
        let misaligned = |at, bytes| {
            let at = Sector(at);
            Err(SubmitError::Invalid(Invalid::Misaligned { at, bytes, unit: 1024 }))
        };
        assert_eq!(write(&mut disk, 24, 1), misaligned(24, 512));
        assert_eq!(write(&mut disk, 24, 3), misaligned(24, 1536));
        assert_eq!(write(&mut disk, 25, 2), misaligned(25, 1024));
        assert_eq!(append(&mut disk, 24, 1), misaligned(24, 512));
        assert!(disk.write(Sector(24), &[0; 512]).is_err());
        assert!(fake.borrow().seen.is_empty());
        // Conventional zones take any block.
        assert!(write(&mut disk, 3, 1).is_ok());
        assert!(write(&mut disk, 24, 2).is_ok());
        good(&mut disk);
    }
}

/// Conformance 130: a zone that starts off the granule takes no append.
#[test]
fn c130_appends_go_to_aligned_zones() {
    let fake = Fake::zoned();
    fake.borrow_mut().config.zoned.write_granularity = (16 * 512).into();
    fake.borrow_mut().config.zoned.max_append_sectors = 16.into();
    let mut disk = drive(&fake);
    assert!(matches!(
        append(&mut disk, 24, 16),
        Err(SubmitError::Invalid(Invalid::Misaligned { at: Sector(24), .. }))
    ));
    assert!(append(&mut disk, 48, 16).is_ok());
}

/// Conformance 131.
#[test]
fn c131_what_is_in_flight_counts_and_what_does_not_fit_is_not_sent() {
    for reverse in [false, true] {
        let fake = Fake::zoned();
        let mut disk = drive(&fake);
        // Several deep, in order; zone 1 can hold 16.
        for at in [24, 28, 32] {
            assert!(write(&mut disk, at, 4).is_ok());
        }
        assert_eq!(append(&mut disk, 24, 6), past(36, 6, 40));
        assert_eq!(write(&mut disk, 36, 6), past(36, 6, 40));
        assert!(append(&mut disk, 24, 4).is_ok());
        assert_eq!(append(&mut disk, 24, 2), past(40, 2, 40));
        fake.borrow_mut().reverse = reverse;
        let done = drain(&mut disk);
        if reverse {
            // In this order the writes fail, and then the device is the one that knows.
            assert!(done.iter().any(|d| d.result.is_err()));
            assert!(append(&mut disk, 24, 8).is_ok());
            continue;
        }
        assert!(done.iter().all(|d| d.result.is_ok()));
        assert_eq!(append(&mut disk, 24, 2), past(40, 2, 40));
        assert_eq!(write(&mut disk, 24, 2), past(40, 2, 40));
        assert_eq!(fake.borrow().seen.len(), 4);
        // Answered in any order, the sum is the same.
        assert!(append(&mut disk, 48, 4).is_ok());
        assert!(append(&mut disk, 48, 4).is_ok());
        fake.borrow_mut().reverse = true;
        good(&mut disk);
        assert!(append(&mut disk, 48, 8).is_ok());
        assert_eq!(append(&mut disk, 48, 2), past(64, 2, 64));
    }
}

#[test]
fn management_moves_what_is_known() {
    let fake = Fake::zoned();
    let mut disk = drive(&fake);
    disk.append(Sector(24), &[1; 8192]).unwrap();
    assert_eq!(append(&mut disk, 24, 2), past(40, 2, 40));
    disk.reset(Sector(24)).unwrap();
    assert!(append(&mut disk, 24, 8).is_ok());
    good(&mut disk);
    disk.finish(Sector(24)).unwrap();
    assert_eq!(append(&mut disk, 24, 2), past(40, 2, 40));
    assert_eq!(write(&mut disk, 32, 2), past(40, 2, 40));
    disk.finish(Sector(48)).unwrap();
    disk.reset_all().unwrap();
    assert!(append(&mut disk, 24, 8).is_ok());
    assert!(append(&mut disk, 24, 8).is_ok());
    assert_eq!(append(&mut disk, 24, 2), past(40, 2, 40));
    assert!(append(&mut disk, 48, 8).is_ok());
    good(&mut disk);
    // Whether a failed reset moved anything is for the device to say.
    tamper(&fake, |reply| reply.status = Some(1));
    assert!(disk.reset(Sector(24)).is_err());
    assert!(append(&mut disk, 24, 2).is_ok());
    good(&mut disk);
}

#[test]
fn a_reset_beside_a_write_leaves_it_to_the_device() {
    let fake = Fake::zoned();
    let mut disk = drive(&fake);
    assert!(append(&mut disk, 24, 8).is_ok());
    disk.submit(0, Request::Reset { zone: Sector(24) }).unwrap();
    assert!(append(&mut disk, 24, 8).is_ok());
    assert!(append(&mut disk, 24, 8).is_ok());
    good(&mut disk);
    // Which came first is not known, so this goes out.
    assert!(append(&mut disk, 24, 8).is_ok());
    assert_eq!(drain(&mut disk)[0].result, Err(RequestError::InvalidCommand));
    // Alone it is known again.
    disk.reset(Sector(24)).unwrap();
    assert!(append(&mut disk, 24, 8).is_ok() && append(&mut disk, 24, 8).is_ok());
    assert_eq!(append(&mut disk, 24, 2), past(40, 2, 40));
}

#[test]
fn a_write_that_opened_no_zone_took_no_room() {
    for status in [5, 6] {
        let fake = Fake::zoned();
        let mut disk = drive(&fake);
        tamper(&fake, move |reply| reply.status = Some(status));
        fake.borrow_mut().disk.zones[1].condition = Condition::Full;
        assert!(write(&mut disk, 24, 16).is_ok());
        assert!(drain(&mut disk)[0].result.is_err());
        fake.borrow_mut().disk.zones[1].condition = Condition::Empty;
        assert!(append(&mut disk, 24, 8).is_ok());
        assert!(append(&mut disk, 24, 8).is_ok());
        assert_eq!(append(&mut disk, 24, 2), past(40, 2, 40));
    }
}

#[test]
fn after_an_error_the_zone_is_asked() {
    let fake = Fake::zoned();
    let mut disk = drive(&fake);
    disk.append(Sector(24), &[1; 8192]).unwrap();
    disk.reset(Sector(24)).unwrap();
    tamper(&fake, |reply| reply.status = Some(1));
    assert!(append(&mut disk, 24, 8).is_ok());
    assert_eq!(drain(&mut disk)[0].result, Err(RequestError::Io));
    // The device wrote all of it, for all that anyone knows: both are sent.
    assert!(append(&mut disk, 24, 8).is_ok());
    assert!(append(&mut disk, 24, 8).is_ok());
    drain(&mut disk);
    // A blocking call asks first, so what does not fit is not begun.
    fake.borrow_mut().seen.clear();
    let error = disk.append(Sector(24), &[1; 1024]).unwrap_err();
    assert!(matches!(error, Error::Invalid(Invalid::PastZoneCapacity { at: Sector(40), .. })));
    let kinds: Vec<_> = fake.borrow().seen.iter().map(|s| s.readable[0]).collect();
    assert_eq!(kinds, [16]);
    // And it is known from then on.
    assert!(disk.write(Sector(24), &[1; 1024]).is_err());
    assert_eq!(fake.borrow().seen.len(), 1);
}

#[test]
fn a_blocking_write_that_can_not_fit_is_not_begun() {
    let fake = Fake::zoned();
    let mut disk = drive(&fake);
    let error = disk.append(Sector(24), &[1; 18 * 512]).unwrap_err();
    assert!(matches!(error, Error::Invalid(Invalid::PastZoneCapacity { .. })), "{error}");
    // From the conventional zone on, through one of which not all can be written.
    let error = disk.write(Sector(0), &[1; 50 * 512]).unwrap_err();
    assert!(matches!(error, Error::Invalid(Invalid::PastZoneCapacity { at: Sector(24), .. })));
    assert!(fake.borrow().seen.is_empty());
    disk.write(Sector(0), &[1; 40 * 512]).unwrap();
}

#[test]
fn off_the_write_pointer_is_for_the_device_to_refuse() {
    let fake = Fake::zoned();
    let mut disk = drive(&fake);
    disk.append(Sector(24), &[1; 2048]).unwrap();
    for at in [24, 26, 30] {
        assert!(write(&mut disk, at, 2).is_ok());
        assert_eq!(drain(&mut disk)[0].result, Err(RequestError::UnalignedWritePointer));
    }
    // Wherever it would go, it does not pass the end.
    assert_eq!(write(&mut disk, 38, 4), past(38, 4, 40));
}

#[test]
fn a_request_stays_in_its_zone_where_one_is_sequential() {
    let fake = Fake::zoned();
    fake.borrow_mut().disk = FakeDisk::zoned(108, 24, 16, 2);
    let mut disk = drive(&fake);
    let (at, sectors) = (Sector(46), Sector(4));
    let across = Err(SubmitError::Invalid(Invalid::AcrossZones { at, sectors }));
    assert_eq!(write(&mut disk, 46, 4), across);
    assert!(write(&mut disk, 22, 4).is_ok());
    good(&mut disk);
    assert_eq!(write(&mut disk, 62, 10), past(62, 10, 64));
}

/// A zone that may be written anywhere is not counted; its end is still its end.
#[test]
fn preferred_zones_are_written_anywhere() {
    let fake = Fake::zoned();
    fake.borrow_mut().config.zoned.model = 2;
    fake.borrow_mut().disk.preferred = true;
    let mut disk = drive(&fake);
    for at in [24, 24, 32, 24, 38] {
        assert!(write(&mut disk, at, 2).is_ok());
    }
    assert_eq!(write(&mut disk, 38, 4), past(38, 4, 40));
    assert!(append(&mut disk, 24, 2).is_ok());
    let done = drain(&mut disk);
    assert_eq!(done[5].result, Err(RequestError::InvalidCommand));
    disk.finish(Sector(24)).unwrap();
    assert!(write(&mut disk, 24, 16).is_ok());
    good(&mut disk);
}

#[test]
fn minimal_checks_let_the_device_speak() {
    let fake = Fake::zoned();
    let options = Options { checks: Checks::Minimal, ..Options::default() };
    let mut disk = probe(&fake, &options).unwrap();
    disk.finish(Sector(24)).unwrap();
    for (at, sectors) in [(24, 2), (48, 18)] {
        assert!(write(&mut disk, at, sectors).is_ok());
        assert_eq!(drain(&mut disk)[0].result, Err(RequestError::InvalidCommand));
    }
    let error = disk.append(Sector(24), &[0; 1024]).unwrap_err();
    assert!(matches!(error, Error::Request(RequestError::InvalidCommand)));
    assert!(write(&mut disk, 25, 1).is_ok());
    // And nothing is asked of it that was not asked for.
    assert!(fake.borrow().seen.iter().all(|seen| seen.readable[0] != 16));
}

#[test]
fn a_report_teaches_unless_it_is_stale() {
    let fake = Fake::zoned();
    let mut disk = drive(&fake);
    disk.finish(Sector(24)).unwrap();
    // Someone else resets the zone.
    fake.borrow_mut().disk.zones[1].condition = Condition::Empty;
    assert_eq!(append(&mut disk, 24, 2), past(40, 2, 40));
    disk.zones().unwrap();
    assert!(append(&mut disk, 24, 8).is_ok());
    good(&mut disk);

    // A report that the device answers first, and that is polled when it is true no more.
    let report =
        |disk: &FakeDriver| Request::Report { from: Sector(0), buffer: disk.buffer(1024).unwrap() };
    disk.submit(0, report(&disk)).unwrap();
    assert!(append(&mut disk, 24, 8).is_ok());
    let done = drain(&mut disk);
    let Ok(Answer::Zones(zones)) = &done[0].result else { panic!("{done:?}") };
    assert_eq!(zones[1].write_pointer, Some(Sector(32)));
    assert_eq!(append(&mut disk, 24, 2), past(40, 2, 40));

    // One that the device made before a write, and answers after it.
    disk.submit(0, report(&disk)).unwrap();
    assert!(append(&mut disk, 72, 8).is_ok());
    fake.borrow_mut().reverse = true;
    tamper(&fake, |_| {});
    tamper(&fake, |reply| {
        let zone = &mut reply.data[64 * 4..64 * 5];
        (zone[16], zone[25]) = (72, Condition::Empty as u8);
    });
    good(&mut disk);
    fake.borrow_mut().reverse = false;
    assert!(append(&mut disk, 72, 8).is_ok());
    assert_eq!(append(&mut disk, 72, 2), past(88, 2, 88));
    good(&mut disk);

    // One that is submitted while a write is in flight, and answered before it.
    assert!(append(&mut disk, 48, 8).is_ok());
    disk.submit(0, report(&disk)).unwrap();
    fake.borrow_mut().reverse = true;
    good(&mut disk);
    assert!(append(&mut disk, 48, 8).is_ok());
    assert_eq!(append(&mut disk, 48, 2), past(64, 2, 64));
}

#[test]
fn who_else_writes_is_noticed() {
    let fake = Fake::zoned();
    let mut disk = drive(&fake);
    // The zone is reset and filled behind our back: an append that ends past what was known.
    fake.borrow_mut().disk.zones[1].pointer = 32;
    assert!(append(&mut disk, 24, 2).is_ok());
    good(&mut disk);
    let error = disk.append(Sector(24), &[0; 8 * 512]).unwrap_err();
    assert!(matches!(error, Error::Invalid(Invalid::PastZoneCapacity { at: Sector(34), .. })));
}

#[test]
fn a_full_queue_takes_no_room_in_a_zone() {
    for tables in [true, false] {
        let fake = Fake::zoned();
        fake.borrow_mut().offered.set(Features::INDIRECT_DESC, tables);
        let options = Options { queue_size: 4, ..Options::default() };
        let mut disk = probe(&fake, &options).unwrap();
        for _ in 0..disk.depth(0) {
            disk.submit(0, Request::Flush).unwrap();
        }
        for _ in 0..5 {
            assert_eq!(append(&mut disk, 24, 8), Err(SubmitError::QueueFull));
        }
        good(&mut disk);
        for _ in 0..2 {
            assert!(append(&mut disk, 24, 8).is_ok());
            good(&mut disk);
        }
        assert_eq!(append(&mut disk, 24, 2), past(40, 2, 40));
    }
}

#[test]
fn other_requests_that_change_a_zone_leave_it_unknown() {
    let fake = Fake::zoned();
    fake.borrow_mut().offered |= Features::SECURE_ERASE;
    {
        let config = &mut fake.borrow_mut().config;
        config.max_secure_erase_seg = 2.into();
        config.max_secure_erase_sectors = 48.into();
        config.secure_erase_sector_alignment = 24.into();
    }
    let options = Options { features: Features::all(), ..Options::default() };
    let mut disk = probe(&fake, &options).unwrap();
    disk.finish(Sector(24)).unwrap();
    disk.secure_erase(vec![SectorRange { at: Sector(24), sectors: 24 }]).unwrap();
    // Asked first, and then known.
    disk.append(Sector(24), &[0; 8192]).unwrap();
    assert_eq!(append(&mut disk, 24, 2), past(40, 2, 40));
    let ranges = vec![SectorRange { at: Sector(0), sectors: 30 }];
    disk.queue(0).unwrap().run(Request::WriteZeroes { ranges, unmap: false }).unwrap();
    assert!(append(&mut disk, 24, 2).is_ok());
    assert_eq!(drain(&mut disk)[0].result, Err(RequestError::InvalidCommand));
}

#[test]
fn zones_that_can_not_be_known_are_a_reason_not_to_drive() {
    let fake = Fake::zoned();
    tamper(&fake, |reply| reply.data[0] = 9);
    let error = probe(&fake, &Options::default()).err().unwrap();
    let lie = Lie::ZoneCount { nr_zones: 9, room: 5 };
    assert!(
        matches!(error, ProbeError::Zones(Error::Request(RequestError::Lie(l))) if l == lie),
        "{error:?}"
    );
    assert!(fake.borrow().status.contains(zvb_wire::DeviceStatus::FAILED));
    assert_eq!((fake.borrow().memory.live(), fake.borrow().layouts.len()), (0, 0));

    let minimal = Options { checks: Checks::Minimal, ..Options::default() };
    let fake = Fake::zoned();
    fake.borrow_mut().config.capacity = (24 << 21).into();
    let error = probe(&fake, &Options::default()).err().unwrap();
    assert!(matches!(error, ProbeError::ZoneMap(n) if n == 1 << 21), "{error:?}");
    assert!(probe(&fake, &minimal).is_ok());
}

#[test]
fn many_zones_are_known_by_few_requests() {
    let fake = Fake::zoned();
    {
        let mut fake = fake.borrow_mut();
        fake.config.capacity = (32_768 * 2).into();
        fake.config.zoned.zone_sectors = 2.into();
        fake.config.zoned.max_append_sectors = 2.into();
        fake.disk = FakeDisk::zoned(32_768 * 2, 2, 2, 7);
    }
    let memory = fake.borrow().memory.clone();
    let mut disk = Disk::probe(Wire(Rc::clone(&fake)), memory, &Options::default()).unwrap();
    assert_eq!(fake.borrow().seen.len(), 33);
    disk.append(Sector(65_534), &[0; 1024]).unwrap();
    assert_eq!(append(&mut disk, 65_534, 2), past(65_536, 2, 65_536));
}

/// A disk of `sectors`, as the device and its configuration have it.
fn become_of(fake: &Shared, sectors: u64) {
    let mut fake = fake.borrow_mut();
    let before = std::mem::take(&mut fake.disk.zones);
    fake.config.capacity = sectors.into();
    fake.disk = FakeDisk::zoned(sectors, 24, 16, 1);
    for (zone, before) in fake.disk.zones.iter_mut().zip(before) {
        (zone.pointer, zone.condition) = (before.pointer, before.condition);
    }
}

/// Conformance 107: what a report tells of a disk that has grown since its configuration was read.
#[test]
fn c107_a_disk_that_grows_while_it_is_looked_at_is_no_liar() {
    let fake = Fake::zoned();
    let generation = Rc::new(Cell::new(1));
    let told = Rc::clone(&generation);
    fake.borrow_mut().generation = Box::new(move || told.get());
    let mut disk = drive(&fake);
    // The last zone is as large as the others now: it has room for 16 sectors.
    let larger = |reply: &mut fake::Reply| reply.data[64 + 4 * 64] = 16;
    let news = Rc::clone(&generation);
    tamper(&fake, move |reply| {
        larger(reply);
        news.set(2);
    });
    disk.refresh().unwrap();
    assert!(!disk.config_changed().unwrap());
    // One that goes on for ever is given up; and where there is no news, it is a lie.
    for n in 3..20 {
        let news = Rc::clone(&generation);
        tamper(&fake, move |reply| {
            larger(reply);
            news.set(n);
        });
    }
    assert!(matches!(disk.refresh(), Err(ProbeError::Zones(_))));
    fake.borrow_mut().tamper.clear();
    disk.refresh().unwrap();
    tamper(&fake, larger);
    assert!(matches!(disk.refresh(), Err(ProbeError::Zones(_))));
    // Zones that are not known to be there are not asked for.
    become_of(&fake, 96);
    disk.refresh().unwrap();
    become_of(&fake, 240);
    assert_eq!(disk.zones().unwrap().len(), 4);
    assert_eq!(disk.report(Sector(30), u32::MAX, |_| {}).unwrap(), 3);
    disk.refresh().unwrap();
    assert_eq!(disk.zones().unwrap().len(), 10);
}

/// Conformance 107: a report whose answer is of the disk as it has become, on the way of which it is looked at again.
#[test]
fn c107_zones_that_have_grown_since_are_told_as_they_are() {
    let fake = Fake::zoned();
    let generation = Rc::new(Cell::new(1));
    let told = Rc::clone(&generation);
    fake.borrow_mut().generation = Box::new(move || told.get());
    let mut disk = drive(&fake);
    let last = |zones: &[Zone]| zones.last().map(|zone| (zone.start, zone.len, zone.capacity));
    let short = (Sector(96), Sector(12), Sector(12));
    assert_eq!(last(&disk.zones().unwrap()), Some(short));
    become_of(&fake, 240);
    generation.set(2);
    let zones = disk.zones().unwrap();
    assert_eq!((zones.len(), last(&zones)), (10, Some((Sector(216), Sector(24), Sector(16)))));
    let starts = zones.iter().map(|zone| zone.start.0);
    assert!(starts.eq((0..10).map(|n| 24 * n)), "each once");
    assert!(!disk.config_changed().unwrap());
    assert_eq!(disk.info().capacity, Sector(240));
    // Where nothing has changed, and where it makes no sense, it is a lie as before.
    let larger = |reply: &mut fake::Reply| reply.data[64] = 25;
    tamper(&fake, larger);
    let lie = |error: Error<_>| {
        matches!(error, Error::Request(RequestError::Lie(Lie::ZoneCapacity { .. })))
    };
    assert!(lie(disk.report(Sector(0), 3, |_| {}).unwrap_err()));
    for n in 3..80 {
        let news = Rc::clone(&generation);
        tamper(&fake, move |reply| {
            larger(reply);
            news.set(n);
        });
    }
    assert!(lie(disk.zones().unwrap_err()), "one that goes on for ever is given up");
    fake.borrow_mut().tamper.clear();
    fake.borrow_mut().config.capacity = u64::MAX.into();
    tamper(&fake, larger);
    generation.set(90);
    let _ = disk.zones();
    assert_eq!(disk.info().capacity, Sector(240));
    // What stays short stays so for whoever asks a queue: only the disk can look again.
    fake.borrow_mut().config.capacity = 240.into();
    disk.refresh().unwrap();
    become_of(&fake, 108);
    disk.refresh().unwrap();
    become_of(&fake, 240);
    generation.set(91);
    assert!(lie(disk.queue(0).unwrap().zones().unwrap_err()));
    assert_eq!(disk.zones().unwrap().len(), 10);
}

/// Conformance 107, 108: more room, also for what was in flight when it came.
#[test]
fn c107_a_disk_that_grows_is_known_again_with_requests_in_flight() {
    let fake = Fake::zoned();
    let mut disk = drive(&fake);
    assert!(append(&mut disk, 24, 8).is_ok());
    assert!(append(&mut disk, 96, 8).is_ok());
    assert!(write(&mut disk, 110, 2).is_err());
    become_of(&fake, 240);
    assert!(disk.refresh().unwrap());
    good(&mut disk);
    assert_eq!(disk.info().zoned.unwrap().zone_count, 10);
    // What was in flight counts as before, the last zone has its whole size, and the new ones are there.
    assert!(append(&mut disk, 24, 8).is_ok());
    assert_eq!(append(&mut disk, 24, 2), past(40, 2, 40));
    assert!(append(&mut disk, 96, 8).is_ok());
    assert_eq!(append(&mut disk, 96, 2), past(112, 2, 112));
    assert!(append(&mut disk, 216, 8).is_ok());
    assert_eq!(write(&mut disk, 230, 4), past(230, 4, 232));
    good(&mut disk);
}

/// Conformance 107, 108: less room; what was in flight is answered, what is past the end is not sent.
#[test]
fn c107_c108_a_disk_that_shrinks_is_not_written_past_its_end() {
    let fake = Fake::zoned();
    let mut disk = drive(&fake);
    let buffer = disk.buffer(1024).unwrap();
    disk.submit(0, Request::Report { from: Sector(0), buffer }).unwrap();
    assert!(append(&mut disk, 72, 8).is_ok());
    disk.kick(0).unwrap();
    fake.borrow_mut().turn(0);
    become_of(&fake, 60);
    disk.refresh().unwrap();
    // The answers are true of the disk that was asked.
    good(&mut disk);
    let gone = |at, sectors| {
        let (at, sectors) = (Sector(at), Sector(sectors));
        SubmitError::Invalid(Invalid::PastCapacity { at, sectors, capacity: Sector(60) })
    };
    assert_eq!(append(&mut disk, 72, 2), Err(gone(72, 1)));
    assert_eq!(write(&mut disk, 58, 4), Err(gone(58, 4)));
    assert!(disk.reset(Sector(72)).is_err());
    // Back again, it is another zone: nothing is taken for known.
    become_of(&fake, 108);
    disk.refresh().unwrap();
    assert!(append(&mut disk, 72, 8).is_ok());
    assert!(append(&mut disk, 72, 8).is_ok());
    good(&mut disk);
}

/// Conformance 107, 134: what a changed configuration can not say.
#[test]
fn c107_a_configuration_that_becomes_absurd_is_told_and_not_taken() {
    let fake = Fake::zoned();
    let mut disk = drive(&fake);
    fake.borrow_mut().config.capacity = u64::MAX.into();
    let error = disk.refresh().unwrap_err();
    let absurd = ConfigError::Capacity(Sector(u64::MAX));
    assert!(matches!(error, ProbeError::Config(e) if e == absurd), "{error}");
    fake.borrow_mut().config.capacity = (24 << 33).into();
    let error = disk.refresh().unwrap_err();
    assert!(matches!(error, ProbeError::Config(ConfigError::TooManyZones(_))), "{error}");
    fake.borrow_mut().config.capacity = 108.into();
    fake.borrow_mut().config.zoned.model = 9;
    assert!(matches!(disk.refresh().unwrap_err(), ProbeError::UnknownModel(9)));
    assert_eq!(disk.info().capacity, Sector(108));
    fake.borrow_mut().config.zoned.model = 1;
    assert!(!disk.refresh().unwrap());
    // The zones alone lie: told too, and writes are the device's to judge.
    disk.finish(Sector(24)).unwrap();
    tamper(&fake, |reply| reply.data[64 * 2] = 25);
    let error = disk.refresh().unwrap_err();
    assert!(matches!(error, ProbeError::Zones(Error::Request(RequestError::Lie(_)))), "{error}");
    disk.flush().unwrap();
}

#[test]
fn a_granule_that_no_request_holds_is_an_error() {
    let fake = Fake::zoned();
    {
        let mut fake = fake.borrow_mut();
        fake.offered |= Features::SIZE_MAX | Features::SEG_MAX;
        fake.config.size_max = 512.into();
        fake.config.seg_max = 1.into();
    }
    for checks in [Checks::Full, Checks::Minimal] {
        let mut disk = probe(&fake, &Options { checks, ..Options::default() }).unwrap();
        let error = disk.append(Sector(24), &[0; 2048]).unwrap_err();
        let long = Invalid::TooLong { bytes: 1024, max: 512 };
        assert!(matches!(error, Error::Invalid(e) if e == long), "{error}");
        disk.read(Sector(24), &mut [0; 2048]).unwrap();
    }
}

#[test]
fn a_broken_queue_leaves_its_zones_unknown() {
    let fake = Fake::zoned();
    {
        let mut fake = fake.borrow_mut();
        fake.offered |= Features::MQ;
        fake.config.num_queues = 2.into();
    }
    let mut disk = probe(&fake, &Options { queues: 2, ..Options::default() }).unwrap();
    assert!(append(&mut disk, 24, 8).is_ok());
    assert!(append(&mut disk, 24, 8).is_ok());
    let used = fake.borrow().layouts[&0].used;
    fake.borrow().memory.poke(used + 2, &[77, 7]);
    assert!(disk.poll(0).is_err());
    // Whether they were written nobody will ever tell.
    let buffer = disk.buffer(4096).unwrap();
    assert!(disk.submit(1, Request::Append { zone: Sector(24), buffer }).is_ok());
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % n
    }
}

/// Against the fake disk's own zones: what is sent fits (131), and what fits is sent.
#[test]
fn c131_the_map_is_neither_too_strict_nor_too_lax() {
    for seed in 1..=400 {
        let outcome = std::panic::catch_unwind(|| follow(&mut Random(seed)));
        assert!(outcome.is_ok(), "seed {seed}");
    }
}

fn follow(random: &mut Random) {
    const ROOM: [u64; 5] = [0, 16, 16, 16, 12];
    let fake = Fake::zoned();
    let mut disk = drive(&fake);
    // By zone: sectors used, completions not polled, and whether something failed since it was known.
    let (mut used, mut flying, mut failed) = ([0; 5], [0; 5], [false; 5]);
    for _ in 0..120 {
        let index = 1 + random.below(4) as usize;
        let start = index as u64 * 24;
        match random.below(10) {
            0 if flying[index] == 0 => {
                disk.reset(Sector(start)).unwrap();
                (used[index], failed[index]) = (0, false);
            }
            1 if flying[index] == 0 => {
                disk.finish(Sector(start)).unwrap();
                (used[index], failed[index]) = (ROOM[index], false);
            }
            2 if flying == [0; 5] => {
                disk.reset_all().unwrap();
                (used, failed) = ([0; 5], [false; 5]);
            }
            3 => {
                disk.zones().unwrap();
                for (failed, flying) in failed.iter_mut().zip(flying) {
                    *failed &= flying > 0;
                }
            }
            4 | 5 => {
                fake.borrow_mut().reverse = random.below(2) == 0;
                good(&mut disk);
                fake.borrow_mut().reverse = false;
                flying = [0; 5];
            }
            step => {
                let sectors = 2 * (1 + random.below(4));
                let fits = used[index] + sectors <= ROOM[index];
                let fails = fits && step == 9 && flying == [0; 5];
                if fails {
                    tamper(&fake, |reply| reply.status = Some(1));
                }
                match append(&mut disk, start, sectors as usize) {
                    Ok(_) if fits => {
                        (used[index], flying[index]) = (used[index] + sectors, flying[index] + 1);
                        if fails {
                            assert_eq!(drain(&mut disk)[0].result, Err(RequestError::Io));
                            (failed[index], flying) = (true, [0; 5]);
                        }
                    }
                    Err(SubmitError::Invalid(Invalid::PastZoneCapacity { .. })) if !fits => {}
                    // Where nothing is known, the device is the one to refuse.
                    Ok(_) if failed[index] => {
                        assert!(drain(&mut disk).iter().any(|done| done.result.is_err()));
                        flying = [0; 5];
                    }
                    other => panic!("{other:?}: {sectors} behind {} in {index}", used[index]),
                }
            }
        }
    }
    good(&mut disk);
}
