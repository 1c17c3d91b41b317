//! Zones as a report tells of them (virtio 5.2.6, ZONE_REPORT).

use core::fmt;
use core::mem::{offset_of, size_of};
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `struct virtio_blk_zone_report` up to its zones: 64 bytes.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ZoneReportHeader {
    /// How many descriptors follow: those transferred, not those of the device.
    pub nr_zones: U64,
    /// Always 0.
    pub reserved: [u8; 56],
}

impl ZoneReportHeader {
    /// Bytes on the wire.
    pub const BYTES: u32 = size_of::<Self>() as u32;

    /// The header before `nr_zones` descriptors.
    pub fn new(nr_zones: u64) -> Self {
        Self { nr_zones: U64::new(nr_zones), reserved: [0; 56] }
    }
}

/// `struct virtio_blk_zone_descriptor`: 64 bytes.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ZoneDescriptor {
    /// What can be written of the zone, in 512-byte sectors.
    pub z_cap: U64,
    /// First 512-byte sector.
    pub z_start: U64,
    /// Write pointer, in 512-byte sectors from the start of the *disk*; undefined for zones that have none.
    pub z_wp: U64,
    /// A [`ZoneType`].
    pub z_type: u8,
    /// A [`Condition`].
    pub z_state: u8,
    /// Always 0.
    pub reserved: [u8; 38],
}

impl ZoneDescriptor {
    /// Bytes on the wire.
    pub const BYTES: u32 = size_of::<Self>() as u32;
}

const _: () = {
    assert!(size_of::<ZoneReportHeader>() == 64);
    assert!(size_of::<ZoneDescriptor>() == 64);
    assert!(offset_of!(ZoneDescriptor, z_start) == 8);
    assert!(offset_of!(ZoneDescriptor, z_wp) == 16);
    assert!(offset_of!(ZoneDescriptor, z_type) == 24);
    assert!(offset_of!(ZoneDescriptor, z_state) == 25);
};

/// A number that the specification does not give out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnknownValue(pub u8);

impl fmt::Display for UnknownValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown value {}", self.0)
    }
}

impl core::error::Error for UnknownValue {}

/// What kind of disk it is: `zoned.model` (virtio 5.2.4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum Model {
    /// Not zoned, or zoned and hiding it (drive-managed).
    #[default]
    None = 0,
    /// Host-managed: sequential zones must be written at their write pointer.
    HostManaged = 1,
    /// Host-aware: sequential zones would rather be written at their write pointer.
    HostAware = 2,
}

impl TryFrom<u8> for Model {
    type Error = UnknownValue;

    fn try_from(value: u8) -> Result<Self, UnknownValue> {
        Ok(match value {
            0 => Self::None,
            1 => Self::HostManaged,
            2 => Self::HostAware,
            _ => return Err(UnknownValue(value)),
        })
    }
}

/// The type of a zone: `z_type`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum ZoneType {
    /// Written anywhere; no write pointer.
    Conventional = 1,
    /// Written at its write pointer, and nowhere else.
    SequentialRequired = 2,
    /// Written anywhere, better at its write pointer.
    SequentialPreferred = 3,
}

impl TryFrom<u8> for ZoneType {
    type Error = UnknownValue;

    fn try_from(value: u8) -> Result<Self, UnknownValue> {
        Ok(match value {
            1 => Self::Conventional,
            2 => Self::SequentialRequired,
            3 => Self::SequentialPreferred,
            _ => return Err(UnknownValue(value)),
        })
    }
}

/// The condition of a zone: `z_state`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Condition {
    /// A conventional zone: there is no write pointer.
    NotWp = 0,
    /// Nothing is written.
    Empty = 1,
    /// Opened by a write.
    ImplicitOpen = 2,
    /// Opened by an OPEN.
    ExplicitOpen = 3,
    /// Partly written, and not open.
    Closed = 4,
    /// Can be read, can not be written.
    ReadOnly = 13,
    /// Takes no more.
    Full = 14,
    /// Can be neither read nor written.
    Offline = 15,
}

impl Condition {
    /// True for the two conditions that count against `max_open_zones`.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::ImplicitOpen | Self::ExplicitOpen)
    }

    /// True for the three conditions that count against `max_active_zones`.
    pub const fn is_active(self) -> bool {
        matches!(self, Self::ImplicitOpen | Self::ExplicitOpen | Self::Closed)
    }

    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::NotWp,
        Self::Empty,
        Self::ImplicitOpen,
        Self::ExplicitOpen,
        Self::Closed,
        Self::ReadOnly,
        Self::Full,
        Self::Offline,
    ];
}

impl TryFrom<u8> for Condition {
    type Error = UnknownValue;

    fn try_from(value: u8) -> Result<Self, UnknownValue> {
        Self::ALL.into_iter().find(|c| *c as u8 == value).ok_or(UnknownValue(value))
    }
}
