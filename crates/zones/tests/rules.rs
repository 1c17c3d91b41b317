//! The rules one by one: a row each, with its number in the conformance list. `model.rs` and `flight.rs`
//! search for what nobody thought of; here is what everybody can look up.
//! (108 is a rule for drivers; that a device answers IOERR to those who break it is QEMU's way.)
#![allow(clippy::unwrap_used)] // A test that can not go on has failed.

use zvb_wire::{Condition, Model, Sector, Status};
use zvb_zones::{
    Forced, Geometry, GeometrySpec, Manage, Outcome, Refusal, Refused, Snapshot, ZoneId, Zones,
    check_read, describe,
};

use Condition as C;
use Do::*;

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
const AWARE: GeometrySpec =
    GeometrySpec { model: Model::HostAware, zone_capacity: Sector(24), max_active: 0, ..SPEC };
const DISK: Sector = SPEC.capacity;

#[derive(Clone, Copy, Debug)]
enum Do {
    /// First sector, sectors.
    Write(u64, u64),
    /// A write whose I/O fails.
    Fail(u64, u64),
    Append(u64, u64),
    Open(u64),
    Close(u64),
    Finish(u64),
    Reset(u64),
    ResetAll,
    Force(u32, Forced),
}

fn run(zones: &mut Zones, command: Do) -> Result<Sector, Refusal> {
    let refusal = |refused| match refused {
        Refused::Status(refusal) => refusal,
        Refused::Wait(_) => panic!("{command:?} waits, and nothing is in flight"),
    };
    let manage = |zones: &mut Zones, what, at| {
        zones.manage(what, Sector(at), None).map(|()| Sector(at)).map_err(refusal)
    };
    let begun = match command {
        Write(at, sectors) | Fail(at, sectors) => {
            zones.begin_write(Sector(at), Sector(sectors), 7, None)
        }
        Append(at, sectors) => zones.begin_append(Sector(at), Sector(sectors), 7, None),
        Open(at) => return manage(zones, Manage::Open, at),
        Close(at) => return manage(zones, Manage::Close, at),
        Finish(at) => return manage(zones, Manage::Finish, at),
        Reset(at) => return manage(zones, Manage::Reset, at),
        ResetAll => return zones.reset_all(None).map(|()| Sector(0)).map_err(refusal),
        Force(zone, to) => return zones.set_condition(ZoneId(zone), to).map(|()| Sector(0)),
    }
    .map_err(refusal)?;
    if let Some(write) = begun.write {
        let failed = matches!(command, Fail(..));
        let outcome = if failed { Outcome::Failed } else { Outcome::Done };
        zones.end_write(write, outcome, |released| assert_eq!(released.ok, !failed));
    }
    Ok(begun.at)
}

/// A conformance number, what was done before, what is done, its answer, and the state of zone 1 after.
type Row = (u32, &'static [Do], Do, Result<u64, Refusal>, (Condition, u64));

fn check(spec: GeometrySpec, rows: &[Row]) {
    for row @ (_, before, command, answer, (condition, written)) in rows {
        let mut zones = Zones::new(Geometry::new(spec).unwrap());
        for &earlier in *before {
            run(&mut zones, earlier).unwrap_or_else(|e| panic!("{earlier:?} of {row:?}: {e}"));
        }
        assert_eq!(run(&mut zones, *command), answer.map(Sector), "{row:?}");
        let expected = Snapshot::new(*condition, Sector(*written));
        assert_eq!(zones.snapshot(ZoneId(1)), expected, "{row:?}");
    }
}

const EMPTY: (Condition, u64) = (C::Empty, 0);
const FULL: (Condition, u64) = (C::Full, 16);

#[test]
fn writes() {
    use Refusal::*;
    check(
        SPEC,
        &[
            (43, &[], Open(0), Err(Conventional), EMPTY),
            (44, &[], Append(0, 8), Err(NotSequentialRequired), EMPTY),
            (51, &[], Write(24, 8), Ok(24), (C::ImplicitOpen, 8)),
            (51, &[Write(24, 8), Close(24)], Write(32, 4), Err(Misaligned), (C::Closed, 8)),
            (51, &[Write(24, 8), Close(24)], Append(24, 8), Ok(32), FULL),
            (51, &[Open(48), Open(72)], Write(24, 8), Err(OpenLimit), EMPTY),
            (51, &[Open(48), Open(72)], Append(24, 8), Err(OpenLimit), EMPTY),
            (52, &[], Append(32, 8), Err(NotZoneStart), EMPTY),
            (52, &[], Append(25, 8), Err(NotZoneStart), EMPTY),
            (53, &[Write(24, 8)], Append(24, 16), Err(PastCapacity), (C::ImplicitOpen, 8)),
            (53, &[], Write(24, 24), Err(PastCapacity), EMPTY),
            (53, &[Write(24, 16)], Write(40, 8), Err(ZoneFull), FULL),
            (53, &[Write(24, 16)], Write(24, 8), Err(ZoneFull), FULL),
            (53, &[Write(24, 16)], Append(24, 8), Err(ZoneFull), FULL),
            (54, &[Write(24, 8)], Append(24, 8), Ok(32), FULL),
            (57, &[], Append(24, 24), Err(AppendTooLarge), EMPTY),
            (58, &[Write(24, 8)], Write(32, 24), Err(CrossesZones), (C::ImplicitOpen, 8)),
            (58, &[], Write(0, 32), Err(CrossesZones), EMPTY),
            (59, &[], Write(32, 8), Err(NotAtWritePointer), EMPTY),
            (59, &[Write(24, 8)], Write(24, 8), Err(NotAtWritePointer), (C::ImplicitOpen, 8)),
            (72, &[], Write(24, 1), Err(Misaligned), EMPTY),
            (72, &[], Append(24, 15), Err(Misaligned), EMPTY),
            (93, &[], Write(40, 8), Err(NotAtWritePointer), EMPTY),
            (94, &[], Write(24, 0), Ok(24), EMPTY),
            (94, &[], Append(24, 0), Ok(24), EMPTY),
            (94, &[Open(48), Open(72)], Write(24, 0), Ok(24), EMPTY),
            (94, &[], Write(104, 0), Ok(104), EMPTY),
            (108, &[], Write(104, 8), Err(OutOfRange), EMPTY),
            (108, &[], Write(96, 16), Err(OutOfRange), EMPTY),
            (108, &[], Write(u64::MAX, 8), Err(OutOfRange), EMPTY),
            (73, &[], Append(104, 8), Err(NoSuchZone), EMPTY),
            (73, &[], Append(u64::MAX, 8), Err(NoSuchZone), EMPTY),
            (73, &[], Reset(104), Err(NoSuchZone), EMPTY),
            (73, &[], Open(u64::MAX), Err(NoSuchZone), EMPTY),
            // A write that fails opens nothing and moves nothing.
            (83, &[], Fail(24, 8), Ok(24), EMPTY),
            (83, &[Write(24, 8)], Fail(32, 8), Ok(32), (C::ImplicitOpen, 8)),
            (83, &[Write(24, 8), Fail(32, 8)], Write(32, 8), Ok(32), FULL),
            (83, &[Open(24)], Fail(24, 8), Ok(24), (C::ExplicitOpen, 0)),
            // Conventional zones are written anywhere, also together.
            (80, &[], Write(3, 21), Ok(3), EMPTY),
            (80, &[Force(0, Forced::ReadOnly)], Write(3, 1), Err(ZoneReadOnly), EMPTY),
        ],
    );
    let no_appends = GeometrySpec { max_append: Sector(0), ..SPEC };
    check(
        no_appends,
        &[
            (56, &[], Append(24, 8), Err(AppendUnsupported), EMPTY),
            (56, &[], Append(25, 8), Err(AppendUnsupported), EMPTY),
            (56, &[], Append(104, 8), Err(AppendUnsupported), EMPTY),
        ],
    );
}

#[test]
fn transitions() {
    use Refusal::*;
    const OPENED: &[Do] = &[Write(24, 8)];
    const CLOSED: &[Do] = &[Write(24, 8), Close(24)];
    const FILLED: &[Do] = &[Write(24, 16)];
    const RDONLY: &[Do] = &[Write(24, 8), Force(1, Forced::ReadOnly)];
    const OFFLINE: &[Do] = &[Write(24, 8), Force(1, Forced::Offline)];
    check(
        SPEC,
        &[
            (45, FILLED, Open(24), Err(ZoneFull), FULL),
            (45, RDONLY, Open(24), Err(ZoneReadOnly), (C::ReadOnly, 8)),
            (45, OFFLINE, Open(24), Err(ZoneOffline), (C::Offline, 8)),
            (47, &[], Close(24), Err(CannotClose), EMPTY),
            (47, FILLED, Close(24), Err(CannotClose), FULL),
            (47, RDONLY, Close(24), Err(ZoneReadOnly), (C::ReadOnly, 8)),
            (48, RDONLY, Finish(24), Err(ZoneReadOnly), (C::ReadOnly, 8)),
            (48, OFFLINE, Finish(24), Err(ZoneOffline), (C::Offline, 8)),
            (49, RDONLY, Reset(24), Err(ZoneReadOnly), (C::ReadOnly, 8)),
            (49, OFFLINE, Reset(24), Err(ZoneOffline), (C::Offline, 8)),
            (50, OPENED, ResetAll, Ok(0), EMPTY),
            (50, FILLED, ResetAll, Ok(0), EMPTY),
            (50, RDONLY, ResetAll, Ok(0), (C::ReadOnly, 8)),
            (50, OFFLINE, ResetAll, Ok(0), (C::Offline, 8)),
            (61, RDONLY, Write(32, 8), Err(ZoneReadOnly), (C::ReadOnly, 8)),
            (61, RDONLY, Append(24, 8), Err(ZoneReadOnly), (C::ReadOnly, 8)),
            (62, OFFLINE, Write(32, 8), Err(ZoneOffline), (C::Offline, 8)),
            (62, OFFLINE, Write(32, 0), Err(ZoneOffline), (C::Offline, 8)),
            (83, &[], Open(24), Ok(24), (C::ExplicitOpen, 0)),
            (83, &[], Reset(24), Ok(24), EMPTY),
            (84, OPENED, Reset(24), Ok(24), EMPTY),
            (84, OPENED, Open(24), Ok(24), (C::ExplicitOpen, 8)),
            (84, OPENED, Close(24), Ok(24), (C::Closed, 8)),
            (84, OPENED, Finish(24), Ok(24), (C::Full, 8)),
            (84, OPENED, Write(32, 8), Ok(32), FULL),
            (86, &[Open(24)], Open(24), Ok(24), (C::ExplicitOpen, 0)),
            (86, &[Open(24)], Close(24), Ok(24), EMPTY),
            (86, &[Open(24), Write(24, 8)], Close(24), Ok(24), (C::Closed, 8)),
            (86, &[Open(24), Write(24, 8)], Append(24, 8), Ok(32), FULL),
            (86, &[Open(24)], Finish(24), Ok(24), (C::Full, 0)),
            (86, &[Open(24)], Reset(24), Ok(24), EMPTY),
            (88, CLOSED, Reset(24), Ok(24), EMPTY),
            (88, CLOSED, Open(24), Ok(24), (C::ExplicitOpen, 8)),
            (88, CLOSED, Close(24), Ok(24), (C::Closed, 8)),
            (89, FILLED, Reset(24), Ok(24), EMPTY),
            (89, FILLED, Finish(24), Ok(24), FULL),
            (90, &[], Finish(24), Ok(24), (C::Full, 0)),
            (90, CLOSED, Finish(24), Ok(24), (C::Full, 8)),
            (90, &[Open(48), Open(72)], Finish(24), Ok(24), (C::Full, 0)),
            (73, &[], Open(25), Err(NotZoneStart), EMPTY),
            (91, RDONLY, Force(1, Forced::Offline), Ok(0), (C::Offline, 8)),
            (91, RDONLY, Force(1, Forced::Restored), Ok(0), (C::Closed, 8)),
            (91, OPENED, Force(1, Forced::Restored), Ok(0), (C::ImplicitOpen, 8)),
        ],
    );
}

#[test]
fn limits() {
    use Refusal::*;
    // Zones 2 and 3 are open, zone 4 is closed or not there.
    const TWO_EXPLICIT: &[Do] = &[Open(48), Open(72)];
    const ALL_ACTIVE: &[Do] = &[Write(48, 8), Close(48), Write(72, 8), Close(72), Open(96)];
    check(
        SPEC,
        &[
            (46, TWO_EXPLICIT, Open(24), Err(OpenLimit), EMPTY),
            (71, ALL_ACTIVE, Open(24), Err(ActiveLimit), EMPTY),
            (71, ALL_ACTIVE, Write(24, 8), Err(ActiveLimit), EMPTY),
            (85, &[Write(24, 8), Write(48, 8)], Write(72, 8), Ok(72), (C::Closed, 8)),
            (85, &[Write(24, 8), Write(48, 8)], Open(72), Ok(72), (C::Closed, 8)),
            // The one that was written longest ago is closed.
            (85, &[Write(48, 8), Write(24, 8)], Write(72, 8), Ok(72), (C::ImplicitOpen, 8)),
            (87, &[Open(24), Write(48, 8)], Write(72, 8), Ok(72), (C::ExplicitOpen, 0)),
            (87, &[Open(24), Open(48)], Write(72, 8), Err(OpenLimit), (C::ExplicitOpen, 0)),
            (82, &[Open(24), Open(48), Finish(24)], Open(72), Ok(72), (C::Full, 0)),
        ],
    );
    // Both at once.
    let spec = GeometrySpec { max_open: 1, max_active: 1, ..SPEC };
    check(
        spec,
        &[
            (70, &[Open(48)], Open(24), Err(ActiveLimit), EMPTY),
            (70, &[Open(48)], Write(24, 8), Err(ActiveLimit), EMPTY),
            (82, &[Write(48, 8), Reset(48)], Open(24), Ok(24), (C::ExplicitOpen, 0)),
            (
                82,
                &[Write(48, 8), Force(2, Forced::Offline)],
                Open(24),
                Ok(24),
                (C::ExplicitOpen, 0),
            ),
        ],
    );
}

#[test]
fn a_zone_comes_back_only_when_there_is_an_active_one_to_spare() {
    let geometry = Geometry::new(GeometrySpec { max_open: 1, max_active: 1, ..SPEC }).unwrap();
    let mut zones = Zones::new(geometry);
    for command in [Write(24, 8), Force(1, Forced::ReadOnly), Write(48, 8)] {
        run(&mut zones, command).unwrap();
    }
    let restored = Force(1, Forced::Restored);
    assert_eq!(run(&mut zones, restored), Err(Refusal::ActiveLimit));
    run(&mut zones, Reset(48)).unwrap();
    assert_eq!(run(&mut zones, restored), Ok(Sector(0)));
    assert_eq!(zones.counts().closed, 1);
}

#[test]
fn sequential_preferred_zones() {
    use Refusal::*;
    const NO_ROOM: &[Do] = &[Open(72), Open(96)];
    const CLOSED: (Condition, u64) = (C::Closed, 8);
    const FILLED: (Condition, u64) = (C::Full, 24);
    check(
        AWARE,
        &[
            (44, &[], Append(24, 8), Err(NotSequentialRequired), EMPTY),
            (81, &[], Write(24, 3), Ok(24), (C::ImplicitOpen, 3)),
            (81, &[], Write(30, 2), Ok(30), (C::ImplicitOpen, 8)),
            (81, &[Write(24, 8)], Write(25, 2), Ok(25), (C::ImplicitOpen, 8)),
            (81, &[Write(24, 8)], Write(25, 9), Ok(25), (C::ImplicitOpen, 10)),
            (81, &[], Write(47, 1), Ok(47), (C::Full, 24)),
            (81, &[Write(24, 24)], Write(24, 1), Ok(24), (C::Full, 24)),
            (81, &[Finish(24)], Write(24, 1), Ok(24), (C::Full, 1)),
            (81, &[], Write(10, 18), Ok(10), (C::ImplicitOpen, 4)),
            (81, &[], Write(20, 30), Ok(20), (C::Full, 24)),
            (81, &[], Write(24, 80), Ok(24), FILLED),
            (81, &[], Write(30, 60), Ok(30), FILLED),
            // Without an open zone to spare, a zone is written as it is.
            (81, NO_ROOM, Write(24, 8), Ok(24), (C::Closed, 8)),
            (81, NO_ROOM, Write(40, 1), Ok(40), (C::Closed, 17)),
            (81, NO_ROOM, Write(20, 30), Ok(20), FILLED),
            (81, NO_ROOM, Write(0, 104), Ok(0), FILLED),
            (81, NO_ROOM, Fail(24, 8), Ok(24), EMPTY),
            (81, NO_ROOM, Open(24), Err(OpenLimit), EMPTY),
            (81, &[Write(24, 8), Close(24), Open(72), Open(96)], Write(25, 2), Ok(25), CLOSED),
            (81, &[Write(24, 8), Close(24), Open(72), Open(96)], Write(24, 24), Ok(24), FILLED),
            (81, &[Write(24, 8), Close(24), Open(72), Open(96)], Fail(24, 24), Ok(24), CLOSED),
            (81, &[Open(72), Write(96, 1)], Write(24, 8), Ok(24), (C::ImplicitOpen, 8)),
            (81, &[Write(24, 8), Write(72, 8)], Write(50, 30), Ok(50), (C::Closed, 8)),
            (61, &[Force(2, Forced::ReadOnly)], Write(40, 10), Err(ZoneReadOnly), EMPTY),
            (62, &[Force(0, Forced::Offline)], Write(20, 10), Err(ZoneOffline), EMPTY),
            (83, &[], Fail(24, 8), Ok(24), EMPTY),
            (94, &[], Write(24, 0), Ok(24), EMPTY),
        ],
    );
}

#[test]
fn every_refusal_has_its_status() {
    use Refusal::*;
    let rows = [
        (62, ZoneOffline, Status::ZONE_INVALID_CMD),
        (61, ZoneReadOnly, Status::ZONE_INVALID_CMD),
        (53, ZoneFull, Status::ZONE_INVALID_CMD),
        (53, PastCapacity, Status::ZONE_INVALID_CMD),
        (58, CrossesZones, Status::ZONE_INVALID_CMD),
        (52, NotZoneStart, Status::ZONE_INVALID_CMD),
        (73, NoSuchZone, Status::ZONE_INVALID_CMD),
        (43, Conventional, Status::ZONE_INVALID_CMD),
        (44, NotSequentialRequired, Status::ZONE_INVALID_CMD),
        (47, CannotClose, Status::ZONE_INVALID_CMD),
        (57, AppendTooLarge, Status::ZONE_INVALID_CMD),
        (56, AppendUnsupported, Status::UNSUPP),
        (59, NotAtWritePointer, Status::ZONE_UNALIGNED_WP),
        (72, Misaligned, Status::ZONE_UNALIGNED_WP),
        (71, OpenLimit, Status::ZONE_OPEN_RESOURCE),
        (71, ActiveLimit, Status::ZONE_ACTIVE_RESOURCE),
        (108, OutOfRange, Status::IOERR),
    ];
    for (rule, refusal, status) in rows {
        assert_eq!(refusal.status(), status, "rule {rule}: {refusal}");
    }
}

#[test]
fn reports() {
    let geometry = Geometry::new(SPEC).unwrap();
    let rows = [
        // Zone, condition, sectors written, write pointer.
        (77, 0, C::NotWp, 0, u64::MAX),
        (78, 0, C::ReadOnly, 0, u64::MAX),
        (79, 1, C::Empty, 0, 24),
        (80, 1, C::ImplicitOpen, 8, 32),
        (80, 1, C::ExplicitOpen, 8, 32),
        (80, 2, C::Closed, 8, 56),
        (78, 1, C::ReadOnly, 8, 32),
        (78, 1, C::Full, 16, 48),
        (78, 1, C::Full, 8, 48),
        (78, 4, C::Full, 8, 104),
        (78, 1, C::Offline, 8, u64::MAX),
    ];
    for (rule, zone, condition, written, pointer) in rows {
        let state = Snapshot::new(condition, Sector(written));
        let found = describe(&geometry, ZoneId(zone), state);
        assert_eq!(found.z_wp.get(), pointer, "rule {rule}: zone {zone} {condition:?}");
        assert_eq!(found.z_state, condition as u8);
    }
    let last = describe(&geometry, ZoneId(4), Snapshot::EMPTY);
    assert_eq!((last.z_start.get(), last.z_cap.get(), last.z_type), (96, 8, 2));
}

#[test]
fn reads() {
    let state = |zone: ZoneId| match zone.0 {
        0 => Snapshot::CONVENTIONAL,
        1 => Snapshot::new(C::ImplicitOpen, Sector(8)),
        2 => Snapshot::new(C::Full, Sector(8)),
        3 => Snapshot::new(C::Offline, Sector(8)),
        _ => Snapshot::new(C::ReadOnly, Sector(8)),
    };
    let geometry = Geometry::new(SPEC).unwrap();
    let rows = [
        (63, 0, 24, Ok(24)),
        (63, 24, 8, Ok(8)),
        (63, 24, 24, Ok(8)),
        (63, 31, 5, Ok(1)),
        (63, 32, 8, Ok(0)),
        (63, 48, 16, Ok(8)),
        (93, 64, 8, Ok(0)),
        (92, 96, 8, Ok(8)),
        (58, 20, 8, Err(Refusal::CrossesZones)),
        (58, 40, 16, Err(Refusal::CrossesZones)),
        (62, 72, 1, Err(Refusal::ZoneOffline)),
        (62, 80, 0, Err(Refusal::ZoneOffline)),
        (108, 96, 9, Err(Refusal::OutOfRange)),
        (108, u64::MAX, 2, Err(Refusal::OutOfRange)),
        (108, 104, 0, Ok(0)),
    ];
    for (rule, at, sectors, expected) in rows {
        let found = check_read(&geometry, Sector(at), Sector(sectors), state);
        let found = found.map(|plan| plan.data.0);
        assert_eq!(found, expected, "rule {rule}: {sectors} at {at} of {DISK}");
    }
    let aware = Geometry::new(AWARE).unwrap();
    let found = check_read(&aware, Sector(10), Sector(50), state).map(|plan| plan.data.0);
    assert_eq!(found, Ok(50), "rule 81: the medium knows what was written");
}
