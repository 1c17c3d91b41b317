//! The table against a model written to be obvious: every command, from every state that commands can
//! reach, on small disks of both kinds and with every small limit. Writes begin and end at once here;
//! `flight.rs` takes them apart.
#![allow(clippy::unwrap_used)] // A test that can not go on has failed.

use std::collections::{HashMap, VecDeque};

use zvb_wire::{Condition, Model as Kind, Sector, Status, ZoneType};
use zvb_zones::{
    Forced, Geometry, GeometrySpec, Manage, Outcome, Refused, Snapshot, ZoneId, Zones, check_read,
};

#[derive(Clone, Copy, Debug)]
enum Command {
    Write {
        at: u64,
        sectors: u64,
    },
    /// A write of which only `kept` sectors, at least one, reach the medium.
    Torn {
        at: u64,
        sectors: u64,
        kept: u64,
    },
    Append {
        at: u64,
        sectors: u64,
    },
    Manage {
        what: Manage,
        at: u64,
    },
    ResetAll,
    Force {
        zone: u32,
        to: Forced,
    },
}

// The model: vectors, searches and copies.

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Zone {
    start: u64,
    len: u64,
    capacity: u64,
    kind: ZoneType,
    condition: Condition,
    pointer: u64,
    /// When it was last written: orders the implicitly open zones.
    used: u64,
}

#[derive(Clone, Debug)]
struct Model {
    spec: GeometrySpec,
    zones: Vec<Zone>,
    /// Sectors of the disk that hold data.
    data: Vec<bool>,
    clock: u64,
}

type Answer = Result<u64, Status>;

impl Model {
    fn new(spec: GeometrySpec) -> Self {
        let mut zones = Vec::new();
        let mut start = 0;
        while start < spec.capacity.0 {
            let len = spec.zone_size.0.min(spec.capacity.0 - start);
            let conventional = zones.len() < spec.conventional as usize;
            let kind = match spec.model {
                _ if conventional => ZoneType::Conventional,
                Kind::HostAware => ZoneType::SequentialPreferred,
                _ => ZoneType::SequentialRequired,
            };
            let capacity = if conventional { len } else { len.min(spec.zone_capacity.0) };
            let condition = if conventional { Condition::NotWp } else { Condition::Empty };
            zones.push(Zone { start, len, capacity, kind, condition, pointer: 0, used: 0 });
            start += len;
        }
        Self { spec, zones, data: vec![false; spec.capacity.0 as usize], clock: 0 }
    }

    fn count(&self, conditions: &[Condition]) -> usize {
        self.zones.iter().filter(|zone| conditions.contains(&zone.condition)).count()
    }

    /// On a failure nothing changes, whatever was done on the way.
    fn run(&mut self, command: Command) -> Answer {
        let mut after = self.clone();
        let answer = match command {
            Command::Write { at, sectors } => after.write(at, sectors).map(|()| at),
            Command::Torn { at, sectors, kept } => {
                return self.torn(after, at, sectors, kept);
            }
            Command::Append { at, sectors } => after.append(at, sectors),
            Command::Manage { what, at } => after.manage(what, at).map(|()| 0),
            Command::ResetAll => {
                for i in 0..after.zones.len() {
                    use Condition::{NotWp, Offline, ReadOnly};
                    if ![NotWp, ReadOnly, Offline].contains(&after.zones[i].condition) {
                        after.reset(i);
                    }
                }
                Ok(0)
            }
            Command::Force { zone, to } => after.force(zone as usize, to).map(|()| 0),
        };
        if answer.is_ok() {
            *self = after;
        }
        answer
    }

    /// What may be written is written as far as it is kept, and fails.
    fn torn(&mut self, mut whole: Self, at: u64, sectors: u64, kept: u64) -> Answer {
        whole.write(at, sectors)?;
        let required = |zone: &&Zone| zone.start <= at && at < zone.start + zone.len;
        let zone = self.zones.iter().find(required);
        if zone.is_some_and(|zone| zone.kind == ZoneType::SequentialRequired) {
            self.write(at, kept)?;
        }
        Err(Status::IOERR)
    }

    fn write(&mut self, at: u64, sectors: u64) -> Result<(), Status> {
        if at + sectors > self.spec.capacity.0 {
            return Err(Status::IOERR);
        }
        let end = at + sectors;
        let touched: Vec<usize> = (0..self.zones.len())
            .filter(|&i| {
                let zone = &self.zones[i];
                let inside = |sector| zone.start <= sector && sector < zone.start + zone.len;
                inside(at) || (at..end).any(inside)
            })
            .collect();
        if touched.iter().any(|&i| self.zones[i].kind == ZoneType::SequentialRequired) {
            if touched.len() > 1 {
                return Err(Status::ZONE_INVALID_CMD);
            }
            return self.write_sequential(touched[0], at, sectors);
        }
        let dead = [Condition::ReadOnly, Condition::Offline];
        if touched.iter().any(|&i| dead.contains(&self.zones[i].condition)) {
            return Err(Status::ZONE_INVALID_CMD);
        }
        if sectors == 0 {
            return Ok(());
        }
        for &i in &touched {
            // Those that can't be opened are written all the same.
            let before = self.clone();
            if self.open(i, &touched).is_err() {
                *self = before;
            }
        }
        for &i in &touched {
            let zone = &mut self.zones[i];
            let reached = end.min(zone.start + zone.len) - zone.start;
            if zone.kind == ZoneType::SequentialPreferred && reached > zone.pointer {
                zone.pointer = reached;
                if reached == zone.capacity {
                    zone.condition = Condition::Full;
                } else if zone.condition == Condition::Empty {
                    zone.condition = Condition::Closed;
                }
            }
        }
        self.data[at as usize..end as usize].fill(true);
        Ok(())
    }

    fn write_sequential(&mut self, i: usize, at: u64, sectors: u64) -> Result<(), Status> {
        use Condition::{Full, Offline, ReadOnly};
        let zone = self.zones[i].clone();
        if [Full, ReadOnly, Offline].contains(&zone.condition) {
            return Err(Status::ZONE_INVALID_CMD);
        }
        if at != zone.start + zone.pointer {
            return Err(Status::ZONE_UNALIGNED_WP);
        }
        if !(sectors * 512).is_multiple_of(self.spec.write_granularity.into()) {
            return Err(Status::ZONE_UNALIGNED_WP);
        }
        if zone.pointer + sectors > zone.capacity {
            return Err(Status::ZONE_INVALID_CMD);
        }
        if sectors == 0 {
            return Ok(());
        }
        self.open(i, &[i])?;
        let zone = &mut self.zones[i];
        zone.pointer += sectors;
        if zone.pointer == zone.capacity {
            zone.condition = Full;
        }
        self.data[at as usize..(at + sectors) as usize].fill(true);
        Ok(())
    }

    fn append(&mut self, at: u64, sectors: u64) -> Answer {
        if self.spec.max_append == Sector(0) {
            return Err(Status::UNSUPP);
        }
        let i = self.named(at)?;
        if self.zones[i].kind != ZoneType::SequentialRequired || sectors > self.spec.max_append.0 {
            return Err(Status::ZONE_INVALID_CMD);
        }
        let at = at + self.zones[i].pointer;
        self.write_sequential(i, at, sectors).map(|()| at)
    }

    fn named(&self, at: u64) -> Result<usize, Status> {
        if at >= self.spec.capacity.0 {
            return Err(Status::ZONE_INVALID_CMD);
        }
        self.zones.iter().position(|zone| zone.start == at).ok_or(Status::ZONE_INVALID_CMD)
    }

    fn manage(&mut self, what: Manage, at: u64) -> Result<(), Status> {
        use Condition as C;
        let i = self.named(at)?;
        match (what, self.zones[i].condition) {
            (_, C::NotWp | C::ReadOnly | C::Offline)
            | (Manage::Open, C::Full)
            | (Manage::Close, C::Full | C::Empty) => return Err(Status::ZONE_INVALID_CMD),
            (Manage::Open, _) => {
                self.open(i, &[i])?;
                self.zones[i].condition = C::ExplicitOpen;
            }
            (Manage::Close, _) => {
                let empty = self.zones[i].pointer == 0;
                self.zones[i].condition = if empty { C::Empty } else { C::Closed };
            }
            (Manage::Finish, _) => self.zones[i].condition = C::Full,
            (Manage::Reset, _) => self.reset(i),
        }
        Ok(())
    }

    fn reset(&mut self, i: usize) {
        let zone = &mut self.zones[i];
        zone.condition = Condition::Empty;
        zone.pointer = 0;
        self.data[zone.start as usize..(zone.start + zone.len) as usize].fill(false);
    }

    fn force(&mut self, i: usize, to: Forced) -> Result<(), Status> {
        use Condition as C;
        let zone = &self.zones[i];
        let dead = [C::ReadOnly, C::Offline].contains(&zone.condition);
        let next = match to {
            Forced::ReadOnly => C::ReadOnly,
            Forced::Offline => C::Offline,
            Forced::Restored if !dead => return Ok(()),
            Forced::Restored if zone.kind == ZoneType::Conventional => C::NotWp,
            Forced::Restored if zone.pointer == 0 => C::Empty,
            Forced::Restored if zone.pointer == zone.capacity => C::Full,
            Forced::Restored => C::Closed,
        };
        self.zones[i].condition = next;
        let active = self.count(&[C::ImplicitOpen, C::ExplicitOpen, C::Closed]);
        if next == C::Closed && self.spec.max_active != 0 && active > self.spec.max_active as usize
        {
            return Err(Status::ZONE_ACTIVE_RESOURCE);
        }
        Ok(())
    }

    /// Opens a zone if it is empty or closed, and closes others than `kept` to make room.
    fn open(&mut self, i: usize, kept: &[usize]) -> Result<(), Status> {
        use Condition as C;
        self.clock += 1;
        self.zones[i].used = self.clock;
        if ![C::Empty, C::Closed].contains(&self.zones[i].condition) {
            return Ok(());
        }
        self.zones[i].condition = C::ImplicitOpen;
        let over = |count: usize, limit: u32| limit != 0 && count > limit as usize;
        let open = [C::ImplicitOpen, C::ExplicitOpen];
        if over(self.count(&[C::ImplicitOpen, C::ExplicitOpen, C::Closed]), self.spec.max_active) {
            return Err(Status::ZONE_ACTIVE_RESOURCE);
        }
        while over(self.count(&open), self.spec.max_open) {
            let victim = (0..self.zones.len())
                .filter(|i| self.zones[*i].condition == C::ImplicitOpen && !kept.contains(i))
                .min_by_key(|i| self.zones[*i].used);
            let Some(victim) = victim else {
                return Err(Status::ZONE_OPEN_RESOURCE);
            };
            self.zones[victim].condition = C::Closed;
        }
        Ok(())
    }

    /// What tells two states apart.
    fn key(&self) -> Vec<(Condition, u64, usize)> {
        let rank = |zone: &Zone| {
            let older = |other: &&Zone| {
                other.condition == Condition::ImplicitOpen && other.used < zone.used
            };
            match zone.condition {
                Condition::ImplicitOpen => self.zones.iter().filter(older).count(),
                _ => 0,
            }
        };
        self.zones.iter().map(|zone| (zone.condition, zone.pointer, rank(zone))).collect()
    }
}

// The table, driven one command at a time.

#[derive(Clone)]
struct Subject {
    zones: Zones,
    /// What a lock-free reader knows.
    published: Vec<Snapshot>,
}

impl Subject {
    fn new(spec: GeometrySpec) -> Self {
        let geometry = Geometry::new(spec).unwrap();
        let zones = Zones::new(geometry);
        let published = geometry.zones().map(|zone| zones.snapshot(zone)).collect();
        Self { zones, published }
    }

    fn run(&mut self, command: Command) -> Answer {
        let status = |refused| match refused {
            Refused::Status(refusal) => refusal.status(),
            Refused::Wait(_) => panic!("nothing is in flight, and yet {command:?} waits"),
        };
        let begun = match command {
            Command::Write { at, sectors } | Command::Torn { at, sectors, .. } => {
                self.zones.begin_write(Sector(at), Sector(sectors), at ^ 0xabc, None)
            }
            Command::Append { at, sectors } => {
                self.zones.begin_append(Sector(at), Sector(sectors), at ^ 0xabc, None)
            }
            Command::Manage { what, at } => {
                return self.zones.manage(what, Sector(at), None).map(|()| 0).map_err(status);
            }
            Command::ResetAll => {
                return self.zones.reset_all(None).map(|()| 0).map_err(status);
            }
            Command::Force { zone, to } => {
                let forced = self.zones.set_condition(ZoneId(zone), to);
                return forced.map(|()| 0).map_err(|refusal| refusal.status());
            }
        };
        let begun = begun.map_err(status)?;
        if let Some(write) = begun.write {
            let (outcome, at) = match command {
                Command::Torn { at, kept, .. } => (Outcome::Torn { end: Sector(at + kept) }, at),
                Command::Write { at, .. } | Command::Append { at, .. } => (Outcome::Done, at),
                _ => unreachable!(),
            };
            let mut released = Vec::new();
            self.zones.end_write(write, outcome, |r| released.push((r.owner, r.ok)));
            assert_eq!(released, [(at ^ 0xabc, outcome == Outcome::Done)]);
        }
        match command {
            Command::Torn { .. } => Err(Status::IOERR),
            _ => Ok(begun.at.0),
        }
    }
}

fn assert_same(subject: &mut Subject, model: &Model, history: &dyn Fn() -> String) {
    let published = &mut subject.published;
    subject.zones.take_changed(|zone, state| published[zone.0 as usize] = state);
    for (i, zone) in model.zones.iter().enumerate() {
        let id = ZoneId(i as u32);
        let found = subject.zones.descriptor(id);
        let pointer = match zone.condition {
            Condition::NotWp | Condition::Offline => u64::MAX,
            _ if zone.kind == ZoneType::Conventional => u64::MAX,
            Condition::Full => zone.start + zone.len,
            _ => zone.start + zone.pointer,
        };
        assert_eq!(
            (found.z_state, found.z_wp.get()),
            (zone.condition as u8, pointer),
            "zone {i} after {}",
            history()
        );
        assert_eq!((found.z_start.get(), found.z_cap.get()), (zone.start, zone.capacity));
        assert_eq!((found.z_type, found.reserved), (zone.kind as u8, [0; 38]));
        assert_eq!(subject.zones.snapshot(id), subject.published[i], "after {}", history());
    }
    let counts = subject.zones.counts();
    let count = |condition| model.count(&[condition]) as u32;
    assert_eq!(
        (counts.open_implicit, counts.open_explicit, counts.closed),
        (count(Condition::ImplicitOpen), count(Condition::ExplicitOpen), count(Condition::Closed)),
        "after {}",
        history()
    );
    assert!(!subject.zones.wants_retry(), "nobody waits after {}", history());
}

/// Compares every read of up to `longest` sectors.
fn assert_same_reads(subject: &Subject, model: &Model, longest: u64) {
    let disk = model.spec.capacity.0;
    for (at, sectors) in (0..=disk).flat_map(|at| (0..=longest).map(move |n| (at, n))) {
        let geometry = subject.zones.geometry();
        let found =
            check_read(geometry, Sector(at), Sector(sectors), |zone| subject.zones.snapshot(zone));
        let touched: Vec<&Zone> = model
            .zones
            .iter()
            .filter(|z| at < z.start + z.len && z.start < (at + sectors).max(at + 1))
            .collect();
        let required = touched.iter().any(|z| z.kind == ZoneType::SequentialRequired);
        let expected = if at + sectors > disk {
            Err(Status::IOERR)
        } else if required && touched.len() > 1
            || touched.iter().any(|z| z.condition == Condition::Offline)
        {
            Err(Status::ZONE_INVALID_CMD)
        } else if required {
            let range = &model.data[at as usize..(at + sectors) as usize];
            Ok(range.iter().take_while(|written| **written).count() as u64)
        } else {
            Ok(sectors)
        };
        let found = found.map(|plan| plan.data.0).map_err(|refusal| refusal.status());
        assert_eq!(found, expected, "read of {sectors} at {at} of {:?}", model.zones);
    }
}

/// Every command that can make a difference on the disk of `spec`, and many that can't.
fn commands(spec: &GeometrySpec, faults: bool) -> Vec<Command> {
    let (disk, size) = (spec.capacity.0, spec.zone_size.0);
    let zones = Geometry::new(*spec).unwrap().zone_count();
    let mut commands = vec![Command::ResetAll];
    for at in 0..=disk {
        for sectors in 0..=2 * size {
            commands.push(Command::Write { at, sectors });
        }
        for what in [Manage::Open, Manage::Close, Manage::Finish, Manage::Reset] {
            commands.push(Command::Manage { what, at });
        }
        if at.is_multiple_of(size) || at.is_multiple_of(5) || at == disk {
            commands.extend((0..=size).map(|sectors| Command::Append { at, sectors }));
        }
    }
    if faults {
        for zone in 0..zones {
            let forced = [Forced::ReadOnly, Forced::Offline, Forced::Restored];
            commands.extend(forced.map(|to| Command::Force { zone, to }));
        }
        let granule = u64::from(spec.write_granularity / 512);
        let managed = spec.model == Kind::HostManaged;
        for at in (0..disk).step_by(granule as usize).filter(|_| managed) {
            let torn = |kept| Command::Torn { at, sectors: 2 * granule, kept };
            commands.push(torn(granule));
        }
    }
    commands
}

/// Runs every command from every state that commands reach. Returns how many states those are.
fn explore(spec: GeometrySpec, faults: bool) -> usize {
    let commands = commands(&spec, faults);
    let (subject, model) = (Subject::new(spec), Model::new(spec));
    let mut seen = HashMap::from([(model.key(), ())]);
    let mut queue = VecDeque::from([(subject, model, Vec::new())]);
    while let Some((subject, model, history)) = queue.pop_front() {
        assert_same_reads(&subject, &model, spec.zone_size.0 + 1);
        for &command in &commands {
            let (mut next, mut expected) = (subject.clone(), model.clone());
            let tale = || format!("{spec:?}: {history:?}, {command:?}");
            assert_eq!(next.run(command), expected.run(command), "{}", tale());
            assert_same(&mut next, &expected, &tale);
            if seen.insert(expected.key(), ()).is_none() {
                let history = history.iter().copied().chain([command]).collect();
                queue.push_back((next, expected, history));
            }
        }
    }
    seen.len()
}

/// Every sequence of `depth` commands that go to the write pointer or manage a zone: what `explore`
/// takes for one state must be one, however it was reached.
fn sequences(subject: &Subject, model: &Model, history: &mut Vec<Command>, depth: u32) {
    if depth == 0 {
        return;
    }
    let mut commands = vec![Command::ResetAll];
    for zone in &model.zones {
        let at = zone.start + zone.pointer;
        commands.push(Command::Write { at, sectors: 2 });
        for what in [Manage::Open, Manage::Close, Manage::Finish, Manage::Reset] {
            commands.push(Command::Manage { what, at: zone.start });
        }
    }
    for command in commands {
        let (mut next, mut expected) = (subject.clone(), model.clone());
        history.push(command);
        let tale = || format!("{history:?}");
        assert_eq!(next.run(command), expected.run(command), "{}", tale());
        assert_same(&mut next, &expected, &tale);
        sequences(&next, &expected, history, depth - 1);
        history.pop();
    }
}

const LIMITS: [(u32, u32); 7] = [(0, 0), (1, 0), (2, 0), (1, 1), (1, 2), (2, 2), (0, 2)];
/// A host-aware disk has no limit of active zones.
const OPEN_LIMITS: [u32; 3] = [0, 1, 2];

/// A conventional zone, two of 4 sectors of 6 written two at a time, and a last one of 2.
fn host_managed(max_open: u32, max_active: u32) -> GeometrySpec {
    GeometrySpec {
        model: Kind::HostManaged,
        capacity: Sector(20),
        zone_size: Sector(6),
        zone_capacity: Sector(4),
        conventional: 1,
        max_open,
        max_active,
        max_append: Sector(4),
        write_granularity: 1024,
    }
}

/// A conventional zone, two of 3 sectors written in any way, and a last one of 2.
fn host_aware(max_open: u32) -> GeometrySpec {
    GeometrySpec {
        model: Kind::HostAware,
        capacity: Sector(11),
        zone_size: Sector(3),
        zone_capacity: Sector(3),
        conventional: 1,
        max_open,
        max_active: 0,
        max_append: Sector(2),
        write_granularity: 512,
    }
}

#[test]
fn every_command_from_every_state_host_managed() {
    for (max_open, max_active) in LIMITS {
        let states = explore(host_managed(max_open, max_active), false);
        assert!(states > 100, "only {states} states with limits {max_open} and {max_active}");
    }
    explore(GeometrySpec { max_append: Sector(0), ..host_managed(1, 2) }, false);
}

#[test]
fn every_command_from_every_state_host_aware() {
    for max_open in OPEN_LIMITS {
        let states = explore(host_aware(max_open), false);
        assert!(states > 100, "only {states} states with a limit of {max_open}");
    }
}

#[test]
fn every_command_from_every_state_with_zones_that_fail() {
    // One zone less: a zone that can fail has many more states.
    explore(GeometrySpec { capacity: Sector(14), ..host_managed(1, 1) }, true);
    explore(GeometrySpec { capacity: Sector(8), ..host_aware(1) }, true);
}

#[test]
fn every_sequence_to_a_depth() {
    let managed = LIMITS.map(|(max_open, max_active)| host_managed(max_open, max_active));
    for spec in managed.into_iter().chain(OPEN_LIMITS.map(host_aware)) {
        sequences(&Subject::new(spec), &Model::new(spec), &mut Vec::new(), 4);
    }
}
