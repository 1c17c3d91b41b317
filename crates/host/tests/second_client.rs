//! A driver that is not ours: the `virtio-driver` crate, with a configuration and requests of our own,
//! for it knows no zones. What crosses the ring is spelt out here, byte by byte, without `zvb-wire`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(
    unsafe_code,
    reason = "the crate asks for a promise about bytes, and lends its queue memory"
)]
// UNSAFETY: a plain struct of bytes, and queue memory that lives as long as the transport.

mod support;

use std::ffi::c_void;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use support::volume::{SlowVolume, ZONE, ZONES};
use support::{Rig, pattern};
use virtio_driver::virtqueue::{Virtqueue, VirtqueueLayout};
use virtio_driver::{ByteValued, VhostUser, VirtioFeatureFlags, VirtioTransport, iovec};

const ZONED: u64 = 1 << 17;
const FLUSH: u64 = 1 << 9;

const OUT: u32 = 1;
const IN: u32 = 0;
const APPEND: u32 = 15;
const REPORT: u32 = 16;
const OPEN: u32 = 18;
const RESET: u32 = 24;

/// The configuration space: 96 bytes.
#[derive(Clone, Copy)]
#[repr(C)]
struct ZonedConfig([u8; 96]);

// SAFETY: an array of bytes, which may be anything, without padding.
unsafe impl ByteValued for ZonedConfig {}

impl ZonedConfig {
    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().unwrap())
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().unwrap())
    }
}

const DATA: usize = 8192;

/// One request, in memory that the device sees.
#[derive(Clone, Copy)]
#[repr(C)]
struct ZonedRequest {
    header: [u8; 16],
    /// An append's sector, and the status; all others use the last byte only.
    tail: [u8; 9],
    data: [u8; DATA],
}

struct Client {
    transport: VhostUser<ZonedConfig, ZonedRequest>,
    queue: Virtqueue<'static, ZonedRequest>,
}

impl Client {
    fn connect(rig: &Rig, features: u64) -> Self {
        let mut transport = VhostUser::new(rig.path.to_str().unwrap(), features).unwrap();
        let flags = VirtioFeatureFlags::from_bits_truncate(VirtioTransport::<
            ZonedConfig,
            ZonedRequest,
        >::get_features(&transport));
        let translator = transport.iova_translator();
        let layout = VirtqueueLayout::new::<ZonedRequest>(1, 16, flags).unwrap();
        let memory = transport.alloc_queue_mem(&layout).unwrap();
        // SAFETY: the memory is the transport's for its whole life, it gives it out only once, and
        // `Client` drops nothing that the queue uses before the queue: neither has a destructor that
        // looks at it.
        let memory = unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr(), memory.len()) };
        let mut queue = Virtqueue::new(translator, memory, 16, flags).unwrap();
        queue.set_used_notif_enabled(true);
        let queues = [queue];
        transport.setup_queues(&queues).unwrap();
        let [queue] = queues;
        Self { transport, queue }
    }

    fn config(&self) -> ZonedConfig {
        self.transport.get_config().unwrap()
    }

    /// Sends a request and waits for it: `out` goes to the device, `wanted` bytes come back.
    fn ask(&mut self, kind: u32, sector: u64, out: &[u8], wanted: usize) -> ZonedRequest {
        let tail = if kind == APPEND { 0..9 } else { 8..9 };
        let id = self
            .queue
            .add_request(|request, add| {
                request.header = [0; 16];
                request.header[..4].copy_from_slice(&kind.to_le_bytes());
                request.header[8..].copy_from_slice(&sector.to_le_bytes());
                request.tail = [0xff; 9];
                request.data[..out.len()].copy_from_slice(out);
                let mut piece = |bytes: &mut [u8], from_device: bool| {
                    if bytes.is_empty() {
                        return Ok(());
                    }
                    let iov_base = bytes.as_mut_ptr().cast::<c_void>();
                    add(iovec { iov_base, iov_len: bytes.len() }, from_device)
                };
                piece(&mut request.header, false)?;
                piece(&mut request.data[..out.len()], false)?;
                piece(&mut request.data[..wanted], true)?;
                piece(&mut request.tail[tail], true)
            })
            .unwrap();
        if self.queue.avail_notif_needed() {
            self.transport.get_submission_notifier(0).notify().unwrap();
        }
        let call = self.transport.get_completion_fd(0);
        loop {
            if let Some(done) = self.queue.completions().next() {
                assert_eq!(done.id, id);
                return done.req;
            }
            let mut fds = [PollFd::from_borrowed_fd(call.as_fd(), PollFlags::IN)];
            let timeout = Timespec { tv_sec: 10, tv_nsec: 0 };
            assert_eq!(poll(&mut fds, Some(&timeout)).unwrap(), 1, "the device does not signal");
            call.read().unwrap();
        }
    }
}

#[test]
fn another_driver_writes_appends_and_reads_a_report() {
    let volume = SlowVolume::new();
    let rig = Rig::new(Arc::<SlowVolume>::clone(&volume), 1);
    for event_index in [0, VirtioFeatureFlags::RING_EVENT_IDX.bits()] {
        let features = VirtioFeatureFlags::VERSION_1.bits() | ZONED | FLUSH | event_index;
        let mut client = Client::connect(&rig, features);
        let agreed = VirtioTransport::<ZonedConfig, ZonedRequest>::get_features(&client.transport);
        assert_eq!(agreed & ZONED, ZONED, "bit 17 is negotiated");
        drive(&mut client, &volume);
    }
}

fn drive(client: &mut Client, volume: &SlowVolume) {
    let config = client.config();
    assert_eq!(config.u64(0), ZONE * 16 + 1024);
    assert_eq!(u64::from(config.u32(72)), ZONE, "zone_sectors");
    assert_eq!((config.u32(76), config.u32(80)), (4, 6), "limits");
    assert_eq!(config.u32(84), 512, "max_append_sectors");
    assert_eq!(config.u32(88), 4096, "write_granularity");
    assert_eq!(config.0[92], 1, "host-managed");

    let zone = 5 * ZONE;
    assert_eq!(client.ask(RESET, zone, &[], 0).tail[8], 0);
    let data = pattern(5, 4096);
    assert_eq!(client.ask(OUT, zone, &data, 0).tail[8], 0);
    assert_eq!(client.ask(OUT, zone + 64, &data, 0).tail[8], 4, "not the write pointer");
    for nth in 1..4u64 {
        let data = pattern(nth, DATA);
        let answer = client.ask(APPEND, zone, &data, 0);
        let sector = u64::from_le_bytes(answer.tail[..8].try_into().unwrap());
        assert_eq!((answer.tail[8], sector), (0, zone + 8 + (nth - 1) * 16));
        assert!(volume.bytes_at(sector, 16) == data);
    }
    assert_eq!(client.ask(APPEND, zone + 8, &data, 0).tail[8], 3, "not the start of a zone");
    let read = client.ask(IN, zone, &[], 4096);
    assert!(read.tail[8] == 0 && read.data[..4096] == data);
    assert_eq!(client.ask(OPEN, 6 * ZONE, &[], 0).tail[8], 0);

    let report = client.ask(REPORT, 0, &[], 64 + 64 * 17);
    assert_eq!(report.tail[8], 0);
    let u64_at = |at: usize| u64::from_le_bytes(report.data[at..at + 8].try_into().unwrap());
    assert_eq!(u64_at(0), u64::from(ZONES));
    let described = |index: usize| {
        let at = 64 + 64 * index;
        let [kind, state] = [report.data[at + 24], report.data[at + 25]];
        (u64_at(at), u64_at(at + 8), u64_at(at + 16), kind, state)
    };
    assert_eq!((described(0).3, described(0).4), (1, 0), "conventional");
    assert_eq!(described(5), (1536, zone, zone + 8 + 48, 2, 2), "implicitly open");
    assert_eq!(described(6), (1536, 6 * ZONE, 6 * ZONE, 2, 3), "explicitly open");
    assert_eq!(described(7), (1536, 7 * ZONE, 7 * ZONE, 2, 1), "empty");
    assert_eq!(client.ask(RESET, 6 * ZONE, &[], 0).tail[8], 0);
}
