//! A JSON object's fields as they were written: what the events and the envelopes around them are read from.
use std::fmt;
use std::str;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::message::{BODY_BYTES_MAX, DEPTH_MAX, Malformed};
use super::text::BYTE_ORDER_MARK;

/// Whether a JSON value is a string.
pub(super) fn is_string(value: &str) -> bool {
    value.starts_with('"')
}

/// Where a part of the body begins, in bytes.
pub(super) fn offset(part: &str, body: &[u8]) -> usize {
    part.as_ptr().addr() - body.as_ptr().addr()
}

/// Where the first escape stands in a JSON text that is half of a surrogate pair without the other half, in bytes.
pub(super) fn half_pair(json: &str) -> Option<usize> {
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
pub(super) type Field<'b> = (&'b RawValue, &'b RawValue);

/// The object's fields in order, untouched.
pub(super) fn fields(body: &[u8]) -> Result<Vec<Field<'_>>, Malformed> {
    if body.len() > BODY_BYTES_MAX {
        return Err(Malformed::TooLong(body.len()));
    }
    let text = str::from_utf8(body).map_err(|err| Malformed::NotUtf8(err.valid_up_to()))?;
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    if depth(text) > DEPTH_MAX {
        return Err(Malformed::TooDeep);
    }
    let not_json = |err: serde_json::Error| Malformed::NotJson {
        line: err.line(),
        column: err.column(),
    };
    if is_object(text) {
        fields_of(text).map_err(not_json)
    } else {
        serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(not_json)?;
        Err(Malformed::NotAnObject)
    }
}

/// Whether a JSON text is an object.
pub(super) fn is_object(text: &str) -> bool {
    text.trim_start_matches([' ', '\t', '\n', '\r'])
        .starts_with('{')
}

/// The fields of a text that is an object.
pub(super) fn fields_of(text: &str) -> serde_json::Result<Vec<Field<'_>>> {
    serde_json::from_str::<Fields<'_>>(text).map(|fields| fields.0)
}

/// The value of a key that may be there once.
///
/// # Errors
/// It is there twice.
pub(super) fn optional<'b>(
    fields: &[Field<'b>],
    key: &'static str,
) -> Result<Option<&'b str>, Malformed> {
    let mut values = fields
        .iter()
        .filter(|(name, _)| is_key(name, key))
        .map(|(_, value)| value.get());
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        (_, Some(_)) => Err(Malformed::Duplicate(key)),
    }
}

/// The value of a key that has to be there once.
///
/// # Errors
/// It is missing, or there twice.
pub(super) fn known<'b>(fields: &[Field<'b>], key: &'static str) -> Result<&'b str, Malformed> {
    optional(fields, key)?.ok_or(Malformed::Missing(key))
}

/// Whether a key as it was written is this one. One with half of a surrogate pair is none that we know.
pub(super) fn is_key(written: &RawValue, key: &str) -> bool {
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
            // Outside a string it is no JSON, which is found later.
            b'\\' => escaped = true,
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

/// An object without the value of one key: every other field as it was written, and the place where the value goes.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Frame {
    text: String,
    value_at: usize,
}

impl Frame {
    /// The object with a gap for the value of `key`.
    pub(super) fn of(fields: &[Field<'_>], key: &str) -> Self {
        let gap = Self {
            text: String::new(),
            value_at: 0,
        };
        Self::around(fields, key, &gap)
    }

    /// The object with `inner` as the value of `key`: the gap is the one of `inner`.
    pub(super) fn around(fields: &[Field<'_>], key: &str, inner: &Self) -> Self {
        let (mut text, mut value_at) = (String::from("{"), 0);
        for (name, value) in fields {
            if text.len() > 1 {
                text.push(',');
            }
            text.push_str(name.get());
            text.push(':');
            if is_key(name, key) {
                value_at = text.len() + inner.value_at;
                text.push_str(&inner.text);
            } else {
                text.push_str(value.get());
            }
        }
        text.push('}');
        Self { text, value_at }
    }

    /// The object with this JSON in the gap.
    pub(super) fn with(&self, value: &str) -> Vec<u8> {
        let (before, after) = self.text.split_at(self.value_at);
        [before, value, after].concat().into_bytes()
    }
}
