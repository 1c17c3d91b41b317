//! What kind of disk a seed gets.

use zvb_storage::CreateOptions;
use zvb_wire::{Model, Sector};
use zvb_zones::{Geometry, GeometrySpec};

use crate::rng::Rng;

/// A disk, and a guest that uses it.
#[derive(Clone, Debug)]
pub struct Setup {
    /// `None` for a plain disk.
    pub spec: Option<GeometrySpec>,
    /// In sectors.
    pub capacity: u64,
    /// Logical block size, in bytes.
    pub block_size: u32,
    /// Queues in use.
    pub queues: u16,
    /// Requests in flight at most.
    pub depth: u64,
    /// The driver negotiates no FLUSH and no choice of cache: the device must write through.
    pub no_flush: bool,
    /// How often zones are reset, how often the guest flushes, in parts of a hundred requests.
    pub resets: u64,
    /// See `resets`.
    pub flushes: u64,
    /// Requests in a generation.
    pub requests: u64,
}

impl Setup {
    /// That of a seed.
    pub fn new(rng: &mut Rng) -> Self {
        let model = rng.pick(&[
            Model::HostManaged,
            Model::HostManaged,
            Model::HostManaged,
            Model::HostAware,
            Model::None,
        ]);
        let block = rng.pick(&[1, 1, 8]);
        let unit = if block == 8 { 8 } else { rng.pick(&[1, 8]) };
        let spec = (model != Model::None).then(|| spec(rng, model, unit));
        let capacity = spec.map_or(64 + 8 * rng.below(16), |spec| spec.capacity.0);
        Self {
            spec,
            capacity,
            block_size: block as u32 * 512,
            queues: rng.pick(&[1, 1, 2]),
            depth: rng.pick(&[1, 4, 8, 12]),
            no_flush: rng.chance(8),
            resets: rng.pick(&[2, 8, 25]),
            flushes: rng.pick(&[2, 8, 20]),
            requests: rng.pick(&[20, 60, 150]),
        }
    }

    /// What its image is made with.
    pub fn create_options(&self) -> CreateOptions {
        CreateOptions {
            capacity: Sector(self.capacity),
            block_size: self.block_size,
            zones: self.spec,
            id: None,
            uuid: Some([7; 16]),
            force: false,
        }
    }

    /// The zones.
    pub fn geometry(&self) -> Option<Geometry> {
        self.spec.and_then(|spec| Geometry::new(spec).ok())
    }

    /// The zones of a disk that has grown to `capacity` sectors.
    pub fn geometry_at(&self, capacity: u64) -> Option<Geometry> {
        self.geometry().and_then(|geometry| geometry.with_capacity(Sector(capacity)).ok())
    }

    /// A size that it can grow to from `capacity`, in sectors.
    pub fn larger(&self, capacity: u64, rng: &mut Rng) -> u64 {
        match self.spec {
            None => capacity + 8 * (1 + rng.below(8)),
            // The last zone becomes whole, and some more come.
            Some(spec) => {
                let size = spec.zone_size.0;
                capacity.next_multiple_of(size).max(capacity + size * rng.below(4))
            }
        }
    }

    /// What requests are multiples of, in sectors.
    pub fn unit(&self) -> u64 {
        let block = u64::from(self.block_size / 512);
        self.spec.map_or(block, |spec| u64::from(spec.write_granularity / 512).max(block))
    }
}

fn spec(rng: &mut Rng, model: Model, unit: u64) -> GeometrySpec {
    let size = 8 * (2 + rng.below(5));
    let host_managed = model == Model::HostManaged;
    let capacity = if host_managed { size - unit * rng.below(8 / unit + 1) } else { size };
    let zones = 3 + rng.below(6);
    let last = 8 * rng.below(size / 8);
    let conventional = rng.below(3) as u32;
    let open = rng.pick(&[0, 0, 1, 2, 3]);
    let active = match rng.below(3) {
        0 => 0,
        more => open.max(1) + more as u32 - 1,
    };
    GeometrySpec {
        model,
        capacity: Sector(zones * size + last),
        zone_size: Sector(size),
        zone_capacity: Sector(capacity),
        conventional,
        max_open: open,
        max_active: if host_managed { active } else { 0 },
        max_append: Sector(if rng.chance(80) { 8 } else { 0 }),
        write_granularity: unit as u32 * 512,
    }
}
