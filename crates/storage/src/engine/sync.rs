//! The engine that does everything at once, by plain system calls or copies.

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
    queue: Vec<Job>,
}

impl SyncEngine {
    pub(crate) fn new(served: Arc<Served>) -> io::Result<Self> {
        Ok(Self { desk: Desk::new(served)?, queue: Vec::new() })
    }

    /// Does `job`, or leaves it with the committer.
    fn perform(&mut self, mut job: Job) {
        if job.kind == Kind::Flush {
            return self.desk.flush(job);
        }
        loop {
            let epoch = self.desk.pins.enter(&self.desk.served.store.slots);
            let outcome = run(self.desk.store(), &mut job);
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
        self.queue.push(Job::new(io));
    }

    fn start(&mut self) {
        let mut queue = std::mem::take(&mut self.queue);
        let pin = self.desk.pin_batch();
        for job in queue.drain(..) {
            self.perform(job);
        }
        self.desk.unpin_batch(pin);
        self.queue = queue;
    }

    fn reap(&mut self, done: &mut Vec<Done>) {
        for job in self.desk.collect() {
            self.perform(job);
        }
        done.append(&mut self.desk.done);
    }

    fn in_flight(&self) -> usize {
        self.desk.in_flight().saturating_add(self.queue.len())
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        match self.desk.served.committer {
            Committer::Caller => None,
            Committer::Thread(_) | Committer::Volatile(_) => Some(self.desk.mailbox.event()),
        }
    }
}
