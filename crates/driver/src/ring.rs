//! A ring of the driver's, with the memory that it lies in.

// UNSAFETY: the ring's constructor wants a promise about that memory.
#![expect(unsafe_code, reason = "the ring rests on memory, and this is where the two meet")]

use zvb_ring::{
    AddError, DeviceLie, DriverConfig, DriverQueue, IndirectTables, Part, SetupError, SharedArea,
    Used, layout, tables_len,
};
use zvb_wire::Features;

use crate::dma::{NoMemory, Region};
use crate::info::Info;
use crate::transport::{Dma, QueueLayout};

/// Why a ring could not be made.
pub(crate) enum RingError {
    NoMemory(NoMemory),
    Setup(SetupError),
}

impl From<NoMemory> for RingError {
    fn from(error: NoMemory) -> Self {
        Self::NoMemory(error)
    }
}

impl From<SetupError> for RingError {
    fn from(error: SetupError) -> Self {
        Self::Setup(error)
    }
}

/// A ring, and what it lies in. The ring goes first: it must not outlive its memory.
pub(crate) struct Ring<D: Dma> {
    queue: DriverQueue,
    depth: u16,
    memory: Region<D>,
    tables: Option<Region<D>>,
}

impl<D: Dma> Ring<D> {
    /// A ring of `size` descriptors, with room for a table per request where INDIRECT_DESC was accepted.
    pub(crate) fn new(dma: &D, info: &Info, size: u16) -> Result<Self, RingError> {
        let bytes = layout(size).ok_or(SetupError::Size { size })?.bytes;
        let memory = Region::new(dma, bytes, 4096)?;
        // `segments_max` is below the size of the smallest queue, less a header and a status.
        let entries = info.segments_max() as u16 + 2;
        let indirect = info.features.contains(Features::INDIRECT_DESC);
        let tables = match indirect {
            true => Some(Region::new(dma, tables_len(size, entries), 64)?),
            false => None,
        };
        let config = DriverConfig {
            size,
            event_index: info.features.contains(Features::EVENT_IDX),
            tables: tables.as_ref().map(|tables| IndirectTables { area: area(tables), entries }),
        };
        // SAFETY: both regions are as long as the ring asks for, and zeroed; they are memory that any
        // thread can reach through `host` (the promise of `Dma`), and `Ring`, which alone uses them, owns
        // them and drops the queue before them.
        let mut queue = unsafe { DriverQueue::new(area(&memory), config)? };
        queue.pause_notifications();
        // Without tables a request takes a descriptor for its header, its data and its status each.
        let depth = if indirect { size } else { size / 3 };
        Ok(Self { queue, depth, memory, tables })
    }

    /// Where the device finds it.
    pub(crate) fn layout(&self) -> QueueLayout {
        QueueLayout {
            size: self.queue.size(),
            descriptors: self.queue.address(Part::Descriptors),
            available: self.queue.address(Part::Available),
            used: self.queue.address(Part::Used),
        }
    }

    /// How many requests fit.
    pub(crate) fn depth(&self) -> u16 {
        self.depth
    }

    /// True when a request of so many segments, both ways, can be added.
    pub(crate) fn has_room(&self, segments: usize) -> bool {
        let needed = if self.tables.is_some() { 1 } else { segments };
        needed <= usize::from(self.queue.free_descriptors())
    }

    /// Adds a request by what the device reads and what it writes, each at an address and of a length.
    pub(crate) fn add(
        &mut self,
        readable: &[(u64, u32)],
        writable: &[(u64, u32)],
    ) -> Result<u16, AddError> {
        self.queue.add(readable, writable)
    }

    /// Shows the device what was added. True: it wants to be notified.
    pub(crate) fn publish(&mut self) -> bool {
        self.queue.publish()
    }

    /// The next answer.
    pub(crate) fn pop_used(&mut self) -> Result<Option<Used>, DeviceLie> {
        self.queue.pop_used()
    }

    /// Asks for a signal about the next answer. True: there is one already.
    pub(crate) fn resume_signals(&mut self) -> bool {
        self.queue.resume_notifications()
    }

    /// Asks for no more signals.
    pub(crate) fn pause_signals(&mut self) {
        self.queue.pause_notifications();
    }

    /// Never gives the memory back.
    pub(crate) fn leak(self) {
        self.memory.leak();
        self.tables.into_iter().for_each(Region::leak);
    }
}

fn area<D: Dma>(region: &Region<D>) -> SharedArea {
    SharedArea { host: region.host(), device: region.device(0) }
}
