//! Who waits for what, and who goes first: short stories, told step by step.
#![allow(clippy::unwrap_used)] // A test that can not go on has failed.

use zvb_wire::{Condition, Model, Sector};
use zvb_zones::{
    Begun, Forced, Geometry, GeometrySpec, Manage, Outcome, Refusal, Refused, Ticket, WriteId,
    ZoneId, Zones,
};

/// Zones of 64 sectors, all sequential, written 8 at a time.
fn disk(model: Model, max_open: u32, max_active: u32) -> Zones {
    let spec = GeometrySpec {
        model,
        capacity: Sector(64 * 5),
        zone_size: Sector(64),
        zone_capacity: Sector(64),
        conventional: 0,
        max_open,
        max_active,
        max_append: Sector(8),
        write_granularity: 4096,
    };
    Zones::new(Geometry::new(spec).unwrap())
}

fn managed(max_open: u32) -> Zones {
    disk(Model::HostManaged, max_open, 0)
}

fn aware(max_open: u32) -> Zones {
    disk(Model::HostAware, max_open, 0)
}

fn append(zones: &mut Zones, zone: u64, ticket: Option<Ticket>) -> Result<Begun, Refused> {
    zones.begin_append(Sector(zone * 64), Sector(8), zone, ticket)
}

fn begin(zones: &mut Zones, zone: u64) -> WriteId {
    append(zones, zone, None).unwrap().write.unwrap()
}

#[track_caller]
fn waits<T: std::fmt::Debug>(tried: Result<T, Refused>) -> Ticket {
    match tried {
        Err(Refused::Wait(ticket)) => ticket,
        other => panic!("{other:?} does not wait"),
    }
}

/// Ends a write, and returns who is released: owner, success.
fn end(zones: &mut Zones, write: WriteId, outcome: Outcome) -> Vec<(u64, bool)> {
    let mut released = Vec::new();
    zones.end_write(write, outcome, |r| released.push((r.owner, r.ok)));
    released
}

fn written(zones: &Zones, zone: u32) -> (Condition, u64) {
    let state = zones.snapshot(ZoneId(zone));
    (state.condition(), state.written().0)
}

#[test]
fn a_write_done_early_is_held_until_those_before_it_are_applied() {
    let mut zones = managed(0);
    let mut writes: Vec<WriteId> = (0..3)
        .map(|i| {
            let begun = zones.begin_write(Sector(i * 8), Sector(8), i, None).unwrap();
            assert_eq!(begun.at, Sector(i * 8));
            begun.write.unwrap()
        })
        .collect();
    assert_eq!(written(&zones, 0), (Condition::ImplicitOpen, 0));
    assert_eq!(end(&mut zones, writes.remove(1), Outcome::Done), []);
    assert_eq!(written(&zones, 0), (Condition::ImplicitOpen, 0));
    assert_eq!(end(&mut zones, writes.remove(0), Outcome::Done), [(0, true), (1, true)]);
    assert_eq!(written(&zones, 0), (Condition::ImplicitOpen, 16));
    assert_eq!(end(&mut zones, writes.remove(0), Outcome::Done), [(2, true)]);
    assert_eq!(written(&zones, 0), (Condition::ImplicitOpen, 24));
}

#[test]
fn those_behind_a_failed_write_fail_when_their_own_io_has_ended() {
    let mut zones = managed(0);
    let begun = |zones: &mut Zones, owner| {
        zones.begin_append(Sector(0), Sector(8), owner, None).map(|begun| begun.write.unwrap())
    };
    let [a, b, c, d] = [0, 1, 2, 3].map(|owner| begun(&mut zones, owner).unwrap());
    assert_eq!(end(&mut zones, b, Outcome::Failed), []);
    // Where the next one would go is not known before the last of them has ended.
    let ticket = waits(begun(&mut zones, 4));
    assert_eq!(end(&mut zones, a, Outcome::Done), [(0, true), (1, false)]);
    assert_eq!(end(&mut zones, d, Outcome::Done), []);
    assert!(!zones.wants_retry());
    assert_eq!(end(&mut zones, c, Outcome::Done), [(2, false), (3, false)]);
    assert_eq!(written(&zones, 0), (Condition::ImplicitOpen, 8));
    assert!(zones.wants_retry());
    let begun = zones.begin_append(Sector(0), Sector(8), 4, Some(ticket)).unwrap();
    assert_eq!(begun.at, Sector(8));
    assert_eq!(end(&mut zones, begun.write.unwrap(), Outcome::Done), [(4, true)]);
}

#[test]
fn management_goes_behind_writes_and_before_what_comes_later() {
    let mut zones = managed(0);
    let first = begin(&mut zones, 0);
    let second = begin(&mut zones, 0);
    let reset = waits(zones.manage(Manage::Reset, Sector(0), None));
    let later = waits(append(&mut zones, 0, None));
    let _ = begin(&mut zones, 1);
    assert_eq!(end(&mut zones, first, Outcome::Done), [(0, true)]);
    assert!(!zones.wants_retry(), "nobody can go on before the second has ended");
    assert_eq!(waits(zones.manage(Manage::Reset, Sector(0), Some(reset))), reset);
    assert_eq!(end(&mut zones, second, Outcome::Done), [(0, true)]);
    assert!(zones.wants_retry());
    assert_eq!(waits(append(&mut zones, 0, Some(later))), later);
    zones.manage(Manage::Reset, Sector(0), Some(reset)).unwrap();
    assert!(zones.wants_retry());
    assert_eq!(append(&mut zones, 0, Some(later)).unwrap().at, Sector(0));
    assert!(!zones.wants_retry());
}

/// A write of 8 sectors behind the last, to a zone of any type.
fn next(zones: &mut Zones, zone: u64, done: u64, t: Option<Ticket>) -> Result<WriteId, Refused> {
    let at = Sector(zone * 64 + done);
    zones.begin_write(at, Sector(8), at.0, t).map(|begun| begun.write.unwrap())
}

/// A write of all sectors from `at` to `end`.
fn span(zones: &mut Zones, at: u64, end: u64, t: Option<Ticket>) -> Result<WriteId, Refused> {
    let begun = zones.begin_write(Sector(at), Sector(end - at), at, t);
    begun.map(|begun| begun.write.unwrap())
}

#[test]
fn a_zone_that_is_always_written_is_closed_for_who_waits() {
    let mut zones = managed(1);
    let mut in_flight = next(&mut zones, 0, 0, None).unwrap();
    for i in 1..4 {
        let behind = next(&mut zones, 0, i * 8, None).unwrap();
        end(&mut zones, in_flight, Outcome::Done);
        in_flight = behind;
    }
    let wants = waits(next(&mut zones, 1, 0, None));
    let drained = waits(next(&mut zones, 0, 32, None));
    end(&mut zones, in_flight, Outcome::Done);
    assert_eq!(written(&zones, 0), (Condition::Closed, 32));
    assert!(zones.wants_retry());
    // The one that was drained comes behind the one it was drained for.
    assert_eq!(waits(next(&mut zones, 0, 32, Some(drained))), drained);
    let first = next(&mut zones, 1, 0, Some(wants)).unwrap();
    assert!(zones.wants_retry());
    assert_eq!(waits(next(&mut zones, 0, 32, Some(drained))), drained);
    end(&mut zones, first, Outcome::Done);
    assert!(zones.wants_retry());
    let _ = next(&mut zones, 0, 32, Some(drained)).unwrap();
    assert_eq!(written(&zones, 1), (Condition::Closed, 8));
}

#[test]
fn a_preferred_zone_is_opened_by_hand_when_one_that_is_written_is_closed_for_it() {
    let mut zones = aware(1);
    let busy = next(&mut zones, 0, 0, None).unwrap();
    let unopened = next(&mut zones, 2, 0, None).unwrap();
    let opens = waits(zones.manage(Manage::Open, Sector(64), None));
    // What would keep the zone busy waits; what needs no open zone goes on, and takes none.
    let drained = waits(next(&mut zones, 0, 8, None));
    let many = waits(span(&mut zones, 60, 140, None));
    end(&mut zones, unopened, Outcome::Done);
    assert_eq!(written(&zones, 2), (Condition::Closed, 8));
    end(&mut zones, busy, Outcome::Done);
    assert_eq!(written(&zones, 0), (Condition::Closed, 8));
    assert!(zones.wants_retry());
    assert_eq!(waits(span(&mut zones, 60, 140, Some(many))), many);
    zones.manage(Manage::Open, Sector(64), Some(opens)).unwrap();
    assert!(zones.wants_retry());
    let drained = next(&mut zones, 0, 8, Some(drained)).unwrap();
    assert!(zones.wants_retry());
    let many = span(&mut zones, 60, 140, Some(many)).unwrap();
    for write in [drained, many] {
        assert_eq!(end(&mut zones, write, Outcome::Done).len(), 1);
    }
    assert_eq!(written(&zones, 0), (Condition::Full, 64));
    assert_eq!(written(&zones, 1), (Condition::Full, 64));
    assert_eq!(written(&zones, 2), (Condition::Closed, 12));
    assert!(!zones.wants_retry());
}

#[test]
fn a_zone_that_is_closed_by_hand_makes_room_as_well() {
    for what in [Manage::Close, Manage::Finish, Manage::Reset] {
        let mut zones = managed(2);
        zones.manage(Manage::Open, Sector(0), None).unwrap();
        let _ = begin(&mut zones, 1);
        let wants = waits(append(&mut zones, 2, None));
        assert!(!zones.wants_retry());
        zones.manage(what, Sector(0), None).unwrap();
        assert!(zones.wants_retry());
        let _ = append(&mut zones, 2, Some(wants)).unwrap();
    }
}

#[test]
fn open_zones_are_given_to_who_came_first() {
    let mut zones = managed(1);
    let busy = begin(&mut zones, 0);
    let first = waits(append(&mut zones, 1, None));
    let second = waits(zones.manage(Manage::Open, Sector(128), None));
    let third = waits(append(&mut zones, 3, None));
    end(&mut zones, busy, Outcome::Done);
    assert_eq!(waits(append(&mut zones, 3, Some(third))), third);
    assert_eq!(waits(zones.manage(Manage::Open, Sector(128), Some(second))), second);
    let newcomer = waits(append(&mut zones, 4, None));
    let busy = append(&mut zones, 1, Some(first)).unwrap().write.unwrap();
    assert_eq!(waits(zones.manage(Manage::Open, Sector(128), Some(second))), second);
    end(&mut zones, busy, Outcome::Done);
    zones.manage(Manage::Open, Sector(128), Some(second)).unwrap();
    // An explicitly open zone is not closed for anybody, so there is nothing to wait for.
    let limit = Refused::Status(Refusal::OpenLimit);
    assert_eq!(append(&mut zones, 3, Some(third)).unwrap_err(), limit);
    assert_eq!(append(&mut zones, 4, Some(newcomer)).unwrap_err(), limit);
    assert_eq!(append(&mut zones, 4, None).unwrap_err(), limit);
}

#[test]
fn only_implicitly_open_zones_are_worth_waiting_for() {
    let mut zones = managed(1);
    zones.manage(Manage::Open, Sector(0), None).unwrap();
    let _ = begin(&mut zones, 0);
    assert_eq!(append(&mut zones, 1, None).unwrap_err(), Refused::Status(Refusal::OpenLimit));
    let mut zones = disk(Model::HostManaged, 1, 1);
    let _ = begin(&mut zones, 0);
    assert_eq!(append(&mut zones, 1, None).unwrap_err(), Refused::Status(Refusal::ActiveLimit));
}

#[test]
fn a_zone_is_not_drained_for_somebody_who_is_gone() {
    let mut zones = managed(2);
    let [one, two] = [begin(&mut zones, 0), begin(&mut zones, 1)];
    let wants = waits(append(&mut zones, 2, None));
    let held = waits(append(&mut zones, 0, None));
    // The other zone becomes idle first, and is closed instead.
    end(&mut zones, two, Outcome::Done);
    assert!(zones.wants_retry());
    let _ = append(&mut zones, 2, Some(wants)).unwrap();
    assert_eq!(written(&zones, 1), (Condition::Closed, 8));
    assert!(zones.wants_retry());
    assert_eq!(append(&mut zones, 0, Some(held)).unwrap().at, Sector(8));
    end(&mut zones, one, Outcome::Done);
    assert_eq!(written(&zones, 0), (Condition::ImplicitOpen, 8));
}

#[test]
fn a_zone_that_fails_lets_go_of_who_waits_for_it() {
    let mut zones = managed(1);
    let busy = begin(&mut zones, 0);
    let first = waits(append(&mut zones, 1, None));
    let second = waits(append(&mut zones, 2, None));
    let third = waits(append(&mut zones, 3, None));
    zones.set_condition(ZoneId(2), Forced::Offline).unwrap();
    assert!(zones.wants_retry());
    let offline = Refused::Status(Refusal::ZoneOffline);
    assert_eq!(append(&mut zones, 2, Some(second)).unwrap_err(), offline);
    // The zone in the way fails too: its write ends as failed, its open zone is free at once.
    zones.set_condition(ZoneId(0), Forced::ReadOnly).unwrap();
    assert_eq!(waits(append(&mut zones, 3, Some(third))), third);
    let next = append(&mut zones, 1, Some(first)).unwrap().write.unwrap();
    assert_eq!(end(&mut zones, busy, Outcome::Done), [(0, false)]);
    assert_eq!(written(&zones, 0), (Condition::ReadOnly, 0));
    end(&mut zones, next, Outcome::Done);
    let _ = append(&mut zones, 3, Some(third)).unwrap();
}

#[test]
fn reset_all_goes_behind_all_that_came_before_and_before_all_that_comes_later() {
    let mut zones = managed(0);
    let writes = [begin(&mut zones, 0), begin(&mut zones, 1)];
    let finish = waits(zones.manage(Manage::Finish, Sector(0), None));
    let reset = waits(zones.reset_all(None));
    let untouched = waits(append(&mut zones, 3, None));
    let again = waits(zones.reset_all(None));
    let last = waits(zones.manage(Manage::Open, Sector(128), None));
    for write in writes {
        assert_eq!(waits(zones.reset_all(Some(reset))), reset);
        end(&mut zones, write, Outcome::Done);
    }
    assert!(zones.wants_retry());
    assert_eq!(waits(zones.reset_all(Some(reset))), reset);
    assert_eq!(waits(append(&mut zones, 3, Some(untouched))), untouched);
    zones.manage(Manage::Finish, Sector(0), Some(finish)).unwrap();
    assert_eq!(written(&zones, 0), (Condition::Full, 8));
    assert_eq!(waits(zones.reset_all(Some(again))), again);
    assert!(zones.wants_retry());
    zones.reset_all(Some(reset)).unwrap();
    assert_eq!(written(&zones, 0), (Condition::Empty, 0));
    assert!(zones.wants_retry());
    assert_eq!(waits(zones.manage(Manage::Open, Sector(128), Some(last))), last);
    let write = append(&mut zones, 3, Some(untouched)).unwrap().write.unwrap();
    assert_eq!(waits(zones.reset_all(Some(again))), again);
    end(&mut zones, write, Outcome::Done);
    zones.reset_all(Some(again)).unwrap();
    assert!(zones.wants_retry());
    zones.manage(Manage::Open, Sector(128), Some(last)).unwrap();
    assert!(!zones.wants_retry(), "nobody is left");
}

#[test]
fn a_write_to_preferred_zones_opens_what_it_can_and_goes_on() {
    let mut zones = aware(2);
    zones.manage(Manage::Open, Sector(0), None).unwrap();
    let idle = next(&mut zones, 1, 0, None).unwrap();
    end(&mut zones, idle, Outcome::Done);
    // Zone 2 is opened in the place of zone 1; zone 3 can not be, since zone 2 is written.
    let wide = span(&mut zones, 190, 200, None).unwrap();
    assert_eq!(written(&zones, 1), (Condition::Closed, 8));
    assert_eq!(written(&zones, 2), (Condition::ImplicitOpen, 0));
    assert_eq!(written(&zones, 3), (Condition::Empty, 0));
    let more = next(&mut zones, 3, 0, None).unwrap();
    assert_eq!(end(&mut zones, wide, Outcome::Done), [(190, true)]);
    assert_eq!(written(&zones, 2), (Condition::Full, 64));
    assert_eq!(written(&zones, 3), (Condition::Closed, 8));
    // Now there is room, for zones that are written already too.
    let again = next(&mut zones, 3, 8, None).unwrap();
    assert_eq!(written(&zones, 3), (Condition::ImplicitOpen, 8));
    end(&mut zones, more, Outcome::Done);
    end(&mut zones, again, Outcome::Done);
    assert_eq!(written(&zones, 3), (Condition::ImplicitOpen, 16));
    let all = span(&mut zones, 0, 320, None).unwrap();
    assert_eq!(end(&mut zones, all, Outcome::Done), [(0, true)]);
    assert!((0..5).all(|zone| written(&zones, zone) == (Condition::Full, 64)));
    assert_eq!(zones.counts().active(), 0);
}

#[test]
fn an_open_zone_that_somebody_waits_for_is_not_taken_by_a_write_that_needs_none() {
    let mut zones = aware(1);
    let busy = next(&mut zones, 0, 0, None).unwrap();
    let opens = waits(zones.manage(Manage::Open, Sector(64), None));
    end(&mut zones, busy, Outcome::Done);
    assert_eq!(zones.counts().open(), 0);
    let unopened = next(&mut zones, 2, 0, None).unwrap();
    assert_eq!(zones.counts().open(), 0);
    zones.manage(Manage::Open, Sector(64), Some(opens)).unwrap();
    end(&mut zones, unopened, Outcome::Done);
    assert_eq!(written(&zones, 2), (Condition::Closed, 8));
}

#[test]
fn a_zone_that_a_failed_write_did_not_open_is_as_it_was() {
    let mut zones = aware(1);
    zones.manage(Manage::Open, Sector(0), None).unwrap();
    let failed = next(&mut zones, 1, 0, None).unwrap();
    assert_eq!(end(&mut zones, failed, Outcome::Failed), [(64, false)]);
    assert_eq!(written(&zones, 1), (Condition::Empty, 0));
    for (at, condition) in [(0, Condition::Closed), (8, Condition::Closed), (56, Condition::Full)] {
        let write = next(&mut zones, 1, at, None).unwrap();
        assert_eq!(zones.counts().open(), 1);
        end(&mut zones, write, Outcome::Done);
        assert_eq!(written(&zones, 1), (condition, at + 8));
    }
    let limit = Refused::Status(Refusal::OpenLimit);
    assert_eq!(zones.manage(Manage::Open, Sector(128), None), Err(limit));
}

#[test]
fn management_of_a_preferred_zone_goes_behind_writes_that_did_not_open_it() {
    for what in [Manage::Open, Manage::Close, Manage::Finish, Manage::Reset] {
        let mut zones = aware(1);
        let busy = next(&mut zones, 0, 0, None).unwrap();
        let [one, two] = [0, 8].map(|at| next(&mut zones, 1, at, None).unwrap());
        let managed = waits(zones.manage(what, Sector(64), None));
        let single = waits(next(&mut zones, 1, 16, None));
        let many = waits(span(&mut zones, 100, 140, None));
        // Nobody who waits for another zone is in the way of this one, until a whole range waits.
        let newcomer = waits(span(&mut zones, 190, 200, None));
        end(&mut zones, busy, Outcome::Done);
        end(&mut zones, two, Outcome::Done);
        assert_eq!(waits(zones.manage(what, Sector(64), Some(managed))), managed);
        end(&mut zones, one, Outcome::Done);
        assert!(zones.wants_retry());
        assert_eq!(waits(span(&mut zones, 100, 140, Some(many))), many);
        zones.manage(what, Sector(64), Some(managed)).unwrap();
        let single = next(&mut zones, 1, 16, Some(single)).unwrap();
        let _ = span(&mut zones, 100, 140, Some(many)).unwrap();
        let _ = span(&mut zones, 190, 200, Some(newcomer)).unwrap();
        assert_eq!(end(&mut zones, single, Outcome::Done), [(80, true)]);
    }
}

#[test]
fn a_write_to_many_preferred_zones_passes_those_who_wait_elsewhere() {
    let mut zones = aware(0);
    let busy = next(&mut zones, 0, 0, None).unwrap();
    let reset = waits(zones.manage(Manage::Reset, Sector(0), None));
    let first = span(&mut zones, 100, 140, None).unwrap();
    let second = span(&mut zones, 100, 200, None).unwrap();
    for write in [second, first, busy] {
        assert_eq!(end(&mut zones, write, Outcome::Done).len(), 1);
    }
    zones.manage(Manage::Reset, Sector(0), Some(reset)).unwrap();
    assert_eq!(written(&zones, 3), (Condition::ImplicitOpen, 8));
}
