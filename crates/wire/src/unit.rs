//! The unit of every address and length of a virtio block device.

use core::fmt;

/// Bytes in a [`Sector`], whatever the block size of the device (virtio 5.2.4: "capacity ... in
/// 512-byte sectors").
pub const SECTOR_BYTES: u64 = 512;

/// An address or a length in 512-byte sectors. Bytes and blocks are other things, in other types.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sector(pub u64);

impl Sector {
    /// Sector 0, and the length of nothing.
    pub const ZERO: Self = Self(0);

    /// The sectors that hold exactly `bytes`, or `None` when `bytes` is not a multiple of 512.
    pub const fn from_bytes(bytes: u64) -> Option<Self> {
        if bytes.is_multiple_of(SECTOR_BYTES) { Some(Self(bytes / SECTOR_BYTES)) } else { None }
    }

    /// This many sectors in bytes, or `None` past 2^64.
    pub const fn to_bytes(self) -> Option<u64> {
        self.0.checked_mul(SECTOR_BYTES)
    }

    /// `self + other`, or `None` past 2^64.
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// `self - other`, or `None` below zero.
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(rest) => Some(Self(rest)),
            None => None,
        }
    }

    /// True when this is a multiple of `unit`. Nothing is a multiple of zero but zero.
    pub const fn is_multiple_of(self, unit: Self) -> bool {
        self.0.is_multiple_of(unit.0)
    }
}

impl fmt::Debug for Sector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.0)
    }
}

impl fmt::Display for Sector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_sectors_convert_only_when_nothing_is_lost() {
        assert_eq!(Sector::from_bytes(1024), Some(Sector(2)));
        assert_eq!(Sector::from_bytes(1023), None);
        assert_eq!(Sector(u64::MAX / 512).to_bytes(), Some(u64::MAX / 512 * 512));
        assert_eq!(Sector(u64::MAX / 512 + 1).to_bytes(), None);
        assert!(Sector(0).is_multiple_of(Sector(0)));
        assert!(!Sector(8).is_multiple_of(Sector(0)));
    }
}
