//! A disk of which nothing is left but its shape: what stands in for a disk that is gone, so that the kernel,
//! which has it still, can be answered, and lets go of it. It answers every request with an error.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zvb_storage::{Done, Engine, EngineError, Failure, Io, Op, Shape, Volume, VolumeError};
use zvb_wire::{Condition, Model, Sector, ZoneType};
use zvb_zones::{Geometry, GeometrySpec, Snapshot, ZoneId};

/// What is written down of a disk's shape. Sizes are in 512-byte sectors.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(crate) struct WrittenShape {
    capacity: u64,
    block_size: u32,
    id: [u8; 20],
    read_only: bool,
    can_discard: bool,
    zones: Option<WrittenZones>,
}

#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
struct WrittenZones {
    host_aware: bool,
    size: u64,
    capacity: u64,
    conventional: u32,
    max_open: u32,
    max_active: u32,
    max_append: u64,
    write_granularity: u32,
}

impl WrittenShape {
    pub(crate) fn of(shape: &Shape) -> Self {
        let zones = shape.geometry.map(|geometry| {
            let spec = geometry.spec();
            WrittenZones {
                host_aware: spec.model == Model::HostAware,
                size: spec.zone_size.0,
                capacity: spec.zone_capacity.0,
                conventional: spec.conventional,
                max_open: spec.max_open,
                max_active: spec.max_active,
                max_append: spec.max_append.0,
                write_granularity: spec.write_granularity,
            }
        });
        let Shape { capacity, block_size, id, read_only, can_discard, .. } = *shape;
        Self { capacity: capacity.0, block_size, id, read_only, can_discard, zones }
    }

    /// The shape; `None` when what was written makes no disk.
    pub(crate) fn shape(&self) -> Option<Shape> {
        let geometry = match self.zones {
            Some(zones) => Some(Geometry::new(self.spec(zones)).ok()?),
            None => None,
        };
        let Self { block_size, id, read_only, can_discard, .. } = *self;
        let capacity = Sector(self.capacity);
        Some(Shape { capacity, block_size, geometry, id, read_only, can_discard })
    }

    fn spec(&self, zones: WrittenZones) -> GeometrySpec {
        GeometrySpec {
            model: if zones.host_aware { Model::HostAware } else { Model::HostManaged },
            capacity: Sector(self.capacity),
            zone_size: Sector(zones.size),
            zone_capacity: Sector(zones.capacity),
            conventional: zones.conventional,
            max_open: zones.max_open,
            max_active: zones.max_active,
            max_append: Sector(zones.max_append),
            write_granularity: zones.write_granularity,
        }
    }
}

/// The disk that is gone.
#[derive(Debug)]
pub(crate) struct Lost {
    shape: Shape,
}

impl Lost {
    pub(crate) fn new(shape: Shape) -> Self {
        Self { shape }
    }
}

impl Volume for Lost {
    fn shape(&self) -> Shape {
        self.shape
    }

    /// No sequential zone can be read or written.
    fn recovered(&self) -> Vec<Snapshot> {
        let Some(geometry) = &self.shape.geometry else { return Vec::new() };
        let state = |zone| match geometry.zone_type(zone) {
            ZoneType::Conventional => Snapshot::CONVENTIONAL,
            _ => Snapshot::new(Condition::Offline, Sector::ZERO),
        };
        geometry.zones().map(state).collect()
    }

    fn record(&self, _zone: ZoneId, _state: Snapshot) {}

    /// Nothing may be promised.
    fn has_failed(&self) -> bool {
        true
    }

    fn engine(self: Arc<Self>, _depth: u32) -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::<LostEngine>::default())
    }

    fn close(&self) -> Result<(), VolumeError> {
        Ok(())
    }
}

/// Fails whatever it is given.
#[derive(Default)]
struct LostEngine(Vec<Done>);

impl Engine for LostEngine {
    fn submit(&mut self, io: Io) {
        let buffers = match io.op {
            Op::Read(buffers) | Op::Write(buffers) | Op::Append(buffers) => Some(buffers),
            _ => None,
        };
        let result = Err(Failure::Medium(io::ErrorKind::NotFound.into()));
        self.0.push(Done { tag: io.tag, result, buffers, placed: None });
    }

    fn start(&mut self) {}

    fn reap(&mut self, done: &mut Vec<Done>) {
        done.append(&mut self.0);
    }

    fn in_flight(&self) -> usize {
        self.0.len()
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zvb_device::{Device, DeviceOptions};
    use zvb_host::vduse::TRANSPORT;
    use zvb_storage::Memory;

    fn shapes() -> Vec<Shape> {
        let spec = GeometrySpec {
            model: Model::HostManaged,
            capacity: Sector(2048 * 8 + 512),
            zone_size: Sector(2048),
            zone_capacity: Sector(1536),
            conventional: 1,
            max_open: 3,
            max_active: 4,
            max_append: Sector(64),
            write_granularity: 4096,
        };
        let aware = GeometrySpec {
            model: Model::HostAware,
            zone_capacity: Sector(2048),
            max_active: 0,
            ..spec
        };
        let of = |zones| Memory::new(spec.capacity, 4096, zones).unwrap().shape();
        let mut all = vec![of(None), of(Some(spec)), of(Some(aware))];
        all.push(Shape { read_only: true, can_discard: false, id: [b'x'; 20], ..all[1] });
        all
    }

    #[test]
    fn what_stands_in_is_the_same_disk_to_its_driver() {
        for shape in shapes() {
            let text = serde_json::to_string(&WrittenShape::of(&shape)).unwrap();
            let written: WrittenShape = serde_json::from_str(&text).unwrap();
            assert_eq!(written.shape(), Some(shape), "{text}");
            let options = || DeviceOptions { transport: TRANSPORT, ..DeviceOptions::default() };
            let lost = Device::new(Arc::new(Lost::new(shape)), options()).unwrap();
            if shape.read_only {
                continue;
            }
            let zones = shape.geometry.map(|geometry| *geometry.spec());
            let memory = Memory::new(shape.capacity, shape.block_size, zones).unwrap();
            let memory = Device::new(Arc::new(memory), options()).unwrap();
            assert_eq!(lost.features(), memory.features());
        }
        let none = WrittenShape { zones: None, ..WrittenShape::of(&shapes()[1]) };
        assert!(none.shape().is_some_and(|shape| shape.geometry.is_none()));
        let mut odd = WrittenShape::of(&shapes()[1]);
        odd.zones.as_mut().unwrap().size = 0;
        assert_eq!(odd.shape(), None);
    }

    #[test]
    fn every_operation_fails() {
        let mut engine = Arc::new(Lost::new(shapes()[0])).engine(4).unwrap();
        let ops = [Op::Flush, Op::Discard { sectors: Sector(8) }];
        for (tag, op) in (0..).zip(ops) {
            engine.submit(Io { tag, at: Sector(0), op });
        }
        engine.start();
        let mut done = Vec::new();
        engine.reap(&mut done);
        assert_eq!((done.len(), engine.in_flight()), (2, 0));
        assert!(done.iter().all(|done| matches!(done.result, Err(Failure::Medium(_)))));
    }
}
