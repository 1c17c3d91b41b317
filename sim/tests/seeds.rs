//! Seeds that must pass, and seeds that must not. `sim/run` plays more of them.

use zvb_sim::{Mutation, Play, Stats, run};

/// A few of the moments at which each may end.
const QUICK: Play =
    Play { mutation: Mutation::None, errors: false, generations: 3, losses: 1, sample: 6 };

fn all(seeds: std::ops::Range<u64>, play: &Play) -> Stats {
    let mut total = Stats::default();
    for seed in seeds {
        match run(seed, play) {
            Ok(stats) => total += stats,
            Err(failure) => panic!("{failure}"),
        }
    }
    total
}

#[test]
fn what_was_promised_survives() {
    let total = all(0..200, &QUICK);
    // Or it would prove nothing.
    assert!(total.power_losses > 2000 && total.deaths > 500 && total.closes > 50, "{total:?}");
    assert!(total.done > 4 * total.refused && total.done > 20_000, "{total:?}");
    assert!(total.growths > 100 && total.checks > 1000, "{total:?}");
}

#[test]
fn what_was_promised_survives_errors_of_the_medium() {
    let total = all(0..200, &Play { errors: true, ..QUICK });
    assert!(total.errors > 500 && total.failed_syncs > 20, "{total:?}");
}

#[test]
fn every_sync_of_a_few_seeds_is_tried() {
    let total = all(1000..1010, &Play { sample: 100, losses: 3, ..QUICK });
    assert!(total.power_losses > 3 * total.syncs, "{total:?}");
}

#[test]
fn a_seed_is_the_same_every_time() {
    for play in [QUICK, Play { errors: true, ..QUICK }] {
        for seed in 0..5 {
            let [a, b] = [(); 2].map(|()| run(seed, &play).map_err(|failure| failure.to_string()));
            assert_eq!(a, b);
        }
    }
}

/// The oracle finds what is wrong with the medium within these seeds, and nothing with a sound one.
fn is_found(mutation: Mutation, errors: bool, seeds: std::ops::Range<u64>) {
    is_found_by(&Play { mutation, errors, sample: 30, ..QUICK }, seeds);
}

fn is_found_by(play: &Play, seeds: std::ops::Range<u64>) {
    let mutation = play.mutation;
    all(seeds.clone(), &Play { mutation: Mutation::None, ..*play });
    let found = seeds.clone().any(|seed| run(seed, play).is_err());
    assert!(found, "{mutation:?} was not found in {seeds:?}");
}

#[test]
fn a_disk_that_never_syncs_is_found_out() {
    is_found(Mutation::NoSync, false, 0..5);
}

#[test]
fn records_before_their_data_are_found_out() {
    is_found(Mutation::NoDataSync, false, 0..10);
}

#[test]
fn slots_used_again_before_that_is_durable_are_found_out() {
    is_found(Mutation::NoRecordSync, false, 0..10);
}

#[test]
fn space_given_back_too_early_is_found_out() {
    is_found(Mutation::EarlyPunch, false, 0..10);
}

#[test]
fn slots_that_are_not_cleared_are_found_out() {
    is_found(Mutation::NoPunch, false, 0..40);
}

#[test]
fn what_a_failed_sync_lost_and_is_still_seen_is_found_out() {
    // Rare: a sync must fail, its process die, and the host lose power before the next one is closed.
    is_found(Mutation::NoForget, true, 700..900);
}

#[test]
fn a_failed_sync_that_a_killed_process_never_heard_of_is_found_out() {
    is_found(Mutation::Unheard, true, 940..980);
}

#[test]
fn new_images_that_are_not_synced_are_found_out() {
    is_found(Mutation::NoCreateSync, false, 0..20);
}

#[test]
fn superblocks_that_are_never_durable_are_found_out() {
    is_found(Mutation::NoSuperblockSync, false, 0..10);
}

#[test]
fn zones_that_become_active_before_others_are_not_are_found_out() {
    is_found(Mutation::NoOrderSync, false, 40..60);
}

#[test]
fn superblocks_that_point_to_a_table_that_is_not_durable_are_found_out() {
    is_found(Mutation::NoGrowthSync, false, 0..20);
}

#[test]
fn torn_records_that_are_not_cleared_are_found_out() {
    // Rare: the host must die twice while the same copy is written, and the two parts must make a whole.
    let mutation = Mutation::NoClearTorn;
    is_found_by(&Play { mutation, generations: 4, losses: 2, sample: 40, errors: false }, 40..60);
}
