//! One suite for every volume and engine: what is written reads back, however it is framed.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod support;

use std::sync::Arc;

use support::{Disk, Rng, Worker, create_options, every_disk, geometry, pattern};
use zvb_storage::{CreateOptions, Failure, Image, Op, OpenOptions, Volume};
use zvb_wire::{Condition, Model, Sector, ZoneType};
use zvb_zones::{Snapshot, ZoneId};

#[test]
fn what_is_written_reads_back_in_any_framing() {
    every_disk(|disk| {
        let mut worker = disk.worker(8);
        let mut rng = Rng::new(0x5eed ^ disk.number);
        let mut oracle = vec![0u8; disk.bytes()];
        for round in 0..60u64 {
            let (at, sectors) = disk.some_range(&mut rng);
            let (first, len) = (at as usize * 512, sectors as usize * 512);
            let data = pattern(round, len);
            worker.write(at, &data, &mut rng).unwrap();
            disk.wrote(at, sectors);
            oracle[first..first + len].copy_from_slice(&data);
            let (at, sectors) = disk.some_range(&mut rng);
            let (first, len) = (at as usize * 512, sectors as usize * 512);
            let read = worker.read(at, sectors, &mut rng).unwrap();
            assert!(read == oracle[first..first + len], "{disk:?} round {round}: {at} + {sectors}");
        }
    });
}

#[test]
fn depth_is_kept_and_every_tag_comes_back_once() {
    every_disk(|disk| {
        let mut worker = disk.worker(16);
        let mut rng = Rng::new(77);
        let zone = disk.writable_zone();
        for tag in 0..40 {
            let data = pattern(tag, 4096);
            worker.submit_write(tag, zone + tag * 8, &data, &mut rng);
        }
        assert_eq!(worker.engine.in_flight(), 40);
        let mut tags: Vec<u64> = worker
            .finish()
            .into_iter()
            .map(|done| {
                done.result.unwrap();
                done.tag
            })
            .collect();
        tags.sort_unstable();
        assert_eq!(tags, (0..40).collect::<Vec<_>>());
        assert_eq!(worker.engine.in_flight(), 0);
        disk.wrote(zone, 320);
        for tag in 0..40 {
            assert!(worker.read(zone + tag * 8, 8, &mut rng).unwrap() == pattern(tag, 4096));
        }
        let mut more = Vec::new();
        worker.engine.reap(&mut more);
        assert!(more.is_empty());
    });
}

#[test]
fn zeroes_and_discards_read_as_zeroes_and_touch_nothing_else() {
    every_disk(|disk| {
        let mut worker = disk.worker(4);
        let mut rng = Rng::new(3);
        let at = disk.writable_zone();
        for (round, unmap) in [Some(true), Some(false), None].into_iter().enumerate() {
            let data = pattern(round as u64, 64 * 512);
            worker.write(at, &data, &mut rng).unwrap();
            disk.wrote(at, 64);
            let sectors = Sector(19);
            let op = match unmap {
                Some(unmap) => Op::Zero { sectors, unmap },
                None => Op::Discard { sectors },
            };
            worker.one(at + 13, op).unwrap();
            let mut expected = data.clone();
            expected[13 * 512..32 * 512].fill(0);
            assert!(worker.read(at, 64, &mut rng).unwrap() == expected, "{disk:?} {unmap:?}");
        }
    });
}

#[test]
fn sectors_never_written_read_as_zeroes() {
    every_disk(|disk| {
        let mut worker = disk.worker(4);
        let read = worker.read(0, disk.bytes() as u64 / 512, &mut Rng::new(1));
        // A whole disk spans required zones only in this test; the device never asks for that.
        assert!(read.unwrap().iter().all(|b| *b == 0));
    });
}

#[test]
fn past_the_end_and_above_the_capacity_nothing_is_written() {
    every_disk(|disk| {
        let mut worker = disk.worker(4);
        let mut rng = Rng::new(1);
        let end = disk.bytes() as u64 / 512;
        let past = worker.write(end - 1, &pattern(1, 1024), &mut rng);
        assert!(matches!(past, Err(Failure::Short { missing: 512 | 1024 })), "{past:?}");
        let far = worker.read(u64::MAX - 3, 1, &mut rng);
        assert!(matches!(far, Err(Failure::Short { missing: 512 })), "{far:?}");
        if let (Some(geometry), Model::HostManaged) = (disk.volume.shape().geometry, disk.model) {
            let zone = ZoneId(3);
            let above = geometry.start(zone).0 + geometry.capacity(zone).0;
            let above = worker.write(above, &pattern(1, 512), &mut rng);
            assert!(matches!(above, Err(Failure::Short { .. })), "{above:?}");
        }
    });
}

#[test]
fn a_flush_comes_back_among_writes() {
    every_disk(|disk| {
        let mut worker = disk.worker(8);
        let mut rng = Rng::new(1);
        let at = disk.writable_zone();
        worker.submit_write(1, at, &pattern(1, 4096), &mut rng);
        worker.submit(2, 0, Op::Flush);
        worker.submit(3, 0, Op::Flush);
        let mut tags: Vec<_> = worker.finish().iter().map(|d| d.tag).collect();
        tags.sort_unstable();
        assert_eq!(tags, [1, 2, 3]);
    });
}

#[test]
fn after_a_reset_nothing_of_the_zone_is_left() {
    every_disk(|disk| {
        let Some(geometry) = disk.volume.shape().geometry else { return };
        let mut worker = disk.worker(4);
        let mut rng = Rng::new(1);
        let zone = ZoneId(2);
        let at = geometry.start(zone).0;
        for life in 0..40 {
            worker.write(at, &pattern(life, 16 * 512), &mut rng).unwrap();
            disk.volume.record(zone, Snapshot::new(Condition::ImplicitOpen, Sector(16)));
            assert!(worker.read(at, 16, &mut rng).unwrap() == pattern(life, 16 * 512));
            disk.volume.record(zone, Snapshot::EMPTY);
            assert!(worker.read(at, 16, &mut rng).unwrap().iter().all(|b| *b == 0));
        }
        // A new life that is shorter: above it there is nothing of an old one, where it may be looked at.
        worker.write(at, &pattern(99, 512 * 8), &mut rng).unwrap();
        let read = worker.read(at, 16, &mut rng).unwrap();
        assert!(read[..4096] == pattern(99, 4096));
        if geometry.zone_type(zone) == ZoneType::SequentialPreferred {
            assert!(read[4096..].iter().all(|b| *b == 0));
        }
    });
}

#[test]
fn writes_that_wait_for_a_slot_are_all_done() {
    every_disk(|disk| {
        let Some(geometry) = disk.volume.shape().geometry else { return };
        let mut worker = disk.worker(32);
        let mut rng = Rng::new(1);
        let sequential: Vec<ZoneId> =
            geometry.zones().filter(|z| geometry.zone_type(*z) != ZoneType::Conventional).collect();
        for life in 0..6u64 {
            // All zones are reset at once, and written at once: more slots than there are.
            for zone in &sequential {
                disk.volume.record(*zone, Snapshot::EMPTY);
            }
            for zone in &sequential {
                let data = pattern(life << 32 | u64::from(zone.0), 4096);
                worker.submit_write(u64::from(zone.0), geometry.start(*zone).0, &data, &mut rng);
            }
            let done = worker.finish();
            assert_eq!(done.len(), sequential.len());
            done.into_iter().for_each(|d| d.result.unwrap());
            for zone in &sequential {
                disk.volume.record(*zone, Snapshot::new(Condition::ImplicitOpen, Sector(8)));
                let data = pattern(life << 32 | u64::from(zone.0), 4096);
                assert!(worker.read(geometry.start(*zone).0, 8, &mut rng).unwrap() == data);
            }
        }
    });
}

#[test]
fn an_engine_dropped_with_work_in_flight_harms_nothing() {
    every_disk(|disk| {
        for start in [false, true] {
            let mut worker = disk.worker(64);
            let mut rng = Rng::new(1);
            for tag in 0..32 {
                worker.submit_write(
                    tag,
                    disk.writable_zone() + tag * 8,
                    &pattern(tag, 4096),
                    &mut rng,
                );
                worker.submit(100 + tag, 0, Op::Flush);
            }
            if start {
                worker.engine.start();
            }
            drop(worker);
        }
        let mut worker = disk.worker(4);
        worker.read(disk.writable_zone(), 8, &mut Rng::new(1)).unwrap();
    });
}

#[test]
fn queues_share_a_volume() {
    every_disk(|disk| {
        let volume = &disk.volume;
        std::thread::scope(|scope| {
            for queue in 0..3u64 {
                let volume = Arc::clone(volume);
                let zone = disk.writable_zone();
                scope.spawn(move || {
                    let mut worker = Worker::new(volume, 16);
                    let mut rng = Rng::new(queue);
                    for round in 0..20 {
                        let at = zone + queue * 100 + round * 4;
                        let data = pattern(queue << 8 | round, 2048);
                        worker.write(at, &data, &mut rng).unwrap();
                        assert!(worker.read(at, 4, &mut rng).unwrap() == data);
                        if round % 5 == 0 {
                            worker.one(0, Op::Flush).unwrap();
                        }
                    }
                });
            }
        });
    });
}

#[test]
fn a_plain_disk_has_no_zones_and_a_new_one_nothing_written() {
    every_disk(|disk| {
        let recovered = disk.volume.recovered();
        match disk.model {
            Model::None => assert!(recovered.is_empty()),
            model => {
                let geometry = geometry(model);
                assert_eq!(recovered.len(), geometry.zones as usize);
                assert_eq!(recovered[0], Snapshot::CONVENTIONAL);
                assert!(recovered[2..].iter().all(|s| *s == Snapshot::EMPTY));
            }
        }
        disk.volume.close().unwrap();
    });
}

#[test]
fn space_of_a_reset_zone_is_given_back_after_a_flush() {
    every_disk(|disk| {
        let (Disk { file: Some(file), .. }, Some(geometry)) = (disk, disk.volume.shape().geometry)
        else {
            return;
        };
        let used = || {
            use std::os::unix::fs::MetadataExt;
            std::fs::metadata(file).unwrap().blocks() * 512
        };
        let mut worker = disk.worker(4);
        let mut rng = Rng::new(1);
        let zone = ZoneId(4);
        let sectors = geometry.capacity(zone);
        worker
            .write(geometry.start(zone).0, &pattern(1, sectors.0 as usize * 512), &mut rng)
            .unwrap();
        disk.volume.record(zone, Snapshot::new(Condition::Full, sectors));
        worker.one(0, Op::Flush).unwrap();
        let full = used();
        disk.volume.record(zone, Snapshot::EMPTY);
        worker.one(0, Op::Flush).unwrap();
        // The committer answers the flush first, and clears then.
        let mut tries = 0;
        while used() > full - sectors.0 * 512 + 65536 && tries < 400 {
            std::thread::sleep(std::time::Duration::from_millis(5));
            tries += 1;
        }
        assert!(used() + sectors.0 * 512 <= full + 65536, "{} of {full}", used());
    });
}

#[test]
fn space_of_a_reset_zone_is_given_back_in_time_without_a_flush() {
    use std::os::unix::fs::MetadataExt;
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("disk.zvb");
    for model in [Model::HostManaged, Model::HostAware] {
        let options = CreateOptions { force: true, ..create_options(model) };
        Image::create(&path, &options).unwrap();
        let image = Arc::new(Image::open(&path, &OpenOptions::default()).unwrap());
        let geometry = image.shape().geometry.unwrap();
        let mut worker = Worker::new(Arc::clone(&image) as _, 4);
        let zone = ZoneId(4);
        let sectors = geometry.capacity(zone);
        let data = pattern(1, sectors.0 as usize * 512);
        worker.write(geometry.start(zone).0, &data, &mut Rng::new(1)).unwrap();
        image.record(zone, Snapshot::new(Condition::Full, sectors));
        worker.one(0, Op::Flush).unwrap();
        let used = || std::fs::metadata(&path).unwrap().blocks() * 512;
        let full = used();
        image.record(zone, Snapshot::EMPTY);
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while used() + sectors.0 * 512 > full + 65536 {
            assert!(std::time::Instant::now() < patience, "{} of {full}", used());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}
