//! What the HTTP request of a call says, read leniently; what is wrong with it is for the api to say.

use axum::body::Bytes;
use axum::extract::Query as UrlQuery;
use axum::http::Uri;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::refusal::Refusal;

/// The longest name of a group, in bytes.
pub(super) const GROUP_NAME_BYTES_MAX: usize = 32;

/// Which of the API's calls. In JSON `"delete"` or `"list"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallKind {
    /// `v4/recentcontact/del_contact_group`: deletes one group of a user.
    Delete,
    /// `v4/recentcontact/get_contact_group`: lists a page of a user's groups.
    List,
}

impl CallKind {
    /// The call that a path stands for, if it is one of the API's.
    pub(super) fn of(path: &str) -> Option<Self> {
        match path {
            "/v4/recentcontact/del_contact_group" => Some(Self::Delete),
            "/v4/recentcontact/get_contact_group" => Some(Self::List),
            _ => None,
        }
    }
}

pub(super) struct Call {
    pub(super) kind: CallKind,
    pub(super) uri: Uri,
    pub(super) body: Bytes,
    pub(super) query: Query,
    /// The user, so far as there is one, for fault rules and records.
    pub(super) user: Option<String>,
    /// The first group name of a deletion, likewise.
    pub(super) group: Option<String>,
    /// The `StartIndex` of a list, likewise.
    pub(super) start: Option<u64>,
    /// What is wrong with the body.
    pub(super) fault: Option<Refusal>,
}

#[derive(Default)]
pub(super) struct Query {
    pub(super) sdk_app_id: Option<String>,
    pub(super) identifier: Option<String>,
    pub(super) usersig: Option<String>,
    pub(super) random: Option<String>,
    pub(super) content_type: Option<String>,
}

impl Call {
    pub(super) fn read(kind: CallKind, uri: Uri, body: Bytes) -> Self {
        let query = Query::read(&uri);
        let json: Value = serde_json::from_slice(&body).unwrap_or_default();
        let fault = body_fault(kind, &json);
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let user = text(&json["From_Account"]);
        let (group, start) = match kind {
            CallKind::Delete => (text(&json["GroupName"][0]), None),
            CallKind::List => (None, json["StartIndex"].as_u64()),
        };
        Self {
            kind,
            uri,
            body,
            query,
            user,
            group,
            start,
            fault,
        }
    }
}

impl Query {
    /// The first of several equal keys counts.
    fn read(uri: &Uri) -> Self {
        let mut query = Self::default();
        let pairs = UrlQuery::<Vec<(String, String)>>::try_from_uri(uri)
            .map(|pairs| pairs.0)
            .unwrap_or_default();
        for (key, value) in pairs {
            let slot = match key.as_str() {
                "sdkappid" => &mut query.sdk_app_id,
                "identifier" => &mut query.identifier,
                "usersig" => &mut query.usersig,
                "random" => &mut query.random,
                "contenttype" => &mut query.content_type,
                _ => continue,
            };
            slot.get_or_insert(value);
        }
        query
    }
}

fn body_fault(kind: CallKind, json: &Value) -> Option<Refusal> {
    if !json.is_object() {
        return Some(Refusal::BODY_NOT_JSON);
    }
    if !json["From_Account"].is_string() {
        return Some(Refusal::ACCOUNT_INVALID);
    }
    match kind {
        CallKind::Delete => names_fault(json),
        CallKind::List if json["StartIndex"].is_u64() => None,
        CallKind::List => Some(Refusal::START_INVALID),
    }
}

fn names_fault(json: &Value) -> Option<Refusal> {
    match json["GroupName"].as_array().map(Vec::as_slice) {
        Some([]) => Some(Refusal::NAMES_EMPTY),
        Some([Value::String(name)]) if name.len() > GROUP_NAME_BYTES_MAX => {
            Some(Refusal::NAME_TOO_LONG)
        }
        Some([Value::String(_)]) => None,
        Some(_) | None => Some(Refusal::NAMES_INVALID),
    }
}
