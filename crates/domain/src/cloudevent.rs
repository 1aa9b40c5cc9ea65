//! The envelope of CloudEvents 1.0: JSON around an event (structured mode), or headers beside it (binary mode).
//!
//! For AMQP 0-9-1 the specification has no binding. Four prefixes of header names are in use: those of its AMQP 1.0 binding
//! (`cloudEvents_`, `cloudEvents:`), Knative's for RabbitMQ (`ce-`) and `ce_`.
use super::encoding::Declared;
use super::message::{AllGroups, Decoded, Malformed, decode_message};
use super::object::{self, Field, fields_of, is_object, known, optional};

/// How the content type of a structured event begins, in any case.
const STRUCTURED: &str = "application/cloudevents+json";
/// The only version that is read.
const VERSION: &str = "1.0";
/// Prefixes of header names in binary mode. Where an attribute is there under several, the first counts.
const PREFIXES: [&str; 4] = ["cloudEvents_", "cloudEvents:", "ce-", "ce_"];

const DATA: &str = "data";

/// Whether a content type declares a structured event.
#[must_use]
pub(super) fn is_structured(content_type: Option<&str>) -> bool {
    let start = content_type.and_then(|it| it.trim_start().get(..STRUCTURED.len()));
    start.is_some_and(|start| start.eq_ignore_ascii_case(STRUCTURED))
}

/// How an event stands in a body, as its publisher declares it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Alone.
    Plain,
    /// In the envelope of a structured CloudEvent.
    Structured,
}

impl Form {
    /// What a body has to be declared as: an object with a `specversion` is an envelope, also a broken one.
    #[must_use]
    pub fn of(body: &[u8]) -> Self {
        let is_envelope = object::fields(body).is_ok_and(|fields| {
            let mut keys = fields.iter().map(|(key, _)| key);
            keys.any(|key| object::is_key(key, "specversion"))
        });
        if is_envelope {
            Self::Structured
        } else {
            Self::Plain
        }
    }

    /// The content type that declares it.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Plain => "application/json",
            Self::Structured => STRUCTURED,
        }
    }

    /// Reads a body of this form.
    #[must_use]
    pub fn decode(self, body: &[u8]) -> Decoded {
        let declared = Declared {
            content_type: Some(self.content_type()),
            ..Declared::default()
        };
        decode_message(body, &declared, AllGroups::Accepted)
    }
}

/// What the headers of a message in binary mode say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary {
    specversion: String,
    id: Option<String>,
}

impl Binary {
    /// Reads headers: each name, and its value; an empty one where that is no text. `None` without a `specversion`: then it is no
    /// CloudEvent.
    #[must_use]
    pub fn of<'h>(headers: &(impl Iterator<Item = (&'h str, String)> + Clone)) -> Option<Self> {
        let specversion = attribute(headers, "specversion")?;
        let id = attribute(headers, "id");
        Some(Self {
            specversion,
            id: id.filter(|id| !id.is_empty()),
        })
    }

    /// The event's id, where there is one.
    ///
    /// # Errors
    /// The event is of another version.
    pub(super) fn id(&self) -> Result<Option<String>, Malformed> {
        if self.specversion == VERSION {
            Ok(self.id.clone())
        } else {
            Err(wrong("specversion", VERSION_EXPECTED))
        }
    }
}

/// An attribute among headers; `None` where there is no such header.
fn attribute<'h>(
    headers: &(impl Iterator<Item = (&'h str, String)> + Clone),
    name: &str,
) -> Option<String> {
    PREFIXES.iter().find_map(|prefix| {
        let mut headers = headers.clone();
        let found = headers.find(|(header, _)| {
            let start = header.get(..prefix.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(prefix))
                && header[prefix.len()..].eq_ignore_ascii_case(name)
        });
        found.map(|(_, value)| value)
    })
}

const VERSION_EXPECTED: &str = "`1.0`, the only version of CloudEvents that is read";

fn wrong(key: &'static str, expected: &'static str) -> Malformed {
    Malformed::WrongType { key, expected }
}

/// A structured envelope: its id, and the event's own fields.
pub(super) struct Envelope<'b> {
    pub(super) id: String,
    data: &'b str,
}

impl<'b> Envelope<'b> {
    /// Reads the fields of an envelope.
    pub(super) fn of(fields: &[Field<'b>]) -> Result<Self, Malformed> {
        if text(fields, "specversion")? != VERSION {
            return Err(wrong("specversion", VERSION_EXPECTED));
        }
        let id = text(fields, "id")?;
        text(fields, "source")?;
        text(fields, "type")?;
        if optional(fields, "data_base64")?.is_some() {
            return Err(Malformed::Base64);
        }
        if let Some(kind) = optional(fields, "datacontenttype")?
            && !serde_json::from_str(kind).is_ok_and(|kind: String| is_json(&kind))
        {
            return Err(wrong("datacontenttype", "a content type of JSON"));
        }
        let data = known(fields, DATA)?;
        if !is_object(data) {
            return Err(wrong(DATA, "a JSON object"));
        }
        Ok(Self { id, data })
    }

    /// The fields of the event inside.
    pub(super) fn fields(&self) -> Result<Vec<Field<'b>>, Malformed> {
        // It is part of a text that was read as JSON.
        fields_of(self.data).map_err(|_| wrong(DATA, "a JSON object"))
    }

    /// The envelope's fields with another value in the place of the event.
    pub(super) fn frame(fields: &[Field<'_>], event: &object::Frame) -> object::Frame {
        object::Frame::around(fields, DATA, event)
    }
}

/// The value of an attribute that has to be a string with something in it.
fn text(fields: &[Field<'_>], key: &'static str) -> Result<String, Malformed> {
    let value: Option<String> = serde_json::from_str(known(fields, key)?).ok();
    value
        .filter(|value| !value.is_empty())
        .ok_or(wrong(key, "a string that is not empty"))
}

/// Whether a content type, with or without parameters, is one of JSON.
fn is_json(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    let kind = kind.to_ascii_lowercase();
    matches!(kind.as_str(), "application/json" | "text/json") || kind.ends_with("+json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_type_declares_a_structured_event() {
        for (content_type, expect) in [
            (Some("application/cloudevents+json"), true),
            (Some("Application/CloudEvents+JSON; charset=utf-8"), true),
            (Some("application/cloudevents-batch+json"), false),
            (Some("application/json"), false),
            (Some("application/cloudevents"), false),
            (None, false),
        ] {
            assert_eq!(is_structured(content_type), expect, "{content_type:?}");
        }
    }

    #[test]
    fn an_object_with_a_version_is_an_envelope() {
        let event = r#"{"From_Account":"u","GroupName":["a"]}"#;
        let envelope =
            format!(r#"{{"specversion":"1.0","id":"e","source":"/x","type":"y","data":{event}}}"#);
        let broken = envelope.replace("data", "payload");
        for (body, form, id) in [
            (event, Form::Plain, Some(None)),
            (&envelope, Form::Structured, Some(Some("e"))),
            (&broken, Form::Structured, None),
            (r#"{"specversion":"0.3"}"#, Form::Structured, None),
            (r#"["specversion"]"#, Form::Plain, None),
            ("specversion", Form::Plain, None),
        ] {
            assert_eq!(Form::of(body.as_bytes()), form, "{body}");
            let read = form.decode(body.as_bytes());
            let found = read.event.is_ok().then_some(read.cloudevents_id);
            let expect = id.map(|id| id.map(str::to_owned));
            assert_eq!(found, expect, "{body}");
        }
    }

    #[track_caller]
    fn check(headers: &[(&str, Option<&str>)], expect: Option<Result<Option<&str>, ()>>) {
        let headers = headers
            .iter()
            .map(|(name, value)| (*name, value.unwrap_or_default().to_owned()));
        let found = Binary::of(&headers).map(|binary| binary.id().map_err(drop));
        let expect = expect.map(|id| id.map(|id| id.map(str::to_owned)));
        assert_eq!(found, expect);
    }

    #[test]
    fn headers_with_any_of_the_prefixes_are_read() {
        for prefix in PREFIXES {
            for prefix in [prefix.to_owned(), prefix.to_uppercase()] {
                let (version, id) = (format!("{prefix}specversion"), format!("{prefix}ID"));
                check(
                    &[(&version, Some("1.0")), (&id, Some("e-1"))],
                    Some(Ok(Some("e-1"))),
                );
            }
        }
        check(&[], None);
        check(&[("ce-id", Some("e-1"))], None);
        check(&[("ce-specversion", Some("1.0"))], Some(Ok(None)));
        check(
            &[("ce-specversion", Some("1.0")), ("ce-id", Some(""))],
            Some(Ok(None)),
        );
        check(
            &[("ce-specversion", Some("1.0")), ("ce-id", None)],
            Some(Ok(None)),
        );
        for wrong in [Some("0.3"), Some(""), None] {
            check(
                &[("ce_specversion", wrong), ("ce_id", Some("e-1"))],
                Some(Err(())),
            );
        }
    }

    #[test]
    fn the_first_prefix_counts() {
        check(
            &[
                ("ce-id", Some("second")),
                ("ce-specversion", Some("0.3")),
                ("cloudEvents:id", Some("first")),
                ("cloudEvents:specversion", Some("1.0")),
            ],
            Some(Ok(Some("first"))),
        );
    }
}
