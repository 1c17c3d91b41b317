//! Images of which a part goes while they are in use: they promise nothing any more, and say so.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod support;

use std::fs::OpenOptions as FileOptions;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use support::faulty::State;
use support::{Rng, Worker, create_options, pattern};
use zvb_storage::{
    CheckOptions, CommitBy, EngineKind, Failure, GrowError, Image, Op, OpenOptions, Recovery,
    Refusal, Volume, VolumeError, check, inspect,
};
use zvb_wire::{Condition, Model, Sector};
use zvb_zones::{Snapshot, ZoneId};

const ZONE: u64 = 384;
const BOOT: [u8; 16] = [1; 16];

fn options() -> OpenOptions {
    OpenOptions {
        engine: EngineKind::Sync,
        commit: CommitBy::Caller,
        boot: Some(BOOT),
        ..OpenOptions::default()
    }
}

fn closed(sectors: u64) -> Snapshot {
    Snapshot::new(Condition::Closed, Sector(sectors))
}

fn bytes() -> Vec<u8> {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("disk.zvb");
    Image::create(&path, &create_options(Model::HostManaged)).unwrap();
    std::fs::read(&path).unwrap()
}

/// An open image with a sector of data in zones 5 and 6, durably, and a worker on it.
fn used(state: &Arc<State>) -> (Arc<Image>, Worker) {
    let volume = Arc::new(state.open(&options()).unwrap());
    let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
    for zone in [5, 6] {
        worker.write(zone * ZONE, &pattern(zone, 512), &mut Rng::new(zone)).unwrap();
        volume.record(ZoneId(zone as u32), closed(1));
    }
    volume.commit().unwrap();
    (volume, worker)
}

/// Nothing is written any more, by whatever way.
fn promises_nothing(volume: &Arc<Image>, worker: &mut Worker) {
    assert!(volume.has_failed() && volume.has_lost_part());
    let failure = worker.write(7 * ZONE, &pattern(7, 512), &mut Rng::new(7)).unwrap_err();
    assert!(matches!(failure, Failure::Poisoned), "{failure:?}");
    assert!(matches!(worker.one(0, Op::Flush), Err(Failure::Poisoned)));
    assert!(matches!(volume.grow(Sector(48 * ZONE)), Err(GrowError::Failed)));
    assert!(matches!(volume.close(), Err(VolumeError::Commit(Failure::Poisoned))));
}

#[test]
fn a_flush_finds_that_the_file_was_cut_short() {
    let state = State::with(bytes());
    let (volume, mut worker) = used(&state);
    state.cut(1 << 20);
    let flushed = worker.one(0, Op::Flush);
    assert!(matches!(flushed, Err(Failure::Short { missing: 1.. })), "{flushed:?}");
    promises_nothing(&volume, &mut worker);
    assert_eq!(
        state.bytes().len(),
        1 << 20,
        "made longer: what was lost would come back as zeroes"
    );
    drop((volume, worker));
    assert!(matches!(state.open(&options()), Err(Refusal::Truncated { .. })));
}

#[test]
fn a_read_finds_that_the_file_was_cut_short() {
    let state = State::with(bytes());
    let (volume, mut worker) = used(&state);
    state.cut(1 << 20);
    let read = worker.read(5 * ZONE, 1, &mut Rng::new(1));
    assert!(matches!(read, Err(Failure::Short { missing: 512 })), "{:?}", read.map(|_| ()));
    promises_nothing(&volume, &mut worker);
}

#[test]
fn a_state_that_is_kept_nowhere_is_the_last_that_is_recorded() {
    let state = State::with(bytes());
    let (volume, mut worker) = used(&state);
    state.lose_table();
    assert!(!volume.has_failed(), "nobody has looked");
    volume.record(ZoneId(7), Snapshot::new(Condition::Closed, Sector::ZERO));
    promises_nothing(&volume, &mut worker);
    state.table_lost.store(false, Ordering::Relaxed);
    drop((volume, worker));
    assert_eq!(state.open(&options()).unwrap().recovery(), Recovery::SyncFailed);
}

#[test]
fn no_flush_succeeds_without_its_table() {
    let state = State::with(bytes());
    let (volume, mut worker) = used(&state);
    volume.record(ZoneId(5), Snapshot::EMPTY);
    state.lose_table();
    let flushed = worker.one(0, Op::Flush);
    assert!(matches!(flushed, Err(Failure::TableLost)), "{flushed:?}");
    promises_nothing(&volume, &mut worker);
}

/// A slot that was let go is not another's before a table says so.
#[test]
fn no_slot_is_used_again_without_its_table() {
    let state = State::with(bytes());
    let (volume, mut worker) = used(&state);
    let mut write = |zone: u64| worker.write(zone * ZONE, &pattern(zone, 512), &mut Rng::new(1));
    // All zones have slots, and there are eight to spare.
    for zone in 2..39 {
        write(zone).unwrap();
        volume.record(ZoneId(zone as u32), closed(1));
    }
    (2..12).for_each(|zone| volume.record(ZoneId(zone), Snapshot::EMPTY));
    state.lose_table();
    let (done, failure) = (2..12).find_map(|zone| Some((zone, write(zone).err()?))).unwrap();
    assert!(done >= 10 && matches!(failure, Failure::Poisoned), "zone {done}: {failure:?}");
    promises_nothing(&volume, &mut worker);
}

#[test]
fn a_disk_does_not_grow_by_a_table_that_is_gone() {
    let state = State::with(bytes());
    let (volume, mut worker) = used(&state);
    state.lose_table();
    assert!(matches!(volume.grow(Sector(44 * ZONE)), Err(GrowError::Failed)));
    promises_nothing(&volume, &mut worker);
}

#[test]
fn an_image_whose_table_can_not_be_read_is_not_one_of_empty_zones() {
    let state = State::with(bytes());
    drop(used(&state));
    let before = state.bytes();
    state.table_lost.store(true, Ordering::Relaxed);
    let refused = state.open(&options()).unwrap_err();
    assert!(matches!(refused, Refusal::Io { .. }), "{refused}");
    assert!(state.bytes() == before, "what is refused is left as it is");
}

/// The same of a file: a touch of what is gone does not end the process.
#[test]
fn a_file_cut_off_in_its_table_ends_no_process() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for cut_table_of_growth in [false, true] {
        let path = directory.path().join(format!("{cut_table_of_growth}.zvb"));
        Image::create(&path, &create_options(Model::HostManaged)).unwrap();
        let volume = Arc::new(Image::open(&path, &OpenOptions::default()).unwrap());
        if cut_table_of_growth {
            volume.grow(Sector(44 * ZONE)).unwrap();
        }
        let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
        worker.write(5 * ZONE, &pattern(5, 512), &mut Rng::new(5)).unwrap();
        let file = FileOptions::new().write(true).open(&path).unwrap();
        file.set_len(8192).unwrap();
        volume.record(ZoneId(5), closed(1));
        promises_nothing(&volume, &mut worker);
        assert_eq!(file.metadata().unwrap().len(), 8192);
        drop((volume, worker));
        let refused = inspect(&path).unwrap_err().reason;
        assert!(matches!(refused, Refusal::Truncated { len: 8192, .. }), "{refused}");
        let refused = check(&path, &CheckOptions::default(), &mut |_| {}).unwrap_err().reason;
        assert!(matches!(refused, Refusal::CutOff { .. }), "{refused}");
    }
}
