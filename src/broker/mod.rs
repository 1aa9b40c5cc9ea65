//! RabbitMQ.
pub mod address;
