//! Zones that are written anywhere: each sector holds what a flush covered, or something later.

use zvb_wire::{Condition, ZoneType};

use super::{Base, Found, Kind, Operation, Outcome, View, Zone};
use crate::content::Tag;

/// A life of a zone: from a reset, or from what is known, to the next reset.
struct Life<'a> {
    base: Base,
    operations: &'a [Operation],
}

impl Zone {
    pub(super) fn check_scattered(&mut self, view: View, found: &Found) -> Result<(), String> {
        let is_reset = |o: &Operation| o.kind == Kind::Reset && o.outcome != Outcome::Failed;
        let resets: Vec<usize> =
            (0..self.operations.len()).filter(|i| is_reset(&self.operations[*i])).collect();
        let last_must = self.operations.iter().rposition(|o| o.must(view));
        let mut why = String::from("no life is possible");
        for life in 0..=resets.len() {
            let start = life.checked_sub(1).and_then(|i| resets.get(i)).map_or(0, |i| i + 1);
            // A reset that failed or may have is no end.
            let end =
                resets.iter().skip(life).find(|i| self.operations[**i].outcome != Outcome::Unknown);
            let end = end.copied().unwrap_or(self.operations.len());
            if start > end || last_must.is_some_and(|must| must >= end) {
                continue;
            }
            let base = if life == 0 { self.base.clone() } else { self.blank() };
            let life = Life { base, operations: &self.operations[start..end] };
            match life.check(self, view, found) {
                Ok(()) => return Ok(()),
                Err(what) => why = what,
            }
        }
        Err(format!("{why}\n  known {:?}\n  and of {:#?}", self.base, self.operations))
    }

    fn blank(&self) -> Base {
        Base { data: vec![Tag::ZERO; self.len as usize], ..Base::default() }
    }

    pub(super) fn fold_scattered(&mut self) {
        let count = self.operations.iter().take_while(|o| o.durable).count();
        let operations: Vec<Operation> = self.operations.drain(..count).collect();
        for operation in operations {
            match operation.kind {
                Kind::Reset => self.base = self.blank(),
                Kind::Finish => self.base.full = true,
                _ => {}
            }
            let Some((at, end)) = operation.range() else { continue };
            for sector in at..end {
                self.base.data[sector as usize] = operation.tag(sector - at);
            }
            if moves_pointer(&operation) {
                self.base.written = self.base.written.max(end);
            }
        }
        self.base.full |= self.base.written == self.capacity;
    }
}

fn moves_pointer(operation: &Operation) -> bool {
    matches!(operation.kind, Kind::Write { .. } | Kind::Zero { .. })
}

impl Life<'_> {
    fn check(&self, zone: &Zone, view: View, found: &Found) -> Result<(), String> {
        let mut end = zone.len;
        if zone.kind == ZoneType::SequentialPreferred {
            if view != View::Live && found.condition.is_open() {
                return Err(format!("it is {:?} after a restart", found.condition));
            }
            end = self.check_pointer(zone, view, found)?;
        }
        for (sector, tag) in (0..).zip(&found.data) {
            let tag = tag.unwrap_or_default();
            // What a crash left above the end of the data is cleared, at least what no failed write left.
            let above = sector >= end && view != View::Live;
            let right = match above {
                true => tag == Tag::ZERO || self.left_by_failure(sector, tag),
                false => self.allows(view, sector, tag),
            };
            if !right {
                return Err(format!("sector {sector} holds {tag:?}, with data up to {end}"));
            }
        }
        Ok(())
    }

    /// Where the data of a sequential-preferred zone ends, at most.
    fn check_pointer(&self, zone: &Zone, view: View, found: &Found) -> Result<u64, String> {
        let ends = |o: &&Operation| o.outcome != Outcome::Failed && moves_pointer(o);
        let end_of = |o: &Operation| o.range().map_or(0, |(_, end)| end);
        let least = self.operations.iter().filter(|o| o.must(view)).filter(ends).map(end_of);
        let least = least.max().unwrap_or(0).max(self.base.written);
        let full = found.condition == Condition::Full;
        let finishes = |o: &&Operation| o.kind == Kind::Finish && o.outcome != Outcome::Failed;
        let may = self.base.full || self.operations.iter().any(|o| finishes(&o));
        let must = self.base.full
            || self.operations.iter().filter(finishes).any(|o| o.must(view))
            || least == zone.capacity;
        let all = self.operations.iter().filter(ends).map(end_of).max().unwrap_or(0);
        let most = all.max(self.base.written);
        if full != must && (must || !(may || most == zone.capacity)) {
            return Err(format!("it is {:?}", found.condition));
        }
        if full {
            return Ok(most);
        }
        let pointer = found.pointer.unwrap_or(u64::MAX);
        let known = pointer == self.base.written
            || self.operations.iter().filter(ends).any(|o| end_of(o) == pointer);
        match known && pointer >= least {
            true => Ok(pointer),
            false => Err(format!("its data ends at {pointer}, and at {least} at least")),
        }
    }

    /// True when a write that failed may have left `tag` in `sector`.
    fn left_by_failure(&self, sector: u64, tag: Tag) -> bool {
        let failed = |o: &Operation| matches!(o.outcome, Outcome::Failed | Outcome::Unknown);
        let by =
            |o: &Operation| o.range().is_some_and(|(at, _)| o.tag(sector.wrapping_sub(at)) == tag);
        let within = |o: &Operation| o.range().is_some_and(|(at, end)| (at..end).contains(&sector));
        self.base.data[sector as usize] == tag
            || self.operations.iter().any(|o| failed(o) && within(o) && by(o))
    }

    /// True when `sector` may hold `tag`: the last that must be there, or anything later.
    fn allows(&self, view: View, sector: u64, tag: Tag) -> bool {
        let mut allowed = vec![self.base.data[sector as usize]];
        for operation in self.operations {
            let Some((at, end)) = operation.range() else { continue };
            if (at..end).contains(&sector) {
                if operation.must(view) {
                    allowed.clear();
                }
                allowed.push(operation.tag(sector - at));
            }
        }
        allowed.contains(&tag)
    }
}
