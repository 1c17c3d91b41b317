//! `zvb completions` and `zvb man`: both made from the command's own definitions.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_mangen::Man;

use crate::args::Cli;
use crate::args::manual::{CompletionsArgs, ManArgs};
use crate::output;

pub(super) fn run_completions(args: &CompletionsArgs) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "zvb", &mut text);
    Ok(output::print(String::from_utf8_lossy(&text))?)
}

pub(super) fn run_man(args: &ManArgs) -> Result<()> {
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    let Some(folder) = &args.folder else {
        return Ok(output::print(String::from_utf8_lossy(&page(&root, "zvb")?))?);
    };
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    pages(&root, "zvb".to_owned(), folder)
}

/// Writes the page of `command`, and those of its commands.
fn pages(command: &Command, name: String, folder: &Path) -> Result<()> {
    let path = folder.join(format!("{name}.1"));
    let page = page(command, &name)?;
    fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        pages(below, format!("{name}-{}", below.get_name()), folder)?;
    }
    Ok(())
}

fn page(command: &Command, name: &str) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command.clone())
        .title(name)
        .source(concat!("zvb ", env!("CARGO_PKG_VERSION")))
        .manual("zvb")
        .render(&mut page)?;
    Ok(page)
}
