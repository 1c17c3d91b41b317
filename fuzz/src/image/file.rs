//! The file that every input is written to, and a worker on what was opened from it.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use zvb_ring::{Buffers, HeapMemory};
use zvb_storage::{Engine, Io, Op, Volume};
use zvb_wire::Sector;

/// A file that is removed in the end.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Writes a file of `len` bytes that begins with `bytes`.
pub(super) fn write(bytes: &[u8], len: u64) -> PathBuf {
    thread_local! {
        static FILE: Scratch = {
            let memory = PathBuf::from("/dev/shm");
            let directory = if memory.is_dir() { memory } else { std::env::temp_dir() };
            let thread = std::thread::current().id();
            let name = format!("zvb-fuzz-{}-{thread:?}.zvb", std::process::id());
            Scratch(directory.join(name.replace(['(', ')'], "-")))
        };
    }
    let path = FILE.with(|file| file.0.clone());
    let file = File::create(&path).expect("a place for a file");
    file.write_all_at(&bytes[..bytes.len().min(len as usize)], 0).expect("room for a file");
    file.set_len(len).expect("a sparse file");
    path
}

/// The first bytes of a file.
pub(super) fn read(path: &Path, most: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let file = File::open(path).expect("a file of ours");
    file.take(most).read_to_end(&mut bytes).expect("a file of ours");
    bytes
}

/// Moves sectors.
pub(super) struct Worker {
    engine: Box<dyn Engine>,
    memory: Rc<HeapMemory>,
}

impl Worker {
    /// A worker on a volume whose engine does everything at once.
    pub(super) fn new<V: Volume + 'static>(volume: &Arc<V>) -> Self {
        let engine = Arc::clone(volume).engine(4).expect("an engine that needs nothing");
        Self { engine, memory: Rc::new(HeapMemory::new(0, 64 << 10)) }
    }

    fn buffers(&self, sectors: u64) -> Buffers {
        let mut buffers = Buffers::new(Rc::<HeapMemory>::clone(&self.memory), Vec::new());
        assert!(buffers.push(0, sectors as u32 * 512), "64 KiB at most");
        buffers
    }

    fn run(&mut self, at: Sector, op: Op) -> Option<Buffers> {
        self.engine.submit(Io { tag: 1, at, op });
        self.engine.start();
        let mut done = Vec::new();
        self.engine.reap(&mut done);
        let done = done.pop().expect("done at once");
        done.result.expect("a range inside the disk");
        done.buffers
    }

    pub(super) fn read(&mut self, at: Sector, sectors: u64) -> Vec<u8> {
        let buffers = self.run(at, Op::Read(self.buffers(sectors))).expect("what was given");
        let mut bytes = vec![0; sectors as usize * 512];
        buffers.read(0, &mut bytes).expect("as long as it says");
        bytes
    }

    pub(super) fn write(&mut self, at: Sector, sectors: u64, byte: u8) {
        let buffers = self.buffers(sectors);
        let bytes = vec![byte; sectors as usize * 512];
        buffers.write(0, &bytes).expect("as long as it says");
        self.run(at, Op::Write(buffers));
    }
}
