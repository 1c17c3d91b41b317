//! A front end that sends what it likes, file descriptors and all, to our vhost-user server. The server
//! answers or hangs up, in bounded time; it keeps no file descriptor and no thread; and the next front
//! end, a right one, finds the disk in order.

mod frontend;
mod message;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use zvb_device::{Device, DeviceOptions};
use zvb_driver::{Disk, Options, Sector};
use zvb_host::client::{self, SharedMemory, VhostUser};
use zvb_host::server::{Server, ServerOptions, Shutdown};
use zvb_host::vhost_user::{BackendMessage, BackendRequest, FrontendMessage, FrontendRequest};
use zvb_storage::Volume;
use zvb_wire::Model;
use zvb_zones::GeometrySpec;

use crate::disk::{ID, MemoryDisk};
use crate::input::Input;
use frontend::Frontend;

/// How long anything may take, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most actions of one input.
const ACTIONS: u32 = 64;

const SPEC: GeometrySpec = GeometrySpec {
    model: Model::HostManaged,
    capacity: Sector(16 * 5),
    zone_size: Sector(16),
    zone_capacity: Sector(12),
    conventional: 1,
    max_open: 2,
    max_active: 3,
    max_append: Sector(8),
    write_granularity: 1024,
};

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    decode(&mut input.clone());
    // What is opened once stays open.
    let warm = Shutdown::new().expect("an eventfd");
    let before = (count("/proc/self/fd"), count("/proc/self/task"));
    let disk = MemoryDisk::new(SPEC.capacity, Some(SPEC), false);
    let options = DeviceOptions { queues: 2, max_queue_size: 64, ..DeviceOptions::default() };
    let device = Device::new(disk as Arc<dyn Volume>, options).expect("a disk of ours");
    serve(&device, |socket| {
        let mut frontend = Frontend::new(Arc::clone(&device), socket);
        for _ in 0..ACTIONS {
            if input.is_empty() {
                break;
            }
            frontend.act(&mut input);
        }
        frontend.end();
    });
    serve(&device, use_disk);
    // A thread that was joined may still be on its way out of the list.
    let start = Instant::now();
    while (count("/proc/self/fd"), count("/proc/self/task")) != before {
        let now = (count("/proc/self/fd"), count("/proc/self/task"));
        assert!(start.elapsed() < PATIENCE, "descriptors and threads: {before:?}, then {now:?}");
        thread::sleep(Duration::from_millis(1));
    }
    drop(warm);
}

fn count(directory: &str) -> usize {
    std::fs::read_dir(directory).map_or(0, Iterator::count)
}

/// Any payload with any number of descriptors is a message or a fault, and no descriptor stays open.
fn decode(input: &mut Input<'_>) {
    let code = u32::from(input.byte() % 48);
    let null = || OwnedFd::from(std::fs::File::open("/dev/null").expect("/dev/null"));
    let files = |n: u8| (0..n).map(|_| null()).collect::<Vec<_>>();
    let payload = input.bytes(300);
    let before = count("/proc/self/fd");
    for files_sent in [0, files_count(payload)] {
        let _ = FrontendMessage::decode(FrontendRequest(code), payload, files(files_sent));
        let _ = BackendMessage::decode(BackendRequest(code), payload, files(files_sent));
    }
    assert_eq!(count("/proc/self/fd"), before, "descriptors that nobody closes");
}

fn files_count(payload: &[u8]) -> u8 {
    payload.first().map_or(1, |n| n % 34)
}

/// Serves a connection, the other end of which goes to `client`; both must end.
fn serve(device: &Arc<Device>, client: impl FnOnce(UnixStream)) {
    let (ours, theirs) = UnixStream::pair().expect("a socket");
    let server = Server::from_fd(ours.into(), ServerOptions::default()).expect("a Unix socket");
    let shutdown = Shutdown::new().expect("an eventfd");
    let (tell, ended) = mpsc::channel();
    let device = Arc::clone(device);
    let thread = thread::spawn(move || {
        let result = server.serve(&device, &shutdown);
        drop((server, shutdown, device));
        tell.send(result).expect("somebody waits");
    });
    client(theirs);
    let result = ended.recv_timeout(PATIENCE).expect("the session does not end");
    result.expect("a server goes on whatever a front end does");
    thread.join().expect("it has ended");
}

/// What a right front end does, and must succeed with.
fn use_disk(socket: UnixStream) {
    let memory = SharedMemory::new(1 << 20).expect("a memfd");
    let options = client::Options { max_queue_size: 16, ..client::Options::default() };
    let transport = VhostUser::over(socket, memory.clone(), options).expect("a server");
    let options = Options { queue_size: 16, queues: 2, ..Options::default() };
    let mut disk = Disk::probe(transport, memory, &options).expect("a device");
    assert_eq!(disk.id().expect("a name"), ID);
    disk.reset_all().expect("zones that can be reset");
    let (data, mut read) = (vec![0x5a; 2048], vec![0; 2048]);
    let at = disk.append(Sector(32), &data).expect("an empty zone");
    assert_eq!(at, Sector(32));
    disk.read(at, &mut read).expect("what was written");
    assert!(read == data, "what was written is something else");
    let zones = disk.zones().expect("a report");
    assert_eq!(zones.len(), 5);
    assert_eq!(zones[2].write_pointer, Some(Sector(36)));
    disk.flush().expect("a flush");
}
