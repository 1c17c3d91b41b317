//! `zvb ctl`.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use zvb_wire::Sector;

use crate::args::ctl::{CtlArgs, CtlCommand, WhichArgs, ZonesArgs};
use crate::control::{Effect, FaultRequest, Request, ZoneTo};
use crate::output::{self, Usage};
use crate::report::dump::DumpedZone;
use crate::size::{Count, Size};

/// The most bytes of an answer: a table of 4 million zones.
const ANSWER_MAX: u64 = 2 << 30;

pub(super) fn run(args: &CtlArgs) -> Result<()> {
    let Some(path) = &args.control else {
        return Err(Usage("use --control PATH, the same as for `zvb serve`".into()).into());
    };
    let request = request(&args.command)?;
    let mut server = Server::connect(path, args.timeout)?;
    if request == (Request::Dump {}) {
        return print_dump(&server.ask(&request)?);
    }
    let answer = match server.ask(&request) {
        // Somebody else has told it so before, and it takes nothing more.
        Err(error) if request == (Request::Quit {}) && error.is::<Gone>() => GOOD.to_owned(),
        answer => answer?,
    };
    let answer: Map<String, Value> = serde_json::from_str(&answer).context(NO_ANSWER)?;
    if request == (Request::Quit {}) {
        server.wait_for_the_end()?;
    }
    if args.json {
        return output::json(&answer);
    }
    let text = match &request {
        Request::Faults {} => faults_text(&answer),
        Request::Stats {} => stats_text(&answer),
        _ if args.quiet => return Ok(()),
        request => done_text(request, &answer),
    };
    Ok(output::print(text)?)
}

const NO_ANSWER: &str =
    "the server's answer makes no sense: is that the socket of another program?";

/// An answer with nothing in it.
const GOOD: &str = r#"{"ok":true}"#;

/// The server ends, or has ended.
#[derive(Debug, thiserror::Error)]
#[error("the server ended the connection without an answer: it is ending, or has died")]
struct Gone;

/// The other end.
struct Server {
    stream: BufReader<UnixStream>,
    timeout: u32,
}

impl Server {
    fn connect(path: &Path, timeout: u32) -> Result<Self> {
        let name = path.display();
        let stream = UnixStream::connect(path).map_err(|error| {
            let hint = match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    format!("; no server has it open: start one with `zvb serve --control {name}`")
                }
                _ => String::new(),
            };
            anyhow::Error::new(error).context(format!("cannot connect to {name}{hint}"))
        })?;
        let patience = (timeout > 0).then(|| Duration::from_secs(timeout.into()));
        stream
            .set_read_timeout(patience)
            .and_then(|()| stream.set_write_timeout(patience))
            .context("cannot set up the connection")?;
        Ok(Self { stream: BufReader::new(stream), timeout })
    }

    /// Sends a command; its answer when it went well.
    fn ask(&mut self, request: &Request) -> Result<String> {
        let mut line =
            serde_json::to_string(request).context("cannot put the command into JSON")?;
        line.push('\n');
        match self.stream.get_mut().write_all(line.as_bytes()) {
            Err(error) if is_end(&error) => return Err(Gone.into()),
            sent => sent.context("cannot send the command")?,
        }
        let mut answer = Vec::new();
        let read = (&mut self.stream).take(ANSWER_MAX).read_until(b'\n', &mut answer);
        match read {
            Ok(0) => return Err(Gone.into()),
            Err(error) if is_end(&error) => return Err(Gone.into()),
            Err(error) if is_silence(&error) => {
                bail!("the server has not answered for {} s; --timeout waits longer", self.timeout)
            }
            other => other.context("cannot read the answer")?,
        };
        let answer = String::from_utf8(answer).ok().context(NO_ANSWER)?;
        let verdict: Verdict = serde_json::from_str(&answer).context(NO_ANSWER)?;
        match verdict {
            Verdict { ok: true, .. } => Ok(answer),
            Verdict { error: Some(error), .. } => Err(anyhow!(error)),
            Verdict { error: None, .. } => bail!(NO_ANSWER),
        }
    }

    /// Waits until the server is gone.
    fn wait_for_the_end(&mut self) -> Result<()> {
        match self.stream.fill_buf() {
            Err(error) if is_silence(&error) => {
                bail!("the server has not ended after {} s; --timeout waits longer", self.timeout)
            }
            _ => Ok(()),
        }
    }
}

fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// What every answer begins with.
#[derive(Deserialize)]
struct Verdict {
    ok: bool,
    error: Option<String>,
}

fn request(command: &CtlCommand) -> Result<Request> {
    let plain = |which, effect| fault(which, effect, 0);
    Ok(match command {
        CtlCommand::ReadOnly(zones) => set_zones(*zones, ZoneTo::ReadOnly)?,
        CtlCommand::Offline(zones) => set_zones(*zones, ZoneTo::Offline)?,
        CtlCommand::Restore(zones) => set_zones(*zones, ZoneTo::Restored)?,
        CtlCommand::Fail(fail) => Request::SetFault(FaultRequest {
            status: Some(fail.status.clone()),
            ..fault(&fail.which, Effect::Fail, fail.delay)?
        }),
        CtlCommand::Tear(tear) => Request::SetFault(FaultRequest {
            keep: tear.keep.map(|keep| keep.0),
            ..fault(&tear.which, Effect::Tear, tear.delay)?
        }),
        CtlCommand::Delay(delay) => Request::SetFault(FaultRequest {
            delay_ms: delay.ms,
            ..plain(&delay.which, Effect::Delay)?
        }),
        CtlCommand::Faults => Request::Faults {},
        CtlCommand::Clear(clear) => Request::ClearFaults { id: clear.id },
        CtlCommand::Stats => Request::Stats {},
        CtlCommand::Dump => Request::Dump {},
        CtlCommand::Resize(grow) => Request::Resize { capacity: sectors(grow.size)? },
        CtlCommand::Quit => Request::Quit {},
    })
}

fn set_zones(zones: ZonesArgs, to: ZoneTo) -> Result<Request, Usage> {
    Ok(Request::SetZones { zone: number(zones.zone)?, count: number(zones.count)?, to })
}

fn fault(which: &WhichArgs, effect: Effect, delay_ms: u32) -> Result<FaultRequest, Usage> {
    let zone = which.zone.map(number).transpose()?;
    Ok(FaultRequest {
        kinds: which.kinds.clone(),
        effect,
        status: None,
        keep: None,
        delay_ms,
        next: (!which.always).then(|| which.next.get()),
        zone,
        count: zone.map(|_| number(which.count)).transpose()?,
        sector: which.sector.map(|sector| sector.0),
        length: which.length.map(|length| length.0),
    })
}

fn sectors(size: Size) -> Result<u64, Usage> {
    let sectors = Sector::from_bytes(size.0).map(|sectors| sectors.0);
    sectors.ok_or_else(|| Usage(format!("--size {} is not a multiple of 512", size.0)))
}

/// A number of zones.
fn number(count: Count) -> Result<u32, Usage> {
    u32::try_from(count.0).map_err(|_| Usage(format!("there is no zone {}", count.0)))
}

/// A table of zones, without what belongs to the protocol.
#[derive(Serialize, Deserialize)]
struct Table<'a> {
    #[serde(flatten)]
    disk: Map<String, Value>,
    #[serde(borrow)]
    zones: Vec<DumpedZone<'a>>,
}

fn print_dump(answer: &str) -> Result<()> {
    let mut table: Table<'_> = serde_json::from_str(answer).context(NO_ANSWER)?;
    table.disk.remove("ok");
    output::json(&table)
}

fn done_text(request: &Request, answer: &Map<String, Value>) -> String {
    match request {
        Request::SetZones { zone, count, to } => {
            let (state, last) = (to_text(*to), zone.saturating_add(*count).saturating_sub(1));
            match count {
                1 => format!("zone {zone} is {state}\n"),
                _ => format!("zones {zone} to {last} are {state}\n"),
            }
        }
        Request::SetFault(_) => format!("fault {} is set\n", number_in(answer, "id")),
        Request::ClearFaults { .. } => format!("{} cleared\n", number_in(answer, "cleared")),
        Request::Quit {} => "the server has ended\n".to_owned(),
        Request::Resize { capacity } => {
            let zones = match answer.get("zone_count").and_then(Value::as_u64) {
                Some(zones) => format!(": {zones} zones"),
                None => String::new(),
            };
            format!("the disk is {} large now{zones}\n", Size::of(Sector(*capacity)))
        }
        _ => String::new(),
    }
}

fn to_text(to: ZoneTo) -> &'static str {
    match to {
        ZoneTo::ReadOnly => "read-only",
        ZoneTo::Offline => "offline",
        ZoneTo::Restored => "sound",
    }
}

fn number_in(object: &Map<String, Value>, name: &str) -> u64 {
    object.get(name).and_then(Value::as_u64).unwrap_or_default()
}

fn faults_text(answer: &Map<String, Value>) -> String {
    let faults = answer.get("faults").and_then(Value::as_array).map(Vec::as_slice);
    let rows: Vec<_> =
        faults.unwrap_or_default().iter().filter_map(Value::as_object).map(fault_row).collect();
    if rows.is_empty() {
        return "no fault is set\n".to_owned();
    }
    columns(["ID", "HITS", "LEFT", "WHAT", "WHERE", "KINDS"], &rows, 3)
}

fn fault_row(fault: &Map<String, Value>) -> [String; 6] {
    let text = |name: &str| fault.get(name).and_then(Value::as_str).unwrap_or_default();
    let some = |name: &str| fault.get(name).and_then(Value::as_u64);
    let kinds = fault.get("kinds").and_then(Value::as_array).map(Vec::as_slice);
    let kinds: Vec<_> = kinds.unwrap_or_default().iter().filter_map(Value::as_str).collect();
    let mut what = text("effect").to_owned();
    if what == "fail" {
        what = format!("fail {}", text("status"));
    }
    if let Some(keep) = some("keep") {
        what = format!("{what} after {keep} sectors");
    }
    match some("delay_ms") {
        Some(ms) if ms > 0 => what = format!("{what} {ms} ms"),
        _ => {}
    }
    let place = match some("sector").zip(some("length")) {
        Some((sector, length)) => format!("{length} sectors at {sector}"),
        None => "anywhere".to_owned(),
    };
    [
        number_in(fault, "id").to_string(),
        number_in(fault, "hits").to_string(),
        some("left").map_or_else(|| "all".to_owned(), |left| left.to_string()),
        what,
        place,
        kinds.join(","),
    ]
}

fn stats_text(answer: &Map<String, Value>) -> String {
    let queues = answer.get("queues").and_then(Value::as_array).map(Vec::as_slice);
    let queues = queues.unwrap_or_default();
    let mut rows = Vec::new();
    for (index, queue) in queues.iter().enumerate() {
        rows.extend(kind_rows(&index.to_string(), queue));
    }
    if let Some(total) = answer.get("total").filter(|_| queues.len() > 1) {
        rows.extend(kind_rows("all", total));
    }
    let headers = ["QUEUE", "KIND", "REQUESTS", "ERRORS", "DATA", "IN FLIGHT", "MEAN US", "MAX US"];
    let mut text = match rows.is_empty() {
        true => "nothing was asked of the disk yet\n".to_owned(),
        false => columns(headers, &rows, 8),
    };
    if let Some(zones) = answer.get("zones").and_then(Value::as_object) {
        let parts: Vec<_> = zones.iter().map(|(name, count)| format!("{count} {name}")).collect();
        text.push_str(&format!("zones: {}\n", parts.join(", ")));
    }
    text
}

fn kind_rows(queue: &str, kinds: &Value) -> Vec<[String; 8]> {
    let kinds = kinds.as_object().into_iter().flatten();
    let row = |(kind, stats): (&String, &Value)| {
        let stats = stats.as_object()?;
        let number = |name| number_in(stats, name).to_string();
        let data = number_in(stats, "bytes");
        let data = if data == 0 { "-".to_owned() } else { Size(data).to_string() };
        Some([
            queue.to_owned(),
            kind.clone(),
            number("requests"),
            number("errors"),
            data,
            number("in_flight"),
            number("mean_us"),
            number("max_us"),
        ])
    };
    kinds.filter_map(row).collect()
}

/// A table, its first `right` columns right-aligned (but for one of names, the second).
fn columns<const N: usize>(headers: [&str; N], rows: &[[String; N]], right: usize) -> String {
    let mut widths = headers.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.len());
        }
    }
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
            let names = headers.get(column) == Some(&"KIND");
            if column < right && !names {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    let mut text = line(headers.to_vec());
    for row in rows {
        text.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn statistics_are_a_table() {
        let text = stats_text(&object(
            r#"{"queues": [{"read": {"requests": 10, "errors": 1, "bytes": 4096, "in_flight": 2,
                "mean_us": 7, "max_us": 90}}], "total": {}, "zones": {"empty": 3, "full": 1}}"#,
        ));
        let expected = "\
QUEUE  KIND  REQUESTS  ERRORS   DATA  IN FLIGHT  MEAN US  MAX US
    0  read        10       1  4 KiB          2        7      90
zones: 3 empty, 1 full
";
        assert_eq!(text, expected);
        let nothing = stats_text(&object(r#"{"queues": [{}, {}], "total": {}}"#));
        assert_eq!(nothing, "nothing was asked of the disk yet\n");
    }

    #[test]
    fn faults_are_a_table() {
        let text = faults_text(&object(
            r#"{"faults": [{"id": 3, "hits": 0, "left": 2, "kinds": ["write", "append"],
                "effect": "tear", "keep": 8, "delay_ms": 0, "sector": 64, "length": 32},
                {"id": 12, "hits": 5, "left": null, "kinds": ["read"], "effect": "fail",
                "status": "ioerr", "delay_ms": 20}]}"#,
        ));
        let expected = "\
ID  HITS  LEFT  WHAT                  WHERE             KINDS
 3     0     2  tear after 8 sectors  32 sectors at 64  write,append
12     5   all  fail ioerr 20 ms      anywhere          read
";
        assert_eq!(text, expected);
        assert_eq!(faults_text(&object(r#"{"faults": []}"#)), "no fault is set\n");
    }
}
