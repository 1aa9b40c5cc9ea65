//! What `publish` does beside publishing: the manifest, what is left of an earlier run, and waiting for the answers.
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use convgroup_broker::feed::FeedEvent;
use convgroup_broker::ledger::{Follower, Ledger, Start};
use convgroup_broker::settings::Amqp;
use convgroup_domain::case::{Cases, Status};
use convgroup_domain::code::CodeTable;
use convgroup_domain::manifest::{Asked, LineError};
use convgroup_domain::message::decode;
use convgroup_domain::quote::shell;

use super::files::read_manifest;
use super::read_ledger;
use super::reconcile::{Report, letters, told};
use super::wait::{Waited, short, wait};
use crate::config::Settings;
use crate::telemetry;
use crate::tool::{Exit, Failure, NewFile, count};

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
    /// Gives each event its id: one of its own, or that of the manifest of an earlier run. Files are begun here, so that one that can't be
    /// written is told before anything happens.
    pub(crate) fn events(&self, bodies: Vec<Vec<u8>>) -> Result<Events, Failure> {
        let report = self.report.map(Report::create).transpose()?;
        let earlier = self.manifest.filter(|path| self.resume && path.exists());
        let left = match earlier {
            Some(path) => resumed(path, bodies)?,
            None => bodies.into_iter().map(FeedEvent::new).collect(),
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
            events.manifest = Some(NewFile::create(path)?);
        }
        if self.manifest.is_some() || self.wait.is_some() {
            events.ask()?;
        }
        Ok(events)
    }
}

/// The events of an earlier run with the ids that its manifest gave them.
fn resumed(path: &Path, bodies: Vec<Vec<u8>>) -> Result<Vec<FeedEvent>, Failure> {
    let other = |what: String| {
        let problem = anyhow!(
            "{}: {what}; --resume takes the events of the run before, in their order",
            path.display()
        );
        Failure::new(Exit::Usage, problem)
    };
    let total = bodies.len();
    let mut bodies = bodies.into_iter();
    let mut left = Vec::with_capacity(total);
    read_manifest(path, |_, asked| {
        let body = bodies.next().filter(|body| asked.is_of(body));
        let body = body.ok_or_else(|| {
            LineError::Other(format!("is not of event {} of {total}", left.len() + 1))
        })?;
        left.push(FeedEvent {
            id: asked.id.into(),
            body,
        });
        Ok(())
    })
    .map_err(|failure| other(format!("{:#}", failure.error)))?;
    if bodies.next().is_some() {
        return Err(other(format!(
            "it asks for {}, and there are {total}",
            count(left.len(), "event")
        )));
    }
    Ok(left)
}

impl Events {
    /// Enters all events into the books and the manifest.
    fn ask(&mut self) -> Result<(), Failure> {
        for event in &self.left {
            let read = decode(&event.body).ok();
            let asked = Asked::new(&event.id, &event.body, read.as_ref());
            if let Some(manifest) = &mut self.manifest {
                manifest.write(asked.to_line().as_bytes())?;
            }
            self.cases.expect(&asked.id, asked.groups).map_err(|_| {
                let problem = anyhow!("two events have one id: {}", asked.id);
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
            ledger = plan.wait.map(|timeout| (open, timeout));
        }
        if let Some(manifest) = events.manifest.take() {
            manifest.keep()?;
        }
        let follower = ledger.map(|(ledger, timeout)| {
            telemetry::say(&outlook(&events.cases, calls_per_second, timeout));
            let behind = ledger
                .end()
                .map_or(Start::First, |end| Start::Offset(end + 1));
            ledger.follow(behind)
        });
        Ok(Self {
            plan,
            amqp,
            codes,
            cases: std::mem::take(&mut events.cases),
            report: events.report.take(),
            follower,
        })
    }

    /// Waits for the answers, if that was asked for, and says what became of each request. `refused` of them were not published.
    pub(crate) async fn end(self, refused: usize) -> Result<Exit, Failure> {
        let Self {
            plan,
            amqp,
            codes,
            mut cases,
            report,
            follower,
        } = self;
        let (Some(follower), Some(timeout)) = (follower, plan.wait) else {
            return Ok(Exit::Done);
        };
        let awaited = cases.len() - refused;
        let waited = wait(&mut cases, follower, awaited, timeout).await;
        let letters = letters(amqp, &cases).await;
        let exit = told(&cases, letters, report, false, &codes)?;
        let open = cases.sums().open();
        let still = format!(
            "{} not answered to the end{}",
            are(open, "request"),
            go_on(plan.manifest)
        );
        match waited {
            Waited::Closed => Ok(exit),
            Waited::TimedOut => Err(Failure::new(
                Exit::Other,
                anyhow!("--timeout {} is over: {still}", short(timeout)),
            )),
            Waited::Interrupted => Err(Failure::new(Exit::Other, anyhow!("interrupted: {still}"))),
            Waited::Broken(err) => Err(Failure::from(err).context(still)),
        }
    }
}

/// A number of things that are: `1 request is`, `2 requests are`.
fn are(number: usize, what: &str) -> String {
    let verb = if number == 1 { "is" } else { "are" };
    format!("{} {verb}", count(number, what))
}

/// How one goes on where waiting has ended.
fn go_on(manifest: Option<&Path>) -> String {
    match manifest {
        Some(manifest) => format!(
            ". They go on by themselves; ask what became of them with: convgroup-deleter reconcile --manifest {}",
            shell(&manifest.to_string_lossy())
        ),
        None => ". They go on by themselves; without --manifest nothing can ask for them by name any more".to_owned(),
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
    format!(
        "waiting for {}: {} at {calls_per_second}/s (rate_limit.calls_per_second) take {} at least{late}",
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
            "waiting for 1 answer: 1 call at 200/s (rate_limit.calls_per_second) take 0s at least"
        );
    }
}
