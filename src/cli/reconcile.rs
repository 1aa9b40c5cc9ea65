//! `reconcile`: a manifest against the answers.
use std::path::{Path, PathBuf};

use anyhow::anyhow;

use crate::answers::reconcile::{From, reconcile as close_books};
use crate::answers::{Since, since};
use crate::config::Settings;
use crate::tool::{Exit, Failure};
use convgroup_host::clock::unix_ms;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  convgroup-deleter reconcile --manifest manifest.ndjson
  convgroup-deleter reconcile --manifest manifest.ndjson --report report.ndjson --json
  convgroup-deleter reconcile --manifest manifest.ndjson --outcomes outcomes.ndjson      offline

requested = erased + failed + mixed + open. Exit code 0 only if all requests are erased, else 1.")]
pub(super) struct Args {
    /// What was asked for: the file that `publish --manifest` wrote, or one like it; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    manifest: PathBuf,
    /// The answers, as `outcomes export` wrote them; without it they are read from the ledger. `-` is standard input.
    #[arg(long, value_name = "FILE")]
    outcomes: Option<PathBuf>,
    /// Read the ledger from so long ago (7d), or from this moment on, which must be before the first request was published. Without
    /// it all that is kept is read.
    #[arg(long, value_name = "WHEN", value_parser = since, conflicts_with = "outcomes")]
    since: Option<Since>,
    /// Write a line for each request to this file. An existing file is not overwritten.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// The sums as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) async fn reconcile(settings: &Settings, args: Args) -> Result<Exit, Failure> {
    let stdin = Path::new("-");
    if args.manifest == stdin && args.outcomes.as_deref() == Some(stdin) {
        let problem = "--manifest and --outcomes can't both be standard input";
        return Err(Failure::new(Exit::Usage, anyhow!(problem)));
    }
    let codes = settings.codes()?;
    let amqp = match args.outcomes {
        Some(_) => None,
        None => Some(settings.amqp()?),
    };
    let from = match (&args.outcomes, &amqp) {
        (None, Some(amqp)) => From::Ledger {
            amqp,
            since_ms: args.since.map(|since| since.at_ms(unix_ms())),
        },
        (file, _) => From::File(file.as_deref().unwrap_or(stdin)),
    };
    let report = args.report.as_deref();
    close_books(&args.manifest, from, report, args.json, &codes).await
}
