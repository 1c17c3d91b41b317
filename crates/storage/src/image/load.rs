//! The zone table, out of an image and into one: so that a test can begin in any state.

use std::path::Path;

use zvb_wire::{Condition, Sector, ZoneType};
use zvb_zones::{Geometry, RestoreError, Snapshot, ZoneId, Zones};

use super::format::State;
use super::inspect::inspect;
use super::open::{Recovery, entries};
use super::refusal::{FileError, OpenError, Refusal};
use super::still::Still;
use super::switch::{placed, write_table};
use super::{Header, Image};
use crate::table::{Entry, RecordError};
use crate::volume::VolumeError;

/// The states of zones.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ZoneTable {
    /// Each at most once, in any order.
    pub zones: Vec<ZoneState>,
}

/// The state of a zone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ZoneState {
    /// Which.
    pub zone: ZoneId,
    /// Its condition.
    pub condition: Condition,
    /// Where its data ends, in 512-byte sectors from its start; 0 for an empty or a conventional zone. A
    /// full zone was finished there.
    pub written: Sector,
}

/// Why a table of zones is not loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The image can not be opened, or written to.
    #[error(transparent)]
    Image(#[from] Refusal),
    /// There are no zones.
    #[error("the image is a plain disk without zones")]
    Plain,
    /// There is no such zone.
    #[error("there is no zone {zone}: the disk has {count}, from 0")]
    NoSuchZone {
        /// What was asked for.
        zone: u32,
        /// How many there are.
        count: u32,
    },
    /// One zone, two states.
    #[error("zone {0} is there twice")]
    Twice(u32),
    /// No zone of its type can be in this state.
    #[error("zone {zone}: {source}")]
    State {
        /// The zone.
        zone: u32,
        /// Why.
        source: RecordError,
    },
    /// More open zones than there may be.
    #[error("{open} open zones are more than the limit of {limit}")]
    TooManyOpen {
        /// How many it would be.
        open: u32,
        /// The limit.
        limit: u32,
    },
    /// The states do not go together.
    #[error(transparent)]
    States(#[from] RestoreError),
    /// There is no room for a second zone table.
    #[error("there is no room for the table in the image")]
    NoRoom,
    /// Engines still work on it, or it was opened read-only, or its medium failed.
    #[error("the image can not be changed now")]
    Busy,
    /// What was written to it before can not be made durable.
    #[error(transparent)]
    Volume(#[from] VolumeError),
}

/// The states of the zones of the image at `path`, as opening it now would find them; of an image in use,
/// as they are. Takes no lock, changes nothing.
pub fn dump(path: &Path) -> Result<ZoneTable, OpenError> {
    let states = inspect(path)?.zones;
    let zones = (0u32..).map(ZoneId).zip(states).map(|(zone, state)| ZoneState {
        zone,
        condition: state.condition(),
        written: state.written(),
    });
    Ok(ZoneTable { zones: zones.collect() })
}

/// Puts the zones of the image at `path` into the states of `table`; zones that it leaves out stay what
/// they are. A zone whose data ends where it did keeps its data; that of any other is zeroes.
/// Interrupted, it leaves the old states or the new ones.
pub fn load(path: &Path, table: &ZoneTable) -> Result<(), FileError<LoadError>> {
    let loaded = || -> Result<(), LoadError> {
        let still = Still::at(path)?;
        loaded(&still.header, still.entries.clone(), table)?;
        let (len, new) = (still.len, room(&still.header)?);
        still.open(&new)?.load_from(table, len)
    };
    loaded().map_err(FileError::at(path))
}

impl Image {
    /// Puts the zones into the states of `table`, and closes the image. See [`load`].
    pub fn load(self, table: &ZoneTable) -> Result<(), LoadError> {
        let len = self.served.store.medium.size().map_err(Refusal::io("look at"))?;
        self.load_from(table, len)
    }

    /// The same; what is refused leaves the medium `len` bytes long.
    fn load_from(self, table: &ZoneTable, len: u64) -> Result<(), LoadError> {
        let Some(old) = self.header_alone() else { return Err(LoadError::Busy) };
        let new = self.put(&old, table).inspect_err(|_| self.leave(len))?;
        Ok(self.switch(&old, new).map_err(Refusal::io("write to"))?)
    }

    /// All that can be written before the superblocks, which are the ones that are returned.
    fn put(&self, old: &Header, table: &ZoneTable) -> Result<Header, LoadError> {
        let medium = self.served.store.medium.as_ref();
        let zones = loaded(old, entries(medium, old, Recovery::ProcessDied)?, table)?;
        self.commit()?;
        let new = room(old)?;
        medium.lengthen(new.file_bytes).map_err(Refusal::io("lengthen"))?;
        write_table(medium, &new, &zones).map_err(Refusal::io("write to"))?;
        Ok(new)
    }
}

/// `old`, in order, with a place for another zone table.
fn room(old: &Header) -> Result<Header, LoadError> {
    let new = Header { state: State::Clean, ..old.clone() };
    placed(old, new).ok_or(LoadError::NoRoom)
}

/// The zones of the image that `header` describes, put into the states of `table`.
fn loaded(
    header: &Header,
    mut zones: Vec<Entry>,
    table: &ZoneTable,
) -> Result<Vec<Entry>, LoadError> {
    let Some(geometry) = header.geometry else { return Err(LoadError::Plain) };
    let mut loaded = vec![false; zones.len()];
    for state in &table.zones {
        let (zone, count) = (state.zone.0, geometry.zone_count());
        let place = (zones.get_mut(zone as usize), loaded.get_mut(zone as usize));
        let (Some(entry), Some(loaded)) = place else {
            return Err(LoadError::NoSuchZone { zone, count });
        };
        if std::mem::replace(loaded, true) {
            return Err(LoadError::Twice(zone));
        }
        *entry = changed(&geometry, *state, *entry)
            .map_err(|source| LoadError::State { zone, source })?;
    }
    check_limits(&geometry, &zones)?;
    Ok(zones)
}

/// A zone that was `entry`, put into `state`.
fn changed(geometry: &Geometry, state: ZoneState, entry: Entry) -> Result<Entry, RecordError> {
    let ZoneState { zone, condition, written } = state;
    let sequential = geometry.zone_type(zone) != ZoneType::Conventional;
    let capacity = if sequential { geometry.capacity(zone) } else { Sector::ZERO };
    if written > capacity {
        return Err(RecordError::Written { written, capacity });
    }
    let state = Snapshot::new(condition, written);
    let slot = if written == entry.state.written() { entry.slot } else { None };
    let new = Entry { state, slot };
    match Entry::unpack(new.pack(), zone, geometry, u32::MAX)? {
        same if same == new => Ok(new),
        // A sequential zone that is not-wp would pass for one at birth.
        _ => Err(RecordError::Condition { condition, zone_type: geometry.zone_type(zone) }),
    }
}

fn check_limits(geometry: &Geometry, zones: &[Entry]) -> Result<(), LoadError> {
    let states: Vec<Snapshot> = zones.iter().map(|entry| entry.state).collect();
    let open = states.iter().filter(|state| {
        matches!(state.condition(), Condition::ImplicitOpen | Condition::ExplicitOpen)
    });
    let (open, limit) = (u32::try_from(open.count()).unwrap_or(u32::MAX), geometry.spec().max_open);
    if limit != 0 && open > limit {
        return Err(LoadError::TooManyOpen { open, limit });
    }
    Zones::restore(*geometry, &states)?;
    Ok(())
}
