//! What a (zoned) virtio block device owes its driver, tried on the device.
//!
//! [`run`] drives any device over a [`Transport`] with rings of its own, so that it can send what
//! `zvb-driver` never would: any framing, requests that were not negotiated, chains that begin nowhere.
//! Each statement of the conformance list that concerns a device gets one [`Outcome`].
//!
//! **It destroys what is on the disk.** Zones are reset, and data are written.
//!
//! The device is not trusted: every wait has an end, every answer is bounded, and a device that stops
//! answering is reset or found anew. It is `no_std`, so that it runs where a driver runs.
//!
//! Layers, from the bottom: shared memory (`raw`), a split queue written by hand (`ring`), requests and
//! what their answers tell about the ring (`request`, `framing`), the device from reset to DRIVER_OK
//! (`rig`), its zones (`disk`), and the checks.
#![no_std]

extern crate alloc;

mod checks;
mod disk;
mod framing;
mod link;
mod outcome;
mod raw;
mod request;
mod rig;
mod ring;
mod statements;

pub use outcome::{Level, Outcome, Summary, Verdict};

use alloc::string::String;

use zvb_driver::{Dma, Transport};

use crate::link::{Link, Way};
use crate::outcome::{Checked, Stop};
use crate::rig::Rig;
use crate::statements::{Probe, STATEMENTS};

/// What can be chosen about a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options<'o> {
    /// How long the device may take to answer a request, in milliseconds.
    pub timeout_ms: u32,
    /// How often the transport may say that there is something to look at, when there is nothing, while
    /// one request is waited for. A transport that does not sleep needs many.
    pub max_wakes: u32,
    /// The numbers to try; none for all of them.
    pub only: &'o [u16],
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self { timeout_ms: 5000, max_wakes: 1 << 20, only: &[] }
    }
}

/// Why a run ended before its end.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Aborted {
    /// There is no device to begin with.
    #[error("cannot find the device: {0}")]
    NoDevice(String),
    /// The device was lost, and could not be had again.
    #[error("the device is gone while statement {number} was tried: {why}")]
    Lost {
        /// The statement that was tried last; it was reported.
        number: u16,
        /// What happened when it was looked for.
        why: String,
    },
}

/// The numbers of all statements that can be tried or at least named, in order.
pub fn numbers() -> impl Iterator<Item = u16> {
    STATEMENTS.iter().map(|statement| statement.number)
}

/// Tries every statement (or those of [`Options::only`]) on the device that `connect` finds, and tells
/// `report` the outcome of each, in the order of their numbers.
///
/// `connect` is called again when the device was lost on the way; the transport from before is dropped by
/// then. Queues and requests lie in memory of `dma`, some 4 MiB, and as much again each time that the
/// device was lost.
pub fn run<T: Transport, D: Dma + 'static>(
    connect: &mut dyn FnMut() -> Result<T, T::Error>,
    dma: &D,
    options: &Options<'_>,
    report: &mut dyn FnMut(&Outcome),
) -> Result<Summary, Aborted> {
    let mut way = Way::new(connect, dma);
    run_on(&mut way, options, report)
}

fn run_on(
    link: &mut dyn Link,
    options: &Options<'_>,
    report: &mut dyn FnMut(&Outcome),
) -> Result<Summary, Aborted> {
    let mut rig = Rig::new(link, options).map_err(Aborted::NoDevice)?;
    let mut summary = Summary::default();
    for statement in STATEMENTS {
        let number = statement.number;
        if !options.only.is_empty() && !options.only.contains(&number) {
            continue;
        }
        let checked = match statement.probe {
            Probe::Try(check) => check(&mut rig),
            Probe::Unseen(why) => outcome::skip(why),
        };
        let (verdict, next) = judge(checked);
        summary.count(&verdict);
        report(&Outcome { number, title: statement.title, level: statement.level, verdict });
        let lost = match next {
            Next::GoOn => Ok(()),
            Next::Recover => rig.recover(),
            Next::End(why) => Err(why),
        };
        lost.map_err(|why| Aborted::Lost { number, why })?;
    }
    // Its memory goes back when the device has let go of it.
    let _ = rig.stop();
    Ok(summary)
}

/// What comes after a statement.
enum Next {
    GoOn,
    /// Nothing is known of the device.
    Recover,
    End(String),
}

fn judge(checked: Checked) -> (Verdict, Next) {
    match checked {
        Ok(()) => (Verdict::Pass, Next::GoOn),
        Err(Stop::Skip(why)) => (Verdict::NotApplicable { why }, Next::GoOn),
        Err(Stop::Fail { expected, got }) => (Verdict::Fail { expected, got }, Next::Recover),
        Err(Stop::Link(got)) => {
            let expected = "a device that goes on".into();
            (Verdict::Fail { expected, got }, Next::Recover)
        }
        Err(Stop::Abort(why)) => {
            let expected = "a device that can be reset".into();
            (Verdict::Fail { expected, got: why.clone() }, Next::End(why))
        }
    }
}
