//! What happens in a seed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use zvb_driver::{Checks, Features, Options};
use zvb_host::client::{self, SharedMemory, VhostUser};
use zvb_sim::guest::Note;
use zvb_sim::ledger::View;
use zvb_sim::load::look;
use zvb_sim::rng::Rng;
use zvb_sim::setup::Setup;
use zvb_storage::{CheckOptions, EngineKind, Image, ImageState, Recovery, check, inspect};
use zvb_wire::Sector;

use crate::guest::{Counts, Driver, Guest, Violation};
use crate::server::{PATIENCE, Server};

/// Bytes that driver and server share.
const MEMORY: usize = 8 << 20;
/// The most requests in a round.
const ASKED_MAX: u64 = 4000;

/// What to play.
#[derive(Clone, Debug)]
pub struct Play {
    /// The zvb to torture.
    pub program: PathBuf,
    /// Rounds on a disk.
    pub rounds: u64,
    /// What to do about how the server opens the image: `None` for whatever the seed says.
    pub engine: Option<EngineKind>,
}

/// What was played.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Servers started.
    pub rounds: u64,
    /// Those that were killed under load.
    pub killed: u64,
    /// Those that were killed while they started.
    pub killed_early: u64,
    /// Those that were killed while they ended.
    pub killed_late: u64,
    /// Those that ended in order.
    pub ended: u64,
    /// What became of requests.
    pub counts: Counts,
}

impl std::ops::AddAssign for Stats {
    fn add_assign(&mut self, more: Self) {
        self.rounds += more.rounds;
        self.killed += more.killed;
        self.killed_early += more.killed_early;
        self.killed_late += more.killed_late;
        self.ended += more.ended;
        self.counts.done += more.counts.done;
        self.counts.refused += more.counts.refused;
        self.counts.open += more.counts.open;
        self.counts.found += more.counts.found;
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, killed, killed_early, killed_late, ended, counts } = self;
        let Counts { done, refused, open, found } = counts;
        write!(
            f,
            "{rounds} rounds ({killed} killed under load, {killed_early} while they started, \
             {killed_late} while they ended, {ended} ended in order), {done} requests done, \
             {refused} refused, {open} writes unanswered, of which {found} were done"
        )
    }
}

/// A promise that was broken, and how to see that again.
#[derive(Debug, thiserror::Error)]
#[error(
    "seed {seed}, round {round}: {}\nthe image is kept: {}\nagain, perhaps: {}\n{setup:#?}\n{}",
    causes(violation.as_ref()),
    kept.display(),
    again(*seed, play),
    trace.join("\n")
)]
pub struct Failure {
    seed: u64,
    round: u64,
    play: Play,
    setup: Box<Setup>,
    trace: Vec<String>,
    kept: PathBuf,
    violation: Box<Violation>,
}

/// How to play `seed` in the same way, as far as that is what decides.
fn again(seed: u64, play: &Play) -> String {
    // As many on this disk as there were to be, and none on another.
    let rounds = play.rounds;
    let engine = play.engine.map(|engine| format!(" --engine {engine}")).unwrap_or_default();
    format!("torture/run --seed {seed} --rounds {rounds} --each {rounds}{engine}")
}

fn causes(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

/// How a round ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    KilledEarly,
    Killed,
    KilledLate,
    InOrder,
}

/// Why a round does not go on.
enum Stop {
    Violation(Violation),
    /// The server does not answer any more, which may be for a reason.
    Gone(String),
}

impl<V: Into<Violation>> From<V> for Stop {
    fn from(violation: V) -> Self {
        Self::Violation(violation.into())
    }
}

/// Plays seed `seed`.
pub fn run(seed: u64, play: &Play) -> Result<Stats, Failure> {
    let mut rng = Rng::new(seed);
    let setup = setup(&mut rng);
    let guest = Guest::new(&setup, rng.fork());
    let folder = match tempfile::tempdir() {
        Ok(folder) => folder,
        Err(error) => {
            let setup = Box::new(setup);
            let (trace, kept) = (Vec::new(), PathBuf::new());
            let violation = Box::new(error.into());
            let play = play.clone();
            return Err(Failure { seed, round: 0, play, setup, trace, kept, violation });
        }
    };
    let mut run = Run {
        play,
        can_go_direct: can_go_direct(folder.path()),
        rng,
        image: folder.path().join("disk.zvb"),
        socket: folder.path().join("socket"),
        log: folder.path().join("log"),
        setup,
        guest,
        stats: Stats::default(),
    };
    let mut played = run.create();
    let mut round = 0;
    while played.is_ok() && round < play.rounds {
        played = run.round(round + 1 == play.rounds);
        round += 1;
    }
    let Err(violation) = played else { return Ok(run.stats) };
    let trace = run.guest.trace.iter().map(|note| format!("{note:?}")).collect();
    let setup = Box::new(run.setup);
    let kept = folder.keep().join("disk.zvb");
    let violation = Box::new(violation);
    let play = play.clone();
    Err(Failure { seed, round, play, setup, trace, kept, violation })
}

/// A disk as in the simulator, now and then with larger zones, and more at a time.
fn setup(rng: &mut Rng) -> Setup {
    let mut setup = Setup::new(rng);
    setup.queues = rng.pick(&[1, 2, 3, 4]);
    setup.depth = rng.pick(&[4, 16, 48]);
    let scale = rng.pick(&[1, 1, 8]);
    if let Some(spec) = &mut setup.spec {
        for size in [&mut spec.capacity, &mut spec.zone_size, &mut spec.zone_capacity] {
            *size = Sector(size.0 * scale);
        }
        setup.capacity = spec.capacity.0;
    }
    setup
}

struct Run<'a> {
    play: &'a Play,
    /// The file system takes I/O past the page cache.
    can_go_direct: bool,
    rng: Rng,
    image: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    setup: Setup,
    guest: Guest,
    stats: Stats,
}

impl Run<'_> {
    fn create(&self) -> Result<(), Violation> {
        let made = Image::create(&self.image, &self.setup.create_options());
        made.map_err(|error| Violation::Image(format!("can not be made: {}", causes(&error))))
    }

    /// Starts a server, works on it, and ends it. The `last` one ends in order.
    fn round(&mut self, last: bool) -> Result<(), Violation> {
        let end = match self.rng.below(100) {
            _ if last => End::InOrder,
            0..15 => End::KilledEarly,
            15..25 => End::KilledLate,
            25..32 => End::InOrder,
            _ => End::Killed,
        };
        let mut server = self.start()?;
        if end == End::KilledEarly {
            let delay = Duration::from_micros(self.rng.below(12_000));
            server.doom(vec![(delay, Signal::KILL)]);
        }
        match self.session(&mut server, end) {
            Ok(()) => {}
            Err(Stop::Violation(violation)) => return Err(violation),
            Err(Stop::Gone(_)) if server.is_to_die() && end != End::InOrder => {}
            Err(Stop::Gone(why)) => {
                let ended = server.ended()?;
                let what = format!("does not answer ({why}; its end: {ended:?})");
                return Err(Violation::Server { what, log: server.log() });
            }
        }
        self.see_it_end(&mut server, end)?;
        self.check()
    }

    fn start(&mut self) -> Result<Server, Violation> {
        let engine = self.play.engine.unwrap_or_else(|| self.rng.pick(&EngineKind::ALL));
        let mut options = vec![
            "--queues".to_owned(),
            self.setup.queues.to_string(),
            "--engine".to_owned(),
            engine.to_string(),
        ];
        if self.can_go_direct && self.rng.chance(30) {
            options.push("--direct".to_owned());
        }
        self.stats.rounds += 1;
        self.guest.note(Note::End("a server starts"));
        let (program, image) = (&self.play.program, &self.image);
        Ok(Server::start(program, image, &self.socket, &self.log, &options)?)
    }

    /// What happens between driver and server, until the server is gone.
    fn session(&mut self, server: &mut Server, end: End) -> Result<(), Stop> {
        let open = self.guest.open();
        let mut disk = self.connect(server)?;
        self.guest.connected(&mut disk).map_err(Stop::Gone)?;
        let found = look(&mut disk, &self.guest.ledger).map_err(|e| Stop::Gone(causes(&e)))?;
        let limit = disk.info().zoned.map_or(0, |zoned| zoned.max_active);
        self.guest.verify(View::Process, limit, &found)?;
        self.guest.rebase(&found, &open);
        match end {
            End::KilledEarly => {}
            End::Killed => server.doom(vec![(self.moment(), Signal::KILL)]),
            End::KilledLate => {
                let late = Duration::from_micros(self.rng.below(4000));
                server.doom(vec![(self.moment(), Signal::TERM), (late, Signal::KILL)]);
            }
            End::InOrder => return self.end_in_order(server, &mut disk, limit),
        }
        self.work(server, &mut disk)?;
        server.wait()?;
        // What it acknowledged with its last breath.
        Ok(self.guest.listen(&mut disk)?)
    }

    /// How long a server works before it is killed: from a moment to many requests.
    fn moment(&mut self) -> Duration {
        let most = self.rng.pick(&[300, 3000, 15_000]);
        Duration::from_micros(50 + self.rng.below(most))
    }

    /// Works until the server has its last signal.
    fn work(&mut self, server: &Server, disk: &mut Driver) -> Result<(), Stop> {
        let mut steps = 0;
        while !server.is_doomed() {
            if steps < ASKED_MAX && self.guest.work(disk).is_err() {
                // It is gone, or there is no memory just now.
                steps = ASKED_MAX;
            }
            steps += 1;
            self.guest.listen(disk)?;
        }
        Ok(())
    }

    /// A server that may end as it likes: all is answered, looked at, and closed.
    fn end_in_order(
        &mut self,
        server: &mut Server,
        disk: &mut Driver,
        limit: u32,
    ) -> Result<(), Stop> {
        for _ in 0..self.rng.below(60) {
            self.guest.work(disk).map_err(Stop::Gone)?;
            self.guest.listen(disk)?;
        }
        if self.rng.chance(50) {
            let begun = Instant::now();
            while !self.guest.is_idle() {
                self.guest.listen(disk)?;
                if begun.elapsed() > PATIENCE {
                    return Err(Stop::Gone("requests are never answered".into()));
                }
            }
            let found = look(disk, &self.guest.ledger).map_err(|e| Stop::Gone(causes(&e)))?;
            self.guest.verify(View::Live, limit, &found)?;
        }
        server.doom(vec![(Duration::ZERO, Signal::TERM)]);
        server.wait()?;
        Ok(self.guest.listen(disk)?)
    }

    fn connect(&self, server: &mut Server) -> Result<Driver, Stop> {
        let begun = Instant::now();
        let mut features = Features::all() - (Features::LIFETIME | Features::SECURE_ERASE);
        if self.setup.no_flush {
            features -= Features::FLUSH | Features::CONFIG_WCE;
        }
        let options = Options {
            queues: self.setup.queues,
            queue_size: 64,
            features,
            checks: Checks::Minimal,
            ..Options::default()
        };
        loop {
            let memory = SharedMemory::new(MEMORY)?;
            let error = match VhostUser::connect(
                &self.socket,
                memory.clone(),
                client::Options::default(),
            ) {
                Ok(transport) => {
                    let disk = Driver::probe(transport, memory, &options);
                    return disk.map_err(|error| Stop::Gone(causes(&error)));
                }
                Err(error) => causes(&error),
            };
            if server.is_doomed() || server.ended()?.is_some() || begun.elapsed() > PATIENCE {
                return Err(Stop::Gone(error));
            }
            std::thread::sleep(Duration::from_micros(500));
        }
    }

    /// The end is the one that was meant.
    fn see_it_end(&mut self, server: &mut Server, end: End) -> Result<(), Violation> {
        let ended = server.wait()?;
        let fault = |what: String| Violation::Server { what, log: server.log() };
        let Some(status) = ended else { return Err(fault("does not end".into())) };
        if status.code().is_some_and(|code| code != 0) || (end == End::InOrder && !status.success())
        {
            return Err(fault(format!("ends with {status}")));
        }
        if server.log().contains("panic") {
            return Err(fault("panicked".into()));
        }
        match end {
            End::KilledEarly => self.stats.killed_early += 1,
            End::Killed => self.stats.killed += 1,
            End::KilledLate => self.stats.killed_late += 1,
            End::InOrder => self.stats.ended += 1,
        }
        self.stats.counts = self.guest.counts;
        self.guest.note(Note::End("the server is gone"));
        let left = ImageState::Left(Recovery::Clean);
        let clean = inspect(&self.image).is_ok_and(|info| info.state == left);
        match end {
            End::InOrder if !clean => Err(Violation::Image("was not left in order".into())),
            _ => Ok(()),
        }
    }

    /// The image is sound; now and then the command says so.
    fn check(&mut self) -> Result<(), Violation> {
        match self.rng.below(10) {
            0 => command_check(&self.play.program, &self.image),
            _ => {
                let options = CheckOptions { deep: true, force: false, boot: None };
                let report = check(&self.image, &options, &mut |_| {});
                let report = report.map_err(|error| {
                    Violation::Image(format!("can not be checked: {}", causes(&error)))
                })?;
                match report.is_sound() {
                    true => Ok(()),
                    false => Err(Violation::Image(format!("is not sound: {:?}", report.findings))),
                }
            }
        }
    }
}

fn can_go_direct(folder: &Path) -> bool {
    let path = folder.join("direct");
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).is_ok()
}

fn command_check(program: &Path, image: &Path) -> Result<(), Violation> {
    let output = Command::new(program).args(["check", "--deep"]).arg(image).output()?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(()),
        false => Err(Violation::Image(format!("does not pass zvb check --deep: {said}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_how_to_play_it_again() {
        let play = Play { program: "none".into(), rounds: 35, engine: Some(EngineKind::Uring) };
        // There is no such program: the first server does not start.
        let failure = run(7, &play).unwrap_err();
        std::fs::remove_dir_all(failure.kept.parent().unwrap()).unwrap();
        let told = failure.to_string();
        assert!(
            told.contains("torture/run --seed 7 --rounds 35 --each 35 --engine uring\n"),
            "{told}"
        );
        let play = Play { engine: None, ..play };
        assert!(again(7, &play).ends_with("--seed 7 --rounds 35 --each 35"));
    }
}
