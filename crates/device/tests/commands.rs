//! A medium that has zones of its own: commands to zones are carried out there, may take their time, and
//! may fail; and when something failed, its word counts.

mod support;

use std::io;

use support::*;
use zvb_device::{Device, DeviceOptions};
use zvb_storage::{Command, Failure};
use zvb_wire::{Condition, Features, Model, RequestType, Sector, Status};
use zvb_zones::{Manage, Snapshot, ZoneId};

fn device() -> (std::sync::Arc<TestVolume>, Guest) {
    let volume = TestVolume::zoned(small(Model::HostManaged, 2, 3));
    volume.run_commands();
    let guest = Guest::new(&session(&volume), 0);
    (volume, guest)
}

fn full() -> Failure {
    Failure::OpenLimit(io::Error::other("told so"))
}

#[test]
fn each_command_reaches_the_medium_before_it_counts() {
    let (volume, mut g) = device();
    assert_eq!(g.simple(RequestType::ZONE_OPEN, 32), Status::OK);
    assert_eq!(g.conditions()[1], Condition::ExplicitOpen);
    assert_eq!(g.write(32, &pattern(1, 8)), Status::OK);
    assert_eq!(g.simple(RequestType::ZONE_CLOSE, 32), Status::OK);
    assert_eq!(g.conditions()[1], Condition::Closed);
    assert_eq!(g.simple(RequestType::ZONE_FINISH, 32), Status::OK);
    assert_eq!(g.conditions()[1], Condition::Full);
    assert_eq!(g.simple(RequestType::ZONE_RESET, 32), Status::OK);
    assert_eq!(g.conditions()[1], Condition::Empty);
    assert_eq!(g.simple(RequestType::ZONE_RESET_ALL, 0), Status::OK);
    let zone = |what| Command::Zone(what, ZoneId(1));
    assert_eq!(
        volume.commands(),
        [
            zone(Manage::Open),
            zone(Manage::Close),
            zone(Manage::Finish),
            zone(Manage::Reset),
            Command::ResetAll
        ]
    );
}

#[test]
fn what_our_rules_refuse_does_not_reach_the_medium() {
    let (volume, mut g) = device();
    assert_eq!(g.simple(RequestType::ZONE_OPEN, 0), Status::ZONE_INVALID_CMD);
    assert_eq!(g.simple(RequestType::ZONE_OPEN, 33), Status::ZONE_INVALID_CMD);
    assert_eq!(g.simple(RequestType::ZONE_CLOSE, 32), Status::ZONE_INVALID_CMD);
    assert_eq!(g.simple(RequestType::ZONE_OPEN, 32), Status::OK);
    assert_eq!(g.simple(RequestType::ZONE_OPEN, 64), Status::OK);
    assert_eq!(g.simple(RequestType::ZONE_OPEN, 96), Status::ZONE_OPEN_RESOURCE);
    assert_eq!(volume.commands().len(), 2);
}

#[test]
fn a_command_that_the_medium_refuses_changes_nothing_and_says_why() {
    let (volume, mut g) = device();
    assert_eq!(g.write(64, &pattern(1, 8)), Status::OK);
    volume.manual();
    for (request, failure, status) in [
        (RequestType::ZONE_OPEN, full(), Status::ZONE_OPEN_RESOURCE),
        (
            RequestType::ZONE_FINISH,
            Failure::ActiveLimit(io::Error::other("told so")),
            Status::ZONE_ACTIVE_RESOURCE,
        ),
        (RequestType::ZONE_CLOSE, Failure::Unsupported, Status::UNSUPP),
        (RequestType::ZONE_RESET, Failure::Medium(io::Error::from_raw_os_error(5)), Status::IOERR),
        (RequestType::ZONE_RESET_ALL, Failure::Behind, Status::IOERR),
    ] {
        let sent = g.send(&[&Guest::header(request, 64)], &[1]);
        g.turn();
        assert!(g.answer(&sent).is_none(), "{request:?} waits for its medium");
        volume.fail_with(0, failure);
        g.turn();
        assert_eq!(g.answer(&sent).unwrap().status(), status, "{request:?}");
        assert_eq!(g.conditions()[2], Condition::ImplicitOpen, "{request:?}");
        assert_eq!(g.written(64), 8, "{request:?}");
    }
    assert!(volume.commands().is_empty());
}

#[test]
fn what_comes_for_a_zone_waits_for_its_command_and_other_zones_go_on() {
    let (volume, mut g) = device();
    assert_eq!(g.write(32, &pattern(1, 8)), Status::OK);
    volume.manual();
    let reset = g.send(&[&Guest::header(RequestType::ZONE_RESET, 32)], &[1]);
    let behind = g.send_write(32, &pattern(2, 8));
    let other = g.send_write(64, &pattern(3, 8));
    g.turn();
    assert_eq!(volume.pending(), 2, "the reset, and the write to another zone");
    volume.finish(1);
    g.turn();
    assert_eq!(g.answer(&other).unwrap().status(), Status::OK);
    assert!(g.answer(&behind).is_none());
    volume.finish(0);
    g.turn();
    assert_eq!(g.answer(&reset).unwrap().status(), Status::OK);
    volume.finish(0);
    g.turn();
    assert_eq!(g.answer(&behind).unwrap().status(), Status::OK);
    assert_eq!((g.lane.in_flight(), volume.commands().len()), (0, 1));
}

#[test]
fn nothing_passes_a_reset_of_all() {
    let (volume, mut g) = device();
    assert_eq!(g.write(32, &pattern(1, 8)), Status::OK);
    volume.manual();
    let all = g.send(&[&Guest::header(RequestType::ZONE_RESET_ALL, 0)], &[1]);
    let write = g.send_write(64, &pattern(3, 8));
    let open = g.send(&[&Guest::header(RequestType::ZONE_OPEN, 96)], &[1]);
    let again = g.send(&[&Guest::header(RequestType::ZONE_RESET_ALL, 0)], &[1]);
    g.turn();
    assert_eq!(volume.pending(), 1);
    volume.finish(0);
    g.turn();
    assert_eq!(g.answer(&all).unwrap().status(), Status::OK);
    assert_eq!(volume.pending(), 2, "the write and the open");
    volume.finish(0);
    volume.finish(0);
    g.turn();
    volume.finish(0);
    g.turn();
    for sent in [&write, &open, &again] {
        assert_eq!(g.answer(sent).unwrap().status(), Status::OK);
    }
    assert_eq!(volume.recorded(2), Some(Snapshot::EMPTY));
    assert_eq!(g.lane.in_flight(), 0);
}

#[test]
fn after_a_failure_the_word_of_the_medium_counts() {
    let (volume, mut g) = device();
    assert_eq!(g.write(32, &pattern(1, 8)), Status::OK);
    volume.manual();
    // It fails after the first half was written: the medium's pointer is past ours.
    volume.say(1, Snapshot::new(Condition::ImplicitOpen, Sector(16)));
    let failed = g.send_write(40, &pattern(2, 16));
    let behind = g.send_write(56, &pattern(2, 8));
    g.turn();
    volume.fail(0);
    // A write that comes in the same turn is decided by what the medium says.
    let next = g.send_write(48, &pattern(3, 8));
    g.turn();
    assert_eq!(g.answer(&failed).unwrap().status(), Status::IOERR);
    // 56 was past the capacity: refused at once.
    assert_ne!(g.answer(&behind).unwrap().status(), Status::OK);
    volume.finish(0);
    g.turn();
    assert_eq!(g.answer(&next).unwrap().status(), Status::OK);
    assert_eq!((g.written(32), g.conditions()[1]), (32, Condition::Full));
    // A zone that the medium has given up can not be written any more.
    volume.say(2, Snapshot::new(Condition::ReadOnly, Sector(24)));
    let failed = g.send_write(64, &pattern(2, 8));
    g.turn();
    volume.fail(0);
    g.turn();
    assert_eq!(g.answer(&failed).unwrap().status(), Status::IOERR);
    assert_eq!(g.conditions()[2], Condition::ReadOnly);
    let refused = g.send_write(64, &pattern(2, 8));
    g.turn();
    assert_eq!(g.answer(&refused).unwrap().status(), Status::ZONE_INVALID_CMD);
    // What no zone can be is not believed.
    volume.say(3, Snapshot::new(Condition::Closed, Sector(25)));
    let failed = g.send_write(96, &pattern(2, 8));
    g.turn();
    volume.fail(0);
    g.turn();
    assert_eq!(g.answer(&failed).unwrap().status(), Status::IOERR);
    assert_eq!(g.conditions()[3], Condition::Empty);
}

#[test]
fn the_medium_hears_of_a_write_that_never_reaches_it() {
    // It may keep those behind it until it is their turn.
    let (volume, mut g) = device();
    volume.manual();
    let writes: Vec<_> = (0..3).map(|i| g.send_write(32 + 8 * i, &pattern(i as u8, 8))).collect();
    g.turn();
    volume.fail(0);
    g.turn();
    assert_eq!(volume.abandoned(), [ZoneId(1)]);
    assert!(g.answer(&writes[1]).is_none());
    volume.fail(0);
    volume.fail(0);
    g.turn();
    for write in &writes {
        assert_eq!(g.answer(write).unwrap().status(), Status::IOERR);
    }
    assert_eq!(g.lane.in_flight(), 0);
}

#[test]
fn a_secure_erase_resets_zones_on_the_medium() {
    let volume = TestVolume::zoned(small(Model::HostManaged, 2, 3));
    volume.run_commands();
    let options = zvb_device::DeviceOptions { secure_erase: true, ..Default::default() };
    let device = zvb_device::Device::new(volume.clone(), options).unwrap();
    let session = device.session();
    session.accept(device.features() & Features::all()).unwrap();
    let mut g = Guest::new(&session, 0);
    assert_eq!(g.write(32, &pattern(1, 8)), Status::OK);
    let mut range = [0; 16];
    range[..8].copy_from_slice(&32u64.to_le_bytes());
    range[8..12].copy_from_slice(&64u32.to_le_bytes());
    let erase = Guest::header(RequestType::SECURE_ERASE, 0);
    assert_eq!(g.request(&[&erase, &range], &[1]).status(), Status::OK);
    let reset = |zone| Command::Zone(Manage::Reset, ZoneId(zone));
    assert_eq!(volume.commands(), [reset(1), reset(2)]);
    assert_eq!(g.conditions()[1], Condition::Empty);
}

/// Nobody closes the zones of a medium that must not be changed: they are told of as they are.
#[test]
fn open_zones_of_a_read_only_medium_stay_open() {
    let volume = TestVolume::read_only(small(Model::HostManaged, 2, 3));
    volume.run_commands();
    let open = |condition, written| Snapshot::new(condition, Sector(written));
    volume.find(1, open(Condition::ImplicitOpen, 8));
    volume.find(2, open(Condition::ExplicitOpen, 0));
    volume.find(3, open(Condition::Closed, 16));
    let device = Device::new(volume, DeviceOptions::default()).unwrap();
    let session = device.session();
    session.accept(device.features()).unwrap();
    let mut g = Guest::new(&session, 0);
    let conditions = [Condition::ImplicitOpen, Condition::ExplicitOpen, Condition::Closed];
    assert_eq!(g.conditions()[1..4], conditions);
    assert_eq!([g.written(32), g.written(64), g.written(96)], [8, 0, 16]);
    let told = device.zone_states();
    assert_eq!(told[1..4].iter().map(|state| state.condition()).collect::<Vec<_>>(), conditions);
    assert_eq!(g.simple(RequestType::ZONE_CLOSE, 32), Status::IOERR);
    assert_eq!(g.write(40, &pattern(1, 8)), Status::IOERR);
    assert_eq!(g.read(32, 8).0, Status::OK);
    // One that may be changed closes them.
    let volume = TestVolume::zoned(small(Model::HostManaged, 2, 3));
    volume.run_commands();
    volume.find(1, open(Condition::ImplicitOpen, 8));
    let mut g = Guest::new(&support::session(&volume), 0);
    assert_eq!(g.conditions()[1], Condition::Closed);
}
