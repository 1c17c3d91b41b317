//! One server that runs.

use std::cell::RefCell;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use crate::hold::Held;

/// How to start a server.
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) socket: PathBuf,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    /// False for a server that answers without touching data: an upper bound, not a peer.
    pub(crate) moves_data: bool,
    /// Whether its disk has zones.
    pub(crate) zoned: bool,
    /// Whether it goes past the page cache.
    pub(crate) direct: bool,
    /// Whether it uses a processor all the time: it is stopped when it is not its turn.
    pub(crate) polls: bool,
    /// What is written to the disk before anything is measured.
    pub(crate) data: PathBuf,
    /// The file behind the disk: held in memory, so that the disk below is not what is measured.
    pub(crate) file: Option<PathBuf>,
}

/// A server that runs.
pub(crate) struct Server {
    pub(crate) spec: Spec,
    child: RefCell<Child>,
    held: Option<Held>,
}

impl Server {
    pub(crate) fn start(spec: Spec) -> Result<Self> {
        let child = RefCell::new(spawn(&spec)?);
        let server = Self { spec, child, held: None };
        server.wait_for_socket()?;
        Ok(server)
    }

    /// Starts it once more if it ended, as some servers do when their client leaves.
    pub(crate) fn revive(&self) -> Result<()> {
        if self.child.borrow_mut().try_wait()?.is_some() {
            let _ = std::fs::remove_file(&self.spec.socket);
            *self.child.borrow_mut() = spawn(&self.spec)?;
            self.wait_for_socket()?;
        }
        Ok(())
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.borrow().id()
    }

    /// It is its turn, or is not any more: one that polls is stopped in between.
    pub(crate) fn turn(&self, begins: bool) -> Result<()> {
        if self.spec.polls {
            let signal = if begins { Signal::CONT } else { Signal::STOP };
            kill_process(Pid::from_child(&self.child.borrow()), signal)?;
        }
        Ok(())
    }

    fn wait_for_socket(&self) -> Result<()> {
        let patience = Instant::now() + Duration::from_secs(10);
        while !self.spec.socket.exists() {
            if let Some(status) = self.child.borrow_mut().try_wait()? {
                bail!("{} ended: {status}", self.spec.name);
            }
            if Instant::now() > patience {
                bail!("{} makes no socket", self.spec.name);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Keeps the disk's file in memory from now on.
    pub(crate) fn hold(&mut self) -> Result<()> {
        if let Some(file) = &self.spec.file {
            self.held =
                Some(Held::new(file).with_context(|| format!("cannot hold {}", file.display()))?);
        }
        Ok(())
    }

    /// Has what was written to its disk written to the file below, and waits for that.
    pub(crate) fn sync(&self) -> Result<()> {
        let Some(file) = &self.spec.file else { return Ok(()) };
        let synced = std::fs::File::open(file).and_then(|file| file.sync_data());
        synced.with_context(|| format!("cannot sync {}", file.display()))
    }

    /// Confines all its threads, and those that they start, to `processors`.
    pub(crate) fn pin(&self, processors: &str) -> Result<()> {
        let pinned = Command::new("taskset")
            .args(["-a", "-c", "-p", processors, &self.id().to_string()])
            .stdout(Stdio::null())
            .status()
            .context("cannot start taskset")?;
        ensure!(pinned.success(), "{} can not be pinned to {processors}", self.spec.name);
        Ok(())
    }

    /// CPU time that the server has used so far.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id()))?;
        // Behind the name, which may hold anything, fields 14 and 15 count ticks.
        let fields: Vec<&str> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok());
        let (user, system) =
            (ticks(11).context("no user time")?, ticks(12).context("no system time")?);
        Ok((user + system) / rustix::param::clock_ticks_per_second() as f64)
    }
}

/// What a server has in memory.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Memory {
    /// Of its own.
    pub(crate) own_mib: f64,
    /// All that it has mapped and touched: also of guests, and of files in the page cache.
    pub(crate) all_mib: f64,
}

/// That of process `id`; `None` when it has ended, as some do with their last client.
pub(crate) fn memory(id: u32) -> Result<Option<Memory>> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    let found = kib("RssAnon:").zip(kib("VmRSS:"));
    Ok(found.map(|(own, all)| Memory { own_mib: own / 1024.0, all_mib: all / 1024.0 }))
}

/// Processor time that the threads of process `id` have used, in ns.
pub(crate) fn cpu_nanos(id: u32) -> Result<u64> {
    let mut all = 0u64;
    for thread in std::fs::read_dir(format!("/proc/{id}/task"))? {
        let text = std::fs::read_to_string(thread?.path().join("schedstat"))?;
        let used = text.split_whitespace().next().and_then(|first| first.parse().ok());
        all = all.saturating_add(used.unwrap_or(0));
    }
    Ok(all)
}

fn spawn(spec: &Spec) -> Result<Child> {
    Command::new(&spec.program)
        .args(&spec.arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {}", spec.program.display()))
}

impl Drop for Server {
    fn drop(&mut self) {
        // What it would say about an end in order is of no interest here.
        let child = self.child.get_mut();
        let _ = child.kill();
        let _ = child.wait();
    }
}
