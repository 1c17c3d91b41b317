//! What can go wrong on the way to a device.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::vhost_user::{ChannelError, FrontendRequest, ProtocolFeatures};

/// What can go wrong on the way to a device.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody is at the other end of the path.
    #[error("no server listens on {}", path.display())]
    NoServer {
        /// The path of the socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is something at the path, but no way to connect to it.
    #[error("can not connect to {}", path.display())]
    Connect {
        /// The path of the socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A part of ours, memory or an eventfd, could not be made.
    #[error("can not make {what}")]
    Local {
        /// What it is.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The device can not be driven without this part of the protocol.
    #[error("the server does not offer the protocol feature {0:?}")]
    Lacking(ProtocolFeatures),
    /// The server does not answer.
    #[error(
        "the server has not answered {request} for {milliseconds} ms; it may be busy with another \
         frontend"
    )]
    Unanswered {
        /// What it was asked.
        request: FrontendRequest,
        /// How long it was waited for.
        milliseconds: u128,
    },
    /// The server closed the connection instead of answering.
    #[error("the server closed the connection at {request}")]
    HungUp {
        /// What it was asked.
        request: FrontendRequest,
    },
    /// Messages can not be exchanged any more.
    #[error("{request} failed")]
    Channel {
        /// What was asked.
        request: FrontendRequest,
        /// What broke.
        source: ChannelError,
    },
    /// The server answered that it could not do it.
    #[error("the server refused {request}")]
    Refused {
        /// What it was asked.
        request: FrontendRequest,
    },
    /// The server answered with something that is no answer.
    #[error("the server broke the protocol at {request}: {violation}")]
    Violation {
        /// What it was asked.
        request: FrontendRequest,
        /// What it did.
        violation: Violation,
    },
    /// The device is gone: the server closed the connection.
    #[error("the device is gone: the server closed the connection")]
    Gone,
    /// The server sent a message that nobody asked for.
    #[error("the server sent a message that nobody asked for")]
    Unasked,
    /// The device has been silent for too long.
    #[error("nothing from the device on queue {queue} for {milliseconds} ms")]
    Silent {
        /// The queue.
        queue: u16,
        /// How long it was waited for.
        milliseconds: u32,
    },
    /// The server says that a queue is broken.
    #[error("the server says that queue {queue} is broken")]
    QueueBroken {
        /// The queue.
        queue: u16,
    },
    /// Waiting for the device, or notifying it, failed.
    #[error("can not {what}")]
    Notification {
        /// What failed.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A queue that is not there or not set up.
    #[error("there is no queue {queue}")]
    NoQueue {
        /// The queue.
        queue: u16,
    },
    /// A queue that is larger than the transport allows, or not a power of two.
    #[error("queue {queue} can not have {size} descriptors")]
    QueueSize {
        /// The queue.
        queue: u16,
        /// Descriptors.
        size: u16,
    },
    /// Part of a queue is outside of the memory that is shared.
    #[error("queue {queue} is not in the memory that is shared with the device")]
    QueueMemory {
        /// The queue.
        queue: u16,
    },
    /// More configuration space than the device has.
    #[error("configuration space has {len} bytes; {wanted} from {offset} on are not there")]
    ConfigRange {
        /// The first byte that was wanted.
        offset: u32,
        /// How many bytes were wanted.
        wanted: usize,
        /// Bytes that there are.
        len: u32,
    },
}

/// What makes an answer none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Violation {
    /// A message that is not an answer.
    #[error("a message that is not an answer")]
    NotAReply,
    /// An answer to something else.
    #[error("an answer to {0}")]
    OtherRequest(FrontendRequest),
    /// An answer of the wrong size.
    #[error("an answer of {got} bytes where {expected} were expected")]
    Size {
        /// Bytes that the answer has.
        expected: usize,
        /// Bytes that came.
        got: usize,
    },
}
