//! The lines of manifests and reports.
use std::num::NonZeroU32;

use convgroup_domain::case::{Cases, Heard, ReportLine};
use convgroup_domain::manifest::{Asked, Groups};
use convgroup_domain::message::decode;
use serde_json::Value;

use super::{MANIFEST, OUTCOME, REPORT, Schema, changed, examples};

/// Changes after which a line is none. The number is that of the example that is changed.
const CHANGES: &[(&str, usize, &str)] = &[
    (MANIFEST, 0, "/id -"),
    (MANIFEST, 0, r#"/id """#),
    (MANIFEST, 0, "/groups -"),
    (MANIFEST, 0, "/groups -1"),
    (MANIFEST, 0, "/groups 101"),
    (MANIFEST, 0, r#"/groups "All""#),
    (MANIFEST, 0, "/sha256 -"),
    (MANIFEST, 0, r#"/sha256 "ABC""#),
    (MANIFEST, 0, r#"/user_sha256 "user15""#),
    (MANIFEST, 2, "/line 0"),
    (MANIFEST, 2, r#"/line "17""#),
    (MANIFEST, 2, "/line 4294967296"),
    (REPORT, 0, "/id -"),
    (REPORT, 0, "/status -"),
    (REPORT, 0, r#"/status "done""#),
    (REPORT, 0, r#"/status "erased""#),
    (REPORT, 0, r#"/status "open""#),
    (REPORT, 0, r#"/status "unknown""#),
    (REPORT, 0, "/results -"),
    (REPORT, 0, "/results/0/index -"),
    (REPORT, 0, r#"/results/0/outcome "erased""#),
    (REPORT, 0, "/rounds -"),
    (REPORT, 0, "/rounds 0"),
    (REPORT, 0, "/closed_at -"),
    (REPORT, 0, "/closed_at null"),
    (REPORT, 0, r#"/closed_at "yesterday""#),
    (REPORT, 2, r#"/closed_at "2026-11-25T18:20:11.120Z""#),
    (REPORT, 2, r#"/status "unknown""#),
    (REPORT, 2, r#"/verified_at "2026-11-25T18:20:11.120Z""#),
    (REPORT, 3, r#"/verified_at "yesterday""#),
    (REPORT, 3, "/verified_at null"),
    (REPORT, 0, "/line 0"),
    (REPORT, 0, "/line null"),
    (REPORT, 5, "/dead_letter/cause -"),
    (REPORT, 5, "/dead_letter/code 51011"),
    (REPORT, 5, r#"/dead_letter/failed_at "then""#),
    (REPORT, 5, r#"/status "erased""#),
];

#[test]
fn a_changed_line_does_not_validate() {
    for (file, place, change) in CHANGES {
        let line = examples(file)[*place].clone();
        let accepted = Schema::of(file).accepts(&changed(&line, change));
        assert!(!accepted, "{file}: {change} in {line}");
    }
}

#[test]
fn the_program_reads_the_examples_of_lines_and_writes_them() {
    for line in examples(MANIFEST) {
        let read = Asked::from_line(line.to_string().as_bytes()).unwrap();
        let written: Value = serde_json::from_str(&read.to_line()).unwrap();
        assert_eq!(written, line);
    }
    for line in examples(REPORT) {
        let read: ReportLine = serde_json::from_value(line.clone()).unwrap();
        let written: Value = serde_json::from_str(&read.to_line()).unwrap();
        assert_eq!(written, line);
    }
}

#[test]
fn every_line_that_the_program_writes_validates() {
    let (manifest, report) = (Schema::of(MANIFEST), Schema::of(REPORT));
    for body in [
        r#"{"From_Account":"user15","GroupName":["a","b"]}"#,
        r#"{"From_Account":"user15","AllGroups":true}"#,
        "broken",
    ] {
        let event = decode(body.as_bytes()).ok();
        let asked = Asked::new("req-1", body.as_bytes(), event.as_ref());
        let asked = asked.in_line(NonZeroU32::new(17));
        manifest.check(&serde_json::from_str(&asked.to_line()).unwrap(), body);
    }
    // Each outcome alone and both of each pair, for a request of each kind.
    let outcomes = examples(OUTCOME);
    for groups in [
        Groups::Named(0),
        Groups::Named(1),
        Groups::Named(3),
        Groups::All,
    ] {
        for one in &outcomes {
            for other in &outcomes {
                let mut cases = Cases::new();
                cases.expect("req-1", groups).unwrap();
                for outcome in [one, other] {
                    let outcome = changed(outcome, r#"/data/request/id "req-1""#);
                    cases.take_in(&Heard::read(outcome.to_string().as_bytes()).unwrap());
                }
                let line = cases.lines().next().unwrap().to_line();
                report.check(&serde_json::from_str(&line).unwrap(), &line);
            }
        }
    }
}
