//! Resets as a device records them: together with what came after them.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod support;

use std::sync::Arc;

use support::faulty::State;
use support::{Rng, Worker, create_options, pattern};
use zvb_storage::{CommitBy, EngineKind, Image, Op, OpenOptions, Volume};
use zvb_wire::{Condition, Model, Sector};
use zvb_zones::{Snapshot, ZoneId};

fn options(boot: u8) -> OpenOptions {
    OpenOptions {
        engine: EngineKind::Sync,
        commit: CommitBy::Caller,
        boot: Some([boot; 16]),
        ..OpenOptions::default()
    }
}

/// The simulator found it: the empty state between two lives was never recorded, and the new life was
/// written over the old one.
#[test]
fn a_reset_that_is_recorded_as_an_open_begins_a_new_life_all_the_same() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("disk.zvb");
    Image::create(&path, &create_options(Model::HostManaged)).unwrap();
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let medium = State::of(&path);
        let volume = Arc::new(medium.open(&options(1)).unwrap());
        let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
        let old = pattern(1, 16 * 512);
        worker.write(384 * 2, &old, &mut rng).unwrap();
        volume.record(ZoneId(2), Snapshot::new(Condition::ImplicitOpen, Sector(16)));
        worker.one(0, Op::Flush).unwrap();

        volume.record(ZoneId(2), Snapshot::new(Condition::ImplicitOpen, Sector(0)));
        worker.write(384 * 2, &pattern(2, 16 * 512), &mut rng).unwrap();
        volume.record(ZoneId(2), Snapshot::new(Condition::ImplicitOpen, Sector(16)));
        drop((worker, volume));

        let medium = State::with(medium.after_power_loss(&mut rng));
        let volume = Arc::new(medium.open(&options(2)).unwrap());
        assert_eq!(volume.recovered()[2].written(), Sector(16));
        let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
        assert!(worker.read(384 * 2, 16, &mut rng).unwrap() == old, "seed {seed}");
    }
}
