//! What this program has to say: a JSON object a line, over the serial line.

use alloc::string::String;
use core::fmt::{self, Write};

use zvb_conform::{Outcome, Verdict};
use zvb_driver::{Info, ZoneType};

use crate::exercise::Part;
use crate::line;

/// Text as JSON has it, quotes and all.
pub(crate) struct Quoted<T>(pub(crate) T);

impl<T: fmt::Display> fmt::Display for Quoted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Escape<'a, 'b>(&'a mut fmt::Formatter<'b>);
        impl Write for Escape<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                text.chars().try_for_each(|c| match c {
                    '"' | '\\' => write!(self.0, "\\{c}"),
                    c if c < ' ' => write!(self.0, "\\u{:04x}", c as u32),
                    c => self.0.write_char(c),
                })
            }
        }
        f.write_char('"')?;
        write!(Escape(f), "{}", self.0)?;
        f.write_char('"')
    }
}

/// A statement, with the names that `zvb conform --json` has.
pub(crate) fn statement(outcome: &Outcome) {
    let Outcome { number, title, level, verdict } = outcome;
    let (title, level) = (Quoted(title), Quoted(level.name()));
    let start =
        format_args!(r#"{{"kind":"statement","number":{number},"title":{title},"level":{level}"#);
    match verdict {
        Verdict::Pass => line!(r#"{start},"result":"pass"}}"#),
        Verdict::Fail { expected, got } => {
            let (expected, got) = (Quoted(expected), Quoted(got));
            line!(r#"{start},"result":"fail","expected":{expected},"got":{got}}}"#);
        }
        Verdict::NotApplicable { why } => {
            line!(r#"{start},"result":"n/a","why":{}}}"#, Quoted(why));
        }
    }
}

/// What the driver knows of the device.
pub(crate) fn info(transport: &str, at: &dyn fmt::Display, info: &Info, id: &str) {
    let Info { capacity, block_size, queues, queue_size, max_transfer, read_only, .. } = info;
    let (transport, at, id) = (Quoted(transport), Quoted(at), Quoted(id));
    let features = info.features.bits();
    line!(
        r#"{{"kind":"device","transport":{transport},"at":{at},"id":{id},"features":"{features:#x}","capacity":{capacity},"block_size":{block_size},"read_only":{read_only},"queues":{queues},"queue_size":{queue_size},"max_transfer":{max_transfer}}}"#
    );
    if let Some(zoned) = &info.zoned {
        line!(
            r#"{{"kind":"zoned","model":"{:?}","zone_size":{},"zones":{},"max_open":{},"max_active":{},"max_append":{},"write_granularity":{}}}"#,
            zoned.model,
            zoned.zone_size,
            zoned.zone_count,
            zoned.max_open,
            zoned.max_active,
            zoned.max_append,
            zoned.write_granularity
        );
    }
}

/// The zones: how many of each type, and their capacities.
pub(crate) fn zones(zones: &[zvb_driver::Zone]) {
    let count = |t| zones.iter().filter(|zone| zone.zone_type == t).count();
    let capacities = zones.iter().map(|zone| zone.capacity.0);
    let (least, most) = (capacities.clone().min().unwrap_or(0), capacities.max().unwrap_or(0));
    line!(
        r#"{{"kind":"zones","conventional":{},"required":{},"preferred":{},"capacity_min":{least},"capacity_max":{most}}}"#,
        count(ZoneType::Conventional),
        count(ZoneType::SequentialRequired),
        count(ZoneType::SequentialPreferred)
    );
}

/// A part of the exercise.
pub(crate) fn exercise(name: &str, result: &Result<Part, String>) {
    let (word, detail) = match result {
        Ok(Part::Done(detail)) => ("pass", detail),
        Ok(Part::NotHere(why)) => ("n/a", why),
        Err(why) => ("fail", why),
    };
    line!(
        r#"{{"kind":"exercise","name":{},"result":"{word}","detail":{}}}"#,
        Quoted(name),
        Quoted(detail)
    );
}
