//! Our own device, in every model and limit setting: nothing fails, and each number has an outcome.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use support::aged::Aged;
use support::{Rig, SPEC, zoned};
use zvb_conform::{Options, Outcome, Verdict};
use zvb_device::DeviceOptions;
use zvb_storage::{Memory, Volume};
use zvb_wire::{Condition, Model, Sector};
use zvb_zones::GeometrySpec;

/// Runs everything; nothing may fail, and no number may be missing. The numbers that passed.
fn all_pass_on(volume: Arc<dyn Volume>, options: DeviceOptions) -> Vec<u16> {
    let rig = Rig::new(volume, options);
    let (outcomes, summary) = rig.run(&Options::default(), |transport| transport);
    if std::env::var_os("ZVB_TEST_SHOW").is_some() {
        outcomes.iter().for_each(|outcome| println!("{outcome:?}"));
    }
    let failed: Vec<&Outcome> =
        outcomes.iter().filter(|o| matches!(o.verdict, Verdict::Fail { .. })).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let numbers: Vec<u16> = outcomes.iter().map(|outcome| outcome.number).collect();
    assert!(numbers.iter().copied().eq(zvb_conform::numbers()));
    let passed: Vec<u16> =
        outcomes.iter().filter(|o| o.verdict == Verdict::Pass).map(|o| o.number).collect();
    assert_eq!(summary.passed as usize, passed.len());
    assert_eq!(summary.failed, 0);
    assert_eq!(summary.not_applicable as usize, numbers.len() - passed.len());
    passed
}

fn all_pass(volume: Arc<dyn Volume>) -> Vec<u16> {
    all_pass_on(volume, DeviceOptions::default())
}

/// What passes whatever the zones are, as long as there are some that must be written in order.
const HOST_MANAGED: [u16; 52] = [
    1, 2, 3, 4, 5, 8, 10, 12, 13, 14, 18, 19, 20, 26, 40, 45, 47, 50, 52, 53, 54, 58, 59, 63, 64,
    68, 73, 74, 75, 76, 77, 78, 79, 80, 83, 84, 86, 88, 89, 90, 94, 95, 135, 137, 138, 139, 140,
    141, 144, 145, 146, 147,
];

fn assert_passed(passed: &[u16], wanted: &[u16]) {
    let missing: Vec<u16> = wanted.iter().copied().filter(|n| !passed.contains(n)).collect();
    assert!(missing.is_empty(), "not tried: {missing:?}");
}

#[test]
fn host_managed_without_limits() {
    let passed = all_pass(zoned(SPEC));
    assert_passed(&passed, &HOST_MANAGED);
    assert_passed(&passed, &[15, 29, 30, 43, 44, 57, 72, 148, 149, 150]);
}

#[test]
fn one_zone_at_a_time() {
    let spec = GeometrySpec { max_open: 1, max_active: 1, conventional: 0, ..SPEC };
    let passed = all_pass(zoned(spec));
    assert_passed(&passed, &HOST_MANAGED);
    assert_passed(&passed, &[46, 51, 69, 70, 71, 82, 87]);
}

#[test]
fn two_open_and_three_active() {
    let spec = GeometrySpec { max_open: 2, max_active: 3, ..SPEC };
    let passed = all_pass(zoned(spec));
    assert_passed(&passed, &HOST_MANAGED);
    assert_passed(&passed, &[46, 51, 60, 69, 70, 71, 82, 85, 87]);
}

#[test]
fn fourteen_open_and_twenty_eight_active() {
    let spec = GeometrySpec { max_open: 14, max_active: 28, conventional: 0, ..SPEC };
    let passed = all_pass(zoned(spec));
    assert_passed(&passed, &HOST_MANAGED);
    assert_passed(&passed, &[46, 51, 60, 69, 70, 71, 82, 85, 87]);
}

#[test]
fn one_limit_alone() {
    let passed = all_pass(zoned(GeometrySpec { max_open: 3, ..SPEC }));
    assert_passed(&passed, &[13, 46, 51, 60, 71, 82, 85, 87]);
    let passed = all_pass(zoned(GeometrySpec { max_active: 3, ..SPEC }));
    assert_passed(&passed, &[14, 46, 51, 69, 71, 82]);
}

#[test]
fn odd_zones() {
    // A capacity below the size, no power of two, and a smaller last zone.
    let spec = GeometrySpec {
        capacity: Sector(20 * 1000 + 80),
        zone_size: Sector(1000),
        zone_capacity: Sector(800),
        max_open: 2,
        max_active: 4,
        ..SPEC
    };
    let passed = all_pass(zoned(spec));
    assert_passed(&passed, &HOST_MANAGED);
    assert_passed(&passed, &[12, 68, 93]);
}

#[test]
fn a_single_zone() {
    for (zones, conventional) in [(1, 0), (2, 1)] {
        let capacity = Sector(zones * 1024);
        let passed = all_pass(zoned(GeometrySpec { capacity, conventional, ..SPEC }));
        assert_passed(&passed, &[10, 12, 53, 59]);
    }
}

#[test]
fn a_single_zone_smaller_than_the_zone_size() {
    for zone_capacity in [1024, 800] {
        for secure_erase in [false, true] {
            let spec = GeometrySpec {
                capacity: Sector(80),
                zone_capacity: Sector(zone_capacity),
                conventional: 0,
                ..SPEC
            };
            let options = DeviceOptions { secure_erase, ..DeviceOptions::default() };
            let passed = all_pass_on(zoned(spec), options);
            assert_passed(&passed, &[10, 12, 53, 59, 68, 74]);
            if secure_erase {
                assert_passed(&passed, &[65, 66, 67]);
            }
        }
    }
}

#[test]
fn sectors_as_granules_and_no_appends() {
    let spec = GeometrySpec { write_granularity: 512, max_append: Sector(0), ..SPEC };
    let passed = all_pass(zoned(spec));
    assert_passed(&passed, &[17, 18, 56, 53, 59, 83, 84]);
}

#[test]
fn host_aware() {
    for (max_open, max_active) in [(0, 0), (2, 0)] {
        let model = Model::HostAware;
        let passed = all_pass(zoned(GeometrySpec { model, max_open, max_active, ..SPEC }));
        assert_passed(&passed, &[7, 11, 28, 30, 42, 43, 44, 45, 47, 50, 63, 81, 83, 84, 86, 88]);
    }
}

#[test]
fn plain() {
    let volume = Arc::new(Memory::new(Sector(1 << 16), 4096, None).unwrap());
    let options = DeviceOptions { queues: 3, ..DeviceOptions::default() };
    let passed = all_pass_on(volume, options);
    assert_passed(&passed, &[1, 2, 3, 4, 5, 26, 27, 28, 29, 30, 40, 41, 42, 135, 144, 147, 149]);
}

#[test]
fn plain_and_tiny() {
    for (sectors, block, zeroed) in
        [(8, 4096, false), (16, 4096, false), (24, 4096, true), (1, 512, false)]
    {
        let volume = Arc::new(Memory::new(Sector(sectors), block, None).unwrap());
        let options = DeviceOptions { secure_erase: true, ..DeviceOptions::default() };
        let passed = all_pass_on(volume, options);
        assert_passed(&passed, &[1, 2, 3, 4, 5, 26, 40, 135, 144, 147, 149]);
        assert_eq!(passed.contains(&29) && passed.contains(&30), zeroed);
    }
}

#[test]
fn secure_erase() {
    for spec in [SPEC, GeometrySpec { model: Model::HostAware, ..SPEC }] {
        let options = DeviceOptions { secure_erase: true, ..DeviceOptions::default() };
        let passed = all_pass_on(zoned(spec), options);
        assert_passed(&passed, &[26, 65, 66, 67]);
    }
}

#[test]
fn zones_that_gave_up() {
    let faulty = [(3, Condition::ReadOnly), (5, Condition::Offline)];
    let passed = all_pass(Aged::volume(SPEC, false, &faulty));
    assert_passed(&passed, &HOST_MANAGED);
    assert_passed(&passed, &[48, 49, 61, 62, 92]);
}

#[test]
fn conventional_zones_that_gave_up() {
    for condition in [Condition::ReadOnly, Condition::Offline] {
        for first in [&[(0, condition)][..], &[(0, condition), (1, condition)]] {
            let passed = all_pass(Aged::volume(SPEC, false, first));
            assert_passed(&passed, &HOST_MANAGED);
            // With another one that is sound, they are tried there.
            for number in [29, 30, 43] {
                assert_eq!(passed.contains(&number), first.len() == 1, "{number}");
            }
        }
    }
}

#[test]
fn read_only() {
    for model in [Model::HostManaged, Model::HostAware] {
        let passed = all_pass(Aged::volume(GeometrySpec { model, ..SPEC }, true, &[]));
        assert_passed(&passed, &[1, 12, 25, 40, 68, 74, 75, 76, 77, 78, 79, 135, 144, 146, 147]);
    }
}

#[test]
fn only_what_was_asked_for() {
    let rig = Rig::new(zoned(SPEC), DeviceOptions::default());
    let only = Options { only: &[149, 59, 6], ..Options::default() };
    let (outcomes, _) = rig.run(&only, |transport| transport);
    let numbers: Vec<u16> = outcomes.iter().map(|outcome| outcome.number).collect();
    assert_eq!(numbers, [6, 59, 149]);
    assert_eq!(outcomes[1].verdict, Verdict::Pass);
}
