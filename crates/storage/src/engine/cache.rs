//! Reads of what the page cache has, without a system call for each.
//!
//! A read through a mapping must not wait for a disk, as it would where the page is not in memory. The
//! kernel is asked a chunk of the file at a time, and believed for a moment: so a page that is evicted
//! in that moment can cost the worker one wait, and no more than that. What is known is kept in a table
//! of fixed size.

use std::sync::Arc;

use rustix::time::{ClockId, clock_gettime};

use super::{Job, Served};
use crate::store::Step;
use crate::sys::{CHUNK_BYTES, CHUNK_PAGES, FileMap, PAGE_BYTES};

/// How long the kernel's word is taken for, in ms.
const BELIEVED_MS: u32 = 100;
/// The most chunks that something is known of: 4 GiB of the file.
const KNOWN_MAX: u64 = 4096;
/// Words of a set of pages.
const WORDS: usize = CHUNK_PAGES / 64;

/// What an engine knows of the page cache.
#[derive(Debug)]
pub(super) struct Cache {
    map: Arc<FileMap>,
    /// By the number of the chunk, as far as that goes; a power of two.
    known: Box<[Known]>,
    now_ms: u32,
}

/// What is known of one chunk.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// Its number; `u64::MAX` for none.
    chunk: u64,
    asked_ms: u32,
    pages: [u64; WORDS],
}

impl Known {
    const NOTHING: Self = Self { chunk: u64::MAX, asked_ms: 0, pages: [0; WORDS] };
}

impl Cache {
    /// That of an engine on `served`; `None` where there is no such way.
    pub(super) fn new(served: &Served) -> Option<Self> {
        let map = served.file_map()?;
        let count = map.chunks().clamp(1, KNOWN_MAX).next_power_of_two();
        let known = vec![Known::NOTHING; usize::try_from(count).ok()?].into();
        Some(Self { map, known, now_ms: 0 })
    }

    /// A batch begins.
    pub(super) fn tick(&mut self) {
        let now = clock_gettime(ClockId::MonotonicCoarse);
        // Wraps after seven weeks, and only differences count.
        self.now_ms =
            (now.tv_sec as u32).wrapping_mul(1000).wrapping_add((now.tv_nsec / 1_000_000) as u32);
    }

    /// A read of `bytes` bytes from `at` of the file on comes soon.
    pub(super) fn expect(&self, at: u64, bytes: u64) {
        self.map.expect(at, bytes);
    }

    /// Does all of `job`, a read that begins at `first`, where that is known: so many bytes at this byte of
    /// the file. False when the medium has to be asked for what is left.
    pub(super) fn read(
        &mut self,
        served: &Served,
        job: &mut Job,
        mut first: Option<(u64, u64)>,
    ) -> bool {
        while first.is_some() || job.left() > 0 {
            let (at, bytes) = match first.take() {
                Some(place) => place,
                None => match served.store.step(job) {
                    Step::Finished => return true,
                    Step::Transfer { at, bytes } => (at, bytes),
                    // Told again to whoever asks next.
                    Step::Starved | Step::Failed(_) => return false,
                },
            };
            let Some(buffers) = &job.buffers else { return false };
            let end = job.done.saturating_add(bytes);
            if !self.has(at, bytes) || !self.map.read(at, buffers, job.done..end) {
                return false;
            }
            job.done = end;
        }
        true
    }

    /// True when all of the pages that `bytes` bytes from `at` on lie in were in the page cache a moment
    /// ago.
    fn has(&mut self, at: u64, bytes: u64) -> bool {
        let Some(last) = bytes.checked_sub(1).and_then(|more| at.checked_add(more)) else {
            return false;
        };
        let (first, last) = (at / PAGE_BYTES, last / PAGE_BYTES);
        let pages = CHUNK_PAGES as u64;
        (first / pages..=last / pages).all(|chunk| {
            let start = chunk.saturating_mul(pages);
            let from = first.saturating_sub(start);
            let to = last.saturating_sub(start).min(pages - 1);
            let known = self.know(chunk);
            // Both below the number of pages.
            (from..=to).all(|page| known[page as usize / 64] >> (page % 64) & 1 == 1)
        })
    }

    /// The pages of `chunk` that are in the page cache, or were a moment ago.
    fn know(&mut self, chunk: u64) -> [u64; WORDS] {
        let slot = chunk as usize & (self.known.len() - 1);
        let Some(known) = self.known.get_mut(slot) else { return [0; WORDS] };
        let age = self.now_ms.wrapping_sub(known.asked_ms);
        if known.chunk != chunk || age >= BELIEVED_MS {
            *known = Known { chunk, asked_ms: self.now_ms, pages: [0; WORDS] };
            let mut told = [0; CHUNK_PAGES];
            if self.map.look(chunk, &mut told) {
                for (word, bytes) in known.pages.iter_mut().zip(told.chunks(64)) {
                    *word =
                        bytes.iter().rev().fold(0, |word, byte| word << 1 | u64::from(byte & 1));
                }
            }
        }
        known.pages
    }

    /// A plain read found `bytes` bytes from `at` on cached.
    pub(super) fn learn(&mut self, at: u64, bytes: u64) {
        let chunk = at / CHUNK_BYTES;
        let slot = chunk as usize & (self.known.len() - 1);
        let Some(known) = self.known.get_mut(slot).filter(|known| known.chunk == chunk) else {
            return;
        };
        let (first, pages) = (at % CHUNK_BYTES / PAGE_BYTES, CHUNK_PAGES as u64);
        let last = (at % CHUNK_BYTES).saturating_add(bytes.saturating_sub(1)) / PAGE_BYTES;
        for page in first..=last.min(pages - 1) {
            known.pages[page as usize / 64] |= 1 << (page % 64);
        }
    }
}
