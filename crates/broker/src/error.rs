//! Why something at the broker failed. The fields are for the program, the text is for the log, `/readyz` and whoever uses a tool.
use std::fmt;
use std::time::Duration;

use thiserror::Error;

use super::OPERATION_DEADLINE;
use super::fault::{BrokerLimit, Fault, Meaning, Reply};
use super::refusal::Refusal;
use convgroup_domain::topology::ROUTING_KEY;

/// Why something at the broker failed.
#[derive(Clone, Debug, Error)]
pub enum BrokerError {
    /// No answer within [`OPERATION_DEADLINE`]. The field says what was asked.
    #[error("{0} got no answer within {secs} s", secs = OPERATION_DEADLINE.as_secs())]
    Deadline(&'static str),
    /// An operation failed: which one, and why.
    #[error("{0}: {1}")]
    Failed(&'static str, Fault),
    /// No connection to a node, which is named without its password.
    #[error("{0}: {1}")]
    Unreachable(String, Box<BrokerError>),
    /// A queue or exchange is not what it has to be.
    #[error("{0}")]
    Topology(TopologyError),
    /// The user has no right to something.
    #[error("{0}")]
    Denied(Box<Denial>),
    /// A limit that an operator set at the broker is reached.
    #[error("{0}")]
    Limited(Box<LimitReached>),
    /// The broker does not take one message, for a reason that lies in the message or in its queue. The session goes on.
    #[error("{0}")]
    Refused(Refusal),
    /// The ledger of answers can't be read.
    #[error("{0}")]
    Ledger(LedgerError),
    /// Somebody else holds what is asked for.
    #[error("{0}")]
    Busy(Busy),
    /// The session ended before; why, in words.
    #[error("the session with the broker is over: {0}")]
    Lost(String),
}

impl BrokerError {
    /// The reply of the broker that made an operation fail.
    #[must_use]
    pub fn reply(&self) -> Option<&Reply> {
        match self {
            Self::Failed(_, fault) => fault.reply(),
            _ => None,
        }
    }

    /// Whether the broker refused it for want of a right.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        match self {
            Self::Denied(_) => true,
            Self::Unreachable(_, err) => err.is_denied(),
            err => err.meaning() == Some(Meaning::Denied),
        }
    }

    /// What that reply says about the thing that was asked for.
    pub(crate) fn meaning(&self) -> Option<Meaning<'_>> {
        self.reply().map(Reply::meaning)
    }

    /// The same failure as a want of this right, where the broker says so.
    pub(crate) fn or_denied(self, right: impl FnOnce() -> Right) -> Self {
        match self {
            Self::Failed(_, Fault::Reply(reply)) if reply.meaning() == Meaning::Denied => {
                Self::Denied(Box::new(Denial {
                    right: right(),
                    reply,
                    grant: None,
                }))
            }
            err => err,
        }
    }
}

/// Something at the broker that is declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// An exchange, by its name.
    Exchange(String),
    /// A queue, by its name.
    Queue(String),
    /// The stream that keeps the answers, by its name.
    Ledger(String),
    /// The binding of a queue to an exchange.
    Binding {
        /// The queue's name.
        queue: String,
        /// The exchange's name.
        exchange: String,
    },
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exchange(name) => write!(f, "exchange {name}"),
            Self::Queue(name) => write!(f, "queue {name}"),
            Self::Ledger(name) => write!(f, "ledger {name}"),
            Self::Binding { queue, exchange } => write!(f, "binding of {queue} to {exchange}"),
        }
    }
}

/// How a queue or an exchange is not what it has to be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TopologyError {
    /// It exists with other arguments.
    #[error(
        "{object} exists with other arguments than this configuration wants: {differs}. Either {remedy} and let the daemon \
         declare it anew",
        remedy = remedy(object)
    )]
    Inequivalent {
        /// What was declared.
        object: Object,
        /// The argument that differs, in the broker's words.
        differs: String,
    },
    /// It does not exist.
    #[error(
        "{object} does not exist. Set amqp.declare = true, or have somebody with the rights declare it: {reply}"
    )]
    Missing {
        /// What was asked for.
        object: Object,
        /// What the broker says.
        reply: Reply,
    },
    /// It exists, and nobody can reach it.
    #[error(
        "{object} is there, but its node is down, or has only just started: {reply}. {advice}",
        advice = of_a_node_away(object)
    )]
    Away {
        /// What was asked for.
        object: Object,
        /// What the broker says.
        reply: Reply,
    },
    /// A queue does not exist any more: a message for it came back.
    #[error(
        "queue {queue} does not exist: a message was returned; `convgroup-deleter topology apply` declares it"
    )]
    Returned {
        /// The queue's name.
        queue: String,
    },
    /// The ledger is gone, or bound no longer: an answer came back.
    #[error(
        "an answer was returned by the exchange {exchange}: its ledger is gone, or bound no longer. The next session declares and \
         binds it anew"
    )]
    LedgerUnbound {
        /// The exchange's name.
        exchange: String,
    },
    /// No queue is bound to the exchange: events came back.
    #[error(
        "exchange {exchange} has no queue bound with the routing key {ROUTING_KEY}: events were returned"
    )]
    Unbound {
        /// The exchange's name.
        exchange: String,
    },
}

/// What to do about arguments that differ.
/// What to do about an object whose node is away. A ledger can be lost for good: when a single node is killed just after it has declared
/// its first stream, RabbitMQ 3.10 and 4.0 never start that stream again (measured).
const fn of_a_node_away(object: &Object) -> &'static str {
    match object {
        Object::Ledger(_) => {
            "Bring the node back. If all nodes run and it stays so, the broker has lost it: set outcomes.ledger to another name"
        }
        Object::Exchange(_) | Object::Queue(_) | Object::Binding { .. } => {
            "`rabbitmqctl list_queues name state leader` names the node: bring it back"
        }
    }
}

fn remedy(object: &Object) -> &'static str {
    match object {
        Object::Exchange(_) => "use another amqp.exchange or outcomes.exchange, or delete it",
        Object::Queue(_) | Object::Binding { .. } => {
            "configure what is there (for the delay queues: retry.tiers), use another amqp.queue, or empty and delete it"
        }
        Object::Ledger(_) => {
            "set outcomes.ledger_max_age to the age that is there (a policy with `max-age` changes it from then on), use another \
             outcomes.ledger, or delete it, and with it all answers,"
        }
    }
}

/// What a user has to be allowed to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Right {
    /// Declare this.
    Declare(Object),
    /// Look at this queue.
    LookAt(String),
    /// Consume this queue.
    Consume(String),
    /// Publish copies, through the default exchange.
    PublishCopies,
    /// Publish answers to this exchange.
    PublishOutcomes(String),
    /// Read this ledger.
    ReadLedger(String),
}

/// A right is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Which.
    pub right: Right,
    /// What the broker says.
    pub reply: Reply,
    /// The line for a shell that grants it, and all other rights that are needed; where it is known.
    pub grant: Option<String>,
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reply = &self.reply;
        match &self.right {
            Right::Declare(object) => write!(
                f,
                "{object} may not be declared by this user. Grant the rights, or set amqp.declare = false and have somebody \
                 with the rights declare it: {reply}"
            ),
            Right::LookAt(queue) => write!(
                f,
                "queue {queue} may not be looked at by this user: since 4.2.6 RabbitMQ wants a right on it, any (4.2.6 and \
                 4.3.0: the one to configure). `convgroup-deleter topology print` has the lines that grant it: {reply}"
            ),
            Right::Consume(queue) => write!(
                f,
                "this user may not read the queue {queue}: nothing can be consumed: {reply}"
            ),
            Right::PublishOutcomes(exchange) => write!(
                f,
                "this user may not write to the exchange {exchange}, to which answers are published (outcomes.enabled); nothing is \
                 consumed without it: {reply}"
            ),
            Right::ReadLedger(ledger) => write!(
                f,
                "this user may not read the stream {ledger}, in which the answers are: {reply}"
            ),
            Right::PublishCopies => write!(
                f,
                "this user may not write to the default exchange, through which copies reach the delay queues and the dead \
                 letters; nothing is consumed without it: {reply}"
            ),
        }?;
        match &self.grant {
            Some(grant) => write!(
                f,
                ". All that is needed is granted by: {grant} (any other rights of the user in this vhost go)"
            ),
            None => Ok(()),
        }
    }
}

/// A limit that an operator set at the broker is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitReached {
    /// During which operation.
    pub what: &'static str,
    /// Which limit.
    pub limit: BrokerLimit,
    /// What the broker says.
    pub reply: Reply,
    /// The line for a shell that clears the limit.
    pub clear: String,
}

impl fmt::Display for LimitReached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}. ", self.what, self.reply)?;
        if self.limit != BrokerLimit::Queues {
            f.write_str("A daemon holds two connections at a time and a dozen channels. ")?;
        }
        let whose = match self.limit {
            BrokerLimit::UserConnections | BrokerLimit::UserChannels => "user's",
            BrokerLimit::VhostConnections | BrokerLimit::Queues => "vhost's",
        };
        write!(f, "Raise or clear the {whose} limit: {}", self.clear)
    }
}

/// Why the ledger of answers can't be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LedgerError {
    /// This configuration has none.
    #[error(
        "there is no ledger of answers: set outcomes.enabled = true, as for the daemon, and name the stream in outcomes.ledger"
    )]
    NotConfigured,
    /// It does not exist.
    #[error(
        "stream {ledger} does not exist: no answers are kept. A daemon with outcomes.enabled = true declares it, and so does \
         `convgroup-deleter topology apply`; is it named as there (outcomes.ledger), and is this its vhost? {reply}"
    )]
    Missing {
        /// Its name.
        ledger: String,
        /// What the broker says.
        reply: Reply,
    },
    /// It was deleted while it was read, or another one has its name now.
    #[error(
        "stream {ledger} was deleted while it was read: what it kept is gone. A daemon declares it anew; its next answers are in that"
    )]
    Deleted {
        /// Its name.
        ledger: String,
    },
    /// No copy of it runs on the node that was asked.
    #[error(
        "the node has no running copy of the stream {ledger}: name one that has it in amqp.url (`rabbitmq-streams stream_status` \
         says which), or add one with `rabbitmq-streams add_replica`: {reply}"
    )]
    NoReplica {
        /// Its name.
        ledger: String,
        /// What the broker says.
        reply: Reply,
    },
    /// There is something else of that name.
    #[error(
        "{ledger} is a queue and no stream: reading would take its messages away. Nothing was taken; name the ledger in \
         outcomes.ledger"
    )]
    NoStream {
        /// Its name.
        ledger: String,
    },
}

/// Why the dead letters can't be had now.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Busy {
    /// Something else reads them.
    #[error(
        "something else reads {queue} now (consumers: {consumers}), and what it holds can't be seen: another `dlq`? Try again \
         when it has ended"
    )]
    OtherReader {
        /// The queue of the dead letters.
        queue: String,
        /// How many consumers it has.
        consumers: u32,
    },
    /// Not all of them came.
    #[error(
        "only {received} of {there} letters in {queue} came within {secs} s each: the broker is too busy, or something else took \
         them. Nothing was done; try again",
        secs = patience.as_secs()
    )]
    Slow {
        /// The queue of the dead letters.
        queue: String,
        /// How many came.
        received: usize,
        /// How many there are.
        there: u32,
        /// How long each may take.
        patience: Duration,
    },
}
