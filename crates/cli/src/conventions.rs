//! What QEMU's conventions for vhost-user back-end programs ask of a command line, beyond its options: a
//! program that is the back end, and capabilities that are told whatever else was said.

use std::ffi::OsString;
use std::path::Path;

use clap::{CommandFactory, FromArgMatches};

use crate::args::Cli;

const CAPABILITIES: &str = "--print-capabilities";

/// Reads a command line as it is meant. What makes no sense ends the process, and so does `--help`.
pub(crate) fn parse(line: Vec<OsString>) -> Cli {
    let mut command = command(&line);
    let matches = command.clone().get_matches_from(command_line(line));
    // What was matched is what the definitions ask for.
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit())
}

/// The command, which a back-end program knows by its own name.
fn command(line: &[OsString]) -> clap::Command {
    let command = Cli::command();
    let Some(program) = back_end(line) else { return command };
    // It has no commands, and `serve` is no word of its command line.
    let usage = format!("{program} [OPTIONS] [DISK]");
    command.mut_subcommand(SERVE, |serve| serve.override_usage(usage))
}

const SERVE: &str = "serve";

/// The name of a program that is a back end.
fn back_end(line: &[OsString]) -> Option<String> {
    let name = Path::new(line.first()?).file_name()?.to_string_lossy();
    name.starts_with("vhost-user-").then(|| name.into_owned())
}

/// The command line as it is meant. A program called `vhost-user-...` is `zvb serve`; and where
/// `--print-capabilities` stands, all other options are nothing.
fn command_line(mut line: Vec<OsString>) -> Vec<OsString> {
    if back_end(&line).is_some() {
        line.insert(1, SERVE.into());
    }
    let serves = line.get(1).is_some_and(|command| command == SERVE);
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
