use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;
use zvb_driver::{Dma, DmaRegion, QueueLayout, Transport};
use zvb_wire::{DeviceStatus, Features};

use super::*;
use crate::vhost_user::{
    BackendRequest, Channel, ChannelError, Frame, FrontendMessage, FrontendRequest, MemoryRegion,
    Patience, ProtocolFeatures, Received, VringAddress,
};

const PATIENT: Patience<'static> = Patience { stop: None, timeout: Some(Duration::from_secs(20)) };

const ALL: ProtocolFeatures = ProtocolFeatures::all();

/// A server that answers as the protocol says, and tells what it was asked.
struct Fake {
    features: Features,
    protocol: ProtocolFeatures,
    /// Bytes of configuration space: longer requests are refused.
    config: Vec<u8>,
    /// Status bits that do not stick.
    refused_status: u8,
    /// Requests that are answered with a failure (REPLY_ACK).
    refused: Option<FrontendRequest>,
    /// A request that is answered with these bytes as they are, and nothing else.
    garbled: Option<(FrontendRequest, Vec<u8>)>,
    /// A request at which the server goes away.
    last: Option<FrontendRequest>,
}

/// What the server was told that a test can look at.
#[derive(Debug)]
enum Told {
    Features(Features),
    Config(u32, Vec<u8>),
    Memory(MemoryRegion, OwnedFd),
    Address(VringAddress),
    Kick(OwnedFd),
    Call(OwnedFd),
    Err(OwnedFd),
    Requests(OwnedFd),
}

impl Fake {
    fn new() -> Self {
        Self {
            features: Features::ZONED
                | Features::MQ
                | Features::VERSION_1
                | Features::VHOST_USER_PROTOCOL,
            protocol: ALL,
            config: (0..96).collect(),
            refused_status: 0,
            refused: None,
            garbled: None,
            last: None,
        }
    }

    fn start(self) -> (UnixStream, Server) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (told_to, told) = channel();
        let thread = thread::spawn(move || self.serve(&Channel::new(theirs), &told_to));
        (ours, Server { thread, told })
    }

    /// Serves until the end; returns the requests in order, and whether they wanted an answer.
    fn serve(mut self, channel: &Channel, told: &Sender<Told>) -> Vec<(FrontendRequest, bool)> {
        let mut asked = Vec::new();
        let mut status = 0;
        loop {
            let frame = match channel.receive(&PATIENT) {
                Ok(Received::Frame(frame)) => frame,
                Ok(_) | Err(ChannelError::Gone) => return asked,
                Err(error) => panic!("{error:?}"),
            };
            let request = FrontendRequest(frame.header.request.get());
            let wants_answer = frame.header.needs_reply();
            asked.push((request, wants_answer));
            if self.last == Some(request) {
                return asked;
            }
            if let Some((_, bytes)) = self.garbled.take_if(|(garbled, _)| *garbled == request) {
                send_bytes(channel, &bytes);
                continue;
            }
            let answer = self.answer(frame, &mut status, told);
            let refused = u64::from(self.refused == Some(request));
            let ack = || wants_answer.then(|| U64::new(refused).as_bytes().to_vec());
            if let Some(payload) = answer.or_else(ack) {
                channel.send_reply(request.0, &payload, &[], &PATIENT).unwrap();
            }
        }
    }

    fn answer(&self, frame: Frame, status: &mut u8, told: &Sender<Told>) -> Option<Vec<u8>> {
        use FrontendMessage as M;
        let raw = frame.payload.clone();
        let number = |n: u64| Some(n.to_le_bytes().to_vec());
        let tell = |what| {
            told.send(what).unwrap();
            None
        };
        match frame.into_frontend_message().unwrap() {
            M::GetFeatures => number(self.features.bits()),
            M::GetProtocolFeatures => number(self.protocol.bits()),
            M::GetQueueNum => number(2),
            M::GetStatus => number((*status).into()),
            M::SetStatus(new) => {
                *status = new.bits() & !self.refused_status;
                None
            }
            M::GetVringBase { .. } => Some(raw),
            M::GetConfig { offset, size, .. } => {
                assert_eq!(offset, 0, "some servers ignore the offset");
                let Some(bytes) = self.config.get(..size as usize) else { return Some(Vec::new()) };
                Some([raw.get(..12).unwrap(), bytes].concat())
            }
            M::SetConfig { offset, data, .. } => tell(Told::Config(offset, data)),
            M::SetFeatures(features) => tell(Told::Features(features)),
            M::SetMemTable(regions) => {
                let (region, file) = regions.into_iter().next().unwrap();
                tell(Told::Memory(region, file))
            }
            M::SetVringAddr(address) => tell(Told::Address(address)),
            M::SetVringKick(file) => tell(Told::Kick(file.file.unwrap())),
            M::SetVringCall(file) => tell(Told::Call(file.file.unwrap())),
            M::SetVringErr(file) => tell(Told::Err(file.file.unwrap())),
            M::SetBackendReqFd(socket) => tell(Told::Requests(socket)),
            M::Unsupported(request) => panic!("{request}"),
            _ => None,
        }
    }
}

fn send_bytes(channel: &Channel, bytes: &[u8]) {
    assert_eq!(rustix::io::write(channel.as_fd(), bytes).unwrap(), bytes.len());
}

struct Server {
    thread: JoinHandle<Vec<(FrontendRequest, bool)>>,
    told: Receiver<Told>,
}

impl Server {
    /// All requests, once the client has gone.
    fn asked(self) -> Vec<(FrontendRequest, bool)> {
        self.thread.join().unwrap()
    }

    fn told(&self) -> Told {
        self.told.recv_timeout(Duration::from_secs(20)).unwrap()
    }

    /// The first thing told that `pick` wants.
    fn find<T>(&self, pick: impl Fn(Told) -> Option<T>) -> T {
        loop {
            if let Some(found) = pick(self.told()) {
                return found;
            }
        }
    }
}

fn connect(fake: Fake) -> (Result<VhostUser, ClientError>, SharedMemory, Server) {
    let (socket, server) = fake.start();
    let memory = SharedMemory::new(1 << 20).unwrap();
    let options = Options { reply_timeout: Duration::from_millis(500), max_queue_size: 256 };
    (VhostUser::over(socket, memory.clone(), options), memory, server)
}

fn failure(fake: Fake) -> ClientError {
    connect(fake).0.unwrap_err()
}

const QUEUE_SIZE: u16 = 128;

fn layout(ring: &DmaRegion) -> QueueLayout {
    QueueLayout {
        size: QUEUE_SIZE,
        descriptors: ring.device,
        available: ring.device + 0x1000,
        used: ring.device + 0x2000,
    }
}

/// A device with queue 1 set up.
fn set_up(fake: Fake) -> (VhostUser, SharedMemory, Server) {
    let (device, memory, server) = connect(fake);
    let mut device = device.unwrap();
    device.set_driver_features(Features::VERSION_1).unwrap();
    let ring = memory.alloc(0x3000, 4096).unwrap();
    device.set_up_queue(1, &layout(&ring)).unwrap();
    (device, memory, server)
}

fn signal(fd: &OwnedFd) {
    rustix::io::write(fd, &1u64.to_le_bytes()).unwrap();
}

#[test]
fn queues_can_be_driven_from_several_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<VhostUser>();
    shared::<SharedMemory>();
}

#[test]
fn the_handshake_is_in_order() {
    use FrontendRequest as R;
    let (device, _, server) = connect(Fake::new());
    let mut device = device.unwrap();
    let agreed = ProtocolFeatures::MQ
        | ProtocolFeatures::REPLY_ACK
        | ProtocolFeatures::BACKEND_REQ
        | ProtocolFeatures::CONFIG
        | ProtocolFeatures::RESET_DEVICE
        | ProtocolFeatures::STATUS;
    assert_eq!(device.protocol_features(), agreed);
    let offered = Features::ZONED | Features::MQ | Features::VERSION_1;
    assert_eq!(device.device_features().unwrap(), offered, "virtio does not know of vhost-user");
    assert_eq!(device.max_queues().unwrap(), 2);
    assert_eq!(device.max_queue_size(1).unwrap(), 256);
    assert_eq!(device.max_queue_size(2).unwrap(), 0);
    assert_eq!(device.config_len().unwrap(), 96);
    drop(device);
    let expected = [
        (R::SET_OWNER, false),
        (R::GET_FEATURES, false),
        (R::GET_PROTOCOL_FEATURES, false),
        (R::SET_PROTOCOL_FEATURES, false),
        (R::GET_QUEUE_NUM, false),
        (R::SET_BACKEND_REQ_FD, true),
        (R::GET_CONFIG, false),
    ];
    assert_eq!(server.asked(), expected);
}

#[test]
fn a_queue_is_set_up_in_order_in_shared_memory() {
    use FrontendRequest as R;
    let (device, memory, server) = connect(Fake::new());
    let mut device = device.unwrap();
    device.reset().unwrap();
    let features = Features::VERSION_1 | Features::ZONED;
    device.set_driver_features(features).unwrap();
    memory.alloc(100, 1).unwrap();
    let ring = memory.alloc(0x3000, 4096).unwrap();
    for index in [1, 0] {
        device.set_up_queue(index, &layout(&ring)).unwrap();
    }
    let accepted = server.find(|t| if let Told::Features(f) = t { Some(f) } else { None });
    assert_eq!(accepted, features | Features::VHOST_USER_PROTOCOL);
    let Told::Memory(region, file) = server.told() else { panic!() };
    assert_eq!(region.guest_address.get(), SharedMemory::DEVICE_BASE);
    assert_eq!(region.size.get(), memory.len() as u64);
    // What stands at the ring in this process stands at the same place of the file.
    let offset = ring.device - region.guest_address.get() + region.mmap_offset.get();
    File::from(file).write_all_at(b"here", offset).unwrap();
    assert_eq!(memory.to_user(ring.device, 4), Some(ring.host.as_ptr() as u64));
    let mut seen = [0; 4];
    File::from(memory.file().try_clone_to_owned().unwrap())
        .read_exact_at(&mut seen, offset)
        .unwrap();
    assert_eq!(&seen, b"here");
    let Told::Address(address) = server.told() else { panic!() };
    let user = ring.host.as_ptr() as u64;
    assert_eq!(address.index, 1);
    assert_eq!(address.descriptor, user);
    assert_eq!(address.available, user + 0x1000);
    assert_eq!(address.used, user + 0x2000);
    drop(device);
    let asked = server.asked();
    let set_up = asked.split(|(request, _)| *request == R::SET_FEATURES).nth(1).unwrap();
    let queue = [
        R::SET_VRING_NUM,
        R::SET_VRING_BASE,
        R::SET_VRING_ADDR,
        R::SET_VRING_CALL,
        R::SET_VRING_ERR,
        R::SET_VRING_KICK,
        R::SET_VRING_ENABLE,
    ];
    let expected: Vec<_> =
        [R::SET_MEM_TABLE].iter().chain(&queue).chain(&queue).map(|r| (*r, true)).collect();
    assert_eq!(set_up, expected);
}

#[test]
fn signals_go_both_ways() {
    let protocol = ALL - ProtocolFeatures::BACKEND_REQ;
    let (device, _memory, server) = set_up(Fake { protocol, ..Fake::new() });
    let call = server.find(|t| if let Told::Call(fd) = t { Some(fd) } else { None });
    let broken = server.find(|t| if let Told::Err(fd) = t { Some(fd) } else { None });
    let kick = server.find(|t| if let Told::Kick(fd) = t { Some(fd) } else { None });
    device.notify(1).unwrap();
    device.notify(1).unwrap();
    let mut counter = [0; 8];
    rustix::io::read(&kick, &mut counter).unwrap();
    assert_eq!(u64::from_le_bytes(counter), 2);
    // A counter that is full has signalled all there is to signal.
    rustix::io::write(&kick, &(u64::MAX - 1).to_le_bytes()).unwrap();
    device.notify(1).unwrap();

    let silent = device.wait(1, Some(10));
    assert!(matches!(silent, Err(ClientError::Silent { queue: 1, milliseconds: 10 })));
    signal(&call);
    signal(&call);
    device.wait(1, Some(10_000)).unwrap();
    assert!(matches!(device.wait(1, Some(0)), Err(ClientError::Silent { .. })), "not drained");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| device.wait(1, None));
        thread::sleep(Duration::from_millis(20));
        signal(&call);
        waiting.join().unwrap().unwrap();
    });
    assert!(matches!(device.notify(0), Err(ClientError::NoQueue { queue: 0 })));
    assert!(matches!(device.wait(7, None), Err(ClientError::NoQueue { queue: 7 })));
    signal(&broken);
    assert!(matches!(device.wait(1, None), Err(ClientError::QueueBroken { queue: 1 })));
}

#[test]
fn a_device_that_goes_away_is_noticed_after_its_last_signal() {
    let fake = Fake { last: Some(FrontendRequest::GET_STATUS), ..Fake::new() };
    let (mut device, _memory, server) = set_up(fake);
    let call = server.find(|t| if let Told::Call(fd) = t { Some(fd) } else { None });
    signal(&call);
    let status = device.status();
    let request = FrontendRequest::GET_STATUS;
    assert!(
        matches!(status, Err(ClientError::HungUp { request: r }) if r == request),
        "{status:?}"
    );
    device.wait(1, None).unwrap();
    assert!(matches!(device.wait(1, None), Err(ClientError::Gone)));
    drop(server);
}

#[test]
fn words_out_of_turn_are_noticed() {
    // An answer, and one more.
    let header = [40, 0, 0, 0, 5, 0, 0, 0, 8, 0, 0, 0];
    let answer = [&header[..], &[0; 8]].concat();
    let garbled = Some((FrontendRequest::GET_STATUS, answer.repeat(2)));
    let (mut device, _memory, _server) = set_up(Fake { garbled, ..Fake::new() });
    device.status().unwrap();
    assert!(matches!(device.wait(1, None), Err(ClientError::Unasked)));
}

#[test]
fn without_answers_the_last_word_is_a_question() {
    use FrontendRequest as R;
    let protocol = ProtocolFeatures::CONFIG;
    let fake = Fake { protocol, features: Features::VHOST_USER_PROTOCOL, ..Fake::new() };
    let (device, memory, server) = connect(fake);
    let mut device = device.unwrap();
    assert_eq!(device.max_queues().unwrap(), 1);
    assert_eq!(device.config_len().unwrap(), 60, "no more than the features need");
    device.reset().unwrap();
    device.set_status(DeviceStatus::ACKNOWLEDGE).unwrap();
    assert_eq!(device.status().unwrap(), DeviceStatus::ACKNOWLEDGE, "kept here");
    device.set_driver_features(Features::empty()).unwrap();
    let ring = memory.alloc(0x3000, 4096).unwrap();
    device.set_up_queue(0, &layout(&ring)).unwrap();
    device.reset().unwrap();
    assert_eq!(device.status().unwrap(), DeviceStatus::empty());
    device.set_driver_features(Features::empty()).unwrap();
    device.set_up_queue(0, &layout(&ring)).unwrap();
    drop(device);
    let asked = server.asked();
    assert!(asked.iter().all(|(_, wants_answer)| !wants_answer));
    let asked: Vec<_> = asked.into_iter().map(|(request, _)| request).skip(5).collect();
    let start = [
        R::SET_FEATURES,
        R::GET_FEATURES,
        R::SET_MEM_TABLE,
        R::SET_VRING_NUM,
        R::SET_VRING_BASE,
        R::SET_VRING_ADDR,
        R::SET_VRING_CALL,
        R::SET_VRING_ERR,
        R::SET_VRING_KICK,
        R::SET_VRING_ENABLE,
        R::GET_FEATURES,
    ];
    let stop = [R::SET_VRING_ENABLE, R::GET_VRING_BASE];
    assert_eq!(asked, [&start[..], &stop, &start].concat());
}

#[test]
fn a_reset_stops_the_queues_first() {
    use FrontendRequest as R;
    for (protocol, last) in
        [(ALL, R::SET_STATUS), (ALL - ProtocolFeatures::STATUS, R::RESET_DEVICE)]
    {
        let (mut device, memory, server) = set_up(Fake { protocol, ..Fake::new() });
        device.reset().unwrap();
        assert!(matches!(device.notify(1), Err(ClientError::NoQueue { .. })));
        device.reset().unwrap();
        drop((device, memory));
        let asked: Vec<_> = server.asked().into_iter().map(|(request, _)| request).collect();
        let stop = [R::SET_VRING_ENABLE, R::SET_VRING_ENABLE, R::GET_VRING_BASE, last];
        assert!(asked.windows(4).any(|window| window == stop), "{asked:?}");
        assert_eq!(asked.iter().filter(|r| **r == R::GET_VRING_BASE).count(), 1);
    }
}

#[test]
fn the_device_may_refuse_features_by_its_status() {
    let refused_status = DeviceStatus::FEATURES_OK.bits();
    let (device, _, _server) = connect(Fake { refused_status, ..Fake::new() });
    let mut device = device.unwrap();
    let wanted = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER | DeviceStatus::FEATURES_OK;
    device.set_status(wanted).unwrap();
    assert_eq!(device.status().unwrap(), wanted - DeviceStatus::FEATURES_OK);
}

#[test]
fn configuration_space_is_as_long_as_the_server_has_it() {
    for (has, len) in
        [(256, 96), (96, 96), (95, 72), (71, 60), (60, 60), (59, 36), (36, 36), (35, 32), (31, 0)]
    {
        let config = (0..=255).take(has).collect();
        let (device, _, _server) = connect(Fake { config, ..Fake::new() });
        assert_eq!(device.unwrap().config_len().unwrap(), len, "of {has}");
    }
    let (device, _, server) = connect(Fake::new());
    let mut device = device.unwrap();
    let mut bytes = [0; 4];
    device.read_config(92, &mut bytes).unwrap();
    assert_eq!(bytes, [92, 93, 94, 95]);
    let beyond = device.read_config(93, &mut bytes);
    assert!(matches!(beyond, Err(ClientError::ConfigRange { offset: 93, wanted: 4, len: 96 })));
    assert!(device.read_config(u32::MAX, &mut bytes).is_err());
    assert!(device.write_config(96, &[0]).is_err());
    device.write_config(32, &[1]).unwrap();
    let told =
        server.find(|t| if let Told::Config(at, data) = t { Some((at, data)) } else { None });
    assert_eq!(told, (32, vec![1]));
}

#[test]
fn a_change_of_configuration_is_seen_and_acknowledged() {
    let (mut device, _memory, server) = set_up(Fake::new());
    let socket = server.find(|t| if let Told::Requests(fd) = t { Some(fd) } else { None });
    let requests = Channel::new(UnixStream::from(socket));
    assert_eq!(device.config_generation().unwrap(), 0);
    let change = BackendRequest::CONFIG_CHANGE.0;
    requests.send_request(change, true, &[], &[], &PATIENT).unwrap();
    device.wait(1, None).unwrap();
    let acknowledged = |expected: u64| match requests.receive(&PATIENT).unwrap() {
        Received::Frame(frame) => {
            assert!(frame.header.is_reply());
            assert_eq!(frame.payload, expected.to_le_bytes());
        }
        other => panic!("{other:?}"),
    };
    acknowledged(0);
    assert_eq!(device.config_generation().unwrap(), 1);
    requests.send_request(change, false, &[], &[], &PATIENT).unwrap();
    requests.send_request(99, true, &[1, 2, 3], &[], &PATIENT).unwrap();
    assert_eq!(device.config_generation().unwrap(), 2);
    acknowledged(1);
    // The device can do without this socket; nobody is woken by its end for ever.
    drop(requests);
    device.wait(1, None).unwrap();
    assert!(matches!(device.wait(1, Some(1)), Err(ClientError::Silent { .. })));
}

#[test]
fn what_the_server_refuses_is_an_error() {
    let refused = FrontendRequest::SET_BACKEND_REQ_FD;
    let error = failure(Fake { refused: Some(refused), ..Fake::new() });
    assert!(matches!(error, ClientError::Refused { request } if request == refused), "{error:?}");
    let refused = FrontendRequest::SET_MEM_TABLE;
    let (device, memory, _server) = connect(Fake { refused: Some(refused), ..Fake::new() });
    let mut device = device.unwrap();
    device.set_driver_features(Features::VERSION_1).unwrap();
    let ring = memory.alloc(0x3000, 4096).unwrap();
    let error = device.set_up_queue(0, &layout(&ring)).unwrap_err();
    assert_eq!(error.to_string(), "the server refused SET_MEM_TABLE");
}

#[test]
fn a_server_without_configuration_space_is_no_block_device() {
    let protocol = ALL - ProtocolFeatures::CONFIG;
    let error = failure(Fake { protocol, ..Fake::new() });
    assert!(matches!(error, ClientError::Lacking(ProtocolFeatures::CONFIG)));
    let error = failure(Fake { features: Features::VERSION_1, ..Fake::new() });
    assert!(matches!(error, ClientError::Lacking(ProtocolFeatures::CONFIG)));
}

#[test]
fn answers_that_are_none_are_refused() {
    let request = FrontendRequest::GET_FEATURES;
    let garbled = |bytes: &[u8]| {
        let garbled = Some((request, bytes.to_vec()));
        failure(Fake { garbled, ..Fake::new() })
    };
    let violation = |bytes: &[u8]| match garbled(bytes) {
        ClientError::Violation { request: r, violation } if r == request => violation,
        other => panic!("{other:?}"),
    };
    assert_eq!(violation(&[1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]), Violation::NotAReply);
    let other = Violation::OtherRequest(FrontendRequest::SET_FEATURES);
    assert_eq!(violation(&[2, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]), other);
    let short = Violation::Size { expected: 8, got: 1 };
    assert_eq!(violation(&[1, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 9]), short);
    let error = garbled(&[1, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0]);
    assert!(matches!(error, ClientError::Channel { source: ChannelError::Header(_), .. }));
    let error = garbled(&[1, 0, 0]);
    assert!(matches!(error, ClientError::Unanswered { milliseconds: 500, .. }), "{error:?}");
}

#[test]
fn queues_that_can_not_be_are_refused_here() {
    let (device, memory, server) = connect(Fake::new());
    let mut device = device.unwrap();
    let ring = memory.alloc(0x3000, 4096).unwrap();
    let good = layout(&ring);
    let mut refused = |index, layout: QueueLayout| device.set_up_queue(index, &layout).unwrap_err();
    assert!(matches!(refused(2, good), ClientError::NoQueue { queue: 2 }));
    for size in [0, 3, 512] {
        let error = refused(0, QueueLayout { size, ..good });
        assert!(matches!(error, ClientError::QueueSize { queue: 0, size: s } if s == size));
    }
    let end = SharedMemory::DEVICE_BASE + memory.len() as u64;
    for layout in [
        QueueLayout { descriptors: end - 2047, ..good },
        QueueLayout { available: SharedMemory::DEVICE_BASE - 2, ..good },
        QueueLayout { used: u64::MAX - 3, ..good },
        QueueLayout { used: ring.host.as_ptr() as u64, ..good },
    ] {
        assert!(matches!(refused(0, layout), ClientError::QueueMemory { queue: 0 }));
    }
    drop(device);
    let asked = server.asked();
    assert!(asked.iter().all(|(request, _)| *request != FrontendRequest::SET_VRING_NUM));
}

#[test]
fn nobody_listening_is_said_plainly() {
    let directory = tempfile::tempdir().unwrap();
    let memory = || SharedMemory::new(4096).unwrap();
    let refused = |path: &Path| VhostUser::connect(path, memory(), Options::default()).unwrap_err();
    let path = directory.path().join("none.sock");
    let error = refused(&path);
    assert!(matches!(error, ClientError::NoServer { .. }));
    assert_eq!(error.to_string(), format!("no server listens on {}", path.display()));
    let path = directory.path().join("stale.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(matches!(refused(&path), ClientError::NoServer { .. }));
    let long = directory.path().join("x".repeat(200));
    assert!(matches!(refused(&long), ClientError::Connect { .. }));
}

#[test]
fn memory_is_given_out_once_aligned_and_zeroed() {
    let memory = SharedMemory::new(1 << 20).unwrap();
    let file = File::from(memory.file().try_clone_to_owned().unwrap());
    let seed = 0x5eed_0000 | u64::from(std::process::id());
    println!("seed {seed:#x}");
    let mut state = seed;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let mut held: Vec<DmaRegion> = Vec::new();
    for _ in 0..5_000 {
        if random(5) < 3 {
            let (len, align) = (random(40_000) as usize, 1 << random(13));
            let Some(region) = memory.alloc(len, align) else { continue };
            assert!(region.len >= len && region.len > 0);
            assert!(region.device.is_multiple_of(align as u64));
            assert!((region.host.as_ptr() as usize).is_multiple_of(align));
            assert_eq!(
                memory.to_user(region.device, region.len as u64),
                Some(region.host.as_ptr() as u64)
            );
            let apart = |other: &DmaRegion| {
                region.device + region.len as u64 <= other.device
                    || other.device + other.len as u64 <= region.device
            };
            assert!(held.iter().all(apart));
            let offset = region.device - SharedMemory::DEVICE_BASE;
            let mut bytes = vec![1; region.len];
            file.read_exact_at(&mut bytes, offset).unwrap();
            assert!(bytes.iter().all(|byte| *byte == 0), "not zeroed");
            bytes.fill(0xff);
            file.write_all_at(&bytes, offset).unwrap();
            held.push(region);
        } else if !held.is_empty() {
            let region = held.swap_remove(random(held.len() as u64) as usize);
            memory.give_back(region.device, region.len);
        }
        let in_use: usize = held.iter().map(|region| region.len).sum();
        assert_eq!(memory.available(), memory.len() - in_use);
    }
    for region in held {
        memory.give_back(region.device, region.len);
    }
    assert!(memory.alloc(1 << 20, 4096).is_some(), "the pieces were joined again");
    assert!(memory.alloc(1, 1).is_none());
}

#[test]
fn what_memory_can_not_be_is_not_given() {
    let memory = SharedMemory::new(1).unwrap();
    assert_eq!(memory.len(), 4096);
    assert!(memory.alloc(4097, 1).is_none());
    assert!(memory.alloc(usize::MAX, 1).is_none());
    assert!(memory.alloc(1, 3).is_none());
    assert!(memory.alloc(1, 0).is_none());
    assert!(memory.alloc(1, 8192).is_none());
    assert!(SharedMemory::new(usize::MAX).is_err());
    let region = memory.clone().alloc(4096, 4096).unwrap();
    assert_eq!(memory.available(), 0);
    memory.give_back(region.device, region.len);
    let twice = std::panic::catch_unwind(|| memory.give_back(region.device, region.len));
    assert!(twice.is_err(), "freed twice");
    assert!(memory.alloc(4096, 1).is_some(), "and still in order");
}

#[test]
fn the_other_side_can_not_cut_memory_short() {
    let memory = SharedMemory::new(1 << 16).unwrap();
    let file = File::from(memory.file().try_clone_to_owned().unwrap());
    assert!(file.set_len(0).is_err());
    assert!(file.set_len(1 << 20).is_err());
}
