//! The one place where a decision takes effect at the broker.
use std::fmt;
use std::time::{Duration, Instant};

use lapin::types::ShortString;

use super::delivery::{Message, Receipt};
use super::publisher::{Publisher, To};
use super::refusal::Refusal;
use super::{BrokerError, successor};
use convgroup_domain::decide::{Decision, Destination, Successor};
use convgroup_domain::outcome::{OutcomeEvent, routing_key};
use convgroup_domain::request::Request;
use convgroup_domain::topology::Topology;
use convgroup_host::failpoint::{self, Point};

/// A step of settling that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Telling the broker that the message is done.
    Ack,
    /// Giving the message back to its queue.
    Nack,
    /// Publishing a successor.
    Publish,
    /// Publishing an answer.
    Answer,
}

impl Op {
    /// All steps.
    pub const ALL: [Self; 4] = [Self::Ack, Self::Nack, Self::Publish, Self::Answer];

    /// The name used in metrics and logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Nack => "nack",
            Self::Publish => "publish",
            Self::Answer => "answer",
        }
    }
}

/// A settle that failed: at which step, and why. The session is over; the message comes back by itself.
#[derive(Debug)]
pub struct SettleError {
    /// The step.
    pub op: Op,
    /// Why.
    pub cause: BrokerError,
}

/// A delivery whose next copy, or whose answer, the broker does not take in any form. It is still in hand.
#[derive(Debug)]
pub struct Held {
    /// Settles it later.
    pub receipt: Receipt,
    /// How many of what is to be published is confirmed: the decision's successors, then the answer.
    pub confirmed: usize,
    /// What the next one is.
    pub op: Op,
    /// Why it is not.
    pub refusal: Refusal,
}

/// Something that settling has published, or tried to.
#[derive(Clone, Copy, Debug)]
pub struct Published<'p> {
    /// Which step it was: a successor, or the answer.
    pub op: Op,
    /// The exchange; nothing for the default exchange.
    pub exchange: &'p str,
    /// The routing key; a queue's name with the default exchange.
    pub routing_key: &'p str,
    /// When it was begun.
    pub started: Instant,
    /// Until the broker had confirmed it, or had not. Of a successor that was offered in several forms it is the time of all.
    pub took: Duration,
    /// How it ended.
    pub end: PublishEnd,
}

/// How publishing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishEnd {
    /// The broker has confirmed it.
    Confirmed,
    /// The broker does not take it.
    Refused,
    /// Nobody knows.
    Unconfirmed,
}

/// Who is told of what is published.
#[derive(Clone, Copy)]
pub struct Listener<'s>(pub &'s (dyn Fn(Published<'_>) + Sync));

impl fmt::Debug for Listener<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}

/// What is done with a message.
#[derive(Clone, Copy, Debug)]
pub struct Settlement<'s> {
    /// The message.
    pub message: &'s Message,
    /// The request that it belongs to.
    pub request: &'s Request,
    /// What was decided.
    pub decision: &'s Decision,
    /// The answer, where there is one.
    pub outcome: Option<&'s OutcomeEvent>,
    /// How much of it was confirmed before, for a delivery that was [`Held`].
    pub confirmed: usize,
    /// Whether it was [`Held`].
    pub again: bool,
    /// Is told of what is published, where anybody wants to know.
    pub listener: Option<Listener<'s>>,
    /// What log lines about the message name its trace by.
    pub trace_id: Option<&'s str>,
    /// The moment that the successors say they were made at. One that is offered again says when it is offered. Unix ms.
    pub now_ms: i64,
}

impl Settlement<'_> {
    /// Tells of a publish that has ended, where anybody wants to know. `to` makes exchange and routing key.
    fn tell(
        &self,
        op: Op,
        started: Instant,
        published: &Result<(), BrokerError>,
        to: impl FnOnce() -> (String, String),
    ) {
        let Some(Listener(listener)) = self.listener else {
            return;
        };
        let (exchange, routing_key) = to();
        listener(Published {
            op,
            exchange: &exchange,
            routing_key: &routing_key,
            started,
            took: started.elapsed(),
            end: match published {
                Ok(()) => PublishEnd::Confirmed,
                Err(BrokerError::Refused(_)) => PublishEnd::Refused,
                Err(_) => PublishEnd::Unconfirmed,
            },
        });
    }
}

/// Settles a delivery: every successor is confirmed by the broker, then the answer, then the original is acked; or it is handed back.
///
/// # Errors
/// [`SettleError`]. What was confirmed before stays: the message may then be worked on twice, never not at all.
pub async fn settle(
    settlement: Settlement<'_>,
    receipt: Receipt,
    topology: &Topology,
    publisher: &Publisher,
) -> Result<Option<Held>, SettleError> {
    let failed = |op| move |cause| SettleError { op, cause };
    let successors = match settlement.decision {
        Decision::HandBack => {
            let returned = receipt.requeue().await;
            return returned.map(|()| None).map_err(failed(Op::Nack));
        }
        Decision::Ack(successors) => successors,
    };
    for (index, successor) in successors.iter().enumerate().skip(settlement.confirmed) {
        // Boxed, as below: publishing takes kilobytes, and most messages have no copy.
        let started = Instant::now();
        let offered = Box::pin(offer(settlement, successor, topology, publisher)).await;
        settlement.tell(Op::Publish, started, &offered, || {
            (String::new(), queue_of(topology, successor).to_owned())
        });
        if let Some(refusal) = refused(offered).map_err(failed(Op::Publish))? {
            return Ok(Some(Held {
                receipt,
                confirmed: index,
                op: Op::Publish,
                refusal,
            }));
        }
        failpoint::reach(match successor.to {
            Destination::Tier(_) => Point::AfterDelay,
            Destination::Dead(_) => Point::AfterDeadLetter,
        });
    }
    if let Some(outcome) = settlement.outcome {
        failpoint::reach(Point::BeforeAnswer);
        let started = Instant::now();
        let Settlement { message, again, .. } = settlement;
        let answered = Box::pin(answer(message, outcome, again, topology, publisher)).await;
        settlement.tell(Op::Answer, started, &answered, || {
            let outcomes = topology.outcomes.as_ref();
            let exchange = outcomes.map(|outcomes| outcomes.exchange.clone());
            (
                exchange.unwrap_or_default(),
                key_of(settlement.message, outcome),
            )
        });
        if let Some(refusal) = refused(answered).map_err(failed(Op::Answer))? {
            return Ok(Some(Held {
                receipt,
                confirmed: successors.len(),
                op: Op::Answer,
                refusal,
            }));
        }
        failpoint::reach(Point::AfterAnswer);
    }
    failpoint::reach(Point::BeforeAck);
    let acked = receipt.ack().await;
    failpoint::reach(Point::AfterAck);
    acked.map(|()| None).map_err(failed(Op::Ack))
}

/// What the broker refused about one message; anything else that went wrong is an error.
fn refused(published: Result<(), BrokerError>) -> Result<Option<Refusal>, BrokerError> {
    match published {
        Ok(()) => Ok(None),
        Err(BrokerError::Refused(refusal)) => Ok(Some(refusal)),
        Err(err) => Err(err),
    }
}

/// Publishes the answer to a message; alone where it was refused before.
pub(super) async fn answer(
    message: &Message,
    outcome: &OutcomeEvent,
    alone: bool,
    topology: &Topology,
    publisher: &Publisher,
) -> Result<(), BrokerError> {
    let Some(outcomes) = &topology.outcomes else {
        return Ok(());
    };
    let routing_key = key_of(message, outcome);
    let to = To::Exchange {
        name: &outcomes.exchange,
        routing_key: &routing_key,
        alone,
    };
    let properties = successor::answer(message, outcome);
    publisher.publish(to, properties, outcome.to_json()).await
}

/// The routing key of an answer.
fn key_of(message: &Message, outcome: &OutcomeEvent) -> String {
    let app_id = message.properties.app_id().as_ref();
    routing_key(outcome.data.status, app_id.map(ShortString::as_str))
}

/// Publishes a successor. Where the broker refuses it, it is offered with less, down to what names the message.
async fn offer(
    settlement: Settlement<'_>,
    successor: &Successor,
    topology: &Topology,
    publisher: &Publisher,
) -> Result<(), BrokerError> {
    let Settlement {
        message,
        request,
        now_ms,
        trace_id,
        ..
    } = settlement;
    let queue = queue_of(topology, successor);
    let mut refused = None;
    for &extent in successor::extents(successor) {
        let frame_max = publisher.frame_max();
        let copy = successor::copy(message, request, successor, extent, now_ms, frame_max);
        let Some(copy) = copy else { continue };
        let to = To::Queue(queue);
        match publisher
            .publish(to, copy.properties, copy.body.into_owned())
            .await
        {
            Ok(()) => {
                if let Some(refusal) = refused {
                    tracing::warn!(
                        message.id = message.id(),
                        trace.id = trace_id,
                        amqp.queue = queue,
                        error = %refusal,
                        left_out = extent.left_out(),
                        "the broker refused a copy as it was; a copy with less was accepted"
                    );
                }
                return Ok(());
            }
            Err(BrokerError::Refused(refusal)) if refusal.speaks_of_the_message() => {
                refused = Some(refusal);
            }
            Err(err) => return Err(err),
        }
    }
    Err(BrokerError::Refused(
        refused.unwrap_or(Refusal::HeadersTooLarge),
    ))
}

fn queue_of<'t>(topology: &'t Topology, successor: &Successor) -> &'t str {
    match successor.to {
        Destination::Tier(index) => &topology.tiers[index].name,
        Destination::Dead(_) => &topology.dead.name,
    }
}
