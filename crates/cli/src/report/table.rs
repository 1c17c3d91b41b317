//! Zones as a table.

use std::fmt;

use super::{Zone, condition_name, type_name};
use crate::terminal::Paint;

/// A table of zones; numbers in 512-byte sectors.
pub(crate) struct Table<'a> {
    pub(crate) zones: &'a [Zone],
    pub(crate) paint: Paint,
}

const HEADERS: [&str; 5] = ["ZONE", "START", "LEN", "CAP", "WPTR"];

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<[String; 5]> = self.zones.iter().map(numbers).collect();
        let mut widths = HEADERS.map(str::len);
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.len());
            }
        }
        let [a, b, c, d, e] = widths;
        let [zone, start, len, cap, wptr] = HEADERS;
        writeln!(
            f,
            "{zone:>a$}  {start:>b$}  {len:>c$}  {cap:>d$}  {wptr:>e$}  USED  {:<13}  TYPE",
            "COND"
        )?;
        for (zone, [number, start, len, cap, wptr]) in self.zones.iter().zip(&rows) {
            let condition = format!("{:<13}", condition_name(zone.condition));
            writeln!(
                f,
                "{number:>a$}  {start:>b$}  {len:>c$}  {cap:>d$}  {wptr:>e$}  {:>4}  {}  {}",
                used(zone),
                self.paint.condition(zone.condition, &condition),
                type_name(zone.zone_type),
            )?;
        }
        Ok(())
    }
}

fn numbers(zone: &Zone) -> [String; 5] {
    let pointer = zone.write_pointer.map_or_else(|| "-".to_owned(), |p| p.to_string());
    [
        zone.number.to_string(),
        zone.start.to_string(),
        zone.len.to_string(),
        zone.capacity.to_string(),
        pointer,
    ]
}

/// How much of the capacity lies below the write pointer.
fn used(zone: &Zone) -> String {
    if zone.write_pointer.is_none() {
        return "-".to_owned();
    }
    let percent = u128::from(zone.readable().0) * 100 / u128::from(zone.capacity.0.max(1));
    format!("{percent}%")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples;

    #[test]
    fn a_table_lines_up() {
        let zones = samples::all();
        let table = Table { zones: &zones, paint: Paint::Plain }.to_string();
        #[rustfmt::skip]
        assert_eq!(table, "\
ZONE   START    LEN    CAP    WPTR  USED  COND           TYPE
   0       0  32768  32768       -     -  not-wp         conventional
   1   32768  32768  24576   32768    0%  empty          seq-write-required
   2   65536  32768  24576   65544    0%  implicit-open  seq-write-required
   3   98304  32768  24576  110592   50%  explicit-open  seq-write-required
   4  131072  32768  24576  131088    0%  closed         seq-write-preferred
   5  163840  32768  24576       -     -  read-only      seq-write-required
   6  196608  32768  24576       -     -  full           seq-write-required
   7  229376  32768  24576       -     -  offline        seq-write-required
");
    }
}
