//! An image that nobody else has, looked at before anything in it is changed: what is refused leaves no trace.

use std::path::Path;

use super::Image;
use super::format::Header;
use super::open::{CommitBy, OpenOptions, locked_medium, this_boot};
use super::refusal::Refusal;
use super::survey::Survey;
use crate::engine::EngineKind;
use crate::file::FileMedium;
use crate::medium::Medium;
use crate::table::Entry;

/// See the module.
pub(super) struct Still {
    medium: FileMedium,
    /// Bytes of the file.
    pub(super) len: u64,
    pub(super) header: Header,
    /// What every zone is in, as opening the image would find it.
    pub(super) entries: Vec<Entry>,
}

impl Still {
    /// The image at `path`, if it can be opened for writing.
    pub(super) fn at(path: &Path) -> Result<Self, Refusal> {
        let medium = locked_medium(path, true, false)?;
        let survey = Survey::of(&medium, this_boot()?, false)?;
        let Survey { header, len, zones, .. } = survey;
        if header.unknown_ro_compat() != 0 {
            return Err(Refusal::ReadOnlyFeatures(header.unknown_ro_compat()));
        }
        if len < header.file_bytes {
            return Err(Refusal::Truncated { len, expected: header.file_bytes });
        }
        let entry = |(zone, entry): (u32, Result<Entry, _>)| {
            entry.map_err(|source| Refusal::BadRecord { zone, source })
        };
        let entries = (0..).zip(zones.into_iter().map(|zone| zone.entry)).map(entry);
        let entries = entries.collect::<Result<_, _>>()?;
        Ok(Self { medium, len, header, entries })
    }

    /// Makes room for what the image is to become, `new`, and opens it for writing.
    pub(super) fn open(self, new: &Header) -> Result<Image, Refusal> {
        let Self { medium, len, header, .. } = self;
        let table = if new.table_at == header.table_at { 0..0 } else { new.table() };
        let room = medium.lengthen(new.file_bytes).and_then(|()| medium.reserve(table));
        if let Err(error) = room {
            // As long as it was, but for blocks that it may have got where it reads as zeroes.
            let _ = medium.shorten(len);
            return Err(Refusal::io("make room in")(error));
        }
        let options = OpenOptions {
            engine: EngineKind::Sync,
            commit: CommitBy::Caller,
            ..OpenOptions::default()
        };
        Image::open_on(Box::new(medium), &options)
    }
}
