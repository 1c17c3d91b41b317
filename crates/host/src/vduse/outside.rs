//! What has to do with the rest of the host, done by a process of its own: the one that serves the disk confines
//! itself (see [`sandbox`](crate::sandbox)), and can neither open files nor talk to the kernel's bus any more.
//!
//! This process knows one name, and does one of four things with it, whenever it is asked: puts the device on the
//! kernel's bus, takes it off, says whether its disk is in use, destroys it. It ends with the one that asks. Asked
//! is one message of a byte, and answered one. To put a device on the bus and to take it off makes the kernel
//! ask the device before it comes back, so whoever asks must answer for the device meanwhile.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::attach::{AttachError, CONTROL, is};
use super::netlink::{Bus, BusError};
use super::port::Control;
use super::sysfs::{BusDevice, Progress, is_in_use};
use crate::sys::fork;

/// How long the kernel's drivers may take.
const VIRTIO_TIME: Duration = Duration::from_secs(1);
const DISK_TIME: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The longest answer: the path of a disk.
const ANSWER_BYTES: usize = 512;

/// What can be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Wish {
    /// Put the device on the bus, and say what disk comes of it. What can not become one is taken off again.
    Attach = b'a',
    /// Say what disk comes of a device that is on the bus.
    Find = b'f',
    /// Is the disk in use?
    InUse = b'u',
    /// Take the device off the bus. Somebody else may have done that.
    Detach = b'd',
    /// Destroy it, when it is not on the bus any more.
    Destroy = b'x',
}

/// The process, seen from the one that serves the disk.
#[derive(Debug)]
pub struct Outside(OwnedFd);

impl Outside {
    /// Starts it, for the disk `name`. To be called while this process has one thread, and before it has the disk:
    /// the new process is to hold nothing of it.
    pub fn start(name: &str) -> io::Result<Self> {
        let name = name.to_owned();
        fork::spawn(move |socket| Hands::new(name).serve(&socket)).map(Self)
    }

    /// Asks; [`as_fd`](AsFd::as_fd) is readable when there is an answer.
    pub(crate) fn ask(&self, wish: Wish) -> Result<(), AttachError> {
        let sent = send(&self.0, &[wish as u8], SendFlags::NOSIGNAL);
        sent.map(|_| ()).map_err(|_| AttachError::Died)
    }

    /// Waits for the answer.
    pub(crate) fn answer(&self) -> Result<String, AttachError> {
        let mut buffer = [0; ANSWER_BYTES];
        loop {
            match recv(&self.0, &mut buffer[..], RecvFlags::empty()) {
                Ok((bytes, _)) => {
                    return decode(buffer.get(..bytes).unwrap_or_default());
                }
                Err(Errno::INTR) => {}
                Err(_) => return Err(AttachError::Died),
            }
        }
    }
}

impl AsFd for Outside {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// That process, from inside.
struct Hands {
    name: String,
    on_bus: BusDevice,
    disk: Option<PathBuf>,
}

impl Hands {
    fn new(name: String) -> Self {
        let on_bus = BusDevice::new(&name);
        Self { name, on_bus, disk: None }
    }

    /// Does what it is asked for until nobody asks any more.
    fn serve(mut self, socket: &OwnedFd) {
        let mut wish = [0];
        loop {
            match recv(socket, &mut wish[..], RecvFlags::empty()) {
                Ok((1, _)) => {}
                Err(Errno::INTR) => continue,
                _ => return,
            }
            let answer = encode(self.fulfil(wish));
            if send(socket, &answer, SendFlags::NOSIGNAL).is_err() {
                return;
            }
        }
    }

    fn fulfil(&mut self, [wish]: [u8; 1]) -> Result<String, AttachError> {
        match wish {
            b'a' => self.attach(),
            b'f' => self.find(),
            b'u' => Ok(self.in_use()),
            b'd' => self.detach(),
            b'x' => self.destroy(),
            _ => Err(AttachError::Died),
        }
    }

    fn attach(&mut self) -> Result<String, AttachError> {
        let mut bus = Bus::open()?;
        bus.add(&self.name)?;
        self.find().inspect_err(|_| {
            // Why there is no disk is what is told.
            let _ = bus.delete(&self.name);
        })
    }

    fn find(&mut self) -> Result<String, AttachError> {
        let disk = wait_for_disk(&self.on_bus)?;
        let text = disk.to_string_lossy().into_owned();
        self.disk = Some(disk);
        Ok(text)
    }

    /// "1" or "0", or why it is not known.
    fn in_use(&self) -> String {
        let used = self.disk.as_deref().map_or(Ok(false), is_in_use);
        used.map_or_else(|error| error.to_string(), |used| u8::from(used).to_string())
    }

    fn detach(&self) -> Result<String, AttachError> {
        match Bus::open()?.delete(&self.name) {
            // Somebody else took it off.
            Err(BusError::Refused(error)) if is(&error, Errno::NODEV) => Ok(String::new()),
            other => other.map(|()| String::new()).map_err(Into::into),
        }
    }

    fn destroy(&self) -> Result<String, AttachError> {
        if self.on_bus.exists() {
            return Ok("kept".to_owned());
        }
        let destroyed =
            Control::open(Path::new(CONTROL)).and_then(|control| control.destroy(&self.name));
        destroyed
            .map(|()| String::new())
            .map_err(|source| AttachError::Destroy { name: self.name.clone(), source })
    }
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
                (DISK_TIME, AttachError::NoNode(path))
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

/// An answer: a letter for what it is, an error of the system or 0 (as text), and a text.
fn encode(answer: Result<String, AttachError>) -> Vec<u8> {
    let code = |error: &io::Error| error.raw_os_error().unwrap_or(libc::EIO);
    let (letter, code, text) = match answer {
        Ok(text) => ('+', 0, text),
        Err(AttachError::Bus(BusError::NoBus)) => ('b', 0, String::new()),
        Err(AttachError::Bus(BusError::Socket(error))) => ('s', code(&error), String::new()),
        Err(AttachError::Bus(BusError::Refused(error))) => ('r', code(&error), String::new()),
        Err(AttachError::Bus(BusError::Answer)) => ('?', 0, String::new()),
        Err(AttachError::Broken) => ('k', 0, String::new()),
        Err(AttachError::NoVirtio) => ('v', 0, String::new()),
        Err(AttachError::NoDriver) => ('d', 0, String::new()),
        Err(AttachError::NoDisk) => ('n', 0, String::new()),
        Err(AttachError::NoNode(path)) => ('p', 0, path.to_string_lossy().into_owned()),
        Err(AttachError::Destroy { name, source }) => ('x', code(&source), name),
        Err(_) => ('!', 0, String::new()),
    };
    let mut bytes = format!("{letter}{code} {text}").into_bytes();
    bytes.truncate(ANSWER_BYTES);
    bytes
}

fn decode(bytes: &[u8]) -> Result<String, AttachError> {
    let text = std::str::from_utf8(bytes).map_err(|_| AttachError::Died)?;
    let (head, text) = text.split_once(' ').ok_or(AttachError::Died)?;
    let (letter, code) = head.split_at_checked(1).ok_or(AttachError::Died)?;
    let error = io::Error::from_raw_os_error(code.parse().map_err(|_| AttachError::Died)?);
    let text = text.to_owned();
    Err(match letter {
        "+" => return Ok(text),
        "b" => BusError::NoBus.into(),
        "s" => BusError::Socket(error).into(),
        "r" if error.kind() == io::ErrorKind::PermissionDenied => AttachError::Permission(error),
        "r" => BusError::Refused(error).into(),
        "?" => BusError::Answer.into(),
        "k" => AttachError::Broken,
        "v" => AttachError::NoVirtio,
        "d" => AttachError::NoDriver,
        "n" => AttachError::NoDisk,
        "p" => AttachError::NoNode(text.into()),
        "x" => AttachError::Destroy { name: text, source: error },
        _ => AttachError::Died,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    #[test]
    fn answers_come_through_as_they_were() {
        let refused = |errno: Errno| AttachError::Bus(BusError::Refused(errno.into()));
        for error in [
            AttachError::Bus(BusError::NoBus),
            AttachError::Bus(BusError::Socket(Errno::MFILE.into())),
            refused(Errno::OPNOTSUPP),
            AttachError::Bus(BusError::Answer),
            AttachError::Broken,
            AttachError::NoVirtio,
            AttachError::NoDriver,
            AttachError::NoDisk,
            AttachError::NoNode("/dev/vdq".into()),
            AttachError::Destroy { name: "d".into(), source: Errno::BUSY.into() },
        ] {
            let (text, debug) = (error.to_string(), format!("{error:?}"));
            let back = decode(&encode(Err(error))).unwrap_err();
            assert_eq!((back.to_string(), format!("{back:?}")), (text, debug));
        }
        assert!(matches!(
            decode(&encode(Err(refused(Errno::PERM)))),
            Err(AttachError::Permission(_))
        ));
        assert_eq!(decode(&encode(Ok("/dev/vdb".into()))).unwrap(), "/dev/vdb");
        for odd in [&b""[..], b"+", b"+0", b"r1x ", b"\xff0 ", b"\xc3\xa90 x"] {
            assert!(matches!(decode(odd), Err(AttachError::Died)), "{odd:?}");
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_told_of_and_the_process_ends_with_its_master() {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .unwrap();
        let hands = Hands::new("zvb-test-no-such-device".into());
        let serving = thread::spawn(move || hands.serve(&theirs));
        let outside = Outside(ours);
        let ask = |wish| {
            outside.ask(wish).unwrap();
            outside.answer()
        };
        assert!(matches!(ask(Wish::Find), Err(AttachError::Broken)));
        assert_eq!(ask(Wish::InUse).unwrap(), "0");
        // Whatever this kernel has, it does not have this one.
        assert!(ask(Wish::Destroy).is_err());
        drop(outside);
        serving.join().unwrap();
    }
}
