//! Many requests at a time, finished in any order, on one queue and on two.

mod support;

use std::sync::atomic::Ordering;

use support::*;
use zvb_wire::{Condition, Model, RequestType, Status};

#[test]
fn writes_to_one_zone_are_answered_in_the_order_of_their_places() {
    let volume = TestVolume::zoned(small(Model::HostManaged, 0, 0));
    let mut g = Guest::new(&session(&volume), 0);
    volume.manual();
    let writes: Vec<_> = (0..3).map(|i| g.send_write(32 + 8 * i, &pattern(i as u8, 8))).collect();
    g.turn();
    assert_eq!(volume.pending(), 3, "queue depth reaches the medium");
    // The last ends first: it stands past the pointer, and nobody is told.
    volume.finish(2);
    g.turn();
    assert!(g.answer(&writes[2]).is_none());
    volume.finish(0);
    g.turn();
    assert_eq!(g.answer(&writes[0]).unwrap().status(), Status::OK);
    assert!(g.answer(&writes[1]).is_none() && g.answer(&writes[2]).is_none());
    assert_eq!(volume.recorded(1).unwrap().written().0, 8);
    volume.finish(0);
    g.turn();
    assert_eq!(g.answer(&writes[1]).unwrap().status(), Status::OK);
    assert_eq!(g.answer(&writes[2]).unwrap().status(), Status::OK);
    assert_eq!(volume.recorded(1).unwrap().written().0, 24);
    assert_eq!(g.lane.in_flight(), 0);
}

#[test]
fn answers_that_are_near_are_given_before_all_is_taken() {
    let volume = TestVolume::zoned(small(Model::HostManaged, 0, 0));
    let mut g = Guest::new(&session(&volume), 0);
    let read = Guest::header(RequestType::IN, 0);
    let sent: Vec<_> = (0..40).map(|_| g.send(&[&read], &[512, 1])).collect();
    for answered in [16, 32, 40, 40] {
        g.turn();
        assert_eq!((g.used_index(), g.lane.in_flight()), (answered, 0));
    }
    assert!(sent.iter().all(|read| g.answer(read).unwrap().status() == Status::OK));
    // What is not near is taken all at once: the medium may do it together.
    let writes: Vec<_> = (0..24).map(|i| g.send_write(i % 8, &pattern(i as u8, 1))).collect();
    g.turn();
    assert_eq!(g.used_index(), 64);
    assert!(writes.iter().all(|write| g.answer(write).unwrap().status() == Status::OK));
    // Nor is there anything to be gained where answers take their time.
    volume.manual();
    (0..40).for_each(|_| drop(g.send(&[&read], &[512, 1])));
    g.turn();
    assert_eq!(volume.pending(), 40);
    while volume.pending() > 0 {
        volume.finish(0);
    }
    g.turn();
    assert_eq!(g.used_index(), 104);
}

#[test]
fn a_write_that_fails_takes_those_behind_it_along() {
    let volume = TestVolume::zoned(small(Model::HostManaged, 0, 0));
    let mut g = Guest::new(&session(&volume), 0);
    volume.manual();
    let writes: Vec<_> = (0..3).map(|i| g.send_write(32 + 8 * i, &pattern(i as u8, 8))).collect();
    g.turn();
    volume.finish(2);
    volume.fail(1);
    volume.finish(0);
    g.turn();
    let statuses: Vec<_> = writes.iter().map(|w| g.answer(w).unwrap().status()).collect();
    assert_eq!(statuses, [Status::OK, Status::IOERR, Status::IOERR]);
    assert_eq!(volume.recorded(1).unwrap().written().0, 8);
    // The pointer tells the truth, and the zone goes on from there.
    let again = g.send_write(40, &pattern(7, 8));
    g.turn();
    volume.finish(0);
    g.turn();
    assert_eq!(g.answer(&again).unwrap().status(), Status::OK);
}

#[test]
fn who_waits_for_a_lane_that_panicked_knows_that_it_is_for_ever() {
    let volume = TestVolume::zoned(small(Model::HostManaged, 0, 0));
    let session = session(&volume);
    let (mut a, mut b) = (Guest::new(&session, 0), Guest::new(&session, 1));
    volume.manual();
    a.send_write(32, &pattern(1, 8));
    a.turn();
    b.send(&[&Guest::header(RequestType::ZONE_RESET, 32)], &[1]);
    b.turn();
    assert_eq!((b.lane.in_flight(), b.lane.is_stuck()), (1, false));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _lane = a;
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    assert!(!b.lane.prepare_sleep(), "it was told");
    b.turn();
    assert!(b.lane.is_stuck());
}

#[test]
fn a_reset_goes_behind_the_writes_in_flight_of_another_queue() {
    let volume = TestVolume::zoned(small(Model::HostManaged, 0, 0));
    let session = session(&volume);
    let (mut a, mut b) = (Guest::new(&session, 0), Guest::new(&session, 1));
    volume.manual();
    let write = a.send_write(32, &pattern(1, 8));
    a.turn();
    let reset = b.send(&[&Guest::header(RequestType::ZONE_RESET, 32)], &[1]);
    b.turn();
    assert!(b.answer(&reset).is_none());
    // What comes after the reset waits behind it, and the queue does other work meanwhile.
    let late = a.send_write(32, &pattern(2, 8));
    let other = a.send(&[&Guest::header(RequestType::GET_ID, 0)], &[20, 1]);
    a.turn();
    assert_eq!(a.answer(&other).unwrap().status(), Status::OK);
    assert_eq!(volume.pending(), 1);
    volume.finish(0);
    a.turn();
    assert_eq!(a.answer(&write).unwrap().status(), Status::OK);
    assert!(!b.lane.prepare_sleep(), "the other lane has been told");
    b.turn();
    assert_eq!(b.answer(&reset).unwrap().status(), Status::OK);
    a.turn();
    volume.finish(0);
    a.turn();
    assert_eq!(a.answer(&late).unwrap().status(), Status::OK);
    assert_eq!(volume.recorded(1).unwrap().written().0, 8);
    assert_eq!((a.lane.in_flight(), b.lane.in_flight()), (0, 0));
}

#[test]
fn a_write_held_by_another_queues_write_is_answered_in_its_own_queue() {
    let volume = TestVolume::zoned(small(Model::HostManaged, 0, 0));
    let session = session(&volume);
    let (mut a, mut b) = (Guest::new(&session, 0), Guest::new(&session, 1));
    volume.manual();
    let append = Guest::header(RequestType::ZONE_APPEND, 32);
    let first = a.send(&[&append, &pattern(1, 8)], &[9]);
    a.turn();
    let second = b.send(&[&append, &pattern(2, 8)], &[9]);
    b.turn();
    volume.finish(1);
    b.turn();
    assert!(b.answer(&second).is_none());
    volume.finish(0);
    a.turn();
    assert_eq!(a.answer(&first).unwrap().status(), Status::OK);
    b.turn();
    let answer = b.answer(&second).unwrap();
    assert_eq!((answer.status(), &answer.writable[..8]), (Status::OK, &40u64.to_le_bytes()[..]));
}

#[test]
fn a_zone_with_writes_in_flight_is_not_closed_to_make_room() {
    let volume = TestVolume::zoned(small(Model::HostManaged, 1, 0));
    let mut g = Guest::new(&session(&volume), 0);
    volume.manual();
    let first = g.send_write(32, &pattern(1, 8));
    g.turn();
    let second = g.send_write(64, &pattern(2, 8));
    g.turn();
    assert_eq!(volume.pending(), 1, "waits for the only open zone to fall idle");
    assert_eq!(g.lane.in_flight(), 2);
    volume.finish(0);
    g.turn();
    assert_eq!(g.answer(&first).unwrap().status(), Status::OK);
    assert_eq!(volume.pending(), 1);
    volume.finish(0);
    g.turn();
    assert_eq!(g.answer(&second).unwrap().status(), Status::OK);
    let sent = g.send(&[&Guest::header(RequestType::ZONE_REPORT, 0)], &[64 * 7, 1]);
    g.turn();
    let report = g.answer(&sent).unwrap().writable;
    let state = |zone: usize| Condition::try_from(report[64 + zone * 64 + 25]).unwrap();
    assert_eq!((state(1), state(2)), (Condition::Closed, Condition::ImplicitOpen));
}

#[test]
fn reads_go_past_writes_in_flight() {
    let volume = TestVolume::zoned(small(Model::HostManaged, 0, 0));
    let mut g = Guest::new(&session(&volume), 0);
    assert_eq!(g.write(32, &pattern(4, 8)), Status::OK);
    volume.manual();
    let write = g.send_write(40, &pattern(5, 8));
    let read = g.send(&[&Guest::header(RequestType::IN, 32)], &[16 * 512, 1]);
    g.turn();
    // Reads need no decision under the lock: this one went first.
    volume.finish(0);
    g.turn();
    let answer = g.answer(&read).unwrap();
    assert_eq!(answer.status(), Status::OK);
    assert_eq!(&answer.writable[..8 * 512], pattern(4, 8));
    assert!(answer.writable[8 * 512..16 * 512].iter().all(|b| *b == 0), "not yet written");
    volume.finish(0);
    g.turn();
    assert_eq!(g.answer(&write).unwrap().status(), Status::OK);
}

#[test]
fn states_found_on_the_volume_are_where_the_device_goes_on() {
    use zvb_wire::Sector;
    use zvb_zones::Snapshot;
    let states = vec![
        Snapshot::CONVENTIONAL,
        Snapshot::new(Condition::ImplicitOpen, Sector(8)),
        Snapshot::new(Condition::ExplicitOpen, Sector(0)),
        Snapshot::new(Condition::Full, Sector(8)),
        Snapshot::new(Condition::ReadOnly, Sector(16)),
        Snapshot::new(Condition::Offline, Sector(0)),
    ];
    let volume = TestVolume::recovered(small(Model::HostManaged, 0, 0), states);
    let mut g = Guest::new(&session(&volume), 0);
    use Condition::*;
    // 96
    assert_eq!(g.conditions(), [NotWp, Closed, Empty, Full, ReadOnly, Offline]);
    // 61, 62, 92
    assert_eq!(g.write(144, &pattern(1, 8)), Status::ZONE_INVALID_CMD);
    assert_eq!(g.read(128, 16).0, Status::OK);
    assert_eq!(g.write(160, &pattern(1, 8)), Status::ZONE_INVALID_CMD);
    assert_eq!(g.read(160, 8).0, Status::ZONE_INVALID_CMD);
    assert_eq!(g.simple(RequestType::ZONE_RESET_ALL, 0), Status::OK);
    assert_eq!(g.conditions(), [NotWp, Empty, Empty, Empty, ReadOnly, Offline]);
}

#[test]
fn a_reset_between_two_writes_is_recorded_though_nobody_saw_the_zone_empty() {
    for model in [Model::HostAware, Model::HostManaged] {
        let volume = TestVolume::zoned(small(model, 0, 0));
        let mut g = Guest::new(&session(&volume), 0);
        volume.manual();
        g.send_write(32, &pattern(1, 8));
        g.turn();
        // All in one turn: the write ends, the zone is reset and written again.
        volume.finish(0);
        let before = volume.records(1).len();
        g.send(&[&Guest::header(RequestType::ZONE_RESET, 32)], &[1]);
        g.send_write(32, &pattern(2, 8));
        g.turn();
        let records = volume.records(1).split_off(before);
        let told: Vec<_> = records.iter().map(|r| (r.condition(), r.written().0)).collect();
        assert_eq!(told, [(Condition::Empty, 0), (Condition::ImplicitOpen, 0)], "{model:?}");
        volume.finish(0);
        g.turn();
        assert_eq!(g.lane.in_flight(), 0);
    }
}

#[test]
fn a_turn_starts_its_io_once_and_signals_once_whatever_it_does() {
    let volume = TestVolume::zoned(small(Model::HostManaged, 0, 0));
    let mut g = Guest::new(&session(&volume), 0);
    // Finished inside the turn, one needing the other: writes, a reset that waits for them, a write behind
    // it, a flush, a read.
    let writes: Vec<_> = (0..3).map(|i| g.send_write(32 + 8 * i, &pattern(i as u8, 8))).collect();
    let reset = g.send(&[&Guest::header(RequestType::ZONE_RESET, 32)], &[1]);
    let flush = g.send(&[&Guest::header(RequestType::FLUSH, 0)], &[1]);
    let read = g.send(&[&Guest::header(RequestType::IN, 0)], &[4096, 1]);
    let (starts, used) = (volume.starts.load(Ordering::Relaxed), g.used_index());
    let turn = g.lane.turn(true);
    assert_eq!(volume.starts.load(Ordering::Relaxed) - starts, 1);
    assert!(turn.progress && turn.signal, "one signal is asked for, by the turn as a whole");
    assert_eq!(g.used_index().wrapping_sub(used), 6, "all of them in this turn");
    for sent in writes.iter().chain([&reset, &flush, &read]) {
        assert_eq!(g.answer(sent).unwrap().status(), Status::OK);
    }
    // One that finds nothing asks for none.
    assert!(!g.lane.turn(true).signal);
}
