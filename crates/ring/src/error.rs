//! What can be wrong with a ring.

use core::fmt;

use thiserror::Error;

/// A part of a split ring (virtio 2.7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The descriptor table.
    Descriptors,
    /// The available ring.
    Available,
    /// The used ring.
    Used,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Descriptors => "descriptor table",
            Self::Available => "available ring",
            Self::Used => "used ring",
        })
    }
}

/// Why a queue can not be set up as it was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum SetupError {
    /// Not a power of two of at most 32768 (virtio 2.7).
    #[error("queue size {size} is not a power of two of at most 32768")]
    Size {
        /// Descriptors asked for.
        size: u16,
    },
    /// A part's address is not a multiple of what it must be (virtio 2.7).
    #[error("the {part} at {address:#x} is not aligned to {align}")]
    Misaligned {
        /// Which part.
        part: Part,
        /// Its address, as the driver gave it.
        address: u64,
        /// Bytes that it must be a multiple of.
        align: u64,
    },
    /// A part's address is aligned, but this host mapped the memory there at an odd place.
    #[error("the {part} at {address:#x} is mapped at a host address not aligned to {align}")]
    HostMisaligned {
        /// Which part.
        part: Part,
        /// Its address, as the driver gave it.
        address: u64,
        /// Bytes that its place must be a multiple of.
        align: u64,
    },
    /// Some of a part is not memory.
    #[error("the {part} at {address:#x}, {len} bytes, is not all memory")]
    NotMemory {
        /// Which part.
        part: Part,
        /// Its address, as the driver gave it.
        address: u64,
        /// Its length, in bytes.
        len: u64,
    },
    /// A part begins in one region of memory and ends in another that is mapped elsewhere.
    #[error("the {part} at {address:#x}, {len} bytes, straddles two regions of memory")]
    Straddles {
        /// Which part.
        part: Part,
        /// Its address, as the driver gave it.
        address: u64,
        /// Its length, in bytes.
        len: u64,
    },
}

/// How a driver broke its ring. One of these retires the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum RingError {
    /// More chains made available than the ring has room for.
    #[error("available index jumped by {by} in a ring of {size}")]
    AvailableIndexJump {
        /// How far ahead of us the index is.
        by: u16,
        /// Descriptors in the ring.
        size: u16,
    },
    /// A chain that begins outside the table.
    #[error("head {head} in a ring of {size}")]
    HeadOutOfRange {
        /// The number in the available ring.
        head: u16,
        /// Descriptors in the ring.
        size: u16,
    },
    /// A head made available again before its first use was answered.
    #[error("head {head} made available while it is in flight")]
    HeadInFlight {
        /// The number in the available ring.
        head: u16,
    },
    /// `next` points outside its table.
    #[error("next descriptor {next} in a table of {entries}")]
    DescriptorOutOfRange {
        /// Where the chain was to go on.
        next: u16,
        /// Descriptors in the table, direct or indirect.
        entries: u32,
    },
    /// The chain has more descriptors than a chain may: it has a loop, or ignores the queue size
    /// (virtio 2.7.5.3.1).
    #[error("a chain of more than {limit} descriptors: a loop, or too long")]
    ChainTooLong {
        /// The most descriptors that we follow.
        limit: u16,
    },
    /// An indirect descriptor without `VIRTIO_F_INDIRECT_DESC` (virtio 2.7.5.3.1).
    #[error("indirect descriptor, but the feature was not negotiated")]
    IndirectNotNegotiated,
    /// An indirect descriptor in an indirect table (virtio 2.7.5.3.1).
    #[error("indirect descriptor inside an indirect table")]
    IndirectNested,
    /// An indirect descriptor that says the chain goes on after it (virtio 2.7.5.3.1).
    #[error("indirect descriptor with the NEXT flag")]
    IndirectWithNext,
    /// An indirect table that is empty or not a whole number of descriptors.
    #[error("indirect table of {len} bytes")]
    IndirectLength {
        /// Its length, in bytes.
        len: u32,
    },
    /// A buffer to read after one to write (virtio 2.7.4.2).
    #[error("device-readable descriptor after a device-writable one")]
    ReadableAfterWritable,
    /// A buffer or an indirect table outside memory.
    #[error("{len} bytes at {address:#x} are not all memory")]
    NotMemory {
        /// As the driver gave it.
        address: u64,
        /// Bytes.
        len: u32,
    },
    /// The buffers of one chain are 2^32 bytes or more (virtio 2.7.5.2).
    #[error("a chain of 2^32 bytes or more")]
    TooLong,
    /// The chains in flight scatter over so many pieces of memory that keeping track of them would cost
    /// too much memory of ours.
    #[error("chains in flight of more than {limit} pieces")]
    TooManyPieces {
        /// The most pieces that we keep track of for one queue.
        limit: u32,
    },
}

/// Why a driver's chain was not added. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum AddError {
    /// Too few free descriptors now; some come back as the device answers.
    #[error("no free descriptors")]
    Full,
    /// More descriptors than a chain in this queue may have, or 2^32 bytes or more.
    #[error("a chain of too many descriptors or bytes")]
    TooLong,
    /// No buffer at all.
    #[error("a chain without buffers")]
    Empty,
    /// The device lied before; the queue is of no more use.
    #[error("the queue is broken: {0}")]
    Broken(#[source] DeviceLie),
}

/// How a device broke a ring. One of these retires the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum DeviceLie {
    /// More answers than there are chains to answer.
    #[error("used index jumped by {by} with {in_flight} chains in flight")]
    UsedIndexJump {
        /// How far ahead of us the index is.
        by: u16,
        /// Chains that were published and not answered.
        in_flight: u16,
    },
    /// An answer to no descriptor of this ring.
    #[error("used element for descriptor {id} in a ring of {size}")]
    IdOutOfRange {
        /// The number in the used element.
        id: u32,
        /// Descriptors in the ring.
        size: u16,
    },
    /// An answer to a chain that the device does not have: never given, or answered before.
    #[error("used element for descriptor {id}, which is not the head of a chain in flight")]
    NotInFlight {
        /// The number in the used element.
        id: u16,
    },
    /// More bytes said to be written than there were to write.
    #[error("{len} bytes written to descriptor {id}, which has room for {writable}")]
    LenTooLong {
        /// The head of the chain.
        id: u16,
        /// What the device said, in bytes.
        len: u32,
        /// Writable bytes in the chain.
        writable: u32,
    },
}
