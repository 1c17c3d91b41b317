//! The guide's commands, run as they are written.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "each test file uses a part")]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::{Place, zvb};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn page(name: &str) -> String {
    let path = root().join("docs/guide").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The blocks of `text` that are marked `mark`.
fn blocks(text: &str, mark: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.strip_prefix("```") == Some(mark) {
            let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            found.push(body.join("\n") + "\n");
        }
    }
    found
}

/// Runs all blocks of a page that can be run here, one after the other in one shell.
fn run(name: &str) {
    let script = blocks(&page(name), "sh here").concat();
    assert!(script.contains("zvb "), "{name} has nothing to run");
    let place = Place::new();
    let bin = Path::new(zvb()).parent().unwrap().display();
    let path = std::env::var("PATH").unwrap_or_default();
    let script = format!("set -eu\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}");
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(place.dir())
        .env("PATH", format!("{bin}:{path}"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}:\n{script}\n-- said:\n{said}");
}

#[test]
fn attaching() {
    run("attach.md");
}

#[test]
fn testing_without_root() {
    run("ci.md");
}

#[test]
fn faults() {
    run("faults.md");
}

#[test]
fn the_lines_for_monitors_are_those_that_the_server_prints() {
    // (That QEMU's works is what guests/linux/run shows.)
    let place = Place::new();
    let server = place.serve(&["mem:64M"]);
    let socket = place.path("s");
    let socket = fs::canonicalize(&socket).unwrap_or(socket);
    let ready = server.ready.replace(socket.to_str().unwrap(), "/tmp/zvb.sock");
    let guide = page("attach.md");
    let lines: Vec<&str> = guide
        .lines()
        .filter(|line| {
            ["qemu-system-x86_64 ", "crosvm run ", "krun_add"].iter().any(|s| line.starts_with(s))
        })
        .collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    for line in lines {
        assert!(ready.contains(line), "{line}\nis not in\n{ready}");
    }
}

#[test]
fn the_rust_example_is_the_one_that_is_compiled() {
    let example = fs::read_to_string(root().join("crates/host/examples/zoned_test.rs")).unwrap();
    assert_eq!(blocks(&page("ci.md"), "rust"), [example]);
}

#[test]
fn every_page_is_in_the_table_of_contents() {
    let contents = page("README.md");
    for entry in fs::read_dir(root().join("docs/guide")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name == "README.md" || contents.contains(&format!("({name})")), "{name}");
    }
}
