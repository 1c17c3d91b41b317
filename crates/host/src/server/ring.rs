//! What a frontend has said about one queue, and the worker that runs it.

use std::net::Shutdown as Direction;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use zvb_device::{ConfigListener, Session};
use zvb_ring::QueueConfig;
use zvb_wire::Features;

use super::announcer::Announcer;
use super::event::PeerEvent;
use super::log::Log;
use crate::memory::Memory;
use crate::vhost_user::VringAddress;
use crate::worker::{Call, Cut, Job, Signals, StartError, Stopped, Worker};

/// What says that a queue has new chains.
#[derive(Clone, Default)]
pub(crate) enum Kick {
    /// Not said yet: the queue is stopped.
    #[default]
    None,
    /// Nothing: the queue is to be looked at.
    Look,
    /// An eventfd.
    Event(Arc<PeerEvent>),
}

/// Why a queue does not do what the frontend asks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RingFault {
    /// A size that no queue has here.
    #[error("{size} descriptors: a power of two of at most {most} was expected")]
    Size {
        /// What the frontend asks for.
        size: u32,
        /// The most descriptors that the device takes.
        most: u16,
    },
    /// An index that is not one of a split queue.
    #[error("{base} is no index of a split queue")]
    Base {
        /// What the frontend asks for.
        base: u32,
    },
    /// Writes to the ring can not be logged.
    #[error("a log of dirty pages is asked for and was not offered")]
    Logging,
    /// It must be stopped for this.
    #[error("the queue is running")]
    Running,
    /// A part of it is nowhere.
    #[error(
        "there is no memory at the frontend's address {0:#x}, where part of the queue is to be"
    )]
    NotMemory(u64),
    /// It can not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Its worker died: a fault of this program.
    #[error("the queue's thread failed")]
    Died,
}

impl Cut for UnixStream {
    fn cut(&self) {
        // Fails when the connection has ended already.
        let _ = self.shutdown(Direction::Both);
    }
}

/// Everything about a session that a starting queue needs.
pub(crate) struct Surroundings<'a> {
    pub(crate) guest: &'a Arc<Session>,
    pub(crate) memory: &'a Arc<Memory>,
    pub(crate) log: &'a Arc<dyn Log>,
    pub(crate) connection: &'a Arc<UnixStream>,
    /// Tells the frontend to look at the status.
    pub(crate) announcer: Option<&'a Arc<Announcer>>,
}

/// One queue of a session.
#[derive(Default)]
pub(crate) struct Ring {
    index: u16,
    size: u16,
    address: Option<VringAddress>,
    /// Where it goes on when it is started.
    base: u16,
    kick: Kick,
    signals: Signals,
    enabled: bool,
    /// The driver broke it: it stays stopped until it is reset.
    retired: bool,
    worker: Option<Worker>,
}

impl Ring {
    pub(crate) fn new(index: u16) -> Self {
        Self { index, ..Self::default() }
    }

    /// Back to the beginning; it must be stopped. Whom to signal stays: a frontend says that once.
    pub(crate) fn reset(&mut self) {
        debug_assert!(self.worker.is_none(), "a queue is reset while it runs");
        let signals = std::mem::take(&mut self.signals);
        *self = Self { signals, ..Self::new(self.index) };
    }

    pub(crate) fn set_size(&mut self, size: u32, most: u16) -> Result<(), RingFault> {
        self.expect_stopped()?;
        match u16::try_from(size) {
            Ok(fits) if fits.is_power_of_two() && fits <= most => self.size = fits,
            _ => return Err(RingFault::Size { size, most }),
        }
        Ok(())
    }

    pub(crate) fn set_address(&mut self, address: VringAddress) -> Result<(), RingFault> {
        if address.flags.get() & 1 != 0 {
            return Err(RingFault::Logging);
        }
        if self.address != Some(address) {
            self.expect_stopped()?;
            self.address = Some(address);
        }
        Ok(())
    }

    pub(crate) fn set_base(&mut self, base: u32) -> Result<(), RingFault> {
        self.expect_stopped()?;
        self.base = u16::try_from(base).map_err(|_| RingFault::Base { base })?;
        self.retired = false;
        Ok(())
    }

    /// What says that it has new chains; it must be stopped.
    pub(crate) fn set_kick(&mut self, kick: Kick) {
        debug_assert!(self.worker.is_none(), "a running queue gets another kick");
        self.kick = kick;
    }

    pub(crate) fn set_call(&mut self, call: Option<Arc<dyn Call>>) {
        self.signals.call = call;
        self.tell_signals();
    }

    pub(crate) fn set_error(&mut self, error: Option<Arc<PeerEvent>>) {
        self.signals.error = error;
        self.tell_signals();
    }

    fn tell_signals(&self) {
        if let Some(worker) = &self.worker {
            worker.set_signals(self.signals.clone());
        }
    }

    pub(crate) fn set_enabled(&mut self, enabled: bool) {
        self.enabled = enabled;
    }

    /// True when the frontend wants it to run: it has all that it needs.
    pub(crate) fn is_wanted(&self, features: Features) -> bool {
        // Without the protocol features there is no SET_VRING_ENABLE, and every queue is enabled.
        let enabled = self.enabled || !features.contains(Features::VHOST_USER_PROTOCOL);
        let kicked = !matches!(self.kick, Kick::None);
        enabled && kicked && self.size > 0 && self.address.is_some() && !self.retired
    }

    pub(crate) fn is_running(&self) -> bool {
        self.worker.is_some()
    }

    /// True when the driver has broken it: only a reset helps.
    pub(crate) fn is_broken(&self) -> bool {
        self.retired || self.worker.as_ref().is_some_and(Worker::is_broken)
    }

    /// Where it goes on; it must be stopped.
    pub(crate) fn base(&self) -> u16 {
        self.base
    }

    /// Starts a worker for it.
    pub(crate) fn start(&mut self, around: &Surroundings<'_>) -> Result<(), RingFault> {
        let Some(address) = self.address else { return Ok(()) };
        let part = |user: u64| around.memory.guest_address(user).ok_or(RingFault::NotMemory(user));
        let features = around.guest.features();
        let queue = QueueConfig {
            size: self.size,
            descriptors: part(address.descriptor.get())?,
            available: part(address.available.get())?,
            used: part(address.used.get())?,
            event_index: features.contains(Features::EVENT_IDX),
            indirect: features.contains(Features::INDIRECT_DESC),
            next_available: self.base,
            // The worker looks it up.
            next_used: 0,
        };
        let kick = match &self.kick {
            Kick::Event(event) => Some(Arc::clone(event)),
            Kick::Look | Kick::None => None,
        };
        self.worker = Some(Worker::start(Job {
            index: self.index,
            guest: Arc::clone(around.guest),
            memory: Arc::<Memory>::clone(around.memory),
            queue,
            kick,
            signals: self.signals.clone(),
            ledger: None,
            log: Arc::clone(around.log),
            session: Arc::<UnixStream>::clone(around.connection),
            announcer: around
                .announcer
                .map(|announcer| -> Arc<dyn ConfigListener> { Arc::<Announcer>::clone(announcer) }),
        })?);
        Ok(())
    }

    /// Tells the worker, if there is one, to take nothing more.
    pub(crate) fn begin_stop(&self) {
        if let Some(worker) = &self.worker {
            worker.begin_stop();
        }
    }

    /// Stops the worker, if there is one: everything that it took is answered then.
    pub(crate) fn stop(&mut self) -> Result<(), RingFault> {
        let Some(worker) = self.worker.take() else { return Ok(()) };
        match worker.stop() {
            Some(Stopped { next_available, retired }) => {
                self.base = next_available;
                self.retired = retired;
                Ok(())
            }
            None => {
                self.retired = true;
                Err(RingFault::Died)
            }
        }
    }

    fn expect_stopped(&self) -> Result<(), RingFault> {
        if self.is_running() { Err(RingFault::Running) } else { Ok(()) }
    }
}
