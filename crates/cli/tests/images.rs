//! Living with images, as users type it: check, resize, clone, dump, load.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

#[allow(dead_code, reason = "each test file uses a part")]
mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::{Place, bytes, zvb};

const SHAPE: [&str; 10] = [
    "--size",
    "64M",
    "--zone-size",
    "4M",
    "--zone-capacity",
    "3M",
    "--conventional",
    "1",
    "--block-size",
    "4096",
];

/// An image with data in zones 2 and 3.
fn used() -> Place {
    let place = Place::new();
    place.create("d.zvb", &SHAPE).ok();
    let server = place.serve(&["d.zvb"]);
    place.input("append", &["--zone", "2"], &bytes(1, 4 << 20)).ok();
    place.drive("flush", &[]).ok();
    drop(server);
    place
}

fn damage(place: &Place, at: u64, with: &[u8]) {
    let file = File::options().write(true).open(place.path("d.zvb")).unwrap();
    file.write_all_at(with, at).unwrap();
}

fn kinds(answer: &Value) -> Vec<&str> {
    answer["findings"].as_array().unwrap().iter().map(|f| f["kind"].as_str().unwrap()).collect()
}

#[test]
fn check_finds_repair_mends() {
    let place = used();
    place.run(&["check", "d.zvb", "--repair"]).ok();
    let run = place.run(&["check", "d.zvb", "--deep"]);
    run.ok();
    assert!(
        run.out().starts_with("d.zvb: sound; 16 zones checked, 4 MiB of data read"),
        "{}",
        run.out()
    );

    damage(&place, 4096 + 100, b"torn");
    damage(&place, 8192 + 64 * 3, &[0xff; 64]);
    let run = place.run(&["check", "d.zvb"]);
    assert_eq!(run.code(), 1);
    assert!(run.err().contains("1 errors, 1 warnings"), "{}", run.err());
    assert!(run.out().contains("error: zone 3: the record of the zone"), "{}", run.out());
    let run = place.run(&["check", "d.zvb", "--json"]);
    assert_eq!(run.code(), 1);
    let answer: Value = serde_json::from_str(&run.out()).unwrap();
    // Nobody knows whose the data of zone 3 is any more.
    assert_eq!(kinds(&answer), ["superblock", "record", "remains"]);
    assert_eq!((&answer["sound"], &answer["findings"][1]["zone"]), (&json!(false), &json!(3)));

    let answer = place.run(&["check", "d.zvb", "--repair", "--json"]).json();
    assert_eq!((&answer["sound"], kinds(&answer).len()), (&json!(true), 0));
    assert_eq!(answer["repairs"].as_array().unwrap().len(), 2, "{answer}");
    assert!(answer["repairs"][0].as_str().unwrap().starts_with("zone 3: it is offline now"));
    let answer = place.run(&["info", "d.zvb", "--json"]).json();
    assert_eq!(answer["zones"][3]["cond"], "offline");
    assert_eq!(answer["zones"][2]["cond"], "full");

    for name in [".", "none"] {
        assert_eq!(place.run(&["check", name]).code(), 1);
    }
    assert_eq!(place.run(&["check", "d.zvb", "--force", "--repair"]).code(), 2);
}

#[test]
fn an_image_that_is_served_is_left_alone() {
    let place = used();
    let server = place.serve(&["d.zvb"]);
    for line in [
        &["check", "d.zvb"][..],
        &["check", "d.zvb", "--repair"],
        &["resize", "d.zvb", "--size", "128M"],
        &["clone", "d.zvb", "e.zvb"],
    ] {
        let run = place.run(line);
        assert_eq!(run.code(), 1, "{line:?}");
        assert!(run.err().contains("another process has the image open"), "{}", run.err());
    }
    let run = place.run(&["resize", "d.zvb", "--size", "128M"]);
    assert!(run.err().contains("zvb ctl resize"), "{}", run.err());
    assert!(!place.path("e.zvb").exists());
    place.run(&["check", "d.zvb", "--force"]).ok();
    assert_eq!(place.run(&["dump", "d.zvb"]).json()["zones"][2]["cond"], "full");
    drop(server);
}

#[test]
fn resize_adds_zones_that_can_be_used() {
    let place = used();
    let answer = place.run(&["resize", "d.zvb", "--size", "1G", "--json"]).json();
    assert_eq!((&answer["zone_count_before"], &answer["zone_count"]), (&json!(16), &json!(256)));
    let run = place.run(&["resize", "d.zvb", "--size", "64M"]);
    assert_eq!(run.code(), 1);
    assert!(run.err().contains("it can only grow"), "{}", run.err());
    assert_eq!(place.run(&["resize", "d.zvb", "--size", "1000"]).code(), 2);
    let server = place.serve(&["d.zvb"]);
    let data = bytes(7, 1 << 20);
    place.input("append", &["--zone", "255"], &data).ok();
    let back = place.drive("read", &["--zone", "255"]);
    assert!(back.stdout == data);
    let back = place.drive("read", &["--zone", "2", "--count", "2"]);
    assert!(back.stdout == bytes(1, 4 << 20), "what was there before");
    drop(server);
    place.run(&["check", "d.zvb", "--deep", "--repair"]).ok();
}

#[test]
fn a_clone_is_another_disk_with_the_same_data() {
    let place = used();
    place.run(&["clone", "d.zvb", "e.zvb"]).ok();
    let [a, b] = ["d.zvb", "e.zvb"].map(|name| place.run(&["info", name, "--json"]).json());
    assert_ne!(a["uuid"], b["uuid"]);
    assert_ne!(a["id"], b["id"]);
    assert_eq!(a["zones"], b["zones"]);
    let again = place.run(&["clone", "d.zvb", "e.zvb"]);
    assert_eq!(again.code(), 1);
    assert!(again.err().contains("--force"), "{}", again.err());
    let itself = place.run(&["clone", "d.zvb", "./d.zvb", "--force"]);
    assert_eq!(itself.code(), 1);
    assert!(itself.err().contains("are the same file"), "{}", itself.err());
    place.run(&["clone", "d.zvb", "e.zvb", "--force", "--same-id"]).ok();
    let [a, b] = ["d.zvb", "e.zvb"].map(|name| fs::read(place.path(name)).unwrap());
    assert!(a == b);
    // With a feature of a later version that forbids any change.
    let superblock = |file: &File| {
        let mut block = [0; 512];
        file.read_exact_at(&mut block, 0).unwrap();
        block
    };
    let file = File::options().read(true).write(true).open(place.path("e.zvb")).unwrap();
    let mut block = superblock(&file);
    block[16] = 4;
    let sum = checksum(&block[..508]);
    block[508..].copy_from_slice(&sum.to_le_bytes());
    // One is enough: the other is torn.
    file.write_all_at(&block, 0).unwrap();
    file.write_all_at(&[0; 512], 4096).unwrap();
    let later = place.run(&["clone", "e.zvb", "f.zvb"]);
    assert_eq!(later.code(), 1);
    assert!(later.err().contains("copied as it is, with its name: --same-id"), "{}", later.err());
    place.run(&["clone", "e.zvb", "f.zvb", "--same-id"]).ok();
    let checked = place.run(&["check", "f.zvb"]);
    assert!(checked.out().contains("torn or missing (byte 4096 of the file); use the zvb that"));
}

/// CRC-32C, bit by bit.
fn checksum(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[test]
fn zones_are_dumped_and_loaded() {
    let place = used();
    let dump = place.run(&["dump", "d.zvb"]);
    fs::write(place.path("t.json"), &dump.stdout).unwrap();
    let table = dump.json();
    assert_eq!(table["zones"][2]["written"], 3 << 11);
    place.create("e.zvb", &SHAPE).ok();
    place.run(&["load", "e.zvb", "t.json"]).ok();
    assert_eq!(place.run(&["dump", "e.zvb"]).json()["zones"], table["zones"]);

    let some = json!({ "zones": [
        { "zone": 5, "cond": "closed", "written": 16 },
        { "zone": 6, "cond": "full" },
        { "zone": 7, "cond": "read-only", "written": 8 },
        { "zone": 8, "cond": "offline" },
    ]});
    fs::write(place.path("t.json"), some.to_string()).unwrap();
    let answer = place.run(&["load", "d.zvb", "t.json", "--json"]).json();
    assert_eq!(answer["zones_loaded"], 4);
    let server = place.serve(&["d.zvb"]);
    let report = place.report();
    let conditions: Vec<_> =
        (5..9).map(|zone: usize| report["zones"][zone]["cond"].as_str().unwrap()).collect();
    assert_eq!(conditions, ["closed", "full", "read-only", "offline"]);
    assert!(place.drive("read", &["--zone", "5"]).stdout == vec![0; 8192]);
    assert!(place.drive("read", &["--zone", "2"]).stdout == bytes(1, 4 << 20)[..3 << 20]);
    drop(server);

    for (text, reason) in [
        ("{", "no table of zones"),
        (r#"{"zones": [{"zone": 5, "cond": "shut"}]}"#, "is no condition"),
        (r#"{"zones": [{"zone": 16, "cond": "empty"}]}"#, "there is no zone 16"),
        (
            r#"{"zones": [{"zone": 5, "cond": "closed", "written": 9}]}"#,
            "9 sectors written, which is no multiple of the write granularity of 8",
        ),
    ] {
        fs::write(place.path("t.json"), text).unwrap();
        let run = place.run(&["load", "d.zvb", "t.json"]);
        assert_eq!(run.code(), 1, "{text}");
        assert!(run.err().contains(reason), "{}", run.err());
    }
}

/// In order or left by a server that was killed: what is refused leaves no byte changed.
#[test]
fn what_is_refused_leaves_the_image_as_it_was() {
    let place = used();
    place.run(&["check", "d.zvb", "--repair"]).ok();
    let many = json!({ "zones": [
        { "zone": 4, "cond": "closed", "written": 8 },
        { "zone": 5, "cond": "closed", "written": 8 },
        { "zone": 6, "cond": "closed", "written": 8 },
    ]});
    fs::write(place.path("t.json"), many.to_string()).unwrap();
    let limits = ["--max-open", "2", "--max-active", "2"];
    place.create("e.zvb", &[&SHAPE[..], &limits].concat()).ok();
    for killed in [false, true] {
        for name in ["d.zvb", "e.zvb"] {
            if killed {
                let mut server = place.serve(&[name]);
                place.input("append", &["--zone", "7"], &bytes(1, 8192)).ok();
                assert_eq!(server.end(rustix::process::Signal::KILL), None);
            }
            let before = fs::read(place.path(name)).unwrap();
            let refused = |line: &[&str], reason: &str| {
                let run = place.run(line);
                assert_eq!(run.code(), 1, "{line:?}");
                assert!(run.err().contains(reason), "{}", run.err());
                assert!(fs::read(place.path(name)).unwrap() == before, "{line:?}");
            };
            refused(&["resize", name, "--size", "32M"], "it can only grow");
            refused(&["resize", name, "--size", "67109376"], "multiple of the block size");
            refused(&["resize", name, "--size", "100P"], "zones");
            if name == "e.zvb" {
                refused(&["load", name, "t.json"], "active");
            }
        }
    }
    for (name, table) in [("d.zvb", "[]"), ("e.zvb", r#"[{"zone": 99, "cond": "empty"}]"#)] {
        let before = fs::read(place.path(name)).unwrap();
        fs::write(place.path("t.json"), format!(r#"{{"zones": {table}}}"#)).unwrap();
        let run = place.run(&["load", name, "t.json"]);
        assert_eq!(run.code(), i32::from(table != "[]"), "{}", run.err());
        assert_eq!(fs::read(place.path(name)).unwrap() == before, table != "[]");
    }
    // No file is as long as that; a plain disk has no zones that are too many.
    place.create("p.zvb", &["--size", "1M", "--model", "none"]).ok();
    let before = fs::read(place.path("p.zvb")).unwrap();
    for size in ["7E", "64P"] {
        let run = place.run(&["resize", "p.zvb", "--size", size]);
        assert_eq!(run.code(), 1, "{}", run.out());
        assert!(fs::read(place.path("p.zvb")).unwrap() == before);
    }
}

/// Killed at any moment, a command that replaces an image leaves the old one or the new one at its name.
#[test]
fn a_killed_create_or_clone_leaves_the_old_image_or_the_new() {
    let place = used();
    place.create("old.zvb", &["--size", "8M"]).ok();
    let old = fs::read(place.path("old.zvb")).unwrap();
    let mut kept = 0;
    for round in 0..40 {
        fs::write(place.path("e.zvb"), &old).unwrap();
        let line: &[&str] = match round % 2 {
            0 => &["clone", "d.zvb", "e.zvb", "--force"],
            _ => &["create", "e.zvb", "--size", "16M", "--force"],
        };
        let mut child = Command::new(zvb())
            .args(line)
            .current_dir(place.dir())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(400 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        if fs::read(place.path("e.zvb")).unwrap() == old {
            kept += 1;
        } else {
            place.run(&["check", "e.zvb", "--deep"]).ok();
            let size = place.run(&["info", "e.zvb", "--json"]).json()["capacity"].as_u64();
            assert_eq!(size, Some(if round % 2 == 0 { 64 << 11 } else { 16 << 11 }));
        }
    }
    assert!(kept > 0, "none was killed in time");
}

#[test]
fn a_server_whose_image_is_cut_short_says_so_and_ends_in_order() {
    // Within its zone table, which is mapped; and within its data.
    for cut in [8192, 2 << 20] {
        let place = used();
        let mut server = place.serve(&["d.zvb"]);
        File::options().write(true).open(place.path("d.zvb")).unwrap().set_len(cut).unwrap();
        let data = bytes(1, 4096);
        // Whoever writes or flushes next finds it out.
        let written = place.input("append", &["--zone", "5"], &data).code();
        let flushed = place.drive("flush", &[]);
        assert_eq!(flushed.code(), 1, "cut at {cut}");
        assert_eq!(place.input("append", &["--zone", "6"], &data).code(), 1, "cut at {cut}");
        assert_eq!(place.report()["zones"][2]["cond"], "full");
        assert_eq!(server.end(Signal::TERM), Some(1), "cut at {cut}");
        let said = server.said();
        assert!(said.contains("part of the image is gone"), "cut at {cut}: {said}");
        assert!(said.contains("could not be left in order"), "cut at {cut}: {said}");
        let checked = place.run(&["check", "d.zvb"]);
        assert_eq!(checked.code(), 1, "cut at {cut}, the first write {written}");
        let whole = if cut == 8192 { "nothing here can mend it" } else { "the file is cut off" };
        assert!(checked.out().contains(whole) || checked.err().contains(whole), "cut at {cut}");
    }
}
