//! A few servers killed at any instant; `torture/run` kills them by the thousand.

use std::time::{Duration, Instant};

use zvb_torture::{Play, Stats, run};

/// How long to go on, when nothing is found.
const LONG_ENOUGH: Duration = Duration::from_secs(2);

#[test]
fn what_was_acknowledged_survives_the_death_of_the_server() {
    let program = env!("CARGO_BIN_EXE_zvb").into();
    let play = Play { program, rounds: 8, engine: None };
    // Other disks each time, so that all runs together see many.
    let now = std::time::UNIX_EPOCH.elapsed().unwrap();
    let (first, begun, mut total) = (now.as_secs(), Instant::now(), Stats::default());
    for seed in first..first + 100 {
        match run(seed, &play) {
            Ok(stats) => total += stats,
            Err(failure) => panic!("{failure}"),
        }
        if begun.elapsed() > LONG_ENOUGH && total.killed > 5 {
            break;
        }
    }
    println!("{total}");
    assert!(total.killed > 5 && total.counts.done > total.killed, "{total}");
}
