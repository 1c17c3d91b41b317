//! Why a request is not done, or not yet.

use zvb_wire::Status;

use crate::Ticket;

/// A request that is not begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Refused {
    /// It never will be: it ends with this.
    Status(Refusal),
    /// It has to be tried again, with this ticket, when [`Zones::wants_retry`](crate::Zones::wants_retry)
    /// says so. Until then it keeps its place before all that came later.
    Wait(Ticket),
}

/// What is wrong with a request: one variant per sin (virtio 5.2.6.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Refusal {
    /// A range to read or write that is not inside the disk.
    #[error("the range is not inside the disk")]
    OutOfRange,
    /// A zone is named, to be managed or appended to, where the disk has none.
    #[error("the disk has no zone at this sector")]
    NoSuchZone,
    /// A range in a sequential-required zone and outside it.
    #[error("the range crosses the boundary of a sequential-required zone")]
    CrossesZones,
    /// A write that does not begin at the write pointer.
    #[error("the write does not begin at the write pointer")]
    NotAtWritePointer,
    /// A write that does not end on a multiple of the write granularity.
    #[error("the write does not end on a multiple of the write granularity")]
    Misaligned,
    /// More than the zone has room for.
    #[error("the write goes past the capacity of the zone")]
    PastCapacity,
    /// The zone is full.
    #[error("the zone is full")]
    ZoneFull,
    /// The zone can not be written.
    #[error("the zone is read-only")]
    ZoneReadOnly,
    /// The zone can be neither read nor written.
    #[error("the zone is offline")]
    ZoneOffline,
    /// A zone is named by its first sector.
    #[error("the sector is not the first of a zone")]
    NotZoneStart,
    /// A conventional zone has no condition to manage.
    #[error("the zone is conventional")]
    Conventional,
    /// An append to a zone of another type.
    #[error("the zone is not sequential-required")]
    NotSequentialRequired,
    /// There is nothing to close.
    #[error("an empty or full zone can not be closed")]
    CannotClose,
    /// `max_open_zones` is reached, and no zone can be closed to make room.
    #[error("the limit of open zones is reached")]
    OpenLimit,
    /// `max_active_zones` is reached.
    #[error("the limit of active zones is reached")]
    ActiveLimit,
    /// The disk has no appends: `max_append_sectors` is 0.
    #[error("the disk has no appends")]
    AppendUnsupported,
    /// Larger than `max_append_sectors`.
    #[error("the append is larger than the limit")]
    AppendTooLarge,
}

impl Refusal {
    /// The status that a guest is given.
    pub const fn status(self) -> Status {
        match self {
            Self::OutOfRange => Status::IOERR,
            Self::AppendUnsupported => Status::UNSUPP,
            Self::NotAtWritePointer | Self::Misaligned => Status::ZONE_UNALIGNED_WP,
            Self::OpenLimit => Status::ZONE_OPEN_RESOURCE,
            Self::ActiveLimit => Status::ZONE_ACTIVE_RESOURCE,
            Self::NoSuchZone
            | Self::CrossesZones
            | Self::PastCapacity
            | Self::ZoneFull
            | Self::ZoneReadOnly
            | Self::ZoneOffline
            | Self::NotZoneStart
            | Self::Conventional
            | Self::NotSequentialRequired
            | Self::CannotClose
            | Self::AppendTooLarge => Status::ZONE_INVALID_CMD,
        }
    }
}
