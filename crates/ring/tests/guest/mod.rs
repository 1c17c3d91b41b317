//! A guest that writes its ring byte by byte, from the specification's offsets and not from ours.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::rc::Rc;

use zvb_ring::{Buffers, DeviceQueue, GuestMemory, HeapMemory, QueueConfig, SetupError};

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// Where guest memory begins and how long it is.
pub(crate) const BASE: u64 = 0x10_0000;
pub(crate) const LEN: u64 = 0x10_0000;
/// Where buffers of tests may be.
pub(crate) const DATA: u64 = BASE + 0x8_0000;

pub(crate) struct Guest {
    pub(crate) memory: Rc<dyn GuestMemory>,
    pub(crate) size: u16,
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
    /// The available index, as this guest last wrote it.
    pub(crate) index: u16,
}

impl Guest {
    pub(crate) fn new(size: u16) -> Self {
        Self::over(Rc::new(HeapMemory::new(BASE, LEN as usize)), size)
    }

    pub(crate) fn over(memory: Rc<dyn GuestMemory>, size: u16) -> Self {
        let descriptors = BASE + 0x1000;
        let available = descriptors + 16 * u64::from(size);
        let used = (available + 6 + 2 * u64::from(size)).next_multiple_of(4);
        Self { memory, size, descriptors, available, used, index: 0 }
    }

    pub(crate) fn config(&self) -> QueueConfig {
        QueueConfig {
            size: self.size,
            descriptors: self.descriptors,
            available: self.available,
            used: self.used,
            event_index: false,
            indirect: true,
            next_available: 0,
            next_used: 0,
        }
    }

    pub(crate) fn queue(&self) -> DeviceQueue {
        self.queue_with(self.config()).expect("a good queue")
    }

    pub(crate) fn queue_with(&self, config: QueueConfig) -> Result<DeviceQueue, SetupError> {
        DeviceQueue::new(Rc::clone(&self.memory), config)
    }

    fn bytes(&self, address: u64, len: usize) -> Buffers {
        let mut buffers = Buffers::new(Rc::clone(&self.memory), Vec::new());
        assert!(buffers.push(address, len as u32), "the test's own address {address:#x}");
        buffers
    }

    pub(crate) fn write(&self, address: u64, bytes: &[u8]) {
        self.bytes(address, bytes.len()).write(0, bytes).expect("in range");
    }

    pub(crate) fn read(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.bytes(address, len).read(0, &mut bytes).expect("in range");
        bytes
    }

    fn read_u16(&self, address: u64) -> u16 {
        u16::from_le_bytes(self.read(address, 2).try_into().expect("2 bytes"))
    }

    fn read_u32(&self, address: u64) -> u32 {
        u32::from_le_bytes(self.read(address, 4).try_into().expect("4 bytes"))
    }

    /// Writes entry `index` of the table at `table`.
    pub(crate) fn entry(&self, table: u64, index: u16, buffer: (u64, u32), flags: u16, next: u16) {
        let mut bytes = buffer.0.to_le_bytes().to_vec();
        bytes.extend(buffer.1.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.write(table + 16 * u64::from(index), &bytes);
    }

    /// Writes descriptor `index` of the ring.
    pub(crate) fn descriptor(&self, index: u16, buffer: (u64, u32), flags: u16, next: u16) {
        self.entry(self.descriptors, index, buffer, flags, next);
    }

    /// Puts `head` into the available ring and moves the index.
    pub(crate) fn make_available(&mut self, head: u16) {
        let position = u64::from(self.index % self.size);
        self.write(self.available + 4 + 2 * position, &head.to_le_bytes());
        self.set_index(self.index.wrapping_add(1));
    }

    pub(crate) fn set_index(&mut self, index: u16) {
        self.index = index;
        self.write(self.available + 2, &index.to_le_bytes());
    }

    pub(crate) fn set_flags(&self, flags: u16) {
        self.write(self.available, &flags.to_le_bytes());
    }

    pub(crate) fn set_used_event(&self, event: u16) {
        self.write(self.available + 4 + 2 * u64::from(self.size), &event.to_le_bytes());
    }

    pub(crate) fn used_index(&self) -> u16 {
        self.read_u16(self.used + 2)
    }

    pub(crate) fn set_used_index(&self, index: u16) {
        self.write(self.used + 2, &index.to_le_bytes());
    }

    pub(crate) fn used_flags(&self) -> u16 {
        self.read_u16(self.used)
    }

    pub(crate) fn available_event(&self) -> u16 {
        self.read_u16(self.used + 4 + 8 * u64::from(self.size))
    }

    /// The used element at `position`: id and length.
    pub(crate) fn used_element(&self, position: u16) -> (u32, u32) {
        let at = self.used + 4 + 8 * u64::from(position % self.size);
        (self.read_u32(at), self.read_u32(at + 4))
    }

    pub(crate) fn set_used_element(&self, position: u16, id: u32, len: u32) {
        let at = self.used + 4 + 8 * u64::from(position % self.size);
        self.write(at, &id.to_le_bytes());
        self.write(at + 4, &len.to_le_bytes());
    }
}
