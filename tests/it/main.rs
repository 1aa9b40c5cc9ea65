//! The integration tests: the real binary against a real RabbitMQ and a real HTTP server that misbehaves on demand.
//!
//! One crate, so that all tests share one throw-away node. Tests are grouped by the guarantee they prove (docs/guarantees.md):
//!
//! | guarantee | files |
//! |---|---|
//! | 1, nothing is lost | `crash_points` `chaos` `model` `cluster` |
//! | 2, nothing innocent is dead-lettered | `outages` `error_table` |
//! | 3, the limit holds | `pace` |
//! | 4, it always comes back | `broker_faults` `refused` |
//! | 5, everything has a bound | `main_job` `hostile` `poison` `limits` `logs` |
//! | 6, every request is answered | `answers`; also `crash_points` `chaos` `model` |
//! | what operators see | `surface` `prometheus` `traces` `signals` `secrets` `tls` |
//! | the tools | `cli` `dlq` `topology` `answers_tools` |
//! | the harness itself | `harness_works` |
#![allow(
    clippy::unwrap_used,
    clippy::float_cmp,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a panic is how a test fails; metrics are f64, counters are small whole numbers"
)]

mod ledger;
mod world;

mod answers;
mod answers_tools;
mod broker_faults;
mod chaos;
mod cli;
mod cluster;
mod crash_points;
mod dlq;
mod error_table;
mod harness_works;
mod hostile;
mod limits;
mod logs;
mod main_job;
mod model;
mod outages;
mod pace;
mod poison;
mod prometheus;
mod refused;
mod secrets;
mod signals;
mod surface;
mod tls;
mod topology;
mod traces;
