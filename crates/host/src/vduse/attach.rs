//! A disk of this host: made, put on the kernel's bus, served, and taken off.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use zerocopy::IntoBytes;
use zvb_device::{Device, TransportFeatures};
use zvb_wire::{DeviceStatus, Features};

use super::ledger::LedgerFile;
use super::netlink::{Bus, BusError};
use super::outside::{Outside, Wish};
use super::port::{Control, KernelPort, Port};
use super::session::{Session, TakeOverError};
use super::sysfs::BusDevice;
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
/// Where they are made.
pub(super) const CONTROL: &str = "/dev/vduse/control";

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
    #[error("only root may attach disks to this host's kernel and take them back (try sudo)")]
    Permission(#[source] io::Error),
    /// The control file is of no use.
    #[error("cannot use {FOLDER}/control")]
    Control(#[source] io::Error),
    /// There is a device of this name, and somebody serves it.
    #[error("{0} is attached already, and another process serves it; use another name")]
    Taken(String),
    /// There is a device of this name that has nothing to do with VDUSE.
    #[error(
        "a device {0} that is none of ours is on the kernel's vdpa bus already; use another name"
    )]
    Foreign(String),
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
    /// There is a disk, and no file for it.
    #[error(
        "the kernel has the disk, and {0} is not there: is devtmpfs mounted on /dev (in a container, the host's)?"
    )]
    NoNode(PathBuf),
    /// The kernel lost its patience, or a queue could not go on.
    #[error("the kernel has given the device up")]
    Broken,
    /// The kernel's device does not work.
    #[error("cannot serve the kernel's device")]
    Port(#[source] io::Error),
    /// No room for a thread or a descriptor.
    #[error("the host has no room for another disk")]
    Host(#[source] io::Error),
    /// The process of ours that talks to the kernel's bus died.
    #[error("the process that puts the disk on the kernel's bus and takes it off is gone")]
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
    port: Arc<KernelPort>,
    ledger: Arc<LedgerFile>,
    /// What the driver had set when it was taken over from a dead process.
    taken_over: Option<DeviceStatus>,
    on_bus: BusDevice,
    outside: Outside,
    options: AttachOptions,
}

impl std::fmt::Debug for Attachment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attachment").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Attachment {
    /// Makes `device` known to the kernel as `name`, where no driver sees it yet; or takes a device of that name
    /// over. The device must have been made with [`TRANSPORT`], and `outside` for `name`.
    ///
    /// Afterwards nothing needs to be opened any more, nor asked of the kernel but by requests to open files
    /// ([`REQUESTS`](super::REQUESTS)): the process may confine itself.
    pub fn new(
        name: &str,
        device: &Arc<Device>,
        outside: Outside,
        options: AttachOptions,
    ) -> Result<Self, AttachError> {
        check_name(name)?;
        let control = Control::open(Path::new(CONTROL)).map_err(control_error)?;
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
                    None => begin_anew(&control, &on_bus, name, device)?,
                }
            }
            Ok(()) if on_bus.exists() => {
                let _ = control.destroy(name);
                return Err(AttachError::Foreign(name.to_owned()));
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
        Ok(Self { name, port, ledger, taken_over, on_bus, outside, options })
    }

    /// True when a process that died served it before.
    pub fn is_taken_over(&self) -> bool {
        self.taken_over.is_some()
    }

    /// The device is not to be served after all. A new one is destroyed; one that was taken over stays as it was.
    pub fn give_up(self) {
        let Self { name, port, taken_over, outside, options, .. } = self;
        drop(port);
        if taken_over.is_none() {
            // Why it is given up is what is told.
            let _ = outside.ask(Wish::Destroy).and_then(|()| outside.answer());
            let _ = std::fs::remove_file(ledger_path(&options.folder, &name));
        }
    }

    /// Puts the device on the kernel's bus, tells `ready` of the disk that comes of it, and serves it until
    /// `shutdown`. Then the disk is taken from the kernel, unless somebody uses it.
    pub fn serve(
        self,
        device: &Arc<Device>,
        shutdown: &Shutdown,
        ready: impl FnOnce(&Path),
    ) -> Result<Outcome, AttachError> {
        let Self { name, port, ledger, taken_over, on_bus, outside, options } = self;
        let log: Arc<dyn Log> = Arc::new(RateLimited::new(options.log));
        let kernel = Arc::<KernelPort>::clone(&port);
        let mut session =
            Session::new(device, kernel, ledger, Arc::clone(&log)).map_err(AttachError::Host)?;
        if let Some(status) = taken_over {
            session
                .take_over(status)
                .map_err(|source| AttachError::TakeOver { name: name.clone(), source })?;
        }
        let (outside, force) = (&outside, options.force);
        let mut server = Server { session: &mut session, port: &*port, outside, force, log: &*log };
        let served = server.run(taken_over.is_some(), shutdown, ready);
        session.stop_all();
        drop(session);
        drop(port);
        if matches!(served, Ok(Outcome::Left(_))) || on_bus.exists() {
            return served;
        }
        let destroyed = outside.ask(Wish::Destroy).and_then(|()| outside.answer());
        // What is left of it is of no use to anybody.
        let _ = std::fs::remove_file(ledger_path(&options.folder, &name));
        if served.is_ok() {
            destroyed?;
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
    on_bus: &BusDevice,
    name: &str,
    device: &Arc<Device>,
) -> Result<(), AttachError> {
    if on_bus.exists() {
        // Only now: the bus answers nobody while a driver waits for what a process that died did not answer.
        Bus::open()?.delete(name)?;
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

pub(super) fn is(error: &io::Error, errno: Errno) -> bool {
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

/// Finds out, before a disk is opened, that it can be attached as `name`: that the name is one, and that there
/// is VDUSE for this user.
pub fn check(name: &str) -> Result<(), AttachError> {
    check_name(name)?;
    Control::open(Path::new(CONTROL)).map(|_| ()).map_err(control_error)
}

/// Takes the device `name` off the kernel's bus, whoever uses it. Somebody must be serving it.
pub fn delete(name: &str) -> Result<(), AttachError> {
    match Bus::open()?.delete(name) {
        Err(BusError::Refused(error)) if is(&error, Errno::NODEV) => Ok(()),
        Err(BusError::Refused(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(AttachError::Permission(error))
        }
        other => Ok(other?),
    }
}

/// True when the device `name` is on the kernel's bus.
pub fn exists(name: &str) -> bool {
    BusDevice::new(name).exists()
}

/// Serves one device to its end.
struct Server<'a> {
    session: &'a mut Session,
    port: &'a dyn Port,
    outside: &'a Outside,
    force: bool,
    log: &'a dyn Log,
}

impl Server<'_> {
    fn run(
        &mut self,
        taken_over: bool,
        shutdown: &Shutdown,
        ready: impl FnOnce(&Path),
    ) -> Result<Outcome, AttachError> {
        let disk = self.wish(if taken_over { Wish::Find } else { Wish::Attach })?;
        let disk = PathBuf::from(disk);
        ready(&disk);
        self.serve_until(shutdown.as_fd())?;
        match self.wish(Wish::InUse)?.as_str() {
            "0" => {}
            "1" if self.force => {}
            "1" => return Ok(Outcome::Left(disk)),
            why => {
                let disk = disk.display();
                self.log.log(Level::Debug, format_args!("cannot tell if {disk} is in use: {why}"));
            }
        }
        self.wish(Wish::Detach)?;
        Ok(Outcome::Detached)
    }

    /// Has something done outside, and answers for the device meanwhile.
    fn wish(&mut self, wish: Wish) -> Result<String, AttachError> {
        self.outside.ask(wish)?;
        self.serve_until(self.outside.as_fd())?;
        self.outside.answer()
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

    #[test]
    fn what_is_in_flight_is_written_down_for_each_disk_apart() {
        let paths = ["a", "b", "a.b"].map(|name| ledger_path(Path::new("/run/zvb"), name));
        for (index, path) in paths.iter().enumerate() {
            assert_eq!(path.parent(), Some(Path::new("/run/zvb")));
            assert!(!paths[..index].contains(path), "{}", path.display());
        }
    }
}
