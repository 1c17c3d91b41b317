//! What a transport adds to the features of a device, and what it can not carry.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use support::*;
use zvb_device::{Device, DeviceOptions, FeatureRefusal, TransportFeatures};
use zvb_wire::{Features, Model};

#[test]
fn a_transport_adds_and_withholds_features() {
    let disk = || TestVolume::zoned(small(Model::HostManaged, 2, 3));
    let plain = Device::new(disk(), DeviceOptions::default()).unwrap();
    let transport = TransportFeatures {
        offered: Features::ACCESS_PLATFORM,
        withheld: Features::CONFIG_WCE | Features::RING_RESET,
    };
    let options = DeviceOptions { transport, ..DeviceOptions::default() };
    let device = Device::new(disk(), options).unwrap();
    let lost = plain.features().difference(device.features());
    let gained = device.features().difference(plain.features());
    assert_eq!(lost, Features::CONFIG_WCE | Features::RING_RESET);
    assert_eq!(gained, Features::ACCESS_PLATFORM);

    // 138: what is not offered can not be accepted.
    let session = device.session();
    let refused = session.accept(device.features() | Features::CONFIG_WCE);
    assert_eq!(refused, Err(FeatureRefusal::NotOffered(Features::CONFIG_WCE)));
    session.accept(device.features()).unwrap();
    assert!(session.features().contains(Features::ACCESS_PLATFORM));
}
