//! What a frontend is told without having asked: that the configuration, or NEEDS_RESET, has changed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::pipe::{PipeFlags, pipe, pipe_with};
use support::raw::{Raw, ask_id, wait_for};
use support::volume::SlowVolume;
use support::{Rig, pattern};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;
use zvb_device::{Device, DeviceOptions};
use zvb_driver::Options;
use zvb_host::vhost_user::{BackendMessage, Channel, FrontendRequest as R, Patience, Received};
use zvb_storage::{CheckOptions, CreateOptions, GrowError, Image, Memory, OpenOptions, Volume};
use zvb_wire::{Condition, Model, Sector};

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

/// A driver comes up, and one of its queues runs: its memory and kick.
fn start(raw: &Raw) -> (OwnedFd, OwnedFd) {
    let memory = raw.add_memory(1 << 20);
    let kick = start_again(raw);
    (memory, kick)
}

fn start_again(raw: &Raw) -> OwnedFd {
    raw.accept_features();
    raw.describe_queue(0);
    let kick = raw.event(R::SET_VRING_KICK, 0);
    assert_eq!(raw.state(R::SET_VRING_ENABLE, 0, 1), 0);
    assert_eq!((raw.status(11), raw.status(15)), (0, 0));
    kick
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
    // Nobody looks yet; whoever does then is told once.
    rig.device.announce_config_change();
    rig.device.announce_config_change();
    goes_on(&raw);
    assert!(!is_readable(&channel));
    let _driver = start(&raw);
    expect_change(&channel);
    for _ in 0..3 {
        let device = rig.device.clone();
        std::thread::spawn(move || device.announce_config_change()).join().unwrap();
        expect_change(&channel);
    }
    assert!(!is_readable(&channel));
    // A queue that is stopped is nobody to tell either; and so is a driver that was reset.
    raw.vring_base(0);
    rig.device.announce_config_change();
    assert!(!is_readable(&channel));
    assert_eq!(raw.status(0), 0);
    rig.device.announce_config_change();
    assert!(!is_readable(&channel));
    // The frontend gave the socket once.
    let _kick = start_again(&raw);
    expect_change(&channel);
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
        let _driver = start(&raw);
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
    let _driver = start(&raw);
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
    let _driver = start(&raw);
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

fn small(capacity: u64) -> zvb_zones::GeometrySpec {
    zvb_zones::GeometrySpec {
        model: Model::HostManaged,
        capacity: Sector(capacity),
        zone_size: Sector(ZONE),
        zone_capacity: Sector(ZONE - 16),
        conventional: 1,
        max_open: 0,
        max_active: 0,
        max_append: Sector(64),
        write_granularity: 4096,
    }
}

const ZONE: u64 = 256;

/// Conformance 24, 107: two queues of one driver write and read while the disk grows; another frontend's
/// view of it is the driver's own `refresh`.
fn grows_while_used(volume: Arc<dyn Volume>) {
    let rig = Rig::new(Arc::clone(&volume), 2);
    let mut disk = rig.disk_with(&Options { queues: 2, ..Options::default() });
    assert_eq!(disk.info().zoned.unwrap().zone_count, 5);
    let mut written = vec![(Sector(ZONE), pattern(1, 64 << 10))];
    disk.append(Sector(ZONE), &written[0].1).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (device, stop) = (&rig.device, &stop);
        let grower = scope.spawn(move || {
            for zones in [5, 6, 20, 21, 100, 101] {
                std::thread::sleep(Duration::from_millis(5));
                device.resize(Sector(ZONE * zones)).unwrap();
            }
            stop.store(true, Ordering::Release);
        });
        let mut known = disk.info().capacity;
        let mut rounds = 0;
        loop {
            let last = stop.load(Ordering::Acquire);
            // Old zones are written and read all the while.
            let zone = Sector(ZONE * 2);
            disk.reset(zone).unwrap();
            let data = pattern(rounds, 32 << 10);
            let at = disk.append(zone, &data).unwrap();
            let mut back = vec![0; data.len()];
            disk.read(at, &mut back).unwrap();
            assert!(back == data);
            if disk.config_changed().unwrap() && disk.refresh().unwrap() {
                let now = disk.info().capacity;
                assert!(now > known, "{now} after {known}");
                known = now;
                // What is new is empty, and can be written to its end.
                let zones = disk.zones().unwrap();
                let newest = zones.last().unwrap();
                assert_eq!(newest.condition, Condition::Empty);
                let len = newest.capacity.0.min(64) * 512;
                let data = pattern(now.0, len as usize);
                disk.write(newest.start, &data).unwrap();
                written.push((newest.start, data));
            }
            rounds += 1;
            if last {
                break;
            }
        }
        grower.join().unwrap();
    });
    if disk.config_changed().unwrap() {
        disk.refresh().unwrap();
    }
    assert_eq!(disk.info().capacity, Sector(ZONE * 101));
    assert_eq!(rig.device.config_generation(), 6);
    for (at, data) in &written {
        let mut back = vec![0; data.len()];
        disk.read(*at, &mut back).unwrap();
        assert!(back == *data, "what was written at {at}");
    }
    assert!(written.len() > 1, "no growth was noticed on the way");
    disk.flush().unwrap();
    let zones = disk.zones().unwrap();
    drop(disk);
    // The next guest finds the same.
    let mut disk = rig.disk();
    let states = |zones: Vec<zvb_driver::Zone>| -> Vec<_> {
        zones.into_iter().map(|zone| (zone.start, zone.len, zone.write_pointer)).collect()
    };
    assert_eq!(states(disk.zones().unwrap()), states(zones));
    // It does not shrink, and a size that makes no zones is refused with its reason.
    let shrunk = rig.device.resize(Sector(ZONE * 100)).unwrap_err();
    assert!(matches!(shrunk, GrowError::Shrinks { .. }), "{shrunk}");
    let odd = rig.device.resize(Sector(ZONE * 101 + 1)).unwrap_err();
    assert!(odd.to_string().contains("is not a multiple of the block size"), "{odd}");
    assert_eq!(rig.device.config_generation(), 6);
    drop(disk);
}

#[test]
fn an_image_grows_while_it_is_used() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.zvb");
    let spec = small(4 * ZONE + 64);
    let create = CreateOptions {
        capacity: spec.capacity,
        block_size: 4096,
        zones: Some(spec),
        id: None,
        uuid: None,
        force: false,
    };
    Image::create(&path, &create).unwrap();
    let volume: Arc<dyn Volume> = Arc::new(Image::open(&path, &OpenOptions::default()).unwrap());
    grows_while_used(Arc::clone(&volume));
    volume.close().unwrap();
    drop(volume);
    let report = zvb_storage::check(&path, &CheckOptions::default(), &mut |_| {}).unwrap();
    assert!(report.is_sound(), "{report:?}");
    let read_only = OpenOptions { read_only: true, ..OpenOptions::default() };
    let image = Image::open(&path, &read_only).unwrap();
    assert_eq!(image.shape().capacity, Sector(ZONE * 101));
    let device = Device::new(Arc::new(image), DeviceOptions::default()).unwrap();
    assert!(matches!(device.resize(Sector(ZONE * 200)), Err(GrowError::ReadOnly)));
}

#[test]
fn a_disk_in_memory_grows_while_it_is_used() {
    let spec = small(4 * ZONE + 64);
    grows_while_used(Arc::new(Memory::new(spec.capacity, 4096, Some(spec)).unwrap()));
}

/// A plain disk has no zones to look at; only its capacity changes.
#[test]
fn a_plain_disk_grows_too() {
    let rig = Rig::new(Arc::new(Memory::new(Sector(2048), 4096, None).unwrap()), 1);
    let mut disk = rig.disk();
    disk.write(Sector(2040), &[7; 4096]).unwrap();
    assert!(disk.write(Sector(2048), &[8; 4096]).is_err());
    rig.device.resize(Sector(1 << 20)).unwrap();
    assert!(disk.config_changed().unwrap() && disk.refresh().unwrap());
    let mut back = vec![9; 8192];
    disk.read(Sector(2040), &mut back).unwrap();
    assert!(back[..4096] == [7; 4096] && back[4096..] == [0; 4096]);
    disk.write(Sector((1 << 20) - 8), &[8; 4096]).unwrap();
}

/// What can not grow says so.
#[test]
fn a_volume_that_has_the_size_of_its_medium_is_left_alone() {
    let rig = rig();
    let capacity = rig.device.capacity();
    let refused = rig.device.resize(Sector(capacity.0 * 2)).unwrap_err();
    assert!(matches!(refused, GrowError::Unsupported), "{refused}");
    assert_eq!((rig.device.capacity(), rig.device.config_generation()), (capacity, 0));
    rig.device.resize(capacity).unwrap();
}
