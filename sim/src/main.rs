//! Plays seeds, by the ten thousand: see `--help`.
#![deny(unsafe_code)]

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Instant;

use zvb_sim::{Mutation, Play, Stats, run};

const HELP: &str = "\
Plays seeds: a disk and a guest each, and all the ways in which they may end.

  --seeds N        how many (1000)
  --from SEED      the first of them (0)
  --errors         the medium fails now and then
  --losses N       ways to lose power that are tried at each moment (2)
  --sample N       moments that are looked at, in parts of a hundred (100)
  --generations N  how often all ends in a seed (3)
  --mutation NAME  what the medium does wrong: NoSync, NoDataSync, NoRecordSync, EarlyPunch, NoPunch,
                   NoForget, Unheard, NoCreateSync, NoSuperblockSync, NoOrderSync, NoGrowthSync, NoClearTorn

Ends with 1 at the first promise that is broken, and says how to see that again.";

/// What was asked for.
struct Arguments {
    seeds: u64,
    from: u64,
    play: Play,
}

fn main() -> ExitCode {
    let arguments = match arguments(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(what) => {
            eprintln!("sim: {what}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    play(&arguments)
}

fn play(arguments: &Arguments) -> ExitCode {
    let (begun, mut total) = (Instant::now(), Stats::default());
    let terminal = std::io::stderr().is_terminal();
    for i in 0..arguments.seeds {
        match run(arguments.from.wrapping_add(i), &arguments.play) {
            Ok(stats) => total += stats,
            Err(failure) => {
                eprintln!("\n{failure}");
                return ExitCode::FAILURE;
            }
        }
        let done = i + 1;
        if done == arguments.seeds || done % if terminal { 50 } else { 1000 } == 0 {
            let seconds = begun.elapsed().as_secs_f64();
            let line =
                format!("{done} of {} seeds, {seconds:.0} s: {}", arguments.seeds, told(&total));
            // Progress is not worth failing for.
            let mut out = std::io::stderr().lock();
            let _ = if terminal { write!(out, "\r{line}  ") } else { writeln!(out, "{line}") };
        }
    }
    if terminal {
        eprintln!();
    }
    ExitCode::SUCCESS
}

fn told(stats: &Stats) -> String {
    format!(
        "{} power losses, {} deaths, {} closes, {} checks, {} growths, {} syncs, {} requests done, {} not, {} errors, {} failed syncs",
        stats.power_losses,
        stats.deaths,
        stats.closes,
        stats.checks,
        stats.growths,
        stats.syncs,
        stats.done,
        stats.refused,
        stats.errors,
        stats.failed_syncs
    )
}

fn arguments(mut from: impl Iterator<Item = String>) -> Result<Option<Arguments>, String> {
    let mut arguments = Arguments { seeds: 1000, from: 0, play: Play::default() };
    while let Some(name) = from.next() {
        let mut value = || from.next().ok_or(format!("{name} wants a value"));
        match name.as_str() {
            "--help" | "-h" => return Ok(None),
            "--errors" => arguments.play.errors = true,
            "--seeds" => arguments.seeds = number(&value()?)?,
            "--from" => arguments.from = number(&value()?)?,
            "--losses" => arguments.play.losses = number(&value()?)?,
            "--sample" => arguments.play.sample = number(&value()?)?,
            "--generations" => arguments.play.generations = number(&value()?)?,
            "--mutation" => arguments.play.mutation = mutation(&value()?)?,
            _ => return Err(format!("\"{name}\" is unknown")),
        }
    }
    Ok(Some(arguments))
}

fn number<N: std::str::FromStr>(text: &str) -> Result<N, String> {
    text.parse().map_err(|_| format!("\"{text}\" is no number"))
}

fn mutation(name: &str) -> Result<Mutation, String> {
    let known = Mutation::ALL.into_iter().find(|mutation| format!("{mutation:?}") == name);
    known.ok_or_else(|| format!("there is no mutation \"{name}\""))
}
