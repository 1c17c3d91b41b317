//! A transport that changes what a device answers, before anybody sees it.
// UNSAFETY: the liar reads and writes the rings and buffers of the run, at the addresses of its allocator.
#![allow(unsafe_code, reason = "a test that changes shared memory")]

use std::cell::Cell;
use std::sync::{Arc, Mutex};

use zvb_driver::{Dma, DmaRegion, QueueLayout, Transport};
use zvb_host::client::{ClientError, SharedMemory, VhostUser};
use zvb_wire::{DeviceStatus, Features, RequestType, Status};

/// Remembers where memory is.
#[derive(Clone)]
pub struct Recorder {
    inner: SharedMemory,
    regions: Arc<Mutex<Vec<(u64, usize, usize)>>>,
}

impl Recorder {
    pub fn new(inner: SharedMemory) -> Self {
        Self { inner, regions: Arc::default() }
    }

    pub fn shared(&self) -> SharedMemory {
        self.inner.clone()
    }

    /// The bytes at a device address.
    fn bytes(&self, device: u64, len: usize) -> *mut u8 {
        let regions = self.regions.lock().unwrap();
        let inside =
            |base: u64, size: usize| device >= base && device + len as u64 <= base + size as u64;
        let (base, host, _) = *regions
            .iter()
            .find(|(base, _, size)| inside(*base, *size))
            .expect("the run told the device an address that is not its own");
        (host + (device - base) as usize) as *mut u8
    }

    fn read(&self, device: u64, len: usize) -> Vec<u8> {
        let from = self.bytes(device, len);
        // SAFETY: `bytes` has found the range in a region that is allocated and never freed meanwhile (the
        // run frees its area at its end); bytes are read one by one, volatile, as the device writes there.
        (0..len).map(|i| unsafe { from.add(i).read_volatile() }).collect()
    }

    fn write(&self, device: u64, bytes: &[u8]) {
        let to = self.bytes(device, bytes.len());
        for (i, byte) in bytes.iter().enumerate() {
            // SAFETY: as above; the run is inside `notify`, on this thread, and the device is idle.
            unsafe { to.add(i).write_volatile(*byte) }
        }
    }

    fn read_u16(&self, device: u64) -> u16 {
        u16::from_le_bytes(self.read(device, 2).try_into().unwrap())
    }

    fn read_u32(&self, device: u64) -> u32 {
        u32::from_le_bytes(self.read(device, 4).try_into().unwrap())
    }

    fn read_u64(&self, device: u64) -> u64 {
        u64::from_le_bytes(self.read(device, 8).try_into().unwrap())
    }
}

// SAFETY: all is passed on to `SharedMemory`, which keeps the promise.
unsafe impl Dma for Recorder {
    fn alloc(&self, len: usize, align: usize) -> Option<DmaRegion> {
        let region = self.inner.alloc(len, align)?;
        let host = region.host.as_ptr() as usize;
        self.regions.lock().unwrap().push((region.device, host, region.len));
        Some(region)
    }

    unsafe fn free(&self, region: DmaRegion) {
        self.regions.lock().unwrap().retain(|(device, ..)| *device != region.device);
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.free(region) }
    }
}

/// One request and its answer, to be changed.
pub struct Exchange {
    pub kind: RequestType,
    pub sector: u64,
    /// Descriptors of the chain.
    pub descriptors: usize,
    /// The readable bytes behind the header.
    pub out: Vec<u8>,
    /// Everything writable but the status.
    pub data: Vec<u8>,
    pub status: Status,
    pub used: u32,
}

/// What is changed.
#[derive(Clone, Copy, Default)]
pub struct Lie {
    pub answer: Option<fn(&mut Exchange)>,
    /// Of the configuration space: offset and byte.
    pub config: Option<fn(u32, &mut [u8])>,
    pub features: Features,
    /// Set in the status although the device has not.
    pub status: DeviceStatus,
    /// So many times the status does not say that a reset is needed, though it is.
    pub late: u32,
    /// Signals do not come through.
    pub deaf: bool,
    /// A queue that is to be reset alone goes on.
    pub keeps_queue: bool,
}

pub struct Liar {
    pub inner: VhostUser,
    pub memory: Recorder,
    pub lie: Lie,
    queue: Option<QueueLayout>,
    seen: Cell<u16>,
    hidden: u32,
}

impl Liar {
    pub fn new(inner: VhostUser, memory: Recorder, lie: Lie) -> Self {
        Self { inner, memory, lie, queue: None, seen: Cell::new(0), hidden: 0 }
    }

    /// Waits until the device has answered everything, and changes the answers.
    fn tamper(&self) {
        let (Some(queue), Some(answer)) = (self.queue, self.lie.answer) else { return };
        let available = self.memory.read_u16(queue.available + 2);
        for _ in 0..2000 {
            if self.memory.read_u16(queue.used + 2) == available {
                break;
            }
            let _ = self.inner.wait(0, Some(1));
        }
        while self.seen.get() != self.memory.read_u16(queue.used + 2) {
            let entry = queue.used + 4 + 8 * u64::from(self.seen.get() % queue.size);
            self.seen.set(self.seen.get().wrapping_add(1));
            let head = self.memory.read_u32(entry);
            self.change(&queue, head, entry + 4, answer);
        }
    }

    fn change(&self, queue: &QueueLayout, head: u32, used_at: u64, answer: fn(&mut Exchange)) {
        let (mut readable, mut writable) = (Vec::new(), Vec::new());
        let (mut table, mut index, mut descriptors) = (queue.descriptors, u64::from(head), 0);
        loop {
            let at = table + 16 * index;
            let (address, len) = (self.memory.read_u64(at), self.memory.read_u32(at + 8));
            let flags = self.memory.read_u16(at + 12);
            descriptors += 1;
            if flags & 4 != 0 {
                (table, index) = (address, 0);
                continue;
            }
            let list = if flags & 2 == 0 { &mut readable } else { &mut writable };
            list.extend((0..u64::from(len)).map(|i| address + i));
            if flags & 1 == 0 {
                break;
            }
            index = self.memory.read_u16(at + 14).into();
        }
        let byte = |at: &u64| self.memory.read(*at, 1)[0];
        let header: Vec<u8> = readable.iter().take(16).map(byte).collect();
        let mut data: Vec<u8> = writable.iter().map(byte).collect();
        let status = Status(data.pop().unwrap());
        let mut exchange = Exchange {
            kind: RequestType(u32::from_le_bytes(header[..4].try_into().unwrap())),
            sector: u64::from_le_bytes(header[8..].try_into().unwrap()),
            descriptors,
            out: readable.iter().skip(16).map(byte).collect(),
            data,
            status,
            used: self.memory.read_u32(used_at),
        };
        answer(&mut exchange);
        for (at, byte) in readable.iter().skip(16).zip(&exchange.out) {
            self.memory.write(*at, &[*byte]);
        }
        let input = exchange.data.iter().chain([&exchange.status.0]);
        for (at, byte) in writable.iter().zip(input) {
            self.memory.write(*at, &[*byte]);
        }
        self.memory.write(used_at, &exchange.used.to_le_bytes());
    }
}

impl Transport for Liar {
    type Error = ClientError;

    fn reset(&mut self) -> Result<(), ClientError> {
        self.queue = None;
        self.inner.reset()
    }

    fn status(&mut self) -> Result<DeviceStatus, ClientError> {
        let status = self.inner.status()?;
        if status.contains(DeviceStatus::NEEDS_RESET) && self.hidden < self.lie.late {
            self.hidden += 1;
            return Ok(status.difference(DeviceStatus::NEEDS_RESET));
        }
        Ok(status | self.lie.status)
    }

    fn set_status(&mut self, status: DeviceStatus) -> Result<(), ClientError> {
        self.inner.set_status(status)
    }

    fn device_features(&mut self) -> Result<Features, ClientError> {
        Ok(self.inner.device_features()?.symmetric_difference(self.lie.features))
    }

    fn set_driver_features(&mut self, features: Features) -> Result<(), ClientError> {
        let known = self.inner.device_features()?;
        self.inner.set_driver_features(features & known)
    }

    fn config_generation(&mut self) -> Result<u32, ClientError> {
        self.inner.config_generation()
    }

    fn config_len(&mut self) -> Result<u32, ClientError> {
        self.inner.config_len()
    }

    fn read_config(&mut self, offset: u32, into: &mut [u8]) -> Result<(), ClientError> {
        self.inner.read_config(offset, into)?;
        if let Some(change) = self.lie.config {
            change(offset, into);
        }
        Ok(())
    }

    fn write_config(&mut self, offset: u32, from: &[u8]) -> Result<(), ClientError> {
        self.inner.write_config(offset, from)
    }

    fn max_queues(&mut self) -> Result<u16, ClientError> {
        self.inner.max_queues()
    }

    fn max_queue_size(&mut self, index: u16) -> Result<u16, ClientError> {
        self.inner.max_queue_size(index)
    }

    fn set_up_queue(&mut self, index: u16, layout: &QueueLayout) -> Result<(), ClientError> {
        if index == 0 {
            self.queue = Some(*layout);
            self.seen.set(0);
        }
        self.inner.set_up_queue(index, layout)
    }

    fn transport_features(&self) -> Features {
        self.inner.transport_features()
    }

    fn reset_queue(&mut self, index: u16) -> Result<bool, ClientError> {
        if self.lie.keeps_queue { Ok(true) } else { self.inner.reset_queue(index) }
    }

    fn notify(&self, index: u16) -> Result<(), ClientError> {
        self.inner.notify(index)?;
        self.tamper();
        Ok(())
    }

    fn wait(&self, index: u16, timeout_ms: Option<u32>) -> Result<(), ClientError> {
        let waited = self.inner.wait(index, timeout_ms);
        if self.lie.deaf {
            let milliseconds = timeout_ms.unwrap_or(0);
            return Err(ClientError::Silent { queue: index, milliseconds });
        }
        waited
    }
}
