//! Rings: a hostile driver against the device's end, a hostile device against the driver's, and both ends
//! together against a list of what was sent.

mod both;
mod device_end;
mod driver_end;
mod shared;

use crate::input::Input;

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    match input.byte() % 3 {
        0 => device_end::run(&mut input),
        1 => driver_end::run(&mut input),
        _ => both::run(&mut input),
    }
}

/// True when one of the entries from `from` up to `to` is the one at `event`: the specification's sentence,
/// step by step.
fn passes(event: u16, from: u16, to: u16) -> bool {
    let mut at = from;
    while at != to {
        if at == event {
            return true;
        }
        at = at.wrapping_add(1);
    }
    false
}
