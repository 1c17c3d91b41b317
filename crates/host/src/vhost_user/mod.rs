//! The vhost-user protocol: its messages, and the socket they go over.
//!
//! A *front end* (a VMM, or our own client) shares memory and queues with a *back end* (our server, or
//! another's). Requests go from front end to back end, and, over a second socket that the front end may
//! hand over, the other way. The protocol is described in QEMU's "Vhost-user Protocol".
//!
//! Two kinds of fault are kept apart. After a [`DecodeError`] the stream is still in step: the message
//! was received whole, and can be answered with a failure. After a [`ChannelError`] it is not, and the
//! session is over.

mod channel;
mod decode;
mod message;
#[cfg(test)]
mod tests;

pub use channel::{Channel, ChannelError, Frame, Patience, Received};
pub use decode::{BackendMessage, DecodeError, DecodeFault, FrontendMessage, Request, VringFile};
pub use message::{
    BackendRequest, ConfigFlags, ConfigHeader, FrontendRequest, Header, HeaderError, Inflight,
    MAX_CONFIG_BYTES, MAX_FDS, MAX_PAYLOAD_BYTES, MAX_TABLE_REGIONS, MemoryRegion,
    MemoryTableHeader, ProtocolFeatures, SingleRegion, VringAddress, VringState,
};

// Numbers on this socket are in the byte order of the host. The types here are little-endian ones.
#[cfg(not(target_endian = "little"))]
compile_error!("vhost-user is spoken on little-endian hosts only");
