//! What becomes of zones, on disks that close an empty one as ZBC has it (null_blk does, too), and as NVMe has it.

use std::sync::{Arc, Mutex};

use rustix::io::Errno;
use zvb_wire::{Condition, Sector};
use zvb_zones::{Geometry, GeometrySpec, Manage, Snapshot, ZoneId};

use super::super::disk::Disk;
use super::super::zoned::{Zoned, settle};
use super::{SPEC, ZONE};
use crate::committer::Mailbox;
use crate::sys::{RawZone, ZoneCall};
use crate::volume::{Command, Shape};

const ZONES: u32 = 8;
const ACTIVE: usize = 3;
const OPEN: usize = 2;

/// A disk of sequential zones, and the rules of its kind.
#[derive(Debug)]
struct Medium {
    /// A closed zone in which nothing is written stays closed, and active.
    nvme: bool,
    zones: Mutex<Vec<Snapshot>>,
    /// What it was told.
    calls: Mutex<Vec<(ZoneCall, u64)>>,
}

impl Medium {
    fn new(nvme: bool, states: &[(usize, Condition, u64)]) -> Arc<Self> {
        let mut zones = vec![Snapshot::EMPTY; ZONES as usize];
        for (zone, condition, written) in states {
            zones[*zone] = Snapshot::new(*condition, Sector(*written));
        }
        Arc::new(Self { nvme, zones: Mutex::new(zones), calls: Mutex::default() })
    }

    fn states(&self) -> Vec<Snapshot> {
        self.zones.lock().unwrap().clone()
    }

    fn conditions(&self) -> Vec<Condition> {
        self.states().into_iter().map(Snapshot::condition).collect()
    }

    fn active(zones: &[Snapshot]) -> usize {
        zones.iter().filter(|z| z.condition().is_active()).count()
    }

    /// Opens a zone: no more may be active and open than there is room for.
    fn open(&self, zone: usize, how: Condition) -> Result<(), Errno> {
        let mut zones = self.zones.lock().unwrap();
        let was = zones[zone].condition();
        if was.is_open() {
            return Ok(());
        }
        if was == Condition::Empty && Self::active(&zones) >= ACTIVE {
            return Err(Errno::OVERFLOW);
        }
        if zones.iter().filter(|z| z.condition().is_open()).count() >= OPEN {
            return Err(Errno::TOOMANYREFS);
        }
        zones[zone] = Snapshot::new(how, zones[zone].written());
        Ok(())
    }

    /// A write of so many sectors at the pointer.
    fn write(&self, zone: usize, sectors: u64) -> Result<(), Errno> {
        self.open(zone, Condition::ImplicitOpen)?;
        let mut zones = self.zones.lock().unwrap();
        let end = zones[zone].written().0 + sectors;
        zones[zone] = Snapshot::new(zones[zone].condition(), Sector(end));
        Ok(())
    }
}

impl Zoned for Medium {
    fn report(&self, sector: u64, most: usize) -> std::io::Result<Vec<RawZone>> {
        let told = (0u64..).zip(self.states()).map(|(number, state)| RawZone {
            start: number * ZONE,
            len: ZONE,
            capacity: ZONE,
            write_pointer: number * ZONE + state.written().0,
            kind: 2,
            condition: state.condition() as u8,
            ..RawZone::default()
        });
        Ok(told.skip((sector / ZONE) as usize).take(most).collect())
    }

    fn manage(&self, call: ZoneCall, sector: u64, _sectors: u64) -> std::io::Result<()> {
        let zone = (sector / ZONE) as usize;
        self.calls.lock().unwrap().push((call, sector / ZONE));
        if call == ZoneCall::Open {
            return Ok(self.open(zone, Condition::ExplicitOpen)?);
        }
        let mut zones = self.zones.lock().unwrap();
        let state = zones[zone];
        let now = match (call, state.condition()) {
            (ZoneCall::Reset, _) => Snapshot::EMPTY,
            (ZoneCall::Close, Condition::Empty | Condition::Full) => return Err(Errno::IO.into()),
            (ZoneCall::Close, _) if state.written() == Sector::ZERO && !self.nvme => {
                Snapshot::EMPTY
            }
            (ZoneCall::Close, _) => Snapshot::new(Condition::Closed, state.written()),
            (ZoneCall::Finish | ZoneCall::Open, _) => Snapshot::new(Condition::Full, Sector(ZONE)),
        };
        zones[zone] = now;
        Ok(())
    }
}

fn geometry() -> Geometry {
    let spec = GeometrySpec {
        capacity: Sector(u64::from(ZONES) * ZONE),
        conventional: 0,
        max_open: OPEN as u32,
        max_active: ACTIVE as u32,
        ..SPEC
    };
    Geometry::new(spec).unwrap()
}

/// A server begins with the disk.
fn begin(medium: &Arc<Medium>) -> (Disk, Vec<Snapshot>) {
    let geometry = geometry();
    let mut states = medium.states();
    settle(&**medium, &geometry, &mut states).unwrap();
    let shape = Shape {
        capacity: geometry.spec().capacity,
        block_size: 4096,
        geometry: Some(geometry),
        id: [0; 20],
        read_only: false,
        can_discard: false,
    };
    let file = Arc::new(tempfile::tempfile().unwrap());
    (Disk::new(file, Arc::<Medium>::clone(medium), shape, &states), states)
}

fn manage(disk: &Disk, what: Manage, zone: u32) {
    disk.command(Command::Zone(what, ZoneId(zone))).unwrap();
}

/// A write through the gate of its zone.
fn write(disk: &Disk, medium: &Medium, zone: u32, at: u32, sectors: u32) {
    let mailbox = Arc::new(Mailbox::new().unwrap());
    disk.gates.enter(zone, at, &mailbox);
    disk.opens(ZoneId(zone));
    medium.write(zone as usize, sectors.into()).unwrap();
    disk.written(ZoneId(zone), at + sectors);
    disk.gates.leave(zone, Some(at + sectors), &mailbox);
}

/// The medium is what it is taken for.
#[test]
fn an_nvme_disk_closes_empty_zones_and_has_no_room_for_others() {
    let medium = Medium::new(true, &[]);
    for zone in 0..ACTIVE as u64 {
        medium.manage(ZoneCall::Open, zone * ZONE, ZONE).unwrap();
        medium.manage(ZoneCall::Close, zone * ZONE, ZONE).unwrap();
    }
    assert_eq!(
        medium.conditions()[..4],
        [[Condition::Closed; 3].as_slice(), &[Condition::Empty]].concat()
    );
    assert_eq!(medium.write(5, 8), Err(Errno::OVERFLOW));
}

#[test]
fn a_zone_that_is_closed_empty_is_empty_on_the_disk() {
    for nvme in [false, true] {
        let medium = Medium::new(nvme, &[]);
        let (disk, _) = begin(&medium);
        for zone in 2..6 {
            manage(&disk, Manage::Open, zone);
            manage(&disk, Manage::Close, zone);
        }
        assert_eq!(medium.states(), [Snapshot::EMPTY; ZONES as usize], "nvme: {nvme}");
        write(&disk, &medium, 6, 0, 8);
        // What is written stays.
        manage(&disk, Manage::Open, 1);
        write(&disk, &medium, 1, 0, 16);
        manage(&disk, Manage::Close, 1);
        assert_eq!(medium.states()[1], Snapshot::new(Condition::Closed, Sector(16)));
        assert_eq!(medium.states()[6], Snapshot::new(Condition::ImplicitOpen, Sector(8)));
    }
}

#[test]
fn room_is_made_on_the_disk_as_in_our_rules() {
    for nvme in [false, true] {
        let medium = Medium::new(nvme, &[]);
        let (disk, _) = begin(&medium);
        manage(&disk, Manage::Open, 0);
        write(&disk, &medium, 1, 0, 8);
        disk.recorded(ZoneId(0), Condition::Empty);
        disk.recorded(ZoneId(1), Condition::Closed);
        for zone in [2, 3] {
            write(&disk, &medium, zone, 0, 8);
        }
        let (empty, open) = (Condition::Empty, Condition::ImplicitOpen);
        assert_eq!(medium.conditions()[..5], [empty, Condition::Closed, open, open, empty]);
        // And at the end all are closed.
        disk.close_all();
        let closed = Condition::Closed;
        assert_eq!(medium.conditions()[..5], [empty, closed, closed, closed, empty]);
    }
}

#[test]
fn a_zone_to_which_a_write_is_on_its_way_is_not_reset() {
    let medium = Medium::new(true, &[]);
    let (disk, _) = begin(&medium);
    let mailbox = Arc::new(Mailbox::new().unwrap());
    disk.gates.enter(0, 0, &mailbox);
    disk.opens(ZoneId(0));
    medium.open(0, Condition::ImplicitOpen).unwrap();
    // Before its data gets there, room is made for another.
    disk.recorded(ZoneId(0), Condition::Closed);
    disk.opens(ZoneId(1));
    assert_eq!(*medium.calls.lock().unwrap(), [(ZoneCall::Close, 0)]);
    // Something is there that is not known here: no reset either.
    let other = Medium::new(true, &[]);
    let (disk, _) = begin(&other);
    manage(&disk, Manage::Open, 4);
    other.write(4, 8).unwrap();
    manage(&disk, Manage::Close, 4);
    assert_eq!(other.states()[4], Snapshot::new(Condition::Closed, Sector(8)));
}

#[test]
fn what_was_left_open_or_closed_and_empty_is_taken_over() {
    let left = [
        (1, Condition::ExplicitOpen, 0),
        (2, Condition::Closed, 0),
        (3, Condition::ImplicitOpen, 24),
        (4, Condition::Full, ZONE),
        (5, Condition::Offline, 0),
    ];
    for nvme in [false, true] {
        let medium = Medium::new(nvme, &left);
        let (disk, states) = begin(&medium);
        assert_eq!(states, medium.states(), "what is told of it is how it is");
        let closed = Snapshot::new(Condition::Closed, Sector(24));
        assert_eq!(states[..4], [Snapshot::EMPTY, Snapshot::EMPTY, Snapshot::EMPTY, closed]);
        let untouched = medium.calls.lock().unwrap().iter().all(|(_, zone)| (1..=3).contains(zone));
        assert!(untouched, "{:?}", medium.calls);
        // As many as may be active.
        manage(&disk, Manage::Open, 6);
        write(&disk, &medium, 7, 0, 8);
    }
}

#[test]
fn a_server_that_stops_leaves_no_empty_zone_closed() {
    let medium = Medium::new(true, &[]);
    let (disk, _) = begin(&medium);
    manage(&disk, Manage::Open, 2);
    manage(&disk, Manage::Open, 3);
    write(&disk, &medium, 3, 0, 8);
    disk.close_all();
    assert_eq!(
        medium.states()[2..4],
        [Snapshot::EMPTY, Snapshot::new(Condition::Closed, Sector(8))]
    );
}

#[test]
fn after_an_error_a_closed_zone_without_data_is_empty() {
    let medium = Medium::new(true, &[]);
    let (disk, _) = begin(&medium);
    medium.zones.lock().unwrap()[3] = Snapshot::new(Condition::Closed, Sector::ZERO);
    assert_eq!(disk.recheck(ZoneId(3)), Some(Snapshot::EMPTY));
    assert_eq!(medium.states()[3], Snapshot::EMPTY);
    let written = Snapshot::new(Condition::Closed, Sector(8));
    medium.zones.lock().unwrap()[4] = written;
    assert_eq!(disk.recheck(ZoneId(4)), Some(written));
    assert_eq!(medium.states()[4], written);
}
