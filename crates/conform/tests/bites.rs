//! A device that deviates is told so: each lie below is one deviation, and must fail its number. More of them
//! are in `more_bites.rs`, and which numbers have none, and why.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use support::bites::{all_io_errors, answer, bites, config, each_zone, swap, verdict};
use support::liar::{Exchange, Lie};
use support::{Rig, SPEC, zoned};
use zvb_conform::Verdict;
use zvb_device::DeviceOptions;
use zvb_wire::{DeviceStatus, Features, Model, RequestType, Status};
use zvb_zones::GeometrySpec;

#[test]
fn features_and_configuration() {
    let flush = Lie { features: Features::FLUSH, ..Lie::default() };
    let version = Lie { features: Features::VERSION_1, ..Lie::default() };
    bites(
        SPEC,
        &[
            (1, flush),
            (2, flush),
            (138, version),
            (139, Lie { status: DeviceStatus::DRIVER, ..Lie::default() }),
            (
                4,
                config(|at, to| {
                    if at == 33 {
                        to[0] = 1
                    }
                }),
            ),
            (
                10,
                config(|at, to| {
                    if at == 92 {
                        to[0] = 2
                    }
                }),
            ),
            (
                12,
                config(|at, to| {
                    if at == 72 {
                        to[0] ^= 8
                    }
                }),
            ),
        ],
    );
}

#[test]
fn characteristics() {
    bites(
        SPEC,
        &[
            (
                15,
                config(|at, to| {
                    if at == 84 {
                        to[0] = 0x20
                    }
                }),
            ),
            (
                57,
                config(|at, to| {
                    if at == 84 {
                        to[..2].copy_from_slice(&[0x80, 0])
                    }
                }),
            ),
            (
                18,
                config(|at, to| {
                    if at == 88 {
                        to.copy_from_slice(&512u32.to_le_bytes())
                    }
                }),
            ),
            (
                19,
                config(|at, to| {
                    if at == 94 {
                        to[0] = 1
                    }
                }),
            ),
            (
                3,
                config(|at, to| {
                    if at == 32 {
                        to[0] = 1
                    }
                }),
            ),
        ],
    );
}

#[test]
fn a_host_managed_device_that_comes_up_as_a_plain_one() {
    let aware = GeometrySpec { model: Model::HostAware, ..SPEC };
    let rig = Rig::new(zoned(aware), DeviceOptions::default());
    let got = verdict(
        &rig,
        8,
        config(|at, to| {
            if at == 92 {
                to[0] = 1
            }
        }),
    );
    assert!(matches!(got, Verdict::Fail { .. }), "{got:?}");
}

#[test]
fn statuses() {
    let io = answer(all_io_errors);
    let ok = answer(|e| e.status = Status::OK);
    bites(
        GeometrySpec { max_open: 2, max_active: 3, ..SPEC },
        &[
            (43, io),
            (44, io),
            (45, io),
            (46, io),
            (47, ok),
            (51, answer(|e| swap(e, Status::ZONE_OPEN_RESOURCE, Status::ZONE_INVALID_CMD))),
            (52, io),
            (53, io),
            (57, ok),
            (58, io),
            (59, io),
            (70, answer(|e| swap(e, Status::ZONE_ACTIVE_RESOURCE, Status::ZONE_OPEN_RESOURCE))),
            (71, answer(|e| swap(e, Status::ZONE_OPEN_RESOURCE, Status::ZONE_ACTIVE_RESOURCE))),
            (82, answer(|e| swap(e, Status::ZONE_ACTIVE_RESOURCE, Status::ZONE_OPEN_RESOURCE))),
            (72, answer(|e| swap(e, Status::ZONE_UNALIGNED_WP, Status::ZONE_INVALID_CMD))),
            (73, answer(|e| swap(e, Status::ZONE_INVALID_CMD, Status::UNSUPP))),
            (26, answer(|e| swap(e, Status::UNSUPP, Status::IOERR))),
            (40, answer(|e| swap(e, Status::UNSUPP, Status::IOERR))),
            (
                90,
                answer(|e| {
                    if e.kind == RequestType::ZONE_FINISH {
                        e.status = Status::IOERR
                    }
                }),
            ),
        ],
    );
    let aware = GeometrySpec { model: Model::HostAware, ..SPEC };
    bites(
        aware,
        &[
            (42, answer(|e| swap(e, Status::UNSUPP, Status::IOERR))),
            (
                81,
                answer(|e| {
                    if e.sector % 1024 != 0 {
                        e.status = Status::ZONE_UNALIGNED_WP
                    }
                }),
            ),
            (
                7,
                config(|at, to| {
                    if at == 72 {
                        to[0] = 1
                    }
                }),
            ),
        ],
    );
}

#[test]
fn reports() {
    bites(
        GeometrySpec { max_open: 2, max_active: 3, ..SPEC },
        &[
            (68, answer(|e| each_zone(e, |zone| zone[2] = 1))),
            (74, answer(|e| each_zone(e, |zone| zone[9] ^= 4))),
            (
                75,
                answer(|e| {
                    if e.kind == RequestType::ZONE_REPORT && e.data.len() == 255 {
                        e.data[254] = 0;
                    }
                }),
            ),
            (76, answer(|e| each_zone(e, |zone| zone[63] = 1))),
            (
                77,
                answer(|e| {
                    each_zone(e, |zone| {
                        if zone[24] == 1 {
                            zone[25] = 1
                        }
                    })
                }),
            ),
        ],
    );
}

#[test]
fn write_pointers_and_counts() {
    bites(
        GeometrySpec { max_open: 2, max_active: 3, ..SPEC },
        &[
            (
                79,
                answer(|e| {
                    each_zone(e, |zone| {
                        if zone[25] == 1 {
                            zone[16] ^= 8
                        }
                    })
                }),
            ),
            (
                80,
                answer(|e| {
                    each_zone(e, |zone| {
                        if zone[25] == 2 {
                            zone[16] ^= 8
                        }
                    })
                }),
            ),
            (
                83,
                answer(|e| {
                    each_zone(e, |zone| {
                        if zone[25] == 2 {
                            zone[25] = 3
                        }
                    })
                }),
            ),
            (
                84,
                answer(|e| {
                    each_zone(e, |zone| {
                        if zone[25] == 4 {
                            zone[25] = 1
                        }
                    })
                }),
            ),
        ],
    );
}

#[test]
fn conditions() {
    bites(
        GeometrySpec { max_open: 2, max_active: 3, ..SPEC },
        &[
            (
                85,
                answer(|e| {
                    each_zone(e, |zone| {
                        if zone[25] == 4 {
                            zone[25] = 2
                        }
                    })
                }),
            ),
            (
                86,
                answer(|e| {
                    each_zone(e, |zone| {
                        if zone[25] == 3 {
                            zone[25] = 2
                        }
                    })
                }),
            ),
            (
                87,
                answer(|e| {
                    each_zone(e, |zone| {
                        if zone[25] == 3 {
                            zone[25] = 4
                        }
                    })
                }),
            ),
            (
                88,
                answer(|e| {
                    each_zone(e, |zone| {
                        if zone[25] == 4 {
                            zone[25] = 2
                        }
                    })
                }),
            ),
            (
                89,
                answer(|e| {
                    each_zone(e, |zone| {
                        if zone[25] == 14 {
                            zone[25] = 4
                        }
                    })
                }),
            ),
        ],
    );
}

#[test]
fn data_and_rings() {
    let untrue = |e: &mut Exchange| {
        if e.kind == RequestType::IN && e.status == Status::OK {
            e.data.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1) | 1);
        }
    };
    bites(
        SPEC,
        &[
            (30, answer(untrue)),
            (
                50,
                answer(|e| {
                    if e.kind == RequestType::ZONE_RESET_ALL {
                        e.status = Status::IOERR
                    }
                }),
            ),
            (
                54,
                answer(|e| {
                    if e.kind == RequestType::ZONE_APPEND && e.status == Status::OK {
                        e.data[0] ^= 8;
                    }
                }),
            ),
            (63, answer(untrue)),
            (64, answer(untrue)),
            (
                95,
                answer(|e| {
                    if e.kind == RequestType::ZONE_APPEND && e.descriptors == 2 {
                        e.status = Status::IOERR;
                    }
                }),
            ),
            (
                144,
                answer(|e| {
                    if e.descriptors == 2 {
                        e.status = Status::IOERR
                    }
                }),
            ),
            (145, answer(|e| e.out.iter_mut().for_each(|byte| *byte ^= 1))),
            (
                146,
                answer(|e| {
                    if e.kind == RequestType::GET_ID && e.descriptors > 3 {
                        e.data[0] ^= 1;
                    }
                }),
            ),
            (147, answer(|e| e.used = e.data.len() as u32 + 1)),
            (148, Lie { deaf: true, ..Lie::default() }),
            (149, Lie { deaf: true, ..Lie::default() }),
            (141, Lie { keeps_queue: true, ..Lie::default() }),
        ],
    );
}
