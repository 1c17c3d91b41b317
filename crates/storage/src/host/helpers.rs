//! Threads that do what would make a queue's worker wait: commands to zones, which a disk may take long
//! for, and flushes.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use super::disk::Disk;
use crate::committer::Mailbox;
use crate::promise::CommitError;
use crate::volume::Command;

/// How many commands are at the disk at once.
const THREADS: usize = 4;

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub(super) enum Chore {
    Flush,
    Command(Command),
}

/// For whom.
#[derive(Debug)]
struct Task {
    chore: Chore,
    mailbox: Arc<Mailbox>,
    tag: u64,
}

#[derive(Debug, Default)]
struct Shared {
    asked: Mutex<Asked>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Asked {
    /// No more than there are requests in flight.
    tasks: VecDeque<Task>,
    stop: bool,
}

/// The threads; ended and joined when this is dropped. They are started with the first engine: a server
/// confines itself before that.
#[derive(Debug, Default)]
pub(super) struct Helpers {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Helpers {
    /// Starts those that do not run yet.
    pub(super) fn start(&self, disk: &Arc<Disk>) -> io::Result<()> {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        while threads.len() < THREADS {
            let (shared, disk) = (Arc::clone(&self.shared), Arc::clone(disk));
            let thread = Builder::new().name(format!("zvb-host-{}", threads.len()));
            threads.push(thread.spawn(move || shared.run(&disk))?);
        }
        Ok(())
    }

    /// Does `chore` some time; the result comes to `mailbox` with `tag`.
    pub(super) fn ask(&self, chore: Chore, mailbox: &Arc<Mailbox>, tag: u64) {
        let task = Task { chore, mailbox: Arc::clone(mailbox), tag };
        self.shared.asked().tasks.push_back(task);
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, disk: &Disk) {
        while let Some(Task { chore, mailbox, tag }) = self.next() {
            let result = match chore {
                Chore::Flush => disk.flush(),
                Chore::Command(command) => disk.command(command),
            };
            mailbox.post(tag, result.map_err(|error| CommitError::from(&error)));
        }
    }

    /// The next task; `None` at the end.
    fn next(&self) -> Option<Task> {
        let mut asked = self.asked();
        loop {
            if let Some(task) = asked.tasks.pop_front() {
                return Some(task);
            }
            if asked.stop {
                return None;
            }
            asked = self.wake.wait(asked).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Helpers {
    fn drop(&mut self) {
        self.shared.asked().stop = true;
        self.shared.wake.notify_all();
        let threads = self.threads.get_mut().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            // Its only panics would be our own, and were reported when they happened.
            let _ = thread.join();
        }
    }
}
