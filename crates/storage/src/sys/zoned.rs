//! The system calls of zoned block devices (linux/blkzoned.h).

use std::io;
use std::os::fd::BorrowedFd;

use rustix::ioctl::{Opcode, Setter, Updater, ioctl, opcode};

/// One zone, as the kernel tells of it. All in 512-byte sectors; `write_pointer` counts from the start of
/// the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub(crate) struct RawZone {
    pub(crate) start: u64,
    pub(crate) len: u64,
    pub(crate) write_pointer: u64,
    pub(crate) kind: u8,
    pub(crate) condition: u8,
    pub(crate) non_sequential: u8,
    pub(crate) reset: u8,
    pub(crate) reserved: [u8; 4],
    /// 0 from kernels before 5.9, which know no capacity below the length.
    pub(crate) capacity: u64,
    pub(crate) reserved2: [u8; 24],
}

const _: () = assert!(size_of::<RawZone>() == 64);

/// Zones asked for at once.
const BATCH: usize = 512;

#[repr(C)]
struct Header {
    sector: u64,
    zones: u32,
    flags: u32,
}

#[repr(C)]
struct Report {
    header: Header,
    zones: [RawZone; BATCH],
}

const _: () = assert!(size_of::<Report>() == 16 + 64 * BATCH);

/// A range of sectors.
#[repr(C)]
struct Range {
    sector: u64,
    sectors: u64,
}

const GROUP: u8 = 0x12;
const REPORT: Opcode = opcode::read_write::<Header>(GROUP, 130);
const RESET: Opcode = opcode::write::<Range>(GROUP, 131);
const OPEN: Opcode = opcode::write::<Range>(GROUP, 134);
const CLOSE: Opcode = opcode::write::<Range>(GROUP, 135);
const FINISH: Opcode = opcode::write::<Range>(GROUP, 136);

/// The numbers of all requests made here: what a confined server must still be allowed.
pub(crate) const REQUESTS: [u32; 5] = [REPORT, RESET, OPEN, CLOSE, FINISH];

/// Something done to zones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ZoneCall {
    Open,
    Close,
    Finish,
    Reset,
}

/// Tells of the zones of `fd` from the one at `sector` on: of `most` zones, or of as many as fit into one
/// call. Nothing past the last zone.
pub(crate) fn report(fd: BorrowedFd<'_>, sector: u64, most: usize) -> io::Result<Vec<RawZone>> {
    let zones = most.min(BATCH);
    let mut report = Box::new(Report {
        header: Header { sector, zones: zones as u32, flags: 0 },
        zones: [RawZone::default(); BATCH],
    });
    // SAFETY: the request reads and writes a header and as many zones behind it as the header says, at
    // most `BATCH`: all inside `report`, of which any bytes are a value. What is no zoned block device
    // refuses it.
    unsafe { ioctl(fd, Updater::<REPORT, Report>::new(&mut *report))? };
    let told = (report.header.zones as usize).min(zones);
    Ok(report.zones.iter().take(told).copied().collect())
}

/// Does `call` to the zones of `fd` in `sectors` sectors from `sector` on.
pub(crate) fn manage(
    fd: BorrowedFd<'_>,
    call: ZoneCall,
    sector: u64,
    sectors: u64,
) -> io::Result<()> {
    let range = Range { sector, sectors };
    // SAFETY: each of these requests reads one range, and nothing else of ours. What is no zoned block
    // device refuses them.
    unsafe {
        match call {
            ZoneCall::Open => ioctl(fd, Setter::<OPEN, Range>::new(range))?,
            ZoneCall::Close => ioctl(fd, Setter::<CLOSE, Range>::new(range))?,
            ZoneCall::Finish => ioctl(fd, Setter::<FINISH, Range>::new(range))?,
            ZoneCall::Reset => ioctl(fd, Setter::<RESET, Range>::new(range))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn the_numbers_are_those_of_linux() {
        assert_eq!(REQUESTS, [0xc010_1282, 0x4010_1283, 0x4010_1286, 0x4010_1287, 0x4010_1288]);
    }

    #[test]
    fn what_has_no_zones_says_so() {
        let file = tempfile::tempfile().unwrap();
        assert!(report(file.as_fd(), 0, 1).is_err());
        assert!(manage(file.as_fd(), ZoneCall::Reset, 0, 8).is_err());
    }
}
