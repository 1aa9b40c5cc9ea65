//! One life of the two connections to the broker.
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection};

use super::address::BrokerAddress;
use super::connect::connect;
use super::delivery::Delivery;
use super::life::Life;
use super::publisher::Publisher;
use super::{BrokerError, OPERATION_DEADLINE, bounded, declare, publisher, watch};
use crate::config::Amqp;
use crate::metrics::Metrics;

/// How long a polite good-bye may take; the broker takes everything back without one as well.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

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

impl Session {
    /// Connects twice to one node, declares or verifies the topology, and starts watching. `ask`: whether to ask if copies may be published (see [`may_publish`](publisher::may_publish)).
    ///
    /// # Errors
    /// Anything that keeps the daemon from working with this node, within a bounded time.
    pub async fn open(
        address: &BrokerAddress,
        amqp: &Amqp,
        ask: bool,
        metrics: Arc<Metrics>,
    ) -> Result<Self, BrokerError> {
        let consume = connect(address, amqp, "consume").await?;
        let publish = connect(address, amqp, "publish").await?;
        if amqp.declare {
            declare::declare(&consume, &amqp.topology).await?;
        } else {
            declare::verify(&consume, &amqp.topology).await?;
        }
        let channel = bounded("opening a channel", consume.create_channel()).await?;
        let qos = channel.basic_qos(amqp.prefetch, BasicQosOptions::default());
        bounded("setting the prefetch", qos).await?;
        let life = Arc::new(Life::new(amqp.heartbeat, Arc::clone(&metrics)));
        let publisher = Publisher::open(&publish, publisher::CHANNELS, Arc::clone(&life)).await?;
        let session = Self {
            consume,
            publish,
            channel,
            queue: amqp.topology.main.name.clone(),
            publisher,
            life,
        };
        session.watch(amqp).await?;
        if ask {
            // Last, and watched: during an alarm the broker does not read this connection any more.
            publisher::may_publish(&session.publish).await?;
        }
        Ok(session)
    }

    async fn watch(&self, amqp: &Amqp) -> Result<(), BrokerError> {
        for (role, connection) in [("consume", &self.consume), ("publish", &self.publish)] {
            self.life
                .metrics()
                .amqp_connected
                .with_label_values(&[role])
                .set(1);
            let events = connection.events_listener();
            tokio::spawn(watch::events(
                events,
                role,
                Arc::clone(&self.life),
                self.publisher.blocking(),
            ));
        }
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
