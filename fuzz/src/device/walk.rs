//! Where a device may write, found out from the ring by a walk that is not the device's.

use crate::guest::Snapshot;

/// Where the parts of the ring are in every input.
pub(super) const DESCRIPTORS: u64 = 0;
pub(super) const AVAILABLE: u64 = 0x800;
pub(super) const USED: u64 = 0xc00;

/// Bytes of a used ring.
pub(super) fn used_bytes(size: u16) -> u64 {
    6 + 8 * u64::from(size)
}

/// What chains say of memory.
#[derive(Default)]
pub(super) struct Walk {
    /// Runs that may be written (start, length).
    pub(super) writable: Vec<(u64, u64)>,
    /// Runs that say where that is: descriptors, direct and indirect, and the available ring.
    described_by: Vec<(u64, u64)>,
    /// For each head, in order, the writable bytes of its chain.
    pub(super) heads: Vec<(u16, u64)>,
}

impl Walk {
    /// Walks the chains from available index `next` on. Where a chain is broken the walk goes on as far
    /// as it can: it finds more than the device may take, and never less.
    pub(super) fn new(memory: &Snapshot, size: u16, next: u16) -> Self {
        let mut walk = Self::default();
        walk.described_by.push((DESCRIPTORS, 16 * u64::from(size)));
        walk.described_by.push((AVAILABLE, 6 + 2 * u64::from(size)));
        walk.described_by.push((USED, used_bytes(size)));
        let index = memory.u16(AVAILABLE + 2).unwrap_or(next);
        for i in 0..index.wrapping_sub(next).min(size) {
            let slot = u64::from(next.wrapping_add(i) % size);
            let Some(head) = memory.u16(AVAILABLE + 4 + 2 * slot) else { break };
            let before = walk.writable.len();
            walk.table(memory, DESCRIPTORS, u64::from(size), head, true);
            let bytes = walk.writable[before..].iter().map(|(_, len)| len).sum();
            walk.heads.push((head, bytes));
        }
        walk
    }

    fn table(&mut self, memory: &Snapshot, at: u64, entries: u64, first: u16, direct: bool) {
        let mut index = u64::from(first);
        for _ in 0..2048 {
            if index >= entries {
                return;
            }
            let Some(address) = at.checked_add(16 * index) else { return };
            let (Some(to), Some(len), Some(flags), Some(next)) = (
                memory.u64(address),
                memory.u32(address.wrapping_add(8)),
                memory.u16(address.wrapping_add(12)),
                memory.u16(address.wrapping_add(14)),
            ) else {
                return;
            };
            if flags & 4 != 0 {
                if direct {
                    self.described_by.push((to, len.into()));
                    self.table(memory, to, u64::from(len) / 16, 0, false);
                }
                return;
            }
            if flags & 2 != 0 {
                self.writable.push((to, len.into()));
            }
            if flags & 1 == 0 {
                return;
            }
            index = next.into();
        }
    }

    /// True when a device that does as it is told writes over what says where it may write, so that
    /// nothing can be said of where that is.
    pub(super) fn writes_over_itself(&self) -> bool {
        let meet = |(a, n): (u64, u64), (b, m): (u64, u64)| {
            n > 0 && m > 0 && a < b.saturating_add(m) && b < a.saturating_add(n)
        };
        self.writable.iter().any(|w| self.described_by.iter().any(|d| meet(*w, *d)))
    }
}
