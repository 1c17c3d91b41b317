//! A disk in memory that has seen better days.

use std::sync::Arc;

use zvb_storage::{Engine, EngineError, Memory, Shape, Volume, VolumeError};
use zvb_wire::{Condition, Sector};
use zvb_zones::{Geometry, GeometrySpec, Snapshot, ZoneId};

/// A disk in memory, some zones of which are read-only or offline, or all of it read-only.
#[derive(Debug)]
pub struct Aged {
    inner: Arc<Memory>,
    shape: Shape,
    recovered: Vec<Snapshot>,
}

impl Aged {
    /// Zones `faulty` are in their conditions from the beginning, and at their starts.
    pub fn volume(
        spec: GeometrySpec,
        read_only: bool,
        faulty: &[(usize, Condition)],
    ) -> Arc<dyn Volume> {
        let inner = Arc::new(Memory::new(spec.capacity, 4096, Some(spec)).unwrap());
        let mut shape = inner.shape();
        shape.geometry = Some(Geometry::new(spec).unwrap());
        shape.read_only = read_only;
        let mut recovered = inner.recovered();
        for (zone, condition) in faulty {
            recovered[*zone] = Snapshot::new(*condition, Sector(0));
        }
        Arc::new(Self { inner, shape, recovered })
    }
}

impl Volume for Aged {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn recovered(&self) -> Vec<Snapshot> {
        self.recovered.clone()
    }

    fn record(&self, zone: ZoneId, state: Snapshot) {
        self.inner.record(zone, state);
    }

    fn engine(self: Arc<Self>, depth: u32) -> Result<Box<dyn Engine>, EngineError> {
        Arc::clone(&self.inner).engine(depth)
    }

    fn close(&self) -> Result<(), VolumeError> {
        self.inner.close()
    }
}
