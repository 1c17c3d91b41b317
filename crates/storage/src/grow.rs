//! A disk that gets larger while it is in use.
//!
//! Nothing that it has moves, but for the zone table, which gets another place as in any change of an image
//! (`docs/format.md`): while the superblocks are on their way from the old table to the new one, states are
//! recorded in both, so that whichever a death of the process leaves behind is right. Commits wait meanwhile;
//! I/O does not.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLockReadGuard};

use zvb_wire::Sector;
use zvb_zones::ZoneId;

use crate::image::Header;
use crate::layout::{Layout, SLOT_ALIGN};
use crate::medium::{Mapped, Medium, clear};
use crate::store::Store;
use crate::table::{Record, RecordError};
use crate::volume::{GrowError, Shape};

/// Records copied under one lock.
const COPIED_AT_ONCE: usize = 1024;

/// The tables of a store.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    /// In the place of the words that the medium mapped at first.
    current: Option<Arc<dyn Mapped>>,
    /// To take the place of that; recorded in as well.
    next: Option<Arc<dyn Mapped>>,
}

/// The tables, for a moment in which they do not change places.
pub(crate) struct TableGuard<'a> {
    tables: RwLockReadGuard<'a, Tables>,
    medium: &'a dyn Medium,
}

impl TableGuard<'_> {
    /// The record of `zone`; `None` past the last.
    pub(crate) fn record(&self, zone: ZoneId) -> Option<Record<'_>> {
        Record::of(self.tables.words(self.medium), zone)
    }

    /// Makes `packed` the latest state of `zone`.
    pub(crate) fn set_latest(&self, zone: ZoneId, packed: u64) {
        let next = self.tables.next.as_ref().and_then(|next| Record::of(next.words(), zone));
        for record in self.record(zone).into_iter().chain(next) {
            record.set_latest(packed);
        }
    }

    /// True when one of them is gone, and reads as zeroes: see [`Mapped::is_lost`].
    pub(crate) fn is_lost(&self) -> bool {
        let Tables { current, next } = &*self.tables;
        current.as_ref().map_or_else(|| self.medium.words_lost(), |table| table.is_lost())
            || next.as_ref().is_some_and(|table| table.is_lost())
    }

    /// Makes what was stored durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        match &self.tables.current {
            Some(table) => table.sync(),
            None => self.medium.sync_words(),
        }
    }
}

impl Tables {
    fn words<'a>(&'a self, medium: &'a dyn Medium) -> &'a [AtomicU64] {
        self.current.as_ref().map_or_else(|| medium.words(), |table| table.words())
    }
}

/// What of a layout changes. Who uses what is new has heard of it from who grew the store, so these need no
/// order of their own.
#[derive(Debug)]
pub(crate) struct Sizes {
    disk_bytes: AtomicU64,
    linear_bytes: AtomicU64,
    slots_at: AtomicU64,
    slots: AtomicU32,
}

impl Sizes {
    pub(crate) fn new(layout: &Layout) -> Self {
        Self {
            disk_bytes: layout.disk_bytes().into(),
            linear_bytes: layout.linear_bytes.into(),
            slots_at: layout.slots_at.into(),
            slots: layout.slots.into(),
        }
    }

    fn set(&self, layout: &Layout) {
        self.slots.store(layout.slots, Ordering::Relaxed);
        self.slots_at.store(layout.slots_at, Ordering::Relaxed);
        self.linear_bytes.store(layout.linear_bytes, Ordering::Relaxed);
        self.disk_bytes.store(layout.disk_bytes(), Ordering::Relaxed);
    }
}

/// What a store is to become.
#[derive(Debug)]
pub(crate) struct Growth {
    pub(crate) shape: Shape,
    pub(crate) layout: Layout,
    /// Of an image, with a place for the new table.
    pub(crate) header: Option<Header>,
}

impl Store {
    /// Where sectors are.
    #[inline]
    pub(crate) fn layout(&self) -> Layout {
        let Sizes { disk_bytes, linear_bytes, slots_at, slots } = &self.sizes;
        self.layout.sized(
            disk_bytes.load(Ordering::Relaxed),
            linear_bytes.load(Ordering::Relaxed),
            slots_at.load(Ordering::Relaxed),
            slots.load(Ordering::Relaxed),
        )
    }

    /// What it looks like now.
    pub(crate) fn shape(&self) -> Shape {
        let capacity = Sector(self.sizes.disk_bytes.load(Ordering::Relaxed) / 512);
        // It was checked when it became that.
        let geometry = self.shape.geometry.and_then(|g| g.with_capacity(capacity).ok());
        Shape { capacity, geometry, ..self.shape }
    }

    pub(crate) fn tables(&self) -> TableGuard<'_> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        TableGuard { tables, medium: self.medium.as_ref() }
    }

    /// Makes it what `growth` says, which keeps everything that it has where it is. Called by one at a time,
    /// while others work on it. When this fails with anything but [`GrowError::Failed`] it is what it was.
    pub(crate) fn grow(&self, growth: Growth) -> Result<(), GrowError> {
        let Growth { shape, layout, header } = growth;
        let old = self.layout();
        let zones = shape.geometry.as_ref().map_or(0, |g| g.zone_count());
        let failed = |source| GrowError::Medium { doing: "look at the medium", source };
        let len = self.medium.size().map_err(failed)?;
        let room = self.make_room(&old, &layout, header.as_ref(), zones);
        let grown = room.and_then(|table| match header {
            Some(header) => self.switch(header, table),
            None => self.adopt(table),
        });
        if let Err(error) = grown {
            if !matches!(error, GrowError::Failed) {
                // What is left longer does no harm.
                let _ = self.medium.shorten(len);
            }
            return Err(error);
        }
        self.slots.grow(zones);
        self.changed.grow(zones.div_ceil(64) as usize);
        let had = old.slots;
        self.sizes.set(&layout);
        // What the medium had there before; the old table may be among it.
        match clear(self.medium.as_ref(), layout.slot_at(had)..layout.slot_at(layout.slots)) {
            Ok(()) => self.slots.add_new(had..layout.slots),
            Err(_) => self.slots.add_unclear(had..layout.slots),
        }
        Ok(())
    }

    /// Makes the medium long enough, and maps a table for `zones` zones, all at birth.
    fn make_room(
        &self,
        old: &Layout,
        new: &Layout,
        header: Option<&Header>,
        zones: u32,
    ) -> Result<Option<Arc<dyn Mapped>>, GrowError> {
        let medium = self.medium.as_ref();
        let failed = |doing| move |source| GrowError::Medium { doing, source };
        let end = header.map_or(new.end(), |header| header.file_bytes);
        medium.lengthen(end).map_err(failed("make room in the medium"))?;
        // What is new of the linear region; a file may be longer than its image.
        let linear = |layout: &Layout| layout.linear_at.saturating_add(layout.linear_bytes);
        clear(medium, linear(old)..linear(new)).map_err(failed("clear what is new"))?;
        if zones == 0 {
            return Ok(None);
        }
        let place = header.map_or(0..0, Header::table);
        // All of its blocks: what comes next begins with another.
        let blocks = place.start..place.end.next_multiple_of(SLOT_ALIGN);
        clear(medium, blocks).map_err(failed("clear the place of the zone table"))?;
        let words = (zones as usize).saturating_mul(crate::table::WORDS);
        let table = medium.map_more(place.start, words);
        Ok(Some(table.map_err(failed("map the new zone table"))?))
    }

    /// Has the superblocks say `header`, whose zone table is `table`.
    fn switch(&self, header: Header, table: Option<Arc<dyn Mapped>>) -> Result<(), GrowError> {
        let _no_commit = self.commit_lock();
        if self.is_poisoned() {
            return Err(GrowError::Failed);
        }
        self.begin_both(table);
        let switched = self.copy_table().and_then(|()| {
            self.check_table(&self.tables()).map_err(|_| GrowError::Failed)?;
            // The length of the medium with it, and what was cleared.
            self.sync().map_err(|_| GrowError::Failed)?;
            let said = self.say_dirty(header);
            // A superblock that may or may not have been written: nothing can be promised after it.
            said.map_err(|error| {
                let _ = self.fail(error);
                GrowError::Failed
            })
        });
        self.end_both(switched.is_ok());
        switched
    }

    /// The same where nothing outlives the process.
    fn adopt(&self, table: Option<Arc<dyn Mapped>>) -> Result<(), GrowError> {
        let _no_commit = self.commit_lock();
        self.begin_both(table);
        let copied = self.copy_table();
        self.end_both(copied.is_ok());
        copied
    }

    fn begin_both(&self, table: Option<Arc<dyn Mapped>>) {
        self.tables.write().unwrap_or_else(PoisonError::into_inner).next = table;
    }

    fn end_both(&self, switched: bool) {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let next = tables.next.take();
        if switched && next.is_some() {
            tables.current = next;
        }
    }

    /// Copies what the table says to the next one; no commit is under way.
    fn copy_table(&self) -> Result<(), GrowError> {
        let zones = self.shape().geometry.map_or(0, |g| g.zone_count());
        for first in (0..zones).step_by(COPIED_AT_ONCE) {
            // Nobody records meanwhile.
            let tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
            let Some(next) = &tables.next else { return Ok(()) };
            for zone in (first..zones).take(COPIED_AT_ONCE).map(ZoneId) {
                let from = Record::of(tables.words(self.medium.as_ref()), zone);
                let copied = match (from, Record::of(next.words(), zone)) {
                    (Some(from), Some(to)) => to.copy_from(&from),
                    _ => Err(RecordError::Torn),
                };
                copied.map_err(|error| GrowError::Medium {
                    doing: "copy the zone table",
                    source: io::Error::new(io::ErrorKind::InvalidData, error),
                })?;
            }
        }
        Ok(())
    }
}
