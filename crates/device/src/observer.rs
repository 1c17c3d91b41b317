//! What a device tells its owner: faults, never more than one line each. Whoever listens limits the rate.

use zvb_ring::RingError;
use zvb_storage::Failure;
use zvb_wire::{RequestType, Sector};

use crate::faults::Harm;

/// Listens to what goes wrong. Called from the workers: must be quick and must not wait.
pub trait Observer: Send + Sync {
    /// The guest did what it must not; it got a status where that was possible.
    fn guest_fault(&self, queue: u16, fault: &GuestFault);

    /// The guest broke the ring of `queue`: the queue is retired until the device is reset.
    fn queue_retired(&self, queue: u16, why: &RingError);

    /// The medium failed a request at `at` (`u64::MAX` for one that concerns no sector): the guest got IOERR.
    fn medium_fault(&self, queue: u16, request: RequestType, at: Sector, why: &Failure);

    /// The medium could not make durable what was written, or `part_is_lost` of it: nothing is promised any
    /// more, no request that changes anything is done, and reads go on. Told once.
    fn turned_read_only(&self, part_is_lost: bool) {
        let _ = part_is_lost;
    }

    /// A fault that was asked for hits a request at `at` (0 for one that concerns no sector): it is
    /// delayed, or this befalls it.
    fn fault_injected(&self, queue: u16, request: RequestType, at: Sector, harm: Option<Harm>) {
        let _ = (queue, request, at, harm);
    }
}

/// Listens to nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn guest_fault(&self, _: u16, _: &GuestFault) {}
    fn queue_retired(&self, _: u16, _: &RingError) {}
    fn medium_fault(&self, _: u16, _: RequestType, _: Sector, _: &Failure) {}
}

/// What a guest did wrong in one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuestFault {
    /// There was no room for a status: the chain went back unanswered.
    #[error("a request of {writable} writable bytes has no room for its status")]
    NoStatus {
        /// How many writable bytes there were.
        writable: u64,
    },
    /// Fewer than 16 readable bytes.
    #[error("a request of {readable} readable bytes has no whole header")]
    NoHeader {
        /// How many readable bytes there were.
        readable: u64,
    },
    /// An append without room for the sector before the status.
    #[error("an append of {writable} writable bytes has no room for its sector and status")]
    NoAppendSector {
        /// How many writable bytes there were.
        writable: u64,
    },
    /// Data that is no whole number of sectors.
    #[error("{request:?} of {bytes} bytes is no whole number of 512-byte sectors")]
    DataLength {
        /// The request.
        request: RequestType,
        /// Its data.
        bytes: u64,
    },
    /// No range, a cut range, or more ranges than the device takes.
    #[error("{request:?} of {bytes} bytes holds no whole number of ranges from 1 to {most}")]
    Ranges {
        /// The request.
        request: RequestType,
        /// Its data.
        bytes: u64,
        /// The most ranges that are taken.
        most: u32,
    },
    /// A range that is longer than the device takes.
    #[error("{request:?} of {sectors} sectors in one range is above the limit")]
    RangeLength {
        /// The request.
        request: RequestType,
        /// The range's length in 512-byte sectors.
        sectors: u32,
    },
    /// A SECURE_ERASE of parts of zones or blocks.
    #[error(
        "SECURE_ERASE of {sectors} sectors at sector {at} is not of whole units of {unit} sectors"
    )]
    EraseUnit {
        /// Where, in 512-byte sectors.
        at: Sector,
        /// How many sectors.
        sectors: Sector,
        /// What a range is a multiple of, in sectors.
        unit: Sector,
    },
    /// Past the end of the disk.
    #[error("{request:?} at sector {at} is past the end of the disk")]
    PastEnd {
        /// The request.
        request: RequestType,
        /// Where, in 512-byte sectors.
        at: Sector,
    },
    /// A change to a read-only disk.
    #[error("{0:?} on a read-only disk")]
    ReadOnly(RequestType),
}
