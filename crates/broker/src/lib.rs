//! RabbitMQ: the only room that names lapin.
//!
//! A [`session::Session`] is one life of both connections: everything that depends on them (deliveries, receipts, publishes)
//! belongs to it and dies with it. Whatever goes wrong at the broker ends the session; the supervisor opens the next.
//! Facts behind the shape (measured on RabbitMQ 3.10, 4.0, 4.3): a connection that publishes during a memory alarm is not read
//! any more, acks included, so consuming and publishing are apart; an unroutable publish is confirmed all the same; an ack on
//! a closed channel is no error in lapin.
pub mod address;
pub mod connect;
pub mod declare;
pub mod delivery;
pub mod events;
pub mod feed;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod greeting;
pub mod letter;
pub mod letters;
pub mod life;
pub mod publisher;
pub mod refusal;
pub mod rehearsal;
pub mod rights;
pub mod session;
pub mod settings;
pub mod settle;
pub mod successor;
pub mod supervisor;
pub mod tls;
mod watch;
pub mod wire;

use std::future::Future;
use std::time::Duration;

use lapin::Connection;
use thiserror::Error;

use refusal::Refusal;

/// How long one operation at the broker may take. Healthy ones take milliseconds, an election about a second, a first start of
/// a cluster's queue some more; a frozen node answers never.
pub const OPERATION_DEADLINE: Duration = Duration::from_secs(10);

/// Why something at the broker failed, in words for the log and `/readyz`.
#[derive(Clone, Debug, Error)]
pub enum BrokerError {
    /// No answer within [`OPERATION_DEADLINE`].
    #[error("{0} got no answer within {secs} s", secs = OPERATION_DEADLINE.as_secs())]
    Deadline(&'static str),
    /// The broker or the client library refused.
    #[error("{0}: {1}")]
    Failed(&'static str, String),
    /// No connection to a node.
    #[error("{0}: {1}")]
    Unreachable(String, Box<BrokerError>),
    /// A queue or exchange is not what it has to be.
    #[error("{0}")]
    Topology(String),
    /// The broker does not take one message, for a reason that lies in the message or in its queue. The session goes on.
    #[error("{0}")]
    Refused(Refusal),
    /// Somebody else holds what is asked for.
    #[error("{0}")]
    Busy(String),
    /// The session ended before.
    #[error("the session with the broker is over: {0}")]
    Lost(String),
}

/// Whether the broker refused for want of a right.
fn is_refused(reply: &str) -> bool {
    reply.contains("ACCESS_REFUSED")
}

/// What a missing answer means on a connection that the broker does not read.
fn told_of_alarm(err: BrokerError, publishing: &Connection) -> BrokerError {
    match err {
        BrokerError::Deadline(what) if publishing.status().blocked() => BrokerError::Failed(
            what,
            "the broker takes no publishes now: a memory or disk alarm is on (`rabbitmq-diagnostics alarms` says which and where)"
                .to_owned(),
        ),
        err => err,
    }
}

/// Runs one operation under the deadline.
async fn bounded<T>(
    what: &'static str,
    operation: impl Future<Output = lapin::Result<T>>,
) -> Result<T, BrokerError> {
    match tokio::time::timeout(OPERATION_DEADLINE, operation).await {
        Err(_) => Err(BrokerError::Deadline(what)),
        Ok(Err(err)) => Err(BrokerError::Failed(what, err.to_string())),
        Ok(Ok(value)) => Ok(value),
    }
}
