//! A medium that has appends of its own, and says where it put them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use support::*;
use zvb_device::{Device, DeviceOptions, FaultSpec, Harm, Kind};
use zvb_ring::Ledger;
use zvb_storage::Volume;
use zvb_wire::{Condition, Model, RequestType, Sector, Status};
use zvb_zones::{Snapshot, ZoneId};

fn medium() -> Arc<TestVolume> {
    let volume = TestVolume::zoned(small(Model::HostManaged, 0, 0));
    volume.place_appends();
    volume
}

fn send(guest: &mut Guest, seed: u8) -> Sent {
    guest.send(&[&Guest::header(RequestType::ZONE_APPEND, 32), &pattern(seed, 8)], &[9])
}

/// The sector that an append was answered with; `None` when it was not answered.
fn appended(guest: &mut Guest, sent: &Sent) -> Option<u64> {
    let answer = guest.answer(sent)?;
    assert_eq!(answer.status(), Status::OK);
    Some(u64::from_le_bytes(answer.writable[..8].try_into().unwrap()))
}

#[test]
fn appends_of_two_queues_are_answered_with_the_places_that_the_medium_chose() {
    let volume = medium();
    let session = session(&volume);
    let (mut a, mut b) = (Guest::new(&session, 0), Guest::new(&session, 1));
    volume.manual();
    let (first, second) = (send(&mut a, 1), send(&mut a, 2));
    a.turn();
    let third = send(&mut b, 3);
    b.turn();
    assert_eq!(volume.pending(), 3, "all of them are with the medium");
    // In the order 3, 1, 2.
    volume.finish(2);
    b.turn();
    assert_eq!(appended(&mut b, &third), Some(32));
    volume.finish(0);
    volume.finish(0);
    a.turn();
    assert_eq!(appended(&mut a, &first), Some(40));
    assert_eq!(appended(&mut a, &second), Some(48));
    for (at, seed) in [(32, 3), (40, 1), (48, 2)] {
        assert_eq!(volume.bytes(Sector(at), 8), pattern(seed, 8), "{at}");
    }
    assert_eq!(volume.placed(), 3);
    assert_eq!(volume.recorded(1).unwrap().written(), Sector(24));
    assert_eq!((a.lane.in_flight(), b.lane.in_flight()), (0, 0));
}

#[test]
fn one_that_is_answered_can_be_read_though_it_ended_before_its_neighbours() {
    let volume = medium();
    let session = session(&volume);
    let (mut a, mut b) = (Guest::new(&session, 0), Guest::new(&session, 1));
    volume.manual();
    let first = send(&mut a, 1);
    a.turn();
    let second = send(&mut b, 2);
    b.turn();
    // The first is placed first, but told of later.
    volume.finish(0);
    volume.finish(0);
    b.turn();
    assert_eq!(appended(&mut b, &second), None, "what stands before it can not be read yet");
    a.turn();
    b.turn();
    assert_eq!(appended(&mut a, &first), Some(32));
    assert_eq!(appended(&mut b, &second), Some(40));
}

#[test]
fn a_write_goes_behind_appends_and_appends_behind_it_have_their_places() {
    let volume = medium();
    let mut g = Guest::new(&session(&volume), 0);
    volume.manual();
    let append = send(&mut g, 1);
    let write = g.send_write(40, &pattern(2, 8));
    let behind = send(&mut g, 3);
    g.turn();
    for _ in 0..3 {
        volume.finish(0);
    }
    g.turn();
    assert_eq!(appended(&mut g, &append), Some(32));
    assert_eq!(g.answer(&write).unwrap().status(), Status::OK);
    assert_eq!(appended(&mut g, &behind), Some(48));
    assert_eq!(volume.placed(), 1, "the other could have taken the place of the write");
    // The zone is full. Once it is empty again, nothing stands in the way.
    let reset = g.send(&[&Guest::header(RequestType::ZONE_RESET, 32)], &[1]);
    g.turn();
    volume.finish(0);
    g.turn();
    let next = send(&mut g, 4);
    g.turn();
    volume.finish(0);
    g.turn();
    assert_eq!(g.answer(&reset).unwrap().status(), Status::OK);
    assert_eq!((appended(&mut g, &next), volume.placed()), (Some(32), 2));
}

#[test]
fn a_failure_leaves_the_pointer_to_the_medium() {
    let volume = medium();
    let mut g = Guest::new(&session(&volume), 0);
    volume.manual();
    let (first, second) = (send(&mut g, 1), send(&mut g, 2));
    g.turn();
    volume.fail(0);
    g.turn();
    volume.say(1, Snapshot::new(Condition::ImplicitOpen, Sector(16)));
    volume.finish(0);
    g.turn();
    assert_eq!(g.answer(&first).unwrap().status(), Status::IOERR);
    assert_eq!(appended(&mut g, &second), Some(32));
    assert_eq!((g.written(32), volume.abandoned()), (16, vec![ZoneId(1)]));
}

#[test]
fn a_fault_on_demand_befalls_an_append_at_its_place() {
    let volume = medium();
    let options = DeviceOptions { queues: 2, ..DeviceOptions::default() };
    let device = Device::new(Arc::clone(&volume) as Arc<dyn Volume>, options).unwrap();
    let session = device.session();
    session.accept(device.features()).unwrap();
    let mut g = Guest::new(&session, 0);
    assert_eq!((g.append(32, &pattern(1, 8)), volume.placed()), ((Status::OK, 32), 1));
    let fault = FaultSpec {
        kinds: [Kind::Append].into_iter().collect(),
        range: Some(Sector(40)..Sector(48)),
        count: NonZeroU32::new(1),
        delay: Duration::ZERO,
        harm: Some(Harm::Fail(Status::IOERR)),
    };
    device.set_fault(fault).unwrap();
    assert_eq!(g.append(32, &pattern(2, 8)).0, Status::IOERR);
    assert_eq!((g.append(32, &pattern(3, 8)), volume.placed()), ((Status::OK, 40), 2));
}

/// Notes nothing.
struct Blank;

impl Ledger for Blank {
    fn taken(&mut self, _head: u16) {}
    fn note(&mut self, _head: u16, _note: u64) {}
    fn answered(&mut self, _head: u16, _position: u16) {}
    fn published(&mut self) {}
}

/// Whoever goes on after this process finds by an append's place whether it was written.
#[test]
fn what_another_process_may_have_to_go_on_with_has_its_place() {
    let volume = medium();
    let session = session(&volume);
    let mut g = Guest::new(&session, 0).taken_over(&session, Box::new(Blank), Vec::new());
    assert_eq!((g.append(32, &pattern(1, 8)), volume.placed()), ((Status::OK, 32), 0));
}
