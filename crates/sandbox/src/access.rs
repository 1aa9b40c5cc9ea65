//! Who may call: the app, the UserSig and the admins.

use std::collections::HashSet;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer};

use super::call::Query;
use super::refusal::Refusal;
use convgroup_chat::usersig;

/// New credentials; what is left out stays as it is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// The key every UserSig must be signed with.
    #[serde(default, deserialize_with = "secret")]
    pub secret_key: Option<SecretString>,
    /// The accounts that may call the API.
    pub admins: Option<Vec<String>>,
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(SecretString::from))
}

pub(super) struct Access {
    sdk_app_id: u64,
    secret_key: SecretString,
    admins: HashSet<String>,
    /// The UserSig that was accepted last: a client sends the same one for hours.
    accepted: Option<Accepted>,
}

struct Accepted {
    usersig: String,
    identifier: String,
    valid_until_s: u64,
}

impl Access {
    pub(super) fn new(sdk_app_id: u64, secret_key: SecretString, admins: Vec<String>) -> Self {
        Self {
            sdk_app_id,
            secret_key,
            admins: admins.into_iter().collect(),
            accepted: None,
        }
    }

    pub(super) fn set_credentials(&mut self, credentials: Credentials) {
        self.accepted = None;
        if let Some(secret_key) = credentials.secret_key {
            self.secret_key = secret_key;
        }
        if let Some(admins) = credentials.admins {
            self.admins = admins.into_iter().collect();
        }
    }

    pub(super) fn is_admin(&self, account: &str) -> bool {
        self.admins.contains(account)
    }

    /// The checks on the query, in the API's order, at `now_s` in Unix seconds.
    pub(super) fn check(&mut self, query: &Query, now_s: u64) -> Result<(), Refusal> {
        let sdk_app_id: u64 = query
            .sdk_app_id
            .as_deref()
            .and_then(|id| id.parse().ok())
            .ok_or(Refusal::APP_ID_MISSING)?;
        if sdk_app_id != self.sdk_app_id {
            return Err(Refusal::APP_ID_UNKNOWN);
        }
        let usersig = query
            .usersig
            .as_deref()
            .filter(|usersig| !usersig.is_empty());
        let usersig = usersig.ok_or(Refusal::USERSIG_MISSING)?;
        let identifier = query.identifier.as_deref().unwrap_or_default();
        if now_s > self.valid_until_s(usersig, identifier)? {
            return Err(Refusal::USERSIG_EXPIRED);
        }
        if !self.is_admin(identifier) {
            return Err(Refusal::NOT_ADMIN);
        }
        let random_is_u32 = query
            .random
            .as_deref()
            .is_some_and(|random| random.parse::<u32>().is_ok());
        if !random_is_u32 || query.content_type.as_deref() != Some("json") {
            return Err(Refusal::QUERY_INVALID);
        }
        Ok(())
    }

    /// Verifies all of a UserSig but its lifetime; [`usersig::verify`] has another order.
    fn valid_until_s(&mut self, usersig: &str, identifier: &str) -> Result<u64, Refusal> {
        if let Some(accepted) = &self.accepted
            && accepted.usersig == usersig
            && accepted.identifier == identifier
        {
            return Ok(accepted.valid_until_s);
        }
        let claims = usersig::decode(usersig).map_err(|_| Refusal::USERSIG_UNREADABLE)?;
        if claims.sdk_app_id != self.sdk_app_id {
            return Err(Refusal::USERSIG_OF_OTHER_APP);
        }
        if claims.identifier != identifier {
            return Err(Refusal::USERSIG_OF_OTHER_ACCOUNT);
        }
        if !claims.is_signed_with(self.secret_key.expose_secret()) {
            return Err(Refusal::SIGNATURE_WRONG);
        }
        let valid_until_s = claims.valid_until_s();
        self.accepted = Some(Accepted {
            usersig: usersig.to_owned(),
            identifier: claims.identifier,
            valid_until_s,
        });
        Ok(valid_until_s)
    }
}
