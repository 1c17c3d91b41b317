//! `zvb detach`.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Parser;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::json;
use zvb_host::server::{Log, Shutdown};
use zvb_host::vduse;

use super::attach::{self, End};
use super::serve::Stderr;
use crate::args::attach::{AttachArgs, DetachArgs};
use crate::args::{Cli, Command};
use crate::attached::{self, Attached, Record};
use crate::lost::{Lost, WrittenShape};
use crate::output;
use crate::source::Source;

/// How long the process that serves a disk may take to let go of it.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn run(args: &DetachArgs) -> anyhow::Result<()> {
    let name = &args.name;
    let Some(attached) = attached::find(name) else {
        bail!(not_ours(name, vduse::exists(name), &attached::names()));
    };
    if !args.force {
        refuse_in_use(&attached)?;
    }
    match Record::claim(name)? {
        None => ask_to_end(&attached, args.force)?,
        Some(record) => {
            drop(record);
            take_over(&attached, args.force)?;
        }
    }
    if args.output.json {
        output::json(&json!({ "name": name, "detached": true }))?;
    } else if !args.output.quiet {
        output::say(format_args!("{name} is detached"))?;
    }
    Ok(())
}

/// Why there is nothing to take back.
fn not_ours(name: &str, exists: bool, ours: &[String]) -> String {
    let ours = match ours {
        [] => "nothing is".to_owned(),
        ours => format!("there are: {}", ours.join(", ")),
    };
    if exists {
        return format!(
            "{name} is on the kernel's vdpa bus, but `zvb attach` did not put it there ({ours}); whoever did takes \
             it back (iproute2: vdpa dev del {name})"
        );
    }
    format!("no disk is attached as {name}; {ours}")
}

fn refuse_in_use(attached: &Attached) -> anyhow::Result<()> {
    let Some(disk) = attached.disk.as_deref().filter(|disk| disk.exists()) else { return Ok(()) };
    if vduse::is_in_use(disk).unwrap_or(false) {
        bail!(
            "{} is in use (mounted, or under another device); unmount it first, or use --force, which gives errors \
             to whoever uses it",
            disk.display()
        );
    }
    Ok(())
}

/// The process that serves the disk does it.
fn ask_to_end(attached: &Attached, force: bool) -> anyhow::Result<()> {
    let (name, pid) = (&attached.name, attached.pid);
    let context = || format!("cannot reach the process that serves {name} ({pid})");
    let process = Pid::from_raw(pid).with_context(context)?;
    let process = pidfd_open(process, PidfdFlags::empty()).with_context(context)?;
    if force {
        // From the kernel first, while somebody still answers for it.
        vduse::delete(name).with_context(|| format!("cannot take {name} from the kernel"))?;
    }
    pidfd_send_signal(&process, Signal::TERM).with_context(context)?;
    let mut fds = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
    let patience = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
    let ended = poll(&mut fds, Some(&patience)).with_context(context)?;
    if ended == 0 {
        bail!(
            "the process that serves {name} ({pid}) does not end; end it with kill -9 {pid}, and give this command \
             again"
        );
    }
    if vduse::exists(name) {
        bail!(
            "{name} came into use, and stays in the kernel; nobody serves it until it is attached again"
        );
    }
    Ok(())
}

/// Nobody serves the disk: this process does, so that what the kernel waits for is answered, and takes it back.
fn take_over(attached: &Attached, force: bool) -> anyhow::Result<()> {
    let (name, pid) = (&attached.name, attached.pid);
    let command = Cli::try_parse_from(&attached.command).ok().map(|cli| cli.command);
    let Some(Command::Attach(mut before)) = command else {
        bail!(
            "nobody serves {name} any more, and it is not known how it was attached; give the `zvb attach` command \
             again, with --name {name}, and then this one"
        );
    };
    // From whatever folder it was, and without its way to make it fail.
    before.disk = attached.source.clone();
    before.name = Some(name.clone());
    before.control = None;
    let lost = attached.shape.as_ref().and_then(WrittenShape::shape).map(Lost::new);
    let why = match Source::parse(&before.disk, &before.source)? {
        // An empty disk in its place would answer what waits as if nothing had been written.
        Source::Memory(_) => {
            anyhow!("the disk was in memory, and is gone with the process that served it")
        }
        _ => match go_on(&before, None) {
            Ok(()) => return Ok(()),
            Err(why) if force => why,
            Err(why) if lost.is_some() && vduse::exists(name) => {
                return Err(why.context(format!(
                    "cannot take {name} back, which {pid} left; --force takes it away without its disk, and what the \
                     kernel was not answered yet is lost"
                )));
            }
            Err(why) => {
                return Err(why.context(format!("cannot take {name} back, which {pid} left")));
            }
        },
    };
    if !vduse::exists(name) {
        return Err(why.context(format!("cannot take {name} back, which {pid} left")));
    }
    let Some(lost) = lost else { return Err(why.context(without_shape(attached))) };
    output::log(format_args!(
        "{why:#}; {name} is taken away without its disk: what the kernel was not answered yet fails, and is lost"
    ));
    go_on(&before, Some(lost)).with_context(|| format!("cannot take {name} away, which {pid} left"))
}

/// What is left to do about a disk of which an older zvb wrote down no shape, so that nothing can stand in for it.
fn without_shape(attached: &Attached) -> String {
    let Attached { name, source, .. } = attached;
    format!(
        "cannot take {name} away without its disk: an older zvb attached it, and wrote down nothing of what it looks \
         like. With {source}, or a copy of it, in its place again, this command takes it back; without, `vdpa dev del \
         {name}` (iproute2) takes it off the kernel's bus, unless a request waits for it: then the host must be started anew"
    )
}

/// Serves a disk that another process left, or what stands in for it, for as long as it takes to detach it.
fn go_on(before: &AttachArgs, lost: Option<Lost>) -> anyhow::Result<()> {
    let log: Arc<dyn Log> = Arc::new(Stderr { least: Stderr::least(true, false) });
    let shutdown = Shutdown::new().context("cannot go on with the disk")?;
    shutdown.trigger();
    attach::serve(before, End { shutdown, force: true, lost }, &log, |_, _| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ours_is_told_apart() {
        let one = ["disk".to_owned(), "other".to_owned()];
        assert_eq!(not_ours("d", false, &[]), "no disk is attached as d; nothing is");
        assert_eq!(not_ours("d", false, &one), "no disk is attached as d; there are: disk, other");
        let foreign = not_ours("d", true, &one);
        assert!(foreign.contains("did not put it there") && foreign.contains("vdpa dev del d"));
    }

    #[test]
    fn what_to_do_about_a_disk_of_an_older_zvb_is_said() {
        let written =
            r#"{"name": "d", "pid": 7, "source": "/images/d.zvb", "command": [], "disk": null}"#;
        let attached: Attached = serde_json::from_str(written).unwrap();
        assert_eq!(attached.shape, None);
        let said = without_shape(&attached);
        assert!(said.contains("With /images/d.zvb,") && said.contains("vdpa dev del d"), "{said}");
    }
}
