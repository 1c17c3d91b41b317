//! The seam between a device and its medium.
//!
//! A [`Volume`] answers for zones and their states and is shared by all queues; an [`Engine`] moves bytes
//! and belongs to one queue's worker. Neither knows a rule of zones: the device has decided before it
//! asks, and what it asks for is inside the medium and does not cross from one sequential-required zone
//! into another.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use zvb_ring::Buffers;
use zvb_wire::{Sector, ZoneType};
use zvb_zones::{Geometry, GeometryError, Manage, Snapshot, ZoneId};

/// What a volume looks like to a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Size in 512-byte sectors.
    pub capacity: Sector,
    /// Logical block size in bytes: a power of two of at least 512.
    pub block_size: u32,
    /// How it is divided into zones; `None` for a plain disk.
    pub geometry: Option<Geometry>,
    /// The disk's name, ASCII, padded with NUL (GET_ID).
    pub id: [u8; 20],
    /// Nothing may change.
    pub read_only: bool,
    /// Ranges of conventional zones and plain disks can be given back to the medium.
    pub can_discard: bool,
}

/// A medium: what it looks like, the state of its zones, and engines to reach its bytes.
///
/// Sectors that were never written since their zone's last reset may read as anything: the device
/// answers for those itself, by [`Snapshot::written`]. Sectors of conventional zones, of
/// sequential-preferred zones and of plain disks that were never written (or were discarded or reset
/// since) read as zeroes.
pub trait Volume: Send + Sync + fmt::Debug {
    /// What it looks like now: only its size ever changes, by [`grow`](Self::grow).
    fn shape(&self) -> Shape;

    /// The state of every zone as it was found when the volume was opened; nothing for a plain disk.
    fn recovered(&self) -> Vec<Snapshot>;

    /// Remembers that `zone` is in `state`, from now on: a death of this process does not lose it, and a
    /// later [`Op::Flush`] makes it survive the host. Cheap: no system call, no wait. The caller
    /// serialises calls, and has no write to `zone` in flight when `state` is empty or follows a reset.
    /// (States that followed each other quickly may be told as one: a reset shows by data that ends at 0
    /// where before it did not.)
    fn record(&self, zone: ZoneId, state: Snapshot);

    /// True when an earlier failure of the medium made it read-only: nothing may be promised any more, so
    /// no state of a zone may change either. Cheap.
    fn has_failed(&self) -> bool {
        false
    }

    /// True when that is because part of the medium is gone: what was made durable before may be among it.
    fn has_lost_part(&self) -> bool {
        false
    }

    /// True when the medium has zones of its own and carries commands to them out itself: each is given to
    /// an engine, as [`Op::Command`], before its effect is recorded. False (an image, memory) when
    /// recording is all there is to do. Of such a medium that is read-only, zones stay open that are.
    fn runs_commands(&self) -> bool {
        false
    }

    /// True when the medium has appends of its own: any number to one zone at once, in places that it chooses.
    /// Engines take [`Op::Append`] then.
    fn places_appends(&self) -> bool {
        false
    }

    /// A write to `zone` is lost, on the medium or before it came there, and so are those behind it. One
    /// that an engine keeps until it is its turn is to be failed: that turn may never come.
    fn abandon(&self, zone: ZoneId) {
        let _ = zone;
    }

    /// The state that the medium itself has `zone` in, when it knows better than what was recorded. Asked
    /// after something failed in `zone`, when nothing is in flight to it; from now on it can be written at
    /// this state's end again.
    fn recheck(&self, zone: ZoneId) -> Option<Snapshot> {
        let _ = zone;
        None
    }

    /// Makes what `engines` engines need, each for up to `depth` operations, that a process which confines
    /// itself can not make afterwards. Without this, engines do as well as they can.
    fn prepare(&self, engines: u16, depth: u32) -> Result<(), EngineError> {
        let _ = (engines, depth);
        Ok(())
    }

    /// An engine for one queue with up to `depth` operations in flight. The engine keeps the volume open.
    fn engine(self: Arc<Self>, depth: u32) -> Result<Box<dyn Engine>, EngineError>;

    /// Makes it `capacity` sectors large while it is in use: what it has stays where it is, a last zone that
    /// was smaller than the others grows, and zones after it are new. Interrupted, it has the old size or
    /// the new one. May take as long as a flush; I/O goes on meanwhile.
    fn grow(&self, capacity: Sector) -> Result<(), GrowError> {
        let _ = capacity;
        Err(GrowError::Unsupported)
    }

    /// Makes durable what was done and recorded before, as [`Op::Flush`] does, for whoever has no engine, and
    /// waits for it.
    fn make_durable(&self) -> Result<(), VolumeError> {
        Err(VolumeError::Commit(Failure::Unsupported))
    }

    /// Makes all that was done durable, and says in the medium that it was left in order. Called once,
    /// last, when no engine has work left. (A volume that is dropped without this is as if the process
    /// had died.)
    fn close(&self) -> Result<(), VolumeError>;
}

/// The states of the zones of a new disk.
pub(crate) fn birth_states(geometry: &Geometry) -> Vec<Snapshot> {
    let at_birth = |zone| match geometry.zone_type(zone) {
        ZoneType::Conventional => Snapshot::CONVENTIONAL,
        _ => Snapshot::EMPTY,
    };
    geometry.zones().map(at_birth).collect()
}

/// Moves bytes for one queue. Not shared, and never blocks but where it says so.
pub trait Engine {
    /// Takes an operation. It may begin now or at [`start`](Self::start).
    ///
    /// Order: none is promised between operations in flight.
    fn submit(&mut self, io: Io);

    /// Does of what was taken what can be done at once, so that [`reap`](Self::reap) finds it. What can not
    /// may be left to [`start`](Self::start).
    fn begin(&mut self) {
        self.start();
    }

    /// Begins everything taken and not begun. What goes on in the background is handed over in one system
    /// call at most.
    fn start(&mut self);

    /// Appends what is finished to `done`, without waiting. What of an operation is left to be done then
    /// goes on at the next [`start`](Self::start).
    fn reap(&mut self, done: &mut Vec<Done>);

    /// Operations taken and not yet reaped.
    fn in_flight(&self) -> usize;

    /// Of these, how many a [`begin`](Self::begin) or [`start`](Self::start) is likely to finish at once, so
    /// that whoever waits for them gains more from their answers than from what else there is to take. Not
    /// those that are done the better the more there are.
    fn due(&self) -> usize {
        0
    }

    /// Readable (poll) when [`reap`](Self::reap) may find something that was not yet there when
    /// [`start`](Self::start) returned: what is finished inside `start` is reaped after it, and does not
    /// make this readable. `None` when everything is finished by then. A reader need not and must not read
    /// it: `reap` clears it.
    fn event(&self) -> Option<BorrowedFd<'_>>;
}

/// One operation on the medium.
#[derive(Debug)]
pub struct Io {
    /// Comes back in [`Done::tag`].
    pub tag: u64,
    /// The first sector, where the operation has one.
    pub at: Sector,
    /// What to do.
    pub op: Op,
}

/// What an [`Io`] does.
#[derive(Debug)]
pub enum Op {
    /// Fill the buffers from `at` on. Their length is a multiple of 512.
    Read(Buffers),
    /// Write the buffers from `at` on. Their length is a multiple of 512.
    Write(Buffers),
    /// Write the buffers to the sequential zone that begins at `at`, wherever the medium likes: only where
    /// [`Volume::places_appends`]. Begun while no write with a place of its own is on its way to the zone, though
    /// one may come before it is over, which goes behind it.
    Append(Buffers),
    /// Make this many sectors from `at` on read as zeroes; with `unmap`, space may be given back.
    Zero {
        /// How many.
        sectors: Sector,
        /// Space may be given back.
        unmap: bool,
    },
    /// Give the space of this many sectors from `at` on back; they read as zeroes afterwards.
    Discard {
        /// How many.
        sectors: Sector,
    },
    /// Make durable what was done and recorded before this was submitted, by any engine.
    Flush,
    /// Carry a command to zones out: only where [`Volume::runs_commands`].
    Command(Command),
}

/// A command to zones that a medium carries out itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// To one zone.
    Zone(Manage, ZoneId),
    /// All sequential zones that can be written are reset.
    ResetAll,
}

/// A finished [`Io`].
#[derive(Debug)]
pub struct Done {
    /// Of the operation.
    pub tag: u64,
    /// How it went. A write that failed may have written any part of its range.
    pub result: Result<(), Failure>,
    /// The buffers of a read, write or append.
    pub buffers: Option<Buffers>,
    /// Where an append went that is done.
    pub placed: Option<Sector>,
}

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The host's file system or disk failed.
    #[error("the medium failed")]
    Medium(#[source] io::Error),
    /// The medium ended early.
    #[error("the medium ends {missing} bytes too early")]
    Short {
        /// Bytes that are not there.
        missing: u64,
    },
    /// What is remembered of zones is kept nowhere any more.
    #[error("the zone table is gone: its file was cut short, or could not be read")]
    TableLost,
    /// An earlier sync failed, or part of the medium is gone: nothing may be promised any more, and nothing
    /// is written.
    #[error("an earlier failure of the medium made it read-only")]
    Poisoned,
    /// The medium can not do this.
    #[error("the medium can not do this")]
    Unsupported,
    /// As many zones are open on the medium as can be.
    #[error("the medium can not have more open zones")]
    OpenLimit(#[source] io::Error),
    /// As many zones are active on the medium as can be.
    #[error("the medium can not have more active zones")]
    ActiveLimit(#[source] io::Error),
    /// A write to a sequential zone behind one that failed.
    #[error("an earlier write to the zone failed")]
    Behind,
    /// A medium that only takes whole blocks.
    #[error("the medium takes whole blocks of {block} bytes")]
    Unaligned {
        /// Their size.
        block: u32,
    },
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the {engine} I/O engine")]
pub struct EngineError {
    /// Which.
    pub engine: &'static str,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Why a volume does not become larger.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GrowError {
    /// Its medium has the size that it has.
    #[error("a disk on this medium can not get another size")]
    Unsupported,
    /// Nothing of it may change.
    #[error("the disk is read-only")]
    ReadOnly,
    /// The medium failed, now or before. If it was now, the disk has the old size or the new one when it is
    /// opened next.
    #[error("a failure of the medium made the disk read-only")]
    Failed,
    /// Zones that make no disk.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// Not a multiple of the block size.
    #[error(
        "the size of {capacity} sectors is not a multiple of the block size, {block_size} bytes"
    )]
    Capacity {
        /// What was asked for.
        capacity: Sector,
        /// The block size in bytes.
        block_size: u32,
    },
    /// Disks do not shrink.
    #[error("the disk has {from} sectors, and {to} are fewer: it can only grow")]
    Shrinks {
        /// What it has.
        from: Sector,
        /// What was asked for.
        to: Sector,
    },
    /// Longer than any file can be, or in the way of itself.
    #[error("there is no room for {0} sectors")]
    NoRoom(Sector),
    /// The medium refused, and the disk is what it was.
    #[error("cannot {doing}")]
    Medium {
        /// What was refused.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Why a volume could not be left in order.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VolumeError {
    /// What was written can not be made durable.
    #[error("cannot make the volume durable")]
    Commit(#[source] Failure),
}
