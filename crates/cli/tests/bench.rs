//! `zvb bench` on disks with few active zones.

#![allow(clippy::unwrap_used, reason = "a test that can not go on fails")]

#[allow(dead_code, reason = "each test file uses a part")]
mod support;

use support::{Place, Server, bytes};

/// 15 zones of 1 MiB behind a conventional one. A write takes longer than anything else, so the last writes to one
/// zone are in flight when the first ones to another are sent.
fn serve(place: &Place, active: &str) -> Server {
    let server = place.serve(&[
        "mem:16M",
        "--zone-size",
        "1M",
        "--conventional",
        "1",
        "--max-open",
        active,
        "--max-active",
        active,
        "--queues",
        "2",
        "--control",
        "ctl",
    ]);
    place.run(&["ctl", "delay", "--ms", "3", "--always", "--control", "ctl", "write,append"]).ok();
    server
}

#[track_caller]
fn bench(place: &Place, more: &str) {
    let line = "--destroy --json --queues 2 --depth 8 --seconds 60 --requests 200 ";
    let line: Vec<_> = line.split(' ').chain(more.split(' ')).filter(|w| !w.is_empty()).collect();
    let answer = place.drive("bench", &line).json();
    assert_eq!((&answer["errors"], &answer["requests"]), (&0.into(), &400.into()), "{more}");
}

#[test]
fn zones_left_active_take_no_room_from_those_that_are_written() {
    let place = Place::new();
    let _server = serve(&place, "4");
    for workload in ["write", "append"] {
        place.drive("reset", &["--all"]).ok();
        for zone in ["8", "9", "10", "11"] {
            place.input("write", &["--zone", zone], &bytes(1, 4096)).ok();
        }
        bench(&place, &format!("--rw {workload} --bs 16K"));
    }
}

#[test]
fn a_zone_is_full_before_another_is_begun_when_there_is_no_room_for_both() {
    let place = Place::new();
    let _server = serve(&place, "2");
    for workload in ["write", "append"] {
        bench(&place, &format!("--rw {workload} --bs 16K"));
        // Requests that do not fill a zone.
        bench(&place, &format!("--rw {workload} --bs 20K"));
    }
    bench(&place, "--rw append --bs 16K --same-zones");
    bench(&place, "--rw append --bs 12K --same-zones");
}

#[test]
fn without_room_for_a_zone_of_each_queue_nothing_is_measured() {
    let place = Place::new();
    let _server = serve(&place, "3");
    let bench = |more: &[&str]| {
        let line = ["--rw", "write", "--destroy", "--seconds", "0.1", "--span", "8M"];
        place.drive("bench", &[&line[..], more].concat())
    };
    place.drive("open", &["--zone", "12"]).ok();
    bench(&["--queues", "2"]).ok();
    place.drive("reset", &["--all"]).ok();
    place.drive("open", &["--zone", "12"]).ok();
    place.drive("open", &["--zone", "13"]).ok();
    bench(&["--queues", "1"]).ok();
    for more in [["--queues", "2"], ["--zones-at-once", "2"]] {
        let refused = bench(&more);
        assert_eq!(refused.code(), 1, "{more:?}");
        assert!(
            refused.err().contains("3 zones can be active, and 2 others are"),
            "{}",
            refused.err()
        );
    }
    // Zones of its own that are active it takes back.
    place.drive("reset", &["--zone", "1", "--count", "7"]).ok();
    place.input("write", &["--zone", "4"], &bytes(1, 4096)).ok();
    bench(&[]).ok();
}
