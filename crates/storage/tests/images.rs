//! Image files: made, refused, locked, looked at; and their bytes, which must stay what they are.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod support;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use support::faulty::State;
use support::{Rng, Worker, create_options, pattern};
use zvb_storage::{
    BadSuperblock, CommitBy, CreateError, CreateOptions, EngineKind, Image, ImageState, Op,
    OpenOptions, RecordError, Recovery, Refusal, Volume, inspect,
};
use zvb_wire::{Condition, Model, Sector};
use zvb_zones::{GeometrySpec, Snapshot, ZoneId};

const TABLE: u64 = 8192;

struct Fixture {
    directory: tempfile::TempDir,
    path: PathBuf,
}

fn fixture(model: Model) -> Fixture {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("disk.zvb");
    Image::create(&path, &create_options(model)).unwrap();
    Fixture { directory, path }
}

fn options() -> OpenOptions {
    OpenOptions { engine: EngineKind::Sync, commit: CommitBy::Caller, ..OpenOptions::default() }
}

fn refused(path: &Path) -> Refusal {
    let error = Image::open(path, &options()).unwrap_err();
    assert_eq!(error.path, path);
    assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
    error.reason
}

/// Writes `bytes` over the image, and makes the checksums of the superblocks right again.
fn patch(path: &Path, at: u64, bytes: &[u8]) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    for copy in [0, 4096] {
        let mut block = [0; 512];
        file.read_exact_at(&mut block, copy).unwrap();
        block[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        let sum = crc32c::crc32c(&block[..508]);
        block[508..].copy_from_slice(&sum.to_le_bytes());
        file.write_all_at(&block, copy).unwrap();
    }
}

fn write_raw(path: &Path, at: u64, bytes: &[u8]) {
    File::options().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

#[test]
fn what_is_no_image_is_refused_with_the_reason() {
    let f = fixture(Model::HostManaged);
    let other = |name: &str| f.directory.path().join(name);
    assert!(matches!(refused(&other("nothing")), Refusal::NotFound));
    assert!(matches!(refused(f.directory.path()), Refusal::NotAFile("a directory")));
    assert!(matches!(refused(Path::new("/dev/null")), Refusal::NotAFile("a character device")));
    fs::write(other("empty"), b"").unwrap();
    assert!(matches!(refused(&other("empty")), Refusal::Empty));
    fs::write(other("short"), [1; 511]).unwrap();
    assert!(matches!(refused(&other("short")), Refusal::TooShort(511)));
    fs::write(other("foreign"), [1; 512]).unwrap();
    assert!(matches!(refused(&other("foreign")), Refusal::Foreign));
    fs::write(other("foreign"), [0; 100_000]).unwrap();
    assert!(matches!(refused(&other("foreign")), Refusal::Foreign));
    if !rustix::process::getuid().is_root() {
        fs::set_permissions(&f.path, fs::Permissions::from_mode(0o000)).unwrap();
        assert!(matches!(refused(&f.path), Refusal::Permission));
    }
}

#[test]
fn what_is_newer_or_unknown_is_refused_as_far_as_needed() {
    let f = fixture(Model::HostManaged);
    let read_only = OpenOptions { read_only: true, ..options() };
    patch(&f.path, 8, &2u32.to_le_bytes());
    assert!(matches!(refused(&f.path), Refusal::NewerVersion { found: 2, known: 1 }));
    patch(&f.path, 8, &1u32.to_le_bytes());
    patch(&f.path, 12, &0x10u32.to_le_bytes());
    Image::open(&f.path, &options()).unwrap().close().unwrap();
    assert_eq!(inspect(&f.path).unwrap().unknown_features, 0x10);
    patch(&f.path, 16, &4u32.to_le_bytes());
    assert!(matches!(refused(&f.path), Refusal::ReadOnlyFeatures(4)));
    Image::open(&f.path, &read_only).unwrap();
    patch(&f.path, 20, &8u32.to_le_bytes());
    assert!(matches!(refused(&f.path), Refusal::UnknownFeatures(8)));
    let error = Image::open(&f.path, &read_only).unwrap_err();
    assert!(matches!(error.reason, Refusal::UnknownFeatures(8)));
}

#[test]
fn a_torn_superblock_is_replaced_by_the_other() {
    for torn in [0, 4096] {
        let f = fixture(Model::HostManaged);
        write_raw(&f.path, torn + 100, b"torn");
        Image::open(&f.path, &options()).unwrap().close().unwrap();
        // Opening mended it.
        write_raw(&f.path, 4096 - torn, &[0; 512]);
        Image::open(&f.path, &options()).unwrap().close().unwrap();
        write_raw(&f.path, 100, b"torn");
        write_raw(&f.path, 4096 + 100, b"torn");
        assert!(matches!(refused(&f.path), Refusal::Torn));
    }
}

#[test]
fn a_superblock_that_makes_no_sense_is_refused() {
    let bad = |at: u64, bytes: &[u8]| {
        let f = fixture(Model::HostManaged);
        patch(&f.path, at, bytes);
        match refused(&f.path) {
            Refusal::Superblock(bad) => bad,
            other => panic!("{at}: {other}"),
        }
    };
    use BadSuperblock::{Field, Geometry, Regions};
    assert_eq!(bad(68, &3u32.to_le_bytes()), Field("block size"));
    assert_eq!(bad(72, &0u64.to_le_bytes()), Field("capacity"));
    assert!(matches!(bad(80, &0u64.to_le_bytes()), Geometry(_)));
    assert_eq!(bad(120, &41u32.to_le_bytes()), Field("number of zones"));
    assert_eq!(bad(124, &37u32.to_le_bytes()), Regions, "fewer slots than zones");
    assert_eq!(bad(124, &u32::MAX.to_le_bytes()), Regions);
    for region in [128, 136, 144] {
        for place in [0u64, 4096, 8193, 1 << 62, u64::MAX, u64::MAX - 4095] {
            assert_eq!(bad(region, &place.to_le_bytes()), Regions, "{region} {place}");
        }
    }
    assert_eq!(bad(152, &4096u64.to_le_bytes()), Regions, "slots that are too small");
    assert_eq!(bad(160, &8192u64.to_le_bytes()), Regions, "a file that ends before its regions");
    assert_eq!(bad(168, &[3]), Field("zone model"));
    assert_eq!(bad(169, &[3]), Field("state"));
}

#[test]
fn slots_of_a_plain_disk_are_not_looked_at() {
    let f = fixture(Model::None);
    // Each takes memory, where there are any.
    patch(&f.path, 124, &u32::MAX.to_le_bytes());
    patch(&f.path, 152, &u64::MAX.to_le_bytes());
    Image::open(&f.path, &options()).unwrap().close().unwrap();
    let slots = &fs::read(&f.path).unwrap()[124..128];
    assert_eq!(slots, [0; 4]);
}

#[test]
fn an_image_that_was_cut_off_is_refused() {
    let f = fixture(Model::HostManaged);
    let len = fs::metadata(&f.path).unwrap().len();
    File::options().write(true).open(&f.path).unwrap().set_len(len - 1).unwrap();
    let refusal = refused(&f.path);
    assert!(matches!(refusal, Refusal::Truncated { expected, .. } if expected == len), "{refusal}");
}

#[test]
fn a_bad_record_is_refused_by_its_zone() {
    let latest = |zone: u64, word: u64| {
        let f = fixture(Model::HostManaged);
        drop(Image::open(&f.path, &options()).unwrap());
        write_raw(&f.path, TABLE + zone * 64, &word.to_le_bytes());
        match refused(&f.path) {
            Refusal::BadRecord { zone: found, source } => {
                assert_eq!(u64::from(found), zone);
                source
            }
            other => panic!("{other}"),
        }
    };
    let slot = |n: u64| (n + 1) << 37;
    let open = |written: u64| 2 | written << 4;
    assert_eq!(latest(3, 7), RecordError::State(7));
    assert_eq!(latest(3, 1 << 61), RecordError::State(1 << 61));
    assert!(matches!(latest(0, 1), RecordError::Condition { .. }));
    assert!(matches!(latest(5, slot(0)), RecordError::Condition { .. }));
    assert!(matches!(latest(5, open(329)), RecordError::Written { .. }));
    assert!(matches!(latest(5, open(8) | slot(46)), RecordError::Slot { slot: 46, slots: 46 }));
    assert!(matches!(latest(5, open(0) | slot(1)), RecordError::Slot { .. }));

    let f = fixture(Model::HostManaged);
    drop(Image::open(&f.path, &options()).unwrap());
    for zone in [4, 9] {
        write_raw(&f.path, TABLE + zone * 64, &(open(8) | slot(3)).to_le_bytes());
    }
    let refusal = refused(&f.path);
    let shared = RecordError::Shared { slot: 3 };
    assert!(matches!(refusal, Refusal::BadRecord { zone: 9, source } if source == shared));

    let f = fixture(Model::HostManaged);
    write_raw(&f.path, TABLE + 64 * 4, &open(8).to_le_bytes());
    let refusal = refused(&f.path);
    assert!(matches!(refusal, Refusal::BadRecord { zone: 4, source: RecordError::Differs }));

    let f = fixture(Model::HostManaged);
    write_raw(&f.path, TABLE + 64 * 4 + 16, &[1; 48]);
    let refusal = refused(&f.path);
    assert!(matches!(refusal, Refusal::BadRecord { zone: 4, source: RecordError::Torn }));
}

#[test]
fn one_writer_or_many_readers() {
    let f = fixture(Model::HostManaged);
    let read_only = OpenOptions { read_only: true, ..options() };
    let writer = Image::open(&f.path, &options()).unwrap();
    let us = std::process::id();
    assert!(matches!(refused(&f.path), Refusal::InUse { pid } if pid.is_none_or(|pid| pid == us)));
    let reader = Image::open(&f.path, &read_only);
    assert!(matches!(reader.unwrap_err().reason, Refusal::InUse { .. }));
    let mut again = create_options(Model::HostManaged);
    again.force = true;
    let replaced = Image::create(&f.path, &again);
    assert!(matches!(replaced, Err(CreateError::InUse { .. })), "{replaced:?}");
    writer.close().unwrap();
    drop(writer);
    let readers = [(); 2].map(|()| Image::open(&f.path, &read_only).unwrap());
    assert!(matches!(refused(&f.path), Refusal::InUse { .. }));
    drop(readers);
    Image::open(&f.path, &options()).unwrap();
}

#[test]
fn what_a_dead_process_has_under_way_is_waited_for() {
    let f = fixture(Model::HostManaged);
    let file = File::options().read(true).write(true).open(&f.path).unwrap();
    // It locks our open file, and is gone: as a server that was killed, with I/O that the kernel goes on with.
    let mut flock = std::process::Command::new("flock");
    let Ok(status) = flock.args(["--nonblock", "0"]).stdin(file.try_clone().unwrap()).status()
    else {
        eprintln!("not tried: there is no flock(1)");
        return;
    };
    assert!(status.success());
    drop(flock);
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| Image::open(&f.path, &options()).map(drop));
        std::thread::sleep(std::time::Duration::from_millis(60));
        assert!(!opened.is_finished(), "it is locked");
        drop(file);
        opened.join().unwrap().unwrap();
    });
}

#[test]
fn read_only_changes_nothing_and_hides_what_a_crash_left() {
    let f = fixture(Model::HostAware);
    let mut rng = Rng::new(1);
    let volume = Arc::new(Image::open(&f.path, &options()).unwrap());
    let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
    worker.write(384 * 4, &pattern(1, 20 * 512), &mut rng).unwrap();
    volume.record(ZoneId(4), Snapshot::new(Condition::ImplicitOpen, Sector(8)));
    drop((worker, volume));
    let before = fs::read(&f.path).unwrap();
    let times = fs::metadata(&f.path).unwrap().modified().unwrap();
    let volume = OpenOptions { read_only: true, ..options() };
    let volume = Arc::new(Image::open(&f.path, &volume).unwrap());
    assert_eq!(volume.recovery(), Recovery::ProcessDied);
    assert!(volume.shape().read_only);
    let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
    let mut expected = pattern(1, 20 * 512);
    expected[8 * 512..].fill(0);
    assert!(worker.read(384 * 4, 20, &mut rng).unwrap() == expected);
    assert!(worker.write(0, &pattern(1, 512), &mut rng).is_err());
    assert!(worker.one(0, Op::Discard { sectors: Sector(8) }).is_err());
    worker.one(0, Op::Flush).unwrap();
    volume.close().unwrap();
    drop((worker, volume));
    assert!(fs::read(&f.path).unwrap() == before);
    assert_eq!(fs::metadata(&f.path).unwrap().modified().unwrap(), times);
}

#[test]
fn inspect_looks_without_a_lock() {
    let f = fixture(Model::HostManaged);
    let info = inspect(&f.path).unwrap();
    assert_eq!(info.state, ImageState::Left(Recovery::Clean));
    assert_eq!(
        (info.capacity, info.zones.len()),
        (create_options(Model::HostManaged).capacity, 40)
    );
    let volume = Image::open(&f.path, &options()).unwrap();
    let state = Snapshot::new(Condition::Closed, Sector(9));
    volume.record(ZoneId(7), state);
    let info = inspect(&f.path).unwrap();
    // Where /proc/locks tells nothing, the image looks as if its process had died.
    let seen =
        [ImageState::InUse { pid: std::process::id() }, ImageState::Left(Recovery::ProcessDied)];
    assert!(seen.contains(&info.state), "{:?}", info.state);
    assert_eq!(info.zones[7], state);
    drop(volume);
    let info = inspect(&f.path).unwrap();
    assert_eq!(info.state, ImageState::Left(Recovery::ProcessDied));
    assert!(matches!(inspect(f.directory.path()).unwrap_err().reason, Refusal::NotAFile(_)));
}

#[test]
fn a_large_image_takes_no_room() {
    let f = fixture(Model::HostManaged);
    let path = f.directory.path().join("large.zvb");
    let capacity = Sector((8 << 40) / 512);
    let spec = GeometrySpec {
        model: Model::HostManaged,
        capacity,
        zone_size: Sector((256 << 20) / 512),
        zone_capacity: Sector((200 << 20) / 512),
        conventional: 16,
        max_open: 128,
        max_active: 128,
        max_append: Sector(256),
        write_granularity: 4096,
    };
    let mut large = CreateOptions {
        capacity,
        block_size: 4096,
        zones: Some(spec),
        ..create_options(Model::None)
    };
    Image::create(&path, &large).unwrap();
    assert!(fs::metadata(&path).unwrap().blocks() * 512 < 1 << 20);
    let image = Image::open(&path, &options()).unwrap();
    assert_eq!(image.recovered().len(), 32768);
    image.close().unwrap();
    drop(image);
    assert!(fs::metadata(&path).unwrap().blocks() * 512 < 4 << 20);

    large.force = true;
    large.capacity = Sector(u64::MAX / 8);
    assert!(matches!(Image::create(&path, &large), Err(CreateError::Capacity { .. })));
    large.zones = None;
    large.capacity = Sector(1 << 55);
    assert!(matches!(Image::create(&path, &large), Err(CreateError::TooLarge(_))));
}

#[test]
fn creating_never_leaves_half_a_file_and_never_replaces_by_accident() {
    let f = fixture(Model::None);
    let plain = create_options(Model::None);
    assert!(matches!(Image::create(&f.path, &plain), Err(CreateError::Exists(_))));
    let force = CreateOptions { force: true, ..plain.clone() };
    Image::create(&f.path, &force).unwrap();
    let directory = Image::create(f.directory.path(), &force);
    assert!(matches!(directory, Err(CreateError::NotAFile { kind: "a directory", .. })));
    let nowhere = Image::create(&f.directory.path().join("no/where"), &plain);
    assert!(matches!(nowhere, Err(CreateError::Io { .. })));
    let odd = CreateOptions { block_size: 768, ..force.clone() };
    assert!(matches!(Image::create(&f.path, &odd), Err(CreateError::BlockSize(768))));
    let mut coarse = CreateOptions { force: true, ..create_options(Model::HostManaged) };
    coarse.block_size = 4096;
    assert!(matches!(Image::create(&f.path, &coarse), Err(CreateError::Granularity { .. })));
    let names: Vec<_> = fs::read_dir(f.directory.path()).unwrap().map(|e| e.unwrap()).collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

/// The superblock of a known image: a change here is a change of the format.
#[test]
fn the_bytes_are_what_the_format_says() {
    let f = fixture(Model::None);
    let mut options = create_options(Model::HostManaged);
    options.uuid = Some(*b"0123456789abcdef");
    options.force = true;
    Image::create(&f.path, &options).unwrap();
    let bytes = fs::read(&f.path).unwrap();
    let mut expected = Vec::new();
    expected.extend(*b"zvbimg\r\n");
    for n in [1u32, 0, 0, 0] {
        expected.extend(n.to_le_bytes());
    }
    expected.extend(2u64.to_le_bytes());
    expected.extend(*b"0123456789abcdef");
    expected.extend(*b"zvb-3031323334353637");
    expected.extend(512u32.to_le_bytes());
    for n in [384 * 39 + 64u64, 384, 328, 64] {
        expected.extend(n.to_le_bytes());
    }
    for n in [2u32, 0, 0, 512, 40, 46] {
        expected.extend(n.to_le_bytes());
    }
    let slots_at = (1 << 20) + (1 << 20);
    for n in [8192u64, 1 << 20, slots_at, 41 * 4096, slots_at + 46 * 41 * 4096] {
        expected.extend(n.to_le_bytes());
    }
    expected.extend([1, 0]);
    expected.resize(508, 0);
    expected.extend(crc32c::crc32c(&expected).to_le_bytes());
    assert_eq!(expected, &bytes[..512]);
    assert_eq!(bytes[4096 + 24..4096 + 32], 1u64.to_le_bytes());
    assert!(bytes[8192..].iter().all(|b| *b == 0));
    assert_eq!(bytes.len() as u64, slots_at + 46 * 41 * 4096);
}

/// A record of a known zone, in the same way.
#[test]
fn the_record_of_a_zone_is_what_the_format_says() {
    let f = fixture(Model::HostManaged);
    let volume = Arc::new(Image::open(&f.path, &options()).unwrap());
    let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
    worker.write(384 * 3, &pattern(1, 4096), &mut Rng::new(1)).unwrap();
    volume.record(ZoneId(3), Snapshot::new(Condition::Closed, Sector(8)));
    worker.one(0, Op::Flush).unwrap();
    let bytes = fs::read(&f.path).unwrap();
    let word = 4 | 8 << 4 | 1u64 << 37;
    let mut sum = 3u32.to_le_bytes().to_vec();
    sum.extend(word.to_le_bytes());
    sum.extend(1u64.to_le_bytes());
    let sum = u64::from(crc32c::crc32c(&sum)) | 1 << 32;
    let record: Vec<u8> =
        [word, 0, word, 1, sum, 0, 0, 0].iter().flat_map(|w: &u64| w.to_le_bytes()).collect();
    assert_eq!(record, &bytes[8192 + 192..8192 + 256]);
    assert!(bytes[2 << 20..(2 << 20) + 4096] == pattern(1, 4096));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Any damage to the metadata is refused, or does no harm: the disk is as large as it says, and can
    /// be read and written.
    #[test]
    fn damage_is_refused_or_harmless(
        damage in prop::collection::vec((0..8192 + 40 * 64usize, any::<u8>()), 1..6),
        mend in any::<bool>(),
        dirty in any::<bool>(),
    ) {
        let mut bytes = template(dirty);
        for (at, value) in damage {
            bytes[at] = value;
        }
        if mend {
            for copy in [0, 4096] {
                let sum = crc32c::crc32c(&bytes[copy..copy + 508]);
                bytes[copy + 508..copy + 512].copy_from_slice(&sum.to_le_bytes());
            }
        }
        let medium = State::with(bytes);
        let options = OpenOptions { boot: Some([7; 16]), ..options() };
        let Ok(volume) = medium.open(&options) else { return Ok(()) };
        let volume = Arc::new(volume);
        let capacity = volume.shape().capacity.0;
        let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
        let mut rng = Rng::new(1);
        worker.read(0, capacity.min(2000), &mut rng).unwrap();
        worker.read(capacity - 1, 1, &mut rng).unwrap();
        worker.write(384 * 8, &pattern(1, 512), &mut rng).unwrap();
        worker.one(0, Op::Flush).unwrap();
        volume.close().unwrap();
    }
}

/// A used image, small.
fn template(dirty: bool) -> Vec<u8> {
    use std::sync::OnceLock;
    static TEMPLATES: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
    let make = |close: bool| {
        let f = fixture(Model::HostManaged);
        let options = OpenOptions { boot: Some([7; 16]), ..options() };
        let volume = Arc::new(Image::open(&f.path, &options).unwrap());
        let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
        for zone in 2..20 {
            worker.write(zone * 384, &pattern(zone, 512), &mut Rng::new(1)).unwrap();
            let state = Snapshot::new(Condition::ImplicitOpen, Sector(1));
            volume.record(ZoneId(zone as u32), state);
        }
        if close {
            volume.close().unwrap();
        }
        drop((worker, volume));
        fs::read(&f.path).unwrap()
    };
    TEMPLATES.get_or_init(|| [make(true), make(false)])[usize::from(dirty)].clone()
}
