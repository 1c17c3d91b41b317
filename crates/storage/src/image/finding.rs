//! What can be wrong with an image, how bad that is, and what can be done about it.

use std::fmt;
use std::io;

use zvb_zones::{RestoreError, ZoneId};

use super::open::Recovery;
use crate::table::RecordError;

/// How bad something is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// The image can be used, and something is lost or in danger.
    Warning,
    /// The image can not be used, or its data can not be read.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// One thing that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Which zone it is about.
    pub zone: Option<ZoneId>,
    /// Where it is, in bytes from the start of the file.
    pub at: Option<u64>,
    /// What it is.
    pub problem: Problem,
    /// What can be done where repairing is refused.
    pub(super) instead: Option<&'static str>,
}

/// What can be wrong with an image that is one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// It was not left in order, which opening it for writing sees to.
    #[error("{}", not_in_order(*.0))]
    NotInOrder(Recovery),
    /// Its last user may have been killed while a sync failed.
    #[error(
        "left while a sync was under way: if that failed, what was not flushed before may be lost"
    )]
    InSync,
    /// One of the two superblocks is torn.
    #[error("one of the two superblocks is torn or missing")]
    Superblock,
    /// Features of a later version, which may be ignored.
    #[error("features that this zvb does not know, and may ignore (bits {0:#x})")]
    Features(u32),
    /// Features of a later version, which forbid changing the image.
    #[error("features that this zvb does not know (bits {0:#x}): the image can only be read")]
    ReadOnlyFeatures(u32),
    /// The file ends early.
    #[error("the file is cut off: {len} bytes of {expected}")]
    Truncated {
        /// Bytes that are there.
        len: u64,
        /// Bytes that should be.
        expected: u64,
    },
    /// The file goes on after the image.
    #[error("the file is longer than the image: {len} bytes, of which {expected} count")]
    TooLong {
        /// Bytes that are there.
        len: u64,
        /// Bytes that count.
        expected: u64,
    },
    /// The record of a zone makes no sense.
    #[error("the record of the zone: {0}")]
    Record(RecordError),
    /// One of the two durable copies of a record is not whole; the other one counts.
    #[error("one of the two copies of the zone's record is torn; the other one counts")]
    TornCopy,
    /// The same in an image that was left in order, which tears none.
    #[error(
        "one of the two copies of the zone's record is damaged, in an image that was left in order; the other one counts"
    )]
    DamagedCopy,
    /// A zone's data lies past the end of the file.
    #[error("the data of the zone is cut off with the file")]
    DataCutOff,
    /// More active zones than there may be.
    #[error("{active} active zones, and at most {limit} are allowed")]
    TooManyActive {
        /// How many there are.
        active: u32,
        /// How many there may be.
        limit: u32,
    },
    /// The states of the zones are refused by the rules of zones.
    #[error("the zones can not be in these states: {0}")]
    States(RestoreError),
    /// Data in a slot that no zone has.
    #[error("data that belongs to no zone, in slot {slot}")]
    Remains {
        /// Of the slot.
        slot: u32,
    },
    /// Data above the end of a zone that must read as zeroes there.
    #[error("data above the write pointer, where the zone must read as zeroes")]
    AboveEnd,
    /// The medium fails to read.
    #[error("{bytes} bytes can not be read: {}", io::Error::from_raw_os_error(*.code))]
    Unreadable {
        /// How many, from where the finding is on.
        bytes: u64,
        /// The error of the system.
        code: i32,
    },
}

impl Problem {
    /// A name for programs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NotInOrder(_) => "not-in-order",
            Self::InSync => "in-sync",
            Self::Superblock => "superblock",
            Self::Features(_) => "features",
            Self::ReadOnlyFeatures(_) => "read-only-features",
            Self::Truncated { .. } => "truncated",
            Self::TooLong { .. } => "too-long",
            Self::Record(_) => "record",
            Self::TornCopy => "torn-copy",
            Self::DamagedCopy => "damaged-copy",
            Self::DataCutOff => "data-cut-off",
            Self::TooManyActive { .. } => "too-many-active",
            Self::States(_) => "states",
            Self::Remains { .. } => "remains",
            Self::AboveEnd => "above-end",
            Self::Unreadable { .. } => "unreadable",
        }
    }
}

fn not_in_order(recovery: Recovery) -> &'static str {
    match recovery {
        Recovery::Clean => "left in order",
        Recovery::ProcessDied => {
            "left by a process that died: nothing that it had acknowledged is lost"
        }
        Recovery::HostDied => {
            "left by a host that died, or moved while it was in use: what was not flushed is lost"
        }
        Recovery::SyncFailed => {
            "left after its medium failed: what was not flushed before that is lost"
        }
    }
}

impl Finding {
    pub(super) fn of(problem: Problem) -> Self {
        Self { zone: None, at: None, problem, instead: None }
    }

    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match &self.problem {
            Problem::NotInOrder(Recovery::SyncFailed) | Problem::ReadOnlyFeatures(_) => {
                Severity::Warning
            }
            Problem::Superblock | Problem::DamagedCopy | Problem::AboveEnd => Severity::Warning,
            Problem::NotInOrder(_)
            | Problem::InSync
            | Problem::Features(_)
            | Problem::TooLong { .. }
            | Problem::TornCopy
            | Problem::Remains { .. } => Severity::Note,
            Problem::Truncated { .. }
            | Problem::Record(_)
            | Problem::DataCutOff
            | Problem::TooManyActive { .. }
            | Problem::States(_)
            | Problem::Unreadable { .. } => Severity::Error,
        }
    }

    /// What can be done about it.
    pub fn advice(&self) -> &'static str {
        let repair = |does| self.instead.unwrap_or(does);
        match &self.problem {
            Problem::NotInOrder(_) | Problem::TornCopy | Problem::Remains { .. } => {
                "nothing to do: it is seen to when the image is next opened for writing"
            }
            Problem::InSync => {
                "nothing to do: the file system is asked when the image is next opened for writing"
            }
            Problem::Superblock
            | Problem::DamagedCopy
            | Problem::AboveEnd
            | Problem::Truncated { .. } => repair("--repair mends it"),
            Problem::Features(_) | Problem::TooLong { .. } => "nothing to do",
            Problem::ReadOnlyFeatures(_) => "use the zvb that made it to write to it",
            Problem::Record(_) => {
                repair("--repair brings back what the last flush said, or takes the zone offline")
            }
            Problem::DataCutOff => repair("--repair takes the zone offline; a backup has its data"),
            Problem::TooManyActive { .. } | Problem::States(_) => {
                "`zvb dump`, change the states, and `zvb load` them"
            }
            Problem::Unreadable { .. } => "copy what can be read; the medium fails",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(zone) = self.zone {
            write!(f, "zone {}: ", zone.0)?;
        }
        self.problem.fmt(f)?;
        match self.at {
            Some(at) => write!(f, " (byte {at} of the file)"),
            None => Ok(()),
        }
    }
}
