//! Zones that are written at a write pointer: they are what a prefix of what was asked made of them.
//!
//! What was asked and done decides where the pointer is, and only that decides what can be done next. So
//! for what was found in a zone there is no need to know all that may be in it: it is enough to follow where
//! the pointer may be, and whether what is below it by then is what was found.

use std::collections::BTreeSet;

use zvb_wire::Condition;

use super::{Base, Found, Kind, Operation, Outcome, View, Zone};
use crate::content::Tag;

/// What a zone was seen to be, with nothing in flight.
#[derive(Clone, Debug)]
pub(super) struct Look {
    /// How many of the zone's operations had been asked for.
    after: usize,
    state: State,
}

/// A state of a zone.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    /// Below the write pointer. Where a full zone was found, its end is not told: up to the capacity.
    data: Vec<Tag>,
    full: bool,
}

/// Where a zone may be on the way to a state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Spot {
    pointer: u64,
    full: bool,
    /// What is below the pointer is what is there at the end.
    same: bool,
}

impl State {
    fn of(base: &Base) -> Self {
        Self { data: base.data.clone(), full: base.full }
    }

    fn found(found: &Found, capacity: u64) -> Self {
        let full = found.condition == Condition::Full;
        let written = if full { capacity } else { found.pointer.unwrap_or(capacity) };
        let data = found.data.iter().take(written as usize);
        Self { data: data.map(|tag| tag.unwrap_or_default()).collect(), full }
    }

    /// What it holds from `from` on; above the data there are zeroes.
    fn from(&self, from: u64) -> impl Iterator<Item = Tag> {
        self.data.iter().copied().skip(from as usize).chain(std::iter::repeat(Tag::ZERO))
    }

    /// Where it is on the way to `end`.
    fn spot(&self, end: &Self) -> Spot {
        let same = self.data.iter().copied().zip(end.from(0)).all(|(a, b)| a == b);
        Spot { pointer: self.data.len() as u64, full: self.full, same }
    }

    /// True when `spot`, on the way to this, is this.
    fn is_at(&self, spot: Spot) -> bool {
        let rest = self.data.iter().skip(spot.pointer as usize);
        spot.same
            && spot.full == self.full
            && match self.full {
                true => rest.into_iter().all(|tag| *tag == Tag::ZERO),
                false => spot.pointer == self.data.len() as u64,
            }
    }

    /// What `operation` makes of it; `None` when it can not have been done here.
    fn after(&self, operation: &Operation, capacity: u64) -> Option<Self> {
        let Spot { pointer, full, .. } = self.spot(self).after(operation, capacity, self)?;
        let mut data = self.data.clone();
        data.truncate(pointer as usize);
        data.extend((0..pointer - data.len() as u64).map(|i| operation.tag(i)));
        Some(Self { data, full })
    }
}

impl Spot {
    /// Where `operation` leads, on the way to `end`; `None` when it can not have been done here.
    fn after(self, operation: &Operation, capacity: u64, end: &State) -> Option<Self> {
        let Self { pointer, full, same } = self;
        let len = match operation.kind {
            Kind::Touch => return Some(self),
            Kind::Finish => return Some(Self { full: true, ..self }),
            Kind::Reset => return Some(Self { pointer: 0, full: false, same: true }),
            Kind::Discard { .. } => return None,
            Kind::Write { at, len } | Kind::Zero { at, len } if at == pointer => len,
            Kind::Append { at, len } if at.is_none_or(|at| at == pointer) => len,
            Kind::Write { .. } | Kind::Zero { .. } | Kind::Append { .. } => return None,
        };
        let to = pointer + len;
        if full || to > capacity {
            return None;
        }
        let written = (0..len).map(|i| operation.tag(i));
        let same = same && written.zip(end.from(pointer)).all(|(a, b)| a == b);
        Some(Self { pointer: to, full: to == capacity, same })
    }
}

impl Zone {
    pub(super) fn check_sequential(&mut self, view: View, found: &Found) -> Result<(), String> {
        if view != View::Live && found.condition.is_open() {
            return Err(format!("it is {:?} after a restart", found.condition));
        }
        let empty = found.condition == Condition::Empty;
        if view != View::Live && empty != (found.pointer == Some(0)) {
            return Err(format!(
                "it is {:?} with its pointer {:?}",
                found.condition, found.pointer
            ));
        }
        let all = self.operations.len();
        let must = self.operations.iter().rposition(|o| o.must(view)).map_or(0, |i| i + 1);
        let least = match view {
            View::Live => all,
            View::Process => must.max(self.looks.last().map_or(0, |look| look.after)),
            View::Host => must,
        };
        let state = State::found(found, self.capacity);
        let above = found.data.iter().skip(state.data.len());
        let clean = above.into_iter().all(|tag| *tag == Some(Tag::ZERO));
        if !clean || !self.may_be(&state, least) {
            return Err(self.explain(found, least));
        }
        let in_doubt = |o: &Operation| o.outcome == Outcome::Unknown;
        let since = self.looks.last().map_or(0, |look| look.after);
        if view == View::Live && self.operations.iter().skip(since).any(in_doubt) {
            self.looks.push(Look { after: all, state });
        }
        Ok(())
    }

    /// True when `least` of the operations or more may have made the zone `state`, and what is known of it
    /// from later is true then, too.
    fn may_be(&self, state: &State, least: usize) -> bool {
        let mut from = (0, State::of(&self.base));
        let ends = self.looks.iter().map(|look| (look.after, Some(&look.state)));
        for (end, seen) in ends.chain([(self.operations.len(), None)]) {
            let (begin, known) = &from;
            let before = &self.operations[*begin..end];
            let found =
                self.follow(known, before, state).into_iter().enumerate().any(|(i, spots)| {
                    begin + i >= least
                        && spots.into_iter().any(|spot| state.is_at(spot))
                        && self.can_become(state, &before[i..], seen)
                });
            if found {
                return true;
            }
            if let Some(seen) = seen {
                from = (end, seen.clone());
            }
        }
        false
    }

    /// True when `operations` may make `seen` of `state`, or anything if that is `None`.
    fn can_become(&self, state: &State, operations: &[Operation], seen: Option<&State>) -> bool {
        let way = self.follow(state, operations, seen.unwrap_or(state));
        let Some(end) = way.last() else { return false };
        seen.map_or(!end.is_empty(), |seen| end.iter().any(|spot| seen.is_at(*spot)))
    }

    /// Where a zone that is `from` may be on the way to `to`: now, and after each of `operations`.
    fn follow(&self, from: &State, operations: &[Operation], to: &State) -> Vec<BTreeSet<Spot>> {
        let mut way = vec![BTreeSet::from([from.spot(to)])];
        for operation in operations {
            let mut next = BTreeSet::new();
            for spot in way.last().into_iter().flatten() {
                let after = spot.after(operation, self.capacity, to);
                let (done, not) = match operation.outcome {
                    Outcome::Done => (true, false),
                    Outcome::Failed => (false, true),
                    Outcome::Pending | Outcome::Unknown => (true, true),
                };
                next.extend(after.filter(|_| done));
                next.extend(not.then_some(*spot));
            }
            way.push(next);
        }
        way
    }

    /// What it was when it was last known without a doubt, and what was asked since.
    fn known(&self) -> (State, &[Operation]) {
        match self.looks.last() {
            Some(look) => (look.state.clone(), &self.operations[look.after..]),
            None => (State::of(&self.base), &self.operations),
        }
    }

    /// Where a guest that hopes for the best expects the write pointer, and whether the zone is full.
    pub fn expected(&self) -> (u64, bool) {
        let (state, operations) = self.known();
        let mut spot = state.spot(&state);
        for operation in operations.iter().filter(|o| o.outcome != Outcome::Failed) {
            spot = spot.after(operation, self.capacity, &state).unwrap_or(spot);
        }
        (spot.pointer, spot.full)
    }

    pub(super) fn fold_sequential(&mut self) {
        let last = self.operations.iter().rposition(|o| o.durable).map_or(0, |i| i + 1);
        // What came before that is over, and what it was seen to be then is all that counts of it.
        let mut state = State::of(&self.base);
        let mut gone = 0;
        while let Some(look) = self.looks.first().filter(|look| look.after <= last) {
            gone = look.after;
            state = self.looks.remove(0).state;
        }
        let sure = |o: &&Operation| matches!(o.outcome, Outcome::Done | Outcome::Failed);
        let count = self.operations[gone..last].iter().take_while(sure).count();
        for operation in self.operations.drain(..gone + count).skip(gone) {
            if operation.outcome == Outcome::Done {
                // What can not have been done is found out when the zone is looked at.
                state = state.after(&operation, self.capacity).unwrap_or(state);
            }
        }
        for look in &mut self.looks {
            look.after -= gone + count;
        }
        let written = state.data.len() as u64;
        self.base = Base { data: state.data, written, full: state.full };
    }

    fn explain(&self, found: &Found, least: usize) -> String {
        let data: Vec<_> = found.data.iter().map(|tag| tag.unwrap_or_default()).collect();
        let last = data.iter().rposition(|tag| *tag != Tag::ZERO).map_or(0, |i| i + 1);
        format!(
            "found {:?}, pointer {:?}, data {:?}\n  known {:?}\n  and at least {least} of {:#?}\n  seen {:?}",
            found.condition,
            found.pointer,
            data.get(..last),
            self.base,
            self.operations,
            self.looks
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use zvb_wire::ZoneType;

    const CAPACITY: u64 = 6;

    fn operation(rng: &mut Rng, id: u64) -> Operation {
        let (at, len) = (rng.below(4), 1 + rng.below(3));
        let outcome = rng.pick(&[Outcome::Done, Outcome::Failed, Outcome::Unknown]);
        let kind = match rng.below(8) {
            0 => Kind::Reset,
            1 => Kind::Finish,
            2 => Kind::Touch,
            3 => Kind::Zero { at, len },
            4 | 5 if outcome == Outcome::Done => Kind::Append { at: Some(at), len },
            4 | 5 => Kind::Append { at: None, len },
            _ => Kind::Write { at, len },
        };
        Operation { id, kind, outcome, answered: 0, durable: false }
    }

    /// What the zone was after each of its operations, if those were done of which `done` has a bit; `None`
    /// when that can not have been.
    fn history(zone: &Zone, done: u32) -> Option<Vec<State>> {
        let mut states = vec![State::of(&zone.base)];
        for (i, operation) in zone.operations.iter().enumerate() {
            let last = states.last()?.clone();
            let is_done = match operation.outcome {
                Outcome::Done => true,
                Outcome::Failed => false,
                Outcome::Pending | Outcome::Unknown => done & 1 << i != 0,
            };
            states.push(if is_done { last.after(operation, CAPACITY)? } else { last });
        }
        let is_seen = |look: &Look| states[look.after] == look.state;
        zone.looks.iter().all(is_seen).then_some(states)
    }

    /// What is found of a zone in that state, and so all that can be told of it.
    fn found(state: &State) -> Found {
        let pointer = (!state.full).then_some(state.data.len() as u64);
        let condition = match pointer {
            None => Condition::Full,
            Some(0) => Condition::Empty,
            Some(_) => Condition::Closed,
        };
        let data = state.from(0).take(CAPACITY as usize).map(Some).collect();
        Found { condition, pointer, data }
    }

    #[test]
    fn what_may_be_found_is_what_some_history_leaves() {
        let (mut right, mut wrong) = (0, 0);
        for seed in 0..400 {
            let rng = &mut Rng::new(seed);
            let mut zone = Zone::new(ZoneType::SequentialRequired, 0, CAPACITY, CAPACITY);
            let count = 1 + rng.below(5);
            zone.operations = (1..=count).map(|id| operation(rng, id)).collect();
            let histories = |zone: &Zone| -> Vec<_> {
                (0..1 << count).filter_map(|done| history(zone, done)).collect()
            };
            if rng.chance(50)
                && let Some(states) = histories(&zone).pop()
            {
                let after = rng.below(count + 1) as usize;
                zone.looks.push(Look { after, state: states[after].clone() });
            }
            let possible = histories(&zone);
            // All that its operations leave in any order, and by themselves.
            let mut others = [possible.concat(), vec![State::of(&zone.base)]].concat();
            for operation in &zone.operations {
                let more: Vec<_> =
                    others.iter().filter_map(|state| state.after(operation, CAPACITY)).collect();
                others.extend(more);
            }
            let mut others: Vec<_> = others.iter().map(found).collect();
            others.sort_by_key(|found| format!("{found:?}"));
            others.dedup();
            for least in 0..=count as usize {
                let ends: Vec<_> =
                    possible.iter().flat_map(|states| &states[least..]).map(found).collect();
                for seen in &others {
                    let may_be = zone.may_be(&State::found(seen, CAPACITY), least);
                    assert_eq!(may_be, ends.contains(seen), "{seen:?}, {least} of {zone:#?}");
                    (right, wrong) = (right + u64::from(may_be), wrong + u64::from(!may_be));
                }
            }
        }
        assert!(right > 1000 && wrong > 1000, "{right} right ones, {wrong} wrong ones");
    }
}
