//! What is shown: medians, spreads and ratios.

use std::fmt::Write;

use crate::Cell;

/// Median, and (largest - smallest) / median.
fn middle(values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(median) = sorted.get(sorted.len() / 2).copied() else { return (0.0, 0.0) };
    let spread = match (sorted.first(), sorted.last()) {
        (Some(least), Some(most)) if median > 0.0 => (most - least) / median,
        _ => 0.0,
    };
    (median, spread)
}

/// A table for each workload: a row for each depth and server.
pub(crate) fn render(cells: &[Cell], machine: &str) -> String {
    let mut out =
        format!("{machine}\nmedians; spread is (max - min) / median; ratios within the cell\n");
    let mut workload = None;
    let mut depth = None;
    for cell in cells {
        if workload != Some(cell.workload) {
            workload = Some(cell.workload);
            let _ = writeln!(
                out,
                "\n{}\n  {:>5}  {:<14} {:>10} {:>7} {:>9} {:>9} {:>8}  {:>8} {:>8}",
                cell.workload.name,
                "depth",
                "server",
                "kIOPS",
                "spread",
                "p50 us",
                "p99 us",
                "cpu us",
                "/ raw",
                "/ null"
            );
        }
        if depth != Some(cell.depth) {
            depth = Some(cell.depth);
        }
        let beside = |name: &str| {
            let peer = cells.iter().find(|c| {
                c.server == name && c.workload == cell.workload && c.depth == cell.depth
            })?;
            let (theirs, _) = middle(&peer.iops);
            (theirs > 0.0).then(|| format!("{:.2}", middle(&cell.iops).0 / theirs))
        };
        let (iops, spread) = middle(&cell.iops);
        let _ = writeln!(
            out,
            "  {:>5}  {:<14} {:>10.1} {:>6.0}% {:>9.1} {:>9.1} {:>8.2}  {:>8} {:>8}",
            cell.depth,
            cell.server,
            iops / 1e3,
            spread * 100.0,
            middle(&cell.p50_us).0,
            middle(&cell.p99_us).0,
            middle(&cell.cpu_us).0,
            beside("qsd raw file").unwrap_or_default(),
            beside("qsd null-co").unwrap_or_default(),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::middle;

    #[test]
    fn the_median_and_the_spread() {
        assert_eq!(middle(&[3.0, 1.0, 2.0]), (2.0, 1.0));
        assert_eq!(middle(&[]), (0.0, 0.0));
        assert_eq!(middle(&[4.0]), (4.0, 0.0));
    }
}
