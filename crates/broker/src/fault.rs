//! What kept one operation at the broker from being done. [`Fault::of`] is the only place that reads an error of the client library.
use std::fmt;

use lapin::ErrorKind;
use lapin::protocol::AMQPErrorKind;
use thiserror::Error;

use super::greeting::GreetingError;
use super::tls::TlsError;
use convgroup_host::limits;

/// Why one operation at the broker failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// The broker closed the channel or the connection, with this reason.
    #[error("{0}")]
    Reply(Reply),
    /// The client library can't write what is to be sent as AMQP.
    #[error("failed to serialise: {0}")]
    Unwritable(String),
    /// The connection or the channel is gone, or can't be used; in the words of the client library or of the machine.
    #[error("{0}")]
    Lost(String),
    /// The broker reads nothing of this connection.
    #[error(
        "the broker takes no publishes now: a memory or disk alarm is on (`rabbitmq-diagnostics alarms` says which and where)"
    )]
    Alarm,
    /// The channel is closed: nothing was settled.
    #[error("the channel is closed")]
    ChannelClosed,
    /// The channel was never asked for confirms.
    #[error("the channel has no confirms")]
    NoConfirms,
    /// The broker answered an event by `basic.nack`.
    #[error("the broker refused an event")]
    Nacked,
    /// The node does not answer like one that speaks AMQP.
    #[error("{0}")]
    Greeting(GreetingError),
    /// A file for TLS can't be used.
    #[error("{0}")]
    Tls(TlsError),
    /// This process or this machine has no more of something.
    #[error("{advice}", advice = .0.advice())]
    Limit(limits::Limit),
    /// A fault, and what it means.
    #[error("{0}: {1}")]
    Explained(Box<Fault>, String),
}

impl Fault {
    /// The fault that an error of the client library tells of.
    pub(crate) fn of(err: &lapin::Error) -> Self {
        match err.kind() {
            ErrorKind::ProtocolError(error) => Self::Reply(Reply {
                code: error.get_id(),
                text: error.get_message().to_string(),
            }),
            ErrorKind::SerialisationError(error) => Self::Unwritable(error.to_string()),
            _ => Self::Lost(err.to_string()),
        }
    }

    /// The fault with what it means, where that is known.
    pub(crate) fn explained(self, meaning: Option<impl Into<String>>) -> Self {
        match meaning {
            Some(meaning) => Self::Explained(Box::new(self), meaning.into()),
            None => self,
        }
    }

    /// The broker's own reason, where it gave one.
    #[must_use]
    pub fn reply(&self) -> Option<&Reply> {
        match self {
            Self::Reply(reply) => Some(reply),
            Self::Explained(fault, _) => fault.reply(),
            _ => None,
        }
    }
}

/// With which reason the broker closed a channel or a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The AMQP reply code, such as 404.
    pub code: u16,
    /// The broker's words, such as `NOT_FOUND - no queue 'q' in vhost '/'`.
    pub text: String,
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match AMQPErrorKind::from_id(self.code) {
            Some(kind) => write!(f, "protocol error: {kind}: {}", self.text),
            None => write!(f, "protocol error: {} {}", self.code, self.text),
        }
    }
}

/// What a reply says about the thing that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning<'r> {
    /// The user has no right to it.
    Denied,
    /// It does not exist.
    Missing,
    /// It is there, on a node that is not, or not yet.
    Away,
    /// It exists with other arguments: which, in the broker's words.
    Inequivalent(&'r str),
    /// An argument of the request can't be used. The broker looks at the rights first: they are there.
    InvalidArgument,
    /// A limit that an operator set is reached.
    Limit(BrokerLimit),
    /// It is a stream, and the node that was asked has no copy of it that runs.
    NoReplica,
    /// None of these.
    Other,
}

/// A limit that an operator set at the broker, for a user or for a vhost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerLimit {
    /// Connections of the user.
    UserConnections,
    /// Connections to the vhost.
    VhostConnections,
    /// Channels of the user.
    UserChannels,
    /// Queues in the vhost.
    Queues,
}

impl Reply {
    const ACCESS_REFUSED: u16 = 403;
    const NOT_FOUND: u16 = 404;
    const PRECONDITION_FAILED: u16 = 406;
    const NOT_ALLOWED: u16 = 530;

    /// What it means.
    ///
    /// The code alone says it, but for three. RabbitMQ has 404 also for a queue whose node is down. It has 406 for arguments that
    /// differ, for arguments that it can't use and for a limit of queues. It has 530 for the other limits, and for a vhost that does
    /// not exist. Only its words tell these apart (those here are the same in 3.10.8 and 4.0.5, where the tests run them). No other
    /// place of this program reads them.
    pub(crate) fn meaning(&self) -> Meaning<'_> {
        let says = |words: &str| self.text.contains(words);
        match self.code {
            Self::ACCESS_REFUSED => Meaning::Denied,
            Self::NOT_FOUND if says("is down or inaccessible") => Meaning::Away,
            Self::NOT_FOUND => Meaning::Missing,
            Self::PRECONDITION_FAILED => {
                if let Some((_, differs)) = self.text.split_once("inequivalent arg") {
                    Meaning::Inequivalent(differs.trim())
                } else if says("invalid arg") || says("invalid type") {
                    Meaning::InvalidArgument
                } else if says("queue limit") {
                    Meaning::Limit(BrokerLimit::Queues)
                } else if says("replica on the local node") {
                    Meaning::NoReplica
                } else {
                    Meaning::Other
                }
            }
            Self::NOT_ALLOWED => {
                if says("user connection limit") {
                    Meaning::Limit(BrokerLimit::UserConnections)
                } else if says("connection limit") {
                    Meaning::Limit(BrokerLimit::VhostConnections)
                } else if says("number of channels opened") {
                    Meaning::Limit(BrokerLimit::UserChannels)
                } else {
                    Meaning::Other
                }
            }
            _ => Meaning::Other,
        }
    }

    /// Whether it closes one channel only; any other closes the connection.
    pub(crate) fn closes_a_channel(&self) -> bool {
        matches!(
            AMQPErrorKind::from_id(self.code),
            Some(AMQPErrorKind::Soft(_))
        )
    }
}

#[cfg(test)]
mod tests {
    use lapin::protocol::{AMQPError, AMQPHardError, AMQPSoftError};

    use super::*;

    #[test]
    fn a_reply_is_told_as_the_client_library_tells_it() {
        for kind in [
            AMQPErrorKind::from(AMQPSoftError::NOTFOUND),
            AMQPErrorKind::from(AMQPSoftError::PRECONDITIONFAILED),
            AMQPErrorKind::from(AMQPHardError::NOTALLOWED),
        ] {
            let err =
                lapin::Error::from(ErrorKind::ProtocolError(AMQPError::new(kind, "why".into())));
            assert_eq!(Fault::of(&err).to_string(), err.to_string());
        }
        let err = lapin::Error::from(ErrorKind::MissingHeartbeatError);
        assert_eq!(Fault::of(&err), Fault::Lost(err.to_string()));
    }

    #[test]
    fn a_code_with_several_meanings_is_told_apart_by_its_words() {
        for (code, text, meaning) in [
            (
                403,
                "ACCESS_REFUSED - access to queue 'NOT_FOUND' refused",
                Meaning::Denied,
            ),
            (
                404,
                "NOT_FOUND - no queue 'ACCESS_REFUSED' in vhost '/'",
                Meaning::Missing,
            ),
            (
                406,
                "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q'",
                Meaning::Inequivalent("'durable' for queue 'q'"),
            ),
            (
                406,
                "PRECONDITION_FAILED - invalid arg 'x-expires' for queue 'q' in vhost '/': {unacceptable_type,longstr}",
                Meaning::InvalidArgument,
            ),
            (
                406,
                "PRECONDITION_FAILED - invalid type 'bool' for arg 'alternate-exchange' in exchange 'e' in vhost '/'",
                Meaning::InvalidArgument,
            ),
            (
                406,
                "PRECONDITION_FAILED - cannot declare queue 'q': queue limit in vhost '/' (1) is reached",
                Meaning::Limit(BrokerLimit::Queues),
            ),
            (
                406,
                "PRECONDITION_FAILED - queue 'queue 'q' in vhost '/'' does not have a replica on the local node",
                Meaning::NoReplica,
            ),
            (
                406,
                "PRECONDITION_FAILED - stream queue 'q' in vhost '/' does not have a running replica on the local node",
                Meaning::NoReplica,
            ),
            (
                406,
                "PRECONDITION_FAILED - unknown delivery tag 9",
                Meaning::Other,
            ),
            (
                404,
                "NOT_FOUND - no queue 'q' in vhost '/'",
                Meaning::Missing,
            ),
            (
                404,
                "NOT_FOUND - home node 'rabbit@a' of durable queue 'q' in vhost '/' is down or inaccessible",
                Meaning::Away,
            ),
            (530, "NOT_ALLOWED - vhost nowhere not found", Meaning::Other),
            (541, "INTERNAL_ERROR", Meaning::Other),
        ] {
            let text = text.to_owned();
            assert_eq!(
                Reply {
                    code,
                    text: text.clone()
                }
                .meaning(),
                meaning,
                "{text}"
            );
        }
    }
}
