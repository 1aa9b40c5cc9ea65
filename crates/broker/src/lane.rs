//! One channel with confirms, and what is published on it together.
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::join_all;
use lapin::message::Delivery;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation, Connection};
use tokio::sync::{oneshot, watch};

use super::fault::Fault;
use super::publisher::{confirm_channel, mandatory};
use super::refusal::{Refusal, breaks_connection};
use super::{BrokerError, OPERATION_DEADLINE, bounded};

const WHAT: &str = "publishing";

/// How many answers go out together at most. Without a bound it was no faster, and where one costs the channel, all of its batch wait.
const BATCH_MAX: usize = 32;

/// A message on its way.
pub(super) struct Outgoing {
    /// The exchange; empty for the default one.
    pub exchange: ShortString,
    /// The routing key.
    pub routing_key: ShortString,
    /// Properties and headers.
    pub properties: BasicProperties,
    /// The body.
    pub body: Vec<u8>,
    /// Whether it may go out together with others. When one of them costs the channel, the others are published again, so a message
    /// may be there twice. An answer has an id by which readers know the repeat. A copy has none: it goes alone.
    pub shares: bool,
}

/// It may name users and groups: neither goes into debug output.
impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing")
            .field("exchange", &self.exchange)
            .field("routing_key", &self.routing_key)
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

impl Outgoing {
    /// Whether this is what the broker returned. Another message that says the same to the same address counts as returned, too.
    fn is(&self, returned: &Delivery) -> bool {
        self.exchange == returned.exchange
            && self.routing_key == returned.routing_key
            && self.body == returned.data
    }
}

/// What the broker said of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Confirmed, not returned: it is in each queue that it was routed to.
    Kept,
    /// It was routed to no queue.
    Returned,
    /// The broker does not take it (`basic.nack`).
    Nacked,
}

/// Why the broker said nothing of a message.
#[derive(Clone, Debug)]
pub(super) enum Unconfirmed {
    /// The broker closed the channel because of this message. The channel is replaced.
    Refused(Refusal),
    /// The connection is gone. The refusal is there where the broker closed it because of a message, not necessarily this one.
    Broken(Option<Refusal>, Box<BrokerError>),
    /// Anything else.
    Failed(BrokerError),
}

/// Who is told what became of a message.
type Told = oneshot::Sender<Result<Said, Unconfirmed>>;

/// A message that waits for its channel.
#[derive(Debug)]
struct Waiting {
    message: Arc<Outgoing>,
    told: Told,
}

/// One channel. What comes while the broker confirms waits. Then a copy goes out alone, or all answers that wait go out together, as
/// one batch of at most [`BATCH_MAX`].
///
/// A returned message is not tied to its confirm: the client library hands it to whichever confirm of the channel comes next. So
/// nothing more goes out before everything under way is confirmed. By then all that was returned has arrived, and it is recognized
/// by exchange, routing key and body. Without that pause a lost message could pass as confirmed.
#[derive(Debug)]
pub(super) struct Lane {
    channel: tokio::sync::Mutex<Channel>,
    waiting: Mutex<VecDeque<Waiting>>,
}

impl Lane {
    /// Opens a channel.
    pub(super) async fn open(connection: &Connection) -> Result<Self, BrokerError> {
        Ok(Self {
            channel: tokio::sync::Mutex::new(confirm_channel(connection).await?),
            waiting: Mutex::default(),
        })
    }

    /// Publishes a message. Waits for as long as the broker blocks publishing.
    pub(super) async fn publish(
        &self,
        message: &Arc<Outgoing>,
        connection: &Connection,
        blocked: &watch::Sender<bool>,
    ) -> Result<Said, Unconfirmed> {
        if message.shares {
            return self.publish_shared(message, connection, blocked).await;
        }
        let mut channel = self.channel.lock().await;
        publish_one(&mut channel, message, connection, blocked).await
    }

    /// Whoever gets the channel publishes for all that wait.
    async fn publish_shared(
        &self,
        message: &Arc<Outgoing>,
        connection: &Connection,
        blocked: &watch::Sender<bool>,
    ) -> Result<Said, Unconfirmed> {
        let (told, mut said) = oneshot::channel();
        self.waiting().push_back(Waiting {
            message: Arc::clone(message),
            told,
        });
        loop {
            let mut channel = tokio::select! {
                biased;
                said = &mut said => return said.unwrap_or_else(|_| Err(left_alone())),
                channel = self.channel.lock() => channel,
            };
            let (batch, told) = self.next_batch();
            let all = publish_all(&mut channel, &batch, connection, blocked).await;
            for (told, said) in told.into_iter().zip(all) {
                // Who waits no more need not know.
                let _ = told.send(said);
            }
        }
    }

    fn next_batch(&self) -> (Vec<Arc<Outgoing>>, Vec<Told>) {
        let mut waiting = self.waiting();
        let count = waiting.len().min(BATCH_MAX);
        let batch = waiting.drain(..count);
        batch.map(|it| (it.message, it.told)).unzip()
    }

    /// Replaces the channel by a new one.
    pub(super) async fn renew(&self, connection: &Connection) -> Result<(), BrokerError> {
        let mut channel = self.channel.lock().await;
        let old = std::mem::replace(&mut *channel, confirm_channel(connection).await?);
        let _ = bounded("closing a channel", old.close(200, "done".into())).await;
        Ok(())
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever published for this one has gone: the session is over, or it panicked.
fn left_alone() -> Unconfirmed {
    let fault = Fault::Lost("whoever published for all that waited has gone".into());
    Unconfirmed::Failed(BrokerError::Failed(WHAT, fault))
}

/// Publishes a message alone.
async fn publish_one(
    channel: &mut Channel,
    message: &Arc<Outgoing>,
    connection: &Connection,
    blocked: &watch::Sender<bool>,
) -> Result<Said, Unconfirmed> {
    let alone = std::slice::from_ref(message);
    let said = publish_all(channel, alone, connection, blocked).await;
    said.into_iter().next().unwrap_or_else(|| Err(left_alone()))
}

/// Publishes a batch, and says what became of each message.
async fn publish_all(
    channel: &mut Channel,
    batch: &[Arc<Outgoing>],
    connection: &Connection,
    blocked: &watch::Sender<bool>,
) -> Vec<Result<Said, Unconfirmed>> {
    let Some(confirmed) = confirmed(channel, batch, blocked).await else {
        let late = |_| Err(Unconfirmed::Failed(BrokerError::Deadline(WHAT)));
        return batch.iter().map(late).collect();
    };
    let said = said(batch, confirmed);
    let loss = Loss::of(&said, connection.status().connected());
    let unconfirmed = |fault| {
        let failed = BrokerError::Failed(WHAT, fault);
        match &loss {
            Loss::Connection(refusal) => Unconfirmed::Broken(refusal.clone(), failed.into()),
            Loss::Channel(refusal) => Unconfirmed::Refused(refusal.clone()),
            Loss::Other => Unconfirmed::Failed(failed),
        }
    };
    let said = said.into_iter().map(|said| said.map_err(unconfirmed));
    let mut all: Vec<_> = said.collect();
    if let Loss::Channel(_) = loss {
        mend(channel, batch, &mut all, connection, blocked).await;
    }
    all
}

/// Opens a new channel in the place of one that a message has cost. Of several, each that was not confirmed is published on it alone:
/// so it is known which one it was.
async fn mend(
    channel: &mut Channel,
    batch: &[Arc<Outgoing>],
    all: &mut [Result<Said, Unconfirmed>],
    connection: &Connection,
    blocked: &watch::Sender<bool>,
) {
    let mut over = match confirm_channel(connection).await {
        Ok(new) => {
            *channel = new;
            None
        }
        // What was still on its way to the old channel can cost the connection as well (504).
        Err(err) if !connection.status().connected() => Some(Unconfirmed::Broken(None, err.into())),
        Err(err) => Some(Unconfirmed::Failed(err)),
    };
    let unconfirmed = batch.iter().zip(all).filter(|(_, said)| said.is_err());
    for (message, said) in unconfirmed {
        if let Some(over) = &over {
            *said = Err(over.clone());
        } else if batch.len() > 1 {
            *said = Box::pin(publish_one(channel, message, connection, blocked)).await;
            // Nothing more goes out on a channel that may still owe a confirm.
            if let Err(lost @ (Unconfirmed::Failed(_) | Unconfirmed::Broken(..))) = said {
                over = Some(lost.clone());
            }
        }
    }
}

/// What is gone with the messages of a batch that were not confirmed.
#[derive(Debug, PartialEq, Eq)]
enum Loss {
    /// The connection; with the refusal where the broker closed it because of a message.
    Connection(Option<Refusal>),
    /// The channel, because of a message.
    Channel(Refusal),
    /// Nothing, or no message is to blame.
    Other,
}

impl Loss {
    fn of(said: &[Result<Said, Fault>], connected: bool) -> Self {
        let faults = || said.iter().filter_map(|said| said.as_ref().err());
        let refusal = faults().find_map(Refusal::of);
        if faults().any(breaks_connection) || (faults().next().is_some() && !connected) {
            return Self::Connection(refusal);
        }
        refusal.map_or(Self::Other, Self::Channel)
    }
}

/// The confirms of a batch; nothing where one does not come in time.
async fn confirmed(
    channel: &Channel,
    batch: &[Arc<Outgoing>],
    blocked: &watch::Sender<bool>,
) -> Option<Vec<lapin::Result<Confirmation>>> {
    let confirmed = async {
        let publish = batch.iter().map(|message| {
            channel.basic_publish(
                message.exchange.clone(),
                message.routing_key.clone(),
                mandatory(),
                &message.body,
                message.properties.clone(),
            )
        });
        let mut confirmed = Vec::with_capacity(batch.len());
        for published in join_all(publish).await {
            confirmed.push(match published {
                Ok(confirm) => confirm.await,
                Err(err) => Err(err),
            });
        }
        confirmed
    };
    let mut confirmed = std::pin::pin!(confirmed);
    loop {
        match tokio::time::timeout(OPERATION_DEADLINE, &mut confirmed).await {
            Ok(confirmed) => return Some(confirmed),
            // A blocked broker will confirm what was sent once the alarm is over; sending again would only double it.
            Err(_) if *blocked.borrow() => unblocked(blocked).await,
            Err(_) => return None,
        }
    }
}

async fn unblocked(blocked: &watch::Sender<bool>) {
    // The sender lives as long as its publisher: the wait can't fail.
    let _ = blocked.subscribe().wait_for(|blocked| !blocked).await;
}

/// What was said of each message of a batch.
fn said(
    batch: &[Arc<Outgoing>],
    confirmed: Vec<lapin::Result<Confirmation>>,
) -> Vec<Result<Said, Fault>> {
    let mut returned = Vec::new();
    let mut read = |confirmed| {
        let (said, with) = match confirmed {
            Ok(Confirmation::Ack(with)) => (Said::Kept, with),
            Ok(Confirmation::Nack(with)) => (Said::Nacked, with),
            Ok(Confirmation::NotRequested) => return Err(Fault::NoConfirms),
            Err(err) => return Err(Fault::of(&err)),
        };
        returned.extend(with.map(|returned| returned.delivery));
        Ok(said)
    };
    let said = confirmed.into_iter().map(&mut read).collect();
    judged(batch, said, &returned)
}

/// What counts, with what was returned meanwhile: a message is kept if it is certain that it did not come back.
fn judged(
    batch: &[Arc<Outgoing>],
    said: Vec<Result<Said, Fault>>,
    returned: &[Delivery],
) -> Vec<Result<Said, Fault>> {
    let is_ours = |returned| batch.iter().any(|message| message.is(returned));
    // One that is none of the batch can be any of it.
    let doubt = !returned.iter().all(is_ours);
    let came_back = |message: &Outgoing| doubt || returned.iter().any(|it| message.is(it));
    // Where a confirm is missing, so may be what it would have brought.
    let fault = said.iter().find_map(|said| said.as_ref().err()).cloned();
    let fault = fault.filter(|_| !returned.is_empty());
    let judge = |(message, said): (&Arc<Outgoing>, _)| match (said, &fault) {
        (Ok(_), _) if came_back(message) => Ok(Said::Returned),
        (Ok(_), Some(fault)) => Err(fault.clone()),
        (said, _) => said,
    };
    batch.iter().zip(said).map(judge).collect()
}

#[cfg(test)]
mod tests {
    use lapin::ErrorKind;
    use lapin::protocol::{AMQPError, AMQPErrorKind, AMQPHardError, AMQPSoftError};

    use super::*;

    fn message(key: &str, body: &str) -> Arc<Outgoing> {
        Arc::new(Outgoing {
            exchange: "answers".into(),
            routing_key: key.into(),
            properties: BasicProperties::default(),
            body: body.into(),
            shares: true,
        })
    }

    fn returned(exchange: &str, key: &str, body: &str) -> Delivery {
        Delivery::mock(0, exchange.into(), key.into(), false, body.into())
    }

    fn fault(kind: impl Into<AMQPErrorKind>) -> Fault {
        let error = AMQPError::new(kind.into(), "why".into());
        Fault::of(&ErrorKind::ProtocolError(error).into())
    }

    #[test]
    fn what_was_returned_is_known_whichever_confirm_it_came_with() {
        let batch = ["one", "two", "three"].map(|body| message("key", body));
        let lost = || Err(Fault::ChannelClosed);
        let (kept, back, no) = (Ok(Said::Kept), Ok(Said::Returned), Ok(Said::Nacked));
        for (said, returned, expected) in [
            ([&kept, &kept, &kept], vec![], [&kept, &kept, &kept]),
            ([&kept, &no, &lost()], vec![], [&kept, &no, &lost()]),
            (
                [&kept, &kept, &kept],
                vec![returned("answers", "key", "two")],
                [&kept, &back, &kept],
            ),
            (
                [&no, &kept, &kept],
                vec![
                    returned("answers", "key", "three"),
                    returned("answers", "key", "one"),
                ],
                [&back, &kept, &back],
            ),
            // The channel went before its confirm came, and with it perhaps what came back of the first: both are published again.
            (
                [&kept, &lost(), &kept],
                vec![returned("answers", "key", "three")],
                [&lost(), &lost(), &back],
            ),
            // None of ours: who knows whose.
            (
                [&kept, &no, &lost()],
                vec![returned("", "key", "two")],
                [&back, &back, &lost()],
            ),
            (
                [&kept, &kept, &kept],
                vec![returned("answers", "other", "two")],
                [&back, &back, &back],
            ),
        ] {
            let said = said.map(Clone::clone).to_vec();
            assert_eq!(
                judged(&batch, said, &returned),
                expected.map(Clone::clone),
                "{returned:?}"
            );
        }
        // Two that say the same to the same address have the same fate.
        let twins = ["same", "same"].map(|body| message("key", body));
        let said = judged(
            &twins,
            vec![kept.clone(), kept],
            &[returned("answers", "key", "same")],
        );
        assert_eq!(said, [back.clone(), back]);
    }

    #[test]
    fn what_is_lost_with_a_message_is_read_from_all_faults() {
        let (kept, gone) = (Ok(Said::Kept), Err(Fault::Lost("gone".into())));
        let too_large = Err(fault(AMQPSoftError::PRECONDITIONFAILED));
        let denied = Err(fault(AMQPSoftError::ACCESSREFUSED));
        let frame = Err(fault(AMQPHardError::FRAMEERROR));
        let refusal = |of: &Result<Said, Fault>| Refusal::of(of.as_ref().unwrap_err()).unwrap();
        for (said, connected, expected) in [
            (vec![&kept, &kept], true, Loss::Other),
            // All are confirmed: that the connection has gone since is for the next one to see.
            (vec![&kept, &kept], false, Loss::Other),
            (
                vec![&kept, &too_large],
                true,
                Loss::Channel(refusal(&too_large)),
            ),
            (
                vec![&gone, &too_large],
                true,
                Loss::Channel(refusal(&too_large)),
            ),
            (
                vec![&gone, &too_large],
                false,
                Loss::Connection(Some(refusal(&too_large))),
            ),
            (
                vec![&kept, &frame],
                true,
                Loss::Connection(Some(refusal(&frame))),
            ),
            (vec![&kept, &gone], false, Loss::Connection(None)),
            (vec![&kept, &gone], true, Loss::Other),
            (vec![&denied, &gone], true, Loss::Other),
        ] {
            let said: Vec<_> = said.into_iter().cloned().collect();
            assert_eq!(Loss::of(&said, connected), expected, "{said:?} {connected}");
        }
    }

    #[test]
    fn debug_output_names_nobody() {
        let told = format!("{:?}", message("erased.none", "user15"));
        assert!(
            told.contains("erased.none") && !told.contains("user15"),
            "{told}"
        );
    }
}
