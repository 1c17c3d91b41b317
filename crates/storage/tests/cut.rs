//! Files that are cut short: what checking says that repairing does, and what it does.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod support;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use support::faulty::State;
use support::{Rng, Worker, create_options, pattern};
use zvb_storage::{
    CheckOptions, Finding, Image, OpenOptions, Problem, RepairError, Volume, check, repair,
    repair_on, resize,
};
use zvb_wire::{Condition, Model, Sector};
use zvb_zones::{Snapshot, ZoneId};

const ZONE: u64 = 384;
const BOOT: [u8; 16] = [1; 16];
/// Of the table that the first resize writes: after that of 40 zones.
const TABLE: u64 = 12288;

/// An image with data in zone 5, of so many zones, that is cut off behind its table.
fn cut(zones: u64) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("disk.zvb");
    Image::create(&path, &create_options(Model::HostManaged)).unwrap();
    let volume = Arc::new(Image::open(&path, &OpenOptions::default()).unwrap());
    let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
    worker.write(5 * ZONE, &pattern(1, 512), &mut Rng::new(1)).unwrap();
    volume.record(ZoneId(5), Snapshot::new(Condition::Closed, Sector(1)));
    volume.close().unwrap();
    drop((worker, volume));
    resize(&path, Sector(zones * ZONE)).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(TABLE + zones * 64).unwrap();
    (directory, path)
}

fn found(path: &Path) -> Vec<Finding> {
    check(path, &CheckOptions::default(), &mut |_| {}).unwrap().findings
}

/// The zones that have lost their data: two conventional ones, and that with data.
fn lost(findings: &[Finding]) -> Vec<u32> {
    let cut = findings.iter().filter(|finding| finding.problem == Problem::DataCutOff);
    cut.map(|finding| finding.zone.unwrap().0).collect()
}

#[test]
fn what_is_lost_is_noted_before_all_data() {
    let (_directory, path) = cut(44);
    let findings = found(&path);
    assert_eq!(lost(&findings), [0, 1, 5]);
    for finding in &findings {
        assert!(!finding.advice().contains("refuses"), "{finding}: {}", finding.advice());
    }
    let bytes = fs::read(&path).unwrap();
    let report = repair(&path).unwrap();
    assert_eq!(report.repairs.len(), 4, "{report:?}");
    assert_eq!(found(&path), []);
    let states = zvb_storage::inspect(&path).unwrap().zones;
    for (zone, state) in states.iter().enumerate() {
        assert_eq!(state.condition() == Condition::Offline, [0, 1, 5].contains(&zone), "{zone}");
    }
    // However it is interrupted: what was lost never comes back as zeroes.
    for end in 1.. {
        let state = State::with(bytes.clone());
        state.end_at.store(end, Ordering::Relaxed);
        let whole = repair_on(Box::new(state.medium()), Some(BOOT)).is_ok();
        let left = State::with(state.bytes());
        repair_on(Box::new(left.medium()), Some(BOOT)).unwrap();
        let options = OpenOptions { boot: Some(BOOT), ..OpenOptions::default() };
        let image = left.open(&options).unwrap();
        for zone in [0, 1, 5] {
            let condition = image.recovered()[zone].condition();
            assert_eq!(condition, Condition::Offline, "zone {zone}, ended with change {end}");
        }
        if whole {
            assert!(end > 10, "{end} changes are not all of that");
            break;
        }
    }
}

#[test]
fn what_can_not_be_noted_is_refused_and_check_says_so() {
    // A second table of so many zones has no place before the first data, at 1 MiB.
    let (_directory, path) = cut(9000);
    let before = fs::read(&path).unwrap();
    let findings = found(&path);
    assert_eq!(lost(&findings), [0, 1, 5]);
    for finding in &findings {
        assert!(finding.advice().contains("refuses"), "{finding}: {}", finding.advice());
    }
    let refused = repair(&path).unwrap_err();
    assert!(matches!(refused.reason, RepairError::NoRoom), "{refused}");
    assert!(fs::read(&path).unwrap() == before, "what is refused is left as it is");
}
