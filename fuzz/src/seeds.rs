//! The seeds: inputs that reach far, made by hand. `cargo run --no-default-features --example seeds` writes
//! them to `seeds/`, and `tests/seeds.rs` sees that those are these, and that each of them passes.

use crate::image::{Kind, image};

/// A seed: its target, its name, its bytes.
pub type Seed = (&'static str, String, Vec<u8>);

/// All of them.
pub fn all() -> Vec<Seed> {
    let mut seeds = Vec::new();
    device(&mut seeds);
    ring(&mut seeds);
    vhost_user(&mut seeds);
    images(&mut seeds);
    driver(&mut seeds);
    seeds
}

fn add(seeds: &mut Vec<Seed>, target: &'static str, name: impl Into<String>, parts: &[&[u8]]) {
    seeds.push((target, name.into(), parts.concat()));
}

/// Requests of a guest, by their place in its list of kinds.
const READ: u8 = 0;
const WRITE: u8 = 1;
const APPEND: u8 = 3;
const REPORT: u8 = 5;
const OPEN: u8 = 6;
const CLOSE: u8 = 7;
const FINISH: u8 = 8;
const RESET: u8 = 9;
const RESET_ALL: u8 = 10;
const FLUSH: u8 = 11;
const ID: u8 = 12;
const DISCARD: u8 = 13;
const ZEROES: u8 = 14;
const ERASE: u8 = 15;

/// Where a request goes: the write pointer of its zone, or its start.
const POINTER: u8 = 0;
const START: u8 = 0x80;

/// One request: its kind, zone, place, length in KiB, and framing.
fn ask(kind: u8, zone: u8, place: u8, len: u8, framing: u8) -> Vec<u8> {
    let mut bytes = vec![0, kind, zone, place, len, framing];
    if [DISCARD, ZEROES, ERASE].contains(&kind) {
        // One range of a zone, or of some sectors.
        bytes.extend([if kind == ERASE { 1 } else { 4 }, 0]);
    }
    bytes
}

/// A bit of everything, in an order in which most of it succeeds.
fn script(framing: u8) -> Vec<u8> {
    let start = |kind, zone| ask(kind, zone, START, 0, framing);
    [
        ask(WRITE, 0, START, 2, framing),
        ask(WRITE, 1, POINTER, 2, framing),
        ask(APPEND, 2, START, 3, framing),
        ask(APPEND, 1, START, 1, framing),
        ask(WRITE, 3, POINTER, 1, framing),
        ask(REPORT, 0, START, 8, framing),
        ask(READ, 1, START, 6, framing),
        start(OPEN, 4),
        start(CLOSE, 4),
        start(CLOSE, 1),
        start(FINISH, 2),
        ask(ZEROES, 1, POINTER, 0, framing),
        ask(DISCARD, 0, START, 0, framing),
        start(FLUSH, 0),
        ask(ID, 0, START, 2, framing),
        start(RESET, 1),
        ask(ERASE, 2, START, 0, framing),
        ask(READ, 2, START, 2, framing),
        ask(REPORT, 3, 0xc5, 1, framing),
        start(RESET_ALL, 0),
    ]
    .concat()
}

fn device(seeds: &mut Vec<Seed>) {
    for (model, name) in [(0, "host-managed"), (1, "host-aware"), (2, "plain")] {
        for limits in [0, 1, 3, 5] {
            let setup = [model, limits, 3, 1];
            add(seeds, "device", format!("{name}-limits-{limits}"), &[&setup, &script(0)]);
        }
        for flags in [0, 4, 8, 24, 35, 64, 128, 255] {
            let setup = [model, 0, flags, 0];
            add(seeds, "device", format!("{name}-flags-{flags}"), &[&setup, &script(0x89)]);
        }
        let framings: Vec<u8> = [1, 2, 4, 10, 0x86, 0xf9].iter().flat_map(|f| script(*f)).collect();
        add(seeds, "device", format!("{name}-framings"), &[&[model, 0, 2, 3], &framings]);
        let restart = [script(0), vec![251], script(0), vec![253], script(4)].concat();
        add(seeds, "device", format!("{name}-restart"), &[&[model, 2, 3, 2], &restart]);
        // The same, many at a time.
        let batch: Vec<u8> =
            script(0).chunks(6).flat_map(|c| [&[160], &c[1..], &[0]].concat()).collect();
        let turns = [batch.clone(), vec![236], batch, vec![255, 248, 3, 240]].concat();
        add(seeds, "device", format!("{name}-batch"), &[&[model, 1, 3, 1], &turns, &script(0)]);
    }
    disorder(seeds);
}

/// Rings that break the rules.
fn disorder(seeds: &mut Vec<Seed>) {
    // A descriptor: index, direct, place (readable, writable at 16, table), length, flags, next.
    let readable = |i, len, flags, next| vec![200, i, 0, 0, len, flags, next];
    let writable = |i, len, flags, next| vec![200, i, 0, 0x40, 16, len, flags, next];
    let table = |i, flags| vec![200, i, 0, 0x80, 0xc1, flags, 0];
    let (publish, turn) = (vec![220, 0, 0], vec![236]);
    let cases: [(&str, Vec<Vec<u8>>); 8] = [
        ("loop", vec![readable(0, 16, 1, 1), readable(1, 1, 1, 0)]),
        ("write-first", vec![writable(0, 16, 3, 1), readable(1, 1, 0, 0)]),
        ("no-status", vec![readable(0, 16, 0, 0)]),
        ("short-header", vec![readable(0, 3, 1, 1), writable(1, 1, 2, 0)]),
        ("indirect-loop", vec![table(0, 4), vec![200, 0, 0xc0, 0, 0, 16, 1, 0]]),
        ("indirect-next", vec![table(0, 5)]),
        ("outside", vec![vec![200, 0, 0, 0x90, 0, 0x80, 0xf8, 16, 0, 0, 0, 2, 0]]),
        ("status-only", vec![writable(0, 1, 2, 0)]),
    ];
    for (name, pokes) in cases {
        let parts = [vec![0, 0, 3, 1], pokes.concat(), publish.clone(), turn.clone(), script(0)];
        add(seeds, "device", format!("broken-{name}"), &[&parts.concat()]);
    }
    let jump = [&[0, 0, 1, 0, 232, 200, 0, 236][..], &script(0)].concat();
    add(seeds, "device", "broken-jump", &[&jump]);
}

fn ring(seeds: &mut Vec<Seed>) {
    for options in 0..4 {
        // Add, publish, pop, push, publish, take: both ends.
        let round: Vec<u8> =
            [&[0, 1, 2, 16, 0, 1, 9, 0, 2, 1, 9, 3][..], &[80, 120, 170, 0, 5, 0, 200, 220]]
                .concat();
        let sleepy = [&round[..], &[240, 244], &round, &[248, 252], &round].concat();
        add(seeds, "ring", format!("both-{options}"), &[&[2, 0, options], &sleepy]);
        // Add, publish, answer, take: the driver's end.
        let round = [0, 1, 2, 16, 1, 9, 80, 120, 0, 0, 1, 160];
        let lies = [0, 1, 1, 4, 4, 80, 120, 0, 0xff, 9, 0, 0, 0, 160];
        let too_long = [0, 1, 2, 16, 1, 9, 80, 120, 0, 0xe1, 160];
        add(seeds, "ring", format!("too-long-{options}"), &[&[1, 0, options], &too_long]);
        let rounds = [&round[..], &round, &[246, 255], &round, &lies].concat();
        add(seeds, "ring", format!("driver-{options}"), &[&[1, 0, options], &rounds]);
        // Descriptors, an offer, pop, push, publish: the device's end.
        let chain = [0, 0x00, 8, 16, 1, 1, 0, 0, 0x00, 64, 40, 2, 0, 1];
        let table = [0, 0xb0, 0, 32, 4, 0, 0, 0, 0x0f, 9, 16, 1, 1, 0, 0, 0x0f, 70, 9, 2, 0, 1];
        let round = [120, 0, 0, 160, 210, 0, 3, 0, 230, 244];
        let place = [options, 0, 0, 0, 0];
        add(seeds, "ring", format!("device-{options}"), &[&[0], &place, &chain, &round, &round]);
        add(seeds, "ring", format!("table-{options}"), &[&[0], &place, &table, &round]);
    }
}

fn vhost_user(seeds: &mut Vec<Seed>) {
    let ask = |how: u8, kind: u8| vec![80, how, kind, 2];
    let all_kinds = |queue: u8| (0..10).flat_map(|k| ask(2 | queue, k)).collect::<Vec<u8>>();
    for how in 0..8 {
        let session = [vec![0, how, 40, 0, 40, 3], all_kinds(0), all_kinds(1), vec![255]].concat();
        add(seeds, "vhost_user", format!("session-{how}"), &[&session]);
    }
    let ready = [&[0, 6, 40, 0][..], &ask(2, 0)].concat();
    // One message of each kind, in the middle of a session.
    for code in 1..46 {
        let message = [110, code, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 246];
        add(seeds, "vhost_user", format!("message-{code}"), &[&ready, &message, &ask(2, 1)]);
    }
    // Told through a socket, a pipe, what is neither, and the connection itself; and of a broken ring.
    let status = [0, 7, 40, 0];
    for (what, how) in [("socket", 8), ("pipe", 9), ("other", 0xf7), ("itself", 0xf6)] {
        let told = [&[110, 21, how, 246][..], &[248; 20], &[220, 2, 2, 2, 99, 9, 236, 2]].concat();
        let name = format!("told-{what}");
        add(seeds, "vhost_user", name, &[&status, &told, &ask(2, 0), &[249, 246]]);
    }
    add(seeds, "vhost_user", "memory-cut-short", &[&ready, &[215, 8], &ask(2, 0), &ask(2, 1)]);
    add(seeds, "vhost_user", "memory-gone", &[&ready, &[110, 38, 8, 0, 246], &ask(2, 0)]);
    add(seeds, "vhost_user", "stop", &[&ready, &[110, 11, 0, 0, 0, 246, 40, 2], &ask(2, 3)]);
    add(seeds, "vhost_user", "loud", &[&[0, 2, 40, 0xf0], &ask(2, 0), &ask(2, 0)]);
    add(seeds, "vhost_user", "cut", &[&ready, &[210, 12, 1, 2, 0, 0, 0, 1, 0, 0, 0, 8]]);
    add(seeds, "vhost_user", "spoilt", &[&ready, &[200, 5, 2, 1, 0, 20, 0, 246]]);
}

fn images(seeds: &mut Vec<Seed>) {
    let kinds = [(Kind::HostManaged, 0), (Kind::HostAware, 1), (Kind::Plain, 2)];
    for (kind, number) in kinds {
        let name = ["host-managed", "host-aware", "plain"][usize::from(number)];
        let mut whole = image(kind, false);
        // What differs from one boot of the host to the next has no place here.
        for copy in [0, 4096] {
            whole[copy + 176..copy + 192].fill(0);
            // The checksum covers it; the target makes it right.
            whole[copy + 508..copy + 512].fill(0);
        }
        let used = whole.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        add(seeds, "image", format!("{name}-whole"), &[&[0, 1, 0], &whole[..used]]);
        for options in 0..8 {
            let choice = 1 | number << 2;
            add(seeds, "image", format!("{name}-{options}"), &[&[choice, options, 0]]);
        }
        let choice = 1 | number << 2;
        let field = |at: u16, bytes: &[u8]| {
            [&[0, bytes.len() as u8 - 1][..], &at.to_le_bytes(), bytes].concat()
        };
        let fields: [(&str, u16, &[u8]); 8] = [
            ("version", 8, &[2]),
            ("read-only-features", 16, &[1]),
            ("capacity", 72, &[0xff; 8]),
            ("zone-size", 80, &[0; 8]),
            ("slots", 124, &[0xff, 0xff, 0xff, 0]),
            ("table", 128, &[0, 0, 0, 0, 0, 1, 0, 0]),
            ("terabyte", 160, &[0, 0, 0, 0, 0, 1, 0, 0]),
            ("sync-failed", 169, &[2]),
        ];
        for (what, at, bytes) in fields {
            let change = field(at, bytes);
            add(seeds, "image", format!("{name}-{what}"), &[&[choice, 1, 0], &change]);
        }
        let record = [0x61, 0, 2, 3, 4];
        add(seeds, "image", format!("{name}-record"), &[&[choice, 3, 0], &record]);
        add(seeds, "image", format!("{name}-cut"), &[&[choice, 1, 0xe9]]);
        add(seeds, "image", format!("{name}-long"), &[&[choice, 1, 0xff]]);
    }
}

fn driver(seeds: &mut Vec<Seed>) {
    // Submit, kick, let the device answer, poll.
    let round = |what: u8| vec![0, what, 1, 0, 2, 4, 90, 120, 0, 0, 0, 0, 0, 150];
    let rounds: Vec<u8> = (0..15).flat_map(round).collect();
    // A call that blocks, with turns of the device while it waits.
    let call = |what: u8| vec![255, what, 1, 4, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0];
    let calls: Vec<u8> = (0..10).flat_map(call).collect();
    for choices in [0, 1, 8, 16, 32, 64, 0xc8] {
        for character in [0, 2, 16, 0xe0] {
            let name = format!("choices-{choices}-character-{character}");
            let start = [choices, character, 1, 92, 2, 0, 0, 0];
            add(seeds, "driver", name, &[&start, &rounds, &calls]);
        }
    }
    let scribble = [140, 0, 0, 2, 255, 255, 0, 0, 150];
    add(seeds, "driver", "scribble", &[&[8, 0], &rounds, &scribble, &rounds]);
    add(
        seeds,
        "driver",
        "lies",
        &[&[8, 0], &[0, 3, 1, 0, 2, 0, 90, 120, 0xff, 9, 9, 9, 9, 9, 150]],
    );
}
