//! Why an image is not opened.

use std::io;
use std::path::{Path, PathBuf};

use zvb_zones::GeometryError;

use crate::table::RecordError;

/// An image that is not opened.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", .path.display())]
pub struct OpenError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub reason: Refusal,
}

impl OpenError {
    /// Why the image at `path` is not opened.
    pub(crate) fn at(path: &Path) -> impl FnOnce(Refusal) -> Self + use<'_> {
        |reason| {
            // Below /dev, nobody means to make an image, but where memory is.
            let device = path.starts_with("/dev") && !path.starts_with("/dev/shm");
            let reason = match reason {
                Refusal::NotFound if device => Refusal::NoDevice,
                reason => reason,
            };
            Self { path: path.to_owned(), reason }
        }
    }
}

/// Something that could not be done with a file.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", .path.display())]
pub struct FileError<E: std::error::Error + 'static> {
    /// The file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub reason: E,
}

impl<E: std::error::Error + 'static> FileError<E> {
    /// What went wrong with the file at `path`.
    pub(crate) fn at(path: &Path) -> impl FnOnce(E) -> Self + use<'_, E> {
        |reason| Self { path: path.to_owned(), reason }
    }
}

/// Why an image is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// There is no such file.
    #[error("there is no such file; `zvb create` makes one")]
    NotFound,
    /// There is no such file, where devices are.
    #[error("there is no such device; `lsblk` lists those that this host has")]
    NoDevice,
    /// The system does not let us.
    #[error("permission denied")]
    Permission,
    /// Not a regular file.
    #[error("{0}, not an image file")]
    NotAFile(&'static str),
    /// Nothing in it.
    #[error("the file is empty; `zvb create --force` makes an image of it")]
    Empty,
    /// Not even a superblock.
    #[error("the file is too short for an image: {0} bytes")]
    TooShort(u64),
    /// Something else.
    #[error("not a zvb image; `zvb create` makes one")]
    Foreign,
    /// Made by a later version of this.
    #[error(
        "the image has format version {found}, and this zvb knows {known}: use the zvb that made it, or a later one"
    )]
    NewerVersion {
        /// The version of the image.
        found: u32,
        /// The newest that is known.
        known: u32,
    },
    /// Features that must be known to understand the image.
    #[error(
        "the image has features that this zvb does not know (incompatible, bits {0:#x}): use the zvb that made \
         it, or a later one"
    )]
    UnknownFeatures(u32),
    /// Features that must be known to change the image.
    #[error(
        "the image has features that this zvb does not know (bits {0:#x}); it can be opened read-only"
    )]
    ReadOnlyFeatures(u32),
    /// The file ends where nothing that is left can be told from what is lost.
    #[error(
        "the image is cut off: {len} bytes of {expected}, and {lost} with the rest; nothing here can mend it, \
         a backup can"
    )]
    CutOff {
        /// Bytes that are there.
        len: u64,
        /// Bytes that should be.
        expected: u64,
        /// What is among those that are not.
        lost: &'static str,
    },
    /// Both superblocks have wrong checksums.
    #[error("both superblocks are torn: nothing here can mend it, a backup can")]
    Torn,
    /// The superblock has the right checksum, and makes no sense.
    #[error("the superblock makes no sense: {0}")]
    Superblock(#[source] BadSuperblock),
    /// The record of a zone makes no sense.
    #[error(
        "the record of zone {zone}: {source}; `zvb check` finds all that is wrong, and can repair it"
    )]
    BadRecord {
        /// The zone, from 0.
        zone: u32,
        /// What is wrong.
        source: RecordError,
    },
    /// The file ends early.
    #[error(
        "the image is cut off: {len} bytes of {expected}; `zvb check` tells what is lost and whether it can be \
         repaired"
    )]
    Truncated {
        /// Bytes that are there.
        len: u64,
        /// Bytes that should be.
        expected: u64,
    },
    /// Another process has it open.
    #[error("another process has the image open{}", pid.map(|p| format!(" (process {p})")).unwrap_or_default())]
    InUse {
        /// Its number, where the system tells.
        pid: Option<u32>,
    },
    /// The host's file system failed.
    #[error("cannot {doing} the image")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// What is wrong with a superblock whose checksum is right.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadSuperblock {
    /// Zones that make no disk.
    #[error(transparent)]
    Geometry(GeometryError),
    /// A number that means nothing.
    #[error("the {0} is none that can be")]
    Field(&'static str),
    /// Regions that overlap, or lie outside of the file.
    #[error("its regions do not fit")]
    Regions,
}

impl Refusal {
    /// What the system said when `doing` was tried.
    pub(crate) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::Permission,
            _ => Self::Io { doing, source },
        }
    }
}
