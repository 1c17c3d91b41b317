//! A process dies at any instant, with requests in flight, and the next one takes the queue over: each request
//! happens once and is answered once, and nothing that was acknowledged is undone.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use support::*;
use zvb_ring::{Ledger, Unanswered};
use zvb_wire::{Condition, Features, Model, RequestType, Sector, Status};
use zvb_zones::GeometrySpec;

/// What is written down, by the chain's head.
#[derive(Clone, Copy, Debug)]
struct Line {
    sequence: u64,
    note: u64,
    answered: Option<u16>,
}

#[derive(Default)]
struct Book {
    lines: BTreeMap<u16, Line>,
    sequence: u64,
}

impl Book {
    /// What was taken and is not answered, when the used index is `used`.
    fn unanswered(&mut self, used: u16) -> Vec<Unanswered> {
        let seen = |position: u16| (1..=0x8000).contains(&used.wrapping_sub(position));
        self.lines.retain(|_, line| !line.answered.is_some_and(seen));
        let mut lines: Vec<_> = self.lines.iter_mut().collect();
        lines.sort_by_key(|(_, line)| line.sequence);
        lines
            .into_iter()
            .map(|(head, line)| {
                line.answered = None;
                Unanswered { head: *head, note: line.note }
            })
            .collect()
    }
}

/// A ledger that dies, now and then, before or after it writes.
struct Mortal(Rc<RefCell<Book>>);

impl Mortal {
    fn write(&self, change: impl FnOnce(&mut Book)) {
        burn();
        change(&mut self.0.borrow_mut());
        burn();
    }
}

impl Ledger for Mortal {
    fn taken(&mut self, head: u16) {
        self.write(|book| {
            book.sequence += 1;
            let line = Line { sequence: book.sequence, note: 0, answered: None };
            assert!(book.lines.insert(head, line).is_none(), "taken twice");
        });
    }

    fn note(&mut self, head: u16, note: u64) {
        self.write(|book| book.lines.get_mut(&head).unwrap().note = note);
    }

    fn answered(&mut self, head: u16, position: u16) {
        self.write(|book| book.lines.get_mut(&head).unwrap().answered = Some(position));
    }

    fn published(&mut self) {
        self.write(|book| book.lines.retain(|_, line| line.answered.is_none()));
    }
}

/// Sends one of everything at once; what is expected of each.
fn everything(guest: &mut Guest) -> Vec<(Sent, &'static str)> {
    let mut all = Vec::new();
    let write = |guest: &mut Guest, at: u64, seed: u8| guest.send_write(at, &pattern(seed, 8));
    // 1 conventional zone, then sequential ones of 32 sectors.
    all.push((write(guest, 8, 1), "a conventional write"));
    all.push((write(guest, 32, 2), "a write"));
    all.push((write(guest, 40, 3), "a write behind it"));
    for seed in [4, 5, 6] {
        let header = Guest::header(RequestType::ZONE_APPEND, 64);
        all.push((guest.send(&[&header, &pattern(seed, 8)], &[9]), "an append"));
    }
    let command =
        |guest: &mut Guest, request, zone| guest.send(&[&Guest::header(request, zone)], &[1]);
    all.push((command(guest, RequestType::ZONE_RESET, 96), "a reset"));
    let append = Guest::header(RequestType::ZONE_APPEND, 96);
    all.push((guest.send(&[&append, &pattern(7, 16)], &[9]), "an append behind the reset"));
    all.push((guest.send_write(128, &pattern(10, 16)), "a long write"));
    all.push((command(guest, RequestType::ZONE_FINISH, 128), "a finish behind it"));
    all.push((command(guest, RequestType::FLUSH, 0), "a flush"));
    let range = [
        48u64.to_le_bytes().as_slice(),
        &8u32.to_le_bytes(),
        &[0; 4],
        0u64.to_le_bytes().as_slice(),
        &8u32.to_le_bytes(),
        &[0; 4],
        160u64.to_le_bytes().as_slice(),
        &16u32.to_le_bytes(),
        &[0; 4],
    ]
    .concat();
    let zero = Guest::header(RequestType::WRITE_ZEROES, 0);
    all.push((guest.send(&[&zero, &range], &[1]), "zeroes at a pointer and elsewhere"));
    all
}

struct World {
    volume: Arc<TestVolume>,
    book: Rc<RefCell<Book>>,
}

impl World {
    fn serve(&self, guest: Guest) -> Guest {
        self.volume.reopen();
        let unanswered = self.book.borrow_mut().unanswered(guest.used_index());
        guest.taken_over(
            &session(&self.volume),
            Box::new(Mortal(Rc::clone(&self.book))),
            unanswered,
        )
    }
}

/// Serves until all is answered or the fuse has burnt down; true when it has.
fn dies(guest: &mut Guest, fuse: usize) -> bool {
    light_fuse(fuse);
    let served = catch_unwind(AssertUnwindSafe(|| {
        for _ in 0..20 {
            guest.turn();
        }
        assert_eq!(guest.lane.in_flight(), 0);
    }));
    light_fuse(0);
    match served {
        Ok(()) => false,
        Err(why) => {
            let why = why.downcast_ref::<String>().map_or("", String::as_str);
            assert!(why.contains("the fuse"), "{why}");
            true
        }
    }
}

/// Dies after `first` events, then after `second`, then lives. False when nobody died. `own`: the medium has zones
/// of its own.
fn run(first: usize, second: usize, own: bool) -> bool {
    let volume = TestVolume::zoned(small(Model::HostManaged, 4, 5));
    if own {
        volume.have_zones();
    }
    let world = World { volume, book: Rc::default() };
    let mut guest = world.serve(Guest::new(&session(&world.volume), 0));
    // Something to be reset.
    assert_eq!(guest.append(96, &pattern(9, 16)), (Status::OK, 96));
    let before = guest.used_index();
    let sent = everything(&mut guest);
    let died = dies(&mut guest, first);
    if died {
        guest = world.serve(guest);
        if dies(&mut guest, second) {
            guest = world.serve(guest);
            assert!(!dies(&mut guest, 0));
        }
    }
    let count = before + sent.len() as u16;
    assert_eq!(guest.used_index(), count, "answers");
    let mut heads = guest.used_heads(count).split_off(usize::from(before));
    heads.sort_unstable();
    let mut expected: Vec<u16> = sent.iter().map(|(sent, _)| sent.head).collect();
    expected.sort_unstable();
    assert_eq!(heads, expected, "each is answered once");

    let mut appended = Vec::new();
    for (sent, what) in &sent {
        let answer = guest.answer(sent).unwrap();
        assert_eq!(answer.status(), Status::OK, "{what}");
        if what.starts_with("an append") {
            appended.push(u64::from_le_bytes(answer.writable[..8].try_into().unwrap()));
        }
    }
    let bytes = |at| world.volume.bytes(Sector(at), 8);
    assert_eq!(bytes(8), pattern(1, 8));
    assert_eq!(bytes(32), pattern(2, 8));
    assert_eq!(bytes(40), pattern(3, 8));
    assert_eq!(bytes(48), vec![0; 4096]);
    assert_eq!([bytes(160), bytes(168)], [vec![0; 4096], vec![0; 4096]]);
    for (at, seed) in appended.iter().zip(4..) {
        assert_eq!(bytes(*at), pattern(seed, 8), "where the append said");
    }
    assert_eq!(world.volume.bytes(Sector(96), 16), pattern(7, 16));
    assert_eq!(world.volume.bytes(Sector(128), 16), pattern(10, 16));
    let mut in_one_zone = appended[..3].to_vec();
    in_one_zone.sort_unstable();
    assert_eq!(in_one_zone, [64, 72, 80]);
    assert_eq!(appended[3], 96);
    // All the appends of zone 2 fill it; zone 3 was reset once, before its append; zone 4 is full.
    assert_eq!([guest.written(32), guest.written(64), guest.written(96)], [32, 32, 16]);
    assert_eq!(guest.conditions()[4], Condition::Full);
    died
}

#[test]
fn a_process_may_die_twice_at_any_instant() {
    survives_two_deaths(false, 80);
}

/// The same over a disk that moves its pointers itself, carries commands out, and has parts of writes.
#[test]
fn over_a_disk_with_zones_of_its_own_too() {
    survives_two_deaths(true, 100);
}

fn survives_two_deaths(own: bool, instants: usize) {
    // Only a death that was not asked for is worth a word.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !info.to_string().contains("the fuse") {
            hook(info);
        }
    }));
    let mut first = 1;
    let at = |first, second| {
        let ran = catch_unwind(|| run(first, second, own));
        ran.unwrap_or_else(|_| panic!("died after {first} events, then after {second}"))
    };
    while at(first, 0) {
        for second in (1..100).step_by(3) {
            at(first, second + first % 3);
        }
        first += 1;
    }
    assert!(first > instants, "only {first} instants");
}

#[test]
fn a_reset_that_is_done_again_does_not_undo_what_was_acknowledged_after_it() {
    let volume = TestVolume::zoned(small(Model::HostManaged, 4, 5));
    let world = World { volume, book: Rc::default() };
    // Without a cache: what is done is made durable before it is answered.
    let through =
        || session_with(&world.volume, 2, ALL & !(Features::FLUSH | Features::CONFIG_WCE));
    let first = through();
    let ledger = Box::new(Mortal(Rc::clone(&world.book)));
    let mut resets = Guest::new(&first, 0).taken_over(&first, ledger, Vec::new());
    let mut appends = Guest::new(&first, 1);
    assert_eq!(appends.append(96, &pattern(9, 16)), (Status::OK, 96));

    world.volume.manual();
    let reset = resets.send(&[&Guest::header(RequestType::ZONE_RESET, 96)], &[1]);
    resets.turn();
    assert_eq!(world.volume.pending(), 1, "its flush");
    let header = Guest::header(RequestType::ZONE_APPEND, 96);
    let append = appends.send(&[&header, &pattern(7, 8)], &[9]);
    appends.turn();
    world.volume.finish(1);
    appends.turn();
    world.volume.finish(1);
    appends.turn();
    assert_eq!(appends.answer(&append).unwrap().status(), Status::OK);
    assert!(resets.answer(&reset).is_none());

    world.volume.reopen();
    let unanswered = world.book.borrow_mut().unanswered(resets.used_index());
    let ledger = Box::new(Mortal(Rc::clone(&world.book)));
    let mut resets = resets.taken_over(&through(), ledger, unanswered);
    resets.turn();
    world.volume.finish(0);
    resets.turn();
    assert_eq!(resets.answer(&reset).unwrap().status(), Status::OK);
    assert_eq!(world.volume.recorded(3), None, "nothing has happened to the zone");
    assert_eq!(world.volume.bytes(Sector(96), 8), pattern(7, 8));
}

/// What a queue writes when it goes on is not taken for what another had written before.
#[test]
fn places_are_judged_by_the_pointer_that_was_found() {
    let volume = TestVolume::zoned(small(Model::HostManaged, 4, 5));
    let books: [Rc<RefCell<Book>>; 2] = Default::default();
    let mortal = |index: usize| Box::new(Mortal(Rc::clone(&books[index])));
    let first = session(&volume);
    let mut guests = [0, 1].map(|index| {
        Guest::new(&first, index as u16).taken_over(&first, mortal(index), Vec::new())
    });
    volume.manual();
    // The second has the first place; nothing is written.
    let header = Guest::header(RequestType::ZONE_APPEND, 64);
    let sent = [1, 0].map(|index| {
        let sent = guests[index].send(&[&header, &pattern(index as u8, 8)], &[9]);
        guests[index].turn();
        sent
    });
    volume.reopen();
    let next = session(&volume);
    let mut guests: Vec<_> = [0, 1]
        .into_iter()
        .zip(guests)
        .map(|(index, guest)| {
            let unanswered = books[index].borrow_mut().unanswered(guest.used_index());
            guest.taken_over(&next, mortal(index), unanswered)
        })
        .collect();
    guests.iter_mut().for_each(|guest| guest.lane.resume());
    for guest in &mut guests {
        guest.turn();
        volume.finish(0);
        guest.turn();
    }
    for (index, sent) in [(1, &sent[0]), (0, &sent[1])] {
        let answer = guests[index].answer(sent).unwrap();
        assert_eq!(answer.status(), Status::OK);
        let at = u64::from_le_bytes(answer.writable[..8].try_into().unwrap());
        assert_eq!(at, 64 + 8 * index as u64);
        assert!(volume.bytes(Sector(at), 8) == pattern(index as u8, 8), "queue {index}");
    }
}

/// A medium that has parts of writes: what another queue writes behind such a part is not taken for its rest.
#[test]
fn what_another_writes_behind_a_part_is_not_its_rest() {
    // Whether the other queue is first, when the next process goes on, and dies.
    for overtaken in [true, false] {
        let spec = small(Model::HostManaged, 4, 5);
        let volume = TestVolume::zoned(GeometrySpec { zone_capacity: spec.zone_size, ..spec });
        volume.have_zones();
        let books: [Rc<RefCell<Book>>; 2] = Default::default();
        let mortal = |index: usize| Box::new(Mortal(Rc::clone(&books[index])));
        let next = |guests: Vec<Guest>| -> Vec<Guest> {
            volume.reopen();
            let next = session(&volume);
            let over = |(index, guest): (usize, Guest)| {
                let unanswered = books[index].borrow_mut().unanswered(guest.used_index());
                guest.taken_over(&next, mortal(index), unanswered)
            };
            let mut guests: Vec<Guest> = guests.into_iter().enumerate().map(over).collect();
            guests.iter_mut().for_each(|guest| guest.lane.resume());
            guests
        };
        let first = session(&volume);
        let mut guests = next((0..2).map(|index| Guest::new(&first, index)).collect());
        volume.manual();
        let header = Guest::header(RequestType::ZONE_APPEND, 64);
        let long = guests[0].send(&[&header, &pattern(1, 16)], &[9]);
        guests[0].turn();
        let short = guests[1].send(&[&header, &pattern(2, 8)], &[9]);
        guests[1].turn();
        // The first has half of its data on the medium when the process dies.
        light_fuse(2);
        catch_unwind(AssertUnwindSafe(|| volume.finish(0))).unwrap_err();
        light_fuse(0);
        let mut guests = next(guests);
        if overtaken {
            guests[1].turn();
            volume.finish(0);
            guests[1].turn();
            assert_eq!(guests[1].answer(&short).unwrap().status(), Status::OK);
        }
        let mut guests = next(guests);
        for _ in 0..4 {
            guests.iter_mut().for_each(Guest::turn);
            (0..volume.pending()).for_each(|_| volume.finish(0));
        }
        let at = [(0, &long, 1, 16), (1, &short, 2, 8)].map(|(index, sent, seed, sectors)| {
            let answer = guests[index].answer(sent).unwrap();
            assert_eq!(answer.status(), Status::OK);
            let at = u64::from_le_bytes(answer.writable[..8].try_into().unwrap());
            let bytes = volume.bytes(Sector(at), sectors as u64);
            assert!(bytes == pattern(seed, sectors), "queue {index}, overtaken: {overtaken}");
            at
        });
        // Behind the part that nobody was told of, or on from it.
        assert_eq!(at, if overtaken { [80, 72] } else { [64, 80] });
    }
}

/// A medium that carries commands out: once one is applied, it is not carried out again.
#[test]
fn a_reset_that_the_medium_has_carried_out_is_not_carried_out_again() {
    let volume = TestVolume::zoned(small(Model::HostManaged, 4, 5));
    volume.have_zones();
    let world = World { volume, book: Rc::default() };
    let through =
        || session_with(&world.volume, 2, ALL & !(Features::FLUSH | Features::CONFIG_WCE));
    let first = through();
    let ledger = Box::new(Mortal(Rc::clone(&world.book)));
    let mut resets = Guest::new(&first, 0).taken_over(&first, ledger, Vec::new());
    let mut appends = Guest::new(&first, 1);
    assert_eq!(appends.append(96, &pattern(9, 16)), (Status::OK, 96));

    world.volume.manual();
    let reset = resets.send(&[&Guest::header(RequestType::ZONE_RESET, 96)], &[1]);
    resets.turn();
    world.volume.finish(0);
    resets.turn();
    // It is done, and to be made durable before it is answered. Another appends meanwhile.
    assert_eq!((world.volume.commands().len(), world.volume.pending()), (1, 1));
    let header = Guest::header(RequestType::ZONE_APPEND, 96);
    let append = appends.send(&[&header, &pattern(7, 8)], &[9]);
    appends.turn();
    world.volume.finish(1);
    appends.turn();
    world.volume.finish(1);
    appends.turn();
    assert_eq!(appends.answer(&append).unwrap().status(), Status::OK);
    assert!(resets.answer(&reset).is_none());

    world.volume.reopen();
    let unanswered = world.book.borrow_mut().unanswered(resets.used_index());
    let ledger = Box::new(Mortal(Rc::clone(&world.book)));
    let mut resets = resets.taken_over(&through(), ledger, unanswered);
    resets.turn();
    assert_eq!(world.volume.commands().len(), 1, "carried out once");
    world.volume.finish(0);
    resets.turn();
    assert_eq!(resets.answer(&reset).unwrap().status(), Status::OK);
    assert_eq!(resets.written(96), 8);
    assert!(world.volume.bytes(Sector(96), 8) == pattern(7, 8));
}
