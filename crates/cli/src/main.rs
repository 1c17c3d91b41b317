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
mod lost;
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

fn main() -> ExitCode {
    let line = std::env::args_os().collect();
    match commands::run(conventions::parse(line).command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output::fail(&error),
    }
}
