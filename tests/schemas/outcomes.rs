//! Outcomes: all that the program can write, and what it never does.
use std::collections::{BTreeMap, BTreeSet};

use convgroup_domain::all_groups::{List, Swept, decide_all};
use convgroup_domain::attempt::Attempt;
use convgroup_domain::code::{Class, CodeTable, Verdict};
use convgroup_domain::decide::{NameEnd, RetryLimits, decide};
use convgroup_domain::message::{DeleteGroups, decode};
use convgroup_domain::outcome::{Answer, OutcomeEvent, Status, Told};
use convgroup_domain::reply::Reply;
use convgroup_domain::request::{Clues, IdFrom, Request};
use serde_json::{Value, json};

use super::{OUTCOME, Schema, changed, document, examples};

const LIMITS: RetryLimits = RetryLimits {
    attempts_max: 3,
    tiers: 2,
};

/// How a name can end, as one letter.
const ENDS: &str = "dgGrtiefuwR";

fn end(letter: char) -> NameEnd {
    let overrides = BTreeMap::from([("50001".to_owned(), Class::Gone)]);
    let table = CodeTable::new(&overrides);
    let answer = |code| -> Verdict {
        let info = "text of the API".to_owned();
        table.classify(Reply::Answer { code, info })
    };
    match letter {
        'd' => NameEnd::Deleted(answer(0)),
        'g' => NameEnd::Gone(answer(51009)),
        'G' => NameEnd::Gone(answer(50001)),
        'r' => NameEnd::Rejected(answer(51011)),
        't' => NameEnd::Throttled(answer(60007)),
        'i' => NameEnd::Interrupted,
        'e' => NameEnd::Expired,
        'f' => NameEnd::Failed(answer(50004)),
        'u' => NameEnd::Failed(answer(99_999)),
        'w' => NameEnd::Failed(table.classify(Reply::Timeout)),
        'R' => NameEnd::Failed(table.groups_recreated()),
        other => panic!("no such end: {other}"),
    }
}

fn ends(letters: &str) -> Vec<NameEnd> {
    letters.chars().map(end).collect()
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

/// An answer, and the event that it answers, where one could be read.
type Answered = (Answer, Option<DeleteGroups>);

/// What is told of a request whose names ended like this; nothing where none ended.
fn of_names(letters: &str, failures: u32) -> Option<Answered> {
    let (event, ends) = (named(letters.len()), ends(letters));
    let decided = decide(&event, &ends, attempt(failures), LIMITS);
    Some((Answer::of(&ends, &decided)?, Some(event)))
}

/// The same of one that means all groups.
fn of_sweep(letters: &str, list: List, failures: u32) -> Option<Answered> {
    let (event, ends) = (all_of_a_user(), ends(letters));
    let swept = Swept { ends, list };
    let decided = decide_all(&event, &swept, attempt(failures), LIMITS);
    Some((Answer::of_all(&swept, &decided)?, Some(event)))
}

fn purged(event: Option<DeleteGroups>) -> Answered {
    (Answer::purged(event.as_ref()), event)
}

/// The outcome as a reader gets it.
fn written((answer, event): &Answered, failures: u32, with_ids: bool) -> Value {
    let clues = Clues {
        message_id: Some("req-1"),
        redrives: Some(i64::from(failures)),
        ..Clues::default()
    };
    let found = ["work", "family"].map(str::to_owned);
    let ids = |event: &'_ DeleteGroups| -> (String, Vec<String>) {
        let names = if event.names().is_empty() {
            &found[..]
        } else {
            event.names()
        };
        (event.user().to_owned(), names.to_vec())
    };
    let ids = event.as_ref().filter(|_| with_ids).map(ids);
    let told = Told {
        request: &Request::read(&clues, event.as_ref()),
        attempt: attempt(failures),
        published_ms: (failures == 0).then_some(1_796_083_210_000),
        sdk_app_id: 1_400_000_000,
        now_ms: 1_796_083_211_120,
        ids: ids
            .as_ref()
            .map(|(user, names)| (user.as_str(), &names[..])),
    };
    serde_json::from_slice(&OutcomeEvent::new(answer, told).to_json()).unwrap()
}

/// All answers to requests of up to two groups, each with its counted failures.
fn all_answers() -> Vec<(Answered, u32)> {
    let one = || ENDS.chars().map(String::from);
    let two = one().flat_map(|first| one().map(move |second| first.clone() + &second));
    let mut answers = vec![
        ((Answer::malformed(), None), 0),
        (purged(None), 0),
        (purged(Some(named(2))), 0),
        (purged(Some(all_of_a_user())), 0),
    ];
    for letters in [String::new()].into_iter().chain(one()).chain(two) {
        for failures in [0, 2] {
            if !letters.is_empty() {
                answers.extend(of_names(&letters, failures).map(|it| (it, failures)));
            }
            // A list that answers that nothing is there counts as empty.
            let failed = ends(ENDS).into_iter().filter(|end| !end.is_erased());
            for list in [List::Empty, List::Groups]
                .into_iter()
                .chain(failed.map(List::Failed))
            {
                answers.extend(of_sweep(&letters, list, failures).map(|it| (it, failures)));
            }
        }
    }
    answers
}

/// The values that the schema lists there.
fn listed(pointer: &str) -> BTreeSet<String> {
    let schema = document(OUTCOME);
    let values = schema.pointer(pointer).unwrap().as_array().unwrap();
    let texts = values
        .iter()
        .map(|value| value.as_str().unwrap().to_owned());
    texts.collect()
}

#[test]
fn every_outcome_that_the_program_writes_validates() {
    let schema = Schema::of(OUTCOME);
    let mut seen: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut see = |what: &'static str, value: &Value| {
        let text = value.as_str().map(str::to_owned);
        seen.entry(what).or_default().extend(text);
    };
    for (answered, failures) in all_answers() {
        for with_ids in [false, true] {
            let outcome = written(&answered, failures, with_ids);
            schema.check(&outcome, "an outcome");
            let data = &outcome["data"];
            let has_user = with_ids && answered.1.is_some();
            assert_eq!(data.get("user").is_some(), has_user);
            see("data/properties/status", &data["status"]);
            see("data/properties/cause", &data["cause"]);
            for result in data["results"].as_array().unwrap() {
                see("result/properties/outcome", &result["outcome"]);
                see("result/properties/cause", &result["cause"]);
            }
        }
    }
    // No list of the schema says more than there is.
    for (what, seen) in seen {
        assert_eq!(seen, listed(&format!("/$defs/{what}/enum")), "{what}");
    }
    let from = IdFrom::ALL.map(|from| from.label().to_owned());
    let told = listed("/$defs/request/properties/id_from/enum");
    assert_eq!(told, from.into());
}

#[test]
fn the_largest_outcomes_validate() {
    let schema = Schema::of(OUTCOME);
    let (answer, event) = of_names(&"r".repeat(100), 0).unwrap();
    let id = "m".repeat(300);
    let clues = Clues {
        correlation_id: Some(&id),
        ..Clues::default()
    };
    let long = vec!["\u{1}".repeat(4000); 100];
    for ids in [None, Some(("user15", &long[..]))] {
        let told = Told {
            request: &Request::read(&clues, event.as_ref()),
            attempt: attempt(0),
            published_ms: None,
            sdk_app_id: u64::MAX,
            now_ms: i64::MAX,
            ids,
        };
        let json = OutcomeEvent::new(&answer, told).to_json();
        let outcome: Value = serde_json::from_slice(&json).unwrap();
        schema.check(&outcome, "a large outcome");
        let truncated = outcome["data"].get("truncated").is_some();
        assert_eq!(truncated, ids.is_some());
    }
}

/// One outcome of each kind, by its name.
fn kinds() -> BTreeMap<&'static str, Value> {
    let failed_list = List::Failed(end('f'));
    let answers = [
        ("erased", of_names("d", 0)),
        ("partial", of_names("df", 0)),
        ("mixed", of_names("dr", 0)),
        ("dead", of_names("r", 0)),
        ("no-groups", of_sweep("", List::Empty, 0)),
        ("no-list", of_sweep("", failed_list, 2)),
        ("broken", Some((Answer::malformed(), None))),
        ("purged", Some(purged(Some(named(1))))),
    ];
    let written = |(kind, answered): (_, Option<Answered>)| {
        let answered = answered.expect("a name ended");
        (kind, written(&answered, 0, false))
    };
    answers.into_iter().map(written).collect()
}

/// What no outcome can do without.
const REQUIRED: &[&str] = &[
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
];

#[test]
fn an_outcome_may_have_more_fields_and_no_fewer() {
    let schema = Schema::of(OUTCOME);
    for (kind, outcome) in kinds() {
        schema.check(&outcome, kind);
        for more in ["/new [1]", "/data/new [1]", "/data/request/new [1]"] {
            schema.check(&changed(&outcome, more), kind);
        }
        for pointer in REQUIRED {
            let cut = changed(&outcome, &format!("{pointer} -"));
            assert!(!schema.accepts(&cut), "{kind} without {pointer}");
        }
    }
}

/// The statuses that an outcome of each kind can have, its own among them.
const STATUSES: &[(&str, &[&str])] = &[
    ("erased", &["erased"]),
    ("partial", &["partial"]),
    ("mixed", &["mixed"]),
    ("dead", &["failed"]),
    ("no-groups", &["erased"]),
    ("no-list", &["failed"]),
    ("broken", &["malformed"]),
    ("purged", &["failed"]),
];

#[test]
fn a_status_fits_what_it_is_the_status_of() {
    let (schema, kinds) = (Schema::of(OUTCOME), kinds());
    for (kind, statuses) in STATUSES {
        let of = |status: &str| changed(&kinds[kind], &format!("/data/status \"{status}\""));
        let all = Status::ALL.map(Status::label);
        let fitting: BTreeSet<&str> = all
            .into_iter()
            .filter(|it| schema.accepts(&of(it)))
            .collect();
        assert_eq!(fitting, statuses.iter().copied().collect(), "{kind}");
        for status in ["done", "Erased", ""] {
            assert!(!schema.accepts(&of(status)), "{kind}: {status}");
        }
    }
}

/// Changes after which an outcome is none.
const CHANGES: &[(&str, &str)] = &[
    ("erased", r#"/specversion "1.1""#),
    ("erased", r#"/id "req-1""#),
    ("erased", r#"/source "/other/1""#),
    ("erased", r#"/type "convgroup.request.settled.v2""#),
    ("erased", r#"/time "2026-11-25 18:20:11Z""#),
    ("erased", r#"/time "2026-11-31T18:20:11Z""#),
    ("erased", "/time 1796083211"),
    ("erased", r#"/datacontenttype "text/plain""#),
    ("erased", r#"/data/request/id """#),
    ("erased", r#"/data/request/id_from "header""#),
    ("erased", "/data/request/round -1"),
    ("erased", "/data/request/round 0.5"),
    ("erased", "/data/request/published_at 0"),
    ("erased", "/data/groups -1"),
    ("erased", "/data/remaining 1"),
    ("erased", "/data/remaining null"),
    ("erased", r#"/data/verified_at """#),
    ("erased", "/data/results {}"),
    ("erased", r#"/data/results/0 "deleted""#),
    ("erased", "/data/results/0/index -"),
    ("erased", r#"/data/results/0/index "0""#),
    ("erased", "/data/results/0/outcome -"),
    ("erased", r#"/data/results/0/outcome "erased""#),
    ("erased", r#"/data/results/0/outcome "dead_lettered""#),
    ("erased", "/data/results/0/code -"),
    ("erased", "/data/results/0/code 0"),
    ("erased", r#"/data/results/0/cause "rejected""#),
    ("erased", r#"/data/results/0/group """#),
    ("erased", r#"/data/cause "expired""#),
    ("erased", r#"/data/code "50004""#),
    ("erased", r#"/data/user """#),
    ("erased", "/data/truncated false"),
    ("partial", "/data/remaining 0"),
    ("partial", "/data/results []"),
    ("partial", r#"/data/verified_at "2026-11-25T18:20:11.120Z""#),
    ("dead", "/data/results []"),
    ("dead", "/data/results/0/cause -"),
    ("dead", r#"/data/results/0/cause "tired""#),
    ("purged", r#"/data/results/0/code "0""#),
    ("no-list", "/data/cause -"),
    ("no-list", r#"/data/cause "malformed""#),
    ("broken", "/data/groups 1"),
    (
        "broken",
        r#"/data/results [{"index":0,"outcome":"deleted","code":"0"}]"#,
    ),
];

#[test]
fn a_changed_outcome_does_not_validate() {
    let (schema, kinds) = (Schema::of(OUTCOME), kinds());
    for (kind, change) in CHANGES {
        let accepted = schema.accepts(&changed(&kinds[kind], change));
        assert!(!accepted, "{kind}: {change}");
    }
    let long = format!("/data/request/id \"{}\"", "m".repeat(201));
    assert!(!schema.accepts(&changed(&kinds["erased"], &long)));
}

#[test]
fn the_program_reads_the_examples_and_writes_them() {
    let mut statuses = BTreeSet::new();
    for example in examples(OUTCOME) {
        let event = OutcomeEvent::from_json(example.to_string().as_bytes()).unwrap();
        let again: Value = serde_json::from_slice(&event.to_json()).unwrap();
        assert_eq!(again, example);
        statuses.insert(event.data.status);
    }
    assert_eq!(statuses, Status::ALL.into());
}
