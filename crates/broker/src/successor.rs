//! The properties, headers and body of a delayed or dead-lettered copy, and what is left out of it where the broker refuses more.
use std::borrow::Cow;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use sha2::{Digest, Sha256};

use super::delivery::Message;
use super::wire::HEADERS_DROPPED;
use convgroup_domain::attempt::{ATTEMPT, FIRST_SEEN};
use convgroup_domain::decide::{Destination, Successor};
use convgroup_domain::message::NamesLeft;
use convgroup_domain::moment;
use convgroup_domain::outcome::{APP_ID, CONTENT_TYPE, OutcomeEvent, TYPE};
use convgroup_domain::request::{GROUPS, INDEX, REDRIVES, REQUEST_ID, REQUEST_ID_FROM, Request};
use convgroup_domain::text::hex;

pub(super) const CAUSE: &str = "convgroup-cause";
pub(super) const CODE: &str = "convgroup-code";
pub(super) const CLASS: &str = "convgroup-class";
pub(super) const INFO: &str = "convgroup-info";
pub(super) const FAILED_AT: &str = "convgroup-failed-at";
/// The redrive that sent it last: how a redrive recognizes what comes back dead.
pub(super) const REDRIVE_RUN: &str = "convgroup-redrive-run";
/// Of a dead letter without a body: how many bytes the body had.
pub(super) const BODY_BYTES: &str = "convgroup-body-bytes";
/// And its SHA-256, in hex.
pub(super) const BODY_SHA256: &str = "convgroup-body-sha256";
/// Headers of a trace (W3C Trace Context). They travel on where foreign ones do not, and go into answers.
pub(super) const TRACE: [&str; 2] = ["traceparent", "tracestate"];
/// Headers of ours that stay as they are on a copy: what happened on an earlier hop stays true.
const KEPT: [&str; 7] = [
    HEADERS_DROPPED,
    REDRIVES,
    REDRIVE_RUN,
    REQUEST_ID,
    REQUEST_ID_FROM,
    INDEX,
    GROUPS,
];
/// Longest value of a header that travels on where foreign ones do not, in bytes (contract). The longest of ours, the places of a
/// hundred names, has 289.
const RESCUED_BYTES_MAX: usize = 512;

/// How much of its message a copy carries. Where the broker refuses a copy, the next one is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All that travels on.
    Whole,
    /// The body, and what names the message: no foreign headers but the trace, no other properties.
    Body,
    /// User and names only, without the fields that the event's publisher added.
    Event,
    /// Properties and headers, no body.
    Properties,
    /// Only what names the message.
    Name,
}

impl Extent {
    /// What is missing, in words.
    #[must_use]
    pub(crate) const fn left_out(self) -> &'static str {
        match self {
            Self::Whole => "nothing",
            Self::Body => "foreign headers and properties",
            Self::Event => "foreign headers and properties, unknown fields of the event",
            Self::Properties => "the body",
            Self::Name => "the body, foreign headers and properties",
        }
    }

    const fn has_body(self) -> bool {
        matches!(self, Self::Whole | Self::Body | Self::Event)
    }

    const fn has_foreign(self) -> bool {
        matches!(self, Self::Whole | Self::Properties)
    }
}

/// What is offered to the broker, one after the other. The names of an event that can be read are never left out: without them
/// nothing could be deleted any more. Of one that can't be read, a dead letter without a body still says what it was.
#[must_use]
pub(crate) const fn extents(successor: &Successor) -> &'static [Extent] {
    if successor.is_malformed() {
        &[
            Extent::Whole,
            Extent::Body,
            Extent::Properties,
            Extent::Name,
        ]
    } else {
        &[Extent::Whole, Extent::Body, Extent::Event]
    }
}

/// A copy, ready to be published.
#[derive(Debug)]
pub(crate) struct Copy<'m> {
    /// Properties and headers.
    pub properties: BasicProperties,
    /// The body.
    pub body: Cow<'m, [u8]>,
}

/// Makes a copy of `message`, which belongs to `request`; nothing where its header would not fit a frame, or where this extent leaves out nothing more.
///
/// What [`carried`] keeps and foreign headers survive. Left out are: `expiration` (it would make the copy vanish), `user_id` (the
/// broker refuses a foreign one), `priority` (our queues have none), and the headers in [`is_left_out`]. If the rest would not fit
/// half a frame, only ours and the trace travel.
#[must_use]
pub(crate) fn copy<'m>(
    message: &'m Message,
    request: &Request,
    successor: &'m Successor,
    extent: Extent,
    now_ms: i64,
    frame_max: u32,
) -> Option<Copy<'m>> {
    let body = body(message, successor, extent)?;
    let foreign = foreign(message);
    let mut ours = ours(request, successor, now_ms);
    if !extent.has_body() {
        name_body(&mut ours, &message.body);
    }
    let headers = if extent.has_foreign() {
        joined(foreign, &ours, frame_max)
    } else {
        with(rescued(&foreign), &ours)
    };
    let mut properties = if extent.has_foreign() {
        carried(message)
    } else {
        named(message)
    };
    // It may declare the envelope without which the body can't be read.
    if extent == Extent::Body
        && let Some(content_type) = message.properties.content_type()
    {
        properties = properties.with_content_type(content_type.clone());
    }
    let properties = properties.with_headers(headers);
    (header_frame_bytes(&properties) <= frame_max as usize).then_some(Copy { properties, body })
}

fn body<'m>(
    message: &'m Message,
    successor: &'m Successor,
    extent: Extent,
) -> Option<Cow<'m, [u8]>> {
    let left = successor.left.as_ref();
    match extent {
        Extent::Properties | Extent::Name => Some(Cow::Borrowed(&[])),
        Extent::Whole | Extent::Body => {
            let rewritten = left.and_then(NamesLeft::rewritten);
            Some(rewritten.map_or(Cow::Borrowed(&*message.body), Cow::Owned))
        }
        Extent::Event => {
            let bare = left?.bare();
            (bare.len() < message.body.len()).then_some(Cow::Owned(bare))
        }
    }
}

/// Says by which body a letter without one is meant: an operator who finds the event elsewhere can compare.
fn name_body(ours: &mut FieldTable, body: &[u8]) {
    let bytes = i64::try_from(body.len()).unwrap_or(i64::MAX);
    ours.insert(BODY_BYTES.into(), AMQPValue::LongLongInt(bytes));
    let hash = hex(&Sha256::digest(body));
    ours.insert(
        BODY_SHA256.into(),
        AMQPValue::LongString(hash.as_str().into()),
    );
}

/// Bytes that these properties take as a frame of their own: its envelope (8), class, weight, size of the body and flags (14).
fn header_frame_bytes(properties: &BasicProperties) -> usize {
    let short =
        |text: &Option<ShortString>| text.as_ref().map_or(0, |text| 1 + text.as_str().len());
    let texts = [
        properties.content_type(),
        properties.content_encoding(),
        properties.correlation_id(),
        properties.reply_to(),
        properties.message_id(),
        properties.kind(),
        properties.app_id(),
    ];
    let headers = properties.headers().as_ref().map_or(0, table_bytes);
    let (delivery_mode, timestamp) = (1, 8);
    22 + delivery_mode + timestamp + headers + texts.into_iter().map(short).sum::<usize>()
}

/// Properties for a dead letter that is given a new life: no attempts, no cause; only the count of its redrives and the run. The
/// bound for headers is that of a [`copy`].
#[must_use]
pub(crate) fn redriven(message: &Message, run: &str, frame_max: u32) -> BasicProperties {
    let foreign = foreign(message);
    let redrives = message
        .number(REDRIVES)
        .unwrap_or(0)
        .clamp(0, i64::from(i32::MAX))
        + 1;
    let mut ours = FieldTable::default();
    ours.insert(REDRIVES.into(), AMQPValue::LongLongInt(redrives));
    ours.insert(REDRIVE_RUN.into(), AMQPValue::LongString(run.into()));
    carried(message).with_headers(joined(foreign, &ours, frame_max))
}

/// Foreign headers and ours, in half a frame: if the foreign ones do not fit, only those of [`rescued`] travel.
fn joined(foreign: FieldTable, ours: &FieldTable, frame_max: u32) -> FieldTable {
    let fits = table_bytes(&foreign) + table_bytes(ours) <= frame_max as usize / 2;
    let foreign = if fits { foreign } else { rescued(&foreign) };
    with(foreign, ours)
}

fn with(mut headers: FieldTable, ours: &FieldTable) -> FieldTable {
    for (name, value) in ours.inner() {
        headers.insert(name.clone(), value.clone());
    }
    headers
}

/// The properties that name a message, and no others.
fn named(message: &Message) -> BasicProperties {
    let old = &message.properties;
    let mut new = BasicProperties::default().with_delivery_mode(2);
    if let Some(id) = old.message_id() {
        new = new.with_message_id(id.clone());
    }
    if let Some(id) = old.correlation_id() {
        new = new.with_correlation_id(id.clone());
    }
    if let Some(timestamp) = old.timestamp() {
        new = new.with_timestamp(*timestamp);
    }
    new
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
    if KEPT.contains(&name) {
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

/// The headers of a message that travel on.
fn foreign(message: &Message) -> FieldTable {
    let mut foreign = FieldTable::default();
    let headers = message.properties.headers().as_ref();
    for (name, value) in headers
        .into_iter()
        .flat_map(FieldTable::inner)
        .filter(|(name, _)| !is_left_out(name.as_str()))
    {
        foreign.insert(name.clone(), value.clone());
    }
    foreign
}

/// The headers that travel on where foreign ones do not: those of a trace, and ours that are kept.
fn rescued(foreign: &FieldTable) -> FieldTable {
    let mut rescued = trace(foreign);
    for name in KEPT {
        if let Some(value) = foreign.inner().get(name)
            && value_bytes(value) <= RESCUED_BYTES_MAX
        {
            rescued.insert(name.into(), value.clone());
        }
    }
    rescued.insert(HEADERS_DROPPED.into(), AMQPValue::Boolean(true));
    rescued
}

/// The headers of a trace, where they are long strings of at most [`RESCUED_BYTES_MAX`]. No other header of a publisher goes into a
/// message to a stream: one of the type decimal would end the whole connection (541, measured on 3.10, 4.0 and 4.3).
fn trace(headers: &FieldTable) -> FieldTable {
    let mut trace = FieldTable::default();
    for name in TRACE {
        if let Some(value @ AMQPValue::LongString(text)) = headers.inner().get(name)
            && text.as_bytes().len() <= RESCUED_BYTES_MAX
        {
            trace.insert(name.into(), value.clone());
        }
    }
    trace
}

/// The properties of the answer to a message.
#[must_use]
pub(super) fn answer(message: &Message, outcome: &OutcomeEvent) -> BasicProperties {
    let correlation_id = message.properties.correlation_id().as_ref();
    let correlation_id = correlation_id.filter(|id| !id.as_str().is_empty());
    let request_id = || ShortString::from(outcome.data.request.id.as_str());
    let seconds = moment::parse(&outcome.time).unwrap_or_default() / 1000;
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type(CONTENT_TYPE.into())
        .with_message_id(outcome.id.as_str().into())
        .with_type(TYPE.into())
        .with_correlation_id(correlation_id.cloned().unwrap_or_else(request_id))
        .with_timestamp(u64::try_from(seconds).unwrap_or_default())
        .with_app_id(APP_ID.into());
    let headers = message.properties.headers().as_ref();
    properties.with_headers(headers.map_or_else(FieldTable::default, trace))
}

fn ours(request: &Request, successor: &Successor, now_ms: i64) -> FieldTable {
    let mut ours = FieldTable::default();
    let mut text = |name: &str, value: &str| {
        ours.insert(ShortString::from(name), AMQPValue::LongString(value.into()));
    };
    if let Destination::Dead(cause) = successor.to {
        text(CAUSE, cause.label());
    }
    if let Some(verdict) = &successor.verdict {
        text(CODE, &verdict.code);
    }
    if let Some(class) = successor.class() {
        text(CLASS, class);
    }
    if !successor.info.is_empty() {
        text(INFO, &successor.info);
    }
    text(REQUEST_ID, &request.id);
    text(REQUEST_ID_FROM, request.id_from.label());
    let index = request.index(&successor.places);
    if let Some(index) = &index {
        text(INDEX, index);
    }
    let mut number = |name: &str, value: i64| {
        ours.insert(ShortString::from(name), AMQPValue::LongLongInt(value));
    };
    if index.is_some() {
        number(GROUPS, i64::try_from(request.groups).unwrap_or(i64::MAX));
    }
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
