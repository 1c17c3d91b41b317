//! A frontend that says what it is told to say, right or wrong.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes};
use zvb_host::vhost_user::{
    Channel, ConfigHeader, FrontendRequest, Header, MemoryRegion, Patience, Received, SingleRegion,
    VringAddress, VringState,
};
use zvb_wire::Features;

/// Guest address of the memory of [`Raw::add_memory`], and what the frontend would have it mapped at.
pub const GUEST: u64 = 0x10_0000;
pub const USER: u64 = 0x7f00_0000_0000;

pub struct Raw {
    channel: Channel,
    stream: UnixStream,
}

impl Raw {
    pub fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        Self { channel: Channel::new(stream.try_clone().unwrap()), stream }
    }

    /// A frontend that has accepted everything but STATUS, or that too.
    pub fn negotiated(path: &Path, status: bool) -> Self {
        let raw = Self::connect(path);
        raw.tell(FrontendRequest::SET_OWNER, &[]);
        let mut protocol = raw.ask(FrontendRequest::GET_PROTOCOL_FEATURES);
        if !status {
            protocol &= !(1 << 16);
        }
        raw.tell(FrontendRequest::SET_PROTOCOL_FEATURES, U64::new(protocol).as_bytes());
        raw
    }

    pub fn accept_features(&self) -> Features {
        let features = Features::from_bits_retain(self.ask(FrontendRequest::GET_FEATURES))
            .difference(Features::EVENT_IDX);
        assert_eq!(self.request(FrontendRequest::SET_FEATURES, &U64::new(features.bits()), &[]), 0);
        features
    }

    pub fn send(
        &self,
        request: FrontendRequest,
        need: bool,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) {
        self.channel.send_request(request.0, need, payload, fds, &Patience::default()).unwrap();
    }

    /// Sends without wanting an answer.
    pub fn tell(&self, request: FrontendRequest, payload: &[u8]) {
        self.send(request, false, payload, &[]);
    }

    /// Sends and gets the acknowledgement.
    pub fn request(
        &self,
        request: FrontendRequest,
        payload: &(impl IntoBytes + Immutable + ?Sized),
        fds: &[BorrowedFd<'_>],
    ) -> u64 {
        self.send(request, true, payload.as_bytes(), fds);
        self.number(request)
    }

    /// Asks for a number.
    pub fn ask(&self, request: FrontendRequest) -> u64 {
        self.send(request, false, &[], &[]);
        self.number(request)
    }

    fn number(&self, request: FrontendRequest) -> u64 {
        U64::read_from_bytes(&self.reply(request)).unwrap().get()
    }

    pub fn reply(&self, request: FrontendRequest) -> Vec<u8> {
        match self.receive() {
            Received::Frame(frame) => {
                assert!(frame.header.is_reply());
                assert_eq!(frame.header.request.get(), request.0);
                frame.payload
            }
            other => panic!("{request}: {other:?}"),
        }
    }

    pub fn receive(&self) -> Received {
        let patience = Patience { timeout: Some(Duration::from_secs(10)), ..Patience::default() };
        self.channel.receive(&patience).unwrap()
    }

    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// The server has hung up.
    pub fn expect_end(&self) {
        assert!(matches!(self.receive(), Received::End));
    }

    pub fn bytes(&self, bytes: &[u8]) {
        // The server may have hung up on the first of them.
        let _ = (&self.stream).write_all(bytes);
    }

    pub fn header(request: u32, flags: u32, size: u32) -> Vec<u8> {
        let (request, flags, size) = (U32::new(request), U32::new(flags), U32::new(size));
        Header { request, flags, size }.as_bytes().to_vec()
    }

    pub fn config(&self, offset: u32, size: u32) -> Vec<u8> {
        let header =
            ConfigHeader { offset: U32::new(offset), size: U32::new(size), flags: U32::new(0) };
        self.send(FrontendRequest::GET_CONFIG, false, header.as_bytes(), &[]);
        self.reply(FrontendRequest::GET_CONFIG)
    }

    pub fn state(&self, request: FrontendRequest, index: u32, num: u32) -> u64 {
        let state = VringState { index: U32::new(index), num: U32::new(num) };
        self.request(request, &state, &[])
    }

    pub fn vring_base(&self, index: u32) -> u32 {
        let state = VringState { index: U32::new(index), num: U32::new(0) };
        self.send(FrontendRequest::GET_VRING_BASE, false, state.as_bytes(), &[]);
        let reply = self.reply(FrontendRequest::GET_VRING_BASE);
        VringState::read_from_bytes(&reply).unwrap().num.get()
    }

    pub fn status(&self, status: u64) -> u64 {
        self.request(FrontendRequest::SET_STATUS, &U64::new(status), &[])
    }

    pub fn region(bytes: u64) -> SingleRegion {
        SingleRegion {
            padding: U64::new(0),
            region: MemoryRegion {
                guest_address: U64::new(GUEST),
                size: U64::new(bytes),
                user_address: U64::new(USER),
                mmap_offset: U64::new(0),
            },
        }
    }

    /// Gives the server `bytes` of memory.
    pub fn add_memory(&self, bytes: u64) -> OwnedFd {
        let file = memory(bytes);
        let region = Self::region(bytes);
        assert_eq!(self.request(FrontendRequest::ADD_MEM_REG, &region, &[file.as_fd()]), 0);
        file
    }

    /// Queue `index` of 16 descriptors, 4 KiB of memory from `index` * 4 KiB on: descriptors, available
    /// ring at 0x200, used ring at 0x300. Everything but its kick and its enabling.
    pub fn describe_queue(&self, index: u32) -> VringAddress {
        let at = USER + u64::from(index) * 4096;
        let address = VringAddress {
            index: U32::new(index),
            flags: U32::new(0),
            descriptor: U64::new(at),
            used: U64::new(at + 0x300),
            available: U64::new(at + 0x200),
            log: U64::new(0),
        };
        assert_eq!(self.state(FrontendRequest::SET_VRING_NUM, index, 16), 0);
        assert_eq!(self.request(FrontendRequest::SET_VRING_ADDR, &address, &[]), 0);
        assert_eq!(self.state(FrontendRequest::SET_VRING_BASE, index, 0), 0);
        address
    }

    /// Gives queue `index` an eventfd.
    pub fn event(&self, request: FrontendRequest, index: u64) -> OwnedFd {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        assert_eq!(self.request(request, &U64::new(index), &[event.as_fd()]), 0);
        event
    }
}

/// Memory that can be shared, and cut short.
pub fn memory(bytes: u64) -> OwnedFd {
    let file = memfd_create("frontend", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, bytes).unwrap();
    file
}

/// Waits until `event` was signalled.
pub fn wait_for(event: &OwnedFd) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(event, PollFlags::IN)];
    let timeout = Timespec { tv_sec: 10, tv_nsec: 0 };
    assert_eq!(poll(&mut fds, Some(&timeout)).unwrap(), 1, "no signal");
    rustix::io::read(event, &mut [0; 8]).unwrap();
}

/// Puts a request for the disk's id in queue `index` of the layout of [`Raw::describe_queue`], as chain
/// number `nth`: the answer is at 0x800, its status at 0x814.
pub fn ask_id(file: &OwnedFd, index: u64, nth: u16) {
    let base = index * 4096;
    let write = |at: u64, bytes: &[u8]| {
        rustix::io::pwrite(file, bytes, base + at).unwrap();
    };
    let descriptor = |slot: u64, at: u64, len: u32, flags: u16, next: u16| {
        let mut bytes = Vec::new();
        bytes.extend((GUEST + base + at).to_le_bytes());
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        write(slot * 16, &bytes);
    };
    // GET_ID, and a status that no device sends.
    write(0x700, &[8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    write(0x800, &[0xff; 21]);
    descriptor(0, 0x700, 16, 1, 1);
    descriptor(1, 0x800, 21, 2, 0);
    write(0x204 + u64::from(nth % 16) * 2, &0u16.to_le_bytes());
    write(0x202, &(nth + 1).to_le_bytes());
}

/// The used index of queue `index`.
pub fn used_index(file: &OwnedFd, index: u64) -> u16 {
    let mut bytes = [0; 2];
    rustix::io::pread(file, &mut bytes, index * 4096 + 0x302).unwrap();
    u16::from_le_bytes(bytes)
}

/// The status byte that [`ask_id`] got.
pub fn status(file: &OwnedFd, index: u64) -> u8 {
    let mut bytes = [0];
    rustix::io::pread(file, &mut bytes, index * 4096 + 0x814).unwrap();
    bytes[0]
}
