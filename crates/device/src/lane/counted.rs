//! What a lane counts: see [`Stats`](crate::Stats).

use std::time::{Duration, Instant};

use zvb_wire::Status;

use super::Lane;
use crate::request::{Request, bytes};
use crate::stats::Answered;

impl Lane {
    /// A request was taken from the ring.
    pub(super) fn count_taken(&mut self, index: u32) {
        let now = self.now();
        let slot = &mut self.slots[index as usize];
        slot.begun = now;
        if let Some(counters) = self.session.device.counters.get(usize::from(self.index)) {
            counters.take(slot.kind);
        }
    }

    /// `data` bytes were written into the guest's memory.
    pub(super) fn count_answered(&mut self, index: u32, status: Status, data: u64) {
        let now = self.now();
        let slot = &self.slots[index as usize];
        let bytes = match slot.request {
            Request::Write { sectors, .. } | Request::Append { sectors, .. } => bytes(sectors),
            Request::Read { .. } | Request::Report { .. } => data,
            _ => 0,
        };
        let time = now.zip(slot.begun).map_or(Duration::ZERO, |(now, begun)| now - begun);
        if let Some(counters) = self.session.device.counters.get(usize::from(self.index)) {
            counters.answer(slot.kind, &Answered { status, bytes, time });
        }
    }

    /// The time, where requests are timed: looked at once between one start of I/O and the next.
    fn now(&mut self) -> Option<Instant> {
        let timed = self.session.device.options.timing;
        timed.then(|| *self.clock.get_or_insert_with(Instant::now))
    }
}
