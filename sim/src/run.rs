//! A seed, played: a guest works until all ends; what is left is looked at; and the guest goes on.

use std::fmt;

use zvb_storage::{CheckOptions, Finding, Image, Problem, Recovery, Severity, Volume, check_on};

use crate::bytes::Bytes;
use crate::guest::{Guest, Left, Note, Violation};
use crate::ledger::{Ledger, View};
use crate::medium::{Capture, Corpse, Disk, Errors, Mutation};
use crate::rig::Rig;
use crate::rng::Rng;
use crate::setup::Setup;

/// Crashes while an image is opened after a crash, one after the other at most.
const NESTED: u32 = 3;

/// How often the image is checked when a machine is switched on, in parts of a hundred.
const CHECKED: u64 = 25;

/// How a seed is played.
#[derive(Clone, Copy, Debug)]
pub struct Play {
    /// What is wrong with the medium.
    pub mutation: Mutation,
    /// The medium fails now and then.
    pub errors: bool,
    /// How often all ends.
    pub generations: u32,
    /// For each moment that is looked at: how many ways to lose power then are tried.
    pub losses: u32,
    /// Moments that are looked at, in parts of a hundred; the last of a generation always is.
    pub sample: u64,
}

impl Default for Play {
    fn default() -> Self {
        Self { mutation: Mutation::None, errors: false, generations: 3, losses: 2, sample: 100 }
    }
}

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Power losses, each looked at.
    pub power_losses: u64,
    /// Deaths of the process, each looked at.
    pub deaths: u64,
    /// Orderly ends.
    pub closes: u64,
    /// Images checked, all that is in them: as they were left, when they were open again, and closed.
    pub checks: u64,
    /// Times that the disk grew while it was used.
    pub growths: u64,
    /// Syncs around which that was done.
    pub syncs: u64,
    /// Requests done, and those refused or failed.
    pub done: u64,
    /// See `done`.
    pub refused: u64,
    /// Calls that the medium failed.
    pub errors: u64,
    /// Syncs that failed.
    pub failed_syncs: u64,
}

impl std::ops::AddAssign for Stats {
    fn add_assign(&mut self, other: Self) {
        self.power_losses += other.power_losses;
        self.deaths += other.deaths;
        self.closes += other.closes;
        self.checks += other.checks;
        self.growths += other.growths;
        self.syncs += other.syncs;
        self.done += other.done;
        self.refused += other.refused;
        self.errors += other.errors;
        self.failed_syncs += other.failed_syncs;
    }
}

/// A seed under which a promise is broken.
#[derive(Debug)]
pub struct Failure {
    /// It.
    pub seed: u64,
    /// In which generation.
    pub generation: u32,
    /// How it was played.
    pub play: Play,
    /// What kind of disk it has.
    pub setup: Setup,
    /// What is wrong.
    pub violation: Violation,
    /// What the guest did last.
    pub trace: Vec<Note>,
    /// How all ended.
    pub end: Vec<String>,
}

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}, generation {}: {}", self.seed, self.generation, self.violation)?;
        writeln!(f, "  disk: {:?}", self.setup)?;
        for note in &self.trace {
            writeln!(f, "  {note:?}")?;
        }
        for end in &self.end {
            writeln!(f, "  {end}")?;
        }
        let errors = if self.play.errors { " --errors" } else { "" };
        write!(f, "again: sim/run --from {} --seeds 1{errors}", self.seed)?;
        let Play { mutation: _, errors: _, generations, losses, sample } = self.play;
        write!(f, " --generations {generations} --losses {losses} --sample {sample}")?;
        if self.play.mutation != Mutation::None {
            write!(f, " --mutation {:?}", self.play.mutation)?;
        }
        Ok(())
    }
}

/// A moment at which all may have ended, and what the guest knew then.
struct Moment {
    corpse: Corpse,
    ledger: Ledger,
    sync_failed: bool,
    boot: u64,
    /// The disk was to have so many sectors: it may have them already.
    growing: Option<u64>,
}

/// What has happened since a moment.
#[derive(Clone, Copy)]
struct Past {
    /// The host lost power.
    power_lost: bool,
    /// A sync failed, then or before.
    sync_failed: bool,
    /// Machines that ended while they were switched on.
    nested: u32,
    /// See [`Moment::growing`].
    growing: Option<u64>,
}

/// A seed as it is played.
struct Player {
    play: Play,
    setup: Setup,
    rng: Rng,
    stats: Stats,
    /// The boot of the host that machines are switched on in, and how many there were.
    boot: u64,
    boots: u64,
    end: Vec<String>,
    /// The disk grows now and then.
    grows: bool,
}

/// Plays `seed`.
pub fn run(seed: u64, play: &Play) -> Result<Stats, Box<Failure>> {
    let mut rng = Rng::new(seed);
    let setup = Setup::new(&mut rng);
    let mut guest = Guest::new(&setup, rng.fork());
    let mut player = Player {
        play: *play,
        setup,
        rng,
        stats: Stats::default(),
        boot: 1,
        boots: 1,
        end: Vec::new(),
        grows: seed % 4 == 3,
    };
    let mut generation = 0;
    match player.play(&mut guest, &mut generation) {
        Ok(()) => {
            player.stats.done = guest.done;
            player.stats.refused = guest.refused;
            Ok(player.stats)
        }
        Err(violation) => Err(Box::new(Failure {
            seed,
            generation,
            play: *play,
            setup: player.setup,
            violation,
            trace: guest.trace.into_iter().collect(),
            end: player.end,
        })),
    }
}

impl Player {
    fn disk(&mut self, bytes: Bytes) -> Disk {
        Disk::new(bytes, self.play.mutation, self.rng.fork())
    }

    fn boot(&self) -> [u8; 16] {
        let mut boot = [0; 16];
        boot[..8].copy_from_slice(&self.boot.to_le_bytes());
        boot
    }

    fn play(&mut self, guest: &mut Guest, generation: &mut u32) -> Result<(), Violation> {
        let syncs = if self.play.mutation == Mutation::NoCreateSync {
            Mutation::NoSync
        } else {
            Mutation::None
        };
        let disk = Disk::new(Bytes::default(), syncs, self.rng.fork());
        let made = Image::create_on(disk.medium().as_ref(), &self.setup.create_options());
        made.map_err(|e| Violation::Driver(format!("no image is made: {e:?}")))?;
        let mut bytes = disk.lock().corpse("made").bytes;
        if self.rng.chance(20) {
            bytes = self.bytes_after(&bytes, false);
        }
        let disk = Disk::new(bytes, Mutation::None, self.rng.fork());
        let boot = self.boot();
        let mut rig = Rig::start(disk, boot, &self.setup, &mut self.rng, Errors::default())?;
        rig.disk.lock().mutation = self.play.mutation;
        while *generation < self.play.generations {
            let mut moments = self.live(&mut rig, guest)?;
            let last = self.rng.below(moments.len() as u64) as usize;
            let last = moments.swap_remove(last);
            // The next machine is another: this one is off.
            drop(rig);
            for moment in &moments {
                if self.play.sample >= 100 || self.rng.chance(self.play.sample) {
                    self.inspect(moment)?;
                }
            }
            self.inspect(&last)?;
            let process = self.rng.chance(30);
            guest.note(Note::End(last.corpse.moment));
            let (next, ledger) = self.revive(&last, process)?;
            guest.restart(ledger);
            rig = next;
            *generation += 1;
        }
        Ok(())
    }

    /// One life of a machine: all the moments at which it may have ended.
    fn live(&mut self, rig: &mut Rig, guest: &mut Guest) -> Result<Vec<Moment>, Violation> {
        let mut moments = Vec::new();
        {
            let mut platter = rig.disk.lock();
            platter.capture = Capture { syncs: true, changes: 10 };
            platter.errors = self.errors();
        }
        for _ in 0..self.setup.requests {
            guest.work(rig)?;
            self.collect(rig, guest, &mut moments);
            guest.listen(rig)?;
            if self.grows && self.rng.chance(4) {
                let (boot, had) = (self.boot, moments.len());
                guest.grow(rig, |rig, guest, to| {
                    let corpses = rig.disk.lock().take_corpses();
                    keep(boot, rig, guest, corpses, Some(to), &mut moments);
                })?;
                self.stats.growths += u64::from(moments.len() > had);
                self.collect(rig, guest, &mut moments);
                guest.listen(rig)?;
            }
            if guest.is_idle() && self.rng.chance(10) {
                guest.audit(rig)?;
                self.collect(rig, guest, &mut moments);
            }
            if rig.disk.lock().sync_failed && self.rng.chance(10) {
                break;
            }
        }
        let corpse = rig.disk.lock().corpse("working");
        self.keep(rig, guest, vec![corpse], &mut moments);
        if self.rng.chance(20) {
            self.close(rig, guest, &mut moments)?;
        }
        let platter = rig.disk.lock();
        self.stats.syncs += platter.syncs;
        self.stats.errors += platter.failed;
        self.stats.failed_syncs += u64::from(platter.sync_failed);
        Ok(moments)
    }

    fn errors(&mut self) -> Errors {
        let short = self.rng.pick(&[0, 0, 300]);
        if !self.play.errors {
            return Errors { short, ..Errors::default() };
        }
        let often = |rng: &mut Rng| rng.pick(&[0, 0, 10, 60]);
        let rng = &mut self.rng;
        Errors { read: often(rng), write: often(rng), zero: often(rng), sync: often(rng), short }
    }

    fn collect(&self, rig: &Rig, guest: &Guest, moments: &mut Vec<Moment>) {
        let corpses = rig.disk.lock().take_corpses();
        self.keep(rig, guest, corpses, moments);
    }

    fn keep(&self, rig: &Rig, guest: &Guest, corpses: Vec<Corpse>, moments: &mut Vec<Moment>) {
        keep(self.boot, rig, guest, corpses, None, moments);
    }

    /// An orderly end, of what is not in flight any more.
    fn close(
        &mut self,
        rig: &mut Rig,
        guest: &mut Guest,
        moments: &mut Vec<Moment>,
    ) -> Result<(), Violation> {
        for _ in 0..2000 {
            if guest.is_idle() {
                break;
            }
            for lane in 0..self.setup.queues {
                rig.link.turn(lane.into());
            }
            self.collect(rig, guest, moments);
            guest.listen(rig)?;
        }
        if !guest.is_idle() {
            return Err(Violation::Driver("requests are never answered".into()));
        }
        let closed = rig.volume.close();
        let failed = rig.disk.lock().sync_failed;
        self.collect(rig, guest, moments);
        match closed {
            Ok(()) if failed => {
                return Err(Violation::Driver("closed in order after a failed sync".into()));
            }
            Ok(()) => {
                self.stats.closes += 1;
                let now = guest.ledger.now();
                guest.ledger.flushed(now);
                self.check(&rig.disk, Left::Closed)?;
                let corpse = rig.disk.lock().corpse("closed");
                self.keep(rig, guest, vec![corpse], moments);
            }
            Err(_) if rig.disk.lock().failed > 0 => {}
            Err(error) => return Err(Violation::Driver(format!("it does not close: {error:?}"))),
        }
        Ok(())
    }

    /// What `zvb check --deep` says of the image.
    fn check(&mut self, disk: &Disk, left: Left) -> Result<(), Violation> {
        if self.play.mutation != Mutation::None {
            // That is for the ledger to find.
            return Ok(());
        }
        self.stats.checks += 1;
        let options = CheckOptions { deep: true, force: false, boot: Some(self.boot()) };
        let errors = std::mem::take(&mut disk.lock().errors);
        let report = check_on(disk.medium().as_ref(), &options, &mut |_| {});
        disk.lock().errors = errors;
        let report = report.map_err(|error| Violation::Image(left, format!("{error:?}")))?;
        // That a sync failed is a warning, and right.
        let expected = |finding: &Finding| match finding.problem {
            Problem::TooLong { .. } => true,
            Problem::NotInOrder(_) => left != Left::Closed,
            // By a write that failed.
            Problem::AboveEnd => self.play.errors,
            // What could not be cleared is left for later.
            _ => (self.play.errors || left == Left::Anyhow) && finding.severity() == Severity::Note,
        };
        match report.findings.iter().all(expected) {
            true => Ok(()),
            false => Err(Violation::Image(left, format!("{:?}", report.findings))),
        }
    }

    /// Tries what may be left of a moment, in every way.
    fn inspect(&mut self, moment: &Moment) -> Result<(), Violation> {
        for _ in 0..self.play.losses {
            self.revive(moment, false)?;
        }
        if self.rng.chance(50) {
            self.revive(moment, true)?;
        }
        Ok(())
    }

    /// What a machine finds that is switched on after that: after the death of the process, or of the host.
    fn revive(&mut self, moment: &Moment, process: bool) -> Result<(Rig, Ledger), Violation> {
        self.end = vec![moment.corpse.moment.into()];
        self.boot = moment.boot;
        let bytes = self.bytes_after(&moment.corpse.bytes, process);
        let (sync_failed, growing) = (moment.sync_failed, moment.growing);
        let past = Past { power_lost: !process, sync_failed, nested: 0, growing };
        self.recover(bytes, &moment.ledger, past)
    }

    fn bytes_after(&mut self, bytes: &Bytes, process: bool) -> Bytes {
        if process {
            self.stats.deaths += 1;
            self.end.push("the process dies".into());
            bytes.clone()
        } else {
            self.stats.power_losses += 1;
            self.boots += 1;
            self.boot = self.boots;
            self.end.push("the host loses power".into());
            bytes.after_power_loss(&mut self.rng)
        }
    }

    /// Opens what is left, and looks at it; now and then, all ends again before it is open.
    fn recover(
        &mut self,
        bytes: Bytes,
        ledger: &Ledger,
        mut past: Past,
    ) -> Result<(Rig, Ledger), Violation> {
        let again = past.nested < NESTED && self.rng.chance(15);
        let disk = self.disk(bytes);
        let checked = self.rng.chance(CHECKED);
        if checked {
            self.check(&disk, Left::Anyhow)?;
        }
        let mut errors = Errors::default();
        if again {
            disk.lock().capture = Capture { syncs: true, changes: 300 };
            errors = self.errors();
        }
        let boot = self.boot();
        let started = Rig::start(disk.clone(), boot, &self.setup, &mut self.rng, errors);
        past.sync_failed |= disk.lock().sync_failed;
        if again {
            let failed = disk.lock().failed > 0;
            let mut corpses = disk.lock().take_corpses();
            if started.is_err() && failed {
                corpses = vec![disk.lock().corpse("an open that failed")];
            }
            if !corpses.is_empty() {
                drop(started);
                let corpse = corpses.swap_remove(self.rng.below(corpses.len() as u64) as usize);
                let process = self.rng.chance(50);
                self.end.push(format!("opening, {}", corpse.moment));
                let bytes = self.bytes_after(&corpse.bytes, process);
                past.power_lost |= !process;
                past.nested += 1;
                return self.recover(bytes, ledger, past);
            }
        }
        let mut rig = started?;
        disk.lock().capture = Capture::default();
        disk.lock().take_corpses();
        self.end.push(format!("found {:?}", rig.recovery));
        let expected = match rig.recovery {
            Recovery::SyncFailed => past.sync_failed,
            Recovery::HostDied => past.power_lost,
            _ => true,
        };
        if !expected {
            return Err(Violation::Recovery(format!("{:?}", rig.recovery)));
        }
        // An open that was cut short may have said so in the image, and forgotten what was not durable.
        let forgotten = past.sync_failed && past.nested > 0;
        let lost = past.power_lost || forgotten || rig.recovery == Recovery::SyncFailed;
        let view = if lost { View::Host } else { View::Process };
        let mut ledger = ledger.clone();
        let capacity = rig.driver.info().capacity.0;
        if past.growing == Some(capacity) {
            ledger.grow(self.setup.geometry_at(capacity).as_ref(), capacity);
        }
        if ledger.capacity() != capacity {
            return Err(Violation::Size { found: capacity, known: ledger.capacity() });
        }
        let found = rig.look(&ledger)?;
        ledger.check(view, &found)?;
        ledger.rebase(&found);
        if checked {
            self.check(&disk, Left::Open)?;
        }
        Ok((rig, ledger))
    }
}

fn keep(
    boot: u64,
    rig: &Rig,
    guest: &Guest,
    corpses: Vec<Corpse>,
    growing: Option<u64>,
    moments: &mut Vec<Moment>,
) {
    let sync_failed = rig.disk.lock().sync_failed;
    moments.extend(corpses.into_iter().map(|corpse| Moment {
        corpse,
        ledger: guest.ledger.clone(),
        sync_failed,
        boot,
        growing: growing.or(guest.uncertain),
    }));
}
