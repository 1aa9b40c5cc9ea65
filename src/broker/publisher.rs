//! Publishing a successor so that it is safe to ack the original.
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection};
use tokio::sync::{Mutex, watch};

use super::life::Life;
use super::{BrokerError, OPERATION_DEADLINE, bounded, is_refused};
use crate::intervals::Intervals;

/// How often a publish is tried at most that the broker refuses with a nack. RabbitMQ 3.10 nacks during an election, which takes
/// about half a second; the pauses between these tries add up to several seconds.
const NACKED_TRIES_MAX: u32 = 5;

/// How many messages are published at the same time: with a disk that takes 10 ms to confirm, several hundred a second.
pub(super) const CHANNELS: usize = 8;

/// Publishes on channels with confirms, on each one message at a time.
///
/// One at a time, because a returned message is not tied to its confirm: the client library hands it to whichever confirm of the
/// channel comes next, and with several under way a lost message could pass as confirmed.
#[derive(Debug)]
pub struct Publisher {
    channels: Vec<Mutex<Channel>>,
    next: AtomicUsize,
    frame_max: u32,
    blocked: watch::Sender<bool>,
    life: Arc<Life>,
}

impl Publisher {
    /// Opens `count` channels with confirms on a connection that only publishes.
    pub(super) async fn open(
        connection: &Connection,
        count: usize,
        life: Arc<Life>,
    ) -> Result<Self, BrokerError> {
        let mut channels = Vec::with_capacity(count);
        for _ in 0..count {
            channels.push(Mutex::new(confirm_channel(connection).await?));
        }
        Ok(Self {
            channels,
            next: AtomicUsize::new(0),
            frame_max: connection.configuration().frame_max(),
            blocked: watch::Sender::new(false),
            life,
        })
    }

    /// Where the connection's watcher tells that the broker blocks it.
    pub(super) fn blocking(&self) -> watch::Sender<bool> {
        self.blocked.clone()
    }

    /// The largest frame the connection takes, in bytes.
    #[must_use]
    pub fn frame_max(&self) -> u32 {
        self.frame_max
    }

    /// Publishes to a queue and waits until the broker has confirmed that the message is there: mandatory, confirmed, not
    /// returned. While the broker blocks publishing this waits, for as long as the session lives; the message that is to be
    /// replaced keeps its place in the prefetch meanwhile.
    ///
    /// # Errors
    /// Whatever else happens ends the session: the original message then goes back to its queue.
    pub async fn publish(
        &self,
        queue: &str,
        properties: BasicProperties,
        body: &[u8],
    ) -> Result<(), BrokerError> {
        let published = tokio::select! {
            published = self.until_confirmed(queue, properties, body) => published,
            () = self.life.over() => return Err(BrokerError::Lost(self.life.reason())),
        };
        published.inspect_err(|err| {
            self.life.note_refusal();
            self.life.end(err.to_string());
        })
    }

    async fn until_confirmed(
        &self,
        queue: &str,
        properties: BasicProperties,
        body: &[u8],
    ) -> Result<(), BrokerError> {
        let mut pauses = Intervals::reconnect();
        for number in 1..=NACKED_TRIES_MAX {
            match self.once(queue, properties.clone(), body).await? {
                Confirmation::Ack(None) => return Ok(()),
                Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => {
                    return Err(BrokerError::Topology(format!(
                        "queue {queue} does not exist: a message was returned; `convgroup-deleter topology apply` declares it"
                    )));
                }
                Confirmation::Nack(None) if number == NACKED_TRIES_MAX => break,
                Confirmation::Nack(None) => tokio::time::sleep(pauses.next_pause()).await,
                Confirmation::NotRequested => {
                    return Err(BrokerError::Failed(
                        "publishing",
                        "the channel has no confirms".to_owned(),
                    ));
                }
            }
        }
        Err(BrokerError::Failed(
            "publishing",
            format!(
                "the broker refused {NACKED_TRIES_MAX} times to take a message for {queue}: a length limit set by a policy is \
                 reached, or the queue has lost the majority of its members"
            ),
        ))
    }

    async fn once(
        &self,
        queue: &str,
        properties: BasicProperties,
        body: &[u8],
    ) -> Result<Confirmation, BrokerError> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let channel = self.channels[turn % self.channels.len()].lock().await;
        let confirmed = async {
            channel
                .basic_publish("".into(), queue.into(), mandatory(), body, properties)
                .await?
                .await
        };
        let mut confirmed = std::pin::pin!(confirmed);
        loop {
            match tokio::time::timeout(OPERATION_DEADLINE, &mut confirmed).await {
                Ok(Ok(confirmation)) => return Ok(confirmation),
                Ok(Err(err)) => return Err(BrokerError::Failed("publishing", err.to_string())),
                // A blocked broker will confirm what was sent once the alarm is over; sending again would only double it.
                Err(_) if *self.blocked.borrow() => self.unblocked().await,
                Err(_) => return Err(BrokerError::Deadline("publishing")),
            }
        }
    }

    async fn unblocked(&self) {
        // The sender lives as long as this publisher: the wait can't fail.
        let _ = self.blocked.subscribe().wait_for(|blocked| !blocked).await;
    }
}

/// How long the broker may take to refuse or return a message that nobody gets.
const ASK_MAX: Duration = Duration::from_secs(2);

/// Makes sure that copies may be published at all: a message for a queue that does not exist has to come back.
///
/// Without that right the first copy would end the session, and with it return all that is in hand, again and again, until the
/// broker dead-letters it at its delivery limit. Without an answer the right counts as there: during an alarm there may be none.
///
/// # Errors
/// [`BrokerError::Topology`] where the user may not write to the default exchange.
pub async fn may_publish(connection: &Connection) -> Result<(), BrokerError> {
    const WHAT: &str = "asking whether copies may be published";
    // Its own channel: what comes late must not be taken for another message's. Nobody waits for its end, because during an alarm
    // the broker reads nothing more of this connection.
    let channel = confirm_channel(connection).await?;
    let nobody = format!("convgroup-nobody-{:016x}", rand::random::<u64>());
    let asked = async {
        let properties = BasicProperties::default();
        let published =
            channel.basic_publish("".into(), nobody.into(), mandatory(), b"", properties);
        published.await?.await
    };
    match tokio::time::timeout(ASK_MAX, asked).await {
        Err(_) | Ok(Ok(_)) => Ok(()),
        Ok(Err(err)) if is_refused(&err.to_string()) => Err(BrokerError::Topology(format!(
            "this user may not write to the default exchange, through which copies reach the delay queues and the dead \
                 letters; nothing is consumed without it: {err}"
        ))),
        Ok(Err(err)) => Err(BrokerError::Failed(WHAT, err.to_string())),
    }
}

/// All that is published has to reach a queue: an unroutable message is confirmed all the same, but returned before.
pub(super) fn mandatory() -> BasicPublishOptions {
    BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    }
}

/// Opens a channel on which the broker confirms what is published.
pub(super) async fn confirm_channel(connection: &Connection) -> Result<Channel, BrokerError> {
    let channel = bounded("opening a channel", connection.create_channel()).await?;
    let confirms = channel.confirm_select(ConfirmSelectOptions::default());
    bounded("asking for confirms", confirms).await?;
    Ok(channel)
}
