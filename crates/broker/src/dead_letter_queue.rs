//! Reading dead letters without harming them.
//!
//! Dead letters are consumed and held, never fetched one by one and put back: what is held goes back, in its place and order, when the
//! session closes. Each such look counts one delivery, of which the queue allows two thousand million.
//!
//! An ack is not confirmed by the broker. Of many in a row it keeps those beyond 32 in the channel's own memory for some
//! milliseconds, and forgets them if the channel closes meanwhile (measured on 3.10.8: of 1,027 acks 33 took effect). So what was
//! removed is looked for again, and counts as removed when it did not come back: [`DeadLetterQueue::make_sure`].
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connect::{Role, connect_any};
use super::dead_letter::{Fingerprint, fingerprint};
use super::delivery::{Delivery, Message};
use super::error::{Busy, Object};
use super::events::Observer;
use super::fault::Fault;
use super::life::Life;
use super::publisher::{Publisher, To};
use super::successor::redriven;
use super::{BrokerError, bounded, declare, settle, watch};
use crate::settings::Amqp;
use convgroup_domain::outcome::OutcomeEvent;
use convgroup_domain::topology::Topology;
use futures_util::StreamExt;
use futures_util::stream::SelectAll;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};

/// How many letters one consumer holds. Without a number a quorum queue gives out 2,000 and no more; this is the largest there is.
const HELD_MAX: u16 = u16::MAX;
/// How long the next letter may take before a snapshot counts as all that can be had.
const IDLE_MAX: Duration = Duration::from_secs(5);
/// How long to wait for another tool that reads the same letters.
const BUSY_WAIT: Duration = Duration::from_secs(5);
/// How long the broker may take to put back what was held; the tool goes on then all the same.
const RETURN_WAIT: Duration = Duration::from_secs(5);
/// How often a queue is looked at meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// After so many acks in a row the broker is asked something on the same channel: it then has had the time to carry them out.
const ACKS_IN_A_ROW: u32 = 16;
/// How long the last acks get before the channel is closed.
const ACKS_FLUSH: Duration = Duration::from_millis(250);
/// How often removing is tried.
const ROUNDS: u32 = 8;

/// A session with the dead letters: one connection to read, one to publish.
#[derive(Debug)]
pub struct DeadLetterQueue {
    reading: Connection,
    hands: Vec<Hand>,
    arriving: SelectAll<Consumer>,
    publisher: Publisher,
    life: Arc<Life>,
    topology: Topology,
    /// For questions: a refusal there must not let go of what is held.
    asking: Channel,
    /// How many letters like this have arrived and were not removed.
    here: HashMap<Fingerprint, Count>,
    /// Letters delivered and not removed: they go back at the end.
    held: u32,
    acks: u32,
}

/// One consumer and the channel it has to itself.
#[derive(Debug)]
struct Hand {
    channel: Channel,
    tag: String,
}

/// How many letters of one fingerprint there are.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    kept: u32,
    removed: u32,
}

impl DeadLetterQueue {
    /// Connects, waits until nobody else reads the letters, and takes all that are there now, oldest first.
    ///
    /// # Errors
    /// The broker is not there, refuses, or does not answer; somebody else reads the letters; or not all of them could be had.
    pub async fn open(amqp: &Amqp) -> Result<(Self, Vec<Delivery>), BrokerError> {
        let (reading, address) = connect_any(amqp, Role::ReadLetters).await?;
        let life = Arc::new(Life::new(amqp.heartbeat, Observer::nobody()));
        let (events, watcher) = (reading.events_listener(), Arc::clone(&life));
        tokio::spawn(watch::consuming(events, Role::ReadLetters, watcher));
        let publisher =
            Publisher::open(&address, amqp, Role::PublishLetters, 1, Arc::clone(&life)).await?;
        let asking = bounded("opening a channel", reading.create_channel()).await?;
        let mut letters = Self {
            reading,
            hands: Vec::new(),
            arriving: SelectAll::new(),
            publisher,
            life,
            topology: amqp.topology.clone(),
            asking,
            here: HashMap::new(),
            held: 0,
            acks: 0,
        };
        let snapshot = letters.all().await?;
        Ok((letters, snapshot))
    }

    async fn all(&mut self) -> Result<Vec<Delivery>, BrokerError> {
        let there = self.begin_alone().await?;
        let received = self.receive(there).await?;
        if received.len() < there as usize {
            return Err(BrokerError::Busy(Busy::Slow {
                queue: self.topology.dead.name.clone(),
                received: received.len(),
                there,
                patience: IDLE_MAX,
            }));
        }
        Ok(received)
    }

    /// Starts to consume as the only one; says how many letters are there.
    async fn begin_alone(&mut self) -> Result<u32, BrokerError> {
        let dead = self.topology.dead.name.clone();
        let began = Instant::now();
        loop {
            let seen = declare::inspect(&self.asking, &dead)
                .await
                .map_err(|err| declare::unseen(err, &Object::Queue(dead.clone())))?;
            if seen.consumers == 0 {
                self.add_hand().await?;
                // Two that began at the same moment see each other now, and both step back.
                if declare::inspect(&self.asking, &dead).await?.consumers <= 1 {
                    return Ok(seen.ready);
                }
                self.let_go().await;
            }
            if began.elapsed() > BUSY_WAIT {
                return Err(BrokerError::Busy(Busy::OtherReader {
                    queue: dead,
                    consumers: seen.consumers,
                }));
            }
            tokio::time::sleep(LOOK_INTERVAL.mul_f64(1.0 + 9.0 * rand::random::<f64>())).await;
        }
    }

    /// Opens one more consumer. The one before is full: letters come in their order all the same.
    async fn add_hand(&mut self) -> Result<(), BrokerError> {
        let channel = bounded("opening a channel", self.reading.create_channel()).await?;
        let qos = channel.basic_qos(HELD_MAX, BasicQosOptions::default());
        bounded("setting the prefetch", qos).await?;
        let tag = format!("dlq-{}", self.hands.len());
        let (options, table) = (BasicConsumeOptions::default(), FieldTable::default());
        let queue = self.topology.dead.name.as_str();
        let consumer = channel.basic_consume(queue.into(), tag.as_str().into(), options, table);
        let consumer = bounded("starting to consume", consumer)
            .await
            .map_err(|err| declare::unseen(err, &Object::Queue(queue.to_owned())))?;
        self.arriving.push(consumer);
        self.hands.push(Hand { channel, tag });
        Ok(())
    }

    /// Takes so many letters, or as many as can be had.
    async fn receive(&mut self, there: u32) -> Result<Vec<Delivery>, BrokerError> {
        let mut received = Vec::new();
        while received.len() < there as usize {
            match self.arrived(IDLE_MAX).await? {
                Some(delivery) => received.push(delivery),
                None => break,
            }
        }
        Ok(received)
    }

    /// The next letter that arrives within `patience`.
    ///
    /// # Errors
    /// The session is over.
    pub async fn arrived(&mut self, patience: Duration) -> Result<Option<Delivery>, BrokerError> {
        if self.held as usize >= self.hands.len() * usize::from(HELD_MAX) {
            self.add_hand().await?;
        }
        match tokio::time::timeout(patience, self.arriving.next()).await {
            Err(_) => Ok(None),
            Ok(Some(Ok(delivery))) => {
                let delivery = Delivery::new(delivery, Arc::clone(&self.life));
                self.held += 1;
                self.here
                    .entry(fingerprint(&delivery.message))
                    .or_default()
                    .kept += 1;
                Ok(Some(delivery))
            }
            Ok(Some(Err(err))) => Err(BrokerError::Failed("reading dead letters", Fault::of(&err))),
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
    pub async fn redrive(&mut self, letter: Delivery, run: &str) -> Result<(), BrokerError> {
        let properties = redriven(&letter.message, run, self.publisher.frame_max());
        let published = self
            .publisher
            .publish(
                To::Queue(&self.topology.main.name),
                properties,
                letter.message.body.clone(),
            )
            .await;
        match published {
            Ok(()) => self.remove(letter).await,
            Err(err) => Err(self.publisher.explained(err).await),
        }
    }

    /// Publishes the answer to a letter, confirmed: for one that is to be removed.
    ///
    /// # Errors
    /// The answer is not confirmed; the letter should stay then.
    pub async fn answer(
        &self,
        letter: &Message,
        outcome: &OutcomeEvent,
    ) -> Result<(), BrokerError> {
        let answered =
            settle::answer(letter, outcome, false, &self.topology, &self.publisher).await;
        match answered {
            Ok(()) => Ok(()),
            Err(err) => Err(self.publisher.explained(err).await),
        }
    }

    /// Removes a letter for good, as far as one can: see [`Self::make_sure`].
    ///
    /// # Errors
    /// The letter then stays here.
    pub async fn remove(&mut self, letter: Delivery) -> Result<(), BrokerError> {
        let known_by = fingerprint(&letter.message);
        letter.receipt.ack().await?;
        self.held -= 1;
        let count = self.here.entry(known_by).or_default();
        count.kept = count.kept.saturating_sub(1);
        count.removed += 1;
        self.acks += 1;
        if self.acks.is_multiple_of(ACKS_IN_A_ROW) {
            for hand in &self.hands {
                declare::inspect(&hand.channel, &self.topology.dead.name).await?;
            }
        }
        Ok(())
    }

    /// Gives everything back, looks for what was removed, and removes again what has come back, until nothing has. Returns how
    /// many came back even the last time. Deliveries of before can't be settled any more.
    ///
    /// # Errors
    /// The session is over.
    pub async fn make_sure(&mut self) -> Result<u32, BrokerError> {
        let mut back = 0;
        for _ in 0..ROUNDS {
            if self.here.values().all(|count| count.removed == 0) {
                return Ok(0);
            }
            self.let_go().await;
            back = self.remove_again().await?;
            if back == 0 {
                return Ok(0);
            }
        }
        Ok(back)
    }

    /// One round of it. Only what was delivered before can be a letter that came back, and only as many of one fingerprint as are too
    /// many.
    async fn remove_again(&mut self) -> Result<u32, BrokerError> {
        let mut known = std::mem::take(&mut self.here);
        let there = self.begin_alone().await?;
        let received = self.receive(there).await?;
        let mut again = 0;
        for delivery in received {
            let Some(count) = known.get_mut(&fingerprint(&delivery.message)) else {
                continue;
            };
            if !delivery.message.redelivered {
                continue;
            }
            if count.kept > 0 {
                count.kept -= 1;
            } else if count.removed > 0 {
                count.removed -= 1;
                self.remove(delivery).await?;
                again += 1;
            }
        }
        Ok(again)
    }

    /// Gives back what is held and waits until it is there again, so that whoever looks next sees it.
    async fn let_go(&mut self) {
        if self.acks > 0 {
            tokio::time::sleep(ACKS_FLUSH).await;
            self.acks = 0;
        }
        // First nobody takes any more, then all is given back, in the order in which it was taken.
        for hand in &self.hands {
            let cancelled = hand
                .channel
                .basic_cancel(hand.tag.as_str().into(), BasicCancelOptions::default());
            let _ = bounded("cancelling the consumer", cancelled).await;
        }
        for hand in self.hands.drain(..) {
            let _ = bounded("closing a channel", hand.channel.close(200, "done".into())).await;
        }
        self.arriving = SelectAll::new();
        let held = std::mem::take(&mut self.held);
        let back = async {
            let dead = &self.topology.dead.name;
            while declare::inspect(&self.asking, dead)
                .await
                .is_ok_and(|seen| seen.ready < held || seen.consumers > 0)
            {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        let _ = tokio::time::timeout(RETURN_WAIT, back).await;
    }

    /// Ends the session. Without this the broker gives back what is held as well, a moment later.
    pub async fn close(mut self) {
        self.let_go().await;
    }

    /// The main queue now.
    ///
    /// # Errors
    /// The broker refused or did not answer.
    pub async fn main(&self) -> Result<declare::QueueState, BrokerError> {
        declare::inspect(&self.asking, &self.topology.main.name).await
    }

    /// How many messages wait in the delay queues.
    ///
    /// # Errors
    /// The broker refused or did not answer.
    pub async fn delayed(&self) -> Result<u32, BrokerError> {
        declare::delayed(&self.asking, &self.topology).await
    }
}
