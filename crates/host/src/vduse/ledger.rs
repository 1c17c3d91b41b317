//! Which chains are in flight, in a file that outlives this process: whoever serves the device next finishes
//! each of them, and none twice.
//!
//! The file is for the life of the kernel's device, so its numbers are in the host's order. Its first words say
//! which disk it is about; then there are four words for each descriptor of each queue, for the chain that
//! begins there: its place in the order of all that were taken (0: it is not in flight), where its used element
//! stands, plus 1, once it is answered, and the device's note. A process dies between two stores; each order of
//! stores here leaves what the next one can make sense of.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use zvb_device::Device;
use zvb_ring::{Ledger, Unanswered};

use crate::sys::SharedWords;

const MAGIC: u64 = 0x7a76_6269_6e66_0001;
const HEADER_WORDS: usize = 8;
const WORDS: usize = 4;

const SEQUENCE: usize = 0;
const ANSWERED: usize = 1;
const NOTE: usize = 2;

/// The disk and the queues that a file is about.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Subject([u64; HEADER_WORDS]);

impl Subject {
    fn of(device: &Device) -> Self {
        let (queues, size) = (device.queues(), device.max_queue_size());
        let mut words = [0; HEADER_WORDS];
        let id = device.volume().shape().id;
        let parts = id
            .chunks(8)
            .map(|chunk| chunk.iter().fold(0, |word: u64, byte| word << 8 | u64::from(*byte)));
        let all = [MAGIC, u64::from(queues) << 16 | u64::from(size), device.features().bits()];
        for (word, value) in words.iter_mut().zip(all.into_iter().chain(parts)) {
            *word = value;
        }
        Self(words)
    }
}

/// The file.
pub(crate) struct LedgerFile {
    words: SharedWords,
    size: u16,
}

impl LedgerFile {
    /// A new file, in which nothing is in flight.
    pub(crate) fn create(path: &Path, device: &Device) -> io::Result<Arc<Self>> {
        // Whoever still has the old one, has the old one.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create_new(true).mode(0o600).open(path)?;
        // Written, so that a file system without room says so now, and not when the mapping is touched.
        file.write_all(&vec![0; Self::count(device) * size_of::<u64>()]).inspect_err(|_| {
            // It is of no use to anybody.
            let _ = std::fs::remove_file(path);
        })?;
        let this = Self::map(&file, device)?;
        for (index, value) in Subject::of(device).0.into_iter().enumerate() {
            this.word(index)?.store(value, Ordering::Relaxed);
        }
        Ok(Arc::new(this))
    }

    /// The file that an earlier process left; `None` when it is about something else.
    pub(crate) fn open(path: &Path, device: &Device) -> io::Result<Option<Arc<Self>>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        if file.metadata()?.len() != Self::bytes(device) {
            return Ok(None);
        }
        let this = Self::map(&file, device)?;
        for (index, value) in Subject::of(device).0.into_iter().enumerate() {
            if this.word(index)?.load(Ordering::Relaxed) != value {
                return Ok(None);
            }
        }
        Ok(Some(Arc::new(this)))
    }

    fn map(file: &File, device: &Device) -> io::Result<Self> {
        let words = SharedWords::new(file.as_fd(), Self::count(device))?;
        Ok(Self { words, size: device.max_queue_size() })
    }

    fn count(device: &Device) -> usize {
        // At most 2^16 queues of 2^15 descriptors.
        HEADER_WORDS + WORDS * usize::from(device.queues()) * usize::from(device.max_queue_size())
    }

    fn bytes(device: &Device) -> u64 {
        Self::count(device) as u64 * size_of::<u64>() as u64
    }

    fn word(&self, index: usize) -> io::Result<&AtomicU64> {
        self.words.word(index).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// The part about one queue.
    pub(crate) fn queue(self: &Arc<Self>, index: u16) -> QueueLedger {
        let first = HEADER_WORDS + WORDS * usize::from(index) * usize::from(self.size);
        QueueLedger { file: Arc::clone(self), first, sequence: 0, answered: Vec::new() }
    }
}

/// What is in flight in one queue.
pub(crate) struct QueueLedger {
    file: Arc<LedgerFile>,
    first: usize,
    /// Of the chain that was taken last.
    sequence: u64,
    /// Chains that are answered, and not published.
    answered: Vec<u16>,
}

impl QueueLedger {
    fn word(&self, head: u16, which: usize) -> Option<&AtomicU64> {
        self.file.words.word(self.first + WORDS * usize::from(head) + which)
    }

    fn load(&self, head: u16, which: usize) -> u64 {
        self.word(head, which).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// In the order of the calls: a process dies between two of them.
    fn store(&self, head: u16, which: usize, value: u64) {
        if let Some(word) = self.word(head, which) {
            word.store(value, Ordering::Release);
        }
    }

    /// Nothing is in flight: the queue begins.
    pub(crate) fn clear(&mut self) {
        for head in 0..self.file.size {
            self.store(head, SEQUENCE, 0);
        }
    }

    /// What the process before this one took and did not answer, in the order in which it took it, when the
    /// used index of the queue is `used`.
    pub(crate) fn unanswered(&mut self, used: u16) -> Vec<Unanswered> {
        let mut found = Vec::new();
        for head in 0..self.file.size {
            let sequence = self.load(head, SEQUENCE);
            if sequence == 0 {
                continue;
            }
            self.sequence = self.sequence.max(sequence);
            // Fewer than 2^15 + 1 are answered at a time, so the distance tells before from behind.
            let seen = match self.load(head, ANSWERED).checked_sub(1) {
                Some(position) => (1..=0x8000).contains(&used.wrapping_sub(position as u16)),
                None => false,
            };
            if seen {
                self.store(head, SEQUENCE, 0);
            } else {
                self.store(head, ANSWERED, 0);
                found.push((sequence, Unanswered { head, note: self.load(head, NOTE) }));
            }
        }
        found.sort_unstable_by_key(|(sequence, _)| *sequence);
        found.into_iter().map(|(_, chain)| chain).collect()
    }
}

impl Ledger for QueueLedger {
    fn taken(&mut self, head: u16) {
        self.sequence += 1;
        self.store(head, NOTE, 0);
        self.store(head, ANSWERED, 0);
        self.store(head, SEQUENCE, self.sequence);
    }

    fn note(&mut self, head: u16, note: u64) {
        self.store(head, NOTE, note);
    }

    fn answered(&mut self, head: u16, position: u16) {
        self.store(head, ANSWERED, u64::from(position) + 1);
        self.answered.push(head);
    }

    fn published(&mut self) {
        while let Some(head) = self.answered.pop() {
            self.store(head, SEQUENCE, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zvb_device::DeviceOptions;
    use zvb_storage::Memory;
    use zvb_wire::Sector;

    fn device(queues: u16, size: u16) -> Arc<Device> {
        let volume = Arc::new(Memory::new(Sector(64), 4096, None).unwrap());
        let options = DeviceOptions { queues, max_queue_size: size, ..DeviceOptions::default() };
        Device::new(volume, options).unwrap()
    }

    #[test]
    fn the_next_process_finds_what_was_not_answered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d.inflight");
        let device = device(2, 8);
        let file = LedgerFile::create(&path, &device).unwrap();
        let mut queue = file.queue(1);
        for head in [5, 0, 7, 3] {
            queue.taken(head);
        }
        queue.note(7, 77);
        queue.answered(0, 0xffff);
        queue.published();
        queue.answered(5, 0);
        let heads = |used| {
            let file = LedgerFile::open(&path, &device).unwrap().unwrap();
            file.queue(1).unanswered(used).iter().map(|u| (u.head, u.note)).collect::<Vec<_>>()
        };
        // The used index says whether the driver sees the answer of 5, at position 0.
        let copy = std::fs::read(&path).unwrap();
        assert_eq!(heads(1), [(7, 77), (3, 0)]);
        std::fs::write(&path, &copy).unwrap();
        assert_eq!(heads(0), [(5, 0), (7, 77), (3, 0)]);
        assert!(
            LedgerFile::open(&path, &device).unwrap().unwrap().queue(0).unanswered(0).is_empty()
        );
        // What is taken next comes after all of those.
        let mut next = LedgerFile::open(&path, &device).unwrap().unwrap().queue(1);
        next.unanswered(0);
        next.taken(1);
        assert_eq!(heads(0).last(), Some(&(1, 0)));
        next.clear();
        assert!(heads(0).is_empty());
    }

    #[test]
    fn a_file_of_another_disk_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d.inflight");
        LedgerFile::create(&path, &device(2, 8)).unwrap();
        for (queues, size) in [(1, 8), (2, 16), (1, 16), (4, 4)] {
            assert!(LedgerFile::open(&path, &device(queues, size)).unwrap().is_none());
        }
        assert!(LedgerFile::open(&path, &device(2, 8)).unwrap().is_some());
    }
}
