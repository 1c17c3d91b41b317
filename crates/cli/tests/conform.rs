//! `zvb conform` as users type it: on a disk that does all right, one that does not, and one that dies.

#![allow(clippy::unwrap_used, reason = "a test that can not go on fails")]

#[allow(dead_code, reason = "each test file uses a part")]
mod support;

use std::os::unix::net::UnixListener;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Place, Run, Server, bytes};

fn served() -> (Place, Server) {
    let place = Place::new();
    let shape = ["mem:32M", "--zone-size", "1M", "--conventional", "2", "--max-open", "3"];
    let server = place.serve(&[&shape[..], &["--control", "c"]].concat());
    (place, server)
}

fn ctl(place: &Place, line: &[&str]) -> Run {
    place.run(&[&["ctl", "--control", "c"], line].concat())
}

/// What was printed, of a run that may have failed.
#[track_caller]
fn told(run: &Run) -> Value {
    serde_json::from_slice(&run.stdout).unwrap_or_else(|e| panic!("{e}: {}", run.err()))
}

/// The results, each with its number and what came of it; the counts agree with them.
#[track_caller]
fn results(told: &Value) -> Vec<(u64, String)> {
    let results = told["results"].as_array().unwrap();
    let result = |r: &Value| {
        let result = r["result"].as_str().unwrap().to_owned();
        let more = ["expected", "got", "why"].map(|key| r.get(key).is_some());
        let wanted = [result == "fail", result == "fail", result == "n/a"];
        assert_eq!(more, wanted, "{r}");
        (r["number"].as_u64().unwrap(), result)
    };
    let results: Vec<_> = results.iter().map(result).collect();
    for (count, name) in [("passed", "pass"), ("failed", "fail"), ("not_applicable", "n/a")] {
        let there = results.iter().filter(|(_, result)| result == name).count();
        assert_eq!(told[count], there, "{count}");
    }
    results
}

#[test]
fn nothing_is_destroyed_unless_that_was_agreed_to() {
    let (place, _server) = served();
    let data = bytes(1, 64 << 10);
    place.input("append", &["--zone", "2"], &data).ok();
    let before = place.report();
    for more in [&[][..], &["--json"]] {
        let run = place.drive("conform", more);
        assert_eq!((run.code(), run.out().as_str()), (2, ""), "{}", run.err());
        assert!(run.err().contains("--destroy"), "{}", run.err());
    }
    assert_eq!(place.report(), before);
    assert!(place.drive("read", &["--zone", "2"]).stdout == data, "its data is there");
}

#[test]
fn a_disk_that_does_all_right_has_a_result_for_each_number() {
    let (place, _server) = served();
    let told = place.drive("conform", &["--destroy", "--json"]).json();
    let results = results(&told);
    assert!(results.iter().map(|(number, _)| *number).eq(zvb_conform::numbers().map(u64::from)));
    assert_eq!((&told["failed"], told.get("aborted")), (&0.into(), None), "{told:#}");
    assert!(told["passed"].as_u64().unwrap() > 60, "{told:#}");
    // And in lines.
    let run = place.drive("conform", &["--destroy", "--only", "4,80"]);
    run.ok();
    let out = run.out();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 3, "{out}");
    assert!(lines[0].starts_with("   4  pass") && lines[1].starts_with("  80  pass"), "{out}");
    assert_eq!(lines[2], "2 passed, 0 failed, 0 n/a");
}

#[test]
fn a_statement_that_does_not_hold_is_told_and_the_rest_is_tried() {
    let (place, _server) = served();
    ctl(&place, &["fail", "write"]).ok();
    let run = place.drive("conform", &["--destroy", "--json", "--only", "4,54,80,144"]);
    assert_eq!(run.code(), 1, "{}", run.err());
    let told = told(&run);
    let results = results(&told);
    let results: Vec<_> = results.iter().map(|(n, result)| (*n, result.as_str())).collect();
    assert_eq!(results, [(4, "pass"), (54, "pass"), (80, "fail"), (144, "pass")]);
    assert_eq!(told["results"][2]["got"], "IOERR", "{told:#}");
    assert_eq!(told.get("aborted"), None);
    assert!(run.err().contains("1 statements do not hold"), "{}", run.err());
}

/// Runs `line` until a write of it is with the server, which then dies.
fn dies_under(line: &[&str]) -> Run {
    let (place, mut server) = served();
    ctl(&place, &["delay", "write", "--ms", "60000"]).ok();
    thread::scope(|scope| {
        let run = scope.spawn(|| place.drive("conform", line));
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(60) && !run.is_finished() {
            let stats = ctl(&place, &["stats", "--json"]).json();
            if stats["total"]["write"]["in_flight"] == 1 {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        server.kill();
        run.join().unwrap()
    })
}

#[test]
fn what_was_found_before_the_device_died_is_told() {
    let line = ["--destroy", "--timeout", "60", "--only", "4,80,144"];
    let run = dies_under(&[&line[..], &["--json"]].concat());
    assert_eq!(run.code(), 1, "{}", run.err());
    let told = told(&run);
    let results = results(&told);
    let results: Vec<_> = results.iter().map(|(n, result)| (*n, result.as_str())).collect();
    assert_eq!(results, [(4, "pass"), (80, "fail")]);
    let aborted = told["aborted"].as_str().unwrap();
    assert!(aborted.contains("statement 80"), "{aborted}");
    assert!(run.err().contains("cannot go on"), "{}", run.err());

    let run = dies_under(&line);
    assert_eq!(run.code(), 1, "{}", run.err());
    let out = run.out();
    assert!(out.contains("  80  FAIL") && out.ends_with("1 passed, 1 failed, 0 n/a\n"), "{out}");
    assert!(run.err().contains("cannot go on"), "{}", run.err());
}

#[test]
fn a_server_that_never_answers_is_not_waited_for_longer_than_asked() {
    let place = Place::new();
    let listener = UnixListener::bind(place.path("s")).unwrap();
    let begun = Instant::now();
    let run = place.drive("conform", &["--destroy", "--json", "--timeout", "1"]);
    assert_eq!((run.code(), run.out().as_str()), (1, ""), "{}", run.err());
    assert!(run.err().contains("1000 ms"), "{}", run.err());
    // One that does not even accept: its backlog is full.
    rustix::net::listen(&listener, 0).unwrap();
    let run = place.drive("conform", &["--destroy", "--timeout", "1"]);
    assert_eq!(run.code(), 1, "{}", run.err());
    assert!(run.err().contains("accepted nobody for 1000 ms"), "{}", run.err());
    // The timeout of other commands is 30 seconds.
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
}
