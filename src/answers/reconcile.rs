//! `reconcile`: what was asked for, against what was answered.
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use convgroup_broker::dead_letter::letter;
use convgroup_broker::dead_letter_queue::DeadLetterQueue;
use convgroup_broker::declare::Waiting;
use convgroup_broker::delivery::Message;
use convgroup_broker::ledger::Ledger;
use convgroup_broker::settings::Amqp;
use convgroup_domain::case::{Cases, LetterTold, Status, Sums};
use convgroup_domain::code::CodeTable;
use convgroup_domain::message::{AllGroups, decode_message};
use convgroup_domain::moment;

use super::files::{books, read_outcomes};
use super::read_ledger;
use super::summary::{Unerased, queued, sums_json, table};
use super::wait::{Waited, ended, from_the_end, go_on, wait};
use crate::telemetry;
use crate::tool::{Exit, Failure, Interrupt, NewFile, count, say};

/// Where the answers come from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum From<'a> {
    /// A file that was exported.
    File(&'a Path),
    /// The ledger, from this moment on, unix ms; to its end, or for so long, until all is closed.
    Ledger {
        amqp: &'a Amqp,
        since_ms: Option<i64>,
        wait: Option<Duration>,
    },
}

/// Closes the books of a manifest, and says what became of each request.
pub(crate) async fn reconcile(
    manifest: &Path,
    from: From<'_>,
    report: Option<&Path>,
    json: bool,
    codes: &CodeTable,
) -> Result<Exit, Failure> {
    let mut cases = books(manifest)?;
    let begun = report.map(Report::create).transpose()?;
    let (amqp, since_ms, timeout) = match from {
        From::File(file) => {
            read_outcomes(file, |read| {
                cases.take_in(&read.heard);
            })?;
            return told(&cases, Letters::new(), begun, json, codes);
        }
        From::Ledger {
            amqp,
            since_ms,
            wait,
        } => (amqp, since_ms, wait),
    };
    let ledger = Ledger::open(amqp).await?;
    read_ledger(&ledger, since_ms, |read| {
        cases.take_in(&read.heard);
        Ok(ControlFlow::Continue(()))
    })
    .await?;
    let waited = match timeout {
        None => None,
        Some(timeout) => {
            let interrupt = Interrupt::new()?;
            let open = cases.sums().open();
            if open > 0 {
                telemetry::say(&format!("waiting for {}", count(open, "answer")));
            }
            let (follower, awaited) = (from_the_end(ledger), cases.len());
            let waited = wait(&mut cases, follower, awaited, timeout, interrupt).await;
            Some((waited, timeout))
        }
    };
    let letters = letters(amqp, &cases).await;
    let exit = told(&cases, letters, begun, json, codes)?;
    tell_queued(amqp, &cases.sums()).await;
    let (waited, timeout) = waited.unwrap_or((Waited::Closed, Duration::ZERO));
    let next = go_on(Some(manifest), report);
    ended(waited, exit, cases.sums().open(), timeout, &next)
}

/// Says what is queued, where something is not closed and the user may look.
pub(super) async fn tell_queued(amqp: &Amqp, sums: &Sums) {
    if sums.open() == 0 {
        return;
    }
    if let Ok(waiting) = Waiting::look(amqp).await {
        telemetry::say(&queued(waiting, sums.of(Status::Unknown)));
    }
}

/// Says what became of each request: on standard output, and in a report.
pub(super) fn told(
    cases: &Cases,
    mut letters: Letters,
    mut report: Option<Report>,
    json: bool,
    codes: &CodeTable,
) -> Result<Exit, Failure> {
    let mut unerased = Unerased::default();
    for (place, mut line) in cases.lines().enumerate() {
        line.dead_letter = letters.remove(&place);
        if let Some(report) = &mut report {
            report.file.write(line.to_line().as_bytes())?;
        }
        unerased.take_in(&line, codes);
    }
    let all = match &report {
        Some(report) => format!("{} has all of them", report.name),
        None => "--report FILE has all of them".to_owned(),
    };
    if let Some(report) = report {
        report.file.keep()?;
    }
    let sums = cases.sums();
    if json {
        say(&sums_json(&sums))?;
    } else {
        say(&(table(&sums) + &unerased.text(&all)))?;
    }
    Ok(if sums.erased() == sums.requested() {
        Exit::Done
    } else {
        Exit::Other
    })
}

/// A report that is being written.
pub(crate) struct Report {
    file: NewFile,
    name: String,
}

impl Report {
    /// Begins one, before the work for it begins.
    pub(crate) fn create(path: &Path) -> Result<Self, Failure> {
        Ok(Self {
            file: NewFile::create(path)?,
            name: path.display().to_string(),
        })
    }
}

/// The dead letters of requests that are not erased, by the place of the request.
pub(super) type Letters = HashMap<usize, LetterTold>;

/// Reads the dead letters for those requests that are not erased. Who may read the ledger need not be allowed to read them: without them
/// there are fewer reasons, which is told.
pub(super) async fn letters(amqp: &Amqp, cases: &Cases) -> Letters {
    let mut found = Letters::new();
    let sums = cases.sums();
    if sums.erased() == sums.requested() {
        return found;
    }
    let (queue, snapshot) = match DeadLetterQueue::open(amqp).await {
        Ok(opened) => opened,
        Err(err) if err.is_denied() => {
            telemetry::say(
                "dead letters were not read (no right to the queue); the sums do not need them",
            );
            return found;
        }
        Err(err) => {
            telemetry::say(&format!(
                "the dead letters can't be read, so no reason comes from them: {err}"
            ));
            return found;
        }
    };
    for delivery in snapshot {
        let message = &delivery.message;
        let unerased = |place: &usize| cases.status(*place) != Status::Erased;
        if let Some(place) = place(cases, message).filter(unerased) {
            let letter = letter(message);
            found.insert(
                place,
                LetterTold {
                    cause: letter.cause,
                    class: letter.class,
                    code: letter.code,
                    failed_at: letter.failed_at_ms.map(moment::format_ms),
                },
            );
        }
    }
    queue.close().await;
    found
}

/// The request of a dead letter.
fn place(cases: &Cases, letter: &Message) -> Option<usize> {
    let decoded = decode_message(&letter.body, &letter.declared(), AllGroups::Accepted);
    let cloudevents_id = decoded.cloudevents_id.as_deref();
    cases.place(
        &letter
            .request(cloudevents_id, decoded.event.as_ref().ok())
            .id,
    )
}
