//! A file as a medium, and what can be said of files: kinds, locks, holders.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{
    Advice, FallocateFlags, FlockOperation, OFlags, SeekFrom, fadvise, fallocate, flock, seek,
    syncfs,
};
use rustix::io::Errno;
use zvb_ring::Buffers;

use crate::medium::{Direct, Mapped, Medium, MediumFile};
use crate::sys::{CALL_BYTES_MAX, Patience, Words, claim_file, read_at, write_at, zero_flags};

/// Bytes written at once where a file system can not make zeroes by itself.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// What direct I/O is aligned to where the file system does not say.
const DIRECT_ALIGN: u32 = 4096;

/// A regular file.
#[derive(Debug)]
pub(crate) struct FileMedium {
    file: File,
    direct: Option<File>,
    words: Words,
    writable: bool,
}

impl FileMedium {
    /// `file`, which was opened at `path` (for writing if `writable`); also past the page cache if
    /// `direct`.
    pub(crate) fn new(file: File, path: &Path, writable: bool, direct: bool) -> io::Result<Self> {
        let direct = match direct {
            true => Some(reopen_direct(&file, path, writable)?),
            false => None,
        };
        if writable {
            wait_for_direct(direct.as_ref().unwrap_or(&file))?;
        }
        Ok(Self { file, direct, words: Words::NONE, writable })
    }

    /// Has the blocks of `range` there, in which a table of zones is to be.
    pub(crate) fn reserve(&self, range: Range<u64>) -> io::Result<()> {
        if range.is_empty() { Ok(()) } else { reserve(&self.file, range) }
    }
}

fn words_at(at: u64, count: usize) -> Range<u64> {
    at..at.saturating_add((count as u64).saturating_mul(8))
}

/// Has the blocks of `range` there: a store into a hole of a full file system would cost us the table.
fn reserve(file: &File, range: Range<u64>) -> io::Result<()> {
    let bytes = range.end.saturating_sub(range.start);
    match fallocate(file, FallocateFlags::KEEP_SIZE, range.start, bytes) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn reopen_direct(file: &File, path: &Path, writable: bool) -> io::Result<File> {
    let flags = OFlags::DIRECT.bits().cast_signed();
    let direct = OpenOptions::new().read(true).write(writable).custom_flags(flags).open(path)?;
    let (a, b) = (file.metadata()?, direct.metadata()?);
    // Another file was put in its place in between.
    if (a.dev(), a.ino()) != (b.dev(), b.ino()) {
        return Err(io::ErrorKind::StaleNetworkFileHandle.into());
    }
    Ok(direct)
}

/// A copy of `count` words of `file` from byte `at` on; past its end there are zeroes.
fn copied(file: &File, at: u64, count: usize) -> io::Result<Words> {
    let words = Words::anonymous(count)?;
    let mut piece = vec![0; 1 << 16];
    let mut place = at;
    for words in words.get().chunks(piece.len() / 8) {
        piece.fill(0);
        let mut filled = 0;
        while let Some(rest) = piece.get_mut(filled..words.len() * 8).filter(|r| !r.is_empty()) {
            match file.read_at(rest, place.saturating_add(filled as u64)) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        for (word, bytes) in words.iter().zip(piece.as_chunks::<8>().0) {
            let value = u64::from_le_bytes(*bytes);
            // What is zero takes no memory.
            if value != 0 {
                word.store(value.to_le(), Ordering::Relaxed);
            }
        }
        place = place.saturating_add(words.len() as u64 * 8);
    }
    Ok(words)
}

/// What of a long write goes out in one call.
fn one_call(at: u64, range: Range<u64>) -> Range<u64> {
    if range.end.saturating_sub(range.start) <= CALL_BYTES_MAX {
        return range;
    }
    range.start..range.start.saturating_add(CALL_BYTES_MAX - at % CALL_BYTES_MAX)
}

impl Medium for FileMedium {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn map(&mut self, at: u64, count: usize) -> io::Result<()> {
        if !self.writable {
            // Not mapped: even to read a hole through a mapping wants room on some file systems, and ends
            // the process where there is none.
            self.words = copied(&self.file, at, count)?;
            return Ok(());
        }
        if count > 0 {
            reserve(&self.file, words_at(at, count))?;
        }
        self.words = Words::of_file(self.file.as_fd(), at, count)?;
        Ok(())
    }

    fn map_more(&self, at: u64, count: usize) -> io::Result<Arc<dyn Mapped>> {
        reserve(&self.file, words_at(at, count))?;
        Ok(Arc::new(Words::of_file(self.file.as_fd(), at, count)?))
    }

    fn words(&self) -> &[AtomicU64] {
        self.words.get()
    }

    fn words_lost(&self) -> bool {
        self.words.is_lost()
    }

    fn read(&self, at: u64, into: &Buffers, range: Range<u64>) -> io::Result<u64> {
        read_at(self.file.as_fd(), at, into, range, Patience::Wait)
    }

    fn write(&self, at: u64, from: &Buffers, range: Range<u64>) -> io::Result<u64> {
        write_at(self.file.as_fd(), at, from, one_call(at, range))
    }

    fn zero(&self, range: Range<u64>, unmap: bool) -> io::Result<()> {
        let len = range.end.saturating_sub(range.start);
        if len == 0 {
            return Ok(());
        }
        for unmap in [unmap, !unmap] {
            match fallocate(&self.file, zero_flags(unmap), range.start, len) {
                Ok(()) => return Ok(()),
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
                Err(e) => return Err(e.into()),
            }
        }
        let mut at = range.start;
        while at < range.end {
            let run = (range.end - at).min(ZEROES.len() as u64);
            self.file.write_all_at(ZEROES.get(..run as usize).unwrap_or(&ZEROES), at)?;
            at = at.saturating_add(run);
        }
        Ok(())
    }

    /// Finds blocks for all of it at once. Where that can not be, the writes will tell.
    fn expect_writes(&self, range: Range<u64>) {
        let _ = reserve(&self.file, range);
    }

    /// As zeroes that need not be written: their blocks stay, and so nothing has to be found for them again.
    fn renew(&self, range: Range<u64>) -> io::Result<()> {
        let len = range.end.saturating_sub(range.start);
        Ok(fallocate(&self.file, zero_flags(false), range.start, len)?)
    }

    fn next_data(&self, at: u64) -> io::Result<Option<u64>> {
        match seek(&self.file, SeekFrom::Data(at)) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NXIO) => Ok(None),
            // A file system that can not tell.
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(Some(at)),
            Err(e) => Err(e.into()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn sync_words(&self) -> io::Result<()> {
        self.words.sync()
    }

    fn forget(&self) -> io::Result<()> {
        Ok(fadvise(&self.file, 0, None, Advice::DontNeed)?)
    }

    /// By the file system's own error, which a sync of the file does not take away. Others may have asked
    /// for it before, and it may be about another file.
    fn lost_writes(&self) -> io::Result<()> {
        Ok(syncfs(&self.file)?)
    }

    fn lengthen(&self, bytes: u64) -> io::Result<()> {
        if self.size()? < bytes { self.file.set_len(bytes) } else { Ok(()) }
    }

    fn shorten(&self, bytes: u64) -> io::Result<()> {
        if self.size()? > bytes { self.file.set_len(bytes) } else { Ok(()) }
    }

    fn file(&self) -> Option<MediumFile<'_>> {
        let direct = self.direct.as_ref().map(|f| Direct { fd: f.as_fd(), align: DIRECT_ALIGN });
        Some(MediumFile { buffered: self.file.as_fd(), direct })
    }
}

/// What is at the end of a path, when it is not a regular file.
pub(crate) fn kind_of_file(metadata: &std::fs::Metadata) -> Option<&'static str> {
    let kind = metadata.file_type();
    Some(match () {
        () if kind.is_file() => return None,
        () if kind.is_dir() => "a directory",
        () if kind.is_block_device() => "a block device",
        () if kind.is_char_device() => "a character device",
        () if kind.is_fifo() => "a pipe",
        () if kind.is_socket() => "a socket",
        () => "not a regular file",
    })
}

/// How an image is locked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lock {
    /// Others may read it.
    Shared,
    /// Nobody else.
    Exclusive,
}

/// How long the kernel may still be at work for a process that died, and keep its lock meanwhile.
const LINGER: Duration = Duration::from_secs(10);
/// The same, where the system does not tell whose the lock is.
const LINGER_UNKNOWN: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(1);

/// Locks `file` until it is closed. False when another has a lock that forbids it.
///
/// A process that was killed may leave I/O behind that the kernel goes on with, and the file is locked until
/// that is done: it is waited for.
pub(crate) fn lock_file(file: &File, lock: Lock) -> io::Result<bool> {
    let operation = match lock {
        Lock::Shared => FlockOperation::NonBlockingLockShared,
        Lock::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    let begun = Instant::now();
    loop {
        match flock(file, operation) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => {}
            Err(e) => return Err(e.into()),
        }
        let patience = match lock_holder(file) {
            Some(pid) if is_alive(pid) => return Ok(false),
            Some(_) => LINGER,
            None => LINGER_UNKNOWN,
        };
        if begun.elapsed() > patience {
            return Ok(false);
        }
        std::thread::sleep(PAUSE);
    }
}

/// True while process `pid` can do anything.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    // "1234 (a name) S ...", where the name may be anything.
    let state = stat.ok().and_then(|stat| stat.rsplit(") ").next()?.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Waits for the I/O past the page cache that a process left behind which was killed: the lock on the image
/// is that of another open file, and does not tell of it. `last` is the one of our own that is closed last.
fn wait_for_direct(last: &File) -> io::Result<()> {
    let begun = Instant::now();
    loop {
        match claim_file(last.as_fd()) {
            Ok(true) => return Ok(()),
            Ok(false) if begun.elapsed() > LINGER => return Err(io::ErrorKind::ResourceBusy.into()),
            Ok(false) => std::thread::sleep(PAUSE),
            // A file system without such locks.
            Err(_) => return Ok(()),
        }
    }
}

/// A process that has a lock on `file`, if the system tells.
pub(crate) fn lock_holder(file: &File) -> Option<u32> {
    let metadata = file.metadata().ok()?;
    let (major, minor) = (rustix::fs::major(metadata.dev()), rustix::fs::minor(metadata.dev()));
    let place = format!("{major:02x}:{minor:02x}:{}", metadata.ino());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    // "1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF"; lines of waiters have an arrow after the number.
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        match fields.as_slice() {
            [_, "FLOCK", _, _, pid, at, ..] if *at == place => pid.parse().ok(),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_writes_go_out_in_aligned_pieces() {
        const MAX: u64 = CALL_BYTES_MAX;
        assert_eq!(one_call(5, 7..7 + MAX), 7..7 + MAX, "short enough");
        assert_eq!(one_call(0, 7..8 + MAX), 7..7 + MAX);
        assert_eq!(one_call(MAX + 4096, 0..5 * MAX), 0..MAX - 4096);
    }
}
