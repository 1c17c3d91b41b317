//! An image file: a disk that outlives processes and hosts.

mod create;
mod format;
mod inspect;
mod open;
mod refusal;

pub use create::{CreateError, CreateOptions};
pub use inspect::{ImageInfo, ImageState, inspect};
pub use open::{CommitBy, OpenOptions, Recovery};
pub use refusal::{BadSuperblock, OpenError, Refusal};

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use zvb_zones::{Snapshot, ZoneId};

use crate::engine::{self, EngineKind, Served};
use crate::medium::Medium;
use crate::store::CommitError;
use crate::volume::{Engine, EngineError, Failure, Shape, Volume, VolumeError};
use format::{Header, State};

/// An open image.
pub struct Image {
    served: Arc<Served>,
    engine: EngineKind,
    recovery: Recovery,
    recovered: Vec<Snapshot>,
    /// What the superblocks say, while they do; none once the image is closed, or when it is read-only.
    header: Mutex<Option<Header>>,
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
        self.served.store.reclaim();
        if self.served.store.is_poisoned() {
            self.say_failed();
        }
        result.map_err(|e| VolumeError::Commit(e.into()))
    }

    /// Writes into the superblock that a sync failed, so that whoever opens the image next believes only
    /// what was made durable before. If that can not be written either, the host's death will tell.
    fn say_failed(&self) {
        let mut header = self.header.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut header) = header.take() {
            header.state = State::SyncFailed;
            let _ = header.write_both(self.medium(), false);
        }
    }

    fn medium(&self) -> &dyn Medium {
        self.served.store.medium.as_ref()
    }

    fn mark_clean(&self) -> Result<(), CommitError> {
        let mut header = self.header.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut clean) = header.take() else { return Ok(()) };
        clean.state = State::Clean;
        clean.write_both(self.medium(), true).map_err(CommitError::from)
    }
}

impl Volume for Image {
    fn shape(&self) -> &Shape {
        &self.served.store.shape
    }

    fn recovered(&self) -> Vec<Snapshot> {
        self.recovered.clone()
    }

    fn record(&self, zone: ZoneId, state: Snapshot) {
        self.served.store.record(zone, state);
    }

    fn engine(self: Arc<Self>, depth: u32) -> Result<Box<dyn Engine>, EngineError> {
        engine::new(Arc::clone(&self.served), self.engine, depth)
    }

    fn close(&self) -> Result<(), VolumeError> {
        if self.served.store.shape.read_only {
            return Ok(());
        }
        self.commit()?;
        let failed = |e: CommitError| VolumeError::Commit(Failure::from(e));
        self.mark_clean().map_err(failed)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if self.served.store.is_poisoned() {
            self.say_failed();
        }
    }
}
