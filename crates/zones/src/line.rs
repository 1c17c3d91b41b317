//! Who waits, and whose turn it is.
//!
//! A request that can't be begun yet stands in the line of its zone or, when it concerns many zones, in
//! the one line of the disk. A zone's line is first in, first out. What stands in the line of the disk is
//! a barrier: it goes when all that came before it, in any line, is gone, and all that comes later, for
//! any zone, waits behind it. So whoever is oldest waits for nobody but for I/O in flight.

use alloc::collections::VecDeque;

use crate::slab::{Chain, Slab};

/// The place of a request that waits. It is given back with the next try, and it can't be given up in
/// any other way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ticket(u32);

/// All lines of a disk, but for their ends, which are with the zones.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    waiters: Slab<Waiter>,
    /// The line of the disk.
    barriers: VecDeque<Ticket>,
    /// How many stand in zones' lines before the first barrier, between the first and the second, and
    /// so on: always one more than there are barriers.
    epochs: VecDeque<u32>,
    /// The number of the first of `epochs`.
    epoch: u64,
    /// Firsts of their zones' lines that wait for an open zone to be closed.
    room: VecDeque<Ticket>,
}

#[derive(Clone, Debug)]
struct Waiter {
    epoch: u64,
    wants_room: bool,
}

impl Line {
    pub(crate) fn new() -> Self {
        Self {
            waiters: Slab::new(),
            barriers: VecDeque::new(),
            epochs: VecDeque::from([0]),
            epoch: 0,
            room: VecDeque::new(),
        }
    }

    /// True when nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiters.len() == 0
    }

    /// True when somebody's wait may end when a zone, with these waiters, has no write in flight any more.
    pub(crate) fn watches(&self, waiters: Chain) -> bool {
        !waiters.is_empty() || !self.barriers.is_empty() || !self.room.is_empty()
    }

    /// True when it is the turn of `ticket`, or of who has none yet, in the line of a zone.
    pub(crate) fn zone_turn(&self, waiters: Chain, ticket: Option<Ticket>) -> bool {
        match ticket {
            None => waiters.is_empty() && self.barriers.is_empty(),
            Some(ticket) => {
                waiters.first() == Some(ticket.0) && self.waiters.get(ticket.0).epoch == self.epoch
            }
        }
    }

    /// True when it is the turn of `ticket`, or of who has none yet, in the line of the disk.
    pub(crate) fn disk_turn(&self, ticket: Option<Ticket>) -> bool {
        match ticket {
            None => self.is_empty(),
            Some(_) => self.barriers.front() == ticket.as_ref() && self.epochs.front() == Some(&0),
        }
    }

    /// True when nobody before `ticket`, or before who has none yet, wants an open zone.
    pub(crate) fn room_turn(&self, ticket: Option<Ticket>) -> bool {
        self.room.is_empty() || self.room.front() == ticket.as_ref()
    }

    pub(crate) fn join_zone(&mut self, waiters: &mut Chain) -> Ticket {
        let epoch = self.epoch + self.barriers.len() as u64;
        let index = self.waiters.insert(Waiter { epoch, wants_room: false });
        self.waiters.append(waiters, index);
        *self.count(epoch) += 1;
        Ticket(index)
    }

    pub(crate) fn join_disk(&mut self) -> Ticket {
        let epoch = self.epoch + self.epochs.len() as u64;
        let ticket = Ticket(self.waiters.insert(Waiter { epoch, wants_room: false }));
        self.barriers.push_back(ticket);
        self.epochs.push_back(0);
        ticket
    }

    /// Remembers that `ticket`, first of its zone's line, wants an open zone.
    pub(crate) fn join_room(&mut self, ticket: Ticket) {
        let waiter = self.waiters.get_mut(ticket.0);
        if !waiter.wants_room {
            waiter.wants_room = true;
            self.room.push_back(ticket);
        }
    }

    /// `ticket`, the first of `waiters`, is spent. True when it was the first that wanted an open zone.
    pub(crate) fn leave_zone(&mut self, waiters: &mut Chain, ticket: Ticket) -> bool {
        assert_eq!(waiters.first(), Some(ticket.0), "a ticket of another zone");
        let waiter = self.waiters.take(waiters, None);
        let waiter = waiter.unwrap_or_else(|| unreachable!("the chain was just seen not empty"));
        *self.count(waiter.epoch) -= 1;
        if !waiter.wants_room {
            return false;
        }
        let first = self.room.front() == Some(&ticket);
        if first {
            self.room.pop_front();
        } else {
            // Only a zone that fails while its request waits comes here.
            self.room.retain(|waiting| *waiting != ticket);
        }
        first
    }

    /// `ticket`, the first of the line of the disk, is spent.
    pub(crate) fn leave_disk(&mut self, ticket: Ticket) {
        assert_eq!(self.barriers.pop_front(), Some(ticket), "a ticket of a zone");
        self.waiters.remove(ticket.0);
        let before = self.epochs.pop_front();
        debug_assert_eq!(before, Some(0), "a barrier is never passed from behind");
        self.epoch += 1;
    }

    fn count(&mut self, epoch: u64) -> &mut u32 {
        &mut self.epochs[(epoch - self.epoch) as usize]
    }
}
