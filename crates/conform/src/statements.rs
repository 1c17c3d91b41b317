//! The statements that concern a device, each with what is tried for it.

use crate::checks::{basic, init, limits, notify, report, ring, transitions, zoned};
use crate::outcome::{Checked, Level};
use crate::rig::Rig;

/// What is done about a statement.
pub(crate) enum Probe {
    /// It is tried.
    Try(fn(&mut Rig<'_>) -> Checked),
    /// It can not be seen from a driver's side: the reason.
    Unseen(&'static str),
}

/// One statement.
pub(crate) struct Statement {
    pub(crate) number: u16,
    pub(crate) level: Level,
    pub(crate) title: &'static str,
    pub(crate) probe: Probe,
}

const fn check(
    number: u16,
    level: Level,
    title: &'static str,
    probe: fn(&mut Rig<'_>) -> Checked,
) -> Statement {
    Statement { number, level, title, probe: Probe::Try(probe) }
}

const fn unseen(number: u16, level: Level, title: &'static str, why: &'static str) -> Statement {
    Statement { number, level, title, probe: Probe::Unseen(why) }
}

use Level::{Described as D, May, Must, Should};

const LEGACY: &str = "this way to the device has no legacy interface";
const POWER: &str = "a power loss can not be made from here";

/// All of them, in the order of their numbers.
pub(crate) const STATEMENTS: &[Statement] = &[
    check(1, Should, "FLUSH is offered", init::offers_flush),
    check(2, Must, "CONFIG_WCE is offered with FLUSH only", init::wce_needs_flush),
    check(3, Must, "writeback is 0 without FLUSH", init::writethrough_without_flush),
    check(4, Must, "unused0 and unused1 are 0", init::unused_is_zero),
    check(5, Should, "ZONED is offered by zoned devices only", init::plain_offers_no_zones),
    unseen(6, Must, "a legacy device does not offer ZONED", LEGACY),
    check(
        7,
        Should,
        "host-aware without ZONED: zoned fields are 0",
        init::zones_hidden_without_zoned,
    ),
    check(8, Must, "host-managed without ZONED: no FEATURES_OK", init::host_managed_wants_zoned),
    check(9, Must, "model none shows no sequential zones", init::model_none),
    check(10, Must, "write-required zones: model host-managed", init::model_host_managed),
    check(11, Must, "write-preferred zones: model host-aware", init::model_host_aware),
    check(12, Must, "zone_sectors is the size of every zone", init::zones_are_equal),
    check(13, Must, "max_open_zones is the limit on open zones", limits::open_limit),
    check(14, Must, "max_active_zones is the limit on active zones", limits::active_limit),
    check(15, Must, "an append of max_append_sectors succeeds", init::largest_append),
    check(16, Must, "max_append_sectors fits seg_max * size_max", init::append_fits_segments),
    check(17, May, "max_append_sectors 0: no ZONE_APPEND", init::no_append_is_unsupported),
    check(18, Must, "write_granularity is enough for a write", init::granularity_is_enough),
    check(19, Must, "unused2 is 0", init::unused2_is_zero),
    check(20, D, "the zoned fields are read-only", init::characteristics_are_read_only),
    unseen(21, Must, "legacy: cache mode and status bits", LEGACY),
    unseen(22, Must, "legacy: cache mode and feature bits", LEGACY),
    unseen(23, Must, "legacy: the guest's byte order", LEGACY),
    unseen(
        24,
        May,
        "the capacity may change, with a notification",
        "a driver can not bring it about",
    ),
    check(25, Must, "a read-only device refuses every change", basic::read_only_stays),
    check(26, Must, "unknown flags of ranges are UNSUPP", basic::unknown_flags),
    check(27, Must, "DISCARD with unmap is UNSUPP", basic::discard_with_unmap),
    check(28, May, "DISCARD may deallocate", basic::discard_works),
    check(29, May, "WRITE_ZEROES with unmap may deallocate", basic::write_zeroes_unmap),
    check(30, Must, "zeroes are read after WRITE_ZEROES", basic::write_zeroes),
    check(31, Should, "write_zeroes_may_unmap tells the truth", basic::may_unmap),
    unseen(32, May, "write_zeroes_may_unmap may change", "a driver can not bring it about"),
    unseen(33, Must, "without FLUSH a write is durable", POWER),
    check(34, Must, "with writeback 0 a write is durable", basic::cache_mode_switches),
    check(35, Must, "FLUSH commits what was written", basic::flush_answers),
    unseen(36, May, "FLUSH not offered: writes may be durable", POWER),
    unseen(
        37,
        Should,
        "LIFETIME is offered where it is known",
        "what a device knows can not be seen",
    ),
    check(38, Must, "LIFETIME is offered only with an answer", basic::lifetime),
    check(39, Must, "no reserved lifetime values", basic::lifetime),
    check(40, D, "unknown requests are UNSUPP; GET_ID is a name", basic::unknown_requests),
    check(41, D, "every queue that MQ tells of works", basic::queues),
    check(42, Must, "zone requests without ZONED are UNSUPP", zoned::unknown_without_zoned),
    check(43, Must, "conventional zones are not managed", zoned::conventional_is_not_managed),
    check(44, Must, "appends to other than write-required zones", zoned::append_wants_required),
    check(45, Must, "OPEN that can not open", zoned::open_refused),
    check(46, Must, "OPEN without resources", limits::open_without_resources),
    check(47, Must, "CLOSE that can not close", zoned::close_refused),
    check(48, Must, "FINISH that can not finish", zoned::finish_refused),
    check(49, Must, "RESET that can not reset", zoned::reset_refused),
    check(50, Must, "RESET_ALL empties sequential zones", zoned::reset_all),
    check(51, Must, "writes without resources", limits::write_without_resources),
    check(52, Must, "appends name the first sector of a zone", zoned::append_wants_zone_start),
    check(53, Must, "writes past the remaining capacity", zoned::past_capacity),
    check(54, Must, "append_sector is where the data are", zoned::append_tells_where),
    unseen(55, Must, "append_sector means nothing after a failure", "there is nothing to see"),
    check(56, Must, "appends where there are none are UNSUPP", init::no_append_is_unsupported),
    check(57, Must, "appends above max_append_sectors", zoned::append_too_large),
    check(58, Must, "requests across zones", zoned::across_zones),
    check(59, Must, "writes off the write pointer", zoned::off_the_pointer),
    check(60, May, "the device may close zones to make room", limits::may_close),
    check(61, Must, "writes to a read-only zone", zoned::read_only_zone),
    check(62, Must, "requests to an offline zone", zoned::offline_zone),
    check(63, Must, "behind the write pointer nothing is written", zoned::earlier_life_is_gone),
    check(64, Must, "unwritten sectors read as a pattern, or fail", zoned::unwritten_reads),
    check(65, Must, "SECURE_ERASE is aligned to zones", zoned::erase_alignment),
    check(66, Must, "SECURE_ERASE of a part of a zone is refused", zoned::erase_whole_zones),
    check(67, Must, "SECURE_ERASE resets zones", zoned::erase_resets),
    check(68, D, "a zone's capacity is at most its size", report::capacity_fits),
    check(69, D, "requests that break a limit fail", limits::limits_hold),
    check(70, D, "both limits broken: ACTIVE_RESOURCE", limits::active_comes_first),
    check(71, D, "each limit has its own status", limits::each_has_its_own),
    check(72, D, "writes of a part of a granule", transitions::partial_granule),
    check(73, D, "other errors are ZONE_INVALID_CMD", zoned::other_errors),
    check(74, D, "a report begins at the zone with the sector", report::starts_where_the_sector_is),
    check(75, D, "nr_zones counts whole descriptors", report::any_room),
    check(76, D, "reserved parts of a report are 0", report::reserved_is_zero),
    check(77, D, "NOT_WP means conventional", report::not_wp_is_conventional),
    check(78, D, "write pointers without meaning are stable", report::pointer_is_stable),
    check(79, D, "an empty zone's pointer is at its start", report::empty_points_at_start),
    check(80, D, "a write moves the write pointer", transitions::pointer_advances),
    check(81, D, "preferred zones are written anywhere", zoned::preferred_anywhere),
    check(82, D, "open and active zones are counted right", limits::counts_stay),
    check(83, D, "from EMPTY", transitions::from_empty),
    check(84, D, "from IOPEN", transitions::from_implicit),
    check(85, D, "IOPEN to CLOSED when room is wanted", limits::closes_one),
    check(86, D, "from EOPEN", transitions::from_explicit),
    check(87, D, "EOPEN stays when room is wanted", limits::explicit_stays_open),
    check(88, D, "from CLOSED", transitions::from_closed),
    check(89, D, "from FULL", transitions::from_full),
    check(90, D, "FINISH of EMPTY and of CLOSED", transitions::finish_anything),
    unseen(91, D, "zones that turn read-only or offline", "a driver can not bring it about"),
    check(92, D, "a read-only zone is readable", transitions::faulty_reads),
    check(93, D, "a capacity below the size", transitions::capacity_below_size),
    check(94, D, "writes of nothing change nothing", transitions::nothing_written),
    check(95, D, "append_sector and status split anywhere", ring::in_header_anywhere),
    check(96, D, "zones after a restart", transitions::reset_keeps_zones),
    check(135, Must, "nothing is used before DRIVER_OK", ring::nothing_before_driver_ok),
    check(136, Should, "NEEDS_RESET after a fatal error", ring::needs_reset_when_broken),
    check(137, Must, "features depend and are chosen freely", ring::any_subset),
    check(138, Must, "VERSION_1; a set accepted once is accepted again", ring::accepted_again),
    check(139, Must, "status 0 and silence after a reset", ring::reset_is_silent),
    check(140, Must, "configuration before FEATURES_OK", init::readable_before_features),
    check(141, Must, "one queue is reset alone", ring::one_queue_alone),
    unseen(142, Must, "a suspended device is silent", "this way to the device can not suspend it"),
    check(143, Must, "IN_ORDER: buffers in order", ring::in_order),
    check(144, Must, "any arrangement of descriptors", ring::any_framing),
    check(145, Must, "what the device only reads stays", ring::leaves_alone),
    check(146, Must, "indirect descriptors", ring::indirect),
    check(147, Must, "the used length is no overestimate", ring::used_length),
    check(148, Must, "notifications by flag", notify::by_flag),
    check(149, Must, "notifications by index", notify::by_index),
    check(150, Must, "notifications of nothing", ring::spurious_notifications),
];

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn every_number_is_there_once_and_in_order() {
        let numbers: Vec<u16> = STATEMENTS.iter().map(|statement| statement.number).collect();
        let wanted: Vec<u16> = (1..=96).chain(135..=150).collect();
        assert_eq!(numbers, wanted);
    }
}
