//! The tools that read answers: `outcomes`, `reconcile`, and what `publish` does to wait for them.
//!
//! They read the ledger, or a file that `outcomes export` wrote, and take nothing out of either. What became of a request is decided by
//! [`convgroup_domain::case`].
pub(crate) mod export;
pub(crate) mod files;
pub(crate) mod published;
pub(crate) mod reconcile;
pub(crate) mod summary;
pub(crate) mod tail;
pub(crate) mod wait;

use std::ops::ControlFlow;
use std::time::Duration;

use convgroup_broker::ledger::{Entry, Ledger, Start};
use convgroup_domain::case::Heard;
use convgroup_domain::moment;
use thiserror::Error;

use crate::telemetry;
use crate::tool::{Failure, count, progress};

/// How far the clocks of broker and daemons may be apart: entries are looked for from so much earlier on.
const CLOCKS_APART_MS: i64 = 5 * 60 * 1000;

/// Since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    /// So long ago.
    Ago(Duration),
    /// This moment, unix ms.
    At(i64),
}

/// A text says no moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("is neither a duration (1h, 7d) nor a moment in RFC 3339 (2026-12-01T00:00:00Z)")]
pub(crate) struct NoMoment;

/// Reads a duration, or a moment.
pub(crate) fn since(text: &str) -> Result<Since, NoMoment> {
    if let Some(at_ms) = moment::parse(text) {
        return Ok(Since::At(at_ms));
    }
    humantime::parse_duration(text)
        .map(Since::Ago)
        .map_err(|_| NoMoment)
}

impl Since {
    /// The moment, unix ms.
    pub(crate) fn at_ms(self, now_ms: i64) -> i64 {
        match self {
            Self::At(at_ms) => at_ms,
            Self::Ago(ago) => {
                now_ms.saturating_sub(i64::try_from(ago.as_millis()).unwrap_or(i64::MAX))
            }
        }
    }
}

/// Where reading begins for outcomes from this moment on. Without one: with the first that is kept.
fn start(since_ms: Option<i64>) -> Start {
    match since_ms {
        None => Start::First,
        Some(at_ms) => {
            let earlier = at_ms.saturating_sub(CLOCKS_APART_MS).max(0);
            Start::Moment(earlier.unsigned_abs() / 1000)
        }
    }
}

/// An outcome, and the entry of the ledger or the line of a file that it was read from.
struct Read<'a> {
    heard: Heard,
    json: &'a [u8],
}

/// Reads the ledger from `since_ms` on to its end, with progress on a terminal, and gives each outcome to `take`, until that breaks. What
/// is no outcome is counted and told.
async fn read_ledger(
    ledger: &Ledger,
    since_ms: Option<i64>,
    mut take: impl FnMut(Read<'_>) -> Result<ControlFlow<()>, Failure>,
) -> Result<(), Failure> {
    let mut reading = ledger.until_end(start(since_ms)).await?;
    let mut skipped = Skipped::default();
    let bar = progress(usize::MAX, "of the ledger read, {rate}");
    let mut first = None;
    while let Some(entry) = reading.next().await? {
        let first = *first.get_or_insert_with(|| {
            let length = ledger.end().map_or(1, |end| end + 1 - entry.offset);
            bar.set_length(length);
            entry.offset
        });
        bar.set_position(entry.offset - first);
        let Some(heard) = skipped.heard(&entry) else {
            continue;
        };
        if since_ms.is_some_and(|since_ms| heard.at_ms < since_ms) {
            continue;
        }
        let json = &entry.body;
        if take(Read { heard, json })?.is_break() {
            break;
        }
    }
    bar.finish_and_clear();
    skipped.tell("entry", "entries");
    Ok(())
}

/// What was no outcome.
#[derive(Debug, Default)]
struct Skipped(usize);

impl Skipped {
    /// The outcome that an entry is, or counts it as none.
    fn heard(&mut self, entry: &Entry) -> Option<Heard> {
        self.read(&entry.body)
    }

    fn read(&mut self, json: &[u8]) -> Option<Heard> {
        let heard = Heard::read(json);
        self.0 += usize::from(heard.is_none());
        heard
    }

    /// Says on stderr how many there were, if any.
    fn tell(&self, one: &str, many: &str) {
        if self.0 > 0 {
            let what = if self.0 == 1 { one } else { many };
            telemetry::say(&format!(
                "left out, because no outcome can be read in it: {} {what}",
                self.0
            ));
        }
    }
}

/// A number of outcomes.
fn outcomes(number: usize) -> String {
    count(number, "outcome")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_duration_or_a_moment() {
        for (text, expect) in [
            ("1h", Ok(Since::Ago(Duration::from_secs(3600)))),
            ("7d", Ok(Since::Ago(Duration::from_secs(7 * 86_400)))),
            ("2026-12-01T00:00:00Z", Ok(Since::At(1_796_083_200_000))),
            ("2026-12-01", Err(NoMoment)),
            ("yesterday", Err(NoMoment)),
            ("", Err(NoMoment)),
        ] {
            assert_eq!(since(text), expect, "{text}");
        }
        assert_eq!(Since::Ago(Duration::from_secs(2)).at_ms(5000), 3000);
        assert_eq!(Since::At(7).at_ms(5000), 7);
        assert_eq!(start(Some(0)), Start::Moment(0));
        assert_eq!(start(Some(600_000)), Start::Moment(300));
        assert_eq!(start(None), Start::First);
    }
}
