//! How long a store promises anything: its syncs, what its superblocks say meanwhile, and the end, after which
//! it only reads.

use std::io;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use crate::engine::Job;
use crate::grow::TableGuard;
use crate::image::{COPIES, Header, State, note_sync};
use crate::store::Store;
use crate::volume::Failure;

/// What a commit failed with; a failed sync fails many flushes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CommitError {
    /// The medium said so, with this error of the system.
    Medium(i32),
    /// The medium was cut short.
    Short {
        /// Bytes that it lacks.
        missing: u64,
    },
    /// The zone table is gone.
    TableLost,
    /// An earlier one failed.
    Poisoned,
}

/// What the system says of a disk that fails.
fn eio() -> io::Error {
    rustix::io::Errno::IO.into()
}

impl From<CommitError> for Failure {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Medium(code) => Self::Medium(io::Error::from_raw_os_error(code)),
            CommitError::Short { missing } => Self::Short { missing },
            CommitError::TableLost => Self::TableLost,
            CommitError::Poisoned => Self::Poisoned,
        }
    }
}

impl From<CommitError> for io::Error {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Medium(code) => Self::from_raw_os_error(code),
            CommitError::Short { .. } => io::ErrorKind::UnexpectedEof.into(),
            CommitError::TableLost => eio(),
            CommitError::Poisoned => io::ErrorKind::ReadOnlyFilesystem.into(),
        }
    }
}

impl From<&io::Error> for CommitError {
    fn from(error: &io::Error) -> Self {
        Self::Medium(error.raw_os_error().unwrap_or(rustix::io::Errno::IO.raw_os_error()))
    }
}

impl Store {
    /// True when nothing may be promised any more.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Relaxed)
    }

    /// True when that is because part of the medium is gone, and with it perhaps what had been promised.
    pub(crate) fn has_lost_part(&self) -> bool {
        self.lost_part.load(Ordering::Relaxed)
    }

    /// Looks whether somebody has cut the medium short. What was cut off would read as zeroes as soon as a
    /// write beyond it made the medium longer again.
    pub(crate) fn check_length(&self) -> Result<(), CommitError> {
        // A medium that does not tell is taken at its word elsewhere.
        let len = self.medium.size().unwrap_or(u64::MAX);
        match self.layout().data_end().saturating_sub(len) {
            0 => Ok(()),
            missing => Err(self.lose(CommitError::Short { missing })),
        }
    }

    /// Why `job` fails, to which the medium had nothing to give.
    pub(crate) fn ended_early(&self, job: &Job) -> Failure {
        // Remembered; what this job hears is what it lacks itself.
        let _ = self.check_length();
        Failure::Short { missing: job.left() }
    }

    /// Looks whether the zone table is gone: nothing that was stored in it is kept then.
    pub(crate) fn check_table(&self, tables: &TableGuard<'_>) -> Result<(), CommitError> {
        if tables.is_lost() { Err(self.lose(CommitError::TableLost)) } else { Ok(()) }
    }

    fn lose(&self, error: CommitError) -> CommitError {
        self.lost_part.store(true, Ordering::Relaxed);
        self.fail(error)
    }

    /// Syncs; the first failure is the last thing that this store does to its medium. (The kernel may
    /// have dropped what it could not write: a second sync that succeeds would say nothing.)
    pub(crate) fn sync(&self) -> Result<(), CommitError> {
        self.noted(|| self.medium.sync())
    }

    /// Syncs, and has it noted in the image for as long as that takes: whoever is killed meanwhile never
    /// hears that it failed. The note stays when it did.
    pub(crate) fn noted(&self, sync: impl FnOnce() -> io::Result<()>) -> Result<(), CommitError> {
        let is_image = self.header.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        let note = |under_way| {
            if is_image {
                // Without the note less is known after a death in the next moment, and that is all.
                let _ = note_sync(self.medium.as_ref(), under_way);
            }
        };
        self.check_length()?;
        note(true);
        sync().map_err(|error| self.fail(CommitError::from(&error)))?;
        note(false);
        Ok(())
    }

    /// The last thing that this store does to its medium.
    pub(crate) fn fail(&self, error: CommitError) -> CommitError {
        self.poisoned.store(true, Ordering::Relaxed);
        self.say_failed();
        error
    }

    /// Writes into the superblock that a sync failed, so that whoever opens the image next believes only
    /// what was made durable before. If that can not be written either, the host's death will tell.
    fn say_failed(&self) {
        let header = self.header.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut header) = header {
            header.state = State::SyncFailed;
            let _ = header.write_both(self.medium.as_ref(), false);
        }
    }

    /// Writes into the superblock that the image is open for writing, durably. When that fails, what was
    /// not synced before may be lost, and the superblock says so.
    pub(crate) fn say_dirty(&self, header: Header) -> Result<(), CommitError> {
        self.say(State::Dirty, header)
    }

    /// Writes into the superblock that the image is left in order. For the last time.
    pub(crate) fn say_clean(&self) -> Result<(), CommitError> {
        let header = self.header.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(header) = header else { return Ok(()) };
        self.say(State::Clean, header)?;
        *self.header.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }

    fn say(&self, state: State, mut header: Header) -> Result<(), CommitError> {
        header.state = state;
        for _ in COPIES {
            header.write_one(self.medium.as_ref()).map_err(|e| CommitError::from(&e))?;
            *self.header.lock().unwrap_or_else(PoisonError::into_inner) = Some(header.clone());
            if self.is_poisoned() {
                // By somebody who reads or records meanwhile: that is said last.
                return Err(self.fail(CommitError::Poisoned));
            }
            self.sync()?;
        }
        Ok(())
    }
}
