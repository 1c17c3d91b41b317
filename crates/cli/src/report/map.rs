//! Zones as a map: one letter each, or one for several when there are many.

use std::fmt;

use zvb_wire::Condition;

use super::{Zone, condition_name, counts};
use crate::terminal::Paint;

/// The most rows that a map has; more zones share a cell.
const ROWS_MAX: usize = 16;

/// A map of zones, `width` columns wide.
pub(crate) struct Map<'a> {
    pub(crate) zones: &'a [Zone],
    pub(crate) width: usize,
    pub(crate) paint: Paint,
}

impl fmt::Display for Map<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(first), Some(last)) = (self.zones.first(), self.zones.last()) else {
            return Ok(());
        };
        let margin = last.number.to_string().len().max(first.number.to_string().len());
        // A multiple of eight, so that zone numbers are easy to count off.
        let cells = (self.width.saturating_sub(margin + 4) / 8 * 8).clamp(8, 128);
        let share = self.zones.len().div_ceil(cells * ROWS_MAX).max(1);
        for row in self.zones.chunks(cells * share) {
            let Some(zone) = row.first() else { break };
            write!(f, "  {:>margin$}  ", zone.number)?;
            for cell in row.chunks(share) {
                let condition = shown(cell);
                let letter = letter(condition).to_string();
                f.write_str(&self.paint.condition(condition, &letter))?;
            }
            writeln!(f)?;
        }
        write!(f, "  {:margin$}  ", "")?;
        for (i, (condition, count)) in counts(self.zones).into_iter().enumerate() {
            let letter = letter(condition).to_string();
            let separator = if i == 0 { "" } else { "   " };
            let letter = self.paint.condition(condition, &letter);
            write!(f, "{separator}{letter} {} {count}", condition_name(condition))?;
        }
        if share > 1 {
            write!(f, "   (a letter stands for {share} zones)")?;
        }
        writeln!(f)
    }
}

/// What stands for a condition.
fn letter(condition: Condition) -> char {
    match condition {
        Condition::NotWp => '=',
        Condition::Empty => '.',
        Condition::ImplicitOpen => 'o',
        Condition::ExplicitOpen => 'O',
        Condition::Closed => 'c',
        Condition::ReadOnly => 'r',
        Condition::Full => '#',
        Condition::Offline => 'x',
    }
}

/// What a cell of several zones shows: what a reader would least like to miss.
fn shown(cell: &[Zone]) -> Condition {
    const BY_INTEREST: [Condition; 8] = [
        Condition::Offline,
        Condition::ReadOnly,
        Condition::ExplicitOpen,
        Condition::ImplicitOpen,
        Condition::Closed,
        Condition::Full,
        Condition::Empty,
        Condition::NotWp,
    ];
    BY_INTEREST
        .into_iter()
        .find(|condition| cell.iter().any(|zone| zone.condition == *condition))
        .unwrap_or(Condition::Empty)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples;

    #[test]
    fn every_zone_has_a_letter() {
        let zones = samples::all();
        let map = Map { zones: &zones, width: 80, paint: Paint::Plain }.to_string();
        assert_eq!(
            map,
            "  0  =.oOcr#x\n     = not-wp 1   . empty 1   o implicit-open 1   O explicit-open 1   c closed 1   r read-only 1   # full 1   x offline 1\n"
        );
    }

    #[test]
    fn many_zones_share_letters_and_the_odd_one_is_seen() {
        let empty = samples::all()[1];
        let mut zones: Vec<_> = (0..5000).map(|number| Zone { number, ..empty }).collect();
        zones[4999].condition = Condition::Offline;
        zones[0].condition = Condition::Full;
        let map = Map { zones: &zones, width: 80, paint: Paint::Plain }.to_string();
        let lines: Vec<_> = map.lines().collect();
        assert_eq!(lines.len(), 14 + 1, "{map}");
        assert!(lines[0].starts_with("     0  #...."), "{map}");
        assert!(lines[13].ends_with('x'), "{map}");
        assert!(lines[14].contains("(a letter stands for 5 zones)"), "{map}");
    }

    #[test]
    fn no_zones_no_map() {
        assert_eq!(Map { zones: &[], width: 80, paint: Paint::Colour }.to_string(), "");
    }
}
