//! A host's block device as a volume: a zoned one with the zones that it has, or a plain one.
//!
//! Geometry, limits and conditions are the host's. Our rules decide what a request may do, as for any other
//! volume, with the host's limits; commands to zones are carried out on the disk, and when our rules close
//! a zone to make room, the disk is told to close the same one. Appends are writes, kept in order at our own
//! pointer: Linux has no append among the calls of a block device. Where it is asked for, those to an NVMe disk
//! go to it as what they are, past the block layer. After an error the disk is asked where its pointer is.

mod attributes;
mod disk;
mod engine;
mod gate;
mod helpers;
mod native;
mod report;
#[cfg(test)]
mod tests;
mod zoned;

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, fstat, major, minor, open};
use rustix::io::Errno;
use zvb_wire::{Model, Sector};
use zvb_zones::{Geometry, Snapshot, ZoneId};

use crate::engine::EngineKind;
use crate::sys::{self, RawZone, Ring, Rings};
use crate::volume::{Engine, EngineError, Shape, Volume, VolumeError};

use attributes::Attributes;
use disk::{Disk, failure_of};
use engine::HostEngine;
use helpers::Helpers;
use native::Native;

pub use native::{NativeError, block_device_of};
pub use report::HostLayoutError;

/// Why a host's disk can not be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// It is not there, or may not be opened.
    #[error("cannot open {}", .path.display())]
    Open {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Root may not either.
    #[error(
        "{} may not be opened, by root either: in a container the device must be allowed to it", .path.display()
    )]
    NotAllowed {
        /// What.
        path: PathBuf,
    },
    /// Not with these rights.
    #[error("{} may not be opened by this user: it wants root, or the group of the device", .path.display())]
    Permission {
        /// What.
        path: PathBuf,
    },
    /// Mounted, a part of something, or served.
    #[error(
        "{} is in use: mounted, part of a volume or RAID, or served by another process", .path.display()
    )]
    InUse {
        /// What.
        path: PathBuf,
    },
    /// A file, say.
    #[error("{} is no block device", .path.display())]
    NotBlock {
        /// What.
        path: PathBuf,
    },
    /// A part of a disk.
    #[error("{} is a partition; serve the whole disk", .path.display())]
    Partition {
        /// What.
        path: PathBuf,
    },
    /// The host says that it can not be written.
    #[error("{} is read-only on this host", .path.display())]
    ReadOnly {
        /// What.
        path: PathBuf,
    },
    /// sysfs is missing, or says something strange.
    #[error("cannot read what the kernel says of {} from {}", .path.display(), .attribute.display())]
    Attribute {
        /// The disk.
        path: PathBuf,
        /// Where it stands.
        attribute: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It has no sectors.
    #[error("{} is empty: nothing is plugged in, or it is not set up (a loop device without a file, say)", .path.display())]
    Empty {
        /// What.
        path: PathBuf,
    },
    /// Not a size that a virtio disk has.
    #[error("{} has {sectors} sectors in blocks of {block_size} bytes, which no virtio disk has", .path.display())]
    Size {
        /// What.
        path: PathBuf,
        /// Its size.
        sectors: Sector,
        /// Its block size.
        block_size: u32,
    },
    /// The kernel does not tell of the zones.
    #[error("the zones of {} can not be reported", .path.display())]
    Report {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Appends can not go to it natively.
    #[error("appends can not go to {} natively", .path.display())]
    Native {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: NativeError,
    },
    /// The zones are not those of a virtio device.
    #[error("{} can not be served", .path.display())]
    Layout {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: HostLayoutError,
    },
}

/// How long whoever has the disk may take to let go of it.
const LET_GO: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How appends go to a host's disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AppendKind {
    /// As writes, one after the other in each zone.
    #[default]
    Ordered,
    /// As appends, any number at once: NVMe disks only.
    Native,
}

impl AppendKind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Ordered, Self::Native];

    /// Its name: `ordered`, `native`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ordered => "ordered",
            Self::Native => "native",
        }
    }
}

impl fmt::Display for AppendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Not a way of appends.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("appends do not go \"{0}\": they go ordered or native")]
pub struct UnknownAppend(pub String);

impl FromStr for AppendKind {
    type Err = UnknownAppend;

    fn from_str(name: &str) -> Result<Self, UnknownAppend> {
        let known = Self::ALL.into_iter().find(|kind| kind.name() == name);
        known.ok_or_else(|| UnknownAppend(name.to_owned()))
    }
}

/// How a host's disk is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HostOptions {
    /// Nothing may change.
    pub read_only: bool,
    /// How data is moved: through io_uring, or by plain calls.
    pub engine: EngineKind,
    /// How appends go to it.
    pub append: AppendKind,
}

/// What a host's disk is, without opening it for anything else.
#[derive(Debug)]
pub struct HostInfo {
    /// What a guest would see.
    pub shape: Shape,
    /// Its zones, as they are.
    pub zones: Vec<Snapshot>,
    /// The device that appends can go to natively, or why they can not.
    pub native: Result<PathBuf, NativeError>,
}

/// The requests to the kernel (ioctl) that a server of such a disk makes after it has opened it.
pub const HOST_REQUESTS: &[u32] = &sys::ZONE_REQUESTS;

/// True when there is a block device at `path`.
pub fn is_block_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
}

/// Looks at the block device at `path`, which may be in use.
pub fn inspect_host(path: &Path) -> Result<HostInfo, HostError> {
    let found = look(path, OFlags::RDONLY, true, AppendKind::Ordered)?;
    let Found { file, folder, attributes, shape, zones, .. } = found;
    let native = Native::find(file.as_fd(), &folder, &attributes).map(|native| native.path);
    Ok(HostInfo { shape, zones, native })
}

/// A disk as it was found.
struct Found {
    file: File,
    /// Its place in sysfs, and what is said of it there.
    folder: PathBuf,
    attributes: Attributes,
    shape: Shape,
    zones: Vec<Snapshot>,
    native: Option<Native>,
}

/// A host's block device, open for this process alone.
pub struct HostDisk {
    disk: Arc<Disk>,
    helpers: Arc<Helpers>,
    /// Made ahead.
    rings: Arc<Rings>,
    recovered: Vec<Snapshot>,
    engine: EngineKind,
}

impl fmt::Debug for HostDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostDisk").field("shape", &self.disk.shape).finish_non_exhaustive()
    }
}

impl HostDisk {
    /// Opens the block device at `path`, which nobody else may use: what is mounted, or opened in this way by
    /// another process, is refused after 2 seconds. Zones that somebody left open are closed, or reset when nothing
    /// is written in them; of a disk that is opened read-only they stay what they are.
    pub fn open(path: &Path, options: &HostOptions) -> Result<Self, HostError> {
        let access = if options.read_only { OFlags::RDONLY } else { OFlags::RDWR };
        let flags = access | OFlags::EXCL | OFlags::DIRECT;
        let begun = Instant::now();
        let found = loop {
            match look(path, flags, options.read_only, options.append) {
                // A process that was killed has it until the I/O that it had begun is over.
                Err(HostError::InUse { .. }) if begun.elapsed() < LET_GO => sleep(LOOK_AGAIN),
                looked => break looked?,
            }
        };
        let Found { file, shape, mut zones, native, .. } = found;
        if native.is_some() && options.engine == EngineKind::Sync {
            let source = NativeError::Engine(options.engine);
            return Err(HostError::Native { path: path.to_owned(), source });
        }
        if !options.read_only
            && let Some(geometry) = &shape.geometry
        {
            zoned::settle(&file, geometry, &mut zones)
                .map_err(|source| HostError::Report { path: path.to_owned(), source })?;
        }
        let file = Arc::new(file);
        let mut disk = Disk::new(Arc::clone(&file), file, shape, &zones);
        disk.native = native;
        let disk = Arc::new(disk);
        let (helpers, rings) = (Arc::default(), Arc::default());
        Ok(Self { disk, helpers, rings, recovered: zones, engine: options.engine })
    }

    /// The device that appends go to natively, if they do.
    pub fn native(&self) -> Option<&Path> {
        self.disk.native.as_ref().map(|native| native.path.as_path())
    }
}

/// Why a device that is there may not be opened.
fn not_permitted(path: &Path, is_root: bool) -> HostError {
    let path = path.to_owned();
    if is_root { HostError::NotAllowed { path } } else { HostError::Permission { path } }
}

/// Opens `path` and finds out what it is.
fn look(
    path: &Path,
    flags: OFlags,
    read_only: bool,
    append: AppendKind,
) -> Result<Found, HostError> {
    let path_buf = || path.to_owned();
    if !is_block_device(path) && path.exists() {
        return Err(HostError::NotBlock { path: path_buf() });
    }
    let fd = open(path, flags | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| match errno {
        Errno::ACCESS | Errno::PERM => not_permitted(path, rustix::process::geteuid().is_root()),
        Errno::BUSY => HostError::InUse { path: path_buf() },
        Errno::ROFS => HostError::ReadOnly { path: path_buf() },
        errno => HostError::Open { path: path_buf(), source: errno.into() },
    })?;
    let (folder, mut attributes) = attributes_of(path, &fd)?;
    if attributes.partition {
        return Err(HostError::Partition { path: path_buf() });
    }
    if attributes.read_only && !read_only {
        return Err(HostError::ReadOnly { path: path_buf() });
    }
    let file = File::from(fd);
    let block = attributes.block_size;
    if attributes.sectors == 0 {
        return Err(HostError::Empty { path: path_buf() });
    }
    let blocks = block.is_power_of_two()
        && (512..=65536).contains(&block)
        && attributes.sectors.is_multiple_of(u64::from(block) / 512);
    if !blocks {
        let (sectors, block_size) = (Sector(attributes.sectors), block);
        return Err(HostError::Size { path: path_buf(), sectors, block_size });
    }
    let native = match append {
        AppendKind::Ordered => None,
        AppendKind::Native => {
            let found = match read_only {
                true => Err(NativeError::ReadOnly),
                false => Native::find(file.as_fd(), &folder, &attributes),
            };
            let found = found.map_err(|source| HostError::Native { path: path_buf(), source })?;
            attributes.max_append_bytes = found.max_bytes();
            Some(found)
        }
    };
    let layout = |source| HostError::Layout { path: path_buf(), source };
    let mut shape = Shape {
        capacity: Sector(attributes.sectors),
        block_size: block,
        geometry: None,
        id: attributes.id(),
        read_only,
        can_discard: attributes.discard_bytes != 0,
    };
    let model = match attributes.zoned.as_str() {
        "host-managed" => Model::HostManaged,
        "host-aware" => Model::HostAware,
        _ => {
            let zones = Vec::new();
            return Ok(Found { file, folder, attributes, shape, zones, native });
        }
    };
    let told = report_all(&file, attributes.sectors)
        .map_err(|source| HostError::Report { path: path_buf(), source })?;
    let geometry = report::geometry_of(model, &attributes, &told).map_err(layout)?;
    let state = |(zone, told)| report::state_of(&geometry, zone, told);
    let zones = geometry.zones().zip(&told).map(state).collect::<Result<Vec<_>, _>>();
    let zones = zones.map_err(layout)?;
    if zones.len() != geometry.zone_count() as usize {
        return Err(layout(HostLayoutError::NoZones));
    }
    shape.geometry = Some(geometry);
    Ok(Found { file, folder, attributes, shape, zones, native })
}

/// The place in sysfs of the open device `fd`, and what is said there.
fn attributes_of(path: &Path, fd: impl AsFd) -> Result<(PathBuf, Attributes), HostError> {
    let stat = fstat(fd)
        .map_err(|errno| HostError::Open { path: path.to_owned(), source: errno.into() })?;
    let (major, minor) = (major(stat.st_rdev), minor(stat.st_rdev));
    let folder = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    let attributes = Attributes::read(&folder).map_err(|unreadable| HostError::Attribute {
        path: path.to_owned(),
        attribute: unreadable.path,
        source: unreadable.source,
    })?;
    Ok((folder, attributes))
}

/// All zones of a disk of `sectors` sectors; no more than there may be.
fn report_all(file: &File, sectors: u64) -> io::Result<Vec<RawZone>> {
    let mut zones: Vec<RawZone> = Vec::new();
    let mut next = 0;
    while next < sectors && zones.len() <= Geometry::MAX_ZONES as usize {
        let told = sys::report(file.as_fd(), next, usize::MAX)?;
        let Some(last) = told.last() else { break };
        let end = last.start.saturating_add(last.len);
        if end <= next {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the report does not advance"));
        }
        next = end;
        zones.extend(told);
    }
    Ok(zones)
}

impl Volume for HostDisk {
    fn shape(&self) -> Shape {
        self.disk.shape
    }

    fn recovered(&self) -> Vec<Snapshot> {
        self.recovered.clone()
    }

    fn record(&self, zone: ZoneId, state: Snapshot) {
        self.disk.recorded(zone, state.condition());
    }

    fn runs_commands(&self) -> bool {
        true
    }

    fn places_appends(&self) -> bool {
        self.disk.native.is_some()
    }

    fn abandon(&self, zone: ZoneId) {
        self.disk.gates.abandon(zone.0);
    }

    fn recheck(&self, zone: ZoneId) -> Option<Snapshot> {
        self.disk.recheck(zone)
    }

    fn prepare(&self, engines: u16, depth: u32) -> Result<(), EngineError> {
        if self.engine == EngineKind::Sync {
            return Ok(());
        }
        if let Some(native) = &self.disk.native {
            let error = |source| EngineError { engine: "native append", source };
            native.prepare(engines, depth).map_err(error)?;
        }
        match (self.engine, self.rings.prepare(engines, depth)) {
            (EngineKind::Uring, Err(source)) => Err(EngineError { engine: "uring", source }),
            // Where there are none, the engines do without.
            _ => Ok(()),
        }
    }

    fn engine(self: Arc<Self>, depth: u32) -> Result<Box<dyn Engine>, EngineError> {
        let error = |engine| move |source| EngineError { engine, source };
        self.helpers.start(&self.disk).map_err(error("threads of the"))?;
        let ring = match self.engine {
            EngineKind::Sync => None,
            EngineKind::Uring => Some(Ring::new(depth, &self.rings).map_err(error("uring"))?),
            // Not to be had everywhere.
            EngineKind::Auto => Ring::new(depth, &self.rings).ok(),
        };
        let native = match &self.disk.native {
            Some(native) => {
                let ring = native.ring(depth).map_err(error("native append"))?;
                Some((ring, native.namespace))
            }
            None => None,
        };
        let (disk, helpers) = (Arc::clone(&self.disk), Arc::clone(&self.helpers));
        let engine = HostEngine::new(disk, helpers, ring, native).map_err(error("host"))?;
        Ok(Box::new(engine))
    }

    fn close(&self) -> Result<(), VolumeError> {
        self.disk.close_all();
        self.disk.flush().map_err(|error| VolumeError::Commit(failure_of(error)))
    }
}
