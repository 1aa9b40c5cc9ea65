//! `[retry]`: the retry schedule.
use std::time::Duration;

use super::key::{Key, List, keys};
use super::reader::Reader;
use super::value::{Problem, duration, number};
use convgroup_domain::attempt::FAILURES_MAX;
use convgroup_domain::topology::delay_label;

keys! {
    QUICK_ATTEMPTS: Key<u32> = Key::shown("retry.quick_attempts", |text| number(text, 0..=10));
    /// Few, because each tier is a queue.
    TIERS: List<Duration> = List::of(Key::shown("retry.tiers", tier), 1..=10);
    MAX_ATTEMPTS: Key<u32> = Key::shown("retry.max_attempts", |text| {
        number(text, 1..=u64::from(FAILURES_MAX))
    });
}

fn tier(text: &str) -> Result<Duration, Problem> {
    duration(text, Duration::from_millis(100)..=Duration::from_hours(168))
}

/// The retry schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Quick retries of one call in place.
    pub quick_attempts: u32,
    /// The delay tiers.
    pub tiers: Vec<Duration>,
    /// The counted failure with this number is the last.
    pub max_attempts: u32,
}

impl Retry {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let tiers = reader.list(&TIERS);
        let mut labels: Vec<String> = tiers.iter().map(|&tier| delay_label(tier)).collect();
        labels.sort_unstable();
        labels.dedup();
        if labels.len() < tiers.len() {
            reader.wrong(
                &TIERS,
                "names a duration twice; each tier is a queue of its own",
            );
        }
        Self {
            quick_attempts: reader.value(&QUICK_ATTEMPTS),
            tiers,
            max_attempts: reader.value(&MAX_ATTEMPTS),
        }
    }
}
