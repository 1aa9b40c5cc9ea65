//! Requests, alone and in an envelope of CloudEvents.
use std::fs;

use convgroup_domain::encoding::Declared;
use convgroup_domain::message::{AllGroups, DeleteGroups, decode, decode_message};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use super::{CLOUD_EVENT, EVENT, Schema, changed, examples, root};

/// The program's verdict on a structured CloudEvent.
fn structured(body: &[u8]) -> Result<DeleteGroups, String> {
    let declared = Declared {
        content_type: Some("application/cloudevents+json"),
        ..Declared::default()
    };
    let decoded = decode_message(body, &declared, AllGroups::Accepted);
    decoded.event.map_err(|malformed| malformed.to_string())
}

/// What a validator sees of a body; nothing where it is no JSON.
fn instance(body: &str) -> Option<Value> {
    // The program skips the mark, and never looks at a number that is too large for this reader.
    let body = body.trim_start_matches('\u{feff}').replace("1e999", "1e99");
    serde_json::from_str(&body).ok()
}

/// Events that are accepted.
const ACCEPTED: &[&str] = &[
    r#"{"From_Account":"user15","GroupName":["a","b"]}"#,
    r#"{"From_Account":"u","GroupName":["b","a","b"]}"#,
    r#"{"From_Account":" ","GroupName":["\u0000"],"x":{"y":[null]}}"#,
    r#"{"From_Account":"u","AllGroups":true}"#,
];

/// Events that program and schema refuse.
const REFUSED: &[&str] = &[
    "null",
    r#"["u",["a"]]"#,
    "{}",
    r#"{"GroupName":["a"]}"#,
    r#"{"From_Account":"u"}"#,
    r#"{"From_Account":"","GroupName":["a"]}"#,
    r#"{"From_Account":7,"GroupName":["a"]}"#,
    r#"{"From_Account":null,"AllGroups":true}"#,
    r#"{"From_Account":"u","GroupName":[]}"#,
    r#"{"From_Account":"u","GroupName":["a",""]}"#,
    r#"{"From_Account":"u","GroupName":[1]}"#,
    r#"{"From_Account":"u","GroupName":"a"}"#,
    r#"{"From_Account":"u","GroupName":null}"#,
    r#"{"From_Account":"u","AllGroups":false}"#,
    r#"{"From_Account":"u","AllGroups":"true"}"#,
    r#"{"From_Account":"u","AllGroups":1}"#,
    r#"{"From_Account":"u","GroupName":["a"],"AllGroups":true}"#,
    r#"{"From_Account":"u","GroupName":["a"],"AllGroups":false}"#,
];

/// Bodies that the program refuses for a reason that no schema can say.
const BEYOND_A_SCHEMA: &[&str] = &[
    "",
    r#"{"From_Account":"u","GroupName":["a"]} x"#,
    r#"{"From_Account":"u","From_Account":"u","GroupName":["a"]}"#,
    r#"{"From_Account":"u","GroupName":["a"],"Group\u004eame":["b"]}"#,
    r#"{"From_Account":"u","GroupName":["\ud83d"]}"#,
];

/// Values of `NotAfter`, and whether they are one.
const MOMENTS: &[(&str, bool)] = &[
    (r#""2026-12-01T00:00:00Z""#, true),
    (r#""2026-12-01t00:00:00.123456789z""#, true),
    (r#""2024-02-29T23:59:59-23:59""#, true),
    ("null", false),
    ("1796083200", false),
    (r#""""#, false),
    (r#""2026-12-01""#, false),
    (r#""2026-12-01 00:00:00Z""#, false),
    (r#""2026-12-01T00:00:00""#, false),
    (r#""2026-12-01T00:00Z""#, false),
    (r#""2026-12-01T00:00:00+0100""#, false),
    (r#""2026-12-01T00:00:00+24:00""#, false),
    (r#""2026-12-31T23:59:60Z""#, false),
    (r#""2026-02-29T00:00:00Z""#, false),
    (r#""2026-12-01T24:00:00Z""#, false),
    (r#""2026-12-01T00:00:00.Z""#, false),
    (r#""２０２６-12-01T00:00:00Z""#, false),
];

fn names(count: usize) -> String {
    let names = vec![r#""g""#; count].join(",");
    format!(r#"{{"From_Account":"u","GroupName":[{names}]}}"#)
}

fn nested(levels: usize) -> String {
    let (open, close) = ("[".repeat(levels), "]".repeat(levels));
    format!(r#"{{"From_Account":"u","GroupName":["a"],"x":{open}{close}}}"#)
}

#[test]
fn program_and_schema_judge_events_alike() {
    let schema = Schema::of(EVENT);
    let check = |body: &str, accepted: bool| {
        let shown: String = body.chars().take(120).collect();
        let valid = schema.accepts(&instance(body).unwrap());
        let decoded = decode(body.as_bytes()).is_ok();
        assert_eq!((decoded, valid), (accepted, accepted), "{shown}");
    };
    for body in ACCEPTED {
        check(body, true);
    }
    for body in REFUSED {
        check(body, false);
    }
    for (moment, accepted) in MOMENTS {
        let body = format!(r#"{{"From_Account":"u","AllGroups":true,"NotAfter":{moment}}}"#);
        check(&body, *accepted);
    }
    for (count, accepted) in [(1, true), (100, true), (101, false)] {
        check(&names(count), accepted);
    }
    check(&nested(126), true);
    let long = "u".repeat(65_536);
    let long = format!(r#"{{"From_Account":"{long}","AllGroups":true}}"#);
    let beyond = BEYOND_A_SCHEMA.iter().map(|body| (*body).to_owned());
    for body in beyond.chain([nested(128), long]) {
        assert!(decode(body.as_bytes()).is_err());
        // What is no JSON is nothing to judge.
        assert!(instance(&body).is_none_or(|instance| schema.accepts(&instance)));
    }
}

/// Changes to a good envelope, and whether it is one afterwards.
const ENVELOPES: &[(&str, bool)] = &[
    ("/y [1]", true),
    ("/time 1", true),
    (r#"/datacontenttype "application/json""#, true),
    (
        r#"/datacontenttype "Application/JSON; charset=utf-8""#,
        true,
    ),
    (r#"/datacontenttype " text/json ;x""#, true),
    (r#"/datacontenttype "application/vnd.x+json""#, true),
    (r#"/datacontenttype "a/b;c+json""#, false),
    (r#"/datacontenttype "application/jsonl""#, false),
    (r#"/datacontenttype "text/xml""#, false),
    (r#"/datacontenttype """#, false),
    ("/datacontenttype 1", false),
    ("/datacontenttype null", false),
    ("/specversion -", false),
    (r#"/specversion "0.3""#, false),
    ("/specversion 1.0", false),
    ("/id -", false),
    (r#"/id """#, false),
    ("/id 7", false),
    ("/source -", false),
    (r#"/source """#, false),
    ("/type -", false),
    ("/type null", false),
    ("/data -", false),
    ("/data []", false),
    (r#"/data "{}""#, false),
    (r#"/data {"From_Account":"u"}"#, false),
    (r#"/data {"From_Account":"u","AllGroups":true}"#, true),
    (r#"/data_base64 "e30=""#, false),
    ("/data_base64 null", false),
];

fn envelope(data: &Value) -> Value {
    json!({"specversion": "1.0", "id": "e-1", "source": "/s", "type": "t", "data": data})
}

#[test]
fn program_and_schema_judge_envelopes_alike() {
    let schema = Schema::of(CLOUD_EVENT);
    let good = envelope(&json!({"From_Account": "u", "GroupName": ["a"]}));
    for (change, accepted) in ENVELOPES {
        let event = changed(&good, change);
        let decoded = structured(event.to_string().as_bytes()).is_ok();
        let found = (decoded, schema.accepts(&event));
        assert_eq!(found, (*accepted, *accepted), "{change}");
    }
}

/// Any value for a field, often a right one; nothing where it is missing.
fn field(right: impl Strategy<Value = Value> + 'static) -> impl Strategy<Value = Option<Value>> {
    let any = ["null", "\"\"", "true", "false", "7", "[]", "{}"];
    let any =
        proptest::sample::select(any.to_vec()).prop_map(|text| serde_json::from_str(text).ok());
    prop_oneof![12 => right.prop_map(Some), 1 => any, 6 => Just(None)]
}

fn any_event() -> impl Strategy<Value = Value> {
    let name = prop_oneof![20 => "[a-c]{1,3}", 1 => Just(String::new())];
    let names = proptest::collection::vec(name, 0..6).prop_map(Value::from);
    let date = "20[0-9]{2}-[01][0-9]-[0-3][0-9]";
    let time = "([01][0-9]|2[0-4]):[0-5][0-9]:[0-6][0-9](\\.[0-9]{0,3})?";
    let offset = "([Zz]|[+-][0-2][0-9]:[0-6][0-9])?";
    let moment = (date, "[Tt]", time, offset);
    let moment = moment.prop_map(|(date, t, time, offset)| json!(date + &t + &time + &offset));
    let fields = (
        prop_oneof![9 => Just(Some(json!("u"))), 1 => field(Just(json!("v")))],
        field(names),
        prop_oneof![3 => Just(None), 1 => field(Just(json!(true)))],
        field(moment),
    );
    fields.prop_map(|(user, names, all, not_after)| {
        let fields = [
            ("From_Account", user),
            ("GroupName", names),
            ("AllGroups", all),
            ("NotAfter", not_after),
        ];
        let there = fields.into_iter();
        let there = there.filter_map(|(key, value)| Some((key.to_owned(), value?)));
        Value::Object(there.collect())
    })
}

#[test]
fn program_and_schema_judge_made_up_events_alike() {
    let (plain, wrapped) = (Schema::of(EVENT), Schema::of(CLOUD_EVENT));
    let (mut runner, strategy) = (TestRunner::deterministic(), any_event());
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..2000 {
        let event = strategy.new_tree(&mut runner).unwrap().current();
        let decoded = decode(event.to_string().as_bytes()).is_ok();
        assert_eq!(plain.accepts(&event), decoded, "{event}");
        let event = envelope(&event);
        assert_eq!(structured(event.to_string().as_bytes()).is_ok(), decoded);
        assert_eq!(wrapped.accepts(&event), decoded);
        *if decoded { &mut accepted } else { &mut refused } += 1;
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

#[test]
fn the_program_reads_the_examples() {
    for example in examples(EVENT) {
        decode(example.to_string().as_bytes()).unwrap();
    }
    for example in examples(CLOUD_EVENT) {
        structured(example.to_string().as_bytes()).unwrap();
    }
}
