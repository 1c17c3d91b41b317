//! Opening an image, and finding out what its zones are in.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use zvb_zones::{Geometry, ZoneId};

use super::Image;
use super::format::{Header, State, is_sync_noted};
use super::refusal::{OpenError, Refusal};
use crate::committer::Committer;
use crate::engine::{EngineKind, Served};
use crate::file::{FileMedium, Lock, kind_of_file, lock_file, lock_holder};
use crate::medium::Medium;
use crate::store::Store;
use crate::table::{Entry, Record, RecordError};

/// How an image is opened.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// It is not changed at all; others may read it meanwhile.
    pub read_only: bool,
    /// What moves its bytes.
    pub engine: EngineKind,
    /// Data goes past the host's page cache.
    pub direct: bool,
    /// Who makes things durable.
    pub commit: CommitBy,
    /// The identity of this boot of the host; `None` asks the kernel.
    pub boot: Option<[u8; 16]>,
}

/// Who makes things durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CommitBy {
    /// A thread of the image's own, so that queues go on meanwhile.
    #[default]
    Thread,
    /// The flush itself, inside [`Engine::start`](crate::Engine::start): for a simulation in one thread.
    Caller,
}

/// How an image had been left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Recovery {
    /// In order.
    Clean,
    /// The process that had it open died; the host did not. Every state recorded is there.
    ProcessDied,
    /// The host died, or the image came from another. What was flushed is there.
    HostDied,
    /// The medium could not keep what was written. What was flushed before is there.
    SyncFailed,
}

impl Recovery {
    /// Of an image with `header`, opened in `boot`.
    pub(super) fn of(header: &Header, boot: [u8; 16]) -> Self {
        match header.state {
            State::Clean => Self::Clean,
            State::SyncFailed => Self::SyncFailed,
            State::Dirty if header.is_of_boot(boot) => Self::ProcessDied,
            State::Dirty => Self::HostDied,
        }
    }
}

impl Image {
    /// Opens the image at `path`.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self, OpenError> {
        open_file(path, options).map_err(OpenError::at(path))
    }

    /// Opens the image on `medium`, which nobody else has.
    pub fn open_on(mut medium: Box<dyn Medium>, options: &OpenOptions) -> Result<Self, Refusal> {
        let mut header = Header::read(medium.as_ref())?;
        let read_only = options.read_only;
        if header.unknown_ro_compat() != 0 && !read_only {
            return Err(Refusal::ReadOnlyFeatures(header.unknown_ro_compat()));
        }
        let boot = options.boot.map_or_else(this_boot, Ok)?;
        let mut recovery = Recovery::of(&header, boot);
        // Of a closed image, too: it may have been killed while it was closed.
        if header.is_of_boot(boot)
            && recovery != Recovery::SyncFailed
            && !read_only
            && is_sync_noted(medium.as_ref()).map_err(Refusal::io("read"))?
            && medium.lost_writes().is_err()
        {
            // Before anything else: nobody will be told again.
            recovery = Recovery::SyncFailed;
            let mut failed = Header { state: State::SyncFailed, ..header.clone() };
            failed.write_both(medium.as_ref(), false).map_err(Refusal::io("write to"))?;
            header.sequence = failed.sequence;
        }
        if recovery == Recovery::SyncFailed {
            medium.forget().map_err(Refusal::io("read"))?;
        }
        medium.map(header.table_at, header.table_words()).map_err(Refusal::io("map"))?;
        let entries = entries(medium.as_ref(), &header, recovery)?;
        let recovered = entries.iter().map(|e| e.state).collect();

        let store = Store::new(header.shape(read_only), header.layout, medium, &entries);
        if !read_only {
            claim(&store, header, &entries, recovery, boot)?;
        }
        let store = Arc::new(store);
        let committer = match options.commit {
            CommitBy::Caller => Committer::Caller,
            CommitBy::Thread => Committer::thread(Arc::clone(&store)),
        };
        Ok(Self {
            served: Arc::new(Served::new(store, committer)),
            engine: options.engine,
            recovery,
            recovered,
        })
    }
}

fn open_file(path: &Path, options: &OpenOptions) -> Result<Image, Refusal> {
    let medium = locked_medium(path, !options.read_only, options.direct)?;
    Image::open_on(Box::new(medium), options)
}

/// The file at `path`, locked: for others too if it is not to be written.
pub(super) fn locked_medium(path: &Path, write: bool, direct: bool) -> Result<FileMedium, Refusal> {
    let file = regular_file(path, write)?;
    let lock = if write { Lock::Exclusive } else { Lock::Shared };
    if !lock_file(&file, lock).map_err(Refusal::io("lock"))? {
        return Err(Refusal::InUse { pid: lock_holder(&file) });
    }
    FileMedium::new(file, path, write, direct).map_err(Refusal::io("open"))
}

/// The file at `path`, if it is one. Anything else is not opened: that alone may do things.
pub(super) fn regular_file(path: &Path, write: bool) -> Result<File, Refusal> {
    let metadata = path.metadata().map_err(Refusal::io("look at"))?;
    if let Some(kind) = kind_of_file(&metadata) {
        return Err(Refusal::NotAFile(kind));
    }
    let mut how = File::options();
    how.read(true).write(write).open(path).map_err(Refusal::io("open"))
}

/// False where the system does not tell one boot of the host from another: the death of a process can not be
/// told from that of the host then, and costs all that was not flushed.
pub fn is_boot_known() -> bool {
    this_boot().is_ok_and(|boot| boot != [0; 16])
}

/// The identity of this boot of the host; all zero where the system does not tell it.
pub(super) fn this_boot() -> Result<[u8; 16], Refusal> {
    let boot = boot_in(std::fs::read_to_string("/proc/sys/kernel/random/boot_id"));
    let doing = "tell in which boot of the host this is, and open";
    boot.map_err(|source| Refusal::Io { doing, source })
}

/// The boot that was read. That it could not be read this time is no reason to give up what was not flushed.
fn boot_in(read: io::Result<String>) -> io::Result<[u8; 16]> {
    let text = match read {
        Ok(text) => text,
        Err(error) => match error.kind() {
            ErrorKind::NotFound | ErrorKind::PermissionDenied => return Ok([0; 16]),
            _ => return Err(error),
        },
    };
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).take(33).collect();
    Ok(match u128::from_str_radix(&digits, 16) {
        Ok(id) if digits.len() == 32 => {
            let mut bytes = id.to_le_bytes();
            bytes.reverse();
            bytes
        }
        _ => [0; 16],
    })
}

/// What every zone is in, in order.
pub(super) fn entries(
    medium: &dyn Medium,
    header: &Header,
    recovery: Recovery,
) -> Result<Vec<Entry>, Refusal> {
    let Some(geometry) = &header.geometry else { return Ok(Vec::new()) };
    let mut owned = vec![false; header.layout.slots as usize];
    let mut entries = Vec::with_capacity(geometry.zone_count() as usize);
    for zone in geometry.zones() {
        let entry = Record::of(medium.words(), zone)
            .ok_or(RecordError::Torn)
            .and_then(|record| entry(record, geometry, header.layout.slots, zone, recovery))
            .and_then(|entry| own(&mut owned, entry))
            .map_err(|source| Refusal::BadRecord { zone: zone.0, source })?;
        entries.push(entry);
    }
    if medium.words_lost() {
        return Err(Refusal::io("read the zone table of")(rustix::io::Errno::IO.into()));
    }
    Ok(entries)
}

/// What `zone` is in, by its record.
pub(super) fn entry(
    record: Record<'_>,
    geometry: &Geometry,
    slots: u32,
    zone: ZoneId,
    recovery: Recovery,
) -> Result<Entry, RecordError> {
    let unpack = |word| Entry::unpack(word, zone, geometry, slots);
    match recovery {
        Recovery::ProcessDied => unpack(record.latest()),
        Recovery::HostDied | Recovery::SyncFailed => unpack(record.durable()?),
        Recovery::Clean => {
            let (latest, durable) = (unpack(record.latest())?, unpack(record.durable()?)?);
            if latest == durable { Ok(durable) } else { Err(RecordError::Differs) }
        }
    }
}

/// Notes that the slot of `entry` is taken.
fn own(owned: &mut [bool], entry: Entry) -> Result<Entry, RecordError> {
    if let Some(slot) = entry.slot {
        match owned.get_mut(slot as usize) {
            Some(taken) if !*taken => *taken = true,
            _ => return Err(RecordError::Shared { slot }),
        }
    }
    Ok(entry)
}

/// Makes the image ours: what was found becomes the latest and the durable state, the superblocks say
/// that it is open in this boot, and what belongs to no zone is cleared. In this order: a death in
/// between finds the image as it was, or as it is now.
fn claim(
    store: &Store,
    mut header: Header,
    entries: &[Entry],
    recovery: Recovery,
    boot: [u8; 16],
) -> Result<(), Refusal> {
    for (zone, entry) in (0u32..).map(ZoneId).zip(entries) {
        let Some(record) = Record::of(store.medium.words(), zone) else { continue };
        let packed = entry.pack();
        let at_birth = record.latest() == 0 && entry.slot.is_none() && entry.state.to_bits() <= 1;
        if record.latest() != packed && !at_birth {
            record.set_latest(packed);
        }
        record.clear_torn();
        if record.durable() != Ok(record.latest()) {
            store.mark_changed(zone);
        }
    }
    header.boot = boot;
    let committed = store.say_dirty(header).and_then(|()| store.commit());
    committed.map_err(|error| Refusal::io("sync")(error.into()))?;
    if recovery != Recovery::Clean {
        store.clear_tails(entries).map_err(Refusal::io("clear"))?;
    }
    store.clear_remains().map_err(Refusal::io("clear"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_is_unknown_only_where_the_system_does_not_tell_it() {
        let text = "c7a62a8e-5b3c-4bbf-9d0c-0123456789ab\n".to_owned();
        assert_eq!(boot_in(Ok(text)).unwrap()[..5], [0xc7, 0xa6, 0x2a, 0x8e, 0x5b]);
        assert_eq!(boot_in(Ok(String::new())).unwrap(), [0; 16]);
        assert_eq!(boot_in(Err(ErrorKind::NotFound.into())).unwrap(), [0; 16]);
        for errno in [rustix::io::Errno::MFILE, rustix::io::Errno::IO] {
            assert!(boot_in(Err(errno.into())).is_err());
        }
    }
}
