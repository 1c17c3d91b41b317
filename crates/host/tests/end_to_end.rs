//! Our driver against our server, over a real socket.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use support::volume::{SlowVolume, ZONE, ZONE_CAPACITY, ZONES, geometry};
use support::{Rig, TestDisk, eventually, pattern};
use zvb_driver::{Error, Options, Request, RequestError};
use zvb_storage::{Memory, Volume};
use zvb_wire::{Condition, Features, Sector, ZoneType};

#[test]
fn every_request_does_what_it_says() {
    every_request(SlowVolume::new());
}

#[test]
fn every_request_does_what_it_says_on_a_disk_in_memory() {
    let spec = geometry();
    every_request(Arc::new(Memory::new(spec.capacity, 4096, Some(spec)).unwrap()));
}

fn every_request(volume: Arc<dyn Volume>) {
    let id = volume.shape().id;
    let rig = Rig::new(volume, 1);
    let mut disk = rig.disk();
    let zoned = disk.info().zoned.unwrap();
    assert_eq!((zoned.zone_size, zoned.zone_count), (Sector(ZONE), ZONES));
    assert!(disk.info().features.contains(Features::ZONED | Features::FLUSH));
    assert_eq!(disk.id().unwrap(), id);

    let zones = disk.zones().unwrap();
    assert_eq!(zones.len(), ZONES as usize);
    assert_eq!(zones[0].zone_type, ZoneType::Conventional);
    assert_eq!(zones[16].len, Sector(1024));

    // A conventional zone takes writes anywhere.
    let data = pattern(1, 64 << 10);
    disk.write(Sector(800), &data).unwrap();
    let mut back = vec![0; data.len()];
    disk.read(Sector(800), &mut back).unwrap();
    assert!(back == data);

    // A sequential one at its write pointer only.
    let start = Sector(3 * ZONE);
    disk.write(start, &data).unwrap();
    match disk.write(Sector(start.0 + 1024), &data) {
        Err(Error::Request(RequestError::UnalignedWritePointer)) => {}
        other => panic!("a write off the pointer: {other:?}"),
    }
    let at = disk.append(start, &data).unwrap();
    assert_eq!(at, Sector(start.0 + 128));
    disk.read(at, &mut back).unwrap();
    assert!(back == data);
    disk.read(Sector(at.0 + 128), &mut back).unwrap();
    assert!(back.iter().all(|byte| *byte == 0), "unwritten sectors read as zeroes");
    assert_eq!(zone(&mut disk, 3), (Condition::ImplicitOpen, Some(start.0 + 256)));

    disk.open(start).unwrap();
    assert_eq!(zone(&mut disk, 3).0, Condition::ExplicitOpen);
    disk.close(start).unwrap();
    assert_eq!(zone(&mut disk, 3).0, Condition::Closed);
    disk.finish(start).unwrap();
    assert_eq!(zone(&mut disk, 3), (Condition::Full, None));
    disk.reset(start).unwrap();
    assert_eq!(zone(&mut disk, 3), (Condition::Empty, Some(start.0)));
    disk.append(start, &data).unwrap();
    disk.reset_all().unwrap();
    assert!(disk.zones().unwrap().iter().skip(2).all(|zone| zone.condition == Condition::Empty));
    disk.flush().unwrap();
    disk.set_writeback(false).unwrap();
    disk.write(Sector(0), &data).unwrap();
}

fn zone(disk: &mut TestDisk, index: usize) -> (Condition, Option<u64>) {
    let zone = disk.zones().unwrap()[index];
    (zone.condition, zone.write_pointer.map(|sector| sector.0))
}

#[test]
fn the_hundredth_session_is_as_clean_as_the_first() {
    let volume = SlowVolume::new();
    let rig = Rig::new(Arc::<SlowVolume>::clone(&volume), 2);
    for session in 0..100u64 {
        let mut disk = rig.disk();
        let start = 2 + session % 8;
        if session >= 8 {
            assert_eq!(zone(&mut disk, start as usize).0, Condition::Full);
            disk.reset(Sector(start * ZONE)).unwrap();
        }
        let data = pattern(session, 32 << 10);
        let at = disk.append(Sector(start * ZONE), &data).unwrap();
        assert_eq!(at.0, start * ZONE, "session {session}");
        disk.finish(Sector(start * ZONE)).unwrap();
        drop(disk);
        assert!(volume.bytes_at(at.0, 64) == data);
    }
    eventually(|| volume.engines() == 0);
}

#[test]
fn two_queues_work_side_by_side() {
    let volume = SlowVolume::new();
    let rig = Rig::new(Arc::<SlowVolume>::clone(&volume), 3);
    let mut disk = rig.disk_with(&Options { queues: 2, ..Options::default() });
    assert_eq!(disk.info().queues, 2);
    assert_eq!(volume.engines(), 2);
    volume.set_delay(Duration::from_millis(5));
    for round in 0..8u64 {
        for queue in 0..2u16 {
            let mut buffer = disk.buffer(4096).unwrap();
            buffer.copy_from_slice(&pattern(round * 2 + u64::from(queue), 4096));
            let at = Sector((round * 2 + u64::from(queue)) * 8);
            disk.submit(queue, Request::Write { at, buffer }).unwrap();
        }
    }
    for queue in 0..2 {
        disk.kick(queue).unwrap();
    }
    for queue in 0..2 {
        while disk.in_flight(queue) > 0 {
            while let Some(done) = disk.poll(queue).unwrap() {
                done.result.unwrap();
            }
            if disk.in_flight(queue) > 0 {
                disk.wait(queue, Some(10_000)).unwrap();
            }
        }
    }
    for place in 0..16 {
        assert!(volume.bytes_at(place * 8, 8) == pattern(place, 4096), "place {place}");
    }
}

/// Fills a queue with appends and reads.
fn load(disk: &mut TestDisk) {
    for round in 0..24u64 {
        let buffer = disk.buffer(4096).unwrap();
        let zone = Sector((2 + round % 3) * ZONE);
        let request = match round % 2 {
            0 => Request::Append { zone, buffer },
            _ => Request::Read { at: Sector(round * 8), buffer },
        };
        disk.submit(0, request).unwrap();
    }
    disk.kick(0).unwrap();
}

#[test]
fn a_frontend_that_leaves_in_the_middle_harms_nothing() {
    let volume = SlowVolume::new();
    let rig = Rig::new(Arc::<SlowVolume>::clone(&volume), 1);
    for _ in 0..5 {
        volume.set_delay(Duration::from_millis(20));
        let mut disk = rig.disk();
        let before = volume.operations().0;
        load(&mut disk);
        eventually(|| volume.operations().0 > before);
        drop(disk);
        eventually(|| volume.engines() == 0);
        let (started, finished) = volume.operations();
        assert_eq!(started, finished, "everything that was begun was finished");
        volume.set_delay(Duration::ZERO);
        let mut disk = rig.disk();
        disk.reset_all().unwrap();
        assert_eq!(disk.append(Sector(2 * ZONE), &[7; 4096]).unwrap(), Sector(2 * ZONE));
    }
}

#[test]
fn a_server_that_is_told_to_end_finishes_what_is_in_flight() {
    let volume = SlowVolume::new();
    let mut rig = Rig::new(Arc::<SlowVolume>::clone(&volume), 1);
    volume.set_delay(Duration::from_millis(50));
    let mut disk = rig.disk();
    load(&mut disk);
    eventually(|| volume.operations().0 > 0);
    rig.end();
    assert_eq!(volume.engines(), 0);
    let (started, finished) = volume.operations();
    assert!(started == finished && started > 0);
    // What was answered is there to be read; then the device is gone.
    let mut answered = 0;
    while let Some(done) = disk.poll(0).unwrap() {
        done.result.unwrap();
        answered += 1;
    }
    assert_eq!(answered, 24);
    assert!(disk.flush().is_err());
}

/// Not a test but the process that the next test kills: it writes until it dies.
#[test]
fn victim() {
    let Ok(path) = std::env::var("ZVB_TEST_VICTIM_SOCKET") else { return };
    let mut disk = support::disk_at(path.as_ref(), &Options::default());
    println!("writing");
    loop {
        for start in [2 * ZONE, 3 * ZONE] {
            for at in (start..start + ZONE_CAPACITY).step_by(64) {
                disk.write(Sector(at), &pattern(at, 64 * 512)).unwrap();
            }
            disk.reset(Sector(start)).unwrap();
        }
    }
}

#[test]
fn a_frontend_that_is_killed_harms_nothing() {
    use std::io::{BufRead, BufReader};

    let volume = SlowVolume::new();
    let rig = Rig::new(Arc::<SlowVolume>::clone(&volume), 1);
    for kill in 0..4u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim", "--nocapture", "--test-threads=1"])
            .env("ZVB_TEST_VICTIM_SOCKET", &rig.path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().ends_with("writing")));
        let before = volume.operations().1;
        eventually(|| volume.operations().1 > before + 10 + kill as usize * 7);
        child.kill().unwrap();
        child.wait().unwrap();
        // What the victim was told to be written is there.
        let mut disk = rig.disk();
        for (index, zone) in disk.zones().unwrap().into_iter().enumerate().skip(2) {
            let Some(end) = zone.write_pointer else { continue };
            for at in (zone.start.0..end.0.saturating_sub(63)).step_by(64) {
                let mut back = vec![0; 64 * 512];
                disk.read(Sector(at), &mut back).unwrap();
                assert!(back == pattern(at, 64 * 512), "zone {index} at {at}");
            }
        }
        disk.reset_all().unwrap();
    }
}
