//! Waiting for the answers to what was published: progress, pace and what is left.
use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use convgroup_broker::BrokerError;
use convgroup_broker::ledger::{Follower, Ledger, Start};
use convgroup_domain::case::{Cases, Sums};
use convgroup_domain::quote::shell;
use tokio::time::MissedTickBehavior;

use super::Skipped;
use crate::telemetry;
use crate::tool::{Exit, Failure, Interrupt, another, count, progress};

/// How often a line tells how it goes, where there is no terminal.
const TELL_INTERVAL: Duration = Duration::from_secs(10);
/// The pace is that of so many seconds.
const PACE_SECONDS: usize = 30;

/// How waiting ended.
#[derive(Debug)]
pub(crate) enum Waited {
    /// All requests that were waited for are closed.
    Closed,
    /// Not in time.
    TimedOut,
    /// Ctrl-C, or SIGTERM.
    Interrupted,
    /// The ledger can't be read any more.
    Broken(BrokerError),
}

/// Follows a ledger from the end that was found.
pub(crate) fn from_the_end(ledger: Ledger) -> Follower {
    let end = ledger.end();
    ledger.follow(end.map_or(Start::First, |end| Start::Offset(end + 1)))
}

/// Follows the ledger until so many requests are closed. A signal ends the wait, and after it the process.
pub(crate) async fn wait(
    cases: &mut Cases,
    mut follower: Follower,
    awaited: usize,
    timeout: Duration,
    mut interrupt: Interrupt,
) -> Waited {
    let bar = progress(awaited, "closed, {rate}");
    let began = Instant::now();
    let mut deadline = std::pin::pin!(tokio::time::sleep(timeout));
    let mut second = tokio::time::interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut pace, mut trouble, mut told_at) = (Pace::default(), Trouble::default(), began);
    let waited = loop {
        let closed = cases.sums().closed();
        bar.set_position(closed as u64);
        if closed >= awaited {
            break Waited::Closed;
        }
        tokio::select! {
            entry = follower.next(|err| bar.suspend(|| trouble.tell(err))) => match entry {
                Ok(entry) => {
                    trouble.is_over();
                    if let Some(heard) = Skipped::default().heard(&entry) {
                        cases.take_in(&heard);
                    }
                }
                Err(err) => break Waited::Broken(err),
            },
            _ = second.tick() => {
                pace.note(began.elapsed(), closed);
                if bar.is_hidden() && told_at.elapsed() >= TELL_INTERVAL {
                    told_at = Instant::now();
                    telemetry::say(&so_far(&cases.sums(), awaited, pace.per_s()));
                }
            }
            () = &mut deadline => break Waited::TimedOut,
            _ = interrupt.heard() => break Waited::Interrupted,
        }
    };
    bar.finish_and_clear();
    interrupt.let_end();
    waited
}

/// How a tool ends that has waited. `exit` is its own where all is closed; `open` requests are not.
pub(crate) fn ended(
    waited: Waited,
    exit: Exit,
    open: usize,
    timeout: Duration,
    next: &str,
) -> Result<Exit, Failure> {
    let still = format!("{}{next}", still(open));
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

/// What is said of those that are not closed.
fn still(open: usize) -> String {
    match open {
        1 => "1 request is not answered to the end. It goes on by itself".to_owned(),
        open => format!("{open} requests are not answered to the end. They go on by themselves"),
    }
}

/// How one goes on where waiting has ended and all is published. A report that was written now keeps its name.
pub(crate) fn go_on(manifest: Option<&Path>, report: Option<&Path>) -> String {
    let stdin = Path::new("-");
    let Some(manifest) = manifest.filter(|manifest| *manifest != stdin) else {
        return "; without a file with the manifest only `outcomes tail --request ID` tells of one, by its id"
            .to_owned();
    };
    let quoted = |path: &Path| shell(&path.to_string_lossy());
    let report = report.map(|report| format!(" --report {}", quoted(&another(report))));
    format!(
        ". To wait on: convgroup-deleter reconcile --manifest {} --wait{}",
        quoted(manifest),
        report.unwrap_or_default()
    )
}

/// How it goes, as a line.
fn so_far(sums: &Sums, awaited: usize, per_s: f64) -> String {
    let closed = sums.closed();
    let left = awaited.saturating_sub(closed);
    let eta = if per_s > 0.0 {
        format!(
            ", {} left",
            short(Duration::from_secs_f64(left as f64 / per_s))
        )
    } else {
        String::new()
    };
    format!(
        "{closed} of {} closed ({} erased), {per_s:.0}/s{eta}",
        count(awaited, "request"),
        sums.erased()
    )
}

/// A duration for people, in whole seconds.
pub(crate) fn short(duration: Duration) -> String {
    let seconds = duration
        .saturating_add(Duration::from_millis(500))
        .as_secs();
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

/// How many are closed per second, of late.
#[derive(Debug, Default)]
struct Pace {
    samples: VecDeque<(Duration, usize)>,
}

impl Pace {
    /// `at` is counted from the beginning.
    fn note(&mut self, at: Duration, closed: usize) {
        if self.samples.len() > PACE_SECONDS {
            self.samples.pop_front();
        }
        self.samples.push_back((at, closed));
    }

    fn per_s(&self) -> f64 {
        let (Some(first), Some(last)) = (self.samples.front(), self.samples.back()) else {
            return 0.0;
        };
        let took = last.0.saturating_sub(first.0).as_secs_f64();
        if took > 0.0 {
            last.1.saturating_sub(first.1) as f64 / took
        } else {
            0.0
        }
    }
}

/// Tells why there is no connection, once for each reason.
#[derive(Debug, Default)]
pub(super) struct Trouble(Option<String>);

impl Trouble {
    pub(super) fn tell(&mut self, err: &BrokerError) {
        let text = err.to_string();
        if self.0.as_ref() != Some(&text) {
            telemetry::say(&format!(
                "the ledger can't be read now; trying again until it can: {text}"
            ));
            self.0 = Some(text);
        }
    }

    pub(super) fn is_over(&mut self) {
        if self.0.take().is_some() {
            telemetry::say("the ledger is read again");
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn the_pace_is_that_of_late() {
        let mut pace = Pace::default();
        assert_eq!(pace.per_s().to_bits(), 0.0_f64.to_bits());
        for second in 0..100 {
            let closed = if second < 50 { 0 } else { (second - 49) * 10 };
            pace.note(
                Duration::from_secs(second),
                usize::try_from(closed).unwrap(),
            );
        }
        assert!((pace.per_s() - 10.0).abs() < 0.01, "{}", pace.per_s());
    }

    #[test]
    fn a_line_tells_how_it_goes() {
        let mut cases = Cases::new();
        for number in 0..3 {
            let id = number.to_string();
            cases
                .expect(&id, convgroup_domain::manifest::Groups::All)
                .unwrap();
        }
        let sums = cases.sums();
        assert_eq!(
            so_far(&sums, 3, 0.0),
            "0 of 3 requests closed (0 erased), 0/s"
        );
        assert_eq!(
            so_far(&sums, 3, 2.0),
            "0 of 3 requests closed (0 erased), 2/s, 2s left"
        );
    }

    #[test]
    fn what_goes_on_can_be_waited_for() {
        expect![[r"
            1 request is not answered to the end. It goes on by itself
            0 requests are not answered to the end. They go on by themselves
            2 requests are not answered to the end. They go on by themselves
        "]]
        .assert_eq(&[1, 0, 2].map(|open| still(open) + "\n").concat());
        let manifest = Some(Path::new("it's.ndjson"));
        let report = Some(Path::new("/nowhere/report.ndjson"));
        expect![[r"
            ; without a file with the manifest only `outcomes tail --request ID` tells of one, by its id
            ; without a file with the manifest only `outcomes tail --request ID` tells of one, by its id
            . To wait on: convgroup-deleter reconcile --manifest 'it'\''s.ndjson' --wait
            . To wait on: convgroup-deleter reconcile --manifest 'it'\''s.ndjson' --wait --report /nowhere/report-2.ndjson
        "]]
        .assert_eq(
            &[
                go_on(None, report),
                go_on(Some(Path::new("-")), report),
                go_on(manifest, None),
                go_on(manifest, report),
            ]
            .map(|text| text + "\n")
            .concat(),
        );
    }
}
