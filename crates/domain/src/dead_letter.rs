//! A dead letter, as far as its headers tell: what the tools group and filter by.
use std::time::Duration;

use super::decide::{Cause, DEAD_LETTER_KINDS, EXPIRED, MALFORMED};

/// The broker itself made the dead letter: the event was delivered too often.
pub const DELIVERY_LIMIT: &str = "delivery_limit";
/// The broker itself made it: the event waited longer than its `expiration`, or a TTL set by a policy, allows.
pub const TTL: &str = "ttl";
/// The broker itself made it: the queue was full.
pub const MAXLEN: &str = "maxlen";
/// The broker itself made it: another consumer than the daemon refused the event for good.
pub const NACKED: &str = "nacked";
/// What stands for a header that is not there.
pub const NONE: &str = "-";
/// What a cause can be: four that the daemon writes; four of the broker's, see [`brokers_cause`]; and none, where somebody else
/// published the letter.
pub const CAUSES: [&str; 9] = [
    Cause::Rejected.label(),
    Cause::Exhausted.label(),
    MALFORMED,
    EXPIRED,
    DELIVERY_LIMIT,
    TTL,
    MAXLEN,
    NACKED,
    NONE,
];

/// What a dead letter that the broker itself made is called, by the reason that it writes into `x-death`. Its words `expired` and
/// `rejected` are not taken over: a cause of that name is the daemon's own. Any other reason was written by somebody else.
#[must_use]
pub fn brokers_cause(reason: &str) -> &'static str {
    match reason {
        "delivery_limit" => DELIVERY_LIMIT,
        "expired" => TTL,
        "maxlen" => MAXLEN,
        "rejected" => NACKED,
        _ => NONE,
    }
}
/// What a class can be.
pub const CLASSES: [&str; 5] = {
    let [(_, a), (_, b), (_, c), (_, d), (_, e)] = DEAD_LETTER_KINDS;
    [a, b, c, d, e]
};

/// What is known about one dead letter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetter {
    /// The publisher's id; empty where there is none.
    pub message_id: String,
    /// `rejected`, `exhausted`, `malformed`, `expired`; of one that the broker made, what [`brokers_cause`] calls it.
    pub cause: String,
    /// The class of the last answer.
    pub class: String,
    /// The code of the last answer, as its verdict tells it.
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
    /// How many bytes its body had, where the broker refused the body; its hash is in the header beside.
    pub body_missing_bytes: Option<i64>,
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
    pub fn matches(&self, letter: &DeadLetter, now_ms: i64) -> bool {
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

    fn letter() -> DeadLetter {
        DeadLetter {
            message_id: "m-1".into(),
            cause: "rejected".into(),
            class: "rejected".into(),
            code: "51011".into(),
            failed_at_ms: Some(NOW - 60_000),
            ..DeadLetter::default()
        }
    }

    #[track_caller]
    fn check(filter: &Filter, matches: bool) {
        assert_eq!(filter.matches(&letter(), NOW), matches, "{filter:?}");
    }

    #[test]
    fn what_the_broker_did_is_named_apart_from_what_the_daemon_did() {
        for reason in ["delivery_limit", "expired", "maxlen", "rejected"] {
            let cause = brokers_cause(reason);
            assert!(CAUSES.contains(&cause) && cause != NONE, "{reason}");
            assert!(
                DEAD_LETTER_KINDS
                    .iter()
                    .all(|(own, _)| own.label() != cause),
                "{reason}"
            );
        }
        assert_eq!(brokers_cause("expired"), "ttl");
        for foreign in ["malformed", "exhausted", "EXPIRED", ""] {
            assert_eq!(brokers_cause(foreign), NONE, "{foreign}");
        }
    }

    #[test]
    fn a_filter_knows_what_it_asks() {
        let some = || vec!["51011".to_owned()];
        let malformed = || vec!["exhausted".to_owned(), MALFORMED.to_owned()];
        let (age, all) = (Some(Duration::from_secs(1)), Filter::default);
        for (filter, is_empty, asks_age, names_malformed) in [
            (all(), true, false, false),
            (
                Filter {
                    codes: some(),
                    ..all()
                },
                false,
                false,
                false,
            ),
            (
                Filter {
                    causes: some(),
                    classes: some(),
                    ..all()
                },
                false,
                false,
                false,
            ),
            (
                Filter {
                    causes: malformed(),
                    ..all()
                },
                false,
                false,
                true,
            ),
            (
                Filter {
                    classes: malformed(),
                    ..all()
                },
                false,
                false,
                true,
            ),
            (
                Filter {
                    message_ids: some(),
                    ..all()
                },
                false,
                false,
                true,
            ),
            (
                Filter {
                    older_than: age,
                    ..all()
                },
                false,
                true,
                false,
            ),
            (
                Filter {
                    newer_than: age,
                    ..all()
                },
                false,
                true,
                false,
            ),
        ] {
            let found = (
                filter.is_empty(),
                filter.asks_age(),
                filter.names_malformed(),
            );
            assert_eq!(found, (is_empty, asks_age, names_malformed), "{filter:?}");
        }
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
        let undated = DeadLetter {
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
