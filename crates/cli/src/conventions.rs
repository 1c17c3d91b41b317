//! What QEMU's conventions for vhost-user back-end programs ask of a command line, beyond its options: a
//! program that is the back end, and capabilities that are told whatever else was said.

use std::ffi::OsString;
use std::path::Path;

const CAPABILITIES: &str = "--print-capabilities";

/// The command line as it is meant. A program called `vhost-user-...` is `zvb serve`; and where
/// `--print-capabilities` stands, all other options are nothing.
pub(crate) fn command_line(mut line: Vec<OsString>) -> Vec<OsString> {
    let name = line.first().and_then(|program| Path::new(program).file_name());
    if name.is_some_and(|name| name.to_string_lossy().starts_with("vhost-user-")) {
        line.insert(1, "serve".into());
    }
    let serves = line.get(1).is_some_and(|command| command == "serve");
    if serves && line.iter().any(|word| word == CAPABILITIES) {
        line.truncate(2);
        line.push(CAPABILITIES.into());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(line: &str) -> String {
        let line = command_line(line.split(' ').map(OsString::from).collect());
        line.join(" ".as_ref()).into_string().unwrap()
    }

    #[test]
    fn a_back_end_program_serves() {
        let line = "/usr/libexec/vhost-user-zvb --blk-file d.zvb --fd 3";
        assert_eq!(meant(line), "/usr/libexec/vhost-user-zvb serve --blk-file d.zvb --fd 3");
        assert_eq!(meant("zvb report --socket-path s"), "zvb report --socket-path s");
        assert_eq!(meant("zvb"), "zvb");
    }

    #[test]
    fn capabilities_are_told_whatever_else_is_said() {
        let line = "zvb serve --fd 3 --print-capabilities --socket-path s --nonsense";
        assert_eq!(meant(line), "zvb serve --print-capabilities");
        assert_eq!(
            meant("vhost-user-zvb --print-capabilities"),
            "vhost-user-zvb serve --print-capabilities"
        );
        // Of other commands it is no option.
        assert_eq!(meant("zvb id --print-capabilities"), "zvb id --print-capabilities");
    }
}
