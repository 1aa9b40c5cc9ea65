//! `reconcile`: what was asked for, against what was answered.
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;

use convgroup_broker::dead_letter::letter;
use convgroup_broker::dead_letter_queue::DeadLetterQueue;
use convgroup_broker::delivery::Message;
use convgroup_broker::ledger::Ledger;
use convgroup_broker::settings::Amqp;
use convgroup_domain::case::{Cases, LetterTold, Status};
use convgroup_domain::code::CodeTable;
use convgroup_domain::message::{AllGroups, decode_message};
use convgroup_domain::moment;

use super::files::{books, read_outcomes};
use super::read_ledger;
use super::summary::{Unerased, sums_json, table};
use crate::telemetry;
use crate::tool::{Exit, Failure, NewFile, say};

/// Where the answers come from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum From<'a> {
    /// A file that was exported.
    File(&'a Path),
    /// The ledger, from this moment on, unix ms.
    Ledger {
        amqp: &'a Amqp,
        since_ms: Option<i64>,
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
    let report = report.map(Report::create).transpose()?;
    let letters = match from {
        From::File(file) => {
            read_outcomes(file, |read| {
                cases.take_in(&read.heard);
            })?;
            Letters::new()
        }
        From::Ledger { amqp, since_ms } => {
            let ledger = Ledger::open(amqp).await?;
            read_ledger(&ledger, since_ms, |read| {
                cases.take_in(&read.heard);
                Ok(ControlFlow::Continue(()))
            })
            .await?;
            letters(amqp, &cases).await
        }
    };
    told(&cases, letters, report, json, codes)
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
