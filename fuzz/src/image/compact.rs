//! Images of a few sectors, and their checksums.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use zvb_storage::{CommitBy, EngineKind, Image, OpenOptions, Volume};
use zvb_wire::{Condition, Sector};
use zvb_zones::{Snapshot, ZoneId};

use super::file::{self, Worker};

/// Where the zone table is.
pub(crate) const TABLE_AT: usize = 8192;

/// Which disk it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    HostManaged,
    HostAware,
    Plain,
}

/// An image that was used, and closed in order or not.
pub(crate) fn image(kind: Kind, dirty: bool) -> Vec<u8> {
    thread_local! {
        static IMAGES: RefCell<BTreeMap<(Kind, bool), Vec<u8>>> = const { RefCell::new(BTreeMap::new()) };
    }
    IMAGES.with_borrow_mut(|images| {
        images.entry((kind, dirty)).or_insert_with(|| used(kind, dirty)).clone()
    })
}

fn used(kind: Kind, dirty: bool) -> Vec<u8> {
    let bytes = new(kind);
    let path = file::write(&bytes, file_bytes(&bytes));
    let options = OpenOptions {
        engine: EngineKind::Sync,
        commit: CommitBy::Caller,
        ..OpenOptions::default()
    };
    let image = Arc::new(Image::open(path.as_ref(), &options).expect("a right image"));
    let mut worker = Worker::new(&image);
    worker.write(Sector(2), 3, 0x11);
    if kind != Kind::Plain {
        for zone in [1, 2, 4] {
            worker.write(Sector(zone * 8), 2 * zone, zone as u8);
            let state = Snapshot::new(Condition::ImplicitOpen, Sector(2 * zone));
            image.record(ZoneId(zone as u32), state);
        }
    }
    drop(worker);
    if !dirty {
        image.close().expect("a file of ours");
    }
    drop(image);
    file::read(path.as_ref(), 1 << 20)
}

/// A new image: a conventional zone of 8 sectors, four sequential ones and a last one of 4, or no zones.
fn new(kind: Kind) -> Vec<u8> {
    let zoned = kind != Kind::Plain;
    let or_zero = |n: u64| if zoned { n } else { 0 };
    let mut block = Vec::new();
    let (linear_at, slots_at) = (12288, 16384);
    let file_bytes = if zoned { slots_at + 7 * 4096 } else { linear_at + 44 * 512 };
    block.extend(*b"zvbimg\r\n");
    for n in [1u32, 0, 0, 0] {
        block.extend(n.to_le_bytes());
    }
    block.extend(2u64.to_le_bytes());
    block.extend(*b"0123456789abcdefa-compact-image-file");
    block.extend(512u32.to_le_bytes());
    for n in [44, or_zero(8), or_zero(8), or_zero(8)] {
        block.extend(n.to_le_bytes());
    }
    for n in [1, 0, 0, 512, 6, 7] {
        block.extend((or_zero(n) as u32).to_le_bytes());
    }
    let slots_at = if zoned { slots_at } else { 0x9000 };
    for n in [TABLE_AT as u64, linear_at, slots_at, or_zero(4096), file_bytes] {
        block.extend(n.to_le_bytes());
    }
    block.extend([[1, 2, 0][kind as usize], 0]);
    block.resize(512, 0);
    let mut bytes = vec![0; 8192];
    bytes[..512].copy_from_slice(&block);
    bytes[4096..4608].copy_from_slice(&block);
    mend(&mut bytes);
    bytes
}

/// Makes the checksums of both superblocks right.
pub(crate) fn mend(bytes: &mut [u8]) {
    for copy in [0, 4096] {
        if let Some(block) = bytes.get_mut(copy..copy + 512) {
            let sum = crc32c::crc32c(&block[..508]);
            block[508..].copy_from_slice(&sum.to_le_bytes());
        }
    }
}

/// How long the first superblock says the file is.
pub(crate) fn file_bytes(bytes: &[u8]) -> u64 {
    let number = bytes.get(160..168).and_then(|bytes| bytes.try_into().ok());
    number.map_or(0, u64::from_le_bytes)
}
