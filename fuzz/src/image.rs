//! Image files: any bytes, and images that were damaged. Each is refused with a reason, in bounded memory,
//! or opens as a disk that keeps its word: its zones are in states that can be, looking at it and opening
//! it say the same, what is read-only is not changed, and what is written is there the next time.

mod compact;
mod file;

use std::path::Path;
use std::sync::Arc;

use zvb_storage::{
    CommitBy, EngineKind, Image, ImageInfo, ImageState, OpenOptions, Recovery, Refusal, Volume,
    inspect,
};
use zvb_wire::{Condition, Sector, ZoneType};
use zvb_zones::{Geometry, RestoreError, Snapshot, ZoneId, Zones};

use crate::input::Input;
use crate::memory::most_allocated_in;
pub(crate) use compact::{Kind, image};
use file::Worker;

/// Zones that are read and written of one disk.
const ZONES: usize = 40;

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let (choice, options) = (input.byte(), input.byte());
    let length = input.byte();
    let kind = [Kind::HostManaged, Kind::HostAware, Kind::Plain][usize::from(choice >> 2) % 3];
    let mut bytes = match choice % 4 {
        0 => {
            let all = input.0.to_vec();
            input = Input(&[]);
            all
        }
        _ => image(kind, options & 2 != 0),
    };
    while !input.is_empty() {
        damage(&mut bytes, &mut input);
    }
    if options & 1 != 0 {
        compact::mend(&mut bytes);
    }
    let len = match length {
        0..=0xdf => (bytes.len() as u64).max(compact::file_bytes(&bytes).min(1 << 20)),
        0xe0..=0xef => (bytes.len() as u64).saturating_sub(u64::from(length & 15) * 1000),
        // Much longer than anybody has room for.
        _ => 1 << 40,
    };
    let path = file::write(&bytes, len);
    check(path.as_ref(), len, options & 4 != 0);
}

/// One change of an image.
fn damage(bytes: &mut Vec<u8>, input: &mut Input<'_>) {
    let (what, value) = (input.byte(), input.byte());
    let len = usize::from(value % 8) + 1;
    let at = match what {
        // Both superblocks alike.
        0..=0x5f => {
            let at = usize::from(input.short() % 512);
            let new = input.bytes(len).to_vec();
            put(bytes, at, &new);
            return put(bytes, at + 4096, &new);
        }
        // A number of a zone's record: any, or one that makes sense by itself.
        0x60..=0xbf => {
            let at = compact::TABLE_AT + 64 * usize::from(what % 8) + 8 * usize::from(value % 8);
            let word = match input.byte() {
                0xc0.. => input.long(),
                condition => {
                    let written = input.below(10);
                    let slot = input.below(9);
                    u64::from(condition % 16) | written << 4 | slot << 37
                }
            };
            return put(bytes, at, &word.to_le_bytes());
        }
        0xc0..=0xdf => usize::from(input.short()) % 8192,
        _ => usize::from(input.short()),
    };
    let new = input.bytes(len).to_vec();
    put(bytes, at, &new);
}

fn put(bytes: &mut Vec<u8>, at: usize, new: &[u8]) {
    if bytes.len() < at + new.len() {
        bytes.resize(at + new.len(), 0);
    }
    bytes[at..at + new.len()].copy_from_slice(new);
}

fn options(read_only: bool) -> OpenOptions {
    OpenOptions {
        read_only,
        engine: EngineKind::Sync,
        commit: CommitBy::Caller,
        ..OpenOptions::default()
    }
}

fn check(path: &Path, len: u64, close: bool) {
    let before = file::read(path, 1 << 20);
    // What it takes to keep the state of zones, never what a superblock makes up.
    let bound = (1 << 20) + len.min(1 << 28) / 4;
    let (info, most) = most_allocated_in(|| inspect(path));
    assert!(most as u64 <= bound, "to look took {most} bytes of memory");
    let (opened, most) = most_allocated_in(|| Image::open(path, &options(true)));
    assert!(most as u64 <= bound, "to open took {most} bytes of memory");
    trace!("{:?}, {:?}", info.as_ref().map(|i| i.state), opened.as_ref().err());
    match (info, opened) {
        (Ok(info), Ok(image)) => {
            check_disk(&info, &image);
            read_all(&Arc::new(image));
        }
        (Err(_), Err(_)) => {}
        (info, opened) => panic!("looked at: {info:?}, opened: {opened:?}"),
    }
    assert!(before == file::read(path, 1 << 20), "an image opened read-only was changed");
    // A file that is longer than memory is not to be filled.
    if len <= 1 << 24 {
        write(path, close);
    }
}

/// What opened is a disk, and the same that was looked at.
fn check_disk(info: &ImageInfo, image: &Image) {
    let shape = image.shape();
    assert_eq!((info.capacity, info.block_size), (shape.capacity, shape.block_size));
    assert_eq!((info.geometry, info.id), (shape.geometry, shape.id));
    assert_eq!(info.state, ImageState::Left(image.recovery()));
    assert!(shape.capacity.0 > 0 && shape.capacity.to_bytes().is_some());
    assert!(shape.block_size.is_power_of_two());
    let states = image.recovered();
    assert_eq!(info.zones, states);
    let Some(geometry) = &shape.geometry else {
        assert!(states.is_empty());
        return;
    };
    assert_eq!(states.len(), geometry.zone_count() as usize);
    for (zone, state) in geometry.zones().zip(&states) {
        let (condition, written) = (state.condition(), state.written());
        let conventional = geometry.zone_type(zone) == ZoneType::Conventional;
        let dead = matches!(condition, Condition::ReadOnly | Condition::Offline);
        assert!(dead || conventional == (condition == Condition::NotWp), "{state:?}");
        assert!(written <= geometry.capacity(zone), "{state:?}");
        assert!(!conventional || written == Sector::ZERO, "{state:?}");
        assert!(condition != Condition::Empty || written == Sector::ZERO, "{state:?}");
    }
    match Zones::restore(*geometry, &states) {
        // Each zone by itself is right; all of them together may be too many.
        Ok(_) | Err(RestoreError::TooManyActive { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

/// The zones of a disk, or the ends of one without, that are looked into: first sector, length, and how
/// much of it is data.
fn places(image: &Image) -> Vec<(Option<ZoneId>, Sector, u64)> {
    let shape = image.shape();
    let Some(geometry) = &shape.geometry else {
        let last = shape.capacity.0 - 1;
        return vec![(None, Sector::ZERO, 1), (None, Sector(last), 1)];
    };
    let zones = geometry.zones().take(ZONES);
    let all = zones.chain(geometry.zones().next_back());
    all.map(|zone| (Some(zone), geometry.start(zone), geometry.capacity(zone).0.min(64))).collect()
}

fn read_all(image: &Arc<Image>) -> Vec<Vec<u8>> {
    let mut worker = Worker::new(image);
    places(image).into_iter().map(|(_, at, sectors)| worker.read(at, sectors)).collect()
}

/// Opens the image to write, writes, and finds it all again: after an orderly end (`close`) and after the
/// death of the process.
fn write(path: &Path, close: bool) {
    let image = match Image::open(path, &options(false)) {
        Ok(image) => Arc::new(image),
        Err(error) => {
            let read_only = Image::open(path, &options(true));
            let only = matches!(error.reason, Refusal::ReadOnlyFeatures(_));
            assert!(only || read_only.is_err(), "it can be read, and not written: {error:?}");
            return;
        }
    };
    let mut states = image.recovered();
    let geometry = image.shape().geometry;
    let mut worker = Worker::new(&image);
    for (zone, at, sectors) in places(&image) {
        let (at, sectors) = match (zone, &geometry) {
            (Some(zone), Some(geometry)) => match room(geometry, zone, &states) {
                Some(range) => range,
                None => continue,
            },
            _ => (at, sectors),
        };
        worker.write(at, sectors, at.0 as u8 | 1);
        if let (Some(zone), Some(geometry)) = (zone, &geometry)
            && geometry.zone_type(zone) != ZoneType::Conventional
        {
            let end = Sector(at.0 + sectors - geometry.start(zone).0);
            let state = Snapshot::new(Condition::Closed, end);
            states[zone.0 as usize] = state;
            image.record(zone, state);
        }
    }
    drop(worker);
    let data = read_all(&image);
    if close {
        image.close().expect("a file of ours");
    }
    drop(image);
    let again = Arc::new(Image::open(path, &options(true)).expect("it was just open"));
    let expected = if close { Recovery::Clean } else { Recovery::ProcessDied };
    assert_eq!(again.recovery(), expected);
    assert_eq!(again.recovered(), states);
    for ((zone, at, sectors), (now, before)) in
        places(&again).into_iter().zip(read_all(&again).iter().zip(&data))
    {
        // Above a write pointer there should be zeroes; what damage put there may be seen or not.
        let written = match (zone, &geometry) {
            (Some(zone), Some(g)) if g.zone_type(zone) != ZoneType::Conventional => {
                states[zone.0 as usize].written().0.min(sectors) as usize * 512
            }
            _ => now.len(),
        };
        let same = now[..written] == before[..written];
        assert!(same, "{sectors} sectors at {at}, {zone:?}, are not what they were");
    }
}

/// Where a zone can be written next, and how much of it.
fn room(geometry: &Geometry, zone: ZoneId, states: &[Snapshot]) -> Option<(Sector, u64)> {
    let state = states[zone.0 as usize];
    let granule = geometry.granule().0;
    match state.condition() {
        Condition::NotWp => Some((geometry.start(zone), 1)),
        Condition::ReadOnly | Condition::Offline | Condition::Full => None,
        _ => {
            let left = geometry.capacity(zone).0 - state.written().0;
            let at = Sector(geometry.start(zone).0 + state.written().0);
            (left >= granule && granule <= 128).then_some((at, granule))
        }
    }
}
