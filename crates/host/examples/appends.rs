//! Appends from several queues to one zone, each of several blocks that say which append they are of; from one queue,
//! each so many-th is an ordinary write behind those in flight. Then all is read back: each block stands at the sector
//! that its append was answered with, and the write pointer is behind the last. The zone is reset first.
//!
//! `appends SOCKET ZONE COUNT DEPTH QUEUES WRITES`

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;

use zvb_driver::{Answer, Completion, Disk, Options, Request};
use zvb_host::client::{self, SharedMemory, VhostUser};
use zvb_wire::{SECTOR_BYTES, Sector};

type Failed = Box<dyn Error>;

/// What stands where, by its first sector: who wrote it, and how many blocks.
#[derive(Default)]
struct Books {
    written: BTreeMap<u64, (u32, usize)>,
    /// Where ordinary writes go.
    writes: BTreeMap<u32, u64>,
    failed: u32,
    /// How many stand before one that was sent earlier, and had been answered.
    astray: u32,
}

fn main() -> Result<(), Failed> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, numbers @ ..] = arguments.as_slice() else { return Err("which socket?".into()) };
    let numbers: Vec<u32> = numbers.iter().map(|n| n.parse()).collect::<Result<_, _>>()?;
    let [zone, count, depth, queues, writes] = numbers[..] else {
        return Err("appends SOCKET ZONE COUNT DEPTH QUEUES WRITES".into());
    };
    let queues = u16::try_from(queues)?;
    let memory = SharedMemory::new(64 << 20)?;
    let options = client::Options::default();
    let transport = VhostUser::connect(&PathBuf::from(socket), memory.clone(), options)?;
    let options = Options { queues, queue_size: 256, ..Options::default() };
    let mut disk = Disk::probe(transport, memory, &options)?;
    let zoned = disk.info().zoned.ok_or("the disk has no zones")?;
    let block = zoned.write_granularity.max(disk.info().block_size) as usize;
    let start = Sector(u64::from(zone) * zoned.zone_size.0);
    disk.reset(start)?;

    let mut books = Books::default();
    let mut sent = 0;
    let mut end = start.0;
    while sent < count || (0..queues).any(|queue| disk.in_flight(queue) > 0) {
        for queue in 0..queues {
            while sent < count && disk.in_flight(queue) < depth as usize {
                let blocks = 1 + sent as usize % 3;
                let mut buffer = disk.buffer(blocks * block)?;
                fill(&mut buffer, block, sent);
                let request = match writes {
                    // Behind all that was sent: one queue is taken in order.
                    1.. if sent % writes == writes - 1 => {
                        books.writes.insert(sent, end);
                        Request::Write { at: Sector(end), buffer }
                    }
                    _ => Request::Append { zone: start, buffer },
                };
                disk.submit(queue, request).map_err(|rejected| rejected.error)?;
                sent += 1;
                end += (blocks * block) as u64 / SECTOR_BYTES;
            }
            disk.kick(queue)?;
            while let Some(completion) = disk.poll(queue)? {
                books.answered(completion, block)?;
            }
        }
    }

    let mut pointer = start.0;
    for (at, (who, blocks)) in &books.written {
        if *at != pointer {
            return Err(format!(
                "{who} is said to be at {at}, and those before it end at {pointer}"
            )
            .into());
        }
        let mut back = vec![0; blocks * block];
        disk.read(Sector(*at), &mut back)?;
        let mut expected = vec![0; blocks * block];
        fill(&mut expected, block, *who);
        if back != expected {
            return Err(format!("what stands at {at} is not of {who}").into());
        }
        pointer += (blocks * block) as u64 / SECTOR_BYTES;
    }
    let told = disk.zones()?[zone as usize].write_pointer.map_or(pointer, |pointer| pointer.0);
    if books.failed == 0 && told != pointer {
        return Err(format!("the pointer is at {told}, and the data ends at {pointer}").into());
    }
    let Books { written, failed, astray, .. } = books;
    println!("{} stand where it was said, {astray} out of turn; {failed} failed", written.len());
    Ok(())
}

impl Books {
    fn answered(
        &mut self,
        completion: Completion<SharedMemory>,
        block: usize,
    ) -> Result<(), Failed> {
        let buffer = completion.buffer.ok_or("a buffer is lost")?;
        let who = u32::from_le_bytes(buffer[..4].try_into()?);
        let at = match completion.result {
            Ok(Answer::Appended(at)) => at.0,
            Ok(_) => *self.writes.get(&who).ok_or("an append was answered without its sector")?,
            Err(_) => {
                self.failed += 1;
                return Ok(());
            }
        };
        let later = self.written.range(at..).any(|(_, (other, _))| *other < who);
        self.astray += u32::from(later);
        match self.written.insert(at, (who, buffer.len() / block)) {
            Some(_) => Err(format!("two are said to be at {at}").into()),
            None => Ok(()),
        }
    }
}

/// Makes `data` blocks that say that they are of `who`.
fn fill(data: &mut [u8], block: usize, who: u32) {
    for (number, block) in (0_u32..).zip(data.chunks_mut(block)) {
        for (place, word) in (0_u32..).zip(block.chunks_mut(4)) {
            let words = if place == 0 { who } else { who ^ number << 16 ^ place << 8 };
            word.copy_from_slice(&words.to_le_bytes());
        }
    }
}
