//! What a sandbox is started with.

use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use rand::{Rng, RngExt};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

/// The secret key for trying things out; it opens nothing but sandboxes.
pub const DEMO_SECRET_KEY: &str = "im-sandbox-demo-key";

/// What a sandbox is started with; the default suits a test.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; the default is a free port of 127.0.0.1.
    pub listen: SocketAddr,
    /// The only app the sandbox knows; default 1400000000.
    pub sdk_app_id: u64,
    /// The key every UserSig must be signed with; default [`DEMO_SECRET_KEY`].
    pub secret_key: SecretString,
    /// The accounts that may call the API; they exist as users, too. Default `administrator`.
    pub admins: Vec<String>,
    /// The limit in calls per sliding second, default 200; 0 switches it off.
    pub calls_per_second: u32,
    /// How many groups a page of a list has, default 100; 0 puts all of them on one page.
    pub list_page_size: u32,
    /// How long an answer takes; default none.
    pub latency: Latency,
    /// Every user exists and has every group until it is deleted, except the admins; default off.
    ///
    /// A list names only the groups that a user was given and that are not deleted; of a user that was given none it is empty.
    /// Takes about 16 bytes for each deletion.
    pub permissive: bool,
    /// Keep every call for [`Sandbox::calls`](super::Sandbox::calls); default off, since it takes memory without bound.
    pub record: bool,
    /// Close a connection that was idle for so long, without a word; default never.
    pub idle_close: Option<Duration>,
    /// Close a connection after so many answers, without `Connection: close`; default never.
    pub close_after_requests: Option<u32>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            sdk_app_id: 1_400_000_000,
            secret_key: DEMO_SECRET_KEY.into(),
            admins: vec!["administrator".to_owned()],
            calls_per_second: 200,
            list_page_size: 100,
            latency: Latency::default(),
            permissive: false,
            record: false,
            idle_close: None,
            close_after_requests: None,
        }
    }
}

/// How long an answer takes: evenly spread from `min_ms` to `max_ms`, both possible.
///
/// The deletion itself takes place when the call arrives; only its answer is late.
/// As text: `20ms` or `0ms..50ms`; as JSON: `{"min_ms":0,"max_ms":50}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Bounds", into = "Bounds")]
pub struct Latency {
    min_ms: u64,
    max_ms: u64,
}

/// Why a latency is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LatencyError {
    /// The shortest is longer than the longest.
    #[error("the latency's minimum is above its maximum")]
    Reversed,
    /// A bound is above one hour.
    #[error("a latency above one hour is surely a mistake")]
    TooLong,
    /// A text that is no duration.
    #[error("a latency is written like 20ms or 0ms..50ms")]
    Unreadable,
}

impl Latency {
    /// The longest latency that can be asked for, in milliseconds: one hour.
    pub const MS_MAX: u64 = 60 * 60 * 1000;

    /// A latency from `min_ms` to `max_ms` milliseconds.
    ///
    /// # Errors
    /// When `min_ms` is above `max_ms`, or `max_ms` above [`Latency::MS_MAX`].
    pub fn new(min_ms: u64, max_ms: u64) -> Result<Self, LatencyError> {
        if min_ms > max_ms {
            return Err(LatencyError::Reversed);
        }
        if max_ms > Self::MS_MAX {
            return Err(LatencyError::TooLong);
        }
        Ok(Self { min_ms, max_ms })
    }

    pub(super) fn draw(self, rng: &mut impl Rng) -> Duration {
        if self.max_ms == 0 {
            return Duration::ZERO;
        }
        Duration::from_millis(rng.random_range(self.min_ms..=self.max_ms))
    }
}

impl FromStr for Latency {
    type Err = LatencyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (min, max) = text.split_once("..").unwrap_or((text, text));
        let millis = |bound: &str| {
            let duration =
                humantime::parse_duration(bound.trim()).map_err(|_| LatencyError::Unreadable)?;
            u64::try_from(duration.as_millis()).map_err(|_| LatencyError::TooLong)
        };
        Self::new(millis(min)?, millis(max)?)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bounds {
    #[serde(default)]
    min_ms: u64,
    max_ms: u64,
}

impl TryFrom<Bounds> for Latency {
    type Error = LatencyError;

    fn try_from(bounds: Bounds) -> Result<Self, Self::Error> {
        Self::new(bounds.min_ms, bounds.max_ms)
    }
}

impl From<Latency> for Bounds {
    fn from(latency: Latency) -> Self {
        Self {
            min_ms: latency.min_ms,
            max_ms: latency.max_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: &Result<(u64, u64), LatencyError>) {
        assert_eq!(
            text.parse::<Latency>()
                .map(|latency| (latency.min_ms, latency.max_ms)),
            *expect
        );
    }

    #[test]
    fn latencies_are_read_as_a_duration_or_a_range() {
        check("20ms", &Ok((20, 20)));
        check("0ms..50ms", &Ok((0, 50)));
        check("0..1s", &Ok((0, 1000)));
        check("2s..1s", &Err(LatencyError::Reversed));
        check("2h", &Err(LatencyError::TooLong));
        check("..", &Err(LatencyError::Unreadable));
        check("soon", &Err(LatencyError::Unreadable));
    }
}
