//! The disk: a device that this driver drives, and handles to its queues.

mod refresh;

use alloc::vec::Vec;

use zvb_wire::{Config, DeviceStatus, Features, Lifetime, Sector};

use crate::dma::{Buffer, NoMemory};
use crate::error::{Error, Fault, Invalid, ProbeError, SubmitError};
use crate::info::{Checks, Info, Options};
use crate::map::ZoneMap;
use crate::probe;
use crate::request::{Completion, Rejected, Request, SectorRange, Token};
use crate::ring::RingError;
use crate::state::{Owner, QueueState};
use crate::transport::{Dma, Transport};

/// A block device, zoned or not, that this driver drives.
///
/// Requests go through a queue without blocking: [`submit`](Self::submit) some, [`kick`](Self::kick) once,
/// [`poll`](Self::poll) for their completions, [`wait`](Self::wait) when there is nothing else to do. The
/// blocking calls ([`read`](Self::read), [`append`](Self::append), [`zones`](Self::zones), ...) do all of
/// that on queue 0; what else is in flight there keeps its place.
///
/// [`queues`](Self::queues) hands the queues out one by one, each to a thread of its own if need be.
///
/// When a `Disk` is dropped the device is reset, and what was in flight is lost. If the device can not be
/// reset, the memory that it may still write to is never used again.
pub struct Disk<T: Transport, D: Dma> {
    transport: T,
    info: Info,
    /// Of the configuration that `info` was made of.
    generation: u32,
    zones: ZoneMap,
    checks: Checks,
    queues: Vec<QueueState<D>>,
    dma: D,
    timeout_ms: Option<u32>,
}

impl<T: Transport, D: Dma> Disk<T, D> {
    /// Brings the device up (virtio 3.1.1), and believes nothing of it that is not checked. With
    /// [`Checks::Full`] that includes a report of all zones. When this fails the device is told so
    /// (FAILED).
    pub fn probe(
        mut transport: T,
        dma: D,
        options: &Options,
    ) -> Result<Self, ProbeError<T::Error>> {
        let mut queues = Vec::new();
        let started = start(&mut transport, &dma, options, &mut queues);
        let (info, generation) = started.inspect_err(|_| abandon(&mut transport, &mut queues))?;
        let (zones, checks, timeout_ms) = (ZoneMap::new(), options.checks, options.timeout_ms);
        let mut disk = Self { transport, info, generation, zones, checks, queues, dma, timeout_ms };
        let looked = match disk.look_at_zones() {
            Err(ProbeError::Zones(_)) if disk.config_changed().is_ok_and(|changed| changed) => {
                disk.refresh().map(|_| ())
            }
            looked => looked,
        };
        match looked {
            Ok(()) => Ok(disk),
            Err(error) => {
                abandon(&mut disk.transport, &mut disk.queues);
                Err(error)
            }
        }
    }

    /// What the device is.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Memory for a request: `len` zeroed bytes.
    pub fn buffer(&self, len: usize) -> Result<Buffer<D>, NoMemory> {
        Buffer::new(&self.dma, len)
    }

    /// Queue `index`; `None` when there are not so many.
    pub fn queue(&mut self, index: u16) -> Option<Queue<'_, T, D>> {
        let Self { transport, info, zones, queues, timeout_ms, .. } = self;
        let state = queues.get_mut(usize::from(index))?;
        Some(Queue { index, transport, info, zones, state, timeout_ms: *timeout_ms })
    }

    /// All queues at once. Each can be used in a thread of its own where transport and memory allow it.
    pub fn queues(&mut self) -> impl ExactSizeIterator<Item = Queue<'_, T, D>> {
        let Self { transport, info, zones, queues, timeout_ms, .. } = self;
        let (transport, info, zones, timeout_ms) = (&*transport, &*info, &*zones, *timeout_ms);
        queues.iter_mut().enumerate().map(move |(index, state)| Queue {
            // `probe` made at most as many as a u16 counts.
            index: index as u16,
            transport,
            info,
            zones,
            state,
            timeout_ms,
        })
    }

    /// [`Queue::submit`] on queue `queue`.
    pub fn submit(&mut self, queue: u16, request: Request<D>) -> Result<Token, Rejected<D>> {
        match self.queue(queue) {
            Some(mut queue) => queue.submit(request),
            None => {
                let error = SubmitError::Invalid(Invalid::NoSuchQueue(queue));
                Err(Rejected { error, request })
            }
        }
    }

    /// [`Queue::kick`] on queue `queue`.
    pub fn kick(&mut self, queue: u16) -> Result<(), Error<T::Error>> {
        self.queue(queue).ok_or(Invalid::NoSuchQueue(queue))?.kick()
    }

    /// [`Queue::poll`] on queue `queue`; nothing ever comes from one that does not exist.
    pub fn poll(&mut self, queue: u16) -> Result<Option<Completion<D>>, Fault> {
        self.queue(queue).map_or(Ok(None), |mut queue| queue.poll())
    }

    /// [`Queue::ask_for_signal`] on queue `queue`; false when there is none.
    #[must_use = "sleeping on a true is a wakeup lost"]
    pub fn ask_for_signal(&mut self, queue: u16) -> bool {
        self.queue(queue).is_some_and(|mut queue| queue.ask_for_signal())
    }

    /// [`Queue::wait`] on queue `queue`.
    pub fn wait(&mut self, queue: u16, timeout_ms: Option<u32>) -> Result<(), Error<T::Error>> {
        self.queue(queue).ok_or(Invalid::NoSuchQueue(queue))?.wait(timeout_ms)
    }

    /// [`Queue::in_flight`] of queue `queue`; 0 when there is none.
    pub fn in_flight(&self, queue: u16) -> usize {
        self.queues.get(usize::from(queue)).map_or(0, QueueState::in_flight)
    }

    /// [`Queue::depth`] of queue `queue`; 0 when there is none.
    pub fn depth(&self, queue: u16) -> usize {
        self.queues.get(usize::from(queue)).map_or(0, |queue| usize::from(queue.depth()))
    }

    /// Switches the cache: true for writeback, false for writethrough (CONFIG_WCE). What was written
    /// before stays as volatile as it was, until a flush.
    pub fn set_writeback(&mut self, on: bool) -> Result<(), Error<T::Error>> {
        if !self.info.features.contains(Features::CONFIG_WCE) {
            return Err(Error::Invalid(Invalid::NoCacheChoice));
        }
        self.transport
            .write_config(Config::WRITEBACK.offset, &[u8::from(on)])
            .map_err(Error::Transport)?;
        self.info.writeback = Some(on);
        Ok(())
    }

    /// [`Queue::read`] on queue 0.
    pub fn read(&mut self, at: Sector, into: &mut [u8]) -> Result<(), Error<T::Error>> {
        self.first()?.read(at, into)
    }

    /// [`Queue::write`] on queue 0.
    pub fn write(&mut self, at: Sector, from: &[u8]) -> Result<(), Error<T::Error>> {
        self.first()?.write(at, from)
    }

    /// [`Queue::append`] on queue 0.
    pub fn append(&mut self, zone: Sector, from: &[u8]) -> Result<Sector, Error<T::Error>> {
        self.first()?.append(zone, from)
    }

    /// [`Queue::open`] on queue 0.
    pub fn open(&mut self, zone: Sector) -> Result<(), Error<T::Error>> {
        self.first()?.open(zone)
    }

    /// [`Queue::close`] on queue 0.
    pub fn close(&mut self, zone: Sector) -> Result<(), Error<T::Error>> {
        self.first()?.close(zone)
    }

    /// [`Queue::finish`] on queue 0.
    pub fn finish(&mut self, zone: Sector) -> Result<(), Error<T::Error>> {
        self.first()?.finish(zone)
    }

    /// [`Queue::reset`] on queue 0: of a zone, not of the device.
    pub fn reset(&mut self, zone: Sector) -> Result<(), Error<T::Error>> {
        self.first()?.reset(zone)
    }

    /// [`Queue::reset_all`] on queue 0.
    pub fn reset_all(&mut self) -> Result<(), Error<T::Error>> {
        self.first()?.reset_all()
    }

    /// [`Queue::flush`] on queue 0.
    pub fn flush(&mut self) -> Result<(), Error<T::Error>> {
        self.first()?.flush()
    }

    /// [`Queue::secure_erase`] on queue 0.
    pub fn secure_erase(&mut self, ranges: Vec<SectorRange>) -> Result<(), Error<T::Error>> {
        self.first()?.secure_erase(ranges)
    }

    /// [`Queue::lifetime`] on queue 0.
    pub fn lifetime(&mut self) -> Result<Lifetime, Error<T::Error>> {
        self.first()?.lifetime()
    }

    /// [`Queue::id`] on queue 0.
    pub fn id(&mut self) -> Result<[u8; 20], Error<T::Error>> {
        self.first()?.id()
    }

    fn first(&mut self) -> Result<Queue<'_, T, D>, Invalid> {
        self.queue(0).ok_or(Invalid::NoSuchQueue(0))
    }
}

impl<T: Transport, D: Dma> Drop for Disk<T, D> {
    fn drop(&mut self) {
        stop(&mut self.transport, &mut self.queues);
    }
}

/// Takes a device all the way from reset to DRIVER_OK, with its queues in `queues`.
fn start<T: Transport, D: Dma>(
    transport: &mut T,
    dma: &D,
    options: &Options,
    queues: &mut Vec<QueueState<D>>,
) -> Result<(Info, u32), ProbeError<T::Error>> {
    let (features, config, generation) = probe::negotiate(transport, options)?;
    let count = probe::queue_count(transport, features, &config, options)?;
    let mut sizes = Vec::new();
    for index in 0..count {
        sizes.push(probe::queue_size(transport, index, options)?);
    }
    let smallest = sizes.iter().copied().min().unwrap_or(0);
    let info = Info::new(&config, features, count, smallest)?;
    for (index, size) in (0..count).zip(sizes) {
        let queue = QueueState::new(dma, &info, size).map_err(|error| match error {
            RingError::NoMemory(error) => ProbeError::NoMemory(error),
            RingError::Setup(error) => ProbeError::Queue(error),
        })?;
        let layout = queue.layout();
        // Kept before the device is told of it: from there on it is dropped only after a reset.
        queues.push(queue);
        transport.set_up_queue(index, &layout).map_err(ProbeError::Transport)?;
    }
    let ready = DeviceStatus::ACKNOWLEDGE
        | DeviceStatus::DRIVER
        | DeviceStatus::FEATURES_OK
        | DeviceStatus::DRIVER_OK;
    transport.set_status(ready).map_err(ProbeError::Transport)?;
    Ok((info, generation))
}

/// Leaves a device that is not driven after all.
fn abandon<T: Transport, D: Dma>(transport: &mut T, queues: &mut Vec<QueueState<D>>) {
    stop(transport, queues);
    probe::give_up(transport);
}

/// Stops the device, and gives back the memory that it had; none of it when the device does not stop.
fn stop<T: Transport, D: Dma>(transport: &mut T, queues: &mut Vec<QueueState<D>>) {
    if queues.is_empty() {
        return;
    }
    let stopped = transport.reset().is_ok();
    for queue in queues.drain(..) {
        if stopped { drop(queue) } else { queue.leak() }
    }
}

/// One queue of a [`Disk`]. All queues reach the same disk; their requests have no order among them.
pub struct Queue<'a, T: Transport, D: Dma> {
    pub(crate) index: u16,
    pub(crate) transport: &'a T,
    pub(crate) info: &'a Info,
    pub(crate) zones: &'a ZoneMap,
    pub(crate) state: &'a mut QueueState<D>,
    pub(crate) timeout_ms: Option<u32>,
}

impl<T: Transport, D: Dma> Queue<'_, T, D> {
    /// Which queue it is, from 0.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// What the device is.
    pub fn info(&self) -> &Info {
        self.info
    }

    /// Memory for a request: `len` zeroed bytes.
    pub fn buffer(&self, len: usize) -> Result<Buffer<D>, NoMemory> {
        self.state.buffer(len)
    }

    /// How many requests can be in flight.
    pub fn depth(&self) -> usize {
        usize::from(self.state.depth())
    }

    /// How many requests were submitted and not yet polled.
    pub fn in_flight(&self) -> usize {
        self.state.in_flight()
    }

    /// Queues `request`, which the device sees after the next [`kick`](Self::kick). Requests may be
    /// answered in any order, and whatever their order they may be *done* in any.
    ///
    /// A request that can not be queued comes back with the reason, and
    /// [`SubmitError::retry`](crate::SubmitError::retry) tells whether it is worth another try.
    pub fn submit(&mut self, request: Request<D>) -> Result<Token, Rejected<D>> {
        self.state.submit(self.info, self.zones, request, Owner::User)
    }

    /// Shows the device all that was submitted, and notifies it at most once.
    pub fn kick(&mut self) -> Result<(), Error<T::Error>> {
        if self.state.publish().map_err(Error::Fault)? {
            self.transport.notify(self.index).map_err(Error::Transport)?;
        }
        Ok(())
    }

    /// The next completion, if there is one. Never blocks, never notifies, and does not ask for a signal
    /// ([`ask_for_signal`](Self::ask_for_signal)).
    ///
    /// A request that failed is a completion; `Err` means that nothing will come from this queue any more.
    pub fn poll(&mut self) -> Result<Option<Completion<D>>, Fault> {
        self.state.poll(self.info, self.zones)
    }

    /// Asks the device for a signal (an interrupt, on a machine) about its next answer, for those who poll
    /// when one comes and do not [`wait`](Self::wait). True: there is something to poll already, and the
    /// signal may never come. So, whenever a signal came, and once before the first:
    ///
    /// ```
    /// # use zvb_driver::{Completion, Dma, Fault, Queue, Transport};
    /// # fn signalled<T: Transport, D: Dma>(
    /// #     queue: &mut Queue<'_, T, D>, done: impl Fn(Completion<D>),
    /// # ) -> Result<(), Fault> {
    /// loop {
    ///     while let Some(completion) = queue.poll()? {
    ///         done(completion);
    ///     }
    ///     if !queue.ask_for_signal() {
    ///         break; // and sleep
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// One call is good for one signal: after the next completion that is polled the device is quiet until
    /// it is asked again, but for a signal that is on its way. `wait` and the calls that block use up what
    /// was asked for on their queue; ask again after them. Never blocks, and never notifies.
    #[must_use = "sleeping on a true is a wakeup lost"]
    pub fn ask_for_signal(&mut self) -> bool {
        self.state.ask_for_signal()
    }

    /// Kicks, and blocks until there may be something to poll: at most `timeout_ms` milliseconds, or as
    /// long as it takes. Fails when that time is over, or the device is gone.
    pub fn wait(&mut self, timeout_ms: Option<u32>) -> Result<(), Error<T::Error>> {
        self.kick()?;
        if self.state.has_stash() { Ok(()) } else { self.sleep(timeout_ms) }
    }

    /// Blocks until the device may have answered something.
    pub(crate) fn sleep(&mut self, timeout_ms: Option<u32>) -> Result<(), Error<T::Error>> {
        let waited = match self.state.resume_signals() {
            true => Ok(()),
            false => self.transport.wait(self.index, timeout_ms),
        };
        self.state.pause_signals();
        waited.map_err(Error::Transport)
    }
}
