//! Reading the ledger of answers. Nothing is taken out of it: it is a stream, and an ack only asks for more.
//!
//! What a stream does otherwise than a queue (measured on 3.10, 4.0 and 4.3): a prefetch is compulsory; `basic.get`, `basic.nack` and an
//! automatic ack close the connection; so a channel is closed with its deliveries unacked. Offsets have holes, and what a passive declare
//! counts lags by seconds. So the end is found by reading `last` until nothing more comes, and reading is over when that offset was seen.
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, Consumer};

use super::address::BrokerAddress;
use super::connect::{Role, connect};
use super::error::{LedgerError, Right};
use super::fault::{Fault, Meaning};
use super::rights::Remedy;
use super::{BrokerError, OPERATION_DEADLINE, bounded, declare};
use crate::settings::Amqp;
use convgroup_host::intervals::Intervals;

/// Header of a delivery from a stream, and argument of its consumer: where it stands, where to begin.
const OFFSET: &str = "x-stream-offset";
/// Deliveries that may be under way. With more, the first one comes later.
const PREFETCH: u16 = 1000;
/// More is asked for after so many.
const CREDIT: u32 = 100;
/// The end is found when nothing more has come for so long.
const SILENCE: Duration = Duration::from_secs(1);
/// Of a ledger that grows all the time, what comes later than this is not waited for: it was not there when reading began.
const END_WAIT: Duration = Duration::from_secs(3);
/// How long what must be there may take to come.
const PATIENCE: Duration = Duration::from_secs(60);
/// So long after the last delivery a follower asks whether the broker is still there.
const CALM: Duration = Duration::from_secs(15);
/// What was asked of the broker, for errors.
const READING: &str = "reading the ledger";

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the oldest entry that is kept.
    First,
    /// With entries written at this moment, unix seconds. The broker finds it by blocks of entries, so some older ones may come first.
    Moment(u64),
    /// With this offset, or the oldest entry that is kept, if that is later.
    Offset(u64),
    /// With the last block of entries.
    Last,
}

impl Start {
    fn argument(self) -> AMQPValue {
        match self {
            Self::First => AMQPValue::LongString("first".into()),
            Self::Last => AMQPValue::LongString("last".into()),
            Self::Moment(unix_s) => AMQPValue::Timestamp(unix_s),
            Self::Offset(offset) => {
                AMQPValue::LongLongInt(i64::try_from(offset).unwrap_or(i64::MAX))
            }
        }
    }
}

/// An entry of the ledger: what was published, and where it stands.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its offset. Offsets grow, and have holes.
    pub offset: u64,
    /// The body, written by anybody who may write to the exchange.
    pub body: Vec<u8>,
    /// When its publisher says that it was made, unix seconds.
    made_s: Option<u64>,
}

/// A body may hold ids.
impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry")
            .field("offset", &self.offset)
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// A connection to the ledger. Its end is found.
#[derive(Debug)]
pub struct Ledger {
    access: Access,
    connection: Connection,
    address: BrokerAddress,
    last: Option<Last>,
}

/// The last entry.
#[derive(Clone, Copy, Debug)]
struct Last {
    offset: u64,
    made_s: Option<u64>,
}

/// Which ledger, and at which nodes.
#[derive(Clone, Debug)]
struct Access {
    amqp: Amqp,
    ledger: String,
}

impl Ledger {
    /// Connects to the first node that has the ledger, and finds its end. That takes a second or more.
    ///
    /// # Errors
    /// No node answers, the ledger is not there or is no stream, or the user may not read it: with what mends that. The error is the
    /// first node's.
    pub async fn open(amqp: &Amqp) -> Result<Self, BrokerError> {
        let Some(ledger) = amqp.topology.ledger() else {
            return Err(BrokerError::Ledger(LedgerError::NotConfigured));
        };
        let access = Access {
            ledger: ledger.name.clone(),
            amqp: amqp.clone(),
        };
        let mut first = None;
        for address in &amqp.nodes {
            let opened = async {
                let connection = access.connect(address).await?;
                let last = access.last(&connection).await;
                Ok((connection, last.map_err(|err| access.mended(err, address))?))
            };
            match opened.await {
                Ok((connection, last)) => {
                    return Ok(Self {
                        access: access.clone(),
                        connection,
                        address: address.clone(),
                        last,
                    });
                }
                Err(err) => first = first.or(Some(err)),
            }
        }
        Err(first.unwrap_or(BrokerError::Lost("no node is configured".to_owned())))
    }

    /// The offset of its last entry; nothing while it is empty.
    #[must_use]
    pub fn end(&self) -> Option<u64> {
        self.last.map(|last| last.offset)
    }

    /// Reads from here to the end that was found.
    ///
    /// # Errors
    /// The broker refused, or did not answer.
    pub async fn until_end(&self, start: Start) -> Result<Reading<'_>, BrokerError> {
        let nothing = match (self.last, start) {
            (None, _) => true,
            (Some(last), Start::Offset(offset)) => offset > last.offset,
            (Some(last), Start::Moment(moment)) => last.made_s.is_some_and(|made| made < moment),
            (Some(_), Start::First | Start::Last) => false,
        };
        let hand = if nothing {
            None
        } else {
            Some(self.hand(start).await?)
        };
        Ok(Reading {
            ledger: self,
            start,
            hand,
        })
    }

    async fn hand(&self, start: Start) -> Result<Hand, BrokerError> {
        let opened = self.access.hand(&self.connection, start).await;
        opened.map_err(|err| self.access.mended(err, &self.address))
    }

    /// Goes on from here for ever.
    #[must_use]
    pub fn follow(self, start: Start) -> Follower {
        Follower {
            hand: None,
            connection: Some((self.connection, self.address)),
            access: self.access,
            start,
            seen: None,
            node: 0,
            pauses: Intervals::reconnect(),
        }
    }
}

impl Access {
    async fn connect(&self, address: &BrokerAddress) -> Result<Connection, BrokerError> {
        connect(address, &self.amqp, Role::ReadLedger)
            .await
            .map_err(|err| BrokerError::Unreachable(address.to_string(), Box::new(err)))
            .map_err(|err| self.mended(err, address))
    }

    /// A refusal, with the right that the user at this node needs.
    fn mended(&self, err: BrokerError, address: &BrokerAddress) -> BrokerError {
        match Remedy::of_auditor(address, &self.amqp) {
            Some(remedy) => remedy.added_to(err),
            None => err,
        }
    }

    async fn hand(&self, connection: &Connection, start: Start) -> Result<Hand, BrokerError> {
        let channel = bounded("opening a channel", connection.create_channel()).await?;
        let qos = channel.basic_qos(PREFETCH, BasicQosOptions::default());
        bounded("setting the prefetch", qos).await?;
        let mut table = FieldTable::default();
        table.insert(OFFSET.into(), start.argument());
        let options = BasicConsumeOptions::default();
        let consumer =
            channel.basic_consume(self.ledger.as_str().into(), "".into(), options, table);
        let consumer = bounded(READING, consumer)
            .await
            .map_err(|err| self.explained(err))?;
        Ok(Hand {
            ledger: self.ledger.clone(),
            channel,
            consumer,
            uncredited: 0,
            tag: 0,
        })
    }

    /// What a refusal to read means.
    fn explained(&self, err: BrokerError) -> BrokerError {
        let ledger = self.ledger.clone();
        match err.or_denied(|| Right::ReadLedger(ledger.clone())) {
            BrokerError::Failed(what, Fault::Reply(reply)) => match reply.meaning() {
                Meaning::Missing => BrokerError::Ledger(LedgerError::Missing { ledger, reply }),
                Meaning::NoReplica => BrokerError::Ledger(LedgerError::NoReplica { ledger, reply }),
                Meaning::InvalidArgument => BrokerError::Ledger(LedgerError::NoStream { ledger }),
                _ => BrokerError::Failed(what, Fault::Reply(reply)),
            },
            err => err,
        }
    }

    /// Finds the last entry.
    async fn last(&self, connection: &Connection) -> Result<Option<Last>, BrokerError> {
        let mut hand = self.hand(connection, Start::Last).await?;
        let (began, mut last) = (Instant::now(), None);
        while began.elapsed() < END_WAIT {
            match hand.next(SILENCE).await? {
                Some(entry) => {
                    last = Some(Last {
                        offset: entry.offset,
                        made_s: entry.made_s,
                    });
                }
                // What is counted lags, but does not lie: something is there, and has not come yet.
                None if last.is_none() && self.count(connection).await? > 0 => {
                    let entry = hand.next(PATIENCE).await?;
                    let entry = entry.ok_or(BrokerError::Deadline(READING))?;
                    last = Some(Last {
                        offset: entry.offset,
                        made_s: entry.made_s,
                    });
                }
                None => break,
            }
        }
        hand.close().await;
        Ok(last)
    }

    async fn count(&self, connection: &Connection) -> Result<u32, BrokerError> {
        let channel = bounded("opening a channel", connection.create_channel()).await?;
        let count = declare::depth(&channel, &self.ledger).await;
        let _ = bounded("closing a channel", channel.close(200, "done".into())).await;
        count.map_err(|err| self.explained(err))
    }
}

/// One consumer, and the channel that it has to itself.
#[derive(Debug)]
struct Hand {
    ledger: String,
    channel: Channel,
    consumer: Consumer,
    /// Entries since more were asked for.
    uncredited: u32,
    /// The last delivery.
    tag: u64,
}

impl Hand {
    /// The next entry; nothing where none comes within `patience`. Safe to drop at any await: what was not returned comes next.
    ///
    /// # Errors
    /// The connection is gone, the ledger is, or it is no stream.
    async fn next(&mut self, patience: Duration) -> Result<Option<Entry>, BrokerError> {
        if self.uncredited >= CREDIT {
            self.credit().await?;
        }
        let delivery = match tokio::time::timeout(patience, self.consumer.next()).await {
            Err(_) => {
                // The broker closes a channel on which something is unacked for half an hour.
                if self.uncredited > 0 {
                    self.credit().await?;
                }
                return Ok(None);
            }
            Ok(Some(Ok(delivery))) => delivery,
            Ok(Some(Err(err))) => return Err(BrokerError::Failed(READING, Fault::of(&err))),
            Ok(None) => return Err(self.cancelled()),
        };
        let properties = &delivery.properties;
        let headers = properties.headers().as_ref();
        let offset = headers.and_then(|headers| match headers.inner().get(OFFSET) {
            Some(AMQPValue::LongLongInt(offset)) => u64::try_from(*offset).ok(),
            _ => None,
        });
        let Some(offset) = offset else {
            let ledger = self.ledger.clone();
            return Err(BrokerError::Ledger(LedgerError::NoStream { ledger }));
        };
        self.uncredited += 1;
        self.tag = delivery.delivery_tag;
        Ok(Some(Entry {
            offset,
            made_s: *properties.timestamp(),
            body: delivery.data,
        }))
    }

    /// Acks all that has come: asks for as many more.
    async fn credit(&mut self) -> Result<(), BrokerError> {
        // Before the wait: dropped in it, this is not said twice. The broker would close the channel.
        self.uncredited = 0;
        let ack = self
            .channel
            .basic_ack(self.tag, BasicAckOptions { multiple: true });
        bounded(READING, ack).await.map(drop)
    }

    /// Why nothing more comes: the broker cancels the consumer of a stream that is deleted, and of nothing else.
    fn cancelled(&self) -> BrokerError {
        if self.channel.status().connected() {
            let ledger = self.ledger.clone();
            return BrokerError::Ledger(LedgerError::Deleted { ledger });
        }
        BrokerError::Lost("the connection is gone".to_owned())
    }

    /// Closes the channel with what was delivered unacked.
    async fn close(self) {
        let closed = self.channel.close(200, "done".into());
        let _ = bounded("closing a channel", closed).await;
    }
}

/// Entries up to the end that was found when the ledger was opened.
#[derive(Debug)]
pub struct Reading<'l> {
    ledger: &'l Ledger,
    start: Start,
    /// Nothing when all is read.
    hand: Option<Hand>,
}

impl Reading<'_> {
    /// The next entry; nothing at the end.
    ///
    /// # Errors
    /// The connection is gone, the ledger is, or what must be there does not come.
    pub async fn next(&mut self) -> Result<Option<Entry>, BrokerError> {
        let Some(hand) = &mut self.hand else {
            return Ok(None);
        };
        let patience = match self.start {
            Start::Moment(_) => OPERATION_DEADLINE,
            _ => PATIENCE,
        };
        let entry = match hand.next(patience).await? {
            Some(entry) => entry,
            // The broker has no block of that moment or later. The clocks may differ: the last block is looked at all the same.
            None if matches!(self.start, Start::Moment(_)) => {
                self.start = Start::Last;
                let new = self.ledger.hand(Start::Last).await?;
                std::mem::replace(hand, new).close().await;
                let entry = hand.next(PATIENCE).await?;
                entry.ok_or(BrokerError::Deadline(READING))?
            }
            None => return Err(BrokerError::Deadline(READING)),
        };
        if let Start::Moment(_) = self.start {
            self.start = Start::Offset(entry.offset);
        }
        let end = self.ledger.end();
        if end.is_none_or(|end| entry.offset >= end)
            && let Some(hand) = self.hand.take()
        {
            hand.close().await;
        }
        // What came after the end was found is another reading's.
        Ok(Some(entry).filter(|entry| end.is_some_and(|end| entry.offset <= end)))
    }
}

/// Entries as they are written, for ever. A connection that breaks is made anew, and reading goes on behind the last entry.
#[derive(Debug)]
pub struct Follower {
    access: Access,
    /// Nothing while a connection is to be made.
    connection: Option<(Connection, BrokerAddress)>,
    hand: Option<Hand>,
    start: Start,
    /// The offset of the last entry that was returned.
    seen: Option<u64>,
    /// The node that is asked next.
    node: usize,
    pauses: Intervals,
}

impl Follower {
    /// The next entry, however long that takes. `on_trouble` hears why there is no connection. Safe to drop at any await.
    ///
    /// # Errors
    /// What only people can mend: the ledger is deleted, or may not be read any more.
    pub async fn next(
        &mut self,
        mut on_trouble: impl FnMut(&BrokerError),
    ) -> Result<Entry, BrokerError> {
        loop {
            match self.try_next().await {
                Ok(entry) if self.seen.is_some_and(|seen| entry.offset <= seen) => {}
                Ok(entry) => {
                    self.pauses.reset();
                    self.seen = Some(entry.offset);
                    return Ok(entry);
                }
                Err(err) if is_final(&err) => return Err(err),
                Err(err) => {
                    on_trouble(&err);
                    self.hand = None;
                    self.connection = None;
                    self.node += 1;
                    tokio::time::sleep(self.pauses.next_pause()).await;
                }
            }
        }
    }

    async fn try_next(&mut self) -> Result<Entry, BrokerError> {
        // The last entry is read once more: were it not there, this would be another ledger, and the wait for ever.
        let again = self.seen.is_some() && self.hand.is_none();
        self.take_hand().await?;
        let (Some(hand), Some((connection, _))) = (&mut self.hand, &self.connection) else {
            return Err(BrokerError::Lost("the connection is gone".to_owned()));
        };
        if again {
            let ledger = self.access.ledger.clone();
            let deleted = BrokerError::Ledger(LedgerError::Deleted { ledger });
            return hand.next(PATIENCE).await?.ok_or(deleted);
        }
        loop {
            if let Some(entry) = hand.next(CALM).await? {
                return Ok(entry);
            }
            self.access.count(connection).await?;
        }
    }

    /// Makes sure that there is a connection, and a consumer on it.
    async fn take_hand(&mut self) -> Result<(), BrokerError> {
        if self.connection.is_none() {
            let nodes = &self.access.amqp.nodes;
            let address = nodes[self.node % nodes.len()].clone();
            let connection = self.access.connect(&address).await?;
            self.connection = Some((connection, address));
        }
        if let (None, Some((connection, address))) = (&self.hand, &self.connection) {
            let start = self.seen.map_or(self.start, Start::Offset);
            let hand = self.access.hand(connection, start).await;
            self.hand = Some(hand.map_err(|err| self.access.mended(err, address))?);
        }
        Ok(())
    }
}

/// Whether no new connection helps.
fn is_final(err: &BrokerError) -> bool {
    match err {
        BrokerError::Denied(_) => true,
        BrokerError::Ledger(err) => !matches!(err, LedgerError::NoReplica { .. }),
        _ => false,
    }
}
