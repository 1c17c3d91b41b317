//! A machine in one thread: a driver's way to a device whose turns are taken when somebody waits.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use zvb_device::{Device, DeviceError, DeviceOptions, Lane, Observer, Session, Wake};
use zvb_driver::{Features, QueueLayout, Transport};
use zvb_ring::{DeviceQueue, QueueConfig, RingError};
use zvb_storage::{Failure, GrowError, Volume};
use zvb_wire::zerocopy::IntoBytes;
use zvb_wire::{Config, DeviceStatus, RequestType, Sector};

use crate::memory::Memory;

/// Turns in which nothing happens before that counts as never.
const PATIENCE: u32 = 2000;
const QUEUE_SIZE: u16 = 64;

/// What goes wrong between driver and device: nothing, unless one of them is wrong.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Features that the device does not take.
    #[error("the device takes no such features")]
    Features(#[source] zvb_device::FeatureRefusal),
    /// A ring that is none.
    #[error("the device takes no such queue")]
    Queue(#[source] zvb_ring::SetupError),
    /// A lane that the device does not start.
    #[error("the device does not start the queue")]
    Lane(#[source] zvb_device::LaneError),
    /// Bytes of the configuration that can not be written, or read.
    #[error("no such configuration")]
    Config,
    /// The device does nothing, and has something to do.
    #[error("the device does nothing any more")]
    Silence,
}

/// Notes what the device says of its medium.
#[derive(Default)]
pub struct Faults(Mutex<Vec<String>>);

impl Faults {
    /// What was said since the last call.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, what: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }
}

impl Observer for Faults {
    fn guest_fault(&self, queue: u16, fault: &zvb_device::GuestFault) {
        self.note(format!("queue {queue}: {fault}"));
    }

    fn queue_retired(&self, queue: u16, why: &RingError) {
        self.note(format!("queue {queue} is retired: {why}"));
    }

    fn medium_fault(&self, queue: u16, request: RequestType, at: Sector, why: &Failure) {
        self.note(format!("queue {queue}: {request:?} at {at}: {why:?}"));
    }
}

struct Asleep;

impl Wake for Asleep {
    fn wake(&self) {}
}

/// A device, its lanes, and the memory of its guest.
pub struct Machine {
    device: Arc<Device>,
    session: Arc<Session>,
    lanes: Vec<Option<Lane>>,
    status: DeviceStatus,
    memory: Memory,
    /// What the device complained of.
    pub faults: Arc<Faults>,
}

/// A driver's way to a [`Machine`].
#[derive(Clone)]
pub struct Link(Rc<RefCell<Machine>>);

impl Machine {
    /// A device over `volume` for a guest with `memory`.
    pub fn new(volume: Arc<dyn Volume>, queues: u16, memory: Memory) -> Result<Self, DeviceError> {
        let faults = Arc::<Faults>::default();
        let options = DeviceOptions {
            queues,
            max_queue_size: QUEUE_SIZE,
            observer: Arc::clone(&faults) as Arc<dyn Observer>,
            ..DeviceOptions::default()
        };
        let device = Device::new(volume, options)?;
        let session = device.session();
        let lanes = (0..queues).map(|_| None).collect();
        Ok(Self { device, session, lanes, status: DeviceStatus::empty(), memory, faults })
    }

    /// One turn of one lane. True when something happened.
    fn turn(&mut self, lane: usize) -> bool {
        let Some(Some(lane)) = self.lanes.get_mut(lane) else { return false };
        let turn = lane.turn(true);
        turn.progress || lane.in_flight() > 0
    }
}

impl Link {
    /// To `machine`.
    pub fn new(machine: Machine) -> Self {
        Self(Rc::new(RefCell::new(machine)))
    }

    /// One turn of one lane.
    pub fn turn(&self, lane: usize) {
        self.0.borrow_mut().turn(lane);
    }

    /// Makes the disk larger under its guest.
    pub fn resize(&self, capacity: Sector) -> Result<(), GrowError> {
        let device = Arc::clone(&self.0.borrow().device);
        device.resize(capacity)
    }

    /// Has the device finish what it has, in order that it can be dropped.
    pub fn drain(&self) -> Result<(), LinkError> {
        let mut machine = self.0.borrow_mut();
        for _ in 0..PATIENCE {
            let mut busy = false;
            for lane in machine.lanes.iter_mut().flatten() {
                let _ = lane.turn(false);
                busy |= lane.in_flight() > 0;
            }
            if !busy {
                return Ok(());
            }
        }
        // Not dropped: a lane with requests in flight must not be.
        machine.lanes.drain(..).for_each(std::mem::forget);
        Err(LinkError::Silence)
    }

    /// What the device complained of.
    pub fn faults(&self) -> Arc<Faults> {
        Arc::clone(&self.0.borrow().faults)
    }
}

impl Transport for Link {
    type Error = LinkError;

    fn reset(&mut self) -> Result<(), LinkError> {
        self.drain()?;
        let mut machine = self.0.borrow_mut();
        machine.lanes.iter_mut().for_each(|lane| *lane = None);
        machine.session = machine.device.session();
        machine.status = DeviceStatus::empty();
        Ok(())
    }

    fn status(&mut self) -> Result<DeviceStatus, LinkError> {
        Ok(self.0.borrow().status)
    }

    fn set_status(&mut self, status: DeviceStatus) -> Result<(), LinkError> {
        self.0.borrow_mut().status = status;
        Ok(())
    }

    fn device_features(&mut self) -> Result<Features, LinkError> {
        Ok(self.0.borrow().device.features())
    }

    fn set_driver_features(&mut self, features: Features) -> Result<(), LinkError> {
        self.0.borrow().session.accept(features).map_err(LinkError::Features)
    }

    fn config_generation(&mut self) -> Result<u32, LinkError> {
        Ok(self.0.borrow().device.config_generation())
    }

    fn config_len(&mut self) -> Result<u32, LinkError> {
        Ok(size_of::<Config>() as u32)
    }

    fn read_config(&mut self, offset: u32, into: &mut [u8]) -> Result<(), LinkError> {
        let config = self.0.borrow().session.config();
        let from = config.as_bytes().get(offset as usize..).and_then(|b| b.get(..into.len()));
        into.copy_from_slice(from.ok_or(LinkError::Config)?);
        Ok(())
    }

    fn write_config(&mut self, offset: u32, from: &[u8]) -> Result<(), LinkError> {
        self.0.borrow().session.write_config(offset, from).map_err(|_| LinkError::Config)
    }

    fn max_queues(&mut self) -> Result<u16, LinkError> {
        Ok(self.0.borrow().device.queues())
    }

    fn max_queue_size(&mut self, _: u16) -> Result<u16, LinkError> {
        Ok(QUEUE_SIZE)
    }

    fn set_up_queue(&mut self, index: u16, layout: &QueueLayout) -> Result<(), LinkError> {
        let mut machine = self.0.borrow_mut();
        let features = machine.session.features();
        let config = QueueConfig {
            size: layout.size,
            descriptors: layout.descriptors,
            available: layout.available,
            used: layout.used,
            event_index: features.contains(Features::EVENT_IDX),
            indirect: features.contains(Features::INDIRECT_DESC),
            next_available: 0,
            next_used: 0,
        };
        let memory = Rc::new(machine.memory.clone());
        let queue = DeviceQueue::new(memory, config).map_err(LinkError::Queue)?;
        let lane = machine.session.lane(index, queue, Arc::new(Asleep));
        let lane = lane.map_err(LinkError::Lane)?;
        match machine.lanes.get_mut(usize::from(index)) {
            Some(place) => *place = Some(lane),
            None => return Err(LinkError::Config),
        }
        Ok(())
    }

    fn notify(&self, _: u16) -> Result<(), LinkError> {
        Ok(())
    }

    fn wait(&self, index: u16, _: Option<u32>) -> Result<(), LinkError> {
        let mut machine = self.0.borrow_mut();
        for _ in 0..PATIENCE {
            for lane in 0..machine.lanes.len() {
                machine.turn(lane);
            }
            // Spurious returns are fine, and most turns are none.
            let idle = machine.lanes.get(usize::from(index)).and_then(Option::as_ref);
            if idle.is_none_or(|lane| lane.in_flight() == 0) {
                return Ok(());
            }
        }
        Err(LinkError::Silence)
    }
}
