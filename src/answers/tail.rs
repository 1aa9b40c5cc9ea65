//! `outcomes tail`: the last outcomes, a line each, and those that come.
use std::collections::VecDeque;
use std::fmt::Write;
use std::ops::ControlFlow;

use convgroup_broker::ledger::{Ledger, Start};
use convgroup_broker::settings::Amqp;
use convgroup_domain::case::Heard;
use convgroup_domain::outcome::{End, OutcomeEvent, Status};
use convgroup_domain::request;
use convgroup_domain::text::readable;

use super::export::one_line;
use super::wait::Trouble;
use super::{Skipped, read_ledger};
use crate::telemetry;
use crate::tool::{Exit, Failure, offer};

/// So many are shown where nothing says since when.
const SHOWN: usize = 20;
/// So many entries before the end are read for them at first.
const WINDOW: u64 = 100;

/// Which outcomes are shown, and how.
#[derive(Debug)]
pub(crate) struct Plan {
    /// From this moment on, unix ms; without it the last [`SHOWN`].
    pub(crate) since_ms: Option<i64>,
    /// Go on with those that come.
    pub(crate) follow: bool,
    /// Any of these; none means all.
    pub(crate) statuses: Vec<Status>,
    /// Only those of this request.
    pub(crate) request: Option<String>,
    /// As they were published.
    pub(crate) json: bool,
}

impl Plan {
    fn means(&self, heard: &Heard) -> bool {
        let data = &heard.event.data;
        let status = self.statuses.is_empty() || self.statuses.contains(&data.status);
        let asked = self.request.as_deref().map(request::bounded);
        status && asked.is_none_or(|id| id == data.request.id)
    }

    /// What is said where a request is asked for and nothing is found.
    fn none(&self) -> Option<String> {
        let id = readable(self.request.as_deref()?);
        let with = if self.statuses.is_empty() {
            ""
        } else {
            " with this status"
        };
        let since = if self.since_ms.is_some() {
            " since then"
        } else {
            ""
        };
        Some(format!(
            "the ledger holds no answer{with} to the request {id}{since}"
        ))
    }

    fn shown(&self, heard: &Heard, json: &[u8]) -> String {
        if self.json {
            return String::from_utf8_lossy(&one_line(json)).into_owned();
        }
        line(&heard.event)
    }
}

pub(crate) async fn tail(amqp: &Amqp, plan: &Plan) -> Result<Exit, Failure> {
    let ledger = Ledger::open(amqp).await?;
    let mut reader = ControlFlow::Continue(());
    let mut found = false;
    if let Some(since_ms) = plan.since_ms {
        read_ledger(&ledger, Some(since_ms), |read| {
            if plan.means(&read.heard) {
                found = true;
                reader = offer(&plan.shown(&read.heard, read.json))?;
            }
            Ok(reader)
        })
        .await?;
    } else {
        let last = last(&ledger, plan).await?;
        found = !last.is_empty();
        reader = offer(&last)?;
    }
    if !found && let Some(none) = plan.none() {
        telemetry::say(&none);
    }
    if !plan.follow || reader.is_break() {
        return Ok(Exit::Done);
    }
    let behind = ledger
        .end()
        .map_or(Start::First, |end| Start::Offset(end + 1));
    let mut follower = ledger.follow(behind);
    let mut trouble = Trouble::default();
    loop {
        let entry = follower.next(|err| trouble.tell(err)).await?;
        trouble.is_over();
        if let Some(heard) = Skipped::default().heard(&entry)
            && plan.means(&heard)
            && offer(&plan.shown(&heard, &entry.body))?.is_break()
        {
            return Ok(Exit::Done);
        }
    }
}

/// The last outcomes that are meant. It is read backwards, by ever larger windows: offsets have holes, and any share of the entries may
/// be meant.
async fn last(ledger: &Ledger, plan: &Plan) -> Result<String, Failure> {
    let Some(end) = ledger.end() else {
        return Ok(String::new());
    };
    let mut window = WINDOW;
    loop {
        let mut shown = VecDeque::new();
        let start = Start::Offset(end.saturating_sub(window));
        let mut reading = ledger.until_end(start).await?;
        while let Some(entry) = reading.next().await? {
            let heard = Skipped::default().heard(&entry);
            if let Some(heard) = heard.filter(|heard| plan.means(heard)) {
                if shown.len() == SHOWN {
                    shown.pop_front();
                }
                shown.push_back(plan.shown(&heard, &entry.body));
            }
        }
        if shown.len() == SHOWN || window >= end {
            return Ok(shown.into_iter().collect());
        }
        window = window.saturating_mul(10);
    }
}

/// An outcome for people: time, status, request, groups, what remains, and why what is not erased is not.
fn line(event: &OutcomeEvent) -> String {
    let data = &event.data;
    let mut text = format!(
        "{}  {:<9}  {:<36}  groups {}, remaining {}",
        readable(&event.time),
        data.status.label(),
        readable(&data.request.id),
        data.groups,
        data.remaining,
    );
    let reasons = reasons(event);
    if !reasons.is_empty() {
        let _ = write!(text, "; {}", readable(&reasons.join(", ")));
    }
    if data.request.round > 0 {
        let _ = write!(text, "; round {}", data.request.round);
    }
    if data.verified_at.is_some() {
        text += "; verified by a list";
    }
    text + "\n"
}

/// Why, each reason once, with the number of names that have it.
fn reasons(event: &OutcomeEvent) -> Vec<String> {
    let data = &event.data;
    let mut reasons: Vec<(String, usize)> = Vec::new();
    let dead = data.results.iter().filter(|name| !name.outcome.is_erased());
    let names = dead.map(|name| match name.outcome {
        End::Purged => "purged".to_owned(),
        _ => reason(name.cause.as_deref(), name.code.as_deref()),
    });
    let whole = data.cause.as_deref();
    let whole = whole.map(|cause| reason(Some(cause), data.code.as_deref()));
    for reason in names.chain(whole) {
        match reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count += 1,
            None => reasons.push((reason, 1)),
        }
    }
    let times = |(reason, count): (String, usize)| match count {
        1 => reason,
        count => format!("{reason} ({count} names)"),
    };
    reasons.into_iter().map(times).collect()
}

/// A cause with its code.
pub(super) fn reason(cause: Option<&str>, code: Option<&str>) -> String {
    let words: Vec<&str> = cause.into_iter().chain(code).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn event(data: &str) -> OutcomeEvent {
        let json = format!(
            r#"{{"specversion":"1.0","id":"1","source":"/x","type":"convgroup.request.settled.v1","time":"2026-12-01T00:00:11.120Z",
            "datacontenttype":"application/json","data":{data}}}"#
        );
        OutcomeEvent::from_json(json.as_bytes()).unwrap()
    }

    #[test]
    fn an_outcome_is_a_line_for_people() {
        let lines: String = [
            r#"{"request":{"id":"req-1","id_from":"message_id","round":0,"published_at":null},"status":"erased","groups":1,"remaining":0,
            "verified_at":null,"results":[{"index":0,"outcome":"deleted","code":"0"}]}"#,
            r#"{"request":{"id":"req\u001b2","id_from":"message_id","round":2,"published_at":null},"status":"partial","groups":4,
            "remaining":1,"verified_at":null,"results":[{"index":0,"outcome":"dead_lettered","cause":"rejected","code":"51011"},
            {"index":1,"outcome":"dead_lettered","cause":"rejected","code":"51011"},{"index":3,"outcome":"purged"}]}"#,
            r#"{"request":{"id":"req-3","id_from":"message_id","round":0,"published_at":null},"status":"failed","groups":0,"remaining":0,
            "verified_at":null,"cause":"exhausted","code":"50004","results":[]}"#,
            r#"{"request":{"id":"req-4","id_from":"message_id","round":0,"published_at":null},"status":"erased","groups":0,"remaining":0,
            "verified_at":"2026-12-01T00:00:11.120Z","results":[]}"#,
        ]
        .iter()
        .map(|data| line(&event(data)))
        .collect();
        expect![[r#"
            2026-12-01T00:00:11.120Z  erased     req-1                                 groups 1, remaining 0
            2026-12-01T00:00:11.120Z  partial    req\u{1b}2                            groups 4, remaining 1; rejected 51011 (2 names), purged; round 2
            2026-12-01T00:00:11.120Z  failed     req-3                                 groups 0, remaining 0; exhausted 50004
            2026-12-01T00:00:11.120Z  erased     req-4                                 groups 0, remaining 0; verified by a list
        "#]].assert_eq(&lines);
    }

    #[test]
    fn a_filter_means_status_and_request() {
        let data = r#"{"request":{"id":"req-1","id_from":"message_id","round":0,"published_at":null},"status":"failed","groups":1,
            "remaining":0,"verified_at":null,"results":[]}"#;
        let heard = Heard {
            event: event(data),
            at_ms: 0,
        };
        let plan = |statuses: &[Status], request: Option<&str>| Plan {
            since_ms: None,
            follow: false,
            statuses: statuses.to_vec(),
            request: request.map(str::to_owned),
            json: false,
        };
        assert!(plan(&[], None).means(&heard));
        assert!(plan(&[Status::Mixed, Status::Failed], Some("req-1")).means(&heard));
        assert!(!plan(&[Status::Mixed], None).means(&heard));
        assert!(!plan(&[], Some("req-2")).means(&heard));
        assert_eq!(plan(&[], None).none(), None);
        assert_eq!(
            plan(&[Status::Mixed], Some("req\u{1b}")).none().unwrap(),
            "the ledger holds no answer with this status to the request req\\u{1b}"
        );
    }
}
