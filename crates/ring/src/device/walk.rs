//! From a head to the buffers of its chain (virtio 2.7.5).

use alloc::rc::Rc;
use core::ptr::NonNull;

use zerocopy::transmute;

use super::spares::chain_limit;
use super::{Chain, DeviceQueue};
use crate::error::RingError;
use crate::layout::Descriptor;
use crate::memory::{Buffers, GuestMemory};

/// What of a chain has been walked.
struct Walk<'a> {
    chain: &'a mut Chain,
    /// A writable descriptor was seen, be it an empty one.
    writing: bool,
    /// Descriptors that were followed, but for the one that refers to an indirect table.
    walked: u16,
    limit: u16,
}

impl Walk<'_> {
    /// Counts a descriptor: what ends every walk.
    #[inline(always)]
    fn count(&mut self) -> Result<(), RingError> {
        if self.walked >= self.limit {
            return Err(RingError::ChainTooLong { limit: self.limit });
        }
        self.walked += 1;
        Ok(())
    }

    /// Adds the buffer that `descriptor` describes. An empty one adds nothing, wherever it points.
    #[inline(always)]
    fn add(&mut self, descriptor: &Descriptor) -> Result<(), RingError> {
        let (address, len) = (descriptor.address.get(), descriptor.len.get());
        let buffers = if descriptor.has(Descriptor::WRITE) {
            self.writing = true;
            &mut self.chain.writable
        } else if self.writing {
            return Err(RingError::ReadableAfterWritable);
        } else {
            &mut self.chain.readable
        };
        let before = buffers.len();
        if !buffers.push(address, len) {
            return Err(refusal(before, address, len));
        }
        // Each of the two is below 2^32: no overflow.
        if self.chain.readable.len() + self.chain.writable.len() > u64::from(u32::MAX) {
            return Err(RingError::TooLong);
        }
        Ok(())
    }
}

/// Why `len` bytes at `address` could not be added to buffers of `before` bytes.
#[cold]
fn refusal(before: u64, address: u64, len: u32) -> RingError {
    if before + u64::from(len) > u64::from(u32::MAX) {
        return RingError::TooLong;
    }
    RingError::NotMemory { address, len }
}

impl DeviceQueue {
    /// Fills `chain`, empty but for the number of its head, which is inside the table. The walk ends: each
    /// step is counted.
    #[inline]
    pub(super) fn walk(&mut self, chain: &mut Chain) -> Result<(), RingError> {
        let mut index = chain.head.id;
        let mut walk = Walk { chain, writing: false, walked: 0, limit: self.config.size };
        loop {
            let descriptor = self.parts.descriptor(index);
            if descriptor.has(Descriptor::INDIRECT) {
                walk.limit = chain_limit(self.config.size);
                self.walk_table(&mut walk, &descriptor)?;
                break;
            }
            walk.count()?;
            walk.add(&descriptor)?;
            if !descriptor.has(Descriptor::NEXT) {
                break;
            }
            index = descriptor.next.get();
            if index >= self.config.size {
                let entries = u32::from(self.config.size);
                return Err(RingError::DescriptorOutOfRange { next: index, entries });
            }
        }
        let Chain { readable, writable, head } = chain;
        head.pieces = (readable.segments().len() + writable.segments().len()) as u32;
        // Buffers hold less than 2^32 bytes.
        head.writable = writable.len() as u32;
        Ok(())
    }

    /// Walks the indirect table that `descriptor` refers to, and with it the rest of the chain. The WRITE
    /// flag of `descriptor` means nothing (virtio 2.7.5.3.2).
    fn walk_table(
        &mut self,
        walk: &mut Walk<'_>,
        descriptor: &Descriptor,
    ) -> Result<(), RingError> {
        if !self.config.indirect {
            return Err(RingError::IndirectNotNegotiated);
        }
        if descriptor.has(Descriptor::NEXT) {
            return Err(RingError::IndirectWithNext);
        }
        let table = self.table(descriptor.address.get(), descriptor.len.get())?;
        let mut index = 0;
        loop {
            walk.count()?;
            let Some(descriptor) = table.get(index) else {
                return Err(RingError::DescriptorOutOfRange {
                    next: index,
                    entries: table.entries,
                });
            };
            if descriptor.has(Descriptor::INDIRECT) {
                return Err(RingError::IndirectNested);
            }
            walk.add(&descriptor)?;
            if !descriptor.has(Descriptor::NEXT) {
                break;
            }
            index = descriptor.next.get();
        }
        if let Place::Scattered(buffers) = table.place {
            self.recycle(buffers);
        }
        Ok(())
    }

    /// The indirect table of `len` bytes at guest address `address`.
    fn table(&mut self, address: u64, len: u32) -> Result<Table, RingError> {
        let entries = len / Descriptor::LEN as u32;
        if entries == 0 || !len.is_multiple_of(Descriptor::LEN as u32) {
            return Err(RingError::IndirectLength { len });
        }
        let absent = RingError::NotMemory { address, len };
        let (base, run) = self.memory.translate(address, len.into()).ok_or(absent)?;
        let aligned = base.addr().get().is_multiple_of(align_of::<u32>());
        if aligned && run == u64::from(len) {
            return Ok(Table { place: Place::Run(base, Rc::clone(&self.memory)), entries });
        }
        let mut buffers = Buffers::new(Rc::clone(&self.memory), self.spares.take());
        if !buffers.push(address, len) {
            return Err(absent);
        }
        Ok(Table { place: Place::Scattered(buffers), entries })
    }
}

/// An indirect table (virtio 2.7.5.3).
struct Table {
    place: Place,
    entries: u32,
}

enum Place {
    /// In one run, aligned for us: as good as always. The memory keeps it alive.
    Run(NonNull<u8>, #[expect(dead_code, reason = "held, not used")] Rc<dyn GuestMemory>),
    /// In several runs, or at an odd address, both of which the specification allows.
    Scattered(Buffers),
}

impl Table {
    /// A copy of the descriptor at `index`; `None` when that is outside the table.
    fn get(&self, index: u16) -> Option<Descriptor> {
        if u32::from(index) >= self.entries {
            return None;
        }
        let offset = usize::from(index) * Descriptor::LEN;
        match &self.place {
            // SAFETY: `index` is inside the table, all of which is memory, aligned to 4, and alive with
            // the `GuestMemory` beside it.
            Place::Run(base, _) => Some(unsafe { Descriptor::load(base.as_ptr().add(offset)) }),
            Place::Scattered(buffers) => {
                let mut bytes = [0; Descriptor::LEN];
                buffers.read(offset as u64, &mut bytes).ok()?;
                Some(transmute!(bytes))
            }
        }
    }
}
