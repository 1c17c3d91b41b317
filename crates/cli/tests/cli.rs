//! The command as users run it: its arguments, its answers, its effects, its errors.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "each test file uses a part")]
mod support;

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{Place, bytes, zvb};

const GEOMETRY: [&str; 12] = [
    "--size",
    "64M",
    "--zone-size",
    "4M",
    "--zone-capacity",
    "3M",
    "--conventional",
    "2",
    "--max-open",
    "3",
    "--max-active",
    "5",
];

#[test]
fn create_and_info_agree() {
    let place = Place::new();
    let made = place.create("d.zvb", &GEOMETRY);
    made.ok();
    assert!(made.out().contains("64 MiB, host-managed, 16 zones of 4 MiB"), "{}", made.out());
    let info = place.run(&["info", "d.zvb", "--json"]).json();
    assert_eq!(info["state"], "clean");
    assert_eq!(info["capacity"], 64 << 11);
    assert_eq!(info["zone_size"], 4 << 11);
    assert_eq!(info["zone_count"], 16);
    assert_eq!((&info["max_open"], &info["max_active"]), (&3.into(), &5.into()));
    assert_eq!(
        (&info["conditions"]["not-wp"], &info["conditions"]["empty"]),
        (&2.into(), &14.into())
    );
    assert_eq!(info["zones"][3]["cap"], 3 << 11);
    assert!(info["allocated_bytes"].as_u64() < Some(1 << 20));
    let table = place.run(&["info", "d.zvb"]);
    assert!(table.out().contains("zones          16: 2 not-wp, 14 empty"), "{}", table.out());
}

#[test]
fn a_large_image_takes_a_moment_and_little_room() {
    let place = Place::new();
    let begun = Instant::now();
    place.create("d.zvb", &["--size", "64G", "--zone-size", "256M"]).ok();
    assert!(begun.elapsed() < Duration::from_secs(5));
    let info = place.run(&["info", "d.zvb", "--json"]).json();
    assert_eq!(info["zone_count"], 256);
    assert!(info["allocated_bytes"].as_u64() < Some(1 << 20), "{info}");
}

#[test]
fn command_lines_that_make_no_sense_are_told_apart_from_failures() {
    let place = Place::new();
    for line in [
        &["create", "d.zvb"][..],
        &["create", "d.zvb", "--size", "64Q"],
        &["create", "d.zvb", "--size", "0"],
        &["create", "d.zvb", "--size", "1000"],
        &["create", "d.zvb", "--size", "1G", "--zone-size", "1000"],
        &["create", "d.zvb", "--size", "1G", "--zone-capacity", "2G"],
        &["create", "d.zvb", "--size", "1G", "--model", "none", "--max-open", "1"],
        &["create", "d.zvb", "--size", "1G", "--nonsense"],
        &["serve", "mem:oops", "--socket-path", "s"],
        &["serve", "mem:1G"],
        &["serve", "d.zvb", "--zone-size", "1M", "--socket-path", "s"],
        &["serve", "mem:1G", "--append", "native", "--socket-path", "s"],
        &["serve", "mem:1G", "--append", "sideways", "--socket-path", "s"],
        &["attach", "mem:1G", "--append", "ordered"],
        &["report"],
        &["nonsense"],
        &[],
    ] {
        let run = place.run(line);
        assert_eq!(run.code(), 2, "{line:?}: {}", run.err());
        assert!(!run.err().is_empty());
        assert!(!place.path("d.zvb").exists() && !place.path("s").exists(), "{line:?}");
    }
    let run = place.run(&["create", "d.zvb", "--size", "1000"]);
    assert!(run.err().starts_with("zvb: --size 1000 is not a multiple"), "{}", run.err());
}

#[test]
fn what_is_no_image_is_refused_with_the_reason() {
    let place = Place::new();
    fs::write(place.path("empty"), b"").unwrap();
    fs::write(place.path("text"), vec![b'x'; 100_000]).unwrap();
    for (name, reason) in
        [(".", "directory"), ("empty", "empty"), ("text", "not a zvb image"), ("none", "no such")]
    {
        for line in [vec!["info", name], vec!["serve", name, "--socket-path", "s"]] {
            let run = place.run(&line);
            assert_eq!(run.code(), 1, "{line:?}");
            assert!(run.err().contains(reason) && run.err().contains(name), "{}", run.err());
            assert!(!place.path("s").exists(), "the socket of {line:?} is left");
        }
    }
    place.create("d.zvb", &GEOMETRY).ok();
    let again = place.create("d.zvb", &GEOMETRY);
    assert_eq!(again.code(), 1);
    assert!(again.err().contains("--force"), "{}", again.err());
    place.create("d.zvb", &["--size", "1M", "--force"]).ok();
}

#[test]
fn zone_commands_have_their_effects() {
    let place = Place::new();
    place.create("d.zvb", &GEOMETRY).ok();
    let _server = place.serve(&["d.zvb"]);
    let cond = |zone: usize| place.report()["zones"][zone]["cond"].as_str().unwrap().to_owned();
    assert_eq!((cond(0).as_str(), cond(2).as_str()), ("not-wp", "empty"));

    place.drive("open", &["--zone", "3", "--count", "2"]).ok();
    assert_eq!((cond(3).as_str(), cond(4).as_str()), ("explicit-open", "explicit-open"));
    place.drive("finish", &["--sector", &(3 * 8192).to_string()]).ok();
    assert_eq!(cond(3), "full");
    assert_eq!(place.report()["zones"][3]["wptr"], 4 * 8192);
    place.drive("close", &["--zone", "4"]).ok();
    assert_eq!(cond(4), "empty");
    let answer = place.drive("reset", &["--zone", "3", "--json"]).json();
    assert_eq!(answer["zones"][0]["cond"], "empty");
    place.drive("finish", &["--zone", "5", "--count", "100", "--quiet"]).ok();
    assert_eq!((cond(5).as_str(), cond(15).as_str()), ("full", "full"));
    let all = place.drive("reset", &["--all"]);
    assert_eq!(all.out(), "reset all zones\n");
    assert!((2..16).all(|zone| cond(zone) == "empty"));

    // Limits and rules are the device's; what it says is passed on.
    let fourth = place.drive("open", &["--zone", "3", "--count", "4"]);
    assert_eq!(fourth.code(), 1);
    assert!(fourth.err().contains("zone 6 (zones 3 to 5 were done)"), "{}", fourth.err());
    assert!(fourth.err().contains("ZONE_OPEN_RESOURCE"), "{}", fourth.err());
    assert!(place.drive("open", &["--zone", "0"]).err().contains("ZONE_INVALID_CMD"));
    for line in [&["--zone", "16"][..], &["--sector", "5"], &["--zone", "2", "--count", "0"], &[]] {
        assert_eq!(place.drive("open", line).code(), 2, "{line:?}");
    }
    place.drive("flush", &[]).ok();
    assert!(place.drive("id", &[]).out().starts_with("zvb-"));
}

#[test]
fn reports_come_in_three_forms() {
    let place = Place::new();
    place.create("d.zvb", &GEOMETRY).ok();
    let _server = place.serve(&["d.zvb"]);
    place.input("append", &["--zone", "2"], &bytes(1, 65536)).ok();
    let table = place.drive("report", &["--zone", "1", "--count", "2"]);
    assert_eq!(
        table.out(),
        "ZONE  START   LEN   CAP   WPTR  USED  COND           TYPE\n   \
         1   8192  8192  8192      -     -  not-wp         conventional\n   \
         2  16384  8192  6144  16512    2%  implicit-open  seq-write-required\n"
    );
    let blkzone =
        place.drive("report", &["--format", "blkzone", "--sector", "16390", "--count", "1"]);
    assert_eq!(
        blkzone.out(),
        "  start: 0x000004000, len 0x002000, cap 0x001800, wptr 0x000080 reset:0 non-seq:0, zcond: 2(oi) [type: 2(SEQ_WRITE_REQUIRED)]\n"
    );
    let report = place.report();
    assert_eq!(report["zones"].as_array().unwrap().len(), 16);
    assert_eq!(report["model"], "host-managed");
    assert_eq!(report["zones"][2]["wptr"], 16384 + 128);
    assert_eq!(report["zones"][0]["type"], "conventional");
}

#[test]
fn what_is_appended_zone_after_zone_comes_back() {
    let place = Place::new();
    place.create("d.zvb", &GEOMETRY).ok();
    let _server = place.serve(&["d.zvb"]);
    // Zone 4 is in the way and full: it is passed over.
    place.drive("finish", &["--zone", "4"]).ok();
    let data = bytes(2, 10 << 20);
    let answer = place.input("append", &["--zone", "3", "--json"], &data).json();
    assert_eq!(answer["bytes"], 10 << 20);
    let zones: Vec<_> = answer["extents"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| (e["zone"].as_u64().unwrap(), e["len"].as_u64().unwrap()))
        .collect();
    assert_eq!(zones, [(3, 6144), (5, 6144), (6, 6144), (7, 2048)]);
    let first = place.drive("read", &["--zone", "3"]).stdout;
    let rest = place.drive("read", &["--zone", "5", "--count", "3"]).stdout;
    assert!([first, rest].concat() == data, "other bytes came back");

    // A file in, a file out; and a second server finds the same.
    fs::write(place.path("in"), &data[..1 << 20]).unwrap();
    place.drive("append", &["--zone", "8", "in", "--quiet", "--depth", "5000"]).ok();
    place.drive("read", &["--zone", "8", "--output", "out"]).ok();
    assert!(fs::read(place.path("out")).unwrap() == data[..1 << 20]);

    let full = place.input("append", &["--zone", "4"], &data);
    assert!(full.code() == 1 && full.err().contains("zone 4 is full"), "{}", full.err());
    let conventional = place.input("append", &["--zone", "0"], &data);
    assert!(conventional.err().contains("conventional"), "{}", conventional.err());
}

#[test]
fn an_append_that_runs_out_of_room_says_what_is_there() {
    let place = Place::new();
    place.create("d.zvb", &GEOMETRY).ok();
    let _server = place.serve(&["d.zvb"]);
    let data = bytes(3, 8 << 20);
    let run = place.input("append", &["--zone", "14"], &data);
    assert_eq!(run.code(), 1);
    assert!(
        run.err().contains("no more room") && run.err().contains("6291456 bytes"),
        "{}",
        run.err()
    );
    let back = place.drive("read", &["--zone", "14", "--count", "2"]).stdout;
    assert!(back == data[..6 << 20]);
}

#[test]
fn writes_go_where_they_are_sent_or_are_refused() {
    let place = Place::new();
    place.create("d.zvb", &GEOMETRY).ok();
    let _server = place.serve(&["d.zvb"]);
    let data = bytes(4, 5 << 20);
    // Across two conventional zones.
    place.input("write", &["--sector", "800"], &data).ok();
    let length = (data.len() / 512).to_string();
    let back = place.drive("read", &["--sector", "800", "--length", &length]).stdout;
    assert!(back == data);
    // At the write pointer, twice.
    place.input("write", &["--zone", "2"], &data[..1 << 20]).ok();
    place.input("write", &["--zone", "2", "--length", "2048"], &data[1 << 20..]).ok();
    assert!(place.drive("read", &["--zone", "2"]).stdout == data[..2 << 20]);
    let off = place.input("write", &["--sector", "16384"], &data[..4096]);
    assert_eq!(off.code(), 1);
    assert!(off.err().contains("ZONE_UNALIGNED_WP"), "{}", off.err());
    fs::write(place.path("large"), &data).unwrap();
    let much = place.drive("write", &["--zone", "2", "large"]);
    assert!(much.err().contains("room for 1 MiB"), "{}", much.err());

    let odd = place.input("write", &["--zone", "3"], b"hello");
    assert!(odd.code() == 1 && odd.err().contains("--pad"), "{}", odd.err());
    assert_eq!(place.report()["zones"][3]["cond"], "empty");
    place.input("write", &["--zone", "3", "--pad"], b"hello").ok();
    let back = place.drive("read", &["--zone", "3"]).stdout;
    assert!(back.len() == 4096 && back.starts_with(b"hello\0"));
    let short = place.input("write", &["--zone", "3", "--length", "16"], b"hello");
    assert!(short.err().contains("ends after 5 of the 8192"), "{}", short.err());
}

#[test]
fn a_live_socket_is_left_alone_and_a_stale_one_replaced() {
    let place = Place::new();
    place.create("d.zvb", &GEOMETRY).ok();
    place.create("e.zvb", &GEOMETRY).ok();
    let mut server = place.serve(&["d.zvb"]);
    let second = place.run(&["serve", "e.zvb", "--socket-path", "s"]);
    assert!(second.code() == 1 && second.err().contains("in use"), "{}", second.err());
    let other = place.run(&["serve", "d.zvb", "--socket-path", "s2"]);
    assert!(other.code() == 1 && other.err().contains("another process"), "{}", other.err());
    assert!(!place.path("s2").exists());
    place.drive("id", &[]).ok();
    assert_eq!(place.run(&["info", "d.zvb", "--json"]).json()["state"], "in-use");

    server.kill();
    assert!(place.path("s").exists());
    assert_eq!(place.run(&["info", "d.zvb", "--json"]).json()["state"], "process-died");
    let gone = place.drive("id", &[]);
    assert!(gone.code() == 1 && gone.err().contains("no server listens"), "{}", gone.err());
    let _server = place.serve(&["d.zvb"]);
    place.drive("id", &[]).ok();
    fs::write(place.path("file"), b"precious").unwrap();
    let file = place.run(&["serve", "e.zvb", "--socket-path", "file"]);
    assert!(file.code() == 1 && file.err().contains("a regular file"), "{}", file.err());
    assert_eq!(fs::read(place.path("file")).unwrap(), b"precious");
}

fn ignores_sigint() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(ignored.trim(), 16).unwrap()
        & 1 << (rustix::process::Signal::INT.as_raw() - 1)
        != 0
}

#[test]
fn a_server_ends_in_order_and_the_next_finds_every_zone() {
    let place = Place::new();
    place.create("d.zvb", &GEOMETRY).ok();
    let data = bytes(5, 4 << 20);
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        // A shell's background job has SIGINT ignored, and hands that down: then it stays ignored.
        if signal == rustix::process::Signal::INT && ignores_sigint() {
            continue;
        }
        let mut server = place.serve(&["d.zvb"]);
        assert!(server.ready.contains("vhost-user-test-device-pci"), "{}", server.ready);
        assert!(
            server.ready.contains("crosvm run --vhost-user block,socket=/"),
            "{}",
            server.ready
        );
        assert!(server.ready.contains("krun_add_vhost_user_device(ctx, 2,"), "{}", server.ready);
        place.drive("reset", &["--all"]).ok();
        place.input("append", &["--zone", "2"], &data).ok();
        let before = place.report();
        assert_eq!(server.end(signal), Some(0));
        assert!(!place.path("s").exists());
        let info = place.run(&["info", "d.zvb", "--json"]).json();
        assert_eq!(info["state"], "clean");
        let _server = place.serve(&["d.zvb"]);
        let after = place.report();
        let same =
            |zone: usize, field: &str| before["zones"][zone][field] == after["zones"][zone][field];
        assert!((0..16).all(|zone| same(zone, "wptr") && (zone == 3 || same(zone, "cond"))));
        assert_eq!(after["zones"][3]["cond"], "closed");
        assert!(place.drive("read", &["--zone", "2", "--count", "2"]).stdout == data);
    }
}

#[test]
fn a_killed_server_loses_nothing_that_it_acknowledged() {
    let place = Place::new();
    place.create("d.zvb", &GEOMETRY).ok();
    let data = bytes(6, 4 << 20);
    let mut server = place.serve(&["d.zvb"]);
    place.input("append", &["--zone", "2"], &data).ok();
    server.kill();
    let _server = place.serve(&["d.zvb"]);
    assert!(place.drive("read", &["--zone", "2", "--count", "2"]).stdout == data);
}

#[test]
fn a_hundred_sessions_on_one_socket() {
    let place = Place::new();
    let _server = place.serve(&["mem:64M", "--zone-size", "4M", "--queues", "2"]);
    for session in 0..100u64 {
        place.input("append", &["--zone", "1", "--quiet"], &bytes(session, 4096)).ok();
        let wptr = place.drive("report", &["--zone", "1", "--count", "1", "--json"]).json();
        assert_eq!(wptr["zones"][0]["wptr"], 8192 + (session + 1) * 8);
    }
    // While it serves another, it is silent; how long is waited for it is the user's to say.
    let other = std::os::unix::net::UnixStream::connect(place.path("s")).unwrap();
    let begun = Instant::now();
    let busy = place.drive("report", &["--timeout", "1"]);
    assert_eq!(busy.code(), 1);
    assert!(busy.err().contains("it may be busy with another"), "{}", busy.err());
    assert!((1..20).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    drop(other);
    // One that dies in the middle of its work.
    for _ in 0..5 {
        let mut bench = Command::new(zvb())
            .args(["bench", "--rw", "randread", "--seconds", "30", "--socket-path", "s"])
            .current_dir(place.dir())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(50));
        bench.kill().unwrap();
        bench.wait().unwrap();
    }
    place.drive("report", &[]).ok();
}

#[test]
fn an_append_to_a_host_aware_disk_is_explained() {
    let place = Place::new();
    let _server = place.serve(&["mem:64M", "--model", "host-aware"]);
    let append = place.input("append", &["--zone", "1"], &bytes(1, 4096));
    assert!(append.code() == 1 && append.err().contains("zvb write"), "{}", append.err());
    place.input("write", &["--zone", "1"], &bytes(1, 4096)).ok();
}

#[test]
fn plain_disks_and_read_only_ones_are_served_too() {
    let place = Place::new();
    {
        let _server = place.serve(&["mem:16M", "--model", "none"]);
        let data = bytes(7, 1 << 20);
        place.input("write", &["--sector", "64"], &data).ok();
        assert!(place.drive("read", &["--sector", "64", "--length", "2048"]).stdout == data);
        assert_eq!(place.report()["model"], "none");
        let report = place.drive("report", &[]);
        assert!(report.code() == 1 && report.err().contains("no zones"), "{}", report.err());
        assert_eq!(place.drive("read", &["--sector", "64"]).code(), 2);
        assert_eq!(place.drive("read", &["--sector", "32760", "--length", "16"]).code(), 2);
    }
    place.create("d.zvb", &GEOMETRY).ok();
    let before = fs::read(place.path("d.zvb")).unwrap();
    {
        let _server = place.serve(&["d.zvb", "--read-only"]);
        assert_eq!(place.report()["read_only"], true);
        let write = place.input("write", &["--zone", "2"], &bytes(8, 4096));
        assert!(write.code() == 1 && write.err().contains("read-only"), "{}", write.err());
    }
    assert!(fs::read(place.path("d.zvb")).unwrap() == before);
}

#[test]
fn benchmarks_measure_and_ask_before_they_destroy() {
    let place = Place::new();
    let _server =
        place.serve(&["mem:64M", "--zone-size", "4M", "--conventional", "4", "--queues", "2"]);
    assert_eq!(place.drive("bench", &["--rw", "write"]).code(), 2);
    assert_eq!(place.drive("bench", &["--bs", "100"]).code(), 2);
    for workload in ["randread", "read", "write", "randwrite", "append"] {
        let line = ["--rw", workload, "--seconds", "0.2", "--queues", "2", "--destroy", "--json"];
        let answer = place.drive("bench", &line).json();
        assert_eq!(answer["errors"], 0, "{workload}");
        assert!(answer["requests"].as_u64() > Some(0), "{workload}: {answer}");
        let us = |name: &str| answer["latency_us"][name].as_f64().unwrap();
        assert!(us("p50") <= us("p99") && us("p99") <= us("p99_9") && us("p99_9") <= us("max"));
    }
    // Zones of 1024 blocks: each queue goes through more than all of them, and none gets too much.
    let line = ["--rw", "append", "--same-zones", "--queues", "2", "--destroy", "--json"];
    let answer = place
        .drive("bench", &[&line[..], &["--requests", "13000", "--seconds", "60"]].concat())
        .json();
    assert_eq!((&answer["errors"], &answer["requests"]), (&0.into(), &26000.into()));
    assert_eq!(place.drive("bench", &["--same-zones"]).code(), 2);
    let many = place.drive("bench", &["--queues", "3", "--seconds", "0.1"]);
    assert!(many.code() == 1 && many.err().contains("2 queues"), "{}", many.err());
}

#[test]
fn a_listening_descriptor_can_be_handed_over() {
    let place = Place::new();
    let listener = std::os::unix::net::UnixListener::bind(place.path("s")).unwrap();
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&listener).to_string();
    let mut server =
        Command::new(zvb()).args(["serve", "mem:16M", "--quiet", "--fd", &fd]).spawn().unwrap();
    place.drive("id", &[]).ok();
    place.drive("report", &[]).ok();
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&server),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    assert_eq!(server.wait().unwrap().code(), Some(0));
    let wrong = place.run(&["serve", "mem:16M", "--fd", "0"]);
    assert_eq!(wrong.code(), 1, "{}", wrong.err());
    let capabilities = place.run(&["serve", "--print-capabilities"]).json();
    assert_eq!(capabilities["type"], "block");
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let place = Place::new();
    let _server = place.serve(&["mem:64M", "--zone-size", "4096"]);
    let mut report = Command::new(zvb())
        .args(["report", "--socket-path", "s"])
        .current_dir(place.dir())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(report.stdout.take());
    let output = report.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn the_demo_shows_what_it_says_and_leaves_nothing() {
    let place = Place::new();
    let output = Command::new(zvb())
        .arg("demo")
        .env("TMPDIR", place.dir())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    for said in ["ZONE_UNALIGNED_WP", "ZONE_OPEN_RESOURCE", "every zone is as it was", "read back"]
    {
        assert!(text.contains(said), "{said}: {text}");
    }
    assert_eq!(fs::read_dir(place.dir()).unwrap().count(), 0, "something is left");
    std::io::stderr().flush().unwrap();
}

/// How the system calls of a process are filtered: 0 for not at all, 2 by a filter.
fn seccomp(process: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:")).unwrap();
    mode.trim().to_owned()
}

#[test]
fn a_server_is_confined_unless_it_is_told_otherwise() {
    let place = Place::new();
    place.create("d.zvb", &GEOMETRY).ok();
    let ours = seccomp("self");
    for (options, filters) in [(&["d.zvb"][..], "2"), (&["d.zvb", "--no-sandbox"], &ours)] {
        let mut server = place.serve(options);
        assert_eq!(seccomp(&server.id().to_string()), filters, "{options:?}");
        // What is started later is confined in every way.
        let threads = std::fs::read_dir(format!("/proc/{}/task", server.id())).unwrap().count();
        assert_eq!(threads, 1, "{options:?}");
        let mode = std::fs::metadata(place.path("s")).unwrap().permissions();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);
        place.drive("reset", &["--all"]).ok();
        assert_eq!(server.end(rustix::process::Signal::TERM), Some(0));
    }
}

#[test]
fn a_disk_that_is_not_there_is_told_of_first() {
    let place = Place::new();
    // Whatever this host has for attaching it.
    let run = place.run(&["attach", "nosuch.zvb"]);
    assert_eq!(run.code(), 1);
    let said = "zvb: nosuch.zvb: there is no such file; `zvb create` makes one\n";
    assert_eq!(run.err(), said);
    let device = "/dev/zvb-test-no-such-device";
    for line in
        [&["attach", device][..], &["serve", device, "--socket-path", "s"], &["info", device]]
    {
        let run = place.run(line);
        assert_eq!(run.code(), 1, "{line:?}");
        assert_eq!(
            run.err(),
            format!(
                "zvb: {device}: there is no such device; `lsblk` lists those that this host has\n"
            ),
            "{line:?}"
        );
    }
    // A folder has no name that a disk could have: it is what is said.
    for line in [&["attach", "."][..], &["attach", "/"], &["serve", ".", "--socket-path", "s"]] {
        let run = place.run(line);
        assert_eq!(run.code(), 1, "{line:?}");
        assert!(run.err().contains("a directory, not an image file"), "{line:?}: {}", run.err());
    }
    let run = place.run(&["serve", "mem:64M", "--socket-path", "nowhere/s"]);
    assert!(run.err().contains("the folder nowhere is not there: make it, or"), "{}", run.err());
    let run = place.run(&["info", "/dev/shm/zvb-test-no-such-image"]);
    assert!(run.err().contains("no such file"), "{}", run.err());
}
