//! The one place where a decision takes effect at the broker.
use super::delivery::{Message, Receipt};
use super::publisher::Publisher;
use super::{BrokerError, successor};
use crate::domain::decide::{Decision, Destination, Successor};
use crate::domain::message::with_groups;
use crate::domain::topology::Topology;
use crate::failpoint::{self, Point};

/// A settle that failed: at which step, and why. The session is over; the message comes back by itself.
#[derive(Debug)]
pub struct SettleError {
    /// The step, as the label of `convgroup_settle_failures_total`.
    pub op: &'static str,
    /// Why.
    pub cause: BrokerError,
}

/// Settles a delivery: every successor is confirmed by the broker, then the original is acked; or it is handed back.
///
/// # Errors
/// [`SettleError`]. Successors that were confirmed before stay: the message may then be worked on twice, never not at all.
pub async fn settle(
    message: &Message,
    receipt: Receipt,
    decision: &Decision,
    topology: &Topology,
    publisher: &Publisher,
    now_ms: i64,
) -> Result<(), SettleError> {
    match decision {
        Decision::HandBack => receipt
            .requeue()
            .await
            .map_err(|cause| SettleError { op: "nack", cause }),
        Decision::Ack(successors) => {
            for successor in successors {
                let queue = queue_of(topology, successor);
                let properties =
                    successor::properties(message, successor, now_ms, publisher.frame_max());
                let rewritten = successor
                    .groups
                    .as_ref()
                    .map(|left| with_groups(&message.body, left));
                let body = rewritten.as_ref().unwrap_or(&message.body);
                let confirmed = publisher.publish(queue, properties, body).await;
                confirmed.map_err(|cause| SettleError {
                    op: "publish",
                    cause,
                })?;
                failpoint::reach(match successor.to {
                    Destination::Tier(_) => Point::AfterDelay,
                    Destination::Dead(_) => Point::AfterDeadLetter,
                });
            }
            failpoint::reach(Point::BeforeAck);
            let acked = receipt.ack().await;
            failpoint::reach(Point::AfterAck);
            acked.map_err(|cause| SettleError { op: "ack", cause })
        }
    }
}

fn queue_of<'t>(topology: &'t Topology, successor: &Successor) -> &'t str {
    match successor.to {
        Destination::Tier(index) => &topology.tiers[index].name,
        Destination::Dead(_) => &topology.dead.name,
    }
}
