//! Slots that are used again and again, and first-in-first-out chains through them: after the first
//! few requests nothing is allocated any more.

use alloc::vec::Vec;

/// No slot, no zone.
pub(crate) const NONE: u32 = u32::MAX;

/// A queue of slots, threaded through the slots themselves. A slot is in one chain at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    first: u32,
    last: u32,
}

impl Chain {
    pub(crate) const EMPTY: Self = Self { first: NONE, last: NONE };

    pub(crate) fn is_empty(self) -> bool {
        self.first == NONE
    }

    pub(crate) fn first(self) -> Option<u32> {
        (self.first != NONE).then_some(self.first)
    }

    pub(crate) fn last(self) -> Option<u32> {
        (self.last != NONE).then_some(self.last)
    }
}

/// Values under small numbers. A number that stands for nothing is a bug of this crate or its caller,
/// and panics.
#[derive(Clone, Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: u32,
    used: u32,
}

#[derive(Clone, Debug)]
struct Slot<T> {
    /// The next slot of the chain this one is in, or the next free one.
    next: u32,
    value: Option<T>,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self { slots: Vec::new(), free: NONE, used: 0 }
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> u32 {
        self.used
    }

    pub(crate) fn insert(&mut self, value: T) -> u32 {
        self.used += 1;
        let index = self.free;
        if index == NONE {
            let index = self.slots.len() as u32;
            assert!(index < NONE, "2^32 requests at once");
            self.slots.push(Slot { next: NONE, value: Some(value) });
            return index;
        }
        let slot = &mut self.slots[index as usize];
        self.free = slot.next;
        *slot = Slot { next: NONE, value: Some(value) };
        index
    }

    pub(crate) fn remove(&mut self, index: u32) -> T {
        let slot = &mut self.slots[index as usize];
        let value = slot.value.take();
        slot.next = self.free;
        self.free = index;
        self.used -= 1;
        value.unwrap_or_else(|| unreachable!("slot {index} is spent twice"))
    }

    pub(crate) fn get(&self, index: u32) -> &T {
        let value = self.slots[index as usize].value.as_ref();
        value.unwrap_or_else(|| unreachable!("slot {index} is spent"))
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> &mut T {
        let value = self.slots[index as usize].value.as_mut();
        value.unwrap_or_else(|| unreachable!("slot {index} is spent"))
    }

    /// Puts `index` at the end of `chain`.
    pub(crate) fn append(&mut self, chain: &mut Chain, index: u32) {
        match chain.last {
            NONE => chain.first = index,
            last => self.slots[last as usize].next = index,
        }
        chain.last = index;
    }

    /// The slot behind `index` in its chain.
    pub(crate) fn next(&self, index: u32) -> Option<u32> {
        let next = self.slots[index as usize].next;
        (next != NONE).then_some(next)
    }

    /// Takes the slot behind `before`, or the first, out of `chain`, and its value out of the slot.
    pub(crate) fn take(&mut self, chain: &mut Chain, before: Option<u32>) -> Option<T> {
        let index = match before {
            Some(before) => self.next(before)?,
            None => chain.first()?,
        };
        let next = self.slots[index as usize].next;
        match before {
            Some(before) => self.slots[before as usize].next = next,
            None => chain.first = next,
        }
        if next == NONE {
            chain.last = before.unwrap_or(NONE);
        }
        Some(self.remove(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_keep_their_order_and_slots_are_used_again() {
        let mut slab = Slab::new();
        let (mut one, mut two) = (Chain::EMPTY, Chain::EMPTY);
        for round in 0..3 {
            for value in 0..4 {
                let index = slab.insert(round * 10 + value);
                slab.append(if value % 2 == 0 { &mut one } else { &mut two }, index);
            }
            assert_eq!(slab.len(), 4);
            assert_eq!(slab.slots.len(), 4);
            let mut drain = |chain: &mut Chain| [(); 3].map(|()| slab.take(chain, None));
            assert_eq!(drain(&mut one), [Some(round * 10), Some(round * 10 + 2), None]);
            assert_eq!(drain(&mut two), [Some(round * 10 + 1), Some(round * 10 + 3), None]);
            assert!(one.is_empty() && two.is_empty());
        }
    }

    #[test]
    fn a_slot_leaves_from_anywhere() {
        for (gone, left) in [(0, [1, 2, 9]), (1, [0, 2, 9]), (2, [0, 1, 9])] {
            let (mut slab, mut chain) = (Slab::new(), Chain::EMPTY);
            let slots = [0, 1, 2].map(|value| slab.insert(value));
            slots.iter().for_each(|slot| slab.append(&mut chain, *slot));
            let before = (gone > 0).then(|| slots[gone - 1]);
            assert_eq!(slab.take(&mut chain, before), Some(gone));
            let last = slab.insert(9);
            slab.append(&mut chain, last);
            assert_eq!(chain.last(), Some(last));
            assert_eq!(left.map(|_| slab.take(&mut chain, None)), left.map(Some));
            assert!(chain.is_empty() && chain.last().is_none());
        }
    }
}
