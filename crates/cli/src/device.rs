//! A device at the other end of a socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use zvb_driver::{
    Checks, Disk, Error, Info, Invalid, Options, RequestError, SubmitError, ZonedInfo,
};
use zvb_host::client::{self, ClientError, SharedMemory, VhostUser};
use zvb_wire::Sector;

use crate::args::DeviceArgs;
use crate::report::json::{DiskJson, ZonedJson};
use crate::report::{Zone, model_name};

/// Room for requests and their data, unless a command says that it needs more. It takes memory only as it
/// is used.
pub(crate) const MEMORY_BYTES: usize = 64 << 20;

/// A disk, driven over vhost-user.
pub(crate) struct Device {
    /// The driver.
    pub(crate) disk: Disk<VhostUser, SharedMemory>,
    path: PathBuf,
    timeout_ms: Option<u32>,
}

/// How to connect.
pub(crate) struct Connect {
    /// Queues to set up, if the device has as many.
    pub(crate) queues: u16,
    /// Descriptors of a queue, if the device takes as many.
    pub(crate) queue_size: u16,
    /// Bytes to share with the device.
    pub(crate) memory: usize,
    /// What is refused here, and what is left to the device to refuse.
    pub(crate) checks: Checks,
}

impl Default for Connect {
    fn default() -> Self {
        Self { queues: 1, queue_size: 256, memory: MEMORY_BYTES, checks: Checks::Full }
    }
}

impl Device {
    /// Connects, and sets the device up.
    pub(crate) fn connect(args: &DeviceArgs, how: &Connect) -> anyhow::Result<Self> {
        let path = args.socket_path.clone();
        let timeout_ms = (args.timeout > 0).then(|| args.timeout.saturating_mul(1000));
        let memory = SharedMemory::new(how.memory).context("cannot make memory to share")?;
        // A server that is busy with another frontend is silent too.
        let reply_timeout = timeout_ms.map_or(Duration::MAX, |ms| Duration::from_millis(ms.into()));
        let options = client::Options { reply_timeout, ..client::Options::default() };
        let transport = VhostUser::connect(&path, memory.clone(), options)
            .map_err(|error| explain_connect(error, &path))?;
        let options = Options {
            queues: how.queues,
            queue_size: how.queue_size,
            timeout_ms,
            checks: how.checks,
            ..Options::default()
        };
        let disk = Disk::probe(transport, memory, &options)
            .with_context(|| format!("cannot drive the device at {}", path.display()))?;
        Ok(Self { disk, path, timeout_ms })
    }

    /// What is known of it.
    pub(crate) fn info(&self) -> &Info {
        self.disk.info()
    }

    /// How long to wait for it, in milliseconds.
    pub(crate) fn timeout_ms(&self) -> Option<u32> {
        self.timeout_ms
    }

    /// What is known of its zones; an error for a plain disk.
    pub(crate) fn zoned(&self) -> anyhow::Result<ZonedInfo> {
        let path = self.path.display();
        self.info().zoned.with_context(|| {
            format!("the disk at {path} is a plain one: it has no zones; `zvb read` and `zvb write` work on it")
        })
    }

    /// Up to `count` zones from zone `first` on.
    pub(crate) fn zones(&mut self, first: u64, count: u64) -> anyhow::Result<Vec<Zone>> {
        let zoned = self.zoned()?;
        let mut zones = Vec::new();
        let from = crate::target::start(first, &zoned);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.disk
            .report(from, count, |zone| zones.push(Zone::of(&zone, &zoned)))
            .map_err(explain)
            .context("cannot get a report of the zones")?;
        Ok(zones)
    }

    /// One zone.
    pub(crate) fn zone(&mut self, number: u64) -> anyhow::Result<Zone> {
        let zones = self.zones(number, 1)?;
        zones.first().copied().with_context(|| format!("the device tells nothing of zone {number}"))
    }

    /// All of them.
    pub(crate) fn all_zones(&mut self) -> anyhow::Result<Vec<Zone>> {
        self.zones(0, u64::MAX)
    }

    /// What writes at `at` must be a multiple of, in bytes.
    pub(crate) fn write_unit(&self) -> u32 {
        let info = self.info();
        info.zoned.map_or(0, |zoned| zoned.write_granularity).max(info.block_size)
    }

    /// ` (zone 3)` on a zoned disk, nothing on a plain one.
    pub(crate) fn in_zone(&self, sector: Sector) -> String {
        match &self.info().zoned {
            Some(zoned) => format!(" (zone {})", sector.0 / zoned.zone_size.0.max(1)),
            None => String::new(),
        }
    }

    /// For JSON.
    pub(crate) fn describe(&self) -> DiskJson {
        let info = self.info();
        DiskJson {
            capacity: info.capacity.0,
            block_size: info.block_size,
            read_only: info.read_only,
            model: info.zoned.map_or(DiskJson::PLAIN, |zoned| model_name(zoned.model)),
            zoned: info.zoned.map(|zoned| ZonedJson {
                zone_size: zoned.zone_size.0,
                zone_count: zoned.zone_count.into(),
                max_open: zoned.max_open,
                max_active: zoned.max_active,
                max_append: zoned.max_append.0,
                write_granularity: zoned.write_granularity,
            }),
        }
    }
}

impl Zone {
    /// As the driver tells of it.
    fn of(zone: &zvb_driver::Zone, zoned: &ZonedInfo) -> Self {
        Self {
            number: zone.start.0 / zoned.zone_size.0.max(1),
            start: zone.start,
            len: zone.len,
            capacity: zone.capacity,
            write_pointer: zone.write_pointer,
            condition: zone.condition,
            zone_type: zone.zone_type,
        }
    }
}

/// Why there is no connection to `path`, and what can be done about it.
fn explain_connect(error: ClientError, path: &Path) -> anyhow::Error {
    let shown = path.display();
    let text = match &error {
        ClientError::NoServer { .. } => {
            format!("{error}; `zvb serve IMAGE --socket-path {shown}` starts one")
        }
        ClientError::Connect { .. } => error.to_string(),
        _ => format!("cannot talk to the device at {shown}"),
    };
    anyhow::Error::new(error).context(text)
}

/// An error of the driver's, and what can be done about it.
pub(crate) fn explain(error: Error<ClientError>) -> anyhow::Error {
    match error {
        Error::Request(request) => explain_request(request),
        Error::Invalid(invalid) => match advice(&invalid) {
            Some(next) => anyhow::anyhow!("{invalid}; {next}"),
            None => invalid.into(),
        },
        other => anyhow::Error::new(other),
    }
}

/// A request that failed, and what can be done about it.
pub(crate) fn explain_request(error: RequestError) -> anyhow::Error {
    let next = match error {
        RequestError::UnalignedWritePointer => "`zvb report` shows the write pointer",
        RequestError::OpenResource => "close or finish an open zone first",
        RequestError::ActiveResource => "finish or reset an open or closed zone first",
        RequestError::InvalidCommand => "`zvb report` shows the condition",
        RequestError::Io => "the log of the server says more",
        _ => return error.into(),
    };
    anyhow::Error::new(error).context(format!("{error}; {next}"))
}

/// A request that the driver did not send: what it was to do, why not, and what can be done about it.
pub(crate) fn explain_refusal(error: SubmitError, what: &str) -> anyhow::Error {
    match &error {
        SubmitError::Invalid(invalid) => match advice(invalid) {
            Some(next) => anyhow::anyhow!("cannot {what}: {invalid}; {next}"),
            None => anyhow::anyhow!("cannot {what}: {invalid}"),
        },
        _ => anyhow::Error::new(error).context(format!("cannot {what}")),
    }
}

/// What to do instead of something that no driver may send to this device.
fn advice(invalid: &Invalid) -> Option<&'static str> {
    Some(match invalid {
        Invalid::Misaligned { .. } => "use an address and a length that are multiples of that",
        Invalid::PastCapacity { .. } => "use less, or an address further in front",
        Invalid::PastZoneCapacity { .. } => {
            "`zvb report` shows how much room is left, and `zvb append` goes on in the next zone"
        }
        Invalid::AcrossZones { .. } => "write to each zone by itself",
        Invalid::ReadOnly => "its server was started with --read-only, or its image allows no more",
        Invalid::NotZoneStart(_) => "`zvb report` shows where zones start",
        _ => return None,
    })
}
