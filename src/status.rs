//! The one holder of the [`Model`]: one source for `/readyz`, the status page and the gauges.
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::metrics::Metrics;
use crate::state::{Model, State};
use convgroup_broker::events::BrokerEvent;

/// The loop turns at least every second; silent for this long, it is stuck.
const TURN_MAX: Duration = Duration::from_secs(30);

/// The model of the running daemon, shared between those who change it and those who show it. Each change sets the gauges, too.
#[derive(Debug)]
pub struct Status {
    inner: Mutex<Inner>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Inner {
    model: Model,
    turned: Instant,
}

impl Status {
    /// Starts as disconnected. `answers`: whether requests are answered.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, answers: bool) -> Self {
        let model = Model::at_start(answers);
        metrics.show_state(&model.state);
        Self {
            inner: Mutex::new(Inner {
                model,
                turned: Instant::now(),
            }),
            metrics,
        }
    }

    /// Changes the state. Draining is final.
    pub fn set(&self, state: State) {
        let mut inner = self.lock();
        inner.turned = Instant::now();
        inner.model.enter(state);
        self.metrics.show_state(&inner.model.state);
    }

    /// Says that the loop turns.
    pub fn turned(&self) {
        self.lock().turned = Instant::now();
    }

    /// Takes in what happened at the broker.
    pub fn broker_event(&self, event: BrokerEvent) {
        let mut inner = self.lock();
        inner.model.broker.on(event, Instant::now());
        self.metrics.show_broker(&inner.model.broker);
        self.metrics.count_reconnects(event);
    }

    /// Counts a message as in hand for as long as the guard lives, however its task ends. It was delivered at this moment, unix
    /// seconds.
    pub fn delivered(&self, at: f64) -> InHand<'_> {
        let mut inner = self.lock();
        inner.model.last_delivery = Some(at);
        inner.model.in_flight += 1;
        self.metrics.last_delivery_timestamp_seconds.set(at);
        self.metrics.in_flight.set(inner.model.in_flight.into());
        InHand(self)
    }

    /// Says that the API answered at this moment, unix seconds, that a group is deleted or gone.
    pub fn succeeded(&self, at: f64) {
        let mut inner = self.lock();
        inner.model.last_success = Some(at);
        self.metrics.last_success_timestamp_seconds.set(at);
    }

    /// Says how many calls per second may leave.
    pub fn paced(&self, pace: f64) {
        let mut inner = self.lock();
        inner.model.pace = pace;
        self.metrics.rate_limit_calls_per_second.set(pace);
    }

    /// Says when the signature in use expires, unix seconds.
    pub fn signed(&self, expiry: f64) {
        let mut inner = self.lock();
        inner.model.usersig_expiry = Some(expiry);
        self.metrics.usersig_expiry_timestamp_seconds.set(expiry);
    }

    /// A copy of the whole model, as it is now.
    #[must_use]
    pub fn model(&self) -> Model {
        self.lock().model.clone()
    }

    /// Whether the daemon is ready, and why or why not in words.
    #[must_use]
    pub fn readiness(&self) -> (bool, String) {
        self.lock().model.readiness(Instant::now())
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

/// A message in hand.
#[derive(Debug)]
#[must_use = "it counts for as long as it lives"]
pub struct InHand<'s>(&'s Status);

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.model.in_flight -= 1;
        self.0.metrics.in_flight.set(inner.model.in_flight.into());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::state::Queue;
    use convgroup_broker::connect::Role;
    use convgroup_broker::events::Depths;
    use convgroup_domain::code::CodeTable;

    fn status() -> Status {
        Status::new(
            Arc::new(Metrics::new(&CodeTable::new(&BTreeMap::new()))),
            false,
        )
    }

    #[test]
    fn the_gauges_show_what_the_status_says() {
        let status = status();
        let depths = Depths {
            main: 1,
            retry: 2,
            dead: 3,
        };
        status.broker_event(BrokerEvent::SessionBegan);
        status.broker_event(BrokerEvent::Blocked(true));
        status.broker_event(BrokerEvent::Depths(depths));
        status.set(State::Consuming);
        status.paced(50.0);
        status.signed(3.0);
        status.succeeded(2.0);
        let (_one, two) = (status.delivered(1.0), status.delivered(1.5));
        drop(two);
        let (model, metrics) = (status.model(), &status.metrics);
        assert!(
            model.broker.is_connected && model.broker.blocked_since.is_some() && model.had_session
        );
        assert_eq!((model.in_flight, metrics.in_flight.get()), (1, 1));
        for role in [Role::Consume, Role::Publish] {
            let connected = metrics.amqp_connected.with_label_values(&[role.label()]);
            assert_eq!(connected.get(), 1);
        }
        assert_eq!(metrics.amqp_blocked.get(), 1);
        for queue in Queue::ALL {
            let messages = metrics.queue_messages.with_label_values(&[queue.label()]);
            assert_eq!(messages.get(), i64::from(queue.depth(depths)));
        }
        for label in State::LABELS {
            let is_it = metrics.state.with_label_values(&[label]).get() == 1;
            assert_eq!(is_it, label == model.state.label(), "{label}");
        }
        for (said, gauge) in [
            (Some(model.pace), &metrics.rate_limit_calls_per_second),
            (
                model.last_delivery,
                &metrics.last_delivery_timestamp_seconds,
            ),
            (model.last_success, &metrics.last_success_timestamp_seconds),
            (
                model.usersig_expiry,
                &metrics.usersig_expiry_timestamp_seconds,
            ),
        ] {
            assert_eq!(said.map(f64::to_bits), Some(gauge.get().to_bits()));
        }
    }
}
