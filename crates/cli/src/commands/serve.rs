//! `zvb serve`.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use serde_json::json;
use zvb_device::{Device, DeviceOptions};
use zvb_host::control::Controlled;
use zvb_host::sandbox::{self, Needs};
use zvb_host::server::{BindError, Level, Log, LogObserver, Server, ServerOptions, Shutdown};
use zvb_storage::AppendKind;

use crate::args::ServeArgs;
use crate::attach::Attach;
use crate::control::desk;
use crate::output::{self, Usage};
use crate::service::{self, Manager};
use crate::source::Source;

pub(super) fn run(args: &ServeArgs) -> anyhow::Result<()> {
    if args.print_capabilities {
        let capabilities = json!({ "type": "block", "features": ["read-only", "blk-file"] });
        return output::json(&capabilities);
    }
    if let (Some(socket), Some(control)) = (&args.socket_path, &args.control)
        && std::path::absolute(socket).ok() == std::path::absolute(control).ok()
    {
        let path = control.display();
        let both = format!("{path} can not be both --socket-path and --control: use two names");
        return Err(Usage(both).into());
    }
    // Dropped last: who waits for the end of the server sees it when nothing of it is left.
    let _waiting;
    let source = source(args)?;
    if args.append == AppendKind::Native && !matches!(source, Source::Host(_)) {
        let text = "--append native is for an NVMe disk of this host that has zones";
        return Err(Usage(text.into()).into());
    }
    let handed_over = service::handed_over()?;
    let manager = Manager::from_environment().context("cannot reach who NOTIFY_SOCKET names")?;
    let log: Arc<dyn Log> =
        Arc::new(Stderr { least: Stderr::least(args.output.quiet, args.verbose) });
    let shutdown = Shutdown::on_signals().context("cannot take signals")?;
    // The socket comes first: when another server is there, the image is not touched.
    let options = ServerOptions { log: Arc::clone(&log) };
    let (server, socket) = bind(args, handed_over, options)?;
    let control = args.control.as_deref().map(desk::bind).transpose()?;
    let volume = source.open(&args.source, args.append, &log)?;
    let options = DeviceOptions {
        queues: args.queues.get(),
        secure_erase: args.secure_erase,
        timing: control.is_some(),
        poll: Duration::from_micros(args.poll.into()),
        observer: Arc::new(LogObserver::new(Arc::clone(&log))),
        ..DeviceOptions::default()
    };
    let device = Device::new(Arc::clone(&volume), options).context("cannot make a device of it")?;
    if !args.no_sandbox {
        let ready = volume.prepare(device.queues(), device.max_queue_size().into());
        ready.context("cannot serve with this --engine")?;
        let sockets = [socket.as_deref(), args.control.as_deref()];
        confine(&sockets, source.requests().to_vec(), &log)?;
    }
    // Its threads are confined, too.
    let controlled = control.map(|control| desk::start(control, &device, &shutdown, &log));
    let controlled = controlled.transpose()?;
    announce(args, &source, socket.as_deref())?;
    manager.ready();
    let served = server.serve(&device, &shutdown).context("cannot go on serving");
    manager.stopping();
    // The image is left in order also when the server was not. Nobody changes it any more.
    _waiting = controlled.map(Controlled::stop);
    drop(device);
    let closed = volume.close().context("the disk could not be left in order");
    if served.is_ok() && closed.is_ok() {
        log.log(Level::Info, format_args!("ended in order"));
    }
    served.and(closed)
}

/// Everything is open that will ever be: gives the rest of the host away, but for removing `files`, and making
/// `requests` to devices.
pub(super) fn confine(
    files: &[Option<&Path>],
    requests: Vec<u32>,
    log: &Arc<dyn Log>,
) -> anyhow::Result<()> {
    let files = files.iter().flatten().map(std::path::absolute);
    let folders = files.filter_map(|file| Some(file.ok()?.parent()?.to_owned()));
    let needs = Needs { folders: folders.collect(), requests };
    if let Some(threads @ 2..) = sandbox::threads() {
        let line =
            format_args!("{threads} threads run already: the file system is not taken from all");
        log.log(Level::Warn, line);
    }
    let walls = sandbox::confine(&needs)
        .context("cannot confine the server; --no-sandbox serves without that protection")?;
    if !walls.file_system {
        log.log(
            Level::Debug,
            format_args!("this kernel has no Landlock: only system calls are filtered"),
        );
    }
    Ok(())
}

fn source(args: &ServeArgs) -> Result<Source, Usage> {
    match &args.blk_file {
        Some(file) => Source::path(file.clone(), &args.source),
        None => Source::parse(args.disk.as_deref().unwrap_or_default(), &args.source),
    }
}

fn bind(
    args: &ServeArgs,
    handed_over: Option<i32>,
    options: ServerOptions,
) -> anyhow::Result<(Server, Option<PathBuf>)> {
    let handed_over = handed_over.filter(|_| args.socket_path.is_none());
    if let Some(fd) = args.fd.or(handed_over) {
        let fd = inherited(fd).with_context(|| format!("cannot use file descriptor {fd}"))?;
        return Ok((Server::from_fd(fd, options).context("cannot serve on it")?, None));
    }
    let Some(path) = &args.socket_path else {
        return Err(Usage("use --socket-path PATH or --fd N".into()).into());
    };
    let server = Server::bind(path, options).map_err(|error| match error {
        BindError::InUse { .. } | BindError::NotASocket { .. } => {
            let text = format!("{error}; use another --socket-path");
            anyhow::Error::new(error).context(text)
        }
        other => other.into(),
    })?;
    let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
    Ok((server, Some(path)))
}

/// A descriptor of this process by its number. (Asking the kernel for it is the way to one that needs no
/// promise of ours about who owns it.)
fn inherited(fd: i32) -> rustix::io::Result<OwnedFd> {
    let myself = pidfd_open(getpid(), PidfdFlags::empty())?;
    pidfd_getfd(myself, fd, PidfdGetfdFlags::empty())
}

/// Says that the device is there, and how to get at it. The server goes on when nobody listens.
fn announce(args: &ServeArgs, source: &Source, socket: Option<&Path>) -> anyhow::Result<()> {
    if args.output.quiet {
        return Ok(());
    }
    let said = match socket {
        Some(socket) => {
            let mut attach = Attach::new(socket, args.queues.get());
            attach.append = matches!(source, Source::Host(_)).then(|| args.append.name());
            if args.output.json { output::json(&attach) } else { Ok(output::print(attach)?) }
        }
        None if args.output.json => output::json(&json!({ "fd": args.fd })),
        None => Ok(output::say("Serving on the descriptor that was handed over")?),
    };
    if said.is_err() {
        output::log("nobody reads standard output; serving all the same");
    }
    Ok(())
}

/// Lines on standard error.
pub(super) struct Stderr {
    pub(super) least: Level,
}

impl Stderr {
    /// What is said with --quiet, or --verbose.
    pub(super) fn least(quiet: bool, verbose: bool) -> Level {
        match (quiet, verbose) {
            (_, true) => Level::Debug,
            (true, false) => Level::Warn,
            (false, false) => Level::Info,
        }
    }
}

impl Log for Stderr {
    fn log(&self, level: Level, line: fmt::Arguments<'_>) {
        if level < self.least {
            return;
        }
        match level {
            Level::Warn => output::log(format_args!("warning: {line}")),
            Level::Error => output::log(format_args!("error: {line}")),
            _ => output::log(line),
        }
    }
}
