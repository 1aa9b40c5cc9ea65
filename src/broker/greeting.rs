//! The greeting: whether a node answers at all, seen before lapin connects.
//!
//! lapin gives each attempt a thread and a socket of its own and no deadline, neither for the handshake of TLS nor for what
//! follows: attempts at a node that accepts and stays silent would pile up.
use std::time::Duration;

use futures_util::{AsyncReadExt, AsyncWriteExt};
use lapin::runtime::default_runtime;
use lapin::tcp::{AMQPUriTcpExt, OwnedTLSConfig};
use lapin::uri::AMQPUri;

/// How long a node may take to answer the protocol header, name lookup, TCP and TLS included. It is the first thing a node does.
const DEADLINE: Duration = Duration::from_secs(5);
/// What a client says first.
const HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";

/// Greets a node: lapin's own way in, name lookup, TCP and TLS with the same trust and identity as the connection that follows,
/// but under a deadline; then the protocol header, which a node answers at once.
///
/// # Errors
/// What kept the node from answering, in words.
pub(super) async fn greet(uri: &AMQPUri, tls: &OwnedTLSConfig) -> Result<(), String> {
    let greeting = async {
        let runtime = default_runtime().map_err(std::io::Error::other)?;
        let mut stream = uri
            .connect_with_config_async(tls.as_ref(), &runtime)
            .await?;
        stream.write_all(HEADER).await?;
        stream.flush().await?;
        stream.read_exact(&mut [0]).await
    };
    // Boxed: its way in is many kilobytes of future, and every caller would carry them.
    match tokio::time::timeout(DEADLINE, Box::pin(greeting)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(err)) => Err(err.to_string()),
        Err(_) => Err(format!(
            "the node did not answer within {} s",
            DEADLINE.as_secs()
        )),
    }
}
