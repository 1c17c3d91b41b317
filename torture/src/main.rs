//! Kills servers, by the thousand: see `--help`.
#![deny(unsafe_code)]

use std::process::ExitCode;
use std::time::Instant;

use zvb_torture::{Play, Stats, run};

const HELP: &str = "\
Serves disks, kills their servers at any instant, and looks for what they had acknowledged.

  --program PATH   the zvb to torture
  --rounds N       servers to start in all (500)
  --each N         servers to start on one disk (20)
  --seed S         the first disk; the next has S + 1 (0)
  --engine NAME    auto, sync or uring; else each of them in turn

Ends with 1 at the first promise that is broken, and says its seed.";

/// What was asked for.
struct Arguments {
    rounds: u64,
    seed: u64,
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
            eprintln!("torture: {what}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    let Arguments { rounds, seed, mut play } = arguments;
    let each = play.rounds;
    let (begun, mut total, mut told) = (Instant::now(), Stats::default(), 0);
    for seed in seed.. {
        play.rounds = each.min(rounds - total.rounds);
        match run(seed, &play) {
            Ok(stats) => total += stats,
            Err(failure) => {
                eprintln!("torture: {failure}");
                return ExitCode::FAILURE;
            }
        }
        let done = total.rounds >= rounds;
        if done || total.rounds >= told + 500 {
            told = total.rounds;
            eprintln!("{:.0} s: {total}", begun.elapsed().as_secs_f64());
        }
        if done {
            break;
        }
    }
    ExitCode::SUCCESS
}

fn arguments(mut from: impl Iterator<Item = String>) -> Result<Option<Arguments>, String> {
    let play = Play { program: "zvb".into(), rounds: 20, engine: None };
    let mut arguments = Arguments { rounds: 500, seed: 0, play };
    while let Some(name) = from.next() {
        let mut value = || from.next().ok_or(format!("{name} wants a value"));
        match name.as_str() {
            "--help" | "-h" => return Ok(None),
            "--program" => arguments.play.program = value()?.into(),
            "--rounds" => arguments.rounds = number(&value()?)?,
            "--each" => arguments.play.rounds = number(&value()?)?.max(1),
            "--seed" => arguments.seed = number(&value()?)?,
            "--engine" => {
                arguments.play.engine = Some(value()?.parse().map_err(|e| format!("{e}"))?);
            }
            _ => return Err(format!("\"{name}\" is unknown")),
        }
    }
    if arguments.rounds == 0 {
        return Err("no round is no torture".to_owned());
    }
    Ok(Some(arguments))
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("\"{text}\" is no number"))
}
