//! What a driver owes a device, by the numbers of `docs/conformance.md`, where no other file here has it.
//!
//! Much of it is said of every request that is sent. Those are looked at in bulk: requests at random, good
//! and bad, to disks of every model; and of what the devices see, each must be as it has to be.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod fake;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::OnceLock;

use fake::{Fake, FakeDriver, Memory, Seen, drive, probe, tamper};
use zerocopy::FromBytes;
use zvb_driver::{
    Answer, ConfigError, Error, Features, HostAware, Invalid, Lie, Model, Options, ProbeError,
    Request, RequestError, RequestType, Sector, SectorRange, SubmitError,
};
use zvb_wire::{Config, DeviceStatus, DiscardSegment, RequestHeader};

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % n
    }
}

/// A disk of `model` that offers all there is.
fn full(model: Model) -> Rc<RefCell<Fake>> {
    let fake = if model == Model::None { Fake::plain() } else { Fake::zoned() };
    {
        let fake = &mut *fake.borrow_mut();
        fake.config.zoned.model = model as u8;
        fake.disk.preferred = model == Model::HostAware;
        fake.offered |= Features::SECURE_ERASE | Features::LIFETIME;
        fake.config.max_secure_erase_sectors = 48.into();
        fake.config.max_secure_erase_seg = 2.into();
        let unit = if model == Model::None { 8 } else { 24 };
        fake.config.secure_erase_sector_alignment = unit.into();
    }
    fake
}

fn everything() -> Options {
    Options { features: Features::all(), ..Options::default() }
}

/// A request that a device saw, and the disk that it was for.
struct Sent {
    model: Model,
    kind: RequestType,
    sector: u64,
    data: Vec<u8>,
    seen: Seen,
}

impl Sent {
    fn ranges(&self) -> &[DiscardSegment] {
        <[DiscardSegment]>::ref_from_bytes(&self.data).expect("whole ranges")
    }
}

/// What the devices saw of many requests at random, of which no more than half may be sent.
fn sent() -> &'static [Sent] {
    static SENT: OnceLock<Vec<Sent>> = OnceLock::new();
    SENT.get_or_init(|| {
        let mut sent = Vec::new();
        for model in [Model::HostManaged, Model::HostAware, Model::None] {
            let random = &mut Random(7 + model as u64);
            for _ in 0..40 {
                let fake = full(model);
                let mut disk = probe(&fake, &everything()).expect("a device in order");
                for _ in 0..100 {
                    let request = request(&disk, random);
                    if disk.submit(0, request).is_ok() {
                        disk.wait(0, None).expect("an answer");
                        disk.poll(0).expect("a queue in order");
                    }
                }
                for seen in fake.borrow_mut().seen.drain(..) {
                    let (header, data) =
                        RequestHeader::read_from_prefix(&seen.readable).expect("16");
                    let (kind, data) = (header.request_type(), data.to_vec());
                    sent.push(Sent { model, kind, sector: header.sector().0, data, seen });
                }
            }
        }
        sent
    })
}

fn request(disk: &FakeDriver, random: &mut Random) -> Request<Memory> {
    let at = Sector(random.below(112));
    let zone = Sector(if random.below(4) == 0 { at.0 } else { random.below(5) * 24 });
    let bytes = random.below(12) * 512 + if random.below(6) == 0 { 100 } else { 0 };
    let at = Sector(if random.below(2) == 0 { at.0 & !1 } else { at.0 });
    let buffer = disk.buffer(bytes as usize).expect("memory");
    let mut range =
        || SectorRange { at: Sector(random.below(15) * 8), sectors: random.below(10) as u32 * 8 };
    let mut ranges = vec![range(), range(), range()];
    ranges.truncate(random.below(4) as usize);
    match random.below(16) {
        0 => Request::Read { at, buffer },
        1 | 2 => Request::Write { at, buffer },
        3 | 4 => Request::Append { zone, buffer },
        5 => Request::Report { from: at, buffer },
        6 => Request::Open { zone },
        7 => Request::Close { zone },
        8 => Request::Finish { zone },
        9 => Request::Reset { zone },
        10 => Request::ResetAll,
        11 => Request::Flush,
        12 => Request::Discard { ranges },
        13 => Request::WriteZeroes { ranges, unmap: random.below(2) == 0 },
        14 => Request::SecureErase { ranges },
        _ if random.below(2) == 0 => Request::Lifetime,
        _ => Request::Id,
    }
}

/// Holds each request of these kinds against `check`, and sees that there were some.
fn each(kinds: &[RequestType], check: impl Fn(&Sent)) {
    for kind in kinds {
        let of_kind = sent().iter().filter(|sent| sent.kind == *kind);
        assert!(of_kind.clone().count() > 3, "too few of {kind:?} to tell");
        of_kind.for_each(&check);
    }
}

const MANAGEMENT: [RequestType; 4] = [
    RequestType::ZONE_OPEN,
    RequestType::ZONE_CLOSE,
    RequestType::ZONE_FINISH,
    RequestType::ZONE_RESET,
];
const WITH_RANGES: [RequestType; 3] =
    [RequestType::DISCARD, RequestType::WRITE_ZEROES, RequestType::SECURE_ERASE];

fn is_sequential(sent: &Sent) -> bool {
    sent.model != Model::None && sent.sector >= 24
}

/// Conformance 97 to 99.
#[test]
fn c097_c098_c099_the_cache_is_what_was_agreed_on() {
    let volatile = |offered: Features, wanted: Features, writeback: u8| {
        let fake = Fake::plain();
        fake.borrow_mut().offered = Features::VERSION_1 | offered;
        fake.borrow_mut().config.writeback = writeback;
        let mut disk = probe(&fake, &Options { features: wanted, ..Options::default() }).unwrap();
        let flush = fake.borrow().accepted.contains(Features::FLUSH);
        // What is negotiated is used, and what is not is not sent.
        assert_eq!(disk.flush().is_ok(), flush);
        disk.info().volatile_cache()
    };
    let (flush, wce, all) = (Features::FLUSH, Features::CONFIG_WCE, Features::all());
    assert!(!volatile(Features::empty(), all, 1));
    assert!(volatile(flush, all, 0));
    assert!(!volatile(flush, !flush, 1));
    assert!(volatile(flush | wce, all, 1));
    assert!(!volatile(flush | wce, all, 0));
}

/// Conformance 100: also in `probe.rs`, where all that is read early is the model.
#[test]
fn c100_the_cache_mode_is_read_after_features_ok() {
    let fake = full(Model::HostManaged);
    fake.borrow_mut().offered |= Features::CONFIG_WCE;
    drive(&fake);
    let fake = fake.borrow();
    let at = |call: &str| fake.calls.iter().position(|c| c == call);
    assert!(at("read_config 32+1") > at("set_status 11") && at("set_status 11").is_some());
}

/// Conformance 101, 103: each model is driven, with DISCARD and without where that is allowed.
#[test]
fn c101_c102_c103_every_model_is_driven_with_what_goes_with_it() {
    for (model, discard) in
        [(Model::None, true), (Model::HostAware, true), (Model::HostManaged, false)]
    {
        for masked in [Features::empty(), Features::DISCARD] {
            let fake = full(model);
            fake.borrow_mut().offered |= Features::ZONED;
            let options = Options { features: !masked, ..Options::default() };
            let mut disk = probe(&fake, &options).unwrap();
            let accepted = fake.borrow().accepted;
            assert!(accepted.contains(Features::ZONED));
            assert_eq!(accepted.contains(Features::DISCARD), discard && masked.is_empty());
            disk.read(Sector(0), &mut [0; 512]).unwrap();
            disk.write(Sector(0), &[0; 512]).unwrap();
        }
    }
}

/// Conformance 104.
#[test]
fn c104_a_driver_without_zones_gives_up_on_host_managed_before_features_ok() {
    let fake = full(Model::HostManaged);
    let options = Options { features: !Features::ZONED, ..Options::default() };
    let error = probe(&fake, &options).err().unwrap();
    assert!(matches!(error, ProbeError::HostManagedRefused));
    let fake = fake.borrow();
    assert!(fake.calls.iter().all(|call| call != "set_status 11"), "FEATURES_OK was set");
    assert_eq!(fake.calls.last().unwrap(), "set_status 131");
}

/// Conformance 105: all of the fields but the model are nonsense, and nothing minds.
#[test]
fn c105_host_aware_as_a_regular_disk_has_its_zone_fields_ignored() {
    let fake = full(Model::HostAware);
    {
        let zoned = &mut fake.borrow_mut().config.zoned;
        zoned.zone_sectors = 0.into();
        zoned.write_granularity = 3.into();
        zoned.max_append_sectors = u32::MAX.into();
    }
    let options = Options { host_aware: HostAware::AsRegular, ..Options::default() };
    let mut disk = probe(&fake, &options).unwrap();
    assert!(fake.borrow().calls.iter().all(|call| !call.starts_with("read_config 72")));
    disk.write(Sector(23), &[1; 2048]).unwrap();
    assert!(matches!(disk.zones(), Err(Error::Invalid(Invalid::Unsupported(_)))));
}

/// Conformance 108.
#[test]
fn c108_nothing_is_sent_past_the_end() {
    each(&[RequestType::IN], |sent| {
        assert!(sent.sector * 512 + sent.seen.writable - 1 <= 108 * 512)
    });
    each(&[RequestType::OUT, RequestType::ZONE_APPEND], |sent| {
        assert!(sent.sector * 512 + sent.data.len() as u64 <= 108 * 512);
    });
    each(&WITH_RANGES, |sent| {
        let ends = |r: &DiscardSegment| r.sector.get() + u64::from(r.num_sectors.get()) <= 108;
        assert!(sent.ranges().iter().all(ends));
    });
}

/// Conformance 109: and nothing is written then.
#[test]
fn c109_a_read_only_disk_is_accepted_and_only_read() {
    for model in [Model::HostManaged, Model::None] {
        let fake = full(model);
        fake.borrow_mut().offered |= Features::RO;
        let mut disk = probe(&fake, &everything()).unwrap();
        assert!(fake.borrow().accepted.contains(Features::RO) && disk.info().read_only);
        let random = &mut Random(1);
        for _ in 0..300 {
            let request = request(&disk, random);
            if disk.submit(0, request).is_ok() {
                disk.wait(0, None).unwrap();
                disk.poll(0).unwrap();
            }
        }
        assert!(disk.write(Sector(0), &[0; 512]).is_err());
        disk.read(Sector(0), &mut [0; 512]).unwrap();
        let harmless = [0, 4, 8, 10, 16];
        assert!(fake.borrow().seen.iter().all(|seen| harmless.contains(&seen.readable[0])));
    }
}

/// Conformance 110, 111.
#[test]
fn c110_c111_a_flush_is_of_sector_0_and_has_no_data() {
    each(&[RequestType::FLUSH], |sent| {
        assert_eq!((sent.sector, sent.data.len(), sent.seen.writable), (0, 0, 1));
    });
}

/// Conformance 112.
#[test]
fn c112_data_is_of_whole_sectors() {
    each(&[RequestType::OUT, RequestType::ZONE_APPEND], |sent| {
        assert!(sent.data.len().is_multiple_of(512) && !sent.data.is_empty());
    });
    each(&[RequestType::IN], |sent| assert!((sent.seen.writable - 1).is_multiple_of(512)));
}

/// Conformance 113, 115 to 117, 119: and the limits of each range.
#[test]
fn c113_c115_c116_c117_c119_ranges_keep_to_the_limits() {
    each(&WITH_RANGES, |sent| {
        assert!(sent.data.len().is_multiple_of(16));
        let (max, sectors) = match sent.kind {
            RequestType::WRITE_ZEROES => (1, 32),
            RequestType::DISCARD => (2, 64),
            _ => (2, 48),
        };
        assert!((1..=max).contains(&sent.ranges().len()));
        assert!(sent.ranges().iter().all(|r| (1..=sectors).contains(&r.num_sectors.get())));
        // `unmap` is for WRITE_ZEROES, and nothing else is a flag.
        let most = u32::from(sent.kind == RequestType::WRITE_ZEROES);
        assert!(sent.ranges().iter().all(|r| r.flags.get() <= most));
        // A host-managed disk has no DISCARD at all.
        assert!((sent.kind, sent.model) != (RequestType::DISCARD, Model::HostManaged));
    });
}

/// Conformance 116, and 66 from this side.
#[test]
fn c116_an_erase_is_of_whole_units() {
    each(&[RequestType::SECURE_ERASE], |sent| {
        let unit = if sent.model == Model::None { 8 } else { 24 };
        for range in sent.ranges() {
            let end = range.sector.get() + u64::from(range.num_sectors.get());
            assert!(range.sector.get() % unit == 0 && (end % unit == 0 || end == 108));
        }
    });
    let fake = full(Model::HostManaged);
    // It is negotiated only by those who ask for it.
    assert!(!drive(&fake).info().features.intersects(Features::SECURE_ERASE | Features::LIFETIME));
    let mut disk = probe(&fake, &everything()).unwrap();
    let mut erase = |list: &[(u64, u32)]| {
        let range = |r: &(u64, u32)| SectorRange { at: Sector(r.0), sectors: r.1 };
        match disk.secure_erase(list.iter().map(range).collect()) {
            Ok(()) => None,
            Err(Error::Invalid(invalid)) => Some(invalid),
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(erase(&[(24, 48), (96, 12)]), None);
    let part = |at, sectors| Some(Invalid::PartOfUnit { at: Sector(at), sectors, unit: 24 });
    assert_eq!(erase(&[(24, 24), (48, 12)]), part(48, 12));
    assert_eq!(erase(&[(36, 12)]), part(36, 12));
    assert_eq!(erase(&[(24, 24); 3]), Some(Invalid::TooManyRanges { count: 3, max: 2 }));
    assert_eq!(erase(&[(24, 72)]), Some(Invalid::TooLong { bytes: 72 * 512, max: 48 * 512 }));
    fake.borrow_mut().config.secure_erase_sector_alignment = 36.into();
    let error = probe(&fake, &everything()).err().unwrap();
    let alignment = ConfigError::EraseAlignment { alignment: 36, zone_size: Sector(24) };
    assert!(matches!(error, ProbeError::Config(e) if e == alignment));
}

/// Conformance 114, and 39 from this side.
#[test]
fn c114_answers_of_a_fixed_size_have_it() {
    each(&[RequestType::GET_ID], |sent| assert_eq!(sent.seen.writable, 20 + 1));
    each(&[RequestType::GET_LIFETIME], |sent| assert_eq!(sent.seen.writable, 6 + 1));
    let fake = full(Model::None);
    let mut disk = probe(&fake, &everything()).unwrap();
    let lifetime = disk.lifetime().unwrap();
    let values = (lifetime.pre_eol_info.get(), lifetime.device_lifetime_est_typ_b.get());
    assert_eq!(values, (1, 11));
    for (place, value) in [(0, 4), (2, 12), (5, 1)] {
        tamper(&fake, move |reply| reply.data[place] = value);
        let error = disk.lifetime().unwrap_err();
        assert!(
            matches!(error, Error::Request(RequestError::Lie(Lie::Lifetime { .. }))),
            "{error}"
        );
    }
    tamper(&fake, |reply| reply.written = Some(5));
    let error = disk.lifetime().unwrap_err();
    assert!(matches!(error, Error::Request(RequestError::Lie(Lie::Short { .. }))), "{error}");
    let error = drive(&full(Model::None)).lifetime().unwrap_err();
    assert!(matches!(error, Error::Invalid(Invalid::Unsupported(RequestType::GET_LIFETIME))));
}

/// Conformance 118: the switch is written, and what was written before still wants its flush.
#[test]
fn c118_the_cache_mode_is_0_or_1() {
    let fake = Fake::plain();
    fake.borrow_mut().offered |= Features::CONFIG_WCE;
    let mut disk = drive(&fake);
    for (on, call) in [(false, "write_config 32 [0]"), (true, "write_config 32 [1]")] {
        disk.set_writeback(on).unwrap();
        assert_eq!(fake.borrow().calls.last().unwrap(), call);
        assert_eq!(disk.info().volatile_cache(), on);
        // A flush can be had in either mode.
        disk.flush().unwrap();
    }
}

/// Conformance 120, 121: nothing is told of data after a DISCARD, or of the parts of one that failed.
#[test]
fn c120_c121_ranges_succeed_or_fail_as_one() {
    let fake = Fake::plain();
    let mut disk = drive(&fake);
    let ranges = || (0..2).map(|i| SectorRange { at: Sector(i * 8), sectors: 8 }).collect();
    for status in [0, 1] {
        tamper(&fake, move |reply| reply.status = Some(status));
        disk.submit(0, Request::Discard { ranges: ranges() }).unwrap();
        disk.wait(0, None).unwrap();
        let done = disk.poll(0).unwrap().unwrap();
        let expected = if status == 0 { Ok(Answer::Done) } else { Err(RequestError::Io) };
        assert_eq!((done.result, done.bytes, done.buffer.is_none()), (expected, 0, true));
    }
    assert_eq!(disk.in_flight(0), 0);
}

/// Conformance 122 to 126.
#[test]
fn c122_c123_c124_c125_c126_zones_are_named_by_their_first_sector() {
    each(&MANAGEMENT, |sent| {
        assert!(sent.sector.is_multiple_of(24) && sent.sector < 108);
        assert_eq!((sent.data.len(), sent.seen.writable), (0, 1));
    });
    each(&[RequestType::ZONE_APPEND], |sent| assert!(sent.sector.is_multiple_of(24)));
    each(&[RequestType::ZONE_RESET_ALL], |sent| assert_eq!(sent.sector, 0));
    // Any sector of the disk is one of the first zone to report.
    each(&[RequestType::ZONE_REPORT], |sent| assert!(sent.sector < 108));
    let of_zones = |sent: &&Sent| sent.kind.0 >= RequestType::ZONE_APPEND.0;
    assert!(sent().iter().filter(of_zones).all(|sent| sent.model != Model::None));
}

/// Conformance 127, 129, 130: also in `zones.rs`.
#[test]
fn c127_c129_c130_writes_to_sequential_zones_are_of_granules() {
    each(&[RequestType::OUT, RequestType::ZONE_APPEND], |sent| {
        if is_sequential(sent) {
            assert!(
                sent.data.len().is_multiple_of(1024) && (sent.sector * 512).is_multiple_of(1024)
            );
        }
    });
    each(&[RequestType::ZONE_APPEND], |sent| {
        assert!(sent.data.len().is_multiple_of(1024) && sent.data.len() <= 8 * 512);
    });
}

/// Conformance 128: also in `lies.rs`.
#[test]
fn c128_the_append_sector_of_a_failed_append_is_not_told() {
    let fake = full(Model::HostManaged);
    let mut disk = drive(&fake);
    assert_eq!(disk.append(Sector(48), &[0; 1024]).unwrap(), Sector(48));
    tamper(&fake, |reply| (reply.status, reply.append_sector) = (Some(3), Some(50)));
    let error = disk.append(Sector(48), &[0; 1024]).unwrap_err();
    assert!(matches!(error, Error::Request(RequestError::InvalidCommand)));
}

/// Conformance 131: with `zones.rs`, which counts what is in flight.
#[test]
fn c131_writes_to_sequential_zones_end_within_their_capacity() {
    each(&[RequestType::OUT, RequestType::ZONE_APPEND], |sent| {
        if is_sequential(sent) {
            let zone = sent.sector / 24 * 24;
            let end = if zone == 96 { 108 } else { zone + 16 };
            assert!(sent.sector + sent.data.len() as u64 / 512 <= end);
        }
    });
}

/// Conformance 150.
#[test]
fn c150_notifications_without_a_reason_do_no_harm() {
    let fake = Fake::plain();
    let mut disk = drive(&fake);
    disk.submit(0, Request::Flush).unwrap();
    fake.borrow_mut().babble = true;
    for _ in 0..1000 {
        disk.wait(0, None).unwrap();
        assert!(disk.poll(0).unwrap().is_none());
    }
    fake.borrow_mut().babble = false;
    disk.wait(0, None).unwrap();
    assert!(disk.poll(0).unwrap().is_some());
    // And of an idle device.
    fake.borrow_mut().babble = true;
    disk.wait(0, None).unwrap();
    assert!(disk.poll(0).unwrap().is_none());
}

/// Conformance 151: also in `probe.rs`; the fake device itself sees that no bit is cleared, and that there
/// is no notification before DRIVER_OK and no write to the configuration before FEATURES_OK.
#[test]
fn c151_features_ok_is_read_back_and_failed_is_set() {
    let fake = Fake::plain();
    fake.borrow_mut().refuse_features = true;
    let error = probe(&fake, &Options::default()).err().unwrap();
    assert!(matches!(error, ProbeError::FeaturesRefused { .. }));
    assert!(fake.borrow().status.contains(DeviceStatus::FAILED));
    assert!(!fake.borrow().status.contains(DeviceStatus::DRIVER_OK));
    assert_eq!(fake.borrow().notifications, 0);
}

/// Conformance 152: whatever is offered, what is accepted is offered and known.
#[test]
fn c152_only_features_that_are_offered_and_known_are_accepted() {
    let known = Features::SIZE_MAX
        | Features::SEG_MAX
        | Features::RO
        | Features::BLK_SIZE
        | Features::FLUSH
        | Features::CONFIG_WCE
        | Features::MQ
        | Features::DISCARD
        | Features::WRITE_ZEROES
        | Features::LIFETIME
        | Features::SECURE_ERASE
        | Features::INDIRECT_DESC
        | Features::EVENT_IDX
        | Features::VERSION_1
        | Features::ACCESS_PLATFORM
        | if cfg!(target_arch = "x86_64") { Features::ORDER_PLATFORM } else { Features::empty() };
    for bit in 0..64 {
        let fake = Fake::plain();
        let bit = Features::from_bits_retain(1 << bit);
        // A model that is none: the zone fields are all 0.
        fake.borrow_mut().offered = Features::VERSION_1 | bit;
        fake.borrow_mut().config.blk_size = 512.into();
        fake.borrow_mut().config.max_write_zeroes_seg = 1.into();
        probe(&fake, &everything()).unwrap();
        let accepted = fake.borrow().accepted;
        assert!((Features::VERSION_1 | bit).contains(accepted));
        assert!(accepted.contains(Features::VERSION_1));
        assert_eq!(accepted.contains(bit), (known | Features::ZONED).contains(bit), "{bit:?}");
    }
}

/// Conformance 153: also in `probe.rs`, where the generation changes.
#[test]
fn c153_only_fields_that_exist_are_read_and_more_than_all_is_fine() {
    let fake = Fake::plain();
    fake.borrow_mut().offered = Features::VERSION_1;
    fake.borrow_mut().config_len = 8;
    drive(&fake);
    let reads = |fake: &Fake| -> Vec<String> {
        fake.calls.iter().filter(|call| call.starts_with("read_config")).cloned().collect()
    };
    assert_eq!(reads(&fake.borrow()), ["read_config 0+8"]);
    let fake = full(Model::HostManaged);
    fake.borrow_mut().config_len = Config::BYTES + 160;
    drive(&fake);
    // Field by field: none is read in halves, and none together with another.
    let fields = reads(&fake.borrow());
    assert!(fields.iter().all(|call| !call.contains("60+") && !call.contains("34+")), "{fields:?}");
}

/// Conformance 154: the fake device takes chains apart with a ring that refuses all else.
#[test]
fn c154_chains_are_readable_first_and_fit_the_queue() {
    for tables in [true, false] {
        let fake = full(Model::HostManaged);
        {
            let mut fake = fake.borrow_mut();
            fake.offered |= Features::SIZE_MAX | Features::SEG_MAX;
            fake.offered.set(Features::INDIRECT_DESC, tables);
            fake.config.size_max = 512.into();
            fake.config.seg_max = 100.into();
            fake.max_queue_size = 8;
        }
        let mut disk = drive(&fake);
        assert_eq!(disk.info().max_transfer, 6 * 512);
        disk.write(Sector(0), &[3; 24 * 512]).unwrap();
        disk.read(Sector(0), &mut [0; 24 * 512]).unwrap();
        for seen in &fake.borrow().seen {
            assert!(seen.segments.0.len() + seen.segments.1.len() <= 8);
        }
        assert!(matches!(
            disk.submit(0, Request::Read { at: Sector(0), buffer: disk.buffer(7 * 512).unwrap() }),
            Err(rejected) if matches!(rejected.error, SubmitError::Invalid(Invalid::TooLong { .. }))
        ));
    }
}

/// Conformance 155: the reset before memory is taken back is in `probe.rs`.
#[test]
fn c155_queues_are_aligned_and_buffers_stay_until_they_are_given_back() {
    let fake = Fake::plain();
    let mut disk = drive(&fake);
    let layout = fake.borrow().layouts[&0];
    assert!(layout.descriptors.is_multiple_of(16));
    assert!(layout.available.is_multiple_of(2) && layout.used.is_multiple_of(4));
    let index = |fake: &Fake| {
        let (host, _) = zvb_ring::GuestMemory::translate(&fake.memory, layout.available + 2, 2)?;
        Some(fake::memory::peek(host))
    };
    let mut before = index(&fake.borrow()).unwrap();
    for round in 0..300_u16 {
        let live = fake.borrow().memory.live();
        let buffer = disk.buffer(512).unwrap();
        disk.submit(0, Request::Read { at: Sector(0), buffer }).unwrap();
        disk.kick(0).unwrap();
        let after = index(&fake.borrow()).unwrap();
        assert_eq!(after, before.wrapping_add(1), "round {round}");
        before = after;
        assert_eq!(fake.borrow().memory.live(), live + 1);
        disk.wait(0, None).unwrap();
        disk.poll(0).unwrap().unwrap();
    }
}
