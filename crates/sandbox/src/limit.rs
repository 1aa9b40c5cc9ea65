//! Calls in a sliding second: what the limit is checked with, and what the busiest second is found with.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The instants of the last second, oldest first; a call leaves it exactly one second after it came.
#[derive(Debug, Default)]
pub(super) struct SlidingSecond {
    instants: VecDeque<Instant>,
}

impl SlidingSecond {
    /// Counts a call at `now`, which must not go back, and returns how many there are in the second that ends with it.
    pub(super) fn add(&mut self, now: Instant) -> usize {
        self.forget_before(now);
        self.instants.push_back(now);
        self.instants.len()
    }

    /// Counts a call at `now` unless there are `max` already in the second that ends with it; says whether it did.
    pub(super) fn admit(&mut self, now: Instant, max: u32) -> bool {
        self.forget_before(now);
        let admitted = self.instants.len() < usize::try_from(max).unwrap_or(usize::MAX);
        if admitted {
            self.instants.push_back(now);
        }
        admitted
    }

    fn forget_before(&mut self, now: Instant) {
        const SECOND: Duration = Duration::from_secs(1);
        while self
            .instants
            .front()
            .is_some_and(|oldest| now.duration_since(*oldest) >= SECOND)
        {
            self.instants.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_across_a_full_second_is_one_burst() {
        let (mut second, start) = (SlidingSecond::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert!(second.admit(at(900), 2));
        assert!(second.admit(at(1100), 2));
        assert!(
            !second.admit(at(1200), 2),
            "a fixed window would have begun anew at 1000"
        );
        assert!(!second.admit(at(1899), 2));
        assert!(
            second.admit(at(1900), 2),
            "the first call is exactly one second old"
        );
        assert!(
            !second.admit(at(2099), 2),
            "refused calls do not count, admitted ones do"
        );
    }

    #[test]
    fn calls_of_the_last_second_are_counted() {
        let (mut second, start) = (SlidingSecond::default(), Instant::now());
        let counts =
            [0, 0, 999, 1000, 5000].map(|ms| second.add(start + Duration::from_millis(ms)));
        assert_eq!(counts, [1, 2, 3, 2, 1]);
    }
}
