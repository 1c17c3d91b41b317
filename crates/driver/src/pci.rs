//! A virtio device on PCI (virtio 4.1), driven through its modern interface.
//!
//! [`find`] goes through the buses for block devices, and [`Pci::new`] makes one of them a
//! [`Transport`]. Signals come by INT#x, or are polled for; MSI-X is left disabled.

mod capabilities;

use alloc::sync::Arc;
use alloc::vec::Vec;

use zvb_wire::{DeviceStatus, Features};

use crate::bus::{
    BusError, Platform, RESET_MS, Registers, Signals, read_config, wait_until, write_config,
};
use crate::transport::{QueueLayout, Transport};

pub use capabilities::PciError;
use capabilities::{Structures, find_structures};

const VENDOR: u32 = 0x1af4;
/// A block device, and a transitional one.
const DEVICES: [u32; 2] = [0x1042, 0x1001];
const BLOCK: u32 = 0x1042;
/// The most queues that are told apart.
const MAX_QUEUES: u16 = 1024;

/// Registers of the common configuration structure (virtio 4.1.4.3).
mod common {
    pub(super) const DEVICE_FEATURE_SELECT: u32 = 0x00;
    pub(super) const DEVICE_FEATURE: u32 = 0x04;
    pub(super) const DRIVER_FEATURE_SELECT: u32 = 0x08;
    pub(super) const DRIVER_FEATURE: u32 = 0x0c;
    pub(super) const NUM_QUEUES: u32 = 0x12;
    pub(super) const DEVICE_STATUS: u32 = 0x14;
    pub(super) const CONFIG_GENERATION: u32 = 0x15;
    pub(super) const QUEUE_SELECT: u32 = 0x16;
    pub(super) const QUEUE_SIZE: u32 = 0x18;
    pub(super) const QUEUE_ENABLE: u32 = 0x1c;
    pub(super) const QUEUE_NOTIFY_OFF: u32 = 0x1e;
    pub(super) const QUEUE_DESC: u32 = 0x20;
    pub(super) const QUEUE_DRIVER: u32 = 0x28;
    pub(super) const QUEUE_DEVICE: u32 = 0x30;
    pub(super) const QUEUE_NOTIF_CONFIG_DATA: u32 = 0x38;
    pub(super) const QUEUE_RESET: u32 = 0x3a;
}

/// Where a function is on the buses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Function {
    /// The bus.
    pub bus: u8,
    /// The device on it, below 32.
    pub device: u8,
    /// The function of that, below 8.
    pub function: u8,
}

impl core::fmt::Display for Function {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.bus, self.device, self.function)
    }
}

/// The configuration space of all PCI functions, however it is reached (ECAM, or x86's ports).
pub trait ConfigSpace {
    /// Reads 32 bits at `offset`, a multiple of 4 below 256. All ones where there is no function.
    fn read32(&self, function: Function, offset: u8) -> u32;

    /// Writes 32 bits at `offset`, a multiple of 4 below 256.
    fn write32(&self, function: Function, offset: u8, value: u32);
}

impl<C: ConfigSpace + ?Sized> ConfigSpace for &C {
    fn read32(&self, function: Function, offset: u8) -> u32 {
        (**self).read32(function, offset)
    }

    fn write32(&self, function: Function, offset: u8, value: u32) {
        (**self).write32(function, offset, value);
    }
}

/// The virtio block devices of a machine whose firmware or operating system has numbered its buses.
pub fn find<C: ConfigSpace>(config: &C) -> impl Iterator<Item = Function> {
    let all = (0..=u8::MAX).flat_map(|bus| (0..32).map(move |device| (bus, device)));
    all.flat_map(move |(bus, device)| {
        let first = Function { bus, device, function: 0 };
        let present = config.read32(first, 0) != u32::MAX;
        // Bit 7 of the header type: there is more than function 0.
        let many = present && config.read32(first, 0x0c) & 0x0080_0000 != 0;
        let count = if many { 8 } else { u8::from(present) };
        (0..count).map(move |function| Function { bus, device, function })
    })
    .filter(|function| is_block(config.read32(*function, 0)))
}

fn is_block(id: u32) -> bool {
    id & 0xffff == VENDOR && DEVICES.contains(&(id >> 16))
}

/// Where a queue is notified, and with what.
#[derive(Clone, Copy)]
struct Doorbell {
    offset: u32,
    value: u16,
}

/// A virtio block device on PCI.
pub struct Pci<R: Registers, P: Platform> {
    structures: Structures<R>,
    platform: P,
    signals: Arc<Signals>,
    accepted: Features,
    doorbells: Vec<Option<Doorbell>>,
}

impl<R: Registers, P: Platform> Pci<R, P> {
    /// The device at `function`. It is enabled to decode memory and to master the bus.
    ///
    /// `map` makes registers of a number of bytes at an address on the bus, which its BAR holds; it is
    /// called for four structures, whose pages may be the same. BARs must have been given addresses.
    pub fn new<C: ConfigSpace>(
        config: &C,
        function: Function,
        platform: P,
        mut map: impl FnMut(u64, u32) -> Option<R>,
    ) -> Result<Self, PciError> {
        let id = config.read32(function, 0);
        if !is_block(id) {
            return Err(PciError::NotBlock { vendor: id as u16, device: (id >> 16) as u16 });
        }
        // Both may be set already. Bits of the upper half are cleared by ones; zeroes do nothing.
        let command = config.read32(function, 0x04) & 0xffff;
        config.write32(function, 0x04, (command | COMMAND_ON) & !COMMAND_NO_INTX);
        let structures = find_structures(config, function, &mut map)?;
        let queues = structures.common.read16(common::NUM_QUEUES).min(MAX_QUEUES);
        Ok(Self {
            structures,
            platform,
            signals: Signals::new(queues),
            accepted: Features::empty(),
            doorbells: (0..queues).map(|_| None).collect(),
        })
    }

    /// What the handler of the function's interrupt is to have. Without one, [`Transport::wait`] polls.
    pub fn interrupt(&self) -> PciInterrupt<R> {
        PciInterrupt { isr: self.structures.isr.clone(), signals: self.signals.clone() }
    }

    fn select(&self, queue: u16) -> Result<(), BusError> {
        if usize::from(queue) >= self.doorbells.len() {
            return Err(BusError::NoQueue(queue));
        }
        self.structures.common.write16(common::QUEUE_SELECT, queue);
        Ok(())
    }

    /// Where the selected queue is notified (virtio 4.1.4.4).
    fn doorbell(&self, queue: u16) -> Result<Doorbell, BusError> {
        let Structures { common, notify, notify_multiplier, .. } = &self.structures;
        let offset = u64::from(common.read16(common::QUEUE_NOTIFY_OFF));
        let offset = offset.saturating_mul((*notify_multiplier).into());
        let value = if self.accepted.contains(Features::NOTIF_CONFIG_DATA) {
            common.read16(common::QUEUE_NOTIF_CONFIG_DATA)
        } else {
            queue
        };
        match u32::try_from(offset) {
            Ok(offset) if offset.checked_add(2).is_some_and(|end| end <= notify.len()) => {
                Ok(Doorbell { offset, value })
            }
            _ => Err(BusError::NotifyOffset { queue, offset, len: notify.len() }),
        }
    }
}

/// Memory space and bus mastering.
const COMMAND_ON: u32 = 0x0006;
/// Interrupt disable.
const COMMAND_NO_INTX: u32 = 0x0400;

fn write64(registers: &impl Registers, offset: u32, value: u64) {
    registers.write32(offset, value as u32);
    registers.write32(offset.saturating_add(4), (value >> 32) as u32);
}

impl<R: Registers, P: Platform> Transport for Pci<R, P> {
    type Error = BusError;

    fn reset(&mut self) -> Result<(), BusError> {
        let common = &self.structures.common;
        common.write8(common::DEVICE_STATUS, 0);
        if !wait_until(&self.platform, &|| common.read8(common::DEVICE_STATUS) == 0) {
            let status = common.read8(common::DEVICE_STATUS).into();
            return Err(BusError::NoReset { status, milliseconds: RESET_MS });
        }
        self.structures.isr.read8(0);
        self.signals.forget();
        self.accepted = Features::empty();
        self.doorbells.fill(None);
        Ok(())
    }

    fn status(&mut self) -> Result<DeviceStatus, BusError> {
        let status = self.structures.common.read8(common::DEVICE_STATUS);
        Ok(DeviceStatus::from_bits_retain(status))
    }

    fn set_status(&mut self, status: DeviceStatus) -> Result<(), BusError> {
        self.structures.common.write8(common::DEVICE_STATUS, status.bits());
        Ok(())
    }

    fn transport_features(&self) -> Features {
        let has = |offset, feature| {
            if self.structures.common.len() >= offset + 2 { feature } else { Features::empty() }
        };
        has(common::QUEUE_NOTIF_CONFIG_DATA, Features::NOTIF_CONFIG_DATA)
            | has(common::QUEUE_RESET, Features::RING_RESET)
    }

    fn device_features(&mut self) -> Result<Features, BusError> {
        let common = &self.structures.common;
        let [low, high] = [0, 1].map(|half| {
            common.write32(common::DEVICE_FEATURE_SELECT, half);
            u64::from(common.read32(common::DEVICE_FEATURE))
        });
        Ok(Features::from_bits_retain(low | high << 32))
    }

    fn set_driver_features(&mut self, features: Features) -> Result<(), BusError> {
        let common = &self.structures.common;
        for half in [0, 1] {
            common.write32(common::DRIVER_FEATURE_SELECT, half);
            common.write32(common::DRIVER_FEATURE, (features.bits() >> (32 * half)) as u32);
        }
        self.accepted = features;
        Ok(())
    }

    fn config_generation(&mut self) -> Result<u32, BusError> {
        let Structures { common, isr, .. } = &self.structures;
        self.signals.note(isr.read8(0));
        let generation = common.read8(common::CONFIG_GENERATION);
        Ok(self.signals.generation(generation.into()))
    }

    fn config_len(&mut self) -> Result<u32, BusError> {
        Ok(self.structures.device.len())
    }

    fn read_config(&mut self, offset: u32, into: &mut [u8]) -> Result<(), BusError> {
        read_config(&self.structures.device, 0, offset, into)
    }

    fn write_config(&mut self, offset: u32, from: &[u8]) -> Result<(), BusError> {
        write_config(&self.structures.device, 0, offset, from)
    }

    fn max_queues(&mut self) -> Result<u16, BusError> {
        // `new` made at most `MAX_QUEUES`.
        Ok(self.doorbells.len() as u16)
    }

    fn max_queue_size(&mut self, index: u16) -> Result<u16, BusError> {
        match self.select(index) {
            Ok(()) => Ok(self.structures.common.read16(common::QUEUE_SIZE)),
            Err(_) => Ok(0),
        }
    }

    fn set_up_queue(&mut self, index: u16, layout: &QueueLayout) -> Result<(), BusError> {
        self.select(index)?;
        let common = &self.structures.common;
        if common.read16(common::QUEUE_ENABLE) != 0 {
            return Err(BusError::QueueInUse(index));
        }
        let max = common.read16(common::QUEUE_SIZE);
        if layout.size > max || !layout.size.is_power_of_two() {
            let (size, max) = (layout.size, max.into());
            return Err(BusError::QueueSize { queue: index, size, max });
        }
        common.write16(common::QUEUE_SIZE, layout.size);
        write64(common, common::QUEUE_DESC, layout.descriptors);
        write64(common, common::QUEUE_DRIVER, layout.available);
        write64(common, common::QUEUE_DEVICE, layout.used);
        let doorbell = self.doorbell(index)?;
        common.write16(common::QUEUE_ENABLE, 1);
        if let Some(place) = self.doorbells.get_mut(usize::from(index)) {
            *place = Some(doorbell);
        }
        Ok(())
    }

    fn reset_queue(&mut self, index: u16) -> Result<bool, BusError> {
        if !self.accepted.contains(Features::RING_RESET) {
            return Ok(false);
        }
        self.select(index)?;
        let common = &self.structures.common;
        common.write16(common::QUEUE_RESET, 1);
        if !wait_until(&self.platform, &|| common.read16(common::QUEUE_RESET) == 0) {
            return Err(BusError::NoQueueReset { queue: index, milliseconds: RESET_MS });
        }
        if let Some(place) = self.doorbells.get_mut(usize::from(index)) {
            *place = None;
        }
        Ok(true)
    }

    fn notify(&self, index: u16) -> Result<(), BusError> {
        match self.doorbells.get(usize::from(index)) {
            Some(Some(Doorbell { offset, value })) => {
                self.structures.notify.write16(*offset, *value);
                Ok(())
            }
            _ => Err(BusError::NoQueue(index)),
        }
    }

    fn wait(&self, index: u16, timeout_ms: Option<u32>) -> Result<(), BusError> {
        let isr = &self.structures.isr;
        self.signals.wait(index, timeout_ms, &self.platform, &|| isr.read8(0))
    }
}

/// For the handler of a function's interrupt (INT#x, which functions can share).
pub struct PciInterrupt<R: Registers> {
    isr: R,
    signals: Arc<Signals>,
}

impl<R: Registers> PciInterrupt<R> {
    /// Takes the device's signal, so that it lets go of the interrupt line. False: there was none, since the
    /// interrupt was another's, or a [`wait`](Transport::wait) has taken it already: wake sleepers all the same.
    pub fn handle(&self) -> bool {
        self.signals.note(self.isr.read8(0))
    }

    /// How often the device said that its configuration changed: when this is more than it was, it is time
    /// for [`Disk::refresh`](crate::Disk::refresh).
    pub fn config_changes(&self) -> u32 {
        self.signals.config_changes()
    }
}
