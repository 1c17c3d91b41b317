//! The table of zones, shared by all lanes: one lock for deciding and applying, none for reading.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zvb_storage::{Growing, Volume};
use zvb_wire::Sector;
use zvb_zones::{Geometry, RestoreError, Snapshot, ZoneId, Zones};

/// The zones of a device. A lane locks it once to decide a batch of requests and once to apply what came
/// of them; reads and reports take the published states and no lock.
#[derive(Debug)]
pub(crate) struct Table {
    /// As it was at first: see [`geometry`](Self::geometry).
    geometry: Geometry,
    /// The size of the disk in sectors.
    capacity: AtomicU64,
    zones: Mutex<Zones>,
    /// The applied state of every zone, as [`Snapshot::to_bits`].
    published: Growing<AtomicU64>,
    volume: Arc<dyn Volume>,
}

impl Table {
    pub(crate) fn new(geometry: Geometry, volume: Arc<dyn Volume>) -> Result<Self, RestoreError> {
        let recovered = volume.recovered();
        let mut zones = Zones::restore(geometry, &recovered)?;
        // What restoring changed (open zones are closed now) is where everybody starts.
        zones.take_changed(|_, _| {});
        let table = Self {
            geometry,
            capacity: geometry.spec().capacity.0.into(),
            published: Growing::new(geometry.zone_count() as usize, || AtomicU64::new(0)),
            zones: Mutex::new(zones),
            volume,
        };
        table.lock().publish(geometry.zones());
        if table.volume.shape().read_only && table.volume.runs_commands() {
            // Nobody has closed them, and nothing is ever decided about them.
            for (word, state) in (0..).map_while(|at| table.published.get(at)).zip(recovered) {
                word.store(state.to_bits(), Ordering::Release);
            }
        }
        Ok(table)
    }

    /// How the disk is divided now.
    pub(crate) fn geometry(&self) -> Geometry {
        self.with_geometry(|geometry| *geometry)
    }

    /// The same, to look at: nothing is copied for a disk that has the size it began with.
    #[inline]
    pub(crate) fn with_geometry<R>(&self, look: impl FnOnce(&Geometry) -> R) -> R {
        let capacity = Sector(self.capacity.load(Ordering::Acquire));
        if capacity == self.geometry.spec().capacity {
            return look(&self.geometry);
        }
        // It was checked when it became that.
        look(&self.geometry.with_capacity(capacity).unwrap_or(self.geometry))
    }

    /// Makes the disk larger, as the volume is already. Whatever reads a new geometry from here on finds a
    /// state for each of its zones.
    pub(crate) fn grow(&self, capacity: Sector) {
        let mut locked = self.lock();
        let first = locked.zones().geometry().zone_count();
        let grown = locked.zones().grow(capacity);
        debug_assert!(
            grown.is_ok(),
            "the volume has {capacity} sectors, and the zones not: {grown:?}"
        );
        let zones = locked.zones().geometry().zone_count();
        self.published.grow(zones as usize);
        locked.publish((first..zones).map(ZoneId));
        if grown.is_ok() {
            self.capacity.store(capacity.0, Ordering::Release);
        }
    }

    /// The applied state of `zone`, at some moment not long ago.
    pub(crate) fn snapshot(&self, zone: ZoneId) -> Snapshot {
        let published =
            self.published.get(zone.0 as usize).map(|word| word.load(Ordering::Acquire));
        // Only snapshots are ever published, and only zones of the geometry are asked for.
        published.and_then(|bits| Snapshot::from_bits(bits).ok()).unwrap_or(Snapshot::CONVENTIONAL)
    }

    /// The zones, to decide or to apply; what changes is recorded and published by
    /// [`Locked::settle`].
    pub(crate) fn lock(&self) -> Locked<'_> {
        // A lane that panicked left the table between two whole transitions: each is one call.
        Locked { zones: self.zones.lock().unwrap_or_else(PoisonError::into_inner), table: self }
    }
}

/// The table, locked.
pub(crate) struct Locked<'a> {
    zones: MutexGuard<'a, Zones>,
    table: &'a Table,
}

impl Locked<'_> {
    pub(crate) fn zones(&mut self) -> &mut Zones {
        &mut self.zones
    }

    /// Publishes the states of `zones`.
    fn publish(&self, zones: impl Iterator<Item = ZoneId>) {
        for zone in zones {
            if let Some(word) = self.table.published.get(zone.0 as usize) {
                word.store(self.zones.snapshot(zone).to_bits(), Ordering::Release);
            }
        }
    }

    /// Takes over what the medium says of zones in which something failed. After writes are ended and
    /// before anything else is decided.
    pub(crate) fn recheck(&mut self) {
        let volume = &self.table.volume;
        self.zones.take_suspects(|zone, busy| match busy {
            true => {
                volume.abandon(zone);
                None
            }
            false => volume.recheck(zone),
        });
    }

    /// Records in the medium and publishes what changed, and lets go. True when a request that waits, in
    /// whichever lane, may go on now.
    pub(crate) fn settle(self) -> bool {
        self.settle_then(|| ())
    }

    /// As [`settle`](Self::settle); `recorded` is called when all is recorded, before anybody else can decide
    /// anything.
    pub(crate) fn settle_then(mut self, recorded: impl FnOnce()) -> bool {
        let table = self.table;
        self.zones.take_changed(|zone, state| {
            table.volume.record(zone, state);
            if let Some(word) = table.published.get(zone.0 as usize) {
                word.store(state.to_bits(), Ordering::Release);
            }
        });
        recorded();
        self.zones.wants_retry()
    }
}
