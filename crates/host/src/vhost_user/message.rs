//! The shapes and the numbers of vhost-user: request codes, the header, payloads, protocol features.

use core::fmt;
use core::mem::{offset_of, size_of};

use bitflags::bitflags;
use thiserror::Error;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The longest payload that is sent or taken, in bytes. The longest that a block device needs is a table
/// of [`MAX_TABLE_REGIONS`] memory regions, 1032 bytes.
pub const MAX_PAYLOAD_BYTES: u32 = 4096;

/// The most file descriptors that come with one message: one for each region of a memory table.
pub const MAX_FDS: usize = MAX_TABLE_REGIONS;

/// The most regions in one SET_MEM_TABLE. The protocol speaks of 8; some front ends send up to 32.
pub const MAX_TABLE_REGIONS: usize = 32;

/// The most configuration space that GET_CONFIG and SET_CONFIG carry, in bytes.
pub const MAX_CONFIG_BYTES: u32 = 256;

/// Defines an open set of request codes: a code that has no name is kept as it came.
macro_rules! request_codes {
    ($(#[$doc:meta])* $type:ident { $($(#[$code_doc:meta])* $name:ident = $code:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $type(pub u32);

        impl $type {
            $($(#[$code_doc])* pub const $name: Self = Self($code);)*

            /// The name in the protocol's text, without its prefix; `None` when it has none.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($code => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, "request {}", self.0),
                }
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self} ({})", self.0)
            }
        }
    };
}

request_codes! {
    /// What a front end asks of a back end.
    FrontendRequest {
        /// Which virtio features are offered? Answered with a u64.
        GET_FEATURES = 1,
        /// The virtio features that are accepted: a u64.
        SET_FEATURES = 2,
        /// A session begins.
        SET_OWNER = 3,
        /// Obsolete.
        RESET_OWNER = 4,
        /// All memory regions at once, a file descriptor each.
        SET_MEM_TABLE = 5,
        /// Where to log dirty pages.
        SET_LOG_BASE = 6,
        /// What to signal when the log of dirty pages has changed.
        SET_LOG_FD = 7,
        /// How many descriptors a queue has: a [`VringState`].
        SET_VRING_NUM = 8,
        /// Where a queue's parts are: a [`VringAddress`].
        SET_VRING_ADDR = 9,
        /// The next available index that a queue will process: a [`VringState`].
        SET_VRING_BASE = 10,
        /// Stop a queue. Answered with a [`VringState`]: the next index it would have processed.
        GET_VRING_BASE = 11,
        /// What the front end signals when a queue has new buffers.
        SET_VRING_KICK = 12,
        /// What the back end signals when it has used buffers.
        SET_VRING_CALL = 13,
        /// What the back end signals when a queue is broken.
        SET_VRING_ERR = 14,
        /// Which [`ProtocolFeatures`] are offered? Answered with a u64.
        GET_PROTOCOL_FEATURES = 15,
        /// The [`ProtocolFeatures`] that are accepted: a u64.
        SET_PROTOCOL_FEATURES = 16,
        /// How many queues are there? Answered with a u64.
        GET_QUEUE_NUM = 17,
        /// Enable or disable a queue: a [`VringState`].
        SET_VRING_ENABLE = 18,
        /// For network devices.
        SEND_RARP = 19,
        /// For network devices.
        NET_SET_MTU = 20,
        /// The socket for requests of the back end.
        SET_BACKEND_REQ_FD = 21,
        /// A change of address translations.
        IOTLB_MSG = 22,
        /// For legacy devices.
        SET_VRING_ENDIAN = 23,
        /// Read configuration space. Answered with the same, and the bytes.
        GET_CONFIG = 24,
        /// Write configuration space.
        SET_CONFIG = 25,
        /// For crypto devices.
        CREATE_CRYPTO_SESSION = 26,
        /// For crypto devices.
        CLOSE_CRYPTO_SESSION = 27,
        /// For migration.
        POSTCOPY_ADVISE = 28,
        /// For migration.
        POSTCOPY_LISTEN = 29,
        /// For migration.
        POSTCOPY_END = 30,
        /// Make a buffer that tracks I/O in flight. Answered with an [`Inflight`] and a file descriptor.
        GET_INFLIGHT_FD = 31,
        /// The buffer that tracks I/O in flight: an [`Inflight`] and a file descriptor.
        SET_INFLIGHT_FD = 32,
        /// For display devices.
        GPU_SET_SOCKET = 33,
        /// Back to the beginning, with the session and its memory kept.
        RESET_DEVICE = 34,
        /// A queue has new buffers, said in-band: a [`VringState`].
        VRING_KICK = 35,
        /// How many memory regions can there be? Answered with a u64.
        GET_MAX_MEM_SLOTS = 36,
        /// One more memory region: a [`SingleRegion`] and a file descriptor.
        ADD_MEM_REG = 37,
        /// One memory region less: a [`SingleRegion`].
        REM_MEM_REG = 38,
        /// The virtio device status: a u64.
        SET_STATUS = 39,
        /// What is the virtio device status? Answered with a u64.
        GET_STATUS = 40,
        /// A buffer that is shared between devices.
        GET_SHARED_OBJECT = 41,
        /// For migration.
        SET_DEVICE_STATE_FD = 42,
        /// For migration.
        CHECK_DEVICE_STATE = 43,
        /// Which windows of shared memory are there?
        GET_SHMEM_CONFIG = 44,
    }
}

impl FrontendRequest {
    /// True when the protocol has an answer of its own for this request, so that none is sent because of
    /// [`Header::needs_reply`].
    pub const fn has_own_reply(self) -> bool {
        matches!(
            self,
            Self::GET_FEATURES
                | Self::GET_VRING_BASE
                | Self::GET_PROTOCOL_FEATURES
                | Self::GET_QUEUE_NUM
                | Self::GET_CONFIG
                | Self::CREATE_CRYPTO_SESSION
                | Self::POSTCOPY_ADVISE
                | Self::POSTCOPY_END
                | Self::GET_INFLIGHT_FD
                | Self::GET_MAX_MEM_SLOTS
                | Self::GET_STATUS
                | Self::GET_SHARED_OBJECT
                | Self::SET_DEVICE_STATE_FD
                | Self::CHECK_DEVICE_STATE
                | Self::GET_SHMEM_CONFIG
        )
    }
}

request_codes! {
    /// What a back end asks of a front end, over the socket that SET_BACKEND_REQ_FD gave it.
    BackendRequest {
        /// An address has no translation.
        IOTLB_MSG = 1,
        /// Configuration space has changed.
        CONFIG_CHANGE = 2,
        /// A page that the guest may write to instead of exiting.
        VRING_HOST_NOTIFIER = 3,
        /// A queue has used buffers, said in-band: a [`VringState`].
        VRING_CALL = 4,
        /// A queue is broken, said in-band: a [`VringState`].
        VRING_ERR = 5,
        /// A buffer that is shared between devices.
        SHARED_OBJECT_ADD = 6,
        /// A buffer that is shared between devices.
        SHARED_OBJECT_REMOVE = 7,
        /// A buffer that is shared between devices.
        SHARED_OBJECT_LOOKUP = 8,
        /// A file mapped into a window of shared memory.
        SHMEM_MAP = 9,
        /// And unmapped.
        SHMEM_UNMAP = 10,
    }
}

bitflags! {
    /// What a back end and a front end can agree on beyond the basics. Bits of no name are kept as they
    /// came.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct ProtocolFeatures: u64 {
        /// The number of queues can be asked for.
        const MQ = 1 << 0;
        /// The log of dirty pages is shared memory.
        const LOG_SHMFD = 1 << 1;
        /// For network devices.
        const RARP = 1 << 2;
        /// Any request can ask for an answer.
        const REPLY_ACK = 1 << 3;
        /// For network devices.
        const MTU = 1 << 4;
        /// The back end may send requests.
        const BACKEND_REQ = 1 << 5;
        /// For legacy devices.
        const CROSS_ENDIAN = 1 << 6;
        /// For crypto devices.
        const CRYPTO_SESSION = 1 << 7;
        /// For migration.
        const PAGEFAULT = 1 << 8;
        /// Configuration space is the back end's.
        const CONFIG = 1 << 9;
        /// The back end may send file descriptors with its requests.
        const BACKEND_SEND_FD = 1 << 10;
        /// The back end may give the guest a page to notify it with.
        const HOST_NOTIFIER = 1 << 11;
        /// I/O in flight is tracked in memory that outlives the back end.
        const INFLIGHT_SHMFD = 1 << 12;
        /// RESET_DEVICE is understood.
        const RESET_DEVICE = 1 << 13;
        /// Notifications are messages.
        const INBAND_NOTIFICATIONS = 1 << 14;
        /// Memory regions come and go one by one.
        const CONFIGURE_MEM_SLOTS = 1 << 15;
        /// The back end keeps the virtio device status.
        const STATUS = 1 << 16;
        /// Memory is mapped through Xen.
        const XEN_MMAP = 1 << 17;
        /// Buffers are shared between devices.
        const SHARED_OBJECT = 1 << 18;
        /// For migration.
        const DEVICE_STATE = 1 << 19;

        const _ = !0;
    }
}

/// What stands before every message, in both directions: 12 bytes.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Header {
    /// A [`FrontendRequest`] or a [`BackendRequest`].
    pub request: U32,
    /// The version of the protocol (bits 0 and 1), and what this message is.
    pub flags: U32,
    /// Bytes of payload that follow.
    pub size: U32,
}

/// A header that no message of this protocol has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum HeaderError {
    /// Another version of the protocol.
    #[error("version {version} of the protocol where 1 was expected")]
    Version {
        /// The version that came.
        version: u32,
    },
    /// More payload than is ever taken.
    #[error("a payload of {size} bytes; at most {MAX_PAYLOAD_BYTES} are taken")]
    Oversized {
        /// Bytes that were announced.
        size: u32,
    },
}

impl Header {
    /// Bytes on the wire.
    pub const BYTES: usize = size_of::<Self>();

    const VERSION: u32 = 1;
    const VERSION_MASK: u32 = 0b11;
    const REPLY: u32 = 1 << 2;
    const NEED_REPLY: u32 = 1 << 3;

    /// The header of request `code` with `size` bytes of payload; `need_reply` asks for an answer
    /// (REPLY_ACK).
    pub const fn request(code: u32, size: u32, need_reply: bool) -> Self {
        let flags = if need_reply { Self::VERSION | Self::NEED_REPLY } else { Self::VERSION };
        Self { request: U32::new(code), flags: U32::new(flags), size: U32::new(size) }
    }

    /// The header of an answer to request `code` with `size` bytes of payload.
    pub const fn reply(code: u32, size: u32) -> Self {
        Self {
            request: U32::new(code),
            flags: U32::new(Self::VERSION | Self::REPLY),
            size: U32::new(size),
        }
    }

    /// Refuses what can not be received. Reserved flags are let through: they mean nothing yet.
    pub fn check(&self) -> Result<(), HeaderError> {
        let version = self.flags.get() & Self::VERSION_MASK;
        if version != Self::VERSION {
            return Err(HeaderError::Version { version });
        }
        if self.size.get() > MAX_PAYLOAD_BYTES {
            return Err(HeaderError::Oversized { size: self.size.get() });
        }
        Ok(())
    }

    /// True for an answer.
    pub fn is_reply(&self) -> bool {
        self.flags.get() & Self::REPLY != 0
    }

    /// True for a request that wants an answer (REPLY_ACK): a u64, 0 for success.
    pub fn needs_reply(&self) -> bool {
        self.flags.get() & Self::NEED_REPLY != 0
    }
}

/// A queue and a number: what the number is depends on the request.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct VringState {
    /// The queue.
    pub index: U32,
    /// A size, an index or a flag.
    pub num: U32,
}

/// Where the parts of a queue are, in the front end's own addresses ([`MemoryRegion::user_address`]).
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct VringAddress {
    /// The queue.
    pub index: U32,
    /// Bit 0: writes to the used ring are logged.
    pub flags: U32,
    /// The descriptor table.
    pub descriptor: U64,
    /// The used ring. (In this order: used before available.)
    pub used: U64,
    /// The available ring.
    pub available: U64,
    /// Where writes to the used ring are logged.
    pub log: U64,
}

/// A run of guest memory, inside a file.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct MemoryRegion {
    /// Its first address, as descriptors have it.
    pub guest_address: U64,
    /// Bytes.
    pub size: U64,
    /// Its first address, as [`VringAddress`] has it.
    pub user_address: U64,
    /// Where it begins in the file, in bytes.
    pub mmap_offset: U64,
}

/// What stands before the regions of SET_MEM_TABLE.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct MemoryTableHeader {
    /// How many [`MemoryRegion`]s follow.
    pub regions: U32,
    /// Always 0.
    pub padding: U32,
}

/// The payload of ADD_MEM_REG and REM_MEM_REG.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct SingleRegion {
    /// Always 0.
    pub padding: U64,
    /// The region.
    pub region: MemoryRegion,
}

/// What stands before the bytes of GET_CONFIG and SET_CONFIG.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ConfigHeader {
    /// The first byte of configuration space.
    pub offset: U32,
    /// Bytes.
    pub size: U32,
    /// [`ConfigFlags`].
    pub flags: U32,
}

bitflags! {
    /// Why configuration space is accessed.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct ConfigFlags: u32 {
        /// A migration restores it: read-only fields may be written too.
        const MIGRATION = 1 << 0;

        const _ = !0;
    }
}

/// A buffer that tracks I/O in flight. Front ends send it with or without the last field (24 or 20
/// bytes), and want the answer to be as long as the request was.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Inflight {
    /// Bytes.
    pub mmap_size: U64,
    /// Where it begins in the file, in bytes.
    pub mmap_offset: U64,
    /// How many queues.
    pub num_queues: U16,
    /// Descriptors of each.
    pub queue_size: U16,
    /// Nothing: what a C compiler adds.
    pub padding: U32,
}

impl Inflight {
    /// Bytes on the wire without the padding.
    pub const SHORT_BYTES: usize = offset_of!(Self, padding);
}

const _: () = {
    assert!(size_of::<Header>() == 12);
    assert!(size_of::<VringState>() == 8);
    assert!(size_of::<VringAddress>() == 40);
    assert!(offset_of!(VringAddress, descriptor) == 8);
    assert!(offset_of!(VringAddress, used) == 16);
    assert!(offset_of!(VringAddress, available) == 24);
    assert!(offset_of!(VringAddress, log) == 32);
    assert!(size_of::<MemoryRegion>() == 32);
    assert!(offset_of!(MemoryRegion, size) == 8);
    assert!(offset_of!(MemoryRegion, user_address) == 16);
    assert!(offset_of!(MemoryRegion, mmap_offset) == 24);
    assert!(size_of::<MemoryTableHeader>() == 8);
    assert!(size_of::<SingleRegion>() == 40);
    assert!(offset_of!(SingleRegion, region) == 8);
    assert!(size_of::<ConfigHeader>() == 12);
    assert!(size_of::<Inflight>() == 24);
    assert!(Inflight::SHORT_BYTES == 20);
    let table = size_of::<MemoryTableHeader>() + MAX_TABLE_REGIONS * size_of::<MemoryRegion>();
    assert!(table <= MAX_PAYLOAD_BYTES as usize);
    assert!(size_of::<ConfigHeader>() as u32 + MAX_CONFIG_BYTES <= MAX_PAYLOAD_BYTES);
};
