//! What two queues do to each other: 4 KiB requests, in thousands a second, of one queue alone and of each
//! of two.
//!
//! `cargo run --release -p zvb-device --example lanes [FOLDER]`
//!
//! Each thread is guest and device of its queue at once: it makes 32 requests available, takes turns until
//! they are answered, and begins anew. So two queues take two processors and no more, and what one loses
//! beside the other it loses to locks, the kernel and the memory that they share. A disk in memory, and,
//! with a folder, an image in it.

use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Barrier};
use std::time::Instant;

use zvb_device::{Device, DeviceOptions, Session, Wake};
use zvb_ring::{Buffers, DeviceQueue, GuestMemory, HeapMemory, QueueConfig};
use zvb_storage::{CreateOptions, Image, Memory, OpenOptions, Volume};
use zvb_wire::zerocopy::IntoBytes;
use zvb_wire::{Features, Model, RequestHeader, RequestType, Sector};
use zvb_zones::GeometrySpec;

const ZONE: u64 = 64 << 11;
const BLOCK: u64 = 4096;
const DEPTH: u16 = 32;
const SIZE: u16 = 128;
const DESCRIPTORS: u64 = 0;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const REQUESTS: u64 = 0x1_0000;
/// Header, data and reply of a request.
const EACH: u64 = 0x2000;
/// Batches of one measurement: two queues fill a zone.
const BATCHES: u64 = (ZONE * 512 / BLOCK) / DEPTH as u64 / 2;
const ROUNDS: usize = 15;

type Failed = Box<dyn std::error::Error + Send + Sync>;

struct NoWake;
impl Wake for NoWake {
    fn wake(&self) {}
}

/// A queue, from both sides.
struct Both {
    lane: zvb_device::Lane,
    memory: Rc<HeapMemory>,
    available: u16,
    appends: bool,
}

impl Both {
    fn new(session: &Arc<Session>, index: u16) -> Result<Self, Failed> {
        let memory = Rc::new(HeapMemory::new(0, 1 << 20));
        let config = QueueConfig {
            size: SIZE,
            descriptors: DESCRIPTORS,
            available: AVAILABLE,
            used: USED,
            event_index: false,
            indirect: false,
            next_available: 0,
            next_used: 0,
        };
        let queue = DeviceQueue::new(Rc::clone(&memory) as Rc<dyn GuestMemory>, config)?;
        let lane = session.lane(index, queue, Arc::new(NoWake))?;
        Ok(Self { lane, memory, available: 0, appends: false })
    }

    fn at(&self, address: u64, len: usize) -> Buffers {
        let mut buffers = Buffers::new(Rc::clone(&self.memory) as Rc<dyn GuestMemory>, Vec::new());
        assert!(buffers.push(address, len as u32), "inside the memory");
        buffers
    }

    fn poke(&self, address: u64, bytes: &[u8]) -> Result<(), Failed> {
        Ok(self.at(address, bytes.len()).write(0, bytes)?)
    }

    /// Every request is of this kind from now on. Descriptors go header, data, reply.
    fn prepare(&mut self, kind: RequestType, at: impl Fn(u64) -> Sector) -> Result<(), Failed> {
        let reads = kind == RequestType::IN;
        self.appends = kind == RequestType::ZONE_APPEND;
        for request in 0..u64::from(DEPTH) {
            let place = REQUESTS + request * EACH;
            let header = RequestHeader::new(kind, at(request));
            self.poke(place, header.as_bytes())?;
            let reply = if kind == RequestType::ZONE_APPEND { 9 } else { 1 };
            let data = (place + 0x1000, BLOCK as u32, if reads { 3 } else { 1 });
            let reply = (place + 0x100, reply, 2);
            let pieces = match kind {
                RequestType::ZONE_RESET => [(place, 16, 1u16), reply, reply],
                _ => [(place, 16, 1), data, reply],
            };
            for (number, (address, len, flags)) in (request * 3..).zip(pieces) {
                let mut descriptor = address.to_le_bytes().to_vec();
                descriptor.extend(len.to_le_bytes());
                descriptor.extend(flags.to_le_bytes());
                descriptor.extend((number as u16 + 1).to_le_bytes());
                self.poke(DESCRIPTORS + number * 16, &descriptor)?;
            }
        }
        Ok(())
    }

    /// `count` requests, answered.
    fn batch(&mut self, count: u16) -> Result<(), Failed> {
        for request in 0..count {
            let slot = u64::from(self.available.wrapping_add(request) % SIZE);
            self.poke(AVAILABLE + 4 + 2 * slot, &(request * 3).to_le_bytes())?;
        }
        self.available = self.available.wrapping_add(count);
        self.poke(AVAILABLE + 2, &self.available.to_le_bytes())?;
        let used = self.at(USED + 2, 2);
        let mut bytes = [0; 2];
        while bytes != self.available.to_le_bytes() {
            let _ = self.lane.turn(true);
            used.read(0, &mut bytes)?;
        }
        // That of the last request, behind the sector of an append.
        let mut reply = [0; 9];
        self.at(REQUESTS + u64::from(count - 1) * EACH + 0x100, 9).read(0, &mut reply)?;
        let status = if self.appends { reply[8] } else { reply[0] };
        if status == 0 { Ok(()) } else { Err(format!("status {status}").into()) }
    }

    fn one(&mut self, kind: RequestType, at: Sector) -> Result<(), Failed> {
        self.prepare(kind, |_| at)?;
        self.batch(1)
    }
}

#[derive(Clone, Copy)]
enum Load {
    Reads,
    AppendsApart,
    AppendsTogether,
}

/// Thousands a second of each of `queues` queues.
fn measure(
    session: &Arc<Session>,
    queues: u16,
    load: Load,
    round: u64,
) -> Result<Vec<f64>, Failed> {
    let barrier = Barrier::new(usize::from(queues));
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..queues)
            .map(|index| {
                let barrier = &barrier;
                scope.spawn(move || -> Result<f64, Failed> {
                    let mut both = Both::new(session, index)?;
                    let zone = match load {
                        Load::AppendsTogether => round % 4 * 2,
                        _ => round % 4 * 2 + u64::from(index),
                    };
                    let start = Sector(zone * ZONE);
                    let resets = match load {
                        Load::Reads => false,
                        Load::AppendsApart => true,
                        Load::AppendsTogether => index == 0,
                    };
                    if resets {
                        both.one(RequestType::ZONE_RESET, start)?;
                    }
                    match load {
                        Load::Reads => {
                            both.prepare(RequestType::IN, |i| {
                                Sector(start.0 + i * 7919 % 16_000 * 8)
                            })?;
                        }
                        _ => both.prepare(RequestType::ZONE_APPEND, |_| start)?,
                    }
                    barrier.wait();
                    let begun = Instant::now();
                    for _ in 0..BATCHES {
                        both.batch(DEPTH)?;
                    }
                    let took = begun.elapsed().as_secs_f64();
                    barrier.wait();
                    Ok((BATCHES * u64::from(DEPTH)) as f64 / took / 1e3)
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err("panicked".into()))).collect()
    })
}

fn all(name: &str, volume: Arc<dyn Volume>) -> Result<(), Failed> {
    let device = Device::new(volume, DeviceOptions { queues: 2, ..DeviceOptions::default() })?;
    let session = device.session();
    session.accept(device.features() & Features::all())?;
    for (what, load) in [
        ("appends to a zone each", Load::AppendsApart),
        ("appends to the same zone", Load::AppendsTogether),
        ("reads of 32 blocks", Load::Reads),
    ] {
        let mut ratios = Vec::new();
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS as u64 + 4 {
            let one = measure(&session, 1, load, round)?[0];
            let two = measure(&session, 2, load, round)?;
            let each = (two[0] + two[1]) / 2.0;
            // The first of each zone writes to fresh memory.
            if round >= 4 {
                alone.push(one);
                beside.push(each);
                ratios.push(each / one);
            }
        }
        for list in [&mut alone, &mut beside, &mut ratios] {
            list.sort_by(f64::total_cmp);
        }
        println!(
            "{name:<8} {what:<26} alone {:>7.0}  each of two {:>7.0}  ratio {:.2} ({:.2}, {:.2})",
            alone[ROUNDS / 2],
            beside[ROUNDS / 2],
            ratios[ROUNDS / 2],
            ratios[0],
            ratios[ROUNDS - 1]
        );
    }
    Ok(())
}

fn main() -> Result<(), Failed> {
    let spec = GeometrySpec {
        model: Model::HostManaged,
        capacity: Sector(8 * ZONE),
        zone_size: Sector(ZONE),
        zone_capacity: Sector(ZONE),
        conventional: 0,
        max_open: 0,
        max_active: 0,
        max_append: Sector(1024),
        write_granularity: 4096,
    };
    println!("thousands a second, medians of {ROUNDS}; the ratio with (least, most)");
    all("memory", Arc::new(Memory::new(spec.capacity, 4096, Some(spec))?))?;
    if let Some(folder) = std::env::args().nth(1) {
        let path = Path::new(&folder).join("lanes.zvb");
        let options = CreateOptions {
            capacity: spec.capacity,
            block_size: 4096,
            zones: Some(spec),
            id: None,
            uuid: None,
            force: true,
        };
        Image::create(&path, &options)?;
        all("image", Arc::new(Image::open(&path, &OpenOptions::default())?))?;
        std::fs::remove_file(&path)?;
    }
    Ok(())
}
