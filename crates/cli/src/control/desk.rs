//! The server's side of the control protocol.

use std::io::{self, Write};
use std::num::NonZeroU32;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;
use serde_json::{Map, Value, json};
use zvb_device::{
    Device, Fault, FaultSpec, ForceError, Forced, Harm, Kind, KindStats, Kinds, Stats,
};
use zvb_host::control::{self, Commands, Control, Controlled, Next};
use zvb_host::server::{Level, Log, Shutdown};
use zvb_storage::{GrowError, Volume};
use zvb_wire::{Condition, Sector};
use zvb_zones::Refusal;

use super::{Effect, FaultRequest, Request, STATUSES, ZoneTo, status_name};
use crate::output;
use crate::report::condition_name;
use crate::report::dump::Dump;

/// Listens at `path`.
pub(crate) fn bind(path: &Path) -> Result<Control> {
    Control::bind(path).map_err(|error| {
        let text = format!("{error}; use another --control");
        anyhow::Error::new(error).context(text)
    })
}

/// Serves `control` for `device`.
pub(crate) fn start(
    control: Control,
    device: &Arc<Device>,
    shutdown: &Shutdown,
    log: &Arc<dyn Log>,
) -> Result<Controlled> {
    let (device, log) = (Arc::clone(device), Arc::clone(log));
    let desk = Desk { device, shutdown: shutdown.clone(), log: Arc::clone(&log) };
    control.start(Arc::new(desk), log).context("cannot serve the control socket")
}

/// Carries out what a client of the control socket asks for.
struct Desk {
    device: Arc<Device>,
    shutdown: Shutdown,
    log: Arc<dyn Log>,
}

/// An answer.
enum Answer {
    Said(Value),
    Table,
    End,
}

/// An answer that went well.
#[derive(Serialize)]
struct Good<T> {
    ok: bool,
    #[serde(flatten)]
    said: T,
}

impl Commands for Desk {
    fn run(&self, line: &[u8], answer: &mut dyn Write) -> io::Result<Next> {
        let answered = serde_json::from_slice(line)
            .context("no command of the control protocol, see docs/control.md")
            .and_then(|request| self.answer(request));
        match answered {
            Ok(Answer::Said(said)) => write(answer, said)?,
            Ok(Answer::Table) => self.write_table(answer)?,
            Ok(Answer::End) => {
                self.log.log(Level::Info, format_args!("control: told to end"));
                write(answer, json!({}))?;
                return Ok(Next::End);
            }
            Err(error) => refuse(answer, &error)?,
        }
        Ok(Next::Line)
    }

    fn refuse(&self, answer: &mut dyn Write) -> io::Result<()> {
        let most = control::LINE_MAX;
        refuse(answer, &anyhow!("the line is longer than {most} bytes: send one object on a line"))
    }

    fn end(&self) {
        self.shutdown.trigger();
    }
}

fn write(answer: &mut dyn Write, said: impl Serialize) -> io::Result<()> {
    Ok(serde_json::to_writer(answer, &Good { ok: true, said })?)
}

fn refuse(answer: &mut dyn Write, error: &anyhow::Error) -> io::Result<()> {
    let error = format!("{error:#}");
    Ok(serde_json::to_writer(answer, &json!({ "ok": false, "error": error }))?)
}

impl Desk {
    fn volume(&self) -> &Arc<dyn Volume> {
        self.device.volume()
    }

    fn answer(&self, request: Request) -> Result<Answer> {
        Ok(Answer::Said(match request {
            Request::SetZones { zone, count, to } => self.set_zones(zone, count, to)?,
            Request::SetFault(fault) => {
                let id = self.device.set_fault(self.spec(&fault)?)?;
                self.log.log(Level::Info, format_args!("control: fault {id} is set"));
                json!({ "id": id })
            }
            Request::Faults {} => {
                json!({ "faults": self.device.faults().list().iter().map(listed).collect::<Vec<_>>() })
            }
            Request::ClearFaults { id } => {
                let cleared = self.device.faults().clear(id);
                if let (Some(id), 0) = (id, cleared) {
                    bail!("there is no fault {id}; \"faults\" lists those that are set");
                }
                json!({ "cleared": cleared })
            }
            Request::Stats {} => {
                stats(&self.device.stats(), self.volume().shape().geometry.is_some())
            }
            Request::Resize { capacity } => self.resize(Sector(capacity))?,
            Request::Dump {} => return Ok(Answer::Table),
            Request::Quit {} => return Ok(Answer::End),
        }))
    }

    fn set_zones(&self, zone: u32, count: u32, to: ZoneTo) -> Result<Value> {
        if count == 0 {
            bail!("0 zones are none");
        }
        let end = zone.checked_add(count).context("there are no such zones")?;
        let (forced, name) = match to {
            ZoneTo::ReadOnly => (Forced::ReadOnly, "read-only"),
            ZoneTo::Offline => (Forced::Offline, "offline"),
            ZoneTo::Restored => (Forced::Restored, "restored"),
        };
        self.device.force_zones(zone..end, forced).map_err(|error| match error {
            ForceError::Busy { .. } => anyhow!("{error}: try again when they are over"),
            ForceError::Refused { refusal: Refusal::ActiveLimit, .. } => {
                anyhow!("{error}: finish or reset another zone first")
            }
            other => other.into(),
        })?;
        match count {
            1 => self.log.log(Level::Info, format_args!("control: zone {zone} is {name} now")),
            _ => self.log.log(
                Level::Info,
                format_args!("control: {count} zones from {zone} on are {name} now"),
            ),
        }
        // The image remembers already, whatever happens to this process; now for that of the host, too.
        let durable = self.volume().make_durable();
        durable.context("it is done, but would not survive the death of the host")?;
        Ok(json!({ "zone": zone, "count": count, "to": to }))
    }

    fn resize(&self, capacity: Sector) -> Result<Value> {
        let zones = || self.volume().shape().geometry.map(|geometry| geometry.zone_count());
        let (from, zones_before) = (self.device.capacity(), zones());
        self.device.resize(capacity).map_err(|error| match error {
            GrowError::Shrinks { from, to } => anyhow!(output::shrinks(from, to)),
            other => other.into(),
        })?;
        self.log.log(
            Level::Info,
            format_args!("control: the disk has {capacity} sectors now, from {from}"),
        );
        Ok(json!({
            "capacity": capacity.0,
            "capacity_before": from.0,
            "zone_count": zones(),
            "zone_count_before": zones_before,
        }))
    }

    fn spec(&self, fault: &FaultRequest) -> Result<FaultSpec> {
        let harm = match fault.effect {
            Effect::Fail => {
                let name = fault.status.as_deref().unwrap_or("ioerr");
                let status = STATUSES.iter().find(|(known, _)| *known == name);
                let known = STATUSES.map(|(known, _)| known).join(", ");
                let (_, status) =
                    status.with_context(|| format!("\"{name}\" is no status: {known} are"))?;
                Some(Harm::Fail(*status))
            }
            Effect::Tear => Some(Harm::Tear(fault.keep.map(Sector))),
            Effect::Delay => None,
        };
        if fault.status.is_some() && fault.effect != Effect::Fail {
            bail!("a status is for requests that fail: use the effect \"fail\"");
        }
        if fault.keep.is_some() && fault.effect != Effect::Tear {
            bail!("what is kept is for writes that are torn: use the effect \"tear\"");
        }
        let count = match fault.next.map(NonZeroU32::new) {
            Some(None) => bail!("the next 0 requests are none"),
            Some(count) => count,
            None => None,
        };
        let delay = Duration::from_millis(fault.delay_ms.into());
        let range = self.range(fault)?;
        Ok(FaultSpec { kinds: kinds(&fault.kinds, range.is_some())?, range, count, delay, harm })
    }

    fn range(&self, fault: &FaultRequest) -> Result<Option<Range<Sector>>> {
        match (fault.zone, fault.sector, fault.length) {
            (None, None, None) if fault.count.is_none() => Ok(None),
            (None, Some(sector), Some(length)) if fault.count.is_none() => {
                let end = sector.checked_add(length).context("the range has no end")?;
                Ok(Some(Sector(sector)..Sector(end)))
            }
            (Some(zone), None, None) => {
                let geometry =
                    self.volume().shape().geometry.context("the disk has no zones: use sectors")?;
                let zones = geometry.zone_count();
                let count = fault.count.unwrap_or(1);
                let end = zone.checked_add(count).filter(|end| count > 0 && *end <= zones);
                let end =
                    end.with_context(|| format!("the disk has only zones 0 to {}", zones - 1))?;
                let start = geometry.start(zvb_zones::ZoneId(zone));
                let last = zvb_zones::ZoneId(end.saturating_sub(1));
                let end = geometry.start(last).0.saturating_add(geometry.len(last).0);
                Ok(Some(start..Sector(end)))
            }
            _ => bail!(
                "where is told by \"zone\" and \"count\", or by \"sector\" and \"length\", or by neither"
            ),
        }
    }

    fn write_table(&self, answer: &mut dyn Write) -> io::Result<()> {
        let shape = self.volume().shape();
        let states = self.device.zone_states();
        write(answer, Dump::of_volume(&shape, &states))
    }
}

fn kinds(names: &[String], ranged: bool) -> Result<Kinds> {
    let mut kinds = Vec::new();
    for name in names {
        if name == "any" {
            // With a range those that have one.
            kinds.extend(Kinds::all().iter().filter(|kind| !ranged || kind.has_place()));
            continue;
        }
        let kind = Kind::from_name(name).with_context(|| {
            let known: Vec<_> = Kinds::all().iter().map(Kind::name).collect();
            format!("\"{name}\" is no kind of request: {} and any are", known.join(", "))
        })?;
        kinds.push(kind);
    }
    Ok(kinds.into_iter().collect())
}

/// A fault as it is listed: as it was asked for, with where told in sectors.
fn listed(fault: &Fault) -> Value {
    let Fault { id, spec, hits, left } = fault;
    let (effect, status, keep) = match spec.harm {
        Some(Harm::Fail(status)) => (Effect::Fail, Some(status_name(status).to_owned()), None),
        Some(Harm::Tear(keep)) => (Effect::Tear, None, keep.map(|keep| keep.0)),
        None => (Effect::Delay, None, None),
    };
    let request = FaultRequest {
        kinds: spec.kinds.iter().map(|kind| kind.name().to_owned()).collect(),
        effect,
        status,
        keep,
        // At most a minute.
        delay_ms: spec.delay.as_millis() as u32,
        next: spec.count.map(NonZeroU32::get),
        zone: None,
        count: None,
        sector: spec.range.as_ref().map(|range| range.start.0),
        length: spec.range.as_ref().map(|range| range.end.0.saturating_sub(range.start.0)),
    };
    let mut value = serde_json::to_value(request).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        object.insert("id".into(), (*id).into());
        object.insert("hits".into(), (*hits).into());
        object.insert("left".into(), (*left).into());
    }
    value
}

fn stats(stats: &Stats, zoned: bool) -> Value {
    let mut total = [KindStats::default(); Kind::ALL.len()];
    for queue in &stats.queues {
        for (sum, kind) in total.iter_mut().zip(queue) {
            *sum = sum.plus(*kind);
        }
    }
    let queues: Vec<Value> = stats.queues.iter().map(by_kind).collect();
    let mut said = json!({ "queues": queues, "total": by_kind(&total) });
    if zoned {
        let zones: Map<String, Value> = Condition::ALL
            .into_iter()
            .zip(stats.conditions)
            .filter(|(_, count)| *count > 0)
            .map(|(condition, count)| (condition_name(condition).to_owned(), count.into()))
            .collect();
        if let Some(object) = said.as_object_mut() {
            object.insert("zones".into(), zones.into());
        }
    }
    said
}

/// The kinds of which there were requests.
fn by_kind(queue: &[KindStats; Kind::ALL.len()]) -> Value {
    let told = |(kind, stats): (Kind, &KindStats)| {
        let mean = stats.time.as_micros() as u64 / stats.requests.max(1);
        let value = json!({
            "requests": stats.requests,
            "errors": stats.errors,
            "bytes": stats.bytes,
            "in_flight": stats.in_flight,
            "mean_us": mean,
            "max_us": stats.longest.as_micros() as u64,
        });
        (kind.name().to_owned(), value)
    };
    let kinds = Kind::ALL.into_iter().zip(queue).filter(|(_, stats)| !stats.is_empty());
    Value::Object(kinds.map(told).collect())
}
