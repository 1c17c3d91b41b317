//! SIGTERM ends a server in order.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use support::Rig;
use support::volume::{SlowVolume, ZONE};
use zvb_device::{Device, DeviceOptions};
use zvb_driver::{Options, Request};
use zvb_host::server::{Server, ServerOptions, Shutdown};
use zvb_wire::Sector;

/// Not a test but the process that the test signals: it serves until then.
#[test]
fn server() {
    let Ok(path) = std::env::var("ZVB_TEST_SERVER_SOCKET") else { return };
    let volume = SlowVolume::new();
    volume.set_delay(Duration::from_millis(50));
    let device = Device::new(volume.clone(), DeviceOptions::default()).unwrap();
    let shutdown = Shutdown::on_signals().unwrap();
    let server = Server::bind(Path::new(&path), ServerOptions::default()).unwrap();
    println!("serving");
    server.serve(&device, &shutdown).unwrap();
    let (started, finished) = volume.operations();
    assert!(started == finished && volume.engines() == 0);
    drop(server);
    assert!(shutdown.is_triggered());
    println!("ended in order after {finished} operations");
}

fn spawn(path: &Path) -> (Child, impl Iterator<Item = String>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "server", "--nocapture", "--test-threads=1"])
        .env("ZVB_TEST_SERVER_SOCKET", path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(|line| line.unwrap());
    assert!(lines.any(|line| line.ends_with("serving")));
    (child, lines)
}

/// A shell's background job has SIGINT ignored, and hands that down; a server keeps to that.
fn ignores_sigint() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(ignored.trim(), 16).unwrap() & 1 << (Signal::INT.as_raw() - 1) != 0
}

#[test]
fn sigterm_and_sigint_end_a_server_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.sock");
    for signal in [Signal::TERM, Signal::INT] {
        if signal == Signal::INT && ignores_sigint() {
            continue;
        }
        let (mut child, mut lines) = spawn(&path);
        let pid = Pid::from_raw(child.id() as i32).unwrap();
        let mut disk = support::disk_at(&path, &Options::default());
        for _ in 0..8 {
            let buffer = disk.buffer(4096).unwrap();
            disk.submit(0, Request::Append { zone: Sector(2 * ZONE), buffer }).unwrap();
        }
        disk.kick(0).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        kill_process(pid, signal).unwrap();
        assert!(lines.any(|line| line.ends_with("ended in order after 8 operations")));
        assert!(child.wait().unwrap().success());
        assert!(!path.exists());
        assert!(disk.flush().is_err());
    }
}

#[test]
fn a_socket_whose_server_was_killed_is_stale() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.sock");
    for _ in 0..2 {
        let (mut child, _lines) = spawn(&path);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(path.exists());
    }
    let server = Server::bind(&path, ServerOptions::default()).unwrap();
    drop(server);
    assert!(!path.exists());
}

#[test]
fn a_triggered_server_ends_at_once() {
    let mut rig = Rig::new(SlowVolume::new(), 1);
    rig.end();
    assert!(!rig.path.exists());
}
