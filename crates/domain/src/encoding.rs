//! What a body is that is not JSON in UTF-8: words for the reason why an event can't be read.
//!
//! Only words. A body that can be read is read, whatever its properties say.

use super::cloudevent::Binary;

/// What a publisher's properties say about the body.
#[derive(Clone, Debug, Default)]
pub struct Declared<'m> {
    /// The property `content_type`.
    pub content_type: Option<&'m str>,
    /// The property `content_encoding`.
    pub content_encoding: Option<&'m str>,
    /// The property `type`.
    pub kind: Option<&'m str>,
    /// The headers of CloudEvents in binary mode.
    pub binary: Option<Binary>,
}

/// How a body that can't be read fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// It is not UTF-8.
    NotUtf8,
    /// It is UTF-8, and not JSON.
    NotJson,
}

/// Values of `content_encoding` that are compressions.
const COMPRESSIONS: [&str; 8] = [
    "gzip", "x-gzip", "deflate", "br", "zstd", "compress", "snappy", "lz4",
];

/// Charsets that are not UTF-8. Some clients write them into `content_encoding`.
const CHARSETS: [&str; 16] = [
    "utf-16",
    "utf-16le",
    "utf-16be",
    "utf-32",
    "gbk",
    "gb2312",
    "gb18030",
    "big5",
    "shift_jis",
    "euc-jp",
    "euc-kr",
    "iso-8859-1",
    "iso-8859-15",
    "latin1",
    "windows-1251",
    "windows-1252",
];

/// Formats that are not JSON, each with a word that stands in its content types.
const FORMATS: [(&str, &str); 8] = [
    ("protobuf", "protobuf"),
    ("msgpack", "MessagePack"),
    ("messagepack", "MessagePack"),
    ("xml", "XML"),
    ("cbor", "CBOR"),
    ("avro", "Avro"),
    ("java-serialized-object", "a serialized Java object"),
    ("python-serialize", "a Python pickle"),
];

/// The `type` that RabbitMQ gives a message whose AMQP 1.0 body has no data section.
const AMQP_1_0: &str = "amqp-1.0";

/// Why a body can't be read, where its first bytes or its properties explain it. Quotes nothing that a publisher wrote.
pub(super) fn explanation(
    body: &[u8],
    unreadable: Unreadable,
    declared: &Declared<'_>,
) -> Option<String> {
    by_bytes(body)
        .map(str::to_owned)
        .or_else(|| by_properties(body, unreadable, declared))
}

/// What a body is by its first bytes, where that can't be JSON in UTF-8.
#[must_use]
pub fn by_bytes(body: &[u8]) -> Option<&'static str> {
    match body {
        [0x1f, 0x8b, ..] => Some("it is gzip data, and events are not compressed"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("it is zstd data, and events are not compressed"),
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => {
            Some("it is UTF-32, and events are UTF-8")
        }
        [0xff, 0xfe, ..]
        | [0xfe, 0xff, ..]
        | [b'{' | b'\n' | b'\r' | b' ', 0, ..]
        | [0, b'{', ..] => Some("it is UTF-16, and events are UTF-8"),
        [0, 0x53, 0x75..=0x77, ..] => {
            Some("it is an AMQP 1.0 section: publish the JSON as a data section")
        }
        _ => None,
    }
}

fn by_properties(body: &[u8], unreadable: Unreadable, declared: &Declared<'_>) -> Option<String> {
    if unreadable == Unreadable::NotUtf8
        && let Some((property, charset)) = charset(declared)
    {
        return Some(format!("{property} says {charset}, and events are UTF-8"));
    }
    // What begins like an event is a broken one; its properties do not explain it.
    if matches!(body.trim_ascii_start(), [] | [b'{', ..]) {
        return None;
    }
    if is(declared.kind, AMQP_1_0) {
        return Some("type says amqp-1.0: publish the JSON as a data section".to_owned());
    }
    let compression = COMPRESSIONS
        .into_iter()
        .find(|name| is(declared.content_encoding, name));
    if let Some(name) = compression {
        return Some(format!(
            "content_encoding says {name}, and events are not compressed"
        ));
    }
    let content_type = declared.content_type?.to_ascii_lowercase();
    let (_, name) = FORMATS
        .into_iter()
        .find(|(word, _)| content_type.contains(word))?;
    Some(format!("content_type says {name}, and events are JSON"))
}

/// The charset that is declared, and by which property, unless it is UTF-8 or a part of it.
fn charset(declared: &Declared<'_>) -> Option<(&'static str, &'static str)> {
    let by_encoding = CHARSETS
        .into_iter()
        .find(|name| is(declared.content_encoding, name));
    if let Some(name) = by_encoding {
        return Some(("content_encoding", name));
    }
    let mut parameters = declared.content_type?.split(';').skip(1);
    let charset = parameters.find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        is(Some(name), "charset").then_some(value.trim().trim_matches('"'))
    })?;
    if ["utf-8", "utf8", "us-ascii", ""]
        .iter()
        .any(|utf8| is(Some(charset), utf8))
    {
        return None;
    }
    let known = CHARSETS.into_iter().find(|name| is(Some(charset), name));
    Some(("content_type", known.unwrap_or("another charset")))
}

fn is(value: Option<&str>, name: &str) -> bool {
    value.is_some_and(|value| value.trim().eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use std::borrow::Borrow;

    use super::*;

    const UTF16: &[u8] = b"\xff\xfe{\0\"\0";
    const GBK: &[u8] = b"{\"From_Account\":\"\xd3\xc3\"}";
    const BINARY: &[u8] = b"\x0a\x06user15\xff";

    #[track_caller]
    fn check<'m>(body: &[u8], declared: impl Borrow<Declared<'m>>, expect: &str) {
        let unreadable = match std::str::from_utf8(body) {
            Ok(_) => Unreadable::NotJson,
            Err(_) => Unreadable::NotUtf8,
        };
        let found = explanation(body, unreadable, declared.borrow()).unwrap_or_default();
        assert_eq!(found, expect, "{:?}", declared.borrow());
    }

    fn content_type(content_type: &str) -> Declared<'_> {
        Declared {
            content_type: Some(content_type),
            ..Declared::default()
        }
    }

    fn content_encoding(content_encoding: &str) -> Declared<'_> {
        Declared {
            content_encoding: Some(content_encoding),
            ..Declared::default()
        }
    }

    #[test]
    fn the_first_bytes_tell_what_a_body_is() {
        let nothing = Declared::default();
        let gzip = "it is gzip data, and events are not compressed";
        check(b"\x1f\x8b\x08\0", &nothing, gzip);
        check(b"\x1f\x8b\x08\0", content_type("application/json"), gzip);
        check(
            b"\x28\xb5\x2f\xfd\0",
            &nothing,
            "it is zstd data, and events are not compressed",
        );
        let utf16 = "it is UTF-16, and events are UTF-8";
        for body in [UTF16, b"\xfe\xff\0{", b"{\0\"\0", b"\0{\0\"", b"\n\0{\0"] {
            check(body, &nothing, utf16);
        }
        check(
            b"\xff\xfe\0\0{\0\0\0",
            &nothing,
            "it is UTF-32, and events are UTF-8",
        );
        for section in [0x75, 0x76, 0x77] {
            check(
                &[0, 0x53, section, 0xa1, 2, b'{', b'}'],
                &nothing,
                "it is an AMQP 1.0 section: publish the JSON as a data section",
            );
        }
        check(GBK, &nothing, "");
        check(b"", &nothing, "");
    }

    #[test]
    fn the_properties_explain_a_body_that_they_describe() {
        let gbk = "content_type says gbk, and events are UTF-8";
        check(GBK, content_type("application/json; charset=GBK"), gbk);
        check(GBK, content_type("text/plain;x=1; Charset=\"gbk\""), gbk);
        check(
            GBK,
            content_type("application/json; charset=x-mine"),
            "content_type says another charset, and events are UTF-8",
        );
        check(
            GBK,
            content_encoding("gb18030"),
            "content_encoding says gb18030, and events are UTF-8",
        );
        check(
            BINARY,
            content_encoding("BR"),
            "content_encoding says br, and events are not compressed",
        );
        check(
            BINARY,
            content_type("application/x-protobuf"),
            "content_type says protobuf, and events are JSON",
        );
        check(
            b"<event/>",
            content_type("text/xml; charset=utf-8"),
            "content_type says XML, and events are JSON",
        );
        check(
            b"\xac\xed\0\x05t\0",
            content_type("application/x-java-serialized-object"),
            "content_type says a serialized Java object, and events are JSON",
        );
        let kind = Declared {
            kind: Some("amqp-1.0"),
            ..Declared::default()
        };
        check(
            b"\0S\xc0",
            kind,
            "type says amqp-1.0: publish the JSON as a data section",
        );
    }

    #[test]
    fn what_does_not_explain_it_is_not_told() {
        for declared in [
            content_type("application/json; charset=utf-8"),
            content_type("application/json"),
            content_type("charset=gbk"),
            content_type(";;=;"),
            content_encoding("utf-8"),
            content_encoding("identity"),
            content_encoding("x".repeat(255).leak()),
        ] {
            check(GBK, declared, "");
        }
        // A broken event in UTF-8, whatever its properties say.
        for declared in [
            content_type("application/json; charset=gbk"),
            content_type("text/xml"),
            content_encoding("gzip"),
        ] {
            check(b" {\"From_Account\":", &declared, "");
            check(b"", declared, "");
        }
    }
}
