//! Where a call is decided: faults, then the checks in the API's order, then what is asked for.

use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::Serialize;

use super::access::Access;
use super::call::{Call, CallKind};
use super::config::{Config, Latency};
use super::counters::{CallRecord, Counters};
use super::fault::{Effect, Fault, Faults, Raw, Target};
use super::limit::SlidingSecond;
use super::page::{self, GroupItem, Page};
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
    pub(super) list_page_size: u32,
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

/// What was done for a call.
enum Done {
    /// The group is gone; it had this id.
    Deleted { group_id: u64 },
    /// A page of the list.
    Listed(Page),
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
            list_page_size: config.list_page_size,
            latency: config.latency,
            record: config.record,
            admitted: SlidingSecond::default(),
            arrived: SlidingSecond::default(),
            rng: StdRng::seed_from_u64(0),
        }
    }

    /// Decides a call that arrived at `now`, which is `now_s` in Unix seconds.
    pub(super) fn answer(&mut self, call: &Call, now: Instant, now_s: u64) -> Answer {
        let user = call.user.as_deref();
        let target = Target {
            kind: call.kind,
            user,
            group: call.group.as_deref(),
            page: call
                .start
                .map(|start| page::number(start, self.list_page_size)),
            is_probe: user.is_some_and(|user| self.access.is_admin(user)),
        };
        let (what, code, deleted, fault) = match self.faults.strike(&target) {
            Some((fault, effect)) => {
                let page = self.page(call);
                let done = (effect == Effect::After).then(|| self.decide(call, now, now_s));
                let deleted = matches!(done, Some(Ok(Done::Deleted { .. })));
                let label = fault.label();
                let (what, code) = faulty(fault, call, page);
                (what, code, deleted, Some(label))
            }
            None => match self.decide(call, now, now_s) {
                Ok(Done::Deleted { group_id }) => {
                    let group = target.group.unwrap_or_default();
                    (What::Json(success(group, group_id)), Some(0), true, None)
                }
                Ok(Done::Listed(page)) => (What::Json(page.json()), Some(0), false, None),
                Err(Refusal { code, info }) => {
                    (What::Json(failure(code, info)), Some(code), false, None)
                }
            },
        };
        let record = CallRecord {
            instant: now,
            kind: call.kind,
            user: call.user.clone(),
            group: call.group.clone(),
            page: target.page,
            code,
            fault,
            deleted,
            probe: target.is_probe,
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

    fn decide(&mut self, call: &Call, now: Instant, now_s: u64) -> Result<Done, Refusal> {
        self.access.check(&call.query, now_s)?;
        if self.calls_per_second > 0 && !self.admitted.admit(now, self.calls_per_second) {
            return Err(Refusal::TOO_FAST);
        }
        if let Some(refusal) = call.fault {
            return Err(refusal);
        }
        let user = call.user.as_deref().unwrap_or_default();
        let user_is_admin = self.access.is_admin(user);
        match call.kind {
            CallKind::Delete => {
                let group = call.group.as_deref().unwrap_or_default();
                let group_id = self.store.delete(user, group, user_is_admin)?;
                Ok(Done::Deleted { group_id })
            }
            CallKind::List => {
                let groups = self.store.list(user, user_is_admin)?;
                let page = self.page_of(groups, call);
                if page.is_last() {
                    self.store.listed(user);
                }
                Ok(Done::Listed(page))
            }
        }
    }

    /// The page that a list asks for, as it is now; without groups where there is no such user.
    fn page(&self, call: &Call) -> Page {
        let groups = call
            .user
            .as_deref()
            .and_then(|user| self.store.groups(user));
        self.page_of(groups.unwrap_or_default(), call)
    }

    fn page_of(&self, groups: Vec<String>, call: &Call) -> Page {
        Page::of(groups, call.start.unwrap_or_default(), self.list_page_size)
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

/// `page` is the honest one, for the faults of lists.
fn faulty(fault: Fault, call: &Call, page: Page) -> (What, Option<i64>) {
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
        Fault::StuckIndex => (What::Json(page.stuck().json()), Some(0)),
        Fault::NoCompleteFlag => (What::Json(page.without_flag().json()), Some(0)),
    }
}

/// The API's answer to a deletion, and to a list that failed, in the order of its fields.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Reply<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    group_item: Option<[GroupItem<'a>; 1]>,
    action_status: &'a str,
    error_code: i64,
    error_info: &'a str,
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
    use convgroup_chat::usersig;
    use serde_json::{Value, json};

    use super::*;
    use crate::config::DEMO_SECRET_KEY;

    #[test]
    fn deletions_and_lists_share_one_limit() {
        let config = Config {
            permissive: true,
            ..Config::default()
        };
        let admin = config.admins[0].clone();
        let (app, now_s) = (config.sdk_app_id, 1_700_000_000);
        let usersig = usersig::sign(app, DEMO_SECRET_KEY, &admin, now_s, 600);
        let uri = format!(
            "/?sdkappid={app}&identifier={admin}&usersig={usersig}&random=1&contenttype=json"
        );
        let (mut api, start) = (Api::new(config), Instant::now());
        let mut groups = 0..;
        let mut code = |kind, after_ms| {
            let body = match kind {
                CallKind::Delete => {
                    let group = groups.next().map(|number| format!("g{number}"));
                    json!({ "From_Account": "u", "GroupName": [group] })
                }
                CallKind::List => json!({ "From_Account": "u", "StartIndex": 0 }),
            };
            let call = Call::read(kind, uri.parse().unwrap(), body.to_string().into());
            let answer = api.answer(&call, start + Duration::from_millis(after_ms), now_s);
            let What::Json(json) = answer.what else {
                panic!("no answer: {:?}", answer.what);
            };
            let json: Value = serde_json::from_str(&json).unwrap();
            json["ErrorCode"].as_i64().unwrap()
        };
        for at_ms in 0..100 {
            assert_eq!(code(CallKind::List, at_ms), 0, "at {at_ms} ms");
            assert_eq!(code(CallKind::Delete, at_ms), 0, "at {at_ms} ms");
        }
        for (kind, at_ms, expect) in [
            (CallKind::List, 999, 60007),
            (CallKind::Delete, 999, 60007),
            // The two calls of the first millisecond are a second old.
            (CallKind::Delete, 1000, 0),
            (CallKind::List, 1000, 0),
            (CallKind::List, 1000, 60007),
            (CallKind::Delete, 1000, 60007),
        ] {
            assert_eq!(code(kind, at_ms), expect, "{kind:?} at {at_ms} ms");
        }
        assert_eq!((api.counters.calls, api.counters.lists), (206, 103));
        assert_eq!(api.counters.lists_by_code, [(0, 101), (60007, 2)].into());
        assert_eq!(api.counters.by_code, [(0, 101), (60007, 2)].into());
    }

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
