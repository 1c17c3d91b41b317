//! A machine that is switched on: a driver on a device on an image on a disk.

use std::sync::Arc;

use zvb_driver::{Disk as Driver, Features, Options};
use zvb_storage::{CommitBy, EngineKind, Image, OpenOptions, Recovery, Refusal, Volume};

use crate::ledger::{Found, Ledger};
use crate::load::look;
use crate::machine::{Link, LinkError, Machine};
use crate::medium::{Disk, Errors};
use crate::memory::Memory;
use crate::rng::Rng;
use crate::setup::Setup;
use crate::volume::Shuffled;

/// What goes wrong when a machine is switched on, or looked at.
#[derive(Debug, thiserror::Error)]
pub enum RigError {
    /// The image is refused.
    #[error("the image does not open: {0:?}")]
    Open(Refusal),
    /// There is no device over it.
    #[error("there is no device over the image: {0:?}")]
    Device(zvb_device::DeviceError),
    /// The driver does not take the device.
    #[error("the driver does not take the device: {0:?}")]
    Probe(zvb_driver::ProbeError<LinkError>),
    /// The zones, or what is in them, can not be read.
    #[error("reading failed: {0:?}; the device says {1:?}")]
    Read(zvb_driver::Error<LinkError>, Vec<String>),
    /// More zones are active than may be.
    #[error("{active} zones are active, and {limit} may be")]
    Active {
        /// How many are.
        active: u32,
        /// How many may be.
        limit: u32,
    },
}

/// A machine that is switched on.
pub struct Rig {
    /// The driver; first, as it is to be dropped before the rest.
    pub driver: Driver<Link, Memory>,
    /// To the device.
    pub link: Link,
    /// What the device lies on.
    pub volume: Arc<Shuffled>,
    /// How it was found.
    pub recovery: Recovery,
    /// The medium.
    pub disk: Disk,
}

impl Rig {
    /// Opens the image on `disk` in boot `boot`, and brings the driver up; `errors` while it is opened.
    pub fn start(
        disk: Disk,
        boot: [u8; 16],
        setup: &Setup,
        rng: &mut Rng,
        errors: Errors,
    ) -> Result<Self, RigError> {
        let options = OpenOptions {
            read_only: false,
            engine: EngineKind::Sync,
            direct: false,
            commit: CommitBy::Caller,
            boot: Some(boot),
        };
        disk.lock().errors = errors;
        let opened = Image::open_on(disk.medium(), &options);
        disk.lock().errors = Errors::default();
        let image = Arc::new(opened.map_err(RigError::Open)?);
        let recovery = image.recovery();
        let volume = Arc::new(Shuffled::new(image, disk.clone(), rng.fork()));
        let memory = Memory::default();
        let machine =
            Machine::new(Arc::clone(&volume) as Arc<dyn Volume>, setup.queues, memory.clone())
                .map_err(RigError::Device)?;
        let link = Link::new(machine);
        let mut features = Features::all();
        if setup.no_flush {
            features -= Features::FLUSH | Features::CONFIG_WCE;
        }
        let options =
            Options { queues: setup.queues, queue_size: 32, features, ..Options::default() };
        let driver = Driver::probe(link.clone(), memory, &options).map_err(RigError::Probe)?;
        Ok(Self { driver, link, volume, recovery, disk })
    }

    /// What the zones are, by the driver. Nothing may be in flight.
    pub fn look(&mut self, ledger: &Ledger) -> Result<Vec<Found>, RigError> {
        let faults = self.link.faults();
        let found = look(&mut self.driver, ledger);
        let found = found.map_err(|error| RigError::Read(error, faults.take()))?;
        let limit = self.driver.info().zoned.map_or(0, |zoned| zoned.max_active);
        let active = found.iter().filter(|zone| zone.condition.is_active()).count() as u32;
        if limit != 0 && active > limit {
            return Err(RigError::Active { active, limit });
        }
        Ok(found)
    }
}
