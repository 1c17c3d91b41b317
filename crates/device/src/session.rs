//! One guest's view of a device, from feature negotiation to reset.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use zvb_ring::DeviceQueue;
use zvb_wire::zerocopy::IntoBytes;
use zvb_wire::{Config, Features, Model, ZonedCharacteristics};

use crate::device::Device;
use crate::lane::{Lane, LaneError};

/// Rouses whoever drives a lane: another lane has something for it.
pub trait Wake: Send + Sync {
    /// The lane should take a turn soon.
    fn wake(&self);
}

/// Why a device refuses what a driver accepts: FEATURES_OK must not be set (virtio 3.1.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FeatureRefusal {
    /// Bits that were not offered.
    #[error("the driver accepts features that were not offered: {0:?}")]
    NotOffered(Features),
    /// A legacy driver.
    #[error("the driver does not accept VERSION_1")]
    Legacy,
    /// A host-managed device is no use to a driver that knows no zones (virtio 5.2.5.2).
    #[error("the device is host-managed and the driver does not accept ZONED")]
    HostManagedWithoutZoned,
}

/// Why a write to the configuration space changes nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Only `writeback` can be written, and only with CONFIG_WCE.
    #[error("configuration bytes {offset} to {end} are read-only")]
    ReadOnly {
        /// First byte.
        offset: u32,
        /// One past the last byte.
        end: u64,
    },
    /// `writeback` is 0 or 1.
    #[error("{0} is no cache mode")]
    CacheMode(u8),
}

/// What was negotiated with one guest, and where its lanes meet.
pub struct Session {
    pub(crate) device: Arc<Device>,
    features: AtomicU64,
    negotiated: AtomicBool,
    /// The driver was refused and goes on all the same.
    turned_away: AtomicBool,
    writeback: AtomicBool,
    pub(crate) mailboxes: Box<[Mailbox]>,
    /// Lanes that have a request waiting for another's I/O.
    pub(crate) waiting: AtomicU32,
}

impl Session {
    pub(crate) fn new(device: Arc<Device>) -> Arc<Self> {
        let mailboxes = (0..device.queues()).map(|_| Mailbox::default()).collect();
        Arc::new(Self {
            device,
            features: AtomicU64::new(0),
            negotiated: AtomicBool::new(false),
            turned_away: AtomicBool::new(false),
            writeback: AtomicBool::new(true),
            mailboxes,
            waiting: AtomicU32::new(0),
        })
    }

    /// The driver accepts `features`; on a refusal nothing is accepted, and the driver may try again.
    pub fn accept(&self, features: Features) -> Result<(), FeatureRefusal> {
        let extra = features.difference(self.device.features());
        if !extra.is_empty() {
            return Err(FeatureRefusal::NotOffered(extra));
        }
        if !features.contains(Features::VERSION_1) {
            return Err(FeatureRefusal::Legacy);
        }
        if self.device.model() == Model::HostManaged && !features.contains(Features::ZONED) {
            return Err(FeatureRefusal::HostManagedWithoutZoned);
        }
        // CONFIG_WCE without FLUSH: a driver that can not flush begins with writethrough (5.2.5.2).
        let begins_writethrough =
            features.contains(Features::CONFIG_WCE) && !features.contains(Features::FLUSH);
        self.writeback.store(!begins_writethrough, Ordering::Relaxed);
        self.features.store(features.bits(), Ordering::Relaxed);
        self.turned_away.store(false, Ordering::Relaxed);
        self.negotiated.store(true, Ordering::Release);
        Ok(())
    }

    /// A driver whose `features` were refused uses its queues all the same, because it was not told or does not
    /// listen: lanes run, and answer every request with IOERR. Silence would have it wait for ever.
    pub fn turn_away(&self, features: Features) {
        self.features.store(features.bits(), Ordering::Relaxed);
        self.turned_away.store(true, Ordering::Relaxed);
        self.negotiated.store(true, Ordering::Release);
    }

    pub(crate) fn is_turned_away(&self) -> bool {
        self.turned_away.load(Ordering::Relaxed)
    }

    /// True once a driver's features were accepted.
    pub fn is_negotiated(&self) -> bool {
        self.negotiated.load(Ordering::Acquire)
    }

    /// How long to look for work before a queue's thread sleeps ([`DeviceOptions::poll`](crate::DeviceOptions::poll)).
    pub fn poll(&self) -> Duration {
        self.device.options.poll
    }

    /// What the driver accepted; nothing before it has.
    pub fn features(&self) -> Features {
        Features::from_bits_retain(self.features.load(Ordering::Relaxed))
    }

    /// The configuration space as this guest sees it now.
    pub fn config(&self) -> Config {
        let mut config = self.device.config();
        config.writeback = self.writeback.load(Ordering::Relaxed).into();
        let accepted = self.is_negotiated() && !self.is_turned_away();
        if accepted && !self.features().contains(Features::ZONED) {
            config.zoned = ZonedCharacteristics::default();
        }
        config
    }

    /// The driver writes `bytes` at `offset` of the configuration space. Writing what stands there
    /// already is allowed anywhere (some transports write whole words).
    pub fn write_config(&self, offset: u32, bytes: &[u8]) -> Result<(), ConfigError> {
        let now = self.config();
        let at = Config::WRITEBACK.offset;
        let end = u64::from(offset) + bytes.len() as u64;
        for (i, byte) in bytes.iter().enumerate() {
            let place = u64::from(offset) + i as u64;
            let settable = place == u64::from(at) && self.features().contains(Features::CONFIG_WCE);
            let stands = usize::try_from(place).ok().and_then(|p| now.as_bytes().get(p));
            if !settable && stands != Some(byte) {
                return Err(ConfigError::ReadOnly { offset, end });
            }
            if settable && *byte > 1 {
                return Err(ConfigError::CacheMode(*byte));
            }
        }
        let mode = u64::from(at).checked_sub(u64::from(offset)).and_then(|i| bytes.get(i as usize));
        if let Some(mode) = mode
            && self.features().contains(Features::CONFIG_WCE)
        {
            self.writeback.store(*mode == 1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// True when a write must be durable before it is answered (virtio 5.2.6.2).
    pub(crate) fn is_writethrough(&self) -> bool {
        let features = self.features();
        if features.contains(Features::CONFIG_WCE) {
            !self.writeback.load(Ordering::Relaxed)
        } else {
            !features.contains(Features::FLUSH)
        }
    }

    /// A lane for queue `index`, driven by the calling thread; `wake` rouses it.
    pub fn lane(
        self: &Arc<Self>,
        index: u16,
        queue: DeviceQueue,
        wake: Arc<dyn Wake>,
    ) -> Result<Lane, LaneError> {
        Lane::new(Arc::clone(self), index, queue, wake)
    }

    /// Tells every lane that waits, but `except`, that it may go on.
    pub(crate) fn retry_all(&self, except: Option<u16>) {
        if self.waiting.load(Ordering::Relaxed) != 0 {
            self.rouse_all(except);
        }
    }

    /// Has every lane but `except` take a turn.
    pub(crate) fn rouse_all(&self, except: Option<u16>) {
        for (index, mailbox) in self.mailboxes.iter().enumerate() {
            if except.is_none_or(|except| index != usize::from(except)) {
                mailbox.post(Mail::Retry);
            }
        }
    }
}

/// What one lane tells another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mail {
    /// A write of yours, done a while ago, is applied (or lost with those before it).
    Released { slot: u32, ok: bool },
    /// Something that you wait for may be there.
    Retry,
}

/// Where mail for one lane waits.
#[derive(Default)]
pub(crate) struct Mailbox {
    full: AtomicBool,
    inner: Mutex<MailboxInner>,
}

#[derive(Default)]
struct MailboxInner {
    mail: Vec<Mail>,
    wake: Option<Arc<dyn Wake>>,
}

impl Mailbox {
    /// From now on `wake` is called when mail comes; `None` when the lane is gone.
    pub(crate) fn set_wake(&self, wake: Option<Arc<dyn Wake>>) {
        self.lock().wake = wake;
    }

    pub(crate) fn post(&self, mail: Mail) {
        let mut inner = self.lock();
        // One retry says as much as many; what is left is bounded by the writes in flight.
        if mail == Mail::Retry && inner.mail.contains(&mail) {
            return;
        }
        if inner.wake.is_none() && mail == Mail::Retry {
            return;
        }
        inner.mail.push(mail);
        self.full.store(true, Ordering::Release);
        if let Some(wake) = &inner.wake {
            wake.wake();
        }
    }

    pub(crate) fn has_mail(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// Moves all mail to `into`.
    pub(crate) fn take(&self, into: &mut Vec<Mail>) {
        if self.has_mail() {
            let mut inner = self.lock();
            into.append(&mut inner.mail);
            self.full.store(false, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, MailboxInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
