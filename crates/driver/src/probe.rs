//! From a device that nobody drives to one that this driver does (virtio 3.1.1).

use zvb_wire::{Config, DeviceStatus, Features, Model};

use crate::error::ProbeError;
use crate::info::{HostAware, Options, SUPPORTED, TRANSPORTS};
use crate::transport::Transport;

/// How often the configuration is read again because it changed under the reader.
const CONFIG_ATTEMPTS: u32 = 16;
/// Where the zone model is, in bytes.
const MODEL: (usize, usize) = (92, 1);

/// The fields that this driver reads, in bytes from the start, and what makes each of them exist
/// (virtio 5.2.4; a MUST of 2.5.1). No feature: always there.
const FIELDS: [(Features, usize, usize); 21] = [
    (Features::empty(), 0, 8),
    (Features::SIZE_MAX, 8, 4),
    (Features::SEG_MAX, 12, 4),
    (Features::BLK_SIZE, 20, 4),
    (Features::CONFIG_WCE, 32, 1),
    (Features::MQ, 34, 2),
    (Features::DISCARD, 36, 4),
    (Features::DISCARD, 40, 4),
    (Features::DISCARD, 44, 4),
    (Features::WRITE_ZEROES, 48, 4),
    (Features::WRITE_ZEROES, 52, 4),
    (Features::WRITE_ZEROES, 56, 1),
    (Features::SECURE_ERASE, 60, 4),
    (Features::SECURE_ERASE, 64, 4),
    (Features::SECURE_ERASE, 68, 4),
    (Features::ZONED, 72, 4),
    (Features::ZONED, 76, 4),
    (Features::ZONED, 80, 4),
    (Features::ZONED, 84, 4),
    (Features::ZONED, 88, 4),
    (Features::ZONED, MODEL.0, MODEL.1),
];

/// Resets the device and agrees with it on features. What comes back is what was agreed on, and the
/// configuration that goes with it and its generation; FEATURES_OK is set, DRIVER_OK is not.
pub(crate) fn negotiate<T: Transport>(
    transport: &mut T,
    options: &Options,
) -> Result<(Features, Config, u32), ProbeError<T::Error>> {
    let mut status = DeviceStatus::ACKNOWLEDGE;
    transport.reset().map_err(ProbeError::Transport)?;
    transport.set_status(status).map_err(ProbeError::Transport)?;
    status |= DeviceStatus::DRIVER;
    transport.set_status(status).map_err(ProbeError::Transport)?;

    let offered = transport.device_features().map_err(ProbeError::Transport)?;
    // The model decides what may be accepted. No other field is read this early: `writeback` must not
    // be (virtio 5.2.5.1).
    let before = match offered.contains(Features::ZONED) {
        true => Some(read_model(transport)?),
        false => None,
    };
    let known = SUPPORTED | (transport.transport_features() & TRANSPORTS);
    let accepted = choose(offered, known, before, options)?;
    transport.set_driver_features(accepted).map_err(ProbeError::Transport)?;
    status |= DeviceStatus::FEATURES_OK;
    transport.set_status(status).map_err(ProbeError::Transport)?;
    if !transport.status().map_err(ProbeError::Transport)?.contains(DeviceStatus::FEATURES_OK) {
        return Err(ProbeError::FeaturesRefused { accepted });
    }

    let (config, generation) = read_config(transport, accepted)?;
    let after = config.zoned.model;
    match before {
        // What was refused or accepted because of the model must still be right.
        Some(before) if accepted.contains(Features::ZONED) && before != after => {
            Err(ProbeError::ModelChanged { before, after })
        }
        _ => Ok((accepted, config, generation)),
    }
}

/// What to accept of `offered` and `known` from a device of zone model `model`.
fn choose<E: core::error::Error>(
    offered: Features,
    known: Features,
    model: Option<u8>,
    options: &Options,
) -> Result<Features, ProbeError<E>> {
    if !offered.contains(Features::VERSION_1) {
        return Err(ProbeError::Legacy);
    }
    let mut wanted = (known & options.features) | Features::VERSION_1;
    if let Some(value) = model {
        match Model::try_from(value).map_err(|_| ProbeError::UnknownModel(value))? {
            Model::HostManaged if !wanted.contains(Features::ZONED) => {
                return Err(ProbeError::HostManagedRefused);
            }
            // A driver that takes a host-managed device MUST NOT accept DISCARD (virtio 5.2.5.1).
            Model::HostManaged => wanted.remove(Features::DISCARD),
            Model::HostAware if options.host_aware == HostAware::AsRegular => {
                wanted.remove(Features::ZONED);
            }
            Model::HostAware | Model::None => {}
        }
    }
    Ok(offered & wanted)
}

fn read_model<T: Transport>(transport: &mut T) -> Result<u8, ProbeError<T::Error>> {
    let needed = (MODEL.0 + MODEL.1) as u32;
    let got = transport.config_len().map_err(ProbeError::Transport)?;
    if got < needed {
        return Err(ProbeError::ConfigTooShort { needed, got });
    }
    let mut model = [0];
    transport.read_config(MODEL.0 as u32, &mut model).map_err(ProbeError::Transport)?;
    let [model] = model;
    Ok(model)
}

/// Reads the fields that go with `features`, all of one generation (virtio 2.5.1), and says which; the
/// others are 0.
pub(crate) fn read_config<T: Transport>(
    transport: &mut T,
    features: Features,
) -> Result<(Config, u32), ProbeError<T::Error>> {
    let present = || FIELDS.iter().filter(|(feature, ..)| features.contains(*feature));
    let needed = present().map(|(_, offset, len)| offset + len).max().unwrap_or(0) as u32;
    let got = transport.config_len().map_err(ProbeError::Transport)?;
    if got < needed {
        return Err(ProbeError::ConfigTooShort { needed, got });
    }
    for _ in 0..CONFIG_ATTEMPTS {
        let before = transport.config_generation().map_err(ProbeError::Transport)?;
        let mut bytes = [0; Config::BYTES as usize];
        for (_, offset, len) in present() {
            if let Some(field) = bytes.get_mut(*offset..offset + len) {
                transport.read_config(*offset as u32, field).map_err(ProbeError::Transport)?;
            }
        }
        if transport.config_generation().map_err(ProbeError::Transport)? == before {
            return Ok((zerocopy::transmute!(bytes), before));
        }
    }
    Err(ProbeError::ConfigUnstable)
}

/// How many queues to use.
pub(crate) fn queue_count<T: Transport>(
    transport: &mut T,
    features: Features,
    config: &Config,
    options: &Options,
) -> Result<u16, ProbeError<T::Error>> {
    let device = if features.contains(Features::MQ) { config.num_queues.get() } else { 1 };
    let most = transport.max_queues().map_err(ProbeError::Transport)?;
    Ok(options.queues.min(device).min(most).max(1))
}

/// How many descriptors to give queue `index`.
pub(crate) fn queue_size<T: Transport>(
    transport: &mut T,
    index: u16,
    options: &Options,
) -> Result<u16, ProbeError<T::Error>> {
    let most = transport.max_queue_size(index).map_err(ProbeError::Transport)?;
    if most == 0 {
        return Err(ProbeError::NoQueue(index));
    }
    let size = options.queue_size.min(most).min(zvb_ring::MAX_SIZE);
    // Down to a power of two; a header, one data segment and a status need three descriptors.
    let size = size.checked_ilog2().map_or(0, |log| 1 << log);
    if size < 4 { Err(ProbeError::QueueTooSmall { index, size }) } else { Ok(size) }
}

/// Tells the device that the driver has given up on it. What that meets is of no more interest.
pub(crate) fn give_up<T: Transport>(transport: &mut T) {
    // Bits must not be cleared, so without knowing them nothing is said.
    if let Ok(status) = transport.status() {
        let _ = transport.set_status(status | DeviceStatus::FAILED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn the_model_is_where_the_wire_has_it() {
        let zoned = offset_of!(Config, zoned);
        assert_eq!(MODEL.0, zoned + offset_of!(zvb_wire::ZonedCharacteristics, model));
        assert!(FIELDS.iter().all(|(_, offset, len)| offset + len <= Config::BYTES as usize));
    }
}
