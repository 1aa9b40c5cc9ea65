//! A manifest: what was asked for, one request a line, written before the first of them is published.
//!
//! Whoever holds it can prove later, with the outcomes, what became of each request. It names no user and no group: hashes stand for
//! them.
use std::fmt;
use std::num::NonZeroU32;

use serde::de::{self, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::message::{DeleteGroups, GROUPS_MAX, Target};
use super::request;
use super::text::{hex, trimmed};

/// Which groups a request means, as far as its answers have to account for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Groups {
    /// So many different names; 0 where its publisher could not read the event.
    Named(u16),
    /// All that the user has.
    All,
}

impl Groups {
    /// What an event means; nothing stands for an event that can't be read.
    #[must_use]
    pub fn of(event: Option<&DeleteGroups>) -> Self {
        match event.map(DeleteGroups::target) {
            None => Self::Named(0),
            Some(Target::Named(names)) => {
                Self::Named(u16::try_from(names.len()).unwrap_or(u16::MAX))
            }
            Some(Target::All) => Self::All,
        }
    }
}

/// The text in a manifest for [`Groups::All`].
const ALL: &str = "all";
/// What may stand in a manifest as number of groups.
const GROUPS_EXPECTED: &str = "a number of groups from 0 to 100, or \"all\"";

impl Serialize for Groups {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Named(count) => to.serialize_u16(*count),
            Self::All => to.serialize_str(ALL),
        }
    }
}

impl<'de> Deserialize<'de> for Groups {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reads;
        impl Visitor<'_> for Reads {
            type Value = Groups;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(GROUPS_EXPECTED)
            }

            fn visit_u64<E: de::Error>(self, count: u64) -> Result<Groups, E> {
                u16::try_from(count)
                    .ok()
                    .filter(|&count| usize::from(count) <= GROUPS_MAX)
                    .map(Groups::Named)
                    .ok_or_else(|| E::invalid_value(Unexpected::Unsigned(count), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Groups, E> {
                (text == ALL)
                    .then_some(Groups::All)
                    .ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }
        }
        from.deserialize_any(Reads)
    }
}

/// One request of a manifest.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Its id as outcomes tell it.
    pub id: String,
    /// Which groups it means.
    pub groups: Groups,
    /// SHA-256 of the event's body as it was published, in hex.
    pub sha256: String,
    /// SHA-256 of the user's id (its bytes in UTF-8), in hex; nothing where the event can't be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_sha256: Option<String>,
    /// The number of its line in the file of events, from 1; nothing where it comes from no file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<NonZeroU32>,
}

/// The hash of a user's id is no secret, and still nobody's business.
impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked")
            .field("groups", &self.groups)
            .finish_non_exhaustive()
    }
}

impl Asked {
    /// The line for an event that is published under this id. `event` is what its body says; nothing where it can't be read.
    #[must_use]
    pub fn new(id: &str, body: &[u8], event: Option<&DeleteGroups>) -> Self {
        Self {
            id: request::bounded(id),
            groups: Groups::of(event),
            sha256: hex(&Sha256::digest(body)),
            user_sha256: event.map(|event| hex(&Sha256::digest(event.user()))),
            line: None,
        }
    }

    /// The same, of an event that stands in this line of a file.
    #[must_use]
    pub fn in_line(self, line: Option<NonZeroU32>) -> Self {
        Self { line, ..self }
    }

    /// Whether this is the body that was published.
    #[must_use]
    pub fn is_of(&self, body: &[u8]) -> bool {
        self.sha256 == hex(&Sha256::digest(body))
    }

    /// One line of NDJSON, its end included.
    #[must_use]
    pub fn to_line(&self) -> String {
        let json = serde_json::to_string(self).expect("strings and numbers always become JSON");
        json + "\n"
    }

    /// Reads one line, its end included or not. Keys that are not known are ignored. An id that is longer than ids are told is
    /// taken by its hash, as outcomes tell it.
    ///
    /// # Errors
    /// What is wrong with the line.
    pub fn from_line(line: &[u8]) -> Result<Self, LineError> {
        let mut asked: Self = serde_json::from_slice(line).map_err(|err| LineError::of(&err))?;
        if asked.id.is_empty() {
            return Err(LineError::Empty("id"));
        }
        asked.id = request::bounded(&asked.id);
        if !is_sha256(&asked.sha256) {
            return Err(LineError::NoHash("sha256"));
        }
        if !asked.user_sha256.as_deref().is_none_or(is_sha256) {
            return Err(LineError::NoHash("user_sha256"));
        }
        Ok(asked)
    }
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|it| it.is_ascii_digit() || (b'a'..=b'f').contains(&it))
}

/// What is wrong with one line of a file with JSON in each line.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LineError {
    /// It is no JSON.
    #[error("is not JSON (column {0})")]
    NotJson(usize),
    /// It is JSON and not what has to stand there; what is wrong, in words.
    #[error("{0}")]
    Other(String),
    /// A text is empty.
    #[error("`{0}` is empty")]
    Empty(&'static str),
    /// A hash is none.
    #[error("`{0}` is not a SHA-256: 64 hexadecimal digits in lower case")]
    NoHash(&'static str),
    /// The id stands in a line before.
    #[error("has the id of line {0} again: each request needs an id of its own")]
    Again(usize),
}

impl LineError {
    /// What the reader of JSON says, without the number of the line, which is 1 for it.
    #[must_use]
    pub fn of(err: &serde_json::Error) -> Self {
        if !err.is_data() {
            return Self::NotJson(err.column());
        }
        let text = err.to_string();
        let end = format!(" at line {} column {}", err.line(), err.column());
        Self::Other(text.strip_suffix(&end).unwrap_or(&text).to_owned())
    }
}

/// Whether a line of a file says nothing: those are skipped.
#[must_use]
pub fn is_blank(line: &[u8]) -> bool {
    std::str::from_utf8(line).is_ok_and(|line| trimmed(line).is_empty())
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::super::message::decode;
    use super::*;

    const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_line_names_no_user_and_no_group() {
        let line = |body: &str| {
            let event = decode(body.as_bytes()).ok();
            Asked::new("req-1", body.as_bytes(), event.as_ref()).to_line()
        };
        let lines = [
            line(r#"{"From_Account":"user15","GroupName":["a","b","a"]}"#),
            line(r#"{"From_Account":"user15","AllGroups":true}"#),
            line("broken"),
            Asked::new("req-1", b"broken", None)
                .in_line(NonZeroU32::new(17))
                .to_line(),
        ];
        expect![[r#"
            {"id":"req-1","groups":2,"sha256":"eab6b764ab868531850be568b0e19f0dd6b529916dc45475a02db891f79cd708","user_sha256":"2b8b66f64b605318593982b059a08dae101c0bdf5d8cb882a0891241a704f46c"}
            {"id":"req-1","groups":"all","sha256":"285e05ec549efe6129a48fd308a05422044dab9e581e553746801dcc8723f786","user_sha256":"2b8b66f64b605318593982b059a08dae101c0bdf5d8cb882a0891241a704f46c"}
            {"id":"req-1","groups":0,"sha256":"f526795c95399cea27c055c842c3d6ab018ed0fa4f66f701c28ab22dec28237b"}
            {"id":"req-1","groups":0,"sha256":"f526795c95399cea27c055c842c3d6ab018ed0fa4f66f701c28ab22dec28237b","line":17}
        "#]].assert_eq(&lines.concat());
    }

    #[test]
    fn debug_output_names_nobody() {
        let asked = Asked::new("user15", b"broken", None);
        assert_eq!(format!("{asked:?}"), "Asked { groups: Named(0), .. }");
    }

    #[test]
    fn what_is_written_reads_back() {
        for body in [
            r#"{"From_Account":"u","GroupName":["a"]}"#,
            r#"{"From_Account":"u","AllGroups":true}"#,
            "broken",
        ] {
            let event = decode(body.as_bytes()).ok();
            let asked = Asked::new("req-1", body.as_bytes(), event.as_ref());
            let asked = asked.in_line(NonZeroU32::new(3));
            let read = Asked::from_line(asked.to_line().as_bytes()).unwrap();
            assert_eq!(read, asked);
            assert!(read.is_of(body.as_bytes()) && !read.is_of(b"other"));
        }
    }

    #[test]
    fn a_line_that_is_none_says_why() {
        let with = |id: &str, groups: &str, hash: &str| {
            format!(r#"{{"id":{id},"groups":{groups},"sha256":{hash},"more":1}}"#)
        };
        let hash = format!("\"{HASH}\"");
        for (line, expect) in [
            (with("\"a\"", "1", &hash), ""),
            (with("\"a\"", "0", &hash), ""),
            (with("\"a\"", "100", &hash), ""),
            (with("\"a\"", "\"all\"", &hash), ""),
            (with("\"\"", "1", &hash), "`id` is empty"),
            (
                with("7", "1", &hash),
                "invalid type: integer `7`, expected a string",
            ),
            (
                with("\"a\"", "101", &hash),
                "invalid value: integer `101`, expected a number of groups from 0 to 100, or \"all\"",
            ),
            (
                with("\"a\"", "\"ALL\"", &hash),
                "invalid value: string \"ALL\", expected a number of groups from 0 to 100, or \"all\"",
            ),
            (
                with("\"a\"", "1.5", &hash),
                "invalid type: floating point `1.5`, expected a number of groups from 0 to 100, or \"all\"",
            ),
            (
                with("\"a\"", "1", "\"ABC\""),
                "`sha256` is not a SHA-256: 64 hexadecimal digits in lower case",
            ),
            (
                with("\"a\"", "1", "\"abc\""),
                "`sha256` is not a SHA-256: 64 hexadecimal digits in lower case",
            ),
            (
                with("\"a\"", "1", &hash.to_uppercase()),
                "`sha256` is not a SHA-256: 64 hexadecimal digits in lower case",
            ),
            (
                with("\"a\"", "1", &format!("{hash},\"line\":0")),
                "invalid value: integer `0`, expected a nonzero u32",
            ),
            (
                r#"{"id":"a","groups":1}"#.to_owned(),
                "missing field `sha256`",
            ),
            ("{\"id\":\"a\"".to_owned(), "is not JSON (column 9)"),
            ("nothing".to_owned(), "is not JSON (column 2)"),
        ] {
            let said = Asked::from_line(line.as_bytes());
            let said = said.map_or_else(|err| err.to_string(), |_| String::new());
            assert_eq!(said, expect, "{line}");
        }
        assert!(is_blank(b" \r\n") && !is_blank(b"{}") && !is_blank(&[0xff]));
    }

    #[test]
    fn a_long_id_is_known_by_its_hash() {
        let long = "i".repeat(201);
        let line = format!(r#"{{"id":"{long}","groups":1,"sha256":"{HASH}"}}"#);
        let read = Asked::from_line(line.as_bytes()).unwrap();
        assert_eq!(read.id, request::bounded(&long));
    }
}
