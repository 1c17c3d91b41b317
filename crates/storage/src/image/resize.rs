//! Making an image larger.

use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use zvb_wire::Sector;
use zvb_zones::{Geometry, GeometryError};

use super::Image;
use super::format::{Header, REGION_ALIGN, State};
use super::open::{Recovery, entries};
use super::refusal::{FileError, Refusal};
use super::still::Still;
use super::switch::{placed, switch, write_table};
use crate::grow::Growth;
use crate::layout::{Layout, has_sequential};
use crate::medium::clear;
use crate::volume::{GrowError, Shape, Volume, VolumeError};

/// Why an image does not get another size.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResizeError {
    /// It can not be opened, or written to.
    #[error(transparent)]
    Image(#[from] Refusal),
    /// Zones that make no disk.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// Not a multiple of the block size.
    #[error(
        "the size of {capacity} sectors is not a multiple of the block size, {block_size} bytes"
    )]
    Capacity {
        /// What was asked for.
        capacity: Sector,
        /// The block size in bytes.
        block_size: u32,
    },
    /// Images do not shrink.
    #[error("the disk has {from} sectors, and {to} are fewer: it can only grow")]
    Shrinks {
        /// What it has.
        from: Sector,
        /// What was asked for.
        to: Sector,
    },
    /// Longer than any file can be, or in the way of itself.
    #[error("there is no room for {0} sectors in an image")]
    NoRoom(Sector),
    /// Engines still work on it, or it was opened read-only, or its medium failed.
    #[error("the image can not be changed now")]
    Busy,
    /// What was written to it before can not be made durable.
    #[error(transparent)]
    Volume(#[from] VolumeError),
}

/// Makes the disk in the image at `path` `capacity` sectors large. Its zones stay what they are; a last
/// zone that was smaller than the others grows first, then new ones, empty, come after it. Interrupted, it
/// leaves the image in the old size or in the new one.
pub fn resize(path: &Path, capacity: Sector) -> Result<(), FileError<ResizeError>> {
    let resized = || -> Result<(), ResizeError> {
        let still = Still::at(path)?;
        let new = match &still.header {
            same if same.capacity == capacity => same.clone(),
            old => larger(old, capacity)?,
        };
        let len = still.len;
        still.open(&new)?.resize_from(capacity, len)
    };
    resized().map_err(FileError::at(path))
}

impl From<GrowError> for ResizeError {
    fn from(error: GrowError) -> Self {
        match error {
            GrowError::Geometry(error) => Self::Geometry(error),
            GrowError::Capacity { capacity, block_size } => Self::Capacity { capacity, block_size },
            GrowError::Shrinks { from, to } => Self::Shrinks { from, to },
            GrowError::NoRoom(capacity) => Self::NoRoom(capacity),
            GrowError::Medium { doing, source } => Self::Image(Refusal::Io { doing, source }),
            GrowError::Unsupported | GrowError::ReadOnly | GrowError::Failed => Self::Busy,
        }
    }
}

impl Image {
    /// Makes the disk `capacity` sectors large, and closes the image. See [`resize`].
    pub fn resize(self, capacity: Sector) -> Result<(), ResizeError> {
        let len = self.served.store.medium.size().map_err(Refusal::io("look at"))?;
        self.resize_from(capacity, len)
    }

    /// The same; what is refused leaves the medium `len` bytes long.
    fn resize_from(self, capacity: Sector, len: u64) -> Result<(), ResizeError> {
        let Some(old) = self.header_alone() else { return Err(ResizeError::Busy) };
        if capacity == old.capacity {
            return Ok(self.close()?);
        }
        let made = self.make_larger(&old, capacity);
        let new = made.inspect_err(|_| self.leave(len))?;
        Ok(self.switch(&old, new).map_err(Refusal::io("write to"))?)
    }

    /// All that can be written before the superblocks, which are the ones that are returned.
    fn make_larger(&self, old: &Header, capacity: Sector) -> Result<Header, ResizeError> {
        let new = larger(old, capacity)?;
        self.commit()?;
        let medium = self.served.store.medium.as_ref();
        let entries = entries(medium, old, Recovery::ProcessDied)?;
        let grow = || {
            medium.lengthen(new.file_bytes)?;
            // What is new of the linear region; a file may be longer than its image.
            let [old, new] = [old, &new].map(|header| header.layout);
            let from = old.linear_at.saturating_add(old.linear_bytes);
            clear(medium, from..new.linear_at.saturating_add(new.linear_bytes))
        };
        grow().map_err(Refusal::io("lengthen"))?;
        write_table(medium, &new, &entries).map_err(Refusal::io("write to"))?;
        Ok(new)
    }

    /// What the superblocks say, when nobody works on the image and it can be changed.
    pub(super) fn header_alone(&self) -> Option<Header> {
        if Arc::strong_count(&self.served) != 1 || self.served.store.is_poisoned() {
            return None;
        }
        self.served.store.header.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Leaves the image in order as `new`, whose zone table is written.
    pub(super) fn switch(self, old: &Header, new: Header) -> io::Result<()> {
        let store = &self.served.store;
        // Nobody else writes superblocks from here on.
        *store.header.lock().unwrap_or_else(PoisonError::into_inner) = None;
        switch(store.medium.as_ref(), old, new)
    }

    /// Leaves the image in order as it is, `len` bytes long, after a change of it was refused.
    pub(super) fn leave(&self, len: u64) {
        // A medium that fails now too has been told of already.
        let _ = self.served.store.medium.shorten(len);
        let _ = self.close();
    }
}

/// `old` with `capacity` sectors, in order, its zone table where nothing is.
pub(super) fn larger(old: &Header, capacity: Sector) -> Result<Header, GrowError> {
    if capacity < old.capacity {
        return Err(GrowError::Shrinks { from: old.capacity, to: capacity });
    }
    let block_size = old.block_size;
    if !capacity.is_multiple_of(Sector(u64::from(block_size) / 512)) {
        return Err(GrowError::Capacity { capacity, block_size });
    }
    let geometry = old.geometry.map(|g| g.with_capacity(capacity)).transpose()?;
    let no_room = GrowError::NoRoom(capacity);
    let Some(layout) = larger_layout(old, capacity, geometry) else { return Err(no_room) };
    let state = State::Clean;
    placed(old, Header { capacity, geometry, layout, state, ..old.clone() }).ok_or(no_room)
}

fn larger_layout(old: &Header, capacity: Sector, geometry: Option<Geometry>) -> Option<Layout> {
    let shape = Shape { capacity, geometry, ..old.shape(false) };
    let was = &old.layout;
    let layout = was.grown(&shape, has_sequential(&old.shape(false)), REGION_ALIGN)?;
    // The old table stays whole until the superblock speaks of the new one.
    let grown = was.linear_at.saturating_add(was.linear_bytes)
        ..layout.linear_at.saturating_add(layout.linear_bytes);
    let table = old.table();
    let apart = grown.is_empty()
        || table.is_empty()
        || table.end <= grown.start
        || grown.end <= table.start;
    apart.then_some(layout)
}

impl Image {
    /// [`Volume::grow`](crate::Volume::grow).
    pub(super) fn grow_in_use(&self, capacity: Sector) -> Result<(), GrowError> {
        let store = &self.served.store;
        if store.shape.read_only {
            return Err(GrowError::ReadOnly);
        }
        let _one_at_a_time = store.growing.lock().unwrap_or_else(PoisonError::into_inner);
        let header = store.header.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(old) = header.filter(|_| !store.is_poisoned()) else {
            return Err(GrowError::Failed);
        };
        if capacity == old.capacity {
            return Ok(());
        }
        let header = Header { state: State::Dirty, ..larger(&old, capacity)? };
        let (shape, layout) = (header.shape(false), header.layout);
        store.grow(Growth { shape, layout, header: Some(header) })
    }
}
