//! Images of format version 1, kept: they must open for ever, with every zone and byte that they had.
//!
//! Goal: a change of the format that old images do not survive is found. Method: the sectors of three
//! images that are not all zeroes are committed as text (`tests/golden`); they are opened read-only, by
//! whoever is the current code, and compared with what was put into them. They are never written again;
//! for a new version add names, and `GOLDEN=write` makes what is not there.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod support;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use support::faulty::State;
use support::{Rng, Worker, pattern};
use zvb_storage::{
    CheckOptions, CommitBy, CreateOptions, EngineKind, Image, Op, OpenOptions, Recovery, Volume,
    check_on,
};
use zvb_wire::{Condition, Model, Sector};
use zvb_zones::{GeometrySpec, Snapshot, ZoneId};

const UUID: [u8; 16] = *b"golden image v1 ";
const BOOT: [u8; 16] = [1; 16];
const ZONE: u64 = 16;

fn options(read_only: bool) -> OpenOptions {
    OpenOptions {
        engine: EngineKind::Sync,
        commit: CommitBy::Caller,
        boot: Some(BOOT),
        read_only,
        ..OpenOptions::default()
    }
}

fn create_options(model: Model) -> CreateOptions {
    let spec = GeometrySpec {
        model,
        capacity: Sector(ZONE * 13 + 4),
        zone_size: Sector(ZONE),
        zone_capacity: Sector(if model == Model::HostAware { ZONE } else { 12 }),
        conventional: 2,
        max_open: 3,
        max_active: if model == Model::HostAware { 0 } else { 5 },
        max_append: Sector(8),
        write_granularity: 512,
    };
    CreateOptions {
        capacity: spec.capacity,
        block_size: 512,
        zones: (model != Model::None).then_some(spec),
        id: Some(*b"golden\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        uuid: Some(UUID),
        force: false,
    }
}

/// A zone in every condition, with so many sectors of data.
fn states() -> Vec<(u32, Condition, u64)> {
    vec![
        (1, Condition::Offline, 0),
        (2, Condition::ImplicitOpen, 3),
        (3, Condition::ExplicitOpen, 0),
        (4, Condition::Closed, 2),
        (5, Condition::Full, 12),
        (6, Condition::Full, 1),
        (7, Condition::ReadOnly, 1),
        (8, Condition::Offline, 0),
        (13, Condition::Full, 4),
    ]
}

fn data(zone: u32, sectors: u64) -> Vec<u8> {
    pattern(u64::from(zone) + 1000, sectors as usize * 512)
}

/// The image, made by what is here today; closed, or left by a process that died.
fn made(model: Model, close: bool) -> Vec<u8> {
    let state = State::with(vec![0; 4 << 20]);
    Image::create_on(&state.medium(), &create_options(model)).unwrap();
    let volume = Arc::new(state.open(&options(false)).unwrap());
    let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
    let mut rng = Rng::new(1);
    worker.write(1, &data(0, 3), &mut rng).unwrap();
    if model != Model::None {
        for (zone, condition, sectors) in states() {
            if sectors > 0 {
                let at = u64::from(zone) * ZONE;
                worker.write(at, &data(zone, sectors), &mut rng).unwrap();
            }
            volume.record(ZoneId(zone), Snapshot::new(condition, Sector(sectors)));
        }
        worker.one(0, Op::Flush).unwrap();
        // Not flushed: one sector more in zone 2.
        worker.write(2 * ZONE + 3, &data(99, 1), &mut rng).unwrap();
        volume.record(ZoneId(2), Snapshot::new(Condition::ImplicitOpen, Sector(4)));
    }
    if close {
        volume.close().unwrap();
    }
    drop((worker, volume));
    state.bytes()
}

/// One line for the length, then one for each sector that is not all zeroes.
fn to_text(bytes: &[u8]) -> String {
    let mut text = format!("{}\n", bytes.len());
    for (sector, bytes) in bytes.chunks(512).enumerate().filter(|(_, b)| b.iter().any(|b| *b != 0))
    {
        let used = bytes.iter().rposition(|b| *b != 0).unwrap() + 1;
        write!(text, "{sector} ").unwrap();
        bytes[..used].iter().for_each(|b| write!(text, "{b:02x}").unwrap());
        text.push('\n');
    }
    text
}

fn from_text(text: &str) -> Vec<u8> {
    let mut lines = text.lines();
    let mut bytes = vec![0; lines.next().unwrap().parse().unwrap()];
    for line in lines {
        let (sector, digits) = line.split_once(' ').unwrap();
        let at = sector.parse::<usize>().unwrap() * 512;
        for (i, pair) in digits.as_bytes().chunks(2).enumerate() {
            let pair = std::str::from_utf8(pair).unwrap();
            bytes[at + i] = u8::from_str_radix(pair, 16).unwrap();
        }
    }
    bytes
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Every image that is kept.
const IMAGES: [(&str, Model, bool); 4] = [
    ("v1-host-managed.txt", Model::HostManaged, true),
    ("v1-host-managed-dirty.txt", Model::HostManaged, false),
    ("v1-host-aware.txt", Model::HostAware, true),
    ("v1-plain.txt", Model::None, true),
];

#[test]
fn images_of_version_1_open_for_ever() {
    for (name, model, closed) in IMAGES {
        let text = fs::read_to_string(golden(name)).unwrap();
        assert!(text.len() < 64 << 10, "{name} is large");
        let state = State::with(from_text(&text));
        for boot in [BOOT, [2; 16]] {
            let read_only = OpenOptions { boot: Some(boot), ..options(true) };
            let volume = Arc::new(state.open(&read_only).unwrap());
            let same_boot = boot == BOOT;
            let left = match (closed, same_boot) {
                (true, _) => Recovery::Clean,
                (false, true) => Recovery::ProcessDied,
                (false, false) => Recovery::HostDied,
            };
            assert_eq!(volume.recovery(), left, "{name}");
            verify(name, &volume, model, closed || same_boot);
            let check = CheckOptions { deep: true, boot: Some(boot), force: false };
            let report = check_on(&state.medium(), &check, &mut |_| {}).unwrap();
            assert!(report.is_sound(), "{name}: {report:?}");
        }
        // And it can be used.
        let volume = Arc::new(state.open(&options(false)).unwrap());
        let mut worker = Worker::new(Arc::clone(&volume) as _, 4);
        worker.write(9 * ZONE, &data(9, 1), &mut Rng::new(1)).unwrap();
        volume.close().unwrap();
    }
}

/// `latest` says whether what was not flushed is there.
fn verify(name: &str, volume: &Arc<Image>, model: Model, latest: bool) {
    let shape = volume.shape();
    let expected = create_options(model);
    assert_eq!((shape.capacity, shape.block_size), (expected.capacity, 512), "{name}");
    assert_eq!(shape.geometry.map(|g| *g.spec()), expected.zones, "{name}");
    assert_eq!(Some(shape.id), expected.id, "{name}");
    let mut worker = Worker::new(Arc::clone(volume) as _, 4);
    let mut rng = Rng::new(1);
    assert!(worker.read(1, 3, &mut rng).unwrap() == data(0, 3), "{name}");
    if model == Model::None {
        return;
    }
    let mut zones = vec![Snapshot::EMPTY; 14];
    zones[..2].fill(Snapshot::CONVENTIONAL);
    for (zone, condition, sectors) in states() {
        let at = u64::from(zone) * ZONE;
        let more = u64::from(zone == 2 && latest);
        zones[zone as usize] = Snapshot::new(condition, Sector(sectors + more));
        assert!(
            worker.read(at, sectors, &mut rng).unwrap() == data(zone, sectors),
            "{name} {zone}"
        );
        if more > 0 {
            assert!(worker.read(at + 3, 1, &mut rng).unwrap() == data(99, 1), "{name}");
        }
        if model == Model::HostAware && zone != 13 {
            let end = sectors + more;
            let above = worker.read(at + end, ZONE - end, &mut rng).unwrap();
            assert!(above.iter().all(|b| *b == 0), "{name} {zone}");
        }
    }
    assert_eq!(volume.recovered(), zones, "{name}");
}

#[test]
fn what_is_made_today_is_read_in_the_same_way() {
    for (name, model, close) in IMAGES {
        let bytes = made(model, close);
        let missing = !golden(name).exists();
        if missing && std::env::var_os("GOLDEN").is_some_and(|what| what == "write") {
            fs::write(golden(name), to_text(&bytes)).unwrap();
        }
        assert!(from_text(&to_text(&bytes)) == bytes);
        let volume = Arc::new(State::with(bytes).open(&options(true)).unwrap());
        verify(name, &volume, model, true);
    }
}
