//! One queue of a device, in turns.

mod counted;
mod faulty;
mod taking;

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use zvb_ring::{DeviceQueue, RingError};
use zvb_storage::{Command, Done, Engine, EngineError, Failure, Io, Op};
use zvb_wire::zerocopy::IntoBytes;
use zvb_wire::{ID_BYTES, Sector, Status, ZoneDescriptor, ZoneReportHeader, ZoneType};
use zvb_zones::{Manage, Outcome, Refused, WriteId, Zones, check_read, describe};

use crate::observer::Observer;
use crate::request::{Request, bytes};
use crate::resume::{go_on, note_done, note_place};
use crate::session::{Mail, Session, Wake};
use crate::slot::{Slot, Stage};
use crate::table::Table;
use faulty::Delayed;

/// Why there is no lane.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaneError {
    /// The device has no such queue.
    #[error("the device has no queue {0}")]
    NoSuchQueue(u16),
    /// No driver has been accepted yet.
    #[error("a queue is started before the driver's features were accepted")]
    NotNegotiated,
    /// The volume gives no engine.
    #[error("queue {queue} has no I/O engine")]
    Engine {
        /// Which queue.
        queue: u16,
        /// Why.
        #[source]
        source: EngineError,
    },
}

/// What a turn did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use = "a turn may ask for a signal"]
pub struct Turn {
    /// Something was taken, finished or answered: another turn may find more.
    pub progress: bool,
    /// The driver wants to be signalled.
    pub signal: bool,
}

/// What was decided about a request while the table was locked; done after it is unlocked.
#[derive(Clone, Copy, Debug)]
enum Decided {
    Submit,
    /// The medium carries it out.
    Command,
    Wait,
    /// One zone of a secure-erase is reset.
    RangeDone,
    Answer(Status),
}

/// One queue, its engine, and its requests in flight. Lives on one thread.
pub struct Lane {
    session: Arc<Session>,
    index: u16,
    queue: DeviceQueue,
    engine: Box<dyn Engine>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Slots to decide, at the next lock.
    deciding: Vec<u32>,
    /// Slots whose write is done, to apply at the next lock.
    ended: Vec<(WriteId, Outcome)>,
    /// Slots that wait for I/O of others, in the order in which they came.
    parked: Vec<u32>,
    /// Something that a parked slot waits for may be there.
    retry: bool,
    progress: bool,
    answered: bool,
    retired: bool,
    /// What a process before this one took, not begun yet.
    resumed: Vec<u32>,
    /// A request of this turn may be hit by a fault that was asked for.
    armed: bool,
    /// Requests that such a fault holds up.
    delayed: Vec<Delayed>,
    /// The time, where requests are timed and it was looked at since I/O was last started.
    clock: Option<Instant>,
    // Lists that are empty between turns, kept for their room.
    done: Vec<Done>,
    decided: Vec<(u32, Decided)>,
    released: Vec<(u64, bool)>,
    mail: Vec<Mail>,
}

impl Drop for Lane {
    fn drop(&mut self) {
        let device = &self.session.device;
        if std::thread::panicking() {
            device.crippled.store(true, Ordering::Release);
            self.session.rouse_all(Some(self.index));
        }
        debug_assert!(
            device.is_crippled() || self.in_flight() == 0,
            "a lane was dropped with requests in flight"
        );
        self.session.mailboxes[usize::from(self.index)].set_wake(None);
    }
}

impl Lane {
    pub(crate) fn new(
        session: Arc<Session>,
        index: u16,
        queue: DeviceQueue,
        wake: Arc<dyn Wake>,
    ) -> Result<Self, LaneError> {
        let Some(mailbox) = session.mailboxes.get(usize::from(index)) else {
            return Err(LaneError::NoSuchQueue(index));
        };
        if !session.is_negotiated() {
            return Err(LaneError::NotNegotiated);
        }
        let depth = u32::from(queue.size());
        let engine = Arc::clone(&session.device.volume)
            .engine(depth)
            .map_err(|source| LaneError::Engine { queue: index, source })?;
        mailbox.set_wake(Some(wake));
        Ok(Self {
            session,
            index,
            queue,
            engine,
            slots: Vec::new(),
            free: Vec::new(),
            deciding: Vec::new(),
            ended: Vec::new(),
            parked: Vec::new(),
            retry: false,
            progress: false,
            answered: false,
            retired: false,
            resumed: Vec::new(),
            armed: false,
            delayed: Vec::new(),
            clock: None,
            done: Vec::new(),
            decided: Vec::new(),
            released: Vec::new(),
            mail: Vec::new(),
        })
    }

    /// Takes what is there (unless `pull` is false: then only what is in flight goes on), starts I/O,
    /// answers what is finished. Never waits. Bounded: takes at most a queue's worth of chains.
    pub fn turn(&mut self, pull: bool) -> Turn {
        self.progress = false;
        self.armed = self.session.device.faults().armed();
        self.clock = None;
        self.read_mail();
        self.reap();
        if !self.delayed.is_empty() {
            self.end_delays(!pull);
        }
        self.begin_resumed();
        if pull && !self.retired {
            self.pull();
        }
        // Each round finishes an operation of a request that was there at the start, or is the last.
        loop {
            self.settle();
            self.engine.begin();
            self.clock = None;
            if !self.reap() {
                break;
            }
        }
        // Once a turn, for all of it. What is finished by then but needs more is the next turn's.
        self.engine.start();
        self.reap();
        let signal = std::mem::take(&mut self.answered) && self.queue.publish();
        Turn { progress: self.progress, signal }
    }

    /// Asks to be notified of new chains. True: the driving thread may sleep until the queue is kicked,
    /// the lane is woken, [`event`](Self::event) is readable or [`deadline`](Self::deadline) has come. False:
    /// something came meanwhile.
    pub fn prepare_sleep(&mut self) -> bool {
        if self.retry || self.mailbox().has_mail() {
            return false;
        }
        self.retired || !self.queue.resume_notifications()
    }

    /// Readable when the engine has finished something; `None` when there is nothing to wait for.
    pub fn event(&self) -> Option<BorrowedFd<'_>> {
        if self.engine.in_flight() > 0 { self.engine.event() } else { None }
    }

    /// Requests taken and not answered.
    pub fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// True when what is in flight waits for nothing but a lane that has panicked, or may: it will never be
    /// answered.
    pub fn is_stuck(&self) -> bool {
        let waits = |slot: &&Slot| matches!(slot.stage, Stage::Parked | Stage::Held);
        let waiting = self.slots.iter().filter(waits).count();
        self.session.device.is_crippled() && waiting > 0 && waiting == self.in_flight()
    }

    /// The index of the next chain that would be taken: where a queue goes on after a stop.
    pub fn next_available(&self) -> u16 {
        self.queue.next_available()
    }

    /// What the guest broke, when it broke the ring: nothing more is taken.
    pub fn broken(&self) -> Option<&RingError> {
        self.queue.error()
    }

    fn mailbox(&self) -> &crate::session::Mailbox {
        &self.session.mailboxes[usize::from(self.index)]
    }

    fn observer(&self) -> &dyn Observer {
        &*self.session.device.options.observer
    }

    /// Other lanes say that writes of this one are applied, or that it may try again.
    fn read_mail(&mut self) {
        let mut mail = std::mem::take(&mut self.mail);
        self.mailbox().take(&mut mail);
        for letter in mail.drain(..) {
            match letter {
                Mail::Released { slot, ok } => self.write_applied(slot, ok),
                Mail::Retry => self.retry = !self.parked.is_empty(),
            }
        }
        self.mail = mail;
    }

    /// Starts a request that was just parsed: at once when it needs no decision about zones.
    fn begin(&mut self, index: u32) {
        if self.session.is_turned_away() {
            return self.answer(index, Status::IOERR, 0);
        }
        if self.armed && self.hurt_at_start(index) {
            return;
        }
        let slot = &self.slots[index as usize];
        let zoned = self.session.device.table.is_some();
        match slot.request {
            Request::Read { at, sectors } => self.read(index, at, sectors),
            Request::Flush => self.submit(index, Sector::ZERO, Op::Flush),
            Request::Id => self.identify(index),
            Request::Report { from } => self.report(index, from),
            Request::Discard | Request::Erase => self.next_range(index),
            Request::Write { .. } | Request::Zero if !zoned => self.start_write(index),
            _ => self.deciding.push(index),
        }
    }

    fn read(&mut self, index: u32, at: Sector, sectors: Sector) {
        let mut data_sectors = sectors;
        if let Some(table) = &self.session.device.table {
            let look =
                |geometry: &_| check_read(geometry, at, sectors, |zone| table.snapshot(zone));
            match table.with_geometry(look) {
                Ok(plan) => data_sectors = plan.data,
                Err(refusal) => return self.answer(index, refusal.status(), 0),
            }
        }
        let slot = &mut self.slots[index as usize];
        let Some(mut data) = slot.data.take() else { return self.answer(index, Status::IOERR, 0) };
        // What was never written since the zone's reset reads as zeroes, whatever stands on the medium.
        let rest = bytes(sectors).saturating_sub(bytes(data_sectors));
        if rest > 0
            && let Some(unwritten) = data.take_back(rest, self.queue.spare())
        {
            let zeroed = unwritten.zero(0, rest);
            debug_assert!(zeroed.is_ok(), "the buffers are as long as they were cut");
            self.queue.recycle(unwritten);
        }
        if data.is_empty() {
            slot.data = Some(data);
            return self.answer(index, Status::OK, bytes(sectors));
        }
        self.submit(index, at, Op::Read(data));
    }

    fn identify(&mut self, index: u32) {
        let id = self.session.device.shape.id;
        let slot = &self.slots[index as usize];
        let written = slot.data.as_ref().map_or(0, |data| {
            let len = data.len().min(u64::from(ID_BYTES));
            data.write(0, id.get(..len as usize).unwrap_or_default()).map_or(0, |()| len)
        });
        self.answer(index, Status::OK, written);
    }

    /// Describes as many whole zones as the buffer holds, from the one that holds `from` on.
    fn report(&mut self, index: u32, from: Sector) {
        let device = &self.session.device;
        let slot = &self.slots[index as usize];
        let written = match (&device.table, &slot.data) {
            (Some(table), Some(data)) => write_report(table, data, from),
            _ => None,
        };
        match written {
            Some(written) => self.answer(index, Status::OK, written),
            None => self.answer(index, Status::ZONE_INVALID_CMD, 0),
        }
    }

    /// Goes on with the next range of a discard, write-zeroes or secure-erase, or is done.
    fn next_range(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        let Some((at, sectors, _)) = slot.range() else { return self.finish(index) };
        let Some(table) = &self.session.device.table else { return self.start_write(index) };
        let refused = match slot.request {
            // Nothing of a zone is no zone.
            Request::Erase if sectors == Sector::ZERO => return self.range_done(index),
            Request::Discard => refuse_discard(table, at, sectors),
            Request::Erase if is_conventional(table, at) => refuse_discard(table, at, Sector(1)),
            _ => {
                slot.stage = Stage::Deciding;
                return self.deciding.push(index);
            }
        };
        match refused {
            Some(status) => self.answer(index, status, 0),
            None => self.start_write(index),
        }
    }

    /// The step of a request with ranges that was under way is done.
    fn range_done(&mut self, index: u32) {
        let step = self.range_step(index);
        self.slots[index as usize].range_done(step);
        self.next_range(index);
    }

    fn range_step(&self, index: u32) -> Sector {
        let geometry = self.session.device.table.as_ref().map(Table::geometry);
        self.slots[index as usize].step(geometry.as_ref())
    }

    /// Gives the engine a command that is allowed, for a medium that carries it out.
    fn start_command(&mut self, index: u32) {
        let slot = &self.slots[index as usize];
        let (what, at) = match slot.request {
            Request::Manage { command, zone } => (command, zone),
            Request::Erase => (Manage::Reset, slot.range().map_or(Sector::ZERO, |(at, _, _)| at)),
            _ => return self.submit(index, Sector::ZERO, Op::Command(Command::ResetAll)),
        };
        let zone = self.session.device.table.as_ref().and_then(|t| t.geometry().zone_of(at));
        match zone {
            Some(zone) => self.submit(index, at, Op::Command(Command::Zone(what, zone))),
            None => unreachable!("a command was allowed at {at:?}, where there is no zone"),
        }
    }

    /// Gives the engine a change that is allowed: `slot.at` is where an append goes.
    fn start_write(&mut self, index: u32) {
        if self.armed && self.hurt_at_medium(index) {
            return;
        }
        let step = self.range_step(index);
        let slot = &mut self.slots[index as usize];
        let (at, op) = match slot.request {
            Request::Write { at, .. } => (at, slot.data.take().map(Op::Write)),
            Request::Append { zone, .. } if slot.floats => (zone, slot.data.take().map(Op::Append)),
            Request::Append { .. } => (slot.at, slot.data.take().map(Op::Write)),
            request => match slot.range() {
                Some((at, _, _)) if request == Request::Discard => {
                    (at, Some(Op::Discard { sectors: step }))
                }
                Some((at, _, flags)) => {
                    let unmap = flags & zvb_wire::DISCARD_FLAG_UNMAP != 0;
                    (at, Some(Op::Zero { sectors: step, unmap }))
                }
                None => (Sector::ZERO, None),
            },
        };
        match op {
            // Nothing to move: no use to trouble the medium.
            Some(Op::Write(data)) if data.is_empty() => {
                slot.data = Some(data);
                self.medium_done(index, Ok(()));
            }
            Some(op) => self.submit(index, at, op),
            None => self.answer(index, Status::IOERR, 0),
        }
    }

    fn submit(&mut self, index: u32, at: Sector, op: Op) {
        let slot = &mut self.slots[index as usize];
        if slot.stage != Stage::Commit {
            slot.stage = Stage::Medium;
        }
        self.engine.submit(Io { tag: index.into(), at, op });
    }

    /// Collects what the engine has finished. True when there was something.
    fn reap(&mut self) -> bool {
        let mut done = std::mem::take(&mut self.done);
        self.engine.reap(&mut done);
        let any = !done.is_empty();
        for Done { tag, result, buffers, placed } in done.drain(..) {
            let index = tag as u32;
            let slot = &mut self.slots[index as usize];
            slot.data = buffers.or(slot.data.take());
            if slot.floats && result.is_ok() {
                // An engine that does not tell has not done it: that is no sector.
                slot.at = placed.unwrap_or(Sector(u64::MAX));
            }
            self.medium_done(index, result);
        }
        self.done = done;
        self.progress |= any;
        any
    }

    /// The medium has done what it could for one step of a request.
    fn medium_done(&mut self, index: u32, result: Result<(), Failure>) {
        let slot = &mut self.slots[index as usize];
        let (request, at) = (slot.request, slot.at);
        if let Err(why) = &result {
            let at = match request {
                Request::Read { at, .. } | Request::Write { at, .. } => at,
                _ => at,
            };
            self.observer().medium_fault(self.index, request.request_type(), at, why);
            self.session.device.has_failed();
        }
        let slot = &mut self.slots[index as usize];
        if let Err(why) = &result {
            slot.failure = failure_status(why);
        }
        let torn = slot.torn.take();
        let floats = std::mem::take(&mut slot.floats);
        if let Some(write) = slot.write.take() {
            // The zone's pointer moves under the lock, behind those before it.
            slot.stage = Stage::Held;
            let outcome = match (&result, torn) {
                (Err(_), _) => Outcome::Failed,
                (Ok(()), Some(end)) => Outcome::Torn { end },
                (Ok(()), None) if floats => Outcome::Placed { at: slot.at },
                (Ok(()), None) => Outcome::Done,
            };
            self.ended.push((write, outcome));
            return;
        }
        let (stage, failure) = (slot.stage, slot.failure);
        match (stage, result) {
            _ if torn.is_some() => self.answer(index, failure, 0),
            (_, Err(_)) => self.answer(index, failure, 0),
            (Stage::Commit, Ok(())) => self.answer(index, Status::OK, 0),
            (_, Ok(())) => match request {
                Request::Read { sectors, .. } => self.answer(index, Status::OK, bytes(sectors)),
                Request::Discard | Request::Zero | Request::Erase => self.range_done(index),
                _ => self.finish(index),
            },
        }
    }

    /// A write is applied with all those before it in its zone, or lost with one of them.
    fn write_applied(&mut self, index: u32, ok: bool) {
        self.progress = true;
        let slot = &self.slots[index as usize];
        let failure = slot.failure;
        match slot.request {
            _ if !ok => self.answer(index, failure, 0),
            Request::Zero | Request::Erase => self.range_done(index),
            _ => self.finish(index),
        }
    }

    /// The request is carried out; without a volatile cache, it is made durable before the guest hears.
    fn finish(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        if slot.request.changes() && self.session.is_writethrough() {
            slot.stage = Stage::Commit;
            self.submit(index, Sector::ZERO, Op::Flush);
        } else {
            self.answer(index, Status::OK, 0);
        }
    }

    /// Answers a request, of whose writable data the first `data` bytes were written.
    fn answer(&mut self, index: u32, status: Status, data: u64) {
        let slot = &mut self.slots[index as usize];
        debug_assert!(slot.write.is_none(), "answered with a reservation left");
        if let Some(buffers) = slot.data.take() {
            self.queue.recycle(buffers);
        }
        // Undefined unless the append succeeded: a value that is no sector of any disk.
        let at = slot.went_on.take().unwrap_or(slot.at);
        let appended = if status == Status::OK { at } else { Sector(u64::MAX) };
        slot.stage = Stage::Free;
        slot.ticket = None;
        (slot.hurt, slot.happened, slot.part) = (false, false, None);
        match slot.reply.take() {
            Some(reply) => reply.spend(&mut self.queue, status, appended, data),
            None => unreachable!("slot {index} is answered twice"),
        }
        self.count_answered(index, status, data);
        self.answered = true;
        self.progress = true;
        self.free.push(index);
    }

    /// Applies finished writes and decides waiting requests, all under one lock, until nothing more can
    /// be done without I/O.
    fn settle(&mut self) {
        loop {
            let retrying = std::mem::take(&mut self.retry) && !self.parked.is_empty();
            if self.ended.is_empty() && self.deciding.is_empty() && !retrying {
                return;
            }
            if retrying {
                // Those that wait came first, and keep their order.
                self.parked.append(&mut self.deciding);
                std::mem::swap(&mut self.parked, &mut self.deciding);
                self.session.waiting.fetch_sub(1, Ordering::Relaxed);
            }
            let wants_retry = self.decide();
            self.act();
            if wants_retry {
                self.session.retry_all(Some(self.index));
                self.retry = !self.parked.is_empty();
            }
        }
    }

    /// Everything that needs the lock.
    fn decide(&mut self) -> bool {
        let Self {
            session,
            index: lane,
            queue,
            slots,
            deciding,
            ended,
            parked,
            decided,
            released,
            ..
        } = self;
        let Some(table) = &session.device.table else {
            unreachable!("a plain disk decides nothing")
        };
        let failed = session.device.has_failed();
        let runs_commands = session.device.runs_commands;
        // A fault befalls a write at its place. And whoever goes on after this process must be able to tell what
        // became of an append: by its place, noted before it was given to the medium.
        let floats = session.device.places_appends && !self.armed && !queue.has_ledger();
        let mut locked = table.lock();
        for (write, outcome) in ended.drain(..) {
            locked.zones().end_write(write, outcome, |r| released.push((r.owner, r.ok)));
        }
        locked.recheck();
        let zones = locked.zones();
        let waited = !parked.is_empty();
        for index in deciding.drain(..) {
            let owner = u64::from(*lane) << 32 | u64::from(index);
            let slot = &mut slots[index as usize];
            if slot.part.is_some() {
                go_on(zones, slot);
            }
            let decision = match slot.ticket {
                _ if slot.happened => Decided::Answer(Status::OK),
                // Nothing that is recorded now will be remembered. (Who waits keeps his place in the line.)
                None if failed && slot.request.changes() => Decided::Answer(Status::IOERR),
                _ if runs_commands && slot.request.is_command() => {
                    begin_command(zones, slot, owner)
                }
                _ => decide_one(zones, slot, owner, floats),
            };
            match decision {
                Decided::Wait => {
                    slot.stage = Stage::Parked;
                    parked.push(index);
                }
                decision => decided.push((index, decision)),
            }
        }
        if !waited && !parked.is_empty() {
            // Under the lock: whoever makes room locks it later, and then sees that this lane waits.
            session.waiting.fetch_add(1, Ordering::Relaxed);
        }
        locked.settle_then(|| {
            if !queue.has_ledger() {
                return;
            }
            let geometry = table.geometry();
            // Places are given to the medium after this. Commands were recording and no more, or the medium
            // has carried them out.
            for (index, decision) in decided.iter() {
                let slot = &slots[*index as usize];
                match decision {
                    Decided::Submit => note_place(queue, &geometry, slot),
                    Decided::Answer(Status::OK) | Decided::RangeDone => {
                        note_done(queue, &geometry, slot);
                    }
                    _ => {}
                }
            }
            for (owner, ok) in released.iter() {
                if *ok && (owner >> 32) as u16 == *lane {
                    note_done(queue, &geometry, &slots[*owner as u32 as usize]);
                }
            }
        })
    }

    /// Does what was decided: gives I/O to the engine, answers, and tells other lanes of their writes.
    fn act(&mut self) {
        let mut released = std::mem::take(&mut self.released);
        for (owner, ok) in released.drain(..) {
            let (lane, slot) = ((owner >> 32) as u16, owner as u32);
            if lane == self.index {
                self.write_applied(slot, ok);
            } else {
                self.session.mailboxes[usize::from(lane)].post(Mail::Released { slot, ok });
            }
        }
        self.released = released;
        let mut decided = std::mem::take(&mut self.decided);
        for (index, decision) in decided.drain(..) {
            match decision {
                Decided::Submit => self.start_write(index),
                Decided::Command => self.start_command(index),
                Decided::RangeDone => self.range_done(index),
                Decided::Answer(Status::OK) => self.finish(index),
                Decided::Answer(status) => self.answer(index, status, 0),
                Decided::Wait => {}
            }
        }
        self.decided = decided;
    }
}

/// What a guest is told of a failure of the medium.
fn failure_status(why: &Failure) -> Status {
    match why {
        Failure::OpenLimit(_) => Status::ZONE_OPEN_RESOURCE,
        Failure::ActiveLimit(_) => Status::ZONE_ACTIVE_RESOURCE,
        Failure::Unsupported => Status::UNSUPP,
        _ => Status::IOERR,
    }
}

/// Asks the table about one command to zones that the medium carries out.
fn begin_command(zones: &mut Zones, slot: &mut Slot, owner: u64) -> Decided {
    let ticket = slot.ticket.take();
    let begun = match (slot.request, slot.range()) {
        (Request::Manage { command, zone }, _) => zones.begin_manage(command, zone, owner, ticket),
        (Request::Erase, Some((at, _, _))) => zones.begin_manage(Manage::Reset, at, owner, ticket),
        _ => zones.begin_reset_all(owner, ticket),
    };
    match begun {
        Ok(id) => {
            slot.write = Some(id);
            Decided::Command
        }
        Err(Refused::Wait(ticket)) => {
            slot.ticket = Some(ticket);
            Decided::Wait
        }
        Err(Refused::Status(refusal)) => Decided::Answer(refusal.status()),
    }
}

/// Asks the table about one request. `floats`: the medium places appends.
fn decide_one(zones: &mut Zones, slot: &mut Slot, owner: u64, floats: bool) -> Decided {
    let ticket = slot.ticket.take();
    let begun = match slot.request {
        Request::Write { at, sectors } => zones.begin_write(at, sectors, owner, ticket),
        Request::Append { zone, sectors } if floats => {
            zones.begin_floating_append(zone, sectors, owner, ticket)
        }
        Request::Append { zone, sectors } => zones.begin_append(zone, sectors, owner, ticket),
        Request::Zero => match slot.range() {
            Some((at, sectors, _)) => zones.begin_write(at, sectors, owner, ticket),
            None => return Decided::Answer(Status::OK),
        },
        Request::Erase => match slot.range() {
            Some((at, _, _)) => match zones.manage(Manage::Reset, at, ticket) {
                Ok(()) => return Decided::RangeDone,
                Err(refused) => Err(refused),
            },
            None => return Decided::Answer(Status::OK),
        },
        Request::Manage { command, zone } => match zones.manage(command, zone, ticket) {
            Ok(()) => return Decided::Answer(Status::OK),
            Err(refused) => Err(refused),
        },
        Request::ResetAll => match zones.reset_all(ticket) {
            Ok(()) => return Decided::Answer(Status::OK),
            Err(refused) => Err(refused),
        },
        Request::Read { .. }
        | Request::Flush
        | Request::Id
        | Request::Report { .. }
        | Request::Discard => {
            unreachable!("{:?} needs no decision", slot.request)
        }
    };
    match begun {
        Ok(begun) => {
            slot.at = begun.at;
            slot.floats = begun.floats;
            slot.write = begun.write;
            Decided::Submit
        }
        Err(Refused::Wait(ticket)) => {
            slot.ticket = Some(ticket);
            Decided::Wait
        }
        Err(Refused::Status(refusal)) => Decided::Answer(refusal.status()),
    }
}

/// Writes a report into `data`; how many bytes it has, or `None` when there is no zone at `from` or no
/// room for the header.
fn write_report(table: &Table, data: &zvb_ring::Buffers, from: Sector) -> Option<u64> {
    let geometry = table.geometry();
    let first = geometry.zone_of(from)?;
    let header = u64::from(ZoneReportHeader::BYTES);
    let each = u64::from(ZoneDescriptor::BYTES);
    let room = data.len().checked_sub(header)? / each;
    let count = room.min(u64::from(geometry.zone_count() - first.0));
    data.write(0, ZoneReportHeader::new(count).as_bytes()).ok()?;
    let mut offset = header;
    for zone in geometry.zones().skip(first.0 as usize).take(count as usize) {
        data.write(offset, describe(&geometry, zone, table.snapshot(zone)).as_bytes()).ok()?;
        offset += each;
    }
    Some(offset)
}

fn is_conventional(table: &Table, at: Sector) -> bool {
    let geometry = table.geometry();
    geometry.zone_of(at).is_some_and(|zone| geometry.zone_type(zone) == ZoneType::Conventional)
}

/// Discards are for conventional and sequential-preferred zones that can be written.
fn refuse_discard(table: &Table, at: Sector, sectors: Sector) -> Option<Status> {
    let geometry = table.geometry();
    let first = geometry.zone_of(at)?;
    let last = geometry.zone_of(Sector(at.0.checked_add(sectors.0.checked_sub(1)?)?))?;
    let refused = (first.0..=last.0).map(zvb_zones::ZoneId).any(|zone| {
        let condition = table.snapshot(zone).condition();
        geometry.zone_type(zone) == ZoneType::SequentialRequired
            || matches!(condition, zvb_wire::Condition::ReadOnly | zvb_wire::Condition::Offline)
    });
    refused.then_some(Status::ZONE_INVALID_CMD)
}
