//! A directory to run `zvb` in, and servers that end with their test.
#![expect(clippy::unwrap_used, reason = "a test that can not go on has failed")]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The program.
pub(crate) fn zvb() -> &'static str {
    env!("CARGO_BIN_EXE_zvb")
}

/// Bytes that differ from seed to seed.
pub(crate) fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// What a run of the program came to.
pub(crate) struct Run {
    pub(crate) stdout: Vec<u8>,
    stderr: String,
    code: Option<i32>,
    line: String,
}

impl Run {
    fn of(line: &[&str], output: Output) -> Self {
        Self {
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code(),
            line: line.join(" "),
        }
    }

    #[track_caller]
    pub(crate) fn ok(&self) {
        assert_eq!(self.code, Some(0), "zvb {}: {}", self.line, self.stderr);
    }

    pub(crate) fn code(&self) -> i32 {
        self.code.unwrap_or(-1)
    }

    pub(crate) fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn err(&self) -> &str {
        &self.stderr
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        self.ok();
        serde_json::from_slice(&self.stdout).unwrap()
    }
}

/// A directory of its own, where the socket is called `s`.
pub(crate) struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new(zvb());
        command.args(line).current_dir(self.dir.path());
        command
    }

    /// Runs `zvb line...`.
    pub(crate) fn run(&self, line: &[&str]) -> Run {
        let output = self.command(line).stdin(Stdio::null()).output().unwrap();
        Run::of(line, output)
    }

    pub(crate) fn create(&self, name: &str, more: &[&str]) -> Run {
        self.run(&[&["create", name], more].concat())
    }

    /// Runs a command that goes to the socket.
    pub(crate) fn drive(&self, command: &str, more: &[&str]) -> Run {
        self.run(&[&[command, "--socket-path", "s"], more].concat())
    }

    /// The same, with something on standard input.
    pub(crate) fn input(&self, command: &str, more: &[&str], data: &[u8]) -> Run {
        let line = [&[command, "--socket-path", "s"], more].concat();
        let mut child = self
            .command(&line)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let output = std::thread::scope(|scope| {
            // A command that refuses does not read all of it.
            scope.spawn(move || {
                let _ = stdin.write_all(data);
            });
            child.wait_with_output().unwrap()
        });
        Run::of(&line, output)
    }

    #[track_caller]
    pub(crate) fn report(&self) -> Value {
        self.drive("report", &["--json"]).json()
    }

    /// Serves at `s`; returns when it is ready.
    pub(crate) fn serve(&self, more: &[&str]) -> Server {
        let line = [&["serve", "--socket-path", "s"], more].concat();
        let mut child = self
            .command(&line)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut ready = String::new();
        loop {
            match lines.next() {
                Some(Ok(line)) => ready.push_str(&(line + "\n")),
                _ => {
                    let mut stderr = String::new();
                    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
                    panic!("the server ended: {stderr}");
                }
            }
            if ready.contains("krun_add_vhost_user_device") {
                break;
            }
        }
        Server { child, ready }
    }
}

/// A running server; killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) ready: String,
}

impl Server {
    /// Sends a signal and waits for the end.
    pub(crate) fn end(&mut self, signal: Signal) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the server does not end");
    }

    /// Of its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it said on standard error, once it has ended.
    pub(crate) fn said(&mut self) -> String {
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        said
    }

    /// Kills it where it stands.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
