//! What crosses between this process and the kernel's VDUSE module, byte by byte: API version 0.
//!
//! Numbers are in the host's own order, as everywhere between a kernel and its processes.

use rustix::ioctl::Opcode;
use rustix::ioctl::opcode::{none, read, read_write, write};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The version of the interface that is spoken here.
pub(crate) const API_VERSION: u64 = 0;

/// Bytes of a name, with the NUL behind it.
pub(crate) const NAME_BYTES: usize = 256;

/// The virtio device number of a block device.
pub(crate) const VIRTIO_ID_BLOCK: u32 = 2;

/// Takes the eventfd of a queue away.
pub(crate) const NO_EVENTFD: i32 = -1;

/// What the numbers of VDUSE's ioctls are made with.
const VDUSE: u8 = 0x81;

/// For `/dev/vduse/control`.
pub(crate) const SET_API_VERSION: Opcode = write::<u64>(VDUSE, 0x01);
/// For `/dev/vduse/control`; the configuration space stands behind the structure.
pub(crate) const CREATE_DEV: Opcode = write::<DeviceConfig>(VDUSE, 0x02);
/// For `/dev/vduse/control`.
pub(crate) const DESTROY_DEV: Opcode = write::<[u8; NAME_BYTES]>(VDUSE, 0x03);
/// Returns a descriptor of what lies at an address.
pub(crate) const IOTLB_GET_FD: Opcode = read_write::<IotlbEntry>(VDUSE, 0x10);
/// What the driver accepts.
pub(crate) const DEV_GET_FEATURES: Opcode = read::<u64>(VDUSE, 0x11);
/// The bytes stand behind the structure.
pub(crate) const DEV_SET_CONFIG: Opcode = write::<ConfigData>(VDUSE, 0x12);
/// Tells the driver that the configuration space is not what it was.
pub(crate) const DEV_INJECT_CONFIG_IRQ: Opcode = none(VDUSE, 0x13);
/// Says how long a queue may be.
pub(crate) const VQ_SETUP: Opcode = write::<QueueSetup>(VDUSE, 0x14);
/// What the driver said about a queue.
pub(crate) const VQ_GET_INFO: Opcode = read_write::<QueueInfo>(VDUSE, 0x15);
/// The eventfd that the kernel signals when a queue is kicked.
pub(crate) const VQ_SETUP_KICKFD: Opcode = write::<QueueEvent>(VDUSE, 0x16);
/// Tells the driver that chains were answered.
pub(crate) const VQ_INJECT_IRQ: Opcode = write::<u32>(VDUSE, 0x17);

/// The requests (ioctl) that are made to a device's file once a disk is being attached.
pub const REQUESTS: &[u32] = &[
    IOTLB_GET_FD,
    DEV_GET_FEATURES,
    DEV_SET_CONFIG,
    DEV_INJECT_CONFIG_IRQ,
    VQ_GET_INFO,
    VQ_SETUP_KICKFD,
    VQ_INJECT_IRQ,
];

/// `struct vduse_dev_config`, but for the configuration space behind it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct DeviceConfig {
    pub(crate) name: [u8; NAME_BYTES],
    pub(crate) vendor_id: u32,
    pub(crate) device_id: u32,
    pub(crate) features: u64,
    pub(crate) vq_num: u32,
    pub(crate) vq_align: u32,
    pub(crate) reserved: [u32; 13],
    pub(crate) config_size: u32,
}

/// `struct vduse_iotlb_entry`: addresses `start` to `last` are `offset` and on in the file that
/// [`IOTLB_GET_FD`] returns.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub(crate) struct IotlbEntry {
    pub(crate) offset: u64,
    pub(crate) start: u64,
    pub(crate) last: u64,
    /// 1: may be read, 2: may be written, 3: both.
    pub(crate) perm: u8,
    pub(crate) padding: [u8; 7],
}

/// `struct vduse_config_data`, but for the bytes behind it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct ConfigData {
    pub(crate) offset: u32,
    pub(crate) length: u32,
}

/// `struct vduse_vq_config`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct QueueSetup {
    pub(crate) index: u32,
    pub(crate) max_size: u16,
    pub(crate) reserved: [u16; 13],
}

/// `struct vduse_vq_info`. The union of split and packed state is eight bytes, of which a split queue has
/// the first two.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub(crate) struct QueueInfo {
    pub(crate) index: u32,
    pub(crate) num: u32,
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
    pub(crate) available_index: u16,
    pub(crate) packed: [u16; 3],
    pub(crate) ready: u8,
    pub(crate) padding: [u8; 7],
}

/// `struct vduse_vq_eventfd`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct QueueEvent {
    pub(crate) index: u32,
    pub(crate) fd: i32,
}

/// `struct vduse_dev_request`, as it is read.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct RawRequest {
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) reserved: [u32; 4],
    pub(crate) body: [u8; 128],
}

/// `struct vduse_dev_response`, as it is written.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct RawResponse {
    pub(crate) id: u32,
    /// 0: done, 1: failed.
    pub(crate) result: u32,
    pub(crate) reserved: [u32; 4],
    pub(crate) body: [u8; 128],
}

const _: () = {
    assert!(size_of::<DeviceConfig>() == 336);
    assert!(std::mem::offset_of!(DeviceConfig, features) == 264);
    assert!(std::mem::offset_of!(DeviceConfig, config_size) == 332);
    assert!(size_of::<IotlbEntry>() == 32);
    assert!(size_of::<ConfigData>() == 8);
    assert!(size_of::<QueueSetup>() == 32);
    assert!(size_of::<QueueInfo>() == 48);
    assert!(std::mem::offset_of!(QueueInfo, available_index) == 32);
    assert!(std::mem::offset_of!(QueueInfo, ready) == 40);
    assert!(size_of::<QueueEvent>() == 8);
    assert!(size_of::<RawRequest>() == 152);
    assert!(size_of::<RawResponse>() == 152);
};

/// What the kernel asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Request {
    /// Where a queue stands.
    QueueState {
        index: u32,
    },
    /// The driver sets the device's status.
    SetStatus(u8),
    /// What lies at these addresses is not what it was.
    UpdateIotlb {
        first: u64,
        last: u64,
    },
    Unknown(u32),
}

impl RawRequest {
    pub(crate) fn request(&self) -> Request {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = self.body;
        match self.kind {
            0 => Request::QueueState { index: u32::read([a, b, c, d]) },
            1 => Request::SetStatus(a),
            2 => Request::UpdateIotlb {
                first: u64::read([a, b, c, d, e, f, g, h]),
                last: u64::read([i, j, k, l, m, n, o, p]),
            },
            other => Request::Unknown(other),
        }
    }
}

/// Numbers from bytes in the host's order.
trait Read<const N: usize>: Sized {
    fn read(bytes: [u8; N]) -> Self;
}

impl Read<4> for u32 {
    fn read(bytes: [u8; 4]) -> Self {
        zerocopy::transmute!(bytes)
    }
}

impl Read<8> for u64 {
    fn read(bytes: [u8; 8]) -> Self {
        zerocopy::transmute!(bytes)
    }
}

/// What is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    Done,
    Failed,
    /// Where a split queue stands: the index of the next chain that it takes.
    QueueState {
        index: u32,
        available_index: u16,
    },
}

impl RawResponse {
    pub(crate) fn new(id: u32, answer: Answer) -> Self {
        let mut body = [0; 128];
        let mut result = 0;
        match answer {
            Answer::Done => {}
            Answer::Failed => result = 1,
            Answer::QueueState { index, available_index } => {
                // The queue's number, then the union of split and packed state.
                let (first, rest) = body.split_at_mut(4);
                first.copy_from_slice(index.as_bytes());
                if let Some(state) = rest.get_mut(..2) {
                    state.copy_from_slice(available_index.as_bytes());
                }
            }
        }
        Self { id, result, reserved: [0; 4], body }
    }
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    /// As `linux/vduse.h` has them.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn ioctls_have_the_numbers_of_the_kernel() {
        assert_eq!(SET_API_VERSION, 0x4008_8101);
        assert_eq!(CREATE_DEV, 0x4150_8102);
        assert_eq!(DESTROY_DEV, 0x4100_8103);
        assert_eq!(IOTLB_GET_FD, 0xc020_8110);
        assert_eq!(DEV_GET_FEATURES, 0x8008_8111);
        assert_eq!(DEV_SET_CONFIG, 0x4008_8112);
        assert_eq!(DEV_INJECT_CONFIG_IRQ, 0x0000_8113);
        assert_eq!(VQ_SETUP, 0x4020_8114);
        assert_eq!(VQ_GET_INFO, 0xc030_8115);
        assert_eq!(VQ_SETUP_KICKFD, 0x4008_8116);
        assert_eq!(VQ_INJECT_IRQ, 0x4004_8117);
    }

    fn request(head: &[u8], body: &[u8]) -> Request {
        let mut bytes = [0xee; 152];
        bytes[..head.len()].copy_from_slice(head);
        bytes[24..24 + body.len()].copy_from_slice(body);
        RawRequest::read_from_bytes(&bytes).unwrap().request()
    }

    #[test]
    fn requests_are_what_the_kernel_writes() {
        let state = request(&[0, 0, 0, 0, 9, 0, 0, 0], &[3, 0, 0, 0]);
        assert_eq!(state, Request::QueueState { index: 3 });
        assert_eq!(request(&[1, 0, 0, 0], &[0x0f]), Request::SetStatus(0x0f));
        let range = [0, 0, 1, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 0, 0, 0, 0, 0x80];
        let update = Request::UpdateIotlb { first: 0x1_0000, last: 0x8000_0000_0001_ffff };
        assert_eq!(request(&[2, 0, 0, 0], &range), update);
        assert_eq!(request(&[3, 1, 0, 0], &[]), Request::Unknown(0x103));
    }

    #[test]
    fn answers_are_what_the_kernel_reads() {
        let state = Answer::QueueState { index: 2, available_index: 0x1234 };
        let response = RawResponse::new(0x0102_0304, state);
        let bytes = response.as_bytes();
        assert_eq!(bytes[..8], [4, 3, 2, 1, 0, 0, 0, 0]);
        assert_eq!(bytes[8..24], [0; 16], "the kernel insists on it");
        assert_eq!(bytes[24..32], [2, 0, 0, 0, 0x34, 0x12, 0, 0]);
        assert!(bytes[32..].iter().all(|b| *b == 0));
        let failed = RawResponse::new(7, Answer::Failed);
        assert_eq!(failed.as_bytes()[..8], [7, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(RawResponse::new(7, Answer::Done).result, 0);
    }
}
