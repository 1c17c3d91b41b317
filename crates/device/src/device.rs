//! The disk as every guest sees it.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use zvb_storage::{GrowError, Shape, Volume};
use zvb_wire::zerocopy::little_endian::{U16, U32, U64};
use zvb_wire::{Config, Features, Model, SECTOR_BYTES, Sector, Topology, ZonedCharacteristics};
use zvb_zones::RestoreError;

use crate::faults::Faults;
use crate::listener::{ConfigListener, Listeners, weak};
use crate::observer::{Observer, Silent};
use crate::session::Session;
use crate::stats::QueueCounters;
use crate::table::Table;

/// What can be chosen about a device, whatever it is made of.
#[derive(Clone)]
pub struct DeviceOptions {
    /// Request queues offered; at least 1.
    pub queues: u16,
    /// The largest queue that is taken: a power of two of at most 32768.
    pub max_queue_size: u16,
    /// Most data segments in one request, as told to the guest. A guest's chain has two more, and must
    /// fit the queue that the VMM made: 126 fits every queue of 128 or more.
    pub seg_max: u32,
    /// SECURE_ERASE is offered: sequential zones are reset, all else is overwritten with zeroes. Whether
    /// the host's own medium keeps an older copy is beyond any device on top of it, so it is off unless
    /// asked for.
    pub secure_erase: bool,
    /// What the transport is, beside what the device is.
    pub transport: TransportFeatures,
    /// Requests are timed for [`Device::stats`], which costs a look at the clock or two per turn.
    pub timing: bool,
    /// For whoever drives the lanes: how long to look for work, at most, before it sleeps. Only where
    /// work came that soon lately: a queue that is idle costs nothing.
    pub poll: Duration,
    /// Who is told what goes wrong.
    pub observer: Arc<dyn Observer>,
}

/// Feature bits that depend on how the device meets its driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TransportFeatures {
    /// Offered beside the device's own, like ACCESS_PLATFORM where addresses are translated.
    pub offered: Features,
    /// Not offered though the device could: the transport has no way to carry them.
    pub withheld: Features,
}

impl Default for DeviceOptions {
    fn default() -> Self {
        Self {
            queues: 1,
            max_queue_size: 1024,
            seg_max: 126,
            secure_erase: false,
            transport: TransportFeatures::default(),
            timing: false,
            // A sleep and the wake after it take about as long, of both ends together.
            poll: Duration::from_micros(50),
            observer: Arc::new(Silent),
        }
    }
}

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// No queue at all.
    #[error("a block device has at least one queue")]
    NoQueues,
    /// Not a power of two from 1 to 32768.
    #[error("a queue size of {0} is not a power of two of at most 32768")]
    QueueSize(u16),
    /// No data segment at all.
    #[error("a request has at least one data segment")]
    NoSegments,
    /// The volume says that its zones are in states that can not be.
    #[error("the states of the zones contradict each other")]
    Zones(#[source] RestoreError),
}

/// Most ranges in one DISCARD, WRITE_ZEROES or SECURE_ERASE.
pub(crate) const MAX_RANGES: u32 = 16;
/// Most sectors in one range: 1 GiB, which bounds what one request can ask of the medium.
pub(crate) const MAX_RANGE_SECTORS: u32 = 1 << 21;

/// What a range of a SECURE_ERASE is aligned to and a multiple of, and the most sectors it may have: whole
/// zones, at least one (virtio 5.2.6.2), or whole blocks.
pub(crate) fn secure_erase_unit(shape: &Shape) -> (u32, u32) {
    let unit = match &shape.geometry {
        // `Geometry` keeps a zone's size within 32 bits.
        Some(geometry) => geometry.spec().zone_size.0 as u32,
        None => (u64::from(shape.block_size) / SECTOR_BYTES) as u32,
    };
    (unit, unit.max(MAX_RANGE_SECTORS - MAX_RANGE_SECTORS % unit.max(1)))
}

/// A (zoned) virtio block device over a [`Volume`].
///
/// It outlives its guests: each gets a [`Session`], one at a time.
pub struct Device {
    pub(crate) volume: Arc<dyn Volume>,
    pub(crate) table: Option<Table>,
    pub(crate) options: DeviceOptions,
    /// As the volume says.
    pub(crate) runs_commands: bool,
    /// The medium has appends of its own.
    pub(crate) places_appends: bool,
    /// A lane has panicked: what it had in flight will never end.
    pub(crate) crippled: AtomicBool,
    /// That the volume has failed was told.
    told_failure: AtomicBool,
    pub(crate) faults: Faults,
    /// For each queue.
    pub(crate) counters: Box<[QueueCounters]>,
    /// The guest of the moment.
    pub(crate) guest: Mutex<Weak<Session>>,
    /// But for its size: see [`capacity`](Self::capacity).
    pub(crate) shape: Shape,
    capacity: AtomicU64,
    generation: AtomicU32,
    /// Held while it is made larger.
    resizing: Mutex<()>,
    offered: Features,
    config: Config,
    listeners: Listeners,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device")
            .field("volume", &self.volume)
            .field("offered", &self.offered)
            .finish()
    }
}

impl Device {
    /// A device over `volume`, its zones in the states that the volume remembers.
    pub fn new(volume: Arc<dyn Volume>, options: DeviceOptions) -> Result<Arc<Self>, DeviceError> {
        if options.queues == 0 {
            return Err(DeviceError::NoQueues);
        }
        if !options.max_queue_size.is_power_of_two() {
            return Err(DeviceError::QueueSize(options.max_queue_size));
        }
        if options.seg_max == 0 {
            return Err(DeviceError::NoSegments);
        }
        let shape = volume.shape();
        let table = match shape.geometry {
            Some(geometry) => {
                Some(Table::new(geometry, Arc::clone(&volume)).map_err(DeviceError::Zones)?)
            }
            None => None,
        };
        let offered = offered_features(&shape, &options);
        let config = config_space(&shape, &options);
        let runs_commands = volume.runs_commands();
        let places_appends = volume.places_appends();
        let counters = (0..options.queues).map(|_| QueueCounters::default()).collect();
        Ok(Arc::new(Self {
            volume,
            table,
            options,
            faults: Faults::default(),
            counters,
            guest: Mutex::default(),
            shape,
            capacity: shape.capacity.0.into(),
            generation: AtomicU32::new(0),
            resizing: Mutex::default(),
            runs_commands,
            places_appends,
            crippled: AtomicBool::new(false),
            told_failure: AtomicBool::new(false),
            offered,
            config,
            listeners: Listeners::default(),
        }))
    }

    /// What is offered to a guest.
    pub fn features(&self) -> Features {
        self.offered
    }

    /// How many request queues there are.
    pub fn queues(&self) -> u16 {
        self.options.queues
    }

    /// The largest queue that is taken.
    pub fn max_queue_size(&self) -> u16 {
        self.options.max_queue_size
    }

    /// True when a lane has panicked, which is a fault of this program. Requests may wait for what it had in
    /// flight, and for ever: there should be no other guest. What is in the volume is right.
    pub fn is_crippled(&self) -> bool {
        self.crippled.load(Ordering::Acquire)
    }

    /// True when the medium has failed for good: see [`Volume::has_failed`]. Whoever listens is told the
    /// first time.
    pub(crate) fn has_failed(&self) -> bool {
        let failed = self.volume.has_failed();
        if failed && !self.told_failure.swap(true, Ordering::Relaxed) {
            self.options.observer.turned_read_only(self.volume.has_lost_part());
        }
        failed
    }

    /// What the device is made of.
    pub fn volume(&self) -> &Arc<dyn Volume> {
        &self.volume
    }

    /// How many sectors the disk has now.
    pub fn capacity(&self) -> Sector {
        Sector(self.capacity.load(Ordering::Acquire))
    }

    /// How often the configuration space has changed: what a transport tells a driver that wants to read
    /// more of it than can be read at once (virtio 2.5.1).
    pub fn config_generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// Makes the disk `capacity` sectors large while guests use it, and tells them. What it has stays: a
    /// last zone that was smaller than the others grows first, then come new zones, empty. Requests in
    /// flight are not disturbed, nor are those that come meanwhile.
    ///
    /// May be called from any thread that can wait for about as long as a flush takes. Interrupted, it
    /// leaves the old size or the new one. When it fails the disk is what it was; after
    /// [`GrowError::Failed`] it can not be written any more, and has either size when it is opened next.
    pub fn resize(&self, capacity: Sector) -> Result<(), GrowError> {
        let _one_at_a_time = self.resizing.lock().unwrap_or_else(PoisonError::into_inner);
        let from = self.capacity();
        if capacity < from {
            return Err(GrowError::Shrinks { from, to: capacity });
        }
        if self.shape.read_only {
            return Err(GrowError::ReadOnly);
        }
        if capacity == from {
            return Ok(());
        }
        self.volume.grow(capacity)?;
        // The volume first: whoever sees the new size may use all of it.
        if let Some(table) = &self.table {
            table.grow(capacity);
        }
        self.capacity.store(capacity.0, Ordering::Release);
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.announce_config_change();
        Ok(())
    }

    /// A new guest. The session before it must have no lane left.
    pub fn session(self: &Arc<Self>) -> Arc<Session> {
        let session = Session::new(Arc::clone(self));
        *self.guest.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&session);
        session
    }

    /// From now on, and for as long as it lives, `listener` is told when the configuration space changes.
    /// A transport that attaches the device to a driver listens, and notifies the driver.
    pub fn listen<L: ConfigListener + 'static>(&self, listener: &Arc<L>) {
        self.listeners.add(weak(listener));
    }

    /// Tells whoever listens that the configuration space has changed, or what it stands for: a driver
    /// that is notified looks at the capacity again, and at its zones if it is thorough. May be called
    /// from any thread, and waits for nobody; where no driver is attached nothing happens.
    pub fn announce_config_change(&self) {
        self.listeners.tell();
    }

    /// The configuration space with every offered field filled (a driver may read all of them before
    /// it accepts anything, virtio 2.5.2).
    pub(crate) fn config(&self) -> Config {
        Config { capacity: U64::new(self.capacity().0), ..self.config }
    }

    /// Where sequential-required zones begin: at the end of the disk, where there are none.
    pub(crate) fn required_from(&self) -> Sector {
        let capacity = self.capacity();
        let spec = self.shape.geometry.as_ref().map(|geometry| geometry.spec());
        match spec.filter(|spec| spec.model == Model::HostManaged) {
            // Within the capacity, by its geometry.
            Some(spec) => {
                let end = spec.zone_size.0.saturating_mul(spec.conventional.into());
                Sector(end).min(capacity)
            }
            None => capacity,
        }
    }

    pub(crate) fn model(&self) -> Model {
        self.table.as_ref().map_or(Model::None, |table| table.geometry().spec().model)
    }
}

fn offered_features(shape: &Shape, options: &DeviceOptions) -> Features {
    let mut features = Features::VERSION_1
        | Features::INDIRECT_DESC
        | Features::EVENT_IDX
        | Features::RING_RESET
        | Features::SEG_MAX
        | Features::BLK_SIZE
        | Features::TOPOLOGY
        | Features::FLUSH
        | Features::CONFIG_WCE
        | Features::WRITE_ZEROES;
    features.set(Features::MQ, options.queues > 1);
    features.set(Features::RO, shape.read_only);
    features.set(Features::ZONED, shape.geometry.is_some());
    // A driver must not accept DISCARD from a host-managed device (virtio 5.2.5): it is no use to offer.
    let host_managed = shape.geometry.is_some_and(|g| g.spec().model == Model::HostManaged);
    features.set(Features::DISCARD, shape.can_discard && !host_managed);
    features.set(Features::SECURE_ERASE, options.secure_erase);
    features.difference(options.transport.withheld) | options.transport.offered
}

fn config_space(shape: &Shape, options: &DeviceOptions) -> Config {
    let block_sectors = u64::from(shape.block_size) / SECTOR_BYTES;
    let mut config = Config {
        capacity: U64::new(shape.capacity.0),
        seg_max: U32::new(options.seg_max),
        blk_size: U32::new(shape.block_size),
        topology: Topology { min_io_size: U16::new(1), ..Topology::default() },
        writeback: 1,
        num_queues: U16::new(options.queues),
        max_write_zeroes_sectors: U32::new(MAX_RANGE_SECTORS),
        max_write_zeroes_seg: U32::new(MAX_RANGES),
        write_zeroes_may_unmap: shape.can_discard.into(),
        ..Config::default()
    };
    let features = offered_features(shape, options);
    if features.contains(Features::DISCARD) {
        config.max_discard_sectors = U32::new(MAX_RANGE_SECTORS);
        config.max_discard_seg = U32::new(MAX_RANGES);
        config.discard_sector_alignment = U32::new(block_sectors as u32);
    }
    if features.contains(Features::SECURE_ERASE) {
        let (unit, most) = secure_erase_unit(shape);
        config.max_secure_erase_sectors = U32::new(most);
        config.max_secure_erase_seg = U32::new(MAX_RANGES);
        config.secure_erase_sector_alignment = U32::new(unit);
    }
    if let Some(geometry) = &shape.geometry {
        let spec = geometry.spec();
        config.zoned = ZonedCharacteristics {
            // `Geometry` keeps each of these within 32 bits.
            zone_sectors: U32::new(spec.zone_size.0 as u32),
            max_open_zones: U32::new(spec.max_open),
            max_active_zones: U32::new(spec.max_active),
            max_append_sectors: U32::new(spec.max_append.0 as u32),
            write_granularity: U32::new(spec.write_granularity),
            model: spec.model as u8,
            unused2: [0; 3],
        };
    }
    config
}
