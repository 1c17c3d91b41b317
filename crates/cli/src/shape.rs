//! From what a user asks of a disk to a geometry, with the defaults filled in.

use clap::{Args, ValueEnum};
use zvb_wire::{Model, SECTOR_BYTES, Sector};
use zvb_zones::{Geometry, GeometryError, GeometrySpec};

use crate::size::Size;

/// The zone size of a disk that is large enough for sixteen of them.
const ZONE_SIZE: u64 = 256 << 20;
/// Smaller disks get smaller zones, so that there are at least this many.
const ZONES_MIN: u64 = 16;
/// The block size.
const BLOCK_SIZE: u64 = 4096;
/// The append limit, where the zones are not smaller.
const MAX_APPEND: u64 = 512 << 10;
/// Where the help lists what follows. (A heading of the whole struct would be that of all options after it, too.)
const GEOMETRY: &str = "Geometry";

/// How the disk is divided. Sizes take K, M, G, T (powers of 1024), KB, MB, ... (powers of 1000).
#[derive(Args, Clone, Debug)]
pub(crate) struct ShapeArgs {
    /// Size of every zone but perhaps the last; any multiple of the block size
    /// [default: 256M, or less, so that a small disk has 16 zones]
    #[arg(long, help_heading = GEOMETRY, value_name = "SIZE")]
    pub(crate) zone_size: Option<Size>,

    /// What can be written of a sequential zone [default: the zone size]
    #[arg(long, help_heading = GEOMETRY, value_name = "SIZE")]
    pub(crate) zone_capacity: Option<Size>,

    /// How many zones, from the start, are conventional (written anywhere) [default: 0]
    #[arg(long, help_heading = GEOMETRY, value_name = "N")]
    pub(crate) conventional: Option<u32>,

    /// What kind of disk [default: host-managed]
    #[arg(long, help_heading = GEOMETRY, value_name = "MODEL", value_enum)]
    pub(crate) model: Option<ModelArg>,

    /// Most zones open at a time; 0 for no limit [default: 0]
    #[arg(long, help_heading = GEOMETRY, value_name = "N")]
    pub(crate) max_open: Option<u32>,

    /// Most zones open or closed (active) at a time; 0 for no limit [default: 0]
    #[arg(long, help_heading = GEOMETRY, value_name = "N")]
    pub(crate) max_active: Option<u32>,

    /// Largest append; 0 for a disk without appends [default: 512K]
    #[arg(long, help_heading = GEOMETRY, value_name = "SIZE")]
    pub(crate) max_append: Option<Size>,

    /// Logical block size, and what writes are a multiple of: a power of two from 512 to 64K
    /// [default: 4096]
    #[arg(long, help_heading = GEOMETRY, value_name = "SIZE")]
    pub(crate) block_size: Option<Size>,
}

/// The kinds of disk.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ModelArg {
    /// Sequential zones must be written at their write pointer
    HostManaged,
    /// Sequential zones would rather be written at their write pointer
    HostAware,
    /// A plain disk without zones
    None,
}

/// A disk as it will be made. `zones` has passed [`Geometry::new`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shape {
    /// Size of the disk.
    pub(crate) capacity: Sector,
    /// Logical block size in bytes.
    pub(crate) block_size: u32,
    /// Its zones; `None` for a plain disk.
    pub(crate) zones: Option<GeometrySpec>,
}

/// Why what the user asked for makes no disk.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum ShapeError {
    #[error("--block-size {0}: use a power of two from 512 to 64K, like 512 or 4096")]
    BlockSize(u64),
    #[error("--size 0: a disk has at least one block; use a size like 64G")]
    Empty,
    #[error(
        "{option} {bytes} is not a multiple of the block size of {block} bytes; {near} would work"
    )]
    Multiple { option: &'static str, bytes: u64, block: u32, near: String },
    #[error("--size {size}: a disk has at most 8 EiB - 1")]
    TooLarge { size: u64 },
    #[error("--zone-size 0: use a multiple of the block size, like 256M")]
    ZoneSizeZero,
    #[error("--zone-size {0}: a zone has less than 2 TiB; use a smaller size, like 256M")]
    ZoneSizeLarge(Size),
    #[error("--zone-capacity {capacity}: use 1 block up to the zone size, {size}")]
    ZoneCapacity { capacity: Size, size: Size },
    #[error(
        "{count} zones of {zone_size} are more than the {limit} that a disk may have; use a --zone-size of {enough} or more"
    )]
    TooManyZones { count: u64, zone_size: Size, limit: u32, enough: String },
    #[error("--conventional {asked}: the disk has only {count} zones")]
    Conventional { asked: u32, count: u32 },
    #[error(
        "--max-open {open} can never be reached with --max-active {active}; use at most {active}, or --max-active 0"
    )]
    Limits { open: u32, active: u32 },
    #[error("--max-append {0}: use less than 2 TiB")]
    MaxAppend(Size),
    #[error(
        "--max-append {append}: no zone has room for more than its capacity; use at most {capacity}"
    )]
    AppendAboveCapacity { append: Size, capacity: Size },
    #[error("{option} needs zones; leave it out, or use --model host-managed or host-aware")]
    NotZoned { option: &'static str },
    #[error("these zones make no disk")]
    Geometry(#[source] GeometryError),
}

impl ShapeArgs {
    /// The disk of `size` that this asks for.
    pub(crate) fn shape(&self, size: Size) -> Result<Shape, ShapeError> {
        let block_size = self.checked_block_size()?;
        if size.0 == 0 {
            return Err(ShapeError::Empty);
        }
        if size.0 > i64::MAX as u64 {
            return Err(ShapeError::TooLarge { size: size.0 });
        }
        let capacity = sectors("--size", size, block_size)?;
        let zones = match self.model.unwrap_or(ModelArg::HostManaged) {
            ModelArg::None => {
                self.refuse_zone_options()?;
                None
            }
            ModelArg::HostManaged => {
                Some(self.geometry(Model::HostManaged, size, capacity, block_size)?)
            }
            ModelArg::HostAware => {
                Some(self.geometry(Model::HostAware, size, capacity, block_size)?)
            }
        };
        Ok(Shape { capacity, block_size, zones })
    }

    fn checked_block_size(&self) -> Result<u32, ShapeError> {
        let bytes = self.block_size.map_or(BLOCK_SIZE, |size| size.0);
        match u32::try_from(bytes) {
            Ok(b) if b.is_power_of_two() && (512..=65536).contains(&b) => Ok(b),
            _ => Err(ShapeError::BlockSize(bytes)),
        }
    }

    fn refuse_zone_options(&self) -> Result<(), ShapeError> {
        match self.zone_option() {
            Some(option) => Err(ShapeError::NotZoned { option }),
            None => Ok(()),
        }
    }

    /// An option that was given, if there is one.
    pub(crate) fn given(&self) -> Option<&'static str> {
        let model = self.model.map(|_| "--model");
        let block_size = self.block_size.map(|_| "--block-size");
        self.zone_option().or(model).or(block_size)
    }

    fn zone_option(&self) -> Option<&'static str> {
        let given = [
            ("--zone-size", self.zone_size.is_some()),
            ("--zone-capacity", self.zone_capacity.is_some()),
            ("--conventional", self.conventional.is_some()),
            ("--max-open", self.max_open.is_some()),
            ("--max-active", self.max_active.is_some()),
            ("--max-append", self.max_append.is_some()),
        ];
        given.into_iter().find(|(_, given)| *given).map(|(option, _)| option)
    }

    fn geometry(
        &self,
        model: Model,
        size: Size,
        capacity: Sector,
        block_size: u32,
    ) -> Result<GeometrySpec, ShapeError> {
        let block = u64::from(block_size);
        let zone_bytes = self.zone_size.unwrap_or_else(|| default_zone_size(size, block));
        if zone_bytes.0 == 0 {
            return Err(ShapeError::ZoneSizeZero);
        }
        let zone_size = sectors("--zone-size", zone_bytes, block_size)?;
        let zone_capacity = match self.zone_capacity {
            Some(asked) => sectors("--zone-capacity", asked, block_size)?,
            None => zone_size,
        };
        let append = self.max_append.unwrap_or_else(|| {
            let most = zone_capacity.to_bytes().unwrap_or(MAX_APPEND).min(MAX_APPEND);
            Size(most.max(block))
        });
        let spec = GeometrySpec {
            model,
            capacity,
            zone_size,
            zone_capacity,
            conventional: self.conventional.unwrap_or(0),
            max_open: self.max_open.unwrap_or(0),
            max_active: self.max_active.unwrap_or(0),
            max_append: sectors("--max-append", append, block_size)?,
            write_granularity: block_size,
        };
        Geometry::new(spec).map_err(|error| explain(error, &spec, size))?;
        if spec.max_append > spec.zone_capacity {
            let capacity = Size::of(spec.zone_capacity);
            return Err(ShapeError::AppendAboveCapacity { append, capacity });
        }
        Ok(spec)
    }
}

/// A zone has fewer bytes.
const ZONE_BYTES_END: u64 = 1 << 41;

/// 256M; on smaller disks the power of two that gives at least [`ZONES_MIN`] zones.
fn default_zone_size(size: Size, block: u64) -> Size {
    let share = (size.0 / ZONES_MIN).max(1);
    Size((1u64 << share.ilog2()).clamp(block, ZONE_SIZE))
}

fn sectors(option: &'static str, size: Size, block: u32) -> Result<Sector, ShapeError> {
    let unit = u64::from(block);
    if size.0.is_multiple_of(unit) {
        return Ok(Sector(size.0 / SECTOR_BYTES));
    }
    let below = size.0 / unit * unit;
    let near = match (below, below.checked_add(unit)) {
        (0, _) | (_, None) => format!("{}", below.max(unit)),
        (below, Some(above)) => format!("{below} or {above}"),
    };
    Err(ShapeError::Multiple { option, bytes: size.0, block, near })
}

/// In the user's words, and with what would work, where the geometry's own words are not.
fn explain(error: GeometryError, spec: &GeometrySpec, size: Size) -> ShapeError {
    let zone_size = Size::of(spec.zone_size);
    match error {
        GeometryError::ZoneSize(_) => ShapeError::ZoneSizeLarge(zone_size),
        GeometryError::ZoneCapacity { capacity, .. } => {
            ShapeError::ZoneCapacity { capacity: Size::of(capacity), size: zone_size }
        }
        GeometryError::TooManyZones { count, limit } => {
            let least = size.0.div_ceil(u64::from(limit));
            // A power of two, unless a zone can not have so much.
            let enough = match least.next_power_of_two() {
                round if round < ZONE_BYTES_END => Size(round).to_string(),
                _ => format!("{}G", least.div_ceil(1 << 30)),
            };
            ShapeError::TooManyZones { count, zone_size, limit, enough }
        }
        GeometryError::Conventional { conventional, count } => {
            ShapeError::Conventional { asked: conventional, count }
        }
        GeometryError::Limits { max_open, max_active } => {
            ShapeError::Limits { open: max_open, active: max_active }
        }
        GeometryError::MaxAppend(append) => ShapeError::MaxAppend(Size::of(append)),
        other => ShapeError::Geometry(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> ShapeArgs {
        ShapeArgs {
            zone_size: None,
            zone_capacity: None,
            conventional: None,
            model: None,
            max_open: None,
            max_active: None,
            max_append: None,
            block_size: None,
        }
    }

    #[test]
    fn defaults_suit_the_size() {
        let zone_of = |size: u64| {
            let shape = args().shape(Size(size)).unwrap();
            shape.zones.unwrap().zone_size.to_bytes().unwrap()
        };
        assert_eq!(zone_of(64 << 30), 256 << 20);
        assert_eq!(zone_of(4 << 30), 256 << 20);
        assert_eq!(zone_of(1 << 30), 64 << 20);
        assert_eq!(zone_of(3 << 20), 128 << 10);
        assert_eq!(zone_of(4096), 4096);
        let tiny = args().shape(Size(16 * 4096)).unwrap().zones.unwrap();
        assert_eq!(tiny.max_append, Sector(8));
        let big = args().shape(Size(64 << 30)).unwrap().zones.unwrap();
        assert_eq!((big.max_append, big.zone_capacity), (Sector(1024), big.zone_size));
        assert_eq!((big.max_open, big.max_active, big.conventional), (0, 0, 0));
    }

    #[test]
    fn a_plain_disk_takes_no_zone_options() {
        let plain = ShapeArgs { model: Some(ModelArg::None), ..args() };
        assert_eq!(plain.shape(Size(1 << 20)).unwrap().zones, None);
        let odd = ShapeArgs { max_open: Some(1), ..plain };
        assert_eq!(odd.shape(Size(1 << 20)), Err(ShapeError::NotZoned { option: "--max-open" }));
    }

    #[test]
    fn what_makes_no_disk_says_what_would() {
        let refused = |change: fn(&mut ShapeArgs), size| {
            let mut asked = args();
            change(&mut asked);
            asked.shape(Size(size)).unwrap_err().to_string()
        };
        let same = |_: &mut ShapeArgs| {};
        assert!(refused(same, 0).contains("at least one block"));
        assert!(refused(same, 5000).contains("4096 or 8192 would work"));
        assert!(refused(same, u64::MAX).contains("at most 8 EiB"));
        assert!(refused(|a| a.block_size = Some(Size(1000)), 4096).contains("power of two"));
        assert!(refused(|a| a.block_size = Some(Size(1 << 40)), 4096).contains("power of two"));
        assert!(refused(|a| a.zone_size = Some(Size(0)), 1 << 20).contains("--zone-size 0"));
        assert!(refused(|a| a.zone_size = Some(Size(1)), 1 << 20).contains("4096 would work"));
        assert!(
            refused(|a| a.zone_size = Some(Size(2 << 40)), 1 << 20).contains("less than 2 TiB")
        );
        let many = refused(|a| a.zone_size = Some(Size(4096)), 1 << 40);
        assert!(many.contains("--zone-size of 256 KiB or more"), "{many}");
        assert!(
            refused(|a| a.zone_capacity = Some(Size(0)), 1 << 20).contains("--zone-capacity 0")
        );
        assert!(
            refused(|a| a.zone_capacity = Some(Size(1 << 20)), 1 << 20).contains("up to the zone")
        );
        assert!(refused(|a| a.conventional = Some(17), 1 << 20).contains("only 16 zones"));
        let limits = |a: &mut ShapeArgs| (a.max_open, a.max_active) = (Some(3), Some(2));
        assert!(refused(limits, 1 << 20).contains("at most 2"));
        assert!(refused(|a| a.max_append = Some(Size(100)), 1 << 20).contains("4096 would work"));
        assert!(refused(|a| a.max_append = Some(Size(4 << 40)), 1 << 20).contains("--max-append"));
        let above = refused(|a| a.max_append = Some(Size(1 << 20)), 1 << 20);
        assert!(
            above.contains("--max-append 1 MiB") && above.contains("at most 64 KiB"),
            "{above}"
        );
        // No power of two would do.
        let huge = refused(same, 7 << 60);
        assert!(huge.contains("--zone-size of 1792G or more"), "{huge}");
    }
}
