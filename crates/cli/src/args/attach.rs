//! What can be typed to give a disk to this host's kernel, and to take it back.

use std::num::NonZeroU16;
use std::path::PathBuf;

use clap::Args;

use crate::args::OutputArgs;
use crate::source::SourceArgs;

pub(crate) const ATTACH_HELP: &str = "\
The running kernel's own virtio-blk driver gets the disk, without a VM: it wants root, and the modules vduse, \
virtio_vdpa and virtio_blk (modprobe -a vduse virtio_vdpa virtio_blk).

The command goes on until SIGTERM, SIGINT or `zvb detach`. Then it takes the disk from the kernel and ends; but \
when the disk is in use (mounted, or under another device), it stays in the kernel, and its requests wait until \
the same command is given again. That is also how to go on when this process was killed: nothing that was \
acknowledged is lost, and what was asked for and not answered is done then.";

pub(crate) const DETACH_HELP: &str = "\
A disk that is in use (mounted, or under another device) is not taken away without --force. A disk that nobody \
serves any more, because `zvb attach` was killed, is taken over first, so that what the kernel still waits for \
is answered. When its image is gone, or another one is there, --force takes the disk away all the same: what the \
kernel still waits for fails.";

#[derive(Args, Debug)]
pub(crate) struct AttachArgs {
    /// An image, a block device of this host, or mem:SIZE for a disk in memory that is gone with this process
    pub(crate) disk: String,

    /// What the disk is called: for `zvb detach`, and in /sys/bus/vdpa [default: the image's name without
    /// its extension, or "mem"]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,

    /// Request queues, each with a worker of its own
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) queues: NonZeroU16,

    /// Make a socket here for `zvb ctl`, which makes zones and requests fail and tells statistics
    #[arg(long, value_name = "PATH")]
    pub(crate) control: Option<PathBuf>,

    /// Offer SECURE_ERASE: zones are reset and ranges overwritten; what the host's medium keeps is its own
    #[arg(long)]
    pub(crate) secure_erase: bool,

    /// Do not confine the server (seccomp, Landlock)
    #[arg(long)]
    pub(crate) no_sandbox: bool,

    /// Say more on standard error
    #[arg(long, short)]
    pub(crate) verbose: bool,

    #[command(flatten)]
    pub(crate) source: SourceArgs,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Args, Debug)]
pub(crate) struct DetachArgs {
    /// The disk's name, as `zvb attach` said it
    pub(crate) name: String,

    /// Also when the disk is in use: whoever uses it gets errors
    #[arg(long, short)]
    pub(crate) force: bool,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}
