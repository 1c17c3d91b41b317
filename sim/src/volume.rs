//! An image whose engines do things in any order, as disks do.

use std::cell::RefCell;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use zvb_storage::{Done, Engine, EngineError, GrowError, Image, Io, Shape, Volume, VolumeError};
use zvb_wire::Sector;
use zvb_zones::{Snapshot, ZoneId};

use crate::medium::{Disk, Mutation};
use crate::rng::Rng;

/// Where the zone table, the slots and their size are told in the superblock.
const TABLE_AT: u64 = 128;
const SLOTS_AT: u64 = 144;
const SLOT_BYTES: u64 = 152;
/// Where the number of a slot is in a zone's record.
const SLOT_SHIFT: u32 = 37;

/// An image, and the disk that it lies on.
pub struct Shuffled {
    image: Arc<Image>,
    disk: Disk,
    rng: Mutex<Rng>,
}

impl fmt::Debug for Shuffled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.image.fmt(f)
    }
}

impl Shuffled {
    /// `image`, which lies on `disk`.
    pub fn new(image: Arc<Image>, disk: Disk, rng: Rng) -> Self {
        Self { image, disk, rng: Mutex::new(rng) }
    }

    /// A mutation: gives the space of `zone` back before that is due.
    fn punch(&self, zone: ZoneId) {
        let mut platter = self.disk.lock();
        platter.observe();
        let latest = platter.word(platter.word(TABLE_AT) + 64 * u64::from(zone.0));
        if let Some(slot) = (latest >> SLOT_SHIFT).checked_sub(1) {
            let bytes = platter.word(SLOT_BYTES);
            let at = platter.word(SLOTS_AT) + slot * bytes;
            platter.punch(at..at + bytes);
        }
    }
}

impl Volume for Shuffled {
    fn shape(&self) -> Shape {
        self.image.shape()
    }

    fn recovered(&self) -> Vec<Snapshot> {
        self.image.recovered()
    }

    fn record(&self, zone: ZoneId, state: Snapshot) {
        let early = self.disk.lock().mutation == Mutation::EarlyPunch;
        if early && state == Snapshot::EMPTY {
            self.punch(zone);
        }
        self.image.record(zone, state);
        self.disk.lock().observe();
    }

    fn has_failed(&self) -> bool {
        self.image.has_failed()
    }

    fn engine(self: Arc<Self>, depth: u32) -> Result<Box<dyn Engine>, EngineError> {
        let inner = Arc::clone(&self.image).engine(depth)?;
        let rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner).fork();
        Ok(Box::new(Shuffler { inner, waiting: Vec::new(), rng: Rc::new(RefCell::new(rng)) }))
    }

    fn grow(&self, capacity: Sector) -> Result<(), GrowError> {
        let grown = self.image.grow(capacity);
        self.disk.lock().observe();
        grown
    }

    fn close(&self) -> Result<(), VolumeError> {
        self.image.close()
    }
}

/// Gives what it is given to another engine, later and in another order.
struct Shuffler {
    inner: Box<dyn Engine>,
    waiting: Vec<Io>,
    rng: Rc<RefCell<Rng>>,
}

impl Engine for Shuffler {
    fn submit(&mut self, io: Io) {
        self.waiting.push(io);
    }

    fn start(&mut self) {
        let rng = &mut *self.rng.borrow_mut();
        // Sometimes nothing, sometimes all: most often some.
        let eager = rng.pick(&[0, 30, 60, 100]);
        let mut i = 0;
        while i < self.waiting.len() {
            if rng.chance(eager) {
                self.inner.submit(self.waiting.swap_remove(i));
            } else {
                i += 1;
            }
        }
        self.inner.start();
    }

    fn reap(&mut self, done: &mut Vec<Done>) {
        self.inner.reap(done);
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight() + self.waiting.len()
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        self.inner.event()
    }
}
