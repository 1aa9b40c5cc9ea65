//! The Chat API, seen from the client.
pub mod endpoint;
