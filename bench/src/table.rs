//! What is shown: medians, spreads and ratios.

use std::fmt::Write;

use crate::{Cell, FILE_PEER, Rest, THREAD};

/// Median, and (largest - smallest) / median.
pub(crate) fn middle(values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(median) = sorted.get(sorted.len() / 2).copied() else { return (0.0, 0.0) };
    let spread = match (sorted.first(), sorted.last()) {
        (Some(least), Some(most)) if median > 0.0 => (most - least) / median,
        _ => 0.0,
    };
    (median, spread)
}

/// The cells of one workload at one depth, in order.
pub(crate) fn groups(cells: &[Cell]) -> impl Iterator<Item = &[Cell]> {
    cells.chunk_by(|a, b| a.workload == b.workload && a.depth == b.depth)
}

/// A table for each workload: a row for each depth and server.
pub(crate) fn render(cells: &[Cell], machine: &str) -> String {
    let mut out = format!(
        "{machine}\nmedians; spread is (max - min) / median; ratios within the cell: to one thread of pread or \
pwrite\non the same kind of file, and to the best peer that serves a file\n"
    );
    let mut workload = None;
    for group in groups(cells) {
        let Some(first) = group.first() else { continue };
        if workload != Some(first.workload) {
            workload = Some(first.workload);
            let _ = writeln!(
                out,
                "\n{}\n  {:>5}  {:<22} {:>9} {:>7} {:>9} {:>9} {:>9} {:>8}  {:>8} {:>8}",
                first.workload.name,
                "depth",
                "server",
                "kIOPS",
                "spread",
                "p50 us",
                "p99 us",
                "p99.9 us",
                "cpu us",
                "/ thread",
                "/ peer"
            );
        }
        let thread = group.iter().find(|c| c.server == THREAD).map(|c| middle(&c.iops).0);
        let peers = group.iter().filter(|c| c.server_kind == FILE_PEER);
        let peer = peers.map(|c| middle(&c.iops).0).max_by(f64::total_cmp);
        for cell in group {
            row(&mut out, cell, thread, peer);
        }
    }
    out
}

fn row(out: &mut String, cell: &Cell, thread: Option<f64>, peer: Option<f64>) {
    let (iops, spread) = middle(&cell.iops);
    let beside = |other: Option<f64>| {
        other
            .filter(|iops| *iops > 0.0)
            .map_or_else(String::new, |other| format!("{:.2}", iops / other))
    };
    let us = |values: &[f64]| match values {
        [] => String::new(),
        values => format!("{:.1}", middle(values).0),
    };
    let _ = writeln!(
        out,
        "  {:>5}  {:<22} {:>9.1} {:>6.0}% {:>9} {:>9} {:>9} {:>8.2}  {:>8} {:>8}",
        cell.depth,
        cell.server,
        iops / 1e3,
        spread * 100.0,
        us(&cell.p50_us),
        us(&cell.p99_us),
        us(&cell.p99_9_us),
        middle(&cell.cpu_us).0,
        beside(thread),
        beside(peer),
    );
}

/// What the servers keep when nobody talks to them.
pub(crate) fn render_rest(rest: &[Rest]) -> String {
    let mut out = "\nat the end, without a client: MiB of its own, and with what it has mapped of others; ms \
of processor time a second\n"
        .to_owned();
    for Rest { server, memory, idle_ms_per_s } in rest {
        let _ = writeln!(
            out,
            "  {server:<22} {:>8.1} {:>8.1} {idle_ms_per_s:>8.2}",
            memory.own_mib, memory.all_mib
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
