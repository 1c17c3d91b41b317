//! From reset to DRIVER_OK, and each way in which that ends early.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod fake;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use fake::{Fake, FakeError, drive, probe};
use zvb_driver::{
    ConfigError, Features, HostAware, Model, Options, ProbeError, Request, Sector, SectorRange,
    ZonedInfo,
};
use zvb_wire::DeviceStatus;

type Change = fn(&mut Fake);

fn zoned(change: Change) -> Rc<RefCell<Fake>> {
    let fake = Fake::zoned();
    change(&mut fake.borrow_mut());
    fake
}

/// Probes, which must fail: with FAILED set, nothing left allocated, and no queue left to the device.
fn refused(fake: &Rc<RefCell<Fake>>, options: &Options) -> ProbeError<FakeError> {
    let error = probe(fake, options).err().expect("a device that is refused");
    let fake = fake.borrow();
    assert!(fake.status.contains(DeviceStatus::FAILED), "FAILED is not set after {error}");
    assert!(!fake.status.contains(DeviceStatus::DRIVER_OK));
    assert!(fake.layouts.is_empty(), "the device still has queues after {error}");
    assert_eq!(fake.memory.live(), 0, "memory is lost after {error}");
    error
}

fn config_error(change: Change) -> ConfigError {
    match refused(&zoned(change), &Options::default()) {
        ProbeError::Config(error) => error,
        other => panic!("{other}"),
    }
}

/// Conformance 100, 151, 155.
#[test]
fn the_order_is_that_of_the_specification() {
    let fake = Fake::zoned();
    let disk = drive(&fake);
    let position = |call: &str| {
        let calls = &fake.borrow().calls;
        calls.iter().position(|c| c == call).unwrap_or_else(|| panic!("no {call} in {calls:?}"))
    };
    let order = [
        position("reset"),
        position("set_status 1"),
        position("set_status 3"),
        position("device_features"),
        position("set_driver_features"),
        position("set_status 11"),
        position("status"),
        position("set_up_queue 0"),
        position("set_status 15"),
    ];
    assert!(order.is_sorted(), "{order:?}");
    // Before FEATURES_OK the model alone is read.
    let calls = fake.borrow().calls.clone();
    let early: Vec<_> =
        calls[..order[5]].iter().filter(|call| call.starts_with("read_config")).collect();
    assert_eq!(early, ["read_config 92+1"]);
    drop(disk);
    assert_eq!(fake.borrow().calls.last().map(String::as_str), Some("reset"));
    assert_eq!(fake.borrow().memory.live(), 0);
}

#[test]
fn what_the_device_is_is_read_from_its_configuration() {
    let fake = zoned(|f| {
        f.offered |= Features::MQ | Features::SEG_MAX | Features::SIZE_MAX | Features::CONFIG_WCE;
        f.config.num_queues = 3.into();
        f.config.seg_max = 4.into();
        f.config.size_max = 5000.into();
        f.config.writeback = 1;
    });
    let options = Options { queues: 2, queue_size: 100, ..Options::default() };
    let disk = probe(&fake, &options).unwrap();
    let info = disk.info();
    assert_eq!((info.capacity, info.block_size), (Sector(108), 512));
    assert_eq!((info.queues, info.queue_size), (2, 64));
    assert_eq!((info.writeback, info.volatile_cache(), info.read_only), (Some(true), true, false));
    assert_eq!((info.size_max, info.seg_max), (Some(5000), Some(4)));
    // Segments of whole blocks: 4 of 4608 bytes.
    assert_eq!(info.max_transfer, 4 * 4608);
    assert_eq!(
        info.zoned,
        Some(ZonedInfo {
            model: Model::HostManaged,
            zone_size: Sector(24),
            zone_count: 5,
            max_open: 2,
            max_active: 3,
            max_append: Sector(8),
            write_granularity: 1024,
        })
    );
    assert_eq!(disk.depth(0), 64);
    assert_eq!(disk.depth(2), 0);
    assert_eq!(fake.borrow().layouts.len(), 2);
}

/// Conformance 102, 103.
#[test]
fn a_host_managed_disk_never_gets_discard_and_others_do() {
    let fake = Fake::zoned();
    let disk = drive(&fake);
    assert!(disk.info().features.contains(Features::ZONED | Features::WRITE_ZEROES));
    assert!(!fake.borrow().accepted.contains(Features::DISCARD));
    assert!(disk.info().discard.is_none());

    let fake = zoned(|f| f.config.zoned.model = 2);
    let disk = drive(&fake);
    assert_eq!(disk.info().zoned.unwrap().model, Model::HostAware);
    assert!(fake.borrow().accepted.contains(Features::DISCARD | Features::ZONED));
}

#[test]
fn a_host_aware_disk_can_be_driven_as_a_regular_one() {
    let fake = zoned(|f| f.config.zoned.model = 2);
    let options = Options { host_aware: HostAware::AsRegular, ..Options::default() };
    let disk = probe(&fake, &options).unwrap();
    assert!(disk.info().zoned.is_none());
    assert!(!fake.borrow().accepted.contains(Features::ZONED));
    // A model that is none of zones: likewise, whatever the other fields say.
    let fake = zoned(|f| {
        f.config.zoned.model = 0;
        f.config.zoned.zone_sectors = 0.into();
    });
    assert!(drive(&fake).info().zoned.is_none());
}

/// Conformance 98, 152.
#[test]
fn a_device_with_nothing_but_version_1_is_a_disk() {
    let fake = Fake::plain();
    {
        let mut fake = fake.borrow_mut();
        // Bits that nobody knows are no reason to fail, and not accepted.
        fake.offered = Features::VERSION_1 | Features::from_bits_retain(1 << 50 | 1 << 41);
        fake.config_len = 8;
    }
    let mut disk = drive(&fake);
    assert_eq!(fake.borrow().accepted, Features::VERSION_1);
    let info = disk.info().clone();
    assert_eq!((info.block_size, info.queues, info.queue_size), (512, 1, 256));
    assert!(info.zoned.is_none() && info.discard.is_none() && info.writeback.is_none());
    assert!(!info.volatile_cache());
    // Three descriptors each, without tables.
    assert_eq!(disk.depth(0), 85);
    disk.write(Sector(3), &[7; 1024]).unwrap();
    let mut back = [0; 1024];
    disk.read(Sector(3), &mut back).unwrap();
    assert_eq!(back, [7; 1024]);
}

#[test]
fn what_linux_refuses_and_the_specification_allows_works() {
    // A zone size that is no power of two is what `Fake` has; here: no appends.
    let fake = zoned(|f| f.config.zoned.max_append_sectors = 0.into());
    assert_eq!(drive(&fake).info().zoned.unwrap().max_append, Sector::ZERO);
    // QEMU's storage daemon offers SIZE_MAX and leaves it 0.
    let fake = zoned(|f| f.offered |= Features::SIZE_MAX);
    assert_eq!(drive(&fake).info().size_max, None);
}

/// Conformance 134.
#[test]
fn what_makes_no_sense_is_refused() {
    assert_eq!(
        config_error(|f| f.config.capacity = (1 << 55).into()),
        ConfigError::Capacity(Sector(1 << 55))
    );
    assert_eq!(config_error(|f| f.config.blk_size = 0.into()), ConfigError::BlockSize(0));
    assert_eq!(config_error(|f| f.config.blk_size = 768.into()), ConfigError::BlockSize(768));
    assert_eq!(config_error(|f| f.config.blk_size = 256.into()), ConfigError::BlockSize(256));
    assert_eq!(config_error(|f| f.config.zoned.zone_sectors = 0.into()), ConfigError::ZoneSize);
    let count = u64::from(u32::MAX) + 1;
    assert_eq!(
        config_error(|f| {
            f.config.capacity = (u64::from(u32::MAX) + 1).into();
            f.config.zoned.zone_sectors = 1.into();
        }),
        ConfigError::TooManyZones(count)
    );
    let granularity = |n: u32| ConfigError::WriteGranularity(n);
    assert_eq!(config_error(|f| f.config.zoned.write_granularity = 0.into()), granularity(0));
    assert_eq!(config_error(|f| f.config.zoned.write_granularity = 1000.into()), granularity(1000));
    assert_eq!(
        config_error(|f| f.config.zoned.max_append_sectors = 1.into()),
        ConfigError::MaxAppend { max_append: Sector(1), granularity: 1024 }
    );
    assert_eq!(
        config_error(|f| {
            f.offered |= Features::SIZE_MAX | Features::SEG_MAX;
            f.config.size_max = 100.into();
            f.config.seg_max = 5.into();
        }),
        ConfigError::SegmentLimits { max: 500, block: 512 }
    );
}

/// Conformance 134.
#[test]
fn the_append_limit_is_compared_in_64_bits() {
    // 2^23 sectors are 2^32 bytes: 0 in 32 bits, and more than the granule.
    let fake = zoned(|f| f.config.zoned.max_append_sectors = (1 << 23).into());
    assert_eq!(drive(&fake).info().zoned.unwrap().max_append, Sector(1 << 23));
}

#[test]
fn each_reason_not_to_drive_a_device_has_its_name() {
    let all = Options::default();
    let fake = zoned(|f| f.offered -= Features::VERSION_1);
    assert!(matches!(refused(&fake, &all), ProbeError::Legacy));
    let fake = zoned(|f| f.refuse_features = true);
    assert!(matches!(refused(&fake, &all), ProbeError::FeaturesRefused { .. }));
    let masked = Options { features: !Features::ZONED, ..all.clone() };
    assert!(matches!(refused(&Fake::zoned(), &masked), ProbeError::HostManagedRefused));
    let fake = zoned(|f| f.config.zoned.model = 3);
    assert!(matches!(refused(&fake, &all), ProbeError::UnknownModel(3)));
    let fake = zoned(|f| {
        f.config.zoned.model = 2;
        f.on_features = Some(Box::new(|config| config.zoned.model = 1));
    });
    assert!(matches!(refused(&fake, &all), ProbeError::ModelChanged { before: 2, after: 1 }));
    let fake = zoned(|f| f.config_len = 92);
    assert!(matches!(refused(&fake, &all), ProbeError::ConfigTooShort { needed: 93, got: 92 }));
    let fake = Fake::plain();
    fake.borrow_mut().config_len = 56;
    assert!(matches!(refused(&fake, &all), ProbeError::ConfigTooShort { needed: 57, got: 56 }));
    let fake = zoned(|f| f.max_queue_size = 0);
    assert!(matches!(refused(&fake, &all), ProbeError::NoQueue(0)));
    let fake = zoned(|f| f.max_queue_size = 3);
    assert!(matches!(refused(&fake, &all), ProbeError::QueueTooSmall { index: 0, size: 2 }));
    let fake = Fake::zoned();
    fake.borrow().memory.limit(10_000);
    assert!(matches!(refused(&fake, &all), ProbeError::NoMemory(_)));
}

/// Conformance 153.
#[test]
fn a_configuration_that_changes_while_it_is_read_is_read_again() {
    let fake = Fake::zoned();
    let count = Rc::new(Cell::new(0));
    let reads = Rc::clone(&count);
    // The first reading sees two generations, the second sees one.
    fake.borrow_mut().generation = Box::new(move || {
        reads.set(reads.get() + 1);
        reads.get().min(2)
    });
    drive(&fake);
    assert_eq!(count.get(), 4);

    let fake = Fake::zoned();
    let count = Cell::new(0);
    fake.borrow_mut().generation = Box::new(move || {
        count.set(count.get() + 1);
        count.get()
    });
    assert!(matches!(refused(&fake, &Options::default()), ProbeError::ConfigUnstable));
}

#[test]
fn every_call_of_the_transport_may_fail() {
    let calls = [
        "reset",
        "set_status",
        "status",
        "device_features",
        "set_driver_features",
        "config_generation",
        "config_len",
        "read_config",
        "max_queues",
        "max_queue_size",
        "set_up_queue",
    ];
    for call in calls {
        let fake = Fake::zoned();
        fake.borrow_mut().fails = Some(call);
        match probe(&fake, &Options::default()) {
            Err(ProbeError::Transport(FakeError::Wanted(failed))) => assert_eq!(failed, call),
            Err(other) => panic!("{call}: {other}"),
            Ok(_) => panic!("{call} is not called"),
        }
        assert_eq!(fake.borrow().memory.live(), 0);
    }
}

/// Conformance 155.
#[test]
fn memory_of_a_device_that_can_not_be_stopped_is_never_used_again() {
    let fake = Fake::zoned();
    let mut disk = drive(&fake);
    let buffer = disk.buffer(512).unwrap();
    disk.submit(0, Request::Read { at: Sector(0), buffer }).unwrap();
    let ranges = vec![SectorRange { at: Sector(0), sectors: 2 }];
    disk.submit(0, Request::WriteZeroes { ranges, unmap: false }).unwrap();
    disk.kick(0).unwrap();
    // The ring, its tables, the headers, a buffer and a list of ranges.
    let live = fake.borrow().memory.live();
    assert_eq!(live, 5);
    fake.borrow_mut().fails = Some("reset");
    drop(disk);
    assert_eq!(fake.borrow().memory.live(), live);
}

/// Conformance 107: what a notification is about can be told without reading it all again.
#[test]
fn a_configuration_of_another_generation_is_looked_at_once() {
    let fake = Fake::zoned();
    fake.borrow_mut().generation = Box::new(|| 6);
    let mut disk = drive(&fake);
    assert!(!disk.config_changed().unwrap());
    fake.borrow_mut().generation = Box::new(|| 7);
    assert!(disk.config_changed().unwrap());
    assert!(!disk.refresh().unwrap());
    assert!(!disk.config_changed().unwrap());
    // One that makes no sense is told once, and not over and over.
    fake.borrow_mut().generation = Box::new(|| 8);
    fake.borrow_mut().config.zoned.model = 9;
    assert!(disk.config_changed().unwrap());
    assert!(matches!(disk.refresh(), Err(ProbeError::UnknownModel(9))));
    assert!(!disk.config_changed().unwrap());
    fake.borrow_mut().fails = Some("config_generation");
    assert!(disk.config_changed().is_err());
}

/// Conformance 107.
#[test]
fn a_changed_configuration_is_looked_at_when_asked() {
    let fake = Fake::zoned();
    let mut disk = drive(&fake);
    assert!(!disk.refresh().unwrap());
    {
        let mut fake = fake.borrow_mut();
        fake.config.capacity = 240.into();
        fake.disk = fake::FakeDisk::zoned(240, 24, 16, 1);
    }
    assert!(disk.refresh().unwrap());
    let info = disk.info();
    assert_eq!((info.capacity, info.zoned.unwrap().zone_count), (Sector(240), 10));

    // What makes no sense is told, and what was known before is kept.
    fake.borrow_mut().config.zoned.zone_sectors = 48.into();
    assert!(matches!(
        disk.refresh(),
        Err(ProbeError::ZoneSizeChanged { before: Sector(24), after: Sector(48) })
    ));
    fake.borrow_mut().config.zoned.model = 2;
    assert!(matches!(disk.refresh(), Err(ProbeError::ModelChanged { before: 1, after: 2 })));
    assert_eq!(disk.info().zoned.unwrap().zone_size, Sector(24));
}

#[test]
fn the_cache_mode_can_be_chosen_where_the_device_offers_that() {
    let fake = zoned(|f| {
        f.offered |= Features::CONFIG_WCE;
        f.config.writeback = 1;
    });
    let mut disk = drive(&fake);
    disk.set_writeback(false).unwrap();
    assert_eq!(fake.borrow().config.writeback, 0);
    assert_eq!((disk.info().writeback, disk.info().volatile_cache()), (Some(false), false));

    let mut disk = drive(&Fake::zoned());
    assert!(disk.set_writeback(false).is_err());
    assert!(disk.info().volatile_cache());
}
