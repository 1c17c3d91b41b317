//! Payloads that make sense in part.

use crate::input::Input;

/// Where the front end's memory is, for the guest and for itself.
pub(super) const GUEST: u64 = 0x10_0000;
pub(super) const USER: u64 = 0x7f00_0000_0000;
pub(super) const BYTES: u64 = 0x1_0000;

/// Numbers, one after the other.
#[derive(Default)]
pub(super) struct Payload(pub(super) Vec<u8>);

impl Payload {
    pub(super) fn words(numbers: &[u32]) -> Self {
        Self(numbers.iter().flat_map(|n| n.to_le_bytes()).collect())
    }

    pub(super) fn longs(numbers: &[u64]) -> Self {
        Self(numbers.iter().flat_map(|n| n.to_le_bytes()).collect())
    }

    pub(super) fn then(mut self, other: &Self) -> Self {
        self.0.extend(&other.0);
        self
    }
}

/// A memory region: guest address, size, user address, offset.
fn region(input: &mut Input<'_>) -> Payload {
    let which = u64::from(input.byte());
    let mut region = [GUEST, BYTES, USER, 0];
    if which & 3 != 0 {
        // Another one, beside the first.
        region[0] += BYTES * (which & 3);
        region[2] += BYTES * (which & 3);
    }
    if which & 0x80 != 0 {
        region[usize::from(input.byte() % 4)] = number(input);
    }
    Payload::longs(&region)
}

/// A number: small, round, at some border, or any.
fn number(input: &mut Input<'_>) -> u64 {
    match input.byte() {
        n @ 0..=0x3f => n.into(),
        n @ 0x40..=0x7f => u64::from(n & 0x3f) << 12,
        n @ 0x80..=0xbf => 1 << (n & 0x3f),
        n @ 0xc0..=0xdf => u64::MAX - u64::from(n),
        _ => input.long(),
    }
}

/// A place in a queue's memory.
fn place(input: &mut Input<'_>) -> u64 {
    match input.byte() {
        n @ 0..=0xdf => USER + (u64::from(n) << 8),
        _ => number(input),
    }
}

/// A payload for request `code`, and how many descriptors it has.
pub(super) fn payload(code: u32, input: &mut Input<'_>) -> (Payload, usize) {
    let index = || [0, 1, 0, 1, 2, 255, u32::MAX, 0];
    let mut queue = || input.one_of(&index());
    match code {
        2 => {
            let known = (1 << 17) | (1 << 30) | (1 << 32) | (1 << 9) | (1 << 28) | (1 << 12);
            let extra = match input.byte() {
                0..=0xbf => 0,
                0xc0..=0xdf => 1 << 29,
                _ => input.long(),
            };
            (Payload::longs(&[known ^ extra]), 0)
        }
        16 => {
            let known = [0x1_ca29, 0xca29, 0x208, 0][usize::from(input.byte() % 4)];
            let extra = if input.byte() < 0xe0 { 0 } else { input.long() };
            (Payload::longs(&[known & 0x1_8229 | extra]), 0)
        }
        5 => {
            let count = input.byte() % 10;
            let said = if count == 9 { input.word() } else { count.into() };
            let mut payload = Payload::words(&[said, 0]);
            for _ in 0..count {
                payload = payload.then(&region(input));
            }
            (payload, count.into())
        }
        8 | 10 | 11 | 18 | 35 => {
            let queue = queue();
            let number = match code {
                8 => [16, 8, 64, 0, 3, 128, 65536, 1][usize::from(input.byte() % 8)],
                18 => u32::from(input.byte() % 3),
                _ => u32::from(input.byte() % 4) * 0xffff / 3,
            };
            (Payload::words(&[queue, number]), 0)
        }
        9 => {
            let head = Payload::words(&[queue(), u32::from(input.byte() / 128)]);
            let places = [place(input), place(input), place(input), 0];
            (head.then(&Payload::longs(&places)), 0)
        }
        12..=14 => {
            let queue = u64::from(queue());
            let none = input.byte() >= 0xe0;
            (Payload::longs(&[queue | u64::from(none) << 8]), usize::from(!none))
        }
        24 | 25 => {
            let (offset, size) = (u32::from(input.byte() % 100), u32::from(input.byte() % 100));
            let mut payload = Payload::words(&[offset, size, 0]);
            payload.0.extend(vec![input.byte(); size as usize]);
            (payload, 0)
        }
        37 | 38 => (Payload::longs(&[0]).then(&region(input)), usize::from(code == 37)),
        39 => (Payload::longs(&[number(input)]), 0),
        31 | 32 => (Payload::longs(&[number(input), 0, 0x40_0002]), usize::from(code == 32)),
        21 => (Payload::default(), 1),
        _ => (Payload::default(), 0),
    }
}
