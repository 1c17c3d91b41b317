//! What the rules of zones cost, by themselves, in nanoseconds for each request.
//!
//! `cargo run --release -p zvb-zones --example cost`
//!
//! As a device asks them: reads look at the published state of a zone, one atomic word; writes are
//! decided and applied under one lock for a batch, and what changed is published. Nothing else is done
//! for a request here, so these figures are what a zoned disk costs more than a plain one, but for what
//! its medium makes of zones.

use std::hint::black_box;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use zvb_wire::{Model, Sector};
use zvb_zones::{Geometry, GeometrySpec, Manage, Outcome, Snapshot, WriteId, ZoneId, Zones};
use zvb_zones::{check_read, describe};

/// Sectors of a request.
const REQUEST: Sector = Sector(8);
const ZONE: u64 = 64 << 11;
const ZONES: u64 = 128;
const ROUNDS: usize = 9;

fn main() {
    let spec = GeometrySpec {
        model: Model::HostManaged,
        capacity: Sector(ZONES * ZONE),
        zone_size: Sector(ZONE),
        zone_capacity: Sector(ZONE),
        conventional: 0,
        max_open: 16,
        max_active: 32,
        max_append: Sector(1024),
        write_granularity: 4096,
    };
    let geometry = match Geometry::new(spec) {
        Ok(geometry) => geometry,
        Err(error) => return eprintln!("{error}"),
    };
    println!("median of {ROUNDS}, ns for each request (least, most)");
    report("read", || reads(&geometry));
    for batch in [1, 16, 32, 128] {
        report(&format!("write, batches of {batch}"), || writes(geometry, batch, 1));
    }
    report("write, batches of 32, 4 zones in turn", || writes(geometry, 32, 4));
    report("append, batches of 32", || appends(geometry, 32));
    report("one zone of a report", || described(&geometry));
}

fn report(what: &str, mut measure: impl FnMut() -> f64) {
    let mut all: Vec<f64> = (0..ROUNDS).map(|_| measure()).collect();
    all.sort_by(f64::total_cmp);
    println!("{what:<40} {:>7.1} ({:.1}, {:.1})", all[ROUNDS / 2], all[0], all[ROUNDS - 1]);
}

fn each(count: u64, begin: Instant) -> f64 {
    begin.elapsed().as_nanos() as f64 / count as f64
}

/// Published states, as those who take no lock see them.
fn published(state: Snapshot) -> Vec<AtomicU64> {
    (0..ZONES).map(|_| AtomicU64::new(state.to_bits())).collect()
}

fn reads(geometry: &Geometry) -> f64 {
    const COUNT: u64 = 2_000_000;
    let full = Snapshot::new(zvb_wire::Condition::Full, Sector(ZONE));
    let states = published(full);
    let (mut random, mut data) = (1u64, 0);
    let begin = Instant::now();
    for _ in 0..COUNT {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let at = Sector((random >> 32) % (ZONES * ZONE / REQUEST.0) * REQUEST.0);
        let snapshot = |zone: ZoneId| {
            let bits = states[zone.0 as usize].load(Ordering::Acquire);
            Snapshot::from_bits(bits).unwrap_or(Snapshot::EMPTY)
        };
        data += check_read(geometry, black_box(at), REQUEST, snapshot).map_or(0, |p| p.data.0);
    }
    black_box(data);
    each(COUNT, begin)
}

/// Each zone is filled once: nothing is reset.
fn writes(geometry: Geometry, batch: usize, at_once: u64) -> f64 {
    let per_zone = ZONE / REQUEST.0;
    let order = (0..ZONES / at_once).flat_map(move |group| {
        (0..per_zone * at_once).map(move |i| {
            let zone = group * at_once + i % at_once;
            Sector(zone * ZONE + i / at_once * REQUEST.0)
        })
    });
    run(geometry, batch, order, |zones, at, owner| {
        zones.begin_write(at, REQUEST, owner, None).ok().and_then(|begun| begun.write)
    })
}

fn appends(geometry: Geometry, batch: usize) -> f64 {
    let per_zone = ZONE / REQUEST.0;
    let order = (0..ZONES * per_zone).map(|i| Sector(i / per_zone * ZONE));
    run(geometry, batch, order, |zones, at, owner| {
        zones.begin_append(at, REQUEST, owner, None).ok().and_then(|begun| begun.write)
    })
}

/// Decides a batch, and applies it: two locks, as a lane takes them.
fn run(
    geometry: Geometry,
    batch: usize,
    order: impl Iterator<Item = Sector>,
    begin: impl Fn(&mut Zones, Sector, u64) -> Option<WriteId>,
) -> f64 {
    let table = Mutex::new(Zones::new(geometry));
    let states = published(Snapshot::EMPTY);
    let mut order = order.peekable();
    let mut flying = Vec::with_capacity(batch);
    let (mut count, mut over) = (0u64, 0u64);
    let start = Instant::now();
    while order.peek().is_some() {
        let mut zones = match table.lock() {
            Ok(zones) => zones,
            Err(poisoned) => poisoned.into_inner(),
        };
        for at in order.by_ref().take(batch) {
            count += 1;
            flying.extend(begin(&mut zones, at, count));
        }
        publish(&mut zones, &states);
        drop(zones);
        let mut zones = match table.lock() {
            Ok(zones) => zones,
            Err(poisoned) => poisoned.into_inner(),
        };
        for write in flying.drain(..) {
            zones.end_write(write, Outcome::Done, |released| over += u64::from(released.ok));
        }
        publish(&mut zones, &states);
    }
    let nanos = each(count, start);
    assert_eq!(over, count, "a write was refused");
    nanos
}

fn publish(zones: &mut Zones, states: &[AtomicU64]) {
    zones.take_changed(|zone, state| {
        states[zone.0 as usize].store(state.to_bits(), Ordering::Release);
    });
}

fn described(geometry: &Geometry) -> f64 {
    const COUNT: u64 = 1_000_000;
    let mut zones = Zones::new(*geometry);
    let opened = zones.manage(Manage::Open, Sector(ZONE), None);
    assert!(opened.is_ok(), "a zone can not be opened");
    let begin = Instant::now();
    for i in 0..COUNT {
        let zone = ZoneId((i % ZONES) as u32);
        black_box(describe(geometry, zone, zones.snapshot(zone)));
    }
    each(COUNT, begin)
}
