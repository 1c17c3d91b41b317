//! One thread for one running queue.
//!
//! The thread owns the queue's [`Lane`] and takes turns until it is told to stop: then it takes no more
//! chains, answers those it has, and says where it got to. It never holds up whoever controls it, and it
//! is told things through an inbox and a bell.

use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use zvb_device::{ConfigListener, Lane, LaneError, Session, Wake};
use zvb_ring::{DeviceQueue, GuestMemory, QueueConfig, SetupError};

use crate::polling::Polling;
use crate::server::event::{Bell, PeerEvent};
use crate::server::log::{Level, Log};
use crate::vduse::QueueLedger;

/// How often a queue without a kick is looked at.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000 };

/// How long a worker that was told to stop may be silent before it is taken to hang in a signal.
const STOP_PATIENCE: Duration = Duration::from_millis(250);

/// A driver's memory, whoever shares it.
pub(crate) trait Space: Send + Sync {
    /// The memory, for the queue of the calling thread.
    fn view(self: Arc<Self>) -> Rc<dyn GuestMemory>;

    /// True when part of it turned out to be gone: nobody sees what is written there.
    fn is_lost(&self) -> bool;
}

/// How a driver is told that chains were answered.
pub(crate) trait Call: Send + Sync {
    /// Tells it.
    fn signal(&self) -> io::Result<()>;

    /// Frees a thread that hangs in [`signal`](Self::signal), where one can.
    fn unwedge(&self) {}
}

/// The session that a queue belongs to.
pub(crate) trait Cut: Send + Sync {
    /// It can not go on, and ends.
    fn cut(&self);
}

/// What a worker works on.
pub(crate) struct Job {
    /// The queue.
    pub(crate) index: u16,
    pub(crate) guest: Arc<Session>,
    pub(crate) memory: Arc<dyn Space>,
    /// `next_used` is found in memory.
    pub(crate) queue: QueueConfig,
    /// Readable when there are new chains; `None`: look often.
    pub(crate) kick: Option<Arc<PeerEvent>>,
    pub(crate) signals: Signals,
    /// Where it is written down what is in flight.
    pub(crate) ledger: Option<Remembered>,
    pub(crate) log: Arc<dyn Log>,
    /// To be cut when the driver's memory is taken away.
    pub(crate) session: Arc<dyn Cut>,
    /// Told when the driver must look at the status.
    pub(crate) announcer: Option<Arc<dyn ConfigListener>>,
}

/// Where a queue writes down what is in flight.
pub(crate) struct Remembered {
    pub(crate) ledger: QueueLedger,
    /// A process before this one served the queue, and died: its chains come first.
    pub(crate) taken_over: bool,
}

/// What a worker signals.
#[derive(Clone, Default)]
pub(crate) struct Signals {
    /// When chains were answered; `None`: the driver looks by itself.
    pub(crate) call: Option<Arc<dyn Call>>,
    /// When the queue is broken.
    pub(crate) error: Option<Arc<PeerEvent>>,
}

/// Why a queue can not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The used ring is not in memory.
    #[error("the used ring is not in the memory that the frontend shares")]
    UsedRing,
    /// The queue is not what a queue is.
    #[error("the queue can not be set up")]
    Setup(#[from] SetupError),
    /// The device refuses.
    #[error("the device does not take the queue")]
    Lane(#[from] LaneError),
    /// No thread, or no eventfd.
    #[error("the host has no room for another queue")]
    Host(#[from] io::Error),
    /// The thread died: a fault of this program.
    #[error("the queue's thread failed")]
    Died,
}

/// Where a queue stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stopped {
    /// The index of the next chain that it would have taken.
    pub(crate) next_available: u16,
    /// The driver broke it: it must not go on before a reset.
    pub(crate) retired: bool,
}

/// What a worker is told: the last word counts, so it never holds more than this.
struct Inbox {
    /// There is something to read.
    news: AtomicBool,
    orders: Mutex<Orders>,
    /// The other way: the driver broke the queue.
    broken: AtomicBool,
}

struct Orders {
    stop: bool,
    /// To be signalled from now on.
    next: Option<Signals>,
    /// Signalled until then.
    present: Signals,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running queue. It must be stopped ([`Worker::stop`]); dropping it stops it too.
pub(crate) struct Worker {
    inbox: Arc<Inbox>,
    bell: Arc<Bell>,
    /// The queue is one that a process before this one left, and waits for [`go`](Self::go).
    go: Option<SyncSender<()>>,
    stopped: Receiver<Stopped>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts a thread for `job`, and returns when its queue runs, or can not. A queue that is taken over has
    /// found out by then what had happened of what was in flight, and does nothing before [`go`](Self::go).
    pub(crate) fn start(job: Job) -> Result<Self, StartError> {
        let bell = Arc::new(Bell::new()?);
        let orders = Orders { stop: false, next: None, present: job.signals.clone() };
        let inbox = Arc::new(Inbox {
            news: AtomicBool::new(false),
            orders: Mutex::new(orders),
            broken: AtomicBool::new(false),
        });
        let (started, ready) = sync_channel(1);
        let (at_end, stopped) = sync_channel(1);
        let waits = job.ledger.as_ref().is_some_and(|ledger| ledger.taken_over);
        let (go, gone) = sync_channel(1);
        let go = waits.then_some(go);
        let thread = thread::Builder::new().name(format!("queue {}", job.index)).spawn({
            let (inbox, bell) = (Arc::clone(&inbox), Arc::clone(&bell));
            move || run(job, inbox, bell, &started, &gone, &at_end)
        })?;
        let started = ready.recv().unwrap_or(Err(StartError::Died));
        let mut worker = Self { inbox, bell, go, stopped, thread: Some(thread) };
        match started {
            Ok(()) => Ok(worker),
            Err(error) => {
                // The thread is ending, and says no more.
                worker.wait();
                Err(error)
            }
        }
    }

    /// Every queue of the device has been looked at: a queue that is taken over begins.
    pub(crate) fn go(&mut self) {
        self.go = None;
    }

    /// True once the driver has broken the queue: it takes nothing more.
    pub(crate) fn is_broken(&self) -> bool {
        self.inbox.broken.load(Ordering::Acquire)
    }

    /// From now on, signal these.
    pub(crate) fn set_signals(&self, signals: Signals) {
        self.order(|orders| orders.next = Some(signals));
    }

    /// Take no more chains. [`stop`](Self::stop) waits until those taken are answered: several workers
    /// are told first and waited for then.
    pub(crate) fn begin_stop(&self) {
        self.order(|orders| orders.stop = true);
    }

    /// Stops, and waits until everything in flight is done and answered. `None` when the thread died,
    /// which is a fault of this program.
    pub(crate) fn stop(mut self) -> Option<Stopped> {
        self.begin_stop();
        self.wait()
    }

    fn wait(&mut self) -> Option<Stopped> {
        self.go();
        let stopped = loop {
            match self.stopped.recv_timeout(STOP_PATIENCE) {
                Ok(stopped) => break Some(stopped),
                Err(RecvTimeoutError::Disconnected) => break None,
                Err(RecvTimeoutError::Timeout) => {
                    // I/O takes as long as it takes; a hostile frontend must not make it longer.
                    let present = self.inbox.lock().present.clone();
                    if let Some(call) = present.call {
                        call.unwedge();
                    }
                    if let Some(error) = present.error {
                        error.unwedge();
                    }
                }
            }
        };
        let joined = self.thread.take().map(JoinHandle::join);
        if matches!(joined, Some(Ok(()))) { stopped } else { None }
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        change(&mut self.inbox.lock());
        self.inbox.news.store(true, Ordering::Release);
        self.bell.ring();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.begin_stop();
            self.wait();
        }
    }
}

/// The whole life of a worker's thread.
fn run(
    job: Job,
    inbox: Arc<Inbox>,
    bell: Arc<Bell>,
    started: &SyncSender<Result<(), StartError>>,
    go: &Receiver<()>,
    at_end: &SyncSender<Stopped>,
) {
    let _cut = CutOnPanic(Arc::clone(&job.session));
    // Each is received: `start` and `wait` do not return without.
    let mut job = job;
    let lane = match make_lane(&mut job, &bell) {
        Ok(lane) => lane,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let _ = started.send(Ok(()));
    // Nothing is ever sent: whoever may begin is let go.
    let _ = go.recv();
    let Job { index, guest, memory, kick, signals, log, session, announcer, .. } = job;
    let looks = kick.is_none();
    let polling = Polling::new(guest.poll());
    let runner = Runner {
        lane,
        index,
        memory,
        kick,
        looks,
        polling,
        signals,
        log,
        session,
        announcer,
        inbox,
        bell,
        stopping: false,
        retired: false,
        lost: false,
    };
    let stopped = runner.run();
    let _ = at_end.send(stopped);
}

/// Ends the session of a worker that dies, which is a fault of this program: its driver would wait for
/// ever.
struct CutOnPanic(Arc<dyn Cut>);

impl Drop for CutOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.cut();
        }
    }
}

fn make_lane(job: &mut Job, bell: &Arc<Bell>) -> Result<Lane, StartError> {
    let view = Arc::clone(&job.memory).view();
    let next_used = DeviceQueue::used_index(&*view, job.queue.used).ok_or(StartError::UsedRing)?;
    let mut config = QueueConfig { next_used, ..job.queue };
    let wake: Arc<dyn Wake> = Arc::<Bell>::clone(bell);
    let Some(Remembered { mut ledger, taken_over }) = job.ledger.take() else {
        return Ok(job.guest.lane(job.index, DeviceQueue::new(view, config)?, wake)?);
    };
    let mut unanswered = Vec::new();
    if taken_over {
        unanswered = ledger.unanswered(next_used);
        // Every chain that was ever taken is answered, or among these, of which there are at most 2^15.
        config.next_available = next_used.wrapping_add(unanswered.len() as u16);
    } else {
        ledger.clear();
    }
    let mut queue = DeviceQueue::new(view, config)?;
    queue.remember(Box::new(ledger), unanswered);
    let mut lane = job.guest.lane(job.index, queue, wake)?;
    lane.resume();
    Ok(lane)
}

/// How long to wait for `deadline`.
fn until(deadline: Instant) -> Timespec {
    let left = deadline.saturating_duration_since(Instant::now());
    // Longer than anything is held up.
    Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 })
}

struct Runner {
    lane: Lane,
    index: u16,
    memory: Arc<dyn Space>,
    kick: Option<Arc<PeerEvent>>,
    /// There never was a kick.
    looks: bool,
    polling: Polling,
    signals: Signals,
    log: Arc<dyn Log>,
    session: Arc<dyn Cut>,
    announcer: Option<Arc<dyn ConfigListener>>,
    inbox: Arc<Inbox>,
    bell: Arc<Bell>,
    stopping: bool,
    retired: bool,
    lost: bool,
}

impl Runner {
    fn run(mut self) -> Stopped {
        loop {
            self.read_orders();
            let turn = self.lane.turn(!self.stopping && !self.lost);
            if turn.signal {
                self.call();
            }
            self.notice_lost_memory();
            self.notice_broken_ring();
            if self.stopping && (self.lane.in_flight() == 0 || self.lane.is_stuck()) {
                return Stopped {
                    next_available: self.lane.next_available(),
                    retired: self.retired,
                };
            }
            if turn.progress {
                self.polling.worked(Instant::now);
                continue;
            }
            let pulls = !self.stopping && !self.lost;
            if pulls && !self.retired && self.polling.goes_on(Instant::now) {
                std::hint::spin_loop();
                continue;
            }
            if !pulls || self.lane.prepare_sleep() {
                self.sleep();
            }
        }
    }

    fn read_orders(&mut self) {
        if !self.inbox.news.load(Ordering::Relaxed) {
            return;
        }
        self.inbox.news.swap(false, Ordering::Acquire);
        let mut orders = self.inbox.lock();
        self.stopping |= orders.stop;
        let Some(signals) = orders.next.take() else { return };
        orders.present = signals.clone();
        drop(orders);
        self.signals = signals;
        // What was answered just before may have gone to the old one, unheard. One signal too many does
        // no harm.
        self.call();
    }

    fn call(&mut self) {
        if let Some(call) = &self.signals.call
            && let Err(error) = call.signal()
        {
            self.log.log(
                Level::Warn,
                format_args!("queue {}: the driver can not be signalled: {error}", self.index),
            );
            self.signals.call = None;
        }
    }

    /// A driver whose memory was cut short can not be served: what is in flight goes on with memory
    /// that nobody sees, and the session ends.
    fn notice_lost_memory(&mut self) {
        if self.lost || !self.memory.is_lost() {
            return;
        }
        self.lost = true;
        let index = self.index;
        self.log.log(
            Level::Warn,
            format_args!("queue {index}: the other side cut its memory short: the session ends"),
        );
        self.session.cut();
    }

    fn notice_broken_ring(&mut self) {
        let Some(why) = self.lane.broken().filter(|_| !self.retired) else { return };
        self.retired = true;
        // Before anybody is told to look.
        self.inbox.broken.store(true, Ordering::Release);
        let index = self.index;
        self.log.log(Level::Warn, format_args!("queue {index} is retired: {why}"));
        if let Some(event) = &self.signals.error {
            // The log has it; there is nobody else to tell.
            let _ = event.signal();
        }
        // NEEDS_RESET is in the status from now on, and DRIVER_OK was (virtio 2.1.2).
        if let Some(announcer) = &self.announcer {
            announcer.config_changed();
        }
    }

    /// Waits until there is something to do.
    fn sleep(&mut self) {
        let pulls = !self.stopping && !self.retired && !self.lost;
        let look = if self.looks && pulls { Some(LOOK_EVERY) } else { None };
        let deadline = self.lane.deadline().map(until);
        let timeout = look.into_iter().chain(deadline).min_by_key(|t| (t.tv_sec, t.tv_nsec));
        let kick = self.kick.as_ref().filter(|_| pulls);
        let event = self.lane.event();
        // The bell stands in for what is not there, asked for nothing.
        let bell = self.bell.as_fd();
        let mut fds = [
            PollFd::from_borrowed_fd(bell, PollFlags::IN),
            match kick {
                Some(kick) => PollFd::from_borrowed_fd(kick.as_fd(), PollFlags::IN),
                None => PollFd::from_borrowed_fd(bell, PollFlags::empty()),
            },
            match event {
                Some(event) => PollFd::from_borrowed_fd(event, PollFlags::IN),
                None => PollFd::from_borrowed_fd(bell, PollFlags::empty()),
            },
        ];
        if let Err(errno) = poll(&mut fds, timeout.as_ref()) {
            // Nothing else can go wrong with descriptors that we hold and a timeout that is fixed.
            debug_assert!(matches!(errno, Errno::INTR | Errno::NOMEM), "poll failed: {errno}");
            return;
        }
        let [bell_rang, kicked, _] = fds.map(|fd| !fd.revents().is_empty());
        if bell_rang {
            self.bell.clear();
        }
        if kicked
            && let Some(kick) = kick
            && let Err(error) = kick.drain()
        {
            let index = self.index;
            self.log.log(
                Level::Warn,
                format_args!("queue {index}: its kick can not be read, and is left alone: {error}"),
            );
            self.kick = None;
        }
    }
}
