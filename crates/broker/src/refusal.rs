//! What the broker answers when it does not take one message.
use std::fmt;

use lapin::ErrorKind;
use lapin::protocol::AMQPErrorKind;

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
    Reply {
        /// The AMQP reply code, such as 406.
        code: u16,
        /// The broker's words.
        text: String,
    },
    /// The client library could not write the message.
    Unwritable(String),
    /// It said no (`basic.nack`) each time.
    Nacked {
        /// The queue that did not take it.
        queue: String,
        /// How often it was tried.
        tries: u32,
    },
}

impl Refusal {
    /// The refusal in an error of the client library; nothing where the error does not speak of a message.
    pub(super) fn of(err: &lapin::Error) -> Option<Self> {
        match err.kind() {
            ErrorKind::ProtocolError(error) => {
                let code = error.get_id();
                let known = match error.kind() {
                    AMQPErrorKind::Soft(_) => OF_A_MESSAGE.contains(&code),
                    AMQPErrorKind::Hard(_) => OF_A_FRAME.contains(&code),
                };
                known.then(|| Self::Reply {
                    code,
                    text: error.get_message().to_string(),
                })
            }
            ErrorKind::SerialisationError(error) => Some(Self::Unwritable(error.to_string())),
            _ => None,
        }
    }

    /// Whether a smaller message might be taken.
    #[must_use]
    pub const fn speaks_of_the_message(&self) -> bool {
        match self {
            Self::Reply { .. } | Self::Unwritable(_) => true,
            Self::Nacked { .. } => false,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reply { code, text } => write!(f, "the broker refused a message: {code} {text}"),
            Self::Unwritable(text) => write!(f, "a message can't be written as AMQP: {text}"),
            Self::Nacked { queue, tries } => write!(
                f,
                "the broker refused {tries} times to take a message for {queue}: a length limit set by a policy is reached, or \
                 the queue has lost the majority of its members"
            ),
        }
    }
}

/// Whether this error of the client library ends the whole connection, and its reason is a message.
pub(super) fn breaks_connection(err: &lapin::Error) -> bool {
    match err.kind() {
        ErrorKind::ProtocolError(error) => {
            matches!(error.kind(), AMQPErrorKind::Hard(_)) && OF_A_FRAME.contains(&error.get_id())
        }
        ErrorKind::SerialisationError(_) => true,
        _ => false,
    }
}

/// Whether this error of the client library concerns one channel only.
pub(super) fn closes_a_channel(err: &lapin::Error) -> bool {
    match err.kind() {
        ErrorKind::ProtocolError(error) => matches!(error.kind(), AMQPErrorKind::Soft(_)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use lapin::protocol::{AMQPError, AMQPHardError, AMQPSoftError};

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
            let found = (
                Refusal::of(&err).is_some(),
                closes_a_channel(&err),
                breaks_connection(&err),
            );
            assert_eq!(found, (refused, channel, connection), "{err}");
        }
    }
}
