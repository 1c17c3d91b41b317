//! `zvb attach`.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use serde_json::json;
use zvb_device::{Device, DeviceOptions};
use zvb_host::control::Controlled;
use zvb_host::server::{Level, Log, LogObserver, Shutdown};
use zvb_host::vduse::{self, AttachOptions, Attachment, Outcome, Outside, TRANSPORT};
use zvb_storage::{AppendKind, Volume};

use super::serve::{Stderr, confine};
use crate::args::attach::AttachArgs;
use crate::attached::{Attached, FOLDER, Record};
use crate::control::desk;
use crate::lost::{Lost, WrittenShape};
use crate::output;
use crate::source::Source;

pub(super) fn run(args: &AttachArgs) -> anyhow::Result<()> {
    let log: Arc<dyn Log> =
        Arc::new(Stderr { least: Stderr::least(args.output.quiet, args.verbose) });
    let shutdown = Shutdown::on_signals().context("cannot take signals")?;
    let end = End { shutdown, force: false, lost: None };
    serve(args, end, &log, |attached, disk| announce(args, &attached.name, disk))
}

/// When a disk is taken back.
pub(super) struct End {
    pub(super) shutdown: Shutdown,
    /// Whoever uses it.
    pub(super) force: bool,
    /// The disk is gone, and this stands in for it.
    pub(super) lost: Option<Lost>,
}

/// Attaches a disk and serves it to its end.
pub(super) fn serve(
    args: &AttachArgs,
    end: End,
    log: &Arc<dyn Log>,
    ready: impl FnOnce(&Attached, &Path),
) -> anyhow::Result<()> {
    // Dropped last: who waits for the end sees it when nothing is left to be done.
    let _waiting;
    let source = Source::parse(&args.disk, &args.source)?;
    let name = args.name.clone().unwrap_or_else(|| default_name(&source));
    // Before anything is opened or written: whether it can be done at all.
    if end.lost.is_none() {
        source.find()?;
    }
    vduse::check(&name)?;
    // While this process has one thread, and nothing that another should not have.
    let outside = Outside::start(&name).context("cannot start another process")?;
    let Some(record) = Record::claim(&name)? else {
        bail!("{name} is attached already, by another process; use another --name");
    };
    let attached = Attached {
        name: name.clone(),
        pid: std::process::id().cast_signed(),
        source: absolute(&args.disk, &source),
        command: std::env::args().collect(),
        disk: None,
        shape: None,
    };
    let mut entry = Entry { record, attached };
    let control = args.control.as_deref().map(desk::bind).transpose()?;
    let volume: Arc<dyn Volume> = match end.lost {
        Some(lost) => Arc::new(lost),
        // What became of a native append, nobody can tell who goes on after a death of this process.
        None => source.open(&args.source, AppendKind::Ordered, log)?,
    };
    entry.attached.shape = Some(WrittenShape::of(&volume.shape()));
    let options = DeviceOptions {
        queues: args.queues.get(),
        secure_erase: args.secure_erase,
        timing: control.is_some(),
        transport: TRANSPORT,
        observer: Arc::new(LogObserver::new(Arc::clone(log))),
        ..DeviceOptions::default()
    };
    let device = Device::new(Arc::clone(&volume), options).context("cannot make a device of it")?;
    let options = AttachOptions {
        folder: FOLDER.into(),
        // A disk in memory was gone with the process that served it.
        take_over: end.force || !matches!(source, Source::Memory(_)),
        force: end.force,
        log: Arc::clone(log),
    };
    let requests = [source.requests(), vduse::REQUESTS].concat();
    let served = make(&mut entry, &device, outside, options).and_then(|attachment| {
        let confined = || {
            if !args.no_sandbox {
                let prepared = volume.prepare(device.queues(), device.max_queue_size().into());
                prepared.context("cannot serve with this --engine")?;
                confine(&[Some(entry.record.path()), args.control.as_deref()], requests, log)?;
            }
            // Its threads are confined, too.
            control.map(|control| desk::start(control, &device, &end.shutdown, log)).transpose()
        };
        let controlled = match confined() {
            Ok(controlled) => controlled,
            Err(error) => {
                attachment.give_up();
                return Err(error);
            }
        };
        let served = attachment.serve(&device, &end.shutdown, |disk| entry.ready(disk, log, ready));
        Ok((served, controlled))
    });
    let (served, controlled) = match served {
        Ok((served, controlled)) => (served.map_err(Into::into), controlled),
        Err(error) => (Err(error), None),
    };
    // Nobody changes the disk any more.
    _waiting = controlled.map(Controlled::stop);
    drop(device);
    // The image is left in order also when the kernel was not.
    let closed = volume.close().context("the disk could not be left in order");
    match served {
        Ok(Outcome::Left(disk)) => {
            let disk = disk.display();
            if matches!(source, Source::Memory(_)) {
                output::log(format_args!(
                    "{disk} is in use, and stays, but what was written to it was in memory, and is gone: `zvb detach \
                     {name}` takes it away once nobody uses it, and with --force at once"
                ));
            } else {
                output::log(format_args!(
                    "{disk} is in use, and stays: what it is asked for waits until the same command is given again"
                ));
            }
        }
        Ok(_) => {
            entry.record.remove();
            if closed.is_ok() {
                log.log(Level::Info, format_args!("{name} is detached, and left in order"));
            }
        }
        Err(error) => {
            // A disk that stays in the kernel is found by this.
            if !vduse::exists(&name) {
                entry.record.remove();
            }
            return Err(error);
        }
    }
    closed
}

/// What is written of the disk, and where.
struct Entry {
    record: Record,
    attached: Attached,
}

impl Entry {
    /// The disk is there. The server goes on when nobody listens.
    fn ready(&mut self, disk: &Path, log: &Arc<dyn Log>, ready: impl FnOnce(&Attached, &Path)) {
        self.attached.disk = Some(disk.to_owned());
        if let Err(error) = self.record.write(&self.attached) {
            log.log(Level::Warn, format_args!("{error:#}: `zvb detach` will not find the disk"));
        }
        ready(&self.attached, disk);
    }
}

/// Makes the kernel's device, or takes one over.
fn make(
    entry: &mut Entry,
    device: &Arc<Device>,
    outside: Outside,
    options: AttachOptions,
) -> anyhow::Result<Attachment> {
    let log = Arc::clone(&options.log);
    let name = &entry.attached.name;
    let attachment = Attachment::new(name, device, outside, options)?;
    if attachment.is_taken_over() {
        log.log(Level::Info, format_args!("{name} was left in the kernel, and is gone on with"));
    }
    if let Err(error) = entry.record.write(&entry.attached) {
        attachment.give_up();
        return Err(error);
    }
    Ok(attachment)
}

/// What a disk is called when nobody says.
fn default_name(source: &Source) -> String {
    let stem = match source {
        Source::Image(path) | Source::Host(path) => {
            path.file_stem().unwrap_or_default().to_string_lossy()
        }
        Source::Memory(_) => "mem".into(),
    };
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    stem.chars().take(64).map(plain).collect()
}

/// What the disk is made of, so that it can be found from another folder.
fn absolute(disk: &str, source: &Source) -> String {
    match source {
        Source::Image(path) | Source::Host(path) => std::path::absolute(path)
            .map_or_else(|_| disk.to_owned(), |path| path.to_string_lossy().into_owned()),
        Source::Memory(_) => disk.to_owned(),
    }
}

/// Says that the disk is there. The server goes on when nobody listens.
fn announce(args: &AttachArgs, name: &str, disk: &Path) {
    if args.output.quiet {
        return;
    }
    let said = if args.output.json {
        output::json(&json!({ "name": name, "disk": disk, "queues": args.queues }))
    } else {
        let text = format!("Attached as {}; `zvb detach {name}` takes it back", disk.display());
        output::say(text).map_err(Into::into)
    };
    if said.is_err() {
        output::log("nobody reads standard output; serving all the same");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_called_after_its_image() {
        let name = |path: &str| default_name(&Source::Image(path.into()));
        assert_eq!(name("/var/lib/images/zns 1.zvb"), "zns_1");
        assert_eq!(name("disk"), "disk");
        assert_eq!(default_name(&Source::Memory("1G".parse().unwrap())), "mem");
    }
}
