//! The program: turns RabbitMQ events "delete this user's conversation group" into calls of the Tencent Cloud Chat server API.
//!
//! *Bytes become a command, a reply becomes a verdict, verdicts become a decision, a decision becomes an effect; only the two
//! ends touch the network.* What **chooses** is pure and lives in [`convgroup_domain`]; what **does** takes the choice as its
//! argument.
//!
//! ```text
//! cli ─► daemon ─► convgroup_broker: sessions, deliveries (RabbitMQ, lapin)
//!          └─► worker ─► convgroup_domain: decode, classify, next_step, decide
//!                ├─► convgroup_chat: the call (the API, reqwest)
//!                ├─► convgroup_broker: settle
//!                └─► pace: may a call leave? ─► convgroup_chat: the probe
//! ```
//!
//! The rooms, the invariants and "to add X edit Y" are in ARCHITECTURE.md; what the daemon promises is in docs/guarantees.md.
pub mod admin;
mod answers;
pub mod cli;
pub mod config;
pub mod daemon;
mod dlq;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod log_lines;
pub mod metrics;
pub mod pace;
pub mod shutdown;
pub mod state;
pub mod status;
pub mod telemetry;
pub mod tool;
pub mod traces;
pub mod worker;
