//! Turns RabbitMQ events "delete this user's conversation group" into calls of the Tencent Cloud Chat server API.
pub mod broker;
pub mod chat;
pub mod config;
pub mod domain;
pub mod intervals;
pub mod metrics;
pub mod pace;
