//! `zvb flush` and `zvb id`.

use anyhow::Context;
use serde_json::json;

use crate::args::PlainArgs;
use crate::device::{Connect, Device, explain};
use crate::output;

pub(super) fn flush(args: &PlainArgs) -> anyhow::Result<()> {
    let mut device = Device::connect(&args.device, &Connect::default())?;
    device.disk.flush().map_err(explain).context("cannot flush the disk")?;
    if args.output.json {
        return output::json(&json!({ "command": "flush" }));
    }
    if !args.output.quiet {
        output::say("flushed")?;
    }
    Ok(())
}

pub(super) fn id(args: &PlainArgs) -> anyhow::Result<()> {
    let mut device = Device::connect(&args.device, &Connect::default())?;
    let id = device.disk.id().map_err(explain).context("cannot get the disk's name")?;
    let name = crate::commands::info::id_text(&id);
    if args.output.json {
        return output::json(&json!({ "id": name }));
    }
    Ok(output::say(name)?)
}
