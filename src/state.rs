//! The model of the running daemon, as data: its state, its broker, its work. It knows neither metrics nor pages.
use std::time::{Duration, Instant, SystemTime};

use convgroup_broker::events::{BrokerEvent, Depths};

/// How long answers may wait for the end of an alarm before the daemon is not ready any more.
const ALARM_MAX: Duration = Duration::from_mins(1);

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
    /// An answer was returned: nobody takes it. Nothing is consumed until somebody does.
    Unheard {
        /// What is missing, and how to mend it.
        reason: String,
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
            Self::Suspended { .. } | Self::Unheard { .. } => Self::LABELS[1],
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
            Self::Unheard { reason } => {
                format!("suspended: {reason}. What is in hand is offered again every few seconds")
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
    /// Since when the broker blocks publishing, if it does.
    pub blocked_since: Option<Instant>,
    /// Whether exchange and ledger for answers were there when they were last looked for, in this session.
    pub answers_have_a_place: bool,
    /// Messages ready in the queues, as last asked; nothing before the first time.
    pub depths: Option<Depths>,
}

impl Broker {
    /// Takes in what happened at this moment.
    pub fn on(&mut self, event: BrokerEvent, now: Instant) {
        match event {
            BrokerEvent::SessionBegan => self.is_connected = true,
            BrokerEvent::SessionReplaced => {}
            BrokerEvent::SessionEnded => {
                self.is_connected = false;
                self.blocked_since = None;
                self.answers_have_a_place = false;
            }
            BrokerEvent::AnswersHaveAPlace => self.answers_have_a_place = true,
            BrokerEvent::PublisherReplaced | BrokerEvent::Blocked(false) => {
                self.blocked_since = None;
            }
            BrokerEvent::Blocked(true) => self.blocked_since = self.blocked_since.or(Some(now)),
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
    /// Whether requests are answered (`outcomes.enabled`).
    pub answers: bool,
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
    /// A daemon that has not tried anything yet, and answers requests or not.
    #[must_use]
    pub fn at_start(answers: bool) -> Self {
        Self {
            state: State::Disconnected {
                reason: "not tried yet".to_owned(),
            },
            since: Instant::now(),
            had_session: false,
            broker: Broker::default(),
            in_flight: 0,
            answers,
            pace: 0.0,
            last_delivery: None,
            last_success: None,
            usersig_expiry: None,
        }
    }

    /// Whether the daemon is ready, and why or why not in words. While answers wait for the end of an alarm it stays ready for
    /// [`ALARM_MAX`].
    #[must_use]
    pub fn readiness(&self, now: Instant) -> (bool, String) {
        let words = self.state.in_words();
        let blocked_since = self.broker.blocked_since.filter(|_| self.answers);
        let Some(since) = blocked_since.filter(|_| self.state.is_ready()) else {
            return (self.state.is_ready(), words);
        };
        let waiting = now.duration_since(since);
        (
            waiting <= ALARM_MAX,
            format!(
                "{words}; the broker blocks publishing (an alarm is on) for {} s: what is deleted waits for its answer",
                waiting.as_secs()
            ),
        )
    }

    /// Changes the state. Draining is final.
    pub fn enter(&mut self, state: State) {
        self.had_session |= !matches!(state, State::Disconnected { .. } | State::Draining);
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
            let now = Instant::now();
            for event in [
                BrokerEvent::SessionBegan,
                BrokerEvent::Blocked(true),
                BrokerEvent::AnswersHaveAPlace,
                BrokerEvent::Depths(depths),
                event,
            ] {
                broker.on(event, now);
            }
            let expect = Broker {
                is_connected,
                blocked_since: is_blocked.then_some(now),
                answers_have_a_place: is_connected,
                depths: Some(depths),
            };
            assert_eq!(broker, expect, "{event:?}");
        }
    }

    #[test]
    fn an_alarm_ends_readiness_only_where_answers_wait_for_long() {
        let now = Instant::now();
        for (answers, seconds, ready, told) in [
            (false, 3600, true, false),
            (true, 1, true, true),
            (true, 60, true, true),
            (true, 61, false, true),
        ] {
            let mut model = Model::at_start(answers);
            model.enter(State::Consuming);
            model.broker.on(BrokerEvent::Blocked(true), now);
            // What is said again began when it was said first.
            let later = now + Duration::from_secs(seconds);
            model.broker.on(BrokerEvent::Blocked(true), later);
            let (is_ready, words) = model.readiness(later);
            assert_eq!((is_ready, words.contains("alarm")), (ready, told));
            model.broker.on(BrokerEvent::Blocked(false), later);
            assert!(model.readiness(later).0);
        }
        let unheard = State::Unheard {
            reason: "why".to_owned(),
        };
        let mut model = Model::at_start(true);
        model.enter(unheard);
        let (is_ready, words) = model.readiness(now);
        assert!(!is_ready && words.contains("why") && model.had_session);
    }

    #[test]
    fn draining_is_final() {
        let mut model = Model::at_start(false);
        assert!(!model.had_session);
        model.enter(State::Consuming);
        model.enter(State::Draining);
        model.enter(State::Consuming);
        assert_eq!((model.state, model.had_session), (State::Draining, true));
    }
}
