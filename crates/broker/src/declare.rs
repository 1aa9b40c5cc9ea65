//! Declaring exchange and queues, or verifying that they are there.
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection};

use super::address::BrokerAddress;
use super::connect::{Role, connect_any};
use super::error::{Object, Right, TopologyError};
use super::fault::{Fault, Meaning};
use super::settings::Amqp;
use super::{BrokerError, bounded};
use convgroup_domain::topology::{Argument, Binding, Exchange, ExchangeKind, Queue, Topology};

/// A connection for whoever looks after exchange and queues: declares them, or says how they stand.
#[derive(Debug)]
pub struct TopologyConnection {
    pub(crate) connection: Connection,
    /// The node that it leads to.
    pub address: BrokerAddress,
}

impl TopologyConnection {
    /// Connects to the first node that answers.
    ///
    /// # Errors
    /// None answers; the error is the first node's.
    pub async fn open(amqp: &Amqp) -> Result<Self, BrokerError> {
        let (connection, address) = connect_any(amqp, Role::Topology).await?;
        Ok(Self {
            connection,
            address,
        })
    }

    /// Declares everything; what exists and is the same stays as it is.
    ///
    /// # Errors
    /// Something is there with other arguments, or the user may not declare it.
    pub async fn declare(&self, topology: &Topology) -> Result<(), BrokerError> {
        declare(&self.connection, topology).await
    }

    /// Whether the queues are there, whatever their arguments.
    ///
    /// # Errors
    /// One is not, or the user may not see it.
    pub async fn verify(&self, topology: &Topology) -> Result<(), BrokerError> {
        verify(&self.connection, topology).await
    }

    /// How each queue stands. Each is looked at by itself; nothing is created.
    ///
    /// # Errors
    /// The broker did not answer, or answered nothing that says how a queue stands.
    pub async fn queues<'t>(
        &self,
        topology: &'t Topology,
        comparison: Comparison,
    ) -> Result<Vec<(&'t str, Standing)>, BrokerError> {
        let mut standings = Vec::new();
        for queue in topology.queues() {
            // A refusal closes the channel: each queue has one of its own.
            let channel = bounded("opening a channel", self.connection.create_channel()).await?;
            let standing = match depth(&channel, &queue.name).await {
                Ok(_) => match comparison {
                    Comparison::Existence => Standing::Same,
                    // It exists: declaring it creates nothing, it only compares.
                    Comparison::Arguments => standing(declare_queue(&channel, queue).await)?,
                },
                Err(err) if err.meaning() == Some(Meaning::Missing) => Standing::Missing,
                Err(err) => standing(Err(unseen(err, &object(queue))))?,
            };
            standings.push((queue.name.as_str(), standing));
            close(&channel).await;
        }
        Ok(standings)
    }

    /// How an exchange stands. Nothing is created. Its bindings can't be asked over AMQP.
    ///
    /// # Errors
    /// The broker did not answer, or answered nothing that says how the exchange stands.
    pub async fn exchange(
        &self,
        exchange: Exchange<'_>,
        comparison: Comparison,
    ) -> Result<Standing, BrokerError> {
        let channel = bounded("opening a channel", self.connection.create_channel()).await?;
        let standing = match look_at_exchange(&channel, exchange.name).await {
            Ok(()) => match comparison {
                Comparison::Existence => Ok(Standing::Same),
                // It exists: declaring it creates nothing, it only compares.
                Comparison::Arguments => standing(declare_exchange(&channel, exchange).await),
            },
            Err(err) => exchange_unseen(err, exchange.name, comparison),
        };
        close(&channel).await;
        standing
    }
}

/// Declares everything; what exists already and is the same stays as it is.
///
/// # Errors
/// [`BrokerError::Topology`] names the object and what differs, [`BrokerError::Denied`] the right that is missing.
pub(crate) async fn declare(
    connection: &Connection,
    topology: &Topology,
) -> Result<(), BrokerError> {
    let channel = bounded("opening a channel", connection.create_channel()).await?;
    for exchange in topology.exchanges() {
        declare_exchange(&channel, exchange).await?;
    }
    for queue in topology.queues() {
        declare_queue(&channel, queue).await?;
    }
    for binding in topology.bindings() {
        bind(&channel, binding).await?;
    }
    close(&channel).await;
    Ok(())
}

async fn bind(channel: &Channel, binding: Binding<'_>) -> Result<(), BrokerError> {
    let (options, table) = (QueueBindOptions::default(), FieldTable::default());
    let bound = channel.queue_bind(
        binding.queue.into(),
        binding.exchange.into(),
        binding.routing_key.into(),
        options,
        table,
    );
    bounded("binding a queue", bound)
        .await
        .map_err(|err| explained(err, || bound_object(binding)))
}

/// Verifies that the queues exist, and the exchange for answers; arguments can't be seen this way. The exchange of the publishers is
/// not looked at: a daemon that declares nothing needs no right on it.
///
/// # Errors
/// [`BrokerError::Topology`] names the first that is missing, [`BrokerError::Denied`] the first that may not be looked at.
pub(crate) async fn verify(
    connection: &Connection,
    topology: &Topology,
) -> Result<(), BrokerError> {
    let channel = bounded("opening a channel", connection.create_channel()).await?;
    for queue in topology.queues() {
        depth(&channel, &queue.name)
            .await
            .map_err(|err| unseen(err, &object(queue)))?;
    }
    answers_have_a_place(&channel, topology).await?;
    close(&channel).await;
    Ok(())
}

/// Makes sure that the exchange and the ledger for answers are there, if answers are given.
///
/// # Errors
/// As [`verify`]. When one is missing the channel is closed by the broker.
pub(crate) async fn answers_have_a_place(
    channel: &Channel,
    topology: &Topology,
) -> Result<(), BrokerError> {
    let Some(outcomes) = &topology.outcomes else {
        return Ok(());
    };
    let exchange = outcomes.exchange.as_str();
    look_at_exchange(channel, exchange)
        .await
        .map_err(|err| explained(err, || Object::Exchange(exchange.to_owned())))?;
    if let Some(ledger) = &outcomes.ledger {
        depth(channel, &ledger.name)
            .await
            .map_err(|err| unseen(err, &object(ledger)))?;
    }
    Ok(())
}

/// How closely the broker's exchange and queues are compared with those that are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Whether they are there.
    Existence,
    /// Whether their arguments, or their kind, are the right ones too. That takes the right to declare.
    Arguments,
}

impl Comparison {
    /// As closely as a user can who declares, or who does not (`amqp.declare`).
    #[must_use]
    pub const fn of_one_who(declares: bool) -> Self {
        if declares {
            Self::Arguments
        } else {
            Self::Existence
        }
    }
}

/// How an exchange or a queue at the broker stands to the one that is wanted.
#[derive(Clone, Debug)]
pub enum Standing {
    /// There, with the same arguments as far as they were compared.
    Same,
    /// Not there.
    Missing,
    /// Not to be seen by this user, who needs no right on it: the exchange of a daemon that declares nothing.
    Unseen,
    /// There, but not the same; or the user has not the right to see it, or to compare it.
    Differs(BrokerError),
}

/// How an object stands by what came of declaring it or looking at it.
fn standing(answer: Result<(), BrokerError>) -> Result<Standing, BrokerError> {
    match answer {
        Ok(()) => Ok(Standing::Same),
        Err(err @ (BrokerError::Topology(_) | BrokerError::Denied(_))) => {
            Ok(Standing::Differs(err))
        }
        Err(err) => Err(err),
    }
}

/// A queue at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueState {
    /// Messages ready, that is, in nobody's hand.
    pub ready: u32,
    /// Consumers; of a queue with a single active consumer only the active one.
    pub consumers: u32,
}

/// Looks at a queue by a passive declare: immediate and exact on every version.
///
/// # Errors
/// When the queue is missing the channel is closed by the broker.
pub(crate) async fn inspect(channel: &Channel, queue: &str) -> Result<QueueState, BrokerError> {
    let options = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let declared = channel.queue_declare(queue.into(), options, FieldTable::default());
    bounded("looking at a queue", declared)
        .await
        .map(|queue| QueueState {
            ready: queue.message_count(),
            consumers: queue.consumer_count(),
        })
}

/// Messages ready in a queue.
///
/// # Errors
/// As [`inspect`].
pub(crate) async fn depth(channel: &Channel, queue: &str) -> Result<u32, BrokerError> {
    inspect(channel, queue).await.map(|seen| seen.ready)
}

/// Messages ready in all delay queues together.
///
/// # Errors
/// As [`inspect`].
pub(crate) async fn delayed(channel: &Channel, topology: &Topology) -> Result<u32, BrokerError> {
    let mut delayed = 0;
    for tier in &topology.tiers {
        delayed += depth(channel, &tier.name).await?;
    }
    Ok(delayed)
}

/// Messages that wait, in nobody's hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// In the main queue.
    pub main: u32,
    /// In all delay queues together.
    pub delayed: u32,
}

impl Waiting {
    /// Looks at the queues; that takes no right before RabbitMQ 4.2.6. It changes nothing.
    ///
    /// # Errors
    /// This user may not look, or a queue is not there.
    pub async fn look(amqp: &Amqp) -> Result<Self, BrokerError> {
        let connection = connect_any(amqp, Role::ReadLedger).await?.0;
        let looked = async {
            let channel = bounded("opening a channel", connection.create_channel()).await?;
            Ok(Self {
                main: depth(&channel, &amqp.topology.main.name).await?,
                delayed: delayed(&channel, &amqp.topology).await?,
            })
        };
        let looked = looked.await;
        let _ = bounded("closing a connection", connection.close(200, "done".into())).await;
        looked
    }
}

async fn look_at_exchange(channel: &Channel, exchange: &str) -> Result<(), BrokerError> {
    let options = ExchangeDeclareOptions {
        passive: true,
        ..ExchangeDeclareOptions::default()
    };
    // A passive one compares nothing, the kind neither.
    let (kind, table) = (lapin::ExchangeKind::Direct, FieldTable::default());
    let looked = channel.exchange_declare(exchange.into(), kind, options, table);
    bounded("looking at an exchange", looked).await
}

async fn declare_exchange(channel: &Channel, exchange: Exchange<'_>) -> Result<(), BrokerError> {
    let options = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let (kind, table) = (kind(exchange), FieldTable::default());
    let declared = channel.exchange_declare(exchange.name.into(), kind, options, table);
    bounded("declaring an exchange", declared)
        .await
        .map_err(|err| explained(err, || Object::Exchange(exchange.name.to_owned())))
}

/// The kind of an exchange, as the client library calls it.
pub(crate) const fn kind(exchange: Exchange<'_>) -> lapin::ExchangeKind {
    match exchange.kind {
        ExchangeKind::Direct => lapin::ExchangeKind::Direct,
        ExchangeKind::Topic => lapin::ExchangeKind::Topic,
    }
}

async fn declare_queue(channel: &Channel, queue: &Queue) -> Result<(), BrokerError> {
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let declared = channel.queue_declare(queue.name.as_str().into(), options, arguments(queue));
    bounded("declaring a queue", declared)
        .await
        .map(drop)
        .map_err(|err| explained(err, || object(queue)))
}

/// A channel left open is closed with its connection: not being able to close it is no failure.
async fn close(channel: &Channel) {
    let _ = bounded("closing a channel", channel.close(200, "done".into())).await;
}

pub(crate) fn arguments(queue: &Queue) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in &queue.arguments {
        let value = match value {
            Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
            Argument::Number(number) => AMQPValue::LongLongInt(*number),
            Argument::Bool(flag) => AMQPValue::Boolean(*flag),
        };
        table.insert((*name).into(), value);
    }
    table
}

/// A binding, as errors name it.
pub(crate) fn bound_object(binding: Binding<'_>) -> Object {
    Object::Binding {
        queue: binding.queue.to_owned(),
        exchange: binding.exchange.to_owned(),
    }
}

/// A queue, as errors name it.
pub(crate) fn object(queue: &Queue) -> Object {
    let name = queue.name.clone();
    if queue.is_stream() {
        Object::Ledger(name)
    } else {
        Object::Queue(name)
    }
}

/// What the refusal of a look at a queue means.
pub(crate) fn unseen(err: BrokerError, queue: &Object) -> BrokerError {
    let err = match queue {
        Object::Queue(name) | Object::Ledger(name) => err.or_denied(|| Right::LookAt(name.clone())),
        Object::Exchange(_) | Object::Binding { .. } => err,
    };
    explained(err, || queue.clone())
}

/// What it means that the exchange can't be looked at. RabbitMQ since 4.2.6 wants a right on it, any. One who declares needs that
/// anyway; a daemon with the least rights has none.
fn exchange_unseen(
    err: BrokerError,
    exchange: &str,
    comparison: Comparison,
) -> Result<Standing, BrokerError> {
    match (err.meaning(), comparison) {
        (Some(Meaning::Missing), _) => Ok(Standing::Missing),
        (Some(Meaning::Denied), Comparison::Existence) => Ok(Standing::Unseen),
        _ => standing(Err(explained(err, || {
            Object::Exchange(exchange.to_owned())
        }))),
    }
}

/// Says at 3 a.m. what RabbitMQ's refusal to declare an object, or to show it, means and what to do.
pub(crate) fn explained(err: BrokerError, object: impl Fn() -> Object) -> BrokerError {
    match err.or_denied(|| Right::Declare(object())) {
        BrokerError::Failed(what, Fault::Reply(reply)) => match reply.meaning() {
            Meaning::Inequivalent(differs) => BrokerError::Topology(TopologyError::Inequivalent {
                object: object(),
                differs: differs.to_owned(),
            }),
            Meaning::Missing => BrokerError::Topology(TopologyError::Missing {
                object: object(),
                reply,
            }),
            Meaning::Away => BrokerError::Topology(TopologyError::Away {
                object: object(),
                reply,
            }),
            _ => BrokerError::Failed(what, Fault::Reply(reply)),
        },
        err => err,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fault::Reply;
    use super::*;

    #[test]
    fn what_is_on_a_node_that_is_away_is_not_missing() {
        let text =
            "NOT_FOUND - home node 'a' of durable queue 'q' in vhost '/' is down or inaccessible";
        for (object, advice) in [
            (
                Object::Ledger("q".to_owned()),
                "set outcomes.ledger to another name",
            ),
            (Object::Queue("q".to_owned()), "bring it back"),
        ] {
            let text = text.to_owned();
            let fault = Fault::Reply(Reply { code: 404, text });
            let err = BrokerError::Failed("declaring a queue", fault);
            let told = explained(err, || object.clone()).to_string();
            assert!(
                told.contains("q is there, but its node is down") && told.contains(advice),
                "{told}"
            );
        }
    }

    #[test]
    fn what_a_refused_look_at_the_exchange_means() {
        use Comparison::{Arguments, Existence};
        let refused = (
            403,
            "ACCESS_REFUSED - access to exchange 'e' in vhost '/' refused for user 'u'",
        );
        let missing = (404, "NOT_FOUND - no exchange 'e' in vhost '/'");
        for ((code, text), comparison, wanted) in [
            (missing, Existence, "Ok(Missing)"),
            (missing, Arguments, "Ok(Missing)"),
            (refused, Existence, "Ok(Unseen)"),
            (
                refused,
                Arguments,
                "Ok(Differs(Denied(Denial { right: Declare(Exchange(\"e\"))",
            ),
            ((541, "INTERNAL_ERROR"), Existence, "Err(Failed("),
        ] {
            let text = text.to_owned();
            let fault = Fault::Reply(Reply { code, text });
            let err = BrokerError::Failed("looking at an exchange", fault);
            let found = format!("{:?}", exchange_unseen(err, "e", comparison));
            assert!(found.starts_with(wanted), "{found} is not {wanted}");
        }
    }
}
