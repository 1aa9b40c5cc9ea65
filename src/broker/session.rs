//! One life of the two connections to the broker.
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use futures_util::future::join;
use futures_util::{Stream, StreamExt};
use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Channel, Connection, ConnectionBuilder, ConnectionProperties, ErrorKind, Event};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::address::BrokerAddress;
use super::delivery::Delivery;
use super::publisher::Publisher;
use super::{BrokerError, OPERATION_DEADLINE, bounded, declare};
use crate::config::Amqp;
use crate::metrics::{Metrics, ROLES};

/// A broker takes its messages back from a silent client after two to three heartbeats; a process that stood still for this
/// many stops calling before that.
const STALL_HEARTBEATS: f64 = 1.5;
/// A session that lived this long was of use, even if there was no message to prove it on.
const OF_USE_AFTER: Duration = Duration::from_secs(30);
/// How long a node may take to answer the protocol header. It is the first thing a node does.
const GREETING_DEADLINE: Duration = Duration::from_secs(5);
/// How long messages are taken one at a time after one that could not be read (see [`super::supervisor`]).
pub(super) const ISOLATION: Duration = Duration::from_secs(10);
/// How long a polite good-bye may take; the broker takes everything back without one as well.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);
/// How often the queues' depths are asked; it is also how often the broker has to prove that it still answers.
const DEPTH_INTERVAL: Duration = Duration::from_secs(5);
/// How often the session looks at the clock to notice that the whole process stood still.
const PULSE_INTERVAL: Duration = Duration::from_millis(500);

/// Both connections, and all that lives on them. Dropping it closes nothing; [`Session::close`] does, politely.
#[derive(Debug)]
pub struct Session {
    consume: Connection,
    publish: Connection,
    channel: Channel,
    queue: String,
    /// Publishes successors on the second connection.
    pub publisher: Publisher,
    life: Arc<Life>,
}

/// Whether a session is still alive. Shared by all that depends on it.
#[derive(Debug)]
pub struct Life {
    over: CancellationToken,
    reason: OnceLock<String>,
    began: Instant,
    proved: AtomicBool,
    unreadable: AtomicBool,
    pulse: Mutex<Instant>,
    stall_max: Duration,
    metrics: Arc<Metrics>,
}

impl Life {
    /// Ends the session; the first reason is the one that is told.
    pub fn end(&self, reason: impl Into<String>) {
        if self.reason.set(reason.into()).is_ok() {
            self.over.cancel();
            for role in ROLES {
                self.metrics
                    .amqp_connected
                    .with_label_values(&[role])
                    .set(0);
            }
            self.metrics.amqp_blocked.set(0);
        }
    }

    /// Says that a message was settled: this session is of use.
    pub fn prove(&self) {
        self.proved.store(true, Ordering::Relaxed);
    }

    /// Whether work was done on it, or it stood by for a while.
    pub(super) fn was_of_use(&self) -> bool {
        self.proved.load(Ordering::Relaxed) || self.began.elapsed() >= OF_USE_AFTER
    }

    /// Whether it ended because the broker sent a message that the client library can't read.
    pub(super) fn met_unreadable(&self) -> bool {
        self.unreadable.load(Ordering::Relaxed)
    }

    /// Whether a call may still be started for a message of this session.
    ///
    /// A process that stood still (stopped, frozen with its container, swapped out) for more than a heartbeat and a half can't know whether the
    /// broker gave its messages to somebody else: the session ends then, whoever notices first.
    #[must_use]
    pub fn is_on(&self) -> bool {
        if self.over.is_cancelled() {
            return false;
        }
        let stall = self.pulse.lock().expect("no panic while held").elapsed();
        if stall > self.stall_max {
            self.end(format!("the process stood still for {} s", stall.as_secs()));
            return false;
        }
        true
    }

    /// Completes when the session is over.
    pub fn over(&self) -> impl Future<Output = ()> + '_ {
        self.over.cancelled()
    }

    /// Why it is over.
    #[must_use]
    pub fn reason(&self) -> String {
        self.reason
            .get()
            .cloned()
            .unwrap_or_else(|| "closed".to_owned())
    }

    /// A consumer's prefetch can't be changed: only the next session has the full one.
    async fn end_isolation(self: Arc<Self>) {
        tokio::select! {
            () = tokio::time::sleep(ISOLATION) => self.end("nothing unreadable for a while: back to the full prefetch"),
            () = self.over() => {}
        }
    }

    async fn beat(self: Arc<Self>) {
        while self.is_on() {
            *self.pulse.lock().expect("no panic while held") = Instant::now();
            tokio::select! {
                () = tokio::time::sleep(PULSE_INTERVAL) => {}
                () = self.over() => {}
            }
        }
    }
}

impl Session {
    /// Connects twice to one node (`prefetch` may be smaller than configured), declares or verifies the topology, and starts watching.
    ///
    /// # Errors
    /// Anything that keeps the daemon from working with this node, within a bounded time.
    pub async fn open(
        address: &BrokerAddress,
        amqp: &Amqp,
        prefetch: u16,
        metrics: Arc<Metrics>,
    ) -> Result<Self, BrokerError> {
        let uri = address.uri(amqp.heartbeat);
        let consume = connect(uri.clone(), "consume").await?;
        let publish = connect(uri, "publish").await?;
        if amqp.declare {
            declare::declare(&consume, &amqp.topology).await?;
        } else {
            declare::verify(&consume, &amqp.topology).await?;
        }
        let channel = bounded("opening a channel", consume.create_channel()).await?;
        let qos = channel.basic_qos(prefetch, BasicQosOptions::default());
        bounded("setting the prefetch", qos).await?;
        let confirms = bounded("opening a channel", publish.create_channel()).await?;
        bounded(
            "asking for confirms",
            confirms.confirm_select(ConfirmSelectOptions::default()),
        )
        .await?;
        let life = Arc::new(Life {
            over: CancellationToken::new(),
            reason: OnceLock::new(),
            began: Instant::now(),
            proved: AtomicBool::new(false),
            unreadable: AtomicBool::new(false),
            pulse: Mutex::new(Instant::now()),
            stall_max: amqp.heartbeat.mul_f64(STALL_HEARTBEATS),
            metrics,
        });
        let frame_max = publish.configuration().frame_max();
        let publisher = Publisher::new(confirms, frame_max, Arc::clone(&life));
        let session = Self {
            consume,
            publish,
            channel,
            queue: amqp.topology.main.name.clone(),
            publisher,
            life,
        };
        session.watch(amqp).await?;
        if prefetch < amqp.prefetch {
            tokio::spawn(Arc::clone(&session.life).end_isolation());
        }
        Ok(session)
    }

    async fn watch(&self, amqp: &Amqp) -> Result<(), BrokerError> {
        for (role, connection) in [("consume", &self.consume), ("publish", &self.publish)] {
            self.life
                .metrics
                .amqp_connected
                .with_label_values(&[role])
                .set(1);
            let events = connection.events_listener();
            tokio::spawn(watch_events(
                events,
                role,
                Arc::clone(&self.life),
                self.publisher.blocking(),
            ));
        }
        tokio::spawn(Arc::clone(&self.life).beat());
        let channel = bounded("opening a channel", self.consume.create_channel()).await?;
        tokio::spawn(watch_depths(channel, amqp.clone(), Arc::clone(&self.life)));
        Ok(())
    }

    /// The session's life, to be held by what depends on it.
    #[must_use]
    pub fn life(&self) -> &Arc<Life> {
        &self.life
    }

    /// Starts to consume the main queue.
    ///
    /// # Errors
    /// The broker refused or did not answer.
    pub async fn consume(&self) -> Result<Deliveries<'_>, BrokerError> {
        let tag = format!("convgroup-{}", std::process::id());
        let options = BasicConsumeOptions::default();
        let consumer = self.channel.basic_consume(
            self.queue.as_str().into(),
            tag.into(),
            options,
            FieldTable::default(),
        );
        let consumer = bounded("starting to consume", consumer).await?;
        Ok(Deliveries {
            session: self,
            consumer,
        })
    }

    /// Closes both connections, politely but not patiently. What is not settled goes back to the queue.
    pub async fn close(&self) {
        self.life.end("closed by this daemon");
        let closed = join(
            self.consume.close(200, "bye".into()),
            self.publish.close(200, "bye".into()),
        );
        let _ = tokio::time::timeout(CLOSE_DEADLINE, closed).await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.life.end("dropped");
    }
}

/// The stream of deliveries of one consumer.
#[derive(Debug)]
pub struct Deliveries<'s> {
    session: &'s Session,
    consumer: lapin::Consumer,
}

impl Deliveries<'_> {
    /// The next delivery; `None` when the consumer is cancelled or the session is over. A consumer that the broker cancelled
    /// (queue deleted, node gone) or whose channel was closed ends the session.
    pub async fn next(&mut self) -> Option<Delivery> {
        match self.consumer.next().await {
            Some(Ok(delivery)) => Some(Delivery::new(delivery, Arc::clone(&self.session.life))),
            Some(Err(err)) => {
                if matches!(err.kind(), ErrorKind::ParsingError(_)) {
                    self.session.life.unreadable.store(true, Ordering::Relaxed);
                }
                self.session
                    .life
                    .end(format!("the consumer's channel failed: {err}"));
                None
            }
            None => {
                self.session.life.end("the broker cancelled the consumer");
                None
            }
        }
    }

    /// Cancels the consumer and returns what was delivered before the broker knew.
    ///
    /// # Errors
    /// The broker refused or did not answer; the session is over then, and what was delivered goes back by itself.
    pub async fn cancel(mut self) -> Result<Vec<Delivery>, BrokerError> {
        let tag = self.consumer.tag();
        let cancelled = self
            .session
            .channel
            .basic_cancel(tag, BasicCancelOptions::default());
        if let Err(err) = bounded("cancelling the consumer", cancelled).await {
            self.session.life.end(err.to_string());
            return Err(err);
        }
        let mut left = Vec::new();
        while let Ok(Some(Ok(delivery))) =
            tokio::time::timeout(OPERATION_DEADLINE, self.consumer.next()).await
        {
            left.push(Delivery::new(delivery, Arc::clone(&self.session.life)));
        }
        Ok(left)
    }
}

/// Opens one connection, for the daemon or a tool.
///
/// # Errors
/// The broker can't be reached, refuses, or does not answer in time.
pub async fn connect(uri: AMQPUri, role: &'static str) -> Result<Connection, BrokerError> {
    greet(&uri).await?;
    let name = format!("convgroup-deleter {} {role}", env!("CARGO_PKG_VERSION"));
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let builder = ConnectionBuilder::new()
        .map_err(|err| BrokerError::Failed("connecting", err.to_string()))?
        .with_uri(uri)
        .with_properties(properties);
    bounded("connecting", builder.connect()).await
}

/// Sees whether a node answers at all. lapin gives each attempt a thread and a socket of its own and no deadline: attempts at a
/// frozen node would pile up. Over TLS only the TCP connection is tried.
async fn greet(uri: &AMQPUri) -> Result<(), BrokerError> {
    const HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";
    let greeting = async {
        let address = (uri.authority.host.as_str(), uri.authority.port);
        let mut stream = TcpStream::connect(address).await?;
        if uri.scheme == AMQPScheme::AMQP {
            stream.write_all(HEADER).await?;
            stream.read_u8().await?;
        }
        std::io::Result::Ok(())
    };
    match tokio::time::timeout(GREETING_DEADLINE, greeting).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(err)) => Err(BrokerError::Failed("connecting", err.to_string())),
        Err(_) => Err(BrokerError::Failed(
            "connecting",
            format!(
                "the node did not answer within {} s",
                GREETING_DEADLINE.as_secs()
            ),
        )),
    }
}

/// Opens one connection to the first node that answers; says which one it is.
///
/// # Errors
/// None answers; the error is the first node's.
pub async fn connect_any(
    amqp: &Amqp,
    role: &'static str,
) -> Result<(Connection, BrokerAddress), BrokerError> {
    let mut first = None;
    for address in &amqp.nodes {
        match connect(address.uri(amqp.heartbeat), role).await {
            Ok(connection) => return Ok((connection, address.clone())),
            Err(err) => {
                let err = BrokerError::Unreachable(address.to_string(), Box::new(err));
                first = first.or(Some(err));
            }
        }
    }
    Err(first.unwrap_or(BrokerError::Lost("no node is configured".to_owned())))
}

async fn watch_events(
    events: impl Stream<Item = Event>,
    role: &'static str,
    life: Arc<Life>,
    blocking: tokio::sync::watch::Sender<bool>,
) {
    let mut events = std::pin::pin!(events);
    loop {
        let event = tokio::select! {
            biased;
            () = life.over() => return,
            event = events.next() => event,
        };
        match event {
            Some(Event::ConnectionBlocked(reason)) => {
                tracing::warn!(
                    amqp.role = role,
                    reason,
                    "the broker blocks publishing (an alarm is on): deletions go on, delays and dead letters wait"
                );
                life.metrics.amqp_blocked.set(1);
                blocking.send_replace(true);
            }
            Some(Event::ConnectionUnblocked) => {
                tracing::info!(amqp.role = role, "the broker takes publishes again");
                life.metrics.amqp_blocked.set(0);
                blocking.send_replace(false);
            }
            Some(Event::Error(err)) => {
                if matches!(err.kind(), ErrorKind::ParsingError(_)) {
                    life.unreadable.store(true, Ordering::Relaxed);
                }
                life.end(format!("the {role} connection failed: {err}"));
            }
            Some(_) => {}
            None => life.end(format!("the {role} connection is gone")),
        }
    }
}

async fn watch_depths(channel: Channel, amqp: Amqp, life: Arc<Life>) {
    while life.is_on() {
        if let Err(err) = ask_depths(&channel, &amqp, &life.metrics).await {
            life.end(err.to_string());
        }
        tokio::select! {
            () = tokio::time::sleep(DEPTH_INTERVAL) => {}
            () = life.over() => {}
        }
    }
}

async fn ask_depths(channel: &Channel, amqp: &Amqp, metrics: &Metrics) -> Result<(), BrokerError> {
    let topology = &amqp.topology;
    let main = declare::depth(channel, &topology.main.name).await?;
    let mut retry = 0;
    for tier in &topology.tiers {
        retry += declare::depth(channel, &tier.queue.name).await?;
    }
    let dead = declare::depth(channel, &topology.dead.name).await?;
    for (queue, depth) in [("main", main), ("retry", retry), ("dead", dead)] {
        metrics
            .queue_messages
            .with_label_values(&[queue])
            .set(i64::from(depth));
    }
    Ok(())
}
