//! Publishing many events to the exchange: the producer's side, for the tool `publish`.
use std::collections::VecDeque;

use lapin::{BasicProperties, Channel, Confirmation, Connection, PublisherConfirm};

use super::connect::connect_any;
use super::publisher::{confirm_channel, mandatory};
use super::{BrokerError, bounded, declare, told_of_alarm};
use crate::clock::unix_s;
use crate::config::Amqp;
use crate::domain::topology::ROUTING_KEY;

/// Publishes that wait for their confirm at the same time.
const WINDOW: usize = 256;

/// A connection for publishing events.
#[derive(Debug)]
pub struct Feed {
    connection: Connection,
    channel: Channel,
    exchange: String,
}

impl Feed {
    /// Connects to the first node that answers, and declares the queues if the configuration says so, so that events can be
    /// published before a daemon has ever run.
    ///
    /// # Errors
    /// No node answers, or the topology is refused.
    pub async fn open(amqp: &Amqp) -> Result<Self, BrokerError> {
        let connection = connect_any(amqp, "feed").await?.0;
        if amqp.declare {
            declare::declare(&connection, &amqp.topology).await?;
        }
        let channel = confirm_channel(&connection).await?;
        Ok(Self {
            connection,
            channel,
            exchange: amqp.topology.exchange.clone(),
        })
    }

    /// Publishes all events, each mandatory and confirmed; `told` hears how many are confirmed so far.
    ///
    /// # Errors
    /// How many of the first ones are confirmed for certain, and what went wrong with the next.
    pub async fn publish_all(
        &self,
        events: &[Vec<u8>],
        mut told: impl FnMut(usize),
    ) -> Result<(), (usize, BrokerError)> {
        let mut waiting: VecDeque<PublisherConfirm> = VecDeque::new();
        let mut confirmed = 0;
        for event in events {
            if waiting.len() >= WINDOW {
                self.confirm(&mut waiting, &mut confirmed).await?;
                told(confirmed);
            }
            let published = self.channel.basic_publish(
                self.exchange.as_str().into(),
                ROUTING_KEY.into(),
                mandatory(),
                event,
                properties(),
            );
            let confirm = bounded("publishing", published)
                .await
                .map_err(|err| (confirmed, told_of_alarm(err, &self.connection)))?;
            waiting.push_back(confirm);
        }
        while !waiting.is_empty() {
            self.confirm(&mut waiting, &mut confirmed).await?;
            told(confirmed);
        }
        Ok(())
    }

    async fn confirm(
        &self,
        waiting: &mut VecDeque<PublisherConfirm>,
        confirmed: &mut usize,
    ) -> Result<(), (usize, BrokerError)> {
        let Some(confirm) = waiting.pop_front() else {
            return Ok(());
        };
        match bounded("waiting for a confirm", confirm).await {
            Ok(Confirmation::Ack(None)) => {
                *confirmed += 1;
                Ok(())
            }
            // With several under way a returned message may be handed to a neighbour's confirm: none of those that are still
            // waiting counts as certain, and the whole is to be published again.
            Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_))) => Err((
                confirmed.saturating_sub(WINDOW),
                BrokerError::Topology(format!(
                    "exchange {} has no queue bound with the routing key {ROUTING_KEY}: events were returned",
                    self.exchange
                )),
            )),
            Ok(Confirmation::Nack(None)) => Err((
                *confirmed,
                BrokerError::Failed("publishing", "the broker refused an event".to_owned()),
            )),
            Ok(Confirmation::NotRequested) => Err((
                *confirmed,
                BrokerError::Failed("publishing", "the channel has no confirms".to_owned()),
            )),
            Err(err) => Err((*confirmed, told_of_alarm(err, &self.connection))),
        }
    }
}

/// What a good publisher sets: persistent, an id to follow the message by, and when it was published.
fn properties() -> BasicProperties {
    BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("application/json".into())
        .with_message_id(format!("{:032x}", rand::random::<u128>()).into())
        .with_timestamp(unix_s())
}
