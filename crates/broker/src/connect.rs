//! Opening one connection to one node.
use std::io;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::FutureExt;
use futures_util::io::{AsyncRead, AsyncWrite};
use lapin::tcp::{AsyncTcpStream, RustlsConnector};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties};

use super::address::BrokerAddress;
use super::fault::{Fault, Meaning, Reply};
use super::greeting::greet;
use super::{BrokerError, OPERATION_DEADLINE, tls, wire};
use crate::settings::Amqp;
use convgroup_host::limits::{advice, limit_in_panic};
use convgroup_host::trust::Peer;

const WHAT: &str = "connecting";
/// What a refused login means: RabbitMQ says no more, so that nobody learns which users there are.
const LOGIN_REFUSED: &str = "user or password in amqp.url is wrong (or this user may not log in from here: `guest` may only from the \
                             broker's own machine)";
/// Frame bound of a connection that only consumes, in bytes. A copy can carry headers of half of [`wire::FRAME_BYTES_MAX`]; the 16 KiB
/// more are for headers that a copy leaves out. The filter drops what is larger, as the copy would. With this bound lapin's buffers
/// for the connection take 5 MiB; with the full one they would take 8.
const CONSUME_FRAME_BYTES: u32 = wire::FRAME_BYTES_MAX / 2 + 16 * 1024;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The daemon's that gets messages and settles them.
    Consume,
    /// The daemon's that sends copies.
    Publish,
    /// Sends events.
    Feed,
    /// Reads dead letters.
    ReadLetters,
    /// Sends dead letters back.
    PublishLetters,
    /// Tries what the daemon will do.
    Check,
    /// Declares, or compares, queues and exchange.
    Topology,
    /// Reads the ledger of answers.
    ReadLedger,
}

impl Role {
    /// Its name at the broker, in the log and as the label `role` of metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Consume => "consume",
            Self::Publish => "publish",
            Self::Feed => "feed",
            Self::ReadLetters => "dead letters",
            Self::PublishLetters => "dead letters, publish",
            Self::Check => "check",
            Self::Topology => "topology",
            Self::ReadLedger => "ledger",
        }
    }

    /// The largest frame it asks for, in bytes. Headers of a copy have to fit half of it.
    fn frame_bytes_max(self) -> u32 {
        match self {
            Self::Consume => CONSUME_FRAME_BYTES,
            _ => wire::FRAME_BYTES_MAX,
        }
    }
}

/// Opens one connection to one node, for the daemon or a tool.
///
/// # Errors
/// The broker can't be reached, refuses, or does not answer in time; over TLS with what the refusal means.
pub(crate) async fn connect(
    address: &BrokerAddress,
    amqp: &Amqp,
    role: Role,
) -> Result<Connection, BrokerError> {
    let uri = address.uri(amqp.heartbeat, role.frame_bytes_max());
    let tls = if uri.scheme == AMQPScheme::AMQPS {
        let config = amqp.tls.load();
        let config = config.map_err(|error| BrokerError::Failed(WHAT, Fault::Tls(error)))?;
        Some(Tls {
            connector: config.into(),
            peer: amqp.tls.peer(),
        })
    } else {
        None
    };
    let connecting = async {
        // The greeting and the connection are given the same.
        let greeted = greet(&uri, tls.as_ref()).await;
        greeted.map_err(|fault| BrokerError::Failed(WHAT, fault))?;
        open(uri, tls, role).await
    };
    // A name is looked up on a thread of its own; where none can be started, the libraries panic.
    let connection = match AssertUnwindSafe(connecting).catch_unwind().await {
        Ok(connection) => connection,
        Err(panicked) => match limit_in_panic(&*panicked) {
            Some(limit) => Err(BrokerError::Failed(WHAT, Fault::Limit(limit))),
            None => resume_unwind(panicked),
        },
    };
    connection.map_err(|err| match err {
        BrokerError::Failed(what, fault) => {
            let advice = advice(&fault.to_string());
            BrokerError::Failed(what, fault.explained(advice))
        }
        err => err,
    })
}

/// How a connection over TLS is made, and what is said when it fails.
#[derive(Clone)]
pub(super) struct Tls {
    connector: RustlsConnector,
    pub(super) peer: Peer,
}

async fn open(uri: AMQPUri, tls: Option<Tls>, role: Role) -> Result<Connection, BrokerError> {
    let peer = tls.as_ref().map(|tls| tls.peer);
    let failed = |err: lapin::Error| {
        let fault = Fault::of(&err);
        let meaning = match fault.reply().map(Reply::meaning) {
            Some(Meaning::Denied) => Some(LOGIN_REFUSED.to_owned()),
            _ => peer.and_then(|peer| tls::meaning(&err, peer)),
        };
        BrokerError::Failed(WHAT, fault.explained(meaning))
    };
    let name = format!(
        "convgroup-deleter {} {}",
        env!("CARGO_PKG_VERSION"),
        role.label()
    );
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    // Boxed: its way in is many kilobytes of future, and every caller would carry them.
    let connecting = Box::pin(wire::stream::connect(uri, tls, properties));
    match tokio::time::timeout(OPERATION_DEADLINE, connecting).await {
        Err(_) => Err(BrokerError::Deadline(WHAT)),
        Ok(Err(err)) => Err(failed(err)),
        Ok(Ok(connection)) => {
            tell_frame_max(connection.configuration().frame_max(), role);
            Ok(connection)
        }
    }
}

/// A node's address as one without TLS: lapin connects to it, and TLS comes after that, by [`secured`]. lapin's own would need the
/// CAs of the machine even where `amqp.tls.ca_file` is all that is needed.
pub(super) fn plain(uri: &AMQPUri) -> AMQPUri {
    AMQPUri {
        scheme: AMQPScheme::AMQP,
        ..uri.clone()
    }
}

/// A connection with TLS, where it is wanted.
///
/// # Errors
/// What kept it from being made.
pub(super) async fn secured<S>(
    stream: AsyncTcpStream<S>,
    uri: &AMQPUri,
    tls: Option<&Tls>,
) -> io::Result<AsyncTcpStream<S>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    match tls {
        Some(tls) => {
            stream
                .into_rustls(&tls.connector, &uri.authority.host)
                .await
        }
        None => Ok(stream),
    }
}

/// Tells once that the broker takes smaller frames than is usual.
fn tell_frame_max(agreed: u32, role: Role) {
    static TOLD: AtomicU32 = AtomicU32::new(wire::FRAME_BYTES_MAX);
    if agreed < role.frame_bytes_max() && TOLD.swap(agreed, Ordering::Relaxed) != agreed {
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
pub(crate) async fn connect_any(
    amqp: &Amqp,
    role: Role,
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
