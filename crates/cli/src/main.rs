//! `zvb`: make a zoned disk, serve it, drive it.
#![forbid(unsafe_code)]

mod args;
mod attach;
mod attached;
mod bench;
mod child;
mod commands;
mod control;
mod conventions;
mod device;
mod histogram;
mod input;
mod output;
mod random;
mod report;
mod service;
mod shape;
mod size;
mod source;
mod target;
mod terminal;
mod transfer;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let line = std::env::args_os().collect();
    let cli = args::Cli::parse_from(conventions::command_line(line));
    match commands::run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output::fail(&error),
    }
}
