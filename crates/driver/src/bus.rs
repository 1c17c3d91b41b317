//! What the transports of a machine (PCI and MMIO) have in common: registers, time, and signals.

mod mapped;
mod signals;

pub use mapped::Mapped;
#[cfg(any(feature = "pci", feature = "mmio"))]
pub(crate) use signals::Signals;

/// A device's registers, or some of them. Offsets are in bytes from their start; multi-byte registers are
/// little-endian, and accessed whole and aligned.
///
/// [`Mapped`] is the one to use where registers are memory. A clone reaches the same registers.
pub trait Registers: Clone {
    /// How many bytes there are; what is accessed lies below.
    fn len(&self) -> u32;

    /// True when there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads 8 bits.
    fn read8(&self, offset: u32) -> u8;

    /// Reads 16 bits.
    fn read16(&self, offset: u32) -> u16;

    /// Reads 32 bits.
    fn read32(&self, offset: u32) -> u32;

    /// Writes 8 bits.
    fn write8(&self, offset: u32, value: u8);

    /// Writes 16 bits.
    fn write16(&self, offset: u32, value: u16);

    /// Writes 32 bits. What was stored to memory before is visible to the device that acts on it.
    fn write32(&self, offset: u32, value: u32);
}

/// What a transport needs of the machine: the time, and a way to wait.
pub trait Platform {
    /// Milliseconds since some moment. Never less than before.
    fn now_ms(&self) -> u64;

    /// Lets time pass until `signalled` may be true: called again and again while a device is waited for.
    ///
    /// May return at once, after a hint to the processor: that is polling. May sleep until an interrupt:
    /// then it looks at `signalled` last with interrupts held back, so that none comes in between, and
    /// sees to it that it wakes now and then, for the sake of timeouts.
    fn idle(&self, signalled: &dyn Fn() -> bool);
}

impl<P: Platform + ?Sized> Platform for &P {
    fn now_ms(&self) -> u64 {
        (**self).now_ms()
    }

    fn idle(&self, signalled: &dyn Fn() -> bool) {
        (**self).idle(signalled);
    }
}

/// What a transport can fail with once it has found its device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// The device was silent for so long.
    #[error("queue {queue}: no signal in {milliseconds} ms")]
    Silent {
        /// The queue that was waited for.
        queue: u16,
        /// How long.
        milliseconds: u32,
    },
    /// The device did not reset itself.
    #[error(
        "the device does not reset itself: its status is still {status:#x} after {milliseconds} ms"
    )]
    NoReset {
        /// Its status.
        status: u32,
        /// How long it had.
        milliseconds: u32,
    },
    /// The device did not reset one queue.
    #[error("queue {queue} does not reset itself in {milliseconds} ms")]
    NoQueueReset {
        /// Which.
        queue: u16,
        /// How long it had.
        milliseconds: u32,
    },
    /// There is no such queue, or it is not set up.
    #[error("queue {0} is not set up")]
    NoQueue(u16),
    /// The queue is in use: the device was not reset.
    #[error("queue {0} is enabled already")]
    QueueInUse(u16),
    /// The queue's size is more than the device takes.
    #[error("queue {queue} takes {max} descriptors, not {size}")]
    QueueSize {
        /// Which.
        queue: u16,
        /// What it was to be.
        size: u16,
        /// What it can be.
        max: u32,
    },
    /// The place for notifications of a queue is outside of what the device has shown for them.
    #[error("queue {queue} is notified at {offset:#x}, past the {len:#x} bytes that there are")]
    NotifyOffset {
        /// Which.
        queue: u16,
        /// Where the device says that it is notified.
        offset: u64,
        /// Bytes that the device has for notifications.
        len: u32,
    },
    /// An access outside of the configuration space.
    #[error("{len} bytes at {offset} are outside of the {space} of the configuration space")]
    ConfigRange {
        /// Where.
        offset: u32,
        /// How many bytes.
        len: usize,
        /// Bytes that there are.
        space: u32,
    },
}

/// How long a device may take to reset itself or a queue, in milliseconds.
#[cfg(any(feature = "pci", feature = "mmio"))]
pub(crate) const RESET_MS: u32 = 10_000;

/// Waits until `done`; false when that took more than [`RESET_MS`].
#[cfg(any(feature = "pci", feature = "mmio"))]
pub(crate) fn wait_until(platform: &impl Platform, done: &dyn Fn() -> bool) -> bool {
    let start = platform.now_ms();
    while !done() {
        if platform.now_ms().saturating_sub(start) > RESET_MS.into() {
            return done();
        }
        core::hint::spin_loop();
    }
    true
}

/// Reads the configuration space in accesses as wide as the field is (virtio 4.1.3.1, 4.2.2.2): 8 bytes
/// in two halves.
#[cfg(any(feature = "pci", feature = "mmio"))]
pub(crate) fn read_config(
    registers: &impl Registers,
    base: u32,
    offset: u32,
    into: &mut [u8],
) -> Result<(), BusError> {
    let at = config_at(registers, base, offset, into.len())?;
    match into {
        [byte] => *byte = registers.read8(at),
        [_, _] if at.is_multiple_of(2) => {
            into.copy_from_slice(&registers.read16(at).to_le_bytes());
        }
        _ if at.is_multiple_of(4) && into.len().is_multiple_of(4) => {
            for (word, at) in into.chunks_exact_mut(4).zip((at..).step_by(4)) {
                word.copy_from_slice(&registers.read32(at).to_le_bytes());
            }
        }
        _ => {
            for (byte, at) in into.iter_mut().zip(at..) {
                *byte = registers.read8(at);
            }
        }
    }
    Ok(())
}

/// Writes the configuration space likewise.
#[cfg(any(feature = "pci", feature = "mmio"))]
pub(crate) fn write_config(
    registers: &impl Registers,
    base: u32,
    offset: u32,
    from: &[u8],
) -> Result<(), BusError> {
    let at = config_at(registers, base, offset, from.len())?;
    match *from {
        [byte] => registers.write8(at, byte),
        [a, b] if at.is_multiple_of(2) => registers.write16(at, u16::from_le_bytes([a, b])),
        _ if at.is_multiple_of(4) && from.len().is_multiple_of(4) => {
            for (word, at) in from.as_chunks().0.iter().zip((at..).step_by(4)) {
                registers.write32(at, u32::from_le_bytes(*word));
            }
        }
        _ => {
            for (byte, at) in from.iter().zip(at..) {
                registers.write8(at, *byte);
            }
        }
    }
    Ok(())
}

/// Where `len` bytes at `offset` of a configuration space that begins at `base` are.
#[cfg(any(feature = "pci", feature = "mmio"))]
fn config_at(
    registers: &impl Registers,
    base: u32,
    offset: u32,
    len: usize,
) -> Result<u32, BusError> {
    let space = registers.len().saturating_sub(base);
    let fits = u64::from(offset).checked_add(len as u64).is_some_and(|end| end <= space.into());
    // No overflow: it lies below `registers.len()`.
    if fits { Ok(base + offset) } else { Err(BusError::ConfigRange { offset, len, space }) }
}
