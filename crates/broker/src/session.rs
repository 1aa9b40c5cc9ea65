//! One life of the two connections to the broker.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection};

use super::address::BrokerAddress;
use super::answers::Answers;
use super::connect::{Role, connect};
use super::delivery::Delivery;
use super::events::{BrokerEvent, Observer};
use super::life::Life;
use super::publisher::Publisher;
use super::rehearsal::{may_consume, unreadable};
use super::rights::Remedy;
use super::{BrokerError, OPERATION_DEADLINE, bounded, declare, publisher, watch};
use crate::settings::Amqp;
use convgroup_domain::nodes::Ask;

/// How long a polite good-bye may take; the broker takes everything back without one as well.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// Both connections, and all that lives on them. Dropping it closes nothing; [`Session::close`] does, politely.
#[derive(Debug)]
pub struct Session {
    consume: Connection,
    channel: Channel,
    queue: String,
    prefetch: u16,
    /// How many consumers there were: each has a tag of its own.
    consumers: AtomicU64,
    remedy: Remedy,
    /// Publishes successors on the second connection.
    pub publisher: Publisher,
    /// What is known of answers.
    pub answers: Answers,
    life: Arc<Life>,
}

impl Session {
    /// Connects twice to one node, declares or verifies the topology, and starts watching.
    ///
    /// # Errors
    /// Anything that keeps the daemon from working with this node, within a bounded time.
    pub async fn open(
        address: &BrokerAddress,
        amqp: &Amqp,
        ask: Ask,
        observer: Observer,
    ) -> Result<Self, BrokerError> {
        let life = Arc::new(Life::new(amqp.heartbeat, observer));
        let opened = Self::try_open(address, amqp, ask, Arc::clone(&life)).await;
        opened.map_err(|err| {
            // A watcher may hold this life. Without an end now it would report one later, under the next session.
            life.end(err.to_string());
            Remedy::of_daemon(address, amqp).added_to(err)
        })
    }

    async fn try_open(
        address: &BrokerAddress,
        amqp: &Amqp,
        ask: Ask,
        life: Arc<Life>,
    ) -> Result<Self, BrokerError> {
        let consume = connect(address, amqp, Role::Consume).await?;
        let opened = Publisher::open(
            address,
            amqp,
            Role::Publish,
            publisher::CHANNELS,
            Arc::clone(&life),
        );
        let publisher = Box::pin(opened).await?;
        if amqp.declare {
            declare::declare(&consume, &amqp.topology).await?;
        } else {
            declare::verify(&consume, &amqp.topology).await?;
        }
        if ask == Ask::Everything {
            may_consume(&consume, &amqp.topology.main.name).await?;
        }
        let channel = bounded("opening a channel", consume.create_channel()).await?;
        let session = Self {
            consume,
            channel,
            queue: amqp.topology.main.name.clone(),
            prefetch: amqp.prefetch,
            consumers: AtomicU64::new(0),
            remedy: Remedy::of_daemon(address, amqp),
            publisher,
            answers: Answers::new(is_in_doubt(amqp)),
            life,
        };
        session.watch(amqp).await?;
        // Last, and watched: during an alarm the broker does not read this connection any more.
        if ask != Ask::Nothing {
            session.publisher.may_publish().await?;
        }
        if let Some(outcomes) = &amqp.topology.outcomes {
            session.publisher.may_answer(&outcomes.exchange).await?;
        }
        Ok(session)
    }

    async fn watch(&self, amqp: &Amqp) -> Result<(), BrokerError> {
        self.life.tell(BrokerEvent::SessionBegan);
        let events = self.consume.events_listener();
        tokio::spawn(watch::consuming(
            events,
            Role::Consume,
            Arc::clone(&self.life),
        ));
        tokio::spawn(Arc::clone(&self.life).beat());
        let channel = bounded("opening a channel", self.consume.create_channel()).await?;
        tokio::spawn(watch::depths(channel, amqp.clone(), Arc::clone(&self.life)));
        Ok(())
    }

    /// The session's life, to be held by what depends on it.
    #[must_use]
    pub fn life(&self) -> &Arc<Life> {
        &self.life
    }

    /// The node that it is with.
    #[must_use]
    pub fn node(&self) -> &BrokerAddress {
        self.publisher.address()
    }

    /// Messages in hand at most.
    #[must_use]
    pub fn prefetch(&self) -> usize {
        usize::from(self.prefetch)
    }

    /// Starts to consume the main queue. `in_hand` is the number of messages of this session that are not settled yet; it has to be
    /// smaller than [`Self::prefetch`]. RabbitMQ gives each consumer a prefetch of its own. This one gets the configured prefetch less
    /// `in_hand`, so that no more messages are in hand than configured, and never 0, which AMQP takes for "no bound".
    ///
    /// The tag is a new one each time. RabbitMQ 3.10 closes the connection with an internal error when a tag is used again on a
    /// channel that still has unsettled messages (rabbitmq-server issue 5927).
    ///
    /// # Errors
    /// The broker did not answer, or refused: then with the right that is missing and the line that grants it.
    pub async fn consume(&self, in_hand: usize) -> Result<Deliveries<'_>, BrokerError> {
        let in_hand = u16::try_from(in_hand).unwrap_or(u16::MAX);
        let prefetch = self.prefetch.saturating_sub(in_hand).max(1);
        let qos = self.channel.basic_qos(prefetch, BasicQosOptions::default());
        bounded("setting the prefetch", qos).await?;
        let number = self.consumers.fetch_add(1, Ordering::Relaxed);
        let tag = format!("convgroup-{}-{number}", std::process::id());
        let options = BasicConsumeOptions::default();
        let consumer = self.channel.basic_consume(
            self.queue.as_str().into(),
            tag.into(),
            options,
            FieldTable::default(),
        );
        let consumer = bounded("starting to consume", consumer)
            .await
            .map_err(|err| self.remedy.added_to(unreadable(err, &self.queue)))
            .inspect_err(|err| {
                if matches!(err, BrokerError::Denied(_) | BrokerError::Limited(_)) {
                    self.life.note_refusal();
                }
            })?;
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
            self.publisher.close(),
        );
        let _ = tokio::time::timeout(CLOSE_DEADLINE, closed).await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.life.end("dropped");
    }
}

/// Whether somebody else has to have bound a queue for answers.
fn is_in_doubt(amqp: &Amqp) -> bool {
    amqp.topology.outcomes.is_some() && !(amqp.declare && amqp.topology.ledger().is_some())
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
