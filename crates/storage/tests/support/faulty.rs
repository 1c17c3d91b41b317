//! A medium in memory that can fail at will, and lose what was not synced.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use zvb_ring::Buffers;
use zvb_storage::{Image, Mapped, Medium, MediumFile, OpenOptions, Refusal};

use super::Rng;

/// Errors of the system.
pub(crate) const EIO: i32 = 5;
pub(crate) const ENOSPC: i32 = 28;

/// What a [`Faulty`] has and does; kept by the test.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// As this host sees it.
    now: Mutex<Vec<u8>>,
    /// As it is on the disk.
    durable: Mutex<Vec<u8>>,
    /// Mapped words, and where; those mapped last count.
    tables: Mutex<Vec<(usize, Arc<Vec<AtomicU64>>)>>,
    /// Errors to fail with; 0 for none.
    pub(crate) fail_read: AtomicU64,
    pub(crate) fail_write: AtomicU64,
    pub(crate) fail_sync: AtomicU64,
    pub(crate) fail_zero: AtomicU64,
    pub(crate) fail_lengthen: AtomicU64,
    pub(crate) fail_map: AtomicU64,
    /// Reads and writes move at most this many bytes; 0 for no limit.
    pub(crate) at_most: AtomicU64,
    /// So many bytes more can be written, if not `None`: the write that ends there is short, and after it
    /// there is no space.
    pub(crate) room: Mutex<Option<u64>>,
    /// Syncs do nothing, and say that they did.
    pub(crate) lie: AtomicBool,
    pub(crate) syncs: AtomicU64,
    /// A sync has failed, and only who asked for it has heard.
    pub(crate) lost: AtomicBool,
    /// Where reads fail, in bytes; nowhere when it is empty.
    pub(crate) bad: Mutex<Range<u64>>,
    /// The end comes with the change (write, zero, lengthen, sync) of this number, and nothing changes any
    /// more; 0 for never.
    pub(crate) end_at: AtomicU64,
    pub(crate) changes: AtomicU64,
    /// What was cached has been forgotten, if it was.
    pub(crate) forgotten: AtomicBool,
    /// The mapped words are gone.
    pub(crate) table_lost: AtomicBool,
    /// Done when the words are looked at next, before that.
    pub(crate) meanwhile: Meanwhile,
}

/// Something that another thread would do just then.
#[derive(Default)]
pub(crate) struct Meanwhile(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Meanwhile {
    pub(crate) fn set(&self, what: impl FnOnce() + Send + 'static) {
        *self.0.lock().unwrap() = Some(Box::new(what));
    }

    pub(crate) fn is_done(&self) -> bool {
        self.0.lock().unwrap().is_none()
    }

    fn happen(&self) {
        let what = self.0.lock().unwrap().take();
        if let Some(what) = what {
            what();
        }
    }
}

impl fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Meanwhile").finish_non_exhaustive()
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Faulty {
    state: Arc<State>,
    words: Arc<Vec<AtomicU64>>,
}

fn fail(with: &AtomicU64) -> io::Result<()> {
    match with.load(Ordering::Relaxed) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code as i32)),
    }
}

impl State {
    /// With the bytes of the file at `path`.
    pub(crate) fn of(path: &Path) -> Arc<Self> {
        Self::with(std::fs::read(path).unwrap())
    }

    pub(crate) fn with(bytes: Vec<u8>) -> Arc<Self> {
        let state = Self::default();
        *state.now.lock().unwrap() = bytes.clone();
        *state.durable.lock().unwrap() = bytes;
        Arc::new(state)
    }

    pub(crate) fn open(self: &Arc<Self>, options: &OpenOptions) -> Result<Image, Refusal> {
        Image::open_on(Box::new(self.medium()), options)
    }

    pub(crate) fn medium(self: &Arc<Self>) -> Faulty {
        // What the last opener stored is what the next one finds.
        let bytes = self.bytes();
        *self.now.lock().unwrap() = bytes;
        self.tables.lock().unwrap().clear();
        Faulty { state: Arc::clone(self), words: Arc::default() }
    }

    /// Puts `bytes` at `at`, where nothing is mapped.
    pub(crate) fn put(&self, at: usize, bytes: &[u8]) {
        self.now.lock().unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// The bytes as this host sees them.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.now.lock().unwrap().clone();
        for (at, words) in self.tables.lock().unwrap().iter() {
            for (i, word) in words.iter().enumerate() {
                // The words are little-endian already.
                let at = at + i * 8;
                let word = u64::from_le(word.load(Ordering::SeqCst));
                bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
            }
        }
        bytes
    }

    /// The bytes after a power loss: every sector as it was synced last, or as it is now.
    pub(crate) fn after_power_loss(&self, rng: &mut Rng) -> Vec<u8> {
        let (now, mut bytes) = (self.bytes(), self.durable.lock().unwrap().clone());
        let keep = rng.below(4);
        if keep > 0 {
            bytes.resize(now.len(), 0);
        }
        for (durable, now) in bytes.chunks_mut(512).zip(now.chunks(512)) {
            if durable != now && rng.below(4) < keep {
                durable.copy_from_slice(now);
            }
        }
        bytes
    }

    /// The bytes after a power loss on a disk that tears what it is just writing, even within a sector: of
    /// each superblock that is not durable one half is there, and of the rest what was synced.
    pub(crate) fn after_torn_superblocks(&self) -> Vec<u8> {
        let (now, mut bytes) = (self.bytes(), self.durable.lock().unwrap().clone());
        for at in [0, 4096] {
            bytes[at..at + 256].copy_from_slice(&now[at..at + 256]);
        }
        bytes
    }
}

impl State {
    /// Counts a change. It fails from the end on.
    fn change(&self) -> io::Result<()> {
        let number = self.changes.fetch_add(1, Ordering::Relaxed) + 1;
        let end = self.end_at.load(Ordering::Relaxed);
        if end != 0 && number >= end { Err(io::Error::from_raw_os_error(EIO)) } else { Ok(()) }
    }

    fn medium_sync(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        fail(&self.fail_sync).inspect_err(|_| self.lost.store(true, Ordering::Relaxed))?;
        self.change()?;
        if !self.lie.load(Ordering::Relaxed) {
            let bytes = self.bytes();
            *self.durable.lock().unwrap() = bytes;
        }
        Ok(())
    }
}

impl State {
    /// Words of the bytes from `at` on.
    fn map(&self, at: u64, count: usize) -> Arc<Vec<AtomicU64>> {
        let bytes = self.bytes();
        // What was mapped here before is seen here too, and is not told a second time.
        *self.now.lock().unwrap() = bytes.clone();
        let at = at as usize;
        let word = |b: &[u8]| AtomicU64::new(u64::from_le_bytes(b.try_into().unwrap()).to_le());
        let words: Arc<Vec<_>> = Arc::new(bytes[at..at + count * 8].chunks(8).map(word).collect());
        let mut tables = self.tables.lock().unwrap();
        tables.retain(|(old, words)| old + words.len() * 8 <= at || at + count * 8 <= *old);
        tables.push((at, Arc::clone(&words)));
        words
    }

    /// A page of the mapped words can not be had: all of them read as zeroes from now on.
    pub(crate) fn lose_table(&self) {
        self.zero_words(&(0..u64::MAX));
        self.table_lost.store(true, Ordering::Relaxed);
    }

    /// Somebody makes it `len` bytes long.
    pub(crate) fn cut(&self, len: usize) {
        self.now.lock().unwrap().truncate(len);
    }

    /// Zeroes mapped words too.
    fn zero_words(&self, range: &Range<u64>) {
        for (at, words) in self.tables.lock().unwrap().iter() {
            for (i, word) in words.iter().enumerate() {
                if range.contains(&((at + i * 8) as u64)) {
                    word.store(0, Ordering::SeqCst);
                }
            }
        }
    }
}

#[derive(Debug)]
struct More {
    state: Arc<State>,
    words: Arc<Vec<AtomicU64>>,
}

impl Mapped for More {
    fn words(&self) -> &[AtomicU64] {
        &self.words
    }

    fn is_lost(&self) -> bool {
        self.state.table_lost.load(Ordering::Relaxed)
    }

    fn sync(&self) -> io::Result<()> {
        self.state.medium_sync()
    }
}

impl Medium for Faulty {
    fn size(&self) -> io::Result<u64> {
        Ok(self.state.now.lock().unwrap().len() as u64)
    }

    fn map(&mut self, at: u64, count: usize) -> io::Result<()> {
        self.words = self.state.map(at, count);
        Ok(())
    }

    fn map_more(&self, at: u64, count: usize) -> io::Result<Arc<dyn Mapped>> {
        fail(&self.state.fail_map)?;
        let words = self.state.map(at, count);
        Ok(Arc::new(More { state: Arc::clone(&self.state), words }))
    }

    fn words_lost(&self) -> bool {
        self.state.table_lost.load(Ordering::Relaxed)
    }

    fn words(&self) -> &[AtomicU64] {
        self.state.meanwhile.happen();
        &self.words
    }

    fn read(&self, at: u64, into: &Buffers, range: Range<u64>) -> io::Result<u64> {
        fail(&self.state.fail_read)?;
        let bad = self.state.bad.lock().unwrap().clone();
        if bad.start < at + (range.end - range.start) && at < bad.end {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let now = self.state.now.lock().unwrap();
        let len = self.some(range.end - range.start) as usize;
        let bytes = now.get(at as usize..at as usize + len).unwrap_or_default();
        into.write(range.start, bytes).unwrap();
        Ok(bytes.len() as u64)
    }

    fn write(&self, at: u64, from: &Buffers, range: Range<u64>) -> io::Result<u64> {
        fail(&self.state.fail_write)?;
        self.state.change()?;
        let mut now = self.state.now.lock().unwrap();
        let mut len = self.some(range.end - range.start) as usize;
        if let Some(room) = self.state.room.lock().unwrap().as_mut() {
            if *room == 0 {
                return Err(io::Error::from_raw_os_error(ENOSPC));
            }
            len = len.min(*room as usize);
            *room -= len as u64;
        }
        from.read(range.start, &mut now[at as usize..at as usize + len]).unwrap();
        Ok(len as u64)
    }

    fn zero(&self, range: Range<u64>, _unmap: bool) -> io::Result<()> {
        fail(&self.state.fail_write)?;
        fail(&self.state.fail_zero)?;
        self.state.change()?;
        self.state.zero_words(&range);
        self.state.now.lock().unwrap()[range.start as usize..range.end as usize].fill(0);
        Ok(())
    }

    fn next_data(&self, at: u64) -> io::Result<Option<u64>> {
        let now = self.state.now.lock().unwrap();
        let rest = now.get(at as usize..).unwrap_or_default();
        let blank =
            rest.chunks(4096).take_while(|chunk| **chunk == [0; 4096][..chunk.len()]).count();
        let from = (blank * 4096).min(rest.len());
        let found = rest[from..].iter().position(|b| *b != 0);
        Ok(found.map(|n| at + (from + n) as u64))
    }

    fn sync(&self) -> io::Result<()> {
        self.state.medium_sync()
    }

    fn forget(&self) -> io::Result<()> {
        self.state.forgotten.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn lost_writes(&self) -> io::Result<()> {
        let lost = self.state.lost.swap(false, Ordering::Relaxed);
        if lost { Err(io::Error::from_raw_os_error(EIO)) } else { Ok(()) }
    }

    fn shorten(&self, bytes: u64) -> io::Result<()> {
        self.state.change()?;
        self.state.now.lock().unwrap().truncate(bytes as usize);
        Ok(())
    }

    fn lengthen(&self, bytes: u64) -> io::Result<()> {
        fail(&self.state.fail_lengthen)?;
        self.state.change()?;
        let mut now = self.state.now.lock().unwrap();
        let len = now.len().max(bytes as usize);
        now.resize(len, 0);
        Ok(())
    }

    fn file(&self) -> Option<MediumFile<'_>> {
        None
    }
}

impl Faulty {
    fn some(&self, len: u64) -> u64 {
        match self.state.at_most.load(Ordering::Relaxed) {
            0 => len,
            most => len.min(most),
        }
    }
}
