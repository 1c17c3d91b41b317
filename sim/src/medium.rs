//! A disk in memory, behind the seam that images lie on: it loses what was not synced, tears, fails, and
//! lies, as it is told.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zvb_ring::Buffers;
use zvb_storage::{Mapped, Medium, MediumFile};

use crate::bytes::{Bytes, WORDS};
use crate::content::Block;
use crate::rng::Rng;

/// How long every simulated medium is, in bytes. It costs nothing.
const SIZE: u64 = 1 << 30;
const SECTOR: u64 = 512;
/// Where the superblocks end.
const SUPERBLOCKS: u64 = 8192;
/// Where it is noted that a sync is under way.
const NOTE: u64 = 512;
/// Words of a zone's record, and the first of them that only a commit writes.
const RECORD_WORDS: usize = 8;
const FIRST_DURABLE: usize = 2;
const COPY_WORDS: usize = 3;

const EINTR: i32 = 4;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// What is wrong with a medium (or with the order of what storage does with it), for the oracle to find.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mutation {
    /// Nothing.
    #[default]
    None,
    /// No sync does anything.
    NoSync,
    /// The sync of data, before the records that speak of it, does nothing.
    NoDataSync,
    /// The sync of records, before slots that they let go of are used again, does nothing.
    NoRecordSync,
    /// The space of a zone is given back when it is reset, not when that is durable.
    EarlyPunch,
    /// What is punched is not zeroed.
    NoPunch,
    /// After a sync that failed, what it lost is still seen, until the host dies. (For plays with errors.)
    NoForget,
    /// Nobody hears that a sync failed but who asked for it, if it was not killed meanwhile. (The same.)
    Unheard,
    /// A new image is not synced.
    NoCreateSync,
    /// No sync does anything for superblocks.
    NoSuperblockSync,
    /// The sync between zones that are not active any more and those that are now does nothing.
    NoOrderSync,
    /// The sync of a larger zone table, before the superblocks point to it, does nothing.
    NoGrowthSync,
    /// Copies of records that are torn are not cleared before they are written to again.
    NoClearTorn,
}

impl Mutation {
    /// All that are one.
    pub const ALL: [Self; 12] = [
        Self::NoSync,
        Self::NoDataSync,
        Self::NoRecordSync,
        Self::EarlyPunch,
        Self::NoPunch,
        Self::NoForget,
        Self::Unheard,
        Self::NoCreateSync,
        Self::NoSuperblockSync,
        Self::NoOrderSync,
        Self::NoGrowthSync,
        Self::NoClearTorn,
    ];
}

/// Errors, in parts of a thousand of the calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Errors {
    /// Reads that fail.
    pub read: u64,
    /// Writes that fail; some after a part, some because there is no space.
    pub write: u64,
    /// Zeroing that fails.
    pub zero: u64,
    /// Syncs that fail.
    pub sync: u64,
    /// Transfers of less than was asked for, or interrupted ones: no errors.
    pub short: u64,
}

/// When to keep what a crash would leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capture {
    /// Before and after every sync.
    pub syncs: bool,
    /// Before other changes, in parts of a thousand.
    pub changes: u64,
}

/// The bytes at a moment at which all might have ended.
#[derive(Clone, Debug)]
pub struct Corpse {
    /// The bytes.
    pub bytes: Bytes,
    /// What was going on.
    pub moment: &'static str,
}

/// A medium, and the world around it.
#[derive(Debug)]
pub struct Platter {
    bytes: Bytes,
    tables: Vec<Table>,
    rng: Rng,
    /// What is wrong with it.
    pub mutation: Mutation,
    /// Errors from now on.
    pub errors: Errors,
    /// What to keep from now on.
    pub capture: Capture,
    corpses: Vec<Corpse>,
    /// Commits have stored durable copies since the last sync.
    records: bool,
    /// A table was mapped to take the place of another, since the last sync.
    growing: bool,
    /// Calls that failed so far.
    pub failed: u64,
    /// A sync has failed.
    pub sync_failed: bool,
    /// Syncs so far.
    pub syncs: u64,
}

/// The mapped words.
#[derive(Debug)]
struct Table {
    sectors: Range<u64>,
    words: Arc<[AtomicU64]>,
    seen: Vec<u64>,
}

/// A handle to a [`Platter`].
#[derive(Clone, Debug)]
pub struct Disk(Arc<Mutex<Platter>>);

impl Disk {
    /// A disk with `bytes`.
    pub fn new(bytes: Bytes, mutation: Mutation, rng: Rng) -> Self {
        Self(Arc::new(Mutex::new(Platter {
            bytes,
            tables: Vec::new(),
            rng,
            mutation,
            errors: Errors::default(),
            capture: Capture::default(),
            corpses: Vec::new(),
            records: false,
            growing: false,
            failed: 0,
            sync_failed: false,
            syncs: 0,
        })))
    }

    /// The medium, to open an image on.
    pub fn medium(&self) -> Box<dyn Medium> {
        Box::new(Handle { disk: self.clone(), words: Arc::new([]), sectors: 0..0 })
    }

    /// The platter, for a moment.
    pub fn lock(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Platter {
    /// The bytes as they would be left now.
    pub fn corpse(&mut self, moment: &'static str) -> Corpse {
        self.observe();
        Corpse { bytes: self.bytes.clone(), moment }
    }

    /// What was kept since the last call.
    pub fn take_corpses(&mut self) -> Vec<Corpse> {
        std::mem::take(&mut self.corpses)
    }

    /// Notes what was stored in the words.
    pub fn observe(&mut self) {
        let (bytes, records) = (&mut self.bytes, &mut self.records);
        let clears_torn = self.mutation != Mutation::NoClearTorn;
        for table in &mut self.tables {
            let chunks = table.words.chunks(WORDS).zip(table.seen.chunks_mut(WORDS));
            for (sector, (words, seen)) in table.sectors.clone().zip(chunks) {
                let mut changed = false;
                for (i, (word, seen)) in words.iter().zip(seen.iter_mut()).enumerate() {
                    let now = u64::from_le(word.load(Ordering::SeqCst));
                    if now != *seen {
                        *seen = now;
                        changed = true;
                        *records |= i % RECORD_WORDS >= FIRST_DURABLE;
                    }
                }
                if changed {
                    let mut block: Block = bytes.get(sector);
                    for (i, (bytes, word)) in block.chunks_exact_mut(8).zip(seen.iter()).enumerate()
                    {
                        if clears_torn || !is_cleared(seen, i) {
                            bytes.copy_from_slice(&word.to_le_bytes());
                        }
                    }
                    bytes.put(sector, &block);
                }
            }
        }
    }

    /// Maps `count` words from `at` on. What was mapped there before is nobody's.
    fn map(&mut self, at: u64, count: usize) -> (Arc<[AtomicU64]>, Range<u64>) {
        self.observe();
        let sectors = at / SECTOR..at / SECTOR + count.div_ceil(WORDS) as u64;
        let seen: Vec<u64> = (0..count as u64).map(|i| self.word(at + i * 8)).collect();
        let words: Arc<[AtomicU64]> =
            seen.iter().map(|word| AtomicU64::new(word.to_le())).collect();
        self.growing = !self.tables.is_empty();
        let apart = |other: &Range<u64>| other.end <= sectors.start || sectors.end <= other.start;
        self.tables.retain(|table| apart(&table.sectors));
        self.bytes.tables.retain(apart);
        self.bytes.tables.push(sectors.clone());
        self.tables.push(Table { sectors: sectors.clone(), words: Arc::clone(&words), seen });
        (words, sectors)
    }

    /// A word of the medium, as the host sees it.
    pub fn word(&self, at: u64) -> u64 {
        let block = self.bytes.get(at / SECTOR);
        let inside = (at % SECTOR) as usize;
        block.get(inside..).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b))
    }

    /// Zeroes `range`, at once and for ever.
    pub fn punch(&mut self, range: Range<u64>) {
        // What is mapped there is zero too; nobody stores to it any more.
        let sectors = range.start / SECTOR..range.end / SECTOR;
        self.tables.retain(|table| {
            table.sectors.end <= sectors.start || sectors.end <= table.sectors.start
        });
        self.bytes.zero(range.start / SECTOR..range.end / SECTOR);
    }

    fn keep(&mut self, moment: &'static str) {
        let corpse = self.corpse(moment);
        self.corpses.push(corpse);
    }

    /// A change begins.
    fn change(&mut self, moment: &'static str) {
        let often = self.capture.changes;
        if often > 0 && self.rng.below(1000) < often {
            self.keep(moment);
        }
    }

    /// Fails with one of `codes`, so often.
    fn fail(&mut self, often: u64, codes: &[i32]) -> io::Result<()> {
        if often == 0 || self.rng.below(1000) >= often {
            return Ok(());
        }
        self.failed += 1;
        Err(io::Error::from_raw_os_error(self.rng.pick(codes)))
    }

    /// How much of `len` bytes is transferred at once.
    fn part(&mut self, len: u64) -> io::Result<u64> {
        let often = self.errors.short;
        if often == 0 || self.rng.below(1000) >= often {
            return Ok(len);
        }
        if self.rng.chance(30) {
            return Err(io::Error::from_raw_os_error(EINTR));
        }
        Ok(((1 + self.rng.below(len.div_ceil(SECTOR))) * SECTOR).min(len))
    }

    fn write(&mut self, at: u64, from: &Buffers, range: Range<u64>) -> io::Result<u64> {
        self.observe();
        self.change("a write");
        // That a sync is under way or has failed can be written down: if not, the next process could not know.
        let noted = at == NOTE || at < SUPERBLOCKS && self.sync_failed;
        let often = if noted { 0 } else { self.errors.write };
        let failed = self.fail(often, &[EIO, ENOSPC]);
        let mut len = self.part(range.end - range.start)?;
        if failed.is_err() {
            // Some of it may have been written.
            len = self.rng.below(len / SECTOR) * SECTOR;
        }
        assert!(at.is_multiple_of(SECTOR) && len.is_multiple_of(SECTOR), "not whole sectors");
        for i in 0..len / SECTOR {
            let mut block = [0; 512];
            from.read(range.start + i * SECTOR, &mut block).map_err(io::Error::other)?;
            self.bytes.put(at / SECTOR + i, &block);
        }
        failed.map(|()| len)
    }

    fn read(&mut self, at: u64, into: &Buffers, range: Range<u64>) -> io::Result<u64> {
        self.observe();
        self.fail(self.errors.read, &[EIO])?;
        let len = self.part(range.end - range.start)?;
        assert!(at.is_multiple_of(SECTOR), "not from the start of a sector");
        for done in (0..len).step_by(SECTOR as usize) {
            let block = self.bytes.get((at + done) / SECTOR);
            let part = block.get(..(len - done) as usize).unwrap_or(&block);
            into.write(range.start + done, part).map_err(io::Error::other)?;
        }
        Ok(len)
    }

    /// True when the latest state of a zone is not the durable one: it will be, before a commit ends.
    fn has_records_to_come(&self) -> bool {
        let Some(table) = self.tables.last() else { return false };
        table.seen.chunks_exact(RECORD_WORDS).any(|record| match record {
            [latest, _, a, a_sequence, _, b, b_sequence, _] => {
                latest != if b_sequence > a_sequence { b } else { a }
            }
            _ => false,
        })
    }

    /// A sync of these sectors: what else was written stays as uncertain as it was.
    fn sync(&mut self, sectors: Range<u64>) -> io::Result<()> {
        self.observe();
        self.syncs += 1;
        if self.capture.syncs {
            self.keep("before a sync");
        }
        let records = std::mem::take(&mut self.records);
        if let Err(error) = self.fail(self.errors.sync, &[EIO, ENOSPC]) {
            self.sync_failed = true;
            self.bytes.sync_fails(sectors, &mut self.rng);
            if self.capture.syncs {
                self.keep("a sync that failed, unheard");
            }
            return Err(error);
        }
        let whole = sectors == (0..SIZE / SECTOR);
        let growing = whole && std::mem::take(&mut self.growing);
        let superblock =
            [0, 8].into_iter().any(|at| sectors.contains(&at) && self.bytes.is_dirty(at));
        let skipped = match self.mutation {
            Mutation::NoSync => true,
            Mutation::NoDataSync => !records && !superblock,
            Mutation::NoRecordSync => records,
            Mutation::NoGrowthSync => growing,
            Mutation::NoOrderSync => whole && records && !growing && self.has_records_to_come(),
            Mutation::None
            | Mutation::EarlyPunch
            | Mutation::NoPunch
            | Mutation::NoForget
            | Mutation::Unheard
            | Mutation::NoCreateSync
            | Mutation::NoSuperblockSync
            | Mutation::NoClearTorn => false,
        };
        if self.mutation == Mutation::NoSuperblockSync {
            // All but these two sectors.
            for rest in [1..8, 9..sectors.end] {
                self.bytes.sync(rest.start.max(sectors.start)..rest.end.min(sectors.end));
            }
        } else if !skipped {
            self.bytes.sync(sectors);
        }
        if self.capture.syncs {
            self.keep("after a sync");
        }
        Ok(())
    }
}

/// True when word `i` of a sector of `words` is of a durable copy that was never written, or cleared.
fn is_cleared(words: &[u64], i: usize) -> bool {
    let Some(inside) = (i % RECORD_WORDS).checked_sub(FIRST_DURABLE) else { return false };
    let first = i - inside % COPY_WORDS;
    words.iter().skip(first).take(COPY_WORDS).all(|word| *word == 0)
}

/// What an image holds.
#[derive(Debug)]
struct Handle {
    disk: Disk,
    words: Arc<[AtomicU64]>,
    /// Where they are.
    sectors: Range<u64>,
}

impl Mapped for Handle {
    fn words(&self) -> &[AtomicU64] {
        &self.words
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.lock().sync(self.sectors.clone())
    }
}

impl Medium for Handle {
    fn size(&self) -> io::Result<u64> {
        Ok(SIZE)
    }

    fn map(&mut self, at: u64, count: usize) -> io::Result<()> {
        (self.words, self.sectors) = self.disk.lock().map(at, count);
        Ok(())
    }

    fn map_more(&self, at: u64, count: usize) -> io::Result<Arc<dyn Mapped>> {
        let (words, sectors) = self.disk.lock().map(at, count);
        Ok(Arc::new(Self { disk: self.disk.clone(), words, sectors }))
    }

    fn words(&self) -> &[AtomicU64] {
        &self.words
    }

    fn read(&self, at: u64, into: &Buffers, range: Range<u64>) -> io::Result<u64> {
        self.disk.lock().read(at, into, range)
    }

    fn write(&self, at: u64, from: &Buffers, range: Range<u64>) -> io::Result<u64> {
        self.disk.lock().write(at, from, range)
    }

    fn zero(&self, range: Range<u64>, unmap: bool) -> io::Result<()> {
        let mut platter = self.disk.lock();
        platter.observe();
        platter.change("a punch");
        let often = platter.errors.zero;
        platter.fail(often, &[EIO, ENOSPC])?;
        let whole = range.start.is_multiple_of(SECTOR) && range.end.is_multiple_of(SECTOR);
        assert!(whole, "not whole sectors");
        if platter.mutation != Mutation::NoPunch || !unmap {
            platter.punch(range);
        }
        Ok(())
    }

    fn next_data(&self, at: u64) -> io::Result<Option<u64>> {
        let platter = self.disk.lock();
        let found = platter.bytes.next(at.div_ceil(SECTOR));
        Ok(found.map(|sector| sector * SECTOR))
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.lock().sync(0..SIZE / SECTOR)
    }

    fn sync_words(&self) -> io::Result<()> {
        Mapped::sync(self)
    }

    fn forget(&self) -> io::Result<()> {
        let mut platter = self.disk.lock();
        if platter.mutation != Mutation::NoForget {
            platter.bytes.drop_cache();
        }
        Ok(())
    }

    /// A kernel tells once. That the process is killed between this and the next line is not simulated.
    fn lost_writes(&self) -> io::Result<()> {
        let platter = self.disk.lock();
        match platter.bytes.lost && platter.mutation != Mutation::Unheard {
            true => Err(io::Error::from_raw_os_error(EIO)),
            false => Ok(()),
        }
    }

    fn file(&self) -> Option<MediumFile<'_>> {
        None
    }
}
