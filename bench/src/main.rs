//! Measures vhost-user-blk servers through zvb's driver, in turn in one run.
//!
//! Machines are noisy: a figure means something only beside the figure of a peer from the same run. So
//! every cell (a workload at a depth) is measured on every server in turn, several times over, and what
//! is shown are medians, their spread, and ratios: to one thread that reads and writes the same kind of
//! file with nobody in between, and to the best peer that serves a file.

mod anew;
mod hold;
mod pairs;
mod peers;
mod picture;
mod quiet;
mod scale;
mod server;
mod spdk;
mod table;
mod thread;
mod workload;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde::Serialize;

use crate::pairs::{Both, Pair};
use crate::peers::{Named, Place};
use crate::scale::Scale;
use crate::server::{Memory, Server};
use crate::thread::{Load, Way};
use crate::workload::{WORKLOADS, Workload};

/// What stands beside ours.
const OURS: &str = "ours";
const FILE_PEER: &str = "peer";
const BOUND: &str = "bound";
/// The bounds that are no servers.
const THREAD: &str = "thread, calls";
const THREAD_MAPPING: &str = "thread, mapping";

/// When a server that was left alone is looked at, and for how long.
const IDLE_AFTER: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(2);

/// Bytes of a request of `zvb write`.
const FILL_BYTES: usize = 256 << 10;

/// Measure vhost-user-blk servers beside each other.
#[derive(Parser)]
struct Arguments {
    /// Times that each cell is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repetitions: u32,
    /// Seconds that each measurement lasts
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// MiB of each disk
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u64).range(256..=1 << 20))]
    size: u64,
    /// Only workloads of this name, or else whose name contains this; several of them, with commas
    #[arg(long, value_delimiter = ',')]
    workloads: Vec<String>,
    /// Only these depths, of those that a workload has
    #[arg(long, value_delimiter = ',')]
    depths: Vec<u32>,
    /// Only servers whose name contains this; several of them, with commas
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// A peer that is not installed: NAME=PATH of crosvm, vhost_user_block, SPDK's vhost or another zvb, or
    /// NAME="PATH ARGUMENTS"
    /// of any program, with {file} (a raw file) or {image}, {socket} and {queues} in the arguments
    #[arg(long, value_name = "NAME=PATH")]
    peer: Vec<Named>,
    /// Only these two servers, right after each other in each repetition, and what one has of the other: best with
    /// many short repetitions
    #[arg(long, value_name = "ONE/OTHER")]
    pair: Vec<Pair>,
    /// Wait for so long, before each measurement, for everything else to be quiet; 0: do not look
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    patience: u64,
    /// Leave out the image of many zones
    #[arg(long)]
    no_scale: bool,
    /// Where images and sockets go [default: a folder under the build folder]
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Write everything that was measured here, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Draw the medians here, as SVG
    #[arg(long)]
    svg: Option<PathBuf>,
}

/// All that was measured of one server in one cell; one figure for each repetition.
#[derive(Debug, Serialize)]
struct Cell {
    workload: Workload,
    depth: u32,
    server: String,
    server_kind: &'static str,
    /// Requests a second.
    iops: Vec<f64>,
    /// Latency at the median and two other percentiles, in microseconds.
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
    p99_9_us: Vec<f64>,
    /// Server CPU time for each request, in microseconds.
    cpu_us: Vec<f64>,
    /// Measurements before which the machine did not get quiet.
    disturbed: u32,
}

/// What a server keeps when nobody talks to it any more.
#[derive(Debug, Serialize)]
struct Rest {
    server: String,
    memory: Memory,
    /// Processor time that it uses in a second, in ms.
    idle_ms_per_s: f64,
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
    let data = folder.path().join("data");
    make_data(&data, arguments.size)?;

    let place = Place { zvb: &zvb, folder: folder.path(), data: &data, mib: arguments.size };
    let mut running = Vec::new();
    for spec in place.servers(&arguments.peer)? {
        if arguments.wants(&spec.name) {
            eprintln!("starting {}", spec.name);
            running.push(Server::start(spec).context("a server did not start")?);
        }
    }
    ensure!(!running.is_empty(), "no server has that in its name");
    for server in &mut running {
        fill(&zvb, server)?;
    }
    // Of the threads: held like the others.
    let _held = hold::Held::new(&data)?;
    let bench = Bench { place: &place, servers: &running, arguments: &arguments };
    if !arguments.pair.is_empty() {
        let all = measure_pairs(&bench)?;
        print!("{}", pairs::render(&all, &machine()));
        return arguments.write_json(&serde_json::json!({ "machine": machine(), "pairs": all }));
    }
    let cells = measure(&bench)?;
    let rest = rest(&running)?;
    drop(running);
    let scale = match arguments.no_scale {
        true => None,
        false => Some(scale::measure(&zvb, folder.path(), arguments.repetitions)?),
    };
    print!("{}", table::render(&cells, &machine()));
    print!("{}", table::render_rest(&rest));
    print!("{}", scale.as_ref().map(Scale::render).unwrap_or_default());
    let disturbed: u32 = cells.iter().map(|cell| cell.disturbed).sum();
    if disturbed > 0 {
        println!("\n{disturbed} measurements began while other programs ran");
    }
    arguments.write_json(&serde_json::json!({
        "machine": machine(), "cells": cells, "rest": rest, "scale": scale
    }))?;
    if let Some(path) = &arguments.svg {
        std::fs::write(path, picture::render(&cells, &machine()))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

impl Arguments {
    /// Whether the server of this name is measured.
    fn wants(&self, server: &str) -> bool {
        match self.pair.as_slice() {
            [] => wanted(&self.only, server),
            pairs => pairs.iter().any(|pair| pair.has(server)),
        }
    }

    /// What is measured: workloads and their depths.
    fn cells(&self) -> Vec<(Workload, u32)> {
        let is_name = |part: &String| WORKLOADS.iter().any(|workload| workload.name == part);
        let wants = |name: &str| {
            let matches =
                |part: &String| name == part || !is_name(part) && name.contains(part.as_str());
            self.workloads.is_empty() || self.workloads.iter().any(matches)
        };
        let depths = |depth: &u32| self.depths.is_empty() || self.depths.contains(depth);
        let workloads = WORKLOADS.into_iter().filter(|workload| wants(workload.name));
        workloads
            .flat_map(|w| w.depths.iter().copied().filter(depths).map(move |d| (w, d)))
            .collect()
    }

    fn write_json(&self, all: &serde_json::Value) -> Result<()> {
        let Some(path) = &self.json else { return Ok(()) };
        std::fs::write(path, serde_json::to_string_pretty(all)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

fn wanted(only: &[String], name: &str) -> bool {
    only.is_empty() || only.iter().any(|part| name.contains(part.as_str()))
}

/// By calls as large as the requests that fill the servers' disks: the page cache keeps files in pieces as
/// large as the calls that first wrote them.
fn make_data(path: &Path, mib: u64) -> Result<()> {
    use std::io::Write;
    let mut file = std::fs::File::create(path)?;
    for block in 0..mib {
        let fill: Vec<u8> = (0..1u32 << 20).map(|i| (i as u64 * 31 + block) as u8).collect();
        for call in fill.chunks(FILL_BYTES) {
            file.write_all(call)?;
        }
    }
    Ok(file.sync_data()?)
}

/// What the servers have in memory, and what they do while nobody asks for anything.
fn rest(servers: &[Server]) -> Result<Vec<Rest>> {
    // One that ended with its last client has nothing.
    let nanos = |server: &Server| server::cpu_nanos(server.id()).unwrap_or(0);
    std::thread::sleep(IDLE_AFTER);
    let before: Vec<u64> = servers.iter().map(nanos).collect();
    std::thread::sleep(IDLE);
    let mut all = Vec::new();
    for (server, before) in servers.iter().zip(before) {
        // What it does is known, and it is stopped now.
        if server.spec.polls {
            continue;
        }
        let spent = nanos(server).saturating_sub(before);
        if let Some(memory) = server::memory(server.id())? {
            let idle_ms_per_s = spent as f64 / 1e6 / IDLE.as_secs_f64();
            all.push(Rest { server: server.spec.name.clone(), memory, idle_ms_per_s });
        }
    }
    Ok(all)
}

/// Writes the whole disk once, so that what is read is data, and holds its file in memory.
fn fill(zvb: &Path, server: &mut Server) -> Result<()> {
    if !server.spec.moves_data {
        return server.turn(false);
    }
    eprintln!("filling {}", server.spec.name);
    let status = Command::new(zvb)
        .args(["write", "--quiet", "--sector", "0", "--socket-path"])
        .arg(&server.spec.socket)
        .arg(&server.spec.data)
        .status()?;
    ensure!(status.success(), "cannot fill {}", server.spec.name);
    server.turn(false)?;
    server.sync()?;
    server.hold()
}

/// All that a measurement needs.
struct Bench<'a> {
    place: &'a Place<'a>,
    servers: &'a [Server],
    arguments: &'a Arguments,
}

fn measure(bench: &Bench<'_>) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    for (workload, depth) in bench.arguments.cells() {
        cells.extend(row(bench, workload, depth));
    }
    ensure!(!cells.is_empty(), "no workload has that in its name");
    for repetition in 1..=bench.arguments.repetitions {
        eprintln!("repetition {repetition} of {}", bench.arguments.repetitions);
        let same = |a: &Cell, b: &Cell| a.workload == b.workload && a.depth == b.depth;
        for group in cells.chunk_by_mut(same) {
            // Another one is first each time.
            let first = repetition as usize % group.len().max(1);
            let (last, first) = group.split_at_mut(first);
            for cell in first.iter_mut().chain(last) {
                cell.take(bench)?;
            }
        }
    }
    Ok(cells)
}

/// Pairs in turn; each time the other one is first.
fn measure_pairs(bench: &Bench<'_>) -> Result<Vec<Both>> {
    let mut all = Vec::new();
    for (workload, depth) in bench.arguments.cells() {
        for pair in &bench.arguments.pair {
            let find =
                |name: &str| row(bench, workload, depth).into_iter().find(|c| c.server == name);
            if let (Some(one), Some(other)) = (find(&pair.one), find(&pair.other)) {
                all.push(Both { one, other });
            }
        }
    }
    ensure!(!all.is_empty(), "no workload has that in its name and both servers");
    for repetition in 0..bench.arguments.repetitions {
        for Both { one: first, other: second } in &mut all {
            let in_turn = if repetition % 2 == 0 { [first, second] } else { [second, first] };
            for cell in in_turn {
                cell.take(bench)?;
            }
        }
    }
    Ok(all)
}

impl Cell {
    /// One measurement more.
    fn take(&mut self, bench: &Bench<'_>) -> Result<()> {
        let patience = Duration::from_secs(bench.arguments.patience);
        if !patience.is_zero() && !quiet::wait(patience) {
            self.disturbed += 1;
        }
        let measured = match self.workload.first_written {
            Some(bytes) => anew::one(bench, self, bytes),
            None => one(bench, self),
        };
        measured.with_context(|| {
            format!("{}, {} at depth {}", self.server, self.workload.name, self.depth)
        })
    }
}

/// The cells of one workload at one depth: every server that can do it, and threads beside them.
fn row(bench: &Bench<'_>, workload: Workload, depth: u32) -> Vec<Cell> {
    let cell = |server: &str, server_kind| Cell {
        workload,
        depth,
        server: server.to_owned(),
        server_kind,
        iops: Vec::new(),
        p50_us: Vec::new(),
        p99_us: Vec::new(),
        p99_9_us: Vec::new(),
        cpu_us: Vec::new(),
        disturbed: 0,
    };
    let able = bench.servers.iter().filter(|s| {
        (s.spec.zoned || !workload.needs_zones)
            && (!s.spec.direct || workload.suits_direct())
            && (s.spec.file.is_some() || workload.first_written.is_none())
    });
    let mut cells: Vec<Cell> = able
        .map(|Server { spec, .. }| {
            let kind = match () {
                () if spec.name.starts_with("zvb ") => OURS,
                () if spec.moves_data && spec.file.is_some() => FILE_PEER,
                () => BOUND,
            };
            cell(&spec.name, kind)
        })
        .collect();
    if depth > 1 && workload.queues == 1 {
        cells.extend([cell(THREAD, BOUND), cell(THREAD_MAPPING, BOUND)]);
    }
    cells
}

fn one(bench: &Bench<'_>, cell: &mut Cell) -> Result<()> {
    match bench.servers.iter().find(|s| s.spec.name == cell.server) {
        Some(server) => {
            server.turn(true)?;
            let measured = one_server(bench, server, cell);
            server.turn(false)?;
            measured?;
            // What it leaves to be written to the disk is not to slow the next one down.
            if cell.workload.writes() { server.sync() } else { Ok(()) }
        }
        None => one_thread(bench, bench.place.data, cell),
    }
}

fn one_thread(bench: &Bench<'_>, file: &Path, cell: &mut Cell) -> Result<()> {
    let load = Load {
        writes: cell.workload.writes(),
        random: cell.workload.rw == "randread",
        bytes: cell.workload.bytes,
        depth: cell.depth,
        time: Duration::from_secs_f64(bench.arguments.seconds),
    };
    let way = if cell.server == THREAD { Way::Calls } else { Way::Mapping };
    let measured = thread::measure(file, way, load)?;
    if load.writes {
        std::fs::File::open(file)?.sync_data()?;
    }
    cell.iops.push(measured.iops);
    cell.cpu_us.push(measured.cpu_us);
    Ok(())
}

/// One measurement: the client on one processor, the server on the other; with two queues, both on both.
fn one_server(bench: &Bench<'_>, server: &Server, cell: &mut Cell) -> Result<()> {
    let workload = &cell.workload;
    let (ours, theirs) = if workload.queues == 1 { ("1", "0") } else { ("0,1", "0,1") };
    server.revive()?;
    server.pin(theirs)?;
    let before = server.cpu_seconds()?;
    let mut client = Command::new("taskset");
    client
        .args(["-c", ours])
        .arg(bench.place.zvb)
        .args(["bench", "--json", "--rw", workload.rw, "--bs", &workload.bytes.to_string()])
        .args(["--depth", &cell.depth.to_string()])
        .args(["--queues", &workload.queues.to_string()])
        .args(["--seconds", &bench.arguments.seconds.to_string()])
        .arg("--socket-path")
        .arg(&server.spec.socket);
    if workload.same_zones {
        client.arg("--same-zones");
    } else {
        client.args(["--zones-at-once", &workload.zones_at_once.to_string()]);
    }
    if !workload.sleeps {
        client.arg("--busy-poll");
    }
    if workload.writes() {
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
    cell.p99_9_us.push(number("/latency_us/p99_9")?);
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
