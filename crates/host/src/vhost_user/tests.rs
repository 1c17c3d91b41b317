use std::io::{IoSlice, Read, Write};
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::pipe::pipe;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};
use zvb_wire::{DeviceStatus, Features};

use super::*;

/// Long enough for what must come, short enough for what must not.
const SOON: Patience<'static> = Patience { stop: None, timeout: Some(Duration::from_millis(50)) };
const PATIENT: Patience<'static> = Patience { stop: None, timeout: Some(Duration::from_secs(20)) };

fn pair() -> (Channel, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Channel::new(ours), theirs)
}

fn frame(channel: &Channel) -> Frame {
    match channel.receive(&PATIENT).unwrap() {
        Received::Frame(frame) => frame,
        other => panic!("{other:?}"),
    }
}

fn any_fd() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC).unwrap()
}

fn any_fds(count: usize) -> Vec<OwnedFd> {
    (0..count).map(|_| any_fd()).collect()
}

fn decode(
    request: FrontendRequest,
    payload: &[u8],
    fds: usize,
) -> Result<FrontendMessage, DecodeFault> {
    FrontendMessage::decode(request, payload, any_fds(fds)).map_err(|error| {
        assert_eq!(error.request, Request::Frontend(request));
        error.fault
    })
}

/// Sends `bytes` with `fds` attached to the first of them, as another program would.
fn send_raw(socket: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(128))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    let sent = sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
    assert_eq!(sent, bytes.len());
}

#[test]
fn requests_are_the_bytes_of_the_protocol() {
    let (channel, mut peer) = pair();
    let address = VringAddress {
        index: U32::new(1),
        flags: U32::ZERO,
        descriptor: U64::new(0x1122_3344_5566_7788),
        used: U64::new(0x2000),
        available: U64::new(0x3000),
        log: U64::ZERO,
    };
    channel
        .send_request(FrontendRequest::SET_VRING_ADDR.0, true, address.as_bytes(), &[], &SOON)
        .unwrap();
    let mut got = [0; 52];
    peer.read_exact(&mut got).unwrap();
    #[rustfmt::skip]
    assert_eq!(got, [
        9, 0, 0, 0, 0b1001, 0, 0, 0, 40, 0, 0, 0,
        1, 0, 0, 0, 0, 0, 0, 0,
        0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,
        0, 0x20, 0, 0, 0, 0, 0, 0,
        0, 0x30, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0,
    ]);
    channel.send_request(FrontendRequest::GET_FEATURES.0, false, &[], &[], &SOON).unwrap();
    channel.send_reply(FrontendRequest::GET_STATUS.0, U64::new(15).as_bytes(), &[], &SOON).unwrap();
    let mut got = [0; 32];
    peer.read_exact(&mut got).unwrap();
    #[rustfmt::skip]
    assert_eq!(got, [
        1, 0, 0, 0, 0b0001, 0, 0, 0, 0, 0, 0, 0,
        40, 0, 0, 0, 0b0101, 0, 0, 0, 8, 0, 0, 0, 15, 0, 0, 0, 0, 0, 0, 0,
    ]);
}

#[test]
fn the_bytes_of_the_protocol_are_understood() {
    let (channel, peer) = pair();
    let (file, kick) = (any_fd(), any_fd());
    #[rustfmt::skip]
    send_raw(&peer, &[
        5, 0, 0, 0, 0b1001, 0, 0, 0, 40, 0, 0, 0,
        1, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 1, 0, 0, 0,
        0, 0x10, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0x7f, 0, 0,
        0, 0x20, 0, 0, 0, 0, 0, 0,
    ], &[file.as_fd()]);
    let table = frame(&channel);
    assert!(table.header.needs_reply() && !table.header.is_reply());
    let FrontendMessage::SetMemTable(regions) = table.into_frontend_message().unwrap() else {
        panic!("not a memory table");
    };
    let [(region, _file)] = regions.as_slice() else { panic!("not one region") };
    assert_eq!(region.guest_address, 1 << 32);
    assert_eq!(region.size, 0x1000);
    assert_eq!(region.user_address, 0x7f00_0000_0000);
    assert_eq!(region.mmap_offset, 0x2000);

    // The file descriptor goes with the header or with the payload: both are done.
    send_raw(&peer, &[12, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0], &[]);
    send_raw(&peer, &[3, 0, 0, 0, 0, 0, 0, 0], &[kick.as_fd()]);
    let message = frame(&channel).into_frontend_message().unwrap();
    let FrontendMessage::SetVringKick(VringFile { index: 3, file: Some(file) }) = message else {
        panic!("{message:?}");
    };
    rustix::io::write(&kick, &7u64.to_le_bytes()).unwrap();
    let mut counter = [0; 8];
    rustix::io::read(&file, &mut counter).unwrap();
    assert_eq!(counter, [7, 0, 0, 0, 0, 0, 0, 0], "it is the same eventfd");
    let flags = rustix::io::fcntl_getfd(&file).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));

    send_raw(&peer, &[2, 0, 0, 0, 0b1001, 0, 0, 0, 0, 0, 0, 0], &[]);
    let message = frame(&channel).into_backend_message();
    assert!(matches!(message, Ok(BackendMessage::ConfigChange)), "{message:?}");
}

#[test]
fn every_request_of_a_block_device_is_understood() {
    use FrontendMessage as M;
    use FrontendRequest as R;
    let state = VringState { index: U32::new(2), num: U32::new(1) };
    let state = state.as_bytes();
    let number = |n: u64| U64::new(n);
    let ok = |request, payload: &[u8], fds| decode(request, payload, fds).unwrap();
    assert!(matches!(ok(R::GET_FEATURES, &[], 0), M::GetFeatures));
    let features = Features::ZONED | Features::VERSION_1;
    let message = ok(R::SET_FEATURES, number(features.bits()).as_bytes(), 0);
    assert!(matches!(message, M::SetFeatures(f) if f == features));
    assert!(matches!(ok(R::SET_OWNER, &[], 0), M::SetOwner));
    assert!(matches!(ok(R::RESET_OWNER, &[], 0), M::ResetOwner));
    assert!(matches!(ok(R::SET_VRING_NUM, state, 0), M::SetVringNum { index: 2, size: 1 }));
    assert!(matches!(ok(R::SET_VRING_BASE, state, 0), M::SetVringBase { index: 2, base: 1 }));
    assert!(matches!(ok(R::GET_VRING_BASE, state, 0), M::GetVringBase { index: 2 }));
    let message = ok(R::SET_VRING_CALL, number(0x105).as_bytes(), 0);
    assert!(matches!(message, M::SetVringCall(VringFile { index: 5, file: None })));
    let message = ok(R::SET_VRING_ERR, number(255).as_bytes(), 1);
    assert!(matches!(message, M::SetVringErr(VringFile { index: 255, file: Some(_) })));
    assert!(matches!(ok(R::GET_PROTOCOL_FEATURES, &[], 0), M::GetProtocolFeatures));
    let message = ok(R::SET_PROTOCOL_FEATURES, number(1 << 16 | 1).as_bytes(), 0);
    let wanted = ProtocolFeatures::STATUS | ProtocolFeatures::MQ;
    assert!(matches!(message, M::SetProtocolFeatures(f) if f == wanted));
    assert!(matches!(ok(R::GET_QUEUE_NUM, &[], 0), M::GetQueueNum));
    let message = ok(R::SET_VRING_ENABLE, state, 0);
    assert!(matches!(message, M::SetVringEnable { index: 2, enabled: true }));
    assert!(matches!(ok(R::SET_BACKEND_REQ_FD, &[], 1), M::SetBackendReqFd(_)));
    assert!(matches!(ok(R::RESET_DEVICE, &[], 0), M::ResetDevice));
    assert!(matches!(ok(R::VRING_KICK, state, 0), M::VringKick { index: 2 }));
    assert!(matches!(ok(R::GET_MAX_MEM_SLOTS, &[], 0), M::GetMaxMemSlots));
    assert!(matches!(ok(R::ADD_MEM_REG, &[1; 40], 1), M::AddMemReg(..)));
    // Without a file descriptor, as it should be, and with one, as it is.
    for fds in [0, 1] {
        let M::RemMemReg(region) = ok(R::REM_MEM_REG, &[1; 40], fds) else { panic!() };
        assert_eq!(region.size, 0x0101_0101_0101_0101);
    }
    let message = ok(R::SET_STATUS, number(0x8f).as_bytes(), 0);
    assert!(matches!(message, M::SetStatus(s) if s.contains(DeviceStatus::FAILED)));
    assert!(matches!(ok(R::GET_STATUS, &[], 0), M::GetStatus));
    let short = [7; Inflight::SHORT_BYTES];
    assert!(matches!(ok(R::GET_INFLIGHT_FD, &short, 0), M::GetInflightFd(i) if i.padding == 0));
    let M::SetInflightFd(inflight, _) = ok(R::SET_INFLIGHT_FD, &[7; 24], 1) else { panic!() };
    assert_eq!((inflight.num_queues.get(), inflight.queue_size.get()), (0x0707, 0x0707));
    // What is unknown, and what is for others, is a value.
    for code in [0, 6, 19, 22, 26, 28, 33, 41, 44, 45, u32::MAX] {
        let message = ok(FrontendRequest(code), &[9; 100], 3);
        assert!(matches!(message, M::Unsupported(FrontendRequest(c)) if c == code));
    }
}

#[test]
fn configuration_space_comes_with_room_or_without() {
    use FrontendRequest as R;
    let header = |size| ConfigHeader {
        offset: U32::new(4),
        size: U32::new(size),
        flags: U32::new(ConfigFlags::MIGRATION.bits()),
    };
    let payload = |size, bytes| [header(size).as_bytes(), &vec![0x5a; bytes]].concat();
    for bytes in [0, 60] {
        let message = decode(R::GET_CONFIG, &payload(60, bytes), 0).unwrap();
        let FrontendMessage::GetConfig { offset: 4, size: 60, flags } = message else { panic!() };
        assert_eq!(flags, ConfigFlags::MIGRATION);
    }
    let message = decode(R::SET_CONFIG, &payload(2, 2), 0).unwrap();
    let FrontendMessage::SetConfig { offset: 4, data, .. } = message else { panic!() };
    assert_eq!(data, [0x5a; 2]);
    let fault = |request, size, bytes| decode(request, &payload(size, bytes), 0).unwrap_err();
    assert_eq!(fault(R::SET_CONFIG, 2, 0), DecodeFault::Truncated { expected: 14, got: 12 });
    assert_eq!(fault(R::SET_CONFIG, 2, 3), DecodeFault::Trailing { expected: 14, got: 15 });
    assert_eq!(fault(R::GET_CONFIG, 60, 1), DecodeFault::Truncated { expected: 72, got: 13 });
    assert_eq!(fault(R::GET_CONFIG, 257, 0), DecodeFault::ConfigSize { size: 257 });
    assert_eq!(fault(R::SET_CONFIG, u32::MAX, 9), DecodeFault::ConfigSize { size: u32::MAX });
}

#[test]
fn what_is_not_its_request_is_refused_by_name() {
    use FrontendRequest as R;
    let fault = |request, payload: &[u8], fds| decode(request, payload, fds).unwrap_err();
    assert_eq!(fault(R::GET_FEATURES, &[0], 0), DecodeFault::Trailing { expected: 0, got: 1 });
    assert_eq!(fault(R::SET_OWNER, &[], 1), DecodeFault::TooManyFds { expected: 0, got: 1 });
    assert_eq!(fault(R::SET_FEATURES, &[0; 7], 0), DecodeFault::Truncated { expected: 8, got: 7 });
    assert_eq!(
        fault(R::SET_VRING_ADDR, &[0; 41], 0),
        DecodeFault::Trailing { expected: 40, got: 41 }
    );
    assert_eq!(
        fault(R::SET_VRING_KICK, &[0; 8], 0),
        DecodeFault::MissingFd { expected: 1, got: 0 }
    );
    assert_eq!(
        fault(R::SET_VRING_KICK, &[0; 8], 2),
        DecodeFault::TooManyFds { expected: 1, got: 2 }
    );
    let no_fd = 0x100u64.to_le_bytes();
    assert_eq!(
        fault(R::SET_VRING_CALL, &no_fd, 1),
        DecodeFault::TooManyFds { expected: 0, got: 1 }
    );
    let reserved = 0x200u64.to_le_bytes();
    assert_eq!(fault(R::SET_VRING_CALL, &reserved, 1), DecodeFault::Value { value: 0x200 });
    let enable = [0, 0, 0, 0, 2, 0, 0, 0];
    assert_eq!(fault(R::SET_VRING_ENABLE, &enable, 0), DecodeFault::Value { value: 2 });
    let status = 0x100u64.to_le_bytes();
    assert_eq!(fault(R::SET_STATUS, &status, 0), DecodeFault::Value { value: 0x100 });
    assert_eq!(fault(R::ADD_MEM_REG, &[0; 40], 0), DecodeFault::MissingFd { expected: 1, got: 0 });
    assert_eq!(fault(R::REM_MEM_REG, &[0; 40], 2), DecodeFault::TooManyFds { expected: 1, got: 2 });
    assert_eq!(
        fault(R::GET_INFLIGHT_FD, &[0; 22], 0),
        DecodeFault::Truncated { expected: 24, got: 22 }
    );
    let error = FrontendMessage::decode(R::SET_VRING_NUM, &[1], Vec::new()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "SET_VRING_NUM: truncated: 1 bytes of payload where 8 were expected"
    );
}

#[test]
fn a_memory_table_has_as_many_files_as_regions() {
    let table = |regions: u32, bytes| {
        let header = MemoryTableHeader { regions: U32::new(regions), padding: U32::ZERO };
        [header.as_bytes(), &vec![0; bytes]].concat()
    };
    let request = FrontendRequest::SET_MEM_TABLE;
    for count in [0, 1, 8, MAX_TABLE_REGIONS] {
        let payload = table(count as u32, count * size_of::<MemoryRegion>());
        let Ok(FrontendMessage::SetMemTable(regions)) = decode(request, &payload, count) else {
            panic!("{count} regions");
        };
        assert_eq!(regions.len(), count);
    }
    // Room for more regions than there are: User-Mode Linux sends 72 bytes, whatever it has.
    let Ok(FrontendMessage::SetMemTable(regions)) = decode(request, &table(1, 64), 1) else {
        panic!("one region of two");
    };
    assert_eq!(regions.len(), 1);
    let fault = |payload: &[u8], fds| decode(request, payload, fds).unwrap_err();
    assert_eq!(fault(&table(2, 64), 1), DecodeFault::MissingFd { expected: 2, got: 1 });
    assert_eq!(fault(&table(2, 64), 3), DecodeFault::TooManyFds { expected: 2, got: 3 });
    assert_eq!(fault(&table(2, 63), 2), DecodeFault::Truncated { expected: 72, got: 71 });
    assert_eq!(fault(&table(1, 33), 1), DecodeFault::Trailing { expected: 40, got: 41 });
    assert_eq!(fault(&table(1, 64), 2), DecodeFault::TooManyFds { expected: 1, got: 2 });
    assert_eq!(fault(&table(33, 64), 2), DecodeFault::TooManyRegions { count: 33 });
    assert_eq!(fault(&table(u32::MAX, 0), 0), DecodeFault::TooManyRegions { count: u32::MAX });
    assert_eq!(fault(&[1, 0, 0], 0), DecodeFault::Truncated { expected: 8, got: 3 });
}

#[test]
fn an_answer_is_no_request() {
    let header = Header::reply(FrontendRequest::SET_OWNER.0, 0);
    let frame = || Frame { header, payload: Vec::new(), fds: Vec::new() };
    assert_eq!(frame().into_frontend_message().unwrap_err().fault, DecodeFault::Reply);
    assert_eq!(frame().into_backend_message().unwrap_err().fault, DecodeFault::Reply);
}

#[test]
fn no_bytes_make_decoding_panic() {
    let seed = std::process::id() as u64 | 1 << 40;
    println!("seed {seed}");
    let mut state = seed;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..20_000 {
        let request = (random() % 48) as u32;
        let payload: Vec<u8> =
            (0..random() % 80).map(|_| (random() % 4) as u8 * (random() % 2) as u8).collect();
        let fds = if random() % 8 == 0 { (random() % 4) as usize } else { 0 };
        let _ = FrontendMessage::decode(FrontendRequest(request), &payload, any_fds(fds));
        let _ = BackendMessage::decode(BackendRequest(request), &payload, Vec::new());
    }
}

#[test]
fn a_message_may_come_in_any_pieces() {
    let (channel, peer) = pair();
    let message = [&[8, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0][..], &[1, 0, 0, 0, 0, 2, 0, 0]].concat();
    let sender = thread::spawn(move || {
        for bytes in message.chunks(1).cycle().take(message.len() * 3) {
            (&peer).write_all(bytes).unwrap();
        }
        peer
    });
    for _ in 0..3 {
        let message = frame(&channel).into_frontend_message().unwrap();
        assert!(matches!(message, FrontendMessage::SetVringNum { index: 1, size: 512 }));
    }
    drop(sender.join().unwrap());
    assert!(matches!(channel.receive(&SOON), Ok(Received::End)));
}

#[test]
fn long_messages_go_through_a_narrow_socket_whole() {
    let (channel, peer) = pair();
    rustix::net::sockopt::set_socket_send_buffer_size(channel.as_fd(), 1).unwrap();
    let receiver = thread::spawn(move || {
        let channel = Channel::new(peer);
        for round in 0..50 {
            let got = frame(&channel);
            assert_eq!(got.payload, vec![round; MAX_PAYLOAD_BYTES as usize]);
            assert_eq!(got.fds.len(), MAX_FDS);
        }
    });
    let fds = any_fds(MAX_FDS);
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    for round in 0..50 {
        let payload = vec![round; MAX_PAYLOAD_BYTES as usize];
        channel.send_request(5, false, &payload, &fds, &PATIENT).unwrap();
    }
    receiver.join().unwrap();
}

#[test]
fn headers_of_no_message_end_the_session() {
    let refused = |header: [u8; 12]| {
        let (channel, mut peer) = pair();
        peer.write_all(&header).unwrap();
        match channel.receive(&SOON) {
            Err(ChannelError::Header(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    for version in [0, 2, 3] {
        let error = refused([1, 0, 0, 0, version, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(error, HeaderError::Version { version: version.into() });
    }
    let error = refused([1, 0, 0, 0, 1, 0, 0, 0, 1, 0x10, 0, 0]);
    assert_eq!(error, HeaderError::Oversized { size: MAX_PAYLOAD_BYTES + 1 });
    let error = refused([1, 0, 0, 0, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(error, HeaderError::Oversized { size: u32::MAX });
}

#[test]
fn too_many_file_descriptors_are_refused_and_all_closed() {
    let header = [1, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0];
    // In one piece, cut short by the kernel or not; and in two, each of which would do.
    for (first, second) in [(MAX_FDS + 1, 0), (100, 0), (MAX_FDS, 1)] {
        let (channel, peer) = pair();
        let (reader, writer) = pipe().unwrap();
        let fds = vec![writer.as_fd(); first];
        send_raw(&peer, &header, &fds);
        send_raw(&peer, &[0; 8], &vec![writer.as_fd(); second]);
        let received = channel.receive(&SOON);
        assert!(matches!(received, Err(ChannelError::TooManyFds)), "{received:?}");
        // Undelivered ones are in the socket still.
        drop((channel, peer, writer));
        let end = rustix::io::read(&reader, &mut [0; 1]).unwrap();
        assert_eq!(end, 0, "a copy of the writing end is open");
    }
}

#[test]
fn file_descriptors_of_refused_messages_are_closed() {
    let (reader, writer) = pipe().unwrap();
    let fds = vec![writer.try_clone().unwrap(), writer];
    FrontendMessage::decode(FrontendRequest::GET_FEATURES, &[], fds).unwrap_err();
    assert_eq!(rustix::io::read(&reader, &mut [0; 1]).unwrap(), 0);
}

#[test]
fn an_end_inside_a_message_is_an_error() {
    for cut in 1..20 {
        let (channel, mut peer) = pair();
        let message = [8, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0, 2, 0, 0];
        peer.write_all(&message[..cut]).unwrap();
        drop(peer);
        let received = channel.receive(&SOON);
        assert!(matches!(received, Err(ChannelError::Cut)), "after {cut}: {received:?}");
    }
    let (channel, peer) = pair();
    // The other side goes without having read what we sent.
    channel.send_request(1, false, &[], &[], &SOON).unwrap();
    drop(peer);
    assert!(matches!(channel.receive(&SOON), Ok(Received::End)));
    let sent = channel.send_request(1, false, &[], &[], &SOON);
    assert!(matches!(sent, Err(ChannelError::Gone)), "{sent:?}");
}

#[test]
fn waiting_ends_on_time_or_when_told() {
    let (channel, mut peer) = pair();
    assert!(matches!(channel.receive(&SOON), Err(ChannelError::TimedOut)));
    peer.write_all(&[1, 0, 0, 0, 1]).unwrap();
    assert!(matches!(channel.receive(&SOON), Err(ChannelError::TimedOut)));

    let (channel, _peer) = pair();
    let stop = any_fd();
    let patience = Patience { stop: Some(stop.as_fd()), timeout: None };
    thread::scope(|scope| {
        let receiver = scope.spawn(|| channel.receive(&patience));
        thread::sleep(Duration::from_millis(20));
        rustix::io::write(&stop, &1u64.to_le_bytes()).unwrap();
        assert!(matches!(receiver.join().unwrap(), Ok(Received::Stopped)));
    });
    let sent = channel.send_request(1, false, &[], &[], &patience);
    assert!(matches!(sent, Err(ChannelError::Stopped)));
}

#[test]
fn a_peer_that_does_not_read_does_not_hold_us() {
    let (channel, _peer) = pair();
    let mut sent = Ok(());
    for _ in 0..10_000 {
        sent = channel.send_request(1, false, &[0; 4096], &[], &SOON);
        if sent.is_err() {
            break;
        }
    }
    assert!(matches!(sent, Err(ChannelError::TimedOut)), "{sent:?}");
}
