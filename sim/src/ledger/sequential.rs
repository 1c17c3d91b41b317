//! Zones that are written at a write pointer: they are what a prefix of what was asked made of them.

use zvb_wire::Condition;

use super::{Base, Found, Kind, Operation, Outcome, View, Zone};
use crate::content::Tag;

/// States that a zone may be in are followed up to so many.
const STATES_MAX: usize = 4096;

/// A state that the zone may be in, and what of the doubtful was done on the way there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    data: Vec<Tag>,
    full: bool,
    /// Operations whose answer says nothing, and whether they were done.
    path: Vec<(u64, bool)>,
}

impl State {
    /// What `operation` makes of it; `None` when it can not have been done here.
    fn after(&self, operation: &Operation, capacity: u64) -> Option<Self> {
        let mut next = self.clone();
        let pointer = self.data.len() as u64;
        let len = match operation.kind {
            Kind::Touch => return Some(next),
            Kind::Finish => {
                next.full = true;
                return Some(next);
            }
            Kind::Reset => {
                next.data.clear();
                next.full = false;
                return Some(next);
            }
            Kind::Discard { .. } => return None,
            Kind::Write { at, len } | Kind::Zero { at, len } if at == pointer => len,
            Kind::Append { at, len } if at.is_none_or(|at| at == pointer) => len,
            Kind::Write { .. } | Kind::Zero { .. } | Kind::Append { .. } => return None,
        };
        if self.full || pointer + len > capacity {
            return None;
        }
        next.data.extend((0..len).map(|i| operation.tag(i)));
        next.full = pointer + len == capacity;
        Some(next)
    }

    fn looks_like(&self, found: &Found) -> bool {
        let full = found.condition == Condition::Full;
        let written = self.data.len();
        full == self.full
            && (full || found.pointer == Some(written as u64))
            && found.data.iter().take(written).zip(&self.data).all(|(a, b)| *a == Some(*b))
            && found.data.iter().skip(written).all(|a| *a == Some(Tag::ZERO))
    }
}

impl Zone {
    fn base_state(&self) -> State {
        State { data: self.base.data.clone(), full: self.base.full, path: Vec::new() }
    }

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
        let least = match view {
            View::Live => self.operations.len(),
            _ => self.operations.iter().rposition(|o| o.must(view)).map_or(0, |i| i + 1),
        };
        let mut states = vec![self.base_state()];
        for i in 0..=self.operations.len() {
            if i >= least
                && let Some(state) = states.iter().find(|state| state.looks_like(found))
            {
                let path = state.path.clone();
                self.resolve(&path);
                return Ok(());
            }
            if let Some(operation) = self.operations.get(i) {
                states = self.step(states, operation);
            }
        }
        Err(self.explain(found, least))
    }

    /// The states that `operation` may lead to.
    fn step(&self, states: Vec<State>, operation: &Operation) -> Vec<State> {
        let mut next = Vec::with_capacity(states.len());
        for state in states {
            let after = state.after(operation, self.capacity);
            match operation.outcome {
                Outcome::Failed => next.push(state),
                Outcome::Done => next.extend(after),
                Outcome::Pending | Outcome::Unknown => {
                    let with = |state: State, done| {
                        let mut path = state.path.clone();
                        path.push((operation.id, done));
                        State { path, ..state }
                    };
                    next.extend(after.map(|state| with(state, true)));
                    next.push(with(state, false));
                }
            }
        }
        next.truncate(STATES_MAX);
        next
    }

    /// What was in doubt is found out.
    fn resolve(&mut self, path: &[(u64, bool)]) {
        for (id, done) in path {
            for operation in self.operations.iter_mut().filter(|o| o.id == *id) {
                if operation.outcome == Outcome::Unknown {
                    operation.outcome = if *done { Outcome::Done } else { Outcome::Failed };
                }
            }
        }
    }

    /// Where a guest that hopes for the best expects the write pointer, and whether the zone is full.
    pub fn expected(&self) -> (u64, bool) {
        let mut state = self.base_state();
        for operation in self.operations.iter().filter(|o| o.outcome != Outcome::Failed) {
            state = state.after(operation, self.capacity).unwrap_or(state);
        }
        (state.data.len() as u64, state.full)
    }

    pub(super) fn fold_sequential(&mut self) {
        let last = self.operations.iter().rposition(|o| o.durable).map_or(0, |i| i + 1);
        let sure = |o: &&Operation| matches!(o.outcome, Outcome::Done | Outcome::Failed);
        let count = self.operations.iter().take(last).take_while(sure).count();
        let mut state = self.base_state();
        for operation in self.operations.drain(..count) {
            if operation.outcome == Outcome::Done {
                // What can not have been done is found out when the zone is looked at.
                state = state.after(&operation, self.capacity).unwrap_or(state);
            }
        }
        let written = state.data.len() as u64;
        self.base = Base { data: state.data, written, full: state.full };
    }

    fn explain(&self, found: &Found, least: usize) -> String {
        let data: Vec<_> = found.data.iter().map(|tag| tag.unwrap_or_default()).collect();
        let last = data.iter().rposition(|tag| *tag != Tag::ZERO).map_or(0, |i| i + 1);
        format!(
            "found {:?}, pointer {:?}, data {:?}\n  known {:?}\n  and at least {least} of {:#?}",
            found.condition,
            found.pointer,
            data.get(..last),
            self.base,
            self.operations
        )
    }
}
