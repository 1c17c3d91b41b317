//! Our driver, over our client, on a server that is not ours: QEMU's storage daemon, where it is
//! installed. Where it is not, there is nothing to see here.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use zvb_driver::{Answer, Completion, Disk, Error, Options, Queue, Request, Sector, Transport};
use zvb_host::client::{self, ClientError, SharedMemory, VhostUser};

const DISK_BYTES: u64 = 16 << 20;
const BLOCK: usize = 4096;
const BLOCK_SECTORS: u64 = 8;

type ForeignDisk = Disk<VhostUser, SharedMemory>;

/// A raw file in a directory of its own, and the daemon that serves it.
struct Daemon {
    child: Child,
    socket: PathBuf,
    image: PathBuf,
    _directory: TempDir,
}

impl Daemon {
    /// `None` where it is not installed.
    fn start() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let (socket, image) = (directory.path().join("s"), directory.path().join("raw"));
        fs::File::create(&image).unwrap().set_len(DISK_BYTES).unwrap();
        let started = Command::new("qemu-storage-daemon")
            .arg("--blockdev")
            .arg(format!("file,node-name=n,filename={}", image.display()))
            .arg("--export")
            .arg(format!(
                "vhost-user-blk,id=e,node-name=n,writable=on,num-queues=2,addr.type=unix,addr.path={}",
                socket.display()
            ))
            .args(["--chardev", "stdio,id=c", "--monitor", "chardev=c"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        let Ok(child) = started else {
            eprintln!("skipped: qemu-storage-daemon is not installed");
            return None;
        };
        Some(Self { child, socket, image, _directory: directory })
    }

    /// Has the disk resized while it is served.
    fn resize(&mut self, bytes: u64) {
        let monitor = self.child.stdin.as_mut().unwrap();
        writeln!(monitor, r#"{{"execute": "qmp_capabilities"}}"#).unwrap();
        let arguments = format!(r#"{{"node-name": "n", "size": {bytes}}}"#);
        writeln!(monitor, r#"{{"execute": "block_resize", "arguments": {arguments}}}"#).unwrap();
    }

    fn disk(&self) -> ForeignDisk {
        let start = Instant::now();
        let memory = SharedMemory::new(8 << 20).unwrap();
        loop {
            match connect(&self.socket, &memory) {
                Ok(transport) => {
                    let options = Options { queues: 2, ..Options::default() };
                    return Disk::probe(transport, memory, &options).unwrap();
                }
                Err(ClientError::NoServer { .. }) if start.elapsed() < Duration::from_secs(20) => {
                    thread::sleep(Duration::from_millis(5));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connect(socket: &Path, memory: &SharedMemory) -> Result<VhostUser, ClientError> {
    VhostUser::connect(socket, memory.clone(), client::Options::default())
}

/// What block `number` holds.
fn pattern(number: u64) -> Vec<u8> {
    (0..BLOCK as u64).map(|i| (number.wrapping_mul(31) ^ i ^ (i >> 8)) as u8).collect()
}

fn next(queue: &mut Queue<'_, VhostUser, SharedMemory>) -> Completion<SharedMemory> {
    loop {
        if let Some(completion) = queue.poll().unwrap() {
            return completion;
        }
        queue.wait(Some(20_000)).unwrap();
    }
}

/// Writes every second block through this queue, as deep as it goes, and reads each back.
fn write_and_check(queue: &mut Queue<'_, VhostUser, SharedMemory>, first: u64) {
    const BLOCKS: u64 = 256;
    const DEPTH: usize = 32;
    let number = |turn: u64| first + turn * 2;
    let mut of_slot = vec![0; queue.depth()];
    for read in [false, true] {
        let (mut sent, mut done) = (0, 0);
        while done < BLOCKS {
            while sent < BLOCKS && queue.in_flight() < DEPTH {
                let at = Sector(number(sent) * BLOCK_SECTORS);
                let mut buffer = queue.buffer(BLOCK).unwrap();
                let request = if read {
                    Request::Read { at, buffer }
                } else {
                    buffer.copy_from_slice(&pattern(number(sent)));
                    Request::Write { at, buffer }
                };
                let token = queue.submit(request).unwrap();
                *of_slot.get_mut(token.slot()).unwrap() = number(sent);
                sent += 1;
            }
            queue.kick().unwrap();
            let completion = next(queue);
            assert_eq!(completion.result.unwrap(), Answer::Done);
            if read {
                let number = *of_slot.get(completion.token.slot()).unwrap();
                assert_eq!(*completion.buffer.unwrap(), *pattern(number), "block {number}");
            }
            done += 1;
        }
    }
}

#[test]
fn a_disk_of_qemu_is_driven_through_both_queues_at_depth() {
    let Some(daemon) = Daemon::start() else { return };
    for _session in 0..3 {
        let mut disk = daemon.disk();
        assert_eq!(disk.info().capacity, Sector(DISK_BYTES / 512));
        assert_eq!(disk.info().queues, 2);
        assert!(disk.info().zoned.is_none());
        assert!(disk.id().unwrap().starts_with(b"vhost_user_blk"));
        thread::scope(|scope| {
            for (index, mut queue) in disk.queues().enumerate() {
                scope.spawn(move || write_and_check(&mut queue, index as u64));
            }
        });
        disk.flush().unwrap();
        // What is in the file is what was written.
        let file = fs::read(&daemon.image).unwrap();
        for (number, block) in (0..512).zip(file.chunks(BLOCK)) {
            assert_eq!(*block, *pattern(number), "block {number}");
        }
    }
}

#[test]
fn a_disk_that_grows_is_seen_to() {
    let Some(mut daemon) = Daemon::start() else { return };
    let mut disk = daemon.disk();
    assert!(!disk.refresh().unwrap());
    daemon.resize(2 * DISK_BYTES);
    let start = Instant::now();
    while !disk.refresh().unwrap() {
        assert!(start.elapsed() < Duration::from_secs(20), "no new size");
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(disk.info().capacity, Sector(2 * DISK_BYTES / 512));
    disk.write(Sector(DISK_BYTES / 512), &pattern(1)).unwrap();
    drop(disk);

    // And it is told without being asked.
    let memory = SharedMemory::new(4096).unwrap();
    let mut transport = connect(&daemon.socket, &memory).unwrap();
    assert_eq!(transport.config_generation().unwrap(), 0);
    daemon.resize(3 * DISK_BYTES);
    let start = Instant::now();
    while transport.config_generation().unwrap() == 0 {
        assert!(start.elapsed() < Duration::from_secs(20), "no news of the new size");
        thread::sleep(Duration::from_millis(5));
    }
    let mut capacity = [0; 8];
    transport.read_config(0, &mut capacity).unwrap();
    assert_eq!(u64::from_le_bytes(capacity), 3 * DISK_BYTES / 512);
}

#[test]
fn a_daemon_that_dies_is_noticed() {
    let Some(mut daemon) = Daemon::start() else { return };
    let mut disk = daemon.disk();
    disk.write(Sector(0), &pattern(0)).unwrap();
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    let error = disk.read(Sector(0), &mut [0; BLOCK]).unwrap_err();
    assert!(matches!(error, Error::Transport(ClientError::Gone)), "{error:?}");
    drop(disk);
    let memory = SharedMemory::new(4096).unwrap();
    let error = connect(&daemon.socket, &memory).unwrap_err();
    assert!(matches!(error, ClientError::NoServer { .. }), "{error:?}");
}
