//! A disk that gets larger, with writes in flight and requests that wait.
#![allow(clippy::unwrap_used)] // A test that can not go on has failed.

use zvb_wire::{Condition as C, Model, Sector};
use zvb_zones::{
    Forced, Geometry, GeometryError, GeometrySpec, GrowError, Manage, Outcome, Refusal, Refused,
    Snapshot, ZoneId, Zones,
};

/// Zone 0 is conventional, 1 to 3 take 16 sectors of 24, 4 is 8 sectors small.
const SPEC: GeometrySpec = GeometrySpec {
    model: Model::HostManaged,
    capacity: Sector(104),
    zone_size: Sector(24),
    zone_capacity: Sector(16),
    conventional: 1,
    max_open: 2,
    max_active: 3,
    max_append: Sector(16),
    write_granularity: 4096,
};

fn zones() -> Zones {
    Zones::new(Geometry::new(SPEC).unwrap())
}

fn write(zones: &mut Zones, at: u64, sectors: u64) -> Result<(), Refused> {
    let begun = zones.begin_write(Sector(at), Sector(sectors), 1, None)?;
    zones.end_write(begun.write.unwrap(), Outcome::Done, |released| assert!(released.ok));
    Ok(())
}

fn state(zones: &Zones, zone: u32) -> (C, u64) {
    let state = zones.snapshot(ZoneId(zone));
    (state.condition(), state.written().0)
}

#[test]
fn a_smaller_last_zone_becomes_whole_and_new_ones_are_empty() {
    let mut z = zones();
    write(&mut z, 24, 8).unwrap();
    z.take_changed(|_, _| {});
    // One granule more, then all of the zone, then two zones and a half.
    for (capacity, count, last) in [(112, 5, 16), (120, 5, 24), (180 - 4, 8, 8)] {
        z.grow(Sector(capacity)).unwrap();
        let geometry = *z.geometry();
        assert_eq!((geometry.zone_count(), geometry.len(ZoneId(count - 1)).0), (count, last));
    }
    assert_eq!(state(&z, 1), (C::ImplicitOpen, 8));
    for zone in [4, 5, 6, 7] {
        assert_eq!(state(&z, zone), (C::Empty, 0));
    }
    z.take_changed(|zone, _| panic!("zone {} has not changed", zone.0));
    write(&mut z, 96, 16).unwrap();
    assert_eq!(state(&z, 4), (C::Full, 16));
    write(&mut z, 168, 8).unwrap();
    assert_eq!(state(&z, 7), (C::Full, 8));
    z.reset_all(None).unwrap();
    assert_eq!((state(&z, 7), state(&z, 1)), ((C::Empty, 0), (C::Empty, 0)));
}

/// What is in flight to the last zone when it grows, whatever its condition becomes.
#[test]
fn the_last_zone_grows_under_its_writes() {
    // Reserved to its old end: it is not full any more.
    let mut z = zones();
    let begun = z.begin_write(Sector(96), Sector(8), 1, None).unwrap();
    let full = z.begin_write(Sector(104), Sector(8), 2, None).unwrap_err();
    assert!(matches!(full, Refused::Status(_)), "past the end of the disk");
    z.grow(Sector(120)).unwrap();
    let second = z.begin_write(Sector(104), Sector(8), 2, None).unwrap();
    z.end_write(begun.write.unwrap(), Outcome::Done, |_| {});
    assert_eq!(state(&z, 4), (C::ImplicitOpen, 8));
    z.end_write(second.write.unwrap(), Outcome::Done, |_| {});
    assert_eq!(state(&z, 4), (C::Full, 16));

    // Full, it stays full, as if it had been finished; read-only, it stays that.
    let mut z = zones();
    write(&mut z, 96, 8).unwrap();
    z.grow(Sector(120)).unwrap();
    assert_eq!(state(&z, 4), (C::Full, 8));
    assert!(write(&mut z, 104, 8).is_err());
    z.set_condition(ZoneId(4), Forced::ReadOnly).unwrap();
    z.grow(Sector(144)).unwrap();
    assert_eq!(state(&z, 4), (C::ReadOnly, 8));
    z.set_condition(ZoneId(4), Forced::Restored).unwrap();
    assert_eq!(state(&z, 4), (C::Closed, 8));
}

#[test]
fn who_waits_goes_on_in_a_larger_disk() {
    let mut z = zones();
    let a = z.begin_write(Sector(24), Sector(8), 1, None).unwrap();
    let b = z.begin_write(Sector(48), Sector(8), 2, None).unwrap();
    let Err(Refused::Wait(ticket)) = z.begin_write(Sector(72), Sector(8), 3, None) else {
        panic!("there is room for a third open zone");
    };
    let Err(Refused::Wait(reset)) = z.manage(Manage::Reset, Sector(24), None) else {
        panic!("a reset goes behind a write");
    };
    z.grow(Sector(240)).unwrap();
    // A command of the disk is a barrier to new zones too.
    let Err(Refused::Wait(all)) = z.reset_all(None) else { panic!("writes are in flight") };
    assert!(matches!(z.begin_write(Sector(192), Sector(8), 4, None), Err(Refused::Wait(_))));
    z.end_write(a.write.unwrap(), Outcome::Done, |_| {});
    assert!(z.wants_retry());
    z.manage(Manage::Reset, Sector(24), Some(reset)).unwrap();
    z.end_write(b.write.unwrap(), Outcome::Done, |_| {});
    let third = z.begin_write(Sector(72), Sector(8), 3, Some(ticket)).unwrap();
    z.end_write(third.write.unwrap(), Outcome::Done, |_| {});
    z.reset_all(Some(all)).unwrap();
    assert!(z.wants_retry());
}

#[test]
fn limits_count_new_zones_and_the_states_can_be_restored() {
    let mut z = zones();
    z.grow(Sector(240)).unwrap();
    for zone in [1, 8, 9] {
        write(&mut z, zone * 24, 8).unwrap();
    }
    let limit = z.begin_write(Sector(48), Sector(8), 1, None).unwrap_err();
    assert_eq!(limit, Refused::Status(Refusal::ActiveLimit));
    assert_eq!((z.counts().open(), z.counts().active()), (2, 3));
    let states: Vec<Snapshot> = z.geometry().zones().map(|zone| z.snapshot(zone)).collect();
    let restored = Zones::restore(*z.geometry(), &states).unwrap();
    assert_eq!(restored.counts().active(), 3);
}

#[test]
fn what_is_no_larger_disk_is_refused_and_changes_nothing() {
    let mut z = zones();
    let shrinks = |to| GrowError::Shrinks { from: Sector(104), to: Sector(to) };
    assert_eq!(z.grow(Sector(96)), Err(shrinks(96)));
    assert_eq!(z.grow(Sector(0)), Err(shrinks(0)));
    let odd = GeometryError::Capacity(Sector(105));
    assert_eq!(z.grow(Sector(105)), Err(GrowError::Geometry(odd)));
    let many = z.grow(Sector(24 << 23)).unwrap_err();
    assert!(matches!(many, GrowError::Geometry(GeometryError::TooManyZones { .. })), "{many}");
    assert!(z.grow(Sector(u64::MAX - 7)).is_err());
    assert_eq!(*z.geometry(), Geometry::new(SPEC).unwrap());
    z.grow(SPEC.capacity).unwrap();
    assert_eq!(*z.geometry(), Geometry::new(SPEC).unwrap());
    // The same answer as of a disk that is made so.
    let geometry = *z.geometry();
    for capacity in
        (0..3000).chain([u64::MAX, 1 << 63, 1 << 54, (1 << 22) * 24, (1 << 22) * 24 + 8])
    {
        let capacity = Sector(capacity);
        let made = Geometry::new(GeometrySpec { capacity, ..SPEC });
        assert_eq!(geometry.with_capacity(capacity), made);
    }
}
