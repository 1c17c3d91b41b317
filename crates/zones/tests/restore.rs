//! What a restart makes of what was remembered (conformance 96), and what it refuses.
#![allow(clippy::unwrap_used)] // A test that can not go on has failed.

use zvb_wire::{Condition, Model, Sector, ZoneType};
use zvb_zones::{Geometry, GeometrySpec, RestoreError, Snapshot, ZoneId, Zones};

use Condition as C;

/// Zone 0 is conventional, 1 and 2 take 16 sectors of 24 (all 24 of a host-aware disk), 3 is 8 sectors
/// small.
fn geometry(model: Model) -> Geometry {
    let managed = model == Model::HostManaged;
    Geometry::new(GeometrySpec {
        model,
        capacity: Sector(80),
        zone_size: Sector(24),
        zone_capacity: Sector(if managed { 16 } else { 24 }),
        conventional: 1,
        max_open: 1,
        max_active: if managed { 2 } else { 0 },
        max_append: Sector(8),
        write_granularity: 4096,
    })
    .unwrap()
}

fn states(zone: usize, state: Snapshot) -> [Snapshot; 4] {
    let mut states = [Snapshot::EMPTY; 4];
    states[0] = Snapshot::CONVENTIONAL;
    states[zone] = state;
    states
}

#[test]
fn zones_come_back_as_they_were_but_for_the_open_ones() {
    let rows = [
        (0, C::NotWp, 0, C::NotWp),
        (0, C::ReadOnly, 0, C::ReadOnly),
        (0, C::Offline, 0, C::Offline),
        (1, C::Empty, 0, C::Empty),
        (1, C::ImplicitOpen, 0, C::Empty),
        (1, C::ImplicitOpen, 8, C::Closed),
        (1, C::ImplicitOpen, 16, C::Full),
        (1, C::ExplicitOpen, 0, C::Empty),
        (1, C::ExplicitOpen, 8, C::Closed),
        (1, C::ExplicitOpen, 16, C::Full),
        (1, C::Closed, 0, C::Empty),
        (1, C::Closed, 8, C::Closed),
        (1, C::Closed, 16, C::Full),
        (1, C::Full, 0, C::Full),
        (1, C::Full, 8, C::Full),
        (1, C::Full, 16, C::Full),
        (1, C::ReadOnly, 8, C::ReadOnly),
        (1, C::Offline, 8, C::Offline),
        (3, C::Closed, 8, C::Full),
    ];
    for (zone, before, written, after) in rows {
        let state = Snapshot::new(before, Sector(written));
        let found = Zones::restore(geometry(Model::HostManaged), &states(zone, state));
        let mut zones = found.unwrap_or_else(|e| panic!("{before:?} {written}: {e}"));
        let id = ZoneId(zone as u32);
        let expected = Snapshot::new(after, Sector(written));
        assert_eq!(zones.snapshot(id), expected, "{before:?} {written}");
        assert_eq!(zones.counts().closed, u32::from(after == C::Closed));
        assert_eq!(zones.counts().open(), 0);
        let mut changed = Vec::new();
        zones.take_changed(|zone, state| changed.push((zone, state)));
        let told = if expected == state { vec![] } else { vec![(id, expected)] };
        assert_eq!(changed, told, "{before:?} {written}");
    }
}

#[test]
fn a_zone_goes_on_where_it_was() {
    let state = Snapshot::new(C::ExplicitOpen, Sector(8));
    let mut zones = Zones::restore(geometry(Model::HostManaged), &states(1, state)).unwrap();
    let begun = zones.begin_append(Sector(24), Sector(8), 0, None).unwrap();
    assert_eq!(begun.at, Sector(32));
}

#[test]
fn what_no_disk_of_this_geometry_can_be_is_refused() {
    let refused = |model, zone, condition, written| {
        let state = Snapshot::new(condition, Sector(written));
        Zones::restore(geometry(model), &states(zone, state)).map(|_| ()).unwrap_err()
    };
    let length = |zone, condition, written| RestoreError::Written {
        zone: ZoneId(zone),
        condition,
        written: Sector(written),
    };
    let managed = Model::HostManaged;
    assert_eq!(refused(managed, 0, C::NotWp, 8), length(0, C::NotWp, 8));
    assert_eq!(refused(managed, 1, C::Closed, 24), length(1, C::Closed, 24));
    assert_eq!(refused(managed, 3, C::Full, 16), length(3, C::Full, 16));
    assert_eq!(refused(managed, 1, C::Closed, 4), length(1, C::Closed, 4));
    assert_eq!(refused(managed, 1, C::Empty, 8), length(1, C::Empty, 8));
    assert_eq!(refused(Model::HostAware, 1, C::Closed, 25), length(1, C::Closed, 25));
    let kind = ZoneType::Conventional;
    assert_eq!(
        refused(managed, 0, C::Empty, 0),
        RestoreError::Condition { zone: ZoneId(0), kind, condition: C::Empty }
    );
    let kind = ZoneType::SequentialRequired;
    assert_eq!(
        refused(managed, 1, C::NotWp, 0),
        RestoreError::Condition { zone: ZoneId(1), kind, condition: C::NotWp }
    );
    let counted = Zones::restore(geometry(managed), &[Snapshot::CONVENTIONAL; 3]).map(|_| ());
    assert_eq!(counted, Err(RestoreError::Count { found: 3, expected: 4 }));
}

#[test]
fn sequential_preferred_zones_keep_any_pointer() {
    let state = Snapshot::new(C::ImplicitOpen, Sector(3));
    let zones = Zones::restore(geometry(Model::HostAware), &states(1, state)).unwrap();
    assert_eq!(zones.snapshot(ZoneId(1)), Snapshot::new(C::Closed, Sector(3)));
}

#[test]
fn more_active_zones_than_there_may_be_are_refused() {
    let spec = GeometrySpec { capacity: Sector(96), ..*geometry(Model::HostManaged).spec() };
    let geometry = Geometry::new(spec).unwrap();
    let mut states = [Snapshot::new(C::Closed, Sector(8)); 4];
    states[0] = Snapshot::CONVENTIONAL;
    let refused = Zones::restore(geometry, &states).map(|_| ()).unwrap_err();
    assert_eq!(refused, RestoreError::TooManyActive { active: 3, limit: 2 });
    states[3] = Snapshot::new(C::ExplicitOpen, Sector(16));
    assert!(Zones::restore(geometry, &states).is_ok(), "a zone that turns out full is not active");
}
