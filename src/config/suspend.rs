//! `[suspend]`: when to suspend, and how often to ask whether it is over.
use std::time::Duration;

use super::key::{Key, keys};
use super::reader::Reader;
use super::value::{Problem, duration, number};

keys! {
    WINDOW: Key<usize> = Key::shown("suspend.window", |text| number(text, 1..=10_000));
    FAILURE_RATIO: Key<f64> = Key::shown("suspend.failure_ratio", |text| {
        let ratio = text.parse().ok().filter(|ratio| (0.1..=1.0).contains(ratio));
        ratio.ok_or_else(|| "is not a number from 0.1 to 1".into())
    });
    PROBE_MIN: Key<Duration> = Key::shown("suspend.probe_min", pause);
    PROBE_MAX: Key<Duration> = Key::shown("suspend.probe_max", pause);
}

fn pause(text: &str) -> Result<Duration, Problem> {
    duration(text, Duration::from_millis(100)..=Duration::from_hours(1))
}

/// When to suspend, and how often to ask whether it is over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Suspend {
    /// How many last calls are looked at.
    pub window: usize,
    /// The share of transient ones that suspends.
    pub failure_ratio: f64,
    /// First pause between probes.
    pub probe_min: Duration,
    /// Longest pause between probes.
    pub probe_max: Duration,
}

impl Suspend {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let suspend = Self {
            window: reader.value(&WINDOW),
            failure_ratio: reader.value(&FAILURE_RATIO),
            probe_min: reader.value(&PROBE_MIN),
            probe_max: reader.value(&PROBE_MAX),
        };
        if suspend.probe_min > suspend.probe_max {
            reader.wrong(&PROBE_MIN, format!("is longer than {PROBE_MAX}"));
        }
        suspend
    }
}
