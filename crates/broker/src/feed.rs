//! Publishing many events to the exchange: the producer's side, for the tool `publish`.
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;

use lapin::{BasicProperties, Channel, Confirmation, Connection, PublisherConfirm};

use super::connect::{Role, connect_any};
use super::error::TopologyError;
use super::fault::Fault;
use super::publisher::{confirm_channel, mandatory};
use super::refusal::Refusal;
use super::{BrokerError, OPERATION_DEADLINE, bounded, declare, told_of_alarm};
use crate::settings::Amqp;
use convgroup_domain::cloudevent::Form;
use convgroup_domain::topology::ROUTING_KEY;
use convgroup_host::clock::unix_s;

/// Publishes that wait for their confirm at the same time.
const WINDOW: usize = 256;

/// A connection for publishing events.
#[derive(Debug)]
pub struct Feed {
    connection: Connection,
    channel: Channel,
    amqp: Amqp,
    app: Option<Box<str>>,
}

/// An event to be published.
#[derive(Clone, PartialEq, Eq)]
pub struct FeedEvent {
    /// Its `message_id`: by this it is followed.
    pub id: Box<str>,
    /// Its body.
    pub body: Vec<u8>,
    /// What the body is declared as.
    pub form: Form,
}

/// An id that no other event has.
#[must_use]
pub fn new_id() -> String {
    uuid_v4(rand::random())
}

/// A body names a user.
impl fmt::Debug for FeedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FeedEvent")
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// A UUID of version 4 and of the variant of RFC 9562, of which all other bits are random.
fn uuid_v4(random: u128) -> String {
    let version = random & !(0xf << 76) | (4 << 76);
    let bits = version & !(0b11 << 62) | (0b10 << 62);
    let digits = format!("{bits:032x}");
    let (a, b, c) = (&digits[..8], &digits[8..12], &digits[12..16]);
    format!("{a}-{b}-{c}-{}-{}", &digits[16..20], &digits[20..])
}

/// An event that the broker did not take.
#[derive(Debug)]
pub struct RefusedEvent {
    /// Its place among those to be published, from 0.
    pub index: usize,
    /// Why.
    pub refusal: Refusal,
}

/// Why publishing stopped before its end.
#[derive(Debug)]
pub struct Stopped {
    /// How many of the first events are, for certain, confirmed or among the refused.
    pub done: usize,
    /// Those that were refused before.
    pub refused: Vec<RefusedEvent>,
    /// What went wrong with the next.
    pub cause: BrokerError,
}

/// What kept an event from being confirmed.
enum Unpublished {
    /// The broker closed the channel because of an event: this one, if it was alone.
    Refused(Refusal),
    /// The channel is closed; another operation on it was told why.
    Closed(BrokerError),
    /// Nothing more can be published; so many of the events that counted as done are not certain.
    Stop(BrokerError, usize),
}

impl Feed {
    /// Connects to the first node that answers, and declares the queues if the configuration says so, so that events can be
    /// published before a daemon has ever run. `app` becomes the `app_id` of all events.
    ///
    /// # Errors
    /// No node answers, or the topology is refused.
    pub async fn open(amqp: &Amqp, app: Option<&str>) -> Result<Self, BrokerError> {
        let connection = connect_any(amqp, Role::Feed).await?.0;
        if amqp.declare {
            declare::declare(&connection, &amqp.topology).await?;
        }
        let channel = confirm_channel(&connection).await?;
        Ok(Self {
            connection,
            channel,
            amqp: amqp.clone(),
            app: app.map(Into::into),
        })
    }

    /// Publishes all events, each mandatory and confirmed, and returns those that the broker refused. `on_progress` is called with
    /// the number of events that have their end so far.
    ///
    /// A refused event closes the channel, and with it all that were under way: these are published again, one at a time, until the
    /// refused one is found. An event that is published twice does no harm.
    ///
    /// # Errors
    /// [`Stopped`]: nothing more can be published.
    pub async fn publish_all(
        &mut self,
        events: &[FeedEvent],
        mut on_progress: impl FnMut(usize),
    ) -> Result<Vec<RefusedEvent>, Stopped> {
        let (mut done, mut refused) = (0, Vec::new());
        while done < events.len() {
            let fault = match self.together(events, &mut done, &mut on_progress).await {
                Ok(()) => break,
                Err(Unpublished::Refused(_) | Unpublished::Closed(_)) => {
                    let until = events.len().min(done + WINDOW);
                    self.one_by_one(events, &mut done, until, &mut refused, &mut on_progress)
                        .await
                }
                Err(Unpublished::Stop(cause, uncertain)) => Err((cause, uncertain)),
            };
            if let Err((cause, uncertain)) = fault {
                return Err(Stopped {
                    done: done.saturating_sub(uncertain),
                    refused,
                    cause,
                });
            }
        }
        Ok(refused)
    }

    /// Publishes from `done` on, up to [`WINDOW`] at the same time.
    async fn together(
        &self,
        events: &[FeedEvent],
        done: &mut usize,
        on_progress: &mut impl FnMut(usize),
    ) -> Result<(), Unpublished> {
        let mut waiting: VecDeque<PublisherConfirm> = VecDeque::new();
        let mut left = events[*done..].iter();
        loop {
            if waiting.len() < WINDOW
                && let Some(event) = left.next()
            {
                waiting.push_back(self.send(event).await?);
                continue;
            }
            let Some(confirm) = waiting.pop_front() else {
                return Ok(());
            };
            self.confirmed(confirm).await?;
            *done += 1;
            on_progress(*done);
        }
    }

    /// Publishes from `done` to `until`, one at a time, on a new channel after each that is refused.
    async fn one_by_one(
        &mut self,
        events: &[FeedEvent],
        done: &mut usize,
        until: usize,
        refused: &mut Vec<RefusedEvent>,
        on_progress: &mut impl FnMut(usize),
    ) -> Result<(), (BrokerError, usize)> {
        self.reopen().await.map_err(|cause| (cause, 0))?;
        while *done < until {
            let alone = async { self.confirmed(self.send(&events[*done]).await?).await };
            match alone.await {
                Ok(()) => {}
                Err(Unpublished::Refused(refusal)) => {
                    refused.push(RefusedEvent {
                        index: *done,
                        refusal,
                    });
                    self.reopen().await.map_err(|cause| (cause, 0))?;
                }
                // The one before is confirmed: nothing that was under way is uncertain.
                Err(Unpublished::Stop(cause, _) | Unpublished::Closed(cause)) => {
                    return Err((cause, 0));
                }
            }
            *done += 1;
            on_progress(*done);
        }
        Ok(())
    }

    /// Goes on on a new connection. A new channel on the old one could get the number of the closed one, for which events may still
    /// be on their way: RabbitMQ would close the connection for these.
    async fn reopen(&mut self) -> Result<(), BrokerError> {
        let new = connect_any(&self.amqp, Role::Feed).await?.0;
        let old = std::mem::replace(&mut self.connection, new);
        self.channel = confirm_channel(&self.connection).await?;
        let _ = bounded("closing a connection", old.close(200, "done".into())).await;
        Ok(())
    }

    async fn send(&self, event: &FeedEvent) -> Result<PublisherConfirm, Unpublished> {
        let published = self.channel.basic_publish(
            self.amqp.topology.exchange.as_str().into(),
            ROUTING_KEY.into(),
            mandatory(),
            &event.body,
            properties(event, self.app.as_deref()),
        );
        self.answered("publishing", published).await
    }

    async fn confirmed(&self, confirm: PublisherConfirm) -> Result<(), Unpublished> {
        let stop = |fault| Unpublished::Stop(BrokerError::Failed("publishing", fault), 0);
        match self.answered("waiting for a confirm", confirm).await? {
            Confirmation::Ack(None) => Ok(()),
            // With several under way a returned message may be handed to a neighbour's confirm: none of those that were under way
            // counts as certain, and the whole is to be published again.
            Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => Err(Unpublished::Stop(
                BrokerError::Topology(TopologyError::Unbound {
                    exchange: self.amqp.topology.exchange.clone(),
                }),
                WINDOW,
            )),
            Confirmation::Nack(None) => Err(stop(Fault::Nacked)),
            Confirmation::NotRequested => Err(stop(Fault::NoConfirms)),
        }
    }

    /// Runs one operation of the channel under the deadline, and tells a refused event from anything else.
    async fn answered<T>(
        &self,
        what: &'static str,
        operation: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, Unpublished> {
        let stop = |err| Unpublished::Stop(told_of_alarm(err, &self.connection), 0);
        match tokio::time::timeout(OPERATION_DEADLINE, operation).await {
            Err(_) => Err(stop(BrokerError::Deadline(what))),
            Ok(Ok(value)) => Ok(value),
            Ok(Err(err)) => {
                let fault = Fault::of(&err);
                let refusal = Refusal::of(&fault);
                let failed = BrokerError::Failed(what, fault);
                Err(match refusal {
                    Some(refusal) => Unpublished::Refused(refusal),
                    None if self.channel.status().connected() => stop(failed),
                    None => Unpublished::Closed(failed),
                })
            }
        }
    }
}

/// What a good publisher sets: persistent, what the body is, an id to follow the message by, who asks, and when it was published.
fn properties(event: &FeedEvent, app: Option<&str>) -> BasicProperties {
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type(event.form.content_type().into())
        .with_message_id(event.id.as_ref().into())
        .with_timestamp(unix_s());
    match app {
        Some(app) => properties.with_app_id(app.into()),
        None => properties,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_uuids_of_version_4() {
        assert_eq!(uuid_v4(0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(uuid_v4(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        let bits = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;
        assert_eq!(uuid_v4(bits), "01234567-89ab-4def-8123-456789abcdef");
    }
}
