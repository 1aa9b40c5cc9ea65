//! Replies of the API: what a server, or whatever stands between, sends back.
use serde_json::Value;

use crate::client::said;
use convgroup_domain::code::INFO_BYTES_MAX;
use convgroup_domain::fuzzing::{CODES, SECRET, assert_silent, with_secret};
use convgroup_domain::reply::Reply;

/// `data` is the body of a reply with status 200, and the text in one.
///
/// # Panics
/// A promise is broken: see the checks.
pub fn reply(data: &[u8]) {
    is_taken_for_what_it_is(data);
    for body in [with_secret(data), with_text(&with_secret(data))] {
        assert_silent(&format!("{:?}", answer(&body, SECRET)));
    }
    the_code_decides_whatever_the_text(data);
    a_beginning_is_no_success(data);
    let verdict = CODES.classify(answer(data, SECRET));
    assert!(verdict.info.len() <= INFO_BYTES_MAX && !verdict.row.label.is_empty());
}

fn answer(body: &[u8], usersig: &str) -> Reply {
    said(body, true, usersig)
}

/// Another reader of JSON finds the same code, where there is one and it stands there once.
fn is_taken_for_what_it_is(body: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        return;
    };
    let written = value.to_string();
    let status = value["ActionStatus"].as_str();
    if let Some(code) = value["ErrorCode"].as_i64()
        && status.is_none_or(|status| status == "OK")
    {
        let reply = answer(written.as_bytes(), SECRET);
        assert!(
            matches!(reply, Reply::Answer { code: found, .. } if found == code),
            "{reply:?}"
        );
    }
    if let Reply::Answer { code, .. } = answer(written.as_bytes(), SECRET)
        && value["ErrorCode"].is_number()
    {
        assert_eq!(value["ErrorCode"].as_f64(), Some(code as f64));
    }
}

/// A text that can't be read hides no code.
fn the_code_decides_whatever_the_text(data: &[u8]) {
    if data.iter().all(|byte| !matches!(byte, b'"' | b'\\')) {
        let reply = answer(&with_text(data), SECRET);
        assert!(
            matches!(reply, Reply::Answer { code: 51011, .. }),
            "{reply:?}"
        );
    }
}

/// Of a body of which only the beginning was read, what is not there may say otherwise.
fn a_beginning_is_no_success(data: &[u8]) {
    let reply = said(data, false, SECRET);
    let deleted = matches!(reply, Reply::Answer { code: 0, .. });
    assert!(!deleted, "{reply:?}");
}

fn with_text(text: &[u8]) -> Vec<u8> {
    let (before, after) = (br#"{"ErrorInfo":""#, br#"","ErrorCode":51011}"#);
    [before, text, after].concat()
}
