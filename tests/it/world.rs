//! A broker, a sandbox and the settings of a daemon between them: what most tests start with.
use std::time::Duration;

use convgroup_deleter::sandbox::{Config, Fault, Rule, Sandbox};
use lapin::BasicProperties;
use secrecy::SecretString;

use crate::harness::broker::persistent;
use crate::harness::daemon::{IDENTIFIER, SECRET_KEY};
use crate::harness::{
    Broker, Daemon, DaemonConfig, Message, Metrics, PATIENCE, Settle, shared_node,
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
