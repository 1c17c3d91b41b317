//! `zvb serve`, and its end.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a server may take for what it must do in a moment.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running server. Killed when it is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    log: PathBuf,
    doomed: Arc<AtomicBool>,
    killer: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts `program`, a zvb, which serves `image` at `socket` and logs into `log`.
    pub fn start(
        program: &Path,
        image: &Path,
        socket: &Path,
        log: &Path,
        options: &[String],
    ) -> io::Result<Self> {
        let child = Command::new(program)
            .args(["serve", "--quiet", "--socket-path"])
            .arg(socket)
            .args(options)
            .arg(image)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(log)?)
            .spawn()?;
        let doomed = Arc::new(AtomicBool::new(false));
        Ok(Self { child, log: log.to_owned(), doomed, killer: None })
    }

    /// Sends signals, each so long after the one before.
    pub fn doom(&mut self, signals: Vec<(Duration, Signal)>) {
        let (pid, doomed) = (Pid::from_child(&self.child), Arc::clone(&self.doomed));
        let last = signals.len().saturating_sub(1);
        self.killer = Some(thread::spawn(move || {
            for (i, (delay, signal)) in signals.into_iter().enumerate() {
                thread::sleep(delay);
                if i == last {
                    doomed.store(true, Ordering::Release);
                }
                // It can not be somebody else's: nobody waits for it before this thread has ended. It may
                // be gone, after an earlier signal.
                let _ = kill_process(pid, signal);
            }
        }));
    }

    /// True when the last of its signals was sent, or is being.
    pub fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::Acquire)
    }

    /// True when it was told to end in any way.
    pub fn is_to_die(&self) -> bool {
        self.killer.is_some()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        match &self.killer {
            Some(killer) if !killer.is_finished() => Ok(None),
            _ => self.child.try_wait(),
        }
    }

    /// Waits for its end; `None` when that takes too long.
    pub fn wait(&mut self) -> io::Result<Option<ExitStatus>> {
        if let Some(killer) = self.killer.take() {
            // It does not panic.
            let _ = killer.join();
        }
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            thread::sleep(Duration::from_micros(200));
        }
        Ok(None)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(killer) = self.killer.take() {
            let _ = killer.join();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
