//! Who may call, and when: the pace ([`limiter`]) and whether calls make sense at all ([`suspension`]).
pub mod limiter;
pub mod suspension;
pub mod window;

use std::time::Duration;

/// How long a new consumer waits between its first delivery and its first call: the calls of the one before are out of the
/// sliding second then, so that a hand-over can't double the rate (contract).
pub const HANDOVER_PAUSE: Duration = Duration::from_secs(1);
