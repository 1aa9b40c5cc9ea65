//! `publish`: events from arguments, a file or standard input, each confirmed by the broker; with a manifest of them, and until they are
//! answered, where that is asked for.
use std::io::{BufRead, BufReader};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};

use crate::answers::published::{Following, Given, Plan};
use crate::answers::{Since, since};
use crate::config::Settings;
use crate::telemetry;
use crate::tool::{Exit, Failure, Interrupt, count, progress, say};
use convgroup_broker::feed::{Feed, FeedEvent, RefusedEvent, Stopped};
use convgroup_domain::cloudevent::Form;
use convgroup_domain::message::{DeleteGroups, Target};
use convgroup_domain::text::{BYTE_ORDER_MARK, readable};
use convgroup_domain::{encoding, moment, outcome, request};
use convgroup_host::clock::unix_ms;

/// Most mistakes that are listed before nothing is published.
const MISTAKES_SHOWN: usize = 10;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  convgroup-deleter publish --user user15 test0 test1
  convgroup-deleter publish --user user15 --all-groups --not-after 2026-12-01T00:00:00Z
  convgroup-deleter publish --user user15 test0 --id account-closed-4711 --app billing
  convgroup-deleter publish --file events.ndjson
  echo '{\"From_Account\":\"user15\",\"GroupName\":[\"test0\"]}' | convgroup-deleter publish --file -
  convgroup-deleter publish --file events.ndjson --manifest manifest.ndjson --wait

Every line is checked before the first one is published. Publishing the same event twice does no harm:
the second deletion finds the group already gone. With --wait the exit code is 0 only if all is erased.")]
pub(super) struct Args {
    /// The user whose groups are to be deleted.
    #[arg(long, conflicts_with = "file")]
    user: Option<String>,
    /// The names of the groups: 1 to 100.
    #[arg(
        value_name = "GROUP",
        requires = "user",
        required_unless_present_any = ["file", "all_groups"]
    )]
    groups: Vec<String>,
    /// All groups that the user has, whatever they are called. The daemon has to accept that: events.all_groups.
    #[arg(long, requires = "user", conflicts_with_all = ["groups", "file"])]
    all_groups: bool,
    /// Make no call for it after this moment (RFC 3339: 2026-12-01T00:00:00Z).
    #[arg(
        long,
        value_name = "MOMENT",
        requires = "user",
        conflicts_with = "file"
    )]
    not_after: Option<String>,
    /// Name the request by this id in its answers: 1 to 200 bytes, which no other request may have. Without it
    /// a UUID is made, and printed.
    #[arg(long, value_name = "ID", requires = "user", conflicts_with = "file", value_parser = id)]
    id: Option<String>,
    /// Say who asks, for the routing keys of the answers (`STATUS.NAME`): 1 to 64 letters, digits, `_` and `-`.
    #[arg(long, value_name = "NAME", value_parser = app)]
    app: Option<String>,
    /// A file with one event (JSON), alone or in a CloudEvent, per line; `-` is standard input.
    #[arg(long, value_name = "FILE", required_unless_present = "user")]
    file: Option<PathBuf>,
    /// Publish lines as they stand, broken ones too (they end in the dead letters).
    #[arg(long)]
    unchecked: bool,
    #[command(flatten)]
    answers: Answers,
}

/// What concerns the answers to what is published.
#[derive(Debug, clap::Args)]
struct Answers {
    /// Write what is asked for to this file, before anything is published: a line per event, for `reconcile`.
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// Go on with the same events and the manifest of an earlier run: publish those that have no answer in the ledger.
    #[arg(long, requires = "manifest")]
    resume: bool,
    /// With --resume: read the ledger from this moment on, or from so long ago (`7d` for a week), which must be before the manifest
    /// was written. Without it all that is kept is read.
    #[arg(long, value_name = "WHEN", value_parser = since, requires = "resume")]
    since: Option<Since>,
    /// Wait until all is answered, and say what became of it.
    #[arg(long)]
    wait: bool,
    /// How long to wait.
    #[arg(long, value_name = "DURATION", default_value = "1h", requires = "wait", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Write a line for each request to this file, with what became of it. An existing file is not overwritten.
    #[arg(long, value_name = "FILE", requires = "wait")]
    report: Option<PathBuf>,
}

pub(super) async fn publish(settings: &Settings, args: Args) -> Result<Exit, Failure> {
    let amqp = settings.amqp()?;
    let given = events(&args)?;
    let asked = &args.answers;
    let plan = Plan {
        manifest: asked.manifest.as_deref(),
        resume: asked.resume,
        since_ms: asked.since.map(|since| since.at_ms(unix_ms())),
        wait: asked.wait.then_some(asked.timeout),
        report: asked.report.as_deref(),
    };
    let mut events = plan.events(given)?;
    let mut feed = Feed::open(&amqp, args.app.as_deref()).await?;
    let following = Following::begin(&plan, settings, &amqp, &mut events).await?;
    // Without --wait there is nothing to be said at the end, and a signal ends the process as it ends any other.
    let mut interrupt = asked.wait.then(Interrupt::new).transpose()?;
    let started = Instant::now();
    let again = |left: usize| {
        format!(
            "{left} of {} events are not confirmed; publish the whole again{}, repeats do no harm",
            events.left.len(),
            if plan.manifest.is_some() {
                " with --resume"
            } else {
                ""
            }
        )
    };
    let published = published(&mut feed, &events.left, interrupt.as_mut()).await;
    let (done, refused, cause) = match published {
        Published::All(refused) => (events.left.len(), refused, None),
        Published::Stopped(stopped) => (stopped.done, stopped.refused, Some(stopped.cause)),
        Published::Interrupted(done) => {
            let problem = again(events.left.len() - done);
            return Err(Failure::new(Exit::Other, anyhow!("interrupted: {problem}")));
        }
    };
    let refused_before = refused.iter().filter(|event| event.index < done).count();
    if events.left.is_empty() {
        say("nothing is left to be published\n")?;
    } else {
        say(&format!(
            "{} published and confirmed in {:.1} s\n",
            count(done - refused_before, "event"),
            started.elapsed().as_secs_f64()
        ))?;
    }
    if let Some(err) = cause {
        let left = events.left.len() - done + refused_before;
        return Err(Failure::from(err).context(again(left)));
    }
    if let (Some(_), [event], []) = (&args.user, &events.left[..], &refused[..]) {
        say(&format!("request {}\n", readable(&event.id)))?;
    }
    let refusals = refusals(&refused, &events.numbers);
    if let Some(refusals) = &refusals {
        telemetry::say(&format!("convgroup-deleter: {refusals}"));
    }
    let exit = following.end(refused.len(), interrupt).await?;
    Ok(if refusals.is_some() {
        Exit::Other
    } else {
        exit
    })
}

/// How publishing ended.
enum Published {
    /// Each event has its end; these were refused.
    All(Vec<RefusedEvent>),
    /// Nothing more can be published.
    Stopped(Stopped),
    /// Somebody asked for its end, when so many events had theirs.
    Interrupted(usize),
}

/// Publishes all, with progress on a terminal.
async fn published(
    feed: &mut Feed,
    events: &[FeedEvent],
    interrupt: Option<&mut Interrupt>,
) -> Published {
    let bar = progress(events.len(), "confirmed, {rate}");
    let publishing = feed.publish_all(events, |done| bar.set_position(done as u64));
    let interrupted = async {
        match interrupt {
            Some(interrupt) => {
                interrupt.heard().await;
            }
            None => std::future::pending().await,
        }
    };
    let published = tokio::select! {
        published = publishing => match published {
            Ok(refused) => Published::All(refused),
            Err(stopped) => Published::Stopped(stopped),
        },
        () = interrupted => Published::Interrupted(usize::try_from(bar.position()).unwrap_or_default()),
    };
    bar.finish_and_clear();
    published
}

/// An argument that can't be used.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum Unusable {
    #[error("an id has 1 to {} bytes", request::ID_BYTES_MAX)]
    Id,
    #[error("it is 1 to 64 letters (a to z, A to Z), digits, `_` and `-`")]
    App,
}

fn id(text: &str) -> Result<String, Unusable> {
    let text = text.to_owned();
    request::is_id(&text).then_some(text).ok_or(Unusable::Id)
}

fn app(text: &str) -> Result<String, Unusable> {
    let text = text.to_owned();
    outcome::is_app(&text).then_some(text).ok_or(Unusable::App)
}

/// Which events the broker refused, the first of them with the reason; nothing where it took all. `numbers` are those of the events that
/// were published.
fn refusals(refused: &[RefusedEvent], numbers: &[usize]) -> Option<String> {
    if refused.is_empty() {
        return None;
    }
    let lines: Vec<String> = refused
        .iter()
        .take(MISTAKES_SHOWN)
        .map(|event| format!("event {}: {}", numbers[event.index], event.refusal))
        .collect();
    let more = match refused.len().saturating_sub(MISTAKES_SHOWN) {
        0 => String::new(),
        more => format!("\n  and {more} more"),
    };
    Some(format!(
        "{} not published, the others are:\n  {}{more}",
        count(refused.len(), "event"),
        lines.join("\n  ")
    ))
}

fn events(args: &Args) -> Result<Vec<Given>, Failure> {
    let usage = |error: anyhow::Error| Failure::new(Exit::Usage, error);
    if let Some(user) = &args.user {
        let target = if args.all_groups {
            Target::All
        } else {
            Target::Named(&args.groups)
        };
        let event = DeleteGroups::encode(user, target, args.not_after.as_deref())
            .map_err(|err| usage(anyhow!(err)))?;
        let last = args.not_after.as_deref();
        if let Some(last) = last.filter(|last| is_past(last, unix_ms())) {
            return Err(usage(anyhow!(
                "--not-after {last} has passed: no call would be made for it; nothing was published"
            )));
        }
        return Ok(vec![Given {
            body: event,
            form: Form::Plain,
            id: args.id.clone(),
            line: None,
        }]);
    }
    let path = args.file.as_deref().unwrap_or(Path::new("-"));
    let lines = if path == Path::new("-") {
        lines(std::io::stdin().lock(), args.unchecked)
    } else {
        std::fs::File::open(path)
            .map(BufReader::new)
            .map_err(anyhow::Error::from)
            .and_then(|file| lines(file, args.unchecked))
    };
    let lines = lines
        .with_context(|| format!("{} can't be read", path.display()))
        .map_err(usage)?;
    let total = lines.len();
    let mut given = Vec::with_capacity(total);
    let mut wrong = Vec::new();
    for (number, body) in lines {
        let form = Form::of(&body);
        let read = form.decode(&body);
        if let Err(err) = read.event {
            wrong.push(format!("line {number}: {err}"));
        }
        given.push(Given {
            body,
            form,
            id: read.cloudevents_id,
            line: u32::try_from(number).ok().and_then(NonZeroU32::new),
        });
    }
    if args.unchecked || wrong.is_empty() {
        return Ok(given);
    }
    let shown = wrong
        .iter()
        .take(MISTAKES_SHOWN)
        .cloned()
        .collect::<Vec<_>>()
        .join("\n  ");
    let more = wrong.len().saturating_sub(MISTAKES_SHOWN);
    let more = if more > 0 {
        format!("\n  and {more} more")
    } else {
        String::new()
    };
    Err(usage(anyhow!(
        "{} of {} events in {} are broken; nothing was published (--unchecked publishes them as they are)\n  {shown}{more}",
        wrong.len(),
        total,
        path.display()
    )))
}

/// Whether a moment has passed.
fn is_past(text: &str, now_ms: i64) -> bool {
    moment::parse(text).is_some_and(|last| last < now_ms)
}

/// The lines that are not blank, as bytes, with their numbers from 1.
fn lines(input: impl BufRead, as_they_stand: bool) -> anyhow::Result<Vec<(usize, Vec<u8>)>> {
    let mut lines = Vec::new();
    for (index, line) in input.split(b'\n').enumerate() {
        let mut line = line?;
        if index == 0 && !as_they_stand {
            line = first_line(line)?;
        }
        if !line.trim_ascii().is_empty() {
            lines.push((index + 1, line));
        }
    }
    Ok(lines)
}

/// The first line without the byte order mark that an editor has written for the whole file. Of a file that is no text in UTF-8
/// the lines would be none.
fn first_line(line: Vec<u8>) -> anyhow::Result<Vec<u8>> {
    if let Some(what) = encoding::by_bytes(&line) {
        bail!("{what}; nothing was published");
    }
    let mark = BYTE_ORDER_MARK.to_string();
    Ok(line
        .strip_prefix(mark.as_bytes())
        .map(<[u8]>::to_vec)
        .unwrap_or(line))
}
