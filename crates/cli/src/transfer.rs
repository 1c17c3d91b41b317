//! Moves much data: many requests in flight, results in order.

use std::collections::VecDeque;
use std::io::Write;

use anyhow::{Context, anyhow};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use zvb_driver::{Answer, Buffer, Completion, Request, Token};
use zvb_host::client::SharedMemory;
use zvb_wire::{SECTOR_BYTES, Sector};

use crate::device::{Connect, Device, MEMORY_BYTES, explain_refusal, explain_request};
use crate::input::Input;
use crate::output::OutputGone;

/// Bytes of a request, where the device takes as many.
const CHUNK_BYTES: u32 = 256 << 10;

/// The largest queue that is asked for.
const QUEUE_SIZE_MAX: u32 = 1024;

/// How to connect for transfers of `depth` requests in flight.
pub(crate) fn connection(depth: u32) -> Connect {
    let depth = depth.min(QUEUE_SIZE_MAX);
    let buffers = (depth as usize).saturating_mul(CHUNK_BYTES as usize);
    let queue_size = depth.next_power_of_two().clamp(256, QUEUE_SIZE_MAX);
    Connect {
        queue_size: u16::try_from(queue_size).unwrap_or(u16::MAX),
        memory: MEMORY_BYTES.saturating_add(buffers),
        ..Connect::default()
    }
}

/// A place for data, or where it is: `sectors` from `at` on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    /// The first sector; for appends the first sector of the zone.
    pub(crate) at: Sector,
    /// How many.
    pub(crate) sectors: Sector,
}

/// How data goes to the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Put {
    /// To the sector that is named.
    Write,
    /// To the write pointer of the zone that is named.
    Append,
}

/// What came of a transfer to the disk. With an `error`, `extents` are what was there before it.
pub(crate) struct Outcome {
    /// Where the data is, in the order of the input.
    pub(crate) extents: Vec<Run>,
    /// Why it ended early.
    pub(crate) error: Option<anyhow::Error>,
}

impl Outcome {
    /// Bytes that are on the disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.extents.iter().map(|run| run.sectors.0.saturating_mul(SECTOR_BYTES)).sum()
    }
}

/// Requests in flight, oldest first.
pub(crate) struct Pipeline<'d> {
    device: &'d mut Device,
    depth: usize,
    chunk: usize,
    pending: VecDeque<Pending>,
    spare: Vec<Buffer<SharedMemory>>,
}

struct Pending {
    token: Token,
    at: Sector,
    bytes: usize,
    completion: Option<Completion<SharedMemory>>,
}

impl<'d> Pipeline<'d> {
    /// Up to `depth` requests in flight, of up to `limit` bytes each, which are multiples of `unit`.
    pub(crate) fn new(device: &'d mut Device, depth: u32, limit: u64, unit: u32) -> Self {
        let most = u64::from(CHUNK_BYTES.min(device.info().max_transfer)).min(limit);
        let unit = u64::from(unit.max(1));
        let chunk = usize::try_from((most / unit * unit).max(unit)).unwrap_or(usize::MAX);
        let depth = usize::try_from(depth).unwrap_or(usize::MAX);
        let depth = depth.min(device.disk.depth(0)).max(1);
        Self { device, depth, chunk, pending: VecDeque::new(), spare: Vec::new() }
    }

    fn is_full(&self) -> bool {
        self.pending.len() >= self.depth
    }

    /// A buffer of `len` bytes, at most a chunk.
    fn buffer(&mut self, len: usize) -> anyhow::Result<Buffer<SharedMemory>> {
        let mut buffer = match self.spare.pop() {
            Some(buffer) => buffer,
            None => {
                let allocated = self.device.disk.buffer(self.chunk);
                allocated.context("cannot get a buffer; use a smaller --depth")?
            }
        };
        buffer.set_len(len.min(self.chunk));
        Ok(buffer)
    }

    fn submit(
        &mut self,
        request: Request<SharedMemory>,
        at: Sector,
        bytes: usize,
    ) -> anyhow::Result<()> {
        let verb = match &request {
            Request::Read { .. } => "read",
            Request::Append { .. } => "append",
            _ => "write",
        };
        match self.device.disk.submit(0, request) {
            Ok(token) => {
                self.pending.push_back(Pending { token, at, bytes, completion: None });
                Ok(())
            }
            Err(rejected) => {
                let place = self.device.in_zone(at);
                let what = format!("{verb} {bytes} bytes at sector {at}{place}");
                Err(explain_refusal(rejected.error, &what))
            }
        }
    }

    /// The oldest request, answered; waits for that. `None` when nothing is in flight.
    fn oldest(&mut self) -> anyhow::Result<Option<(Pending, Completion<SharedMemory>)>> {
        if self.pending.is_empty() {
            return Ok(None);
        }
        self.device.disk.kick(0).context("cannot notify the device")?;
        loop {
            if let Some(oldest) = self.pending.front_mut()
                && let Some(completion) = oldest.completion.take()
            {
                return Ok(self.pending.pop_front().map(|pending| (pending, completion)));
            }
            match self.device.disk.poll(0).context("the device failed")? {
                Some(completion) => {
                    let token = completion.token;
                    if let Some(pending) = self.pending.iter_mut().find(|p| p.token == token) {
                        pending.completion = Some(completion);
                    }
                }
                None => {
                    let timeout_ms = self.device.timeout_ms();
                    let waited = self.device.disk.wait(0, timeout_ms);
                    waited.context("the device does not answer")?;
                }
            }
        }
    }

    /// Waits for what is still in flight and forgets it.
    fn drain(&mut self) {
        while let Ok(Some(_)) = self.oldest() {}
    }

    /// Writes or appends all of `input`, to where `next` says. When `next` has no more places and the
    /// input is not at its end, that is an error.
    pub(crate) fn put(
        &mut self,
        input: &mut Input,
        how: Put,
        mut next: impl FnMut(&mut Device) -> anyhow::Result<Option<Run>>,
        progress: &ProgressBar,
    ) -> Outcome {
        let mut extents = Extents::new(self.device);
        let mut run = Run { at: Sector::ZERO, sectors: Sector::ZERO };
        let mut error = None;
        loop {
            while error.is_none() && !self.is_full() {
                match self.feed(input, how, &mut run, &mut next) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(e) => error = Some(e),
                }
            }
            match self.oldest().and_then(|oldest| oldest.map(|o| self.settle(how, o)).transpose()) {
                Ok(Some(run)) => {
                    progress.inc(run.sectors.0.saturating_mul(SECTOR_BYTES));
                    extents.add(run);
                }
                Ok(None) => return Outcome { extents: extents.runs, error },
                Err(first) => {
                    // What was sent after it is answered before it is reported.
                    self.drain();
                    return Outcome { extents: extents.runs, error: Some(first) };
                }
            }
        }
    }

    /// Sends the next piece of `input`. False at its end.
    fn feed(
        &mut self,
        input: &mut Input,
        how: Put,
        run: &mut Run,
        next: &mut impl FnMut(&mut Device) -> anyhow::Result<Option<Run>>,
    ) -> anyhow::Result<bool> {
        if input.is_at_end()? {
            return Ok(false);
        }
        if run.sectors == Sector::ZERO {
            *run = next(self.device)?.context("there is no more room for the rest of the input")?;
        }
        let room = run.sectors.to_bytes().unwrap_or(u64::MAX);
        let len = usize::try_from(room).unwrap_or(usize::MAX).min(self.chunk);
        let mut buffer = self.buffer(len)?;
        let bytes = input.fill(&mut buffer)?;
        buffer.set_len(bytes);
        let at = run.at;
        let sectors = Sector(bytes as u64 / SECTOR_BYTES);
        run.sectors = Sector(run.sectors.0.saturating_sub(sectors.0));
        let request = match how {
            Put::Write => {
                run.at = Sector(run.at.0.saturating_add(sectors.0));
                Request::Write { at, buffer }
            }
            Put::Append => Request::Append { zone: at, buffer },
        };
        self.submit(request, at, bytes)?;
        Ok(true)
    }

    /// Where the data of an answered write or append is.
    fn settle(
        &mut self,
        how: Put,
        (pending, completion): (Pending, Completion<SharedMemory>),
    ) -> anyhow::Result<Run> {
        self.spare.extend(completion.buffer);
        let sectors = Sector(pending.bytes as u64 / SECTOR_BYTES);
        let at = pending.at;
        match (how, completion.result) {
            (Put::Append, Ok(Answer::Appended(at))) => Ok(Run { at, sectors }),
            (Put::Write, Ok(_)) => Ok(Run { at, sectors }),
            (Put::Append, Ok(_)) => Err(anyhow!("the device does not say where an append went")),
            (_, Err(error)) => {
                let what = if how == Put::Write { "write" } else { "append" };
                let zone = self.device.in_zone(at);
                Err(explain_request(error)
                    .context(format!("cannot {what} {sectors} sectors at sector {at}{zone}")))
            }
        }
    }

    /// Reads `runs`, one after the other, into `sink`.
    pub(crate) fn get(
        &mut self,
        runs: &[Run],
        sink: &mut dyn Write,
        progress: &ProgressBar,
    ) -> anyhow::Result<()> {
        let mut left: VecDeque<Run> =
            runs.iter().copied().filter(|run| run.sectors > Sector::ZERO).collect();
        loop {
            while !self.is_full()
                && let Some(run) = left.front_mut()
            {
                let room = run.sectors.to_bytes().unwrap_or(u64::MAX);
                let len = usize::try_from(room).unwrap_or(usize::MAX).min(self.chunk);
                let at = run.at;
                let sectors = len as u64 / SECTOR_BYTES;
                run.at = Sector(run.at.0.saturating_add(sectors));
                run.sectors = Sector(run.sectors.0.saturating_sub(sectors));
                if run.sectors == Sector::ZERO {
                    left.pop_front();
                }
                let buffer = self.buffer(len)?;
                self.submit(Request::Read { at, buffer }, at, len)?;
            }
            let Some((pending, completion)) = self.oldest()? else { return Ok(()) };
            if let Err(error) = completion.result {
                let zone = self.device.in_zone(pending.at);
                self.drain();
                return Err(explain_request(error)
                    .context(format!("cannot read at sector {}{zone}", pending.at)));
            }
            let buffer = completion.buffer.context("the driver lost a buffer")?;
            if let Err(error) = sink.write_all(&buffer) {
                self.drain();
                return Err(OutputGone(error).into());
            }
            progress.inc(buffer.len() as u64);
            self.spare.push(buffer);
        }
    }
}

/// Runs in the order of the input; those that follow each other in a zone are one.
struct Extents {
    runs: Vec<Run>,
    /// 0 on a plain disk.
    zone_size: u64,
}

impl Extents {
    fn new(device: &Device) -> Self {
        let zone_size = device.info().zoned.map_or(0, |zoned| zoned.zone_size.0);
        Self { runs: Vec::new(), zone_size }
    }

    fn add(&mut self, run: Run) {
        let begins_zone = self.zone_size != 0 && run.at.0.is_multiple_of(self.zone_size);
        if !begins_zone
            && let Some(last) = self.runs.last_mut()
            && last.at.checked_add(last.sectors) == Some(run.at)
        {
            last.sectors = Sector(last.sectors.0.saturating_add(run.sectors.0));
        } else {
            self.runs.push(run);
        }
    }
}

/// A bar on standard error when that is a terminal and `quiet` is not asked for.
pub(crate) fn progress(total: Option<u64>, quiet: bool) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    let (bar, template) = match total {
        Some(total) => {
            (ProgressBar::new(total), "{bar:32} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}")
        }
        None => (ProgressBar::no_length(), "{spinner} {bytes} {binary_bytes_per_sec}"),
    };
    // Hidden by itself where standard error is no terminal.
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(8));
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_in_a_zone_become_one_extent() {
        let added = |zone_size| {
            let mut extents = Extents { runs: Vec::new(), zone_size };
            for (at, sectors) in [(8, 8), (16, 16), (32, 8), (72, 8), (8, 8)] {
                extents.add(Run { at: Sector(at), sectors: Sector(sectors) });
            }
            extents.runs.iter().map(|run| (run.at.0, run.sectors.0)).collect::<Vec<_>>()
        };
        assert_eq!(added(0), [(8, 32), (72, 8), (8, 8)]);
        assert_eq!(added(32), [(8, 24), (32, 8), (72, 8), (8, 8)]);
    }
}
