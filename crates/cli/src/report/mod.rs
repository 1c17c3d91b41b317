//! What is told about zones: a table, a map, the lines of util-linux's `blkzone report`, JSON.

pub(crate) mod blkzone;
pub(crate) mod dump;
pub(crate) mod json;
pub(crate) mod map;
pub(crate) mod table;

use zvb_wire::{Condition, Model, Sector, ZoneType};

/// One zone, as the device or an image tells of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Zone {
    /// Its place on the disk, from 0.
    pub(crate) number: u64,
    /// First sector.
    pub(crate) start: Sector,
    /// Sectors to the next zone.
    pub(crate) len: Sector,
    /// Sectors of it that can be written.
    pub(crate) capacity: Sector,
    /// The next sector to write, from the start of the disk; `None` where there is none.
    pub(crate) write_pointer: Option<Sector>,
    /// Its condition.
    pub(crate) condition: Condition,
    /// Its type.
    pub(crate) zone_type: ZoneType,
}

impl Zone {
    /// The write pointer as one number, from the start of the disk: where there is none, the end of the
    /// zone when it is full and its start otherwise.
    pub(crate) fn pointer(&self) -> Sector {
        let end = Sector(self.start.0.saturating_add(self.len.0));
        match self.condition {
            Condition::Full => end,
            _ => self.write_pointer.unwrap_or(self.start),
        }
    }

    /// How many sectors from its start hold data that a reader cares for: all of a conventional zone and
    /// of a sequential-preferred one, the capacity of a full one, what lies below the write pointer of
    /// any other.
    pub(crate) fn readable(&self) -> Sector {
        match (self.zone_type, self.condition) {
            (_, Condition::Offline) => Sector::ZERO,
            (ZoneType::Conventional, _) => self.len,
            (_, Condition::Full) => self.capacity,
            (_, Condition::ReadOnly) if self.write_pointer.is_none() => self.capacity,
            _ => Sector(self.pointer().0.saturating_sub(self.start.0)).min(self.capacity),
        }
    }

    /// How many sectors more it takes at its write pointer.
    pub(crate) fn room(&self) -> Sector {
        match (self.zone_type, self.condition) {
            (ZoneType::Conventional, _) => self.len,
            (_, Condition::Full | Condition::ReadOnly | Condition::Offline) => Sector::ZERO,
            _ => Sector(self.capacity.0.saturating_sub(self.readable().0)),
        }
    }

    /// True for zones that are written at their write pointer.
    pub(crate) fn is_sequential(&self) -> bool {
        self.zone_type != ZoneType::Conventional
    }
}

/// The name of a condition in JSON and in tables.
pub(crate) fn condition_name(condition: Condition) -> &'static str {
    match condition {
        Condition::NotWp => "not-wp",
        Condition::Empty => "empty",
        Condition::ImplicitOpen => "implicit-open",
        Condition::ExplicitOpen => "explicit-open",
        Condition::Closed => "closed",
        Condition::ReadOnly => "read-only",
        Condition::Full => "full",
        Condition::Offline => "offline",
    }
}

/// The name of a zone's type in JSON and in tables.
pub(crate) fn type_name(zone_type: ZoneType) -> &'static str {
    match zone_type {
        ZoneType::Conventional => "conventional",
        ZoneType::SequentialRequired => "seq-write-required",
        ZoneType::SequentialPreferred => "seq-write-preferred",
    }
}

/// The name of a model: what `--model` takes.
pub(crate) const fn model_name(model: Model) -> &'static str {
    match model {
        Model::None => "none",
        Model::HostManaged => "host-managed",
        Model::HostAware => "host-aware",
    }
}

/// How many zones are in each condition, in the order of [`Condition::ALL`], without those of none.
pub(crate) fn counts(zones: &[Zone]) -> Vec<(Condition, usize)> {
    Condition::ALL
        .into_iter()
        .map(|condition| (condition, zones.iter().filter(|z| z.condition == condition).count()))
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// `12 empty, 2 full`.
pub(crate) fn counts_line(zones: &[Zone]) -> String {
    let parts: Vec<_> =
        counts(zones).into_iter().map(|(c, n)| format!("{n} {}", condition_name(c))).collect();
    parts.join(", ")
}

#[cfg(test)]
pub(crate) mod samples {
    use super::*;

    fn zone(number: u64, pointer: Option<u64>, condition: Condition, kind: ZoneType) -> Zone {
        let start = number * 0x8000;
        let capacity = if kind == ZoneType::Conventional { 0x8000 } else { 0x6000 };
        Zone {
            number,
            start: Sector(start),
            len: Sector(0x8000),
            capacity: Sector(capacity),
            write_pointer: pointer.map(|p| Sector(start + p)),
            condition,
            zone_type: kind,
        }
    }

    /// A zone in every condition.
    pub(crate) fn all() -> Vec<Zone> {
        use Condition as C;
        use ZoneType as T;
        vec![
            zone(0, None, C::NotWp, T::Conventional),
            zone(1, Some(0), C::Empty, T::SequentialRequired),
            zone(2, Some(8), C::ImplicitOpen, T::SequentialRequired),
            zone(3, Some(0x3000), C::ExplicitOpen, T::SequentialRequired),
            zone(4, Some(0x10), C::Closed, T::SequentialPreferred),
            zone(5, None, C::ReadOnly, T::SequentialRequired),
            zone(6, None, C::Full, T::SequentialRequired),
            zone(7, None, C::Offline, T::SequentialRequired),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointer_room_and_readable_of_every_condition() {
        let all = samples::all();
        let numbers = |f: fn(&Zone) -> Sector| all.iter().map(|z| f(z).0).collect::<Vec<_>>();
        assert_eq!(
            numbers(Zone::pointer),
            [0, 0x8000, 0x10008, 0x1b000, 0x20010, 0x28000, 0x38000, 0x38000]
        );
        assert_eq!(numbers(Zone::readable), [0x8000, 0, 8, 0x3000, 0x10, 0x6000, 0x6000, 0]);
        assert_eq!(numbers(Zone::room), [0x8000, 0x6000, 0x5ff8, 0x3000, 0x5ff0, 0, 0, 0]);
    }

    #[test]
    fn counts_name_what_is_there() {
        let all = samples::all();
        assert_eq!(counts_line(&all[1..2]), "1 empty");
        assert_eq!(counts_line(&all[5..]), "1 read-only, 1 full, 1 offline");
    }
}
