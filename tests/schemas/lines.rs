//! The lines of manifests and reports.
use super::{MANIFEST, REPORT, Schema, changed, examples};

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
];

#[test]
fn a_changed_line_does_not_validate() {
    for (file, place, change) in CHANGES {
        let line = examples(file)[*place].clone();
        let accepted = Schema::of(file).accepts(&changed(&line, change));
        assert!(!accepted, "{file}: {change} in {line}");
    }
}
