//! `dlq ls` and `dlq show`.
use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::json;

use super::{Selection, moment};
use crate::telemetry::Ids;
use crate::tool::{Exit, Failure, count, say};
use convgroup_broker::delivery::Message;
use convgroup_domain::code::CodeTable;
use convgroup_domain::dead_letter::{DELIVERY_LIMIT, DeadLetter, MAXLEN, NACKED, NONE, TTL};
use convgroup_domain::decide::{EXPIRED, MALFORMED};
use convgroup_domain::message::{AllGroups, Target, decode_message};
use convgroup_domain::text::readable;
use convgroup_host::clock::unix_ms;

/// So many bytes of a body that can't be read are shown.
const BODY_BYTES_SHOWN: usize = 1024;

#[derive(Default)]
struct Group {
    count: usize,
    oldest: Option<i64>,
    newest: Option<i64>,
}

pub(super) fn ls(selection: &Selection, json: bool) -> Result<Exit, Failure> {
    let mut groups: BTreeMap<(&str, &str, &str), Group> = BTreeMap::new();
    for (letter, _) in &selection.meant {
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
    for (&(cause, class, code), group) in &groups {
        let (oldest, newest) = (moment(group.oldest), moment(group.newest));
        let meaning = meaning(&selection.codes, cause, code);
        if json {
            let line = json!({ "cause": cause, "class": class, "code": code, "letters": group.count,
                               "oldest": oldest, "newest": newest, "meaning": meaning });
            let _ = writeln!(text, "{line}");
        } else {
            let [cause, class, code] = [cause, class, code].map(|header| match header {
                "" => NONE.to_owned(),
                header => readable(header),
            });
            let _ = writeln!(
                text,
                "{:>7}  {cause:<14} {class:<10} {code:<9} {oldest:<20}  {newest:<20}  {meaning}",
                group.count,
            );
        }
    }
    if !json {
        let _ = writeln!(text, "{:>7}  in all", selection.meant.len());
    }
    say(&text)?;
    Ok(Exit::Done)
}

/// `ids`: how they are shown; without it not at all.
pub(super) fn show(
    selection: &Selection,
    limit: usize,
    ids: Option<Ids>,
    json: bool,
) -> Result<Exit, Failure> {
    let mut text = String::new();
    for (letter, delivery) in selection.meant.iter().take(limit) {
        let description = Description::of(letter, &delivery.message, &selection.codes, ids);
        text += &if json {
            description.as_json(letter)
        } else {
            description.as_text(letter)
        };
        text.push('\n');
    }
    if !json {
        let _ = writeln!(
            text,
            "{} of {}",
            selection.meant.len().min(limit),
            count(selection.meant.len(), "letter")
        );
    }
    say(&text)?;
    Ok(Exit::Done)
}

/// What `dlq show` prints of one letter: as text, and as JSON.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn shown(
    letter: &DeadLetter,
    message: &Message,
    codes: &CodeTable,
    ids: Option<Ids>,
) -> [String; 2] {
    let description = Description::of(letter, message, codes, ids);
    [description.as_text(letter), description.as_json(letter)]
}

/// What is said of a letter beside its headers; empty where there is nothing to tell.
struct Description {
    meaning: String,
    on_redrive: String,
    /// The API's text, or what is malformed, or why the message can't be read.
    info: String,
    user: String,
    groups: String,
    /// Why the event can't be read.
    malformed: String,
    bytes: usize,
    /// The beginning of a body that can't be read.
    body: String,
}

impl Description {
    fn of(letter: &DeadLetter, message: &Message, codes: &CodeTable, ids: Option<Ids>) -> Self {
        const HIDDEN: &str =
            "(hidden: set im.sdk_app_id for the hash that the logs show, or --reveal-ids)";
        let reveals = ids.is_some_and(|ids| ids.reveals());
        let body = &message.body;
        let ours = letter.cause == MALFORMED || message.unreadable.is_some();
        let mut description = Self {
            meaning: meaning(codes, &letter.cause, &letter.code),
            on_redrive: outlook(codes, letter),
            // The API's text may name users and groups.
            info: if reveals || ours || letter.info.is_empty() {
                letter.info.clone()
            } else {
                "(hidden; --reveal-ids)".to_owned()
            },
            user: String::new(),
            groups: String::new(),
            malformed: String::new(),
            bytes: body.len(),
            body: String::new(),
        };
        match decode_message(body, &message.declared(), AllGroups::Accepted).event {
            Ok(event) => {
                description.user = ids.map_or(HIDDEN.to_owned(), |ids| ids.show(event.user()));
                description.groups = match event.target() {
                    Target::All => "(all of the user's groups)".to_owned(),
                    Target::Named(names) => {
                        ids.map_or(HIDDEN.to_owned(), |ids| ids.show_all(names))
                    }
                };
                if event.is_expired(unix_ms()) {
                    EXPIRED_STAYS.clone_into(&mut description.on_redrive);
                } else if letter.cause == MALFORMED {
                    "tried from the start, without the properties that could not be read"
                        .clone_into(&mut description.on_redrive);
                }
            }
            Err(_) if let Some(bytes) = letter.body_missing_bytes => {
                description.malformed =
                    format!("the broker refused the body ({bytes} bytes): it is not here");
            }
            Err(malformed) => {
                description.malformed = malformed.to_string();
                if reveals {
                    let shown = &body[..body.len().min(BODY_BYTES_SHOWN)];
                    description.body = String::from_utf8_lossy(shown).into_owned();
                }
            }
        }
        description
    }

    fn as_json(&self, letter: &DeadLetter) -> String {
        let line = json!({
            "message_id": letter.message_id, "cause": letter.cause, "class": letter.class, "code": letter.code,
            "attempt": letter.attempt, "redrives": letter.redrives, "failed_at": moment(letter.failed_at_ms),
            "info": self.info, "user": self.user, "groups": self.groups, "malformed": self.malformed, "bytes": self.bytes,
            "body": self.body, "meaning": self.meaning, "on_redrive": self.on_redrive,
        });
        line.to_string()
    }

    fn as_text(&self, letter: &DeadLetter) -> String {
        let cause = format!("{} {} {}", letter.cause, letter.class, letter.code);
        let attempts = format!("{}, redriven {} times", letter.attempt, letter.redrives);
        let event = if self.malformed.is_empty() {
            format!("user {}, groups {}", self.user, self.groups)
        } else {
            format!("{} ({} bytes)", self.malformed, self.bytes)
        };
        // Of a malformed one it is what the event's line says, unless it was the message around it.
        let info = if letter.cause == MALFORMED && !self.malformed.is_empty() {
            ""
        } else {
            &self.info
        };
        let reason = if letter.code.is_empty() {
            "reason"
        } else {
            "API's text"
        };
        let died = moment(letter.failed_at_ms);
        let lines = [
            ("message id", letter.message_id.as_str()),
            ("died", &died),
            ("cause", cause.trim_end()),
            ("meaning", &self.meaning),
            (reason, info),
            ("attempts", &attempts),
            ("event", &event),
            ("body", &self.body),
            ("on redrive", &self.on_redrive),
        ];
        let mut text = String::new();
        for (name, value) in lines.iter().filter(|(_, value)| !value.trim().is_empty()) {
            let _ = writeln!(text, "{name:<11} {}", readable(value));
        }
        text
    }
}

fn meaning(codes: &CodeTable, cause: &str, code: &str) -> String {
    let description = match cause {
        MALFORMED => "the event can't be read, or not the message around it",
        EXPIRED => {
            "the moment that the event allows (`NotAfter`) has passed: no call was made any more"
        }
        NONE => "neither the daemon nor the broker put it here: somebody published to this queue",
        DELIVERY_LIMIT => "delivered too often without being settled: handed back again and again",
        TTL => {
            "it waited in the main queue longer than its `expiration` (or a policy's message-ttl) allows: RabbitMQ moved it here \
             undone"
        }
        MAXLEN => "the main queue was longer than a policy allows: RabbitMQ moved it here undone",
        NACKED => {
            "a consumer that is not this daemon refused it (basic.reject or basic.nack without requeue)"
        }
        _ => {
            return codes
                .explain(code)
                .map_or_else(String::new, |row| row.meaning);
        }
    };
    description.to_owned()
}

/// What a redrive makes of a letter whose moment has passed.
const EXPIRED_STAYS: &str = "left out: the moment that the event allows (`NotAfter`) has passed";

/// What would happen if the letter were sent back now.
fn outlook(codes: &CodeTable, letter: &DeadLetter) -> String {
    const FROM_THE_START: &str = "tried from the start";
    match (letter.cause.as_str(), codes.explain(&letter.code)) {
        (MALFORMED, _) => {
            "dead again at once: the event itself has to be mended and published anew".to_owned()
        }
        (TTL, _) => {
            format!(
                "{FROM_THE_START}; the copy has no `expiration`, only a policy can end it again"
            )
        }
        // The code is the one of an earlier delivery.
        (DELIVERY_LIMIT | MAXLEN | NACKED, _) | (_, None) => FROM_THE_START.to_owned(),
        (_, Some(row)) => format!(
            "{FROM_THE_START}; if the API still answers {}: {}",
            row.code,
            row.class.reported().consequence()
        ),
    }
}
