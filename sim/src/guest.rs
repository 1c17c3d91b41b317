//! A guest that works: many requests at a time, of every kind, and a ledger of them.

use std::collections::{BTreeMap, VecDeque};

use zvb_driver::{Answer, Completion, Features, Request, RequestError};
use zvb_storage::GrowError;
use zvb_wire::{Sector, ZoneType};

use crate::content::Tag;
use crate::ledger::{Kind, Ledger, Mismatch, Outcome, View};
use crate::load;
use crate::memory::Memory;
use crate::rig::{Rig, RigError};
use crate::rng::Rng;
use crate::setup::Setup;

/// Notes kept for whoever looks for what went wrong.
const TRACE: usize = 60;
/// Operations in flight in one zone.
const ZONE_DEPTH: usize = 6;

/// What a guest saw that can not be.
#[derive(Debug, thiserror::Error)]
pub enum Violation {
    /// A zone that is not what it must be.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// The machine does not do what it must.
    #[error(transparent)]
    Rig(#[from] RigError),
    /// An answer that nothing explains.
    #[error("request {id} is answered with {answer}, {why}; the device says {faults:?}")]
    Answer {
        /// The request.
        id: u64,
        /// Its answer.
        answer: String,
        /// Why that is wrong.
        why: &'static str,
        /// What the device complained of.
        faults: Vec<String>,
    },
    /// The device is broken, as the driver sees it.
    #[error("the driver gives up: {0}")]
    Driver(String),
    /// The disk has another size than it can have.
    #[error("the disk has {found} sectors, and was known to have {known}")]
    Size {
        /// What was found.
        found: u64,
        /// What it had.
        known: u64,
    },
    /// The image was found in another state than it was left in.
    #[error("the image says that it was left as {0}")]
    Recovery(String),
    /// The image is not what it must be.
    #[error("the image, {0:?}, does not pass a check: {1}")]
    Image(Left, String),
}

/// What was done with an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    /// It was left in any way.
    Anyhow,
    /// It is open, and nothing was done with it yet.
    Open,
    /// It was closed.
    Closed,
}

/// A line of the trace.
#[derive(Clone, Copy, Debug)]
pub enum Note {
    /// Asked of a zone.
    Ask(u64, usize, Kind),
    /// Asked of all zones.
    ResetAll(u64),
    /// Asked.
    Flush(u64),
    /// Answered.
    Answer(u64, Outcome, Option<u64>),
    /// The cache was switched: true for writeback.
    Cache(bool),
    /// Everything was looked at, and was right.
    Audit,
    /// The disk grew to so many sectors, or did not.
    Grow(u64, bool),
    /// All ended.
    End(&'static str),
}

/// A request in flight.
#[derive(Clone, Debug)]
struct Sent {
    id: u64,
    zones: Vec<usize>,
    kind: Option<Kind>,
    /// Of a flush: what it covers.
    covers: Option<u64>,
    /// A sync had failed when it was sent.
    hopeless: bool,
}

/// The guest.
#[derive(Clone, Debug)]
pub struct Guest {
    /// What it knows.
    pub ledger: Ledger,
    /// What it did last.
    pub trace: VecDeque<Note>,
    /// Requests that were done, and that were not.
    pub done: u64,
    /// See `done`.
    pub refused: u64,
    setup: Setup,
    rng: Rng,
    next: u64,
    sent: BTreeMap<(u16, usize), Sent>,
    /// A request on which all later ones wait is in flight.
    barrier: bool,
    writeback: bool,
    /// The size that the disk has when it is found again, or not: growing it failed at the very end.
    pub uncertain: Option<u64>,
}

impl Guest {
    /// A guest of a new disk.
    pub fn new(setup: &Setup, rng: Rng) -> Self {
        Self {
            ledger: Ledger::new(setup.geometry().as_ref(), setup.capacity),
            trace: VecDeque::new(),
            done: 0,
            refused: 0,
            setup: setup.clone(),
            rng,
            next: 1,
            sent: BTreeMap::new(),
            barrier: false,
            writeback: !setup.no_flush,
            uncertain: None,
        }
    }

    /// The machine was switched on again: nothing is in flight.
    pub fn restart(&mut self, ledger: Ledger) {
        self.ledger = ledger;
        self.sent.clear();
        self.barrier = false;
        self.uncertain = None;
        self.writeback = !self.setup.no_flush;
    }

    /// Writes into the trace.
    pub fn note(&mut self, note: Note) {
        if self.trace.len() == TRACE {
            self.trace.pop_front();
        }
        self.trace.push_back(note);
    }

    /// True when nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.sent.is_empty()
    }

    /// Asks for a few things, and has the device take a turn or two.
    pub fn work(&mut self, rig: &mut Rig) -> Result<(), Violation> {
        if self.is_idle() && !self.setup.no_flush && self.rng.chance(3) {
            self.writeback = !self.writeback;
            self.note(Note::Cache(self.writeback));
            let set = rig.driver.set_writeback(self.writeback);
            set.map_err(|e| Violation::Driver(e.to_string()))?;
        }
        for _ in 0..self.rng.below(4) {
            if (self.sent.len() as u64) < self.setup.depth && !self.barrier {
                self.ask(rig)?;
            }
        }
        for queue in 0..self.setup.queues {
            rig.driver.kick(queue).map_err(|e| Violation::Driver(e.to_string()))?;
        }
        for _ in 0..self.rng.below(3) {
            let lane = self.rng.below(self.setup.queues.into());
            rig.link.turn(lane as usize);
        }
        Ok(())
    }

    fn ask(&mut self, rig: &mut Rig) -> Result<(), Violation> {
        let (flushes, roll) = (self.setup.flushes, self.rng.below(100));
        if roll < flushes && !self.setup.no_flush {
            let queue = self.rng.below(self.setup.queues.into()) as u16;
            return self.flush(rig, queue);
        }
        if roll == 99 && self.setup.spec.is_some() && (self.setup.queues == 1 || self.is_idle()) {
            return self.reset_all(rig);
        }
        let zone = self.rng.below(self.ledger.zones.len() as u64) as usize;
        let known = &self.ledger.zones[zone];
        if self.sent.values().filter(|sent| sent.zones.contains(&zone)).count() >= ZONE_DEPTH {
            return Ok(());
        }
        if roll > 90 {
            return self.read(rig, zone);
        }
        let discard = rig.driver.info().features.contains(Features::DISCARD);
        match load::choose(&self.setup, known, discard, &mut self.rng) {
            Some(kind) => self.send(rig, zone, kind),
            None => Ok(()),
        }
    }

    fn send(&mut self, rig: &mut Rig, zone: usize, kind: Kind) -> Result<(), Violation> {
        let (id, start) = (self.next, Sector(self.ledger.zones[zone].start));
        let flag = self.rng.chance(50);
        let request = load::request(&rig.driver, id, start, kind, flag);
        let request = request.map_err(|e| Violation::Driver(e.to_string()))?;
        let queue = (zone as u64 % u64::from(self.setup.queues)) as u16;
        let sent = Sent { id, zones: vec![zone], kind: Some(kind), covers: None, hopeless: false };
        if self.submit(rig, queue, request, sent) {
            self.ledger.begin(zone, id, kind);
            self.note(Note::Ask(id, zone, kind));
        }
        Ok(())
    }

    fn read(&mut self, rig: &mut Rig, zone: usize) -> Result<(), Violation> {
        let (unit, known) = (self.setup.unit(), &self.ledger.zones[zone]);
        let at = unit * self.rng.below(known.len / unit);
        let len = unit * (1 + self.rng.below((known.len - at) / unit));
        let at = Sector(known.start + at);
        let buffer = rig.driver.buffer(len as usize * 512);
        let buffer = buffer.map_err(|e| Violation::Driver(e.to_string()))?;
        let queue = self.rng.below(self.setup.queues.into()) as u16;
        let sent =
            Sent { id: self.next, zones: Vec::new(), kind: None, covers: None, hopeless: false };
        self.submit(rig, queue, Request::Read { at, buffer }, sent);
        Ok(())
    }

    fn flush(&mut self, rig: &mut Rig, queue: u16) -> Result<(), Violation> {
        let (id, covers) = (self.next, Some(self.ledger.now()));
        let sent = Sent { id, zones: Vec::new(), kind: None, covers, hopeless: false };
        if self.submit(rig, queue, Request::Flush, sent) {
            self.note(Note::Flush(id));
        }
        Ok(())
    }

    fn reset_all(&mut self, rig: &mut Rig) -> Result<(), Violation> {
        let id = self.next;
        let zones: Vec<usize> = (0..self.ledger.zones.len())
            .filter(|z| self.ledger.zones[*z].kind != ZoneType::Conventional)
            .collect();
        let kind = Some(Kind::Reset);
        let sent = Sent { id, zones: zones.clone(), kind, covers: None, hopeless: false };
        if self.submit(rig, 0, Request::ResetAll, sent) {
            zones.into_iter().for_each(|zone| self.ledger.begin(zone, id, Kind::Reset));
            self.barrier = self.setup.queues > 1;
            self.note(Note::ResetAll(id));
        }
        Ok(())
    }

    /// Sends a request, unless there is no room for it.
    fn submit(
        &mut self,
        rig: &mut Rig,
        queue: u16,
        request: Request<Memory>,
        mut sent: Sent,
    ) -> bool {
        sent.hopeless = rig.disk.lock().sync_failed;
        let Ok(token) = rig.driver.submit(queue, request) else { return false };
        self.next += 1;
        self.sent.insert((queue, token.slot()), sent);
        true
    }

    /// Makes the disk larger while it is used. What may have ended meanwhile is given to `keep`, with the size
    /// that it was to have, and before the guest knows of it.
    pub fn grow(
        &mut self,
        rig: &mut Rig,
        mut keep: impl FnMut(&Rig, &Self, u64),
    ) -> Result<(), Violation> {
        let from = self.ledger.capacity();
        let to = self.setup.larger(from, &mut self.rng);
        let size = self.setup.spec.map(|spec| spec.zone_size.0);
        if to == from || to > 4096 || self.uncertain.is_some() || !self.ledger.may_grow(size) {
            return Ok(());
        }
        let grown = rig.link.resize(Sector(to));
        if matches!(grown, Err(GrowError::Failed)) {
            // The image says so, and takes nothing more.
            rig.disk.lock().sync_failed = true;
            self.uncertain = Some(to);
        }
        keep(rig, self, to);
        self.note(Note::Grow(to, grown.is_ok()));
        match grown {
            Ok(()) => self.ledger.grow(self.setup.geometry_at(to).as_ref(), to),
            Err(_) if rig.disk.lock().failed > 0 => return Ok(()),
            Err(error) => return Err(Violation::Driver(format!("it does not grow: {error:?}"))),
        }
        let errors = std::mem::take(&mut rig.disk.lock().errors);
        let known = rig.driver.refresh();
        rig.disk.lock().errors = errors;
        match known {
            Ok(true) if rig.driver.info().capacity == Sector(to) => Ok(()),
            other => Err(Violation::Driver(format!("it grew, and the driver knows {other:?}"))),
        }
    }

    /// Hears what the device has answered.
    pub fn listen(&mut self, rig: &mut Rig) -> Result<(), Violation> {
        for queue in 0..self.setup.queues {
            while let Some(completion) =
                rig.driver.poll(queue).map_err(|e| Violation::Driver(e.to_string()))?
            {
                let Some(sent) = self.sent.remove(&(queue, completion.token.slot())) else {
                    return Err(Violation::Driver("an answer to nothing".into()));
                };
                self.answered(rig, &sent, &completion)?;
            }
        }
        Ok(())
    }

    fn answered(
        &mut self,
        rig: &Rig,
        sent: &Sent,
        completion: &Completion<Memory>,
    ) -> Result<(), Violation> {
        let wrong = |why| Violation::Answer {
            id: sent.id,
            answer: format!("{:?}", completion.result),
            why,
            faults: rig.link.faults().take(),
        };
        let failures = rig.disk.lock().failed;
        let mut at = None;
        let outcome = match &completion.result {
            Ok(answer) => {
                if let (Answer::Appended(sector), Some(zone)) = (answer, sent.zones.first()) {
                    at = Some(sector.0 - self.ledger.zones[*zone].start);
                }
                Outcome::Done
            }
            Err(RequestError::Io) if failures == 0 => {
                return Err(wrong("and the medium has no errors"));
            }
            // Done, perhaps, and not durable.
            Err(RequestError::Io) if !self.writeback => Outcome::Unknown,
            Err(
                RequestError::Io
                | RequestError::InvalidCommand
                | RequestError::UnalignedWritePointer
                | RequestError::OpenResource
                | RequestError::ActiveResource,
            ) => Outcome::Failed,
            Err(_) => return Err(wrong("which makes no sense")),
        };
        let changes = sent.covers.is_some() || sent.kind.is_some_and(|kind| kind != Kind::Touch);
        if sent.hopeless && changes && outcome == Outcome::Done {
            return Err(wrong("after a sync has failed"));
        }
        match outcome {
            Outcome::Done => self.done += 1,
            _ => self.refused += 1,
        }
        self.barrier = false;
        self.note(Note::Answer(sent.id, outcome, at));
        for zone in &sent.zones {
            self.ledger.end(*zone, sent.id, outcome, at, !self.writeback);
        }
        match (sent.covers, outcome, &completion.buffer, sent.kind) {
            (Some(then), Outcome::Done, _, _) => self.ledger.flushed(then),
            (None, Outcome::Done, Some(buffer), None) => {
                let known = buffer.chunks_exact(512).all(|sector| Tag::of(sector).is_some());
                if !known {
                    return Err(wrong("and holds what nobody ever wrote"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Looks at everything; nothing may be in flight.
    pub fn audit(&mut self, rig: &mut Rig) -> Result<(), Violation> {
        let errors = std::mem::take(&mut rig.disk.lock().errors);
        let found = rig.look(&self.ledger);
        rig.disk.lock().errors = errors;
        self.ledger.check(View::Live, &found?)?;
        self.note(Note::Audit);
        Ok(())
    }
}
