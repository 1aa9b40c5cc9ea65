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

/// A durable quorum queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// Its arguments, `x-queue-type` included.
    pub arguments: Vec<(&'static str, Argument)>,
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
        }
    }

    /// All queues; those that others dead-letter into come before the ones that do, so that none is ever without its target.
    pub fn queues(&self) -> impl Iterator<Item = &Queue> {
        [&self.dead, &self.main].into_iter().chain(&self.tiers)
    }
}

fn quorum(name: &str) -> Queue {
    let kind = Argument::Text("quorum".to_owned());
    Queue {
        name: name.to_owned(),
        arguments: vec![("x-queue-type", kind)],
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
