//! Commands of NVMe, past the block layer: by io_uring to a namespace's generic device (linux/nvme_ioctl.h), of
//! which the answer has 64 bits more than others, the place of an append.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use io_uring::register::{Probe, Restriction};
use io_uring::types::Fixed;
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, Updater, ioctl, opcode as request};
use zerocopy::{Immutable, IntoBytes};
use zvb_wire::{SECTOR_BYTES, Sector};

use super::ring::{Completion, Landed, Ring, Rings, entries_for};
use crate::engine::{Job, Kind};

/// Rings for such commands.
pub(crate) type NvmeRings = Rings<squeue::Entry128, cqueue::Entry32>;
/// A ring for writes and appends to one namespace.
pub(crate) type NvmeRing = Ring<squeue::Entry128, cqueue::Entry32>;

impl Completion for cqueue::Entry32 {
    fn result(&self) -> i32 {
        self.result()
    }

    fn value(&self) -> u64 {
        let [value, _] = *self.big_cqe();
        value
    }
}

const GROUP: u8 = b'N';
const NAMESPACE_ID: Opcode = request::none(GROUP, 0x40);
const ADMIN: Opcode = request::read_write::<Command>(GROUP, 0x41);
const IO: Opcode = request::read_write::<Command>(GROUP, 0x80);
const IO_RUNS: Opcode = request::read_write::<Command>(GROUP, 0x81);

/// Opcodes.
const WRITE: u8 = 0x01;
const IDENTIFY: u8 = 0x06;
const ZONE_RECEIVE: u8 = 0x7a;
const APPEND: u8 = 0x7d;

/// The most blocks of one command.
pub(crate) const BLOCKS_MAX: u64 = 1 << 16;

/// `struct nvme_uring_cmd`, which `struct nvme_passthru_cmd` is like.
#[derive(Clone, Copy, Default, IntoBytes, Immutable)]
#[repr(C)]
struct Command {
    opcode: u8,
    flags: u8,
    reserved: u16,
    namespace: u32,
    dwords2: [u32; 2],
    metadata: u64,
    address: u64,
    metadata_len: u32,
    /// Bytes, or how many runs there are at `address`.
    len: u32,
    dwords10: [u32; 6],
    timeout_ms: u32,
    result: u32,
}

impl Command {
    /// What such a command has in a submission queue.
    fn bytes(self) -> [u8; 80] {
        let mut bytes = [0; 80];
        let command: [u8; 72] = zerocopy::transmute!(self);
        bytes[..72].copy_from_slice(&command);
        bytes
    }
}

/// A namespace, and the size of its blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Namespace {
    pub(crate) id: u32,
    /// log2 of the block size in bytes, 9 or more.
    pub(crate) shift: u32,
}

impl Namespace {
    /// A write of `bytes` bytes, in whole blocks and not more than [`BLOCKS_MAX`], to the byte `at`; or an append
    /// of so many to the zone that begins there.
    fn write(self, append: bool, at: u64, bytes: u64) -> Command {
        let block = at >> self.shift;
        let blocks = (bytes >> self.shift).clamp(1, BLOCKS_MAX);
        Command {
            opcode: if append { APPEND } else { WRITE },
            namespace: self.id,
            // How many blocks, counted from 0, in 16 bits.
            dwords10: [block as u32, (block >> 32) as u32, blocks as u32 - 1, 0, 0, 0],
            ..Command::default()
        }
    }

    /// The sector at which `block` begins; one that no disk has when there is none.
    fn sector(self, block: u64) -> Sector {
        let bytes = block.checked_mul(1 << self.shift);
        Sector(bytes.map_or(u64::MAX, |bytes| bytes / SECTOR_BYTES))
    }
}

/// What an NVMe command failed with: status code type and status code, as Linux tells them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status(pub(crate) u16);

impl Status {
    pub(crate) const INVALID_OPCODE: Self = Self(0x001);
    pub(crate) const TOO_MANY_ACTIVE: Self = Self(0x1bd);
    pub(crate) const TOO_MANY_OPEN: Self = Self(0x1be);

    fn words(self) -> &'static str {
        match self.0 {
            0x001 => "the command is not known",
            0x002 => "a field is invalid",
            0x080 => "past the end",
            0x1b8 => "past the zone's boundary",
            0x1b9 => "the zone is full",
            0x1ba => "the zone is read-only",
            0x1bb => "the zone is offline",
            0x1bc => "not at the write pointer",
            0x1bd => "too many active zones",
            0x1be => "too many open zones",
            0x280 => "write fault",
            _ => "see the specification",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NVMe status {:03x}h: {}", self.0, self.words())
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Status {}

/// How a command went.
#[derive(Debug)]
pub(crate) enum NvmeResult {
    Done,
    /// The disk says no.
    Refused(Status),
    /// It did not get there, or nobody knows what became of it.
    Failed(io::Error),
}

/// A job that came back: done as a whole, or not at all as far as one can tell.
pub(crate) struct NvmeFinished {
    pub(crate) job: Job,
    /// How many bytes it asked for.
    pub(crate) asked: u64,
    pub(crate) result: NvmeResult,
    /// Where it went, when it is an append and done.
    pub(crate) placed: Option<Sector>,
}

impl NvmeRings {
    /// Makes `count` rings more, for `depth` commands each to the generic device `file`.
    pub(crate) fn prepare_for(
        &self,
        count: u16,
        depth: u32,
        file: BorrowedFd<'_>,
    ) -> io::Result<()> {
        for _ in 0..count {
            self.keep(to_one_device(depth, file)?);
        }
        Ok(())
    }
}

impl NvmeRing {
    /// A ring for up to `depth` commands at once to the generic device `file`, for which all of `rings` are.
    pub(crate) fn for_device(
        depth: u32,
        rings: &Arc<NvmeRings>,
        file: BorrowedFd<'_>,
    ) -> io::Result<Self> {
        Self::over(depth, rings, || to_one_device(depth, file))
    }

    /// Takes `job`, whose next `bytes` bytes are to be written at the byte `at`; or to be appended to the zone that
    /// begins there. Gives it back when there is no room. Begins at [`submit`](Self::submit).
    pub(crate) fn take_write(
        &mut self,
        job: Job,
        to: Namespace,
        at: u64,
        bytes: u64,
    ) -> Result<(), Job> {
        let mut command = to.write(job.kind == Kind::Append, at, bytes);
        self.load(job, bytes, |flight, _| {
            let (how, base, len) = match flight.one() {
                Some((base, len)) => (IO, base.cast_const(), len),
                None => (IO_RUNS, flight.vecs.as_ptr().cast(), flight.vecs.len() as u32),
            };
            // The kernel reads what is there.
            (command.address, command.len) = (base.expose_provenance() as u64, len);
            entry(how, &command)
        })
    }

    /// A job that the kernel is done with.
    pub(crate) fn next_written(&mut self, namespace: Namespace) -> Option<NvmeFinished> {
        let Landed { job, asked, result, value } = self.next_landed()?;
        let result = result_of(result);
        let appended = job.kind == Kind::Append && matches!(result, NvmeResult::Done);
        let placed = appended.then(|| namespace.sector(value));
        Some(NvmeFinished { job, asked, result, placed })
    }
}

fn entry(how: Opcode, command: &Command) -> squeue::Entry128 {
    opcode::UringCmd80::new(Fixed(0), how).cmd(command.bytes()).build()
}

/// What `result` of a completion says: 0, an NVMe status (of which the bits above say whether to try again), or
/// an error of the kernel.
fn result_of(result: i32) -> NvmeResult {
    match u32::try_from(result) {
        Ok(0) => NvmeResult::Done,
        Ok(status) => NvmeResult::Refused(Status((status & 0x7ff) as u16)),
        Err(_) => NvmeResult::Failed(io::Error::from_raw_os_error(result.wrapping_neg())),
    }
}

/// A ring for up to `depth` commands at once that does nothing but to send commands to `file`, whoever gets hold of
/// it.
fn to_one_device(
    depth: u32,
    file: BorrowedFd<'_>,
) -> io::Result<IoUring<squeue::Entry128, cqueue::Entry32>> {
    let ring = IoUring::builder().setup_r_disabled().build(entries_for(depth))?;
    let submitter = ring.submitter();
    let mut probe = Probe::new();
    submitter.register_probe(&mut probe)?;
    if !probe.is_supported(opcode::UringCmd80::CODE) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    submitter.register_files(&[file.as_raw_fd()])?;
    submitter.register_restrictions(&mut [
        Restriction::sqe_op(opcode::UringCmd80::CODE),
        Restriction::sqe_flags_required(squeue::Flags::FIXED_FILE.bits()),
    ])?;
    submitter.register_enable_rings()?;
    Ok(ring)
}

/// Asks for a report of one zone of `namespace` as appends are sent, to find out whether commands get there so.
pub(crate) fn try_out(file: BorrowedFd<'_>, namespace: Namespace) -> io::Result<()> {
    let mut ring = to_one_device(1, file)?;
    let mut page = Box::new([0_u8; 4096]);
    let command = Command {
        opcode: ZONE_RECEIVE,
        namespace: namespace.id,
        address: page.as_mut_ptr().expose_provenance() as u64,
        len: page.len() as u32,
        // As many dwords, counted from 0; all zones, as many as have room.
        dwords10: [0, 0, page.len() as u32 / 4 - 1, 1 << 16, 0, 0],
        ..Command::default()
    };
    // SAFETY: the kernel writes to the page, which is ours, until the completion was seen. Without one it is leaked.
    let pushed = unsafe { ring.submission().push(&entry(IO, &command)) };
    pushed.map_err(|_full| io::ErrorKind::ResourceBusy)?;
    for _ in 0..1000 {
        let waited = ring.submit_and_wait(1);
        if let Some(answer) = ring.completion().next() {
            return match result_of(answer.result()) {
                NvmeResult::Done => Ok(()),
                NvmeResult::Refused(status) => Err(io::Error::other(status)),
                NvmeResult::Failed(error) => Err(error),
            };
        }
        if waited.is_err() {
            std::thread::yield_now();
        }
    }
    Box::leak(page);
    Err(io::ErrorKind::TimedOut.into())
}

/// Asks for the number of a namespace.
struct NamespaceId;

// SAFETY: the request has no argument, and returns a number.
unsafe impl Ioctl for NamespaceId {
    type Output = u32;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        NAMESPACE_ID
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(
        output: IoctlOutput,
        _: *mut std::ffi::c_void,
    ) -> rustix::io::Result<u32> {
        Ok(output.cast_unsigned())
    }
}

/// The number of the namespace that `fd` is, its block device or its generic one.
pub(crate) fn namespace_id(fd: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: see `NamespaceId`. What is no NVMe namespace refuses it.
    Ok(unsafe { ioctl(fd, NamespaceId)? })
}

/// How the namespace `id` is formatted: log2 of the block size, and how many bytes of metadata a block has.
pub(crate) fn format_of(fd: BorrowedFd<'_>, id: u32) -> io::Result<(u32, u16)> {
    let mut page = Box::new([0_u8; 4096]);
    let mut command = Command {
        opcode: IDENTIFY,
        namespace: id,
        address: page.as_mut_ptr().expose_provenance() as u64,
        len: page.len() as u32,
        ..Command::default()
    };
    // SAFETY: the request reads and writes a command, and writes to the page that it names before it returns. What
    // is no NVMe namespace refuses it.
    unsafe { ioctl(fd, Updater::<ADMIN, Command>::new(&mut command))? };
    Ok(format_in(&page))
}

/// The format that the data of an Identify Namespace tells of.
fn format_in(page: &[u8; 4096]) -> (u32, u16) {
    // FLBAS: four bits of the format's number, and two more.
    let number = usize::from(page[26] & 0xf | (page[26] & 0x60) >> 1);
    let format = 128 + 4 * number;
    (page[format + 2].into(), u16::from_le_bytes([page[format], page[format + 1]]))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_numbers_are_those_of_linux() {
        assert_eq!(
            [NAMESPACE_ID, ADMIN, IO, IO_RUNS],
            [0x4e40, 0xc048_4e41, 0xc048_4e80, 0xc048_4e81]
        );
    }

    /// Byte for byte.
    #[test]
    fn an_append_is_what_the_driver_takes() {
        let namespace = Namespace { id: 0x0102_0304, shift: 12 };
        let at = 0x0123_4567_89ab << 12;
        let command = Command {
            address: 0x7fff_1122_3344_5566,
            len: 8192,
            ..namespace.write(true, at, 2 << 12)
        };
        let mut expected = [0; 80];
        expected[0] = 0x7d;
        expected[4..8].copy_from_slice(&[4, 3, 2, 1]);
        expected[24..32].copy_from_slice(&[0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0xff, 0x7f]);
        expected[36..40].copy_from_slice(&[0, 0x20, 0, 0]);
        expected[40..48].copy_from_slice(&[0xab, 0x89, 0x67, 0x45, 0x23, 0x01, 0, 0]);
        expected[48..52].copy_from_slice(&[1, 0, 0, 0]);
        if cfg!(target_endian = "little") {
            assert_eq!(command.bytes(), expected);
        }
        let write = Namespace { id: 1, shift: 9 }.write(false, 512 * 7, 512);
        assert_eq!((write.opcode, write.dwords10), (0x01, [7, 0, 0, 0, 0, 0]));
        let most = Namespace { id: 1, shift: 9 }.write(true, 0, 512 << 16);
        assert_eq!(most.dwords10[2], 0xffff);
    }

    #[test]
    fn places_are_told_in_sectors() {
        assert_eq!(Namespace { id: 1, shift: 9 }.sector(9), Sector(9));
        assert_eq!(Namespace { id: 1, shift: 12 }.sector(9), Sector(72));
        assert_eq!(Namespace { id: 1, shift: 12 }.sector(u64::MAX), Sector(u64::MAX));
    }

    #[test]
    fn answers_are_told_apart() {
        assert!(matches!(result_of(0), NvmeResult::Done));
        // Do not retry: a bit above the status.
        let full = result_of(0x41b9);
        assert!(matches!(full, NvmeResult::Refused(Status(0x1b9))), "{full:?}");
        assert_eq!(Status(0x1b9).to_string(), "NVMe status 1b9h: the zone is full");
        let cancelled = result_of(-4);
        assert!(matches!(cancelled, NvmeResult::Failed(error) if error.raw_os_error() == Some(4)));
    }

    #[test]
    fn a_format_is_found_by_its_number() {
        let mut page = [0; 4096];
        page[128 + 4 * 3..][..4].copy_from_slice(&[8, 0, 12, 0]);
        page[128 + 4 * 0x12..][..4].copy_from_slice(&[0, 0, 9, 0]);
        page[26] = 0x13;
        assert_eq!(format_in(&page), (12, 8));
        page[26] = 0x22;
        assert_eq!(format_in(&page), (9, 0));
    }

    #[test]
    fn what_is_no_namespace_says_so() {
        let file = tempfile::tempfile().unwrap();
        assert!(namespace_id(file.as_fd()).is_err());
        assert!(format_of(file.as_fd(), 1).is_err());
        assert!(try_out(file.as_fd(), Namespace { id: 1, shift: 9 }).is_err());
    }

    #[test]
    fn a_ring_sends_commands_to_its_device_and_does_nothing_else() {
        let file = tempfile::tempfile().unwrap();
        let Ok(mut ring) = to_one_device(2, file.as_fd()) else {
            eprintln!("not tried: there is no io_uring for commands");
            return;
        };
        let denied = -rustix::io::Errno::ACCESS.raw_os_error();
        let fd = io_uring::types::Fd(file.as_raw_fd());
        let entries: [squeue::Entry128; 3] = [
            opcode::Nop::new().build().into(),
            opcode::Read::new(Fixed(0), std::ptr::null_mut(), 0).build().into(),
            opcode::UringCmd80::new(fd, IO).build(),
        ];
        for entry in entries {
            // SAFETY: none points to anything.
            unsafe { ring.submission().push(&entry) }.unwrap();
            ring.submit_and_wait(1).unwrap();
            assert_eq!(ring.completion().next().unwrap().result(), denied);
        }
        ring.submitter().register_files_update(0, &[0]).unwrap_err();
    }
}
