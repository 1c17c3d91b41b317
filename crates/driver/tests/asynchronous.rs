//! The driver in async code, as its documentation has it: each request a future, over any executor. Nothing
//! here blocks: what wakes is the device's interrupt, or nothing.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod fake;

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use fake::{Fake, FakeDriver, Memory, drive};
use zvb_driver::{Answer, Completion, Fault, Features, Request, Sector, SubmitError, Token};
use zvb_wire::DeviceStatus;

/// One queue of a disk, shared by the futures that wait on it.
struct Shared {
    disk: FakeDriver,
    /// By [`Token::slot`]: who waits for the request, or what came of it.
    waiting: Vec<Option<(Token, Waiting)>>,
    /// Those that found the queue full.
    room: Vec<Waker>,
    /// Whom the interrupt wakes.
    interrupt: Option<Waker>,
}

enum Waiting {
    For(Waker),
    Done(Completion<Memory>),
}

#[derive(Clone)]
struct AsyncQueue(Rc<RefCell<Shared>>);

impl AsyncQueue {
    fn new(disk: FakeDriver) -> Self {
        let waiting = (0..disk.depth(0)).map(|_| None).collect();
        let shared = Shared { disk, waiting, room: Vec::new(), interrupt: None };
        Self(Rc::new(RefCell::new(shared)))
    }

    fn request(&self, request: Request<Memory>) -> InFlight {
        InFlight { queue: self.clone(), state: State::New(Some(request)) }
    }

    /// The task that takes the answers. It never ends.
    async fn serve(self) {
        std::future::poll_fn(|context| {
            let shared = &mut *self.0.borrow_mut();
            shared.interrupt = Some(context.waker().clone());
            loop {
                shared.hand_out();
                if !shared.disk.ask_for_signal(0) {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// What the handler of the interrupt does.
    fn interrupted(&self) {
        if let Some(waker) = &self.0.borrow().interrupt {
            waker.wake_by_ref();
        }
    }
}

impl Shared {
    /// Hands out what has come.
    fn hand_out(&mut self) {
        while let Some(completion) = self.disk.poll(0).expect("a device in order") {
            let place = &mut self.waiting[completion.token.slot()];
            // `None`: its future was dropped.
            if let Some((token, waiting)) = place
                && *token == completion.token
                && let Waiting::For(waker) = std::mem::replace(waiting, Waiting::Done(completion))
            {
                waker.wake();
            }
        }
        self.room.drain(..).for_each(Waker::wake);
    }
}

enum State {
    New(Option<Request<Memory>>),
    Sent(Token),
}

/// A request on its way.
struct InFlight {
    queue: AsyncQueue,
    state: State,
}

impl Future for InFlight {
    type Output = Result<Completion<Memory>, SubmitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let queue = self.queue.clone();
        let shared = &mut *queue.0.borrow_mut();
        match &mut self.state {
            State::New(request) => {
                let request = request.take().expect("not polled after it was done");
                match shared.disk.submit(0, request) {
                    Ok(token) => {
                        let waiting = Waiting::For(context.waker().clone());
                        shared.waiting[token.slot()] = Some((token, waiting));
                        self.state = State::Sent(token);
                    }
                    Err(rejected) if rejected.error.retry() => {
                        shared.room.push(context.waker().clone());
                        self.state = State::New(Some(rejected.request));
                    }
                    Err(rejected) => return Poll::Ready(Err(rejected.error)),
                }
                Poll::Pending
            }
            State::Sent(token) => match shared.waiting[token.slot()].take() {
                Some((_, Waiting::Done(completion))) => Poll::Ready(Ok(completion)),
                Some((token, Waiting::For(_))) => {
                    let waiting = Waiting::For(context.waker().clone());
                    shared.waiting[token.slot()] = Some((token, waiting));
                    Poll::Pending
                }
                None => unreachable!("polled after it was done"),
            },
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // The device keeps its buffer until it answers; who waits for that is the driver.
        if let (State::Sent(token), Ok(mut shared)) = (&self.state, self.queue.0.try_borrow_mut()) {
            let place = &mut shared.waiting[token.slot()];
            if place.as_ref().is_some_and(|(theirs, _)| theirs == token) {
                *place = None;
            }
        }
    }
}

/// A task is polled when this is set, and never else.
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Task<'a> {
    future: Pin<Box<dyn Future<Output = ()> + 'a>>,
    woken: Arc<Woken>,
}

impl<'a> Task<'a> {
    fn new(future: impl Future<Output = ()> + 'a) -> Self {
        Self { future: Box::pin(future), woken: Arc::new(Woken(AtomicBool::new(true))) }
    }

    /// Polls it if it was woken; true once it is done.
    fn turn(&mut self) -> bool {
        self.woken.0.swap(false, Ordering::Relaxed) && {
            let waker = Waker::from(Arc::clone(&self.woken));
            self.future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
        }
    }
}

/// A poor man's executor, and the machine that it runs on: tasks that were woken have their turn, then the
/// device sees what they submitted. When it signals, there is an interrupt; it is how often there was one.
fn run(fake: &Rc<RefCell<Fake>>, queue: &AsyncQueue, mut tasks: Vec<Task<'_>>) -> usize {
    let mut server = Task::new(queue.clone().serve());
    let mut interrupts = 0;
    for _ in 0..1000 {
        // Before all others: what they submit was asked about.
        assert!(!server.turn(), "the server has ended");
        tasks.retain_mut(|task| !task.turn());
        if tasks.is_empty() {
            return interrupts;
        }
        queue.0.borrow_mut().disk.kick(0).unwrap();
        let signalled = fake.borrow_mut().turn(0);
        if signalled {
            interrupts += 1;
            queue.interrupted();
        }
    }
    panic!("tasks sleep that nothing wakes: {} of them, {interrupts} interrupts", tasks.len());
}

/// A disk with or without EVENT_IDX.
fn disk(event_index: bool) -> (Rc<RefCell<Fake>>, AsyncQueue) {
    let fake = Fake::zoned();
    if !event_index {
        fake.borrow_mut().offered.remove(Features::EVENT_IDX);
    }
    let queue = AsyncQueue::new(drive(&fake));
    (fake, queue)
}

#[test]
fn requests_are_futures_that_are_in_flight_together() {
    for event_index in [true, false] {
        let (fake, queue) = disk(event_index);
        fake.borrow_mut().reverse = true;
        let places = RefCell::new(Vec::new());
        let append = async |byte: u8| {
            let mut buffer = queue.0.borrow().disk.buffer(1024).unwrap();
            buffer.fill(byte);
            let done = queue.request(Request::Append { zone: Sector(24), buffer }).await.unwrap();
            let Ok(Answer::Appended(at)) = done.result else { panic!("{done:?}") };
            let buffer = done.buffer.unwrap();
            let done = queue.request(Request::Read { at, buffer }).await.unwrap();
            assert!(done.result.is_ok() && done.buffer.unwrap().iter().all(|b| *b == byte));
            places.borrow_mut().push(at);
        };
        let interrupts = run(&fake, &queue, (1..=8).map(|b| Task::new(append(b))).collect());
        // Answered in any order, and each at a place of its own.
        let mut places = places.take();
        places.sort_unstable();
        assert_eq!(places, (0..8).map(|i| Sector(24 + 2 * i)).collect::<Vec<_>>());
        assert_eq!(fake.borrow().notifications, 2, "eight appends at once, and eight reads");
        assert_eq!(interrupts, 2, "EVENT_IDX: {event_index}");
    }
}

#[test]
fn each_answer_has_its_interrupt_when_the_device_is_slow() {
    for event_index in [true, false] {
        let (fake, queue) = disk(event_index);
        fake.borrow_mut().per_turn = 1;
        let read = async || {
            for _ in 0..5 {
                let buffer = queue.0.borrow().disk.buffer(1024).unwrap();
                let done = queue.request(Request::Read { at: Sector(24), buffer }).await.unwrap();
                assert_eq!(done.result, Ok(Answer::Done));
            }
        };
        let interrupts = run(&fake, &queue, (0..4).map(|_| Task::new(read())).collect());
        assert_eq!(interrupts, 20, "EVENT_IDX: {event_index}");
    }
}

#[test]
fn more_futures_than_the_queue_has_room_for_all_come_to_their_end() {
    for event_index in [true, false] {
        let (fake, queue) = disk(event_index);
        let depth = queue.0.borrow().disk.depth(0);
        let done = RefCell::new(0);
        let read = async || {
            let buffer = queue.0.borrow().disk.buffer(1024).unwrap();
            queue.request(Request::Read { at: Sector(24), buffer }).await.unwrap();
            *done.borrow_mut() += 1;
        };
        run(&fake, &queue, (0..depth + 3).map(|_| Task::new(read())).collect());
        assert_eq!(done.take(), depth + 3);
    }
}

#[test]
fn a_future_that_is_dropped_costs_nothing_but_its_answer() {
    let (fake, queue) = disk(true);
    let mut context = Context::from_waker(Waker::noop());
    let buffer = queue.0.borrow().disk.buffer(1024).unwrap();
    let mut dropped = queue.request(Request::Read { at: Sector(24), buffer });
    assert!(pin!(&mut dropped).poll(&mut context).is_pending());
    drop(dropped);
    let next = async || {
        let buffer = queue.0.borrow().disk.buffer(1024).unwrap();
        queue.request(Request::Read { at: Sector(24), buffer }).await.unwrap();
    };
    run(&fake, &queue, vec![Task::new(next())]);
    assert_eq!(queue.0.borrow().disk.in_flight(0), 0);
}

/// Sends a read, and has the device answer it; true when it signals.
fn answer_a_read(fake: &Rc<RefCell<Fake>>, disk: &mut FakeDriver) -> bool {
    let buffer = disk.buffer(1024).unwrap();
    disk.submit(0, Request::Read { at: Sector(24), buffer }).unwrap();
    disk.kick(0).unwrap();
    fake.borrow_mut().turn(0)
}

#[test]
fn a_signal_comes_for_each_that_was_asked_for_and_no_other() {
    for event_index in [true, false] {
        let fake = Fake::zoned();
        if !event_index {
            fake.borrow_mut().offered.remove(Features::EVENT_IDX);
        }
        let mut disk = drive(&fake);
        assert!(!answer_a_read(&fake, &mut disk), "a signal that nobody asked for");
        assert!(disk.ask_for_signal(0), "an answer is there already");
        assert!(disk.poll(0).unwrap().is_some());
        for _ in 0..5 {
            assert!(!disk.ask_for_signal(0), "nothing to poll");
            assert!(answer_a_read(&fake, &mut disk), "no signal; EVENT_IDX: {event_index}");
            assert!(disk.poll(0).unwrap().is_some());
            // Polled, and not asked again.
            assert!(!answer_a_read(&fake, &mut disk), "a second signal");
            assert!(disk.poll(0).unwrap().is_some());
        }
        assert!(!disk.ask_for_signal(7), "of a queue that does not exist nothing comes");
    }
}

#[test]
fn what_a_blocking_call_came_upon_is_there_to_poll_without_a_signal() {
    let fake = Fake::zoned();
    let mut disk = drive(&fake);
    let buffer = disk.buffer(1024).unwrap();
    let token = disk.submit(0, Request::Read { at: Sector(24), buffer }).unwrap();
    disk.flush().unwrap();
    assert!(disk.ask_for_signal(0));
    assert_eq!(disk.poll(0).unwrap().unwrap().token, token);
    assert!(!disk.ask_for_signal(0));
}

#[test]
fn a_broken_queue_is_to_be_polled_for_what_broke_it() {
    let fake = Fake::zoned();
    let mut disk = drive(&fake);
    fake.borrow_mut().status |= DeviceStatus::NEEDS_RESET;
    disk.refresh().ok();
    assert!(disk.ask_for_signal(0), "no signal will ever come");
    assert_eq!(disk.poll(0).unwrap_err(), Fault::NeedsReset);
}
