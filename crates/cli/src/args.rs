//! What can be typed.

pub(crate) mod attach;
pub(crate) mod ctl;
pub(crate) mod image;
pub(crate) mod manual;

use std::num::{NonZeroU16, NonZeroU32, NonZeroU64};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use zvb_storage::AppendKind;

use crate::shape::ShapeArgs;
use crate::size::{Count, Size};
use crate::source::SourceArgs;

/// Zoned virtio-blk, end to end: make a zoned disk, serve it over vhost-user, drive it.
#[derive(Parser, Debug)]
#[command(name = "zvb", version, max_term_width = 100, disable_help_subcommand = true)]
#[command(
    after_help = "Exit status: 0 when all went well, 1 when something failed, 2 when the command line \
makes no sense.\n\nStart with: zvb demo"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Show all of it: make an image, serve it, drive it, restart the server, look again
    Demo(DemoArgs),
    /// Make a disk image
    Create(CreateArgs),
    /// Tell what an image or a block device is, and how its zones are
    Info(InfoArgs),
    /// Check an image, and with --repair mend it
    #[command(after_help = image::CHECK_HELP)]
    Check(image::CheckArgs),
    /// Make the disk in an image larger
    Resize(image::ResizeArgs),
    /// Copy an image
    #[command(after_help = image::CLONE_HELP)]
    Clone(image::CloneArgs),
    /// Write the states of an image's zones, as JSON
    #[command(after_help = image::DUMP_HELP)]
    Dump(image::DumpArgs),
    /// Put the zones of an image into given states
    #[command(after_help = image::LOAD_HELP)]
    Load(image::LoadArgs),
    /// Serve a disk over a vhost-user socket, until SIGTERM or SIGINT
    Serve(ServeArgs),
    /// Give a disk to this host's kernel, which makes a block device of it, until SIGTERM or SIGINT
    #[command(after_help = attach::ATTACH_HELP)]
    Attach(attach::AttachArgs),
    /// Take a disk back from this host's kernel
    #[command(after_help = attach::DETACH_HELP)]
    Detach(attach::DetachArgs),
    /// Control a server: make zones and requests fail, see statistics, end it
    #[command(after_help = ctl::CTL_HELP)]
    Ctl(ctl::CtlArgs),
    /// Report zones: a table, and on a terminal a map
    #[command(after_help = REPORT_HELP)]
    Report(ReportArgs),
    /// Open zones explicitly
    Open(ZoneArgs),
    /// Close open zones
    Close(ZoneArgs),
    /// Finish zones: make them full
    Finish(ZoneArgs),
    /// Reset zones: make them empty. Their data is gone
    Reset(ResetArgs),
    /// Append to a zone; what does not fit goes on in the next zone that has room
    #[command(after_help = APPEND_HELP)]
    Append(AppendArgs),
    /// Read from the disk
    #[command(after_help = READ_HELP)]
    Read(ReadArgs),
    /// Write to the disk
    Write(WriteArgs),
    /// Make durable what was written
    Flush(PlainArgs),
    /// Print the disk's name
    Id(PlainArgs),
    /// Measure the disk
    #[command(after_help = BENCH_HELP)]
    Bench(BenchArgs),
    /// Try what the virtio specification asks of a device. It destroys what is on the disk
    #[command(after_help = CONFORM_HELP)]
    Conform(ConformArgs),
    /// Print completions for a shell
    Completions(manual::CompletionsArgs),
    /// Print the manual page, or write one for each command
    Man(manual::ManArgs),
}

const REPORT_HELP: &str = "\
JSON: an object that describes the disk, with \"zones\", each with \"zone\" (its number), \"start\", \"len\", \"cap\" \
and \"wptr\" in 512-byte sectors, \"cond\" (not-wp, empty, implicit-open, explicit-open, closed, full, \
read-only, offline) and \"type\" (conventional, seq-write-required, seq-write-preferred). \"wptr\" counts from \
the start of the disk and is always a number: for a full zone start + len, for other zones that have no \
write pointer (conventional, read-only, offline) start.

blkzone: the lines of util-linux's `blkzone report`, where wptr counts from the start of the zone.";

const APPEND_HELP: &str = "\
Zones on the way that are full, read-only or offline are passed over; the first must take data. What is \
printed says which zones got what, so that `zvb read` can read it back: appended to empty zones, \
`zvb read --zone N --count ZONES` gives back exactly what was appended. (A device may put appends that are in \
flight together in another order; what is printed says so, and --depth 1 keeps the order.)";

const READ_HELP: &str = "\
With --length, that many sectors are read from the first sector on. Without it, the written part of each of \
--count zones is read, one after the other: up to the write pointer, of a full zone its capacity, of a \
conventional zone everything. So what `zvb append` spread over several zones comes back in one piece, \
without the gap between a zone's capacity and its end.";

const BENCH_HELP: &str = "\
On a zoned disk, read and randread go to what is written in sequential zones, and to all of the disk only \
when nothing is. write and append go from zone to zone, and reset each before they fill it; each queue has \
zones of its own.";

const CONFORM_HELP: &str = "\
One line for each statement: its number, how strongly it binds (must, should, may, or desc for text without a \
keyword), what it says, and pass, FAIL (with what was expected and what came) or n/a (with the reason). The \
exit status is 1 when one fails.

JSON: \"results\", each with \"number\", \"title\", \"level\" and \"result\" (\"pass\", \"fail\" with \"expected\" \
and \"got\", or \"n/a\" with \"why\"), then \"passed\", \"failed\" and \"not_applicable\", which count them. When the \
device was lost on the way, the last result is the failure that this is, and \"aborted\" says why no more follow.";

/// Which device.
#[derive(Args, Clone, Debug)]
pub(crate) struct DeviceArgs {
    /// The socket of a vhost-user block device, like that of `zvb serve`
    #[arg(long, short, value_name = "PATH")]
    pub(crate) socket_path: PathBuf,

    /// Give up when the device is silent for so long; 0 to wait for ever
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(crate) timeout: u32,
}

/// How to answer.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct OutputArgs {
    /// Answer in JSON
    #[arg(long)]
    pub(crate) json: bool,

    /// Say nothing when all goes well
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// A zone or a sector to begin with.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct FirstArgs {
    /// Begin with this zone, counted from 0
    #[arg(long, short, value_name = "N", conflicts_with = "sector")]
    pub(crate) zone: Option<Count>,

    /// Begin with this 512-byte sector
    #[arg(long, value_name = "SECTOR")]
    pub(crate) sector: Option<Count>,
}

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Keep the image, and say where it is
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Args, Debug)]
pub(crate) struct CreateArgs {
    /// The file to make
    pub(crate) file: PathBuf,

    /// Size of the disk. The file takes space only as the disk is written
    #[arg(long, value_name = "SIZE")]
    pub(crate) size: Size,

    /// Replace FILE when it is there
    #[arg(long, short)]
    pub(crate) force: bool,

    #[command(flatten)]
    pub(crate) shape: ShapeArgs,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Args, Debug)]
pub(crate) struct InfoArgs {
    /// The image, or a block device of this host
    pub(crate) file: PathBuf,

    /// Answer in JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// An image, a block device of this host (zoned or not), or mem:SIZE for a disk in memory that is gone
    /// with the server
    #[arg(required_unless_present_any = ["blk_file", "print_capabilities"])]
    pub(crate) disk: Option<String>,

    /// The image, as QEMU's conventions call it
    #[arg(long, value_name = "FILE", conflicts_with = "disk")]
    pub(crate) blk_file: Option<PathBuf>,

    /// Make a socket here and listen on it
    #[arg(long, short, value_name = "PATH", conflicts_with = "fd")]
    pub(crate) socket_path: Option<PathBuf>,

    /// Use this inherited file descriptor: a listening socket, or one that is connected [default: the
    /// socket that a service manager hands over]
    #[arg(long, value_name = "N")]
    pub(crate) fd: Option<i32>,

    /// Request queues, each with a worker of its own
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) queues: NonZeroU16,

    #[command(flatten)]
    pub(crate) source: SourceArgs,

    /// How appends go to a block device of this host: ordered, as writes one after the other in each zone; or native,
    /// as the appends of an NVMe disk, any number at once, past the block layer
    #[arg(long, value_name = "HOW", default_value = "ordered")]
    pub(crate) append: AppendKind,

    /// Make a socket here for `zvb ctl`, which makes zones and requests fail and tells statistics
    #[arg(long, value_name = "PATH")]
    pub(crate) control: Option<PathBuf>,

    /// Offer SECURE_ERASE: zones are reset and ranges overwritten; what the host's medium keeps is its own
    #[arg(long)]
    pub(crate) secure_erase: bool,

    /// Look for requests for so long, at most, before sleeping, where they came that soon lately; 0: never.
    /// It makes requests quicker, and may take more processor time
    #[arg(long, value_name = "MICROSECONDS", num_args = 0..=1, require_equals = true,
          default_value = "50", default_missing_value = "100",
          value_parser = clap::value_parser!(u32).range(..=100_000))]
    pub(crate) poll: u32,

    /// Do not confine the server (seccomp, Landlock)
    #[arg(long)]
    pub(crate) no_sandbox: bool,

    /// Say more on standard error
    #[arg(long, short)]
    pub(crate) verbose: bool,

    /// Print the back end's capabilities, as QEMU's conventions want them, and exit
    #[arg(long)]
    pub(crate) print_capabilities: bool,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// The forms of a report.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReportFormat {
    /// A table, with a map of the zones on a terminal
    Table,
    /// The lines of util-linux's blkzone report
    Blkzone,
    /// An object with "zones"
    Json,
}

#[derive(Args, Debug)]
pub(crate) struct ReportArgs {
    #[command(flatten)]
    pub(crate) device: DeviceArgs,

    #[command(flatten)]
    pub(crate) first: FirstArgs,

    /// How many zones [default: to the last]
    #[arg(long, short, value_name = "ZONES")]
    pub(crate) count: Option<Count>,

    /// The form of the report
    #[arg(long, value_enum, default_value_t = ReportFormat::Table)]
    pub(crate) format: ReportFormat,

    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ZoneArgs {
    #[command(flatten)]
    pub(crate) device: DeviceArgs,

    #[command(flatten)]
    pub(crate) first: FirstArgs,

    /// How many zones
    #[arg(long, short, value_name = "ZONES", default_value = "1")]
    pub(crate) count: Count,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ResetArgs {
    #[command(flatten)]
    pub(crate) zones: ZoneArgs,

    /// Reset all zones, with one request
    #[arg(long, conflicts_with_all = ["zone", "sector", "count"])]
    pub(crate) all: bool,
}

/// How bytes are moved.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct TransferArgs {
    /// Requests in flight
    #[arg(long, value_name = "N", default_value = "16")]
    pub(crate) depth: NonZeroU32,
}

#[derive(Args, Debug)]
pub(crate) struct AppendArgs {
    /// What to append; standard input when it is left out or -
    pub(crate) file: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) device: DeviceArgs,

    #[command(flatten)]
    pub(crate) first: FirstArgs,

    /// Append this many 512-byte sectors of the input, which must be there [default: all of it]
    #[arg(long, short, value_name = "SECTORS")]
    pub(crate) length: Option<Count>,

    /// Fill the last block up with zeroes when the input is no multiple of the block size
    #[arg(long)]
    pub(crate) pad: bool,

    #[command(flatten)]
    pub(crate) transfer: TransferArgs,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Args, Debug)]
pub(crate) struct WriteArgs {
    /// What to write; standard input when it is left out or -
    pub(crate) file: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) device: DeviceArgs,

    /// Write to this zone, counted from 0: at its write pointer, or at its start when it has none
    #[arg(long, short, value_name = "N", conflicts_with = "sector")]
    pub(crate) zone: Option<Count>,

    /// Write at this 512-byte sector
    #[arg(long, value_name = "SECTOR")]
    pub(crate) sector: Option<Count>,

    /// Write this many 512-byte sectors of the input, which must be there [default: all of it]
    #[arg(long, short, value_name = "SECTORS")]
    pub(crate) length: Option<Count>,

    /// Fill the last block up with zeroes when the input is no multiple of the block size
    #[arg(long)]
    pub(crate) pad: bool,

    #[command(flatten)]
    pub(crate) transfer: TransferArgs,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ReadArgs {
    #[command(flatten)]
    pub(crate) device: DeviceArgs,

    #[command(flatten)]
    pub(crate) first: FirstArgs,

    /// Read the written parts of so many zones [default: 1]
    #[arg(long, short, value_name = "ZONES", conflicts_with = "length")]
    pub(crate) count: Option<Count>,

    /// Read this many 512-byte sectors, written or not
    #[arg(long, short, value_name = "SECTORS")]
    pub(crate) length: Option<Count>,

    /// Write to this file [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// Write to standard output though it is a terminal
    #[arg(long, short)]
    pub(crate) force: bool,

    /// Show no progress
    #[arg(long, short)]
    pub(crate) quiet: bool,

    #[command(flatten)]
    pub(crate) transfer: TransferArgs,
}

#[derive(Args, Debug)]
pub(crate) struct PlainArgs {
    #[command(flatten)]
    pub(crate) device: DeviceArgs,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// What a benchmark does.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Workload {
    /// Read one block after the other
    Read,
    /// Read at random
    Randread,
    /// Write one block after the other, zone after zone
    Write,
    /// Write at random: disks and zones without write pointers only
    Randwrite,
    /// Append, zone after zone
    Append,
}

#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    pub(crate) device: DeviceArgs,

    /// What to do
    #[arg(long, value_enum, default_value_t = Workload::Randread)]
    pub(crate) rw: Workload,

    /// Bytes of a request
    #[arg(long, value_name = "SIZE", default_value = "4K")]
    pub(crate) bs: Size,

    /// Requests in flight, on each queue
    #[arg(long, value_name = "N", default_value = "32")]
    pub(crate) depth: NonZeroU32,

    /// How long to measure
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    pub(crate) seconds: f64,

    /// Queues to use, each from a thread of its own
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) queues: NonZeroU16,

    /// Zones to go through at the same time, request by request, on each queue: for read, write and append
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) zones_at_once: NonZeroU16,

    /// Have all queues append to the same zones, one zone after the other
    #[arg(long, conflicts_with = "zones_at_once")]
    pub(crate) same_zones: bool,

    /// Stop after N requests on each queue, if --seconds are not over before
    #[arg(long, value_name = "N")]
    pub(crate) requests: Option<NonZeroU64>,

    /// Poll the rings all the time rather than sleep until the device signals
    #[arg(long)]
    pub(crate) busy_poll: bool,

    /// Use only the first SIZE of the disk [default: all of it]
    #[arg(long, value_name = "SIZE")]
    pub(crate) span: Option<Size>,

    /// Agree that what is on the disk is destroyed: workloads that write want this
    #[arg(long)]
    pub(crate) destroy: bool,

    /// Answer in JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ConformArgs {
    /// The socket of a vhost-user block device, like that of `zvb serve`
    #[arg(long, short, value_name = "PATH")]
    pub(crate) socket_path: PathBuf,

    /// An answer that takes longer than this is none, on the socket as on the queues
    #[arg(long, value_name = "SECONDS", default_value = "5")]
    pub(crate) timeout: NonZeroU32,

    /// Agree that what is on the disk is destroyed
    #[arg(long)]
    pub(crate) destroy: bool,

    /// Try these statements only, by their numbers
    #[arg(long, value_name = "N,M", value_delimiter = ',')]
    pub(crate) only: Vec<u16>,

    /// Answer in JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn conventions_of_vhost_user_programs_are_taken() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).map(|cli| cli.command);
        assert!(parse("zvb serve --print-capabilities").is_ok());
        assert!(parse("zvb serve --blk-file d.zvb --socket-path s --read-only").is_ok());
        assert!(parse("zvb serve --blk-file d.zvb --fd 3").is_ok());
        assert!(parse("zvb serve d.zvb --fd 3 --socket-path s").is_err());
        assert!(parse("zvb serve d.zvb --blk-file d.zvb --fd 3").is_err());
        assert!(parse("zvb serve d.zvb").is_ok(), "a service manager may hand a socket over");
        assert!(parse("zvb serve --socket-path s").is_err());
        assert!(parse("zvb reset --socket-path s --all --zone 1").is_err());
        assert!(parse("zvb report --socket-path s --zone 1 --sector 2").is_err());
    }
}
