//! What is measured.

use serde::Serialize;

/// One workload.
#[derive(Clone, Copy, Debug, Serialize, PartialEq, Eq)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    /// Of `zvb bench`.
    pub(crate) rw: &'static str,
    /// Bytes of a request.
    pub(crate) bytes: usize,
    pub(crate) depths: &'static [u32],
    pub(crate) queues: u16,
    pub(crate) zones_at_once: u16,
    /// All queues append to the same zones.
    pub(crate) same_zones: bool,
    /// The client sleeps until it is signalled, rather than polls.
    pub(crate) sleeps: bool,
    /// Only for disks that have zones.
    pub(crate) needs_zones: bool,
    /// On a new disk each time, all of which was written once by requests of so many bytes, one after the
    /// other; otherwise on the disk that all other workloads share.
    pub(crate) first_written: Option<usize>,
}

const KIB: usize = 1024;

const BASE: Workload = Workload {
    name: "",
    rw: "randread",
    bytes: 4 * KIB,
    depths: &[1, 32, 128],
    queues: 1,
    zones_at_once: 1,
    same_zones: false,
    sleeps: false,
    needs_zones: false,
    first_written: None,
};

/// All of them. Reads come first: what writes resets zones, and leaves the last of them half full, which is
/// what reads below write pointers want.
pub(crate) const WORKLOADS: [Workload; 14] = [
    Workload { name: "4 KiB random read", ..BASE },
    Workload { name: "4 KiB random read, client sleeps", depths: &[1, 32], sleeps: true, ..BASE },
    Workload { name: "4 KiB random read, 2 queues", depths: &[32], queues: 2, ..BASE },
    Workload { name: "128 KiB read", rw: "read", bytes: 128 * KIB, ..BASE },
    Workload { name: "4 KiB sequential write", rw: "write", ..BASE },
    Workload {
        name: "4 KiB write, 4 zones in turn",
        rw: "write",
        depths: &[32],
        zones_at_once: 4,
        needs_zones: true,
        ..BASE
    },
    Workload {
        name: "4 KiB random read below write pointers",
        depths: &[32],
        needs_zones: true,
        ..BASE
    },
    Workload { name: "4 KiB zone append", rw: "append", depths: &[32], needs_zones: true, ..BASE },
    Workload {
        name: "4 KiB sequential write, 2 queues",
        rw: "write",
        depths: &[32],
        queues: 2,
        ..BASE
    },
    Workload {
        name: "4 KiB write, 2 queues, 2 zones each in turn",
        rw: "write",
        depths: &[32],
        queues: 2,
        zones_at_once: 2,
        needs_zones: true,
        ..BASE
    },
    Workload {
        name: "4 KiB zone append, 2 queues",
        rw: "append",
        depths: &[32],
        queues: 2,
        needs_zones: true,
        ..BASE
    },
    Workload {
        name: "4 KiB zone append, 2 queues to the same zone",
        rw: "append",
        depths: &[32],
        queues: 2,
        same_zones: true,
        needs_zones: true,
        ..BASE
    },
    Workload { name: "128 KiB write", rw: "write", bytes: 128 * KIB, ..BASE },
    Workload {
        name: "128 KiB write, disk first written by 4 KiB",
        rw: "write",
        bytes: 128 * KIB,
        depths: &[32],
        first_written: Some(4 * KIB),
        ..BASE
    },
];

impl Workload {
    /// Whether it is one of the few for servers that go past the page cache: what the disk below can do.
    pub(crate) fn suits_direct(&self) -> bool {
        self.queues == 1 && !self.sleeps && !self.needs_zones && self.first_written.is_none()
    }

    pub(crate) fn writes(&self) -> bool {
        matches!(self.rw, "write" | "append")
    }
}
