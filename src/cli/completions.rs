//! `completions` and `man`: what a shell and `man` want to know, made from the program itself.
use std::path::PathBuf;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Exit, Failure, say};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  convgroup-deleter completions bash > /etc/bash_completion.d/convgroup-deleter
  convgroup-deleter completions zsh > \"${fpath[1]}/_convgroup-deleter\"")]
pub(super) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  convgroup-deleter man /usr/local/share/man/man1")]
pub(super) struct ManArgs {
    /// The folder to write `convgroup-deleter.1`, `convgroup-deleter-run.1` … into.
    folder: PathBuf,
}

pub(super) fn completions(args: &CompletionsArgs) -> Result<Exit, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut Cli::command(),
        "convgroup-deleter",
        &mut text,
    );
    say(&String::from_utf8_lossy(&text))?;
    Ok(Exit::Done)
}

pub(super) fn man(args: &ManArgs) -> Result<Exit, Failure> {
    clap_mangen::generate_to(Cli::command(), &args.folder)
        .with_context(|| format!("the pages can't be written to {}", args.folder.display()))?;
    Ok(Exit::Done)
}
