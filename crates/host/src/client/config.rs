//! Configuration space over vhost-user, and what servers make of it.
//!
//! The protocol has no way to ask how long it is, and wants the answer to be as long as the request was.
//! Some servers ignore the offset; some refuse a length beyond what they know. So it is always read whole
//! from 0 on, in a length that is found out once.

use core::mem::{offset_of, size_of};

use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;
use zvb_wire::{Config, Features};

use super::connection::Connection;
use super::error::{ClientError, Violation};
use crate::vhost_user::{ConfigHeader, FrontendRequest, MAX_CONFIG_BYTES};

/// The ends of the configuration space over the life of the specification, the longest first.
const LENGTHS: [u32; 5] = [
    size_of::<Config>() as u32,
    offset_of!(Config, zoned) as u32,
    offset_of!(Config, max_secure_erase_sectors) as u32,
    offset_of!(Config, max_discard_sectors) as u32,
    offset_of!(Config, writeback) as u32,
];

/// How much configuration space the server lets us read, at most what the features that it offers need.
/// 0 when it lets us read none.
pub(super) fn find_len(connection: &Connection, offered: Features) -> Result<u32, ClientError> {
    let skip = if offered.contains(Features::ZONED) {
        0
    } else if offered.contains(Features::SECURE_ERASE) {
        1
    } else {
        2
    };
    for len in LENGTHS.into_iter().skip(skip) {
        if read(connection, len)?.is_some() {
            return Ok(len);
        }
    }
    Ok(0)
}

/// The first `len` bytes of configuration space; `None` when the server refuses.
pub(super) fn read(connection: &Connection, len: u32) -> Result<Option<Vec<u8>>, ClientError> {
    debug_assert!(len <= MAX_CONFIG_BYTES);
    let request = FrontendRequest::GET_CONFIG;
    let header = ConfigHeader { offset: U32::ZERO, size: U32::new(len), flags: U32::ZERO };
    let mut payload = header.as_bytes().to_vec();
    let whole = payload.len() + len as usize;
    payload.resize(whole, 0);
    let frame = connection.ask_frame(request, &payload)?;
    let got = frame.payload.len();
    if got == whole {
        return Ok(frame.payload.get(size_of::<ConfigHeader>()..).map(<[u8]>::to_vec));
    }
    // A refusal is an answer of nothing, or of a header alone.
    if got == 0 || got == size_of::<ConfigHeader>() {
        return Ok(None);
    }
    let violation = Violation::Size { expected: whole, got };
    Err(ClientError::Violation { request, violation })
}

/// Writes `bytes` at `offset`.
pub(super) fn write(connection: &Connection, offset: u32, bytes: &[u8]) -> Result<(), ClientError> {
    let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let header = ConfigHeader { offset: U32::new(offset), size: U32::new(size), flags: U32::ZERO };
    let mut payload = header.as_bytes().to_vec();
    payload.extend_from_slice(bytes);
    connection.command(FrontendRequest::SET_CONFIG, &payload, &[])?;
    connection.barrier()
}
