//! Measurements on a disk that is new each time, and was written once in a way of its own.

use std::fs::File;
use std::io::Write;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::peers::Place;
use crate::server::Server;
use crate::{Bench, Cell, one_server, one_thread, quiet};

/// One measurement of `cell`, on a disk that was written by requests (or calls) of `bytes` bytes.
pub(crate) fn one(bench: &Bench<'_>, cell: &mut Cell, bytes: usize) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("anew-").tempdir_in(bench.place.folder)?;
    let place = Place { folder: folder.path(), ..*bench.place };
    let specs = place.servers(&bench.arguments.peer)?;
    match specs.into_iter().find(|spec| spec.name == cell.server) {
        Some(spec) => {
            let server = Server::start(spec)?;
            write(&place, &server, bytes)?;
            server.sync()?;
            settle(bench);
            one_server(bench, &server, cell)?;
            server.sync()
        }
        None => {
            let path = folder.path().join("thread");
            let mut file = File::create(&path)?;
            let piece = vec![7; bytes];
            for _ in 0..place.pieces(bytes) {
                file.write_all(&piece)?;
            }
            file.sync_data()?;
            settle(bench);
            one_thread(bench, &path, cell)
        }
    }
}

fn settle(bench: &Bench<'_>) {
    // It was quiet before.
    let _ = quiet::wait(Duration::from_secs(bench.arguments.patience));
}

/// Writes the whole disk, one request of `bytes` bytes after the other.
fn write(place: &Place<'_>, server: &Server, bytes: usize) -> Result<()> {
    server.pin("0")?;
    let output = Command::new("taskset")
        .args(["-c", "1"])
        .arg(place.zvb)
        .args(["bench", "--rw", "write", "--destroy", "--busy-poll", "--depth", "1"])
        .args(["--bs", &bytes.to_string(), "--requests", &place.pieces(bytes).to_string()])
        .args(["--seconds", "600", "--socket-path"])
        .arg(&server.spec.socket)
        .output()
        .context("cannot start the client")?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cannot write the disk: {}", text.trim());
    Ok(())
}
