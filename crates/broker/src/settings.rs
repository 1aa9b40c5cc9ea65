//! What the operator sets for the broker.
use std::time::Duration;

use convgroup_domain::topology::Topology;

use crate::address::BrokerAddress;
use crate::tls::TlsFiles;

/// The broker: where, and what it is to hold.
#[derive(Clone, Debug)]
pub struct Amqp {
    /// The nodes, tried in turn; never empty. Both connections use the same list.
    pub nodes: Vec<BrokerAddress>,
    /// Messages in hand at most.
    pub prefetch: u16,
    /// Whether to declare exchange and queues, or only to verify them.
    pub declare: bool,
    /// The AMQP heartbeat.
    pub heartbeat: Duration,
    /// What `amqps://` needs besides the system's CAs.
    pub tls: TlsFiles,
    /// Names and arguments of everything at the broker.
    pub topology: Topology,
}
