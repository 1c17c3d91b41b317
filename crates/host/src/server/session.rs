//! One frontend, from its first message to its last.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};
use zvb_device::{ConfigError, Device, FeatureRefusal};
use zvb_wire::{DeviceStatus, Features};

use super::announcer::{Announcer, BackendChannelError};
use super::event::{EventError, PeerEvent, call};
use super::log::{Chain, Level, Log};
use super::ring::{Kick, Ring, RingFault, Surroundings};
use super::shutdown::Shutdown;
use crate::memory::{MAX_REGIONS, Memory, MemoryError, Region};
use crate::vhost_user::{
    Channel, ChannelError, ConfigHeader, DecodeError, DecodeFault, Frame, FrontendMessage,
    FrontendRequest, Header, MAX_CONFIG_BYTES, MemoryRegion, Patience, ProtocolFeatures, Received,
    VringFile, VringState,
};

/// How long the rest of a message that has begun, or the taking of an answer, may take.
const MESSAGE_TIME: Duration = Duration::from_secs(10);

/// What is offered beside the virtio features.
const PROTOCOL: ProtocolFeatures = ProtocolFeatures::MQ
    .union(ProtocolFeatures::REPLY_ACK)
    .union(ProtocolFeatures::BACKEND_REQ)
    .union(ProtocolFeatures::CONFIG)
    .union(ProtocolFeatures::RESET_DEVICE)
    .union(ProtocolFeatures::CONFIGURE_MEM_SLOTS)
    .union(ProtocolFeatures::STATUS);

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// It is not what it says.
    #[error(transparent)]
    Decode(DecodeFault),
    /// It is unknown, or was not offered.
    #[error("is not supported")]
    Unsupported,
    /// It needs a protocol feature that the frontend did not accept.
    #[error("was not negotiated")]
    NotNegotiated,
    /// It accepts protocol features that were not offered.
    #[error("protocol features that were not offered: {0:?}")]
    ProtocolFeatures(ProtocolFeatures),
    /// The device refuses the features that the driver accepts.
    #[error(transparent)]
    Features(#[from] FeatureRefusal),
    /// Features can not change under running queues.
    #[error("the features change while queues run")]
    FeaturesInUse,
    /// There is no such queue.
    #[error("there is no queue {0}")]
    NoSuchQueue(u32),
    /// A queue does not do it.
    #[error("queue {index}")]
    Ring {
        /// Which.
        index: u32,
        /// Why.
        #[source]
        fault: RingFault,
    },
    /// A descriptor is nothing that can be signalled.
    #[error(transparent)]
    Event(#[from] EventError),
    /// A descriptor is no way to tell the frontend anything.
    #[error(transparent)]
    BackendChannel(#[from] BackendChannelError),
    /// Memory is not as it says.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A write to the configuration space changes nothing.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no such configuration space.
    #[error("there are no configuration bytes {offset} to {end}")]
    ConfigRange {
        /// First byte.
        offset: u32,
        /// One past the last.
        end: u64,
    },
}

impl From<DecodeError> for RequestError {
    /// Which request it was is said elsewhere.
    fn from(error: DecodeError) -> Self {
        Self::Decode(error.fault)
    }
}

/// How a session ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionEnd {
    /// The frontend closed the connection.
    #[error("the frontend disconnected")]
    Closed,
    /// The server was told to end.
    #[error("the server ends")]
    Shutdown,
    /// The stream of messages broke.
    #[error("the connection is broken")]
    Broken(#[from] ChannelError),
    /// The frontend asked for what can not be, and can not be told.
    #[error("{request} was refused")]
    Refused {
        /// What it asked for.
        request: FrontendRequest,
        /// Why it was refused.
        #[source]
        why: RequestError,
    },
}

/// What goes back for a request.
enum Answer {
    /// Nothing, or 0 when the frontend wants to know.
    Done,
    Number(u64),
    State(VringState),
    Config {
        offset: u32,
        bytes: Vec<u8>,
        flags: u32,
    },
}

/// The state of one session.
pub(crate) struct Session<'a> {
    device: &'a Arc<Device>,
    guest: Arc<zvb_device::Session>,
    channel: Channel,
    connection: Arc<UnixStream>,
    announcer: Arc<Announcer>,
    log: Arc<dyn Log>,
    shutdown: &'a Shutdown,
    /// What the driver accepts, with VHOST_USER_PROTOCOL.
    features: Features,
    /// The driver's features were given to the device, and what it said.
    accepted: Option<Result<(), FeatureRefusal>>,
    protocol: ProtocolFeatures,
    status: DeviceStatus,
    /// The status as the frontend wrote it last.
    wanted: DeviceStatus,
    memory: Arc<Memory>,
    rings: Vec<Ring>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(
        device: &'a Arc<Device>,
        connection: UnixStream,
        log: Arc<dyn Log>,
        shutdown: &'a Shutdown,
    ) -> std::io::Result<Self> {
        let announcer = Arc::new(Announcer::new(Arc::clone(&log)));
        device.listen(&announcer);
        Ok(Self {
            device,
            guest: device.session(),
            connection: Arc::new(connection.try_clone()?),
            channel: Channel::new(connection),
            announcer,
            log,
            shutdown,
            features: Features::empty(),
            accepted: None,
            protocol: ProtocolFeatures::empty(),
            status: DeviceStatus::empty(),
            wanted: DeviceStatus::empty(),
            memory: Arc::new(Memory::new()),
            rings: (0..device.queues()).map(Ring::new).collect(),
        })
    }

    /// Serves the frontend to its end. No queue runs when this returns.
    pub(crate) fn run(mut self) -> SessionEnd {
        let end = loop {
            if let Err(end) = self.serve_one() {
                break end;
            }
        };
        self.stop_all();
        end
    }

    /// Takes one message and answers it.
    fn serve_one(&mut self) -> Result<(), SessionEnd> {
        self.wait_for_message()?;
        let frame = match self.channel.receive(&self.patience()) {
            Ok(Received::Frame(frame)) => frame,
            Ok(Received::End) => return Err(SessionEnd::Closed),
            Ok(Received::Stopped) => return Err(SessionEnd::Shutdown),
            Err(error) => return Err(error.into()),
        };
        let header = frame.header;
        let outcome = self.take(frame);
        match self.answer(&header, outcome) {
            Err(SessionEnd::Broken(ChannelError::Stopped)) => Err(SessionEnd::Shutdown),
            Err(SessionEnd::Broken(ChannelError::Gone)) => Err(SessionEnd::Closed),
            result => result,
        }
    }

    fn take(&mut self, frame: Frame) -> Result<Answer, RequestError> {
        let message = frame.into_frontend_message()?;
        let outcome = self.handle(message);
        // Before the frontend hears of it.
        self.announcer.attend(self.rings.iter().any(Ring::is_running));
        outcome
    }

    fn patience(&self) -> Patience<'a> {
        Patience { stop: Some(self.shutdown.as_fd()), timeout: Some(MESSAGE_TIME) }
    }

    /// Waits for as long as the frontend has nothing to say.
    fn wait_for_message(&self) -> Result<(), SessionEnd> {
        let mut fds = [
            PollFd::from_borrowed_fd(self.channel.as_fd(), PollFlags::IN),
            PollFd::new(self.shutdown, PollFlags::IN),
        ];
        loop {
            match poll(&mut fds, None) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(ChannelError::from(errno).into()),
            }
        }
    }

    /// Sends what goes back. A failure is sent where the request allows it, or ends the session.
    fn answer(
        &self,
        header: &Header,
        outcome: Result<Answer, RequestError>,
    ) -> Result<(), SessionEnd> {
        let code = header.request.get();
        let request = FrontendRequest(code);
        let wants_ack = header.needs_reply() && self.protocol.contains(ProtocolFeatures::REPLY_ACK);
        let reply = |payload: &[u8]| -> Result<(), SessionEnd> {
            Ok(self.channel.send_reply(code, payload, &[], &self.patience())?)
        };
        match outcome {
            Ok(Answer::Done) if !wants_ack => Ok(()),
            Ok(Answer::Done) => reply(U64::new(0).as_bytes()),
            Ok(Answer::Number(number)) => reply(U64::new(number).as_bytes()),
            Ok(Answer::State(state)) => reply(state.as_bytes()),
            Ok(Answer::Config { offset, bytes, flags }) => {
                let header = ConfigHeader {
                    offset: U32::new(offset),
                    // At most MAX_CONFIG_BYTES.
                    size: U32::new(bytes.len() as u32),
                    flags: U32::new(flags),
                };
                reply(&[header.as_bytes(), &bytes].concat())
            }
            Err(why) if request == FrontendRequest::GET_CONFIG => {
                self.complain(request, &why);
                reply(&[])
            }
            Err(why) if wants_ack && is_acknowledged(request) && !is_out_of_place(&why) => {
                self.complain(request, &why);
                reply(U64::new(1).as_bytes())
            }
            // The frontend is not told of changes, and can do without.
            Err(why @ RequestError::BackendChannel(_)) => {
                self.complain(request, &why);
                Ok(())
            }
            Err(why) => Err(SessionEnd::Refused { request, why }),
        }
    }

    fn complain(&self, request: FrontendRequest, why: &RequestError) {
        self.log.log(Level::Warn, format_args!("{request} refused: {}", Chain(why)));
    }

    fn handle(&mut self, message: FrontendMessage) -> Result<Answer, RequestError> {
        use FrontendMessage as M;
        match message {
            M::GetFeatures => {
                let offered = self.device.features() | Features::VHOST_USER_PROTOCOL;
                return Ok(Answer::Number(offered.bits()));
            }
            M::SetFeatures(features) => self.set_features(features)?,
            M::GetProtocolFeatures => return Ok(Answer::Number(PROTOCOL.bits())),
            M::SetProtocolFeatures(features) => self.set_protocol_features(features)?,
            M::SetOwner => {}
            // Both leave memory, and whom to signal, as they are.
            M::ResetOwner | M::ResetDevice => self.reset(),
            M::GetQueueNum => return Ok(Answer::Number(self.device.queues().into())),
            M::GetMaxMemSlots => return Ok(Answer::Number(MAX_REGIONS as u64)),
            M::SetMemTable(table) => {
                let memory =
                    table.into_iter().try_fold(Memory::new(), |memory, (region, file)| {
                        memory.with(region_of(&region), file)
                    })?;
                self.change_memory(memory);
            }
            M::AddMemReg(region, file) => {
                let memory = self.memory.with(region_of(&region), file)?;
                self.change_memory(memory);
            }
            M::RemMemReg(region) => {
                let memory = self.memory.without(&region_of(&region))?;
                self.change_memory(memory);
            }
            M::GetConfig { offset, size, flags } => {
                let bytes = self.config(offset, size)?;
                return Ok(Answer::Config { offset, bytes, flags: flags.bits() });
            }
            M::SetBackendReqFd(fd) => {
                self.expect(ProtocolFeatures::BACKEND_REQ)?;
                self.announcer.connect(fd, self.channel.as_fd())?;
            }
            M::SetConfig { offset, data, .. } => self.guest.write_config(offset, &data)?,
            M::SetStatus(status) => self.set_status(status)?,
            M::GetStatus => {
                self.expect(ProtocolFeatures::STATUS)?;
                if self.rings.iter().any(Ring::is_broken) {
                    // Sticks until the reset that it asks for (virtio 2.1).
                    self.status |= DeviceStatus::NEEDS_RESET;
                }
                return Ok(Answer::Number(self.status.bits().into()));
            }
            other => return self.handle_vring(other),
        }
        Ok(Answer::Done)
    }

    /// The requests that are about one queue.
    fn handle_vring(&mut self, message: FrontendMessage) -> Result<Answer, RequestError> {
        use FrontendMessage as M;
        match message {
            M::SetVringNum { index, size } => {
                let most = self.device.max_queue_size();
                self.on_ring(index, |ring| ring.set_size(size, most))?;
            }
            M::SetVringAddr(address) => {
                let index = address.index.get();
                self.on_ring(index, |ring| ring.set_address(address))?;
            }
            M::SetVringBase { index, base } => self.on_ring(index, |ring| ring.set_base(base))?,
            M::GetVringBase { index } => return self.stop_at(index),
            M::SetVringKick(VringFile { index, file }) => {
                let kick = match file {
                    Some(file) => Kick::Event(Arc::new(PeerEvent::new(file)?)),
                    None => Kick::Look,
                };
                self.on_ring(index.into(), |ring| {
                    ring.stop()?;
                    ring.set_kick(kick);
                    Ok(())
                })?;
            }
            M::SetVringCall(VringFile { index, file }) => {
                let call = file.map(|file| call(file, self.channel.as_fd())).transpose()?;
                self.on_ring(index.into(), |ring| {
                    ring.set_call(call);
                    Ok(())
                })?;
                return Ok(Answer::Done);
            }
            M::SetVringErr(VringFile { index, file }) => {
                let error = file.map(PeerEvent::new).transpose()?.map(Arc::new);
                self.on_ring(index.into(), |ring| {
                    ring.set_error(error);
                    Ok(())
                })?;
                return Ok(Answer::Done);
            }
            M::SetVringEnable { index, enabled } => self.on_ring(index, |ring| {
                ring.set_enabled(enabled);
                if enabled { Ok(()) } else { ring.stop() }
            })?,
            // Nothing of these was offered.
            _ => return Err(RequestError::Unsupported),
        }
        self.start_wanted()?;
        Ok(Answer::Done)
    }

    fn on_ring(
        &mut self,
        index: u32,
        act: impl FnOnce(&mut Ring) -> Result<(), RingFault>,
    ) -> Result<(), RequestError> {
        let ring = self.rings.get_mut(index as usize).ok_or(RequestError::NoSuchQueue(index))?;
        act(ring).map_err(|fault| RequestError::Ring { index, fault })
    }

    /// GET_VRING_BASE: stops a queue until it gets a new kick.
    fn stop_at(&mut self, index: u32) -> Result<Answer, RequestError> {
        let mut base = 0;
        self.on_ring(index, |ring| {
            ring.stop()?;
            ring.set_kick(Kick::None);
            base = ring.base();
            Ok(())
        })?;
        let state = VringState { index: U32::new(index), num: U32::new(base.into()) };
        Ok(Answer::State(state))
    }

    fn expect(&self, feature: ProtocolFeatures) -> Result<(), RequestError> {
        if self.protocol.contains(feature) { Ok(()) } else { Err(RequestError::NotNegotiated) }
    }

    fn set_features(&mut self, features: Features) -> Result<(), RequestError> {
        if self.rings.iter().any(Ring::is_running) {
            // Said again before a migration, or when a VMM is not sure.
            let same = features == self.features;
            return if same { Ok(()) } else { Err(RequestError::FeaturesInUse) };
        }
        let accepted = self.guest.accept(features.difference(Features::VHOST_USER_PROTOCOL));
        if let Err(refusal @ FeatureRefusal::NotOffered(_)) = accepted {
            return Err(refusal.into());
        }
        // Any other refusal counts when the driver goes on from here: some frontends begin with a set
        // that is not the driver's.
        self.features = features;
        self.accepted = Some(accepted);
        self.start_wanted()
    }

    fn set_protocol_features(&mut self, features: ProtocolFeatures) -> Result<(), RequestError> {
        let extra = features.difference(PROTOCOL);
        if !extra.is_empty() {
            return Err(RequestError::ProtocolFeatures(extra));
        }
        self.protocol = features;
        Ok(())
    }

    fn set_status(&mut self, wanted: DeviceStatus) -> Result<(), RequestError> {
        self.expect(ProtocolFeatures::STATUS)?;
        if wanted.is_empty() {
            self.reset();
            return Ok(());
        }
        self.wanted = wanted;
        let mut status = wanted;
        if status.contains(DeviceStatus::FEATURES_OK)
            && let Some(Err(refusal)) = self.accepted
        {
            // How a device says no (virtio 3.1.1): the driver reads that the bit is not set.
            status.remove(DeviceStatus::FEATURES_OK);
            if !self.status.contains(DeviceStatus::DRIVER_OK) {
                self.log.log(Level::Warn, format_args!("FEATURES_OK is not set: {refusal}"));
            }
        }
        let driver_gave_up = status.difference(self.status).contains(DeviceStatus::FAILED);
        if driver_gave_up {
            self.log.log(Level::Warn, format_args!("the driver gave up (FAILED)"));
        }
        // Only a reset takes this back.
        status |= self.status & DeviceStatus::NEEDS_RESET;
        self.status = status;
        if !self.may_run() {
            self.stop_all();
        }
        self.start_wanted()
    }

    /// The driver has said all that it must before queues may run.
    ///
    /// FEATURES_OK without DRIVER is no status of a driver's: a frontend asks by it whether the features
    /// are right, and says nothing about the driver (QEMU's `vhost-user-test-device` does so, and sends no
    /// DRIVER_OK). Then an enabled queue with a kick is all the word there will be.
    fn may_run(&self) -> bool {
        let needed = if self.status.contains(DeviceStatus::DRIVER) {
            DeviceStatus::DRIVER_OK | DeviceStatus::FEATURES_OK
        } else {
            DeviceStatus::FEATURES_OK
        };
        if self.goes_on_refused() {
            return !self.memory.is_empty();
        }
        let status = !self.protocol.contains(ProtocolFeatures::STATUS)
            || (self.status.contains(needed) && !self.status.contains(DeviceStatus::FAILED));
        status && self.accepted.is_some() && !self.memory.is_empty()
    }

    /// A driver that knows no zones goes on, though FEATURES_OK is not set. It may not have been told: QEMU sets
    /// the bit for the guest before it asks here, and SeaBIOS then waits for an answer that must come. There is
    /// no FEATURES_OK to wait for; otherwise as in [`may_run`](Self::may_run).
    fn goes_on_refused(&self) -> bool {
        let needed = if self.wanted.contains(DeviceStatus::DRIVER) {
            DeviceStatus::DRIVER_OK
        } else {
            DeviceStatus::FEATURES_OK
        };
        matches!(self.accepted, Some(Err(FeatureRefusal::HostManagedWithoutZoned)))
            && self.protocol.contains(ProtocolFeatures::STATUS)
            && self.wanted.contains(needed)
            && !self.wanted.contains(DeviceStatus::FAILED)
    }

    /// Back to the beginning, with the connection and its memory kept.
    fn reset(&mut self) {
        self.stop_all();
        for ring in &mut self.rings {
            ring.reset();
        }
        self.guest = self.device.session();
        self.features = Features::empty();
        self.accepted = None;
        self.status = DeviceStatus::empty();
        self.wanted = DeviceStatus::empty();
    }

    fn change_memory(&mut self, memory: Memory) {
        self.stop_all();
        self.memory = Arc::new(memory);
        // What can not go on in the new memory was logged, and is no fault of the request.
        let _ = self.start_wanted();
    }

    /// Starts every queue that has all that it needs. What fails stays stopped until it gets a new kick.
    fn start_wanted(&mut self) -> Result<(), RequestError> {
        if !self.may_run() {
            return Ok(());
        }
        let around = Surroundings {
            guest: &self.guest,
            memory: &self.memory,
            log: &self.log,
            connection: &self.connection,
            // Without a status there is no NEEDS_RESET to look at.
            announcer: self.protocol.contains(ProtocolFeatures::STATUS).then_some(&self.announcer),
        };
        let turned_away = self.goes_on_refused();
        let mut first = Ok(());
        for (index, ring) in self.rings.iter_mut().enumerate() {
            if ring.is_running() || !ring.is_wanted(self.features) {
                continue;
            }
            if turned_away {
                self.log.log(
                    Level::Warn,
                    format_args!(
                        "queue {index}: the driver goes on all the same, and gets IOERR for all that it asks"
                    ),
                );
                self.guest.turn_away(self.features.difference(Features::VHOST_USER_PROTOCOL));
            } else if let Some(Err(refusal)) = self.accepted {
                return Err(refusal.into());
            }
            if let Err(fault) = ring.start(&around) {
                ring.set_kick(Kick::None);
                self.status |= DeviceStatus::NEEDS_RESET;
                if self.status.contains(DeviceStatus::DRIVER_OK) {
                    self.announcer.insist();
                }
                let why = Chain(&fault);
                self.log.log(Level::Warn, format_args!("queue {index} does not start: {why}"));
                // There are at most 2^16 queues.
                first = first.and(Err(RequestError::Ring { index: index as u32, fault }));
            }
        }
        first
    }

    /// Stops every queue: all are told, then each is waited for.
    fn stop_all(&mut self) {
        for ring in &self.rings {
            ring.begin_stop();
        }
        for (index, ring) in self.rings.iter_mut().enumerate() {
            if let Err(fault) = ring.stop() {
                self.log.log(Level::Error, format_args!("queue {index}: {fault}"));
            }
        }
    }

    /// Configuration space, with zeroes after its end: frontends ask for more than there is.
    fn config(&self, offset: u32, size: u32) -> Result<Vec<u8>, RequestError> {
        let end = u64::from(offset) + u64::from(size);
        let config = self.guest.config();
        let mut space = config.as_bytes().to_vec();
        space.resize(MAX_CONFIG_BYTES as usize, 0);
        let bytes = usize::try_from(end).ok().and_then(|end| space.get(offset as usize..end));
        bytes.map(<[u8]>::to_vec).ok_or(RequestError::ConfigRange { offset, end })
    }
}

/// True when a request is answered by nothing but an acknowledgement.
fn is_acknowledged(request: FrontendRequest) -> bool {
    use FrontendRequest as R;
    !matches!(
        request,
        R::GET_FEATURES
            | R::GET_PROTOCOL_FEATURES
            | R::GET_VRING_BASE
            | R::GET_QUEUE_NUM
            | R::GET_CONFIG
            | R::GET_INFLIGHT_FD
            | R::GET_MAX_MEM_SLOTS
            | R::GET_STATUS
    )
}

/// True for what no frontend sends that speaks the protocol, or with which it can not go on.
fn is_out_of_place(why: &RequestError) -> bool {
    match why {
        RequestError::Decode(fault) => *fault == DecodeFault::Reply,
        RequestError::Features(refusal) => !matches!(refusal, FeatureRefusal::NotOffered(_)),
        _ => false,
    }
}

fn region_of(region: &MemoryRegion) -> Region {
    Region {
        guest: region.guest_address.get(),
        bytes: region.size.get(),
        user: region.user_address.get(),
        offset: region.mmap_offset.get(),
    }
}
