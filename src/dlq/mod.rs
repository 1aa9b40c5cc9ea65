//! `dlq`: the dead letters, looked at, sent back, kept in a file, or removed.
//!
//! Looking harms nothing: letters are held while they are read and go back in their order (see [`convgroup_broker::dead_letter_queue`]).
//! Whoever looks has all of them in hand, so only one can at a time.
mod export;
mod list;
mod purge;
mod redrive;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::{export::line as exported, list::shown};

use self::purge::Purger;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::anyhow;
use clap::builder::PossibleValuesParser;

use crate::config::Settings;
use crate::telemetry::{self, Ids};
use crate::tool::{Exit, Failure, count, no_code};
use convgroup_broker::dead_letter::letter;
use convgroup_broker::dead_letter_queue::DeadLetterQueue;
use convgroup_broker::delivery::{Delivery, Message};
use convgroup_broker::settings::Amqp;
use convgroup_domain::code::CodeTable;
use convgroup_domain::dead_letter::{CAUSES, CLASSES, DeadLetter, Filter, NONE};
use convgroup_domain::decide::MALFORMED;
use convgroup_domain::message::{AllGroups, decode_message};
use convgroup_host::clock::{self, unix_ms};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  convgroup-deleter dlq ls                                   groups by cause, class and code
  convgroup-deleter dlq show --code 51011 --limit 3          single letters, what the code means, what a redrive would do
  convgroup-deleter dlq redrive --cause exhausted --dry-run  how many would go
  convgroup-deleter dlq redrive --cause exhausted            one as a canary, then growing batches
  convgroup-deleter dlq export --file letters.ndjson
  convgroup-deleter dlq purge --code 50001 --yes             writes them to a file first")]
pub(crate) struct Args {
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
    /// Send letters back to the main queue: one as a canary, then growing batches, until too many fail again.
    ///
    /// Failing again is: coming back dead, or more messages in the delay queues than before the batch. Malformed letters would be
    /// dead again at once and are left out unless a filter names them.
    Redrive {
        #[command(flatten)]
        which: Which,
        /// At most so many.
        #[arg(long)]
        limit: Option<usize>,
        /// Letters per second at most.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        rate: u32,
        /// Only say how many would go.
        #[arg(long)]
        dry_run: bool,
        /// How long to wait, after a batch has left the main queue, for what fails again; longer than a call may take.
        #[arg(long, value_name = "DURATION", default_value = "6s", value_parser = humantime::parse_duration)]
        settle: Duration,
        /// Go on although the delay queues grow.
        #[arg(long)]
        ignore_delays: bool,
    },
    /// Write letters to a file, one JSON object per line; they stay where they are.
    ///
    /// The file holds user ids and group names as they are; only its owner may read it. `jq -c 'select(.cause != "malformed") |
    /// .body | fromjson? // empty'` makes events of it that `publish --file -` takes.
    Export {
        #[command(flatten)]
        which: Which,
        /// The file; `-` is standard output. An existing file is not overwritten.
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Remove letters for good; they are written to a file first. With outcomes.enabled their requests are answered: purged.
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
    /// With this cause; of RabbitMQ's own making are `delivery_limit`, `ttl` (an `expiration` ran out), `maxlen` and `nacked`;
    /// `-` is none, published by somebody else. Several are comma-separated.
    #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(CAUSES))]
    cause: Vec<String>,
    /// With this class.
    #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(CLASSES))]
    class: Vec<String>,
    /// With exactly this code, as `dlq ls` shows it: 51011, 99999, timeout, `http_503`.
    #[arg(long, value_delimiter = ',', allow_negative_numbers = true)]
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

impl Which {
    fn filter(&self, codes: &CodeTable) -> Result<Filter, Failure> {
        let usage = |problem: String| Failure::new(Exit::Usage, anyhow!(problem));
        let code = |code: &String| match codes.explain(code) {
            None => Err(no_code(codes, code)),
            Some(_) if codes.tells(code) => Ok(code.clone()),
            Some(_) => Err(usage(format!(
                "--code {code}: no letter has it; each has the number or status that was answered (99999, http_404), as `dlq ls` \
                 shows"
            ))),
        };
        if let (Some(older), Some(newer)) = (self.older_than, self.newer_than)
            && older > newer
        {
            return Err(usage(
                "--older-than is longer ago than --newer-than: no letter is both".to_owned(),
            ));
        }
        if self.message_id.iter().any(String::is_empty) {
            return Err(usage("--message-id is empty".to_owned()));
        }
        Ok(Filter {
            causes: self.cause.clone(),
            classes: self.class.clone(),
            codes: self.code.iter().map(code).collect::<Result<_, _>>()?,
            message_ids: self.message_id.clone(),
            older_than: self.older_than,
            newer_than: self.newer_than,
        })
    }
}

pub(crate) async fn dlq(settings: &Settings, args: Args) -> Result<Exit, Failure> {
    let (amqp, codes) = (settings.amqp()?, settings.codes()?);
    let filter = args.command.filter(&codes)?;
    // A purge answers the requests of what it removes.
    let purger = match &args.command {
        Command::Purge { .. } => Purger::new(&amqp, settings)?,
        _ => None,
    };
    let mut selection = Selection::open(&amqp, codes, &filter, &args.command).await?;
    let done = match args.command {
        Command::Ls { json, .. } => list::ls(&selection, json),
        Command::Show {
            limit,
            reveal_ids,
            json,
            ..
        } => {
            // Without the app the hash would be another than the one in the logs.
            let ids = match settings.sdk_app_id() {
                Ok(app) => Some(Ids::new(reveal_ids, app)),
                Err(_) => reveal_ids.then(|| Ids::new(true, 0)),
            };
            list::show(&selection, limit, ids, json)
        }
        Command::Redrive {
            limit,
            rate,
            dry_run,
            settle,
            ignore_delays,
            ..
        } => {
            let plan = redrive::Plan {
                limit,
                rate,
                dry_run,
                settle,
                ignore_delays,
            };
            redrive::redrive(&mut selection, plan).await
        }
        Command::Export { file, .. } => export::export(&selection, &file),
        Command::Purge {
            yes,
            file,
            no_export,
            ..
        } => purge::purge(&mut selection, purger, yes, file, no_export).await,
    };
    selection.letters.close().await;
    done
}

impl Command {
    /// Which letters it means. A purge has to be told.
    fn filter(&self, codes: &CodeTable) -> Result<Filter, Failure> {
        let (Self::Ls { which, .. }
        | Self::Show { which, .. }
        | Self::Redrive { which, .. }
        | Self::Export { which, .. }
        | Self::Purge { which, .. }) = self;
        let filter = which.filter(codes)?;
        let problem = match self {
            Self::Purge { all: false, .. } if filter.is_empty() => {
                "say which letters (--code, --cause, --older-than …), or --all for all of them"
            }
            Self::Purge { all: true, .. } if !filter.is_empty() => {
                "--all and a filter: which of the two?"
            }
            Self::Purge {
                file: Some(file), ..
            } if file == Path::new("-") => {
                "--file - : a purge keeps its copy in a file; `dlq export --file -` writes to standard output"
            }
            _ => return Ok(filter),
        };
        Err(Failure::new(Exit::Usage, anyhow!(problem)))
    }
}

/// The letters that are there now, and those of them that are meant.
struct Selection {
    letters: DeadLetterQueue,
    codes: CodeTable,
    /// The letters meant, oldest first.
    meant: Vec<(DeadLetter, Delivery)>,
}

impl Selection {
    async fn open(
        amqp: &Amqp,
        codes: CodeTable,
        filter: &Filter,
        command: &Command,
    ) -> Result<Self, Failure> {
        let (letters, snapshot) = DeadLetterQueue::open(amqp).await?;
        let now_ms = unix_ms();
        let counts_only = matches!(command, Command::Ls { .. });
        let redrives = matches!(command, Command::Redrive { .. });
        let spares_malformed = redrives && !filter.names_malformed();
        let (mut undated, mut spared, mut expired) = (0, 0, 0);
        let mut meant = Vec::new();
        // The others are held as well: the broker keeps what is not settled until the session closes.
        for mut delivery in snapshot {
            let letter = letter(&delivery.message);
            undated += usize::from(filter.asks_age() && letter.failed_at_ms.is_none());
            if !filter.matches(&letter, now_ms) {
                continue;
            }
            if spares_malformed && letter.cause == MALFORMED {
                spared += 1;
                continue;
            }
            if redrives && is_expired(&delivery.message, now_ms) {
                expired += 1;
                continue;
            }
            if counts_only {
                delivery.message.body = Vec::new();
            }
            meant.push((letter, delivery));
        }
        if undated > 0 {
            telemetry::say(&format!(
                "left out, because nothing says when they died: {}",
                count(undated, "letter")
            ));
        }
        if spared > 0 {
            telemetry::say(&format!(
                "left out, because they would be dead again at once: {} (`--cause malformed` takes them)",
                count(spared, "malformed letter")
            ));
        }
        if expired > 0 {
            telemetry::say(&format!(
                "left out, because the moment that their event allows (`NotAfter`) has passed: {}",
                count(expired, "letter")
            ));
        }
        Ok(Self {
            letters,
            codes,
            meant,
        })
    }
}

/// Whether no call may be made any more for the event of a letter.
fn is_expired(message: &Message, now_ms: i64) -> bool {
    decode_message(&message.body, &message.declared(), AllGroups::Accepted)
        .event
        .is_ok_and(|event| event.is_expired(now_ms))
}

/// A moment as people read it; `-` where there is none.
fn moment(at_ms: Option<i64>) -> String {
    at_ms
        .and_then(|ms| clock::moment(u64::try_from(ms / 1000).ok()?))
        .unwrap_or_else(|| NONE.to_owned())
}
