//! The one place where a decision takes effect at the broker.
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
    /// The moment that the successors say they were made at. One that is offered again says when it is offered. Unix ms.
    pub now_ms: i64,
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
        let offered = Box::pin(offer(settlement, successor, topology, publisher));
        if let Some(refusal) = refused(offered.await).map_err(failed(Op::Publish))? {
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
        let answered = Box::pin(answer(settlement.message, outcome, topology, publisher));
        if let Some(refusal) = refused(answered.await).map_err(failed(Op::Answer))? {
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

/// Publishes the answer to a message.
pub(super) async fn answer(
    message: &Message,
    outcome: &OutcomeEvent,
    topology: &Topology,
    publisher: &Publisher,
) -> Result<(), BrokerError> {
    let Some(outcomes) = &topology.outcomes else {
        return Ok(());
    };
    let app_id = message.properties.app_id().as_ref();
    let routing_key = routing_key(outcome.data.status, app_id.map(ShortString::as_str));
    let to = To::Exchange {
        name: &outcomes.exchange,
        routing_key: &routing_key,
    };
    let properties = successor::answer(message, outcome);
    publisher.publish(to, properties, &outcome.to_json()).await
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
        ..
    } = settlement;
    let queue = queue_of(topology, successor);
    let mut refused = None;
    for &extent in successor::extents(successor) {
        let frame_max = publisher.frame_max();
        let copy = successor::copy(message, request, successor, extent, now_ms, frame_max);
        let Some(copy) = copy else { continue };
        let to = To::Queue(queue);
        match publisher.publish(to, copy.properties, &copy.body).await {
            Ok(()) => {
                if let Some(refusal) = refused {
                    tracing::warn!(
                        message.id = message.id(),
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
