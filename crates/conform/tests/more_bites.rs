//! More lies, on disks of other kinds; and the numbers that have no lie of their own, with the reason.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use support::aged::Aged;
use support::bites::{all_io_errors, answer, bites, bites_on, config, each_zone, swap, verdict};
use support::liar::{Exchange, Lie};
use support::{Rig, SPEC, zoned};
use zvb_conform::Verdict;
use zvb_device::DeviceOptions;
use zvb_storage::Memory;
use zvb_wire::{Condition, Features, Model, RequestType as T, Sector, Status};
use zvb_zones::GeometrySpec;

/// A lie about one byte of the configuration space.
macro_rules! byte {
    ($at:literal, $value:expr) => {
        config(|at, to| {
            if at == $at {
                to[0] = $value
            }
        })
    };
}

/// A request of one kind that goes wrong.
macro_rules! fails {
    ($kind:expr) => {
        answer(|e| {
            if e.kind == $kind {
                e.status = Status::IOERR
            }
        })
    };
}

fn erasing(spec: GeometrySpec) -> Rig {
    Rig::new(zoned(spec), DeviceOptions { secure_erase: true, ..DeviceOptions::default() })
}

/// A lie about what passes for not applicable without one.
fn found_out(rig: &Rig, number: u16, lie: Lie) {
    let got = verdict(rig, number, lie);
    assert!(matches!(got, Verdict::Fail { .. }), "{number}: {got:?}");
}

/// A plain disk with three queues.
fn plain() -> Rig {
    let volume = Arc::new(Memory::new(Sector(1 << 16), 4096, None).unwrap());
    Rig::new(volume, DeviceOptions { queues: 3, ..DeviceOptions::default() })
}

#[test]
fn limits() {
    bites(
        GeometrySpec { max_open: 2, max_active: 3, ..SPEC },
        &[
            (13, byte!(76, 1)),
            (14, byte!(80, 2)),
            (46, answer(|e| swap(e, Status::ZONE_OPEN_RESOURCE, Status::ZONE_INVALID_CMD))),
            (69, answer(|e| swap(e, Status::ZONE_ACTIVE_RESOURCE, Status::OK))),
        ],
    );
}

#[test]
fn zones_that_gave_up() {
    let faulty = [(3, Condition::ReadOnly), (5, Condition::Offline)];
    let rig = Rig::new(Aged::volume(SPEC, false, &faulty), DeviceOptions::default());
    let io = answer(all_io_errors);
    bites_on(&rig, &[(48, io), (49, io), (61, io), (62, io), (92, fails!(T::IN))]);
}

#[test]
fn a_read_only_disk() {
    let rig = Rig::new(Aged::volume(SPEC, true, &[]), DeviceOptions::default());
    bites_on(&rig, &[(25, answer(|e| swap(e, Status::IOERR, Status::OK)))]);
}

#[test]
fn a_plain_disk() {
    bites_on(
        &plain(),
        &[
            (27, answer(|e| swap(e, Status::UNSUPP, Status::OK))),
            (28, fails!(T::DISCARD)),
            (29, fails!(T::WRITE_ZEROES)),
            (41, byte!(34, 0)),
        ],
    );
    // Without a lie it answers, and whether it keeps its word can not be seen.
    found_out(&plain(), 35, fails!(T::FLUSH));
    found_out(&plain(), 38, Lie { features: Features::LIFETIME, ..Lie::default() });
}

#[test]
fn zones_that_are_erased_and_zones_without_appends() {
    bites_on(
        &erasing(SPEC),
        &[
            (65, byte!(68, 8)),
            (66, answer(|e| swap(e, Status::IOERR, Status::OK))),
            (67, fails!(T::SECURE_ERASE)),
        ],
    );
    bites(
        GeometrySpec { max_append: Sector(0), ..SPEC },
        &[
            (17, answer(|e| swap(e, Status::UNSUPP, Status::OK))),
            (56, answer(|e| swap(e, Status::UNSUPP, Status::ZONE_INVALID_CMD))),
        ],
    );
}

#[test]
fn zones_of_other_kinds() {
    let aware = GeometrySpec { model: Model::HostAware, ..SPEC };
    // Without a lie there is nothing to see: these disks are of another model.
    let preferred = |e: &mut Exchange| {
        each_zone(e, |zone| {
            if zone[24] == 2 {
                zone[24] = 3
            }
        })
    };
    found_out(&Rig::new(zoned(SPEC), DeviceOptions::default()), 11, answer(preferred));
    let aware = GeometrySpec { conventional: 0, ..aware };
    found_out(&Rig::new(zoned(aware), DeviceOptions::default()), 9, byte!(92, 0));
    let spec = GeometrySpec { zone_capacity: Sector(800), ..SPEC };
    bites(spec, &[(93, answer(all_io_errors))]);
}

#[test]
fn what_must_stay_as_it_is() {
    static TURN: AtomicU8 = AtomicU8::new(0);
    let drifts = |e: &mut Exchange| {
        let turn = TURN.fetch_add(1, Ordering::Relaxed);
        each_zone(e, |zone| zone[20] = turn);
    };
    static OPENED: AtomicBool = AtomicBool::new(false);
    let opens = |e: &mut Exchange| {
        if e.kind == T::OUT && e.out.is_empty() {
            OPENED.store(true, Ordering::Relaxed);
        }
        if OPENED.load(Ordering::Relaxed) {
            each_zone(e, |zone| zone[25] = Condition::ImplicitOpen as u8);
        }
    };
    bites(SPEC, &[(78, answer(drifts)), (94, answer(opens))]);
}

/// The numbers that have a lie here or in `bites.rs`.
const TOLD: &[u16] = &[
    1, 2, 3, 4, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27, 28, 29, 30, 35, 38, 40,
    41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 56, 57, 58, 59, 61, 62, 63, 64, 65, 66,
    67, 68, 69, 70, 71, 72, 73, 74, 75, 76, 77, 78, 79, 80, 81, 82, 83, 84, 85, 86, 87, 88, 89, 90,
    92, 93, 94, 95, 136, 138, 139, 141, 144, 145, 146, 147, 148, 149,
];

/// Why the others have none.
const UNTOLD: &[(&str, &[u16])] = &[
    (
        "the run can not see them: legacy, power losses, and what no driver can bring about",
        &[6, 21, 22, 23, 24, 32, 33, 36, 37, 55, 91, 142],
    ),
    ("they are permissions: whatever a device does is right", &[60]),
    ("a drive-managed device and one without zones look the same: its check never fails", &[5]),
    ("whether space is given back can not be seen: its check never fails", &[31]),
    ("our device has no SIZE_MAX, lifetime or IN_ORDER to lie about", &[16, 39, 143]),
    (
        "a write to the configuration space is the lie, and none goes through a transport that reads",
        &[20, 34],
    ),
    ("it compares zones before and after a restart: a lie would have to know which it is", &[96]),
    (
        "a lie would have to come from inside the device: about when it looks at its rings",
        &[135, 137, 140, 150],
    ),
];

#[test]
fn a_broken_device_may_take_its_time_to_say_so() {
    let rig = Rig::new(zoned(SPEC), DeviceOptions::default());
    bites_on(&rig, &[(136, Lie { late: u32::MAX, ..Lie::default() })]);
    assert_eq!(verdict(&rig, 136, Lie { late: 12, ..Lie::default() }), Verdict::Pass);
}

#[test]
fn each_number_has_a_lie_or_a_reason() {
    let untold = UNTOLD.iter().flat_map(|(_, numbers)| *numbers);
    let mut all: Vec<u16> = TOLD.iter().chain(untold).copied().collect();
    all.sort_unstable();
    assert!(all.iter().copied().eq(zvb_conform::numbers()), "{all:?}");
    // Each is told somewhere, as a number at the beginning of a pair.
    let text = [include_str!("bites.rs"), include_str!("more_bites.rs")].concat();
    let number = |rest: &str| rest.trim_start().split(',').next().and_then(|n| n.parse().ok());
    let told: BTreeSet<u16> = text.split('(').filter_map(number).collect();
    let missing: Vec<_> =
        TOLD.iter().filter(|n| !told.contains(*n) && ![8, 9, 11, 35, 38].contains(*n)).collect();
    assert!(missing.is_empty(), "no lie for {missing:?}");
}
