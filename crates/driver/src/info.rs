//! What the driver knows of the device, checked.

use zvb_wire::{Config, Features, Model, SECTOR_BYTES, Sector};

use crate::error::ConfigError;

/// How the device is to be driven.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// How many queues to use, if the device has as many.
    pub queues: u16,
    /// How many descriptors a queue has, if the device takes as many; rounded down to a power of two.
    pub queue_size: u16,
    /// What to do with a host-aware device.
    pub host_aware: HostAware,
    /// Features that may be accepted. Others are not, VERSION_1 always is. By default all but those that
    /// few have a use for: LIFETIME and SECURE_ERASE.
    pub features: Features,
    /// Which writes to sequential zones are refused before they are sent.
    pub checks: Checks,
    /// How long a blocking call waits for a silent device, in milliseconds; `None` for ever.
    pub timeout_ms: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queues: 1,
            queue_size: 256,
            host_aware: HostAware::AsZoned,
            features: Features::all() - (Features::LIFETIME | Features::SECURE_ERASE),
            checks: Checks::Full,
            timeout_ms: Some(30_000),
        }
    }
}

/// What is looked at before a write or an append to a sequential zone is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checks {
    /// All that a driver MUST see to (virtio 5.2.6.1): the write granularity, and that the zone has room
    /// for it. To know the zones, all of them are reported when the device is probed. Where a write goes
    /// is not looked at: one off the write pointer is sent, and the device answers.
    Full,
    /// Only what no device could make sense of: the device is the one to refuse. For tests of devices,
    /// and for disks that others write to at the same time.
    Minimal,
}

/// A host-aware device can be driven in two ways.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostAware {
    /// With its zones.
    AsZoned,
    /// As a regular disk.
    AsRegular,
}

/// The features that this driver knows what to do with.
pub(crate) const SUPPORTED: Features = Features::SIZE_MAX
    .union(Features::SEG_MAX)
    .union(Features::RO)
    .union(Features::BLK_SIZE)
    .union(Features::FLUSH)
    .union(Features::CONFIG_WCE)
    .union(Features::MQ)
    .union(Features::DISCARD)
    .union(Features::WRITE_ZEROES)
    .union(Features::LIFETIME)
    .union(Features::SECURE_ERASE)
    .union(Features::ZONED)
    .union(Features::INDIRECT_DESC)
    .union(Features::EVENT_IDX)
    .union(Features::VERSION_1)
    .union(Features::ACCESS_PLATFORM)
    .union(ORDERED);

/// The fences of this processor order also what a device sees that is none (ORDER_PLATFORM).
const ORDERED: Features = match cfg!(any(target_arch = "x86", target_arch = "x86_64")) {
    true => Features::ORDER_PLATFORM,
    false => Features::empty(),
};

/// Features that are accepted where the transport does them.
pub(crate) const TRANSPORTS: Features =
    Features::NOTIF_CONFIG_DATA.union(Features::RING_RESET).union(Features::ORDER_PLATFORM);

/// The most data segments that the driver makes of a buffer, whatever the device would take. A buffer is
/// contiguous, so this matters only where SIZE_MAX is small.
const SEGMENTS_MAX: u32 = 32;
/// The most bytes in one request, whatever the device would take.
const TRANSFER_BYTES_MAX: u32 = 1 << 30;

/// What the driver knows of the device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Info {
    /// Size of the disk.
    pub capacity: Sector,
    /// Logical block size, in bytes: what reads and writes are aligned to. 512 where the device says
    /// nothing.
    pub block_size: u32,
    /// Nothing can be written.
    pub read_only: bool,
    /// What was agreed on.
    pub features: Features,
    /// Queues in use.
    pub queues: u16,
    /// Descriptors of each queue: the smallest one's, where they differ.
    pub queue_size: u16,
    /// The cache mode, where it can be chosen (CONFIG_WCE): true for writeback.
    pub writeback: Option<bool>,
    /// Largest segment that the device takes, in bytes (SIZE_MAX); `None` for no limit.
    pub size_max: Option<u32>,
    /// Most data segments that the device takes in a request (SEG_MAX).
    pub seg_max: Option<u32>,
    /// The most data in one request, in bytes: a multiple of the block size.
    pub max_transfer: u32,
    /// The zones; `None` for a regular disk, or one that is driven as such.
    pub zoned: Option<ZonedInfo>,
    /// What a DISCARD may be; `None` where there is none.
    pub discard: Option<RangeLimits>,
    /// What a WRITE_ZEROES may be; `None` where there is none.
    pub write_zeroes: Option<RangeLimits>,
    /// What a SECURE_ERASE may be; `None` where there is none, or it was not asked for
    /// ([`Options::features`]).
    pub secure_erase: Option<RangeLimits>,
}

/// What the driver knows of the disk's zones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ZonedInfo {
    /// Host-managed or host-aware.
    pub model: Model,
    /// Size of every zone but perhaps the last.
    pub zone_size: Sector,
    /// How many zones there are.
    pub zone_count: u32,
    /// Most open zones; 0 for no limit.
    pub max_open: u32,
    /// Most active zones; 0 for no limit.
    pub max_active: u32,
    /// Largest append; 0 when there is none.
    pub max_append: Sector,
    /// What writes to sequential zones are aligned to and a multiple of, in bytes.
    pub write_granularity: u32,
}

impl ZonedInfo {
    /// The first sector of the zone that holds `sector`.
    pub fn zone_start(&self, sector: Sector) -> Sector {
        // `zone_size` is not 0, or there would be no `ZonedInfo`.
        Sector(sector.0 - sector.0.checked_rem(self.zone_size.0).unwrap_or(0))
    }

    /// The number of the zone that holds `sector`, from 0.
    pub fn zone_index(&self, sector: Sector) -> u32 {
        let index = sector.0.checked_div(self.zone_size.0).unwrap_or(0);
        // Of sectors of the disk it fits: `probe` refuses more zones.
        u32::try_from(index).unwrap_or(u32::MAX)
    }
}

/// What a DISCARD, WRITE_ZEROES or SECURE_ERASE may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RangeLimits {
    /// Most 512-byte sectors in one range.
    pub max_sectors: u32,
    /// Most ranges in one request.
    pub max_ranges: u32,
    /// What a range is better aligned to, in 512-byte sectors, and that of a SECURE_ERASE must be; 0
    /// where nothing is said.
    pub alignment: u32,
}

impl Info {
    /// True when a write that was answered may be lost with the host's power, until a flush
    /// (virtio 5.2.5.2: without CONFIG_WCE, FLUSH alone says so).
    pub fn volatile_cache(&self) -> bool {
        self.writeback.unwrap_or(self.features.contains(Features::FLUSH))
    }

    /// Checks what the device says, and keeps what goes with `features`.
    pub(crate) fn new(
        config: &Config,
        features: Features,
        queues: u16,
        queue_size: u16,
    ) -> Result<Self, ConfigError> {
        let has = |feature| features.contains(feature);
        let capacity = Sector(config.capacity.get());
        if capacity.to_bytes().is_none() {
            return Err(ConfigError::Capacity(capacity));
        }
        let block_size = if has(Features::BLK_SIZE) { config.blk_size.get() } else { 512 };
        if !block_size.is_power_of_two() || u64::from(block_size) < SECTOR_BYTES {
            return Err(ConfigError::BlockSize(block_size));
        }
        // Devices are about that offer SIZE_MAX and leave it 0: they mean that there is no limit.
        let size_max = has(Features::SIZE_MAX).then(|| config.size_max.get()).filter(|n| *n != 0);
        let seg_max = has(Features::SEG_MAX).then(|| config.seg_max.get().max(1));
        let mut info = Self {
            capacity,
            block_size,
            read_only: has(Features::RO),
            features,
            queues,
            queue_size,
            writeback: has(Features::CONFIG_WCE).then_some(config.writeback != 0),
            size_max,
            seg_max,
            max_transfer: 0,
            zoned: zoned(config, features, capacity)?,
            discard: has(Features::DISCARD).then(|| RangeLimits {
                max_sectors: config.max_discard_sectors.get(),
                max_ranges: config.max_discard_seg.get(),
                alignment: config.discard_sector_alignment.get(),
            }),
            write_zeroes: has(Features::WRITE_ZEROES).then(|| RangeLimits {
                max_sectors: config.max_write_zeroes_sectors.get(),
                max_ranges: config.max_write_zeroes_seg.get(),
                alignment: 0,
            }),
            secure_erase: has(Features::SECURE_ERASE).then(|| RangeLimits {
                max_sectors: config.max_secure_erase_sectors.get(),
                max_ranges: config.max_secure_erase_seg.get(),
                alignment: config.secure_erase_sector_alignment.get(),
            }),
        };
        if let (Some(zoned), Some(erase)) = (&info.zoned, &info.secure_erase) {
            let (alignment, zone_size) = (erase.alignment, zoned.zone_size);
            if !Sector(alignment.into()).is_multiple_of(zone_size) {
                return Err(ConfigError::EraseAlignment { alignment, zone_size });
            }
        }
        let max = info.segment_bytes().saturating_mul(info.segments_max()).min(TRANSFER_BYTES_MAX);
        // A power of two, so this cuts down to a multiple of it.
        info.max_transfer = max & !(block_size - 1);
        if info.max_transfer == 0 {
            return Err(ConfigError::SegmentLimits { max, block: block_size });
        }
        Ok(info)
    }

    /// Takes from `before` what the memory of queues and the requests in flight were made for.
    pub(crate) fn keep_limits(&mut self, before: &Self) {
        self.size_max = before.size_max;
        self.seg_max = before.seg_max;
        self.block_size = before.block_size;
        self.max_transfer = before.max_transfer;
    }

    /// The most bytes that the driver puts into one segment: whole blocks, where one block fits.
    pub(crate) fn segment_bytes(&self) -> u32 {
        match self.size_max {
            None => TRANSFER_BYTES_MAX,
            Some(max) if max >= self.block_size => max & !(self.block_size - 1),
            Some(max) => max,
        }
    }

    /// The most data segments that the driver makes of a buffer.
    pub(crate) fn segments_max(&self) -> u32 {
        if self.size_max.is_none() {
            return 1;
        }
        // A chain is never longer than the queue, and has a header and a status too (virtio 2.7.5).
        let queue = u32::from(self.queue_size).saturating_sub(2);
        self.seg_max.unwrap_or(u32::MAX).min(queue).min(SEGMENTS_MAX)
    }
}

/// The zones that `config` tells of.
fn zoned(
    config: &Config,
    features: Features,
    capacity: Sector,
) -> Result<Option<ZonedInfo>, ConfigError> {
    let zoned = &config.zoned;
    let model = match Model::try_from(zoned.model) {
        // A model that is not known does not get this far: `probe` refuses it.
        Ok(model) if features.contains(Features::ZONED) => model,
        _ => Model::None,
    };
    if model == Model::None {
        return Ok(None);
    }
    let zone_size = Sector(u64::from(zoned.zone_sectors.get()));
    if zone_size == Sector::ZERO {
        return Err(ConfigError::ZoneSize);
    }
    let count = capacity.0.div_ceil(zone_size.0);
    let zone_count = u32::try_from(count).map_err(|_| ConfigError::TooManyZones(count))?;
    let granularity = zoned.write_granularity.get();
    if granularity == 0 || !u64::from(granularity).is_multiple_of(SECTOR_BYTES) {
        return Err(ConfigError::WriteGranularity(granularity));
    }
    let max_append = Sector(u64::from(zoned.max_append_sectors.get()));
    if max_append != Sector::ZERO && max_append.0 * SECTOR_BYTES < u64::from(granularity) {
        return Err(ConfigError::MaxAppend { max_append, granularity });
    }
    Ok(Some(ZonedInfo {
        model,
        zone_size,
        zone_count,
        max_open: zoned.max_open_zones.get(),
        max_active: zoned.max_active_zones.get(),
        max_append,
        write_granularity: granularity,
    }))
}
