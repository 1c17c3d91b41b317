//! `zvb demo`: everything once, on real parts, checked.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use zvb_driver::{Answer, Checks, Error, Request, RequestError};
use zvb_host::client::ClientError;
use zvb_host::server::Shutdown;
use zvb_storage::{CreateOptions, Image};
use zvb_wire::{Condition, Model, Sector};
use zvb_zones::GeometrySpec;

use crate::args::{DemoArgs, DeviceArgs};
use crate::child::Served;
use crate::commands::create::summary;
use crate::device::{Connect, Device, explain};
use crate::output;
use crate::random::Random;
use crate::report::map::Map;
use crate::report::{Zone, condition_name};
use crate::shape::Shape;
use crate::size::Size;
use crate::terminal::{self, Paint};

/// 512-byte sectors in a MiB.
const MIB: u64 = 2048;
/// Of every zone.
const ZONE: u64 = 4 * MIB;
/// What can be written of a sequential zone: less than its size, as on most real drives.
const ZONE_CAPACITY: u64 = 3 * MIB;
const ZONES: u64 = 32;
const CONVENTIONAL: u32 = 4;
const MAX_OPEN: u32 = 6;
const MAX_ACTIVE: u32 = 12;
const BLOCK: u32 = 4096;

pub(super) fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let begun = Instant::now();
    let interrupted = Shutdown::on_signals().context("cannot take signals")?;
    let directory = Directory::new(args.keep)?;
    let mut demo = Demo {
        image: directory.path.join("disk.zvb"),
        socket: directory.path.join("zvb.sock"),
        paint: Paint::for_stdout(),
        interrupted,
        written: Vec::new(),
        checks: 0,
    };
    demo.all()?;
    let seconds = begun.elapsed().as_secs_f64();
    output::say(format_args!("\n{} checks, all well, in {seconds:.1} s.", demo.checks))?;
    if args.keep {
        output::say(format_args!("The image is {}", demo.image.display()))?;
    } else {
        output::say("Now with a disk of your own:")?;
        output::say("  zvb create disk.zvb --size 64G --zone-size 256M --conventional 4")?;
        output::say("  zvb serve disk.zvb --socket-path zvb.sock")?;
        output::say("  zvb report --socket-path zvb.sock")?;
    }
    Ok(())
}

/// A directory for the demo, removed with all that is in it.
struct Directory {
    path: PathBuf,
    keep: bool,
}

impl Directory {
    fn new(keep: bool) -> anyhow::Result<Self> {
        let name = format!("zvb-demo-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).with_context(|| {
            format!("cannot make {}; TMPDIR can name another place", path.display())
        })?;
        Ok(Self { path, keep })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            output::log(format_args!("cannot remove {}: {error}", self.path.display()));
        }
    }
}

struct Demo {
    image: PathBuf,
    socket: PathBuf,
    paint: Paint,
    interrupted: Shutdown,
    /// What was written where, to be read back in the end.
    written: Vec<(Sector, Vec<u8>)>,
    checks: u32,
}

impl Demo {
    fn all(&mut self) -> anyhow::Result<()> {
        self.section("A disk: an image file")?;
        self.create()?;

        self.section("A server, and the driver at the other end of its socket")?;
        let (server, mut device) = self.serve()?;
        let before = self.map(&mut device)?;
        self.check(
            before.iter().all(|z| z.readable().0 == 0 || !z.is_sequential()),
            "no zone has data",
        )?;

        self.section("Writes, at write pointers")?;
        self.writes(&mut device)?;
        self.section("Appends: the device says where the data went")?;
        self.appends(&mut device)?;
        self.section("Zone commands")?;
        self.commands(&mut device)?;
        self.section("What the disk refuses")?;
        self.refusals(&mut device)?;
        let after = self.map(&mut device)?;

        self.section("The server ends, and starts again")?;
        device.disk.flush().map_err(explain)?;
        drop(device);
        let (server, mut device) = self.restart(server)?;
        let again = self.map(&mut device)?;
        let wanted: Vec<_> = after.into_iter().map(after_restart).collect();
        self.check(
            again == wanted,
            "every zone is as it was; open ones are closed, as they must be",
        )?;
        self.read_back(&mut device)?;
        drop(device);
        server.end()?;
        self.check(!self.socket.exists(), "the server ended in order, and took its socket along")
    }

    fn section(&mut self, title: &str) -> anyhow::Result<()> {
        ensure!(!self.interrupted.is_triggered(), "interrupted");
        let title = self.paint.heading(title);
        Ok(output::say(format_args!("\n{title}"))?)
    }

    /// Says that something is as it should be, or fails because it is not.
    fn check(&mut self, good: bool, what: &str) -> anyhow::Result<()> {
        ensure!(good, "the demo went wrong: it is not true that {what}");
        self.checks += 1;
        Ok(output::say(format_args!("  ok  {what}"))?)
    }

    fn map(&mut self, device: &mut Device) -> anyhow::Result<Vec<Zone>> {
        let zones = device.all_zones()?;
        let map = Map { zones: &zones, width: terminal::width(), paint: self.paint };
        output::print(format_args!("\n{map}\n"))?;
        Ok(zones)
    }

    fn create(&mut self) -> anyhow::Result<()> {
        let zones = GeometrySpec {
            model: Model::HostManaged,
            capacity: Sector(ZONES * ZONE),
            zone_size: Sector(ZONE),
            zone_capacity: Sector(ZONE_CAPACITY),
            conventional: CONVENTIONAL,
            max_open: MAX_OPEN,
            max_active: MAX_ACTIVE,
            max_append: Sector(MIB / 2),
            write_granularity: BLOCK,
        };
        let shape = Shape { capacity: zones.capacity, block_size: BLOCK, zones: Some(zones) };
        let options = CreateOptions {
            capacity: shape.capacity,
            block_size: BLOCK,
            zones: shape.zones,
            id: None,
            uuid: None,
            force: false,
        };
        Image::create(&self.image, &options)?;
        output::say(format_args!("  {}", summary(&shape)))?;
        let info = zvb_storage::inspect(&self.image)?;
        let (used, size) = (Size(info.used_bytes), Size::of(shape.capacity));
        self.check(
            info.used_bytes < info.file_bytes / 8,
            &format!("the file takes {used} for a disk of {size}"),
        )
    }

    fn serve(&mut self) -> anyhow::Result<(Served, Device)> {
        let server = Served::start(&self.image, &self.socket)?;
        let args = DeviceArgs { socket_path: self.socket.clone(), timeout: 10 };
        // So that it is the device that is seen to refuse, and not the driver.
        let how = Connect { checks: Checks::Minimal, ..Connect::default() };
        let mut device = server.connect(&args, &how)?;
        let info = device.info();
        output::say(format_args!("  features {:?}", info.features))?;
        let zoned = device.zoned()?;
        let id = device.disk.id().map_err(explain)?;
        output::say(format_args!("  the disk's name is {}", super::info::id_text(&id)))?;
        self.check(
            (zoned.zone_size, u64::from(zoned.zone_count), zoned.max_open)
                == (Sector(ZONE), ZONES, MAX_OPEN),
            "the driver sees the geometry that the image was made with",
        )?;
        Ok((server, device))
    }

    fn restart(&mut self, server: Served) -> anyhow::Result<(Served, Device)> {
        server.end()?;
        self.check(!self.socket.exists(), "SIGTERM ends it in order")?;
        self.serve()
    }

    /// Data that differs from place to place, remembered for the end.
    fn data(&mut self, at: u64, bytes: u64) -> Vec<u8> {
        let mut data = vec![0; usize::try_from(bytes).unwrap_or(0)];
        Random::new(at).fill(&mut data);
        self.written.push((Sector(at), data.clone()));
        data
    }

    fn writes(&mut self, device: &mut Device) -> anyhow::Result<()> {
        let anywhere = ZONE + 1000 * 8;
        let data = self.data(anywhere, 64 << 10);
        device.disk.write(Sector(anywhere), &data).map_err(explain)?;
        self.check(true, "a conventional zone takes a write anywhere")?;

        let start = 4 * ZONE;
        let data = self.data(start, 256 << 10);
        device.disk.write(Sector(start), &data).map_err(explain)?;
        let zone = device.zone(4)?;
        self.check(
            zone.condition == Condition::ImplicitOpen && zone.pointer() == Sector(start + 512),
            "a write to an empty zone opens it, and its write pointer is 256 KiB further",
        )?;

        let start = 5 * ZONE;
        let data = self.data(start, ZONE_CAPACITY * 512);
        device.disk.write(Sector(start), &data).map_err(explain)?;
        self.state(device, 5, Condition::Full, "written to its capacity, zone 5")
    }

    fn appends(&mut self, device: &mut Device) -> anyhow::Result<()> {
        let zone = Sector(6 * ZONE);
        let (mut sent, mut places) = (Vec::new(), Vec::new());
        for seed in 0..8 {
            let mut buffer = device.disk.buffer(64 << 10)?;
            Random::new(seed).fill(&mut buffer);
            let data = buffer.to_vec();
            let request = Request::Append { zone, buffer };
            let token = device.disk.submit(0, request).map_err(|rejected| rejected.error)?;
            sent.push((token, data));
        }
        while places.len() < sent.len() {
            let Some(completion) = device.disk.poll(0)? else {
                device.disk.wait(0, Some(10_000)).map_err(explain)?;
                continue;
            };
            let data = sent.iter().find(|(token, _)| *token == completion.token);
            match (completion.result?, data) {
                (Answer::Appended(at), Some((_, data))) => {
                    places.push(at);
                    self.written.push((at, data.clone()));
                }
                other => bail!("an append is answered with {:?}", other.0),
            }
        }
        places.sort();
        let wanted: Vec<_> = (0..8).map(|i| Sector(zone.0 + i * 128)).collect();
        self.check(
            places == wanted,
            "8 appends at once have each a place of their own, without gaps",
        )?;

        let data = self.data(7 * ZONE, 2 << 20);
        let at = device.disk.append(Sector(7 * ZONE), &data).map_err(explain)?;
        self.check(at == Sector(7 * ZONE), "2 MiB are appended, in pieces of the append limit")
    }

    fn commands(&mut self, device: &mut Device) -> anyhow::Result<()> {
        let start = Sector(8 * ZONE);
        let data = self.data(start.0, 128 << 10);
        device.disk.append(start, &data).map_err(explain)?;
        device.disk.finish(start).map_err(explain)?;
        self.state(device, 8, Condition::Full, "finished, zone 8")?;

        device.disk.open(Sector(9 * ZONE)).map_err(explain)?;
        self.state(device, 9, Condition::ExplicitOpen, "opened, zone 9")?;

        device.disk.close(Sector(7 * ZONE)).map_err(explain)?;
        self.state(device, 7, Condition::Closed, "closed, zone 7")?;

        let start = Sector(10 * ZONE);
        device.disk.append(start, &[7; 64 << 10]).map_err(explain)?;
        device.disk.reset(start).map_err(explain)?;
        self.state(device, 10, Condition::Empty, "written and reset, zone 10")?;
        let mut gone = [1; 4096];
        device.disk.read(start, &mut gone).map_err(explain)?;
        self.check(gone == [0; 4096], "what was in zone 10 is gone")
    }

    fn refusals(&mut self, device: &mut Device) -> anyhow::Result<()> {
        let ahead = Sector(4 * ZONE + 1024);
        let refused = device.disk.write(ahead, &[1; 4096]);
        self.refusal(refused, RequestError::UnalignedWritePointer, "a write ahead of the pointer")?;
        let refused = device.disk.write(Sector(4 * ZONE), &[1; 4096]);
        self.refusal(refused, RequestError::UnalignedWritePointer, "a write behind the pointer")?;
        let refused = device.disk.append(Sector(5 * ZONE), &[1; 4096]).map(|_| ());
        self.refusal(refused, RequestError::InvalidCommand, "an append to a full zone")?;

        let more = 11..11 + u64::from(MAX_OPEN);
        let mut opened = Vec::new();
        let mut refused = Ok(());
        for zone in more {
            refused = device.disk.open(Sector(zone * ZONE));
            if refused.is_err() {
                break;
            }
            opened.push(zone);
        }
        self.refusal(
            refused,
            RequestError::OpenResource,
            &format!("more than {MAX_OPEN} open zones"),
        )?;
        for zone in opened {
            device.disk.close(Sector(zone * ZONE)).map_err(explain)?;
        }
        // So that there is a zone that is open when the server ends.
        let data = self.data(4 * ZONE + 512, u64::from(BLOCK));
        device.disk.write(Sector(4 * ZONE + 512), &data).map_err(explain)?;
        self.state(device, 4, Condition::ImplicitOpen, "after all that, zone 4 takes a write and")
    }

    fn refusal(
        &mut self,
        result: Result<(), Error<ClientError>>,
        wanted: RequestError,
        what: &str,
    ) -> anyhow::Result<()> {
        match result {
            Err(Error::Request(got)) => self.check(got == wanted, &format!("{what}: {got}")),
            Err(other) => Err(explain(other).context(format!("{what} fails in another way"))),
            Ok(()) => bail!("the demo went wrong: {what} went well"),
        }
    }

    fn state(
        &mut self,
        device: &mut Device,
        number: u64,
        wanted: Condition,
        what: &str,
    ) -> anyhow::Result<()> {
        let condition = device.zone(number)?.condition;
        self.check(condition == wanted, &format!("{what} is {}", condition_name(condition)))
    }

    fn read_back(&mut self, device: &mut Device) -> anyhow::Result<()> {
        let mut bytes = 0;
        for (at, data) in std::mem::take(&mut self.written) {
            let mut read = vec![0; data.len()];
            device.disk.read(at, &mut read).map_err(explain)?;
            ensure!(
                read == data,
                "the demo went wrong: other data at sector {at} than was written"
            );
            bytes += data.len() as u64;
        }
        self.check(true, &format!("all {} that were written read back", Size(bytes)))
    }
}

/// A zone after a restart of its device: only that it was open is forgotten (virtio 5.2.6.2).
fn after_restart(zone: Zone) -> Zone {
    let condition = match zone.condition {
        Condition::ImplicitOpen | Condition::ExplicitOpen if zone.pointer() == zone.start => {
            Condition::Empty
        }
        Condition::ImplicitOpen | Condition::ExplicitOpen => Condition::Closed,
        other => other,
    };
    Zone { condition, ..zone }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_goes_with_the_demo() {
        let directory = Directory::new(false).unwrap();
        let path: PathBuf = directory.path.clone();
        std::fs::write(path.join("disk.zvb"), b"x").unwrap();
        drop(directory);
        assert!(!path.exists());
    }
}
