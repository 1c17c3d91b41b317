//! `zvb`: make a zoned disk, serve it, drive it.
#![forbid(unsafe_code)]

mod args;
mod attach;
mod histogram;
mod output;
mod report;
mod shape;
mod size;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    println!("{cli:?}");
    ExitCode::SUCCESS
}
