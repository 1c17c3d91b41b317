//! A disk of 8 TiB with 32,768 zones: what its server keeps in memory, and that nothing is done when nobody asks.
//! How long things take is told by `bench/run`, and here bounded only so that minutes would be seen.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

#[allow(dead_code, reason = "each test file uses a part")]
mod support;

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::Place;

const ZONES: u64 = 32_768;
/// So many have something in them: to write to all takes longer than a test should.
const WRITTEN: u64 = 512;
/// Generous: it takes milliseconds.
const SECONDS: Duration = Duration::from_secs(5);

/// KiB of a line of a process's status.
fn kib(id: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Bytes that a process has moved by system calls, and how many of those there were.
fn moved(id: u32) -> (u64, u64) {
    let io = fs::read_to_string(format!("/proc/{id}/io")).unwrap();
    let number = |name: &str| {
        let line = io.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().parse::<u64>().unwrap()
    };
    (number("rchar:") + number("wchar:"), number("syscr:") + number("syscw:"))
}

/// Processor time that all threads of a process have used.
fn used(id: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{id}/task")).unwrap();
    let of_thread = |thread: std::io::Result<fs::DirEntry>| {
        let text = fs::read_to_string(thread.unwrap().path().join("schedstat")).unwrap();
        text.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    Duration::from_nanos(threads.map(of_thread).sum())
}

#[test]
fn a_disk_of_32768_zones_is_served_from_little_memory() {
    let place = Place::new();
    place.create("d.zvb", &["--size", "8T", "--zone-size", "256M"]).ok();
    {
        let zones = WRITTEN.to_string();
        let mut server = place.serve(&["d.zvb"]);
        let write = [
            "--destroy",
            "--json",
            "--rw",
            "write",
            "--bs",
            "4K",
            "--depth",
            "32",
            "--seconds",
            "60",
        ];
        place
            .drive(
                "bench",
                &[&write[..], &["--zones-at-once", &zones, "--requests", &zones]].concat(),
            )
            .ok();
        // In order once, and by its death later.
        assert_eq!(server.end(Signal::TERM), Some(0));
    }
    for killed in [false, true] {
        let begun = Instant::now();
        let mut server = place.serve(&["d.zvb"]);
        assert!(begun.elapsed() < SECONDS, "served after {:?}, killed: {killed}", begun.elapsed());
        let id = server.id();

        let (begun, before) = (Instant::now(), moved(id));
        let report = place.drive("report", &["--format", "blkzone"]);
        report.ok();
        assert!(begun.elapsed() < SECONDS, "reported after {:?}", begun.elapsed());
        assert_eq!(report.out().lines().count() as u64, ZONES);
        let written = report.out().lines().filter(|line| line.contains("wptr 0x000008")).count();
        assert_eq!(written as u64, WRITTEN, "with 8 sectors written");
        // The report goes into the driver's memory, and no zone's state comes from the file again.
        let (bytes, calls) = (moved(id).0 - before.0, moved(id).1 - before.1);
        assert!(bytes < 1 << 20 && calls < 2000, "{bytes} bytes in {calls} calls for a report");

        let (own, all) = (kib(id, "RssAnon:"), kib(id, "VmRSS:"));
        assert!(all < 64 << 10, "{all} KiB in memory, {own} of its own");

        // It looks on for a moment after the last request, and then no more.
        std::thread::sleep(Duration::from_millis(200));
        let before = used(id);
        std::thread::sleep(Duration::from_secs(1));
        let spent = used(id) - before;
        assert!(spent < Duration::from_millis(5), "{spent:?} in a second without a client");
        server.kill();
    }
}
