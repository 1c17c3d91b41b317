//! Where the sectors of a disk are on its medium.
//!
//! Plain disks and conventional zones lie one after the other in the *linear* region. A sequential zone
//! has no place of its own: from its first write to its next reset it has a *slot*, so that a new life
//! of the zone never overwrites the one before.

use zvb_wire::{SECTOR_BYTES, Sector};
use zvb_zones::{Geometry, ZoneId};

use crate::volume::Shape;

/// The most slots there can be: their number, plus one, has 24 bits in a zone record.
pub(crate) const SLOTS_MAX: u32 = (1 << 24) - 2;

/// What the places of slots are multiples of, in bytes.
pub(crate) const SLOT_ALIGN: u64 = 4096;

/// Places on the medium. Everything in bytes; checked: no sum of what is inside overflows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Layout {
    /// Where the linear region is, and how long.
    pub(crate) linear_at: u64,
    pub(crate) linear_bytes: u64,
    /// Where slot 0 is, the size of each, and how many.
    pub(crate) slots_at: u64,
    pub(crate) slot_bytes: u64,
    pub(crate) slots: u32,
    /// Of the disk.
    disk_bytes: u64,
    zone_bytes: u64,
    zone_capacity: u64,
}

/// A run of the disk that lies in one place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    pub(crate) place: Place,
    pub(crate) bytes: u64,
}

/// Where a [`Piece`] is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// On the medium, at this byte.
    Medium(u64),
    /// In the slot of this zone, if it has one, this many bytes from its start.
    Zone(ZoneId, u64),
    /// Above the capacity of a zone: nowhere.
    Void,
}

impl Layout {
    /// The places of a disk of `shape`, its linear region at `linear_at` and its slots at `slots_at` (or,
    /// if that is `None`, right after, at the next multiple of `align`). `None` when it would be longer
    /// than 2^63 bytes.
    pub(crate) fn new(
        shape: &Shape,
        linear_at: u64,
        slots_at: Option<u64>,
        align: u64,
    ) -> Option<Self> {
        let disk_bytes = shape.capacity.to_bytes()?;
        let linear_bytes = linear_sectors(shape).to_bytes()?;
        let slots = shape.geometry.as_ref().map_or(0, slots_wanted);
        let (zone_bytes, zone_capacity) = match &shape.geometry {
            Some(g) => (g.spec().zone_size.to_bytes()?, g.spec().zone_capacity.to_bytes()?),
            None => (disk_bytes, disk_bytes),
        };
        let slot_bytes = match &shape.geometry {
            Some(_) => zone_capacity.checked_next_multiple_of(SLOT_ALIGN)?,
            None => 0,
        };
        let after = linear_at.checked_add(linear_bytes)?.checked_next_multiple_of(align)?;
        let slots_at = slots_at.unwrap_or(after);
        let layout = Self {
            linear_at,
            linear_bytes,
            slots_at,
            slot_bytes,
            slots,
            disk_bytes,
            zone_bytes,
            zone_capacity,
        };
        layout.with_slots(slots)
    }

    /// The places of a disk that grows to `shape`: all that it has stays where it is, and its regions grow at
    /// their ends. Where there was no slot yet (`sequential`: there were zones that have some) they may
    /// begin anywhere. `None` when it would be longer than 2^63 bytes, or in the way of itself.
    pub(crate) fn grown(&self, shape: &Shape, sequential: bool, align: u64) -> Option<Self> {
        let (slots_at, had) =
            if sequential { (Some(self.slots_at), self.slots) } else { (None, 0) };
        let slots = shape.geometry.as_ref().map_or(0, slots_wanted).max(had);
        let layout = Self::new(shape, self.linear_at, slots_at, align)?.with_slots(slots)?;
        let apart = layout.slots == 0
            || layout.linear_at.saturating_add(layout.linear_bytes) <= layout.slots_at;
        apart.then_some(layout)
    }

    /// Bytes of the disk.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// The same of a disk that has become larger, without a check.
    pub(crate) fn sized(
        self,
        disk_bytes: u64,
        linear_bytes: u64,
        slots_at: u64,
        slots: u32,
    ) -> Self {
        Self { disk_bytes, linear_bytes, slots_at, slots, ..self }
    }

    /// The same with another number of slots.
    pub(crate) fn with_slots(self, slots: u32) -> Option<Self> {
        let layout = Self { slots, ..self };
        let end = layout.slots_at.checked_add(layout.slot_bytes.checked_mul(u64::from(slots))?)?;
        let linear_end = layout.linear_at.checked_add(layout.linear_bytes)?;
        (end.max(linear_end) <= i64::MAX as u64).then_some(layout)
    }

    /// Bytes of the medium up to the end of the slots and of the linear region.
    pub(crate) fn end(&self) -> u64 {
        let slots = self.slots_at.saturating_add(self.slots_len());
        slots.max(self.linear_at.saturating_add(self.linear_bytes))
    }

    /// Bytes of the medium up to the end of what can hold data: a region of no bytes may be said to lie
    /// anywhere, also past the end of the file.
    pub(crate) fn data_end(&self) -> u64 {
        let regions = [(self.linear_at, self.linear_bytes), (self.slots_at, self.slots_len())];
        let ends =
            regions.iter().filter(|(_, len)| *len > 0).map(|(at, len)| at.saturating_add(*len));
        ends.max().unwrap_or(0)
    }

    /// Bytes of all slots.
    pub(crate) fn slots_len(&self) -> u64 {
        self.slot_bytes.saturating_mul(u64::from(self.slots))
    }

    /// Where `slot` begins.
    pub(crate) fn slot_at(&self, slot: u32) -> u64 {
        self.slots_at.saturating_add(self.slot_bytes.saturating_mul(u64::from(slot)))
    }

    /// Where the bytes of the disk from `position` on are: at most `left` of them, at least one while
    /// `left` is not 0. `None` at the end of the disk.
    pub(crate) fn piece(&self, position: u64, left: u64) -> Option<Piece> {
        let left = left.min(self.disk_bytes.checked_sub(position)?);
        if position < self.linear_bytes {
            let bytes = left.min(self.linear_bytes - position);
            return Some(Piece { place: Place::Medium(self.linear_at + position), bytes });
        }
        if left == 0 {
            return None;
        }
        let (zone, inside) = self.split(position)?;
        let zone = u32::try_from(zone).ok()?;
        let place = |place, end: u64| Piece { place, bytes: left.min(end.saturating_sub(inside)) };
        Some(if inside < self.zone_capacity {
            place(Place::Zone(ZoneId(zone), inside), self.zone_capacity)
        } else {
            place(Place::Void, self.zone_bytes)
        })
    }

    /// The zone of `position`, and the byte of it: a shift, where the size of zones is a power of two.
    fn split(&self, position: u64) -> Option<(u64, u64)> {
        let size = self.zone_bytes;
        if size.is_power_of_two() {
            return Some((position >> size.trailing_zeros(), position & size.wrapping_sub(1)));
        }
        Some((position.checked_div(size)?, position.checked_rem(size)?))
    }
}

/// True when there are zones whose data is in slots.
pub(crate) fn has_sequential(shape: &Shape) -> bool {
    shape.geometry.is_some_and(|g| g.zone_count() > g.spec().conventional)
}

/// The sectors of a disk that have a fixed place.
fn linear_sectors(shape: &Shape) -> Sector {
    match &shape.geometry {
        Some(g) => {
            let end = u64::from(g.spec().conventional).saturating_mul(g.spec().zone_size.0);
            Sector(end.min(shape.capacity.0))
        }
        None => shape.capacity,
    }
}

/// How many slots a new disk gets: one for every sequential zone, and some to spare for zones that were
/// reset and not yet flushed.
pub(crate) fn slots_wanted(geometry: &Geometry) -> u32 {
    let zones = geometry.zone_count().saturating_sub(geometry.spec().conventional);
    zones.saturating_add((zones / 64).max(8).min(zones)).min(SLOTS_MAX)
}

const _: () = assert!(Geometry::MAX_ZONES as u64 * 2 <= SLOTS_MAX as u64);
const _: () = assert!(SLOT_ALIGN.is_multiple_of(SECTOR_BYTES));

#[cfg(test)]
mod tests {
    use super::*;
    use zvb_wire::Model;
    use zvb_zones::GeometrySpec;

    fn shape() -> Shape {
        let spec = GeometrySpec {
            model: Model::HostManaged,
            capacity: Sector(10 * 24 + 7),
            zone_size: Sector(24),
            zone_capacity: Sector(20),
            conventional: 3,
            max_open: 0,
            max_active: 0,
            max_append: Sector(0),
            write_granularity: 512,
        };
        Shape {
            capacity: spec.capacity,
            block_size: 512,
            geometry: Some(Geometry::new(spec).unwrap()),
            id: [0; 20],
            read_only: false,
            can_discard: true,
        }
    }

    #[test]
    fn regions_of_no_bytes_need_no_file() {
        let plain = Shape { geometry: None, ..shape() };
        let layout = Layout::new(&plain, 8192, None, 4096).unwrap();
        let far = Layout { slots_at: 1 << 40, ..layout };
        assert_eq!(far.data_end(), 8192 + plain.capacity.0 * 512);
        let layout = Layout::new(&shape(), 8192, None, 4096).unwrap();
        assert_eq!(layout.data_end(), layout.end());
        let zones_only = Layout { linear_at: 1 << 40, linear_bytes: 0, ..layout };
        assert_eq!(zones_only.data_end(), layout.end());
    }

    #[test]
    fn every_sector_has_one_place() {
        let layout = Layout::new(&shape(), 8192, None, 4096).unwrap();
        // 8 sequential zones, and as many to spare; 20 sectors round up to 3 * 4096 bytes.
        assert_eq!((layout.slots, layout.slot_bytes), (16, 12288));
        assert_eq!(layout.slots_at, 8192 + 36864);
        let (mut position, mut pieces) = (0, Vec::new());
        while let Some(piece) = layout.piece(position, u64::MAX) {
            assert!(piece.bytes > 0);
            pieces.push((piece.place, piece.bytes / 512));
            position += piece.bytes;
        }
        assert_eq!(position, shape().capacity.to_bytes().unwrap());
        let mut expected = vec![(Place::Medium(8192), 72)];
        for zone in 3..10 {
            expected.push((Place::Zone(ZoneId(zone), 0), 20));
            expected.push((Place::Void, 4));
        }
        expected.push((Place::Zone(ZoneId(10), 0), 7));
        assert_eq!(pieces, expected);
        assert_eq!(layout.piece(u64::MAX, 1), None);
        let inside = layout.piece(3 * 24 * 512 + 1000, 8).unwrap();
        assert_eq!(inside, Piece { place: Place::Zone(ZoneId(3), 1000), bytes: 8 });
    }

    #[test]
    fn positions_are_split_by_shifts_as_by_divisions() {
        for zone_bytes in [1, 512, 24 * 512, 64 << 20, 1 << 63] {
            let layout = Layout { zone_bytes, ..Layout::new(&shape(), 0, None, 4096).unwrap() };
            for position in [0, 1, 511, 512, 12_287, 12_288, (64 << 20) - 1, 64 << 20, u64::MAX] {
                let split = Some((position / zone_bytes, position % zone_bytes));
                assert_eq!(layout.split(position), split, "{position} by {zone_bytes}");
            }
        }
        let none = Layout { zone_bytes: 0, ..Layout::new(&shape(), 0, None, 4096).unwrap() };
        assert_eq!(none.split(5), None);
    }

    #[test]
    fn what_does_not_fit_into_a_file_has_no_layout() {
        assert!(Layout::new(&shape(), u64::MAX, None, 4096).is_none());
        assert!(Layout::new(&shape(), i64::MAX as u64 - 4096, None, 4096).is_none());
        let layout = Layout::new(&shape(), 0, Some(1 << 20), 4096).unwrap();
        assert!(layout.with_slots(u32::MAX).is_some());
        let far = Layout::new(&shape(), 0, Some(1 << 62), 4096).unwrap();
        assert_eq!(far.slot_at(1), (1 << 62) + 12288);
        assert!(Layout::new(&shape(), 0, Some((1 << 63) - 4096), 4096).is_none());
    }
}
