//! A device that lies: each lie has a name, and costs one request or one queue, never more.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod fake;

use std::cell::RefCell;
use std::rc::Rc;

use fake::{Fake, FakeDriver, FakeError, Memory, Reply, drive, probe, tamper};
use zerocopy::{FromBytes, IntoBytes};
use zvb_driver::{
    Answer, Checks, Condition, DeviceLie, Error, Fault, Lie, Options, ProbeError, Request,
    RequestError, Sector, SubmitError, ZoneType,
};
use zvb_wire::{DeviceStatus, ZoneDescriptor, ZoneReportHeader};

type Shared = Rc<RefCell<Fake>>;

/// Sends `request`, lets `change` have its way with the reply, and tells how it went.
fn lied(
    make: impl FnOnce(&FakeDriver) -> Request<Memory>,
    change: impl FnOnce(&mut Reply) + 'static,
) -> Result<Answer, RequestError> {
    let fake = Fake::zoned();
    let mut disk = drive(&fake);
    tamper(&fake, change);
    let request = make(&disk);
    disk.submit(0, request).unwrap();
    disk.wait(0, None).unwrap();
    let result = disk.poll(0).unwrap().expect("an answer").result;
    // The queue goes on.
    disk.flush().unwrap();
    result
}

fn read(disk: &FakeDriver) -> Request<Memory> {
    Request::Read { at: Sector(0), buffer: disk.buffer(1024).unwrap() }
}

fn append(disk: &FakeDriver) -> Request<Memory> {
    Request::Append { zone: Sector(24), buffer: disk.buffer(2048).unwrap() }
}

#[test]
fn each_status_has_its_error() {
    let failed = |status: u8| lied(read, move |r| r.status = Some(status)).unwrap_err();
    let expected = [
        RequestError::Io,
        RequestError::Unsupported,
        RequestError::InvalidCommand,
        RequestError::UnalignedWritePointer,
        RequestError::OpenResource,
        RequestError::ActiveResource,
        RequestError::Unknown(7),
        RequestError::Unknown(8),
    ];
    for (status, expected) in (1..).zip(expected) {
        let error = failed(status);
        assert_eq!(error, expected);
        assert_eq!(error.status().map(|s| s.0), Some(status));
    }
    assert_eq!(failed(254), RequestError::Unknown(254));
}

#[test]
fn an_answer_without_a_status_is_seen() {
    let nothing = |r: &mut Reply| r.status = None;
    assert_eq!(lied(read, nothing), Err(RequestError::Lie(Lie::NoStatus)));
    assert_eq!(lied(append, nothing), Err(RequestError::Lie(Lie::NoStatus)));
    assert_eq!(lied(|_| Request::Flush, nothing), Err(RequestError::Lie(Lie::NoStatus)));
}

/// Conformance 155: nothing past the used length is relied on.
#[test]
fn data_that_nobody_vouches_for_is_not_believed() {
    let short = |written, expected| Err(RequestError::Lie(Lie::Short { written, expected }));
    assert_eq!(lied(read, |r| r.written = Some(0)), short(0, 1024));
    assert_eq!(lied(read, |r| r.written = Some(1023)), short(1023, 1024));
    // All of the data, and the status not: an underestimate, as is allowed.
    assert_eq!(lied(read, |r| r.written = Some(1024)), Ok(Answer::Done));
    assert_eq!(lied(|_| Request::Id, |r| r.written = Some(19)), short(19, 20));
    assert_eq!(lied(|_| Request::Flush, |r| r.written = Some(0)), Ok(Answer::Done));
}

/// Conformance 128, 134.
#[test]
fn an_append_lies_inside_its_zone() {
    let at = |sector: u64| lied(append, move |r| r.append_sector = Some(sector));
    let elsewhere =
        |at| Err(RequestError::Lie(Lie::AppendedElsewhere { zone: Sector(24), at: Sector(at) }));
    assert_eq!(at(24), Ok(Answer::Appended(Sector(24))));
    assert_eq!(at(44), Ok(Answer::Appended(Sector(44))));
    assert_eq!(at(23), elsewhere(23));
    assert_eq!(at(45), elsewhere(45));
    assert_eq!(at(48), elsewhere(48));
    assert_eq!(at(u64::MAX - 1), elsewhere(u64::MAX - 1));
    // Not written: what stood there before is no sector of the zone.
    assert_eq!(lied(append, |r| r.append_sector = None), elsewhere(u64::MAX));
    // When it failed the sector means nothing.
    let failed = lied(append, |r| (r.append_sector, r.status) = (Some(0), Some(1)));
    assert_eq!(failed, Err(RequestError::Io));
}

/// Reports the zones from sector 30 on (zones 1 and 2) with `change` made to what the device says.
fn report(
    change: fn(&mut ZoneReportHeader, &mut [ZoneDescriptor]),
) -> Result<Answer, RequestError> {
    let make =
        |d: &FakeDriver| Request::Report { from: Sector(30), buffer: d.buffer(192).unwrap() };
    lied(make, move |reply| {
        let (header, zones) = ZoneReportHeader::mut_from_prefix(&mut reply.data).unwrap();
        change(header, <[ZoneDescriptor]>::mut_from_bytes(zones).unwrap());
    })
}

/// Conformance 134.
#[test]
fn each_lie_of_a_report_has_its_name() {
    let lie = |change| match report(change) {
        Err(RequestError::Lie(lie)) => lie,
        other => panic!("{other:?}"),
    };
    let start = Sector(24);
    assert_eq!(lie(|h, _| h.nr_zones = 3.into()), Lie::ZoneCount { nr_zones: 3, room: 2 });
    assert_eq!(
        lie(|h, _| h.nr_zones = u64::MAX.into()),
        Lie::ZoneCount { nr_zones: u64::MAX, room: 2 }
    );
    let zone_start = |index, start, expected| Lie::ZoneStart {
        index,
        start: Sector(start),
        expected: Sector(expected),
    };
    assert_eq!(lie(|_, z| z[0].z_start = 25.into()), zone_start(0, 25, 24));
    assert_eq!(lie(|_, z| z[0].z_start = 0.into()), zone_start(0, 0, 24));
    assert_eq!(lie(|_, z| z[1].z_start = 24.into()), zone_start(1, 24, 48));
    assert_eq!(lie(|_, z| z[1].z_start = 72.into()), zone_start(1, 72, 48));
    assert_eq!(
        lie(|_, z| z[0].z_cap = 25.into()),
        Lie::ZoneCapacity { start, capacity: Sector(25), len: Sector(24) }
    );
    let pointer = |at| Lie::WritePointer { start, write_pointer: Sector(at) };
    assert_eq!(lie(|_, z| z[0].z_wp = 25.into()), pointer(25));
    assert_eq!(lie(|_, z| (z[0].z_state, z[0].z_wp) = (2, 23.into())), pointer(23));
    assert_eq!(lie(|_, z| (z[0].z_state, z[0].z_wp) = (3, 41.into())), pointer(41));
    assert_eq!(lie(|_, z| (z[0].z_state, z[0].z_wp) = (4, u64::MAX.into())), pointer(u64::MAX));
    assert_eq!(lie(|_, z| z[0].z_type = 0), Lie::ZoneType { start, value: 0 });
    assert_eq!(lie(|_, z| z[0].z_type = 4), Lie::ZoneType { start, value: 4 });
    assert_eq!(lie(|_, z| z[0].z_state = 5), Lie::Condition { start, value: 5 });
    let mixed = |zone_type, condition| Lie::TypeAndCondition { start, zone_type, condition };
    assert_eq!(lie(|_, z| z[0].z_state = 0), mixed(ZoneType::SequentialRequired, Condition::NotWp));
    assert_eq!(lie(|_, z| z[0].z_type = 1), mixed(ZoneType::Conventional, Condition::Empty));
}

#[test]
fn what_a_report_need_not_say_is_not_looked_at() {
    // Write pointers of zones that have none, reserved bytes, and fewer zones than there is room for.
    let zones = |change| match report(change) {
        Ok(Answer::Zones(zones)) => zones,
        other => panic!("{other:?}"),
    };
    for state in [13, 14, 15] {
        let told = match state {
            13 => zones(|_, z| (z[0].z_state, z[0].z_wp) = (13, u64::MAX.into())),
            14 => zones(|_, z| (z[0].z_state, z[0].z_wp) = (14, u64::MAX.into())),
            _ => zones(|_, z| (z[0].z_state, z[0].z_wp) = (15, u64::MAX.into())),
        };
        assert_eq!((told[0].condition as u8, told[0].write_pointer), (state, None));
        assert_eq!(told[0].remaining(), Sector::ZERO);
    }
    assert_eq!(zones(|_, z| z[1].reserved.fill(0xff)).len(), 2);
    assert_eq!(
        zones(|h, z| {
            h.nr_zones = 1.into();
            z[1].z_type = 99;
        })
        .len(),
        1
    );
    assert_eq!(zones(|h, _| h.nr_zones = 0.into()).len(), 0);
    let told = zones(|_, z| (z[0].z_type, z[0].z_state, z[0].z_wp) = (1, 0, 99.into()));
    assert_eq!(told[0].write_pointer, None);
    let told = zones(|_, z| (z[0].z_state, z[0].z_wp) = (3, 40.into()));
    assert_eq!(told[0].write_pointer, Some(Sector(40)));
}

#[test]
fn a_report_is_as_long_as_the_device_vouches_for() {
    let make = |d: &FakeDriver| Request::Report { from: Sector(0), buffer: d.buffer(192).unwrap() };
    let short = |written, expected| Err(RequestError::Lie(Lie::Short { written, expected }));
    assert_eq!(lied(make, |r| r.written = Some(0)), short(0, 64));
    assert_eq!(lied(make, |r| r.written = Some(63)), short(63, 64));
    assert_eq!(lied(make, |r| r.written = Some(191)), short(191, 192));
    assert!(lied(make, |r| r.written = Some(192)).is_ok());
}

#[test]
fn zones_past_the_end_of_the_disk_are_no_zones() {
    let make =
        |d: &FakeDriver| Request::Report { from: Sector(107), buffer: d.buffer(192).unwrap() };
    let result = lied(make, |reply| {
        let mut zone = ZoneDescriptor::read_from_bytes(&reply.data[64..128]).unwrap();
        assert_eq!(zone.z_start.get(), 96);
        zone.z_start = 120.into();
        reply.data.extend_from_slice(zone.as_bytes());
        reply.data[0] = 2;
    });
    let lie = Lie::PastCapacity { index: 1, start: Sector(120) };
    assert_eq!(result, Err(RequestError::Lie(lie)));
    // The last zone is smaller than the others, and so is what it can hold.
    let result = lied(make, |reply| reply.data[64] = 13);
    let lie = Lie::ZoneCapacity { start: Sector(96), capacity: Sector(13), len: Sector(12) };
    assert_eq!(result, Err(RequestError::Lie(lie)));
}

#[test]
fn a_report_that_tells_of_nothing_does_not_go_on_for_ever() {
    let fake = Fake::zoned();
    let mut disk = drive(&fake);
    tamper(&fake, |reply| reply.data[0] = 0);
    let error = disk.zones().unwrap_err();
    let lie = Lie::NoZones(Sector(0));
    assert!(matches!(error, Error::Request(RequestError::Lie(l)) if l == lie), "{error}");
}

fn unchecked() -> Options {
    Options { checks: Checks::Minimal, ..Options::default() }
}

/// Breaks the ring of a device that has one flush in flight, and tells how the driver took it.
fn broken(break_it: impl FnOnce(&Shared)) -> DeviceLie {
    let fake = Fake::zoned();
    // Nothing is asked of the device when it is probed, so the rings are as they were made.
    let mut disk = probe(&fake, &unchecked()).unwrap();
    let held = disk.buffer(512).unwrap();
    disk.submit(0, Request::Read { at: Sector(0), buffer: held }).unwrap();
    disk.kick(0).unwrap();
    let live = fake.borrow().memory.live();
    break_it(&fake);
    let Err(Fault::Ring(lie)) = disk.poll(0) else { panic!("not seen") };
    // For good, by whatever call, and with the memory still there.
    let fault = Fault::Ring(lie);
    assert_eq!(disk.poll(0).unwrap_err(), fault);
    let rejected = disk.submit(0, Request::Flush).unwrap_err();
    assert_eq!(rejected.error, SubmitError::DeviceFailed(fault));
    assert!(!rejected.error.retry());
    assert!(matches!(disk.flush(), Err(Error::Fault(f)) if f == fault));
    assert!(matches!(disk.kick(0), Err(Error::Fault(f)) if f == fault));
    assert_eq!(fake.borrow().memory.live(), live);
    drop(disk);
    assert_eq!(fake.borrow().memory.live(), 0);
    lie
}

/// Says in the used ring that descriptor `id` is done, `len` bytes long, and moves the index to `index`.
fn use_element(fake: &Shared, id: u32, len: u32, index: u16) {
    let fake = fake.borrow();
    let used = fake.layouts[&0].used;
    fake.memory.poke(used + 4, &id.to_le_bytes());
    fake.memory.poke(used + 8, &len.to_le_bytes());
    fake.memory.poke(used + 2, &index.to_le_bytes());
}

/// Conformance 134.
#[test]
fn a_ring_that_can_not_be_right_breaks_its_queue() {
    assert_eq!(
        broken(|fake| use_element(fake, 0, 0, 2)),
        DeviceLie::UsedIndexJump { by: 2, in_flight: 1 }
    );
    assert_eq!(
        broken(|fake| use_element(fake, 0, 0, u16::MAX)),
        DeviceLie::UsedIndexJump { by: u16::MAX, in_flight: 1 }
    );
    assert_eq!(
        broken(|fake| use_element(fake, 256, 0, 1)),
        DeviceLie::IdOutOfRange { id: 256, size: 256 }
    );
    assert_eq!(broken(|fake| use_element(fake, 7, 0, 1)), DeviceLie::NotInFlight { id: 7 });
    assert_eq!(
        broken(|fake| use_element(fake, 0, 514, 1)),
        DeviceLie::LenTooLong { id: 0, len: 514, writable: 513 }
    );
}

#[test]
fn one_broken_queue_leaves_the_others_whole() {
    let fake = Fake::zoned();
    {
        let mut fake = fake.borrow_mut();
        fake.offered |= zvb_driver::Features::MQ;
        fake.config.num_queues = 2.into();
    }
    let mut disk = probe(&fake, &Options { queues: 2, ..unchecked() }).unwrap();
    use_element(&fake, 0, 0, 1);
    assert!(disk.poll(0).is_err());
    assert!(disk.queue(0).unwrap().flush().is_err());
    disk.queue(1).unwrap().flush().unwrap();
}

#[test]
fn a_device_that_needs_a_reset_is_not_asked_for_more() {
    let fake = Fake::zoned();
    let mut disk = drive(&fake);
    fake.borrow_mut().status |= DeviceStatus::NEEDS_RESET;
    disk.refresh().unwrap();
    assert!(matches!(disk.flush(), Err(Error::Fault(Fault::NeedsReset))));
}

#[test]
fn a_device_that_signals_and_never_answers_is_given_up() {
    let fake = Fake::zoned();
    let mut disk = drive(&fake);
    fake.borrow_mut().babble = true;
    assert!(matches!(disk.flush(), Err(Error::Fault(Fault::Babble))));
}

#[test]
fn a_way_that_fails_is_told_from_a_device_that_fails() {
    for call in ["notify", "wait"] {
        let fake = Fake::zoned();
        let mut disk = drive(&fake);
        fake.borrow_mut().fails = Some(call);
        let error = disk.flush().unwrap_err();
        assert!(matches!(error, Error::Transport(FakeError::Wanted(c)) if c == call), "{error}");
        // What could not be waited for is not answered to anyone else.
        fake.borrow_mut().fails = None;
        if call == "wait" {
            fake.borrow_mut().turn(0);
            assert!(disk.poll(0).unwrap().is_none());
            assert_eq!(disk.in_flight(0), 0);
            disk.flush().unwrap();
        }
    }
    let fake = Fake::zoned();
    fake.borrow_mut().fails = Some("status");
    let error = probe(&fake, &Options::default()).err().unwrap();
    assert!(matches!(error, ProbeError::Transport(_)));
}
