//! The event: bytes in, a command out, or the reason why not.
use std::collections::HashSet;
use std::fmt;
use std::str;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use thiserror::Error;

use super::encoding::{Declared, Unreadable, explanation};
use super::text::BYTE_ORDER_MARK;

/// Longest body that is read, in bytes (contract).
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// Most names in one event (contract).
pub const GROUPS_MAX: usize = 100;
/// Deepest nesting of arrays and objects in an event, unknown fields included. A real event has two levels; the bound is the
/// one that common JSON parsers have.
pub const DEPTH_MAX: usize = 128;

const USER_KEY: &str = "From_Account";
const GROUPS_KEY: &str = "GroupName";

/// "Delete these conversation groups of this user": a decoded event. It owns what a copy with fewer names needs.
#[derive(Clone, PartialEq, Eq)]
pub struct DeleteGroups {
    user: String,
    groups: Vec<String>,
    /// Nothing where there is one name: a copy carries it, or there is none.
    frame: Option<Arc<Frame>>,
}

/// Ids stay out of debug output as they stay out of logs.
impl fmt::Debug for DeleteGroups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeleteGroups")
            .field("groups", &self.groups.len())
            .finish_non_exhaustive()
    }
}

impl DeleteGroups {
    /// The user whose groups are to go; not empty.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The names to delete, in the event's order, each once: 1 to [`GROUPS_MAX`].
    #[must_use]
    pub fn groups(&self) -> &[String] {
        &self.groups
    }

    /// The event with only some of its names: those at these places in [`Self::groups`], in this order.
    ///
    /// # Panics
    /// There is no name at one of the places.
    #[must_use]
    pub fn left(&self, places: &[usize]) -> NamesLeft {
        let groups: Vec<String> = places
            .iter()
            .map(|&place| self.groups[place].clone())
            .collect();
        NamesLeft {
            frame: self.frame.clone().filter(|_| groups != self.groups),
            user: self.user.clone(),
            groups,
        }
    }

    /// The event with all of its names.
    #[must_use]
    pub fn all_left(&self) -> NamesLeft {
        NamesLeft {
            user: self.user.clone(),
            groups: self.groups.clone(),
            frame: None,
        }
    }

    /// An event as a publisher would write it.
    ///
    /// # Errors
    /// [`Malformed`] where the parts break the contract's bounds: what is published is what [`decode`] accepts.
    pub fn encode(user: &str, groups: &[String]) -> Result<Vec<u8>, Malformed> {
        let body = written(user, groups);
        decode(&body).map(|_| body)
    }
}

/// The shortest body that says this.
fn written(user: &str, groups: &[String]) -> Vec<u8> {
    serde_json::to_vec(&serde_json::json!({ USER_KEY: user, GROUPS_KEY: groups }))
        .expect("strings always serialize")
}

/// The names of an event that are left, all or some, and the body of a copy that carries just these. The event's body is not read
/// again for it, so a copy can't fall back to carrying names that are done.
#[derive(Clone, PartialEq, Eq)]
pub struct NamesLeft {
    user: String,
    groups: Vec<String>,
    /// Where some names are not left.
    frame: Option<Arc<Frame>>,
}

/// As with [`DeleteGroups`].
impl fmt::Debug for NamesLeft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamesLeft")
            .field("groups", &self.groups.len())
            .finish_non_exhaustive()
    }
}

impl NamesLeft {
    /// The names left, in the event's order.
    #[must_use]
    pub fn groups(&self) -> &[String] {
        &self.groups
    }

    /// The body of a copy that carries only the names left. Everything else stays as it was written, byte for byte per field; a
    /// byte order mark before it goes. `None` where all names are left: then the event's own body travels, byte for byte.
    #[must_use]
    pub fn rewritten(&self) -> Option<Vec<u8>> {
        let frame = self.frame.as_ref()?;
        Some(frame.with(&self.groups))
    }

    /// A body with user and names only, without the fields that the event's publisher added.
    #[must_use]
    pub fn bare(&self) -> Vec<u8> {
        written(&self.user, &self.groups)
    }
}

/// An event's body without its list of names: every other field as it was written, and the place where the list goes.
#[derive(Clone, PartialEq, Eq)]
struct Frame {
    text: String,
    names_at: usize,
}

impl Frame {
    fn of(fields: &[Field<'_>]) -> Self {
        let (mut text, mut names_at) = (String::from("{"), 0);
        for (key, value) in fields {
            if text.len() > 1 {
                text.push(',');
            }
            text.push_str(key.get());
            text.push(':');
            if is_key(key, GROUPS_KEY) {
                names_at = text.len();
            } else {
                text.push_str(value.get());
            }
        }
        text.push('}');
        Self { text, names_at }
    }

    fn with(&self, groups: &[String]) -> Vec<u8> {
        let groups = serde_json::to_string(groups).expect("strings always serialize");
        let (before, after) = self.text.split_at(self.names_at);
        [before, &groups, after].concat().into_bytes()
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

/// Reads an event. Never panics; the body is not changed by being read. A byte order mark before it is skipped.
///
/// # Errors
/// [`Malformed`] says what is wrong; such an event is dead-lettered byte for byte.
pub fn decode(body: &[u8]) -> Result<DeleteGroups, Malformed> {
    decode_declared(body, Declared::default())
}

/// The same for a body about which its properties say something: that helps to say why it can't be read, and changes nothing
/// else.
///
/// # Errors
/// As [`decode`].
pub fn decode_declared(body: &[u8], declared: Declared<'_>) -> Result<DeleteGroups, Malformed> {
    read(body).map_err(|malformed| malformed.explained(body, declared))
}

impl Malformed {
    fn explained(self, body: &[u8], declared: Declared<'_>) -> Self {
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

fn read(body: &[u8]) -> Result<DeleteGroups, Malformed> {
    let fields = fields(body)?;
    let user = known(&fields, USER_KEY)?;
    let groups = known(&fields, GROUPS_KEY)?;
    let user: String = serde_json::from_str(user).map_err(|_| wrong_user(user, body))?;
    let groups: Vec<String> =
        serde_json::from_str(groups).map_err(|_| wrong_groups(groups, body))?;
    if user.is_empty() {
        return Err(Malformed::EmptyUser);
    }
    if groups.is_empty() {
        return Err(Malformed::NoGroups);
    }
    if groups.len() > GROUPS_MAX {
        return Err(Malformed::TooManyGroups(groups.len()));
    }
    if groups.iter().any(String::is_empty) {
        return Err(Malformed::EmptyGroup);
    }
    if groups.len() == 1 {
        return Ok(DeleteGroups {
            user,
            groups,
            frame: None,
        });
    }
    let frame = Some(Arc::new(Frame::of(&fields)));
    let mut seen = HashSet::new();
    let repeated: Vec<bool> = groups
        .iter()
        .map(|group| !seen.insert(group.clone()))
        .collect();
    let groups = groups
        .into_iter()
        .zip(repeated)
        .filter(|(_, repeated)| !repeated)
        .map(|(group, _)| group);
    Ok(DeleteGroups {
        user,
        groups: groups.collect(),
        frame,
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

/// Whether a JSON value is a string.
fn is_string(value: &str) -> bool {
    value.starts_with('"')
}

/// Where a part of the body begins, in bytes.
fn offset(part: &str, body: &[u8]) -> usize {
    part.as_ptr().addr() - body.as_ptr().addr()
}

/// Where the first escape stands in a JSON text that is half of a surrogate pair without the other half, in bytes.
fn half_pair(json: &str) -> Option<usize> {
    let bytes = json.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += match (byte, unit(json, at), unit(json, at + 6)) {
            (_, Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (_, Some(0xd800..=0xdfff), _) => return Some(at),
            (_, Some(_), _) => 6,
            (b'\\', None, _) => 2,
            (_, None, _) => 1,
        };
    }
    None
}

/// The UTF-16 unit of the escape `\uXXXX` that stands there, if one does.
fn unit(json: &str, at: usize) -> Option<u16> {
    let hex = json.get(at..at + 6)?.strip_prefix("\\u")?;
    u16::from_str_radix(hex, 16).ok()
}

/// A key with its quotes and escapes, and its value, both as they were written.
type Field<'b> = (&'b RawValue, &'b RawValue);

/// The object's fields in order, untouched.
fn fields(body: &[u8]) -> Result<Vec<Field<'_>>, Malformed> {
    if body.len() > BODY_BYTES_MAX {
        return Err(Malformed::TooLong(body.len()));
    }
    let text = str::from_utf8(body).map_err(|err| Malformed::NotUtf8(err.valid_up_to()))?;
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    if depth(text) > DEPTH_MAX {
        return Err(Malformed::TooDeep);
    }
    let is_object = text
        .trim_start_matches([' ', '\t', '\n', '\r'])
        .starts_with('{');
    let not_json = |err: serde_json::Error| Malformed::NotJson {
        line: err.line(),
        column: err.column(),
    };
    if is_object {
        serde_json::from_str::<Fields<'_>>(text)
            .map(|fields| fields.0)
            .map_err(not_json)
    } else {
        serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(not_json)?;
        Err(Malformed::NotAnObject)
    }
}

fn known<'b>(fields: &[Field<'b>], key: &'static str) -> Result<&'b str, Malformed> {
    let mut values = fields
        .iter()
        .filter(|(name, _)| is_key(name, key))
        .map(|(_, value)| value.get());
    match (values.next(), values.next()) {
        (None, _) => Err(Malformed::Missing(key)),
        (Some(value), None) => Ok(value),
        (Some(_), Some(_)) => Err(Malformed::Duplicate(key)),
    }
}

/// Whether a key as it was written is this one. One with half of a surrogate pair is none that we know.
fn is_key(written: &RawValue, key: &str) -> bool {
    let written = written.get();
    if written.contains('\\') {
        return serde_json::from_str::<String>(written).is_ok_and(|name| name == key);
    }
    written.trim_matches('"') == key
}

/// Deepest nesting of brackets outside strings.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// An object's fields in the order they were written. A derived struct would accept an array as well, and a map would lose
/// repeated keys.
struct Fields<'b>(Vec<Field<'b>>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;

        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(FieldsVisitor)
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
            let groups: Vec<&str> = event.groups().iter().map(String::as_str).collect();
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
        check(
            &"x".repeat(BODY_BYTES_MAX + 1),
            Err(Malformed::TooLong(BODY_BYTES_MAX + 1)),
        );
        assert_eq!(decode(b"{\"a\":\"\xff\"}"), Err(Malformed::NotUtf8(6)));
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
            (event.user(), event.groups()),
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
        };
        let good = br#"{"From_Account":"u","GroupName":["a"]}"#;
        assert_eq!(decode_declared(good, declared), decode(good));
        let missing = decode_declared(b"{}", declared);
        assert_eq!(missing, Err(Malformed::Missing("From_Account")));
        let gbk = b"{\"From_Account\":\"\xd3\xc3\"}";
        assert_eq!(
            decode_declared(gbk, declared).unwrap_err().to_string(),
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
        assert_eq!(event.all_left().groups(), event.groups());
        assert_eq!(event.all_left().rewritten(), None);
        let bare = br#"{"From_Account":"u","GroupName":["a","b"]}"#;
        assert_eq!(event.all_left().bare(), bare);
    }

    #[test]
    fn debug_output_names_nobody() {
        let event = decode(br#"{"From_Account":"alice","GroupName":["secret"]}"#).unwrap();
        assert_eq!(format!("{event:?}"), "DeleteGroups { groups: 1, .. }");
        assert_eq!(
            format!("{:?}", event.all_left()),
            "NamesLeft { groups: 1, .. }"
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
            let body = DeleteGroups::encode(&user, &groups).unwrap();
            let event = decode(&body).unwrap();
            prop_assert_eq!((event.user(), event.groups()), (user.as_str(), groups.as_slice()));
            let rewritten = event.left(&[0]).rewritten();
            let one = decode(rewritten.as_deref().unwrap_or(&body)).unwrap();
            prop_assert_eq!((one.user(), one.groups()), (user.as_str(), &groups[..1]));
        }
    }
}
