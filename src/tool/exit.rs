//! Exit codes, and failures that know theirs.
use std::process::ExitCode;

use crate::config::ConfigError;
use convgroup_broker::{BrokerError, LedgerError, TopologyError};

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Done,
    /// 1: anything that has no code of its own.
    Other,
    /// 64: wrong usage (sysexits `EX_USAGE`).
    Usage,
    /// 69: a service is unavailable (sysexits `EX_UNAVAILABLE`).
    Unavailable,
    /// 78: wrong configuration (sysexits `EX_CONFIG`).
    Config,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Other => 1,
            Exit::Usage => 64,
            Exit::Unavailable => 69,
            Exit::Config => 78,
        })
    }
}

/// An error for a person, with the exit code it means.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What happened, what it means, what to do.
    pub error: anyhow::Error,
}

impl Failure {
    /// A failure with this exit code.
    #[must_use]
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self {
            exit,
            error: error.into(),
        }
    }

    /// The same failure, with what it met.
    #[must_use]
    pub fn context(self, what: String) -> Self {
        Self {
            error: self.error.context(what),
            ..self
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Config, error)
    }
}

impl From<BrokerError> for Failure {
    fn from(error: BrokerError) -> Self {
        Self::new(exit_of(&error), error)
    }
}

fn exit_of(error: &BrokerError) -> Exit {
    match error {
        BrokerError::Topology(TopologyError::Away { .. })
        | BrokerError::Deadline(_)
        | BrokerError::Failed(..)
        | BrokerError::Busy(_)
        | BrokerError::Lost(_) => Exit::Unavailable,
        BrokerError::Topology(_)
        | BrokerError::Denied(_)
        | BrokerError::Limited(_)
        | BrokerError::Refused(_) => Exit::Other,
        BrokerError::Unreachable(_, error) => exit_of(error),
        BrokerError::Ledger(error) => match error {
            LedgerError::NotConfigured => Exit::Config,
            LedgerError::NoReplica { .. } => Exit::Unavailable,
            LedgerError::Missing { .. }
            | LedgerError::Deleted { .. }
            | LedgerError::NoStream { .. } => Exit::Other,
        },
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self {
            exit: Exit::Other,
            error,
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Exit::Other, error)
    }
}
