//! RabbitMQ: the only room that names lapin.
//!
//! A [`session::Session`] is one life of both connections: everything that depends on them (deliveries, receipts, publishes)
//! belongs to it and dies with it. Whatever goes wrong at the broker ends the session, except that it refuses a single message
//! ([`refusal`]); the supervisor opens the next one.
//! Facts behind the shape (measured on RabbitMQ 3.10, 4.0, 4.3): a connection that publishes during a memory alarm is not read
//! any more, acks included, so consuming and publishing are apart; an unroutable publish is confirmed all the same; an ack on
//! a closed channel is no error in lapin.
pub mod address;
pub mod answers;
pub mod connect;
pub mod dead_letter;
pub mod dead_letter_queue;
pub mod declare;
pub mod delivery;
mod error;
pub mod events;
mod fault;
pub mod feed;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod greeting;
mod lane;
pub mod ledger;
pub mod life;
mod publisher;
pub mod refusal;
pub mod rehearsal;
pub mod rights;
pub mod session;
pub mod settings;
pub mod settle;
mod successor;
pub mod supervisor;
pub mod tls;
mod watch;
mod wire;

use std::future::Future;
use std::time::Duration;

use lapin::Connection;

pub use error::{BrokerError, LedgerError, TopologyError};
use fault::Fault;

/// How long one operation at the broker may take. Healthy ones take milliseconds, an election about a second, a first start of
/// a cluster's queue some more; a frozen node answers never.
pub const OPERATION_DEADLINE: Duration = Duration::from_secs(10);

/// What a missing answer means on a connection that the broker does not read.
fn told_of_alarm(err: BrokerError, publishing: &Connection) -> BrokerError {
    match err {
        BrokerError::Deadline(what) if publishing.status().blocked() => {
            BrokerError::Failed(what, Fault::Alarm)
        }
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
        Ok(Err(err)) => Err(BrokerError::Failed(what, Fault::of(&err))),
        Ok(Ok(value)) => Ok(value),
    }
}
