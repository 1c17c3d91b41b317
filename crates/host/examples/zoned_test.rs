//! A test of an application for zoned disks, in one process: no VM, no root, no kernel module.

use std::error::Error;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use zvb_device::{Device, DeviceOptions};
use zvb_driver::{Disk, Options};
use zvb_host::client::{self, SharedMemory, VhostUser};
use zvb_host::server::{Server, ServerOptions, Shutdown};
use zvb_storage::Memory;
use zvb_wire::{Condition, Model, Sector};
use zvb_zones::GeometrySpec;

fn main() -> Result<(), Box<dyn Error>> {
    // 16 zones of 4 MiB, of which 3 MiB can be written; no more than two open at a time.
    let spec = GeometrySpec {
        model: Model::HostManaged,
        capacity: Sector(16 * 8192),
        zone_size: Sector(8192),
        zone_capacity: Sector(6144),
        conventional: 1,
        max_open: 2,
        max_active: 4,
        max_append: Sector(256),
        write_granularity: 4096,
    };
    let volume = Arc::new(Memory::new(spec.capacity, 4096, Some(spec))?);
    let device = Device::new(volume, DeviceOptions::default())?;

    // The device at one end of a pair of sockets, the driver at the other.
    let (ours, theirs) = UnixStream::pair()?;
    let server = Server::from_fd(theirs.into(), ServerOptions::default())?;
    let shutdown = Shutdown::new()?;
    let serving = thread::spawn(move || server.serve(&device, &shutdown));
    let memory = SharedMemory::new(16 << 20)?;
    let transport = VhostUser::over(ours, memory.clone(), client::Options::default())?;
    let mut disk = Disk::probe(transport, memory, &Options::default())?;

    // What the application under test would do.
    let zone = disk.zones()?[3].start;
    let first = disk.append(zone, &[1; 8192])?;
    let second = disk.append(zone, &[2; 4096])?;
    assert_eq!((first, second), (zone, Sector(zone.0 + 16)));
    let mut back = [0; 4096];
    disk.read(second, &mut back)?;
    assert_eq!(back, [2; 4096]);
    assert!(disk.write(zone, &[3; 4096]).is_err(), "not at the write pointer");
    disk.finish(zone)?;
    assert_eq!(disk.zones()?[3].condition, Condition::Full);

    drop(disk);
    serving.join().map_err(|_| "the server panicked")??;
    println!("all went well");
    Ok(())
}
