//! The one place where a decision takes effect at the broker.
use super::delivery::{Message, Receipt};
use super::publisher::Publisher;
use super::refusal::Refusal;
use super::{BrokerError, successor};
use convgroup_domain::decide::{Decision, Destination, Successor};
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
}

impl Op {
    /// All steps.
    pub const ALL: [Self; 3] = [Self::Ack, Self::Nack, Self::Publish];

    /// The name used in metrics and logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Nack => "nack",
            Self::Publish => "publish",
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

/// A delivery whose next copy the broker does not take in any form. It is still in hand.
#[derive(Debug)]
pub struct Held {
    /// Settles it later.
    pub receipt: Receipt,
    /// How many of the decision's successors are confirmed.
    pub confirmed: usize,
    /// Why the next one is not.
    pub refusal: Refusal,
}

/// Settles a delivery: every successor is confirmed by the broker, then the original is acked; or it is handed back.
///
/// `confirmed`: how many of the successors were confirmed before, for a delivery that was [`Held`]; nothing for another.
/// `now_ms`: the moment that the successors say they were made at. One that is offered again says when it is offered.
///
/// # Errors
/// [`SettleError`]. Successors that were confirmed before stay: the message may then be worked on twice, never not at all.
pub async fn settle(
    message: &Message,
    receipt: Receipt,
    decision: &Decision,
    confirmed: Option<usize>,
    topology: &Topology,
    publisher: &Publisher,
    now_ms: i64,
) -> Result<Option<Held>, SettleError> {
    let successors = match decision {
        Decision::HandBack => {
            let returned = receipt.requeue().await;
            return returned.map(|()| None).map_err(|cause| SettleError {
                op: Op::Nack,
                cause,
            });
        }
        Decision::Ack(successors) => successors,
    };
    if confirmed.is_some() {
        let renewed = publisher.renew().await;
        renewed.map_err(|cause| SettleError {
            op: Op::Publish,
            cause,
        })?;
    }
    let successors = successors.iter().enumerate();
    for (index, successor) in successors.skip(confirmed.unwrap_or(0)) {
        match offer(message, successor, topology, publisher, now_ms).await {
            Ok(()) => {}
            Err(BrokerError::Refused(refusal)) => {
                return Ok(Some(Held {
                    receipt,
                    confirmed: index,
                    refusal,
                }));
            }
            Err(cause) => {
                return Err(SettleError {
                    op: Op::Publish,
                    cause,
                });
            }
        }
        failpoint::reach(match successor.to {
            Destination::Tier(_) => Point::AfterDelay,
            Destination::Dead(_) => Point::AfterDeadLetter,
        });
    }
    failpoint::reach(Point::BeforeAck);
    let acked = receipt.ack().await;
    failpoint::reach(Point::AfterAck);
    acked
        .map(|()| None)
        .map_err(|cause| SettleError { op: Op::Ack, cause })
}

/// Publishes a successor. Where the broker refuses it, it is offered with less, down to what names the message.
async fn offer(
    message: &Message,
    successor: &Successor,
    topology: &Topology,
    publisher: &Publisher,
    now_ms: i64,
) -> Result<(), BrokerError> {
    let queue = queue_of(topology, successor);
    let mut refused = None;
    for &extent in successor::extents(successor) {
        let copy = successor::copy(message, successor, extent, now_ms, publisher.frame_max());
        let Some(copy) = copy else { continue };
        match publisher.publish(queue, copy.properties, &copy.body).await {
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
