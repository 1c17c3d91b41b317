//! What can be asked of the device, and what comes back.

use alloc::vec::Vec;
use core::fmt;

use zvb_wire::{Lifetime, Sector};

use crate::dma::Buffer;
use crate::error::{RequestError, SubmitError};
use crate::transport::Dma;
use crate::zone::Zone;

/// A request, with the memory that it reads from or writes to.
///
/// Addresses and zones are in 512-byte sectors from the start of the disk; a zone is named by its first
/// sector. Every request transfers the whole of its buffer.
pub enum Request<D: Dma> {
    /// Reads from `at` into `buffer`.
    Read {
        /// Where from: a multiple of the block size.
        at: Sector,
        /// Where to: a multiple of the block size.
        buffer: Buffer<D>,
    },
    /// Writes `buffer` from `at` on. In a sequential-write-required zone that must be its write pointer.
    Write {
        /// Where to: a multiple of the block size, and of the write granularity in sequential zones.
        at: Sector,
        /// What: a multiple of the block size, and of the write granularity in sequential zones.
        buffer: Buffer<D>,
    },
    /// Writes `buffer` at the write pointer of `zone`, wherever that is: [`Answer::Appended`] tells.
    Append {
        /// The zone's first sector.
        zone: Sector,
        /// What: a multiple of the write granularity.
        buffer: Buffer<D>,
    },
    /// Describes as many zones as `buffer` has room for: 64 bytes, and 64 for each.
    Report {
        /// Any sector of the first zone.
        from: Sector,
        /// Room for at least one zone.
        buffer: Buffer<D>,
    },
    /// Opens a zone explicitly.
    Open {
        /// The zone's first sector.
        zone: Sector,
    },
    /// Closes a zone.
    Close {
        /// The zone's first sector.
        zone: Sector,
    },
    /// Makes a zone full.
    Finish {
        /// The zone's first sector.
        zone: Sector,
    },
    /// Makes a zone empty.
    Reset {
        /// The zone's first sector.
        zone: Sector,
    },
    /// Makes every sequential zone empty.
    ResetAll,
    /// Commits to stable storage what was written and answered before this is submitted.
    Flush,
    /// Asks for the device's name.
    Id,
    /// Asks how worn the device is (LIFETIME, which [`Options::features`](crate::Options::features) must
    /// let in).
    Lifetime,
    /// Tells the device that nobody needs what is in `ranges`.
    Discard {
        /// Where.
        ranges: Vec<SectorRange>,
    },
    /// Zeroes `ranges`.
    WriteZeroes {
        /// Where.
        ranges: Vec<SectorRange>,
        /// Lets the device give the space back.
        unmap: bool,
    },
    /// Erases what is in `ranges` and all copies of it; in sequential zones, resets them (SECURE_ERASE,
    /// which [`Options::features`](crate::Options::features) must let in).
    SecureErase {
        /// Where: whole units of the alignment, whole zones on a zoned disk.
        ranges: Vec<SectorRange>,
    },
}

/// A run of sectors.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SectorRange {
    /// The first.
    pub at: Sector,
    /// How many 512-byte sectors.
    pub sectors: u32,
}

impl<D: Dma> Request<D> {
    /// The buffer of a request that is not sent.
    pub fn into_buffer(self) -> Option<Buffer<D>> {
        match self {
            Self::Read { buffer, .. }
            | Self::Write { buffer, .. }
            | Self::Append { buffer, .. }
            | Self::Report { buffer, .. } => Some(buffer),
            _ => None,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Read { .. } => "Read",
            Self::Write { .. } => "Write",
            Self::Append { .. } => "Append",
            Self::Report { .. } => "Report",
            Self::Open { .. } => "Open",
            Self::Close { .. } => "Close",
            Self::Finish { .. } => "Finish",
            Self::Reset { .. } => "Reset",
            Self::ResetAll => "ResetAll",
            Self::Flush => "Flush",
            Self::Id => "Id",
            Self::Discard { .. } => "Discard",
            Self::WriteZeroes { .. } => "WriteZeroes",
            Self::Lifetime => "Lifetime",
            Self::SecureErase { .. } => "SecureErase",
        }
    }
}

impl<D: Dma> fmt::Debug for Request<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct(self.name());
        match self {
            Self::Read { at, buffer } | Self::Write { at, buffer } => {
                f.field("at", at).field("buffer", buffer)
            }
            Self::Append { zone, buffer } => f.field("zone", zone).field("buffer", buffer),
            Self::Report { from, buffer } => f.field("from", from).field("buffer", buffer),
            Self::Open { zone }
            | Self::Close { zone }
            | Self::Finish { zone }
            | Self::Reset { zone } => f.field("zone", zone),
            Self::ResetAll | Self::Flush | Self::Id | Self::Lifetime => &mut f,
            Self::Discard { ranges } | Self::SecureErase { ranges } => f.field("ranges", ranges),
            Self::WriteZeroes { ranges, unmap } => f.field("ranges", ranges).field("unmap", unmap),
        };
        f.finish()
    }
}

/// Which request a [`Completion`] is of: unique in the life of its queue.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token {
    pub(crate) sequence: u64,
    pub(crate) slot: u16,
}

impl Token {
    /// A number below the queue's depth that no other request in flight on that queue has: an index for
    /// what its submitter remembers of it.
    pub fn slot(self) -> usize {
        usize::from(self.slot)
    }
}

/// A request that was not sent, and why.
pub struct Rejected<D: Dma> {
    /// Why.
    pub error: SubmitError,
    /// The request as it was given, with its buffer.
    pub request: Request<D>,
}

impl<D: Dma> fmt::Debug for Rejected<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected")
            .field("error", &self.error)
            .field("request", &self.request)
            .finish()
    }
}

impl<D: Dma> fmt::Display for Rejected<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl<D: Dma> core::error::Error for Rejected<D> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        self.error.source()
    }
}

/// A request that the device has answered.
pub struct Completion<D: Dma> {
    /// What [`submit`](crate::Queue::submit) returned for it.
    pub token: Token,
    /// How it went.
    pub result: Result<Answer, RequestError>,
    /// The buffer that went with it.
    pub buffer: Option<Buffer<D>>,
    /// How many bytes of `buffer` the device says that it wrote: those of a read, those of a report.
    pub bytes: u32,
}

impl<D: Dma> fmt::Debug for Completion<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completion")
            .field("token", &self.token)
            .field("result", &self.result)
            .field("buffer", &self.buffer)
            .field("bytes", &self.bytes)
            .finish()
    }
}

/// What a request that went well brings, beside the bytes in its buffer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It is done.
    Done,
    /// The data of an append went here: its first sector, inside the zone.
    Appended(Sector),
    /// The zones of a report, checked; none when the device chose to tell of none.
    Zones(Vec<Zone>),
    /// The device's name: ASCII, padded with NUL, with none when all bytes are used.
    Id([u8; 20]),
    /// How worn the device is, in values that are not reserved.
    Lifetime(Lifetime),
}
