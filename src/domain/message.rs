//! The event: bytes in, a command out, or the reason why not.
use std::collections::HashSet;
use std::fmt;
use std::str;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use thiserror::Error;

/// Longest body that is read, in bytes (contract).
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// Most names in one event (contract).
pub const GROUPS_MAX: usize = 100;
/// Deepest nesting of arrays and objects in an event, unknown fields included. A real event has two levels; the bound is the
/// one that common JSON parsers have.
pub const DEPTH_MAX: usize = 128;

const USER_KEY: &str = "From_Account";
const GROUPS_KEY: &str = "GroupName";

/// "Delete these conversation groups of this user": a decoded event.
#[derive(Clone, PartialEq, Eq)]
pub struct DeleteGroups {
    user: String,
    groups: Vec<String>,
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

    /// An event as a publisher would write it.
    ///
    /// # Errors
    /// [`Malformed`] where the parts break the contract's bounds: what is published is what [`decode`] accepts.
    pub fn encode(user: &str, groups: &[String]) -> Result<Vec<u8>, Malformed> {
        let body = serde_json::to_vec(&serde_json::json!({ USER_KEY: user, GROUPS_KEY: groups }))
            .expect("strings always serialize");
        decode(&body).map(|_| body)
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

/// Reads an event. Never panics; the body is not changed by being read.
///
/// # Errors
/// [`Malformed`] says what is wrong; such an event is dead-lettered byte for byte.
pub fn decode(body: &[u8]) -> Result<DeleteGroups, Malformed> {
    let fields = fields(body)?;
    let user = known(&fields, USER_KEY)?;
    let groups = known(&fields, GROUPS_KEY)?;
    let user: String = serde_json::from_str(user).map_err(|_| Malformed::WrongType {
        key: USER_KEY,
        expected: "a string",
    })?;
    let groups: Vec<String> = serde_json::from_str(groups).map_err(|_| Malformed::WrongType {
        key: GROUPS_KEY,
        expected: "a list of strings",
    })?;
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
        return Ok(DeleteGroups { user, groups });
    }
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
    })
}

/// The body of a copy that carries only the names left. Everything else stays as it was written, byte for byte per field.
///
/// `body` has been [`decode`]d before; one that can't be read is returned as it is.
#[must_use]
pub fn with_groups(body: &[u8], left: &[String]) -> Vec<u8> {
    let Ok(fields) = fields(body) else {
        return body.to_vec();
    };
    let left = serde_json::to_string(left).expect("strings always serialize");
    let parts: Vec<String> = fields
        .iter()
        .map(|(key, value)| {
            let value = if key == GROUPS_KEY {
                &left
            } else {
                value.get()
            };
            format!("{}:{value}", serde_json::Value::from(key.as_str()))
        })
        .collect();
    format!("{{{}}}", parts.join(",")).into_bytes()
}

/// The object's fields in order, their values untouched.
fn fields(body: &[u8]) -> Result<Vec<(String, Box<RawValue>)>, Malformed> {
    if body.len() > BODY_BYTES_MAX {
        return Err(Malformed::TooLong(body.len()));
    }
    let text = str::from_utf8(body).map_err(|err| Malformed::NotUtf8(err.valid_up_to()))?;
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
        serde_json::from_str::<Fields>(text)
            .map(|fields| fields.0)
            .map_err(not_json)
    } else {
        serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(not_json)?;
        Err(Malformed::NotAnObject)
    }
}

fn known<'a>(
    fields: &'a [(String, Box<RawValue>)],
    key: &'static str,
) -> Result<&'a str, Malformed> {
    let mut values = fields
        .iter()
        .filter(|(name, _)| name == key)
        .map(|(_, value)| value.get());
    match (values.next(), values.next()) {
        (None, _) => Err(Malformed::Missing(key)),
        (Some(value), None) => Ok(value),
        (Some(_), Some(_)) => Err(Malformed::Duplicate(key)),
    }
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
struct Fields(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;

        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
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

    #[test]
    fn a_copy_keeps_what_it_does_not_know() {
        let body = br#"{ "x" : 1.50e3, "GroupName":["a","b","c"],"From_Account":"u\u0041", "y":{"z":[ ]} }"#;
        let copy = with_groups(body, &["b".to_owned()]);
        assert_eq!(
            String::from_utf8(copy).unwrap(),
            r#"{"x":1.50e3,"GroupName":["b"],"From_Account":"u\u0041","y":{"z":[ ]}}"#
        );
    }

    #[test]
    fn debug_output_names_nobody() {
        let event = decode(br#"{"From_Account":"alice","GroupName":["secret"]}"#).unwrap();
        assert_eq!(format!("{event:?}"), "DeleteGroups { groups: 1, .. }");
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
            let one = with_groups(&body, &groups[..1]);
            let one = decode(&one).unwrap();
            prop_assert_eq!((one.user(), one.groups()), (user.as_str(), &groups[..1]));
        }
    }
}
