//! A delivered message and the receipt that settles it.
use std::sync::Arc;

use lapin::options::{BasicAckOptions, BasicNackOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Acker, BasicProperties};

use super::fault::Fault;
use super::life::Life;
use super::wire::stream::mark;
use super::{BrokerError, bounded, successor};
use convgroup_domain::attempt::{self, Attempt};
use convgroup_domain::cloudevent::Binary;
use convgroup_domain::encoding::Declared;
use convgroup_domain::message::DeleteGroups;
use convgroup_domain::request::{self, Clues, Request};

/// Longest part of a foreign message id that goes into a log line, in bytes.
const ID_BYTES_MAX: usize = 128;

/// A message in hand.
#[derive(Debug)]
pub struct Delivery {
    /// What was delivered.
    pub message: Message,
    /// Settles it, once.
    pub receipt: Receipt,
}

/// What was delivered: body and properties, untouched.
#[derive(Clone, Debug)]
pub struct Message {
    /// The body.
    pub body: Vec<u8>,
    /// The properties, headers included: input, written by anybody.
    pub properties: BasicProperties,
    /// The exchange that it came through last; nothing for the default exchange.
    pub exchange: ShortString,
    /// The routing key that it came with.
    pub routing_key: ShortString,
    /// Its number on the channel.
    pub delivery_tag: u64,
    /// Whether it was delivered before.
    pub redelivered: bool,
    /// Why the client library can't read it as it was published, if so: what could not be read is left out of the properties.
    pub unreadable: Option<String>,
}

impl Delivery {
    pub(super) fn new(delivery: lapin::message::Delivery, life: Arc<Life>) -> Self {
        let (properties, unreadable) = unmarked(delivery.properties, mark());
        let message = Message {
            body: delivery.data,
            properties,
            exchange: delivery.exchange,
            routing_key: delivery.routing_key,
            delivery_tag: delivery.delivery_tag,
            redelivered: delivery.redelivered,
            unreadable,
        };
        Self {
            message,
            receipt: Receipt {
                acker: delivery.acker,
                life,
            },
        }
    }
}

/// Takes the mark of [`wire`](super::wire) off: what it says is no header of the message.
fn unmarked(properties: BasicProperties, mark: &str) -> (BasicProperties, Option<String>) {
    let marked = |headers: &FieldTable| text(headers.inner().get(mark)?);
    let Some(reason) = properties.headers().as_ref().and_then(marked) else {
        return (properties, None);
    };
    let mut left = FieldTable::default();
    for (name, value) in properties.headers().iter().flat_map(FieldTable::inner) {
        if name.as_str() != mark {
            left.insert(name.clone(), value.clone());
        }
    }
    (properties.with_headers(left), Some(reason))
}

impl Message {
    /// The publisher's message id, cut to a bound; empty where there is none.
    #[must_use]
    pub fn id(&self) -> &str {
        cut(self.properties.message_id().as_ref())
    }

    /// The publisher's correlation id, cut to the same bound; empty where there is none.
    #[must_use]
    pub fn correlation_id(&self) -> &str {
        cut(self.properties.correlation_id().as_ref())
    }

    /// What its properties say about its body.
    #[must_use]
    pub fn declared(&self) -> Declared<'_> {
        let properties = &self.properties;
        Declared {
            content_type: properties.content_type().as_ref().map(ShortString::as_str),
            content_encoding: properties
                .content_encoding()
                .as_ref()
                .map(ShortString::as_str),
            kind: properties.kind().as_ref().map(ShortString::as_str),
            binary: Binary::of(&self.headers().map(|(name, value)| {
                let value = id(value).unwrap_or_default();
                (name.as_str(), value)
            })),
        }
    }

    /// What it says of its request. `cloudevents_id` is what its envelope says.
    #[must_use]
    pub fn request(&self, cloudevents_id: Option<&str>, event: Option<&DeleteGroups>) -> Request {
        let request_id = self.header(request::REQUEST_ID).and_then(id);
        let kept = [request::REQUEST_ID_FROM, request::INDEX].map(|name| self.text(name));
        let [request_id_from, index] = kept.each_ref().map(Option::as_deref);
        let properties = &self.properties;
        let clues = Clues {
            request_id: request_id.as_deref(),
            request_id_from,
            index,
            groups: self.number(request::GROUPS),
            redrives: self.number(request::REDRIVES),
            cloudevents_id,
            message_id: properties.message_id().as_ref().map(ShortString::as_str),
            correlation_id: properties
                .correlation_id()
                .as_ref()
                .map(ShortString::as_str),
            body: &self.body,
        };
        Request::read(&clues, event)
    }

    /// The headers.
    fn headers(&self) -> impl Iterator<Item = (&ShortString, &AMQPValue)> + Clone {
        let headers = self.properties.headers().as_ref();
        headers
            .into_iter()
            .flat_map(|headers| headers.inner().iter())
    }

    /// Its history, from our headers.
    #[must_use]
    pub fn attempt(&self, now_ms: i64) -> Attempt {
        Attempt::read(
            self.number(attempt::ATTEMPT),
            self.number(attempt::FIRST_SEEN),
            now_ms,
        )
    }

    /// When it was published, as its publisher says: the timestamp, which counts seconds. Unix ms.
    #[must_use]
    pub fn timestamp_ms(&self, now_ms: i64) -> Option<i64> {
        let seconds = i64::try_from((*self.properties.timestamp())?).ok()?;
        attempt::plausible(seconds.checked_mul(1000)?, now_ms)
    }

    /// When it was published, as far as known: its timestamp, or when we first saw it.
    #[must_use]
    pub fn published_ms(&self, now_ms: i64) -> i64 {
        self.timestamp_ms(now_ms)
            .unwrap_or_else(|| self.attempt(now_ms).first_seen_ms)
    }

    /// The context that it was published in, in the words of W3C Trace Context: `traceparent` and `tracestate`. Each is a text, or bytes
    /// that are one.
    #[must_use]
    pub fn trace(&self) -> [Option<String>; 2] {
        successor::TRACE.map(|name| id(self.header(name)?))
    }

    /// A text in a header; anything else counts as absent.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        text(self.header(name)?)
    }

    fn header(&self, name: &str) -> Option<&AMQPValue> {
        self.properties.headers().as_ref()?.inner().get(name)
    }

    /// A whole number in a header, of whatever width; anything else counts as absent.
    pub(super) fn number(&self, name: &str) -> Option<i64> {
        match self.header(name)? {
            AMQPValue::ShortShortInt(number) => Some(i64::from(*number)),
            AMQPValue::ShortShortUInt(number) => Some(i64::from(*number)),
            AMQPValue::ShortInt(number) => Some(i64::from(*number)),
            AMQPValue::ShortUInt(number) => Some(i64::from(*number)),
            AMQPValue::LongInt(number) => Some(i64::from(*number)),
            AMQPValue::LongUInt(number) => Some(i64::from(*number)),
            AMQPValue::LongLongInt(number) => Some(*number),
            _ => None,
        }
    }
}

fn cut(id: Option<&ShortString>) -> &str {
    let id = id.map_or("", ShortString::as_str);
    &id[..id.floor_char_boundary(ID_BYTES_MAX)]
}

/// A text among header values, what is no UTF-8 in it replaced; any other value is none.
pub(super) fn text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}

/// An id, or another attribute of an envelope, among header values: text, or bytes that are text. Of a text that is no UTF-8 its hash
/// takes the place, because two of them may differ in nothing else.
fn id(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::ByteArray(bytes) => String::from_utf8(bytes.as_slice().to_vec()).ok(),
        AMQPValue::LongString(text) => {
            let bytes = text.as_bytes();
            let text = std::str::from_utf8(bytes).map(str::to_owned);
            Some(text.unwrap_or_else(|_| request::hash(bytes)))
        }
        value => text(value),
    }
}

/// The right to settle one delivery, once: settling consumes it.
#[derive(Debug)]
pub struct Receipt {
    acker: Acker,
    life: Arc<Life>,
}

impl Receipt {
    /// Tells the broker that the message is done.
    pub(super) async fn ack(self) -> Result<(), BrokerError> {
        const WHAT: &str = "acking a message";
        let acked = bounded(WHAT, self.acker.ack(BasicAckOptions::default())).await;
        self.took_effect(WHAT, acked)
    }

    /// Gives the message back to its queue. A nack, never a reject: RabbitMQ 4.3 counts rejects against the delivery limit.
    pub(super) async fn requeue(self) -> Result<(), BrokerError> {
        const WHAT: &str = "handing a message back";
        let options = BasicNackOptions {
            requeue: true,
            ..BasicNackOptions::default()
        };
        let nacked = bounded(WHAT, self.acker.nack(options)).await;
        self.took_effect(WHAT, nacked)
    }

    /// `Ok(false)` means that nothing was settled: the channel had died. Only a new session helps then.
    fn took_effect(
        &self,
        what: &'static str,
        result: Result<bool, BrokerError>,
    ) -> Result<(), BrokerError> {
        let result = match result {
            Ok(true) => Ok(()),
            Ok(false) => Err(BrokerError::Failed(what, Fault::ChannelClosed)),
            Err(err) => Err(err),
        };
        result.inspect_err(|err| self.life.end(err.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use convgroup_domain::request::IdFrom;

    fn message(headers: &[(&str, AMQPValue)]) -> Message {
        let mut table = FieldTable::default();
        for (name, value) in headers {
            table.insert((*name).into(), value.clone());
        }
        Message {
            body: b"{}".to_vec(),
            properties: BasicProperties::default().with_headers(table),
            exchange: "".into(),
            routing_key: "".into(),
            delivery_tag: 0,
            redelivered: false,
            unreadable: None,
        }
    }

    #[test]
    fn an_id_that_is_no_text_is_told_by_its_hash() {
        let long = |bytes: &[u8]| AMQPValue::LongString(bytes.to_vec().into());
        let hashed = request::hash(b"\xff");
        for (value, id) in [
            (long(b"e-1"), Some("e-1")),
            (AMQPValue::ByteArray(b"e-1".to_vec().into()), Some("e-1")),
            (long(b"\xff"), Some(hashed.as_str())),
            (AMQPValue::ByteArray(b"\xff".to_vec().into()), None),
            (AMQPValue::LongInt(1), None),
        ] {
            let message = message(&[("ce-specversion", long(b"1.0")), ("CE-id", value.clone())]);
            let decoded = convgroup_domain::message::decode_message(
                &message.body,
                &message.declared(),
                convgroup_domain::message::AllGroups::Accepted,
            );
            assert_eq!(decoded.cloudevents_id.as_deref(), id, "{value:?}");
            let from = [
                (request::REQUEST_ID, value.clone()),
                (request::REQUEST_ID_FROM, long(b"message_id")),
            ];
            let request = self::message(&from).request(None, None);
            match id {
                Some(id) => assert_eq!(
                    (request.id.as_str(), request.id_from),
                    (id, IdFrom::MessageId)
                ),
                None => assert_eq!(request.id_from, IdFrom::Body),
            }
        }
    }
}
