//! What one dead letter tells: by its headers, as a whole for a file, and by what it is known again.
use std::hash::{DefaultHasher, Hash, Hasher};

use lapin::types::{AMQPValue, FieldTable, ShortString};
use serde_json::{Map, Value};

use super::delivery::{Message, text};
use super::successor::{
    BODY_BYTES, CAUSE, CLASS, CODE, FAILED_AT, INFO, REDRIVE_RUN, is_brokers_count,
};
use convgroup_domain::attempt::ATTEMPT;
use convgroup_domain::dead_letter::{DeadLetter, NONE, brokers_cause};
use convgroup_domain::request::REDRIVES;

/// By what a letter is known again: all that the broker does not change.
pub type Fingerprint = u64;

/// What stays the same of a letter however often it is delivered.
pub fn fingerprint(message: &Message) -> Fingerprint {
    let mut hasher = DefaultHasher::new();
    let properties = &message.properties;
    message.body.hash(&mut hasher);
    format!(
        "{:?} {:?} {:?}",
        properties.message_id(),
        properties.correlation_id(),
        properties.timestamp()
    )
    .hash(&mut hasher);
    for (name, value) in properties.headers().iter().flat_map(FieldTable::inner) {
        if !is_brokers_count(name.as_str()) {
            format!("{name} {value:?}").hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// What a letter's headers tell.
#[must_use]
pub fn letter(message: &Message) -> DeadLetter {
    let header = |name: &str| message.text(name).unwrap_or_default();
    let brokers = || brokers_reason(message).map(|reason| brokers_cause(&reason).to_owned());
    let cause = message.text(CAUSE).or_else(brokers);
    DeadLetter {
        message_id: message.id().to_owned(),
        cause: cause.unwrap_or_else(|| NONE.to_owned()),
        class: header(CLASS),
        code: header(CODE),
        info: message
            .text(INFO)
            .or_else(|| message.unreadable.clone())
            .unwrap_or_default(),
        attempt: message.number(ATTEMPT).unwrap_or(0),
        failed_at_ms: message
            .number(FAILED_AT)
            .filter(|&at| at > 0)
            .or_else(|| brokers_time_ms(message)),
        redrives: message.number(REDRIVES).unwrap_or(0),
        redrive_run: header(REDRIVE_RUN),
        body_missing_bytes: message.number(BODY_BYTES),
    }
}

/// Why the broker itself dead-lettered it.
fn brokers_reason(message: &Message) -> Option<String> {
    text(last_death(message)?.inner().get("reason")?)
}

/// When the broker itself dead-lettered it, unix ms; it counts seconds.
fn brokers_time_ms(message: &Message) -> Option<i64> {
    match last_death(message)?.inner().get("time")? {
        AMQPValue::Timestamp(seconds) => i64::try_from(*seconds).ok()?.checked_mul(1000),
        _ => None,
    }
}

/// The first entry of `x-death`.
fn last_death(message: &Message) -> Option<&FieldTable> {
    let headers = message.properties.headers().as_ref()?;
    let AMQPValue::FieldArray(deaths) = headers.inner().get("x-death")? else {
        return None;
    };
    match deaths.as_slice().first()? {
        AMQPValue::FieldTable(death) => Some(death),
        _ => None,
    }
}

/// Tables nested deeper than this are left out of [`properties`].
const DEPTH_MAX: usize = 16;

/// All properties and headers, for a file.
#[must_use]
pub fn properties(message: &Message) -> Value {
    let properties = &message.properties;
    let mut object = Map::new();
    macro_rules! texts {
        ($($name:ident)+) => { $( if let Some(text) = properties.$name() {
            object.insert(stringify!($name).to_owned(), text.as_str().into());
        } )+ };
    }
    texts!(message_id correlation_id content_type content_encoding reply_to app_id expiration user_id cluster_id);
    if let Some(kind) = properties.kind() {
        object.insert("type".to_owned(), kind.as_str().into());
    }
    if let Some(mode) = properties.delivery_mode() {
        object.insert("delivery_mode".to_owned(), (*mode).into());
    }
    if let Some(priority) = properties.priority() {
        object.insert("priority".to_owned(), (*priority).into());
    }
    if let Some(timestamp) = properties.timestamp() {
        object.insert("timestamp".to_owned(), (*timestamp).into());
    }
    if let Some(headers) = properties.headers() {
        object.insert("headers".to_owned(), table(headers, DEPTH_MAX));
    }
    object.into()
}

fn table(table: &FieldTable, depth: usize) -> Value {
    let entry = |(name, value): (&ShortString, &AMQPValue)| (name.to_string(), json(value, depth));
    Value::Object(table.inner().iter().map(entry).collect())
}

fn json(value: &AMQPValue, depth: usize) -> Value {
    match value {
        AMQPValue::FieldTable(_) | AMQPValue::FieldArray(_) if depth == 0 => {
            "(nested too deep)".into()
        }
        AMQPValue::FieldTable(inner) => table(inner, depth - 1),
        AMQPValue::FieldArray(values) => {
            let values = values.as_slice().iter();
            values.map(|value| json(value, depth - 1)).collect()
        }
        AMQPValue::Boolean(flag) => (*flag).into(),
        AMQPValue::ShortShortInt(number) => (*number).into(),
        AMQPValue::ShortShortUInt(number) => (*number).into(),
        AMQPValue::ShortInt(number) => (*number).into(),
        AMQPValue::ShortUInt(number) => (*number).into(),
        AMQPValue::LongInt(number) => (*number).into(),
        AMQPValue::LongUInt(number) => (*number).into(),
        AMQPValue::LongLongInt(number) => (*number).into(),
        AMQPValue::Timestamp(seconds) => (*seconds).into(),
        AMQPValue::Float(number) => (*number).into(),
        AMQPValue::Double(number) => (*number).into(),
        AMQPValue::DecimalValue(number) => format!("{number:?}").into(),
        AMQPValue::ByteArray(bytes) => String::from_utf8_lossy(bytes.as_slice()).into(),
        AMQPValue::ShortString(_) | AMQPValue::LongString(_) => text(value).into(),
        AMQPValue::Void => Value::Null,
    }
}
