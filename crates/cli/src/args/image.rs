//! What can be typed about images.

use std::path::PathBuf;

use clap::Args;

use super::OutputArgs;
use crate::size::Size;

pub(crate) const CHECK_HELP: &str = "\
Changes nothing without --repair. Repairing never guesses: what is brought back was written with a \
checksum; a zone of which nothing can be vouched for is taken offline, and that is said. Copy the image \
first (`zvb clone`) if its data matters.\n\n\
Exit status: 0 when the image is sound, 1 when it has errors or warnings. Notes are neither.";

pub(crate) const CLONE_HELP: &str = "\
Both share their blocks until one changes, where the file system can do that; else what there is of the \
image is copied, and not its holes. An image that a crash left is copied as it is. The copy gets a UUID \
and a name of its own, unless --same-id says that it is a backup.";

pub(crate) const DUMP_HELP: &str = "\
JSON: an object that describes the disk, with \"zones\", each with \"zone\" (its number), \"start\", \"len\", \
\"cap\", \"written\" in 512-byte sectors, \"cond\" and \"type\" as in `zvb report --json`. \"written\" is where the \
data of the zone ends, counted from its start; a full zone may have been finished before its capacity.";

pub(crate) const LOAD_HELP: &str = "\
TABLE is what `zvb dump` writes, or `zvb report --json`, or by hand an object with \"zones\", each with \
\"zone\", \"cond\" and, where it is not 0 (or for a full zone its capacity), \"written\". Zones that are left out \
stay what they are. A zone whose data ends where it did keeps its data; that of any other becomes zeroes. \
All zones change, or none. Open zones are closed once the image is served.";

#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// The image
    pub(crate) file: PathBuf,

    /// Read all data, too
    #[arg(long)]
    pub(crate) deep: bool,

    /// Mend what can be mended without guessing, say what was done, and check again
    #[arg(long)]
    pub(crate) repair: bool,

    /// Look at an image that is in use, too: what is found may be over already
    #[arg(long, short, conflicts_with = "repair")]
    pub(crate) force: bool,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ResizeArgs {
    /// The image, which must not be in use
    pub(crate) file: PathBuf,

    /// The new size of the disk. A disk can only grow: a smaller last zone becomes larger, then empty
    /// zones come after it
    #[arg(long, value_name = "SIZE")]
    pub(crate) size: Size,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Args, Debug)]
pub(crate) struct CloneArgs {
    /// The image, which nobody may be writing to
    pub(crate) from: PathBuf,

    /// The file to make
    pub(crate) to: PathBuf,

    /// Replace TO when it is there
    #[arg(long, short)]
    pub(crate) force: bool,

    /// Keep the UUID and the disk's name
    #[arg(long)]
    pub(crate) same_id: bool,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Args, Debug)]
pub(crate) struct DumpArgs {
    /// The image
    pub(crate) file: PathBuf,

    /// Answer in JSON, as it does anyway
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct LoadArgs {
    /// The image, which must not be in use
    pub(crate) file: PathBuf,

    /// The states of zones; standard input for -
    pub(crate) table: PathBuf,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}
