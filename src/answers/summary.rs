//! What became of many requests, for people: the sums, and those that are not erased.
use std::fmt::Write;

use convgroup_broker::declare::Waiting;
use convgroup_domain::case::{LetterTold, PlaceEnd, ReportLine, Status, Sums};
use convgroup_domain::code::CodeTable;
use convgroup_domain::decide::{EXPIRED, MALFORMED};
use convgroup_domain::outcome::End;
use convgroup_domain::text::readable;
use serde_json::json;

use super::tail::reason;
use crate::tool::count;

/// Most requests of a kind that are named on a terminal; a report has all.
const NAMED_MAX: usize = 20;

/// The sums as a table. They add up: requested is erased, failed, mixed and open together.
pub(crate) fn table(sums: &Sums) -> String {
    let mut text = String::new();
    let of = |status: Status| (sums.of(status), status.label());
    let mut row = |name: &str, count: usize, parts: &[(usize, &str)]| {
        let parts: Vec<String> = parts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        let parts = if parts.is_empty() {
            String::new()
        } else {
            format!("  of these {}", parts.join(", "))
        };
        let _ = writeln!(text, "{name:<9} {count:>9}{parts}");
    };
    row("requested", sums.requested(), &[]);
    let verified = "for all groups, verified by an empty list";
    row("erased", sums.erased(), &[(sums.verified(), verified)]);
    row(
        "failed",
        sums.failed(),
        &[of(Status::Expired), of(Status::Purged)],
    );
    row("mixed", sums.mixed(), &[]);
    let unknown = (sums.of(Status::Unknown), "unknown (nothing told)");
    row("open", sums.open(), &[unknown]);
    text
}

/// The sums as one JSON object.
pub(crate) fn sums_json(sums: &Sums) -> String {
    let object = json!({
        "requested": sums.requested(), "erased": sums.erased(), "failed": sums.failed(), "mixed": sums.mixed(), "open": sums.open(),
        "expired": sums.of(Status::Expired), "purged": sums.of(Status::Purged), "unknown": sums.of(Status::Unknown),
        "verified": sums.verified(),
    });
    format!("{object}\n")
}

/// What is queued while requests are open, `unknown` of which nothing was told.
pub(crate) fn queued(waiting: Waiting, unknown: usize) -> String {
    let Waiting { main, delayed } = waiting;
    let verb = if main == 1 { "waits" } else { "wait" };
    let mut text = format!(
        "{} {verb} in the main queue, {delayed} in the delay queues (what a daemon has in hand is not counted)",
        count(main as usize, "message")
    );
    if unknown > 0 && main == 0 && delayed == 0 {
        text += ". If that stays so, the unknown requests are not queued: `publish --resume` with the same events and manifest \
                 publishes them";
    }
    text
}

/// The requests that are not erased, each with why, as far as there is room: those that are closed, and those that go on.
#[derive(Debug, Default)]
pub(crate) struct Unerased {
    closed: Named,
    open: Named,
}

/// The first of some requests.
#[derive(Debug, Default)]
struct Named {
    lines: Vec<String>,
    more: usize,
}

impl Unerased {
    /// Takes in one request of the report.
    pub(crate) fn take_in(&mut self, line: &ReportLine, codes: &CodeTable) {
        if line.status == Status::Erased {
            return;
        }
        let named = if line.status.is_closed() {
            &mut self.closed
        } else {
            &mut self.open
        };
        if named.lines.len() == NAMED_MAX {
            named.more += 1;
            return;
        }
        let place = line.line.map(|number| format!("  line {number}"));
        named.lines.push(format!(
            "  {:<7}  {}{}  {}\n",
            line.status.label(),
            readable(&line.id),
            place.unwrap_or_default(),
            readable(&why(line, codes))
        ));
    }

    /// As text; empty where all are erased. `all` says where all of them stand.
    pub(crate) fn text(self, all: &str) -> String {
        self.closed.text("not erased:", all) + &self.open.text("not closed:", all)
    }
}

impl Named {
    fn text(self, head: &str, all: &str) -> String {
        if self.lines.is_empty() {
            return String::new();
        }
        let more = match self.more {
            0 => String::new(),
            more => format!("  and {more} more; {all}\n"),
        };
        format!("{head}\n{}{more}", self.lines.concat())
    }
}

/// Why a request is not erased.
fn why(line: &ReportLine, codes: &CodeTable) -> String {
    let dead = line.results.iter().filter(|end| !end.outcome.is_erased());
    let mut reasons: Vec<String> = Vec::new();
    let whole = line.cause.as_deref();
    let whole = whole.map(|cause| explained(Some(cause), line.code.as_deref(), codes));
    for reason in dead.map(|end| of_place(end, codes)).chain(whole) {
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    if !line.status.is_closed() {
        reasons.push(match (line.status, line.results.len()) {
            (Status::Unknown, _) => "nothing was told of it".to_owned(),
            (_, told) => format!("not closed: {told} of its groups told so far"),
        });
    }
    if let Some(letter) = &line.dead_letter {
        let reason = of_letter(letter, codes);
        reasons.push(if reasons.contains(&reason) {
            "in the dead letters".to_owned()
        } else {
            format!("in the dead letters: {reason}")
        });
    }
    reasons.join("; ")
}

fn of_place(end: &PlaceEnd, codes: &CodeTable) -> String {
    match end.outcome {
        End::Purged => "its dead letter was removed".to_owned(),
        _ => explained(end.cause.as_deref(), end.code.as_deref(), codes),
    }
}

fn of_letter(letter: &LetterTold, codes: &CodeTable) -> String {
    let cause = Some(letter.cause.as_str());
    let code = Some(letter.code.as_str()).filter(|code| !code.is_empty());
    explained(cause, code, codes)
}

/// Cause and code, with what the code means.
fn explained(cause: Option<&str>, code: Option<&str>, codes: &CodeTable) -> String {
    let reason = reason(cause, code);
    let meaning = match cause {
        Some(MALFORMED) => Some("the event can't be read".to_owned()),
        Some(EXPIRED) => Some("the moment that the event allows had passed".to_owned()),
        _ => code.and_then(|code| Some(codes.explain(code)?.meaning)),
    };
    match meaning {
        Some(meaning) => format!("{reason}: {meaning}"),
        None => reason,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::num::NonZeroU32;

    use convgroup_domain::case::{Cases, Heard};
    use convgroup_domain::manifest::Groups;
    use expect_test::expect;

    use super::*;

    fn outcome(id: &str, data: &str) -> Heard {
        let json = format!(
            r#"{{"specversion":"1.0","id":"{id}","source":"/x","type":"convgroup.request.settled.v1","time":"2026-12-01T00:00:11Z",
            "datacontenttype":"application/json","data":{{"request":{{"id":"{id}","id_from":"message_id","round":0,"published_at":null}},
            "remaining":0,"verified_at":null,{data}}}}}"#
        );
        Heard::read(json.as_bytes()).unwrap()
    }

    fn cases() -> Cases {
        let mut cases = Cases::new();
        for (id, groups) in [
            ("a", 1),
            ("b", 2),
            ("c", 2),
            ("d", 1),
            ("e", 1),
            ("f", 1),
            ("g", 1),
        ] {
            cases.expect(id, Groups::Named(groups)).unwrap();
        }
        for (id, data) in [
            (
                "a",
                r#""status":"erased","groups":1,"results":[{"index":0,"outcome":"deleted","code":"0"}]"#,
            ),
            (
                "b",
                r#""status":"mixed","groups":2,"results":[{"index":0,"outcome":"gone","code":"51009"},
                {"index":1,"outcome":"dead_lettered","cause":"rejected","code":"51011"}]"#,
            ),
            (
                "c",
                r#""status":"erased","groups":2,"results":[{"index":1,"outcome":"deleted","code":"0"}]"#,
            ),
            (
                "e",
                r#""status":"failed","groups":1,"results":[{"index":0,"outcome":"dead_lettered","cause":"expired"}]"#,
            ),
            (
                "f",
                r#""status":"failed","groups":1,"results":[{"index":0,"outcome":"purged"}]"#,
            ),
            ("g", r#""status":"malformed","groups":0,"results":[]"#),
        ] {
            cases.take_in(&outcome(id, data));
        }
        cases
    }

    #[test]
    fn the_sums_add_up() {
        let sums = cases().sums();
        expect![[r#"
            requested         7
            erased            1
            failed            3  of these 1 expired, 1 purged
            mixed             1
            open              2  of these 1 unknown (nothing told)
            {"erased":1,"expired":1,"failed":3,"mixed":1,"open":2,"purged":1,"requested":7,"unknown":1,"verified":0}
        "#]].assert_eq(&(table(&sums) + &sums_json(&sums)));
    }

    #[test]
    fn what_is_not_erased_is_named_with_why() {
        let codes = CodeTable::new(&BTreeMap::new());
        let mut unerased = Unerased::default();
        for mut line in cases().lines() {
            if line.id == "e" {
                line.line = NonZeroU32::new(17);
            }
            if line.id == "d" {
                line.dead_letter = Some(LetterTold {
                    cause: "delivery_limit".to_owned(),
                    class: String::new(),
                    code: String::new(),
                    failed_at: None,
                });
            }
            unerased.take_in(&line, &codes);
        }
        expect![[r#"
            not erased:
              mixed    b  rejected 51011: the group name is longer than the API allows (32 bytes; newer pages say 64)
              expired  e  line 17  expired: the moment that the event allows had passed
              purged   f  its dead letter was removed
              failed   g  malformed: the event can't be read
            not closed:
              open     c  not closed: 1 of its groups told so far
              unknown  d  nothing was told of it; in the dead letters: delivery_limit
        "#]].assert_eq(&unerased.text("no more"));
    }

    #[test]
    fn what_is_queued_is_told_with_what_it_means() {
        let texts = [(3, 0, 1), (1, 2, 1), (0, 0, 0), (0, 0, 2)]
            .map(|(main, delayed, unknown)| queued(Waiting { main, delayed }, unknown) + "\n");
        expect![[r#"
            3 messages wait in the main queue, 0 in the delay queues (what a daemon has in hand is not counted)
            1 message waits in the main queue, 2 in the delay queues (what a daemon has in hand is not counted)
            0 messages wait in the main queue, 0 in the delay queues (what a daemon has in hand is not counted)
            0 messages wait in the main queue, 0 in the delay queues (what a daemon has in hand is not counted). If that stays so, the unknown requests are not queued: `publish --resume` with the same events and manifest publishes them
        "#]].assert_eq(&texts.concat());
    }

    #[test]
    fn the_list_has_a_bound() {
        let codes = CodeTable::new(&BTreeMap::new());
        let mut cases = Cases::new();
        for number in 0..NAMED_MAX + 3 {
            cases.expect(&number.to_string(), Groups::All).unwrap();
        }
        let mut unerased = Unerased::default();
        for line in cases.lines() {
            unerased.take_in(&line, &codes);
        }
        let text = unerased.text("r.ndjson has all of them");
        assert_eq!(text.lines().count(), NAMED_MAX + 2);
        assert!(
            text.ends_with("  and 3 more; r.ndjson has all of them\n"),
            "{text}"
        );
    }
}
