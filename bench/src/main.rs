//! Measures vhost-user-blk servers through zvb's driver, in turn in one run.
//!
//! Machines are noisy: a figure means something only beside the figure of a peer from the same run. So
//! every cell (a workload at a depth) is measured on every server in turn, several times over, and what
//! is shown are medians, their spread, and ratios to the first peer that moves data.

mod hold;
mod server;
mod table;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde::Serialize;

use crate::server::{Server, servers};

/// Measure vhost-user-blk servers beside each other.
#[derive(Parser)]
struct Arguments {
    /// Times that each cell is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    repetitions: u32,
    /// Seconds that each measurement lasts
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// MiB of each disk
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(64..=1 << 20))]
    size: u64,
    /// Depths to measure
    #[arg(long, value_delimiter = ',', default_value = "1,32,128")]
    depths: Vec<u32>,
    /// Only servers whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// The client sleeps until it is signalled, rather than polls
    #[arg(long)]
    sleep: bool,
    /// Where images and sockets go [default: a folder under the build folder]
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Write everything that was measured here, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// One workload.
#[derive(Clone, Copy, Debug, Serialize, PartialEq, Eq)]
struct Workload {
    name: &'static str,
    rw: &'static str,
    block: &'static str,
}

const WORKLOADS: [Workload; 4] = [
    Workload { name: "4 KiB random read", rw: "randread", block: "4K" },
    Workload { name: "4 KiB sequential write", rw: "write", block: "4K" },
    Workload { name: "128 KiB read", rw: "read", block: "128K" },
    Workload { name: "128 KiB write", rw: "write", block: "128K" },
];

/// All that was measured of one server in one cell.
#[derive(Debug, Serialize)]
struct Cell {
    workload: Workload,
    depth: u32,
    server: String,
    /// Requests a second, one figure for each repetition.
    iops: Vec<f64>,
    /// Latency at the median and the 99th percentile, in microseconds, likewise.
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
    /// Server CPU time for each request, in microseconds, likewise.
    cpu_us: Vec<f64>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(
        arguments.seconds > 0.0 && arguments.seconds <= 600.0,
        "--seconds must be above 0 and at most 600"
    );
    let zvb = std::env::current_exe()?.with_file_name("zvb");
    ensure!(
        zvb.exists(),
        "{} is not there: start this through bench/run, which builds it",
        zvb.display()
    );
    let default = zvb.with_file_name("bench");
    let parent = arguments.folder.as_deref().unwrap_or(&default);
    std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let folder = tempfile::Builder::new().prefix("run-").tempdir_in(parent)?;

    let mut running = Vec::new();
    for spec in servers(&zvb, folder.path(), arguments.size)? {
        if arguments.only.as_ref().is_none_or(|only| spec.name.contains(only.as_str())) {
            eprintln!("starting {}", spec.name);
            running.push(Server::start(spec).context("a server did not start")?);
        }
    }
    ensure!(!running.is_empty(), "no server has that in its name");
    for server in &mut running {
        fill(&zvb, server)?;
    }
    let cells = measure(&zvb, &running, &arguments)?;
    print!("{}", table::render(&cells, &machine()));
    if let Some(path) = &arguments.json {
        let all = serde_json::json!({ "machine": machine(), "cells": cells });
        std::fs::write(path, serde_json::to_string_pretty(&all)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Writes the whole disk once, so that what is read is data, and holds its file in memory.
fn fill(zvb: &Path, server: &mut Server) -> Result<()> {
    if !server.spec.moves_data {
        return Ok(());
    }
    eprintln!("filling {}", server.spec.name);
    let status = Command::new(zvb)
        .args(["write", "--quiet", "--sector", "0", "--socket-path"])
        .arg(&server.spec.socket)
        .arg(&server.spec.data)
        .status()?;
    ensure!(status.success(), "cannot fill {}", server.spec.name);
    server.hold()
}

fn measure(zvb: &Path, servers: &[Server], arguments: &Arguments) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    for workload in WORKLOADS {
        for depth in &arguments.depths {
            for server in servers {
                cells.push(Cell {
                    workload,
                    depth: *depth,
                    server: server.spec.name.clone(),
                    iops: Vec::new(),
                    p50_us: Vec::new(),
                    p99_us: Vec::new(),
                    cpu_us: Vec::new(),
                });
            }
        }
    }
    for repetition in 1..=arguments.repetitions {
        eprintln!("repetition {repetition} of {}", arguments.repetitions);
        // Reads first: the writes of a repetition reset zones, and leave every zone full again.
        for cell in &mut cells {
            let Some(server) = servers.iter().find(|s| s.spec.name == cell.server) else {
                continue;
            };
            one(zvb, server, arguments, cell).with_context(|| {
                format!("{}, {} at depth {}", cell.server, cell.workload.name, cell.depth)
            })?;
        }
    }
    Ok(cells)
}

/// One measurement: the client on one core, the server on the other.
fn one(zvb: &Path, server: &Server, arguments: &Arguments, cell: &mut Cell) -> Result<()> {
    let before = server.cpu_seconds()?;
    let mut client = Command::new("taskset");
    client
        .args(["-c", "1"])
        .arg(zvb)
        .args(["bench", "--json", "--rw", cell.workload.rw, "--bs", cell.workload.block])
        .args(["--depth", &cell.depth.to_string(), "--seconds", &arguments.seconds.to_string()])
        .arg("--socket-path")
        .arg(&server.spec.socket);
    if !arguments.sleep {
        client.arg("--busy-poll");
    }
    if cell.workload.rw == "write" {
        client.arg("--destroy");
    }
    let output = client.output().context("cannot start the client")?;
    ensure!(
        output.status.success(),
        "the client failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let answer: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("the client's answer")?;
    let number = |pointer: &str| {
        answer
            .pointer(pointer)
            .and_then(serde_json::Value::as_f64)
            .with_context(|| format!("no {pointer}"))
    };
    let (iops, requests) = (number("/iops")?, number("/requests")?);
    ensure!(number("/errors")? == 0.0, "requests failed");
    cell.iops.push(iops);
    cell.p50_us.push(number("/latency_us/p50")?);
    cell.p99_us.push(number("/latency_us/p99")?);
    cell.cpu_us.push((server.cpu_seconds()? - before) * 1e6 / requests.max(1.0));
    Ok(())
}

/// What the figures were measured on.
fn machine() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpuinfo.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or(": unknown processor");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = rustix::system::uname();
    format!(
        "{cores} x {}, Linux {}",
        model.trim_start_matches([' ', '\t', ':']),
        kernel.release().to_string_lossy()
    )
}
