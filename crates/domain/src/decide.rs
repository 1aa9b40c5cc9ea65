//! What becomes of a message, from what became of its names.
//!
//! An event with three names: one is deleted, one can never be, and one times out. The message is acked once two copies are
//! confirmed: a dead letter with the name that was rejected, and a delayed copy with the one to try again.
//!
//! ```
//! use std::collections::BTreeMap;
//!
//! use convgroup_domain::attempt::Attempt;
//! use convgroup_domain::code::CodeTable;
//! use convgroup_domain::decide::{Cause, Decision, Destination, RetryLimits, NameEnd, Outcome, decide};
//! use convgroup_domain::message;
//! use convgroup_domain::reply::Reply;
//!
//! let event = message::decode(br#"{"From_Account":"user15","GroupName":["work","family","sports"]}"#)?;
//!
//! let table = CodeTable::new(&BTreeMap::new());
//! let ends = [
//!     Reply::Answer { code: 0, info: String::new() },
//!     Reply::Answer { code: 51011, info: "group name too long".to_owned() },
//!     Reply::Timeout,
//! ]
//! .map(|reply| NameEnd::of(table.classify(reply)));
//!
//! let attempt = Attempt { failures: 0, first_seen_ms: 1_700_000_000_000 };
//! let limits = RetryLimits { attempts_max: 10, tiers: 5 };
//! let decided = decide(&event, &ends, attempt, limits);
//! let Decision::Ack(copies) = &decided.decision else {
//!     panic!("it is handed back only if no name was tried to its end");
//! };
//!
//! let [dead, delayed] = &copies[..] else { panic!("two copies, not {}", copies.len()) };
//! assert_eq!(dead.to, Destination::Dead(Cause::Rejected));
//! assert_eq!(dead.left, Some(event.left(&[1])));
//! // The first counted failure waits in the first delay queue.
//! assert_eq!(delayed.to, Destination::Tier(0));
//! assert_eq!(delayed.left, Some(event.left(&[2])));
//! assert_eq!(delayed.attempt.failures, 1);
//! // For metrics and logs.
//! assert_eq!(decided.summary.outcome, Outcome::DeadLettered);
//! assert_eq!(decided.summary.deleted, 1);
//! # Ok::<(), message::Malformed>(())
//! ```
use super::attempt::Attempt;
use super::code::{Class, Verdict};
use super::message::{DeleteGroups, Malformed, NamesLeft};

/// How one name ended within this delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameEnd {
    /// Deleted now.
    Deleted(Verdict),
    /// Was not there (any more).
    Gone(Verdict),
    /// Can never succeed.
    Rejected(Verdict),
    /// Failed, and it counts.
    Failed(Verdict),
    /// Turned away because calls came too often: does not count.
    Throttled(Verdict),
    /// Not tried to its end: the daemon suspends, stops or has lost its broker. Does not count.
    Interrupted,
    /// Not called for any more: the moment that the event allows has passed.
    Expired,
}

impl NameEnd {
    /// The end of a name whose run of calls is over (see [`super::retry::Step::End`]).
    #[must_use]
    pub fn of(verdict: Verdict) -> Self {
        match verdict.class() {
            Class::Deleted => Self::Deleted(verdict),
            Class::Gone => Self::Gone(verdict),
            Class::Rejected => Self::Rejected(verdict),
            Class::Throttled => Self::Throttled(verdict),
            Class::Transient | Class::Signature | Class::Account | Class::Unknown => {
                Self::Failed(verdict)
            }
        }
    }

    /// The end once the probe has spoken on a verdict that asked for it (see [`super::retry::Step::AskProbe`]).
    #[must_use]
    pub fn after_probe(verdict: Verdict, account_healthy: bool) -> Self {
        if account_healthy {
            Self::Failed(verdict)
        } else {
            Self::Interrupted
        }
    }

    /// What the API answered last, where the name was tried to its end.
    #[must_use]
    pub const fn verdict(&self) -> Option<&Verdict> {
        match self {
            Self::Deleted(verdict)
            | Self::Gone(verdict)
            | Self::Rejected(verdict)
            | Self::Failed(verdict)
            | Self::Throttled(verdict) => Some(verdict),
            Self::Interrupted | Self::Expired => None,
        }
    }

    /// Why the name is dead, where a dead letter carries it.
    #[must_use]
    pub const fn cause(&self) -> Option<Cause> {
        match self {
            Self::Rejected(_) => Some(Cause::Rejected),
            Self::Failed(_) => Some(Cause::Exhausted),
            Self::Expired => Some(Cause::Expired),
            Self::Deleted(_) | Self::Gone(_) | Self::Throttled(_) | Self::Interrupted => None,
        }
    }

    /// Whether the group is not there any more.
    #[must_use]
    pub const fn is_erased(&self) -> bool {
        matches!(self, Self::Deleted(_) | Self::Gone(_))
    }

    /// The verdict of a failure that passes by itself, the message being innocent of it.
    #[must_use]
    pub fn passing_failure(&self) -> Option<&Verdict> {
        match self {
            Self::Failed(verdict) if verdict.class() == Class::Transient => Some(verdict),
            _ => None,
        }
    }

    /// The same end, seen from a daemon that has found the API unreachable meanwhile: what failed by a passing fault was not the
    /// message's doing and does not count.
    #[must_use]
    pub fn excused(self) -> Self {
        if self.passing_failure().is_some() {
            Self::Interrupted
        } else {
            self
        }
    }
}

/// Why a message is dead: the header `convgroup-cause`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The API says it can never succeed.
    Rejected,
    /// It failed too often.
    Exhausted,
    /// The event can't be read.
    Malformed,
    /// The moment that the event allows has passed.
    Expired,
}

impl Cause {
    /// The name used in headers, metrics and logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Exhausted => "exhausted",
            Self::Malformed => "malformed",
            Self::Expired => "expired",
        }
    }
}

/// The class of a dead letter whose event can't be read.
pub const MALFORMED: &str = Cause::Malformed.label();

/// The class of a dead letter whose moment has passed.
pub const EXPIRED: &str = Cause::Expired.label();

/// All pairs of cause and class that a dead letter can have.
pub const DEAD_LETTER_KINDS: [(Cause, &str); 5] = [
    (Cause::Rejected, Class::Rejected.label()),
    (Cause::Exhausted, Class::Transient.label()),
    (Cause::Exhausted, Class::Unknown.label()),
    (Cause::Malformed, MALFORMED),
    (Cause::Expired, EXPIRED),
];

/// A successor of the message, to be published and confirmed before the message is acked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Successor {
    /// Where it goes.
    pub to: Destination,
    /// What it carries of the event; `None` where no event could be read: then the body travels as it is.
    pub left: Option<NamesLeft>,
    /// The names whose further way it is, by their places. Of an event that means all groups these are the groups found.
    pub places: Vec<usize>,
    /// Its history.
    pub attempt: Attempt,
    /// The verdict it carries in its headers.
    pub verdict: Option<Verdict>,
    /// The text of `convgroup-info`.
    pub info: String,
}

impl Successor {
    /// Whether it is the dead letter of an event that can't be read.
    #[must_use]
    pub const fn is_malformed(&self) -> bool {
        self.left.is_none()
    }

    /// The class that it reports, in headers and metrics; none for names that were not tried to their end.
    #[must_use]
    pub fn class(&self) -> Option<&'static str> {
        match (self.to, &self.verdict) {
            (Destination::Dead(Cause::Malformed), _) => Some(MALFORMED),
            (Destination::Dead(Cause::Expired), _) => Some(EXPIRED),
            (_, Some(verdict)) => Some(verdict.class().reported().label()),
            (_, None) => None,
        }
    }
}

/// Where a successor goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The delay queue with this index.
    Tier(usize),
    /// The dead letters.
    Dead(Cause),
}

/// What is done with the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Publish the successors, each confirmed; then ack. Without successors: ack.
    Ack(Vec<Successor>),
    /// Give it back to the queue, unchanged.
    HandBack,
}

/// How a message ended, for metrics and logs; by the contract's order, the first that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// At least one dead letter.
    DeadLettered,
    /// A delayed copy.
    Delayed,
    /// Handed back.
    Returned,
    /// Acked, at least one name deleted.
    Deleted,
    /// Acked, nothing was there.
    Gone,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: [Self; 5] = [
        Self::DeadLettered,
        Self::Delayed,
        Self::Returned,
        Self::Deleted,
        Self::Gone,
    ];

    /// The name used in metrics and logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::DeadLettered => "dead_lettered",
            Self::Delayed => "delayed",
            Self::Returned => "returned",
            Self::Deleted => "deleted",
            Self::Gone => "gone",
        }
    }
}

/// A decision, and what is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// What is done with the message.
    pub decision: Decision,
    /// What metrics and logs tell, once that is done.
    pub summary: Summary,
}

/// What a decision means, for metrics and logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// How the message ends.
    pub outcome: Outcome,
    /// Names that were deleted; none where the message is handed back, for then they are tried again.
    pub deleted: usize,
    /// Names that were not there; none where the message is handed back.
    pub gone: usize,
    /// The dead letters.
    pub letters: Vec<LetterSummary>,
    /// Counted failures, this delivery's included: the highest number that a copy carries.
    pub failures: u32,
    /// The verdict to tell: that of the first copy that has one.
    pub verdict: Option<Verdict>,
}

/// What metrics count of a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LetterSummary {
    /// Why it is dead.
    pub cause: Cause,
    /// The class that it reports.
    pub class: &'static str,
    /// How many names it carries; an event that can't be read counts as none.
    pub names: usize,
}

impl Decided {
    /// The message goes back to its queue, unchanged.
    #[must_use]
    pub const fn hand_back(attempt: Attempt) -> Self {
        Self {
            decision: Decision::HandBack,
            summary: Summary {
                outcome: Outcome::Returned,
                deleted: 0,
                gone: 0,
                letters: Vec::new(),
                failures: attempt.failures,
                verdict: None,
            },
        }
    }

    /// The message is acked, for so many of its names are deleted or gone and the successors carry the rest.
    pub(super) fn ack(
        successors: Vec<Successor>,
        deleted: usize,
        gone: usize,
        attempt: Attempt,
    ) -> Self {
        let letters: Vec<LetterSummary> = successors.iter().filter_map(letter_summary).collect();
        let outcome = if !letters.is_empty() {
            Outcome::DeadLettered
        } else if !successors.is_empty() {
            Outcome::Delayed
        } else if deleted > 0 {
            Outcome::Deleted
        } else {
            Outcome::Gone
        };
        let failures = successors.iter().map(|copy| copy.attempt.failures).max();
        let verdict = successors.iter().find_map(|copy| copy.verdict.as_ref());
        let summary = Summary {
            outcome,
            deleted,
            gone,
            letters,
            failures: failures.unwrap_or(attempt.failures),
            verdict: verdict.cloned(),
        };
        Self {
            decision: Decision::Ack(successors),
            summary,
        }
    }
}

fn letter_summary(successor: &Successor) -> Option<LetterSummary> {
    let Destination::Dead(cause) = successor.to else {
        return None;
    };
    Some(LetterSummary {
        cause,
        class: successor.class().unwrap_or(MALFORMED),
        names: successor.places.len(),
    })
}

/// The bounds a decision works in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryLimits {
    /// `retry.max_attempts`: the counted failure with this number is the last one. At least 1.
    pub attempts_max: u32,
    /// How many delay tiers there are. At least 1.
    pub tiers: usize,
}

impl RetryLimits {
    /// Whether one more counted failure is the last one.
    #[must_use]
    pub const fn is_last(self, attempt: Attempt) -> bool {
        attempt.failed_again().failures >= self.attempts_max
    }
}

/// Decides on an event that can't be read: one dead letter, the body byte for byte.
#[must_use]
pub fn decide_malformed(malformed: &Malformed, attempt: Attempt) -> Decided {
    let letter = Successor {
        to: Destination::Dead(Cause::Malformed),
        left: None,
        places: Vec::new(),
        attempt,
        verdict: None,
        info: malformed.to_string(),
    };
    Decided::ack(vec![letter], 0, 0, attempt)
}

/// Decides on a message from the ends of its names (`event.names()[i]` ended as `ends[i]`). One that means all groups is decided
/// in [`super::all_groups`].
///
/// Each name ends in exactly one place: done (acked), one dead letter, or the one delayed copy; or the whole message goes back.
/// A message of which a part is done is not handed back but delayed without being counted, so that what is done stays done.
#[must_use]
pub fn decide(
    event: &DeleteGroups,
    ends: &[NameEnd],
    attempt: Attempt,
    limits: RetryLimits,
) -> Decided {
    debug_assert_eq!(event.names().len(), ends.len());
    let places = Places::sorted(ends, limits.is_last(attempt));
    if places.interrupted == ends.len() {
        return Decided::hand_back(attempt);
    }
    let failed_again = attempt.failed_again();
    let mut successors: Vec<Successor> = places
        .dead
        .into_iter()
        .map(|(cause, verdict, places)| Successor {
            to: Destination::Dead(cause),
            left: Some(event.left(&places)),
            places,
            attempt: match cause {
                Cause::Exhausted => failed_again,
                Cause::Rejected | Cause::Malformed | Cause::Expired => attempt,
            },
            verdict: verdict.cloned(),
            info: verdict.map_or_else(String::new, |verdict| verdict.info.clone()),
        })
        .collect();
    if !places.delayed.is_empty() {
        let (tier, attempt) = match places.counted {
            Some(_) => (tier(failed_again, limits), failed_again),
            None => (0, attempt),
        };
        let verdict = places.counted.or(places.uncounted);
        successors.push(Successor {
            to: Destination::Tier(tier),
            left: Some(event.left(&places.delayed)),
            places: places.delayed,
            attempt,
            verdict: verdict.cloned(),
            info: verdict.map_or_else(String::new, |verdict| verdict.info.clone()),
        });
    }
    Decided::ack(successors, places.deleted, places.gone, attempt)
}

/// Names, by their place in the event, sorted by what becomes of them.
#[derive(Default)]
struct Places<'e> {
    deleted: usize,
    gone: usize,
    /// How many of the delayed ones were not tried to their end.
    interrupted: usize,
    /// One group for each cause and code.
    dead: Vec<(Cause, Option<&'e Verdict>, Vec<usize>)>,
    delayed: Vec<usize>,
    /// The first failure that counts, of a name that is delayed.
    counted: Option<&'e Verdict>,
    /// The first one that does not count.
    uncounted: Option<&'e Verdict>,
}

impl<'e> Places<'e> {
    /// `exhausted`: a counted failure is the last one.
    fn sorted(ends: &'e [NameEnd], exhausted: bool) -> Self {
        let mut places = Self::default();
        for (place, end) in ends.iter().enumerate() {
            match end {
                NameEnd::Deleted(_) => places.deleted += 1,
                NameEnd::Gone(_) => places.gone += 1,
                NameEnd::Expired => places.add_dead(Cause::Expired, None, place),
                NameEnd::Rejected(verdict) => {
                    places.add_dead(Cause::Rejected, Some(verdict), place);
                }
                NameEnd::Failed(verdict) if exhausted => {
                    places.add_dead(Cause::Exhausted, Some(verdict), place);
                }
                NameEnd::Failed(verdict) => {
                    places.delayed.push(place);
                    places.counted.get_or_insert(verdict);
                }
                NameEnd::Throttled(verdict) => {
                    places.delayed.push(place);
                    places.uncounted.get_or_insert(verdict);
                }
                NameEnd::Interrupted => {
                    places.delayed.push(place);
                    places.interrupted += 1;
                }
            }
        }
        places
    }

    fn add_dead(&mut self, cause: Cause, verdict: Option<&'e Verdict>, place: usize) {
        let code = |verdict: Option<&'e Verdict>| verdict.map(|verdict| verdict.code.as_str());
        let same = |(other, theirs, _): &&mut (Cause, Option<&'e Verdict>, Vec<usize>)| {
            *other == cause && code(*theirs) == code(verdict)
        };
        match self.dead.iter_mut().find(same) {
            Some((_, _, places)) => places.push(place),
            None => self.dead.push((cause, verdict, vec![place])),
        }
    }
}

/// The first counted failure waits in the first tier, the second in the second; the last tier repeats.
pub(super) fn tier(attempt: Attempt, limits: RetryLimits) -> usize {
    let number = usize::try_from(attempt.failures).unwrap_or(usize::MAX);
    number.saturating_sub(1).min(limits.tiers - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::message::{Target, decode};
    use super::super::samples::{LIMITS, attempt, end, verdict};
    use super::*;

    /// An event with a name for each word, and the ends that the words say.
    fn ends(words: &str) -> (DeleteGroups, Vec<NameEnd>) {
        let groups: Vec<String> = (0..words.len()).map(|place| place.to_string()).collect();
        let body = DeleteGroups::encode("user", Target::Named(&groups), None).unwrap();
        (decode(&body).unwrap(), words.chars().map(end).collect())
    }

    fn names(successor: &Successor) -> &[String] {
        let left = successor.left.as_ref();
        left.expect("it could be read").names()
    }

    fn done(ends: &[NameEnd], how: Class) -> usize {
        let done = ends.iter().filter(|end| end.is_erased());
        done.filter(|end| end.verdict().map(Verdict::class) == Some(how))
            .count()
    }

    /// Renders a decision as one line: `successor(names)attempt…` or `back`, then the outcome.
    #[track_caller]
    fn check(words: &str, failures: u32, expect: &str) {
        let (event, ends) = ends(words);
        let decided = decide(&event, &ends, attempt(failures), LIMITS);
        let outcome = decided.summary.outcome.label();
        let text = match &decided.decision {
            Decision::HandBack => "back".to_owned(),
            Decision::Ack(successors) => {
                let parts: Vec<String> = successors
                    .iter()
                    .map(|successor| {
                        let to = match successor.to {
                            Destination::Tier(index) => format!("tier{index}"),
                            Destination::Dead(cause) => cause.label().to_owned(),
                        };
                        let left = successor.left.as_ref().expect("it could be read");
                        let names = match left.rewritten() {
                            Some(_) => left.names().join(""),
                            None => "*".to_owned(),
                        };
                        format!("{to}({names})#{}", successor.attempt.failures)
                    })
                    .collect();
                parts.join(" ")
            }
        };
        assert_eq!(
            format!("{text} = {outcome}"),
            expect,
            "{words} after {failures}"
        );
    }

    #[test]
    fn the_last_tier_repeats() {
        let limits = RetryLimits {
            attempts_max: 12,
            tiers: 3,
        };
        let waits = [0, 1, 2, 3, 4, 11].map(|failures| tier(attempt(failures), limits));
        assert_eq!(waits, [0, 0, 1, 2, 2, 2]);
    }

    #[test]
    fn only_what_can_not_be_read_is_malformed() {
        let malformed = decide_malformed(&Malformed::NotAnObject, attempt(0));
        let (event, ends) = ends("r");
        let rejected = decide(&event, &ends, attempt(0), LIMITS);
        for (decided, expected) in [(malformed, true), (rejected, false)] {
            let Decision::Ack(letters) = decided.decision else {
                panic!("it is a dead letter")
            };
            let found: Vec<bool> = letters.iter().map(Successor::is_malformed).collect();
            assert_eq!(found, [expected]);
        }
    }

    #[test]
    fn messages_end_where_the_contract_says() {
        check("d", 0, " = deleted");
        check("g", 0, " = gone");
        check("gd", 2, " = deleted");
        check("r", 0, "rejected(*)#0 = dead_lettered");
        check("r", 2, "rejected(*)#2 = dead_lettered");
        check("f", 0, "tier0(*)#1 = delayed");
        check("f", 1, "tier1(*)#2 = delayed");
        check("f", 2, "exhausted(*)#3 = dead_lettered");
        check("f", 900, "exhausted(*)#901 = dead_lettered");
        check("t", 0, "tier0(*)#0 = delayed");
        check("t", 2, "tier0(*)#2 = delayed");
        check("i", 0, "back = returned");
        check("iii", 2, "back = returned");
        check("e", 0, "expired(*)#0 = dead_lettered");
        check("e", 2, "expired(*)#2 = dead_lettered");
    }

    #[test]
    fn only_the_names_left_travel_on() {
        check("dfg", 0, "tier0(1)#1 = delayed");
        check("dri", 0, "rejected(1)#0 tier0(2)#0 = dead_lettered");
        check("drf", 1, "rejected(1)#1 tier1(2)#2 = dead_lettered");
        check("rRr", 0, "rejected(02)#0 rejected(1)#0 = dead_lettered");
        check("fr", 2, "exhausted(0)#3 rejected(1)#2 = dead_lettered");
        check("uUu", 2, "exhausted(02)#3 exhausted(1)#3 = dead_lettered");
        check("fti", 0, "tier0(*)#1 = delayed");
        check("fti", 2, "exhausted(0)#3 tier0(12)#2 = dead_lettered");
        check("di", 0, "tier0(1)#0 = delayed");
        check("ti", 1, "tier0(*)#1 = delayed");
        check("dfe", 0, "expired(2)#0 tier0(1)#1 = dead_lettered");
        check("ree", 1, "rejected(0)#1 expired(12)#1 = dead_lettered");
        check("ie", 0, "expired(1)#0 tier0(0)#0 = dead_lettered");
    }

    #[test]
    fn the_summary_tells_what_the_copies_say() {
        let (event, ends) = ends("dgrRf");
        let told = decide(&event, &ends, attempt(1), LIMITS).summary;
        let letter = LetterSummary {
            cause: Cause::Rejected,
            class: Class::Rejected.label(),
            names: 1,
        };
        assert_eq!((told.deleted, told.gone, told.failures), (1, 1, 2));
        assert_eq!(told.letters, [letter, letter]);
        assert_eq!(told.verdict, Some(verdict(51011)));
        let told = decide_malformed(&Malformed::NotAnObject, attempt(1)).summary;
        let letter = LetterSummary {
            cause: Cause::Malformed,
            class: MALFORMED,
            names: 0,
        };
        assert_eq!((told.letters, told.failures), (vec![letter], 1));
        assert_eq!((told.outcome, told.verdict), (Outcome::DeadLettered, None));
    }

    #[test]
    fn an_unreachable_api_excuses_what_failed_by_it() {
        assert_eq!(
            NameEnd::Failed(verdict(50004)).excused(),
            NameEnd::Interrupted
        );
        let unknown = NameEnd::Failed(verdict(60002));
        assert_eq!(unknown.clone().excused(), unknown);
        let deleted = NameEnd::Deleted(verdict(0));
        assert_eq!(deleted.clone().excused(), deleted);
        assert_eq!(NameEnd::Expired.excused(), NameEnd::Expired);
    }

    #[test]
    fn the_probe_decides_whose_fault_it_is() {
        assert_eq!(
            NameEnd::after_probe(verdict(70009), true),
            NameEnd::Failed(verdict(70009))
        );
        assert_eq!(
            NameEnd::after_probe(verdict(70009), false),
            NameEnd::Interrupted
        );
    }

    proptest! {
        /// Conservation: every name is in exactly one of done, dead, delayed, returned; and no attempt is lost or invented.
        #[test]
        fn each_name_ends_in_exactly_one_place(words in "[dgrRftie]{1,12}", failures in 0_u32..5) {
            let (event, ends) = ends(&words);
            let Decided { decision, summary } = decide(&event, &ends, attempt(failures), LIMITS);
            let Decision::Ack(successors) = decision else {
                prop_assert!(ends.iter().all(|end| *end == NameEnd::Interrupted));
                prop_assert_eq!(summary, Decided::hand_back(attempt(failures)).summary);
                return Ok(());
            };
            prop_assert_eq!(summary.deleted, done(&ends, Class::Deleted));
            prop_assert_eq!(summary.gone, done(&ends, Class::Gone));
            let died: usize = summary.letters.iter().map(|letter| letter.names).sum();
            let to = |successor: &&Successor| matches!(successor.to, Destination::Dead(_));
            let dead: Vec<&Successor> = successors.iter().filter(to).collect();
            prop_assert_eq!(dead.len(), summary.letters.len());
            prop_assert_eq!(died, dead.iter().map(|s| names(s).len()).sum::<usize>());
            for (place, (group, end)) in event.names().iter().zip(&ends).enumerate() {
                let carriers: Vec<&Successor> = successors
                    .iter()
                    .filter(|successor| names(successor).contains(group))
                    .collect();
                prop_assert_eq!(carriers.len(), usize::from(!end.is_erased()), "{} in {}", group, words);
                for carrier in carriers {
                    let dead = matches!(carrier.to, Destination::Dead(_));
                    prop_assert!(carrier.places.contains(&place));
                    let may_die = matches!(end, NameEnd::Rejected(_) | NameEnd::Expired)
                        || (matches!(end, NameEnd::Failed(_)) && failures + 1 >= LIMITS.attempts_max);
                    prop_assert_eq!(dead, may_die);
                    prop_assert!(carrier.attempt.failures <= failures + 1);
                }
            }
        }
    }
}
