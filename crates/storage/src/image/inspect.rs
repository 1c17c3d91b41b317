//! Looking at an image without opening it: also while it is served.

use std::path::Path;

use zvb_wire::Sector;
use zvb_zones::{Geometry, Snapshot};

use super::format::{Header, KNOWN_COMPAT, State};
use super::open::{Recovery, entries, regular_file, this_boot};
use super::refusal::{OpenError, Refusal};
use crate::file::{FileMedium, lock_holder};
use crate::medium::Medium;

/// What an image says of itself.
#[derive(Clone, Debug)]
pub struct ImageInfo {
    /// Size in 512-byte sectors.
    pub capacity: Sector,
    /// Logical block size in bytes.
    pub block_size: u32,
    /// How it is divided into zones; `None` for a plain disk.
    pub geometry: Option<Geometry>,
    /// The disk's name, ASCII, padded with NUL.
    pub id: [u8; 20],
    /// The UUID.
    pub uuid: [u8; 16],
    /// How it is, or was left.
    pub state: ImageState,
    /// The zones, as opening the image now would find them; of an image in use, as they are.
    pub zones: Vec<Snapshot>,
    /// Bytes of the file, of which the file system may keep fewer.
    pub file_bytes: u64,
    /// Bytes that the file system keeps.
    pub used_bytes: u64,
    /// Bits of compatible features that are not known here.
    pub unknown_features: u32,
}

/// How an image is, or was left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ImageState {
    /// In use by this process.
    InUse {
        /// The process.
        pid: u32,
    },
    /// Not in use, and left like this.
    Left(Recovery),
}

/// What the image at `path` says of itself. Takes no lock, changes nothing.
pub fn inspect(path: &Path) -> Result<ImageInfo, OpenError> {
    look(path).map_err(OpenError::at(path))
}

fn look(path: &Path) -> Result<ImageInfo, Refusal> {
    use std::os::unix::fs::MetadataExt;
    let file = regular_file(path, false)?;
    let metadata = file.metadata().map_err(Refusal::io("look at"))?;
    let holder = lock_holder(&file);
    let mut medium = FileMedium::new(file, path, false, false).map_err(Refusal::io("open"))?;
    let header = Header::read(&medium)?;
    medium.map(header.table_at, header.table_words()).map_err(Refusal::io("map"))?;
    let left = Recovery::of(&header, this_boot()?);
    // Somebody may read an image, too: what is dirty and in use is being written.
    let state = match holder {
        Some(pid) => ImageState::InUse { pid },
        None => ImageState::Left(left),
    };
    let entries = match (holder, header.state) {
        (Some(_), State::Dirty) => entries(&medium, &header, Recovery::ProcessDied)?,
        _ => entries(&medium, &header, left)?,
    };
    Ok(ImageInfo {
        capacity: header.capacity,
        block_size: header.block_size,
        geometry: header.geometry,
        id: header.id,
        uuid: header.uuid,
        state,
        zones: entries.iter().map(|e| e.state).collect(),
        file_bytes: metadata.len(),
        used_bytes: metadata.blocks().saturating_mul(512),
        unknown_features: header.compat & !KNOWN_COMPAT,
    })
}
