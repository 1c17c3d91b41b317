//! What a disk is made of, and how it is opened: the same for all that serve or attach one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use zvb_host::server::{Level, Log};
use zvb_storage::{
    AppendKind, EngineKind, HOST_REQUESTS, HostDisk, HostOptions, Image, Memory, OpenError,
    OpenOptions, Recovery, Volume, block_device_of, inspect, is_block_device, is_boot_known,
};

use crate::output::Usage;
use crate::shape::ShapeArgs;
use crate::size::Size;

/// How a disk is opened.
#[derive(Args, Clone, Debug)]
pub(crate) struct SourceArgs {
    /// Nothing may change, also not the image
    #[arg(long)]
    pub(crate) read_only: bool,

    /// How a disk is read and written: auto, sync or uring
    #[arg(long, value_name = "ENGINE", default_value = "auto")]
    pub(crate) engine: EngineKind,

    /// Go around the host's page cache (O_DIRECT), as is always done for a block device
    #[arg(long)]
    pub(crate) direct: bool,

    /// How a disk in memory (mem:SIZE) is divided; an image has that from `zvb create`
    #[command(flatten)]
    pub(crate) shape: ShapeArgs,
}

/// What a disk is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// An image file.
    Image(PathBuf),
    /// Memory, gone with the process.
    Memory(Size),
    /// A block device of this host.
    Host(PathBuf),
}

impl Source {
    /// What `disk`, as it was typed, stands for: the path of an image or of a block device, or mem:SIZE.
    pub(crate) fn parse(disk: &str, args: &SourceArgs) -> Result<Self, Usage> {
        let Some(size) = disk.strip_prefix("mem:") else { return Self::path(disk.into(), args) };
        if args.read_only {
            return Err(Usage("a disk in memory is made empty: --read-only makes no sense".into()));
        }
        match size.parse() {
            Ok(size) => Ok(Self::Memory(size)),
            Err(error) => Err(Usage(format!("{disk}: {error}; use mem:SIZE, like mem:1G"))),
        }
    }

    /// What lies at `path`.
    pub(crate) fn path(path: PathBuf, args: &SourceArgs) -> Result<Self, Usage> {
        if let Some(error) = generic_device(&path) {
            return Err(Usage(error));
        }
        match args.shape.given() {
            Some(option) => Err(Usage(format!(
                "{option} is for mem:SIZE; an image has its geometry from `zvb create`"
            ))),
            None if is_block_device(&path) => Ok(Self::Host(path)),
            None => Ok(Self::Image(path)),
        }
    }

    /// Finds out that there is such a disk, before anything else is done for it.
    pub(crate) fn find(&self) -> Result<(), OpenError> {
        match self {
            Self::Image(path) if !path.is_file() => inspect(path).map(|_| ()),
            _ => Ok(()),
        }
    }

    /// Opens it; `log` is told how it was left.
    pub(crate) fn open(
        &self,
        args: &SourceArgs,
        append: AppendKind,
        log: &Arc<dyn Log>,
    ) -> anyhow::Result<Arc<dyn Volume>> {
        match self {
            Self::Memory(size) => {
                let shape = args.shape.shape(*size)?;
                let memory = Memory::new(shape.capacity, shape.block_size, shape.zones);
                Ok(Arc::new(memory.context("cannot make a disk in memory")?))
            }
            Self::Image(path) => Ok(Arc::new(open_image(path, args, log)?)),
            Self::Host(path) => {
                let (read_only, engine) = (args.read_only, args.engine);
                let disk = HostDisk::open(path, &HostOptions { read_only, engine, append })?;
                if let Some(native) = disk.native() {
                    let (path, native) = (path.display(), native.display());
                    let line = format_args!("{path}: appends go to it natively, through {native}");
                    log.log(Level::Info, line);
                }
                Ok(Arc::new(disk))
            }
        }
    }

    /// The requests (ioctl) that are made to it once it is open.
    pub(crate) fn requests(&self) -> &'static [u32] {
        if matches!(self, Self::Host(_)) { HOST_REQUESTS } else { &[] }
    }
}

/// Why the generic device of an NVMe namespace, if `path` is one, is no disk; and what is.
pub(crate) fn generic_device(path: &Path) -> Option<String> {
    let (block, path) = (block_device_of(path)?, path.display());
    let block = block.display();
    Some(format!(
        "{path} takes commands for the NVMe disk {block}, and is no disk itself: use {block} \
         (`zvb serve {block} --append native` sends appends through {path})"
    ))
}

fn open_image(path: &Path, args: &SourceArgs, log: &Arc<dyn Log>) -> anyhow::Result<Image> {
    let options = OpenOptions {
        read_only: args.read_only,
        engine: args.engine,
        direct: args.direct,
        ..Default::default()
    };
    let image = Image::open(path, &options)?;
    match image.recovery() {
        Recovery::Clean => {}
        other => log.log(Level::Info, format_args!("{}: {}", path.display(), recovered(&other))),
    }
    if !args.read_only && !is_boot_known() {
        log.log(
            Level::Warn,
            format_args!(
                "/proc/sys/kernel/random/boot_id can not be read: if this server is killed, what was not \
                 flushed is lost, though the host goes on"
            ),
        );
    }
    if image.shape().read_only && !args.read_only {
        bail!("{} can only be served with --read-only", path.display());
    }
    Ok(image)
}

/// How an image was left, for the log and for `zvb info`.
pub(crate) fn recovered(recovery: &Recovery) -> &'static str {
    match recovery {
        Recovery::Clean => "was left in order",
        Recovery::ProcessDied => "its last server died; everything that it acknowledged is there",
        Recovery::HostDied => "the host went down under its last server; what was flushed is there",
        Recovery::SyncFailed => {
            "the host's disk failed under its last server; what was flushed before is there"
        }
        _ => "was not left in order",
    }
}
