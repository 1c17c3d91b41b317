//! What a driver needs of the world: a way to the device, and memory that the device can reach.

use core::ptr::NonNull;

use zvb_wire::{DeviceStatus, Features};

/// Where a queue's parts are, by the addresses that the device uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueLayout {
    /// Descriptors; a power of two.
    pub size: u16,
    /// The descriptor table; aligned to 16.
    pub descriptors: u64,
    /// The available ring; aligned to 2.
    pub available: u64,
    /// The used ring; aligned to 4.
    pub used: u64,
}

/// A way to one virtio device (virtio 4). Methods are called in the order of virtio 3.1.1.
///
/// A transport says nothing about blocks or zones. It may be slow everywhere but in
/// [`notify`](Self::notify).
pub trait Transport {
    /// What can go wrong on the way.
    type Error: core::error::Error + Send + Sync + 'static;

    /// Sets the device back to its beginning, status 0; it touches no memory when this returns.
    fn reset(&mut self) -> Result<(), Self::Error>;

    /// The device status field.
    fn status(&mut self) -> Result<DeviceStatus, Self::Error>;

    /// Sets the device status field. A transport without one keeps what was set and answers with it.
    fn set_status(&mut self, status: DeviceStatus) -> Result<(), Self::Error>;

    /// Features that are the transport's affair, and that it does: NOTIF_CONFIG_DATA, RING_RESET, and
    /// ORDER_PLATFORM where the fences between processors order what the device sees too (on x86 they
    /// always do). Others are not looked at.
    fn transport_features(&self) -> Features {
        Features::empty()
    }

    /// What the device offers.
    fn device_features(&mut self) -> Result<Features, Self::Error>;

    /// What the driver accepts: a subset of what the device offers.
    fn set_driver_features(&mut self, features: Features) -> Result<(), Self::Error>;

    /// Changes whenever the configuration space does; constant where the transport can not say.
    fn config_generation(&mut self) -> Result<u32, Self::Error>;

    /// How many bytes of configuration space the device has; reads beyond are not asked for.
    fn config_len(&mut self) -> Result<u32, Self::Error>;

    /// Reads configuration space from `offset` on. Fields are read whole, never across each other.
    fn read_config(&mut self, offset: u32, into: &mut [u8]) -> Result<(), Self::Error>;

    /// Writes configuration space from `offset` on.
    fn write_config(&mut self, offset: u32, from: &[u8]) -> Result<(), Self::Error>;

    /// How many queues can be set up.
    fn max_queues(&mut self) -> Result<u16, Self::Error>;

    /// The largest size of queue `index`; 0 when there is no such queue.
    fn max_queue_size(&mut self, index: u16) -> Result<u16, Self::Error>;

    /// Tells the device where queue `index` is, and enables it.
    fn set_up_queue(&mut self, index: u16, layout: &QueueLayout) -> Result<(), Self::Error>;

    /// Takes queue `index` away from the device, which touches nothing of it when this returns, so that it
    /// can be set up again (RING_RESET, virtio 2.6.1). False: not done, for that was not negotiated.
    fn reset_queue(&mut self, index: u16) -> Result<bool, Self::Error> {
        let _ = index;
        Ok(false)
    }

    /// Tells the device that queue `index` has new buffers. Cheap: the one call of the data path.
    fn notify(&self, index: u16) -> Result<(), Self::Error>;

    /// Waits until the device has signalled queue `index` or its configuration, or something else is
    /// worth a look; spurious returns are fine. Fails when the device is gone, or has been silent for
    /// `timeout_ms` milliseconds (`None`: for as long as it takes).
    fn wait(&self, index: u16, timeout_ms: Option<u32>) -> Result<(), Self::Error>;
}

/// A transport that is lent: what becomes of it after the driver is done is its owner's affair.
impl<T: Transport + ?Sized> Transport for &mut T {
    type Error = T::Error;

    fn reset(&mut self) -> Result<(), Self::Error> {
        (**self).reset()
    }

    fn status(&mut self) -> Result<DeviceStatus, Self::Error> {
        (**self).status()
    }

    fn set_status(&mut self, status: DeviceStatus) -> Result<(), Self::Error> {
        (**self).set_status(status)
    }

    fn transport_features(&self) -> Features {
        (**self).transport_features()
    }

    fn device_features(&mut self) -> Result<Features, Self::Error> {
        (**self).device_features()
    }

    fn set_driver_features(&mut self, features: Features) -> Result<(), Self::Error> {
        (**self).set_driver_features(features)
    }

    fn config_generation(&mut self) -> Result<u32, Self::Error> {
        (**self).config_generation()
    }

    fn config_len(&mut self) -> Result<u32, Self::Error> {
        (**self).config_len()
    }

    fn read_config(&mut self, offset: u32, into: &mut [u8]) -> Result<(), Self::Error> {
        (**self).read_config(offset, into)
    }

    fn write_config(&mut self, offset: u32, from: &[u8]) -> Result<(), Self::Error> {
        (**self).write_config(offset, from)
    }

    fn max_queues(&mut self) -> Result<u16, Self::Error> {
        (**self).max_queues()
    }

    fn max_queue_size(&mut self, index: u16) -> Result<u16, Self::Error> {
        (**self).max_queue_size(index)
    }

    fn set_up_queue(&mut self, index: u16, layout: &QueueLayout) -> Result<(), Self::Error> {
        (**self).set_up_queue(index, layout)
    }

    fn reset_queue(&mut self, index: u16) -> Result<bool, Self::Error> {
        (**self).reset_queue(index)
    }

    fn notify(&self, index: u16) -> Result<(), Self::Error> {
        (**self).notify(index)
    }

    fn wait(&self, index: u16, timeout_ms: Option<u32>) -> Result<(), Self::Error> {
        (**self).wait(index, timeout_ms)
    }
}

/// A piece of memory that driver and device share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DmaRegion {
    /// Where the driver finds it.
    pub host: NonNull<u8>,
    /// Where the device finds it.
    pub device: u64,
    /// Bytes.
    pub len: usize,
}

/// Gives out memory that driver and device share.
///
/// # Safety
///
/// A region returned by [`alloc`](Self::alloc) must be zeroed, readable and writable through `host`,
/// reachable for the device at `device`, contiguous for both, and given to nobody else until it is
/// passed to [`free`](Self::free). It must stay so while `self` or a clone of it lives.
#[expect(unsafe_code, reason = "the promise is about memory, and the driver's buffers rest on it")]
pub unsafe trait Dma: Clone {
    /// At least `len` bytes, aligned to `align` (a power of two of at most 4096) on both sides, or `None`
    /// when there is no memory.
    fn alloc(&self, len: usize, align: usize) -> Option<DmaRegion>;

    /// Takes back what [`alloc`](Self::alloc) gave.
    ///
    /// # Safety
    ///
    /// `region` came from `alloc` of this or of a clone, once, and neither driver nor device uses it any
    /// more.
    unsafe fn free(&self, region: DmaRegion);
}
