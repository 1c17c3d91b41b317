//! What others expect of the program: QEMU's conventions, a service manager's, completions and manual pages.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "each test file uses a part")]
mod support;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::{Place, zvb};

/// The folder of the packaging files.
fn dist(name: &str) -> String {
    let path = format!("{}/../../dist/{name}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn capabilities_are_those_of_a_block_back_end() {
    let place = Place::new();
    // Other options are ignored then, also those that make no sense.
    for line in [
        &["serve", "--print-capabilities"][..],
        &["serve", "--fd", "3", "--socket-path", "s", "--print-capabilities", "--nonsense"],
    ] {
        let capabilities = place.run(line).json();
        assert_eq!(capabilities["type"], "block");
        assert_eq!(capabilities["features"], serde_json::json!(["read-only", "blk-file"]));
        assert!(!place.path("s").exists());
    }
}

#[test]
fn the_description_for_management_programs_names_a_program_that_serves() {
    let description: Value = serde_json::from_str(&dist("qemu/90-zvb.json")).unwrap();
    assert_eq!(description["type"], "block");
    assert!(description["description"].is_string());
    let program = description["binary"].as_str().unwrap();
    assert!(program.starts_with('/'), "an absolute path");
    // A link of that name, as dist/README.md makes it.
    let place = Place::new();
    let link = place.path(program.rsplit('/').next().unwrap());
    std::os::unix::fs::symlink(zvb(), &link).unwrap();
    let output = Command::new(&link).arg("--print-capabilities").output().unwrap();
    assert!(output.status.success());
    let capabilities: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(capabilities["type"], "block");
    // It is no word of its command line that it serves.
    for word in ["--help", "--nonsense"] {
        let output = Command::new(&link).arg(word).output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        let usage = said.lines().find(|line| line.starts_with("Usage:")).unwrap();
        assert_eq!(usage, "Usage: vhost-user-zvb [OPTIONS] [DISK]");
    }
    // And it takes the options of a block back end.
    let output = Command::new(&link).args(["--blk-file", "none", "--read-only"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--socket-path"), "{said}");
}

/// A shell that puts its own number where a service manager puts it, and what it inherits as its input where
/// one puts sockets, and becomes the server.
fn as_a_service(place: &Place, count: u32) -> Command {
    let mut command = Command::new("/bin/sh");
    let serve = format!("exec '{}' serve d.zvb --quiet 3<&0", zvb());
    let script = format!("LISTEN_PID=$$ LISTEN_FDS={count} {serve}");
    command.args(["-c", &script]).current_dir(place.dir()).stdin(Stdio::null());
    command
}

/// What the service manager hears next.
fn heard(socket: &UnixDatagram) -> Vec<u8> {
    let mut heard = vec![0; 256];
    let len = loop {
        match socket.recv(&mut heard) {
            // A process that was stopped for a while is told so.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            other => break other.unwrap(),
        }
    };
    heard.truncate(len);
    heard
}

#[test]
fn a_socket_that_a_service_manager_hands_over_is_served() {
    let place = Place::new();
    place.create("d.zvb", &["--size", "64M"]).ok();
    let listener = std::os::unix::net::UnixListener::bind(place.path("s")).unwrap();
    let notify = UnixDatagram::bind(place.path("notify")).unwrap();
    notify.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut child = as_a_service(&place, 1)
        .env("NOTIFY_SOCKET", place.path("notify"))
        .stdin(std::os::fd::OwnedFd::from(listener))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let ready = heard(&notify);
    assert!(ready.starts_with(b"READY=1"), "{:?}", ready.escape_ascii());
    assert_eq!(place.report()["zone_count"], 16);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(heard(&notify), b"STOPPING=1");
    // The socket is not ours to remove.
    assert!(place.path("s").exists());
}

#[test]
fn without_a_socket_or_with_too_many_there_is_nothing_to_serve() {
    let place = Place::new();
    place.create("d.zvb", &["--size", "64M"]).ok();
    for (count, reason) in [(0, "--socket-path"), (2, "LISTEN_FDS is 2")] {
        let output = as_a_service(&place, count).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(reason), "{said}");
    }
}

/// The commands of dist/README.md, with another root, which is empty, and this build.
#[test]
fn what_the_readme_installs_gets_there() {
    let place = Place::new();
    let text = dist("README.md");
    let (_, rest) = text.split_once("```sh\n").unwrap();
    let (block, _) = rest.split_once("```").unwrap();
    let root = place.path("root");
    let commands = block
        .lines()
        .filter(|line| !line.starts_with("cargo "))
        .map(|line| line.replace("target/dist/zvb", zvb()))
        .map(|line| line.replace(" /usr/", &format!(" {}/usr/", root.display())))
        .collect::<Vec<_>>()
        .join("\n");
    // As it is installed, it is found.
    let path = format!("{}/usr/bin:{}", root.display(), std::env::var("PATH").unwrap());
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &commands])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .env("PATH", path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    for (file, holds) in [
        ("man/man1/zvb-serve.1", ".TH"),
        ("bash-completion/completions/zvb", "complete"),
        ("zsh/vendor-completions/_zvb", "#compdef zvb"),
        ("fish/vendor_completions.d/zvb.fish", "complete -c zvb"),
        ("qemu/vhost-user/90-zvb.json", "vhost-user-zvb"),
    ] {
        let text = fs::read_to_string(root.join("usr/share").join(file)).unwrap();
        assert!(text.contains(holds), "{file}");
    }
    for unit in ["zvb@.service", "zvb@.socket"] {
        assert!(root.join("usr/lib/systemd/system").join(unit).exists());
    }
    let linked = fs::canonicalize(root.join("usr/libexec/vhost-user-zvb")).unwrap();
    assert_eq!(linked, fs::canonicalize(root.join("usr/bin/zvb")).unwrap());
}

#[test]
fn units_start_a_server_that_exists() {
    let service = dist("systemd/zvb@.service");
    let start = service.lines().find(|line| line.starts_with("ExecStart=")).unwrap();
    let options: Vec<&str> = start.split(' ').skip(1).filter(|word| !word.contains('$')).collect();
    assert_eq!(options, ["serve", "--quiet"]);
    assert!(service.contains("Type=notify"));
    let socket = dist("systemd/zvb@.socket");
    assert!(socket.contains("ListenStream=/run/zvb/%i.sock"));
    // Nobody is let in who was not meant to be, and it is said how.
    assert!(socket.lines().any(|line| line == "SocketMode=0660"));
    for text in [&socket, &dist("README.md")] {
        assert!(text.contains("SocketGroup=kvm") && text.contains("SocketUser="));
    }
}

#[test]
fn completions_know_every_command_and_its_options() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let run = place.run(&["completions", shell]);
        run.ok();
        for word in ["serve", "socket-path", "zone-capacity", "completions"] {
            assert!(run.out().contains(word), "{shell}: {word}");
        }
    }
    // What a shell makes of it, where that shell is there.
    fs::write(place.path("c.bash"), place.run(&["completions", "bash"]).stdout).unwrap();
    let script = "source c.bash; COMP_WORDS=(zvb serve --zone-c); COMP_CWORD=2; \
                  _zvb zvb --zone-c serve; printf '%s\\n' \"${COMPREPLY[@]}\"";
    if let Ok(output) = Command::new("bash").args(["-c", script]).current_dir(place.dir()).output()
    {
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said.trim(), "--zone-capacity", "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn the_help_lists_the_geometry_apart_and_nothing_else_with_it() {
    let place = Place::new();
    let geometry = [
        "--zone-size",
        "--zone-capacity",
        "--conventional",
        "--model",
        "--max-open",
        "--max-active",
        "--max-append",
        "--block-size",
    ];
    for command in ["create", "serve", "attach"] {
        let help = place.run(&[command, "--help"]).out();
        let (_, listed) =
            help.split_once("\nGeometry:\n").unwrap_or_else(|| panic!("{command}: {help}"));
        let listed: Vec<&str> = listed
            .lines()
            .take_while(|line| line.is_empty() || line.starts_with(' '))
            .filter_map(|line| line.split_whitespace().next().filter(|word| word.starts_with("--")))
            .collect();
        assert_eq!(listed, geometry, "{command}");
    }
}

#[test]
fn there_is_a_manual_page_for_every_command() {
    let place = Place::new();
    place.run(&["man", "pages"]).ok();
    let page = |name: &str| fs::read_to_string(place.path("pages").join(name)).unwrap();
    let root = place.run(&["man"]);
    root.ok();
    assert_eq!(root.out(), page("zvb.1"));
    let pages: Vec<String> = fs::read_dir(place.path("pages"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let help = place.run(&["--help"]).out();
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: Vec<&str> = commands
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(commands.len() > 20, "{commands:?}");
    for command in commands {
        let name = format!("zvb-{command}.1");
        assert!(pages.contains(&name), "{name} of {pages:?}");
        assert!(page(&name).contains(".TH"), "{name}");
        assert!(page("zvb.1").contains(&format!("zvb\\-{command}(1)")), "{command} in zvb.1");
    }
    assert!(page("zvb-serve.1").contains("\\-\\-socket\\-path"));
    let source = format!("\"zvb {}\"", env!("CARGO_PKG_VERSION"));
    for name in &pages {
        let page = page(name);
        let title = page.lines().find(|line| line.starts_with(".TH")).unwrap();
        assert!(title.contains(&source), "{name}: {title}");
    }
    // Without -a, modprobe takes the names after the first for parameters.
    assert!(page("zvb-attach.1").contains("modprobe \\-a vduse virtio_vdpa virtio_blk"));
}
