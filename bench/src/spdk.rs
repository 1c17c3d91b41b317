//! SPDK's vhost target: its own memory as a disk (bdev malloc), and nothing as a disk (bdev null).
//!
//! It polls all the time, also without a client, so it is stopped but for what is measured of it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use crate::peers::Place;
use crate::server::Spec;

/// Of its disks, in bytes.
const BLOCK: u64 = 4096;
/// MiB that it takes beside its disk.
const MORE_MIB: u64 = 1152;

/// True for a program that is started this way when it is named without arguments.
pub(crate) fn is_spdk(program: &Path) -> bool {
    program.file_name().is_some_and(|name| name == "vhost")
}

/// Both disks of `program`.
pub(crate) fn servers(place: &Place<'_>, name: &str, program: &Path) -> Result<Vec<Spec>> {
    let mut all = Vec::new();
    for (name, method) in
        [(name.to_owned(), "bdev_malloc_create"), (format!("{name} null"), "bdev_null_create")]
    {
        let mut server = place.spec(&name, program, None);
        server.moves_data = method == "bdev_malloc_create";
        server.polls = true;
        let config = server.socket.with_extension("json");
        let text = config_of(&server.socket, method, place.mib);
        fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        let mib = if server.moves_data { place.mib + MORE_MIB } else { MORE_MIB };
        server.arguments = vec!["-m".into(), "0x1".into(), "-s".into(), mib.to_string().into()];
        if !has_huge_pages(mib) {
            server.arguments.push("--no-huge".into());
        }
        // Several on one processor, of which all but one are stopped.
        server.arguments.push("--disable-cpumask-locks".into());
        server.arguments.extend(["-S".into(), place.folder.into(), "-c".into(), config.into()]);
        server.arguments.extend(["-r".into(), server.socket.with_extension("rpc").into()]);
        all.push(server);
    }
    Ok(all)
}

/// What it is to do from its start on. A controller's name is that of its socket, in the folder of `-S`.
fn config_of(socket: &Path, method: &str, mib: u64) -> String {
    let socket = socket.file_name().unwrap_or_default().to_string_lossy();
    let blocks = (mib << 20) / BLOCK;
    let disk = json!({ "name": "disk", "num_blocks": blocks, "block_size": BLOCK });
    let controller = json!({ "ctrlr": socket, "dev_name": "disk", "cpumask": "0x1" });
    json!({ "subsystems": [
        { "subsystem": "bdev", "config": [{ "method": method, "params": disk }] },
        { "subsystem": "vhost_blk", "config": [
            { "method": "vhost_create_blk_controller", "params": controller },
        ] },
    ] })
    .to_string()
}

/// True when `mib` MiB of huge pages are free, and can be had through a file system.
fn has_huge_pages(mib: u64) -> bool {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mounted = mounts.lines().any(|line| line.split(' ').nth(2) == Some("hugetlbfs"));
    mounted && fs::read_to_string("/proc/meminfo").is_ok_and(|text| free_huge_mib(&text) >= mib)
}

fn free_huge_mib(meminfo: &str) -> u64 {
    let number = |name: &str| {
        let rest = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        rest.split_whitespace().next()?.parse::<u64>().ok()
    };
    let pages = number("HugePages_Free:").unwrap_or(0);
    pages.saturating_mul(number("Hugepagesize:").unwrap_or(0)) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_asked_for_by_a_config() {
        assert!(is_spdk(Path::new("/opt/bin/vhost")) && !is_spdk(Path::new("/opt/vhost_blk")));
        let config = config_of(Path::new("/run/x.sock"), "bdev_null_create", 384);
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        let at = |pointer| config.pointer(pointer).unwrap();
        assert_eq!(at("/subsystems/0/config/0/params/num_blocks"), 98_304);
        assert_eq!(at("/subsystems/1/config/0/params/ctrlr"), "x.sock");
    }

    #[test]
    fn huge_pages_are_counted() {
        let text = "HugePages_Free:      800\nHugepagesize:       2048 kB\n";
        assert_eq!(free_huge_mib(text), 1600);
        assert_eq!(free_huge_mib(""), 0);
    }
}
