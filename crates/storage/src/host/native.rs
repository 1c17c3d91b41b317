//! Zone appends of NVMe. Linux has none among the calls of a block device; its NVMe driver has, in commands passed
//! through the namespace's generic device (/dev/ngXnY).
//!
//! The block layer sees nothing of them. It keeps pointers of its own for zones that were written through it, and
//! refuses a write that begins elsewhere: so all writes to sequential zones go the same way as the appends. Reads,
//! conventional zones, commands to zones and flushes go through the block device.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, fstat, major, minor, open};
use zvb_ring::Buffers;

use super::attributes::Attributes;
use crate::engine::EngineKind;
use crate::sys::{
    NVME_BLOCKS_MAX, Namespace, NvmeRing, NvmeRings, NvmeStatus, PAGE_BYTES, format_of,
    namespace_id, pages, try_out,
};
use crate::volume::Failure;

/// Why appends can not go to a disk natively.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NativeError {
    /// No zones, no appends.
    #[error("it has no zones that are written at a pointer")]
    NotZoned,
    /// Nothing may be written.
    #[error("it is served read-only")]
    ReadOnly,
    /// Another kind of disk.
    #[error("{0} is no NVMe namespace, and only those have appends for programs")]
    NotNvme(String),
    /// The kernel knows nothing of its appends.
    #[error("the kernel tells of no limit of its appends")]
    NoLimit,
    /// There is no generic device, or it may not be opened.
    #[error("cannot open its generic device, {}", .path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The generic device is that of something else.
    #[error("{} is not the generic device of the same namespace", .0.display())]
    Other(PathBuf),
    /// Its blocks have metadata, or not the size that the block device says.
    #[error("its blocks are formatted with {metadata} bytes of metadata and 2^{shift} of data")]
    Format {
        /// Bytes of metadata of a block.
        metadata: u16,
        /// log2 of its data's.
        shift: u32,
    },
    /// The engine that was asked for sends no commands.
    #[error("the engine \"{0}\" has no way to send its commands: it needs io_uring")]
    Engine(EngineKind),
    /// No commands reach it.
    #[error("no commands reach it through {} and io_uring", .path.display())]
    Commands {
        /// The generic device.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A namespace's way for appends.
#[derive(Debug)]
pub(super) struct Native {
    file: fs::File,
    /// The generic device.
    pub(super) path: PathBuf,
    pub(super) namespace: Namespace,
    /// The most that one command may have.
    max_bytes: u64,
    rings: Arc<NvmeRings>,
}

impl Native {
    /// That of the block device `block`, which has `attributes` and is `folder` in sysfs.
    pub(super) fn find(
        block: BorrowedFd<'_>,
        folder: &Path,
        attributes: &Attributes,
    ) -> Result<Self, NativeError> {
        if attributes.zoned != "host-managed" {
            return Err(NativeError::NotZoned);
        }
        let Some(name) = generic_name(&attributes.name) else {
            return Err(NativeError::NotNvme(attributes.name.clone()));
        };
        let max_bytes = most(attributes).ok_or(NativeError::NoLimit)?;
        let path = Path::new("/dev").join(name);
        let refused = |source: io::Error| NativeError::Open { path: path.clone(), source };
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let fd = open(&path, flags, Mode::empty()).map_err(|errno| refused(errno.into()))?;
        // Of the same controller or subsystem, and the same namespace of it.
        let same = || -> io::Result<Option<u32>> {
            let device = fstat(&fd)?.st_rdev;
            let generic = format!("/sys/dev/char/{}:{}", major(device), minor(device));
            let parent = |path: &Path| {
                Ok::<_, io::Error>(fs::canonicalize(path)?.parent().map(Path::to_owned))
            };
            let id = namespace_id(fd.as_fd())?;
            let same =
                parent(Path::new(&generic))? == parent(folder)? && namespace_id(block)? == id;
            Ok(same.then_some(id))
        };
        let id = same().ok().flatten().ok_or_else(|| NativeError::Other(path.clone()))?;
        let commands = |source| NativeError::Commands { path: path.clone(), source };
        let (shift, metadata) = format_of(fd.as_fd(), id).map_err(commands)?;
        if metadata != 0 || 1_u32.checked_shl(shift) != Some(attributes.block_size) {
            return Err(NativeError::Format { metadata, shift });
        }
        let namespace = Namespace { id, shift };
        try_out(fd.as_fd(), namespace).map_err(commands)?;
        Ok(Self { file: fd.into(), path, namespace, max_bytes, rings: Arc::default() })
    }

    /// The most that one command may have.
    pub(super) fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// True when a command can have `range` of `buffers` as it lies there: in pieces of whole blocks, and not more
    /// pages than there may be.
    pub(super) fn takes(&self, buffers: &Buffers, range: std::ops::Range<u64>) -> bool {
        range.end.saturating_sub(range.start) <= self.max_bytes
            && pages(buffers, range) <= self.max_bytes / PAGE_BYTES
    }

    /// Makes `count` rings ahead.
    pub(super) fn prepare(&self, count: u16, depth: u32) -> io::Result<()> {
        self.rings.prepare_for(count, depth, self.file.as_fd())
    }

    pub(super) fn ring(&self, depth: u32) -> io::Result<NvmeRing> {
        NvmeRing::for_device(depth, &self.rings, self.file.as_fd())
    }
}

/// What a device hears of a command that the disk refuses.
pub(super) fn refusal_of(status: NvmeStatus) -> Failure {
    let error = io::Error::other(status);
    match status {
        NvmeStatus::TOO_MANY_OPEN => Failure::OpenLimit(error),
        NvmeStatus::TOO_MANY_ACTIVE => Failure::ActiveLimit(error),
        NvmeStatus::INVALID_OPCODE => Failure::Unsupported,
        _ => Failure::Medium(error),
    }
}

/// The most that a command, write or append, may have: also when each of its pages is a piece of its own.
fn most(attributes: &Attributes) -> Option<u64> {
    let blocks = NVME_BLOCKS_MAX.saturating_mul(attributes.block_size.into());
    let most = attributes
        .append_bytes
        .min(attributes.command_bytes)
        .min(attributes.command_segments.saturating_mul(PAGE_BYTES))
        .min(blocks);
    let most = most - most % PAGE_BYTES.max(attributes.write_granularity.into());
    (most > 0).then_some(most)
}

/// The name of the generic device of the namespace that the kernel calls `name`.
fn generic_name(name: &str) -> Option<String> {
    let numbers = name.strip_prefix("nvme")?;
    let (controller, namespace) = numbers.split_once('n')?;
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (number(controller) && number(namespace)).then(|| format!("ng{numbers}"))
}

/// The block device of the namespace of which `path` is the generic device, if it is one.
pub fn block_device_of(path: &Path) -> Option<PathBuf> {
    let metadata = fs::metadata(path).ok()?;
    if !metadata.file_type().is_char_device() {
        return None;
    }
    let (major, minor) = (major(metadata.rdev()), minor(metadata.rdev()));
    let folder = fs::canonicalize(format!("/sys/dev/char/{major}:{minor}")).ok()?;
    let numbers = folder.file_name()?.to_str()?.strip_prefix("ng")?;
    generic_name(&format!("nvme{numbers}"))?;
    Some(Path::new("/dev").join(format!("nvme{numbers}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generic_device_is_called_after_its_namespace() {
        assert_eq!(generic_name("nvme0n1").as_deref(), Some("ng0n1"));
        assert_eq!(generic_name("nvme12n34").as_deref(), Some("ng12n34"));
        for other in ["nvme0", "nvme0n1p2", "nvme0c1n1", "sda", "nullb0", "nvmen1", "nvme0n"] {
            assert_eq!(generic_name(other), None, "{other}");
        }
        assert_eq!(block_device_of(Path::new("/dev/null")), None);
    }

    #[test]
    fn refusals_keep_their_meaning() {
        assert!(matches!(refusal_of(NvmeStatus(0x1be)), Failure::OpenLimit(_)));
        assert!(matches!(refusal_of(NvmeStatus(0x1bd)), Failure::ActiveLimit(_)));
        assert!(matches!(refusal_of(NvmeStatus(0x001)), Failure::Unsupported));
        for other in [0x1b8, 0x1b9, 0x1ba, 0x1bb, 0x1bc, 0x280, 0x002] {
            assert!(matches!(refusal_of(NvmeStatus(other)), Failure::Medium(_)), "{other:x}");
        }
    }

    #[test]
    fn a_command_has_no_more_than_each_of_the_limits() {
        let all = Attributes {
            block_size: 512,
            write_granularity: 512,
            append_bytes: 100 << 20,
            command_bytes: 100 << 20,
            command_segments: 1 << 20,
            ..Attributes::default()
        };
        assert_eq!(most(&all), Some(32 << 20), "blocks");
        assert_eq!(most(&Attributes { append_bytes: 130_000, ..all.clone() }), Some(31 << 12));
        assert_eq!(most(&Attributes { command_bytes: 1 << 19, ..all.clone() }), Some(1 << 19));
        assert_eq!(most(&Attributes { command_segments: 127, ..all.clone() }), Some(127 << 12));
        assert_eq!(most(&Attributes { append_bytes: 0, ..all.clone() }), None);
        let large = Attributes { write_granularity: 1 << 16, append_bytes: 130_000, ..all };
        assert_eq!(most(&large), Some(1 << 16));
    }
}
