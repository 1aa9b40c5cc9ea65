//! `dlq ls` and `dlq show`.
use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::json;

use super::{Desk, moment};
use crate::cli::{Exit, Failure, count, say};
use crate::domain::code::{self, CodeTable, Row};
use crate::domain::decide::MALFORMED;
use crate::domain::letter::{DELIVERY_LIMIT, Letter, NONE};
use crate::domain::message::decode;
use crate::telemetry::Ids;

/// So many bytes of a body that can't be read are shown.
const BODY_BYTES_SHOWN: usize = 1024;

#[derive(Default)]
struct Group {
    count: usize,
    oldest: Option<i64>,
    newest: Option<i64>,
}

pub(super) fn ls(desk: &Desk, json: bool) -> Result<Exit, Failure> {
    let mut groups: BTreeMap<(&str, &str, &str), Group> = BTreeMap::new();
    for (letter, _) in &desk.meant {
        let group = groups
            .entry((&letter.cause, &letter.class, &letter.code))
            .or_default();
        group.count += 1;
        if let Some(at) = letter.failed_at_ms {
            group.oldest = Some(group.oldest.map_or(at, |oldest| oldest.min(at)));
            group.newest = group.newest.max(Some(at));
        }
    }
    let mut text = String::new();
    if !json {
        let _ = writeln!(
            text,
            "{:>7}  {:<14} {:<10} {:<9} {:<20}  {:<20}  meaning",
            "letters", "cause", "class", "code", "oldest", "newest"
        );
    }
    for ((cause, class, code), group) in &groups {
        let (oldest, newest) = (moment(group.oldest), moment(group.newest));
        let meaning = meaning(&desk.codes, cause, class, code);
        if json {
            let line = json!({ "cause": cause, "class": class, "code": code, "letters": group.count,
                               "oldest": oldest, "newest": newest, "meaning": meaning });
            let _ = writeln!(text, "{line}");
        } else {
            let or_none = |text: &str| {
                if text.is_empty() {
                    "-".to_owned()
                } else {
                    text.to_owned()
                }
            };
            let _ = writeln!(
                text,
                "{:>7}  {cause:<14} {:<10} {:<9} {oldest:<20}  {newest:<20}  {meaning}",
                group.count,
                or_none(class),
                or_none(code),
            );
        }
    }
    if !json {
        let _ = writeln!(text, "{:>7}  in all", desk.meant.len());
    }
    say(&text)?;
    Ok(Exit::Done)
}

/// `ids`: how they are shown; without it not at all.
pub(super) fn show(
    desk: &Desk,
    limit: usize,
    ids: Option<Ids>,
    json: bool,
) -> Result<Exit, Failure> {
    const HIDDEN: &str =
        "(hidden: set im.sdk_app_id for the hash that the logs show, or --reveal-ids)";
    let reveals = ids.is_some_and(|ids| ids.reveals());
    let mut text = String::new();
    for (letter, delivery) in desk.meant.iter().take(limit) {
        let body = &delivery.message.body;
        let (user, groups, broken) = match decode(body) {
            Ok(event) => (
                ids.map_or(HIDDEN.to_owned(), |ids| ids.show(event.user())),
                ids.map_or(HIDDEN.to_owned(), |ids| ids.show_all(event.groups())),
                String::new(),
            ),
            Err(malformed) => (String::new(), String::new(), malformed.to_string()),
        };
        let meaning = meaning(&desk.codes, &letter.cause, &letter.class, &letter.code);
        let outlook = outlook(&desk.codes, letter);
        // The API's text may name users and groups.
        let info = match letter.info.as_str() {
            "" => "",
            info if reveals || letter.cause == MALFORMED => info,
            _ => "(hidden; --reveal-ids)",
        };
        let shown = if reveals && !broken.is_empty() {
            readable(&body[..body.len().min(BODY_BYTES_SHOWN)])
        } else {
            String::new()
        };
        if json {
            let line = json!({
                "message_id": letter.message_id, "cause": letter.cause, "class": letter.class, "code": letter.code,
                "attempt": letter.attempt, "redrives": letter.redrives, "failed_at": moment(letter.failed_at_ms),
                "info": info, "user": user, "groups": groups, "malformed": broken, "bytes": body.len(), "body": shown,
                "meaning": meaning, "on_redrive": outlook,
            });
            let _ = writeln!(text, "{line}");
            continue;
        }
        let lines = [
            ("message id", letter.message_id.clone()),
            ("died", moment(letter.failed_at_ms)),
            (
                "cause",
                format!("{} {} {}", letter.cause, letter.class, letter.code)
                    .trim_end()
                    .to_owned(),
            ),
            ("meaning", meaning),
            (
                "API's text",
                if letter.cause == MALFORMED { "" } else { info }.to_owned(),
            ),
            (
                "attempts",
                format!("{}, redriven {} times", letter.attempt, letter.redrives),
            ),
            (
                "event",
                if broken.is_empty() {
                    format!("user {user}, groups {groups}")
                } else {
                    format!("{broken} ({} bytes)", body.len())
                },
            ),
            ("body", shown),
            ("on redrive", outlook),
        ];
        for (name, value) in lines.iter().filter(|(_, value)| !value.trim().is_empty()) {
            let _ = writeln!(text, "{name:<11} {value}");
        }
        text.push('\n');
    }
    if !json {
        let _ = writeln!(
            text,
            "{} of {}",
            desk.meant.len().min(limit),
            count(desk.meant.len(), "letter")
        );
    }
    say(&text)?;
    Ok(Exit::Done)
}

fn meaning(codes: &CodeTable, cause: &str, class: &str, code: &str) -> String {
    match (cause, code) {
        (MALFORMED, _) => "the event can't be read".to_owned(),
        (NONE, _) => "neither the daemon nor the broker put it here: somebody published to this queue".to_owned(),
        (DELIVERY_LIMIT, _) => "delivered too often without being settled: handed back again and again, or unreadable to the daemon".to_owned(),
        (_, "") => String::new(),
        (_, code) => code::meaning(&behind(codes, class, code)),
    }
}

/// The rows of the table that a letter's class and code stand for.
fn behind<'c>(codes: &'c CodeTable, class: &str, code: &str) -> Vec<&'c Row> {
    codes.behind(code, |found| found.reported().label() == class)
}

/// A body as text that does nothing to a terminal.
fn readable(body: &[u8]) -> String {
    let mut text = String::new();
    for char in String::from_utf8_lossy(body).chars() {
        if char.is_control() {
            text.extend(char.escape_debug());
        } else {
            text.push(char);
        }
    }
    text
}

/// What would happen if the letter were sent back now.
fn outlook(codes: &CodeTable, letter: &Letter) -> String {
    match letter.cause.as_str() {
        MALFORMED => {
            "dead again at once: the event itself has to be mended and published anew".to_owned()
        }
        DELIVERY_LIMIT => "tried from the start".to_owned(),
        _ if letter.code.is_empty() => "tried from the start".to_owned(),
        _ => {
            let class = behind(codes, &letter.class, &letter.code)[0].class;
            format!(
                "tried from the start; if the API still answers {}: {}",
                letter.code,
                class.reported().consequence()
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_shown_as_it_is_but_for_what_a_terminal_obeys() {
        assert_eq!(readable(b"{\"a\":1}"), "{\"a\":1}");
        assert_eq!(readable(b"\x1b[2J\nb\xff"), "\\u{1b}[2J\\nb\u{fffd}");
    }
}
