//! From bytes and file descriptors to messages that can not be wrong.

use core::fmt;
use core::mem::size_of;
use std::os::fd::OwnedFd;

use thiserror::Error;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};
use zvb_wire::{DeviceStatus, Features};

use super::message::{
    BackendRequest, ConfigFlags, ConfigHeader, FrontendRequest, Inflight, MAX_CONFIG_BYTES,
    MAX_TABLE_REGIONS, MemoryRegion, MemoryTableHeader, ProtocolFeatures, SingleRegion,
    VringAddress, VringState,
};

/// A request of a front end, understood. Its lengths and its file descriptors are right; whether its
/// queue exists, its addresses are memory and its features were offered is for the back end to say.
#[derive(Debug)]
pub enum FrontendMessage {
    /// Answer with the virtio features.
    GetFeatures,
    /// The virtio features that are accepted.
    SetFeatures(Features),
    /// A session begins.
    SetOwner,
    /// Obsolete; to be ignored.
    ResetOwner,
    /// All memory regions, in place of those before.
    SetMemTable(Vec<(MemoryRegion, OwnedFd)>),
    /// A queue has `size` descriptors.
    SetVringNum {
        /// The queue.
        index: u32,
        /// Descriptors.
        size: u32,
    },
    /// Where a queue's parts are.
    SetVringAddr(VringAddress),
    /// A queue goes on at `base`.
    SetVringBase {
        /// The queue.
        index: u32,
        /// The available index; in a packed queue, both indices and their wrap counters.
        base: u32,
    },
    /// Stop a queue; answer with a [`VringState`] that says where it stopped.
    GetVringBase {
        /// The queue.
        index: u32,
    },
    /// What says that a queue has new buffers.
    SetVringKick(VringFile),
    /// What to signal when buffers have been used.
    SetVringCall(VringFile),
    /// What to signal when a queue is broken.
    SetVringErr(VringFile),
    /// Answer with the protocol features.
    GetProtocolFeatures,
    /// The protocol features that are accepted.
    SetProtocolFeatures(ProtocolFeatures),
    /// Answer with the number of queues.
    GetQueueNum,
    /// Enable or disable a queue.
    SetVringEnable {
        /// The queue.
        index: u32,
        /// Enable it?
        enabled: bool,
    },
    /// The socket for requests of the back end.
    SetBackendReqFd(OwnedFd),
    /// Answer with a [`ConfigHeader`] like this one, and `size` bytes; or, where that can not be, with
    /// neither.
    GetConfig {
        /// The first byte of configuration space.
        offset: u32,
        /// Bytes; at most [`MAX_CONFIG_BYTES`].
        size: u32,
        /// Why.
        flags: ConfigFlags,
    },
    /// Write configuration space.
    SetConfig {
        /// The first byte of configuration space.
        offset: u32,
        /// Why.
        flags: ConfigFlags,
        /// The bytes; at most [`MAX_CONFIG_BYTES`].
        data: Vec<u8>,
    },
    /// Answer with a new buffer that tracks I/O in flight. What counts in the request is the number and
    /// the size of the queues.
    GetInflightFd(Inflight),
    /// The buffer that tracks I/O in flight.
    SetInflightFd(Inflight, OwnedFd),
    /// Back to the beginning.
    ResetDevice,
    /// A queue has new buffers.
    VringKick {
        /// The queue.
        index: u32,
    },
    /// Answer with the number of memory regions that there can be.
    GetMaxMemSlots,
    /// One more memory region.
    AddMemReg(MemoryRegion, OwnedFd),
    /// One memory region less: that with the same addresses and size.
    RemMemReg(MemoryRegion),
    /// The virtio device status.
    SetStatus(DeviceStatus),
    /// Answer with the virtio device status.
    GetStatus,
    /// A request that is unknown, or that no block device has a use for. What came with it is dropped.
    Unsupported(FrontendRequest),
}

/// A request of a back end, understood.
#[derive(Debug)]
pub enum BackendMessage {
    /// Configuration space has changed.
    ConfigChange,
    /// A queue has used buffers.
    VringCall {
        /// The queue.
        index: u32,
    },
    /// A queue is broken.
    VringErr {
        /// The queue.
        index: u32,
    },
    /// A request that is unknown, or of no use to a driver. What came with it is dropped.
    Unsupported(BackendRequest),
}

/// A queue and what signals it.
#[derive(Debug)]
pub struct VringFile {
    /// The queue.
    pub index: u8,
    /// An eventfd or a pipe; `None` when the queue is to be polled.
    pub file: Option<OwnedFd>,
}

/// A message that is not what its request says. The stream is in step: the next message can be
/// received.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("{request}: {fault}")]
pub struct DecodeError {
    /// The request.
    pub request: Request,
    /// What is wrong with it.
    pub fault: DecodeFault,
}

/// A request of either side, for an error to name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// A front end's.
    Frontend(FrontendRequest),
    /// A back end's.
    Backend(BackendRequest),
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frontend(request) => request.fmt(f),
            Self::Backend(request) => request.fmt(f),
        }
    }
}

/// What is wrong with a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum DecodeFault {
    /// An answer where a request was expected.
    #[error("an answer where a request was expected")]
    Reply,
    /// The payload is too short.
    #[error("truncated: {got} bytes of payload where {expected} were expected")]
    Truncated {
        /// Bytes that the request has.
        expected: u32,
        /// Bytes that came.
        got: u32,
    },
    /// The payload is too long.
    #[error("{got} bytes of payload where {expected} were expected")]
    Trailing {
        /// Bytes that the request has.
        expected: u32,
        /// Bytes that came.
        got: u32,
    },
    /// Fewer file descriptors than the request has.
    #[error("{got} file descriptors where {expected} were expected: one is missing")]
    MissingFd {
        /// File descriptors that the request has.
        expected: u32,
        /// File descriptors that came.
        got: u32,
    },
    /// More file descriptors than the request has.
    #[error("{got} file descriptors where {expected} were expected: too many")]
    TooManyFds {
        /// File descriptors that the request has.
        expected: u32,
        /// File descriptors that came.
        got: u32,
    },
    /// More memory regions than are ever taken.
    #[error("{count} memory regions; at most {MAX_TABLE_REGIONS} are taken")]
    TooManyRegions {
        /// Regions that were announced.
        count: u32,
    },
    /// More configuration space than is ever accessed.
    #[error("{size} bytes of configuration space; at most {MAX_CONFIG_BYTES} are taken")]
    ConfigSize {
        /// Bytes that were announced.
        size: u32,
    },
    /// A number with bits that have no meaning here.
    #[error("the value {value:#x} is not one that this request has")]
    Value {
        /// The number.
        value: u64,
    },
}

impl FrontendMessage {
    /// Understands a request with its `payload` and the file descriptors that came with it. Those that
    /// the message does not carry on are closed.
    pub fn decode(
        request: FrontendRequest,
        payload: &[u8],
        fds: Vec<OwnedFd>,
    ) -> Result<Self, DecodeError> {
        let mut body = Body { payload, fds };
        Self::decode_body(request, &mut body)
            .map_err(|fault| DecodeError { request: Request::Frontend(request), fault })
    }

    fn decode_body(request: FrontendRequest, body: &mut Body<'_>) -> Result<Self, DecodeFault> {
        use FrontendRequest as R;
        Ok(match request {
            R::GET_FEATURES => body.empty(Self::GetFeatures)?,
            R::SET_FEATURES => Self::SetFeatures(Features::from_bits_retain(body.number()?)),
            R::SET_OWNER => body.empty(Self::SetOwner)?,
            R::RESET_OWNER => body.empty(Self::ResetOwner)?,
            R::SET_MEM_TABLE => Self::SetMemTable(body.memory_table()?),
            R::SET_VRING_NUM => {
                let (index, size) = body.state()?;
                Self::SetVringNum { index, size }
            }
            R::SET_VRING_ADDR => Self::SetVringAddr(body.just::<VringAddress>()?),
            R::SET_VRING_BASE => {
                let (index, base) = body.state()?;
                Self::SetVringBase { index, base }
            }
            // The number is reserved, and some front ends leave in it what was there.
            R::GET_VRING_BASE => Self::GetVringBase { index: body.state()?.0 },
            R::SET_VRING_KICK => Self::SetVringKick(body.vring_file()?),
            R::SET_VRING_CALL => Self::SetVringCall(body.vring_file()?),
            R::SET_VRING_ERR => Self::SetVringErr(body.vring_file()?),
            R::GET_PROTOCOL_FEATURES => body.empty(Self::GetProtocolFeatures)?,
            R::SET_PROTOCOL_FEATURES => {
                Self::SetProtocolFeatures(ProtocolFeatures::from_bits_retain(body.number()?))
            }
            R::GET_QUEUE_NUM => body.empty(Self::GetQueueNum)?,
            R::SET_VRING_ENABLE => match body.state()? {
                (index, num @ (0 | 1)) => Self::SetVringEnable { index, enabled: num == 1 },
                (_, num) => return Err(DecodeFault::Value { value: num.into() }),
            },
            R::SET_BACKEND_REQ_FD => {
                body.no_payload()?;
                Self::SetBackendReqFd(body.one_fd()?)
            }
            R::GET_CONFIG => body.get_config()?,
            R::SET_CONFIG => body.set_config()?,
            R::GET_INFLIGHT_FD => {
                let inflight = body.inflight()?;
                body.no_fds()?;
                Self::GetInflightFd(inflight)
            }
            R::SET_INFLIGHT_FD => Self::SetInflightFd(body.inflight()?, body.one_fd()?),
            R::RESET_DEVICE => body.empty(Self::ResetDevice)?,
            R::VRING_KICK => Self::VringKick { index: body.state()?.0 },
            R::GET_MAX_MEM_SLOTS => body.empty(Self::GetMaxMemSlots)?,
            R::ADD_MEM_REG => Self::AddMemReg(body.exact::<SingleRegion>()?.region, body.one_fd()?),
            // A file descriptor is not expected here, and yet some send one.
            R::REM_MEM_REG => {
                let region = body.exact::<SingleRegion>()?.region;
                body.at_most_fds(1)?;
                Self::RemMemReg(region)
            }
            R::SET_STATUS => {
                let value = body.number()?;
                let bits = u8::try_from(value).map_err(|_| DecodeFault::Value { value })?;
                Self::SetStatus(DeviceStatus::from_bits_retain(bits))
            }
            R::GET_STATUS => body.empty(Self::GetStatus)?,
            other => Self::Unsupported(other),
        })
    }
}

impl BackendMessage {
    /// Understands a request with its `payload` and the file descriptors that came with it. Those that
    /// the message does not carry on are closed.
    pub fn decode(
        request: BackendRequest,
        payload: &[u8],
        fds: Vec<OwnedFd>,
    ) -> Result<Self, DecodeError> {
        let body = Body { payload, fds };
        match request {
            BackendRequest::CONFIG_CHANGE => body.empty(Self::ConfigChange),
            BackendRequest::VRING_CALL => body.state().map(|(index, _)| Self::VringCall { index }),
            BackendRequest::VRING_ERR => body.state().map(|(index, _)| Self::VringErr { index }),
            other => Ok(Self::Unsupported(other)),
        }
        .map_err(|fault| DecodeError { request: Request::Backend(request), fault })
    }
}

/// What came after the header.
struct Body<'a> {
    payload: &'a [u8],
    fds: Vec<OwnedFd>,
}

impl Body<'_> {
    /// No payload, no file descriptors.
    fn empty<T>(&self, message: T) -> Result<T, DecodeFault> {
        self.no_payload()?;
        self.no_fds()?;
        Ok(message)
    }

    fn no_payload(&self) -> Result<(), DecodeFault> {
        self.length(0)
    }

    fn length(&self, expected: usize) -> Result<(), DecodeFault> {
        let (expected, got) = (count(expected), count(self.payload.len()));
        match got.cmp(&expected) {
            core::cmp::Ordering::Less => Err(DecodeFault::Truncated { expected, got }),
            core::cmp::Ordering::Equal => Ok(()),
            core::cmp::Ordering::Greater => Err(DecodeFault::Trailing { expected, got }),
        }
    }

    fn no_fds(&self) -> Result<(), DecodeFault> {
        self.at_most_fds(0)
    }

    fn at_most_fds(&self, expected: usize) -> Result<(), DecodeFault> {
        let (expected, got) = (count(expected), count(self.fds.len()));
        if got > expected { Err(DecodeFault::TooManyFds { expected, got }) } else { Ok(()) }
    }

    fn one_fd(&mut self) -> Result<OwnedFd, DecodeFault> {
        self.at_most_fds(1)?;
        self.fds.pop().ok_or(DecodeFault::MissingFd { expected: 1, got: 0 })
    }

    /// The first bytes of the payload, and the rest.
    fn first<T>(&self) -> Result<(T, &[u8]), DecodeFault>
    where
        T: FromBytes + KnownLayout + Immutable + Unaligned,
    {
        T::read_from_prefix(self.payload).map_err(|_| DecodeFault::Truncated {
            expected: count(size_of::<T>()),
            got: count(self.payload.len()),
        })
    }

    /// The whole payload.
    fn exact<T>(&self) -> Result<T, DecodeFault>
    where
        T: FromBytes + KnownLayout + Immutable + Unaligned,
    {
        self.length(size_of::<T>())?;
        Ok(self.first::<T>()?.0)
    }

    /// The whole payload, and no file descriptors.
    fn just<T>(&self) -> Result<T, DecodeFault>
    where
        T: FromBytes + KnownLayout + Immutable + Unaligned,
    {
        self.no_fds()?;
        self.exact()
    }

    fn number(&self) -> Result<u64, DecodeFault> {
        Ok(self.just::<U64>()?.get())
    }

    fn state(&self) -> Result<(u32, u32), DecodeFault> {
        let state = self.just::<VringState>()?;
        Ok((state.index.get(), state.num.get()))
    }

    /// Bits 0 to 7 are the queue; bit 8 says that there is no file descriptor.
    fn vring_file(&mut self) -> Result<VringFile, DecodeFault> {
        const NO_FD: u64 = 1 << 8;
        let value = self.exact::<U64>()?.get();
        let index = u8::try_from(value & !NO_FD).map_err(|_| DecodeFault::Value { value })?;
        let file = if value & NO_FD == 0 {
            Some(self.one_fd()?)
        } else {
            self.no_fds()?;
            None
        };
        Ok(VringFile { index, file })
    }

    fn memory_table(&mut self) -> Result<Vec<(MemoryRegion, OwnedFd)>, DecodeFault> {
        let (header, rest) = self.first::<MemoryTableHeader>()?;
        let regions = header.regions.get();
        if regions as usize > MAX_TABLE_REGIONS {
            return Err(DecodeFault::TooManyRegions { count: regions });
        }
        let bytes = regions as usize * size_of::<MemoryRegion>();
        // Some front ends send a table of fixed size: User-Mode Linux always has room for two regions.
        let room = rest.len().saturating_sub(bytes);
        if rest.len() < bytes || room % size_of::<MemoryRegion>() != 0 {
            self.length(size_of::<MemoryTableHeader>() + bytes)?;
        }
        self.at_most_fds(regions as usize)?;
        let got = count(self.fds.len());
        if got < regions {
            return Err(DecodeFault::MissingFd { expected: regions, got });
        }
        let regions: Vec<MemoryRegion> = rest
            .chunks_exact(size_of::<MemoryRegion>())
            .filter_map(|bytes| MemoryRegion::read_from_bytes(bytes).ok())
            .collect();
        Ok(regions.into_iter().zip(core::mem::take(&mut self.fds)).collect())
    }

    fn config(&self) -> Result<(ConfigHeader, &[u8]), DecodeFault> {
        self.no_fds()?;
        let (header, rest) = self.first::<ConfigHeader>()?;
        if header.size.get() > MAX_CONFIG_BYTES {
            return Err(DecodeFault::ConfigSize { size: header.size.get() });
        }
        Ok((header, rest))
    }

    fn get_config(&self) -> Result<FrontendMessage, DecodeFault> {
        let (header, rest) = self.config()?;
        let (offset, size) = (header.offset.get(), header.size.get());
        // The bytes that are asked for are sent along, as room for the answer, by most front ends.
        if !rest.is_empty() {
            self.length(size_of::<ConfigHeader>() + size as usize)?;
        }
        let flags = ConfigFlags::from_bits_retain(header.flags.get());
        Ok(FrontendMessage::GetConfig { offset, size, flags })
    }

    fn set_config(&self) -> Result<FrontendMessage, DecodeFault> {
        let (header, data) = self.config()?;
        self.length(size_of::<ConfigHeader>() + header.size.get() as usize)?;
        Ok(FrontendMessage::SetConfig {
            offset: header.offset.get(),
            flags: ConfigFlags::from_bits_retain(header.flags.get()),
            data: data.to_vec(),
        })
    }

    fn inflight(&self) -> Result<Inflight, DecodeFault> {
        if self.payload.len() != Inflight::SHORT_BYTES {
            return self.exact();
        }
        let mut padded = [0; size_of::<Inflight>()];
        for (to, from) in padded.iter_mut().zip(self.payload) {
            *to = *from;
        }
        Ok(zerocopy::transmute!(padded))
    }
}

/// Payloads and lists of file descriptors are far shorter than 4 GiB.
fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
