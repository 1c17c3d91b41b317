//! What is said on standard output and standard error.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;
use zvb_wire::Sector;

use crate::shape::ShapeError;
use crate::size::Size;

/// The command line makes no sense, found out later than by its parser.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// The output takes no more.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the output")]
pub(crate) struct OutputGone(#[source] pub(crate) io::Error);

/// Prints `text` as it is.
pub(crate) fn print(text: impl Display) -> Result<(), OutputGone> {
    let mut out = io::stdout().lock();
    write!(out, "{text}").and_then(|()| out.flush()).map_err(OutputGone)
}

/// Prints a line.
pub(crate) fn say(text: impl Display) -> Result<(), OutputGone> {
    print(format_args!("{text}\n"))
}

/// Prints a value as JSON, on many lines.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value).context("cannot put the answer into JSON")?;
    Ok(say(text)?)
}

/// Why a disk of `from` sectors does not become one of `to`.
pub(crate) fn shrinks(from: Sector, to: Sector) -> String {
    let (from, to) = (Size::of(from), Size::of(to));
    format!("the disk is {from} large, and {to} is less: it can only grow")
}

/// Prints a line about the course of things to standard error, where nobody may be listening.
pub(crate) fn log(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "zvb: {text}");
}

/// Tells of `error` on standard error, its causes below it, and says how to exit.
pub(crate) fn fail(error: &anyhow::Error) -> ExitCode {
    // Who stops reading has seen enough: `zvb report | head -1` is no failure.
    if let Some(OutputGone(cause)) = error.downcast_ref()
        && cause.kind() == io::ErrorKind::BrokenPipe
    {
        return ExitCode::SUCCESS;
    }
    let _ = io::stderr().lock().write_all(explain(error).as_bytes());
    let usage = error.chain().any(|cause| cause.is::<Usage>() || cause.is::<ShapeError>());
    ExitCode::from(if usage { 2 } else { 1 })
}

/// The error and its causes. A cause that the line above it has already said is left out.
fn explain(error: &anyhow::Error) -> String {
    let mut text = format!("zvb: {error}\n");
    let mut last = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !last.contains(&cause) {
            text.push_str(&format!("  cause: {cause}\n"));
        }
        last = cause;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_follow_without_repetition() {
        let error = anyhow::Error::new(io::Error::from(io::ErrorKind::NotFound))
            .context("entity not found")
            .context("cannot open disk.zvb");
        assert_eq!(explain(&error), "zvb: cannot open disk.zvb\n  cause: entity not found\n");
    }
}
