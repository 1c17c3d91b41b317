//! A disk of many zones: how long its server takes to start and to report them, and what it keeps in memory.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use crate::server::{self, Memory};
use crate::table::middle;

/// 32,768 zones.
const SIZE: &str = "8T";
const ZONE_SIZE: &str = "256M";
const ZONES: u32 = 32_768;
/// How long an idle server is watched.
const IDLE: Duration = Duration::from_secs(2);

/// What was measured; a figure for each repetition.
#[derive(Debug, Serialize)]
pub(crate) struct Scale {
    size: &'static str,
    zones: u32,
    /// From the start of the program until it says that the disk is there; the image was left in order.
    open_ms: Vec<f64>,
    /// The same, after the server was killed.
    open_after_kill_ms: Vec<f64>,
    /// `zvb report` of all zones, from the start of that program to its end.
    report_ms: Vec<f64>,
    /// The same of one zone: what of it is no report.
    report_of_one_ms: Vec<f64>,
    /// Of the server, after it reported.
    memory: Memory,
    /// Processor time that the server used in a second without a client, in ms.
    idle_ms_per_s: Vec<f64>,
}

/// Makes an image of many zones, each with 4 KiB written, in `folder`, and measures `zvb` on it.
pub(crate) fn measure(zvb: &Path, folder: &Path, repetitions: u32) -> Result<Scale> {
    let big = Big { zvb, image: folder.join("many.zvb"), socket: folder.join("many.sock") };
    eprintln!("writing to {ZONES} zones");
    big.make()?;
    let mut scale = Scale {
        size: SIZE,
        zones: ZONES,
        open_ms: Vec::new(),
        open_after_kill_ms: Vec::new(),
        report_ms: Vec::new(),
        report_of_one_ms: Vec::new(),
        memory: Memory::default(),
        idle_ms_per_s: Vec::new(),
    };
    for _ in 0..repetitions {
        let (server, took) = big.serve()?;
        scale.open_ms.push(took);
        scale.report_of_one_ms.push(big.report(&["--count", "1"])?);
        scale.report_ms.push(big.report(&[])?);
        let before = server::cpu_nanos(server.id())?;
        std::thread::sleep(IDLE);
        let spent = server::cpu_nanos(server.id())?.saturating_sub(before);
        scale.idle_ms_per_s.push(spent as f64 / 1e6 / IDLE.as_secs_f64());
        scale.memory = server::memory(server.id())?.unwrap_or_default();
        server.end(Signal::KILL)?;
        let (server, took) = big.serve()?;
        scale.open_after_kill_ms.push(took);
        server.end(Signal::TERM)?;
    }
    Ok(scale)
}

impl Scale {
    /// For people.
    pub(crate) fn render(&self) -> String {
        let ms = |values: &[f64]| middle(values).0;
        format!(
            "\nan image of {} with {} zones, each with 4 KiB written; medians\n  \
             until it is served, ms: {:.1}; after its server was killed: {:.1}\n  \
             `zvb report` of all zones, ms: {:.1}; of one: {:.1}\n  \
             memory, MiB: {:.1} of its own, {:.1} with what it has mapped\n  \
             idle, ms of processor time a second: {:.2}\n",
            self.size,
            self.zones,
            ms(&self.open_ms),
            ms(&self.open_after_kill_ms),
            ms(&self.report_ms),
            ms(&self.report_of_one_ms),
            self.memory.own_mib,
            self.memory.all_mib,
            ms(&self.idle_ms_per_s),
        )
    }
}

/// The image, and where it is served.
struct Big<'a> {
    zvb: &'a Path,
    image: PathBuf,
    socket: PathBuf,
}

/// A server, killed when this is dropped.
struct Running {
    child: Child,
    /// What it says: it ends when nobody can hear it.
    said: Option<BufReader<ChildStdout>>,
}

impl Big<'_> {
    fn make(&self) -> Result<()> {
        let made = Command::new(self.zvb)
            .args(["create", "--quiet", "--size", SIZE, "--zone-size", ZONE_SIZE])
            .arg(&self.image)
            .status()?;
        ensure!(made.success(), "cannot create {}", self.image.display());
        let (server, _) = self.serve()?;
        // Round by round: no zone gets a second block before each has one.
        let written = Command::new(self.zvb)
            .args(["bench", "--json", "--destroy", "--rw", "write", "--bs", "4K", "--depth", "32"])
            .args(["--zones-at-once", &ZONES.to_string(), "--requests", &ZONES.to_string()])
            .args(["--seconds", "60", "--socket-path"])
            .arg(&self.socket)
            .stdout(Stdio::null())
            .status()?;
        ensure!(written.success(), "cannot write to every zone of {}", self.image.display());
        server.end(Signal::TERM)
    }

    /// A server, and how many ms it took until it said that the disk is there.
    fn serve(&self) -> Result<(Running, f64)> {
        let begun = Instant::now();
        let child = Command::new(self.zvb)
            .arg("serve")
            .arg(&self.image)
            .arg("--socket-path")
            .arg(&self.socket)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the server of many zones")?;
        let mut running = Running { child, said: None };
        let said = running.child.stdout.take().context("no standard output")?;
        let mut line = String::new();
        running.said.insert(BufReader::new(said)).read_line(&mut line)?;
        ensure!(!line.is_empty(), "the server of many zones ended");
        Ok((running, begun.elapsed().as_secs_f64() * 1e3))
    }

    /// How many ms a report takes.
    fn report(&self, more: &[&str]) -> Result<f64> {
        let begun = Instant::now();
        let done = Command::new(self.zvb)
            .args(["report", "--format", "blkzone", "--socket-path"])
            .arg(&self.socket)
            .args(more)
            .stdout(Stdio::null())
            .status()?;
        ensure!(done.success(), "no report of many zones");
        Ok(begun.elapsed().as_secs_f64() * 1e3)
    }
}

impl Running {
    fn id(&self) -> u32 {
        self.child.id()
    }

    fn end(mut self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal)?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already, but where something failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
