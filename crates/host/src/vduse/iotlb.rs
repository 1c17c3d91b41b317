//! A driver's memory as VDUSE gives it out: piece by piece, when somebody asks what lies at an address.
//!
//! The kernel does not say when pieces come (the one that data goes through is there only from the first
//! request on), so an address that is not known yet is asked for. A piece that is known stays: a driver
//! that takes one away resets the device or says so first, and then all is forgotten.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use zvb_ring::GuestMemory;
use zvb_storage::{Access, GuardedMapping};

use super::abi::IotlbEntry;
use super::port::Port;
use crate::memory::MAX_REGIONS;
use crate::server::log::{Level, Log};
use crate::worker::Space;

/// May be read and written.
const READ_WRITE: u8 = 3;

/// Addresses that are mapped here.
struct Piece {
    first: u64,
    last: u64,
    mapping: GuardedMapping,
}

impl Piece {
    /// Where `address` is, and how many of `len` bytes from there on are in this piece.
    fn find(&self, address: u64, len: u64) -> Option<(NonNull<u8>, u64)> {
        if address < self.first || address > self.last {
            return None;
        }
        // Inside the piece, which is mapped as a whole: both fit `usize`.
        let offset = address - self.first;
        let run = len.min((self.last - address).saturating_add(1));
        Some((self.mapping.piece(offset as usize, run as usize)?, run))
    }
}

/// All that is known of a driver's memory, for every queue.
pub(crate) struct Iotlb {
    port: Arc<dyn Port>,
    log: Arc<dyn Log>,
    /// Filled from the front, never changed: looked at without a lock.
    pieces: Box<[OnceLock<Arc<Piece>>]>,
    /// One asks at a time.
    asking: Mutex<()>,
}

impl Iotlb {
    pub(crate) fn new(port: Arc<dyn Port>, log: Arc<dyn Log>) -> Arc<Self> {
        let pieces = (0..MAX_REGIONS).map(|_| OnceLock::new()).collect();
        Arc::new(Self { port, log, pieces, asking: Mutex::new(()) })
    }

    /// The piece that holds `address`.
    fn piece(&self, address: u64) -> Option<Arc<Piece>> {
        let holds = |piece: &&Arc<Piece>| (piece.first..=piece.last).contains(&address);
        let _one = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = self.known().find(holds) {
            return Some(Arc::clone(known));
        }
        let room = self.pieces.iter().find(|place| place.get().is_none())?;
        match self.ask(address) {
            Ok(piece) => piece.map(|piece| Arc::clone(room.get_or_init(|| Arc::new(piece)))),
            Err(error) => {
                self.log.log(
                    Level::Error,
                    format_args!("cannot map the driver's memory at {address:#x}: {error}"),
                );
                None
            }
        }
    }

    fn known(&self) -> impl Iterator<Item = &Arc<Piece>> {
        self.pieces.iter().map_while(OnceLock::get)
    }

    fn ask(&self, address: u64) -> io::Result<Option<Piece>> {
        let Some((entry, file)) = self.port.region(address, address)? else { return Ok(None) };
        let IotlbEntry { offset, start, last, perm, .. } = entry;
        if !(start..=last).contains(&address) {
            return Err(io::Error::other("the kernel answers with another address"));
        }
        if perm != READ_WRITE {
            return Err(io::Error::other("it can not be both read and written"));
        }
        let page = rustix::param::page_size() as u64;
        let bytes = (last - start).checked_add(1).and_then(|b| b.checked_next_multiple_of(page));
        let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok());
        let Some(bytes) = bytes.filter(|_| offset.is_multiple_of(page)) else {
            return Err(io::Error::other("it is not made of pages"));
        };
        let mapping = GuardedMapping::new(file.as_fd(), offset, bytes, Access::Write)?;
        Ok(Some(Piece { first: start, last, mapping }))
    }
}

impl Space for Iotlb {
    fn view(self: Arc<Self>) -> Rc<dyn GuestMemory> {
        Rc::new(IotlbView { iotlb: self, known: RefCell::default(), last: Cell::new(0) })
    }

    fn is_lost(&self) -> bool {
        self.known().any(|piece| piece.mapping.is_lost())
    }
}

/// An [`Iotlb`] for the queues of one thread: it remembers what it was told.
pub(crate) struct IotlbView {
    iotlb: Arc<Iotlb>,
    /// Only grows.
    known: RefCell<Vec<Arc<Piece>>>,
    /// The one that was hit last.
    last: Cell<usize>,
}

impl IotlbView {
    /// What [`GuestMemory::translate`] answers.
    pub(crate) fn find(&self, address: u64, len: u64) -> Option<(NonNull<u8>, u64)> {
        if len == 0 {
            return None;
        }
        let known = self.known.borrow();
        if let Some(hit) = known.get(self.last.get()).and_then(|piece| piece.find(address, len)) {
            return Some(hit);
        }
        for (index, piece) in known.iter().enumerate() {
            if let Some(hit) = piece.find(address, len) {
                self.last.set(index);
                return Some(hit);
            }
        }
        drop(known);
        let piece = self.iotlb.piece(address)?;
        let hit = piece.find(address, len);
        let mut known = self.known.borrow_mut();
        self.last.set(known.len());
        known.push(piece);
        hit
    }
}
