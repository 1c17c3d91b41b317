//! Two servers in turn, many times and shortly: what one has of the other, and how sure that is.

use std::fmt::Write;
use std::str::FromStr;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::Cell;
use crate::table::middle;

/// Times that the pairs are drawn anew.
const DRAWS: usize = 4000;
/// The medians of so many of the draws, in a thousand, lie below the range, and as many above.
const TAIL: usize = 25;

/// Two servers that are to be measured beside each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) one: String,
    pub(crate) other: String,
}

impl FromStr for Pair {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (one, other) = text.split_once('/').context("use ONE/OTHER, two names of servers")?;
        Ok(Self { one: one.trim().to_owned(), other: other.trim().to_owned() })
    }
}

impl Pair {
    pub(crate) fn has(&self, name: &str) -> bool {
        self.one == name || self.other == name
    }
}

/// Both in one cell: their figures with the same place were measured one right after the other.
#[derive(Debug, Serialize)]
pub(crate) struct Both {
    pub(crate) one: Cell,
    pub(crate) other: Cell,
}

impl Both {
    fn ratios(&self) -> Vec<f64> {
        let pairs = self.one.iops.iter().zip(&self.other.iops);
        pairs.filter(|(_, other)| **other > 0.0).map(|(one, other)| one / other).collect()
    }
}

/// For people.
pub(crate) fn render(all: &[Both], machine: &str) -> String {
    let mut out = format!(
        "{machine}\nmedians of pairs, in thousands a second, and of their ratios, with the range that holds 95 % of \
such medians\nwhen the pairs are drawn anew\n"
    );
    let mut workload = None;
    for both in all {
        if workload != Some(both.one.workload) {
            workload = Some(both.one.workload);
            let _ = writeln!(
                out,
                "\n{}\n  {:>5} {:>6}  {:<44} {:>8} {:>8} {:>7}",
                both.one.workload.name, "depth", "pairs", "servers", "one", "other", "ratio"
            );
        }
        let ratios = both.ratios();
        let (low, high) = range(&ratios);
        let _ = writeln!(
            out,
            "  {:>5} {:>6}  {:<44} {:>8.1} {:>8.1} {:>7.3} ({low:.3} to {high:.3})",
            both.one.depth,
            ratios.len(),
            format!("{} / {}", both.one.server, both.other.server),
            middle(&both.one.iops).0 / 1e3,
            middle(&both.other.iops).0 / 1e3,
            middle(&ratios).0,
        );
    }
    out
}

/// The range that holds 95 % of the medians of as many values, drawn from `values` with repetition. The
/// same for the same values.
fn range(values: &[f64]) -> (f64, f64) {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((u128::from(state) * below as u128) >> 64) as usize
    };
    let mut medians: Vec<f64> = (0..DRAWS)
        .map(|_| {
            let drawn: Vec<f64> =
                (0..values.len()).filter_map(|_| values.get(next(values.len())).copied()).collect();
            middle(&drawn).0
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    let at = |place: usize| medians.get(place).copied().unwrap_or(0.0);
    (at(DRAWS * TAIL / 1000), at(DRAWS - 1 - DRAWS * TAIL / 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_two_names() {
        let pair: Pair = "zvb image, no zones / zvb image".parse().unwrap();
        assert_eq!((pair.one.as_str(), pair.other.as_str()), ("zvb image, no zones", "zvb image"));
        assert!(pair.has("zvb image") && !pair.has("zvb"));
        assert!("one".parse::<Pair>().is_err());
    }

    #[test]
    fn the_range_holds_the_median_and_few_values_leave_it_wide() {
        let many: Vec<f64> = (0..101).map(|i| 1.0 + f64::from(i % 11) / 100.0).collect();
        let (low, high) = range(&many);
        assert!((1.02..=1.05).contains(&low) && (1.05..=1.08).contains(&high), "{low} {high}");
        assert_eq!(range(&[1.0, 2.0, 3.0]), (1.0, 3.0));
        assert_eq!(range(&[4.0]), (4.0, 4.0));
    }
}
