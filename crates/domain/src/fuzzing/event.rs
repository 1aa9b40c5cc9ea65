//! Events: bodies of messages, and lines of a file for `publish`.
use std::collections::HashSet;

use serde_json::Value;

use super::{assert_silent, with_secret};
use crate::message::{DeleteGroups, GROUPS_MAX, NamesLeft, Target, decode};

/// `data` is a body.
///
/// # Panics
/// A promise is broken: see the checks.
pub fn event(data: &[u8]) {
    if let Ok(event) = decode(data) {
        within_bounds(&event);
        says_what_is_written(&event, data);
        copies_carry_the_names_left(&event, data);
    }
    match decode(&with_secret(data)) {
        Ok(event) => assert_silent(&format!("{event:?}")),
        Err(malformed) => assert_silent(&format!("{malformed} {malformed:?}")),
    }
}

fn within_bounds(event: &DeleteGroups) {
    assert!(!event.user().is_empty(), "the user is empty");
    let Target::Named(names) = event.target() else {
        assert!(event.names().is_empty());
        return;
    };
    assert!((1..=GROUPS_MAX).contains(&names.len()));
    assert!(names.iter().all(|name| !name.is_empty()));
    let different: HashSet<&String> = names.iter().collect();
    assert_eq!(different.len(), names.len(), "a name is repeated");
    let places: Vec<usize> = (0..names.len()).map(|it| event.first_place(it)).collect();
    assert!(places.is_sorted_by(|one, next| one < next));
    assert!(places.iter().all(|&place| place < GROUPS_MAX));
}

/// Another reader of JSON finds the same.
fn says_what_is_written(event: &DeleteGroups, body: &[u8]) {
    // It refuses numbers that are too large, which an event may hold where nobody looks.
    let Ok(value) = serde_json::from_slice::<Value>(without_mark(body)) else {
        return;
    };
    assert_eq!(value["From_Account"].as_str(), Some(event.user()));
    let mut names: Vec<&str> = Vec::new();
    for name in value["GroupName"].as_array().into_iter().flatten() {
        let name = name.as_str().expect("a name is a string");
        if !names.contains(&name) {
            names.push(name);
        }
    }
    assert_eq!(names, event.names());
    let all = event.target() == Target::All;
    assert_eq!(value["AllGroups"].as_bool(), all.then_some(true));
    assert_eq!(value.get("GroupName").is_none(), all);
    assert_eq!(
        value.get("NotAfter").is_some(),
        event.not_after_ms().is_some()
    );
}

fn copies_carry_the_names_left(event: &DeleteGroups, body: &[u8]) {
    let whole = event.all_left();
    assert_eq!(whole.rewritten(), None);
    reads_as(&whole.bare(), event, &whole);
    let all: Vec<usize> = (0..event.names().len()).collect();
    if all.is_empty() {
        return;
    }
    for places in [&all[..1], &all[all.len() / 2..], &all] {
        let left = event.left(places);
        let carried: Vec<&String> = places.iter().map(|&place| &event.names()[place]).collect();
        assert_eq!(left.names().iter().collect::<Vec<_>>(), carried);
        assert_eq!(left.rewritten().is_none(), *places == all[..]);
        let rewritten = left.rewritten();
        let copy = rewritten.as_deref().unwrap_or(body);
        let again = reads_as(copy, event, &left);
        assert!(copy.len() <= body.len(), "a copy is longer than the event");
        assert_eq!(all_else(copy), all_else(body));
        if places.len() > 1 {
            let (once, twice) = (event.left(&places[..1]), again.left(&[0]));
            assert_eq!(once, twice, "a copy of a copy differs");
        }
        reads_as(&left.bare(), event, &left);
    }
}

/// Reads a copy that carries what is left.
fn reads_as(copy: &[u8], event: &DeleteGroups, left: &NamesLeft) -> DeleteGroups {
    let read = decode(copy).expect("a copy can be read");
    assert_eq!((read.user(), read.target()), (event.user(), left.target()));
    assert_eq!(read.not_after_ms(), event.not_after_ms());
    read
}

/// The other reader takes no byte order mark.
fn without_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body)
}

/// The body without its names; `None` where the other reader can't read it.
fn all_else(body: &[u8]) -> Option<Value> {
    let mut value: Value = serde_json::from_slice(without_mark(body)).ok()?;
    value.as_object_mut()?.remove("GroupName");
    Some(value)
}
