//! The table of zones, shared by all lanes: one lock for deciding and applying, none for reading.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zvb_storage::Volume;
use zvb_zones::{Geometry, RestoreError, Snapshot, ZoneId, Zones};

/// The zones of a device. A lane locks it once to decide a batch of requests and once to apply what came
/// of them; reads and reports take the published states and no lock.
#[derive(Debug)]
pub(crate) struct Table {
    geometry: Geometry,
    zones: Mutex<Zones>,
    /// The applied state of every zone, as [`Snapshot::to_bits`].
    published: Box<[AtomicU64]>,
    volume: Arc<dyn Volume>,
}

impl Table {
    pub(crate) fn new(geometry: Geometry, volume: Arc<dyn Volume>) -> Result<Self, RestoreError> {
        let mut zones = Zones::restore(geometry, &volume.recovered())?;
        // What restoring changed (open zones are closed now) is where everybody starts.
        zones.take_changed(|_, _| {});
        let published =
            geometry.zones().map(|zone| AtomicU64::new(zones.snapshot(zone).to_bits())).collect();
        Ok(Self { geometry, zones: Mutex::new(zones), published, volume })
    }

    pub(crate) fn geometry(&self) -> &Geometry {
        &self.geometry
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

    /// Takes over what the medium says of zones in which something failed. After writes are ended and
    /// before anything else is decided.
    pub(crate) fn recheck(&mut self) {
        let volume = &self.table.volume;
        self.zones.take_suspects(|zone| volume.recheck(zone));
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
