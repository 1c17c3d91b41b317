//! Lies, and what must come of them.

use zvb_conform::{Options, Verdict};
use zvb_device::DeviceOptions;
use zvb_host::client::SharedMemory;
use zvb_wire::{RequestType, Status};
use zvb_zones::GeometrySpec;

use super::liar::{Exchange, Liar, Lie, Recorder};
use super::{Rig, zoned};

/// The verdict on `number` when the device lies.
pub fn verdict(rig: &Rig, number: u16, lie: Lie) -> Verdict {
    let memory = Recorder::new(SharedMemory::new(64 << 20).unwrap());
    let only = [number];
    let options = Options { timeout_ms: 1000, only: &only, ..Options::default() };
    let mut verdicts = Vec::new();
    let summary = zvb_conform::run(
        &mut || rig.connect_with(&memory.shared()).map(|t| Liar::new(t, memory.clone(), lie)),
        &memory,
        &options,
        &mut |outcome| verdicts.push(outcome.verdict.clone()),
    );
    summary.unwrap();
    verdicts.remove(0)
}

/// Each number passes when nothing is changed, and fails when its lie is told.
pub fn bites(spec: GeometrySpec, lies: &[(u16, Lie)]) {
    bites_on(&Rig::new(zoned(spec), DeviceOptions::default()), lies);
}

/// The same on any device.
pub fn bites_on(rig: &Rig, lies: &[(u16, Lie)]) {
    for (number, lie) in lies {
        // Who looks at answers takes the signals away, also when nothing is changed.
        let unchanged: fn(&mut Exchange) = |_| {};
        let honest = Lie { answer: lie.answer.map(|_| unchanged), ..Lie::default() };
        assert_eq!(verdict(rig, *number, honest), Verdict::Pass, "{number} without a lie");
        let got = verdict(rig, *number, *lie);
        assert!(matches!(got, Verdict::Fail { .. }), "{number} with a lie: {got:?}");
    }
}

pub fn answer(answer: fn(&mut Exchange)) -> Lie {
    Lie { answer: Some(answer), ..Lie::default() }
}

pub fn config(change: fn(u32, &mut [u8])) -> Lie {
    Lie { config: Some(change), ..Lie::default() }
}

/// Zoned errors become I/O errors, as in a device that knows no better.
pub fn all_io_errors(e: &mut Exchange) {
    if e.status.0 > Status::UNSUPP.0 {
        e.status = Status::IOERR;
    }
}

/// A report's zones, each 64 bytes behind a header of 64.
pub fn each_zone(e: &mut Exchange, change: impl Fn(&mut [u8])) {
    if e.kind == RequestType::ZONE_REPORT && e.status == Status::OK {
        e.data.chunks_exact_mut(64).skip(1).for_each(change);
    }
}

pub fn swap(e: &mut Exchange, from: Status, to: Status) {
    if e.status == from {
        e.status = to;
    }
}
