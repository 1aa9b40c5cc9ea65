//! `man`: man pages, made from the program itself.
use std::path::PathBuf;

use anyhow::Context;
use clap::CommandFactory;

use super::Cli;
use crate::tool::{Exit, Failure};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  convgroup-deleter man /usr/local/share/man/man1")]
pub(super) struct Args {
    /// The folder to write `convgroup-deleter.1`, `convgroup-deleter-run.1` … into.
    folder: PathBuf,
}

pub(super) fn man(args: &Args) -> Result<Exit, Failure> {
    clap_mangen::generate_to(Cli::command(), &args.folder)
        .with_context(|| format!("the pages can't be written to {}", args.folder.display()))?;
    Ok(Exit::Done)
}
