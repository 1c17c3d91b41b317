//! A guest that works on a real server: many requests at a time, of every kind, on all queues.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use zvb_driver::{Answer, Completion, Disk, Features, Request, RequestError};
use zvb_host::client::{SharedMemory, VhostUser};
use zvb_sim::content::Tag;
use zvb_sim::guest::Note;
use zvb_sim::ledger::{Found, Kind, Ledger, Mismatch, Outcome, View};
use zvb_sim::load;
use zvb_sim::rng::Rng;
use zvb_sim::setup::Setup;
use zvb_wire::{Sector, ZoneType};

use crate::crowd::Crowd;

/// The driver, on a server.
pub type Driver = Disk<VhostUser, SharedMemory>;

/// Notes kept for whoever looks for what went wrong.
const TRACE: usize = 200;
/// Operations in flight in one zone.
const ZONE_DEPTH: usize = 6;
/// Appends that go into one crowd.
const CROWD: usize = 12;
/// How long to wait when there is nothing to do.
const PAUSE: Duration = Duration::from_micros(20);

/// What must not be, whatever happens to the server.
#[derive(Debug, thiserror::Error)]
pub enum Violation {
    /// A zone that is not what it must be.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// An answer that nothing explains.
    #[error("request {id} is answered with {answer}, {why}")]
    Answer {
        /// The request.
        id: u64,
        /// Its answer.
        answer: String,
        /// Why that is wrong.
        why: &'static str,
    },
    /// More zones are active than may be.
    #[error("{active} zones are active, and {limit} may be")]
    Active {
        /// How many are.
        active: u32,
        /// How many may be.
        limit: u32,
    },
    /// The rings are not what they must be.
    #[error("the driver gives up")]
    Rings(#[from] zvb_driver::Fault),
    /// It does not do what a server does.
    #[error("the server {what}; it says: {log}")]
    Server {
        /// What is wrong with it.
        what: String,
        /// Its log.
        log: String,
    },
    /// The image is not as it was promised to be.
    #[error("the image {0}")]
    Image(String),
    /// The test can not go on.
    #[error("the test can not go on")]
    Host(#[from] std::io::Error),
}

/// What the guest counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Requests that were done.
    pub done: u64,
    /// Requests that were answered otherwise.
    pub refused: u64,
    /// Writes and appends that were not answered.
    pub open: u64,
    /// How many of those were found in their zones.
    pub found: u64,
}

/// A request in flight.
#[derive(Clone, Debug)]
struct Sent {
    id: u64,
    zones: Vec<usize>,
    kind: Option<Kind>,
    /// Of a flush: what it covers.
    covers: Option<u64>,
    crowd: bool,
    /// Of a read: the zone, while nothing else is in flight in it. (Of sectors that are written meanwhile,
    /// nobody promises that they are read as they were before or as they are then: parts of both may be.)
    reads: Option<usize>,
}

/// The guest.
#[derive(Clone, Debug)]
pub struct Guest {
    /// What it knows.
    pub ledger: Ledger,
    /// What it did last.
    pub trace: VecDeque<Note>,
    /// What it counted.
    pub counts: Counts,
    setup: Setup,
    rng: Rng,
    next: u64,
    sent: BTreeMap<(u16, usize), Sent>,
    /// By zone: the queue of what is in flight in it.
    homes: Vec<u16>,
    /// By zone: appends in flight from several queues.
    crowds: BTreeMap<usize, Crowd>,
    /// A request on which all later ones wait is in flight.
    barrier: bool,
    writeback: bool,
}

impl Guest {
    /// A guest of a new disk.
    pub fn new(setup: &Setup, rng: Rng) -> Self {
        let ledger = Ledger::new(setup.geometry().as_ref(), setup.capacity);
        let homes = vec![0; ledger.zones.len()];
        Self {
            ledger,
            trace: VecDeque::new(),
            counts: Counts::default(),
            setup: setup.clone(),
            rng,
            next: 1,
            sent: BTreeMap::new(),
            homes,
            crowds: BTreeMap::new(),
            barrier: false,
            writeback: !setup.no_flush,
        }
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

    /// A server is there again: what was in flight will never be answered.
    pub fn connected(&mut self, disk: &mut Driver) -> Result<(), String> {
        self.sent.clear();
        self.barrier = false;
        self.writeback = !self.setup.no_flush;
        if self.writeback && self.rng.chance(20) {
            self.writeback = false;
            disk.set_writeback(false).map_err(|e| e.to_string())?;
            self.note(Note::Cache(false));
        }
        Ok(())
    }

    /// Everything that was acknowledged is in what was found, and what was not is there whole, or in the
    /// part that the write pointer tells of, or not at all.
    pub fn verify(&mut self, view: View, limit: u32, found: &[Found]) -> Result<(), Violation> {
        for (zone, crowd) in std::mem::take(&mut self.crowds) {
            crowd.settle(zone, &mut self.ledger, found.get(zone));
        }
        self.ledger.check(view, found)?;
        let active = found.iter().filter(|zone| zone.condition.is_active()).count() as u32;
        if limit != 0 && active > limit {
            return Err(Violation::Active { active, limit });
        }
        self.note(Note::Audit);
        Ok(())
    }

    /// What was found is what there is.
    pub fn rebase(&mut self, found: &[Found], open: &[u64]) {
        self.counts.open += open.len() as u64;
        let tags = || found.iter().flat_map(|zone| &zone.data).flatten();
        let is_there = |id: &&u64| tags().any(|tag| tag.operation() == **id);
        self.counts.found += open.iter().filter(is_there).count() as u64;
        self.ledger.rebase(found);
    }

    /// The writes and appends that are in flight.
    pub fn open(&self) -> Vec<u64> {
        let writes =
            |sent: &&Sent| matches!(sent.kind, Some(Kind::Write { .. } | Kind::Append { .. }));
        self.sent.values().filter(writes).map(|sent| sent.id).collect()
    }

    /// Asks for a few things.
    pub fn work(&mut self, disk: &mut Driver) -> Result<(), String> {
        for _ in 0..1 + self.rng.below(6) {
            if (self.sent.len() as u64) < self.setup.depth && !self.barrier {
                self.ask(disk)?;
            }
        }
        for queue in 0..disk.info().queues {
            disk.kick(queue).map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// Hears what the device has answered; waits a little when there is nothing.
    pub fn listen(&mut self, disk: &mut Driver) -> Result<(), Violation> {
        let mut any = false;
        for queue in 0..disk.info().queues {
            while let Some(completion) = disk.poll(queue)? {
                any = true;
                let Some(sent) = self.sent.remove(&(queue, completion.token.slot())) else {
                    let why = "which was not asked for";
                    let answer = format!("{:?}", completion.result);
                    return Err(Violation::Answer { id: 0, answer, why });
                };
                self.answered(&sent, &completion)?;
            }
        }
        if !any {
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn ask(&mut self, disk: &mut Driver) -> Result<(), String> {
        let (flushes, roll) = (self.setup.flushes, self.rng.below(100));
        let queues = u64::from(disk.info().queues);
        let any_queue = self.rng.below(queues) as u16;
        if roll < flushes && !self.setup.no_flush {
            let covers = Some(self.ledger.now());
            self.submit(disk, any_queue, Request::Flush, Vec::new(), None, covers);
            return Ok(());
        }
        if roll == 99 && self.setup.spec.is_some() && self.is_idle() {
            self.reset_all(disk, any_queue);
            return Ok(());
        }
        let zone = self.rng.below(self.ledger.zones.len() as u64) as usize;
        if self.sent.values().filter(|sent| sent.zones.contains(&zone)).count() >= ZONE_DEPTH {
            return Ok(());
        }
        if roll > 90 {
            return self.read(disk, any_queue, zone);
        }
        if self.crowds.contains_key(&zone) || self.may_crowd(zone, queues) {
            return self.append_among(disk, any_queue, zone);
        }
        let known = &self.ledger.zones[zone];
        if known.is_quiet() {
            self.homes[zone] = any_queue;
        }
        let discard = disk.info().features.contains(Features::DISCARD);
        match load::choose(&self.setup, known, discard, &mut self.rng) {
            Some(kind) => self.send(disk, self.homes[zone], zone, kind),
            None => Ok(()),
        }
    }

    fn send(
        &mut self,
        disk: &mut Driver,
        queue: u16,
        zone: usize,
        kind: Kind,
    ) -> Result<(), String> {
        let (id, start) = (self.next, Sector(self.ledger.zones[zone].start));
        let flag = self.rng.chance(50);
        let request = load::request(disk, id, start, kind, flag).map_err(|e| e.to_string())?;
        if self.submit(disk, queue, request, vec![zone], Some(kind), None) {
            self.ledger.begin(zone, id, kind);
            self.note(Note::Ask(id, zone, kind));
        }
        Ok(())
    }

    /// Whether appends from several queues are to go into `zone` from now on, for a while.
    fn may_crowd(&mut self, zone: usize, queues: u64) -> bool {
        let known = &self.ledger.zones[zone];
        let appends = self.setup.spec.is_some_and(|spec| spec.max_append.0 > 0);
        appends
            && queues > 1
            && known.kind == ZoneType::SequentialRequired
            && known.is_quiet()
            && !known.expected().1
            && self.rng.chance(25)
    }

    fn append_among(&mut self, disk: &mut Driver, queue: u16, zone: usize) -> Result<(), String> {
        let crowd = self.crowds.entry(zone).or_default();
        if crowd.size() >= CROWD {
            return Ok(());
        }
        let (id, start) = (self.next, Sector(self.ledger.zones[zone].start));
        let unit = self.setup.unit();
        let kind = Kind::Append { at: None, len: unit * (1 + self.rng.below((4 / unit).max(1))) };
        let request = load::request(disk, id, start, kind, false).map_err(|e| e.to_string())?;
        if self.submit(disk, queue, request, vec![zone], Some(kind), None) {
            if let (Some(sent), Kind::Append { len, .. }) =
                (self.sent.values_mut().find(|sent| sent.id == id), kind)
            {
                sent.crowd = true;
                self.crowds.entry(zone).or_default().add(id, len);
            }
            self.note(Note::Ask(id, zone, kind));
        }
        if self.crowds.get(&zone).is_some_and(|crowd| crowd.size() == 0) {
            self.crowds.remove(&zone);
        }
        Ok(())
    }

    fn read(&mut self, disk: &mut Driver, queue: u16, zone: usize) -> Result<(), String> {
        let (unit, known) = (self.setup.unit(), &self.ledger.zones[zone]);
        let at = unit * self.rng.below(known.len / unit);
        let len = unit * (1 + self.rng.below((known.len - at) / unit));
        let at = Sector(known.start + at);
        let buffer = disk.buffer(len as usize * 512).map_err(|e| e.to_string())?;
        let quiet = known.is_quiet() && !self.crowds.contains_key(&zone);
        let id = self.next;
        self.submit(disk, queue, Request::Read { at, buffer }, Vec::new(), None, None);
        if let Some(sent) = self.sent.values_mut().find(|sent| sent.id == id) {
            sent.reads = quiet.then_some(zone);
        }
        Ok(())
    }

    fn reset_all(&mut self, disk: &mut Driver, queue: u16) {
        let id = self.next;
        let zones: Vec<usize> = (0..self.ledger.zones.len())
            .filter(|z| self.ledger.zones[*z].kind != ZoneType::Conventional)
            .collect();
        if self.submit(disk, queue, Request::ResetAll, zones.clone(), Some(Kind::Reset), None) {
            zones.into_iter().for_each(|zone| self.ledger.begin(zone, id, Kind::Reset));
            self.barrier = true;
            self.note(Note::ResetAll(id));
        }
    }

    /// Sends a request, unless there is no room for it.
    fn submit(
        &mut self,
        disk: &mut Driver,
        queue: u16,
        request: Request<SharedMemory>,
        zones: Vec<usize>,
        kind: Option<Kind>,
        covers: Option<u64>,
    ) -> bool {
        let Ok(token) = disk.submit(queue, request) else { return false };
        for read in self.sent.values_mut() {
            read.reads = read.reads.filter(|zone| !zones.contains(zone));
        }
        let sent = Sent { id: self.next, zones, kind, covers, crowd: false, reads: None };
        self.next += 1;
        self.sent.insert((queue, token.slot()), sent);
        true
    }

    fn answered(
        &mut self,
        sent: &Sent,
        completion: &Completion<SharedMemory>,
    ) -> Result<(), Violation> {
        let wrong = |why| Violation::Answer {
            id: sent.id,
            answer: format!("{:?}", completion.result),
            why,
        };
        let mut at = None;
        let outcome = match &completion.result {
            Ok(answer) => {
                if let (Answer::Appended(sector), Some(zone)) = (answer, sent.zones.first()) {
                    at = Some(sector.0 - self.ledger.zones[*zone].start);
                }
                Outcome::Done
            }
            Err(RequestError::Io) => return Err(wrong("and the medium has no errors")),
            Err(
                RequestError::InvalidCommand
                | RequestError::UnalignedWritePointer
                | RequestError::OpenResource
                | RequestError::ActiveResource,
            ) => Outcome::Failed,
            Err(_) => return Err(wrong("which makes no sense")),
        };
        match outcome {
            Outcome::Done => self.counts.done += 1,
            _ => self.counts.refused += 1,
        }
        self.barrier = false;
        self.note(Note::Answer(sent.id, outcome, at));
        for zone in &sent.zones {
            if sent.crowd {
                self.crowd_answered(*zone, sent.id, outcome, at);
            } else {
                self.ledger.end(*zone, sent.id, outcome, at, !self.writeback);
            }
        }
        match (sent.covers, outcome, &completion.buffer, sent.reads) {
            (Some(then), Outcome::Done, _, _) => self.ledger.flushed(then),
            (None, Outcome::Done, Some(buffer), Some(_)) => {
                let known = buffer.chunks_exact(512).all(|sector| Tag::of(sector).is_some());
                if !known {
                    return Err(wrong("and holds what nobody ever wrote"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn crowd_answered(&mut self, zone: usize, id: u64, outcome: Outcome, at: Option<u64>) {
        let Some(crowd) = self.crowds.get_mut(&zone) else { return };
        crowd.end(id, outcome, at);
        if crowd.is_quiet()
            && let Some(crowd) = self.crowds.remove(&zone)
        {
            crowd.settle(zone, &mut self.ledger, None);
        }
    }
}
