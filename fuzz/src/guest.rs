//! Guest memory that can be looked at and written to from outside.

use std::ptr::NonNull;
use std::rc::Rc;

use zvb_ring::{Buffers, GuestMemory, HeapMemory};

/// Some regions of memory, each with a gap behind it.
pub(crate) struct Regions(Vec<(u64, u64, HeapMemory)>);

impl Regions {
    /// Regions that begin at these addresses and are so long (a multiple of 8), zeroed.
    pub(crate) fn new(regions: &[(u64, u64)]) -> Rc<Self> {
        let heap = |(base, len): &(u64, u64)| (*base, *len, HeapMemory::new(*base, *len as usize));
        Rc::new(Self(regions.iter().map(heap).collect()))
    }

    /// The bytes at `address`, as buffers; `None` where not all of them are memory.
    pub(crate) fn at(self: &Rc<Self>, address: u64, len: usize) -> Option<Buffers> {
        let mut buffers = Buffers::new(Rc::<Self>::clone(self), Vec::new());
        buffers.push(address, u32::try_from(len).ok()?).then_some(buffers)
    }

    /// Writes `bytes`, if all of them have a place.
    pub(crate) fn poke(self: &Rc<Self>, address: u64, bytes: &[u8]) -> bool {
        self.at(address, bytes.len()).is_some_and(|buffers| buffers.write(0, bytes).is_ok())
    }

    /// Makes it all zero again.
    pub(crate) fn clear(self: &Rc<Self>) {
        for (base, len, _) in &self.0 {
            let buffers = self.at(*base, *len as usize).expect("a region is memory");
            buffers.zero(0, *len).expect("all of it");
        }
    }

    /// A copy of everything.
    pub(crate) fn snapshot(self: &Rc<Self>) -> Snapshot {
        let copy = |(base, len, _): &(u64, u64, HeapMemory)| {
            let mut bytes = vec![0; *len as usize];
            let buffers = self.at(*base, bytes.len()).expect("a region is memory");
            buffers.read(0, &mut bytes).expect("all of it");
            (*base, bytes)
        };
        Snapshot(self.0.iter().map(copy).collect())
    }
}

// SAFETY: what is returned comes from a `HeapMemory` that lives as long as `self`.
#[expect(unsafe_code, reason = "a promise that is passed on")]
unsafe impl GuestMemory for Regions {
    fn translate(&self, address: u64, len: u64) -> Option<(NonNull<u8>, u64)> {
        self.0.iter().find_map(|(_, _, heap)| heap.translate(address, len))
    }
}

/// Bytes that are compared at once, since most are the same.
const CHUNK: usize = 64;

/// What memory held at some moment.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Snapshot(pub(crate) Vec<(u64, Vec<u8>)>);

impl Snapshot {
    /// The `len` bytes at `address`; `None` where not all of them are memory of one region.
    pub(crate) fn get(&self, address: u64, len: u64) -> Option<&[u8]> {
        self.0.iter().find_map(|(base, bytes)| {
            let from = usize::try_from(address.checked_sub(*base)?).ok()?;
            bytes.get(from..from.checked_add(usize::try_from(len).ok()?)?)
        })
    }

    pub(crate) fn u16(&self, address: u64) -> Option<u16> {
        Some(u16::from_le_bytes(self.get(address, 2)?.try_into().ok()?))
    }

    pub(crate) fn u32(&self, address: u64) -> Option<u32> {
        Some(u32::from_le_bytes(self.get(address, 4)?.try_into().ok()?))
    }

    pub(crate) fn u64(&self, address: u64) -> Option<u64> {
        Some(u64::from_le_bytes(self.get(address, 8)?.try_into().ok()?))
    }

    /// Writes `bytes` over what was there, where there is memory.
    pub(crate) fn put(&mut self, address: u64, bytes: &[u8]) {
        for (base, region) in &mut self.0 {
            let Some(from) = address.checked_sub(*base).and_then(|at| usize::try_from(at).ok())
            else {
                continue;
            };
            if let Some(place) =
                from.checked_add(bytes.len()).and_then(|to| region.get_mut(from..to))
            {
                place.copy_from_slice(bytes);
            }
        }
    }

    /// Says where `other` differs, if it does outside of `allowed` (start and length).
    pub(crate) fn differs(&self, other: &Self, allowed: &[(u64, u64)]) -> Option<u64> {
        for ((base, mine), (_, theirs)) in self.0.iter().zip(&other.0) {
            if mine == theirs {
                continue;
            }
            let chunks = (*base..).step_by(CHUNK).zip(mine.chunks(CHUNK).zip(theirs.chunks(CHUNK)));
            for (start, (a, b)) in chunks.filter(|(_, (a, b))| a != b) {
                let differing = (start..).zip(a.iter().zip(b)).filter(|(_, (a, b))| a != b);
                for (at, _) in differing {
                    let inside = |(from, len): &(u64, u64)| at.wrapping_sub(*from) < *len;
                    if !allowed.iter().any(inside) {
                        return Some(at);
                    }
                }
            }
        }
        None
    }
}
