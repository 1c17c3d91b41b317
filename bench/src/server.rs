//! The servers: ours, and those of peers that are installed.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::hold::Held;

/// How to start a server.
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) socket: PathBuf,
    program: PathBuf,
    arguments: Vec<OsString>,
    /// False for a server that answers without touching data: an upper bound, not a peer.
    pub(crate) moves_data: bool,
    /// What is written to the disk before anything is measured.
    pub(crate) data: PathBuf,
    /// The file behind the disk: held in memory, so that the disk below is not what is measured.
    file: Option<PathBuf>,
}

/// Every server that can be measured here, with disks of `mib` MiB in `folder`.
pub(crate) fn servers(zvb: &Path, folder: &Path, mib: u64) -> Result<Vec<Spec>> {
    let data = folder.join("data");
    let mut file = File::create(&data)?;
    for block in 0..mib {
        let fill: Vec<u8> = (0..1u32 << 20).map(|i| (i as u64 * 31 + block) as u8).collect();
        file.write_all(&fill)?;
    }
    let spec = |name: &str, program: &Path, file: Option<PathBuf>, moves_data: bool| Spec {
        name: name.to_owned(),
        socket: folder.join(name.replace([' ', ':'], "-")).with_extension("sock"),
        program: program.to_owned(),
        arguments: Vec::new(),
        moves_data,
        data: data.clone(),
        file,
    };
    let size = format!("{mib}M");
    let mut all = Vec::new();

    let mut memory = spec("zvb mem", zvb, None, true);
    memory.arguments = vec!["serve".into(), format!("mem:{size}").into()];
    memory.arguments.extend(["--zone-size", "64M", "--socket-path"].map(OsString::from));
    memory.arguments.push(memory.socket.clone().into());
    all.push(memory);

    let image = folder.join("disk.zvb");
    let made = Command::new(zvb)
        .args(["create", "--size", &size, "--zone-size", "64M"])
        .arg(&image)
        .stdout(Stdio::null())
        .status()?;
    if !made.success() {
        bail!("cannot create {}", image.display());
    }
    let mut ours = spec("zvb image", zvb, Some(image.clone()), true);
    ours.arguments =
        vec!["serve".into(), image.into(), "--socket-path".into(), ours.socket.clone().into()];
    all.push(ours);

    if let Some(daemon) = find("qemu-storage-daemon") {
        let raw = folder.join("disk.raw");
        File::create(&raw)?.set_len(mib << 20)?;
        let export = |socket: &Path| {
            let mut e = OsString::from(
                "vhost-user-blk,id=e,node-name=n,writable=on,addr.type=unix,addr.path=",
            );
            e.push(socket);
            e
        };
        let mut file = spec("qsd raw file", &daemon, Some(raw.clone()), true);
        let mut blockdev = OsString::from("file,node-name=n,filename=");
        blockdev.push(&raw);
        file.arguments =
            vec!["--blockdev".into(), blockdev, "--export".into(), export(&file.socket)];
        all.push(file);
        let mut null = spec("qsd null-co", &daemon, None, false);
        let blockdev = format!("null-co,node-name=n,size={},read-zeroes=off", mib << 20);
        null.arguments =
            vec!["--blockdev".into(), blockdev.into(), "--export".into(), export(&null.socket)];
        all.push(null);
    } else {
        eprintln!(
            "qemu-storage-daemon is not installed (Debian: qemu-utils): measuring ours alone"
        );
    }
    Ok(all)
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|p| p.is_file())
}

/// A server that runs, on the first core.
pub(crate) struct Server {
    pub(crate) spec: Spec,
    child: Child,
    held: Option<Held>,
}

impl Server {
    pub(crate) fn start(spec: Spec) -> Result<Self> {
        let child = Command::new("taskset")
            .args(["-c", "0"])
            .arg(&spec.program)
            .args(&spec.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", spec.program.display()))?;
        let mut server = Self { spec, child, held: None };
        let patience = Instant::now() + Duration::from_secs(10);
        while !server.spec.socket.exists() {
            if let Some(status) = server.child.try_wait()? {
                bail!("{} ended: {status}", server.spec.name);
            }
            if Instant::now() > patience {
                bail!("{} makes no socket", server.spec.name);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    /// Keeps the disk's file in memory from now on.
    pub(crate) fn hold(&mut self) -> Result<()> {
        if let Some(file) = &self.spec.file {
            self.held =
                Some(Held::new(file).with_context(|| format!("cannot hold {}", file.display()))?);
        }
        Ok(())
    }

    /// CPU time that the server has used so far.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // Behind the name, which may hold anything, fields 14 and 15 count ticks.
        let fields: Vec<&str> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok());
        let (user, system) =
            (ticks(11).context("no user time")?, ticks(12).context("no system time")?);
        Ok((user + system) / rustix::param::clock_ticks_per_second() as f64)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // What it would say about an end in order is of no interest here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
