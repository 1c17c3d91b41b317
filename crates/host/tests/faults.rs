//! Zones that fail and requests that fail under a driver that is attached.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use support::{Rig, TestDisk, pattern};
use zvb_device::{FaultSpec, Forced, Harm, Kind};
use zvb_driver::{Request, SectorRange};
use zvb_storage::Memory;
use zvb_wire::{Condition, Model, Sector, Status};
use zvb_zones::GeometrySpec;

/// 4 zones of 64 sectors, the first conventional.
fn rig(model: Model) -> Rig {
    let spec = GeometrySpec {
        model,
        capacity: Sector(256),
        zone_size: Sector(64),
        zone_capacity: Sector(64),
        conventional: 1,
        max_open: 0,
        max_active: 0,
        max_append: Sector(32),
        write_granularity: 512,
    };
    Rig::new(Arc::new(Memory::new(spec.capacity, 512, Some(spec)).unwrap()), 1)
}

/// Waits until the driver is told that something has changed, and looks again.
#[track_caller]
fn is_told(disk: &mut TestDisk) {
    let begun = Instant::now();
    while !disk.config_changed().unwrap() {
        assert!(begun.elapsed() < Duration::from_secs(10), "the driver is not told");
        std::thread::sleep(Duration::from_millis(1));
    }
    disk.refresh().unwrap();
}

fn once(kind: Kind) -> FaultSpec {
    FaultSpec {
        kinds: [kind].into_iter().collect(),
        range: None,
        count: NonZeroU32::new(1),
        delay: Duration::ZERO,
        harm: Some(Harm::Fail(Status::IOERR)),
    }
}

#[test]
fn a_driver_is_told_of_zones_that_fail_and_come_back() {
    let rig = rig(Model::HostManaged);
    let mut disk = rig.disk();
    let zone = Sector(64);
    let data = pattern(1, 4096);
    disk.write(zone, &data).unwrap();
    for (forced, condition) in
        [(Forced::ReadOnly, Condition::ReadOnly), (Forced::Offline, Condition::Offline)]
    {
        rig.device.force_zones(1..2, forced).unwrap();
        is_told(&mut disk);
        assert_eq!(disk.zones().unwrap()[1].condition, condition);
        assert!(disk.write(Sector(72), &data).is_err());
        let mut back = vec![0; 4096];
        let read = disk.read(zone, &mut back);
        assert_eq!(read.is_ok(), condition == Condition::ReadOnly);
        assert!(read.is_err() || back == data);
    }
    rig.device.force_zones(1..2, Forced::Restored).unwrap();
    is_told(&mut disk);
    disk.write(Sector(72), &data).unwrap();
    let mut back = vec![0; 4096];
    disk.read(zone, &mut back).unwrap();
    assert_eq!(back, data);
}

#[test]
fn discards_and_zeroes_fail_when_told_to() {
    let rig = rig(Model::HostAware);
    let mut disk = rig.disk();
    let range = || vec![SectorRange { at: Sector(0), sectors: 8 }];
    for (kind, request) in [
        (Kind::Discard, Request::Discard { ranges: range() }),
        (Kind::WriteZeroes, Request::WriteZeroes { ranges: range(), unmap: false }),
    ] {
        rig.device.set_fault(once(kind)).unwrap();
        assert!(disk.queue(0).unwrap().run(request).is_err(), "{kind:?}");
    }
    disk.queue(0).unwrap().run(Request::Discard { ranges: range() }).unwrap();
}
