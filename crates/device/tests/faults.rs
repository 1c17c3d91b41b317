//! Faults on demand, zones that are made to fail, and the counters.

#![allow(clippy::unwrap_used, reason = "a test that can not go on has failed")]

mod support;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use support::*;
use zvb_device::{
    Device, DeviceOptions, FaultSpec, ForceError, Forced, Harm, Kind, Kinds, Session, Stats,
};
use zvb_storage::Volume;
use zvb_wire::{Condition, Features, Model, RequestType, Sector, Status};
use zvb_zones::{Refusal, Snapshot, ZoneId};

fn device(volume: &Arc<TestVolume>) -> (Arc<Device>, Arc<Session>) {
    let options =
        DeviceOptions { queues: 2, timing: true, secure_erase: true, ..DeviceOptions::default() };
    let device = Device::new(Arc::clone(volume) as Arc<dyn Volume>, options).unwrap();
    let session = device.session();
    session.accept(device.features()).unwrap();
    (device, session)
}

fn host_managed() -> (Arc<TestVolume>, Arc<Device>, Guest) {
    let volume = TestVolume::zoned(small(Model::HostManaged, 0, 0));
    let (device, session) = device(&volume);
    let guest = Guest::new(&session, 0);
    (volume, device, guest)
}

fn fault(kinds: &[Kind], count: u32, harm: Harm) -> FaultSpec {
    FaultSpec {
        kinds: kinds.iter().copied().collect(),
        range: None,
        count: NonZeroU32::new(count),
        delay: Duration::ZERO,
        harm: Some(harm),
    }
}

fn fail(kinds: &[Kind], count: u32) -> FaultSpec {
    fault(kinds, count, Harm::Fail(Status::IOERR))
}

fn queue_stats(stats: &Stats, queue: usize, kind: Kind) -> zvb_device::KindStats {
    stats.queues[queue][kind as usize]
}

#[test]
fn the_next_requests_of_a_kind_fail_with_the_status_that_was_chosen() {
    let (volume, device, mut g) = host_managed();
    let status = Status::ZONE_OPEN_RESOURCE;
    device.set_fault(fault(&[Kind::Write, Kind::Append], 2, Harm::Fail(status))).unwrap();
    assert_eq!(g.write(32, &pattern(1, 8)), status);
    assert_eq!(g.append(64, &pattern(1, 8)).0, status);
    assert_eq!((g.written(32), g.written(64)), (0, 0), "nothing of them is there");
    assert_eq!(g.conditions()[1..3], [Condition::Empty; 2]);
    assert_eq!(volume.bytes(Sector(32), 8), vec![0xee; 4096], "nor on the medium");
    assert_eq!(g.write(32, &pattern(1, 8)), Status::OK);
    assert_eq!(g.append(32, &pattern(2, 8)), (Status::OK, 40));
}

#[test]
fn each_kind_can_be_made_to_fail() {
    let (_, device, mut g) = host_managed();
    assert_eq!(g.write(32, &pattern(1, 8)), Status::OK);
    let kinds = [
        (Kind::Read, RequestType::IN),
        (Kind::Flush, RequestType::FLUSH),
        (Kind::Id, RequestType::GET_ID),
        (Kind::Report, RequestType::ZONE_REPORT),
        (Kind::Open, RequestType::ZONE_OPEN),
        (Kind::Close, RequestType::ZONE_CLOSE),
        (Kind::Finish, RequestType::ZONE_FINISH),
        (Kind::Reset, RequestType::ZONE_RESET),
        (Kind::ResetAll, RequestType::ZONE_RESET_ALL),
    ];
    for (kind, request) in kinds {
        let id = device.set_fault(fail(&[kind], 1)).unwrap();
        let answer = g.request(&[&Guest::header(request, 32)], &[512, 1]);
        assert_eq!(answer.status(), Status::IOERR, "{kind:?}");
        assert_eq!(device.faults().list()[0].hits, 1, "{kind:?}");
        assert_eq!(device.faults().clear(Some(id)), 1);
    }
    assert_eq!(g.written(32), 8);
    assert_eq!(g.conditions()[1], Condition::ImplicitOpen, "nothing was done to the zone");
    device.set_fault(fail(&[Kind::WriteZeroes], 1)).unwrap();
    let range =
        |at: u64, sectors: u32| [&at.to_le_bytes()[..], &sectors.to_le_bytes(), &[0; 4]].concat();
    let zeroes = |g: &mut Guest| {
        g.request(&[&Guest::header(RequestType::WRITE_ZEROES, 0), &range(40, 8)], &[1]).status()
    };
    assert_eq!(zeroes(&mut g), Status::IOERR);
    assert_eq!(zeroes(&mut g), Status::OK);
    assert_eq!(g.written(32), 16);
}

#[test]
fn discards_and_erases_of_a_plain_disk_fail_and_its_writes_tear() {
    let volume = TestVolume::plain(256);
    let (device, session) = device(&volume);
    let mut g = Guest::new(&session, 0);
    device.set_fault(fail(&[Kind::Discard], 1)).unwrap();
    let range = [&0u64.to_le_bytes()[..], &8u32.to_le_bytes(), &[0; 4]].concat();
    let mut act = |request| g.request(&[&Guest::header(request, 0), &range], &[1]).status();
    let [discard, erase] = [RequestType::DISCARD, RequestType::SECURE_ERASE];
    assert_eq!((act(discard), act(discard)), (Status::IOERR, Status::OK));
    device.set_fault(fail(&[Kind::SecureErase], 1)).unwrap();
    assert_eq!((act(erase), act(erase)), (Status::IOERR, Status::OK));
    device.set_fault(fault(&[Kind::Write], 1, Harm::Tear(Some(Sector(8))))).unwrap();
    assert_eq!(g.write(64, &pattern(3, 24)), Status::IOERR);
    let (_, read) = g.read(64, 24);
    assert_eq!(read[..4096], pattern(3, 24)[..4096]);
    assert_eq!(read[4096..], vec![0; 2 * 4096]);
    let zoned = fault(&[Kind::Read], 1, Harm::Fail(Status::ZONE_INVALID_CMD));
    assert!(device.set_fault(zoned).is_err(), "it has no zones");
}

#[test]
fn the_write_pointer_tells_what_reached_the_medium_of_a_torn_write() {
    let (volume, device, mut g) = host_managed();
    assert_eq!(g.write(32, &pattern(1, 8)), Status::OK);
    device.set_fault(fault(&[Kind::Write], 1, Harm::Tear(None))).unwrap();
    let data = pattern(2, 16);
    assert_eq!(g.write(40, &data), Status::IOERR);
    assert_eq!(g.written(32), 16);
    assert_eq!(volume.recorded(1).unwrap().written(), Sector(16), "the medium knows");
    let (status, read) = g.read(32, 24);
    assert_eq!(status, Status::OK);
    assert_eq!(read, [pattern(1, 8), data[..4096].to_vec(), vec![0; 4096]].concat());
    // It goes on from there, and so does an append that is torn to nothing.
    device.set_fault(fault(&[Kind::Append], 1, Harm::Tear(Some(Sector(3))))).unwrap();
    let (status, at) = g.append(32, &pattern(4, 8));
    assert_eq!((status, at), (Status::IOERR, u64::MAX));
    assert_eq!(g.append(32, &pattern(4, 8)), (Status::OK, 48));
}

#[test]
fn writes_behind_a_torn_one_fail_with_it() {
    let (volume, device, mut g) = host_managed();
    volume.manual();
    let second = FaultSpec {
        range: Some(Sector(40)..Sector(41)),
        ..fault(&[Kind::Write], 1, Harm::Tear(None))
    };
    device.set_fault(second).unwrap();
    // Two writes and an append behind them, one after the other in the zone.
    let writes = [
        g.send_write(32, &pattern(1, 8)),
        g.send_write(40, &pattern(2, 8)),
        g.send(&[&Guest::header(RequestType::ZONE_APPEND, 32), &pattern(3, 8)], &[9]),
    ];
    g.turn();
    assert_eq!(volume.pending(), 2, "of one block nothing is left when it is torn");
    volume.finish(1);
    volume.finish(0);
    g.turn();
    let statuses = writes.map(|write| g.answer(&write).unwrap().status());
    assert_eq!(statuses, [Status::OK, Status::IOERR, Status::IOERR]);
    assert_eq!(volume.recorded(1).unwrap().written(), Sector(8));
}

#[test]
fn faults_are_for_ranges() {
    let (_, device, mut g) = host_managed();
    assert_eq!(g.write(32, &pattern(1, 24)), Status::OK);
    assert_eq!(g.write(64, &pattern(1, 8)), Status::OK);
    let zone1 = Some(Sector(32)..Sector(64));
    let all = Kinds::all().iter().filter(|kind| kind.has_place()).collect();
    device.set_fault(FaultSpec { kinds: all, range: zone1, count: None, ..fail(&[], 0) }).unwrap();
    for at in [32, 48, 63] {
        assert_eq!(g.read(at, 1).0, Status::IOERR);
    }
    assert_eq!((g.read(31, 1).0, g.read(64, 1).0), (Status::OK, Status::OK));
    assert_eq!(g.append(64, &pattern(2, 8)), (Status::OK, 72));
    assert_eq!(g.simple(RequestType::ZONE_RESET, 32), Status::IOERR);
    assert_eq!(g.simple(RequestType::ZONE_FINISH, 64), Status::OK);
    assert_eq!(g.report(40, 128).0, Status::IOERR);
    assert_eq!(g.report(64, 128).0, Status::OK);
    // An append is hit where it would go: the zone's start is out of the range, its pointer inside.
    device.faults().clear(None);
    assert_eq!(g.append(96, &pattern(1, 8)), (Status::OK, 96));
    device
        .set_fault(FaultSpec { range: Some(Sector(104)..Sector(105)), ..fail(&[Kind::Append], 1) })
        .unwrap();
    assert_eq!(g.append(96, &pattern(1, 8)).0, Status::IOERR);
    assert_eq!(g.append(96, &pattern(1, 8)), (Status::OK, 104));
}

#[test]
fn who_knows_no_zones_gets_no_status_of_theirs() {
    let volume = TestVolume::zoned(small(Model::HostAware, 0, 0));
    let device = Device::new(volume as Arc<dyn Volume>, DeviceOptions::default()).unwrap();
    let session = device.session();
    session.accept(device.features().difference(Features::ZONED)).unwrap();
    let mut g = Guest::new(&session, 0);
    device.set_fault(fault(&[Kind::Write], 1, Harm::Fail(Status::ZONE_ACTIVE_RESOURCE))).unwrap();
    assert_eq!(g.write(40, &pattern(1, 8)), Status::IOERR);
}

#[test]
fn a_tear_over_sequential_preferred_zones_moves_the_pointers_before_it() {
    let volume = TestVolume::zoned(small(Model::HostAware, 0, 0));
    let (device, session) = device(&volume);
    let mut g = Guest::new(&session, 0);
    device.set_fault(fault(&[Kind::Write], 1, Harm::Tear(Some(Sector(24))))).unwrap();
    assert_eq!(g.write(56, &pattern(1, 48)), Status::IOERR);
    // 8 sectors of zone 1 and 16 of zone 2; zone 3 has nothing.
    assert_eq!((g.written(64), g.written(96)), (16, 0));
    assert_eq!(g.conditions()[1..4], [Condition::Full, Condition::ImplicitOpen, Condition::Empty]);
    assert_eq!(g.read(56, 24).1, pattern(1, 48)[..24 * 512]);
}

#[test]
fn delays_hold_up_the_request_and_nothing_else() {
    let (_, device, mut g) = host_managed();
    assert_eq!(g.write(32, &pattern(1, 8)), Status::OK);
    let delay = Duration::from_millis(40);
    let slow = FaultSpec { delay, harm: None, ..fail(&[Kind::Read], 1) };
    device.set_fault(slow.clone()).unwrap();
    let begun = Instant::now();
    let header = Guest::header(RequestType::IN, 32);
    let held = g.send(&[&header], &[4096, 1]);
    let other = g.send(&[&header], &[4096, 1]);
    g.turn();
    assert!(g.answer(&held).is_none());
    assert_eq!(g.answer(&other).unwrap().status(), Status::OK);
    let deadline = g.lane.deadline().unwrap();
    assert!(deadline >= begun + delay && deadline <= Instant::now() + delay);
    while g.answer(&held).is_none() {
        std::thread::sleep(Duration::from_millis(1));
        g.turn();
    }
    assert!(begun.elapsed() >= delay);
    assert_eq!(g.answer(&held).unwrap().status(), Status::OK);
    assert_eq!((g.lane.deadline(), g.lane.in_flight()), (None, 0));
    let read = queue_stats(&device.stats(), 0, Kind::Read);
    assert!(read.longest >= delay && read.time >= read.longest, "{read:?}");

    // A queue that is to stop waits for nobody.
    device.set_fault(FaultSpec { delay: Duration::from_secs(60), ..slow }).unwrap();
    let held = g.send(&[&header], &[4096, 1]);
    g.turn();
    assert!(g.answer(&held).is_none());
    let _ = g.lane.turn(false);
    assert_eq!(g.answer(&held).unwrap().status(), Status::OK);
}

#[test]
fn a_delayed_write_keeps_its_place_and_may_fail_in_the_end() {
    let (_, device, mut g) = host_managed();
    let delay = Duration::from_secs(60);
    let slow = FaultSpec { delay, ..fail(&[Kind::Write], 1) };
    device.set_fault(slow).unwrap();
    let held = g.send_write(32, &pattern(1, 8));
    let behind = g.send_write(40, &pattern(2, 8));
    let reset = g.send(&[&Guest::header(RequestType::ZONE_RESET, 32)], &[1]);
    g.turn();
    for sent in [&held, &behind, &reset] {
        assert!(g.answer(sent).is_none());
    }
    let refused = device.force_zones(1..2, Forced::ReadOnly);
    assert_eq!(refused, Ok(()), "writes in flight keep no zone from failing");
    let busy = Err(ForceError::Busy { zone: ZoneId(1) });
    assert_eq!(device.force_zones(1..2, Forced::Restored), busy);
    let _ = g.lane.turn(false);
    let statuses = [held, behind, reset].map(|sent| g.answer(&sent).unwrap().status());
    assert_eq!(statuses, [Status::IOERR, Status::IOERR, Status::ZONE_INVALID_CMD]);
    assert_eq!(device.force_zones(1..2, Forced::Restored), Ok(()));
    assert_eq!(device.zone_states()[1], Snapshot::EMPTY);
}

#[test]
fn zones_fail_under_running_lanes_and_come_back() {
    let (volume, device, mut g) = host_managed();
    assert_eq!(g.write(32, &pattern(1, 8)), Status::OK);
    assert_eq!(g.write(64, &pattern(2, 24)), Status::OK);
    assert_eq!(device.force_zones(1..3, Forced::ReadOnly), Ok(()));
    assert_eq!(g.conditions()[1..3], [Condition::ReadOnly; 2]);
    assert_eq!(g.write(40, &pattern(1, 8)), Status::ZONE_INVALID_CMD);
    assert_eq!(g.simple(RequestType::ZONE_RESET, 64), Status::ZONE_INVALID_CMD);
    assert_eq!(g.read(32, 8), (Status::OK, pattern(1, 8)));
    assert_eq!(volume.recorded(1), Some(Snapshot::new(Condition::ReadOnly, Sector(8))));
    assert_eq!(
        device.stats().conditions
            [Condition::ALL.iter().position(|c| *c == Condition::ReadOnly).unwrap()],
        2
    );

    assert_eq!(device.force_zones(1..2, Forced::Offline), Ok(()));
    assert_eq!(g.read(32, 8).0, Status::ZONE_INVALID_CMD);
    assert_eq!(volume.recorded(1).unwrap().condition(), Condition::Offline);
    assert_eq!(device.force_zones(0..1, Forced::Offline), Ok(()));
    assert_eq!(g.read(0, 8).0, Status::ZONE_INVALID_CMD);
    assert_eq!(g.write(0, &pattern(1, 8)), Status::ZONE_INVALID_CMD);

    assert_eq!(device.force_zones(0..3, Forced::Restored), Ok(()));
    let back = [Condition::NotWp, Condition::Closed, Condition::Full];
    assert_eq!(g.conditions()[..3], back);
    assert_eq!(g.read(32, 8), (Status::OK, pattern(1, 8)));
    assert_eq!(g.write(40, &pattern(3, 8)), Status::OK);
    assert_eq!(g.read(64, 24), (Status::OK, pattern(2, 24)));
}

#[test]
fn zones_come_back_together_or_not_at_all() {
    let volume = TestVolume::zoned(small(Model::HostManaged, 2, 2));
    let (device, session) = device(&volume);
    let mut g = Guest::new(&session, 0);
    assert_eq!(g.write(32, &pattern(1, 8)), Status::OK);
    assert_eq!(g.write(64, &pattern(2, 8)), Status::OK);
    assert_eq!(device.force_zones(1..3, Forced::ReadOnly), Ok(()));
    // They count for nothing now, and another takes the room.
    assert_eq!(g.write(96, &pattern(1, 8)), Status::OK);
    let refused = ForceError::Refused { zone: ZoneId(2), refusal: Refusal::ActiveLimit };
    assert_eq!(device.force_zones(1..3, Forced::Restored), Err(refused));
    assert_eq!(g.conditions()[1..3], [Condition::ReadOnly; 2]);
    assert_eq!(device.force_zones(1..2, Forced::Restored), Ok(()));
    assert_eq!(g.write(128, &pattern(1, 8)), Status::ZONE_ACTIVE_RESOURCE);
}

#[test]
fn a_zone_that_fails_frees_who_waits_on_another_queue() {
    let volume = TestVolume::zoned(small(Model::HostManaged, 0, 0));
    let (device, session) = device(&volume);
    let (mut a, mut b) = (Guest::new(&session, 0), Guest::new(&session, 1));
    volume.manual();
    let write = a.send_write(32, &pattern(1, 8));
    a.turn();
    let reset = b.send(&[&Guest::header(RequestType::ZONE_RESET, 32)], &[1]);
    b.turn();
    assert!(b.answer(&reset).is_none(), "it waits for the write");
    assert_eq!(device.force_zones(1..2, Forced::Offline), Ok(()));
    assert!(!b.lane.prepare_sleep(), "it has been told");
    b.turn();
    assert_eq!(b.answer(&reset).unwrap().status(), Status::ZONE_INVALID_CMD);
    volume.finish(0);
    a.turn();
    assert_eq!(a.answer(&write).unwrap().status(), Status::IOERR);
    assert_eq!(device.zone_states()[1], Snapshot::new(Condition::Offline, Sector::ZERO));
}

#[test]
fn what_can_not_be_forced_is_refused() {
    let (_, device, _guest) = host_managed();
    for (first, end) in [(2, 2), (3, 2), (5, 7), (u32::MAX, u32::MAX)] {
        let refused = device.force_zones(first..end, Forced::Offline);
        assert_eq!(refused, Err(ForceError::NoSuchZones { first, end, count: 6 }));
    }
    let plain = Device::new(TestVolume::plain(64) as Arc<dyn Volume>, DeviceOptions::default());
    assert_eq!(plain.unwrap().force_zones(0..1, Forced::Offline), Err(ForceError::NotZoned));
    let fixed = TestVolume::read_only(small(Model::HostManaged, 0, 0));
    let fixed = Device::new(fixed as Arc<dyn Volume>, DeviceOptions::default());
    assert_eq!(fixed.unwrap().force_zones(0..1, Forced::Offline), Err(ForceError::ReadOnly));
}

#[test]
fn requests_are_counted_by_queue_and_kind() {
    let volume = TestVolume::zoned(small(Model::HostManaged, 0, 0));
    let (device, session) = device(&volume);
    let (mut a, mut b) = (Guest::new(&session, 0), Guest::new(&session, 1));
    assert_eq!(a.write(32, &pattern(1, 8)), Status::OK);
    assert_eq!(a.write(32, &pattern(1, 8)), Status::ZONE_UNALIGNED_WP);
    assert_eq!(b.read(32, 16).0, Status::OK);
    assert_eq!(b.append(32, &pattern(1, 16)), (Status::OK, 40));
    assert_eq!(b.report(0, 64 * 3).0, Status::OK);
    assert_eq!(a.simple(RequestType(99), 0), Status::UNSUPP);
    volume.manual();
    let flush = a.send(&[&Guest::header(RequestType::FLUSH, 0)], &[1]);
    a.turn();
    let stats = device.stats();
    let told = |queue, kind| {
        let s = queue_stats(&stats, queue, kind);
        (s.requests, s.errors, s.bytes, s.in_flight)
    };
    assert_eq!(told(0, Kind::Write), (2, 1, 4096, 0));
    assert_eq!(told(0, Kind::Read), (0, 0, 0, 0));
    assert_eq!(told(1, Kind::Read), (1, 0, 8192, 0));
    assert_eq!(told(1, Kind::Append), (1, 0, 8192, 0));
    assert_eq!(told(1, Kind::Report), (1, 0, 192, 0));
    assert_eq!(told(0, Kind::Refused), (1, 1, 0, 0));
    assert_eq!(told(0, Kind::Flush), (0, 0, 0, 1));
    assert!(queue_stats(&stats, 0, Kind::Write).longest > Duration::ZERO);
    volume.finish(0);
    a.turn();
    assert_eq!(a.answer(&flush).unwrap().status(), Status::OK);
    assert_eq!(queue_stats(&device.stats(), 0, Kind::Flush).in_flight, 0);
    let total = stats
        .queues
        .iter()
        .flatten()
        .fold(Default::default(), |a: zvb_device::KindStats, b| a.plus(*b));
    assert_eq!((total.requests, total.errors, total.in_flight), (6, 2, 1));
}
