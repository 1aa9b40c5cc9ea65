//! The metrics: one block. To add one, add a line to `metrics!` with one line of doc comment (it is the HELP text), its labels to
//! [`Metrics::new`], then the snapshot and `docs/operating.md`.
//!
//! Every label pair exists at zero from the start, so that a rate is right from the first event on; no user, group or free
//! text is ever a label.
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::state::{Broker, Queue, State};
use crate::traces::Fate;
use convgroup_broker::connect::Role;
use convgroup_broker::events::BrokerEvent;
use convgroup_broker::settle::Op;
use convgroup_domain::code::{Class, CodeTable};
use convgroup_domain::decide::{DEAD_LETTER_KINDS, Outcome};
use convgroup_domain::gate::{Health, Reason};
use convgroup_domain::outcome::Status;
use convgroup_domain::reply::CallKind;

/// The content type of [`Metrics::encode`]: Prometheus text format 0.0.4.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// The two connections of a session, as the label of `convgroup_amqp_connected`.
const ROLES: [Role; 2] = [Role::Consume, Role::Publish];

/// Whether a message was delivered before, as the label of `convgroup_messages_received_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redelivered(pub bool);

impl Redelivered {
    /// Both.
    pub const ALL: [Self; 2] = [Self(false), Self(true)];

    /// The label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        if self.0 { "true" } else { "false" }
    }
}

/// 1 ms to 10 s: the API answers in tens of milliseconds and times out at 3 s.
const CALL_SECONDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0,
];
/// 10 ms to a week: from "at once" to "the API was away over the holidays".
const AGE_SECONDS: [f64; 16] = [
    0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 10_800.0, 43_200.0, 86_400.0,
    259_200.0, 604_800.0,
];
/// 1 ms to 30 s: with everything in hand waiting, the last one waits prefetch divided by the pace.
const WAIT_SECONDS: [f64; 11] = [
    0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0,
];

macro_rules! metrics {
    ($( #[doc = $help:literal] $field:ident: $kind:ident = $make:ident($($extra:expr)?); )+) => {
        /// All metrics of the daemon, registered in a registry of their own.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            $( #[doc = $help] pub $field: $kind, )+
        }

        impl Metrics {
            fn build() -> prometheus::Result<Self> {
                let registry = Registry::new();
                registry.register(Box::new(ProcessCollector::for_self()))?;
                $(
                    let $field = $make(concat!("convgroup_", stringify!($field)), $help.trim(), $($extra)?)?;
                    registry.register(Box::new($field.clone()))?;
                )+
                Ok(Self { registry, $($field),+ })
            }
        }
    };
}

metrics! {
    /// Deliveries taken from the main queue.
    messages_received_total: IntCounterVec = counters(&["redelivered"]);
    /// Messages settled, by the first that applies of dead_lettered, delayed, returned, deleted, gone.
    messages_settled_total: IntCounterVec = counters(&["outcome"]);
    /// Group names at their end.
    groups_total: IntCounterVec = counters(&["outcome"]);
    /// Dead letters written, by cause and class.
    dead_letters_total: IntCounterVec = counters(&["cause", "class"]);
    /// Answers given to requests, by their status.
    outcomes_total: IntCounterVec = counters(&["status"]);
    /// 1 while exchange and ledger for answers are there, as last looked for; 0 without a session, or where answers are not given.
    outcomes_ready: IntGauge = int_gauge();
    /// Calls of the API by their answer; probes are counted apart.
    api_requests_total: IntCounterVec = counters(&["code", "class", "call"]);
    /// Probes by result.
    probes_total: IntCounterVec = counters(&["result"]);
    /// Time from sending a call to its complete reply, in seconds; probes are not in it.
    api_request_duration_seconds: HistogramVec = histograms((&CALL_SECONDS, &["class", "call"]));
    /// Time from publishing (or, where the publisher set no timestamp, from first sight) to settling, in seconds.
    message_age_seconds: HistogramVec = histograms((&AGE_SECONDS, &["outcome"]));
    /// Messages in hand: delivered and not yet settled.
    in_flight: IntGauge = int_gauge();
    /// The pace now: calls per second that may leave; below the configured limit while the API throttles.
    rate_limit_calls_per_second: Gauge = gauge();
    /// Time a call waited for its turn, in seconds.
    rate_limit_wait_seconds: Histogram = histogram(&WAIT_SECONDS);
    /// 1 for the state the daemon is in, 0 for the others.
    state: IntGaugeVec = int_gauges(&["state"]);
    /// How often the daemon suspended, by reason: the account is at fault, or the API is unreachable.
    suspensions_total: IntCounterVec = counters(&["reason"]);
    /// 1 while the connection is up.
    amqp_connected: IntGaugeVec = int_gauges(&["role"]);
    /// Connections made after the first one.
    amqp_reconnects_total: IntCounterVec = counters(&["role"]);
    /// 1 while the broker blocks publishing (memory or disk alarm).
    amqp_blocked: IntGauge = int_gauge();
    /// Messages ready in the queues, as last asked: the main queue, all delay queues together, the dead letters.
    queue_messages: IntGaugeVec = int_gauges(&["queue"]);
    /// Failed steps of settling; the message comes back.
    settle_failures_total: IntCounterVec = counters(&["op"]);
    /// Messages whose handling panicked.
    panics_total: IntCounter = counter();
    /// Log lines that were dropped because stderr did not take them; the work went on.
    log_lines_dropped_total: IntCounter = counter();
    /// Spans, by what became of them: sent to the collector of traces, not taken by it, or dropped because too many waited.
    spans_total: IntCounterVec = counters(&["result"]);
    /// When the UserSig in use expires, unix seconds; 0 before the first one is signed.
    usersig_expiry_timestamp_seconds: Gauge = gauge();
    /// When a message was last delivered, unix seconds; 0 before the first one.
    last_delivery_timestamp_seconds: Gauge = gauge();
    /// When the API last answered that a group is deleted or gone, unix seconds; 0 before the first time.
    last_success_timestamp_seconds: Gauge = gauge();
    /// 1, with the version as label.
    build_info: IntGaugeVec = int_gauges(&["version"]);
}

fn counter(name: &str, help: &str) -> prometheus::Result<IntCounter> {
    IntCounter::new(name, help)
}

fn counters(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
    IntCounterVec::new(Opts::new(name, help), labels)
}

fn int_gauge(name: &str, help: &str) -> prometheus::Result<IntGauge> {
    IntGauge::new(name, help)
}

fn int_gauges(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
    IntGaugeVec::new(Opts::new(name, help), labels)
}

fn gauge(name: &str, help: &str) -> prometheus::Result<Gauge> {
    Gauge::new(name, help)
}

fn histogram(name: &str, help: &str, buckets: &[f64]) -> prometheus::Result<Histogram> {
    Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.into()))
}

fn histograms(
    name: &str,
    help: &str,
    (buckets, labels): (&[f64], &[&str]),
) -> prometheus::Result<HistogramVec> {
    HistogramVec::new(
        HistogramOpts::new(name, help).buckets(buckets.into()),
        labels,
    )
}

impl Metrics {
    /// Registers everything and creates every label pair at zero.
    #[must_use]
    pub fn new(codes: &CodeTable) -> Self {
        let metrics = Self::build().expect("names and labels are constants, checked by a test");
        for redelivered in Redelivered::ALL {
            metrics
                .messages_received_total
                .with_label_values(&[redelivered.label()]);
        }
        for outcome in Outcome::ALL {
            metrics
                .messages_settled_total
                .with_label_values(&[outcome.label()]);
            metrics
                .message_age_seconds
                .with_label_values(&[outcome.label()]);
        }
        for outcome in [Outcome::Deleted, Outcome::Gone, Outcome::DeadLettered] {
            metrics.groups_total.with_label_values(&[outcome.label()]);
        }
        for (cause, class) in DEAD_LETTER_KINDS {
            metrics
                .dead_letters_total
                .with_label_values(&[cause.label(), class]);
        }
        for call in CallKind::ALL.map(CallKind::label) {
            for row in codes.answers() {
                metrics.api_requests_total.with_label_values(&[
                    &*row.label,
                    row.class.label(),
                    call,
                ]);
            }
            for class in Class::ALL {
                metrics
                    .api_request_duration_seconds
                    .with_label_values(&[class.label(), call]);
            }
        }
        let counters = [
            (&metrics.probes_total, &Health::LABELS[..]),
            (&metrics.suspensions_total, &Reason::LABELS[..]),
            (&metrics.settle_failures_total, &Op::ALL.map(Op::label)[..]),
            (&metrics.outcomes_total, &Status::ALL.map(Status::label)[..]),
            (&metrics.spans_total, &Fate::ALL.map(Fate::label)[..]),
        ];
        for (counter, labels) in counters {
            for label in labels {
                counter.with_label_values(&[label]);
            }
        }
        for role in ROLES {
            metrics
                .amqp_reconnects_total
                .with_label_values(&[role.label()]);
            metrics.amqp_connected.with_label_values(&[role.label()]);
        }
        let gauges = [
            (&metrics.state, &State::LABELS[..]),
            (&metrics.queue_messages, &Queue::ALL.map(Queue::label)[..]),
        ];
        for (gauge, labels) in gauges {
            for label in labels {
                gauge.with_label_values(&[label]);
            }
        }
        metrics
            .build_info
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        metrics
    }

    /// Counts the connections that took the place of others.
    pub fn count_reconnects(&self, event: BrokerEvent) {
        let replaced: &[Role] = match event {
            BrokerEvent::SessionReplaced => &ROLES,
            BrokerEvent::PublisherReplaced => &[Role::Publish],
            BrokerEvent::SessionBegan
            | BrokerEvent::SessionEnded
            | BrokerEvent::Blocked(_)
            | BrokerEvent::AnswersHaveAPlace
            | BrokerEvent::Depths(_) => &[],
        };
        for role in replaced {
            self.amqp_reconnects_total
                .with_label_values(&[role.label()])
                .inc();
        }
    }

    /// Sets the gauges of the broker.
    pub fn show_broker(&self, broker: &Broker) {
        for role in ROLES {
            self.amqp_connected
                .with_label_values(&[role.label()])
                .set(broker.is_connected.into());
        }
        self.amqp_blocked.set(broker.blocked_since.is_some().into());
        self.outcomes_ready.set(broker.answers_have_a_place.into());
        if let Some(depths) = broker.depths {
            for queue in Queue::ALL {
                self.queue_messages
                    .with_label_values(&[queue.label()])
                    .set(queue.depth(depths).into());
            }
        }
    }

    /// Makes `state` the one that is 1.
    pub fn show_state(&self, state: &State) {
        for label in State::LABELS {
            self.state
                .with_label_values(&[label])
                .set((label == state.label()).into());
        }
    }

    /// The exposition, as [`CONTENT_TYPE`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .expect("writing into memory does not fail");
        text
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use expect_test::expect_file;

    use super::*;
    use crate::state::Model;

    /// The full exposition at zero, but for the lines whose values are the machine's.
    #[test]
    fn the_exposition_is_the_contracts() {
        let metrics = Metrics::new(&CodeTable::new(&BTreeMap::new()));
        metrics.show_state(&Model::at_start(false).state);
        let text = String::from_utf8(metrics.encode()).unwrap();
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with("process_"))
            .collect();
        expect_file!["../tests/snapshots/metrics.txt"].assert_eq(&(lines.join("\n") + "\n"));
    }
}
