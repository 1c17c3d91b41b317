//! A disk of this host: made, put on the kernel's bus, served, and taken off.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use zerocopy::IntoBytes;
use zvb_device::{Device, TransportFeatures};
use zvb_wire::{DeviceStatus, Features};

use super::errand::Errand;
use super::ledger::LedgerFile;
use super::netlink::{Bus, BusError};
use super::port::{Control, KernelPort, Port};
use super::session::{Session, TakeOverError};
use super::sysfs::{BusDevice, Progress, is_in_use};
use crate::server::Shutdown;
use crate::server::log::{Level, Log, RateLimited};

/// What VDUSE adds to a device, and what it can not carry: a driver's writes to the configuration space, and
/// a reset of one queue.
pub const TRANSPORT: TransportFeatures = TransportFeatures {
    offered: Features::ACCESS_PLATFORM,
    withheld: Features::CONFIG_WCE.union(Features::RING_RESET),
};

/// Where the kernel's devices are.
const FOLDER: &str = "/dev/vduse";

/// How long the kernel's drivers may take.
const VIRTIO_TIME: Duration = Duration::from_secs(1);
const DISK_TIME: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Why a disk can not be attached, or not be served any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The name is no file name, or the control file's.
    #[error(
        "{0:?} is no name for a disk: use up to 64 letters, digits, dots, dashes and underscores, and not \"control\""
    )]
    Name(String),
    /// The module is not there.
    #[error(
        "the kernel has no VDUSE: {FOLDER}/control is not there; load the module (modprobe vduse). It comes with the \
         kernel's own package, on some distributions with linux-modules-extra"
    )]
    NoModule,
    /// Only root may.
    #[error("attaching a disk to this host's kernel needs root")]
    Permission(#[source] io::Error),
    /// The control file is of no use.
    #[error("cannot use {FOLDER}/control")]
    Control(#[source] io::Error),
    /// There is a device of this name, and somebody serves it.
    #[error("{0} is attached already, and another process serves it; use another name")]
    Taken(String),
    /// There is a device of this name that nobody serves, with a driver on it.
    #[error(
        "{0} is attached already, though nobody serves it any more; `zvb detach {0}` takes it away"
    )]
    Orphan(String),
    /// There is a device of this name that nobody serves, and it is another.
    #[error(
        "{0} is attached already, as another disk or with other options, though nobody serves it any more; `zvb \
         detach {0}` takes it away"
    )]
    OtherDisk(String),
    /// What is in flight can not be written down, or is not to be found.
    #[error("cannot use {}, where it is written down what is in flight", path.display())]
    Ledger {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A device that a dead process left can not be gone on with.
    #[error("cannot go on with {name}, which a process that died left in the kernel")]
    TakeOver {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: TakeOverError,
    },
    /// The kernel does not make the device.
    #[error("the kernel does not make the device {name}")]
    Create {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It can not be destroyed.
    #[error("the kernel does not destroy the device {name}")]
    Destroy {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel's bus does not take it, or does not let it go.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// On the bus, and nobody makes a virtio device of it.
    #[error(
        "nothing takes the device from the kernel's vdpa bus: load the module (modprobe virtio_vdpa)"
    )]
    NoVirtio,
    /// No driver takes the virtio device.
    #[error(
        "the kernel's virtio_blk does not take the disk: load the module (modprobe virtio_blk), or see what the \
         kernel says (dmesg): Linux wants zones of a size that is a power of two, and zone append"
    )]
    NoDriver,
    /// The driver took it and made no disk.
    #[error(
        "the kernel's driver took the device and made no disk of it; see what the kernel says (dmesg)"
    )]
    NoDisk,
    /// The kernel lost its patience, or a queue could not go on.
    #[error("the kernel has given the device up")]
    Broken,
    /// The kernel's device does not work.
    #[error("cannot serve the kernel's device")]
    Port(#[source] io::Error),
    /// No room for a thread or a descriptor.
    #[error("the host has no room for another disk")]
    Host(#[source] io::Error),
    /// A thread of ours died.
    #[error("a thread failed")]
    Died,
}

/// How serving ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The disk is gone from the kernel.
    Detached,
    /// The disk is in use and stays in the kernel; its requests wait until somebody serves it again.
    Left(PathBuf),
}

/// What can be chosen about an attachment.
#[derive(Clone)]
pub struct AttachOptions {
    /// Where it is written down what is in flight, so that another process can go on after this one has died: a
    /// folder that lives as long as the kernel.
    pub folder: PathBuf,
    /// A disk that a dead process left in the kernel is gone on with, when it is the same.
    pub take_over: bool,
    /// At the end, the disk is taken from the kernel whoever uses it.
    pub force: bool,
    /// Who is told what happens. Lines come at a bounded rate.
    pub log: Arc<dyn Log>,
}

/// A device in the kernel, ours to serve.
pub struct Attachment {
    name: String,
    control: Control,
    port: Arc<KernelPort>,
    ledger: Arc<LedgerFile>,
    /// What the driver had set when it was taken over from a dead process.
    taken_over: Option<DeviceStatus>,
    on_bus: BusDevice,
    bus: Bus,
    options: AttachOptions,
}

impl std::fmt::Debug for Attachment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attachment").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Attachment {
    /// Makes `device` known to the kernel as `name`, where no driver sees it yet; or takes a device of that name
    /// over. The device must have been made with [`TRANSPORT`].
    pub fn new(
        name: &str,
        device: &Arc<Device>,
        options: AttachOptions,
    ) -> Result<Self, AttachError> {
        check_name(name)?;
        let control = Control::open(&Path::new(FOLDER).join("control")).map_err(control_error)?;
        let mut bus = Bus::open()?;
        let on_bus = BusDevice::new(name);
        let path = Path::new(FOLDER).join(name);
        let mut taken_over = None;
        match create(&control, name, device) {
            Err(error) if is(&error, Errno::EXIST) => {
                // One process at a time has it open.
                let port =
                    KernelPort::open(&path).map_err(|error| match is(&error, Errno::BUSY) {
                        true => AttachError::Taken(name.to_owned()),
                        false => AttachError::Create { name: name.to_owned(), source: error },
                    })?;
                drop(port);
                match on_bus.status() {
                    Some(status) if options.take_over => taken_over = Some(status),
                    Some(_) => return Err(AttachError::Orphan(name.to_owned())),
                    None => begin_anew(&control, &mut bus, &on_bus, name, device)?,
                }
            }
            other => {
                other.map_err(|source| AttachError::Create { name: name.to_owned(), source })?;
            }
        }
        let opened = open(name, device, taken_over.is_some(), &options.folder);
        let (port, ledger) = opened.inspect_err(|_| {
            if taken_over.is_none() {
                // It was just made; that it can not be used is what is told.
                let _ = control.destroy(name);
            }
        })?;
        let (name, port) = (name.to_owned(), Arc::new(port));
        Ok(Self { name, control, port, ledger, taken_over, on_bus, bus, options })
    }

    /// True when a process that died served it before.
    pub fn is_taken_over(&self) -> bool {
        self.taken_over.is_some()
    }

    /// Puts the device on the kernel's bus, tells `ready` of the disk that comes of it, and serves it until
    /// `shutdown`. Then the disk is taken from the kernel, unless somebody uses it.
    pub fn serve(
        self,
        device: &Arc<Device>,
        shutdown: &Shutdown,
        ready: impl FnOnce(&Path),
    ) -> Result<Outcome, AttachError> {
        let Self { name, control, port, ledger, taken_over, on_bus, bus, options } = self;
        let log: Arc<dyn Log> = Arc::new(RateLimited::new(options.log));
        let kernel = Arc::<KernelPort>::clone(&port);
        let mut session =
            Session::new(device, kernel, ledger, Arc::clone(&log)).map_err(AttachError::Host)?;
        if let Some(status) = taken_over {
            session
                .take_over(status)
                .map_err(|source| AttachError::TakeOver { name: name.clone(), source })?;
        }
        let errand = Errand::start({
            let (name, on_bus) = (name.clone(), on_bus.clone());
            move || match taken_over {
                Some(_) => (bus, wait_for_disk(&on_bus)),
                None => attach(bus, &name, &on_bus),
            }
        });
        let served = match errand {
            Ok(errand) => {
                let force = options.force;
                let server =
                    Server { session: &mut session, port: &port, name: &name, force, log: &*log };
                server.run(errand, shutdown, ready)
            }
            Err(error) => Err(AttachError::Host(error)),
        };
        session.stop_all();
        drop(session);
        drop(port);
        if matches!(served, Ok(Outcome::Left(_))) || on_bus.exists() {
            return served;
        }
        let destroyed = control.destroy(&name);
        // What is left of it is of no use to anybody.
        let _ = std::fs::remove_file(ledger_path(&options.folder, &name));
        if served.is_ok() {
            destroyed.map_err(|source| AttachError::Destroy { name, source })?;
        }
        served
    }
}

fn create(control: &Control, name: &str, device: &Arc<Device>) -> io::Result<()> {
    let config = device.session().config();
    control.create(name, device.features().bits(), device.queues(), config.as_bytes())
}

/// A process died on its way, and no driver has come: what it left is destroyed, and made anew.
fn begin_anew(
    control: &Control,
    bus: &mut Bus,
    on_bus: &BusDevice,
    name: &str,
    device: &Arc<Device>,
) -> Result<(), AttachError> {
    if on_bus.exists() {
        bus.delete(name)?;
    }
    control
        .destroy(name)
        .map_err(|source| AttachError::Destroy { name: name.to_owned(), source })?;
    create(control, name, device)
        .map_err(|source| AttachError::Create { name: name.to_owned(), source })
}

/// The kernel's device and the ledger beside it: new ones, or those that a dead process left.
fn open(
    name: &str,
    device: &Device,
    taken_over: bool,
    folder: &Path,
) -> Result<(KernelPort, Arc<LedgerFile>), AttachError> {
    let failed = |source| AttachError::Create { name: name.to_owned(), source };
    let port = KernelPort::open(&Path::new(FOLDER).join(name)).map_err(failed)?;
    let path = ledger_path(folder, name);
    let unknown = |source| AttachError::Ledger { path: path.clone(), source };
    if taken_over {
        let ledger = LedgerFile::open(&path, device).map_err(unknown)?;
        let ledger = ledger.ok_or_else(|| AttachError::OtherDisk(name.to_owned()))?;
        return Ok((port, ledger));
    }
    for index in 0..device.queues() {
        port.set_up(index, device.max_queue_size()).map_err(failed)?;
    }
    std::fs::create_dir_all(folder).map_err(unknown)?;
    Ok((port, LedgerFile::create(&path, device).map_err(unknown)?))
}

fn ledger_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.inflight"))
}

/// The name is a file's in `/dev/vduse` and in `/sys`.
fn check_name(name: &str) -> Result<(), AttachError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let fits = (1..=64).contains(&name.len()) && name.bytes().all(plain);
    if fits && !matches!(name, "." | ".." | "control") {
        Ok(())
    } else {
        Err(AttachError::Name(name.to_owned()))
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

fn control_error(error: io::Error) -> AttachError {
    match error.kind() {
        io::ErrorKind::NotFound => AttachError::NoModule,
        io::ErrorKind::PermissionDenied => AttachError::Permission(error),
        _ if is(&error, Errno::NODEV) || is(&error, Errno::NXIO) => AttachError::NoModule,
        _ => AttachError::Control(error),
    }
}

/// Puts a device on the bus and waits for the disk. What can not become a disk is taken off again.
fn attach(mut bus: Bus, name: &str, on_bus: &BusDevice) -> (Bus, Result<PathBuf, AttachError>) {
    let added = bus.add(name).map_err(|error| match error {
        BusError::Refused(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            AttachError::Permission(error)
        }
        other => other.into(),
    });
    let disk = added.and_then(|()| {
        wait_for_disk(on_bus).inspect_err(|_| {
            // Why there is no disk is what is told.
            let _ = bus.delete(name);
        })
    });
    (bus, disk)
}

fn wait_for_disk(on_bus: &BusDevice) -> Result<PathBuf, AttachError> {
    let start = Instant::now();
    loop {
        let (time, why) = match on_bus.progress() {
            Progress::Disk(disk) => {
                let path = Path::new("/dev").join(disk.replace('!', "/"));
                if path.exists() {
                    return Ok(path);
                }
                (DISK_TIME, AttachError::NoDisk)
            }
            Progress::Absent => return Err(AttachError::Broken),
            Progress::NoVirtio => (VIRTIO_TIME, AttachError::NoVirtio),
            // It was asked already when the device came.
            Progress::NoDriver if Path::new("/sys/bus/virtio/drivers/virtio_blk").exists() => {
                (Duration::ZERO, AttachError::NoDriver)
            }
            Progress::NoDriver => (VIRTIO_TIME * 10, AttachError::NoDriver),
            Progress::NoDisk => (DISK_TIME, AttachError::NoDisk),
        };
        if start.elapsed() >= time {
            return Err(why);
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Takes the device `name` off the kernel's bus, whoever uses it. Somebody must be serving it.
pub fn delete(name: &str) -> Result<(), BusError> {
    match Bus::open()?.delete(name) {
        Err(BusError::Refused(error)) if is(&error, Errno::NODEV) => Ok(()),
        other => other,
    }
}

/// True when the device `name` is on the kernel's bus.
pub fn exists(name: &str) -> bool {
    BusDevice::new(name).exists()
}

/// Serves one device to its end.
struct Server<'a> {
    session: &'a mut Session,
    port: &'a KernelPort,
    name: &'a str,
    force: bool,
    log: &'a dyn Log,
}

impl Server<'_> {
    fn run(
        mut self,
        attaching: Errand<(Bus, Result<PathBuf, AttachError>)>,
        shutdown: &Shutdown,
        ready: impl FnOnce(&Path),
    ) -> Result<Outcome, AttachError> {
        self.serve_until(attaching.as_fd())?;
        let (bus, disk) = attaching.result().ok_or(AttachError::Died)?;
        let disk = disk?;
        ready(&disk);
        self.serve_until(shutdown.as_fd())?;
        match is_in_use(&disk) {
            Ok(true) if !self.force => return Ok(Outcome::Left(disk)),
            Ok(_) => {}
            Err(error) => {
                let disk = disk.display();
                self.log
                    .log(Level::Debug, format_args!("cannot tell if {disk} is in use: {error}"));
            }
        }
        let name = self.name.to_owned();
        let mut bus = bus;
        let detaching = Errand::start(move || bus.delete(&name)).map_err(AttachError::Host)?;
        self.serve_until(detaching.as_fd())?;
        match detaching.result().ok_or(AttachError::Died)? {
            // Somebody else took it off.
            Err(BusError::Refused(error)) if is(&error, Errno::NODEV) => {}
            other => other?,
        }
        Ok(Outcome::Detached)
    }

    /// Answers for the device until `done` is readable.
    fn serve_until(&mut self, done: BorrowedFd<'_>) -> Result<(), AttachError> {
        loop {
            let mut fds = [
                PollFd::from_borrowed_fd(self.port.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.session.end(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.session.news(), PollFlags::IN),
                PollFd::from_borrowed_fd(done, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(AttachError::Host(errno.into())),
            }
            let [port, end, news, done] = fds.map(|fd| fd.revents());
            if port.contains(PollFlags::IN) {
                self.session.serve_one().map_err(AttachError::Port)?;
            } else if !port.is_empty() || !end.is_empty() {
                return Err(AttachError::Broken);
            } else if !news.is_empty() {
                self.session.tell();
            } else if !done.is_empty() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_files() {
        for good in ["disk", "zns-1.img_2", "a", &"x".repeat(64)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "control", "a/b", "a b", "\u{e9}", &"x".repeat(65)] {
            assert!(matches!(check_name(bad), Err(AttachError::Name(_))), "{bad}");
        }
    }
}
