//! The one place that names queues and says with which arguments they are declared.
//!
//! Facts behind the arguments (measured on RabbitMQ 3.10, 4.0 and 4.3): at-least-once dead-lettering falls back to
//! at-most-once without `x-overflow=reject-publish`; a delivery limit of -1 destroys messages on 3.10, so "no limit" is a huge
//! number; per-message expiration blocks the head of the line, so each delay has a queue of its own.
use std::fmt;
use std::time::Duration;

/// Binds the main queue to the exchange.
pub const ROUTING_KEY: &str = "delete";

/// Deliveries after which the broker itself dead-letters a message of the main queue. High: rolling restarts and hand-backs
/// count on RabbitMQ before 4.3; finite: a message that kills every consumer must end somewhere.
const MAIN_DELIVERY_LIMIT: i64 = 1000;
/// "Unlimited" on every version: browsing dead letters must never destroy them.
const DEAD_DELIVERY_LIMIT: i64 = 2_000_000_000;

/// Binds the ledger to the exchange of the outcomes: it gets all of them.
const LEDGER_KEY: &str = "#";
/// Size of the files of a ledger. RabbitMQ removes old answers by whole files: one this small, of about 17,000 answers, is full in a
/// foreseeable time.
const LEDGER_SEGMENT_BYTES: i64 = 20_000_000;

const QUEUE_TYPE: &str = "x-queue-type";
const STREAM: &str = "stream";

/// An argument of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    /// A text.
    Text(String),
    /// A whole number.
    Number(i64),
    /// True or false.
    Bool(bool),
}

/// As people read it: a text in quotes.
impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Bool(flag) => write!(f, "{flag}"),
        }
    }
}

/// A durable queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// Its arguments, `x-queue-type` included.
    pub arguments: Vec<(&'static str, Argument)>,
}

impl Queue {
    /// Whether it is a stream: the ledger.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        let stream = Argument::Text(STREAM.to_owned());
        self.arguments.contains(&(QUEUE_TYPE, stream))
    }
}

/// How an exchange routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeKind {
    /// To the queues that are bound with just this routing key.
    Direct,
    /// To the queues that are bound with a pattern that matches.
    Topic,
}

impl ExchangeKind {
    /// The name that it has in AMQP.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Topic => "topic",
        }
    }
}

/// A durable exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange<'t> {
    /// Its name.
    pub name: &'t str,
    /// How it routes.
    pub kind: ExchangeKind,
}

/// What binds a queue to an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding<'t> {
    /// The exchange's name.
    pub exchange: &'t str,
    /// The routing key, or the pattern.
    pub routing_key: &'static str,
    /// The queue's name.
    pub queue: &'t str,
}

/// Where answers go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcomes {
    /// The exchange to which they are published: durable, topic.
    pub exchange: String,
    /// The stream that keeps them, if there is one.
    pub ledger: Option<Queue>,
}

impl Outcomes {
    /// `ledger` is empty where there is none; `max_age` is for how long it keeps them at least, in whole seconds.
    #[must_use]
    pub fn new(exchange: &str, ledger: &str, max_age: Duration) -> Self {
        let ledger = (!ledger.is_empty()).then(|| Queue {
            name: ledger.to_owned(),
            arguments: vec![
                (QUEUE_TYPE, Argument::Text(STREAM.to_owned())),
                ("x-max-age", Argument::Text(stream_age(max_age))),
                (
                    "x-stream-max-segment-size-bytes",
                    Argument::Number(LEDGER_SEGMENT_BYTES),
                ),
            ],
        });
        Self {
            exchange: exchange.to_owned(),
            ledger,
        }
    }
}

/// In words: where they go, and where they are kept.
impl fmt::Display for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.ledger {
            Some(ledger) => write!(f, "{}, kept in {}", self.exchange, ledger.name),
            None => write!(f, "{}, without a ledger", self.exchange),
        }
    }
}

/// Everything the daemon needs at the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// The exchange publishers use: durable, direct.
    pub exchange: String,
    /// The queue that is consumed.
    pub main: Queue,
    /// The delay queues, in the order of the attempts; never empty.
    pub tiers: Vec<Queue>,
    /// The dead letters.
    pub dead: Queue,
    /// Where answers go, if requests are answered.
    pub outcomes: Option<Outcomes>,
}

impl Topology {
    /// Derives all names from the main queue's. `delays` must not be empty.
    #[must_use]
    pub fn new(exchange: &str, queue: &str, delays: &[Duration]) -> Self {
        let dead = format!("{queue}.dead");
        let mut main = quorum(queue);
        main.arguments
            .push(("x-single-active-consumer", Argument::Bool(true)));
        dead_letters_to(&mut main, &dead);
        main.arguments
            .push(("x-delivery-limit", Argument::Number(MAIN_DELIVERY_LIMIT)));
        let tiers = delays
            .iter()
            .map(|&delay| {
                let mut tier = quorum(&format!("{queue}.retry.{}", delay_label(delay)));
                let ttl_ms = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
                tier.arguments
                    .push(("x-message-ttl", Argument::Number(ttl_ms)));
                dead_letters_to(&mut tier, queue);
                tier
            })
            .collect();
        let mut dead = quorum(&dead);
        dead.arguments
            .push(("x-delivery-limit", Argument::Number(DEAD_DELIVERY_LIMIT)));
        Self {
            exchange: exchange.to_owned(),
            main,
            tiers,
            dead,
            outcomes: None,
        }
    }

    /// The same, with answers.
    #[must_use]
    pub fn with_outcomes(self, outcomes: Option<Outcomes>) -> Self {
        Self { outcomes, ..self }
    }

    /// All exchanges.
    pub fn exchanges(&self) -> impl Iterator<Item = Exchange<'_>> {
        let outcomes = self.outcomes.as_ref().map(|outcomes| Exchange {
            name: &outcomes.exchange,
            kind: ExchangeKind::Topic,
        });
        [self.publishers_exchange()].into_iter().chain(outcomes)
    }

    /// The exchange to which events are published.
    #[must_use]
    pub fn publishers_exchange(&self) -> Exchange<'_> {
        Exchange {
            name: &self.exchange,
            kind: ExchangeKind::Direct,
        }
    }

    /// The stream that keeps the answers, if there is one.
    #[must_use]
    pub fn ledger(&self) -> Option<&Queue> {
        self.outcomes.as_ref()?.ledger.as_ref()
    }

    /// All bindings.
    pub fn bindings(&self) -> impl Iterator<Item = Binding<'_>> {
        let ledger = self.outcomes.iter().filter_map(|outcomes| {
            Some(Binding {
                exchange: &outcomes.exchange,
                routing_key: LEDGER_KEY,
                queue: &outcomes.ledger.as_ref()?.name,
            })
        });
        [self.events_binding()].into_iter().chain(ledger)
    }

    /// The binding that brings events into the main queue.
    #[must_use]
    pub fn events_binding(&self) -> Binding<'_> {
        Binding {
            exchange: &self.exchange,
            routing_key: ROUTING_KEY,
            queue: &self.main.name,
        }
    }

    /// All queues; those that others dead-letter into come before the ones that do, so that none is ever without its target.
    pub fn queues(&self) -> impl Iterator<Item = &Queue> {
        [&self.dead, &self.main]
            .into_iter()
            .chain(&self.tiers)
            .chain(self.ledger())
    }
}

/// An age as a stream's argument has it: a whole number and one of the units `D` `h` `m` `s` (measured on 3.10, 4.0 and 4.3; a small
/// `d` is refused).
fn stream_age(age: Duration) -> String {
    let seconds = age.as_secs().max(1);
    let (unit_s, unit) = [(86_400, "D"), (3600, "h"), (60, "m")]
        .into_iter()
        .find(|(unit_s, _)| seconds.is_multiple_of(*unit_s))
        .unwrap_or((1, "s"));
    format!("{}{unit}", seconds / unit_s)
}

fn quorum(name: &str) -> Queue {
    let kind = Argument::Text("quorum".to_owned());
    Queue {
        name: name.to_owned(),
        arguments: vec![(QUEUE_TYPE, kind)],
    }
}

fn dead_letters_to(queue: &mut Queue, target: &str) {
    queue.arguments.extend([
        ("x-dead-letter-exchange", Argument::Text(String::new())),
        (
            "x-dead-letter-routing-key",
            Argument::Text(target.to_owned()),
        ),
        (
            "x-dead-letter-strategy",
            Argument::Text("at-least-once".to_owned()),
        ),
        ("x-overflow", Argument::Text("reject-publish".to_owned())),
    ]);
}

/// A delay as it stands in a queue's name: the largest unit that divides it (`10s`, `1m`, `90s`, `500ms`).
#[must_use]
pub fn delay_label(delay: Duration) -> String {
    let ms = delay.as_millis();
    for (unit_ms, unit) in [
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "m"),
        (1000, "s"),
    ] {
        if ms >= unit_ms && ms.is_multiple_of(unit_ms) {
            return format!("{}{unit}", ms / unit_ms);
        }
    }
    format!("{ms}ms")
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use expect_test::expect;

    use super::*;

    #[test]
    fn names_and_arguments_are_the_contracts() {
        let tiers = [10, 60, 600, 3600].map(Duration::from_secs);
        let topology = Topology::new("convgroup", "convgroup.delete", &tiers);
        let mut text = format!("exchange {} direct\n", topology.exchange);
        for queue in topology.queues() {
            writeln!(text, "{}", queue.name).unwrap();
            for (name, value) in &queue.arguments {
                writeln!(text, "  {name} = {value}").unwrap();
            }
        }
        expect![[r#"
            exchange convgroup direct
            convgroup.delete.dead
              x-queue-type = "quorum"
              x-delivery-limit = 2000000000
            convgroup.delete
              x-queue-type = "quorum"
              x-single-active-consumer = true
              x-dead-letter-exchange = ""
              x-dead-letter-routing-key = "convgroup.delete.dead"
              x-dead-letter-strategy = "at-least-once"
              x-overflow = "reject-publish"
              x-delivery-limit = 1000
            convgroup.delete.retry.10s
              x-queue-type = "quorum"
              x-message-ttl = 10000
              x-dead-letter-exchange = ""
              x-dead-letter-routing-key = "convgroup.delete"
              x-dead-letter-strategy = "at-least-once"
              x-overflow = "reject-publish"
            convgroup.delete.retry.1m
              x-queue-type = "quorum"
              x-message-ttl = 60000
              x-dead-letter-exchange = ""
              x-dead-letter-routing-key = "convgroup.delete"
              x-dead-letter-strategy = "at-least-once"
              x-overflow = "reject-publish"
            convgroup.delete.retry.10m
              x-queue-type = "quorum"
              x-message-ttl = 600000
              x-dead-letter-exchange = ""
              x-dead-letter-routing-key = "convgroup.delete"
              x-dead-letter-strategy = "at-least-once"
              x-overflow = "reject-publish"
            convgroup.delete.retry.1h
              x-queue-type = "quorum"
              x-message-ttl = 3600000
              x-dead-letter-exchange = ""
              x-dead-letter-routing-key = "convgroup.delete"
              x-dead-letter-strategy = "at-least-once"
              x-overflow = "reject-publish"
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn answers_have_an_exchange_and_a_ledger_of_their_own() {
        let ledger = |name: &str| {
            let days = Duration::from_secs(400 * 86_400);
            let outcomes = Outcomes::new("convgroup.outcomes", name, days);
            Topology::new("convgroup", "convgroup.delete", &[Duration::from_secs(1)])
                .with_outcomes(Some(outcomes))
        };
        let topology = ledger("convgroup.outcomes.ledger");
        let mut text = String::new();
        for exchange in topology.exchanges() {
            writeln!(text, "exchange {} {}", exchange.name, exchange.kind.label()).unwrap();
        }
        for binding in topology.bindings() {
            let Binding {
                exchange,
                routing_key,
                queue,
            } = binding;
            writeln!(text, "binding {exchange} --{routing_key}--> {queue}").unwrap();
        }
        let queue = topology.queues().last().unwrap();
        writeln!(text, "{}", queue.name).unwrap();
        for (name, value) in &queue.arguments {
            writeln!(text, "  {name} = {value}").unwrap();
        }
        expect![[r#"
            exchange convgroup direct
            exchange convgroup.outcomes topic
            binding convgroup --delete--> convgroup.delete
            binding convgroup.outcomes --#--> convgroup.outcomes.ledger
            convgroup.outcomes.ledger
              x-queue-type = "stream"
              x-max-age = "400D"
              x-stream-max-segment-size-bytes = 20000000
        "#]]
        .assert_eq(&text);
        let streams: Vec<bool> = topology.queues().map(Queue::is_stream).collect();
        assert_eq!(streams, [false, false, false, true]);
        let words = |topology: &Topology| topology.outcomes.as_ref().unwrap().to_string();
        assert_eq!(
            words(&topology),
            "convgroup.outcomes, kept in convgroup.outcomes.ledger"
        );
        let none = ledger("");
        assert_eq!(words(&none), "convgroup.outcomes, without a ledger");
        assert_eq!((none.exchanges().count(), none.bindings().count()), (2, 1));
        assert!(none.ledger().is_none());
    }

    #[test]
    fn a_ledger_s_age_is_written_in_the_broker_s_units() {
        for (seconds, text) in [
            (34_560_000, "400D"),
            (86_400, "1D"),
            (7200, "2h"),
            (90, "90s"),
            (60, "1m"),
            (0, "1s"),
        ] {
            assert_eq!(stream_age(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn delays_are_named_by_their_largest_unit() {
        let labels = [
            500, 1000, 10_000, 60_000, 90_000, 600_000, 3_600_000, 86_400_000,
        ]
        .map(|ms| delay_label(Duration::from_millis(ms)));
        assert_eq!(
            labels,
            ["500ms", "1s", "10s", "1m", "90s", "10m", "1h", "1d"]
        );
    }
}
