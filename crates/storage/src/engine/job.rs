//! One operation on its way through an engine.

use zvb_ring::Buffers;
use zvb_wire::SECTOR_BYTES;

use crate::sys::Bounce;
use crate::volume::{Command, Done, Failure, Io, Op};

/// What a job does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Read,
    Write,
    /// To wherever the medium puts it in the zone at `Job::at`.
    Append,
    Zero {
        unmap: bool,
    },
    Flush,
    /// Of media with zones of their own.
    Command(Command),
}

/// An operation, in bytes, and how far it is.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) tag: u64,
    pub(crate) kind: Kind,
    /// Of reads, writes and appends.
    pub(crate) buffers: Option<Buffers>,
    /// Moved instead of guest memory, where that is not aligned as the disk wants it.
    pub(crate) bounce: Option<Box<Bounce>>,
    /// First byte on the disk.
    pub(crate) at: u64,
    /// Bytes in all.
    pub(crate) len: u64,
    /// Bytes done; the pieces of a job are done one after the other.
    pub(crate) done: u64,
    /// When it began, for [`Pins`](crate::slots::Pins).
    pub(crate) epoch: u64,
    /// The medium was full once already, and room was made for it.
    pub(crate) made_room: bool,
}

impl Job {
    /// What `io` asks for. A range past 2^64 becomes one that ends there, which no disk has.
    pub(crate) fn new(io: Io) -> Self {
        let bytes = |sectors: u64| sectors.saturating_mul(SECTOR_BYTES);
        let (kind, buffers, len) = match io.op {
            Op::Read(buffers) => (Kind::Read, Some(buffers), 0),
            Op::Write(buffers) => (Kind::Write, Some(buffers), 0),
            Op::Append(buffers) => (Kind::Append, Some(buffers), 0),
            Op::Zero { sectors, unmap } => (Kind::Zero { unmap }, None, bytes(sectors.0)),
            Op::Discard { sectors } => (Kind::Zero { unmap: true }, None, bytes(sectors.0)),
            Op::Flush => (Kind::Flush, None, 0),
            Op::Command(command) => (Kind::Command(command), None, 0),
        };
        let len = buffers.as_ref().map_or(len, Buffers::len);
        let at = bytes(io.at.0);
        Self {
            tag: io.tag,
            kind,
            buffers,
            bounce: None,
            at,
            len,
            done: 0,
            epoch: 0,
            made_room: false,
        }
    }

    /// Bytes still to do.
    pub(crate) fn left(&self) -> u64 {
        self.len.saturating_sub(self.done)
    }

    /// Where on the disk the next byte is.
    pub(crate) fn position(&self) -> u64 {
        self.at.saturating_add(self.done)
    }

    /// True for what changes the medium.
    pub(crate) fn changes(&self) -> bool {
        matches!(self.kind, Kind::Write | Kind::Append | Kind::Zero { .. })
    }

    /// The answer.
    pub(crate) fn finish(self, result: Result<(), Failure>) -> Done {
        Done { tag: self.tag, result, buffers: self.buffers, placed: None }
    }
}
