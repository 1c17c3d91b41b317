//! `zvb conform`.

use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;
use zvb_conform::{Aborted, Options, Outcome, Summary, Verdict};
use zvb_host::client::{self, SharedMemory, VhostUser};

use crate::args::ConformArgs;
use crate::device::MEMORY_BYTES;
use crate::output::{self, OutputGone, Usage};

#[derive(Serialize)]
struct Answer {
    results: Vec<Statement>,
    passed: u32,
    failed: u32,
    not_applicable: u32,
    /// Why the statements behind these were not tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    aborted: Option<String>,
}

#[derive(Serialize)]
struct Statement {
    number: u16,
    title: &'static str,
    level: &'static str,
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    got: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

pub(super) fn run(args: &ConformArgs) -> anyhow::Result<()> {
    if !args.destroy {
        let text = "this destroys what is on the disk; say --destroy if that is all right";
        return Err(Usage(text.into()).into());
    }
    if let Some(number) = args.only.iter().find(|n| !zvb_conform::numbers().any(|k| k == **n)) {
        let text = format!("--only {number}: no statement about a device has this number");
        return Err(Usage(text).into());
    }
    let memory = SharedMemory::new(MEMORY_BYTES).context("cannot make memory to share")?;
    let options = Options {
        timeout_ms: args.timeout.get().saturating_mul(1000),
        only: &args.only,
        ..Options::default()
    };
    let reply_timeout = Duration::from_secs(args.timeout.get().into());
    let client = client::Options { reply_timeout, ..client::Options::default() };
    let mut results = Vec::new();
    let mut summary = Summary::default();
    // Who stops reading stops nothing: the device is left in order.
    let mut gone: Option<OutputGone> = None;
    let ended = zvb_conform::run(
        &mut || VhostUser::connect(&args.socket_path, memory.clone(), client),
        &memory,
        &options,
        &mut |outcome| {
            count(&mut summary, &outcome.verdict);
            if args.json {
                results.push(Statement::of(outcome));
            } else if gone.is_none() {
                gone = output::say(line(outcome)).err();
            }
        },
    );
    if let Some(gone) = gone {
        return Err(gone.into());
    }
    let aborted = match &ended {
        // Nothing was tried, so there is nothing to tell.
        Err(Aborted::NoDevice(_)) => None,
        other => Some(other.as_ref().err().map(Aborted::to_string)),
    };
    if let Some(aborted) = aborted {
        tell(args, summary, results, aborted)?;
    }
    let place = args.socket_path.display();
    ended.with_context(|| format!("cannot go on with the device at {place}"))?;
    if summary.failed > 0 {
        bail!("{} statements do not hold", summary.failed);
    }
    Ok(())
}

fn count(summary: &mut Summary, verdict: &Verdict) {
    let counter = match verdict {
        Verdict::Pass => &mut summary.passed,
        Verdict::Fail { .. } => &mut summary.failed,
        Verdict::NotApplicable { .. } => &mut summary.not_applicable,
    };
    *counter += 1;
}

/// What is said behind the last statement, or in JSON of all of them.
fn tell(
    args: &ConformArgs,
    summary: Summary,
    results: Vec<Statement>,
    aborted: Option<String>,
) -> anyhow::Result<()> {
    let Summary { passed, failed, not_applicable } = summary;
    if args.json {
        return output::json(&Answer { results, passed, failed, not_applicable, aborted });
    }
    Ok(output::say(format_args!("{passed} passed, {failed} failed, {not_applicable} n/a"))?)
}

impl Statement {
    fn of(outcome: &Outcome) -> Self {
        let (result, expected, got, why) = match outcome.verdict.clone() {
            Verdict::Pass => ("pass", None, None, None),
            Verdict::Fail { expected, got } => ("fail", Some(expected), Some(got), None),
            Verdict::NotApplicable { why } => ("n/a", None, None, Some(why)),
        };
        let Outcome { number, title, level, .. } = *outcome;
        Self { number, title, level: level.name(), result, expected, got, why }
    }
}

fn line(outcome: &Outcome) -> String {
    let Outcome { number, title, level, verdict } = outcome;
    let (result, more) = match verdict {
        Verdict::Pass => ("pass", String::new()),
        Verdict::Fail { expected, got } => {
            ("FAIL", format!("\n{:17}expected {expected}\n{:17}got      {got}", "", ""))
        }
        Verdict::NotApplicable { why } => ("n/a", format!(": {why}")),
    };
    format!("{number:>4}  {result:<4}  {:<6} {title}{more}", level.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use zvb_conform::Level;

    #[test]
    fn a_failure_says_what_was_expected_and_what_came() {
        let outcome = Outcome {
            number: 59,
            title: "writes off the write pointer",
            level: Level::Must,
            verdict: Verdict::Fail { expected: "this".into(), got: "that".into() },
        };
        let lines = "  59  FAIL  must   writes off the write pointer\n                 expected this\n                 got      that";
        assert_eq!(line(&outcome), lines);
        let json = serde_json::to_value(Statement::of(&outcome)).unwrap();
        assert_eq!(json["result"], "fail");
        assert_eq!((&json["expected"], &json["got"]), (&"this".into(), &"that".into()));
        assert_eq!(json.get("why"), None);
        let verdict = Verdict::NotApplicable { why: "so".into() };
        let json = serde_json::to_value(Statement::of(&Outcome { verdict, ..outcome })).unwrap();
        assert_eq!((&json["result"], &json["why"]), (&"n/a".into(), &"so".into()));
    }
}
