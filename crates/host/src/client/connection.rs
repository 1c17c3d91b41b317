//! One question at a time, and its answer.

use core::mem::size_of;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{RecvFlags, recv};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::error::{ClientError, Violation};
use crate::vhost_user::{
    Channel, ChannelError, Frame, FrontendRequest, Patience, ProtocolFeatures, Received, VringState,
};

/// The socket to the server, and how to talk over it.
#[derive(Debug)]
pub(super) struct Connection {
    channel: Channel,
    timeout: Duration,
    /// What was agreed on.
    features: ProtocolFeatures,
}

impl Connection {
    pub(super) fn new(socket: UnixStream, timeout: Duration) -> Self {
        Self { channel: Channel::new(socket), timeout, features: ProtocolFeatures::empty() }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    pub(super) fn features(&self) -> ProtocolFeatures {
        self.features
    }

    /// Accepts `features`, which were offered.
    pub(super) fn accept(&mut self, features: ProtocolFeatures) -> Result<(), ClientError> {
        let payload = U64::new(features.bits());
        self.command(FrontendRequest::SET_PROTOCOL_FEATURES, payload.as_bytes(), &[])?;
        self.features = features;
        Ok(())
    }

    /// Asks for something that has no answer of its own. With REPLY_ACK it was done when this returns;
    /// without, it will have been done before whatever is asked next.
    pub(super) fn command(
        &self,
        request: FrontendRequest,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), ClientError> {
        let need_reply = self.features.contains(ProtocolFeatures::REPLY_ACK);
        self.send(request, need_reply, payload, fds)?;
        if !need_reply {
            return Ok(());
        }
        match fixed::<U64>(request, &self.answer(request)?)?.get() {
            0 => Ok(()),
            _ => Err(ClientError::Refused { request }),
        }
    }

    /// A command about queue `index`.
    pub(super) fn vring_command(
        &self,
        request: FrontendRequest,
        index: u16,
        num: u32,
    ) -> Result<(), ClientError> {
        let state = VringState { index: U32::new(index.into()), num: U32::new(num) };
        self.command(request, state.as_bytes(), &[])
    }

    /// Asks for something that is answered with a `T`.
    pub(super) fn ask<T>(&self, request: FrontendRequest, payload: &[u8]) -> Result<T, ClientError>
    where
        T: FromBytes + KnownLayout + Immutable + Unaligned,
    {
        fixed(request, &self.ask_frame(request, payload)?)
    }

    /// Asks for a number.
    pub(super) fn ask_number(&self, request: FrontendRequest) -> Result<u64, ClientError> {
        Ok(self.ask::<U64>(request, &[])?.get())
    }

    /// Asks for something whose answer may have several lengths.
    pub(super) fn ask_frame(
        &self,
        request: FrontendRequest,
        payload: &[u8],
    ) -> Result<Frame, ClientError> {
        self.send(request, false, payload, &[])?;
        self.answer(request)
    }

    /// Returns when everything that was asked for has been done.
    pub(super) fn barrier(&self) -> Result<(), ClientError> {
        if !self.features.contains(ProtocolFeatures::REPLY_ACK) {
            self.ask_number(FrontendRequest::GET_FEATURES)?;
        }
        Ok(())
    }

    /// Called when the socket is readable and nothing was asked: why it is.
    pub(super) fn unasked(&self) -> ClientError {
        let mut byte = [0; 1];
        match recv(&self.channel, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((_, 1..)) => ClientError::Unasked,
            _ => ClientError::Gone,
        }
    }

    fn patience(&self) -> Patience<'static> {
        Patience { stop: None, timeout: Some(self.timeout) }
    }

    fn send(
        &self,
        request: FrontendRequest,
        need_reply: bool,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), ClientError> {
        self.channel
            .send_request(request.0, need_reply, payload, fds, &self.patience())
            .map_err(|error| self.explain(request, error))
    }

    /// The next message, which must be the answer to `request`.
    fn answer(&self, request: FrontendRequest) -> Result<Frame, ClientError> {
        let frame = match self.channel.receive(&self.patience()) {
            Ok(Received::Frame(frame)) => frame,
            // Nothing stops a client.
            Ok(Received::End | Received::Stopped) => return Err(ClientError::HungUp { request }),
            Err(error) => return Err(self.explain(request, error)),
        };
        let answered = FrontendRequest(frame.header.request.get());
        if !frame.header.is_reply() {
            return Err(ClientError::Violation { request, violation: Violation::NotAReply });
        }
        if answered != request {
            let violation = Violation::OtherRequest(answered);
            return Err(ClientError::Violation { request, violation });
        }
        Ok(frame)
    }

    fn explain(&self, request: FrontendRequest, error: ChannelError) -> ClientError {
        match error {
            ChannelError::TimedOut => {
                ClientError::Unanswered { request, milliseconds: self.timeout.as_millis() }
            }
            ChannelError::Cut | ChannelError::Gone => ClientError::HungUp { request },
            source => ClientError::Channel { request, source },
        }
    }
}

/// The whole payload of an answer.
fn fixed<T>(request: FrontendRequest, frame: &Frame) -> Result<T, ClientError>
where
    T: FromBytes + KnownLayout + Immutable + Unaligned,
{
    T::read_from_bytes(&frame.payload).map_err(|_| {
        let violation = Violation::Size { expected: size_of::<T>(), got: frame.payload.len() };
        ClientError::Violation { request, violation }
    })
}
