//! What goes through the page cache at once: reads of cached data, writes that lie one behind the other.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod support;

use std::fs::OpenOptions as FileOptions;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{Advice, fadvise};
use support::{Rng, Worker, create_options, pattern};
use zvb_ring::Buffers;
use zvb_storage::{Failure, Image, Op, OpenOptions, Volume};
use zvb_wire::{Condition, Model, Sector};
use zvb_zones::{Snapshot, ZoneId};

const ZONE: u64 = 384;

fn image(model: Model) -> (tempfile::TempDir, PathBuf, Arc<Image>) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("disk.zvb");
    Image::create(&path, &create_options(model)).unwrap();
    let image = Arc::new(Image::open(&path, &OpenOptions::default()).unwrap());
    (directory, path, image)
}

/// Reads of one batch, each as long as `sectors`.
fn read_all(
    worker: &mut Worker,
    places: &[u64],
    sectors: usize,
    rng: &mut Rng,
) -> Vec<Result<Vec<u8>, Failure>> {
    for (tag, at) in (0u64..).zip(places) {
        let buffers = worker.buffers(sectors * 512, rng);
        worker.submit(tag, *at, Op::Read(buffers));
    }
    let mut done = worker.finish();
    done.sort_by_key(|done| done.tag);
    assert_eq!(done.len(), places.len());
    let bytes = |buffers: Buffers| {
        let mut bytes = vec![0; sectors * 512];
        buffers.read(0, &mut bytes).unwrap();
        bytes
    };
    done.into_iter().map(|done| done.result.map(|()| bytes(done.buffers.unwrap()))).collect()
}

#[test]
fn writes_of_one_batch_land_where_they_belong() {
    let (_directory, _path, image) = image(Model::HostManaged);
    let mut worker = Worker::new(Arc::clone(&image) as _, 256);
    let mut rng = Rng::new(5);
    for life in 0..4u64 {
        // Three zones in turn, so that some follow what was written before and some do not; then one alone.
        let places: Vec<u64> = (0..60)
            .map(|i| ZONE * (3 + i % 3) + i / 3 * 7)
            .chain((0..45).map(|i| ZONE * 7 + i * 7))
            .collect();
        for (tag, at) in (0u64..).zip(&places) {
            worker.submit_write(tag, *at, &pattern(life * 1000 + tag, 7 * 512), &mut rng);
        }
        let done = worker.finish();
        assert_eq!(done.len(), places.len());
        done.into_iter().for_each(|done| done.result.unwrap());
        for zone in [3, 4, 5, 7] {
            let end = Sector(if zone == 7 { 315 } else { 140 });
            image.record(ZoneId(zone), Snapshot::new(Condition::ImplicitOpen, end));
        }
        let read = read_all(&mut worker, &places, 7, &mut rng);
        for (tag, data) in (0u64..).zip(read) {
            assert!(
                data.unwrap() == pattern(life * 1000 + tag, 7 * 512),
                "life {life}, write {tag}"
            );
        }
        for zone in [3, 4, 5, 7] {
            image.record(ZoneId(zone), Snapshot::EMPTY);
        }
    }
}

#[test]
fn what_is_not_cached_is_read_from_the_disk() {
    let (_directory, path, image) = image(Model::None);
    let mut worker = Worker::new(Arc::clone(&image) as _, 64);
    let mut rng = Rng::new(6);
    let places: Vec<u64> = (0..64).map(|i| i * 200).collect();
    for round in 0..3u64 {
        for (tag, at) in (0u64..).zip(&places) {
            worker.write(*at, &pattern(round * 100 + tag, 9 * 512), &mut rng).unwrap();
        }
        worker.one(0, Op::Flush).unwrap();
        // Known to be cached, and then no more: what is believed is never more than that.
        read_all(&mut worker, &places, 9, &mut rng);
        let file = FileOptions::new().read(true).open(&path).unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        for (tag, data) in (0u64..).zip(read_all(&mut worker, &places, 9, &mut rng)) {
            assert!(data.unwrap() == pattern(round * 100 + tag, 9 * 512), "round {round}, {tag}");
        }
    }
}

#[test]
fn an_image_cut_short_fails_its_reads_and_not_its_server() {
    let (_directory, path, image) = image(Model::None);
    let mut worker = Worker::new(Arc::clone(&image) as _, 8);
    let mut rng = Rng::new(7);
    let last = 384 * 39;
    worker.write(0, &pattern(1, 4096), &mut rng).unwrap();
    worker.write(last, &pattern(2, 4096), &mut rng).unwrap();
    assert!(worker.read(last, 8, &mut rng).unwrap() == pattern(2, 4096));
    let file = FileOptions::new().write(true).open(&path).unwrap();
    let len = file.metadata().unwrap().len();
    file.set_len(len / 2).unwrap();
    let gone = worker.read(last, 8, &mut rng).map(|data| data.len());
    assert!(matches!(gone, Err(Failure::Short { .. })), "{gone:?}");
    assert!(worker.read(0, 8, &mut rng).unwrap() == pattern(1, 4096));
    // Nor is it made longer again: what was lost would come back as zeroes.
    let failure = worker.write(last, &pattern(3, 4096), &mut rng).unwrap_err();
    assert!(matches!(failure, Failure::Poisoned), "{failure:?}");
    assert!(image.has_failed() && image.has_lost_part());
    assert_eq!(file.metadata().unwrap().len(), len / 2);
}
