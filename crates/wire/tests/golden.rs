//! Golden bytes, written by hand from the specification's tables and read in both directions.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use zvb_wire::zerocopy::little_endian::{U16, U32, U64};
use zvb_wire::zerocopy::{FromBytes, IntoBytes};
use zvb_wire::*;

fn both_ways<T>(value: T, bytes: &[u8])
where
    T: IntoBytes
        + FromBytes
        + zerocopy::Immutable
        + zerocopy::KnownLayout
        + PartialEq
        + core::fmt::Debug,
{
    assert_eq!(value.as_bytes(), bytes, "construct");
    assert_eq!(T::read_from_bytes(bytes).unwrap(), value, "deconstruct");
}

#[test]
fn request_header() {
    both_ways(
        RequestHeader::new(RequestType::ZONE_APPEND, Sector(0x0102_0304_0506)),
        &[15, 0, 0, 0, 0, 0, 0, 0, 6, 5, 4, 3, 2, 1, 0, 0],
    );
}

#[test]
fn append_in_header_ends_with_the_status() {
    both_ways(
        AppendInHeader { append_sector: U64::new(0x80_0001), status: Status::ZONE_UNALIGNED_WP.0 },
        &[1, 0, 0x80, 0, 0, 0, 0, 0, 4],
    );
}

#[test]
fn zone_report() {
    let mut header = [0; 64];
    header[0] = 3;
    both_ways(ZoneReportHeader::new(3), &header);

    let mut descriptor = [0; 64];
    descriptor[..8].copy_from_slice(&[0, 0, 6, 0, 0, 0, 0, 0]);
    descriptor[8..16].copy_from_slice(&[0, 0, 8, 0, 0, 0, 0, 0]);
    descriptor[16..24].copy_from_slice(&[8, 0, 8, 0, 0, 0, 0, 0]);
    descriptor[24] = 2;
    descriptor[25] = 2;
    both_ways(
        ZoneDescriptor {
            z_cap: U64::new(0x6_0000),
            z_start: U64::new(0x8_0000),
            z_wp: U64::new(0x8_0008),
            z_type: ZoneType::SequentialRequired as u8,
            z_state: Condition::ImplicitOpen as u8,
            reserved: [0; 38],
        },
        &descriptor,
    );
}

#[test]
fn configuration_space() {
    let config = Config {
        capacity: U64::new(0x0102_0304),
        size_max: U32::new(0x11),
        seg_max: U32::new(0x12),
        geometry: Geometry { cylinders: U16::new(0x13), heads: 0x14, sectors: 0x15 },
        blk_size: U32::new(0x1000),
        topology: Topology {
            physical_block_exp: 0x16,
            alignment_offset: 0x17,
            min_io_size: U16::new(0x18),
            opt_io_size: U32::new(0x19),
        },
        writeback: 1,
        unused0: 0,
        num_queues: U16::new(0x1a),
        max_discard_sectors: U32::new(0x1b),
        max_discard_seg: U32::new(0x1c),
        discard_sector_alignment: U32::new(0x1d),
        max_write_zeroes_sectors: U32::new(0x1e),
        max_write_zeroes_seg: U32::new(0x1f),
        write_zeroes_may_unmap: 1,
        unused1: [0; 3],
        max_secure_erase_sectors: U32::new(0x20),
        max_secure_erase_seg: U32::new(0x21),
        secure_erase_sector_alignment: U32::new(0x22),
        zoned: ZonedCharacteristics {
            zone_sectors: U32::new(0x8_0000),
            max_open_zones: U32::new(0x23),
            max_active_zones: U32::new(0x24),
            max_append_sectors: U32::new(0x25),
            write_granularity: U32::new(0x1000),
            model: Model::HostManaged as u8,
            unused2: [0; 3],
        },
    };
    #[rustfmt::skip]
    let bytes = [
        4, 3, 2, 1, 0, 0, 0, 0,  0x11, 0, 0, 0,  0x12, 0, 0, 0,
        0x13, 0, 0x14, 0x15,  0, 0x10, 0, 0,  0x16, 0x17, 0x18, 0,  0x19, 0, 0, 0,
        1, 0, 0x1a, 0,  0x1b, 0, 0, 0,  0x1c, 0, 0, 0,  0x1d, 0, 0, 0,
        0x1e, 0, 0, 0,  0x1f, 0, 0, 0,  1, 0, 0, 0,  0x20, 0, 0, 0,
        0x21, 0, 0, 0,  0x22, 0, 0, 0,
        0, 0, 8, 0,  0x23, 0, 0, 0,  0x24, 0, 0, 0,  0x25, 0, 0, 0,  0, 0x10, 0, 0,  1, 0, 0, 0,
    ];
    both_ways(config, &bytes);
}

#[test]
fn ranges_and_lifetime() {
    both_ways(
        DiscardSegment { sector: U64::new(8), num_sectors: U32::new(16), flags: U32::new(1) },
        &[8, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 1, 0, 0, 0],
    );
    both_ways(
        Lifetime {
            pre_eol_info: U16::new(1),
            device_lifetime_est_typ_a: U16::new(2),
            device_lifetime_est_typ_b: U16::new(0x0304),
        },
        &[1, 0, 2, 0, 4, 3],
    );
}

/// The numbers of the specification, once more and by hand.
#[test]
fn numbers() {
    let types = [
        (RequestType::IN, 0),
        (RequestType::OUT, 1),
        (RequestType::FLUSH, 4),
        (RequestType::GET_ID, 8),
        (RequestType::GET_LIFETIME, 10),
        (RequestType::DISCARD, 11),
        (RequestType::WRITE_ZEROES, 13),
        (RequestType::SECURE_ERASE, 14),
        (RequestType::ZONE_APPEND, 15),
        (RequestType::ZONE_REPORT, 16),
        (RequestType::ZONE_OPEN, 18),
        (RequestType::ZONE_CLOSE, 20),
        (RequestType::ZONE_FINISH, 22),
        (RequestType::ZONE_RESET, 24),
        (RequestType::ZONE_RESET_ALL, 26),
    ];
    for (named, number) in types {
        assert_eq!(named.0, number);
        assert!(named.name().is_some());
        assert_eq!(named.is_zoned(), number >= 15);
    }
    assert_eq!(RequestType(17).name(), None);

    let statuses: Vec<_> = (0..7).map(|n| Status(n).to_string()).collect();
    assert_eq!(
        statuses,
        [
            "OK",
            "IOERR",
            "UNSUPP",
            "ZONE_INVALID_CMD",
            "ZONE_UNALIGNED_WP",
            "ZONE_OPEN_RESOURCE",
            "ZONE_ACTIVE_RESOURCE"
        ]
    );
    assert_eq!(Status(7).to_string(), "status 7");

    let conditions: Vec<_> = (0..=255u8).filter(|n| Condition::try_from(*n).is_ok()).collect();
    assert_eq!(conditions, [0, 1, 2, 3, 4, 13, 14, 15]);
    let types: Vec<_> = (0..=255u8).filter(|n| ZoneType::try_from(*n).is_ok()).collect();
    assert_eq!(types, [1, 2, 3]);
    let models: Vec<_> = (0..=255u8).filter(|n| Model::try_from(*n).is_ok()).collect();
    assert_eq!(models, [0, 1, 2]);
    assert_eq!(Features::ZONED.bits(), 1 << 17);
    assert_eq!(Features::VERSION_1.bits(), 1 << 32);
}
