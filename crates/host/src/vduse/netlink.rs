//! The little of generic netlink that puts a device on the kernel's vdpa bus and takes it off, where its
//! drivers find it. (What iproute2's `vdpa dev add` does.)
//!
//! Numbers are in the host's own order. The kernel works a request off before the call that sends it
//! returns: a device is not there before its driver has come, and that asks the device itself. So whoever
//! calls must not be the thread that answers for it.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The most that the kernel answers here: an acknowledgement with what was asked, or a family with all of its
/// operations.
const ANSWER_BYTES: usize = 16 << 10;

/// Types and flags of messages.
const ERROR: u16 = 2;
const CONTROL: u16 = 16;
const REQUEST: u16 = 1;
const ACK: u16 = 4;

/// Of the controller: which families there are.
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// Of the vdpa family.
const DEV_NEW: u8 = 3;
const DEV_DEL: u8 = 4;
const MANAGEMENT_DEVICE: u16 = 2;
const DEVICE_NAME: u16 = 4;

/// `struct nlmsghdr` and `struct genlmsghdr`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    bytes: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
    command: u8,
    version: u8,
    reserved: u16,
}

/// `struct nlattr`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Attribute {
    /// With this header, without padding.
    bytes: u16,
    kind: u16,
}

/// Attributes and messages are padded to this.
const ALIGN: usize = 4;
/// `struct nlmsghdr` alone, which an acknowledgement has.
const SHORT_HEADER: usize = 16;

const _: () = {
    assert!(size_of::<Header>() == 20);
    assert!(size_of::<Attribute>() == 4);
};

/// Why a device can not be put on the bus or taken off.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// The kernel knows nothing of vdpa.
    #[error(
        "the kernel has no vdpa bus: load its modules (modprobe -a vduse virtio_vdpa virtio_blk)"
    )]
    NoBus,
    /// Netlink does not work.
    #[error("cannot talk to the kernel's vdpa bus")]
    Socket(#[source] io::Error),
    /// The kernel says no.
    #[error("the kernel's vdpa bus refuses")]
    Refused(#[source] io::Error),
    /// What came back is no answer.
    #[error("the kernel's vdpa bus answers what makes no sense")]
    Answer,
}

/// The kernel's vdpa bus, where drivers find devices.
#[derive(Debug)]
pub(crate) struct Bus {
    socket: OwnedFd,
    family: u16,
    sequence: u32,
}

impl Bus {
    pub(crate) fn open() -> Result<Self, BusError> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::GENERIC),
        )
        .map_err(|errno| BusError::Socket(errno.into()))?;
        let mut bus = Self { socket, family: CONTROL, sequence: 0 };
        let name = (FAMILY_NAME, "vdpa");
        match bus.ask(GET_FAMILY, &[name]) {
            Ok(Some(family)) => bus.family = family,
            Ok(None) => return Err(BusError::Answer),
            Err(BusError::Refused(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Err(BusError::NoBus);
            }
            Err(error) => return Err(error),
        }
        Ok(bus)
    }

    /// Puts the VDUSE device `name` on the bus, and returns when a driver has taken it, or none has.
    pub(crate) fn add(&mut self, name: &str) -> Result<(), BusError> {
        self.ask(DEV_NEW, &[(MANAGEMENT_DEVICE, "vduse"), (DEVICE_NAME, name)]).map(|_| ())
    }

    /// Takes the device `name` off the bus, and returns when its driver has let go of it.
    pub(crate) fn delete(&mut self, name: &str) -> Result<(), BusError> {
        self.ask(DEV_DEL, &[(DEVICE_NAME, name)]).map(|_| ())
    }

    /// Sends a command and waits until it is acknowledged; the family that an answer before that names.
    fn ask(&mut self, command: u8, strings: &[(u16, &str)]) -> Result<Option<u16>, BusError> {
        self.sequence = self.sequence.wrapping_add(1);
        let message = encode(self.family, self.sequence, command, strings);
        send(&self.socket, &message, SendFlags::empty())
            .map_err(|errno| BusError::Socket(errno.into()))?;
        let mut buffer = vec![0; ANSWER_BYTES];
        let mut family = None;
        // One answer with data at most, then the acknowledgement.
        for _ in 0..3 {
            let (bytes, _) = recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty())
                .map_err(|errno| BusError::Socket(errno.into()))?;
            for message in messages(buffer.get(..bytes).unwrap_or_default()) {
                match decode(message, self.sequence)? {
                    Some(Reply::Acknowledged) => return Ok(family),
                    Some(Reply::Refused(error)) => return Err(BusError::Refused(error)),
                    Some(Reply::Family(id)) => family = Some(id),
                    None => {}
                }
            }
        }
        Err(BusError::Answer)
    }
}

/// A request with strings as its attributes.
fn encode(family: u16, sequence: u32, command: u8, strings: &[(u16, &str)]) -> Vec<u8> {
    let mut attributes = Vec::new();
    for (kind, text) in strings {
        // A name is at most 255 bytes; a NUL ends it.
        let bytes = size_of::<Attribute>() + text.len() + 1;
        attributes.extend_from_slice(Attribute { bytes: bytes as u16, kind: *kind }.as_bytes());
        attributes.extend_from_slice(text.as_bytes());
        attributes.push(0);
        attributes.resize(attributes.len().next_multiple_of(ALIGN), 0);
    }
    let header = Header {
        bytes: (size_of::<Header>() + attributes.len()) as u32,
        kind: family,
        flags: REQUEST | ACK,
        sequence,
        port: 0,
        command,
        version: 1,
        reserved: 0,
    };
    [header.as_bytes(), &attributes].concat()
}

/// The messages in a datagram, each with its header.
fn messages(datagram: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let (bytes, _) = u32::read_from_prefix(rest).ok()?;
        let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes >= SHORT_HEADER)?;
        let message = rest.get(..bytes)?;
        rest = rest.get(bytes.next_multiple_of(ALIGN)..).unwrap_or_default();
        Some(message)
    })
}

enum Reply {
    Acknowledged,
    Refused(io::Error),
    Family(u16),
}

/// What `message` says to request `sequence`; `None` when it is about something else.
fn decode(message: &[u8], sequence: u32) -> Result<Option<Reply>, BusError> {
    let (header, attributes) = Header::read_from_prefix(message).map_err(|_| BusError::Answer)?;
    if header.sequence != sequence {
        return Ok(None);
    }
    if header.kind == ERROR {
        let code = message.get(SHORT_HEADER..).and_then(|rest| i32::read_from_prefix(rest).ok());
        let (code, _) = code.ok_or(BusError::Answer)?;
        return Ok(Some(match code.checked_neg() {
            Some(0) | None => Reply::Acknowledged,
            Some(errno) => Reply::Refused(io::Error::from_raw_os_error(errno)),
        }));
    }
    let mut rest = attributes;
    while let Ok((attribute, _)) = Attribute::read_from_prefix(rest) {
        let bytes = usize::from(attribute.bytes);
        let value = rest.get(size_of::<Attribute>()..bytes).ok_or(BusError::Answer)?;
        if attribute.kind == FAMILY_ID {
            let id = u16::read_from_bytes(value).map_err(|_| BusError::Answer)?;
            return Ok(Some(Reply::Family(id)));
        }
        rest = rest.get(bytes.next_multiple_of(ALIGN)..).unwrap_or_default();
    }
    Ok(None)
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_what_iproute2_sends() {
        let bytes = encode(0x1c, 7, DEV_NEW, &[(MANAGEMENT_DEVICE, "vduse"), (DEVICE_NAME, "d")]);
        let golden = [
            &[40, 0, 0, 0, 0x1c, 0, 5, 0, 7, 0, 0, 0, 0, 0, 0, 0, 3, 1, 0, 0][..],
            &[10, 0, 2, 0, b'v', b'd', b'u', b's', b'e', 0, 0, 0],
            &[6, 0, 4, 0, b'd', 0, 0, 0],
        ]
        .concat();
        assert_eq!(bytes, golden);
    }

    fn all(datagram: &[u8], sequence: u32) -> Vec<Reply> {
        messages(datagram).filter_map(|message| decode(message, sequence).unwrap()).collect()
    }

    #[test]
    fn answers_are_read_and_those_to_others_passed_over() {
        let family = [
            &[36, 0, 0, 0, 16, 0, 0, 0, 3, 0, 0, 0, 9, 9, 0, 0, 1, 2, 0, 0][..],
            &[7, 0, 2, 0, b'a', b'b', 0, 0],
            &[6, 0, 1, 0, 0x1c, 0, 0, 0],
        ]
        .concat();
        let acknowledged =
            [&[36, 0, 0, 0, 2, 0, 0, 1, 3, 0, 0, 0, 9, 9, 0, 0][..], &[0, 0, 0, 0], &[0; 16]]
                .concat();
        let both = [family.as_slice(), &acknowledged].concat();
        assert!(matches!(all(&both, 3)[..], [Reply::Family(0x1c), Reply::Acknowledged]));
        assert!(all(&both, 4).is_empty());
        let mut refused = acknowledged;
        refused[16..20].copy_from_slice(&[0xea, 0xff, 0xff, 0xff]);
        let [Reply::Refused(error)] = &all(&refused, 3)[..] else { panic!("not refused") };
        assert_eq!(error.raw_os_error(), Some(22));
    }

    #[test]
    fn cut_or_lying_answers_end() {
        let family = [
            &[28, 0, 0, 0, 16, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0][..],
            &[6, 0, 1, 0, 0x1c, 0, 0, 0],
        ]
        .concat();
        for cut in 0..family.len() {
            messages(&family[..cut]).for_each(|message| drop(decode(message, 3)));
        }
        for at in 0..family.len() {
            for value in [0, 1, 3, 0xff] {
                let mut bent = family.clone();
                bent[at] = value;
                messages(&bent).for_each(|message| drop(decode(message, 3)));
            }
        }
    }

    /// The kernel that runs the tests answers, whatever it has.
    #[test]
    fn this_kernel_is_asked() {
        match Bus::open() {
            Ok(mut bus) => {
                let Err(BusError::Refused(_)) = bus.delete("zvb-test-no-such-device") else {
                    panic!("deleted what is not there")
                };
            }
            Err(error) => {
                assert!(matches!(error, BusError::NoBus | BusError::Socket(_)), "{error}")
            }
        }
    }
}
