//! The answer to a request: what an outcome event says, from how the names of one delivery ended.
//!
//! One outcome per delivery in which at least one name ended, also for an event that can't be read; none where all names are handed
//! back or delayed. It is confirmed by the broker after the copies and before the ack, so no request ends without an answer.
//!
//! ```
//! use std::collections::BTreeMap;
//!
//! use convgroup_domain::attempt::Attempt;
//! use convgroup_domain::code::CodeTable;
//! use convgroup_domain::decide::{NameEnd, RetryLimits, decide};
//! use convgroup_domain::message;
//! use convgroup_domain::outcome::{Answer, Status};
//! use convgroup_domain::reply::Reply;
//!
//! let event = message::decode(br#"{"From_Account":"user15","GroupName":["work","family"]}"#)?;
//! let table = CodeTable::new(&BTreeMap::new());
//! let ends = [Reply::Answer { code: 0, info: String::new() }, Reply::Timeout]
//!     .map(|reply| NameEnd::of(table.classify(reply)));
//! let limits = RetryLimits { attempts_max: 10, tiers: 4 };
//! let attempt = Attempt { failures: 0, first_seen_ms: 0 };
//! let decided = decide(&event, &ends, attempt, limits);
//!
//! // One name is deleted, the other one still travels.
//! let answer = Answer::of(&ends, &decided).expect("a name ended");
//! assert_eq!((answer.status(), answer.remaining), (Status::Partial, 1));
//! # Ok::<(), message::Malformed>(())
//! ```
use std::fmt::Write;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::all_groups::{List, Swept};
use super::attempt::Attempt;
use super::code::Verdict;
use super::decide::{Cause, Decided, Decision, Destination, NameEnd, Successor};
use super::message::DeleteGroups;
use super::moment;
use super::request::Request;
use super::text::hex;

/// The `type` of an outcome, as a CloudEvent and as an AMQP message.
pub const TYPE: &str = "convgroup.request.settled.v1";
/// The `content_type` of an outcome's message.
pub const CONTENT_TYPE: &str = "application/cloudevents+json";
/// The `app_id` of an outcome's message.
pub const APP_ID: &str = "convgroup-deleter";
/// The largest outcome, in bytes (contract).
pub const BYTES_MAX: usize = 64 * 1024;

/// Stands in a routing key for a request whose publisher has no usable `app_id`.
const NO_APP: &str = "none";
/// Longest `app_id` that becomes part of a routing key, in bytes.
const APP_BYTES_MAX: usize = 64;
/// The cause that a purge tells where the request has no names.
pub const PURGED: &str = "purged";

/// What became of a request, as far as one outcome knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// No name is left: all are deleted, or were gone.
    Erased,
    /// Names still travel in a delayed copy.
    Partial,
    /// All names are dead letters, or were removed from them.
    Failed,
    /// Some names are erased, some are not.
    Mixed,
    /// The event can't be read.
    Malformed,
}

impl Status {
    /// All statuses.
    pub const ALL: [Self; 5] = [
        Self::Erased,
        Self::Partial,
        Self::Failed,
        Self::Mixed,
        Self::Malformed,
    ];

    /// The name used in outcomes, routing keys and metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Erased => "erased",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Mixed => "mixed",
            Self::Malformed => "malformed",
        }
    }
}

/// How one name ended, as an outcome tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Deleted by this program.
    Deleted,
    /// Was not there (any more).
    Gone,
    /// In a dead letter.
    DeadLettered,
    /// In a dead letter that was removed.
    Purged,
}

impl End {
    /// Whether the group is not there any more.
    #[must_use]
    pub const fn is_erased(self) -> bool {
        matches!(self, Self::Deleted | Self::Gone)
    }

    /// What makes two outcomes the same story: `deleted` and `gone` are one end.
    const fn story(self) -> &'static str {
        match self {
            Self::Deleted | Self::Gone => "erased",
            Self::DeadLettered => "dead_lettered",
            Self::Purged => PURGED,
        }
    }
}

/// What one delivery answers, by the places in the message at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether the event could be read.
    readable: bool,
    /// The names that ended.
    pub ends: Vec<NameTold>,
    /// How many names still travel.
    pub remaining: usize,
    /// How many groups were found, of an event that means all of them.
    found: Option<usize>,
    /// Whether the last list showed no group.
    verified: bool,
    /// Why the event is dead, where that says nothing of a single name.
    cause: Option<&'static str>,
    /// The code of the answer that this lies in.
    code: Option<String>,
}

/// What is told of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameTold {
    /// Its place in the message at hand.
    pub place: usize,
    /// How it ended.
    pub end: End,
    /// Why it is dead, if it is.
    cause: Option<&'static str>,
    /// What the API answered last.
    code: Option<String>,
}

impl NameTold {
    fn of(place: usize, end: &NameEnd) -> Self {
        let cause = end.cause();
        Self {
            place,
            end: match end {
                NameEnd::Deleted(_) => End::Deleted,
                NameEnd::Gone(_) => End::Gone,
                _ => End::DeadLettered,
            },
            cause: cause.map(Cause::label),
            code: end.verdict().map(|verdict| verdict.code.clone()),
        }
    }
}

impl Answer {
    /// What is told of a message, of which each name ended as `ends` says and that was decided like this. `None` where no name ended.
    #[must_use]
    pub fn of(ends: &[NameEnd], decided: &Decided) -> Option<Self> {
        let Decision::Ack(successors) = &decided.decision else {
            return None;
        };
        let travels = |place: usize| {
            successors
                .iter()
                .any(|copy| matches!(copy.to, Destination::Tier(_)) && copy.places.contains(&place))
        };
        let told = ends
            .iter()
            .enumerate()
            .filter(|(place, _)| !travels(*place));
        let told: Vec<NameTold> = told.map(|(place, end)| NameTold::of(place, end)).collect();
        if told.is_empty() {
            return None;
        }
        Some(Self {
            remaining: ends.len() - told.len(),
            ends: told,
            ..Self::silent(true)
        })
    }

    /// The same of an event that means all groups.
    #[must_use]
    pub fn of_all(swept: &Swept, decided: &Decided) -> Option<Self> {
        let Decision::Ack(successors) = &decided.decision else {
            return None;
        };
        let successor = successors.first();
        let delayed = successor.is_some_and(|copy| matches!(copy.to, Destination::Tier(_)));
        let verified = swept.list == List::Empty;
        let told = swept.ends.iter().enumerate();
        let told = told.filter(|(_, end)| end.is_erased() || !delayed);
        let told: Vec<NameTold> = told
            .map(|(place, end)| match end {
                // A list showed that it is not there, whatever was answered before.
                end if verified && !end.is_erased() => NameTold {
                    place,
                    end: End::Gone,
                    cause: None,
                    code: None,
                },
                end => NameTold {
                    cause: (!end.is_erased())
                        .then(|| end.cause().or(decided_cause(successors)))
                        .flatten()
                        .map(Cause::label),
                    ..NameTold::of(place, end)
                },
            })
            .collect();
        if delayed && told.is_empty() {
            return None;
        }
        // A list that failed says why, and so does an event that is dead though none of its groups is.
        let list_failed = matches!(swept.list, List::Failed(_));
        let cause = decided_cause(successors).filter(|_| list_failed);
        let verdict = successor.and_then(|copy| copy.verdict.as_ref());
        Some(Self {
            readable: true,
            remaining: if delayed {
                swept.left().len().max(1)
            } else {
                0
            },
            found: Some(swept.ends.len()),
            verified,
            cause: cause.map(Cause::label),
            code: cause
                .and(verdict)
                .map(|verdict: &Verdict| verdict.code.clone()),
            ends: told,
        })
    }

    /// What is told of an event that can't be read.
    #[must_use]
    pub const fn malformed() -> Self {
        Self::silent(false)
    }

    const fn silent(readable: bool) -> Self {
        Self {
            readable,
            ends: Vec::new(),
            remaining: 0,
            found: None,
            verified: false,
            cause: None,
            code: None,
        }
    }

    /// What is told of a dead letter that is removed. `event` is nothing where none can be read.
    #[must_use]
    pub fn purged(event: Option<&DeleteGroups>) -> Self {
        let names = event.map_or(0, |event| event.names().len());
        let told = |place| NameTold {
            place,
            end: End::Purged,
            cause: None,
            code: None,
        };
        Self {
            ends: (0..names).map(told).collect(),
            cause: (names == 0).then_some(PURGED),
            ..Self::silent(event.is_some())
        }
    }

    /// The status of the request, as far as this answer knows.
    #[must_use]
    pub fn status(&self) -> Status {
        let erased = self.ends.iter().filter(|told| told.end.is_erased()).count();
        let failed = self.ends.len() - erased + usize::from(self.cause.is_some());
        match (erased, failed) {
            _ if !self.readable => Status::Malformed,
            _ if self.remaining > 0 => Status::Partial,
            (_, 0) => Status::Erased,
            (0, _) => Status::Failed,
            _ => Status::Mixed,
        }
    }
}

fn decided_cause(successors: &[Successor]) -> Option<Cause> {
    successors.iter().find_map(|copy| match copy.to {
        Destination::Dead(cause) => Some(cause),
        Destination::Tier(_) => None,
    })
}

/// An outcome, as a structured CloudEvent. Fields that a reader does not know are ignored.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeEvent {
    specversion: String,
    /// The same for a repeat of the same step, another for each later one: SHA-256 in hex.
    pub id: String,
    /// Which app it is about.
    pub source: String,
    /// [`TYPE`].
    #[serde(rename = "type")]
    pub kind: String,
    /// When it was made, RFC 3339.
    pub time: String,
    datacontenttype: String,
    /// What it says.
    pub data: Data,
}

/// What an outcome says.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data {
    /// Whose answer it is.
    pub request: RequestTold,
    /// What became of the request, as far as this outcome knows.
    pub status: Status,
    /// How many different names the request has.
    pub groups: usize,
    /// How many names still travel.
    pub remaining: usize,
    /// When a list showed that no group is left; only of an event that means all groups.
    pub verified_at: Option<String>,
    /// Why the event is dead, where that says nothing of a single name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The code that this lies in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The user; only with `outcomes.include_ids`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The names that ended.
    pub results: Vec<NameResult>,
    /// Whether ids were left out because they would be too long.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// The request as an outcome tells it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestTold {
    /// Its id.
    pub id: String,
    /// Where the id comes from.
    pub id_from: String,
    /// How often it was redriven.
    pub round: u32,
    /// When it was published, RFC 3339; nothing where its publisher did not say.
    pub published_at: Option<String>,
}

/// How one name ended.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameResult {
    /// Its place in the request as it was published.
    pub index: usize,
    /// How it ended.
    pub outcome: End,
    /// Why it is dead, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// What the API answered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The name; only with `outcomes.include_ids`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// An outcome may carry ids: none goes into debug output.
impl std::fmt::Debug for OutcomeEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutcomeEvent")
            .field("status", &self.data.status)
            .field("remaining", &self.data.remaining)
            .finish_non_exhaustive()
    }
}

/// The circumstances of an answer.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// Whose answer it is.
    pub request: &'a Request,
    /// The history with which the message arrived.
    pub attempt: Attempt,
    /// When the request was published, unix ms, where its publisher says so.
    pub published_ms: Option<i64>,
    /// The app at the API.
    pub sdk_app_id: u64,
    /// Now, unix ms.
    pub now_ms: i64,
    /// The user and the names at hand, where outcomes tell them.
    pub ids: Option<(&'a str, &'a [String])>,
}

impl OutcomeEvent {
    /// The outcome that tells this answer.
    #[must_use]
    pub fn new(answer: &Answer, told: Told<'_>) -> Self {
        let request = told.request;
        let mut results: Vec<NameResult> = answer
            .ends
            .iter()
            .map(|name| NameResult {
                index: request.place(name.place),
                outcome: name.end,
                cause: name.cause.map(str::to_owned),
                code: name.code.clone(),
                group: None,
            })
            .collect();
        let (mut user, mut truncated) = (None, false);
        if let Some((id, names)) = told.ids {
            let mut room = BYTES_MAX / 2;
            let mut fitting = |text: &str| {
                // What a character takes in JSON at most: an escape of six bytes for one.
                let fits = text.len() * 6 <= room;
                room -= if fits { text.len() * 6 } else { 0 };
                truncated |= !fits;
                fits.then(|| text.to_owned())
            };
            user = fitting(id);
            for (result, name) in results.iter_mut().zip(&answer.ends) {
                result.group = names.get(name.place).and_then(|name| fitting(name));
            }
        }
        let status = answer.status();
        Self {
            specversion: "1.0".to_owned(),
            id: id(answer, request, told.attempt),
            source: format!("/{APP_ID}/{}", told.sdk_app_id),
            kind: TYPE.to_owned(),
            time: moment::format_ms(told.now_ms),
            datacontenttype: "application/json".to_owned(),
            data: Data {
                request: RequestTold {
                    id: request.id.clone(),
                    id_from: request.id_from.label().to_owned(),
                    round: request.round,
                    published_at: told.published_ms.map(moment::format_s),
                },
                status,
                groups: answer.found.unwrap_or(request.groups),
                remaining: answer.remaining,
                verified_at: answer.verified.then(|| moment::format_ms(told.now_ms)),
                cause: answer.cause.map(str::to_owned),
                code: answer.code.clone(),
                user,
                results,
                truncated,
            },
        }
    }

    /// As bytes of JSON; at most [`BYTES_MAX`].
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers always become JSON")
    }

    /// Reads an outcome.
    ///
    /// # Errors
    /// It is none.
    pub fn from_json(json: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(json)
    }
}

/// The routing key of an outcome: `STATUS.APP`. `app_id` is what the request's publisher is called.
#[must_use]
pub fn routing_key(status: Status, app_id: Option<&str>) -> String {
    let app = app_id.filter(|app| is_app(app));
    format!("{}.{}", status.label(), app.unwrap_or(NO_APP))
}

/// Whether an `app_id` becomes part of the routing key of answers: 1 to 64 letters of ASCII, digits, `_` and `-`.
#[must_use]
pub fn is_app(app_id: &str) -> bool {
    (1..=APP_BYTES_MAX).contains(&app_id.len())
        && app_id
            .bytes()
            .all(|it| it.is_ascii_alphanumeric() || matches!(it, b'_' | b'-'))
}

/// The same for a repeat of the same step, another for another story. What is told of all groups has places that count within one
/// outcome only; so the status belongs to the story as well.
fn id(answer: &Answer, request: &Request, attempt: Attempt) -> String {
    let mut story = format!(
        "{}:{}\n{} {}\n{}\n",
        request.id.len(),
        request.id,
        request.round,
        attempt.failures,
        answer
            .cause
            .filter(|cause| *cause == PURGED)
            .unwrap_or(answer.status().label()),
    );
    for name in &answer.ends {
        let _ = writeln!(story, "{} {}", request.place(name.place), name.end.story());
    }
    hex(&Sha256::digest(story.as_bytes()))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::super::all_groups::decide_all;
    use super::super::decide::decide;
    use super::super::message::decode;
    use super::super::request::Clues;
    use super::super::samples::{LIMITS, attempt, end};
    use super::*;

    const NOW: i64 = 1_796_083_211_120;

    fn named(count: usize) -> DeleteGroups {
        let names: Vec<String> = (0..count).map(|number| format!("\"n{number}\"")).collect();
        let body = format!(
            r#"{{"From_Account":"user15","GroupName":[{}]}}"#,
            names.join(",")
        );
        decode(body.as_bytes()).unwrap()
    }

    fn all() -> DeleteGroups {
        decode(br#"{"From_Account":"user15","AllGroups":true}"#).unwrap()
    }

    fn clues() -> Clues<'static> {
        Clues {
            message_id: Some("req-1"),
            ..Clues::default()
        }
    }

    fn event_of(answer: &Answer, event: Option<&DeleteGroups>, failures: u32) -> OutcomeEvent {
        event_to(&Request::read(&clues(), event), answer, failures)
    }

    fn event_to(request: &Request, answer: &Answer, failures: u32) -> OutcomeEvent {
        OutcomeEvent::new(
            answer,
            Told {
                request,
                attempt: attempt(failures),
                published_ms: Some(1_796_083_210_000),
                sdk_app_id: 1_400_000_000,
                now_ms: NOW,
                ids: None,
            },
        )
    }

    fn of_names(words: &str, failures: u32) -> Option<Answer> {
        let ends: Vec<NameEnd> = words.chars().map(end).collect();
        let decided = decide(&named(ends.len()), &ends, attempt(failures), LIMITS);
        Answer::of(&ends, &decided)
    }

    fn of_sweep(words: &str, list: List, failures: u32) -> Option<Answer> {
        let swept = Swept {
            ends: words.chars().map(end).collect(),
            list,
        };
        let decided = decide_all(&all(), &swept, attempt(failures), LIMITS);
        Answer::of_all(&swept, &decided)
    }

    /// One line for an answer: `status remaining: place end cause code, … | cause code`.
    fn line(answer: Option<&Answer>) -> String {
        let Some(answer) = answer else {
            return "silent".to_owned();
        };
        let ends: Vec<String> = answer
            .ends
            .iter()
            .map(|name| {
                let cause = name.cause.unwrap_or("-");
                let code = name.code.as_deref().unwrap_or("-");
                format!("{} {} {cause} {code}", name.place, name.end.story())
            })
            .collect();
        let cause = answer.cause.map_or(String::new(), |cause| {
            format!(" | {cause} {}", answer.code.as_deref().unwrap_or("-"))
        });
        let verified = if answer.verified { " verified" } else { "" };
        format!(
            "{} {}: {}{cause}{verified}",
            answer.status().label(),
            answer.remaining,
            ends.join(", ")
        )
    }

    #[test]
    fn debug_output_names_nobody() {
        let answer = of_names("df", 0).unwrap();
        let told = event_of(&answer, Some(&named(2)), 0);
        let expected = "OutcomeEvent { status: Partial, remaining: 1, .. }";
        assert_eq!(format!("{told:?}"), expected);
    }

    #[test]
    fn an_answer_tells_how_each_name_ended() {
        for (words, failures, expect) in [
            ("d", 0, "erased 0: 0 erased - 0"),
            ("dg", 0, "erased 0: 0 erased - 0, 1 erased - 51009"),
            ("G", 0, "erased 0: 0 erased - 50001"),
            ("r", 0, "failed 0: 0 dead_lettered rejected 51011"),
            (
                "dr",
                0,
                "mixed 0: 0 erased - 0, 1 dead_lettered rejected 51011",
            ),
            ("df", 0, "partial 1: 0 erased - 0"),
            ("rf", 0, "partial 1: 0 dead_lettered rejected 51011"),
            (
                "rf",
                2,
                "failed 0: 0 dead_lettered rejected 51011, 1 dead_lettered exhausted 50004",
            ),
            ("fit", 2, "partial 2: 0 dead_lettered exhausted 50004"),
            ("de", 0, "mixed 0: 0 erased - 0, 1 dead_lettered expired -"),
            ("f", 0, "silent"),
            ("t", 2, "silent"),
            ("fi", 0, "silent"),
            ("i", 0, "silent"),
        ] {
            let answer = of_names(words, failures);
            assert_eq!(line(answer.as_ref()), expect, "{words} after {failures}");
        }
    }

    #[test]
    fn an_answer_for_all_groups_rests_on_a_list() {
        let failed = |word| List::Failed(end(word));
        for (words, list, failures, expect) in [
            ("", List::Empty, 0, "erased 0:  verified"),
            (
                "dg",
                List::Empty,
                0,
                "erased 0: 0 erased - 0, 1 erased - 51009 verified",
            ),
            (
                "rd",
                List::Empty,
                0,
                "erased 0: 0 erased - -, 1 erased - 0 verified",
            ),
            ("df", List::Groups, 0, "partial 1: 0 erased - 0"),
            ("drf", List::Groups, 0, "partial 2: 0 erased - 0"),
            (
                "drf",
                List::Groups,
                2,
                "mixed 0: 0 erased - 0, 1 dead_lettered rejected 51011, 2 dead_lettered exhausted 50004",
            ),
            (
                "dr",
                List::Groups,
                0,
                "mixed 0: 0 erased - 0, 1 dead_lettered rejected 51011",
            ),
            (
                "r",
                List::Groups,
                0,
                "failed 0: 0 dead_lettered rejected 51011",
            ),
            ("", failed('f'), 0, "silent"),
            ("", failed('f'), 2, "failed 0:  | exhausted 50004"),
            ("", failed('r'), 0, "failed 0:  | rejected 51011"),
            ("", failed('e'), 0, "failed 0:  | expired -"),
            ("", failed('i'), 0, "silent"),
            (
                "dd",
                failed('f'),
                0,
                "partial 1: 0 erased - 0, 1 erased - 0",
            ),
            (
                "dd",
                failed('f'),
                2,
                "mixed 0: 0 erased - 0, 1 erased - 0 | exhausted 50004",
            ),
            (
                "die",
                List::Groups,
                0,
                "mixed 0: 0 erased - 0, 1 dead_lettered expired -, 2 dead_lettered expired -",
            ),
        ] {
            let shown = format!("{words} {list:?} after {failures}");
            assert_eq!(
                line(of_sweep(words, list, failures).as_ref()),
                expect,
                "{shown}"
            );
        }
    }

    #[test]
    fn a_letter_that_is_removed_is_told() {
        let purged = |event: Option<&DeleteGroups>| line(Some(&Answer::purged(event)));
        assert_eq!(
            purged(Some(&named(2))),
            "failed 0: 0 purged - -, 1 purged - -"
        );
        assert_eq!(purged(Some(&all())), "failed 0:  | purged -");
        assert_eq!(purged(None), "malformed 0:  | purged -");
        assert_eq!(line(Some(&Answer::malformed())), "malformed 0: ");
    }

    #[track_caller]
    fn check(event: &OutcomeEvent, expect: &Expect) {
        let json = event.to_json();
        expect.assert_eq(&String::from_utf8(json.clone()).unwrap());
        assert_eq!(OutcomeEvent::from_json(&json).unwrap(), *event);
    }

    #[test]
    fn an_outcome_is_a_cloud_event() {
        let answer = of_names("dfr", 0).unwrap();
        check(
            &event_of(&answer, Some(&named(3)), 0),
            &expect![[
                r#"{"specversion":"1.0","id":"99ae7ac835f3230a9938a297d0a626a601cc139ab54fa9a7335470da20a91a0b","source":"/convgroup-deleter/1400000000","type":"convgroup.request.settled.v1","time":"2026-12-01T00:00:11.120Z","datacontenttype":"application/json","data":{"request":{"id":"req-1","id_from":"message_id","round":0,"published_at":"2026-12-01T00:00:10Z"},"status":"partial","groups":3,"remaining":1,"verified_at":null,"results":[{"index":0,"outcome":"deleted","code":"0"},{"index":2,"outcome":"dead_lettered","cause":"rejected","code":"51011"}]}}"#
            ]],
        );
        let answer = of_sweep("", List::Empty, 0).unwrap();
        check(
            &event_of(&answer, Some(&all()), 0),
            &expect![[
                r#"{"specversion":"1.0","id":"78b0f3e85e4ae02636473eb43017f38ce509204ddc4f1bd6d0451fb62652e49d","source":"/convgroup-deleter/1400000000","type":"convgroup.request.settled.v1","time":"2026-12-01T00:00:11.120Z","datacontenttype":"application/json","data":{"request":{"id":"req-1","id_from":"message_id","round":0,"published_at":"2026-12-01T00:00:10Z"},"status":"erased","groups":0,"remaining":0,"verified_at":"2026-12-01T00:00:11.120Z","results":[]}}"#
            ]],
        );
        let answer = of_sweep("d", List::Failed(end('f')), 2).unwrap();
        check(
            &event_of(&answer, Some(&all()), 2),
            &expect![[
                r#"{"specversion":"1.0","id":"fb7e7502c13145cf0491fcd97bdcde5f6056fa13ea12dd5cec870f2be831075d","source":"/convgroup-deleter/1400000000","type":"convgroup.request.settled.v1","time":"2026-12-01T00:00:11.120Z","datacontenttype":"application/json","data":{"request":{"id":"req-1","id_from":"message_id","round":0,"published_at":"2026-12-01T00:00:10Z"},"status":"mixed","groups":1,"remaining":0,"verified_at":null,"cause":"exhausted","code":"50004","results":[{"index":0,"outcome":"deleted","code":"0"}]}}"#
            ]],
        );
        check(
            &event_of(&Answer::malformed(), None, 0),
            &expect![[
                r#"{"specversion":"1.0","id":"7f4cef0e689f6d5ece06b602e30f8c1c43a5578870fd1570ce7a76189c2bf640","source":"/convgroup-deleter/1400000000","type":"convgroup.request.settled.v1","time":"2026-12-01T00:00:11.120Z","datacontenttype":"application/json","data":{"request":{"id":"req-1","id_from":"message_id","round":0,"published_at":"2026-12-01T00:00:10Z"},"status":"malformed","groups":0,"remaining":0,"verified_at":null,"results":[]}}"#
            ]],
        );
    }

    #[test]
    fn an_outcome_has_the_id_of_its_story() {
        let id = |words: &str, failures: u32| {
            let answer = of_names(words, failures).unwrap();
            event_of(&answer, Some(&named(words.len())), failures).id
        };
        assert_eq!(id("dg", 0), id("gd", 0));
        assert_eq!(id("df", 0), id("gf", 0));
        let purged = event_of(&Answer::purged(Some(&named(1))), Some(&named(1)), 0).id;
        let stories = [
            id("d", 0),
            id("d", 1),
            id("r", 0),
            id("dd", 0),
            id("df", 0),
            id("dr", 0),
            purged,
            event_of(&Answer::malformed(), None, 0).id,
            event_of(&Answer::purged(None), None, 0).id,
        ];
        let mut different = stories.to_vec();
        different.sort();
        different.dedup();
        assert_eq!(different.len(), stories.len());
        // The same end of another name of the request, or in another round, is another story.
        let of_copy = |index, redrives| {
            let clues = Clues {
                index: Some(index),
                groups: Some(2),
                redrives: Some(redrives),
                ..clues()
            };
            let request = Request::read(&clues, Some(&named(1)));
            event_to(&request, &of_names("d", 0).unwrap(), 0).id
        };
        assert_ne!(of_copy("0", 0), of_copy("1", 0));
        assert_ne!(of_copy("0", 0), of_copy("0", 1));
        // A place counts within one outcome for all groups only: what was partial is another story than what is done.
        let partial = of_sweep("df", List::Groups, 0).unwrap();
        let done = of_sweep("d", List::Empty, 0).unwrap();
        assert_ne!(
            event_of(&partial, Some(&all()), 0).id,
            event_of(&done, Some(&all()), 0).id
        );
    }

    #[test]
    fn ids_are_told_only_where_asked_and_within_bounds() {
        let event = named(2);
        let answer = of_names("dr", 0).unwrap();
        let request = Request::read(&clues(), Some(&event));
        let told = |ids| Told {
            request: &request,
            attempt: attempt(0),
            published_ms: None,
            sdk_app_id: 1,
            now_ms: NOW,
            ids,
        };
        let with = OutcomeEvent::new(&answer, told(Some((event.user(), event.names()))));
        assert_eq!(with.data.user.as_deref(), Some("user15"));
        assert_eq!(with.data.results[1].group.as_deref(), Some("n1"));
        assert!(!with.data.truncated);
        let long = ["\u{1}".repeat(4000), "\u{1}".repeat(4000)];
        let cut = OutcomeEvent::new(&answer, told(Some(("user15", &long))));
        assert!(cut.data.truncated && cut.to_json().len() <= BYTES_MAX);
        assert!(cut.data.results[0].group.is_some() && cut.data.results[1].group.is_none());
        let without = OutcomeEvent::new(&answer, told(None)).to_json();
        let text = String::from_utf8(without).unwrap();
        assert!(!text.contains("user15") && !text.contains("n1") && !text.contains("API"));
    }

    #[test]
    fn the_largest_outcome_has_its_bound() {
        let most = super::super::all_groups::NAMES_MAX + 1;
        let answer = of_sweep(&"r".repeat(most), List::Groups, 0).unwrap();
        assert!(event_of(&answer, Some(&all()), 0).to_json().len() <= BYTES_MAX);
    }

    #[test]
    fn a_routing_key_names_status_and_app() {
        let longest = "a".repeat(APP_BYTES_MAX);
        for (app, expect) in [
            (Some("billing-2_x"), "erased.billing-2_x"),
            (Some(longest.as_str()), &format!("erased.{longest}")),
            (Some(&format!("{longest}a")), "erased.none"),
            (Some("a.b"), "erased.none"),
            (Some("#"), "erased.none"),
            (Some("ä"), "erased.none"),
            (Some(""), "erased.none"),
            (None, "erased.none"),
        ] {
            assert_eq!(routing_key(Status::Erased, app), expect);
        }
    }
}
