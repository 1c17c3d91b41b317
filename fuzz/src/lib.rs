//! One module for each fuzz target: `run` takes the fuzzer's bytes, makes of them what a hostile peer
//! would do, and panics when what comes of it is not what an oracle says.
//!
//! Nothing here depends on time, on addresses or on chance: the same bytes do the same again.
//! `fuzz/run` builds and drives all of them; `tests/seeds.rs` replays the committed seeds.
#![allow(clippy::missing_panics_doc, reason = "to panic is how a target tells")]

/// Says what is done, when `ZVB_FUZZ_TRACE` is set: to understand an input that failed.
macro_rules! trace {
    ($($what:tt)*) => {
        if crate::is_traced() {
            eprintln!($($what)*);
        }
    };
}

pub mod device;
mod disk;
pub mod driver;
mod guest;
pub mod image;
mod input;
mod memory;
mod model;
pub mod ring;
pub mod seeds;
pub mod vhost_user;

/// Runs one input, and panics when it fails.
pub type Target = fn(&[u8]);

/// The targets, by name.
pub const TARGETS: [(&str, Target); 5] = [
    ("device", device::run),
    ("ring", ring::run),
    ("vhost_user", vhost_user::run),
    ("image", image::run),
    ("driver", driver::run),
];

fn is_traced() -> bool {
    static TRACED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *TRACED.get_or_init(|| std::env::var_os("ZVB_FUZZ_TRACE").is_some())
}
