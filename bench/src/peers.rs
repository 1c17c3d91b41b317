//! Which servers are measured: ours in several ways, peers that are installed, peers named by path.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

use anyhow::{Context, Result, bail};

use crate::server::Spec;
use crate::spdk;

/// Queues that every server offers.
pub(crate) const QUEUES: u16 = 2;

/// A server named on the command line.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    name: String,
    program: PathBuf,
    /// With `{file}`, `{socket}` and `{queues}` in place of what they stand for.
    arguments: Vec<String>,
}

impl FromStr for Named {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, command) = text.split_once('=').context("use NAME=PATH")?;
        let mut words = command.split_whitespace().map(str::to_owned);
        let program = PathBuf::from(words.next().context("use NAME=PATH")?);
        let mut arguments: Vec<String> = words.collect();
        if arguments.is_empty() {
            arguments = usual(&program)?.iter().map(|word| (*word).to_owned()).collect();
        }
        Ok(Self { name: name.to_owned(), program, arguments })
    }
}

/// How programs that we know want to be started.
fn usual(program: &Path) -> Result<&'static [&'static str]> {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    Ok(match &*name {
        "vhost_user_block" => {
            &["--block-backend", "path={file},socket={socket},num_queues={queues},queue_size=1024"]
        }
        "crosvm" => &["devices", "--no-jail", "--block", "vhost={socket},path={file}"],
        // SPDK's: see there.
        "vhost" => &[],
        "zvb" => &["serve", "{image}", "--socket-path", "{socket}", "--queues", "{queues}"],
        other => bail!(
            "it is not known how {other} is started; use NAME=\"PATH ARGUMENTS\" with {{file}} and {{socket}} in them"
        ),
    })
}

/// Where everything is.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) zvb: &'a Path,
    pub(crate) folder: &'a Path,
    /// What disks are filled with.
    pub(crate) data: &'a Path,
    /// Size of each disk.
    pub(crate) mib: u64,
}

impl Place<'_> {
    /// How many pieces of `bytes` bytes a disk has.
    pub(crate) fn pieces(&self, bytes: usize) -> u64 {
        (self.mib << 20) / bytes as u64
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.folder.join(name.replace(|c: char| !c.is_ascii_alphanumeric(), "-") + ".sock")
    }

    pub(crate) fn spec(&self, name: &str, program: &Path, file: Option<PathBuf>) -> Spec {
        Spec {
            name: name.to_owned(),
            socket: self.socket(name),
            program: program.to_owned(),
            arguments: Vec::new(),
            moves_data: true,
            zoned: false,
            direct: false,
            polls: false,
            data: self.data.to_owned(),
            file,
        }
    }

    fn raw(&self, name: &str) -> Result<PathBuf> {
        let raw = self.socket(name).with_extension("raw");
        File::create(&raw)?.set_len(self.mib << 20)?;
        Ok(raw)
    }

    fn image(&self, name: &str, more: &[&str]) -> Result<PathBuf> {
        let image = self.socket(name).with_extension("zvb");
        let made = Command::new(self.zvb)
            .args(["create", "--size", &format!("{}M", self.mib)])
            .args(more)
            .arg(&image)
            .stdout(Stdio::null())
            .status()?;
        if made.success() { Ok(image) } else { bail!("cannot create {}", image.display()) }
    }

    fn ours(&self, name: &str, disk: OsString, file: Option<PathBuf>, more: &[&str]) -> Spec {
        let mut ours = self.spec(name, self.zvb, file);
        ours.zoned = true;
        ours.arguments = vec!["serve".into(), disk, "--queues".into(), QUEUES.to_string().into()];
        ours.arguments.extend(more.iter().map(OsString::from));
        ours.arguments.extend(["--socket-path".into(), ours.socket.clone().into()]);
        ours
    }

    /// Every server that can be measured here.
    pub(crate) fn servers(&self, named: &[Named]) -> Result<Vec<Spec>> {
        let zones = ["--zone-size", "64M"];
        let memory = format!("mem:{}M", self.mib);
        let mut all = vec![self.ours("zvb mem", memory.into(), None, &zones)];
        for (name, shape, more) in [
            ("zvb image", &zones[..], &[][..]),
            ("zvb image, --poll=0", &zones[..], &["--poll=0"][..]),
            ("zvb image, --direct", &zones[..], &["--direct"][..]),
            ("zvb image, no zones", &["--model", "none"][..], &[][..]),
        ] {
            let image = self.image(name, shape)?;
            let mut ours = self.ours(name, image.clone().into(), Some(image), more);
            ours.zoned = shape == zones;
            ours.direct = more.contains(&"--direct");
            all.push(ours);
        }
        match find("qemu-storage-daemon") {
            Some(daemon) => all.extend(self.storage_daemon(&daemon)?),
            None => eprintln!("qemu-storage-daemon is not installed (Debian: qemu-utils)"),
        }
        for peer in named {
            match spdk::is_spdk(&peer.program) && peer.arguments.is_empty() {
                true => all.extend(spdk::servers(self, &peer.name, &peer.program)?),
                false => all.push(self.named(peer)?),
            }
        }
        Ok(all)
    }

    fn storage_daemon(&self, daemon: &Path) -> Result<Vec<Spec>> {
        let export = |socket: &Path| {
            let mut export = OsString::from(format!(
                "vhost-user-blk,id=e,node-name=n,writable=on,num-queues={QUEUES},addr.type=unix,addr.path="
            ));
            export.push(socket);
            export
        };
        let mut all = Vec::new();
        for (name, engine) in [
            ("qsd file", ""),
            ("qsd file, io_uring", ",aio=io_uring"),
            ("qsd file, direct", ",aio=io_uring,cache.direct=on"),
        ] {
            let raw = self.raw(name)?;
            let mut server = self.spec(name, daemon, Some(raw.clone()));
            server.direct = engine.contains("direct");
            let mut blockdev = OsString::from("file,node-name=n,filename=");
            blockdev.push(&raw);
            blockdev.push(engine);
            server.arguments =
                vec!["--blockdev".into(), blockdev, "--export".into(), export(&server.socket)];
            all.push(server);
        }
        let mut null = self.spec("qsd null-co", daemon, None);
        null.moves_data = false;
        let blockdev = format!("null-co,node-name=n,size={},read-zeroes=off", self.mib << 20);
        null.arguments =
            vec!["--blockdev".into(), blockdev.into(), "--export".into(), export(&null.socket)];
        all.push(null);
        Ok(all)
    }

    fn named(&self, peer: &Named) -> Result<Spec> {
        let takes = |what: &str| peer.arguments.iter().any(|word| word.contains(what));
        let zoned = takes("{image}");
        let file = match zoned {
            true => self.image(&peer.name, &["--zone-size", "64M"])?,
            false => self.raw(&peer.name)?,
        };
        let mut server = self.spec(&peer.name, &peer.program, Some(file.clone()));
        server.zoned = zoned;
        let path = |path: &Path| path.display().to_string();
        let fill = |word: &String| {
            word.replace("{file}", &path(&file))
                .replace("{image}", &path(&file))
                .replace("{socket}", &path(&server.socket))
                .replace("{queues}", &QUEUES.to_string())
        };
        server.arguments = peer.arguments.iter().map(|word| fill(word).into()).collect();
        Ok(server)
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|p| p.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_named_by_its_path_and_started_as_it_wants_to_be() {
        let known: Named = "ch=/opt/vhost_user_block".parse().unwrap();
        assert_eq!((known.name.as_str(), known.arguments.len()), ("ch", 2));
        let other: Named = "x=/opt/x --socket {socket} {file}".parse().unwrap();
        assert_eq!(other.arguments, ["--socket", "{socket}", "{file}"]);
        assert!("x=/opt/x".parse::<Named>().is_err());
        assert!("nonsense".parse::<Named>().is_err());
    }
}
