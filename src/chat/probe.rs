//! The probe: a free health check of everything a call needs.
//!
//! It deletes a random, never-existing group of the admin's own account. "Does not exist" proves DNS, region, TLS, signature,
//! admin right, edition and quota in one harmless call; any other answer names the fault.
use super::client::{ChatClient, Connection};
use crate::domain::code::{Class, CodeTable, Verdict};

/// "Deleted", "does not exist", "not imported as a user": whatever class an operator gives these codes, they prove health.
const HEALTHY: [&str; 3] = ["0", "51009", "50001"];
/// The API counts failed signature checks and refuses all further ones for a minute.
pub const AUTH_THROTTLED: &str = "70050";

/// What the probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Calls work.
    Healthy,
    /// The API answers, and refuses: the account (or its configuration here) is at fault.
    Faulty(Verdict),
    /// The API can't be reached, or is too busy to say.
    Unreachable(Verdict),
}

impl Health {
    /// The name used as label of `convgroup_probes_total`.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Faulty(_) => "faulty",
            Self::Unreachable(_) => "unreachable",
        }
    }

    /// Judges the probe's verdict.
    #[must_use]
    pub fn of(verdict: Verdict) -> Self {
        if HEALTHY.contains(&verdict.row.label.as_str()) {
            return Self::Healthy;
        }
        match verdict.class() {
            Class::Transient | Class::Throttled => Self::Unreachable(verdict),
            Class::Deleted
            | Class::Gone
            | Class::Rejected
            | Class::Signature
            | Class::Account
            | Class::Unknown => Self::Faulty(verdict),
        }
    }
}

/// Makes one probe call. One whose signature or account is refused is made once more with a new signature: a key that was rotated
/// is answered like a wrong one (70009). Pacing is the caller's business: `turn` is awaited before each call, and says whether it
/// may leave at all. `None`: it may not.
pub async fn probe<F>(
    client: &ChatClient,
    codes: &CodeTable,
    turn: impl Fn() -> F,
) -> Option<Health>
where
    F: Future<Output = bool> + Send,
{
    if !turn().await {
        return None;
    }
    let verdict = call(client, codes).await;
    let refused = matches!(verdict.class(), Class::Signature | Class::Account);
    if !refused || verdict.row.label == AUTH_THROTTLED {
        return Some(Health::of(verdict));
    }
    if !turn().await {
        return None;
    }
    Some(Health::of(call(client, codes).await))
}

async fn call(client: &ChatClient, codes: &CodeTable) -> Verdict {
    let group = format!("convgroup-probe-{:08x}", rand::random::<u32>());
    let call = client
        .delete(client.identifier(), &group, Connection::Fresh)
        .await;
    let verdict = codes.classify(call.reply);
    if matches!(verdict.class(), Class::Signature | Class::Account) {
        client.signer.renew(&call.usersig);
    }
    verdict
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::domain::reply::Reply;

    #[test]
    fn answers_of_the_probe_are_judged() {
        let codes = CodeTable::new(&BTreeMap::from([("51011".to_owned(), Class::Gone)]));
        for (code, label) in [
            (0, "healthy"),
            (51009, "healthy"),
            (50001, "healthy"),
            (50004, "unreachable"),
            (60007, "unreachable"),
            (70001, "faulty"),
            (70009, "faulty"),
            (60020, "faulty"),
            (50002, "faulty"),
            (12345, "faulty"),
        ] {
            let verdict = codes.classify(Reply::Answer {
                code,
                info: String::new(),
            });
            assert_eq!(Health::of(verdict).label(), label, "{code}");
        }
    }
}
