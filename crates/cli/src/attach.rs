//! How a served disk is attached to the virtual machine monitors that let feature bit 17 through.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// The command lines that attach the disk at a socket.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Attach {
    /// The socket, as an absolute path.
    pub(crate) socket: PathBuf,
    /// How appends go to a disk of this host: ordered or native.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) append: Option<&'static str>,
    /// Options of `qemu-system-x86_64`, version 11.1 or newer.
    pub(crate) qemu: String,
    /// Options of `crosvm run`.
    pub(crate) crosvm: String,
    /// A call in a program that uses libkrun.
    pub(crate) libkrun: String,
}

impl Attach {
    /// For the socket at the absolute path `socket`, of a device with `queues` queues.
    pub(crate) fn new(socket: &Path, queues: u16) -> Self {
        let path = socket.display().to_string();
        let qemu_path = shell_word(&format!("socket,id=c,path={}", path.replace(',', ",,")));
        let crosvm_path = shell_word(&format!("block,socket={}", crosvm_value(&path)));
        let c_path = path.replace('\\', "\\\\").replace('"', "\\\"");
        Self {
            socket: socket.to_owned(),
            append: None,
            qemu: format!(
                "qemu-system-x86_64 -machine q35,memory-backend=m \
                 -object memory-backend-memfd,id=m,size=512M,share=on -m 512M \
                 -chardev {qemu_path} \
                 -device vhost-user-test-device-pci,chardev=c,virtio-id=2,num_vqs={queues},vq_size=256,config_size=96"
            ),
            crosvm: format!("crosvm run --vhost-user {crosvm_path}"),
            libkrun: format!(
                "krun_add_vhost_user_device(ctx, 2, \"{c_path}\", NULL, {queues}, NULL);"
            ),
        }
    }
}

impl fmt::Display for Attach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Serving at {}", self.socket.display())?;
        if let Some(append) = self.append {
            writeln!(f, "Appends go to the disk {append}")?;
        }
        writeln!(f, "\nQEMU 11.1 or newer (then add your own options):")?;
        writeln!(f, "  {}", self.qemu)?;
        writeln!(f, "crosvm (then your own options and the kernel):")?;
        writeln!(f, "  {}", self.crosvm)?;
        writeln!(f, "libkrun built with vhost-user (2 is the virtio id of a block device):")?;
        writeln!(f, "  {}", self.libkrun)
    }
}

/// `word` so that a shell takes it as one.
fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=,:+@%".contains(c);
    if word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// `value` so that crosvm's parser of `key=value` takes it as one.
fn crosvm_value(value: &str) -> String {
    if value.contains([',', '=', '"', '\'', '[', ']', '\\']) {
        format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
    } else {
        value.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_can_be_pasted() {
        let attach = Attach::new(Path::new("/run/zvb/disk.sock"), 2);
        assert_eq!(
            attach.qemu,
            "qemu-system-x86_64 -machine q35,memory-backend=m -object memory-backend-memfd,id=m,size=512M,share=on -m 512M -chardev socket,id=c,path=/run/zvb/disk.sock -device vhost-user-test-device-pci,chardev=c,virtio-id=2,num_vqs=2,vq_size=256,config_size=96"
        );
        assert_eq!(attach.crosvm, "crosvm run --vhost-user block,socket=/run/zvb/disk.sock");
        assert_eq!(
            attach.libkrun,
            "krun_add_vhost_user_device(ctx, 2, \"/run/zvb/disk.sock\", NULL, 2, NULL);"
        );
    }

    #[test]
    fn odd_paths_stay_one_word() {
        let attach = Attach::new(Path::new("/tmp/a b,c"), 1);
        assert!(
            attach.qemu.contains("-chardev 'socket,id=c,path=/tmp/a b,,c' "),
            "{}",
            attach.qemu
        );
        assert!(attach.crosvm.ends_with("'block,socket=\"/tmp/a b,c\"'"), "{}", attach.crosvm);
        let quote = Attach::new(Path::new("/tmp/it's"), 1);
        assert!(quote.qemu.contains("'socket,id=c,path=/tmp/it'\\''s'"), "{}", quote.qemu);
    }
}
