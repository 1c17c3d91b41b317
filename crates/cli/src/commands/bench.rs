//! `zvb bench`.

mod room;

use std::num::NonZeroU64;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use serde::Serialize;
use zvb_wire::{Condition, SECTOR_BYTES, Sector, ZoneType};

use crate::args::{BenchArgs, Workload};
use crate::bench::{Measured, Member, Plan};
use crate::device::{Connect, Device};
use crate::histogram::Histogram;
use crate::output::{self, Usage};
use crate::report::Zone;
use crate::size::Size;
use crate::transfer::Run;

/// Room for what a driver needs beside its buffers.
const SPARE_BYTES: usize = 16 << 20;
/// More time than anybody waits for.
const SECONDS_MAX: f64 = 86_400.0;

#[derive(Serialize)]
struct Answer {
    rw: String,
    bs: u64,
    depth: u32,
    queues: u16,
    busy_poll: bool,
    seconds: f64,
    requests: u64,
    errors: u64,
    iops: f64,
    /// 10^6 bytes.
    mb_per_s: f64,
    latency_us: Latency,
}

#[derive(Serialize)]
struct Latency {
    mean: f64,
    p50: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
}

pub(super) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let writes = matches!(args.rw, Workload::Write | Workload::Randwrite | Workload::Append);
    if writes && !args.destroy {
        let text = "this workload destroys what is on the disk; say --destroy if that is all right";
        return Err(Usage(text.into()).into());
    }
    let bytes = request_bytes(args)?;
    let time = measured_time(args)?;
    if args.same_zones && args.rw != Workload::Append {
        let text = "--same-zones: queues can share zones only to append; use --rw append";
        return Err(Usage(text.into()).into());
    }
    let (depth, queues) = (args.depth.get(), args.queues.get());
    let memory = usize::try_from(depth)
        .ok()
        .and_then(|depth| {
            bytes.next_multiple_of(4096).checked_mul(depth)?.checked_mul(queues.into())
        })
        .and_then(|bytes| bytes.checked_add(SPARE_BYTES))
        .context("--bs, --depth and --queues ask for more memory than there is")?;
    // A request takes three descriptors of a device without indirect ones.
    let descriptors = depth.saturating_mul(3).checked_next_power_of_two().unwrap_or(u32::MAX);
    let queue_size = u16::try_from(descriptors.clamp(256, 1024)).unwrap_or(1024);
    let how = Connect { queues, queue_size, memory, ..Connect::default() };
    let mut device = Device::connect(&args.device, &how)?;
    check(args, &device, bytes)?;
    let runs = runs(args, &mut device, bytes)?;
    if device.info().queues < queues {
        bail!("the device has {} queues; use --queues {0}", device.info().queues);
    }
    if (device.disk.depth(0) as u64) < u64::from(depth) {
        bail!("the device takes {} requests at a time; use --depth {0}", device.disk.depth(0));
    }
    let one_by_one = room::make(args, &mut device, &runs, bytes)?;
    let plans = plans(args, &device, runs, bytes, one_by_one, time);
    let measured = measure(&mut device, &plans)?;
    report(args, measured)
}

fn request_bytes(args: &BenchArgs) -> Result<usize, Usage> {
    match usize::try_from(args.bs.0) {
        Ok(bytes) if bytes > 0 && args.bs.0.is_multiple_of(SECTOR_BYTES) => Ok(bytes),
        _ => Err(Usage(format!("--bs {}: use a multiple of 512, like 4K", args.bs.0))),
    }
}

fn measured_time(args: &BenchArgs) -> Result<Duration, Usage> {
    let seconds = args.seconds;
    if seconds > 0.0 && seconds <= SECONDS_MAX {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(Usage(format!("--seconds {seconds}: use a time up to a day, like 2 or 0.5")))
    }
}

/// Whether the device takes such requests.
fn check(args: &BenchArgs, device: &Device, bytes: usize) -> anyhow::Result<()> {
    let info = device.info();
    let writes = matches!(args.rw, Workload::Write | Workload::Randwrite | Workload::Append);
    if writes && info.read_only {
        bail!("the disk is read-only; use --rw read or randread");
    }
    let unit = if writes { device.write_unit() } else { info.block_size };
    let bytes = bytes as u64;
    if !bytes.is_multiple_of(unit.into()) {
        return Err(
            Usage(format!("--bs {bytes}: the disk wants a multiple of {unit} bytes")).into()
        );
    }
    if bytes > info.max_transfer.into() {
        let most = Size(info.max_transfer.into());
        return Err(Usage(format!("--bs {bytes}: the device takes at most {most}")).into());
    }
    if args.rw == Workload::Append {
        let most = Size::of(device.zoned()?.max_append);
        if bytes > most.0 {
            return Err(Usage(format!("--bs {bytes}: the device appends at most {most}")).into());
        }
    }
    Ok(())
}

/// The parts of the disk that suit the workload: whole zones, or a plain disk in one piece for each queue.
fn runs(args: &BenchArgs, device: &mut Device, bytes: usize) -> anyhow::Result<Vec<Run>> {
    let capacity = device.info().capacity;
    let span = match args.span {
        Some(span) => Sector(span.0 / SECTOR_BYTES).min(capacity),
        None => capacity,
    };
    let sectors = bytes as u64 / SECTOR_BYTES;
    let mut runs: Vec<Run> = if device.info().zoned.is_some() {
        let zones = device.all_zones()?;
        let inside: Vec<_> =
            zones.iter().filter(|zone| zone.start.0.saturating_add(zone.len.0) <= span.0).collect();
        let reads = matches!(args.rw, Workload::Read | Workload::Randread);
        let written = |zone: &&&Zone| zone.is_sequential() && zone.readable().0 >= sectors;
        let part = |zone: &&Zone, sectors| Run { at: zone.start, sectors };
        if reads && inside.iter().any(|zone| written(&zone)) {
            // A device may answer for what was never written without a look at its medium.
            inside.iter().filter(written).map(|zone| part(zone, zone.readable())).collect()
        } else {
            let suit = inside.iter().filter(|zone| suits(args.rw, zone));
            suit.map(|zone| part(zone, zone.capacity)).collect()
        }
    } else {
        let share = span.0 / u64::from(args.queues.get()) / sectors.max(1) * sectors;
        (0..u64::from(args.queues.get()))
            .map(|i| Run { at: Sector(i * share), sectors: Sector(share) })
            .collect()
    };
    runs.retain(|run| run.sectors.0 >= sectors);
    if runs.len() < usize::from(args.queues.get()) {
        bail!(
            "{} parts of the disk suit this workload with requests of {}, and each queue needs one of its own",
            runs.len(),
            Size(bytes as u64)
        );
    }
    Ok(runs)
}

fn suits(workload: Workload, zone: &Zone) -> bool {
    let usable = !matches!(zone.condition, Condition::ReadOnly | Condition::Offline);
    match workload {
        Workload::Read | Workload::Randread => zone.condition != Condition::Offline,
        Workload::Write | Workload::Append => usable && zone.is_sequential(),
        Workload::Randwrite => usable && zone.zone_type != ZoneType::SequentialRequired,
    }
}

/// A plan for each queue: it has some of the runs to itself when it writes or goes on in order.
fn plans(
    args: &BenchArgs,
    device: &Device,
    runs: Vec<Run>,
    bytes: usize,
    one_by_one: bool,
    time: Duration,
) -> Vec<Plan> {
    let queues = usize::from(args.queues.get());
    let each =
        runs.iter().map(|run| run.sectors.0).min().unwrap_or(0) / (bytes as u64 / SECTOR_BYTES);
    let members = if args.same_zones { Member::all(queues, each) } else { Vec::new() };
    (0..queues)
        .map(|queue| Plan {
            workload: args.rw,
            bytes,
            depth: usize::try_from(args.depth.get()).unwrap_or(usize::MAX),
            time,
            busy_poll: args.busy_poll,
            timeout_ms: device.timeout_ms(),
            runs: match args.rw {
                Workload::Randread => runs.clone(),
                _ if args.same_zones => runs.clone(),
                _ => runs.iter().copied().skip(queue).step_by(queues).collect(),
            },
            requests: args.requests.map_or(u64::MAX, NonZeroU64::get),
            shared: members.get(queue).cloned(),
            at_once: usize::from(args.zones_at_once.get()),
            zoned: device.info().zoned.is_some(),
            one_by_one,
            seed: queue as u64 + 1,
        })
        .collect()
}

/// Runs every queue on a thread of its own.
fn measure(device: &mut Device, plans: &[Plan]) -> anyhow::Result<Vec<Measured>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = device
            .disk
            .queues()
            .zip(plans)
            .map(|(mut queue, plan)| scope.spawn(move || crate::bench::run(&mut queue, plan)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked"))))
            .collect()
    })
}

fn report(args: &BenchArgs, measured: Vec<Measured>) -> anyhow::Result<()> {
    let mut all = Histogram::new();
    let (mut errors, mut first_error, mut elapsed) = (0, None, Duration::ZERO);
    for queue in measured {
        all.merge(&queue.latencies);
        errors += queue.errors;
        first_error = first_error.or(queue.first_error);
        elapsed = elapsed.max(queue.elapsed);
    }
    let answer = Answer::new(args, &all, errors, elapsed);
    if args.json {
        output::json(&answer)?;
    } else {
        output::print(text(&answer))?;
    }
    match first_error {
        Some(error) => {
            let requests = all.count().saturating_add(errors);
            Err(error.context(format!("{errors} of {requests} requests failed")))
        }
        None => Ok(()),
    }
}

impl Answer {
    fn new(args: &BenchArgs, all: &Histogram, errors: u64, elapsed: Duration) -> Self {
        let seconds = elapsed.as_secs_f64().max(1e-9);
        let iops = all.count() as f64 / seconds;
        let us = |nanos: u64| nanos as f64 / 1000.0;
        Self {
            rw: format!("{:?}", args.rw).to_lowercase(),
            bs: args.bs.0,
            depth: args.depth.get(),
            queues: args.queues.get(),
            busy_poll: args.busy_poll,
            seconds,
            requests: all.count(),
            errors,
            iops,
            mb_per_s: iops * args.bs.0 as f64 / 1e6,
            latency_us: Latency {
                mean: us(all.mean()),
                p50: us(all.quantile(500)),
                p99: us(all.quantile(990)),
                p99_9: us(all.quantile(999)),
                max: us(all.max()),
            },
        }
    }
}

fn text(a: &Answer) -> String {
    let poll = if a.busy_poll { ", polling" } else { "" };
    let l = &a.latency_us;
    format!(
        "{} of {}, depth {}, {} queue{}{poll}, {:.2} s\n  {:.0} IOPS, {:.1} MB/s, {} errors\n  \
         latency in us: mean {:.1}, p50 {:.1}, p99 {:.1}, p99.9 {:.1}, max {:.1}\n",
        a.rw,
        Size(a.bs),
        a.depth,
        a.queues,
        if a.queues == 1 { "" } else { "s" },
        a.seconds,
        a.iops,
        a.mb_per_s,
        a.errors,
        l.mean,
        l.p50,
        l.p99,
        l.p99_9,
        l.max
    )
}
