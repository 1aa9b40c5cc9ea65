//! Events: bodies of messages, and lines of a file for `publish`.
use std::collections::HashSet;

use serde_json::Value;

use super::{assert_silent, with_secret};
use crate::message::{DeleteGroups, GROUPS_MAX, decode, with_groups};

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
    assert!((1..=GROUPS_MAX).contains(&event.groups().len()));
    assert!(event.groups().iter().all(|group| !group.is_empty()));
    let different: HashSet<&String> = event.groups().iter().collect();
    assert_eq!(different.len(), event.groups().len(), "a name is repeated");
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
    assert_eq!(names, event.groups());
}

fn copies_carry_the_names_left(event: &DeleteGroups, body: &[u8]) {
    let names = event.groups();
    for left in [&names[..1], &names[names.len() / 2..], names] {
        let copy = with_groups(body, left);
        let again = decode(&copy).expect("a copy can be read");
        assert_eq!((again.user(), again.groups()), (event.user(), left));
        assert!(copy.len() <= body.len(), "a copy is longer than the event");
        assert_eq!(all_else(&copy), all_else(body));
        assert_eq!(with_groups(&copy, left), copy, "a copy of a copy differs");
    }
    let written = DeleteGroups::encode(event.user(), names).expect("what was read can be written");
    assert_eq!(decode(&written).as_ref(), Ok(event));
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
