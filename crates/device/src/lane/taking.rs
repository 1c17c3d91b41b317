//! How a lane takes chains from its queue: those that the driver has made available, and those that a process
//! which died took and did not answer.

use zvb_ring::{Chain, RingError};

use super::Lane;
use crate::device::secure_erase_unit;
use crate::kind::Kind;
use crate::request::{Rules, parse};
use crate::resume::resume;
use crate::slot::Slot;

/// Requests that a turn takes whose answers are near: the driver works on these while the next are done.
/// With more it waits, and then the device waits for it; with fewer, a turn costs more than it gains.
const PORTION: usize = 16;

impl Lane {
    /// Takes every chain that is there, once around the queue at most; fewer, where the answers to
    /// [`PORTION`] of them are near.
    pub(super) fn pull(&mut self) {
        let rules = self.rules();
        for _ in 0..self.queue.size() {
            if self.engine.due() >= PORTION {
                break;
            }
            let chain = match self.queue.pop() {
                Ok(Some(chain)) => chain,
                Ok(None) => break,
                Err(why) => {
                    self.retire(&why);
                    break;
                }
            };
            if !self.progress {
                self.queue.pause_notifications();
            }
            self.progress = true;
            if let Some(index) = self.take(chain, &rules) {
                self.begin(index);
            }
        }
    }

    fn rules(&self) -> Rules {
        let device = &self.session.device;
        Rules {
            features: self.session.features(),
            read_only: device.shape.read_only,
            capacity: device.capacity(),
            required: device.required_from(),
            erase: secure_erase_unit(&device.shape),
        }
    }

    fn retire(&mut self, why: &RingError) {
        self.retired = true;
        self.progress = true;
        self.observer().queue_retired(self.index, why);
    }

    /// Makes a request of a chain. `None` when it makes none, and is answered.
    #[inline]
    fn take(&mut self, chain: Chain, rules: &Rules) -> Option<u32> {
        let index = self.free.pop().unwrap_or_else(|| {
            // As many as the ring lets be in flight, so never more than the queue's size.
            self.slots.push(Slot::new());
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        let parsed = parse(chain, rules, slot, &mut self.queue);
        slot.note = slot.reply.as_ref().map_or(0, |reply| reply.head().note());
        slot.kind = if parsed.is_ok() { Kind::of(&slot.request) } else { Kind::Refused };
        self.count_taken(index);
        match parsed {
            Ok(()) => Some(index),
            Err(refused) => {
                if let Some(fault) = &refused.fault {
                    self.observer().guest_fault(self.index, fault);
                }
                self.answer(index, refused.status, 0);
                None
            }
        }
    }

    /// Takes what a process before this one took and did not answer, and finds out what of it had happened.
    /// Where there are several queues, to be called for each before any of them takes a turn: what is written
    /// then could not be told from what had been. (A turn does it where it was not done.)
    pub fn resume(&mut self) {
        let rules = self.rules();
        while self.queue.has_unanswered() && !self.retired {
            match self.queue.pop() {
                Ok(Some(chain)) => {
                    let taken = self.take(chain, &rules);
                    self.resumed.extend(taken);
                }
                Ok(None) => break,
                Err(why) => self.retire(&why),
            }
        }
        let in_parts = self.session.device.runs_commands;
        let Some(table) = &self.session.device.table else { return };
        let mut locked = table.lock();
        for index in &self.resumed {
            let slot = &mut self.slots[*index as usize];
            if let (Some(note), Some(reply)) = (resume(locked.zones(), slot, in_parts), &slot.reply)
            {
                self.queue.note(reply.head(), note);
            }
        }
    }

    /// Begins what was taken by [`resume`](Self::resume).
    pub(super) fn begin_resumed(&mut self) {
        if self.queue.has_unanswered() && !self.retired {
            self.resume();
        }
        for index in std::mem::take(&mut self.resumed) {
            self.progress = true;
            self.begin(index);
        }
    }
}
