//! What an image keeps when the process dies, when the host dies, and when the medium fails.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use support::faulty::{EIO, ENOSPC, State};
use support::{Rng, Worker, create_options, pattern};
use zvb_storage::{
    CommitBy, EngineKind, Failure, Image, Op, OpenOptions, Recovery, Volume, VolumeError,
};
use zvb_wire::{Condition, Model, Sector};
use zvb_zones::{Snapshot, ZoneId};

const ZONES: u64 = 40;
const BOOT: [u8; 16] = [1; 16];
const NEXT_BOOT: [u8; 16] = [2; 16];

fn image(model: Model) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("disk.zvb");
    Image::create(&path, &create_options(model)).unwrap();
    (directory, path)
}

/// In one thread, in the boot `boot`.
fn options(boot: [u8; 16]) -> OpenOptions {
    OpenOptions {
        engine: EngineKind::Sync,
        commit: CommitBy::Caller,
        boot: Some(boot),
        ..OpenOptions::default()
    }
}

fn open(path: &Path, boot: [u8; 16]) -> Arc<Image> {
    Arc::new(Image::open(path, &options(boot)).unwrap())
}

fn written(condition: Condition, sectors: u64) -> Snapshot {
    Snapshot::new(condition, Sector(sectors))
}

#[test]
fn every_state_recorded_outlives_the_process() {
    let (_directory, path) = image(Model::HostManaged);
    let states = [
        (2, written(Condition::ImplicitOpen, 8)),
        (3, written(Condition::ExplicitOpen, 0)),
        (4, written(Condition::Closed, 17)),
        (5, written(Condition::Full, 100)),
        (6, written(Condition::ReadOnly, 3)),
        (7, written(Condition::Offline, 0)),
        (1, written(Condition::Offline, 0)),
        (39, written(Condition::Full, 64)),
    ];
    let mut rng = Rng::new(1);
    let volume = open(&path, BOOT);
    assert_eq!(volume.recovery(), Recovery::Clean);
    let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
    for (zone, state) in states {
        let data = pattern(zone, state.written().0 as usize * 512);
        if !data.is_empty() {
            worker.write(zone * 384, &data, &mut rng).unwrap();
        }
        volume.record(ZoneId(zone as u32), state);
    }
    drop((worker, volume));

    for round in 0..3 {
        let volume = open(&path, BOOT);
        let left = if round < 2 { Recovery::ProcessDied } else { Recovery::Clean };
        assert_eq!(volume.recovery(), left);
        let recovered = volume.recovered();
        let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
        for (zone, state) in states {
            assert_eq!(recovered[zone as usize], state);
            let data = worker.read(zone * 384, state.written().0, &mut rng).unwrap();
            assert!(data == pattern(zone, data.len()));
        }
        assert_eq!(recovered[8], Snapshot::EMPTY);
        assert_eq!(recovered[0], Snapshot::CONVENTIONAL);
        if round == 1 {
            volume.close().unwrap();
        }
    }
}

#[test]
fn what_the_host_lost_is_what_was_not_flushed() {
    let (_directory, path) = image(Model::HostManaged);
    let mut rng = Rng::new(1);
    let volume = open(&path, BOOT);
    let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
    worker.write(2 * 384, &pattern(1, 4096), &mut rng).unwrap();
    volume.record(ZoneId(2), written(Condition::ImplicitOpen, 8));
    worker.one(0, Op::Flush).unwrap();
    worker.write(2 * 384 + 8, &pattern(2, 4096), &mut rng).unwrap();
    volume.record(ZoneId(2), written(Condition::ImplicitOpen, 16));
    volume.record(ZoneId(3), written(Condition::ExplicitOpen, 0));
    drop((worker, volume));
    let volume = open(&path, NEXT_BOOT);
    assert_eq!(volume.recovery(), Recovery::HostDied);
    assert_eq!(volume.recovered()[2], written(Condition::ImplicitOpen, 8));
    assert_eq!(volume.recovered()[3], Snapshot::EMPTY);
    let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
    assert!(worker.read(2 * 384, 8, &mut rng).unwrap() == pattern(1, 4096));
    // Without an engine, too.
    volume.record(ZoneId(4), written(Condition::Offline, 0));
    volume.make_durable().unwrap();
    volume.record(ZoneId(5), written(Condition::Offline, 0));
    drop((worker, volume));
    let volume = open(&path, BOOT);
    let told = [4, 5].map(|zone: usize| volume.recovered()[zone].condition());
    assert_eq!(told, [Condition::Offline, Condition::Empty]);
    // An unknown boot is never the same boot.
    drop(volume);
    drop(open(&path, [0; 16]));
    assert_eq!(open(&path, [0; 16]).recovery(), Recovery::HostDied);
}

/// What stands in a zone, as far as the test knows.
#[derive(Clone, Default, PartialEq)]
struct Zone {
    data: Vec<u8>,
    full: bool,
}

impl Zone {
    fn state(&self) -> Snapshot {
        let sectors = self.data.len() as u64 / 512;
        match (self.full, sectors) {
            (true, n) => written(Condition::Full, n),
            (false, 0) => Snapshot::EMPTY,
            (false, n) => written(Condition::ImplicitOpen, n),
        }
    }
}

/// A life of an image that ends by a power loss. True when what came back is what was flushed.
fn lose_power(seed: u64, model: Model, lie: bool) -> bool {
    let mut rng = Rng::new(seed);
    let (_directory, path) = image(model);
    let mut medium = State::of(&path);
    let mut zones = vec![Zone::default(); ZONES as usize];
    for boot in 1..6u8 {
        medium.lie.store(lie, Ordering::Relaxed);
        let volume = Arc::new(medium.open(&options([boot; 16])).unwrap());
        let recovered = volume.recovered();
        let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
        for (zone, expected) in zones.iter().enumerate().skip(2) {
            let sectors = expected.data.len() as u64 / 512;
            let right = recovered[zone] == expected.state()
                && worker.read(zone as u64 * 384, sectors, &mut rng).unwrap() == expected.data;
            let above = worker.read(zone as u64 * 384 + sectors, 328 - sectors, &mut rng);
            let clear = model != Model::HostAware
                || zone as u64 == ZONES - 1
                || above.unwrap().iter().all(|b| *b == 0);
            if !right || !clear {
                assert!(lie, "seed {seed}, boot {boot}, zone {zone}: {right} {clear}");
                return false;
            }
        }
        let mut flushed = zones.clone();
        for step in 0..60 {
            // A few zones, so that they are reset and written again.
            let number = 2 + rng.below(5);
            let zone = &mut zones[number as usize];
            match rng.below(8) {
                0 => {
                    worker.one(0, Op::Flush).unwrap();
                    flushed = zones.clone();
                    continue;
                }
                1 | 2 => *zone = Zone::default(),
                3 => zone.full = true,
                _ if zone.full => continue,
                _ => {
                    let at = zone.data.len() as u64 / 512;
                    let sectors = (1 + rng.below(40)).min(328 - at);
                    let data =
                        pattern(seed << 20 | u64::from(boot) << 10 | step, sectors as usize * 512);
                    worker.write(number * 384 + at, &data, &mut rng).unwrap();
                    if rng.below(8) == 0 {
                        continue; // written, and the answer is on its way
                    }
                    zone.data.extend(data);
                    zone.full = zone.data.len() == 328 * 512;
                }
            }
            volume.record(ZoneId(number as u32), zone.state());
        }
        drop((worker, volume));
        medium = State::with(medium.after_power_loss(&mut rng));
        zones = flushed;
    }
    true
}

#[test]
fn after_a_power_loss_zones_are_as_they_were_flushed() {
    for seed in 0..12 {
        assert!(lose_power(seed, Model::HostManaged, false));
        assert!(lose_power(seed, Model::HostAware, false));
    }
}

#[test]
fn a_medium_that_lies_about_syncs_is_found_out() {
    assert!(
        (0..5).any(|seed| !lose_power(seed, Model::HostManaged, true)),
        "the test sees nothing"
    );
}

#[test]
fn a_failed_sync_is_the_end_of_promises() {
    for thread in [CommitBy::Caller, CommitBy::Thread] {
        let (_directory, path) = image(Model::HostManaged);
        let medium = State::of(&path);
        let options = OpenOptions { commit: thread, ..options(BOOT) };
        let volume = Arc::new(medium.open(&options).unwrap());
        let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
        let mut rng = Rng::new(1);
        worker.write(384 * 2, &pattern(1, 512), &mut rng).unwrap();
        volume.record(ZoneId(2), written(Condition::ImplicitOpen, 1));
        worker.one(0, Op::Flush).unwrap();
        worker.write(384 * 2 + 1, &pattern(2, 512), &mut rng).unwrap();
        volume.record(ZoneId(2), written(Condition::ImplicitOpen, 2));
        medium.fail_sync.store(EIO as u64, Ordering::Relaxed);
        let failed = worker.one(0, Op::Flush);
        assert!(matches!(&failed, Err(Failure::Medium(e)) if e.raw_os_error() == Some(EIO)));
        medium.fail_sync.store(0, Ordering::Relaxed);
        let syncs = medium.syncs.load(Ordering::Relaxed);
        assert!(matches!(worker.one(0, Op::Flush), Err(Failure::Poisoned)));
        assert!(matches!(worker.write(0, &pattern(1, 512), &mut rng), Err(Failure::Poisoned)));
        let discard = worker.one(0, Op::Discard { sectors: Sector(1) });
        assert!(matches!(discard, Err(Failure::Poisoned)));
        assert!(worker.read(384 * 2, 1, &mut rng).unwrap() == pattern(1, 512));
        assert!(matches!(volume.close(), Err(VolumeError::Commit(Failure::Poisoned))));
        assert_eq!(medium.syncs.load(Ordering::Relaxed), syncs, "a failed sync was tried again");
        drop((worker, volume));
        // Only what was durable before is believed, though the host lives.
        let volume = medium.open(&options).unwrap();
        assert_eq!(volume.recovery(), Recovery::SyncFailed);
        assert_eq!(volume.recovered()[2], written(Condition::ImplicitOpen, 1));
    }
}

/// The process is killed while a sync goes on: whether that failed it never hears, and the next one does.
#[test]
fn a_sync_that_fails_while_its_process_is_killed_is_found_out() {
    for fails in [false, true] {
        let (_directory, path) = image(Model::HostManaged);
        let medium = State::of(&path);
        let volume = Arc::new(medium.open(&options(BOOT)).unwrap());
        let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
        let mut rng = Rng::new(1);
        for sectors in [1, 2] {
            worker.write(384 * 2 + sectors - 1, &pattern(sectors, 512), &mut rng).unwrap();
            volume.record(ZoneId(2), written(Condition::ImplicitOpen, sectors));
            if sectors == 1 {
                worker.one(0, Op::Flush).unwrap();
                assert_eq!(medium.bytes()[512], 0, "the sync is over");
            }
        }
        let before = medium.bytes();
        medium.fail_sync.store(if fails { EIO as u64 } else { 0 }, Ordering::Relaxed);
        assert_eq!(worker.one(0, Op::Flush).is_err(), fails);
        medium.fail_sync.store(0, Ordering::Relaxed);
        drop((worker, volume));
        // Killed before it could write anything of it.
        for superblock in [0, 4096] {
            medium.put(superblock, &before[superblock..superblock + 512]);
        }
        medium.put(512, &[1]);
        let (left, sectors) =
            if fails { (Recovery::SyncFailed, 1) } else { (Recovery::ProcessDied, 2) };
        // Looking at it takes nothing away.
        let read_only = OpenOptions { read_only: true, ..options(BOOT) };
        assert_eq!(medium.open(&read_only).unwrap().recovery(), Recovery::ProcessDied);
        for _ in 0..2 {
            let volume = medium.open(&options(BOOT)).unwrap();
            assert_eq!(volume.recovered()[2], written(Condition::ImplicitOpen, sectors));
            assert!([left, Recovery::ProcessDied].contains(&volume.recovery()));
            assert_eq!(medium.bytes()[512], 0);
        }
    }
}

#[test]
fn a_read_or_write_that_fails_fails_alone() {
    let (_directory, path) = image(Model::HostManaged);
    let medium = State::of(&path);
    let volume = Arc::new(medium.open(&options(BOOT)).unwrap());
    let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
    let mut rng = Rng::new(1);
    medium.fail_write.store(ENOSPC as u64, Ordering::Relaxed);
    let full = worker.write(384 * 2, &pattern(1, 512), &mut rng);
    assert!(matches!(&full, Err(Failure::Medium(e)) if e.raw_os_error() == Some(ENOSPC)));
    medium.fail_write.store(0, Ordering::Relaxed);
    worker.write(384 * 2, &pattern(1, 512), &mut rng).unwrap();
    volume.record(ZoneId(2), written(Condition::ImplicitOpen, 1));
    medium.fail_read.store(EIO as u64, Ordering::Relaxed);
    assert!(matches!(worker.read(384 * 2, 1, &mut rng), Err(Failure::Medium(_))));
    medium.fail_read.store(0, Ordering::Relaxed);
    assert!(worker.read(384 * 2, 1, &mut rng).unwrap() == pattern(1, 512));
    worker.one(0, Op::Flush).unwrap();
}

#[test]
fn short_transfers_are_continued() {
    let (_directory, path) = image(Model::HostAware);
    let medium = State::of(&path);
    let volume = Arc::new(medium.open(&options(BOOT)).unwrap());
    let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
    let mut rng = Rng::new(1);
    for most in [1, 7, 511, 513, 4096] {
        medium.at_most.store(most, Ordering::Relaxed);
        let data = pattern(most, 20 * 512);
        worker.write(384 * 3 + 5, &data, &mut rng).unwrap();
        assert!(worker.read(384 * 3 + 5, 20, &mut rng).unwrap() == data);
    }
}

#[test]
fn a_slot_that_can_not_be_cleared_is_not_used_again() {
    let (_directory, path) = image(Model::HostAware);
    let medium = State::of(&path);
    let volume = Arc::new(medium.open(&options(BOOT)).unwrap());
    let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
    let mut rng = Rng::new(1);
    for life in 0..100 {
        worker.write(384 * 3, &pattern(life, 1024), &mut rng).unwrap();
        volume.record(ZoneId(3), written(Condition::ImplicitOpen, 2));
        volume.record(ZoneId(3), Snapshot::EMPTY);
        let broken = life % 3 == 0;
        medium.fail_write.store(if broken { EIO as u64 } else { 0 }, Ordering::Relaxed);
        worker.one(0, Op::Flush).unwrap();
        medium.fail_write.store(0, Ordering::Relaxed);
        worker.write(384 * 3, &pattern(life + 1, 512), &mut rng).unwrap();
        assert!(worker.read(384 * 3 + 1, 1, &mut rng).unwrap().iter().all(|b| *b == 0));
    }
}

#[test]
fn a_write_that_can_get_no_slot_fails_rather_than_waits() {
    for commit in [CommitBy::Caller, CommitBy::Thread] {
        let (_directory, path) = image(Model::HostAware);
        let medium = State::of(&path);
        let volume = medium.open(&OpenOptions { commit, ..options(BOOT) }).unwrap();
        let volume = Arc::new(volume);
        let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
        let mut rng = Rng::new(1);
        medium.fail_zero.store(EIO as u64, Ordering::Relaxed);
        let mut life = || {
            worker.write(384 * 3, &pattern(1, 512), &mut rng)?;
            volume.record(ZoneId(3), written(Condition::ImplicitOpen, 1));
            volume.record(ZoneId(3), Snapshot::EMPTY);
            Ok(())
        };
        // 38 zones and 8 slots to spare. Host-aware zones show what was never written: a slot is cleared
        // before the next zone has it, and that fails.
        (0..46).for_each(|_| life().unwrap());
        let failed: Result<(), Failure> = life();
        assert!(matches!(failed, Err(Failure::Medium(_))), "{failed:?}");
        medium.fail_zero.store(0, Ordering::Relaxed);
        (0..60).for_each(|_| life().unwrap());
    }
}

#[test]
fn a_flush_without_news_costs_one_sync_and_one_with_costs_two() {
    let (_directory, path) = image(Model::HostManaged);
    let medium = State::of(&path);
    let volume = Arc::new(medium.open(&options(BOOT)).unwrap());
    let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
    let syncs = || medium.syncs.load(Ordering::Relaxed);
    let before = syncs();
    worker.one(0, Op::Flush).unwrap();
    assert_eq!(syncs() - before, 1);
    for zone in 2..40 {
        volume.record(ZoneId(zone), written(Condition::ExplicitOpen, 0));
    }
    worker.one(0, Op::Flush).unwrap();
    assert_eq!(syncs() - before, 3);
    // Recorded, but the same as before.
    volume.record(ZoneId(2), written(Condition::ExplicitOpen, 0));
    worker.one(0, Op::Flush).unwrap();
    assert_eq!(syncs() - before, 4);
}

#[test]
fn resets_need_no_commit_of_data_and_clearing_can_wait() {
    let (_directory, path) = image(Model::HostManaged);
    let medium = State::of(&path);
    let volume = Arc::new(medium.open(&options(BOOT)).unwrap());
    let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
    let mut rng = Rng::new(1);
    // Zeroing would fail: nothing is zeroed.
    medium.fail_zero.store(EIO as u64, Ordering::Relaxed);
    for life in 0..200 {
        worker.write(384 * 3, &pattern(life, 1024), &mut rng).unwrap();
        volume.record(ZoneId(3), written(Condition::ImplicitOpen, 2));
        volume.record(ZoneId(3), Snapshot::EMPTY);
    }
    medium.fail_zero.store(0, Ordering::Relaxed);
    // What a zone reads as zeroes without a slot, it does not read from one that was used before.
    worker.one(384 * 4, Op::Zero { sectors: Sector(8), unmap: true }).unwrap();
    worker.write(384 * 4 + 8, &pattern(7, 512), &mut rng).unwrap();
    volume.record(ZoneId(4), written(Condition::ImplicitOpen, 9));
    assert!(worker.read(384 * 4, 8, &mut rng).unwrap().iter().all(|b| *b == 0));
    assert_eq!(worker.read(384 * 4 + 8, 1, &mut rng).unwrap(), pattern(7, 512));
}
