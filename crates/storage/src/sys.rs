//! Where the kernel and raw memory are met. Everything out of here is safe to call.

mod bounce;
mod cached;
mod fd;
mod fetch;
mod gather;
mod guard;
mod map;
mod nvme;
mod ring;
mod zoned;

pub(crate) use bounce::Bounce;
pub(crate) use cached::{CHUNK_BYTES, CHUNK_PAGES, FileMap, PAGE_BYTES};
pub(crate) use fd::{Patience, claim_file, read_at, write_at};
pub(crate) use gather::{BYTES_MAX as CALL_BYTES_MAX, Gathered};
pub use guard::{Access, GuardedMapping};
pub(crate) use map::{Bytes, Words};
pub(crate) use nvme::{
    BLOCKS_MAX as NVME_BLOCKS_MAX, Namespace, NvmeFinished, NvmeResult, NvmeRing, NvmeRings,
    Status as NvmeStatus, format_of, namespace_id, try_out,
};
pub(crate) use ring::{Finished, Ring, Rings, zero_flags};
pub(crate) use zoned::{REQUESTS as ZONE_REQUESTS, RawZone, ZoneCall, manage, report};

use std::ops::Range;

use zvb_ring::Buffers;

use fetch::fetch;

/// One `struct iovec`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct IoVec {
    base: *mut u8,
    len: usize,
}

impl IoVec {
    const NOTHING: Self = Self { base: std::ptr::null_mut(), len: 0 };
}

const _: () = assert!(size_of::<IoVec>() == size_of::<std::io::IoSlice<'static>>());

/// The runs of bytes that `range` of `buffers` covers. What `range` has past their end is left out.
fn runs(buffers: &Buffers, range: Range<u64>) -> impl Iterator<Item = IoVec> + '_ {
    let mut skip = range.start;
    let mut rest = range.end.min(buffers.len()).saturating_sub(range.start);
    buffers.segments().iter().filter_map(move |segment| {
        let len = segment.len() as u64;
        if rest == 0 {
            return None;
        }
        if skip >= len {
            skip -= len;
            return None;
        }
        let run = (len - skip).min(rest);
        // `skip < len`: the pointer stays inside the segment.
        let base = segment.as_ptr().wrapping_add(skip as usize);
        skip = 0;
        rest -= run;
        Some(IoVec { base, len: run as usize })
    })
}

/// How many pages the runs of `range` of `buffers` touch, at most.
pub(crate) fn pages(buffers: &Buffers, range: Range<u64>) -> u64 {
    let page = PAGE_BYTES as usize;
    let of = |v: IoVec| (v.base.addr() % page).saturating_add(v.len).div_ceil(page) as u64;
    runs(buffers, range).map(of).sum()
}

/// True when every run of `range` of `buffers` begins and ends at a multiple of `align` bytes.
pub(crate) fn is_aligned(buffers: &Buffers, range: Range<u64>, align: u32) -> bool {
    let align = align as usize;
    runs(buffers, range).all(|v| (v.base.addr() | v.len).is_multiple_of(align))
}
