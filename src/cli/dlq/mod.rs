//! `dlq`: the dead letters, looked at, sent back, kept in a file, or removed.
//!
//! Looking harms nothing: letters are held while they are read and go back in their order (see [`crate::broker::letters`]).
mod export;
mod look;
mod redrive;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Exit, Failure};
use crate::broker::delivery::Delivery;
use crate::broker::letters::{Letters, letter};
use crate::clock::unix_ms;
use crate::config::{Amqp, Settings};
use crate::domain::code::CodeTable;
use crate::domain::letter::{Filter, Letter};
use crate::metrics::Metrics;
use crate::telemetry::Ids;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  convgroup-deleter dlq ls                                   groups by cause, class and code
  convgroup-deleter dlq show --code 51011 --limit 3          single letters, what the code means, what a redrive would do
  convgroup-deleter dlq redrive --cause exhausted --dry-run  how many would go
  convgroup-deleter dlq redrive --cause exhausted            one as a canary, then growing batches
  convgroup-deleter dlq export --file letters.ndjson
  convgroup-deleter dlq purge --code 50001 --yes             writes them to a file first")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Groups of letters by cause, class and code: how many, the oldest, the newest.
    Ls {
        #[command(flatten)]
        which: Which,
        /// One JSON object per group.
        #[arg(long)]
        json: bool,
    },
    /// Single letters with their headers, and what the code means.
    Show {
        #[command(flatten)]
        which: Which,
        /// At most so many.
        #[arg(long, default_value_t = 10)]
        limit: usize,
        /// Show user ids and group names as they are; they are hashed otherwise.
        #[arg(long)]
        reveal_ids: bool,
        /// One JSON object per letter.
        #[arg(long)]
        json: bool,
    },
    /// Send letters back to the main queue: one as a canary, then growing batches, until too many come back dead.
    Redrive {
        #[command(flatten)]
        which: Which,
        /// At most so many.
        #[arg(long)]
        limit: Option<usize>,
        /// Letters per second at most.
        #[arg(long, default_value_t = 100)]
        rate: u32,
        /// Only say how many would go.
        #[arg(long)]
        dry_run: bool,
        /// How long to wait, after a batch is worked off, for letters that come back dead.
        #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = humantime::parse_duration)]
        settle: Duration,
    },
    /// Write letters to a file, one JSON object per line; they stay where they are.
    Export {
        #[command(flatten)]
        which: Which,
        /// The file; `-` is standard output. An existing file is not overwritten.
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Remove letters for good; they are written to a file first.
    Purge {
        #[command(flatten)]
        which: Which,
        /// All of them; needed when nothing else says which.
        #[arg(long)]
        all: bool,
        /// Really do it; without it only says what would go.
        #[arg(long)]
        yes: bool,
        /// Where to write them first (default: `dead-letters-<time>.ndjson`).
        #[arg(long, value_name = "FILE", conflicts_with = "no_export")]
        file: Option<PathBuf>,
        /// Do not write them to a file first.
        #[arg(long)]
        no_export: bool,
    },
}

/// Which letters are meant; all conditions have to hold.
#[derive(Clone, Debug, clap::Args)]
struct Which {
    /// With this cause: rejected, exhausted, malformed, delivery_limit. Several are comma-separated.
    #[arg(long, value_delimiter = ',')]
    cause: Vec<String>,
    /// With this class: rejected, transient, unknown, malformed.
    #[arg(long, value_delimiter = ',')]
    class: Vec<String>,
    /// With this code: 51011, timeout, http_5xx, other.
    #[arg(long, value_delimiter = ',')]
    code: Vec<String>,
    /// With this message id.
    #[arg(long, value_delimiter = ',')]
    message_id: Vec<String>,
    /// That died at least this long ago (1h, 7d).
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    older_than: Option<Duration>,
    /// That died at most this long ago.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    newer_than: Option<Duration>,
}

impl From<&Which> for Filter {
    fn from(which: &Which) -> Self {
        let which = which.clone();
        Self {
            causes: which.cause,
            classes: which.class,
            codes: which.code,
            message_ids: which.message_id,
            older_than: which.older_than,
            newer_than: which.newer_than,
        }
    }
}

pub(super) async fn dlq(settings: &Settings, args: Args) -> Result<Exit, Failure> {
    let (amqp, codes) = (settings.amqp()?, settings.codes()?);
    let filter = args.command.filter()?;
    let mut desk = Desk::open(&amqp, codes, &filter).await?;
    let done = match args.command {
        Command::Ls { json, .. } => look::ls(&desk, json),
        Command::Show {
            limit,
            reveal_ids,
            json,
            ..
        } => {
            let app = settings.im().map_or(0, |im| im.sdk_app_id);
            look::show(&desk, limit, Ids::new(reveal_ids, app), json)
        }
        Command::Redrive {
            limit,
            rate,
            dry_run,
            settle,
            ..
        } => {
            let plan = redrive::Plan {
                limit,
                rate,
                dry_run,
                settle,
            };
            redrive::redrive(&mut desk, plan).await
        }
        Command::Export { file, .. } => export::export(&desk, &file),
        Command::Purge {
            yes,
            file,
            no_export,
            ..
        } => export::purge(&mut desk, yes, file, no_export).await,
    };
    desk.letters.close().await;
    done
}

impl Command {
    /// Which letters it means. A purge has to be told.
    fn filter(&self) -> Result<Filter, Failure> {
        let (Self::Ls { which, .. }
        | Self::Show { which, .. }
        | Self::Redrive { which, .. }
        | Self::Export { which, .. }
        | Self::Purge { which, .. }) = self;
        let filter = Filter::from(which);
        if matches!(self, Self::Purge { all: false, .. }) && filter.is_empty() {
            return Err(Failure::new(
                Exit::Usage,
                anyhow::anyhow!(
                    "say which letters (--code, --cause, --older-than …), or --all for all of them"
                ),
            ));
        }
        Ok(filter)
    }
}

/// The letters that are there now, and those of them that are meant.
struct Desk {
    letters: Letters,
    codes: CodeTable,
    /// The letters meant, oldest first.
    meant: Vec<(Letter, Delivery)>,
}

impl Desk {
    async fn open(amqp: &Amqp, codes: CodeTable, filter: &Filter) -> Result<Self, Failure> {
        let (letters, snapshot) = Letters::open(amqp, Arc::new(Metrics::new(&codes))).await?;
        let now_ms = unix_ms();
        // The others are held as well: the broker keeps what is not settled until the session closes.
        let meant = snapshot.into_iter().filter_map(|delivery| {
            let letter = letter(&delivery.message);
            filter
                .matches(&letter, now_ms)
                .then_some((letter, delivery))
        });
        let meant = meant.collect();
        Ok(Self {
            letters,
            codes,
            meant,
        })
    }
}

/// A moment as people read it.
fn moment(at_ms: Option<i64>) -> String {
    let at = at_ms
        .and_then(|ms| u64::try_from(ms).ok())
        .filter(|&ms| ms < 253_402_300_800_000);
    at.map_or("-".to_owned(), |ms| {
        let at = std::time::UNIX_EPOCH + Duration::from_millis(ms);
        humantime::format_rfc3339_seconds(at).to_string()
    })
}
