//! What the driver allocates for a request: nothing, once a queue is set up and its buffers are there.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]
#![expect(unsafe_code, reason = "an allocator that counts")]

mod fake;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::rc::Rc;

use fake::{Fake, FakeDriver, Memory, Wire, drive};
use zvb_driver::{Buffer, Checks, Completion, Disk, Dma, DmaRegion, Options, Request, Sector};

thread_local! {
    /// Allocations since counting began; `None` while nobody counts.
    static COUNT: Cell<Option<u64>> = const { Cell::new(None) };
}

struct Counting;

fn count() {
    COUNT.set(COUNT.get().map(|count| count + 1));
}

// SAFETY: all is the system's allocator's; what is added touches no memory but a thread's own counter.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // Giving back counts too: who gives back has taken.
        count();
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `act` returns, and how often it allocates or frees.
fn counted<R>(act: impl FnOnce() -> R) -> (R, u64) {
    COUNT.set(Some(0));
    let result = act();
    let count = COUNT.take().unwrap();
    (result, count)
}

/// Submits a request and polls its completion; what the device does in between is not counted.
fn go(disk: &mut FakeDriver, request: Request<Memory>) -> (Completion<Memory>, u64) {
    let (submitted, before) = counted(|| disk.submit(0, request));
    submitted.unwrap();
    // Notifies the fake, and that keeps a list.
    disk.wait(0, None).unwrap();
    let (completion, after) = counted(|| disk.poll(0));
    let completion = completion.unwrap().expect("a completion");
    assert!(completion.result.is_ok(), "{completion:?}");
    (completion, before + after)
}

fn buffer(completion: Completion<Memory>) -> Buffer<Memory> {
    completion.buffer.expect("the buffer that went with it")
}

#[test]
fn nothing_is_allocated_for_a_request() {
    let fake = Fake::zoned();
    let mut disk = drive(&fake);
    let mut data = disk.buffer(1024).unwrap();
    let zone = Sector(24);
    for turn in 0..100 {
        let (done, write) = go(&mut disk, Request::Write { at: zone, buffer: data });
        let (done, append) = go(&mut disk, Request::Append { zone, buffer: buffer(done) });
        let (done, read) = go(&mut disk, Request::Read { at: zone, buffer: buffer(done) });
        data = buffer(done);
        let (_, flush) = go(&mut disk, Request::Flush);
        let (_, close) = go(&mut disk, Request::Close { zone });
        let (_, open) = go(&mut disk, Request::Open { zone });
        let (_, finish) = go(&mut disk, Request::Finish { zone });
        let (_, reset) = go(&mut disk, Request::Reset { zone });
        let counts = [write, append, read, flush, close, open, finish, reset];
        assert_eq!(counts, [0; 8], "turn {turn}");
    }
}

/// What the documentation says of the others: a list for the answer, and one to know whether it is fresh.
#[test]
fn reports_allocate_what_they_answer() {
    let fake = Fake::zoned();
    let mut disk = drive(&fake);
    let room = disk.buffer(64 + 5 * 64).unwrap();
    let (done, report) = go(&mut disk, Request::Report { from: Sector::ZERO, buffer: room });
    // Its versions, taken and given back; its zones, which the caller has now.
    assert_eq!(report, 3);
    drop(done);
    let (_, reset_all) = go(&mut disk, Request::ResetAll);
    assert_eq!(reset_all, 2);
}

/// Memory that knows how much of it is in use.
#[derive(Clone)]
struct Metered(Memory, Rc<Cell<usize>>);

// SAFETY: all is the other's.
unsafe impl Dma for Metered {
    fn alloc(&self, len: usize, align: usize) -> Option<DmaRegion> {
        self.1.set(self.1.get() + len);
        self.0.alloc(len, align)
    }

    unsafe fn free(&self, region: DmaRegion) {
        self.1.set(self.1.get() - region.len);
        // SAFETY: the caller's promise.
        unsafe { self.0.free(region) }
    }
}

/// The other number that the documentation gives: what the device shares of a queue of 256 descriptors.
#[test]
fn a_queue_takes_35_kilobytes() {
    let fake = Fake::zoned();
    let used = Rc::new(Cell::new(0));
    let memory = Metered(fake.borrow().memory.clone(), Rc::clone(&used));
    let options = Options { checks: Checks::Minimal, ..Options::default() };
    let disk = Disk::probe(Wire(Rc::clone(&fake)), memory, &options).unwrap();
    assert_eq!(disk.depth(0), 256);
    assert_eq!(used.get(), 35_398);
    drop(disk);
    assert_eq!(used.get(), 0);
}
