//! docs/conformance.md: every number has a row, and the tests that a row names exist.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Statements in the list, and the transports' own behind it.
const NUMBERS: u16 = 169;

struct Row {
    decision: String,
    tests: Vec<(String, String)>,
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn rows() -> BTreeMap<u16, Row> {
    let table = std::fs::read_to_string(root().join("docs/conformance.md")).unwrap();
    let mut rows = BTreeMap::new();
    for line in table.lines().filter(|line| line.starts_with("| ")) {
        let text = line.replace("\\|", "/");
        let cells: Vec<&str> = text.trim_matches('|').split('|').map(str::trim).collect();
        let Ok(number) = cells[0].parse() else { continue };
        assert_eq!(cells.len(), 4, "row {number} has not four columns");
        let named = cells[3].split('`').filter(|name| name.contains("::"));
        let tests = named.map(|name| name.rsplit_once("::").unwrap());
        let tests = tests.map(|(file, name)| (file.to_owned(), name.to_owned())).collect();
        let row = Row { decision: cells[2].to_owned(), tests };
        assert!(rows.insert(number, row).is_none(), "{number} has two rows");
    }
    rows
}

#[test]
fn every_number_has_a_row() {
    let numbers: BTreeSet<u16> = rows().into_keys().collect();
    assert!(numbers.iter().copied().eq(1..=NUMBERS), "{numbers:?}");
}

#[test]
fn every_row_has_tests_that_exist() {
    for (number, row) in rows() {
        assert!(
            !row.tests.is_empty() || row.decision.starts_with("n/a: "),
            "{number} has neither a test nor a reason"
        );
        for (file, name) in row.tests {
            let source = std::fs::read_to_string(root().join(&file));
            let source = source.unwrap_or_else(|e| panic!("{number}: {file}: {e}"));
            assert!(source.contains(&format!("fn {name}(")), "{number}: {file} has no test {name}");
        }
    }
}

/// What `zvb conform` can say something about is in the table as well.
#[test]
fn the_command_and_the_table_know_the_same_numbers() {
    let rows = rows();
    assert!(zvb_conform::numbers().all(|number| rows.contains_key(&number)));
}
