//! The body of a reply: its `ErrorCode` decides, whatever the rest of it looks like.
//!
//! Only `ErrorCode` is required. Nothing optional may hide it: not a text that was cut inside a character, nor one in another
//! encoding, nor an escape that stands for nothing. What is broken beyond the text is no answer.
use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// What a body says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// `ErrorCode`.
    pub(super) code: i64,
    /// `ErrorInfo`, or nothing where it is missing or no string. What can't be read in it is U+FFFD.
    pub(super) info: String,
}

/// A body as JSON text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text<'a> {
    /// One JSON object, so far as it was read.
    pub(super) json: Cow<'a, str>,
    /// Whether it is not the body byte for byte: U+FFFD stands for what could not be read in its strings.
    pub(super) is_mended: bool,
}

const NO_ANSWER: &str = "no JSON object with an ErrorCode";
const NO_NUMBER: &str = "the ErrorCode is no whole number";
const TWO_CODES: &str = "two different ErrorCodes";
const CONTRADICTION: &str = "ErrorCode 0 beside an ActionStatus other than OK";
const TOO_LONG: &str = "longer than is read, and the part read holds no failure";
const MORE_BEHIND: &str = "ErrorCode 0, and something behind the JSON object";

/// Reads a body, of which `all` was read or only the beginning.
///
/// A failure counts once its object is complete, or is longer than what was read. Success (`ErrorCode` 0) counts only when the
/// whole body is one object and nothing in it says otherwise: a deletion that nobody saw is not counted as one.
///
/// # Errors
/// Why it is no answer, without a word of it.
pub(super) fn read(body: &[u8], all: bool) -> Result<Answer, &'static str> {
    first_answer(body, all, ' ').map(|(answer, _)| answer)
}

/// Reads a body as [`read`] does, and returns the text that the answer was read from for what else stands in it.
///
/// A control character in a string is U+FFFD in this text, and no space: whoever reads a name sees that it could not be read.
///
/// # Errors
/// Those of [`read`].
pub(super) fn read_with_text(body: &[u8], all: bool) -> Result<(Answer, Text<'_>), &'static str> {
    first_answer(body, all, char::REPLACEMENT_CHARACTER)
}

/// The first reading of a body that is an answer. `control` stands for a control character in a string.
fn first_answer(body: &[u8], all: bool, control: char) -> Result<(Answer, Text<'_>), &'static str> {
    let mut problem = None;
    for text in readings(body, control) {
        match read_text(&text.json, all) {
            Ok(answer) => return Ok((answer, text)),
            Err(why) => problem = problem.or(Some(why)),
        }
    }
    Err(problem.unwrap_or(NO_ANSWER))
}

/// The ways to read a body as text, the strictest first. They are made one by one: a good answer needs the first only.
fn readings(body: &[u8], control: char) -> impl Iterator<Item = Text<'_>> {
    const BOM: &[u8] = "\u{feff}".as_bytes();
    let body = body.strip_prefix(BOM).unwrap_or(body);
    let exact = std::str::from_utf8(body).ok().map(|text| Text {
        json: text.into(),
        is_mended: false,
    });
    let mended = move |text: &str| Text {
        json: tidy(text, control).into(),
        is_mended: true,
    };
    let is_utf8 = exact.is_some();
    let lossy = std::iter::once_with(move || mended(&String::from_utf8_lossy(body)));
    let double_byte = std::iter::once_with(move || mended(&without_double_bytes(body)));
    let double_byte = double_byte.filter(move |_| !is_utf8);
    exact.into_iter().chain(lossy).chain(double_byte)
}

/// A text in GBK, Big5 or GB 18030, each character of two bytes as U+FFFD: the second byte may be a backslash.
fn without_double_bytes(body: &[u8]) -> String {
    let mut text = String::with_capacity(body.len());
    let mut bytes = body.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte.is_ascii() {
            text.push(char::from(byte));
            continue;
        }
        text.push(char::REPLACEMENT_CHARACTER);
        bytes.next_if(|second| (0x40..=0xfe).contains(second));
    }
    text
}

/// JSON without what its strings may not hold: control characters become `control` in strings, and spaces outside;
/// the backslash of an escape that stands for nothing becomes U+FFFD.
fn tidy(text: &str, control: char) -> String {
    let mut tidied = String::with_capacity(text.len());
    let mut in_string = false;
    let mut rest = text.chars();
    while let Some(char) = rest.next() {
        match char {
            '\\' if in_string => match escape(rest.as_str()) {
                Some(length) => {
                    let (escape, after) = rest.as_str().split_at(length);
                    tidied.push('\\');
                    tidied.push_str(escape);
                    rest = after.chars();
                }
                None => tidied.push(char::REPLACEMENT_CHARACTER),
            },
            '\0'..'\x20' => tidied.push(if in_string { control } else { ' ' }),
            _ => {
                in_string ^= char == '"';
                tidied.push(char);
            }
        }
    }
    tidied
}

/// How many bytes behind a backslash belong to its escape, if it is one.
fn escape(rest: &str) -> Option<usize> {
    match rest.as_bytes() {
        [b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => Some(1),
        [b'u', hex @ ..] if hex.len() >= 4 && hex[..4].iter().all(u8::is_ascii_hexdigit) => Some(5),
        _ => None,
    }
}

fn read_text(text: &str, all: bool) -> Result<Answer, &'static str> {
    let mut fields = Fields::default();
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let complete = (&mut deserializer).deserialize_map(&mut fields).is_ok();
    let alone = complete && deserializer.end().is_ok();
    let Some(first) = fields.codes.first() else {
        return Err(if all { NO_ANSWER } else { TOO_LONG });
    };
    // One that ends with the text may be the beginning of a longer one.
    if !complete && (all || text.ends_with(first.get())) {
        return Err(if all { NO_ANSWER } else { TOO_LONG });
    }
    let code = whole_number(first.get()).ok_or(NO_NUMBER)?;
    let same = |other: &&RawValue| whole_number(other.get()) == Some(code);
    if !fields.codes.iter().all(same) {
        return Err(TWO_CODES);
    }
    if code == 0 {
        match (all, alone, fields.denies()) {
            (false, ..) => return Err(TOO_LONG),
            (true, false, _) => return Err(MORE_BEHIND),
            (true, true, true) => return Err(CONTRADICTION),
            (true, true, false) => {}
        }
    }
    let info = fields.info.and_then(string).unwrap_or_default();
    Ok(Answer { code, info })
}

/// What is looked at, as it stands in the text.
#[derive(Default)]
struct Fields<'a> {
    codes: Vec<&'a RawValue>,
    statuses: Vec<&'a RawValue>,
    info: Option<&'a RawValue>,
}

impl Fields<'_> {
    /// Whether an `ActionStatus` says that it is no success.
    fn denies(&self) -> bool {
        let mut statuses = self.statuses.iter().filter_map(|status| string(status));
        statuses.any(|status| !status.eq_ignore_ascii_case("OK"))
    }
}

impl<'a> Visitor<'a> for &mut Fields<'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    /// What was found before a fault stays.
    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Lossy(key)) = map.next_key()? {
            match key.as_str() {
                "ErrorCode" => self.codes.push(map.next_value()?),
                "ActionStatus" => self.statuses.push(map.next_value()?),
                "ErrorInfo" => self.info = Some(map.next_value()?),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// A number without a fraction, also in quotes: `51011`, `51011.0`, `"51011"`.
fn whole_number(json: &str) -> Option<i64> {
    let text = json.trim_matches('"').trim();
    let float = || {
        let float: f64 = text.parse().ok()?;
        (float.fract() == 0.0)
            .then(|| format!("{float:.0}"))?
            .parse()
            .ok()
    };
    text.parse().ok().or_else(float)
}

/// The text of a string, if it is one.
fn string(json: &RawValue) -> Option<String> {
    let lossy: Result<Lossy, _> = serde_json::from_str(json.get());
    lossy.ok().map(|Lossy(text)| text)
}

/// A string in which half of a surrogate pair is no fault: read as bytes, it comes as what can't be UTF-8.
pub(super) struct Lossy(pub(super) String);

impl<'de> Deserialize<'de> for Lossy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;

        impl Visitor<'_> for Bytes {
            type Value = Lossy;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E>(self, text: &str) -> Result<Lossy, E> {
                Ok(Lossy(text.to_owned()))
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Lossy, E> {
                Ok(Lossy(String::from_utf8_lossy(bytes).into_owned()))
            }
        }

        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: impl AsRef<[u8]>, expected: Result<(i64, &str), &'static str>) {
        let body = body.as_ref();
        let found = read(body, true);
        let found = found.as_ref().map(|it| (it.code, it.info.as_str()));
        let found = found.map_err(|why| *why);
        assert_eq!(found, expected, "{}", body.escape_ascii());
    }

    /// `before`, bytes that are no text, and what follows.
    fn around(before: &str, bytes: &[u8], after: &str) -> Vec<u8> {
        [before.as_bytes(), bytes, after.as_bytes()].concat()
    }

    #[test]
    fn the_documented_answers_are_read() {
        check(
            r#"{"GroupItem":[{"GroupName":"test0","GroupId":2}],"ActionStatus":"OK","ErrorCode":0,"ErrorInfo":""}"#,
            Ok((0, "")),
        );
        check(
            r#"{"ActionStatus":"FAIL","ErrorCode":51011,"ErrorInfo":"too long","RequestId":"x","ErrorDisplay":null}"#,
            Ok((51011, "too long")),
        );
        check(r#"{"ErrorCode":0}"#, Ok((0, "")));
        check(
            r#"{"ErrorCode":-7,"ErrorInfo":"群组 \ud83d\ude00"}"#,
            Ok((-7, "群组 😀")),
        );
    }

    #[test]
    fn a_text_that_is_broken_does_not_hide_the_code() {
        let (before, after) = (
            r#"{"ActionStatus":"FAIL","ErrorCode":51011,"ErrorInfo":""#,
            "\"}",
        );
        // Cut inside a Chinese character.
        check(around(before, b"\xe7\xbe", after), Ok((51011, "\u{fffd}")));
        // In GBK; the second byte of the last character is a backslash.
        check(
            around(before, b"\xc8\xba\xd7\xe9\xc4\x5c", after),
            Ok((51011, "\u{fffd}\u{fffd}\u{fffd}")),
        );
        // Half a surrogate pair, an escape cut short, one that does not exist, control characters.
        check(
            around(before, br"a\ud83d", after),
            Ok((51011, "a\u{fffd}\u{fffd}\u{fffd}")),
        );
        check(
            around(before, br"a\u7f", after),
            Ok((51011, "a\u{fffd}u7f")),
        );
        check(
            around(before, br"C:\path\n", after),
            Ok((51011, "C:\u{fffd}path\n")),
        );
        check(around(before, b"a\nb\tc\0", after), Ok((51011, "a b c ")));
        // The same in what is not looked at, values and keys.
        check(
            around(r#"{"X":""#, br"\ud83d", r#"","ErrorCode":51011}"#),
            Ok((51011, "")),
        );
        check(
            around(r#"{"X":""#, b"\xff\x01", r#"","ErrorCode":51011}"#),
            Ok((51011, "")),
        );
        check(
            around(r#"{""#, br"\udc00", r#"":1,"ErrorCode":51011}"#),
            Ok((51011, "")),
        );
        check(
            around(r#"{""#, b"\xff", r#"":1,"ErrorCode":51011}"#),
            Ok((51011, "")),
        );
    }

    #[test]
    fn the_text_of_an_answer_shows_what_could_not_be_read() {
        let text = |body: &[u8]| {
            let (_, text) = read_with_text(body, true).unwrap();
            (text.json.into_owned(), text.is_mended)
        };
        for (body, json, is_mended) in [
            (
                &b"{\"ErrorCode\":0,\n\"X\":\"\xe7\xbe\xa4\"}"[..],
                "{\"ErrorCode\":0,\n\"X\":\"群\"}",
                false,
            ),
            (
                b"{\"ErrorCode\":0,\n\"X\":\"a\nb \xe7\"}",
                "{\"ErrorCode\":0, \"X\":\"a\u{fffd}b \u{fffd}\"}",
                true,
            ),
        ] {
            assert_eq!(text(body), (json.to_owned(), is_mended));
        }
    }

    #[test]
    fn whatever_stands_in_the_place_of_the_text_does_not_hide_the_code() {
        let deep = "[".repeat(20_000) + &"]".repeat(20_000);
        for info in ["null", "7", "1e999", "true", r#"{"a":["b"]}"#, &deep] {
            check(
                format!(r#"{{"ErrorCode":51011,"ErrorInfo":{info}}}"#),
                Ok((51011, "")),
            );
            check(
                format!(r#"{{"Other":{info},"ErrorCode":51011}}"#),
                Ok((51011, "")),
            );
        }
    }

    #[test]
    fn what_stands_around_the_object_does_not_hide_a_failure() {
        check("\u{feff}{\"ErrorCode\":0}", Ok((0, "")));
        check("\r\n {\"ErrorCode\":0} \r\n\0", Ok((0, "")));
        check(
            "{\"ErrorCode\":51011}<!-- seen by a gateway -->",
            Ok((51011, "")),
        );
        check("{\"ErrorCode\":0}{\"ErrorCode\":51011}", Err(MORE_BEHIND));
        check("{\"ErrorCode\":0}]", Err(MORE_BEHIND));
    }

    #[test]
    fn a_code_is_one_whole_number() {
        for code in ["51011", "51011.0", "5.1011e4", r#""51011""#, r#"" 51011 ""#] {
            check(format!(r#"{{"ErrorCode":{code}}}"#), Ok((51011, "")));
        }
        for code in [
            "null",
            "true",
            r#""""#,
            r#""E51011""#,
            "1.5",
            "1e99",
            "[51011]",
            r#"{"a":1}"#,
        ] {
            check(format!(r#"{{"ErrorCode":{code}}}"#), Err(NO_NUMBER));
        }
        check(
            r#"{"ErrorCode":51011,"ErrorCode":"51011"}"#,
            Ok((51011, "")),
        );
        check(r#"{"ErrorCode":51011,"ErrorCode":0}"#, Err(TWO_CODES));
        check(r#"{"ErrorCode":0,"ErrorCode":null}"#, Err(TWO_CODES));
    }

    #[test]
    fn success_that_is_denied_is_none() {
        check(
            r#"{"ActionStatus":"FAIL","ErrorCode":0}"#,
            Err(CONTRADICTION),
        );
        check(r#"{"ErrorCode":0,"ActionStatus":""}"#, Err(CONTRADICTION));
        check(
            r#"{"ActionStatus":"OK","ErrorCode":0,"ActionStatus":"fail"}"#,
            Err(CONTRADICTION),
        );
        for status in [r#""OK""#, r#""ok""#, "null", "1", "[]"] {
            check(
                format!(r#"{{"ActionStatus":{status},"ErrorCode":0}}"#),
                Ok((0, "")),
            );
        }
        check(
            r#"{"ActionStatus":"OK","ErrorCode":51011}"#,
            Ok((51011, "")),
        );
    }

    #[test]
    fn what_is_no_object_with_a_code_is_no_answer() {
        for body in [
            "",
            "\u{feff}",
            "null",
            "51011",
            "[51011]",
            r#"[{"ErrorCode":51011}]"#,
            r#"{"ActionStatus":"FAIL"}"#,
            r#"{"errorcode":51011}"#,
            r#"{"a":{"ErrorCode":51011}}"#,
            r#"{"ErrorCode":51011"#,
            r#"{"ErrorCode":51011,"ErrorInfo":"cut"#,
            r#"{"ErrorCode":51011,<<garbage>>"#,
            "<html>",
        ] {
            check(body, Err(NO_ANSWER));
        }
        // A compressed body and one in UTF-16.
        check(b"\x1f\x8b\x08\x00\x00", Err(NO_ANSWER));
        check(b"\xff\xfe{\0\"\0E\0", Err(NO_ANSWER));
    }

    #[test]
    fn a_failure_longer_than_what_is_read_is_a_failure() {
        let begun = |body: &str| read(body.as_bytes(), false).map(|it| it.code);
        assert_eq!(begun(r#"{"ErrorCode":51011,"ErrorInfo":"xxx"#), Ok(51011));
        assert_eq!(begun(r#"{"ErrorCode":0,"ErrorInfo":"xxx"#), Err(TOO_LONG));
        assert_eq!(begun(r#"{"ErrorInfo":"xxx"#), Err(TOO_LONG));
        // The number may go on.
        assert_eq!(
            begun(r#"{"ErrorInfo":"xxx","ErrorCode":510"#),
            Err(TOO_LONG)
        );
    }
}
