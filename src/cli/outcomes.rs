//! `outcomes`: the ledger of answers, looked at and kept in a file.
use std::path::PathBuf;

use anyhow::anyhow;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::answers::tail::Plan;
use crate::answers::{Since, export, since, tail};
use crate::config::Settings;
use crate::tool::{Exit, Failure};
use convgroup_domain::outcome::Status;
use convgroup_host::clock::unix_ms;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  convgroup-deleter outcomes tail                              the last 20 answers
  convgroup-deleter outcomes tail --since 1h --status failed,mixed
  convgroup-deleter outcomes tail --follow --json | jq .data
  convgroup-deleter outcomes export --since 2026-12-01T00:00:00Z --file outcomes.ndjson

Needs outcomes.enabled and the right to read the ledger, no other; nothing is taken out of it.")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show the last answers, a line each: time, status, request, groups, and why what is not erased is not.
    Tail {
        /// Since so long ago (1h, 7d) or this moment (2026-12-01T00:00:00Z); without it the last 20.
        #[arg(long, value_name = "WHEN", value_parser = since)]
        since: Option<Since>,
        /// Go on with those that come, until Ctrl-C.
        #[arg(long)]
        follow: bool,
        /// Only with this status: what the answer knows of its request. Several are comma-separated.
        #[arg(long, value_delimiter = ',', value_parser = statuses())]
        status: Vec<Status>,
        /// Only of the request with this id.
        #[arg(long, value_name = "ID")]
        request: Option<String>,
        /// One JSON object per answer, as it was published.
        #[arg(long)]
        json: bool,
    },
    /// Write answers to a file, one JSON object per line, as they were published.
    ///
    /// Only its owner may read the file, and it is there whole or not at all.
    Export {
        /// Since so long ago (1h, 7d) or this moment (2026-12-01T00:00:00Z); without it all that is kept.
        #[arg(long, value_name = "WHEN", value_parser = since)]
        since: Option<Since>,
        /// The file; `-` is standard output. An existing file is not overwritten.
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
}

fn statuses() -> impl TypedValueParser<Value = Status> {
    PossibleValuesParser::new(Status::ALL.map(Status::label)).map(|label| {
        let found = Status::ALL.into_iter().find(|it| it.label() == label);
        found.expect("only labels are let through")
    })
}

pub(super) async fn outcomes(settings: &Settings, args: Args) -> Result<Exit, Failure> {
    let amqp = settings.amqp()?;
    let at = |since: Option<Since>| since.map(|since| since.at_ms(unix_ms()));
    match args.command {
        Command::Tail {
            since,
            follow,
            status,
            request,
            json,
        } => {
            if request.as_ref().is_some_and(String::is_empty) {
                return Err(Failure::new(Exit::Usage, anyhow!("--request is empty")));
            }
            let plan = Plan {
                since_ms: at(since),
                follow,
                statuses: status,
                request,
                json,
            };
            tail::tail(&amqp, &plan).await
        }
        Command::Export { since, file } => export::export(&amqp, at(since), &file).await,
    }
}
