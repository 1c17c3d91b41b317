//! Disks that grow while they are used, and what is left when that is interrupted.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod support;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use support::faulty::{EIO, ENOSPC, State};
use support::{Disk, Rng, Worker, create_options, every_disk, geometry, pattern};
use zvb_storage::{
    CheckOptions, CommitBy, CreateOptions, EngineKind, GrowError, Image, Op, OpenOptions, Recovery,
    Severity, Volume, check, resize,
};
use zvb_wire::{Condition, Model, Sector};
use zvb_zones::{Snapshot, ZoneId};

const ZONE: u64 = 384;
const SMALL: u64 = 72;
const BOOT: [u8; 16] = [1; 16];
const NEXT_BOOT: [u8; 16] = [2; 16];

fn options(boot: [u8; 16]) -> OpenOptions {
    OpenOptions {
        engine: EngineKind::Sync,
        commit: CommitBy::Caller,
        boot: Some(boot),
        ..OpenOptions::default()
    }
}

fn image(create: &CreateOptions) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("disk.zvb");
    Image::create(&path, create).unwrap();
    (directory, path)
}

fn sound(path: &Path) {
    let options = CheckOptions { deep: true, boot: Some(BOOT), ..CheckOptions::default() };
    let found = check(path, &options, &mut |_| {}).unwrap().findings;
    let bad: Vec<_> = found.iter().filter(|finding| finding.severity() > Severity::Note).collect();
    assert!(bad.is_empty(), "{bad:?}");
}

/// Writes all of `zone`, or of a plain disk what a zone would be, and says so.
fn fill(disk: &Disk, worker: &mut Worker, zone: u64, rng: &mut Rng) {
    let sectors = match disk.volume.shape().geometry {
        Some(g) => g.capacity(ZoneId(zone as u32)).0,
        None => ZONE,
    };
    worker.write(zone * ZONE, &pattern(zone, sectors as usize * 512), rng).unwrap();
    disk.wrote(zone * ZONE, sectors);
}

fn is_full(disk: &Disk, worker: &mut Worker, zone: u64, rng: &mut Rng) {
    let sectors = match disk.volume.shape().geometry {
        Some(g) => g.capacity(ZoneId(zone as u32)).0,
        None => ZONE,
    };
    let data = worker.read(zone * ZONE, sectors, rng).unwrap();
    assert!(data == pattern(zone, data.len()), "{disk:?}: zone {zone}");
}

#[test]
fn every_disk_grows_under_its_engines() {
    every_disk(|disk| {
        let mut rng = Rng::new(disk.number);
        let mut worker = disk.worker(8);
        for zone in [0, 3, 5] {
            fill(disk, &mut worker, zone, &mut rng);
        }
        let before = disk.volume.shape();
        // The last zone becomes whole; then a few new ones, then many: the table moves each time.
        for (step, zones) in [(0u64, 40u64), (1, 44), (2, 300), (3, 301)] {
            let capacity = Sector(zones * ZONE - if step == 1 { 64 } else { 0 });
            disk.volume.grow(capacity).unwrap();
            let shape = disk.volume.shape();
            let spec = shape.geometry.map(|g| (g.zone_count(), g.len(ZoneId(g.zone_count() - 1))));
            assert_eq!(shape.capacity, capacity);
            let last = Sector(if step == 1 { ZONE - 64 } else { ZONE });
            assert_eq!(spec, before.geometry.map(|_| (zones as u32, last)), "{disk:?}");
            assert_eq!((shape.id, shape.block_size), (before.id, before.block_size));
            // What was there is; what is new is zeroes, and can be written.
            for zone in [0, 3, 5] {
                is_full(disk, &mut worker, zone, &mut rng);
            }
            if disk.model != Model::HostManaged {
                let zeroes = worker.read(capacity.0 - 300, 300, &mut rng).unwrap();
                assert!(zeroes.iter().all(|b| *b == 0), "{disk:?}: {zones} zones");
            }
            if disk.model != Model::None || step != 1 {
                fill(disk, &mut worker, zones - 1, &mut rng);
                is_full(disk, &mut worker, zones - 1, &mut rng);
            }
            let past = worker.read(capacity.0, 1, &mut rng);
            assert!(past.is_err(), "{disk:?}: past the end");
            worker.one(0, Op::Flush).unwrap();
            // A zone that lets go of its data reads as zeroes where that can be seen.
            if disk.model == Model::HostAware {
                disk.volume.record(ZoneId(zones as u32 - 1), Snapshot::EMPTY);
                worker.one(0, Op::Flush).unwrap();
                let zeroes = worker.read((zones - 1) * ZONE, 64, &mut rng).unwrap();
                assert!(zeroes.iter().all(|b| *b == 0), "{disk:?}");
            }
        }
        // As many zones as there are can have data at the same time.
        if disk.model == Model::HostManaged {
            for zone in 2..301 {
                fill(disk, &mut worker, zone, &mut rng);
            }
        }
        drop(worker);
        disk.volume.close().unwrap();
        if let Some(path) = &disk.file {
            // The image is open still.
            let copy = path.with_extension("copy");
            std::fs::copy(path, &copy).unwrap();
            sound(&copy);
        }
    });
}

/// The old table lies where slots grow to; every size is refused that is none.
#[test]
fn what_can_not_be_is_refused_and_the_disk_is_what_it_was() {
    every_disk(|disk| {
        let from = disk.volume.shape().capacity;
        let mut worker = disk.worker(2);
        let mut rng = Rng::new(1);
        fill(disk, &mut worker, 3, &mut rng);
        let shrunk = disk.volume.grow(Sector(from.0 - 64)).unwrap_err();
        assert!(matches!(shrunk, GrowError::Shrinks { from: f, .. } if f == from), "{shrunk}");
        assert!(disk.volume.grow(Sector(u64::MAX)).is_err());
        assert!(disk.volume.grow(Sector(1 << 54)).is_err());
        if disk.model != Model::None {
            let many = disk.volume.grow(Sector(ZONE << 23)).unwrap_err();
            assert!(matches!(many, GrowError::Geometry(_)), "{many}");
        }
        disk.volume.grow(from).unwrap();
        assert_eq!(disk.volume.shape().capacity, from);
        is_full(disk, &mut worker, 3, &mut rng);
    });
    let (_directory, path) = image(&create_options(Model::HostManaged));
    let read_only = OpenOptions { read_only: true, ..options(BOOT) };
    let image = Image::open(&path, &read_only).unwrap();
    assert!(matches!(image.grow(Sector(ZONE * 50)), Err(GrowError::ReadOnly)));
    let mut large = create_options(Model::None);
    large.block_size = 4096;
    let (_directory, path) = self::image(&large);
    let image = Image::open(&path, &options(BOOT)).unwrap();
    let odd = image.grow(Sector(large.capacity.0 + 1)).unwrap_err();
    assert!(matches!(odd, GrowError::Capacity { block_size: 4096, .. }), "{odd}");
}

/// A disk without sequential zones gets some; a smaller last zone that is conventional becomes whole.
#[test]
fn a_disk_of_conventional_zones_grows_into_sequential_ones() {
    let mut create = create_options(Model::HostManaged);
    let mut spec = geometry(Model::HostManaged).spec;
    (spec.capacity, spec.conventional) = (Sector(2 * ZONE - 100), 2);
    (create.capacity, create.zones) = (spec.capacity, Some(spec));
    let (_directory, path) = image(&create);
    let volume = Arc::new(Image::open(&path, &options(BOOT)).unwrap());
    let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
    let mut rng = Rng::new(1);
    worker.write(ZONE, &pattern(1, 200 * 512), &mut rng).unwrap();
    for (zones, at) in [(2, 2 * ZONE - 50), (5, 4 * ZONE)] {
        volume.grow(Sector(zones * ZONE)).unwrap();
        worker.write(at, &pattern(at, 50 * 512), &mut rng).unwrap();
    }
    volume.record(ZoneId(4), Snapshot::new(Condition::ImplicitOpen, Sector(50)));
    drop((worker, volume));
    sound(&path);
    let volume = Arc::new(Image::open(&path, &options(BOOT)).unwrap());
    assert_eq!(volume.recovery(), Recovery::ProcessDied);
    assert_eq!(volume.recovered()[4].written(), Sector(50));
    let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
    for (at, sectors) in [(1, 200), (2 * ZONE - 50, 50), (4 * ZONE, 50)] {
        let place = if at == 1 { ZONE } else { at };
        let data = worker.read(place, sectors, &mut rng).unwrap();
        assert!(data == pattern(at, data.len()), "{at}");
    }
}

/// A disk of forty small zones, the last smaller yet, whose bytes are quickly copied.
fn small() -> CreateOptions {
    let mut create = create_options(Model::HostManaged);
    let mut spec = geometry(Model::HostManaged).spec;
    (spec.zone_size, spec.zone_capacity) = (Sector(SMALL), Sector(SMALL - 8));
    spec.capacity = Sector(SMALL * 39 + 40);
    (create.capacity, create.zones) = (spec.capacity, Some(spec));
    create
}

/// What a disk was told: by zone the condition and the sectors written, as acknowledged and as flushed.
#[derive(Clone, Debug, Default)]
struct Told {
    latest: Vec<(Condition, u64)>,
    flushed: Vec<(Condition, u64)>,
}

/// Writes to some zones, with a flush in the middle, and with resets of what was flushed.
fn used(state: &Arc<State>) -> (Arc<Image>, Told) {
    let volume = Arc::new(state.open(&options(BOOT)).unwrap());
    let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
    let mut rng = Rng::new(1);
    let mut told = Told { latest: vec![(Condition::Empty, 0); 40], ..Told::default() };
    let mut write = |told: &mut Told, zone: u64, sectors: u64| {
        let data = pattern(zone, sectors as usize * 512);
        worker.write(zone * SMALL, &data, &mut rng).unwrap();
        let state = (Condition::Closed, sectors);
        volume.record(ZoneId(zone as u32), Snapshot::new(state.0, Sector(sectors)));
        told.latest[zone as usize] = state;
    };
    for zone in [2, 3, 4, 39] {
        write(&mut told, zone, 30);
    }
    volume.commit().unwrap();
    told.flushed = told.latest.clone();
    // After the flush: one grows, one is new, one is reset.
    write(&mut told, 3, 60);
    write(&mut told, 7, 8);
    volume.record(ZoneId(4), Snapshot::EMPTY);
    told.latest[4] = (Condition::Empty, 0);
    (volume, told)
}

/// Opens what was left, and finds what was told, in a disk of the old size or the new one.
fn as_told(
    bytes: Vec<u8>,
    boot: [u8; 16],
    told: &[(Condition, u64)],
    sizes: [Sector; 2],
) -> Sector {
    let state = State::with(bytes);
    let volume = Arc::new(state.open(&options(boot)).unwrap());
    let capacity = volume.shape().capacity;
    assert!(sizes.contains(&capacity), "{capacity} is neither of {sizes:?}");
    let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
    let mut rng = Rng::new(1);
    let recovered = volume.recovered();
    assert_eq!(recovered.len() as u64, capacity.0.div_ceil(SMALL));
    for (zone, found) in recovered.iter().enumerate().skip(2) {
        let (condition, sectors) = told.get(zone).copied().unwrap_or((Condition::Empty, 0));
        assert_eq!((found.condition(), found.written().0), (condition, sectors), "zone {zone}");
        if sectors > 0 {
            let data = worker.read(zone as u64 * SMALL, sectors, &mut rng).unwrap();
            assert!(data == pattern(zone as u64, data.len()), "zone {zone}");
        }
    }
    capacity
}

/// The process dies, or the host, at each change of the medium that growing makes: the old size or the new
/// one, with all that was told to whom it was.
#[test]
fn an_interrupted_growth_leaves_the_old_disk_or_the_new_one() {
    let (_directory, path) = image(&small());
    let blank = std::fs::read(&path).unwrap();
    // The last zone alone; a few more, into the room that a new image leaves; and more than that.
    let from = small().capacity;
    for zones in [40, 46, 130] {
        let to = Sector(zones * SMALL);
        let (mut end, mut seen) = (1, [0; 2]);
        let mut rng = Rng::new(zones);
        loop {
            let state = State::with(blank.clone());
            let (volume, told) = used(&state);
            let changes = state.changes.load(Ordering::Relaxed);
            state.end_at.store(changes + end, Ordering::Relaxed);
            let grown = volume.grow(to);
            // A death of the process loses nothing of what it had written.
            let size = as_told(state.bytes(), BOOT, &told.latest, [from, to]);
            seen[usize::from(size == to)] += 1;
            for _ in 0..8 {
                let left = state.after_power_loss(&mut rng);
                as_told(left, NEXT_BOOT, &told.flushed, [from, to]);
            }
            if grown.is_ok() {
                assert_eq!(size, to, "{zones} zones, {end} changes");
                break;
            }
            end += 1;
            assert!(end < 100, "it does not end");
        }
        assert!(seen[0] > 1 && seen[1] > 1, "{zones} zones: old and new {seen:?}");
    }
}

/// When growing fails, the disk is what it was, and goes on; or it says that it can not.
#[test]
fn a_medium_that_refuses_leaves_the_disk_as_it_was() {
    let (_directory, path) = image(&small());
    let blank = std::fs::read(&path).unwrap();
    let state = State::with(blank);
    let (volume, told) = used(&state);
    let (from, to) = (volume.shape().capacity, Sector(100 * SMALL));
    // Dirt where the table is to go, and no way to clear it.
    state.fail_lengthen.store(ENOSPC as u64, Ordering::Relaxed);
    let full = volume.grow(to).unwrap_err();
    assert!(matches!(full, GrowError::Medium { .. }), "{full}");
    assert_eq!(full.to_string(), "cannot make room in the medium");
    state.fail_lengthen.store(0, Ordering::Relaxed);
    assert!(!volume.has_failed());
    // It is made longer, and then there are no blocks for the table.
    let len = state.bytes().len();
    state.fail_map.store(ENOSPC as u64, Ordering::Relaxed);
    let refused = volume.grow(to).unwrap_err();
    assert_eq!(refused.to_string(), "cannot map the new zone table");
    assert_eq!(state.bytes().len(), len, "it is as long as it was");
    state.fail_map.store(0, Ordering::Relaxed);
    assert!(!volume.has_failed());
    assert_eq!(volume.shape().capacity, from);
    as_told(state.bytes(), BOOT, &told.latest, [from, from]);
    // The next time it goes well.
    volume.grow(to).unwrap();
    volume.commit().unwrap();
    as_told(state.bytes(), NEXT_BOOT, &told.latest, [to, to]);

    // A sync that fails is the end of it, as for any flush.
    state.fail_sync.store(EIO as u64, Ordering::Relaxed);
    assert!(matches!(volume.grow(Sector(200 * SMALL)), Err(GrowError::Failed)));
    state.fail_sync.store(0, Ordering::Relaxed);
    assert!(volume.has_failed());
    assert!(matches!(volume.grow(Sector(200 * SMALL)), Err(GrowError::Failed)));
    assert!(volume.commit().is_err());
    let left = State::with(state.bytes()).open(&options(BOOT)).unwrap();
    assert_eq!(left.recovery(), Recovery::SyncFailed);
    assert_eq!(left.shape().capacity, to);
}

/// States are recorded and flushed while the disk grows again and again; then the process dies.
#[test]
fn states_recorded_while_it_grows_outlive_the_process() {
    for round in 0..4 {
        let (_directory, path) = image(&create_options(Model::HostManaged));
        let open = OpenOptions { boot: Some(BOOT), ..OpenOptions::default() };
        let volume: Arc<dyn Volume> = Arc::new(Image::open(&path, &open).unwrap());
        let stop = AtomicBool::new(false);
        // The last of the forty is smaller yet.
        let zones = AtomicU64::new(39);
        let mut latest = vec![0; 1000];
        thread::scope(|scope| {
            scope.spawn(|| {
                for step in 0..8 {
                    let more = zones.load(Ordering::Relaxed) + if step == 5 { 500 } else { 7 };
                    volume.grow(Sector(more * ZONE)).unwrap();
                    zones.store(more, Ordering::Release);
                }
                stop.store(true, Ordering::Relaxed);
            });
            scope.spawn(|| {
                let mut worker = Worker::new(Arc::clone(&volume), 4);
                while !stop.load(Ordering::Relaxed) {
                    worker.one(0, Op::Flush).unwrap();
                }
            });
            let mut rng = Rng::new(round);
            let mut worker = Worker::new(Arc::clone(&volume), 4);
            while !stop.load(Ordering::Relaxed) {
                let count = zones.load(Ordering::Acquire);
                let zone = 2 + rng.below(count - 2);
                let written = &mut latest[zone as usize];
                if *written >= 300 {
                    volume.record(ZoneId(zone as u32), Snapshot::EMPTY);
                    *written = 0;
                    continue;
                }
                let data = pattern(zone << 32 | *written, 512);
                worker.write(zone * ZONE + *written, &data, &mut rng).unwrap();
                *written += 1;
                let state = Snapshot::new(Condition::Closed, Sector(*written));
                volume.record(ZoneId(zone as u32), state);
            }
        });
        let count = zones.load(Ordering::Relaxed);
        if round % 2 == 0 {
            volume.close().unwrap();
        }
        drop(volume);
        sound(&path);
        let volume = Arc::new(Image::open(&path, &options(BOOT)).unwrap());
        assert_eq!(volume.shape().capacity, Sector(count * ZONE));
        let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
        let mut rng = Rng::new(1);
        for (zone, state) in volume.recovered().iter().enumerate().skip(2) {
            assert_eq!(state.written().0, latest[zone], "round {round}, zone {zone}");
            if latest[zone] > 0 {
                let data = worker.read(zone as u64 * ZONE, latest[zone], &mut rng).unwrap();
                for (sector, bytes) in data.chunks(512).enumerate() {
                    assert!(bytes == pattern((zone << 32 | sector) as u64, 512), "zone {zone}");
                }
            }
        }
    }
}

/// Grown while it was used and grown while it was not, an image is the same, and grows on either way.
#[test]
fn an_image_grows_in_use_and_at_rest_by_turns() {
    for model in [Model::None, Model::HostManaged, Model::HostAware] {
        let (_directory, path) = image(&create_options(model));
        let mut rng = Rng::new(1);
        let mut capacity = 40 * ZONE;
        for turn in 0..8 {
            capacity += ZONE * (1 + rng.below(60));
            if turn % 2 == 0 {
                resize(&path, Sector(capacity)).unwrap();
            } else {
                let volume = Arc::new(Image::open(&path, &options(BOOT)).unwrap());
                volume.grow(Sector(capacity)).unwrap();
                let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
                let data = pattern(capacity, 512 * 10);
                worker.write(capacity - ZONE, &data, &mut rng).unwrap();
                if model != Model::None {
                    let zone = ZoneId((capacity / ZONE) as u32 - 1);
                    volume.record(zone, Snapshot::new(Condition::Closed, Sector(10)));
                }
                drop(worker);
                if turn != 3 {
                    volume.close().unwrap();
                }
                drop(volume);
            }
            sound(&path);
            let image = Image::open(&path, &OpenOptions { read_only: true, ..options(BOOT) });
            assert_eq!(image.unwrap().shape().capacity, Sector(capacity));
        }
        // What it grew into takes no room before it is written.
        use std::os::unix::fs::MetadataExt;
        let blocks = File::open(&path).unwrap().metadata().unwrap().blocks();
        assert!(blocks < 2048, "{blocks} blocks of 512 bytes");
    }
}
