//! Slots that are renewed behind the back of zones that come and go: no zone may ever miss a byte.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::{Rng, Worker, create_options, pattern};
use zvb_storage::{Image, OpenOptions, Volume};
use zvb_wire::{Condition, Model, Sector};
use zvb_zones::{Snapshot, ZoneId};

/// Zones of 3 MiB, so that each slot has three parts.
const ZONE: u64 = 6144;
const ZONES: u64 = 6;

#[test]
fn zones_written_by_small_and_large_requests_keep_what_they_have() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("disk.zvb");
    let mut options = create_options(Model::HostManaged);
    options.capacity = Sector(ZONE * ZONES);
    if let Some(spec) = &mut options.zones {
        spec.capacity = options.capacity;
        (spec.zone_size, spec.zone_capacity) = (Sector(ZONE), Sector(ZONE));
        spec.conventional = 0;
    }
    Image::create(&path, &options).unwrap();
    let image = Arc::new(Image::open(&path, &OpenOptions::default()).unwrap());
    let mut worker = Worker::new(Arc::clone(&image) as _, 64);
    let mut rng = Rng::new(11);
    let mut has: Vec<Option<Vec<u8>>> = vec![None; ZONES as usize];
    for life in 0..60u64 {
        let zone = rng.below(ZONES);
        let number = ZoneId(zone as u32);
        image.record(number, Snapshot::EMPTY);
        // Small requests first, and large ones over the pieces that they leave.
        let (request, len) = match life % 12 {
            0..4 => (8, 600),
            4 => (128, 1024),
            _ => (128, ZONE - rng.below(3) * 1024),
        };
        let data = pattern(life, len as usize * 512);
        for (place, piece) in (0..).step_by(request).zip(data.chunks(request * 512)) {
            worker.submit_write(place, ZONE * zone + place, piece, &mut rng);
            if place % 1024 == 0 {
                worker.finish().into_iter().for_each(|done| done.result.unwrap());
            }
        }
        worker.finish().into_iter().for_each(|done| done.result.unwrap());
        image.record(number, Snapshot::new(Condition::Closed, Sector(len)));
        has[zone as usize] = Some(data);
        // Time for the thread that renews, now and then.
        std::thread::sleep(Duration::from_millis(rng.below(3) * 4));
        let other = rng.below(ZONES) as usize;
        if let Some(data) = &has[other] {
            let found =
                worker.read(ZONE * other as u64, data.len() as u64 / 512, &mut rng).unwrap();
            assert!(&found == data, "life {life}, zone {other}");
        }
    }
    for (zone, data) in (0..).zip(&has) {
        let Some(data) = data else { continue };
        assert!(
            &worker.read(ZONE * zone, data.len() as u64 / 512, &mut rng).unwrap() == data,
            "{zone}"
        );
    }
    drop(worker);
    image.close().unwrap();
}
