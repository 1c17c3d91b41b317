//! Servers whose host has no space left, or a limit on the size of files.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

#[allow(dead_code, reason = "each test file uses a part")]
mod support;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use support::{Place, bytes, zvb};

const SHAPE: [&str; 6] = ["--size", "32M", "--zone-size", "4M", "--zone-capacity", "3M"];
const CAPACITY: usize = 3 << 20;

/// How far zone `zone` is written, in bytes.
fn written(place: &Place, zone: usize) -> usize {
    let zone = &place.report()["zones"][zone];
    let at = |name: &str| zone[name].as_u64().unwrap();
    if zone["cond"] == "full" { CAPACITY } else { (at("wptr") - at("start")) as usize * 512 }
}

#[track_caller]
fn holds(place: &Place, zone: &str, data: &[u8]) {
    let run = place.drive("read", &["--zone", zone, "--length", &(data.len() / 512).to_string()]);
    run.ok();
    assert!(run.stdout == data, "zone {zone} does not hold what was written");
}

#[test]
fn a_limit_on_the_size_of_files_fails_writes_and_ends_no_server() {
    let place = Place::new();
    place.create("d.zvb", &SHAPE).ok();
    for engine in ["auto", "sync", "uring"] {
        let mut server = place.serve(&["d.zvb", "--engine", engine]);
        place.drive("reset", &["--all"]).ok();
        let pid = Pid::from_raw(server.id() as i32);
        let limit = |most: Option<u64>| {
            let now = getrlimit(Resource::Fsize);
            prlimit(pid, Resource::Fsize, Rlimit { current: most.or(now.maximum), ..now }).unwrap()
        };
        // In the middle of a zone's room in the file: where that is depends on what was there before.
        // It may also change from try to try, when room that was let go is there again.
        let (data, mut most) = (bytes(1, CAPACITY), 2 << 20);
        let mut end = 0;
        for _ in 0..50 {
            limit(Some(most));
            let run = place.input("append", &["--zone", "0"], &data);
            end = written(&place, 0);
            if run.code() == 0 {
                assert_eq!(end, CAPACITY);
                place.drive("reset", &["--zone", "0"]).ok();
                most = 2 << 20;
                continue;
            }
            assert!(run.err().contains("log of the server"), "{}", run.err());
            if end > 0 {
                break;
            }
            most += 3 << 19;
        }
        assert!(end > 0 && end < CAPACITY, "{engine}: {end}");
        holds(&place, "0", &data[..end]);
        assert_eq!(place.input("append", &["--zone", "0"], &data[end..]).code(), 1, "{engine}");
        assert_eq!(written(&place, 0), end, "{engine}");
        limit(None);
        place.input("append", &["--zone", "0"], &data[end..]).ok();
        holds(&place, "0", &data);
        assert_eq!(server.end(rustix::process::Signal::TERM), Some(0));
        place.run(&["check", "d.zvb", "--deep"]).ok();
    }
}

/// Killed when dropped.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server in a file system of 9 MiB that nobody else sees; `None` where such a thing can not be had.
fn crowded(place: &Place) -> Option<Guard> {
    std::fs::create_dir(place.path("small")).unwrap();
    let script = "mount -t tmpfs -o size=9m none small && \"$0\" create small/d.zvb \
        --size 32M --zone-size 4M --zone-capacity 3M && exec \"$0\" serve small/d.zvb --socket-path s";
    let child = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script, zvb()])
        .current_dir(place.dir())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut server = Guard(child);
    let begun = Instant::now();
    while !place.path("s").exists() {
        let ended = server.0.try_wait().unwrap().is_some();
        if ended || begun.elapsed() > Duration::from_secs(20) {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Some(server)
}

#[test]
fn a_full_file_system_is_written_to_again_when_a_zone_was_reset() {
    let place = Place::new();
    let Some(_server) = crowded(&place) else {
        eprintln!("not tried: it takes the right to mount a file system");
        return;
    };
    std::thread::sleep(Duration::from_millis(50));
    let data: Vec<Vec<u8>> = (0..4).map(|zone| bytes(zone, CAPACITY)).collect();
    let full = (0..4).find(|zone| {
        let run = place.input("append", &["--zone", &zone.to_string()], &data[*zone]);
        assert!([0, 1].contains(&run.code()), "{}", run.err());
        run.code() == 1
    });
    let full = full.unwrap();
    let (end, name) = (written(&place, full), full.to_string());
    assert!(full > 0 && end < CAPACITY, "zone {full}, {end}");
    holds(&place, &name, &data[full][..end]);
    holds(&place, "0", &data[0]);

    // What the reset gave back is there for the write that finds no other, without a flush.
    place.drive("reset", &["--zone", "0"]).ok();
    place.input("append", &["--zone", &name], &data[full][end..]).ok();
    holds(&place, &name, &data[full]);
    // Space that goes round, and is no more than there is.
    for round in 0..20 {
        let data = bytes(round, CAPACITY);
        place.drive("reset", &["--zone", &name]).ok();
        place.input("append", &["--zone", &name], &data).ok();
        holds(&place, &name, &data);
    }
}
