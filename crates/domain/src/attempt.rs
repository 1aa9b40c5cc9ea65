//! How often a message has failed, and since when: what its `convgroup-*` headers say.

/// Header: counted failures so far.
pub const ATTEMPT: &str = "convgroup-attempt";
/// Header: when the daemon first saw the message, unix ms.
pub const FIRST_SEEN: &str = "convgroup-first-seen";

/// Largest plausible value of [`ATTEMPT`]; the configuration allows no larger `retry.max_attempts`.
pub const FAILURES_MAX: u32 = 1000;
/// How far ahead of our clock a header's moment may be before it counts as absent, in ms: clocks differ, by a day at most.
const CLOCK_SKEW_MAX_MS: i64 = 24 * 60 * 60 * 1000;

/// The history of a message, as far as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Deliveries that ended in a counted failure so far; 0 for a fresh message.
    pub failures: u32,
    /// When the daemon first saw it, unix ms.
    pub first_seen_ms: i64,
}

impl Attempt {
    /// Reads the headers. They may have been written by anybody: what is absurd counts as absent.
    #[must_use]
    pub fn read(failures: Option<i64>, first_seen_ms: Option<i64>, now_ms: i64) -> Self {
        let failures = failures.and_then(|number| u32::try_from(number).ok());
        Self {
            failures: failures
                .filter(|&number| number <= FAILURES_MAX)
                .unwrap_or(0),
            first_seen_ms: first_seen_ms
                .and_then(|moment| plausible(moment, now_ms))
                .unwrap_or(now_ms),
        }
    }

    /// The same message after one more counted failure.
    #[must_use]
    pub const fn failed_again(self) -> Self {
        Self {
            failures: self.failures + 1,
            ..self
        }
    }
}

/// A moment (unix ms) that another party wrote, unless it is absurd: before 1970 or after tomorrow.
#[must_use]
pub fn plausible(moment_ms: i64, now_ms: i64) -> Option<i64> {
    (moment_ms > 0 && moment_ms <= now_ms.saturating_add(CLOCK_SKEW_MAX_MS)).then_some(moment_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    #[track_caller]
    fn check(failures: Option<i64>, first_seen: Option<i64>, expect: (u32, i64)) {
        let attempt = Attempt::read(failures, first_seen, NOW);
        assert_eq!((attempt.failures, attempt.first_seen_ms), expect);
    }

    #[test]
    fn absurd_headers_count_as_absent() {
        check(None, None, (0, NOW));
        check(Some(3), Some(NOW - 5), (3, NOW - 5));
        check(Some(-1), Some(-1), (0, NOW));
        check(Some(i64::MAX), Some(i64::MAX), (0, NOW));
        check(Some(1001), Some(0), (0, NOW));
        check(Some(1000), Some(NOW + 1000), (1000, NOW + 1000));
        let tomorrow = NOW + 86_400_000;
        check(None, Some(tomorrow), (0, tomorrow));
        check(None, Some(tomorrow + 1), (0, NOW));
    }
}
