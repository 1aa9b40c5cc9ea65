//! Pages of the list API: what a server, or whatever stands between, says of a user's groups.
use serde_json::Value;

use crate::client::listed;
use crate::page::{PAGES_MAX, Page, PageAsked};
use convgroup_domain::fuzzing::{SECRET, assert_silent, with_secret};
use convgroup_domain::reply::Reply;

/// `data` is the body of a reply with status 200, and the name of a group in one.
///
/// # Panics
/// A promise is broken: see the checks.
pub fn page(data: &[u8]) {
    for asked in [PageAsked::FIRST, middle(data), last(data)] {
        is_taken_for_what_it_is(data, asked);
        let (_, nothing) = listed(data, false, SECRET, asked);
        assert_eq!(nothing, None, "the part that was not read may say more");
    }
    for body in [with_secret(data), with_name(&with_secret(data))] {
        let (reply, page) = listed(&body, true, "", PageAsked::FIRST);
        assert_silent(&format!("{page:?}"));
        if let Reply::BadBody(why) = reply {
            assert_silent(why);
        }
    }
    a_name_is_read_as_it_is_or_not_at_all(data);
}

fn middle(data: &[u8]) -> PageAsked {
    let sum: u64 = data.iter().map(|&byte| u64::from(byte)).sum();
    PageAsked::FIRST.followed_by(sum % 8)
}

fn last(data: &[u8]) -> PageAsked {
    PageAsked {
        number: PAGES_MAX - 1,
        ..middle(data)
    }
}

/// A page keeps the contract, and another reader of JSON finds the same in its body.
fn is_taken_for_what_it_is(body: &[u8], asked: PageAsked) {
    let (reply, page) = listed(body, true, SECRET, asked);
    let is_success = matches!(reply, Reply::Answer { code: 0, .. });
    assert_eq!(page.is_some(), is_success, "{reply:?}");
    let Some(Page { groups, next }) = page else {
        return;
    };
    assert!(groups.iter().all(|name| !name.is_empty()));
    assert!(next.is_none_or(|next| next > asked.start_index && asked.number < PAGES_MAX - 1));
    // Behind a byte order mark, or where a text had to be mended, it finds nothing.
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        return;
    };
    let names = value["GroupItem"].as_array().into_iter().flatten();
    let names: Vec<&str> = names
        .map(|group| group["GroupName"].as_str().expect("a name"))
        .collect();
    assert_eq!(groups, names);
    assert_eq!(value["CompleteFlag"], u64::from(next.is_none()));
    if let Some(next) = next {
        assert_eq!(value["NextStartIndex"], next);
    }
}

fn a_name_is_read_as_it_is_or_not_at_all(name: &[u8]) {
    let (_, page) = listed(&with_name(name), true, SECRET, PageAsked::FIRST);
    let Some(Page { groups, .. }) = page else {
        return;
    };
    if name.iter().all(|byte| !matches!(byte, b'"' | b'\\')) {
        assert_eq!(
            groups.iter().map(String::as_bytes).collect::<Vec<_>>(),
            [name]
        );
        assert!(
            name.iter().all(|byte| *byte >= b' '),
            "JSON has none of these in a string"
        );
    }
}

fn with_name(name: &[u8]) -> Vec<u8> {
    let (before, after) = (
        br#"{"GroupItem":[{"GroupName":""#,
        br#""}],"CompleteFlag":1,"ErrorCode":0}"#,
    );
    [&before[..], name, after].concat()
}
