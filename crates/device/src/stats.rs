//! Counters: what each queue was asked for and what came of it.
//!
//! One thread at a time drives a queue and writes its counters, by plain loads and stores; readers may
//! look at any time, and see each counter as it was at some moment not long ago.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use zvb_wire::{Condition, Status};
use zvb_zones::ZoneId;

use crate::device::Device;
use crate::kind::Kind;

/// What became of the requests of one kind on one queue, since the device was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KindStats {
    /// Requests that were answered.
    pub requests: u64,
    /// Those of them that were not answered with OK.
    pub errors: u64,
    /// Data of reads, writes, appends and reports that were answered with OK.
    pub bytes: u64,
    /// Requests that were taken and are not answered.
    pub in_flight: u64,
    /// How long the answered ones took from being taken to being answered, all together. Nothing unless
    /// [`timing`](crate::DeviceOptions::timing) is on.
    pub time: Duration,
    /// The longest that one took.
    pub longest: Duration,
}

impl KindStats {
    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            errors: self.errors.saturating_add(other.errors),
            bytes: self.bytes.saturating_add(other.bytes),
            in_flight: self.in_flight.saturating_add(other.in_flight),
            time: self.time.saturating_add(other.time),
            longest: self.longest.max(other.longest),
        }
    }

    /// True when there never was such a request.
    pub fn is_empty(&self) -> bool {
        self.requests == 0 && self.in_flight == 0
    }
}

/// The counters of a device at some moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stats {
    /// For each queue, in the order of [`Kind::ALL`].
    pub queues: Vec<[KindStats; Kind::ALL.len()]>,
    /// How many zones are in each condition, in the order of [`Condition::ALL`]. All 0 for a disk without
    /// zones.
    pub conditions: [u32; Condition::ALL.len()],
}

#[derive(Debug, Default)]
struct Counters {
    taken: AtomicU64,
    answered: AtomicU64,
    errors: AtomicU64,
    bytes: AtomicU64,
    nanoseconds: AtomicU64,
    longest: AtomicU64,
}

/// The counters of one queue, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct QueueCounters([Counters; Kind::ALL.len()]);

/// What there is to say of a request that is answered.
pub(crate) struct Answered {
    pub(crate) status: Status,
    pub(crate) bytes: u64,
    pub(crate) time: Duration,
}

impl QueueCounters {
    /// A request of `kind` was taken.
    #[inline]
    pub(crate) fn take(&self, kind: Kind) {
        add(&self.0[kind as usize].taken, 1);
    }

    /// It is answered.
    #[inline]
    pub(crate) fn answer(&self, kind: Kind, answered: &Answered) {
        let counters = &self.0[kind as usize];
        if answered.status == Status::OK {
            add(&counters.bytes, answered.bytes);
        } else {
            add(&counters.errors, 1);
        }
        if !answered.time.is_zero() {
            // More than 2^64 ns are 584 years.
            let time = answered.time.as_nanos() as u64;
            add(&counters.nanoseconds, time);
            if time > counters.longest.load(Ordering::Relaxed) {
                counters.longest.store(time, Ordering::Relaxed);
            }
        }
        // Last, and read first: a request that is not answered yet is in flight.
        counters
            .answered
            .store(counters.answered.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
    }

    fn look(&self) -> [KindStats; Kind::ALL.len()] {
        self.0.each_ref().map(|counters| {
            let requests = counters.answered.load(Ordering::Acquire);
            let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            KindStats {
                requests,
                errors: load(&counters.errors),
                bytes: load(&counters.bytes),
                in_flight: load(&counters.taken).saturating_sub(requests),
                time: Duration::from_nanos(load(&counters.nanoseconds)),
                longest: Duration::from_nanos(load(&counters.longest)),
            }
        })
    }
}

/// There is one writer.
#[inline]
fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

impl Device {
    /// What was done since the device was made, and in which conditions its zones are.
    pub fn stats(&self) -> Stats {
        let mut conditions = [0u32; Condition::ALL.len()];
        if let Some(table) = &self.table {
            for zone in (0..table.geometry().zone_count()).map(ZoneId) {
                let condition = table.snapshot(zone).condition();
                let place = Condition::ALL.iter().position(|c| *c == condition);
                if let Some(count) = place.and_then(|place| conditions.get_mut(place)) {
                    *count += 1;
                }
            }
        }
        Stats { queues: self.counters.iter().map(QueueCounters::look).collect(), conditions }
    }
}
