//! One queue under load: what `zvb bench` measures.

mod shared;

use std::time::{Duration, Instant};

use anyhow::Context;
use zvb_driver::{Buffer, Queue, Request};
use zvb_host::client::{SharedMemory, VhostUser};
use zvb_wire::{SECTOR_BYTES, Sector};

use crate::args::Workload;
use crate::device::explain;
use crate::histogram::Histogram;
use crate::random::Random;
use crate::transfer::Run;

pub(crate) use self::shared::Member;

/// How often the clock is looked at for the end, at most, while nothing has to be waited for.
const SPINS: u32 = 64;

/// What a queue does.
pub(crate) struct Plan {
    /// What to do.
    pub(crate) workload: Workload,
    /// Bytes of a request.
    pub(crate) bytes: usize,
    /// Requests in flight.
    pub(crate) depth: usize,
    /// How long.
    pub(crate) time: Duration,
    /// Poll rather than sleep.
    pub(crate) busy_poll: bool,
    /// How long to wait for a silent device.
    pub(crate) timeout_ms: Option<u32>,
    /// Where: whole zones, or parts of a plain disk. No request crosses from one into another.
    pub(crate) runs: Vec<Run>,
    /// How many of them at a time.
    pub(crate) at_once: usize,
    /// Requests to send at most.
    pub(crate) requests: u64,
    /// For appends of all queues to the same zones.
    pub(crate) shared: Option<Member>,
    /// Whether zones must be reset before they are written.
    pub(crate) zoned: bool,
    /// A zone is full, and nothing in flight to it, before another is begun: the disk has no room for more
    /// active zones than those that are written at a time.
    pub(crate) one_by_one: bool,
    /// For random numbers.
    pub(crate) seed: u64,
}

/// What came of it.
pub(crate) struct Measured {
    /// Latencies of requests that went well.
    pub(crate) latencies: Histogram,
    /// Requests that failed.
    pub(crate) errors: u64,
    /// Why the first of them did.
    pub(crate) first_error: Option<anyhow::Error>,
    /// How long it took.
    pub(crate) elapsed: Duration,
}

/// Puts `queue` under load.
pub(crate) fn run(
    queue: &mut Queue<'_, VhostUser, SharedMemory>,
    plan: &Plan,
) -> anyhow::Result<Measured> {
    let measured = drive(queue, plan);
    if let Some(member) = &plan.shared {
        member.leave();
    }
    measured
}

fn drive(queue: &mut Queue<'_, VhostUser, SharedMemory>, plan: &Plan) -> anyhow::Result<Measured> {
    let mut random = Random::new(plan.seed);
    let mut spare = Vec::new();
    let depth = plan.depth.min(queue.depth());
    for _ in 0..depth {
        let mut buffer = queue.buffer(plan.bytes).context("cannot get buffers")?;
        buffer.set_len(plan.bytes);
        random.fill(&mut buffer);
        spare.push(buffer);
    }
    let mut load = Load {
        places: Places::new(plan, random),
        // By slot of the token, which is below the queue's depth.
        started: vec![Instant::now(); queue.depth()],
        measured: Measured {
            latencies: Histogram::new(),
            errors: 0,
            first_error: None,
            elapsed: Duration::ZERO,
        },
        spare,
        in_flight: 0,
        left: plan.requests,
    };
    let begin = Instant::now();
    let end = begin + plan.time;
    loop {
        let now = Instant::now();
        if now < end && load.left > 0 {
            load.feed(queue)?;
        } else if load.in_flight == 0 {
            break;
        }
        load.collect(queue, plan)?;
    }
    load.measured.elapsed = begin.elapsed();
    Ok(load.measured)
}

struct Load<'p> {
    places: Places<'p>,
    started: Vec<Instant>,
    measured: Measured,
    spare: Vec<Buffer<SharedMemory>>,
    in_flight: usize,
    /// Requests that may still be sent.
    left: u64,
}

impl Load<'_> {
    /// Sends as many requests as there are buffers.
    fn feed(&mut self, queue: &mut Queue<'_, VhostUser, SharedMemory>) -> anyhow::Result<()> {
        if self.spare.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        while self.left > 0 {
            if self.in_flight > 0 && self.places.leaves_a_zone() {
                break;
            }
            let Some(buffer) = self.spare.pop() else { break };
            self.left -= 1;
            let request = self.places.next(queue, buffer)?;
            let token = queue.submit(request).map_err(|r| r.error).context("cannot send")?;
            if let Some(started) = self.started.get_mut(token.slot()) {
                *started = now;
            }
            self.in_flight += 1;
        }
        queue.kick().map_err(explain).context("cannot notify the device")
    }

    /// Takes at least one answer.
    fn collect(
        &mut self,
        queue: &mut Queue<'_, VhostUser, SharedMemory>,
        plan: &Plan,
    ) -> anyhow::Result<()> {
        let mut spins = 0;
        loop {
            let mut now = None;
            while let Some(completion) = queue.poll().context("the device failed")? {
                let now = *now.get_or_insert_with(Instant::now);
                let started = self.started.get(completion.token.slot()).copied().unwrap_or(now);
                self.in_flight = self.in_flight.saturating_sub(1);
                match completion.result {
                    Ok(_) => {
                        let nanos = now.saturating_duration_since(started).as_nanos();
                        self.measured.latencies.add(u64::try_from(nanos).unwrap_or(u64::MAX));
                    }
                    Err(error) => {
                        self.measured.errors += 1;
                        self.measured.first_error.get_or_insert_with(|| error.into());
                    }
                }
                self.spare.extend(completion.buffer);
            }
            if now.is_some() || self.in_flight == 0 {
                return Ok(());
            }
            if plan.busy_poll {
                spins += 1;
                std::hint::spin_loop();
                if spins > SPINS {
                    // Lets the device run where there are not enough processors for both.
                    std::thread::yield_now();
                    spins = 0;
                }
            } else {
                queue.wait(plan.timeout_ms).map_err(explain).context("the device is silent")?;
            }
        }
    }
}

/// Where the requests go.
struct Places<'p> {
    plan: &'p Plan,
    /// Ways through the runs, each with runs of its own, that are taken in turn.
    ways: Vec<Way>,
    /// The way that is next.
    turn: usize,
    random: Random,
}

/// One way through the runs.
#[derive(Clone, Copy)]
struct Way {
    /// The run that it is in.
    index: usize,
    /// Requests that went to that run; where zones are shared, those that may still go there.
    done: u64,
}

impl<'p> Places<'p> {
    fn new(plan: &'p Plan, random: Random) -> Self {
        let count = plan.at_once.clamp(1, plan.runs.len().max(1));
        let ways = (0..count).map(|index| Way { index, done: 0 }).collect();
        Self { plan, ways, turn: 0, random }
    }

    fn next(
        &mut self,
        queue: &mut Queue<'_, VhostUser, SharedMemory>,
        buffer: Buffer<SharedMemory>,
    ) -> anyhow::Result<Request<SharedMemory>> {
        let sectors = self.plan.bytes as u64 / SECTOR_BYTES;
        let (run, offset) = match self.plan.workload {
            Workload::Randread | Workload::Randwrite => self.anywhere(sectors),
            Workload::Read | Workload::Write | Workload::Append => self.onwards(queue, sectors)?,
        };
        let at = Sector(run.at.0.saturating_add(offset));
        Ok(match self.plan.workload {
            Workload::Read | Workload::Randread => Request::Read { at, buffer },
            Workload::Write | Workload::Randwrite => Request::Write { at, buffer },
            Workload::Append => Request::Append { zone: run.at, buffer },
        })
    }

    fn run(&self, index: usize) -> Run {
        let nowhere = Run { at: Sector::ZERO, sectors: Sector::ZERO };
        self.plan.runs.get(index).copied().unwrap_or(nowhere)
    }

    fn anywhere(&mut self, sectors: u64) -> (Run, u64) {
        let index = self.random.below(self.plan.runs.len() as u64) as usize;
        let run = self.run(index);
        let place = self.random.below((run.sectors.0 / sectors.max(1)).max(1));
        (run, place.saturating_mul(sectors))
    }

    /// True when the next request may begin another zone, and what is in flight must have ended before that.
    fn leaves_a_zone(&self) -> bool {
        if !self.plan.one_by_one {
            return false;
        }
        let sectors = self.plan.bytes as u64 / SECTOR_BYTES;
        self.ways.get(self.turn).is_some_and(|way| match &self.plan.shared {
            Some(_) => way.done == 0,
            None => way.done == 0 || self.is_done(*way, sectors),
        })
    }

    /// True when all the requests have been sent that the run of `way` takes.
    fn is_done(&self, way: Way, sectors: u64) -> bool {
        way.done >= self.run(way.index).sectors.0 / sectors.max(1)
    }

    /// Ends a zone that requests of this size do not fill: it would stay active.
    fn leave(
        &self,
        queue: &mut Queue<'_, VhostUser, SharedMemory>,
        run: Run,
        filled: u64,
    ) -> anyhow::Result<()> {
        if !self.plan.one_by_one || filled >= run.sectors.0 {
            return Ok(());
        }
        let done = queue.finish(run.at).map_err(explain);
        done.with_context(|| format!("cannot finish the zone at sector {}", run.at))?;
        Ok(())
    }

    fn onwards(
        &mut self,
        queue: &mut Queue<'_, VhostUser, SharedMemory>,
        sectors: u64,
    ) -> anyhow::Result<(Run, u64)> {
        if let Some(member) = &self.plan.shared {
            return self.append_with_others(queue, member, sectors);
        }
        let (count, turn) = (self.ways.len(), self.turn);
        self.turn = (turn + 1) % count.max(1);
        let Some(Way { mut index, mut done }) = self.ways.get(turn).copied() else {
            return Ok((self.run(0), 0));
        };
        if self.is_done(Way { index, done }, sectors) {
            self.leave(queue, self.run(index), done.saturating_mul(sectors))?;
            // The next of this way's own.
            index += count;
            if index >= self.plan.runs.len() {
                index = turn;
            }
            done = 0;
        }
        let run = self.run(index);
        let writes = matches!(self.plan.workload, Workload::Write | Workload::Append);
        if done == 0 && writes && self.plan.zoned {
            reset(queue, run)?;
        }
        if let Some(way) = self.ways.get_mut(turn) {
            *way = Way { index, done: done + 1 };
        }
        Ok((run, done.saturating_mul(sectors)))
    }

    /// The zone that the next append goes to, which other queues append to as well.
    fn append_with_others(
        &mut self,
        queue: &mut Queue<'_, VhostUser, SharedMemory>,
        member: &Member,
        sectors: u64,
    ) -> anyhow::Result<(Run, u64)> {
        let Some(mut way) = self.ways.first().copied() else { return Ok((self.run(0), 0)) };
        if way.done == 0 {
            let (round, first) = member.take();
            way = Way {
                index: (round % self.plan.runs.len().max(1) as u64) as usize,
                done: member.part(),
            };
            if first {
                let zones = if self.plan.one_by_one { 1 } else { self.plan.runs.len() };
                member.wait_for_others(round, zones)?;
                if let Some(before) = round.checked_sub(1) {
                    let index = before % self.plan.runs.len().max(1) as u64;
                    self.leave(queue, self.run(index as usize), member.fills() * sectors)?;
                }
                reset(queue, self.run(way.index))?;
                member.begin(round);
            } else {
                member.wait_until_begun(round)?;
            }
        }
        way.done -= 1;
        if let Some(first) = self.ways.first_mut() {
            *first = way;
        }
        Ok((self.run(way.index), 0))
    }
}

fn reset(queue: &mut Queue<'_, VhostUser, SharedMemory>, run: Run) -> anyhow::Result<()> {
    let done = queue.reset(run.at).map_err(explain);
    done.with_context(|| format!("cannot reset the zone at sector {}", run.at))?;
    Ok(())
}
