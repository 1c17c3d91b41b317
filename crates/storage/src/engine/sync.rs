//! The engine that does everything at once, by plain system calls or copies.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::{Desk, Job, Kind, Outcome, Served, run};
use crate::committer::Committer;
use crate::volume::{Done, Engine, Io};

/// Does operations at [`start`](Engine::start), one after the other.
#[derive(Debug)]
pub(crate) struct SyncEngine {
    desk: Desk,
    queue: VecDeque<Job>,
}

impl SyncEngine {
    pub(crate) fn new(served: Arc<Served>) -> io::Result<Self> {
        Ok(Self { desk: Desk::new(served)?, queue: VecDeque::new() })
    }

    /// Does `job`, which begins at `first` where that is known, or leaves it with the committer.
    fn perform(&mut self, mut job: Job, mut first: Option<(u64, u64)>) {
        if job.kind == Kind::Flush {
            return self.desk.flush(job);
        }
        loop {
            let epoch = self.desk.pins.enter(&self.desk.served.store.slots);
            let outcome = run(self.desk.store(), &mut job, first.take());
            self.desk.pins.leave(epoch);
            match outcome {
                Outcome::Finished(result) => return self.desk.finish(job, result),
                Outcome::Starved => match self.desk.starve(job) {
                    Some(again) => job = again,
                    None => return,
                },
            }
        }
    }
}

impl Engine for SyncEngine {
    fn submit(&mut self, io: Io) {
        self.queue.push_back(Job::new(io));
    }

    fn start(&mut self) {
        if self.queue.is_empty() {
            return;
        }
        let pin = self.desk.pin_batch();
        // Where the next read begins.
        let mut place = None;
        while let Some(job) = self.queue.pop_front() {
            let first = std::mem::take(&mut place);
            if pin.is_some() {
                place = self.queue.front_mut().and_then(|next| self.desk.place_of_read(next));
            }
            if let Some((at, bytes)) = place {
                self.desk.store().medium.expect(at, bytes);
            }
            self.perform(job, first);
        }
        self.desk.unpin_batch(pin);
    }

    fn reap(&mut self, done: &mut Vec<Done>) {
        for job in self.desk.collect() {
            self.perform(job, None);
        }
        done.append(&mut self.desk.done);
    }

    fn in_flight(&self) -> usize {
        self.desk.in_flight().saturating_add(self.queue.len())
    }

    fn due(&self) -> usize {
        self.queue.len()
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        match self.desk.served.committer {
            Committer::Caller => None,
            Committer::Thread(_) | Committer::Volatile(_) => Some(self.desk.mailbox.event()),
        }
    }
}
