//! `[outcomes]`: answers to requests.
use std::time::Duration;

use super::amqp::name;
use super::key::{Key, keys};
use super::reader::Reader;
use super::value::{Problem, duration, flag};
use convgroup_domain::topology::Outcomes;

keys! {
    ENABLED: Key<bool> = Key::shown("outcomes.enabled", flag);
    EXCHANGE: Key<String> = Key::shown("outcomes.exchange", name);
    LEDGER: Key<String> = Key::shown("outcomes.ledger", name_or_none).or_nothing();
    LEDGER_MAX_AGE: Key<Duration> = Key::shown("outcomes.ledger_max_age", age);
    INCLUDE_IDS: Key<bool> = Key::shown("outcomes.include_ids", flag);
}

/// Where answers go; nothing where requests are not answered.
pub(super) fn topology(reader: &mut Reader<'_>) -> Option<Outcomes> {
    let enabled = reader.value(&ENABLED);
    let (exchange, ledger) = (reader.value(&EXCHANGE), reader.value(&LEDGER));
    let max_age = reader.value(&LEDGER_MAX_AGE);
    enabled.then(|| Outcomes::new(&exchange, &ledger, max_age))
}

/// Whether answers tell users and names as they are.
pub(super) fn include_ids(reader: &mut Reader<'_>) -> bool {
    reader.value(&INCLUDE_IDS)
}

/// The name of a queue, or nothing.
fn name_or_none(text: &str) -> Result<String, Problem> {
    if text.is_empty() {
        return Ok(String::new());
    }
    name(text)
}

/// Reads an age. A stream counts it in whole seconds.
fn age(text: &str) -> Result<Duration, Problem> {
    // humantime has no word for the years that an auditor may ask for but days, which are exact.
    let age = duration(
        text,
        Duration::from_secs(1)..=Duration::from_secs(36_525 * 86_400),
    )?;
    if age.subsec_nanos() != 0 {
        return Err("is not a whole number of seconds".into());
    }
    Ok(age)
}
