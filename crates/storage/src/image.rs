//! An image file: a disk that outlives processes and hosts.

mod check;
mod clone;
mod create;
mod finding;
mod format;
mod inspect;
mod load;
mod open;
mod refusal;
mod repair;
mod resize;
mod still;
mod survey;
mod switch;

pub use check::{CheckOptions, CheckReport, Progress, check, check_on};
pub use clone::{CloneError, CloneOptions, Cloned};
pub use create::{CreateError, CreateOptions};
pub use finding::{Finding, Problem, Severity};
pub(crate) use format::{COPIES, Header, State, note_sync};
pub use inspect::{ImageInfo, ImageState, inspect};
pub use load::{LoadError, ZoneState, ZoneTable, dump, load};
pub use open::{CommitBy, OpenOptions, Recovery, is_boot_known};
pub use refusal::{BadSuperblock, FileError, OpenError, Refusal};
pub use repair::{Repair, RepairError, RepairReport, repair, repair_on};
pub use resize::{ResizeError, resize};

use std::fmt;
use std::io;
use std::sync::Arc;

use zvb_wire::Sector;
use zvb_zones::{Snapshot, ZoneId};

use crate::engine::{self, EngineKind, Served};
use crate::table::Entry;
use crate::volume::{Engine, EngineError, GrowError, Shape, Volume, VolumeError, birth_states};

/// An open image.
pub struct Image {
    served: Arc<Served>,
    engine: EngineKind,
    recovery: Recovery,
    recovered: Vec<Snapshot>,
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image")
            .field("shape", &self.served.store.shape)
            .field("recovery", &self.recovery)
            .finish_non_exhaustive()
    }
}

impl Image {
    /// How the image was left by who had it open before, and so which states its zones have.
    pub fn recovery(&self) -> Recovery {
        self.recovery
    }

    /// Makes durable what was done and recorded before. This is what a flush does; whoever opened the
    /// image with [`CommitBy::Caller`] may call it at will.
    pub fn commit(&self) -> Result<(), VolumeError> {
        let result = self.served.store.commit();
        // What can not be cleared now is, or is not, when somebody needs it.
        let _ = self.served.store.reclaim().and_then(|()| self.served.store.clear_warm());
        result.map_err(|e| VolumeError::Commit(e.into()))
    }

    /// Clears what lies above the data of sequential-preferred zones. Nothing else is going on.
    fn clear_tails(&self) -> io::Result<()> {
        let store = &self.served.store;
        let zones = (0u32..).map(ZoneId).zip(&self.recovered);
        let entries: Vec<Entry> = zones
            .map(|(zone, state)| Entry { state: *state, slot: store.slots.of(zone) })
            .collect();
        store.clear_tails(&entries)
    }
}

impl Volume for Image {
    fn shape(&self) -> Shape {
        self.served.store.shape()
    }

    fn recovered(&self) -> Vec<Snapshot> {
        let mut states = self.recovered.clone();
        if let Some(geometry) = &self.shape().geometry {
            states.extend(birth_states(geometry).drain(..).skip(self.recovered.len()));
        }
        states
    }

    fn record(&self, zone: ZoneId, state: Snapshot) {
        if self.served.store.record(zone, state) {
            self.served.committer.let_go();
        }
    }

    fn has_failed(&self) -> bool {
        self.served.store.is_poisoned()
    }

    fn has_lost_part(&self) -> bool {
        self.served.store.has_lost_part()
    }

    fn prepare(&self, engines: u16, depth: u32) -> Result<(), EngineError> {
        self.served.prepare(self.engine, engines, depth)
    }

    fn engine(self: Arc<Self>, depth: u32) -> Result<Box<dyn Engine>, EngineError> {
        engine::new(Arc::clone(&self.served), self.engine, depth)
    }

    fn grow(&self, capacity: Sector) -> Result<(), GrowError> {
        self.grow_in_use(capacity)
    }

    fn make_durable(&self) -> Result<(), VolumeError> {
        self.served.store.commit().map_err(|e| VolumeError::Commit(e.into()))
    }

    fn close(&self) -> Result<(), VolumeError> {
        if self.served.store.shape.read_only {
            return Ok(());
        }
        self.commit()?;
        self.served.store.say_clean().map_err(|e| VolumeError::Commit(e.into()))
    }
}
