//! What `publish` does beside publishing: the manifest, what is left of an earlier run, and waiting for the answers.
use std::num::NonZeroU32;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use convgroup_broker::feed::{FeedEvent, new_id};
use convgroup_broker::ledger::{Follower, Ledger};
use convgroup_broker::settings::Amqp;
use convgroup_domain::case::{Cases, Status};
use convgroup_domain::cloudevent::Form;
use convgroup_domain::code::CodeTable;
use convgroup_domain::manifest::{Asked, LineError};
use convgroup_domain::request::bounded;

use super::files::read_manifest;
use super::read_ledger;
use super::reconcile::{Report, letters, tell_queued, told};
use super::wait::{ended, from_the_end, go_on, short, wait};
use crate::config::Settings;
use crate::telemetry;
use crate::tool::{Exit, Failure, Interrupt, NewFile, count};

/// What is asked for beside publishing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan<'a> {
    /// Where the manifest is, or is to be.
    pub(crate) manifest: Option<&'a Path>,
    /// Whether an earlier run is to be finished.
    pub(crate) resume: bool,
    /// From when on the ledger is read for that, unix ms.
    pub(crate) since_ms: Option<i64>,
    /// How long to wait for answers.
    pub(crate) wait: Option<Duration>,
    /// Where the report is to be.
    pub(crate) report: Option<&'a Path>,
}

/// An event as it was given.
pub(crate) struct Given {
    /// Its body.
    pub(crate) body: Vec<u8>,
    /// What the body is declared as.
    pub(crate) form: Form,
    /// The id that it is given, or has in its envelope.
    pub(crate) id: Option<String>,
    /// The number of its line in the file, from 1.
    pub(crate) line: Option<NonZeroU32>,
}

/// The events, and the books for their answers.
pub(crate) struct Events {
    /// Those that are to be published.
    pub(crate) left: Vec<FeedEvent>,
    /// The number of each of them among all, from 1.
    pub(crate) numbers: Vec<usize>,
    cases: Cases,
    /// A manifest that is written, and not yet in its place.
    manifest: Option<NewFile>,
    /// Whether an earlier run published some of them.
    resumed: bool,
    report: Option<Report>,
}

impl Plan<'_> {
    /// Gives each event its id: its own, or that of the manifest of an earlier run, or a new one. Files are begun here, so that one that
    /// can't be written is told before anything happens.
    pub(crate) fn events(&self, given: Vec<Given>) -> Result<Events, Failure> {
        let report = self.report.map(Report::create).transpose()?;
        let earlier = self.manifest.filter(|path| self.resume && path.exists());
        let lines: Vec<Option<NonZeroU32>> = given.iter().map(|given| given.line).collect();
        let left = match earlier {
            Some(path) => resumed(path, given)?,
            None => given.into_iter().map(with_id).collect(),
        };
        let mut events = Events {
            numbers: (1..=left.len()).collect(),
            left,
            cases: Cases::new(),
            manifest: None,
            resumed: earlier.is_some(),
            report,
        };
        if let (Some(path), None) = (self.manifest, earlier) {
            if path.symlink_metadata().is_ok() {
                let problem = anyhow!(
                    "{} is there already (an existing file is not overwritten). To go on with the run that wrote it: the same events \
                     in the same order, and --resume",
                    path.display()
                );
                return Err(Failure::new(Exit::Other, problem));
            }
            events.manifest = Some(NewFile::create(path)?);
        }
        if self.manifest.is_some() || self.wait.is_some() {
            events.ask(&lines)?;
        }
        Ok(events)
    }
}

/// The event with its own id, or a new one. One that is too long to be told is known by its hash, as in answers.
fn with_id(given: Given) -> FeedEvent {
    let id = given.id.map_or_else(new_id, |id| bounded(&id));
    FeedEvent {
        id: id.into(),
        body: given.body,
        form: given.form,
    }
}

/// The events of an earlier run with the ids that its manifest gave them.
fn resumed(path: &Path, given: Vec<Given>) -> Result<Vec<FeedEvent>, Failure> {
    let other = |what: String| {
        let problem =
            anyhow!("{what}; --resume takes the events of the run before, in their order");
        Failure::new(Exit::Usage, problem)
    };
    let total = given.len();
    let mut given = given.into_iter();
    let mut left = Vec::with_capacity(total);
    read_manifest(path, |_, asked| {
        let number = left.len() + 1;
        let of_this = given.next().filter(|given| asked.is_of(&given.body));
        let of_this = of_this
            .ok_or_else(|| LineError::Other(format!("is not of event {number} of {total}")))?;
        let own = of_this.id.as_deref().map(bounded);
        if own.is_some_and(|own| own != asked.id) {
            let what = format!("has another id than event {number} of {total}");
            return Err(LineError::Other(what));
        }
        left.push(FeedEvent {
            id: asked.id.into(),
            body: of_this.body,
            form: of_this.form,
        });
        Ok(())
    })
    .map_err(|failure| other(format!("{:#}", failure.error)))?;
    if given.next().is_some() {
        return Err(other(format!(
            "{} asks for {}, and there are {total}",
            path.display(),
            count(left.len(), "event")
        )));
    }
    Ok(left)
}

impl Events {
    /// Enters all events into the books and the manifest. `lines` are theirs.
    fn ask(&mut self, lines: &[Option<NonZeroU32>]) -> Result<(), Failure> {
        let named = |place: usize| match lines[place] {
            Some(line) => format!("line {line}"),
            None => format!("event {}", place + 1),
        };
        for (place, event) in self.left.iter().enumerate() {
            let read = event.form.decode(&event.body).event.ok();
            let asked = Asked::new(&event.id, &event.body, read.as_ref()).in_line(lines[place]);
            if let Some(manifest) = &mut self.manifest {
                manifest.write(asked.to_line().as_bytes())?;
            }
            self.cases.ask(&asked).map_err(|before| {
                let problem = anyhow!(
                    "{} has the id of {} again: each request needs an id of its own; nothing was published",
                    named(place),
                    named(before)
                );
                Failure::new(Exit::Usage, problem)
            })?;
        }
        Ok(())
    }

    /// Leaves only what has no answer.
    fn leave_unanswered(&mut self) {
        let all = std::mem::take(&mut self.left).into_iter();
        let all = all.zip(std::mem::take(&mut self.numbers));
        let unanswered = all.filter(|(_, number)| self.cases.status(number - 1) == Status::Unknown);
        (self.left, self.numbers) = unanswered.unzip();
    }
}

/// What is followed while events are published.
pub(crate) struct Following<'a> {
    plan: &'a Plan<'a>,
    amqp: &'a Amqp,
    codes: CodeTable,
    calls_per_second: u32,
    cases: Cases,
    report: Option<Report>,
    follower: Option<Follower>,
}

impl<'a> Following<'a> {
    /// Opens the ledger where it is needed, leaves what has an answer, and puts the manifest in its place. What is published after that is
    /// in the manifest, and its answers stand behind the end that was found.
    pub(crate) async fn begin(
        plan: &'a Plan<'a>,
        settings: &Settings,
        amqp: &'a Amqp,
        events: &mut Events,
    ) -> Result<Self, Failure> {
        let codes = settings.codes()?;
        let calls_per_second = settings.calls_per_second()?;
        let mut ledger = None;
        if plan.wait.is_some() || events.resumed {
            let open = Ledger::open(amqp).await?;
            if events.resumed {
                let cases = &mut events.cases;
                read_ledger(&open, plan.since_ms, |read| {
                    cases.take_in(&read.heard);
                    Ok(ControlFlow::Continue(()))
                })
                .await?;
                events.leave_unanswered();
                let answered = events.cases.len() - events.left.len();
                telemetry::say(&format!(
                    "{} of {} have an answer already",
                    answered,
                    count(events.cases.len(), "event")
                ));
            }
            ledger = plan.wait.map(|_| open);
        }
        if let Some(manifest) = events.manifest.take() {
            manifest.keep()?;
        }
        Ok(Self {
            plan,
            amqp,
            codes,
            calls_per_second,
            cases: std::mem::take(&mut events.cases),
            report: events.report.take(),
            follower: ledger.map(from_the_end),
        })
    }

    /// Waits for the answers, if that was asked for, and says what became of each request. `refused` of them were not published.
    pub(crate) async fn end(
        self,
        refused: usize,
        interrupt: Option<Interrupt>,
    ) -> Result<Exit, Failure> {
        let Self {
            plan,
            amqp,
            codes,
            calls_per_second,
            mut cases,
            report,
            follower,
        } = self;
        let (Some(follower), Some(timeout), Some(interrupt)) = (follower, plan.wait, interrupt)
        else {
            return Ok(Exit::Done);
        };
        let awaited = cases.len() - refused;
        if cases.sums().closed() < awaited {
            telemetry::say(&outlook(&cases, calls_per_second, timeout));
        }
        let waited = wait(&mut cases, follower, awaited, timeout, interrupt).await;
        let letters = letters(amqp, &cases).await;
        let exit = told(&cases, letters, report, false, &codes)?;
        tell_queued(amqp, &cases.sums()).await;
        let next = go_on(plan.manifest, plan.report);
        ended(waited, exit, cases.sums().open(), timeout, &next)
    }
}

/// What the pace means for those that are waited for.
fn outlook(cases: &Cases, calls_per_second: u32, timeout: Duration) -> String {
    let calls = cases.names_open();
    let least = Duration::from_secs_f64(calls as f64 / f64::from(calls_per_second.max(1)));
    let late = if least > timeout {
        format!(": longer than --timeout {}", short(timeout))
    } else {
        String::new()
    };
    let at_least = if cases.all_groups_open() {
        "at least "
    } else {
        ""
    };
    let verb = if calls == 1 { "takes" } else { "take" };
    format!(
        "waiting for {}: {at_least}{} at {calls_per_second}/s (rate_limit.calls_per_second) {verb} {} at least{late}",
        count(cases.sums().open(), "answer"),
        count(calls, "call"),
        short(least)
    )
}

#[cfg(test)]
mod tests {
    use convgroup_domain::manifest::Groups;

    use super::*;

    #[test]
    fn the_outlook_says_what_the_pace_means() {
        let mut cases = Cases::new();
        for number in 0..10_000 {
            cases
                .expect(&number.to_string(), Groups::Named(100))
                .unwrap();
        }
        let hour = Duration::from_secs(3600);
        assert_eq!(
            outlook(&cases, 200, hour),
            "waiting for 10000 answers: 1000000 calls at 200/s (rate_limit.calls_per_second) take 1h 23m 20s at least: longer than \
             --timeout 1h"
        );
        let mut cases = Cases::new();
        cases.expect("a", Groups::All).unwrap();
        assert_eq!(
            outlook(&cases, 200, hour),
            "waiting for 1 answer: at least 1 call at 200/s (rate_limit.calls_per_second) takes 0s at least"
        );
    }
}
