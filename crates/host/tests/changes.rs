//! What a frontend is told without having asked: that the configuration, or NEEDS_RESET, has changed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::pipe::{PipeFlags, pipe, pipe_with};
use support::Rig;
use support::raw::{Raw, ask_id, wait_for};
use support::volume::SlowVolume;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;
use zvb_host::vhost_user::{BackendMessage, Channel, FrontendRequest as R, Patience, Received};

/// CONFIG_CHANGE_MSG, which wants no answer.
const CHANGE: [u8; 12] = [2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
const BACKEND_REQ: u64 = 1 << 5;

fn rig() -> Rig {
    Rig::new(SlowVolume::new(), 2)
}

/// A frontend that wants to be told through `theirs`.
fn told_through(rig: &Rig, theirs: &OwnedFd) -> Raw {
    let raw = Raw::negotiated(&rig.path, true);
    assert_eq!(raw.request(R::SET_BACKEND_REQ_FD, &[0u8; 0][..], &[theirs.as_fd()]), 0);
    raw
}

fn socket() -> (Channel, OwnedFd) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Channel::new(ours), theirs.into())
}

#[track_caller]
fn expect_change(channel: &Channel) {
    let patience = Patience { timeout: Some(Duration::from_secs(10)), ..Patience::default() };
    match channel.receive(&patience).unwrap() {
        Received::Frame(frame) => {
            assert!(!frame.header.needs_reply());
            let message = frame.into_backend_message();
            assert!(matches!(message, Ok(BackendMessage::ConfigChange)), "{message:?}");
        }
        other => panic!("{other:?}"),
    }
}

fn is_readable(fd: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).unwrap() > 0
}

/// The frontend's session is served still.
#[track_caller]
fn goes_on(raw: &Raw) {
    assert_eq!(raw.ask(R::GET_QUEUE_NUM), 2);
}

#[test]
fn whoever_is_attached_is_told_from_any_thread() {
    let rig = rig();
    // Nobody is.
    rig.device.announce_config_change();
    let (channel, theirs) = socket();
    let raw = told_through(&rig, &theirs);
    for _ in 0..3 {
        let device = rig.device.clone();
        std::thread::spawn(move || device.announce_config_change()).join().unwrap();
        expect_change(&channel);
    }
    assert!(!is_readable(&channel));
    // Also after a reset: the frontend gave the socket once.
    assert_eq!(raw.status(0), 0);
    rig.device.announce_config_change();
    expect_change(&channel);
    // Another socket takes the place of the first.
    let (second, theirs) = socket();
    assert_eq!(raw.request(R::SET_BACKEND_REQ_FD, &[0u8; 0][..], &[theirs.as_fd()]), 0);
    rig.device.announce_config_change();
    expect_change(&second);
    assert!(
        !is_readable(&channel)
            || matches!(channel.receive(&Patience::default()), Ok(Received::End))
    );
    goes_on(&raw);
    // And nobody is any more.
    drop(raw);
    drop((channel, second));
    let raw = Raw::negotiated(&rig.path, true);
    rig.device.announce_config_change();
    goes_on(&raw);
}

#[test]
fn a_pipe_will_do_and_its_reader_needs_not_read() {
    let rig = rig();
    for flags in [PipeFlags::CLOEXEC, PipeFlags::CLOEXEC | PipeFlags::NONBLOCK] {
        let (reader, writer) = pipe_with(flags).unwrap();
        let raw = told_through(&rig, &writer);
        let start = Instant::now();
        for _ in 0..20_000 {
            rig.device.announce_config_change();
        }
        assert!(start.elapsed() < Duration::from_secs(60));
        goes_on(&raw);
        let mut bytes = [0; 12];
        assert_eq!(rustix::io::read(&reader, &mut bytes).unwrap(), 12);
        assert_eq!(bytes, CHANGE);
        // Read to the end, it is told again.
        while is_readable(&reader) {
            let mut bytes = [0; 1200];
            let got = rustix::io::read(&reader, &mut bytes).unwrap();
            assert!(bytes[..got].chunks(12).all(|message| message == CHANGE));
        }
        rig.device.announce_config_change();
        assert_eq!(rustix::io::read(&reader, &mut bytes).unwrap(), 12);
        assert_eq!(bytes, CHANGE);
        // A reader that is gone is no harm either.
        drop(reader);
        rig.device.announce_config_change();
        rig.device.announce_config_change();
        goes_on(&raw);
    }
}

#[test]
fn a_frontend_that_does_not_read_or_says_too_much_holds_nobody_up() {
    let rig = rig();
    let (channel, theirs) = socket();
    let raw = told_through(&rig, &theirs);
    for _ in 0..20_000 {
        rig.device.announce_config_change();
    }
    goes_on(&raw);
    let mut read = 0;
    while is_readable(&channel) {
        expect_change(&channel);
        read += 1;
    }
    assert!((1..20_000).contains(&read), "{read}");
    // It answers what wants no answer: thrown away, and it can say it again and again.
    for _ in 0..2000 {
        let patience = Patience { timeout: Some(Duration::from_secs(10)), ..Patience::default() };
        channel.send_reply(2, U64::new(0).as_bytes(), &[raw_fd(&raw)], &patience).unwrap();
        rig.device.announce_config_change();
        expect_change(&channel);
    }
    drop(channel);
    rig.device.announce_config_change();
    goes_on(&raw);
}

fn raw_fd(raw: &Raw) -> std::os::fd::BorrowedFd<'_> {
    raw.stream().as_fd()
}

#[test]
fn an_odd_descriptor_is_refused_and_the_session_goes_on() {
    let rig = rig();
    let raw = Raw::negotiated(&rig.path, true);
    let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let file = tempfile::tempfile().unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    for fd in [event.as_fd(), file.as_fd(), null.as_fd(), raw_fd(&raw)] {
        assert_eq!(raw.request(R::SET_BACKEND_REQ_FD, &[0u8; 0][..], &[fd]), 1);
        // Not wanting to know is no reason to hang up.
        raw.send(R::SET_BACKEND_REQ_FD, false, &[], &[fd]);
        rig.device.announce_config_change();
        goes_on(&raw);
    }
    rig.log.wait_for("is no socket and no pipe");
    rig.log.wait_for("the frontend's end of a connection to us");
    // What has the right kind and is of no use after all.
    let (reader, _writer) = pipe().unwrap();
    let listening =
        std::os::unix::net::UnixListener::bind(rig.path.with_extension("other")).unwrap();
    for fd in [reader.as_fd(), listening.as_fd()] {
        assert_eq!(raw.request(R::SET_BACKEND_REQ_FD, &[0u8; 0][..], &[fd]), 0);
        rig.device.announce_config_change();
        goes_on(&raw);
    }
    rig.log.wait_for("the frontend can not be told of changes any more");
}

#[test]
fn without_the_protocol_feature_there_is_no_way_and_no_harm() {
    let rig = rig();
    let raw = Raw::connect(&rig.path);
    raw.tell(R::SET_OWNER, &[]);
    let protocol = raw.ask(R::GET_PROTOCOL_FEATURES);
    assert_ne!(protocol & BACKEND_REQ, 0);
    raw.tell(R::SET_PROTOCOL_FEATURES, U64::new(protocol & !BACKEND_REQ).as_bytes());
    let (channel, theirs) = socket();
    assert_eq!(raw.request(R::SET_BACKEND_REQ_FD, &[0u8; 0][..], &[theirs.as_fd()]), 1);
    drop(theirs);
    rig.device.announce_config_change();
    assert!(matches!(channel.receive(&Patience::default()), Ok(Received::End)));
    goes_on(&raw);
}

/// Conformance 136: NEEDS_RESET with DRIVER_OK is notified, once for each queue that breaks.
#[test]
fn a_broken_ring_is_notified() {
    let rig = rig();
    let (channel, theirs) = socket();
    let raw = told_through(&rig, &theirs);
    let memory = raw.add_memory(1 << 20);
    raw.accept_features();
    raw.describe_queue(0);
    let call = raw.event(R::SET_VRING_CALL, 0);
    let kick = raw.event(R::SET_VRING_KICK, 0);
    assert_eq!(raw.state(R::SET_VRING_ENABLE, 0, 1), 0);
    assert_eq!((raw.status(11), raw.status(15)), (0, 0));
    ask_id(&memory, 0, 0);
    rustix::io::write(&kick, &1u64.to_le_bytes()).unwrap();
    wait_for(&call);
    assert!(!is_readable(&channel));
    rustix::io::pwrite(&memory, &1000u16.to_le_bytes(), 0x202).unwrap();
    rustix::io::write(&kick, &1u64.to_le_bytes()).unwrap();
    expect_change(&channel);
    // It is there to be seen by then.
    assert_eq!(raw.ask(R::GET_STATUS), 15 | 64);
    assert!(!is_readable(&channel));
    // A queue that can not start is as fatal.
    assert_eq!(raw.status(0), 0);
    raw.accept_features();
    let mut address = raw.describe_queue(0);
    address.used.set(0x1234_5678_0000);
    assert_eq!(raw.request(R::SET_VRING_ADDR, &address, &[]), 0);
    let _kick = raw.event(R::SET_VRING_KICK, 0);
    assert_eq!(raw.state(R::SET_VRING_ENABLE, 0, 1), 0);
    assert_eq!((raw.status(11), raw.status(15)), (0, 1));
    expect_change(&channel);
    assert_eq!(raw.ask(R::GET_STATUS), 15 | 64);
}

#[test]
fn our_driver_notices() {
    let rig = rig();
    let mut disk = rig.disk();
    assert!(!disk.config_changed().unwrap());
    rig.device.announce_config_change();
    disk.wait(0, Some(10_000)).unwrap();
    assert!(disk.config_changed().unwrap());
    assert!(!disk.refresh().unwrap(), "nothing changed after all");
    assert!(!disk.config_changed().unwrap());
    // A signal for an answer that was polled already may come late, but only one.
    let wakes = (0..3).filter(|_| disk.wait(0, Some(20)).is_ok()).count();
    assert!(wakes <= 1, "told again and again");
    assert!(!disk.config_changed().unwrap());
    disk.flush().unwrap();
}
