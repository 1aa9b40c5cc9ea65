//! Faults on demand: what goes wrong, and for which calls.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use super::call::CallKind;

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub enum Fault {
    /// `{"code":50004,"info":"busy"}`: HTTP 200 with this `ErrorCode`; 0 is an `OK`.
    Code {
        /// The `ErrorCode`.
        code: i64,
        /// The `ErrorInfo`.
        info: String,
    },
    /// `{"http_status":502}`: this HTTP status with a body that is no JSON; from 200 to 599.
    HttpStatus(u16),
    /// `"reset"`: the connection is torn down by a TCP RST.
    Reset,
    /// `"close"`: the connection is closed by a TCP FIN, without an answer.
    Close,
    /// `"hang"`: no answer until the client goes away.
    Hang,
    /// `"garbage"`: HTTP 200 with a body that is no JSON.
    Garbage,
    /// `"huge"`: HTTP 200 with a body of 1 GiB that begins like an answer.
    Huge,
    /// `"truncated"`: an answer cut short of its `Content-Length`, then a TCP FIN.
    Truncated,
    /// `{"echo":50004}`: like a code, its `ErrorInfo` repeating the URL and the body of the call, usersig and all.
    Echo(i64),
    /// `{"raw":{"body":"…"}}`: exactly this reply.
    Raw(Raw),
    /// `"stuck_index"`, for lists only: the page with `CompleteFlag` 0 and the `NextStartIndex` that was asked for.
    StuckIndex,
    /// `"no_complete_flag"`, for lists only: the page without its `CompleteFlag`.
    NoCompleteFlag,
}

/// A reply as it goes out. In JSON the body is `"body":"text"` or `"base64":"…"`; `status` is 200 and `headers` are none where
/// they are left out: `{"status":200,"headers":{"content-type":"text/html"},"body":"…"}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw {
    /// From 200 to 599.
    pub status: u16,
    /// Header lines; `content-type` is `application/json` where it is not named.
    pub headers: BTreeMap<String, String>,
    /// The bytes.
    pub body: Vec<u8>,
}

impl Raw {
    /// HTTP 200 with this body.
    #[must_use]
    pub fn body(body: impl Into<Vec<u8>>) -> Self {
        Self {
            status: 200,
            headers: BTreeMap::new(),
            body: body.into(),
        }
    }

    /// Another status.
    #[must_use]
    pub fn status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// One more header line.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.insert(name.to_owned(), value.to_owned());
        self
    }
}

impl Fault {
    /// This `ErrorCode` with a text of its own.
    #[must_use]
    pub fn code(code: i64) -> Self {
        Self::Code {
            code,
            info: format!("injected fault {code}"),
        }
    }

    /// The name it is counted under: `code_50004`, `http_502`, `reset`, `echo_50004`.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            Self::Code { code, .. } => format!("code_{code}"),
            Self::HttpStatus(status) => format!("http_{status}"),
            Self::Reset => "reset".to_owned(),
            Self::Close => "close".to_owned(),
            Self::Hang => "hang".to_owned(),
            Self::Garbage => "garbage".to_owned(),
            Self::Huge => "huge".to_owned(),
            Self::Truncated => "truncated".to_owned(),
            Self::Echo(code) => format!("echo_{code}"),
            Self::Raw(_) => "raw".to_owned(),
            Self::StuckIndex => "stuck_index".to_owned(),
            Self::NoCompleteFlag => "no_complete_flag".to_owned(),
        }
    }

    fn is_for_lists_only(&self) -> bool {
        matches!(self, Self::StuckIndex | Self::NoCompleteFlag)
    }
}

/// When a fault strikes: before the checks and what is asked for, or in the place of the honest answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Nothing is checked and nothing is deleted.
    #[default]
    Before,
    /// The call is checked and the group deleted; only the answer goes wrong. A list deletes nothing, but counts as one:
    /// [groups that come after it](super::Sandbox::add_after_list) come.
    After,
}

/// Whether a rule is about probes, which are calls for an admin's own account. In JSON `true`, `false` or `"only"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "ProbesWire", into = "ProbesWire")]
pub enum Probes {
    /// About all calls.
    Included,
    /// About all calls but probes.
    Excluded,
    /// About probes alone.
    Only,
}

/// A fault and the calls it is for.
///
/// In JSON all fields but `what` may be left out:
/// `{"what":"reset","user":"user15","times":2,"effect":"after"}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What goes wrong.
    pub what: Fault,
    /// Only deletions, or only lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<CallKind>,
    /// Only calls for this user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Only calls for this group, which are deletions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Only lists of this page, counted from 0: see [`CallRecord::page`](super::CallRecord::page).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<u64>,
    /// Let so many matching calls pass first.
    #[serde(default)]
    pub skip: u64,
    /// Strike so many times, then the rule is gone; without it, until it is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// Strike a matching call with this probability; taken as 0 or 1 if it is beyond. Default 1.
    #[serde(default = "always")]
    pub probability: f64,
    /// What the random numbers start from: the same seed strikes the same calls. Default 0.
    #[serde(default)]
    pub seed: u64,
    /// Before or after the deletion.
    #[serde(default)]
    pub effect: Effect,
    /// Whether it is about probes; without it, they are included unless a user or a group is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probes: Option<Probes>,
}

impl Rule {
    /// A rule that strikes every call that the fault is for.
    #[must_use]
    pub fn new(what: Fault) -> Self {
        Self {
            what,
            call: None,
            user: None,
            group: None,
            page: None,
            skip: 0,
            times: None,
            probability: always(),
            seed: 0,
            effect: Effect::default(),
            probes: None,
        }
    }

    /// Only deletions, or only lists.
    #[must_use]
    pub fn call(self, kind: CallKind) -> Self {
        Self {
            call: Some(kind),
            ..self
        }
    }

    /// Only calls for this user.
    #[must_use]
    pub fn user(self, user: &str) -> Self {
        Self {
            user: Some(user.to_owned()),
            ..self
        }
    }

    /// Only calls for this group, which are deletions.
    #[must_use]
    pub fn group(self, group: &str) -> Self {
        Self {
            group: Some(group.to_owned()),
            ..self
        }
    }

    /// Only lists of this page, counted from 0.
    #[must_use]
    pub fn page(self, page: u64) -> Self {
        Self {
            page: Some(page),
            ..self
        }
    }

    /// Lets so many matching calls pass first.
    #[must_use]
    pub fn skip(self, skip: u64) -> Self {
        Self { skip, ..self }
    }

    /// Strikes so many times.
    #[must_use]
    pub fn times(self, times: u64) -> Self {
        Self {
            times: Some(times),
            ..self
        }
    }

    /// Strikes a matching call with this probability; the same `seed` strikes the same calls.
    #[must_use]
    pub fn probability(self, probability: f64, seed: u64) -> Self {
        Self {
            probability,
            seed,
            ..self
        }
    }

    /// Lets the deletion take place.
    #[must_use]
    pub fn after(self) -> Self {
        Self {
            effect: Effect::After,
            ..self
        }
    }

    /// Says whether it is about probes.
    #[must_use]
    pub fn probes(self, probes: Probes) -> Self {
        Self {
            probes: Some(probes),
            ..self
        }
    }

    /// Why it can never strike, if it can't: what it asks for fits no call.
    pub(super) fn contradiction(&self) -> Option<&'static str> {
        let is_for_deletions = self.call == Some(CallKind::Delete) || self.group.is_some();
        let is_for_lists = self.call == Some(CallKind::List)
            || self.page.is_some()
            || self.what.is_for_lists_only();
        let text = "the rule can never strike: a group is named by deletions only, and only lists have pages and their faults";
        (is_for_deletions && is_for_lists).then_some(text)
    }

    fn matches(&self, target: &Target<'_>) -> bool {
        let is = |wanted: &Option<String>, given: Option<&str>| {
            wanted.as_deref().is_none_or(|it| given == Some(it))
        };
        let is_list = target.kind == CallKind::List;
        let by_kind = self.call.is_none_or(|kind| kind == target.kind)
            && (is_list || !self.what.is_for_lists_only());
        let by_page = self.page.is_none() || self.page == target.page;
        let is_probe = target.is_probe;
        let by_probe = match self.probes {
            Some(Probes::Included) => true,
            Some(Probes::Excluded) => !is_probe,
            Some(Probes::Only) => is_probe,
            // Who names an admin's account means its probes.
            None => !is_probe || self.group.is_none() || self.user.is_some(),
        };
        let by_name = is(&self.user, target.user) && is(&self.group, target.group);
        by_kind && by_page && by_probe && by_name
    }
}

/// What rules look at in a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) kind: CallKind,
    pub(super) user: Option<&'a str>,
    /// None of a list.
    pub(super) group: Option<&'a str>,
    /// None of a deletion.
    pub(super) page: Option<u64>,
    pub(super) is_probe: bool,
}

/// A rule in effect and what it has done so far.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RuleState {
    /// Its id, for removing it.
    pub id: u64,
    /// The rule as it was added.
    pub rule: Rule,
    /// Calls it matched, those it let pass included.
    pub matched: u64,
    /// Calls it struck.
    pub struck: u64,
}

/// The rules in effect, in the order they were added.
#[derive(Default)]
pub(super) struct Faults {
    rules: Vec<(RuleState, StdRng)>,
    last_id: u64,
}

impl Faults {
    pub(super) fn add(&mut self, rule: Rule) -> u64 {
        self.last_id += 1;
        let rng = StdRng::seed_from_u64(rule.seed);
        self.rules.push((
            RuleState {
                id: self.last_id,
                rule,
                matched: 0,
                struck: 0,
            },
            rng,
        ));
        self.last_id
    }

    pub(super) fn list(&self) -> Vec<RuleState> {
        self.rules.iter().map(|(state, _)| state.clone()).collect()
    }

    pub(super) fn remove(&mut self, id: u64) -> bool {
        let before = self.rules.len();
        self.rules.retain(|(state, _)| state.id != id);
        self.rules.len() < before
    }

    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    /// The fault that strikes this call, if any: that of the first rule which does not let it pass.
    pub(super) fn strike(&mut self, target: &Target<'_>) -> Option<(Fault, Effect)> {
        let at = self.rules.iter_mut().position(|(state, rng)| {
            if !state.rule.matches(target) {
                return false;
            }
            state.matched += 1;
            let strikes = state.matched > state.rule.skip
                && state.rule.times.is_none_or(|times| state.struck < times)
                && rng.random::<f64>() < state.rule.probability;
            state.struck += u64::from(strikes);
            strikes
        })?;
        let state = &self.rules[at].0;
        let strike = (state.rule.what.clone(), state.rule.effect);
        if state.rule.times == Some(state.struck) {
            self.rules.remove(at);
        }
        Some(strike)
    }
}

fn always() -> f64 {
    1.0
}

/// [`Fault`] as JSON.
#[derive(Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "a fault is {\"code\":N,\"info\":\"…\"}, {\"http_status\":N}, {\"echo\":N}, {\"raw\":{\"body\":\"…\"}} or one of \"reset\", \
                 \"close\", \"hang\", \"garbage\", \"huge\", \"truncated\", \"stuck_index\", \"no_complete_flag\""
)]
enum Wire {
    Code(WireCode),
    Http(WireHttp),
    Echo(WireEcho),
    Raw(WireRawFault),
    Word(Word),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireRawFault {
    raw: WireRaw,
}

/// [`Raw`] as JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireRaw {
    #[serde(default = "ok")]
    status: u16,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

const fn ok() -> u16 {
    200
}

impl TryFrom<WireRaw> for Raw {
    type Error = &'static str;

    fn try_from(wire: WireRaw) -> Result<Self, Self::Error> {
        let body = match (wire.body, wire.base64) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(base64)) => STANDARD
                .decode(base64)
                .map_err(|_| "base64 can't be read")?,
            _ => return Err("a raw reply has either a body or base64"),
        };
        if !(200..=599).contains(&wire.status) {
            return Err("status must be from 200 to 599");
        }
        Ok(Self {
            status: wire.status,
            headers: wire.headers,
            body,
        })
    }
}

impl From<Raw> for WireRaw {
    fn from(raw: Raw) -> Self {
        let (body, base64) = match String::from_utf8(raw.body) {
            Ok(text) => (Some(text), None),
            Err(bytes) => (None, Some(STANDARD.encode(bytes.as_bytes()))),
        };
        Self {
            status: raw.status,
            headers: raw.headers,
            body,
            base64,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireCode {
    code: i64,
    info: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireHttp {
    http_status: u16,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireEcho {
    echo: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Reset,
    Close,
    Hang,
    Garbage,
    Huge,
    Truncated,
    StuckIndex,
    NoCompleteFlag,
}

impl TryFrom<Wire> for Fault {
    type Error = &'static str;

    fn try_from(wire: Wire) -> Result<Self, Self::Error> {
        Ok(match wire {
            Wire::Code(WireCode {
                code,
                info: Some(info),
            }) => Self::Code { code, info },
            Wire::Code(WireCode { code, info: None }) => Self::code(code),
            Wire::Http(WireHttp { http_status }) if (200..=599).contains(&http_status) => {
                Self::HttpStatus(http_status)
            }
            Wire::Http(_) => return Err("http_status must be from 200 to 599"),
            Wire::Echo(WireEcho { echo }) => Self::Echo(echo),
            Wire::Raw(WireRawFault { raw }) => Self::Raw(raw.try_into()?),
            Wire::Word(Word::Reset) => Self::Reset,
            Wire::Word(Word::Close) => Self::Close,
            Wire::Word(Word::Hang) => Self::Hang,
            Wire::Word(Word::Garbage) => Self::Garbage,
            Wire::Word(Word::Huge) => Self::Huge,
            Wire::Word(Word::Truncated) => Self::Truncated,
            Wire::Word(Word::StuckIndex) => Self::StuckIndex,
            Wire::Word(Word::NoCompleteFlag) => Self::NoCompleteFlag,
        })
    }
}

impl From<Fault> for Wire {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Code { code, info } => Self::Code(WireCode {
                code,
                info: Some(info),
            }),
            Fault::HttpStatus(http_status) => Self::Http(WireHttp { http_status }),
            Fault::Echo(echo) => Self::Echo(WireEcho { echo }),
            Fault::Raw(raw) => Self::Raw(WireRawFault { raw: raw.into() }),
            Fault::Reset => Self::Word(Word::Reset),
            Fault::Close => Self::Word(Word::Close),
            Fault::Hang => Self::Word(Word::Hang),
            Fault::Garbage => Self::Word(Word::Garbage),
            Fault::Huge => Self::Word(Word::Huge),
            Fault::Truncated => Self::Word(Word::Truncated),
            Fault::StuckIndex => Self::Word(Word::StuckIndex),
            Fault::NoCompleteFlag => Self::Word(Word::NoCompleteFlag),
        }
    }
}

/// [`Probes`] as JSON.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "probes is true, false or \"only\"")]
enum ProbesWire {
    Included(bool),
    Word(String),
}

impl TryFrom<ProbesWire> for Probes {
    type Error = &'static str;

    fn try_from(wire: ProbesWire) -> Result<Self, Self::Error> {
        match wire {
            ProbesWire::Included(true) => Ok(Self::Included),
            ProbesWire::Included(false) => Ok(Self::Excluded),
            ProbesWire::Word(word) if word == "only" => Ok(Self::Only),
            ProbesWire::Word(_) => Err("probes is true, false or \"only\""),
        }
    }
}

impl From<Probes> for ProbesWire {
    fn from(probes: Probes) -> Self {
        match probes {
            Probes::Included => Self::Included(true),
            Probes::Excluded => Self::Included(false),
            Probes::Only => Self::Word("only".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A deletion of `g` for `u`.
    const DELETION: Target<'_> = Target {
        kind: CallKind::Delete,
        user: Some("u"),
        group: Some("g"),
        page: None,
        is_probe: false,
    };

    /// The second page of a list for `u`.
    const LIST: Target<'_> = Target {
        kind: CallKind::List,
        group: None,
        page: Some(1),
        ..DELETION
    };

    /// Which of `calls` equal calls for `u` and `g` are struck.
    fn struck(rule: Rule, calls: usize) -> Vec<bool> {
        let mut faults = Faults::default();
        faults.add(rule);
        (0..calls)
            .map(|_| faults.strike(&DELETION).is_some())
            .collect()
    }

    #[test]
    fn skip_and_times_pick_the_calls() {
        assert_eq!(
            struck(Rule::new(Fault::Hang).skip(1).times(2), 5),
            [false, true, true, false, false]
        );
        assert_eq!(struck(Rule::new(Fault::Hang).times(0), 2), [false, false]);
        assert_eq!(struck(Rule::new(Fault::Hang).user("v"), 1), [false]);
        assert_eq!(
            struck(Rule::new(Fault::Hang).user("u").group("h"), 1),
            [false]
        );
    }

    #[test]
    fn a_seed_strikes_the_same_calls_again() {
        let half = |seed| struck(Rule::new(Fault::Hang).probability(0.5, seed), 100);
        assert_eq!(half(1), half(1));
        assert_ne!(half(1), half(2));
        assert!(
            struck(Rule::new(Fault::Hang).probability(1.0, 1), 100)
                .iter()
                .all(|struck| *struck)
        );
        assert!(!struck(Rule::new(Fault::Hang).probability(f64::NAN, 1), 100).contains(&true));
    }

    #[test]
    fn probes_are_struck_unless_the_rule_is_about_somebody() {
        #[track_caller]
        fn check(rule: &Rule, probe: bool, other: bool) {
            let of_admin = Target {
                user: Some("admin"),
                is_probe: true,
                ..DELETION
            };
            assert_eq!(rule.matches(&of_admin), probe, "{rule:?}");
            assert_eq!(rule.matches(&DELETION), other, "{rule:?}");
        }
        let rule = Rule::new(Fault::Reset);
        check(&rule, true, true);
        check(&rule.clone().probes(Probes::Excluded), false, true);
        check(&rule.clone().probes(Probes::Only), true, false);
        check(&rule.clone().group("g"), false, true);
        check(
            &rule.clone().group("g").probes(Probes::Included),
            true,
            true,
        );
        check(&rule.clone().user("u"), false, true);
        check(&rule.user("admin"), true, false);
    }

    #[test]
    fn rules_are_about_deletions_lists_or_both() {
        #[track_caller]
        fn check(rule: &Rule, deletion: bool, list: bool) {
            assert_eq!(rule.matches(&DELETION), deletion, "{rule:?}");
            assert_eq!(rule.matches(&LIST), list, "{rule:?}");
            let other_page = Target {
                page: Some(0),
                ..LIST
            };
            let elsewhere = list && rule.page.is_none();
            assert_eq!(rule.matches(&other_page), elsewhere, "{rule:?}");
            let can_strike = deletion || list;
            assert_eq!(rule.contradiction().is_none(), can_strike, "{rule:?}");
        }
        let (rule, stuck) = (Rule::new(Fault::Hang), Rule::new(Fault::StuckIndex));
        check(&rule, true, true);
        check(&rule.clone().user("u"), true, true);
        check(&rule.clone().call(CallKind::Delete), true, false);
        check(&rule.clone().call(CallKind::List), false, true);
        check(&rule.clone().group("g"), true, false);
        check(&rule.clone().page(1), false, true);
        check(&stuck, false, true);
        check(&Rule::new(Fault::NoCompleteFlag).page(1), false, true);
        check(&rule.clone().group("g").page(1), false, false);
        check(&rule.call(CallKind::Delete).page(1), false, false);
        check(&stuck.group("g"), false, false);
    }

    #[test]
    fn the_first_rule_that_strikes_decides() {
        let mut faults = Faults::default();
        faults.add(Rule::new(Fault::Reset).times(1));
        let second = faults.add(Rule::new(Fault::Hang).after());
        assert_eq!(
            faults.strike(&DELETION),
            Some((Fault::Reset, Effect::Before))
        );
        assert_eq!(faults.strike(&LIST), Some((Fault::Hang, Effect::After)));
        assert_eq!(
            faults.list().len(),
            1,
            "a rule that has struck its last is gone"
        );
        assert!(faults.remove(second));
        assert!(!faults.remove(second));
        assert_eq!(faults.strike(&DELETION), None);
    }

    #[test]
    fn rules_are_the_same_in_json() {
        #[track_caller]
        fn check(json: &str, expect: &Rule) {
            let rule: Rule = serde_json::from_str(json).unwrap();
            assert_eq!(rule, *expect);
            let again = serde_json::to_string(&rule).unwrap();
            assert_eq!(
                serde_json::from_str::<Rule>(&again).unwrap(),
                *expect,
                "{again}"
            );
        }
        check(r#"{"what":"reset"}"#, &Rule::new(Fault::Reset));
        check(
            r#"{"what":"stuck_index","call":"list","page":2}"#,
            &Rule::new(Fault::StuckIndex).call(CallKind::List).page(2),
        );
        check(
            r#"{"what":"no_complete_flag"}"#,
            &Rule::new(Fault::NoCompleteFlag),
        );
        check(
            r#"{"what":"hang","call":"delete","group":"g"}"#,
            &Rule::new(Fault::Hang).call(CallKind::Delete).group("g"),
        );
        check(r#"{"what":{"code":50004}}"#, &Rule::new(Fault::code(50004)));
        check(
            r#"{"what":{"http_status":502},"user":"u","probes":"only"}"#,
            &Rule::new(Fault::HttpStatus(502))
                .user("u")
                .probes(Probes::Only),
        );
        check(
            r#"{"what":{"raw":{"body":"{}"}}}"#,
            &Rule::new(Fault::Raw(Raw::body("{}"))),
        );
        check(
            r#"{"what":{"raw":{"status":502,"headers":{"content-type":"text/html"},"base64":"/w=="}}}"#,
            &Rule::new(Fault::Raw(
                Raw::body(*b"\xff")
                    .status(502)
                    .header("content-type", "text/html"),
            )),
        );
        check(
            r#"{"what":{"echo":-1},"times":2,"skip":1,"effect":"after","probability":0.5,"seed":7,"probes":false}"#,
            &Rule::new(Fault::Echo(-1))
                .times(2)
                .skip(1)
                .after()
                .probability(0.5, 7)
                .probes(Probes::Excluded),
        );
    }

    #[test]
    fn mistakes_in_a_rule_are_named() {
        #[track_caller]
        fn check(json: &str, expect: &str) {
            let error = serde_json::from_str::<Rule>(json).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        }
        check(r#"{"what":"explode"}"#, "a fault is");
        check(r#"{"what":{"http_status":99}}"#, "from 200 to 599");
        check(r#"{"what":{"raw":{}}}"#, "either a body or base64");
        check(r#"{"what":{"raw":{"base64":"?"}}}"#, "base64 can't be read");
        check(r#"{"what":"hang","probes":"all"}"#, "probes is");
        check(
            r#"{"what":"hang","call":"probe"}"#,
            "unknown variant `probe`",
        );
        check(r#"{"what":"hang","page":-1}"#, "invalid value");
        check(r#"{"what":"hang","time":1}"#, "unknown field `time`");
    }
}
