//! The schemas in `docs/schema/` against the program, in both directions: what it accepts and what it writes validates, and what
//! a schema refuses it refuses too. Needs no broker and no network.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use convgroup_domain::all_groups::{List, Swept, decide_all};
use convgroup_domain::attempt::Attempt;
use convgroup_domain::code::{CodeTable, Verdict};
use convgroup_domain::decide::{NameEnd, RetryLimits, decide};
use convgroup_domain::encoding::Declared;
use convgroup_domain::message::{AllGroups, DeleteGroups, decode, decode_message};
use convgroup_domain::outcome::{self, Answer, OutcomeEvent, Status, Told};
use convgroup_domain::reply::Reply;
use convgroup_domain::request::{Clues, IdFrom, Request};
use convgroup_domain::topology::{Argument, Binding, Outcomes, Queue, ROUTING_KEY, Topology};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use serde_json::{Value, json};

const EVENT: &str = "event.schema.json";
const CLOUD_EVENT: &str = "event-cloudevent.schema.json";
const OUTCOME: &str = "outcome.schema.json";
const MANIFEST: &str = "manifest.schema.json";
const REPORT: &str = "report.schema.json";
const ASYNCAPI: &str = "asyncapi.json";

const STRUCTURED: &str = "application/cloudevents+json";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn folder() -> PathBuf {
    root().join("docs/schema")
}

#[track_caller]
fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

#[track_caller]
fn json_of(path: impl AsRef<Path>) -> Value {
    serde_json::from_str(&read(path)).unwrap()
}

/// A schema that is ready to judge. Formats count.
struct Schema {
    schemas: boon::Schemas,
    index: boon::SchemaIndex,
}

impl Schema {
    /// A file in `docs/schema/`, or a part of one: `FILE#/POINTER`.
    #[track_caller]
    fn of(file: &str) -> Self {
        Self::at(folder().join(file))
    }

    #[track_caller]
    fn at(path: impl AsRef<Path>) -> Self {
        let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
        compiler.enable_format_assertions();
        let path = path.as_ref().to_str().unwrap();
        let index = compiler.compile(path, &mut schemas).unwrap();
        Self { schemas, index }
    }

    fn accepts(&self, instance: &Value) -> bool {
        self.schemas.validate(instance, self.index).is_ok()
    }

    #[track_caller]
    fn check(&self, instance: &Value, what: &str) {
        let found = self.schemas.validate(instance, self.index);
        found.unwrap_or_else(|err| panic!("{what}: {instance}: {err:#}"));
    }
}

// --- the files

#[test]
fn every_schema_is_one_and_its_examples_validate() {
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.ends_with(".schema.json") {
            assert_eq!(name, ASYNCAPI);
            continue;
        }
        let text = json_of(folder().join(&name));
        assert_eq!(
            text["$schema"], "https://json-schema.org/draft/2020-12/schema",
            "{name}"
        );
        let schema = Schema::of(&name);
        let examples = text["examples"].as_array().unwrap();
        assert!(examples.len() > 1, "{name}");
        for example in examples {
            schema.check(example, &name);
        }
        files.insert(name);
    }
    assert_eq!(
        files,
        [EVENT, CLOUD_EVENT, OUTCOME, MANIFEST, REPORT]
            .map(str::to_owned)
            .into()
    );
}

#[test]
fn the_program_reads_the_examples() {
    let examples = |file: &str| {
        json_of(folder().join(file))["examples"]
            .as_array()
            .unwrap()
            .clone()
    };
    for example in examples(EVENT) {
        decode(example.to_string().as_bytes()).unwrap();
    }
    for example in examples(CLOUD_EVENT) {
        structured(example.to_string().as_bytes()).unwrap();
    }
    let mut statuses = BTreeSet::new();
    for example in examples(OUTCOME) {
        let event = OutcomeEvent::from_json(example.to_string().as_bytes()).unwrap();
        let again: Value = serde_json::from_slice(&event.to_json()).unwrap();
        assert_eq!(again, example, "the program writes what it reads");
        statuses.insert(event.data.status);
    }
    assert_eq!(statuses, Status::ALL.into());
}

// --- events

/// The program's verdict on a structured CloudEvent.
fn structured(body: &[u8]) -> Result<DeleteGroups, String> {
    let declared = Declared {
        content_type: Some(STRUCTURED),
        ..Declared::default()
    };
    let decoded = decode_message(body, &declared, AllGroups::Accepted);
    decoded.event.map_err(|malformed| malformed.to_string())
}

/// What a validator sees of a body. `None`: no JSON.
fn instance(body: &str) -> Option<Value> {
    // The program skips the mark, and never looks at a number that is too large for this reader.
    let body = body.trim_start_matches('\u{feff}').replace("1e999", "1e99");
    serde_json::from_str(&body).ok()
}

/// Who refuses an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    /// Nobody.
    No,
    /// The program and the schema.
    ByBoth,
    /// The program alone: no schema can say why.
    ByProgram,
}

#[test]
fn program_and_schema_judge_events_alike() {
    use Refused::{ByBoth, ByProgram, No};
    let schema = Schema::of(EVENT);
    let names = |count: usize| format!("[{}]", vec![r#""g""#; count].join(","));
    let with_names = |count| format!(r#"{{"From_Account":"u","GroupName":{}}}"#, names(count));
    let deep = |levels: usize| {
        let (open, close) = ("[".repeat(levels), "]".repeat(levels));
        format!(r#"{{"From_Account":"u","GroupName":["a"],"x":{open}{close}}}"#)
    };
    let long = format!(
        r#"{{"From_Account":"{}","AllGroups":true}}"#,
        "u".repeat(65_536)
    );
    let until =
        |text: &str| format!(r#"{{"From_Account":"u","AllGroups":true,"NotAfter":{text}}}"#);
    for (body, refused) in [
        (
            r#"{"From_Account":"user15","GroupName":["a","b"]}"#.to_owned(),
            No,
        ),
        (
            r#"{"From_Account":"u","GroupName":["b","a","b"]}"#.to_owned(),
            No,
        ),
        (
            r#"{"From_Account":" ","GroupName":["\u0000"],"x":{"y":[null]}}"#.to_owned(),
            No,
        ),
        (r#"{"From_Account":"u","AllGroups":true}"#.to_owned(), No),
        (with_names(1), No),
        (with_names(100), No),
        (deep(126), No),
        (until(r#""2026-12-01T00:00:00Z""#), No),
        (until(r#""2026-12-01t00:00:00.123456789z""#), No),
        (until(r#""2024-02-29T23:59:59-23:59""#), No),
        ("null".to_owned(), ByBoth),
        (r#"["u",["a"]]"#.to_owned(), ByBoth),
        ("{}".to_owned(), ByBoth),
        (r#"{"GroupName":["a"]}"#.to_owned(), ByBoth),
        (r#"{"From_Account":"u"}"#.to_owned(), ByBoth),
        (
            r#"{"From_Account":"","GroupName":["a"]}"#.to_owned(),
            ByBoth,
        ),
        (r#"{"From_Account":7,"GroupName":["a"]}"#.to_owned(), ByBoth),
        (
            r#"{"From_Account":null,"AllGroups":true}"#.to_owned(),
            ByBoth,
        ),
        (r#"{"From_Account":"u","GroupName":[]}"#.to_owned(), ByBoth),
        (
            r#"{"From_Account":"u","GroupName":["a",""]}"#.to_owned(),
            ByBoth,
        ),
        (r#"{"From_Account":"u","GroupName":[1]}"#.to_owned(), ByBoth),
        (r#"{"From_Account":"u","GroupName":"a"}"#.to_owned(), ByBoth),
        (
            r#"{"From_Account":"u","GroupName":null}"#.to_owned(),
            ByBoth,
        ),
        (with_names(101), ByBoth),
        (
            r#"{"From_Account":"u","AllGroups":false}"#.to_owned(),
            ByBoth,
        ),
        (
            r#"{"From_Account":"u","AllGroups":"true"}"#.to_owned(),
            ByBoth,
        ),
        (r#"{"From_Account":"u","AllGroups":1}"#.to_owned(), ByBoth),
        (
            r#"{"From_Account":"u","GroupName":["a"],"AllGroups":true}"#.to_owned(),
            ByBoth,
        ),
        (
            r#"{"From_Account":"u","GroupName":["a"],"AllGroups":false}"#.to_owned(),
            ByBoth,
        ),
        (until("null"), ByBoth),
        (until("1796083200"), ByBoth),
        (until(r#""""#), ByBoth),
        (until(r#""2026-12-01""#), ByBoth),
        (until(r#""2026-12-01 00:00:00Z""#), ByBoth),
        (until(r#""2026-12-01T00:00:00""#), ByBoth),
        (until(r#""2026-12-01T00:00Z""#), ByBoth),
        (until(r#""2026-12-01T00:00:00+0100""#), ByBoth),
        (until(r#""2026-12-01T00:00:00+24:00""#), ByBoth),
        (until(r#""2026-12-31T23:59:60Z""#), ByBoth),
        (until(r#""2026-02-29T00:00:00Z""#), ByBoth),
        (until(r#""2026-12-01T24:00:00Z""#), ByBoth),
        (until(r#""2026-12-01T00:00:00.Z""#), ByBoth),
        (until(r#""２０２６-12-01T00:00:00Z""#), ByBoth),
        (String::new(), ByProgram),
        (
            r#"{"From_Account":"u","GroupName":["a"]} x"#.to_owned(),
            ByProgram,
        ),
        (
            r#"{"From_Account":"u","From_Account":"u","GroupName":["a"]}"#.to_owned(),
            ByProgram,
        ),
        (
            r#"{"From_Account":"u","GroupName":["a"],"Group\u004eame":["b"]}"#.to_owned(),
            ByProgram,
        ),
        (
            r#"{"From_Account":"u","GroupName":["\ud83d"]}"#.to_owned(),
            ByProgram,
        ),
        (deep(128), ByProgram),
        (long, ByProgram),
    ] {
        let shown: String = body.chars().take(120).collect();
        let valid = instance(&body).map(|instance| schema.accepts(&instance));
        assert_eq!(decode(body.as_bytes()).is_ok(), refused == No, "{shown}");
        match refused {
            No => assert_eq!(valid, Some(true), "{shown}"),
            ByBoth => assert_eq!(valid, Some(false), "{shown}"),
            // What is no JSON is nothing to judge.
            ByProgram => assert_ne!(valid, Some(false), "{shown}"),
        }
    }
}

#[test]
fn program_and_schema_judge_envelopes_alike() {
    let schema = Schema::of(CLOUD_EVENT);
    let good = json!({
        "specversion": "1.0", "id": "e-1", "source": "/s", "type": "t", "time": "now", "x": 1,
        "data": {"From_Account": "u", "GroupName": ["a"]},
    });
    let kind = "datacontenttype";
    for (key, value, accepted) in [
        ("y", Some(json!([1])), true),
        ("id", Some(json!("é".repeat(300))), true),
        (kind, Some(json!("application/json")), true),
        (kind, Some(json!("Application/JSON; charset=utf-8")), true),
        (kind, Some(json!(" text/json ;x")), true),
        (kind, Some(json!("application/vnd.x+json")), true),
        (kind, Some(json!("a/b;c+json")), false),
        (kind, Some(json!("application/jsonl")), false),
        (kind, Some(json!("text/xml")), false),
        (kind, Some(json!("")), false),
        (kind, Some(json!(1)), false),
        (kind, Some(json!(null)), false),
        ("specversion", None, false),
        ("specversion", Some(json!("0.3")), false),
        ("specversion", Some(json!(1.0)), false),
        ("id", None, false),
        ("id", Some(json!("")), false),
        ("id", Some(json!(7)), false),
        ("source", None, false),
        ("source", Some(json!("")), false),
        ("type", None, false),
        ("type", Some(json!(null)), false),
        ("data", None, false),
        ("data", Some(json!([])), false),
        ("data", Some(json!("{}")), false),
        ("data", Some(json!({"From_Account": "u"})), false),
        (
            "data",
            Some(json!({"From_Account": "u", "AllGroups": true})),
            true,
        ),
        ("data_base64", Some(json!("e30=")), false),
        ("data_base64", Some(json!(null)), false),
    ] {
        let mut event = good.clone();
        let fields = event.as_object_mut().unwrap();
        match value {
            Some(value) => drop(fields.insert(key.to_owned(), value)),
            None => drop(fields.remove(key)),
        }
        assert_eq!(
            structured(event.to_string().as_bytes()).is_ok(),
            accepted,
            "{event}"
        );
        assert_eq!(schema.accepts(&event), accepted, "{event}");
    }
}

/// Any value for a field, often a right one; nothing where it is missing.
fn field(right: impl Strategy<Value = Value> + 'static) -> impl Strategy<Value = Option<Value>> {
    let any = prop_oneof![
        Just(json!(null)),
        Just(json!("")),
        Just(json!(true)),
        Just(json!(false)),
        Just(json!(7)),
        Just(json!([])),
        Just(json!({})),
    ];
    prop_oneof![12 => right.prop_map(Some), 1 => any.prop_map(Some), 6 => Just(None)]
}

fn any_event() -> impl Strategy<Value = Value> {
    let name = prop_oneof![20 => "[a-c]{1,3}", 1 => Just(String::new())];
    let names = proptest::collection::vec(name, 0..6).prop_map(|names| json!(names));
    let moment = "20[0-9]{2}-[01][0-9]-[0-3][0-9][Tt]([01][0-9]|2[0-4]):[0-5][0-9]:[0-6][0-9](\\.[0-9]{0,3})?([Zz]|[+-][0-2][0-9]:[0-6][0-9])?";
    let fields = (
        prop_oneof![9 => Just(Some(json!("u"))), 1 => field(Just(json!("v")))],
        field(names),
        prop_oneof![3 => Just(None), 1 => field(Just(json!(true)))],
        field(moment.prop_map(Value::from)),
    );
    fields.prop_map(|(user, names, all, not_after)| {
        let fields = [
            ("From_Account", user),
            ("GroupName", names),
            ("AllGroups", all),
            ("NotAfter", not_after),
        ];
        let there = fields
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?)));
        Value::Object(there.collect())
    })
}

#[test]
fn program_and_schema_judge_made_up_events_alike() {
    let (plain, wrapped) = (Schema::of(EVENT), Schema::of(CLOUD_EVENT));
    let (mut accepted, mut refused) = (0, 0);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = any_event();
    for _ in 0..2000 {
        let event = strategy.new_tree(&mut runner).unwrap().current();
        let ok = decode(event.to_string().as_bytes()).is_ok();
        assert_eq!(plain.accepts(&event), ok, "{event}");
        let event =
            json!({"specversion": "1.0", "id": "1", "source": "/", "type": "t", "data": event});
        assert_eq!(structured(event.to_string().as_bytes()).is_ok(), ok);
        assert_eq!(wrapped.accepts(&event), ok);
        *if ok { &mut accepted } else { &mut refused } += 1;
    }
    assert!(accepted > 200 && refused > 200, "{accepted} {refused}");
}

#[test]
fn what_the_fuzzer_starts_from_validates_where_it_can_be_read() {
    let (plain, wrapped) = (Schema::of(EVENT), Schema::of(CLOUD_EVENT));
    let (mut events, mut envelopes) = (0, 0);
    for entry in fs::read_dir(root().join("fuzz/seeds/event")).unwrap() {
        let path = entry.unwrap().path();
        let body = fs::read(&path).unwrap();
        let what = path.display().to_string();
        let instance = || instance(std::str::from_utf8(&body).unwrap()).unwrap();
        if decode(&body).is_ok() {
            plain.check(&instance(), &what);
            events += 1;
        }
        if structured(&body).is_ok() {
            wrapped.check(&instance(), &what);
            envelopes += 1;
        }
    }
    assert!(events > 5 && envelopes > 0, "{events} {envelopes}");
}

// --- the pages

/// The JSON objects on a page that begin like one of ours, with the line where each begins.
fn objects(page: &str) -> Vec<(usize, Value)> {
    let starts = ["{\"From_Account\"", "{\"specversion\""];
    let mut found = Vec::new();
    let mut rest = 0;
    while let Some(at) = starts
        .iter()
        .filter_map(|start| page[rest..].find(start))
        .min()
    {
        let at = rest + at;
        let mut values = serde_json::Deserializer::from_str(&page[at..]).into_iter::<Value>();
        rest = at + 1;
        // What is cut short or written in another language is no JSON.
        if let Some(Ok(value)) = values.next() {
            rest = at + values.byte_offset();
            found.push((page[..at].lines().count(), value));
        }
    }
    found
}

#[test]
fn what_a_page_shows_is_what_its_schema_says() {
    let schemas = [EVENT, CLOUD_EVENT, OUTCOME].map(Schema::of);
    let mut shown: BTreeMap<String, usize> = BTreeMap::new();
    let pages = fs::read_dir(root().join("docs")).unwrap();
    let pages = pages.map(|entry| entry.unwrap().path());
    let pages = pages.filter(|path| path.extension().is_some_and(|ending| ending == "md"));
    for path in pages.chain([root().join("README.md")]) {
        let name = path.file_name().unwrap().to_str().unwrap();
        // An id that is cut short stands for a whole one.
        let page = read(&path).replace("…\"", &format!("{}\"", "0".repeat(56)));
        for (line, object) in objects(&page) {
            let which = match object.get("type") {
                None => 0,
                Some(kind) if kind == outcome::TYPE => 2,
                Some(_) => 1,
            };
            schemas[which].check(&object, &format!("{name}:{line}"));
            *shown.entry(name.to_owned()).or_default() += 1;
        }
    }
    for page in ["README.md", "publishing.md", "requests.md"] {
        assert!(shown.contains_key(page), "{page} shows no event");
    }
}

// --- outcomes

const LIMITS: RetryLimits = RetryLimits {
    attempts_max: 3,
    tiers: 2,
};
const NOW_MS: i64 = 1_796_083_211_120;

/// How a name can end, one of each kind.
fn all_ends() -> Vec<NameEnd> {
    let overrides = BTreeMap::from([("50001".to_owned(), convgroup_domain::code::Class::Gone)]);
    let table = CodeTable::new(&overrides);
    let answer = |code| -> Verdict {
        table.classify(Reply::Answer {
            code,
            info: "text of the API".to_owned(),
        })
    };
    let failed = [
        answer(50004),
        answer(99_999),
        table.classify(Reply::Timeout),
        table.groups_recreated(),
    ];
    let mut ends = vec![
        NameEnd::Deleted(answer(0)),
        NameEnd::Gone(answer(51009)),
        NameEnd::Gone(answer(50001)),
        NameEnd::Rejected(answer(51011)),
        NameEnd::Throttled(answer(60007)),
        NameEnd::Interrupted,
        NameEnd::Expired,
    ];
    ends.extend(failed.map(NameEnd::Failed));
    ends
}

/// All lists of up to two ends.
fn lists_of_ends() -> Vec<Vec<NameEnd>> {
    let mut lists = vec![vec![]];
    let mut last = lists.clone();
    for _ in 0..2 {
        let longer = |list: &Vec<NameEnd>| -> Vec<Vec<NameEnd>> {
            let with = |end| [list.as_slice(), &[end]].concat();
            all_ends().into_iter().map(with).collect()
        };
        last = last.iter().flat_map(longer).collect();
        lists.extend(last.clone());
    }
    lists
}

fn named(count: usize) -> DeleteGroups {
    let names: Vec<String> = (0..count).map(|place| format!("n{place}")).collect();
    let body = json!({"From_Account": "user15", "GroupName": names});
    decode(body.to_string().as_bytes()).unwrap()
}

fn all_of_a_user() -> DeleteGroups {
    decode(br#"{"From_Account":"user15","AllGroups":true}"#).unwrap()
}

fn attempt(failures: u32) -> Attempt {
    Attempt {
        failures,
        first_seen_ms: 7,
    }
}

/// All answers that the program can give to requests of up to two groups, each with its event.
fn answers() -> Vec<(Answer, Option<DeleteGroups>, u32)> {
    let all = all_of_a_user();
    let mut answers = vec![
        (Answer::malformed(), None, 0),
        (Answer::purged(None), None, 0),
        (Answer::purged(Some(&all)), Some(all.clone()), 0),
        (Answer::purged(Some(&named(3))), Some(named(3)), 0),
    ];
    let lists = [List::Empty, List::Groups]
        .into_iter()
        .chain(all_ends().into_iter().map(List::Failed));
    let lists: Vec<List> = lists.collect();
    for ends in lists_of_ends() {
        for failures in [0, 2] {
            if !ends.is_empty() {
                let event = named(ends.len());
                let decided = decide(&event, &ends, attempt(failures), LIMITS);
                let answer = Answer::of(&ends, &decided);
                answers.extend(answer.map(|answer| (answer, Some(event), failures)));
            }
            for list in &lists {
                // A list that answers that nothing is there counts as empty.
                if matches!(list, List::Failed(end) if end.is_erased()) {
                    continue;
                }
                let swept = Swept {
                    ends: ends.clone(),
                    list: list.clone(),
                };
                let decided = decide_all(&all, &swept, attempt(failures), LIMITS);
                let answer = Answer::of_all(&swept, &decided);
                answers.extend(answer.map(|answer| (answer, Some(all.clone()), failures)));
            }
        }
    }
    answers
}

/// The outcome as a reader gets it.
fn outcome_of(answer: &Answer, event: Option<&DeleteGroups>, failures: u32, ids: bool) -> Value {
    let clues = Clues {
        message_id: Some("req-1"),
        redrives: Some(i64::from(failures)),
        ..Clues::default()
    };
    let request = Request::read(&clues, event);
    let found = ["work", "family"].map(str::to_owned);
    let told = Told {
        request: &request,
        attempt: attempt(failures),
        published_ms: (failures == 0).then_some(1_796_083_210_000),
        sdk_app_id: 1_400_000_000,
        now_ms: NOW_MS,
        ids: event.filter(|_| ids).map(|event| match event.names() {
            [] => (event.user(), &found[..]),
            names => (event.user(), names),
        }),
    };
    let json = OutcomeEvent::new(answer, told).to_json();
    serde_json::from_slice(&json).unwrap()
}

/// The values that the schema of outcomes lists there.
fn listed(pointer: &str) -> BTreeSet<String> {
    let schema = json_of(folder().join(OUTCOME));
    let values = schema.pointer(pointer).unwrap().as_array().unwrap();
    values
        .iter()
        .map(|value| value.as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn every_outcome_that_the_program_writes_validates() {
    let schema = Schema::of(OUTCOME);
    let mut seen: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut see = |what: &'static str, value: &Value| {
        let text = value.as_str().map(str::to_owned);
        seen.entry(what).or_default().extend(text);
    };
    for (answer, event, failures) in answers() {
        for ids in [false, true] {
            let outcome = outcome_of(&answer, event.as_ref(), failures, ids);
            schema.check(&outcome, "an outcome");
            let data = &outcome["data"];
            assert_eq!(data.get("user").is_some(), ids && event.is_some());
            see("status", &data["status"]);
            see("cause", &data["cause"]);
            for result in data["results"].as_array().unwrap() {
                see("outcome", &result["outcome"]);
                see("result's cause", &result["cause"]);
            }
        }
    }
    // No list of the schema says more than there is.
    for (what, pointer) in [
        ("status", "/$defs/data/properties/status/enum"),
        ("cause", "/$defs/data/properties/cause/enum"),
        ("outcome", "/$defs/result/properties/outcome/enum"),
        ("result's cause", "/$defs/result/properties/cause/enum"),
    ] {
        assert_eq!(seen[what], listed(pointer), "{what}");
    }
    let from = IdFrom::ALL.map(|from| from.label().to_owned());
    assert_eq!(
        listed("/$defs/request/properties/id_from/enum"),
        from.into()
    );
}

#[test]
fn the_largest_outcomes_validate() {
    let schema = Schema::of(OUTCOME);
    let ends = vec![all_ends().remove(3); 100];
    let event = named(100);
    let decided = decide(&event, &ends, attempt(0), LIMITS);
    let answer = Answer::of(&ends, &decided).unwrap();
    let id = "m".repeat(300);
    let clues = Clues {
        correlation_id: Some(&id),
        ..Clues::default()
    };
    let long = vec!["\u{1}".repeat(4000); 100];
    for ids in [None, Some(("user15", &long[..]))] {
        let told = Told {
            request: &Request::read(&clues, Some(&event)),
            attempt: attempt(0),
            published_ms: None,
            sdk_app_id: u64::MAX,
            now_ms: i64::MAX,
            ids,
        };
        let outcome: Value =
            serde_json::from_slice(&OutcomeEvent::new(&answer, told).to_json()).unwrap();
        schema.check(&outcome, "a large outcome");
        assert_eq!(outcome["data"].get("truncated").is_some(), ids.is_some());
    }
}

/// A change to a value: of its part at the pointer.
fn changed(value: &Value, pointer: &str, part: Option<Value>) -> Value {
    let mut value = value.clone();
    match part {
        Some(part) => {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            match value.pointer_mut(parent).unwrap() {
                Value::Object(fields) => drop(fields.insert(key.to_owned(), part)),
                parent => parent[key.parse::<usize>().unwrap()] = part,
            }
        }
        None => {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            let parent = value.pointer_mut(parent).unwrap();
            let gone = parent.as_object_mut().unwrap().remove(key);
            assert!(gone.is_some(), "there is no {pointer}");
        }
    }
    value
}

#[test]
fn a_changed_outcome_does_not_validate() {
    let schema = Schema::of(OUTCOME);
    let of = |ends: &[NameEnd], failures| {
        let event = named(ends.len());
        let decided = decide(&event, ends, attempt(failures), LIMITS);
        let answer = Answer::of(ends, &decided).unwrap();
        outcome_of(&answer, Some(&event), 0, false)
    };
    let kinds = all_ends();
    let [deleted, rejected, failed] = [0, 3, 7].map(|kind| kinds[kind].clone());
    let erased = of(&[deleted.clone()], 0);
    let mixed = of(&[deleted.clone(), rejected.clone()], 0);
    let partial = of(&[deleted, failed.clone()], 0);
    let dead = of(&[rejected], 0);
    let all = all_of_a_user();
    let sweep = |list| {
        let swept = Swept { ends: vec![], list };
        let decided = decide_all(&all, &swept, attempt(2), LIMITS);
        outcome_of(
            &Answer::of_all(&swept, &decided).unwrap(),
            Some(&all),
            0,
            false,
        )
    };
    let (none_left, no_list) = (sweep(List::Empty), sweep(List::Failed(failed)));
    let broken = outcome_of(&Answer::malformed(), None, 0, false);
    let purged = outcome_of(&Answer::purged(Some(&named(1))), Some(&named(1)), 0, false);

    for outcome in [
        &erased, &mixed, &partial, &dead, &none_left, &no_list, &broken, &purged,
    ] {
        schema.check(outcome, "as it was written");
        // Fields that come later.
        for pointer in ["/new", "/data/new", "/data/request/new"] {
            schema.check(&changed(outcome, pointer, Some(json!([1]))), pointer);
        }
        for pointer in [
            "/specversion",
            "/id",
            "/source",
            "/type",
            "/time",
            "/datacontenttype",
            "/data",
            "/data/request",
            "/data/request/id",
            "/data/request/id_from",
            "/data/request/round",
            "/data/request/published_at",
            "/data/status",
            "/data/groups",
            "/data/remaining",
            "/data/verified_at",
            "/data/results",
        ] {
            let cut = changed(outcome, pointer, None);
            assert!(!schema.accepts(&cut), "{pointer} is missing in {outcome}");
        }
        let own = outcome["data"]["status"].as_str().unwrap();
        for status in ["done", "Erased", ""] {
            let other = changed(outcome, "/data/status", Some(json!(status)));
            assert!(!schema.accepts(&other), "{own} became {status}");
        }
    }
    let statuses = |from: &Value, to: &[&str]| -> Vec<(Value, &str, Option<Value>)> {
        let one = |status: &&str| (from.clone(), "/data/status", Some(json!(status)));
        to.iter().map(one).collect()
    };
    let mut table = vec![
        (erased.clone(), "/specversion", Some(json!("1.1"))),
        (erased.clone(), "/id", Some(json!("req-1"))),
        (erased.clone(), "/source", Some(json!("/other/1"))),
        (
            erased.clone(),
            "/type",
            Some(json!("convgroup.request.settled.v2")),
        ),
        (erased.clone(), "/time", Some(json!("2026-11-25 18:20:11Z"))),
        (erased.clone(), "/time", Some(json!("2026-11-31T18:20:11Z"))),
        (erased.clone(), "/time", Some(json!(1_796_083_211))),
        (
            erased.clone(),
            "/datacontenttype",
            Some(json!("text/plain")),
        ),
        (erased.clone(), "/data/request/id", Some(json!(""))),
        (
            erased.clone(),
            "/data/request/id",
            Some(json!("m".repeat(201))),
        ),
        (
            erased.clone(),
            "/data/request/id_from",
            Some(json!("header")),
        ),
        (erased.clone(), "/data/request/round", Some(json!(-1))),
        (erased.clone(), "/data/request/round", Some(json!(0.5))),
        (erased.clone(), "/data/request/published_at", Some(json!(0))),
        (erased.clone(), "/data/groups", Some(json!(-1))),
        (erased.clone(), "/data/remaining", Some(json!(1))),
        (erased.clone(), "/data/remaining", Some(json!(null))),
        (erased.clone(), "/data/verified_at", Some(json!(""))),
        (erased.clone(), "/data/results", Some(json!({}))),
        (erased.clone(), "/data/results/0", Some(json!("deleted"))),
        (erased.clone(), "/data/results/0/index", None),
        (erased.clone(), "/data/results/0/index", Some(json!("0"))),
        (erased.clone(), "/data/results/0/outcome", None),
        (
            erased.clone(),
            "/data/results/0/outcome",
            Some(json!("erased")),
        ),
        (
            erased.clone(),
            "/data/results/0/outcome",
            Some(json!("dead_lettered")),
        ),
        (erased.clone(), "/data/results/0/code", None),
        (erased.clone(), "/data/results/0/code", Some(json!(0))),
        (
            erased.clone(),
            "/data/results/0/cause",
            Some(json!("rejected")),
        ),
        (erased.clone(), "/data/results/0/group", Some(json!(""))),
        (erased.clone(), "/data/cause", Some(json!("expired"))),
        (erased.clone(), "/data/code", Some(json!("50004"))),
        (erased.clone(), "/data/user", Some(json!(""))),
        (erased.clone(), "/data/truncated", Some(json!(false))),
        (partial.clone(), "/data/remaining", Some(json!(0))),
        (partial.clone(), "/data/results", Some(json!([]))),
        (
            partial.clone(),
            "/data/verified_at",
            Some(json!("2026-11-25T18:20:11.120Z")),
        ),
        (dead.clone(), "/data/results", Some(json!([]))),
        (dead.clone(), "/data/results/0/cause", None),
        (dead.clone(), "/data/results/0/cause", Some(json!("tired"))),
        (purged.clone(), "/data/results/0/code", Some(json!("0"))),
        (no_list.clone(), "/data/cause", None),
        (no_list.clone(), "/data/cause", Some(json!("malformed"))),
        (broken.clone(), "/data/groups", Some(json!(1))),
        (
            broken.clone(),
            "/data/results",
            Some(erased["data"]["results"].clone()),
        ),
    ];
    table.extend(statuses(
        &erased,
        &["partial", "failed", "mixed", "malformed"],
    ));
    table.extend(statuses(
        &partial,
        &["erased", "failed", "mixed", "malformed"],
    ));
    table.extend(statuses(
        &mixed,
        &["partial", "erased", "failed", "malformed"],
    ));
    table.extend(statuses(
        &dead,
        &["partial", "erased", "mixed", "malformed"],
    ));
    table.extend(statuses(
        &none_left,
        &["partial", "failed", "mixed", "malformed"],
    ));
    table.extend(statuses(&no_list, &["partial", "erased", "mixed"]));
    for (outcome, pointer, part) in table {
        let shown = format!("{pointer} became {part:?} in {outcome}");
        assert!(
            !schema.accepts(&changed(&outcome, pointer, part)),
            "{shown}"
        );
    }
}

// --- manifest and report

#[test]
fn a_changed_line_of_a_manifest_or_a_report_does_not_validate() {
    let first = |file: &str, place: usize| json_of(folder().join(file))["examples"][place].clone();
    let (asked, closed, open) = (first(MANIFEST, 0), first(REPORT, 0), first(REPORT, 2));
    let end = json!("2026-11-25T18:20:11.120Z");
    for (file, line, pointer, part) in [
        (MANIFEST, &asked, "/id", None),
        (MANIFEST, &asked, "/id", Some(json!(""))),
        (MANIFEST, &asked, "/groups", None),
        (MANIFEST, &asked, "/groups", Some(json!(-1))),
        (MANIFEST, &asked, "/groups", Some(json!(101))),
        (MANIFEST, &asked, "/groups", Some(json!("All"))),
        (MANIFEST, &asked, "/sha256", None),
        (MANIFEST, &asked, "/sha256", Some(json!("ABC"))),
        (MANIFEST, &asked, "/user_sha256", Some(json!("user15"))),
        (REPORT, &closed, "/id", None),
        (REPORT, &closed, "/status", None),
        (REPORT, &closed, "/status", Some(json!("done"))),
        (REPORT, &closed, "/status", Some(json!("erased"))),
        (REPORT, &closed, "/status", Some(json!("open"))),
        (REPORT, &closed, "/status", Some(json!("unknown"))),
        (REPORT, &closed, "/results", None),
        (REPORT, &closed, "/results/0/index", None),
        (REPORT, &closed, "/results/0/outcome", Some(json!("erased"))),
        (REPORT, &closed, "/rounds", None),
        (REPORT, &closed, "/rounds", Some(json!(0))),
        (REPORT, &closed, "/closed_at", None),
        (REPORT, &closed, "/closed_at", Some(json!(null))),
        (REPORT, &closed, "/closed_at", Some(json!("yesterday"))),
        (REPORT, &open, "/closed_at", Some(end)),
        (REPORT, &open, "/status", Some(json!("unknown"))),
    ] {
        let schema = Schema::of(file);
        schema.check(line, "as it stands there");
        let shown = format!("{file}: {pointer} became {part:?}");
        assert!(!schema.accepts(&changed(line, pointer, part)), "{shown}");
    }
}

// --- AsyncAPI

#[test]
fn the_asyncapi_document_is_one() {
    let document = json_of(folder().join(ASYNCAPI));
    Schema::at(root().join("tests/asyncapi/3.0.0.json")).check(&document, ASYNCAPI);
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let wrong = changed(
        &document,
        "/channels/requests/bindings/amqp/exchange/type",
        Some(json!("x")),
    );
    assert!(!Schema::at(root().join("tests/asyncapi/3.0.0.json")).accepts(&wrong));
}

/// All references in a document, each with where it stands.
fn references(value: &Value, at: &str, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(target) if key == "$ref" => {
                        found.push((at.to_owned(), target.clone()));
                    }
                    value => references(value, &format!("{at}/{key}"), found),
                }
            }
        }
        Value::Array(values) => {
            for (place, value) in values.iter().enumerate() {
                references(value, &format!("{at}/{place}"), found);
            }
        }
        _ => (),
    }
}

#[test]
fn the_asyncapi_document_refers_to_what_there_is() {
    let document = json_of(folder().join(ASYNCAPI));
    let mut found = Vec::new();
    references(&document, "", &mut found);
    assert!(!found.is_empty());
    for (at, target) in &found {
        let there = match target.strip_prefix('#') {
            Some(pointer) => document.pointer(pointer).is_some(),
            None => folder().join(target).is_file(),
        };
        assert!(there, "{at}: there is no {target}");
    }
}

#[test]
fn the_examples_of_the_asyncapi_document_validate() {
    let document = json_of(folder().join(ASYNCAPI));
    for (name, message) in document["components"]["messages"].as_object().unwrap() {
        let payload = Schema::of(message["payload"]["$ref"].as_str().unwrap());
        let headers = match message["headers"]["$ref"].as_str() {
            Some(target) => Schema::of(&format!("{ASYNCAPI}{target}")),
            None => Schema::of(&format!("{ASYNCAPI}#/components/messages/{name}/headers")),
        };
        let examples = message["examples"].as_array().unwrap();
        assert!(!examples.is_empty(), "{name}");
        for example in examples {
            payload.check(&example["payload"], name);
            if let Some(example) = example.get("headers") {
                headers.check(example, name);
            }
        }
    }
}

/// The topology of the defaults, with answers.
fn topology() -> Topology {
    let defaults: toml::Table = read("config/default.toml").parse().unwrap();
    let text = |section: &str, key: &str| defaults[section][key].as_str().unwrap().to_owned();
    let duration = |text: &str| humantime::parse_duration(text).unwrap();
    let tiers = defaults["retry"]["tiers"].as_array().unwrap().iter();
    let tiers: Vec<_> = tiers.map(|tier| duration(tier.as_str().unwrap())).collect();
    let outcomes = Outcomes::new(
        &text("outcomes", "exchange"),
        &text("outcomes", "ledger"),
        duration(&text("outcomes", "ledger_max_age")),
    );
    Topology::new(&text("amqp", "exchange"), &text("amqp", "queue"), &tiers)
        .with_outcomes(Some(outcomes))
}

fn arguments(queue: &Queue) -> Value {
    let value = |argument: &Argument| match argument {
        Argument::Text(text) => json!(text),
        Argument::Number(number) => json!(number),
        Argument::Bool(flag) => json!(flag),
    };
    let named = queue.arguments.iter();
    Value::Object(
        named
            .map(|(name, argument)| ((*name).to_owned(), value(argument)))
            .collect(),
    )
}

#[test]
fn the_asyncapi_document_names_what_the_program_declares() {
    let document = json_of(folder().join(ASYNCAPI));
    let channel = |name: &str| document["channels"][name].clone();
    let topology = topology();
    let bindings: Vec<Binding<'_>> = topology.bindings().collect();

    let exchanges: Vec<_> = topology.exchanges().collect();
    for (exchange, name) in exchanges.iter().zip(["requests", "outcomes"]) {
        let expect = json!({"name": exchange.name, "type": exchange.kind.label(), "durable": true, "autoDelete": false});
        assert_eq!(channel(name)["bindings"]["amqp"]["exchange"], expect);
    }
    assert_eq!(exchanges.len(), 2);
    for (queue, name) in [
        (&topology.main, "main"),
        (topology.ledger().unwrap(), "ledger"),
    ] {
        let channel = channel(name);
        let expect =
            json!({"name": queue.name, "durable": true, "exclusive": false, "autoDelete": false});
        assert_eq!(channel["address"], queue.name);
        assert_eq!(channel["bindings"]["amqp"]["queue"], expect);
        assert_eq!(channel["x-arguments"], arguments(queue));
        let bound = bindings
            .iter()
            .filter(|binding| binding.queue == queue.name);
        let bound = bound.map(|it| json!({"exchange": it.exchange, "routingKey": it.routing_key}));
        assert_eq!(channel["x-bindings"], Value::Array(bound.collect()));
    }

    assert_eq!(channel("requests")["address"], ROUTING_KEY);
    let outcomes = channel("outcomes");
    let statuses = outcomes["parameters"]["status"]["enum"].as_array().unwrap();
    assert_eq!(*statuses, Status::ALL.map(|status| json!(status.label())));
    let address = outcomes["address"].as_str().unwrap();
    for app in outcomes["parameters"]["app"]["examples"]
        .as_array()
        .unwrap()
    {
        let app = app.as_str().unwrap();
        let key = address.replace("{status}", "mixed").replace("{app}", app);
        assert_eq!(outcome::routing_key(Status::Mixed, Some(app)), key);
    }
    let none = outcomes["parameters"]["app"]["default"].as_str().unwrap();
    assert_eq!(
        outcome::routing_key(Status::Erased, None),
        format!("erased.{none}")
    );

    let message = &document["components"]["messages"]["outcome"];
    assert_eq!(message["contentType"], outcome::CONTENT_TYPE);
    assert_eq!(message["bindings"]["amqp"]["messageType"], outcome::TYPE);
    let properties = &message["x-properties"];
    assert_eq!(properties["type"], outcome::TYPE);
    assert_eq!(properties["app_id"], outcome::APP_ID);
    assert_eq!(properties["content_type"], outcome::CONTENT_TYPE);
}
