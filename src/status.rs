//! What state the daemon is in, and why, in words: one source for `/readyz`, the status page and the state metric.
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use crate::metrics::Metrics;

/// The loop turns at least every second; silent for this long, it is stuck.
const TURN_MAX: Duration = Duration::from_secs(30);

/// The state of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// No session with the broker.
    Disconnected {
        /// Why not.
        reason: String,
    },
    /// A consumer is registered: working, or standing by while another replica is the single active consumer.
    Consuming,
    /// Calls make no sense now.
    Suspended {
        /// Whose fault it is, and what to do.
        reason: String,
        /// When the next probe goes out.
        next_probe: SystemTime,
    },
    /// On the way to a stop.
    Draining,
}

impl State {
    /// The label of `convgroup_state`.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Disconnected { .. } => "disconnected",
            Self::Consuming => "consuming",
            Self::Suspended { .. } => "suspended",
            Self::Draining => "draining",
        }
    }

    /// The state in a sentence.
    #[must_use]
    pub fn in_words(&self) -> String {
        match self {
            Self::Disconnected { reason } => format!("not connected to the broker: {reason}"),
            Self::Consuming => "consuming, or standing by for the active replica".to_owned(),
            Self::Suspended { reason, next_probe } => {
                let wait = next_probe
                    .duration_since(SystemTime::now())
                    .unwrap_or_default();
                format!("suspended: {reason}; next probe in {} s", wait.as_secs())
            }
            Self::Draining => {
                "draining: stopping as soon as the calls in flight are done".to_owned()
            }
        }
    }
}

/// The state, shared between the loop that sets it and those who show it.
#[derive(Debug)]
pub struct Status {
    inner: Mutex<Inner>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Inner {
    state: State,
    since: Instant,
    turned: Instant,
    had_session: bool,
}

impl Status {
    /// Starts as disconnected.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let state = State::Disconnected {
            reason: "not tried yet".to_owned(),
        };
        metrics.set_state(state.label());
        Self {
            inner: Mutex::new(Inner {
                state,
                since: Instant::now(),
                turned: Instant::now(),
                had_session: false,
            }),
            metrics,
        }
    }

    /// Changes the state. Draining is final.
    pub fn set(&self, state: State) {
        let mut inner = self.lock();
        inner.turned = Instant::now();
        inner.had_session |= matches!(state, State::Consuming | State::Suspended { .. });
        if inner.state != State::Draining {
            if inner.state.label() != state.label() {
                inner.since = inner.turned;
            }
            self.metrics.set_state(state.label());
            inner.state = state;
        }
    }

    /// Says that the loop turns.
    pub fn turned(&self) {
        self.lock().turned = Instant::now();
    }

    /// The state now.
    #[must_use]
    pub fn state(&self) -> State {
        self.lock().state.clone()
    }

    /// How long the state has had its label; its reason may have changed meanwhile.
    #[must_use]
    pub fn state_for(&self) -> Duration {
        self.lock().since.elapsed()
    }

    /// Whether there has ever been a session with the broker.
    #[must_use]
    pub fn had_session(&self) -> bool {
        self.lock().had_session
    }

    /// Whether messages are consumed, or would be if this replica were the active one.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.lock().state == State::Consuming
    }

    /// Whether the loop turns.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.lock().turned.elapsed() < TURN_MAX
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic while held")
    }
}
