//! A frontend's memory: the regions it shares, mapped here, as guest memory for queues.
//!
//! The frontend keeps the files behind its memory and may do anything to them at any time. Bytes may
//! change while we look, which [`zvb_ring`] is made for. A file may also be *cut short*, and a touch of
//! what is gone then raises SIGBUS. So a file that can be sealed against that is sealed; and where it
//! can not be, a SIGBUS inside a region puts empty memory in its place, the region is marked as lost
//! ([`Memory::is_lost`]), and the session ends: the process lives.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

use rustix::fs::{FileType, SealFlags, Stat, fcntl_add_seals, fcntl_get_seals, fstat};

use zvb_ring::GuestMemory;
use zvb_storage::{Access, GuardedMapping};

use crate::worker::Space;

/// The most regions at a time.
pub const MAX_REGIONS: usize = 512;

/// What guest address and host address of a region must agree in: the strictest alignment of any part
/// of a queue, in bytes (virtio 2.7).
const COMMON_ALIGNMENT: u64 = 16;

/// The largest huge page of any host that we know of: 16 GiB.
const LARGEST_PAGE: u64 = 1 << 34;

/// One region as the frontend describes it; all in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// Where the guest sees it.
    pub guest: u64,
    /// How long it is.
    pub bytes: u64,
    /// Where the frontend has it mapped: what SET_VRING_ADDR speaks of.
    pub user: u64,
    /// Where it begins in its file.
    pub offset: u64,
}

/// Why memory can not be what the frontend says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// A region of no bytes.
    #[error("the region at guest address {guest:#x} is empty")]
    Empty {
        /// Guest address.
        guest: u64,
    },
    /// A region that runs past the end of an address space or of what a file can hold.
    #[error(
        "the region of {bytes:#x} bytes at guest address {guest:#x} passes the end of the address space"
    )]
    Wraps {
        /// Guest address.
        guest: u64,
        /// Its length in bytes.
        bytes: u64,
    },
    /// Two regions share addresses.
    #[error("the region at guest address {guest:#x} overlaps the one at {other:#x}")]
    Overlap {
        /// Guest address of the new one.
        guest: u64,
        /// Guest address of the one that was there.
        other: u64,
    },
    /// Guest address and place in the file disagree in their lowest bits.
    #[error(
        "the region at guest address {guest:#x} begins at {offset:#x} of its file: they differ modulo {COMMON_ALIGNMENT}"
    )]
    Misaligned {
        /// Guest address.
        guest: u64,
        /// Bytes from the start of the file.
        offset: u64,
    },
    /// There is no room for another.
    #[error("there are {MAX_REGIONS} regions already, the most there can be")]
    TooMany,
    /// The descriptor is no file of a known size.
    #[error("the memory at guest address {guest:#x} is no regular file but {kind:?}")]
    NotAFile {
        /// Guest address.
        guest: u64,
        /// What it is.
        kind: FileType,
    },
    /// The file ends before the region does.
    #[error(
        "the region at guest address {guest:#x} needs a file of {needs:#x} bytes, and it has {has:#x}"
    )]
    FileTooShort {
        /// Guest address.
        guest: u64,
        /// Bytes.
        needs: u64,
        /// Bytes.
        has: u64,
    },
    /// The host would not map it.
    #[error("cannot map the region at guest address {guest:#x}")]
    Map {
        /// Guest address.
        guest: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A region to be removed is not there.
    #[error("there is no region of {bytes:#x} bytes at guest address {guest:#x}")]
    NotThere {
        /// Guest address.
        guest: u64,
        /// Its length in bytes.
        bytes: u64,
    },
}

/// A mapped region.
#[derive(Clone)]
struct Mapped {
    region: Region,
    /// Bytes from the start of the mapping to the start of the region.
    skip: usize,
    mapping: Arc<GuardedMapping>,
}

/// All regions of one frontend. It never changes: [`with`](Self::with) and [`without`](Self::without)
/// make another, which shares what stays.
#[derive(Clone, Default)]
pub struct Memory {
    /// By guest address; none overlap.
    regions: Vec<Mapped>,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.regions.iter().map(|mapped| mapped.region)).finish()
    }
}

impl Memory {
    /// No memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many regions there are.
    pub fn len(&self) -> usize {
        self.regions.len()
    }

    /// True without any region.
    pub fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }

    /// These regions and `region`, which lies in `file`.
    pub fn with(&self, region: Region, file: OwnedFd) -> Result<Self, MemoryError> {
        let at = self.place_for(&region)?;
        let mapped = map(region, &file)?;
        let mut regions = self.regions.clone();
        regions.insert(at, mapped);
        Ok(Self { regions })
    }

    /// These regions without `region`. Where it lies in its file is not looked at: not every frontend
    /// says it again.
    pub fn without(&self, region: &Region) -> Result<Self, MemoryError> {
        let same = |mapped: &Mapped| {
            let r = &mapped.region;
            r.guest == region.guest && r.bytes == region.bytes && r.user == region.user
        };
        let mut regions = self.regions.clone();
        regions.retain(|mapped| !same(mapped));
        if regions.len() == self.regions.len() {
            return Err(MemoryError::NotThere { guest: region.guest, bytes: region.bytes });
        }
        Ok(Self { regions })
    }

    /// The guest address of what the frontend has at `user`.
    pub fn guest_address(&self, user: u64) -> Option<u64> {
        self.regions.iter().find_map(|mapped| {
            let offset = user.checked_sub(mapped.region.user)?;
            (offset < mapped.region.bytes).then(|| mapped.region.guest + offset)
        })
    }

    /// True when the frontend has cut one of the files short, and a queue ran into it.
    pub fn is_lost(&self) -> bool {
        self.regions.iter().any(|mapped| mapped.mapping.is_lost())
    }

    /// Where `region` goes in the order of guest addresses, when it may be there at all.
    fn place_for(&self, region: &Region) -> Result<usize, MemoryError> {
        let Region { guest, bytes, user, offset } = *region;
        if bytes == 0 {
            return Err(MemoryError::Empty { guest });
        }
        if [guest, user, offset].iter().any(|start| start.checked_add(bytes).is_none()) {
            return Err(MemoryError::Wraps { guest, bytes });
        }
        if guest % COMMON_ALIGNMENT != offset % COMMON_ALIGNMENT {
            return Err(MemoryError::Misaligned { guest, offset });
        }
        if self.regions.len() >= MAX_REGIONS {
            return Err(MemoryError::TooMany);
        }
        let overlaps = |a: u64, b: u64, b_bytes: u64| a < b + b_bytes && b < a + bytes;
        for Mapped { region: other, .. } in &self.regions {
            if overlaps(guest, other.guest, other.bytes) || overlaps(user, other.user, other.bytes)
            {
                return Err(MemoryError::Overlap { guest, other: other.guest });
            }
        }
        Ok(self.regions.partition_point(|mapped| mapped.region.guest < guest))
    }

    /// The index of the region that `address` is in.
    fn region_of(&self, address: u64) -> Option<usize> {
        let after = self.regions.partition_point(|mapped| mapped.region.guest <= address);
        let at = after.checked_sub(1)?;
        self.regions[at].offset_of(address).map(|_| at)
    }
}

impl Mapped {
    /// Bytes from the start of the region to `address`, when that is inside.
    fn offset_of(&self, address: u64) -> Option<u64> {
        let offset = address.checked_sub(self.region.guest)?;
        (offset < self.region.bytes).then_some(offset)
    }

    fn run(&self, offset: u64, len: u64) -> Option<(NonNull<u8>, u64)> {
        let run = (self.region.bytes - offset).min(len);
        // The whole region is mapped: both fit `usize`.
        let first = self.skip + offset as usize;
        Some((self.mapping.piece(first, run as usize)?, run))
    }
}

/// Maps `region` of `file`, sealed against being cut short where that can be had.
fn map(region: Region, file: &OwnedFd) -> Result<Mapped, MemoryError> {
    let Region { guest, bytes, offset, .. } = region;
    let failed = |source: io::Error| MemoryError::Map { guest, source };
    let wraps = MemoryError::Wraps { guest, bytes };
    seal(file);
    let stat = fstat(file).map_err(|e| failed(e.into()))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::RegularFile {
        return Err(MemoryError::NotAFile { guest, kind });
    }
    let has = u64::try_from(stat.st_size).unwrap_or(0);
    let Some(needs) = offset.checked_add(bytes) else { return Err(wraps) };
    if needs > has {
        return Err(MemoryError::FileTooShort { guest, needs, has });
    }
    let page = page_bytes(&stat);
    let start = offset - offset % page;
    let Some(end) = needs.checked_next_multiple_of(page) else { return Err(wraps) };
    let Ok(len) = usize::try_from(end - start) else { return Err(wraps) };
    let mapping = GuardedMapping::new(file.as_fd(), start, len, Access::Write).map_err(failed)?;
    // Less than a page.
    let skip = (offset - start) as usize;
    Ok(Mapped { region, skip, mapping: Arc::new(mapping) })
}

/// Forbids cutting the file short, where it can be sealed at all.
fn seal(file: &OwnedFd) {
    let sealed = fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SealFlags::SHRINK));
    if !sealed {
        // Refused for most files, and for memory that was made without leave to seal: the guard of the
        // mapping is there for those.
        let _ = fcntl_add_seals(file, SealFlags::SHRINK);
    }
}

/// What offsets and lengths of mappings of the file must be multiples of, in bytes: on hugetlbfs whole
/// huge pages, which is the block size that it tells. Elsewhere a block above a page does no harm.
fn page_bytes(stat: &Stat) -> u64 {
    let small = rustix::param::page_size() as u64;
    let block = u64::try_from(stat.st_blksize).unwrap_or(0);
    let fits = block.is_power_of_two() && block <= LARGEST_PAGE;
    if fits { block.max(small) } else { small }
}

impl Space for Memory {
    fn view(self: Arc<Self>) -> Rc<dyn GuestMemory> {
        Rc::new(MemoryView::new(self))
    }

    fn is_lost(&self) -> bool {
        self.is_lost()
    }
}

/// [`Memory`] for the queues of one thread: it remembers the region that was hit last.
#[derive(Debug)]
pub struct MemoryView {
    memory: Arc<Memory>,
    last: Cell<usize>,
}

impl MemoryView {
    /// A view of `memory`, which lives as long as the view.
    pub fn new(memory: Arc<Memory>) -> Self {
        Self { memory, last: Cell::new(0) }
    }

    /// What [`zvb_ring::GuestMemory::translate`] answers.
    pub(crate) fn find(&self, address: u64, len: u64) -> Option<(NonNull<u8>, u64)> {
        if len == 0 {
            return None;
        }
        let regions = &self.memory.regions;
        if let Some(mapped) = regions.get(self.last.get())
            && let Some(offset) = mapped.offset_of(address)
        {
            return mapped.run(offset, len);
        }
        let at = self.memory.region_of(address)?;
        self.last.set(at);
        let mapped = &regions[at];
        mapped.run(mapped.offset_of(address)?, len)
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use rustix::io::{Errno, pread, pwrite};
    use zvb_ring::Buffers;

    use super::*;

    fn file(bytes: u64, flags: MemfdFlags) -> OwnedFd {
        let file = memfd_create("test", MemfdFlags::CLOEXEC | flags).unwrap();
        ftruncate(&file, bytes).unwrap();
        file
    }

    fn region(guest: u64, bytes: u64, user: u64, offset: u64) -> Region {
        Region { guest, bytes, user, offset }
    }

    fn buffers(memory: &Memory, address: u64, len: u32) -> Option<Buffers> {
        let view = Rc::new(MemoryView::new(Arc::new(memory.clone())));
        let mut buffers = Buffers::new(view, Vec::new());
        buffers.push(address, len).then_some(buffers)
    }

    #[test]
    fn bytes_are_found_across_regions_and_not_past_them() {
        let (a, b) = (file(0x3000, MemfdFlags::empty()), file(0x2000, MemfdFlags::empty()));
        let memory = Memory::new()
            .with(region(0x12000, 0x1000, 0x7000_0000, 0x1000), b.try_clone().unwrap())
            .unwrap()
            .with(region(0x10230, 0x1dd0, 0x5000_0230, 0x230), a.try_clone().unwrap())
            .unwrap();
        // The end of the one and the start of the other.
        let across = buffers(&memory, 0x11ffc, 8).unwrap();
        assert_eq!(across.segments().len(), 2);
        across.write(0, b"abcdefgh").unwrap();
        let mut bytes = [0; 4];
        pread(&a, &mut bytes, 0x1ffc).unwrap();
        assert_eq!(&bytes, b"abcd");
        pread(&b, &mut bytes, 0x1000).unwrap();
        assert_eq!(&bytes, b"efgh");
        for (address, len) in [(0x1022f, 1), (0x13000, 1), (0x12fff, 2), (0, 1), (u64::MAX, 1)] {
            assert!(buffers(&memory, address, len).is_none(), "{address:#x}");
        }
        let view = MemoryView::new(Arc::new(memory.clone()));
        for address in [0x12fff, 0x10230, 0x10230, 0x12000, 0x11fff, 0x12000] {
            assert_eq!(view.translate(address, 1).unwrap().1, 1);
            assert!(view.translate(0x13000, 1).is_none() && view.translate(address, 0).is_none());
        }
        assert_eq!(memory.guest_address(0x5000_0231), Some(0x10231));
        assert_eq!(memory.guest_address(0x7000_0fff), Some(0x12fff));
        assert_eq!(memory.guest_address(0x7000_1000), None);
    }

    #[test]
    fn what_is_taken_away_stays_for_those_who_have_it() {
        let a = file(0x1000, MemfdFlags::empty());
        let whole = region(0, 0x1000, 0, 0);
        let memory = Memory::new().with(whole, a.try_clone().unwrap()).unwrap();
        let kept = buffers(&memory, 0, 4).unwrap();
        let without = memory.without(&whole).unwrap();
        drop(memory);
        assert!(without.is_empty() && buffers(&without, 0, 4).is_none());
        pwrite(&a, b"here", 0).unwrap();
        let mut bytes = [0; 4];
        kept.read(0, &mut bytes).unwrap();
        assert_eq!(&bytes, b"here");
        assert!(matches!(without.without(&whole), Err(MemoryError::NotThere { .. })));
    }

    #[test]
    fn memory_that_can_be_sealed_can_not_be_cut_short() {
        let a = file(0x2000, MemfdFlags::ALLOW_SEALING);
        let _memory = Memory::new().with(region(0, 0x2000, 0, 0), a.try_clone().unwrap()).unwrap();
        assert_eq!(ftruncate(&a, 0x1000), Err(Errno::PERM));
        ftruncate(&a, 0x4000).unwrap();
    }

    #[test]
    fn memory_that_is_cut_short_reads_as_empty_and_is_known_to_be_lost() {
        let a = file(0x4000, MemfdFlags::empty());
        let b = file(0x1000, MemfdFlags::empty());
        pwrite(&a, &[7; 0x4000], 0).unwrap();
        pwrite(&b, b"safe", 0).unwrap();
        let memory = Memory::new()
            .with(region(0, 0x4000, 0, 0), a.try_clone().unwrap())
            .unwrap()
            .with(region(0x10000, 0x1000, 0x10000, 0), b)
            .unwrap();
        ftruncate(&a, 0x1000).unwrap();
        let mut byte = [1];
        buffers(&memory, 0xfff, 1).unwrap().read(0, &mut byte).unwrap();
        assert!(byte == [7] && !memory.is_lost());
        buffers(&memory, 0x3000, 1).unwrap().read(0, &mut byte).unwrap();
        assert!(byte == [0] && memory.is_lost());
        buffers(&memory, 0x2000, 1).unwrap().write(0, b"x").unwrap();
        let mut other = [0; 4];
        buffers(&memory, 0x10000, 4).unwrap().read(0, &mut other).unwrap();
        assert_eq!(&other, b"safe");
    }

    #[test]
    fn guards_are_given_back() {
        let a = file(0x1000, MemfdFlags::empty());
        for _ in 0..5000 {
            Memory::new().with(region(0, 0x1000, 0, 0), a.try_clone().unwrap()).unwrap();
        }
    }
}
