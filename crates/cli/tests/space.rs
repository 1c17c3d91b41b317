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

/// A script that runs with mounts of its own, where `$0` is the program.
fn secluded(place: &Place, script: &str) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-euxc", script, zvb()])
        .current_dir(place.dir())
        .stdin(Stdio::null());
    command
}

/// A server in a file system of 9 MiB that nobody else sees; `None` where such a thing can not be had.
fn crowded(place: &Place) -> Option<Guard> {
    std::fs::create_dir(place.path("small")).unwrap();
    let script = "mount -t tmpfs -o size=9m none small && \"$0\" create small/d.zvb \
        --size 32M --zone-size 4M --zone-capacity 3M && exec \"$0\" serve small/d.zvb --socket-path s";
    let child = secluded(place, script).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
    let mut server = Guard(child);
    let begun = Instant::now();
    // Its socket is there before somebody listens.
    while place.drive("id", &[]).code() != 0 {
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

/// Runs `script` with mounts of its own and a file system of 4 MiB in `small`, in which `d.zvb` is an image;
/// says so where that can not be had.
#[track_caller]
fn in_little_space(script: &str) {
    let place = Place::new();
    std::fs::create_dir(place.path("small")).unwrap();
    let mounted = secluded(&place, "mount -t tmpfs none small").output();
    if !mounted.is_ok_and(|run| run.status.success()) {
        eprintln!("not tried: it takes the right to mount a file system");
        return;
    }
    let begin = "mount -t tmpfs -o size=4m none small
        \"$0\" create small/d.zvb --size 32M --zone-size 4M --zone-capacity 3M
        fill() { ! dd if=/dev/zero of=small/fill bs=4k 2>/dev/null; }
        ready() { while ! test -S s; do sleep 0.02; done; }
        ";
    let run = secluded(&place, &[begin, script].concat()).output().unwrap();
    let (said, told) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{said}\n{told}");
}

/// To read a hole wants room, through a mapping: it ended the process.
#[test]
fn an_image_on_a_full_file_system_is_read() {
    in_little_space(
        r#"fill
        "$0" info small/d.zvb
        "$0" dump small/d.zvb > t.json
        "$0" check --deep small/d.zvb
        "$0" serve --read-only small/d.zvb --socket-path s & ready
        "$0" report --socket-path s
        "$0" read --socket-path s --zone 1 --length 8 | cmp -n 4096 - /dev/zero
        kill $!; wait $!"#,
    );
}

#[test]
fn what_finds_no_space_changes_nothing_and_says_so() {
    in_little_space(
        r#"cp --sparse=always small/d.zvb before
        "$0" dump small/d.zvb > t.json
        fill
        refused() {
            if "$@" 2> said; then exit 9; fi
            grep -q "No space left on device" said
            cmp small/d.zvb before
        }
        refused "$0" serve small/d.zvb --socket-path s
        refused "$0" resize small/d.zvb --size 64G
        refused "$0" load small/d.zvb t.json
        rm small/fill
        "$0" serve small/d.zvb --socket-path s & ready
        kill -KILL $!; wait $! || true
        cp --sparse=always small/d.zvb before
        fill
        refused "$0" resize small/d.zvb --size 64G
        rm small/fill
        "$0" resize small/d.zvb --size 64G"#,
    );
}

#[test]
fn a_disk_in_use_that_finds_no_space_to_grow_is_as_long_as_it_was() {
    in_little_space(
        r#""$0" serve small/d.zvb --socket-path s --control c & ready
        long=$(stat -c %s small/d.zvb)
        fill
        if "$0" ctl --control c resize --size 64G 2> said; then exit 9; fi
        cat said >&2
        grep -q "No space left on device" said
        test "$(stat -c %s small/d.zvb)" = "$long"
        "$0" report --socket-path s | tail -1
        rm small/fill
        "$0" ctl --control c resize --size 64G
        test "$(stat -c %s small/d.zvb)" -gt "$long"
        kill $!; wait $!
        "$0" check small/d.zvb"#,
    );
}

#[test]
fn a_server_says_when_it_can_not_tell_a_boot_of_the_host() {
    let place = Place::new();
    let script = "mount --bind /dev/null /proc/sys/kernel/random/boot_id
        \"$0\" create d.zvb --size 32M --zone-size 4M
        \"$0\" serve d.zvb --socket-path s 2> said & while ! test -S s; do sleep 0.02; done
        head -c 4096 /dev/zero | \"$0\" append --socket-path s --zone 1
        kill -KILL $!; wait $! || true
        grep -q 'warning: /proc/sys/kernel/random/boot_id can not be read' said
        \"$0\" info d.zvb | grep 'the host went down'";
    let mounted =
        secluded(&place, "mount --bind /dev/null /proc/sys/kernel/random/boot_id").output();
    if !mounted.is_ok_and(|run| run.status.success()) {
        eprintln!("not tried: it takes the right to mount");
        return;
    }
    let run = secluded(&place, script).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}
