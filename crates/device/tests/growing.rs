//! A disk that grows with requests in flight, parked and to come (conformance 24).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use support::*;
use zvb_device::{ConfigListener, Device, DeviceOptions, Session};
use zvb_storage::{GrowError, Volume};
use zvb_wire::{Condition, Model, RequestType, Sector, Status};

/// Counts what it is told, and looks at once.
#[derive(Default)]
struct Told {
    times: AtomicU32,
    capacity: AtomicU32,
    device: std::sync::Mutex<Option<Arc<Device>>>,
}

impl ConfigListener for Told {
    fn config_changed(&self) {
        self.times.fetch_add(1, Ordering::Relaxed);
        let device = self.device.lock().unwrap();
        let seen = device.as_ref().unwrap().capacity();
        self.capacity.store(seen.0 as u32, Ordering::Relaxed);
    }
}

fn device(volume: &Arc<TestVolume>) -> (Arc<Device>, Arc<Session>) {
    let options = DeviceOptions { queues: 2, secure_erase: true, ..DeviceOptions::default() };
    let device = Device::new(Arc::clone(volume) as Arc<dyn Volume>, options).unwrap();
    let session = device.session();
    session.accept(device.features()).unwrap();
    (device, session)
}

#[test]
fn what_is_in_flight_or_waits_is_not_disturbed() {
    let volume = TestVolume::zoned(small(Model::HostManaged, 2, 3));
    let (device, session) = device(&volume);
    let told = Arc::<Told>::default();
    *told.device.lock().unwrap() = Some(Arc::clone(&device));
    device.listen(&told);
    let (mut a, mut b) = (Guest::new(&session, 0), Guest::new(&session, 1));
    volume.manual();
    // To the old end of the last zone, of 16 sectors; to another zone; and what must wait: a third zone,
    // and a reset.
    let last = a.send_write(160, &pattern(1, 16));
    let first = a.send_write(32, &pattern(2, 8));
    a.turn();
    let third = b.send_write(64, &pattern(3, 8));
    let reset = b.send(&[&Guest::header(RequestType::ZONE_RESET, 32)], &[1]);
    b.turn();
    assert_eq!(volume.pending(), 2);
    let past = a.send_write(176, &pattern(4, 8));
    a.turn();
    assert_eq!(a.answer(&past).unwrap().status(), Status::IOERR, "past the end");

    let before = session.config();
    device.resize(Sector(32 * 8 + 8)).unwrap();
    assert_eq!(
        (told.times.load(Ordering::Relaxed), told.capacity.load(Ordering::Relaxed)),
        (1, 264)
    );
    assert_eq!((device.config_generation(), device.capacity()), (1, Sector(264)));
    let mut after = session.config();
    assert_eq!(after.capacity.get(), 264);
    after.capacity = before.capacity;
    assert_eq!(after, before, "nothing else changes");

    // The write that was to fill the last zone does not any more, and more can follow it.
    let more = a.send_write(176, &pattern(5, 8));
    a.turn();
    volume.finish(0);
    volume.finish(0);
    a.turn();
    b.turn();
    assert_eq!(a.answer(&last).unwrap().status(), Status::OK);
    assert_eq!(a.answer(&first).unwrap().status(), Status::OK);
    assert_eq!(b.answer(&reset).unwrap().status(), Status::OK);
    assert_eq!(volume.recorded(5).unwrap().written(), Sector(16));
    // Not full any more, and so closed for the third.
    assert_eq!(volume.recorded(5).unwrap().condition(), Condition::Closed);
    while volume.pending() > 0 {
        volume.finish(0);
        a.turn();
        b.turn();
    }
    assert_eq!(a.answer(&more).unwrap().status(), Status::OK);
    assert_eq!(b.answer(&third).unwrap().status(), Status::OK);
    assert_eq!(volume.recorded(5).unwrap().condition(), Condition::Full);
    assert_eq!(volume.bytes(Sector(160), 24), [pattern(1, 16), pattern(5, 8)].concat());
    assert_eq!(a.lane.in_flight() + b.lane.in_flight(), 0);
}

#[test]
fn new_zones_can_do_what_zones_can() {
    let volume = TestVolume::zoned(small(Model::HostManaged, 0, 0));
    let (device, session) = device(&volume);
    let mut g = Guest::new(&session, 0);
    device.resize(Sector(32 * 70 + 8)).unwrap();
    let zones = g.report(0, 4096 * 8).1;
    assert_eq!(zones.len(), 71);
    assert_eq!(zones[5].z_cap.get(), 24, "the last zone is whole");
    assert_eq!((zones[70].z_start.get(), zones[70].z_cap.get()), (32 * 70, 8));
    assert!(zones[6..].iter().all(|zone| zone.z_state == Condition::Empty as u8));
    // Never written, a zone reads as zeroes, whatever stands on the medium.
    assert_eq!(g.read(32 * 69, 8), (Status::OK, vec![0; 4096]));
    assert_eq!(g.append(32 * 70, &pattern(1, 8)), (Status::OK, 32 * 70));
    assert_eq!(g.read(32 * 70, 8), (Status::OK, pattern(1, 8)));
    assert_eq!(g.simple(RequestType::ZONE_OPEN, 32 * 69), Status::OK);
    assert_eq!(g.simple(RequestType::ZONE_RESET, 32 * 70), Status::OK);
    assert_eq!(g.read(32 * 71, 8).0, Status::IOERR, "past the end");
    assert_eq!(g.simple(RequestType::ZONE_RESET_ALL, 0), Status::OK);
    // Several times, and a session that comes later sees the same.
    device.resize(Sector(32 * 200)).unwrap();
    drop(g);
    let session = device.session();
    session.accept(device.features()).unwrap();
    let mut g = Guest::new(&session, 0);
    assert_eq!(g.report(32 * 190, 4096 * 8).1.len(), 10);
    assert_eq!(device.config_generation(), 2);
}

#[test]
fn what_can_not_be_leaves_the_device_as_it_was() {
    let volume = TestVolume::zoned(small(Model::HostManaged, 0, 0));
    let (device, session) = device(&volume);
    let told = Arc::<Told>::default();
    *told.device.lock().unwrap() = Some(Arc::clone(&device));
    device.listen(&told);
    let capacity = device.capacity();
    let shrunk = device.resize(Sector(capacity.0 - 8));
    assert!(matches!(shrunk, Err(GrowError::Shrinks { from, .. }) if from == capacity));
    device.resize(capacity).unwrap();
    volume.fill();
    assert!(matches!(device.resize(Sector(32 * 10)), Err(GrowError::NoRoom(_))));
    assert_eq!((device.capacity(), device.config_generation()), (capacity, 0));
    assert_eq!(told.times.load(Ordering::Relaxed), 0);
    let mut g = Guest::new(&session, 0);
    assert_eq!(g.report(0, 4096).1.len(), 6);

    let (device, _session) = self::device(&TestVolume::read_only(small(Model::HostManaged, 0, 0)));
    assert!(matches!(device.resize(Sector(32 * 10)), Err(GrowError::ReadOnly)));
}

#[test]
fn plain_and_host_aware_disks_grow_too() {
    let volume = TestVolume::plain(64);
    let (device, session) = device(&volume);
    let mut g = Guest::new(&session, 0);
    assert_eq!(g.write(64, &pattern(1, 8)), Status::IOERR);
    device.resize(Sector(1024)).unwrap();
    assert_eq!(g.write(1016, &pattern(1, 8)), Status::OK);
    assert_eq!(g.read(1016, 8), (Status::OK, pattern(1, 8)));
    drop(g);

    let volume = TestVolume::zoned(small(Model::HostAware, 1, 0));
    let (device, session) = self::device(&volume);
    let mut g = Guest::new(&session, 0);
    device.resize(Sector(32 * 9)).unwrap();
    // Across the border of the old disk.
    assert_eq!(g.write(170, &pattern(1, 16)), Status::OK);
    assert_eq!(g.written(160), 26);
    assert_eq!(g.conditions().len(), 9);
}
