//! What the HTTP request of a call says, read leniently; what is wrong with it is for the api to say.

use axum::body::Bytes;
use axum::extract::Query as UrlQuery;
use axum::http::Uri;
use serde_json::Value;

use super::refusal::Refusal;

/// The longest name of a group, in bytes.
pub(super) const GROUP_NAME_BYTES_MAX: usize = 32;

pub(super) struct Call {
    pub(super) uri: Uri,
    pub(super) body: Bytes,
    pub(super) query: Query,
    /// The user, so far as there is one, for fault rules and records.
    pub(super) user: Option<String>,
    /// The first group name, likewise.
    pub(super) group: Option<String>,
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
    pub(super) fn read(uri: Uri, body: Bytes) -> Self {
        let query = Query::read(&uri);
        let json: Value = serde_json::from_slice(&body).unwrap_or_default();
        let fault = body_fault(&json);
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let (user, group) = (text(&json["From_Account"]), text(&json["GroupName"][0]));
        Self {
            uri,
            body,
            query,
            user,
            group,
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

fn body_fault(json: &Value) -> Option<Refusal> {
    if !json.is_object() {
        return Some(Refusal::BODY_NOT_JSON);
    }
    if !json["From_Account"].is_string() {
        return Some(Refusal::ACCOUNT_INVALID);
    }
    match json["GroupName"].as_array().map(Vec::as_slice) {
        Some([]) => Some(Refusal::NAMES_EMPTY),
        Some([Value::String(name)]) if name.len() > GROUP_NAME_BYTES_MAX => {
            Some(Refusal::NAME_TOO_LONG)
        }
        Some([Value::String(_)]) => None,
        Some(_) | None => Some(Refusal::NAMES_INVALID),
    }
}
