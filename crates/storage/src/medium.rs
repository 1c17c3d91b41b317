//! What bytes lie on: the seam under a volume, where a file, memory or a simulated disk goes.

use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use zvb_ring::{Buffers, HeapMemory};

/// Bytes that can be made durable. Offsets and lengths are in bytes.
///
/// What was written, zeroed or stored in the words may be lost in any part, until a
/// [`sync`](Self::sync) that began afterwards has succeeded.
pub trait Medium: Send + Sync + fmt::Debug {
    /// How long it is.
    fn size(&self) -> io::Result<u64>;

    /// Maps `count` 64-bit words from `at` on, a multiple of 4096, for [`words`](Self::words). Called
    /// once.
    fn map(&mut self, at: u64, count: usize) -> io::Result<()>;

    /// The words mapped by [`map`](Self::map), little-endian; none before. A stored word survives the
    /// death of this process, and torn it is never. Words of a medium opened for reading are not stored.
    fn words(&self) -> &[AtomicU64];

    /// True when the words of [`map`](Self::map) are gone: see [`Mapped::is_lost`].
    fn words_lost(&self) -> bool {
        false
    }

    /// Maps `count` more words from `at` on, while it is in use and beside those of [`map`](Self::map): for
    /// a table that takes their place. What is stored in them is kept as that is.
    fn map_more(&self, at: u64, count: usize) -> io::Result<Arc<dyn Mapped>> {
        let _ = (at, count);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Reads from `at` into `range` of `into`, once. Fewer bytes than asked for may be read; none means
    /// that the medium ends there.
    fn read(&self, at: u64, into: &Buffers, range: Range<u64>) -> io::Result<u64>;

    /// A read of `bytes` bytes from `at` on comes soon: a hint.
    fn expect(&self, at: u64, bytes: u64) {
        let _ = (at, bytes);
    }

    /// Writes `range` of `from` to `at`, once. Fewer bytes than asked for may be written.
    fn write(&self, at: u64, from: &Buffers, range: Range<u64>) -> io::Result<u64>;

    /// Makes `range` read as zeroes; with `unmap`, its space is given back if possible.
    fn zero(&self, range: Range<u64>, unmap: bool) -> io::Result<()>;

    /// Writes to `range` come soon: a hint. What it reads as does not change.
    fn expect_writes(&self, range: Range<u64>) {
        let _ = range;
    }

    /// Drops what is cached of `range`, which nobody reads before it is written again, but keeps its space:
    /// what is written next is cached in pieces as large as the writes. Afterwards it reads as anything.
    fn renew(&self, range: Range<u64>) -> io::Result<()> {
        let _ = range;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The first byte from `at` on that may be other than zero; `None` when there is none.
    fn next_data(&self, at: u64) -> io::Result<Option<u64>>;

    /// Makes durable all that was written, zeroed or stored before this was called.
    fn sync(&self) -> io::Result<()>;

    /// Makes durable all words that were stored before this was called; the rest may wait.
    fn sync_words(&self) -> io::Result<()> {
        self.sync()
    }

    /// Forgets what is cached and not going to be written: what a sync that failed has lost shows from now
    /// on. Called before [`map`](Self::map).
    fn forget(&self) -> io::Result<()> {
        Ok(())
    }

    /// Fails if the medium may have lost what was written to it before it was opened, for whoever asks first:
    /// a sync may have failed whose caller was killed meanwhile.
    fn lost_writes(&self) -> io::Result<()> {
        Ok(())
    }

    /// Makes it at least `bytes` long; what is new reads as zeroes.
    fn lengthen(&self, bytes: u64) -> io::Result<()> {
        if self.size()? < bytes { Err(io::ErrorKind::Unsupported.into()) } else { Ok(()) }
    }

    /// Makes it `bytes` long again, after it was lengthened for nothing: nobody looks at what lies above.
    fn shorten(&self, bytes: u64) -> io::Result<()> {
        let _ = bytes;
        Ok(())
    }

    /// False for what is gone with this process, and has nothing to sync.
    fn is_durable(&self) -> bool {
        true
    }

    /// The file behind it, if there is one that engines may reach directly.
    fn file(&self) -> Option<MediumFile<'_>>;
}

/// Words of a [`Medium`] that were mapped while it was in use.
pub trait Mapped: Send + Sync + fmt::Debug {
    /// They, little-endian.
    fn words(&self) -> &[AtomicU64];

    /// True when they are gone: the medium was cut short, or could not give a page of them. They read as zeroes
    /// then, and what is stored in them is kept nowhere. Whoever read them before, and sees false, has read
    /// what they were. Cheap.
    fn is_lost(&self) -> bool {
        false
    }

    /// Makes durable what was stored in them before this was called.
    fn sync(&self) -> io::Result<()>;
}

/// The file behind a [`Medium`], by its descriptors.
#[derive(Clone, Copy, Debug)]
pub struct MediumFile<'a> {
    /// For reads and writes through the page cache.
    pub buffered: BorrowedFd<'a>,
    /// For those past it, where that was asked for.
    pub direct: Option<Direct<'a>>,
}

/// A descriptor opened with `O_DIRECT`.
#[derive(Clone, Copy, Debug)]
pub struct Direct<'a> {
    /// The descriptor.
    pub fd: BorrowedFd<'a>,
    /// Bytes that memory, offsets and lengths are to be aligned to.
    pub align: u32,
}

/// Reads exactly `into`.
pub(crate) fn read_bytes(medium: &dyn Medium, at: u64, into: &mut [u8]) -> io::Result<()> {
    let buffers = heap(into.len())?;
    let mut done = 0;
    while done < buffers.len() {
        match medium.read(at.saturating_add(done), &buffers, done..buffers.len()) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => done = done.saturating_add(n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    buffers.read(0, into).map_err(io::Error::other)
}

/// Writes all of `from`.
pub(crate) fn write_bytes(medium: &dyn Medium, at: u64, from: &[u8]) -> io::Result<()> {
    let buffers = heap(from.len())?;
    buffers.write(0, from).map_err(io::Error::other)?;
    let mut done = 0;
    while done < buffers.len() {
        match medium.write(at.saturating_add(done), &buffers, done..buffers.len()) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => done = done.saturating_add(n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn heap(len: usize) -> io::Result<Buffers> {
    let mut buffers = Buffers::new(Rc::new(HeapMemory::new(0, len)), Vec::new());
    let whole = u32::try_from(len).is_ok_and(|len| buffers.push(0, len));
    if whole { Ok(buffers) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// Makes `range` read as zeroes, if it does not.
pub(crate) fn clear(medium: &dyn Medium, range: Range<u64>) -> io::Result<()> {
    let end = range.end.min(medium.size()?);
    if range.start >= end {
        return Ok(());
    }
    match medium.next_data(range.start)? {
        Some(data) if data < end => medium.zero(data..end, true),
        _ => Ok(()),
    }
}
