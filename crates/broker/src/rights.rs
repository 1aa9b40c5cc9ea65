//! The rights that each user needs at the broker, and what mends a refusal.
use super::BrokerError;
use super::address::BrokerAddress;
use super::error::{Denial, LimitReached};
use super::fault::{BrokerLimit, Meaning};
use crate::settings::Amqp;
use convgroup_domain::quote::{regex, shell};
use convgroup_domain::topology::Topology;

/// Rights in one vhost, as RabbitMQ keeps them: regular expressions that the names of queues and exchanges have to match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    configure: String,
    write: String,
    read: String,
}

impl Rights {
    /// The least rights of a daemon. One that does not declare publishes copies through the default exchange and reads its main
    /// queue. Since 4.2.6 RabbitMQ wants a right, any, on a queue that is only looked at (rabbitmq-server 16085 and 16272): the
    /// one to write is harmless.
    #[must_use]
    pub fn of_daemon(topology: &Topology, declares: bool) -> Self {
        if declares {
            return Self::of_deployer(topology);
        }
        let main = regex(&topology.main.name);
        let (mut write, mut read) = (format!(r"amq\.default|{main}\..*"), main);
        if let Some(outcomes) = &topology.outcomes {
            write = format!("{write}|{}", regex(&outcomes.exchange));
        }
        if let Some(ledger) = topology.ledger() {
            read = format!("({read}|{})", regex(&ledger.name));
        }
        Self {
            configure: "^$".to_owned(),
            write: format!("^({write})$"),
            read: format!("^{read}$"),
        }
    }

    /// The least rights of whoever reads the ledger; nothing where there is none.
    #[must_use]
    pub fn of_auditor(topology: &Topology) -> Option<Self> {
        Some(Self {
            configure: "^$".to_owned(),
            write: "^$".to_owned(),
            read: format!("^{}$", regex(&topology.ledger()?.name)),
        })
    }

    /// The least rights of a publisher.
    #[must_use]
    pub fn of_publisher(topology: &Topology) -> Self {
        Self {
            configure: "^$".to_owned(),
            write: format!("^{}$", regex(&topology.exchange)),
            read: "^$".to_owned(),
        }
    }

    /// The least rights of whoever declares.
    #[must_use]
    pub fn of_deployer(topology: &Topology) -> Self {
        let exchanges: Vec<String> = topology
            .exchanges()
            .map(|exchange| regex(exchange.name))
            .collect();
        let ledger = topology.ledger();
        let ledger = ledger.map_or_else(String::new, |it| format!("|{}", regex(&it.name)));
        let names = format!(
            r"{}|{}(\..*)?{ledger}",
            exchanges.join("|"),
            regex(&topology.main.name)
        );
        Self {
            configure: format!("^({names})$"),
            write: format!(r"^({names}|amq\.default)$"),
            read: format!("^({names})$"),
        }
    }

    /// The line for a shell that gives a user these rights in a vhost, and no others there.
    #[must_use]
    pub fn line(&self, vhost: &str, user: &str) -> String {
        let Self {
            configure,
            write,
            read,
        } = self;
        let words = [vhost, user, configure, write, read].map(shell);
        format!("rabbitmqctl set_permissions -p {}", words.join(" "))
    }
}

/// What mends a refusal of one user, in lines for a shell.
#[derive(Clone, Debug)]
pub struct Remedy {
    grant: String,
    user: String,
    vhost: String,
}

impl Remedy {
    /// For the daemon that logs in with this address.
    #[must_use]
    pub fn of_daemon(address: &BrokerAddress, amqp: &Amqp) -> Self {
        Self::new(address, &Rights::of_daemon(&amqp.topology, amqp.declare))
    }

    /// For whoever reads the ledger with this address.
    #[must_use]
    pub fn of_auditor(address: &BrokerAddress, amqp: &Amqp) -> Option<Self> {
        Some(Self::new(address, &Rights::of_auditor(&amqp.topology)?))
    }

    /// For whoever declares with this address.
    #[must_use]
    pub fn of_deployer(address: &BrokerAddress, amqp: &Amqp) -> Self {
        Self::new(address, &Rights::of_deployer(&amqp.topology))
    }

    fn new(address: &BrokerAddress, rights: &Rights) -> Self {
        Self {
            grant: rights.line(address.vhost(), address.user()),
            user: shell(address.user()),
            vhost: shell(address.vhost()),
        }
    }

    /// The error, with what mends it where that is a right or a limit.
    #[must_use]
    pub fn added_to(&self, err: BrokerError) -> BrokerError {
        match err {
            BrokerError::Denied(denial) => BrokerError::Denied(Box::new(Denial {
                grant: Some(self.grant.clone()),
                ..*denial
            })),
            BrokerError::Failed(what, fault) => {
                let reply = fault.reply();
                let limit = reply.and_then(|reply| match reply.meaning() {
                    Meaning::Limit(limit) => Some((limit, reply.clone())),
                    _ => None,
                });
                match limit {
                    Some((limit, reply)) => BrokerError::Limited(Box::new(LimitReached {
                        what,
                        limit,
                        reply,
                        clear: self.clears(limit),
                    })),
                    None => BrokerError::Failed(what, fault),
                }
            }
            BrokerError::Unreachable(node, err) => {
                BrokerError::Unreachable(node, Box::new(self.added_to(*err)))
            }
            err => err,
        }
    }

    /// The line for a shell that clears a limit.
    fn clears(&self, limit: BrokerLimit) -> String {
        let (user, vhost) = (&self.user, &self.vhost);
        match limit {
            BrokerLimit::UserConnections => {
                format!("rabbitmqctl clear_user_limits {user} max-connections")
            }
            BrokerLimit::UserChannels => {
                format!("rabbitmqctl clear_user_limits {user} max-channels")
            }
            BrokerLimit::VhostConnections | BrokerLimit::Queues => {
                format!("rabbitmqctl clear_vhost_limits -p {vhost}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use expect_test::expect;

    use super::super::fault::{Fault, Reply};
    use super::*;
    use convgroup_domain::topology::Outcomes;

    #[test]
    fn names_are_escaped_for_the_expression_and_quoted_for_the_shell() {
        let topology = Topology::new("it's", "chat+delete", &[Duration::from_secs(1)]);
        let outcomes = Outcomes::new("an.swers", "led+ger", Duration::from_secs(1));
        let answering = topology.clone().with_outcomes(Some(outcomes));
        let auditor = Rights::of_auditor(&answering).unwrap();
        assert_eq!(Rights::of_auditor(&topology), None);
        let lines = [
            Rights::of_daemon(&answering, false).line("/", "daemon"),
            Rights::of_daemon(&answering, true).line("/", "daemon"),
            auditor.line("/", "auditor"),
            Rights::of_daemon(&topology, false).line("/", "daemon"),
            Rights::of_daemon(&topology, true).line("a b", "da'emon"),
            Rights::of_publisher(&topology).line("chat", "publisher"),
        ];
        expect![[r#"
            rabbitmqctl set_permissions -p / daemon '^$' '^(amq\.default|chat\+delete\..*|an\.swers)$' '^(chat\+delete|led\+ger)$'
            rabbitmqctl set_permissions -p / daemon '^(it'\''s|an\.swers|chat\+delete(\..*)?|led\+ger)$' '^(it'\''s|an\.swers|chat\+delete(\..*)?|led\+ger|amq\.default)$' '^(it'\''s|an\.swers|chat\+delete(\..*)?|led\+ger)$'
            rabbitmqctl set_permissions -p / auditor '^$' '^$' '^led\+ger$'
            rabbitmqctl set_permissions -p / daemon '^$' '^(amq\.default|chat\+delete\..*)$' '^chat\+delete$'
            rabbitmqctl set_permissions -p 'a b' 'da'\''emon' '^(it'\''s|chat\+delete(\..*)?)$' '^(it'\''s|chat\+delete(\..*)?|amq\.default)$' '^(it'\''s|chat\+delete(\..*)?)$'
            rabbitmqctl set_permissions -p chat publisher '^$' '^it'\''s$' '^$'
        "#]].assert_eq(&(lines.join("\n") + "\n"));
    }

    #[test]
    fn a_limit_is_explained_with_what_clears_it() {
        let topology = Topology::new("x", "q", &[Duration::from_secs(1)]);
        let address: BrokerAddress = "amqp://me%20too:p@h/v%27".parse().unwrap();
        let remedy = Remedy::new(&address, &Rights::of_daemon(&topology, false));
        for (reply, line) in [
            (
                "connection refused for user 'me too': user connection limit (1) is reached",
                "clear_user_limits 'me too' max-connections",
            ),
            (
                "access to vhost 'v'' refused for user 'me too': connection limit (1) is reached",
                r"clear_vhost_limits -p 'v'\'''",
            ),
            (
                "number of channels opened for user 'me too' has reached the maximum allowed user limit of (3)",
                "clear_user_limits 'me too' max-channels",
            ),
        ] {
            let (code, text) = (530, reply.to_owned());
            let err = BrokerError::Failed("connecting", Fault::Reply(Reply { code, text }));
            let err = BrokerError::Unreachable("node".to_owned(), Box::new(err));
            let told = remedy.added_to(err).to_string();
            assert!(told.contains(reply) && told.contains(line), "{told}");
        }
        let other = BrokerError::Failed("connecting", Fault::Lost("refused".to_owned()));
        assert_eq!(remedy.added_to(other).to_string(), "connecting: refused");
    }
}
