//! The superblock, as it is in the file. `docs/format.md` has the same in words.

use std::io;
use std::ops::Range;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
use zvb_wire::{Model, Sector};
use zvb_zones::{Geometry, GeometrySpec};

use super::refusal::{BadSuperblock, Refusal};
use crate::layout::{Layout, SLOT_ALIGN, SLOTS_MAX};
use crate::medium::{Medium, read_bytes, write_bytes};
use crate::table;
use crate::volume::Shape;

/// The first bytes of an image. The eighth catches transfers that change line ends.
pub(crate) const MAGIC: [u8; 8] = *b"zvbimg\r\n";
/// The version that is written, and the newest that is read.
pub(crate) const VERSION: u32 = 1;

/// Where the two copies of the superblock are.
pub(crate) const COPIES: [u64; 2] = [0, 4096];
/// Where it is noted that a sync is under way: the sector after the first superblock.
const NOTE_AT: u64 = 512;
/// Where the zone table of a new image is.
pub(super) const TABLE_AT: u64 = 8192;
/// What the linear region and the slots of a new image are aligned to.
pub(super) const REGION_ALIGN: u64 = 1 << 20;
/// A new image has room for a zone table this many times as large, so that zones can be added.
const TABLE_ROOM: u64 = 4;

/// Features that whoever does not know them may ignore.
pub(crate) const KNOWN_COMPAT: u32 = 0;
/// Features that whoever does not know them must not change the image with.
pub(crate) const KNOWN_RO_COMPAT: u32 = 0;
/// Features that whoever does not know them must not read the image with.
pub(crate) const KNOWN_INCOMPAT: u32 = 0;

/// The superblock: 512 bytes, one sector, so that a disk writes it whole or not at all.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawSuperblock {
    magic: [u8; 8],
    version: U32,
    compat: U32,
    ro_compat: U32,
    incompat: U32,
    sequence: U64,
    uuid: [u8; 16],
    id: [u8; 20],
    block_size: U32,
    capacity: U64,
    zone_size: U64,
    zone_capacity: U64,
    max_append: U64,
    conventional: U32,
    max_open: U32,
    max_active: U32,
    write_granularity: U32,
    zone_count: U32,
    slots: U32,
    table_at: U64,
    linear_at: U64,
    slots_at: U64,
    slot_bytes: U64,
    file_bytes: U64,
    model: u8,
    state: u8,
    zero: [u8; 6],
    boot: [u8; 16],
    reserved: [u8; 316],
    checksum: U32,
}

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<RawSuperblock>() == 512);
    assert!(offset_of!(RawSuperblock, sequence) == 24);
    assert!(offset_of!(RawSuperblock, capacity) == 72);
    assert!(offset_of!(RawSuperblock, table_at) == 128);
    assert!(offset_of!(RawSuperblock, model) == 168);
    assert!(offset_of!(RawSuperblock, boot) == 176);
    assert!(offset_of!(RawSuperblock, checksum) == 508);
};

/// How an image was left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// In order.
    Clean,
    /// Open for writing.
    Dirty,
    /// A sync failed: only what was durable before is to be believed.
    SyncFailed,
}

impl State {
    const ALL: [Self; 3] = [Self::Clean, Self::Dirty, Self::SyncFailed];

    fn number(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Dirty => 1,
            Self::SyncFailed => 2,
        }
    }
}

/// What was found where superblocks are.
pub(super) struct Found {
    /// The one to believe.
    pub(super) header: Header,
    /// Where the other one is, when it is torn or missing.
    pub(super) bad_copy: Option<u64>,
    /// Bytes of the medium.
    pub(super) len: u64,
}

/// A superblock that makes sense.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub(crate) sequence: u64,
    pub(crate) uuid: [u8; 16],
    pub(crate) id: [u8; 20],
    pub(crate) block_size: u32,
    pub(crate) capacity: Sector,
    pub(crate) geometry: Option<Geometry>,
    pub(crate) layout: Layout,
    pub(crate) table_at: u64,
    pub(crate) file_bytes: u64,
    pub(crate) state: State,
    /// The boot of the host during which it was opened for writing last; all zero when unknown.
    pub(crate) boot: [u8; 16],
    pub(crate) compat: u32,
    pub(crate) ro_compat: u32,
}

/// Notes that a sync is under way, or is over. The note outlives the process, and is of no use to anybody
/// when the host dies.
pub(crate) fn note_sync(medium: &dyn Medium, under_way: bool) -> io::Result<()> {
    let mut note = [0; 512];
    note[0] = under_way.into();
    write_bytes(medium, NOTE_AT, &note)
}

/// True when a sync was under way, or had failed, as far as is noted on `medium`.
pub(super) fn is_sync_noted(medium: &dyn Medium) -> io::Result<bool> {
    let mut note = [0; 512];
    read_bytes(medium, NOTE_AT, &mut note)?;
    Ok(note[0] != 0)
}

impl Header {
    /// That of a new image; `None` when it would be longer than 2^63 bytes.
    pub(crate) fn new(shape: &Shape, uuid: [u8; 16]) -> Option<Self> {
        let zones = shape.geometry.as_ref().map_or(0, Geometry::zone_count);
        let room = u64::from(zones).checked_mul(table::BYTES)?.checked_mul(TABLE_ROOM)?;
        let linear_at = TABLE_AT.checked_add(room)?.checked_next_multiple_of(REGION_ALIGN)?;
        let layout = Layout::new(shape, linear_at, None, REGION_ALIGN)?;
        Some(Self {
            sequence: 1,
            uuid,
            id: shape.id,
            block_size: shape.block_size,
            capacity: shape.capacity,
            geometry: shape.geometry,
            layout,
            table_at: TABLE_AT,
            file_bytes: layout.end().checked_next_multiple_of(SLOT_ALIGN)?,
            state: State::Clean,
            boot: [0; 16],
            compat: 0,
            ro_compat: 0,
        })
    }

    /// What the volume looks like.
    pub(crate) fn shape(&self, read_only: bool) -> Shape {
        Shape {
            capacity: self.capacity,
            block_size: self.block_size,
            geometry: self.geometry,
            id: self.id,
            read_only,
            can_discard: true,
        }
    }

    /// True when it was opened for writing last in `boot`, as far as that is known.
    pub(super) fn is_of_boot(&self, boot: [u8; 16]) -> bool {
        self.boot == boot && boot != [0; 16]
    }

    /// How many zones have a record.
    pub(crate) fn zone_count(&self) -> u32 {
        self.geometry.as_ref().map_or(0, Geometry::zone_count)
    }

    /// Words of the zone table.
    pub(crate) fn table_words(&self) -> usize {
        (self.zone_count() as usize).saturating_mul(table::WORDS)
    }

    /// The newer of the two superblocks of `medium`.
    pub(crate) fn read(medium: &dyn Medium) -> Result<Self, Refusal> {
        let Found { header, len, .. } = Self::find(medium)?;
        if len < header.file_bytes {
            return Err(Refusal::Truncated { len, expected: header.file_bytes });
        }
        Ok(header)
    }

    /// The newer of the two superblocks of `medium`, which may be shorter than it should be.
    pub(super) fn find(medium: &dyn Medium) -> Result<Found, Refusal> {
        let len = medium.size().map_err(Refusal::io("read"))?;
        if len == 0 {
            return Err(Refusal::Empty);
        }
        let mut found = [None, None];
        for (slot, at) in found.iter_mut().zip(COPIES) {
            let mut bytes = [0; 512];
            if at.saturating_add(512) <= len {
                read_bytes(medium, at, &mut bytes).map_err(Refusal::io("read"))?;
                *slot = Some(bytes);
            }
        }
        let [Some(a), b] = found else {
            return Err(Refusal::TooShort(len));
        };
        let (a, b) = (Self::parse(&a), b.map(|b| Self::parse(&b)));
        let [a_at, b_at] = COPIES;
        let bad_copy = match (&a, &b) {
            (Err(_), _) => Some(a_at),
            (_, None | Some(Err(_))) => Some(b_at),
            _ => None,
        };
        Ok(Found { header: newer(a, b)?, bad_copy, len })
    }

    /// What `bytes` say.
    pub(crate) fn parse(bytes: &[u8; 512]) -> Result<Self, Refusal> {
        let raw: RawSuperblock = zerocopy::transmute!(*bytes);
        if raw.magic != MAGIC {
            return Err(Refusal::Foreign);
        }
        // The place and kind of the checksum are the same in every version.
        if raw.checksum.get() != checksum(bytes) {
            return Err(Refusal::Torn);
        }
        if raw.version.get() > VERSION {
            return Err(Refusal::NewerVersion { found: raw.version.get(), known: VERSION });
        }
        let unknown = raw.incompat.get() & !KNOWN_INCOMPAT;
        if unknown != 0 {
            return Err(Refusal::UnknownFeatures(unknown));
        }
        raw.check().map_err(Refusal::Superblock)
    }

    /// The features that forbid changing the image, if there are any that are not known.
    pub(crate) fn unknown_ro_compat(&self) -> u32 {
        self.ro_compat & !KNOWN_RO_COMPAT
    }

    /// Writes both superblocks, each with a higher sequence number than the one before, and with `sync`
    /// makes each durable before the next: at any moment one of the two is whole.
    pub(crate) fn write_both(&mut self, medium: &dyn Medium, sync: bool) -> io::Result<()> {
        for _ in COPIES {
            self.write_one(medium)?;
            if sync {
                medium.sync()?;
            }
        }
        Ok(())
    }

    /// Writes the older of the superblocks, with the next sequence number.
    pub(crate) fn write_one(&mut self, medium: &dyn Medium) -> io::Result<()> {
        self.sequence = self.sequence.saturating_add(1);
        let [even, odd] = COPIES;
        let at = if self.sequence.is_multiple_of(2) { even } else { odd };
        write_bytes(medium, at, &self.to_bytes())
    }

    /// The superblock.
    pub(crate) fn to_bytes(&self) -> [u8; 512] {
        let spec = self.geometry.as_ref().map(|g| *g.spec());
        let sectors =
            |of: fn(&GeometrySpec) -> Sector| U64::new(spec.as_ref().map_or(0, |s| of(s).0));
        let number = |of: fn(&GeometrySpec) -> u32| U32::new(spec.as_ref().map_or(0, of));
        let raw = RawSuperblock {
            magic: MAGIC,
            version: U32::new(VERSION),
            compat: U32::new(self.compat),
            ro_compat: U32::new(self.ro_compat),
            incompat: U32::new(0),
            sequence: U64::new(self.sequence),
            uuid: self.uuid,
            id: self.id,
            block_size: U32::new(self.block_size),
            capacity: U64::new(self.capacity.0),
            zone_size: sectors(|s| s.zone_size),
            zone_capacity: sectors(|s| s.zone_capacity),
            max_append: sectors(|s| s.max_append),
            conventional: number(|s| s.conventional),
            max_open: number(|s| s.max_open),
            max_active: number(|s| s.max_active),
            write_granularity: number(|s| s.write_granularity),
            zone_count: U32::new(self.zone_count()),
            slots: U32::new(self.layout.slots),
            table_at: U64::new(self.table_at),
            linear_at: U64::new(self.layout.linear_at),
            slots_at: U64::new(self.layout.slots_at),
            slot_bytes: U64::new(self.layout.slot_bytes),
            file_bytes: U64::new(self.file_bytes),
            model: spec.map_or(Model::None, |s| s.model) as u8,
            state: self.state.number(),
            zero: [0; 6],
            boot: self.boot,
            reserved: [0; 316],
            checksum: U32::new(0),
        };
        let mut bytes: [u8; 512] = zerocopy::transmute!(raw);
        let sum = checksum(&bytes).to_le_bytes();
        bytes[508..].copy_from_slice(&sum);
        bytes
    }
}

/// Of the two copies the one to believe. One that can not be understood, though it is whole, is believed:
/// what is newer than us writes both.
fn newer(
    a: Result<Header, Refusal>,
    b: Option<Result<Header, Refusal>>,
) -> Result<Header, Refusal> {
    match (a, b) {
        (Ok(a), Some(Ok(b))) => Ok(if b.sequence > a.sequence { b } else { a }),
        (Ok(one), None | Some(Err(Refusal::Torn | Refusal::Foreign)))
        | (Err(Refusal::Torn | Refusal::Foreign), Some(Ok(one))) => Ok(one),
        (Err(Refusal::Foreign), Some(Err(error))) | (Err(error), None) => Err(error),
        (Err(Refusal::Torn), Some(Err(Refusal::Foreign))) => Err(Refusal::Torn),
        (Err(Refusal::Torn), Some(Err(error))) => Err(error),
        (Err(error), Some(_)) | (Ok(_), Some(Err(error))) => Err(error),
    }
}

fn checksum(bytes: &[u8; 512]) -> u32 {
    crc32c::crc32c(&bytes[..508])
}

impl RawSuperblock {
    /// The header, if every number is one that can be.
    fn check(&self) -> Result<Header, BadSuperblock> {
        use BadSuperblock::{Field, Regions};
        let block_size = self.block_size.get();
        if !block_size.is_power_of_two() || !(512..=65536).contains(&block_size) {
            return Err(Field("block size"));
        }
        let capacity = Sector(self.capacity.get());
        if capacity == Sector::ZERO || !capacity.is_multiple_of(Sector(u64::from(block_size) / 512))
        {
            return Err(Field("capacity"));
        }
        let geometry = self.geometry(capacity)?;
        let state = State::ALL.into_iter().find(|s| s.number() == self.state);
        let mut header = Header {
            sequence: self.sequence.get(),
            uuid: self.uuid,
            id: self.id,
            block_size,
            capacity,
            geometry,
            layout: self.layout(capacity, block_size, geometry).ok_or(Regions)?,
            table_at: self.table_at.get(),
            file_bytes: self.file_bytes.get(),
            state: state.ok_or(Field("state"))?,
            boot: self.boot,
            compat: self.compat.get(),
            ro_compat: self.ro_compat.get(),
        };
        if header.zone_count() != self.zone_count.get() {
            return Err(Field("number of zones"));
        }
        if !header.regions_fit() {
            return Err(Regions);
        }
        // So that raising it never ends.
        header.sequence = header.sequence.min(u64::MAX / 2);
        Ok(header)
    }

    fn geometry(&self, capacity: Sector) -> Result<Option<Geometry>, BadSuperblock> {
        let model = Model::try_from(self.model).map_err(|_| BadSuperblock::Field("zone model"))?;
        if model == Model::None {
            return Ok(None);
        }
        let spec = GeometrySpec {
            model,
            capacity,
            zone_size: Sector(self.zone_size.get()),
            zone_capacity: Sector(self.zone_capacity.get()),
            conventional: self.conventional.get(),
            max_open: self.max_open.get(),
            max_active: self.max_active.get(),
            max_append: Sector(self.max_append.get()),
            write_granularity: self.write_granularity.get(),
        };
        Geometry::new(spec).map(Some).map_err(BadSuperblock::Geometry)
    }

    fn layout(
        &self,
        capacity: Sector,
        block_size: u32,
        geometry: Option<Geometry>,
    ) -> Option<Layout> {
        let shape = Shape {
            capacity,
            block_size,
            geometry,
            id: self.id,
            read_only: true,
            can_discard: true,
        };
        let layout =
            Layout::new(&shape, self.linear_at.get(), Some(self.slots_at.get()), SLOT_ALIGN)?;
        // A plain disk has no slots, whatever stands there. What is kept of each slot takes memory, and
        // only where slots have a size does the length of the file bound how many there are.
        let Some(geometry) = geometry else { return Some(layout) };
        let slots = self.slots.get();
        // A zone that needs a slot must be able to get one, once the others are flushed.
        let sequential = geometry.zone_count() - geometry.spec().conventional;
        let right =
            slots >= sequential && slots <= SLOTS_MAX && layout.slot_bytes == self.slot_bytes.get();
        if right { layout.with_slots(slots) } else { None }
    }
}

impl Header {
    /// Where the zone table is.
    pub(crate) fn table(&self) -> Range<u64> {
        let len = u64::from(self.zone_count()).saturating_mul(table::BYTES);
        self.table_at..self.table_at.saturating_add(len)
    }

    /// True when the regions are aligned, apart, past the superblocks and inside the file.
    pub(super) fn regions_fit(&self) -> bool {
        let table = u64::from(self.zone_count()).saturating_mul(table::BYTES);
        let layout = &self.layout;
        let mut regions = [
            (0, TABLE_AT),
            (self.table_at, table),
            (layout.linear_at, layout.linear_bytes),
            (layout.slots_at, layout.slots_len()),
        ];
        regions.sort_unstable();
        let mut end = 0;
        for (start, len) in regions.into_iter().filter(|(_, len)| *len > 0) {
            if start < end || !start.is_multiple_of(SLOT_ALIGN) {
                return false;
            }
            let Some(next) = start.checked_add(len) else { return false };
            end = next;
        }
        end <= self.file_bytes && self.file_bytes <= i64::MAX as u64
    }
}
