//! All growing intervals of the program: reconnecting, quick retries, probes.
//!
//! The only module that names the `backoff` crate, so that it can be swapped in one place.
use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff;

/// A run of growing, jittered pauses. It never ends by itself.
#[derive(Debug)]
pub struct Intervals(ExponentialBackoff);

impl Intervals {
    /// Between attempts to reach a broker: 0.2 s growing to 5 s. Short at the end too: a node restarts in about 5 s, and an
    /// attempt at a dead address costs next to nothing.
    #[must_use]
    pub fn reconnect() -> Self {
        Self::growing(Duration::from_millis(200), Duration::from_secs(5))
    }

    /// Between quick retries of one call: 200 ms growing to 2 s.
    #[must_use]
    pub fn quick_retry() -> Self {
        Self::growing(Duration::from_millis(200), Duration::from_secs(2))
    }

    /// Between offers of a copy that the broker refuses: 5 s growing to a minute.
    #[must_use]
    pub fn refused() -> Self {
        Self::growing(Duration::from_secs(5), Duration::from_mins(1))
    }

    /// Between probes while suspended.
    #[must_use]
    pub fn probe(min: Duration, max: Duration) -> Self {
        Self::growing(min, max)
    }

    /// Doubles from `min` to `max`, each pause spread by a fifth up or down so that replicas do not march in step.
    fn growing(min: Duration, max: Duration) -> Self {
        Self(ExponentialBackoff {
            current_interval: min,
            initial_interval: min,
            randomization_factor: 0.2,
            multiplier: 2.0,
            max_interval: max,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        })
    }

    /// The next pause.
    pub fn next_pause(&mut self) -> Duration {
        self.0.next_backoff().unwrap_or(self.0.max_interval)
    }

    /// Starts again at the shortest.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut intervals = Intervals::growing(min, max);
        let pauses: Vec<Duration> = (0..50).map(|_| intervals.next_pause()).collect();
        assert!(
            pauses[0] >= min.mul_f64(0.8) && pauses[0] <= min.mul_f64(1.2),
            "{pauses:?}"
        );
        assert!(
            pauses.iter().all(|&pause| pause <= max.mul_f64(1.2)),
            "{pauses:?}"
        );
        assert!(
            pauses[10..].iter().all(|&pause| pause >= max.mul_f64(0.8)),
            "{pauses:?}"
        );
    }
}
