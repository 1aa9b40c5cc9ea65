//! The wall clock, in the units that others want.
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Since 1970; nothing on a machine whose clock is before that.
fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Unix seconds, as signatures and AMQP timestamps count.
#[must_use]
pub fn unix_s() -> u64 {
    since_epoch().as_secs()
}

/// Unix milliseconds, as our headers count.
#[must_use]
pub fn unix_ms() -> i64 {
    ms(since_epoch())
}

/// Unix seconds with a fraction, as metrics count.
#[must_use]
pub fn unix_seconds() -> f64 {
    since_epoch().as_secs_f64()
}

/// A moment as people read it (RFC 3339, whole seconds), from unix seconds; none beyond the year 9999, which that has no room for.
#[must_use]
pub fn moment(unix_s: u64) -> Option<String> {
    const YEAR_10000_S: u64 = 253_402_300_800;
    let at = UNIX_EPOCH + Duration::from_secs(Some(unix_s).filter(|&s| s < YEAR_10000_S)?);
    Some(humantime::format_rfc3339_seconds(at).to_string())
}

/// The time of one piece of work. The wall clock is read once, at the start. Later moments are the start plus the time that has
/// passed. So no duration is wrong when somebody sets the clock meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Duration,
    began: Instant,
}

impl Clock {
    /// Reads the wall clock.
    #[must_use]
    pub fn start() -> Self {
        Self {
            start: since_epoch(),
            began: Instant::now(),
        }
    }

    /// The start, in unix milliseconds.
    #[must_use]
    pub fn start_ms(&self) -> i64 {
        ms(self.start)
    }

    /// The start, in unix seconds with a fraction.
    #[must_use]
    pub fn start_seconds(&self) -> f64 {
        self.start.as_secs_f64()
    }

    /// How long ago the start is.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Now, in unix milliseconds.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        ms(self.start + self.elapsed())
    }
}

fn ms(since_epoch: Duration) -> i64 {
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_moments_are_counted_from_the_start() {
        let clock = Clock {
            start: Duration::from_millis(1_700_000_000_250),
            began: Instant::now(),
        };
        assert_eq!(clock.start_ms(), 1_700_000_000_250);
        assert!(clock.start_seconds().fract() > 0.0);
        assert!((0..60_000).contains(&(clock.now_ms() - clock.start_ms())));
    }
}
