//! Opening one connection to one node.
use std::time::Duration;

use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionBuilder, ConnectionProperties};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::address::BrokerAddress;
use super::{BrokerError, bounded, tls};
use crate::config::Amqp;

/// How long a node may take to answer the protocol header. It is the first thing a node does.
const GREETING_DEADLINE: Duration = Duration::from_secs(5);

/// Opens one connection to one node, for the daemon or a tool.
///
/// # Errors
/// The broker can't be reached, refuses, or does not answer in time; over TLS with what the refusal means.
pub async fn connect(
    address: &BrokerAddress,
    amqp: &Amqp,
    role: &'static str,
) -> Result<Connection, BrokerError> {
    const WHAT: &str = "connecting";
    let uri = address.uri(amqp.heartbeat);
    greet(&uri).await?;
    let name = format!("convgroup-deleter {} {role}", env!("CARGO_PKG_VERSION"));
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let secure = uri.scheme == AMQPScheme::AMQPS;
    let mut builder = ConnectionBuilder::new()
        .map_err(|err| BrokerError::Failed(WHAT, err.to_string()))?
        .with_uri(uri)
        .with_properties(properties);
    if secure {
        let tls = amqp
            .tls
            .load()
            .map_err(|problem| BrokerError::Failed(WHAT, problem))?;
        builder = builder.with_tls_config(tls);
    }
    bounded(WHAT, builder.connect())
        .await
        .map_err(|err| match err {
            BrokerError::Failed(what, text) if secure => match tls::explained(&text) {
                Some(meaning) => BrokerError::Failed(what, format!("{text}: {meaning}")),
                None => BrokerError::Failed(what, text),
            },
            err => err,
        })
}

/// Sees whether a node answers at all. lapin gives each attempt a thread and a socket of its own and no deadline: attempts at a
/// frozen node would pile up. Over TLS only the TCP connection is tried.
async fn greet(uri: &AMQPUri) -> Result<(), BrokerError> {
    const HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";
    let greeting = async {
        let address = (uri.authority.host.as_str(), uri.authority.port);
        let mut stream = TcpStream::connect(address).await?;
        if uri.scheme == AMQPScheme::AMQP {
            stream.write_all(HEADER).await?;
            stream.read_u8().await?;
        }
        std::io::Result::Ok(())
    };
    match tokio::time::timeout(GREETING_DEADLINE, greeting).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(err)) => Err(BrokerError::Failed("connecting", err.to_string())),
        Err(_) => Err(BrokerError::Failed(
            "connecting",
            format!(
                "the node did not answer within {} s",
                GREETING_DEADLINE.as_secs()
            ),
        )),
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
