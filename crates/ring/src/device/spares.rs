//! Lists of segments that wait for the next request.

use alloc::vec::Vec;

use crate::memory::Segment;

/// The shortest limit on the descriptors of a chain, whatever the queue size: guests build indirect
/// tables as long as the device's `seg_max` allows, without a look at the queue size.
const CHAIN_LIMIT_MIN: u16 = 1024;

/// The most descriptors that a chain may have in a queue of `size`.
pub(super) fn chain_limit(size: u16) -> u16 {
    size.max(CHAIN_LIMIT_MIN)
}

/// Empty lists with room in them, and the limits on how much room a queue may take.
///
/// A driver decides how many pieces a chain has, so both what is in flight and what is kept for later
/// is limited: 16 bytes for each of 1024 pieces in each of `size` chains, and a sixteenth of that.
pub(super) struct Spares {
    lists: Vec<Vec<Segment>>,
    /// The room in `lists`, in segments.
    room: usize,
    room_limit: usize,
    pieces_limit: u32,
}

impl Spares {
    pub(super) fn new(size: u16) -> Self {
        let pieces_limit = u32::from(CHAIN_LIMIT_MIN) * u32::from(chain_limit(size));
        Self { lists: Vec::new(), room: 0, room_limit: pieces_limit as usize / 16, pieces_limit }
    }

    /// The most pieces that all chains in flight may have together.
    pub(super) fn pieces_limit(&self) -> u32 {
        self.pieces_limit
    }

    pub(super) fn take(&mut self) -> Vec<Segment> {
        let Some(list) = self.lists.pop() else {
            return Vec::new();
        };
        self.room -= list.capacity();
        list
    }

    pub(super) fn put(&mut self, mut list: Vec<Segment>) {
        let room = self.room + list.capacity();
        if list.capacity() == 0 || room > self.room_limit {
            return;
        }
        list.clear();
        self.room = room;
        self.lists.push(list);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_kept_and_limited() {
        let mut spares = Spares::new(1);
        for _ in 0..1_000 {
            spares.put(Vec::with_capacity(1024));
        }
        assert_eq!(spares.lists.len(), 64);
        assert_eq!(spares.room, spares.room_limit);
        let list = spares.take();
        assert!(list.capacity() >= 1024);
        spares.put(list);
        assert_eq!(spares.lists.len(), 64);
        for _ in 0..64 {
            spares.take();
        }
        assert_eq!((spares.room, spares.take().capacity()), (0, 0));
    }
}
