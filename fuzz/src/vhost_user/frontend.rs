//! The front end: a socket, some memory, some eventfds, and no manners.

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown as Half;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::pipe::pipe;
use zvb_device::Device;
use zvb_host::vhost_user::FrontendRequest as R;

use super::PATIENCE;
use super::message::{BYTES, GUEST, Payload, USER, payload};
use crate::input::Input;

pub(super) struct Frontend {
    device: Arc<Device>,
    socket: UnixStream,
    memory: OwnedFd,
    kicks: [OwnedFd; 2],
    calls: [OwnedFd; 2],
    /// An eventfd that can take no more, and blocks.
    full: OwnedFd,
    /// A descriptor that is none of what the protocol has.
    other: OwnedFd,
    /// For what the server has to say by itself: a pair of sockets and a pipe. Nobody reads them.
    news: (UnixStream, UnixStream),
    pipe: (OwnedFd, OwnedFd),
    /// What was sent ends inside a message, or the server has gone: it can not be asked anything.
    out_of_step: bool,
    /// Requests since answers were last taken: a server waits only so long for somebody to take them.
    unread: u32,
    /// Chains made available in each queue.
    available: [u16; 2],
}

impl Frontend {
    pub(super) fn new(device: Arc<Device>, socket: UnixStream) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let memory = memfd_create("front-end", MemfdFlags::CLOEXEC).expect("a memfd");
        ftruncate(&memory, BYTES).expect("room");
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let event = || event().expect("an eventfd");
        let full = eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd");
        rustix::io::write(&full, &(u64::MAX - 1).to_le_bytes()).expect("room for one number");
        let other = std::fs::File::open("/dev/null").expect("/dev/null").into();
        Self {
            device,
            socket,
            memory,
            kicks: [event(), event()],
            calls: [event(), event()],
            full,
            other,
            news: UnixStream::pair().expect("a socket"),
            pipe: pipe().expect("a pipe"),
            out_of_step: false,
            unread: 0,
            available: [0; 2],
        }
    }

    pub(super) fn act(&mut self, input: &mut Input<'_>) {
        if self.unread > 50 {
            self.synchronise();
        }
        match input.byte() {
            0..=39 => self.shake_hands(input.byte()),
            40..=79 => self.ready(input.byte()),
            80..=109 => self.ask(input),
            110..=199 => self.message(input),
            200..=209 => self.spoilt(input),
            210..=214 => self.raw(input),
            215..=219 => {
                self.synchronise();
                let left = u64::from(input.byte()) << 8;
                ftruncate(&self.memory, left).expect("a memfd of ours");
            }
            220..=235 => {
                let (at, len) = (input.short(), usize::from(input.byte() % 32));
                self.poke(at.into(), input.bytes(len));
            }
            236..=245 => self.kick(input.byte()),
            // The configuration changes.
            248..=250 => self.device.announce_config_change(),
            _ => self.synchronise(),
        }
    }

    /// Says that there is no more, and waits for the server to hang up.
    pub(super) fn end(mut self) {
        let _ = self.socket.shutdown(Half::Write);
        let mut rest = Vec::new();
        let read = self.socket.read_to_end(&mut rest);
        // A server that has not read everything resets the connection.
        let reset = |e: &std::io::Error| e.kind() == std::io::ErrorKind::ConnectionReset;
        assert!(read.is_ok() || read.is_err_and(|e| reset(&e)), "the server does not hang up");
    }

    fn shake_hands(&mut self, how: u8) {
        self.send(R::SET_OWNER.0, false, &[], &[]);
        self.send(R::SET_PROTOCOL_FEATURES.0, false, &0x1_8229u64.to_le_bytes()[..], &[]);
        let features = (1 << 17) | (1 << 30) | (1 << 32) | (1 << 9) | (1 << 28) | (1 << 12);
        let features: u64 = features | u64::from(how & 1) << 29;
        self.send(R::SET_FEATURES.0, how & 2 != 0, &features.to_le_bytes(), &[]);
        if how & 4 != 0 {
            for status in [1u64, 3, 11, 15] {
                self.send(R::SET_STATUS.0, false, &status.to_le_bytes(), &[]);
            }
        }
    }

    /// Gives the server memory and a queue in it.
    fn ready(&mut self, how: u8) {
        let queue = how & 1;
        let at = USER + u64::from(queue) * 4096;
        let state = |n: u32| Payload::words(&[queue.into(), n]).0;
        if how & 2 == 0 {
            let region = Payload::longs(&[0, GUEST, BYTES, USER, 0]).0;
            self.send(R::ADD_MEM_REG.0, true, &region, &[0]);
        }
        self.send(R::SET_VRING_NUM.0, true, &state(16), &[]);
        let address = Payload::words(&[queue.into(), 0]);
        let address = address.then(&Payload::longs(&[at, at + 0x300, at + 0x200, 0])).0;
        self.send(R::SET_VRING_ADDR.0, true, &address, &[]);
        self.send(R::SET_VRING_BASE.0, true, &state(0), &[]);
        let index = u64::from(queue).to_le_bytes();
        let call = if how & 0xf0 == 0xf0 { 3 } else { 4 + queue };
        self.send(R::SET_VRING_CALL.0, true, &index, &[call]);
        self.send(R::SET_VRING_KICK.0, true, &index, &[1 + queue]);
        if how & 4 == 0 {
            self.send(R::SET_VRING_ENABLE.0, true, &state(1), &[]);
        }
    }

    /// Puts a request into a queue, and kicks.
    fn ask(&mut self, input: &mut Input<'_>) {
        let how = input.byte();
        let queue = usize::from(how & 1);
        let base = queue as u64 * 4096;
        let kind = input.one_of(&[8u32, 0, 1, 15, 16, 24, 4, 26, 18, 22]);
        let sector = input.below(6) * 16;
        let (readable, writable) = match kind {
            1 | 15 => (2048u32, 9u32),
            0 | 16 => (0, 1024 + 1),
            _ => (0, 21),
        };
        let mut header = Payload::words(&[kind, 0]).0;
        header.extend(sector.to_le_bytes());
        self.poke(base + 0x700, &header);
        let mut describe = |slot: u64, at: u64, len: u32, flags: u16| {
            let mut bytes = Payload::longs(&[GUEST + at]).0;
            bytes.extend(len.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
            bytes.extend((slot as u16 + 1).to_le_bytes());
            self.poke(base + slot * 16, &bytes);
        };
        describe(0, base + 0x700, 16, 1);
        describe(1, 0x8000, readable, 1);
        // Now and then where no memory is.
        let at = if how < 0xf0 { 0xa000 } else { BYTES - 4 };
        describe(2, at, writable, 2);
        let available = &mut self.available[queue];
        let slot = u64::from(*available % 16);
        *available = available.wrapping_add(1);
        let index = available.to_le_bytes();
        self.poke(base + 0x204 + 2 * slot, &[0, 0]);
        self.poke(base + 0x202, &index);
        self.kick(how);
    }

    fn kick(&mut self, which: u8) {
        let kick = &self.kicks[usize::from(which & 1)];
        match rustix::io::write(kick, &1u64.to_le_bytes()) {
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(error) => panic!("an eventfd of ours: {error}"),
        }
        if which & 2 != 0 {
            self.synchronise();
        }
    }

    fn poke(&mut self, at: u64, bytes: &[u8]) {
        // Never past the end: that would make the file longer.
        let len = rustix::fs::fstat(&self.memory).expect("a memfd of ours").st_size as u64;
        if at + bytes.len() as u64 <= len {
            rustix::io::pwrite(&self.memory, bytes, at).expect("room");
        }
    }

    /// A request whose payload makes sense.
    fn message(&mut self, input: &mut Input<'_>) {
        let (code, how) = (u32::from(input.byte() % 46), input.byte());
        let (payload, files) = payload(code, input);
        let usual = match code {
            5 | 37 => 0,
            // A pipe, mostly.
            21 => 8 + (how & 1),
            12 => 1 + (how & 1),
            _ => 4 + (how & 1),
        };
        let files = vec![if how < 0xf0 { usual } else { how % 10 }; files];
        self.send(code, how & 8 != 0, &payload.0, &files);
    }

    /// A request whose payload, descriptors or flags do not fit it.
    fn spoilt(&mut self, input: &mut Input<'_>) {
        let (code, how) = (u32::from(input.byte() % 46), input.byte());
        let (mut payload, mut files) = payload(code, input);
        match how % 4 {
            0 => payload.0.truncate(usize::from(input.byte() % 40)),
            1 => payload.0.extend(input.bytes(usize::from(how))),
            2 => files = usize::from(input.byte() % 40),
            _ => {
                for byte in payload.0.iter_mut() {
                    *byte ^= if input.byte() < 0xf0 { 0 } else { how };
                }
            }
        }
        self.send(code, how & 8 != 0, &payload.0, &vec![input.byte() % 10; files]);
    }

    /// Bytes, and descriptors with them.
    fn raw(&mut self, input: &mut Input<'_>) {
        let (len, files) = (usize::from(input.byte()), usize::from(input.byte() % 40));
        let bytes = input.bytes(len);
        if bytes.is_empty() {
            return;
        }
        self.send_bytes(bytes, &vec![input.byte() % 10; files]);
        self.out_of_step = true;
    }

    fn send(&mut self, code: u32, need_reply: bool, payload: &[u8], files: &[u8]) {
        trace!("{} ({need_reply}), {payload:02x?}, files {files:?}", R(code));
        self.unread += 1;
        let flags = 1 | u32::from(need_reply) << 3;
        let header = Payload::words(&[code, flags, payload.len() as u32]);
        self.send_bytes(&[&header.0, payload].concat(), files);
    }

    fn send_bytes(&mut self, bytes: &[u8], files: &[u8]) {
        let files: Vec<BorrowedFd<'_>> = files.iter().map(|which| self.file(*which)).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(files.is_empty() || control.push(SendAncillaryMessage::ScmRights(&files)));
        let flags = SendFlags::NOSIGNAL;
        match sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, flags) {
            Ok(sent) => {
                let rest = (&self.socket).write_all(&bytes[sent..]);
                self.out_of_step |= rest.is_err();
            }
            Err(_) => self.out_of_step = true,
        }
    }

    fn file(&self, which: u8) -> BorrowedFd<'_> {
        match which {
            0 => self.memory.as_fd(),
            1 | 2 => self.kicks[usize::from(which - 1)].as_fd(),
            3 => self.full.as_fd(),
            4 | 5 => self.calls[usize::from(which - 4)].as_fd(),
            6 => self.socket.as_fd(),
            8 => self.news.1.as_fd(),
            9 => self.pipe.1.as_fd(),
            _ => self.other.as_fd(),
        }
    }

    /// Waits until the server has seen to all that was sent: it says so, or hangs up.
    fn synchronise(&mut self) {
        if self.out_of_step {
            return;
        }
        self.send(R::GET_QUEUE_NUM.0, false, &[], &[]);
        self.unread = 0;
        while !self.out_of_step {
            let mut header = [0; 12];
            if let Err(error) = self.socket.read_exact(&mut header) {
                let silent = [std::io::ErrorKind::WouldBlock, std::io::ErrorKind::TimedOut];
                assert!(!silent.contains(&error.kind()), "the server neither answers nor hangs up");
                self.out_of_step = true;
                return;
            }
            let word =
                |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
            let (code, flags, size) = (word(0), word(4), word(8));
            assert_eq!(flags & 7, 5, "no answer of version 1");
            assert!(size <= 4096, "{size} bytes");
            let mut payload = vec![0; size as usize];
            self.out_of_step |= self.socket.read_exact(&mut payload).is_err();
            if code == R::GET_QUEUE_NUM.0 {
                assert!(self.out_of_step || payload == 2u64.to_le_bytes(), "{payload:02x?}");
                return;
            }
        }
    }
}
