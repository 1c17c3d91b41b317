//! The lines that util-linux's `blkzone report` prints for the same disk in a Linux guest.

use std::fmt;

use zvb_wire::{Condition, ZoneType};

use super::Zone;

/// One zone as `blkzone report` prints it. Its `wptr` counts from the start of the zone.
pub(crate) struct Line<'a>(pub(crate) &'a Zone);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zone = self.0;
        write!(
            f,
            "  start: {:#011x}, len {:#08x}, cap {:#08x}, wptr {:#08x} reset:0 non-seq:0, zcond:{:2}({}) [type: {}({})]",
            zone.start.0,
            zone.len.0,
            zone.capacity.0,
            pointer(zone),
            zone.condition as u8,
            condition(zone.condition),
            zone.zone_type as u8,
            kind(zone.zone_type),
        )
    }
}

/// What Linux's virtio_blk driver makes of the write pointer, less the start of the zone: that is how
/// `blkzone` prints it, also for zones where Linux has put all ones for "none".
fn pointer(zone: &Zone) -> u64 {
    match (zone.zone_type, zone.condition) {
        (ZoneType::Conventional, _) => 0,
        (_, Condition::ReadOnly | Condition::Offline) => u64::MAX - zone.start.0,
        _ => zone.pointer().0.saturating_sub(zone.start.0),
    }
}

fn condition(condition: Condition) -> &'static str {
    match condition {
        Condition::NotWp => "nw",
        Condition::Empty => "em",
        Condition::ImplicitOpen => "oi",
        Condition::ExplicitOpen => "oe",
        Condition::Closed => "cl",
        Condition::ReadOnly => "ro",
        Condition::Full => "fu",
        Condition::Offline => "of",
    }
}

fn kind(zone_type: ZoneType) -> &'static str {
    match zone_type {
        ZoneType::Conventional => "CONVENTIONAL",
        ZoneType::SequentialRequired => "SEQ_WRITE_REQUIRED",
        ZoneType::SequentialPreferred => "SEQ_WRITE_PREFERRED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples;

    #[test]
    fn lines_are_those_of_blkzone() {
        let lines: Vec<_> = samples::all().iter().map(|z| Line(z).to_string()).collect();
        #[rustfmt::skip]
        assert_eq!(lines, [
            "  start: 0x000000000, len 0x008000, cap 0x008000, wptr 0x000000 reset:0 non-seq:0, zcond: 0(nw) [type: 1(CONVENTIONAL)]",
            "  start: 0x000008000, len 0x008000, cap 0x006000, wptr 0x000000 reset:0 non-seq:0, zcond: 1(em) [type: 2(SEQ_WRITE_REQUIRED)]",
            "  start: 0x000010000, len 0x008000, cap 0x006000, wptr 0x000008 reset:0 non-seq:0, zcond: 2(oi) [type: 2(SEQ_WRITE_REQUIRED)]",
            "  start: 0x000018000, len 0x008000, cap 0x006000, wptr 0x003000 reset:0 non-seq:0, zcond: 3(oe) [type: 2(SEQ_WRITE_REQUIRED)]",
            "  start: 0x000020000, len 0x008000, cap 0x006000, wptr 0x000010 reset:0 non-seq:0, zcond: 4(cl) [type: 3(SEQ_WRITE_PREFERRED)]",
            "  start: 0x000028000, len 0x008000, cap 0x006000, wptr 0xfffffffffffd7fff reset:0 non-seq:0, zcond:13(ro) [type: 2(SEQ_WRITE_REQUIRED)]",
            "  start: 0x000030000, len 0x008000, cap 0x006000, wptr 0x008000 reset:0 non-seq:0, zcond:14(fu) [type: 2(SEQ_WRITE_REQUIRED)]",
            "  start: 0x000038000, len 0x008000, cap 0x006000, wptr 0xfffffffffffc7fff reset:0 non-seq:0, zcond:15(of) [type: 2(SEQ_WRITE_REQUIRED)]",
        ]);
    }
}
