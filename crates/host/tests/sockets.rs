//! Where a server listens: live sockets, stale ones, what is no socket, and sockets that are handed over.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use support::Rig;
use support::volume::{SlowVolume, ZONE};
use zvb_device::{Device, DeviceOptions};
use zvb_driver::{Disk, Options};
use zvb_host::client::{self, SharedMemory, VhostUser};
use zvb_host::server::{BindError, Server, ServerOptions, Shutdown};
use zvb_wire::Sector;

fn bind(path: &Path) -> Result<Server, BindError> {
    Server::bind(path, ServerOptions::default())
}

#[test]
fn a_live_socket_is_refused_and_its_server_undisturbed() {
    let rig = Rig::new(SlowVolume::new(), 1);
    let mut disk = rig.disk();
    disk.append(Sector(2 * ZONE), &[1; 4096]).unwrap();
    for _ in 0..20 {
        assert!(matches!(bind(&rig.path), Err(BindError::InUse { .. })));
        disk.append(Sector(2 * ZONE), &[1; 4096]).unwrap();
    }
    drop(disk);
    assert!(matches!(bind(&rig.path), Err(BindError::InUse { .. })));
    let mut disk = rig.disk();
    assert_eq!(disk.append(Sector(2 * ZONE), &[1; 4096]).unwrap().0, 2 * ZONE + 21 * 8);
}

#[test]
fn a_stale_socket_is_replaced_and_ours_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let server = bind(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    drop(server);
    assert!(!path.exists());

    // What somebody else has put there meanwhile is not ours to remove.
    let server = bind(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let theirs = UnixListener::bind(&path).unwrap();
    drop(server);
    assert!(path.exists());
    drop(theirs);
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(bind(&file), Err(BindError::NotASocket { .. })));
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    let said = bind(dir.path()).unwrap_err().to_string();
    assert!(said.ends_with("is there already, a directory: it is left alone"), "{said}");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    assert!(matches!(bind(&link), Err(BindError::NotASocket { .. })));

    let long = dir.path().join("l".repeat(200));
    assert!(matches!(bind(&long), Err(BindError::PathTooLong { .. })));
    let nowhere = dir.path().join("no/such/directory");
    let folder = dir.path().join("no/such");
    assert!(matches!(bind(&nowhere), Err(BindError::NoFolder { folder: f, .. }) if f == folder));
    // A socket of another kind may be in use.
    let datagram = dir.path().join("datagram");
    let _theirs = UnixDatagram::bind(&datagram).unwrap();
    assert!(matches!(bind(&datagram), Err(BindError::Host { .. })));
    assert!(datagram.exists());
}

#[test]
fn of_many_servers_that_start_at_once_on_a_stale_socket_one_gets_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(UnixListener::bind(&path).unwrap());
    let servers: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| bind(&path))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(servers.iter().filter(|server| server.is_ok()).count(), 1);
    assert!(UnixStream::connect(&path).is_ok());
}

fn served(fd: OwnedFd, act: impl FnOnce()) {
    let device = Device::new(SlowVolume::new(), DeviceOptions::default()).unwrap();
    let server = Server::from_fd(fd, ServerOptions::default()).unwrap();
    let shutdown = Shutdown::new().unwrap();
    thread::scope(|scope| {
        let serving = scope.spawn(|| server.serve(&device, &shutdown));
        act();
        shutdown.trigger();
        serving.join().unwrap().unwrap();
    });
    assert_eq!(Arc::strong_count(&device), 1, "no session is left");
}

#[test]
fn a_listening_socket_that_is_handed_over_is_served_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    served(listener.into(), || {
        for _ in 0..3 {
            support::disk_at(&path, &Options::default()).id().unwrap();
        }
    });
    assert!(path.exists(), "who made it removes it");
}

#[test]
fn a_connection_that_is_handed_over_is_served_to_its_end() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    served(theirs.into(), || {
        let memory = SharedMemory::new(4 << 20).unwrap();
        let device = VhostUser::over(ours, memory.clone(), client::Options::default()).unwrap();
        let mut disk = Disk::probe(device, memory, &Options::default()).unwrap();
        disk.id().unwrap();
    });
}

#[test]
fn what_is_handed_over_must_be_a_unix_stream_socket() {
    let file = std::fs::File::open("/dev/null").unwrap();
    let refused = Server::from_fd(file.into(), ServerOptions::default());
    assert!(matches!(refused, Err(BindError::WrongDescriptor)));
    let datagram = UnixDatagram::unbound().unwrap();
    let refused = Server::from_fd(datagram.into(), ServerOptions::default());
    assert!(matches!(refused, Err(BindError::WrongDescriptor)));
}
