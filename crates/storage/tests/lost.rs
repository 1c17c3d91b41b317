//! What Linux tells of a sync that failed while its process was killed, on a disk that fails.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod support;

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use support::{Rng, Worker, create_options, pattern};
use zvb_storage::{CommitBy, EngineKind, Failure, Image, Op, OpenOptions, Recovery, Volume};
use zvb_wire::{Condition, Model, Sector};
use zvb_zones::{Snapshot, ZoneId};

/// Set where the test runs with mounts of its own; where they are.
const INSIDE: &str = "ZVB_TEST_FAILING_DISK";

/// A file system on a disk that lies in too little memory: blocks that were never written fail once that is
/// full.
const DISK: &str = "mkdir small m && mount -t tmpfs -o size=24m none small && truncate -s 256M small/disk \
    && mkfs.ext4 -q -O ^has_journal -E nodiscard,lazy_itable_init=0 small/disk \
    && mount -o loop small/disk m";

#[test]
fn a_sync_that_failed_unheard_is_found_out() {
    if let Some(folder) = std::env::var_os(INSIDE) {
        return inside(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let run = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "a_sync_that_failed_unheard_is_found_out", "--nocapture"])
        .env(INSIDE, folder.path())
        .output();
    let Ok(run) = run else {
        eprintln!("not tried: there is no unshare");
        return;
    };
    let said = String::from_utf8_lossy(&run.stderr);
    eprint!("{said}");
    assert!(run.status.success() || said.starts_with("unshare: "));
}

fn inside(folder: &Path) {
    let disk = Command::new("sh").args(["-c", DISK]).current_dir(folder).output().unwrap();
    if !disk.status.success() {
        let why = String::from_utf8_lossy(&disk.stderr);
        eprintln!(
            "not tried: it takes ext4, a loop device and the right to mount ({})",
            why.trim()
        );
        return;
    }
    let path = folder.join("m/disk.zvb");
    let mut create = create_options(Model::HostManaged);
    create.capacity = Sector(384 * 100);
    create.zones.as_mut().unwrap().capacity = create.capacity;
    Image::create(&path, &create).unwrap();
    let options = OpenOptions {
        engine: EngineKind::Sync,
        commit: CommitBy::Caller,
        ..OpenOptions::default()
    };
    let volume = Arc::new(Image::open(&path, &options).unwrap());
    let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
    let mut rng = Rng::new(1);
    let written = |sectors| Snapshot::new(Condition::ImplicitOpen, Sector(sectors));
    worker.write(2 * 384, &pattern(1, 8 * 512), &mut rng).unwrap();
    volume.record(ZoneId(2), written(8));
    worker.one(0, Op::Flush).unwrap();

    let mut fill = File::create(folder.join("small/fill")).unwrap();
    while fill.write_all(&[7; 1 << 16]).is_ok() {}
    let image = File::options().read(true).write(true).open(&path).unwrap();
    let superblocks = [0, 4096].map(|at| {
        let mut bytes = [0; 512];
        image.read_exact_at(&mut bytes, at).unwrap();
        (at, bytes)
    });
    worker.write(2 * 384 + 8, &pattern(2, 64 * 512), &mut rng).unwrap();
    volume.record(ZoneId(2), written(72));
    // More than finds room in memory that the disk has already.
    for zone in 3..100 {
        worker.write(zone * 384, &pattern(zone, 328 * 512), &mut rng).unwrap();
        volume.record(ZoneId(zone as u32), written(327));
    }
    let failed = worker.one(0, Op::Flush);
    assert!(matches!(failed, Err(Failure::Medium(_))), "{failed:?}");
    drop((worker, volume));
    // Killed before it could write that the sync had failed.
    for (at, bytes) in superblocks {
        image.write_all_at(&bytes, at).unwrap();
    }
    drop(image);
    let lost = File::open(&path).unwrap();
    lost.sync_data().unwrap_or_else(|error| panic!("a sync still tells of it: {error}"));

    let volume = Arc::new(Image::open(&path, &options).unwrap());
    assert_eq!(volume.recovery(), Recovery::SyncFailed);
    assert_eq!(volume.recovered()[2], written(8));
    let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
    assert!(worker.read(2 * 384, 8, &mut rng).unwrap() == pattern(1, 8 * 512));
    drop(worker);
    volume.close().unwrap();
}
