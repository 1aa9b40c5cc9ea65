//! The properties and headers of a delayed or dead-lettered copy.
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::delivery::Message;
use super::wire::HEADERS_DROPPED;
use crate::domain::attempt::{ATTEMPT, FIRST_SEEN};
use crate::domain::decide::{Destination, Successor};

pub(super) const CAUSE: &str = "convgroup-cause";
pub(super) const CODE: &str = "convgroup-code";
pub(super) const CLASS: &str = "convgroup-class";
pub(super) const INFO: &str = "convgroup-info";
pub(super) const FAILED_AT: &str = "convgroup-failed-at";
/// How often a dead letter was redriven.
pub(super) const REDRIVES: &str = "convgroup-redrives";
/// The redrive that sent it last: how a redrive recognizes what comes back dead.
pub(super) const REDRIVE_RUN: &str = "convgroup-redrive-run";
const TRACEPARENT: &str = "traceparent";
/// A W3C traceparent has 55 bytes; whatever is far longer is none.
const TRACEPARENT_BYTES_MAX: usize = 256;

/// Properties for a copy of `message`.
///
/// What [`carried`] keeps and foreign headers survive. Left out are: `expiration` (it would make the copy vanish), `user_id` (the
/// broker refuses a foreign one), `priority` (our queues have none), and the headers in [`is_left_out`]. If the rest would not fit
/// half a frame, only ours and `traceparent` travel.
#[must_use]
pub fn properties(
    message: &Message,
    successor: &Successor,
    now_ms: i64,
    frame_max: u32,
) -> BasicProperties {
    let foreign = message
        .properties
        .headers()
        .as_ref()
        .map(foreign)
        .unwrap_or_default();
    let ours = ours(successor, now_ms);
    let fits = table_bytes(&foreign) + table_bytes(&ours) <= frame_max as usize / 2;
    let mut headers = if fits { foreign } else { rescued(&foreign) };
    for (name, value) in ours.inner() {
        headers.insert(name.clone(), value.clone());
    }
    carried(message).with_headers(headers)
}

/// Properties for a dead letter that is given a new life: no attempts, no cause; only the count of its redrives and the run.
#[must_use]
pub fn redriven(message: &Message, run: &str) -> BasicProperties {
    let mut headers = message
        .properties
        .headers()
        .as_ref()
        .map(foreign)
        .unwrap_or_default();
    let redrives = message
        .number(REDRIVES)
        .unwrap_or(0)
        .clamp(0, i64::from(i32::MAX))
        + 1;
    headers.insert(REDRIVES.into(), AMQPValue::LongLongInt(redrives));
    headers.insert(REDRIVE_RUN.into(), AMQPValue::LongString(run.into()));
    carried(message).with_headers(headers)
}

/// The properties that every copy carries on.
fn carried(message: &Message) -> BasicProperties {
    let old = &message.properties;
    let mut new = BasicProperties::default().with_delivery_mode(2);
    macro_rules! keep {
        ($($get:ident $with:ident)+) => { $( if let Some(value) = old.$get() { new = new.$with(value.clone()); } )+ };
    }
    keep!(message_id with_message_id correlation_id with_correlation_id content_type with_content_type
          content_encoding with_content_encoding kind with_type reply_to with_reply_to app_id with_app_id);
    if let Some(timestamp) = old.timestamp() {
        new = new.with_timestamp(*timestamp);
    }
    new
}

/// Headers that no copy carries: the broker's own history, which is wrong on a copy; a kept CC would route a dead letter
/// back into the queue; ours are written anew.
fn is_left_out(name: &str) -> bool {
    // What happened on an earlier hop stays true.
    if matches!(name, HEADERS_DROPPED | REDRIVES | REDRIVE_RUN) {
        return false;
    }
    is_brokers_count(name)
        || matches!(name, "x-death" | "CC" | "BCC")
        || ["x-first-death-", "x-last-death-", "convgroup-"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

/// Headers that the broker writes anew with each delivery.
pub(super) fn is_brokers_count(name: &str) -> bool {
    matches!(name, "x-delivery-count" | "x-acquired-count")
}

fn foreign(headers: &FieldTable) -> FieldTable {
    let mut foreign = FieldTable::default();
    for (name, value) in headers
        .inner()
        .iter()
        .filter(|(name, _)| !is_left_out(name.as_str()))
    {
        foreign.insert(name.clone(), value.clone());
    }
    foreign
}

fn rescued(foreign: &FieldTable) -> FieldTable {
    let mut rescued = FieldTable::default();
    rescued.insert(HEADERS_DROPPED.into(), AMQPValue::Boolean(true));
    if let Some(value) = foreign.inner().get(TRACEPARENT)
        && value_bytes(value) <= TRACEPARENT_BYTES_MAX
    {
        rescued.insert(TRACEPARENT.into(), value.clone());
    }
    rescued
}

fn ours(successor: &Successor, now_ms: i64) -> FieldTable {
    let mut ours = FieldTable::default();
    let mut text = |name: &str, value: &str| {
        ours.insert(ShortString::from(name), AMQPValue::LongString(value.into()));
    };
    if let Destination::Dead(cause) = successor.to {
        text(CAUSE, cause.label());
    }
    if let Some(verdict) = &successor.verdict {
        text(CODE, &verdict.row.label);
    }
    if let Some(class) = successor.class() {
        text(CLASS, class);
    }
    if !successor.info.is_empty() {
        text(INFO, &successor.info);
    }
    let mut number = |name: &str, value: i64| {
        ours.insert(ShortString::from(name), AMQPValue::LongLongInt(value));
    };
    number(ATTEMPT, i64::from(successor.attempt.failures));
    number(FIRST_SEEN, successor.attempt.first_seen_ms);
    number(FAILED_AT, now_ms);
    ours
}

/// Bytes a table takes on the wire.
fn table_bytes(table: &FieldTable) -> usize {
    4 + table
        .inner()
        .iter()
        .map(|(name, value)| 1 + name.as_str().len() + value_bytes(value))
        .sum::<usize>()
}

fn value_bytes(value: &AMQPValue) -> usize {
    1 + match value {
        AMQPValue::Boolean(_) | AMQPValue::ShortShortInt(_) | AMQPValue::ShortShortUInt(_) => 1,
        AMQPValue::ShortInt(_) | AMQPValue::ShortUInt(_) => 2,
        AMQPValue::LongInt(_) | AMQPValue::LongUInt(_) | AMQPValue::Float(_) => 4,
        AMQPValue::LongLongInt(_) | AMQPValue::Double(_) | AMQPValue::Timestamp(_) => 8,
        AMQPValue::DecimalValue(_) => 5,
        AMQPValue::ShortString(text) => 1 + text.as_str().len(),
        AMQPValue::LongString(text) => 4 + text.as_bytes().len(),
        AMQPValue::ByteArray(bytes) => 4 + bytes.as_slice().len(),
        AMQPValue::FieldArray(values) => {
            4 + values.as_slice().iter().map(value_bytes).sum::<usize>()
        }
        AMQPValue::FieldTable(table) => table_bytes(table),
        AMQPValue::Void => 0,
    }
}
