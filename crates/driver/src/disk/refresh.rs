//! A disk that becomes another while it is driven: looked at again.

use alloc::vec::Vec;

use zvb_wire::{DeviceStatus, Features, Model, Sector};

use super::Disk;
use crate::blocking::all;
use crate::error::{Error, Fault, ProbeError, RequestError};
use crate::info::{Checks, Info};
use crate::probe;
use crate::transport::{Dma, Transport};
use crate::zone::Zone;

/// How often in a row a disk may have become another while it was looked at.
const REFRESH_ATTEMPTS: u32 = 8;

impl<T: Transport, D: Dma> Disk<T, D> {
    /// Makes the map of the zones what the device says of them.
    pub(super) fn look_at_zones(&mut self) -> Result<(), ProbeError<T::Error>> {
        let count = match (self.checks, &self.info.zoned) {
            (Checks::Full, Some(zoned)) => zoned.zone_count,
            _ => return Ok(()),
        };
        self.zones.resize(count).map_err(|_| ProbeError::ZoneMap(count))?;
        // The answers go by the map on their way.
        let told = self
            .first()
            .map_err(Error::Invalid)
            .and_then(|mut queue| queue.report(Sector::ZERO, count, |_| {}));
        told.map(|_| ()).map_err(probe_error)
    }

    /// True when the configuration is not the one that was last looked at: time for a
    /// [`refresh`](Self::refresh). A device whose configuration changes notifies its driver, and
    /// [`wait`](Self::wait) returns; it does so as well when it needs a reset. Always false where the
    /// transport can not tell.
    pub fn config_changed(&mut self) -> Result<bool, Error<T::Error>> {
        let generation = self.transport.config_generation().map_err(Error::Transport)?;
        Ok(generation != self.generation)
    }

    /// Looks at the device again, as after a configuration change: at its capacity, its cache mode (a
    /// SHOULD of virtio 5.2.6.1), and what [`Checks::Full`] needs to know of its zones. True when
    /// something other than the zones changed. Requests in flight stay what they are.
    ///
    /// When its configuration makes no sense now, what it said before is kept, and the error tells. When
    /// only its report of the zones does not, the new configuration holds; writes to zones of which
    /// nothing is known are left to the device to judge. When it says that it needs a reset, all queues
    /// are broken ([`Fault::NeedsReset`]).
    pub fn refresh(&mut self) -> Result<bool, ProbeError<T::Error>> {
        let status = self.transport.status().map_err(ProbeError::Transport)?;
        let broken = status.contains(DeviceStatus::NEEDS_RESET);
        if broken {
            self.queues.iter_mut().for_each(|queue| queue.fail(&self.zones, Fault::NeedsReset));
        }
        let mut changed = false;
        for attempt in 1.. {
            changed |= self.read_config()?;
            if broken {
                break;
            }
            match self.look_at_zones() {
                // What was reported is of the disk as it has become since.
                Err(ProbeError::Zones(_))
                    if attempt < REFRESH_ATTEMPTS
                        && self.config_changed().map_err(probe_error)? => {}
                other => {
                    other?;
                    break;
                }
            }
        }
        Ok(changed)
    }

    /// Reads the configuration again. True when it changed.
    fn read_config(&mut self) -> Result<bool, ProbeError<T::Error>> {
        let features = self.info.features;
        let (config, generation) = probe::read_config(&mut self.transport, features)?;
        // Also of one that makes no sense: it has been looked at.
        self.generation = generation;
        if features.contains(Features::ZONED) {
            let model = config.zoned.model;
            Model::try_from(model).map_err(|_| ProbeError::UnknownModel(model))?;
        }
        let mut info = Info::new(&config, features, self.info.queues, self.info.queue_size)?;
        same_zones(&self.info, &info)?;
        info.keep_limits(&self.info);
        let changed = info != self.info;
        self.info = info;
        Ok(changed)
    }

    /// [`Queue::report`](crate::Queue::report) on queue 0. When the answer can not be true of the disk as it was last looked at,
    /// and its configuration has changed since, there is a [`refresh`](Self::refresh) on the way, and the
    /// rest is of the disk as it has become.
    pub fn report(
        &mut self,
        from: Sector,
        max: u32,
        mut each: impl FnMut(Zone),
    ) -> Result<u32, Error<T::Error>> {
        let (mut next, mut told) = (from, 0);
        for _ in 1..REFRESH_ATTEMPTS {
            let answer = self.first()?.report(next, max - told, |zone| {
                next = Sector(zone.start.0.saturating_add(zone.len.0));
                told += 1;
                each(zone);
            });
            match answer {
                Err(Error::Request(RequestError::Lie(_))) if self.config_changed()? => {}
                other => return other.map(|_| told),
            }
            match self.refresh() {
                // Where it makes no sense now, asking again tells why.
                Ok(_) | Err(ProbeError::Zones(_)) => {}
                Err(ProbeError::Transport(error)) => return Err(Error::Transport(error)),
                Err(_) => break,
            }
        }
        self.first()?.report(next, max - told, each).map(|rest| told + rest)
    }

    /// All zones of the disk, as [`report`](Self::report) tells of them.
    pub fn zones(&mut self) -> Result<Vec<Zone>, Error<T::Error>> {
        all(|each| self.report(Sector::ZERO, u32::MAX, each))
    }
}

/// What of a probe or a refresh failed.
fn probe_error<E: core::error::Error>(error: Error<E>) -> ProbeError<E> {
    match error {
        Error::Transport(error) => ProbeError::Transport(error),
        Error::NoMemory(error) => ProbeError::NoMemory(error),
        error => ProbeError::Zones(error),
    }
}

/// A disk in use can get zones or lose them; what a zone is stays what it was.
fn same_zones<E: core::error::Error>(before: &Info, after: &Info) -> Result<(), ProbeError<E>> {
    let of =
        |info: &Info| info.zoned.map_or((Model::None, Sector::ZERO), |z| (z.model, z.zone_size));
    match (of(before), of(after)) {
        (before, after) if before.0 != after.0 => {
            Err(ProbeError::ModelChanged { before: before.0 as u8, after: after.0 as u8 })
        }
        (before, after) if before.1 != after.1 => {
            Err(ProbeError::ZoneSizeChanged { before: before.1, after: after.1 })
        }
        _ => Ok(()),
    }
}
