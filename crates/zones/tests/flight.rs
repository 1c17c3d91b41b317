//! Writes at depth: owners with one request each begin, wait, end out of order and fail as a seed says,
//! while zones are managed, reset and broken under them. What must hold is checked after every step, and
//! in the end nobody may be left waiting.
#![allow(clippy::unwrap_used)] // A test that can not go on has failed.

use std::collections::VecDeque;

use proptest::prelude::*;
use zvb_wire::{Condition, Model, Sector, ZoneType};
use zvb_zones::{
    Begun, Forced, Geometry, GeometrySpec, Manage, Outcome, Refusal, Refused, Ticket, WriteId,
    ZoneId, Zones,
};

/// Xorshift64*: all that a seed decides comes from here.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Request {
    Write { at: u64, sectors: u64 },
    Append { zone: u32, sectors: u64 },
    Manage { what: Manage, zone: u32 },
    ResetAll,
}

#[derive(Debug)]
enum Owner {
    Idle,
    Waiting {
        request: Request,
        ticket: Ticket,
        since: u64,
    },
    Writing {
        id: WriteId,
    },
    /// Its command is on the medium, which may carry it out or not.
    Commanding {
        id: WriteId,
        request: Request,
        /// It will fail: its zone failed.
        doomed: bool,
    },
    /// Its I/O has ended, its answer is held.
    Ended {
        outcome: Outcome,
    },
}

/// A write in flight, as the test remembers it.
#[derive(Clone, Debug)]
struct Flight {
    owner: usize,
    at: u64,
    end: u64,
    /// It will fail, whatever its I/O does: its zone failed, or one before it did.
    doomed: bool,
    /// Doomed by another, or by its zone.
    spoilt: bool,
    /// Its zone was open when it began.
    open: bool,
}

struct World {
    zones: Zones,
    geometry: Geometry,
    dice: Dice,
    /// The medium carries commands to zones out itself.
    commands: bool,
    owners: Vec<Owner>,
    /// Per zone, in the order they were begun.
    flights: Vec<VecDeque<Flight>>,
    /// Per zone: where data ends that was acknowledged, or kept by a failure. From the zone's start.
    written: Vec<u64>,
    step: u64,
    longest_wait: u64,
    done: u64,
}

impl World {
    fn new(spec: GeometrySpec, seed: u64, owners: usize) -> Self {
        let geometry = Geometry::new(spec).unwrap();
        let zones = geometry.zone_count() as usize;
        Self {
            zones: Zones::new(geometry),
            geometry,
            dice: Dice(seed | 1),
            commands: seed & 2 != 0,
            owners: (0..owners).map(|_| Owner::Idle).collect(),
            flights: vec![VecDeque::new(); zones],
            written: vec![0; zones],
            step: 0,
            longest_wait: 0,
            done: 0,
        }
    }

    fn start(&self, zone: usize) -> u64 {
        self.geometry.start(ZoneId(zone as u32)).0
    }

    fn required(&self, zone: usize) -> bool {
        self.geometry.zone_type(ZoneId(zone as u32)) == ZoneType::SequentialRequired
    }

    fn touched(&self, at: u64, end: u64) -> std::ops::RangeInclusive<usize> {
        let zone = |sector| self.geometry.zone_of(Sector(sector)).unwrap().0 as usize;
        zone(at)..=zone(end - 1)
    }

    /// A request that has a good chance to be right.
    fn invent(&mut self) -> Request {
        let zone = self.dice.roll(self.geometry.zone_count().into()) as u32;
        let granule = self.geometry.granule().0;
        let sectors = granule * (1 + self.dice.roll(3));
        let manage = [Manage::Open, Manage::Close, Manage::Finish, Manage::Reset, Manage::Reset];
        match self.dice.roll(100) {
            0..25 if self.required(zone as usize) => Request::Append { zone, sectors },
            0..75 => {
                let flights = &self.flights[zone as usize];
                let written = self.start(zone as usize) + self.written[zone as usize];
                let mut at = flights.back().map_or(written, |flight| flight.end);
                if !self.required(zone as usize) {
                    at = self.start(zone as usize) + self.dice.roll(12);
                }
                Request::Write { at, sectors: if self.dice.chance(10) { 20 } else { sectors } }
            }
            75..98 => Request::Manage { what: manage[self.dice.roll(5) as usize], zone },
            _ => Request::ResetAll,
        }
    }

    /// Tries `request`. `true` when it is over, or in flight.
    fn attempt(&mut self, owner: usize, request: Request, held: Option<(Ticket, u64)>) -> bool {
        let ticket = held.map(|(ticket, _)| ticket);
        let zone_start = |zone: u32| self.geometry.start(ZoneId(zone));
        let tag = owner as u64;
        if self.commands && matches!(request, Request::Manage { .. } | Request::ResetAll) {
            return self.attempt_command(owner, request, held);
        }
        let tried = match request {
            Request::Write { at, sectors } => {
                let begun = self.zones.begin_write(Sector(at), Sector(sectors), tag, ticket);
                begun.map(|begun| Some((begun, sectors)))
            }
            Request::Append { zone, sectors } => {
                let start = zone_start(zone);
                let begun = self.zones.begin_append(start, Sector(sectors), tag, ticket);
                begun.map(|begun| Some((begun, sectors)))
            }
            Request::Manage { what, zone } => {
                self.zones.manage(what, zone_start(zone), ticket).map(|()| None)
            }
            Request::ResetAll => self.zones.reset_all(ticket).map(|()| None),
        };
        if !matches!(tried, Err(Refused::Wait(_))) {
            self.owners[owner] = Owner::Idle;
            self.done += 1;
        }
        match tried {
            Err(Refused::Wait(given)) => {
                assert!(ticket.is_some() || !self.goes_at_once(request), "{request:?} waits");
                assert!(ticket.is_none_or(|ticket| ticket == given), "a place is kept");
                let since = held.map_or(self.step, |(_, since)| since);
                self.longest_wait = self.longest_wait.max(self.step - since);
                self.owners[owner] = Owner::Waiting { request, ticket: given, since };
                return false;
            }
            Err(Refused::Status(refusal)) => {
                let resources = matches!(refusal, Refusal::OpenLimit | Refusal::ActiveLimit);
                assert!(!resources || !self.writes_anywhere(request), "{request:?}: {refusal}");
            }
            Ok(None) => {
                self.assert_in_turn(request, held);
                self.managed(request);
            }
            Ok(Some((begun, sectors))) => {
                self.assert_in_turn(request, held);
                self.begun(owner, request, begun, sectors);
            }
        }
        true
    }

    /// The same for a command that the medium carries out.
    fn attempt_command(
        &mut self,
        owner: usize,
        request: Request,
        held: Option<(Ticket, u64)>,
    ) -> bool {
        let (ticket, tag) = (held.map(|(ticket, _)| ticket), owner as u64);
        let tried = match request {
            Request::Manage { what, zone } => {
                self.zones.begin_manage(what, self.geometry.start(ZoneId(zone)), tag, ticket)
            }
            _ => self.zones.begin_reset_all(tag, ticket),
        };
        match tried {
            Err(Refused::Wait(given)) => {
                assert!(ticket.is_none_or(|ticket| ticket == given), "a place is kept");
                let since = held.map_or(self.step, |(_, since)| since);
                self.longest_wait = self.longest_wait.max(self.step - since);
                self.owners[owner] = Owner::Waiting { request, ticket: given, since };
                return false;
            }
            Err(Refused::Status(_)) => {
                self.owners[owner] = Owner::Idle;
                self.done += 1;
            }
            Ok(id) => {
                self.assert_in_turn(request, held);
                self.assert_alone(request);
                self.owners[owner] = Owner::Commanding { id, request, doomed: false };
            }
        }
        true
    }

    /// No write and no command is under way in the zones of `request`.
    fn assert_alone(&self, request: Request) {
        let zones = self.zones_of(request).unwrap();
        let quiet = zones.clone().all(|zone| self.flights[zone].is_empty());
        assert!(quiet, "{request:?} went before a write in flight");
        self.assert_no_command(request);
    }

    fn assert_no_command(&self, request: Request) {
        let Some(zones) = self.zones_of(request) else { return };
        for other in &self.owners {
            let Owner::Commanding { request: other, .. } = other else { continue };
            let others = self.zones_of(*other).unwrap();
            let meet = zones.start() <= others.end() && others.start() <= zones.end();
            assert!(!meet, "{request:?} went while {other:?} was under way");
        }
    }

    fn end_command(&mut self, owner: usize, outcome: Outcome) {
        let commanding = std::mem::replace(&mut self.owners[owner], Owner::Idle);
        let Owner::Commanding { id, request, doomed } = commanding else {
            panic!("owner {owner} gave no command");
        };
        let mut released = Vec::new();
        self.zones.end_write(id, outcome, |r| released.push((r.owner as usize, r.ok)));
        let ok = outcome == Outcome::Done && !doomed;
        assert_eq!(released, [(owner, ok)], "{request:?}");
        if ok {
            self.managed(request);
        }
        self.done += 1;
    }

    /// A write that no zone on its way can refuse for resources.
    fn writes_anywhere(&self, request: Request) -> bool {
        let zones = self.zones_of(request);
        matches!(request, Request::Write { .. })
            && zones.is_none_or(|mut zones| zones.all(|zone| !self.required(zone)))
    }

    /// A write that nobody stands in the way of, but for what is in flight and sound.
    fn goes_at_once(&self, request: Request) -> bool {
        let waiting = self.owners.iter().any(|owner| matches!(owner, Owner::Waiting { .. }));
        let doomed = self.flights.iter().flatten().any(|flight| flight.doomed);
        let command = self.owners.iter().any(|owner| matches!(owner, Owner::Commanding { .. }));
        self.writes_anywhere(request) && !waiting && !doomed && !command
    }

    /// Nobody who came earlier for the same zone is still waiting.
    fn assert_in_turn(&self, request: Request, held: Option<(Ticket, u64)>) {
        let since = held.map_or(self.step, |(_, since)| since);
        let Some(zones) = self.zones_of(request) else {
            return;
        };
        for other in &self.owners {
            let Owner::Waiting { request: waiting, since: earlier, .. } = other else {
                continue;
            };
            let Some(others) = self.zones_of(*waiting) else {
                continue;
            };
            let meet = zones.start() <= others.end() && others.start() <= zones.end();
            assert!(!meet || *earlier >= since, "{request:?} overtook {waiting:?}");
        }
    }

    /// The zones with a write pointer that a request concerns.
    fn zones_of(&self, request: Request) -> Option<std::ops::RangeInclusive<usize>> {
        let conventional = self.geometry.spec().conventional as usize;
        let zones = match request {
            Request::Write { at, sectors } => self.touched(at, at + sectors),
            Request::Append { zone, .. } | Request::Manage { zone, .. } => {
                zone as usize..=zone as usize
            }
            Request::ResetAll => 0..=self.flights.len() - 1,
        };
        let zones = (*zones.start()).max(conventional)..=*zones.end();
        (!zones.is_empty()).then_some(zones)
    }

    fn managed(&mut self, request: Request) {
        for zone in self.zones_of(request).unwrap() {
            let quiet = self.flights[zone].iter().all(|flight| flight.doomed);
            assert!(quiet, "{request:?} went before a write in flight to zone {zone}");
            let reset = matches!(request, Request::Manage { what: Manage::Reset, .. });
            let state = self.zones.snapshot(ZoneId(zone as u32)).condition();
            let dead = matches!(state, Condition::ReadOnly | Condition::Offline);
            if (reset || request == Request::ResetAll) && !dead {
                self.written[zone] = 0;
            }
        }
    }

    fn begun(&mut self, owner: usize, request: Request, begun: Begun, sectors: u64) {
        let Some(id) = begun.write else {
            return;
        };
        let (at, end) = (begun.at.0, begun.at.0 + sectors);
        self.assert_no_command(Request::Write { at, sectors });
        for zone in self.zones_of(Request::Write { at, sectors }).unwrap() {
            if self.required(zone) {
                let written = self.start(zone) + self.written[zone];
                let expected = self.flights[zone].back().map_or(written, |flight| flight.end);
                assert_eq!(at, expected, "{request:?} does not begin at the pointer");
            }
            let doomed = self.flights[zone].iter().any(|flight| flight.doomed);
            assert!(!doomed, "{request:?} began behind a failure");
            let state = self.zones.snapshot(ZoneId(zone as u32)).condition();
            let open = state.is_open();
            let unlimited = self.geometry.spec().max_open == 0 || self.required(zone);
            let as_it_was = matches!(state, Condition::Empty | Condition::Closed) && !unlimited;
            assert!(open || as_it_was || state == Condition::Full, "{request:?}, {state:?}");
            self.flights[zone].push_back(Flight {
                owner,
                at,
                end,
                doomed: false,
                spoilt: false,
                open,
            });
        }
        self.done -= 1;
        self.owners[owner] = Owner::Writing { id };
    }

    fn end(&mut self, owner: usize, outcome: Outcome) {
        let writing = std::mem::replace(&mut self.owners[owner], Owner::Ended { outcome });
        let Owner::Writing { id } = writing else {
            panic!("owner {owner} does not write");
        };
        if outcome != Outcome::Done {
            for zone in 0..self.flights.len() {
                if self.required(zone) {
                    let mine = self.flights[zone].iter().position(|flight| flight.owner == owner);
                    let behind = mine.unwrap_or(usize::MAX);
                    for (i, flight) in self.flights[zone].iter_mut().enumerate().skip(behind) {
                        flight.doomed = true;
                        flight.spoilt |= i != behind;
                    }
                }
            }
        }
        let mut released = Vec::new();
        self.zones.end_write(id, outcome, |r| released.push((r.owner as usize, r.ok)));
        for (owner, ok) in released {
            self.release(owner, ok);
        }
    }

    /// Somewhere in the owner's write.
    fn tear(&mut self, owner: usize) -> Outcome {
        let flight = self.flights.iter().flatten().find(|flight| flight.owner == owner).unwrap();
        let (at, end, granule) = (flight.at, flight.end, self.geometry.granule().0);
        let first = at.next_multiple_of(granule);
        let places = end.saturating_sub(first).div_ceil(granule);
        match places {
            0 => Outcome::Failed,
            places => Outcome::Torn { end: Sector(first + self.dice.roll(places) * granule) },
        }
    }

    fn release(&mut self, owner: usize, ok: bool) {
        let ended = std::mem::replace(&mut self.owners[owner], Owner::Idle);
        let Owner::Ended { outcome } = ended else {
            panic!("owner {owner} is released and has not ended: {ended:?}");
        };
        let mut expected = outcome == Outcome::Done;
        let mut sound = true;
        for zone in 0..self.flights.len() {
            let mine = self.flights[zone].iter().position(|flight| flight.owner == owner);
            if let Some(mine) = mine {
                assert!(mine == 0 || !self.required(zone), "released out of order");
                expected &= !self.flights[zone][mine].doomed;
                // Itself torn it is doomed; torn behind another it leaves nothing.
                sound &= !self.flights[zone][mine].spoilt;
            }
        }
        assert_eq!(ok, expected, "owner {owner} of zones {:?}", self.flights);
        for zone in 0..self.flights.len() {
            let mine = self.flights[zone].iter().position(|flight| flight.owner == owner);
            let Some(flight) = mine.and_then(|mine| self.flights[zone].remove(mine)) else {
                continue;
            };
            let end = flight.end - self.start(zone);
            if ok && self.required(zone) {
                assert_eq!(flight.at - self.start(zone), self.written[zone]);
            }
            let kept = match outcome {
                Outcome::Torn { end } if sound => end.0.saturating_sub(self.start(zone)),
                _ if ok => end,
                _ => 0,
            };
            let len = self.geometry.len(ZoneId(zone as u32)).0;
            self.written[zone] = self.written[zone].max(kept.min(len));
        }
        self.done += 1;
    }

    fn break_a_zone(&mut self) {
        let zone = self.dice.roll(self.flights.len() as u64) as usize;
        let forced = [Forced::ReadOnly, Forced::Offline][self.dice.roll(2) as usize];
        let id = ZoneId(zone as u32);
        let before = self.zones.snapshot(id).condition();
        if matches!(before, Condition::ReadOnly | Condition::Offline) {
            let _ = self.zones.set_condition(id, Forced::Restored);
        } else {
            self.zones.set_condition(id, forced).unwrap();
            for flight in &mut self.flights[zone] {
                flight.doomed = true;
                flight.spoilt = true;
            }
            for owner in &mut self.owners {
                if let Owner::Commanding { request: Request::Manage { zone, .. }, doomed, .. } =
                    owner
                {
                    *doomed |= *zone == id.0;
                }
            }
            if self.dice.chance(50) {
                // Sound again, while what was in flight is not over yet.
                let _ = self.zones.set_condition(id, Forced::Restored);
            }
        }
    }

    /// Wakes those who wait, in any order, as often as the table asks for it.
    fn retry(&mut self) {
        let mut rounds = 0;
        while self.zones.wants_retry() {
            let count = self.owners.len();
            let from = self.dice.roll(count as u64) as usize;
            for owner in (from..count).chain(0..from) {
                if let Owner::Waiting { request, ticket, since } = self.owners[owner] {
                    self.attempt(owner, request, Some((ticket, since)));
                }
            }
            rounds += 1;
            assert!(rounds <= 2 * count + 4, "woken again and again, and nothing happens");
        }
    }

    fn check(&self) {
        use Condition as C;
        let spec = self.geometry.spec();
        let (mut implicit, mut explicit, mut closed) = (0, 0, 0);
        for zone in 0..self.flights.len() {
            let state = self.zones.snapshot(ZoneId(zone as u32));
            implicit += u32::from(state.condition() == C::ImplicitOpen);
            explicit += u32::from(state.condition() == C::ExplicitOpen);
            closed += u32::from(state.condition() == C::Closed);
            let sequential = zone >= spec.conventional as usize;
            if sequential {
                assert_eq!(state.written().0, self.written[zone], "zone {zone}");
            }
            let live = self.flights[zone].iter().any(|flight| !flight.doomed && flight.open);
            let open = state.condition().is_open();
            let rewritten = state.condition() == C::Full && !self.required(zone);
            assert!(!live || open || rewritten, "zone {zone} is written and {state:?}");
            let written = state.written().0 != 0;
            assert!(!(state.condition() == C::Empty && written), "zone {zone}: {state:?}");
            let idle = self.flights[zone].is_empty();
            let empty = state.condition() == C::ImplicitOpen && self.written[zone] == 0;
            assert!(!(idle && empty), "zone {zone} is open for nothing");
        }
        let counts = self.zones.counts();
        assert_eq!(
            (implicit, explicit, closed),
            (counts.open_implicit, counts.open_explicit, counts.closed)
        );
        assert!(spec.max_open == 0 || counts.open() <= spec.max_open);
        assert!(spec.max_active == 0 || counts.active() <= spec.max_active);
    }

    fn run(&mut self, steps: u64, trouble: bool) {
        for _ in 0..steps {
            self.step += 1;
            if trouble && self.dice.chance(1) {
                self.break_a_zone();
            }
            let owner = self.dice.roll(self.owners.len() as u64) as usize;
            match &self.owners[owner] {
                Owner::Idle => {
                    let request = self.invent();
                    let disk = self.geometry.spec().capacity.0;
                    if !matches!(request, Request::Write { at, sectors } if at + sectors > disk) {
                        self.attempt(owner, request, None);
                    }
                }
                Owner::Writing { .. } => {
                    let outcome = match self.dice.roll(20) {
                        0 if trouble => Outcome::Failed,
                        1 if trouble => self.tear(owner),
                        _ => Outcome::Done,
                    };
                    self.end(owner, outcome);
                }
                Owner::Commanding { .. } => {
                    let failed = trouble && self.dice.chance(20);
                    self.end_command(owner, if failed { Outcome::Failed } else { Outcome::Done });
                }
                Owner::Waiting { .. } | Owner::Ended { .. } => {}
            }
            // A medium that has nothing to add.
            self.zones.take_suspects(|_, _| None);
            self.retry();
            self.check();
        }
    }

    /// Ends all I/O, without new requests: all that wait must end too.
    fn drain(&mut self) {
        loop {
            self.step += 1;
            let writing =
                |owner: &Owner| matches!(owner, Owner::Writing { .. } | Owner::Commanding { .. });
            let left: Vec<usize> =
                (0..self.owners.len()).filter(|i| writing(&self.owners[*i])).collect();
            if left.is_empty() {
                break;
            }
            let owner = left[self.dice.roll(left.len() as u64) as usize];
            match self.owners[owner] {
                Owner::Commanding { .. } => self.end_command(owner, Outcome::Done),
                _ => self.end(owner, Outcome::Done),
            }
            self.retry();
            self.check();
        }
        for owner in &self.owners {
            assert!(matches!(owner, Owner::Idle), "left behind: {owner:?}");
        }
        assert!(!self.zones.wants_retry());
    }
}

const LIMITS: [(u32, u32); 6] = [(0, 0), (1, 0), (2, 0), (1, 1), (2, 3), (3, 3)];

fn spec(model: Model, limits: (u32, u32)) -> GeometrySpec {
    GeometrySpec {
        model,
        capacity: Sector(16 * 5 + 8),
        zone_size: Sector(16),
        zone_capacity: Sector(if model == Model::HostManaged { 14 } else { 16 }),
        conventional: 1,
        max_open: limits.0,
        max_active: if model == Model::HostManaged { limits.1 } else { 0 },
        max_append: Sector(8),
        write_granularity: if model == Model::HostManaged { 1024 } else { 512 },
    }
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 96,
        max_shrink_iters: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn host_managed_zones_at_depth(seed: u64, limits in 0..LIMITS.len(), owners in 1..24_usize) {
        let mut world = World::new(spec(Model::HostManaged, LIMITS[limits]), seed, owners);
        world.run(1500, true);
        world.drain();
    }

    #[test]
    fn host_aware_zones_at_depth(seed: u64, limits in 0..LIMITS.len(), owners in 1..24_usize) {
        let mut world = World::new(spec(Model::HostAware, LIMITS[limits]), seed, owners);
        world.run(1500, true);
        world.drain();
    }

    /// Requests never stop coming, and yet nobody waits for long: some owners' turn comes at every
    /// step, so a wait is bounded by those before it and by the I/O that they wait for.
    #[test]
    fn nobody_starves(seed: u64, limits in 0..LIMITS.len(), aware: bool) {
        let model = if aware { Model::HostAware } else { Model::HostManaged };
        let mut world = World::new(spec(model, LIMITS[limits]), seed, 16);
        world.run(6000, false);
        prop_assert!(world.longest_wait < 1500, "a wait of {} steps", world.longest_wait);
        prop_assert!(world.done > 600, "only {} requests of 6000 steps", world.done);
        world.drain();
    }
}
