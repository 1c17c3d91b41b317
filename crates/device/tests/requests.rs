//! Every request and every status, from a guest that writes its ring by hand. Numbers are those of
//! docs/conformance.md.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::{Arc, Mutex};

use support::*;
use zvb_device::{Device, DeviceOptions, GuestFault, Observer};
use zvb_wire::zerocopy::IntoBytes;
use zvb_wire::zerocopy::little_endian::{U32, U64};
use zvb_wire::{Condition, DiscardSegment, Features, Model, RequestType, Sector, Status};
use zvb_zones::Snapshot;

fn host_managed() -> Guest {
    Guest::new(&session(&TestVolume::zoned(small(Model::HostManaged, 2, 3))), 0)
}

#[test]
fn what_is_written_at_the_pointer_reads_back_and_the_rest_is_zero() {
    let mut g = host_managed();
    let data = pattern(1, 8);
    assert_eq!(g.write(32, &data), Status::OK);
    let (status, back) = g.read(32, 16);
    assert_eq!(status, Status::OK);
    assert_eq!(&back[..8 * 512], &data);
    // 64: unwritten sectors are zeroes, though the medium holds rubbish there.
    assert!(back[8 * 512..].iter().all(|b| *b == 0));
    assert_eq!(g.written(32), 8);
    assert_eq!(g.conditions()[1], Condition::ImplicitOpen);
}

#[test]
fn any_framing_of_header_data_and_status_means_the_same() {
    // 144, 95: one byte a descriptor, pieces that straddle header and data.
    let header = Guest::header(RequestType::OUT, 32);
    let data = pattern(9, 8);
    let all: Vec<u8> = header.iter().chain(&data).copied().collect();
    for cut in [1, 7, 15, 16, 17, 100, 4000] {
        let mut g = host_managed();
        let answer = g.request(&[&all[..cut], &all[cut..]], &[1]);
        assert_eq!((answer.status(), answer.used), (Status::OK, 1), "cut at {cut}");
        assert_eq!(g.read(32, 8), (Status::OK, data.clone()));
    }
    let mut g = host_managed();
    let bytes: Vec<&[u8]> = header.chunks(1).chain(data.chunks(64)).collect();
    assert_eq!(g.request(&bytes, &[1]).status(), Status::OK);
    // The append's in-header, one byte each; then joined with nothing else.
    let header = Guest::header(RequestType::ZONE_APPEND, 32);
    let answer = g.request(&[&header, &data], &[1; 9]);
    assert_eq!((answer.status(), answer.used), (Status::OK, 9));
    assert_eq!(u64::from_le_bytes(answer.writable[..8].try_into().unwrap()), 40);
    // Linux has 16 bytes for them: the sector is at the front and the status at the end, in any pieces.
    for pieces in [&[16][..], &[3, 9, 4], &[15, 1]] {
        let reset = g.request(&[&Guest::header(RequestType::ZONE_RESET, 32)], &[1]);
        assert_eq!(reset.status(), Status::OK);
        assert_eq!(g.write(32, &pattern(2, 8)), Status::OK);
        let answer = g.request(&[&header, &data], pieces);
        assert_eq!((answer.status(), answer.used), (Status::OK, 8), "{pieces:?}");
        assert_eq!(u64::from_le_bytes(answer.writable[..8].try_into().unwrap()), 40);
        assert_eq!(answer.writable[8..15], [0xaa; 7]);
    }
    // A read whose data and status share a descriptor.
    let answer = g.request(&[&Guest::header(RequestType::IN, 40)], &[8 * 512 + 1]);
    assert_eq!((answer.status(), answer.used), (Status::OK, 8 * 512 + 1));
    assert_eq!(&answer.writable[..8 * 512], &data);
}

#[test]
fn every_refusal_has_its_status() {
    let mut g = host_managed();
    let block = pattern(3, 8);
    let cases: &[(&str, u64, usize, Status)] = &[
        ("59 not at the pointer", 40, 8, Status::ZONE_UNALIGNED_WP),
        ("72 no multiple of the granularity", 32, 1, Status::ZONE_UNALIGNED_WP),
        ("53 past the capacity", 32, 32, Status::ZONE_INVALID_CMD),
        ("58 across two zones", 32, 40, Status::ZONE_INVALID_CMD),
        ("58 from a conventional zone into a sequential one", 24, 16, Status::ZONE_INVALID_CMD),
        ("53 past the end of the disk", 160, 24, Status::ZONE_INVALID_CMD),
        ("53 past the end of the disk, and off the pointer", 168, 16, Status::ZONE_INVALID_CMD),
        ("past the end, from a conventional zone", 0, 184, Status::IOERR),
        ("past the end", 176, 8, Status::IOERR),
        ("address overflow", u64::MAX, 8, Status::IOERR),
        ("ok", 32, 8, Status::OK),
        ("94 nothing to write", 40, 0, Status::OK),
    ];
    for (what, at, sectors, expected) in cases {
        assert_eq!(g.write(*at, &pattern(0, *sectors)), *expected, "{what}");
    }
    assert_eq!(g.written(32), 8);
    let appends: &[(&str, u64, usize, Status)] = &[
        ("52 not a zone's start", 40, 8, Status::ZONE_INVALID_CMD),
        ("44 conventional", 0, 8, Status::ZONE_INVALID_CMD),
        ("57 above the limit", 32, 24, Status::ZONE_INVALID_CMD),
        ("72 no multiple of the granularity", 32, 3, Status::ZONE_UNALIGNED_WP),
        ("ok", 32, 16, Status::OK),
        ("53 full", 32, 8, Status::ZONE_INVALID_CMD),
    ];
    for (what, at, sectors, expected) in appends {
        let (status, sector) = g.append(*at, &pattern(0, *sectors));
        assert_eq!(status, *expected, "{what}");
        assert_eq!(sector, if status == Status::OK { 40 } else { u64::MAX }, "{what}");
    }
    assert_eq!(g.conditions()[1], Condition::Full);
    // 45: OPEN of FULL; 43: conventional; 47: CLOSE of EMPTY; 124: not a zone's start.
    for (request, at) in [
        (RequestType::ZONE_OPEN, 32),
        (RequestType::ZONE_OPEN, 0),
        (RequestType::ZONE_CLOSE, 0),
        (RequestType::ZONE_FINISH, 0),
        (RequestType::ZONE_RESET, 0),
        (RequestType::ZONE_CLOSE, 64),
        (RequestType::ZONE_RESET, 33),
        (RequestType::ZONE_OPEN, 176),
    ] {
        assert_eq!(g.simple(request, at), Status::ZONE_INVALID_CMD, "{request:?} {at}");
    }
    assert_eq!(g.write(32, &block), Status::ZONE_INVALID_CMD);
}

#[test]
fn limits_refuse_or_close() {
    let mut g = host_managed();
    let block = pattern(5, 8);
    // 85: the third implicitly open zone closes the first.
    for zone in [32, 64, 96] {
        assert_eq!(g.write(zone, &block), Status::OK);
    }
    use Condition::*;
    assert_eq!(g.conditions(), [NotWp, Closed, ImplicitOpen, ImplicitOpen, Empty, Empty]);
    // 70: all three active: the active limit speaks first.
    assert_eq!(g.write(128, &block), Status::ZONE_ACTIVE_RESOURCE);
    assert_eq!(g.simple(RequestType::ZONE_OPEN, 128), Status::ZONE_ACTIVE_RESOURCE);
    // 87: explicitly open zones are never closed to make room.
    assert_eq!(g.simple(RequestType::ZONE_OPEN, 64), Status::OK);
    assert_eq!(g.simple(RequestType::ZONE_OPEN, 96), Status::OK);
    assert_eq!(g.write(40, &block), Status::ZONE_OPEN_RESOURCE);
    assert_eq!(g.conditions(), [NotWp, Closed, ExplicitOpen, ExplicitOpen, Empty, Empty]);
    // 90: FINISH needs nothing.
    assert_eq!(g.simple(RequestType::ZONE_FINISH, 128), Status::OK);
    assert_eq!(g.simple(RequestType::ZONE_FINISH, 32), Status::OK);
    assert_eq!(g.simple(RequestType::ZONE_CLOSE, 64), Status::OK);
    assert_eq!(g.conditions(), [NotWp, Full, Closed, ExplicitOpen, Full, Empty]);
    // 63: what FINISH skipped reads as zeroes.
    let (_, back) = g.read(32, 24);
    assert_eq!(&back[..8 * 512], &block);
    assert!(back[8 * 512..].iter().all(|b| *b == 0));
    assert_eq!(g.simple(RequestType::ZONE_RESET_ALL, 0), Status::OK);
    assert_eq!(g.conditions(), [NotWp, Empty, Empty, Empty, Empty, Empty]);
    assert!(g.read(32, 24).1.iter().all(|b| *b == 0));
}

#[test]
fn reports_fit_any_buffer() {
    let mut g = host_managed();
    // 75: whole descriptors only; 74: from the zone that holds the sector.
    for (room, zones) in [(64, 0), (127, 0), (128, 1), (191, 1), (64 * 7, 6), (64 * 20, 6)] {
        assert_eq!(g.report(0, room).1.len(), zones, "{room}");
    }
    for room in [0, 1, 63] {
        let answer = g.request(&[&Guest::header(RequestType::ZONE_REPORT, 0)], &[room, 1]);
        assert_eq!(answer.status(), Status::ZONE_INVALID_CMD);
        assert!(answer.writable[..room].iter().all(|b| *b == 0xaa));
    }
    let (_, zones) = g.report(100, 64 * 20);
    let starts: Vec<_> = zones.iter().map(|z| z.z_start.get()).collect();
    assert_eq!(starts, [96, 128, 160]);
    assert_eq!(zones[2].z_cap.get(), 16);
    assert_eq!(g.report(176, 128).0, Status::ZONE_INVALID_CMD);
}

#[test]
fn the_disk_says_its_name() {
    let mut g = host_managed();
    let header = Guest::header(RequestType::GET_ID, 0);
    let answer = g.request(&[&header], &[20, 1]);
    assert_eq!((&answer.writable[..20], answer.used), (b"a-disk-of-twenty-byt".as_slice(), 21));
    // 40: neither more nor less than there is, whatever the room.
    let answer = g.request(&[&header], &[8, 1]);
    assert_eq!((&answer.writable[..8], answer.used), (b"a-disk-o".as_slice(), 9));
    let answer = g.request(&[&header], &[32, 1]);
    assert_eq!((answer.status(), answer.used), (Status::OK, 20));
    assert!(answer.writable[20..32].iter().all(|b| *b == 0xaa));
}

#[test]
fn what_was_not_negotiated_is_not_there() {
    // 42, 40
    let volume = TestVolume::zoned(small(Model::HostAware, 0, 0));
    let session =
        session_with(&volume, 1, ALL - Features::ZONED - Features::DISCARD - Features::FLUSH);
    let mut g = Guest::new(&session, 0);
    for number in 0..40 {
        let request = RequestType(number);
        let expected = match request {
            RequestType::IN | RequestType::OUT | RequestType::GET_ID => Status::OK,
            // No ranges.
            RequestType::WRITE_ZEROES => Status::IOERR,
            _ => Status::UNSUPP,
        };
        assert_eq!(
            g.request(&[&Guest::header(request, 0)], &[1]).status(),
            expected,
            "{request:?}"
        );
    }
    // 7: host-aware and not wanted as zoned: the zoned fields are zero.
    assert_eq!(session.config().zoned.as_bytes(), [0; 24]);
}

#[test]
fn host_managed_without_zoned_is_refused() {
    // 8
    let device = zvb_device::Device::new(
        TestVolume::zoned(small(Model::HostManaged, 0, 0)),
        zvb_device::DeviceOptions::default(),
    )
    .unwrap();
    let session = device.session();
    let wanted = device.features() - Features::ZONED;
    assert_eq!(session.accept(wanted), Err(zvb_device::FeatureRefusal::HostManagedWithoutZoned));
    assert!(!session.is_negotiated());
    assert!(!device.features().contains(Features::DISCARD), "of no use to a driver of this device");
    assert_eq!(
        session.accept(device.features() | Features::LIFETIME),
        Err(zvb_device::FeatureRefusal::NotOffered(Features::LIFETIME))
    );
    assert_eq!(
        session.accept(device.features() - Features::VERSION_1),
        Err(zvb_device::FeatureRefusal::Legacy)
    );
    session.accept(device.features()).unwrap();
}

fn range(sector: u64, sectors: u32, flags: u32) -> DiscardSegment {
    DiscardSegment {
        sector: U64::new(sector),
        num_sectors: U32::new(sectors),
        flags: U32::new(flags),
    }
}

fn ranges(g: &mut Guest, request: RequestType, ranges: &[DiscardSegment]) -> Status {
    g.request(&[&Guest::header(request, 0), ranges.as_bytes()], &[1]).status()
}

#[test]
fn zeroes_obey_the_rules_of_writes() {
    let mut g = host_managed();
    assert_eq!(g.write(0, &pattern(1, 16)), Status::OK);
    let zero = RequestType::WRITE_ZEROES;
    assert_eq!(ranges(&mut g, zero, &[range(0, 8, 1), range(12, 1, 0)]), Status::OK);
    let (_, back) = g.read(0, 16);
    assert!(back[..8 * 512].iter().all(|b| *b == 0));
    assert_eq!(back[8 * 512..12 * 512], pattern(1, 16)[8 * 512..12 * 512]);
    assert!(back[12 * 512..13 * 512].iter().all(|b| *b == 0));
    // A sequential zone takes them at its pointer, and the pointer moves.
    assert_eq!(ranges(&mut g, zero, &[range(40, 8, 0)]), Status::ZONE_UNALIGNED_WP);
    assert_eq!(ranges(&mut g, zero, &[range(32, 8, 0), range(40, 8, 0)]), Status::OK);
    assert_eq!(g.written(32), 16);
    assert!(g.read(32, 24).1.iter().all(|b| *b == 0));
    // 26: unknown flags before anything else; then what makes no sense.
    assert_eq!(ranges(&mut g, zero, &[range(u64::MAX, 8, 2)]), Status::UNSUPP);
    assert_eq!(ranges(&mut g, zero, &[range(u64::MAX, 8, 0)]), Status::IOERR);
    assert_eq!(ranges(&mut g, zero, &[range(0, u32::MAX, 0)]), Status::IOERR);
    assert_eq!(ranges(&mut g, zero, &[range(0, 8, 0); 17]), Status::IOERR);
    assert_eq!(ranges(&mut g, zero, &[]), Status::IOERR);
    let whole = range(0, 8, 0);
    assert_eq!(
        g.request(&[&Guest::header(zero, 0), &whole.as_bytes()[..15]], &[1]).status(),
        Status::IOERR
    );
    assert_eq!(ranges(&mut g, RequestType::DISCARD, &[range(0, 8, 0)]), Status::UNSUPP);
}

#[test]
fn discards_where_they_are_offered() {
    let mut g = Guest::new(&session(&TestVolume::plain(64)), 0);
    assert_eq!(g.write(0, &pattern(1, 64)), Status::OK);
    assert_eq!(
        ranges(&mut g, RequestType::DISCARD, &[range(0, 8, 0), range(56, 8, 0)]),
        Status::OK
    );
    // 27, 26
    assert_eq!(ranges(&mut g, RequestType::DISCARD, &[range(8, 8, 1)]), Status::UNSUPP);
    assert_eq!(ranges(&mut g, RequestType::DISCARD, &[range(60, 8, 0)]), Status::IOERR);
    let (_, back) = g.read(0, 64);
    assert!(back[..8 * 512].iter().all(|b| *b == 0));
    assert_eq!(back[8 * 512..56 * 512], pattern(1, 64)[8 * 512..56 * 512]);
    assert!(back[56 * 512..].iter().all(|b| *b == 0));
    // 42: a plain disk knows no zones.
    assert_eq!(g.simple(RequestType::ZONE_RESET_ALL, 0), Status::UNSUPP);
}

/// Keeps what the guest did wrong.
#[derive(Default)]
struct Faults(Mutex<Vec<GuestFault>>);

impl Observer for Faults {
    fn guest_fault(&self, _: u16, fault: &GuestFault) {
        self.0.lock().unwrap().push(*fault);
    }
    fn queue_retired(&self, _: u16, _: &zvb_ring::RingError) {}
    fn medium_fault(&self, _: u16, _: RequestType, _: Sector, _: &zvb_storage::Failure) {}
}

#[test]
fn ranges_are_as_long_as_the_configuration_says_and_no_longer() {
    let faults = Arc::new(Faults::default());
    let observer = Arc::<Faults>::clone(&faults);
    let options = DeviceOptions { secure_erase: true, observer, ..Default::default() };
    let device = Device::new(TestVolume::plain(64), options).unwrap();
    let session = device.session();
    session.accept(device.features()).unwrap();
    let config = session.config();
    let mut g = Guest::new(&session, 0);
    for (request, most) in [
        (RequestType::DISCARD, config.max_discard_sectors.get()),
        (RequestType::WRITE_ZEROES, config.max_write_zeroes_sectors.get()),
        (RequestType::SECURE_ERASE, config.max_secure_erase_sectors.get()),
    ] {
        let (at, sectors) = (Sector(0), most + 1);
        let expected =
            [GuestFault::RangeLength { request, sectors }, GuestFault::PastEnd { request, at }];
        for (sectors, fault) in [sectors, most].into_iter().zip(expected) {
            assert_eq!(ranges(&mut g, request, &[range(0, sectors, 0)]), Status::IOERR);
            assert_eq!(std::mem::take(&mut *faults.0.lock().unwrap()), [fault]);
        }
    }
}

/// Host-aware zones that gave up are not discarded either (61, 62).
#[test]
fn zones_that_gave_up_are_not_discarded() {
    let written = Snapshot::new(Condition::Closed, Sector(8));
    let mut states = vec![written; 6];
    states[0] = Snapshot::CONVENTIONAL;
    states[2] = Snapshot::new(Condition::ReadOnly, Sector(8));
    states[4] = Snapshot::new(Condition::Offline, Sector(0));
    let volume = TestVolume::recovered(small(Model::HostAware, 0, 0), states);
    let mut g = Guest::new(&session(&volume), 0);
    let discard = RequestType::DISCARD;
    for (at, sectors, expected) in [
        (0, 64, Status::OK),
        (56, 16, Status::ZONE_INVALID_CMD),
        (64, 8, Status::ZONE_INVALID_CMD),
        (96, 32, Status::OK),
        (96, 64, Status::ZONE_INVALID_CMD),
        (159, 8, Status::ZONE_INVALID_CMD),
        (160, 16, Status::OK),
    ] {
        assert_eq!(ranges(&mut g, discard, &[range(at, sectors, 0)]), expected, "{at}");
    }
}

#[test]
fn a_read_only_disk_changes_nothing() {
    // 25
    let volume = TestVolume::read_only(small(Model::HostManaged, 0, 0));
    let mut g = Guest::new(&session(&volume), 0);
    assert_eq!(g.write(32, &pattern(1, 8)), Status::IOERR);
    assert_eq!(g.append(32, &pattern(1, 8)).0, Status::IOERR);
    assert_eq!(ranges(&mut g, RequestType::WRITE_ZEROES, &[range(0, 8, 0)]), Status::IOERR);
    for request in [
        RequestType::ZONE_OPEN,
        RequestType::ZONE_CLOSE,
        RequestType::ZONE_FINISH,
        RequestType::ZONE_RESET,
        RequestType::ZONE_RESET_ALL,
    ] {
        assert_eq!(g.simple(request, 32), Status::IOERR, "{request:?}");
    }
    assert_eq!(g.simple(RequestType::FLUSH, 0), Status::OK);
    assert_eq!(g.read(0, 32).0, Status::OK);
    assert!(volume.recorded(1).is_none());
}

#[test]
fn requests_that_can_hardly_be_answered() {
    let mut g = host_managed();
    // No room for a status, no header, half a header.
    assert_eq!(g.request(&[&Guest::header(RequestType::FLUSH, 0)], &[]).used, 0);
    assert_eq!(g.request(&[], &[1]).status(), Status::IOERR);
    let answer = g.request(&[&[0; 15]], &[512, 1]);
    assert_eq!((answer.status(), answer.used), (Status::IOERR, 0));
    // An append without room for its sector.
    let header = Guest::header(RequestType::ZONE_APPEND, 32);
    let answer = g.request(&[&header, &pattern(1, 8)], &[8]);
    assert_eq!(answer.writable, [&[0xaa; 7][..], &[Status::IOERR.0]].concat());
    // 112: half a sector.
    assert_eq!(g.request(&[&Guest::header(RequestType::IN, 0)], &[100, 1]).status(), Status::IOERR);
    assert_eq!(
        g.request(&[&Guest::header(RequestType::OUT, 0), &[1; 513]], &[1]).status(),
        Status::IOERR
    );
    // A write with writable bytes before its status, which nobody writes.
    let answer = g.request(&[&Guest::header(RequestType::OUT, 32), &pattern(1, 8)], &[5, 1]);
    assert_eq!((answer.status(), answer.used), (Status::OK, 0));
    assert_eq!(g.written(32), 8);
}

#[test]
fn the_cache_mode_decides_what_is_durable() {
    // 33: neither FLUSH nor CONFIG_WCE: every change is committed first.
    let volume = TestVolume::zoned(small(Model::HostManaged, 0, 0));
    let mut g =
        Guest::new(&session_with(&volume, 1, ALL - Features::FLUSH - Features::CONFIG_WCE), 0);
    assert_eq!(g.write(32, &pattern(1, 8)), Status::OK);
    assert_eq!(g.simple(RequestType::ZONE_RESET, 32), Status::OK);
    assert_eq!(g.read(32, 8).0, Status::OK);
    assert_eq!(volume.flushes(), 2);
    // 34, 118: and with CONFIG_WCE, as the driver says.
    let volume = TestVolume::zoned(small(Model::HostManaged, 0, 0));
    let session = session(&volume);
    let mut g = Guest::new(&session, 0);
    assert_eq!(session.config().writeback, 1);
    assert_eq!(g.write(32, &pattern(1, 8)), Status::OK);
    assert_eq!(volume.flushes(), 0);
    session.write_config(32, &[0]).unwrap();
    assert_eq!(g.append(32, &pattern(2, 8)), (Status::OK, 40));
    assert_eq!(volume.flushes(), 1);
    assert_eq!(g.simple(RequestType::FLUSH, 0), Status::OK);
    assert_eq!(volume.flushes(), 2);
    // 20: nothing else can be written.
    assert!(session.write_config(72, &[1; 24]).is_err());
    assert!(session.write_config(32, &[2]).is_err());
    assert!(session.write_config(u32::MAX, &[2, 2]).is_err());
    // Without CONFIG_WCE the mode is not the driver's to choose.
    let fixed = session_with(&volume, 1, ALL - Features::CONFIG_WCE);
    assert!(fixed.write_config(32, &[1 - fixed.config().writeback]).is_err());
    // 3: CONFIG_WCE without FLUSH begins with writethrough.
    let session = session_with(&volume, 1, ALL - Features::FLUSH);
    assert_eq!(session.config().writeback, 0);
}

#[test]
fn host_aware_zones_take_writes_anywhere() {
    // 81
    let mut g = Guest::new(&session(&TestVolume::zoned(small(Model::HostAware, 0, 0))), 0);
    assert_eq!(g.write(48, &pattern(1, 1)), Status::OK);
    assert_eq!(g.written(32), 17);
    assert_eq!(g.write(32, &pattern(2, 1)), Status::OK);
    assert_eq!(g.written(32), 17);
    assert_eq!(g.append(32, &pattern(2, 8)).0, Status::ZONE_INVALID_CMD);
    // Across zones, from the conventional one on.
    assert_eq!(g.write(24, &pattern(3, 16)), Status::OK);
    assert_eq!(g.read(24, 16), (Status::OK, pattern(3, 16)));
}

#[test]
fn secure_erase_resets_zones_and_overwrites_the_rest() {
    // 65, 66, 67
    let volume = TestVolume::zoned(small(Model::HostManaged, 0, 0));
    let options = zvb_device::DeviceOptions { secure_erase: true, ..Default::default() };
    let device = zvb_device::Device::new(volume, options).unwrap();
    let session = device.session();
    session.accept(device.features()).unwrap();
    let config = session.config();
    assert_eq!(config.secure_erase_sector_alignment.get() % config.zoned.zone_sectors.get(), 0);
    let mut g = Guest::new(&session, 0);
    let erase = RequestType::SECURE_ERASE;
    for at in [0, 32, 64, 160] {
        assert_eq!(g.write(at, &pattern(1, 8)), Status::OK);
    }
    assert_eq!(ranges(&mut g, erase, &[range(0, 64, 0), range(160, 16, 0)]), Status::OK);
    use Condition::*;
    assert_eq!(g.conditions(), [NotWp, Empty, ImplicitOpen, Empty, Empty, Empty]);
    assert!(g.read(0, 32).1.iter().all(|b| *b == 0));
    // Of a zone that is only named nothing is erased.
    let nothing = [range(64, 0, 0), range(0, 0, 0)];
    assert_eq!(ranges(&mut g, erase, &nothing), Status::OK);
    assert_eq!((g.written(64), g.read(64, 8)), (8, (Status::OK, pattern(1, 8))));
    // Parts of zones, any flag, too long.
    assert_eq!(ranges(&mut g, erase, &[range(64, 8, 0)]), Status::IOERR);
    assert_eq!(ranges(&mut g, erase, &[range(72, 32, 0)]), Status::IOERR);
    assert_eq!(ranges(&mut g, erase, &[range(64, 32, 1)]), Status::UNSUPP);
    assert_eq!(ranges(&mut g, erase, &[range(0, !31, 0)]), Status::IOERR);
    assert_eq!(g.conditions()[2], ImplicitOpen);
    // 42: and not at all where it was not negotiated.
    session.accept(device.features() - Features::SECURE_ERASE).unwrap();
    assert_eq!(ranges(&mut g, erase, &[range(64, 32, 0)]), Status::UNSUPP);
}
