//! Reading dead letters without harming them.
//!
//! Letters are consumed and held, never got one by one and put back: what is held goes back, in its place and order, when the
//! session closes. Each such look counts one delivery, of which the queue allows two thousand million.
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::BasicConsumeOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, Consumer};

use super::connect::connect_any;
use super::delivery::{Delivery, Message, text};
use super::life::Life;
use super::publisher::Publisher;
use super::successor::{CAUSE, CLASS, CODE, FAILED_AT, INFO, REDRIVE_RUN, REDRIVES, redriven};
use super::{BrokerError, bounded, declare};
use crate::config::Amqp;
use crate::domain::attempt::ATTEMPT;
use crate::domain::letter::Letter;
use crate::metrics::Metrics;

/// How long the next letter may take before a snapshot counts as complete: another tool may hold some.
const IDLE: Duration = Duration::from_secs(2);

/// How long the broker may take to put back what was held; the tool ends then all the same.
const BACK: Duration = Duration::from_secs(5);
/// How often the queue is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// A session with the dead letters: one connection to read, one to publish.
#[derive(Debug)]
pub struct Letters {
    // Closed when dropped, which gives everything held back.
    _connections: [Connection; 2],
    channel: Channel,
    consumer: Consumer,
    /// Letters delivered and not removed: they go back at the end.
    held: AtomicU32,
    publisher: Publisher,
    life: Arc<Life>,
    main: String,
    dead: String,
    /// For questions: a refusal there must not let go of what is held.
    asking: Channel,
}

impl Letters {
    /// Connects and starts to receive; returns the letters that are there now, oldest first.
    ///
    /// # Errors
    /// The broker is not there, refuses, or does not answer.
    pub async fn open(
        amqp: &Amqp,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, Vec<Delivery>), BrokerError> {
        let (reading, _) = connect_any(amqp, "dead letters").await?;
        let (publishing, _) = connect_any(amqp, "dead letters, publish").await?;
        let life = Arc::new(Life::new(amqp.heartbeat, metrics));
        let channel = bounded("opening a channel", reading.create_channel()).await?;
        let queue = &amqp.topology.dead.name;
        let there = declare::depth(&channel, queue).await?;
        let (options, table) = (BasicConsumeOptions::default(), FieldTable::default());
        let consumer = channel.basic_consume(queue.as_str().into(), "dlq".into(), options, table);
        let consumer = bounded("starting to consume", consumer).await?;
        let publisher = Publisher::open(&publishing, 1, Arc::clone(&life)).await?;
        let asking = bounded("opening a channel", reading.create_channel()).await?;
        let mut letters = Self {
            _connections: [reading, publishing],
            channel,
            consumer,
            held: AtomicU32::new(0),
            publisher,
            life,
            main: amqp.topology.main.name.clone(),
            dead: queue.clone(),
            asking,
        };
        let mut snapshot = Vec::new();
        while snapshot.len() < there as usize {
            let Some(delivery) = letters.arrived(IDLE).await? else {
                break;
            };
            snapshot.push(delivery);
        }
        Ok((letters, snapshot))
    }

    /// The next letter that arrives within `patience`.
    ///
    /// # Errors
    /// The session is over.
    pub async fn arrived(&mut self, patience: Duration) -> Result<Option<Delivery>, BrokerError> {
        match tokio::time::timeout(patience, self.consumer.next()).await {
            Err(_) => Ok(None),
            Ok(Some(Ok(delivery))) => {
                self.held.fetch_add(1, Ordering::Relaxed);
                Ok(Some(Delivery::new(delivery, Arc::clone(&self.life))))
            }
            Ok(Some(Err(err))) => Err(BrokerError::Failed("reading dead letters", err.to_string())),
            Ok(None) => Err(BrokerError::Lost(
                "the broker cancelled the consumer".to_owned(),
            )),
        }
    }

    /// Sends a letter back to the main queue, confirmed, then removes it here. Killed in between, it is in both places: the
    /// second deletion finds the group gone.
    ///
    /// # Errors
    /// The letter then stays here.
    pub async fn redrive(&self, letter: Delivery, run: &str) -> Result<(), BrokerError> {
        let properties = redriven(&letter.message, run);
        self.publisher
            .publish(&self.main, properties, &letter.message.body)
            .await?;
        self.remove(letter).await
    }

    /// Removes a letter for good.
    ///
    /// # Errors
    /// The letter then stays here.
    pub async fn remove(&self, letter: Delivery) -> Result<(), BrokerError> {
        letter.receipt.ack().await?;
        self.held.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }

    /// Gives back what is held and waits until it is there again, so that whoever looks next sees it. Without this the broker
    /// gives it back as well, a moment later.
    pub async fn close(self) {
        let _ = bounded("closing a channel", self.channel.close(200, "done".into())).await;
        let held = self.held.load(Ordering::Relaxed);
        let back = async {
            while declare::depth(&self.asking, &self.dead)
                .await
                .is_ok_and(|there| there < held)
            {
                tokio::time::sleep(LOOK).await;
            }
        };
        let _ = tokio::time::timeout(BACK, back).await;
    }

    /// How many messages wait in the main queue.
    ///
    /// # Errors
    /// The broker refused or did not answer.
    pub async fn waiting(&self) -> Result<u32, BrokerError> {
        declare::depth(&self.asking, &self.main).await
    }
}

/// What a letter's headers tell.
#[must_use]
pub fn letter(message: &Message) -> Letter {
    let header = |name: &str| message.text(name).unwrap_or_default();
    let cause = message.text(CAUSE).or_else(|| brokers_reason(message));
    Letter {
        message_id: message.id().to_owned(),
        cause: cause.unwrap_or_else(|| crate::domain::letter::NONE.to_owned()),
        class: header(CLASS),
        code: header(CODE),
        info: header(INFO),
        attempt: message.number(ATTEMPT).unwrap_or(0),
        failed_at_ms: message.number(FAILED_AT).filter(|&at| at > 0),
        redrives: message.number(REDRIVES).unwrap_or(0),
        redrive_run: header(REDRIVE_RUN),
    }
}

/// Why the broker itself dead-lettered it: the first entry of `x-death`.
fn brokers_reason(message: &Message) -> Option<String> {
    let deaths = message
        .properties
        .headers()
        .as_ref()?
        .inner()
        .get("x-death")?;
    let AMQPValue::FieldArray(deaths) = deaths else {
        return None;
    };
    let AMQPValue::FieldTable(death) = deaths.as_slice().first()? else {
        return None;
    };
    text(death.inner().get("reason")?)
}
