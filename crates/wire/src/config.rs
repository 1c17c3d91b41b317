//! The configuration space (virtio 5.2.4).

use core::mem::{offset_of, size_of};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `struct virtio_blk_config`: 96 bytes, of which a field is meaningful only when its feature is offered.
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
pub struct Config {
    /// Size of the disk, in 512-byte sectors.
    pub capacity: U64,
    /// Largest segment, in bytes (SIZE_MAX).
    pub size_max: U32,
    /// Most segments in one request, header and in-header not counted (SEG_MAX).
    pub seg_max: U32,
    /// Legacy-style geometry (GEOMETRY).
    pub geometry: Geometry,
    /// Logical block size, in bytes (BLK_SIZE).
    pub blk_size: U32,
    /// What I/O suits the device (TOPOLOGY).
    pub topology: Topology,
    /// 1 for a writeback cache, 0 for writethrough (CONFIG_WCE). The only field that a driver writes.
    pub writeback: u8,
    /// Always 0.
    pub unused0: u8,
    /// Request queues (MQ).
    pub num_queues: U16,
    /// Most 512-byte sectors in one DISCARD segment (DISCARD).
    pub max_discard_sectors: U32,
    /// Most segments in one DISCARD.
    pub max_discard_seg: U32,
    /// What a DISCARD segment should be aligned to, in 512-byte sectors.
    pub discard_sector_alignment: U32,
    /// Most 512-byte sectors in one WRITE_ZEROES segment (WRITE_ZEROES).
    pub max_write_zeroes_sectors: U32,
    /// Most segments in one WRITE_ZEROES.
    pub max_write_zeroes_seg: U32,
    /// 1 when WRITE_ZEROES with `unmap` may give space back.
    pub write_zeroes_may_unmap: u8,
    /// Always 0.
    pub unused1: [u8; 3],
    /// Most 512-byte sectors in one SECURE_ERASE segment (SECURE_ERASE).
    pub max_secure_erase_sectors: U32,
    /// Most segments in one SECURE_ERASE.
    pub max_secure_erase_seg: U32,
    /// What a SECURE_ERASE segment must be aligned to, in 512-byte sectors.
    pub secure_erase_sector_alignment: U32,
    /// The zone characteristics (ZONED).
    pub zoned: ZonedCharacteristics,
}

/// Legacy-style disk geometry.
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
pub struct Geometry {
    /// Cylinders.
    pub cylinders: U16,
    /// Heads.
    pub heads: u8,
    /// Sectors a track.
    pub sectors: u8,
}

/// `struct virtio_blk_topology`: what I/O suits the device.
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
pub struct Topology {
    /// Logical blocks in a physical block, as a power of two.
    pub physical_block_exp: u8,
    /// The first aligned logical block.
    pub alignment_offset: u8,
    /// Smallest I/O that suits the device, in logical blocks.
    pub min_io_size: U16,
    /// Largest I/O that suits the device, in logical blocks.
    pub opt_io_size: U32,
}

/// `struct virtio_blk_zoned_characteristics` (virtio 5.2.4, ZONED). Read-only to the driver.
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
pub struct ZonedCharacteristics {
    /// Size of every zone but perhaps the last, in 512-byte sectors.
    pub zone_sectors: U32,
    /// Most zones that are implicitly or explicitly open at a time; 0 for no limit.
    pub max_open_zones: U32,
    /// Most zones that are open or closed at a time; 0 for no limit.
    pub max_active_zones: U32,
    /// Largest ZONE_APPEND, in 512-byte sectors; 0 when there is none.
    pub max_append_sectors: U32,
    /// What writes to sequential zones are aligned to and a multiple of, in bytes.
    pub write_granularity: U32,
    /// A [`Model`](crate::Model).
    pub model: u8,
    /// Always 0.
    pub unused2: [u8; 3],
}

/// Where a field lies in the configuration space: for transports that read one field at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConfigField {
    /// Bytes from the start.
    pub offset: u32,
    /// Bytes of the field.
    pub len: u32,
}

impl Config {
    /// Bytes of the whole configuration space.
    pub const BYTES: u32 = size_of::<Self>() as u32;
    /// `capacity`.
    pub const CAPACITY: ConfigField = ConfigField { offset: 0, len: 8 };
    /// `writeback`.
    pub const WRITEBACK: ConfigField = ConfigField { offset: 32, len: 1 };
    /// `zoned`.
    pub const ZONED: ConfigField = ConfigField { offset: 72, len: 24 };
}

const _: () = {
    assert!(size_of::<Config>() == 96);
    assert!(offset_of!(Config, capacity) == 0);
    assert!(offset_of!(Config, size_max) == 8);
    assert!(offset_of!(Config, seg_max) == 12);
    assert!(offset_of!(Config, geometry) == 16);
    assert!(offset_of!(Config, blk_size) == 20);
    assert!(offset_of!(Config, topology) == 24);
    assert!(offset_of!(Config, writeback) == 32);
    assert!(offset_of!(Config, num_queues) == 34);
    assert!(offset_of!(Config, max_discard_sectors) == 36);
    assert!(offset_of!(Config, max_discard_seg) == 40);
    assert!(offset_of!(Config, discard_sector_alignment) == 44);
    assert!(offset_of!(Config, max_write_zeroes_sectors) == 48);
    assert!(offset_of!(Config, max_write_zeroes_seg) == 52);
    assert!(offset_of!(Config, write_zeroes_may_unmap) == 56);
    assert!(offset_of!(Config, max_secure_erase_sectors) == 60);
    assert!(offset_of!(Config, max_secure_erase_seg) == 64);
    assert!(offset_of!(Config, secure_erase_sector_alignment) == 68);
    assert!(offset_of!(Config, zoned) == 72);
    assert!(size_of::<ZonedCharacteristics>() == 24);
    assert!(offset_of!(ZonedCharacteristics, max_open_zones) == 4);
    assert!(offset_of!(ZonedCharacteristics, max_active_zones) == 8);
    assert!(offset_of!(ZonedCharacteristics, max_append_sectors) == 12);
    assert!(offset_of!(ZonedCharacteristics, write_granularity) == 16);
    assert!(offset_of!(ZonedCharacteristics, model) == 20);
};
