//! Frontends that break the protocol, their memory or their rings. The server goes on for the next.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_setfl, ftruncate};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use support::raw::{GUEST, Raw, USER, ask_id, memory, status, used_index, wait_for};
use support::volume::SlowVolume;
use support::{Rig, eventually};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};
use zvb_host::vhost_user::{FrontendRequest as R, MemoryRegion, SingleRegion, VringAddress};
use zvb_wire::Features;

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNTOUCHED: u8 = 0xff;

fn rig() -> Rig {
    Rig::new(SlowVolume::new(), 2)
}

#[track_caller]
fn goes_on(rig: &Rig) {
    assert_eq!(&rig.disk().id().unwrap()[..4], b"slow");
}

/// A frontend without STATUS whose memory and queue 0 are there, kicked and enabled.
struct Ready {
    raw: Raw,
    memory: OwnedFd,
    kick: OwnedFd,
    call: OwnedFd,
}

fn ready(rig: &Rig) -> Ready {
    let raw = Raw::negotiated(&rig.path, false);
    raw.accept_features();
    let memory = raw.add_memory(1 << 20);
    raw.describe_queue(0);
    let call = raw.event(R::SET_VRING_CALL, 0);
    let kick = raw.event(R::SET_VRING_KICK, 0);
    assert_eq!(raw.state(R::SET_VRING_ENABLE, 0, 1), 0);
    Ready { raw, memory, kick, call }
}

impl Ready {
    /// One request on queue 0, as chain `nth`.
    fn ask(&self, nth: u16) {
        ask_id(&self.memory, 0, nth);
        kick(&self.kick);
        wait_for(&self.call);
        eventually(|| used_index(&self.memory, 0) == nth.wrapping_add(1));
        assert_eq!(status(&self.memory, 0), OK);
    }
}

fn kick(event: &OwnedFd) {
    rustix::io::write(event, &1u64.to_le_bytes()).unwrap();
}

#[test]
fn garbage_ends_the_session_with_a_reason() {
    let rig = rig();
    let cases: &[(Vec<u8>, &str)] = &[
        (vec![0xa4; 64], "version 0"),
        (Raw::header(1, 2, 0), "version 2 of the protocol"),
        (Raw::header(2, 1, 1 << 20), "1048576 bytes"),
        (Raw::header(1, 5, 0), "GET_FEATURES was refused: an answer where a request"),
        (Raw::header(12345, 1, 0), "request 12345 was refused: is not supported"),
        (Raw::header(11, 1, 0), "GET_VRING_BASE was refused: truncated"),
    ];
    for (bytes, reason) in cases {
        let raw = Raw::connect(&rig.path);
        raw.bytes(bytes);
        raw.expect_end();
        rig.log.wait_for(reason);
        goes_on(&rig);
    }
}

#[test]
fn a_message_that_is_cut_short_ends_the_session() {
    let rig = rig();
    for cut in 1..20 {
        let raw = Raw::connect(&rig.path);
        let mut message = Raw::header(2, 1, 8);
        message.extend([0; 8]);
        raw.bytes(&message[..cut]);
    }
    goes_on(&rig);
    let cut = || rig.log.all().iter().filter(|l| l.contains("in the middle of a message")).count();
    eventually(|| cut() == 19);
}

fn send_fds(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(200))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
}

#[test]
fn too_many_descriptors_end_the_session_and_are_closed() {
    let rig = rig();
    goes_on(&rig);
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    for count in [1, 8, 33, 100] {
        let stream = UnixStream::connect(&rig.path).unwrap();
        let fds = vec![writer.as_fd(); count];
        // SET_OWNER takes none.
        send_fds(&stream, &Raw::header(3, 1, 0), &fds);
        goes_on(&rig);
    }
    // All copies but ours are gone: the pipe ends.
    drop(writer);
    assert_eq!(rustix::io::read(&reader, &mut [0; 1]).unwrap(), 0);
}

#[test]
fn what_can_be_answered_is_answered_and_the_session_goes_on() {
    let rig = rig();
    let raw = Raw::negotiated(&rig.path, true);
    let file = memory(4096);
    assert_eq!(raw.state(R::SET_VRING_NUM, 2, 16), 1, "no such queue");
    assert_eq!(raw.state(R::SET_VRING_NUM, u32::MAX, 16), 1, "no such queue");
    for size in [0, 3, 2048, 65536, u32::MAX] {
        assert_eq!(raw.state(R::SET_VRING_NUM, 0, size), 1, "{size} descriptors");
    }
    assert_eq!(raw.state(R::SET_VRING_BASE, 0, 65536), 1);
    assert_eq!(raw.state(R::SET_VRING_ENABLE, 0, 2), 1);
    assert_eq!(raw.request(R::SET_FEATURES, &U64::new(1 << 60), &[]), 1, "not offered");
    assert_eq!(raw.request(R::SET_PROTOCOL_FEATURES, &U64::new(1 << 19), &[]), 1, "not offered");
    assert_eq!(raw.request(R::SET_BACKEND_REQ_FD, &[0u8; 0], &[file.as_fd()]), 1, "not offered");
    assert_eq!(raw.request(R(99), &[0u8; 0], &[]), 1, "unknown");
    assert_eq!(raw.request(R::SET_FEATURES, &[0u8; 7], &[]), 1, "too short");
    assert_eq!(raw.request(R::SET_FEATURES, &[0u8; 9], &[]), 1, "too long");
    assert_eq!(raw.request(R::ADD_MEM_REG, &Raw::region(4096), &[]), 1, "no descriptor");
    assert_eq!(raw.request(R::REM_MEM_REG, &Raw::region(4096), &[]), 1, "not there");
    assert_eq!(raw.status(256), 1);
    let (reader, _writer) = rustix::pipe::pipe().unwrap();
    for request in [R::SET_VRING_KICK, R::SET_VRING_CALL, R::SET_VRING_ERR] {
        assert_eq!(raw.request(request, &U64::new(0), &[reader.as_fd()]), 1, "a pipe");
        assert_eq!(raw.request(request, &U64::new(0), &[]), 1, "no descriptor");
        assert_eq!(raw.request(request, &U64::new(7), &[file.as_fd()]), 1);
    }
    assert_eq!(raw.ask(R::GET_QUEUE_NUM), 2);
    rig.log.wait_for("SET_VRING_KICK refused: the descriptor is no eventfd but Fifo");
}

#[test]
fn memory_that_can_not_be_is_refused() {
    let rig = rig();
    let raw = Raw::negotiated(&rig.path, false);
    let file = memory(1 << 16);
    let region = |guest: u64, size: u64, user: u64, offset: u64| SingleRegion {
        padding: U64::new(0),
        region: MemoryRegion {
            guest_address: U64::new(guest),
            size: U64::new(size),
            user_address: U64::new(user),
            mmap_offset: U64::new(offset),
        },
    };
    let add = |region: &SingleRegion| raw.request(R::ADD_MEM_REG, region, &[file.as_fd()]);
    assert_eq!(add(&region(0, 0, 0, 0)), 1, "empty");
    assert_eq!(add(&region(u64::MAX - 4095, 8192, USER, 0)), 1, "wraps");
    assert_eq!(add(&region(0, 8192, u64::MAX - 4095, 0)), 1, "wraps");
    assert_eq!(add(&region(0, 4096, USER, u64::MAX - 4095)), 1, "wraps");
    assert_eq!(add(&region(0, u64::MAX, 0, 0)), 1, "wraps or does not fit");
    assert_eq!(add(&region(0, (1 << 16) + 1, USER, 0)), 1, "the file is shorter");
    assert_eq!(add(&region(0, 1 << 16, USER, 16)), 1, "the file is shorter");
    assert_eq!(add(&region(8, 4096, USER, 0)), 1, "misaligned");
    assert_eq!(add(&region(GUEST, 8192, USER, 0)), 0);
    assert_eq!(add(&region(GUEST + 4096, 8192, USER + 65536, 0)), 1, "overlaps");
    assert_eq!(add(&region(GUEST + 65536, 8192, USER + 4096, 0)), 1, "overlaps");
    // Neither on a page, but they agree.
    assert_eq!(add(&region(GUEST + 65536 + 0x230, 0x1000, USER + 65536, 0x1230)), 0);
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    let refused = raw.request(R::ADD_MEM_REG, &region(0, 4096, 0, 0), &[event.as_fd()]);
    assert_eq!(refused, 1, "an eventfd is no memory");
    assert_eq!(raw.request(R::REM_MEM_REG, &region(GUEST, 8192, USER, 0), &[]), 0);
    assert_eq!(raw.request(R::REM_MEM_REG, &region(GUEST, 8192, USER, 0), &[]), 1);
}

#[test]
fn there_is_an_end_to_memory_regions() {
    let rig = rig();
    let raw = Raw::negotiated(&rig.path, false);
    let file = memory(4096);
    let slots = raw.ask(R::GET_MAX_MEM_SLOTS);
    let add = |n: u64| {
        let mut region = Raw::region(4096);
        region.region.guest_address = U64::new(n * 8192);
        region.region.user_address = U64::new(USER + n * 8192);
        raw.request(R::ADD_MEM_REG, &region, &[file.as_fd()])
    };
    for n in 0..slots {
        assert_eq!(add(n), 0, "region {n}");
    }
    assert_eq!(add(slots), 1);
}

#[test]
fn memory_that_is_cut_short_ends_the_session_and_not_the_server() {
    let rig = rig();
    let ready = ready(&rig);
    ready.ask(0);
    ask_id(&ready.memory, 0, 1);
    ftruncate(&ready.memory, 0).unwrap();
    kick(&ready.kick);
    ready.raw.expect_end();
    rig.log.wait_for("cut its memory short");
    goes_on(&rig);
}

#[test]
fn a_broken_ring_is_retired_and_the_other_queue_unharmed() {
    let rig = rig();
    let Ready { raw, memory, kick: kick_0, call: _call } = ready(&rig);
    let broken = raw.event(R::SET_VRING_ERR, 0);
    raw.describe_queue(1);
    let call_1 = raw.event(R::SET_VRING_CALL, 1);
    let kick_1 = raw.event(R::SET_VRING_KICK, 1);
    assert_eq!(raw.state(R::SET_VRING_ENABLE, 1, 1), 0);
    // 1000 chains in a ring of 16.
    rustix::io::pwrite(&memory, &1000u16.to_le_bytes(), 0x202).unwrap();
    kick(&kick_0);
    wait_for(&broken);
    rig.log.wait_for("queue 0 is retired");
    ask_id(&memory, 1, 0);
    kick(&kick_1);
    wait_for(&call_1);
    assert_eq!(status(&memory, 1), OK);
    // More memory stops and starts queues; the broken one stays where it is.
    rustix::io::pwrite(&memory, &0u16.to_le_bytes(), 0x202).unwrap();
    let more = support::raw::memory(4096);
    let mut region = Raw::region(4096);
    region.region.guest_address = U64::new(GUEST + (1 << 30));
    region.region.user_address = U64::new(USER + (1 << 30));
    assert_eq!(raw.request(R::ADD_MEM_REG, &region, &[more.as_fd()]), 0);
    ask_id(&memory, 1, 1);
    kick(&kick_1);
    wait_for(&call_1);
    ask_id(&memory, 0, 0);
    kick(&kick_0);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(status(&memory, 0), UNTOUCHED);
    assert_eq!(raw.vring_base(0), 0);
    assert_eq!(raw.vring_base(1), 2);
}

/// Writes `bytes` at `at` of the page of queue 0.
fn put(memory: &OwnedFd, at: u64, bytes: &[u8]) {
    rustix::io::pwrite(memory, bytes, at).unwrap();
}

/// A descriptor at `at` of the page of queue 0: flags 1 go on at `next`, 2 are writable, 4 a table.
fn descriptor(memory: &OwnedFd, at: u64, (address, len): (u64, u32), flags: u16, next: u16) {
    let mut bytes = address.to_le_bytes().to_vec();
    bytes.extend(len.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend(next.to_le_bytes());
    put(memory, at, &bytes);
}

/// Queue 0 kicked after `break_it` on a request that was whole, and what is then expected of the rest.
fn breaks(what: &str, break_it: impl FnOnce(&OwnedFd)) {
    let rig = rig();
    let ready = ready(&rig);
    let Ready { raw, memory, .. } = &ready;
    let broken = raw.event(R::SET_VRING_ERR, 0);
    raw.describe_queue(1);
    let call = raw.event(R::SET_VRING_CALL, 1);
    let kick_1 = raw.event(R::SET_VRING_KICK, 1);
    assert_eq!(raw.state(R::SET_VRING_ENABLE, 1, 1), 0);
    ask_id(memory, 0, 0);
    break_it(memory);
    kick(&ready.kick);
    wait_for(&broken);
    let line = rig.log.wait_for("queue 0 is retired");
    assert_eq!((status(memory, 0), used_index(memory, 0)), (UNTOUCHED, 0), "{what}: {line}");
    for nth in 0..3 {
        ask_id(memory, 1, nth);
        kick(&kick_1);
        wait_for(&call);
        assert_eq!(status(memory, 1), OK, "{what}: {line}");
    }
    drop(ready);
    goes_on(&rig);
}

#[test]
fn each_way_to_break_a_ring_retires_it_alone() {
    let page = |at: u64| GUEST + at;
    breaks("a loop", |memory| {
        descriptor(memory, 0, (page(0x700), 16), 1, 1);
        descriptor(memory, 16, (page(0x800), 1), 1, 0);
    });
    breaks("a loop in a table", |memory| {
        descriptor(memory, 0, (page(0x900), 32), 4, 0);
        descriptor(memory, 0x900, (page(0x700), 16), 1, 1);
        descriptor(memory, 0x910, (page(0x700), 0), 1, 0);
    });
    breaks("a table in a table", |memory| {
        descriptor(memory, 0, (page(0x900), 16), 4, 0);
        descriptor(memory, 0x900, (page(0x900), 16), 4, 0);
    });
    breaks("a chain longer than any queue", |memory| {
        let entries = 40_000;
        descriptor(memory, 0, (page(0x4000), entries * 16), 4, 0);
        for i in 0..entries {
            let at = 0x4000 + u64::from(i) * 16;
            descriptor(memory, at, (page(0x700), 0), 1, i as u16 + 1);
        }
    });
    breaks("next outside the table", |memory| descriptor(memory, 0, (page(0x700), 16), 1, 16));
    breaks("a head that is not there", |memory| put(memory, 0x204, &16u16.to_le_bytes()));
    breaks("the index jumps", |memory| put(memory, 0x202, &17u16.to_le_bytes()));
    breaks("the index goes back", |memory| put(memory, 0x202, &u16::MAX.to_le_bytes()));
    let end = GUEST + (1 << 20);
    for (address, len) in [(0, 16), (end, 1), (end - 1, 2), (u64::MAX - 7, 16), (GUEST, u32::MAX)] {
        breaks("an address outside memory", |memory| {
            descriptor(memory, 0, (address, len), 1, 1);
        });
        breaks("a table outside memory", |memory| {
            descriptor(memory, 0, (address, len & !15 | 16), 4, 0);
        });
    }
}

/// 136: and a reset makes all of it good.
#[test]
fn a_broken_ring_is_seen_in_the_status_until_a_reset() {
    let rig = rig();
    let raw = Raw::negotiated(&rig.path, true);
    let memory = raw.add_memory(1 << 20);
    for nth in 0..2 {
        raw.accept_features();
        put(&memory, 0, &[0; 4096]);
        raw.describe_queue(0);
        let broken = raw.event(R::SET_VRING_ERR, 0);
        let call = raw.event(R::SET_VRING_CALL, 0);
        let kicks = raw.event(R::SET_VRING_KICK, 0);
        assert_eq!(raw.state(R::SET_VRING_ENABLE, 0, 1), 0);
        assert_eq!(raw.status(11), 0);
        assert_eq!(raw.status(15), 0);
        ask_id(&memory, 0, 0);
        kick(&kicks);
        wait_for(&call);
        assert_eq!((status(&memory, 0), raw.ask(R::GET_STATUS)), (OK, 15), "session {nth}");
        put(&memory, 0x202, &1000u16.to_le_bytes());
        kick(&kicks);
        wait_for(&broken);
        eventually(|| raw.ask(R::GET_STATUS) == 15 | 64);
        assert_eq!(raw.status(0), 0);
        assert_eq!(raw.ask(R::GET_STATUS), 0);
    }
}

#[test]
fn rings_that_overlap_harm_nobody_else() {
    // Descriptors, available ring and used ring of queue 0; the last lie in queue 1's.
    for [descriptors, available, used] in
        [[0, 0x200, 0x200], [0, 0, 0], [0, 0x200, 0], [0x200, 0x200, 0x204], [0, 0x200, 0x700]]
    {
        let rig = rig();
        let raw = Raw::negotiated(&rig.path, false);
        raw.accept_features();
        let memory = raw.add_memory(1 << 20);
        let mut address = raw.describe_queue(0);
        address.descriptor.set(USER + descriptors);
        address.available.set(USER + available);
        address.used.set(USER + used);
        assert_eq!(raw.request(R::SET_VRING_ADDR, &address, &[]), 0);
        raw.describe_queue(1);
        let kicks = [raw.event(R::SET_VRING_KICK, 0), raw.event(R::SET_VRING_KICK, 1)];
        let call = raw.event(R::SET_VRING_CALL, 1);
        ask_id(&memory, 0, 0);
        // Refused or not: it is the guest's own memory that it spoils.
        raw.state(R::SET_VRING_ENABLE, 0, 1);
        assert_eq!(raw.state(R::SET_VRING_ENABLE, 1, 1), 0);
        for nth in 0..20 {
            ask_id(&memory, 0, nth);
            ask_id(&memory, 1, nth);
            kicks.iter().for_each(kick);
            wait_for(&call);
            assert_eq!(status(&memory, 1), OK);
        }
        drop(raw);
        goes_on(&rig);
    }
}

/// Descriptors, indices, headers and data change under the device's eyes.
#[test]
fn memory_that_changes_during_requests_harms_nobody_else() {
    let rig = rig();
    for seed in 0..20_u64 {
        let ready = ready(&rig);
        let Ready { raw, memory, .. } = &ready;
        raw.describe_queue(1);
        let call = raw.event(R::SET_VRING_CALL, 1);
        let kick_1 = raw.event(R::SET_VRING_KICK, 1);
        assert_eq!(raw.state(R::SET_VRING_ENABLE, 1, 1), 0);
        let end = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (end, ready) = (&end, &ready);
            scope.spawn(move || {
                let mut random = seed;
                for nth in (0..u16::MAX).cycle() {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let (place, value) = (random >> 33, random.to_le_bytes());
                    ask_id(&ready.memory, 0, nth);
                    kick(&ready.kick);
                    // Anywhere in the two descriptors, the header or the available ring.
                    let start = [0, 16, 0x700, 0x202][place as usize % 4];
                    put(&ready.memory, start + place / 4 % 16, &value[..1 + place as usize % 3]);
                    if end.load(std::sync::atomic::Ordering::Relaxed) {
                        break;
                    }
                }
            });
            for nth in 0..20 {
                ask_id(memory, 1, nth);
                kick(&kick_1);
                wait_for(&call);
                eventually(|| used_index(memory, 1) == nth + 1);
            }
            end.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        drop(ready);
        goes_on(&rig);
    }
}

#[test]
fn a_stopped_queue_goes_on_where_it_was() {
    let rig = rig();
    let ready = ready(&rig);
    for nth in 0..5 {
        ready.ask(nth);
    }
    assert_eq!(ready.raw.vring_base(0), 5);
    // Stopped: nobody looks.
    ask_id(&ready.memory, 0, 5);
    kick(&ready.kick);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(used_index(&ready.memory, 0), 5);
    // A new kick starts it, and it finds what is there.
    assert_eq!(ready.raw.state(R::SET_VRING_BASE, 0, 5), 0);
    let fd = ready.kick.as_fd();
    assert_eq!(ready.raw.request(R::SET_VRING_KICK, &U64::new(0), &[fd]), 0);
    wait_for(&ready.call);
    assert_eq!((status(&ready.memory, 0), used_index(&ready.memory, 0)), (OK, 6));
    // Disabled and enabled again.
    assert_eq!(ready.raw.state(R::SET_VRING_ENABLE, 0, 0), 0);
    ask_id(&ready.memory, 0, 6);
    kick(&ready.kick);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(used_index(&ready.memory, 0), 6);
    assert_eq!(ready.raw.state(R::SET_VRING_ENABLE, 0, 1), 0);
    eventually(|| used_index(&ready.memory, 0) == 7);
}

/// 141: a queue that is reset does nothing and is signalled for nothing; enabled again it is where, and
/// as large as, it now says.
#[test]
fn a_queue_is_reset_alone_and_comes_back_elsewhere() {
    let rig = rig();
    let ready = ready(&rig);
    (0..3).for_each(|nth| ready.ask(nth));
    assert_eq!(ready.raw.state(R::SET_VRING_ENABLE, 0, 0), 0);
    assert_eq!(ready.raw.vring_base(0), 3);
    ask_id(&ready.memory, 0, 3);
    kick(&ready.kick);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(used_index(&ready.memory, 0), 3);
    assert!(rustix::io::read(&ready.call, &mut [0; 8]).is_err(), "signalled");
    // From the start, in other memory, half as large.
    let at = 0x7000;
    let mut address = ready.raw.describe_queue(0);
    assert_eq!(ready.raw.state(R::SET_VRING_NUM, 0, 8), 0);
    address.descriptor.set(address.descriptor.get() + at);
    address.available.set(address.available.get() + at);
    address.used.set(address.used.get() + at);
    assert_eq!(ready.raw.request(R::SET_VRING_ADDR, &address, &[]), 0);
    let call = ready.raw.event(R::SET_VRING_CALL, 0);
    let kicked = ready.raw.event(R::SET_VRING_KICK, 0);
    assert_eq!(ready.raw.state(R::SET_VRING_ENABLE, 0, 1), 0);
    ask_id(&ready.memory, at / 4096, 0);
    kick(&kicked);
    wait_for(&call);
    eventually(|| used_index(&ready.memory, at / 4096) == 1);
    assert_eq!(status(&ready.memory, at / 4096), OK);
    assert_eq!(used_index(&ready.memory, 0), 3, "the old place is left alone");
}

#[test]
fn memory_comes_and_goes_under_a_running_queue() {
    let rig = rig();
    let ready = ready(&rig);
    let more = memory(4096);
    let mut region = Raw::region(4096);
    region.region.guest_address = U64::new(GUEST + (1 << 30));
    region.region.user_address = U64::new(USER + (1 << 30));
    for nth in 0..200 {
        ask_id(&ready.memory, 0, nth);
        kick(&ready.kick);
        // In the middle of it, or before, or after.
        let (request, fd) = (R::ADD_MEM_REG, [more.as_fd()]);
        if nth % 2 == 0 {
            assert_eq!(ready.raw.request(request, &region, &fd), 0);
        } else {
            assert_eq!(ready.raw.request(R::REM_MEM_REG, &region, &[]), 0);
        }
        wait_for(&ready.call);
        eventually(|| used_index(&ready.memory, 0) == nth + 1);
        assert_eq!(status(&ready.memory, 0), OK);
    }
    // Without the memory that it is in, a queue stops; the rest of the session goes on.
    let own = Raw::region(1 << 20);
    assert_eq!(ready.raw.request(R::REM_MEM_REG, &own, &[]), 0);
    assert_eq!(ready.raw.request(R::ADD_MEM_REG, &own, &[ready.memory.as_fd()]), 0);
    assert_eq!(ready.raw.vring_base(0), 200);
}

#[test]
fn another_call_is_heard_from_then_on() {
    let rig = rig();
    let mut ready = ready(&rig);
    for nth in 0..20 {
        ready.ask(nth);
        ready.call = ready.raw.event(R::SET_VRING_CALL, 0);
        // Once for good measure: something may have gone to the old one.
        wait_for(&ready.call);
    }
    let none = U64::new(1 << 8);
    assert_eq!(ready.raw.request(R::SET_VRING_CALL, &none, &[]), 0);
    ask_id(&ready.memory, 0, 20);
    kick(&ready.kick);
    eventually(|| used_index(&ready.memory, 0) == 21);
}

#[test]
fn reset_device_begins_anew_with_the_memory_kept() {
    let rig = rig();
    let ready = ready(&rig);
    ready.ask(0);
    assert_eq!(ready.raw.request(R::RESET_DEVICE, &[0u8; 0], &[]), 0);
    ask_id(&ready.memory, 0, 1);
    kick(&ready.kick);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(used_index(&ready.memory, 0), 1);
    assert_eq!(ready.raw.vring_base(0), 0);
    rustix::io::pwrite(&ready.memory, &[0; 4096], 0).unwrap();
    ready.raw.accept_features();
    ready.raw.describe_queue(0);
    let call = ready.raw.event(R::SET_VRING_CALL, 0);
    let kicks = ready.raw.event(R::SET_VRING_KICK, 0);
    assert_eq!(ready.raw.state(R::SET_VRING_ENABLE, 0, 1), 0);
    let Ready { raw, memory, .. } = ready;
    let again = Ready { raw, memory, kick: kicks, call };
    for nth in 0..3 {
        again.ask(nth);
    }
}

#[test]
fn a_running_queue_can_not_be_moved() {
    let rig = rig();
    let ready = ready(&rig);
    assert_eq!(ready.raw.state(R::SET_VRING_NUM, 0, 8), 1);
    assert_eq!(ready.raw.state(R::SET_VRING_BASE, 0, 3), 1);
    let address = VringAddress {
        index: U32::new(0),
        flags: U32::new(0),
        descriptor: U64::new(USER + 0x4000),
        used: U64::new(USER + 0x4300),
        available: U64::new(USER + 0x4200),
        log: U64::new(0),
    };
    assert_eq!(ready.raw.request(R::SET_VRING_ADDR, &address, &[]), 1);
    assert_eq!(ready.raw.request(R::SET_FEATURES, &U64::new(1 << 32), &[]), 1);
    ready.ask(0);
}

#[test]
fn a_queue_outside_memory_does_not_start() {
    let rig = rig();
    let raw = Raw::negotiated(&rig.path, true);
    raw.accept_features();
    let _memory = raw.add_memory(4096);
    let mut address = raw.describe_queue(0);
    address.used = U64::new(USER + 4095);
    assert_eq!(raw.request(R::SET_VRING_ADDR, &address, &[]), 0);
    let _kick = raw.event(R::SET_VRING_KICK, 0);
    assert_eq!(raw.state(R::SET_VRING_ENABLE, 0, 1), 0);
    assert_eq!(raw.status(11), 0);
    assert_eq!(raw.status(15), 1);
    rig.log.wait_for("queue 0 does not start");
    assert_eq!(raw.ask(R::GET_STATUS), 15 | 64, "only a reset helps");
    assert_eq!(raw.status(0), 0);
    assert_eq!(raw.ask(R::GET_STATUS), 0);
}

#[test]
fn nothing_is_taken_before_driver_ok_and_all_begins_anew_after_a_reset() {
    let rig = rig();
    let raw = Raw::negotiated(&rig.path, true);
    let memory = raw.add_memory(1 << 20);
    for _ in 0..3 {
        raw.accept_features();
        rustix::io::pwrite(&memory, &[0; 4096], 0).unwrap();
        raw.describe_queue(0);
        let call = raw.event(R::SET_VRING_CALL, 0);
        let kicks = raw.event(R::SET_VRING_KICK, 0);
        assert_eq!(raw.state(R::SET_VRING_ENABLE, 0, 1), 0);
        assert_eq!(raw.status(3), 0);
        assert_eq!(raw.status(11), 0);
        assert_eq!(raw.ask(R::GET_STATUS), 11);
        ask_id(&memory, 0, 0);
        kick(&kicks);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(status(&memory, 0), UNTOUCHED);
        assert_eq!(raw.status(15), 0);
        wait_for(&call);
        assert_eq!(status(&memory, 0), OK);
        assert_eq!(raw.status(0), 0);
        assert_eq!(raw.vring_base(0), 0);
    }
}

#[test]
fn a_frontend_that_says_nothing_of_the_driver_is_served_once_the_features_are_right() {
    let rig = rig();
    let raw = Raw::negotiated(&rig.path, true);
    raw.accept_features();
    assert_eq!(raw.ask(R::GET_STATUS), 0);
    assert_eq!(raw.status(8), 0);
    let memory = raw.add_memory(1 << 20);
    for _ in 0..2 {
        rustix::io::pwrite(&memory, &[0; 4096], 0).unwrap();
        raw.describe_queue(0);
        let call = raw.event(R::SET_VRING_CALL, 0);
        let kicks = raw.event(R::SET_VRING_KICK, 0);
        assert_eq!(raw.state(R::SET_VRING_ENABLE, 0, 1), 0);
        ask_id(&memory, 0, 0);
        kick(&kicks);
        wait_for(&call);
        assert_eq!(status(&memory, 0), OK);
        assert_eq!(raw.vring_base(0), 1, "stopped by the frontend, and begun again");
    }
}

#[test]
fn a_driver_that_knows_no_zones_is_told_by_features_ok() {
    let rig = rig();
    let without = (rig.device.features() | Features::VHOST_USER_PROTOCOL)
        .difference(Features::ZONED | Features::EVENT_IDX);
    let raw = Raw::negotiated(&rig.path, true);
    assert_eq!(raw.request(R::SET_FEATURES, &U64::new(without.bits()), &[]), 0);
    let memory = raw.add_memory(1 << 20);
    raw.describe_queue(0);
    let call = raw.event(R::SET_VRING_CALL, 0);
    let kicks = raw.event(R::SET_VRING_KICK, 0);
    assert_eq!(raw.state(R::SET_VRING_ENABLE, 0, 1), 0);
    assert_eq!(raw.status(11), 0);
    assert_eq!(raw.ask(R::GET_STATUS), 3, "FEATURES_OK is not set");
    rig.log.wait_for("host-managed");
    ask_id(&memory, 0, 0);
    kick(&kicks);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(status(&memory, 0), UNTOUCHED, "not before DRIVER_OK");
    // One that goes on all the same is not left to wait.
    assert_eq!(raw.status(15), 0);
    assert_eq!(raw.ask(R::GET_STATUS), 7);
    wait_for(&call);
    assert_eq!(status(&memory, 0), IOERR);
    drop(raw);

    // Nor one that QEMU has told that FEATURES_OK is set: with DRIVER_OK from the frontend (7), or without.
    for goes_on in [None, Some(7)] {
        let raw = Raw::negotiated(&rig.path, true);
        assert_eq!(raw.request(R::SET_FEATURES, &U64::new(without.bits()), &[]), 0);
        assert_eq!(raw.status(8), 0);
        assert_eq!(raw.ask(R::GET_STATUS), 0);
        let memory = raw.add_memory(1 << 20);
        raw.describe_queue(0);
        let call = raw.event(R::SET_VRING_CALL, 0);
        let kicks = raw.event(R::SET_VRING_KICK, 0);
        assert_eq!(raw.state(R::SET_VRING_ENABLE, 0, 1), 0);
        if let Some(status) = goes_on {
            assert_eq!(raw.status(status), 0);
        }
        rig.log.wait_for("queue 0: the driver goes on all the same");
        ask_id(&memory, 0, 0);
        kick(&kicks);
        wait_for(&call);
        assert_eq!(status(&memory, 0), IOERR);
        // The next driver knows zones, and no status of 0 comes between.
        assert_eq!(raw.vring_base(0), 1);
        let with = without | Features::ZONED;
        assert_eq!(raw.request(R::SET_FEATURES, &U64::new(with.bits()), &[]), 0);
        assert_eq!(raw.status(goes_on.map_or(8, |status| status | 8)), 0);
        rustix::io::pwrite(&memory, &[0; 4096], 0).unwrap();
        raw.describe_queue(0);
        let call = raw.event(R::SET_VRING_CALL, 0);
        assert_eq!(raw.state(R::SET_VRING_BASE, 0, 0), 0);
        let kicks = raw.event(R::SET_VRING_KICK, 0);
        assert_eq!(raw.state(R::SET_VRING_ENABLE, 0, 1), 0);
        ask_id(&memory, 0, 0);
        kick(&kicks);
        wait_for(&call);
        assert_eq!(status(&memory, 0), OK);
    }

    // Without STATUS there is no way to say no but to end.
    let raw = Raw::negotiated(&rig.path, false);
    assert_eq!(raw.request(R::SET_FEATURES, &U64::new(without.bits()), &[]), 0);
    let _memory = raw.add_memory(1 << 20);
    raw.describe_queue(0);
    let _kick = raw.event(R::SET_VRING_KICK, 0);
    raw.tell(R::SET_VRING_ENABLE, &[0, 0, 0, 0, 1, 0, 0, 0]);
    raw.expect_end();
    rig.log.wait_for("SET_VRING_ENABLE was refused: the device is host-managed");
    goes_on(&rig);
}

#[test]
fn without_the_protocol_features_queues_start_enabled() {
    let rig = rig();
    let raw = Raw::connect(&rig.path);
    raw.tell(R::SET_OWNER, &[]);
    let features = rig.device.features().difference(Features::EVENT_IDX);
    raw.tell(R::SET_FEATURES, U64::new(features.bits()).as_bytes());
    let file = memory(1 << 20);
    let mut table = vec![1, 0, 0, 0, 0, 0, 0, 0];
    table.extend(Raw::region(1 << 20).region.as_bytes());
    raw.send(R::SET_MEM_TABLE, false, &table, &[file.as_fd()]);
    raw.tell(R::SET_VRING_NUM, &[0, 0, 0, 0, 16, 0, 0, 0]);
    let address = VringAddress {
        index: U32::new(0),
        flags: U32::new(0),
        descriptor: U64::new(USER),
        used: U64::new(USER + 0x300),
        available: U64::new(USER + 0x200),
        log: U64::new(0),
    };
    raw.tell(R::SET_VRING_ADDR, address.as_bytes());
    ask_id(&file, 0, 0);
    // Bit 8: no kick, the queue is to be looked at. No call either: the driver looks, too.
    raw.tell(R::SET_VRING_KICK, U64::new(1 << 8).as_bytes());
    eventually(|| used_index(&file, 0) == 1);
    assert_eq!(status(&file, 0), OK);
    ask_id(&file, 0, 1);
    eventually(|| used_index(&file, 0) == 2);
}

#[test]
fn configuration_space_ends_in_zeroes() {
    let rig = rig();
    let raw = Raw::negotiated(&rig.path, false);
    let whole = raw.config(0, 256);
    assert_eq!(whole.len(), 12 + 256);
    assert_eq!(whole[12..20], (2048u64 * 16 + 1024).to_le_bytes());
    assert_eq!(whole[12 + 72..12 + 76], 2048u32.to_le_bytes());
    assert!(whole[12 + 96..].iter().all(|byte| *byte == 0));
    assert_eq!(raw.config(20, 4)[12..], 4096u32.to_le_bytes());
    // No such bytes: an answer without any.
    assert_eq!(raw.config(256, 4), []);
    assert_eq!(raw.config(u32::MAX, 4), []);
    assert_eq!(raw.config(0, 257), []);
}

#[test]
fn an_eventfd_that_is_made_to_hang_its_writer_holds_nobody_up() {
    let volume = SlowVolume::new();
    let rig = Rig::new(Arc::<SlowVolume>::clone(&volume), 2);
    let ready = ready(&rig);
    // Full, and blocking.
    fcntl_setfl(&ready.call, OFlags::empty()).unwrap();
    rustix::io::write(&ready.call, &(u64::MAX - 1).to_le_bytes()).unwrap();
    ask_id(&ready.memory, 0, 0);
    kick(&ready.kick);
    eventually(|| used_index(&ready.memory, 0) == 1);
    drop(ready.raw);
    goes_on(&rig);
    eventually(|| volume.engines() <= 1);
}
