//! A dead letter, as far as its headers tell: what the tools group and filter by.
use std::time::Duration;

use super::decide::{Cause, DEAD_LETTER_KINDS, MALFORMED};

/// The cause of a dead letter that the broker itself made: it was delivered too often.
pub const DELIVERY_LIMIT: &str = "delivery_limit";
/// What stands for a header that is not there.
pub const NONE: &str = "-";
/// What a cause can be: three that the daemon writes; three of the broker's, of which only [`DELIVERY_LIMIT`] can happen to the
/// queues as the daemon declares them; and none, where somebody else published the letter.
pub const CAUSES: [&str; 7] = [
    Cause::Rejected.label(),
    Cause::Exhausted.label(),
    MALFORMED,
    DELIVERY_LIMIT,
    "expired",
    "maxlen",
    NONE,
];
/// What a class can be.
pub const CLASSES: [&str; 4] = {
    let [(_, a), (_, b), (_, c), (_, d)] = DEAD_LETTER_KINDS;
    [a, b, c, d]
};

/// What is known about one dead letter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Letter {
    /// The publisher's id; empty where there is none.
    pub message_id: String,
    /// `rejected`, `exhausted`, `malformed`; `delivery_limit` (or what else `x-death` says) for one the broker made.
    pub cause: String,
    /// The class of the last answer.
    pub class: String,
    /// The code's label.
    pub code: String,
    /// The API's text. It may name users and groups.
    pub info: String,
    /// Counted failures.
    pub attempt: i64,
    /// When it died, unix ms; nothing where the header is absent.
    pub failed_at_ms: Option<i64>,
    /// How often it was redriven.
    pub redrives: i64,
    /// The redrive that sent it last.
    pub redrive_run: String,
}

/// Which dead letters are meant. An empty filter means all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Any of these causes.
    pub causes: Vec<String>,
    /// Any of these classes.
    pub classes: Vec<String>,
    /// Any of these codes.
    pub codes: Vec<String>,
    /// Any of these message ids.
    pub message_ids: Vec<String>,
    /// Died at least this long ago.
    pub older_than: Option<Duration>,
    /// Died at most this long ago.
    pub newer_than: Option<Duration>,
}

impl Filter {
    /// Whether it means every letter.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it asks how long ago a letter died.
    #[must_use]
    pub const fn asks_age(&self) -> bool {
        self.older_than.is_some() || self.newer_than.is_some()
    }

    /// Whether it names malformed letters, or single ones.
    #[must_use]
    pub fn names_malformed(&self) -> bool {
        let names = |wanted: &[String]| wanted.iter().any(|one| one == MALFORMED);
        names(&self.causes) || names(&self.classes) || !self.message_ids.is_empty()
    }

    /// Whether it means this letter. One whose moment of death is unknown matches no filter by age.
    #[must_use]
    pub fn matches(&self, letter: &Letter, now_ms: i64) -> bool {
        let any = |wanted: &[String], found: &str| {
            wanted.is_empty() || wanted.iter().any(|one| one == found)
        };
        let age = letter
            .failed_at_ms
            .map(|at| Duration::from_millis(u64::try_from(now_ms.saturating_sub(at)).unwrap_or(0)));
        any(&self.causes, &letter.cause)
            && any(&self.classes, &letter.class)
            && any(&self.codes, &letter.code)
            && any(&self.message_ids, &letter.message_id)
            && self
                .older_than
                .is_none_or(|bound| age.is_some_and(|age| age >= bound))
            && self
                .newer_than
                .is_none_or(|bound| age.is_some_and(|age| age <= bound))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    fn letter() -> Letter {
        Letter {
            message_id: "m-1".into(),
            cause: "rejected".into(),
            class: "rejected".into(),
            code: "51011".into(),
            failed_at_ms: Some(NOW - 60_000),
            ..Letter::default()
        }
    }

    #[track_caller]
    fn check(filter: &Filter, matches: bool) {
        assert_eq!(filter.matches(&letter(), NOW), matches, "{filter:?}");
    }

    #[test]
    fn filters_narrow_each_other() {
        let codes = |codes: &[&str]| {
            codes
                .iter()
                .map(|&code| code.to_owned())
                .collect::<Vec<_>>()
        };
        check(&Filter::default(), true);
        check(
            &Filter {
                codes: codes(&["51011"]),
                ..Filter::default()
            },
            true,
        );
        check(
            &Filter {
                codes: codes(&["50001", "51011"]),
                ..Filter::default()
            },
            true,
        );
        check(
            &Filter {
                codes: codes(&["50001"]),
                ..Filter::default()
            },
            false,
        );
        check(
            &Filter {
                codes: codes(&["51011"]),
                causes: codes(&["exhausted"]),
                ..Filter::default()
            },
            false,
        );
        check(
            &Filter {
                older_than: Some(Duration::from_secs(30)),
                ..Filter::default()
            },
            true,
        );
        check(
            &Filter {
                older_than: Some(Duration::from_secs(90)),
                ..Filter::default()
            },
            false,
        );
        check(
            &Filter {
                newer_than: Some(Duration::from_secs(90)),
                ..Filter::default()
            },
            true,
        );
        let undated = Letter {
            failed_at_ms: None,
            ..letter()
        };
        let by_age = Filter {
            newer_than: Some(Duration::from_secs(90)),
            ..Filter::default()
        };
        assert!(!by_age.matches(&undated, NOW));
    }
}
