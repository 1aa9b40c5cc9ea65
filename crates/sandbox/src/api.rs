//! Where a call is decided: faults, then the checks in the API's order, then the deletion.

use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::Serialize;

use super::access::Access;
use super::call::Call;
use super::config::{Config, Latency};
use super::counters::{CallRecord, Counters};
use super::fault::{Effect, Fault, Faults, Raw};
use super::limit::SlidingSecond;
use super::refusal::Refusal;
use super::store::Store;

/// All that a sandbox knows; no clock and no network.
pub(super) struct Api {
    pub(super) access: Access,
    pub(super) store: Store,
    pub(super) faults: Faults,
    pub(super) counters: Counters,
    pub(super) calls: Vec<CallRecord>,
    pub(super) calls_per_second: u32,
    pub(super) latency: Latency,
    record: bool,
    admitted: SlidingSecond,
    arrived: SlidingSecond,
    rng: StdRng,
}

/// What goes back to the client, and when.
pub(super) struct Answer {
    pub(super) what: What,
    pub(super) latency: Duration,
}

/// What goes back to the client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum What {
    /// HTTP 200 with this JSON.
    Json(String),
    /// This status without JSON.
    HttpStatus(u16),
    /// Exactly this.
    Raw(Raw),
    Garbage,
    Huge,
    Truncated,
    Reset,
    Close,
    Hang,
}

impl Api {
    pub(super) fn new(config: Config) -> Self {
        Self {
            access: Access::new(config.sdk_app_id, config.secret_key, config.admins),
            store: Store::new(config.permissive),
            faults: Faults::default(),
            counters: Counters::default(),
            calls: Vec::new(),
            calls_per_second: config.calls_per_second,
            latency: config.latency,
            record: config.record,
            admitted: SlidingSecond::default(),
            arrived: SlidingSecond::default(),
            rng: StdRng::seed_from_u64(0),
        }
    }

    /// Decides a call that arrived at `now`, which is `now_s` in Unix seconds.
    pub(super) fn answer(&mut self, call: &Call, now: Instant, now_s: u64) -> Answer {
        let (user, group) = (call.user.as_deref(), call.group.as_deref());
        let probe = user.is_some_and(|user| self.access.is_admin(user));
        let (what, code, deleted, fault) = match self.faults.strike(user, group, probe) {
            Some((fault, effect)) => {
                let deleted = effect == Effect::After && self.decide(call, now, now_s).is_ok();
                let label = fault.label();
                let (what, code) = faulty(fault, call);
                (what, code, deleted, Some(label))
            }
            None => match self.decide(call, now, now_s) {
                Ok(group_id) => (
                    What::Json(success(group.unwrap_or_default(), group_id)),
                    Some(0),
                    true,
                    None,
                ),
                Err(Refusal { code, info }) => {
                    (What::Json(failure(code, info)), Some(code), false, None)
                }
            },
        };
        let record = CallRecord {
            instant: now,
            user: call.user.clone(),
            group: call.group.clone(),
            code,
            fault,
            deleted,
            probe,
        };
        self.counters
            .count(&record, what.http_status(), self.arrived.add(now));
        if self.record {
            self.calls.push(record);
        }
        Answer {
            what,
            latency: self.latency.draw(&mut self.rng),
        }
    }

    pub(super) fn reset_counters(&mut self) {
        self.counters = Counters::default();
        self.calls.clear();
        self.arrived = SlidingSecond::default();
    }

    fn decide(&mut self, call: &Call, now: Instant, now_s: u64) -> Result<u64, Refusal> {
        self.access.check(&call.query, now_s)?;
        if self.calls_per_second > 0 && !self.admitted.admit(now, self.calls_per_second) {
            return Err(Refusal::TOO_FAST);
        }
        if let Some(refusal) = call.fault {
            return Err(refusal);
        }
        let (user, group) = (
            call.user.as_deref().unwrap_or_default(),
            call.group.as_deref().unwrap_or_default(),
        );
        self.store.delete(user, group, self.access.is_admin(user))
    }
}

impl What {
    fn http_status(&self) -> Option<u16> {
        match self {
            Self::Json(_) | Self::Garbage | Self::Huge | Self::Truncated => Some(200),
            Self::HttpStatus(status) => Some(*status),
            Self::Raw(raw) => Some(raw.status),
            Self::Reset | Self::Close | Self::Hang => None,
        }
    }
}

fn faulty(fault: Fault, call: &Call) -> (What, Option<i64>) {
    let coded = |code, info: &str| (What::Json(failure(code, info)), Some(code));
    match fault {
        Fault::Code { code, info } => coded(code, &info),
        Fault::Echo(code) => coded(
            code,
            &format!("POST {} {}", call.uri, String::from_utf8_lossy(&call.body)),
        ),
        Fault::HttpStatus(status) => (What::HttpStatus(status), None),
        Fault::Raw(raw) => (What::Raw(raw), None),
        Fault::Garbage => (What::Garbage, None),
        Fault::Huge => (What::Huge, None),
        Fault::Truncated => (What::Truncated, None),
        Fault::Reset => (What::Reset, None),
        Fault::Close => (What::Close, None),
        Fault::Hang => (What::Hang, None),
    }
}

/// The API's answer, in the order of its fields.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Reply<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    group_item: Option<[GroupItem<'a>; 1]>,
    action_status: &'a str,
    error_code: i64,
    error_info: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct GroupItem<'a> {
    group_name: &'a str,
    group_id: u64,
}

fn success(group_name: &str, group_id: u64) -> String {
    let group_item = Some([GroupItem {
        group_name,
        group_id,
    }]);
    json(&Reply {
        group_item,
        action_status: "OK",
        error_code: 0,
        error_info: "",
    })
}

fn failure(error_code: i64, error_info: &str) -> String {
    let action_status = if error_code == 0 { "OK" } else { "FAIL" };
    json(&Reply {
        group_item: None,
        action_status,
        error_code,
        error_info,
    })
}

fn json(reply: &Reply<'_>) -> String {
    serde_json::to_string(reply).expect("strings and numbers always become JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_look_like_the_service_s_own() {
        assert_eq!(
            success("test0", 2),
            r#"{"GroupItem":[{"GroupName":"test0","GroupId":2}],"ActionStatus":"OK","ErrorCode":0,"ErrorInfo":""}"#
        );
        assert_eq!(
            failure(51009, "no such group"),
            r#"{"ActionStatus":"FAIL","ErrorCode":51009,"ErrorInfo":"no such group"}"#
        );
    }
}
