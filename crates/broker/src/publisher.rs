//! Publishing a successor so that it is safe to ack the original.
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::try_join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection};
use tokio::sync::{Mutex, RwLock, watch};

use super::address::BrokerAddress;
use super::connect::{Role, connect};
use super::error::{Object, Right, TopologyError};
use super::events::BrokerEvent;
use super::fault::Fault;
use super::life::Life;
use super::refusal::{Refusal, breaks_connection, closes_a_channel};
use super::{BrokerError, OPERATION_DEADLINE, bounded, declare, told_of_alarm};
use crate::settings::Amqp;
use convgroup_domain::topology::Topology;
use convgroup_host::intervals::Intervals;

/// How often a publish is tried at most that the broker refuses with a nack. RabbitMQ 3.10 nacks during an election, which takes
/// about half a second; the pauses between these tries add up to several seconds.
const NACKED_TRIES_MAX: u32 = 5;

/// How many copies are published at the same time: with a disk that takes 10 ms to confirm, several hundred a second.
const COPIES_AT_ONCE: usize = 8;

/// How many messages are published at the same time where each delivery is answered: with 8 the broker's confirms, of about 2 ms each,
/// would hold the daemon to a third of what a bare loop does (`make bench`).
const ANSWERS_AT_ONCE: usize = 64;

/// How many channels a session publishes on.
pub(super) const fn channels(topology: &Topology) -> usize {
    if topology.outcomes.is_some() {
        ANSWERS_AT_ONCE
    } else {
        COPIES_AT_ONCE
    }
}

/// Publishes on channels with confirms, on each one message at a time.
///
/// One at a time, because a returned message is not tied to its confirm: the client library hands it to whichever confirm of the
/// channel comes next, and with several under way a lost message could pass as confirmed.
///
/// A copy that the broker refuses costs its channel, or the connection. Both are replaced here, so that the session, and with it
/// all that is in hand, goes on.
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
    channels: Vec<Mutex<Channel>>,
    /// Counts the connections: who met a broken one sees whether it was replaced meanwhile.
    number: u64,
}

/// Why a publish was not answered with a confirmation.
enum Unconfirmed {
    /// The broker closed the channel because of this message. The channel is replaced.
    Refused(Refusal),
    /// The connection is gone. The refusal is there where the broker closed it because of a message, not necessarily this one.
    Broken(Option<Refusal>, BrokerError),
    /// Anything else.
    Failed(BrokerError),
}

impl Line {
    async fn open(
        address: &BrokerAddress,
        amqp: &Amqp,
        role: Role,
        count: usize,
    ) -> Result<Self, BrokerError> {
        let connection = connect(address, amqp, role).await?;
        let channels = try_join_all((0..count).map(|_| confirm_channel(&connection))).await?;
        Ok(Self {
            channels: channels.into_iter().map(Mutex::new).collect(),
            connection,
            number: 0,
        })
    }

    /// Publishes one message on one of the channels. Waits for as long as the broker blocks publishing.
    async fn publish(
        &self,
        index: usize,
        blocked: &watch::Sender<bool>,
        copy: &Copy<'_>,
    ) -> Result<Confirmation, Unconfirmed> {
        let mut channel = self.channels[index % self.channels.len()].lock().await;
        let confirmed = {
            let confirmed = async {
                channel
                    .basic_publish(
                        copy.to.exchange().into(),
                        copy.to.routing_key().into(),
                        mandatory(),
                        copy.body,
                        copy.properties.clone(),
                    )
                    .await?
                    .await
            };
            let mut confirmed = std::pin::pin!(confirmed);
            loop {
                match tokio::time::timeout(OPERATION_DEADLINE, &mut confirmed).await {
                    Ok(answer) => break answer,
                    // A blocked broker will confirm what was sent once the alarm is over; sending again would only double it.
                    Err(_) if *blocked.borrow() => unblocked(blocked).await,
                    Err(_) => {
                        return Err(Unconfirmed::Failed(BrokerError::Deadline(WHAT)));
                    }
                }
            }
        };
        let fault = match confirmed {
            Ok(confirmation) => return Ok(confirmation),
            Err(err) => Fault::of(&err),
        };
        let refusal = Refusal::of(&fault);
        if !self.connection.status().connected() || breaks_connection(&fault) {
            return Err(Unconfirmed::Broken(
                refusal,
                BrokerError::Failed(WHAT, fault),
            ));
        }
        match refusal {
            None => Err(Unconfirmed::Failed(BrokerError::Failed(WHAT, fault))),
            Some(refusal) => {
                *channel = confirm_channel(&self.connection)
                    .await
                    .map_err(Unconfirmed::Failed)?;
                Err(Unconfirmed::Refused(refusal))
            }
        }
    }
}

const WHAT: &str = "publishing";

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

/// A message on its way.
struct Copy<'c> {
    to: To<'c>,
    properties: BasicProperties,
    body: &'c [u8],
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
        body: &[u8],
    ) -> Result<(), BrokerError> {
        let copy = Copy {
            to,
            properties,
            body,
        };
        let published = tokio::select! {
            published = self.until_confirmed(&copy) => published,
            () = self.life.over() => return Err(BrokerError::Lost(self.life.reason())),
        };
        published.inspect_err(|err| {
            if !matches!(err, BrokerError::Refused(_)) {
                self.life.note_refusal();
                self.life.end(err.to_string());
            }
        })
    }

    async fn until_confirmed(&self, copy: &Copy<'_>) -> Result<(), BrokerError> {
        let mut pauses = Intervals::reconnect();
        for number in 1..=NACKED_TRIES_MAX {
            match self.once(copy).await? {
                Confirmation::Ack(None) => return Ok(()),
                Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => match copy.to {
                    To::Queue(queue) => {
                        return Err(BrokerError::Topology(TopologyError::Returned {
                            queue: queue.to_owned(),
                        }));
                    }
                    // A stream of a node that has just started is not there for some half a second (measured on 3.10 and 4.0).
                    To::Exchange { .. } if number < NACKED_TRIES_MAX => {
                        tokio::time::sleep(pauses.next_pause()).await;
                    }
                    To::Exchange { name, .. } => return Err(self.unheard(name)),
                },
                Confirmation::Nack(None) if number == NACKED_TRIES_MAX => break,
                Confirmation::Nack(None) => tokio::time::sleep(pauses.next_pause()).await,
                Confirmation::NotRequested => {
                    return Err(BrokerError::Failed(WHAT, Fault::NoConfirms));
                }
            }
        }
        let tries = NACKED_TRIES_MAX;
        Err(BrokerError::Refused(match copy.to {
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
    async fn once(&self, copy: &Copy<'_>) -> Result<Confirmation, BrokerError> {
        let met = {
            let line = self.line.read().await;
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            match line.publish(index, &self.blocked, copy).await {
                Ok(confirmation) => return Ok(confirmation),
                Err(Unconfirmed::Refused(refusal)) => return Err(BrokerError::Refused(refusal)),
                Err(Unconfirmed::Failed(err)) => return Err(err),
                Err(Unconfirmed::Broken(..)) => line.number,
            }
        };
        Box::pin(self.alone(copy, met)).await
    }

    /// Publishes while nobody else does, on another connection than the one with the number `met`. What breaks the connection now
    /// is this message.
    async fn alone(&self, copy: &Copy<'_>, met: u64) -> Result<Confirmation, BrokerError> {
        let mut line = self.line.write().await;
        if line.number == met {
            self.replace(&mut line).await?;
        }
        match line.publish(0, &self.blocked, copy).await {
            Ok(confirmation) => Ok(confirmation),
            Err(Unconfirmed::Refused(refusal)) => Err(BrokerError::Refused(refusal)),
            Err(Unconfirmed::Failed(err) | Unconfirmed::Broken(None, err)) => Err(err),
            Err(Unconfirmed::Broken(Some(refusal), _)) => {
                self.replace(&mut line).await?;
                Err(BrokerError::Refused(refusal))
            }
        }
    }

    /// Puts a new connection in the place of a broken one.
    async fn replace(&self, line: &mut Line) -> Result<(), BrokerError> {
        let count = line.channels.len();
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
        for channel in &line.channels {
            let mut channel = channel.lock().await;
            let new = confirm_channel(&line.connection).await;
            let old = std::mem::replace(
                &mut *channel,
                new.inspect_err(|err| self.life.end(err.to_string()))?,
            );
            let _ = bounded("closing a channel", old.close(200, "done".into())).await;
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

async fn unblocked(blocked: &watch::Sender<bool>) {
    // The sender lives as long as its publisher: the wait can't fail.
    let _ = blocked.subscribe().wait_for(|blocked| !blocked).await;
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
