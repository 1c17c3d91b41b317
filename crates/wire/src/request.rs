//! Requests: what stands before the data, and what comes back behind it (virtio 5.2.6).

use bitflags::bitflags;
use core::fmt;
use core::mem::{offset_of, size_of};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `struct virtio_blk_req`, the part that the device reads first: 16 bytes.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    Debug,
    Default,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct RequestHeader {
    /// A [`RequestType`].
    pub request_type: U32,
    /// Always 0 from a driver; a device ignores it.
    pub reserved: U32,
    /// Where the request goes, in 512-byte sectors. 0 where it goes nowhere.
    pub sector: U64,
}

impl RequestHeader {
    /// Bytes on the wire.
    pub const BYTES: u32 = size_of::<Self>() as u32;

    /// A header for `request_type` at `sector` (512-byte sectors).
    pub fn new(request_type: RequestType, sector: crate::Sector) -> Self {
        Self {
            request_type: U32::new(request_type.0),
            reserved: U32::new(0),
            sector: U64::new(sector.0),
        }
    }

    /// The type, whatever number stands there.
    pub fn request_type(&self) -> RequestType {
        RequestType(self.request_type.get())
    }

    /// The sector.
    pub fn sector(&self) -> crate::Sector {
        crate::Sector(self.sector.get())
    }
}

/// What a ZONE_APPEND gives back: the sector where the data went, then the status, always last.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    Debug,
    Default,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct AppendInHeader {
    /// The first sector written, in 512-byte sectors; undefined unless the status is OK.
    pub append_sector: U64,
    /// A [`Status`].
    pub status: u8,
}

impl AppendInHeader {
    /// Bytes on the wire.
    pub const BYTES: u32 = size_of::<Self>() as u32;
}

/// The type of a request. Open: a peer may send any number.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestType(pub u32);

impl RequestType {
    /// Read.
    pub const IN: Self = Self(0);
    /// Write.
    pub const OUT: Self = Self(1);
    /// Commit what was written to stable storage.
    pub const FLUSH: Self = Self(4);
    /// The device's name: [`ID_BYTES`] of it.
    pub const GET_ID: Self = Self(8);
    /// How worn the device is: a [`Lifetime`].
    pub const GET_LIFETIME: Self = Self(10);
    /// Forget ranges.
    pub const DISCARD: Self = Self(11);
    /// Zero ranges.
    pub const WRITE_ZEROES: Self = Self(13);
    /// Erase ranges for good.
    pub const SECURE_ERASE: Self = Self(14);
    /// Write at a zone's write pointer, wherever that is.
    pub const ZONE_APPEND: Self = Self(15);
    /// Describe zones.
    pub const ZONE_REPORT: Self = Self(16);
    /// Open a zone explicitly.
    pub const ZONE_OPEN: Self = Self(18);
    /// Close a zone.
    pub const ZONE_CLOSE: Self = Self(20);
    /// Make a zone full.
    pub const ZONE_FINISH: Self = Self(22);
    /// Make a zone empty.
    pub const ZONE_RESET: Self = Self(24);
    /// Make every sequential zone empty.
    pub const ZONE_RESET_ALL: Self = Self(26);

    /// The specification's name, or `None` for a number that it does not give out.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::IN => "IN",
            Self::OUT => "OUT",
            Self::FLUSH => "FLUSH",
            Self::GET_ID => "GET_ID",
            Self::GET_LIFETIME => "GET_LIFETIME",
            Self::DISCARD => "DISCARD",
            Self::WRITE_ZEROES => "WRITE_ZEROES",
            Self::SECURE_ERASE => "SECURE_ERASE",
            Self::ZONE_APPEND => "ZONE_APPEND",
            Self::ZONE_REPORT => "ZONE_REPORT",
            Self::ZONE_OPEN => "ZONE_OPEN",
            Self::ZONE_CLOSE => "ZONE_CLOSE",
            Self::ZONE_FINISH => "ZONE_FINISH",
            Self::ZONE_RESET => "ZONE_RESET",
            Self::ZONE_RESET_ALL => "ZONE_RESET_ALL",
            _ => return None,
        })
    }

    /// True for the requests that exist only with the ZONED feature.
    pub const fn is_zoned(self) -> bool {
        matches!(
            self,
            Self::ZONE_APPEND
                | Self::ZONE_REPORT
                | Self::ZONE_OPEN
                | Self::ZONE_CLOSE
                | Self::ZONE_FINISH
                | Self::ZONE_RESET
                | Self::ZONE_RESET_ALL
        )
    }
}

impl fmt::Debug for RequestType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "request type {}", self.0),
        }
    }
}

/// The status byte, the last byte of every request. Open: a device may send any number.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(pub u8);

impl Status {
    /// Done.
    pub const OK: Self = Self(0);
    /// The device or its medium failed, or the request made no sense.
    pub const IOERR: Self = Self(1);
    /// The device does not do this.
    pub const UNSUPP: Self = Self(2);
    /// The zone can not do this now, or never.
    pub const ZONE_INVALID_CMD: Self = Self(3);
    /// Not at the write pointer, or not a multiple of the write granularity.
    pub const ZONE_UNALIGNED_WP: Self = Self(4);
    /// `max_open_zones` is reached.
    pub const ZONE_OPEN_RESOURCE: Self = Self(5);
    /// `max_active_zones` is reached.
    pub const ZONE_ACTIVE_RESOURCE: Self = Self(6);

    /// The specification's name without its prefix, or `None` for a number that it does not give out.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::OK => "OK",
            Self::IOERR => "IOERR",
            Self::UNSUPP => "UNSUPP",
            Self::ZONE_INVALID_CMD => "ZONE_INVALID_CMD",
            Self::ZONE_UNALIGNED_WP => "ZONE_UNALIGNED_WP",
            Self::ZONE_OPEN_RESOURCE => "ZONE_OPEN_RESOURCE",
            Self::ZONE_ACTIVE_RESOURCE => "ZONE_ACTIVE_RESOURCE",
            _ => return None,
        })
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "status {}", self.0),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Bytes of a GET_ID answer: ASCII, padded with NUL, with none when all are used.
pub const ID_BYTES: u32 = 20;

/// One range of a DISCARD, WRITE_ZEROES or SECURE_ERASE: 16 bytes.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    Debug,
    Default,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct DiscardSegment {
    /// First 512-byte sector.
    pub sector: U64,
    /// How many 512-byte sectors.
    pub num_sectors: U32,
    /// [`DISCARD_FLAG_UNMAP`], the rest 0.
    pub flags: U32,
}

/// `unmap`: a WRITE_ZEROES may give the space back. Never set in a DISCARD or SECURE_ERASE.
pub const DISCARD_FLAG_UNMAP: u32 = 1;

impl DiscardSegment {
    /// Bytes on the wire.
    pub const BYTES: u32 = size_of::<Self>() as u32;
}

/// `struct virtio_blk_lifetime`: what GET_LIFETIME answers.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    Debug,
    Default,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Lifetime {
    /// Spare blocks used: 0 undefined, 1 normal, 2 80 %, 3 90 %.
    pub pre_eol_info: U16,
    /// Wear of the first kind of cell, in tenths: 0 undefined, 1 to 11.
    pub device_lifetime_est_typ_a: U16,
    /// Wear of the second kind of cell, in tenths: 0 undefined, 1 to 11.
    pub device_lifetime_est_typ_b: U16,
}

bitflags! {
    /// The device status field (virtio 2.1), where driver and device tell each other how far they are.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct DeviceStatus: u8 {
        /// The driver has seen the device.
        const ACKNOWLEDGE = 1;
        /// The driver knows how to drive it.
        const DRIVER = 2;
        /// The driver is ready: queues may be used.
        const DRIVER_OK = 4;
        /// The features are agreed on.
        const FEATURES_OK = 8;
        /// The device can go on only after a reset.
        const NEEDS_RESET = 64;
        /// The driver has given up.
        const FAILED = 128;

        const _ = !0;
    }
}

const _: () = {
    assert!(size_of::<RequestHeader>() == 16);
    assert!(offset_of!(RequestHeader, sector) == 8);
    assert!(size_of::<AppendInHeader>() == 9);
    assert!(offset_of!(AppendInHeader, status) == 8);
    assert!(size_of::<DiscardSegment>() == 16);
    assert!(offset_of!(DiscardSegment, num_sectors) == 8);
    assert!(offset_of!(DiscardSegment, flags) == 12);
    assert!(size_of::<Lifetime>() == 6);
};
