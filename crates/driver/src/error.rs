//! What can go wrong, told apart: the device is unfit, the request is wrong, the queue is full, the
//! request failed, the device lies, the device is gone.

use zvb_ring::{DeviceLie, SetupError};
use zvb_wire::{Condition, Features, RequestType, Sector, Status, ZoneType};

use crate::dma::NoMemory;

/// Why a device is not driven.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError<E: core::error::Error + 'static> {
    /// The transport failed.
    #[error("the way to the device failed")]
    Transport(#[source] E),
    /// There is no memory for queues and requests.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
    /// VERSION_1 is not offered: a legacy device.
    #[error("the device is a legacy one: it does not offer VERSION_1")]
    Legacy,
    /// The device does not take what the driver accepted.
    #[error("the device refused the features {accepted:?}")]
    FeaturesRefused {
        /// What was accepted.
        accepted: Features,
    },
    /// The device is host-managed, and [`Options::features`](crate::Options::features) leaves ZONED out:
    /// ordinary writes would fail on it.
    #[error("the device is host-managed, and is not to be driven as such")]
    HostManagedRefused,
    /// A model that the specification does not give out.
    #[error("the device's zone model is {0}, which is none that is known")]
    UnknownModel(u8),
    /// The model changed while features were agreed on.
    #[error("the device's zone model changed from {before} to {after} while it was set up")]
    ModelChanged {
        /// Read before features were agreed on.
        before: u8,
        /// Read afterwards.
        after: u8,
    },
    /// The size of zones changed after the device was set up.
    #[error("the zone size changed from {before} to {after} sectors on a disk in use")]
    ZoneSizeChanged {
        /// What it was.
        before: Sector,
        /// What it is said to be now.
        after: Sector,
    },
    /// The configuration space ends before a field that an accepted feature promises.
    #[error("the configuration space has {got} bytes, and {needed} are needed")]
    ConfigTooShort {
        /// Bytes that there must be.
        needed: u32,
        /// Bytes that there are.
        got: u32,
    },
    /// The configuration changed each time while it was read.
    #[error("the configuration space does not stay the same long enough to be read")]
    ConfigUnstable,
    /// The configuration makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no room to keep track of so many zones, which [`Checks::Full`](crate::Checks::Full) wants.
    #[error(
        "{0} zones are more than can be kept track of; with minimal checks there is no need to"
    )]
    ZoneMap(u32),
    /// The device does not tell of its zones, which [`Checks::Full`](crate::Checks::Full) wants.
    #[error("the device does not tell of its zones")]
    Zones(#[source] Error<E>),
    /// A queue that the device should have does not exist.
    #[error("the device has no queue {0}")]
    NoQueue(u16),
    /// A queue has no room for one request.
    #[error("queue {index} has {size} descriptors, and a request needs 3")]
    QueueTooSmall {
        /// Which queue.
        index: u16,
        /// Its descriptors.
        size: u16,
    },
    /// The queue's memory is not as the ring wants it.
    #[error("a queue could not be laid out")]
    Queue(#[source] SetupError),
}

/// What a configuration space must not say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Past 2^64 bytes.
    #[error("the capacity of {0} sectors is past 2^64 bytes")]
    Capacity(Sector),
    /// Not a power of two from 512 on.
    #[error("the block size of {0} bytes is not a power of two of at least 512")]
    BlockSize(u32),
    /// One block does not fit into the segments that a request may have.
    #[error("a request of {max} bytes, the most that the device takes, holds no block of {block}")]
    SegmentLimits {
        /// The largest request, in bytes.
        max: u32,
        /// The block size, in bytes.
        block: u32,
    },
    /// Zones of no size.
    #[error("the zone size is 0")]
    ZoneSize,
    /// More zones than 32 bits can count.
    #[error("{0} zones are more than 32 bits can count")]
    TooManyZones(u64),
    /// What a SECURE_ERASE is aligned to is not whole zones.
    #[error(
        "the erase alignment of {alignment} sectors is not a multiple of the zone size of {zone_size}"
    )]
    EraseAlignment {
        /// In 512-byte sectors.
        alignment: u32,
        /// In 512-byte sectors.
        zone_size: Sector,
    },
    /// Zero, or not a multiple of 512.
    #[error("the write granularity of {0} bytes is not a multiple of 512")]
    WriteGranularity(u32),
    /// Appends are offered, and none is large enough to be allowed.
    #[error(
        "the append limit of {max_append} sectors is below the write granularity of {granularity} bytes"
    )]
    MaxAppend {
        /// The limit, in 512-byte sectors.
        max_append: Sector,
        /// The write granularity, in bytes.
        granularity: u32,
    },
}

/// Why a request was not sent. [`retry`](Self::retry) tells "later" from "never".
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// As many requests are in flight as the queue holds: later, after some were polled.
    #[error("the queue is full")]
    QueueFull,
    /// There is no memory for what goes with it: later, after buffers were dropped.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
    /// It is one that a driver must not send to this device: never.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The queue is broken: never, until the device is probed anew.
    #[error("the device failed")]
    DeviceFailed(#[source] Fault),
}

impl SubmitError {
    /// True when the same request can succeed later; false when it never will.
    pub const fn retry(&self) -> bool {
        matches!(self, Self::QueueFull | Self::NoMemory(_))
    }
}

/// What a driver must not send (virtio 5.2.6.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Invalid {
    /// There is no such queue.
    #[error("there is no queue {0}")]
    NoSuchQueue(u16),
    /// The cache mode can not be chosen (no CONFIG_WCE).
    #[error("the device does not let its cache mode be chosen")]
    NoCacheChoice,
    /// No data, or no ranges.
    #[error("there is nothing to transfer")]
    Empty,
    /// Address or length is not a multiple of the unit.
    #[error("{bytes} bytes at sector {at} are not aligned to {unit} bytes")]
    Misaligned {
        /// The address.
        at: Sector,
        /// The length, in bytes.
        bytes: u64,
        /// What both must be multiples of, in bytes.
        unit: u32,
    },
    /// Past the end of the disk.
    #[error("{sectors} sectors at sector {at} pass the end of the disk at {capacity}")]
    PastCapacity {
        /// The address.
        at: Sector,
        /// The length, in 512-byte sectors.
        sectors: Sector,
        /// The size of the disk.
        capacity: Sector,
    },
    /// More data than one request can carry.
    #[error("{bytes} bytes are more than the {max} of one request")]
    TooLong {
        /// The length, in bytes.
        bytes: u64,
        /// The most there can be.
        max: u64,
    },
    /// The disk is read-only.
    #[error("the disk is read-only")]
    ReadOnly,
    /// A request that comes with a feature that was not negotiated, or an append where there are none.
    #[error("the device does not take {0:?}")]
    Unsupported(RequestType),
    /// Not the first sector of a zone.
    #[error("sector {0} is not the start of a zone")]
    NotZoneStart(Sector),
    /// More than the append limit.
    #[error("an append of {sectors} sectors is above the limit of {max}")]
    AppendTooLong {
        /// The length, in 512-byte sectors.
        sectors: Sector,
        /// The limit, in 512-byte sectors.
        max: Sector,
    },
    /// More than a sequential zone has room for: what is at `at` and in flight is counted
    /// ([`Checks::Full`](crate::Checks::Full)).
    #[error("{sectors} sectors at sector {at} pass what can be written of the zone, up to {end}")]
    PastZoneCapacity {
        /// Where they would go: the address, or the write pointer that the zone will have.
        at: Sector,
        /// The length, in 512-byte sectors.
        sectors: Sector,
        /// The end of what can be written of the zone.
        end: Sector,
    },
    /// Into a sequential zone and another ([`Checks::Full`](crate::Checks::Full)).
    #[error("{sectors} sectors at sector {at} are in more than one zone")]
    AcrossZones {
        /// The address.
        at: Sector,
        /// The length, in 512-byte sectors.
        sectors: Sector,
    },
    /// A SECURE_ERASE of less than whole units.
    #[error("{sectors} sectors at sector {at} are not whole units of {unit} sectors")]
    PartOfUnit {
        /// The address.
        at: Sector,
        /// The length, in 512-byte sectors.
        sectors: u32,
        /// The alignment, or the zone size, in 512-byte sectors.
        unit: u64,
    },
    /// Too small for one zone.
    #[error("a report needs a buffer of at least 128 bytes, and has {0}")]
    ReportTooSmall(u64),
    /// More ranges than the device takes at once.
    #[error("{count} ranges are more than {max}")]
    TooManyRanges {
        /// How many.
        count: u64,
        /// The most there can be.
        max: u32,
    },
}

/// How a request failed. The queue goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// IOERR: the device or its medium failed.
    #[error("the device reports an I/O error (IOERR)")]
    Io,
    /// UNSUPP: the device does not do this.
    #[error("the device does not support the request (UNSUPP)")]
    Unsupported,
    /// ZONE_INVALID_CMD: the zone can not do this in its condition.
    #[error("the zone can not do this in its condition (ZONE_INVALID_CMD)")]
    InvalidCommand,
    /// ZONE_UNALIGNED_WP: not at the write pointer, or not a multiple of the write granularity.
    #[error("the write is not at the write pointer of its zone (ZONE_UNALIGNED_WP)")]
    UnalignedWritePointer,
    /// ZONE_OPEN_RESOURCE: as many zones are open as may be.
    #[error("no more zones can be open (ZONE_OPEN_RESOURCE)")]
    OpenResource,
    /// ZONE_ACTIVE_RESOURCE: as many zones are active as may be.
    #[error("no more zones can be active (ZONE_ACTIVE_RESOURCE)")]
    ActiveResource,
    /// A status that the specification does not give out.
    #[error("the device answers with status {0}, which is none that is known")]
    Unknown(u8),
    /// The device says that all is well, and gives an answer that can not be true.
    #[error("the device gives an answer that can not be true")]
    Lie(#[source] Lie),
    /// There is no memory to keep the answer in.
    #[error("no memory for the answer")]
    NoMemory,
}

impl RequestError {
    /// What a status other than OK stands for.
    pub(crate) fn from_status(status: Status) -> Self {
        match status {
            Status::IOERR => Self::Io,
            Status::UNSUPP => Self::Unsupported,
            Status::ZONE_INVALID_CMD => Self::InvalidCommand,
            Status::ZONE_UNALIGNED_WP => Self::UnalignedWritePointer,
            Status::ZONE_OPEN_RESOURCE => Self::OpenResource,
            Status::ZONE_ACTIVE_RESOURCE => Self::ActiveResource,
            Status(other) => Self::Unknown(other),
        }
    }

    /// The status that the device sent, where that is what failed.
    pub fn status(&self) -> Option<Status> {
        Some(match self {
            Self::Io => Status::IOERR,
            Self::Unsupported => Status::UNSUPP,
            Self::InvalidCommand => Status::ZONE_INVALID_CMD,
            Self::UnalignedWritePointer => Status::ZONE_UNALIGNED_WP,
            Self::OpenResource => Status::ZONE_OPEN_RESOURCE,
            Self::ActiveResource => Status::ZONE_ACTIVE_RESOURCE,
            Self::Unknown(status) => Status(*status),
            Self::Lie(_) | Self::NoMemory => return None,
        })
    }
}

/// An answer that can not be true, one variant for each. It concerns one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Lie {
    /// The request came back, and its status was not written.
    #[error("the request came back without a status")]
    NoStatus,
    /// The request went well, and the device vouches for less data than was asked for.
    #[error("{written} bytes were written where {expected} were asked for")]
    Short {
        /// Bytes that the device says it wrote.
        written: u32,
        /// Bytes that make the answer whole.
        expected: u32,
    },
    /// Data appended to one zone went elsewhere.
    #[error("data appended to the zone at {zone} is said to be at {at}")]
    AppendedElsewhere {
        /// The first sector of the zone.
        zone: Sector,
        /// Where the device says that it went.
        at: Sector,
    },
    /// A lifetime in values that are reserved.
    #[error("the device's lifetime has reserved values: {pre_eol_info}, {a}, {b}")]
    Lifetime {
        /// Of 0 to 3.
        pre_eol_info: u16,
        /// Of 0 to 11.
        a: u16,
        /// Of 0 to 11.
        b: u16,
    },
    /// More zones than fit into the buffer.
    #[error("a report of {nr_zones} zones came in a buffer for {room}")]
    ZoneCount {
        /// How many the device says there are.
        nr_zones: u64,
        /// How many there can be.
        room: u64,
    },
    /// Nothing is told of a zone that exists.
    #[error("the report tells of no zone from sector {0} on")]
    NoZones(Sector),
    /// A zone that does not begin where the one before ends, or past the end of the disk.
    #[error("zone {index} of the report starts at {start}, and should at {expected}")]
    ZoneStart {
        /// Its place in the report, from 0.
        index: u64,
        /// Where the device says that it starts.
        start: Sector,
        /// Where it must start.
        expected: Sector,
    },
    /// A zone that the disk has no room for; unless it grew, which
    /// [`Disk::refresh`](crate::Disk::refresh) finds out.
    #[error("zone {index} of the report starts past the end of the disk, at {start}")]
    PastCapacity {
        /// Its place in the report, from 0.
        index: u64,
        /// Where it starts.
        start: Sector,
    },
    /// A zone with more room than its size.
    #[error("the zone at {start} has a capacity of {capacity} in a length of {len}")]
    ZoneCapacity {
        /// The first sector of the zone.
        start: Sector,
        /// What it is said to hold.
        capacity: Sector,
        /// Its size.
        len: Sector,
    },
    /// A write pointer outside of what can be written.
    #[error("the zone at {start} has its write pointer at {write_pointer}")]
    WritePointer {
        /// The first sector of the zone.
        start: Sector,
        /// Where the device says that it is.
        write_pointer: Sector,
    },
    /// A type that the specification does not give out.
    #[error("the zone at {start} is of type {value}, which is none that is known")]
    ZoneType {
        /// The first sector of the zone.
        start: Sector,
        /// The number that came.
        value: u8,
    },
    /// A condition that the specification does not give out.
    #[error("the zone at {start} is in condition {value}, which is none that is known")]
    Condition {
        /// The first sector of the zone.
        start: Sector,
        /// The number that came.
        value: u8,
    },
    /// A conventional zone with a write pointer, or a sequential one without.
    #[error("the zone at {start}, {zone_type:?}, can not be {condition:?}")]
    TypeAndCondition {
        /// The first sector of the zone.
        start: Sector,
        /// Its type.
        zone_type: ZoneType,
        /// Its condition.
        condition: Condition,
    },
}

/// Why a queue is broken: nothing on it will ever be answered, and nothing more is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The device broke the ring.
    #[error("the device broke the queue")]
    Ring(#[source] DeviceLie),
    /// The device says that it can go on only after a reset.
    #[error("the device needs a reset")]
    NeedsReset,
    /// The device signalled again and again, and answered nothing.
    #[error("the device signals without an answer")]
    Babble,
}

/// How a blocking call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error<E: core::error::Error + 'static> {
    /// The request was answered with an error.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The request can not be sent to this device.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// There is no memory that the device can reach.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
    /// The queue is broken.
    #[error("the device failed")]
    Fault(#[source] Fault),
    /// The transport failed, or the device was silent for too long.
    #[error("the way to the device failed")]
    Transport(#[source] E),
    /// Parts of one long append went to places that are not next to each other: someone else appends to
    /// the same zone.
    #[error("an append was torn: {written} sectors are at {first}, those after them at {at}")]
    AppendTorn {
        /// The first sector of the first part.
        first: Sector,
        /// The length of the parts that are next to each other, in 512-byte sectors.
        written: Sector,
        /// Where the next part went.
        at: Sector,
    },
}
