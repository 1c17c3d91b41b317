//! A virtio device whose registers are memory (virtio 4.2), as microvms and most boards have them.

use alloc::sync::Arc;
use alloc::vec::Vec;

use zvb_wire::{DeviceStatus, Features};

use crate::bus::{
    BusError, Platform, RESET_MS, Registers, Signals, read_config, wait_until, write_config,
};
use crate::transport::{QueueLayout, Transport};

const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
const BLOCK: u32 = 2;
/// The most queues that are told apart.
const MAX_QUEUES: u16 = 1024;
/// The interrupt causes that are defined.
const CAUSES: u32 = 3;

/// The registers (virtio 4.2.2).
mod register {
    pub(super) const MAGIC_VALUE: u32 = 0x000;
    pub(super) const VERSION: u32 = 0x004;
    pub(super) const DEVICE_ID: u32 = 0x008;
    pub(super) const DEVICE_FEATURES: u32 = 0x010;
    pub(super) const DEVICE_FEATURES_SEL: u32 = 0x014;
    pub(super) const DRIVER_FEATURES: u32 = 0x020;
    pub(super) const DRIVER_FEATURES_SEL: u32 = 0x024;
    pub(super) const QUEUE_SEL: u32 = 0x030;
    pub(super) const QUEUE_SIZE_MAX: u32 = 0x034;
    pub(super) const QUEUE_SIZE: u32 = 0x038;
    pub(super) const QUEUE_READY: u32 = 0x044;
    pub(super) const QUEUE_NOTIFY: u32 = 0x050;
    pub(super) const INTERRUPT_STATUS: u32 = 0x060;
    pub(super) const INTERRUPT_ACK: u32 = 0x064;
    pub(super) const STATUS: u32 = 0x070;
    pub(super) const QUEUE_DESC: u32 = 0x080;
    pub(super) const QUEUE_DRIVER: u32 = 0x090;
    pub(super) const QUEUE_DEVICE: u32 = 0x0a0;
    pub(super) const QUEUE_RESET: u32 = 0x0c0;
    pub(super) const CONFIG_GENERATION: u32 = 0x0fc;
    pub(super) const CONFIG: u32 = 0x100;
}

/// Why a window of registers holds no device for this driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MmioError {
    /// Fewer registers than a device has.
    #[error("{0} bytes of registers are too few: {CONFIG} and a configuration space are needed", CONFIG = register::CONFIG)]
    TooShort(u32),
    /// Something else is there.
    #[error("the magic value is {0:#010x}: this is no virtio device")]
    Magic(u32),
    /// The legacy interface, or one that is not known.
    #[error("the interface is of version {0}, and only version {VERSION} is known")]
    Version(u32),
    /// A place for a device, with none in it. No reason for a complaint.
    #[error("there is no device")]
    Empty,
    /// The device does not reset itself.
    #[error("the device does not reset itself: its status stays {0:#x}")]
    NoReset(u32),
    /// Another kind of device.
    #[error("the device is of type {0}, and a block device of type {BLOCK}")]
    NotBlock(u32),
}

/// A virtio block device behind memory-mapped registers.
pub struct Mmio<R: Registers, P: Platform> {
    registers: R,
    platform: P,
    signals: Arc<Signals>,
    accepted: Features,
    /// Those that are set up.
    queues: Vec<bool>,
}

impl<R: Registers, P: Platform> Mmio<R, P> {
    /// The device behind `registers`: its 256 bytes of control registers, and then its configuration
    /// space, as far as that may reach.
    pub fn new(registers: R, platform: P) -> Result<Self, MmioError> {
        if registers.len() <= register::CONFIG {
            return Err(MmioError::TooShort(registers.len()));
        }
        let magic = registers.read32(register::MAGIC_VALUE);
        if magic != MAGIC {
            return Err(MmioError::Magic(magic));
        }
        let version = registers.read32(register::VERSION);
        if version != VERSION {
            return Err(MmioError::Version(version));
        }
        match registers.read32(register::DEVICE_ID) {
            BLOCK => {}
            0 => return Err(MmioError::Empty),
            other => return Err(MmioError::NotBlock(other)),
        }
        // Initialisation begins with a reset (virtio 3.1.1).
        registers.write32(register::STATUS, 0);
        if !wait_until(&platform, &|| registers.read32(register::STATUS) == 0) {
            return Err(MmioError::NoReset(registers.read32(register::STATUS)));
        }
        let mut queues = 0;
        while queues < MAX_QUEUES {
            registers.write32(register::QUEUE_SEL, queues.into());
            if registers.read32(register::QUEUE_SIZE_MAX) == 0 {
                break;
            }
            queues += 1;
        }
        let (signals, accepted) = (Signals::new(queues), Features::empty());
        let queues = alloc::vec![false; usize::from(queues)];
        Ok(Self { registers, platform, signals, accepted, queues })
    }

    /// What the handler of the device's interrupt is to have. Without one, [`Transport::wait`] polls.
    pub fn interrupt(&self) -> MmioInterrupt<R> {
        MmioInterrupt { registers: self.registers.clone(), signals: self.signals.clone() }
    }

    fn select(&self, queue: u16) -> Result<(), BusError> {
        if usize::from(queue) >= self.queues.len() {
            return Err(BusError::NoQueue(queue));
        }
        self.registers.write32(register::QUEUE_SEL, queue.into());
        Ok(())
    }
}

/// Takes what the device signals, and tells it so.
fn take_causes(registers: &impl Registers) -> u8 {
    // Other bits are not defined, and ignored.
    let causes = registers.read32(register::INTERRUPT_STATUS) & CAUSES;
    if causes != 0 {
        registers.write32(register::INTERRUPT_ACK, causes);
    }
    causes as u8
}

fn write64(registers: &impl Registers, offset: u32, value: u64) {
    registers.write32(offset, value as u32);
    registers.write32(offset.saturating_add(4), (value >> 32) as u32);
}

impl<R: Registers, P: Platform> Transport for Mmio<R, P> {
    type Error = BusError;

    fn reset(&mut self) -> Result<(), BusError> {
        let registers = &self.registers;
        registers.write32(register::STATUS, 0);
        if !wait_until(&self.platform, &|| registers.read32(register::STATUS) == 0) {
            let status = registers.read32(register::STATUS);
            return Err(BusError::NoReset { status, milliseconds: RESET_MS });
        }
        self.signals.forget();
        self.accepted = Features::empty();
        self.queues.fill(false);
        Ok(())
    }

    fn status(&mut self) -> Result<DeviceStatus, BusError> {
        // The status is a byte of the register (virtio 2.1).
        Ok(DeviceStatus::from_bits_retain(self.registers.read32(register::STATUS) as u8))
    }

    fn set_status(&mut self, status: DeviceStatus) -> Result<(), BusError> {
        self.registers.write32(register::STATUS, status.bits().into());
        Ok(())
    }

    fn transport_features(&self) -> Features {
        Features::RING_RESET
    }

    fn device_features(&mut self) -> Result<Features, BusError> {
        let [low, high] = [0, 1].map(|half| {
            self.registers.write32(register::DEVICE_FEATURES_SEL, half);
            u64::from(self.registers.read32(register::DEVICE_FEATURES))
        });
        Ok(Features::from_bits_retain(low | high << 32))
    }

    fn set_driver_features(&mut self, features: Features) -> Result<(), BusError> {
        for half in [0, 1] {
            self.registers.write32(register::DRIVER_FEATURES_SEL, half);
            let bits = (features.bits() >> (32 * half)) as u32;
            self.registers.write32(register::DRIVER_FEATURES, bits);
        }
        self.accepted = features;
        Ok(())
    }

    fn config_generation(&mut self) -> Result<u32, BusError> {
        self.signals.note(take_causes(&self.registers));
        let generation = self.registers.read32(register::CONFIG_GENERATION);
        Ok(self.signals.generation(generation))
    }

    fn config_len(&mut self) -> Result<u32, BusError> {
        Ok(self.registers.len().saturating_sub(register::CONFIG))
    }

    fn read_config(&mut self, offset: u32, into: &mut [u8]) -> Result<(), BusError> {
        read_config(&self.registers, register::CONFIG, offset, into)
    }

    fn write_config(&mut self, offset: u32, from: &[u8]) -> Result<(), BusError> {
        write_config(&self.registers, register::CONFIG, offset, from)
    }

    fn max_queues(&mut self) -> Result<u16, BusError> {
        // `new` made at most `MAX_QUEUES`.
        Ok(self.queues.len() as u16)
    }

    fn max_queue_size(&mut self, index: u16) -> Result<u16, BusError> {
        match self.select(index) {
            Ok(()) => {
                let max = self.registers.read32(register::QUEUE_SIZE_MAX);
                Ok(u16::try_from(max).unwrap_or(u16::MAX))
            }
            Err(_) => Ok(0),
        }
    }

    fn set_up_queue(&mut self, index: u16, layout: &QueueLayout) -> Result<(), BusError> {
        self.select(index)?;
        let registers = &self.registers;
        if registers.read32(register::QUEUE_READY) != 0 {
            return Err(BusError::QueueInUse(index));
        }
        let max = registers.read32(register::QUEUE_SIZE_MAX);
        if u32::from(layout.size) > max {
            return Err(BusError::QueueSize { queue: index, size: layout.size, max });
        }
        registers.write32(register::QUEUE_SIZE, layout.size.into());
        write64(registers, register::QUEUE_DESC, layout.descriptors);
        write64(registers, register::QUEUE_DRIVER, layout.available);
        write64(registers, register::QUEUE_DEVICE, layout.used);
        registers.write32(register::QUEUE_READY, 1);
        if let Some(ready) = self.queues.get_mut(usize::from(index)) {
            *ready = true;
        }
        Ok(())
    }

    fn reset_queue(&mut self, index: u16) -> Result<bool, BusError> {
        if !self.accepted.contains(Features::RING_RESET) {
            return Ok(false);
        }
        self.select(index)?;
        let registers = &self.registers;
        registers.write32(register::QUEUE_RESET, 1);
        if !wait_until(&self.platform, &|| registers.read32(register::QUEUE_RESET) == 0) {
            return Err(BusError::NoQueueReset { queue: index, milliseconds: RESET_MS });
        }
        if let Some(ready) = self.queues.get_mut(usize::from(index)) {
            *ready = false;
        }
        Ok(true)
    }

    fn notify(&self, index: u16) -> Result<(), BusError> {
        match self.queues.get(usize::from(index)) {
            Some(true) => {
                self.registers.write32(register::QUEUE_NOTIFY, index.into());
                Ok(())
            }
            _ => Err(BusError::NoQueue(index)),
        }
    }

    fn wait(&self, index: u16, timeout_ms: Option<u32>) -> Result<(), BusError> {
        let look = || take_causes(&self.registers);
        self.signals.wait(index, timeout_ms, &self.platform, &look)
    }
}

/// For the handler of a device's interrupt.
pub struct MmioInterrupt<R: Registers> {
    registers: R,
    signals: Arc<Signals>,
}

impl<R: Registers> MmioInterrupt<R> {
    /// Takes the device's signal and acknowledges it. False: there was none, since the interrupt was
    /// another's, or a [`wait`](Transport::wait) has taken it already: wake sleepers all the same.
    pub fn handle(&self) -> bool {
        self.signals.note(take_causes(&self.registers))
    }

    /// How often the device said that its configuration changed: when this is more than it was, it is time
    /// for [`Disk::refresh`](crate::Disk::refresh).
    pub fn config_changes(&self) -> u32 {
        self.signals.config_changes()
    }
}
