//! A guest that does as it likes with its memory and its ring, against a device on a disk in memory.
//!
//! Requests that a guest lays out whole, one at a time, are compared with a [model](crate::model) of the
//! disk: status, used length, and every byte of guest memory. What goes in as raw bytes is held to less:
//! it is done with in bounded work, it writes nowhere but into the writable buffers and the used ring, and
//! every chain that is taken comes back. After it the guest begins anew, and all must be right again.

mod expect;
mod guest;
mod walk;

use zvb_wire::Features;

use crate::input::Input;
use guest::Guest;

/// Most actions of one input.
const ACTIONS: u32 = 200;

/// What the guest is, and what it accepted: the first bytes of an input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) model: u8,
    pub(crate) limits: u8,
    pub(crate) flags: u8,
    pub(crate) size: u16,
}

impl Setup {
    /// Bits of `flags`.
    pub(crate) const EVENT_INDEX: u8 = 1;
    pub(crate) const INDIRECT: u8 = 2;
    pub(crate) const READ_ONLY: u8 = 4;
    pub(crate) const NO_FLUSH: u8 = 8;
    pub(crate) const NO_CACHE_CHOICE: u8 = 16;
    pub(crate) const WRITETHROUGH: u8 = 32;
    pub(crate) const NO_ZONES: u8 = 64;
    pub(crate) const NO_RANGES: u8 = 128;

    fn take(input: &mut Input<'_>) -> Self {
        let (model, limits, flags) = (input.byte() % 3, input.byte() % 7, input.byte());
        Self { model, limits, flags, size: input.one_of(&[16, 32, 64, 8]) }
    }

    pub(crate) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// What this guest accepts of what is `offered`.
    pub(crate) fn accepts(self, offered: Features) -> Features {
        let mut features = offered;
        for (flag, feature) in [
            (Self::NO_FLUSH, Features::FLUSH),
            (Self::NO_CACHE_CHOICE, Features::CONFIG_WCE),
            (Self::NO_RANGES, Features::DISCARD | Features::WRITE_ZEROES | Features::SECURE_ERASE),
        ] {
            if self.has(flag) {
                features -= feature;
            }
        }
        // A host-managed device is no use without.
        if self.has(Self::NO_ZONES) && self.model != 0 {
            features -= Features::ZONED;
        }
        features
    }
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut guest = Guest::new(Setup::take(&mut input));
    for _ in 0..ACTIONS {
        if input.is_empty() {
            break;
        }
        act(&mut guest, &mut input);
    }
    guest.settle();
    guest.check_zones();
}

fn act(guest: &mut Guest, input: &mut Input<'_>) {
    match input.byte() {
        0..=159 => {
            let request = guest.request(input);
            guest.settle();
            guest.run(&request);
        }
        160..=183 => {
            let request = guest.request(input);
            guest.send_in_disorder(&request, input.byte());
        }
        184..=199 => {
            let address = input.short().into();
            let len = usize::from(input.byte());
            guest.poke(address, input.bytes(len));
        }
        200..=219 => guest.poke_descriptor(input),
        220..=231 => guest.publish(input.short()),
        232..=235 => guest.jump(input.short()),
        236..=247 => guest.turn_in_disorder(),
        248..=250 => guest.fail_in(u32::from(input.byte() % 8)),
        251..=252 => {
            guest.settle();
            guest.restart();
        }
        253 => {
            guest.settle();
            guest.begin_anew();
        }
        _ => guest.reverse(),
    }
}
