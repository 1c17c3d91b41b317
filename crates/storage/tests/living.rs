//! Living with images: checked, repaired, made larger, copied, their zones put into any state. Whenever
//! one of these is interrupted the image is the old one or the new one.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod support;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use support::faulty::State;
use support::{Rng, Worker, create_options, pattern};
use zvb_storage::{
    CheckOptions, CheckReport, CloneError, CloneOptions, Cloned, CommitBy, CreateError, EngineKind,
    Image, LoadError, Op, OpenError, OpenOptions, Problem, RecordError, Recovery, Refusal, Repair,
    RepairError, ResizeError, Severity, Volume, ZoneState, ZoneTable, check, check_on, dump,
    inspect, load, repair, repair_on, resize,
};
use zvb_wire::{Condition, Model, Sector};
use zvb_zones::{Snapshot, ZoneId};

const BOOT: [u8; 16] = [1; 16];
const NEXT_BOOT: [u8; 16] = [2; 16];
const TABLE: u64 = 8192;
const SLOTS: u64 = 2 << 20;
const SLOT: u64 = 41 * 4096;

fn options(boot: [u8; 16]) -> OpenOptions {
    OpenOptions {
        engine: EngineKind::Sync,
        commit: CommitBy::Caller,
        boot: Some(boot),
        ..OpenOptions::default()
    }
}

/// An image with data in zones in every condition; closed, or left by a process that died.
fn used(model: Model, close: bool) -> (tempfile::TempDir, PathBuf) {
    used_with(model, 40, close)
}

/// The same with so many zones.
fn used_with(model: Model, zones: u64, close: bool) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("disk.zvb");
    let mut create = create_options(model);
    create.capacity = Sector(384 * (zones - 1) + 64);
    if let Some(spec) = &mut create.zones {
        spec.capacity = create.capacity;
    }
    Image::create(&path, &create).unwrap();
    let volume = Arc::new(Image::open(&path, &options(BOOT)).unwrap());
    let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
    let mut rng = Rng::new(1);
    worker.write(5, &pattern(100, 700 * 512), &mut rng).unwrap();
    if model != Model::None {
        let states = [
            (2, Condition::ImplicitOpen, 8),
            (3, Condition::ExplicitOpen, 0),
            (4, Condition::Closed, 17),
            (5, Condition::Full, 100),
            (6, Condition::ReadOnly, 3),
            (7, Condition::Offline, 0),
            (8, Condition::Full, 328),
            (zones - 1, Condition::Full, 64),
        ];
        for (zone, condition, sectors) in states {
            if sectors > 0 {
                worker.write(zone * 384, &pattern(zone, sectors * 512), &mut rng).unwrap();
            }
            volume.record(ZoneId(zone as u32), Snapshot::new(condition, Sector(sectors as u64)));
        }
        worker.one(0, Op::Flush).unwrap();
        // After the flush: 10 is written, 4 has a second life.
        worker.write(10 * 384, &pattern(10, 4096), &mut rng).unwrap();
        volume.record(ZoneId(10), Snapshot::new(Condition::Closed, Sector(8)));
        volume.record(ZoneId(4), Snapshot::EMPTY);
        worker.write(4 * 384, &pattern(40, 1024), &mut rng).unwrap();
        volume.record(ZoneId(4), Snapshot::new(Condition::ImplicitOpen, Sector(2)));
    }
    if close {
        volume.close().unwrap();
    }
    (directory, path)
}

/// All that a guest could tell of a disk.
#[derive(Clone, PartialEq, Debug)]
struct Contents {
    capacity: u64,
    states: Vec<Snapshot>,
    data: Vec<Vec<u8>>,
}

impl Contents {
    fn of(image: Image) -> Self {
        let volume = Arc::new(image);
        let shape = volume.shape();
        let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
        let mut rng = Rng::new(1);
        let states = volume.recovered();
        let mut data = Vec::new();
        let Some(geometry) = shape.geometry else {
            data.push(worker.read(0, shape.capacity.0, &mut rng).unwrap());
            return Self { capacity: shape.capacity.0, states, data };
        };
        for (zone, state) in geometry.zones().zip(&states) {
            let required = geometry.spec().model == Model::HostManaged
                && zone.0 >= geometry.spec().conventional;
            let sectors = if required { state.written() } else { geometry.len(zone) };
            data.push(worker.read(geometry.start(zone).0, sectors.0, &mut rng).unwrap());
        }
        Self { capacity: shape.capacity.0, states, data }
    }

    fn at(path: &Path) -> Self {
        Self::of(Image::open(path, &OpenOptions { read_only: true, ..options(BOOT) }).unwrap())
    }

    /// Of the bytes of an image, opened in `boot`.
    fn in_bytes(bytes: Vec<u8>, boot: [u8; 16]) -> Result<Self, Refusal> {
        State::with(bytes).open(&options(boot)).map(Self::of)
    }
}

fn checked(path: &Path, deep: bool) -> CheckReport {
    let options = CheckOptions { deep, boot: Some(BOOT), ..CheckOptions::default() };
    check(path, &options, &mut |_| {}).unwrap()
}

/// What a check finds, without what is only worth knowing.
fn problems(path: &Path) -> Vec<(Option<u32>, Problem)> {
    let findings = checked(path, true).findings.into_iter();
    let bad = findings.filter(|finding| finding.severity() > Severity::Note);
    bad.map(|finding| (finding.zone.map(|zone| zone.0), finding.problem)).collect()
}

fn write_raw(path: &Path, at: u64, bytes: &[u8]) {
    File::options().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

fn set_latest(path: &Path, zone: u64, word: u64) {
    write_raw(path, TABLE + zone * 64, &word.to_le_bytes());
}

#[test]
fn a_sound_image_has_nothing_to_be_found() {
    for model in [Model::None, Model::HostManaged, Model::HostAware] {
        let (_directory, path) = used(model, true);
        let before = fs::read(&path).unwrap();
        let mut told = Vec::new();
        let options = CheckOptions { deep: true, ..CheckOptions::default() };
        let report = check(&path, &options, &mut |progress| told.push(progress)).unwrap();
        assert_eq!(report.recovery, Recovery::Clean);
        assert!(report.is_sound(), "{report:?}");
        // The data at least, and not the room that there would be for more.
        assert!((700 * 512..6 << 20).contains(&report.bytes_read), "{report:?}");
        assert!(told.is_sorted_by_key(|progress| progress.done));
        assert!(told.last().is_some_and(|progress| progress.done == progress.total));
        let fast = check(&path, &CheckOptions::default(), &mut |_| {}).unwrap();
        assert_eq!(fast.bytes_read, 0);
        assert!(fast.is_sound(), "{fast:?}");
        assert!(fs::read(&path).unwrap() == before);
    }
}

#[test]
fn what_a_crash_left_is_worth_a_note() {
    let (_directory, path) = used(Model::HostAware, false);
    let report = checked(&path, true);
    assert_eq!(report.recovery, Recovery::ProcessDied);
    assert!(report.is_sound(), "{report:?}");
    let found: Vec<_> = report.findings.iter().map(|finding| &finding.problem).collect();
    assert!(matches!(found[0], Problem::NotInOrder(Recovery::ProcessDied)), "{found:?}");
    // The first life of zone 4.
    assert!(matches!(found[1], Problem::Remains { .. }), "{found:?}");
    assert_eq!(found.len(), 2);
    write_raw(&path, 512, &[1]);
    let found = checked(&path, true).findings;
    assert_eq!((found.len(), &found[1].problem), (3, &Problem::InSync));
    let next = CheckOptions { boot: Some(NEXT_BOOT), ..CheckOptions::default() };
    let report = check(&path, &next, &mut |_| {}).unwrap();
    assert_eq!(report.recovery, Recovery::HostDied);
    assert!(report.is_sound(), "{report:?}");
}

#[test]
fn every_kind_of_damage_is_found_where_it_is() {
    let slot = |n: u64| (n + 1) << 37;
    let (_directory, path) = used(Model::HostManaged, true);
    let clean = fs::read(&path).unwrap();
    let damaged = |damage: &dyn Fn()| {
        fs::write(&path, &clean).unwrap();
        damage();
        problems(&path)
    };
    assert_eq!(damaged(&|| {}), []);
    let torn = |at: u64| damaged(&|| write_raw(&path, at + 100, b"torn"));
    assert_eq!(torn(0), [(None, Problem::Superblock)]);
    assert_eq!(torn(4096), [(None, Problem::Superblock)]);
    let record = |zone, error| (Some(zone), Problem::Record(error));
    assert_eq!(damaged(&|| set_latest(&path, 5, 7)), [record(5, RecordError::State(7))]);
    let shared = damaged(&|| {
        write_raw(&path, TABLE + 9 * 64, &clean[TABLE as usize + 5 * 64..][..8]);
        set_latest(&path, 9, 4 | 8 << 4 | slot(1));
    });
    assert_eq!(shared, [record(9, RecordError::Differs)]);
    let torn = damaged(&|| write_raw(&path, TABLE + 5 * 64 + 16, &[1; 48]));
    assert_eq!(torn, [record(5, RecordError::Torn)]);

    // Of zone 5, the copy that counts and the one before.
    for (copy, problem) in
        [(16, record(5, RecordError::Differs)), (40, (Some(5), Problem::DamagedCopy))]
    {
        let found = damaged(&|| write_raw(&path, TABLE + 5 * 64 + copy, &[1; 24]));
        assert_eq!(found, [problem], "the copy at {copy}");
    }

    let len = SLOTS + 3 * SLOT;
    let cut = damaged(&|| File::options().write(true).open(&path).unwrap().set_len(len).unwrap());
    let expected = clean.len() as u64;
    assert_eq!(cut[0], (None, Problem::Truncated { len, expected }));
    assert!(cut[1..].iter().all(|(_, problem)| *problem == Problem::DataCutOff));
    // 2, 4 (its first life) and 5 have the first three slots.
    assert_eq!(
        cut[1..].iter().map(|(zone, _)| zone.unwrap()).collect::<Vec<_>>(),
        [4, 6, 8, 10, 39]
    );
}

#[test]
fn two_zones_with_one_slot_are_both_named() {
    let (_directory, path) = used(Model::HostManaged, false);
    let bytes = fs::read(&path).unwrap();
    let five = u64::from_le_bytes(bytes[TABLE as usize + 5 * 64..][..8].try_into().unwrap());
    set_latest(&path, 30, five);
    let error = |source| Problem::Record(source);
    let slot = (five >> 37) as u32 - 1;
    let shared = error(RecordError::Shared { slot });
    assert_eq!(problems(&path), [(Some(5), shared.clone()), (Some(30), shared)]);
    let state = State::of(&path);
    let report = repair_on(Box::new(state.medium()), Some(BOOT)).unwrap();
    fs::write(&path, state.bytes()).unwrap();
    // Neither can be believed, though one is right.
    let offline = report.repairs.iter().filter(|repair| matches!(repair, Repair::Offline { .. }));
    assert_eq!(offline.count(), 2);
    let contents = Contents::at(&path);
    assert_eq!(contents.states[5].condition(), Condition::Offline);
    assert_eq!(contents.states[30].condition(), Condition::Offline);
    assert_eq!(problems(&path), []);
}

#[test]
fn too_many_active_zones_are_found() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("disk.zvb");
    let mut create = create_options(Model::HostManaged);
    create.zones.as_mut().unwrap().max_active = 3;
    Image::create(&path, &create).unwrap();
    let image = Image::open(&path, &options(BOOT)).unwrap();
    for zone in 10..14 {
        image.record(ZoneId(zone), Snapshot::new(Condition::Closed, Sector(1)));
    }
    image.close().unwrap();
    drop(image);
    assert_eq!(problems(&path), [(None, Problem::TooManyActive { active: 4, limit: 3 })]);
}

#[test]
fn what_can_not_be_read_is_found_by_reading_it() {
    let (_directory, path) = used(Model::HostManaged, true);
    let state = State::of(&path);
    let image = CheckOptions { deep: true, boot: Some(BOOT), force: false };
    // In zone 8, which is full: 100 KiB into it.
    let zone_8 = SLOTS + 4 * SLOT;
    let bad = zone_8 + 100 * 1024..zone_8 + 108 * 1024;
    *state.bad.lock().unwrap() = bad.clone();
    let report = check_on(&state.medium(), &image, &mut |_| {}).unwrap();
    let found: Vec<_> =
        report.findings.iter().filter(|finding| finding.severity() == Severity::Error).collect();
    assert_eq!(found.len(), 1, "{report:?}");
    assert_eq!((found[0].zone, found[0].at), (Some(ZoneId(8)), Some(bad.start)));
    assert_eq!(found[0].problem, Problem::Unreadable { bytes: 8192, code: 5 });
    // In conventional zone 1.
    *state.bad.lock().unwrap() = (1 << 20) + 400 * 512..(1 << 20) + 401 * 512;
    let report = check_on(&state.medium(), &image, &mut |_| {}).unwrap();
    assert_eq!(report.worst(), Some(Severity::Error));
    let bad = report.findings.iter().filter(|finding| finding.severity() == Severity::Error);
    assert_eq!(bad.map(|finding| finding.zone).collect::<Vec<_>>(), [Some(ZoneId(1))]);
    let fast = CheckOptions { deep: false, ..image };
    assert!(check_on(&state.medium(), &fast, &mut |_| {}).unwrap().is_sound());
}

#[test]
fn data_where_zeroes_belong_is_found_and_cleared() {
    let (_directory, path) = used(Model::HostAware, true);
    // Zone 2 has the first slot (48 blocks here) and 8 sectors of data.
    write_raw(&path, SLOTS + 9 * 512, &[7; 512]);
    assert_eq!(problems(&path), [(Some(2), Problem::AboveEnd)]);
    repair(&path).unwrap();
    assert_eq!(problems(&path), []);
    let bytes = fs::read(&path).unwrap();
    assert!(bytes[SLOTS as usize + 8 * 512..][..1024].iter().all(|b| *b == 0));
    assert!(bytes[SLOTS as usize..][..4096] == pattern(2, 4096));
}

#[test]
fn an_image_in_use_is_only_looked_at_by_force() {
    let (_directory, path) = used(Model::HostManaged, true);
    let writer = Image::open(&path, &options(BOOT)).unwrap();
    writer.record(ZoneId(25), Snapshot::new(Condition::ExplicitOpen, Sector(0)));
    let check = |force| check(&path, &CheckOptions { force, ..Default::default() }, &mut |_| {});
    assert!(matches!(check(false).unwrap_err().reason, Refusal::InUse { .. }));
    assert!(check(true).unwrap().is_sound());
    let busy = Refusal::InUse { pid: None };
    let same = |reason: &Refusal| std::mem::discriminant(reason) == std::mem::discriminant(&busy);
    assert!(matches!(repair(&path).unwrap_err().reason, RepairError::Open(r) if same(&r)));
    let larger = resize(&path, Sector(384 * 50));
    assert!(matches!(larger.unwrap_err().reason, ResizeError::Image(r) if same(&r)));
    let loaded = load(&path, &ZoneTable::default());
    assert!(matches!(loaded.unwrap_err().reason, LoadError::Image(r) if same(&r)));
    let to = path.with_extension("copy");
    let cloned = Image::clone_file(&path, &to, &CloneOptions::default(), &mut |_| {});
    assert!(
        matches!(cloned, Err(CloneError::From(OpenError { reason, .. })) if same(&reason)),
        "a copy of a moving target"
    );
    assert!(!to.exists());
    assert_eq!(dump(&path).unwrap().zones[25].condition, Condition::ExplicitOpen);
}

/// Damage of every kind that can be repaired, and what comes out.
#[test]
fn repair_brings_back_what_was_written_and_says_what_is_lost() {
    let (_directory, path) = used(Model::HostManaged, false);
    let before = Contents::at(&path);
    write_raw(&path, 4096, &[0; 512]);
    set_latest(&path, 4, 5); // in its second life, not flushed
    set_latest(&path, 5, 1 << 63);
    set_latest(&path, 10, 1 << 63); // never flushed
    set_latest(&path, 0, 1); // conventional
    write_raw(&path, TABLE + 6 * 64, &[0xff; 64]); // all of it
    let damaged = fs::read(&path).unwrap();
    let image = Image::open(&path, &options(BOOT));
    assert!(matches!(image.unwrap_err().reason, Refusal::BadRecord { zone: 0, .. }));

    let state = State::with(damaged);
    let report = repair_on(Box::new(state.medium()), Some(BOOT)).unwrap();
    assert_eq!(report.recovery, Recovery::ProcessDied);
    let names: Vec<_> = report
        .repairs
        .iter()
        .map(|repair| match repair {
            Repair::Flushed { zone, .. } => format!("flushed {}", zone.0),
            Repair::Offline { zone, .. } => format!("offline {}", zone.0),
            Repair::Superblock { at } => format!("superblock {at}"),
            other => format!("{other:?}"),
        })
        .collect();
    let expected = [
        "flushed 0",
        "flushed 4",
        "flushed 5",
        "offline 6",
        "flushed 10",
        "superblock 4096",
        "Recovered",
    ];
    assert_eq!(names, expected);
    let after = Contents::in_bytes(state.bytes(), NEXT_BOOT).unwrap();
    let mut hoped = before.clone();
    (hoped.states[4], hoped.data[4]) =
        (Snapshot::new(Condition::Closed, Sector(17)), pattern(4, 17 * 512));
    (hoped.states[6], hoped.data[6]) = (Snapshot::new(Condition::Offline, Sector(0)), Vec::new());
    (hoped.states[10], hoped.data[10]) = (Snapshot::EMPTY, Vec::new());
    assert!(after == hoped, "{:?}", after.states);
    let check = CheckOptions { deep: true, boot: Some(BOOT), force: false };
    assert!(check_on(&state.medium(), &check, &mut |_| {}).unwrap().is_sound());
    // Again, and there is nothing to do.
    let again = repair_on(Box::new(state.medium()), Some(BOOT)).unwrap();
    assert_eq!((again.recovery, again.repairs), (Recovery::Clean, vec![]));
}

/// One copy of a record is torn by a crash, which is as it should be, or damaged where nobody crashed.
#[test]
fn a_copy_that_does_not_count_is_cleared() {
    for close in [false, true] {
        let (_directory, path) = used(Model::HostManaged, close);
        let before = Contents::in_bytes(fs::read(&path).unwrap(), BOOT).unwrap();
        write_raw(&path, TABLE + 5 * 64 + 40, &[1; 24]);
        let report = checked(&path, false);
        let found = report.findings.iter().find(|finding| finding.zone == Some(ZoneId(5))).unwrap();
        let problem = if close { Problem::DamagedCopy } else { Problem::TornCopy };
        assert_eq!((&found.problem, report.is_sound()), (&problem, !close));
        let state = State::of(&path);
        let repairs = repair_on(Box::new(state.medium()), Some(BOOT)).unwrap().repairs;
        let done = if close { Repair::Copy { zone: ZoneId(5) } } else { Repair::Recovered };
        assert_eq!(repairs, [done]);
        assert!(Contents::in_bytes(state.bytes(), BOOT).unwrap() == before);
        let check = CheckOptions { boot: Some(BOOT), ..CheckOptions::default() };
        let report = check_on(&state.medium(), &check, &mut |_| {}).unwrap();
        assert!(
            !report.findings.iter().any(|finding| finding.zone == Some(ZoneId(5))),
            "{report:?}"
        );
    }
}

#[test]
fn a_file_that_was_cut_off_loses_only_what_was_there() {
    let (_directory, path) = used(Model::HostManaged, true);
    let before = Contents::at(&path);
    let whole = fs::metadata(&path).unwrap().len();
    let cut = |len| File::options().write(true).open(&path).unwrap().set_len(len).unwrap();
    // Nothing but free slots.
    cut(SLOTS + 20 * SLOT);
    let report = repair(&path).unwrap();
    let from = SLOTS + 20 * SLOT;
    assert_eq!(report.repairs, [Repair::Lengthened { from, to: whole }]);
    assert!(Contents::at(&path) == before);
    // All slots but three.
    cut(SLOTS + 3 * SLOT);
    let report = repair(&path).unwrap();
    assert_eq!(report.repairs.len(), 6, "{report:?}");
    let after = Contents::at(&path);
    for zone in 0..40 {
        let lost = [4, 6, 8, 10, 39].contains(&zone);
        if lost {
            assert_eq!(after.states[zone].condition(), Condition::Offline);
        } else {
            assert_eq!(after.states[zone], before.states[zone]);
            assert!(after.data[zone] == before.data[zone]);
        }
    }
    assert_eq!(problems(&path), []);
    // A conventional zone.
    cut((1 << 20) + 500 * 512);
    repair(&path).unwrap();
    let after = Contents::at(&path);
    assert_eq!(after.states[0], Snapshot::CONVENTIONAL);
    assert_eq!(after.states[1].condition(), Condition::Offline);
    // A plain disk says nothing of where its data is.
    let (_directory, path) = used(Model::None, true);
    File::options().write(true).open(&path).unwrap().set_len(2 << 20).unwrap();
    let error = repair(&path).unwrap_err().reason;
    assert!(matches!(error, RepairError::Open(Refusal::CutOff { .. })), "{error}");
}

#[test]
fn resize_adds_zones_and_keeps_everything() {
    for model in [Model::HostManaged, Model::HostAware] {
        for close in [true, false] {
            let (_directory, path) = used(model, close);
            let mut expected = Contents::at(&path);
            let mut capacity = 384 * 39 + 64;
            // A larger last zone, zones, zones for which the table must move, and often.
            let many = model == Model::HostManaged && close;
            let steps: &[u64] = if many { &[0, 1, 60, 20_000, 1, 900] } else { &[0, 0, 1, 60] };
            for &zones in steps {
                capacity = if zones == 0 { capacity + 100 } else { capacity + zones * 384 - 11 };
                let image = Image::open(&path, &options(BOOT)).unwrap();
                image.resize(Sector(capacity)).unwrap();
                let count = capacity.div_ceil(384) as usize;
                expected.states.resize(count, Snapshot::EMPTY);
                expected.data.resize(count, Vec::new());
                expected.capacity = capacity;
                let found = Contents::at(&path);
                assert_eq!(found.states, expected.states, "{zones}");
                if model == Model::HostManaged {
                    assert!(found == expected, "{zones}");
                }
                assert_eq!(problems(&path), []);
            }
            let blocks = fs::metadata(&path).unwrap().blocks();
            assert!(blocks * 512 < 8 << 20, "{blocks}");
            // All of it can be written.
            let volume = Arc::new(Image::open(&path, &options(BOOT)).unwrap());
            let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
            let last = u64::from(volume.shape().geometry.unwrap().zone_count()) - 1;
            let mut rng = Rng::new(1);
            for zone in [last / 2, last - 1, last] {
                let data = pattern(zone, 10 * 512);
                worker.write(zone * 384, &data, &mut rng).unwrap();
                assert!(worker.read(zone * 384, 10, &mut rng).unwrap() == data);
            }
        }
    }
}

#[test]
fn a_plain_disk_grows_by_zeroes() {
    let (_directory, path) = used(Model::None, true);
    let mut expected = Contents::at(&path);
    // What lies after the image is not the disk's.
    let end = fs::metadata(&path).unwrap().len();
    write_raw(&path, end, &[7; 100_000]);
    resize(&path, Sector(384 * 39 + 64 + 1000)).unwrap();
    expected.capacity += 1000;
    let len = expected.data[0].len() + 1000 * 512;
    expected.data[0].resize(len, 0);
    assert!(Contents::at(&path) == expected);
    assert_eq!(problems(&path), []);
}

#[test]
fn what_makes_no_larger_disk_is_refused() {
    let (_directory, path) = used(Model::HostManaged, true);
    let before = Contents::at(&path);
    let refused = |capacity| resize(&path, Sector(capacity)).unwrap_err().reason;
    assert!(matches!(refused(384 * 39), ResizeError::Shrinks { .. }));
    assert!(matches!(refused(0), ResizeError::Shrinks { .. }));
    assert!(matches!(refused(u64::MAX / 2), ResizeError::Geometry(_)));
    let capacity = Sector(384 * 39 + 64);
    assert_eq!(inspect(&path).unwrap().capacity, capacity);
    resize(&path, capacity).unwrap();
    let image = Arc::new(Image::open(&path, &options(BOOT)).unwrap());
    let _engine = Arc::clone(&image).engine(1);
    drop(_engine);
    let engine = Arc::clone(&image).engine(1).unwrap();
    let image = Arc::into_inner(image).unwrap();
    assert!(matches!(image.resize(Sector(384 * 80)), Err(ResizeError::Busy)));
    drop(engine);
    let read_only = OpenOptions { read_only: true, ..options(BOOT) };
    let image = Image::open(&path, &read_only).unwrap();
    assert!(matches!(image.resize(Sector(384 * 80)), Err(ResizeError::Busy)));
    resize(&path, capacity).unwrap();
    assert!(Contents::at(&path) == before);
}

#[test]
fn a_copy_is_the_same_disk_under_another_name() {
    for close in [true, false] {
        let (_directory, path) = used(Model::HostManaged, close);
        let to = path.with_extension("copy");
        let cloned = Image::clone_file(&path, &to, &CloneOptions::default(), &mut |_| {}).unwrap();
        if let Cloned::Copy(bytes) = cloned {
            assert!(bytes < 2 << 20, "not the holes: {bytes}");
        }
        assert!(Contents::at(&path) == Contents::at(&to));
        assert!(fs::metadata(&to).unwrap().blocks() <= fs::metadata(&path).unwrap().blocks() + 64);
        let (a, b) = (inspect(&path).unwrap(), inspect(&to).unwrap());
        assert_ne!((a.uuid, a.id), (b.uuid, b.id));
        assert_eq!(a.state, b.state);
        assert_eq!(problems(&to), []);

        let again = Image::clone_file(&path, &to, &CloneOptions::default(), &mut |_| {});
        assert!(matches!(again, Err(CloneError::To(CreateError::Exists(_)))));
        let backup = CloneOptions { force: true, same_identity: true };
        Image::clone_file(&path, &to, &backup, &mut |_| {}).unwrap();
        assert!(fs::read(&path).unwrap() == fs::read(&to).unwrap());
    }
    let (_directory, path) = used(Model::None, true);
    let onto_itself = CloneOptions { force: true, ..CloneOptions::default() };
    let error = Image::clone_file(&path, &path, &onto_itself, &mut |_| {});
    assert!(matches!(error, Err(CloneError::Itself { .. })), "{error:?}");
}

fn state(zone: u32, condition: Condition, written: u64) -> ZoneState {
    ZoneState { zone: ZoneId(zone), condition, written: Sector(written) }
}

#[test]
fn zones_can_be_put_into_any_state() {
    let (_directory, path) = used(Model::HostManaged, true);
    let before = Contents::at(&path);
    let zones = vec![
        state(1, Condition::Offline, 0),
        state(2, Condition::Full, 8),
        state(4, Condition::Closed, 100),
        state(5, Condition::Empty, 0),
        state(30, Condition::Closed, 328),
        state(31, Condition::ExplicitOpen, 0),
        state(32, Condition::ReadOnly, 328),
    ];
    load(&path, &ZoneTable { zones: zones.clone() }).unwrap();
    let mut expected = before.clone();
    for ZoneState { zone, condition, written } in zones {
        expected.states[zone.0 as usize] = Snapshot::new(condition, written);
    }
    expected.data[4] = vec![0; 100 * 512];
    expected.data[5] = Vec::new();
    expected.data[30] = vec![0; 328 * 512];
    expected.data[32] = vec![0; 328 * 512];
    assert!(Contents::at(&path) == expected);
    assert_eq!(problems(&path), []);
    // What is loaded is what is dumped, and nothing of an old life comes back.
    let table = dump(&path).unwrap();
    assert_eq!(table.zones.len(), 40);
    load(&path, &table).unwrap();
    assert_eq!(dump(&path).unwrap(), table);
    let volume = Arc::new(Image::open(&path, &options(BOOT)).unwrap());
    let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
    worker.write(4 * 384 + 100, &pattern(7, 512), &mut Rng::new(1)).unwrap();
    volume.record(ZoneId(4), Snapshot::new(Condition::Closed, Sector(101)));
    let read = worker.read(4 * 384, 101, &mut Rng::new(1)).unwrap();
    assert!(read[..100 * 512].iter().all(|b| *b == 0) && read[100 * 512..] == pattern(7, 512));
}

#[test]
fn states_that_no_zone_can_have_are_refused() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("disk.zvb");
    let mut create = create_options(Model::HostManaged);
    let spec = create.zones.as_mut().unwrap();
    (spec.max_open, spec.max_active) = (2, 3);
    Image::create(&path, &create).unwrap();
    let before = Contents::at(&path);
    let refused = |zones: &[ZoneState]| {
        let error = load(&path, &ZoneTable { zones: zones.to_vec() }).unwrap_err();
        assert!(Contents::at(&path) == before);
        error.reason
    };
    let one = |zone, condition, written| refused(&[state(zone, condition, written)]);
    assert!(matches!(one(40, Condition::Full, 0), LoadError::NoSuchZone { zone: 40, count: 40 }));
    let bad = |error| matches!(error, LoadError::State { .. });
    assert!(bad(one(0, Condition::Empty, 0)));
    assert!(bad(one(5, Condition::NotWp, 0)));
    assert!(bad(one(5, Condition::Full, 329)));
    assert!(bad(one(39, Condition::Closed, 65)));
    assert!(bad(one(5, Condition::Empty, 8)));
    assert!(bad(one(5, Condition::Full, u64::MAX)));
    assert!(bad(one(1, Condition::ReadOnly, 8)));
    let twice = refused(&[state(5, Condition::Full, 0), state(5, Condition::Full, 0)]);
    assert!(matches!(twice, LoadError::Twice(5)));
    let open = |n: u32, condition| {
        refused(&(5..5 + n).map(|zone| state(zone, condition, 8)).collect::<Vec<_>>())
    };
    let error = open(3, Condition::ImplicitOpen);
    assert!(matches!(error, LoadError::TooManyOpen { open: 3, limit: 2 }), "{error}");
    assert!(matches!(open(4, Condition::Closed), LoadError::States(_)));
    let (_directory, plain) = used(Model::None, true);
    let error = load(&plain, &ZoneTable::default()).unwrap_err();
    assert!(matches!(error.reason, LoadError::Plain));
}

/// Runs `change` on `bytes`, ended by every one of its changes, and looks at what each leaves behind: to
/// a process that died there, and to a host. Returns how many ends there are.
fn at_every_end(
    bytes: &[u8],
    change: impl Fn(&Arc<State>) -> bool,
    look: impl Fn(Vec<u8>, [u8; 16], &str),
) -> u64 {
    for end in 1.. {
        let state = State::with(bytes.to_vec());
        state.end_at.store(end, Ordering::Relaxed);
        let done = change(&state);
        assert!(end < 500, "it never ends");
        look(state.bytes(), BOOT, &format!("process dead at {end}"));
        for seed in 0..4 {
            let left = state.after_power_loss(&mut Rng::new(seed));
            look(left, NEXT_BOOT, &format!("host dead at {end}, seed {seed}"));
        }
        if done {
            return end;
        }
    }
    0
}

/// An image that is closed, so that the deaths of the process and of the host find the same, and small.
fn settled(model: Model) -> Vec<u8> {
    let (_directory, path) = used_with(model, 12, true);
    fs::read(path).unwrap()
}

#[test]
fn an_interrupted_resize_leaves_the_old_image_or_the_new() {
    for (model, capacity) in [
        (Model::HostManaged, 384 * 13),
        (Model::HostAware, 384 * 11 + 200),
        (Model::None, 384 * 20),
    ] {
        let bytes = settled(model);
        let old = Contents::in_bytes(bytes.clone(), BOOT).unwrap();
        let grow = |state: &Arc<State>| {
            let opened = state.open(&options(BOOT));
            opened.is_ok_and(|image| image.resize(Sector(capacity)).is_ok())
        };
        let state = State::with(bytes.clone());
        assert!(grow(&state));
        let new = Contents::in_bytes(state.bytes(), BOOT).unwrap();
        assert_eq!(new.capacity, capacity);
        let ends = at_every_end(&bytes, grow, |left, boot, when| {
            let found = Contents::in_bytes(left, boot).unwrap();
            assert!(found == old || found == new, "{when}: a third thing");
        });
        assert!(ends > 10, "{ends}");
    }
}

/// The same of an image that a dead process left: to open it is the first of its changes.
#[test]
fn a_change_of_what_a_crash_left_that_is_interrupted_is_no_third_thing_either() {
    let (_directory, path) = used_with(Model::HostManaged, 12, false);
    let bytes = fs::read(path).unwrap();
    let seen = |boot| Contents::in_bytes(bytes.clone(), boot).unwrap();
    let (latest, flushed) = (seen(BOOT), seen(NEXT_BOOT));
    assert!(latest != flushed);
    let table = ZoneTable { zones: vec![state(9, Condition::Full, 20)] };
    type Change<'a> = &'a dyn Fn(Image) -> bool;
    let changes: [Change<'_>; 2] =
        [&|image| image.resize(Sector(384 * 13)).is_ok(), &|image| image.load(&table).is_ok()];
    for change in changes {
        let run = |state: &Arc<State>| state.open(&options(BOOT)).is_ok_and(change);
        let state = State::with(bytes.clone());
        assert!(run(&state));
        let new = Contents::in_bytes(state.bytes(), BOOT).unwrap();
        assert!(new != latest);
        let ends = at_every_end(&bytes, run, |left, boot, when| {
            let found = Contents::in_bytes(left, boot).unwrap();
            let is = |zone: usize, other: &Contents| {
                found.states[zone] == other.states[zone] && found.data[zone] == other.data[zone]
            };
            // What no flush covers may be there or not, zone by zone, when the host dies.
            let old = found.capacity == latest.capacity
                && (0..12).all(|zone| is(zone, &latest) || boot == NEXT_BOOT && is(zone, &flushed));
            assert!(old || found == new, "{when}: a third thing");
        });
        assert!(ends > 10, "{ends}");
    }
}

#[test]
fn an_interrupted_load_leaves_the_old_states_or_the_new() {
    let bytes = settled(Model::HostAware);
    let old = Contents::in_bytes(bytes.clone(), BOOT).unwrap();
    let zones = (2..11).map(|zone| state(zone, Condition::Full, 20 + u64::from(zone))).collect();
    let table = ZoneTable { zones };
    let put = |state: &Arc<State>| {
        state.open(&options(BOOT)).is_ok_and(|image| image.load(&table).is_ok())
    };
    let state = State::with(bytes.clone());
    assert!(put(&state));
    let new = Contents::in_bytes(state.bytes(), BOOT).unwrap();
    at_every_end(&bytes, put, |left, boot, when| {
        let found = Contents::in_bytes(left, boot).unwrap();
        assert!(found == old || found == new, "{when}: a third thing");
    });
}

#[test]
fn an_interrupted_repair_can_be_begun_again() {
    let (_directory, path) = used_with(Model::HostManaged, 12, true);
    write_raw(&path, 0, &[0; 512]);
    set_latest(&path, 5, 1 << 63);
    write_raw(&path, TABLE + 2 * 64, &[0xff; 64]);
    File::options().write(true).open(&path).unwrap().set_len(SLOTS + 4 * SLOT).unwrap();
    let bytes = fs::read(&path).unwrap();
    assert!(Contents::in_bytes(bytes.clone(), BOOT).is_err());
    let mend = |state: &Arc<State>| repair_on(Box::new(state.medium()), Some(BOOT)).is_ok();
    let state = State::with(bytes.clone());
    assert!(mend(&state));
    let new = Contents::in_bytes(state.bytes(), BOOT).unwrap();
    at_every_end(&bytes, mend, |left, boot, when| {
        if let Ok(found) = Contents::in_bytes(left.clone(), boot) {
            assert!(found == new, "{when}: a third thing");
            return;
        }
        let state = State::with(left);
        repair_on(Box::new(state.medium()), Some(boot)).unwrap();
        let found = Contents::in_bytes(state.bytes(), boot).unwrap();
        assert!(found == new, "{when}: not repaired");
    });
}

#[test]
fn an_interrupted_create_leaves_nothing_or_all() {
    let (_directory, path) = used(Model::HostManaged, true);
    let create = create_options(Model::HostManaged);
    let len = fs::metadata(&path).unwrap().len() as usize;
    let make = |state: &Arc<State>| Image::create_on(&state.medium(), &create).is_ok();
    at_every_end(&vec![0; len], make, |left, boot, when| match Contents::in_bytes(left, boot) {
        Ok(found) => assert!(found.states[2..].iter().all(|s| *s == Snapshot::EMPTY), "{when}"),
        // Such a file has no name yet.
        Err(Refusal::Foreign) => {}
        Err(other) => panic!("{when}: {other}"),
    });
    // A failed copy leaves no file either.
    let nowhere = path.parent().unwrap().join("no/where");
    assert!(Image::clone_file(&path, &nowhere, &CloneOptions::default(), &mut |_| {}).is_err());
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}
