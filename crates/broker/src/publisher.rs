//! Publishing a successor so that it is safe to ack the original.
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::try_join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Connection};
use tokio::sync::{RwLock, watch};

use super::address::BrokerAddress;
use super::connect::{Role, connect};
use super::error::{Object, Right, TopologyError};
use super::events::BrokerEvent;
use super::fault::Fault;
use super::lane::{Lane, Outgoing, Said, Unconfirmed};
use super::life::Life;
use super::refusal::{Refusal, closes_a_channel};
use super::{BrokerError, bounded, declare, told_of_alarm};
use crate::settings::Amqp;
use convgroup_host::intervals::Intervals;

/// How often a message is published at most while the broker nacks it, or returns an answer. RabbitMQ 3.10 nacks during an election,
/// which takes about half a second; the pauses between these tries add up to several seconds.
const TRIES_MAX: u32 = 5;

/// How many channels a session publishes on: with a disk that takes 10 ms to confirm, several hundred copies a second. Answers that wait
/// for a channel go out together, so more channels would only make more work for the broker.
pub(super) const CHANNELS: usize = 8;

/// Publishes on channels with confirms (see [`Lane`]).
///
/// A copy that the broker refuses costs its channel, or the connection. Both are replaced, so that the session, and with it all that
/// is in hand, goes on.
#[derive(Debug)]
pub struct Publisher {
    line: RwLock<Line>,
    next: AtomicUsize,
    frame_max: u32,
    /// Where a broken connection is replaced.
    address: BrokerAddress,
    amqp: Amqp,
    role: Role,
    blocked: watch::Sender<bool>,
    life: Arc<Life>,
}

/// One connection that only publishes, and its channels.
#[derive(Debug)]
struct Line {
    connection: Connection,
    lanes: Vec<Lane>,
    /// Counts the connections: who met a broken one sees whether it was replaced meanwhile.
    number: u64,
}

impl Line {
    async fn open(
        address: &BrokerAddress,
        amqp: &Amqp,
        role: Role,
        count: usize,
    ) -> Result<Self, BrokerError> {
        let connection = connect(address, amqp, role).await?;
        let lanes = try_join_all((0..count).map(|_| Lane::open(&connection))).await?;
        Ok(Self {
            lanes,
            connection,
            number: 0,
        })
    }

    /// Publishes a message on one of the channels. Waits for as long as the broker blocks publishing.
    async fn publish(
        &self,
        index: usize,
        blocked: &watch::Sender<bool>,
        message: &Arc<Outgoing>,
    ) -> Result<Said, Unconfirmed> {
        let lane = &self.lanes[index % self.lanes.len()];
        lane.publish(message, &self.connection, blocked).await
    }
}

/// Where a message is published.
#[derive(Clone, Copy, Debug)]
pub enum To<'t> {
    /// Into this queue: a copy.
    Queue(&'t str),
    /// To whoever is bound to this exchange: an answer.
    Exchange {
        /// The exchange.
        name: &'t str,
        /// The routing key.
        routing_key: &'t str,
        /// Whether it goes out alone: one that was refused before would cost others their channel.
        alone: bool,
    },
}

impl To<'_> {
    /// The default exchange routes to the queue that the routing key names.
    const fn exchange(&self) -> &str {
        match self {
            Self::Queue(_) => "",
            Self::Exchange { name, .. } => name,
        }
    }

    const fn routing_key(&self) -> &str {
        match self {
            Self::Queue(name) => name,
            Self::Exchange { routing_key, .. } => routing_key,
        }
    }
}

impl Publisher {
    /// Opens a connection that only publishes, with `count` channels. `role` names it at the broker and in the log.
    pub(super) async fn open(
        address: &BrokerAddress,
        amqp: &Amqp,
        role: Role,
        count: usize,
        life: Arc<Life>,
    ) -> Result<Self, BrokerError> {
        let first = Line::open(address, amqp, role, count).await?;
        let publisher = Self {
            next: AtomicUsize::new(0),
            frame_max: first.connection.configuration().frame_max(),
            address: address.clone(),
            amqp: amqp.clone(),
            role,
            blocked: watch::Sender::new(false),
            life,
            line: RwLock::new(first),
        };
        publisher.watch(&*publisher.line.read().await);
        Ok(publisher)
    }

    fn watch(&self, line: &Line) {
        tokio::spawn(super::watch::publishing(
            line.connection.events_listener(),
            self.role,
            Arc::clone(&self.life),
            self.blocked.clone(),
        ));
    }

    /// The node that it publishes to.
    pub(super) fn address(&self) -> &BrokerAddress {
        &self.address
    }

    /// The largest frame the connection takes, in bytes.
    #[must_use]
    pub fn frame_max(&self) -> u32 {
        self.frame_max
    }

    /// Makes sure that copies may be published at all (see [`may_publish`]).
    ///
    /// # Errors
    /// As [`may_publish`].
    pub async fn may_publish(&self) -> Result<(), BrokerError> {
        may_publish(&self.line.read().await.connection).await
    }

    /// Publishes and waits until the broker has confirmed that the message is there: mandatory, confirmed, not
    /// returned. While the broker blocks publishing this waits, for as long as the session lives; the message that is to be
    /// replaced keeps its place in the prefetch meanwhile.
    ///
    /// # Errors
    /// [`BrokerError::Refused`]: the broker does not take this message; others go on. Whatever else happens ends the session: the
    /// original message then goes back to its queue.
    pub async fn publish(
        &self,
        to: To<'_>,
        properties: BasicProperties,
        body: Vec<u8>,
    ) -> Result<(), BrokerError> {
        let message = Arc::new(Outgoing {
            exchange: to.exchange().into(),
            routing_key: to.routing_key().into(),
            properties,
            body,
            shares: matches!(to, To::Exchange { alone: false, .. }),
        });
        let published = tokio::select! {
            biased;
            () = self.life.over() => return Err(BrokerError::Lost(self.life.reason())),
            published = self.until_confirmed(to, &message) => published,
        };
        published.inspect_err(|err| {
            if !matches!(err, BrokerError::Refused(_)) {
                self.life.note_refusal();
                self.life.end(err.to_string());
            }
        })
    }

    async fn until_confirmed(
        &self,
        to: To<'_>,
        message: &Arc<Outgoing>,
    ) -> Result<(), BrokerError> {
        let mut pauses = Intervals::reconnect();
        for number in 1..=TRIES_MAX {
            match self.once(message).await? {
                Said::Kept => return Ok(()),
                Said::Returned => match to {
                    To::Queue(queue) => {
                        return Err(BrokerError::Topology(TopologyError::Returned {
                            queue: queue.to_owned(),
                        }));
                    }
                    // A stream of a node that has just started is not there for some half a second (measured on 3.10 and 4.0).
                    To::Exchange { .. } if number < TRIES_MAX => {
                        tokio::time::sleep(pauses.next_pause()).await;
                    }
                    To::Exchange { name, .. } => return Err(self.unheard(name)),
                },
                Said::Nacked if number == TRIES_MAX => break,
                Said::Nacked => tokio::time::sleep(pauses.next_pause()).await,
            }
        }
        let tries = TRIES_MAX;
        Err(BrokerError::Refused(match to {
            To::Queue(queue) => Refusal::Nacked {
                queue: queue.to_owned(),
                tries,
            },
            To::Exchange { name, .. } => Refusal::AnswerNacked {
                exchange: name.to_owned(),
                tries,
            },
        }))
    }

    /// Makes sure that answers may be published (see [`may_answer`]).
    ///
    /// # Errors
    /// As [`may_answer`].
    pub async fn may_answer(&self, exchange: &str) -> Result<(), BrokerError> {
        may_answer(&self.line.read().await.connection, exchange).await
    }

    /// An answer came back. Where the session declares the ledger, the next one does it anew.
    fn unheard(&self, exchange: &str) -> BrokerError {
        let exchange = exchange.to_owned();
        if self.amqp.declare && self.amqp.topology.ledger().is_some() {
            BrokerError::Topology(TopologyError::LedgerUnbound { exchange })
        } else {
            BrokerError::Refused(Refusal::Unheard { exchange })
        }
    }

    /// Publishes once. Where the connection breaks meanwhile, nobody knows which of the messages under way broke it: each is
    /// published again, alone, on a new connection.
    async fn once(&self, message: &Arc<Outgoing>) -> Result<Said, BrokerError> {
        let met = {
            let line = self.line.read().await;
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            match line.publish(index, &self.blocked, message).await {
                Ok(said) => return Ok(said),
                Err(Unconfirmed::Refused(refusal)) => return Err(BrokerError::Refused(refusal)),
                Err(Unconfirmed::Failed(err)) => return Err(err),
                Err(Unconfirmed::Broken(..)) => line.number,
            }
        };
        Box::pin(self.alone(message, met)).await
    }

    /// Publishes while nobody else does, on another connection than the one with the number `met`. What breaks the connection now
    /// is this message.
    async fn alone(&self, message: &Arc<Outgoing>, met: u64) -> Result<Said, BrokerError> {
        let mut line = self.line.write().await;
        if line.number == met {
            self.replace(&mut line).await?;
        }
        match line.publish(0, &self.blocked, message).await {
            Ok(said) => Ok(said),
            Err(Unconfirmed::Refused(refusal)) => Err(BrokerError::Refused(refusal)),
            Err(Unconfirmed::Failed(err)) => Err(err),
            Err(Unconfirmed::Broken(None, err)) => Err(*err),
            Err(Unconfirmed::Broken(Some(refusal), _)) => {
                self.replace(&mut line).await?;
                Err(BrokerError::Refused(refusal))
            }
        }
    }

    /// Puts a new connection in the place of a broken one.
    async fn replace(&self, line: &mut Line) -> Result<(), BrokerError> {
        let count = line.lanes.len();
        // Boxed: opening takes kilobytes, and happens almost never.
        let opening = Line::open(&self.address, &self.amqp, self.role, count);
        let mut new = Box::pin(opening).await?;
        new.number = line.number + 1;
        *line = new;
        self.blocked.send_replace(false);
        self.watch(line);
        self.life.tell(BrokerEvent::PublisherReplaced);
        tracing::warn!(
            amqp.role = self.role.label(),
            "the broker closed the connection because of one message; there is a new one, the session goes on"
        );
        Ok(())
    }

    /// Opens all channels anew. RabbitMQ reads the limit of a message's size when a channel is opened: a copy that was refused is
    /// offered again with the limit of now.
    ///
    /// # Errors
    /// A channel can't be opened; the session is over then.
    pub async fn renew(&self) -> Result<(), BrokerError> {
        let line = self.line.read().await;
        for lane in &line.lanes {
            let renewed = lane.renew(&line.connection).await;
            renewed.inspect_err(|err| self.life.end(err.to_string()))?;
        }
        Ok(())
    }

    /// What an error means on a connection that the broker does not read.
    pub(super) async fn explained(&self, err: BrokerError) -> BrokerError {
        told_of_alarm(err, &self.line.read().await.connection)
    }

    /// Closes the connection.
    pub(super) async fn close(&self) {
        let line = self.line.read().await;
        let _ = line.connection.close(200, "bye".into()).await;
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
/// [`BrokerError::Denied`] where the user may not write to the default exchange.
pub(crate) async fn may_publish(connection: &Connection) -> Result<(), BrokerError> {
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
        Ok(Err(err)) => {
            let err = BrokerError::Failed(WHAT, Fault::of(&err));
            Err(err.or_denied(|| Right::PublishCopies))
        }
    }
}

/// Makes sure that answers may be published to an exchange, without publishing any: one with an expiration that is no number.
/// RabbitMQ looks at the right first (403), then whether the exchange is there (404), then at the properties (406, which closes this
/// channel and does nothing else; measured on 3.10 and 4.0). Without an answer the right counts as there, as with [`may_publish`].
///
/// # Errors
/// [`BrokerError::Denied`] where the user may not write to the exchange; [`BrokerError::Topology`] where there is none.
pub(crate) async fn may_answer(connection: &Connection, exchange: &str) -> Result<(), BrokerError> {
    const WHAT: &str = "asking whether answers may be published";
    let channel = confirm_channel(connection).await?;
    let asked = async {
        let wrong = BasicProperties::default().with_expiration("never".into());
        let published = channel.basic_publish(exchange.into(), "".into(), mandatory(), b"", wrong);
        published.await?.await
    };
    match tokio::time::timeout(ASK_MAX, asked).await {
        Err(_) | Ok(Ok(_)) => Ok(()),
        Ok(Err(err)) => {
            let fault = Fault::of(&err);
            // The expiration is what it does not take.
            if closes_a_channel(&fault) && Refusal::of(&fault).is_some() {
                return Ok(());
            }
            let err = BrokerError::Failed(WHAT, fault);
            let err = err.or_denied(|| Right::PublishOutcomes(exchange.to_owned()));
            Err(declare::explained(err, || {
                Object::Exchange(exchange.to_owned())
            }))
        }
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
