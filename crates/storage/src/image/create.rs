//! Making an image.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, linkat, open, renameat_with};
use rustix::io::Errno;
use zvb_wire::Sector;
use zvb_zones::{Geometry, GeometryError, GeometrySpec};

use super::Image;
use super::format::Header;
use crate::file::{FileMedium, Lock, kind_of_file, lock_file, lock_holder};
use crate::medium::Medium;
use crate::volume::Shape;

/// What a new image is to be.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Size in 512-byte sectors.
    pub capacity: Sector,
    /// Logical block size in bytes: a power of two from 512 to 65536.
    pub block_size: u32,
    /// How it is divided into zones; `None` makes a plain disk.
    pub zones: Option<GeometrySpec>,
    /// The disk's name, ASCII, padded with NUL; `None` makes one from the UUID.
    pub id: Option<[u8; 20]>,
    /// The UUID; `None` makes a random one.
    pub uuid: Option<[u8; 16]>,
    /// Replaces a file that is there, unless it is an image in use.
    pub force: bool,
}

/// Why an image is not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// Zones that make no disk.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// Not a power of two from 512 to 65536.
    #[error("the block size of {0} bytes is not a power of two from 512 to 65536")]
    BlockSize(u32),
    /// Zero, or not a multiple of the block size, or other than what the zones add up to.
    #[error(
        "the size of {capacity} sectors is zero or not a multiple of the block size, {block_size} bytes"
    )]
    Capacity {
        /// What was asked for.
        capacity: Sector,
        /// The block size in bytes.
        block_size: u32,
    },
    /// The zones are divided in units that are no multiple of the block size.
    #[error(
        "the write granularity of {granularity} bytes is not a multiple of the block size, {block_size} bytes"
    )]
    Granularity {
        /// Of the zones, in bytes.
        granularity: u32,
        /// The block size in bytes.
        block_size: u32,
    },
    /// Longer than any file can be.
    #[error("an image of {0} sectors is longer than a file can be")]
    TooLarge(Sector),
    /// Something is there.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    /// What is there is not to be replaced.
    #[error("{} is {kind}: it is not replaced", .path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// What is there is in use.
    #[error("{} is open in another process{}", .path.display(), .pid.map(|p| format!(" (process {p})")).unwrap_or_default())]
    InUse {
        /// The path.
        path: PathBuf,
        /// The number of the process, where the system tells.
        pid: Option<u32>,
    },
    /// The medium failed, or is too short.
    #[error("cannot write the image")]
    Medium(#[source] io::Error),
    /// The host's file system failed.
    #[error("{}: cannot {doing} the image", .path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl Image {
    /// Makes an image at `path`, sparse: it takes room as it is written. It is there whole, or not at all.
    pub fn create(path: &Path, options: &CreateOptions) -> Result<(), CreateError> {
        let header = header(options)?;
        if !options.force && path.symlink_metadata().is_ok() {
            return Err(CreateError::Exists(path.to_owned()));
        }
        if options.force {
            may_replace(path)?;
        }
        let failed = |doing| move |source| CreateError::Io { path: path.to_owned(), doing, source };
        let draft = Draft::beside(path).map_err(failed("make"))?;
        draft.fill(header).map_err(failed("write"))?;
        draft.put(path, options.force)
    }

    /// Makes an image on `medium`, which reads as zeroes and is long enough.
    pub fn create_on(medium: &dyn Medium, options: &CreateOptions) -> Result<(), CreateError> {
        let header = header(options)?;
        let len = medium.size().map_err(CreateError::Medium)?;
        if len < header.file_bytes {
            return Err(CreateError::Medium(io::ErrorKind::StorageFull.into()));
        }
        fill(medium, header).map_err(CreateError::Medium)
    }
}

/// Writes all that a new image has, which is its superblocks, durably.
fn fill(medium: &dyn Medium, mut header: Header) -> io::Result<()> {
    header.sequence = 0;
    header.write_both(medium, false)?;
    medium.sync()
}

/// The superblock that `options` make.
fn header(options: &CreateOptions) -> Result<Header, CreateError> {
    let (capacity, block_size) = (options.capacity, options.block_size);
    if !block_size.is_power_of_two() || !(512..=65536).contains(&block_size) {
        return Err(CreateError::BlockSize(block_size));
    }
    let geometry = options.zones.map(Geometry::new).transpose()?;
    if capacity == Sector::ZERO
        || !capacity.is_multiple_of(Sector(u64::from(block_size) / 512))
        || geometry.is_some_and(|g| g.spec().capacity != capacity)
    {
        return Err(CreateError::Capacity { capacity, block_size });
    }
    if let Some(granularity) = geometry.map(|g| g.spec().write_granularity)
        && !granularity.is_multiple_of(block_size)
    {
        return Err(CreateError::Granularity { granularity, block_size });
    }
    let uuid = options.uuid.unwrap_or_else(random_uuid);
    let shape = Shape {
        capacity,
        block_size,
        geometry,
        id: options.id.unwrap_or_else(|| id_of(&uuid)),
        read_only: false,
        can_discard: true,
    };
    Header::new(&shape, uuid).ok_or(CreateError::TooLarge(capacity))
}

/// A random UUID (version 4).
pub(super) fn random_uuid() -> [u8; 16] {
    let mut uuid = [0; 16];
    // Asked for fewer than 256 bytes, it gives all or, before the system has any, nothing.
    let _ = rustix::rand::getrandom(&mut uuid, rustix::rand::GetRandomFlags::empty());
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

/// "zvb-" and half the UUID, in hexadecimal.
pub(super) fn id_of(uuid: &[u8; 16]) -> [u8; 20] {
    let mut id = *b"zvb-0000000000000000";
    for (pair, byte) in id[4..].chunks_exact_mut(2).zip(uuid) {
        let digit = |n: u8| if n < 10 { b'0' + n } else { b'a' + n - 10 };
        pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 0xf)]);
    }
    id
}

/// Refuses to replace what is no file, and what somebody has open.
pub(super) fn may_replace(path: &Path) -> Result<(), CreateError> {
    let failed = |source| CreateError::Io { path: path.to_owned(), doing: "replace", source };
    let metadata = match path.symlink_metadata() {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(e)),
    };
    if let Some(kind) = kind_of_file(&metadata) {
        return Err(CreateError::NotAFile { path: path.to_owned(), kind });
    }
    let file = File::open(path).map_err(failed)?;
    if lock_file(&file, Lock::Exclusive).map_err(failed)? {
        return Ok(());
    }
    Err(CreateError::InUse { path: path.to_owned(), pid: lock_holder(&file) })
}

/// The directory in which `path` is.
fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// A file that has no name yet, or one that nobody looks for.
pub(super) struct Draft {
    pub(super) file: File,
    /// Its name, where the file system has no files without.
    named: Option<PathBuf>,
}

impl Draft {
    /// One that can be put at `path`.
    pub(super) fn beside(path: &Path) -> io::Result<Self> {
        Self::new(directory_of(path))
    }

    fn new(directory: &Path) -> io::Result<Self> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match open(directory, flags, Mode::from_raw_mode(0o666)) {
            Ok(fd) => Ok(Self { file: fd.into(), named: None }),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let named = directory.join(draft_name());
                let mut options = OpenOptions::new();
                let file =
                    options.read(true).write(true).create_new(true).mode(0o666).open(&named)?;
                Ok(Self { file, named: Some(named) })
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Writes the image, durably.
    fn fill(&self, header: Header) -> io::Result<()> {
        self.file.set_len(header.file_bytes)?;
        let medium = FileMedium::new(self.file.try_clone()?, Path::new(""), true, false)?;
        fill(&medium, header)?;
        self.file.sync_all()
    }

    /// Names it `path`, durably; in place of what is there if `replace`.
    pub(super) fn put(self, path: &Path, replace: bool) -> Result<(), CreateError> {
        let failed = |doing| move |source| CreateError::Io { path: path.to_owned(), doing, source };
        let put = if replace { self.replace(path) } else { self.place(path) };
        put.map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => CreateError::Exists(path.to_owned()),
            _ => failed("name")(e),
        })?;
        let directory = File::open(directory_of(path)).and_then(|d| d.sync_all());
        directory.map_err(failed("sync the directory of"))
    }

    /// Names it `path`, where nothing is.
    fn place(mut self, path: &Path) -> io::Result<()> {
        match self.named.take() {
            None => self.link(path),
            Some(named) => {
                let put = renameat_with(CWD, &named, CWD, path, RenameFlags::NOREPLACE);
                if put.is_err() {
                    self.named = Some(named);
                }
                Ok(put?)
            }
        }
    }

    /// Names it `path`, in place of what is there.
    fn replace(mut self, path: &Path) -> io::Result<()> {
        if self.named.is_none() {
            let beside = path.with_file_name(draft_name());
            self.link(&beside)?;
            self.named = Some(beside);
        }
        if let Some(named) = &self.named {
            std::fs::rename(named, path)?;
        }
        self.named = None;
        Ok(())
    }

    fn link(&self, path: &Path) -> io::Result<()> {
        let open = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        Ok(linkat(CWD, open, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(named) = &self.named {
            let _ = std::fs::remove_file(named);
        }
    }
}

/// A name that no two drafts have.
fn draft_name() -> OsString {
    let mut name = OsString::from(".zvb-draft-");
    for byte in random_uuid() {
        name.push(OsStr::new(&format!("{byte:02x}")));
    }
    name
}
