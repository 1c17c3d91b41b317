//! A disk that lives in memory, and dies with the process.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError};

use zvb_ring::Buffers;
use zvb_wire::Sector;
use zvb_zones::{Geometry, GeometryError, GeometrySpec, Snapshot, ZoneId};

use crate::committer::Committer;
use crate::engine::{self, EngineKind, Served};
use crate::grow::Growth;
use crate::layout::{Layout, has_sequential};
use crate::medium::{Mapped, Medium, MediumFile};
use crate::store::Store;
use crate::sys::{Bytes, Words};
use crate::table;
use crate::volume::{Engine, EngineError, GrowError, Shape, Volume, VolumeError, birth_states};

/// What regions are aligned to: the size of a large page.
const REGION_ALIGN: u64 = 2 << 20;

/// Bytes that the kernel gives on first use and takes back when they are cleared.
#[derive(Debug)]
struct MemoryMedium {
    bytes: Bytes,
    words: Words,
}

impl Medium for MemoryMedium {
    fn size(&self) -> io::Result<u64> {
        Ok(self.bytes.len())
    }

    fn map(&mut self, _at: u64, count: usize) -> io::Result<()> {
        self.words = Words::anonymous(count)?;
        Ok(())
    }

    fn map_more(&self, _at: u64, count: usize) -> io::Result<Arc<dyn Mapped>> {
        Ok(Arc::new(Words::anonymous(count)?))
    }

    fn lengthen(&self, bytes: u64) -> io::Result<()> {
        self.bytes.lengthen(bytes)
    }

    fn words(&self) -> &[AtomicU64] {
        self.words.get()
    }

    fn read(&self, at: u64, into: &Buffers, range: Range<u64>) -> io::Result<u64> {
        self.bytes.read(at, into, range).map_err(|_| io::ErrorKind::InvalidInput.into())
    }

    fn expect(&self, at: u64, bytes: u64) {
        self.bytes.expect(at, bytes);
    }

    fn write(&self, at: u64, from: &Buffers, range: Range<u64>) -> io::Result<u64> {
        self.bytes.write(at, from, range).map_err(|_| io::ErrorKind::InvalidInput.into())
    }

    fn zero(&self, range: Range<u64>, _unmap: bool) -> io::Result<()> {
        let len = range.end.saturating_sub(range.start);
        self.bytes.clear(range.start, len).map_err(|_| io::ErrorKind::InvalidInput.into())
    }

    fn next_data(&self, at: u64) -> io::Result<Option<u64>> {
        Ok((at < self.bytes.len()).then_some(at))
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn is_durable(&self) -> bool {
        false
    }

    fn file(&self) -> Option<MediumFile<'_>> {
        None
    }
}

/// Why there is no disk in memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// Zones that make no disk.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// Not a power of two from 512 to 65536.
    #[error("the block size of {0} bytes is not a power of two from 512 to 65536")]
    BlockSize(u32),
    /// Zero, or not a multiple of the block size.
    #[error(
        "the size of {capacity} sectors is zero or not a multiple of the block size, {block_size} bytes"
    )]
    Capacity {
        /// What was asked for.
        capacity: Sector,
        /// The block size in bytes.
        block_size: u32,
    },
    /// More than there are addresses.
    #[error("{0} sectors are more than fit into memory")]
    TooLarge(Sector),
    /// The kernel refused.
    #[error("cannot set up the memory")]
    Io(#[from] io::Error),
}

/// A disk in memory. What is written takes room; what is reset, with the next flush or when room for
/// zones gets short, gives it back.
pub struct Memory {
    served: Arc<Served>,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("shape", &self.served.store.shape).finish_non_exhaustive()
    }
}

impl Memory {
    /// A disk of `capacity` sectors in blocks of `block_size` bytes, with zones or without.
    pub fn new(
        capacity: Sector,
        block_size: u32,
        zones: Option<GeometrySpec>,
    ) -> Result<Self, MemoryError> {
        if !block_size.is_power_of_two() || !(512..=65536).contains(&block_size) {
            return Err(MemoryError::BlockSize(block_size));
        }
        if capacity == Sector::ZERO
            || !capacity.is_multiple_of(Sector(u64::from(block_size) / 512))
            || zones.is_some_and(|spec| spec.capacity != capacity)
        {
            return Err(MemoryError::Capacity { capacity, block_size });
        }
        let geometry = zones.map(Geometry::new).transpose()?;
        let shape = Shape {
            capacity,
            block_size,
            geometry,
            id: *b"zvb-memory\0\0\0\0\0\0\0\0\0\0",
            read_only: false,
            can_discard: true,
        };
        let layout =
            Layout::new(&shape, 0, None, REGION_ALIGN).ok_or(MemoryError::TooLarge(capacity))?;
        let mut medium = MemoryMedium { bytes: Bytes::new(layout.end())?, words: Words::NONE };
        let zones = geometry.map_or(0, |g| g.zone_count());
        medium.map(0, (zones as usize).saturating_mul(table::WORDS))?;
        let store = Arc::new(Store::new(shape, layout, Box::new(medium), &[]));
        let committer = Committer::volatile(Arc::clone(&store));
        Ok(Self { served: Arc::new(Served::new(store, committer)) })
    }
}

impl Volume for Memory {
    fn shape(&self) -> Shape {
        self.served.store.shape()
    }

    fn recovered(&self) -> Vec<Snapshot> {
        self.shape().geometry.as_ref().map_or_else(Vec::new, birth_states)
    }

    fn record(&self, zone: ZoneId, state: Snapshot) {
        if self.served.store.record(zone, state) {
            self.served.committer.let_go();
        }
    }

    fn engine(self: Arc<Self>, depth: u32) -> Result<Box<dyn Engine>, EngineError> {
        engine::new(Arc::clone(&self.served), EngineKind::Auto, depth)
    }

    fn grow(&self, capacity: Sector) -> Result<(), GrowError> {
        let store = &self.served.store;
        let _one_at_a_time = store.growing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = store.shape();
        let block_size = old.block_size;
        if capacity < old.capacity {
            return Err(GrowError::Shrinks { from: old.capacity, to: capacity });
        }
        if !capacity.is_multiple_of(Sector(u64::from(block_size) / 512)) {
            return Err(GrowError::Capacity { capacity, block_size });
        }
        let geometry = old.geometry.map(|g| g.with_capacity(capacity)).transpose()?;
        let shape = Shape { capacity, geometry, ..old };
        let layout = store.layout().grown(&shape, has_sequential(&old), REGION_ALIGN);
        let layout = layout.ok_or(GrowError::NoRoom(capacity))?;
        store.grow(Growth { shape, layout, header: None })
    }

    fn make_durable(&self) -> Result<(), VolumeError> {
        // Gone with the process, whatever is done.
        Ok(())
    }

    fn close(&self) -> Result<(), VolumeError> {
        Ok(())
    }
}
