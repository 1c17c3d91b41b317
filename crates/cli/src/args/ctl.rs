//! What can be typed to control a server.

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::size::{Count, Size};

pub(crate) const CTL_HELP: &str = "\
Start the server with `zvb serve --control PATH`. docs/control.md has the protocol behind this, for programs.

KIND is read, write, append, flush, id, report, open, close, finish, reset, reset-all, discard, write-zeroes, \
secure-erase or any, or several of these with commas between.";

#[derive(Args, Debug)]
pub(crate) struct CtlArgs {
    /// The control socket of `zvb serve --control PATH`
    #[arg(long, value_name = "PATH", global = true)]
    pub(crate) control: Option<PathBuf>,

    /// Answer in JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Say nothing when all goes well
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,

    /// Give up when the server is silent for so long; 0 to wait for ever
    #[arg(long, value_name = "SECONDS", default_value_t = 60, global = true)]
    pub(crate) timeout: u32,

    #[command(subcommand)]
    pub(crate) command: CtlCommand,
}

#[derive(Subcommand, Debug)]
pub(crate) enum CtlCommand {
    /// Make zones read-only: what is written of them can be read, and nothing else. The image remembers
    ReadOnly(ZonesArgs),
    /// Make zones offline: they can be neither read nor written. The image remembers
    Offline(ZonesArgs),
    /// Make zones that are read-only or offline sound again, with the data that they had
    ///
    /// They are empty, closed or full by how far they are written: one that was open, or that was
    /// finished early, is closed.
    Restore(ZonesArgs),
    /// Make requests fail
    Fail(FailArgs),
    /// Make writes and appends reach the medium in part, and fail
    Tear(TearArgs),
    /// Make requests take longer
    Delay(DelayArgs),
    /// List the faults that are set, and what they did
    Faults,
    /// Clear a fault, or all
    Clear(ClearArgs),
    /// Tell what was asked of the disk and what came of it, by queue and kind
    Stats,
    /// Write the states of the zones at this moment, in the JSON of `zvb dump`
    Dump,
    /// Make the disk larger, and tell the guest
    ///
    /// What it has stays: a last zone that is smaller than the others grows, then come new zones, empty.
    Resize(GrowArgs),
    /// End the server in order
    Quit,
}

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct ZonesArgs {
    /// The first of them, counted from 0
    #[arg(long, short, value_name = "N")]
    pub(crate) zone: Count,

    /// How many
    #[arg(long, short, value_name = "ZONES", default_value = "1")]
    pub(crate) count: Count,
}

/// Which requests.
#[derive(Args, Clone, Debug)]
pub(crate) struct WhichArgs {
    /// Kinds of requests, with commas between
    #[arg(value_name = "KIND", required = true, value_delimiter = ',')]
    pub(crate) kinds: Vec<String>,

    /// The next N of them
    #[arg(long, short, value_name = "N", default_value = "1", conflicts_with = "always")]
    pub(crate) next: NonZeroU32,

    /// All of them, until `zvb ctl clear`
    #[arg(long)]
    pub(crate) always: bool,

    /// Only those that touch zones from this one on
    #[arg(long, short, value_name = "N", conflicts_with = "sector")]
    pub(crate) zone: Option<Count>,

    /// How many zones
    #[arg(long, short, value_name = "ZONES", requires = "zone", default_value = "1")]
    pub(crate) count: Count,

    /// Only those that touch sectors from this one on
    #[arg(long, value_name = "SECTOR", requires = "length")]
    pub(crate) sector: Option<Count>,

    /// How many sectors
    #[arg(long, short, value_name = "SECTORS", requires = "sector")]
    pub(crate) length: Option<Count>,
}

#[derive(Args, Debug)]
pub(crate) struct FailArgs {
    #[command(flatten)]
    pub(crate) which: WhichArgs,

    /// The status of the answer: ioerr, unsupp, zone-invalid, zone-unaligned, zone-open-resource,
    /// zone-active-resource
    #[arg(long, short, value_name = "STATUS", default_value = "ioerr")]
    pub(crate) status: String,

    /// After so many milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub(crate) delay: u32,
}

#[derive(Args, Debug)]
pub(crate) struct TearArgs {
    #[command(flatten)]
    pub(crate) which: WhichArgs,

    /// How many 512-byte sectors of the write reach the medium: rounded down to a block, and never all of
    /// it [default: half]
    #[arg(long, value_name = "SECTORS")]
    pub(crate) keep: Option<Count>,

    /// After so many milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub(crate) delay: u32,
}

#[derive(Args, Debug)]
pub(crate) struct DelayArgs {
    #[command(flatten)]
    pub(crate) which: WhichArgs,

    /// So many milliseconds, at most 60000
    #[arg(long, value_name = "MS")]
    pub(crate) ms: u32,
}

#[derive(Args, Debug)]
pub(crate) struct GrowArgs {
    /// The new size of the disk, which can only grow
    #[arg(long, value_name = "SIZE")]
    pub(crate) size: Size,
}

#[derive(Args, Debug)]
pub(crate) struct ClearArgs {
    /// The number of the fault [default: all of them]
    pub(crate) id: Option<u32>,
}
