//! Copying an image: a reflink where the file system can, else what there is of it and no more.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, copy_file_range, ioctl_ficlone, seek};
use rustix::io::Errno;

use super::Image;
use super::check::Progress;
use super::create::{CreateError, Draft, id_of, may_replace, random_uuid};
use super::format::Header;
use super::open::regular_file;
use super::refusal::{OpenError, Refusal};
use crate::file::{FileMedium, Lock, lock_file, lock_holder};

/// Bytes copied at once.
const CHUNK: u64 = 8 << 20;

/// How an image is copied.
#[derive(Clone, Copy, Debug, Default)]
pub struct CloneOptions {
    /// Replaces a file that is there, unless it is an image in use.
    pub force: bool,
    /// The copy has the UUID and the name of the original: a backup. Else it gets a UUID of its own, and a
    /// name made from that if the original's was.
    pub same_identity: bool,
}

/// Why an image is not copied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloneError {
    /// What is to be copied is no image, or in use.
    #[error(transparent)]
    From(#[from] OpenError),
    /// The copy can not be made.
    #[error(transparent)]
    To(#[from] CreateError),
    /// Both are one file.
    #[error("{} and {} are the same file: give the copy another name", .from.display(), .to.display())]
    Itself {
        /// What was to be copied.
        from: PathBuf,
        /// And where.
        to: PathBuf,
    },
}

/// How a copy was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cloned {
    /// The file system lets both share their blocks until one changes.
    Reflink,
    /// So many bytes were copied.
    Copy(u64),
}

impl Image {
    /// Copies the image at `from` to `to`, as it is: in order, or as a crash left it. It is there whole, or
    /// not at all. The original must not be open for writing.
    pub fn clone_file(
        from: &Path,
        to: &Path,
        options: &CloneOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Cloned, CloneError> {
        let (file, header) = source(from).map_err(OpenError::at(from))?;
        let new_identity = !options.same_identity;
        if new_identity && header.unknown_ro_compat() != 0 {
            let reason = Refusal::ReadOnlyFeatures(header.unknown_ro_compat());
            return Err(OpenError { path: from.to_owned(), reason }.into());
        }
        if options.force && is_same(&file, to) {
            return Err(CloneError::Itself { from: from.to_owned(), to: to.to_owned() });
        }
        may_create(to, options.force)?;
        let failed = |doing| move |source| CreateError::Io { path: to.to_owned(), doing, source };
        let draft = Draft::beside(to).map_err(failed("make"))?;
        let cloned = copy(&file, &draft.file, progress).map_err(failed("write"))?;
        if new_identity {
            identify(&draft.file, header).map_err(failed("write"))?;
        }
        draft.file.sync_all().map_err(failed("sync"))?;
        draft.put(to, options.force)?;
        Ok(cloned)
    }
}

/// The image at `path`, which nobody writes to as long as the file is open.
fn source(path: &Path) -> Result<(File, Header), Refusal> {
    let file = regular_file(path, false)?;
    if !lock_file(&file, Lock::Shared).map_err(Refusal::io("lock"))? {
        return Err(Refusal::InUse { pid: lock_holder(&file) });
    }
    let medium = file.try_clone().and_then(|file| FileMedium::new(file, path, false, false));
    let header = Header::read(&medium.map_err(Refusal::io("open"))?)?;
    Ok((file, header))
}

/// True when `path` leads to `file`.
fn is_same(file: &File, path: &Path) -> bool {
    let inode = |metadata: Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), path.metadata()) {
        (Ok(a), Ok(b)) => inode(a) == inode(b),
        _ => false,
    }
}

fn may_create(path: &Path, force: bool) -> Result<(), CreateError> {
    match force {
        true => may_replace(path),
        false if path.symlink_metadata().is_ok() => Err(CreateError::Exists(path.to_owned())),
        false => Ok(()),
    }
}

/// Gives the image in `file`, a copy, a UUID of its own.
fn identify(file: &File, mut header: Header) -> io::Result<()> {
    let was_made = header.id == id_of(&header.uuid);
    header.uuid = random_uuid();
    if was_made {
        header.id = id_of(&header.uuid);
    }
    let medium = FileMedium::new(file.try_clone()?, Path::new(""), true, false)?;
    header.write_both(&medium, false)
}

fn copy(from: &File, to: &File, progress: &mut dyn FnMut(Progress)) -> io::Result<Cloned> {
    match ioctl_ficlone(to, from) {
        Ok(()) => return Ok(Cloned::Reflink),
        Err(Errno::IO | Errno::NOSPC | Errno::DQUOT) => return Err(Errno::IO.into()),
        // Another file system, or one that can not.
        Err(_) => {}
    }
    let len = from.metadata()?.len();
    to.set_len(len)?;
    let mut copied = 0u64;
    let mut at = 0;
    while at < len {
        let Some((start, end)) = next_extent(from, at, len)? else { break };
        at = start;
        while at < end {
            let moved = copy_some(from, to, at, CHUNK.min(end - at))?;
            at = at.saturating_add(moved);
            copied = copied.saturating_add(moved);
            progress(Progress { done: at, total: len });
        }
    }
    progress(Progress { done: len, total: len });
    Ok(Cloned::Copy(copied))
}

/// The next run of data of `file` from `at` on; all of it where the file system can not tell.
fn next_extent(file: &File, at: u64, len: u64) -> io::Result<Option<(u64, u64)>> {
    let start = match seek(file, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Some((at, len))),
        Err(e) => return Err(e.into()),
    };
    let end = seek(file, SeekFrom::Hole(start))?.min(len);
    Ok((start < end).then_some((start, end)))
}

/// Copies some of `len` bytes at `at`, at least one.
fn copy_some(from: &File, to: &File, at: u64, len: u64) -> io::Result<u64> {
    let (mut from_at, mut to_at) = (at, at);
    let ask = usize::try_from(len).unwrap_or(usize::MAX);
    let moved =
        copy_file_range(from.as_fd(), Some(&mut from_at), to.as_fd(), Some(&mut to_at), ask);
    match moved {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(moved) => Ok(moved as u64),
        Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) => {
            let mut bytes = vec![0; ask.min(1 << 20)];
            from.read_exact_at(&mut bytes, at)?;
            to.write_all_at(&bytes, at)?;
            Ok(bytes.len() as u64)
        }
        Err(Errno::INTR) => Ok(0),
        Err(e) => Err(e.into()),
    }
}
