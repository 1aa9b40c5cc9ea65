//! Dead letters, as `dlq` reads, shows and exports them: anybody may have published them.
use convgroup_broker::fuzzing::{AMQPValue, FieldTable};
use serde_json::Value;

use crate::dlq::{exported, shown};
use crate::telemetry::Ids;
use convgroup_broker::dead_letter as read;
use convgroup_broker::delivery::Message;
use convgroup_broker::fuzzing::{message, on_the_wire};
use convgroup_domain::dead_letter::{DeadLetter, Filter};
use convgroup_domain::fuzzing::{CODES, NOW_MS, SECRET, assert_silent, with_secret};

/// `data` is the properties of a letter as they are on the wire, then its body.
///
/// # Panics
/// A promise is broken: see the checks.
pub fn letter(data: &[u8]) {
    let Some(message) = message(data) else {
        return;
    };
    let letter = read::letter(&message);
    assert!(letter.message_id.len() <= 128 && !letter.cause.is_empty());
    is_found_by_what_it_tells(&letter);
    is_known_again(&message);
    is_exported_whole(&message, &letter);
    for ids in [None, Some(Ids::new(false, 1)), Some(Ids::new(true, 1))] {
        let [text, json] = shown(&letter, &message, &CODES, ids);
        for line in text.split_terminator('\n') {
            assert!(
                !line.contains(char::is_control),
                "a terminal obeys {line:?}"
            );
        }
        let json: Value = serde_json::from_str(&json).expect("what is shown as JSON is JSON");
        assert_eq!(
            json["message_id"].as_str(),
            Some(letter.message_id.as_str())
        );
    }
    hides_ids(message, &letter);
}

fn is_found_by_what_it_tells(letter: &DeadLetter) {
    let filter = Filter {
        causes: vec![letter.cause.clone()],
        classes: vec![letter.class.clone()],
        codes: vec![letter.code.clone()],
        message_ids: vec![letter.message_id.clone()],
        ..Filter::default()
    };
    assert!(filter.matches(letter, NOW_MS));
}

/// However often it is delivered; and another letter is not taken for it.
fn is_known_again(letter: &Message) {
    let known_by = read::fingerprint(letter);
    let again = message(&on_the_wire(letter)).expect("what was read can be read again");
    assert_eq!(read::fingerprint(&again), known_by);
    let mut counted = letter.clone();
    let mut headers = letter.properties.headers().clone().unwrap_or_default();
    headers.insert("x-delivery-count".into(), AMQPValue::LongLongInt(7));
    headers.insert("x-acquired-count".into(), AMQPValue::LongLongInt(7));
    counted.properties = counted.properties.with_headers(headers);
    assert_eq!(read::fingerprint(&counted), known_by);
    let mut other = letter.clone();
    other.body.push(b' ');
    assert_ne!(read::fingerprint(&other), known_by);
}

fn is_exported_whole(message: &Message, letter: &DeadLetter) {
    let line = exported(letter, message);
    assert_eq!(line.matches('\n').count(), 1, "one letter, one line");
    let line: Value = serde_json::from_str(&line).expect("a letter is exported as JSON");
    match std::str::from_utf8(&message.body) {
        Ok(body) => assert_eq!(line["body"].as_str(), Some(body)),
        Err(_) => assert!(line["body_base64"].is_string()),
    }
    let headers = message
        .properties
        .headers()
        .as_ref()
        .map_or(0, |headers| FieldTable::inner(headers).len());
    let exported = line["properties"]["headers"].as_object();
    assert_eq!(exported.map_or(0, serde_json::Map::len), headers);
}

/// Users and groups are shown as hashes only, unless somebody asks for them.
fn hides_ids(mut message: Message, letter: &DeadLetter) {
    if format!("{letter:?}").contains(SECRET) {
        return;
    }
    message.body = with_secret(&message.body);
    for ids in [None, Some(Ids::new(false, 1))] {
        for text in shown(letter, &message, &CODES, ids) {
            assert_silent(&text);
        }
    }
}
