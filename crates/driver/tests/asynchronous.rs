//! The driver in async code, as its documentation has it: each request a future, over any executor.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod fake;

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use fake::{Fake, FakeDriver, Memory, drive};
use zvb_driver::{Answer, Completion, Request, Sector, SubmitError, Token};

/// One queue of a disk, shared by the futures that wait on it.
struct Shared {
    disk: FakeDriver,
    /// By [`Token::slot`]: who waits for the request, or what came of it.
    waiting: Vec<Option<(Token, Waiting)>>,
    /// Those that found the queue full.
    room: Vec<Waker>,
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
        Self(Rc::new(RefCell::new(Shared { disk, waiting, room: Vec::new() })))
    }

    fn request(&self, request: Request<Memory>) -> InFlight {
        InFlight { queue: self.clone(), state: State::New(Some(request)) }
    }

    /// What the interrupt's task does: hands out what has come.
    fn complete(&self) -> usize {
        let shared = &mut *self.0.borrow_mut();
        let mut count = 0;
        while let Some(completion) = shared.disk.poll(0).expect("a device in order") {
            let place = &mut shared.waiting[completion.token.slot()];
            // `None`: its future was dropped.
            if let Some((token, waiting)) = place
                && *token == completion.token
                && let Waiting::For(waker) = std::mem::replace(waiting, Waiting::Done(completion))
            {
                waker.wake();
            }
            count += 1;
        }
        shared.room.drain(..).for_each(Waker::wake);
        count
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

/// A poor man's executor: polls everything, shows the device what was submitted, waits for it.
fn run<T>(queue: &AsyncQueue, futures: Vec<Pin<Box<dyn Future<Output = T> + '_>>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.into_iter().map(Some).collect();
    let mut results: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..1000 {
        for (future, result) in futures.iter_mut().zip(&mut results) {
            if let Some(running) = future
                && let Poll::Ready(value) = pin!(running).poll(&mut context)
            {
                (*result, *future) = (Some(value), None);
            }
        }
        if futures.iter().all(Option::is_none) {
            return results.into_iter().map(Option::unwrap).collect();
        }
        if queue.complete() == 0 {
            queue.0.borrow_mut().disk.wait(0, None).expect("a device in order");
        }
    }
    panic!("the futures make no progress");
}

#[test]
fn requests_are_futures_that_are_in_flight_together() {
    let fake = Fake::zoned();
    fake.borrow_mut().reverse = true;
    let queue = AsyncQueue::new(drive(&fake));
    let append = async |byte: u8| {
        let mut buffer = queue.0.borrow().disk.buffer(1024).unwrap();
        buffer.fill(byte);
        let done = queue.request(Request::Append { zone: Sector(24), buffer }).await.unwrap();
        let Ok(Answer::Appended(at)) = done.result else { panic!("{done:?}") };
        let buffer = done.buffer.unwrap();
        let done = queue.request(Request::Read { at, buffer }).await.unwrap();
        assert!(done.result.is_ok() && done.buffer.unwrap().iter().all(|b| *b == byte));
        at
    };
    let futures = (1..=8).map(|byte| Box::pin(append(byte)) as Pin<Box<dyn Future<Output = _>>>);
    let mut places = run(&queue, futures.collect());
    // Answered in any order, and each at a place of its own.
    places.sort_unstable();
    assert_eq!(places, (0..8).map(|i| Sector(24 + 2 * i)).collect::<Vec<_>>());
    assert!(fake.borrow().notifications < 8, "each alone");
}

#[test]
fn a_future_that_is_dropped_costs_nothing_but_its_answer() {
    let fake = Fake::zoned();
    let queue = AsyncQueue::new(drive(&fake));
    let mut context = Context::from_waker(Waker::noop());
    let buffer = queue.0.borrow().disk.buffer(1024).unwrap();
    let mut dropped = queue.request(Request::Read { at: Sector(24), buffer });
    assert!(pin!(&mut dropped).poll(&mut context).is_pending());
    drop(dropped);
    queue.0.borrow_mut().disk.wait(0, None).unwrap();
    assert_eq!(queue.complete(), 1);
    assert_eq!(queue.0.borrow().disk.in_flight(0), 0);
}
