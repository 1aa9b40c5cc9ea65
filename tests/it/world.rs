//! A broker, a sandbox and the settings of a daemon between them: what most tests start with.
use std::net::{Ipv4Addr, SocketAddr};
use std::panic::Location;
use std::time::Duration;

use im_sandbox::{Config, Counters, Fault, Rule, Sandbox};
use lapin::BasicProperties;
use secrecy::SecretString;

use convgroup_testkit::broker::persistent;
use convgroup_testkit::daemon::{IDENTIFIER, SECRET_KEY};
use convgroup_testkit::{
    Broker, Daemon, DaemonConfig, Message, Metrics, Node, PATIENCE, Proxy, Settle, eventually,
    free_port, shared_node, unique,
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
        let sandbox = Sandbox::start(sandbox_config())
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

    /// With answers to requests, and requests for all groups of a user.
    pub(crate) fn answering(mut self) -> Self {
        self.config = self.config.answering();
        self
    }

    /// The same with a new connection of the test's own, after the broker has lost the old one.
    pub(crate) async fn reconnected(self, url: &str) -> Self {
        Self {
            broker: Broker::connect(url).await,
            ..self
        }
    }

    /// Starts the daemon behind a proxy, which is the only broker it knows; the test itself goes around it.
    pub(crate) fn behind(self, proxy: &Proxy) -> Self {
        self.set("CONVGROUP_AMQP__URL", proxy.amqp_url())
    }

    /// The API goes away: nothing listens at its address.
    pub(crate) async fn api_gone(self) -> Gone {
        let addr = self.sandbox.addr();
        self.sandbox.stop().await;
        Gone {
            broker: self.broker,
            config: self.config,
            addr,
        }
    }

    /// Declares everything, before a daemon has ever run.
    pub(crate) async fn declare(&self) {
        let (code, output) = self.tool(&["publish", "--user", "first", "a"]).await;
        assert_eq!(code, 0, "{output}");
        assert_eq!(self.broker.purge(self.config.queue()).await, 1);
    }

    /// A backlog: so many users with one group each, and an event for each in the queue, which must be there.
    pub(crate) async fn backlog(&self, count: usize) -> Vec<String> {
        let users = users(count);
        self.add(&users);
        let bodies: Vec<String> = users.iter().map(|user| event(user, &["a"])).collect();
        self.broker
            .publish_many(self.config.exchange(), "delete", &bodies)
            .await;
        users
    }

    /// Each of these users has one group.
    pub(crate) fn add(&self, users: &[String]) {
        for user in users {
            self.user(user, &["a"]);
        }
    }

    /// Waits until the group of each of these users is deleted.
    #[track_caller]
    pub(crate) fn eventually_deleted(
        &self,
        users: &[String],
        patience: Duration,
    ) -> impl Future<Output = ()> {
        eventually("all groups are deleted", patience, async move || {
            let left: Vec<&String> = users
                .iter()
                .filter(|user| {
                    self.sandbox
                        .groups(user)
                        .is_none_or(|left| !left.is_empty())
                })
                .collect();
            if left.is_empty() { Ok(()) } else { Err(left) }
        })
    }

    /// Publishes an event and waits until it is done, within `patience`: the way through the daemon is open.
    #[track_caller]
    pub(crate) fn works(&self, patience: Duration) -> impl Future<Output = ()> {
        let users = [unique("works")];
        self.add(&users);
        eventually("an event is published and done", patience, {
            let users = users.clone();
            let mut published = false;
            async move || {
                if !published {
                    let body = event(&users[0], &["a"]);
                    self.broker
                        .try_publish(
                            self.config.exchange(),
                            "delete",
                            body.as_bytes(),
                            persistent(),
                        )
                        .await
                        .map_err(|error| format!("{error:#}"))?;
                    published = true;
                }
                let left = self.sandbox.groups(&users[0]);
                if left.as_ref().is_some_and(Vec::is_empty) {
                    Ok(())
                } else {
                    Err("published, not done".to_owned())
                }
            }
        })
    }

    /// Waits until the sandbox has counted enough.
    #[track_caller]
    pub(crate) fn counted(
        &self,
        patience: Duration,
        enough: impl Fn(&Counters) -> bool,
    ) -> impl Future<Output = ()> {
        let asked_at = Location::caller();
        async move {
            let waited = tokio::time::timeout(patience, self.sandbox.wait_until(enough)).await;
            assert!(
                waited.is_ok(),
                "not enough within {patience:?} for {asked_at}: {:?}",
                self.sandbox.counters()
            );
        }
    }

    /// Runs one of the tools with the daemon's settings; its exit code and all it wrote.
    pub(crate) async fn tool(&self, args: &[&str]) -> (i32, String) {
        self.tool_config(args).spawn().finished(PATIENCE).await
    }

    /// The same, not started yet.
    pub(crate) fn tool_config(&self, args: &[&str]) -> DaemonConfig {
        self.config
            .clone()
            .unset("CONVGROUP_HTTP__LISTEN")
            .args(args)
    }

    /// Starts the daemon and publishes an event whose call hangs.
    pub(crate) async fn daemon_in_a_call(&self) -> Daemon {
        self.user("user15", &["a"]);
        self.fault(Fault::Hang);
        let daemon = self.daemon().await;
        self.publish("user15", &["a"]).await;
        self.counted(PATIENCE, |counters| counters.calls >= 1).await;
        daemon
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
            // A quorum queue applies acks a moment after the channel that sent them is closed.
            self.broker.eventually_depth(&queue, 0, PATIENCE).await;
        }
    }

    /// Waits until the main queue is empty. What is in hand may still come back.
    #[track_caller]
    pub(crate) fn nothing_is_queued(&self) -> impl Future<Output = ()> {
        self.broker
            .eventually_depth(self.config.queue(), 0, PATIENCE)
    }

    /// Waits until the main queue is empty and nothing is in hand.
    pub(crate) async fn settled(&self, daemon: &Daemon) -> Metrics {
        self.nothing_is_queued().await;
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

/// A world whose API is not there.
pub(crate) struct Gone {
    pub(crate) broker: Broker,
    pub(crate) config: DaemonConfig,
    addr: SocketAddr,
}

impl Gone {
    /// The API comes back at its old address, with no users.
    pub(crate) async fn back(self) -> World {
        let config = Config {
            listen: self.addr,
            ..sandbox_config()
        };
        World {
            broker: self.broker,
            config: self.config,
            sandbox: Sandbox::start(config)
                .await
                .expect("the port is still ours"),
        }
    }
}

fn sandbox_config() -> Config {
    Config {
        // Not one of the system's choice: another test's connection could take that while the API is away.
        listen: (Ipv4Addr::LOCALHOST, free_port()).into(),
        secret_key: SecretString::from(SECRET_KEY),
        admins: vec![IDENTIFIER.to_owned()],
        record: true,
        ..Config::default()
    }
}

/// Holds back what API and broker say, so that the answers to many requests wait for their confirms at the same time.
pub(crate) struct Dam {
    api: Proxy,
    broker: Proxy,
}

impl Dam {
    /// Between a daemon of this world, its API and its broker.
    pub(crate) async fn between(world: World, node: &Node) -> (World, Self) {
        let dam = Self {
            api: Proxy::start(world.sandbox.addr()).await,
            broker: Proxy::start(node.addr()).await,
        };
        let world = world
            .behind(&dam.broker)
            .set("CONVGROUP_IM__TIMEOUT", "60s")
            .set("CONVGROUP_IM__BASE_URL", dam.api.http_url());
        (world, dam)
    }

    /// From now on calls are made, and no reply comes back.
    pub(crate) fn close(&self) {
        self.api.freeze_towards_client();
    }

    /// After so many calls in all: their replies come, the broker is silent until each has come, then goes on.
    pub(crate) async fn open(&self, world: &World, daemon: &Daemon, calls: usize) {
        world
            .sandbox
            .wait_until(move |counters| counters.calls >= calls as u64)
            .await;
        self.broker.freeze_towards_client();
        self.api.restore();
        daemon
            .eventually_metrics("all replies have come", PATIENCE, |metrics| {
                metrics.sum("convgroup_api_requests_total") >= calls as f64
            })
            .await;
        self.broker.restore();
    }
}

/// The names of so many users.
pub(crate) fn users(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("user{number}")).collect()
}

/// An event's body.
pub(crate) fn event(user: &str, groups: &[&str]) -> String {
    serde_json::json!({ "From_Account": user, "GroupName": groups }).to_string()
}

/// How many messages were settled with this outcome.
pub(crate) fn settled(metrics: &Metrics, outcome: &str) -> f64 {
    metrics.value("convgroup_messages_settled_total", &[("outcome", outcome)])
}

/// How many calls were answered like this.
pub(crate) fn answered(metrics: &Metrics, code: &str, class: &str) -> f64 {
    metrics.sum_where(
        "convgroup_api_requests_total",
        &[("code", code), ("class", class)],
    )
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
