//! An AMQP client for tests that shares no code with the daemon.
//!
//! It declares nothing unless told to, never gets a message with `basic.get` (which a single-active-consumer queue
//! refuses), and every operation has a deadline. Depths come from passive declares, which are exact at once; the
//! management numbers and `list_queues` lag by seconds.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions,
    BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions,
    QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Queue};
use tokio::time::timeout;

use super::eventually;

/// No operation on a healthy broker takes this long, however busy the machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// One connection to a broker.
#[derive(Debug)]
pub struct Broker {
    connection: Connection,
}

/// What becomes of messages after [`Broker::read`] has seen them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    /// They are removed.
    Ack,
    /// They go back to the queue.
    Requeue,
}

/// A message as it was delivered.
#[derive(Clone, Debug)]
pub struct Message {
    /// The body.
    pub body: Vec<u8>,
    /// The properties, headers included.
    pub properties: BasicProperties,
    /// The exchange it came through last.
    pub exchange: String,
    /// The routing key it came with.
    pub routing_key: String,
    /// Whether it was delivered before.
    pub redelivered: bool,
}

impl Message {
    /// The header of this name, when there is one.
    pub fn header(&self, name: &str) -> Option<&AMQPValue> {
        self.properties.headers().as_ref()?.inner().get(name)
    }

    /// The header's text, when it is a string of either kind.
    pub fn header_text(&self, name: &str) -> Option<String> {
        match self.header(name)? {
            AMQPValue::LongString(text) => {
                Some(String::from_utf8_lossy(text.as_bytes()).into_owned())
            }
            AMQPValue::ShortString(text) => Some(text.to_string()),
            _ => None,
        }
    }

    /// The header's number, when it is an integer of any width.
    pub fn header_number(&self, name: &str) -> Option<i64> {
        match *self.header(name)? {
            AMQPValue::ShortShortInt(number) => Some(number.into()),
            AMQPValue::ShortShortUInt(number) => Some(number.into()),
            AMQPValue::ShortInt(number) => Some(number.into()),
            AMQPValue::ShortUInt(number) => Some(number.into()),
            AMQPValue::LongInt(number) => Some(number.into()),
            AMQPValue::LongUInt(number) => Some(number.into()),
            AMQPValue::LongLongInt(number) => Some(number),
            AMQPValue::Timestamp(number) => i64::try_from(number).ok(),
            _ => None,
        }
    }

    /// The names of all headers, sorted.
    pub fn header_names(&self) -> Vec<String> {
        let headers = self.properties.headers().as_ref();
        headers
            .into_iter()
            .flat_map(|table| table.inner().keys())
            .map(ToString::to_string)
            .collect()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Broker {
    /// Connects; panics when the broker is not there.
    pub async fn connect(url: &str) -> Self {
        Self::try_connect(url)
            .await
            .unwrap_or_else(|error| panic!("no connection to {url}: {error:#}"))
    }

    /// Connects, or says why not.
    pub async fn try_connect(url: &str) -> anyhow::Result<Self> {
        let connection = bounded(
            "connect",
            Connection::connect(url, ConnectionProperties::default()),
        )
        .await?;
        Ok(Self { connection })
    }

    /// The connection itself, for what has no method here (it knows, for example, whether the broker blocked it).
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// A fresh channel, for what has no method here.
    pub async fn channel(&self) -> Channel {
        expect("open a channel", self.try_channel().await)
    }

    async fn try_channel(&self) -> anyhow::Result<Channel> {
        bounded("open a channel", self.connection.create_channel()).await
    }

    /// Declares a durable quorum queue without further arguments.
    pub async fn declare_quorum(&self, queue: &str) {
        let mut arguments = FieldTable::default();
        arguments.insert(
            "x-queue-type".into(),
            AMQPValue::LongString("quorum".into()),
        );
        let channel = self.channel().await;
        let declare =
            channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments);
        expect(queue, bounded("declare", declare).await);
    }

    /// How many messages are ready in the queue (unacknowledged ones are not among them); panics when it is missing.
    pub async fn depth(&self, queue: &str) -> u32 {
        expect(queue, self.try_inspect(queue).await).message_count()
    }

    /// Whether there is a queue of this name.
    pub async fn has_queue(&self, queue: &str) -> bool {
        self.try_inspect(queue).await.is_ok()
    }

    /// A passive declare on a channel of its own, because a missing queue closes the channel.
    pub async fn try_inspect(&self, queue: &str) -> anyhow::Result<Queue> {
        let channel = self.try_channel().await?;
        let declare = channel.queue_declare(
            queue.into(),
            QueueDeclareOptions {
                passive: true,
                ..QueueDeclareOptions::default()
            },
            FieldTable::default(),
        );
        let found = bounded("passive declare", declare).await?;
        close(&channel).await;
        Ok(found)
    }

    /// Waits until exactly `depth` messages are ready.
    #[track_caller]
    pub fn eventually_depth(
        &self,
        queue: &str,
        depth: u32,
        patience: Duration,
    ) -> impl Future<Output = ()> {
        self.eventually_counts(queue, patience, "messages", depth, Queue::message_count)
    }

    /// Waits until the queue has exactly `consumers`.
    ///
    /// A quorum queue with a single active consumer says 1 however many wait, and a cancelled consumer is one until the
    /// queue has seen all its acknowledgements (RabbitMQ 3.10), which have no answer: hence there is no single look.
    #[track_caller]
    pub fn eventually_consumers(
        &self,
        queue: &str,
        consumers: u32,
        patience: Duration,
    ) -> impl Future<Output = ()> {
        self.eventually_counts(
            queue,
            patience,
            "consumers",
            consumers,
            Queue::consumer_count,
        )
    }

    #[track_caller]
    fn eventually_counts(
        &self,
        queue: &str,
        patience: Duration,
        what: &str,
        wanted: u32,
        count: impl Fn(&Queue) -> u32,
    ) -> impl Future<Output = ()> {
        eventually(
            &format!("{wanted} {what} in {queue}"),
            patience,
            async move || {
                let found = self
                    .try_inspect(queue)
                    .await
                    .map_err(|error| format!("{error:#}"))?;
                let found = count(&found);
                if found == wanted {
                    Ok(())
                } else {
                    Err(format!("{found} {what}"))
                }
            },
        )
    }

    /// Removes all ready messages and returns how many there were.
    pub async fn purge(&self, queue: &str) -> u32 {
        let channel = self.channel().await;
        let purged = expect(
            queue,
            bounded(
                "purge",
                channel.queue_purge(queue.into(), QueuePurgeOptions::default()),
            )
            .await,
        );
        close(&channel).await;
        purged
    }

    /// Publishes one message, mandatory and confirmed; panics when it was refused or reached no queue.
    pub async fn publish(
        &self,
        exchange: &str,
        routing_key: &str,
        body: &[u8],
        properties: BasicProperties,
    ) {
        expect(
            routing_key,
            self.try_publish(exchange, routing_key, body, properties)
                .await,
        );
    }

    /// The same, for a broker that may fail; after an error the message may or may not be in the queue.
    pub async fn try_publish(
        &self,
        exchange: &str,
        routing_key: &str,
        body: &[u8],
        properties: BasicProperties,
    ) -> anyhow::Result<()> {
        self.try_publish_many(exchange, routing_key, [(body, properties)])
            .await
    }

    /// Publishes persistent messages, all in flight at once, and returns when every one is confirmed.
    pub async fn publish_many<B: AsRef<[u8]>>(
        &self,
        exchange: &str,
        routing_key: &str,
        bodies: impl IntoIterator<Item = B>,
    ) {
        let messages = bodies.into_iter().map(|body| (body, persistent()));
        expect(
            routing_key,
            self.try_publish_many(exchange, routing_key, messages).await,
        );
    }

    async fn try_publish_many<B: AsRef<[u8]>>(
        &self,
        exchange: &str,
        routing_key: &str,
        messages: impl IntoIterator<Item = (B, BasicProperties)>,
    ) -> anyhow::Result<()> {
        let channel = self.try_channel().await?;
        bounded(
            "confirm.select",
            channel.confirm_select(ConfirmSelectOptions::default()),
        )
        .await?;
        let (exchange, routing_key) = (ShortString::from(exchange), ShortString::from(routing_key));
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let mut confirms = Vec::new();
        for (body, properties) in messages {
            let publish = channel.basic_publish(
                exchange.clone(),
                routing_key.clone(),
                options,
                body.as_ref(),
                properties,
            );
            confirms.push(bounded("publish", publish).await?);
        }
        for confirm in confirms {
            let confirmation = bounded("the broker's confirm", confirm).await?;
            ensure!(
                confirmation == Confirmation::Ack(None),
                "not confirmed in a queue: {confirmation:?}"
            );
        }
        close(&channel).await;
        Ok(())
    }

    /// Consumes exactly `count` messages, then acknowledges or requeues them; the consumer is gone when it returns.
    ///
    /// Panics with how many came when they do not all come. What is requeued counts as a delivery.
    pub async fn read(&self, queue: &str, count: usize, settle: Settle) -> Vec<Message> {
        if count == 0 {
            return Vec::new();
        }
        let channel = self.channel().await;
        let prefetch = u16::try_from(count).expect("a prefetch is at most 65535");
        expect(
            queue,
            bounded(
                "qos",
                channel.basic_qos(prefetch, BasicQosOptions::default()),
            )
            .await,
        );
        let tag = super::unique("test");
        let consume = channel.basic_consume(
            queue.into(),
            tag.as_str().into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let mut consumer = expect(queue, bounded("consume", consume).await);
        let mut deliveries = Vec::with_capacity(count);
        while deliveries.len() < count {
            let next = timeout(DEADLINE, consumer.next()).await;
            let delivery = next
                .ok()
                .flatten()
                .with_context(|| format!("{} of {count} messages came", deliveries.len()));
            deliveries.push(expect(
                queue,
                expect(queue, delivery).context("the consumer was lost"),
            ));
        }
        let cancel = channel.basic_cancel(tag.as_str().into(), BasicCancelOptions::default());
        expect(queue, bounded("cancel", cancel).await);
        // All at once: a channel that closes forgets what it has not handed on to the queue yet, 32 acknowledgements at most.
        let last = deliveries.last().expect("at least one was asked for");
        let settled = match settle {
            Settle::Ack => {
                let options = BasicAckOptions { multiple: true };
                bounded("ack", last.ack(options)).await
            }
            Settle::Requeue => {
                let options = BasicNackOptions {
                    multiple: true,
                    requeue: true,
                };
                bounded("nack", last.nack(options)).await
            }
        };
        assert!(
            expect(queue, settled),
            "{queue}: the client settled nothing"
        );
        // Acknowledgements have no answer; the channel's close has one, and comes after them.
        close(&channel).await;
        deliveries.into_iter().map(Message::from).collect()
    }

    /// Waits until there are at least `count` dead letters, then reads that many; see [`Broker::read`].
    pub async fn read_dead(&self, queue: &str, count: usize, settle: Settle) -> Vec<Message> {
        eventually(
            &format!("{count} dead letters in {queue}"),
            DEADLINE,
            async || {
                let found = self
                    .try_inspect(queue)
                    .await
                    .map_err(|error| format!("{error:#}"))?
                    .message_count();
                if usize::try_from(found).is_ok_and(|found| found >= count) {
                    Ok(())
                } else {
                    Err(found.to_string())
                }
            },
        )
        .await;
        self.read(queue, count, settle).await
    }

    /// All messages that a stream holds now, oldest first. Its end is found by a message that is put there for it, and left out of
    /// what is returned, as are those of earlier looks.
    ///
    /// Panics when the stream is not there, or does not answer.
    pub async fn read_stream(&self, stream: &str) -> Vec<Message> {
        expect(stream, self.try_read_stream(stream).await)
    }

    /// The same while the broker may be in trouble. After an error only a new connection helps.
    pub async fn try_read_stream(&self, stream: &str) -> anyhow::Result<Vec<Message>> {
        const KIND: &str = "testkit.end";
        let end = super::unique("end");
        let properties = persistent()
            .with_type(KIND.into())
            .with_message_id(end.as_str().into());
        self.try_publish("", stream, b"", properties).await?;
        let channel = bounded("channel", self.connection.create_channel()).await?;
        let qos = channel.basic_qos(1000, BasicQosOptions::default());
        bounded("qos", qos).await?;
        let mut from_first = FieldTable::default();
        from_first.insert(
            "x-stream-offset".into(),
            AMQPValue::LongString("first".into()),
        );
        let options = BasicConsumeOptions::default();
        let consume = channel.basic_consume(stream.into(), "".into(), options, from_first);
        let mut consumer = bounded("consume", consume).await?;
        let mut messages = Vec::new();
        loop {
            let next = timeout(DEADLINE, consumer.next()).await.ok().flatten();
            let delivery = next
                .context("the stream's end did not come")?
                .context("the reader was lost")?;
            // An ack of a stream asks for more, and removes nothing.
            let acked = bounded("ack", delivery.ack(BasicAckOptions::default())).await?;
            ensure!(acked, "the client acked nothing");
            let message = Message::from(delivery);
            let id = message.properties.message_id().as_ref();
            if id.is_some_and(|id| id.as_str() == end) {
                break;
            }
            let kind = message.properties.kind().as_ref();
            if kind.is_none_or(|kind| kind.as_str() != KIND) {
                messages.push(message);
            }
        }
        close(&channel).await;
        Ok(messages)
    }

    /// Closes the connection and waits for the broker's answer.
    pub async fn close(self) {
        drop(timeout(DEADLINE, self.connection.close(200, "done".into())).await);
    }
}

impl From<Delivery> for Message {
    fn from(delivery: Delivery) -> Self {
        Self {
            body: delivery.data,
            properties: delivery.properties,
            exchange: delivery.exchange.to_string(),
            routing_key: delivery.routing_key.to_string(),
            redelivered: delivery.redelivered,
        }
    }
}

/// Properties of a message that survives a broker restart, and nothing more.
pub fn persistent() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2)
}

async fn close(channel: &Channel) {
    drop(timeout(DEADLINE, channel.close(200, "done".into())).await);
}

async fn bounded<T>(
    what: &str,
    operation: impl Future<Output = lapin::Result<T>>,
) -> anyhow::Result<T> {
    let answer = timeout(DEADLINE, operation).await;
    answer
        .with_context(|| format!("{what}: no answer within {DEADLINE:?}"))?
        .with_context(|| what.to_owned())
}

#[track_caller]
fn expect<T, E: Into<anyhow::Error>>(subject: &str, result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("{subject}: {:#}", error.into()))
}
