//! The event: bytes in, a command out, or the reason why not.
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use serde_json::value::RawValue;
use thiserror::Error;

use super::cloudevent::{Envelope, is_structured};
use super::encoding::{Declared, Unreadable, explanation};
use super::moment;
use super::object::{Field, Frame, fields, half_pair, is_string, known, offset, optional};

/// Longest body that is read, in bytes, an envelope around the event included (contract).
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// Most names in one event (contract).
pub const GROUPS_MAX: usize = 100;
/// Deepest nesting of arrays and objects in an event, unknown fields included. A real event has two levels; the bound is the
/// one that common JSON parsers have.
pub const DEPTH_MAX: usize = 128;

const USER_KEY: &str = "From_Account";
const GROUPS_KEY: &str = "GroupName";
const ALL_KEY: &str = "AllGroups";
const NOT_AFTER_KEY: &str = "NotAfter";

/// Which groups an event means.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Target<'e> {
    /// These, in the event's order, each once: 1 to [`GROUPS_MAX`].
    Named(&'e [String]),
    /// All that the user has, whatever they are called.
    All,
}

/// Names stay out of debug output.
impl fmt::Debug for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(groups) => write!(f, "Named({})", groups.len()),
            Self::All => f.write_str("All"),
        }
    }
}

/// Whether events that mean all groups of a user are accepted: `events.all_groups`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllGroups {
    /// They are.
    Accepted,
    /// They are malformed.
    Refused,
}

/// The groups that are meant; nothing where all are.
#[derive(Clone, PartialEq, Eq)]
struct Groups(Option<Vec<String>>);

impl Groups {
    fn target(&self) -> Target<'_> {
        self.0.as_deref().map_or(Target::All, Target::Named)
    }

    fn names(&self) -> &[String] {
        self.0.as_deref().unwrap_or_default()
    }
}

/// "Delete these conversation groups of this user": a decoded event. It owns what a copy with fewer names needs.
#[derive(Clone, PartialEq, Eq)]
pub struct DeleteGroups {
    user: String,
    groups: Groups,
    /// The place of each name in the event's list, where a name that is repeated makes them differ from 0, 1, 2 ….
    first_places: Option<Vec<usize>>,
    not_after: Option<NotAfter>,
    /// Nothing where there is one name, or all groups are meant: a copy carries what the event does, or there is none.
    frame: Option<Arc<Frame>>,
}

/// The moment after which no call is made for an event.
#[derive(Clone, PartialEq, Eq)]
struct NotAfter {
    unix_ms: i64,
    /// As it was written.
    text: String,
}

/// Ids stay out of debug output as they stay out of logs.
impl fmt::Debug for DeleteGroups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeleteGroups")
            .field("target", &self.target())
            .finish_non_exhaustive()
    }
}

impl DeleteGroups {
    /// The user whose groups are to go; not empty.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Which groups are to go.
    #[must_use]
    pub fn target(&self) -> Target<'_> {
        self.groups.target()
    }

    /// The names that the event has: those of [`Target::Named`]; none where all groups are meant.
    #[must_use]
    pub fn names(&self) -> &[String] {
        self.groups.names()
    }

    /// The place in the event's own list at which the name with this place in [`Self::names`] stands first.
    #[must_use]
    pub fn first_place(&self, place: usize) -> usize {
        let places = self.first_places.as_ref();
        places.map_or(place, |places| places[place])
    }

    /// The moment after which no call is made for it, unix ms; the moment itself is still allowed.
    #[must_use]
    pub fn not_after_ms(&self) -> Option<i64> {
        self.not_after.as_ref().map(|moment| moment.unix_ms)
    }

    /// Whether that moment has passed.
    #[must_use]
    pub fn is_expired(&self, now_ms: i64) -> bool {
        self.not_after_ms().is_some_and(|last| now_ms > last)
    }

    /// The event with only some of its names: those at these places in [`Self::names`], in this order.
    ///
    /// # Panics
    /// There is no name at one of the places.
    #[must_use]
    pub fn left(&self, places: &[usize]) -> NamesLeft {
        let names = self.names();
        let left: Vec<String> = places.iter().map(|&place| names[place].clone()).collect();
        NamesLeft {
            frame: self.frame.clone().filter(|_| left != names),
            groups: Groups(Some(left)),
            ..self.all_left()
        }
    }

    /// The event with all that it means.
    #[must_use]
    pub fn all_left(&self) -> NamesLeft {
        NamesLeft {
            user: self.user.clone(),
            groups: self.groups.clone(),
            not_after: self.not_after.as_ref().map(|moment| moment.text.clone()),
            frame: None,
        }
    }

    /// An event as a publisher would write it. `not_after` is a moment in RFC 3339.
    ///
    /// # Errors
    /// [`Malformed`] where the parts break the contract's bounds: what is published is what [`decode`] accepts.
    pub fn encode(
        user: &str,
        target: Target<'_>,
        not_after: Option<&str>,
    ) -> Result<Vec<u8>, Malformed> {
        let body = written(user, target, not_after);
        decode(&body).map(|_| body)
    }
}

/// The shortest body that says this.
fn written(user: &str, target: Target<'_>, not_after: Option<&str>) -> Vec<u8> {
    let mut event = match target {
        Target::Named(groups) => serde_json::json!({ USER_KEY: user, GROUPS_KEY: groups }),
        Target::All => serde_json::json!({ USER_KEY: user, ALL_KEY: true }),
    };
    if let Some(moment) = not_after {
        event[NOT_AFTER_KEY] = moment.into();
    }
    serde_json::to_vec(&event).expect("strings always serialize")
}

/// What is left of an event, all or some of its names, and the body of a copy that carries just this. The event's body is not read
/// again for it, so a copy can't fall back to carrying names that are done.
#[derive(Clone, PartialEq, Eq)]
pub struct NamesLeft {
    user: String,
    groups: Groups,
    not_after: Option<String>,
    /// Where some names are not left.
    frame: Option<Arc<Frame>>,
}

/// As with [`DeleteGroups`].
impl fmt::Debug for NamesLeft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamesLeft")
            .field("target", &self.target())
            .finish_non_exhaustive()
    }
}

impl NamesLeft {
    /// What is left.
    #[must_use]
    pub fn target(&self) -> Target<'_> {
        self.groups.target()
    }

    /// The names left, in the event's order; none where all groups are meant.
    #[must_use]
    pub fn names(&self) -> &[String] {
        self.groups.names()
    }

    /// The body of a copy that carries only the names left. Everything else stays as it was written, byte for byte per field, an
    /// envelope around the event included; a byte order mark before it goes. `None` where all names are left: then the event's own
    /// body travels, byte for byte.
    #[must_use]
    pub fn rewritten(&self) -> Option<Vec<u8>> {
        let frame = self.frame.as_ref()?;
        let names = serde_json::to_string(self.names()).expect("strings always serialize");
        Some(frame.with(&names))
    }

    /// A body with what is asked for only, without the fields and the envelope that the event's publisher added.
    #[must_use]
    pub fn bare(&self) -> Vec<u8> {
        written(&self.user, self.target(), self.not_after.as_deref())
    }
}

/// Why an event can't be read. The texts name no user and no group: they go into logs and headers.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// Longer than [`BODY_BYTES_MAX`].
    #[error("the body has {0} bytes, more than {BODY_BYTES_MAX}")]
    TooLong(usize),
    /// Not UTF-8.
    #[error("the body is not UTF-8: invalid from byte {0} on")]
    NotUtf8(usize),
    /// Not JSON, with the position.
    #[error("the body is not JSON (line {line}, column {column})")]
    NotJson {
        /// Line, from 1.
        line: usize,
        /// Column, from 1; 0 at a line's very start.
        column: usize,
    },
    /// JSON, but no object.
    #[error("the body is not a JSON object")]
    NotAnObject,
    /// Nested deeper than [`DEPTH_MAX`].
    #[error("the body is nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
    /// A known key is missing.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A known key appears twice.
    #[error("`{0}` appears more than once")]
    Duplicate(&'static str),
    /// A known key has a value of the wrong type.
    #[error("`{key}` is not {expected}")]
    WrongType {
        /// The key.
        key: &'static str,
        /// What it has to be.
        expected: &'static str,
    },
    /// A string of a known key holds half of a surrogate pair: an escape like `\ud83d` without its other half. No text in
    /// UTF-8 can hold that, so it can't be sent to the API either.
    #[error("`{key}`{} holds half of a surrogate pair at byte {at} of the body", in_name(*.name))]
    HalfPair {
        /// The key.
        key: &'static str,
        /// Which name of a list it is, from 1.
        name: Option<usize>,
        /// Where the escape begins in the body, in bytes from 0.
        at: usize,
    },
    /// The body is not UTF-8 or not JSON, and its first bytes or its properties explain that.
    #[error("{what}; {because}")]
    Explained {
        /// What is wrong.
        what: Box<Malformed>,
        /// What the body is instead.
        because: String,
    },
    /// Names, and all groups: one of them is meant.
    #[error("`{GROUPS_KEY}` and `{ALL_KEY}` exclude each other")]
    NamesAndAll,
    /// All groups are meant, and this daemon does not accept that.
    #[error(
        "`{ALL_KEY}` is not accepted by this daemon: its operator sets `events.all_groups = true`"
    )]
    AllRefused,
    /// A CloudEvent that carries its event as base64.
    #[error("`data_base64` is not read: an event stands in `data`, as JSON")]
    Base64,
    /// The user is the empty string.
    #[error("`{USER_KEY}` is empty")]
    EmptyUser,
    /// No name at all. Never taken as "all".
    #[error("`{GROUPS_KEY}` is empty: it must name at least one group")]
    NoGroups,
    /// More than [`GROUPS_MAX`] names.
    #[error("`{GROUPS_KEY}` has {0} names, more than {GROUPS_MAX}")]
    TooManyGroups(usize),
    /// The message around the event can't be read; the text says why.
    #[error("the message can't be read by an AMQP client: {0}")]
    Unreadable(String),
    /// One of the names is the empty string.
    #[error("`{GROUPS_KEY}` holds an empty name")]
    EmptyGroup,
}

fn in_name(name: Option<usize>) -> String {
    name.map_or(String::new(), |number| format!(": name {number}"))
}

/// Reads an event that stands alone. Never panics; the body is not changed by being read. A byte order mark before it is skipped.
///
/// # Errors
/// [`Malformed`] says what is wrong; such an event is dead-lettered byte for byte.
pub fn decode(body: &[u8]) -> Result<DeleteGroups, Malformed> {
    decode_message(body, &Declared::default(), AllGroups::Accepted).event
}

/// What a message was found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The id that its CloudEvents envelope gives it, where there is one and it can be read.
    pub cloudevents_id: Option<String>,
    /// The event, or why there is none. Such a message is dead-lettered byte for byte.
    pub event: Result<DeleteGroups, Malformed>,
}

/// Reads a message: an event that stands alone, or one in an envelope of CloudEvents, where its properties declare that. What the
/// properties say beyond that only helps to say why a body can't be read.
#[must_use]
pub fn decode_message(body: &[u8], declared: &Declared<'_>, all_groups: AllGroups) -> Decoded {
    let mut cloudevents_id = None;
    let event = read(body, declared, all_groups, &mut cloudevents_id)
        .map_err(|malformed| malformed.explained(body, declared));
    Decoded {
        cloudevents_id,
        event,
    }
}

impl Malformed {
    fn explained(self, body: &[u8], declared: &Declared<'_>) -> Self {
        let unreadable = match self {
            Self::NotUtf8(_) => Unreadable::NotUtf8,
            Self::NotJson { .. } => Unreadable::NotJson,
            _ => return self,
        };
        match explanation(body, unreadable, declared) {
            None => self,
            Some(because) => Self::Explained {
                what: Box::new(self),
                because,
            },
        }
    }
}

fn read(
    body: &[u8],
    declared: &Declared<'_>,
    all_groups: AllGroups,
    cloudevents_id: &mut Option<String>,
) -> Result<DeleteGroups, Malformed> {
    if !is_structured(declared.content_type) {
        if let Some(binary) = &declared.binary {
            *cloudevents_id = binary.id()?;
        }
        return event(&fields(body)?, body, all_groups, |frame| frame);
    }
    let outer = fields(body)?;
    let envelope = Envelope::of(&outer)?;
    let inner = envelope.fields();
    *cloudevents_id = Some(envelope.id);
    event(&inner?, body, all_groups, |frame| {
        Envelope::frame(&outer, &frame)
    })
}

/// Reads an event from its fields, which are part of `body`. `wrapped` puts what stands around the event around a frame of it.
fn event(
    fields: &[Field<'_>],
    body: &[u8],
    all_groups: AllGroups,
    wrapped: impl FnOnce(Frame) -> Frame,
) -> Result<DeleteGroups, Malformed> {
    let user = known(fields, USER_KEY)?;
    let names = optional(fields, GROUPS_KEY)?;
    let all = optional(fields, ALL_KEY)?;
    let not_after = optional(fields, NOT_AFTER_KEY)?;
    let user: String = serde_json::from_str(user).map_err(|_| wrong_user(user, body))?;
    let names = match (names, all) {
        (Some(_), Some(_)) => return Err(Malformed::NamesAndAll),
        (None, None) => return Err(Malformed::Missing(GROUPS_KEY)),
        (Some(names), None) => {
            let read: Result<Vec<String>, _> = serde_json::from_str(names);
            Some(read.map_err(|_| wrong_groups(names, body))?)
        }
        (None, Some("true")) => None,
        (None, Some(_)) => {
            return Err(Malformed::WrongType {
                key: ALL_KEY,
                expected: "`true`, the only value that it can have",
            });
        }
    };
    if user.is_empty() {
        return Err(Malformed::EmptyUser);
    }
    let not_after = not_after.map(moment).transpose()?;
    let Some(names) = names else {
        if all_groups == AllGroups::Refused {
            return Err(Malformed::AllRefused);
        }
        return Ok(DeleteGroups {
            user,
            groups: Groups(None),
            first_places: None,
            not_after,
            frame: None,
        });
    };
    check_names(&names)?;
    let frame = (names.len() > 1).then(|| Arc::new(wrapped(Frame::of(fields, GROUPS_KEY))));
    let (groups, first_places) = each_once(names);
    Ok(DeleteGroups {
        user,
        groups: Groups(Some(groups)),
        first_places,
        not_after,
        frame,
    })
}

fn check_names(names: &[String]) -> Result<(), Malformed> {
    if names.is_empty() {
        return Err(Malformed::NoGroups);
    }
    if names.len() > GROUPS_MAX {
        return Err(Malformed::TooManyGroups(names.len()));
    }
    if names.iter().any(String::is_empty) {
        return Err(Malformed::EmptyGroup);
    }
    Ok(())
}

/// The names without repetitions, and where each stands first, if some are repeated.
fn each_once(names: Vec<String>) -> (Vec<String>, Option<Vec<usize>>) {
    if names.len() == 1 {
        return (names, None);
    }
    let mut seen = HashSet::new();
    let first: Vec<usize> = (0..names.len())
        .filter(|&place| seen.insert(names[place].as_str()))
        .collect();
    if first.len() == names.len() {
        return (names, None);
    }
    let mut names: Vec<Option<String>> = names.into_iter().map(Some).collect();
    let once = first.iter().filter_map(|&place| names[place].take());
    (once.collect(), Some(first))
}

fn moment(value: &str) -> Result<NotAfter, Malformed> {
    let text: Option<String> = serde_json::from_str(value).ok();
    let read = |text: String| moment::parse(&text).map(|unix_ms| NotAfter { unix_ms, text });
    text.and_then(read).ok_or(Malformed::WrongType {
        key: NOT_AFTER_KEY,
        expected: "a moment in RFC 3339 with an offset, like `2026-12-01T00:00:00Z`",
    })
}

/// Why a value that is JSON is no user.
fn wrong_user(value: &str, body: &[u8]) -> Malformed {
    let key = USER_KEY;
    match half_pair(value) {
        Some(at) if is_string(value) => Malformed::HalfPair {
            key,
            name: None,
            at: offset(value, body) + at,
        },
        _ => Malformed::WrongType {
            key,
            expected: "a string",
        },
    }
}

/// Why a value that is JSON is no list of names.
fn wrong_groups(value: &str, body: &[u8]) -> Malformed {
    let key = GROUPS_KEY;
    let names: Vec<&RawValue> = serde_json::from_str(value).unwrap_or_default();
    let names: Vec<&str> = names.into_iter().map(RawValue::get).collect();
    let broken = names
        .iter()
        .enumerate()
        .find_map(|(index, name)| Some((index, offset(name, body) + half_pair(name)?)));
    match broken {
        Some((index, at)) if names.iter().all(|name| is_string(name)) => Malformed::HalfPair {
            key,
            name: Some(index + 1),
            at,
        },
        _ => Malformed::WrongType {
            key,
            expected: "a list of strings",
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "so that a row of the table is one line"
    )]
    fn check(body: &str, expect: Result<(&str, &[&str]), Malformed>) {
        let decoded = decode(body.as_bytes());
        let decoded = decoded.as_ref().map(|event| {
            let groups: Vec<&str> = event.names().iter().map(String::as_str).collect();
            (event.user(), groups)
        });
        let expect = expect
            .as_ref()
            .map(|(user, groups)| (*user, groups.to_vec()));
        assert_eq!(decoded, expect);
    }

    /// The body of a copy with only the names at these places.
    #[track_caller]
    fn rewritten(body: &[u8], places: &[usize]) -> String {
        let left = decode(body).unwrap().left(places);
        String::from_utf8(left.rewritten().unwrap()).unwrap()
    }

    #[test]
    fn good_events_decode() {
        check(
            r#"{"From_Account":"user15","GroupName":["a","b"]}"#,
            Ok(("user15", &["a", "b"])),
        );
        check(
            r#" {"GroupName":["a"],"x":{"y":[1e999]},"From_Account":"u"} "#,
            Ok(("u", &["a"])),
        );
        check(
            r#"{"From_Account":"u","GroupName":["b","a","b","a"]}"#,
            Ok(("u", &["b", "a"])),
        );
        check(
            r#"{"From_Account":" ","GroupName":["\u0000","\ud83d\ude00"]}"#,
            Ok((" ", &["\0", "😀"])),
        );
    }

    #[test]
    fn broken_events_say_what_is_wrong() {
        let wrong = |key, expected| Err(Malformed::WrongType { key, expected });
        check("", Err(Malformed::NotJson { line: 1, column: 0 }));
        check("null", Err(Malformed::NotAnObject));
        check(r#"["u",["a"]]"#, Err(Malformed::NotAnObject));
        check(
            r#"{"From_Account":"u","GroupName":["a"]} x"#,
            Err(Malformed::NotJson {
                line: 1,
                column: 40,
            }),
        );
        check(
            r#"{"GroupName":["a"]}"#,
            Err(Malformed::Missing("From_Account")),
        );
        check(
            r#"{"From_Account":"u"}"#,
            Err(Malformed::Missing("GroupName")),
        );
        check(
            r#"{"From_Account":7,"GroupName":["a"]}"#,
            wrong("From_Account", "a string"),
        );
        check(
            r#"{"From_Account":null,"GroupName":["a"]}"#,
            wrong("From_Account", "a string"),
        );
        check(
            r#"{"From_Account":"u","GroupName":"a"}"#,
            wrong("GroupName", "a list of strings"),
        );
        check(
            r#"{"From_Account":"u","GroupName":[1]}"#,
            wrong("GroupName", "a list of strings"),
        );
        check(
            r#"{"From_Account":"","GroupName":["a"]}"#,
            Err(Malformed::EmptyUser),
        );
        check(
            r#"{"From_Account":"u","GroupName":[]}"#,
            Err(Malformed::NoGroups),
        );
        check(
            r#"{"From_Account":"u","GroupName":["a",""]}"#,
            Err(Malformed::EmptyGroup),
        );
        check(
            r#"{"From_Account":"u","From_Account":"u","GroupName":["a"]}"#,
            Err(Malformed::Duplicate("From_Account")),
        );
        check(
            r#"{"From_Account":"u","GroupName":["a"],"Group\u004eame":["b"]}"#,
            Err(Malformed::Duplicate("GroupName")),
        );
        let many = vec!["\"g\""; 101].join(",");
        check(
            &format!(r#"{{"From_Account":"u","GroupName":[{many}]}}"#),
            Err(Malformed::TooManyGroups(101)),
        );
        let deep = format!(
            r#"{{"From_Account":"u","GroupName":["a"],"x":{}{}}}"#,
            "[".repeat(20_000),
            "]".repeat(20_000)
        );
        check(&deep, Err(Malformed::TooDeep));
        check(&"[".repeat(60_000), Err(Malformed::TooDeep));
        let (open, close) = ("[".repeat(100), "]".repeat(100));
        // Brackets in a string count for nothing, whatever is escaped in it.
        check(
            &format!(
                r#"{{"From_Account":"u","GroupName":["a"],"x":{open}"{close}\\\"{close}",{}{}{close}}}"#,
                "[".repeat(28),
                "]".repeat(28)
            ),
            Err(Malformed::TooDeep),
        );
        check(
            &"x".repeat(BODY_BYTES_MAX + 1),
            Err(Malformed::TooLong(BODY_BYTES_MAX + 1)),
        );
        assert_eq!(decode(b"{\"a\":\"\xff\"}"), Err(Malformed::NotUtf8(6)));
    }

    #[test]
    fn what_is_at_the_bound_is_read() {
        let event = |names: &str, more: &str| {
            format!(r#"{{"From_Account":"u","GroupName":[{names}],"x":{more}}}"#)
        };
        let (open, close) = ("[".repeat(DEPTH_MAX - 1), "]".repeat(DEPTH_MAX - 1));
        let many: Vec<String> = (0..GROUPS_MAX)
            .map(|number| format!("\"{number}\""))
            .collect();
        let long = BODY_BYTES_MAX - event("\"a\"", "\"\"").len();
        for body in [
            event(&many.join(","), "1"),
            event("\"a\"", &format!("\"{}\"", "x".repeat(long))),
            event("\"a\"", &format!("{open}{close}")),
            // Side by side they are not deep.
            event("\"a\"", &format!("[{}1]", "[],{},".repeat(DEPTH_MAX))),
            event("\"a\"", &format!("\"{open}\\\\\\\"{open}\"")),
        ] {
            assert!(decode(body.as_bytes()).is_ok(), "{body}");
        }
    }

    #[track_caller]
    fn says(body: &[u8], expect: &str) {
        let malformed = decode(body).map_err(|malformed| malformed.to_string());
        assert_eq!(malformed, Err(expect.to_owned()));
        assert!(expect.len() <= 200, "it has to fit convgroup-info");
    }

    #[test]
    fn half_of_a_surrogate_pair_is_told_with_its_place() {
        says(
            br#"{"From_Account":"u","GroupName":["\ud83d\ude00","a\ud83d"]}"#,
            "`GroupName`: name 2 holds half of a surrogate pair at byte 50 of the body",
        );
        says(
            br#"{"From_Account":"u","GroupName":["\\ud83d\ude00"]}"#,
            "`GroupName`: name 1 holds half of a surrogate pair at byte 41 of the body",
        );
        says(
            "\u{feff}{\"GroupName\":[\"a\"],\"From_Account\":\"\\uD83D\\uD83D\"}".as_bytes(),
            "`From_Account` holds half of a surrogate pair at byte 38 of the body",
        );
        // What is no list of strings stays that.
        for groups in [
            r#"[1,"\ud83d"]"#,
            r#"["\ud83d",["a"]]"#,
            r#"{"a":"\ud83d"}"#,
        ] {
            let body = format!(r#"{{"From_Account":"u","GroupName":{groups}}}"#);
            says(body.as_bytes(), "`GroupName` is not a list of strings");
        }
        says(
            br#"{"From_Account":["\ud83d"],"GroupName":["a"]}"#,
            "`From_Account` is not a string",
        );
    }

    #[test]
    fn strange_text_elsewhere_is_ignored_and_kept() {
        let body = br#"{"\ud83d":"\udc00","From_Accoun\u0074":"u","x":{"\ud83d":["\ud83d"]},"GroupName":["\u0000\u001f\u007f","b"]}"#;
        let event = decode(body).unwrap();
        assert_eq!(
            (event.user(), event.names()),
            ("u", &["\0\x1f\x7f".to_owned(), "b".to_owned()][..])
        );
        assert_eq!(
            rewritten(body, &[1]),
            r#"{"\ud83d":"\udc00","From_Accoun\u0074":"u","x":{"\ud83d":["\ud83d"]},"GroupName":["b"]}"#
        );
        for broken in [r#""\ud8""#, r#""\x41""#, "\"\t\"", r#""\uzzzz""#] {
            let body = format!(r#"{{"From_Account":"u","GroupName":["a"],"x":{broken}}}"#);
            assert!(
                matches!(decode(body.as_bytes()), Err(Malformed::NotJson { .. })),
                "{broken}"
            );
        }
        let key = br#"{"From_Account":"u","GroupName":["a"],1:2}"#;
        assert!(matches!(decode(key), Err(Malformed::NotJson { .. })));
    }

    #[test]
    fn a_byte_order_mark_is_skipped_and_not_copied() {
        let body = "\u{feff}{\"From_Account\":\"u\",\"GroupName\":[\"a\",\"b\"]}";
        check(body, Ok(("u", &["a", "b"])));
        assert_eq!(
            rewritten(body.as_bytes(), &[1]),
            r#"{"From_Account":"u","GroupName":["b"]}"#
        );
        says(
            "\u{feff}\u{feff}{}".as_bytes(),
            "the body is not JSON (line 1, column 1)",
        );
        says(
            "\u{feff}".as_bytes(),
            "the body is not JSON (line 1, column 0)",
        );
    }

    #[test]
    fn what_a_body_is_instead_explains_why_it_can_not_be_read() {
        says(
            b"\x1f\x8b\x08\0\0",
            "the body is not UTF-8: invalid from byte 1 on; it is gzip data, and events are not compressed",
        );
        says(
            b"\0SwA\x02{}",
            "the body is not JSON (line 1, column 1); it is an AMQP 1.0 section: publish the JSON as a data section",
        );
        let declared = Declared {
            content_type: Some("application/json; charset=gbk"),
            content_encoding: Some("gzip"),
            kind: Some("amqp-1.0"),
            binary: None,
        };
        let good = br#"{"From_Account":"u","GroupName":["a"]}"#;
        let read = |body: &[u8]| decode_message(body, &declared, AllGroups::Accepted).event;
        assert_eq!(read(good), decode(good));
        assert_eq!(read(b"{}"), Err(Malformed::Missing("From_Account")));
        let gbk = b"{\"From_Account\":\"\xd3\xc3\"}";
        assert_eq!(
            read(gbk).unwrap_err().to_string(),
            "the body is not UTF-8: invalid from byte 17 on; content_type says gbk, and events are UTF-8"
        );
    }

    #[test]
    fn a_copy_keeps_what_it_does_not_know() {
        let body = br#"{ "x" : 1.50e3, "GroupName":["a","b","c"],"From_Account":"u\u0041", "y":{"z":[ ]} }"#;
        assert_eq!(
            rewritten(body, &[1]),
            r#"{"x":1.50e3,"GroupName":["b"],"From_Account":"u\u0041","y":{"z":[ ]}}"#
        );
    }

    #[test]
    fn a_copy_with_all_names_is_not_written_anew() {
        let event = decode(br#" {"From_Account":"u", "GroupName":["a","b","a"],"x":1} "#).unwrap();
        assert_eq!(event.left(&[0, 1]), event.all_left());
        assert_eq!(event.all_left().names(), event.names());
        assert_eq!(event.all_left().rewritten(), None);
        let bare = br#"{"From_Account":"u","GroupName":["a","b"]}"#;
        assert_eq!(event.all_left().bare(), bare);
    }

    #[test]
    fn all_groups_are_meant_by_true_alone() {
        let event = decode(br#"{"From_Account":"u","AllGroups":true,"x":1}"#).unwrap();
        assert_eq!((event.user(), event.target()), ("u", Target::All));
        assert_eq!(event.all_left().rewritten(), None);
        let bare = br#"{"AllGroups":true,"From_Account":"u"}"#;
        assert_eq!(event.all_left().bare(), bare);
        for wrong in ["false", "null", "1", "\"true\"", "[]"] {
            says(
                format!(r#"{{"From_Account":"u","AllGroups":{wrong}}}"#).as_bytes(),
                "`AllGroups` is not `true`, the only value that it can have",
            );
        }
        for both in [r#""AllGroups":true"#, r#""AllGroups":0"#] {
            says(
                format!(r#"{{"From_Account":"u","GroupName":["a"],{both}}}"#).as_bytes(),
                "`GroupName` and `AllGroups` exclude each other",
            );
        }
        check(
            r#"{"From_Account":"","AllGroups":true}"#,
            Err(Malformed::EmptyUser),
        );
        check(
            r#"{"From_Account":"u","AllGroups":true,"AllGroups":true}"#,
            Err(Malformed::Duplicate("AllGroups")),
        );
        let refused = decode_message(
            br#"{"From_Account":"u","AllGroups":true}"#,
            &Declared::default(),
            AllGroups::Refused,
        );
        assert_eq!(
            refused.event.unwrap_err().to_string(),
            "`AllGroups` is not accepted by this daemon: its operator sets `events.all_groups = true`"
        );
    }

    #[test]
    fn a_moment_bounds_the_calls_and_travels_on() {
        let body = br#"{"From_Account":"u","GroupName":["a","b"],"NotAfter":"2026-12-01T01:00:00.5+01:00"}"#;
        let event = decode(body).unwrap();
        let last = 1_796_083_200_500;
        assert_eq!(event.not_after_ms(), Some(last));
        assert!(!event.is_expired(last) && event.is_expired(last + 1));
        assert_eq!(
            rewritten(body, &[1]),
            r#"{"From_Account":"u","GroupName":["b"],"NotAfter":"2026-12-01T01:00:00.5+01:00"}"#
        );
        let bare = String::from_utf8(event.left(&[0]).bare()).unwrap();
        assert_eq!(
            bare,
            r#"{"From_Account":"u","GroupName":["a"],"NotAfter":"2026-12-01T01:00:00.5+01:00"}"#
        );
        assert!(
            !decode(br#"{"From_Account":"u","GroupName":["a"]}"#)
                .unwrap()
                .is_expired(i64::MAX)
        );
        for wrong in [
            "null",
            "1796083200",
            "\"2026-12-01\"",
            "\"2026-12-01 00:00:00Z\"",
            "\"\\ud83d\"",
        ] {
            says(
                format!(r#"{{"From_Account":"u","GroupName":["a"],"NotAfter":{wrong}}}"#)
                    .as_bytes(),
                "`NotAfter` is not a moment in RFC 3339 with an offset, like `2026-12-01T00:00:00Z`",
            );
        }
    }

    #[test]
    fn a_name_has_the_place_where_it_stands_first() {
        let event = decode(br#"{"From_Account":"u","GroupName":["b","a","b","c","a"]}"#).unwrap();
        assert_eq!(event.names(), ["b", "a", "c"]);
        assert_eq!([0, 1, 2].map(|place| event.first_place(place)), [0, 1, 3]);
        let event = decode(br#"{"From_Account":"u","GroupName":["b","a"]}"#).unwrap();
        assert_eq!([0, 1].map(|place| event.first_place(place)), [0, 1]);
    }

    fn structured(body: &str) -> Decoded {
        let declared = Declared {
            content_type: Some("application/cloudevents+json; charset=utf-8"),
            ..Declared::default()
        };
        decode_message(body.as_bytes(), &declared, AllGroups::Accepted)
    }

    #[test]
    fn a_structured_envelope_is_opened_and_kept() {
        let body = r#"{"specversion":"1.0","id":"e-1","source":"/s","type":"t","x":[1], "data" : {"y":2,"GroupName":["a","b"],"From_Account":"u"},"time":"now"}"#;
        let Decoded {
            cloudevents_id,
            event,
        } = structured(body);
        let event = event.unwrap();
        assert_eq!(cloudevents_id.as_deref(), Some("e-1"));
        assert_eq!((event.user(), event.names().len()), ("u", 2));
        let copy = String::from_utf8(event.left(&[1]).rewritten().unwrap()).unwrap();
        assert_eq!(
            copy,
            r#"{"specversion":"1.0","id":"e-1","source":"/s","type":"t","x":[1],"data":{"y":2,"GroupName":["b"],"From_Account":"u"},"time":"now"}"#
        );
        assert_eq!(structured(&copy).event.unwrap().names(), ["b"]);
        assert_eq!(
            event.left(&[1]).bare(),
            br#"{"From_Account":"u","GroupName":["b"]}"#
        );
        // Without the declaration it is an object like any other.
        assert_eq!(
            decode(body.as_bytes()),
            Err(Malformed::Missing("From_Account"))
        );
    }

    #[test]
    fn a_broken_envelope_says_what_is_wrong() {
        let envelope = |changed: &str, value: &str| {
            let mut fields = vec![
                ("specversion", r#""1.0""#),
                ("id", r#""e-1""#),
                ("source", r#""/s""#),
                ("type", r#""t""#),
                ("data", r#"{"From_Account":"u","GroupName":["a"]}"#),
            ];
            fields.retain(|(key, _)| *key != changed);
            if !value.is_empty() {
                fields.push((changed, value));
            }
            let fields: Vec<String> = fields
                .iter()
                .map(|(key, value)| format!("\"{key}\":{value}"))
                .collect();
            structured(&format!("{{{}}}", fields.join(",")))
        };
        let text = "a string that is not empty";
        for (key, value, expect) in [
            (
                "datacontenttype",
                r#""Application/JSON; charset=utf-8""#,
                String::new(),
            ),
            (
                "datacontenttype",
                r#""application/vnd.x+json""#,
                String::new(),
            ),
            (
                "datacontenttype",
                r#""text/xml""#,
                "`datacontenttype` is not a content type of JSON".into(),
            ),
            (
                "datacontenttype",
                "1",
                "`datacontenttype` is not a content type of JSON".into(),
            ),
            (
                "specversion",
                r#""0.3""#,
                "`specversion` is not `1.0`, the only version of CloudEvents that is read".into(),
            ),
            ("specversion", "1.0", format!("`specversion` is not {text}")),
            ("id", "", "`id` is missing".into()),
            ("id", r#""""#, format!("`id` is not {text}")),
            ("source", "7", format!("`source` is not {text}")),
            ("type", "null", format!("`type` is not {text}")),
            ("data", "", "`data` is missing".into()),
            ("data", "[]", "`data` is not a JSON object".into()),
            (
                "data_base64",
                r#""e30=""#,
                "`data_base64` is not read: an event stands in `data`, as JSON".into(),
            ),
        ] {
            let found = envelope(key, value);
            let said = found
                .event
                .map_or_else(|err| err.to_string(), |_| String::new());
            assert_eq!(said, expect, "{key}: {value}");
            assert_eq!(found.cloudevents_id.is_some(), expect.is_empty());
        }
        // The envelope is whole; what it carries is none of ours.
        let found = envelope("data", r#"{"From_Account":"u"}"#);
        assert_eq!(found.event, Err(Malformed::Missing("GroupName")));
        assert_eq!(found.cloudevents_id.as_deref(), Some("e-1"));
    }

    #[test]
    fn headers_name_an_event_in_binary_mode() {
        let read = |version: &str, body: &[u8]| {
            let headers = [("ce-specversion", version), ("ce-id", "e-1")];
            let headers = headers.map(|(name, value)| (name, value.to_owned()));
            let declared = Declared {
                binary: super::super::cloudevent::Binary::of(&headers.into_iter()),
                ..Declared::default()
            };
            decode_message(body, &declared, AllGroups::Accepted)
        };
        let good = br#"{"From_Account":"u","GroupName":["a"]}"#;
        let found = read("1.0", good);
        assert_eq!(found.cloudevents_id.as_deref(), Some("e-1"));
        assert_eq!(found.event, decode(good));
        assert_eq!(read("1.0", b"{}").cloudevents_id.as_deref(), Some("e-1"));
        let wrong = read("2.0", good);
        assert_eq!(wrong.cloudevents_id, None);
        assert!(matches!(
            wrong.event,
            Err(Malformed::WrongType {
                key: "specversion",
                ..
            })
        ));
    }

    #[test]
    fn debug_output_names_nobody() {
        let event = decode(br#"{"From_Account":"alice","GroupName":["secret"]}"#).unwrap();
        assert_eq!(
            format!("{event:?}"),
            "DeleteGroups { target: Named(1), .. }"
        );
        assert_eq!(
            format!("{:?}", event.all_left()),
            "NamesLeft { target: Named(1), .. }"
        );
    }

    proptest! {
        #[test]
        fn decode_survives_arbitrary_bytes(body in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let _ = decode(&body);
        }

        #[test]
        fn decode_survives_bytes_that_look_like_an_event(body in r#"(\{|\[|"From_Account"|"GroupName"|:|,|"|\\|a|1|\]|\}){0,40}"#) {
            let _ = decode(body.as_bytes());
        }

        #[test]
        fn what_is_encoded_decodes_to_the_same(user in ".{1,20}", groups in proptest::collection::hash_set(".{1,20}", 1..9)) {
            let groups: Vec<String> = groups.into_iter().collect();
            let body = DeleteGroups::encode(&user, Target::Named(&groups), None).unwrap();
            let event = decode(&body).unwrap();
            prop_assert_eq!((event.user(), event.names()), (user.as_str(), groups.as_slice()));
            let rewritten = event.left(&[0]).rewritten();
            let one = decode(rewritten.as_deref().unwrap_or(&body)).unwrap();
            prop_assert_eq!((one.user(), one.names()), (user.as_str(), &groups[..1]));
        }
    }
}
