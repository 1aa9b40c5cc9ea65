//! Opening one connection to one node.
use std::panic::{AssertUnwindSafe, resume_unwind};

use futures_util::FutureExt;
/// For those who hand one on: only `broker` names lapin.
pub use lapin::Connection;
use lapin::tcp::OwnedTLSConfig;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{ConnectionBuilder, ConnectionProperties};

use super::address::BrokerAddress;
use super::greeting::greet;
use super::{BrokerError, bounded, tls};
use crate::config::Amqp;
use crate::machine::{explained, limit_in_panic};

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
    let connecting = async {
        match greet(&uri, &tls).await {
            Ok(()) => open(uri.clone(), tls.clone(), role).await,
            Err(problem) => Err(failed(problem)),
        }
    };
    // A name is looked up on a thread of its own; where none can be started, the libraries panic.
    let connection = match AssertUnwindSafe(connecting).catch_unwind().await {
        Ok(connection) => connection,
        Err(panicked) => match limit_in_panic(&*panicked) {
            Some(limit) => Err(failed(limit.advice().to_owned())),
            None => resume_unwind(panicked),
        },
    };
    let connection = connection.map_err(|err| match err {
        BrokerError::Failed(what, text) => BrokerError::Failed(what, explained(text)),
        err => err,
    });
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
    let builder = ConnectionBuilder::new()
        .map_err(|err| BrokerError::Failed(WHAT, err.to_string()))?
        .with_uri(uri)
        .with_properties(properties)
        .with_tls_config(tls);
    bounded(WHAT, builder.connect()).await
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
