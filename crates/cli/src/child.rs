//! A server in a process of its own: this program again.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::args::DeviceArgs;
use crate::device::{Connect, Device};

/// How long a server may take to start, and to end.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(5);

/// A running `zvb serve`. It does not outlive this.
pub(crate) struct Served {
    child: Child,
}

impl Served {
    /// Serves `image` at `socket`.
    pub(crate) fn start(image: &Path, socket: &Path) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut child = Command::new(program)
            .args(["serve", "--quiet", "--socket-path"])
            .arg(socket)
            .arg("--")
            .arg(image)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start a server")?;
        let begun = Instant::now();
        while !socket.exists() {
            if let Some(status) = child.try_wait().context("cannot look after the server")? {
                bail!("the server ended at once: {status}");
            }
            if begun.elapsed() > PATIENCE {
                let _ = child.kill();
                bail!("the server does not start");
            }
            std::thread::sleep(PAUSE);
        }
        Ok(Self { child })
    }

    /// Connects to it. The socket's file is there a moment before it listens.
    pub(crate) fn connect(&self, args: &DeviceArgs, how: &Connect) -> anyhow::Result<Device> {
        let begun = Instant::now();
        loop {
            match Device::connect(args, how) {
                Err(_) if begun.elapsed() < Duration::from_secs(1) => std::thread::sleep(PAUSE),
                result => return result,
            }
        }
    }

    /// Ends it with SIGTERM, and checks that it ends well.
    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)
            .context("cannot end the server")?;
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().context("cannot wait for the server")? {
                ensure!(status.success(), "the server did not end in order: {status}");
                return Ok(());
            }
            std::thread::sleep(PAUSE);
        }
        bail!("the server does not end")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
