//! What a line of a file with JSON in each line looks like, for those who have taken one file for another.
use std::fmt;

use super::case::{Heard, ReportLine};
use super::cloudevent::Form;
use super::manifest::Asked;

/// What a line looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looks {
    /// An outcome.
    Outcome,
    /// What became of a request.
    Report,
    /// A request that is asked for.
    Manifest,
    /// An event that is to be published.
    Event,
    /// None of these.
    OtherJson,
    /// No JSON at all.
    NoJson,
}

impl Looks {
    /// Looks at a line. What is in it beside its keys is told nowhere.
    #[must_use]
    pub fn of(line: &[u8]) -> Self {
        if Heard::read(line).is_some() {
            Self::Outcome
        } else if serde_json::from_slice::<ReportLine>(line).is_ok() {
            Self::Report
        } else if Asked::from_line(line).is_ok() {
            Self::Manifest
        } else if Form::of(line).decode(line).event.is_ok() {
            Self::Event
        } else if serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok() {
            Self::OtherJson
        } else {
            Self::NoJson
        }
    }
}

/// With its article.
impl fmt::Display for Looks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Outcome => "an outcome",
            Self::Report => "a line of a report",
            Self::Manifest => "a line of a manifest",
            Self::Event => "an event to be published",
            Self::OtherJson => "other JSON",
            Self::NoJson => "no JSON",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_looks_like_what_it_is() {
        let hash = "0".repeat(64);
        let manifest = format!(r#"{{"id":"a","groups":1,"sha256":"{hash}"}}"#);
        for (line, expect) in [
            (
                r#"{"specversion":"1.0","id":"1","source":"/x","type":"convgroup.request.settled.v1","time":"2026-12-01T00:00:11Z",
                "datacontenttype":"application/json","data":{"request":{"id":"a","id_from":"message_id","round":0,"published_at":null},
                "status":"erased","groups":0,"remaining":0,"verified_at":null,"results":[]}}"#,
                Looks::Outcome,
            ),
            (
                r#"{"id":"a","status":"unknown","results":[],"rounds":0,"closed_at":null}"#,
                Looks::Report,
            ),
            (&manifest, Looks::Manifest),
            (r#"{"From_Account":"u","GroupName":["a"]}"#, Looks::Event),
            (
                r#"{"specversion":"1.0","id":"1","source":"/x","type":"y","data":{"From_Account":"u","AllGroups":true}}"#,
                Looks::Event,
            ),
            ("[1]", Looks::OtherJson),
            ("{}", Looks::OtherJson),
            ("id,status", Looks::NoJson),
        ] {
            assert_eq!(Looks::of(line.as_bytes()), expect, "{line}");
        }
        assert_eq!(Looks::Manifest.to_string(), "a line of a manifest");
    }
}
