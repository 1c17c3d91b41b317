//! One device of the kernel, from its first request to its last.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use zerocopy::IntoBytes;
use zvb_device::{ConfigListener, Device, FeatureRefusal};
use zvb_ring::QueueConfig;
use zvb_wire::{Config, DeviceStatus, Features};

use super::abi::{Answer, RawRequest, RawResponse, Request};
use super::iotlb::Iotlb;
use super::ledger::LedgerFile;
use super::port::Port;
use crate::server::event::{Bell, EventError, PeerEvent};
use crate::server::log::{Chain, Level, Log};
use crate::worker::{Call, Cut, Job, Remembered, Signals, StartError, Stopped, Worker};

/// How long, and how often, a signal is tried again when the kernel does not take it yet: it has been told
/// that the driver is ready only when our answer has got there.
const CALL_AGAIN: Duration = Duration::from_millis(1);
const CALLS: u32 = 1000;

/// Why a driver does not come up.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Features(#[from] FeatureRefusal),
    #[error(
        "the driver does not accept ACCESS_PLATFORM, and would give addresses that mean nothing here"
    )]
    NoTranslation,
    #[error("the kernel does not say what the driver accepts")]
    Port(#[source] io::Error),
}

/// Why a queue does not run.
#[derive(Debug, thiserror::Error)]
enum QueueFault {
    #[error("the kernel does not say where it is, or takes no eventfd for it")]
    Port(#[from] io::Error),
    #[error("its size of {0} is above what was offered")]
    Size(u32),
    #[error("its eventfd is of no use")]
    Event(#[from] EventError),
    #[error(transparent)]
    Start(#[from] StartError),
}

/// Why the device of a process that died can not be taken over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TakeOverError {
    /// The driver has accepted what is not offered now.
    #[error("the driver knows it as another disk")]
    Features(#[from] FeatureRefusal),
    /// The kernel does not let go of it.
    #[error("the kernel has given the device up, or does not answer")]
    Port(#[source] io::Error),
    /// The log has why.
    #[error("its queues do not start")]
    Queues,
}

/// The state of one device.
pub(crate) struct Session {
    device: Arc<Device>,
    guest: Arc<zvb_device::Session>,
    port: Arc<dyn Port>,
    log: Arc<dyn Log>,
    memory: Arc<Iotlb>,
    status: DeviceStatus,
    queues: Vec<Queue>,
    /// The configuration space as the kernel has it.
    config: Config,
    end: Arc<End>,
    news: Arc<News>,
    /// Where it is written down what is in flight.
    ledger: Arc<LedgerFile>,
}

/// Rung when the configuration space has changed.
struct News(Bell);

impl ConfigListener for News {
    fn config_changed(&self) {
        self.0.ring();
    }
}

/// Rung by a worker that can not go on.
struct End(Bell);

impl Cut for End {
    fn cut(&self) {
        self.0.ring();
    }
}

#[derive(Default)]
struct Queue {
    index: u16,
    /// Where it goes on when it is started.
    base: u16,
    /// It goes on where a process that died had got to.
    taken_over: bool,
    worker: Option<Worker>,
}

impl Session {
    /// A session at its beginning: no driver has come.
    pub(crate) fn new(
        device: &Arc<Device>,
        port: Arc<dyn Port>,
        ledger: Arc<LedgerFile>,
        log: Arc<dyn Log>,
    ) -> io::Result<Self> {
        let guest = device.session();
        let news = Arc::new(News(Bell::new()?));
        device.listen(&news);
        Ok(Self {
            news,
            ledger,
            config: guest.config(),
            guest,
            memory: Iotlb::new(Arc::clone(&port), Arc::clone(&log)),
            port,
            log,
            status: DeviceStatus::empty(),
            queues: (0..device.queues()).map(|index| Queue { index, ..Queue::default() }).collect(),
            end: Arc::new(End(Bell::new()?)),
            device: Arc::clone(device),
        })
    }

    /// Goes on for a process that died: the driver had set `status`, and has not noticed. What that process
    /// took and did not answer comes first.
    pub(crate) fn take_over(&mut self, status: DeviceStatus) -> Result<(), TakeOverError> {
        if !status.contains(DeviceStatus::FEATURES_OK) {
            // The driver is on its way, and says the rest.
            self.status = status;
            return Ok(());
        }
        let features = self.port.features().map_err(TakeOverError::Port)?;
        self.guest.accept(Features::from_bits_retain(features))?;
        // The disk may have changed meanwhile.
        self.config = self.guest.config();
        self.port.set_config(self.config.as_bytes()).map_err(TakeOverError::Port)?;
        self.status = status;
        if !self.may_run() {
            return Ok(());
        }
        for queue in &mut self.queues {
            queue.taken_over = true;
        }
        if self.start_wanted() == Answer::Failed {
            return Err(TakeOverError::Queues);
        }
        // That process may have died between an answer and its signal.
        for queue in self.queues.iter().filter(|queue| queue.worker.is_some()) {
            self.port.call(queue.index.into()).map_err(TakeOverError::Port)?;
        }
        self.port.announce_config().map_err(TakeOverError::Port)
    }

    /// Readable when a queue could not go on, and the session is to end.
    pub(crate) fn end(&self) -> BorrowedFd<'_> {
        self.end.0.as_fd()
    }

    /// Readable when there is something to [`tell`](Self::tell).
    pub(crate) fn news(&self) -> BorrowedFd<'_> {
        self.news.0.as_fd()
    }

    /// Tells the driver that the configuration space has changed.
    pub(crate) fn tell(&mut self) {
        self.news.0.clear();
        let told = self.show_config(self.guest.config()).and_then(|()| {
            // Refused when no driver is there, which has nothing to look at again.
            if self.may_run() { self.port.announce_config() } else { Ok(()) }
        });
        if let Err(error) = told {
            self.log
                .log(Level::Warn, format_args!("the driver can not be told of a change: {error}"));
        }
    }

    /// Takes one request, if there is one, and answers it.
    pub(crate) fn serve_one(&mut self) -> io::Result<()> {
        let Some(raw) = self.port.receive()? else { return Ok(()) };
        let answer = self.take(&raw);
        self.port.answer(&RawResponse::new(raw.id, answer))
    }

    /// Stops every queue: all that was taken is answered then.
    pub(crate) fn stop_all(&mut self) {
        for queue in &self.queues {
            if let Some(worker) = &queue.worker {
                worker.begin_stop();
            }
        }
        for queue in &mut self.queues {
            let Some(worker) = queue.worker.take() else { continue };
            match worker.stop() {
                Some(Stopped { next_available, .. }) => queue.base = next_available,
                None => {
                    let index = queue.index;
                    self.log.log(Level::Error, format_args!("queue {index}: its thread failed"));
                }
            }
        }
    }

    fn take(&mut self, raw: &RawRequest) -> Answer {
        match raw.request() {
            Request::SetStatus(status) => self.set_status(status),
            Request::QueueState { index } => self.queue_state(index),
            Request::UpdateIotlb { .. } => {
                // Rare: whoever is told less would have to be right about more.
                self.stop_all();
                self.memory = Iotlb::new(Arc::clone(&self.port), Arc::clone(&self.log));
                self.start_wanted()
            }
            Request::Unknown(kind) => {
                self.log.log(
                    Level::Warn,
                    format_args!("the kernel asks for what is not known here: request {kind}"),
                );
                Answer::Failed
            }
        }
    }

    /// Where a queue stands. It is stopped for that, and goes on.
    fn queue_state(&mut self, index: u32) -> Answer {
        let known = usize::try_from(index).is_ok_and(|index| index < self.queues.len());
        if !known {
            return Answer::Failed;
        }
        self.stop_all();
        let base = self.queues.get(index as usize).map_or(0, |queue| queue.base);
        match self.start_wanted() {
            Answer::Failed => Answer::Failed,
            _ => Answer::QueueState { index, available_index: base },
        }
    }

    fn set_status(&mut self, bits: u8) -> Answer {
        let wanted = DeviceStatus::from_bits_retain(bits);
        if wanted.is_empty() {
            self.reset();
            return Answer::Done;
        }
        let new = wanted.difference(self.status);
        if new.contains(DeviceStatus::FEATURES_OK)
            && let Err(refusal) = self.accept()
        {
            // How a device says no (virtio 3.1.1): the driver reads that the bit is not set.
            let why = Chain(&refusal);
            self.log.log(Level::Warn, format_args!("FEATURES_OK is not set: {why}"));
            return Answer::Failed;
        }
        if new.contains(DeviceStatus::FAILED) {
            self.log.log(Level::Warn, format_args!("the driver gave up (FAILED)"));
        }
        self.status = wanted;
        if !self.may_run() {
            self.stop_all();
        }
        self.start_wanted()
    }

    fn accept(&mut self) -> Result<(), Refusal> {
        let features = self.port.features().map_err(Refusal::Port)?;
        let features = Features::from_bits_retain(features);
        if !features.contains(Features::ACCESS_PLATFORM) {
            return Err(Refusal::NoTranslation);
        }
        self.guest.accept(features)?;
        // A driver that does not know zones sees none (virtio 5.2.5.2).
        self.show_config(self.guest.config()).map_err(Refusal::Port)
    }

    /// Puts the configuration space into the kernel, when it is not there already.
    fn show_config(&mut self, config: Config) -> io::Result<()> {
        if config.as_bytes() != self.config.as_bytes() {
            self.port.set_config(config.as_bytes())?;
            self.config = config;
        }
        Ok(())
    }

    /// Back to the beginning. The kernel forgets the queues and their eventfds too.
    fn reset(&mut self) {
        self.stop_all();
        for queue in &mut self.queues {
            queue.base = 0;
            queue.taken_over = false;
        }
        self.status = DeviceStatus::empty();
        self.memory = Iotlb::new(Arc::clone(&self.port), Arc::clone(&self.log));
        self.guest = self.device.session();
        if let Err(error) = self.show_config(self.guest.config()) {
            self.log.log(
                Level::Error,
                format_args!("the kernel does not take the configuration space: {error}"),
            );
        }
    }

    fn may_run(&self) -> bool {
        let needed = DeviceStatus::DRIVER_OK | DeviceStatus::FEATURES_OK;
        self.status.contains(needed) && !self.status.contains(DeviceStatus::FAILED)
    }

    /// Starts every queue that the driver has set up.
    fn start_wanted(&mut self) -> Answer {
        if !self.may_run() {
            return Answer::Done;
        }
        let mut answer = Answer::Done;
        for at in 0..self.queues.len() {
            let Some(queue) = self.queues.get(at).filter(|queue| queue.worker.is_none()) else {
                continue;
            };
            let index = queue.index;
            match self.start(queue) {
                Ok(worker) => {
                    if let Some(queue) = self.queues.get_mut(at) {
                        queue.worker = worker;
                        queue.taken_over = false;
                    }
                }
                Err(fault) => {
                    let why = Chain(&fault);
                    self.log.log(Level::Error, format_args!("queue {index} does not start: {why}"));
                    answer = Answer::Failed;
                }
            }
        }
        // What one writes another would take for its own, had it not looked before.
        self.queues.iter_mut().filter_map(|queue| queue.worker.as_mut()).for_each(Worker::go);
        answer
    }

    /// A worker for a queue; `None` when the driver does not use it.
    fn start(&self, queue: &Queue) -> Result<Option<Worker>, QueueFault> {
        let (index, base, taken_over) = (queue.index, queue.base, queue.taken_over);
        let info = self.port.queue(index.into())?;
        if info.ready == 0 {
            return Ok(None);
        }
        let most = self.device.max_queue_size();
        let size = u16::try_from(info.num).ok().filter(|size| *size <= most);
        let features = self.guest.features();
        let queue = QueueConfig {
            size: size.ok_or(QueueFault::Size(info.num))?,
            descriptors: info.descriptors,
            available: info.available,
            used: info.used,
            event_index: features.contains(Features::EVENT_IDX),
            indirect: features.contains(Features::INDIRECT_DESC),
            next_available: base,
            // The worker looks it up.
            next_used: 0,
        };
        let event = kick_event()?;
        self.port.set_kick(index.into(), Some(event.as_fd()))?;
        let call = Irq { port: Arc::clone(&self.port), queue: index.into() };
        let worker = Worker::start(Job {
            index,
            guest: Arc::clone(&self.guest),
            memory: Arc::<Iotlb>::clone(&self.memory),
            queue,
            kick: Some(Arc::new(PeerEvent::new(event)?)),
            signals: Signals { call: Some(Arc::new(call)), error: None },
            ledger: Some(Remembered { ledger: self.ledger.queue(index), taken_over }),
            log: Arc::clone(&self.log),
            session: Arc::<End>::clone(&self.end),
            // The status is the kernel's: there is no way to ask for a reset.
            announcer: None,
        })?;
        Ok(Some(worker))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop_all();
    }
}

fn kick_event() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// The interrupt of one queue.
struct Irq {
    port: Arc<dyn Port>,
    queue: u32,
}

impl Call for Irq {
    fn signal(&self) -> io::Result<()> {
        for _ in 0..CALLS {
            match self.port.call(self.queue) {
                Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                    thread::sleep(CALL_AGAIN);
                }
                other => return other,
            }
        }
        // The driver is not there, and will look at the ring when it comes.
        Ok(())
    }
}
