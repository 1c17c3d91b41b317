//! A served disk under control, as users type it: zones and requests that fail, statistics, the end.

#![allow(clippy::unwrap_used, reason = "a test that can not go on fails")]

#[allow(dead_code, reason = "each test file uses a part")]
mod support;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Place, Run, Server, bytes};

const SHAPE: [&str; 12] = [
    "--size",
    "32M",
    "--zone-size",
    "4M",
    "--conventional",
    "1",
    "--block-size",
    "4096",
    "--max-open",
    "3",
    "--max-active",
    "4",
];

fn served(more: &[&str]) -> (Place, Server) {
    let place = Place::new();
    place.create("d.zvb", &SHAPE).ok();
    let server = place.serve(&[&["d.zvb", "--control", "c"], more].concat());
    (place, server)
}

fn ctl(place: &Place, line: &[&str]) -> Run {
    place.run(&[&["ctl", "--control", "c"], line].concat())
}

#[track_caller]
fn condition(place: &Place, zone: usize) -> Value {
    place.report()["zones"][zone]["cond"].clone()
}

#[track_caller]
fn fails(run: &Run, why: &str) {
    assert_eq!(run.code(), 1, "{}", run.err());
    assert!(run.err().contains(why), "{why} in {}", run.err());
}

#[test]
fn zones_fail_and_come_back_and_the_image_remembers() {
    let (place, mut server) = served(&[]);
    let data = bytes(1, 64 << 10);
    place.input("append", &["--zone", "2"], &data).ok();
    place.input("append", &["--zone", "3"], &data).ok();
    ctl(&place, &["read-only", "--zone", "2"]).ok();
    let run = ctl(&place, &["offline", "--zone", "3", "--count", "2"]);
    run.ok();
    assert_eq!(run.out(), "zones 3 to 4 are offline\n");
    ctl(&place, &["read-only", "--zone", "0"]).ok();
    // With SIGKILL, and once more in order.
    for round in 0..2 {
        let told: Vec<_> = (0..6).map(|zone| condition(&place, zone)).collect();
        assert_eq!(told, ["read-only", "empty", "read-only", "offline", "offline", "empty"]);
        assert!(place.drive("read", &["--zone", "2", "--length", "128"]).stdout == data);
        fails(&place.drive("read", &["--zone", "3", "--length", "8"]), "ZONE_INVALID_CMD");
        fails(&place.input("append", &["--zone", "2"], &data), "read-only");
        fails(&place.input("write", &["--sector", "0"], &data), "ZONE_INVALID_CMD");
        fails(&place.drive("reset", &["--zone", "3"]), "ZONE_INVALID_CMD");
        if round == 0 {
            server.kill();
        } else {
            ctl(&place, &["quit"]).ok();
            assert!(!place.path("c").exists() && !place.path("s").exists());
        }
        place.run(&["check", "d.zvb", "--deep"]).ok();
        server = place.serve(&["d.zvb", "--control", "c"]);
    }
    ctl(&place, &["restore", "--zone", "0", "--count", "5"]).ok();
    let told: Vec<_> = (0..5).map(|zone| condition(&place, zone)).collect();
    assert_eq!(told, ["not-wp", "empty", "closed", "closed", "empty"]);
    for zone in ["2", "3"] {
        assert!(place.drive("read", &["--zone", zone]).stdout == data, "its data is back");
        place.input("append", &["--zone", zone], &data).ok();
    }
    server.kill();
    place.run(&["check", "d.zvb", "--deep"]).ok();
    let table = place.run(&["dump", "d.zvb"]).json();
    assert_eq!(table["zones"][3]["written"], 256);
}

#[test]
fn zones_come_back_only_within_the_limits() {
    let (place, _server) = served(&[]);
    let data = bytes(1, 4096);
    for zone in ["1", "2", "3", "4"] {
        place.input("append", &["--zone", zone], &data).ok();
    }
    ctl(&place, &["read-only", "--zone", "1"]).ok();
    place.input("append", &["--zone", "5"], &data).ok();
    let run = ctl(&place, &["restore", "--zone", "1"]);
    fails(&run, "the limit of active zones is reached: finish or reset another zone first");
    place.drive("finish", &["--zone", "5"]).ok();
    ctl(&place, &["restore", "--zone", "1"]).ok();
    assert_eq!(condition(&place, 1), "closed");
}

/// Does something with one request of each kind that the command has, in an order in which all succeed.
fn act(place: &Place, kind: &str, data: &[u8]) -> Run {
    match kind {
        "read" => place.drive("read", &["--zone", "1", "--length", "8"]),
        "write" => place.input("write", &["--zone", "1"], data),
        "append" => place.input("append", &["--zone", "1"], data),
        "flush" => place.drive("flush", &[]),
        "id" => place.drive("id", &[]),
        "report" => place.drive("report", &[]),
        "reset-all" => place.drive("reset", &["--all"]),
        other => place.drive(other, &["--zone", "1"]),
    }
}

const KINDS: [&str; 11] = [
    "write",
    "append",
    "read",
    "open",
    "close",
    "finish",
    "reset",
    "reset-all",
    "flush",
    "id",
    "report",
];

#[test]
fn each_kind_of_request_fails_once_when_told_to() {
    let (place, _server) = served(&[]);
    let data = bytes(1, 4096);
    for kind in KINDS {
        ctl(&place, &["fail", kind]).ok();
        fails(&act(&place, kind, &data), "IOERR");
        act(&place, kind, &data).ok();
        let faults = ctl(&place, &["faults", "--json"]).json();
        let fault = faults["faults"].as_array().unwrap().last().unwrap().clone();
        let told = (&fault["kinds"], &fault["hits"], &fault["left"], &fault["next"]);
        assert_eq!(told, (&json!([kind]), &json!(1), &json!(0), &json!(1)), "{fault}");
        assert_eq!(ctl(&place, &["clear"]).out(), "1 cleared\n");
    }
    assert_eq!(ctl(&place, &["faults"]).out(), "no fault is set\n");
}

#[test]
fn each_kind_of_request_takes_longer_when_told_to() {
    let (place, _server) = served(&[]);
    let data = bytes(1, 4096);
    for kind in KINDS {
        ctl(&place, &["delay", kind, "--ms", "80"]).ok();
        let begun = Instant::now();
        act(&place, kind, &data).ok();
        assert!(begun.elapsed() >= Duration::from_millis(80), "{kind}");
    }
    let stats = ctl(&place, &["stats", "--json"]).json();
    for kind in KINDS {
        let stats = &stats["total"][kind];
        assert!(stats["max_us"].as_u64().unwrap() >= 80_000, "{kind}: {stats}");
        assert_eq!(stats["in_flight"], 0);
    }
}

#[test]
fn torn_writes_leave_what_the_pointer_tells() {
    let (place, _server) = served(&[]);
    let data = bytes(5, 64 << 10);
    for (kind, zone) in [("write", "1"), ("append", "2")] {
        ctl(&place, &["tear", kind, "--keep", "35", "--zone", zone]).ok();
        fails(&place.input(kind, &["--zone", zone], &data), "IOERR");
        let zone_told = place.report()["zones"][zone.parse::<usize>().unwrap()].clone();
        let written = zone_told["wptr"].as_u64().unwrap() - zone_told["start"].as_u64().unwrap();
        assert_eq!(written, 32, "whole blocks: {zone_told}");
        assert!(place.drive("read", &["--zone", zone]).stdout == data[..16 << 10]);
        place.input(kind, &["--zone", zone], &data[16 << 10..]).ok();
        assert!(place.drive("read", &["--zone", zone]).stdout == data);
    }
    ctl(&place, &["quit"]).ok();
    place.run(&["check", "d.zvb", "--deep"]).ok();
}

#[test]
fn faults_have_a_status_a_place_and_an_end() {
    let (place, _server) = served(&[]);
    let data = bytes(1, 4096);
    let line = ["fail", "write,append", "--status", "zone-active-resource", "--next", "2"];
    ctl(&place, &line).ok();
    fails(&place.input("append", &["--zone", "1"], &data), "ZONE_ACTIVE_RESOURCE");
    fails(&place.input("write", &["--zone", "2"], &data), "ZONE_ACTIVE_RESOURCE");
    place.input("append", &["--zone", "1"], &data).ok();
    place.input("append", &["--zone", "2"], &data).ok();

    // The second block of zone 2, always.
    let line = ["fail", "any", "--always", "--sector", "16392", "--length", "8"];
    ctl(&place, &line).ok();
    for _ in 0..2 {
        fails(&place.input("append", &["--zone", "2"], &data), "IOERR");
        fails(&place.drive("read", &["--sector", "16392", "--length", "8"]), "IOERR");
    }
    place.drive("read", &["--sector", "16384", "--length", "8"]).ok();
    let table = ctl(&place, &["faults"]).out();
    assert!(table.ends_with(
        " 2     4   all  fail ioerr                 8 sectors at 16392  read,write,append,report,open,close,finish,\
reset,discard,write-zeroes,secure-erase\n"
    ), "{table}");
    ctl(&place, &["clear", "2"]).ok();
    place.input("append", &["--zone", "2"], &data).ok();
}

#[test]
fn statistics_and_the_table_are_of_the_moment() {
    let (place, _server) = served(&["--queues", "2"]);
    let stats = ctl(&place, &["stats", "--json"]).json();
    assert_eq!(stats["queues"], json!([{}, {}]));
    assert_eq!(stats["zones"], json!({ "not-wp": 1, "empty": 7 }));
    place.input("append", &["--zone", "3"], &bytes(1, 8192)).ok();
    let stats = ctl(&place, &["stats", "--json"]).json();
    let append = &stats["total"]["append"];
    assert_eq!((&append["errors"], &append["bytes"]), (&json!(0), &json!(8192)));
    assert_eq!(stats["zones"], json!({ "not-wp": 1, "empty": 6, "implicit-open": 1 }));
    let text = ctl(&place, &["stats"]).out();
    assert!(text.contains("QUEUE  KIND"), "{text}");
    assert!(text.ends_with("zones: 6 empty, 1 implicit-open, 1 not-wp\n"), "{text}");

    // What is dumped while it is served can be loaded, and is what is dumped afterwards.
    let table = ctl(&place, &["dump"]);
    std::fs::write(place.path("t.json"), &table.stdout).unwrap();
    place.create("e.zvb", &SHAPE).ok();
    place.run(&["load", "e.zvb", "t.json"]).ok();
    ctl(&place, &["quit", "--quiet"]).ok();
    let table = table.json();
    assert_eq!(place.run(&["dump", "e.zvb"]).json(), table);
    assert_eq!(place.run(&["dump", "d.zvb"]).json(), table);
}

#[test]
fn what_makes_no_sense_is_refused_with_what_does() {
    let (place, _server) = served(&[]);
    for (line, why) in [
        (&["fail", "shut"][..], "is no kind of request: read, write, append, flush"),
        (&["fail", "write", "--status", "bad"], "is no status: ioerr, unsupp, zone-invalid"),
        (&["fail", "flush", "--status", "zone-invalid"], "a flush does not fail with"),
        (&["fail", "flush", "--zone", "1"], "a flush is for the whole disk"),
        (&["fail", "read", "--zone", "8"], "the disk has only zones 0 to 7"),
        (
            &["fail", "read", "--sector", "65536", "--length", "1"],
            "inside the disk of 65536 sectors",
        ),
        (&["tear", "read"], "only a write or an append can"),
        (&["delay", "read", "--ms", "60001"], "longer than the 60000 ms"),
        (&["delay", "read", "--ms", "0"], "a fault fails, tears or delays"),
        (&["clear", "9"], "there is no fault 9"),
        (&["offline", "--zone", "8"], "are not zones of the disk, which has 8"),
        (&["offline", "--zone", "4294967295", "--count", "2"], "there are no such zones"),
    ] {
        fails(&ctl(&place, line), why);
    }
    for line in [
        &["ctl", "stats"][..],
        &["ctl", "--control", "c", "offline"],
        &["ctl", "--control", "c", "fail"],
        &["ctl", "--control", "c", "offline", "--zone", "4294967296"],
        &["ctl", "--control", "c", "fail", "read", "--next", "0"],
        &["ctl", "--control", "c", "fail", "read", "--next", "2", "--always"],
        &["ctl", "--control", "c", "fail", "read", "--sector", "8"],
    ] {
        assert_eq!(place.run(line).code(), 2, "{line:?}");
    }
    fails(&place.run(&["ctl", "--control", "none", "stats"]), "zvb serve --control none");
    let other = place.run(&["serve", "mem:1M", "--socket-path", "t", "--control", "c"]);
    fails(&other, "c is in use by a running server; use another --control");
    assert!(!place.path("t").exists());
    let both = place.run(&["serve", "mem:1M", "--socket-path", "./t", "--control", "t"]);
    assert_eq!(both.code(), 2);
    assert!(both.err().contains("t can not be both --socket-path and --control"), "{}", both.err());
    assert!(!place.path("t").exists());

    let plain = Place::new();
    let _server = plain.serve(&["mem:16M", "--model", "none", "--control", "c"]);
    fails(&ctl(&plain, &["offline", "--zone", "0"]), "the disk has no zones");
    fails(&ctl(&plain, &["fail", "read", "--zone", "0"]), "the disk has no zones: use sectors");
    assert_eq!(ctl(&plain, &["stats"]).out(), "nothing was asked of the disk yet\n");
    assert_eq!(ctl(&plain, &["dump"]).json()["zones"], json!([]));
}

#[test]
fn a_disk_that_is_read_only_keeps_its_zones_and_can_still_fail() {
    let place = Place::new();
    place.create("d.zvb", &SHAPE).ok();
    let _server = place.serve(&["d.zvb", "--read-only", "--control", "c"]);
    fails(&ctl(&place, &["offline", "--zone", "1"]), "the disk is read-only");
    ctl(&place, &["fail", "read"]).ok();
    fails(&place.drive("read", &["--zone", "1", "--length", "8"]), "IOERR");
}

#[test]
fn a_disk_grows_while_it_is_served_and_is_still_larger_after_a_kill() {
    let (place, mut server) = served(&[]);
    let data = bytes(3, 64 << 10);
    place.input("append", &["--zone", "2"], &data).ok();
    let run = ctl(&place, &["resize", "--size", "50M"]);
    run.ok();
    assert_eq!(run.out(), "the disk is 50 MiB large now: 13 zones\n");
    place.input("append", &["--zone", "12"], &data).ok();
    let grown = ctl(&place, &["resize", "--size", "64M", "--json"]).json();
    let told = (&grown["capacity_before"], &grown["capacity"], &grown["zone_count"]);
    assert_eq!(told, (&json!(100 << 10), &json!(128 << 10), &json!(16)));
    assert_eq!(ctl(&place, &["dump"]).json()["zones"].as_array().unwrap().len(), 16);
    ctl(&place, &["offline", "--zone", "15"]).ok();
    fails(&ctl(&place, &["resize", "--size", "32M"]), "it can only grow");
    fails(&ctl(&place, &["resize", "--size", "65537K"]), "block size");
    assert_eq!(ctl(&place, &["resize", "--size", "1000"]).code(), 2);
    server.kill();
    place.run(&["check", "d.zvb", "--deep"]).ok();
    let _server = place.serve(&["d.zvb"]);
    assert_eq!(condition(&place, 15), "offline");
    for zone in ["2", "12"] {
        assert!(place.drive("read", &["--zone", zone]).stdout == data);
    }
}

#[test]
fn zones_and_requests_that_fail_under_load_leave_the_image_sound() {
    let (place, mut server) = served(&["--queues", "2"]);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seed in 0..2 {
            let (place, ended) = (&place, &ended);
            scope.spawn(move || {
                let data = bytes(seed, 256 << 10);
                while !ended.load(Ordering::Relaxed) {
                    // Whatever comes of it.
                    place.input("append", &["--zone", "1"], &data);
                    place.drive("reset", &["--zone", "2"]);
                }
            });
        }
        for byte in bytes(7, 60) {
            let zone = (1 + byte % 7).to_string();
            let run = match byte >> 5 {
                0 => ctl(&place, &["read-only", "--zone", &zone]),
                1 => ctl(&place, &["offline", "--zone", &zone]),
                2..=4 => ctl(&place, &["restore", "--zone", &zone]),
                5 => ctl(&place, &["fail", "append,reset", "--next", "3"]),
                6 => ctl(&place, &["tear", "append", "--zone", &zone, "--delay", "3"]),
                _ => ctl(&place, &["clear"]),
            };
            // Only what is in the way of a zone that is to be sound again is ever refused.
            let busy = run.err().contains("in flight") || run.err().contains("limit of active");
            assert!(run.code() == 0 || busy, "{}", run.err());
        }
        ended.store(true, Ordering::Relaxed);
    });
    let told = ctl(&place, &["dump"]).json()["zones"].clone();
    server.kill();
    place.run(&["check", "d.zvb", "--deep"]).ok();
    let found = place.run(&["dump", "d.zvb"]).json()["zones"].clone();
    assert_eq!(found, told);
}

/// Silly clients, while the server goes on; its walls stand, since they are there by default.
#[test]
fn nobody_at_the_socket_can_harm_the_server() {
    let (place, _server) = served(&[]);
    let socket = place.path("c");
    assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let connect = || {
        let stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    };
    let ask = |line: &[u8]| {
        let mut stream = connect();
        stream.write_all(line).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        answer
    };
    for line in [
        &b"{\n"[..],
        b"hello\n",
        b"\0\xff\xfe\n",
        b"[[[[[[[[[[[[[[[[",
        b"{\"command\": \"set-zones\", \"zone\": 1e99, \"to\": \"offline\"}\n",
        b"{\"command\": \"set-fault\", \"kinds\": [], \"effect\": \"fail\"}\n",
    ] {
        let answer: Value = serde_json::from_str(&ask(line)).unwrap();
        assert_eq!(answer["ok"], false, "{answer}");
        assert!(!answer["error"].as_str().unwrap().is_empty());
    }
    let deep = [&vec![b'['; 60_000][..], b"\n"].concat();
    assert!(ask(&deep).contains("\"ok\":false"));
    // Connections that are left open, in the middle of a line.
    let mut left = Vec::new();
    for _ in 0..100 {
        let mut stream = connect();
        let _ = stream.write_all(b"{\"command\": ");
        left.push(stream);
    }
    // Without end: it is cut off.
    let mut endless = connect();
    let chunk = [b'a'; 1 << 16];
    let begun = Instant::now();
    while endless.write_all(&chunk).is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
    assert!(ask(b"{\"command\": \"stats\"}").contains("\"ok\":true"), "a last line needs no end");
    place.input("append", &["--zone", "1"], &bytes(1, 4096)).ok();
    drop(left);
    ctl(&place, &["quit"]).ok();
}

#[test]
fn whoever_ends_a_server_together_with_others_sees_its_end() {
    for _ in 0..5 {
        let (place, mut server) = served(&[]);
        // Connected, all of them, before the first word is said.
        let clients: Vec<_> =
            (0..8).map(|_| UnixStream::connect(place.path("c")).unwrap()).collect();
        std::thread::scope(|scope| {
            for mut stream in clients {
                scope.spawn(move || {
                    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                    let _ = stream.write_all(b"{\"command\": \"quit\"}\n");
                    let mut said = String::new();
                    let ended = stream.read_to_string(&mut said);
                    // What was not read of us any more ends with a reset.
                    let reset = |e: &std::io::Error| e.kind() == ErrorKind::ConnectionReset;
                    assert!(ended.as_ref().err().is_none_or(reset), "{ended:?}");
                    assert!(said.is_empty() || said.starts_with("{\"ok\":true"), "{said}");
                });
            }
        });
        // When the connections end the image is in order, whatever the process still does.
        assert_eq!(place.run(&["info", "d.zvb", "--json"]).json()["state"], "clean");
        server.kill();
    }
    // So does the command, where it can still connect.
    for _ in 0..5 {
        let (place, _server) = served(&[]);
        std::thread::scope(|scope| {
            let runs: Vec<_> = (0..4).map(|_| scope.spawn(|| ctl(&place, &["quit"]))).collect();
            for run in runs.into_iter().map(|run| run.join().unwrap()) {
                match run.code() {
                    0 => assert_eq!(run.out(), "the server has ended\n"),
                    _ => assert!(run.err().contains("no server has it open"), "{}", run.err()),
                }
            }
        });
    }
}

#[test]
fn a_delayed_request_does_not_keep_the_server_from_ending() {
    let (place, mut server) = served(&[]);
    ctl(&place, &["delay", "append", "--ms", "60000"]).ok();
    std::thread::scope(|scope| {
        let append = scope.spawn(|| place.input("append", &["--zone", "1"], &bytes(1, 4096)));
        let held = |stats: &Value| stats["total"]["append"]["in_flight"] == 1;
        let begun = Instant::now();
        while !held(&ctl(&place, &["stats", "--json"]).json()) {
            assert!(begun.elapsed() < Duration::from_secs(20));
            sleep(Duration::from_millis(5));
        }
        ctl(&place, &["quit"]).ok();
        assert!(begun.elapsed() < Duration::from_secs(20));
        append.join().unwrap();
    });
    server.kill();
    place.run(&["check", "d.zvb", "--deep"]).ok();
}
