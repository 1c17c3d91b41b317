//! Appends to one zone from several queues.

use zvb_sim::ledger::{Found, Kind, Ledger, Outcome};

/// Appends to one zone that were in flight together: the device chose their order.
#[derive(Clone, Debug, Default)]
pub struct Crowd {
    members: Vec<Member>,
}

#[derive(Clone, Debug)]
struct Member {
    id: u64,
    len: u64,
    outcome: Outcome,
    at: Option<u64>,
}

impl Crowd {
    /// Another one is sent.
    pub fn add(&mut self, id: u64, len: u64) {
        self.members.push(Member { id, len, outcome: Outcome::Pending, at: None });
    }

    /// One is answered; `at`: where it went, from the zone's start.
    pub fn end(&mut self, id: u64, outcome: Outcome, at: Option<u64>) {
        for member in self.members.iter_mut().filter(|member| member.id == id) {
            (member.outcome, member.at) = (outcome, at);
        }
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// True when all are answered.
    pub fn is_quiet(&self) -> bool {
        self.members.iter().all(|member| member.outcome != Outcome::Pending)
    }

    /// Tells the ledger of them as if they had come one after the other: in the order of their places.
    /// Those of unanswered ones show in what was `found` in the zone, if they were done at all; that they
    /// were done right is for the ledger to see.
    pub fn settle(mut self, zone: usize, ledger: &mut Ledger, found: Option<&Found>) {
        self.members.sort_by_key(|member| member.place(found));
        for Member { id, len, outcome, at } in self.members {
            ledger.begin(zone, id, Kind::Append { at: None, len });
            if outcome != Outcome::Pending {
                ledger.end(zone, id, outcome, at, false);
            }
        }
    }
}

impl Member {
    fn place(&self, found: Option<&Found>) -> u64 {
        let seen = || {
            let mut tags = found.into_iter().flat_map(|found| &found.data);
            tags.position(|tag| tag.is_some_and(|tag| tag.operation() == self.id))
        };
        match self.outcome {
            Outcome::Pending => seen().map_or(u64::MAX, |at| at as u64),
            _ => self.at.unwrap_or(u64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zvb_sim::content::Tag;
    use zvb_sim::ledger::View;
    use zvb_wire::{Condition, Model, Sector};
    use zvb_zones::{Geometry, GeometrySpec};

    /// One zone of 8 sectors, into which 1, 2 and 3 were appended together: 3 was answered, to be behind
    /// 2 sectors.
    fn crowd() -> (Ledger, Crowd) {
        let spec = GeometrySpec {
            model: Model::HostManaged,
            capacity: Sector(8),
            zone_size: Sector(8),
            zone_capacity: Sector(8),
            conventional: 0,
            max_open: 0,
            max_active: 0,
            max_append: Sector(8),
            write_granularity: 512,
        };
        let geometry = Geometry::new(spec).unwrap();
        let mut crowd = Crowd::default();
        for (id, len) in [(1, 1), (2, 2), (3, 3)] {
            crowd.add(id, len);
        }
        assert!(!crowd.is_quiet());
        crowd.end(3, Outcome::Done, Some(2));
        (Ledger::new(Some(&geometry), 8), crowd)
    }

    fn zone(runs: &[(u64, u64)]) -> Found {
        let mut data: Vec<_> =
            runs.iter().flat_map(|(id, len)| (0..*len).map(|i| Some(Tag::new(*id, i)))).collect();
        let pointer = data.len() as u64;
        data.resize(8, Some(Tag::ZERO));
        let condition = if pointer == 0 { Condition::Empty } else { Condition::Closed };
        Found { condition, pointer: Some(pointer), data }
    }

    fn is_right(runs: &[(u64, u64)]) -> bool {
        let ((mut ledger, crowd), found) = (crowd(), zone(runs));
        crowd.settle(0, &mut ledger, Some(&found));
        ledger.check(View::Process, &[found]).is_ok()
    }

    #[test]
    fn any_order_that_the_answers_allow_is_right() {
        assert!(is_right(&[(2, 2), (3, 3)]));
        assert!(is_right(&[(2, 2), (3, 3), (1, 1)]));
    }

    #[test]
    fn what_the_answers_do_not_allow_is_wrong() {
        assert!(!is_right(&[]), "an acknowledged append is gone");
        assert!(!is_right(&[(2, 2)]));
        assert!(!is_right(&[(1, 1), (3, 3)]), "it is elsewhere");
        assert!(!is_right(&[(2, 2), (3, 2)]), "a part of it is gone");
        assert!(!is_right(&[(2, 2), (3, 3), (2, 2)]), "another is there twice");
        assert!(!is_right(&[(2, 2), (3, 3), (9, 1)]), "nobody wrote that");
    }
}
