//! `completions`: what a shell wants to know, made from the program itself.
use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;
use crate::tool::{Exit, Failure, say};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  convgroup-deleter completions bash > /etc/bash_completion.d/convgroup-deleter
  convgroup-deleter completions zsh > \"${fpath[1]}/_convgroup-deleter\"")]
pub(super) struct Args {
    /// The shell.
    shell: Shell,
}

pub(super) fn completions(args: &Args) -> Result<Exit, Failure> {
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
