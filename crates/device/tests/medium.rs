//! What a guest sees when the medium under an image fails: IOERR, a write pointer that tells the truth, and
//! a device that goes on as far as it still can.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "each test file uses a part")]
#[path = "../../storage/tests/support/faulty.rs"]
mod faulty;
mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use faulty::{EIO, ENOSPC, State};
use support::*;
use zvb_device::{DeviceOptions, GuestFault, Observer};
use zvb_ring::RingError;
use zvb_storage::{
    CommitBy, CreateOptions, EngineKind, Failure, Image, OpenOptions, Recovery, Volume,
};
use zvb_wire::zerocopy::IntoBytes;
use zvb_wire::{Condition, DiscardSegment, Features, Model, RequestType as T, Sector, Status};

/// Nothing random here.
struct Rng;

impl Rng {
    fn below(&mut self, _: u64) -> u64 {
        unreachable!("no power is lost here")
    }
}

/// What was said.
#[derive(Default)]
struct Heard {
    faults: Mutex<Vec<(T, u64, String)>>,
    read_only: AtomicU64,
}

impl Observer for Heard {
    fn guest_fault(&self, _: u16, fault: &GuestFault) {
        panic!("{fault}");
    }

    fn queue_retired(&self, _: u16, why: &RingError) {
        panic!("{why}");
    }

    fn medium_fault(&self, _: u16, request: T, at: Sector, why: &Failure) {
        let cause = std::error::Error::source(why).map(ToString::to_string).unwrap_or_default();
        self.faults.lock().unwrap().push((request, at.0, format!("{why}: {cause}")));
    }

    fn turned_read_only(&self, part_is_lost: bool) {
        assert!(!part_is_lost);
        self.read_only.fetch_add(1, Ordering::Relaxed);
    }
}

/// An image on a medium that fails when it is told to, and a guest of it.
struct Bench {
    state: Arc<State>,
    image: Arc<Image>,
    heard: Arc<Heard>,
    guest: Guest,
}

fn options() -> OpenOptions {
    OpenOptions {
        engine: EngineKind::Sync,
        commit: CommitBy::Caller,
        boot: Some([1; 16]),
        ..OpenOptions::default()
    }
}

impl Bench {
    fn new(model: Model) -> Self {
        Self::with(model, ALL)
    }

    fn with(model: Model, accept: Features) -> Self {
        let spec = small(model, 0, 0);
        let state = State::with(vec![0; 4 << 20]);
        let create = CreateOptions {
            capacity: spec.capacity,
            block_size: 4096,
            zones: Some(spec),
            id: None,
            uuid: Some([7; 16]),
            force: false,
        };
        Image::create_on(&state.medium(), &create).unwrap();
        let image = Arc::new(state.open(&options()).unwrap());
        let heard = Arc::new(Heard::default());
        let observer = Arc::clone(&heard) as Arc<dyn Observer>;
        let options = DeviceOptions { queues: 1, observer, ..DeviceOptions::default() };
        let session = session_over(Arc::clone(&image) as Arc<dyn Volume>, options, accept);
        Self { state, image, heard, guest: Guest::new(&session, 0) }
    }

    /// Sends writes one behind the other from `at` on, all before the device looks.
    fn writes(&mut self, at: u64, count: u8) -> Vec<Status> {
        let g = &mut self.guest;
        let sent: Vec<_> =
            (0..count).map(|i| g.send_write(at + 8 * u64::from(i), &pattern(i + 1, 8))).collect();
        g.turn();
        sent.iter().map(|sent| g.answer(sent).unwrap().status()).collect()
    }

    fn faults(&self) -> usize {
        self.heard.faults.lock().unwrap().len()
    }

    fn ranges(&mut self, request: T, at: u64, sectors: u32) -> Status {
        let range = DiscardSegment {
            sector: at.into(),
            num_sectors: sectors.into(),
            ..DiscardSegment::default()
        };
        self.guest.request(&[&Guest::header(request, 0), range.as_bytes()], &[1]).status()
    }
}

#[test]
fn a_write_that_fails_moves_no_pointer_and_the_next_one_there_succeeds() {
    let mut b = Bench::new(Model::HostManaged);
    assert_eq!(b.guest.write(32, &pattern(1, 8)), Status::OK);
    b.state.fail_write.store(EIO as u64, Ordering::Relaxed);
    assert_eq!(b.guest.write(40, &pattern(2, 8)), Status::IOERR);
    assert_eq!(b.guest.append(32, &pattern(2, 8)).0, Status::IOERR);
    assert_eq!(b.faults(), 2, "each is told");
    assert_eq!(b.guest.written(32), 8);
    let mut expected = pattern(1, 8);
    expected.resize(24 * 512, 0);
    assert_eq!(b.guest.read(32, 24), (Status::OK, expected), "nothing of it shows");
    b.state.fail_write.store(0, Ordering::Relaxed);
    assert_eq!(b.guest.append(32, &pattern(3, 8)), (Status::OK, 40));
    assert_eq!(b.guest.read(40, 8), (Status::OK, pattern(3, 8)));
    assert_eq!(b.heard.read_only.load(Ordering::Relaxed), 0);
    b.image.close().unwrap();
}

#[test]
fn a_medium_that_is_full_in_the_middle_of_a_zone() {
    let mut b = Bench::new(Model::HostManaged);
    // One write and a half.
    *b.state.room.lock().unwrap() = Some(12 * 512);
    assert_eq!(b.writes(32, 3), [Status::OK, Status::IOERR, Status::IOERR]);
    let told = b.heard.faults.lock().unwrap().clone();
    assert!(told[0].2.contains("No space left"), "{told:?}");
    assert_eq!(b.guest.written(32), 8, "the pointer tells the truth");
    assert_eq!(b.guest.write(48, &pattern(9, 8)), Status::ZONE_UNALIGNED_WP);
    assert_eq!(b.guest.write(40, &pattern(9, 8)), Status::IOERR, "it is still full");
    // What needs no space goes on.
    assert_eq!(b.guest.read(32, 8), (Status::OK, pattern(1, 8)));
    assert_eq!(b.guest.simple(T::FLUSH, 0), Status::OK);
    assert_eq!(b.guest.simple(T::ZONE_FINISH, 64), Status::OK);
    // And with space there, all does.
    *b.state.room.lock().unwrap() = None;
    assert_eq!(b.writes(40, 2), [Status::OK, Status::OK]);
    assert_eq!(b.guest.conditions()[1], Condition::Full);
    let expected = [pattern(1, 8), pattern(1, 8), pattern(2, 8)].concat();
    assert_eq!(b.guest.read(32, 24), (Status::OK, expected));
    b.image.close().unwrap();
}

#[test]
fn a_read_that_fails_is_an_error_and_no_more() {
    let mut b = Bench::new(Model::HostManaged);
    assert_eq!(b.guest.write(32, &pattern(1, 8)), Status::OK);
    b.state.fail_read.store(EIO as u64, Ordering::Relaxed);
    assert_eq!(b.guest.read(32, 8).0, Status::IOERR);
    // What was never written needs no medium.
    assert_eq!(b.guest.read(40, 8), (Status::OK, vec![0; 8 * 512]));
    assert_eq!(b.guest.append(32, &pattern(2, 8)), (Status::OK, 40));
    b.state.fail_read.store(0, Ordering::Relaxed);
    assert_eq!(b.guest.read(32, 16), (Status::OK, [pattern(1, 8), pattern(2, 8)].concat()));
    assert_eq!(b.heard.faults.lock().unwrap()[0].0, T::IN);
}

#[test]
fn short_reads_and_writes_are_gone_on_with() {
    for model in [Model::HostManaged, Model::HostAware] {
        let mut b = Bench::new(model);
        b.state.at_most.store(1000, Ordering::Relaxed);
        assert_eq!(b.writes(32, 3), [Status::OK; 3]);
        let expected = [pattern(1, 8), pattern(2, 8), pattern(3, 8)].concat();
        assert_eq!(b.guest.read(32, 24), (Status::OK, expected));
        assert_eq!(b.guest.written(32), if model == Model::HostManaged { 32 } else { 24 });
        assert_eq!(b.faults(), 0);
    }
}

#[test]
fn zeroes_and_discards_that_fail_change_nothing_that_is_promised() {
    let mut b = Bench::new(Model::HostAware);
    assert_eq!(b.guest.write(0, &pattern(1, 8)), Status::OK);
    assert_eq!(b.guest.write(32, &pattern(2, 8)), Status::OK);
    b.state.fail_zero.store(EIO as u64, Ordering::Relaxed);
    assert_eq!(b.ranges(T::DISCARD, 0, 8), Status::IOERR);
    assert_eq!(b.ranges(T::WRITE_ZEROES, 0, 8), Status::IOERR);
    assert_eq!(b.ranges(T::WRITE_ZEROES, 32, 16), Status::IOERR);
    assert_eq!(b.guest.written(32), 8, "no data ends where none was written");
    assert_eq!(b.faults(), 3);
    b.state.fail_zero.store(0, Ordering::Relaxed);
    assert_eq!(b.ranges(T::DISCARD, 0, 8), Status::OK);
    assert_eq!(b.ranges(T::WRITE_ZEROES, 32, 16), Status::OK);
    assert_eq!(b.guest.read(0, 8), (Status::OK, vec![0; 8 * 512]));
    assert_eq!(b.guest.read(32, 16), (Status::OK, vec![0; 16 * 512]));
    assert_eq!(b.guest.written(32), 16);
    b.image.close().unwrap();
}

#[test]
fn a_sync_that_fails_is_the_last_and_the_disk_can_only_be_read() {
    let mut b = Bench::new(Model::HostAware);
    assert_eq!(b.guest.write(0, &pattern(1, 8)), Status::OK);
    assert_eq!(b.guest.write(32, &pattern(2, 8)), Status::OK);
    assert_eq!(b.guest.simple(T::FLUSH, 0), Status::OK);
    assert_eq!(b.guest.write(64, &pattern(3, 8)), Status::OK);
    b.state.fail_sync.store(EIO as u64, Ordering::Relaxed);
    assert_eq!(b.guest.simple(T::FLUSH, 0), Status::IOERR);
    assert_eq!(b.heard.read_only.load(Ordering::Relaxed), 1);
    let syncs = b.state.syncs.load(Ordering::Relaxed);
    let conditions = b.guest.conditions();

    // The medium is well again, and nobody believes it.
    b.state.fail_sync.store(0, Ordering::Relaxed);
    assert_eq!(b.guest.simple(T::FLUSH, 0), Status::IOERR);
    for (request, at) in [
        (T::ZONE_RESET, 32),
        (T::ZONE_FINISH, 32),
        (T::ZONE_OPEN, 96),
        (T::ZONE_CLOSE, 32),
        (T::ZONE_RESET_ALL, 0),
    ] {
        assert_eq!(b.guest.simple(request, at), Status::IOERR, "{request:?}");
    }
    assert_eq!(b.guest.write(0, &pattern(4, 8)), Status::IOERR);
    assert_eq!(b.guest.write(40, &pattern(4, 8)), Status::IOERR);
    assert_eq!(b.ranges(T::DISCARD, 0, 8), Status::IOERR);
    assert_eq!(b.ranges(T::WRITE_ZEROES, 32, 8), Status::IOERR);
    assert_eq!(b.guest.conditions(), conditions, "nothing has changed");
    assert_eq!(b.state.syncs.load(Ordering::Relaxed), syncs, "no sync is tried again");
    assert_eq!(b.heard.read_only.load(Ordering::Relaxed), 1, "told once");

    // Reads go on.
    assert_eq!(b.guest.read(0, 8), (Status::OK, pattern(1, 8)));
    assert_eq!(b.guest.read(64, 8), (Status::OK, pattern(3, 8)));
    assert_eq!(b.guest.simple(T::GET_ID, 0), Status::OK);
    b.image.close().unwrap_err();

    // Whoever comes next believes what was flushed before.
    let Bench { state, image, guest, .. } = b;
    drop((guest, image));
    let image = Arc::new(state.open(&options()).unwrap());
    assert_eq!(image.recovery(), Recovery::SyncFailed);
    let session = session_over(image, DeviceOptions::default(), ALL);
    let mut guest = Guest::new(&session, 0);
    assert_eq!(guest.read(32, 8), (Status::OK, pattern(2, 8)));
    assert_eq!(guest.written(32), 8);
    assert_eq!(guest.conditions()[2], Condition::Empty, "it was not flushed");
    assert_eq!(guest.write(40, &pattern(5, 8)), Status::OK);
    assert_eq!(guest.simple(T::FLUSH, 0), Status::OK);
}

#[test]
fn a_write_through_that_can_not_be_made_durable_is_an_error() {
    let through = ALL - (Features::FLUSH | Features::CONFIG_WCE);
    for full in [false, true] {
        let mut b = Bench::with(Model::HostManaged, through);
        assert_eq!(b.guest.write(32, &pattern(1, 8)), Status::OK);
        let code = if full { ENOSPC } else { EIO };
        b.state.fail_sync.store(code as u64, Ordering::Relaxed);
        assert_eq!(b.guest.write(40, &pattern(2, 8)), Status::IOERR);
        b.state.fail_sync.store(0, Ordering::Relaxed);
        assert_eq!(b.guest.write(48, &pattern(3, 8)), Status::IOERR);
        assert_eq!(b.guest.simple(T::ZONE_RESET, 32), Status::IOERR);
        assert_eq!(b.guest.read(32, 8), (Status::OK, pattern(1, 8)));
        assert_eq!(b.heard.read_only.load(Ordering::Relaxed), 1);
    }
}

#[test]
fn a_reset_zone_whose_space_can_not_be_had_again_fails_the_write_that_wants_it() {
    let mut b = Bench::new(Model::HostAware);
    b.state.fail_zero.store(EIO as u64, Ordering::Relaxed);
    // Each life takes another slot, until all are to be cleared.
    let mut lives = 0..100;
    let failed = lives.find(|_| {
        assert_eq!(b.guest.simple(T::ZONE_RESET, 32), Status::OK);
        b.guest.write(32, &pattern(1, 8)) != Status::OK
    });
    assert!(failed.is_some_and(|lives| lives > 0), "{failed:?}");
    let told = b.heard.faults.lock().unwrap().clone();
    assert_eq!((told.len(), told[0].0, told[0].1), (1, T::OUT, 32), "{told:?}");
    assert_eq!(b.guest.written(32), 0);
    assert_eq!(b.guest.read(32, 8), (Status::OK, vec![0; 8 * 512]));
    b.state.fail_zero.store(0, Ordering::Relaxed);
    assert_eq!(b.guest.write(32, &pattern(2, 8)), Status::OK);
    assert_eq!(b.guest.read(32, 16), (Status::OK, [pattern(2, 8), vec![0; 8 * 512]].concat()));
    b.image.close().unwrap();
}
