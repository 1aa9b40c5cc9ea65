//! Turns RabbitMQ events "delete this user's conversation group" into calls of the Tencent Cloud Chat server API.
pub mod admin;
pub mod broker;
pub mod chat;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod domain;
pub mod failpoint;
pub mod intervals;
pub mod metrics;
pub mod pace;
pub mod sandbox;
pub mod shutdown;
pub mod status;
pub mod telemetry;
pub mod worker;
