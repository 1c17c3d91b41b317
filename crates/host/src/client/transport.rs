//! A virtio transport over a vhost-user socket.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};
use zvb_driver::{QueueLayout, Transport};
use zvb_wire::{DeviceStatus, Features};

use super::config;
use super::connection::Connection;
use super::error::ClientError;
use super::memory::SharedMemory;
use super::queue::{QueueEvents, failed};
use super::requests::ServerRequests;
use crate::vhost_user::{
    FrontendRequest, MemoryRegion, MemoryTableHeader, ProtocolFeatures, VringAddress, VringState,
};

/// Queues that vhost-user can tell apart: the index of a queue's file descriptor has eight bits.
const MAX_QUEUES: u64 = 256;

/// What can be chosen about a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// How long the server may take to accept a connection, and to answer a request on the socket (not on
    /// a queue).
    pub reply_timeout: Duration,
    /// The largest queue, in descriptors: a power of two up to 32768. vhost-user can not ask the server;
    /// more than the default of 1024 is for servers that are known to take it.
    pub max_queue_size: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self { reply_timeout: Duration::from_secs(30), max_queue_size: 1024 }
    }
}

/// Connects to `path`. A server that accepts nobody makes who comes wait once its backlog is full.
fn connect(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // No more than connecting is bounded by it: whatever is sent later is sent without waiting.
    let timeout = timeout.max(Duration::from_millis(1));
    set_socket_timeout(&socket, Timeout::Send, Some(timeout))?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) => Ok(socket.into()),
        Err(Errno::AGAIN) => {
            let text = format!("the server has accepted nobody for {} ms", timeout.as_millis());
            Err(io::Error::new(io::ErrorKind::TimedOut, text))
        }
        Err(error) => Err(error.into()),
    }
}

/// A device at the other end of a vhost-user socket.
///
/// Dropping it closes the socket, and the server lets go of queues and memory.
#[derive(Debug)]
pub struct VhostUser {
    connection: Connection,
    memory: SharedMemory,
    options: Options,
    /// What the server offers, VHOST_USER_F_PROTOCOL_FEATURES included.
    offered: Features,
    /// True when that feature was offered and accepted, so that queues must be enabled.
    enables_queues: bool,
    max_queues: u16,
    config_len: u32,
    /// Kept here for servers without the protocol feature STATUS.
    status: DeviceStatus,
    /// True when the server has the memory table of this life of the device.
    memory_given: bool,
    /// By index; `None` where no queue is set up.
    queues: Vec<Option<QueueEvents>>,
    requests: Option<ServerRequests>,
}

impl VhostUser {
    /// Connects to the server that listens on `path`. Queues and buffers will be in `memory`.
    pub fn connect(
        path: &Path,
        memory: SharedMemory,
        options: Options,
    ) -> Result<Self, ClientError> {
        let socket = connect(path, options.reply_timeout).map_err(|source| {
            let path = path.to_owned();
            match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    ClientError::NoServer { path, source }
                }
                _ => ClientError::Connect { path, source },
            }
        })?;
        Self::over(socket, memory, options)
    }

    /// Drives the device at the other end of `socket`.
    pub fn over(
        socket: UnixStream,
        memory: SharedMemory,
        options: Options,
    ) -> Result<Self, ClientError> {
        let mut connection = Connection::new(socket, options.reply_timeout);
        connection.command(FrontendRequest::SET_OWNER, &[], &[])?;
        let offered = connection.ask_number(FrontendRequest::GET_FEATURES)?;
        let offered = Features::from_bits_retain(offered);
        negotiate(&mut connection, offered)?;
        let agreed = connection.features();
        let max_queues = if agreed.contains(ProtocolFeatures::MQ) {
            connection.ask_number(FrontendRequest::GET_QUEUE_NUM)?.min(MAX_QUEUES) as u16
        } else {
            1
        };
        let requests = if agreed.contains(ProtocolFeatures::BACKEND_REQ) {
            Some(ServerRequests::offer(&connection)?)
        } else {
            None
        };
        let config_len = config::find_len(&connection, offered)?;
        Ok(Self {
            connection,
            memory,
            options,
            offered,
            enables_queues: false,
            max_queues,
            config_len,
            status: DeviceStatus::empty(),
            memory_given: false,
            queues: (0..max_queues).map(|_| None).collect(),
            requests,
        })
    }

    /// What was agreed on with the server beyond the basics.
    pub fn protocol_features(&self) -> ProtocolFeatures {
        self.connection.features()
    }

    /// The memory that is shared with the device.
    pub fn memory(&self) -> &SharedMemory {
        &self.memory
    }

    fn queue(&self, index: u16) -> Result<&QueueEvents, ClientError> {
        self.queues
            .get(usize::from(index))
            .and_then(Option::as_ref)
            .ok_or(ClientError::NoQueue { queue: index })
    }

    /// Gives the server the one memory region that there is. The table replaces what was there before,
    /// so that it can be given again whatever the server made of a reset.
    fn give_memory(&mut self) -> Result<(), ClientError> {
        if self.memory_given {
            return Ok(());
        }
        let header = MemoryTableHeader { regions: U32::new(1), padding: U32::ZERO };
        let region = MemoryRegion {
            guest_address: U64::new(SharedMemory::DEVICE_BASE),
            size: U64::new(self.memory.len() as u64),
            user_address: U64::new(self.memory.user_address()),
            mmap_offset: U64::ZERO,
        };
        let table = [header.as_bytes(), region.as_bytes()].concat();
        let fds = [self.memory.file()];
        self.connection.command(FrontendRequest::SET_MEM_TABLE, &table, &fds)?;
        self.memory_given = true;
        Ok(())
    }

    /// Stops queue `index`, and returns when the server does not touch it any more.
    fn stop_queue(&self, index: u16) -> Result<(), ClientError> {
        if self.enables_queues {
            self.connection.vring_command(FrontendRequest::SET_VRING_ENABLE, index, 0)?;
        }
        let state = VringState { index: U32::new(index.into()), num: U32::ZERO };
        self.connection.ask::<VringState>(FrontendRequest::GET_VRING_BASE, state.as_bytes())?;
        Ok(())
    }

    /// Says which eventfds belong to queue `index`. The kick comes last: some servers start the queue
    /// with it, and must know by then whom to call.
    fn give_events(&self, index: u16, events: &QueueEvents) -> Result<(), ClientError> {
        let payload = U64::new(index.into());
        for (request, fd) in [
            (FrontendRequest::SET_VRING_CALL, events.call()),
            (FrontendRequest::SET_VRING_ERR, events.broken()),
            (FrontendRequest::SET_VRING_KICK, events.kick()),
        ] {
            self.connection.command(request, payload.as_bytes(), &[fd])?;
        }
        Ok(())
    }

    /// Where the parts of queue `index` are, in this process's addresses, which the protocol wants.
    fn ring_address(&self, index: u16, layout: &QueueLayout) -> Option<VringAddress> {
        let size = u64::from(layout.size);
        // Virtio 2.7: 16 bytes a descriptor; the rings have three 16-bit fields around their entries.
        let user = |address, bytes| self.memory.to_user(address, bytes).map(U64::new);
        Some(VringAddress {
            index: U32::new(index.into()),
            flags: U32::ZERO,
            descriptor: user(layout.descriptors, 16 * size)?,
            used: user(layout.used, 6 + 8 * size)?,
            available: user(layout.available, 6 + 2 * size)?,
            log: U64::ZERO,
        })
    }
}

/// Agrees on protocol features: what we can use of what is offered.
fn negotiate(connection: &mut Connection, offered: Features) -> Result<(), ClientError> {
    if !offered.contains(Features::VHOST_USER_PROTOCOL) {
        return Err(ClientError::Lacking(ProtocolFeatures::CONFIG));
    }
    let wanted = ProtocolFeatures::MQ
        | ProtocolFeatures::REPLY_ACK
        | ProtocolFeatures::BACKEND_REQ
        | ProtocolFeatures::CONFIG
        | ProtocolFeatures::RESET_DEVICE
        | ProtocolFeatures::STATUS;
    let offered = connection.ask_number(FrontendRequest::GET_PROTOCOL_FEATURES)?;
    let agreed = ProtocolFeatures::from_bits_retain(offered) & wanted;
    if !agreed.contains(ProtocolFeatures::CONFIG) {
        return Err(ClientError::Lacking(ProtocolFeatures::CONFIG));
    }
    connection.accept(agreed)
}

impl Transport for VhostUser {
    type Error = ClientError;

    fn reset(&mut self) -> Result<(), ClientError> {
        let mut any = false;
        for index in 0..self.max_queues {
            if self.queue(index).is_ok() {
                any = true;
                self.stop_queue(index)?;
            }
        }
        let agreed = self.connection.features();
        if agreed.contains(ProtocolFeatures::STATUS) {
            self.set_status(DeviceStatus::empty())?;
        } else if any && agreed.contains(ProtocolFeatures::RESET_DEVICE) {
            self.connection.command(FrontendRequest::RESET_DEVICE, &[], &[])?;
            self.connection.barrier()?;
        }
        self.status = DeviceStatus::empty();
        self.queues.fill_with(|| None);
        self.memory_given = false;
        self.enables_queues = false;
        Ok(())
    }

    fn status(&mut self) -> Result<DeviceStatus, ClientError> {
        if self.connection.features().contains(ProtocolFeatures::STATUS) {
            // The status is one byte of the number (virtio 2.1); the rest means nothing.
            let number = self.connection.ask_number(FrontendRequest::GET_STATUS)?;
            self.status = DeviceStatus::from_bits_retain(number as u8);
        }
        Ok(self.status)
    }

    fn set_status(&mut self, status: DeviceStatus) -> Result<(), ClientError> {
        if self.connection.features().contains(ProtocolFeatures::STATUS) {
            let payload = U64::new(status.bits().into());
            self.connection.command(FrontendRequest::SET_STATUS, payload.as_bytes(), &[])?;
            self.connection.barrier()?;
        }
        self.status = status;
        Ok(())
    }

    fn transport_features(&self) -> Features {
        Features::RING_RESET
    }

    fn device_features(&mut self) -> Result<Features, ClientError> {
        Ok(self.offered - Features::VHOST_USER_PROTOCOL)
    }

    fn set_driver_features(&mut self, features: Features) -> Result<(), ClientError> {
        let own = self.offered & Features::VHOST_USER_PROTOCOL;
        let accepted = (features - Features::VHOST_USER_PROTOCOL) | own;
        let payload = U64::new(accepted.bits());
        self.connection.command(FrontendRequest::SET_FEATURES, payload.as_bytes(), &[])?;
        self.connection.barrier()?;
        self.enables_queues = !own.is_empty();
        Ok(())
    }

    fn config_generation(&mut self) -> Result<u32, ClientError> {
        Ok(self.requests.as_ref().map_or(0, |requests| {
            requests.serve();
            requests.config_changes()
        }))
    }

    fn config_len(&mut self) -> Result<u32, ClientError> {
        Ok(self.config_len)
    }

    fn read_config(&mut self, offset: u32, into: &mut [u8]) -> Result<(), ClientError> {
        let (wanted, len) = (into.len(), self.config_len);
        let range = ClientError::ConfigRange { offset, wanted, len };
        let first = offset as usize;
        let Some(end) = first.checked_add(wanted).filter(|end| *end <= len as usize) else {
            return Err(range);
        };
        let request = FrontendRequest::GET_CONFIG;
        let config =
            config::read(&self.connection, len)?.ok_or(ClientError::Refused { request })?;
        into.copy_from_slice(config.get(first..end).ok_or(range)?);
        Ok(())
    }

    fn write_config(&mut self, offset: u32, from: &[u8]) -> Result<(), ClientError> {
        let (wanted, len) = (from.len(), self.config_len);
        let fits = (offset as usize).checked_add(wanted).is_some_and(|end| end <= len as usize);
        if !fits {
            return Err(ClientError::ConfigRange { offset, wanted, len });
        }
        config::write(&self.connection, offset, from)
    }

    fn max_queues(&mut self) -> Result<u16, ClientError> {
        Ok(self.max_queues)
    }

    fn max_queue_size(&mut self, index: u16) -> Result<u16, ClientError> {
        Ok(if index < self.max_queues { self.options.max_queue_size } else { 0 })
    }

    fn set_up_queue(&mut self, index: u16, layout: &QueueLayout) -> Result<(), ClientError> {
        if index >= self.max_queues {
            return Err(ClientError::NoQueue { queue: index });
        }
        if !layout.size.is_power_of_two() || layout.size > self.options.max_queue_size {
            return Err(ClientError::QueueSize { queue: index, size: layout.size });
        }
        let address =
            self.ring_address(index, layout).ok_or(ClientError::QueueMemory { queue: index })?;
        self.give_memory()?;
        let events = QueueEvents::new()?;
        let connection = &self.connection;
        connection.vring_command(FrontendRequest::SET_VRING_NUM, index, layout.size.into())?;
        connection.vring_command(FrontendRequest::SET_VRING_BASE, index, 0)?;
        connection.command(FrontendRequest::SET_VRING_ADDR, address.as_bytes(), &[])?;
        self.give_events(index, &events)?;
        if self.enables_queues {
            connection.vring_command(FrontendRequest::SET_VRING_ENABLE, index, 1)?;
        }
        connection.barrier()?;
        if let Some(queue) = self.queues.get_mut(usize::from(index)) {
            *queue = Some(events);
        }
        Ok(())
    }

    /// The protocol stops a queue and starts it anew without a word on RING_RESET.
    fn reset_queue(&mut self, index: u16) -> Result<bool, ClientError> {
        self.queue(index)?;
        self.stop_queue(index)?;
        if let Some(queue) = self.queues.get_mut(usize::from(index)) {
            *queue = None;
        }
        Ok(true)
    }

    fn notify(&self, index: u16) -> Result<(), ClientError> {
        self.queue(index)?.notify()
    }

    fn wait(&self, index: u16, timeout_ms: Option<u32>) -> Result<(), ClientError> {
        let queue = self.queue(index)?;
        let deadline =
            timeout_ms.and_then(|ms| Instant::now().checked_add(Duration::from_millis(ms.into())));
        loop {
            let left = deadline.map(|end| timespec(end.saturating_duration_since(Instant::now())));
            let requests = self.requests.as_ref().and_then(|r| Some((r, r.pollable()?)));
            // Where there is no socket for requests, the connection is polled twice instead.
            let last = requests.map_or(self.connection.as_fd(), |(_, fd)| fd);
            let mut fds = [
                PollFd::from_borrowed_fd(queue.call(), PollFlags::IN),
                PollFd::from_borrowed_fd(queue.broken(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.connection.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(last, PollFlags::IN),
            ];
            match poll(&mut fds, left.as_ref()) {
                Ok(0) => {
                    let milliseconds = timeout_ms.unwrap_or(u32::MAX);
                    return Err(ClientError::Silent { queue: index, milliseconds });
                }
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(failed("wait for the device", errno)),
            }
            let [call, broken, connection, _] = fds.map(|fd| !fd.revents().is_empty());
            // What was used before the device went away can still be had.
            if call {
                return queue.drain_call();
            }
            if broken {
                return Err(ClientError::QueueBroken { queue: index });
            }
            if connection {
                return Err(self.connection.unasked());
            }
            if let Some((requests, _)) = requests {
                requests.serve();
            }
            return Ok(());
        }
    }
}

fn timespec(left: Duration) -> Timespec {
    // A timeout has at most 2^32 milliseconds.
    Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
}
