//! Lines that only a moment needs, each with the moment: without the line the test fails.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use support::faulty::{EIO, State};
use support::{Rng, Worker, create_options, pattern};
use zvb_storage::{
    CommitBy, EngineKind, Image, OpenOptions, Recovery, Repair, Volume, ZoneTable, repair_on,
};
use zvb_wire::{Condition, Model, Sector};
use zvb_zones::{Snapshot, ZoneId};

const ZONE: u64 = 384;
const BOOT: [u8; 16] = [1; 16];
const NEXT_BOOT: [u8; 16] = [2; 16];
const TABLE: usize = 8192;
/// States in a superblock.
const DIRTY: u8 = 1;
const SYNC_FAILED: u8 = 2;

fn options(boot: [u8; 16]) -> OpenOptions {
    OpenOptions {
        engine: EngineKind::Sync,
        commit: CommitBy::Caller,
        boot: Some(boot),
        ..OpenOptions::default()
    }
}

/// A new image.
fn blank(model: Model) -> Vec<u8> {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("disk.zvb");
    Image::create(&path, &create_options(model)).unwrap();
    std::fs::read(&path).unwrap()
}

fn closed(sectors: u64) -> Snapshot {
    Snapshot::new(Condition::Closed, Sector(sectors))
}

/// Writes `sectors` sectors to the start of `zone`, and says so.
fn write(volume: &Arc<Image>, zone: u64, life: u64, sectors: u64) {
    let mut worker = Worker::new(Arc::clone(volume) as _, 4);
    let data = pattern(life, sectors as usize * 512);
    worker.write(zone * ZONE, &data, &mut Rng::new(1)).unwrap();
    volume.record(ZoneId(zone as u32), closed(sectors));
}

fn read(volume: &Arc<Image>, sector: u64, sectors: u64) -> Vec<u8> {
    let mut worker = Worker::new(Arc::clone(volume) as _, 4);
    worker.read(sector, sectors, &mut Rng::new(1)).unwrap()
}

/// What the superblock to be believed says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Told {
    sequence: u64,
    table_at: u64,
    state: u8,
    boot: [u8; 16],
}

fn told(bytes: &[u8]) -> Told {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let one = |at: usize| Told {
        sequence: number(at + 24),
        table_at: number(at + 128),
        state: bytes[at + 169],
        boot: bytes[at + 176..at + 192].try_into().unwrap(),
    };
    [one(0), one(4096)].into_iter().max_by_key(|told| told.sequence).unwrap()
}

/// A file may be longer than its image. What it has there is not on the disk that grows into it.
#[test]
fn a_disk_grows_over_what_lies_behind_its_end() {
    for model in [Model::None, Model::HostAware] {
        let mut bytes = blank(model);
        bytes.resize(bytes.len() + (16 << 20), 0xee);
        let zones = 70;
        for served in [true, false] {
            let state = State::with(bytes.clone());
            let mut volume = state.open(&options(BOOT)).unwrap();
            let from = volume.shape().capacity.0;
            let to = Sector(zones * ZONE);
            if served {
                volume.grow(to).unwrap();
            } else {
                volume.resize(to).unwrap();
                volume = state.open(&options(BOOT)).unwrap();
            }
            let volume = Arc::new(volume);
            assert_eq!(volume.shape().capacity, to);
            if model == Model::HostAware {
                // All have data, so that the slots that are new are somebody's.
                (2..zones).for_each(|zone| write(&volume, zone, zone, 1));
                for zone in 2..zones {
                    let data = read(&volume, zone * ZONE, ZONE);
                    assert!(data[..512] == pattern(zone, 512), "zone {zone}");
                    let clear = data[512..].iter().all(|byte| *byte == 0);
                    assert!(clear, "served: {served}, zone {zone} shows what it did not write");
                }
            } else {
                let new = read(&volume, from, to.0 - from);
                assert!(new.iter().all(|byte| *byte == 0), "served: {served}: old bytes");
            }
        }
    }
}

/// The superblock alone tells of a sync that failed where nothing else does: the file system has been asked by
/// somebody else, and the note could not be written.
#[test]
fn a_failed_sync_is_written_into_both_superblocks() {
    let state = State::with(blank(Model::HostManaged));
    let volume = Arc::new(state.open(&options(BOOT)).unwrap());
    write(&volume, 2, 1, 1);
    volume.commit().unwrap();
    write(&volume, 2, 2, 3);
    state.fail_sync.store(EIO as u64, Ordering::Relaxed);
    volume.commit().unwrap_err();
    state.fail_sync.store(0, Ordering::Relaxed);
    drop(volume);
    state.lost.store(false, Ordering::Relaxed);
    state.put(512, &[0]);
    let bytes = state.bytes();
    assert_eq!([bytes[169], bytes[4096 + 169]], [SYNC_FAILED; 2]);
    let volume = state.open(&options(BOOT)).unwrap();
    assert_eq!(volume.recovery(), Recovery::SyncFailed);
    assert_eq!(volume.recovered()[2], closed(1));
}

/// Opens, grows, closes, resizes and loads an image: everything that writes superblocks. False when the medium
/// ended it.
fn life(state: &Arc<State>) -> bool {
    let open = || state.open(&options(BOOT));
    let Ok(volume) = open() else { return false };
    volume.record(ZoneId(2), Snapshot::new(Condition::Full, Sector::ZERO));
    if volume.grow(Sector(44 * ZONE)).is_err() || volume.close().is_err() {
        return false;
    }
    drop(volume);
    let resized = open().is_ok_and(|image| image.resize(Sector(48 * ZONE)).is_ok());
    resized && open().is_ok_and(|image| image.load(&ZoneTable::default()).is_ok())
}

/// A disk should write a sector whole; one that tears it has only one of the superblocks at a time.
#[test]
fn a_torn_superblock_leaves_the_other_one() {
    let blank = blank(Model::HostManaged);
    for end in 1.. {
        let state = State::with(blank.clone());
        state.end_at.store(end, Ordering::Relaxed);
        let whole = life(&state);
        let left = State::with(state.after_torn_superblocks());
        let opened = left.open(&options(NEXT_BOOT));
        assert!(opened.is_ok(), "ended with change {end}: {opened:?}");
        if whole {
            assert!(end > 20, "{end} changes are not all of that");
            break;
        }
    }
}

/// While zones are mended the image is of no boot: what is believed next is what is durable.
#[test]
fn a_repair_that_is_interrupted_leaves_an_image_of_no_boot() {
    let state = State::with(blank(Model::HostManaged));
    let volume = Arc::new(state.open(&options(BOOT)).unwrap());
    write(&volume, 5, 1, 7);
    volume.commit().unwrap();
    drop(volume);
    let mut broken = state.bytes();
    broken[TABLE + 5 * 64..][..8].copy_from_slice(&7u64.to_le_bytes());
    let before = told(&broken);
    assert_eq!((before.state, before.boot), (DIRTY, BOOT));
    let mut between = 0;
    for end in 1.. {
        let state = State::with(broken.clone());
        state.end_at.store(end, Ordering::Relaxed);
        let repaired = repair_on(Box::new(state.medium()), Some(BOOT));
        let bytes = state.bytes();
        let now = told(&bytes);
        if now.table_at != before.table_at && now.sequence <= before.sequence + 2 {
            between += 1;
            assert_eq!((now.state, now.boot), (DIRTY, [0; 16]), "ended with change {end}");
            let volume = State::with(bytes).open(&options(BOOT)).unwrap();
            assert_eq!(volume.recovery(), Recovery::HostDied);
            assert_eq!(volume.recovered()[5], closed(7));
        }
        if let Ok(report) = repaired {
            assert!(matches!(report.repairs[0], Repair::Flushed { zone: ZoneId(5), .. }));
            break;
        }
    }
    assert!(between >= 3, "{between} ends between the two");
}

/// Repairing believes no more after a sync that failed than opening does.
#[test]
fn a_repair_after_a_failed_sync_forgets_what_is_cached() {
    let state = State::with(blank(Model::HostManaged));
    let volume = state.open(&options(BOOT)).unwrap();
    state.fail_sync.store(EIO as u64, Ordering::Relaxed);
    volume.commit().unwrap_err();
    drop(volume);
    let mut bytes = state.bytes();
    bytes[TABLE + 5 * 64 + 16..][..48].fill(1);
    for broken in [false, true] {
        let left = if broken { bytes.clone() } else { state.bytes() };
        let left = State::with(left);
        let report = repair_on(Box::new(left.medium()), Some(BOOT)).unwrap();
        assert_eq!(report.recovery, Recovery::SyncFailed);
        let offline = matches!(report.repairs[0], Repair::Offline { zone: ZoneId(5), .. });
        assert_eq!(offline, broken);
        assert!(left.forgotten.load(Ordering::Relaxed), "broken: {broken}");
    }
}

/// A zone is reset while a commit takes the zones that have changed. It is not among them, so its slot must
/// not be among those that are free after it.
#[test]
fn a_reset_during_a_commit_keeps_its_slot_until_the_next() {
    let state = State::with(blank(Model::HostManaged));
    let volume = Arc::new(state.open(&options(BOOT)).unwrap());
    write(&volume, 2, 1, 8);
    volume.commit().unwrap();
    write(&volume, 3, 2, 8);
    let other = Arc::downgrade(&volume);
    state.meanwhile.set(move || other.upgrade().unwrap().record(ZoneId(2), Snapshot::EMPTY));
    volume.commit().unwrap();
    assert!(state.meanwhile.is_done());
    // It would have the slot that was let go of last.
    write(&volume, 4, 3, 8);
    // The host dies, and all that was written had got to the disk. The reset is not durable.
    let left = Arc::new(State::with(state.bytes()).open(&options(NEXT_BOOT)).unwrap());
    assert_eq!(left.recovered()[2], closed(8));
    assert!(read(&left, 2 * ZONE, 8) == pattern(1, 8 * 512), "another zone's data");
    assert_eq!(left.recovered()[3], closed(8));
    // With the next commit it is, and the slot is another's.
    volume.commit().unwrap();
    let left = State::with(state.bytes()).open(&options(NEXT_BOOT)).unwrap();
    assert_eq!(left.recovered()[2], Snapshot::EMPTY);
}
