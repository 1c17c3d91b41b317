//! The device at hand: brought up with any features, sent any chain, and watched.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use zerocopy::FromZeros;
use zerocopy::IntoBytes;
use zvb_wire::{Config, DeviceStatus, Features};

use crate::Options;
use crate::link::Link;
use crate::outcome::{Checked, Stop, fail, skip};
use crate::raw::Area;
use crate::ring::{MAX_QUEUE_SIZE, QUEUE_BYTES, RawQueue, Written};

/// Queues that are ever set up.
const QUEUES: u16 = 4;
/// Where requests lie in the area, behind the queues.
pub(crate) const ARENA: usize = QUEUES as usize * QUEUE_BYTES;
/// Bytes for the requests that are in flight together.
const ARENA_BYTES: usize = 4 << 20;
/// The most data that one request is given, each way.
pub(crate) const DATA_BYTES: u64 = 1 << 20;
/// How long nothing must happen for "nothing happens".
pub(crate) const QUIET_MS: u32 = 50;
/// Fields of the configuration space: each is read whole (virtio 4.2.2.2).
const FIELDS: [usize; 36] = [
    8, 4, 4, 2, 1, 1, 4, 1, 1, 2, 4, 1, 1, 2, 4, 4, 4, 4, 4, 1, 1, 1, 1, 4, 4, 4, 4, 4, 4, 4, 4, 1,
    1, 1, 1, 0,
];

/// Features that the run negotiates when nothing else is said: those that change no rule that is tried.
const WANTED: Features = Features::VERSION_1
    .union(Features::ACCESS_PLATFORM)
    .union(Features::INDIRECT_DESC)
    .union(Features::SIZE_MAX)
    .union(Features::SEG_MAX)
    .union(Features::BLK_SIZE)
    .union(Features::TOPOLOGY)
    .union(Features::RO)
    .union(Features::FLUSH)
    .union(Features::CONFIG_WCE)
    .union(Features::WRITE_ZEROES)
    .union(Features::LIFETIME)
    .union(Features::SECURE_ERASE)
    .union(Features::ZONED)
    .union(Features::DISCARD);

/// A chain that the device has.
pub(crate) struct Flight {
    pub(crate) queue: u16,
    pub(crate) head: u16,
    /// The descriptors, where they are, as they were written.
    pub(crate) descriptors: Written,
    pub(crate) out_at: usize,
    pub(crate) out: Vec<u8>,
    pub(crate) in_at: usize,
    pub(crate) in_len: usize,
}

/// Something that broke a statement while another was tried.
struct Note {
    number: u16,
    expected: String,
    got: String,
}

/// The device, and what is known of it.
pub(crate) struct Rig<'a> {
    pub(crate) link: &'a mut dyn Link,
    pub(crate) options: &'a Options<'a>,
    pub(crate) area: Area,
    pub(crate) queues: Vec<RawQueue>,
    pub(crate) flights: Vec<Flight>,
    arena_used: usize,
    /// What was negotiated, from DRIVER_OK on.
    up: Option<Features>,
    /// What the device offers.
    pub(crate) offered: Features,
    /// The configuration space as it was before anything was negotiated; zeroes after its end.
    pub(crate) config: Config,
    /// Bytes of the configuration space that there are.
    pub(crate) config_len: u32,
    notes: Vec<Note>,
    /// Signals are held back on purpose.
    pub(crate) muted: bool,
    /// How long an answer is waited for, in milliseconds.
    pub(crate) patience_ms: u32,
}

impl<'a> Rig<'a> {
    /// Finds the device, and reads what it is.
    pub(crate) fn new(link: &'a mut dyn Link, options: &'a Options<'a>) -> Result<Self, String> {
        link.reconnect()?;
        link.reset()?;
        let area = new_area(link)?;
        let offered = link.device_features()?;
        let config_len = link.config_len()?;
        let mut rig = Self {
            link,
            options,
            area,
            queues: Vec::new(),
            flights: Vec::new(),
            arena_used: ARENA,
            up: None,
            offered,
            config: Config::new_zeroed(),
            config_len,
            notes: Vec::new(),
            muted: false,
            patience_ms: options.timeout_ms,
        };
        rig.area.set_quiet(true);
        rig.config = rig.read_config()?;
        Ok(rig)
    }

    /// After something went wrong: a device that is as good as new, or the reason why there is none.
    pub(crate) fn recover(&mut self) -> Result<(), String> {
        self.forget();
        if self.link.reset().is_ok() {
            self.area.set_quiet(true);
            return Ok(());
        }
        self.link.reconnect()?;
        self.link.reset()?;
        // The device may still have the old one.
        self.area = new_area(self.link)?;
        self.area.set_quiet(true);
        Ok(())
    }

    fn forget(&mut self) {
        self.up = None;
        self.queues.clear();
        self.flights.clear();
        self.arena_used = ARENA;
        self.muted = false;
        self.patience_ms = self.options.timeout_ms;
    }

    /// The whole configuration space, field by field, the same before and after.
    pub(crate) fn read_config(&mut self) -> Result<Config, String> {
        for _ in 0..8 {
            let before = self.link.config_generation()?;
            let mut config = Config::new_zeroed();
            let mut offset = 0usize;
            for len in FIELDS {
                let end = offset.saturating_add(len);
                if end <= self.config_len as usize
                    && let Some(field) = config.as_mut_bytes().get_mut(offset..end)
                    && !field.is_empty()
                {
                    self.link.read_config(offset as u32, field)?;
                }
                offset = end;
            }
            if self.link.config_generation()? == before {
                return Ok(config);
            }
        }
        Err("the configuration space never stands still".to_string())
    }

    /// Resets the device.
    pub(crate) fn stop(&mut self) -> Checked {
        self.forget();
        self.link.reset().map_err(Stop::Link)?;
        self.area.set_quiet(true);
        Ok(())
    }

    /// From reset to FEATURES_OK (virtio 3.1.1). False: the device refuses the features.
    pub(crate) fn negotiate(&mut self, features: Features) -> Checked<bool> {
        self.stop()?;
        let mut status = DeviceStatus::ACKNOWLEDGE;
        self.link.set_status(status).map_err(Stop::Link)?;
        status |= DeviceStatus::DRIVER;
        self.link.set_status(status).map_err(Stop::Link)?;
        if self.link.set_driver_features(features).is_err() {
            // A transport may say no for the device, as long as it goes on.
            self.link.status().map_err(Stop::Link)?;
            return Ok(false);
        }
        status |= DeviceStatus::FEATURES_OK;
        self.link.set_status(status).map_err(Stop::Link)?;
        let status = self.link.status().map_err(Stop::Link)?;
        Ok(status.contains(DeviceStatus::FEATURES_OK))
    }

    /// Sets up queues 0 to `count`, empty. The device must not be running.
    pub(crate) fn set_up_queues(&mut self, count: u16) -> Checked {
        self.queues.clear();
        for index in 0..count.min(QUEUES) {
            let most = self.link.max_queue_size(index).map_err(Stop::Link)?.min(MAX_QUEUE_SIZE);
            if most < 8 {
                return skip(format!("queue {index} has room for {most} descriptors"));
            }
            // The largest power of two.
            let size = 1 << most.ilog2();
            let base = usize::from(index) * QUEUE_BYTES;
            let queue = RawQueue::new(&self.area, size, base);
            self.area.set_quiet(false);
            self.link.set_up_queue(index, &queue.layout(&self.area)).map_err(Stop::Link)?;
            self.queues.push(queue);
        }
        Ok(())
    }

    /// Sets up queue 0 again, which the device was made to let go of: with fewer descriptors.
    pub(crate) fn set_up_anew(&mut self) -> Checked {
        let Self { area, queues, flights, link, .. } = self;
        flights.retain(|flight| flight.queue != 0);
        if let Some(queue) = queues.first_mut() {
            *queue = RawQueue::new(area, (queue.size / 2).max(4), 0);
            link.set_up_queue(0, &queue.layout(area)).map_err(Stop::Link)?;
        }
        Ok(())
    }

    /// Sets DRIVER_OK.
    pub(crate) fn go(&mut self, features: Features) -> Checked {
        let all = DeviceStatus::ACKNOWLEDGE
            | DeviceStatus::DRIVER
            | DeviceStatus::FEATURES_OK
            | DeviceStatus::DRIVER_OK;
        self.link.set_status(all).map_err(Stop::Link)?;
        self.up = Some(features);
        Ok(())
    }

    /// Brings the device up with `features` and one queue. False: it refuses them.
    pub(crate) fn up(&mut self, features: Features) -> Checked<bool> {
        if !self.negotiate(features)? {
            return Ok(false);
        }
        self.set_up_queues(1)?;
        self.go(features)?;
        Ok(true)
    }

    /// Brings the device up with features that a valid driver may choose, which it should not refuse.
    pub(crate) fn up_or_skip(&mut self, features: Features) -> Checked {
        if self.up(features)? { Ok(()) } else { skip("the device refuses this choice of features") }
    }

    /// The features that are negotiated when nothing else is said.
    pub(crate) fn usual(&self) -> Features {
        let mut features = self.offered & WANTED;
        // With a host-managed device a driver does not accept DISCARD (virtio 5.2.5).
        if self.offered.contains(Features::ZONED) && self.config.zoned.model == 1 {
            features -= Features::DISCARD;
        }
        features
    }

    /// A device that is up with the usual features.
    pub(crate) fn ready(&mut self) -> Checked {
        let usual = self.usual();
        if self.up == Some(usual) && self.flights.is_empty() {
            return Ok(());
        }
        if self.up(usual)? {
            return Ok(());
        }
        fail("FEATURES_OK with the features that a driver of zoned disks accepts", "it is refused")
    }

    /// What is negotiated now.
    pub(crate) fn negotiated(&self) -> Features {
        self.up.unwrap_or(Features::empty())
    }

    /// The next check begins with a reset.
    pub(crate) fn spoil(&mut self) {
        self.up = None;
    }

    /// Remembers that a statement was broken; the first time counts.
    pub(crate) fn note(&mut self, number: u16, expected: &str, got: String) {
        if !self.notes.iter().any(|note| note.number == number) {
            self.notes.push(Note { number, expected: expected.to_string(), got });
        }
    }

    /// Fails when `number` was broken at any time.
    pub(crate) fn no_note(&self, number: u16) -> Checked {
        match self.notes.iter().find(|note| note.number == number) {
            Some(note) => fail(note.expected.clone(), note.got.clone()),
            None => Ok(()),
        }
    }

    /// Takes `len` bytes of the arena, at `align` (a power of two) less `before` bytes.
    pub(crate) fn take(&mut self, len: usize, align: usize, before: usize) -> Checked<usize> {
        if self.flights.is_empty() && self.arena_used > ARENA + ARENA_BYTES / 2 {
            self.arena_used = ARENA;
        }
        let at = self
            .arena_used
            .checked_add(before)
            .and_then(|at| at.checked_next_multiple_of(align))
            .and_then(|at| at.checked_sub(before));
        let end = at.and_then(|at| at.checked_add(len));
        match (at, end) {
            (Some(at), Some(end)) if end <= ARENA + ARENA_BYTES => {
                self.arena_used = end;
                Ok(at)
            }
            _ => skip("a request is larger than this run sends"),
        }
    }

    /// True when the device says nothing on queue `index` for [`QUIET_MS`].
    pub(crate) fn is_quiet(&mut self, index: u16) -> bool {
        // A transport may return for no reason, but hardly three times in a row.
        (0..3).any(|_| self.link.wait(index, QUIET_MS).is_err())
    }
}

fn new_area(link: &dyn Link) -> Result<Area, String> {
    let none = "there is no memory left that the device can reach";
    link.area(ARENA + ARENA_BYTES).ok_or_else(|| none.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_the_whole_configuration_space() {
        assert_eq!(FIELDS.iter().sum::<usize>(), Config::BYTES as usize);
    }
}
