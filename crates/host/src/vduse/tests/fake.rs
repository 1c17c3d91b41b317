//! A kernel that has VDUSE, as far as a session can see: requests, queues and memory in pieces. And a driver
//! in it that writes its rings by hand.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::{pread, pwrite, write};
use zerocopy::{FromZeros, IntoBytes};

use super::super::abi::{IotlbEntry, QueueInfo, RawRequest, RawResponse};
use super::super::port::Port;
use crate::server::event::Bell;

/// Where rings are, and where data goes through: pieces of their own, of one file, as the kernel has them.
pub(crate) const RINGS: u64 = 0x400_0000;
pub(crate) const BOUNCE: u64 = 0x10_0000;
/// The largest address, and one more.
const END: u64 = 0x410_0000;

#[derive(Default)]
pub(crate) struct State {
    requests: VecDeque<RawRequest>,
    answers: Vec<RawResponse>,
    pub(crate) regions: Vec<IotlbEntry>,
    pub(crate) queues: Vec<QueueInfo>,
    pub(crate) kicks: Vec<Option<OwnedFd>>,
    pub(crate) config: Vec<u8>,
    next_id: u32,
}

pub(crate) struct Fake {
    bell: Bell,
    pub(crate) state: Mutex<State>,
    pub(crate) features: AtomicU64,
    pub(crate) calls: AtomicU32,
    pub(crate) announced: AtomicU32,
    /// How often the interrupt is refused first, as by a kernel that has not heard of DRIVER_OK.
    pub(crate) deaf: AtomicU32,
    memory: OwnedFd,
}

impl Fake {
    pub(crate) fn new(features: u64, queues: u32) -> Self {
        let memory = memfd_create("vduse", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&memory, END).unwrap();
        let info = |index| QueueInfo {
            index,
            num: 8,
            descriptors: RINGS + u64::from(index) * 0x1000,
            available: RINGS + u64::from(index) * 0x1000 + 0x400,
            used: RINGS + u64::from(index) * 0x1000 + 0x800,
            ready: 1,
            ..QueueInfo::default()
        };
        let state = State {
            queues: (0..queues).map(info).collect(),
            kicks: (0..queues).map(|_| None).collect(),
            regions: vec![Self::region(RINGS, 0x10000)],
            ..State::default()
        };
        Self {
            bell: Bell::new().unwrap(),
            state: Mutex::new(state),
            features: AtomicU64::new(features),
            calls: AtomicU32::new(0),
            announced: AtomicU32::new(0),
            deaf: AtomicU32::new(0),
            memory,
        }
    }

    /// A piece of the file at its own address.
    pub(crate) fn region(start: u64, bytes: u64) -> IotlbEntry {
        IotlbEntry {
            offset: start,
            start,
            last: start + bytes - 1,
            perm: 3,
            ..IotlbEntry::default()
        }
    }

    /// What the kernel does with the first data of a driver.
    pub(crate) fn show_bounce(&self) {
        self.state.lock().unwrap().regions.push(Self::region(0, BOUNCE));
    }

    pub(crate) fn ask(&self, kind: u32, body: &[u8]) {
        let mut state = self.state.lock().unwrap();
        let mut request = RawRequest::new_zeroed();
        (request.kind, request.id) = (kind, state.next_id);
        state.next_id += 1;
        request.body[..body.len()].copy_from_slice(body);
        state.requests.push_back(request);
        self.bell.ring();
    }

    /// The last answer, which must be to the last request.
    pub(crate) fn answer(&self) -> RawResponse {
        let state = self.state.lock().unwrap();
        let answer = *state.answers.last().unwrap();
        assert_eq!(answer.id, state.next_id - 1);
        answer
    }

    pub(crate) fn write(&self, address: u64, bytes: &[u8]) {
        assert_eq!(pwrite(&self.memory, bytes, address).unwrap(), bytes.len());
    }

    pub(crate) fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        assert_eq!(pread(&self.memory, &mut bytes, address).unwrap(), N);
        bytes
    }

    fn read_u16(&self, address: u64) -> u16 {
        u16::from_le_bytes(self.read(address))
    }

    /// Makes a request of a header, some data and a status available, in three descriptors from `head` on.
    /// `data`: written by the driver, or how much the device may write.
    pub(crate) fn send(&self, queue: u64, head: u16, header: &[u8], data: Result<&[u8], u32>) {
        let at = RINGS + queue * 0x1000;
        let place = 0x1000 + queue * 0x10000 + u64::from(head) * 0x1000;
        self.write(place, header);
        let (len, flags) = match data {
            Ok(bytes) => {
                self.write(place + 0x100, bytes);
                (bytes.len() as u32, 1)
            }
            Err(len) => (len, 3),
        };
        self.write(place + 0xff0, &[0xee]);
        let descriptor = |index: u16, address: u64, len: u32, flags: u16, next: u16| {
            let bytes = [
                address.to_le_bytes().as_slice(),
                &len.to_le_bytes(),
                &flags.to_le_bytes(),
                &next.to_le_bytes(),
            ]
            .concat();
            self.write(at + u64::from(index) * 16, &bytes);
        };
        descriptor(head, place, header.len() as u32, 1, head + 1);
        descriptor(head + 1, place + 0x100, len, flags, head + 2);
        descriptor(head + 2, place + 0xff0, 1, 2, 0);
        let index = self.read_u16(at + 0x402);
        self.write(at + 0x404 + u64::from(index % 8) * 2, &head.to_le_bytes());
        self.write(at + 0x402, &(index + 1).to_le_bytes());
    }

    /// Tells the device, when it wants to be told.
    pub(crate) fn kick(&self, queue: usize) -> bool {
        let state = self.state.lock().unwrap();
        match &state.kicks[queue] {
            Some(event) => write(event, 1u64.as_bytes()).is_ok(),
            None => false,
        }
    }

    pub(crate) fn used(&self, queue: u64) -> u16 {
        self.read_u16(RINGS + queue * 0x1000 + 0x802)
    }

    /// Waits until so many chains were ever answered; the status of the one at `head`.
    pub(crate) fn wait(&self, queue: u64, used: u16, head: u16) -> u8 {
        let start = Instant::now();
        while self.used(queue) != used {
            assert!(start.elapsed() < Duration::from_secs(10), "used {}", self.used(queue));
            std::thread::sleep(Duration::from_millis(1));
        }
        self.status(queue, head)
    }

    pub(crate) fn status(&self, queue: u64, head: u16) -> u8 {
        let [status] = self.read(0x1000 + queue * 0x10000 + u64::from(head) * 0x1000 + 0xff0);
        status
    }

    /// The first bytes of the data of the request at `head`.
    pub(crate) fn data<const N: usize>(&self, queue: u64, head: u16) -> [u8; N] {
        self.read(0x1000 + queue * 0x10000 + u64::from(head) * 0x1000 + 0x100)
    }
}

impl Port for Fake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    fn receive(&self) -> io::Result<Option<RawRequest>> {
        Ok(self.state.lock().unwrap().requests.pop_front())
    }

    fn answer(&self, response: &RawResponse) -> io::Result<()> {
        assert_eq!(response.as_bytes().len(), 152);
        self.state.lock().unwrap().answers.push(*response);
        Ok(())
    }

    fn features(&self) -> io::Result<u64> {
        Ok(self.features.load(Ordering::Relaxed))
    }

    fn set_config(&self, bytes: &[u8]) -> io::Result<()> {
        self.state.lock().unwrap().config = bytes.to_vec();
        Ok(())
    }

    fn announce_config(&self) -> io::Result<()> {
        self.announced.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn queue(&self, index: u32) -> io::Result<QueueInfo> {
        Ok(self.state.lock().unwrap().queues[index as usize])
    }

    fn set_kick(&self, index: u32, event: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let event = event.map(|event| event.try_clone_to_owned()).transpose()?;
        self.state.lock().unwrap().kicks[index as usize] = event;
        Ok(())
    }

    fn call(&self, _: u32) -> io::Result<()> {
        if self.deaf.load(Ordering::Relaxed) > 0 {
            self.deaf.fetch_sub(1, Ordering::Relaxed);
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        self.calls.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn region(&self, first: u64, last: u64) -> io::Result<Option<(IotlbEntry, OwnedFd)>> {
        let state = self.state.lock().unwrap();
        let mut hits = state.regions.iter().filter(|r| r.start <= last && first <= r.last);
        match hits.next() {
            Some(region) => Ok(Some((*region, self.memory.try_clone()?))),
            None => Ok(None),
        }
    }
}
