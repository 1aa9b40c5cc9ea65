//! Events: bodies of messages, and lines of a file for `publish`.
use std::collections::HashSet;

use serde_json::Value;

use super::{assert_silent, with_secret};
use crate::message::{DeleteGroups, GROUPS_MAX, NamesLeft, decode};

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
    let all: Vec<usize> = (0..event.groups().len()).collect();
    for places in [&all[..1], &all[all.len() / 2..], &all] {
        let left = event.left(places);
        let carried: Vec<&String> = places.iter().map(|&place| &event.groups()[place]).collect();
        assert_eq!(left.groups().iter().collect::<Vec<_>>(), carried);
        assert_eq!(left.rewritten().is_none(), *places == all[..]);
        let rewritten = left.rewritten();
        let copy = rewritten.as_deref().unwrap_or(body);
        let again = reads_as(copy, event.user(), &left);
        assert!(copy.len() <= body.len(), "a copy is longer than the event");
        assert_eq!(all_else(copy), all_else(body));
        if places.len() > 1 {
            let (once, twice) = (event.left(&places[..1]), again.left(&[0]));
            assert_eq!(once, twice, "a copy of a copy differs");
        }
        reads_as(&left.bare(), event.user(), &left);
        let encoded = DeleteGroups::encode(event.user(), left.groups());
        assert_eq!(encoded, Ok(left.bare()), "what is left can't be published");
    }
}

/// Reads a copy that carries what is left.
fn reads_as(copy: &[u8], user: &str, left: &NamesLeft) -> DeleteGroups {
    let read = decode(copy).expect("a copy can be read");
    assert_eq!((read.user(), read.groups()), (user, left.groups()));
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
