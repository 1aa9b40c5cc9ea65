//! The model of the running daemon, as data: its state, its broker, its work. It knows neither metrics nor pages.
use std::time::{Instant, SystemTime};

use convgroup_broker::events::{BrokerEvent, Depths};

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
    /// All labels of `convgroup_state`.
    pub const LABELS: [&str; 4] = ["consuming", "suspended", "draining", "disconnected"];

    /// The label of `convgroup_state`, which is also its name on the status page.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Consuming => Self::LABELS[0],
            Self::Suspended { .. } => Self::LABELS[1],
            Self::Draining => Self::LABELS[2],
            Self::Disconnected { .. } => Self::LABELS[3],
        }
    }

    /// Whether messages are consumed, or would be if this replica were the active one.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self == Self::Consuming
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

/// A kind of queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// The main queue.
    Main,
    /// All delay queues together.
    Retry,
    /// The dead-letter queue.
    Dead,
}

impl Queue {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Main, Self::Retry, Self::Dead];

    /// The label of `convgroup_queue_messages`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Retry => "retry",
            Self::Dead => "dead",
        }
    }

    /// How many messages are ready in it.
    #[must_use]
    pub const fn depth(self, depths: Depths) -> u32 {
        match self {
            Self::Main => depths.main,
            Self::Retry => depths.retry,
            Self::Dead => depths.dead,
        }
    }
}

/// The broker, as last heard of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Broker {
    /// Whether there is a session. That is both connections, the one that consumes and the one that publishes: they come up and
    /// go down together.
    pub is_connected: bool,
    /// Whether the broker blocks publishing.
    pub is_blocked: bool,
    /// Messages ready in the queues, as last asked; nothing before the first time.
    pub depths: Option<Depths>,
}

impl Broker {
    /// Takes in what happened.
    pub const fn on(&mut self, event: BrokerEvent) {
        match event {
            BrokerEvent::SessionBegan => self.is_connected = true,
            BrokerEvent::SessionReplaced => {}
            BrokerEvent::SessionEnded => {
                self.is_connected = false;
                self.is_blocked = false;
            }
            BrokerEvent::PublisherReplaced => self.is_blocked = false,
            BrokerEvent::Blocked(blocked) => self.is_blocked = blocked,
            BrokerEvent::Depths(depths) => self.depths = Some(depths),
        }
    }
}

/// The running daemon. Moments are unix seconds, and absent before the first time.
#[derive(Clone, Debug)]
pub struct Model {
    /// The state.
    pub state: State,
    /// Since when the state has had its label; its reason may have changed meanwhile.
    pub since: Instant,
    /// Whether there has ever been a session with the broker.
    pub had_session: bool,
    /// The broker.
    pub broker: Broker,
    /// Messages in hand: delivered and not yet settled.
    pub in_flight: u32,
    /// Calls per second that may leave.
    pub pace: f64,
    /// When a message was last delivered.
    pub last_delivery: Option<f64>,
    /// When the API last answered that a group is deleted or gone.
    pub last_success: Option<f64>,
    /// When the signature in use expires.
    pub usersig_expiry: Option<f64>,
}

impl Model {
    /// A daemon that has not tried anything yet.
    #[must_use]
    pub fn at_start() -> Self {
        Self {
            state: State::Disconnected {
                reason: "not tried yet".to_owned(),
            },
            since: Instant::now(),
            had_session: false,
            broker: Broker::default(),
            in_flight: 0,
            pace: 0.0,
            last_delivery: None,
            last_success: None,
            usersig_expiry: None,
        }
    }

    /// Changes the state. Draining is final.
    pub fn enter(&mut self, state: State) {
        self.had_session |= matches!(state, State::Consuming | State::Suspended { .. });
        if self.state == State::Draining {
            return;
        }
        if self.state.label() != state.label() {
            self.since = Instant::now();
        }
        self.state = state;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_ends_with_its_connection_and_depths_stay_as_last_seen() {
        let depths = Depths {
            main: 1,
            retry: 2,
            dead: 3,
        };
        for (event, is_connected, is_blocked) in [
            (BrokerEvent::SessionReplaced, true, true),
            (BrokerEvent::PublisherReplaced, true, false),
            (BrokerEvent::Blocked(false), true, false),
            (BrokerEvent::SessionEnded, false, false),
        ] {
            let mut broker = Broker::default();
            broker.on(BrokerEvent::SessionBegan);
            broker.on(BrokerEvent::Blocked(true));
            broker.on(BrokerEvent::Depths(depths));
            broker.on(event);
            let expect = Broker {
                is_connected,
                is_blocked,
                depths: Some(depths),
            };
            assert_eq!(broker, expect, "{event:?}");
        }
    }

    #[test]
    fn draining_is_final() {
        let mut model = Model::at_start();
        assert!(!model.had_session);
        model.enter(State::Consuming);
        model.enter(State::Draining);
        model.enter(State::Consuming);
        assert_eq!((model.state, model.had_session), (State::Draining, true));
    }
}
