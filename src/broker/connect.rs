//! Opening one connection to one node.
use std::sync::atomic::{AtomicU32, Ordering};

/// For those who hand one on: only `broker` names lapin.
pub use lapin::Connection;
use lapin::ConnectionProperties;
use lapin::tcp::OwnedTLSConfig;
use lapin::uri::{AMQPScheme, AMQPUri};

use super::address::BrokerAddress;
use super::greeting::greet;
use super::{BrokerError, bounded, tls, wire};
use crate::config::Amqp;

const WHAT: &str = "connecting";

/// Opens one connection to one node, for the daemon or a tool.
///
/// # Errors
/// The broker can't be reached, refuses, or does not answer in time; over TLS with what the refusal means.
pub async fn connect(
    address: &BrokerAddress,
    amqp: &Amqp,
    role: &'static str,
) -> Result<Connection, BrokerError> {
    let failed = |problem| BrokerError::Failed(WHAT, problem);
    let uri = address.uri(amqp.heartbeat);
    let secure = uri.scheme == AMQPScheme::AMQPS;
    // The greeting and the connection are given the same.
    let tls = if secure {
        amqp.tls.load().map_err(failed)?
    } else {
        OwnedTLSConfig::default()
    };
    let connection = match greet(&uri, &tls).await {
        Ok(()) => open(uri, tls, role).await,
        Err(problem) => Err(failed(problem)),
    };
    connection.map_err(|err| match err {
        BrokerError::Failed(what, text) if secure => match tls::explained(&text) {
            Some(meaning) => BrokerError::Failed(what, format!("{text}: {meaning}")),
            None => BrokerError::Failed(what, text),
        },
        err => err,
    })
}

async fn open(
    uri: AMQPUri,
    tls: OwnedTLSConfig,
    role: &'static str,
) -> Result<Connection, BrokerError> {
    let name = format!("convgroup-deleter {} {role}", env!("CARGO_PKG_VERSION"));
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    // Boxed: its way in is many kilobytes of future, and every caller would carry them.
    let connecting = Box::pin(wire::stream::connect(uri, &tls, properties));
    let connection = bounded(WHAT, connecting).await?;
    tell_frame_max(connection.configuration().frame_max());
    Ok(connection)
}

/// Tells once that the broker takes smaller frames than is usual.
fn tell_frame_max(agreed: u32) {
    static TOLD: AtomicU32 = AtomicU32::new(wire::FRAME_BYTES_MAX);
    if TOLD.swap(agreed, Ordering::Relaxed) != agreed && agreed < wire::FRAME_BYTES_MAX {
        tracing::info!(
            amqp.frame_max = agreed,
            "the broker's `frame_max` is {agreed} bytes, less than the usual {}: foreign headers of a message that take more \
             are dropped, and those of a copy that take more than half of it (`convgroup-headers-dropped` says so); nothing else changes",
            wire::FRAME_BYTES_MAX
        );
    }
}

/// Opens one connection to the first node that answers; says which one it is.
///
/// # Errors
/// None answers; the error is the first node's.
pub async fn connect_any(
    amqp: &Amqp,
    role: &'static str,
) -> Result<(Connection, BrokerAddress), BrokerError> {
    let mut first = None;
    for address in &amqp.nodes {
        match connect(address, amqp, role).await {
            Ok(connection) => return Ok((connection, address.clone())),
            Err(err) => {
                let err = BrokerError::Unreachable(address.to_string(), Box::new(err));
                first = first.or(Some(err));
            }
        }
    }
    Err(first.unwrap_or(BrokerError::Lost("no node is configured".to_owned())))
}
