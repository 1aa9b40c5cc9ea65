//! What the broker answers when it does not take one message.
use std::fmt;

use super::fault::{Fault, Reply};

/// Reply codes that close a channel because of the message that was published on it: too large, or with a property that the
/// broker refuses. 403, 404 and 405 speak of rights and objects: no other message would fare better.
const OF_A_MESSAGE: [u16; 3] = [311, 313, 406];
/// Reply codes that close a whole connection because of what was sent on it. 320 (closed by an operator, or the node stops) and
/// 530 are not among them.
const OF_A_FRAME: [u16; 8] = [501, 502, 503, 504, 505, 506, 540, 541];

/// Why the broker did not take a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It closed the channel or the connection with this reply.
    Reply(Reply),
    /// The client library could not write the message: why, in its words.
    Unwritable(String),
    /// Its headers do not fit a frame, whatever is left out.
    HeadersTooLarge,
    /// It said no (`basic.nack`) each time.
    Nacked {
        /// The queue that did not take it.
        queue: String,
        /// How often it was tried.
        tries: u32,
    },
    /// It said no to an answer each time: a queue that is bound to the exchange does not take it.
    AnswerNacked {
        /// The exchange.
        exchange: String,
        /// How often it was tried.
        tries: u32,
    },
    /// An answer came back: nobody is bound to the exchange.
    Unheard {
        /// The exchange.
        exchange: String,
    },
}

impl Refusal {
    /// The refusal that a fault tells of; nothing where it does not speak of a message.
    pub(super) fn of(fault: &Fault) -> Option<Self> {
        match fault {
            Fault::Reply(reply) => {
                let known = OF_A_MESSAGE.contains(&reply.code) || OF_A_FRAME.contains(&reply.code);
                known.then(|| Self::Reply(reply.clone()))
            }
            Fault::Unwritable(text) => Some(Self::Unwritable(text.clone())),
            _ => None,
        }
    }

    /// Whether a smaller message might be taken.
    #[must_use]
    pub const fn speaks_of_the_message(&self) -> bool {
        match self {
            Self::Reply(_) | Self::Unwritable(_) | Self::HeadersTooLarge => true,
            Self::Nacked { .. } | Self::AnswerNacked { .. } | Self::Unheard { .. } => false,
        }
    }

    /// Whether no answer can be given: the next one would be refused as well.
    #[must_use]
    pub const fn concerns_all_answers(&self) -> bool {
        matches!(self, Self::AnswerNacked { .. } | Self::Unheard { .. })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reply(Reply { code, text }) => {
                write!(f, "the broker refused a message: {code} {text}")
            }
            Self::Unwritable(text) => write!(f, "a message can't be written as AMQP: {text}"),
            Self::HeadersTooLarge => {
                f.write_str("a message can't be written as AMQP: its headers do not fit a frame")
            }
            Self::AnswerNacked { exchange, tries } => write!(
                f,
                "answers can't be given: {tries} times the broker refused to take one for the exchange {exchange}. A queue that is bound to it \
                 is full with x-overflow=reject-publish, or has lost the majority of its members. Raise its limit, empty, unbind or delete it: \
                 `rabbitmqctl list_bindings` names the queues"
            ),
            Self::Unheard { exchange } => write!(
                f,
                "answers can't be given: no queue is bound to the exchange {exchange}, and an answer came back. Bind a queue to it with \
                 the routing key #, or set outcomes.ledger and let `convgroup-deleter topology apply` declare and bind it"
            ),
            Self::Nacked { queue, tries } => write!(
                f,
                "the broker refused {tries} times to take a message for {queue}: a length limit set by a policy is reached, or \
                 the queue has lost the majority of its members"
            ),
        }
    }
}

/// Whether this fault ends the whole connection, and its reason is a message.
pub(super) fn breaks_connection(fault: &Fault) -> bool {
    match fault {
        Fault::Reply(reply) => OF_A_FRAME.contains(&reply.code),
        Fault::Unwritable(_) => true,
        _ => false,
    }
}

/// Whether this fault concerns one channel only.
pub(super) fn closes_a_channel(fault: &Fault) -> bool {
    matches!(fault, Fault::Reply(reply) if reply.closes_a_channel())
}

#[cfg(test)]
mod tests {
    use lapin::ErrorKind;
    use lapin::protocol::{AMQPError, AMQPErrorKind, AMQPHardError, AMQPSoftError};

    use super::*;

    fn error(kind: impl Into<AMQPErrorKind>) -> lapin::Error {
        ErrorKind::ProtocolError(AMQPError::new(kind.into(), "why".into())).into()
    }

    #[test]
    fn a_refusal_is_known_by_its_code() {
        for (err, refused, channel, connection) in [
            (error(AMQPSoftError::PRECONDITIONFAILED), true, true, false),
            (error(AMQPSoftError::CONTENTTOOLARGE), true, true, false),
            (error(AMQPSoftError::ACCESSREFUSED), false, true, false),
            (error(AMQPSoftError::NOTFOUND), false, true, false),
            (error(AMQPHardError::FRAMEERROR), true, false, true),
            (error(AMQPHardError::INTERNALERROR), true, false, true),
            (error(AMQPHardError::CONNECTIONFORCED), false, false, false),
            (ErrorKind::MissingHeartbeatError.into(), false, false, false),
        ] {
            let fault = Fault::of(&err);
            let found = (
                Refusal::of(&fault).is_some(),
                closes_a_channel(&fault),
                breaks_connection(&fault),
            );
            assert_eq!(found, (refused, channel, connection), "{err}");
        }
    }
}
