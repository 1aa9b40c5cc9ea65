//! The probe: a free health check of everything a call needs.
//!
//! It deletes a random, never-existing group of the admin's own account. "Does not exist" proves DNS, region, TLS, signature,
//! admin right, edition and quota in one harmless call; any other answer names the fault.
use super::client::{ChatClient, Made, Via};
use convgroup_domain::code::{Class, CodeTable, Verdict};
use convgroup_domain::gate::{AUTH_THROTTLED, Health};

/// Makes one probe call. One whose signature or account is refused is made once more with a new signature: a key that was rotated
/// is answered like a wrong one (70009). Pacing is the caller's business: `admitted` is awaited before each call, and says whether it
/// may leave at all. `None`: it may not. `on_call` is told of each call that was made.
pub async fn probe<F>(
    client: &ChatClient,
    codes: &CodeTable,
    admitted: impl Fn() -> F,
    on_call: impl Fn(Made, &Verdict),
) -> Option<Health>
where
    F: Future<Output = bool> + Send,
{
    if !admitted().await {
        return None;
    }
    let verdict = call(client, codes, &on_call).await;
    let refused = matches!(verdict.class(), Class::Signature | Class::Account);
    if !refused || verdict.row.label == AUTH_THROTTLED {
        return Some(Health::of(verdict));
    }
    if !admitted().await {
        return None;
    }
    Some(Health::of(call(client, codes, &on_call).await))
}

async fn call(
    client: &ChatClient,
    codes: &CodeTable,
    on_call: &impl Fn(Made, &Verdict),
) -> Verdict {
    let group = format!("convgroup-probe-{:08x}", rand::random::<u32>());
    let call = client.delete(client.identifier(), &group, Via::Fresh).await;
    let made = call.made();
    let verdict = codes.classify(call.reply);
    on_call(made, &verdict);
    if matches!(verdict.class(), Class::Signature | Class::Account) {
        client.signer.renew(&call.usersig);
    }
    verdict
}
