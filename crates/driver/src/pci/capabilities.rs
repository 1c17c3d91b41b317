//! Where on its BARs a device has its structures (virtio 4.1.4).

use super::{BLOCK, ConfigSpace, Function};
use crate::bus::Registers;

/// The bytes of the common configuration structure up to the end of `queue_device`, and with all that
/// this driver knows behind it.
const COMMON_BYTES: core::ops::RangeInclusive<u32> = 0x38..=0x40;
/// A list of capabilities has room for no more: 192 bytes, 4 each.
const CAPABILITIES_MAX: usize = 48;
/// No more of the configuration space is mapped.
const DEVICE_BYTES: u32 = 4096;
/// No more of the notification structure is mapped.
const NOTIFY_BYTES: u32 = 1 << 20;

const VENDOR_SPECIFIC: u8 = 0x09;

/// Why a PCI function can not be driven.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PciError {
    /// Another kind of device, or none.
    #[error("{vendor:04x}:{device:04x} is no virtio block device ({VENDOR:04x}:{BLOCK:04x})", VENDOR = super::VENDOR)]
    NotBlock {
        /// Its vendor.
        vendor: u16,
        /// Its device number.
        device: u16,
    },
    /// A structure that a modern device must have is not there, or nowhere where it can be reached.
    #[error(
        "the device has no {0} structure that can be reached: a legacy device, or its memory BARs have no address"
    )]
    Missing(&'static str),
    /// A structure is too short for what must be in it.
    #[error("the device's {name} structure has {len} bytes, and {needed} are needed")]
    TooShort {
        /// Which structure.
        name: &'static str,
        /// Bytes that there are.
        len: u32,
        /// Bytes that there must be.
        needed: u32,
    },
    /// A structure is not aligned.
    #[error("the device's {name} structure is at offset {offset:#x}, which is not aligned")]
    Misaligned {
        /// Which structure.
        name: &'static str,
        /// Its place in its BAR.
        offset: u32,
    },
    /// Registers could not be mapped.
    #[error("{len} bytes at {address:#x}, the {name} structure, could not be mapped")]
    NotMapped {
        /// Which structure.
        name: &'static str,
        /// Where on the bus.
        address: u64,
        /// How many bytes.
        len: u32,
    },
}

/// The structures of a device, mapped.
pub(super) struct Structures<R: Registers> {
    pub(super) common: R,
    pub(super) notify: R,
    pub(super) notify_multiplier: u32,
    pub(super) isr: R,
    pub(super) device: R,
}

/// Where a structure is.
#[derive(Clone, Copy)]
struct Place {
    address: u64,
    offset: u32,
    len: u32,
    /// The capability that tells of it.
    capability: u8,
}

/// Finds and maps the structures: the first of each kind that memory reaches.
pub(super) fn find_structures<C: ConfigSpace, R: Registers>(
    config: &C,
    function: Function,
    map: &mut impl FnMut(u64, u32) -> Option<R>,
) -> Result<Structures<R>, PciError> {
    // Common configuration, notifications, ISR status, device configuration: types 1 to 4.
    let mut places = [None; 4];
    for capability in capabilities(config, function) {
        let kind = byte(config, function, capability, 3);
        // Types that are reserved, and others than these four, are passed over.
        let Some(place) = places.get_mut(usize::from(kind).wrapping_sub(1)) else { continue };
        if place.is_none() {
            *place = locate(config, function, capability);
        }
    }
    let [common, notify, isr, device] = places;
    let common = common.ok_or(PciError::Missing("common configuration"))?;
    let notify = notify.ok_or(PciError::Missing("notification"))?;
    let isr = isr.ok_or(PciError::Missing("ISR status"))?;
    let device = device.ok_or(PciError::Missing("device configuration"))?;
    let multiplier = word(config, function, notify.capability, 16);
    Ok(Structures {
        common: mapped(map, "common configuration", common, COMMON_BYTES, 4)?,
        notify: mapped(map, "notification", notify, 2..=NOTIFY_BYTES, 2)?,
        notify_multiplier: multiplier,
        isr: mapped(map, "ISR status", isr, 1..=1, 1)?,
        device: mapped(map, "device configuration", device, 8..=DEVICE_BYTES, 4)?,
    })
}

/// As much of a structure as is needed: at least the first number of `bytes`, at most the last.
fn mapped<R: Registers>(
    map: &mut impl FnMut(u64, u32) -> Option<R>,
    name: &'static str,
    place: Place,
    bytes: core::ops::RangeInclusive<u32>,
    align: u32,
) -> Result<R, PciError> {
    let Place { address, offset, len, .. } = place;
    if len < *bytes.start() {
        return Err(PciError::TooShort { name, len, needed: *bytes.start() });
    }
    if !offset.is_multiple_of(align) {
        return Err(PciError::Misaligned { name, offset });
    }
    let len = len.min(*bytes.end());
    map(address, len).ok_or(PciError::NotMapped { name, address, len })
}

/// The vendor-specific capabilities of a function, by their offsets.
fn capabilities<C: ConfigSpace>(config: &C, function: Function) -> impl Iterator<Item = u8> {
    // Bit 4 of the status: there is a list.
    let listed = config.read32(function, 0x04) & 0x0010_0000 != 0;
    let mut next = if listed { config.read32(function, 0x34) as u8 & 0xfc } else { 0 };
    let list = core::iter::from_fn(move || {
        let here = next;
        // Below 0x40 is the header.
        if here < 0x40 {
            return None;
        }
        next = byte(config, function, here, 1) & 0xfc;
        Some(here)
    });
    list.take(CAPABILITIES_MAX).filter(move |here| {
        // Longer ones are fine; a shorter one says nothing.
        byte(config, function, *here, 0) == VENDOR_SPECIFIC
            && byte(config, function, *here, 2) >= 16
            && *here <= 0xf0
    })
}

/// Where the structure of a capability is, if that is in memory that has an address.
fn locate<C: ConfigSpace>(config: &C, function: Function, capability: u8) -> Option<Place> {
    let bar = byte(config, function, capability, 4);
    let offset = word(config, function, capability, 8);
    let len = word(config, function, capability, 12);
    // Other BARs are reserved.
    if bar > 5 {
        return None;
    }
    let at = 0x10 + 4 * bar;
    let low = config.read32(function, at);
    let high = match low & 0x7 {
        0x0 => 0,
        0x4 if bar < 5 => config.read32(function, at + 4),
        // Ports, and what is reserved.
        _ => return None,
    };
    let base = u64::from(low & !0xf) | u64::from(high) << 32;
    let address = base.checked_add(offset.into()).filter(|_| base != 0)?;
    address.checked_add(len.into())?;
    Some(Place { address, offset, len, capability })
}

fn byte<C: ConfigSpace>(config: &C, function: Function, capability: u8, offset: u8) -> u8 {
    // A capability that reaches past the end says zeroes there.
    let Some(at) = capability.checked_add(offset) else { return 0 };
    let [a, b, c, d] = config.read32(function, at & 0xfc).to_le_bytes();
    match at & 3 {
        0 => a,
        1 => b,
        2 => c,
        _ => d,
    }
}

fn word<C: ConfigSpace>(config: &C, function: Function, capability: u8, offset: u8) -> u32 {
    // Capabilities and offsets are multiples of 4.
    capability.checked_add(offset).map_or(0, |at| config.read32(function, at))
}
