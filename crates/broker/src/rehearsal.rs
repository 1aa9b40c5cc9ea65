//! What `run` needs at the broker, asked for without changing anything there: for `check`.
//!
//! RabbitMQ looks at the rights before it looks at the arguments (measured on 3.10 and 4.0): a request with one argument that it
//! refuses is answered by 403 where the right is missing, else by 406, and does nothing.
use lapin::options::{BasicConsumeOptions, ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection};

use super::connect::{Role, connect, connect_any};
use super::declare::TopologyConnection;
use super::error::{Object, Right};
use super::fault::Meaning;
use super::publisher::{self, may_answer, may_publish};
use super::rights::Remedy;
use super::{BrokerError, bounded, declare};
use crate::settings::Amqp;
use convgroup_domain::topology::{Binding, Exchange, Queue};

/// Channels on the connection that consumes: for declaring, consuming and the depths.
const CONSUME_CHANNELS: usize = 3;

/// Both connections to one node, as a session has them.
#[derive(Debug)]
pub struct Rehearsal<'a> {
    /// The one that consumes.
    pub consume: TopologyConnection,
    publish: Connection,
    amqp: &'a Amqp,
}

impl<'a> Rehearsal<'a> {
    /// Connects twice to the first node that answers, and has as many channels at a time as a session.
    ///
    /// # Errors
    /// No node answers, or it grants less than that.
    pub async fn open(amqp: &'a Amqp) -> Result<Self, BrokerError> {
        let of_first = Remedy::of_daemon(&amqp.nodes[0], amqp);
        let connected = connect_any(amqp, Role::Check).await;
        let (consume, address) = connected.map_err(|err| of_first.added_to(err))?;
        let remedy = Remedy::of_daemon(&address, amqp);
        let publish = connect(&address, amqp, Role::Check).await;
        let publish = publish.map_err(|err| remedy.added_to(err))?;
        // One more than the publisher's own: to ask whether it may publish.
        for (connection, count) in [
            (&consume, CONSUME_CHANNELS),
            (&publish, publisher::CHANNELS + 1),
        ] {
            let opened = channels(connection, count).await;
            opened.map_err(|err| remedy.added_to(err))?;
        }
        Ok(Self {
            consume: TopologyConnection {
                connection: consume,
                address,
            },
            publish,
            amqp,
        })
    }

    /// Whether an exchange that does not exist may be declared.
    ///
    /// # Errors
    /// Which right is missing.
    pub async fn may_declare_exchange(&self, exchange: Exchange<'_>) -> Result<(), BrokerError> {
        let channel = channel(&self.consume.connection).await?;
        let options = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let wrong = with(
            FieldTable::default(),
            "alternate-exchange",
            AMQPValue::Boolean(true),
        );
        let declared = channel.exchange_declare(
            exchange.name.into(),
            declare::kind(exchange),
            options,
            wrong,
        );
        let asked = bounded("asking whether an exchange may be declared", declared).await;
        let object = || Object::Exchange(exchange.name.to_owned());
        granted(asked).map_err(|err| self.remedied(declare::explained(err, object)))
    }

    /// Whether a queue may be bound to an exchange.
    ///
    /// # Errors
    /// Which right is missing.
    pub async fn may_bind(&self, binding: Binding<'_>) -> Result<(), BrokerError> {
        // Unbinding what is not bound takes the rights of binding, and does nothing.
        let key = format!("convgroup-nobody-{:016x}", rand::random::<u64>());
        let channel = channel(&self.consume.connection).await?;
        let unbound = channel.queue_unbind(
            binding.queue.into(),
            binding.exchange.into(),
            key.into(),
            FieldTable::default(),
        );
        let asked = bounded("asking whether a queue may be bound", unbound).await;
        let object = || declare::bound_object(binding);
        granted(asked).map_err(|err| self.remedied(declare::explained(err, object)))
    }

    /// Whether a queue that does not exist may be declared.
    ///
    /// # Errors
    /// Which right is missing, or which limit is reached.
    pub async fn may_declare(&self, queue: &Queue) -> Result<(), BrokerError> {
        let channel = channel(&self.consume.connection).await?;
        let options = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        let wrong = with(declare::arguments(queue), "x-expires", text("never"));
        let declared = channel.queue_declare(queue.name.as_str().into(), options, wrong);
        let asked = bounded("asking whether a queue may be declared", declared).await;
        let object = || declare::object(queue);
        granted(asked.map(drop)).map_err(|err| self.remedied(declare::explained(err, object)))
    }

    /// Whether the main queue may be consumed.
    ///
    /// # Errors
    /// The right is missing.
    pub async fn may_consume(&self) -> Result<(), BrokerError> {
        may_consume(&self.consume.connection, &self.amqp.topology.main.name)
            .await
            .map_err(|err| self.remedied(err))
    }

    /// Whether copies may be published. To be asked last: during an alarm the broker does not read this connection any more.
    ///
    /// # Errors
    /// As [`may_publish`].
    pub async fn may_publish(&self) -> Result<(), BrokerError> {
        may_publish(&self.publish)
            .await
            .map_err(|err| self.remedied(err))
    }

    /// Whether answers may be published, to an exchange that is there. Nothing is published by asking.
    ///
    /// # Errors
    /// As [`may_answer`].
    pub async fn may_answer(&self, exchange: &str) -> Result<(), BrokerError> {
        may_answer(&self.publish, exchange)
            .await
            .map_err(|err| self.remedied(err))
    }

    /// The error, with what mends it.
    #[must_use]
    pub fn remedied(&self, err: BrokerError) -> BrokerError {
        Remedy::of_daemon(&self.consume.address, self.amqp).added_to(err)
    }
}

/// Whether a queue may be consumed. Takes no message and is no consumer: of an idle queue with a single active consumer that would
/// be the active one. The broker logs the refusal.
///
/// # Errors
/// The right is missing.
pub(super) async fn may_consume(connection: &Connection, queue: &str) -> Result<(), BrokerError> {
    let channel = channel(connection).await?;
    let wrong = with(FieldTable::default(), "x-priority", text("none"));
    let options = BasicConsumeOptions::default();
    let consumed = channel.basic_consume(queue.into(), "".into(), options, wrong);
    let asked = bounded("asking whether the queue may be consumed", consumed).await;
    granted(asked.map(drop)).map_err(|err| unreadable(err, queue))
}

/// The wrong argument was refused, or the object is not there yet: the right is.
fn granted(asked: Result<(), BrokerError>) -> Result<(), BrokerError> {
    asked.or_else(|err| match err.meaning() {
        Some(Meaning::InvalidArgument | Meaning::Missing | Meaning::Away) => Ok(()),
        _ => Err(err),
    })
}

async fn channel(connection: &Connection) -> Result<Channel, BrokerError> {
    bounded("opening a channel", connection.create_channel()).await
}

/// So many channels at a time. They close when they are dropped.
async fn channels(connection: &Connection, count: usize) -> Result<(), BrokerError> {
    let mut channels = Vec::with_capacity(count);
    for _ in 0..count {
        channels.push(channel(connection).await?);
    }
    Ok(())
}

fn with(mut table: FieldTable, key: &str, value: AMQPValue) -> FieldTable {
    table.insert(key.into(), value);
    table
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// What it means that the main queue can't be consumed.
pub(super) fn unreadable(err: BrokerError, queue: &str) -> BrokerError {
    err.or_denied(|| Right::Consume(queue.to_owned()))
}
