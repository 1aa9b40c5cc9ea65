//! Opening one connection to one node.
use std::time::Duration;

use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionBuilder, ConnectionProperties};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::address::BrokerAddress;
use super::{BrokerError, bounded};
use crate::config::Amqp;

/// How long a node may take to answer the protocol header. It is the first thing a node does.
const GREETING_DEADLINE: Duration = Duration::from_secs(5);
/// Opens one connection, for the daemon or a tool.
///
/// # Errors
/// The broker can't be reached, refuses, or does not answer in time.
pub async fn connect(uri: AMQPUri, role: &'static str) -> Result<Connection, BrokerError> {
    greet(&uri).await?;
    let name = format!("convgroup-deleter {} {role}", env!("CARGO_PKG_VERSION"));
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let builder = ConnectionBuilder::new()
        .map_err(|err| BrokerError::Failed("connecting", err.to_string()))?
        .with_uri(uri)
        .with_properties(properties);
    bounded("connecting", builder.connect()).await
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
        match connect(address.uri(amqp.heartbeat), role).await {
            Ok(connection) => return Ok((connection, address.clone())),
            Err(err) => {
                let err = BrokerError::Unreachable(address.to_string(), Box::new(err));
                first = first.or(Some(err));
            }
        }
    }
    Err(first.unwrap_or(BrokerError::Lost("no node is configured".to_owned())))
}
