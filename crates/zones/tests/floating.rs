//! Appends that a medium places itself: it gives places in whatever order it likes, answers in another, fails some
//! before and some after they had a place, and has ordinary writes between them. What is answered is what stands
//! there, and the write pointer is the medium's own once nothing is in flight.
#![allow(clippy::unwrap_used)] // A test that can not go on has failed.

use proptest::prelude::*;
use zvb_wire::{Condition, Model, Sector};
use zvb_zones::{
    Geometry, GeometrySpec, Manage, Outcome, Refused, Snapshot, WriteId, ZoneId, Zones,
};

const ZONES: u64 = 3;
const ZONE: u64 = 64;
const CAPACITY: u64 = 48;

fn geometry() -> Geometry {
    Geometry::new(GeometrySpec {
        model: Model::HostManaged,
        capacity: Sector(ZONES * ZONE),
        zone_size: Sector(ZONE),
        zone_capacity: Sector(CAPACITY),
        conventional: 0,
        max_open: 0,
        max_active: 0,
        max_append: Sector(16),
        write_granularity: 512,
    })
    .unwrap()
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below
    }
}

/// A write that the table has let go.
#[derive(Debug)]
struct Flight {
    id: WriteId,
    owner: u64,
    zone: u64,
    sectors: u64,
    /// `None`: it floats.
    at: Option<u64>,
    /// What the medium has made of it: where it is, and whether it will be said to have failed.
    placed: Option<(u64, bool)>,
}

struct World {
    zones: Zones,
    dice: Dice,
    /// Who has written each sector, and where the medium's pointers are, from the zones' starts.
    medium: Vec<u64>,
    pointers: Vec<u64>,
    flights: Vec<Flight>,
    /// Ended, and not released yet: its owner, where it is, and of how many sectors.
    ended: Vec<(u64, Option<u64>, u64)>,
    owners: u64,
    floated: u64,
    answered: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            zones: Zones::new(geometry()),
            dice: Dice(seed | 1),
            medium: vec![0; (ZONES * ZONE) as usize],
            pointers: vec![0; ZONES as usize],
            flights: Vec::new(),
            ended: Vec::new(),
            owners: 0,
            floated: 0,
            answered: 0,
        }
    }

    fn written(&self, zone: u64) -> u64 {
        self.zones.snapshot(ZoneId(zone as u32)).written().0
    }

    /// A new request; one that would wait is forgotten: others test waiting.
    fn begin(&mut self) {
        let (zone, sectors) = (self.dice.roll(ZONES), 1 + self.dice.roll(8));
        self.owners += 1;
        let (owner, start) = (self.owners, Sector(zone * ZONE));
        let begun = match self.dice.roll(10) {
            0 => {
                // Behind all that is in flight, as who knows its sizes can.
                let in_flight = self.flights.iter().filter(|f| f.zone == zone).map(|f| f.sectors);
                let at = start.0 + self.written(zone) + in_flight.sum::<u64>();
                self.zones.begin_write(Sector(at), Sector(sectors), owner, None)
            }
            1 => self.zones.begin_append(start, Sector(sectors), owner, None),
            2 => {
                let quiet = self.flights.iter().all(|f| f.zone != zone);
                match self.zones.manage(Manage::Reset, start, None) {
                    Ok(()) => {
                        assert!(quiet, "a reset went before a write in flight");
                        self.pointers[zone as usize] = 0;
                    }
                    Err(Refused::Wait(ticket)) => self.give_up(zone, ticket),
                    Err(Refused::Status(_)) => {}
                }
                return;
            }
            _ => self.zones.begin_floating_append(start, Sector(sectors), owner, None),
        };
        match begun {
            Ok(begun) => {
                let fixed = self.flights.iter().any(|f| f.zone == zone && f.at.is_some());
                assert!(!begun.floats || !fixed, "it could take the place of another");
                self.floated += u64::from(begun.floats);
                let at = (!begun.floats).then_some(begun.at.0);
                let id = begun.write.unwrap();
                self.flights.push(Flight { id, owner, zone, sectors, at, placed: None });
            }
            Err(Refused::Wait(ticket)) => self.give_up(zone, ticket),
            Err(Refused::Status(_)) => {}
        }
    }

    /// Who waits is let go once the zone is quiet.
    fn give_up(&mut self, zone: u64, ticket: zvb_zones::Ticket) {
        while let Some(i) = self.flights.iter().position(|f| f.zone == zone) {
            self.execute(zone);
            self.end(i);
            self.recheck();
        }
        let start = Sector(zone * ZONE);
        self.zones.manage(Manage::Reset, start, Some(ticket)).unwrap();
        self.pointers[zone as usize] = 0;
    }

    /// The medium gives places: to any that floats, and to others when it is their turn, or never.
    fn execute(&mut self, zone: u64) {
        let pointer = self.pointers[zone as usize];
        let start = zone * ZONE;
        let trouble = self.dice.roll(30) == 0;
        let lost = self.dice.roll(2) == 0;
        let from = self.dice.roll(self.flights.len().max(1) as u64) as usize;
        let count = self.flights.len();
        let order = (from..count).chain(0..from);
        for i in order {
            let flight = &mut self.flights[i];
            let turn = flight.at.is_none_or(|at| at == start + pointer);
            if flight.zone != zone || flight.placed.is_some() || !turn {
                continue;
            }
            let fits = pointer + flight.sectors <= CAPACITY;
            if !fits || (trouble && lost) {
                flight.placed = Some((0, true));
                return;
            }
            flight.placed = Some((start + pointer, trouble));
            let range = (start + pointer) as usize..(start + pointer + flight.sectors) as usize;
            self.medium[range].fill(flight.owner);
            self.pointers[zone as usize] = pointer + flight.sectors;
            return;
        }
    }

    /// The medium answers the flight `i`.
    fn end(&mut self, i: usize) {
        let Flight { id, owner, sectors, at, placed, .. } = self.flights.remove(i);
        let outcome = match (placed, at) {
            (Some((place, false)), None) => Outcome::Placed { at: Sector(place) },
            (Some((_, false)), Some(_)) => Outcome::Done,
            // It failed, or its turn never came.
            _ => Outcome::Failed,
        };
        let place = placed.filter(|(_, failed)| !failed).map(|(place, _)| place);
        self.ended.push((owner, place, sectors));
        let mut released = Vec::new();
        self.zones.end_write(id, outcome, |r| released.push((r.owner, r.ok)));
        for (owner, ok) in released {
            let i = self.ended.iter().position(|(ended, ..)| *ended == owner);
            let (_, place, sectors) = self.ended.remove(i.expect("released before it ended"));
            self.answered += u64::from(ok);
            if !ok {
                continue;
            }
            let at = place.expect("a failure is told as a success");
            let zone = at / ZONE;
            assert!(at + sectors <= zone * ZONE + self.written(zone), "it can not be read yet");
            let stands = &self.medium[at as usize..(at + sectors) as usize];
            assert!(stands.iter().all(|who| *who == owner), "another stands at {at}: {stands:?}");
        }
    }

    fn recheck(&mut self) {
        let pointers = &self.pointers;
        self.zones.take_suspects(|zone, busy| {
            let written = pointers[zone.0 as usize];
            let condition = match written {
                0 => Condition::Empty,
                CAPACITY => Condition::Full,
                _ => Condition::Closed,
            };
            (!busy).then(|| Snapshot::new(condition, Sector(written)))
        });
    }

    fn check(&self) {
        for zone in 0..ZONES {
            let (ours, its) = (self.written(zone), self.pointers[zone as usize]);
            assert!(ours <= its, "zone {zone}: {ours} of {its} are there");
            let quiet = self.flights.iter().all(|f| f.zone != zone);
            assert!(!quiet || ours == its, "zone {zone} is quiet: {ours}, and on the medium {its}");
            assert_eq!(quiet, !self.zones.is_busy(ZoneId(zone as u32)), "zone {zone}");
        }
    }

    fn run(&mut self, steps: u32) {
        for _ in 0..steps {
            match self.dice.roll(8) {
                0..=2 if self.flights.len() < 24 => self.begin(),
                3..=5 => {
                    let zone = self.dice.roll(ZONES);
                    self.execute(zone);
                }
                _ if !self.flights.is_empty() => {
                    let i = self.dice.roll(self.flights.len() as u64) as usize;
                    // A write waits for its turn, which comes unless one before it has failed.
                    let zone = self.flights[i].zone;
                    let stuck = self.flights.iter().all(|f| f.zone != zone || f.at.is_some());
                    if self.flights[i].placed.is_some() || stuck {
                        self.end(i);
                    }
                }
                _ => {}
            }
            self.recheck();
            self.check();
        }
        while !self.flights.is_empty() {
            let zone = self.flights[0].zone;
            self.execute(zone);
            self.end(0);
            self.recheck();
            self.check();
        }
        assert!(self.ended.is_empty(), "never released: {:?}", self.ended);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_answered_is_where_the_medium_put_it(seed: u64) {
        let mut world = World::new(seed);
        world.run(3000);
        prop_assert!(world.floated > 200, "only {} floated", world.floated);
        prop_assert!(world.answered > 100, "only {} were answered", world.answered);
    }
}

fn append(zones: &mut Zones, sectors: u64, owner: u64) -> (bool, WriteId) {
    let begun = zones.begin_floating_append(Sector::ZERO, Sector(sectors), owner, None).unwrap();
    (begun.floats, begun.write.unwrap())
}

fn end(zones: &mut Zones, id: WriteId, outcome: Outcome) -> Vec<(u64, bool)> {
    let mut released = Vec::new();
    zones.end_write(id, outcome, |r| released.push((r.owner, r.ok)));
    released
}

fn placed(at: u64) -> Outcome {
    Outcome::Placed { at: Sector(at) }
}

#[test]
fn answers_wait_for_what_stands_before_them() {
    let mut zones = Zones::new(geometry());
    let ((_, a), (_, b), (_, c)) =
        (append(&mut zones, 8, 1), append(&mut zones, 4, 2), append(&mut zones, 8, 3));
    assert_eq!(end(&mut zones, a, placed(12)), []);
    assert_eq!(zones.snapshot(ZoneId(0)).written(), Sector::ZERO);
    assert_eq!(end(&mut zones, c, placed(0)), [(3, true)]);
    assert_eq!(zones.snapshot(ZoneId(0)).written(), Sector(8));
    assert_eq!(end(&mut zones, b, placed(8)), [(2, true), (1, true)]);
    assert_eq!(zones.snapshot(ZoneId(0)).written(), Sector(20));
}

#[test]
fn a_failure_harms_what_stands_behind_it_only() {
    let mut zones = Zones::new(geometry());
    let ((_, a), (_, b), (_, c)) =
        (append(&mut zones, 8, 1), append(&mut zones, 8, 2), append(&mut zones, 8, 3));
    // It had no place, or the last, or one between the others: who knows?
    assert_eq!(end(&mut zones, a, Outcome::Failed), [(1, false)]);
    assert!(zones.begin_floating_append(Sector::ZERO, Sector(8), 4, None).is_err(), "asked first");
    assert_eq!(end(&mut zones, b, placed(0)), [(2, true)]);
    // One between them.
    assert_eq!(end(&mut zones, c, placed(16)), [(3, false)]);
    let state = Snapshot::new(Condition::ImplicitOpen, Sector(24));
    zones.take_suspects(|_, busy| (!busy).then_some(state));
    assert_eq!(zones.snapshot(ZoneId(0)).written(), Sector(24));
}

#[test]
fn places_that_can_not_be_are_failures() {
    for lie in [4, 48, 41, 64, 200, u64::MAX] {
        let mut zones = Zones::new(geometry());
        let (_, a) = append(&mut zones, 8, 1);
        assert_eq!(end(&mut zones, a, placed(lie)), [(1, false)], "{lie}");
        assert_eq!(zones.snapshot(ZoneId(0)).written(), Sector::ZERO, "{lie}");
        let mut asked = 0;
        zones.take_suspects(|_, _| {
            asked += 1;
            None
        });
        assert!(asked > 0, "{lie}: the medium is asked");
        // Two at one place.
        let ((_, a), (_, b)) = (append(&mut zones, 8, 1), append(&mut zones, 8, 2));
        assert_eq!(end(&mut zones, a, placed(0)), [(1, true)]);
        assert_eq!(end(&mut zones, b, placed(0)), [(2, false)]);
    }
    // One that floats is not done without a place, and one that does not has its own.
    let mut zones = Zones::new(geometry());
    let (_, a) = append(&mut zones, 8, 1);
    assert_eq!(end(&mut zones, a, Outcome::Done), [(1, false)]);
    let begun = zones.begin_append(Sector::ZERO, Sector(8), 1, None).unwrap();
    assert_eq!(end(&mut zones, begun.write.unwrap(), placed(8)), [(1, false)]);
    let begun = zones.begin_append(Sector::ZERO, Sector(8), 1, None).unwrap();
    assert_eq!(end(&mut zones, begun.write.unwrap(), placed(0)), [(1, true)]);
}

#[test]
fn nothing_floats_behind_a_write() {
    let mut zones = Zones::new(geometry());
    let (floats, a) = append(&mut zones, 8, 1);
    assert!(floats);
    let b = zones.begin_write(Sector(8), Sector(8), 2, None).unwrap();
    let (floats, c) = append(&mut zones, 8, 3);
    assert!(!floats, "it could take the place of the write");
    assert_eq!(end(&mut zones, c, Outcome::Done), []);
    assert_eq!(end(&mut zones, b.write.unwrap(), Outcome::Done), []);
    assert_eq!(end(&mut zones, a, placed(0)), [(1, true), (2, true), (3, true)]);
    let (floats, d) = append(&mut zones, 8, 4);
    assert!(floats, "nothing is in flight");
    // A write behind one that fails fails.
    let e = zones.begin_write(Sector(32), Sector(8), 5, None).unwrap();
    assert_eq!(end(&mut zones, d, Outcome::Failed), [(4, false)]);
    assert_eq!(end(&mut zones, e.write.unwrap(), Outcome::Done), [(5, false)]);
}
