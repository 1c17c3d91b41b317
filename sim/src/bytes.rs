//! The bytes of a medium: as its host sees them, as they are on the disk, and all that the disk may have.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use crate::content::{Block, Tag};
use crate::rng::Rng;

/// Words of 8 bytes in a sector.
pub(crate) const WORDS: usize = 64;

/// Sectors, by number. What is not there is zeroes, durably.
#[derive(Clone, Debug, Default)]
pub struct Bytes {
    cells: BTreeMap<u64, Cell>,
    /// Those that have something to sync.
    dirty: BTreeSet<u64>,
    /// Sectors of zone tables: they are written back while they change.
    pub(crate) tables: Vec<Range<u64>>,
    /// A sync has failed, and what it lost is still seen.
    pub(crate) lost: bool,
}

/// One sector.
#[derive(Clone, Debug)]
struct Cell {
    /// As it was synced last.
    durable: Arc<Block>,
    /// What was written since: the disk may have any of it.
    later: Vec<Arc<Block>>,
    /// As the host sees it: the last of `later`, unless that was lost.
    now: Arc<Block>,
}

impl Bytes {
    /// A sector, as the host sees it.
    pub(crate) fn get(&self, sector: u64) -> Block {
        self.cells.get(&sector).map_or([0; 512], |cell| *cell.now)
    }

    /// Writes a sector, into the host's cache.
    pub(crate) fn put(&mut self, sector: u64, block: &Block) {
        let cell = self.cells.entry(sector).or_insert_with(|| {
            let zero = Arc::new(Tag::ZERO.block());
            Cell { durable: Arc::clone(&zero), later: Vec::new(), now: zero }
        });
        cell.now = Arc::new(*block);
        cell.later.push(Arc::clone(&cell.now));
        self.dirty.insert(sector);
    }

    /// Zeroes sectors, in the host's cache.
    pub(crate) fn zero(&mut self, sectors: Range<u64>) {
        let zero = Arc::new(Tag::ZERO.block());
        for (sector, cell) in self.cells.range_mut(sectors) {
            cell.now = Arc::clone(&zero);
            cell.later.push(Arc::clone(&zero));
            self.dirty.insert(*sector);
        }
    }

    /// The first sector from `sector` on that was ever written.
    pub(crate) fn next(&self, sector: u64) -> Option<u64> {
        let zero = Tag::ZERO.block();
        self.cells.range(sector..).find(|(_, cell)| *cell.now != zero).map(|(at, _)| *at)
    }

    /// Sectors that have something to sync.
    pub(crate) fn is_dirty(&self, sector: u64) -> bool {
        self.dirty.contains(&sector)
    }

    /// A sync of these sectors that succeeds.
    pub(crate) fn sync(&mut self, sectors: Range<u64>) {
        let mut synced = self.dirty.split_off(&sectors.start);
        self.dirty.append(&mut synced.split_off(&sectors.end));
        for sector in synced {
            if let Some(cell) = self.cells.get_mut(&sector) {
                cell.durable = Arc::clone(&cell.now);
                cell.later.clear();
            }
        }
    }

    /// A sync of these sectors that fails: any of what was to be written is, and the host forgets that
    /// the rest was not, though it goes on to see it.
    pub(crate) fn sync_fails(&mut self, sectors: Range<u64>, rng: &mut Rng) {
        self.lost = true;
        let mut lost = self.dirty.split_off(&sectors.start);
        self.dirty.append(&mut lost.split_off(&sectors.end));
        for sector in lost {
            if let Some(cell) = self.cells.get_mut(&sector) {
                cell.durable = cell.any(rng);
                cell.later.clear();
            }
        }
    }

    /// The host forgets what it has in memory and need not write: what a failed sync lost shows.
    pub(crate) fn drop_cache(&mut self) {
        self.lost = false;
        for cell in self.cells.values_mut().filter(|cell| cell.later.is_empty()) {
            cell.now = Arc::clone(&cell.durable);
        }
    }

    /// What is left when the host loses power.
    pub(crate) fn after_power_loss(&self, rng: &mut Rng) -> Self {
        let newest = rng.pick(&[0, 25, 50, 75, 100]);
        let mut left = self.clone();
        left.lost = false;
        for sector in std::mem::take(&mut left.dirty) {
            let mapped = self.tables.iter().any(|table| table.contains(&sector));
            let torn = mapped && rng.chance(50);
            if let Some(cell) = left.cells.get_mut(&sector) {
                if torn {
                    cell.durable = Arc::new(cell.torn(rng));
                } else if rng.chance(newest) {
                    cell.durable = Arc::clone(&cell.now);
                } else {
                    cell.durable = cell.any(rng);
                }
                cell.later.clear();
            }
        }
        left.cells.values_mut().for_each(|cell| cell.now = Arc::clone(&cell.durable));
        left
    }
}

impl Cell {
    fn version(&self, i: usize) -> &Arc<Block> {
        i.checked_sub(1).and_then(|i| self.later.get(i)).unwrap_or(&self.durable)
    }

    /// One of all that the disk may have.
    fn any(&self, rng: &mut Rng) -> Arc<Block> {
        Arc::clone(self.version(rng.below(self.later.len() as u64 + 1) as usize))
    }

    /// Words of two versions that followed each other: written back while it was stored to.
    fn torn(&self, rng: &mut Rng) -> Block {
        let i = rng.below(self.later.len() as u64) as usize;
        let (mut block, next) = (**self.version(i), self.version(i + 1));
        for (word, new) in block.chunks_exact_mut(8).zip(next.chunks_exact(8)) {
            if rng.chance(50) {
                word.copy_from_slice(new);
            }
        }
        block
    }
}
