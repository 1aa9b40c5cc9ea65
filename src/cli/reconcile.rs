//! `reconcile`: a manifest against the answers.
use std::path::{Path, PathBuf};
use std::time::Duration;

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
  convgroup-deleter reconcile --manifest manifest.ndjson --wait --timeout 3h
  convgroup-deleter reconcile --manifest manifest.ndjson --outcomes outcomes.ndjson      offline

requested = erased + failed + mixed + open. Exit code 0 only if all requests are erased, else 1.")]
pub(super) struct Args {
    /// What was asked for: the file that `publish --manifest` wrote, or one like it; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    manifest: PathBuf,
    /// The answers, as `outcomes export` wrote them; without it they are read from the ledger. `-` is standard input.
    #[arg(long, value_name = "FILE")]
    outcomes: Option<PathBuf>,
    /// Read the ledger from this moment on, or from so long ago (`7d` for a week), which must be before the first request was
    /// published. Without it all that is kept is read.
    #[arg(long, value_name = "WHEN", value_parser = since, conflicts_with = "outcomes")]
    since: Option<Since>,
    /// Follow the ledger until every request is closed.
    #[arg(long, conflicts_with = "outcomes")]
    wait: bool,
    /// How long to wait.
    #[arg(long, value_name = "DURATION", default_value = "1h", requires = "wait", value_parser = humantime::parse_duration)]
    timeout: Duration,
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
            wait: args.wait.then_some(args.timeout),
        },
        (file, _) => From::File(file.as_deref().unwrap_or(stdin)),
    };
    let report = args.report.as_deref();
    close_books(&args.manifest, from, report, args.json, &codes).await
}
