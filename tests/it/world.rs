//! A broker, a sandbox and the settings of a daemon between them: what most tests start with.
use std::time::Duration;

use convgroup_deleter::sandbox::{Config, Fault, Rule, Sandbox};
use lapin::BasicProperties;
use secrecy::SecretString;

use crate::harness::broker::persistent;
use crate::harness::daemon::{IDENTIFIER, SECRET_KEY};
use crate::harness::{
    Broker, Daemon, DaemonConfig, Message, Metrics, PATIENCE, Settle, eventually, shared_node,
};

/// All a test needs; names are its own, so that tests share the node.
pub(crate) struct World {
    pub(crate) broker: Broker,
    pub(crate) sandbox: Sandbox,
    pub(crate) config: DaemonConfig,
}

impl World {
    /// On the node that all tests share.
    pub(crate) async fn new() -> Self {
        Self::at(&shared_node().await.url()).await
    }

    /// On another broker.
    pub(crate) async fn at(url: &str) -> Self {
        let sandbox = Sandbox::start(Config {
            secret_key: SecretString::from(SECRET_KEY),
            admins: vec![IDENTIFIER.to_owned()],
            record: true,
            ..Config::default()
        })
        .await
        .expect("the sandbox starts");
        let broker = Broker::connect(url).await;
        let config = DaemonConfig::new(url, &sandbox.base_url());
        Self {
            broker,
            sandbox,
            config,
        }
    }

    /// Changes a key of the daemon's configuration.
    pub(crate) fn set(mut self, key: &str, value: impl ToString) -> Self {
        self.config = self.config.set(key, value);
        self
    }

    /// Starts the daemon and waits until it consumes.
    pub(crate) async fn daemon(&self) -> Daemon {
        let mut daemon = self.config.spawn();
        daemon.ready(PATIENCE).await;
        daemon
    }

    pub(crate) fn user(&self, user: &str, groups: &[&str]) {
        self.sandbox
            .add_user(user, groups)
            .expect("the names are short");
    }

    pub(crate) async fn publish(&self, user: &str, groups: &[&str]) {
        self.publish_raw(event(user, groups).as_bytes(), persistent())
            .await;
    }

    pub(crate) async fn publish_raw(&self, body: &[u8], properties: BasicProperties) {
        self.broker
            .publish(self.config.exchange(), "delete", body, properties)
            .await;
    }

    pub(crate) async fn dead(&self, count: usize) -> Vec<Message> {
        self.broker
            .read_dead(&self.config.dead_queue(), count, Settle::Ack)
            .await
    }

    /// Main, delay and dead letter queues are empty; nothing is in hand.
    pub(crate) async fn nothing_is_left(&self, daemon: &Daemon) {
        self.settled(daemon).await;
        for queue in [self.config.queue().to_owned(), self.config.dead_queue()] {
            assert_eq!(self.broker.depth(&queue).await, 0, "{queue}");
        }
    }

    /// Waits until the main queue is empty and nothing is in hand.
    pub(crate) async fn settled(&self, daemon: &Daemon) -> Metrics {
        self.broker
            .eventually_depth(self.config.queue(), 0, PATIENCE)
            .await;
        daemon
            .eventually_metrics("nothing is in hand", PATIENCE, |metrics| {
                metrics.value("convgroup_in_flight", &[]) == 0.0
            })
            .await
    }

    /// All delay queues.
    pub(crate) fn delay_queues(&self) -> Vec<String> {
        let tiers = self.config.get("CONVGROUP_RETRY__TIERS").split(',');
        tiers
            .map(|tier| format!("{}.retry.{tier}", self.config.queue()))
            .collect()
    }

    /// Waits until `done` holds and nothing is queued, delayed or in hand.
    ///
    /// All of that several looks in a row: a message on its way out of a delay queue is in no queue's count for a moment.
    pub(crate) async fn drained(
        &self,
        daemon: &Daemon,
        patience: Duration,
        done: impl Fn() -> Result<(), String>,
    ) {
        const LOOKS: u32 = 5;
        let mut queues = self.delay_queues();
        queues.push(self.config.queue().to_owned());
        let mut calm = 0;
        eventually("everything is at its end", patience, async || {
            let look = self.look(daemon, &queues, &done).await;
            calm = if look.is_ok() { calm + 1 } else { 0 };
            look.and_then(|()| {
                (calm >= LOOKS)
                    .then_some(())
                    .ok_or("calm so far".to_owned())
            })
        })
        .await;
    }

    async fn look(
        &self,
        daemon: &Daemon,
        queues: &[String],
        done: impl Fn() -> Result<(), String>,
    ) -> Result<(), String> {
        done()?;
        for queue in queues {
            let found = self.broker.try_inspect(queue).await;
            let depth = found.map_err(|err| format!("{err:#}"))?.message_count();
            if depth > 0 {
                return Err(format!("{depth} messages in {queue}"));
            }
        }
        let (_, text) = daemon
            .try_http("/metrics")
            .await
            .map_err(|err| err.to_string())?;
        match Metrics::parse(&text).value("convgroup_in_flight", &[]) {
            0.0 => Ok(()),
            count => Err(format!("{count} in hand")),
        }
    }

    pub(crate) fn fault(&self, fault: Fault) {
        self.sandbox.add_fault(Rule::new(fault));
    }
}

/// An event's body.
pub(crate) fn event(user: &str, groups: &[&str]) -> String {
    serde_json::json!({ "From_Account": user, "GroupName": groups }).to_string()
}

/// How many messages were settled with this outcome.
pub(crate) fn settled(metrics: &Metrics, outcome: &str) -> f64 {
    metrics.value("convgroup_messages_settled_total", &[("outcome", outcome)])
}

/// Waits for a number of messages settled with this outcome.
pub(crate) async fn eventually_settled(daemon: &Daemon, outcome: &str, count: u32) -> Metrics {
    daemon
        .eventually_metrics(&format!("{count} {outcome}"), PATIENCE, |metrics| {
            settled(metrics, outcome) >= f64::from(count)
        })
        .await
}

/// A patience for what must happen within a bound.
pub(crate) const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
