//! What is written down about the disks that are attached to this host's kernel: a file for each, locked by
//! the process that serves it. So another process finds it, and can go on when it has died.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::lost::WrittenShape;

/// Where the files are: gone with the next boot, as the disks are.
pub(crate) const FOLDER: &str = "/run/zvb";

/// One disk that is attached.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Attached {
    /// What it is called.
    pub(crate) name: String,
    /// Who serves it, or did.
    pub(crate) pid: i32,
    /// What it is made of, as `zvb attach` takes it; a path is absolute.
    pub(crate) source: String,
    /// The command that attached it.
    pub(crate) command: Vec<String>,
    /// The block device, once there is one.
    pub(crate) disk: Option<PathBuf>,
    /// What it looks like, once it is open: enough to take it away when nothing else of it is left.
    #[serde(default)]
    pub(crate) shape: Option<WrittenShape>,
}

/// The file about a disk, and the right to serve it.
#[derive(Debug)]
pub(crate) struct Record {
    file: File,
    path: PathBuf,
}

impl Record {
    /// Takes the right to serve the disk `name`; `None` when another process has it.
    pub(crate) fn claim(name: &str) -> anyhow::Result<Option<Self>> {
        Self::claim_in(Path::new(FOLDER), name)
    }

    fn claim_in(folder: &Path, name: &str) -> anyhow::Result<Option<Self>> {
        let denied = |error: &io::Error| match error.kind() {
            io::ErrorKind::PermissionDenied => " (only root may: try sudo)",
            _ => "",
        };
        fs::create_dir_all(folder).map_err(|error| {
            let context = format!("cannot make {}{}", folder.display(), denied(&error));
            anyhow::Error::new(error).context(context)
        })?;
        let path = path_in(folder, name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        loop {
            let file = options.open(&path).map_err(|error| {
                let context = format!("cannot use {}{}", path.display(), denied(&error));
                anyhow::Error::new(error).context(context)
            })?;
            let context = || format!("cannot use {}", path.display());
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(errno) => return Err(errno).with_context(context),
            }
            // Who had it may have removed it before it let go: then the lock is of a file that nobody finds.
            let ours = file.metadata().with_context(context)?;
            if fs::metadata(&path).is_ok_and(|found| found.ino() == ours.ino()) {
                return Ok(Some(Self { file, path }));
            }
        }
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes what there is to know.
    pub(crate) fn write(&mut self, attached: &Attached) -> anyhow::Result<()> {
        let text = serde_json::to_string(attached).context("cannot put it into JSON")?;
        let written = self
            .file
            .rewind()
            .and_then(|()| self.file.set_len(0))
            .and_then(|()| self.file.write_all(text.as_bytes()));
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// The disk is not attached any more.
    pub(crate) fn remove(mut self) {
        // What is left behind is found to be of nobody.
        let _ = fs::remove_file(std::mem::take(&mut self.path));
    }
}

impl Drop for Record {
    /// A file in which nothing was written, since nothing came of it, is none.
    fn drop(&mut self) {
        let unwritten = self.file.metadata().is_ok_and(|metadata| metadata.len() == 0);
        if unwritten && !self.path.as_os_str().is_empty() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What is written of the disk `name`, whoever serves it.
pub(crate) fn find(name: &str) -> Option<Attached> {
    find_in(Path::new(FOLDER), name)
}

fn find_in(folder: &Path, name: &str) -> Option<Attached> {
    let text = fs::read_to_string(path_in(folder, name)).ok()?;
    serde_json::from_str(&text).ok()
}

/// The names of all disks that are written of.
pub(crate) fn names() -> Vec<String> {
    names_in(Path::new(FOLDER)).unwrap_or_default()
}

fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let name = name.strip_suffix(SUFFIX).filter(|name| find_in(folder, name).is_some());
        names.extend(name.map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

const SUFFIX: &str = ".attached";

/// Of a name that the kernel takes: no folder is in it.
fn path_in(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{}{SUFFIX}", name.replace('/', "_")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_serves_a_disk_and_the_next_finds_what_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let folder = &folder.path().join("new");
        let mut record = Record::claim_in(folder, "d").unwrap().unwrap();
        let attached = Attached {
            name: "d".into(),
            pid: 7,
            source: "/images/d.zvb".into(),
            command: vec!["zvb".into(), "attach".into(), "d.zvb".into()],
            disk: None,
            shape: None,
        };
        record
            .write(&Attached { source: "much longer than the next".repeat(9), ..attached.clone() })
            .unwrap();
        record.write(&attached).unwrap();
        assert!(Record::claim_in(folder, "d").unwrap().is_none());
        assert!(Record::claim_in(folder, "e").unwrap().is_some());
        drop(record);
        let next = Record::claim_in(folder, "d").unwrap().unwrap();
        let text = fs::read_to_string(path_in(folder, "d")).unwrap();
        assert_eq!(serde_json::from_str::<Attached>(&text).unwrap(), attached);
        // Of e nothing was written.
        assert_eq!(names_in(folder).unwrap(), ["d"]);
        assert!(!path_in(folder, "e").exists());
        next.remove();
        assert!(names_in(folder).unwrap().is_empty());
        assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
    }
}
