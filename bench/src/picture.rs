//! The same as bars: SVG, readable on light and dark.

use std::fmt::Write;

use crate::table::{groups, middle};
use crate::{Cell, FILE_PEER, OURS};

const WIDTH: u32 = 860;
const LABEL: u32 = 190;
const BAR: u32 = 14;
const GAP: u32 = 4;
/// Room for the number behind the longest bar.
const NUMBER: u32 = 60;

/// Bars of the median IOPS of every cell, to one scale within a workload and depth.
pub(crate) fn render(cells: &[Cell], machine: &str) -> String {
    let (mut body, mut y) = (String::new(), 40);
    for group in groups(cells) {
        let Some(first) = group.first() else { continue };
        let _ = writeln!(
            body,
            r#"<text x="0" y="{y}" class="title">{}, depth {}</text>"#,
            escape(first.workload.name),
            first.depth
        );
        y += 10;
        let most = group.iter().map(|c| middle(&c.iops).0).fold(1.0, f64::max);
        for cell in group {
            let iops = middle(&cell.iops).0;
            let bar = f64::from(WIDTH - LABEL - NUMBER) * iops / most;
            let class = match cell.server_kind {
                OURS => "ours",
                FILE_PEER => "peer",
                _ => "bound",
            };
            let _ = writeln!(
                body,
                r#"<text x="{}" y="{}" class="name">{}</text><rect x="{LABEL}" y="{y}" width="{bar:.1}" height="{BAR}" class="{class}"/><text x="{:.1}" y="{}">{:.0} k</text>"#,
                LABEL - 6,
                y + 11,
                escape(&cell.server),
                f64::from(LABEL) + bar + 4.0,
                y + 11,
                iops / 1e3
            );
            y += BAR + GAP;
        }
        y += 24;
    }
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" font-family="sans-serif" font-size="11">
<style>text{{fill:#777}}.title{{font-size:13px;font-weight:bold}}.name{{text-anchor:end}}.ours{{fill:#2a7de1}}.peer{{fill:#d9822b}}.bound{{fill:#999}}</style>
<text x="0" y="14">Thousands of requests a second, medians. Blue: zvb; orange: peers that serve a file; grey: bounds. {}</text>
{body}</svg>
"#,
        escape(machine)
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
